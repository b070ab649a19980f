"""Rows: training data that are tensors, checked and standardised once, and the order of them.

Rows are drawn without replacement, epoch by epoch. Epoch e is a permutation that is a function of
``(key, e)``, and the epochs follow one another without a gap, so the rows of step n are a function
of ``(key, n)`` alone: a run is resumed from two integers, and the ranks of a data-parallel run
agree on the global batch without talking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import check_finite_rows, check_same_kind
from .._core.random import mix, stream
from ..couplings.base import Paired
from ..draws import Batch
from ..fields.base import Field
from .source import Source

__all__ = ["Epochs", "Order", "Rows", "checked", "digest", "standardised", "target_device"]

_ORDER = 1  # the branch of the key that orders rows; the steps themselves are branch 0
_AHEAD_STEPS, _AHEAD_BYTES = 64, 2**24
_SHARE_OF_CARD = 0.5
_DIGEST_ROWS = 1024


@dataclass(frozen=True)
class Rows:
    """N rows of data in standardised units, on one device.

    Attributes:
        x1: data, ``(N, *)``.
        x0: base samples paired with them, ``(N, *)``, or None.
        cond: conditions, tensors of N rows each.
        device: where batches of them go: to the field. The rows themselves are there too if they
            fit into half of what is free on it, and otherwise in the memory of the host, pinned.
    """

    x1: Tensor
    x0: Tensor | None = None
    cond: Mapping[str, Tensor] = field(default_factory=dict)
    device: torch.device | None = None

    def __len__(self) -> int:
        return self.x1.shape[0]

    @classmethod
    def of(
        cls,
        data: Tensor | tuple[Tensor, Tensor] | Batch,
        field: Field,
        cond: Mapping[str, Tensor] | None = None,
        *,
        name: str = "data",
    ) -> Rows:
        """Check data in the user's units against a field, and standardise them.

        Args:
            data: ``x1`` ``(N, *)``; or a pair ``(x0, x1)``, for a :class:`Paired` coupling and
                only for it; or a :class:`Batch`, which can carry conditions too.
            field: the field to train: its process, the dtype and device of its networks, and its
                ``transform``, applied here to both members of a pair.
            cond: conditions, tensors of N rows each.
            name: what to call the data in messages.

        Raises:
            TypeError: if something is no tensor, or of no floating-point dtype.
            ValueError: for NaN or infinite rows, no rows, a dtype, device or event shape that is
                not the field's, conditions of another length, or pairs where the coupling draws
                them itself (and the reverse).
        """
        if not isinstance(data, (Tensor, tuple, list, Batch)):
            raise TypeError(
                f"{name} must be a tensor x1, a pair of tensors (x0, x1) or a Batch, got"
                f" {type(data).__name__}; write torch.as_tensor(..., dtype=torch.float32)"
            )
        if isinstance(data, (tuple, list)) and len(data) != 2:
            raise TypeError(f"{name} must be x1 or a pair (x0, x1), got {len(data)} things")
        batch = Batch.of(data)
        if cond and batch.cond:
            raise ValueError(f"{name} is a Batch with conditions, and cond= gives others; give one")
        batch = checked(Batch(batch.x1, batch.x0, dict(cond or batch.cond)), field, name)
        device = target_device(field, batch.x1)
        if device != batch.x1.device and _fits(batch, device):
            batch = batch.map(lambda x: x.to(device))
        batch = standardised(batch, field)
        if device != batch.x1.device and device.type == "cuda":
            batch = batch.map(Tensor.pin_memory)
        return cls(batch.x1, batch.x0, batch.cond, device)

    def take(self, index: Tensor) -> Batch:
        """The rows of an index, ``(B,)``, as a batch."""
        x0 = None if self.x0 is None else self.x0.index_select(0, index)
        cond = {key: value.index_select(0, index) for key, value in self.cond.items()}
        return self._sent(Batch(self.x1.index_select(0, index), x0, cond))

    def slice(self, start: int, stop: int) -> Batch:
        """The rows from ``start`` up to ``stop``, as a batch."""
        return self._sent(Batch(self.x1, self.x0, self.cond).rows(start, stop))

    def _sent(self, batch: Batch) -> Batch:
        """The batch on the device of the field."""
        device = self.device
        if device is None or device == batch.x1.device:
            return batch
        return batch.map(lambda x: x.to(device, non_blocking=True))

    def describe(self) -> dict[str, Any]:
        """What the rows are, and a sum over up to 1,024 of them, spread evenly."""
        told: dict[str, Any] = {
            "kind": "rows" if self.x0 is None else "pairs",
            "rows": len(self),
            "event": list(self.x1.shape[1:]),
            "dtype": str(self.x1.dtype),
            "conditions": sorted(self.cond),
        }
        return {**told, "sum": digest(Batch(self.x1, self.x0, self.cond))}


class Order:
    """The order of N rows: step n takes places ``n B`` to ``(n + 1) B`` of a chain of permutations.

    Every row is drawn once an epoch. All batches have B rows; one that meets the end of an epoch
    goes on in the next. With more places than rows, ``B > N``, a batch holds every row ``⌊B/N⌋``
    or ``⌈B/N⌉`` times.

    Args:
        n: N.
        batch_size: B.
        key: the key of the run.
        device: where the permutations are made; they depend on its kind.
    """

    def __init__(
        self, n: int, batch_size: int, key: int, device: torch.device | str = "cpu"
    ) -> None:
        self.n, self.batch_size, self.key, self.device = n, batch_size, key, device
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
            self._epoch = epoch
        return self._permuted


class Epochs(Source):
    """Batches of rows in a random order, epoch by epoch, a function of ``(key, step)``.

    They are gathered some way ahead, in one call for up to 64 steps or 16 MB of them, so that a
    step only takes the next of them.

    Args:
        rows: N rows.
        batch_size: B.
        key: the key of the run.
    """

    batch_size: int

    def __init__(self, rows: Rows, batch_size: int, key: int = 0) -> None:
        self.rows, self.batch_size = rows, batch_size
        self.conditions = tuple(rows.cond)
        tensors = [rows.x1, *([] if rows.x0 is None else [rows.x0]), *rows.cond.values()]
        size = sum(x[:1].numel() * x.element_size() for x in tensors) * batch_size
        self._ahead = max(1, min(_AHEAD_STEPS, _AHEAD_BYTES // max(size, 1)))
        self.open(key)

    def open(self, key: int, step: int = 0, state: Any = None) -> None:
        self.order = Order(len(self.rows), self.batch_size, key, self.rows.x1.device)
        self._first, self._batches = 0, list[Batch]()

    def batch(self, step: int, last: int | None = None) -> Batch:
        place = step - self._first
        if not 0 <= place < len(self._batches):
            ahead = self._ahead if last is None else max(1, min(self._ahead, last - step))
            self._first, place = step, 0
            self._batches = self._gather(step, ahead)
        return self._batches[place]

    def index(self, step: int, steps: int = 1) -> Tensor:
        """The rows of some steps, ``(steps * B,)`` integers."""
        return self.order.index(step, steps)

    def chunks(self, size: int) -> Iterator[Batch]:
        for start in range(0, len(self.rows), size):
            yield self.rows.slice(start, start + size)

    def describe(self) -> dict[str, Any]:
        return self.rows.describe()

    def _gather(self, step: int, steps: int) -> list[Batch]:
        block, size = self.rows.take(self.index(step, steps)), self.batch_size
        x1 = torch.split(block.x1, size)
        x0 = [None] * steps if block.x0 is None else torch.split(block.x0, size)
        cond = {name: torch.split(value, size) for name, value in block.cond.items()}
        return [
            Batch(x1[n], x0[n], {name: parts[n] for name, parts in cond.items()})
            for n in range(steps)
        ]


def digest(batch: Batch) -> str:
    """A sum over up to 1,024 rows of a batch, spread evenly."""
    index = torch.linspace(0, len(batch) - 1, min(len(batch), _DIGEST_ROWS)).long()
    total = hashlib.sha256()
    for x in (batch.x1, batch.x0, *(batch.cond[name] for name in sorted(batch.cond))):
        if isinstance(x, Tensor):
            some = x[index.to(x.device)].cpu().contiguous().reshape(-1)
            total.update(some.view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def checked(batch: Batch, field: Field, name: str) -> Batch:
    """A batch, detached, if it is one that a field can be trained on; see :meth:`Rows.of`."""
    x1_name = name if batch.x0 is None else f"x1 of {name}"
    _check_kind(batch.x1, field, x1_name)
    check_finite_rows(batch.x1, x1_name)
    if batch.x0 is not None:
        check_finite_rows(batch.x0, f"x0 of {name}")
        check_same_kind(batch.x0, batch.x1, "x0", "x1")
    _check_pairs(batch, field, name)
    _check_shape(batch, field, name)
    for key, value in batch.cond.items():
        _check_condition(key, value, batch.x1, name)
    return batch.map(Tensor.detach)


def standardised(batch: Batch, field: Field) -> Batch:
    """Both members of a batch in the field's units."""
    if field.transform is None:
        return batch
    with torch.no_grad():
        x0 = None if batch.x0 is None else field.transform(batch.x0)
        return Batch(field.transform(batch.x1), x0, batch.cond)


def target_device(field: Field, x: Tensor) -> torch.device:
    """Where batches go: to the networks' device, where they have one, else where x is."""
    modules = [net for net in field.networks if isinstance(net, nn.Module)]
    known = any(True for net in modules for _ in (*net.parameters(), *net.buffers()))
    return field.reference().device if known else x.device


def _fits(batch: Batch, device: torch.device) -> bool:
    """Whether the rows take at most half of the memory that is free on a card."""
    if device.type != "cuda":
        return True
    tensors = [batch.x1, *([] if batch.x0 is None else [batch.x0]), *batch.cond.values()]
    free, _ = torch.cuda.mem_get_info(device)
    size: int = sum(x.numel() * x.element_size() for x in tensors)
    return size <= _SHARE_OF_CARD * free


def _check_kind(x: Tensor, field: Field, name: str) -> None:
    """Refuse data of another dtype or device than the networks, where these have one."""
    modules = [net for net in field.networks if isinstance(net, nn.Module)]
    tensors = [t for net in modules for t in (*net.parameters(), *net.buffers())]
    known = any(t.is_floating_point() for t in tensors)
    if not known or not isinstance(x, Tensor) or not x.is_floating_point():
        return
    reference = field.reference()
    if x.dtype != reference.dtype:
        raise ValueError(
            f"{name} is {x.dtype} and the field's network {reference.dtype}; write"
            f" x.to({reference.dtype}), or field.to({x.dtype}) before making the Trainer"
        )
    if x.device not in (reference.device, torch.device("cpu")):  # from the host, rows are sent
        raise ValueError(
            f"{name} is on {x.device} and the field on {reference.device}; write"
            f" x.to({str(reference.device)!r}), or field.to({str(x.device)!r}) before making the"
            " Trainer"
        )


def _check_pairs(batch: Batch, field: Field, name: str) -> None:
    coupling = field.process.coupling
    if batch.x0 is None and isinstance(coupling, Paired) and field.process.interpolant.uses_base:
        raise ValueError(
            f"the coupling is Paired, and {name} has no x0; give pairs (x0, x1), or a process"
            " without coupling=Paired(), which draws x0 from its base"
        )
    if batch.x0 is not None and not isinstance(coupling, Paired):
        raise ValueError(
            f"{name} is a pair (x0, x1), but the coupling is {type(coupling).__name__}, which"
            " pairs by itself; write Process(interpolant, coupling=Paired()), or give x1 alone"
        )


def _check_shape(batch: Batch, field: Field, name: str) -> None:
    if batch.x0 is not None and batch.x0.shape != batch.x1.shape:
        raise ValueError(
            f"x0 of {name} is {tuple(batch.x0.shape)} and x1 is {tuple(batch.x1.shape)}; the rows"
            " of a pair belong together and have one shape"
        )
    shape, event = field.process.shape, batch.x1.shape[1:]
    if shape is not None and shape != event:
        whose = "base" if field.process.base is not None else "process"
        raise ValueError(
            f"{name} has events of shape {tuple(event)}, and the {whose} has {tuple(shape)}; write"
            f" base=Gaussian({tuple(event)}), or reshape the data"
        )


def _check_condition(key: str, value: Any, x1: Tensor, name: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"condition {key!r} of {name} must be a tensor with a row for each row of data, got"
            f" {type(value).__name__}; write torch.as_tensor(...)"
        )
    if value.ndim == 0 or value.shape[0] != x1.shape[0]:
        raise ValueError(
            f"condition {key!r} of {name} has shape {tuple(value.shape)}, and there are"
            f" {x1.shape[0]} rows of data; give one row for each (value.expand(N, ...) for all)"
        )
    if value.device != x1.device:
        raise ValueError(
            f"condition {key!r} of {name} is on {value.device} and the data on {x1.device}; write"
            f" {key}.to({str(x1.device)!r})"
        )
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        bad = (~torch.isfinite(value)).flatten(1).any(1) if value.ndim > 1 else ~value.isfinite()
        raise ValueError(
            f"condition {key!r} of {name} holds NaN or infinite values in {int(bad.sum())} of"
            f" {x1.shape[0]} rows (first row {int(bad.nonzero()[0, 0])}); drop them"
        )
