"""Flow maps: one step, few steps, with a density; learned from a field or from data."""

from .checks import CollapsedMapWarning, MapReport, check_map
from .chosen_times import ChosenTimes, choose_times
from .density import log_density
from .distill import Distilled, distill
from .draws import MapSample
from .equations import EulerianLoss, LagrangianLoss, SemigroupLoss
from .errors import MapErrors, map_errors
from .exact import SolvedMap, oracle_map
from .flow_map import FlowMap
from .guided_map import GuidedMap
from .jumps import Jumps, Renoise
from .map_density import CoarseEstimateWarning, FoldedMapWarning, InverseMapWarning, MapDensity
from .map_loss import MapLoss
from .named import ConsistencyLoss, DoublingLevels, MeanFlowLoss, ShortcutLoss
from .pairs import DyadicPairs, GridPairs, Pairs, ToData, UniformPairs
from .two_times import TwoTimes

__all__ = [
    "ChosenTimes",
    "CoarseEstimateWarning",
    "CollapsedMapWarning",
    "ConsistencyLoss",
    "Distilled",
    "DoublingLevels",
    "DyadicPairs",
    "EulerianLoss",
    "FlowMap",
    "FoldedMapWarning",
    "GridPairs",
    "GuidedMap",
    "InverseMapWarning",
    "Jumps",
    "LagrangianLoss",
    "MapDensity",
    "MapErrors",
    "MapLoss",
    "MapReport",
    "MapSample",
    "MeanFlowLoss",
    "Pairs",
    "Renoise",
    "SemigroupLoss",
    "ShortcutLoss",
    "SolvedMap",
    "ToData",
    "TwoTimes",
    "UniformPairs",
    "check_map",
    "choose_times",
    "distill",
    "log_density",
    "map_errors",
    "oracle_map",
]
