"""What the steps draw, made in a thread before they need it: batches that take a plan to pair.

A plan of B rows takes as long as many a step, and neither scipy nor torch holds the interpreter
while it works. So while one step is computed, a thread draws for the next ones, from generators
that are seeded by their steps: the numbers are those that the step would have drawn itself. A batch
is read in the main thread, and errors of the thread are raised there, at the step that needs it.

Not everything may be drawn ahead: what a step changes must not enter (a path that is learned), and
what draws from the generators of the process, as a class of the user's own may, must be in the main
thread. In such a case a step draws for itself, as it does for data that can only be read in order.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import torch

from .._core.random import stream
from .._core.tensor import widened
from ..draws import Batch
from ..losses import Loss, Regression, SumLoss
from ..process import Process
from .contexts import BorrowedGenerator
from .run import Run
from .source import Source

__all__ = ["Ahead", "Drawn", "Pools", "ahead_of", "draws_alone", "draws_as_regressions"]

STEPS = 0  # the branch of the key that seeds the steps; branch 1 orders the rows
_POOLS = 5  # the branch of the key that seeds pools: after those of the sources
Drawn = tuple[Batch, Any, torch.Generator]
"""A batch, what was drawn for it (None if nothing yet), and the generator that goes on."""


def ahead_of(run: Run, source: Source, layers: BorrowedGenerator, ends: ExitStack) -> Ahead | None:
    """What draws ahead for a run, until ``ends``; None where each step draws for itself.

    Raises:
        ValueError: if the coupling pairs pools, and the run cannot.
    """
    coupling = run.field.process.coupling
    able = source.by_step and source.batch_size is not None and draws_alone(run)
    if coupling.pool is None:
        if not able or coupling.ahead == 0:
            return None
        made = Ahead(run, source, layers)
        ends.callback(made.close)
        return made
    size = source.batch_size
    if not able or size is None:
        raise ValueError(
            f"{coupling!r} pairs {coupling.pool} rows at once, for several steps, which takes data"
            " of which any batch can be asked for (a tensor, a Dataset, a law), a regression as the"
            " loss, and a path, a base and times of the library with nothing to learn; leave pool"
            " out"
        )
    if coupling.pool % size or coupling.pool < size:
        raise ValueError(
            f"pool={coupling.pool} is no multiple of batch_size={size}; write"
            f" pool={max(1, round(coupling.pool / size)) * size}"
        )
    pools = Pools(run, source, layers)
    ends.callback(pools.close)
    return pools


def draws_alone(run: Run) -> bool:
    """Whether draws are of the library's own making, and hang on nothing that is trained."""
    process, loss = run.field.process, run.loss
    parts = [process.base, process.coupling, process.interpolant, *_times_of(loss)]
    return (
        type(process) is Process
        and all(_is_ours(part) for part in parts)
        and not any(parameter.requires_grad for parameter in process.parameters())
        and draws_as_regressions(loss)
    )


def _is_ours(part: Any) -> bool:
    return part is None or type(part).__module__.split(".")[0] == __name__.split(".")[0]


def _times_of(loss: Loss) -> list[Any]:
    losses = loss.losses if isinstance(loss, SumLoss) else [loss]
    return [times for each in losses if (times := getattr(each, "times", None)) is not None]


def draws_as_regressions(loss: Loss) -> bool:
    """Whether a loss draws as regressions do."""
    if isinstance(loss, SumLoss):
        return type(loss).draw is SumLoss.draw and draws_as_regressions(loss.losses[0])
    return isinstance(loss, Regression) and type(loss).draw is Regression.draw


class Ahead:
    """Draws for the next steps in a thread, one after another.

    Args:
        run: what is trained; its key is known.
        source: of the batches.
        layers: the generator that a waiting step lends.
    """

    def __init__(self, run: Run, source: Source, layers: BorrowedGenerator) -> None:
        self.run, self.source, self.layers = run, source, layers
        self.count = run.field.process.coupling.ahead
        self.device = run.parameters[0].device
        self._jobs: dict[int, Future[Any]] = {}
        self._told = self._law()
        self._thread: ThreadPoolExecutor | None = None

    def take(self, step: int, last: int) -> Drawn:
        """What was drawn for a step, asked for in the order of the steps."""
        for ahead in range(step, min(step + 1 + self.count, last)):
            if ahead not in self._jobs:
                self._begin(ahead, self.source.batch(ahead, last))
        batch, sample, generator = self._result(step)
        del self._jobs[step]
        return batch, sample, generator

    def forget(self) -> None:
        """Draw anew if a callback changed what is drawn from."""
        told, self._told = self._told, self._law()
        if told != self._told:
            for job in self._jobs.values():
                job.cancel()
            self._jobs = {}

    def _law(self) -> tuple[int, int, str]:
        """What decides the draws, in words, and by which objects."""
        loss, field = self.run.loss, self.run.field
        return id(loss), id(field.process), repr(loss)

    def close(self) -> None:
        """Wait for what the thread is at, and end it."""
        if self._thread is not None:
            with self.layers.lent():  # for which a draw may be waiting
                self._thread.shutdown(wait=True, cancel_futures=True)

    def _begin(self, number: int, batch: Batch) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "transportflows-ahead")
        self._jobs[number] = self._thread.submit(self._make, number, batch)

    def _result(self, number: int) -> Any:
        job = self._jobs[number]
        if not job.done():
            with self.layers.lent():
                return job.result()
        return job.result()

    def _make(self, step: int, batch: Batch) -> Drawn:
        """In the thread."""
        generator = stream(self.run.key, STEPS, step, device=self.device)  # type: ignore[arg-type]
        return batch, self.run.loss.draw(self.run.field, batch, generator=generator), generator


class Pools(Ahead):
    """Pairs pools of several batches in a thread, of which each step takes some pairs.

    A pool of P rows is P/B consecutive batches of the data. Each of its pairs is used ``reuse``
    times, in as many random orders, before those of the next pool are.
    """

    def take(self, step: int, last: int) -> Drawn:
        run, size = self.run, self.source.batch_size
        coupling = run.field.process.coupling
        assert coupling.pool is not None
        assert size is not None
        assert run.key is not None
        batches = coupling.pool // size
        number, place = divmod(step, batches * coupling.reuse)
        for pool in range(number, number + 1 + (self.count > 0)):
            if pool not in self._jobs and pool * batches * coupling.reuse < last:
                parts = [self.source.batch(pool * batches + k) for k in range(batches)]
                self._begin(pool, _joined(parts))
        paired = self._result(number)
        for old in [pool for pool in self._jobs if pool < number]:
            del self._jobs[old]
        turn, part = divmod(place, batches)
        order = stream(run.key, _POOLS, number, 1 + turn, device=self.device)
        rows = torch.randperm(coupling.pool, generator=order, device=self.device)
        rows = rows[part * size : (part + 1) * size]
        batch = paired.map(lambda x: x[rows.to(x.device)] if x.ndim > 0 else x)
        return batch, None, stream(run.key, STEPS, step, device=self.device)

    def _make(self, number: int, batch: Batch) -> Any:
        generator = stream(self.run.key, _POOLS, number, 0, device=self.device)  # type: ignore[arg-type]
        process = self.run.field.process
        x0, x1 = process.pairs(widened(batch.x1), cond=batch.cond, generator=generator)
        return Batch(x1, x0, batch.cond, paired=True)


def _joined(parts: list[Batch]) -> Batch:
    """Batches as one; what is no tensor of rows is that of the first."""
    first = parts[0]
    cond = {
        name: torch.cat([part.cond[name] for part in parts])
        if isinstance(value, torch.Tensor) and value.ndim > 0
        else value
        for name, value in first.cond.items()
    }
    return Batch(torch.cat([part.x1 for part in parts]), None, cond)
