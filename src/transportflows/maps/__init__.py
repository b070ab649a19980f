"""Flow maps: one step, few steps, with a density; learned from a field or from data."""

from .draws import MapSample
from .equations import EulerianLoss, LagrangianLoss, SemigroupLoss
from .flow_map import FlowMap
from .jumps import Jumps, Renoise
from .map_loss import MapLoss
from .named import ConsistencyLoss, DoublingLevels, MeanFlowLoss, ShortcutLoss
from .pairs import DyadicPairs, GridPairs, Pairs, ToData, UniformPairs

__all__ = [
    "ConsistencyLoss",
    "DoublingLevels",
    "DyadicPairs",
    "EulerianLoss",
    "FlowMap",
    "GridPairs",
    "Jumps",
    "LagrangianLoss",
    "MapLoss",
    "MapSample",
    "MeanFlowLoss",
    "Pairs",
    "Renoise",
    "SemigroupLoss",
    "ShortcutLoss",
    "ToData",
    "UniformPairs",
]
