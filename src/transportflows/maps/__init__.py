"""Flow maps: one step, few steps, with a density; learned from a field or from data."""

from .checks import CollapsedMapWarning, MapReport, check_map
from .density import log_density
from .draws import MapSample
from .equations import EulerianLoss, LagrangianLoss, SemigroupLoss
from .errors import MapErrors, map_errors
from .exact import SolvedMap, oracle_map
from .flow_map import FlowMap
from .jumps import Jumps, Renoise
from .map_density import CoarseEstimateWarning, FoldedMapWarning, InverseMapWarning, MapDensity
from .map_loss import MapLoss
from .pairs import DyadicPairs, GridPairs, Pairs, ToData, UniformPairs

__all__ = [
    "CoarseEstimateWarning",
    "CollapsedMapWarning",
    "DyadicPairs",
    "EulerianLoss",
    "FlowMap",
    "FoldedMapWarning",
    "GridPairs",
    "InverseMapWarning",
    "Jumps",
    "LagrangianLoss",
    "MapDensity",
    "MapErrors",
    "MapLoss",
    "MapReport",
    "MapSample",
    "Pairs",
    "Renoise",
    "SemigroupLoss",
    "SolvedMap",
    "ToData",
    "UniformPairs",
    "check_map",
    "log_density",
    "map_errors",
    "oracle_map",
]
