"""Labels of classes: one for all rows or one a row, and what is wrong with them, in words.

What they hold is looked at on the CPU only: on a card it would have to be waited for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.checks import shown
from .._core.tensor import integer_ends, signed_integers

__all__ = ["as_labels", "bad_label", "check_labels", "in_rows", "without_value"]


def as_labels(label: Any, x: Tensor) -> Tensor:
    """Labels as integers, int64, ``()``, ``(1,)`` or ``(B,)``, where they were.

    Args:
        label: an integer, or a tensor of them.
        x: states ``(B, *)``.

    Raises:
        TypeError: if they are no integers.
        ValueError: if they are of another shape.
    """
    whole = isinstance(label, int) and not isinstance(label, bool)
    if not (isinstance(label, Tensor) or whole or hasattr(label, "__array__")):
        raise TypeError(f"label holds integers, got {shown(label)}{_cast(label)}")
    found = torch.as_tensor(label)
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"label holds integers, got {found.dtype}; write label.long()")
    # Of a tensor whose number of rows is a symbol (torch.export) len() would make it a constant.
    if found.ndim > 1 or (found.ndim == 1 and found.shape[0] not in (1, x.shape[0])):
        raise ValueError(
            f"label is ({len(x)},), one a row of x, or (), one for all, got shape"
            f" {tuple(found.shape)}"
        )
    return found.long()


def in_rows(label: Any, x: Tensor) -> Any:
    """A number, or a tensor ``()``, as a tensor ``(B,)`` on the device of x; all else as it is."""
    if isinstance(label, (bool, int, float)):
        kind = x.dtype if isinstance(label, float) else None
        label = torch.as_tensor(label, dtype=kind, device=x.device)
    if isinstance(label, Tensor) and label.ndim == 0:
        return signed_integers(label).to(x.device).expand(x.shape[0])
    return label


def check_labels(label: Tensor, classes: int, null: int | None, whose: str, cure: str) -> None:
    """Refuse labels that are no class; only those that lie on the CPU, and have a value yet.

    Args:
        label: int64.
        classes: number of classes.
        null: what a network takes for none beside -1; -1 for nothing else, None for nothing at all.
        whose: class of the network.
        cure: the end of the message, for a label that is too high.

    Raises:
        ValueError: if one of them is no class.
    """
    if label.device.type != "cpu" or not label.numel() or without_value(label):
        return
    low, high = integer_ends(label)
    if low < (0 if null is None else -1) or high > max(classes - 1, -1 if null is None else null):
        raise bad_label(low, high, classes, null is not None, whose, cure)


def bad_label(low: int, high: int, classes: int, none: bool, whose: str, cure: str) -> ValueError:
    """What is wrong with labels from low to high, for a network that knows -1 or does not."""
    least = -1 if none else 0
    known = "(and -1 for none)" if none else "and no number for none"
    if low < least:
        cure = "number the classes from 0 on" + (", and write -1 for none" if none else "")
        if low == -1:
            cure += "; where this network was trained with a class in the place of none, give that"
    return ValueError(
        f"label holds {low if low < least else high}, and this {whose} has the classes 0 to"
        f" {classes - 1} {known}; {cure}"
    )


def without_value(label: Tensor) -> bool:
    """Whether a tensor stands for many, or for those of a later call: what it holds is unknown."""
    if torch.compiler.is_compiling():
        return True
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(label))


def _cast(label: Any) -> str:
    numbers = isinstance(label, (bool, float))
    return "; write int(label), or label.long() of a tensor" if numbers else _NUMBER


_NUMBER = "; write the number of its class"
