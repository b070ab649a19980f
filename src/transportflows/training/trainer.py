"""The trainer: what is trained, with which loss, and how; its ``fit``, its averages, its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .._core.arrays import DataLike
from .._core.checks import number, positive_integer
from .._core.distributed import world
from .._core.shards import put_back
from .._core.signatures import as_is, check_call, checked
from ..draws import Batch
from ..fields.base import Field
from ..losses import Loss, Regression
from .arguments import (
    DEFAULT_LR,
    as_autocast,
    as_optimizer,
    as_scheduler,
    compile_options,
    loss_of,
)
from .callbacks import Callback
from .checkpoints import Checkpoints, read_checkpoint
from .compiled import CompiledStep
from .ema import EMA
from .history import History
from .loop import Loop
from .plan import make_plan
from .resume import begin, open_source, resumed
from .run import Run
from .schedules import RateSchedule
from .snapshots import restore, write

__all__ = ["Trainer"]

MakesScheduler = Callable[[Optimizer], LRScheduler]


@checked
class Trainer(Run):
    """Minimises the mean of a loss over the networks of a field.

    Args:
        field: what to train. It is trained in place.
        loss: a :class:`Loss`; a sequence of regressions, one for each output of a
            :class:`FieldPair`; or a function of ``(field, batch, generator)`` that gives ``(B,)``
            values. By default the regression of what the field predicts
            (:func:`~transportflows.losses.default_loss`).
        optimizer: a torch optimizer, or a function that makes one from a list of parameters. By
            default Adam, fused where torch can. The default and the function
            get the trainable parameters of the networks (``requires_grad``) and *not* those of the
            process: over a learnable interpolant a regression loss shrinks the variance of its own
            target and collapses the path. To train them, put them in an optimizer of your own.
        scheduler: ``"cosine"``, ``"step"`` (half every 1,500 steps), ``"constant"``, or a
            :class:`RateSchedule` such as ``CosineRate(floor=0.1)``; or a torch scheduler of the
            optimizer, or a function that makes one from it, stepped after every step
            (``ReduceLROnPlateau``: after every validation).
        warmup: steps over which the rate of a scheduler given by name, or of none, rises.
        lr: learning rate of the default optimizer.
        ema: decay of moving averages of the trained parameters, such as 0.999, with the warm-up
            of :class:`EMA`; None for none. Buffers (running statistics) are not averaged.
        clip: largest norm of the whole gradient; None for no limit.
        accumulate: parts of a batch that are evaluated one after another, to save memory; to
            rounding the step is the same.
        autocast: ``torch.bfloat16`` for matrix products in it, with parameters, losses and averages
            in their own dtype; None for none.
        compile: forward pass, loss and backward pass as one graph, or arguments of torch.compile.

    Attributes:
        step: number of steps done, over all calls of :meth:`fit`.
        key: the key of the run; None before the first one.
        ema: the averages, an :class:`EMA`, or None.
        stopped: why a callback ended the last fit early; None if none did.
        world: the processes that train together; ``world.first`` is true for the one that writes.
        validates: whether the fit that goes on has held-out rows.
        resuming: whether it was asked to resume.

    Raises:
        TypeError: if an argument is of the wrong kind, or the field is made of others.
        ValueError: if nothing is to be trained, an output of a pair has no loss, or a number is out
            of its range.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> field = tpf.Velocity(tpf.networks.MLP(2, width=16), process)
        >>> trainer = Trainer(field, tpf.VelocityLoss(), ema=0.99)
        >>> history = trainer.fit(torch.randn(100, 2), steps=20, batch_size=32, progress=False)
        >>> len(history), trainer.step
        (20, 20)
        >>> with trainer.averaged():
        ...     b = field.velocity(torch.tensor(0.5), torch.zeros(1, 2))
    """

    def __init__(
        self,
        field: Field,
        loss: Loss | Sequence[Regression] | Callable[..., Tensor] | None = None,
        *,
        optimizer: Optimizer | Callable[[list[nn.Parameter]], Optimizer] | None = None,
        scheduler: str | RateSchedule | LRScheduler | MakesScheduler | None = None,
        warmup: int = 0,
        lr: float = DEFAULT_LR,
        ema: float | None = None,
        clip: float | None = None,
        accumulate: int = 1,
        autocast: torch.dtype | None = None,
        compile: bool | Mapping[str, Any] = False,
    ) -> None:
        put_back(field)
        made = as_optimizer(optimizer, field, lr)
        schedule = as_scheduler(scheduler, made, warmup)
        if clip is not None:
            clip = number("clip", clip, "a positive norm (for no limit clip=None)", above=0)
        super().__init__(
            field,
            loss_of(loss, field),
            made,
            schedule,
            clip=clip,
            accumulate=positive_integer("accumulate", accumulate),
            autocast=as_autocast(autocast),
        )
        if (how := compile_options(compile, field)) is not None:
            self.compiled = CompiledStep(self.loss, field, self.parameters, self.autocast, how)
        self.ema = None if ema is None else EMA(self.parameters, ema)

    def __repr__(self) -> str:
        rates = [f"{group['lr']:.4g}" for group in self.optimizer.param_groups]
        size = sum(p.numel() for p in self.parameters)
        more = "" if self.ema is None else f", ema {self.ema.decay}"
        more += f", {self.scheduler}" if isinstance(self.scheduler, RateSchedule) else ""
        return (
            f"Trainer({type(self.field).__name__} of {size:,} parameters, {self.loss!r},\n"
            f"  {type(self.optimizer).__name__} at lr {', '.join(rates)}{more},\n"
            f"  step {self.step:,}{'' if self.stopped is None else f', stopped: {self.stopped}'})"
        )

    @as_is
    def fit(
        self,
        data: DataLike | tuple[DataLike, DataLike] | Batch | Any,
        *,
        steps: int,
        batch_size: int | None = None,
        cond: Mapping[str, Any] | Sequence[str] | None = None,
        drop_cond: float | Mapping[str, float] = 0.0,
        validation: DataLike | tuple[DataLike, DataLike] | Batch | Any = None,
        validation_every: int = 500,
        checkpoints: Checkpoints | str | os.PathLike[str] | None = None,
        resume: bool | Literal["anyway"] = False,
        callbacks: Sequence[Callback] = (),
        workers: int = 0,
        generator: torch.Generator | None = None,
        progress: bool = True,
    ) -> History:
        """Train for a number of steps; called again, go on where it stopped.

        Rows of tensors and items of datasets are drawn without replacement, epoch by epoch, in
        batches that all have ``batch_size`` rows (more than there are rows is possible). The
        ``transform`` of the field is applied to the data. The field is trained in train mode, save
        for parts that you put in eval mode in a field that was not; afterwards all are as before.

        An interruption (Ctrl-C) leaves the field, the averages and :attr:`history` as of the last
        step done, and another ``fit`` goes on from there. With ``checkpoints`` a run outlives its
        process: the same script, started again with ``resume=True``, goes on from the newest
        checkpoint and ends with the same bits (on the same kind of device, with the same number of
        threads and processes).

        Under ``torchrun`` each process works on its slice of every batch. All call ``fit`` with
        the same arguments; the weights begin as those of process 0.

        Args:
            data: of the dtype of the field, in the data's units: a tensor ``x1`` ``(N, *)``, or an
                array (its floats get that dtype); ``(x0, x1)``, each ``(N, *)``, for pairs; a
                :class:`Batch` of all rows; a map-style or iterable Dataset or a DataLoader
                (an item is ``x1``, or ``(x1, label)`` with ``cond=("label",)``, or a dict); or a
                law with ``sample``, such as a :class:`Distribution`, of which every batch is drawn
                afresh. Tensors are moved to the device of the field if they fit into half of its
                free memory; otherwise batches are.
            steps: how many to do now; with ``resume``, those that the checkpoint has not done.
            batch_size: B, over all processes; 256 by default. A DataLoader has its own.
            cond: conditions for the network, by name: tensors of N rows each, and what is one for
                all rows (a number, a text, a tensor ``()``); for a dataset or a loader the names
                of what follows the data in its items, such as ``("label",)``. The field remembers
                what they were like (:attr:`Field.conditions`) and asks for them from then on.
            drop_cond: the probability with which a row loses all its conditions, such as 0.1; or
                one for each, ``{"label": 0.1}``, by itself. The network says what stands for none
                (:class:`MLP` does, :class:`Nullable` wraps others); ``sample`` may leave it out.
            validation: held-out data, of any of these forms but a law; with ``cond`` tensors, a
                ``Batch(x1, cond={...})``. Its loss is a mean over all its rows, with the same
                times and noise at every validation and in every run of this ``batch_size``, the
                networks in eval mode, and the averages as weights if there are any. A
                :class:`~transportflows.couplings.TransportPlan` says how such rows are paired.
            validation_every: steps (by :attr:`step`) between validations; one comes at the end.
            checkpoints: a folder for them, or :class:`Checkpoints`: how often and how many.
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
            OSError: if the folder of checkpoints cannot be written, or another run is writing in it
                (a BlockingIOError), before the first step.
            ResumeError: if a checkpoint is of another architecture or run; in what it differs.
            NonFiniteLossError: within 50 steps of a loss that is NaN or infinite.
            WorkerError: if another process of the run failed, with its message.
        """
        self.world = self.recorder.world = team = world()
        # It begins, for a resumed script, where the fits before were told to go.
        begun = self.told = self.told if resume else self.step
        with ExitStack() as ends:
            error = None
            try:
                check_call(Trainer.fit, locals())
                plan = make_plan(
                    self,
                    data,
                    ends,
                    begun=begun,
                    steps=steps,
                    batch_size=batch_size,
                    cond=cond,
                    drop_cond=drop_cond,
                    validation=validation,
                    validation_every=validation_every,
                    checkpoints=checkpoints,
                    resume=resume,
                    callbacks=callbacks,
                    workers=workers,
                )
            except Exception as problem:
                error = problem
            team.all_fine(error)
            begin(self, plan, generator)
            plan = resumed(self, plan, begun)
            if self.step < plan.last and self.stopped is None:
                with team.together(lambda: f"step {self.step + 1} of fit"):
                    open_source(self, plan.source)
                    Loop(self, plan, progress).go()
                self.told = self.step
        return self.history

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint: weights, averages, optimizer, schedule, step, key and history.

        ``field.save`` writes a field for inference; this is for going on.

        Raises:
            ValueError: if the weights are NaN or infinite.
            OSError: if it cannot be written; a file that was there is kept.
        """
        if self.ema is not None and self.ema.swapped:
            raise ValueError("save would take the averages for weights; leave averaged() first")
        self.field.check_finite()
        write(self, path)

    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Take up a checkpoint, of :meth:`save` or of a run: this trainer becomes the one it was.

        The trainer must have been made with a field of the same architecture and the same kind of
        optimizer. The next ``fit`` goes on with the key and at the step of the file. A file that is
        refused leaves the trainer as it was.

        Returns:
            The header of the file: versions, step, field, process, run.

        Raises:
            ValueError: within ``averaged()``.
            DamagedFileError: if it is damaged, no checkpoint, of a newer version, or holds what
                cannot be; a ResumeError if it is of another architecture (which entries differ).
            OSError: if it cannot be opened.
        """
        if self.ema is not None and self.ema.swapped:
            raise ValueError("load would put weights under the averages; leave averaged() first")
        header, state = read_checkpoint(path)
        restore(self, Path(path), header, state)
        return header
