"""Bridges: Schrödinger's, exact and learned, and what else moves one law to another by pairs."""

from .divergence import PathDivergence, path_divergence
from .drifts import BridgeDrift, PathLawWarning
from .exact import ExactBridge
from .iterate import Round, iterate
from .light import LightLoss, LightPotential
from .pairs import GaussianPairs, gaussian_bridge, potential_bridge
from .regression import BackwardDriftLoss, ForwardDriftLoss

__all__ = [
    "BackwardDriftLoss",
    "BridgeDrift",
    "ExactBridge",
    "ForwardDriftLoss",
    "GaussianPairs",
    "LightLoss",
    "LightPotential",
    "PathDivergence",
    "PathLawWarning",
    "Round",
    "gaussian_bridge",
    "iterate",
    "path_divergence",
    "potential_bridge",
]
