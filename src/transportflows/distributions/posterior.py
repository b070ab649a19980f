r"""The posterior of a Gaussian mixture under a linear observation with Gaussian noise.

For a component ``N(m, S)`` of weight w and ``y = A x + σ n``, with ``G = A S Aᵀ + σ² Id`` and
``K = S Aᵀ G⁻¹``, it is the component

.. math:: N(m + K (y - A m),\; S - K A S), \quad \text{of weight} \quad w\, N(y;\, A m,\, G),

by Gaussian conditioning (Bishop 2006, section 2.3.3). Directions of y that A does not reach carry
the same factor in all components, and are left out: A is turned and cut to its range, where G is
positive definite without noise too, as for a mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.precision import wide
from ..observations import LinearObservation

__all__ = ["posterior_components"]

_RANK = 1e-10  # of the largest singular value: below it a direction is not reached


def posterior_components(
    weights: Tensor, means: Tensor, covariances: Tensor, observation: LinearObservation
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights ``(K,)``, means ``(K, d)`` and covariances ``(K, d, d)`` of the posterior, float64.

    Args:
        weights: of the prior, ``(K,)``.
        means: ``(K, d)``.
        covariances: ``(K, d, d)``.
        observation: of one y.

    Raises:
        ValueError: if there are several y, or a y without noise that no x gives.
    """
    if len(observation.y) != 1:
        raise ValueError(
            f"the observation has {len(observation.y)} rows of y, and each has a posterior of its"
            " own; make one of each row"
        )
    a = observation.matrix().to(means)
    y, noise = wide(observation.y).to(means).flatten(), observation.noise
    u, s, _ = torch.linalg.svd(a, full_matrices=False)
    reached = u[:, s > _RANK * s[:1].clamp(min=1e-300)]
    rest = y - reached @ (reached.mT @ y)
    if noise == 0 and float(rest.norm()) > 1e-5 * max(float(y.norm()), 1e-300):
        raise ValueError(
            "no x gives this y without noise: a part of it lies outside of what the operator"
            f" reaches ({float(rest.norm()):.2g} of {float(y.norm()):.2g}); give noise > 0, or a y"
            " that is A x"
        )
    a, y = reached.mT @ a, reached.mT @ y  # (r, d), (r,)
    through = a @ covariances  # (K, r, d)
    eye = torch.eye(len(y), dtype=means.dtype, device=means.device)
    factor = torch.linalg.cholesky(through @ a.mT + noise**2 * eye)
    off = y - means @ a.mT  # (K, r)
    gain = torch.cholesky_solve(through, factor)  # Kᵀ, (K, r, d)
    new = means + (off[:, None] @ gain)[:, 0]
    # Joseph's form, which stays positive: (Id - K A) S (Id - K A)ᵀ + σ² K Kᵀ.
    kept = torch.eye(means.shape[1], dtype=means.dtype, device=means.device) - gain.mT @ a
    spread = kept @ covariances @ kept.mT + noise**2 * gain.mT @ gain
    white = torch.linalg.solve_triangular(factor, off[..., None], upper=False)[..., 0]
    log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
    log_weight = weights.log() - 0.5 * white.square().sum(1) - log_det
    return torch.softmax(log_weight, 0), new, 0.5 * (spread + spread.mT)
