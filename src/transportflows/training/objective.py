"""The loss of a step, in parts: the rows of this process, a few at a time.

A regression splits into drawing and evaluating. It draws for the whole batch, on every process
alike, and each evaluates its own rows of what was drawn; so the sum over processes and parts is
that of one process in one part, to rounding, with minibatch optimal transport and antithetic or
stratified draws too. A loss that does not split is given its rows of the batch, and draws for them
from a stream of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .._core.distributed import World
from .._core.random import mix
from ..draws import Batch, PathSample
from ..fields.base import Field
from ..losses import Loss, Regression, SumLoss

__all__ = ["Objective"]


class Objective:
    """A loss, and how a batch is divided over processes and parts.

    Args:
        loss: the loss.
        accumulate: parts into which the rows of a process are divided.
        autocast: dtype of the network's matrix products; None for its own.
        world: the processes of the run.
    """

    def __init__(
        self, loss: Loss, accumulate: int, autocast: torch.dtype | None, world: World
    ) -> None:
        self.loss, self.parts, self.world = loss, accumulate, world
        self.autocast = autocast
        kind = type(loss)
        # A subclass that writes these itself is asked itself.
        whole = SumLoss if isinstance(loss, SumLoss) else Regression
        self.splits = isinstance(loss, whole) and all(
            getattr(kind, name) is getattr(whole, name)
            for name in ("__call__", "terms")
            if hasattr(whole, name)
        )

    def values(
        self, field: Field, batch: Batch, generator: torch.Generator, seed: int
    ) -> Iterable[tuple[Tensor, Tensor | None]]:
        """Losses of this process's rows, part by part, with their times where they are known.

        Args:
            field: the field.
            batch: the whole batch.
            generator: in the state that ``seed`` gives it.
            seed: of the step.

        Returns:
            For each part losses ``(b,)``, or terms ``(K, b)``; and times ``(b,)``.
        """
        sample = self._draw(field, batch, generator) if self.splits else None
        if self.world.size == 1 and self.parts == 1:
            return (self._evaluate(field, batch, sample, generator),)
        if self.world.rank > 0:  # what a layer draws, such as dropout, is another process's own
            generator.manual_seed(mix(seed, self.world.rank))
        return self._parts(field, batch, sample, generator)

    def _parts(
        self,
        field: Field,
        batch: Batch,
        sample: PathSample | None,
        generator: torch.Generator,
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        low, high = self.world.slice(len(batch))
        parts = min(self.parts, high - low)
        for k in range(parts):
            rows = low + (high - low) * k // parts, low + (high - low) * (k + 1) // parts
            part = None if sample is None else sample.rows(*rows)
            yield self._evaluate(field, batch.rows(*rows), part, generator)

    def _draw(self, field: Field, batch: Batch, generator: torch.Generator) -> PathSample:
        if isinstance(self.loss, SumLoss):
            return self.loss.losses[0].draw(field, batch, generator=generator)
        assert isinstance(self.loss, Regression)
        return self.loss.draw(field, batch, generator=generator)

    def _evaluate(
        self, field: Field, batch: Batch, sample: PathSample | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        if self.autocast is None:
            return self._plainly(field, batch, sample, generator)
        with torch.autocast(batch.x1.device.type, self.autocast):
            return self._plainly(field, batch, sample, generator)

    def _plainly(
        self, field: Field, batch: Batch, sample: PathSample | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        loss: Any = self.loss
        if sample is None:
            call = loss.terms if isinstance(loss, SumLoss) else loss
            return call(field, batch, generator=generator), None
        times = sample.t[: len(sample)] if sample.antithetic else sample.t
        evaluate = loss.evaluate_terms if isinstance(loss, SumLoss) else loss.evaluate
        return evaluate(field, sample), times
