r"""Panels: integrals over the steps of a grid, of functions that may be singular at a step's ends.

An exponential integrator needs ``∫ L(r) dQ(r)`` over each step, with a polynomial L and a known
function Q of time. Q may be like a root or a logarithm at an end of the step, where its derivative
is infinite. So a step is cut into *panels*, each half as long as the one before it towards either
end, and on a panel every function is replaced by the polynomial through its values at 12 points.
The points are those of Chebyshev and Lobatto, ``cos(πk/11)``, the panel's own ends among them.

With the Lagrange basis ℓ_a through these points (ℓ_a is 1 at point a and 0 at the others), two
tables of constants are all that is needed: ``∫ ℓ_a dℓ_b``, which makes ``∫ L dQ`` from values of L
and of Q alone (an integral of Stieltjes: no derivative of Q is asked for), and ``∫ ℓ_b`` up to each
point, which makes running integrals.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["Panels", "against", "lagrange"]

_POINTS = 12


class Panels:
    """The panels of steps: in fractions of a step, the same for all that are done together.

    Args:
        halvings: how often panels are halved towards each end.
        open_ends: leave out ``2^-halvings`` of a step at each end, where a function is infinite.
        like: a tensor of the device and dtype.

    Attributes:
        widths: ``(P,)``, of the panels.
        fraction: ``(K,)``, where in a step its K = 12 P points lie.
    """

    def __init__(self, halvings: int, open_ends: bool, like: Tensor) -> None:
        points, _, self.running = (rule.to(like) for rule in _rules())
        edges = _edges(halvings, open_ends).to(like)
        self.widths = edges.diff()
        self.fraction = (edges[:-1, None] + self.widths[:, None] * points).reshape(-1)

    def times(self, starts: Tensor, stops: Tensor) -> Tensor:
        """The points of steps from ``starts`` to ``stops`` ``(S,)``, as times ``(S, K)``.

        Each is reckoned from the nearer end, so that small distances to an end keep their digits.
        """
        h, first = (stops - starts)[:, None], self.fraction < 0.5
        from_start = starts[:, None] + h * torch.where(first, self.fraction, 0.0)
        return torch.where(first, from_start, stops[:, None] - h * (1 - self.fraction))

    def to_the_end(self, rate: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The integral of a rate from each point to the end of its step, and over the whole step.

        Args:
            rate: at the points, ``(S, K, G)``, not negative.
            h: widths of the steps, ``(S,)``.

        Returns:
            ``(S, K, G)`` and ``(S, G)``.
        """
        length = (h.abs()[:, None] * self.widths)[..., None, None]
        panelled = rate.view(len(h), len(self.widths), _POINTS, -1)
        inner = torch.einsum("ab,spbg->spag", self.running, panelled) * length
        each = inner[:, :, -1:]
        behind = each.flip(1).cumsum(1).flip(1) - each  # the panels after this one
        rest = (behind + each - inner).clamp(min=0)
        return rest.flatten(1, 2), rest[:, 0, 0]


def against(q: Tensor) -> Tensor:
    """With which weights the values of L at the points add up to ``∫ L dQ``, ``(S, K, G)``.

    Args:
        q: Q at the points, ``(S, K, G)``.
    """
    panelled = q.view(len(q), -1, _POINTS, q.shape[-1])
    return torch.einsum("ab,spbg->spag", _rules()[1].to(q), panelled).flatten(1, 2)


def lagrange(nodes: Tensor, points: Tensor) -> Tensor:
    """The Lagrange basis through ``nodes`` ``(S, J)`` at ``points`` ``(S, K)``: ``(S, J, K)``."""
    count = nodes.shape[1]
    columns = []
    for j in range(count):
        column = torch.ones_like(points)
        for m in range(count):
            if m != j:
                column = column * (
                    (points - nodes[:, m : m + 1]) / (nodes[:, j : j + 1] - nodes[:, m : m + 1])
                )
        columns.append(column)
    return torch.stack(columns, 1)


@lru_cache(maxsize=1)
def _rules() -> tuple[Tensor, Tensor, Tensor]:
    """The points c on [0, 1]; ``∫ ℓ_a dℓ_b``; the integral of ℓ_b from 0 to c_a: ``(12, 12)``."""
    n = _POINTS
    chebyshev, legendre = np.polynomial.chebyshev, np.polynomial.legendre
    points = -np.cos(np.pi * np.arange(n) / (n - 1))
    to_series = np.linalg.inv(chebyshev.chebvander(points, n - 1))  # column b: series of ℓ_b
    nodes, weights = legendre.leggauss(n)  # exact for these products, of degree 2n - 3
    values = chebyshev.chebval(nodes, to_series).T  # (node, a)
    slopes = chebyshev.chebval(nodes, chebyshev.chebder(to_series)).T
    both = np.einsum("q,qa,qb->ab", weights, values, slopes)
    antiderivative = chebyshev.chebint(to_series, lbnd=-1)
    running = 0.5 * chebyshev.chebval(points, antiderivative).T
    return torch.from_numpy(0.5 * (points + 1)), torch.from_numpy(both), torch.from_numpy(running)


@lru_cache(maxsize=8)
def _edges(halvings: int, open_ends: bool) -> Tensor:
    """Edges of the panels of [0, 1]: 2^-k and 1 - 2^-k, and the ends themselves unless open."""
    near = [0.5**k for k in range(halvings, 0, -1)]
    edges = near + [1 - e for e in reversed(near[:-1])]
    if not open_ends:
        edges = [0.0, *edges, 1.0]
    return torch.tensor(edges, dtype=torch.float64)
