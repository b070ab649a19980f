"""What a distillation is measured on: starts with their conditions, and held data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor

from .._core.arrays import if_array
from .._core.checks import check_callable, shown
from .._core.distributed import World
from .._core.random import stream
from ..distributions import as_distribution
from ..draws import Batch
from ..training.arguments import as_source
from .flow_map import FlowMap

__all__ = ["Held", "Trials", "rows_to_start"]


class Trials(TypedDict):
    """Arguments of ``sample``: the number of starts or the starts themselves, and conditions."""

    n: int | None
    start: Tensor | None
    cond: Mapping[str, Any] | None


def rows_to_start(
    field: FlowMap, data: Any, cond: Any, batch_size: int | None, n: int, key: int
) -> Trials:
    """So many starts: of the process, or x0 of rows of the data where it knows no law of them.

    Conditions are those of rows of the data, which are read as ``fit`` reads them.

    Args:
        field: the map.
        data: as for ``fit``.
        cond: as for ``fit``.
        batch_size: as for ``fit``.
        n: how many.
        key: what the rows are drawn by.
    """
    source = as_source(data, field, batch_size, cond, 0, World())
    source.open(key)
    parts: list[Batch] = []
    count = 0
    try:
        while count < n:
            parts.append(source.batch(len(parts)))
            count += len(parts[-1])
    finally:
        source.close()
    given = {
        name: torch.cat([part.cond[name] for part in parts])[:n]
        if isinstance(value, Tensor)
        else value
        for name, value in parts[0].cond.items()
    }
    if _knows_start(field):
        return {"n": n, "start": None, "cond": given or None}
    own = [part.x0 for part in parts if part.x0 is not None]
    if not own:
        raise ValueError(
            "the process knows no law at t = 0, so that starts are the x0 of pairs, and the data"
            " have none; give data=(x0, x1) or a Batch(x1, x0)"
        )
    start = torch.cat(own)[:n]
    start = start if field.transform is None else field.transform.invert(start)
    return {"n": None, "start": start, "cond": given or None}


def _knows_start(field: FlowMap) -> bool:
    try:
        field.own_start  # noqa: B018
    except ValueError:
        return False
    return True


class Held:
    """Draws of the data in two halves, and the distance of what is like them."""

    def __init__(self, distance: Callable[[Tensor, Tensor], Any], data: Any, n: int, key: int):
        check_callable("distance", distance, ("x", "y"))
        self.distance, generator, data = distance, stream(key), if_array("data", data)
        if isinstance(data, (Tensor, Batch, tuple, list)):
            data = Batch.of(data).x1  # type: ignore[arg-type]
            order = torch.randperm(len(data), generator=generator)[: 2 * n].to(data.device)
            first, second = data[order].tensor_split(2)
        elif callable(getattr(data, "sample", None)):
            law = as_distribution(data)
            first, second = (law.sample(n, generator=generator) for _ in range(2))
        else:
            raise TypeError(
                f"distances are taken from tensors or a law, and data is a {type(data).__name__};"
                " leave distance out, or give data=x1, a tensor"
            )
        self.first = first[:n]
        self.floor = self._of(second)

    def _of(self, x: Tensor) -> float:
        found = self.distance(x, self.first)
        try:
            return float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"distance(x, y) must give one number, and it gave {shown(found)}; write"
                " distance=tpf.metrics.energy_distance, for example"
            ) from error

    def distances(self, ends: Mapping[str, Tensor]) -> dict[str, float]:
        """The distance of each from the data, and that of the other half of these."""
        return {"floor": self.floor, **{k: self._of(x[: len(self.first)]) for k, x in ends.items()}}
