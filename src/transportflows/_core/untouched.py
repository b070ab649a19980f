"""Functions of a user's that must leave the tensors they are given as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["WRITES", "out_of_inference_mode", "untouched"]

WRITES = (
    "{} writes into its arguments, which the solve or the loss goes on to use; write"
    " t = t * 1000 for t *= 1000, and no inplace=True on x"
)


def untouched(function: Callable[..., Any], *given: Tensor, **cond: Any) -> Any:
    """``function(*given, **cond)``, refused if it writes into what it is given.

    Writes that torch does not count are not seen: those through ``tensor.data`` or numpy.

    Raises:
        ValueError: if it does.
    """
    versions = [x._version for x in given if not x.is_inference()]
    made = function(*given, **cond)
    if [x._version for x in given if not x.is_inference()] != versions:
        name = getattr(function, "__name__", type(function).__name__)
        raise ValueError(WRITES.format(f"the function {name}"))
    return made


@contextmanager
def out_of_inference_mode() -> Iterator[None]:
    """Make tensors whose writes are counted, under ``inference_mode`` too; no graph there."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield
