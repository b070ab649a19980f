"""Couplings: the joint law of (x0, x1) from which paths are drawn.

A coupling takes a batch of base samples and a batch of data and returns them paired. Where it
leaves them independent and the base is Gaussian, ``x_t`` has a Gaussian part and every field can
be converted into every other; a coupling that is not independent takes this away
(:attr:`Coupling.independent`).
"""

from .base import Coupling, Independent, Paired
from .measured import ConditionWeight, condition_weight
from .solved import PlanReport
from .transport import MinibatchOT
from .transport_plan import TransportPlan

__all__ = [
    "ConditionWeight",
    "Coupling",
    "Independent",
    "MinibatchOT",
    "Paired",
    "PlanReport",
    "TransportPlan",
    "condition_weight",
]
