"""A trainer as what a checkpoint holds, and back."""

from __future__ import annotations

import datetime
import platform
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .._core import container
from .._core.registry import told
from .callbacks import Callback
from .checkpoints import CheckpointWarning, ResumeError, check_architecture
from .schedules import RateSchedule
from .source import Source

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["check_storable", "described", "restore", "settings", "snapshot"]


def settings(optimizer: Optimizer) -> list[dict[str, str]]:
    """The hyperparameters of each group, as a schedule that moves them finds them."""
    return [
        {
            name: str(group.get("initial_lr", value) if name == "lr" else value)
            for name, value in group.items()
            if name not in ("params", "initial_lr")
        }
        for group in optimizer.param_groups
    ]


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
        "scheduler": str(scheduler) if isinstance(scheduler, RateSchedule) else kind,
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
        "begun": trainer._begun,
        "field": dict(field.state_dict()),
        "parameters": _outside(trainer),
        "buffers": _unlisted(field),
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
    container.check(_of_scheduler(trainer), "the state of the scheduler")
    container.check(trainer.optimizer.state_dict(), "the state of the optimizer")
    for callback in callbacks:
        container.check(callback.state(), f"the state of {type(callback).__name__}")


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
    pairs = [
        (field.state_dict(), state["field"]),
        (_numbered("parameter", outside), _numbered("parameter", state["parameters"])),
        (_numbered("buffer", _unlisted(field)), _numbered("buffer", state["buffers"])),
    ]
    if ema is not None and state["averages"] is not None:
        pairs.append((_numbered("average", ema.averages), _numbered("average", state["averages"])))
    for own, saved in pairs:
        check_architecture(path, own, saved)
    _restore_optimizer(trainer, path, header, state)
    field.load_state_dict(state["field"])
    with torch.no_grad():
        for own, saved in pairs[1:]:
            for name, tensor in own.items():
                tensor.copy_(saved[name])
    if ema is not None and state["averages"] is None:
        ema.restart()
    elif ema is not None:
        ema.updates = state["updates"]
    trainer.step, trainer.key, trainer.stopped = state["step"], state["key"], state["stopped"]
    trainer._begun, trainer._told = state["begun"], trainer.step
    trainer._position, trainer._source = state["source"], None
    if list(state["history"]["terms"]) == list(trainer.terms):
        trainer._recorder.restore(state["history"])
    kept = list(state["callbacks"])
    for callback in callbacks:
        for k, (name, memory) in enumerate(kept):
            if name == type(callback).__name__:
                callback.restore(memory)
                del kept[k]
                break


def _restore_optimizer(
    trainer: Trainer, path: Path, header: dict[str, Any], state: dict[str, Any]
) -> None:
    """The optimizer's memory and, if the settings are those of before, where its schedule is.

    With other settings (a smaller learning rate, say) those of the trainer hold.
    """
    optimizer, run = trainer.optimizer, header["run"]
    before, now = run.get("optimizer"), type(optimizer).__name__
    if before != now:
        warnings.warn(
            f"{path} has the state of {before}, and the optimizer is {now}, which begins anew",
            CheckpointWarning,
            stacklevel=4,
        )
        return
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state["optimizer"])
    except ValueError as error:
        raise ResumeError(
            f"{path} has an optimizer of other parameters ({error}); make the Trainer with the"
            " optimizer it was begun with"
        ) from error
    _as_saved(optimizer, state["optimizer"])
    same = run.get("settings") == trainer._settings
    if not same:
        for group, mine in zip(optimizer.param_groups, own, strict=True):
            group.update(mine)
    scheduler = trainer.scheduler
    if isinstance(scheduler, LRScheduler) and state["scheduler"] is not None:
        if run.get("scheduler") == type(scheduler).__name__ and same:
            scheduler.load_state_dict(state["scheduler"])
        else:
            warnings.warn(
                f"{path} has another scheduler or other settings, and the scheduler begins anew",
                CheckpointWarning,
                stacklevel=4,
            )


def _as_saved(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Put back the dtypes of the memory, which loading makes those of the parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for place, memory in saved["state"].items():
        own = optimizer.state[parameters[place]]
        for name, value in memory.items():
            if isinstance(value, torch.Tensor) and own[name].dtype != value.dtype:
                own[name] = value.to(own[name].device)


def _unlisted(field: nn.Module) -> list[torch.Tensor]:
    """Buffers that the field's ``state_dict`` leaves out (``persistent=False``)."""
    listed = field.state_dict(keep_vars=True).values()
    known = {id(tensor) for tensor in listed}
    return [buffer for buffer in field.buffers() if id(buffer) not in known]


def _outside(trainer: Trainer) -> list[nn.Parameter]:
    """Trained parameters that the field does not hold."""
    held = {id(p) for p in trainer.field.parameters()}
    return [p for p in trainer.parameters if id(p) not in held]


def _numbered(what: str, tensors: Sequence[Any]) -> dict[str, Any]:
    return {f"{what} {k}": tensor for k, tensor in enumerate(tensors)}


def _of_scheduler(trainer: Trainer) -> Any:
    scheduler = trainer.scheduler
    return scheduler.state_dict() if isinstance(scheduler, LRScheduler) else None
