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
from .hooks import BegunHook, Corrector, Hook, Moment, SolveHook
from .limit import UnlimitedEpsilon
from .loop import march
from .noise import BrownianPath, Increments, NoiseSource
from .noise_grid import NOISE_SPACINGS, noise_grid
from .rows import Chunks, Rows
from .solution import NonFiniteStateError, Solution, TooManyEvaluationsError
from .stepper import Prepared, Stepper

__all__ = [
    "NOISE_SPACINGS",
    "SPACINGS",
    "AndersonEpsilon",
    "BegunHook",
    "BrownianPath",
    "Chunks",
    "ChurnEpsilon",
    "ConstantEpsilon",
    "Corrector",
    "EpsilonSchedule",
    "Hook",
    "Increments",
    "Moment",
    "NoiseScaleEpsilon",
    "NoiseSource",
    "NoiseVarianceEpsilon",
    "NonFiniteStateError",
    "Prepared",
    "Rows",
    "Solution",
    "SolveHook",
    "Stepper",
    "TooManyEvaluationsError",
    "UnlimitedEpsilon",
    "march",
    "noise_grid",
    "time_grid",
]
