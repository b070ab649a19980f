"""Fields: networks with a meaning, alone and in pairs; their files."""

from .._core.condition import Condition
from .._core.container import DamagedFileError
from .._core.registry import register
from .base import Field
from .edm import EDM, EDMCoefficients
from .files import load_field
from .kinds import DataPredictor, MeanVelocity, NoisePredictor, Score, Velocity
from .pair import FieldPair
from .pretrained import from_pretrained

__all__ = [
    "EDM",
    "Condition",
    "DamagedFileError",
    "DataPredictor",
    "EDMCoefficients",
    "Field",
    "FieldPair",
    "MeanVelocity",
    "NoisePredictor",
    "Score",
    "Velocity",
    "from_pretrained",
    "load_field",
    "register",
]
