"""What a field was trained with: its conditions, by name.

What a network was trained with it knows, and nothing else: without its labels, or with labels it
never saw, it gives what an untrained embedding makes of them. So training leaves a
:class:`Condition` for each name, and what is given later is held against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Condition",
    "check_trained",
    "from_storable",
    "seen_in",
    "seen_together",
    "to_storable",
]


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
    """

    kind: str
    shape: tuple[int | None, ...] | None = None
    low: int | None = None
    high: int | None = None
    optional: bool = False

    def __str__(self) -> str:
        words = {"integer": "integers", "boolean": "booleans"}.get(
            self.kind, f"{self.kind} numbers"
        )
        if self.shape is None:
            return f"one {self.kind} for all rows"
        if self.low is not None:
            words = f"{words} {self.low} to {self.high}"
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"{words}, {'one' if not self.shape else f'({sizes})'} a row"


def _kind(value: Any) -> str:
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


def seen_in(cond: Mapping[str, Any], *, ranges: bool = True) -> dict[str, Condition]:
    """What conditions are like, by name.

    Args:
        cond: checked.
        ranges: look at the numbers of integers, which waits for a device.
    """
    found = {}
    for name, value in cond.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            found[name] = Condition(_kind(value))
            continue
        kind, low, high = _kind(value), None, None
        if kind == "integer" and ranges and value.numel() > 0:
            low, high = (int(end) for end in torch.aminmax(value))
        found[name] = Condition(kind, tuple(value.shape[1:]), low, high)
    return found


def seen_together(
    before: Mapping[str, Condition] | None, new: Mapping[str, Condition]
) -> dict[str, Condition]:
    """What a field was trained with that saw these conditions after those (None: after nothing).

    Lengths that differ are free, and integers may be in either range. What only one of them has
    was trained without too.
    """
    if before is None:
        return dict(new)
    found = {}
    for name in {**before, **new}:
        old, now = before.get(name), new.get(name)
        if old is None or now is None:
            known = old or now
            assert known is not None
            found[name] = replace(known, optional=True)
            continue
        if old.kind != now.kind or (old.shape is None) != (now.shape is None):
            found[name] = replace(now, optional=old.optional)
            continue
        shape = now.shape
        if old.shape is not None and now.shape is not None and len(old.shape) == len(now.shape):
            pairs = zip(old.shape, now.shape, strict=True)
            shape = tuple(a if a == b else None for a, b in pairs)
        ranged = None not in (old.low, now.low, old.high, now.high)
        found[name] = Condition(
            now.kind,
            shape,
            min(old.low, now.low) if ranged else None,  # type: ignore[type-var]
            max(old.high, now.high) if ranged else None,  # type: ignore[type-var]
            old.optional or now.optional,
        )
    return found


def check_trained(
    cond: Mapping[str, Any],
    trained: Mapping[str, Condition] | None,
    n: int,
    *,
    whose: str = "the field",
    ranges: bool = True,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Refuse conditions that a field was not trained with; one number for all rows is spread.

    Args:
        cond: checked.
        trained: what it was trained with; None if that is not known, and all are taken.
        n: number of rows.
        whose: for messages.
        ranges: look at the numbers of integers, which waits for a device.
        device: of the states.

    Raises:
        ValueError: if one is missing, unknown, or of another shape, kind or range; what the field
            was trained with.
    """
    if trained is None:
        return dict(cond)

    def refused(what: str, cure: str) -> ValueError:
        told = "; ".join(f"{name!r}: {known}" for name, known in trained.items())
        return ValueError(
            f"{what}: {whose} was trained with {told or 'no conditions'}. {cure}"
            " (field.conditions = None forgets what it was trained with)"
        )

    found = dict(cond)
    for name, known in trained.items():
        if name not in found and not known.optional:
            raise refused(f"the condition {name!r} is missing", _example(name, known, n))
    for name, value in found.items():
        if name not in trained:
            raise refused(f"there is no condition {name!r}", "Leave it out")
        known = trained[name]
        rows = isinstance(value, Tensor) and value.ndim > 0
        if type(value) is int and known.kind == "floating point":
            value = float(value)
        if (kind := _kind(value)) != known.kind:
            raise refused(f"the condition {name!r} is {kind}", _example(name, known, n))
        if not rows and known.shape == ():
            found[name] = value = torch.as_tensor(value, device=device).expand(n)
        elif rows != (known.shape is not None):
            how = "has a row for each" if rows else "is one for all"
            raise refused(f"the condition {name!r} {how}", _example(name, known, n))
        if known.shape is None:
            continue
        shape = tuple(value.shape[1:])
        if len(shape) != len(known.shape) or any(
            want not in (None, got) for got, want in zip(shape, known.shape, strict=True)
        ):
            given = f"the condition {name!r} has shape {tuple(value.shape)}"
            raise refused(given, _example(name, known, n))
        if ranges and known.low is not None and known.high is not None and value.numel() > 0:
            low, high = (int(end) for end in torch.aminmax(value))
            if low < known.low or high > known.high:
                bad = low if low < known.low else high
                raise refused(f"the condition {name!r} holds {bad}", "Give what it has seen")
    return found


def _example(name: str, known: Condition, n: int) -> str:
    """What to write for a condition."""
    if known.shape is None:
        return f"Write cond={{{name!r}: ...}}, one {known.kind} for all"
    if known.shape:
        sizes = ", ".join("..." if size is None else str(size) for size in known.shape)
        return f"Write cond={{{name!r}: values}} with a tensor ({n}, {sizes})"
    one = {"floating point": 0.5, "boolean": True}.get(known.kind, known.low or 0)
    return f"Write cond={{{name!r}: values}} with a tensor ({n},), or {{{name!r}: {one}}} for all"


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
        found = {
            name: Condition(**{**it, "shape": None if it["shape"] is None else tuple(it["shape"])})
            for name, it in given.items()
        }
        right = all(
            type(name) is type(known.kind) is str
            and type(known.optional) is bool
            and all(type(size) in (int, type(None)) for size in known.shape or ())
            and type(known.low) is type(known.high)
            and type(known.low) in (int, type(None))
            for name, known in found.items()
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"what it says of conditions is of no use ({error!r})") from error
    if not right:
        raise ValueError("what it says of conditions is of no use")
    return found
