"""Data that are read from the front, epoch after epoch: iterable datasets and data loaders.

The generators of torch, numpy and Python that such data see are the source's own: seeded at the
start of each epoch from ``(key, epoch)``, and put in place only while it reads. So an epoch is a
function of ``(key, epoch)``, and a place in it, once lost, is found again by reading up to it; with
a ``state_dict`` of the data's own that is not needed.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DistributedSampler, default_collate

from .._core.distributed import World
from .._core.random import mix
from ..draws import Batch
from ..fields.base import Field
from .ambient import ambient, ambient_from, ambient_to, get_ambient, seed_ambient, set_ambient
from .collated import BRANCHES, VALIDATION_KEY, Collated
from .data import digest

__all__ = ["Loaded", "Streamed"]


class _Read(Collated):
    """What is read, with the place in it: the epoch, and how much of it was given out."""

    exact = True  # whether reading up to a place finds it

    def __init__(
        self, data: Any, field: Field, names: Sequence[str], world: World, what: str
    ) -> None:
        super().__init__(field, names, what)
        self.data, self.world, self.key = data, world, 0
        self._compared = world.size == 1
        self._begin(0)

    @abstractmethod
    def _next(self) -> Any:
        """What the next batch is made of."""

    # ------------------------------------------------------------------------------- the place

    def _begin(self, epoch: int) -> None:
        self._epoch, self._used = epoch, 0
        self._iterator: Iterator[Any] | None = None
        self._ambient: Any = None
        self._at_end = False  # whether the data were put at the end of an epoch, and may say so
        self._place = (epoch, 0)  # after the last whole batch
        self._last: tuple[int, Batch] | None = None

    def open(self, key: int, step: int = 0, state: Any = None) -> None:
        if state is None and key == self.key and self._last is not None:
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
            if not knows and getattr(self.data, "persistent_workers", False):
                warnings.warn(
                    f"the persistent workers of the {type(self.data).__name__} have generators that"
                    " cannot be put back, so what they draw will differ. For an exact resume leave"
                    " persistent_workers out, or give the Dataset with workers=",
                    stacklevel=5,
                )
        elif knows:
            with self._reading():
                self._start()
            self._used, self._ambient = int(state["used"]), ambient_from(state["ambient"])
        elif self.exact:
            self._read_up_to(state["used"])
        else:
            warnings.warn(
                f"the {type(self.data).__name__} has no state_dict, so its place in epoch"
                f" {self._epoch} is lost, and the run goes on from the start of that epoch. For an"
                " exact resume give the Dataset itself, or a loader that has state_dict"
                " (torchdata's StatefulDataLoader)",
                stacklevel=5,
            )
        self._place = (self._epoch, self._used)

    def _read_up_to(self, used: int) -> None:
        with self._reading():
            while self._used < used:
                self._take()

    def taken_from(self, other: _Read) -> None:
        """Go on with what another source of the same data reads, in the same process."""
        self.key, self._compared = other.key, other._compared
        if other._iterator is None:  # it broke off within a batch
            self._begin(other._place[0])
            self._read_up_to(other._place[1])
            self._place = other._place
        else:
            self._epoch, self._used, self._place = other._epoch, other._used, other._place
            self._iterator, self._ambient = other._iterator, other._ambient
            self._at_end = other._at_end
        self._last = other._last

    def state(self) -> Any:
        has = hasattr(self.data, "state_dict") and hasattr(self.data, "load_state_dict")
        return {
            "epoch": self._epoch,
            "used": self._used,
            "whole": self._used > 0 and self._used == self._length(),
            "inner": self.data.state_dict() if has and self._used else None,
            "ambient": None if self._ambient is None else ambient_to(self._ambient),
        }

    # ------------------------------------------------------------------------------- reading

    def batch(self, step: int, last: int | None = None) -> Batch:
        if self._last is not None and self._last[0] == step:  # a step that was interrupted
            return self._last[1]
        try:
            with self._reading():
                given = self._next()
        except BaseException:
            self._iterator = None  # which may be dead, and has given what was not used
            raise
        batch = self.ready(given)
        if not self._compared:
            self._compared = True
            self.world.check_same(
                f"what {self.what} gives (of which the trainer slices each batch by rank, so let it"
                " give every process the whole)",
                {"its first batch": digest(batch)},
            )
        self._place, self._last = (self._epoch, self._used), (step, batch)
        return batch

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """With the source's own generators in place."""
        with ambient():
            if self._ambient is not None:
                set_ambient(self._ambient)
            try:
                yield
            finally:
                self._ambient = get_ambient()

    def _start(self) -> None:
        """Begin to read an epoch, with generators that it alone decides."""
        seed = mix(self.key, BRANCHES["epochs"], self._epoch)
        seed_ambient(seed)
        _seed_own(self.data, seed)
        self._iterator = iter(self.data)

    def _take(self) -> Any:
        """The next thing; at the end of an epoch the first of the next one."""
        for _ in range(3):
            if self._iterator is None:
                self._start()
            assert self._iterator is not None
            thing = next(self._iterator, _END)
            if thing is not _END:
                self._used += 1
                self._at_end = False
                return thing
            if self._used == 0 and not self._at_end:
                break
            last, place = self._last, self._place
            self._begin(self._epoch + (self._used > 0))
            self._last, self._place = last, place
        raise ValueError(
            f"{self.what} is empty: the {type(self.data).__name__} gave nothing in epoch"
            f" {self._epoch}"
        )

    # ------------------------------------------------------------------------------- telling

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
            "conditions": sorted(self.names),
        }


_END = object()


def _seed_own(data: Any, seed: int) -> None:
    """Seed the generators that a loader and its samplers bring with them."""
    samplers = [getattr(data, name, None) for name in ("sampler", "batch_sampler")]
    samplers.append(getattr(samplers[1], "sampler", None))
    own = {id(g): g for g in (getattr(part, "generator", None) for part in (data, *samplers))}
    for generator in own.values():
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)


class Streamed(_Read):
    """Batches of an iterable dataset: B items of the stream that its epochs make together.

    Every process of a data-parallel run reads the whole stream and works on its slice.
    """

    batch_size: int

    def __init__(
        self,
        data: Any,
        batch_size: int,
        field: Field,
        names: Sequence[str],
        world: World,
        what: str,
    ) -> None:
        super().__init__(data, field, names, world, what)
        self.batch_size = batch_size

    def _next(self) -> Any:
        return default_collate([self._take() for _ in range(self.batch_size)])

    def chunks(self, size: int) -> Iterator[Batch]:
        items = []
        with ambient():
            seed_ambient(VALIDATION_KEY)
            for item in self.data:
                items.append(item)
                if len(items) == size:
                    yield self.ready(default_collate(items))
                    items = []
        if items:
            yield self.ready(default_collate(items))


class Loaded(_Read):
    """The batches of a data loader as they are; its settings decide their size and their order."""

    batch_size = None
    exact = False

    def __init__(
        self, data: Any, field: Field, names: Sequence[str], world: World, what: str
    ) -> None:
        if isinstance(getattr(data, "sampler", None), DistributedSampler):
            raise ValueError(
                f"the sampler of {what} is a DistributedSampler, and the trainer slices each batch"
                " by rank itself; give the Dataset, of which each process then loads its part, or"
                " a loader without that sampler"
            )
        super().__init__(data, field, names, world, what)

    def _next(self) -> Any:
        return self._take()

    def chunks(self, size: int) -> Iterator[Batch]:
        with ambient():
            seed_ambient(VALIDATION_KEY)
            _seed_own(self.data, VALIDATION_KEY)
            for given in self.data:
                yield self.ready(given)
