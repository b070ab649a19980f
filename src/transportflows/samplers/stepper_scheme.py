"""Schemes that bring a stepper of their own, for fields that know more than a drift."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from .._core.signatures import checked
from ..solve.epsilon import EpsilonSchedule
from ..solve.stepper import Stepper

__all__ = ["StepperScheme"]


@checked
class StepperScheme(ABC):
    """What ``sample`` takes as a scheme beside those it knows: it makes the stepper of a field.

    Its grid is that of the call, without the breakpoints of the path.

    Attributes:
        name: shown in :class:`Solution`.
    """

    name: str

    def check(self, schedules: Sequence[EpsilonSchedule]) -> None:  # noqa: B027
        """Refuse what the scheme cannot do with these ε.

        Raises:
            ValueError: says why, and what to write instead.
        """

    @abstractmethod
    def stepper(
        self, field: Any, schedules: Sequence[EpsilonSchedule], saved: Sequence[float]
    ) -> Stepper:
        """The stepper of a field.

        Args:
            field: what is sampled.
            schedules: ε of each group of rows.
            saved: times at which states are wanted, also inside of steps.

        Raises:
            TypeError: if it is none of this kind of :class:`Field`.
        """
