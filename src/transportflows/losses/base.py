"""What a loss is: something random is drawn for a batch, and then each row has a value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.built import Built
from .._core.checks import check_callable
from .._core.signatures import checked
from .._core.spelling import spelled, spelled_call
from ..draws import Batch
from ..fields.base import Field

__all__ = ["FunctionLoss", "Loss", "Undrawn", "as_loss"]

BatchLike = Batch | DataLike | tuple[DataLike, DataLike]


@checked
@dataclass(frozen=True)
class Undrawn:
    """A batch for which nothing was drawn yet: the loss draws when it is evaluated.

    Attributes:
        batch: the rows.
        generator: from which they will draw.
    """

    batch: Batch
    generator: torch.Generator | None = None
    t: ClassVar[None] = None  # the times of the rows are not known

    def __len__(self) -> int:
        return len(self.batch)

    def rows(self, start: int, stop: int) -> Undrawn:
        """The rows from ``start`` up to ``stop``, which will draw for themselves."""
        return Undrawn(self.batch.rows(start, stop), self.generator)

    def with_cond(self, function: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Undrawn:
        """The same with a function of its conditions."""
        return Undrawn(self.batch.with_cond(function), self.generator)


@checked
class Loss(Built):
    """One value a row from a field and a batch; the mean over rows is what a trainer minimises.

    A loss has two halves, so that a batch can be evaluated a few rows at a time, on several
    processes, and still be one batch:

    - :meth:`draw` makes all that is random, for the whole batch: times, noise, pairings;
    - :meth:`evaluate` is then deterministic, and takes what was drawn for any of the rows.

    A subclass writes :meth:`evaluate`, and :meth:`draw` where it draws. Or it writes ``__call__``
    alone: then each part of a batch draws for its own rows. A plain function
    ``(field, batch, generator)`` serves a trainer as well (:class:`FunctionLoss`).

    Attributes:
        names: of the terms that the loss is the sum of; empty for a single one.
        quantities: what it regresses, such as ``("velocity",)``; empty for other losses.

    Example:
        >>> import transportflows as tpf
        >>> field = tpf.Score(lambda t, x: -x, tpf.Process(tpf.SBDM(), shape=(2,)))
        >>> class Length(Loss):  # |ŝ|² on the data
        ...     def evaluate(self, field, sample):
        ...         return field.score(torch.tensor(1.0), sample.batch.x1).square().sum(1)
        >>> Length()(field, torch.tensor([[3.0, 4.0]]))
        tensor([25.])
    """

    names: tuple[str, ...] = ()
    quantities: tuple[str, ...] = ()

    def draw(
        self, field: Field, batch: BatchLike, *, generator: torch.Generator | None = None
    ) -> Any:
        """What is random in the loss, drawn for the whole batch.

        Returns:
            A sample with ``len(sample)`` rows, of which ``sample.rows(start, stop)`` gives some,
            and ``sample.t``, times ``(B,)`` or None: such as a :class:`PathSample`. By default the
            batch and the generator themselves, :class:`Undrawn`.
        """
        return Undrawn(Batch.of(batch), generator)

    def evaluate(self, field: Field, sample: Any) -> Tensor:
        """The loss of each row of what :meth:`draw` gave, ``(B,)``.

        Raises:
            TypeError: if the loss has not said what its values are.
        """
        if type(self).__call__ is Loss.__call__:
            raise TypeError(
                f"{type(self).__name__} says nothing of its values; write evaluate(field, sample),"
                " or __call__(field, batch, *, generator=None)"
            )
        return self(field, sample.batch, generator=sample.generator)

    def terms(self, field: Field, sample: Any) -> Tensor:
        """The terms one by one, ``(K, B)``; their sum is the loss."""
        return self.evaluate(field, sample).unsqueeze(0)

    def __call__(
        self, field: Field, batch: BatchLike, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The loss of each row of the batch, ``(B,)``; draws what it needs."""
        return self.evaluate(field, self.draw(field, batch, generator=generator))

    @property
    def title(self) -> str:
        """What messages and checkpoints call it."""
        return type(self).__name__

    def __repr__(self) -> str:
        return spelled_call(self)


@checked
class FunctionLoss(Loss):
    """A function as a loss: ``lambda field, batch, generator: ...`` to ``(B,)`` values.

    It draws for the rows that it is given, when it is evaluated.

    Args:
        function: of a field, a :class:`Batch` and a generator.

    Example:
        >>> import transportflows as tpf
        >>> field = tpf.DataPredictor(lambda t, x: 0 * x, tpf.Process(tpf.SBDM(), shape=(2,)))
        >>> def at_the_end(field, batch, generator):  # what a data predictor makes of the data
        ...     return (field(torch.tensor(1.0), batch.x1) - batch.x1).square().sum(1)
        >>> FunctionLoss(at_the_end)(field, torch.tensor([[3.0, 4.0]]))
        tensor([25.])
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        try:
            self.named = "generator" in inspect.signature(function).parameters
        except ValueError:  # a builtin has no signature
            self.named = False

    def evaluate(self, field: Field, sample: Undrawn) -> Tensor:
        if self.named:
            return self.function(field, sample.batch, generator=sample.generator)
        return self.function(field, sample.batch, sample.generator)

    @property
    def title(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __repr__(self) -> str:
        return spelled(self.function)


def as_loss(given: Any) -> Loss:
    """A loss as a trainer uses it: in two halves.

    One that overrides ``__call__`` says itself what a call is. Where its parents draw and evaluate,
    what they do is not the whole of it any more; so it is taken as a function.

    Raises:
        TypeError: if it cannot be called.
    """
    kind = type(given)
    if isinstance(given, Loss) and (
        kind.__call__ is Loss.__call__ or kind.evaluate is Loss.evaluate
    ):
        return given
    if isinstance(given, type) or not callable(given):
        name = f"the class {given.__name__}" if isinstance(given, type) else kind.__name__
        raise TypeError(
            "loss must be a Loss such as VelocityLoss(), a list of regressions, or a function"
            f" (field, batch, generator) that gives one value a row, got {name}"
        )
    if isinstance(given, Field):
        raise TypeError(
            f"loss must be a Loss such as VelocityLoss(), got a {kind.__name__}; the field comes"
            " first: Trainer(field, loss)"
        )
    loss = FunctionLoss(given)
    if loss.named:
        check_callable("loss", given, ("field", "batch"), ("generator",))
    else:
        check_callable("loss", given, ("field", "batch", "generator"))
    return loss
