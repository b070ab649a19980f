"""Laws of base samples and of starts."""

from .adapters import as_distribution
from .base import Distribution
from .empirical import Empirical
from .gaussian import Gaussian
from .mixture import GaussianMixture
from .uniform import Uniform

__all__ = [
    "Distribution",
    "Empirical",
    "Gaussian",
    "GaussianMixture",
    "Uniform",
    "as_distribution",
]
