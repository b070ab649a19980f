r"""Hooks that draw a solve towards an observation after each step.

*Replacement* puts what was seen back, on its path ``α m + β y + σ̂ z``. What was not seen is moved
by a field that does not know what was put there later, so the two do not quite fit: *repainting*
goes back a step by noise and forward again, several times, until they do (Lugmayr et al. 2022,
algorithm 1). With ``ρ = β_s/β_t`` and s the noisier time,

.. math:: x_s = \rho\, x_t + \sqrt{\hat\sigma_s^2 - \rho^2 \hat\sigma_t^2}\, z, \qquad
          x_t \sim q(x_t | x_s, x_1 = d(s, x_s)),

the ancestral step, of mean ``β_t d + ρ (σ̂_t²/σ̂_s²)(x_s - β_s d)`` and variance
``σ̂_t² (1 - ρ² σ̂_t²/σ̂_s²)``.

*DPS* moves a state against the gradient of the misfit of the prediction one step before,

.. math:: x_t \leftarrow x_t - \zeta\, (\beta^2 + \hat\sigma^2)
          \frac{\nabla_{x_s} |y - A d(s, x_s)|^2}{|y - A d(s, x_s)|},

in which ``β² + σ̂²``, 1 for VP, makes the step the same for any scale of x (Chung et al. 2023,
algorithm 1). Its law depends on the number of steps: more of them follow y closer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.autodiff import pullback
from .._core.checks import integer, positive_number
from .._core.random import draw_key, mix, stream
from .._core.signatures import checked
from .._core.tensor import expand_time, sum_events
from ..fields.base import Field, check_field
from ..observations import LinearObservation, Mask
from ..solve.hooks import Moment, SolveHook
from ..solve.rows import Chunks

__all__ = ["DPS", "Replacement"]

_FIRST = 1e-3


@checked
class _Drawn(SolveHook):
    """What both share: a field and an observation, and the tables of a grid."""

    def __init__(self, field: Field, observation: LinearObservation) -> None:
        check_field(field, f"{type(self).__name__} is of")
        field.process.part.check_monotone()
        if field.process.shape not in (None, observation.shape):
            raise ValueError(
                f"the observation is of events of shape {tuple(observation.shape)}, and the process"
                f" has {tuple(field.process.shape or ())}"
            )
        self.field, self.observation = field, observation

    def begin(self, times: Tensor, x: Tensor, chunks: Chunks) -> None:
        if bool((times[1:] < times[:-1]).any()):
            raise ValueError(
                f"{type(self).__name__} is of a solve from t = 0 to the data, and this one goes"
                " backward in time"
            )
        part, self.chunks, self.nfe = self.field.process.part, chunks, 0
        at = times.to(part.device)
        self.times = times.tolist()
        self.beta, self.scale_sq = part.path.beta(at).tolist(), part.scale_sq(at).tolist()
        shifts = [part.shift(time, x) for time in at.unbind()]
        self.shifts = [0.0 if shift is None else shift for shift in shifts]

    def _states(self, moment: Moment) -> Tensor:
        """All rows of all epsilons, ``(total, *)``."""
        return moment.x.reshape(self.chunks.total, *self.observation.shape)

    def _over(self, function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """A function of rows and conditions, chunk by chunk."""
        parts = self.chunks.parts
        found = [function(*(each[pick] for each in rows), cond=own.cond) for pick, own in parts]
        return torch.cat(found)[: self.chunks.total]

    def _data(self, step: int, x: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """The prediction at a time of the grid."""
        t = torch.full((), max(self.times[step], _FIRST), dtype=x.dtype, device=x.device)
        return self.field.quantity("data", t, x, cond, checked=False)


@checked
class Replacement(_Drawn):
    """Puts what a mask sees back after each step: ``sample(field, n, hooks=[Replacement(...)])``.

    A seen number with noise σ is put back while the path has more noise than it, ``σ̂ ≥ β σ``; from
    then on nothing is repeated, which would forget it.

    Args:
        field: that is sampled, of a process with a Gaussian part.
        observation: with a :class:`Mask`.
        repeats: how often each step is gone back and made again, at one evaluation each; 0 for
            plain replacement.
        generator: source of what is drawn.

    Raises:
        TypeError: if the operator is no mask.
        ConversionError: if the process has no Gaussian part.

    Source: Lugmayr et al. (2022), algorithm 1; without repeats Song et al. (2021), section 5.
    """

    name = "replacement"

    def __init__(
        self,
        field: Field,
        observation: LinearObservation,
        *,
        repeats: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(field, observation)
        if not isinstance(observation.operator, Mask):
            raise TypeError(
                "Replacement puts back what a Mask sees, and the observation is by a"
                f" {type(observation.operator).__name__}; use PseudoInverse or MomentMatched"
            )
        self.repeats = integer("repeats", repeats, "0 or more", least=0)
        self.generator = generator

    def begin(self, times: Tensor, x: Tensor, chunks: Chunks) -> None:
        super().begin(times, x, chunks)
        transform, seen = self.field.transform, self.observation
        y = seen.y.to(x)
        if len(y) not in (1, len(x)):
            raise ValueError(
                f"there are {len(y)} observations for {len(x)} samples; give one for all, or one a"
                " row"
            )
        self.y = y if transform is None else transform(y)
        self.y = self.y.expand(len(x), *y.shape[1:]).repeat(chunks.groups, *(1,) * (y.ndim - 1))
        noise = torch.full(seen.shape, seen.noise, dtype=x.dtype, device=x.device)
        self.noise_sq = (noise if transform is None else noise / transform.scale.to(x)).square()
        # Where not all is put back any more, to go back would forget what was seen.
        least = self.noise_sq[seen.operator.mask.to(x.device)].amax().item()  # type: ignore[attr-defined]
        pairs = zip(self.scale_sq, self.beta, strict=True)
        self.puts = [square >= beta**2 * least for square, beta in pairs]
        self.most = self.repeats * sum(self.puts[1:])
        self.key = draw_key(self.generator)

    def __call__(self, moment: Moment, /) -> Tensor | None:
        step, x = moment.step, self._states(moment)
        x = self._put(step, x, 0)
        repeats = self.repeats if self.puts[step] else 0
        for k in range(1, repeats + 1):
            x = self._again(step, x, k)
            x = self._put(step, x, k)
        self.nfe += repeats
        return x.view(moment.x.shape)

    def _normal(self, x: Tensor, *path: int) -> Tensor:
        """Standard normals, the same for all epsilons."""
        generator = stream(mix(self.key, *path), device=x.device)
        rows = len(x) // self.chunks.groups
        z = torch.randn((rows, *x.shape[1:]), generator=generator, dtype=x.dtype, device=x.device)
        return z.repeat(self.chunks.groups, *(1,) * (x.ndim - 1))

    def _put(self, step: int, x: Tensor, k: int) -> Tensor:
        mask = self.observation.operator.mask.to(x.device)  # type: ignore[attr-defined]
        left = self.scale_sq[step] - self.beta[step] ** 2 * self.noise_sq
        drawn = left.clamp(min=0).sqrt() * self._normal(x, step, k, 0)
        known = self.shifts[step] + self.beta[step] * self.y + drawn
        return torch.where(mask & (left >= 0), known, x)

    def _again(self, step: int, x: Tensor, k: int) -> Tensor:
        """Back to the time before by noise, and forward by an ancestral step."""
        s, t = step - 1, step
        ratio = self.beta[s] / self.beta[t]
        fresh = max(self.scale_sq[s] - ratio**2 * self.scale_sq[t], 0.0)
        centred = ratio * (x - self.shifts[t]) + fresh**0.5 * self._normal(x, step, k, 1)
        d = self._over(partial(self._data, s), centred + self.shifts[s])
        part = self.scale_sq[t] / self.scale_sq[s]
        mean: Tensor = self.beta[t] * d + ratio * part * (centred - self.beta[s] * d)
        drawn: Tensor = float(part * fresh) ** 0.5 * self._normal(x, step, k, 2)
        return mean + self.shifts[t] + drawn


@checked
class DPS(_Drawn):
    """Diffusion posterior sampling: ``sample(field, n, hooks=[DPS(field, observation)])``.

    Args:
        field: that is sampled, of a process with a Gaussian part.
        observation: a linear one; its noise does not enter.
        scale: ζ; the paper has 0.3 to 1 with 1,000 steps of the reverse SDE.

    Raises:
        ConversionError: if the process has no Gaussian part.
        ValueError: if the scale is not positive.

    Source: Chung et al. (2023), algorithm 1.
    """

    name = "DPS"

    def __init__(self, field: Field, observation: LinearObservation, scale: float = 1.0) -> None:
        super().__init__(field, observation)
        self.scale = positive_number("scale", scale)

    def begin(self, times: Tensor, x: Tensor, chunks: Chunks) -> None:
        super().begin(times, x, chunks)
        self.inside = self.observation.in_units_of(self.field.transform)
        y = self.inside.y.to(x)
        if len(y) not in (1, len(x)):
            raise ValueError(
                f"there are {len(y)} observations for {len(x)} samples; give one for all, or one a"
                " row"
            )
        self.y = y.expand(len(x), *y.shape[1:]).repeat(chunks.groups, *(1,) * (y.ndim - 1))
        self.before = x.repeat(chunks.groups, *(1,) * (x.ndim - 1))
        self.most = len(times) - 1

    def __call__(self, moment: Moment, /) -> Tensor | None:
        step, x = moment.step - 1, self._states(moment)
        slope = self._over(partial(self._slope, step), self.before, self.y)
        size = self.beta[step] ** 2 + self.scale_sq[step]
        self.before = x - self.scale * size * slope
        self.nfe += 1
        return self.before.view(moment.x.shape)

    def _slope(self, step: int, x: Tensor, y: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """The gradient of the squared misfit over the misfit."""
        d, pull = pullback(lambda z: self._data(step, z, cond), x)
        residual = y - self.inside.operator.apply(d)
        misfit = sum_events(residual.square()).sqrt().clamp(min=1e-30)
        back = pull(self.inside.operator.adjoint(residual))
        return -2 * back / expand_time(misfit, back)
