"""The step loop: what is done at every step, and what at some.

A step draws rows, asks the loss for one value a row, takes the gradient of their mean, and moves
the parameters. Everything random in it is a function of ``(key, step)``: the rows come from a
:class:`~transportflows.training.source.Source`, and torch's own generator of the device is seeded
from ``mix(key, 0, step)``, lent to the loss, and given back after the run as it was found. (Layers
that draw, such as dropout, draw from that generator too.) Nothing in the loop waits for the
device: losses are read every 50 steps, or every half second if that is sooner.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from .._core.random import mix
from .arguments import trainable
from .callbacks import Callback
from .checkpoints import Checkpoints
from .contexts import HeldInterrupts, mode, swapped
from .history import NonFiniteLossError
from .objective import Objective
from .schedules import RateSchedule
from .snapshots import check_storable, snapshot
from .source import Source

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Loop", "Plan"]

_STEPS = 0  # the branch of the key that seeds the steps; branch 1 orders the rows
_READ_EVERY = 50
_READ_SECONDS = 0.5
_NORM_EVERY = 10
_VALIDATION_KEY = 0x7472616E73706F72  # one for all runs, so that their curves can be compared


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
    """

    source: Source
    last: int
    held_out: Source | None
    validation_every: int
    chunk: int
    checkpoints: Checkpoints | None
    callbacks: Sequence[Callback]


class Loop:
    """The steps of one fit.

    Args:
        trainer: what is trained, and how.
        plan: what to do.
        generator: torch's own generator of the device, lent.
        bar: shows progress.
    """

    def __init__(
        self, trainer: Trainer, plan: Plan, generator: torch.Generator, bar: tqdm[Any]
    ) -> None:
        self.trainer, self.plan, self.generator, self.bar = trainer, plan, generator, bar
        self.world = trainer.world
        self.objective = Objective(
            trainer.loss, trainer.accumulate, trainer.autocast, trainer.world
        )
        self.recorder = trainer._recorder
        self.parameters = trainer.parameters
        mine = {id(parameter) for parameter in self.parameters}
        every = trainable(trainer.field)
        self.only = None if all(id(p) in mine for p in every) else tuple(self.parameters)
        self.stepped = [c for c in plan.callbacks if c.every is not None]
        self.watching = [c for c in plan.callbacks if _writes(c, "on_validation")]
        self.reading = [c for c in plan.callbacks if _writes(c, "on_read")]
        # Processes must read in step, so they do not look at the clock.
        self.patience = _READ_SECONDS if self.world.size == 1 else math.inf
        self.used: list[bool] | None = None  # which parameters get a gradient
        self.share: Tensor | None = None
        self.shared_by = 0
        self.saved_at = self.validated_at = -1
        self.told_to = trainer.step
        self.rows = 0

    def run(self) -> None:
        """Do the steps."""
        with HeldInterrupts() as interrupts:
            self._run(interrupts)

    def _run(self, interrupts: HeldInterrupts) -> None:
        trainer, plan, recorder = self.trainer, self.plan, self.recorder
        optimizer, scheduler, ema = trainer.optimizer, trainer.scheduler, trainer.ema
        schedule = scheduler if isinstance(scheduler, RateSchedule) else None
        torchs = scheduler if isinstance(scheduler, LRScheduler) else None
        plateau = torchs if isinstance(torchs, ReduceLROnPlateau) else None
        field, generator, last, parameters = (
            trainer.field,
            self.generator,
            plan.last,
            self.parameters,
        )
        clip, source, values_of = trainer.clip, plan.source, self.objective.values
        foreach = True if generator.device.type in ("cpu", "cuda") else None
        group = optimizer.param_groups[0]
        saving = math.inf if plan.checkpoints is None else plan.checkpoints.every
        validating = math.inf if plan.held_out is None else plan.validation_every
        key = trainer.key
        assert key is not None
        for parameter in parameters:
            parameter.grad = None
        began = trainer.step + 1
        self.since = time.perf_counter()
        while trainer.step < last and trainer.stopped is None:
            step = trainer.step
            if schedule is not None:
                factor = schedule.factor(step, last)
                for one in optimizer.param_groups:
                    one["lr"] = one["initial_lr"] * factor
            seed = mix(key, _STEPS, step)
            generator.manual_seed(seed)
            batch = source.batch(step, last)
            rows = len(batch)
            seen = []
            for values, times in values_of(field, batch, generator, seed):
                # The gradient of the mean over rows; with ``inputs``, of nothing else.
                torch.autograd.backward((values,), (self._share(values, rows),), inputs=self.only)
                seen.append((values.detach(), times))
            if self.world.size > 1:
                self._sum_gradients()
            norm = None
            if clip is not None:
                norm = nn.utils.clip_grad_norm_(parameters, clip, foreach=foreach)
            elif (step + 1) % _NORM_EVERY == 0:
                norm = _norm([p.grad for p in parameters if p.grad is not None])
            rate = group["lr"]
            interrupts.held = True
            optimizer.step()
            for parameter in parameters:
                parameter.grad = None
            if ema is not None:
                ema.update()
            trainer.step = step = step + 1
            self.rows += rows
            values, times = seen[0] if len(seen) == 1 else self._joined(seen)
            recorder.add(
                step,
                values,
                rate.clone() if isinstance(rate, Tensor) else rate,
                times=times,
                rows=rows,
                norm=norm,
            )
            if torchs is not None and plateau is None:
                torchs.step()
            interrupts.release()
            if step == began and plan.checkpoints is not None:
                check_storable(trainer, plan.callbacks)  # now the optimizer has its memory
            done = step == last
            if validating < math.inf and (step % validating == 0 or done):
                score = self._validate()
                if plateau is not None:
                    plateau.step(score)
            if (
                recorder.waiting >= _READ_EVERY
                or done
                or time.perf_counter() - self.since > self.patience
            ):
                self._read()
            due = [c for c in self.stepped if c.every is not None and step % c.every == 0]
            if due:
                self._tell(due)
            if step % saving == 0:
                self._save()
        if plan.held_out is not None and self.validated_at != trainer.step:
            self._validate()
        self._read()
        if plan.checkpoints is not None and self.saved_at != trainer.step:
            self._save()

    # --------------------------------------------------------------------------- parts of a step

    def _share(self, values: Tensor, rows: int) -> Tensor:
        """The share of each row in the mean over the batch, for rows of a new number checked."""
        share = self.share
        if share is None or share.shape != values.shape or self.shared_by != rows:
            self._check(values, rows)
            share = torch.full_like(values, 1 / rows, requires_grad=False)
            self.share, self.shared_by = share, rows
        return share

    def _check(self, values: Any, rows: int) -> None:
        """Refuse what a loss must not give."""
        name, names = type(self.trainer.loss).__name__, self.trainer.terms
        low, high = self.world.slice(rows)
        parts = self.trainer.accumulate
        whole = self.world.size == parts == 1
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

    def _joined(self, seen: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
        """The parts of a step as one; of a process that had no rows of a short batch, none."""
        if not seen:
            names = self.trainer.terms
            shape = (len(names), 0) if names else (0,)
            like = self.parameters[0]
            return torch.zeros(shape, device=like.device), (
                torch.zeros(0, device=like.device) if self.objective.splits else None
            )
        values = torch.cat([values for values, _ in seen], dim=-1)
        times = [t for _, t in seen if t is not None]
        return values, torch.cat(times) if times else None

    def _sum_gradients(self) -> None:
        """Make the gradients those of the whole batch, on every process."""
        have = [p.grad is not None for p in self.parameters]
        if self.used is None:  # a process may have no rows of the first batch
            everywhere = self.world.all_values(have if any(have) else None)
            self.used = next((flags for flags in everywhere if flags is not None), have)
        if have != self.used and any(have):
            raise ValueError(
                "other parameters have a gradient at this step than at the first one, and processes"
                " must agree on which have; let the network use all its parameters at every step"
            )
        gradients = []
        for parameter, used in zip(self.parameters, self.used, strict=True):
            if used and parameter.grad is None:  # of a process without a row
                parameter.grad = torch.zeros_like(parameter)
            if used and parameter.grad is not None:
                gradients.append(parameter.grad)
        self.world.sum_gradients(gradients)

    def _agree_to_stop(self) -> None:
        """Where a callback of any process asked to stop, all stop."""
        if self.world.size > 1:
            reasons = self.world.all_values(self.trainer.stopped)
            self.trainer.stopped = next((why for why in reasons if why is not None), None)

    # ------------------------------------------------------------------- what is done at some

    def _validate(self) -> Tensor:
        """Mean loss over the held-out rows, ``()``; tell those who watch."""
        trainer, plan = self.trainer, self.plan
        assert plan.held_out is not None
        began = time.perf_counter()
        score = self._mean_loss(plan.held_out)
        self.recorder.add_validation(trainer.step, score)
        self.validated_at = trainer.step
        self.since += time.perf_counter() - began
        if self.watching:
            self._read()
            for callback in self.watching:
                callback.on_validation(trainer, float(score))
            self._agree_to_stop()
            self.since = time.perf_counter()
        return score

    def _mean_loss(self, rows: Source) -> Tensor:
        """The same draws each time; the next step seeds the generator anew."""
        field, generator = self.trainer.field, self.generator
        self._agree_on_buffers()
        total: Tensor | None = None
        start = 0
        with mode(field, False), swapped(self.trainer.ema):
            for batch in rows.chunks(self.plan.chunk):
                seed = mix(_VALIDATION_KEY, start)
                generator.manual_seed(seed)
                # With autograd on: a loss may need it (sliced score matching).
                for values, _ in self.objective.values(field, batch, generator, seed):
                    part = values.detach().double().sum()
                    total = part if total is None else total + part
                start += len(batch)
        if start == 0:
            raise ValueError("validation is empty; give at least one row")
        if total is None:
            total = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        self.world.sum_(total)
        return total / start

    def _agree_on_buffers(self) -> None:
        """Running statistics are those of process 0, as in torch's own data-parallel training."""
        if self.world.size > 1:
            self.world.broadcast_(list(self.trainer.field.buffers()))

    def _tell(self, due: Sequence[Callback]) -> None:
        """Tell those who are due of the step."""
        began = time.perf_counter()
        for callback in due:
            callback.on_step(self.trainer)
        self._agree_to_stop()
        self.since += time.perf_counter() - began

    def _read(self) -> None:
        """Read the losses that wait; stop where one is not finite."""
        recorder, trainer = self.recorder, self.trainer
        steps = recorder.waiting
        losses = recorder.read()
        now = time.perf_counter()
        if steps:
            recorder.add_pace(trainer.step, now - self.since, steps, self.rows)
            self.rows = 0
        self.bar.update(len(losses))
        if len(losses):
            self.bar.set_postfix_str(self._postfix(float(losses.mean())), refresh=False)
        if steps:
            self._show()
        bad = recorder.first_bad(losses)
        if bad is not None:
            raise self._non_finite(f"the loss became NaN or infinite at step {bad}", bad)
        self.since = time.perf_counter()

    def _show(self) -> None:
        """Hand what was read to those who read it."""
        if not self.reading:
            return
        new, self.told_to = self.recorder.history(after=self.told_to), self.trainer.step
        for callback in self.reading:
            callback.on_read(self.trainer, new)
        self._agree_to_stop()

    def drain(self) -> None:
        """Read what waits where the steps were broken off."""
        if self.world.size > 1:  # reading sums over the processes, and one may be gone
            return
        if self.recorder.waiting:
            self.recorder.read()
            self._show()

    def _save(self) -> None:
        """Write a checkpoint, if the weights are finite."""
        trainer, plan = self.trainer, self.plan
        assert plan.checkpoints is not None
        self._read()
        began = time.perf_counter()
        finite = torch.stack([torch.isfinite(p).all() for p in self.parameters]).all()
        if not bool(finite):
            raise self._non_finite(
                f"parameters became NaN or infinite at step {trainer.step}", trainer.step
            )
        self._agree_on_buffers()
        self.saved_at = trainer.step
        path: Path | None = None
        if self.world.first:
            header, state = snapshot(trainer, plan.source.state(), plan.callbacks)
            path = plan.checkpoints.write(trainer.step, header, state)
        if plan.callbacks:
            path = self.world.agreed(path)
        for callback in plan.callbacks if path is not None else ():
            callback.on_checkpoint(trainer, path)  # type: ignore[arg-type]
        if plan.callbacks:
            self._agree_to_stop()
        self.since += time.perf_counter() - began

    def _postfix(self, loss: float) -> str:
        validation = self.recorder.last_validation
        return f"loss={loss:.4g}" + ("" if validation is None else f", validation={validation:.4g}")

    def _non_finite(self, what: str, bad: int) -> NonFiniteLossError:
        trainer, checkpoints = self.trainer, self.plan.checkpoints
        count = sum(not bool(torch.isfinite(p).all()) for p in self.parameters)
        weights = (
            f"{count} of the {len(self.parameters)} parameter tensors now hold NaN or infinite"
            " values"
            if count
            else "the parameters are finite, but were moved by that loss"
        )
        files = [] if checkpoints is None else checkpoints.files()
        if files:
            cure = f"so go on from {files[-1]}, the last good checkpoint (trainer.load)"
        elif checkpoints is not None:
            cure = "and no checkpoint was written before, so train a new network"
        else:
            cure = "so train a new network"
        return NonFiniteLossError(
            f"{what}, and the run stopped after step {trainer.step}; {weights}, {cure}: with a"
            " smaller lr, with clip=1.0, or, if the loss has a weight or a target that is infinite"
            " at an end of time, with margins in its time sampler. The history is in this error"
            " and in trainer.history",
            bad,
            trainer.history,
        )


def _norm(gradients: list[Tensor]) -> Tensor:
    """Euclidean norm of the whole gradient, ``()``."""
    norms = list(torch._foreach_norm(gradients))
    if len({norm.dtype for norm in norms}) > 1:
        norms = [norm.double() for norm in norms]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _writes(callback: Callback, method: str) -> bool:
    return getattr(type(callback), method) is not getattr(Callback, method)
