"""The parts of an exam: fields by time, laws, densities, ends, cost, each beside its floor."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.precision import wide
from .._core.random import stream
from .._core.tensor import sum_events
from ..distributions import Gaussian, GaussianMixture
from ..fields.base import Field
from ..gaussian_part import ConversionError
from ..likelihood import log_likelihood
from ..metrics import evaluate
from ..oracles import GaussianMixtureOracle
from ..oracles.components import components_of
from ..samplers import sample
from ..solve import Solution
from ..transforms import Standardize
from .exam_report import ExamRow

__all__ = ["by_time", "cost", "density", "distances", "draws_of", "ends", "exact_field", "solved"]

_METRICS = ("mean error", "covariance error", "energy distance", "W2")
_FINE = 400  # RK4 steps of the exact ends
_NODES = 12  # times
_SETS = 4  # of draws of the law, whose mean distance is told
_NONE = math.nan


def exact_field(field: Field, law: Gaussian | GaussianMixture) -> GaussianMixtureOracle | str:
    """The exact field in the units of the network, or why there is none."""
    weights, means, covariances = components_of(law, "law")
    means = means.view(-1, *law.shape)
    if isinstance(field.transform, Standardize):
        scale = field.transform.scale.to(means).expand(law.shape).flatten()
        means = field.transform(means)
        covariances = covariances / (scale[:, None] * scale)
    inner = GaussianMixture(means, weights=weights, covariances=covariances, singular=True)
    try:
        exact = GaussianMixtureOracle(field.process, inner)
    except (TypeError, ValueError) as reason:
        return f"no closed form: {reason}"
    return exact.to(field.reference().device)


def by_time(
    field: Field,
    exact: GaussianMixtureOracle,
    n: int,
    margin: float,
    cond: Mapping[str, Any] | None,
    key: int,
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor] | str]]:
    """Times, and the mean squares of errors and of the exact values, or why there are none."""
    like = field.reference()
    known = field.check_conditions(cond, n, device=like.device)
    grid = torch.linspace(margin, 1 - margin, _NODES, dtype=torch.float64)
    found: dict[str, tuple[Tensor, Tensor] | str] = {}
    for name in ("velocity", "score"):
        pairs = []
        try:
            for k, t in enumerate(grid.to(like)):
                draws = stream(key, k, device=like.device)
                x = exact.sample(t, n, generator=draws, dtype=like.dtype)
                truth = getattr(exact, name)(t, x)
                error = getattr(field, name)(t, x, known) - truth
                pairs.append([float(sum_events(wide(v).square()).mean()) for v in (error, truth)])
        except ConversionError as reason:
            found[name] = str(reason)
            continue
        squares, sizes = torch.tensor(pairs, dtype=torch.float64).unbind(1)
        found[name] = squares, sizes
    return grid, found


def draws_of(field: Field, law: Gaussian | GaussianMixture, n: int, key: int) -> list[Tensor]:
    """Sets of draws of the law, each for as many samples and for a floor."""
    like, draws = field.reference(), stream(key, 100)
    return [
        law.sample(2 * n, generator=draws, dtype=like.dtype).to(like.device) for _ in range(_SETS)
    ]


def solved(
    field: Field, n: int, epsilon: float, how: dict[str, Any], key: int
) -> tuple[Solution | str, float]:
    """Samples and the seconds they took, or why there are none; the same starts at every ε."""
    began = time.perf_counter()
    try:
        solution = sample(field, n, epsilon=epsilon, generator=stream(key, 101), **how)
    except (ConversionError, ValueError) as reason:
        return f"not sampled: {reason}", _NONE
    float(solution.x.sum())  # wait for a device
    return solution, time.perf_counter() - began


def distances(
    way: str, solution: Solution | str, truth: list[Tensor], note: str, key: int
) -> list[ExamRow]:
    """Distances at the end, each beside its floor."""
    part = f"law, {way}"
    if isinstance(solution, str):
        return [ExamRow(part, way, _NONE, note=solution)]
    tables = [
        evaluate(solution.x, of, list(_METRICS), generator=stream(key, 102 + k)).rows
        for k, of in enumerate(truth)
    ]
    rows = []
    for same in zip(*tables, strict=True):
        value, floor = (
            statistics.mean(getattr(row, kind) for row in same) for kind in ("value", "floor")
        )
        rows.append(ExamRow(part, f"{same[0].name}, {way}", value, floor, note))
    return rows


def density(
    field: Field,
    exact: GaussianMixtureOracle | str,
    law: Gaussian | GaussianMixture,
    count: int,
    cond: Mapping[str, Any] | None,
    key: int,
) -> list[ExamRow]:
    """Errors of log-densities in nats."""
    if count == 0:
        return []
    like = field.reference()
    x = law.sample(count, generator=stream(key, 110), dtype=like.dtype).to(like.device)
    truth, floors = law.log_prob(wide(x)), (_NONE, _NONE)
    try:
        found = log_likelihood(field, x, cond=cond).log_prob
    except (ConversionError, TypeError, ValueError) as reason:
        return [ExamRow("density", "log-density", _NONE, note=f"has none: {reason}")]
    if not isinstance(exact, str):
        inside = x if field.transform is None else field.transform(x)
        gained = 0.0 if field.transform is None else field.transform.log_abs_det(law.shape)
        best = truth - gained - log_likelihood(exact, inside).log_prob
        floors = float(best.abs().mean()), abs(float(best.mean()))
    off = truth - found
    error = float(off.std()) / math.sqrt(count)
    return [
        ExamRow("density", "log-density", float(off.abs().mean()), floors[0], "nats"),
        ExamRow("density", "KL", float(off.mean()), floors[1], f"nats, standard error {error:.2g}"),
    ]


def ends(
    field: Field,
    exact: GaussianMixtureOracle,
    law: Gaussian | GaussianMixture,
    x: Tensor,
    how: dict[str, Any],
    key: int,
) -> ExamRow:
    """Where the ODE took its starts, beside where it should, and where the same steps should."""

    def end(**how: Any) -> Tensor:
        y = sample(exact, len(x), generator=stream(key, 101), **how).x
        return wide(y if field.transform is None else field.transform.invert(y))

    truth = end(**{**how, "steps": _FINE, "scheme": "rk4"})
    weights, means, covariances = components_of(law, "law")
    apart = (means - weights @ means).square() + covariances.diagonal(dim1=1, dim2=2)
    scale = float((weights @ apart).mean().sqrt())
    value, floor = (
        float((y - truth).square().mean().sqrt()) / scale for y in (wide(x), end(**how))
    )
    return ExamRow("ends", "ends", value, floor, "over the deviation of the data")


def cost(solution: Solution, seconds: float) -> list[ExamRow]:
    """Calls, and the time of one, by the clock."""
    each = seconds / (solution.nfe * len(solution.x))
    return [
        ExamRow("cost", "calls", float(solution.nfe), note="of the field, for a sample by the ODE"),
        ExamRow("cost", "time of a call", each * 1e6, note="µs a row, the solver included"),
    ]
