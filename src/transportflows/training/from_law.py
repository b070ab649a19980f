"""Batches drawn from a law: data without end, of which no row comes twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._core.random import mix, stream
from ..distributions.base import Distribution
from ..draws import Batch
from ..fields.base import Field
from .from_items import BRANCHES, FromItems

__all__ = ["FromLaw"]


class FromLaw(FromItems):
    """Batches drawn from a law, fresh ones at every step."""

    batch_size: int

    def __init__(self, law: Distribution, batch_size: int, field: Field, what: str) -> None:
        super().__init__(field, (), what)
        self.law, self.batch_size = law, batch_size
        self.key = 0

    def open(self, key: int, step: int = 0, state: Any = None) -> None:
        self.key = key

    def batch(self, step: int, last: int | None = None) -> Batch:
        like = self.field.reference()
        generator = stream(mix(self.key, BRANCHES["draws"], step), device=like.device)
        drawn = self.law.sample(
            self.batch_size, generator=generator, dtype=like.dtype, device=like.device
        )
        return self.ready(drawn)

    def chunks(self, size: int) -> Iterator[Batch]:
        raise ValueError(
            f"{self.what} is a law, and a validation needs rows that stay the same; write"
            " validation=law.sample(2_000, generator=...)"
        )

    def describe(self) -> dict[str, Any]:
        return {"kind": "law", "class": type(self.law).__name__, "event": list(self.law.shape)}
