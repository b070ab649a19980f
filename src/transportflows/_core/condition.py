"""One condition of a training, by what it was like; in files too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .nulls import Null

__all__ = [
    "STATE_NAME",
    "Condition",
    "from_bytes",
    "from_storable",
    "kind_of_numbers",
    "to_bytes",
    "to_storable",
    "weights_of",
]

STATE_NAME = "trained_conditions"
"""The name in a ``state_dict`` of what a field was trained with."""


@dataclass(frozen=True)
class Condition:
    """What a field was trained with under one name.

    Attributes:
        kind: of its numbers, ``"integer"``, ``"floating point"``, ``"boolean"`` or ``"complex"``;
            of what is no tensor and no number the name of its type, such as ``"str"``.
        shape: of one row; a place is None where lengths differed. None for what was one for all
            rows, and passed whole.
        low: the smallest of the integers; None where that is not known, or they are none.
        high: the largest.
        optional: whether the field was trained without it too, so that it may be left out.
        null: what stood for none in the rows from which it was dropped; None if it never was.
        together: whether it was dropped only where all others were that were dropped.

    Example:
        >>> print(Condition("integer", (), low=0, high=9, null=-1))
        integers 0 to 9, one a row, -1 for none
    """

    kind: str
    shape: tuple[int | None, ...] | None = None
    low: int | None = None
    high: int | None = None
    optional: bool = False
    null: Null | None = None
    together: bool = False

    def __str__(self) -> str:
        words = {"integer": "integers", "boolean": "booleans"}.get(
            self.kind, f"{self.kind} numbers"
        )
        if self.shape is None:
            return f"one {self.kind} for all rows"
        if self.low is not None:
            words = f"{words} {self.low} to {self.high}"
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        none = "" if self.null is None else f", {self.null} for none"
        return f"{words}, {'one' if not self.shape else f'({sizes})'} a row{none}"


def kind_of_numbers(value: Any) -> str:
    """What sort of numbers a value holds, or the name of its type."""
    if isinstance(value, Tensor):
        if value.dtype == torch.bool:
            return "boolean"
        if value.is_floating_point():
            return "floating point"
        return "complex" if value.is_complex() else "integer"
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "floating point")):
        if isinstance(value, kind):
            return name
    return type(value).__name__


# ------------------------------------------------------------------------------------ in files


def to_storable(trained: Mapping[str, Condition] | None) -> dict[str, Any] | None:
    """As a file holds it: dicts of texts, numbers and lists."""
    if trained is None:
        return None
    return {
        name: {**asdict(known), "shape": None if known.shape is None else list(known.shape)}
        for name, known in trained.items()
    }


def from_storable(given: Any) -> dict[str, Condition] | None:
    """What a file holds.

    Raises:
        ValueError: if it is nothing of the kind.
    """
    if given is None:
        return None
    try:
        found = {name: _read(**it) for name, it in given.items()}
        right = all(
            type(name) is type(known.kind) is str
            and type(known.optional) is bool
            and all(type(size) in (int, type(None)) for size in known.shape or ())
            and type(known.low) is type(known.high)
            and type(known.low) in (int, type(None))
            and type(known.null) in (int, float, type(None))
            and type(known.together) is bool
            for name, known in found.items()
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"what it says of conditions is of no use ({error!r})") from error
    if not right:
        raise ValueError("what it says of conditions is of no use")
    return found


def to_bytes(trained: Mapping[str, Condition]) -> Tensor:
    """As a ``state_dict`` holds it: a text in a tensor of bytes."""
    text = json.dumps(to_storable(trained)).encode()
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def from_bytes(told: Any) -> dict[str, Condition] | None:
    """What a ``state_dict`` holds.

    Raises:
        ValueError: if it is nothing of the kind.
    """
    try:
        return from_storable(json.loads(bytes(told.cpu().tolist()).decode()))
    except (AttributeError, TypeError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(
            f"{STATE_NAME} of the state_dict is not what a trained field has written; drop that"
            " entry, and the field knows no conditions"
        ) from error


def weights_of(module: nn.Module) -> dict[str, Any]:
    """The ``state_dict`` of a module without what its fields were trained with."""
    return {k: x for k, x in module.state_dict().items() if k.split(".")[-1] != STATE_NAME}


def _read(shape: Any, null: Any = None, **rest: Any) -> Condition:
    """A condition whose NaN is the one object, so that equal ones are equal."""
    null = math.nan if isinstance(null, float) else null
    return Condition(**rest, shape=None if shape is None else tuple(shape), null=null)
