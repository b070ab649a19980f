"""What a coupling is, and the two that leave the rows as they are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.conditions import NO_CONDITIONS
from .._core.registry import Storable
from .._core.reprs import call
from .._core.signatures import checked

__all__ = ["Coupling", "Independent", "Paired"]


@checked
class Coupling(Storable, ABC):
    """A rule that pairs a batch of x0 with a batch of x1.

    Attributes:
        independent: whether x0 stays independent of x1.
    """

    independent: bool = False

    @abstractmethod
    def pair(
        self,
        x0: Tensor,
        x1: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the batch ``(x0, x1)``, each ``(B, *)``, paired row by row.

        The rows of x1 keep their order, so that labels and other conditions stay theirs.

        Args:
            x0: base samples.
            x1: data.
            cond: conditions of the data, by name; tensors have B rows.
            generator: source of randomness.
        """

    def __repr__(self) -> str:
        return call(self)


@checked
class Independent(Coupling):
    """``ρ0 x ρ1``: each x0 is drawn from the base without regard to x1."""

    independent = True

    def pair(
        self,
        x0: Tensor,
        x1: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        return x0, x1


@checked
class Paired(Coupling):
    """The user's own pairs ``(x0, x1)``, used as they are given (image to image, say)."""

    def pair(
        self,
        x0: Tensor,
        x1: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        return x0, x1
