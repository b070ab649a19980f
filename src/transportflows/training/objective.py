"""The mean of a loss over a batch, and its gradient: a few rows at a time, on several processes.

The loss draws for the whole batch, on every process alike, and each process evaluates its own rows
of what was drawn, perhaps in parts. So the sum over processes and parts is that of one process in
one part, to rounding, with minibatch optimal transport and antithetic or stratified draws too. A
loss that draws only when it is evaluated draws for its own rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .._core.distributed import World
from .._core.precision import widest, widest_dtype
from .._core.random import mix
from .._core.shards import in_shards
from ..draws import Batch
from ..fields.base import Field
from ..losses import Loss
from .compiled import CompiledStep
from .contexts import BorrowedGenerator
from .dropping import Dropping
from .quick import Quick
from .replicas import Replicas

__all__ = ["LAYERS", "Objective"]

LAYERS = 0x6C6179657273  # the branch of a step's seed for what layers draw
_VALIDATION_KEY = 0x7472616E73706F72  # one for all runs, so that their curves can be compared
Valued = tuple[Tensor, Tensor | None]


class Objective:
    """A loss of a field, and how a batch is divided over processes and parts.

    Args:
        loss: the loss.
        field: what is trained.
        accumulate: parts into which the rows of a process are divided.
        autocast: dtype of the networks' matrix products; None for their own.
        world: the processes of the run.
        parameters: what is trained.
        only: those among which the gradient is to stay, where the loss depends on others; None for
            no such limit.
        dropping: which conditions are dropped, in training and not in validations; None for none.
        compiled: the forward and backward pass as one graph; None for eager ones.
    """

    def __init__(
        self,
        loss: Loss,
        field: Field,
        *,
        accumulate: int = 1,
        autocast: torch.dtype | None = None,
        world: World | None = None,
        parameters: Sequence[Tensor] = (),
        only: Sequence[Tensor] | None = None,
        dropping: Dropping | None = None,
        compiled: CompiledStep | None = None,
    ) -> None:
        self.loss, self.field, self.accumulate = loss, field, accumulate
        self.world = World() if world is None else world
        self.parameters, self.only, self.dropping = list(parameters), only, dropping
        # Where parameters lie in shards, torch takes means of gradients over processes, all of
        # which must call the network equally often.
        self.sharded = any(map(in_shards, (*self.parameters, *field.parameters())))
        self._scale = self.world.size if self.sharded else 1
        self._plain = [p for p in self.parameters if not in_shards(p)]
        self._evaluate = loss.terms if loss.names else loss.evaluate
        device = field.reference().device.type
        self._precision: Any = nullcontext()
        if autocast is not None:
            self._precision = torch.autocast(device, autocast)
        self.quick = Quick(loss, field, self._precision, only, compiled)
        if compiled is not None and self.world.size > 1:
            compiled.stop("gradients are summed among processes on the way back", networks=True)
        self.layers: BorrowedGenerator | None = None  # from which layers draw, if they are seeded
        self._share: Tensor | None = None  # 1/B for each row, and the B that it is for
        self._share_of = 0
        self._used: list[bool] | None = None  # which parameters get a gradient
        self._replicas: Replicas | None = None  # from the second step on, where there are others
        self._real = 1  # parts of a batch that have rows; others keep the processes in step
        self._timed = True  # whether the loss tells the times of its rows

    def values(self, batch: Batch, generator: torch.Generator, seed: int) -> list[Valued]:
        """Losses of this process's rows, part by part, with their times where they are known.

        Args:
            batch: the whole batch.
            generator: in the state that ``seed`` gives it.
            seed: of the step.

        Returns:
            For each part losses ``(b,)``, or terms ``(K, b)``; and times ``(b,)`` or None.
        """
        valued = []
        for sample in self._parts(batch, generator, seed):
            with self._precision:
                valued.append((self._evaluate(self.field, sample), _times(sample)))
        return valued[: self._real]

    def mean(self, batches: Iterable[Batch], generator: torch.Generator) -> Tensor:
        """The mean over all rows of some batches, ``()``, with the same draws at every call.

        Raises:
            ValueError: if there are no rows.
        """
        total: Tensor | None = None
        start = 0
        for batch in batches:
            seed = mix(_VALIDATION_KEY, start)
            self._seed(generator, seed)
            # With autograd on: a loss may need it (sliced score matching).
            for values, _ in self.values(batch, generator, seed):
                part = widest(values.detach()).sum()
                total = part if total is None else total + part
            start += len(batch)
        if start == 0:
            raise ValueError("validation is empty; give at least one row")
        if total is None:  # of a process that had none
            home = self.parameters[0].device
            total = torch.zeros((), dtype=widest_dtype(home), device=home)
        self.world.sum_(total)
        return total / start

    def backward(
        self, batch: Batch, generator: torch.Generator, seed: int, sample: Any = None
    ) -> Valued:
        """Add the gradient of the mean over the batch to the parameters; see :meth:`values`.

        Args:
            batch: the whole batch.
            generator: in the state that ``seed`` gives it, or in that after ``sample``.
            seed: of the step.
            sample: what was drawn for it ahead; None to draw now.

        Returns:
            Losses of this process's rows, detached, and their times.
        """
        rows, seen = len(batch), []
        parts = self._parts(batch, generator, seed, self.dropping, sample)
        replicas = self._replicas if rows >= self.world.size else None
        learned = len(parts) > 1 and any(p.requires_grad for p in self.field.process.parameters())
        for k, part in enumerate(parts, 1):
            if (found := self._quickly(part, rows, seed if k == 1 else None)) is not None:
                seen.append((found, _times(part)))
                continue
            with self._precision:
                if replicas is None:
                    values = self._evaluate(self.field, part)
                else:
                    values = replicas(part, k == len(parts))
            real = k <= self._real
            share = self._share if real else torch.zeros_like(values)
            if share is None or share.shape != values.shape or (real and self._share_of != rows):
                share = self._new_share(values, rows)
            again = learned and k < len(parts)  # through the path, which was drawn for all parts
            torch.autograd.backward((values,), (share,), retain_graph=again, inputs=self.only)
            if real:
                seen.append((values.detach(), _times(part)))
        if self.world.size > 1:
            self._sum_gradients(summed=replicas is not None)
        return seen[0] if len(seen) == 1 else self._joined(seen)

    def _quickly(self, sample: Any, rows: int, seed: int | None) -> Tensor | None:
        """The losses, where the gradient is had without autograd through them; None if not.

        The first step of a fit has no shares yet, and is looked at by :meth:`_new_share`.
        """
        share = self._share
        if self.world.size > 1 or share is None or self._share_of != rows:
            return None  # among processes gradients are summed in the backward pass of the loss
        if share.shape[-1] != len(sample):
            return None
        values = self.quick(sample, share)
        if values is None and seed is not None and self.layers is not None:
            self.layers.manual_seed(mix(seed, LAYERS))  # a graph that failed may have drawn
        return values

    def _parts(
        self,
        batch: Batch,
        generator: torch.Generator,
        seed: int,
        dropping: Dropping | None = None,
        sample: Any = None,
    ) -> list[Any]:
        """What was drawn for the batch: of this process's rows, in parts."""
        if sample is None:
            sample = self.loss.draw(self.field, batch, generator=generator)
        if dropping is not None:
            sample = dropping.drop(sample, batch.cond, seed)
        if self.world.size == 1 and self.accumulate == 1:
            return [sample]  # its one part is real
        if self.world.rank > 0:  # what a layer draws, such as dropout, is another process's own
            self._seed(generator, mix(seed, self.world.rank))
        self._timed = getattr(sample, "t", None) is not None
        low, high = self.world.slice(len(batch))
        self._real = parts = min(self.accumulate, high - low)
        ends = [low + (high - low) * k // parts for k in range(parts + 1)] if parts else []
        spans = list(pairwise(ends))
        if self.sharded:
            most = min(self.accumulate, -(-len(batch) // self.world.size))
            spans += [(0, 1)] * (most - parts)
        return [sample.rows(a, b) for a, b in spans]

    def _seed(self, generator: torch.Generator, seed: int) -> None:
        generator.manual_seed(seed)
        if self.layers is not None:
            self.layers.manual_seed(mix(seed, LAYERS))

    def _new_share(self, values: Any, rows: int) -> Tensor:
        """The share of each row in the mean; refuse values that are none of rows."""
        name, names = self.loss.title, self.loss.names
        low, high = self.world.slice(rows)
        whole = self.world.size == self.accumulate == 1
        needed = (len(names), rows) if names else (rows,)
        fits = isinstance(values, Tensor) and (
            values.shape == needed
            if whole
            else values.shape[:-1] == needed[:-1] and 0 < values.shape[-1] <= high - low
        )
        if not fits:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"{name} must give one value a row, ({rows},), and it gave {got}; sum over events,"
                " not over rows, and take no mean"
            )
        if not values.requires_grad:
            raise ValueError(
                f"the value of {name} depends on no trained parameter; is the network called under"
                " no_grad, or frozen since the Trainer was made?"
            )
        self._share = torch.full_like(values, self._scale / rows, requires_grad=False)
        self._share_of = rows
        return self._share

    def _joined(self, seen: list[Valued]) -> Valued:
        """The parts of a step as one; of a process that had no rows of a short batch, none."""
        if not seen:
            names = self.loss.names
            device = self.parameters[0].device
            nothing = torch.zeros(0, device=device)
            shape = (len(names), 0) if names else (0,)
            return torch.zeros(shape, device=device), nothing if self._timed else None
        values = torch.cat([values for values, _ in seen], dim=-1)
        times = [t for _, t in seen if t is not None]
        return values, torch.cat(times) if times else None

    def _sum_gradients(self, summed: bool) -> None:
        """Make the gradients those of the whole batch, on every process.

        Args:
            summed: whether they were added up in the backward pass; they are after the first one,
                which shows what gets a gradient, where there is a row for each process.
        """
        have, first = [p.grad is not None for p in self._plain], self._used is None
        if self._used is None:  # a process may have no rows of the first batch
            everywhere = self.world.all_values(have if any(have) else None)
            self._used = next((flags for flags in everywhere if flags is not None), have)
        if have != self._used and any(have):
            raise ValueError(
                "other parameters have a gradient at this step than at the first one, and processes"
                " must agree on which have; let the network use all its parameters at every step"
            )
        if summed:
            return
        used = [p for p, flag in zip(self._plain, self._used, strict=True) if flag]
        for parameter in used:
            if parameter.grad is None:  # of a process without a row
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in used if p.grad is not None]
        self.world.sum_gradients(gradients)
        if self.sharded:
            if gradients:
                torch._foreach_div_(gradients, self._scale)
            return
        known = [p for p in used if isinstance(p, nn.Parameter)]
        if first and known and len(known) == len(used):
            self._replicas = Replicas(partial(self._evaluate, self.field), known)


def _times(sample: Any) -> Tensor | None:
    """The times of the rows; an antithetic sample holds them twice."""
    t: Tensor | None = getattr(sample, "t", None)
    if t is None or len(t) == len(sample):
        return t
    return t[: len(sample)]
