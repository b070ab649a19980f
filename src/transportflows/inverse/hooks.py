r"""Hooks that draw a solve towards an observation after each step.

*Replacement* puts what was seen back, on its path ``α m + β y + σ̂ z``. What was not seen is moved
by a field that does not know what was put there later, so the two do not quite fit: *repainting*
goes back a step by noise and forward again, several times, until they do (Lugmayr et al. 2022,
algorithm 1). With ``ρ = β_s/β_t`` and s the noisier time,

.. math:: x_s = \rho\, x_t + \sqrt{\hat\sigma_s^2 - \rho^2 \hat\sigma_t^2}\, z, \qquad
          x_t \sim q(x_t | x_s, x_1 = d(s, x_s)),

the noising step and the ancestral step of :mod:`transportflows.samplers.ancestral`.

*DPS* moves a state against the gradient of the misfit of the prediction one step before,

.. math:: x_t \leftarrow x_t - \zeta\, (\beta^2 + \hat\sigma^2)
          \frac{\nabla_{x_s} |y - A d(s, x_s)|^2}{|y - A d(s, x_s)|},

in which ``β² + σ̂²``, 1 for VP, makes the step the same for any scale of x (Chung et al. 2023,
algorithm 1). Its law depends on the number of steps: more of them follow y closer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.autodiff import pullback
from .._core.checks import integer, positive_number
from .._core.random import draw_key
from .._core.signatures import checked
from .._core.tensor import expand_time, sum_events
from ..fields.base import Field, check_field
from ..observations import LinearObservation, Mask
from ..samplers.ancestral import chain_steps
from ..solve.hooks import BegunHook, Moment, SolveHook
from ..solve.noise import NoiseSource
from ..solve.rows import Chunks

__all__ = ["DPS", "Replacement"]

_FIRST = 1e-3


@checked
class _Drawn(SolveHook):
    """What both are made of: a field and an observation."""

    def __init__(self, field: Field, observation: LinearObservation) -> None:
        check_field(field, f"{type(self).__name__} is of")
        field.process.part.check_monotone()
        if field.process.shape not in (None, observation.shape):
            raise ValueError(
                f"the observation is of events of shape {tuple(observation.shape)}, and the process"
                f" has {tuple(field.process.shape or ())}"
            )
        self.field, self.observation = field, observation

    def _grid(self, times: Tensor, x: Tensor, chunks: Chunks, y: Tensor) -> _Grid:
        """The tables of a grid and the observations, in the field's units, of its rows."""
        if bool((times[1:] < times[:-1]).any()):
            raise ValueError(
                f"{type(self).__name__} is of a solve from t = 0 to the data, and this one goes"
                " backward in time"
            )
        if len(y) not in (1, len(x)):
            raise ValueError(
                f"there are {len(y)} observations for {len(x)} samples; give one for all, or one a"
                " row"
            )
        part = self.field.process.part
        at = times.to(part.device)
        shifts = [part.shift(time, x) for time in at.unbind()]
        rows = y.expand(len(x), *y.shape[1:])
        return _Grid(
            field=self.field,
            chunks=chunks,
            times=times.tolist(),
            beta=part.path.beta(at).tolist(),
            scale_sq=part.scale_sq(at).tolist(),
            shifts=[0.0 if shift is None else shift for shift in shifts],
            y=rows.repeat(chunks.groups, *(1,) * (y.ndim - 1)),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Grid:
    """Tables of a grid, and the rows of a solve.

    Attributes:
        field: that is sampled.
        chunks: how its rows are divided.
        times: of the grid.
        beta: β there.
        scale_sq: σ̂².
        shifts: α m; 0 for a mean of zero.
        y: the observation of each row of all groups.
    """

    field: Field
    chunks: Chunks
    times: list[float]
    beta: list[float]
    scale_sq: list[float]
    shifts: list[Tensor | float]
    y: Tensor

    def states(self, moment: Moment) -> Tensor:
        """All rows of all epsilons, ``(total, *)``."""
        events = moment.x.shape[1:] if self.chunks.groups == 1 else moment.x.shape[2:]
        return moment.x.reshape(self.chunks.total, *events)

    def over(self, function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """A function of rows and conditions, chunk by chunk."""
        parts = self.chunks.parts
        found = [function(*(each[pick] for each in rows), cond=own.cond) for pick, own in parts]
        return torch.cat(found)[: self.chunks.total]

    def data(self, step: int, x: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """The prediction at a time of the grid."""
        t = torch.full((), max(self.times[step], _FIRST), dtype=x.dtype, device=x.device)
        return self.field.quantity("data", t, x, cond, checked=False)


@checked
class Replacement(_Drawn):
    """Puts what a mask sees back after each step: ``sample(field, n, hooks=[Replacement(...)])``.

    A seen number with noise σ is put back while the path has more noise than it, ``σ̂ ≥ β σ``; from
    then on nothing is repeated, which would forget it. Without noise it is y itself at t = 1, also
    where the path has some noise left there, as that of VE has.

    Args:
        field: that is sampled, of a process with a Gaussian part.
        observation: with a :class:`Mask`.
        repeats: how often each step is gone back and made again, at one evaluation each; 0 for
            plain replacement.
        generator: source of what is drawn; None for the seed of the solve.

    Raises:
        TypeError: if the operator is no mask.
        ConversionError: if the process has no Gaussian part.

    Source: Lugmayr et al. (2022), algorithm 1; without repeats Song et al. (2021), section 5.

    Example:
        >>> import transportflows as tpf
        >>> law = tpf.Gaussian((2,))
        >>> field = tpf.oracle(tpf.Process(tpf.Linear(), base=law), law)
        >>> seen = LinearObservation(Mask(torch.tensor([1, 0])), torch.tensor([2.0, 0.0]), 0.0)
        >>> x = tpf.sample(field, 3, steps=10, hooks=[Replacement(field, seen)]).x
        >>> x[:, 0]
        tensor([2., 2., 2.])
    """

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

    def begin(
        self, times: Tensor, x: Tensor, chunks: Chunks, noise: NoiseSource, key: int
    ) -> BegunHook:
        transform, seen = self.field.transform, self.observation
        y = seen.y.to(x)
        grid = self._grid(times, x, chunks, y if transform is None else transform(y))
        deviation = torch.full(seen.shape, seen.noise, dtype=x.dtype, device=x.device)
        if transform is not None:
            deviation = deviation / transform.scale.to(x)
        noise.begin(key if self.generator is None else draw_key(self.generator), x, 0.0)
        mask: Tensor = seen.operator.mask.to(x.device)  # type: ignore[attr-defined]
        return _Replacing(grid, self.repeats, mask, deviation.square(), noise)


class _Replacing(BegunHook):
    """Replacement in one solve."""

    name = "replacement"

    def __init__(
        self, grid: _Grid, repeats: int, mask: Tensor, noise_sq: Tensor, noise: NoiseSource
    ) -> None:
        self.grid, self.repeats, self.mask, self.noise_sq = grid, repeats, mask, noise_sq
        self.noise = noise
        # Where not all is put back any more, to go back would forget what was seen.
        least = noise_sq[mask].amax().item()
        pairs = zip(grid.scale_sq, grid.beta, strict=True)
        self.puts = [square >= beta**2 * least for square, beta in pairs]
        self.most = repeats * sum(self.puts[1:])
        beta, square = (torch.tensor(v, dtype=torch.float64) for v in (grid.beta, grid.scale_sq))
        self.chain = chain_steps(beta, square.sqrt()) if repeats else None

    def __call__(self, moment: Moment, /) -> Tensor | None:
        step, x = moment.step, self.grid.states(moment)
        x = self.put(step, x, 0)
        repeats = self.repeats if self.puts[step] else 0
        for k in range(1, repeats + 1):
            x = self.again(step, x, k)
            x = self.put(step, x, k)
        self.nfe += repeats
        return x.view(moment.x.shape)

    def put(self, step: int, x: Tensor, k: int) -> Tensor:
        """States with what was seen in its place."""
        grid = self.grid
        left = grid.scale_sq[step] - grid.beta[step] ** 2 * self.noise_sq
        if grid.times[step] == 1:  # what was seen without noise is the data, and they are asked for
            left = torch.where(self.noise_sq > 0, left, 0.0)
        drawn = left.clamp(min=0).sqrt() * self._normal(step, k, 0)
        known = grid.shifts[step] + grid.beta[step] * grid.y + drawn
        return torch.where(self.mask & (left >= 0), known, x)

    def again(self, step: int, x: Tensor, k: int) -> Tensor:
        """Back to the time before by noise, and forward by an ancestral step."""
        grid, s, t = self.grid, step - 1, step
        assert self.chain is not None
        back, forward, state, weight, posterior = (float(v[s]) for v in self.chain)
        centred = back * (x - grid.shifts[t]) + forward**0.5 * self._normal(step, k, 1)
        d = grid.over(partial(grid.data, s), centred + grid.shifts[s])
        drawn: Tensor = posterior**0.5 * self._normal(step, k, 2)
        moved: Tensor = state * centred + weight * d + drawn
        return moved + grid.shifts[t]

    def _normal(self, *path: int) -> Tensor:
        """Standard normals, the same for all epsilons."""
        z = self.noise.normal(*path)
        return z.repeat(self.grid.chunks.groups, *(1,) * (z.ndim - 1))


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

    def __init__(self, field: Field, observation: LinearObservation, scale: float = 1.0) -> None:
        super().__init__(field, observation)
        self.scale = positive_number("scale", scale)

    def begin(
        self, times: Tensor, x: Tensor, chunks: Chunks, noise: NoiseSource, key: int
    ) -> BegunHook:
        inside = self.observation.in_units_of(self.field.transform)
        grid = self._grid(times, x, chunks, inside.y.to(x))
        return _Descending(grid, inside, self.scale, x)


class _Descending(BegunHook):
    """Diffusion posterior sampling in one solve."""

    name = "DPS"

    def __init__(self, grid: _Grid, inside: LinearObservation, scale: float, x: Tensor) -> None:
        self.grid, self.inside, self.scale = grid, inside, scale
        self.before = x.repeat(grid.chunks.groups, *(1,) * (x.ndim - 1))
        self.most = len(grid.times) - 1

    def __call__(self, moment: Moment, /) -> Tensor | None:
        grid, step = self.grid, moment.step - 1
        slope = grid.over(partial(self._slope, step), self.before, grid.y)
        size = grid.beta[step] ** 2 + grid.scale_sq[step]
        self.before = grid.states(moment) - self.scale * size * slope
        self.nfe += 1
        return self.before.view(moment.x.shape)

    def _slope(self, step: int, x: Tensor, y: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """The gradient of the squared misfit over the misfit."""
        d, pull = pullback(lambda z: self.grid.data(step, z, cond), x)
        residual = y - self.inside.operator.apply(d)
        misfit = sum_events(residual.square()).sqrt().clamp(min=1e-30)
        back = pull(self.inside.operator.adjoint(residual))
        return -2 * back / expand_time(misfit, back)
