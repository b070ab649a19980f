"""Steppers: what moves the states over a step.

The loop (:mod:`transportflows.solve.loop`) knows grids, noise, chunks, saves and hooks; a
:class:`Stepper` knows how a chunk of rows gets from one time to the next. One-step schemes,
multistep methods, Langevin dynamics and particle flows are steppers. A stepper holds nothing of a
solve: what it tabulates for a grid is a :class:`Prepared`, and what it remembers of a chunk from
step to step is its *memory*; both are passed in, and the new memory is given back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .._core.signatures import as_is, checked
from .noise import NoiseSource

__all__ = ["Prepared", "Stepper"]


@checked
@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What a stepper has made ready for the steps of a grid; subclasses add their tables.

    Attributes:
        noisy: whether the steps take noise from a source.
        calls: evaluations of the field for each row and step.
        before: evaluations before the first step.
        limited: stretches of time whose steps have a limited ε.
        margin: distances from both ends within which the field is evaluated at the margin.
        inside: times inside steps, by step, at which the stepper gives states too.
    """

    noisy: bool = False
    calls: int = 1
    before: int = 0
    limited: tuple[tuple[float, float], ...] | None = None
    margin: tuple[float, float] = (0.0, 0.0)
    inside: Mapping[int, Sequence[float]] = field(default_factory=dict)


@checked
class Stepper(ABC):
    """How rows get from one time of a grid to the next.

    Attributes:
        name: of the scheme, as it is told in :class:`Solution`.
        groups: number of epsilons; rows come in as many equal groups.
        whole: whether a step needs all rows at once; it is then given them all, and a
            :class:`Chunks` by which it divides its calls of a network itself.
        bound: what no number in a state may reach; infinity for any finite one.
        remembers: whether what is remembered of earlier states would be wrong for states that a
            hook has changed; such hooks are then refused.

    Example:
        >>> import torch, transportflows as tpf
        >>> class Halving(Stepper):
        ...     name = "halving"
        ...     def prepare(self, times, like): return Prepared(calls=0)
        ...     def step(self, prepared, step, x, memory, rows, draws): return x / 2, None
        >>> times = torch.arange(4, dtype=torch.float64)
        >>> tpf.solve.march(Halving(), torch.ones(1, 1), times)[0].x  # 3 steps
        tensor([[0.1250]])
    """

    name: str
    groups: int = 1
    whole: bool = False
    bound: float = math.inf
    remembers: bool = False

    @abstractmethod
    def prepare(self, times: Tensor, like: Tensor) -> Prepared:
        """Make ready for the steps of a grid, float64 ``(steps + 1,)``, of states like ``like``."""

    def memory(self, prepared: Any, x: Tensor, rows: Any) -> Any:
        """What is remembered of a chunk ``(B, *)``, or of all rows, before the first step."""
        return None

    def draw(
        self, prepared: Any, step: int, t0: float, t1: float, noise: NoiseSource
    ) -> tuple[Tensor, ...]:
        """Draw the noise of a step, of all samples at once; called only where steps take noise."""
        return ()

    @abstractmethod
    def step(
        self,
        prepared: Any,
        step: int,
        x: Tensor,
        memory: Any,
        rows: Any,
        draws: tuple[Tensor, ...],
    ) -> tuple[Tensor, Any]:
        """Move a chunk over a step.

        Args:
            prepared: what :meth:`prepare` made.
            step: counted from 0.
            x: states ``(rows, *)``, not to be changed.
            memory: of the chunk.
            rows: which rows they are, a :class:`Rows`; for a whole stepper the :class:`Chunks` of
                all.
            draws: what was drawn for these rows.

        Returns:
            The states after the step, and the memory.
        """

    @as_is
    def inside(self, memory: Any) -> Sequence[Tensor]:
        """The states of a chunk at the times of ``Prepared.inside`` in the step just made."""
        return ()
