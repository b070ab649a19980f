"""Observations of a state: linear ones with Gaussian noise, and any with a log-likelihood."""

from .base import LinearObservation, Observation
from .operators import Blur, Downsample, LinearOperator, Mask, Matrix, Operator, as_operator

__all__ = [
    "Blur",
    "Downsample",
    "LinearObservation",
    "LinearOperator",
    "Mask",
    "Matrix",
    "Observation",
    "Operator",
    "as_operator",
]
