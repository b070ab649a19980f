"""Couplings: the joint law of (x0, x1) from which paths are drawn.

A coupling takes a batch of base samples and a batch of data and returns them paired. Where it
leaves them independent and the base is Gaussian, ``x_t`` has a Gaussian part and every field can
be converted into every other; a coupling that is not independent takes this away
(:attr:`Coupling.independent`).
"""

from .base import Coupling, Independent, Paired
from .measured import ConditionWeight, condition_weight
from .transport import MinibatchOT

__all__ = [
    "ConditionWeight",
    "Coupling",
    "Independent",
    "MinibatchOT",
    "Paired",
    "condition_weight",
]
