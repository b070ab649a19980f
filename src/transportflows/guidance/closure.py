r"""The closure split: a transport that is right for Gaussians, so that weights vary less.

For ``q ∝ Π p_i^{w_i}`` and affine A_i and Ā any transport of the form

.. math:: v = \bar A + \sum_i w_i (b_i - A_i)

has weights without a divergence of b_i. Here A_i is the velocity of the Gaussian that has the mean
and covariance of p_i at time t, and Ā that of the product of these Gaussians:

.. math:: A_i = \dot m_i + \tfrac12 \dot\Sigma_i \Sigma_i^{-1} (x - m_i), \qquad
          m_i = \alpha m + \beta \mu_i, \quad \Sigma_i = \hat\sigma^2 + \beta^2 C_i, \\
          P = \sum_i w_i \Sigma_i^{-1}, \quad \bar m = P^{-1} \sum_i w_i \Sigma_i^{-1} m_i, \quad
          \bar A = \dot{\bar m} - \tfrac12 P^{-1} \dot P (x - \bar m),

with μ_i and C_i the mean and covariance of the data of each. Where all p_i are Gaussian ``v = Ā``
carries q_t itself, and the weights are all equal. P must be positive, at all times: with guidance
that is strong beside what the densities differ by it is not, and there is no such split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.checks import check_finite_rows, shown
from .._core.precision import wide
from ..distributions import Gaussian, GaussianMixture
from ..gaussian_part import GaussianPart
from ..transforms import Standardize

__all__ = ["Affine", "closure_split", "moments_of", "standardized"]

Law = Gaussian | GaussianMixture | Tensor


@dataclass(frozen=True, eq=False)
class Affine:
    """``Ā - Σ w_i A_i = G x + g`` at T times, the trace of G, and the rate for these Gaussians."""

    matrix: Tensor  # (T, d, d)
    shift: Tensor  # (T, d)
    trace: Tensor  # (T,)
    rate: Tensor  # (T,), of the log-integral of the product of the Gaussians


def moments_of(law: Any) -> tuple[Tensor, Tensor]:
    """Mean ``(d,)`` and covariance ``(d, d)`` of a law or of rows of data, float64.

    Raises:
        TypeError: if it is neither.
        ValueError: if there are too few rows for a covariance.
    """
    if isinstance(law, Gaussian):
        return wide(law.mean).flatten(), wide(law.covariance())
    if isinstance(law, GaussianMixture):
        w, means = wide(law.weights), wide(law.means).flatten(1)
        mean = w @ means
        apart = means - mean
        inner = torch.einsum("k,kij->ij", w, wide(law.covariances))
        return mean, inner + torch.einsum("k,ki,kj->ij", w, apart, apart)
    if isinstance(law, Tensor) and law.ndim >= 2 and law.is_floating_point():
        rows = wide(law).flatten(1)
        if len(rows) <= rows.shape[1]:
            raise ValueError(
                f"a covariance of {rows.shape[1]} numbers needs more rows than that, got"
                f" {len(rows)}; give Gaussian.fit(x1), or more rows"
            )
        check_finite_rows(rows, "the rows of a law")
        return rows.mean(0), torch.cov(rows.mT).reshape(rows.shape[1], rows.shape[1])
    raise TypeError(
        "closure holds the law of the data of each field, for its mean and covariance: a Gaussian,"
        f" a GaussianMixture or rows of data (N, *), got {shown(law)}"
    )


def closure_split(
    part: GaussianPart,
    laws: Sequence[Law],
    powers: Sequence[float],
    times: Tensor,
    transform: Standardize | None = None,
    shape: Sequence[int] = (),
) -> Affine | None:
    """The affine part of the transport at times ``(T,)``; None where P is not positive.

    Args:
        part: of the process.
        laws: of the data of each field, in the units of the data.
        powers: w_i.
        times: float64, ``(T,)``.
        transform: of the fields.
        shape: event shape.

    Raises:
        ValueError: if the laws are not as many, or of other sizes.
    """
    if len(laws) != len(powers):
        raise ValueError(
            f"got {len(laws)} laws for the closure of {len(powers)} fields: give one for each, in"
            " the order of the product; for ClassifierFree the unconditional one comes first"
        )
    found = [moments_of(law) for law in laws]
    d = torch.Size(shape).numel()
    if any(len(mean) != d for mean, _ in found):
        raise ValueError(f"the laws of a closure must be of states of shape {tuple(shape)}")
    found = [standardized(mean, cov, transform, shape) for mean, cov in found]
    t = times
    beta, beta_dot = part.path.beta(t)[:, None], part.path.beta_dot(t)[:, None]
    square, square_dot = part.scale_sq(t)[:, None, None], part.scale_sq_dot(t)[:, None, None]
    base = base_dot = torch.zeros(1, d, dtype=torch.float64, device=t.device)
    if part.base_mean is not None:
        m = wide(part.base_mean).reshape(1, d).to(t)
        base, base_dot = part.path.alpha(t)[:, None] * m, part.path.alpha_dot(t)[:, None] * m
    eye = torch.eye(d, dtype=torch.float64, device=t.device)
    zero = torch.zeros(len(t), d, d, dtype=torch.float64, device=t.device)
    inner, inner_shift = zero, zero[..., 0]  # Σ w A
    each = []
    p, p_dot, h, h_dot = zero, zero, zero[..., 0], zero[..., 0]
    for (mean, cov), w in zip(found, powers, strict=True):
        mean, cov = mean.to(t), cov.to(t)
        sigma = square * eye + beta[..., None].square() * cov
        sigma_dot = square_dot * eye + 2 * (beta * beta_dot)[..., None] * cov
        middle, speed = base + beta * mean, base_dot + beta_dot * mean
        inverse = torch.linalg.inv(sigma)
        rate = 0.5 * sigma_dot @ inverse
        inner = inner + w * rate
        inner_shift = inner_shift + w * (speed - _apply(rate, middle))
        each.append((w, middle, speed, rate, inverse))
        inverse_dot = -inverse @ sigma_dot @ inverse
        p, p_dot = p + w * inverse, p_dot + w * inverse_dot
        h = h + w * _apply(inverse, middle)
        h_dot = h_dot + w * (_apply(inverse_dot, middle) + _apply(inverse, speed))
    _, failed = torch.linalg.cholesky_ex(0.5 * (p + p.mT))
    if bool(failed.any()) or not bool(torch.isfinite(p).all()):
        return None
    middle = torch.linalg.solve(p, h)
    speed = torch.linalg.solve(p, h_dot - _apply(p_dot, middle))
    rate = -0.5 * torch.linalg.solve(p, p_dot)
    matrix = rate - inner
    shift = speed - _apply(rate, middle) - inner_shift
    trace = matrix.diagonal(dim1=1, dim2=2).sum(1)
    # For Gaussians the rate is the same at all x. At m̄ the score of their product is 0, so that
    # - Σ w_i A_i·s_i is left beside the trace.
    lost = torch.zeros_like(trace)
    for w, m, m_dot, half, inverse in each:
        apart = middle - m
        lost = lost + w * ((m_dot + _apply(half, apart)) * _apply(inverse, apart)).sum(1)
    return Affine(matrix, shift, trace, trace + lost)


def _apply(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix @ x.expand(len(matrix), -1)[..., None])[..., 0]


def standardized(
    mean: Tensor, cov: Tensor, transform: Standardize | None, shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Moments in the units of the fields."""
    if transform is None:
        return mean, cov
    whole = torch.Size(shape)
    shift = wide(transform.mean).expand(whole).flatten().to(mean)
    scale = wide(transform.scale).expand(whole).flatten().to(mean)
    return (mean - shift) / scale, cov / (scale[:, None] * scale)
