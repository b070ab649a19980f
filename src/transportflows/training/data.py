"""Training data: rows, checked and standardised once, and the order in which they are drawn.

Rows are drawn without replacement, epoch by epoch. Epoch e is a permutation that is a function of
``(key, e)``, and the epochs follow one another without a gap, so the rows of step n are a function
of ``(key, n)`` alone: a run is resumed from two integers, and the ranks of a data-parallel run
agree on the global batch without talking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_finite_rows, check_same_kind
from .._random import mix, stream
from ..batches import Batch
from ..couplings import Paired
from ..fields import Field

__all__ = ["Epochs", "Rows"]

_ORDER = 1  # the branch of the key that orders rows; the steps themselves are branch 0
_AHEAD_STEPS, _AHEAD_BYTES = 64, 2**24


@dataclass(frozen=True)
class Rows:
    """N rows of data in standardised units, on one device.

    Attributes:
        x1: data, ``(N, *)``.
        x0: base samples paired with them, ``(N, *)``, or None.
        cond: conditions, tensors of N rows each.
    """

    x1: Tensor
    x0: Tensor | None = None
    cond: Mapping[str, Tensor] = field(default_factory=dict)

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
        x1_name = name if batch.x0 is None else f"x1 of {name}"
        _check_kind(batch.x1, field, x1_name)
        check_finite_rows(batch.x1, x1_name)
        if batch.x0 is not None:
            check_finite_rows(batch.x0, f"x0 of {name}")
            check_same_kind(batch.x0, batch.x1, "x0", "x1")
        _check_pairs(batch, field, name)
        _check_shape(batch, field, name)
        if cond and batch.cond:
            raise ValueError(f"{name} is a Batch with conditions, and cond= gives others; give one")
        conditions = dict(cond or batch.cond)
        for key, value in conditions.items():
            _check_condition(key, value, batch.x1, name)
        x1, x0 = batch.x1.detach(), None if batch.x0 is None else batch.x0.detach()
        if field.transform is not None:
            with torch.no_grad():
                x1 = field.transform(x1)
                x0 = None if x0 is None else field.transform(x0)
        return cls(x1, x0, conditions)

    def take(self, index: Tensor) -> Batch:
        """The rows of an index, ``(B,)``, as a batch."""
        x0 = None if self.x0 is None else self.x0.index_select(0, index)
        cond = {key: value.index_select(0, index) for key, value in self.cond.items()}
        return Batch(self.x1.index_select(0, index), x0, cond)

    def slice(self, start: int, stop: int) -> Batch:
        """The rows from ``start`` up to ``stop``, as a batch."""
        x0 = None if self.x0 is None else self.x0[start:stop]
        cond = {key: value[start:stop] for key, value in self.cond.items()}
        return Batch(self.x1[start:stop], x0, cond)


class Epochs:
    """The order of rows: step n takes places ``n B`` to ``(n + 1) B`` of a chain of permutations.

    Every row is drawn once an epoch. All batches have B rows; one that meets the end of an epoch
    goes on in the next. With more places than rows, ``B > N``, a batch holds every row ``⌊B/N⌋``
    or ``⌈B/N⌉`` times, each with a time and noise of its own.

    Batches are gathered some way ahead, in one call for up to 64 steps or 16 MB of them, so that a
    step only takes the next of them.

    Args:
        rows: N rows.
        batch_size: B.
        key: the key of the run.
    """

    def __init__(self, rows: Rows, batch_size: int, key: int) -> None:
        self.rows, self.batch_size, self.key = rows, batch_size, key
        self._epoch, self._order = -1, torch.empty(0)
        tensors = [rows.x1, *([] if rows.x0 is None else [rows.x0]), *rows.cond.values()]
        size = sum(x[:1].numel() * x.element_size() for x in tensors) * batch_size
        self._ahead = max(1, min(_AHEAD_STEPS, _AHEAD_BYTES // max(size, 1)))
        self._first, self._batches = 0, list[Batch]()

    def batch(self, step: int, last: int | None = None) -> Batch:
        """The batch of a step, counted from 0; a function of ``(key, step)``.

        Args:
            step: the step.
            last: a step from which on none will be asked for, to gather no more than needed.
        """
        place = step - self._first
        if not 0 <= place < len(self._batches):
            ahead = self._ahead if last is None else max(1, min(self._ahead, last - step))
            self._first, place = step, 0
            self._batches = self._gather(step, ahead)
        return self._batches[place]

    def index(self, step: int, steps: int = 1) -> Tensor:
        """The rows of some steps, ``(steps * B,)`` integers."""
        epoch, place = divmod(step * self.batch_size, len(self.rows))
        parts, missing = [], steps * self.batch_size
        while missing > 0:
            parts.append(self._permutation(epoch)[place : place + missing])
            missing -= parts[-1].shape[0]
            epoch, place = epoch + 1, 0
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _gather(self, step: int, steps: int) -> list[Batch]:
        block, size = self.rows.take(self.index(step, steps)), self.batch_size
        x1 = torch.split(block.x1, size)
        x0 = [None] * steps if block.x0 is None else torch.split(block.x0, size)
        cond = {name: torch.split(value, size) for name, value in block.cond.items()}
        return [
            Batch(x1[n], x0[n], {name: parts[n] for name, parts in cond.items()})
            for n in range(steps)
        ]

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            device = self.rows.x1.device
            generator = stream(mix(self.key, _ORDER, epoch), device=device)
            self._order = torch.randperm(len(self.rows), generator=generator, device=device)
            self._epoch = epoch
        return self._order


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
    if x.device != reference.device:
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
