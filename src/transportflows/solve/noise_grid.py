r"""Grids spaced by noise level, for one-sided processes.

The level of a time is ``u = σ̂/β``, the σ of Karras et al. (2022): ``x'/β`` is the data with noise
of scale u. A grid that is even in a function of u asks the same of every process, whatever its
clock; few-step samplers are mostly compared on such grids.

======================  ============================================================================
spacing                 even in
======================  ============================================================================
``"karras"``            ``u^(1/ρ)`` (Karras et al. 2022, equation 5, ρ = 7)
``"logsnr"``            ``λ = -log u`` (Lu et al. 2022)
``"asinh"``             ``asinh(u/c)``: log u above the scale c of the data's details, u below
``"quadratic"``         ``√(1 - t)``, of the time and not of the level (Song, Meng & Ermon 2021)
======================  ============================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._core.checks import names, per_time
from .._core.signatures import checked
from ..process import Process
from .grid import check_grid, time_grid

__all__ = ["NOISE_SPACINGS", "noise_grid"]

NOISE_SPACINGS = ("karras", "logsnr", "asinh", "quadratic")
"""Named spacings of :func:`noise_grid`."""

_HALVINGS = 100


@checked
@torch.no_grad()
def noise_grid(
    process: Process,
    steps: int,
    *,
    spacing: str | Callable[[Tensor], Tensor] = "karras",
    rho: float = 7.0,
    scale: float = 1.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    start: float = 0.0,
    stop: float = 1.0,
) -> Tensor:
    """Return the ``steps + 1`` times of a grid that is even in the noise level u, float64.

    It begins and ends at ``start`` and ``stop``, exactly. Where u is infinite at an end, the levels
    begin at ``sigma_max``, which stands for that end; where they end at ``sigma_min`` above the
    level of the end, one last step goes there.

    Args:
        process: one-sided, with u decreasing in time.
        steps: number of steps.
        spacing: a name in :data:`NOISE_SPACINGS`, or a strictly monotone function of u, which the
            grid is even in.
        rho: ρ of ``"karras"``.
        scale: c of ``"asinh"``, in the units of the data.
        sigma_min: lowest level before the end, in the units of the data; that of ``stop`` by
            default, or 0.002 where that is 0 (``"karras"``, ``"logsnr"``).
        sigma_max: highest level; that of ``start`` by default, or 80 where that is infinite.
        start: first time, in [0, 1].
        stop: last time; below ``start`` for a grid that runs backward.

    Raises:
        ValueError: for a two-sided process, an unknown spacing, levels out of order.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
        >>> tpf.solve.noise_grid(process, 4, spacing="logsnr", sigma_min=0.01, sigma_max=100.0)
        tensor([0.0000, 0.1773, 0.8227, 0.9901, 1.0000], dtype=torch.float64)
    """
    if start > stop:
        range_of = {"sigma_min": sigma_min, "sigma_max": sigma_max, "start": stop, "stop": start}
        forward = noise_grid(process, steps, spacing=spacing, rho=rho, scale=scale, **range_of)  # type: ignore[arg-type]
        return forward.flip(0)
    if spacing == "quadratic":
        return time_grid(steps, start=start, stop=stop, spacing="late")
    whole = time_grid(steps, start=start, stop=stop)  # checks steps, start and stop
    part = process.part
    ends = whole[[0, -1]].to(part.device)
    high, low = (part.scale(ends) / part.path.beta(ends)).tolist()
    reaches = spacing not in ("karras", "logsnr")  # the level 0
    top = (high if math.isfinite(high) else 80.0) if sigma_max is None else float(sigma_max)
    bottom = (low if low > 0 or reaches else 0.002) if sigma_min is None else float(sigma_min)
    even_in = _function(spacing, rho, scale)
    if not (low <= bottom < top <= high and bottom >= 0):
        raise ValueError(
            f"the levels must go from sigma_max down to sigma_min, within those of the process,"
            f" {high:g} to {low:g} from t = {start:g} to {stop:g}; got {top:g} and {bottom:g}"
        )
    # One more level stands for the end itself where the levels stop short of it.
    extra = bottom > low
    if extra and steps < 2:
        raise ValueError("a grid down to sigma_min and on to the end needs at least 2 steps")
    wanted = _levels(even_in, top, bottom, steps + (0 if extra else 1))
    grid = whole.clone()
    grid[1 : len(wanted)] = part.time_of(-wanted[1:].to(part.device).log(), start, stop).cpu()
    grid[-1] = stop
    if not bool((grid.diff() > 0).all()):
        raise ValueError(
            "these levels do not lie at increasing times: σ̂/β of this process does not decrease,"
            f" or steps are too close to tell apart (sigma_min = {bottom:g}); use time_grid, or"
            " a larger sigma_min"
        )
    return check_grid(grid)


def _function(
    spacing: str | Callable[[Tensor], Tensor], rho: float, scale: float
) -> Callable[[Tensor], Tensor]:
    """The function of u in which a spacing is even."""
    if not isinstance(spacing, str):
        return lambda u: per_time("spacing(u)", spacing(u), u).to(u)
    if spacing not in NOISE_SPACINGS:
        raise ValueError(
            f"unknown spacing {spacing!r}; known: {names(NOISE_SPACINGS)}, or a function of u;"
            " time_grid has the spacings of time"
        )
    if not (0 < rho < math.inf and 0 < scale < math.inf):
        raise ValueError(f"rho and scale must be positive and finite, got rho={rho}, scale={scale}")
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "karras": lambda u: u ** (1 / rho),
        "logsnr": torch.log,
        "asinh": lambda u: torch.asinh(u / scale),
    }
    return functions[spacing]


def _levels(spacing: Callable[[Tensor], Tensor], top: float, bottom: float, count: int) -> Tensor:
    """Levels from top to bottom that are even in a spacing, by bisection in log u (or u)."""
    first, last = spacing(torch.tensor([top, bottom], dtype=torch.float64))
    if not bool(torch.isfinite(first - last)) or bool(first == last):
        raise ValueError(
            f"the spacing is {float(first):g} and {float(last):g} at the levels {top:g} and"
            f" {bottom:g}; it must be finite and monotone between them. Give another sigma_min"
        )
    values = first + (last - first) * torch.linspace(0, 1, count, dtype=torch.float64)
    low, high = torch.full_like(values, bottom), torch.full_like(values, top)
    rising = bool(spacing(high[:1]) > spacing(low[:1]))
    for _ in range(_HALVINGS):
        geometric = (low * high).sqrt()
        middle = torch.where(low > 0, geometric, 0.5 * (low + high))
        above = spacing(middle) > values if rising else spacing(middle) < values
        high, low = torch.where(above, middle, high), torch.where(above, low, middle)
    found = 0.5 * (low + high)
    found[0], found[-1] = top, bottom
    return found
