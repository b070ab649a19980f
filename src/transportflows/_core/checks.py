"""Bad tensors are refused here: what was given, why it cannot be, what to write instead.

Rows, states, times, and what users' functions return. Checks of single values, numbers and words,
are in :mod:`transportflows._core.arguments`, and can be had from here as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arguments import (
    check_callable,
    choice,
    device_of,
    dtype_of,
    floating_dtype,
    generator_of,
    integer,
    names,
    number,
    positive_integer,
    positive_number,
    shown,
)

__all__ = [
    "check_callable",
    "check_events",
    "check_finite_rows",
    "check_gradient",
    "check_same_kind",
    "check_state",
    "choice",
    "device_of",
    "dtype_of",
    "event_shape",
    "floating_dtype",
    "generator_of",
    "integer",
    "names",
    "number",
    "per_time",
    "plain_tensor",
    "positive_integer",
    "positive_number",
    "returned",
    "shown",
    "step_numbers",
    "unit_times",
]


def step_numbers(save_at: Sequence[int] | None, steps: int) -> list[int]:
    """The numbers of steps after which to save, none if None; refuse what lies outside."""
    what = f"numbers of steps in 0 .. {steps}"
    if save_at is None:
        return []
    if isinstance(save_at, str) or not hasattr(save_at, "__iter__"):
        raise TypeError(f"save_at holds {what}, got {shown(save_at)}; write save_at=[{steps}]")
    return [integer("save_at", k, f"{what} in each place", least=0, most=steps) for k in save_at]


def returned(
    name: str, value: Any, shape: Sequence[int] | None, like: Tensor | None = None,
    *, broadcast: bool = False,
) -> Tensor:  # fmt: skip
    """What a user's function returned, if it is a real tensor of this shape (on this device).

    Args:
        name: of the function and its arguments, for the message: ``"score(x)"``.
        value: what it returned.
        shape: what it must be of; None for any.
        like: a tensor whose device it must be on.
        broadcast: whether shapes that broadcast to it will do.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must return a tensor, got {shown(value)}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must return floating-point numbers, got {shown(value)}")
    if shape is not None and value.shape != tuple(shape):
        wanted = tuple(shape)
        if not (broadcast and _broadcasts(value.shape, wanted)):
            raise ValueError(f"{name} must return shape {wanted}, got {tuple(value.shape)}")
    if like is not None and value.device != like.device and value.ndim > 0:
        raise ValueError(f"{name} is on {value.device}, and its argument on {like.device}")
    return value


def event_shape(name: str, value: Any) -> torch.Size:
    """The shape of an event, ``(2,)`` or ``(3, 8, 8)``; one number is a shape of one dimension."""
    given = (value,) if isinstance(value, (int, np.integer)) else value
    if isinstance(given, (str, Tensor)) or not isinstance(given, Iterable):
        raise TypeError(f"{name} is a shape such as (2,) or (3, 8, 8), got {shown(value)}")
    sizes = [integer(name, size, "of sizes of at least 1", least=1) for size in given]
    if not sizes:
        raise ValueError(f"{name} is an empty shape; write (1,) for scalars")
    return torch.Size(sizes)


def check_events(x: Tensor, shape: torch.Size | None, name: str, whose: str) -> None:
    """Refuse rows of another event shape, which would be broadcast; None for any shape."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {shown(x)}")
    if shape is not None and x.shape[1:] != shape:
        raise ValueError(
            f"{name} is {tuple(x.shape)}, and the events of {whose} have shape {tuple(shape)}; give"
            f" rows (B, {', '.join(map(str, shape))})"
        )


def per_time(name: str, value: Any, t: Tensor) -> Tensor:
    """What a user's function of times gave: a real number for each time, or one for all.

    Args:
        name: of the function and its argument, for the message: ``"epsilon(t)"``.
        value: what it gave.
        t: the times.
    """
    if not isinstance(value, (Tensor, float, int, np.generic)):
        raise TypeError(f"{name} must give a tensor of the shape of its times, got {shown(value)}")
    found = torch.as_tensor(value)
    if found.is_complex():
        raise TypeError(
            f"{name} must give real numbers, got {found.dtype}; write value.real, or value.abs()"
        )
    if found.shape not in (t.shape, torch.Size()):
        raise ValueError(
            f"{name} must give one number for each time, {tuple(t.shape)}, and it gave"
            f" {tuple(found.shape)}"
        )
    return found


def _broadcasts(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all(a in (1, b) for a, b in pairs)


def plain_tensor(name: str, value: Any) -> Tensor:
    """A dense real tensor that holds numbers; lists, arrays and other kinds are refused."""
    if not isinstance(value, Tensor):
        many = isinstance(value, (list, tuple, np.ndarray, float, int, np.generic))
        cure = f"; write torch.as_tensor({name.rpartition(' ')[2]})" if many else ""
        raise TypeError(f"{name} must be a tensor, got {shown(value)}{cure}")
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        kind = "meta" if value.is_meta else "quantized" if value.is_quantized else "sparse"
        cure = {"sparse": f"{name}.to_dense()", "quantized": f"{name}.dequantize()"}.get(kind, "")
        raise TypeError(
            f"{name} must be a dense tensor of numbers, got a {kind} one {tuple(value.shape)}"
            + (f"; write {cure}" if cure else "")
        )
    if value.is_complex():
        raise TypeError(
            f"{name} must be real, got {value.dtype}; write torch.view_as_real({name}).flatten(-2)"
        )
    return value


def unit_times(name: str, t: Tensor) -> Tensor:
    """Times, if they lie in [0, 1]. Reads a value from the device: once a call, never in a loop."""
    if t.numel() > 0 and not bool(((t >= 0) & (t <= 1)).all()):
        low, high = float(t.min()), float(t.max())
        raise ValueError(f"{name} must lie in [0, 1], got values from {low:g} to {high:g}")
    return t


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
    for name, value in (("x", x), ("t", t)):
        if not value.is_floating_point():
            cure = f"{name}.real" if value.is_complex() else f"{name}.float()"
            raise TypeError(
                f"{name} must be of a floating-point dtype, got {value.dtype}; write {cure}"
            )
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
        cure = f"torch.view_as_real({name}).flatten(-2)" if x.is_complex() else ".float()"
        raise TypeError(f"{name} must be of a floating-point dtype, got {x.dtype}; write {cure}")
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


def check_gradient(name: str, value: Tensor, gradient: Tensor) -> None:
    """Refuse a user's function of states that is not finite, or a gradient of it that is NaN.

    It waits for a device.

    Args:
        name: of the function.
        value: what it gave, ``(B,)``.
        gradient: of its sum, ``(B, *)``.

    Raises:
        ValueError: if one of them holds NaN, or the value is infinite.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(gradient)
    if wrapped or torch.compiler.is_compiling():
        return
    bad = gradient.isnan().flatten(1).any(1)
    if bool(bad.any() | value.isnan().any()):
        which = f"gradient of the {name}" if bool(bad.any()) else name
        rows = f" in {int(bad.sum())} of {len(bad)} rows" if bool(bad.any()) else ""
        raise ValueError(
            f"the {which} is NaN{rows}; a root or a logarithm at 0, or of negative numbers, does"
            " that: write x.clamp(min=1e-6).sqrt(), and torch.where on what goes into it, not on"
            " what comes out"
        )
    infinite = value.isinf()
    if bool(infinite.any()):
        raise ValueError(
            f"the {name} is {float(value[infinite][0]):g} in {int(infinite.sum())} of {len(value)}"
            " rows, where it has no gradient: nothing is led out of there, nor weighed; write a"
            " smooth one, for x[:, 0] > 1 -t * softplus(20 * (1 - x[:, 0])) with softplus of"
            " torch.nn.functional, or sample without it and keep the rows that are wanted"
        )
