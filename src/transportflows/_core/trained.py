"""What a field was trained with: its conditions, by name.

What a network was trained with it knows, and nothing else: without its labels, or with labels it
never saw, it gives what an untrained embedding makes of them. So training leaves a
:class:`Condition` for each name, and what is given later is held against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .condition import Condition, kind_of_numbers
from .nulls import is_null, null_rows
from .tensor import integer_ends

__all__ = ["check_trained", "filled", "seen_in", "seen_together"]


def seen_in(cond: Mapping[str, Any], *, ranges: bool = True) -> dict[str, Condition]:
    """What conditions are like, by name.

    Args:
        cond: checked.
        ranges: look at the numbers of integers, which waits for a device.
    """
    found = {}
    for name, value in cond.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            found[name] = Condition(kind_of_numbers(value))
            continue
        kind, low, high = kind_of_numbers(value), None, None
        if kind == "integer" and ranges and value.numel() > 0:
            low, high = integer_ends(value)
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
            old.null if now.null is None else now.null,
            all(known.together for known in (old, now) if known.null is not None)
            and (old.together or now.together),
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
        if name not in found and not known.optional and known.null is None:
            raise refused(f"the condition {name!r} is missing", _example(name, known, n))
    for name, value in found.items():
        if name not in trained:
            raise refused(f"there is no condition {name!r}", "Leave it out")
        known = trained[name]
        rows = isinstance(value, Tensor) and value.ndim > 0
        if type(value) is int and known.kind == "floating point":
            value = float(value)
        if (kind := kind_of_numbers(value)) != known.kind and not _nullable_mask(kind, known):
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
        if ranges and value.numel() > 0 and (wrong := _wrong_values(value, known)):
            raise refused(f"the condition {name!r} holds {wrong}", "Give what it has seen")
    if ranges and (apart := _dropped_apart(found, trained)):
        raise refused(
            f"{apart} are null in different rows",
            "It saw all of them or none; to drop each by itself give fit(...,"
            " drop_cond={'label': 0.1, ...}) the probability of each",
        )
    return found


def filled(
    cond: Mapping[str, Any], trained: Mapping[str, Condition] | None, n: int, like: Tensor
) -> dict[str, Any]:
    """Conditions with a row for each: the null of what is left out, and one for all rows spread.

    Args:
        cond: by name.
        trained: what the field was trained with; None if that is not known.
        n: number of rows.
        like: of the dtype and device of the field.
    """
    found = dict(cond)
    for name, known in (trained or {}).items():
        value = found.get(name)
        if known.shape is None:
            continue
        if name not in found and known.null is not None and not known.optional:
            found[name] = null_rows(n, known.shape, known.null, like)
        elif known.shape and isinstance(value, Tensor) and 0 < value.ndim == len(known.shape):
            found[name] = value.expand(n, *value.shape)
    return found


def _nullable_mask(kind: str, known: Condition) -> bool:
    """Whether numbers may stand for booleans: where some are NaN, for none."""
    return kind == "floating point" and known.kind == "boolean" and known.null is not None


def _wrong_values(value: Tensor, known: Condition) -> str:
    """What a condition holds that training has not seen, in words; nothing if there is none."""
    null = known.null
    if value.is_floating_point():
        rows = value.isnan().reshape(len(value), -1)
        if bool(rows.any()) and (null is None or bool((rows.any(1) & ~rows.all(1)).any())):
            return "NaN" if null is None else "NaN in parts of a row, which is no null"
        whole = (value == 0) | (value == 1) | value.isnan()
        if known.kind == "boolean" and not bool(whole.all()):
            return "numbers that are not 0 or 1"
    if known.low is None or known.high is None:
        return ""
    value = value if null is None else value[~is_null(value, null)]
    if value.numel() == 0:
        return ""
    low, high = integer_ends(value)
    return str(low if low < known.low else high) if low < known.low or high > known.high else ""


def _dropped_apart(cond: Mapping[str, Any], trained: Mapping[str, Condition]) -> str:
    """The names of conditions that were dropped together, and are null in different rows here."""
    rows = {
        name: is_null(cond[name], known.null)
        for name, known in trained.items()
        if known.together and known.null is not None and isinstance(cond.get(name), Tensor)
    }
    first = next(iter(rows.values()), None)
    if first is None or all(bool((other == first).all()) for other in rows.values()):
        return ""
    return f"the conditions {', '.join(map(repr, rows))}"


def _example(name: str, known: Condition, n: int) -> str:
    """What to write for a condition."""
    if known.shape is None:
        return f"Write cond={{{name!r}: ...}}, one {known.kind} for all"
    if known.shape:
        sizes = ", ".join("..." if size is None else str(size) for size in known.shape)
        return f"Write cond={{{name!r}: values}} with a tensor ({n}, {sizes})"
    one = {"floating point": 0.5, "boolean": True}.get(known.kind, known.low or 0)
    return f"Write cond={{{name!r}: values}} with a tensor ({n},), or {{{name!r}: {one}}} for all"
