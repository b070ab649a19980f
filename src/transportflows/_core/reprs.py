"""Short representations: what a notebook shows of an object that holds tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["brief", "summary"]

_WIDTH = 280  # characters of a summary, three lines at most


def brief(value: Any) -> str:
    """A value in a few characters: numbers to four digits, of a large tensor shape and range.

    A tensor of one value throughout is that number, one of up to four numbers is a list of them.
    """
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Tensor):
        return _brief_tensor(value)
    if isinstance(value, Mapping):
        return f"{{{len(value)} entries}}" if len(value) > 2 else repr(dict(value))[:60]
    if isinstance(value, (tuple, list)):
        if len(value) <= 4:
            text = ", ".join(brief(one) for one in value)
            return f"({text})" if isinstance(value, tuple) else f"[{text}]"
        return f"<{len(value)} values>"
    text = repr(value)
    return text if len(text) <= 60 else f"<{type(value).__name__}>"


def _brief_tensor(value: Tensor) -> str:
    value = value.detach()
    shape = tuple(value.shape)
    if value.numel() == 0 or value.is_meta:
        return f"<tensor of shape {shape}>"
    if value.is_complex():
        return f"<complex tensor of shape {shape}>"
    low, high = float(value.min()), float(value.max())
    if low == high:
        return f"{low:.4g}" if value.numel() == 1 else f"<{low:.4g}, shape {shape}>"
    if value.ndim == 1 and value.numel() <= 4:
        return "[" + ", ".join(f"{one:.4g}" for one in value.tolist()) + "]"
    return f"<{low:.4g} to {high:.4g}, shape {shape}>"


def summary(self: Any) -> str:
    """The ``__repr__`` of a dataclass of results: its fields in brief, three lines at most."""
    parts = [f"{f.name}={brief(getattr(self, f.name))}" for f in dataclasses.fields(self) if f.repr]
    lines, line = [], f"{type(self).__name__}("
    for k, part in enumerate(parts):
        part += ")" if k == len(parts) - 1 else ", "
        if len(line) + len(part) > 99 and line.strip():
            lines.append(line.rstrip())
            line = "    "
        line += part
    return "\n".join([*lines, line])
