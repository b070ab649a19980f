"""What happened in a run: losses, rates, gradients, times, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._core.signatures import checked

__all__ = ["Curve", "History", "NonFiniteLossError", "Pace", "Series", "TimeProfile"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@checked
class Curve(NamedTuple):
    """A loss at some steps; ``plt.plot(*history.validation)`` draws it."""

    step: Integers
    loss: Floats


@checked
class Series(NamedTuple):
    """A number at some steps; ``plt.plot(*history.gradient_norm)`` draws it."""

    step: Integers
    value: Floats


@checked
@dataclass(frozen=True)
class TimeProfile:
    """The loss by time: where in [0, 1] the network errs.

    Attributes:
        step: the last step of each window of 100 steps, ``(w,)``.
        edges: ends of the bins of time, ``(k + 1,)``.
        loss: mean loss of the rows whose t fell into a bin, ``(w, k)``; NaN where none did.
        rows: how many did, ``(w, k)``.
    """

    step: Integers
    edges: Floats
    loss: Floats
    rows: Integers


@checked
@dataclass(frozen=True)
class Pace:
    """How fast a run goes, over stretches of up to 50 steps.

    Attributes:
        step: the last step of each stretch, ``(m,)``.
        seconds: what the stretch took, without validation and the writing of files, ``(m,)``.
        steps: steps in it, ``(m,)``.
        rows: rows of data in it, over all processes, ``(m,)``.
    """

    step: Integers
    seconds: Floats
    steps: Integers
    rows: Integers

    @property
    def step_time(self) -> Series:
        """Seconds for each step, over time."""
        return Series(self.step, self.seconds / np.maximum(self.steps, 1))

    @property
    def rows_per_second(self) -> Series:
        """Samples a second, over all processes."""
        return Series(self.step, self.rows / np.maximum(self.seconds, 1e-12))


@checked
@dataclass(frozen=True, repr=False)
class History:
    """The steps of a run, counted from 1.

    Attributes:
        step: ``(n,)``.
        loss: mean loss of the batch of each step, with the weights before it, ``(n,)``.
        learning_rate: of the first parameter group at each step, ``(n,)``.
        validation: validation loss, with the weights (or their averages) after a step.
        terms: for a sum of losses, each of them by name, ``(n,)``.
        gradient_norm: Euclidean norm of the whole gradient, before any clipping: at every step
            where the gradient is clipped, and otherwise at every tenth.
        by_time: the loss by time, or None where the loss does not tell the times of its rows (one
            that draws them for the whole batch does, such as a regression).
        pace: seconds, steps and rows.
    """

    step: Integers
    loss: Floats
    learning_rate: Floats
    validation: Curve
    terms: dict[str, Floats] = field(default_factory=dict)
    gradient_norm: Series = field(default_factory=lambda: Series(np.empty(0, int), np.empty(0)))
    by_time: TimeProfile | None = None
    pace: Pace = field(
        default_factory=lambda: Pace(
            np.empty(0, int), np.empty(0), np.empty(0, int), np.empty(0, int)
        )
    )

    def __len__(self) -> int:
        return len(self.step)

    def __repr__(self) -> str:
        if len(self) == 0:
            return "History(no steps)"
        shown = f"{len(self)} steps, last loss {self.loss[-1]:.4g}"
        if len(self.validation.step):
            shown += f", validation {self.validation.loss[-1]:.4g}"
        return f"History({shown})"


@checked
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
