"""Tables of a solve that were made before: for the same process, grid, scheme and ε.

A table is some hundred small operations, as dear as a few network calls on a thousand rows. What it
is made of is told by value, and its tensors by how often each was written to. Where anything cannot
be told so, the table is made anew: for a function of time, a learned path, a field that writes its
own weights, and for paths, bases and schedules of a user's own, which may depend on anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .._core.written import Written, buffers_of
from ..fields.base import Field
from ..process import Process
from ..solve.epsilon import EpsilonSchedule
from .multistep import Multistep
from .schemes import Scheme

__all__ = ["kept"]

_Made = TypeVar("_Made")
_PACKAGE = __name__.partition(".")[0]
_MOST = 16  # tables of a process
_LONGEST = 4096  # times of a table
_SKIPPED = frozenset(vars(nn.Module())) | {"_known"}  # the last: what a Gaussian has of its buffers
_TABLES: WeakKeyDictionary[Process, dict[Any, tuple[Written, Any]]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def kept(
    field: Field,
    schedules: Sequence[EpsilonSchedule],
    scheme: Scheme | Multistep,
    times: Tensor,
    like: Tensor,
    others: Any = None,
    *,
    make: Callable[[], _Made],
) -> _Made:
    """What ``make`` gives for a solve, or gave before for one of the same numbers.

    Args:
        field: what is sampled; of what is made nothing may hold its networks.
        schedules: ε of each group of rows.
        scheme: whose table it is.
        times: the times that it is made for, float64.
        like: states of the dtype and device.
        others: numbers on which it depends besides, in tuples.
        make: makes the table.
    """
    process = field.process
    long = times.numel() > _LONGEST
    if long or not _is_told(field) or type(like) is not Tensor or torch.compiler.is_compiling():
        return make()
    base = process._modules.get("base")
    try:
        key = (
            type(field),
            field.outputs,
            tuple(field.breakpoints),
            _value(scheme),
            tuple(map(_value, schedules)),
            times.shape,
            times.cpu().contiguous().numpy().tobytes(),
            _value(process.interpolant),
            _value(base),
            like.dtype,
            like.device,
            others,
        )
    except (_NotToldError, RuntimeError):  # the second: of what torch.func has wrapped
        return make()
    written = Written(buffers_of(process.interpolant, base), process.coupling)
    with _LOCK:
        tables = _TABLES.setdefault(process, {})
        known = tables.get(key)
    if known is not None and written.same(known[0]):
        return known[1]  # type: ignore[no-any-return]
    made = make()
    with _LOCK:
        while len(tables) >= _MOST:
            del tables[next(iter(tables))]
        tables[key] = (written, made)
    return made


class _NotToldError(Exception):
    """Something is not told by a value."""


def _is_told(field: Field) -> bool:
    """Whether all that the weights of a field depend on is its process and its outputs."""
    if type(field).__module__.partition(".")[0] != _PACKAGE:
        return False
    own = (field.weights, field.drift_weights)
    plain = (Field.weights, Field.drift_weights)
    if any(getattr(a, "__func__", None) is not b for a, b in zip(own, plain, strict=True)):
        return False
    return type(field.process).noise_part is Process.noise_part


def _value(thing: Any) -> Any:
    """What tells a thing from others of its kind: a number, or its type and what it holds.

    Buffers are left out: they are looked at apart.

    Raises:
        _NotToldError: if there is no such value.
    """
    if thing is None or isinstance(thing, (bool, int, float, str, torch.dtype, torch.Size)):
        return thing
    if isinstance(thing, (tuple, list)):
        return tuple(map(_value, thing))
    if isinstance(thing, Scheme):
        return thing
    if type(thing).__module__.partition(".")[0] != _PACKAGE:
        raise _NotToldError
    if isinstance(thing, nn.Module):
        if any(p is not None for p in thing._parameters.values()):
            raise _NotToldError
        held = [(name, of) for name, of in vars(thing).items() if name not in _SKIPPED]
        held += thing._modules.items()
    elif isinstance(thing, (EpsilonSchedule, Multistep)):
        held = list(vars(thing).items())
    else:
        raise _NotToldError
    return (type(thing), *((name, _value(of)) for name, of in held))
