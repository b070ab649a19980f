r"""Entropic plans between as many points on either side, all of one weight: Sinkhorn's iteration.

.. math:: \min_{\pi \mathbf 1 = \pi^\top \mathbf 1 = 1/N} \sum_{ij} \pi_{ij} c_{ij}
          + \varepsilon \sum_{ij} \pi_{ij} \log \pi_{ij}, \qquad
          \pi_{ij} = a_i \, e^{-(c_{ij} - f_i - g_j) / \varepsilon} \, b_j

for any f and g, which a and b make good (Cuturi 2013). The iteration on a and b takes two products
of a matrix with a vector, a hundredth of the time of one on logarithms. It leaves the range of
double precision where the exponents are large, unless f and g come near: where they are, f and g
are the potentials of the *exact* plan, with which no exponent is positive and a whole permutation
of them is 0, so that no sum vanishes at any ε.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.checks import check_finite_rows, positive_integer, positive_number
from .._core.signatures import checked
from .exact import best_permutation

__all__ = ["exact_potentials", "log_plan"]

_EXPONENTS = 500.0  # up to which the sums are safe whatever f and g are: exp(-500) is 7e-218
_VIOLATION = 1e-4  # of the marginals, an L1 norm of probabilities
_LOOK = 10  # sweeps between two looks at it
_FAR = 1e9  # exponents beyond are as good as this


@checked
def log_plan(cost: Tensor, epsilon: float, *, max_sweeps: int = 1000) -> Tensor:
    """Return ``log(N² π)`` of the entropic plan, ``(N, N)``, finite throughout.

    It stops where the marginals are violated by 1e-4 in all, or after ``max_sweeps``. At an ε too
    small for that many, it is a plan between the exact one and the entropic one.

    Args:
        cost: ``(N, N)``, float64, finite, on the CPU.
        epsilon: ε > 0, in the units of the cost.
        max_sweeps: bound on the sweeps.

    Example:
        >>> cost = torch.tensor([[0.0, 2.0], [2.0, 0.0]], dtype=torch.float64)
        >>> log_plan(cost, 2.0).exp() / 4  # of weights 1 and 1/e in each row
        tensor([[0.3655, 0.1345],
                [0.1345, 0.3655]], dtype=torch.float64)
    """
    cost = _square(cost)
    epsilon = positive_number("epsilon", epsilon)
    max_sweeps = positive_integer("max_sweeps", max_sweeps)
    f = cost.amin(1)
    slack = cost - f.unsqueeze(1)
    slack -= slack.amin(0)
    if not float(slack.max()) > 0:
        return torch.zeros_like(cost)
    epsilon = max(epsilon, 1e-290 * float(slack.max()))  # whose quotients are finite
    if float(slack.max()) <= _EXPONENTS * epsilon:
        plan, violation = _scaled(slack / epsilon, max_sweeps)
        if violation <= 100 * _VIOLATION:
            return plan
    rows = best_permutation(-slack)
    f, g = exact_potentials(slack, rows)
    slack = slack.sub_(f.unsqueeze(1)).sub_(g).clamp_(min=0)
    slack[rows, torch.arange(len(rows))] = 0.0  # whatever rounding made of it
    return _scaled((slack / epsilon).clamp_(max=_FAR), max_sweeps)[0]


def _scaled(exponents: Tensor, max_sweeps: int) -> tuple[Tensor, float]:
    """``log(N² π)`` for ``exp(-exponents)``, and how far its marginals are from 1/N."""
    kernel = torch.exp(-exponents)
    turned, n = kernel.mT.contiguous(), len(kernel)
    a, b = kernel.new_ones(n), kernel.new_ones(n)
    violation = torch.inf
    for sweep in range(1, max_sweeps + 1):
        a = n / (kernel @ b)
        b = n / (turned @ a)
        if sweep % _LOOK == 0 or sweep == max_sweeps:
            violation = float((a * (kernel @ b) / n - 1).abs().mean())
            if not violation > _VIOLATION:
                break
    return (a.log().unsqueeze(1) - exponents).add_(b.log()), violation


@checked
def exact_potentials(cost: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return f and g of the cheapest permutation: ``f_i + g_j ≤ c_ij``, with equality on it.

    With the permutation σ given, ``f_i = c_{iσ(i)} - g_{σ(i)}`` and ``g ← min_i (c_ij - f_i)``
    reach an extreme pair in at most N sweeps, as shortest paths do (Bellman and Ford), and with the
    two sides exchanged another; what is returned is their mean, which leaves more of the other
    pairs slack.

    Args:
        cost: ``(N, N)``, float64, finite, on the CPU.
        rows: the cheapest permutation, of each column its row, as :func:`best_permutation` gives.

    Returns:
        f and g, ``(N,)`` each, in the units of the cost.

    Raises:
        ValueError: if the cost is not square or not finite.

    Example:
        >>> cost = torch.tensor([[1.0, 6.0], [3.0, 2.0]], dtype=torch.float64)
        >>> f, g = exact_potentials(cost, torch.tensor([0, 1]))  # 1 + 2, not 6 + 3
        >>> cost - f[:, None] - g  # 0 on the permutation, and no less elsewhere
        tensor([[0.0000, 4.5000],
                [1.5000, 0.0000]], dtype=torch.float64)
    """
    cost = _square(cost)
    g, f = _extreme(cost, rows), _extreme(cost.mT.contiguous(), rows.argsort())
    matched, back = cost[rows, torch.arange(len(cost))], rows.argsort()
    return 0.5 * (f + (matched - g)[back]), 0.5 * (g + matched - f[rows])


def _square(cost: Tensor) -> Tensor:
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or len(cost) == 0:
        raise ValueError(f"cost must be a square matrix (N, N), got {tuple(cost.shape)}")
    check_finite_rows(cost, "cost")
    return cost


def _extreme(cost: Tensor, rows: Tensor) -> Tensor:
    """G of the permutation ``rows`` (of each column its row), the largest below 0."""
    matched = cost[rows, torch.arange(len(cost))]
    back, g = rows.argsort(), cost.new_zeros(len(cost))
    for _ in range(len(cost)):
        lower = (cost - (matched - g)[back].unsqueeze(1)).amin(0)
        if not float((g - lower).max()) > 1e-13 * float(matched.mean()):
            break
        g = lower
    return g
