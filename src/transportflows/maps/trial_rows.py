"""Rows on which a flow map is tried, in the units of its process, with their conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, if_array
from .._core.checks import check_events, check_finite_rows, positive_integer
from .._core.conditions import map_rows
from .._core.random import draw_key, stream
from .._core.tensor import sum_events, widened
from ..couplings import Paired
from ..distributions import Distribution, as_distribution
from ..draws import Batch
from .flow_map import FlowMap

__all__ = ["Trial", "check_reference", "size", "trial_rows"]


@dataclass(frozen=True, eq=False)
class Trial:
    """n rows of the data, as many of the base, and where other draws come from."""

    x1: Tensor
    x0: Tensor
    cond: Mapping[str, Any]
    scale: float  # of the data: the root mean square distance of a number from its mean
    key: int
    paired: bool = False  # whether x0 was given with x1, row by row

    def at(self, field: FlowMap, t: Tensor, place: int) -> tuple[Tensor, Mapping[str, Any]]:
        """x_t of these data at times ``()`` or ``(n,)``, and its conditions."""
        source = stream(self.key, place, device=self.x1.device)
        x0 = self.x0 if self.paired else None
        drawn = field.process.sample(self.x1, x0=x0, t=t, cond=self.cond, generator=source)
        return drawn.x, drawn.cond


def trial_rows(
    field: FlowMap,
    data: DataLike | Distribution | Any,
    n: int,
    cond: Mapping[str, Any] | None,
    generator: torch.Generator | None,
) -> Trial:
    """Draw n rows of the data with their conditions (all of them, if there are fewer), and of x0.

    Args:
        field: the map.
        data: rows ``(N, *)``, pairs ``(x0, x1)``, a Batch or a law, in the units of the data.
        n: number of rows.
        cond: of the N rows, or of n of a law.
        generator: source of randomness.
    """
    n, key, x0 = positive_integer("n", n), draw_key(generator), None
    data = if_array("data", data, like=field.reference())
    if isinstance(data, (Batch, tuple, list)):
        batch = Batch.of(data)  # type: ignore[arg-type]
        data, x0, cond = batch.x1, batch.x0, batch.cond if cond is None else cond
    if isinstance(data, Tensor):
        check_finite_rows(data, "data")
        x = widened(data)
        given = field.check_conditions(cond, len(x), rows="rows of data", device=x.device)
        pick = torch.randperm(len(x), generator=stream(key, 0), device="cpu")[:n].to(x.device)
        x, given = x[pick], map_rows(given, lambda value: value[pick])
        x0 = None if x0 is None else widened(x0)[pick]
    else:
        like = widened(field.reference())
        how: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
        x = as_distribution(data).sample(n, generator=stream(key, 0, device=like.device), **how)
        given = field.check_conditions(cond, n, device=x.device)
    check_events(x, field.process.shape, "data", "the process")
    x = x if field.transform is None else field.transform(x)
    paired = x0 is not None
    if x0 is None:
        x0 = _starts(field, x, stream(key, 1, device=x.device))
    else:
        x0 = x0 if field.transform is None else field.transform(x0)
    scale = float(size(x - x.mean(0)))
    if not scale > 0:
        raise ValueError(
            f"the {len(x)} rows of data are all the same, so that errors have no scale to be held"
            " against; give more rows"
        )
    return Trial(x, x0, given, scale, key, paired)


def _starts(field: FlowMap, x: Tensor, generator: torch.Generator) -> Tensor:
    """As many rows of the law at t = 0."""
    try:
        law = field.own_start
        if field.process.interpolant.uses_base and isinstance(field.process.coupling, Paired):
            raise ValueError("its coupling is Paired")
    except ValueError as error:
        raise ValueError(
            f"a map of pairs is tried on pairs ({error}); give data=(x0, x1), or a Batch(x1, x0)"
        ) from error
    return law.sample(len(x), generator=generator, dtype=x.dtype, device=x.device)


def check_reference(name: str, value: Any, field: FlowMap) -> None:
    """Refuse a reference that is no map from anywhere to anywhere."""
    if not isinstance(value, FlowMap):
        raise TypeError(
            f"{name} is a FlowMap, such as oracle_map(process, law), got a"
            f" {type(value).__name__}; of a field it is maps.SolvedMap(field)"
        )
    if value.to_data:
        raise ValueError(
            f"{name} was trained for t = 1 only (to_data=True), and is asked for other times; give"
            " maps.SolvedMap(teacher), of the field that it was distilled from"
        )
    if value is field:
        raise ValueError(f"{name} is the map itself, so that its error is 0; leave it out")


def size(error: Tensor) -> Tensor:
    """The root mean square of all numbers, ``()``."""
    return (sum_events(error.square()).mean() / math.prod(error.shape[1:])).sqrt()
