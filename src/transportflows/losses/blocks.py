"""What several batches draw, made at once: the same numbers as one after another.

Drawing costs little and asking for it much, where a batch is small: margins, bounds, a path, a
target and a weight take some forty calls of torch, whatever the number of rows. So the generator
is seeded and asked for each batch by itself, and all that is computed of what it gave is computed
for all batches together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .._core.tensor import widened
from ..couplings.base import Independent, Paired
from ..draws import Batch, PathSample
from ..fields.base import Field
from ..process import Process
from .base import Loss
from .paths import bound_times, with_density
from .regressions import Regression
from .sums import SumLoss

__all__ = ["draw_blocks", "draws_in_blocks"]


def draws_in_blocks(loss: Loss, field: Field) -> bool:
    """Whether the batches of a loss can be drawn together.

    Each row must draw for itself, which a plan does not let it, and a sample that is antithetic
    has rows of its own.
    """
    first = loss.losses[0] if type(loss) is SumLoss else loss
    return (
        isinstance(first, Regression)
        and type(first).draw is Regression.draw
        and not {"draw", "prepare"} & (vars(first).keys() | vars(loss).keys())
        and not first.antithetic
        and type(field.process) is Process
        and type(field.process.coupling) in (Independent, Paired)
    )


def draw_blocks(
    loss: Loss, field: Field, batch: Batch, seeds: Sequence[int], generator: torch.Generator
) -> list[PathSample]:
    """What a loss draws for batches of one size that follow one another in ``batch``.

    Args:
        loss: a regression, or the sum of some.
        field: the field.
        batch: all batches, one after another.
        seeds: of each batch.
        generator: is seeded with each of them, in turn.

    Returns:
        For each batch what ``loss.draw`` gives with a generator in the state of its seed, with its
        targets and weights computed.
    """
    parts = loss.losses if isinstance(loss, SumLoss) else [loss]
    first = parts[0]
    assert isinstance(first, Regression)
    process, x1 = field.process, widened(batch.x1)
    size = len(batch) // len(seeds)
    times = bound_times(process, first.times, first.weight, first.form)
    like, device = x1[:size], x1.device
    drawn: list[tuple[Tensor | None, ...]] = []
    for seed in seeds:
        generator.manual_seed(seed)
        t = times.sample(size, generator=generator, device=device, dtype=x1.dtype)
        drawn.append((t, *process.draw_ends(like, generator, batch.x0 is None)))
    times_of_all, x0, z = (_joined(each) for each in zip(*drawn, strict=True))
    x0 = batch.x0 if x0 is None else x0
    cond: Mapping[str, object] = batch.cond
    sample = process.sample(x1, x0=x0, z=z, t=times_of_all, cond=cond, paired=True)
    if first.importance:
        sample = with_density(sample, times)
    for part in parts:
        part.prepare(sample)  # type: ignore[attr-defined]
    return sample.split(size)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    whole = [part for part in parts if part is not None]
    return torch.cat(whole) if whole else None
