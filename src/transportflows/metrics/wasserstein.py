r"""Exact Wasserstein distances between two samples.

.. math:: W_2^2 = \min_{\pi \in \Pi(p, q)} \sum_{ij} \pi_{ij}\, |x_i - y_j|^2

over the couplings :math:`\pi` of the weights p of x and q of y, and :math:`W_1` with distances for
their squares. The plan is exact and certified (:func:`transportflows.plans.exact_plan`), so it has
none of the entropic bias of Sinkhorn. Between two samples of one law the distance is not zero: of
order :math:`N^{-1/D}` for ``D > 2`` dimensions (:mod:`transportflows.metrics.wasserstein_error`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_tensor
from .._core.samples import event_rows, weights_of
from .._core.signatures import checked
from ..plans import ExactPlan, exact_plan

__all__ = [
    "optimal_pairs",
    "wasserstein1",
    "wasserstein2",
]

_MAX_PAIRS = 20_000**2


@checked
def wasserstein2(
    x: DataLike,
    y: DataLike,
    *,
    x_weights: DataLike | None = None,
    y_weights: DataLike | None = None,
    max_iterations: int = 10_000_000,
) -> float:
    r"""Return the exact :math:`W_2` (not its square) between two samples, in units of the data.

    The cost is computed on the CPU in float64 from differences, so that a large common offset
    loses nothing. It takes 40 bytes for each pair of points and time a little more than quadratic:
    0.5 s and 0.2 GB for 2,000 + 2,000 points, 4 s and 1 GB for 5,000, 18 s and 4 GB for 10,000
    (measured, ``D = 2``), 16 GB for the largest size allowed, 20,000 + 20,000. Events of one
    number are sorted instead, which is exact too, and have no such limit. It is not differentiable.

    Bias: upward, and large in high dimension. For equal laws its mean is not 0 but of order
    ``N^(-1/D)`` for ``D > 4`` (at most ``N^(-1/4)`` below). So compare it with its value between
    two samples of the data of the same size, its floor; :func:`corrected_wasserstein2` subtracts
    that. Measured at 1,000 points of ``N(0, Id)`` and ``N(e_1 / 2, 1.2² Id)``: 0.615 for 0.575 in
    two dimensions, and 2.40 for 0.81 in ten, where two samples of one law are 2.06 apart, so that
    nearly all of it is floor.
    :func:`wasserstein2_error` gives an error bar.

    Args:
        x: first sample, ``(N, *)``.
        y: second sample, ``(M, *)``; ``M`` need not be ``N``.
        x_weights: weights ``(N,)`` of the points of ``x``, not negative, rescaled to sum to 1;
            equal ones if None.
        y_weights: weights ``(M,)`` of the points of ``y``, likewise.
        max_iterations: bound on the pivots of the network simplex.

    Raises:
        TypeError: if either sample is not a tensor or an array of a floating-point dtype.
        ValueError: if the samples are empty, not finite or of different events, the weights are
            not weights, or there are more than 20,000 x 20,000 pairs.
        RuntimeError: if the network simplex stopped before the optimum, or the distance is under
            some 1e-6 of the diameter of the data, so that it cannot be had to 1e-6.

    Source: the solver is that of Bonneel et al. (2011), in POT (Flamary et al., 2021).

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> y = torch.tensor([[4.0, 4.0], [3.0, 4.0]])
        >>> round(wasserstein2(x, y), 12)
        5.0
    """
    x, y, p, q = _prepare(x, y, x_weights, y_weights)
    return _distance(x, y, p, q, 2, max_iterations)


@checked
def wasserstein1(
    x: DataLike,
    y: DataLike,
    *,
    x_weights: DataLike | None = None,
    y_weights: DataLike | None = None,
    max_iterations: int = 10_000_000,
) -> float:
    r"""Return the exact :math:`W_1 = \min_\pi \sum \pi_{ij} |x_i - y_j|`, in units of the data.

    Cost, limits and weights are those of :func:`wasserstein2`. Bias: upward, for equal laws of
    order ``N^(-1/D)`` for ``D > 2`` dimensions, ``N^(-1/2)`` in one.

    Args:
        x: first sample, ``(N, *)``.
        y: second sample, ``(M, *)``.
        x_weights: weights ``(N,)``; equal ones if None.
        y_weights: weights ``(M,)``.
        max_iterations: bound on the pivots of the network simplex.

    Raises:
        TypeError: as :func:`wasserstein2`.
        ValueError: as :func:`wasserstein2`.
        RuntimeError: as :func:`wasserstein2`.

    Source: Kantorovich (1942); the solver is that of Bonneel et al. (2011), in POT.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> wasserstein1(x, torch.tensor([[0.0], [4.0]]))
        1.5
    """
    x, y, p, q = _prepare(x, y, x_weights, y_weights)
    return _distance(x, y, p, q, 1, max_iterations)


@checked
def optimal_pairs(
    x: DataLike,
    y: DataLike,
    *,
    power: int = 2,
    x_weights: DataLike | None = None,
    y_weights: DataLike | None = None,
    max_iterations: int = 10_000_000,
) -> ExactPlan:
    r"""Return an optimal plan between two samples, as pairs.

    Args:
        x: first sample, ``(N, *)``.
        y: second sample, ``(M, *)``.
        power: 2 for squared distances, 1 for distances.
        x_weights: positive weights ``(N,)``; equal ones if None.
        y_weights: positive weights ``(M,)``.
        max_iterations: bound on the pivots of the network simplex.

    Raises:
        TypeError: as :func:`wasserstein2`.
        ValueError: as :func:`wasserstein2`, or if a weight is 0 or ``power`` is neither 1 nor 2.
        RuntimeError: as :func:`wasserstein2`.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
        >>> optimal_pairs(x, x.flip(0) + 1).columns.tolist()
        [1, 0]
    """
    if power not in (1, 2):
        raise ValueError(f"power must be 1 or 2, got {power}")
    for weights, name in ((x_weights, "x_weights"), (y_weights, "y_weights")):
        if weights is not None and bool((as_tensor(name, weights) == 0).any()):
            raise ValueError(
                f"{name} has zeros; drop those points, so that rows keep their numbers"
            )
    x, y, p, q = _prepare(x, y, x_weights, y_weights)
    return exact_plan(_distances(x, y), p, q, power=power, max_iterations=max_iterations)


def _prepare(
    x: DataLike, y: DataLike, x_weights: DataLike | None, y_weights: DataLike | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = event_rows(x, y)
    x, p = weights_of(x.cpu(), x_weights, "x_weights")
    y, q = weights_of(y.cpu(), y_weights, "y_weights")
    return x, y, p, q


def _distance(x: Tensor, y: Tensor, p: Tensor, q: Tensor, power: int, max_iterations: int) -> float:
    """The distance of order ``power``, by sorting where events are one number."""
    if x.shape[1] > 1:
        return exact_plan(
            _distances(x, y), p, q, power=power, max_iterations=max_iterations
        ).distance
    import ot

    cost = ot.wasserstein_1d(x[:, 0].numpy(), y[:, 0].numpy(), p.numpy(), q.numpy(), p=power)
    return math.pow(cost, 1 / power)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """All distances ``(N, M)``, from differences; refuses what would not fit in memory."""
    if x.shape[0] * y.shape[0] > _MAX_PAIRS:
        gigabytes = 40e-9 * x.shape[0] * y.shape[0]
        raise ValueError(
            f"got {x.shape[0]:,} and {y.shape[0]:,} points, {gigabytes:,.0f} GB of pairs;"
            " give at most 20,000 of each, as x[torch.randperm(len(x))[:20_000]], or use"
            " energy_distance, which holds no matrix of pairs"
        )
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
