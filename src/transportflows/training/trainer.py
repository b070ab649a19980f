"""The trainer: one loop, whose step costs little more than its forward and backward pass.

A step draws rows, asks the loss for one value a row, takes the gradient of their mean, and moves
the parameters. Everything random in it is a function of ``(key, step)``: the rows come from
:class:`~transportflows.training.Epochs`, and torch's own generator of the device is seeded from
``mix(key, 0, step)``, lent to the loss, and given back after the run as it was found. (Layers that
draw, such as dropout, draw from that generator too.) Nothing in the loop waits for the device:
losses are read every 50 steps, or every half second if that is sooner.
"""

from __future__ import annotations

import copy
import numbers
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from .._random import draw_key, mix, stream
from ..batches import Batch
from ..fields import Field
from ..losses import Loss, Regression, SumLoss
from .arguments import DEFAULT_LR, as_loss, as_optimizer, as_scheduler, trainable
from .data import Epochs, Rows
from .ema import EMA
from .history import History, NonFiniteLossError, Recorder

__all__ = ["Trainer"]

Data = Tensor | tuple[Tensor, Tensor] | Batch

_STEPS = 0  # the branch of the key that seeds the steps; branch 1 orders the rows
_READ_EVERY = 50
_READ_SECONDS = 0.5
_VALIDATION_KEY = 0x7472616E73706F72  # one for all runs, so that their curves can be compared


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
        scheduler: a torch learning rate scheduler of the optimizer, or a function that makes one
            from it; stepped after every step (``ReduceLROnPlateau``: after every validation).
        lr: learning rate of the default optimizer.
        ema: decay of moving averages of the trained parameters, such as 0.999, with the warm-up
            of :class:`EMA`; None for none. Buffers (running statistics) are not averaged.
        clip: largest norm of the whole gradient; None for no limit.

    Attributes:
        step: number of steps done, over all calls of :meth:`fit`.
        key: the key of the run; None before the first one.
        ema: the averages, an :class:`EMA`, or None.

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
        scheduler: LRScheduler | Callable[[Optimizer], LRScheduler] | None = None,
        lr: float = DEFAULT_LR,
        ema: float | None = None,
        clip: float | None = None,
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
        self.scheduler = as_scheduler(scheduler, self.optimizer)
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be a positive norm, got {clip}; for no limit clip=None")
        self.clip = clip
        self.ema = None if ema is None else EMA(self.parameters, ema)
        self.step = 0
        self.key: int | None = None
        parts = self.loss.losses if isinstance(self.loss, SumLoss) else ()
        self._recorder = Recorder([part.quantity for part in parts])

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained, namely the parameters of the optimizer that require a gradient."""
        groups = self.optimizer.param_groups
        return [p for group in groups for p in group["params"] if p.requires_grad]

    @property
    def history(self) -> History:
        """All steps so far, also those of a run that was interrupted."""
        return self._recorder.history()

    def fit(
        self,
        data: Data,
        *,
        steps: int,
        batch_size: int = 256,
        cond: Mapping[str, Tensor] | None = None,
        validation: Data | None = None,
        validation_every: int = 500,
        generator: torch.Generator | None = None,
        progress: bool = True,
    ) -> History:
        """Train for a number of steps; called again, go on where it stopped.

        Rows are drawn without replacement, epoch by epoch, in batches that all have
        ``batch_size`` rows (:class:`Epochs`; more than there are rows is possible). The
        ``transform`` of the field is applied to the data once, before the loop. The field is
        trained in train mode, save for parts that you put in eval mode in a field that was not
        itself; afterwards all are in the mode in which they were.

        An interruption (Ctrl-C) leaves the field, the averages and :attr:`history` as of the last
        step done, and another ``fit`` goes on from there.

        Args:
            data: ``x1`` ``(N, *)`` in the data's units; or pairs ``(x0, x1)``, each ``(N, *)``,
                for a process whose coupling is :class:`Paired`; or a :class:`Batch` of all rows.
                Of the dtype and on the device of the field.
            steps: how many steps to do now.
            batch_size: B.
            cond: conditions for the network, tensors of N rows each, by name.
            validation: held-out data, of the form of ``data``; with ``cond``, a
                ``Batch(x1, cond={...})``. Its loss is a mean over all its rows, with the same
                times and noise at every validation and in every run of this ``batch_size``, the
                networks in eval mode, and the averages as weights if there are any.
            validation_every: after how many steps (as counted by :attr:`step`) to validate; also
                done after the last one.
            generator: gives one key, of which every step is a function. None keeps the key that
                the trainer has, so that two runs of n steps are one of 2n, bit for bit; without
                one it is drawn from torch's default generator.
            progress: show a progress bar, where there is a terminal.

        Returns:
            The history of all steps so far.

        Raises:
            TypeError: see :meth:`Rows.of`, which checks the data, all of them at once.
            ValueError: likewise, and for numbers out of their range.
            NonFiniteLossError: within 50 steps of a loss that is NaN or infinite.
        """
        for name, number in (
            ("steps", steps),
            ("batch_size", batch_size),
            ("validation_every", validation_every),
        ):
            if not isinstance(number, numbers.Integral) or number < 1:
                raise ValueError(f"{name} must be a positive integer, got {number!r}")
        if self.ema is not None and self.ema.swapped:
            raise ValueError("fit would train the averages; leave averaged() first")
        rows = Rows.of(data, self.field, cond)
        held_out = None
        if validation is not None:
            held_out = Rows.of(validation, self.field, name="validation")
            if held_out.cond.keys() != rows.cond.keys():
                raise ValueError(
                    f"the data have conditions {list(rows.cond)} and validation"
                    f" {list(held_out.cond)}; write validation=Batch(x1, cond={{...}})"
                )
        elif isinstance(self.scheduler, ReduceLROnPlateau):
            raise ValueError("ReduceLROnPlateau follows the validation loss; give validation=")
        if generator is not None or self.key is None:
            self.key = draw_key(generator)
        if self.ema is not None and self.ema.updates == 0:
            self.ema.restart()
        order = Epochs(rows, batch_size, self.key)
        with (
            _mode(self.field, True),
            _borrowed_generator(rows.x1.device) as own,
            tqdm(total=steps, disable=None if progress else True, desc="fit", unit="step") as bar,
        ):
            try:
                self._loop(order, self.step + steps, held_out, validation_every, own, bar)
            finally:
                for parameter in self.parameters:
                    parameter.grad = None
                self._recorder.read()
        return self.history

    def _loop(
        self,
        order: Epochs,
        last: int,
        held_out: Rows | None,
        validation_every: int,
        generator: torch.Generator,
        bar: tqdm[Any],
    ) -> None:
        field, optimizer, scheduler, ema = self.field, self.optimizer, self.scheduler, self.ema
        recorder, key, clip, parameters = self._recorder, self.key, self.clip, self.parameters
        plateau = isinstance(scheduler, ReduceLROnPlateau)
        loss: Callable[..., Tensor] = self.loss
        if isinstance(self.loss, SumLoss):
            loss = self.loss.terms
        foreach = True if generator.device.type in ("cpu", "cuda") else None
        mine = {id(parameter) for parameter in parameters}
        only = None if all(id(p) in mine for p in trainable(field)) else tuple(parameters)
        group = optimizer.param_groups[0]
        assert key is not None
        share: Tensor | None = None
        for parameter in parameters:
            parameter.grad = None
        read_at = time.perf_counter()
        while self.step < last:
            generator.manual_seed(mix(key, _STEPS, self.step))
            values = loss(field, order.batch(self.step, last), generator=generator)
            if share is None:
                share = self._share(values, order.batch_size)
            # The gradient of the mean over rows; with ``inputs``, of nothing but what is trained.
            torch.autograd.backward((values,), (share,), inputs=only)
            if clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip, foreach=foreach)
            rate = group["lr"]
            optimizer.step()
            for parameter in parameters:
                parameter.grad = None
            if ema is not None:
                ema.update()
            self.step += 1
            recorder.add(
                self.step, values.detach(), rate.clone() if isinstance(rate, Tensor) else rate
            )
            if scheduler is not None and not plateau:
                scheduler.step()
            if held_out is not None and (self.step % validation_every == 0 or self.step == last):
                score = self._validate(held_out, order.batch_size, generator)
                recorder.add_validation(self.step, score)
                if plateau:
                    scheduler.step(score)  # type: ignore[union-attr, arg-type]
            now = time.perf_counter()
            if (
                recorder.waiting >= _READ_EVERY
                or now - read_at > _READ_SECONDS
                or self.step == last
            ):
                read_at = now
                losses = recorder.read()
                bar.update(len(losses))
                bar.set_postfix_str(self._postfix(float(losses.mean())), refresh=False)
                bad = recorder.first_bad(losses)
                if bad is not None:
                    raise self._non_finite(bad)

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

    # --------------------------------------------------------------------------- parts of a step

    def _averages(self) -> EMA:
        if self.ema is None:
            raise ValueError("there are no averages; write Trainer(field, loss, ema=0.999)")
        return self.ema

    def _share(self, values: Any, batch_size: int) -> Tensor:
        """The share of each row in the mean, if the loss gave what a loss must give."""
        needed = (len(self._recorder.names), batch_size)[not self._recorder.names :]
        if not isinstance(values, Tensor) or values.shape != needed:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"{type(self.loss).__name__} must give one value a row, ({batch_size},), and it"
                f" gave {got}; sum over events, not over rows, and take no mean"
            )
        if not values.requires_grad:
            raise ValueError(
                f"the value of {type(self.loss).__name__} depends on no trained parameter; is the"
                " network called under no_grad, or frozen since the Trainer was made?"
            )
        return torch.full_like(values, 1 / batch_size, requires_grad=False)

    def _validate(self, rows: Rows, chunk: int, generator: torch.Generator) -> Tensor:
        """Mean loss over rows, ``()``; the same draws each time, and the next step seeds anew."""
        sums = []
        with _mode(self.field, False), _swapped(self.ema):
            for start in range(0, len(rows), chunk):
                generator.manual_seed(mix(_VALIDATION_KEY, start))
                batch = rows.slice(start, start + chunk)
                # With autograd on: a loss may need it (sliced score matching).
                values = self.loss(self.field, batch, generator=generator).detach()
                sums.append(values.double().sum())
        return torch.stack(sums).sum() / len(rows)

    def _postfix(self, loss: float) -> str:
        validation = self._recorder.last_validation
        return f"loss={loss:.4g}" + ("" if validation is None else f", validation={validation:.4g}")

    def _non_finite(self, bad: int) -> NonFiniteLossError:
        count = sum(not bool(torch.isfinite(p).all()) for p in self.parameters)
        weights = (
            f"{count} of the {len(self.parameters)} parameter tensors now hold NaN or infinite"
            " values"
            if count
            else "the parameters are finite, but were moved by that loss"
        )
        return NonFiniteLossError(
            f"the loss became NaN or infinite at step {bad}, and the run stopped after step"
            f" {self.step}; {weights}, so train a new network: with a smaller lr, with clip=1.0,"
            " or, if the loss has a weight or a target that is infinite at an end of time, with"
            " margins in its time sampler. The history is in this error and in trainer.history",
            bad,
            self.history,
        )


@contextmanager
def _swapped(ema: EMA | None) -> Iterator[None]:
    if ema is None:
        yield
    else:
        with ema.swap():
            yield


@contextmanager
def _mode(field: nn.Module, training: bool) -> Iterator[None]:
    """Put a field in train or eval mode, and each of its modules back as it was.

    Where the field is in train mode already, a part of it that is not was put in eval mode on
    purpose, and stays there.
    """
    flags = [(module, module.training) for module in field.modules()]
    try:
        if training != field.training:
            field.train(training)
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def _borrowed_generator(device: torch.device) -> Iterator[torch.Generator]:
    """Lend torch's own generator of a device, given back in the state in which it was."""
    if device.type == "cpu":
        generator = torch.default_generator
    elif device.type == "cuda":
        generator = torch.cuda.default_generators[device.index or 0]
    else:
        yield stream(0, device=device)
        return
    state = generator.get_state()
    try:
        yield generator
    finally:
        generator.set_state(state)
