"""The trainer: what is trained, with which loss, and how; its ``fit``, its averages, its files."""

from __future__ import annotations

import copy
import numbers
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from .._core import container
from .._core.distributed import World, world
from .._core.random import draw_key
from ..draws import Batch
from ..fields.base import Field
from ..losses import Loss, Regression, SumLoss
from .arguments import (
    BATCH_SIZE,
    DEFAULT_LR,
    as_autocast,
    as_loss,
    as_optimizer,
    as_scheduler,
    as_source,
    compile_networks,
)
from .callbacks import Callback
from .checkpoints import (
    FORMAT,
    KIND,
    Checkpoints,
    CheckpointWarning,
    check_run,
    flat,
    read_checkpoint,
)
from .contexts import borrowed_generator, mode, swapped
from .ema import EMA
from .history import History
from .loop import Loop, Plan
from .recorder import Recorder
from .schedules import RateSchedule
from .snapshots import check_storable, described, restore, settings, snapshot
from .source import Source
from .streams import Loaded, Streamed

__all__ = ["Trainer"]

Data = Tensor | tuple[Tensor, Tensor] | Batch | Any
Resume = bool | Literal["anyway"]


class Trainer:
    """Minimises the mean of a loss over the networks of a field.

    Args:
        field: what to train. It is trained in place.
        loss: a :class:`Loss`: anything that gives ``(B,)`` values from ``(field, batch)`` and a
            generator; or a sequence of regressions, one for each output of a :class:`FieldPair`.
        optimizer: a torch optimizer, or a function that makes one from a list of parameters. By
            default Adam, fused where torch can (:class:`FusedAdam`). The default and the function
            are given the trainable parameters of the networks (``requires_grad``) and *not* those
            of the process: minimised over a learnable interpolant too, a regression loss shrinks
            the variance of its own target and collapses the path. To train them, put them in an
            optimizer of your own; otherwise neither they nor their ``grad`` are touched.
        scheduler: ``"cosine"``, ``"step"`` (half every 1,500 steps), ``"constant"``, or a
            :class:`RateSchedule` such as ``CosineRate(floor=0.1)``; or a torch learning rate scheduler of
            the optimizer, or a function that makes one from it, stepped after every step
            (``ReduceLROnPlateau``: after every validation).
        warmup: steps over which the rate of a scheduler given by name, or of none, rises.
        lr: learning rate of the default optimizer.
        ema: decay of moving averages of the trained parameters, such as 0.999, with the warm-up
            of :class:`EMA`; None for none. Buffers (running statistics) are not averaged.
        clip: largest norm of the whole gradient; None for no limit.
        accumulate: parts into which the rows of a batch are divided, evaluated one after another
            to save memory. The step is the same, to rounding.
        autocast: ``torch.bfloat16`` for networks whose matrix products are made in it, with
            parameters, losses and averages in their own dtype; None for none.
        compile: have ``torch.compile`` compile the networks in place; or its arguments as a dict.

    Attributes:
        step: number of steps done, over all calls of :meth:`fit`.
        key: the key of the run; None before the first one.
        ema: the averages, an :class:`EMA`, or None.
        stopped: why a callback ended the last fit early; None if none did.
        world: the processes that train together; ``world.first`` is true for the one that writes.
        validates: whether the fit that goes on has held-out rows.
        resuming: whether it was asked to resume.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if nothing is to be trained, if an output of a pair has no loss, or if a number
            is out of its range.

    Example:
        >>> from transportflows.distributions import Gaussian
        >>> from transportflows.fields import Velocity
        >>> from transportflows.interpolants import Linear
        >>> from transportflows.losses import VelocityLoss
        >>> from transportflows.networks import MLP
        >>> from transportflows.process import Process
        >>> field = Velocity(MLP(2, width=16), Process(Linear(), base=Gaussian((2,))))
        >>> trainer = Trainer(field, VelocityLoss(), ema=0.99)
        >>> history = trainer.fit(torch.randn(100, 2), steps=20, batch_size=32, progress=False)
        >>> len(history), trainer.step
        (20, 20)
        >>> with trainer.averaged():
        ...     b = field.velocity(torch.tensor(0.5), torch.zeros(1, 2))
    """

    def __init__(
        self,
        field: Field,
        loss: Loss | Sequence[Regression],
        *,
        optimizer: Optimizer | Callable[[list[nn.Parameter]], Optimizer] | None = None,
        scheduler: str
        | RateSchedule
        | LRScheduler
        | Callable[[Optimizer], LRScheduler]
        | None = None,
        warmup: int = 0,
        lr: float = DEFAULT_LR,
        ema: float | None = None,
        clip: float | None = None,
        accumulate: int = 1,
        autocast: torch.dtype | None = None,
        compile: bool | Mapping[str, Any] = False,
    ) -> None:
        if not isinstance(field, Field):
            given = getattr(field, "__name__", type(field).__name__)
            raise TypeError(
                f"field must be a Field such as Velocity(net, process), got {given}; the order is"
                " Trainer(field, loss)"
            )
        self.field = field
        self.loss = as_loss(loss, field)
        self.optimizer = as_optimizer(optimizer, field, lr)
        self.scheduler = as_scheduler(scheduler, self.optimizer, warmup)
        if isinstance(self.scheduler, RateSchedule):
            for group in self.optimizer.param_groups:
                rate = group["lr"]
                group.setdefault("initial_lr", rate.clone() if isinstance(rate, Tensor) else rate)
        self._settings = settings(self.optimizer)
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be a positive norm, got {clip}; for no limit clip=None")
        self.clip = None if clip is None else float(clip)
        self.accumulate = _count("accumulate", accumulate)
        self.autocast = as_autocast(autocast)
        compile_networks(compile, field)
        self.ema = None if ema is None else EMA(self.parameters, ema)
        self.step = 0
        self.key: int | None = None
        self.stopped: str | None = None
        self.world = World()
        self.validates = self.resuming = False
        self._recorder = Recorder(self.terms)
        self._source: Source | None = None
        self._begun = 0  # the step at which the fit began that goes on
        self._told = 0  # the step up to which fits were told to go
        self._position: Any = None  # of the source, in a checkpoint that was loaded
        self._run: dict[str, Any] = {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained, namely the parameters of the optimizer that require a gradient."""
        groups = self.optimizer.param_groups
        return [p for group in groups for p in group["params"] if p.requires_grad]

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of a sum of losses."""
        parts = self.loss.losses if isinstance(self.loss, SumLoss) else ()
        return tuple(part.quantity for part in parts)

    @property
    def history(self) -> History:
        """All steps so far, also those of a run that was interrupted."""
        return self._recorder.history()

    def fit(
        self,
        data: Data,
        *,
        steps: int,
        batch_size: int | None = None,
        cond: Mapping[str, Tensor] | Sequence[str] | None = None,
        validation: Data | None = None,
        validation_every: int = 500,
        checkpoints: Checkpoints | str | os.PathLike[str] | None = None,
        resume: Resume = False,
        callbacks: Sequence[Callback] = (),
        workers: int = 0,
        generator: torch.Generator | None = None,
        progress: bool = True,
    ) -> History:
        """Train for a number of steps; called again, go on where it stopped.

        Rows of tensors and items of datasets are drawn without replacement, epoch by epoch, in
        batches that all have ``batch_size`` rows (more than there are rows is possible). The
        ``transform`` of the field is applied to the data. The field is trained in train mode, save
        for parts that you put in eval mode in a field that was not itself; afterwards all are in
        the mode in which they were.

        An interruption (Ctrl-C) leaves the field, the averages and :attr:`history` as of the last
        step done, and another ``fit`` goes on from there. With ``checkpoints`` a run outlives its
        process: the same script, started again with ``resume=True``, goes on from the newest
        checkpoint and ends with the same bits (on the same kind of device, with the same number of
        threads and processes).

        Under ``torchrun`` each process works on its slice of every batch. All call ``fit`` with
        the same arguments; the weights begin as those of process 0.

        Args:
            data: of the dtype of the field, in the data's units: a tensor ``x1`` ``(N, *)``; pairs
                ``(x0, x1)``, each ``(N, *)``, for a process whose coupling is :class:`Paired`; a
                :class:`Batch` of all rows; a map-style or iterable Dataset or a DataLoader
                (an item is ``x1``, or ``(x1, label)`` with ``cond=("label",)``, or a dict); or a
                law with ``sample``, such as a :class:`Distribution`, of which every batch is drawn
                afresh.
                Tensors are moved to the device of the field if they fit into half of its free
                memory; otherwise batches are.
            steps: how many steps to do now, from where the trainer is; with ``resume``, those of
                them that the checkpoint has not done.
            batch_size: B, over all processes; 256 by default. A DataLoader has its own.
            cond: conditions for the network: tensors of N rows each, by name; for a dataset or a
                loader the names of what follows the data in its items, such as ``("label",)``.
            validation: held-out data, of any of these forms but a law; with ``cond`` tensors, a
                ``Batch(x1, cond={...})``. Its loss is a mean over all its rows, with the same
                times and noise at every validation and in every run of this ``batch_size``, the
                networks in eval mode, and the averages as weights if there are any.
            validation_every: after how many steps (as counted by :attr:`step`) to validate; also
                done after the last one.
            checkpoints: a folder for them, or :class:`Checkpoints`, which says how often they are
                written and how many are kept.
            resume: go on from the newest checkpoint there, if there is one; ``"anyway"``: even if
                data, batch size, number of processes or settings are not those it was begun with.
            callbacks: whom to tell of the run.
            workers: processes that load the items of a map-style Dataset; 0 for none.
            generator: gives one key, of which every step is a function. None keeps the key that
                the trainer has, so that two runs of n steps are one of 2n, bit for bit (with
                ``scheduler="cosine"`` only if it is given its own ``steps``); without one it is
                drawn from torch's default generator.
            progress: show a progress bar, where there is a terminal.

        Returns:
            The history of all steps so far.

        Raises:
            TypeError: if the data are of no known kind.
            ValueError: for NaN or infinite rows (all rows of tensors are looked at before the
                first step), no rows, a dtype, device or event shape that is not the field's,
                conditions that do not fit, and numbers out of their range.
            OSError: if the folder of checkpoints cannot be written, before the first step.
            ResumeError: if a checkpoint is of another architecture or run; in what it differs.
            NonFiniteLossError: within 50 steps of a loss that is NaN or infinite.
            WorkerError: if another process of the run failed, with its message.
        """
        self.world = team = world()
        self._recorder.world = team
        # Where this fit begins: for a resumed script, where it has told the fits before to go.
        begun = self._told if resume else self.step
        self._told = begun
        try:
            error = None
            plan = self._plan(
                data,
                begun=begun,
                steps=_count("steps", steps),
                batch_size=None if batch_size is None else _count("batch_size", batch_size),
                cond=cond,
                validation=validation,
                validation_every=_count("validation_every", validation_every),
                checkpoints=checkpoints,
                resume=resume,
                callbacks=callbacks,
                workers=_count("workers", workers) if workers else 0,
            )
        except Exception as problem:
            error = problem
        team.all_fine(error)
        self._begin(plan, generator, resume)
        plan = replace(plan, last=self._resumed(plan, begun, resume))
        if self.step < plan.last and self.stopped is None:
            with team.together():
                self._ready(plan.source)
                self._go(plan, progress)
            self._told = self.step
        return self.history

    def _plan(
        self,
        data: Data,
        *,
        begun: int,
        steps: int,
        batch_size: int | None,
        cond: Any,
        validation: Data | None,
        validation_every: int,
        checkpoints: Any,
        resume: Resume,
        callbacks: Sequence[Callback],
        workers: int,
    ) -> Plan:
        """Check all that this process can check by itself, and make what the loop needs."""
        team = self.world
        if self.ema is not None and self.ema.swapped:
            raise ValueError("fit would train the averages; leave averaged() first")
        if resume not in (True, False, "anyway"):
            raise ValueError(f"resume is True, False or 'anyway', got {resume!r}")
        if resume and checkpoints is None:
            raise ValueError("resume needs a folder: fit(..., checkpoints='runs/a', resume=True)")
        for callback in callbacks:
            if not isinstance(callback, Callback):
                given = getattr(callback, "__name__", type(callback).__name__)
                raise TypeError(f"callbacks are Callbacks such as CSVLog('a.csv'), got {given}")
            if callback.every is not None:
                _count(f"every of {type(callback).__name__}", callback.every)
        source = as_source(data, self.field, batch_size, cond, workers, team)
        if source.batch_size is not None and source.batch_size < team.size:
            raise ValueError(
                f"batch_size={source.batch_size} leaves some of {team.size} processes without a"
                " row; it is the size of the batch over all of them"
            )
        chunk = source.batch_size or BATCH_SIZE
        held_out = self._held_out(validation, source, cond, chunk)
        folder = None if checkpoints is None else Checkpoints.of(checkpoints)
        if folder is not None and team.first:
            folder.prepare()
            check_storable(self, callbacks)
        last = begun + steps
        return Plan(source, last, held_out, validation_every, chunk, folder, tuple(callbacks))

    def _begin(self, plan: Plan, generator: torch.Generator | None, resume: Resume) -> None:
        """The key, and the weights of process 0; see that all processes do the same."""
        team = self.world
        if generator is not None or self.key is None:
            self.key = team.agreed(draw_key(generator))
            self._source = self._position = None
        self._run = described(self, plan.source)
        told = {
            "step": self.step,
            "last step": plan.last,
            "validation": plan.held_out is not None and plan.validation_every,
            "checkpoints": plan.checkpoints is not None and plan.checkpoints.every,
            "resume": resume,
            "callbacks": [(type(callback).__name__, callback.every) for callback in plan.callbacks],
        }
        team.check_same("a run", {**flat(self._run), **told})
        held = [*self.parameters, *self.field.parameters(), *self.field.buffers()]
        team.broadcast_(list({id(tensor): tensor for tensor in held}.values()))
        if self.ema is not None and self.ema.updates == 0:
            self.ema.restart()
        elif self.ema is not None:
            team.broadcast_(self.ema.averages)

    def _resumed(self, plan: Plan, begun: int, resume: Resume) -> int:
        """Resume, if that is asked for and possible; how many steps there are to be in all.

        A checkpoint tells at which step the fit began in which it was written. A script that is
        started again calls all its fits again: those that ended before that step are over.
        """
        self.stopped, self.resuming = None, bool(resume)
        self._begun = begun
        if plan.checkpoints is None or not self._find(plan.checkpoints, resume, plan.callbacks):
            return plan.last
        first, self._begun = self._begun, begun
        if begun < first:
            self._told = min(plan.last, first)
            return self.step
        if begun > first:
            self.stopped = None  # that was another fit
        if self.stopped is not None and self.step < plan.last:
            warnings.warn(
                f"this run was ended at step {self.step}: {self.stopped}. Nothing is left to do; to"
                " go on all the same, trainer.load the checkpoint and fit without resume",
                CheckpointWarning,
                stacklevel=3,
            )
        if self.stopped is not None:
            self._told = self.step
        else:  # what is left is told when it is done
            self._told = plan.last if self.step >= plan.last else begun
        return plan.last

    def _held_out(
        self, validation: Data | None, source: Source, cond: Any, chunk: int
    ) -> Source | None:
        if validation is None:
            if isinstance(self.scheduler, ReduceLROnPlateau):
                raise ValueError("ReduceLROnPlateau follows the validation loss; give validation=")
            return None
        tensors = isinstance(cond, Mapping) or isinstance(validation, (Tensor, Batch))
        names = None if tensors else cond
        held_out = as_source(validation, self.field, None, names, 0, World(), "validation")
        read = (Loaded, Streamed)
        if isinstance(held_out, read) and getattr(source, "data", None) is held_out.data:
            raise ValueError(
                "validation is the object that the data are read from, and reading it would move"
                " it; make another one"
            )
        for _ in held_out.chunks(chunk):  # now is the time to see that they can be used
            break
        if source.conditions and set(held_out.conditions) != set(source.conditions):
            raise ValueError(
                f"the data have conditions {list(source.conditions)} and validation"
                f" {list(held_out.conditions)}; write validation=Batch(x1, cond={{...}})"
            )
        return held_out

    def _ready(self, source: Source) -> None:
        """Open the source where the run is."""
        before, position = self._source, self._position
        self._source, self._position = source, None
        assert self.key is not None
        if isinstance(source, (Loaded, Streamed)) and isinstance(before, type(source)):
            same = before.data is source.data and before.batch_size == source.batch_size
            if same and position is None:
                source.taken_from(before)
        source.open(self.key, self.step, position)

    def _go(self, plan: Plan, progress: bool) -> None:
        """Do what is left of the steps."""
        self.validates = plan.held_out is not None
        device = self.parameters[0].device
        with (
            mode(self.field, True),
            borrowed_generator(device) as own,
            tqdm(
                total=plan.last,
                initial=self.step,
                disable=None if progress and self.world.first else True,
                desc="fit",
                unit="step",
            ) as bar,
        ):
            loop = Loop(self, plan, own, bar)
            with ExitStack() as ends:  # each of them, whatever another raises
                ends.callback(plan.source.close)
                try:
                    for callback in plan.callbacks:
                        ends.callback(callback.on_end, self)
                        callback.on_start(self)
                    ends.callback(loop.drain)
                    loop.run()
                finally:
                    for parameter in self.parameters:
                        parameter.grad = None

    def stop(self, reason: str = "stopped by a callback") -> None:
        """End the fit that goes on after this step; for callbacks."""
        self.stopped = reason

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Work with the averages: ``with trainer.averaged(): sample(field, ...)``.

        They are put in the place of the field's weights, which come back at the end bit for bit,
        also after an error.

        Raises:
            ValueError: if the trainer keeps no averages.
        """
        with self._averages().swap():
            yield

    @contextmanager
    def evaluating(self) -> Iterator[Field]:
        """The field as it is evaluated: in eval mode, with the averages if there are any."""
        with mode(self.field, False), swapped(self.ema):
            yield self.field

    def averaged_field(self) -> Field:
        """A copy of the field with the averages as its weights.

        Raises:
            ValueError: if the trainer keeps no averages, or trains parameters that the field does
                not hold and a copy of it would not take along.
        """
        held = {id(parameter) for parameter in self.field.parameters()}
        if any(id(parameter) not in held for parameter in self._averages().parameters):
            raise ValueError(
                "some of the trained parameters are not in the field (its network is no"
                " nn.Module?), so a copy of it would share them; write with trainer.averaged():"
            )
        with self.averaged():
            return copy.deepcopy(self.field)

    def _averages(self) -> EMA:
        if self.ema is None:
            raise ValueError("there are no averages; write Trainer(field, loss, ema=0.999)")
        return self.ema

    # --------------------------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint: weights, averages, optimizer, schedule, step, key and history.

        ``field.save`` writes a field for inference; this is for going on.

        Raises:
            OSError: if it cannot be written; a file that was there is kept.
        """
        if self.ema is not None and self.ema.swapped:
            raise ValueError("save would take the averages for weights; leave averaged() first")
        position = self._position if self._source is None else self._source.state()
        header, state = snapshot(self, position, ())
        container.write(path, {"kind": KIND, "format": FORMAT, **header}, state)

    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Take up a checkpoint, of :meth:`save` or of a run: this trainer becomes the one it was.

        The trainer must have been made with a field of the same architecture and the same kind of
        optimizer. The next ``fit`` goes on with the key and at the step of the file.

        Returns:
            The header of the file: versions, step, field, process, run.

        Raises:
            ResumeError: if it is of another architecture (which entries differ) or version.
            ValueError: if it is damaged or no checkpoint.
        """
        if self.ema is not None and self.ema.swapped:
            raise ValueError("load would put weights under the averages; leave averaged() first")
        header, state = read_checkpoint(path)
        restore(self, Path(path), header, state)
        return header

    def _find(self, folder: Checkpoints, resume: Resume, callbacks: Sequence[Callback]) -> bool:
        """Resume from the newest checkpoint of a folder, or see that it is of no other run."""
        team = self.world
        found, error = None, None
        if team.first:
            try:
                found = self._newest(folder, resume)
            except Exception as problem:
                error = problem
        team.all_fine(error)
        found = team.agreed(found)
        if found is None:
            return False
        path, header, state = found
        check_run(path, header["run"], self._run, resume == "anyway")
        restore(self, path, header, state, callbacks)
        return True

    def _newest(self, folder: Checkpoints, resume: Resume) -> Any:
        if resume:
            return folder.newest()
        files = folder.files()
        if files:
            header = container.read_header(files[-1])
            if header.get("key") != str(self.key) or header["step"] > self.step:
                raise ValueError(
                    f"{folder.folder} holds checkpoints of another run, the newest of step"
                    f" {header['step']}; resume=True goes on with it, and a new run needs another"
                    " folder"
                )
        return None


def _count(name: str, number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, numbers.Integral) or number < 1:
        raise ValueError(f"{name} must be a positive integer, got {number!r}")
    return int(number)
