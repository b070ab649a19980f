"""What is changed while a run goes on, and given back as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .._random import stream
from .ema import EMA

__all__ = ["borrowed_generator", "mode", "swapped"]


@contextmanager
def swapped(ema: EMA | None) -> Iterator[None]:
    """With the averages, if there are any, in the place of the parameters."""
    if ema is None:
        yield
    else:
        with ema.swap():
            yield


@contextmanager
def mode(field: nn.Module, training: bool) -> Iterator[None]:
    """Put a field in train or eval mode, and each of its modules back as it was.

    Where the field is in train mode already, a part of it that is not was put in eval mode on
    purpose, and stays there.
    """
    flags = [(module, module.training) for module in field.modules()]
    try:
        if training != field.training:
            field.train(training)
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def borrowed_generator(device: torch.device) -> Iterator[torch.Generator]:
    """Lend torch's own generator of a device, given back in the state in which it was."""
    if device.type == "cpu":
        generator = torch.default_generator
    elif device.type == "cuda":
        generator = torch.cuda.default_generators[device.index or 0]
    else:
        yield stream(0, device=device)
        return
    state = generator.get_state()
    try:
        yield generator
    finally:
        generator.set_state(state)
