"""Held-out rows as batches for a validation, paired as the law that is trained on says."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .._core.random import mix
from .._core.tensor import widened
from ..draws import Batch
from ..process import Process
from .ahead import draws_as_regressions
from .run import Run
from .source import Source

__all__ = ["held_out_batches"]

_KEY = 0x70616972  # one for all runs, as that of the other draws of a validation


def held_out_batches(
    run: Run, source: Source, chunk: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Batches of at most ``chunk`` rows.

    A coupling of whole data does not know rows that it was not made of, and says otherwise what
    they go with (:meth:`Coupling.pair_held_out`). One that pairs pools pairs as many held-out rows
    at once, or all there are. All others pair each batch by itself, as in training.

    Args:
        run: what is trained; a loss that draws in a way of its own pairs for itself.
        source: the held-out rows.
        chunk: B.
        generator: is seeded for each draw.
    """
    process = run.field.process
    pool = process.coupling.pool
    plain = process.interpolant.uses_base and draws_as_regressions(run.loss)
    size = chunk if pool is None or not plain else pool
    for start, batch in enumerate(source.chunks(size)):
        if plain and not batch.paired:
            generator.manual_seed(mix(_KEY, start))
            batch = _paired(process, batch, generator)
        for first in range(0, len(batch), chunk):
            yield batch.rows(first, min(first + chunk, len(batch)))


def _paired(process: Process, batch: Batch, generator: torch.Generator) -> Batch:
    """Pairs, where the coupling makes them otherwise than of the rows of a batch."""
    x1, cond = widened(batch.x1), batch.cond
    pairs = process.coupling.pair_held_out(x1, cond, generator=generator)
    if pairs is None and process.coupling.pool is None:
        return batch
    if pairs is None:
        pairs = process.pairs(x1, cond=cond, generator=generator)
    return Batch(pairs[1], pairs[0], cond, paired=True)
