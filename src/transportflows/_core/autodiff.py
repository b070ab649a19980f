"""Derivatives: in time forward-mode, for interpolants; in space along directions, for fields."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .tensor import sum_events

__all__ = [
    "PROBE_LAWS",
    "Directional",
    "differentiable_gradient",
    "draw_probes",
    "jvp",
    "none_of",
    "ordinary",
    "pullback",
    "repeat_rows",
    "time_derivative",
    "tracked",
    "value_and_gradient",
]

PROBE_LAWS = ("rademacher", "gaussian", "sphere")


# A level of forward-mode autodiff is one for the whole process in torch: two that overlap in time
# take each other's tangents away, without an error. So only one thread at a time is in one.
_LEVEL = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child must not find the level of a thread that it lacks
    os.register_at_fork(
        before=_LEVEL.acquire, after_in_parent=_LEVEL.release, after_in_child=_LEVEL.release
    )


def jvp(f: Callable[[Tensor], Tensor], x: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``f(x)`` and ``(∂f) v``, in forward mode; the only place where that is done.

    In several threads the numbers are those of one: threads take turns, each for one call. Where
    autograd records, the result can be differentiated again; under ``inference_mode``, in which
    torch before 2.11 gives zeros, it is what it is under ``no_grad``.

    Args:
        f: a function of one tensor.
        x: where.
        tangent: v, of the shape of x.
    """
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            return jvp(f, x, tangent)
    with nullcontext() if torch.compiler.is_compiling() else _LEVEL:
        value, change = torch.func.jvp(f, (ordinary(x),), (ordinary(tangent),))  # type: ignore[misc]
    return value, change


def pullback(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return ``f(x)`` and a function of v, of the shape of f(x), that gives ``(∂f)ᵀ v``.

    The graph is kept for as long as the function is, which may be called again. It can be
    differentiated in turn, in forward mode too.

    Args:
        f: a function of one tensor.
        x: where.
    """
    if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            return pullback(f, x)
    value, pull = torch.func.vjp(f, ordinary(x))  # type: ignore[misc]
    return value, lambda v: pull(ordinary(v))[0]


def time_derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Return ``df/dt`` at ``t`` for a function that acts on each time by itself.

    ``f`` maps a tensor of times to a tensor whose entries depend on one time each, so one
    Jacobian-vector product with ones gives the derivative. It is itself differentiable, so
    parameters inside ``f`` receive gradients, unless under ``no_grad`` or ``inference_mode``.
    """
    t = t.contiguous()  # an expanded time cannot carry tangents
    return jvp(f, t, torch.ones_like(t))[1]


def none_of(mask: Tensor) -> bool:
    """Whether a condition is known to hold nowhere; False where asking waits, or cannot be."""
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    try:
        return not bool(mask.any())
    except RuntimeError:  # of a mapped or a fake tensor
        return False


_NOT_FOLLOWED = (
    "the function does not depend on x by operations that autograd follows, so it has no gradient;"
    " keep x a tensor throughout (no .detach(), torch.no_grad(), .item() or numpy)"
)


def value_and_gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``f(x)`` and the gradient of its sum, in reverse mode and in any mode of autograd.

    Args:
        f: maps x ``(B, *)`` to values of any shape.
        x: where; nothing is recorded beyond the call, but inside of :func:`jvp` and other
            transforms of torch.func, which go through both.

    Raises:
        ValueError: if no value depends on x by operations that autograd follows.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = ordinary(x.detach())
        try:
            leaf.requires_grad_()
        except RuntimeError:  # inside of a transform
            return differentiable_gradient(f, x)
        value = f(leaf)
        gradient: Tensor | None = None
        if value.requires_grad:  # of x, or of parameters alone
            (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
        if gradient is None:
            raise ValueError(_NOT_FOLLOWED)
    return value.detach(), gradient


def differentiable_gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`value_and_gradient` gives, and can be differentiated again, in either mode.

    Args:
        f: maps x ``(B, *)`` to values of any shape.
        x: where.

    Raises:
        ValueError: if no value depends on x by operations that autograd follows.
    """

    def followed(y: Tensor) -> Tensor:
        value = f(y)
        if not value.requires_grad:
            raise ValueError(_NOT_FOLLOWED)
        return value

    value, pull = pullback(followed, x)
    return value, pull(torch.ones_like(value))


def tracked(t: Tensor) -> bool:
    """Whether derivatives in t are being taken, in either mode."""
    if t.requires_grad:
        return True
    if not _LEVEL.acquire(blocking=False):  # another thread is in a level, so this one is in none
        return False
    try:
        return forward_ad.unpack_dual(t).tangent is not None  # type: ignore[no-untyped-call]
    finally:
        _LEVEL.release()


def ordinary(value: Any) -> Any:
    """A tensor made under ``inference_mode`` as one that autograd takes; all else as it is."""
    if torch.compiler.is_compiling() or not isinstance(value, Tensor) or not value.is_inference():
        return value
    with torch.inference_mode(False):
        return value.clone()


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
                return jvp(f, x, directions)
            except (NotImplementedError, RuntimeError):
                # An operation without a forward derivative; another error comes again below.
                self.forward_mode = False
        with torch.inference_mode(False), torch.enable_grad():
            x, directions = ordinary(x), ordinary(directions)
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
