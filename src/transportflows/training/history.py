"""What happened in a run: losses and learning rates as arrays."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Curve", "History", "NonFiniteLossError", "Recorder"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_MANY = 4096


class Curve(NamedTuple):
    """A loss at some steps; ``plt.plot(*history.validation)`` draws it."""

    step: Integers
    loss: Floats


@dataclass(frozen=True, repr=False)
class History:
    """The steps of a run, counted from 1.

    Attributes:
        step: ``(n,)``.
        loss: mean loss of the batch of each step, with the weights before it, ``(n,)``.
        learning_rate: of the first parameter group at each step, ``(n,)``.
        validation: validation loss, with the weights (or their averages) after a step.
        terms: for a sum of losses, each of them by name, ``(n,)``.
    """

    step: Integers
    loss: Floats
    learning_rate: Floats
    validation: Curve
    terms: dict[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.step)

    def __repr__(self) -> str:
        if len(self) == 0:
            return "History(no steps)"
        shown = f"{len(self)} steps, loss {self.loss[-50:].mean():.4g}"
        if len(self.validation.step):
            shown += f", validation {self.validation.loss[-1]:.4g}"
        return f"History({shown})"


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite.

    Attributes:
        step: the first such step, counted from 1.
        history: the history up to where the run stopped.
    """

    def __init__(self, message: str, step: int, history: History) -> None:
        super().__init__(message)
        self.step = step
        self.history = history


class Recorder:
    """Collects what a loop hands it without waiting for the device; reads it a block at a time.

    Args:
        names: names of the terms of the loss; with none, a step's loss is one number.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self._waiting: list[tuple[int, Tensor, float | Tensor]] = []
        self._validations: list[tuple[int, Tensor]] = []
        self._step, self._loss, self._rate = array("q"), array("d"), array("d")
        self._terms = [array("d") for _ in self.names]
        self._validation_step, self._validation_loss = array("q"), array("d")

    def add(self, step: int, values: Tensor, rate: float | Tensor) -> None:
        """Hand over a step: the values of its rows, ``(B,)``, or ``(K, B)``; not read yet."""
        if values.shape[-1] > _MANY:  # too large to keep; below that, a mean each costs more
            values = values.mean(-1, keepdim=True)
        self._waiting.append((step, values, rate))

    def add_validation(self, step: int, loss: Tensor) -> None:
        """Hand over a validation loss, ``()``; not read yet."""
        self._validations.append((step, loss))

    @property
    def waiting(self) -> int:
        """How many steps were handed over and not read."""
        return len(self._waiting)

    def read(self) -> Floats:
        """Read the steps that wait, in one transfer, and return their mean losses."""
        losses = np.empty(0)
        if self._waiting:
            steps, tensors, rates = zip(*self._waiting, strict=True)
            self._waiting = []
            values = torch.stack(tensors).mean(-1, dtype=torch.float64).cpu().numpy()
            losses = values.sum(1) if self.names else values
            self._step.extend(steps)
            self._loss.extend(losses.tolist())
            self._rate.extend(float(rate) for rate in rates)
            for term, column in zip(self._terms, values.T if self.names else (), strict=True):
                term.extend(column.tolist())
        for step, loss in self._validations:
            self._validation_step.append(step)
            self._validation_loss.append(float(loss))
        self._validations = []
        return losses

    def first_bad(self, losses: Floats) -> int | None:
        """The step of the first loss that is not finite, of those that ``read`` gave last."""
        bad = np.flatnonzero(~np.isfinite(losses))
        return int(self._step[len(self._step) - len(losses) + bad[0]]) if len(bad) else None

    @property
    def last_validation(self) -> float | None:
        """The validation loss read last."""
        return self._validation_loss[-1] if self._validation_loss else None

    def history(self) -> History:
        """What was read so far, as arrays of its own."""
        return History(
            step=_copied(self._step, np.int64),
            loss=_copied(self._loss, np.float64),
            learning_rate=_copied(self._rate, np.float64),
            validation=Curve(
                _copied(self._validation_step, np.int64), _copied(self._validation_loss, np.float64)
            ),
            terms={
                name: _copied(term, np.float64)
                for name, term in zip(self.names, self._terms, strict=True)
            },
        )


def _copied(values: array[Any], dtype: Any) -> NDArray[Any]:
    return np.array(values, dtype=dtype)
