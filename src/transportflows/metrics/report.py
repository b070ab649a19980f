"""One report: chosen metrics of samples against a reference, beside their floors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.checks import names, shown
from .._core.random import draw_key, stream
from .._core.reprs import call_lines, summary
from .._core.samples import check_at_least, event_rows
from .._core.signatures import checked
from .characteristic import characteristic_distance
from .energy import energy_distance
from .gaussian import gaussian_wasserstein2
from .kernels import GaussianKernel, median_bandwidth
from .mmd import mmd2
from .moments import covariance_error, mean_error
from .neighbours import coverage, kl_nearest_neighbours
from .sliced import sliced_wasserstein2
from .wasserstein import wasserstein2
from .wasserstein_error import wasserstein2_error

__all__ = ["METRICS", "MetricRow", "MetricsReport", "evaluate"]

Interval = tuple[float, float]
_TRANSPORT_POINTS = 2_000
_PLAIN = 4.0  # standard errors of MMD² from which its interval is good


@checked
@dataclass(frozen=True)
class MetricRow:
    """One metric.

    MMD² and the energy distance are the V-statistics, never negative, whose bias the floor has too.

    Attributes:
        name: what it is.
        value: samples against reference.
        interval: at the report's level, or None where none is honest.
        floor: reference against reference, of the same sizes.
        points: rows of each side that were used.
        what: what the interval is for. That of MMD² is for the MMD² between the laws, about the
            unbiased estimate, and may lie below the value.
    """

    name: str
    value: float
    interval: Interval | None
    floor: float
    points: int
    what: str

    __repr__ = summary


@checked
@dataclass(frozen=True)
class MetricsReport:
    """A table of metrics; ``print`` it, take it as a dict, or plot it.

    Attributes:
        rows: one for each metric.
        level: of the intervals.
    """

    rows: tuple[MetricRow, ...]
    level: float

    def __repr__(self) -> str:
        values = [f"{row.name}={row.value:.4g}" for row in self.rows[:8]]
        more = ["..."] if len(self.rows) > 8 else []
        return call_lines(type(self).__name__, [*values, *more, f"level={self.level:g}"])

    def __getitem__(self, name: str) -> MetricRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(
            f"no metric {name!r} in this report; it has {names(r.name for r in self.rows)}"
        )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """By name: value, interval, floor and points."""
        told = ("value", "interval", "floor", "points")
        return {row.name: {key: getattr(row, key) for key in told} for row in self.rows}

    def __str__(self) -> str:
        head = ("metric", "value", f"{self.level:.0%} interval", "floor", "points")
        body = [
            (
                row.name,
                f"{row.value:.4g}",
                "" if row.interval is None else f"{row.interval[0]:.4g} to {row.interval[1]:.4g}",
                f"{row.floor:.4g}",
                f"{row.points:,}",
            )
            for row in self.rows
        ]
        widths = [max(len(line[k]) for line in (head, *body)) for k in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(w) if k == 0 else cell.rjust(w)
                for k, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in (head, *body)
        ]
        return "\n".join(line.rstrip() for line in lines)

    def plot(self, ax: Any | None = None) -> Any:
        """Draw values over their floors, with intervals, on matplotlib axes; return the axes.

        A row whose floor is not positive (a divergence may be negative, a metric of your own 0) has
        no such ratio: its numbers are written instead.

        Raises:
            ImportError: without matplotlib.
            TypeError: if ``ax`` are no axes.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                "plotting needs matplotlib; pip install matplotlib, or the extra"
                " transportflows[examples]"
            ) from error
        if ax is not None and not hasattr(ax, "plot"):
            raise TypeError(f"ax must be axes of matplotlib, got {shown(ax)}")
        if ax is None:
            ax = plt.figure(figsize=(6, 0.5 * len(self.rows) + 1)).gca()
        for k, row in enumerate(self.rows):
            unit = row.floor
            if not 0 < unit < math.inf or not math.isfinite(row.value / unit):
                ax.text(1.0, k, f" {row.value:.3g}, floor {unit:.3g}", va="center", color="C0")
                continue
            ax.plot([row.value / unit], [k], "o", color="C0")
            if row.interval is not None:
                ax.plot([end / unit for end in row.interval], [k, k], "-", color="C0")
        ax.axvline(1.0, color="0.6", linestyle="--")
        ax.set_yticks(range(len(self.rows)), [row.name for row in self.rows])
        ax.invert_yaxis()
        ax.set_xlabel("value over its floor (reference against reference)")
        return ax


@dataclass(frozen=True)
class _Metric:
    """How a metric is computed, ``(x, y, key) -> value``, and its interval, if it has one."""

    value: Callable[[Tensor, Tensor, int], float]
    interval: Callable[[Tensor, Tensor, int, float], Interval | None] | None = None
    most: int | None = None
    what: str = ""


def _mmd_value(x: Tensor, y: Tensor, key: int) -> float:
    return mmd2(x, y, kernel=GaussianKernel(median_bandwidth(y, y)), unbiased=False).value


def _mmd_interval(x: Tensor, y: Tensor, key: int, level: float) -> Interval | None:
    found = mmd2(x, y, kernel=GaussianKernel(median_bandwidth(y, y)))
    if not found.value > _PLAIN * found.standard_error:  # near equal laws it is not normal
        return None
    return found.interval(level)


def _transport_interval(x: Tensor, y: Tensor, key: int, level: float) -> Interval | None:
    if min(len(x), len(y)) < 100:
        return None
    return wasserstein2_error(x, y, generator=stream(key)).interval(level)


METRICS: Mapping[str, _Metric] = {
    "mean error": _Metric(lambda x, y, key: mean_error(x, y).value),
    "covariance error": _Metric(lambda x, y, key: covariance_error(x, y).value),
    "energy distance": _Metric(lambda x, y, key: energy_distance(x, y)),
    "MMD²": _Metric(
        _mmd_value,
        _mmd_interval,
        what="MMD² between the laws, about the unbiased estimate; the value has a bias, as the"
        " floor has",
    ),
    "characteristic distance": _Metric(
        lambda x, y, key: characteristic_distance(x, y, generator=stream(key)).value
    ),
    "sliced W2": _Metric(lambda x, y, key: sliced_wasserstein2(x, y, generator=stream(key)).value),
    "Gaussian W2": _Metric(lambda x, y, key: gaussian_wasserstein2(x, y)),
    "W2": _Metric(
        lambda x, y, key: wasserstein2(x, y),
        _transport_interval,
        most=_TRANSPORT_POINTS,
        what="mean of W2 at this number of points, bias included",
    ),
    "KL, neighbours": _Metric(lambda x, y, key: kl_nearest_neighbours(y, x)),
    "coverage": _Metric(lambda x, y, key: coverage(x, y).coverage),
    "density": _Metric(lambda x, y, key: coverage(x, y).density),
}
"""Metrics that :func:`evaluate` knows by name."""

_DEFAULT = (
    "mean error",
    "covariance error",
    "energy distance",
    "MMD²",
    "sliced W2",
    "W2",
    "coverage",
)


@checked
def evaluate(
    samples: DataLike,
    reference: DataLike,
    metrics: Sequence[str | tuple[str, Callable[[Tensor, Tensor], float]]] | None = None,
    *,
    level: float = 0.9,
    generator: torch.Generator | None = None,
) -> MetricsReport:
    r"""Return a table of metrics of samples, each beside its floor.

    The reference is cut at random into two halves of n rows (no more than there are samples); n
    samples are compared with the first half, and the second half with the first: that is the floor,
    what exact samples of this size would have shown. MMD² and the energy distance are V-statistics
    here: never negative, and biased upward by what the floor shows (the unbiased estimates have
    mean 0 for equal laws, and one of them is no floor). An interval is given where one is honest:
    for the MMD² between the laws, where its unbiased estimate is above four standard errors (it is
    about that estimate, less the bias of the value); and for the mean of W2 at this size, by
    disjoint subsamples. W2 takes at most 2,000 points.

    Args:
        samples: generated, ``(N, *)``.
        reference: draws of the true law, best not the training data, ``(M, *)``; 2N serve best.
        metrics: names from :data:`METRICS`, or pairs ``(name, function(x, y) -> float)`` of your
            own; a common choice if None.
        level: of the intervals.
        generator: source of the halves and of what the metrics draw.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if they are not finite, of different events or fewer than 20 rows, or a name is
            unknown.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> reference = torch.randn(400, 2, generator=generator)
        >>> samples = torch.randn(200, 2, generator=generator) + 1
        >>> report = evaluate(samples, reference, ["mean error", "W2"], generator=generator)
        >>> all(row.value > 3 * row.floor for row in report.rows)
        True
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    samples = as_rows("samples", samples, torch.float64, like=reference)
    x, y = event_rows(samples, reference, ("samples", "reference"))
    check_at_least(20, "a report with floors", samples=x, reference=y)
    chosen: list[tuple[str, _Metric]] = []
    for one in _DEFAULT if metrics is None else metrics:
        if isinstance(one, str):
            if one not in METRICS:
                raise ValueError(f"unknown metric {one!r}; known: {names(METRICS)}")
            chosen.append((one, METRICS[one]))
        else:
            chosen.append((one[0], _own(one[1], samples.shape[1:], samples.dtype)))
    key, n = draw_key(generator), min(len(x), len(y) // 2)
    order = torch.randperm(len(y), generator=stream(key, 0))[: 2 * n].to(y.device)
    first, second = y[order[:n]], y[order[n:]]
    x = x[torch.randperm(len(x), generator=stream(key, 1))[:n].to(x.device)]
    rows = []
    for k, (name, metric) in enumerate(chosen):
        count = n if metric.most is None else min(n, metric.most)
        a, b, c = x[:count], first[:count], second[:count]
        interval = None if metric.interval is None else metric.interval(a, b, key + k, level)
        value, floor = metric.value(a, b, key + k), metric.value(c, b, key + k)
        rows.append(MetricRow(name, value, interval, floor, count, metric.what))
    if bad := [row.name for row in rows if math.isnan(row.value)]:
        raise ValueError(f"the metrics {names(bad)} gave NaN for these samples")
    return MetricsReport(tuple(rows), level)


def _own(function: Callable[[Tensor, Tensor], float], shape: torch.Size, dtype: torch.dtype) -> Any:
    """A metric of the user's own, on events of their shape and dtype."""

    def value(x: Tensor, y: Tensor, key: int) -> float:
        return float(function(x.reshape(-1, *shape).to(dtype), y.reshape(-1, *shape).to(dtype)))

    return _Metric(value)
