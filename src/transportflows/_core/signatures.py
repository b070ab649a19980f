"""What a signature says is checked: the annotations of public functions, at their call.

``@checked`` reads the annotations of a function when it is first called, and refuses arguments that
they do not admit, each by the check of its kind, of :mod:`transportflows._core.annotations`: of
types, not ranges. Where torch then finds that tensors do not go together, it says which were given.

A check costs a look at the type of each argument, about a microsecond a call: what a step calls is
marked :func:`as_is`.
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
from torch.compiler import is_compiling

from .annotations import kind_of, loose_kind, record_kind
from .arguments import shown
from .kinds import Kind

__all__ = ["as_is", "check_call", "checked"]

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_SIGNATURES: dict[types.CodeType, dict[str, Kind]] = {}


def checked(target: _Decorated) -> _Decorated:
    """Check the arguments of a function at each call; of a class, constructor and methods."""
    if not isinstance(target, type):
        return cast("_Decorated", _wrapped(cast("types.FunctionType", target), lambda kind: kind))
    is_record = is_dataclass(target) or hasattr(target, "_fields")
    for name, member in list(vars(target).items()):
        function = getattr(member, "__func__", member)  # of a class method
        if not isinstance(function, types.FunctionType) or hasattr(function, "_as_is"):
            continue
        made: Any = None
        if name == "__init__" or (name == "__new__" and hasattr(target, "_fields")):
            function.__module__ = target.__module__  # of a named tuple it is a made one
            made = _wrapped(function, record_kind if is_record else lambda kind: kind)
        elif (not name.startswith("_") or name == "__call__") and _takes_any(function):
            made = _wrapped(function, loose_kind)
        if made is not None:
            setattr(target, name, type(member)(made) if function is not member else made)
    return target


def as_is(target: _Decorated) -> _Decorated:
    """Mark a method that ``@checked`` leaves as it is: on the way of every network call."""
    target._as_is = True  # type: ignore[attr-defined]
    return target


def check_call(function: Callable[..., Any], given: dict[str, Any]) -> None:
    """Check ``locals()`` at the head of a function, which adds no frame to its calls."""
    function = inspect.unwrap(function)
    kinds = _SIGNATURES.get(function.__code__)
    if kinds is None:
        kinds = _SIGNATURES[function.__code__] = _kinds(function)
    for name, kind in kinds.items():
        if type(given[name]) not in kind.plain:
            kind.check(name, given[name])


def _takes_any(function: types.FunctionType) -> bool:
    code: types.CodeType = inspect.unwrap(function).__code__
    return code.co_argcount + code.co_kwonlyargcount > 1


# ------------------------------------------------------------------------------------ wrapping


def _wrapped(target: types.FunctionType, each: Callable[[Kind], Kind | None]) -> Callable[..., Any]:
    """A function that checks its arguments and calls; the kinds are read at the first call."""
    looks: dict[str, tuple[Kind, Any]] = {}  # by parameter: its kind and its default
    places: list[str] = []  # of positional parameters
    quick: list[tuple[frozenset[type], Any] | None] = []  # of each: plain types and the default

    def read() -> None:
        parameters = inspect.signature(target).parameters.values()
        known = _kinds(target)
        looks.update(
            {
                p.name: (kind, p.default)
                for p in parameters
                if p.name in known and (kind := each(known[p.name]))
            }
        )
        alone = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [p.name for p in parameters if p.kind in alone]
        quick[:] = [(looks[n][0].plain, looks[n][1]) if n in looks else None for n in names]
        places[:] = names

    def looked_at(name: str, value: Any) -> Any:
        kind, default = looks[name]
        if type(value) in kind.plain or value is default:
            return value
        return kind.check(name, value)

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_compiling():
            return target(*args, **kwargs)
        if not places and not looks:
            read()
        given = args
        try:
            for k, (value, known) in enumerate(zip(args, quick, strict=False)):
                if known and type(value) not in known[0] and value is not known[1]:
                    given = (*given[:k], looked_at(places[k], value), *given[k + 1 :])
            for name, value in kwargs.items():
                if name in looks:
                    kwargs[name] = looked_at(name, value)
        except (TypeError, ValueError):
            if target.__name__ == "__init__":
                _refuse_itself(target, args, kwargs)
            raise
        try:
            return target(*given, **kwargs)
        except Exception as error:
            _explain(error, target, {**dict(zip(places, args, strict=False)), **kwargs})
            raise

    return as_is(call)


# ------------------------------------------------------------------------------------- reading


def _kinds(function: Callable[..., Any]) -> dict[str, Kind]:
    """The kinds of the parameters of a function, by name; those that admit anything left out."""
    names_here = dict(vars(sys.modules[function.__module__]))
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = kind_of(_evaluated(parameter.annotation, names_here))
        if kind is not None and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            found[name] = kind
    return found


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
            name = str(missing.name)
            found = _CLASSES.get(name) or _class_named(name)
            known[name] = Any if found is None else found
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


# ----------------------------------------------------------------------------------- explaining


def _refuse_itself(target: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> None:
    """Let a constructor refuse what it is given, which it may do with a better cure."""
    try:
        target(*args, **kwargs)
    except (TypeError, ValueError) as own:
        place = _last(own)
        if place is not None and _is_raise(place) and _is_within(place, _PACKAGE):
            raise own from None
    except Exception:  # which the refusal of its kind tells better
        return


def _explain(error: Exception, function: Callable[..., Any], given: dict[str, Any]) -> None:
    """Say which tensors and numbers were given, where torch found that they do not go together."""
    place = _last(error)
    message = str(error).splitlines()[0][:150] if str(error) else ""
    known = (RuntimeError, IndexError, NotImplementedError, OverflowError, ValueError)
    if type(error) not in known or not _OF_SHAPES.search(message):
        return
    if place is None or _is_raise(place) or not _is_within(place, _PACKAGE, _TORCH):
        return  # of a user's function, or said clearly
    told = [
        f"{name} {_kind(value)}"
        for name, value in given.items()
        if isinstance(value, (Tensor, int, torch.dtype, tuple)) and not isinstance(value, bool)
    ]
    if told:
        raise ValueError(
            f"{function.__qualname__} cannot be made of {', '.join(told)}: their sizes, shapes,"
            f" dtypes or devices do not go together ({message})"
        ) from error


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"= {shown(value)}"
    where = "" if value.device.type == "cpu" else f" on {value.device}"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}{where}"


def _last(error: Exception) -> types.TracebackType | None:
    """Where an error was raised."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place


def _is_raise(place: types.TracebackType) -> bool:
    """Whether Python code raised an error, not torch beneath it."""
    path = place.tb_frame.f_code.co_filename
    return linecache.getline(path, place.tb_lineno).lstrip().startswith("raise ")


def _is_within(place: types.TracebackType, *folders: str) -> bool:
    """Whether an error was raised in the code of some packages."""
    return place.tb_frame.f_code.co_filename.startswith(folders)


_TORCH, _PACKAGE = str(Path(torch.__file__).parent), str(Path(__file__).parents[1])
_OF_SHAPES = re.compile(
    "size|shape|dimension|dtype|expand|same type|Float|Double|Long|[bB]ool|broadcast|device|numel"
    "|of range|at least \\d?D|not enough memory|verflow|too big|not implemented for|[mM]eta|Sparse"
)
