"""Short representations: what a notebook shows of an object that holds tensors."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any

from torch import Tensor

__all__ = ["brief", "call", "call_lines", "summary"]

_LINE = 99  # characters
_MOST = 300  # characters of a summary


def brief(value: Any, *, ranges: bool = True, shapes: bool = True) -> str:
    """A value in a few characters: numbers to four digits, of a large tensor range and shape.

    Up to four numbers are listed. Without ``ranges`` a tensor is its shape alone, without
    ``shapes`` its range, or its number where it has only one.
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Tensor):
        return _brief_tensor(value.detach(), ranges, shapes)
    if isinstance(value, (tuple, list)):
        if len(value) > 4:
            return f"<{len(value)} values>"
        text = ", ".join(brief(one, ranges=ranges, shapes=shapes) for one in value)
        return f"[{text}]" if isinstance(value, list) else f"({text})"
    if isinstance(value, Mapping):
        if len(value) > 4:
            return f"<{len(value)} values>"
        items = (f"{k!r}: {brief(v, ranges=ranges, shapes=shapes)}" for k, v in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, FunctionType):
        return value.__name__
    if inspect.ismethod(value):
        return f"{brief(value.__self__)}.{value.__name__}"
    text = repr(value)
    short = len(text) <= 72 and "\n" not in text and " at 0x" not in text
    return text if short else f"<{type(value).__name__}>"


def call_lines(name: str, parts: Iterable[str]) -> str:
    """``name(part, part, ...)``, broken into lines."""
    lines, line = [], f"{name}("
    for k, part in enumerate(parts):
        if k:
            line += ","
            if len(line) + len(part) > _LINE:
                lines.append(line)
                line = "   "
            line += " "
        line += part
    return "\n".join([*lines, line + ")"])


def call(self: Any) -> str:
    """The ``__repr__`` of an object that keeps its arguments: ``Name(argument=value, ...)``.

    Arguments are told by ``config()`` where it knows them, and otherwise by the attributes of their
    names. Those that are None, or not kept, are left out.
    """
    try:
        kept = self.config()
    except (AttributeError, NotImplementedError):
        kept = {}
    parts = []
    for name in inspect.signature(type(self)).parameters:
        value = kept.get(name, getattr(self, name, None))
        if value is not None and not inspect.ismethod(value):
            parts.append(f"{name}={brief(value)}")
    return call_lines(type(self).__name__, parts)


def summary(self: Any) -> str:
    """The ``__repr__`` of a dataclass of results: its fields in brief, three lines at most."""
    fields = [field.name for field in dataclasses.fields(self) if field.repr]
    for ranges in (True, False):
        parts = [f"{name}={brief(getattr(self, name), ranges=ranges)}" for name in fields]
        text = call_lines(type(self).__name__, parts)
        if len(text) <= _MOST and text.count("\n") < 3:
            break
    return text


def _brief_tensor(value: Tensor, ranges: bool, shapes: bool) -> str:
    shape = tuple(value.shape)
    if not ranges or value.numel() == 0 or value.is_meta or value.is_complex() or value.is_sparse:
        return f"<tensor {shape}>"
    low, high = float(value.min()), float(value.max())
    if low == high and (value.numel() == 1 or not shapes):
        return f"{low:.4g}"
    if value.ndim == 1 and value.numel() <= 4:
        return "[" + ", ".join(f"{one:.4g}" for one in value.tolist()) + "]"
    text = f"{low:.4g} to {high:.4g}" if low != high else f"{low:.4g}"
    return f"<{text}, {shape}>" if shapes else f"<{text}>"
