r"""The posterior of a Gaussian mixture under a linear observation with Gaussian noise.

For a component ``N(m, S)`` of weight w and ``y = A x + σ n``, with ``G = A S Aᵀ + σ² Id`` and
``K = S Aᵀ G⁻¹``, it is the component

.. math:: N(m + K (y - A m),\; S - K A S), \quad \text{of weight} \quad w\, N(y;\, A m,\, G),

by Gaussian conditioning (Bishop 2006, section 2.3.3). Directions of y that A does not reach carry
the same factor in all components, and are left out: A is turned and cut to its range, where G is
positive definite without noise too, as for a mask.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..observations import LinearObservation

__all__ = ["posterior_components"]


def posterior_components(
    weights: Tensor, means: Tensor, covariances: Tensor, observation: LinearObservation
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-weights ``(K,)``, means ``(K, d)``, covariances ``(K, d, d)`` of the posterior, float64.

    The weights are ``w N(y; A m, G)``, whose sum is the evidence.

    Args:
        weights: of the prior, ``(K,)``.
        means: ``(K, d)``.
        covariances: ``(K, d, d)``.
        observation: of one y.

    Raises:
        ValueError: if there are several y, or a y without noise that no x gives.
    """
    a, y = (value.to(means) for value in observation.reached())  # (r, d), (r,)
    noise = observation.noise
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
    log_weight = log_weight - 0.5 * len(y) * math.log(2 * math.pi)
    return log_weight, new, 0.5 * (spread + spread.mT)
