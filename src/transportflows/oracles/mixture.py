"""The exact field between Gaussian mixtures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.autodiff import tracked
from .._core.conditions import NO_CONDITIONS
from .._core.precision import widest_dtype
from .._core.random import local
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..distributions.adapters import class_of
from ..distributions.gaussian import Gaussian
from ..distributions.mixture import GaussianMixture
from ..distributions.point import Point
from ..interpolants import AffineInterpolant
from ..process import Process
from .components import PairedComponents, common_basis, components_of

__all__ = ["GaussianMixtureOracle"]

_LOG_2PI = math.log(2 * math.pi)
_NUMBERS = 1 << 19  # numbers that a block of rows holds at once: they fit a cache
_FEW_TIMES = 64  # up to so many distinct times are served one by one


@checked
class GaussianMixtureOracle(PairedComponents):
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

    def __init__(
        self,
        process: Process,
        data: Gaussian | GaussianMixture,
        base: Gaussian | GaussianMixture | None = None,
    ) -> None:
        weight1, mean1, cov1 = components_of(data, "data")
        super().__init__(process, data.shape)
        self.rho1 = data
        self.rho0 = self._resolve_base(base) if process.interpolant.uses_base else None
        if self.rho0 is None:  # α ≡ 0: x0 does not enter
            weight0, mean0, cov0 = weight1.new_ones(1), 0 * mean1[:1], 0 * cov1[:1]
        else:
            weight0, mean0, cov0 = components_of(self.rho0, "base")
        device = weight1.device
        j, i = len(weight1), len(weight0)
        d = data.shape.numel()
        log_weight = (weight0.to(device)[:, None] * weight1).log().reshape(-1)
        mean0 = mean0.to(device).repeat_interleave(j, 0)
        cov0 = cov0.to(device).repeat_interleave(j, 0)
        mean1, cov1 = mean1.repeat(i, 1), cov1.repeat(i, 1, 1)

        into, back, spread0, spread1 = common_basis(cov0, cov1, process.interpolant.has_latent)
        self.diagonal = spread0.ndim == 2
        self.from_point = isinstance(self.rho0, Point)
        if getattr(data, "singular", False) or self.from_point:  # at an end alone
            self.floor = 1e-12 * float(cov1.abs().amax().clamp(min=1e-300))
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
        home = next(data.buffers()).device
        for name, tensor in table.items():
            if tensor is not None and home != device:  # float64 is where its device has none
                tensor = tensor.to(home, torch.float32)
            self.register_buffer(name, tensor, persistent=False)

    def _resolve_base(
        self, base: Gaussian | GaussianMixture | None
    ) -> Gaussian | GaussianMixture | Point:
        process = self.process
        if not process.coupling.independent:
            raise ValueError(
                f"no oracle is known for the coupling {type(process.coupling).__name__}: given"
                " x_t, x0 and x1 are Gaussian in closed form only where they are independent."
                " Leave coupling= out, or compare with samples (tpf.metrics) instead"
            )
        known = (Gaussian, GaussianMixture, Point)
        if base is not None and process.base is not base and isinstance(process.base, known):
            raise ValueError(
                "the process has a base of its own that is not the one given; leave base= out"
            )
        base = process.base if base is None else base  # type: ignore[assignment]
        if not isinstance(base, known):
            raise TypeError(
                "the base must be a Gaussian, a GaussianMixture or a Point, got"
                f" {class_of(base)}; fit one (Gaussian.fit(x0)), or give base= the law that it"
                " is"
            )
        if base.shape != self.shape:
            raise ValueError(
                f"the base has event shape {tuple(base.shape)} and the data have"
                f" {tuple(self.shape)}; they must agree"
            )
        return base

    def _told(self) -> dict[str, Any]:
        return {"data": self.rho1}

    # ------------------------------------------------------------------------- the exact fields

    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """``(b, s)``, each ``(B, *)``, or None where not needed; conditions are ignored."""
        wanted = [o for o, n in zip(self.outputs, needed or (True, True), strict=True) if n]
        values = dict(zip(wanted, self._exact(t, x, *wanted), strict=True))
        return tuple(values.get(o) for o in self.outputs)

    def velocity(self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor:
        """``b = Σ w (Ṁ + ½ Σ̇ u)``, ``(B, *)``."""
        return self._exact(t, x, "velocity")[0]

    def mean_velocity(
        self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS
    ) -> Tensor:
        """``v = α̇ E[x0 | x_t] + β̇ E[x1 | x_t]``, ``(B, *)``."""
        return self._exact(t, x, "mean_velocity")[0]

    def score(self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor:
        """``s = ∇ log ρ_t = -Σ w u``, ``(B, *)``."""
        return self._exact(t, x, "score")[0]

    def noise(self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor:
        """``η̂ = -σ̂ s``, ``(B, *)``, with σ̂ the noise scale of the process."""
        score = self._exact(t, x, "score")[0]
        scale = self.process.noise_part.scale(t.to(x.device, widest_dtype(x.device)))
        return -expand_time(scale.to(x.dtype), x) * score

    def data(self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor:
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
        """Compute what is wanted, in blocks of rows that fit a cache.

        Where Σ must be factorised and the rows have few distinct times, rows of one time go
        together: one factorisation serves them all.
        """
        self._check(t, x)
        t = t.to(x.device, widest_dtype(x.device))
        work = torch.promote_types(x.dtype, torch.float32)
        rows, d = x.shape[0], self.shape.numel()
        flat = x.reshape(rows, d).to(work)
        if self.diagonal or t.ndim == 0:
            parts = self._blocks(t, flat, wanted, len(self.mean0) * d)
        elif rows > 1 and not tracked(t) and (groups := _groups(t)) is not None:
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


def _groups(t: Tensor) -> tuple[Tensor, Tensor, list[int]] | None:
    """Distinct times, the order that sorts rows by them, and counts; None if they are many."""
    times, inverse, counts = torch.unique(t, return_inverse=True, return_counts=True)
    if len(times) > _FEW_TIMES or len(times) == len(t):
        return None
    # tolist refuses what is made inside torch.func.jvp on torch 2.4; one copy, then numbers.
    return times, inverse.argsort(stable=True), [int(count) for count in counts.cpu()]
