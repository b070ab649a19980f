"""Data that can only be read from their beginning: iterable datasets and data loaders.

Such data are read epoch after epoch, and where a run is in them cannot be computed from the step.
So the *position* is kept: the epoch, and how many items were read in it. It goes into checkpoints,
and a resumed run finds it again by reading, from the start of that epoch, as many items as before
(or at once, where the data have ``state_dict`` and ``load_state_dict`` of their own).

For that the items must come again as they were, though the data may shuffle and augment. What they
draw comes from the global generators of torch, numpy and Python. The source therefore keeps states
of these three for the data alone: seeded at the start of each epoch from ``(key, epoch)``, put in
place while the data are read, and taken out again after each batch.
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
from .data_rows import digest
from .from_items import BRANCHES, VALIDATION_KEY, FromItems
from .global_random import (
    from_storable,
    get_states,
    preserved_states,
    seed_all,
    set_states,
    to_storable,
)

__all__ = ["FromIterable", "FromLoader", "ReadInOrder"]

_END = object()  # what an iterator gives when it has nothing more


class ReadInOrder(FromItems):
    """What is read in order, and the position in it.

    Args:
        data: an iterable dataset or a loader; ``iter(data)`` begins an epoch.
        field: the field to train.
        names: of the conditions.
        world: the processes of the run. Each reads everything and works on its slice of a batch.
        what: what to call the data in messages.
    """

    kind = ""  # in the description of a run
    by_step = False
    exact = True  # whether the data give the same items when they are read again

    def __init__(
        self, data: Any, field: Field, names: Sequence[str], world: World, what: str
    ) -> None:
        super().__init__(field, names, what)
        self.data, self.world, self.key = data, world, 0
        self._compared = world.size == 1  # whether all processes were seen to read the same
        self._begin(0)

    @abstractmethod
    def _next(self) -> Any:
        """What the next batch is made of."""

    def _begin(self, epoch: int) -> None:
        """Stand at the start of an epoch, with nothing read."""
        self._epoch, self._read = epoch, 0
        self._iterator: Iterator[Any] | None = None
        self._states: Any = None  # of the global generators, as the data left them
        self._at_end = False  # the data may say that the epoch is over before they give anything
        self._delivered = (epoch, 0)  # the position after the last whole batch
        self._last: tuple[int, Batch] | None = None  # that batch and its step

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
            with self._own_randomness():
                self._start()
            self._read, self._states = int(state["used"]), from_storable(state["random"])
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
        self._delivered = (self._epoch, self._read)

    def _read_up_to(self, count: int) -> None:
        """Read until ``count`` items of the epoch were read, and drop them."""
        with self._own_randomness():
            while self._read < count:
                self._take()

    def taken_from(self, other: ReadInOrder) -> None:
        """Go on reading where another source of the same data, of an earlier fit, stopped."""
        self.key, self._compared = other.key, other._compared
        if other._iterator is None:  # it broke off within a batch
            self._begin(other._delivered[0])
            self._read_up_to(other._delivered[1])
            self._delivered = other._delivered
        else:
            self._epoch, self._read = other._epoch, other._read
            self._delivered, self._at_end = other._delivered, other._at_end
            self._iterator, self._states = other._iterator, other._states
        self._last = other._last

    def state(self) -> Any:
        has = hasattr(self.data, "state_dict") and hasattr(self.data, "load_state_dict")
        return {
            "epoch": self._epoch,
            "used": self._read,
            "whole": self._read > 0 and self._read == self._length(),
            "inner": self.data.state_dict() if has and self._read else None,
            "random": None if self._states is None else to_storable(self._states),
        }

    def batch(self, step: int, last: int | None = None) -> Batch:
        if self._last is not None and self._last[0] == step:  # a step that was interrupted
            return self._last[1]
        try:
            with self._own_randomness():
                given = self._next()
        except BaseException:
            self._iterator = None  # it may be dead, and some of what it gave was not used
            raise
        batch = self.ready(given)
        if not self._compared:
            self._compared = True
            self.world.check_same(
                f"what {self.what} gives (of which the trainer slices each batch by rank, so let it"
                " give every process the whole)",
                {"its first batch": digest(batch)},
            )
        self._delivered, self._last = (self._epoch, self._read), (step, batch)
        return batch

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Read with the global generators in the states kept for the data, and keep them anew."""
        with preserved_states():
            if self._states is not None:
                set_states(self._states)
            try:
                yield
            finally:
                self._states = get_states()

    def _start(self) -> None:
        """Begin an epoch, whose random draws its number and the key alone decide."""
        seed = mix(self.key, BRANCHES["epochs"], self._epoch)
        seed_all(seed)
        _seed_own(self.data, seed)
        self._iterator = iter(self.data)

    def _take(self) -> Any:
        """The next item; at the end of an epoch the first of the next one."""
        for _ in range(3):
            if self._iterator is None:
                self._start()
            assert self._iterator is not None
            item = next(self._iterator, _END)
            if item is not _END:
                self._read += 1
                self._at_end = False
                return item
            if self._read == 0 and not self._at_end:
                break
            last, delivered = self._last, self._delivered
            self._begin(self._epoch + (self._read > 0))
            self._last, self._delivered = last, delivered
        raise ValueError(
            f"{self.what} is empty: the {type(self.data).__name__} gave nothing in epoch"
            f" {self._epoch}"
        )

    def _length(self) -> int | None:
        try:
            return len(self.data)
        except TypeError:
            return None

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "class": type(self.data).__name__,
            "length": self._length(),
            "conditions": sorted(self.names),
        }


def _seed_own(data: Any, seed: int) -> None:
    """Seed the generators that a loader and its samplers bring with them."""
    samplers = [getattr(data, name, None) for name in ("sampler", "batch_sampler")]
    samplers.append(getattr(samplers[1], "sampler", None))
    own = {id(g): g for g in (getattr(part, "generator", None) for part in (data, *samplers))}
    for generator in own.values():
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)


class FromIterable(ReadInOrder):
    """Batches of an iterable dataset: B items of its epochs, one after another.

    A batch that meets the end of an epoch goes on in the next. For the arguments see
    :class:`ReadInOrder`.
    """

    kind = "iterable dataset"
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
        with preserved_states():
            seed_all(VALIDATION_KEY)
            for item in self.data:
                items.append(item)
                if len(items) == size:
                    yield self.ready(default_collate(items))
                    items = []
        if items:
            yield self.ready(default_collate(items))


class FromLoader(ReadInOrder):
    """The batches of a data loader as they are; its settings decide their size and their order.

    For the arguments see :class:`ReadInOrder`.

    Raises:
        ValueError: if its sampler splits the data between processes, which the trainer does.
    """

    kind = "data loader"
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

    _next = ReadInOrder._take

    def chunks(self, size: int) -> Iterator[Batch]:
        with preserved_states():
            seed_all(VALIDATION_KEY)
            _seed_own(self.data, VALIDATION_KEY)
            for given in self.data:
                yield self.ready(given)
