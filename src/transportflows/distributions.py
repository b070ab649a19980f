"""Bases ρ0 and starting laws: anything that can be sampled.

The library asks a law for two things: ``sample(n, generator=...)`` and, where it is known,
``log_prob(x)``. The laws here are modules, so that a process moves to a device as a whole; an
object of the user's own with a ``sample`` method serves too (:func:`as_distribution`), a
:mod:`torch.distributions` law among them.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._checks import check_finite_rows
from ._random import draw_key, local
from ._tensor import sum_events

__all__ = [
    "Distribution",
    "Empirical",
    "Gaussian",
    "GaussianMixture",
    "Uniform",
    "as_distribution",
]

_LOG_2PI = math.log(2 * math.pi)


class Distribution(nn.Module, ABC):
    """A law on event shape ``shape``.

    A subclass sets ``shape`` through ``super().__init__(shape)`` and writes ``sample``.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__()
        self.shape = torch.Size([shape] if isinstance(shape, int) else shape)
        if len(self.shape) == 0:
            raise ValueError("the event shape is empty; write shape=(1,) for scalars")

    @abstractmethod
    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw ``(n, *shape)``; dtype and device default to torch's defaults and the module's."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at ``x`` ``(B, *)``, ``(B,)`` in nats."""
        raise NotImplementedError(f"{type(self).__name__} has no log-density")

    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this object."""
        raise NotImplementedError(f"{type(self).__name__} writes no config() to be saved by")


class Gaussian(Distribution):
    r"""``N(m, S)`` with S isotropic, diagonal or full.

    Args:
        shape: event shape.
        mean: m, a number or a tensor that broadcasts to ``shape``.
        scale: standard deviation, a positive number (isotropic) or a tensor that broadcasts to
            ``shape`` (diagonal).
        scale_tril: lower-triangular factor ``(d, d)`` of the covariance of the flattened event,
            instead of ``scale``.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        mean: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        *,
        scale_tril: Tensor | None = None,
    ) -> None:
        super().__init__(shape)
        full = torch.as_tensor(mean, dtype=torch.float64).expand(self.shape).clone()
        self.register_buffer("mean", full)
        if scale_tril is not None:
            d = self.shape.numel()
            if scale_tril.shape != (d, d):
                raise ValueError(
                    f"scale_tril is {tuple(scale_tril.shape)}; for shape {tuple(self.shape)}"
                    f" it must be ({d}, {d})"
                )
            spread = torch.as_tensor(scale_tril, dtype=torch.float64)
            if bool(spread.triu(1).any()):
                raise ValueError(
                    "scale_tril must be lower triangular; for a covariance S write"
                    " scale_tril=torch.linalg.cholesky(S)"
                )
            positive = spread.diagonal()
        else:
            spread = torch.as_tensor(scale, dtype=torch.float64)
            if spread.ndim > 0:
                spread = spread.expand(self.shape)
            positive = spread
        if not bool(((positive > 0) & torch.isfinite(positive)).all()):
            raise ValueError(
                f"scale must be positive and finite, got between {float(positive.min())} and"
                f" {float(positive.max())}"
            )
        if not bool(torch.isfinite(full).all()):
            raise ValueError("mean must be finite")
        self.register_buffer("scale", spread.clone())
        self._full = scale_tril is not None
        self.isotropic = spread.ndim == 0
        self.zero_mean = not bool(full.any())
        self._unit = self.isotropic and float(spread) == 1.0

    @classmethod
    def fit(cls, x: Tensor, *, covariance: str = "diagonal") -> Gaussian:
        """Fit mean and covariance to rows ``x`` ``(N, *)`` by moments.

        Args:
            x: at least two rows.
            covariance: ``"isotropic"``, ``"diagonal"`` or ``"full"`` (``(d, d)`` for d numbers in
                an event; needs more rows than d).
        """
        check_finite_rows(x, "x")
        if x.shape[0] < 2:
            raise ValueError("fitting a Gaussian needs at least 2 rows, got 1")
        shape, x = x.shape[1:], x.detach().double()
        mean = x.mean(0)
        if covariance == "isotropic":
            return cls(shape, mean, float(x.var(0).mean().sqrt()))
        if covariance == "diagonal":
            scale = x.std(0)
            still = int((scale <= 0).sum())
            if still:
                raise ValueError(
                    f"{still} of {scale.numel()} coordinates do not vary, so no diagonal Gaussian"
                    " fits; use covariance='isotropic', or drop them"
                )
            return cls(shape, mean, scale)
        if covariance == "full":
            centred = (x - mean).flatten(1)
            if x.shape[0] <= centred.shape[1]:
                raise ValueError(
                    f"a full covariance of {centred.shape[1]} numbers needs more rows than that,"
                    f" got {x.shape[0]}; use covariance='diagonal'"
                )
            factor = torch.linalg.cholesky(centred.mT @ centred / (x.shape[0] - 1))
            return cls(shape, mean, scale_tril=factor)
        raise ValueError(
            f"unknown covariance {covariance!r}; known: 'isotropic', 'diagonal', 'full'"
        )

    def sample(  # noqa: D102
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        device = self.mean.device if device is None else torch.device(device)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        z = torch.randn(
            n, *self.shape, generator=local(generator, device), dtype=dtype, device=device
        )
        if self._full:
            z = (z.flatten(1) @ self.scale.to(z).mT).view_as(z)
        elif not self._unit:
            z = z.mul_(self.scale.to(z))
        return z if self.zero_mean else z.add_(self.mean.to(z))

    def log_prob(self, x: Tensor) -> Tensor:  # noqa: D102
        centred = x - self.mean.to(x)
        d = self.shape.numel()
        if self._full:
            factor = self.scale.to(x)
            white = torch.linalg.solve_triangular(factor, centred.flatten(1).mT, upper=False).mT
            log_det = factor.diagonal().log().sum()
        else:
            white = centred / self.scale.to(x)
            log_det = self.scale.to(x).log().expand(self.shape).sum()
        return -0.5 * sum_events(white.square()) - log_det - 0.5 * d * _LOG_2PI

    def covariance(self) -> Tensor:
        """The covariance ``(d, d)`` of the flattened event, float64."""
        if self._full:
            return self.scale @ self.scale.mT
        return torch.diag(self.scale.square().expand(self.shape).flatten())

    def config(self) -> dict[str, Any]:  # noqa: D102
        spread = {"scale_tril" if self._full else "scale": self.scale}
        return {"shape": list(self.shape), "mean": self.mean, **spread}


class GaussianMixture(Distribution):
    r"""``Σ_k w_k N(m_k, S_k)``.

    Args:
        means: ``(K, *shape)``.
        scale: standard deviation of the components: a number, or ``(K,)``.
        weights: ``(K,)``, non-negative, normalised here; equal by default.
        covariances: ``(K, d, d)`` for the flattened events, instead of ``scale``.
    """

    means: Tensor
    covariances: Tensor
    weights: Tensor

    def __init__(
        self,
        means: Tensor,
        scale: float | Tensor = 1.0,
        *,
        weights: Tensor | Sequence[float] | None = None,
        covariances: Tensor | None = None,
    ) -> None:
        means = torch.as_tensor(means, dtype=torch.float64)
        check_finite_rows(means, "means")
        super().__init__(means.shape[1:])
        k, d = means.shape[0], self.shape.numel()
        if covariances is None:
            spread = torch.as_tensor(scale, dtype=torch.float64).expand(k)
            if not bool((spread > 0).all()):
                raise ValueError(f"scale must be positive, got {spread.tolist()}")
            covariances = spread.square()[:, None, None] * torch.eye(d, dtype=torch.float64)
        covariances = torch.as_tensor(covariances, dtype=torch.float64)
        if covariances.shape != (k, d, d):
            raise ValueError(
                f"covariances are {tuple(covariances.shape)}; for {k} means of {d} numbers they"
                f" must be ({k}, {d}, {d})"
            )
        factors, failed = torch.linalg.cholesky_ex(covariances)
        asymmetry = (covariances - covariances.mT).abs().max()
        if bool(failed.any()) or float(asymmetry) > 1e-8 * float(covariances.abs().max()):
            bad = failed.nonzero().flatten().tolist()
            raise ValueError(
                "covariances must be symmetric and positive definite;"
                f" {f'components {bad} are not' if bad else 'they are not symmetric'}"
            )
        w = torch.ones(k) if weights is None else torch.as_tensor(weights)
        w = w.to(torch.float64)
        if w.shape != (k,) or not bool((w >= 0).all()) or float(w.sum()) <= 0:
            raise ValueError(f"weights must be {k} non-negative numbers, got {w.tolist()}")
        self.register_buffer("means", means)
        self.register_buffer("covariances", covariances)
        self.register_buffer("weights", w / w.sum())
        self.register_buffer("_factors", factors)
        self._factors: Tensor

    def sample(  # noqa: D102
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        device = self.means.device if device is None else torch.device(device)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        generator = local(generator, device)
        weights = self.weights.to(device)
        labels = torch.multinomial(weights, n, replacement=True, generator=generator)
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

    def log_prob(self, x: Tensor) -> Tensor:  # noqa: D102
        centred = x.flatten(1)[:, None] - self.means.flatten(1).to(x)  # (B, K, d)
        factors = self._factors.to(x)
        white = torch.linalg.solve_triangular(factors, centred.permute(1, 2, 0), upper=False)
        log_det = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        d = self.shape.numel()
        terms = -0.5 * white.square().sum(1).mT - log_det - 0.5 * d * _LOG_2PI
        return torch.logsumexp(terms + self.weights.to(x).log(), dim=1)

    def config(self) -> dict[str, Any]:  # noqa: D102
        return {
            "means": self.means,
            "covariances": self.covariances,
            "weights": self.weights,
        }


class Uniform(Distribution):
    """The uniform law on the box ``[low, high)``.

    Args:
        shape: event shape.
        low: lower corner, a number or a tensor that broadcasts to ``shape``.
        high: upper corner, above ``low`` everywhere.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, shape: Sequence[int], low: float | Tensor = 0.0, high: float | Tensor = 1.0
    ) -> None:
        super().__init__(shape)
        for name, corner in (("low", low), ("high", high)):
            full = torch.as_tensor(corner, dtype=torch.float64).expand(self.shape).clone()
            self.register_buffer(name, full)
        if not bool((self.low < self.high).all() & (self.high - self.low).isfinite().all()):
            raise ValueError("low must be below high in every coordinate, and both finite")

    def sample(  # noqa: D102
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        device = self.low.device if device is None else torch.device(device)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        u = torch.rand(
            n, *self.shape, generator=local(generator, device), dtype=dtype, device=device
        )
        return torch.lerp(self.low.to(u), self.high.to(u), u)

    def log_prob(self, x: Tensor) -> Tensor:  # noqa: D102
        low, high = self.low.to(x), self.high.to(x)
        inside = ((x >= low) & (x < high)).flatten(1).all(1)
        return torch.where(inside, -(high - low).log().sum(), -math.inf)

    def config(self) -> dict[str, Any]:  # noqa: D102
        return {"shape": list(self.shape), "low": self.low, "high": self.high}


class Empirical(Distribution):
    """The empirical law of the rows of a tensor: each draw is one of them, with replacement.

    Args:
        data: ``(N, *)``, finite. It is not part of a ``state_dict``.
    """

    data: Tensor

    def __init__(self, data: Tensor) -> None:
        check_finite_rows(data, "data")
        super().__init__(data.shape[1:])
        self.register_buffer("data", data.detach(), persistent=False)

    def sample(  # noqa: D102
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        home = self.data.device
        rows = torch.randint(
            self.data.shape[0], (n,), generator=local(generator, home), device=home
        )
        return self.data[rows].to(device=device or home, dtype=dtype or self.data.dtype)


class _Wrapped(Distribution):
    """An object of the user's own with a ``sample`` method, seen as a Distribution."""

    def __init__(self, law: Any, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.law = law  # registered as a submodule where it is one
        try:
            parameters = inspect.signature(law.sample).parameters
        except ValueError:
            parameters = {}  # type: ignore[assignment]
        self._takes_generator = "generator" in parameters
        self._takes_shape = isinstance(law, torch.distributions.Distribution)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        if self._takes_generator:
            x = self.law.sample(n, generator=generator)
        else:
            # Its draws come from torch's default generator: seed that from ours, then restore it.
            key = draw_key(generator)
            with torch.random.fork_rng():
                torch.manual_seed(key)
                x = self.law.sample((n,) if self._takes_shape else n)
        if not isinstance(x, Tensor) or x.shape != (n, *self.shape):
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"{type(self.law).__name__}.sample({n}) gave {got} where a tensor of shape"
                f" {(n, *self.shape)} was expected"
            )
        return x.to(device=device, dtype=dtype or x.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        if not hasattr(self.law, "log_prob"):
            raise NotImplementedError(f"{type(self.law).__name__} has no log_prob")
        values: Tensor = self.law.log_prob(x)
        return values if values.ndim == 1 else sum_events(values)


def as_distribution(law: Any, shape: Sequence[int] | None = None) -> Distribution:
    """Return ``law`` as a :class:`Distribution`.

    Args:
        law: a Distribution; or any object with ``sample(n)`` or ``sample(n, generator=...)`` that
            gives ``(n, *shape)``; or a :class:`torch.distributions.Distribution`. An object that
            takes no generator is run with torch's default generators seeded from the caller's and
            restored afterwards, so it too gives the same draws for the same seed.
        shape: event shape of such an object; read off one draw of it if not given.

    Raises:
        TypeError: if ``law`` has no ``sample`` method.
    """
    if isinstance(law, Distribution):
        return law
    if isinstance(law, Tensor):
        raise TypeError("a tensor is not a law; write Empirical(data) for the law of its rows")
    if not callable(getattr(law, "sample", None)):
        raise TypeError(
            f"{type(law).__name__} has no sample method; give a Distribution such as"
            " Gaussian((2,)), or an object with sample(n) -> (n, *shape)"
        )
    if shape is None:
        if isinstance(law, torch.distributions.Distribution):
            shape = tuple(law.batch_shape) + tuple(law.event_shape)
        else:
            with torch.random.fork_rng():
                shape = tuple(law.sample(1).shape[1:])
    return _Wrapped(law, shape)
