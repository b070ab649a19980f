"""Bad input is refused here: what was given, why it cannot be, what to write instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "check_finite_rows",
    "check_same_kind",
    "check_state",
    "names",
    "positive_integer",
    "positive_number",
    "step_numbers",
]


def names(options: object) -> str:
    """Spell a collection of names for a message: ``'a', 'b', 'c'``."""
    return ", ".join(repr(option) for option in options)  # type: ignore[attr-defined]


def positive_integer(name: str, value: Any) -> int:
    """The value as an integer of at least 1; refuse what is none."""
    try:
        good = not isinstance(value, bool) and int(value) == value and value >= 1
    except (TypeError, ValueError, OverflowError):  # of a word, of NaN, of infinity
        good = False
    if not good:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return int(value)


def positive_number(name: str, value: float) -> float:
    """The value as a float; refuse what is not positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value:g}")
    return float(value)


def step_numbers(save_at: Sequence[int] | None, steps: int) -> list[int]:
    """The numbers of steps after which to save, none if None; refuse what lies outside."""
    given = [] if save_at is None else list(save_at)
    if any(not (0 <= k <= steps and int(k) == k) for k in given):
        raise ValueError(f"save_at holds numbers of steps in 0 .. {steps}, got {given}")
    return [int(k) for k in given]


def check_state(t: Tensor, x: Tensor) -> None:
    """Refuse a time and a state that do not belong together.

    Raises:
        TypeError: if either is not a tensor, or ``x`` is not of a floating-point dtype.
        ValueError: if ``t`` is neither ``()`` nor ``(B,)`` or ``x`` is not ``(B, *)`` with at
            least two dimensions, which is also how swapped arguments show.
    """
    if not isinstance(t, Tensor) or not isinstance(x, Tensor):
        given = f"{type(t).__name__} and {type(x).__name__}"
        raise TypeError(
            f"time and state must be tensors, got {given}; write torch.tensor(0.5) for one time"
        )
    if x.ndim < 2 or t.ndim > 1:
        hint = (
            "they look swapped: the order is (t, x), time first"
            if t.ndim >= 2 and x.ndim <= 1
            else "t is () or (B,), x is (B, *) with at least 2 dimensions;"
            " write x.unsqueeze(-1) for scalar data"
        )
        raise ValueError(f"got t of shape {tuple(t.shape)} and x of shape {tuple(x.shape)}; {hint}")
    if t.ndim == 1 and t.shape[0] != x.shape[0]:
        raise ValueError(
            f"got {t.shape[0]} times for {x.shape[0]} states (t {tuple(t.shape)}, x"
            f" {tuple(x.shape)}); give one time, of shape (), or one for each row of x"
        )
    if not x.is_floating_point():
        raise TypeError(f"x must be of a floating-point dtype, got {x.dtype}; write x.float()")
    if t.device != x.device and t.ndim > 0:
        raise ValueError(f"t is on {t.device} and x on {x.device}; write t.to(x.device)")


def check_same_kind(a: Tensor, b: Tensor, a_name: str, b_name: str) -> None:
    """Refuse two tensors whose dtype or device differ."""
    if a.dtype != b.dtype:
        raise ValueError(
            f"{a_name} is {a.dtype} and {b_name} is {b.dtype}; write {a_name}.to({b.dtype})"
        )
    if a.device != b.device:
        raise ValueError(
            f"{a_name} is on {a.device} and {b_name} on {b.device};"
            f" write {a_name}.to({str(b.device)!r})"
        )


def check_finite_rows(x: Tensor, name: str) -> None:
    """Refuse data with no rows, of no floating-point dtype, or with NaN or infinite entries.

    Reads a value from the device: for use before a loop, never inside one.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}; use torch.as_tensor")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be of a floating-point dtype, got {x.dtype}; write .float()")
    if x.ndim < 2:
        raise ValueError(
            f"{name} must be (N, *) with at least 2 dimensions, got shape {tuple(x.shape)};"
            " write x.unsqueeze(-1) for scalar data"
        )
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: its shape is {tuple(x.shape)}; give at least one row")
    if torch.isfinite(x.sum()):  # a finite sum has finite terms, and costs one pass
        return
    bad = (~torch.isfinite(x)).flatten(1).any(1).nonzero().flatten()
    if bad.numel() > 0:
        shown = ", ".join(str(int(row)) for row in bad[:5])
        more = ", ..." if bad.numel() > 5 else ""
        raise ValueError(
            f"{name} holds NaN or infinite values in {bad.numel()} of {x.shape[0]} rows"
            f" (rows {shown}{more}); drop them: x[torch.isfinite(x).flatten(1).all(1)]"
        )
