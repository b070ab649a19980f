"""TODO docstring."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from .rows import Rows

__all__ = ["Correction"]


class Correction(ABC):
    """What the step loop calls after each step, with the states of all rows.

    Attributes:
        name: as it is told in ``Solution.scheme``.
        nfe: evaluations of the field for each row over the whole solve, once begun.
    """

    name: str = "correction"
    nfe: int = 0

    @abstractmethod
    def begin(
        self, times: Tensor, x: Tensor, chunks: Sequence[slice], rows: Sequence[Rows], groups: int
    ) -> None:
        """Prepare for a solve.

        Args:
            times: the grid, float64, ``(steps + 1,)``.
            x: the states of one group, ``(n, *)``.
            chunks: the chunks of the states of all groups, ``(groups n, *)``, the last filled up.
            rows: what is in each.
            groups: number of groups.
        """

    @abstractmethod
    def correct(self, step: int, state: Tensor) -> Tensor:
        """The states at ``times[step + 1]``, corrected."""
