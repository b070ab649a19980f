"""Derivatives: in time forward-mode, for interpolants; in space along directions, for fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .tensor import sum_events

__all__ = ["PROBE_LAWS", "Directional", "draw_probes", "repeat_rows", "time_derivative"]

PROBE_LAWS = ("rademacher", "gaussian", "sphere")


def time_derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Return ``df/dt`` at ``t`` for a function that acts on each time by itself.

    ``f`` maps a tensor of times to a tensor whose entries depend on one time each, so one
    Jacobian-vector product with ones gives the derivative. It is itself differentiable, so
    parameters inside ``f`` receive gradients, unless under ``no_grad`` or ``inference_mode``.
    """
    if torch.is_inference_mode_enabled():
        # There torch.func.jvp is silently 0 from torch 2.4 to 2.10, so the mode is left for it.
        with torch.inference_mode(False), torch.no_grad():
            return time_derivative(f, t.clone())
    if t.is_inference():
        t = t.clone()
    t = t.contiguous()  # an expanded time cannot carry tangents
    derivative: Tensor = torch.func.jvp(f, (t,), (torch.ones_like(t),))[1]
    return derivative


class Directional:
    """Quadratic forms ``z · (∂f) z`` of a function of independent rows, in forward mode.

    Rows are repeated once for each direction, so that any network of independent rows serves and
    no graph is kept; what has no forward derivative is done in reverse mode from then on.

    Args:
        graph: whether the result of the reverse mode is to be differentiated again. That of the
            forward mode always can be.
    """

    def __init__(self, *, graph: bool = False) -> None:
        self.graph = graph
        self.forward_mode = True

    def forms(
        self, f: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Values ``(b, *)`` at x ``(b, *)``, and forms ``(b, k)`` along directions ``(k, b, *)``.

        Args:
            f: maps ``(k b, *)``, x repeated k times, to the same shape.
            x: where.
            directions: None for all unit vectors, whose forms add up to the divergence.
        """
        b = len(x)
        if directions is None:
            d = x[0].numel()
            eye = torch.eye(d, dtype=x.dtype, device=x.device)
            directions = eye.unsqueeze(1).expand(d, b, d).reshape(d, *x.shape)
        k = len(directions)
        along = directions.flatten(0, 1)
        value, change = self._along(f, repeat_rows(x, k), along)
        return value[:b], sum_events(change * along).view(k, b).mT

    def _along(
        self, f: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``f(x)`` and a vector w with ``w · z = z · (∂f) z`` for each direction z."""
        if self.forward_mode:
            try:
                value, change = torch.func.jvp(f, (x,), (directions,))  # type: ignore[misc]
                return value, change
            except (NotImplementedError, RuntimeError):
                # An operation without a forward derivative; another error comes again below.
                self.forward_mode = False
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            value = f(x)
            (pulled,) = torch.autograd.grad(value, x, directions, create_graph=self.graph)
        return (value, pulled) if self.graph else (value.detach(), pulled)


def repeat_rows(value: Any, k: int) -> Any:
    """The rows of a tensor k times over; what is no tensor with rows stays as it is."""
    if not isinstance(value, Tensor) or value.ndim == 0 or k == 1:
        return value
    return value.repeat(k, *(1,) * (value.ndim - 1))


def draw_probes(
    law: str,
    shape: Sequence[int],
    *,
    generator: torch.Generator | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Random directions z of shape ``(k, b, *)`` with ``E z zᵀ = Id`` on each event.

    Args:
        law: ``"rademacher"`` (signs), ``"gaussian"`` or ``"sphere"`` (of radius √d).
        shape: k, b and the event.
        generator: on ``device``.
        dtype: of the directions.
        device: of the directions.
    """
    if law == "rademacher":
        signs = torch.randint(0, 2, shape, generator=generator, device=device)
        return signs.to(dtype).mul_(2).sub_(1)
    z = torch.randn(shape, generator=generator, dtype=dtype, device=device)
    if law == "gaussian":
        return z
    flat = z.flatten(2)
    length = torch.linalg.vector_norm(flat, dim=2, keepdim=True) / math.sqrt(flat.shape[2])
    unit: Tensor = (flat / length).view(z.shape)
    return unit
