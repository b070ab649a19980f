"""How strong guidance is: a number, a function of time, or one number a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .._core.checks import per_time, shown
from .._core.conditions import check_names

__all__ = ["Scale"]

_LOOKS = 65  # times at which a function is looked at before it is used


class Scale:
    """The strength w of guidance at times t, for rows.

    Args:
        value: a number; a function of times (called with a tensor ``()`` or ``(B,)``, it gives one
            of that shape); or the name of a condition that holds one number a row, ``(n,)``, so
            that the numbers go with their rows wherever these go.
        interval: times (low, high) within which it acts.
        neutral: what it is outside: the strength that guides nothing.
        name: of the argument, for messages.

    Raises:
        ValueError: if it is not finite, holds rows, or the interval is empty.
        TypeError: if it is none of the three.
    """

    def __init__(
        self,
        value: float | str | Callable[[Tensor], Tensor],
        interval: tuple[float, float] | None = None,
        *,
        neutral: float,
        name: str = "scale",
    ) -> None:
        self.neutral, self.label = neutral, name
        self.interval = None if interval is None else self._interval(interval)
        self.column: str | None = None
        self.number: float | None = None
        self.function: Callable[[Tensor], Tensor] | None = None
        if isinstance(value, str):
            check_names({value: None})
            self.column = value
        elif isinstance(value, Tensor) and value.ndim > 0:
            raise ValueError(
                f"{name} is a tensor {tuple(value.shape)}, whose rows would not go with those of"
                f" the states; for one number a row name a condition, {name}='guidance', and give"
                " the numbers when sampling: cond={'guidance': numbers}"
            )
        elif isinstance(value, (Real, Tensor)) and not isinstance(value, bool):
            self.number = float(value)
            if not math.isfinite(self.number):
                raise ValueError(f"{name} must be finite, got {self.number}")
        elif callable(value):
            self.function = value
            self._look()
        else:
            raise TypeError(
                f"{name} is a number, a function of time or the name of a condition, got"
                f" {shown(value)}"
            )

    @staticmethod
    def _interval(interval: tuple[float, float]) -> tuple[float, float]:
        low, high = (float(end) for end in interval)
        if not 0 <= low < high <= 1:
            raise ValueError(f"interval is (low, high) with 0 <= low < high <= 1, got {interval}")
        return low, high

    def _look(self) -> None:
        """Refuse a function that is not finite, or of another shape, before it is used."""
        assert self.function is not None
        t = torch.linspace(0, 1, _LOOKS, dtype=torch.float64)
        if self.interval is not None:
            t = t[(t >= self.interval[0]) & (t <= self.interval[1])]
        values = per_time(f"{self.label}(t)", self.function(t), t).expand(t.shape)
        bad = ~torch.isfinite(values)
        if bool(bad.any()):
            raise ValueError(
                f"{self.label}(t) must be finite, and is {float(values[bad][0])} at"
                f" t = {float(t[bad][0]):g}"
            )

    def check_apart(self, taken: Collection[str]) -> None:
        """Refuse the name of a condition that is a field's: its values would be strengths."""
        if self.column is not None and self.column in taken:
            raise ValueError(
                f"{self.label}={self.column!r} takes {self.label} from the condition"
                f" {self.column!r}, which its field has for another purpose: labels, say, would be"
                f" strengths. Write a number, {self.label}=2.0, or a name of its own,"
                f" {self.label}='guidance' with cond={{'guidance': numbers}}"
            )

    @property
    def constant(self) -> float | None:
        """The number, where it is one at all times; else None."""
        return self.number if self.interval is None else None

    def taken(self, cond: Mapping[str, Any], n: int) -> dict[str, Any]:
        """The condition that holds it, checked; nothing where there is none.

        Raises:
            ValueError: if it is missing, not one number a row, or not finite.
        """
        if self.column is None:
            return {}
        if self.column not in cond:
            raise ValueError(
                f"{self.label} is taken from the condition {self.column!r}, which is missing; write"
                f" cond={{{self.column!r}: numbers}} with a tensor ({n},), or one number for all"
            )
        given = cond[self.column]
        if not isinstance(given, (Real, Tensor)):
            raise TypeError(
                f"the condition {self.column!r} is {self.label}, one real number or a tensor of one"
                f" a row, ({n},), got {shown(given)}; write cond={{{self.column!r}: 2.0}}"
            )
        value = torch.as_tensor(given)
        if value.shape not in (torch.Size(), torch.Size((n,))) or value.is_complex():
            raise ValueError(
                f"the condition {self.column!r} is {self.label}: one real number, or one a row,"
                f" ({n},); got {tuple(value.shape)} of {value.dtype}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"the condition {self.column!r}, {self.label}, must be finite")
        return {self.column: value}

    def at(self, t: Tensor, cond: Mapping[str, Any]) -> float | Tensor:
        """W, a number or a tensor ``()`` or ``(B,)`` of the dtype and device of t.

        It is the neutral number outside of the interval, where t is one time that can be looked at
        without waiting for a device: then what guidance compares with is not called there.
        """
        if self.constant is not None:
            return self.constant
        if self.interval is not None and _can_look(t):
            if not self.interval[0] <= float(t) <= self.interval[1]:
                return self.neutral
            if self.number is not None:
                return self.number
        if self.column is not None:
            if self.column not in cond:
                self.taken(cond, t.shape[0] if t.ndim else 1)
            value = torch.as_tensor(cond[self.column]).to(t)
        elif self.function is not None:
            value = torch.as_tensor(self.function(t)).to(t)
        else:
            value = torch.full_like(t, self.number or 0.0)
        if self.interval is None:
            return value
        low, high = self.interval
        return torch.where((t >= low) & (t <= high), value, self.neutral)

    def __repr__(self) -> str:
        if self.column is not None:
            return repr(self.column)
        if self.number is not None:
            return f"{self.number:g}"
        return getattr(self.function, "__name__", type(self.function).__name__)


def _can_look(t: Tensor) -> bool:
    """Whether t is one time on the CPU, outside of compilation and of transforms of functions."""
    plain = t.ndim == 0 and t.device.type == "cpu" and not torch.compiler.is_compiling()
    return plain and not torch._C._functorch.is_functorch_wrapped_tensor(t)
