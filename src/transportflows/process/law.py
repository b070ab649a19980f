"""The noun: what it is made of, what it knows, and what it draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.checks import event_shape
from .._core.conditions import NO_CONDITIONS, check_conditions, map_rows, with_start
from .._core.precision import on_table_device, table_device
from .._core.random import local
from .._core.registry import Storable
from .._core.reprs import brief, call_lines
from .._core.signatures import as_is, checked
from .._core.tensor import expand_time, widened
from .._core.written import Written, buffers_of
from ..couplings.base import Coupling, Independent, Paired
from ..distributions.adapters import as_distribution, class_of
from ..distributions.base import Distribution
from ..distributions.gaussian import Gaussian
from ..distributions.point import Point
from ..draws import PathSample
from ..gaussian_part import GaussianPart, NoisePart
from ..interpolants import AffineInterpolant, Interpolant
from ..times.base import Margin, TimeSampler, UniformTimes
from .checks import (
    check_data,
    check_ends,
    check_own_base,
    check_point,
    check_speed,
    check_times,
    check_told_start,
    row_times,
)
from .starting import Starting

__all__ = ["Process"]


@checked
class Process(Storable, Starting):
    """The law of ``x_t``: interpolant, base and coupling.

    Args:
        interpolant: the path.
        base: ρ0, the law of x0: a :class:`Distribution`, or any object with ``sample``. A path
            that makes its own noise (one-sided) needs none; its base is N(0, γ(0)² Id), and
            giving that Gaussian is a way to give the event shape. For a mirror, the base is only
            where sampling starts. With paired data it may be None: sampling then needs ``start``.
            It is in the units of the path, standardised ones where a field has a transform:
            ``Transformed(Empirical(x0), transform)`` is a law of rows in the units of the data.
        coupling: joint law of (x0, x1); :class:`Independent` by default.
        shape: event shape, if neither base nor data should tell it.

    Raises:
        TypeError: if a part is of another kind.
        ValueError: if the ends of the interpolant are wrong, or the base does not fit it.

    Example:
        >>> import transportflows as tpf
        >>> process = Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> process.part.scale(torch.tensor(0.25))  # σ̂ = 1 - t
        tensor(0.7500)
        >>> seed = torch.Generator().manual_seed(0)
        >>> sample = process.sample(torch.ones(4, 2), t=0.25, generator=seed)
        >>> torch.allclose(sample.x, 0.75 * sample.x0 + 0.25 * sample.x1)
        True
    """

    _sets: ClassVar[tuple[str, ...]] = ("interpolant", "coupling", "shape")

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
        self.coupling = (Independent() if coupling is None else coupling).for_path(interpolant)
        self.base = self.coupling.base if base is None else as_distribution(base, shape)
        if base is not None:
            self.coupling.check_base(self.base)  # type: ignore[arg-type]
        self.shape: torch.Size | None = None
        if self.base is not None:
            self.shape = self.base.shape
        if shape is not None:
            if self.shape is not None and tuple(self.shape) != tuple(shape):
                raise ValueError(f"shape is {tuple(shape)}, but the base has {tuple(self.shape)}")
            self.shape = event_shape("shape", shape)
        if not interpolant.uses_base and not self.coupling.independent:
            raise ValueError(
                f"{type(interpolant).__name__} has no x0 to pair, so {type(self.coupling).__name__}"
                " would do nothing; use a two-sided path such as Linear() with base=Gaussian(shape)"
            )
        check_told_start(interpolant, self.coupling)
        check_point(interpolant, self.base)
        self._noise_part: tuple[Written, NoisePart] | None = None
        self._margin: tuple[Written, Margin] | None = None
        self._ends_checked = interpolant.affine  # the ends of others are seen with the first data
        check_times(on_table_device(interpolant), table_device(self.device))
        if interpolant.affine:
            probe = torch.zeros(1, 1, device=self.device)
            check_ends(interpolant, probe, probe)
        check_speed(self.noise_part, table_device(self.device))
        if self._starts_gaussian and self.base is not None:
            check_own_base(interpolant, self.base, self._start_scale)

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
        """The noise in x_t, with its scale σ̂; the Gaussian part if there is one, else the latent.

        ``score = -noise / process.noise_part.scale(t)`` for every process.
        """
        known = self._noise_part
        if known is not None and torch.compiler.is_compiling():
            return known[1]
        written = self._written()
        if known is None or known[1].learned or not written.same(known[0]):
            path, base, scale, mean = self.interpolant, self.base, None, None
            enters = path.uses_base and path.affine and self.coupling.independent
            whole = path.affine and not path.uses_base
            if enters and isinstance(base, Gaussian) and base.isotropic:
                scale, mean, whole = base.scale, None if base.zero_mean else base.mean, True
            elif enters and isinstance(base, Point):
                scale, mean, whole = torch.zeros_like(base.at.sum()), base.at, True
            owner = (
                f"{type(path).__name__}, base {class_of(base)}, coupling"
                f" {type(self.coupling).__name__}"
            )
            path = on_table_device(path)
            if whole and isinstance(path, AffineInterpolant):
                known = written, GaussianPart(path, owner, scale, mean)
            else:
                known = written, NoisePart(path, owner)
            self._noise_part = known
        return known[1]

    @property
    def _part_of_rows(self) -> NoisePart:
        """The noise part for times on the device of the process, whatever that device is."""
        part = self.noise_part
        on_device = part.path is self.interpolant
        return part if on_device else dataclasses.replace(part, path=self.interpolant)

    def _written(self) -> Written:
        """Path, base and coupling, and their buffers as they are now."""
        path, base = self._modules["interpolant"], self._modules.get("base")
        return Written(buffers_of(path, base), path, base, self.coupling)

    @property
    def part(self) -> GaussianPart:
        """All of x_t but x1, where ``x_t = α m + β x1 + σ̂ ẑ`` with a Gaussian ẑ.

        Raises:
            ConversionError: if it is not: the base is not Gaussian, or x0 depends on x1.
        """
        return self.noise_part.whole

    @property
    def target_margin(self) -> Margin:
        """Time margins that a regression on ``ẋ`` needs, 1e-4 at an end where it is infinite."""
        written, kept = self._written(), self._margin
        if kept is None or not written.same(kept[0]):
            self._margin = kept = (written, self._margin_now())
        return kept[1]

    def _margin_now(self) -> Margin:
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=table_device(self.device))
        with torch.no_grad():
            path = on_table_device(self.interpolant)
            rates = [path.gamma_dot(ends), NoisePart(path, "").scale_dot(ends)]
            if isinstance(path, AffineInterpolant):
                rates += [path.alpha_dot(ends), path.beta_dot(ends)]
        bad = ~torch.stack([torch.isfinite(rate) for rate in rates]).all(0)
        low, high = bad.tolist()
        return (1e-4 if low else 0.0, 1e-4 if high else 0.0)

    # ----------------------------------------------------------------------------- sampling it

    def sample(
        self,
        x1: DataLike,
        *,
        x0: DataLike | None = None,
        z: Tensor | None = None,
        t: float | Tensor | TimeSampler | None = None,
        antithetic: bool = False,
        cond: Mapping[str, Any] | None = None,
        paired: bool = False,
        generator: torch.Generator | None = None,
    ) -> PathSample:
        """Draw ``x_t`` for a batch of data, in float32 where they are of half precision.

        Args:
            x1: data, ``(B, *)``.
            x0: base samples to use, ``(B, *)``; drawn from the base if not given. A
                :class:`Paired` coupling needs them.
            z: latents to use, ``(B, *)``; drawn if not given, where the path has one.
            t: one time, times ``(B,)``, or a sampler of them; uniform by default, kept off an end
                where ``ẋ`` is infinite (:attr:`target_margin`).
            antithetic: draw each latent with both signs: the result has 2B rows, the second half
                with ``-z``. It removes the divergent part of the variance of ``γ̇ z``.
            cond: conditions to carry along; tensors have B rows.
            paired: whether x0 and x1 are pairs of the coupling already, as :meth:`pairs` gives.
            generator: source of randomness.

        Raises:
            ValueError: if rows, times, conditions or an x0 do not fit the process, or
                ``antithetic`` asks for the other sign of a latent that the path has not.
        """
        x1 = as_rows("x1", x1, like=x0)
        x0 = None if x0 is None else as_rows("x0", x0, like=x1)
        self._check_rows(x1, x0, paired)
        x1, x0 = widened(x1), None if x0 is None else widened(x0)
        n, device, dtype = x1.shape[0], x1.device, x1.dtype
        generator = local(generator, device)
        if t is None or isinstance(t, TimeSampler):
            sampler = _UNIFORM if t is None else t.bind(self)
            margin = self.target_margin if sampler.margin is None else sampler.margin
            t = sampler.sample(n, margin=margin, generator=generator, device=device, dtype=dtype)
        else:
            t = row_times(t, x1)
        cond = check_conditions(cond, n, rows="rows of data", like=x1)
        interpolant = self.interpolant
        if interpolant.uses_base:
            if not paired:
                x0, x1 = self.pairs(x1, x0=x0, cond=cond, generator=generator)
            if self.coupling.condition_on_start:
                cond = with_start(cond, x0)  # type: ignore[arg-type]
        else:
            x0 = None
        z = self.draw_latent(self._states(x1), generator) if z is None else self._latent(z, x1)
        if antithetic and z is None:
            raise ValueError(
                f"antithetic=True mirrors the latent z, and {type(interpolant).__name__} has none;"
                " leave it out, or give the interpolant a gamma"
            )
        if antithetic and z is not None:
            t, x1, z = torch.cat([t, t]), torch.cat([x1, x1]), torch.cat([z, -z])
            x0 = None if x0 is None else torch.cat([x0, x0])
            cond = map_rows(cond, lambda rows: torch.cat([rows, rows]))
        if not self._ends_checked:
            check_ends(interpolant, x1[:2] if x0 is None else x0[:2], x1[:2])
            self._ends_checked = True
        wide = expand_time(t, self._states(x1))
        x = interpolant.mean(wide, x0, x1)  # type: ignore[arg-type]
        if z is not None:
            x = torch.addcmul(x, interpolant.gamma(wide), z)
        return PathSample(self._part_of_rows, t, x, x0, x1, z, cond, antithetic)

    def _check_rows(self, x1: Tensor, x0: Tensor | None, paired: bool) -> None:
        """Refuse rows that are none of this process."""
        check_data(x1, x0, self.shape, "process" if self.base is None else "base")

    def _states(self, x1: Tensor) -> Tensor:
        """What has the shape of x_t, of rows of data."""
        return x1

    @as_is
    def pairs(
        self,
        x1: Tensor,
        *,
        x0: Tensor | None = None,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw from the coupling ``(x0, x1)``, each ``(B, *)``; see :meth:`sample`.

        Raises:
            ValueError: if x0 is given to a coupling that brings it, or missing where the rows are
                pairs.
        """
        if self.coupling.brings_start:
            if x0 is not None:
                what = type(self.coupling).__name__
                raise ValueError(f"{what} brings the x0 of each row itself; leave x0 out")
            x0 = x1
        elif x0 is None:
            if isinstance(self.coupling, Paired):
                raise ValueError(
                    "the coupling is Paired, so x0 must be given beside x1: fit((x0, x1)), or"
                    " process.sample(x1, x0=x0)"
                )
            x0 = self._draw_base(len(x1), x1, generator)
        return self.coupling.pair(x0, x1, cond, generator=generator)

    def config(self) -> dict[str, Any]:
        return {
            "interpolant": self.interpolant,
            "base": self.base,
            "coupling": self.coupling,
            "shape": None if self.shape is None else list(self.shape),
        }

    def __repr__(self) -> str:
        parts = [brief(self.interpolant)]
        parts += [] if self.base is None else [f"base={brief(self.base)}"]
        parts += [f"coupling={brief(self.coupling)}"]
        if self.shape is not None and str(tuple(self.shape)) not in parts[1]:
            parts += [f"shape={tuple(self.shape)}"]
        return call_lines(type(self).__name__, parts)


_UNIFORM = UniformTimes()
