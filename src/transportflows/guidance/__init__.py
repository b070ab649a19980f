"""Guidance: steering a field by conditions, other models and rewards, and what law that samples."""

from .combinations import AutoGuidance, ClassifierFree, Power, Product
from .data_forms import ProjectedClassifierFree, RescaledClassifierFree
from .geometric import Geometric, Guided
from .tilts import Classifier, Tilt
from .weighted import sample_weighted
from .weighted_solution import CollapsedWeightsWarning, WeightedSolution

__all__ = [
    "AutoGuidance",
    "Classifier",
    "ClassifierFree",
    "CollapsedWeightsWarning",
    "Geometric",
    "Guided",
    "Power",
    "Product",
    "ProjectedClassifierFree",
    "RescaledClassifierFree",
    "Tilt",
    "WeightedSolution",
    "sample_weighted",
]
