r"""Is this a flow map, and of which field? What holds for every one, measured.

A map that meets the semigroup equation, ``X_{u,t} ∘ X_{s,u} = X_{s,t}``, and whose tangent is b is
the flow of b, and there is no other. Neither is enough: a constant map, and the flow of any other
field, meet the first one exactly. So a report gives both, and what they should be.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.checks import check_finite_rows
from .._core.conditions import map_rows
from .._core.random import stream
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..distributions import Distribution
from ..fields import Field
from ..fields.base import check_field
from ..samplers.starts import evaluating
from .flow_map import FlowMap
from .jacobians import jump_and_log_det, jump_rows
from .teachers import check_teacher, velocity_of
from .trial_rows import Trial, check_reference, size, trial_rows

__all__ = ["CollapsedMapWarning", "MapReport", "check_map"]

_COLLAPSED = 0.1  # of the variance of the data, and of the base
_COLUMNS = 256  # numbers in an event up to which determinants are looked at
_DETERMINANTS = 1 << 16  # columns in all
_SHOULD = {
    "identity": "0, to rounding",
    "semigroup": "0; .01 is good, and alone says nothing of which field",
    "semigroup_back": "0, of a map that was trained in both orders",
    "tangent": "0; of a map learned from data, the error of a velocity field",
    "inverse": "0, of a map that was trained in both orders",
    "spread": "1; far below, the map has collapsed",
    "folds": "0; of sharp data some hundredths",
    "error": "0; of eight sharp modes .03 to .06",
    "median_error": "0; far below the error where few rows go to another mode",
}


class CollapsedMapWarning(UserWarning):
    """A flow map takes all of the base to nearly one point."""


@checked
@dataclass(frozen=True)
class MapReport:
    """What holds for every flow map, measured; ``print`` tells what each should be.

    Errors are root mean squares over rows and numbers, over the scale of the data (the root mean
    square distance of their numbers from the mean), or that of the base where x is of the base and
    so is the result. None is what was not measured.

    Attributes:
        identity: the largest ``|X_{t,t}(x) - x|``. 0 by the form of a :class:`FlowMap`.
        semigroup: ``X_{u,t}(X_{s,u}(x)) - X_{s,t}(x)`` at random times s < u < t and x of the law
            of x_s. Of a map to t = 1 only, with a reference for the first way.
        semigroup_back: the same at s > u > t.
        tangent: ``v_{t,t}(x) - b(t, x)`` against a field, at random times and x of the law of x_t.
        inverse: ``X_{1,0}(X_{0,1}(x)) - x`` on x of the base. None of a prediction of data, which
            does not leave t = 1.
        spread: the variance of X_{0,1}(x) over that of the data, x of the base.
        folds: the share of x of the base with ``det ∇X_{0,1}(x) <= 0``; None above 256 numbers.
        error: X_{0,1}(x) against the reference, x of the base.
        median_error: the same, median over the rows.
        scale: of the data, in the units of the process.
        to_data: whether the map goes to t = 1 only, and has no more than is measured.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)), coupling=tpf.Paired())
        >>> by_two = tpf.maps.FlowMap(lambda s, t, x: 2 + 0 * x, process)
        >>> field, x0 = tpf.Velocity(lambda t, x: 3 + 0 * x, process), torch.arange(5.0)[:, None]
        >>> report = check_map(by_two, (x0, x0 + 3), field=field)  # one flow, but of another field
        >>> report.semigroup < 1e-6, round(report.tangent * report.scale, 4)
        (True, 1.0)
    """

    identity: float
    semigroup: float | None
    semigroup_back: float | None
    tangent: float | None
    inverse: float | None
    spread: float
    folds: float | None
    error: float | None
    median_error: float | None
    scale: float
    to_data: bool = False

    def __str__(self) -> str:
        lines = []
        for name, wanted in _SHOULD.items():
            value = getattr(self, name)
            shown = "not measured" if value is None else f"{value:.3g}"
            if value is None:
                wanted = self._missing(name)
            lines.append(f"{name:<16}{shown:<14}{wanted}".rstrip())
        return "\n".join(lines)

    def _missing(self, name: str) -> str:
        """Why a number is not there."""
        if self.to_data and name in ("semigroup_back", "tangent", "inverse"):
            return "a map to t = 1 only has none"
        if name == "inverse":
            return "a map of this prediction does not leave t = 1"
        if name == "folds":
            return "too many numbers in an event"
        return f"give {'field' if name == 'tangent' else 'reference'}="


@checked
def check_map(
    flow_map: FlowMap,
    data: DataLike | Distribution | Any,
    *,
    field: Field | None = None,
    reference: FlowMap | None = None,
    n: int = 1_000,
    cond: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> MapReport:
    """Measure whether a map is a flow map, and whether it is that of a field.

    Args:
        flow_map: the map. Of one with ``to_data=True`` only what it has is measured.
        data: rows ``(N, *)``, or a law, in the units of the data; of a process of pairs these,
            ``(x0, x1)`` or a Batch.
        field: with the velocity b that the tangent is held against: the teacher, or an oracle.
        reference: the exact map, :func:`oracle_map` or ``SolvedMap(field)``.
        n: rows of the data, and of the base, on which it is tried.
        cond: conditions of the rows of data (of n rows, of a law).
        generator: source of randomness.

    Raises:
        TypeError: if the field is none, or the reference is no map.
        ValueError: if either is of another process, or the data do not fit.

    Warns:
        CollapsedMapWarning: if the variance of the samples of a step is less than a tenth of that
            of the data, and of the base.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> law = tpf.Gaussian((2,), 1.0, 0.5)
        >>> exact = tpf.maps.oracle_map(process, law)
        >>> data = law.sample(100, dtype=torch.float64)
        >>> report = tpf.maps.check_map(exact, data, field=exact.field)
        >>> report.semigroup < 1e-8 and report.tangent < 1e-12 and report.folds == 0
        True
    """
    if field is not None:
        check_field(field, "the tangent of a map is held against the velocity of")
        check_teacher(flow_map, field)
    if reference is not None:
        check_reference("reference", reference, flow_map)
        check_teacher(flow_map, reference)
    trial = trial_rows(flow_map, data, n, cond, generator)
    low, high = trial.x0.new_tensor([0.0, 1.0]).unbind()
    flow_map.check_leaving(low, high)
    with torch.inference_mode(False), torch.no_grad(), evaluating(flow_map):
        end = jump_rows(flow_map, 0.0, 1.0, trial.x0, trial.cond)
        check_finite_rows(end, "X_{0,1}(x0), what the map gives,")
        base, spread = (float(size(x - x.mean(0))) for x in (trial.x0, end))
        errors = (None, None) if reference is None else _errors(trial, end, reference)
        forward, backward = _semigroups(flow_map, trial, reference)
        inverse = None
        if not flow_map.to_data and bool(flow_map.leaves(high, low)):
            back = jump_rows(flow_map, 1.0, 0.0, end, trial.cond)
            inverse = float(size(back - trial.x0)) / base
        made = MapReport(
            identity=_identity(flow_map, trial),
            semigroup=forward,
            semigroup_back=backward,
            tangent=_tangent(flow_map, trial, field),
            inverse=inverse,
            spread=(spread / trial.scale) ** 2,
            folds=_folds(flow_map, trial),
            error=errors[0],
            median_error=errors[1],
            scale=trial.scale,
            to_data=flow_map.to_data,
        )
    if spread**2 < _COLLAPSED * min(trial.scale, base) ** 2:
        warnings.warn(
            "the map has collapsed: the variance of X_{0,1}(x0) is"
            f" {made.spread:.2g} of that of the data. A constant meets the semigroup equation, and"
            " is the flow of nothing: train the tangent on more rows (diagonal=0.75), hold targets"
            " fixed (detach=True), or learn from a field: SemigroupLoss(teacher)",
            CollapsedMapWarning,
            stacklevel=3,
        )
    return made


def _times(field: FlowMap, trial: Trial, count: int, place: int) -> Tensor:
    """Sorted uniform times ``(count, n)``, off an end where the process is infinitely fast."""
    low, high = field.process.target_margin
    like = trial.x1
    source = stream(trial.key, place, device=like.device)
    shape = (count, len(like))
    drawn = torch.rand(shape, generator=source, dtype=like.dtype, device=like.device)
    times: Tensor = low + (1 - low - high) * drawn.sort(0).values
    return times


def _identity(field: FlowMap, trial: Trial) -> float:
    (t,) = _times(field, trial, 1, 2)
    t = torch.ones_like(t) if field.to_data else t
    x, cond = trial.at(field, t, 3)
    return float((jump_rows(field, t, t, x, cond) - x).abs().max()) / trial.scale


def _semigroups(
    field: FlowMap, trial: Trial, reference: FlowMap | None
) -> tuple[float | None, float | None]:
    """Forward and backward; to t = 1 alone with a reference for the first way."""
    first, middle, last = _times(field, trial, 3, 4)
    if field.to_data:
        if reference is None:
            return None, None
        return _semigroup(field, trial, reference, (first, last, torch.ones_like(last))), None
    forward = _semigroup(field, trial, field, (first, middle, last))
    return forward, _semigroup(field, trial, field, (last, middle, first))


def _semigroup(
    field: FlowMap, trial: Trial, mover: FlowMap, times: tuple[Tensor, Tensor, Tensor]
) -> float:
    s, u, t = times
    x, cond = trial.at(field, s, 5)
    middle = jump_rows(mover, s, u, x, cond)
    parts = jump_rows(field, u, t, middle, cond)
    return float(size(parts - jump_rows(field, s, t, x, cond))) / trial.scale


def _tangent(field: FlowMap, trial: Trial, teacher: Field | None) -> float | None:
    if teacher is None or field.to_data:
        return None
    (t,) = _times(field, trial, 1, 6)
    x, cond = trial.at(field, t, 7)
    with evaluating(teacher):
        error = field.between(t, t, x, cond)[0] - velocity_of(teacher, t, x, cond)
    return float(size(error)) / trial.scale


def _folds(field: FlowMap, trial: Trial) -> float | None:
    d = trial.x0.shape[1:].numel()
    if d > _COLUMNS:
        return None
    rows = slice(0, max(1, min(len(trial.x0), _DETERMINANTS // d)))
    start, stop = trial.x0.new_tensor([0.0, 1.0]).unbind()
    cond = map_rows(trial.cond, lambda value: value[rows])
    _, sign, _ = jump_and_log_det(field, start, stop, trial.x0[rows], cond)
    return float((sign <= 0).double().mean())


def _errors(trial: Trial, end: Tensor, reference: FlowMap) -> tuple[float, float]:
    with evaluating(reference):
        error = end - jump_rows(reference, 0.0, 1.0, trial.x0, trial.cond)
    middle = float((sum_events(error.square()) / error[0].numel()).sqrt().median())
    return float(size(error)) / trial.scale, middle / trial.scale
