"""Calling a network of two times, ``net(s, t, x, **cond)``, and what is taken for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..fields.calls import (
    TIME_NAMES,
    Network,
    accepted,
    check_object,
    positional_names,
    restored,
    rounded,
)

__all__ = ["called_between", "check_network_between", "rows_of"]

_EARLIER = {"s", "r", "u", "t0", "t1", "start"}
"""What networks of two times call the earlier one."""


def check_network_between(net: Any) -> None:
    """Refuse what is no function of (s, t, x): a network of one time, or of (t, s, x).

    Raises:
        TypeError: says what to write instead.
    """
    check_object(net)
    names = positional_names(net)
    if not names:  # a builtin, or what takes any
        return
    name = str(getattr(net, "__name__", type(net).__name__))
    if len(names) < 3:
        raise TypeError(
            f"the network {name} takes ({', '.join(names)}), and that of a flow map takes two"
            " times, net(s, t, x, **cond): from s, where x is, to t. Write"
            " tpf.maps.TwoTimes(net) around one of this library that has vectors={'stop': 9},"
            " or give a forward(s, t, x)"
        )
    states_first = names[1] in TIME_NAMES and names[0] not in TIME_NAMES | _EARLIER
    if names[:2] == ["t", "s"] or names[0] == "x" or states_first:
        raise TypeError(
            f"the network {name} takes ({', '.join(names[:3])}), and that of a flow map is called"
            " as net(s, t, x, **cond), the time of x first; write lambda s, t, x, **cond: net(...)"
        )


def called_between(
    field: object, net: Network, s: Tensor, t: Tensor, x: Tensor, cond: Mapping[str, Any]
) -> Tensor:
    """``net(s, t, x, **cond)``, called with two times a row, if it is of the shape of x.

    As in :func:`transportflows.fields.calls.called` a network is called in its own dtype.

    Args:
        field: whose network it is, for messages.
        net: the network.
        s: time of x, ``()`` or ``(B,)``.
        t: time to go to, ``()`` or ``(B,)``.
        x: states, ``(B, *)``.
        cond: checked.

    Raises:
        ValueError: if it gives another shape or dtype.
    """
    one = getattr(net, "takes_one_time", False) and s.ndim == t.ndim == 0
    if not one:
        s, t = s.expand(x.shape[0]), t.expand(x.shape[0])
    if cond and (transforms := getattr(field, "cond_transforms", None)) is not None:
        cond = transforms(cond)
    states = x
    t, x, cond = rounded(net, t, x, cond)
    s = s.to(t.dtype)
    prediction: Any = net(s, t, x, **cond)
    if x.dtype != states.dtype:
        prediction = restored(prediction, states.dtype)
    if isinstance(prediction, Tensor) and prediction.shape != states.shape:
        raise ValueError(
            f"the network of this {type(field).__name__} must give the shape of x,"
            f" {tuple(states.shape)}, and it gave {tuple(prediction.shape)}; it is called as"
            f" net(s, t, x), with times ({x.shape[0]},)"
        )
    found: Tensor = accepted(prediction, field, net, states)
    return found


def rows_of(time: float | Tensor, x: Tensor) -> Tensor:
    """A time as a tensor ``()`` or ``(B,)`` on the device of x, in its own or a wider dtype.

    Raises:
        ValueError: if it has another number of rows, or lies outside of [0, 1] as a number.
    """
    if not isinstance(time, Tensor):
        if not 0 <= time <= 1:
            raise ValueError(f"times are in [0, 1], got {time}")
        time = torch.as_tensor(time, dtype=x.dtype)
    if time.ndim > 1 or (time.ndim == 1 and len(time) != len(x)):
        raise ValueError(
            f"got times of shape {tuple(time.shape)} for {len(x)} rows; they are () or ({len(x)},)"
        )
    return time.to(x.device)
