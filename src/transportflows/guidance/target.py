r"""Which path of densities a guided field is of, as far as weights need to know.

Any field of this package is read as

.. math:: q_t \propto \prod_i p_{i,t}^{w_i} \; e^{r_t},

by taking nested ones apart, down to fields that are of one density each: velocity and score of such
a field belong together, which those of a guided field do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..fields.base import Field
from .data_forms import ProjectedClassifierFree, RescaledClassifierFree
from .geometric import Geometric
from .parts import Part
from .tilts import Tilt

__all__ = ["Factor", "Reward", "Target"]

Adapt = Callable[[Mapping[str, Any], Tensor], Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Factor:
    """``p^w``, with the conditions that its field is given of those of the whole."""

    field: Field
    power: float
    parts: tuple[Part, ...] = ()

    def cond(self, cond: Mapping[str, Any], x: Tensor) -> Mapping[str, Any]:
        """The conditions of the field."""
        for part in self.parts:
            cond = part.given(cond, len(x), x)
        return cond


@dataclass(frozen=True, eq=False)
class Reward:
    """``e^{w r_t}``."""

    tilt: Tilt
    power: float
    parts: tuple[Part, ...] = ()

    def cond(self, cond: Mapping[str, Any], x: Tensor) -> Mapping[str, Any]:
        """The conditions of the tilted field."""
        for part in self.parts:
            cond = {**cond, **part.given(cond, len(x), x)}
        return cond

    def value(self, t: Tensor, x: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """``w r_t(x)``, ``(B,)``."""
        return self.power * self.tilt.value(t, x, self.cond(cond, x))

    def gradient(self, t: Tensor, x: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """``w ∇r_t``, ``(B, *)``."""
        return self.power * self.tilt.gradient(t, x, self.cond(cond, x))

    def rate(self, t: Tensor, x: Tensor, v: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """``w (∂t r + v·∇r)``, ``(B,)``."""
        return self.power * self.tilt.rate(t, x, v, self.cond(cond, x))


@dataclass(frozen=True, eq=False)
class Target:
    """``Π p_i^{w_i} e^{r}``, of a field of this package or any other.

    Attributes:
        factors: the densities and their powers.
        rewards: the rewards, which add up.
    """

    factors: Sequence[Factor]
    rewards: Sequence[Reward]

    @property
    def total(self) -> float:
        """``W = Σ w_i``."""
        return sum(factor.power for factor in self.factors)

    @classmethod
    def of(cls, field: Field) -> Target:
        """The path of a field.

        Raises:
            ValueError: if it is of none, or its powers change with time or with the row.
        """
        factors: list[Factor] = []
        rewards: list[Reward] = []
        _take(field, 1.0, (), factors, rewards)
        return cls([factor for factor in factors if factor.power != 0], rewards)


def _take(
    field: Field,
    power: float,
    parts: tuple[Part, ...],
    factors: list[Factor],
    rewards: list[Reward],
) -> None:
    if isinstance(field, (ProjectedClassifierFree, RescaledClassifierFree)):
        raise ValueError(
            f"a {type(field).__name__} follows no product of densities, so there are no weights for"
            " it; take ClassifierFree, whose path is p^(1 - w) p(.|c)^w"
        )
    if isinstance(field, Geometric):
        powers = field.constant_powers
        if powers is None:
            raise ValueError(
                f"the scale of this {type(field).__name__} changes with time, or is one a row: its"
                " weights would need the log-densities themselves, and particles of one system have"
                " one target; give one number, and no interval"
            )
        for part, w in zip(field._parts, powers, strict=True):
            _take(part.field, power * w, (*parts, part), factors, rewards)
        return
    if isinstance(field, Tilt):
        scale = field._scales[0]
        if scale.column is not None or scale.interval is not None:
            raise ValueError(
                f"the scale of this {type(field).__name__} is one a row, or jumps at the ends of an"
                " interval, and its particles have one target whose reward changes smoothly; give a"
                " number, or a smooth function of time"
            )
        rewards.append(Reward(field, power, parts))
        _take(field._parts[0].field, power, (*parts, field._parts[0]), factors, rewards)
        return
    factors.append(Factor(field, power, parts))
