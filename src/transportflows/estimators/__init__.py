"""Estimators as scikit-learn has them: ``fit``, ``sample``, ``score_samples`` of tables.

They take arrays and data frames of numbers and have the conventions of scikit-learn
(``get_params``, ``clone``, pipelines, searches over parameters) without a base class of it: it is
imported only where it asks an estimator for its tags. All else of the library works on tensors;
``field_`` of a fitted estimator is a field like any other.
"""

from .density import TransportDensity
from .sampler import TransportSampler

__all__ = ["TransportDensity", "TransportSampler"]
