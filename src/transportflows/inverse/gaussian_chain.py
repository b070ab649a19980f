r"""A Gaussian model of x1 given x_t, and what follows from it for a step of the reverse chain.

*The chain.* From s to t the state moves, given x1, as under the reverse SDE of ``ε = g²/2``,

.. math:: x_t = a\, x_s + c\, x_1 + \sqrt f\, z, \qquad
          a = \frac{\beta_s \hat\sigma_t^2}{\beta_t \hat\sigma_s^2}, \quad c = \beta_t - a \beta_s,
          \quad f = \hat\sigma_t^2 - a^2 \hat\sigma_s^2,

with x less the base's share. The last step is ``x_t = x_1``.

*The model.* ``x_1 | x_s ~ N(d, C_s)`` with d the prediction of the field and

.. math:: C_s = \left(\mathrm{Cov}^{-1} + \frac{\beta_s^2}{\hat\sigma_s^2} \mathrm{Id}\right)^{-1},

Cov of all data. Then ``x_t = a x_s + c d + n`` with ``n ~ N(0, Q)``, ``Q = f Id + c² C_s``. For
Gaussian data all of this is exact, whatever the step.

*An observation* ``y = A x_1 + σ ζ`` has then, with ``S = A C_s Aᵀ + σ² Id``,

.. math:: y | x_s \sim N(A d, S), \qquad
          y | x_s, n \sim N(A (d + c\, C_s Q^{-1} n),\; A \tilde C A^T + \sigma^2 \mathrm{Id}),
          \quad \tilde C = f\, C_s Q^{-1},

and n given y is drawn by drawing x1, y and n of the model and correcting x1 by the gain times what
y is wrong by (Matheron's rule), which needs no root of a posterior covariance and is right for
σ = 0 too.

Everything commutes with Cov, so that in its eigenbasis all but S is diagonal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussian_part import GaussianPart

__all__ = ["Link", "Model"]

_FLAT = 1e-6  # of the largest variance: below it a direction of the data has none


@dataclass(frozen=True, eq=False)
class Link:
    """A step of the chain in the eigenbasis of Cov, states as rows ``(n, d)``.

    Attributes:
        keep: a.
        weight: c.
        fresh: f.
        spread: the diagonal of C_s, ``(d,)``.
        total: that of Q, ``(d,)``.
        matrix: A, ``(r, d)``.
        y: what was seen, ``(r,)``.
        noise: σ.
        factor: Cholesky's of S, ``(r, r)``.
    """

    keep: float
    weight: float
    fresh: float
    spread: Tensor
    total: Tensor
    matrix: Tensor
    y: Tensor
    noise: float
    factor: Tensor

    def log_likelihood(self, d: Tensor) -> Tensor:
        """``log p(y | x_s)`` of the model at predictions ``(n, d)``: ``(n,)``."""
        return _log_normal(self.y - d @ self.matrix.mT, self.factor)

    def later(self, d: Tensor, n: Tensor) -> Tensor:
        """``log p(y | x_s, n)`` of the model, ``(n,)``.

        Args:
            d: predictions, ``(n, d)``.
            n: how far the step was from its mean, ``(n, d)``.
        """
        known = d + n * (self.weight * self.spread / self.total)
        covariance = _seen(self.matrix, self.spread * self.fresh / self.total, self.noise)
        factor = torch.linalg.cholesky_ex(covariance)[0]
        return _log_normal(self.y - known @ self.matrix.mT, factor)

    def given_y(self, d: Tensor, z: Tensor, noise: Tensor, fresh: Tensor) -> Tensor:
        """Draws of n given y, ``(n, d)``.

        Args:
            d: predictions, ``(n, d)``.
            z: standard normals for x1, likewise.
            noise: standard normals for y, ``(n, r)``.
            fresh: standard normals of the step, ``(n, d)``.
        """
        moved = z * self.spread.sqrt()
        wrong = self.y - (d + moved) @ self.matrix.mT - self.noise * noise
        gain = torch.cholesky_solve(self.matrix * self.spread, self.factor)  # (r, d)
        found: Tensor = self.weight * (moved + wrong @ gain) + self.fresh**0.5 * fresh
        return found

    def log_ratio(self, n: Tensor, z: Tensor) -> Tensor:
        """``log N(n; 0, Q) − log N(z; 0, Id)`` less their constants, where n is z spread and moved.

        Args:
            n: ``(n, d)``.
            z: the standard normals that it was made of, ``(n, d)``.
        """
        return 0.5 * (z.square() - n.square() / self.total).sum(1)


@dataclass(frozen=True, eq=False)
class Model:
    """The model for all steps of a grid.

    Attributes:
        basis: eigenvectors of Cov as columns, ``(d, d)``, in the widest dtype.
        variances: its eigenvalues, ``(d,)``.
        matrix: A in that basis, ``(r, d)``.
        y: ``(r,)``.
        noise: σ.
        beta: β of the grid.
        square: σ̂².
    """

    basis: Tensor
    variances: Tensor
    matrix: Tensor
    y: Tensor
    noise: float
    beta: list[float]
    square: list[float]

    @classmethod
    def of(
        cls,
        part: GaussianPart,
        times: Tensor,
        covariance: Tensor,
        seen: tuple[Tensor, Tensor],
        noise: float,
    ) -> Model:
        """Made ready for a grid.

        Args:
            part: of the process.
            times: of the grid, on the device of its tables.
            covariance: Cov, ``(d, d)``.
            seen: A ``(r, d)`` and y ``(r,)``.
            noise: σ.
        """
        matrix, y = seen
        variances, basis = torch.linalg.eigh(covariance.to(matrix))
        variances = variances.clamp(min=_FLAT * float(variances.amax()))
        beta, square = part.path.beta(times).tolist(), part.scale_sq(times).tolist()
        return cls(basis, variances, matrix @ basis, y, noise, beta, square)

    def link(self, step: int) -> Link:
        """The step from place ``step`` of the grid; the last one goes to x1 itself."""
        b, late, v, w = *self.beta[step : step + 2], *self.square[step : step + 2]
        spread = self.variances * v / (v + b**2 * self.variances)
        if step == len(self.beta) - 2:
            keep, weight, fresh = 0.0, 1.0, 0.0
        else:
            keep = b * w / (late * v)
            weight, fresh = late - keep * b, max(w - keep**2 * v, 0.0)
        factor = torch.linalg.cholesky_ex(_seen(self.matrix, spread, self.noise))[0]
        total = fresh + weight**2 * spread
        own = (self.matrix, self.y, self.noise)
        return Link(keep, weight, fresh, spread, total, *own, factor)


def _seen(matrix: Tensor, spread: Tensor, noise: float) -> Tensor:
    """``A diag(spread) Aᵀ + σ² Id``, ``(r, r)``."""
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    found: Tensor = (matrix * spread) @ matrix.mT + noise**2 * eye
    return found


def _log_normal(off: Tensor, factor: Tensor) -> Tensor:
    """``log N(off; 0, L Lᵀ)`` of rows ``(n, r)``, ``(n,)``."""
    white = torch.linalg.solve_triangular(factor, off.mT, upper=False)
    constant = factor.diagonal().log().sum() + 0.5 * len(factor) * math.log(2 * math.pi)
    found: Tensor = -0.5 * white.square().sum(0) - constant
    return found
