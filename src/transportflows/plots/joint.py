"""Pictures of joint laws: pairs of a coupling, of all coordinates, calibration of posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._core.checks import positive_integer
from .._core.signatures import checked
from .canvas import (
    INK,
    PALETTE,
    SHADE,
    as_array,
    canvas,
    cloud,
    legend,
    members,
    range_of,
    rows_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["calibration", "coupling", "pairs"]


@checked
def coupling(x0: Any, x1: Any, *, n: int = 200, title: str = "") -> Figure:
    """Pairs (x0, x1) in the plane, each joined by a line: where they cross, a velocity is a mean.

    Args:
        x0: ``(n, *)``, in their first two coordinates; events of one number are drawn against time.
        x1: their partners, ``(n, *)``.
        n: how many pairs.
        title: above the picture.

    Raises:
        ImportError: if Matplotlib is not there.
        ValueError: unless x0 and x1 are of the same shape.
    """
    n = positive_integer("n", n)
    first, last = rows_of(x0, "x0"), rows_of(x1, "x1")
    if first.shape != last.shape:
        raise ValueError(f"x0 is {tuple(first.shape)} and x1 {tuple(last.shape)}; a pair is a row")
    a, b = first[:n].flatten(1).numpy(), last[:n].flatten(1).numpy()
    flat = a.shape[1] == 1
    figure, (axes,) = canvas(title=title, equal=not flat)
    if flat:
        a, b = (np.insert(part, 0, t, axis=1) for part, t in ((a, 0.0), (b, 1.0)))
        axes.set_xlabel("t")
    axes.plot([a[:, 0], b[:, 0]], [a[:, 1], b[:, 1]], color=SHADE, lw=0.6, alpha=0.7, zorder=1)
    for points, colour, name in ((a, PALETTE[1], "x0"), (b, PALETTE[0], "x1")):
        axes.scatter(points[:, 0], points[:, 1], s=8, c=colour, lw=0, label=name, zorder=2)
    legend(axes)
    return figure


@checked
def pairs(
    x: Any,
    reference: Any = None,
    *,
    names: Sequence[str] | None = None,
    most: int = 8,
    title: str = "",
) -> Figure:
    """All pairs of coordinates: histograms on the diagonal, points below it.

    Args:
        x: samples ``(n, d)``: a Solution, a tensor or an array; or several by name.
        reference: data or a true value to draw behind them, ``(m, d)``; one row is drawn as lines.
        names: of the coordinates.
        most: coordinates to draw, the first ones.
        title: above the picture.

    Raises:
        ImportError: if Matplotlib is not there.
        ValueError: if there are other names or another shape.
    """
    found = {name: part.flatten(1) for name, part in members(x).items()}
    width = next(iter(found.values())).shape[1]
    if names is not None and len(names) != width:
        raise ValueError(f"got {len(names)} names for {width} coordinates")
    behind = None if reference is None else rows_of(reference, "reference").flatten(1)
    if behind is not None and behind.shape[1] != width:
        raise ValueError(f"reference has {behind.shape[1]} coordinates, and x {width}")
    d = min(width, positive_integer("most", most))
    told = [f"x{k}" for k in range(d)] if names is None else list(names[:d])
    parts = {"reference": behind} if behind is not None and len(behind) > 1 else {}
    parts |= found
    figure, panels = canvas(d, d, size=(1.7, 1.7), title=title)
    ranges = [range_of(next(iter(parts.values()))[:, k]) for k in range(d)]
    for i in range(d):
        for j in range(d):
            axes = panels[i * d + j]
            if j > i:
                axes.set_visible(False)
                continue
            for k, (name, rows) in enumerate(parts.items()):
                points = rows.numpy()
                ink = SHADE if name == "reference" else PALETTE[(k - len(parts)) % len(found)]
                if i == j:
                    axes.hist(
                        points[:, i], np.linspace(*ranges[i], 41).tolist(), density=True, color=ink,
                        histtype="stepfilled" if name == "reference" else "step",
                        label=name or None,
                    )  # fmt: skip
                else:
                    cloud(axes, points[:, [j, i]], ink, most=3.0)
                    axes.set_ylim(ranges[i])
            if behind is not None and len(behind) == 1:
                axes.axvline(float(behind[0, j]), color=INK, lw=1)
                if i != j:
                    axes.axhline(float(behind[0, i]), color=INK, lw=1)
            axes.set_xlim(ranges[j])
            axes.tick_params(labelbottom=i == d - 1, labelleft=j == 0 and i > 0)
            if i == d - 1:
                axes.set_xlabel(told[j])
            if j == 0 and i > 0:
                axes.set_ylabel(told[i])
    panels[0].set_yticks([])
    if len(parts) > 1:
        legend(panels[0], fontsize=6)
    return figure


@checked
def calibration(
    ranks: Any, draws: int, *, names: Sequence[str] | None = None, title: str = ""
) -> Figure:
    """Simulation-based calibration: ranks of true values among draws of their posteriors.

    The ranks of a right posterior are uniform on 0 .. ``draws``, so that the curve, their empirical
    distribution less the uniform one, stays in the band in 95 % of cases (by the law of Kolmogorov
    and Smirnov). Above it at the left and below it at the right a posterior is too narrow, the
    other way about too wide; above or below it everywhere it lies too high or too low (Talts et
    al. 2018).

    Args:
        ranks: how many draws were below the true value, ``(N,)``, or ``(N, d)`` for d parameters.
        draws: of each posterior.
        names: of the parameters.
        title: above the picture.

    Raises:
        ImportError: if Matplotlib is not there.
        ValueError: if a rank is none, or there are other names.
    """
    table = as_array(ranks)
    table = table[:, None] if table.ndim == 1 else table
    draws = positive_integer("draws", draws)
    if table.ndim != 2 or len(table) == 0:
        raise ValueError(f"ranks are (N,) or (N, d), got {table.shape}")
    if not bool(((table >= 0) & (table <= draws)).all()):
        raise ValueError(f"ranks are 0 to {draws}, got {table.min():g} to {table.max():g}")
    if bool((table != np.round(table)).any()):
        raise ValueError(
            "ranks are whole numbers, how many draws were below the true value: write"
            " (draws < truth).sum(0)"
        )
    if names is not None and len(names) != table.shape[1]:
        raise ValueError(f"got {len(names)} names for {table.shape[1]} parameters")
    figure, (axes,) = canvas(size=(5.2, 3.8), title=title)
    share = (np.arange(draws + 1) + 1) / (draws + 1)
    band = 1.358 / np.sqrt(len(table))
    axes.fill_between([0, 1], -band, band, color=SHADE, alpha=0.3, lw=0, label="95 % band")
    axes.axhline(0, color=INK, lw=0.8)
    for k, column in enumerate(table.T):
        curve = np.searchsorted(np.sort(column), np.arange(draws + 1), side="right") / len(column)
        name = (
            None if names is None and table.shape[1] == 1 else str(k if names is None else names[k])
        )
        axes.plot(share, curve - share, color=PALETTE[k % len(PALETTE)], label=name)
    axes.set(xlabel="rank / draws", ylabel="share of ranks below, less uniform")
    legend(axes)
    return figure
