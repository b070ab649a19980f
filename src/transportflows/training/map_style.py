"""Batches of a map-style dataset: one with ``len(dataset)`` and ``dataset[i]``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from .._core.distributed import World
from .._core.random import mix
from ..draws import Batch
from ..fields.base import Field
from .epochs import Order
from .from_items import BRANCHES, VALIDATION_KEY, FromItems
from .global_random import preserved_states, seed_all

__all__ = ["MapStyle"]


class MapStyle(FromItems):
    """Batches of a map-style dataset, in a random order, epoch by epoch.

    Each process of a data-parallel run loads its slice of a batch; the batch is then gathered.

    Args:
        dataset: ``dataset[i]`` for i in ``range(len(dataset))``.
        batch_size: B.
        field: the field to train.
        names: of the conditions.
        workers: processes that load, besides this one; 0 for none.
        world: the processes of the run.
        what: what to call the data in messages.
    """

    batch_size: int

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        field: Field,
        names: Sequence[str],
        workers: int,
        world: World,
        what: str,
    ) -> None:
        super().__init__(field, names, what)
        self.dataset, self.batch_size, self.workers = dataset, batch_size, workers
        self.world, self.key = world, 0
        self._loading: Iterator[Any] | None = None
        self._next = 0

    def open(self, key: int, step: int = 0, state: Any = None) -> None:
        self.key, self._next = key, step
        self._requests = _Requests(Order(len(self.dataset), self.batch_size, key), self.world)
        self.close()

    def close(self) -> None:
        self._loading = None

    def batch(self, step: int, last: int | None = None) -> Batch:
        if self.workers == 0:
            return self._gathered(_Fetch(self.dataset, self.key)[self._requests(step)])
        if self._loading is None or step != self._next:
            self._loading = self._load(step, last)
        self._next = step + 1
        return self._gathered(next(self._loading))

    def _load(self, step: int, last: int | None) -> Iterator[Any]:
        """What worker processes fetch for the steps from this one on."""
        steps = range(step, step + 2**40 if last is None else last)
        loader: DataLoader[Any] = DataLoader(
            _Fetch(self.dataset, self.key),
            batch_size=None,
            sampler=map(self._requests, steps),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            # A loader draws a seed for its workers; the items are seeded anew, one by one.
            generator=torch.Generator().manual_seed(0),
            collate_fn=_as_it_is,
        )
        return iter(loader)

    def _gathered(self, fetched: Any) -> Batch:
        """The whole batch, of which each process has fetched its slice."""
        batch = self.ready(fetched)
        if self.world.size == 1:
            return batch
        n = self.batch_size
        return batch.map(lambda x: self.world.gather(x, n))

    def chunks(self, size: int) -> Iterator[Batch]:
        fetch = _Fetch(self.dataset, VALIDATION_KEY)
        for start in range(0, len(self.dataset), size):
            rows = list(range(start, min(start + size, len(self.dataset))))
            yield self.ready(fetch[start, rows])

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "map-style dataset",
            "class": type(self.dataset).__name__,
            "rows": len(self.dataset),
            "conditions": sorted(self.names),
        }


class _Requests:
    """Which rows of a step this process loads.

    An object of its own rather than a method of the source: a loader that holds the source which
    holds it is freed only by the garbage collector, some time later, and meanwhile its worker
    processes live on.
    """

    def __init__(self, order: Order, world: World) -> None:
        self.order, self.world = order, world

    def __call__(self, step: int) -> tuple[int, list[int]]:
        """The place of the first of these rows among all that are drawn, and the rows."""
        size = self.order.batch_size
        low, high = self.world.slice(size)
        return step * size + low, self.order.index(step)[low:high].tolist()


class _Fetch(Dataset[Any]):
    """The items of some rows, collated; what is random in each is a function of its place."""

    def __init__(self, dataset: Any, key: int) -> None:
        self.dataset, self.key = dataset, key

    def __getitem__(self, request: tuple[int, list[int]]) -> Any:
        place, rows = request
        items = []
        with preserved_states():
            for k, row in enumerate(rows):
                seed_all(mix(self.key, BRANCHES["items"], place + k))
                items.append(self.dataset[row])
        return default_collate(items)


def _as_it_is(fetched: Any) -> Any:  # a lambda could not be sent to a worker
    return fetched
