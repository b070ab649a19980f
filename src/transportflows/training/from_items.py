"""What the sources have in common whose data are not tensors of all rows: items become batches.

**The form of an item.** An item of a dataset, or a batch of a loader, is a tensor x1; a tuple
``(x1, c, ...)`` whose further members are conditions, named by ``cond=("label", ...)``; with a
:class:`Paired` coupling ``(x0, x1, c, ...)``; a dict with ``"x1"``, perhaps ``"x0"``, and
conditions; or, from a loader, a :class:`Batch`.

**Reproducible augmentations.** What is random in a user's dataset draws from the global generators
of torch, numpy and Python (:mod:`transportflows.training.global_random`). Before the library asks
for an item it seeds them from the key of the run and the place of the item, so that the items of
step n are a function of ``(key, n)``, with any number of worker processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.checks import check_finite_rows
from .._core.trained import seen_in, seen_together
from ..couplings.base import Paired
from ..draws import Batch
from ..fields.base import Field
from .checking import checked_batch, standardised, target_device
from .source import Source

__all__ = ["BRANCHES", "VALIDATION_KEY", "FromItems"]

# Of the key; 0 seeds the steps and 1 the order of rows.
BRANCHES = {"draws": 2, "items": 3, "epochs": 4}
VALIDATION_KEY = 0x76616C6964617465


class FromItems(Source):
    """A source whose batches are made of items: each checked, standardised and sent to the field.

    Args:
        field: the field to train.
        names: of the conditions.
        what: what to call the data in messages.
    """

    def __init__(self, field: Field, names: Sequence[str], what: str) -> None:
        self.field, self.what = field, what
        self.names = tuple(names)
        self.paired = isinstance(field.process.coupling, Paired)
        self.device = target_device(field, torch.empty(0))
        self._kind: Any = None  # of the batches that were checked

    def __repr__(self) -> str:
        names = f", conditions {list(self.names)}" if self.names else ""
        return f"{type(self).__name__}({self.what}, batch_size={self.batch_size}{names})"

    def ready(self, given: Any) -> Batch:
        """The batch that some collated items make, checked, standardised and sent to the field."""
        batch = _as_batch(given, self.names, self.paired, self.what)
        kind = _kind(batch)
        if kind != self._kind:
            batch = checked_batch(batch, self.field, self.what)
            self._kind = kind
        elif batch.x1.device.type == "cpu":  # to look into one on a card would wait for it
            for x in (batch.x1, batch.x0):
                if x is not None:
                    check_finite_rows(x, self.what)
        self._look(batch)
        if batch.x1.device != self.device:
            batch = batch.map(lambda x: x.to(self.device, non_blocking=True))
        return standardised(batch, self.field)

    def _look(self, batch: Batch) -> None:
        """Remember what the conditions are like; of integers on a card not their range."""
        if not batch.cond:
            return
        new = seen_in(batch.cond, ranges=batch.x1.device.type == "cpu")
        before = self.conditions or None
        if before is None or seen_together(before, new) != before:
            self.conditions = seen_together(before, new)


def _kind(batch: Batch) -> tuple[Any, ...]:
    """What is alike in batches of the same kind: all but their rows."""
    tensors = {"x1": batch.x1, "x0": batch.x0, **batch.cond}
    return tuple(
        (k, x.shape[1:], x.dtype, x.device) if isinstance(x, Tensor) else (k, type(x))
        for k, x in tensors.items()
    )


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
        if names and set(names) != set(rest):
            raise ValueError(
                f"{what} gives dicts with the conditions {sorted(rest)}, and cond={tuple(names)!r}"
                " was given; leave cond out, or give dicts with these keys"
            )
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
