"""Calling a user's network: what is taken for one, how it is called, what is accepted from it.

A network is called as ``net(t, x, **cond)`` with one time a row, ``(B,)``, in training and in
sampling alike, so that one that trains can sample. One that also takes a single time ``()``, and is
then cheaper, says so by an attribute ``takes_one_time = True``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import shown
from .._core.tensor import own_dtype
from .._core.untouched import WRITES
from ..process import Process
from ..transforms import Standardize

__all__ = [
    "TIME_NAMES",
    "Network",
    "accepted",
    "called",
    "check_network",
    "check_object",
    "check_process",
    "check_transform",
    "positional_names",
    "restored",
    "rounded",
    "sized",
]

Network = Callable[..., Any]

TIME_NAMES = {"t", "ts", "time", "times", "timestep", "timesteps", "tau", "sigma", "sigmas"}
"""What networks call a time."""


def sized(net: Network) -> str:
    """A network in a few characters: its name, and how many numbers it learns."""
    if not isinstance(net, nn.Module):
        return _name(net)
    return f"<{_name(net)}, {sum(p.numel() for p in net.parameters()):,} parameters>"


def check_network(net: Any) -> None:
    """Refuse what is no function of (t, x): a process, a class, a function of (x, t)."""
    check_object(net)
    first, second = [*positional_names(net), "", ""][:2]
    if second in TIME_NAMES and first not in TIME_NAMES:
        raise TypeError(
            f"the network {_name(net)} takes ({first}, {second}), and networks are called with the"
            " time first, net(t, x, **cond); write tpf.networks.from_xt(net)"
        )


def check_object(net: Any) -> None:
    """Refuse what cannot be called, a process and a class."""
    if isinstance(net, Process) or not callable(net):
        raise TypeError(
            f"net must be a callable net(t, x, **cond), got {type(net).__name__}; the order is"
            " Velocity(net, process)"
        )
    if isinstance(net, type):
        raise TypeError(f"net is the class {net.__name__}; write {net.__name__}(...), an object")


def positional_names(net: Any) -> list[str]:
    """What a network calls its positional arguments, where that can be known."""
    try:
        parameters = inspect.signature(net.forward if isinstance(net, nn.Module) else net)
    except (TypeError, ValueError):  # a builtin
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters.parameters.values() if p.kind in kinds]


def check_transform(transform: Any) -> None:
    """Refuse what does not invert: a function would train, and could not be sampled."""
    if transform is not None and not isinstance(transform, Standardize):
        raise TypeError(
            f"transform must be a Standardize, which also inverts, got {shown(transform)}; write"
            " Standardize.fit(data), or Standardize(mean, scale)"
        )


def check_process(process: Any) -> None:
    """Refuse what is no process."""
    if not isinstance(process, Process):
        raise TypeError(
            f"process must be a Process, got {shown(process)}; the order is"
            " Velocity(net, process), with Process(Linear(), base=Gaussian(shape))"
        )


def called(
    field: object,
    net: Network,
    t: Tensor,
    x: Tensor,
    cond: Mapping[str, Any],
    accept: Callable[[Any, object, Network, Tensor], Any] | None = None,
) -> Any:
    """``net(t, x, **cond)``, called with one time a row, if it is of the shape and dtype of x.

    One of another dtype than the states is called in its own: so states stay in float32, or wider,
    while a network computes in bfloat16. t, x and those conditions that have the dtype of x are
    rounded to the network's, and what it gives has that of x. Where it fails, the error tells the
    cure if one is known.

    Args:
        field: whose network it is, for messages.
        net: the network.
        t: ``()`` or ``(B,)``.
        x: states, ``(B, *)``.
        cond: checked.
        accept: makes of what the network gave (and of the field, the network and x) what is
            returned, or refuses it; :func:`accepted` by default.

    Raises:
        ValueError: if it is of another shape or dtype, if dtypes or devices are why the network
            fails, or if it writes into t or x.
        TypeError: if it takes other arguments: (x, t), or other conditions.
    """
    if t.ndim == 0 and not getattr(net, "takes_one_time", False):
        t = t.expand(x.shape[0])
    if cond and (transforms := getattr(field, "cond_transforms", None)) is not None:
        cond = transforms(cond)
    states = x
    t, x, cond = rounded(net, t, x, cond)
    if torch.compiler.is_compiling():  # after an eager step, which was looked at
        prediction = net(t, x, **cond)
        prediction = prediction if x is states else restored(prediction, states.dtype)
        return (accepted if accept is None else accept)(prediction, field, net, states)
    watched = not (x.is_inference() or t.is_inference())  # such tensors have no version
    versions = (t._version, x._version) if watched else None
    try:
        prediction = net(t, x, **cond)
    except Exception as error:
        problem = _explained(error, net, t, x, cond)
        if problem is None:
            raise
        raise problem from error
    if versions is not None and (t._version, x._version) != versions:
        raise ValueError(WRITES.format(f"the network {_name(net)}"))
    if x.dtype != states.dtype:
        prediction = restored(prediction, states.dtype)
    return (accepted if accept is None else accept)(prediction, field, net, states)


def rounded(
    net: Network, t: Tensor, x: Tensor, cond: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Mapping[str, Any]]:
    """Time, states, and conditions of the states' dtype, in the dtype of a network.

    Times may come in float64, for what is computed of them beside the network.
    """
    own, kind = own_dtype(net), x.dtype
    if own is None or own == kind or torch.is_autocast_enabled(x.device.type):
        return t if t.dtype == kind else t.to(kind), x, cond
    given = {
        name: c.to(own) if isinstance(c, Tensor) and c.dtype == kind else c
        for name, c in cond.items()
    }
    return t.to(own), x.to(own), given


def restored(prediction: Any, kind: torch.dtype) -> Any:
    """What a network gave, in the dtype of the states."""
    if isinstance(prediction, (tuple, list)):
        return tuple(restored(p, kind) for p in prediction)
    return prediction.to(kind) if isinstance(prediction, Tensor) else prediction


def _explained(
    error: Exception, net: Network, t: Tensor, x: Tensor, cond: Mapping[str, Any]
) -> Exception | None:
    """What to raise instead of an error of the network, where its cause is known."""
    text, name = str(error), _name(net)
    if isinstance(error, RuntimeError):
        own = next(iter(net.parameters()), None) if isinstance(net, nn.Module) else None
        if own is not None and (own.dtype != x.dtype or own.device != x.device):
            return ValueError(
                f"the states are {x.dtype} on {x.device} and the network is {own.dtype} on"
                f" {own.device}; write x.to(dtype={own.dtype}, device={str(own.device)!r}), or"
                f" field.to(dtype={x.dtype}, device={str(x.device)!r})"
            )
        if "single memory location" in text:
            return ValueError(WRITES.format(f"the network {name}"))
        for key, value in cond.items():
            if isinstance(value, Tensor) and _unlike(value, x):
                return ValueError(
                    f"the network {name} fails ({_short(text)}), and the condition {key!r} is"
                    f" {value.dtype} on {value.device} where the states are {x.dtype} on"
                    f" {x.device}; write {key}.to(x)"
                )
    wrong = isinstance(error, TypeError) and "positional argument" in text and not cond
    if wrong and not _takes_swapped(net, t, x, cond):
        return TypeError(
            f"the network {name} cannot be called as net(t, x) ({_short(text)}); networks take a"
            " time (B,) and states (B, *), and conditions by name: give it a forward(t, x), or, if"
            " it takes a condition, give cond="
        )
    if isinstance(error, TypeError) and "keyword" in text:
        given = f"the conditions {', '.join(map(repr, cond))}" if cond else "no conditions"
        return TypeError(
            f"the network {name} was given {given}, and takes others: {_short(text)}; networks are"
            " called as net(t, x, **cond), conditions by name: cond={'label': labels}"
        )
    if _takes_swapped(net, t, x, cond):
        return TypeError(
            f"the network {name} fails when called as net(t, x), time first ({_short(text)}), and"
            " takes net(x, t); write tpf.networks.from_xt(net)"
        )
    return None


def _unlike(value: Tensor, x: Tensor) -> bool:
    return value.device != x.device or (value.is_floating_point() and value.dtype != x.dtype)


@torch.no_grad()
def _takes_swapped(net: Network, t: Tensor, x: Tensor, cond: Mapping[str, Any]) -> bool:
    try:
        found = net(x, t.expand(x.shape[0]), **cond)
    except Exception:  # whatever it says, it is no help
        return False
    return isinstance(found, Tensor) and found.shape == x.shape


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:157]}..."


def _name(net: Network) -> str:
    return str(getattr(net, "__name__", type(net).__name__))


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
    got = tuple(prediction.shape) if isinstance(prediction, Tensor) else type(prediction).__name__
    raise ValueError(
        f"the network of this {kind} ({_name(net)}) must give the shape of x, {tuple(x.shape)}, and"
        f" it gave {got}; it is called as net(t, x), with t ({x.shape[0]},), time first"
    )
