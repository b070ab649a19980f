"""What every solve is made of: grids, noise, ε schedules, steppers, and the one step loop."""

from .epsilon import (
    AndersonEpsilon,
    ChurnEpsilon,
    ConstantEpsilon,
    EpsilonSchedule,
    NoiseScaleEpsilon,
    NoiseVarianceEpsilon,
)
from .grid import SPACINGS, time_grid
from .hooks import Correction
from .loop import march
from .noise import BrownianPath, Increments, NoiseSource
from .noise_grid import NOISE_SPACINGS, noise_grid
from .rows import Rows
from .solution import NonFiniteStateError, Solution
from .stepper import Stepper

__all__ = [
    "NOISE_SPACINGS",
    "SPACINGS",
    "AndersonEpsilon",
    "BrownianPath",
    "ChurnEpsilon",
    "ConstantEpsilon",
    "Correction",
    "EpsilonSchedule",
    "Increments",
    "NoiseScaleEpsilon",
    "NoiseSource",
    "NoiseVarianceEpsilon",
    "NonFiniteStateError",
    "Rows",
    "Solution",
    "Stepper",
    "march",
    "noise_grid",
    "time_grid",
]
