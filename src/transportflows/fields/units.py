"""In which units a field's laws are: the data's at its surface, those of the process inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..distributions import Distribution, Empirical, Transformed, as_distribution
from ..process import Process
from ..transforms import Standardize

__all__ = ["check_units", "log_base_of", "log_scale", "outer_start", "starting_law"]


def check_units(process: Process, transform: Standardize | None) -> None:
    """Refuse a base of rows of data in the process of a field that standardises the data."""
    base = process.base
    if transform is not None and isinstance(base, Empirical):
        raise ValueError(
            "the field has a transform, so its process is in standardised units, and the base is an"
            " Empirical law of rows, which are in the data's; write"
            " base=Transformed(Empirical(x0), transform), with Transformed of"
            " transportflows.distributions"
        )
    if isinstance(base, Transformed) and not base.inverse and not _same(base.transform, transform):
        raise ValueError(
            f"the base is standardised by {base.transform!r} and the field has the transform"
            f" {transform!r}; give both the same one"
        )


def _same(one: Standardize, other: Standardize | None) -> bool:
    if other is None or one is other:
        return one is other
    pairs = ((one.mean, other.mean), (one.scale, other.scale))
    return all(a.shape == b.shape and torch.equal(a.to(b), b) for a, b in pairs)


def outer_start(law: Distribution, transform: Standardize | None) -> Distribution:
    """A law at t = 0 in the units of the data, of one in those of the process."""
    if transform is None:
        return law
    if isinstance(law, Transformed) and not law.inverse:
        return law.law
    return Transformed(law, transform, inverse=True)


def starting_law(field: Any, given: Any | None) -> Distribution:
    """A law at t = 0 in the units of the process, of one in those of the data.

    Args:
        field: the field.
        given: any law, in the units of the data; None for the field's own, or the process's own
            base or start for that of the process.
    """
    process, transform = field.process, field.transform
    if given is None:
        own: Distribution = field.own_start
        return own
    if process.own_law(given):
        start: Distribution = process.start
        return start
    law = as_distribution(given)
    if transform is None:
        return law
    if isinstance(law, Transformed) and law.inverse and law.transform is transform:
        return law.law
    return Transformed(law, transform)


def log_base_of(field: Any, base: Any | None, state: Tensor) -> Tensor:
    """Log-density of states at t = 0, in the field's units."""
    law = starting_law(field, base)
    try:
        return law.log_prob(state)
    except NotImplementedError as error:
        raise ValueError(
            f"the law at t = 0 ({type(base or law).__name__}) has no log-density, so none is"
            " known at t = 1; give base= a law with log_prob, such as Gaussian.fit(x0)"
        ) from error


def log_scale(field: Any, x: Tensor) -> float | Tensor:
    """``Σ log s`` over the event, by which the transform's scales s lower a log-density."""
    if field.transform is None:
        return 0.0
    scale = field.transform.scale.to(x)
    total: Tensor = scale.log().expand(x.shape[1:]).sum()
    return total
