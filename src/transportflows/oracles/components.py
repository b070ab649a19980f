"""Pairs of Gaussian components, one of the base and one of the data, and sums over them.

Each pair makes one component of the law of x_t, with the covariance ``Σ = α² C + β² S + γ² Id``
(formulas: :mod:`transportflows.oracles`). Where C and S are diagonal in a common basis, so is Σ at
every time, and solving with it is a division. That basis is found here, once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core.precision import wide, widest_dtype
from .._core.signatures import checked
from ..distributions.base import Distribution
from ..distributions.gaussian import Gaussian
from ..distributions.mixture import GaussianMixture
from ..distributions.point import Point
from .base import ExactField

__all__ = ["PairedComponents", "common_basis", "components_of"]


@checked
class PairedComponents(ExactField):
    """A field made of sums over K pairs of components."""

    diagonal: bool  # whether all covariances are diagonal in the common basis
    log_weight: Tensor  # (K, 1), with every constant of the log-density
    mean0: Tensor  # (K, d): m and μ of each pair
    mean1: Tensor
    spread0: Tensor  # (K, d): C and S in the common basis, or (K, d, d) where there is none
    spread1: Tensor
    centre0: Tensor  # (K, d, 1): m and μ in the common basis
    centre1: Tensor
    into: Tensor | None  # (K, d, d) to the common basis and back; None where it is the given one
    back: Tensor | None
    floor: float = 0.0  # of variances, where those of the data may vanish
    from_point: bool = False  # whether x_0 is one point, so that elsewhere nothing is known of it

    def _diagonal_posterior(
        self, alpha: Tensor, beta: Tensor, squares: tuple[Tensor, Tensor, Tensor], x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Where all Σ are diagonal: what the weights are made from, and u in the common basis.

        Args:
            alpha: α at the times, ``()`` or ``(B,)``.
            beta: β, likewise.
            squares: α², β² and γ², likewise, float64.
            x: states, ``(B, d)``.

        Returns:
            Of each component log weight + log density, ``(K, B)``, and ``u = Σ⁻¹ (x - M)``,
            ``(K, d, B)``.
        """
        spread0, spread1 = self.spread0[:, :, None], self.spread1[:, :, None]
        a, b, c = squares
        variance = (a * spread0 + b * spread1 + c).to(x)
        variance = variance.clamp(min=self.floor) if self.floor else variance
        y = x.mT if self.into is None else self.into.to(x) @ x.mT
        y = y - (alpha * self.centre0.to(x) + beta * self.centre1.to(x))
        y = torch.where(variance > self.floor, y, 0.0) if self.from_point else y
        u = y / variance
        return (
            self.log_weight.to(x) - 0.5 * (y * u).sum(1) - 0.5 * variance.log().sum(1),
            u,
        )

    def _full_posterior(
        self, alpha: Tensor, beta: Tensor, squares: tuple[Tensor, Tensor, Tensor], x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same for any Σ, by its Cholesky factors at the time, or at the times of the rows."""
        a, b, c = (square.reshape(-1, 1, 1, 1) for square in squares)
        eye = torch.eye(x.shape[1], dtype=widest_dtype(x.device), device=x.device)
        total = a * self.spread0 + b * self.spread1 + (c + self.floor) * eye
        factor = torch.linalg.cholesky(total).to(x)
        y = x.mT - (alpha * self.centre0.to(x) + beta * self.centre1.to(x))  # (K, d, B)
        right = y[None] if alpha.ndim == 0 else y.permute(2, 0, 1)[..., None]
        white = torch.linalg.solve_triangular(factor, right, upper=False)
        u = torch.linalg.solve_triangular(factor.mT, white, upper=True)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        half = 0.5 * white.square().sum(-2) + log_det
        if alpha.ndim == 0:
            return self.log_weight.to(x) - half[0], u[0]
        return self.log_weight.to(x) - half[..., 0].mT, u[..., 0].permute(1, 2, 0)

    def _precision(self, wu: Tensor) -> Tensor:
        """``Σ_k w u``, ``(d, B)``, in the given basis."""
        if self.into is None:
            return wu.sum(0)
        return self.into.to(wu).flatten(0, 1).mT @ wu.flatten(0, 1)

    def _spread(
        self, wu: Tensor, half0: Tensor | None, half1: Tensor, half2: Tensor | None
    ) -> Tensor:
        """``Σ_k (half0 C + half1 S + half2 Id) w u``, ``(d, B)``, in the given basis."""
        spread0, spread1 = self.spread0.to(wu), self.spread1.to(wu)
        if self.diagonal:
            factor = half1 * spread1[:, :, None]
            factor = factor if half0 is None else factor + half0 * spread0[:, :, None]
            factor = factor if half2 is None else factor + half2
            if self.back is None:
                return (factor * wu).sum(0)
            back = self.back.to(wu).transpose(0, 1).flatten(1)  # (d, K d)
            return back @ (factor * wu).flatten(0, 1)
        stacked = wu.flatten(0, 1)
        total = half1 * (spread1.flatten(0, 1).mT @ stacked)
        total = total if half0 is None else total + half0 * (spread0.flatten(0, 1).mT @ stacked)
        return total if half2 is None else total + half2 * wu.sum(0)


def components_of(law: Distribution, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Weights ``(K,)``, means ``(K, d)`` and covariances ``(K, d, d)`` of a law."""
    if isinstance(law, Gaussian):
        mean = wide(law.mean.reshape(1, -1))
        return mean.new_ones(1), mean, wide(law.covariance()[None])
    if isinstance(law, Point):
        mean = wide(law.at.reshape(1, -1))
        return mean.new_ones(1), mean, torch.diag_embed(torch.zeros_like(mean))
    if isinstance(law, GaussianMixture):
        there = law.weights > 0
        parts = law.weights[there], law.means.flatten(1)[there], law.covariances[there]
        return wide(parts[0]), wide(parts[1]), wide(parts[2])
    raise TypeError(
        f"the {name} must be a Gaussian or a GaussianMixture, got {type(law).__name__}; for rows"
        " of a tensor use EmpiricalOracle"
    )


def common_basis(
    cov0: Tensor, cov1: Tensor, latent: bool
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """A basis in which the covariances C and S of each pair are diagonal, if there is one.

    Tried in turn: the given basis; the eigenvectors of a sum of C and S, which are those of both
    where the two commute; and, where there is no latent (whose ``γ² Id`` must stay as it is), one
    that is not orthogonal and in which C is the identity.

    Args:
        cov0: C, ``(K, d, d)``.
        cov1: S, likewise.
        latent: whether the path has a latent.

    Returns:
        ``into`` and ``back``, with ``C = back c backᵀ`` and ``S = back s backᵀ``, and the diagonals
        c and s, ``(K, d)``. The first two are None where the given basis serves; they are None, and
        c and s are C and S themselves, where no basis was found.
    """

    def diagonals(basis: Tensor, cov: Tensor) -> Tensor | None:
        turned = basis.mT @ cov @ basis
        diagonal = turned.diagonal(dim1=1, dim2=2)
        rest = (turned - torch.diag_embed(diagonal)).abs().amax((1, 2))
        small = 1e-12 * cov.abs().amax((1, 2))
        return diagonal.clamp(min=0).contiguous() if bool((rest <= small).all()) else None

    def size(cov: Tensor) -> Tensor:
        return cov.abs().amax((1, 2), keepdim=True).clamp(min=1e-300)

    eye = torch.eye(cov0.shape[1], dtype=cov0.dtype, device=cov0.device).expand_as(cov0)
    mixed = cov0 / size(cov0) + math.sqrt(2) * cov1 / size(cov1)
    for basis in (eye, torch.linalg.eigh(mixed).eigenvectors):
        c, s = diagonals(basis, cov0), diagonals(basis, cov1)
        if c is not None and s is not None:
            return (None, None, c, s) if basis is eye else (basis.mT.contiguous(), basis, c, s)
    if latent:
        return None, None, cov0, cov1
    factor = torch.linalg.cholesky(cov0)
    half = torch.linalg.solve_triangular(factor, cov1, upper=False)
    inner = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    s, turn = torch.linalg.eigh(0.5 * (inner + inner.mT))
    back = factor @ turn
    into = torch.linalg.solve_triangular(factor, eye, upper=False)
    return (turn.mT @ into).contiguous(), back, torch.ones_like(s), s.clamp(min=0)
