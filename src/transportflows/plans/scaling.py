r"""Sinkhorn's iteration as products with a kernel that is held: for few points and a large ε.

Where a good part of all pairs has a share in the plan, the iteration converges in some tens of
sweeps, and what costs is the exponential of all pairs, in each of them. Here it is taken once, at
potentials (f, g) near the solution: with ``K_ij = p_i q_j exp((f_i + g_j - c_ij) / ε)`` a sweep is
``v = q / Kᵀu``, ``u = p / K v``, two products, and ``ε log v`` is what g gains (Schmitzer 2019
calls it absorption). No exponent of K is large, since its rows sum to p.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import soft_transform

__all__ = ["MOST_PAIRS", "scaled", "scaled_alone"]

MOST_PAIRS = 4_000_000  # whose kernel takes 32 MB
_SWEEPS = 100  # with one kernel
_LARGEST = 1e100  # of what scales the kernel; beyond, it is taken anew


def scaled(
    x: Tensor, y: Tensor, p: Tensor, q: Tensor, g: Tensor, epsilon: float, goal: float, most: int
) -> tuple[Tensor, int]:
    """A better g, by up to ``most`` sweeps, or until ``|πᵀ1 - q|₁`` is below ``goal``."""
    kernel = _kernel(x, y, soft_transform(x, y, g, q, epsilon), g, p, q, epsilon)
    u, v, sweeps = torch.ones_like(p), torch.ones_like(q), 0
    while sweeps < min(most, _SWEEPS):
        columns = v * (u @ kernel)
        if sweeps and not float((columns - q).abs().sum()) > goal:
            break
        fresh = v * q / columns.clamp(min=1e-300)
        if not float(fresh.max()) < _LARGEST:
            break
        v = fresh
        u = p / (kernel @ v).clamp(min=1e-300)
        sweeps += 1
    return g + epsilon * v.log(), max(sweeps, 1)


def scaled_alone(
    x: Tensor, f: Tensor, p: Tensor, epsilon: float, goal: float, most: int
) -> tuple[Tensor, int]:
    """The same where both potentials are one: ``u ← u √(p / (u K u))``, a contraction."""
    f = 0.5 * (f + soft_transform(x, x, f, p, epsilon))
    kernel = _kernel(x, x, f, f, p, p, epsilon)
    u, sweeps = torch.ones_like(p), 0
    while sweeps < min(most, _SWEEPS):
        columns = u * (kernel @ u)
        if sweeps and not float((columns - p).abs().sum()) > goal:
            break
        fresh = u * (p / columns.clamp(min=1e-300)).sqrt()
        if not float(fresh.max()) < _LARGEST:
            break
        u, sweeps = fresh, sweeps + 1
    return f + epsilon * u.log(), max(sweeps, 1)


def _kernel(
    x: Tensor, y: Tensor, f: Tensor, g: Tensor, p: Tensor, q: Tensor, epsilon: float
) -> Tensor:
    """The plan of (f, g), held."""
    rows = (f - x.square().sum(1)) / epsilon + p.log()
    columns = (g - y.square().sum(1)) / epsilon + q.log()
    z = torch.addmm(columns.unsqueeze(0), x * (2 / epsilon), y.mT)
    return z.add_(rows.unsqueeze(1)).clamp_(min=-700.0).exp_()
