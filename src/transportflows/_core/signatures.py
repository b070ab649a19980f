"""What a signature says is checked: the annotations of public functions, at their call.

``@checked`` reads the annotations of a function when it is first called, and refuses arguments that
they do not admit, each by the check of its kind, of :mod:`transportflows._core.kinds`: of types,
not ranges. Where torch then finds that tensors do not go together, it says which were given.

``@explained`` does the same only once a function has failed, for what is called in every step.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import re
import sys
import types
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, ForwardRef, TypeVar, cast

import torch
from torch import Tensor

from .arguments import shown
from .kinds import Kind, kind_of, record_kind

__all__ = ["as_is", "check_call", "checked", "checked_late", "explained"]

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


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
            kind = record_kind(kind) if self.record else kind
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
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, strict: bool = False
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as they are used; raises for one that its annotation does not admit.

        ``strict`` refuses those that would be used as something else, a whole number that is a
        float say.
        """
        places, by_name = self.known or self.read()
        for k, ((name, kind), value) in enumerate(zip(places, args, strict=False)):
            if kind is not None and type(value) not in kind.plain:
                found = kind.check(name, value)
                if found is not value:
                    _refuse(name, value, kind, found, strict)
                    args = (*args[:k], found, *args[k + 1 :])
        for name, value in kwargs.items():
            kind = by_name.get(name)
            if kind is not None and type(value) not in kind.plain:
                kwargs[name] = kind.check(name, value)
                if kwargs[name] is not value:
                    _refuse(name, value, kind, kwargs[name], strict)
        return args, kwargs

    def compare(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Say which tensors were given, where torch found that they do not go together."""
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        message = str(error).splitlines()[0][:150] if str(error) else ""
        known = (RuntimeError, IndexError, NotImplementedError)
        if type(error) not in known or not _OF_SHAPES.search(message):
            return
        if frame is None or not _is_ours(frame):  # of a user's function, or said clearly
            return
        places, _ = self.known or self.read()
        given = dict(zip((name for name, _ in places), args, strict=False)) | kwargs
        told = [
            f"{name} {_kind(value)}"
            for name, value in given.items()
            if isinstance(value, (Tensor, int, torch.dtype, tuple)) and not isinstance(value, bool)
        ]
        if told:
            raise ValueError(
                f"{self.function.__qualname__} cannot be made of {', '.join(told)}: their sizes,"
                f" shapes, dtypes or devices do not go together ({message})"
            ) from error


def _refuse(name: str, value: Any, kind: Kind, found: Any, strict: bool) -> None:
    if strict and type(value) is not type(found):
        raise TypeError(f"{name} must be {kind.words}, got {shown(value)}; write {shown(found)}")


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"= {shown(value)}"
    where = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}{where}"


def _is_ours(place: types.TracebackType) -> bool:
    """Whether an error came out of torch where this package, or torch's own Python, called it."""
    path = place.tb_frame.f_code.co_filename
    raised = linecache.getline(path, place.tb_lineno).lstrip().startswith("raise ")
    return path.startswith(_OURS) and not raised


def _evaluated(annotation: Any, known: dict[str, Any]) -> Any:
    """An annotation that was written as text; Any where a name in it is not known."""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
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
    """Check the arguments of a function at each call; of a class, constructor and methods."""
    return _class(target, _checked) if isinstance(target, type) else _checked(target)


def checked_late(target: _Decorated) -> _Decorated:
    """Check a class's constructor; its methods, which loops call in every step, are explained."""
    return _class(target, explained)


def _class(target: Any, of_methods: Callable[[_Decorated], _Decorated]) -> Any:
    for name, member in list(vars(target).items()):
        function = getattr(member, "__func__", member)  # of a class method
        if not isinstance(function, types.FunctionType) or hasattr(function, "_as_is"):
            continue
        wrapped: Any = None
        if name == "__init__" or (name == "__new__" and hasattr(target, "_fields")):
            function.__module__ = target.__module__  # of a named tuple it is a made one
            wrapped = _checked(function, is_dataclass(target) or hasattr(target, "_fields"))
        elif (not name.startswith("_") or name == "__call__") and _takes_any(function):
            wrapped = of_methods(function)
        if wrapped is not None:
            setattr(target, name, type(member)(wrapped) if function is not member else wrapped)
    return target


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
            signature.check(args, dict(kwargs), strict=True)
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
    "size|shape|dimension|dtype|expand|same type|Float|Double|Long|[bB]ool|broadcast|device"
    "|of range|at least \\d?D|not enough memory|overflow|not implemented for"
)


def _takes_any(function: types.FunctionType) -> bool:
    code = inspect.unwrap(function).__code__
    return code.co_argcount + code.co_kwonlyargcount > 1


_SIGNATURES: dict[types.CodeType, _Signature] = {}


def check_call(function: Callable[..., Any], given: dict[str, Any]) -> None:
    """Check ``locals()`` at the head of a function, which adds no frame to its calls."""
    function = inspect.unwrap(function)
    signature = _SIGNATURES.get(function.__code__)
    if signature is None:
        signature = _SIGNATURES[function.__code__] = _Signature(function)
    signature.check((), given)
