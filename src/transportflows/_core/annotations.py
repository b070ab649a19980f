"""Kinds of annotations, such as ``tuple[float, ...]``, ``Callable[[Tensor], Tensor]``, ``A | B``.

They are made of the kinds of single things, of :mod:`transportflows._core.kinds`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Union, cast

import numpy as np
import torch
from torch import Tensor

from .arguments import check_callable, shown
from .arrays import SupportsArray
from .kinds import SIMPLE, Kind, article, instance_of

__all__ = ["kind_of", "loose_kind", "record_kind"]


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
        if SupportsArray in given:  # of DataLike, whose one kind is of both
            given = tuple(one for one in given if one is not Tensor)
        kinds = [kind_of(one) for one in given]
        if any(kind is None for kind in kinds):
            return None
        known = cast("list[Kind]", kinds)  # a tensor () is kept as one where it may be one
        first = (SIMPLE[Tensor], SIMPLE[SupportsArray])
        known = sorted(known, key=lambda k: (k is _NONE) - (k in first))
        return _either(known) if len(known) > 1 else known[0]
    if origin is Callable or annotation is Callable:
        return _function(annotation)
    if origin is tuple and len(given) == 2 and given[1] is Ellipsis:
        return _many(kind_of(given[0]) or _ANY, sized=True)
    if origin is tuple and given:
        return _tuple([kind_of(one) or _ANY for one in given])
    if origin in (Sequence, list, Iterable):
        return _many(kind_of(given[0]) or _ANY, sized=origin is not Iterable)
    annotation = origin or annotation
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    if isinstance(annotation, type) and annotation is not object:
        protocol = getattr(annotation, "_is_protocol", False)
        return _protocol(annotation) if protocol else instance_of(annotation)
    return None


def _protocol(cls: type) -> Kind:
    """Of a protocol: what has its members."""
    members = [name for name in vars(cls) if name == "__call__" or not name.startswith("_")]

    def check(name: str, value: Any) -> Any:
        kind = type(value)  # asked first: a property of the value itself may refuse to be read
        whole = all(hasattr(kind, m) or hasattr(value, m) for m in members)
        if isinstance(value, type) or not whole:
            raise TypeError(f"{name} must be {article(cls.__name__)}, got {shown(value)}")
        return value

    return Kind(article(cls.__name__), check)


_ANY = Kind("", lambda name, value: value)


def loose_kind(kind: Kind) -> Kind:
    """Of a method, which loops may call in every step: tensors and integers are taken as such."""
    return Kind(kind.words, kind.check, kind.plain | kind.loose) if kind.loose else kind


def record_kind(kind: Kind) -> Kind:
    """Of a field of a result: its numbers may be NaN, and its tensors are taken as such."""
    return _RECORDED if kind is SIMPLE[float] else loose_kind(kind)


def _recorded(name: str, value: Any) -> Any:
    """A number of a result, which may be NaN: not defined."""
    return value if isinstance(value, float) else SIMPLE[float].check(name, value)


_RECORDED = Kind("a number", _recorded, frozenset({float, int}))
