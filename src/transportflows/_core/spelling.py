"""Objects as the call that would make them, with the arguments that are not the defaults."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["spelled", "spelled_call"]

_FEW = 4  # numbers of a tensor that are worth writing out


def spelled(value: Any) -> str:
    """``VelocityLoss(times=UniformTimes(margin=0.1))``, for a person to read.

    An object is spelled by its class's arguments, read from the attributes of the same names (or
    from ``config()``, where it has that). An argument that equals its default, or that the object
    does not keep, is left out.

    Example:
        >>> from transportflows.losses import VelocityLoss
        >>> from transportflows.times import UniformTimes
        >>> spelled(VelocityLoss(times=UniformTimes(margin=0.1), antithetic=True))
        'VelocityLoss(times=UniformTimes(margin=(0.1, 0.1)), antithetic=True)'
    """
    if isinstance(value, Tensor):
        if value.numel() <= _FEW:
            return str(value.tolist())
        return f"<{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}>"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(spelled(item) for item in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if isinstance(value, nn.Module):  # whose own repr is many lines of layers
        return type(value).__name__
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    if getattr(type(value), "__repr__", None) is getattr(object, "__repr__", None):
        return spelled_call(value)
    return repr(value)


def spelled_call(value: Any) -> str:
    """The call that makes an object; the body of a ``__repr__``."""
    kept: Mapping[str, Any] = value.config() if hasattr(value, "config") else vars(value)
    given = []
    for name, parameter in inspect.signature(type(value)).parameters.items():
        if name not in kept or _same(kept[name], parameter.default):
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            given += [spelled(item) for item in kept[name]]
        else:
            given.append(f"{name}={spelled(kept[name])}")
    return f"{type(value).__name__}({', '.join(given)})"


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, tuple) and isinstance(default, float):  # one number for both ends
        return all(one == default for one in value)
    return value is default or (type(value) is type(default) and bool(value == default))
