"""Optimal transport plans between weighted points, or from a law to them, with certificates.

What the metrics turn into distances, and the couplings into pairs. Functions here take matrices of
float64 rows and weights that sum to 1; :func:`transportflows.metrics.optimal_pairs` and
:func:`transportflows.metrics.entropic_wasserstein2` take samples as they are.
"""

from .entropic import ConvergenceWarning, EntropicPlan, entropic_plan, entropic_self_plan
from .exact import ExactPlan, best_permutation, exact_plan
from .semidiscrete import SemidiscretePlan, cells, semidiscrete_plan
from .sinkhorn import exact_potentials, log_plan
from .unbalanced import UnbalancedPlan, unbalanced_plan

__all__ = [
    "ConvergenceWarning",
    "EntropicPlan",
    "ExactPlan",
    "SemidiscretePlan",
    "UnbalancedPlan",
    "best_permutation",
    "cells",
    "entropic_plan",
    "entropic_self_plan",
    "exact_plan",
    "exact_potentials",
    "log_plan",
    "semidiscrete_plan",
    "unbalanced_plan",
]
