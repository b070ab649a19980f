"""Couplings: the joint law of (x0, x1) from which paths are drawn.

A coupling takes a batch of base samples and a batch of data and returns them paired. Where it
leaves them independent and the base is Gaussian, ``x_t`` has a Gaussian part and every field can
be converted into every other; a coupling that is not independent takes this away
(:attr:`Coupling.independent`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .._core.registry import Storable

__all__ = ["Coupling", "Independent", "Paired"]


class Coupling(Storable, ABC):
    """A rule that pairs a batch of x0 with a batch of x1.

    Attributes:
        independent: whether x0 stays independent of x1.
    """

    independent: bool = False

    @abstractmethod
    def pair(
        self, x0: Tensor, x1: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the batch ``(x0, x1)``, each ``(B, *)``, paired row by row.

        The rows of x1 keep their order, so that labels and other conditions stay theirs.
        """


class Independent(Coupling):
    """``ρ0 x ρ1``: each x0 is drawn from the base without regard to x1."""

    independent = True

    def pair(
        self, x0: Tensor, x1: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return x0, x1


class Paired(Coupling):
    """The user's own pairs ``(x0, x1)``, used as they are given (image to image, say)."""

    def pair(
        self, x0: Tensor, x1: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return x0, x1
