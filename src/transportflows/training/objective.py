"""The loss of a step, in parts: the rows of this process, a few at a time.

A regression splits into drawing and evaluating. It draws for the whole batch, on every process
alike, and each evaluates its own rows of what was drawn; so the sum over processes and parts is
that of one process in one part, to rounding, with minibatch optimal transport and antithetic or
stratified draws too. A loss that does not split is given its rows of the batch, and draws for them
from a stream of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from .._distributed import World
from .._random import mix
from ..batches import Batch, PathSample
from ..fields import Field
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

    @property
    def names(self) -> tuple[str, ...]:
        """The terms of a sum."""
        if isinstance(self.loss, SumLoss):
            return tuple(part.quantity for part in self.loss.losses)
        return ()

    def values(
        self, field: Field, batch: Batch, generator: torch.Generator, seed: int
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Losses of this process's rows, part by part, with their times where they are known.

        Args:
            field: the field.
            batch: the whole batch.
            generator: in the state that ``seed`` gives it.
            seed: of the step.

        Yields:
            Losses ``(b,)``, or terms ``(K, b)``; and times ``(b,)``.
        """
        rank, size = self.world.rank, self.world.size
        low, high = self.world.slice(len(batch))
        sample: PathSample | None = None
        if self.splits:
            sample = self._draw(field, batch, generator)
        if rank > 0:  # what a layer draws, such as dropout, is another process's own
            generator.manual_seed(mix(seed, rank))
        if size == 1 and self.parts == 1:
            yield self._evaluate(field, batch, sample, generator)
            return
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
        loss = self.loss
        with self._casting(batch.x1.device):
            if sample is None:
                call = loss.terms if isinstance(loss, SumLoss) else loss
                return call(field, batch, generator=generator), None
            times = sample.t[: len(sample)]
            if isinstance(loss, SumLoss):
                return loss.evaluate_terms(field, sample), times
            assert isinstance(loss, Regression)
            return loss.evaluate(field, sample), times

    def _casting(self, device: torch.device) -> AbstractContextManager[object]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device.type, self.autocast)
