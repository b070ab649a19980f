"""Bridges: Schrödinger's, exact and learned, and what else moves one law to another by pairs."""

from .drifts import BridgeDrift
from .exact import ExactBridge
from .learned_path import LearnedPath, PathOptimizer, path_trainer
from .light import LightLoss, LightPotential
from .multimarginal import Multimarginal
from .pairs import GaussianPairs, gaussian_bridge, potential_bridge
from .reflow import Reflow, flow_pairs, reflow
from .regression import BackwardDriftLoss, ForwardDriftLoss
from .snapshot_path import PiecewiseGamma, SnapshotPath
from .trajectories import LeftOut, Trajectories, leave_one_out

__all__ = [
    "BackwardDriftLoss",
    "BridgeDrift",
    "ExactBridge",
    "ForwardDriftLoss",
    "GaussianPairs",
    "LearnedPath",
    "LeftOut",
    "LightLoss",
    "LightPotential",
    "Multimarginal",
    "PathOptimizer",
    "PiecewiseGamma",
    "Reflow",
    "SnapshotPath",
    "Trajectories",
    "flow_pairs",
    "gaussian_bridge",
    "leave_one_out",
    "path_trainer",
    "potential_bridge",
    "reflow",
]
