r"""Schemes whose steps are linear in the state and in predictions made so far.

.. math:: x_{i+1} = A_i x_i + M_i m + \sum_j V_{ij} f_{i-j} + n_i z_i

is all that DDIM, ancestral sampling, exponential integrators, Adams-Bashforth methods and their
correctors do; they differ in the numbers, which are tabulated before the loop. f is the prediction
of a *form* (data, noise, or their difference, the velocity of a linear path), made at
``(t_i, x_i)`` by one network call. :mod:`transportflows.samplers.linear_stepper` makes the steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from .._core.signatures import checked
from ..fields.base import Field
from ..solve.epsilon import EpsilonSchedule
from .multistep_table import Table

__all__ = ["Multistep", "Table"]


@checked
class Multistep(ABC):
    """A scheme of its own for one-sided processes: linear in the state and in predictions.

    Attributes:
        name: shown in :class:`Solution`.
        order: order for ε = 0.
    """

    name: str
    order: float

    @property
    def limit(self) -> float:
        """The most of ``|h| ε/σ̂²`` in a step, to which ε is limited; the laws of x_t stay."""
        return 1.0 if self.remembers else 0.05

    @property
    def remembers(self) -> bool:
        """Whether predictions of earlier steps go into later ones."""
        return self.order > 1

    @property
    def apart(self) -> bool:
        """Whether what is predicted depends on ε, so that several are solved one by one."""
        return False

    def check(self, schedules: Sequence[EpsilonSchedule]) -> None:  # noqa: B027
        """Refuse what the scheme cannot do with these ε.

        Raises:
            ValueError: says why, and what to write instead.
        """

    @abstractmethod
    def tabulate(self, field: Field, schedules: Sequence[EpsilonSchedule], times: Tensor) -> Table:
        """The numbers of all steps of a grid, float64 ``(steps + 1,)``."""
