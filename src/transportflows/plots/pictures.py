"""Pictures of samples: points, histograms, sheets of images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._core.checks import positive_integer
from .._core.signatures import checked
from .canvas import (
    INK,
    PALETTE,
    SHADE,
    canvas,
    cloud,
    is_images,
    legend,
    limits_of,
    members,
    range_of,
    reference_of,
    rows_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_points", "images", "picture", "samples", "sheet"]

_LIMITS = {"uint8": (0.0, 255.0), "bool": (0.0, 1.0)}  # of pixels that are no floats


@checked
def picture(x: Any, reference: Any = None, *, title: str = "", limits: Any = None) -> Figure:
    """A figure of samples, of whatever kind they are.

    Events of shape ``(H, W)``, ``(1, H, W)`` or ``(3, H, W)`` are drawn as a sheet of
    :func:`images`, all others as :func:`samples`.

    Args:
        x: samples, ``(n, *)``: a Solution, a tensor or an array.
        reference: data to draw behind points and histograms, ``(m, *)``.
        title: above the picture.
        limits: for images the values that are black and white, ``(low, high)``; for points and
            histograms ``(low, high)`` of the axes. By default those of 99 % of the reference, or
            of the samples.

    Raises:
        ImportError: if Matplotlib is not there.
        TypeError: if x is no solution, tensor or array.
        ValueError: if x is no batch of samples, or the reference is of another shape.
    """
    rows = rows_of(x)
    if not is_images(rows.shape[1:]):
        return samples(rows, reference, title=title, limits=limits)
    behind = reference_of(reference, rows.shape[1:])
    if limits is None:
        limits = range_of(rows if behind is None else behind)
    return images(rows, title=title, limits=limits)


@checked
def samples(x: Any, reference: Any = None, *, title: str = "", limits: Any = None) -> Figure:
    """A figure of points in their first two coordinates, or of histograms for events ``(1,)``.

    Args:
        x: samples, ``(n, *)``: a Solution, a tensor or an array; or several by name,
            ``{"ε = 0": x, "ε = 1": y}``, for which there is a panel each, all of one scale.
        reference: data to draw behind them, ``(m, *)``.
        title: above the picture.
        limits: ``(low, high)`` of the axes. By default those of 99 % of the reference, or of the
            samples.

    Raises:
        ImportError: if Matplotlib is not there.
        TypeError: if x is no solution, tensor or array.
        ValueError: if x is no batch of samples, or the reference is of another shape.

    Example:
        >>> import torch, transportflows as tpf
        >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> figure = tpf.plots.samples({"x": x, "2 x": 2 * x}, reference=x)
        >>> [axes.get_title() for axes in figure.axes]
        ['x', '2 x']
    """
    found = members(x)
    first = next(iter(found.values()))
    behind = reference_of(reference, first.shape[1:])
    low, high = (
        limits_of(limits)
        if limits is not None
        else range_of(
            torch.cat([part.flatten() for part in found.values()]) if behind is None else behind
        )
    )
    flat = first[0].numel() == 1
    figure, panels = canvas(columns=len(found), title=title, equal=not flat)
    for axes, (name, rows) in zip(panels, found.items(), strict=True):
        if name:
            axes.set_title(name)
        draw_points(axes, rows, behind, low, high)
    return figure


def draw_points(
    axes: Axes, rows: Tensor, behind: Tensor | None, low: float, high: float, told: bool = True
) -> None:
    """Draw samples, and a reference behind them, as points or as histograms.

    Args:
        axes: where.
        rows: samples.
        behind: the reference.
        low: where axes begin.
        high: where they end.
        told: whether a legend says which is which.
    """
    rows, other = rows.flatten(1), None if behind is None else behind.flatten(1)
    axes.set_xlim(low, high)
    if rows.shape[1] == 1:
        bins = torch.linspace(low, high, 81).tolist()
        if other is not None:
            axes.hist(other[:, 0].numpy(), bins, density=True, color=SHADE, label="reference")
        axes.hist(
            rows[:, 0].numpy(), bins, density=True, histtype="step", color=PALETTE[0],
            label="samples",
        )  # fmt: skip
    else:
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        parts = ((other, SHADE, "reference"), (rows, PALETTE[0], "samples"))
        for points, colour, name in parts:
            if points is not None:
                cloud(axes, points.numpy(), colour, label=name)
    if other is not None and told:
        legend(axes, loc="upper right", markerscale=3)


@checked
def images(
    x: Any, *, columns: int | None = None, title: str = "", limits: Any = (-1.0, 1.0)
) -> Figure:
    """A sheet of images, row by row.

    Args:
        x: ``(n, H, W)``, ``(n, 1, H, W)`` or ``(n, 3, H, W)``: a Solution, a tensor or an array.
        columns: images in a row; as many as rows if None.
        title: above the sheet.
        limits: the values that are black and white, ``(low, high)``; None for those of 99 % of
            the pixels. Bytes are 0 to 255, and booleans 0 and 1, unless others are given.

    Raises:
        ImportError: if Matplotlib is not there.
        ValueError: if x are no images.
    """
    rows = rows_of(x)
    if limits == (-1.0, 1.0):
        limits = _LIMITS.get(str(getattr(x, "dtype", "")).removeprefix("torch."), limits)
    if not is_images(rows.shape[1:]):
        raise ValueError(
            f"images are (n, H, W), (n, 1, H, W) or (n, 3, H, W), got {tuple(rows.shape)}; vectors"
            " that are images have to be unflattened, x.unflatten(1, (1, 8, 8)), and channels that"
            " come last moved, x.permute(0, 3, 1, 2)"
        )
    low, high = range_of(rows) if limits is None else limits_of(limits)
    return sheet(rows.view(len(rows), -1, *rows.shape[-2:]), title, low, high, columns)[0]


def sheet(
    x: Tensor, title: str, low: float, high: float, columns: int | None = None
) -> tuple[Figure, Axes]:
    """Images ``(n, C, H, W)`` in rows, a pixel between them, and their axes."""
    if columns is None:
        columns = math.ceil(math.sqrt(len(x)))
    columns = positive_integer("columns", columns)
    rows = math.ceil(len(x) / columns)
    channels, height, width = x.shape[1:]
    whole = torch.full((channels, rows * (height + 1) + 1, columns * (width + 1) + 1), float(low))
    for k, image in enumerate(x):
        top, left = k // columns * (height + 1) + 1, k % columns * (width + 1) + 1
        whole[:, top : top + height, left : left + width] = image
    shown = ((whole - low) / (high - low)).clamp(0, 1).permute(1, 2, 0)
    figure, (axes,) = canvas(size=(5, 5 * rows / columns + 0.3), title=title)
    axes.set_axis_off()
    axes.title.set_color(INK)
    axes.imshow(shown.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    return figure, axes
