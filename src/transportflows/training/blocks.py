"""What several steps draw, made at once, where a step is so small that asking costs the most.

The steps are drawn for in blocks that begin at fixed numbers of steps, so that the numbers of a
step are a function of the key and the step, to the last bit, wherever a fit begins or ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .._core.conditions import map_rows
from .._core.random import mix, stream
from ..draws import Batch, PathSample
from ..losses.blocks import draw_blocks, draws_in_blocks
from .ahead import STEPS, Drawn, draws_alone
from .callbacks import Callback
from .epochs import Epochs
from .run import Run
from .source import Source

__all__ = ["Blocks", "blocks_of"]

_STEPS = 32
_NUMBERS = 2**16


def blocks_of(run: Run, source: Source, callbacks: Sequence[Callback]) -> Blocks | None:
    """What draws for several steps at once for a run; None where each step draws for itself.

    Args:
        run: the run.
        source: of its batches.
        callbacks: those that are told of steps; after them a block is drawn anew.
    """
    often = any((callback.every or 1) < _STEPS for callback in callbacks)
    if often or type(source) is not Epochs or _steps_of(source) == 1 or not _together(run):
        return None
    return Blocks(run, source)


def _together(run: Run) -> bool:
    """Whether what a run draws may be drawn for several steps at once."""
    return draws_alone(run) and draws_in_blocks(run.loss, run.field)


def _steps_of(source: Epochs) -> int:
    """How many steps are drawn for at once: none but the next where a batch is large."""
    numbers = source.batch_size * max(1, source.rows.x1[:1].numel())
    return max(1, min(_STEPS, _NUMBERS // numbers))


class Blocks:
    """Draws for blocks of steps, from generators that are seeded by the steps.

    Args:
        run: what is trained; its key is known.
        source: rows of tensors.
    """

    def __init__(self, run: Run, source: Epochs) -> None:
        self.run, self.source, self.steps = run, source, _steps_of(source)
        self.generator = stream(0, device=run.parameters[0].device)
        self._able, self._number = True, -1
        self._batches: list[Batch] = []
        self._samples: list[PathSample] = []

    def forget(self) -> None:
        """Draw anew, to the same numbers if nothing has changed: somebody may have changed it."""
        self._able, self._number = _together(self.run), -1

    def take(self, step: int, last: int) -> Drawn | None:
        """What was drawn for a step; None where it is to draw for itself by now."""
        if not self._able:
            return None
        number, place = divmod(step, self.steps)
        if number != self._number:
            self._make(number)
        return self._batches[place], self._samples[place], self.generator

    def _make(self, number: int) -> None:
        first, size = number * self.steps, self.source.batch_size
        block = self.source.block(first, self.steps)
        key = self.run.key
        assert key is not None
        seeds = [mix(key, STEPS, first + k) for k in range(self.steps)]
        self._samples = draw_blocks(self.run.loss, self.run.field, block, seeds, self.generator)
        cond = map_rows(block.cond, lambda value: torch.split(value, size))
        x1 = torch.split(block.x1, size)
        self._batches = [
            Batch(x1[k], None, {n: v[k] if type(v) is tuple else v for n, v in cond.items()})
            for k in range(self.steps)
        ]
        self._number = number
