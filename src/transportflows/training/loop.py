"""The step loop: what is done at every step, and what at some.

A step draws rows, asks the loss for one value a row, takes the gradient of their mean, and moves
the parameters. Everything random in it is a function of ``(key, step)``: the rows come from a
:class:`~transportflows.training.source.Source`, and the loss draws from a generator that is seeded
from ``mix(key, 0, step)``. Layers that draw, such as dropout, can be handed none: torch's own
generator of the device is seeded for them and given back after the run as it was found. That one
is of the whole process, so of several fits each has it for a step, in turn. Nothing in the loop
waits for the device: losses are read every 50 steps, or every half second if that is sooner.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core.random import mix, stream
from .ahead import STEPS, Ahead, ahead_of
from .blocks import Blocks, blocks_of
from .callbacks import Callback, writes
from .contexts import BorrowedGenerator, HeldInterrupts, at_end, mode
from .equipment import Equipment
from .failures import non_finite
from .gradients import all_finite, check_some, clip_, norm_of
from .objective import LAYERS
from .plan import Plan
from .run import Run
from .schedules import first_rate
from .snapshots import check_storable, snapshot

__all__ = ["Loop"]

_READ_EVERY = 50
_READ_SECONDS = 0.5
_NORM_EVERY = 10


class Loop:
    """The steps of one fit.

    Args:
        run: what is trained, and how; callbacks are given it.
        plan: what to do.
        progress: show a progress bar, where there is a terminal.
    """

    generator: torch.Generator  # of what the loss draws
    layers: BorrowedGenerator  # torch's own of the device, of what layers draw, such as dropout
    ahead: Ahead | Blocks | None
    bar: tqdm[Any]
    interrupts: HeldInterrupts

    def __init__(self, run: Run, plan: Plan, progress: bool) -> None:
        self.run, self.plan, self.progress = run, plan, progress
        self.world, self.recorder = run.world, run.recorder
        self.equipment = Equipment(run, plan.dropping)
        self.stepped = [c for c in plan.callbacks if c.every is not None]
        self.watching = [c for c in plan.callbacks if writes(c, "on_validation")]
        self.reading = [c for c in plan.callbacks if writes(c, "on_read")]
        # Processes must read in step, so they do not look at the clock.
        self.patience = _READ_SECONDS if self.world.size == 1 else math.inf
        self.first = run.step + 1
        self.saved_at = self.validated_at = -1
        self.told_to = run.step  # the step up to which the readers know the history
        self.rows, self.since = 0, 0.0  # rows since, and when, losses were read

    def go(self) -> None:
        """Do the steps that the plan has left."""
        run, plan = self.run, self.plan
        run.validates, run.trained, run.met = plan.held_out is not None, run.field.conditions, None
        with self._prepared():
            self.since = time.perf_counter()
            while run.step < plan.last and run.stopped is None:
                self._step()
                self._after_step()
            if run.validates and self.validated_at != run.step:
                self._validate()
            self._read()
            if plan.checkpoints is not None and self.saved_at != run.step:
                self._save()

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """With all that the steps need; at the end everything is as it was, whatever happened."""
        run, plan = self.run, self.plan
        with ExitStack() as ends:  # each of them is left, whatever another raises
            ends.enter_context(mode(run.field, True))
            device = self.equipment.parameters[0].device
            self.generator = stream(0, device=device)
            self.layers = ends.enter_context(BorrowedGenerator(device))
            self.equipment.draws(self.layers)
            self.bar = ends.enter_context(
                tqdm(
                    total=plan.last,
                    initial=run.step,
                    disable=None if self.progress and self.world.first else True,
                    desc="fit",
                    unit="step",
                )
            )
            ends.push(at_end(plan.source.close, "closing the data"))
            self.ahead = blocks_of(run, plan.source, self.stepped)
            self.ahead = self.ahead or ahead_of(run, plan.source, self.layers, ends)
            ends.callback(run.forget_unmade, self.first)
            for callback in plan.callbacks:
                what = f"on_end of {type(callback).__name__}"
                ends.push(at_end(partial(callback.on_end, run), what))
                callback.on_start(run)
            if plan.callbacks:
                self._heard()
            ends.push(at_end(self._drain, "on_read of a callback"))
            ends.callback(self.equipment.forget_gradients)
            self.equipment.forget_gradients()
            self.interrupts = ends.enter_context(HeldInterrupts())
            yield

    def _step(self) -> None:
        """Draw, differentiate, move; an interruption comes before it or after it."""
        run, step, last, equipment = self.run, self.run.step, self.plan.last, self.equipment
        groups = run.optimizer.param_groups
        if equipment.schedule is not None:
            factor = equipment.schedule.factor(step, last)
            for group in groups:
                group["lr"] = first_rate(group) * factor
        seed = mix(run.key, STEPS, step)  # type: ignore[arg-type]
        drawn = None if self.ahead is None else self.ahead.take(step, last)
        self.layers.manual_seed(mix(seed, LAYERS))
        if drawn is None:
            drawn = self.plan.source.batch(step, last), None, self.generator.manual_seed(seed)
        batch, sample, generator = drawn
        run.meet(self.plan.conditions)
        values, times = equipment.objective.backward(batch, generator, seed, sample)
        if step + 1 == self.first:
            check_some(equipment.parameters)
        norm = None
        if run.clip is not None:
            norm = clip_(equipment.parameters, run.clip, equipment.foreach)
        elif (step + 1) % _NORM_EVERY == 0:
            norm = norm_of([p.grad for p in equipment.parameters if p.grad is not None])
        rate = groups[0]["lr"]
        self.interrupts.held = True
        equipment.move()
        equipment.forget_gradients()
        if run.ema is not None:
            run.ema.update()
        run.step = step + 1
        self.rows += len(batch)
        rate = rate.clone() if isinstance(rate, Tensor) else rate
        self.recorder.add(run.step, values, rate, times=times, rows=len(batch), norm=norm)
        if equipment.scheduler is not None:
            equipment.scheduler.step()
        self.interrupts.release()

    def _after_step(self) -> None:
        """What is done after some steps: validate, read, tell, save."""
        run, plan = self.run, self.plan
        step, done = run.step, run.step == plan.last
        if step == self.first and plan.checkpoints is not None:
            check_storable(run, plan.callbacks)  # now the optimizer has its memory
        if plan.held_out is not None and (step % plan.validation_every == 0 or done):
            score = self._validate()
            if self.equipment.plateau is not None:
                self.equipment.plateau.step(score)
        late = time.perf_counter() - self.since > self.patience
        if late or done or self.recorder.waiting >= _READ_EVERY:
            self._read()
        self._tell([c for c in self.stepped if step % (c.every or 1) == 0])
        if plan.checkpoints is not None and step % plan.checkpoints.every == 0:
            self._save()

    def _validate(self) -> Tensor:
        """Mean loss over the held-out rows, ``()``; tell those who watch."""
        run, plan, began = self.run, self.plan, time.perf_counter()
        self._agree_on_buffers()
        with run.evaluating():
            score = self.equipment.objective.mean(
                plan.held_out_batches(run, self.generator), self.generator
            )
        self.recorder.add_validation(run.step, score)
        self.validated_at = run.step
        self.since += time.perf_counter() - began
        if self.watching:
            self._read()
            for callback in self.watching:
                callback.on_validation(run, float(score))
            self._heard()
            self.since = time.perf_counter()
        return score

    def _agree_on_buffers(self) -> None:
        """Running statistics are those of process 0, as in torch's own data-parallel training."""
        if self.world.size > 1:
            self.world.broadcast_(list(self.run.field.buffers()))

    def _heard(self) -> None:
        """After callbacks, which may have changed anything, and asked to stop: then all do."""
        self.equipment.look()
        if self.ahead is not None:
            self.ahead.forget()
        if self.world.size > 1:
            reasons = self.world.all_values(self.run.stopped)
            self.run.stopped = next((why for why in reasons if why is not None), None)

    def _tell(self, due: list[Callback]) -> None:
        """Tell those who are due of the step."""
        if not due:
            return
        began = time.perf_counter()
        for callback in due:
            callback.on_step(self.run)
        self._heard()
        self.since += time.perf_counter() - began

    def _read(self) -> None:
        """Read the losses that wait, and hand them on; stop where one is not finite."""
        run, recorder = self.run, self.recorder
        steps = recorder.waiting
        losses = recorder.read()
        now = time.perf_counter()
        if steps:
            recorder.add_pace(run.step, now - self.since, steps, self.rows)
            self.rows = 0
        self.bar.update(len(losses))
        if len(losses):
            score = recorder.last_validation
            shown = f"loss={float(losses.mean()):.4g}"
            shown += "" if score is None else f", validation={score:.4g}"
            self.bar.set_postfix_str(shown, refresh=False)
        if steps:
            self._show()
        if (bad := recorder.first_bad(losses)) is not None:
            what = f"the loss became NaN or infinite at step {bad}"
            raise non_finite(run, self.plan.checkpoints, what, bad)
        self.since = time.perf_counter()

    def _show(self) -> None:
        """Hand what was read to those who read it."""
        if not self.reading:
            return
        new, self.told_to = self.recorder.history(after=self.told_to), self.run.step
        for callback in self.reading:
            callback.on_read(self.run, new)
        self._heard()

    def _drain(self) -> None:
        """Read what waits where the steps were broken off."""  # one of several may be gone
        if self.world.size == 1 and self.recorder.waiting:
            self.recorder.read()
            self._show()

    def _save(self) -> None:
        """Write a checkpoint, if the weights are finite."""
        run, plan = self.run, self.plan
        assert plan.checkpoints is not None
        self._read()
        began = time.perf_counter()
        if not all_finite(self.equipment.parameters, self.world):
            what = f"parameters became NaN or infinite at step {run.step}"
            raise non_finite(run, plan.checkpoints, what, run.step)
        self._agree_on_buffers()
        self.saved_at = run.step
        path: Path | None = None
        if self.world.first or self.equipment.objective.sharded:  # all gather shards
            header, state = snapshot(run, plan.source.state(), plan.callbacks)
        if self.world.first:
            path = plan.checkpoints.write(run.step, header, state)
        if plan.callbacks and (path := self.world.agreed(path)) is not None:
            for callback in plan.callbacks:
                callback.on_checkpoint(run, path)
            self._heard()
        self.since += time.perf_counter() - began
