"""Time grids: ``steps`` steps from one time to another, through every breakpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .._core.checks import choice, per_time, positive_integer
from .._core.precision import as_wide
from .._core.signatures import checked

__all__ = ["SPACINGS", "on_their_side", "save_times", "time_grid", "with_times"]

Spacing = Callable[[Tensor], Tensor]

SPACINGS: dict[str, Spacing] = {
    "uniform": lambda u: u,
    "early": lambda u: u.square(),
    "late": lambda u: 1 - (1 - u).square(),
    "cosine": lambda u: torch.sin(0.5 * math.pi * u).square(),
}
"""Named spacings, from [0, 1] to [0, 1]: dense nowhere, at t = 0, at t = 1, at both ends."""

_SAME = 1e-7  # times nearer than this are one, rounded to float32
_SNAP = 1e-6  # times in float32 are right to 6e-8, and sums of them to a few times that


@checked
def time_grid(
    steps: int,
    *,
    start: float = 0.0,
    stop: float = 1.0,
    spacing: str | Spacing = "uniform",
    breakpoints: Iterable[float] = (),
) -> Tensor:
    """Return the ``steps + 1`` times of ``steps`` steps, float64 on the CPU.

    A grid from ``stop`` to ``start`` is the grid from ``start`` to ``stop``, reversed: the spacing
    belongs to time, not to the direction. Breakpoints inside are met exactly: they are merged into
    the grid, and as many ordinary times dropped, each time the one that leaves the shortest step
    behind (as the spacing measures it). So there are always ``steps`` steps.

    Args:
        steps: number of steps, at least 1.
        start: first time, in [0, 1].
        stop: last time, in [0, 1], before or after ``start``.
        spacing: a name in :data:`SPACINGS`, or an increasing map of [0, 1] onto itself.
        breakpoints: times to meet.

    Raises:
        ValueError: if both ends are one or leave [0, 1], the spacing is not increasing from 0 to 1,
            or there are fewer steps than breakpoints take.

    Example:
        >>> time_grid(4, spacing="late")
        tensor([0.0000, 0.4375, 0.7500, 0.9375, 1.0000], dtype=torch.float64)
    """
    steps = positive_integer("steps", steps)
    if not (0 <= start <= 1 and 0 <= stop <= 1) or start == stop:
        raise ValueError(
            f"start and stop must be two different times in [0, 1], got {start} and {stop}"
        )
    if isinstance(spacing, str):
        by_noise = "t=tpf.solve.noise_grid(process, steps, spacing=...), which is even in noise"
        known = dict.fromkeys(("karras", "edm", "logsnr", "exponential", "asinh"), by_noise)
        known |= {"linear": "'uniform'", "quadratic": "'early'", "quad": "'early'"}
        spacing = SPACINGS[choice("spacing", spacing, SPACINGS, known)]
    low, high = min(start, stop), max(start, stop)
    even = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    unit = per_time("spacing(u)", spacing(even), even).to(even).expand(even.shape)
    grid = low + (high - low) * unit
    grid[0], grid[-1] = low, high
    if not bool((grid.diff() > 0).all()):
        raise ValueError(
            "the spacing is not increasing from 0 to 1; it must map [0, 1] onto itself"
        )
    inside = _inside(breakpoints, low, high)
    if len(inside) >= steps:
        raise ValueError(
            f"{steps} steps cannot meet the breakpoints {inside}; take at least {len(inside) + 1}"
        )
    grid = _merged(grid, inside) if inside else grid
    return grid if start < stop else grid.flip(0)


def _inside(breakpoints: Iterable[float], low: float, high: float) -> list[float]:
    """The breakpoints between two times, in order."""
    return sorted({float(b) for b in breakpoints if low + _SAME < b < high - _SAME})


def _merged(grid: Tensor, points: list[float]) -> Tensor:
    """An increasing grid through ``points``, of as many times as before."""
    places = [(float(k), t) for k, t in enumerate(grid.tolist())]  # by steps of the spacing
    new = []
    for point in points:
        k = int((grid < point).sum())
        share = (point - float(grid[k - 1])) / float(grid[k] - grid[k - 1])
        new.append((k - 1 + share, point))
    fixed = {places[0], places[-1], *new}
    places = sorted({*places, *new})
    while len(places) > len(grid):
        free = [k for k, place in enumerate(places) if place not in fixed]
        places.pop(min(free, key=lambda k: places[k + 1][0] - places[k - 1][0]))
    return torch.tensor([t for _, t in places], dtype=torch.float64)


def on_their_side(
    stages: Tensor, widths: Tensor, breakpoints: Sequence[float], dtype: torch.dtype
) -> Tensor:
    """Stage times that lie on a breakpoint, moved into their own step.

    A step ends at the left limit of a breakpoint and the next one begins at the right limit. So
    such a time moves by two units in the last place *of the states*, in whose dtype a field is
    given its time: a step aside in float64 would be rounded away there.

    Args:
        stages: ``(steps, nodes)``, float64; the first node is where the step starts.
        widths: signed widths of the steps, ``(steps,)``.
        breakpoints: times at which the dynamics is not smooth.
        dtype: of the states.
    """
    for point in breakpoints:
        aside = 2 * torch.finfo(dtype).eps * point
        near = (stages - point).abs() < aside
        middle = stages[:, :1] + 0.5 * widths[:, None]
        stages = torch.where(near, point + aside * (middle - point).sign(), stages)
    return stages


def save_times(grid: Tensor, save_at: Any) -> list[float]:
    """The times at which to save, in the order asked for; those of the grid exactly.

    Args:
        grid: monotone, float64 ``(steps + 1,)``.
        save_at: times; a number K for K equal times from the first to the last (the last, for one);
            None for no times. A time that is within 1e-6 of one of the grid (or within the
            rounding of a dtype that is coarser) is taken for it.

    Raises:
        ValueError: if a time lies outside the grid, is not finite, or K is not positive.
        TypeError: if they are no numbers.
    """
    if save_at is None:
        return []
    if isinstance(save_at, (bool, str)):
        raise TypeError(f"save_at is a list of times, or how many equal ones, got {save_at!r}")
    close = _SNAP
    if isinstance(save_at, Integral):
        count = positive_integer("save_at", int(save_at))
        first, last = float(grid[0]), float(grid[-1])
        asked = torch.linspace(first, last, count, dtype=torch.float64)
        asked[-1] = last
    else:
        given = torch.as_tensor(save_at)
        if given.is_floating_point():
            close = max(close, torch.finfo(given.dtype).eps)
        asked = as_wide(save_at).reshape(-1).cpu()
    low, high = float(grid.min()), float(grid.max())
    outside = asked[~((asked >= low - close) & (asked <= high + close))].tolist()
    if outside:
        raise ValueError(f"cannot save at {outside}: the grid spans [{low:g}, {high:g}]")
    gaps = (asked[:, None] - grid).abs()
    nearest = gaps.argmin(1)
    return torch.where(gaps.amin(1) <= close, grid[nearest], asked).tolist()


def with_times(grid: Tensor, save_at: Any) -> tuple[Tensor, list[int]]:
    """Insert times into a monotone grid where they are not in it; return it and where they are.

    Args and errors are those of :func:`save_times`.
    """
    wanted = save_times(grid, save_at)
    descending = bool(grid[0] > grid[-1])
    points = sorted({*grid.tolist(), *wanted}, reverse=descending)
    return torch.tensor(points, dtype=torch.float64), [points.index(time) for time in wanted]


def check_grid(grid: Sequence[float] | Tensor) -> Tensor:
    """Return a user's own grid as float64 on the CPU, or refuse it."""
    times = as_wide(grid).detach().cpu()
    if times.ndim != 1 or times.numel() < 2:
        raise ValueError(f"a grid is a list of at least 2 times, got shape {tuple(times.shape)}")
    steps = times.diff()
    if not bool(torch.isfinite(times).all()) or not (bool((steps > 0).all() | (steps < 0).all())):
        raise ValueError("a grid must be finite and strictly increasing or strictly decreasing")
    if float(times.min()) < 0 or float(times.max()) > 1:
        raise ValueError(
            f"grid times must lie in [0, 1], got [{float(times.min()):g}, {float(times.max()):g}]"
        )
    return times


def own_grid(t: Sequence[float] | Tensor, breakpoints: Sequence[float]) -> Tensor:
    """A caller's own grid, with the breakpoints of the path inserted, or in the place of times
    that are the same to rounding.
    """
    grid = check_grid(t)
    inside = _inside(breakpoints, float(grid.min()), float(grid.max()))
    own = [s for s in grid.tolist() if all(abs(s - b) > _SAME for b in inside)]
    return check_grid(sorted({*own, *inside}, reverse=bool(grid[0] > grid[-1])))


def as_margin(margin: Any) -> tuple[float, float] | None:
    """A caller's margins from both ends of time: None, one number for both, or a pair.

    Raises:
        ValueError: if one is negative, or they leave nothing between them.
    """
    if margin is None:
        return None
    low, high = margin if isinstance(margin, (tuple, list)) else (margin, margin)
    if not (low >= 0 and high >= 0 and low + high < 1):
        raise ValueError(f"margins must be >= 0 and sum to less than 1, got ({low}, {high})")
    return float(low), float(high)
