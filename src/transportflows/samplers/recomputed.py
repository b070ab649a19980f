"""Steps whose inner values are computed again in the backward pass, so that none is kept.

A solve that is differentiated keeps all that its networks computed, in every step. With a stepper
of this kind it keeps the states between the steps alone, and calls each network once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .._core.shared import evaluated
from ..fields.base import Field
from ..solve.noise import NoiseSource
from ..solve.rows import Rows
from ..solve.stepper import Prepared, Stepper

__all__ = ["Recomputed"]


class Recomputed(Stepper):
    """A stepper whose steps are computed again where they are differentiated.

    Args:
        stepper: what makes the steps; they hang on nothing but what they are given.
        field: whose networks they call; they are in evaluation mode then too.
    """

    def __init__(self, stepper: Stepper, field: Field) -> None:
        self.stepper, self.field = stepper, field
        self.name, self.groups, self.whole = stepper.name, stepper.groups, stepper.whole
        self.bound, self.remembers = stepper.bound, stepper.remembers

    def prepare(self, times: Tensor, like: Tensor) -> Prepared:
        return self.stepper.prepare(times, like)

    def memory(self, prepared: Any, x: Tensor, rows: Any) -> Any:
        return self.stepper.memory(prepared, x, rows)

    def draw(
        self, prepared: Any, step: int, t0: float, t1: float, noise: NoiseSource
    ) -> tuple[Tensor, ...]:
        return self.stepper.draw(prepared, step, t0, t1, noise)

    def step(
        self,
        prepared: Any,
        step: int,
        x: Tensor,
        memory: Any,
        rows: Rows,
        draws: tuple[Tensor, ...],
    ) -> tuple[Tensor, Any]:
        told = (prepared, step, x, memory, rows, draws)
        made: tuple[Tensor, Any] = checkpoint(
            self._made, *told, use_reentrant=False, preserve_rng_state=False
        )
        return made

    def _made(self, *told: Any) -> tuple[Tensor, Any]:
        with evaluated(self.field.networks):
            return self.stepper.step(*told)

    def inside(self, memory: Any) -> Sequence[Tensor]:
        return self.stepper.inside(memory)
