"""States on their way: marginals at several times, paths, and a film."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._core.checks import number, positive_integer
from .._core.signatures import checked
from .canvas import (
    INK,
    PALETTE,
    SHADE,
    canvas,
    cloud,
    is_images,
    limits_of,
    range_of,
    reference_of,
    saved,
)
from .pictures import draw_points, sheet

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

__all__ = ["animate", "strip", "trajectories"]


@checked
def strip(
    x: Any, t: Any = None, *, reference: Any = None, title: str = "", limits: Any = None
) -> Figure:
    """A figure of states on their way, a column for each time.

    Images have a row for each sample; points and histograms are the marginal law, a panel for each
    time: ``strip(sample(field, 2_000, save_at=6))``.

    Args:
        x: a Solution with saved states, or these, ``(T, n, *)``, tensor or array; of several ε
            take one, ``trajectory[:, k]``.
        t: their times, ``(T,)``, which are written above the columns; those of the Solution.
        reference: data to draw behind points and histograms, ``(m, *)``.
        title: above the picture.
        limits: the values that are black and white, or where axes begin and end, ``(low, high)``.
            By default those of 99 % of the last states.

    Raises:
        ImportError: if Matplotlib is not there.
        ValueError: if nothing was saved, or there is another number of times.
    """
    states, times = saved(x, t)
    low, high = range_of(states[-1]) if limits is None else limits_of(limits)
    names = [f"{k}" if times is None else f"{times[k]:.2g}" for k in range(len(states))]
    event = states.shape[2:]
    if not is_images(event) and len(states) > 60:
        raise ValueError(
            f"a strip has a panel for each of {len(states)} times, and at most 60 fit: write"
            " sample(..., save_at=8), or trajectory[::10]; animate(solution) shows them all"
        )
    if not is_images(event):
        behind = reference_of(reference, event)
        figure, panels = canvas(columns=len(states), size=(2.2, 2.8), title=title)
        for k, axes in enumerate(panels):
            draw_points(axes, states[k], behind, low, high, told=False)
            axes.set_title(f"t = {names[k]}" if times is not None else names[k])
            axes.set_yticks([])
        return figure
    rows = states.view(*states.shape[:2], -1, *event[-2:]).transpose(0, 1)  # (n, T, C, H, W)
    figure, axes = sheet(rows.flatten(0, 1), title, low, high, columns=len(states))
    if times is not None:
        axes.set_axis_on()
        axes.set_yticks([])
        axes.xaxis.tick_top()
        places = [(k + 0.5) * (event[-1] + 1) for k in range(len(states))]
        axes.set_xticks(places, names)
        axes.tick_params(length=0, colors=INK)
        axes.set_frame_on(False)
    return figure


@checked
def trajectories(
    x: Any,
    t: Any = None,
    *,
    n: int = 100,
    reference: Any = None,
    title: str = "",
    limits: Any = None,
) -> Figure:
    """A figure of the paths of some samples, from light points to dark ones.

    Events of one number are drawn against time, all others in their first two coordinates.

    Args:
        x: a Solution with saved states, or these, ``(T, n, *)``.
        t: their times, ``(T,)``.
        n: how many paths.
        reference: data to draw behind them, ``(m, *)``; those of one number at the last time.
        title: above the picture.
        limits: ``(low, high)`` of the axes of x.

    Raises:
        ImportError: if Matplotlib is not there.
        ValueError: if nothing was saved, or there is another number of times.
    """
    states, times = saved(x, t)
    rows = states[:, : positive_integer("n", n)].flatten(2)
    low, high = range_of(states) if limits is None else limits_of(limits)
    flat = rows.shape[2] == 1
    figure, (axes,) = canvas(title=title, equal=not flat, size=(6, 4) if flat else (4.5, 4.5))
    axes.set_ylim(low, high)
    behind = reference_of(reference, states.shape[2:])
    if flat:
        when = torch.linspace(0, 1, len(rows)) if times is None else times
        axes.plot(when.numpy(), rows[:, :, 0].numpy(), color=PALETTE[0], lw=0.7, alpha=0.5)
        axes.set_xlabel("t")
        if behind is not None:
            last = torch.stack([when[-1].expand(len(behind)), behind.flatten()], 1)
            cloud(axes, last.numpy(), SHADE, most=8.0, zorder=3)
        return figure
    axes.set_xlim(low, high)
    if behind is not None:
        cloud(axes, behind.flatten(1).numpy(), SHADE)
    axes.plot(rows[:, :, 0].numpy(), rows[:, :, 1].numpy(), color=SHADE, lw=0.6, alpha=0.6)
    for states_at, colour in ((rows[0], PALETTE[5]), (rows[-1], PALETTE[0])):
        axes.scatter(
            states_at[:, 0].numpy(), states_at[:, 1].numpy(), s=6, c=colour, lw=0, zorder=3
        )
    return figure


@checked
def animate(
    x: Any,
    t: Any = None,
    *,
    path: str | os.PathLike[str] | None = None,
    fps: int = 20,
    hold: float = 1.0,
    reference: Any = None,
    limits: Any = None,
    background: str = "white",
) -> FuncAnimation:
    """A film of states on their way: points, histograms, or the first 64 images.

    Args:
        x: a Solution with saved states, or these, ``(T, n, *)``; a frame for each time.
        t: their times, ``(T,)``.
        path: where it is written: a ``.gif`` (by Pillow), or a ``.mp4`` (where ffmpeg is
            installed). Without one, ``film.to_jshtml()`` shows it in a notebook.
        fps: frames a second.
        hold: seconds that the last frame stays.
        reference: data to draw behind points and histograms, ``(m, *)``.
        limits: as in :func:`strip`.
        background: a colour; films have no transparency.

    Raises:
        ImportError: if Matplotlib is not there.
        ValueError: if nothing was saved, there is another number of times, or a file has another
            suffix.
    """
    states, times = saved(x, t)
    low, high = range_of(states[-1]) if limits is None else limits_of(limits)
    fps, hold = positive_integer("fps", fps), number("hold", hold, "seconds", least=0)
    writer = None if path is None else _writer(Path(path), fps)
    images = is_images(states.shape[2:])
    behind = None if images else reference_of(reference, states.shape[2:])
    if images:
        states = states[:, :64].view(len(states), -1, *_planes(states))
        figure, axes = sheet(states[0], "", low, high)
    else:
        figure, (axes,) = canvas(equal=states[0, 0].numel() > 1)
    figure.set_facecolor(background)
    from matplotlib.animation import FuncAnimation
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)

    def draw(frame: int) -> list[Any]:
        k = min(frame, len(states) - 1)
        if images:
            shown = sheet(states[k], "", low, high)[1].images[0].get_array()
            axes.images[0].set_data(shown)
        else:
            axes.clear()
            draw_points(axes, states[k], behind, low, high, told=False)
        axes.set_title("" if times is None else f"t = {times[k]:.2f}", color=INK)
        return []

    frames = len(states) + round(hold * fps)
    film = FuncAnimation(figure, draw, frames=frames, interval=1_000 / fps, blit=False)
    if writer is not None:
        film.save(os.fspath(path), writer=writer)  # type: ignore[arg-type]
    return film


def _planes(states: Tensor) -> tuple[int, int, int]:
    """Channels, height and width of saved images."""
    event = states.shape[2:]
    return (event[0] if len(event) == 3 else 1, int(event[-2]), int(event[-1]))


def _writer(path: Path, fps: int) -> Any:
    """What writes a film of a suffix."""
    from matplotlib import animation

    if path.suffix == ".gif":
        return animation.PillowWriter(fps=fps)
    if path.suffix != ".mp4":
        raise ValueError(f"a film is a .gif or a .mp4, got {path.name!r}")
    if not animation.FFMpegWriter.isAvailable():
        raise ValueError("a .mp4 takes ffmpeg, which is not installed; write a .gif")
    return animation.FFMpegWriter(fps=fps)
