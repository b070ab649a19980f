"""Kinds of arguments: what an annotation admits, and how what it does not admit is refused.

A number that is NaN or a text, a seed for a generator, a text for a dtype, a list for a tensor, a
class for one of its instances, a function that takes another number of arguments: each kind has
words for messages, the check, and exact types that need no look.

(A little longer than other files: kinds of containers are made of kinds, in one recursion.)
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Union, cast

import numpy as np
import torch
from torch import Tensor

from .arguments import (
    check_callable,
    device_of,
    floating_dtype,
    generator_of,
    integer,
    number,
    shown,
)
from .checks import plain_tensor
from .conditions import check_names

__all__ = ["Kind", "kind_of", "loose_kind", "record_kind"]

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


def _recorded(name: str, value: Any) -> Any:
    """A number of a result, which may be NaN: not defined."""
    return value if isinstance(value, float) else _number(name, value)


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


_SIMPLE: dict[Any, Kind] = {
    bool: Kind("True or False", _flag, frozenset({bool})),
    int: Kind("an integer", integer, loose=frozenset({int})),
    float: Kind("a number", _number),
    str: Kind("a text", _text, frozenset({str})),
    Tensor: Kind("a tensor", plain_tensor, loose=frozenset({Tensor, torch.nn.Parameter})),
    torch.Generator: Kind("a torch.Generator", generator_of, frozenset({torch.Generator})),
    torch.dtype: Kind("a torch.dtype", floating_dtype),
    torch.device: Kind("a device", device_of),
    Mapping: Kind("a dict", _mapping, frozenset({dict})),
    dict: Kind("a dict", _mapping, frozenset({dict})),
    os.PathLike: Kind("a path", _path),
    type: Kind("a class", _class),
}


def _instance_of(cls: type) -> Kind:
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
        raise TypeError(f"{name} must be {_article(cls.__name__)}, got {shown(value)}{cure}")

    return Kind(_article(cls.__name__), check, frozenset({cls}))


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


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "AEIOU" else f"a {word}"


# ----------------------------------------------------------------------------- compound kinds


def _many(member: Kind, *, sized: bool) -> Kind:
    """A sequence of members; arrays of one dimension become lists."""
    words = f"a sequence, each {member.words.removesuffix('s')}" if member.words else "a sequence"

    def check(name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.ndim == 1:
            value = value.tolist()
        if isinstance(value, (str, bytes, Tensor, Mapping)) or not hasattr(value, "__iter__"):
            hint = f"; write ({shown(value)},)" if isinstance(value, (int, float)) else ""
            if isinstance(value, Tensor) and value.ndim == 1:
                hint = f"; write {name.split()[0]}.tolist()"
            raise TypeError(f"{name} must be {words}, got {shown(value)}{hint}")
        if sized and not isinstance(value, Sequence):
            raise TypeError(
                f"{name} must be {words}, got {shown(value)}; write list({name.split()[0]})"
            )
        if isinstance(value, Sequence):
            for k, one in enumerate(value):
                if type(one) not in member.plain:
                    member.check(f"{name}[{k}]", one)
        return value

    return Kind(words, check)


def _tuple(members: Sequence[Kind]) -> Kind:
    words = f"a tuple ({', '.join(m.words for m in members)})"

    def check(name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = tuple(value.tolist())
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"{name} must be {words}, got {shown(value)}")
        if len(value) != len(members):
            raise ValueError(f"{name} must be {words}, got {len(value)} of them, {shown(value)}")
        for k, (member, one) in enumerate(zip(members, value, strict=True)):
            member.check(f"{name}[{k}]", one)
        return value

    return Kind(words, check)


def _function(annotation: Any) -> Kind:
    """Of ``Callable[[A, B], C]``: what can be called with two arguments."""
    given = typing.get_args(annotation)
    arguments = None
    if given and isinstance(given[0], list):
        arguments = [{int: "k", float: "number"}.get(one, "x") for one in given[0]]
    words = "a function" if arguments is None else f"a function of ({', '.join(arguments)})"

    def check(name: str, value: Any) -> Any:
        check_callable(name, value, arguments)
        return value

    return Kind(words, check)


def _either(kinds: Sequence[Kind]) -> Kind:
    """A union: the first that admits it; of the refusals, that of the nearest kind."""
    words = ", ".join(k.words for k in kinds[:-1]) + f" or {kinds[-1].words}"
    plain = frozenset().union(*(k.plain for k in kinds))

    def check(name: str, value: Any) -> Any:
        if type(value) in plain:
            return value
        refusals: list[Exception] = []
        for kind in kinds:
            try:
                return kind.check(name, value)
            except (TypeError, ValueError) as refusal:
                refusals.append(refusal)
        for nearest in refusals:  # of the right type, but not such a value
            if isinstance(nearest, ValueError):
                raise nearest
        cures = [str(r).partition("; write ")[2] for r in refusals if "; write " in str(r)]
        cure = next((c for c in cures if "instances" in c), cures[0] if cures else "")
        raise TypeError(
            f"{name} must be {words}, got {shown(value)}" + (f"; write {cure}" if cure else "")
        )

    loose = frozenset[type]().union(*(k.loose for k in kinds))
    return Kind(words, check, plain, loose)


def _nothing(name: str, value: Any) -> None:
    if value is not None:
        raise TypeError(f"{name} must be None, got {shown(value)}")


_NONE = Kind("None", _nothing, frozenset({type(None)}))


def kind_of(annotation: Any) -> Kind | None:
    """The kind of an annotation; None for one that admits anything, or that nothing is known of."""
    if annotation is None or annotation is type(None):
        return _NONE
    if annotation is Any:
        return None
    origin, given = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        if torch.device in given:  # whose texts are its own
            given = tuple(one for one in given if one is not str)
        kinds = [kind_of(one) for one in given]
        if any(kind is None for kind in kinds):
            return None
        known = cast("list[Kind]", kinds)  # a tensor () is kept as one where it may be one
        return _either(sorted(known, key=lambda k: (k is _NONE) - (k is _SIMPLE[Tensor])))
    if origin is Callable or annotation is Callable:
        return _function(annotation)
    if origin is tuple and len(given) == 2 and given[1] is Ellipsis:
        return _many(kind_of(given[0]) or _ANY, sized=True)
    if origin is tuple and given:
        return _tuple([kind_of(one) or _ANY for one in given])
    if origin in (Sequence, list, Iterable):
        return _many(kind_of(given[0]) or _ANY, sized=origin is not Iterable)
    annotation = origin or annotation
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    if isinstance(annotation, type) and annotation is not object:
        protocol = getattr(annotation, "_is_protocol", False)
        return _protocol(annotation) if protocol else _instance_of(annotation)
    return None


def _protocol(cls: type) -> Kind:
    """Of a protocol: what has its members."""
    members = [name for name in vars(cls) if name == "__call__" or not name.startswith("_")]

    def check(name: str, value: Any) -> Any:
        kind = type(value)  # asked first: a property of the value itself may refuse to be read
        whole = all(hasattr(kind, m) or hasattr(value, m) for m in members)
        if isinstance(value, type) or not whole:
            raise TypeError(f"{name} must be {_article(cls.__name__)}, got {shown(value)}")
        return value

    return Kind(_article(cls.__name__), check)


_ANY = Kind("", lambda name, value: value)


def loose_kind(kind: Kind) -> Kind:
    """Of a method, which loops may call in every step: tensors and integers are taken as such."""
    return Kind(kind.words, kind.check, kind.plain | kind.loose) if kind.loose else kind


def record_kind(kind: Kind) -> Kind:
    """Of a field of a result: its numbers may be NaN, and its tensors are taken as such."""
    return _RECORDED if kind is _SIMPLE[float] else loose_kind(kind)


_RECORDED = Kind("a number", _recorded, frozenset({float, int}))
