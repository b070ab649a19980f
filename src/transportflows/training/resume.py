"""How a fit begins: a new run, the next part of one, or one that goes on from a checkpoint."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .._core import container
from .._core.random import draw_key
from .._core.shards import in_shards
from .checkpoints import Checkpoints, CheckpointWarning, check_header, check_run
from .differences import flat
from .iterable import ReadInOrder
from .plan import Plan
from .run import Run
from .snapshots import restore
from .source import Source

__all__ = ["begin", "open_source", "resumed"]


def begin(run: Run, plan: Plan, generator: torch.Generator | None) -> None:
    """Give the run its key and all processes the weights of the first; see that they agree."""
    team = run.world
    if generator is not None or run.key is None:
        run.key = team.agreed(draw_key(generator))
        run.source = run.position = None
    run.description = run.describe(plan.source, plan.dropping)
    told = {
        "step": run.step,
        "last step": plan.last,
        "validation": plan.held_out is not None and plan.validation_every,
        "checkpoints": plan.checkpoints is not None and plan.checkpoints.every,
        "resume": plan.resume,
        "callbacks": [(type(callback).__name__, callback.every) for callback in plan.callbacks],
    }
    team.check_same("a run", {**flat(run.description), **told})
    held = [*run.parameters, *run.field.parameters(), *run.field.buffers()]
    # Shards are each of one process only, so they are one network as they are.
    team.broadcast_(list({id(x): x for x in held if not in_shards(x)}.values()))
    if run.ema is not None and run.ema.updates == 0:
        run.ema.restart()
    elif run.ema is not None:
        team.broadcast_([x for x in run.ema.averages if not in_shards(x)])


def resumed(run: Run, plan: Plan, begun: int) -> Plan:
    """Resume, if that is asked for and possible; what is left to do.

    A script that is started again calls all its fits again, those too that were over when it was
    killed. Which these are, the checkpoint tells: it holds the step at which the fit began that
    wrote it, so a fit that begins before that step is over.

    Args:
        run: is made the one that the checkpoint is of.
        plan: what this fit was asked to do.
        begun: the step at which this fit begins, counting the fits before it as done.

    Returns:
        The plan, with the step at which it ends (the present one, if nothing is left).
    """
    run.stopped, run.resuming = None, bool(plan.resume)
    run.begun = begun
    if plan.checkpoints is None or not _found(run, plan, plan.checkpoints):
        return plan
    written, run.begun = run.begun, begun
    if begun < written:
        run.told = min(plan.last, written)
        return replace(plan, last=run.step)
    if begun > written:
        run.stopped = None  # that was another fit
    if run.stopped is not None and run.step < plan.last:
        warnings.warn(
            f"this run was ended at step {run.step}: {run.stopped}. Nothing is left to do; to"
            " go on all the same, trainer.load the checkpoint and fit without resume",
            CheckpointWarning,
            stacklevel=3,
        )
    if run.stopped is not None:
        run.told = run.step
    else:  # what is left is told when it is done
        run.told = plan.last if run.step >= plan.last else begun
    return plan


def _found(run: Run, plan: Plan, folder: Checkpoints) -> bool:
    """Take up the newest checkpoint of a folder, or see that it holds none of another run."""
    team = run.world
    found, error = None, None
    if team.first:
        try:
            found = folder.newest() if plan.resume else _check_own(run, folder)
        except Exception as problem:
            error = problem
    team.all_fine(error)
    found = team.agreed(found)
    if found is None:
        return False
    path, header, state = found
    check_run(path, header["run"], run.description, plan.resume == "anyway")
    restore(run, path, header, state, plan.callbacks)
    return True


def _check_own(run: Run, folder: Checkpoints) -> tuple[Path, dict[str, Any], Any] | None:
    """Refuse a folder of another run's checkpoints, among which this one's would be lost."""
    files = folder.files()
    if files:
        header = container.read_header(files[-1])
        check_header(files[-1], header)
        if header.get("key") != str(run.key) or header["step"] > run.step:
            raise ValueError(
                f"{folder.folder} holds checkpoints of another run, the newest of step"
                f" {header['step']}; resume=True goes on with it, and a new run needs another"
                " folder"
            )
    return None


def open_source(run: Run, source: Source) -> None:
    """Make a source ready for the next step of the run; go on reading where the last fit did."""
    before, position = run.source, run.position
    run.source, run.position = source, None
    if isinstance(source, ReadInOrder) and isinstance(before, type(source)):
        same = before.data is source.data and before.batch_size == source.batch_size
        if same and position is None:
            source.taken_from(before)
    assert run.key is not None
    source.open(run.key, run.step, position)
