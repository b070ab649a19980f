"""Nulls: the value of a condition that stands for none, and rows that hold it.

A row without its condition still has a place in the tensor of the condition, so it holds a value
that cannot be meant: the *null*, an integer that is no class, or NaN where the condition is made of
numbers. A network says by an attribute ``nulls``, a mapping of names to values, which one it takes
for none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .tensor import expand_time, signed_integers

__all__ = [
    "Null",
    "check_null",
    "constant_rows",
    "is_null",
    "null_rows",
    "nulls_of",
    "same_null",
    "with_nulls",
]

Null = int | float


def nulls_of(networks: Iterable[Any]) -> dict[str, Null]:
    """The nulls on which networks agree, by name of the condition.

    Raises:
        TypeError: if a network's attribute is no mapping of names to an integer or NaN.
        ValueError: if two networks take other values for none.
    """
    found: dict[str, Null] | None = None
    for net in networks:
        own = getattr(net, "nulls", None)
        own = {} if own is None else own
        who = type(net).__name__
        if not isinstance(own, Mapping):
            raise TypeError(
                f"the attribute nulls of the network {who} is a {type(own).__name__}; it maps names"
                " of conditions to the value that stands for none: nulls = {'label': -1}"
            )
        own = {name: check_null(name, value, who) for name, value in own.items()}
        if found is None:
            found = own
            continue
        for name in found.keys() & own.keys():
            if not same_null(found[name], own[name]):
                raise ValueError(
                    f"the networks of a pair take {found[name]} and {own[name]} for no {name!r};"
                    " give both the same null"
                )
        found = {name: value for name, value in found.items() if name in own}
    return found or {}


def check_null(name: Any, value: Any, who: str) -> Null:
    """A null, an integer or the one NaN that equals itself; all else is refused."""
    integer = isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(name, str) or not (integer or (type(value) is float and math.isnan(value))):
        raise TypeError(
            f"the network {who} says that {value!r} stands for no {name!r}; a null is an integer"
            " (for labels), or float('nan') (for numbers)"
        )
    return math.nan if isinstance(value, float) else value


def same_null(a: Null | None, b: Null | None) -> bool:
    """Whether two nulls are one; NaN is NaN here."""
    return a == b or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)


def is_null(value: Tensor, null: Null) -> Tensor:
    """Which rows are null, ``(n,)`` booleans."""
    if isinstance(null, float):
        same = value.isnan() if value.is_floating_point() else torch.zeros_like(value).bool()
    else:
        # Not ``==`` alone: the bits of -1 are those of 255 in uint8, and equal to it for torch.
        same = value == null if _holds(value.dtype, null) else torch.zeros_like(value).bool()
    return same.flatten(1).all(1) if value.ndim > 1 else same


def with_nulls(value: Tensor, rows: Tensor, null: Null, dtype: torch.dtype) -> Tensor:
    """A condition whose rows ``rows`` ``(n,)`` are null, in int64 where its dtype has no such null.

    Args:
        value: ``(n, *)``.
        rows: booleans.
        null: what stands for none.
        dtype: of booleans, which have no NaN, once some are null.
    """
    if isinstance(null, float) and value.dtype == torch.bool:
        value = value.to(dtype)
    value = signed_integers(value)
    if not _holds(value.dtype, null):
        value = value.long()
    return value.masked_fill(expand_time(rows, value), null)


def constant_rows(like: Tensor, value: Any, numbers: torch.dtype) -> Tensor:
    """One number in the shape, and if it can hold it in the dtype, of a condition.

    Args:
        like: the condition.
        value: the number.
        numbers: dtype of NaN in the place of booleans, which have none.
    """
    dtype = like.dtype if _holds(like.dtype, value) else torch.int64
    if like.dtype == torch.bool and value != value:
        dtype = numbers
    return torch.full(like.shape, value, dtype=dtype, device=like.device)


def _holds(dtype: torch.dtype, value: Any) -> bool:
    """Whether numbers of a dtype can be this one; only integers in integers are asked about."""
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool or type(value) is not int:
        return True
    limits = torch.iinfo(dtype)
    return bool(limits.min <= value <= limits.max)


def null_rows(n: int, shape: Iterable[int | None], null: Null, like: Tensor) -> Tensor:
    """The null for n rows, ``(n, *shape)``, with 1 for lengths that are free.

    Args:
        n: number of rows.
        shape: of one row.
        null: what stands for none.
        like: of the dtype for numbers, and the device.
    """
    sizes = [1 if size is None else size for size in shape]
    dtype = like.dtype if isinstance(null, float) else torch.int64
    return torch.full((n, *sizes), null, dtype=dtype, device=like.device)
