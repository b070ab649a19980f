"""Where a flow map takes a state, and the determinant of its Jacobian there, by columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.autodiff import jvp, ordinary, repeat_rows
from .._core.conditions import map_rows
from .._core.precision import wide
from ..solve.rows import default_chunk
from .between import moved
from .exact import SolvedMap
from .flow_map import FlowMap

__all__ = ["all_columns", "jump_and_log_det", "jump_function", "jump_rows"]


def jump_rows(
    field: FlowMap, s: float | Tensor, t: float | Tensor, x: Tensor, cond: Mapping[str, Any]
) -> Tensor:
    """``X_{s,t}(x)`` of many rows, in chunks that fit the cache or the card; cond is checked."""
    s, t = (torch.as_tensor(u, dtype=x.dtype, device=x.device) for u in (s, t))
    parts = []
    size = default_chunk(field.networks, x)
    for first in range(0, len(x), size):
        rows = slice(first, first + size)
        own = map_rows(cond, lambda value, rows=rows: value[rows])
        a, b = (u if u.ndim == 0 else u[rows] for u in (s, t))
        parts.append(moved(a, b, x[rows], field.between(a, b, x[rows], own)[0]))
    return torch.cat(parts)


def jump_function(
    field: FlowMap, s: Tensor, t: Tensor, cond: Mapping[str, Any], times: int
) -> Callable[[Tensor], Tensor]:
    """``X_{s,t}`` of rows that are repeated so often, unchecked.

    Args:
        field: the map.
        s: time of the states, ``()``.
        t: time to go to, ``()``.
        cond: conditions of the rows before they are repeated.
        times: how often.
    """
    wide_cond = map_rows(cond, lambda value: repeat_rows(value, times))

    def jump(x: Tensor) -> Tensor:
        moved: Tensor = x + (t - s) * field.between(s, t, x, wide_cond)[0]
        return moved

    return jump


def all_columns(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """``f(x)`` and its Jacobian, ``(b, d, d)``, for a function of independent rows.

    Rows are repeated once for each of d directions. In forward mode; in reverse mode, by rows of
    the Jacobian, where an operation has no forward derivative.

    Args:
        f: maps ``(d b, *)``, x repeated d times, to the same shape.
        x: where, ``(b, *)``.
    """
    b, d = len(x), x.shape[1:].numel()
    eye = torch.eye(d, dtype=x.dtype, device=x.device)
    units = eye.unsqueeze(1).expand(d, b, d).reshape(d * b, *x.shape[1:])
    try:
        value, change = jvp(f, repeat_rows(x, d), units)
        jacobian = change.view(d, b, d).permute(1, 2, 0)
    except (NotImplementedError, RuntimeError):  # another error comes again below
        with torch.inference_mode(False), torch.enable_grad():
            many = repeat_rows(ordinary(x), d).detach().requires_grad_()
            value = f(many)
            (change,) = torch.autograd.grad(value, many, ordinary(units))
        value, jacobian = value.detach(), change.view(d, b, d).permute(1, 0, 2)
    return value[:b], jacobian


def jump_and_log_det(
    field: FlowMap,
    s: Tensor,
    t: Tensor,
    x: Tensor,
    cond: Mapping[str, Any],
    chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``X_{s,t}(x)``, the sign of ``det ∇X``, and ``log |det ∇X|``, in chunks of memory.

    Of a solved map the determinant is that of its ODE; of others it is that of d columns.

    Args:
        field: the map.
        s: time of x, ``()``.
        t: time to go to, ``()``.
        x: states, ``(n, *)``.
        cond: checked conditions.
        chunk: rows in a call, the repeated ones counted; chosen if None.
    """
    if isinstance(field, SolvedMap):
        v, log_det = field.solved(s, t, x, cond, "divergence")
        return x + (t - s) * v, torch.ones_like(log_det), log_det
    d = x.shape[1:].numel()
    size = max(1, (chunk or default_chunk(field.networks, x)) // d)
    parts = []
    for rows in torch.split(torch.arange(len(x), device=x.device), size):
        own = map_rows(cond, lambda value, rows=rows: value[rows])
        value, jacobian = all_columns(jump_function(field, s, t, own, d), x[rows])
        sign, log_det = torch.linalg.slogdet(wide(jacobian))
        parts.append((value, sign.to(x), log_det.to(x)))
    moved, signs, log_dets = (torch.cat(column) for column in zip(*parts, strict=True))
    return moved, signs, log_dets
