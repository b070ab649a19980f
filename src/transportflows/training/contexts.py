"""What is changed while a run goes on, and given back as it was found."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from .._core.shared import GENERATORS, writing
from ..fields.base import Field
from .ema import EMA

__all__ = ["BorrowedGenerator", "HeldInterrupts", "at_end", "mode", "swapped"]


class HeldInterrupts:
    """Holds Ctrl-C back while ``held`` is true, so that it never falls into half a step.

    Only where it can: in the main thread, and where somebody handles the signal.
    """

    def __init__(self) -> None:
        self.held = False
        self._waiting = False

    def __enter__(self) -> HeldInterrupts:
        self._handler: Any = None
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._handler = handler
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self.held = False
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.held:
            self._waiting = True
        else:
            self._handler(number, frame)

    def release(self) -> None:
        """Hold nothing back any more; what came meanwhile comes now."""
        self.held = False
        if self._waiting:
            self._waiting = False
            self._handler(signal.SIGINT, None)


@contextmanager
def swapped(ema: EMA | None) -> Iterator[None]:
    """With the averages, if there are any, in the place of the parameters."""
    if ema is None:
        yield
    else:
        with ema.swap():
            yield


@contextmanager
def mode(field: Field, training: bool) -> Iterator[None]:
    """Put a field in train or eval mode, and each of its modules back as it was.

    Where the field is in train mode already, a part of it that is not was put in eval mode on
    purpose, and stays there.
    """
    with writing(field.networks):
        flags = [(module, module.training) for module in field.modules()]
        try:
            if training != field.training:
                field.train(training)
            yield
        finally:
            for module, flag in flags:
                module.training = flag


class BorrowedGenerator:
    """Torch's own generator of a device, from which layers draw, for as long as nobody waits.

    It is given back in the state in which it was. One thread has it at a time.

    Args:
        device: of the networks.
    """

    def __init__(self, device: torch.device) -> None:
        self._generator: torch.Generator | None = None  # of other devices none can be had
        if device.type == "cpu":
            self._generator = torch.default_generator
        elif device.type == "cuda":
            self._generator = torch.cuda.default_generators[device.index or 0]

    def __enter__(self) -> BorrowedGenerator:
        GENERATORS.__enter__()
        self._state = None if self._generator is None else self._generator.get_state()
        return self

    def __exit__(self, *_: object) -> None:
        if self._generator is not None and self._state is not None:
            self._generator.set_state(self._state)
        GENERATORS.__exit__()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let others have it while this thread waits for one of them; it must be seeded after."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def manual_seed(self, seed: int) -> None:
        """Seed it, after those who wait have had their turn."""
        if GENERATORS.wanted:
            self.__exit__()
            self.__enter__()
        if self._generator is not None:
            self._generator.manual_seed(seed)


def at_end(work: Callable[[], None], what: str) -> Callable[..., bool]:
    """Something to do at the end, whose error hides none that ended the steps."""

    def leave(kind: Any, error: BaseException | None, trace: Any) -> bool:
        try:
            work()
        except Exception as problem:
            if error is None:
                raise
            warnings.warn(
                f"{what} failed too ({type(problem).__name__}: {problem}), after what ended the"
                f" fit: {type(error).__name__}",
                stacklevel=2,
            )
        return False

    return leave
