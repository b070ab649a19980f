"""TODO docstring."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from .noise import NoiseSource
from .rows import Rows

__all__ = ["Stepper"]


class Stepper(ABC):
    """How rows get from one time of a grid to the next.

    Attributes:
        name: of the scheme.
        groups: number of epsilons; rows come in as many equal groups.
        window: stretches of time whose steps were made with ε = 0, once tabulated.
        margin: distances from both ends within which the field is evaluated at the margin.
        nfe: evaluations of the field for each sample over the whole grid, once tabulated.
    """

    name: str
    groups: int = 1
    window: tuple[tuple[float, float], ...] | None = None
    margin: tuple[float, float] = (0.0, 0.0)
    nfe: int = 0

    @abstractmethod
    def tabulate(self, times: Tensor, like: Tensor) -> bool:
        """Prepare for the steps of a grid, float64 ``(steps + 1,)``, of states like ``like``.

        Returns:
            Whether the steps take noise.
        """

    def memory(self) -> Any:
        """What a chunk of rows carries from step to step; a new one for each chunk."""
        return None

    def draw(self, step: int, t0: float, t1: float, noise: NoiseSource) -> tuple[Tensor, ...]:
        """Draw the noise of a step, of all samples at once; called only where steps take noise."""
        return ()

    @abstractmethod
    def step(
        self, step: int, x: Tensor, rows: Rows, draws: tuple[Tensor, ...], memory: Any
    ) -> Tensor:
        """Move a chunk: states ``(rows, *)`` and what was drawn for them; x is not changed."""
