"""Noise levels of a one-sided process: times at which σ̂/β takes given values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.checks import positive_integer
from .._core.precision import as_wide
from .._core.signatures import checked
from ..process import Process

__all__ = ["as_levels", "geometric_levels"]

_HIGHEST = 100.0
_LOWEST = 0.01


@checked
@torch.no_grad()
def geometric_levels(
    process: Process, count: int, *, high: float | None = None, low: float | None = None
) -> Tensor:
    """Times at which the noise-to-signal ratio ``σ̂/β`` falls geometrically; float64, ``(count,)``.

    For a variance-exploding process the ratio is σ: NCSN's levels (Song & Ermon 2019).

    Args:
        process: a one-sided process, whose σ̂/β falls with time.
        count: number of levels.
        high: the first ratio; by default the one at t = 0, at most 100.
        low: the last ratio; by default the one at t = 1, at least 0.01. The defaults suit data of
            variance about 1.

    Raises:
        ValueError: if the process has no such times.

    Example:
        >>> import transportflows as tpf
        >>> geometric_levels(tpf.Process(tpf.OneSidedLinear()), 3, high=9.0, low=1 / 9)
        tensor([0.1000, 0.5000, 0.9000], dtype=torch.float64)
    """
    count = positive_integer("count", count)
    part = process.part

    def ratio(t: Tensor) -> Tensor:
        on = t.to(part.device)
        return (part.scale(on) / part.path.beta(on).abs()).cpu()

    first, last = ratio(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    high = min(first, _HIGHEST) if high is None else float(high)
    low = max(last, _LOWEST) if low is None else float(low)
    slack = 1 + 1e-9
    if not (0 < low <= high and low >= last / slack and high <= first * slack):
        raise ValueError(
            f"levels go from a high ratio of noise to signal to a low one, within the process's"
            f" own, {first:.4g} at t = 0 and {last:.4g} at t = 1; got high={high:g}, low={low:g}"
        )
    wanted = torch.exp(torch.linspace(math.log(high), math.log(low), count, dtype=torch.float64))
    times = part.time_of(-wanted.log().to(part.device)).cpu()
    if bool((times.diff() <= 0).any()) or bool((ratio(times) / wanted - 1).abs().gt(1e-4).any()):
        raise ValueError(
            f"the ratio σ̂/β of this process ({type(process.interpolant).__name__}) does not fall"
            " steadily from high to low; give the times yourself"
        )
    return times


def as_levels(process: Process, levels: int | Sequence[float] | Tensor) -> Tensor:
    """A caller's levels, or a number of geometric ones, as increasing times; float64 on the CPU."""
    if isinstance(levels, int):
        return geometric_levels(process, levels)
    times = as_wide(levels).detach().cpu()
    if times.ndim != 1 or len(times) < 1 or bool((times.diff() <= 0).any()):
        raise ValueError(
            "levels are increasing times, from much noise to little (t = 0 is the base, t = 1 the"
            f" data), got {levels}"
        )
    if not (float(times[0]) >= 0 and float(times[-1]) <= 1):
        raise ValueError(f"levels must lie in [0, 1], got {float(times[0])} .. {float(times[-1])}")
    return times
