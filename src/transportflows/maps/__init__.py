"""Flow maps: one step, few steps, with a density; learned from a field or from data."""

from .chosen_times import ChosenTimes, choose_times
from .distill import Distilled, distill
from .draws import MapSample
from .equations import EulerianLoss, LagrangianLoss, SemigroupLoss
from .flow_map import FlowMap
from .guided_map import GuidedMap
from .jumps import Jumps, Renoise
from .map_loss import MapLoss
from .named import ConsistencyLoss, DoublingLevels, MeanFlowLoss, ShortcutLoss
from .pairs import DyadicPairs, GridPairs, Pairs, ToData, UniformPairs
from .two_times import TwoTimes

__all__ = [
    "ChosenTimes",
    "ConsistencyLoss",
    "Distilled",
    "DoublingLevels",
    "DyadicPairs",
    "EulerianLoss",
    "FlowMap",
    "GridPairs",
    "GuidedMap",
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
    "TwoTimes",
    "UniformPairs",
    "choose_times",
    "distill",
]
