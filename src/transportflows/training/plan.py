"""What one fit is to do: its arguments, checked, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .._core.arguments import positive_integer
from .._core.arrays import is_array
from .._core.condition import Condition
from .._core.distributed import World
from .._core.random import stream
from .._core.shards import check_trained, put_back
from ..draws import Batch
from ..fields.null_conditions import given_transforms
from .arguments import BATCH_SIZE, as_source
from .callbacks import Callback
from .checkpoints import Checkpoints
from .dropping import Dropping, as_dropping
from .from_items import FromItems
from .from_law import FromLaw
from .held_out import held_out_batches
from .iterable import ReadInOrder
from .run import Run
from .snapshots import check_storable
from .source import Source

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """What one fit is to do.

    Attributes:
        source: where batches come from.
        last: how many steps there are in all when it ends.
        held_out: rows to validate on.
        validation_every: steps between validations.
        chunk: rows that a validation evaluates at once.
        checkpoints: where to leave them.
        callbacks: whom to tell.
        resume: whether to go on from a checkpoint; ``"anyway"``: even from one of another run.
        dropping: which conditions are dropped, or None.
    """

    source: Source
    last: int
    held_out: Source | None
    validation_every: int
    chunk: int
    checkpoints: Checkpoints | None
    callbacks: Sequence[Callback]
    resume: bool | str = False
    dropping: Dropping | None = None

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """What the conditions are like that the field is trained with, as far as they were read."""
        known = self.source.conditions
        return known if self.dropping is None else self.dropping.conditions(known)

    def held_out_batches(self, run: Run, generator: torch.Generator) -> Iterator[Batch]:
        """The rows to validate on, paired as they are to be."""
        assert self.held_out is not None
        return held_out_batches(run, self.held_out, self.chunk, generator)


def make_plan(
    run: Run,
    data: Any,
    ends: ExitStack,
    *,
    begun: int,
    steps: int,
    batch_size: int | None,
    cond: Any,
    drop_cond: Any,
    validation: Any,
    validation_every: int,
    checkpoints: Any,
    resume: Any,
    callbacks: Sequence[Callback],
    workers: int,
) -> Plan:
    """Check all that this process can check by itself, and open what the loop needs.

    For the arguments see :meth:`Trainer.fit`; ``begun`` is the step from which ``steps`` count, and
    ``ends`` gives back what is held while the fit goes on.
    """
    put_back(run.field)
    check_trained(run.parameters, run.field)
    steps = positive_integer("steps", steps)
    batch_size = None if batch_size is None else positive_integer("batch_size", batch_size)
    validation_every = positive_integer("validation_every", validation_every)
    workers = positive_integer("workers", workers) if workers else 0
    if run.ema is not None and run.ema.swapped:
        raise ValueError("fit would train the averages; leave averaged() first")
    if resume not in (True, False, "anyway"):
        raise ValueError(f"resume is True, False or 'anyway', got {resume!r}")
    if resume and checkpoints is None:
        raise ValueError("resume needs a folder: fit(..., checkpoints='runs/a', resume=True)")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            given = getattr(callback, "__name__", type(callback).__name__)
            raise TypeError(f"callbacks are Callbacks such as CSVLog('a.csv'), got {given}")
        callback.check()
        if callback.every is not None:
            positive_integer(f"every of {type(callback).__name__}", callback.every)
    source = as_source(data, run.field, batch_size, cond, workers, run.world)
    if source.batch_size is not None and source.batch_size < run.world.size:
        raise ValueError(
            f"batch_size={source.batch_size} leaves some of {run.world.size} processes without a"
            " row; it is the size of the batch over all of them"
        )
    chunk = source.batch_size or BATCH_SIZE
    held_out = _held_out(run, validation, source, cond, chunk)
    folder = None if checkpoints is None else Checkpoints.of(checkpoints)
    if folder is not None and run.world.first:
        ends.enter_context(folder.held())
        check_storable(run, callbacks)
    return Plan(
        source,
        begun + steps,
        held_out,
        validation_every,
        chunk,
        folder,
        tuple(callbacks),
        resume,
        _dropping(drop_cond, run, source),
    )


def _dropping(given: Any, run: Run, source: Source) -> Dropping | None:
    """Which conditions are dropped; refused at once where the conditions are known."""
    dropping = as_dropping(given, run.field)
    transforms = given_transforms(run.field).get("cond_transforms", {})
    known = [*(source.conditions or source.names)]
    read = bool(known) or not isinstance(source, FromItems) or isinstance(source, FromLaw)
    for name in transforms:
        if read and name not in known:
            raise ValueError(
                f"the field has cond_transforms of {name!r}, and the conditions of the data are"
                f" {', '.join(map(repr, known)) or 'none'}"
            )
    if dropping is not None and read:
        if source.conditions or not known:
            dropping.conditions(source.conditions)
        else:
            dropping.names(dict.fromkeys(known))
    return dropping


def _held_out(run: Run, validation: Any, source: Source, cond: Any, chunk: int) -> Source | None:
    """The rows to validate on, seen to be usable."""
    if validation is None:
        if isinstance(run.scheduler, ReduceLROnPlateau):
            raise ValueError("ReduceLROnPlateau follows the validation loss; give validation=")
        return None
    rows = isinstance(validation, (Tensor, Batch)) or is_array(validation)
    tensors = isinstance(cond, Mapping) or rows
    names = None if tensors else cond
    held_out = as_source(validation, run.field, None, names, 0, World(), "validation")
    if isinstance(held_out, ReadInOrder) and getattr(source, "data", None) is held_out.data:
        raise ValueError(
            "validation is the object that the data are read from, and reading it would move"
            " it; make another one"
        )
    random = stream(0, device=run.parameters[0].device)
    for _ in held_out_batches(run, held_out, chunk, random):
        break  # now is the time to see that they can be used
    known = [list(each.conditions or each.names) for each in (source, held_out)]
    if known[0] and set(known[0]) != set(known[1]):
        raise ValueError(
            f"the data have conditions {known[0]} and validation {known[1]}; write"
            " validation=Batch(x1, cond={...})"
        )
    return held_out
