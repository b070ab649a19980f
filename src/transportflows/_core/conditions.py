"""Conditions: what a network is given beside t and x, one mapping from ``fit`` or ``sample`` on.

A tensor with at least one dimension has a row for each state and goes with its rows: into chunks,
processes, repeated rows. A tensor ``()``, and anything that is no container of rows, is passed to
the network whole. An array becomes a tensor. What else might be rows (a list) is refused, never cut
by chance. The mapping is spread into keywords where the network is called, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .arrays import as_tensor, is_array
from .tensor import signed_integers

__all__ = [
    "NO_CONDITIONS",
    "check_conditions",
    "check_names",
    "map_rows",
    "with_start",
]

NO_CONDITIONS: Mapping[str, Any] = {}

_TAKEN = ("t", "x", "s", "self")


def check_conditions(
    cond: Mapping[str, Any] | None,
    n: int,
    *,
    rows: str = "states",
    device: torch.device | None = None,
    like: Tensor | None = None,
) -> dict[str, Any]:
    """Return conditions as a dict, if they can go with n rows; uint16 to uint64 become int64.

    Arrays become tensors: integers and booleans stay what they are, other numbers get the dtype of
    the states.

    Args:
        cond: by name; None for none.
        n: number of rows.
        rows: what the rows are, for messages.
        device: where tensors with rows must be, and arrays go; None for anywhere.
        like: a tensor of the dtype, and on the device, of what arrays become.

    Raises:
        TypeError: if it is no mapping, a name is no text, or a value that might be rows is neither
            a tensor nor an array of numbers.
        ValueError: if a name is taken, or a tensor has another number of rows or another device.
    """
    if cond is None:
        return {}
    if not isinstance(cond, Mapping):
        raise TypeError(
            f"cond is a mapping of names to tensors, got {type(cond).__name__}; write"
            " cond={'label': labels}"
        )
    check_names(cond)
    found = dict(cond)
    for name, value in cond.items():
        if is_array(value):
            value = as_tensor(f"cond[{name!r}]", value, like=like)
            found[name] = value = value if device is None else value.to(device)
        if isinstance(value, (list, tuple, Mapping)):
            raise TypeError(
                f"the condition {name!r} is a {type(value).__name__}, and only a tensor or an array"
                f" goes with its rows; write torch.as_tensor({name}), or give the members names of"
                " their own"
            )
        if not isinstance(value, Tensor) or value.ndim == 0:
            continue
        if value.layout != torch.strided:
            kind = str(value.layout).removeprefix("torch.").replace("_", " ")
            raise TypeError(
                f"the condition {name!r} is a {kind} tensor, which is not cut into rows; write"
                f" {name}.to_dense()"
            )
        if value.shape[0] != n:
            raise ValueError(
                f"the condition {name!r} has {value.shape[0]} rows for {n} {rows}; give one a row"
                f" ({name}.expand({n}, ...) for one value in all)"
            )
        if device is not None and value.device != device:
            raise ValueError(
                f"the condition {name!r} is on {value.device} and the {rows} are on {device}; write"
                f" {name}.to({str(device)!r})"
            )
        if (signed := signed_integers(value)) is not value:
            if value.dtype.itemsize == 8 and bool((signed < 0).any()):
                raise ValueError(
                    f"the condition {name!r} holds {int(signed.amin()) + 2**64}, which no int64"
                    f" does; give classes that are numbered from 0 on, or {name}.double()"
                )
            found[name] = signed
    return found


def check_names(cond: Mapping[str, Any]) -> None:
    """Refuse names that are no texts, and those of a network's own arguments."""
    for name in cond:
        if not isinstance(name, str):
            raise TypeError(f"names of conditions are texts, got a {type(name).__name__}")
        if name in _TAKEN:
            raise ValueError(
                f"a condition cannot be called {name!r}, which is another argument of networks,"
                " net(t, x, **cond), or s, a second time; give it another name"
            )


def with_start(cond: Mapping[str, Any], x0: Tensor) -> dict[str, Any]:
    """The conditions and ``"x0"``, where a network is told of the start of its path.

    Raises:
        ValueError: if there is one of this name already.
    """
    if "x0" in cond:
        raise ValueError(
            "the coupling has condition_on_start, so the condition 'x0' is the start of each path,"
            " given by the library; give yours another name, or leave it out"
        )
    return {**cond, "x0": x0}


def map_rows(cond: Mapping[str, Any], function: Any) -> dict[str, Any]:
    """A function of each condition that has rows; the others as they are."""
    return {
        name: function(value) if isinstance(value, Tensor) and value.ndim > 0 else value
        for name, value in cond.items()
    }
