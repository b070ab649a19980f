"""Bridges: Schrödinger's, exact and learned, and what else moves one law to another by pairs."""

from ..samplers.path_law import PathLawWarning
from .divergence import PathDivergence, path_divergence
from .drifts import BridgeDrift
from .exact import ExactBridge
from .iterate import Round, iterate
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
    "PathDivergence",
    "PathLawWarning",
    "PathOptimizer",
    "PiecewiseGamma",
    "Reflow",
    "Round",
    "SnapshotPath",
    "Trajectories",
    "flow_pairs",
    "gaussian_bridge",
    "iterate",
    "leave_one_out",
    "path_divergence",
    "path_trainer",
    "potential_bridge",
    "reflow",
]
