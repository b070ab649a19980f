"""Distributions: base laws ρ0 and laws to start from; anything that can be sampled.

The library asks a law for two things: ``sample(n, generator=...)`` and, where it is known,
``log_prob(x)``. The laws here are modules, so that a process moves to a device as a whole; an
object of the user's own with a ``sample`` method serves too (:func:`as_distribution`), a
:mod:`torch.distributions` law among them.
"""

from .adapters import as_distribution
from .base import Distribution
from .empirical import Empirical
from .gaussian import Gaussian
from .mixture import GaussianMixture
from .point import Point
from .transformed import Transformed
from .uniform import Uniform

__all__ = [
    "Distribution",
    "Empirical",
    "Gaussian",
    "GaussianMixture",
    "Point",
    "Transformed",
    "Uniform",
    "as_distribution",
]
