r"""The process: an interpolant, a base and a coupling, which together are the law of ``x_t``.

.. math:: x_t = I(t, x_0, x_1) + \gamma(t) z, \quad (x_0, x_1) \sim \text{coupling}, \;
          z \sim N(0, \mathrm{Id})

It draws training samples, and it knows the *Gaussian part* of ``x_t``: where x0 is N(m, σ0² Id)
and independent of x1, or does not enter the path, ``x_t = α m + β x1 + σ̂ ẑ`` with
``σ̂² = α² σ0² + γ²`` and ẑ standard normal. There every field (velocity, score, noise, data) can
be had from every other. With another base or a dependent coupling only γ z is Gaussian, σ̂ = γ,
and a velocity and a score are two fields to learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ._core.checks import check_same_kind
from ._core.conditions import check_conditions, map_rows
from ._core.random import local
from ._core.registry import Storable
from ._core.tensor import as_time, expand_time
from .couplings.base import Coupling, Independent, Paired
from .distributions.adapters import as_distribution
from .distributions.base import Distribution
from .distributions.gaussian import Gaussian
from .draws import PathSample
from .gaussian_part import GaussianPart, NoisePart
from .interpolants import AffineInterpolant, Interpolant, OneSided
from .times.base import Margin, TimeSampler, UniformTimes

__all__ = ["Process"]

_END_TOLERANCE = 1e-5


class Process(Storable, nn.Module):
    """The law of ``x_t``: interpolant, base and coupling.

    Args:
        interpolant: the path.
        base: ρ0, the law of x0: a :class:`Distribution`, or any object with ``sample``. A path
            that makes its own noise (one-sided) needs none; its base is N(0, γ(0)² Id), and
            giving that Gaussian is a way to give the event shape. For a mirror, the base is only
            where sampling starts. With paired data it may be None: sampling then needs ``start``.
        coupling: joint law of (x0, x1); :class:`Independent` by default.
        shape: event shape, if neither base nor data should tell it.

    Raises:
        ValueError: if the ends of the interpolant are wrong, or the base does not fit it.
    """

    base: Distribution | None

    def __init__(
        self,
        interpolant: Interpolant,
        base: Distribution | Any | None = None,
        coupling: Coupling | None = None,
        *,
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(interpolant, Interpolant):
            given = getattr(interpolant, "__name__", type(interpolant).__name__)
            raise TypeError(f"interpolant must be an Interpolant such as Linear(), got {given}")
        if coupling is not None and not isinstance(coupling, Coupling):
            given = getattr(coupling, "__name__", type(coupling).__name__)
            raise TypeError(f"coupling must be a Coupling such as MinibatchOT(), got {given}")
        self.interpolant = interpolant
        self.base = None if base is None else as_distribution(base, shape)
        self.coupling = Independent() if coupling is None else coupling
        self.shape: torch.Size | None = None
        if self.base is not None:
            self.shape = self.base.shape
        if shape is not None:
            if self.shape is not None and tuple(self.shape) != tuple(shape):
                raise ValueError(f"shape is {tuple(shape)}, but the base has {tuple(self.shape)}")
            self.shape = torch.Size(shape)
        if not interpolant.uses_base and not self.coupling.independent:
            raise ValueError(
                f"{type(interpolant).__name__} has no x0 to pair, so {type(self.coupling).__name__}"
                " would do nothing; use a two-sided path such as Linear() with base=Gaussian(shape)"
            )
        self._ends_checked = False
        self._noise_part: NoisePart | None = None
        if interpolant.affine:
            probe = torch.zeros(1, 1, device=self.device)
            self._check_ends(probe, probe)
        self._check_base()

    # ------------------------------------------------------------------ what kind of law it is

    @property
    def affine(self) -> AffineInterpolant:
        """The interpolant, if it is affine.

        Raises:
            ValueError: if it is not.
        """
        if not isinstance(self.interpolant, AffineInterpolant):
            raise ValueError(
                f"{type(self.interpolant).__name__} is not affine (it has no α and β); write it"
                " as an AffineInterpolant where it is one"
            )
        return self.interpolant

    @property
    def noise_part(self) -> NoisePart:
        """The noise in x_t and its scale σ̂, of the Gaussian part if there is one, else the latent.

        ``score = -noise / process.noise_part.scale(t)`` for every process.
        """
        path, base, kept = self.interpolant, self.base, self._noise_part
        scale = mean = None
        enters = path.uses_base and path.affine and self.coupling.independent
        whole = path.affine and not path.uses_base
        if enters and isinstance(base, Gaussian) and base.isotropic:
            scale, mean, whole = base.scale, None if base.zero_mean else base.mean, True
        if (
            kept is None
            or kept.path is not path
            or kept.base_scale is not scale
            or kept.base_mean is not mean
            or kept.learned
        ):
            owner = (
                f"{type(path).__name__}, base {type(base).__name__}, coupling"
                f" {type(self.coupling).__name__}"
            )
            if whole and isinstance(path, AffineInterpolant):
                kept = GaussianPart(path, owner, scale, mean)
            else:
                kept = NoisePart(path, owner)
            self._noise_part = kept
        return kept

    @property
    def part(self) -> GaussianPart:
        """All of ``x_t = α m + β x1 + σ̂ ẑ`` but x1, where that is Gaussian.

        Raises:
            ConversionError: if it is not: the base is not Gaussian, or x0 depends on x1.
        """
        return self.noise_part.whole

    @property
    def device(self) -> torch.device:
        """Where the parameters and buffers of the process are."""
        tensors = (*self.parameters(), *self.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64, device=self.device)

    @cached_property
    def target_margin(self) -> Margin:
        """Time margins that a regression on ``ẋ`` needs, 1e-4 at an end where it is infinite."""
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.device)
        with torch.no_grad():
            rates = [self.interpolant.gamma_dot(ends)]
            if isinstance(self.interpolant, AffineInterpolant):
                rates += [self.interpolant.alpha_dot(ends), self.interpolant.beta_dot(ends)]
        bad = ~torch.stack([torch.isfinite(rate) for rate in rates]).all(0)
        low, high = bad.tolist()
        return (1e-4 if low else 0.0, 1e-4 if high else 0.0)

    @property
    def start(self) -> Distribution:
        """The law at t = 0, where sampling starts by default.

        Raises:
            ValueError: if the process does not know it.
        """
        if self.base is not None:
            return self.base
        if self.interpolant.uses_base or not self._starts_gaussian:
            raise ValueError(
                f"this process ({type(self.interpolant).__name__}, no base) does not know the law"
                " at t = 0; give sample(..., start=...) a Distribution or a tensor of states"
            )
        if self.shape is None:
            raise ValueError(
                "the event shape is unknown; write Process(..., shape=(2,)), or give"
                " sample(..., start=...) a tensor of states"
            )
        return Gaussian(self.shape, scale=self._start_scale)

    @property
    def _start_scale(self) -> float:
        if isinstance(self.interpolant, OneSided):
            return self.interpolant.prior_scale
        return float(self.interpolant.gamma(self._zero))

    @property
    def _starts_gaussian(self) -> bool:
        return not self.interpolant.uses_base and self._start_scale > 0

    # ----------------------------------------------------------------------------- sampling it

    def sample(
        self,
        x1: Tensor,
        *,
        x0: Tensor | None = None,
        t: float | Tensor | TimeSampler | None = None,
        antithetic: bool = False,
        cond: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> PathSample:
        """Draw ``x_t`` for a batch of data.

        Args:
            x1: data, ``(B, *)``.
            x0: base samples to use, ``(B, *)``; drawn from the base if not given. A
                :class:`Paired` coupling needs them.
            t: one time, times ``(B,)``, or a sampler of them; uniform by default, kept off an end
                where ``ẋ`` is infinite (:attr:`target_margin`).
            antithetic: draw each latent with both signs: the result has 2B rows, the second half
                with ``-z``. It removes the divergent part of the variance of ``γ̇ z``.
            cond: conditions to carry along; tensors have B rows.
            generator: source of randomness.
        """
        self._check_data(x1, x0)
        n, device, dtype = x1.shape[0], x1.device, x1.dtype
        generator = local(generator, device)
        if t is None or isinstance(t, TimeSampler):
            sampler = _UNIFORM if t is None else t.bind(self)
            t = sampler.sample(
                n, margin=self.target_margin, generator=generator, device=device, dtype=dtype
            )
        else:
            t = as_time(t, x1)
            if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != n):
                raise ValueError(
                    f"got t of shape {tuple(t.shape)} for {n} rows; it must be () or ({n},)"
                )
            t = t.expand(n)
        interpolant = self.interpolant
        if interpolant.uses_base:
            if x0 is None:
                x0 = self._draw_base(n, x1, generator)
            x0, x1 = self.coupling.pair(x0, x1, generator=generator)
        else:
            x0 = None
        cond = check_conditions(cond, n, rows="rows of data")
        z = None
        if interpolant.has_latent:
            z = torch.randn(x1.shape, generator=generator, device=device, dtype=dtype)
        elif antithetic:
            raise ValueError(
                f"antithetic=True mirrors the latent z, and {type(interpolant).__name__} has none;"
                " leave it out, or give the interpolant a gamma"
            )
        if antithetic and z is not None:
            t, x1, z = torch.cat([t, t]), torch.cat([x1, x1]), torch.cat([z, -z])
            x0 = None if x0 is None else torch.cat([x0, x0])
            cond = map_rows(cond, lambda rows: torch.cat([rows, rows]))
        if not self._ends_checked:
            self._check_ends(x1[:2] if x0 is None else x0[:2], x1[:2])
        wide = expand_time(t, x1)
        x = interpolant.mean(wide, x0, x1)  # type: ignore[arg-type]
        if z is not None:
            x = torch.addcmul(x, interpolant.gamma(wide), z)
        return PathSample(self.noise_part, t, x, x0, x1, z, cond, antithetic)

    def forward(self, x1: Tensor, **kwargs: Any) -> PathSample:
        """Same as :meth:`sample`."""
        return self.sample(x1, **kwargs)

    def _draw_base(self, n: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
        if isinstance(self.coupling, Paired):
            raise ValueError(
                "the coupling is Paired, so x0 must be given beside x1: fit((x0, x1)), or"
                " process.sample(x1, x0=x0)"
            )
        if self.base is None:
            raise ValueError(
                f"{type(self.interpolant).__name__} needs a base to draw x0 from; write"
                " Process(interpolant, base=Gaussian(shape)), or coupling=Paired() and pairs"
            )
        return self.base.sample(n, generator=generator, dtype=like.dtype, device=like.device)

    # ------------------------------------------------------------------------------- refusals

    def _check_data(self, x1: Tensor, x0: Tensor | None) -> None:
        if not isinstance(x1, Tensor) or not x1.is_floating_point() or x1.ndim < 2:
            given = f"{tuple(x1.shape)} {x1.dtype}" if isinstance(x1, Tensor) else type(x1).__name__
            raise ValueError(
                f"x1 must be a floating-point tensor (B, *) with at least 2 dimensions, got {given}"
            )
        if self.shape is not None and x1.shape[1:] != self.shape:
            whose = "base" if self.base is not None else "process"
            raise ValueError(
                f"the data have event shape {tuple(x1.shape[1:])} and the {whose} has"
                f" {tuple(self.shape)}; write base=Gaussian({tuple(x1.shape[1:])}), or reshape x1"
            )
        if x0 is not None:
            if x0.shape != x1.shape:
                raise ValueError(
                    f"x0 is {tuple(x0.shape)} and x1 is {tuple(x1.shape)}; pairs have one shape"
                )
            check_same_kind(x0, x1, "x0", "x1")

    def _check_ends(self, x0: Tensor, x1: Tensor) -> None:
        with torch.no_grad():
            errors = self.interpolant.end_errors(x0, x1)
        wrong = {name: e for name, e in errors.items() if not e <= _END_TOLERANCE}
        if wrong:
            spelled = ", ".join(f"{name} = {error:.3g}" for name, error in wrong.items())
            raise ValueError(
                f"the ends of {type(self.interpolant).__name__} are wrong: {spelled}, where 0 is"
                " needed. The path must start at x0 (t = 0), end at x1 (t = 1) and have γ = 0 at"
                " both; tpf.testing.check_interpolant says more"
            )
        self._ends_checked = True

    def _check_base(self) -> None:
        interpolant, base = self.interpolant, self.base
        if interpolant.uses_base and isinstance(interpolant, AffineInterpolant):
            ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.device)
            with torch.no_grad():
                bounded = bool(torch.isfinite(interpolant.alpha_dot(ends)).all())
            part = self.noise_part
            base_fits = isinstance(part, GaussianPart) and part.base_mean is None
            if not bounded and not base_fits:
                raise ValueError(
                    f"α̇ of {type(interpolant).__name__} is infinite at an end, so the velocity"
                    " diverges unless the base is Gaussian with mean zero, isotropic and"
                    " independent; use Gaussian(shape), or an α with a finite derivative"
                )
        if self._starts_gaussian and base is not None:
            scale = self._start_scale
            if not (
                isinstance(base, Gaussian)
                and base.isotropic
                and base.zero_mean
                and abs(float(base.scale) - scale) <= 0.01 * scale
            ):
                raise ValueError(
                    f"{type(interpolant).__name__} makes its own base, N(0, {scale:g}² Id); give"
                    f" that (Gaussian(shape, scale={scale:g})) or none (shape=...). Another base"
                    " needs a two-sided path such as Linear(gamma=Brownian()); another start for"
                    " the sampler is sample(..., start=...)"
                )

    def config(self) -> dict[str, Any]:
        return {
            "interpolant": self.interpolant,
            "base": self.base,
            "coupling": self.coupling,
            "shape": None if self.shape is None else list(self.shape),
        }


_UNIFORM = UniformTimes()
