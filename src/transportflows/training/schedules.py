r"""Learning rates by name: the factor of each step, a function of the step alone.

Step n of N, counted from 0, has the rate ``lr · w(n) · f(n)`` with the warm-up
``w(n) = min(1, (n + 1) / W)`` over W steps, and f from the schedule. Since nothing is carried from
step to step, a resumed run needs no state for it. Torch's schedulers serve as well, by argument.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from .._core.built import Built
from .._core.checks import positive_number
from .._core.signatures import checked
from .._core.spelling import spelled_call

__all__ = [
    "SCHEDULES",
    "ConstantRate",
    "CosineRate",
    "RateSchedule",
    "StepRate",
    "as_schedule",
    "first_rate",
]


@checked
class RateSchedule(Built, ABC):
    """A factor of the learning rate for each step.

    Args:
        warmup: W, steps over which the rate rises from ``lr / W`` to ``lr``; 0 for none.

    Raises:
        ValueError: if the warmup is no number of steps.
    """

    _sets: ClassVar[tuple[str, ...]] = ("warmup",)

    def __init__(self, *, warmup: int = 0) -> None:
        if warmup < 0:
            raise ValueError(f"warmup is a number of steps, got {warmup}")
        self.warmup = warmup

    def __repr__(self) -> str:
        return spelled_call(self)

    @abstractmethod
    def decay(self, step: int, last: int) -> float:
        """f: the factor without the warm-up.

        Args:
            step: counted from 0.
            last: how many steps there will be when the fit ends.
        """

    def factor(self, step: int, last: int) -> float:
        """The factor of a step, counted from 0."""
        rise = 1.0 if step >= self.warmup else (step + 1) / self.warmup
        return rise * self.decay(step, last)


@checked
class ConstantRate(RateSchedule):
    """``f = 1``: with a warm-up, or none."""

    def decay(self, step: int, last: int) -> float:
        return 1.0


@checked
class CosineRate(RateSchedule):
    r"""``f = m + ½ (1 - m) (1 + cos(π n / N))``: from 1 down to ``m`` (Loshchilov & Hutter 2017).

    n and N count from the end of the warm-up.

    Args:
        floor: m, in [0, 1].
        steps: where it ends, warm-up included, and the rate stays; by default where the fit ends,
            so a second fit raises the rate again, and stretches it to its own end.
        warmup: see :class:`RateSchedule`.

    Raises:
        ValueError: if the floor is not in [0, 1], or the steps end within the warmup.
    """

    def __init__(self, floor: float = 0.0, *, steps: int | None = None, warmup: int = 0) -> None:
        super().__init__(warmup=warmup)
        if not 0 <= floor <= 1:
            raise ValueError(f"floor is a part of the learning rate, in [0, 1], got {floor}")
        if steps is not None and steps <= warmup:
            raise ValueError(f"the cosine ends after {steps} steps, within its warmup of {warmup}")
        self.floor, self.steps = floor, steps

    def decay(self, step: int, last: int) -> float:
        whole = (last if self.steps is None else self.steps) - self.warmup
        done = min(max(step - self.warmup, 0) / max(whole, 1), 1.0)
        return self.floor + 0.5 * (1 - self.floor) * (1 + math.cos(math.pi * done))


@checked
class StepRate(RateSchedule):
    """``f = q^⌊n / k⌋``: times q every k steps; or times q at each of some steps.

    Args:
        every: k, or the steps at which the rate falls.
        factor: q, positive.
        warmup: see :class:`RateSchedule`.

    Raises:
        ValueError: if ``every`` is neither a number of steps nor a list of them.
    """

    def __init__(
        self, every: int | Sequence[int] = 1_500, factor: float = 0.5, *, warmup: int = 0
    ) -> None:
        super().__init__(warmup=warmup)
        factor = positive_number("factor", factor)
        single = isinstance(every, numbers.Real) or not isinstance(every, Sequence)
        at: list[Any] = [every] if single or isinstance(every, str) else list(every)  # type: ignore[arg-type]
        if not all(isinstance(n, numbers.Integral) and int(n) > 0 for n in at):
            raise ValueError(
                f"every is a number of steps, or a list of them, each at least 1, got {every!r}"
            )
        self.every: int | list[int] = int(at[0]) if single else [int(n) for n in at]
        self.by = factor

    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this schedule."""
        return {"every": self.every, "factor": self.by, "warmup": self.warmup}

    def decay(self, step: int, last: int) -> float:
        if isinstance(self.every, int):
            return float(self.by ** (step // self.every))
        return float(self.by ** sum(step >= n for n in self.every))


SCHEDULES: dict[str, type[Any]] = {"constant": ConstantRate, "cosine": CosineRate, "step": StepRate}


def as_schedule(name: str, warmup: int) -> RateSchedule:
    """A schedule by its name, with its defaults."""
    if name not in SCHEDULES:
        known = ", ".join(map(repr, SCHEDULES))
        raise ValueError(
            f"unknown scheduler {name!r}; known: {known}, a RateSchedule such as"
            " CosineRate(floor=0.1), or a torch scheduler"
        )
    schedule: RateSchedule = SCHEDULES[name](warmup=warmup)
    return schedule


def first_rate(group: dict[str, Any]) -> float | Tensor:
    """The learning rate of a group before any schedule moves it; as it is, of one that is new."""
    if "initial_lr" not in group:
        rate = group["lr"]
        group["initial_lr"] = rate.clone() if isinstance(rate, Tensor) else rate
    return group["initial_lr"]  # type: ignore[no-any-return]
