"""Diagnostics of a trained field, without an oracle: where in time it errs, and how it moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.checks import check_finite_rows
from .._core.random import draw_key, stream
from .._core.tensor import sum_events
from ..fields.base import Field
from ..fields.kinds import Velocity
from ..gaussian_part import ConversionError
from ..losses import Regression
from ..samplers.sample import sample
from ..solve.grid import time_grid

__all__ = [
    "Consistency",
    "LossByTime",
    "PathGeometry",
    "consistency",
    "error_by_nfe",
    "loss_by_time",
    "path_geometry",
]

_SOLVE_ERROR = 1e-3  # of the displacement: by how much the energy may be below it


@dataclass(frozen=True, eq=False)
class LossByTime:
    """A loss as a function of time.

    Attributes:
        t: times, ``(T,)``, float64, as all.
        loss: mean loss at each, ``(T,)``.
        standard_error: of each, ``(T,)``.
    """

    t: Tensor
    loss: Tensor
    standard_error: Tensor


@dataclass(frozen=True, eq=False)
class Consistency:
    r"""Whether a velocity and a score belong to one law.

    Attributes:
        t: times, ``(T,)``, float64, as all.
        difference: ``E|η̂_b - η̂|² / E|η̂|²``, η̂_b the noise that the velocity implies, ``(T,)``; NaN
            where a velocity implies none.
        stein: ``E[b · s + ∇ · b]``, which is 0 for the score of the law of x_t, ``(T,)``.
        stein_error: its standard error, ``(T,)``.
    """

    t: Tensor
    difference: Tensor
    stein: Tensor
    stein_error: Tensor


@dataclass(frozen=True)
class PathGeometry:
    """How straight the paths of the ODE are.

    Attributes:
        energy: ``E ∫ |b|² dt`` along the paths.
        displacement: ``E |X_1 - X_0|²``, at most the energy.
        straightness: ``E ∫ |b - (X_1 - X_0)|² dt``, their difference: 0 for straight paths at
            constant speed (Liu et al. 2022), to within the error of the solve.
        normalised: ``(energy - W) / W``, with W the least energy, the squared W2 of both ends: 0
            for the dynamic optimal transport (Tong et al. 2023). NaN unless W was given.
        standard_error: of the energy.
    """

    energy: float
    displacement: float
    straightness: float
    normalised: float
    standard_error: float


@torch.no_grad()
def loss_by_time(
    field: Field,
    loss: Regression,
    data: Tensor,
    *,
    times: int | Sequence[float] = 20,
    generator: torch.Generator | None = None,
) -> LossByTime:
    """Return a regression loss at given times, on all data at each.

    Unbiased; the same data and base draws serve all times, so that the curve is smooth.

    Args:
        field: the field.
        loss: such as ``VelocityLoss()``; its own sampler of times is not used.
        data: ``(N, *)``, in the network's units: ``field.transform(data)`` where it has one.
        times: a number of midpoints of equal parts of [0, 1], or the times themselves.
        generator: source of the path samples.

    Raises:
        TypeError: if the loss is not a regression.
        ValueError: if the data are not finite.
    """
    if not isinstance(loss, Regression):
        raise TypeError(f"loss must be a regression, got {type(loss).__name__}")
    check_finite_rows(data, "data")
    nodes, key = _midpoints(times), draw_key(generator)
    means, errors = [], []
    for t in nodes.tolist():
        drawn = field.process.sample(
            data, t=t, antithetic=loss.antithetic, generator=stream(key, device=data.device)
        )
        value = loss.evaluate(field, drawn).double()
        means.append(value.mean())
        errors.append(value.std() / math.sqrt(value.numel()))
    return LossByTime(nodes, torch.stack(means).cpu(), torch.stack(errors).cpu())


def consistency(
    field: Field,
    data: Tensor,
    *,
    times: int | Sequence[float] = 9,
    probes: int = 1,
    generator: torch.Generator | None = None,
) -> Consistency:
    r"""Return how well a velocity and a score, learned apart, agree.

    Where x_t has a Gaussian part whose base is independent, a velocity implies the noise, which is
    compared with the learned one. Everywhere, by parts, :math:`E[b \cdot s + \nabla \cdot b] =
    \int \nabla \cdot (b \rho_t) = 0`, whose residual (with Hutchinson probes) tests the score
    against the law of the data along one direction, the velocity's.

    Args:
        field: a :class:`FieldPair`, or any field that has both a velocity and a score.
        data: ``(N, *)``, in the network's units: ``field.transform(data)`` where it has one.
        times: a number of midpoints of equal parts of [0, 1], or the times themselves.
        probes: Hutchinson probes of the divergence.
        generator: source of the path samples and probes.

    Raises:
        ConversionError: if the field has no score.
        ValueError: if the data are not finite.
    """
    check_finite_rows(data, "data")
    nodes, key = _midpoints(times), draw_key(generator)
    table: list[tuple[float, float, float]] = []
    for k, t in enumerate(nodes.tolist()):
        with torch.no_grad():
            drawn = field.process.sample(data, t=t, generator=stream(key, k, device=data.device))
            x, time = drawn.x, torch.tensor(t, dtype=torch.float64, device=data.device)
            noise, score = field.noise(time, x), field.score(time, x)
            velocity = field.velocity(time, x)
            difference = math.nan
            try:
                # A field whose network gives the velocities that are known already.
                implied = Velocity(lambda *_, b=velocity: b, field.process).noise(time, x)
                difference = float((implied - noise).square().sum() / noise.square().sum())
            except ConversionError:
                pass
            terms = sum_events(velocity * score)
            draws = stream(key, k, 1, device=x.device)
            for _ in range(probes):
                z = torch.randint(0, 2, x.shape, generator=draws, device=x.device).to(x) * 2 - 1
                change = torch.func.jvp(lambda y, s=time: field.velocity(s, y), (x,), (z,))[1]
                terms = terms + sum_events(z * change) / probes
        terms = terms.double()
        table.append((difference, float(terms.mean()), float(terms.std()) / math.sqrt(len(terms))))
    columns = torch.tensor(table, dtype=torch.float64)
    return Consistency(nodes, columns[:, 0], columns[:, 1], columns[:, 2])


@torch.no_grad()
def path_geometry(
    field: Field,
    n: int | None = None,
    *,
    start: Any | None = None,
    steps: int = 100,
    scheme: str = "rk4",
    least_energy: float | None = None,
    generator: torch.Generator | None = None,
) -> PathGeometry:
    r"""Return path energy and straightness of the ODE of a field.

    Simpson's rule over the steps; the error of the solve is that of the scheme. In the units of the
    data, also where the field has a transform.

    Args:
        field: a field with a velocity.
        n: number of paths.
        start: as in :func:`transportflows.sample`.
        steps: an even number of steps.
        scheme: fixed-step scheme.
        least_energy: squared W2 between both ends, for ``normalised``: such as
            ``wasserstein2(x0, x1) ** 2``.
        generator: source of the starts.

    Raises:
        ValueError: if the number of steps is odd or so small that the energy comes out below the
            displacement (by more than 0.1 %), or :func:`transportflows.sample` refuses.
    """
    if steps < 2 or steps % 2:
        raise ValueError(f"steps must be even and at least 2, for Simpson's rule; got {steps}")
    grid = time_grid(steps, breakpoints=field.process.interpolant.breakpoints)
    solved = sample(field, n, start=start, scheme=scheme, t=grid, save_at=grid, generator=generator)
    path = solved.trajectory
    if path is None:
        raise RuntimeError("the solve kept no trajectory")
    inside = path if field.transform is None else torch.stack([field.transform(x) for x in path])
    scale = 1.0 if field.transform is None else field.transform.scale.to(path)
    low, high = solved.margin
    speeds = torch.stack(
        [
            sum_events((scale * field.velocity(t.clamp(low, 1 - high), x)).square())
            for t, x in zip(grid.to(path.device), inside, strict=True)
        ]
    ).double()
    energy = _simpson(grid.to(speeds.device)) @ speeds
    displacement = float(sum_events((path[-1] - path[0]).double().square()).mean())
    mean = float(energy.mean())
    if not mean >= (1 - _SOLVE_ERROR) * displacement:
        raise ValueError(
            f"the energy came out as {mean:.4g}, below the displacement {displacement:.4g}, which"
            f" it cannot be: {steps} steps of {scheme!r} do not resolve the paths; give more steps"
        )
    excess = math.nan if least_energy is None else (mean - least_energy) / least_energy
    error = float(energy.std()) / math.sqrt(energy.numel())
    return PathGeometry(mean, displacement, mean - displacement, excess, error)


def error_by_nfe(
    field: Field,
    distance: Callable[[Tensor], float],
    *,
    n: int,
    schemes: Sequence[str] = ("euler", "heun", "rk4"),
    steps: Sequence[int] = (5, 10, 20, 40),
    epsilon: Any = 0.0,
    generator: torch.Generator | None = None,
) -> list[Mapping[str, Any]]:
    """Return a distance of the samples for each scheme and number of steps.

    All share their starts, so differences between rows are those of the solves.

    Args:
        field: the field.
        distance: of samples ``(n, *)`` in the units of the data, such as
            ``lambda x: wasserstein2(x, data)``.
        n: number of samples.
        schemes: fixed-step schemes.
        steps: numbers of steps.
        epsilon: as in :func:`transportflows.sample`.
        generator: source of the starts and of the noise.

    Returns:
        One row ``{"scheme", "steps", "nfe", "distance"}`` for each, by ascending NFE.
    """
    key = draw_key(generator)
    rows = []
    for scheme in schemes:
        for count in steps:
            solved = sample(
                field, n, epsilon=epsilon, scheme=scheme, steps=count, generator=stream(key)
            )
            value = float(distance(solved.x))
            rows.append({"scheme": scheme, "steps": count, "nfe": solved.nfe, "distance": value})
    return sorted(rows, key=lambda row: row["nfe"])


def _midpoints(times: int | Sequence[float]) -> Tensor:
    if isinstance(times, int):
        if times < 1:
            raise ValueError(f"times must be positive, got {times}")
        return (torch.arange(times, dtype=torch.float64) + 0.5) / times
    return torch.as_tensor(times, dtype=torch.float64)


def _simpson(grid: Tensor) -> Tensor:
    """Weights of the composite Simpson rule on pairs of intervals, of any widths."""
    weights = torch.zeros_like(grid)
    a, b = grid.diff()[0::2], grid.diff()[1::2]
    weights[0:-2:2] += (a + b) / 6 * (2 - b / a)
    weights[1:-1:2] += (a + b) ** 3 / (6 * a * b)
    weights[2::2] += (a + b) / 6 * (2 - a / b)
    return weights
