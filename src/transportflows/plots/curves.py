"""Curves: a run's losses, quality against calls and against ε, the coefficients of a path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._core.checks import positive_integer, shown
from .._core.signatures import checked
from ..interpolants import AffineInterpolant
from ..process import Process
from ..training import History
from .canvas import INK, PALETTE, SHADE, as_array, canvas, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["epsilon_sweep", "history", "interpolant", "quality_by_calls"]


@checked
def history(of: History, *, window: int | None = None, title: str = "") -> Figure:
    """The losses of a run; and, where they are known, the loss by time.

    Light is the loss of each step, dark its mean over a window, points are validation. The second
    panel shows where in [0, 1] the loss is large, early (light) to late (dark).

    Args:
        of: ``trainer.history``.
        window: steps of the mean; a fiftieth of the run if None.
        title: above the picture.

    Raises:
        ImportError: if Matplotlib is not there.
        ValueError: if no step was taken.

    Example:
        >>> import torch, transportflows as tpf
        >>> field = tpf.Velocity(tpf.networks.MLP(2, 8, 1), tpf.Process(tpf.VP(), shape=(2,)))
        >>> trainer = tpf.Trainer(field)
        >>> _ = trainer.fit(torch.zeros(64, 2), steps=120, progress=False)
        >>> len(tpf.plots.history(trainer.history).axes)
        2
    """
    if len(of) == 0:
        raise ValueError("this history has no steps; fit first")
    profile = of.by_time
    timed = profile is not None and len(profile.step) > 0
    figure, panels = canvas(columns=2 if timed else 1, size=(5.2, 3.6), title=title)
    width = max(1, len(of) // 50) if window is None else positive_integer("window", window)
    width = min(width, len(of))
    mean = np.convolve(of.loss, np.full(width, 1 / width), mode="valid")
    axes = panels[0]
    axes.plot(of.step, of.loss, color=SHADE, lw=0.5, alpha=0.6)
    axes.plot(of.step[width - 1 :], mean, color=PALETTE[0], lw=1.4, label=f"mean of {width} steps")
    if len(of.validation.step):
        axes.plot(*of.validation, "o-", color=PALETTE[1], ms=3, lw=1, label="validation")
    if bool((of.loss > 0).all()):
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="loss")
    legend(axes)
    if timed and profile is not None:
        last = len(profile.step) - 1
        picks = sorted({round(last * share) for share in (0.0, 0.1, 0.3, 1.0)})
        for place, k in enumerate(picks):
            panels[1].stairs(
                profile.loss[k], profile.edges, color=PALETTE[0], lw=1.2,
                alpha=(place + 1) / len(picks), label=f"to step {profile.step[k]:,}",
            )  # fmt: skip
        panels[1].set(xlabel="t", ylabel="loss of rows at t")
        legend(panels[1])
    return figure


@checked
def quality_by_calls(
    of: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    floor: float | None = None,
    label: str = "distance",
    title: str = "",
) -> Figure:
    """A distance against the calls of the network, both on logarithmic axes.

    Args:
        of: by name, pairs ``{calls: distance}``; or the rows of
            :func:`transportflows.metrics.error_by_nfe`, a line for each scheme.
        floor: the distance of as many draws of the data: a line.
        label: of the distance.
        title: above the picture.

    Raises:
        ImportError: if Matplotlib is not there.
        TypeError: if a line is no mapping.
        ValueError: if there is nothing to draw, a row misses a number, or calls are not above 0.
    """
    if not isinstance(of, Mapping):
        lines: dict[str, dict[int, float]] = {}
        for row in of:
            if missing := {"scheme", "nfe", "distance"} - set(row):
                raise ValueError(
                    f"rows are those of metrics.error_by_nfe, and {sorted(missing)} are missing in"
                    " one; or write {name: {calls: distance}}"
                )
            lines.setdefault(row["scheme"], {})[row["nfe"]] = row["distance"]
        of = lines
    figure, (axes,) = canvas(size=(5.6, 4), title=title)
    _lines(axes, of)
    _floor(axes, floor)
    axes.set(xscale="log", yscale="log", xlabel="network calls for a sample", ylabel=label)
    calls = sorted({float(count) for line in of.values() for count in line})
    if not calls[0] > 0:
        raise ValueError(f"calls are above 0, which the axis takes, got {calls[0]:g}")
    apart = [calls[0]]  # those that have room for their numbers
    for count in calls[1:]:
        if count / apart[-1] > (calls[-1] / calls[0]) ** 0.1:
            apart.append(count)
    axes.set_xticks(apart, [f"{count:g}" for count in apart])
    axes.set_xticks([], minor=True)
    legend(axes)
    return figure


@checked
def epsilon_sweep(
    of: Mapping[Any, Any],
    *,
    star: float | None = None,
    floor: float | None = None,
    label: str = "distance",
    title: str = "",
) -> Figure:
    """A distance against ε, with ε = 0 at the left of a logarithmic axis.

    Args:
        of: by ε the distance, ``{0.0: .12, 0.5: .08}``, or ``(mean, deviation)``; or such a mapping
            for each of several names, such as numbers of steps.
        star: the ε that a bound predicts: a dotted line.
        floor: the distance of as many draws of the data: a line.
        label: of the distance.
        title: above the picture.

    Raises:
        ImportError: if Matplotlib is not there.
        TypeError: if an ε is no number.
        ValueError: if there is nothing to draw, or an ε is negative or not finite.
    """
    lines = of if all(isinstance(v, Mapping) for v in of.values()) else {"": of}
    if other := [e for line in lines.values() for e in line if not isinstance(e, Real)]:
        raise TypeError(
            f"ε is a number, got {shown(other[0])}; write {{0.5: distance}}, or such a mapping for"
            " each of several names"
        )
    values = sorted({float(epsilon) for line in lines.values() for epsilon in line})
    if bad := [value for value in values if not 0 <= value < math.inf]:
        raise ValueError(f"ε is at least 0 and finite, got {bad[0]:g}")
    above = [value for value in values if value > 0]
    left = min(above, default=1.0) / 3
    figure, (axes,) = canvas(size=(5.6, 4), title=title)
    _lines(axes, {name: {e or left: v for e, v in line.items()} for name, line in lines.items()})
    _floor(axes, floor)
    if star is not None:
        axes.axvline(star, color=INK, ls=":", label=f"ε* = {star:.2g}")
    axes.set(xscale="log", xlabel="ε", ylabel=label)
    axes.minorticks_off()
    some = above if len(above) <= 7 else above[:: -(-len(above) // 7)]
    ticks = ([left] if 0.0 in values else []) + some
    axes.set_xticks(ticks, ["0" if tick == left else f"{tick:g}" for tick in ticks])
    legend(axes)
    return figure


@checked
@torch.no_grad()
def interpolant(of: AffineInterpolant | Process, *, size: int = 201, title: str = "") -> Figure:
    """The coefficients α, β, γ of a path over time, and its signal-to-noise ratio.

    Args:
        of: an affine path, or a process. The second panel is log10 of β²/σ̂², where all of x_t but
            x1 is Gaussian with a base of deviation 1 (or that of the process), and of β²/(α² + γ²)
            elsewhere.
        size: times.
        title: above the picture.

    Raises:
        ImportError: if Matplotlib is not there.
        TypeError: if the path is not affine.
    """
    path: Any = of.interpolant if isinstance(of, Process) else of
    if not isinstance(path, AffineInterpolant):
        raise TypeError(
            f"α and β are those of an affine path, and {type(path).__name__} has none of its own"
        )
    t = torch.linspace(0, 1, positive_integer("size", size), dtype=torch.float64)
    gamma_sq = path.gamma_sq(t).expand_as(t)
    parts = {"α": path.alpha(t), "β": path.beta(t), "γ": gamma_sq.clamp(min=0).sqrt()}
    figure, (left, right) = canvas(columns=2, size=(4.6, 3.4), title=title)
    for k, (name, values) in enumerate(parts.items()):
        curve = torch.as_tensor(values).expand_as(t)
        if bool((curve != 0).any()):
            left.plot(t.numpy(), curve.detach().numpy(), color=PALETTE[k], label=name)
    left.set(xlabel="t", ylabel="coefficient")
    legend(left)
    noise = of.noise_part if isinstance(of, Process) else None
    spread = gamma_sq + parts["α"].square() if noise is None else noise.scale_sq(t)
    ratio = (parts["β"].square() / spread).detach().expand_as(t).numpy()
    with np.errstate(divide="ignore"):
        right.plot(t.numpy(), np.log10(ratio), color=PALETTE[0])
    right.set(xlabel="t", ylabel="log10 signal to noise")
    return figure


def _lines(axes: Axes, of: Mapping[str, Any]) -> None:
    """A line for each name, of numbers or of means with deviations."""
    if other := [name for name, line in of.items() if not isinstance(line, Mapping)]:
        raise TypeError(
            f"a line is a mapping, {{x: number}}, got {shown(of[other[0]])} for {other[0]!r}; of"
            " one line write {'name': {x: number, ...}}"
        )
    if not of or not all(of.values()):
        raise ValueError("there is nothing to draw: give numbers by name")
    for k, (name, line) in enumerate(of.items()):
        where = sorted(line)
        values = np.stack([as_array(line[x]) for x in where])
        style: dict[str, Any] = {
            "color": PALETTE[k % len(PALETTE)],
            "ls": ("-", "--", ":")[k // len(PALETTE) % 3],
            "label": str(name) or None,
        }
        if values.ndim == 2:
            mean, apart = values.T
            axes.errorbar(where, mean, apart, marker="o", ms=3.5, lw=1.3, capsize=2, **style)
        else:
            axes.plot(where, values, marker="o", ms=3.5, lw=1.3, **style)


def _floor(axes: Axes, floor: float | None) -> None:
    if floor is not None:
        axes.axhline(floor, color=SHADE, lw=1, label="floor")
