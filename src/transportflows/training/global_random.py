"""The global random generators, from which user code draws: those of torch (CPU), numpy and Python.

An augmentation in a user's dataset calls ``torch.rand``, ``np.random`` or ``random`` and cannot be
handed a generator. To make what it draws a function of the key of the run, the library seeds all
three before it asks the dataset for something, and puts back what was there before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core.shared import GENERATORS

__all__ = [
    "from_storable",
    "get_states",
    "preserved_states",
    "seed_all",
    "set_states",
    "to_storable",
]

States = tuple[Tensor, Any, Any]


@contextmanager
def preserved_states() -> Iterator[None]:
    """Put the three generators back, at the end, into the states that they are in now.

    Meanwhile no other thread of the library has them.
    """
    with GENERATORS:
        states = get_states()
        try:
            yield
        finally:
            set_states(states)


def get_states() -> States:
    """The states of torch's, numpy's and Python's generator."""
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def set_states(states: States) -> None:
    """Put the generators into states from :func:`get_states`."""
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])


def seed_all(seed: int) -> None:
    """Seed all three."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def to_storable(states: States) -> dict[str, Any]:
    """States as tensors, lists and numbers, which a checkpoint can hold."""
    name, words, place, has_gauss, gauss = states[1]
    return {
        "torch": states[0],
        "numpy": [name, words.tolist(), place, has_gauss, gauss],
        "python": states[2],
    }


def from_storable(stored: dict[str, Any]) -> States:
    """The states that :func:`to_storable` was given."""
    name, words, place, has_gauss, gauss = stored["numpy"]
    words = np.array(words, dtype=np.uint32)
    return stored["torch"], (name, words, place, has_gauss, gauss), stored["python"]
