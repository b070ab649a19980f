"""What a signature says is checked: the annotations of public functions, at their call.

``@checked`` reads the annotations of a function, or of a class's constructor, when it is first
called, and refuses arguments that they do not admit, each by the check of its kind: a number that
is NaN or a text, a seed for a generator, a text for a dtype, a list for a tensor, a class for one
of its instances, a function that takes another number of arguments. It knows types, not ranges.

``@explained`` asks the same only once a function has failed, for what is called in every step.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, cast

import numpy as np
import torch
from torch import Tensor

from .arguments import (
    check_callable,
    device_of,
    dtype_of,
    generator_of,
    integer,
    number,
    shown,
)
from .checks import plain_tensor

__all__ = ["as_is", "check_call", "checked", "explained"]

Check = Callable[[str, Any], Any]
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_NOTHING: frozenset[type] = frozenset()


class Kind:
    """What an annotation admits: in words, exact types that need no look, and the check."""

    def __init__(self, words: str, check: Check, plain: frozenset[type] = _NOTHING) -> None:
        self.words, self.check, self.plain = words, check, plain


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
        return value
    raise TypeError(f"{name} must be a dict, got {shown(value)}; write {name}={{'label': labels}}")


def _class(name: str, value: Any) -> type:
    if isinstance(value, type):
        return value
    raise TypeError(f"{name} must be a class, got {shown(value)}")


_RECORDED = Kind("a number", _recorded)
_SIMPLE: dict[Any, Kind] = {
    bool: Kind("True or False", _flag, frozenset({bool})),
    int: Kind("an integer", integer),
    float: Kind("a number", _number),
    str: Kind("a text", _text, frozenset({str})),
    Tensor: Kind("a tensor", plain_tensor),
    torch.Generator: Kind("a torch.Generator", generator_of, frozenset({torch.Generator})),
    torch.dtype: Kind("a torch.dtype", dtype_of, frozenset({torch.dtype})),
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
        elif cls.__name__ == "Field" and callable(value):
            cure = "; write Velocity(net, process), which says what a network predicts"
        raise TypeError(f"{name} must be {_article(cls.__name__)}, got {shown(value)}{cure}")

    return Kind(_article(cls.__name__), check, frozenset({cls}))


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
        arguments = [_LETTERS.get(one, "x") for one in given[0]]
    words = "a function" if arguments is None else f"a function of ({', '.join(arguments)})"
    return Kind(words, lambda name, value: check_callable(name, value, arguments) or value)


_LETTERS: dict[Any, str] = {int: "k", float: "number"}


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
        for refusal in refusals:  # of the right type, but not such a value
            if isinstance(refusal, ValueError):
                raise refusal
        cure = next((str(r).partition("; write ")[2] for r in refusals if "; write " in str(r)), "")
        raise TypeError(
            f"{name} must be {words}, got {shown(value)}" + (f"; write {cure}" if cure else "")
        )

    return Kind(words, check, plain)


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
        return None if protocol else _instance_of(annotation)
    return None


_ANY = Kind("", lambda name, value: value)


# --------------------------------------------------------------------------------- signatures


class _Signature:
    """Names of the parameters of a function and their kinds, read when first needed."""

    def __init__(self, function: Callable[..., Any], record: bool = False) -> None:
        self.function, self.record = function, record
        self.known: tuple[list[tuple[str, Kind | None]], dict[str, Kind]] | None = None

    def read(self) -> tuple[list[tuple[str, Kind | None]], dict[str, Kind]]:
        names_here = dict(vars(sys.modules[self.function.__module__]))
        places: list[tuple[str, Kind | None]] = []
        by_name: dict[str, Kind] = {}
        for name, parameter in inspect.signature(self.function).parameters.items():
            kind = kind_of(_evaluated(parameter.annotation, names_here))
            kind = _RECORDED if self.record and kind is _SIMPLE[float] else kind
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                places.append((name, kind))
            if kind is not None and parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            ):
                by_name[name] = kind
        self.known = places, by_name
        return self.known

    def check(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as they are used; raises for one that its annotation does not admit."""
        places, by_name = self.known or self.read()
        for k, ((name, kind), value) in enumerate(zip(places, args, strict=False)):
            if kind is not None and type(value) not in kind.plain:
                found = kind.check(name, value)
                if found is not value:
                    args = (*args[:k], found, *args[k + 1 :])
        for name, value in kwargs.items():
            kind = by_name.get(name)
            if kind is not None and type(value) not in kind.plain:
                kwargs[name] = kind.check(name, value)
        return args, kwargs

    def compare(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Say which tensors were given, where torch found that they do not go together."""
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        if type(error) not in (RuntimeError, IndexError) or not _OF_SHAPES.search(str(error)):
            return
        if frame is None or not _is_ours(frame):  # of a user's function, or said clearly
            return
        places, _ = self.known or self.read()
        given = dict(zip((name for name, _ in places), args, strict=False)) | kwargs
        told = [
            f"{name} {_kind(value)}" for name, value in given.items() if isinstance(value, Tensor)
        ]
        if told:
            raise ValueError(
                f"{self.function.__qualname__} cannot be made of {', '.join(told)}: their shapes,"
                f" dtypes or devices do not go together ({str(error).splitlines()[0][:150]})"
            ) from error


def _kind(value: Tensor) -> str:
    where = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}{where}"


def _is_ours(place: types.TracebackType) -> bool:
    """Whether an error came out of torch where this package, or torch's own Python, called it."""
    path = place.tb_frame.f_code.co_filename
    raised = linecache.getline(path, place.tb_lineno).lstrip().startswith("raise ")
    return path.startswith(_OURS) and not raised


def _evaluated(annotation: Any, known: dict[str, Any]) -> Any:
    """An annotation that was written as text; Any where a name in it is not known."""
    if not isinstance(annotation, str):
        return Any if annotation is inspect.Parameter.empty else annotation
    while True:
        try:
            return eval(annotation, known)
        except NameError as missing:  # imported for type checkers alone
            found = _CLASSES.get(missing.name) or _class_named(missing.name)
            if found is None:
                return Any
            known[missing.name] = found
        except TypeError:
            return Any


_CLASSES: dict[str, Any] = {}


def _class_named(name: str) -> Any:
    """A class of this package by its bare name."""
    root = __name__.partition(".")[0]
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == root:
            found = vars(module).get(name)
            if isinstance(found, type):
                _CLASSES[name] = found
                return found
    return None


def checked(target: _Decorated) -> _Decorated:
    """Check the arguments of a function at each call.

    Of a class, those of its constructor; its public methods are :func:`explained`.
    """
    if isinstance(target, type):
        for name, member in list(vars(target).items()):
            function = getattr(member, "__func__", member)  # of a class method
            if name == "__init__":
                target.__init__ = _checked(target.__init__, is_dataclass(target))  # type: ignore[misc]
            elif not isinstance(function, types.FunctionType) or hasattr(function, "_as_is"):
                continue
            elif (not name.startswith("_") or name == "__call__") and _takes_any(function):
                wrapped: Any = explained(function)
                setattr(target, name, type(member)(wrapped) if function is not member else wrapped)
        return cast("_Decorated", target)
    return _checked(target)


def _checked(target: _Decorated, record: bool = False) -> _Decorated:
    signature = _Signature(target, record)

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = signature.check(args, kwargs)
        try:
            return target(*args, **kwargs)
        except (RuntimeError, IndexError) as error:
            signature.compare(error, args, kwargs)
            raise

    return cast("_Decorated", call)


def explained(target: _Decorated) -> _Decorated:
    """Check the arguments of a function once it has failed, to say why."""
    signature = _Signature(target)

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return target(*args, **kwargs)
        except _RAW as error:
            signature.check(args, kwargs)
            signature.compare(error, args, kwargs)
            raise

    return as_is(cast("_Decorated", call))


def as_is(target: _Decorated) -> _Decorated:
    """Mark a method that ``@checked`` leaves as it is: on the way of every network call."""
    target._as_is = True  # type: ignore[attr-defined]
    return target


_OURS = tuple(str(Path(one).parent) for one in (cast(str, torch.__file__), Path(__file__).parent))
_RAW = (TypeError, AttributeError, RuntimeError, IndexError, ValueError, OverflowError)
_OF_SHAPES = re.compile(
    "size|shape|dimension|dtype|expand|same type|Float|Double|Long|Bool|broadcast|device|of range"
)


def _takes_any(function: types.FunctionType) -> bool:
    code = function.__code__
    return code.co_argcount + code.co_kwonlyargcount > 1


_SIGNATURES: dict[types.CodeType, _Signature] = {}


def check_call(function: Callable[..., Any], given: dict[str, Any]) -> None:
    """Check ``locals()`` at the head of a function, which adds no frame to its calls."""
    function = inspect.unwrap(function)
    signature = _SIGNATURES.get(function.__code__)
    if signature is None:
        signature = _SIGNATURES[function.__code__] = _Signature(function)
    signature.check((), given)
