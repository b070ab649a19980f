"""A trainer as what a checkpoint holds, and back."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from .. import _container
from .._describe import told
from .callbacks import Callback
from .checkpoints import ResumeError, check_architecture
from .schedules import Schedule
from .source import Source

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["check_storable", "described", "restore", "snapshot"]


def described(trainer: Trainer, source: Source) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was begun."""
    scheduler = trainer.scheduler
    kind = None if scheduler is None else type(scheduler).__name__
    return {
        "data": source.describe(),
        "batch_size": source.batch_size,
        "world_size": trainer.world.size,
        "accumulate": trainer.accumulate,
        "autocast": None if trainer.autocast is None else str(trainer.autocast),
        "loss": type(trainer.loss).__name__,
        "terms": list(trainer.terms),
        "optimizer": type(trainer.optimizer).__name__,
        "settings": trainer._settings,
        "scheduler": str(scheduler) if isinstance(scheduler, Schedule) else kind,
        "ema": None if trainer.ema is None else trainer.ema.decay,
        "clip": trainer.clip,
    }


def snapshot(
    trainer: Trainer, position: Any, callbacks: Sequence[Callback]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and state of a checkpoint of now.

    Args:
        trainer: the trainer.
        position: state of the source; None where steps tell it.
        callbacks: whose state goes with it.
    """
    import transportflows

    field, ema = trainer.field, trainer.ema
    losses = trainer._recorder.history(after=trainer.step - 50).loss
    header = {
        "transportflows": transportflows.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "step": trainer.step,
        "loss": float(losses.mean()) if len(losses) else None,
        "validation": trainer._recorder.last_validation,
        "field": {
            "class": type(field).__name__,
            "outputs": list(field.outputs),
            "networks": [told(net) for net in field.networks],
            "parameters": sum(p.numel() for p in trainer.parameters),
            "transform": told(field.transform),
        },
        "process": told(field.process),
        "device": str(trainer.parameters[0].device),
        "threads": torch.get_num_threads(),
        "key": str(trainer.key),
        "run": trainer._run,
    }
    state = {
        "step": trainer.step,
        "key": trainer.key,
        "stopped": trainer.stopped,
        "field": dict(field.state_dict()),
        "parameters": _outside(trainer),
        "averages": None if ema is None else ema.averages,
        "updates": None if ema is None else ema.updates,
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": _of_scheduler(trainer),
        "source": position,
        "history": trainer._recorder.state(),
        "callbacks": [[type(callback).__name__, callback.state()] for callback in callbacks],
    }
    return header, state


def check_storable(trainer: Trainer, callbacks: Sequence[Callback]) -> None:
    """Refuse at once what could not be written later.

    Raises:
        TypeError: if a state holds something that a file without code cannot; it names the place.
    """
    _container.check(_of_scheduler(trainer), "the state of the scheduler")
    _container.check(trainer.optimizer.state_dict(), "the state of the optimizer")
    for callback in callbacks:
        _container.check(callback.state(), f"the state of {type(callback).__name__}")


def restore(
    trainer: Trainer,
    path: Path,
    header: dict[str, Any],
    state: dict[str, Any],
    callbacks: Sequence[Callback] = (),
) -> None:
    """Make a trainer the one that a checkpoint is of.

    Raises:
        ResumeError: if it is of another architecture; nothing is changed then.
    """
    field, outside, ema = trainer.field, _outside(trainer), trainer.ema
    check_architecture(path, field.state_dict(), state["field"])
    check_architecture(path, _numbered(outside), _numbered(state["parameters"]))
    kind = type(trainer.optimizer).__name__
    if header["run"].get("optimizer", kind) == kind:
        try:
            trainer.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ResumeError(
                f"{path} has an optimizer of other parameters ({error}); make the Trainer with the"
                " optimizer it was begun with"
            ) from error
    field.load_state_dict(state["field"])
    with torch.no_grad():
        for parameter, value in zip(outside, state["parameters"], strict=True):
            parameter.copy_(value)
        if ema is not None and state["averages"] is None:
            ema.restart()
        elif ema is not None:
            ema.updates = state["updates"]
            for average, value in zip(ema.averages, state["averages"], strict=True):
                average.copy_(value)
    if isinstance(trainer.scheduler, LRScheduler) and state["scheduler"] is not None:
        trainer.scheduler.load_state_dict(state["scheduler"])
    trainer.step, trainer.key, trainer.stopped = state["step"], state["key"], state["stopped"]
    trainer._position = state["source"]
    if list(state["history"]["terms"]) == list(trainer.terms):
        trainer._recorder.restore(state["history"])
    kept = list(state["callbacks"])
    for callback in callbacks:
        for k, (name, memory) in enumerate(kept):
            if name == type(callback).__name__:
                callback.restore(memory)
                del kept[k]
                break


def _outside(trainer: Trainer) -> list[nn.Parameter]:
    """Trained parameters that the field does not hold."""
    held = {id(p) for p in trainer.field.parameters()}
    return [p for p in trainer.parameters if id(p) not in held]


def _numbered(parameters: Sequence[Any]) -> dict[str, Any]:
    return {f"parameter {k}": parameter for k, parameter in enumerate(parameters)}


def _of_scheduler(trainer: Trainer) -> Any:
    scheduler = trainer.scheduler
    return scheduler.state_dict() if isinstance(scheduler, LRScheduler) else None
