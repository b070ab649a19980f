"""Where a trainer's batches come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from .._core.condition import Condition
from .._core.signatures import checked
from ..draws import Batch

__all__ = ["Source"]


@checked
class Source(ABC):
    """Batches for the steps of a run, checked, in the field's units and on its device.

    The processes of a data-parallel run all get the whole batch of a step, the same one.

    Attributes:
        batch_size: rows of every batch; None where the data decide it.
        names: of the conditions, as far as they were told.
        by_step: whether a batch is a function of the step, and may be asked for before its turn.
        conditions: what the conditions are like that the batches carry, by name, as far as they
            have been read; another mapping where a batch brought something new.
    """

    batch_size: int | None
    names: tuple[str, ...] = ()
    by_step: bool = True
    conditions: Mapping[str, Condition] = {}

    @abstractmethod
    def open(self, key: int, step: int = 0, state: Any = None) -> None:
        """Make ready for the batch of ``step`` and those after it.

        Args:
            key: the key of the run.
            step: counted from 0.
            state: what ``state`` gave when that batch was the next; None if there was none.
        """

    @abstractmethod
    def batch(self, step: int, last: int | None = None) -> Batch:
        """The batch of a step, counted from 0; asked for in the order of the steps.

        Args:
            step: the step.
            last: a step from which on none will be asked for.
        """

    @abstractmethod
    def chunks(self, size: int) -> Iterator[Batch]:
        """All rows once, in their own order, in batches of at most ``size``: for a validation."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the data are, so that a resumed run can tell whether they are the same."""

    def state(self) -> Any:
        """Where the source is, after the last batch that it gave; None if steps tell it."""
        return None

    def close(self) -> None:  # noqa: B027 (most have nothing to close)
        """No more batches are wanted for now."""
