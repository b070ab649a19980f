r"""Joint laws of (x0, x1) that are mixtures of Gaussians, so that all of a bridge is known.

With components of weights w_k, means (m_k, n_k) and covariances

.. math:: \begin{pmatrix} A_k & C_k \\ C_k^\top & B_k \end{pmatrix} ,

the marginals are mixtures, x1 given x0 is one, and so is x_t of any affine path
(:class:`ExactBridge`).

Two families of Schrödinger bridges are of this form. A law of pairs is that of the bridge of a
Brownian motion of variance a between its own marginals if and only if its density is
``f(x0) exp(-|x1 - x0|²/2a) g(x1)`` (Léonard 2014, "A survey of the Schrödinger problem", theorem
2.8; f and g are its *potentials*).

- :func:`gaussian_bridge`: one component, with the cross covariance (Bunne, Hsieh, Cuturi and Krause
  2023, "The Schrödinger bridge between Gaussian measures has a closed form"; Janati et al. 2020)

  .. math:: C = A^{1/2} \big( A^{1/2} B A^{1/2} + \tfrac{a^2}{4} \big)^{1/2} A^{-1/2}
            - \tfrac{a}{2} ,

  of which the inverse of the whole covariance has the block ``-Id/a``.
- :func:`potential_bridge`: both potentials mixtures, ``f = Σ p_i N(m_i, S_i)``, ``g = Σ q_j N(n_j,
  T_j)``. The component (i, j) has the precision ``[[S_i⁻¹ + 1/a, -1/a], [-1/a, T_j⁻¹ + 1/a]]`` and
  the weight ``p_i q_j N(m_i - n_j; 0, S_i + T_j + a)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core.arguments import positive_integer, positive_number
from .._core.arrays import DataLike
from .._core.checks import shown
from .._core.precision import as_wide, wide
from .._core.random import local
from .._core.signatures import checked
from ..distributions import Gaussian, GaussianMixture

__all__ = ["GaussianPairs", "gaussian_bridge", "potential_bridge"]


@checked
class GaussianPairs:
    r"""A mixture of joint Gaussians of (x0, x1).

    Args:
        weights: positive, ``(K,)``; they are divided by their sum.
        means0: of x0, ``(K, *)``.
        means1: of x1, ``(K, *)``.
        covariances: of the flattened (x0, x1), ``(K, 2d, 2d)``.
        variance: a, where the law is that of the Schrödinger bridge of a Brownian motion of
            variance a; None for any other.

    Raises:
        ValueError: if shapes do not fit, or a covariance is not positive definite.

    Example:
        >>> zero, one = torch.zeros(1, 1), torch.ones(1, 1)
        >>> covariance = torch.tensor([[[1.0, 0.5], [0.5, 1.0]]])
        >>> pairs = GaussianPairs(torch.ones(1), zero, one, covariance)
        >>> weight, mean, variance = pairs.given_start(torch.tensor([[2.0]]))
        >>> float(mean), float(variance)  # 1 + 0.5 · 2 and 1 - 0.5²
        (2.0, 0.75)
    """

    def __init__(
        self,
        weights: DataLike,
        means0: DataLike,
        means1: DataLike,
        covariances: DataLike,
        *,
        variance: float | None = None,
    ) -> None:
        weights, covariances = as_wide(weights, "weights"), as_wide(covariances, "covariances")
        means0, means1 = as_wide(means0, "means0"), as_wide(means1, "means1")
        if means0.shape != means1.shape or means0.ndim < 2 or weights.shape != means0.shape[:1]:
            raise ValueError(
                "weights are (K,) and means (K, *), of one event shape for both ends, got"
                f" {tuple(weights.shape)}, {tuple(means0.shape)} and {tuple(means1.shape)}"
            )
        k, d = len(weights), means0[0].numel()
        if covariances.shape != (k, 2 * d, 2 * d):
            raise ValueError(
                f"covariances are those of (x0, x1) together, {(k, 2 * d, 2 * d)}, got"
                f" {tuple(covariances.shape)}"
            )
        if not bool((weights > 0).all()):
            raise ValueError(f"weights must be positive, got {weights.tolist()}")
        self.weights = weights / weights.sum()
        self.shape = means0.shape[1:]
        self.means = torch.cat([means0.flatten(1), means1.flatten(1)], 1)
        self.covariances = covariances
        self.variance = None if variance is None else positive_number("variance", variance)
        self._factor, failed = torch.linalg.cholesky_ex(self.covariances)
        if bool(failed.any()) or not bool(torch.isfinite(self._factor).all()):
            raise ValueError("a covariance of (x0, x1) is not positive definite")

    @property
    def d(self) -> int:
        """The number of entries of an event."""
        return self.shape.numel()

    def blocks(self) -> tuple[Tensor, Tensor, Tensor]:
        """``Cov x0``, ``Cov x1`` and ``Cov(x0, x1)`` of each component, ``(K, d, d)`` each."""
        d, whole = self.d, self.covariances
        return whole[:, :d, :d], whole[:, d:, d:], whole[:, :d, d:]

    @property
    def base(self) -> GaussianMixture:
        """The law of x0."""
        return self._marginal(0)

    @property
    def data(self) -> GaussianMixture:
        """The law of x1."""
        return self._marginal(1)

    def _marginal(self, end: int) -> GaussianMixture:
        d = self.d
        means = self.means[:, end * d : (end + 1) * d].reshape(-1, *self.shape)
        return GaussianMixture(means, covariances=self.blocks()[end], weights=self.weights)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pairs (x0, x1), each ``(n, *)``.

        Args:
            n: how many.
            generator: source of randomness.
            dtype: of the rows; torch's default if None.
        """
        n, draws = positive_integer("n", n), local(generator, self.means.device)
        which = torch.multinomial(self.weights, n, replacement=True, generator=draws)
        z = torch.randn(
            n, 2 * self.d, generator=draws, dtype=self.means.dtype, device=self.means.device
        )
        rows = torch.empty_like(z)
        for k in torch.unique(which).tolist():
            own = which == k
            rows[own] = self.means[k] + z[own] @ self._factor[k].mT
        rows = rows.to(torch.get_default_dtype() if dtype is None else dtype)
        x0, x1 = rows[:, : self.d], rows[:, self.d :]
        return x0.reshape(n, *self.shape), x1.reshape(n, *self.shape)

    def given_start(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The law of x1 given x0, a mixture.

        Args:
            x0: ``(B, *)``.

        Returns:
            Weights ``(B, K)``, means ``(B, K, d)`` and covariances ``(K, d, d)``.
        """
        d, (a, b, c) = self.d, self.blocks()
        y = wide(x0).flatten(1)[:, None] - self.means[:, :d]  # (B, K, d)
        gain = torch.linalg.solve(a, c)  # A⁻¹ C
        means = self.means[:, d:] + torch.einsum("bki,kij->bkj", y, gain)
        factor = torch.linalg.cholesky(a)
        white = torch.linalg.solve_triangular(factor, y.permute(1, 2, 0), upper=False)
        logs = self.weights.log() - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        logs = logs - 0.5 * white.square().sum(1).mT
        return logs.softmax(1), means, b - c.mT @ gain

    def __repr__(self) -> str:
        of = "" if self.variance is None else f", variance={self.variance:g}"
        return f"{type(self).__name__}(<{len(self.weights)} of {tuple(self.shape)}>{of})"


@checked
def gaussian_bridge(base: Gaussian, data: Gaussian, variance: float) -> GaussianPairs:
    """The plan of the Schrödinger bridge between two Gaussians.

    Args:
        base: law of x0.
        data: law of x1.
        variance: a, of the Brownian motion at t = 1: σ² where it is written ``dX = σ dW``.

    Raises:
        TypeError: if an end is no Gaussian.
        ValueError: if a is not positive, or event shapes differ.

    Example:
        >>> pairs = gaussian_bridge(Gaussian((1,)), Gaussian((1,), 3.0, 2.0), variance=1.0)
        >>> round(float(pairs.blocks()[2]), 4)  # (4 + 1/4)^½ - 1/2
        1.5616
    """
    a = positive_number("variance", variance)
    for law, name in ((base, "base"), (data, "data")):
        if not isinstance(law, Gaussian):
            raise TypeError(f"the {name} must be a Gaussian, got {shown(law)}")
    if base.shape != data.shape:
        raise ValueError(
            f"base and data have event shapes {tuple(base.shape)} and {tuple(data.shape)}; they"
            " must agree"
        )
    first, second = wide(base.covariance()), wide(data.covariance())
    values, basis = torch.linalg.eigh(first)
    if not bool((values > 0).all()):
        raise ValueError("the base is singular; a bridge from a point is the Föllmer process")
    root = basis @ torch.diag(values.sqrt()) @ basis.mT
    inverse_root = basis @ torch.diag(values.rsqrt()) @ basis.mT
    inner = root @ second @ root
    values, basis = torch.linalg.eigh(0.5 * (inner + inner.mT))
    values = values.clamp(min=0)
    shrunk = values / ((values + 0.25 * a * a).sqrt() + 0.5 * a)  # √(λ + a²/4) - a/2
    cross = root @ (basis * shrunk) @ basis.mT @ inverse_root
    whole = torch.cat([torch.cat([first, cross], 1), torch.cat([cross.mT, second], 1)])
    first_mean, second_mean = (wide(law.mean).reshape(1, *law.shape) for law in (base, data))
    return GaussianPairs(whole.new_ones(1), first_mean, second_mean, whole[None], variance=a)


@checked
def potential_bridge(
    start: GaussianMixture, end: GaussianMixture, variance: float
) -> GaussianPairs:
    """The plan ``∝ f(x0) exp(-|x1 - x0|²/2a) g(x1)`` of two potentials that are mixtures.

    Args:
        start: f, up to a factor.
        end: g, up to a factor.
        variance: a.

    Raises:
        ValueError: if a is not positive, or event shapes differ.

    Example:
        >>> one = GaussianMixture(torch.zeros(1, 1))
        >>> pairs = potential_bridge(one, one, variance=1.0)  # exp(-x0²/2 - (x1 - x0)²/2 - x1²/2)
        >>> pairs.covariances  # the inverse of [[2, -1], [-1, 2]]
        tensor([[[0.6667, 0.3333],
                 [0.3333, 0.6667]]], dtype=torch.float64)
    """
    a = positive_number("variance", variance)
    if start.shape != end.shape:
        raise ValueError(
            f"the potentials have event shapes {tuple(start.shape)} and {tuple(end.shape)}; they"
            " must agree"
        )
    m, n = wide(start.means).flatten(1), wide(end.means).flatten(1)
    s, u = wide(start.covariances), wide(end.covariances)
    i, j, d = len(m), len(n), m.shape[1]
    m, s = m.repeat_interleave(j, 0), s.repeat_interleave(j, 0)
    n, u = n.repeat(i, 1), u.repeat(i, 1, 1)
    eye = torch.eye(d, dtype=m.dtype, device=m.device)
    # Given potentials alone x1 - x0 is N(n - m, S + T), and is seen to be 0 with variance a.
    apart, seen = n - m, s + u + a * eye
    gain = torch.cat([s, -u], 1) @ torch.linalg.inv(seen)  # (K, 2d, d)
    means = torch.cat([m, n], 1) + (gain @ apart[..., None])[..., 0]
    blocks = torch.zeros(i * j, 2 * d, 2 * d, dtype=m.dtype, device=m.device)
    blocks[:, :d, :d], blocks[:, d:, d:] = s, u
    cov = blocks - gain @ torch.cat([s, -u], 1).mT
    factor = torch.linalg.cholesky(seen)
    white = torch.linalg.solve_triangular(factor, apart[..., None], upper=False)[..., 0]
    logs = wide(start.weights).log().repeat_interleave(j) + wide(end.weights).log().repeat(i)
    logs = logs - 0.5 * white.square().sum(1) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
    there = logs > logs.max() - _NEGLIGIBLE
    weights, means = logs[there].softmax(0), means[there]
    ends = [part.reshape(-1, *start.shape) for part in (means[:, :d], means[:, d:])]
    cov = 0.5 * (cov + cov.mT)[there]
    return GaussianPairs(weights, ends[0], ends[1], cov, variance=a)


_NEGLIGIBLE = 80 * math.log(2)  # components of less than 1e-24 of the largest weight are left out
