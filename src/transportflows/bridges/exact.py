r"""The exact field of an affine path between pairs whose law is a mixture of Gaussians.

With ``x_t = α x0 + β x1 + γ z`` each component of :class:`GaussianPairs` gives one of x_t, of mean
``μ = α m + β n`` and covariance ``Σ = α² A + β² B + αβ (C + Cᵀ) + γ² Id``, and

.. math:: E[\dot x_t \mid x_t, k] = \dot\mu_k + G_k \Sigma_k^{-1} (x - \mu_k), \qquad
          G = \mathrm{Cov}(\dot x_t, x_t) = \alpha\dot\alpha A + \beta\dot\beta B
          + \dot\alpha\beta\, C + \alpha\dot\beta\, C^\top + \gamma\dot\gamma .

G is symmetric only where C is; its symmetric part is Σ̇/2. The velocity is the mean of these, with
the weights of the components given x_t, and the score that of ``-Σ_k⁻¹ (x - μ_k)``. The conditional
means of x0 and of x1 are had likewise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.conditions import NO_CONDITIONS
from .._core.precision import wide
from .._core.signatures import checked
from ..couplings import Paired
from ..interpolants import Brownian, Linear
from ..oracles.base import ExactField
from ..process import Process
from .pairs import GaussianPairs

__all__ = ["ExactBridge"]


@checked
class ExactBridge(ExactField):
    """The exact velocity and score of a path between pairs of a known law.

    Where the pairs are those of a Schrödinger bridge and the path is ``Linear(Brownian(a))``, this
    is that bridge: :func:`transportflows.sample` with ``epsilon=a/2`` has the law of its paths, and
    with any other ε, and the ODE, the laws of x_t.

    Args:
        pairs: the law of (x0, x1).
        process: an affine path; by default the bridge's, ``Linear(Brownian(pairs.variance))``.
            The base of the process is the law of x0.

    Raises:
        ValueError: if the path is not affine, or none is given for pairs that are of no bridge.

    Example:
        >>> import transportflows as tpf
        >>> pairs = tpf.bridges.gaussian_bridge(
        ...     tpf.Gaussian((1,)), tpf.Gaussian((1,), 3.0, 2.0), variance=1.0
        ... )
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = tpf.sample(tpf.bridges.ExactBridge(pairs), 10_000, epsilon=0.5,
        ...                generator=generator).x
        >>> round(float(x.mean())), round(float(x.std()))
        (3, 2)
    """

    outputs = ("velocity", "score")

    def __init__(self, pairs: GaussianPairs, process: Process | None = None) -> None:
        if process is None:
            if pairs.variance is None:
                raise ValueError(
                    "these pairs are of no bridge of a known variance, so the path must be given:"
                    " ExactBridge(pairs, Process(Linear(...), base=pairs.base, coupling=Paired()))"
                )
            path = Linear(Brownian(pairs.variance))
            process = Process(path, base=pairs.base, coupling=Paired())
        super().__init__(process, pairs.shape)
        if process.coupling.independent:
            raise ValueError(
                "the coupling of this process is independent, and these pairs depend on each"
                " other; write Process(path, base=pairs.base, coupling=Paired())"
            )
        self.pairs = pairs

    @property
    def path_epsilon(self) -> float | None:
        """The bridge's own ε, a/2; None for pairs of no bridge, or on another path."""
        path, a = self.process.interpolant, self.pairs.variance
        if a is None or type(path) is not Linear or type(path.latent) is not Brownian:
            return None
        return a / 2 if math.isclose(float(path.latent.a), a, rel_tol=1e-6) else None

    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        self._check(t, x)
        rows, times = x.flatten(1), wide(t).expand(() if t.ndim == 0 else x.shape[:1])
        size = len(self.pairs.weights) * rows.shape[1] ** 2
        block = len(rows) if t.ndim == 0 else max(1, _NUMBERS // size)
        found = [
            self._exact(times if t.ndim == 0 else times[k : k + block], rows[k : k + block])
            for k in range(0, len(rows), block)
        ]
        velocity, score = (torch.cat(parts) for parts in zip(*found, strict=True))
        return velocity.to(x).view_as(x), score.to(x).view_as(x)

    def _exact(self, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and score of rows ``(B, d)``, at one time or at one a row, float64."""
        pairs, path, d = self.pairs, self.process.affine, self.pairs.d
        x = wide(rows)[:, None]  # (B, 1, d)
        a, b, c = (block.to(x) for block in pairs.blocks())
        means = pairs.means.to(x)
        m, n = means[:, :d], means[:, d:]
        alpha, beta, alpha_dot, beta_dot = (
            part(t).reshape(-1, 1, 1)
            for part in (path.alpha, path.beta, path.alpha_dot, path.beta_dot)
        )
        apart = x - (alpha * m + beta * n)
        speed = alpha_dot * m + beta_dot * n
        eye = torch.eye(d, dtype=x.dtype, device=x.device)
        square, half_dot = path.gamma_sq(t), 0.5 * path.gamma_sq_dot(t)
        alpha, beta, alpha_dot, beta_dot, square, half_dot = (
            part.reshape(-1, 1, 1, 1)
            for part in (alpha, beta, alpha_dot, beta_dot, square, half_dot)
        )
        sigma = alpha**2 * a + beta**2 * b + alpha * beta * (c + c.mT) + square * eye
        gain = (
            alpha * alpha_dot * a + beta * beta_dot * b + alpha_dot * beta * c
            + alpha * beta_dot * c.mT + half_dot * eye
        )  # fmt: skip
        try:
            factor = torch.linalg.cholesky(sigma)  # (T, K, d, d)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise ValueError(
                f"the covariance of x_t is not positive definite at a time from {float(t.min()):g}"
                f" to {float(t.max()):g}; times lie in [0, 1]"
            ) from error
        if len(factor) == 1:  # one time: all rows at once
            right = apart.permute(1, 2, 0)[None]
            u = torch.cholesky_solve(right, factor)[0].permute(2, 0, 1)
            moved = torch.einsum("kij,bkj->bki", gain[0], u)
        else:
            u = torch.cholesky_solve(apart[..., None], factor)[..., 0]
            moved = (gain @ u[..., None])[..., 0]
        logs = pairs.weights.log().to(x) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        w = (logs - 0.5 * (apart * u).sum(-1)).softmax(1)[..., None]
        return (w * (speed + moved)).sum(1), -(w * u).sum(1)


_NUMBERS = 1 << 21  # numbers in the covariances of a block of rows
