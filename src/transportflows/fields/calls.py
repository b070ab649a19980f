"""Calling a user's network: what is taken for one, and what is accepted from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._core.tensor import own_dtype
from ..process import Process

__all__ = [
    "Network",
    "accepted",
    "called",
    "check_network",
    "check_process",
    "in_own_dtype",
    "sized",
]

Network = Callable[..., Any]


def sized(net: Network) -> str:
    """A network in a few characters: its name, and how many numbers it learns."""
    name = getattr(net, "__name__", type(net).__name__)
    if not isinstance(net, nn.Module):
        return name
    return f"<{name}, {sum(p.numel() for p in net.parameters()):,} parameters>"


def check_network(net: Any) -> None:
    """Refuse what is no function of (t, x), a process in its place above all."""
    if isinstance(net, Process) or not callable(net):
        raise TypeError(
            f"net must be a callable net(t, x, **cond), got {type(net).__name__}; the order is"
            " Velocity(net, process)"
        )


def check_process(process: Any) -> None:
    """Refuse what is no process."""
    if not isinstance(process, Process):
        raise TypeError(
            f"process must be a Process, got {type(process).__name__}; the order is"
            " Velocity(net, process), with Process(Linear(), base=Gaussian(shape))"
        )


def called(field: object, net: Network, t: Tensor, x: Tensor, cond: Mapping[str, Any]) -> Tensor:
    """``net(t, x, **cond)`` by :func:`in_own_dtype`, if it is of the shape and dtype of x.

    Raises:
        ValueError: if it is not; where dtypes or devices are why the network fails, it says so.
    """
    try:
        prediction = in_own_dtype(net, t, x, cond)
    except RuntimeError as error:
        own = next(iter(net.parameters()), None) if isinstance(net, nn.Module) else None
        if own is not None and (own.dtype != x.dtype or own.device != x.device):
            raise ValueError(
                f"the states are {x.dtype} on {x.device} and the network is {own.dtype} on"
                f" {own.device}; write x.to(dtype={own.dtype}, device={str(own.device)!r}), or"
                f" field.to(dtype={x.dtype}, device={str(x.device)!r})"
            ) from error
        raise
    if (
        isinstance(prediction, Tensor)
        and prediction.shape == x.shape
        and prediction.dtype == x.dtype
    ):
        return prediction
    return accepted(prediction, field, net, x)


def in_own_dtype(net: Network, t: Tensor, x: Tensor, cond: Mapping[str, Any]) -> Any:
    """``net(t, x, **cond)``, where a network of another dtype than the states is called in its own.

    So states stay in float32, or wider, while a network computes in bfloat16. t, x and those
    conditions that have the dtype of x are rounded to the network's; what it gives has that of x.
    """
    own, kind = own_dtype(net), x.dtype
    if own is None or own == kind or torch.is_autocast_enabled(x.device.type):
        return net(t, x, **cond)
    given = {
        name: c.to(own) if isinstance(c, Tensor) and c.dtype == kind else c
        for name, c in cond.items()
    }
    found = net(t.to(own), x.to(own), **given)
    if isinstance(found, (tuple, list)):
        return tuple(f.to(kind) if isinstance(f, Tensor) else f for f in found)
    return found.to(kind) if isinstance(found, Tensor) else found


def accepted(prediction: Any, field: object, net: Network, x: Tensor) -> Tensor:
    """A prediction of the shape of x; of another dtype only under autocast."""
    kind = type(field).__name__
    if isinstance(prediction, Tensor) and prediction.shape == x.shape:
        if prediction.dtype == x.dtype:
            return prediction
        if torch.is_autocast_enabled(x.device.type):
            return prediction.to(x.dtype)
        raise ValueError(
            f"the network of this {kind} gave {prediction.dtype} for states of {x.dtype}; write"
            f" net.to({x.dtype}), or give it states of its own dtype"
        )
    name = getattr(net, "__name__", type(net).__name__)
    got = tuple(prediction.shape) if isinstance(prediction, Tensor) else type(prediction).__name__
    raise ValueError(
        f"the network of this {kind} ({name}) must give the shape of x, {tuple(x.shape)}, and it"
        f" gave {got}"
    )
