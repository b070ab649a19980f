"""The state of a run: what is trained, how, how far it is, and what was recorded of it.

The step loop moves it, checkpoints hold it, callbacks look at it. A
:class:`~transportflows.training.Trainer` is a run that can also be fitted, saved and loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .._core.condition import Condition
from .._core.distributed import World
from .._core.registry import told
from .._core.shards import in_shards, written
from .._core.shared import writing
from .._core.signatures import checked
from .._core.trained import seen_together
from ..fields.base import Field
from ..losses import Loss
from .compiled import CompiledStep
from .contexts import mode, swapped
from .ema import EMA
from .history import History
from .recorder import Recorder
from .schedules import RateSchedule
from .source import Source

__all__ = ["Run"]


@checked
class Run:
    """What the loop, the checkpoints and the callbacks of a training run share.

    Args:
        field: what is trained.
        loss: the loss whose mean over rows is minimised.
        optimizer: moves the parameters.
        scheduler: of its learning rate, or None.
        ema: averages of the parameters, or None.
        clip: largest norm of the gradient, or None.
        accumulate: parts into which the rows of a batch are divided.
        autocast: dtype of the networks' matrix products, or None for their own.

    Attributes:
        compiled: the forward and backward pass of a step as one graph, or None.
        step: number of steps done.
        key: of which everything random in the run is a function; None before the first step.
        stopped: why a callback ended the fit early; None if none did.
        world: the processes that train together.
        validates: whether the fit that goes on has held-out rows.
        resuming: whether it was asked to resume.
        recorder: losses, rates, gradients and times so far.
        source: where the batches come from; None before the first fit.
        trained: with what conditions the field was trained before the fit that goes on.
        met: with what it was trained in it.
        position: of the source, in a checkpoint from which the run goes on; None otherwise.
        begun: the step at which the fit began that goes on.
        told: the step up to which the fits of this script have said to go.
        settings: hyperparameters of the optimizer as they were given.
        aside: parameters of the field that are trained by nobody, as far as the user knows.
        description: what a run that resumes this one must have in common with it.
    """

    def __init__(
        self,
        field: Field,
        loss: Loss,
        optimizer: Optimizer,
        scheduler: LRScheduler | RateSchedule | None = None,
        *,
        ema: EMA | None = None,
        clip: float | None = None,
        accumulate: int = 1,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.field, self.loss = field, loss
        self.optimizer, self.scheduler = optimizer, scheduler
        self.ema, self.clip, self.accumulate, self.autocast = ema, clip, accumulate, autocast
        self.compiled: CompiledStep | None = None
        self.step = 0
        self.key: int | None = None
        self.stopped: str | None = None
        self.world = World()
        self.validates = self.resuming = False
        self.recorder = Recorder(loss.names)
        self.source: Source | None = None
        self.trained = field.conditions
        self.met: Mapping[str, Condition] | None = None
        self.position: Any = None
        self.begun = self.told = 0
        self.settings = _settings(optimizer)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.aside = [p for p in field.parameters() if p.requires_grad and id(p) not in held]
        self.description: dict[str, Any] = {}

    def meet(self, conditions: Mapping[str, Condition]) -> None:
        """Let the field know what it is trained with: what it was before this fit, and this."""
        if conditions is not self.met:
            self.met = conditions
            self.field.conditions = seen_together(self.trained, conditions)

    def forget_unmade(self, first: int) -> None:
        """After a fit that did not get over its first step the field knows what it knew."""
        if self.step < first:
            self.field.conditions = self.trained

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained, namely the parameters of the optimizer that require a gradient."""
        groups = self.optimizer.param_groups
        return [p for group in groups for p in group["params"] if p.requires_grad]

    @property
    def history(self) -> History:
        """All steps so far, also those of a run that was interrupted.

        While a fit goes on, those that were read: losses are read every 50 steps, or every half
        second, so that the last ones may be missing.
        """
        return self.recorder.history()

    def stop(self, reason: str = "stopped by a callback") -> None:
        """End the fit that goes on after this step; for callbacks."""
        self.stopped = reason

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Work with the averages: ``with trainer.averaged(): sample(field, ...)``.

        They are put in the place of the field's weights, which come back at the end bit for bit,
        also after an error.

        Raises:
            ValueError: if there are no averages.
            RuntimeError: if another thread samples the field.
        """
        with writing(self.field.networks), written(self.field), self._averages().swap():
            yield

    @contextmanager
    def evaluating(self) -> Iterator[Field]:
        """The field as it is evaluated: in eval mode, with the averages if there are any."""
        with mode(self.field, False), written(self.field), swapped(self.ema):
            yield self.field

    def averaged_field(self) -> Field:
        """A copy of the field with the averages as its weights.

        Raises:
            ValueError: if there are no averages, if parameters are trained that the field does
                not hold and a copy of it would not take along, or if it lies in shards.
        """
        held = {id(parameter) for parameter in self.field.parameters()}
        if any(id(parameter) not in held for parameter in self._averages().parameters):
            raise ValueError(
                "some of the trained parameters are not in the field (its network is no"
                " nn.Module?), so a copy of it would share them; write with trainer.averaged():"
            )
        if any(map(in_shards, self.parameters)):
            raise ValueError(
                "the networks lie in shards, of which there is no copy; write with"
                " trainer.averaged():, or trainer.load a checkpoint in one process"
            )
        with self.averaged():
            return copy.deepcopy(self.field)

    def _averages(self) -> EMA:
        if self.ema is None:
            raise ValueError("there are no averages; write Trainer(field, loss, ema=0.999)")
        return self.ema

    def describe(self, source: Source, dropping: object | None = None) -> dict[str, Any]:
        """What a resumed run must have in common with this one, were it to train on ``source``."""
        kind = None if self.scheduler is None else type(self.scheduler).__name__
        process = self.field.process
        learned = any(p.requires_grad for p in process.parameters())
        return {
            "process": type(process).__name__ if learned else told(process, sums=True),
            "data": source.describe(),
            "batch_size": source.batch_size,
            "world_size": self.world.size,
            "accumulate": self.accumulate,
            "autocast": None if self.autocast is None else str(self.autocast),
            "loss": self.loss.title,
            "terms": list(self.loss.names),
            "optimizer": type(self.optimizer).__name__,
            "settings": self.settings,
            "scheduler": str(self.scheduler) if isinstance(self.scheduler, RateSchedule) else kind,
            "ema": None if self.ema is None else self.ema.decay,
            "clip": self.clip,
            "drop_cond": None if dropping is None else str(dropping),
        }


def _settings(optimizer: Optimizer) -> list[dict[str, str]]:
    """The hyperparameters of each group, with the learning rate before any schedule moves it."""
    return [
        {
            name: str(group.get("initial_lr", value) if name == "lr" else value)
            for name, value in group.items()
            if name not in ("params", "initial_lr")
        }
        for group in optimizer.param_groups
    ]
