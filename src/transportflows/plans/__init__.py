"""Optimal transport plans between weighted points, exact and entropic, with certificates.

What the metrics turn into distances, and the couplings into pairs. Functions here take matrices of
float64 rows and weights that sum to 1; :func:`transportflows.metrics.optimal_pairs` and
:func:`transportflows.metrics.entropic_wasserstein2` take samples as they are.
"""

from .entropic import ConvergenceWarning, EntropicPlan, entropic_plan, entropic_self_plan
from .exact import TransportPlan, best_permutation, exact_plan
from .sinkhorn import exact_potentials, log_plan

__all__ = [
    "ConvergenceWarning",
    "EntropicPlan",
    "TransportPlan",
    "best_permutation",
    "entropic_plan",
    "entropic_self_plan",
    "exact_plan",
    "exact_potentials",
    "log_plan",
]
