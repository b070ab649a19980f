"""Kinds of arguments: what single things admit, and how what they do not admit is refused.

A number that is NaN or a text, a seed for a generator, a text for a dtype, a list for a tensor, a
class for one of its instances, a function that takes another number of arguments: each kind has
words for messages, the check, and exact types that need no look.

(A little longer than other files: kinds of containers are made of kinds, in one recursion.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arguments import (
    device_of,
    floating_dtype,
    generator_of,
    integer,
    number,
    shown,
)
from .arrays import SupportsArray, is_array
from .checks import plain_tensor
from .conditions import check_names

__all__ = ["SIMPLE", "Kind", "article", "instance_of"]

Check = Callable[[str, Any], Any]
_NOTHING: frozenset[type] = frozenset()


class Kind:
    """What an annotation admits.

    Attributes:
        words: for messages.
        check: of a name and a value; gives the value as it is used, or raises.
        plain: exact types that need no look.
        loose: those that need none where a loop calls.
    """

    def __init__(
        self,
        words: str,
        check: Check,
        plain: frozenset[type] = _NOTHING,
        loose: frozenset[type] = _NOTHING,
    ) -> None:
        self.words, self.check, self.plain, self.loose = words, check, plain, loose


# ------------------------------------------------------------------------------- single kinds


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)) or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{name} is True or False, got {shown(value)}")


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"{name} must be a text, got {shown(value)}")


def _number(name: str, value: Any) -> float:
    if type(value) is float and value == value:  # not NaN
        return value
    found = number(name, value, finite=False)
    return value if isinstance(value, (int, float)) else found


def _path(name: str, value: Any) -> Any:
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise TypeError(f"{name} must be a path, got {shown(value)}")
    if not os.fspath(value) or "\0" in os.fspath(value):
        raise ValueError(f"{name} must be a path, got {shown(value)}")
    return value


def _mapping(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if name == "cond":
            check_names(value)
        return value
    raise TypeError(f"{name} must be a dict, got {shown(value)}; write {name}={{'label': labels}}")


def _class(name: str, value: Any) -> type:
    if isinstance(value, type):
        return value
    raise TypeError(f"{name} must be a class, got {shown(value)}")


def _data(name: str, value: Any) -> Any:
    """A tensor that holds numbers, or an array, which is looked at where it becomes a tensor."""
    if is_array(value):
        return value
    if isinstance(value, Tensor):
        return plain_tensor(name, value)
    many = isinstance(value, (list, tuple, float, int))
    cure = f"; write torch.as_tensor({name.rpartition(' ')[2]})" if many else ""
    raise TypeError(f"{name} must be a tensor or an array, got {shown(value)}{cure}")


SIMPLE: dict[Any, Kind] = {
    bool: Kind("True or False", _flag, frozenset({bool})),
    int: Kind("an integer", integer, loose=frozenset({int})),
    float: Kind("a number", _number),
    str: Kind("a text", _text, frozenset({str})),
    Tensor: Kind("a tensor", plain_tensor, loose=frozenset({Tensor, torch.nn.Parameter})),
    SupportsArray: Kind(
        "a tensor or an array", _data, loose=frozenset({Tensor, torch.nn.Parameter, np.ndarray})
    ),  # of the union with tensors, DataLike
    torch.Generator: Kind("a torch.Generator", generator_of, frozenset({torch.Generator})),
    torch.dtype: Kind("a torch.dtype", floating_dtype),
    torch.device: Kind("a device", device_of),
    Mapping: Kind("a dict", _mapping, frozenset({dict})),
    dict: Kind("a dict", _mapping, frozenset({dict})),
    os.PathLike: Kind("a path", _path),
    type: Kind("a class", _class),
}


def instance_of(cls: type) -> Kind:
    """Of a class: one of its instances."""

    def check(name: str, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        cure = ""
        if isinstance(value, type) and issubclass(value, cls):
            cure = f"; write {value.__name__}(...), one of its instances"
        elif isinstance(value, torch.nn.Module) and isinstance(_unwrapped(value), cls):
            cure = f"; give the {cls.__name__} inside it, and wrap its network instead"
        elif isinstance(value, str) and (known := _named(cls, value)):
            cure = f"; write {known}(...), one of its instances"
        elif cls.__name__ == "Field" and callable(value):
            cure = "; write Velocity(net, process), which says what a network predicts"
        raise TypeError(f"{name} must be {article(cls.__name__)}, got {shown(value)}{cure}")

    return Kind(article(cls.__name__), check, frozenset({cls}))


def _named(cls: type, text: str) -> str | None:
    """A class of this kind whose name begins with a text."""
    start = text.replace("_", "").lower()
    below: type
    for below in cls.__subclasses__():
        if start and below.__name__.lower().startswith(start):
            return str(below.__name__)
        if (name := _named(below, text)) is not None:
            return name
    return None


def _unwrapped(module: torch.nn.Module) -> Any:
    """What ``torch.compile`` or a data-parallel wrapper holds."""
    return getattr(module, "_orig_mod", getattr(module, "module", None))


def article(word: str) -> str:
    return f"an {word}" if word[0] in "AEIOU" else f"a {word}"
