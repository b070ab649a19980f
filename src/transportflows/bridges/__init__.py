"""Bridges: Schrödinger's, exact and learned, and what else moves one law to another by pairs."""

from .drifts import BridgeDrift
from .exact import ExactBridge
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
    "gaussian_bridge",
    "potential_bridge",
]
