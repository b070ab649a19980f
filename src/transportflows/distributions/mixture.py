"""Mixtures of Gaussian laws: the data of tests, since their oracles are exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.checks import check_events, check_finite_rows, integer
from .._core.precision import as_wide, symmetry_slack, wide
from .._core.random import local
from .._core.signatures import checked
from .._core.tensor import state_dtype
from ..observations import LinearObservation
from .base import _LOG_2PI, Distribution
from .posterior import posterior_components

__all__ = ["GaussianMixture"]

_CURE = "where that is rounding, write (covariances + covariances.mT) / 2"


@checked
class GaussianMixture(Distribution):
    r"""``Σ_k w_k N(m_k, S_k)``.

    Args:
        means: ``(K, *shape)``.
        scale: standard deviation of the components: a number, or ``(K,)``.
        weights: ``(K,)``, non-negative, normalised here; equal by default.
        covariances: ``(K, d, d)`` for the flattened events, instead of ``scale``.
        singular: let covariances be singular, as those of what was seen without noise are. Such a
            law is sampled and has its oracle, and has no density.

    Raises:
        ValueError: if scales are not positive, covariances not symmetric and positive definite,
            weights negative or without a sum, numbers not finite, or shapes do not fit the means.

    Example:
        >>> law = GaussianMixture(torch.tensor([[-3.0], [3.0]]), scale=0.1, weights=[0.25, 0.75])
        >>> x = law.sample(10_000, generator=torch.Generator().manual_seed(0))
        >>> abs(float((x > 0).float().mean()) - 0.75) < 0.02
        True
    """

    means: Tensor
    covariances: Tensor
    weights: Tensor

    def __init__(
        self,
        means: DataLike,
        scale: float | DataLike = 1.0,
        *,
        weights: DataLike | Sequence[float] | None = None,
        covariances: DataLike | None = None,
        singular: bool = False,
    ) -> None:
        means = as_wide(means, "means")
        check_finite_rows(means, "means")
        super().__init__(means.shape[1:])
        k, d = means.shape[0], self.shape.numel()
        if covariances is None:
            spread = as_wide(scale, "scale").expand(k)
            if not bool(((spread > 0) & spread.isfinite()).all()):
                raise ValueError(f"scale must be positive and finite, got {spread.tolist()}")
            covariances = spread.square()[:, None, None] * torch.eye(d, dtype=torch.float64)
        slack = symmetry_slack(covariances)
        covariances = as_wide(covariances, "covariances")
        if covariances.shape != (k, d, d):
            raise ValueError(
                f"covariances are {tuple(covariances.shape)}; for {k} means of {d} numbers they"
                f" must be ({k}, {d}, {d})"
            )
        if not bool(covariances.isfinite().all()):
            raise ValueError("covariances must be finite, and hold NaN or infinite numbers")
        self.singular = singular
        asymmetry, largest = (covariances - covariances.mT).abs().max(), covariances.abs().max()
        covariances = 0.5 * (covariances + covariances.mT)
        factors, failed = (_roots if singular else torch.linalg.cholesky_ex)(covariances)
        if bool(failed.any()) or float(asymmetry) > slack * float(largest):
            bad = failed.nonzero().flatten().tolist()
            raise ValueError(
                "covariances must be symmetric and positive definite;"
                f" {f'components {bad} are not' if bad else f'they are not symmetric; {_CURE}'}"
            )
        w = as_wide([1.0] * k if weights is None else weights, "weights")
        if w.shape != (k,) or not bool((w >= 0).all()) or not 0 < float(w.sum()) < math.inf:
            raise ValueError(
                f"weights must be {k} non-negative and finite numbers, not all 0, got {w.tolist()}"
            )
        self.register_buffer("means", means)
        self.register_buffer("covariances", covariances)
        self.register_buffer("weights", w / w.sum())
        self.register_buffer("_factors", factors)
        self._factors: Tensor

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        device = self.means.device if device is None else torch.device(device)
        n = integer("n", n, "a number of draws", least=0)
        dtype = state_dtype(dtype)
        generator = local(generator, device)
        weights = self.weights.to(device)
        labels = torch.multinomial(weights, max(n, 1), replacement=True, generator=generator)[:n]
        z = torch.randn(n, self.shape.numel(), generator=generator, dtype=dtype, device=device)
        x = torch.empty_like(z)
        means = self.means.flatten(1).to(z)
        for k, factor in enumerate(self._factors.to(z)):
            rows = labels == k
            if device.type == "cpu":
                x[rows] = means[k] + z[rows] @ factor.mT
            else:  # a mask as an index would wait for the device
                x = torch.where(rows[:, None], means[k] + z @ factor.mT, x)
        return x.view(n, *self.shape)

    def posterior(self, observation: LinearObservation) -> GaussianMixture:
        """The law of x given ``y = A x + σ n``, exactly: a mixture again.

        Without noise it is singular: it knows what was seen, and has no density.

        Args:
            observation: of one y, of events of this shape.

        Raises:
            ValueError: if it is of other events, has several y, or a y that no x gives.

        Example:
            >>> from transportflows.inverse import LinearObservation, Mask
            >>> two = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), scale=0.5)
            >>> seen = LinearObservation(Mask(torch.tensor([1, 0])), torch.tensor([2.0, 0.0]))
            >>> two.posterior(seen).means[1].tolist()
            [2.0, 1.0]
        """
        log_weights, means, covariances = self._posterior(observation)
        return GaussianMixture(
            means.view(-1, *self.shape),
            weights=torch.softmax(log_weights, 0),
            covariances=covariances,
            singular=self.singular or observation.noise == 0,
        ).to(self.means.device)

    def log_evidence(self, observation: LinearObservation) -> float:
        """``log p(y)``, the log-density of what was seen.

        It is of the part of y that the operator reaches: of the numbers that a mask keeps, of all
        numbers of a blur that can be undone.

        Args:
            observation: as for :meth:`posterior`.

        Raises:
            ValueError: as for :meth:`posterior`.

        Example:
            >>> from transportflows.inverse import LinearObservation, Mask
            >>> one = GaussianMixture(torch.zeros(1, 2))
            >>> seen = LinearObservation(Mask(torch.tensor([1, 0])), torch.zeros(2))
            >>> round(one.log_evidence(seen), 4)  # -log √2π
            -0.9189
        """
        return float(torch.logsumexp(self._posterior(observation)[0], 0))

    def _posterior(self, observation: LinearObservation) -> tuple[Tensor, Tensor, Tensor]:
        """Unnormalised log-weights, means and covariances of the components of the posterior."""
        if observation.shape != self.shape:
            raise ValueError(
                f"the observation is of events of shape {tuple(observation.shape)}, and this"
                f" mixture has {tuple(self.shape)}"
            )
        there = self.weights > 0
        return posterior_components(
            wide(self.weights[there]),
            wide(self.means[there].flatten(1)),
            wide(self.covariances[there]),
            observation,
        )

    def log_prob(self, x: Tensor) -> Tensor:
        check_events(x, self.shape, "x", f"this {type(self).__name__}")
        if self.singular:
            raise ValueError(
                "this mixture has singular covariances, so it has no density; for one give the"
                " observation some noise"
            )
        centred = x.flatten(1)[:, None] - self.means.flatten(1).to(x)  # (B, K, d)
        factors = self._factors.to(x)
        white = torch.linalg.solve_triangular(factors, centred.permute(1, 2, 0), upper=False)
        log_det = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        d = self.shape.numel()
        terms = -0.5 * white.square().sum(1).mT - log_det - 0.5 * d * _LOG_2PI
        return torch.logsumexp(terms + self.weights.to(x).log(), dim=1)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, components={len(self.means)}"

    def config(self) -> dict[str, Any]:
        return {
            "means": self.means,
            "covariances": self.covariances,
            "weights": self.weights,
            **({"singular": True} if self.singular else {}),
        }


def _roots(covariances: Tensor) -> tuple[Tensor, Tensor]:
    """Roots L of ``S = L Lᵀ``, ``(K, d, d)``, of singular S too; and which are not even that."""
    values, vectors = torch.linalg.eigh(covariances)
    small = 1e-12 * values.abs().amax(1, keepdim=True)
    root = torch.where(values > small, values, 0.0).sqrt()
    return vectors * root[:, None], (values < -1e4 * small).any(1)
