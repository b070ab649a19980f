r"""Quadratic forms ``z · (∂f) z`` of a field of independent rows, at the least cost.

In reverse mode the field is called once for a chunk of rows, and each direction is one
vector-Jacobian product through the graph of that call, which costs about as much as the call: k
directions cost ``1 + k`` calls, and one that has fused kernels has them. In forward mode each
direction is a row of its own, with a value of its own: ``2 k`` calls, of operations that torch
often writes out. So it is the reverse mode that is taken, but where

- a graph is wanted, which would have to be differentiated twice: forward mode is recorded as it is;
- the two do not agree on a few rows, as where a part of a network is under ``no_grad``, where the
  reverse mode sees a constant; or the network has no graph at all. They are compared for each graph
  of other operations, as that of guidance within its interval of times is, in each sixteenth of
  time once, and in every solve in one quarter of time, with conditions in each: what is hidden may
  have a weight that is 0;
- a network waits for the backward pass that a graph promises (DistributedDataParallel).

What has no forward derivative is done in reverse mode in all cases. What was found of a field is
kept with it, as are the bytes that its graph takes for a row, by which chunks are bounded. Networks
that mix the rows of a batch have no form of one row, and are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .._core.autodiff import Directional, jvp
from .._core.tensor import sum_events
from ..fields.base import Field
from .graphs import Meter, mixes, operations, pulled_back, recorded

__all__ = ["Divergence"]

_GRAPH, _CARD = 2**24, 2**30  # bytes of the graph of a chunk, on a CPU and on a card
_ROWS = 512  # rows from which on a call costs as its rows, and not as itself
_MIXED = (
    "the network mixes the rows of a batch: what it gives for one depends on others, so that a"
    " log-density would be that of what is computed together. BatchNorm that keeps no running"
    " statistics does so, and what takes means, or attends, over the first dimension; let the"
    " network treat each row by itself"
)
_WAITING = {"DistributedDataParallel", "FullyShardedDataParallel"}

Velocity = Callable[[Tensor, int], Tensor]
"""``f(x, copies)``: the value at rows ``(copies b, *)``, b rows repeated."""


@dataclass
class _Found:
    """What was found of a field.

    Attributes:
        reverse: whether the reverse mode is right.
        row: bytes of a graph for a row.
        graphs: those for which it is.
        places: sixteenths of time in which it is.
        solves: how many began.
    """

    reverse: bool
    row: int
    graphs: set[int] = field(default_factory=set)
    places: set[int] = field(default_factory=set)
    solves: int = 0


_FOUND: WeakKeyDictionary[Field, dict[Hashable, _Found]] = WeakKeyDictionary()


class Divergence:
    """Values and quadratic forms of a field's velocity.

    Args:
        field: whose.
        graph: whether they are to be differentiated again.
    """

    def __init__(self, field: Field, *, graph: bool) -> None:
        self.field, self.graph = field, graph
        self.forward = Directional(graph=graph)
        self.found: _Found | None = _Found(False, 0) if graph else None
        self._calls, self._quarters = 0, set[int]()

    def rows(
        self,
        f: Velocity,
        x: Tensor,
        time: Tensor,
        kind: Hashable,
        chunk: int,
        k: int,
        conditions: bool,
    ) -> int:
        """How many rows may go in one call.

        Args:
            f: at some of the rows.
            x: states of these, ``(n, *)``.
            time: of the evaluation, ``()``.
            kind: what tells one form of the field from another beside the shape of x.
            chunk: most rows in a call of the network, copies counted.
            k: directions.
            conditions: whether there are some.
        """
        self._some, place = (f, x), self._place(time)
        if self.found is None:
            self.found = self._known(f, x, kind, place)
            self.found.solves += 1
            if not conditions:
                self._quarters |= set(range(4)) - {self.found.solves % 4}
        found = self.found
        if found.reverse and not (place in found.places and place // 4 in self._quarters):
            self._try()
        found.places.add(place)
        self._quarters.add(place // 4)
        if not self.found.reverse:
            return max(1, chunk // k)
        budget = _GRAPH if x.device.type == "cpu" else _CARD
        return max(1, min(chunk, budget // max(1, self.found.row)))

    def forms(
        self, f: Velocity, x: Tensor, directions: Tensor | None, most: int
    ) -> tuple[Tensor, Tensor] | None:
        """Values ``(b, *)``, and forms ``(b, k)``; the divergence ``(b, 1)`` without directions.

        None where the mode is another one from now on: then :meth:`rows` is to be asked again.

        Args:
            f: the velocity.
            x: rows ``(b, *)``.
            directions: ``(k, b, *)``; None for all unit vectors, whose forms are added up.
            most: rows that a call may have, as :meth:`rows` says.
        """
        if self.found is not None and self.found.reverse:
            return self._reverse(f, x, directions, most)
        k = x[0].numel() if directions is None else len(directions)
        value, forms = self.forward.forms(lambda z: f(z, k), x, directions)
        return value, forms.sum(1, keepdim=True) if directions is None else forms

    def _reverse(
        self, f: Velocity, x: Tensor, directions: Tensor | None, most: int
    ) -> tuple[Tensor, Tensor] | None:
        """One call of few copies of the rows, and a product for each group of directions."""
        b, d = len(x), x[0].numel()
        k = d if directions is None else len(directions)
        copies = min(k, max(1, min(_ROWS, most) // b))
        copies = -(-k // -(-k // copies))  # as few as do it in as many groups
        z = x if copies == 1 else x.repeat(copies, *(1,) * (x.ndim - 1))
        value, leaf = recorded(lambda y: f(y, copies), z)
        if not self._is_right(value):
            return None
        parts, total = [], torch.zeros_like(x[:, :1].reshape(b, -1)[:, :1])
        for first in range(0, k, copies):
            count, keep = min(copies, k - first), first + copies < k
            along = value.new_zeros(copies, b, d)
            if directions is None:
                for c in range(count):
                    along[c, :, first + c] = 1
            else:
                along[:count] = directions[first : first + count].flatten(2)
            pulled = pulled_back(value, leaf, along.view_as(value), keep).view(copies, b, d)
            if directions is None:
                for c in range(count):
                    total += pulled[c, :, first + c].unsqueeze(1)
            else:
                parts.append((pulled[:count] * along[:count]).sum(2))
        value = value.detach()[:b]
        return value, total if directions is None else torch.cat(parts).mT

    # --------------------------------------------------------------------------- what is found

    def _place(self, time: Tensor) -> int:
        """The sixteenth of time; or, so as not to wait for a device, how many calls there were."""
        self._calls += 1
        if time.device.type == "cpu":
            share = float(time)
            return min(15, int(16 * share)) if math.isfinite(share) else 0  # a solver that is lost
        return 4 * self._calls.bit_length()

    def _known(self, f: Velocity, x: Tensor, kind: Hashable, place: int) -> _Found:
        """What was found of the field before, or is found now at some rows."""
        networks = tuple(id(net) for net in self.field.networks)
        key = networks, x.shape[1:], x.dtype, x.device, kind
        kept = _FOUND.setdefault(self.field, {})
        found = kept.get(key)
        if found is None:
            found, sure = self._look(f, x)
            if sure:
                kept[key] = found
            found.places.add(place)
            self._quarters.add(place // 4)
        return found

    def _is_right(self, value: Tensor) -> bool:
        """Whether the reverse mode is right for the graph of a value; one that is new is tried."""
        assert self.found is not None
        graph = operations(value)
        if graph not in self.found.graphs:
            self._try()
            self.found.graphs.add(graph)
        return self.found.reverse

    def _try(self) -> None:
        """See whether the modes still agree at some rows, by the graph that is there now."""
        assert self.found is not None
        f, x = self._some
        z = _direction(x)
        try:
            value, leaf = recorded(lambda y: f(y, 1), x)
            self.found.reverse = self._agree(f, x, z, pulled_back(value, leaf, z, False))[0]
            self.found.graphs.add(operations(value))
        except (NotImplementedError, RuntimeError):
            self.found.reverse = False

    def _look(self, f: Velocity, x: Tensor) -> tuple[_Found, bool]:
        """Whether both modes agree at rows x, and whether this can be relied on."""
        modules = [m for net in self.field.networks if isinstance(net, nn.Module)
                   for m in net.modules()]  # fmt: skip
        if any(type(m).__name__ in _WAITING for m in modules):
            return _Found(False, 0), True
        z = _direction(x)
        meter = Meter(modules)
        try:
            with torch.autograd.graph.saved_tensors_hooks(meter.pack, lambda t: t):
                value, leaf = recorded(lambda y: f(y, 1), x)
            graph = operations(value)
            pulled = pulled_back(value, leaf, z, True)
            mixed = len(x) > 1 and mixes(value, leaf, z, pulled)
            again = pulled_back(value, leaf, z, False)
        except (NotImplementedError, RuntimeError):
            return _Found(False, 0), True  # what is wrong will be told in forward mode
        if mixed:
            raise ValueError(_MIXED)
        row = meter.total // len(x)
        if not torch.equal(pulled, again):
            return _Found(False, 0), True
        agree, sure = self._agree(f, x, z, pulled)
        return _Found(agree, row, {graph}), sure

    def _agree(self, f: Velocity, x: Tensor, z: Tensor, pulled: Tensor) -> tuple[bool, bool]:
        """Whether the forward mode gives the same forms along z, and whether this is sure."""
        try:
            change = jvp(lambda y: f(y, 1), x, z)[1]
        except (NotImplementedError, RuntimeError):
            return True, True  # an operation without a forward derivative
        apart = sum_events((change - pulled) * z).abs()
        size = sum_events(change.square()).sqrt() * sum_events(z.square()).sqrt()
        sure = bool(torch.isfinite(size).all())
        return bool((apart <= torch.finfo(x.dtype).eps ** 0.5 * size).all()), sure


def _direction(x: Tensor) -> Tensor:
    law = torch.Generator().manual_seed(0)
    return torch.randn(x.shape, generator=law, dtype=torch.float64).to(x)
