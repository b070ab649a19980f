"""How the prediction of a flow map changes with its times and its state: forward mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.autodiff import jvp
from .._core.conditions import map_rows
from .._core.tensor import expand_time, own_dtype
from .flow_map import FlowMap

__all__ = ["along", "check_time_derivative", "no_forward_mode", "value_and_change"]

_STEP = 1e-2  # of central differences


def along(
    field: FlowMap,
    s: Tensor,
    t: Tensor,
    x: Tensor,
    cond: Mapping[str, Any],
    ds: Tensor,
    dt: Tensor,
    dx: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``v_{s,t}(x)``, its change along ``(ds, dt, dx)``, and the weight of the prediction in it."""

    def moved(step: Tensor) -> Tensor:
        y = x if dx is None else x + expand_time(step, x) * dx
        v, _ = field.between(s + step * ds, t + step * dt, y, cond)
        return v

    try:
        v, change = jvp(moved, torch.zeros_like(s), torch.ones_like(s))
    except (NotImplementedError, RuntimeError) as error:
        found = no_forward_mode(error, "this loss", "take SemigroupLoss, which needs no derivative")
        raise found from error
    return v, change, field.weight(s, t)


def value_and_change(
    field: FlowMap,
    s: Tensor,
    t: Tensor,
    x: Tensor,
    cond: Mapping[str, Any],
    direction: tuple[Tensor, Tensor, Tensor | None],
    gradients: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``v_{s,t}(x)``, of which gradients are recorded, and its change along a direction.

    Where the network has a hook ``with_tangent`` (:class:`TwoTimes` around an MLP does), both are
    made in one pass by that; else in forward mode.

    Args:
        field: the map.
        s: times of x, ``(B,)``.
        t: times to go to, ``(B,)``.
        x: states.
        cond: conditions.
        direction: ``(ds, dt, dx)``; None for a dx of 0.
        gradients: whether those of the change are recorded too.

    Returns:
        Both, and the weight of the prediction in v.
    """
    ds, dt, dx = direction
    hook = getattr(field.net, "with_tangent", None)
    plain = type(field) is FlowMap and field.prediction == "velocity" and not field.cond_transforms
    plain = plain and not torch.is_autocast_enabled(x.device.type)
    if hook is not None and plain and own_dtype(field.net) == x.dtype:
        along_x = torch.zeros_like(x) if dx is None else dx
        found = hook(s, t, x, ds, dt, along_x, gradients=gradients, **cond)
        if found is not None:
            return found[0], found[1], None
    if gradients:
        return along(field, s, t, x, cond, ds, dt, dx)
    v, weight = field.between(s, t, x, cond)
    with torch.no_grad():
        _, change, _ = along(field, s, t, x, cond, ds, dt, dx)
    return v, change, weight


@torch.no_grad()
def check_time_derivative(
    field: FlowMap, s: Tensor, t: Tensor, x: Tensor, cond: Mapping[str, Any], which: str
) -> None:
    """Refuse a network in which a time is a number or an index, so that its derivative is wrong.

    Compares the derivative with central differences, on a few rows, where these have converged: a
    half of their step changes them by less than a tenth.

    Args:
        field: the map.
        s: times of x, ``(B,)``.
        t: times to go to, ``(B,)``.
        x: states.
        cond: conditions.
        which: ``"s"`` or ``"t"``.

    Raises:
        ValueError: if the prediction changes with the time, and its derivative is zero, or off by
            more than a half.
    """
    few = min(len(x), 8)
    s, t, x = s[:few], t[:few], x[:few]
    cond = map_rows(cond, lambda rows: rows[:few])
    one = torch.ones_like(s)
    ds, dt = (one, 0 * one) if which == "s" else (0 * one, one)
    h = _STEP
    s, t = (s.clamp(h, 1 - h), t) if which == "s" else (s, t.clamp(h, 1 - h))
    value, change, _ = along(field, s, t, x, cond, ds, dt, None)

    def difference(h: float) -> Tensor:
        low, high = (field.between(s + k * ds, t + k * dt, x, cond)[0] for k in (-h, h))
        return (high - low) / (2 * h)

    coarse, fine = difference(h), difference(h / 2)
    size = float(fine.square().mean().sqrt())
    off, moves = (float((fine - w).square().mean().sqrt()) for w in (change, coarse))
    zero = float(change.abs().max()) < 1e-6 * size
    wrong = zero or (off > 0.5 * size and moves < 0.1 * size)
    if size > 1e-3 * float(value.square().mean().sqrt()) and wrong:
        told = "zero" if zero else f"off by {off:.3g}"
        raise ValueError(
            f"the prediction of the network changes with {which}, by {size:.3g} in a unit of time,"
            f" and its derivative is {told}: the time is made a number (float(t), t.item()), an"
            " index of a table or a detached tensor on its way. Keep it a tensor throughout, or"
            " take SemigroupLoss, which needs no derivative"
        )


def no_forward_mode(error: Exception, who: str, otherwise: str) -> Exception:
    """What to raise where a network has no forward-mode derivative; the error itself elsewhere.

    Args:
        error: what torch raised.
        who: takes the derivative.
        otherwise: what to do without one.
    """
    text = str(error)
    what = f"the network cannot be differentiated in forward mode, by which {who} goes"
    what = f"{what} ({text.splitlines()[0][:120]}); "
    if "forward AD" in text or "forward-mode" in text:
        return RuntimeError(
            f"{what}where it is attention, write torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
            f" around the call, or {otherwise}"
        )
    if "checkpoint" in text or "setup_context" in text:
        return RuntimeError(f"{what}switch activation checkpointing off, or {otherwise}")
    if "in-place" in text and "captured" in text:
        return RuntimeError(
            f"{what}BatchNorm in train mode writes its statistics: take GroupNorm or LayerNorm, put"
            f" it in eval mode before a Trainer is made, or {otherwise}"
        )
    return error
