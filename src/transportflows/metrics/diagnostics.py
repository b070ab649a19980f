"""Diagnostics of a trained field, without an oracle: where in time it errs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.autodiff import Directional
from .._core.checks import check_finite_rows, positive_integer, unit_times
from .._core.precision import as_wide, wide, widest_dtype
from .._core.random import draw_key, stream
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..fields.base import Field
from ..fields.kinds import Velocity
from ..gaussian_part import ConversionError
from ..losses import Regression

__all__ = [
    "Consistency",
    "LossByTime",
    "consistency",
    "loss_by_time",
]


@checked
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

    __repr__ = summary


@checked
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

    __repr__ = summary


@checked
@torch.no_grad()
def loss_by_time(
    field: Field,
    loss: Regression,
    data: DataLike,
    *,
    times: int | Sequence[float] = 20,
    cond: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> LossByTime:
    """Return a regression loss at given times, on all data at each.

    Unbiased; the same data and base draws serve all times, so that the curve is smooth.

    Args:
        field: the field.
        loss: such as ``VelocityLoss()``; its own sampler of times is not used.
        data: ``(N, *)``, in their own units: a transform of the field is applied.
        times: a number of midpoints of equal parts of [0, 1], or the times themselves.
        cond: conditions for the network; tensors have N rows.
        generator: source of the path samples.

    Raises:
        TypeError: if the loss is not a regression.
        ValueError: if the data are not finite, or conditions are not those of the training.
    """
    if not isinstance(loss, Regression):
        raise TypeError(f"loss must be a regression, got {type(loss).__name__}")
    data = as_rows("data", data, like=field.reference())
    check_finite_rows(data, "data")
    data = data if field.transform is None else field.transform(data)
    given = field.check_conditions(cond, len(data), device=data.device)
    nodes, key = _midpoints(times), draw_key(generator)
    means, errors = [], []
    for t in nodes.tolist():
        drawn = field.process.sample(
            data,
            t=t,
            antithetic=loss.antithetic,
            cond=given,
            generator=stream(key, device=data.device),
        )
        value = wide(loss.evaluate(field, drawn))
        means.append(value.mean())
        errors.append(value.std() / math.sqrt(value.numel()))
    return LossByTime(nodes, torch.stack(means).cpu(), torch.stack(errors).cpu())


@checked
def consistency(
    field: Field,
    data: DataLike,
    *,
    times: int | Sequence[float] = 9,
    probes: int = 1,
    cond: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> Consistency:
    r"""Return how well a velocity and a score, learned apart, agree.

    Where x_t has a Gaussian part whose base is independent, a velocity implies the noise, which is
    compared with the learned one. Everywhere, by parts, :math:`E[b \cdot s + \nabla \cdot b] =
    \int \nabla \cdot (b \rho_t) = 0`, whose residual (with Hutchinson probes) tests the score
    against the law of the data along one direction, the velocity's.

    Args:
        field: a :class:`FieldPair`, or any field that has both a velocity and a score.
        data: ``(N, *)``, in their own units: a transform of the field is applied.
        times: a number of midpoints of equal parts of [0, 1], or the times themselves.
        probes: Hutchinson probes of the divergence.
        cond: conditions for the network; tensors have N rows.
        generator: source of the path samples and probes.

    Raises:
        ConversionError: if the field has no score.
        ValueError: if the data are not finite, or conditions are not those of the training.

    Source: the conversion is of Albergo, Boffi and Vanden-Eijnden (2023); the residual is this
    library's.
    """
    data = as_rows("data", data, like=field.reference())
    check_finite_rows(data, "data")
    data = data if field.transform is None else field.transform(data)
    given = field.check_conditions(cond, len(data), device=data.device)
    positive_integer("probes", probes)
    nodes, key, directional = _midpoints(times), draw_key(generator), Directional()
    table: list[tuple[float, float, float]] = []
    for k, t in enumerate(nodes.tolist()):
        with torch.no_grad():
            draws = stream(key, k, device=data.device)
            drawn = field.process.sample(data, t=t, cond=given, generator=draws)
            x, known = drawn.x, drawn.cond
            time = torch.tensor(t, dtype=widest_dtype(x.device), device=x.device)
            noise, score = field.noise(time, x, known), field.score(time, x, known)
            velocity = field.velocity(time, x, known)
            difference = math.nan
            try:
                # A field whose network gives the velocities that are known already.
                implied = Velocity(partial(_known, velocity), field.process).noise(time, x)
                difference = float((implied - noise).square().sum() / noise.square().sum())
            except ConversionError:
                pass
            terms = sum_events(velocity * score)
            draws = stream(key, k, 1, device=x.device)
            for _ in range(probes):
                z = torch.randint(0, 2, x.shape, generator=draws, device=x.device).to(x) * 2 - 1
                along = directional.forms(partial(field.velocity, time, cond=known), x, z[None])[1]
                terms = terms + along.squeeze(1) / probes
        terms = wide(terms)
        table.append((difference, float(terms.mean()), float(terms.std()) / math.sqrt(len(terms))))
    columns = torch.tensor(table, dtype=torch.float64)
    return Consistency(nodes, columns[:, 0], columns[:, 1], columns[:, 2])


def _midpoints(times: int | Sequence[float]) -> Tensor:
    if isinstance(times, int):
        positive_integer("times", times)
        return (torch.arange(times, dtype=torch.float64) + 0.5) / times
    return unit_times("times", as_wide(times).reshape(-1))


def _known(velocity: Tensor, *_: Any) -> Tensor:
    """The velocities, whatever is asked."""
    return velocity
