"""Data that are not tensors: laws, map-style and iterable datasets, data loaders.

What is random in a user's dataset (an augmentation, a shuffle) draws from the generators of torch,
numpy and Python. While the library asks a dataset for something, these are seeded from the key of
the run and from the place of what is asked for, and afterwards given back as they were found. So
the items of step n are a function of ``(key, n)`` here too, with any number of worker processes.
(It costs about 15 µs an item.)

An item, or a batch of a loader, is a tensor x1; a tuple ``(x1, c, ...)`` whose further members are
conditions, named by ``cond=("label", ...)``; with a :class:`Paired` coupling ``(x0, x1, c, ...)``;
a dict with ``"x1"``, perhaps ``"x0"``, and conditions; or, from a loader, a :class:`Batch`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from .._distributed import World
from .._random import mix, stream
from ..batches import Batch
from ..couplings import Paired
from ..distributions import Distribution
from ..fields import Field
from .ambient import (
    ambient,
    ambient_from,
    ambient_to,
    get_ambient,
    seed_ambient,
    set_ambient,
)
from .data import Order, _target, checked, standardised
from .source import Source

__all__ = ["Drawn", "Indexed", "Loaded", "Streamed"]

_DRAWS, _ITEMS, _EPOCHS = 2, 3, 4  # branches of the key
_VALIDATION = 0x76616C6964617465


class _Batches(Source):
    """What all of these share: from a collated thing to a batch on the field's device.

    Args:
        field: the field to train.
        names: of the conditions.
        what: what to call the data in messages.
    """

    def __init__(self, field: Field, names: Sequence[str], what: str) -> None:
        self.field, self.what = field, what
        self.conditions = tuple(names)
        self._first: Batch | None = None

    def ready(self, given: Any) -> Batch:
        """The batch made of a collated thing, checked, standardised and sent to the field."""
        paired = isinstance(self.field.process.coupling, Paired)
        batch = _as_batch(given, self.conditions, paired, self.what)
        on_host = batch.x1.device.type == "cpu" if isinstance(batch.x1, Tensor) else True
        # To look into a batch that is on a card already would wait for it.
        batch = checked(batch, self.field, self.what, finite=on_host or self._first is None)
        device = _target(batch.x1, self.field)
        if batch.x1.device != device:
            batch = batch.map(lambda x: x.to(device, non_blocking=True))
        batch = standardised(batch, self.field)
        if self._first is None:
            self.conditions = tuple(batch.cond)
        self._first = batch.rows(0, 1) if self._first is None else self._first
        return batch


def _as_batch(given: Any, names: Sequence[str], paired: bool, what: str) -> Batch:
    if isinstance(given, Batch):
        return given
    if isinstance(given, Mapping):
        if "x1" not in given:
            raise ValueError(
                f"{what} gives dicts with the keys {sorted(map(str, given))}; the data must be"
                ' under "x1" (and "x0" for pairs), the other keys are conditions'
            )
        rest = {k: v for k, v in given.items() if k not in ("x0", "x1")}
        return Batch(given["x1"], given.get("x0"), rest)
    members = list(given) if isinstance(given, (tuple, list)) else [given]
    data = 1 + paired
    if len(members) != data + len(names):
        form = "(x0, x1" if paired else "(x1"
        wanted = f"{form}{''.join(f', {name}' for name in names)})"
        raise ValueError(
            f"{what} gives {len(members)} things an item, where {wanted} is expected"
            f" ({'the coupling is Paired' if paired else 'the coupling draws x0 itself'}); name"
            " what follows the data, as in cond=('label',), or give dicts"
        )
    x0, x1 = (members[0], members[1]) if paired else (None, members[0])
    return Batch(x1, x0, dict(zip(names, members[data:], strict=True)))


class Drawn(_Batches):
    """Batches drawn from a law, fresh ones at every step."""

    batch_size: int

    def __init__(self, law: Distribution, batch_size: int, field: Field, what: str) -> None:
        super().__init__(field, (), what)
        self.law, self.batch_size = law, batch_size
        self.key = 0

    def open(self, key: int, step: int = 0, state: Any = None) -> None:  # noqa: D102
        self.key = key

    def batch(self, step: int, last: int | None = None) -> Batch:  # noqa: D102
        like = self.field.reference()
        generator = stream(mix(self.key, _DRAWS, step), device=like.device)
        drawn = self.law.sample(
            self.batch_size, generator=generator, dtype=like.dtype, device=like.device
        )
        return self.ready(drawn)

    def chunks(self, size: int) -> Iterator[Batch]:  # noqa: D102
        raise ValueError(
            f"{self.what} is a law, and a validation needs rows that stay the same; write"
            " validation=law.sample(2_000, generator=...)"
        )

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {"kind": "law", "class": type(self.law).__name__, "event": list(self.law.shape)}


class Indexed(_Batches):
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

    def open(self, key: int, step: int = 0, state: Any = None) -> None:  # noqa: D102
        self.key, self._next = key, step
        self._requests = _Requests(Order(len(self.dataset), self.batch_size, key), self.world)
        self.close()

    def close(self) -> None:  # noqa: D102
        self._loading = None

    def batch(self, step: int, last: int | None = None) -> Batch:  # noqa: D102
        if self.workers == 0:
            return self._shared(_Fetch(self.dataset, self.key)[self._requests(step)])
        if self._loading is None or step != self._next:
            self._loading = self._load(step, last)
        self._next = step + 1
        return self._shared(next(self._loading))

    def _load(self, step: int, last: int | None) -> Iterator[Any]:
        steps = range(step, step + 2**40 if last is None else last)
        loader: DataLoader[Any] = DataLoader(
            _Fetch(self.dataset, self.key),
            batch_size=None,
            sampler=map(self._requests, steps),
            num_workers=self.workers,
            pin_memory=_target(torch.empty(0), self.field).type == "cuda",
            # Its seed; what is drawn with it is seeded again, row by row.
            generator=torch.Generator().manual_seed(0),
            collate_fn=_as_it_is,
        )
        return iter(loader)

    def _shared(self, fetched: Any) -> Batch:
        batch = self.ready(fetched)
        if self.world.size == 1:
            return batch
        n = self.batch_size
        return batch.map(lambda x: self.world.gather(x, n))

    def chunks(self, size: int) -> Iterator[Batch]:  # noqa: D102
        fetch = _Fetch(self.dataset, _VALIDATION)
        for start in range(0, len(self.dataset), size):
            rows = list(range(start, min(start + size, len(self.dataset))))
            yield self.ready(fetch[start, rows])

    def describe(self) -> dict[str, Any]:  # noqa: D102
        return {
            "kind": "dataset",
            "class": type(self.dataset).__name__,
            "rows": len(self.dataset),
            "conditions": sorted(self.conditions),
        }


class _Requests:
    """Which rows of a step this process loads.

    (An object of its own, because a loader that held its source would be in a cycle with it, and
    be ended late, by the garbage collector, which takes its workers seconds.)
    """

    def __init__(self, order: Order, world: World) -> None:
        self.order, self.world = order, world

    def __call__(self, step: int) -> tuple[int, list[int]]:
        """The place of the first of these rows among all that are drawn, and the rows."""
        size = self.order.batch_size
        low, high = self.world.slice(size)
        return step * size + low, self.order.index(step)[low:high].tolist()


class _Fetch(Dataset[Any]):
    """A dataset of requests: the items of some rows, collated; each a function of its place."""

    def __init__(self, dataset: Any, key: int) -> None:
        self.dataset, self.key = dataset, key

    def __getitem__(self, request: tuple[int, list[int]]) -> Any:
        place, rows = request
        items = []
        with ambient():
            for k, row in enumerate(rows):
                seed_ambient(mix(self.key, _ITEMS, place + k))
                items.append(self.dataset[row])
        return default_collate(items)


def _as_it_is(fetched: Any) -> Any:
    return fetched


class _Epochwise(_Batches):
    """Data that are read from the front, epoch after epoch; a position is remembered, not seeked.

    The generators of torch, numpy and Python that the data see are the source's own: seeded at the
    start of each epoch from ``(key, epoch)``, and put in place only while it reads.
    """

    read_again = True  # whether a lost position is found by reading up to it

    def __init__(self, data: Any, field: Field, names: Sequence[str], what: str) -> None:
        super().__init__(field, names, what)
        self.data = data
        self.key = 0
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self._epoch, self._used = epoch, 0
        self._iterator: Iterator[Any] | None = None
        self._ambient: Any = None
        self._at_end = False  # whether the data were put at the end of an epoch, and may say so

    def open(self, key: int, step: int = 0, state: Any = None) -> None:
        if self._iterator is not None and key == self.key and state is None:
            return  # a later fit goes on with what it reads
        self.key = key
        self._begin(0 if state is None else int(state["epoch"]))
        if state is None or state["used"] == 0:
            return
        inner = state["inner"]
        knows = inner is not None and hasattr(self.data, "load_state_dict")
        if knows:
            self.data.load_state_dict(inner)
        if state["whole"]:
            self._begin(self._epoch + 1)
            self._at_end = knows
        elif knows:
            self._start()
            self._used, self._ambient = int(state["used"]), ambient_from(state["ambient"])
        elif self.read_again:
            self._start()
            while self._used < state["used"]:
                self._take()
        else:
            warnings.warn(
                f"the {type(self.data).__name__} has no state_dict, so its place in epoch"
                f" {self._epoch} is lost, and the run goes on from the start of that epoch. For an"
                " exact resume give the Dataset itself, or a loader that has state_dict"
                " (torchdata's StatefulDataLoader)",
                stacklevel=5,
            )

    def taken_from(self, other: _Epochwise) -> None:
        """Go on with what another source of the same data reads, in the same process."""
        self.key = other.key
        self._epoch, self._used = other._epoch, other._used
        self._iterator, self._ambient = other._iterator, other._ambient

    def state(self) -> Any:
        has = hasattr(self.data, "state_dict") and hasattr(self.data, "load_state_dict")
        return {
            "epoch": self._epoch,
            "used": self._used,
            "whole": self._used > 0 and self._used == self._length(),
            "inner": self.data.state_dict() if has and self._used else None,
            "ambient": None if self._ambient is None else ambient_to(self._ambient),
        }

    def _start(self) -> None:
        with self._own_ambient(seed=mix(self.key, _EPOCHS, self._epoch)):
            own = getattr(self.data, "generator", None)
            if isinstance(own, torch.Generator):
                own.manual_seed(mix(self.key, _EPOCHS, self._epoch))
            self._iterator = iter(self.data)

    def _take(self) -> Any:
        """The next thing; at the end of an epoch the first of the next one."""
        for _ in range(3):
            if self._iterator is None:
                self._start()
            assert self._iterator is not None
            with self._own_ambient():
                try:
                    thing = next(self._iterator)
                except StopIteration:
                    thing = _END
            if thing is not _END:
                self._used += 1
                self._at_end = False
                return thing
            if self._used == 0 and not self._at_end:
                break
            self._begin(self._epoch + (self._used > 0))
        raise ValueError(
            f"{self.what} is empty: the {type(self.data).__name__} gave nothing in epoch"
            f" {self._epoch}"
        )

    @contextmanager
    def _own_ambient(self, seed: int | None = None) -> Iterator[None]:
        with ambient():
            if seed is not None:
                seed_ambient(seed)
            elif self._ambient is not None:
                set_ambient(self._ambient)
            try:
                yield
            finally:
                self._ambient = get_ambient()

    def _length(self) -> int | None:
        try:
            return len(self.data)
        except TypeError:
            return None

    def describe(self) -> dict[str, Any]:
        return {
            "kind": type(self).__name__.lower(),
            "class": type(self.data).__name__,
            "length": self._length(),
            "conditions": sorted(self.conditions),
        }


_END = object()


class Streamed(_Epochwise):
    """Batches of an iterable dataset: B items of the stream that its epochs make together.

    Every process of a data-parallel run reads the whole stream and works on its slice.
    """

    batch_size: int

    def __init__(
        self, data: Any, batch_size: int, field: Field, names: Sequence[str], what: str
    ) -> None:
        super().__init__(data, field, names, what)
        self.batch_size = batch_size

    def batch(self, step: int, last: int | None = None) -> Batch:  # noqa: D102
        return self.ready(default_collate([self._take() for _ in range(self.batch_size)]))

    def chunks(self, size: int) -> Iterator[Batch]:  # noqa: D102
        items = []
        with ambient():
            seed_ambient(_VALIDATION)
            for item in self.data:
                items.append(item)
                if len(items) == size:
                    yield self.ready(default_collate(items))
                    items = []
        if items:
            yield self.ready(default_collate(items))


class Loaded(_Epochwise):
    """The batches of a data loader as they are; its settings decide their size and their order."""

    batch_size = None
    read_again = False

    def __init__(self, data: Any, field: Field, names: Sequence[str], what: str) -> None:
        if isinstance(getattr(data, "sampler", None), DistributedSampler):
            raise ValueError(
                f"the sampler of {what} is a DistributedSampler, and the trainer slices each batch"
                " by rank itself; give the Dataset, of which each process then loads its part, or"
                " a loader without that sampler"
            )
        super().__init__(data, field, names, what)

    def batch(self, step: int, last: int | None = None) -> Batch:  # noqa: D102
        return self.ready(self._take())

    def chunks(self, size: int) -> Iterator[Batch]:  # noqa: D102
        with ambient():
            seed_ambient(_VALIDATION)
            for given in self.data:
                yield self.ready(given)
