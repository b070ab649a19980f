"""Inverse problems: samples of ``p(x | y)`` by a field of ``p(x)`` and an observation y.

An observation is linear, ``y = A x + σ n`` (:class:`LinearObservation`), or any log-likelihood
(:class:`Observation`). Where the data are a Gaussian mixture the posterior is one too, exactly:
:meth:`GaussianMixture.posterior`, with an oracle like any mixture, by which everything here is
judged. For a learned field there are methods:

- fields that are guided, for ``sample(guided, n)`` with any scheme and any ε:
  :class:`LikelihoodGuidance`, :class:`PseudoInverse`, :class:`MomentMatched`, each with a bias;
- :func:`sample_posterior`, whose weights make up for what any of these gets wrong;
- hooks of a solve, ``sample(field, n, hooks=[...])``: :class:`Replacement`, with repainting, and
  :class:`DPS`, likewise.
"""

from ..observations import (
    Blur,
    Downsample,
    LinearObservation,
    LinearOperator,
    Mask,
    Matrix,
    Observation,
    Operator,
)
from .guided import GuidedField, LikelihoodGuidance, MomentMatched, PseudoInverse
from .hooks import DPS, Replacement
from .posterior import sample_posterior

__all__ = [
    "DPS",
    "Blur",
    "Downsample",
    "GuidedField",
    "LikelihoodGuidance",
    "LinearObservation",
    "LinearOperator",
    "Mask",
    "Matrix",
    "MomentMatched",
    "Observation",
    "Operator",
    "PseudoInverse",
    "Replacement",
    "sample_posterior",
]
