"""A run as what a checkpoint holds, and back."""

from __future__ import annotations

import copy
import datetime
import os
import platform
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .._core import container
from .._core.condition import from_storable, to_storable, weights_of
from .._core.registry import told
from .._core.shards import in_shards, like, local, map_tree, whole
from .._core.version import __version__
from ..fields.base import Field
from .callbacks import Callback
from .checkpoints import FORMAT, KIND, CheckpointWarning, ResumeError, check_architecture
from .run import Run
from .states import check_memory, check_schedule

__all__ = ["check_storable", "restore", "snapshot", "write"]


def snapshot(
    run: Run, position: Any, callbacks: Sequence[Callback]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and state of a checkpoint of now.

    Args:
        run: the run.
        position: state of the source; None where steps tell it.
        callbacks: whose state goes with it.
    """
    field, ema = run.field, run.ema
    losses = run.recorder.history(after=run.step - 50).loss
    header = {
        "transportflows": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "step": run.step,
        "loss": float(losses.mean()) if len(losses) else None,
        "validation": run.recorder.last_validation,
        "field": {
            "class": type(field).__name__,
            "outputs": list(field.outputs),
            "networks": [told(net) for net in field.networks],
            "parameters": sum(p.numel() for p in run.parameters),
            "transform": told(field.transform),
        },
        "process": told(field.process),
        "device": str(run.parameters[0].device),
        "threads": torch.get_num_threads(),
        "key": str(run.key),
        "run": run.description,
    }
    state = {
        "step": run.step,
        "key": run.key,
        "stopped": run.stopped,
        "begun": run.begun,
        "field": weights_of(field),
        "parameters": _outside(run),
        "buffers": _unlisted(field),
        "conditions": to_storable(field.conditions),
        "averages": None if ema is None else ema.averages,
        "updates": None if ema is None else ema.updates,
        "optimizer": run.optimizer.state_dict(),
        "scheduler": _of_scheduler(run),
        "source": position,
        "history": run.recorder.state(),
        "callbacks": [[type(callback).__name__, callback.state()] for callback in callbacks],
    }
    if any(map(in_shards, (*run.parameters, *field.parameters()))):  # all gather, one keeps it
        keep = run.world.first
        state = map_tree(lambda x: whole(x).cpu() if keep else whole(x).new_empty(0), state)
    return header, state


def write(run: Run, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint of now to a file; of networks in shards all processes take part."""
    position = run.position if run.source is None else run.source.state()
    header, state = snapshot(run, position, ())
    if run.world.first or not any(map(in_shards, run.parameters)):
        container.write(path, {"kind": KIND, "format": FORMAT, **header}, state)


def check_storable(run: Run, callbacks: Sequence[Callback]) -> None:
    """Refuse at once what could not be written later.

    Raises:
        TypeError: if a state holds something that a file without code cannot; it names the place.
    """
    container.check(_of_scheduler(run), "the state of the scheduler")
    container.check(map_tree(local, run.optimizer.state_dict()), "the state of the optimizer")
    for callback in callbacks:
        container.check(callback.state(), f"the state of {type(callback).__name__}")


def restore(
    run: Run,
    path: Path,
    header: dict[str, Any],
    state: dict[str, Any],
    callbacks: Sequence[Callback] = (),
) -> None:
    """Make a run the one that a checkpoint is of.

    Raises:
        DamagedFileError: if it is of another architecture (a ResumeError), or holds what this run
            cannot. The run is then as it was.
    """
    field, ema = run.field, run.ema
    pairs = [
        (weights_of(field), state["field"]),
        (_numbered("parameter", _outside(run)), _numbered("parameter", state["parameters"])),
        (_numbered("buffer", _unlisted(field)), _numbered("buffer", state["buffers"])),
    ]
    if ema is not None and state["averages"] is not None:
        pairs.append((_numbered("average", ema.averages), _numbered("average", state["averages"])))
    for own, saved in pairs:
        check_architecture(path, own, saved)
    infinite = [
        name
        for name, parameter in field.named_parameters()
        if name in state["field"] and not bool(state["field"][name].isfinite().all())
    ]
    if infinite:
        raise container.DamagedFileError(f"{path} holds infinite weights in {infinite[0]}")
    with _refusing(path, "the conditions"):
        conditions = from_storable(state.get("conditions"))
    same = list(state["history"]["terms"]) == list(run.loss.names)
    with ExitStack() as ends:
        _restore_optimizer(run, path, header, state, ends)
        _restore_callbacks(path, state["callbacks"], callbacks, ends)
        ends.pop_all()
    # All has been seen, and nothing of what follows can fail.
    own = field.state_dict()
    field.load_state_dict({k: like(x, own[k]) for k, x in state["field"].items()})
    field.conditions = conditions
    with torch.no_grad():
        for own, saved in pairs[1:]:
            for name, tensor in own.items():
                tensor.copy_(like(saved[name], tensor))
    if ema is not None and state["averages"] is None:
        ema.restart()
    elif ema is not None:
        ema.updates = state["updates"]
    run.step, run.key, run.stopped = state["step"], state["key"], state["stopped"]
    run.begun, run.told = state["begun"], run.step
    run.position, run.source = state["source"], None
    if same:
        run.recorder.restore(state["history"])


def _restore_callbacks(
    path: Path, saved: Sequence[Any], callbacks: Sequence[Callback], ends: ExitStack
) -> None:
    """Give each callback what one of its class remembered; ``ends`` takes it back."""
    kept = list(saved)
    for callback in callbacks:
        for k, (name, memory) in enumerate(kept):
            if name == type(callback).__name__:
                ends.callback(callback.restore, copy.deepcopy(callback.state()))
                with _refusing(path, f"the memory of {name}"):
                    callback.restore(memory)
                del kept[k]
                break


@contextmanager
def _refusing(path: Path, what: str) -> Iterator[None]:
    """One kind of error for what a part of the run does not take up."""
    try:
        yield
    except Exception as error:
        raise ResumeError(
            f"{path} does not hold {what} of this run ({error}); make it as the run was begun with"
        ) from error


def _restore_optimizer(
    run: Run, path: Path, header: dict[str, Any], state: dict[str, Any], ends: ExitStack
) -> None:
    """The optimizer's memory and, if the settings are those of before, where its schedule is.

    With other settings (a smaller learning rate, say) those of the run hold. ``ends`` takes all of
    it back.
    """
    optimizer, begun = run.optimizer, header["run"]
    before, now = begun.get("optimizer"), type(optimizer).__name__
    if before != now:
        warnings.warn(
            f"{path} has the state of {before}, and the optimizer is {now}, which begins anew",
            CheckpointWarning,
            stacklevel=4,
        )
        return
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    same, saved = begun.get("settings") == run.settings, state["optimizer"]
    with _refusing(path, f"the memory of the {now}"):
        saved = _in_shards(optimizer, check_memory(optimizer, saved))
        # torch makes both anew, so that to put them back is to take it all back.
        ends.callback(_put, optimizer, optimizer.state, optimizer.param_groups)
        optimizer.load_state_dict(saved)
        _as_saved(optimizer, saved)
    if not same:
        for group, mine in zip(optimizer.param_groups, own, strict=True):
            group.update(mine)
    scheduler = run.scheduler
    if isinstance(scheduler, LRScheduler) and state["scheduler"] is not None:
        kind = type(scheduler).__name__
        if begun.get("scheduler") == kind and same:
            with _refusing(path, f"the state of the {kind}"):
                held = copy.deepcopy(scheduler.state_dict())
                known = check_schedule(type(scheduler), held, state["scheduler"])
                ends.callback(scheduler.load_state_dict, held)
                scheduler.load_state_dict(known)
        else:
            warnings.warn(
                f"{path} has another scheduler or other settings, and the scheduler begins anew",
                CheckpointWarning,
                stacklevel=4,
            )


def _put(optimizer: Optimizer, state: Any, groups: Any) -> None:
    optimizer.state, optimizer.param_groups = state, groups


def _in_shards(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """The memory of parameters that lie in shards, in the same."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    memory = {
        place: map_tree(partial(like, own=parameters[place]), held)
        for place, held in saved["state"].items()
    }
    return {**saved, "state": memory}


def _as_saved(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Put back the dtypes of the memory, which loading makes those of the parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for place, memory in saved["state"].items():
        own = optimizer.state[parameters[place]]
        for name, value in memory.items():
            if isinstance(value, torch.Tensor) and own[name].dtype != value.dtype:
                own[name] = value.to(own[name].device)


def _unlisted(field: Field) -> list[torch.Tensor]:
    """Buffers that the field's ``state_dict`` leaves out (``persistent=False``).

    Save those of the process, such as the rows of a base: they are as they were given, and are
    given again.
    """
    listed = field.state_dict(keep_vars=True).values()
    known = {id(tensor) for tensor in (*listed, *field.process.buffers())}
    return [buffer for buffer in field.buffers() if id(buffer) not in known]


def _outside(run: Run) -> list[nn.Parameter]:
    """Trained parameters that the field does not hold."""
    held = {id(p) for p in run.field.parameters()}
    return [p for p in run.parameters if id(p) not in held]


def _numbered(what: str, tensors: Sequence[Any]) -> dict[str, Any]:
    return {f"{what} {k}": tensor for k, tensor in enumerate(tensors)}


def _of_scheduler(run: Run) -> Any:
    scheduler = run.scheduler
    return scheduler.state_dict() if isinstance(scheduler, LRScheduler) else None
