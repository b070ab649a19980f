r"""The scale and noise of ``dX = f X dτ + g dW`` from f and g, by quadrature in float64.

An equation with a linear drift has ``X_τ = a(τ) x1 + σ(τ) z``, where, with the integral
``M(τ) = ∫_0^τ f`` of the drift's rate,

.. math:: a = e^M, \qquad \sigma^2 = a^2 \Big(\sigma(0)^2 + \int_0^\tau g^2 e^{-2M}\Big).

So there are two integrals, one inside the other. [0, 1] is cut into panels, and f and g² are
evaluated at ten Gauss-Legendre nodes of each. The polynomial through the values of f gives M at the
nodes, and with it the outer integral is a weighted sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .._core.precision import widest, widest_dtype

__all__ = ["Marginals"]

_NODES = 10
_PANELS = 64


def _rule() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes c on [0, 1], weights w, and the integral ``A[i, j]`` from 0 to c_i of basis j."""
    legendre = np.polynomial.legendre
    points, weights = legendre.leggauss(_NODES)
    # Coefficients of the Lagrange basis in Legendre polynomials: exact by the rule itself.
    values = legendre.legvander(points, _NODES - 1)  # (node, degree)
    norms = (2 * np.arange(_NODES) + 1) / 2
    coefficients = (values * weights[:, None]).T * norms[:, None]  # (degree, basis)
    integrals = legendre.legval(points, legendre.legint(coefficients, lbnd=-1, axis=0))
    return (
        torch.from_numpy((points + 1) / 2),
        torch.from_numpy(weights / 2),
        torch.from_numpy(integrals.T / 2),
    )


_C, _W, _A = _rule()


class Marginals:
    """a and σ² of ``dX = f X dτ + g dW``.

    Args:
        drift_rate: f.
        diffusion_sq: g².
        initial_variance: σ(0)².
        breakpoints: times at which a panel must end.
    """

    def __init__(
        self,
        drift_rate: Callable[[Tensor], Tensor],
        diffusion_sq: Callable[[Tensor], Tensor],
        initial_variance: float,
        breakpoints: Sequence[float],
    ) -> None:
        self.drift_rate, self.diffusion_sq = drift_rate, diffusion_sq
        self.initial_variance = initial_variance
        edges = sorted({k / _PANELS for k in range(_PANELS + 1)} | set(breakpoints))
        self.edges = torch.tensor(edges, dtype=torch.float64)

    def __call__(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """A and σ² at times of any shape, in the dtype of ``tau``."""
        edges = self.edges.to(tau.device, widest_dtype(tau.device))
        growth, spread = self._panels(edges[:-1], edges.diff())
        zero = edges.new_zeros(1)
        log_a = torch.cat([zero, growth.cumsum(0)])
        # Σ over earlier panels of their spread, each seen from its own start.
        noise = torch.cat([zero, (spread * torch.exp(-2 * log_a[:-1])).cumsum(0)])
        wide = widest(tau)
        with torch.no_grad():
            panel = torch.bucketize(wide.detach(), edges[1:-1].contiguous())
        growth, spread = self._panels(edges[panel], wide - edges[panel])
        log_start = log_a[panel]
        total = self.initial_variance + noise[panel] + spread * torch.exp(-2 * log_start)
        a = torch.exp(log_start + growth)
        return a.to(tau.dtype), (a.square() * total).to(tau.dtype)

    def _panels(self, start: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """``∫ f`` and ``∫ g² exp(-2 ∫ f)`` over stretches, both integrals from their starts."""
        c, w, inner = (rule.to(start) for rule in (_C, _W, _A))
        nodes = start[..., None] + width[..., None] * c
        f, g_sq = widest(self.drift_rate(nodes)), widest(self.diffusion_sq(nodes))
        f, g_sq = f.expand(nodes.shape), g_sq.expand(nodes.shape)
        within = width[..., None] * (f @ inner.mT)
        return width * (f @ w), width * ((g_sq * torch.exp(-2 * within)) @ w)
