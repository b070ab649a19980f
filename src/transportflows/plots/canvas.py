"""What all pictures share: the canvas, its colours, the range of axes, states as rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .._core.arrays import as_tensor, is_array
from .._core.checks import number, shown
from ..solve.solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "INK",
    "PALETTE",
    "SHADE",
    "as_array",
    "canvas",
    "cloud",
    "figure_class",
    "is_images",
    "legend",
    "limits_of",
    "members",
    "range_of",
    "reference_of",
    "rows_of",
    "saved",
]

PALETTE = ("#1b85cf", "#d55e00", "#009e73", "#cc79a7", "#b98a00", "#56b4e9")
INK, SHADE = "#767a80", "#9a9da3"  # of words and lines, and of what stands behind


def figure_class() -> Any:
    """Matplotlib's ``Figure``, with an error that says what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need Matplotlib: pip install 'transportflows[plot]', or matplotlib"
        ) from error
    return Figure


def canvas(
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float] = (4.5, 4.5),
    title: str = "",
    equal: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure of panels that are legible on light and dark.

    Args:
        rows: of panels.
        columns: of panels.
        size: inches of one.
        title: above all.
        equal: whether a unit is as long on both axes.
    """
    figure = figure_class()(
        figsize=(size[0] * columns, size[1] * rows), layout="constrained", facecolor="none"
    )
    figure.__dict__["_repr_png_"] = partial(_png, figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for one in axes:
        one.set_facecolor("none")
        one.tick_params(which="both", colors=INK)
        for spine in one.spines.values():
            spine.set_color(INK)
        for words in (one.title, one.xaxis.label, one.yaxis.label):
            words.set_color(INK)
        if equal:
            one.set_aspect("equal")
    if title and len(axes) == 1:
        axes[0].set_title(title)
    elif title:
        figure.suptitle(title, color=INK)
    return figure, axes


def _png(figure: Figure) -> bytes:
    """The picture that a notebook asks an object for.

    It knows Matplotlib's figures only once ``matplotlib.pyplot`` was imported, which nothing here
    does; until then the last line of a cell would show the words ``<Figure size ...>``.
    """
    file = BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()


def cloud(axes: Axes, points: Any, colour: str, *, most: float = 4.0, **how: Any) -> None:
    """Points ``(n, 2)`` or more, smaller where they are many.

    Args:
        axes: where.
        points: an array, of whose columns the first two are drawn.
        colour: of all.
        most: size of a few.
        how: more of ``scatter``.
    """
    size = min(most, 1_000 * most / max(1, len(points)))
    axes.scatter(points[:, 0], points[:, 1], s=size, c=colour, lw=0, **how)


def legend(axes: Axes, **how: Any) -> None:
    """A legend without a box, where there is something to tell."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, labelcolor=INK, **how)


def rows_of(x: Any, name: str = "x") -> Tensor:
    """States ``(n, *)`` of a solution, a tensor or an array, on the CPU, float32.

    Raises:
        TypeError: if it is none of these.
        ValueError: if it is no batch of rows.
    """
    if isinstance(x, Solution):
        if x.members is not None:
            raise ValueError(
                f"{name} is a Solution of {x.members} epsilons, (K, n, *); draw one of them,"
                " solution.x[0], or several by name where these are taken, {'ε = 0': solution.x[0],"
                " 'ε = 1': solution.x[1]}"
            )
        x = x.x
    if is_array(x):
        x = as_tensor(name, x)
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name} is a Solution, a tensor or an array, got {shown(x)}; write"
            f" torch.as_tensor({name})"
        )
    if x.ndim < 2 or x.numel() == 0:
        cure = f"; write {name}[:, None] of numbers" if x.ndim == 1 and len(x) else ""
        raise ValueError(
            f"{name} must be samples (n, *) with at least one row, got {tuple(x.shape)}{cure}"
        )
    return x.detach().float().cpu()


def saved(x: Any, t: Any) -> tuple[Tensor, Tensor | None]:
    """Saved states ``(T, n, *)`` and their times, of a solution or as they are given.

    Raises:
        ValueError: if a solution kept none, or there is another number of times.
    """
    if isinstance(x, Solution):
        if x.trajectory is None:
            raise ValueError("this Solution kept no states; write sample(..., save_at=8)")
        if x.members is not None:
            raise ValueError(
                f"this Solution is of {x.members} epsilons, (T, K, n, *); give the states of one:"
                " solution.trajectory[:, 0], solution.saved_at"
            )
        x, t = x.trajectory, x.saved_at if t is None else t
    x = rows_of(x, "trajectory")
    if x.ndim < 3:
        raise ValueError(f"saved states are (T, n, *), got {tuple(x.shape)}")
    if t is None:
        return x, None
    times = torch.as_tensor(t).detach().double().cpu()
    if tuple(times.shape) != tuple(x.shape[:1]):
        raise ValueError(f"t has a time for each of {len(x)} states, got {tuple(times.shape)}")
    return x, times


def members(x: Any, name: str = "x") -> dict[str, Tensor]:
    """Several batches by name, of one event shape; a single one has no name."""
    if not isinstance(x, Mapping):
        return {"": rows_of(x, name)}
    if not x:
        raise ValueError(f"{name} is an empty mapping; give one batch by name, or more")
    found = {str(key): rows_of(value, f"{name}[{key!r}]") for key, value in x.items()}
    shapes = {value.shape[1:] for value in found.values()}
    if len(shapes) > 1:
        raise ValueError(f"events differ in shape: {', '.join(str(tuple(s)) for s in shapes)}")
    return found


def reference_of(reference: Any, event: torch.Size, name: str = "reference") -> Tensor | None:
    """Data ``(m, *)`` of the event shape of what is drawn before them, or None.

    Raises:
        ValueError: if they are of another event shape.
    """
    if reference is None:
        return None
    found = rows_of(reference, name)
    if found.shape[1:] != event:
        raise ValueError(
            f"{name} must be data (m, *) of the event shape {tuple(event)} of the samples, got"
            f" {tuple(found.shape)}"
        )
    return found


def as_array(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers as an array, float64."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    return np.asarray(value, dtype=np.float64)


def is_images(event: torch.Size) -> bool:
    """Whether events of a shape are drawn as images."""
    return (len(event) == 3 and event[0] in (1, 3)) or (len(event) == 2 and min(event) > 1)


def limits_of(given: Any) -> tuple[float, float]:
    """Limits ``(low, high)`` that were given.

    Raises:
        TypeError: if they are no pair.
        ValueError: unless low < high.
    """
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(f"limits are (low, high), got {shown(given)}")
    low, high = (number(f"limits[{k}]", one) for k, one in enumerate(given))
    if not low < high:
        raise ValueError(f"limits are (low, high) with low < high, got {low:g} and {high:g}")
    return low, high


def range_of(x: Tensor) -> tuple[float, float]:
    """Where 99 % of the values are, and a little more."""
    values = x.flatten()[:1_000_000]
    values = values[values.isfinite()]
    if len(values) == 0:
        return -1.0, 1.0
    low, high = torch.quantile(values, torch.tensor([0.005, 0.995])).tolist()
    room = 0.05 * (high - low) if high > low else 1.0
    return low - room, high + room
