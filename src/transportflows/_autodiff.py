"""Forward-mode derivatives in time, for interpolants that give none of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["time_derivative"]


def time_derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Return ``df/dt`` at ``t`` for a function that acts on each time by itself.

    ``f`` maps a tensor of times to a tensor whose entries depend on one time each, so one
    Jacobian-vector product with ones gives the derivative. :func:`torch.func.jvp` works under
    ``no_grad`` and ``inference_mode`` and is itself differentiable, so parameters inside ``f``
    receive gradients.
    """
    if t.is_inference() and not torch.is_inference_mode_enabled():
        t = t.clone()
    t = t.contiguous()  # an expanded time cannot carry tangents
    derivative: Tensor = torch.func.jvp(f, (t,), (torch.ones_like(t),))[1]
    return derivative
