"""The error of samples by the cost of the solve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.checks import number
from .._core.random import draw_key, stream
from .._core.signatures import checked
from ..fields.base import Field
from ..samplers.sample import sample

__all__ = ["error_by_nfe"]


@checked
def error_by_nfe(
    field: Field,
    distance: Callable[[Tensor], float],
    *,
    n: int,
    schemes: Sequence[str] = ("euler", "heun", "rk4"),
    steps: Sequence[int] = (5, 10, 20, 40),
    epsilon: Any = 0.0,
    cond: Mapping[str, Any] | None = None,
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
        cond: conditions for the network; tensors have n rows.
        generator: source of the starts and of the noise.

    Returns:
        One row ``{"scheme", "steps", "nfe", "distance"}`` for each, by ascending NFE.
    """
    key = draw_key(generator)
    rows = []
    for scheme in schemes:
        for count in steps:
            how: dict[str, Any] = {"cond": cond, "generator": stream(key)}
            solved = sample(field, n, epsilon=epsilon, scheme=scheme, steps=count, **how)
            value = number("distance(x)", distance(solved.x))
            rows.append({"scheme": scheme, "steps": count, "nfe": solved.nfe, "distance": value})
    return sorted(rows, key=lambda row: row["nfe"])
