r"""Oracles: the exact fields of processes between known laws.

Where both ends are Gaussian mixtures, independent of each other, and the path is affine, the law
of ``x_t`` is a Gaussian mixture too. A component i of the base ``N(m_i, C_i)`` with weight p_i and
a component j of the data ``N(μ_j, S_j)`` with weight q_j make one component

.. math:: N(M_{ij}, \Sigma_{ij}), \quad M_{ij} = \alpha m_i + \beta \mu_j, \quad
          \Sigma_{ij} = \alpha^2 C_i + \beta^2 S_j + \gamma^2 \mathrm{Id}

of weight ``p_i q_j``. With ``u = Σ⁻¹ (x - M)`` in each and the posterior weights ``w_ij(t, x)``, by
the rules of Gaussian conditioning

.. math:: s = -\sum w u, \quad E[x_0 | x_t] = \sum w (m + \alpha C u), \quad
          E[x_1 | x_t] = \sum w (\mu + \beta S u), \quad
          b = \sum w (\dot M + \tfrac12 \dot\Sigma u).

The last is ``v - γ γ̇ s`` written out: the derivatives of α², β², γ² enter, not those of α and γ, so
it is finite at both ends (Albergo, Boffi & Vanden-Eijnden 2023, appendix A, has the case of
``β = 1 - α``). Logarithms and a softmax keep far tails finite.

Cost. Where ``C_i`` and ``S_j`` commute for all pairs (an isotropic base, a one-sided path,
diagonal covariances) they share eigenvectors, and where the path has no latent any two are
diagonal in a common basis. Then Σ is diagonal in a basis that does not depend on time, and a call
costs ``O(B K d²)`` for K pairs, or ``O(B K d)`` where that basis is the given one. Otherwise Σ is
factorised at each distinct time.

Where rho_1 is the empirical law of some data, the same sum runs over the data with S = 0: the
field that a network of unlimited capacity learns from them, which ends on the data themselves.

Oracles test samplers, losses and metrics: they are fields, so ``sample(oracle, n)`` works.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ._checks import check_finite_rows, check_state
from ._random import local
from ._tensor import as_time, expand_time, sum_events
from .distributions import Distribution, Empirical, Gaussian, GaussianMixture
from .fields import Field, Network
from .interpolants import AffineInterpolant
from .process import Process

__all__ = ["EmpiricalOracle", "GaussianMixtureOracle", "oracle"]

_LOG_2PI = math.log(2 * math.pi)
_NUMBERS = 1 << 19  # numbers that a block of rows holds at once: they fit a cache
_FEW_TIMES = 64  # up to so many distinct times are served one by one


def oracle(
    process: Process, data: Distribution | Tensor
) -> GaussianMixtureOracle | EmpiricalOracle:
    """Return the exact field of ``process`` for ``data``.

    Args:
        process: an affine process with an independent coupling.
        data: ρ1, a :class:`Gaussian`, a :class:`GaussianMixture`, or the rows of a tensor
            ``(N, *)`` (or an :class:`Empirical` law of them).

    Raises:
        TypeError: if no oracle is known for such data.
    """
    if isinstance(data, (Gaussian, GaussianMixture)):
        return GaussianMixtureOracle(process, data)
    if isinstance(data, Empirical):
        data = data.data
    if isinstance(data, Tensor):
        return EmpiricalOracle(process, data)
    raise TypeError(
        f"no oracle is known for data of type {type(data).__name__}; give a Gaussian, a"
        " GaussianMixture, or a tensor of rows (N, *)"
    )


class _Oracle(Field):
    """A field without a network."""

    _like: Tensor

    def __init__(self, process: Process, shape: torch.Size) -> None:
        nn.Module.__init__(self)
        if not isinstance(process, Process):
            raise TypeError(f"process must be a Process, got {type(process).__name__}")
        if not isinstance(process.interpolant, AffineInterpolant):
            raise ValueError(
                f"an oracle needs an affine path x_t = α x0 + β x1 + γ z, and the law of x_t under"
                f" {type(process.interpolant).__name__} has no closed form; write it as an"
                " AffineInterpolant where it is one"
            )
        if process.shape is not None and process.shape != shape:
            raise ValueError(
                f"the data have event shape {tuple(shape)} and the process has"
                f" {tuple(process.shape)}; they must agree"
            )
        self.process = process
        self.transform = None
        self.shape = shape
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    @property
    def networks(self) -> tuple[Network, ...]:
        return ()

    def reference(self) -> Tensor:
        return torch.zeros((), device=self._like.device)

    def _check(self, t: Tensor, x: Tensor) -> None:
        check_state(t, x)
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"x is {tuple(x.shape)}, and this oracle has states of shape"
                f" (B, {', '.join(map(str, self.shape))})"
            )

    def _times(self, t: float | Tensor, n: int, like: Tensor) -> Tensor:
        t = as_time(t, like)
        if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != n):
            raise ValueError(f"got t of shape {tuple(t.shape)} for {n} rows; it is () or ({n},)")
        return t


class GaussianMixtureOracle(_Oracle):
    r"""The exact fields between Gaussians or Gaussian mixtures, under any affine path.

    A :class:`Field` without a network: ``velocity``, ``mean_velocity``, ``score``, ``noise`` and
    ``data`` are exact, finite on the closed interval [0, 1], differentiable in t and x, and of the
    dtype and device of x. Formulas: see the module.

    Args:
        process: an affine interpolant with an independent coupling.
        data: ρ1, a :class:`Gaussian` (isotropic, diagonal or full) or a :class:`GaussianMixture`.
        base: ρ0, likewise, where the process has no base of its own, or one in another form (a
            law of the user's own which is in truth this mixture).

    Raises:
        TypeError: if an end is neither a Gaussian nor a mixture of them.
        ValueError: if the path is not affine, the coupling is not independent, or event shapes
            differ.

    Example:
        >>> from transportflows.interpolants import Linear
        >>> process = Process(Linear(), base=Gaussian((2,)))
        >>> two = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), scale=0.1)
        >>> exact = GaussianMixtureOracle(process, two)
        >>> exact.velocity(torch.tensor(0.0), torch.zeros(1, 2))  # E[x1] - x0
        tensor([[0., 0.]])
    """

    outputs = ("velocity", "score")

    log_weight: Tensor  # (K, 1), with every constant of the log-density
    mean0: Tensor  # (K, d): m and μ of each pair
    mean1: Tensor
    spread0: Tensor  # (K, d): C and S in the common basis, or (K, d, d) where there is none
    spread1: Tensor
    centre0: Tensor  # (K, d, 1): m and μ in the common basis
    centre1: Tensor
    into: Tensor | None  # (K, d, d) to the common basis and back; None where it is the given one
    back: Tensor | None

    def __init__(
        self,
        process: Process,
        data: Gaussian | GaussianMixture,
        base: Gaussian | GaussianMixture | None = None,
    ) -> None:
        weight1, mean1, cov1 = _components(data, "data")
        super().__init__(process, data.shape)
        self.rho1 = data
        self.rho0 = self._resolve_base(base) if process.interpolant.uses_base else None
        if self.rho0 is None:  # α ≡ 0: x0 does not enter
            weight0, mean0, cov0 = weight1.new_ones(1), 0 * mean1[:1], 0 * cov1[:1]
        else:
            weight0, mean0, cov0 = _components(self.rho0, "base")
        device = weight1.device
        j, i = len(weight1), len(weight0)
        d = data.shape.numel()
        log_weight = (weight0.to(device)[:, None] * weight1).log().reshape(-1)
        mean0 = mean0.to(device).repeat_interleave(j, 0)
        cov0 = cov0.to(device).repeat_interleave(j, 0)
        mean1, cov1 = mean1.repeat(i, 1), cov1.repeat(i, 1, 1)

        into, back, spread0, spread1 = _common_basis(cov0, cov1, process.interpolant.has_latent)
        self.diagonal = spread0.ndim == 2
        centre0, centre1 = mean0[:, :, None], mean1[:, :, None]
        if into is not None:
            centre0, centre1 = into @ centre0, into @ centre1
            log_weight = log_weight + torch.linalg.slogdet(into).logabsdet
        self._zero_mean = not bool(mean0.any())
        table = {
            "log_weight": (log_weight - 0.5 * d * _LOG_2PI)[:, None],
            "mean0": mean0,
            "mean1": mean1,
            "spread0": spread0,
            "spread1": spread1,
            "centre0": centre0,
            "centre1": centre1,
            "into": into,
            "back": back,
        }
        for name, tensor in table.items():
            self.register_buffer(name, tensor, persistent=False)

    def _resolve_base(self, base: Gaussian | GaussianMixture | None) -> Gaussian | GaussianMixture:
        process = self.process
        if not process.coupling.independent:
            raise ValueError(
                f"no oracle is known for the coupling {type(process.coupling).__name__}: given"
                " x_t, x0 and x1 are Gaussian in closed form only where they are independent."
                " Leave coupling= out, or compare with samples (tpf.metrics) instead"
            )
        known = (Gaussian, GaussianMixture)
        if base is not None and process.base is not base and isinstance(process.base, known):
            raise ValueError(
                "the process has a base of its own that is not the one given; leave base= out"
            )
        base = process.base if base is None else base  # type: ignore[assignment]
        if not isinstance(base, known):
            raise TypeError(
                f"the base must be a Gaussian or a GaussianMixture, got {type(base).__name__}; fit"
                " one (Gaussian.fit(x0)), or give base= the law that it is"
            )
        if base.shape != self.shape:
            raise ValueError(
                f"the base has event shape {tuple(base.shape)} and the data have"
                f" {tuple(self.shape)}; they must agree"
            )
        return base

    # ------------------------------------------------------------------------- the exact fields

    def predict(
        self, t: Tensor, x: Tensor, *, needed: tuple[bool, ...] | None = None, **cond: Any
    ) -> tuple[Tensor | None, ...]:
        """``(b, s)``, each ``(B, *)``, or None where not needed; conditions are ignored."""
        wanted = [o for o, n in zip(self.outputs, needed or (True, True), strict=True) if n]
        values = dict(zip(wanted, self._exact(t, x, *wanted), strict=True))
        return tuple(values.get(o) for o in self.outputs)

    def velocity(self, t: Tensor, x: Tensor, **cond: Any) -> Tensor:
        """``b = Σ w (Ṁ + ½ Σ̇ u)``, ``(B, *)``."""
        return self._exact(t, x, "velocity")[0]

    def mean_velocity(self, t: Tensor, x: Tensor, **cond: Any) -> Tensor:
        """``v = α̇ E[x0 | x_t] + β̇ E[x1 | x_t]``, ``(B, *)``."""
        return self._exact(t, x, "mean_velocity")[0]

    def score(self, t: Tensor, x: Tensor, **cond: Any) -> Tensor:
        """``s = ∇ log ρ_t = -Σ w u``, ``(B, *)``."""
        return self._exact(t, x, "score")[0]

    def noise(self, t: Tensor, x: Tensor, **cond: Any) -> Tensor:
        """``η̂ = -σ̂ s``, ``(B, *)``, with σ̂ the noise scale of the process."""
        score = self._exact(t, x, "score")[0]
        scale = self.process.noise_scale(t.to(x.device, torch.float64))
        return -expand_time(scale.to(x.dtype), x) * score

    def data(self, t: Tensor, x: Tensor, **cond: Any) -> Tensor:
        """``d = E[x1 | x_t] = Σ w (μ + β S u)``, ``(B, *)``."""
        return self._exact(t, x, "data")[0]

    def log_prob(self, t: Tensor, x: Tensor) -> Tensor:
        """``log ρ_t(x)`` in nats, ``(B,)``, for t ``()`` or ``(B,)`` and x ``(B, *)``."""
        return self._exact(t, x, "log_prob")[0]

    def sample(
        self,
        t: float | Tensor,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw ``(n, *)`` from ρ_t; t is one time, or ``(n,)``."""
        device = torch.device(device or self._like.device)
        generator = local(generator, device)
        x1 = self.rho1.sample(n, generator=generator, dtype=dtype, device=device)
        x0 = torch.zeros_like(x1)
        if self.rho0 is not None:
            x0 = self.rho0.sample(n, generator=generator, dtype=x1.dtype, device=device)
        wide = expand_time(self._times(t, n, x1), x1)
        x = self.process.interpolant.mean(wide, x0, x1)
        if not self.process.interpolant.has_latent:
            return x
        z = torch.randn(x1.shape, generator=generator, dtype=x1.dtype, device=device)
        return torch.addcmul(x, self.process.interpolant.gamma(wide), z)

    # ------------------------------------------------------------------------------- the work

    def _exact(self, t: Tensor, x: Tensor, *wanted: str) -> list[Tensor]:
        """Compute what is wanted, in blocks of rows."""
        self._check(t, x)
        t = t.to(x.device, torch.float64)
        work = torch.promote_types(x.dtype, torch.float32)
        rows, d = x.shape[0], self.shape.numel()
        flat = x.reshape(rows, d).to(work)
        if self.diagonal or t.ndim == 0:
            parts = self._blocks(t, flat, wanted, len(self.mean0) * d)
        elif rows > 1 and not _tracked(t) and (groups := _groups(t)) is not None:
            times, order, sizes = groups
            sorted_rows = torch.split(flat[order], sizes)
            of_times = [
                self._blocks(time, block, wanted, len(self.mean0) * d)
                for time, block in zip(times.unbind(), sorted_rows, strict=True)
            ]
            inverse = order.argsort()
            parts = [torch.cat(column)[inverse] for column in zip(*of_times, strict=True)]
        else:
            parts = self._blocks(t, flat, wanted, len(self.mean0) * d * d)
        return [
            part.to(x.dtype) if name == "log_prob" else part.to(x.dtype).reshape(x.shape)
            for name, part in zip(wanted, parts, strict=True)
        ]

    def _blocks(self, t: Tensor, x: Tensor, wanted: tuple[str, ...], per_row: int) -> list[Tensor]:
        size = max(1, (_NUMBERS if x.device.type == "cpu" else _NUMBERS << 6) // per_row)
        if x.shape[0] <= size:
            return self._rows(t, x, wanted)
        times = [t] * math.ceil(x.shape[0] / size) if t.ndim == 0 else torch.split(t, size)
        blocks = [
            self._rows(s, y, wanted) for s, y in zip(times, torch.split(x, size), strict=True)
        ]
        return [torch.cat(column) for column in zip(*blocks, strict=True)]

    def _rows(self, t: Tensor, x: Tensor, wanted: tuple[str, ...]) -> list[Tensor]:
        """One block: t ``()`` or ``(B,)`` in float64, x ``(B, d)``. Inside, rows come last."""
        path: AffineInterpolant = self.process.affine
        alpha, beta = path.alpha(t).to(x), path.beta(t).to(x)
        square0, square1 = path.alpha_sq(t), path.beta(t).square()
        square2 = path.gamma_sq(t)
        posterior = self._diagonal_posterior if self.diagonal else self._full_posterior
        log_terms, u = posterior(alpha, beta, (square0, square1, square2), x)

        if wanted == ("log_prob",):
            return [torch.logsumexp(log_terms, 0)]
        w = torch.softmax(log_terms, 0)  # (K, B)
        wu = w[:, None] * u  # (K, d, B)
        half0, half1 = 0.5 * path.alpha_sq_dot(t), path.beta(t) * path.beta_dot(t)
        half2 = 0.5 * path.gamma_sq_dot(t)
        values = []
        for name in wanted:
            if name == "log_prob":
                values.append(torch.logsumexp(log_terms, 0))
                continue
            if name == "score":
                value = -self._precision(wu)
            elif name == "data":
                value = self._spread(wu, None, beta, None)
                value = value + self.mean1.to(x).mT @ w
            else:
                latent = half2.to(x) if name == "velocity" else None
                value = self._spread(wu, half0.to(x), half1.to(x), latent)
                value = value + path.beta_dot(t).to(x) * (self.mean1.to(x).mT @ w)
                if not self._zero_mean:  # α̇ may be infinite where it is not needed
                    value = value + path.alpha_dot(t).to(x) * (self.mean0.to(x).mT @ w)
            values.append(value.mT.contiguous())
        return values

    def _diagonal_posterior(
        self, alpha: Tensor, beta: Tensor, squares: tuple[Tensor, Tensor, Tensor], x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-terms ``(K, B)`` and u in the common basis ``(K, d, B)``; all Σ are diagonal."""
        spread0, spread1 = self.spread0[:, :, None], self.spread1[:, :, None]
        a, b, c = squares
        variance = (a * spread0 + b * spread1 + c).to(x)
        y = x.mT if self.into is None else self.into.to(x) @ x.mT
        y = y - (alpha * self.centre0.to(x) + beta * self.centre1.to(x))
        u = y / variance
        return (
            self.log_weight.to(x) - 0.5 * (y * u).sum(1) - 0.5 * variance.log().sum(1),
            u,
        )

    def _full_posterior(
        self, alpha: Tensor, beta: Tensor, squares: tuple[Tensor, Tensor, Tensor], x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same by Cholesky factors at the time, or the times of the rows."""
        a, b, c = (square.reshape(-1, 1, 1, 1) for square in squares)
        eye = torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
        factor = torch.linalg.cholesky(a * self.spread0 + b * self.spread1 + c * eye).to(x)
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


class EmpiricalOracle(_Oracle):
    r"""The exact field where ρ1 is the empirical law of the rows ``y_i`` of a tensor.

    For a one-sided process, ``x_t = α m + β x1 + σ̂ ẑ``, the data prediction is the average of
    the data under the posterior weights

    .. math:: E[x_1 | x_t = x] = \sum_i w_i y_i, \quad
              w_i \propto \exp\bigl(-|x - \alpha m - \beta y_i|^2 / 2 \hat\sigma^2\bigr),

    and the nearest data point where σ̂ = 0 (the average of those that tie). It is streamed over
    blocks of data with a running maximum, in float64, so that no B x N matrix is held.
    The other fields follow by conversion, and are refused at the times where it is singular.

    Args:
        process: a one-sided process: a :class:`OneSided` or mirror path, or an affine path from an
            isotropic Gaussian base with the independent coupling.
        data: ``(N, *)``, finite.
        block: rows of data at a time.

    Raises:
        ValueError: if the process is not one-sided, or the data are not finite rows.
    """

    outputs = ("data",)

    rows: Tensor

    def __init__(self, process: Process, data: Tensor, *, block: int = 4096) -> None:
        check_finite_rows(data, "data")
        super().__init__(process, data.shape[1:])
        if not process.one_sided:
            raise ValueError(
                "the field of empirical data is known where all but x1 is Gaussian, and here the"
                f" base is {type(process.base).__name__} and the coupling"
                f" {type(process.coupling).__name__}; use an isotropic Gaussian base with the"
                " independent coupling, or fit a GaussianMixture to the data for"
                " GaussianMixtureOracle"
            )
        if block < 1:
            raise ValueError(f"block must be at least 1, got {block}")
        self.block = block
        self.register_buffer("rows", data.detach(), persistent=False)

    def predict(
        self, t: Tensor, x: Tensor, *, needed: tuple[bool, ...] | None = None, **cond: Any
    ) -> tuple[Tensor | None, ...]:
        """``(d,)``, with d ``(B, *)``; conditions are ignored."""
        if needed == (False,):
            return (None,)
        return (self._in_rows(t, x, self._mean).reshape(x.shape),)

    def log_prob(self, t: Tensor, x: Tensor) -> Tensor:
        """``log ρ_t(x)`` in nats, ``(B,)``, for t ``()`` or ``(B,)`` and x ``(B, *)``.

        Raises:
            ValueError: where σ̂(t) = 0: there ρ_t is the data points and has no density.
        """
        self._check(t, x)
        if bool((self.process.noise_scale(t.double()) <= 1e-12).any()):
            raise ValueError(
                "the law of empirical data has no density where the noise scale vanishes; evaluate"
                " log_prob at times inside (0, 1)"
            )
        return self._in_rows(t, x, self._log_density)

    def sample(
        self, t: float | Tensor, n: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw ``(n, *)`` from ρ_t, of the kind of the data; t is one time, or ``(n,)``."""
        home = self.rows.device
        generator = local(generator, home)
        index = torch.randint(len(self.rows), (n,), generator=generator, device=home)
        x1 = self.rows[index]
        t = expand_time(self._times(t, n, x1), x1).double()
        z = torch.randn(x1.shape, generator=generator, dtype=x1.dtype, device=home)
        path, mean = self.process.affine, self.process.base_mean
        x = path.beta(t).to(x1) * x1 + self.process.noise_scale(t).to(x1) * z
        return x if mean is None else x + path.alpha(t).to(x1) * mean.to(x1)

    def _in_rows(
        self, t: Tensor, x: Tensor, value: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Apply ``value(x - α m, β, σ̂²)``, with columns of coefficients, to blocks of rows."""
        self._check(t, x)
        t = t.to(x.device, torch.float64)
        path, mean = self.process.affine, self.process.base_mean
        flat = x.double()
        if mean is not None:
            flat = flat - expand_time(path.alpha(t), x) * mean.to(flat)
        flat = flat.reshape(x.shape[0], -1)
        beta = path.beta(t).expand(len(x))[:, None]
        variance = self.process.noise_scale_sq(t).clamp(min=0).expand(len(x))[:, None]
        pieces = zip(*(torch.split(c, 1024) for c in (flat, beta, variance)), strict=True)
        return torch.cat([value(*piece) for piece in pieces]).to(x.dtype)

    def _stream(
        self, x: Tensor, beta: Tensor, variance: Tensor, *, mean: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``(low, total, sum)``: the least cost, ``Σ e_i`` and ``Σ e_i y_i`` (if ``mean``).

        The cost of y is ``½ β² |y|² - β x·y`` and ``e_i = exp((low - cost_i) / σ̂²)``, so at σ̂ = 0
        the least cost alone counts.
        """
        rate = 1 / variance.clamp(min=1e-290)
        low, total, summed = None, torch.zeros_like(x[:, :1]), torch.zeros_like(x)
        for block in torch.split(self.rows.flatten(1), self.block):
            y = block.to(x)
            cost = 0.5 * beta.square() * y.square().sum(1) - beta * (x @ y.mT)
            lower = cost.detach().amin(1, keepdim=True)
            if low is not None:
                lower = torch.minimum(low, lower)
                keep = torch.exp((lower - low) * rate)
                total, summed = keep * total, keep * summed
            e = torch.exp((lower - cost) * rate)
            total = total + e.sum(1, keepdim=True)
            summed = summed + e @ y if mean else summed
            low = lower
        return torch.zeros_like(total) if low is None else low, total, summed

    def _mean(self, x: Tensor, beta: Tensor, variance: Tensor) -> Tensor:
        _, total, summed = self._stream(x, beta, variance, mean=True)
        return summed / total

    def _log_density(self, x: Tensor, beta: Tensor, variance: Tensor) -> Tensor:
        low, total, _ = self._stream(x, beta, variance, mean=False)
        exponent = -(0.5 * sum_events(x.square())[:, None] + low) / variance
        constant = -0.5 * x.shape[1] * (variance.log() + _LOG_2PI) - math.log(len(self.rows))
        return (exponent + total.log() + constant)[:, 0]


def _components(law: Distribution, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Weights ``(K,)``, means ``(K, d)`` and covariances ``(K, d, d)`` of a law."""
    if isinstance(law, Gaussian):
        mean = law.mean.reshape(1, -1)
        return mean.new_ones(1), mean, law.covariance()[None]
    if isinstance(law, GaussianMixture):
        there = law.weights > 0
        return law.weights[there], law.means.flatten(1)[there], law.covariances[there]
    raise TypeError(
        f"the {name} must be a Gaussian or a GaussianMixture, got {type(law).__name__}; for rows"
        " of a tensor use EmpiricalOracle"
    )


def _common_basis(
    cov0: Tensor, cov1: Tensor, latent: bool
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """``into`` and ``back`` with ``C = back c backᵀ``, ``S = back s backᵀ``, and (c, s).

    Both are None where the given basis serves, and (c, s) are (C, S) themselves where, with a
    latent, C and S share no orthogonal basis. Without one (γ = 0) any two do, by congruence.
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


def _tracked(t: Tensor) -> bool:
    """Whether derivatives in t are being taken, so that rows must keep their own times."""
    return t.requires_grad or forward_ad.unpack_dual(t).tangent is not None  # type: ignore


def _groups(t: Tensor) -> tuple[Tensor, Tensor, list[int]] | None:
    """Distinct times, the order that sorts rows by them, and counts; None if they are many."""
    times, inverse, counts = torch.unique(t, return_inverse=True, return_counts=True)
    if len(times) > _FEW_TIMES or len(times) == len(t):
        return None
    return times, inverse.argsort(stable=True), counts.tolist()
