"""A number with its error bar."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .._core.reprs import summary
from .._core.signatures import checked

__all__ = ["Estimate", "mean_estimate"]


@checked
@dataclass(frozen=True)
class Estimate:
    """An estimate by an average over independent draws.

    Attributes:
        value: the average.
        standard_error: its standard deviation, from the spread of the terms; it says nothing of a
            bias, for which see the function that gave it.
        terms: how many terms were averaged.
    """

    value: float
    standard_error: float
    terms: int

    __repr__ = summary

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Student's interval for the mean of the terms.

        Raises:
            ValueError: if the level does not lie in (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie in (0, 1), got {level}")
        from scipy import stats  # it takes half a second

        half = float(stats.t.ppf(0.5 + 0.5 * level, self.terms - 1)) * self.standard_error
        return self.value - half, self.value + half


def mean_estimate(terms: Tensor) -> Estimate:
    """The mean of terms ``(n,)``, n at least 2, with its standard error."""
    n = terms.numel()
    return Estimate(float(terms.mean()), float(terms.std()) / math.sqrt(n), n)
