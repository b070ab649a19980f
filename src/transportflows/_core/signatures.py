"""What a signature says is checked: the annotations of public functions, at their call.

``@checked`` reads the annotations of a function when it is first called, and refuses arguments that
they do not admit, each by the check of its kind, of :mod:`transportflows._core.kinds`: of types,
not ranges. Where torch then finds that tensors do not go together, it says which were given.

The function that checks is compiled at the first call, with the parameters of its own: it costs a
look at the type of each argument, less than a tenth of a microsecond.
"""

from __future__ import annotations

import builtins
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
from .kinds import Kind, kind_of, loose_kind, record_kind

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


def _not_yet(*args: Any, **kwargs: Any) -> Any:
    return _first(args, kwargs)  # type: ignore[name-defined]  # noqa: F821


def _wrapped(target: types.FunctionType, each: Callable[[Kind], Kind | None]) -> types.FunctionType:
    """A function that checks and calls; its code is made when it is first called."""
    known: dict[str, Any] = {"__builtins__": builtins, "_target": target, "_explain": _explain}
    known["_refuse"] = _refuse
    call = types.FunctionType(_not_yet.__code__, known, target.__name__)
    functools.update_wrapper(call, target)
    call._as_is = True  # type: ignore[attr-defined]

    def first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kinds = {name: kind for name, one in _kinds(target).items() if (kind := each(one))}
        for name, kind in kinds.items():
            known[f"_check_{name}"], known[f"_plain_{name}"] = kind.check, kind.plain
        parameters = inspect.signature(target).parameters.values()
        known.update({f"_default_{p.name}": p.default for p in parameters})
        call.__defaults__ = tuple(
            p.default
            for p in parameters
            if p.default is not p.empty and p.kind is not p.KEYWORD_ONLY
        )
        call.__kwdefaults__ = {
            p.name: p.default
            for p in parameters
            if p.default is not p.empty and p.kind is p.KEYWORD_ONLY
        }
        call.__code__ = _code(target, kinds, list(parameters))
        return call(*args, **kwargs)

    known["_first"] = first
    return call


def _code(
    target: types.FunctionType, kinds: dict[str, Kind], parameters: list[inspect.Parameter]
) -> types.CodeType:
    """The code of a function with the same parameters that checks them and calls the target."""
    bare = [p.replace(annotation=p.empty, default=p.empty) for p in parameters]
    is_a = inspect.Parameter
    words: dict[Any, str] = {
        is_a.VAR_POSITIONAL: "*{0}",
        is_a.KEYWORD_ONLY: "{0}={0}",
        is_a.VAR_KEYWORD: "**{0}",
    }
    passed = ", ".join(words.get(p.kind, "{0}").format(p.name) for p in bare)
    given = ", ".join(f"{p.name!r}: {p.name}" for p in bare)
    lines = [f"def {target.__name__}{inspect.Signature(bare)}:"]
    looks = [
        f"  if type({name}) not in _plain_{name} and {name} is not _default_{name}:"
        f" {name} = _check_{name}({name!r}, {name})"
        for name in kinds
    ]
    if looks:
        lines += [" try:", *looks, " except (TypeError, ValueError) as _refusal:"]
        lines += [f"  _refuse(_refusal, lambda: _target({passed}))"]
    lines += [" try:", f"  return _target({passed})", " except Exception as _error:"]
    lines += [f"  _explain(_error, _target, {{{given}}})", "  raise"]
    made: dict[str, Any] = {}
    exec(compile("\n".join(lines), f"<checks of {target.__qualname__}>", "exec"), made)
    code: types.CodeType = made[target.__name__].__code__
    return code


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


def _refuse(refusal: Exception, call: Callable[[], Any]) -> None:
    """Raise a refusal; the function's own, which knows more, where it has one."""
    if hasattr(refusal, "certain"):
        raise refusal from None
    try:
        call()
    except (TypeError, ValueError) as own:
        place = _last(own)
        if place is not None and _is_raise(place) and _is_within(place, _PACKAGE):
            raise own from None
    except Exception:  # which the refusal tells better
        pass
    raise refusal from None


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
