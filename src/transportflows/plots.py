"""Pictures of samples, and a callback that draws them while a run goes on.

Matplotlib is needed to draw (the ``examples`` extra brings it) and is imported when a picture is
drawn, never before. Figures are made without pyplot, so nothing of a notebook's is changed.
"""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._core.checks import check_finite_rows, choice, number, positive_integer, shown
from ._core.random import stream
from ._core.signatures import checked
from .maps.errors import MapErrors
from .samplers.sample import sample
from .training import Callback, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SamplePictures", "map_errors", "picture", "strips"]

_INK = "#1f5fa8"
_OWN = {"field", "n", "generator", "distributed"}  # what a callback gives to sample itself


@checked
def picture(
    x: Tensor, reference: Tensor | None = None, *, title: str = "", limits: Any = None
) -> Figure:
    """A figure of samples.

    Events of shape ``(H, W)``, ``(1, H, W)`` or ``(3, H, W)`` are drawn as a grid of images, of
    ``(1,)`` as a histogram, and all others as points in their first two coordinates.

    Args:
        x: samples, ``(n, *)``.
        reference: data to draw behind points and histograms, ``(m, *)``.
        title: above the picture.
        limits: for images the values that are black and white, ``(low, high)``; for points and
            histograms ``(low, high)`` of the axes. By default those of 99 % of the reference, or
            of the samples.

    Raises:
        ImportError: if Matplotlib is not there.
        ValueError: if x is no batch of samples.
    """
    figure_class = _figure_class()
    if not isinstance(x, Tensor) or x.ndim < 2 or x.shape[0] == 0:
        given = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be samples (n, *) with at least one row, got {given}")
    event = x.shape[1:]
    if reference is not None:
        tensor = isinstance(reference, Tensor)
        if not tensor or reference.shape[1:] != event or len(reference) == 0:
            raise ValueError(
                f"reference must be data (m, *) of the event shape {tuple(event)} of the samples,"
                f" got {tuple(reference.shape) if tensor else type(reference).__name__}"
            )
    x = x.detach().float().cpu()
    other = None if reference is None else reference.detach().float().cpu()
    low, high = _range(x if other is None else other) if limits is None else _limits(limits)
    if (len(event) == 3 and event[0] in (1, 3)) or (len(event) == 2 and min(event) > 1):
        return _images(figure_class, x.view(len(x), -1, *event[-2:]), title, low, high)
    figure: Figure = figure_class(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    rows, behind = x.flatten(1), None if other is None else other.flatten(1)
    axes.set_xlim(low, high)
    if rows.shape[1] == 1:
        bins = torch.linspace(low, high, 81).tolist()
        if behind is not None:
            axes.hist(behind[:, 0].numpy(), bins, density=True, color="0.8", label="reference")
        axes.hist(
            rows[:, 0].numpy(), bins, density=True, histtype="step", color=_INK, label="samples"
        )
    else:
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        for points, colour, name in ((behind, "0.8", "reference"), (rows, _INK, "samples")):
            if points is not None:
                size = min(4.0, 4_000 / len(points))
                axes.scatter(
                    points[:, 0].numpy(), points[:, 1].numpy(), s=size, c=colour, lw=0, label=name
                )
    if behind is not None:
        axes.legend(loc="upper right", markerscale=3)
    return figure


@checked
def strips(
    trajectory: Tensor, t: Tensor | None = None, *, title: str = "", limits: Any = None
) -> Figure:
    """A figure of images on their way: a row for each sample, a column for each time.

    ``solution = sample(field, 6, save_at=8)``, ``strips(solution.trajectory, solution.saved_at)``.

    Args:
        trajectory: saved states, ``(T, n, H, W)``, ``(T, n, 1, H, W)`` or ``(T, n, 3, H, W)``.
        t: their times, ``(T,)``, which are written above the columns.
        title: above the picture.
        limits: the values that are black and white, ``(low, high)``. By default those of 99 % of
            the last states.

    Raises:
        ImportError: if Matplotlib is not there.
        ValueError: if the states are no images, or there is another number of times.
    """
    figure_class = _figure_class()
    shape = tuple(trajectory.shape)
    grey = len(shape) == 4
    if not (grey or (len(shape) == 5 and shape[2] in (1, 3))) or 0 in shape:
        raise ValueError(
            "trajectory is (T, n, H, W), (T, n, 1, H, W) or (T, n, 3, H, W), got"
            f" {shape}; of several epsilon take one: trajectory[:, k]"
        )
    if t is not None and tuple(t.shape) != shape[:1]:
        raise ValueError(f"t has a time for each of {shape[0]} states, got {tuple(t.shape)}")
    x = trajectory.detach().float().cpu()
    low, high = _range(x[-1]) if limits is None else _limits(limits)
    x = (x.unsqueeze(2) if grey else x).transpose(0, 1)  # (n, T, C, H, W)
    figure = _images(figure_class, x.flatten(0, 1), title, low, high, columns=shape[0])
    if t is not None:
        (axes,) = figure.axes
        axes.set_axis_on()
        axes.set_yticks([])
        axes.xaxis.tick_top()
        places = [(k + 0.5) * (shape[-1] + 1) for k in range(shape[0])]
        axes.set_xticks(places, [f"{time:.2g}" for time in t.tolist()])
        axes.tick_params(length=0)
        axes.set_frame_on(False)
    return figure


@checked
def map_errors(errors: MapErrors, which: str = "rms", *, title: str = "") -> Figure:
    """A heat map of the errors of a flow map, s across the rows and t along the columns.

    Colours are those of the logarithm; where the map has no jump, and on the diagonal, where the
    error is 0 by form, there is none. Up to ten times the numbers are written too.

    Args:
        errors: what :func:`transportflows.maps.map_errors` found.
        which: ``"rms"`` or ``"median"``.
        title: above the picture.

    Raises:
        ImportError: if Matplotlib is not there.
    """
    figure_class = _figure_class()
    from matplotlib.colors import LogNorm

    choice("which", which, ("rms", "median"))
    values = getattr(errors, which).double().clone().cpu()
    values[~(values > 0)] = math.nan
    known = values[values.isfinite()]
    low, high = (float(known.min()), float(known.max())) if len(known) else (1.0, 1.0)
    figure: Figure = figure_class(figsize=(5.4, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    norm = LogNorm(low, high if high > low else 10 * low)
    image = axes.imshow(values.numpy(), norm=norm, cmap="viridis")
    label = f"{'rms' if which == 'rms' else 'median'} error over the scale of the data"
    figure.colorbar(image, ax=axes, label=label)
    names = [f"{time:.3g}" for time in errors.times.tolist()]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("t, to go to")
    axes.set_ylabel("s, of x")
    if len(names) <= 10:
        for i, row in enumerate(values.tolist()):
            for j, value in enumerate(row):
                if math.isfinite(value):
                    ink = "white" if value < math.sqrt(low * high) else "black"
                    axes.text(j, i, f"{value:.2g}", ha="center", va="center", color=ink, size=8)
    return figure


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need Matplotlib: pip install 'transportflows[examples]', or matplotlib"
        ) from error
    return Figure


def _limits(given: Any) -> tuple[float, float]:
    """The limits of axes that were given."""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(f"limits are (low, high), got {shown(given)}")
    low, high = (number(f"limits[{k}]", one) for k, one in enumerate(given))
    if not low < high:
        raise ValueError(f"limits are (low, high) with low < high, got {low:g} and {high:g}")
    return low, high


def _range(x: Tensor) -> tuple[float, float]:
    """Where 99 % of the values are, and a little more."""
    values = x.flatten()[:1_000_000]
    values = values[values.isfinite()]
    if len(values) == 0:
        return -1.0, 1.0
    low, high = torch.quantile(values, torch.tensor([0.005, 0.995])).tolist()
    room = 0.05 * (high - low) if high > low else 1.0
    return low - room, high + room


def _images(
    figure_class: Any, x: Tensor, title: str, low: float, high: float, columns: int | None = None
) -> Figure:
    columns = math.ceil(math.sqrt(len(x))) if columns is None else columns
    rows = math.ceil(len(x) / columns)
    channels, height, width = x.shape[1:]
    sheet = torch.full((channels, rows * (height + 1) + 1, columns * (width + 1) + 1), float(low))
    for k, image in enumerate(x):
        top, left = k // columns * (height + 1) + 1, k % columns * (width + 1) + 1
        sheet[:, top : top + height, left : left + width] = image
    shown = ((sheet - low) / (high - low)).clamp(0, 1).permute(1, 2, 0)
    figure: Figure = figure_class(figsize=(5, 5 * rows / columns + 0.3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_axis_off()
    axes.imshow(shown.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    return figure


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
        _figure_class()  # better to fail now than after a thousand steps
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
