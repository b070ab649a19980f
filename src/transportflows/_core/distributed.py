"""The processes of a data-parallel run: who they are, what they share, how they fail together.

Under ``torchrun`` every process runs the same script. Each holds the whole state (weights,
averages, optimizer) and works on its slice of the rows; sums and gathers make the results one. A
process alone is a world of one, in which all of this does nothing.

When a process fails it leaves its message in the store that all share and closes its connections,
so that the others, which wait for it in a sum, wake up and fail with that message. One that ends
without a word closes its connections too; for one that lives and does not come there is
``patience.py``.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .buckets import as_bytes, buckets
from .patience import Patience, WorkerError
from .signatures import checked

__all__ = ["WorkerError", "World", "local_device", "world"]

T = TypeVar("T")


def local_device() -> torch.device:
    """The device of this process: its own card under ``torchrun``, else the card, else the CPU.

    ``torchrun`` numbers the processes of a machine; process k gets card k. It also becomes torch's
    current device, which collective operations use.

    Raises:
        ValueError: if the machine has fewer cards than processes.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    own, cards = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if own >= cards:
        raise ValueError(
            f"this is process {own} of its machine, which has {cards} cards; write"
            f" torchrun --nproc-per-node={cards}"
        )
    torch.cuda.set_device(own)
    return torch.device("cuda", own)


def world() -> World:
    """The processes of this run; joins those that ``torchrun`` started, if they are not joined."""
    if not dist.is_available():
        return World()
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", 1)) < 2 or "RANK" not in os.environ:
            return World()
        from torch.distributed.rendezvous import rendezvous

        Patience.joined += 1
        try:
            store, rank, size = next(rendezvous("env://", timeout=Patience.limit))
            # The store still has the addresses of an earlier group, which an error closed.
            name = f"transportflows {Patience.joined}"
            store = dist.distributed_c10d.PrefixStore(name, store)
            dist.init_process_group(store=store, rank=rank, world_size=size, timeout=Patience.limit)
        except RuntimeError as error:
            raise WorkerError(
                "the processes of this run did not all come within"
                f" {Patience.limit.total_seconds():g} s; perhaps one of them ended before"
                f" ({str(error).strip().splitlines()[0]})"
            ) from error
        Patience.made = True
        atexit.register(_leave)
    return World(dist.get_rank(), dist.get_world_size())


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@checked
@dataclass(frozen=True)
class World:
    """This process among ``size`` of them.

    Attributes:
        rank: number of this process; 0 writes the files.
        size: number of processes.

    Raises:
        ValueError: if the rank is not below the size.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank must be in 0 .. size - 1, got {self.rank} of {self.size}")

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0

    def slice(self, n: int) -> tuple[int, int]:
        """This process's rows of n: from the first to before the second number."""
        return n * self.rank // self.size, n * (self.rank + 1) // self.size

    # --------------------------------------------------------------------------- what is shared

    def sum_(self, *tensors: Tensor) -> None:
        """Add up tensors over all processes, in place."""
        if self.size == 1:
            return
        what = "a sum over processes"
        works = [
            self._checked(what, lambda t=t: dist.all_reduce(t, async_op=True))  # type: ignore[misc]
            for t in tensors
        ]
        for work in works:
            self._checked(what, work.wait)

    def sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Add up gradients, of any shapes, over all processes, in place, in few large messages."""
        if self.size == 1:
            return
        for bucket in buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            self.sum_(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            torch._foreach_copy_(
                list(bucket), [p.view_as(g) for p, g in zip(parts, bucket, strict=True)]
            )

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors, of any shapes, by those of process 0."""
        if self.size == 1:
            return
        what = "taking the tensors of process 0"
        for tensor in tensors:
            whole = as_bytes(tensor)
            self._checked(what, lambda whole=whole: dist.broadcast(whole, 0))  # type: ignore[misc]
            tensor.detach().copy_(whole.view(tensor.dtype).view(tensor.shape))

    def agreed(self, value: T) -> T:
        """The value of process 0: numbers, strings, and lists and dicts of them."""
        if self.size == 1:
            return value
        box = [value]
        self._checked("taking the word of process 0", lambda: dist.broadcast_object_list(box, 0))
        return box[0]

    def all_values(self, value: T) -> list[T]:
        """The value of each process, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        self._checked("asking all processes", lambda: dist.all_gather_object(values, value))
        return values

    def gather(self, x: Tensor, n: int, dim: int = 0) -> Tensor:
        """All n rows from the slices of the processes, on every process.

        Args:
            x: this process's slice of the rows, ``(n_k, *)``.
            n: rows in all.
            dim: dimension of the rows.
        """
        if self.size == 1:
            return x
        most = -(-n // self.size)
        mine = x.movedim(dim, 0).contiguous()
        padded = mine.new_zeros(most, *mine.shape[1:])
        padded[: len(mine)] = mine
        sent = as_bytes(padded)  # every dtype, on every backend
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        self._checked("gathering the rows of all", lambda: dist.all_gather(parts, sent))
        rows = []
        for rank, part in enumerate(parts):
            low, high = World(rank, self.size).slice(n)
            rows.append(part.view(x.dtype).view(padded.shape)[: high - low])
        return torch.cat(rows).movedim(0, dim)

    def check_same(self, what: str, told: Mapping[str, Any]) -> None:
        """Refuse descriptions that differ between processes, on all of them.

        Raises:
            ValueError: what differs, and between which.
        """
        if self.size == 1:
            return
        for rank, other in enumerate(self.all_values(dict(told))):
            names = sorted(name for name in told if other.get(name) != told[name])
            if names:
                spelled = "; ".join(f"{n}: {other.get(n)!r} and {told[n]!r}" for n in names)
                raise ValueError(
                    f"{what} must be the same on all processes, and processes {rank} and"
                    f" {self.rank} differ in {spelled}"
                )

    def all_fine(self, error: Exception | None) -> None:
        """Raise the error of this process, or a :class:`WorkerError` if another has one.

        For what each process does by itself: all arrive here, and none waits for one that left.

        Raises:
            WorkerError: if it is another that failed.
        """
        told = None if error is None else f"{type(error).__name__}: {error}"
        errors = self.all_values(told) if self.size > 1 else []
        if error is not None:
            raise error
        for rank, other in enumerate(errors):
            if other is not None:
                raise WorkerError(f"another process of this run failed: process {rank}: {other}")

    # -------------------------------------------------------------------------------- failing

    @contextmanager
    def together(self, doing: Callable[[], str] | None = None) -> Iterator[None]:
        """Within it, an error of one process ends the others with its message.

        Args:
            doing: says what was being done, where something fails.

        Raises:
            WorkerError: in the others, if one has failed.
        """
        if self.size == 1:
            yield
            return
        Patience.stretch, Patience.doing = Patience.stretch + 1, doing
        try:
            yield
        except WorkerError:
            Patience.close()
            raise
        except BaseException as error:
            if Patience.broken(error):  # in an engine of torch, which says it in its own way
                why = Patience.why(error, self.rank, self.size, "the gradients or shards")
                Patience.close()
                raise WorkerError(why) from error
            Patience.tell(f"process {self.rank}: {type(error).__name__}: {error}")
            Patience.close()
            raise
        finally:
            Patience.doing = None

    def _checked(self, what: str, call: Callable[[], T]) -> T:
        """A collective call, whose failure is told in the words of the process that failed."""
        try:
            return call()
        except RuntimeError as error:
            raise WorkerError(Patience.why(error, self.rank, self.size, what)) from error
