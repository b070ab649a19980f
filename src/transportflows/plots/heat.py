"""Heat maps: numbers on a grid of two times, or of any two things."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .._core.checks import choice
from .._core.signatures import checked
from ..maps.errors import MapErrors
from .canvas import INK, as_array, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["heat_map"]


@checked
def heat_map(
    values: Any,
    rows: Sequence[Any] | None = None,
    columns: Sequence[Any] | None = None,
    *,
    which: str = "rms",
    labels: Sequence[str] = ("", "", ""),
    logarithmic: bool = True,
    title: str = "",
) -> Figure:
    """A heat map of numbers, such as the errors of a flow map: s by rows, t by columns.

    Where there is no number, or none above 0 on the logarithmic scale, there is no colour. Up to
    ten by ten the numbers are written too.

    Args:
        values: ``(R, C)``; or what :func:`transportflows.maps.map_errors` found.
        rows: what each row is; its number if None.
        columns: what each column is.
        which: of the errors of a map, ``"rms"`` or ``"median"``.
        labels: of the rows, of the columns, and of the colours.
        logarithmic: colours by the logarithm.
        title: above the picture.

    Raises:
        ImportError: if Matplotlib is not there.
        ValueError: if the numbers are no table, or there are other rows or columns than names.
    """
    if isinstance(values, MapErrors):
        choice("which", which, ("rms", "median"))
        rows = columns = [f"{time:.3g}" for time in values.times.tolist()]
        labels = ("s, of x", "t, to go to", f"{which} error over the scale of the data")
        values = getattr(values, which)
    if len(labels) != 3:
        raise ValueError(f"labels are three, of the rows, columns and colours, got {len(labels)}")
    table = torch.from_numpy(as_array(values).copy())
    if table.ndim != 2 or table.numel() == 0:
        raise ValueError(f"values are a table (rows, columns), got shape {tuple(table.shape)}")
    names = [
        [str(k) for k in range(size)] if given is None else [str(one) for one in given]
        for given, size in ((rows, table.shape[0]), (columns, table.shape[1]))
    ]
    if [len(names[0]), len(names[1])] != list(table.shape):
        raise ValueError(
            f"got {len(names[0])} rows and {len(names[1])} columns for numbers of shape"
            f" {tuple(table.shape)}"
        )
    figure, (axes,) = canvas(size=(5.4, 4.5), title=title)
    from matplotlib.colors import LogNorm, Normalize

    if logarithmic:
        table[~(table > 0)] = math.nan
    known = table[table.isfinite()]
    low, high = (float(known.min()), float(known.max())) if len(known) else (1.0, 1.0)
    top = high if high > low else (10 * low if logarithmic else low + 1)
    image = axes.imshow(
        table.numpy(), norm=(LogNorm if logarithmic else Normalize)(low, top), cmap="viridis"
    )
    bar = figure.colorbar(image, ax=axes)
    bar.set_label(labels[2], color=INK)
    bar.ax.tick_params(which="both", colors=INK)
    axes.set_xticks(range(len(names[1])), names[1])
    axes.set_yticks(range(len(names[0])), names[0])
    axes.set_ylabel(labels[0])
    axes.set_xlabel(labels[1])
    if max(table.shape) <= 10:
        middle = math.sqrt(low * high) if logarithmic else (low + high) / 2
        for i, row in enumerate(table.tolist()):
            for j, value in enumerate(row):
                if math.isfinite(value):
                    ink = "white" if value < middle else "black"
                    axes.text(j, i, f"{value:.2g}", ha="center", va="center", color=ink, size=8)
    return figure
