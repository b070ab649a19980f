"""What the steps of a run work with: made of the run as it is, and anew where somebody changed it.

A callback may do what one does in a loop of one's own: freeze parameters or have others trained,
give the optimizer a group, put another optimizer, scheduler or loss in the place of the first. So
the run is looked at when a fit begins, and after callbacks.
"""

from __future__ import annotations

import warnings
from operator import is_
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .arguments import trainable
from .contexts import BorrowedGenerator
from .dropping import Dropping
from .move import Move
from .objective import Objective
from .run import Run
from .schedules import RateSchedule

__all__ = ["Equipment"]


class Equipment:
    """Parameters, objective, move and schedules of a run.

    Args:
        run: what is trained, and how.
        dropping: which conditions are dropped; None for none.

    Attributes:
        parameters: what is trained.
        objective: takes the gradient in them.
        move: moves them.
        schedule: a factor of the learning rate for each step, or None.
        plateau: a scheduler that follows the validation loss, or None.
        scheduler: another one of torch's, stepped after each step, or None.
        foreach: whether gradients are clipped together; None where torch is to say.
        layers: from which layers draw, once the steps begin.
    """

    parameters: list[nn.Parameter]
    objective: Objective
    move: Move
    schedule: RateSchedule | None
    plateau: ReduceLROnPlateau | None
    scheduler: Any
    foreach: bool | None

    def __init__(self, run: Run, dropping: Dropping | None) -> None:
        self.run, self.dropping = run, dropping
        self.layers: BorrowedGenerator | None = None
        self._made_of: list[Any] = []
        self.look()

    def look(self) -> None:
        """Make anew what hangs on something that is another one than it was."""
        run, parameters, free = self.run, self.run.parameters, trainable(self.run.field)
        now: list[Any] = [
            run.optimizer,
            run.scheduler,
            run.loss,
            run.field,
            run.world,
            run.accumulate,
        ]
        now += [run.autocast, run.compiled, len(parameters), *parameters, *free]
        if run.compiled is not None:
            run.compiled.follow(run.loss, run.field, parameters, run.autocast)
        if len(now) == len(self._made_of) and all(map(is_, now, self._made_of)):
            self.move.forget()  # what is in the optimizer may be another all the same
            return
        if not parameters:
            raise ValueError(
                "nothing is left to train: no parameter in the groups of the optimizer requires a"
                " gradient any more; call requires_grad_(True) for those that are to be trained"
            )
        self._made_of, self.parameters = now, parameters
        if run.ema is not None:
            run.ema.follow(parameters)
        mine = {id(parameter) for parameter in parameters}
        others = [parameter for parameter in free if id(parameter) not in mine]
        self.objective = Objective(
            run.loss,
            run.field,
            accumulate=run.accumulate,
            autocast=run.autocast,
            world=run.world,
            parameters=parameters,
            only=tuple(parameters) if others else None,
            dropping=self.dropping,
            compiled=run.compiled,
        )
        self.objective.layers = self.layers
        given = run.scheduler
        self.schedule = given if isinstance(given, RateSchedule) else None
        self.plateau = given if isinstance(given, ReduceLROnPlateau) else None
        each = isinstance(given, LRScheduler) and self.plateau is None
        self.scheduler = given if each else None
        self.move = Move(run.optimizer)
        self.foreach = True if parameters[0].device.type in ("cpu", "cuda") else None
        self._tell(others)

    def draws(self, layers: BorrowedGenerator) -> None:
        """Say from which generator layers draw."""
        self.layers = self.objective.layers = layers

    def forget_gradients(self) -> None:
        """Leave no gradient in what the optimizer holds, trained or not."""
        for group in self.run.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _tell(self, others: list[nn.Parameter]) -> None:
        """Warn of parameters that are trained by nobody, if they were not so from the start."""
        known = {id(parameter) for parameter in self.run.aside}
        new = {id(p) for p in others} - known
        if not new:
            return
        self.run.aside += [p for p in others if id(p) in new]
        names = [name for name, p in self.run.field.named_parameters() if id(p) in new]
        if self.run.world.first:
            warnings.warn(
                f"{len(new)} parameters of the field require a gradient and are in no group of the"
                f" optimizer, {names[0]!r} among them, so that they stay as they are; they came"
                " after the Trainer was made. To have them trained write"
                " trainer.optimizer.add_param_group({'params': [...]})",
                stacklevel=2,
            )
