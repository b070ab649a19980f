"""What all threads of a process share: torch's global generators, and the networks they call.

Numbers are the same in any number of threads, or a second one is refused. *Global generators*, from
which layers such as dropout and a user's data draw, are lent to one thread at a time; others wait
for their turn. *Networks* are read by any number of threads, each of which finds them in evaluation
mode until the last has left; who changes one, its weights or its mode, must be alone with it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

__all__ = ["GENERATORS", "Turns", "kept_generators", "reading", "writing"]

_PATIENCE = 600.0  # seconds


class Turns:
    """Something that one thread has at a time; others get it in the order in which they came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._owner: int | None = None
        self._depth = 0

    @property
    def wanted(self) -> bool:
        """Whether others wait."""
        return bool(self._waiting)

    def __enter__(self) -> Turns:
        me, ticket = threading.get_ident(), object()
        with self._changed:
            if self._owner != me:
                self._waiting.append(ticket)
                try:
                    if not self._changed.wait_for(lambda: self._free(ticket), _PATIENCE):
                        raise RuntimeError(
                            "torch's global generators have been lent to a fit in another thread"
                            f" for {_PATIENCE:g} s, and this thread waits for them to draw weights,"
                            " or a law that takes no generator. If that fit waits for this thread,"
                            " make what it needs before it begins"
                        )
                finally:
                    self._waiting.remove(ticket)
                    self._changed.notify_all()
                self._owner = me
            self._depth += 1
        return self

    def _free(self, ticket: object) -> bool:
        return self._owner is None and self._waiting[0] is ticket

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._depth -= 1
            if self._depth == 0:
                self._owner = None
                self._changed.notify_all()


GENERATORS = Turns()
"""The turn at torch's global generators, and those of numpy and Python."""

if hasattr(os, "register_at_fork"):  # a child lacks the thread whose turn it may be
    os.register_at_fork(after_in_child=GENERATORS.__init__)  # type: ignore[misc]


@contextmanager
def kept_generators(*, everywhere: bool = True) -> Iterator[None]:
    """Draw from torch's global generators, or seed them; afterwards they are as they were.

    Args:
        everywhere: those of all devices, or the one of the CPU.
    """
    with GENERATORS, torch.random.fork_rng(devices=None if everywhere else []):
        yield


@dataclass
class _Use:
    """Who uses a module now: threads, each with how often it entered."""

    was: bool = False  # the mode that it goes back to when the last reader leaves
    readers: dict[int, int] = field(default_factory=dict)
    writer: int | None = None
    depth: int = 0


_LOCK = threading.Lock()
_USES: WeakKeyDictionary[nn.Module, _Use] = WeakKeyDictionary()


@contextmanager
def reading(networks: Iterable[Any], me: int | None = None) -> Iterator[None]:
    """Have networks in evaluation mode; when the last reader leaves they are as they were.

    ``me`` is the thread on whose behalf, the one that calls by default.

    Raises:
        RuntimeError: if another thread writes to one of them.
    """
    held, me = _modules(networks), threading.get_ident() if me is None else me
    with _LOCK:
        uses = [_USES.get(module) for module in held]
        if any(use is not None and use.writer not in (None, me) for use in uses):
            raise RuntimeError(
                "a network is trained in another thread, or has its averages in place there: what"
                " is computed with it here would hang on the moment. Wait for that thread, or give"
                " this one a copy from before: copy.deepcopy(field)"
            )
        before = [module.training for module in held]
        for module in held:
            use = _USES.setdefault(module, _Use())
            if not use.readers:
                use.was = module.training
            use.readers[me] = use.readers.get(me, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _LOCK:
            for module, mode in zip(held, before, strict=True):
                use = _USES[module]
                use.readers[me] -= 1
                if use.readers[me] == 0:
                    del use.readers[me]
                if not use.readers:
                    module.training = use.was
                elif use.readers.keys() == {me}:  # inside a use of its own
                    module.training = mode
                _forget(module, use)


@contextmanager
def writing(networks: Iterable[Any]) -> Iterator[None]:
    """Be the only thread that uses networks; their mode is the caller's to change and put back.

    Raises:
        RuntimeError: if another thread reads one of them, or writes to it.
    """
    held, me = _modules(networks), threading.get_ident()
    with _LOCK:
        uses = [use for module in held if (use := _USES.get(module)) is not None]
        if any(use.writer not in (None, me) or use.readers.keys() - {me} for use in uses):
            raise RuntimeError(
                "a network that is to be trained here, or to get its averages, is in use in another"
                " thread, whose numbers would change on the way. Wait for that thread, or give it a"
                " copy: copy.deepcopy(field)"
            )
        for module in held:
            use = _USES.setdefault(module, _Use())
            use.writer, use.depth = me, use.depth + 1
    try:
        yield
    finally:
        with _LOCK:
            for module in held:
                use = _USES[module]
                use.depth -= 1
                use.writer = me if use.depth else None
                _forget(module, use)


def _modules(networks: Iterable[Any]) -> list[nn.Module]:
    """All modules in networks, each once; a network that is a plain function has none."""
    found: dict[nn.Module, None] = {}
    for net in networks:
        if isinstance(net, nn.Module):
            _gather(net, found)
    return list(found)


def _gather(module: nn.Module, found: dict[nn.Module, None]) -> None:
    """A module and those in it, in the order of ``module.modules()``, which is slower."""
    if module not in found:
        found[module] = None
        for child in module._modules.values():
            if child is not None:
                _gather(child, found)


def _forget(module: nn.Module, use: _Use) -> None:
    if not use.readers and use.writer is None:
        del _USES[module]
