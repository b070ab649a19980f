"""The ambient generators, from which user code draws: torch's on the CPU, numpy's, Python's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "ambient",
    "ambient_from",
    "ambient_to",
    "get_ambient",
    "seed_ambient",
    "set_ambient",
]


@contextmanager
def ambient() -> Iterator[None]:
    """Give the generators of torch (CPU), numpy and Python back as they were."""
    state = get_ambient()
    try:
        yield
    finally:
        set_ambient(state)


def get_ambient() -> tuple[Tensor, Any, Any]:
    """Their states."""
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def set_ambient(state: tuple[Tensor, Any, Any]) -> None:
    """Put them into states."""
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    random.setstate(state[2])


def seed_ambient(seed: int) -> None:
    """Seed all three."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def ambient_to(state: tuple[Tensor, Any, Any]) -> dict[str, Any]:
    """As values that a file can hold."""
    name, words, place, has_gauss, gauss = state[1]
    return {
        "torch": state[0],
        "numpy": [name, words.tolist(), place, has_gauss, gauss],
        "python": state[2],
    }


def ambient_from(saved: dict[str, Any]) -> tuple[Tensor, Any, Any]:
    """The states that :func:`ambient_to` gave."""
    name, words, place, has_gauss, gauss = saved["numpy"]
    words = np.array(words, dtype=np.uint32)
    return saved["torch"], (name, words, place, has_gauss, gauss), saved["python"]
