"""Draws from a process for a loss: at which times, how far from the ends, with which density.

Here the times of a loss are decided, once: a sampler is bound to the process, its margins are
found, and the same margins serve the draw and the density by which an importance weight divides.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .._core.checks import per_time
from .._core.random import local
from .._core.tensor import widened
from ..draws import Batch, PathSample
from ..gaussian_part import NoisePart
from ..process import Process
from ..times.base import Margin, TimeSampler, UniformTimes
from .weights import LossWeight

__all__ = ["bound_times", "draw_path", "margins", "weight_at", "with_density"]

Weight = LossWeight | Callable[[Tensor], Tensor] | None
_UNIFORM = UniformTimes()


def margins(process: Process, times: TimeSampler, weight: Weight, form: str) -> Margin:
    """How far from the ends of time a loss keeps: the sampler's own margins, if it has any.

    Otherwise 1e-4 from an end where the target ``ẋ`` or the weight is infinite.

    Args:
        process: the law of x_t.
        times: the sampler.
        weight: of the loss; a function of times has no margins.
        form: the quantity in whose form the weight is taken.
    """
    if times.margin is not None:
        return times.margin
    low, high = process.target_margin
    if isinstance(weight, LossWeight):
        own = weight.margin(process.part, form)
        return max(low, own[0]), max(high, own[1])
    return low, high


def bound_times(
    process: Process, times: TimeSampler | None, weight: Weight, form: str
) -> TimeSampler:
    """The sampler of times for a process, uniform if None, with the margins that it will keep.

    Args:
        process: the law of x_t.
        times: sampler of t; None for uniform times.
        weight: see :func:`margins`.
        form: see :func:`margins`.
    """
    bound = (_UNIFORM if times is None else times).bind(process)
    if bound.margin is None:
        margin = margins(process, bound, weight, form)
        bound = copy.copy(bound)
        bound.margin = margin
    return bound


def weight_at(weight: Weight, part: NoisePart, t: Tensor, form: str) -> Tensor:
    """A weight at times ``(B,)``: of their shape, or one number for all."""
    if isinstance(weight, LossWeight):
        found = weight(part.whole, t, form)
        return per_time(f"{type(weight).__name__}.value", found, t)
    return per_time("weight(t)", weight(t), t)  # type: ignore[misc]


def draw_path(
    process: Process,
    batch: Batch,
    *,
    times: TimeSampler | None,
    weight: Weight,
    form: str,
    antithetic: bool = False,
    importance: bool = False,
    generator: torch.Generator | None = None,
) -> PathSample:
    """Draw x_t for a batch: first the times, then what the process draws.

    Args:
        process: the law of x_t.
        batch: data, pairs, conditions.
        times: sampler of t; None for uniform times.
        weight: see :func:`margins`.
        form: see :func:`margins`.
        antithetic: draw each latent with both signs.
        importance: give the sample the density of its times, by which the loss is then divided.
        generator: source of randomness.
    """
    x1 = batch.x1
    generator = local(generator, x1.device)
    bound = bound_times(process, times, weight, form)
    x0, paired = batch.x0, batch.paired
    if batch.places is not None:
        x0, x1 = process.coupling.pair_at(batch.places, widened(x1), generator=generator)
        paired = True
    sample = process.sample(
        x1,
        x0=x0,
        t=bound,
        antithetic=antithetic,
        cond=batch.cond,
        paired=paired,
        generator=generator,
    )
    return with_density(sample, bound) if importance else sample


def with_density(sample: PathSample, times: TimeSampler) -> PathSample:
    """The sample with the density of its times, by which a loss is divided."""
    return replace(sample, density=times.density(sample.t))
