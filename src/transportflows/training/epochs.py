"""The order of rows: a random permutation for each epoch, and batches along it.

Rows are drawn without replacement. The permutation of epoch e is a function of ``(key, e)``, and
the epochs follow one another without a gap, so the rows of step n are a function of ``(key, n)``
alone. A run is therefore resumed from two integers, and the processes of a data-parallel run agree
on the batch of a step without talking to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.conditions import map_rows
from .._core.random import mix, stream
from .._core.signatures import checked
from .._core.tensor import widened
from .._core.trained import seen_in
from ..draws import Batch
from ..process import Process
from .data_rows import DataRows, digest
from .source import Source

__all__ = ["Epochs", "Order"]

_ORDER = 1  # the branch of the key that orders rows; the steps themselves are branch 0
_AHEAD_STEPS, _AHEAD_BYTES = 64, 2**24


class Order:
    """The order of N rows: step n takes places ``n B`` to ``(n + 1) B`` of a chain of permutations.

    Every row is drawn once an epoch. All batches have B rows; one that meets the end of an epoch
    goes on in the next. With more places than rows, ``B > N``, a batch holds every row ``⌊B/N⌋``
    or ``⌈B/N⌉`` times.

    With weights an epoch of N places has each row as often as it should, ``N w``, rounded down or
    up at random (systematic sampling), so that every row has its share in the mean over epochs.

    Args:
        n: N.
        batch_size: B.
        key: the key of the run.
        device: where the permutations are made; they depend on its kind.
        weights: of the rows, ``(N,)``; None for equal ones.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        key: int,
        device: torch.device | str = "cpu",
        weights: Tensor | None = None,
    ) -> None:
        self.n, self.batch_size, self.key, self.device = n, batch_size, key, device
        self.ends: Tensor | None = None
        if weights is not None:
            ends = weights.to(device, torch.float64).cumsum(0)
            self.ends = ends / ends[-1]
        self._epoch, self._permuted = -1, torch.empty(0)

    def index(self, step: int, steps: int = 1) -> Tensor:
        """The rows of some steps, ``(steps * B,)`` integers."""
        epoch, place = divmod(step * self.batch_size, self.n)
        parts, missing = [], steps * self.batch_size
        while missing > 0:
            parts.append(self._permutation(epoch)[place : place + missing])
            missing -= parts[-1].shape[0]
            epoch, place = epoch + 1, 0
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = stream(mix(self.key, _ORDER, epoch), device=self.device)
            self._permuted = torch.randperm(self.n, generator=generator, device=self.device)
            if self.ends is not None:
                shift = torch.rand((), generator=generator, device=self.device).double()
                places = (torch.arange(self.n, device=self.device) + shift) / self.n
                rows = torch.searchsorted(self.ends, places, right=True).clamp_(max=self.n - 1)
                self._permuted = rows[self._permuted]
            self._epoch = epoch
        return self._permuted


@checked
class Epochs(Source):
    """Batches of rows in a random order, epoch by epoch, a function of ``(key, step)``.

    They are gathered some way ahead, in one call for up to 64 steps or 16 MB of them, so that a
    step only takes the next of them.

    Args:
        rows: N rows.
        batch_size: B.
        key: the key of the run.
        weights: by which rows are drawn, ``(N,)``; None for equal ones.
        places: numbers by which the coupling knows the rows, ``(N,)``, or None.
    """

    batch_size: int

    def __init__(
        self,
        rows: DataRows,
        batch_size: int,
        key: int = 0,
        weights: Tensor | None = None,
        places: Tensor | None = None,
    ) -> None:
        self.rows, self.batch_size = rows, batch_size
        self.weights, self.places = weights, places
        self.conditions = seen_in(rows.cond)
        tensors = rows.tensors()
        size = sum(x[:1].numel() * x.element_size() for x in tensors) * batch_size
        self._ahead = max(1, min(_AHEAD_STEPS, _AHEAD_BYTES // max(size, 1)))
        self.open(key)

    @classmethod
    def for_process(
        cls, process: Process, rows: DataRows, batch_size: int, paired: bool = True
    ) -> Epochs:
        """Batches of rows, where ``paired`` by the weights of the coupling, with its numbers.

        Raises:
            ValueError: if they are not the data that the coupling is of.
        """
        if not paired or not process.interpolant.uses_base:
            return cls(rows, batch_size)
        coupling, x1 = process.coupling, widened(rows.x1)
        weights, places = coupling.row_weights(x1, rows.cond), coupling.row_places(x1, rows.cond)
        return cls(rows, batch_size, weights=weights, places=places)

    def __repr__(self) -> str:
        names = f", conditions {sorted(self.rows.cond)}" if self.rows.cond else ""
        return f"Epochs({len(self.rows)} rows, batch_size={self.batch_size}{names})"

    def open(self, key: int, step: int = 0, state: Any = None) -> None:
        home = self.rows.x1.device
        self.order = Order(len(self.rows), self.batch_size, key, home, self.weights)
        self._first, self._batches = 0, list[Batch]()

    def batch(self, step: int, last: int | None = None) -> Batch:
        place = step - self._first
        if not 0 <= place < len(self._batches):
            ahead = self._ahead if last is None else max(1, min(self._ahead, last - step))
            self._first, place = step, 0
            self._batches = self._gather(step, ahead)
        return self._batches[place]

    def chunks(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self.rows), size):
            yield self.rows.slice(start, start + size)

    def describe(self) -> dict[str, Any]:
        rows = self.rows
        return {
            "kind": "rows" if rows.x0 is None else "pairs",
            "rows": len(rows),
            "event": list(rows.x1.shape[1:]),
            "dtype": str(rows.x1.dtype),
            "conditions": sorted(rows.cond),
            "sum": digest(Batch(rows.x1, rows.x0, rows.cond)),
        }

    def block(self, step: int, steps: int) -> Batch:
        """The rows of some steps, one after another, as one batch; they have no places."""
        return self.rows.take(self.order.index(step, steps))

    def _gather(self, step: int, steps: int) -> list[Batch]:
        index, size = self.order.index(step, steps), self.batch_size
        block = self.rows.take(index)
        x1 = torch.split(block.x1, size)
        places: Sequence[Tensor | None] = [None] * steps
        if self.places is not None:
            places = torch.split(self.places.index_select(0, index).to(block.x1.device), size)
        x0 = [None] * steps if block.x0 is None else torch.split(block.x0, size)
        cond = map_rows(block.cond, lambda value: torch.split(value, size))
        return [
            Batch(
                x1[n],
                x0[n],
                {k: v[n] if type(v) is tuple else v for k, v in cond.items()},
                places=places[n],
            )
            for n in range(steps)
        ]
