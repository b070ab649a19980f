"""A callback that draws samples while a run goes on."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .._core.checks import check_finite_rows, positive_integer
from .._core.random import stream
from .._core.signatures import checked
from ..samplers.sample import sample
from ..training import Callback, Run
from .canvas import figure_class
from .pictures import picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SamplePictures"]

_OWN = {"field", "n", "generator", "distributed"}  # what a callback gives to sample itself


@checked
class SamplePictures(Callback):
    """Sample every so many steps, and write a picture: ``samples-000005000.png``.

    The averages are used if the trainer keeps any. The seed is the same each time, so pictures
    differ by what was learned; training is not disturbed. Under ``torchrun`` the processes share
    the rows.

    Args:
        folder: where pictures go; it is made if it is not there.
        every: steps between pictures.
        n: samples in a picture.
        reference: data to draw behind them, ``(m, *)``.
        options: arguments of :func:`transportflows.sample`, for one ε, such as
            ``{"epsilon": 0.5, "steps": 50}``.
        draw: a function of the samples that gives a figure; :func:`picture` by default.

    Raises:
        ValueError: if an option is none of ``sample``, or the reference not finite rows.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int = 1_000,
        n: int = 64,
        reference: Tensor | None = None,
        options: Mapping[str, Any] | None = None,
        draw: Callable[[Tensor], Figure] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.every, self.n = positive_integer("every", every), positive_integer("n", n)
        if reference is not None:
            check_finite_rows(reference, "reference")
        self.reference, self.draw = reference, draw
        self.options = {"steps": 50, **(options or {})}
        known = set(inspect.signature(sample).parameters) - _OWN
        if unknown := sorted(self.options.keys() - known):
            raise ValueError(
                f"options are arguments of sample, and {unknown} are none that can be given here;"
                f" known: {sorted(known)}"
            )

    def on_start(self, trainer: Run) -> None:
        figure_class()  # better to fail now than after a thousand steps
        if trainer.world.first:
            self.folder.mkdir(parents=True, exist_ok=True)

    def on_step(self, trainer: Run) -> None:
        with trainer.evaluating() as field:
            x = sample(field, self.n, generator=stream(0), distributed=True, **self.options).x
        if not trainer.world.first:
            return
        if self.draw is None:
            figure = picture(x, self.reference, title=f"step {trainer.step:,}")
        else:
            figure = self.draw(x)
        path = self.folder / f"samples-{trainer.step:09d}.png"
        try:
            figure.savefig(path, dpi=120)
        except OSError as error:
            warnings.warn(f"{path} was not written ({error}); the run goes on", stacklevel=2)
