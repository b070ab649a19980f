"""Samplers: grids, ε schedules, noise sources, schemes, the step loop, and ``sample``."""

from .adaptive import ADAPTIVE
from .dynamics import Dynamics, FieldDynamics, FunctionDynamics
from .epsilon import (
    AndersonEpsilon,
    ChurnEpsilon,
    ConstantEpsilon,
    EpsilonSchedule,
    NoiseScaleEpsilon,
    NoiseVarianceEpsilon,
)
from .grid import SPACINGS, time_grid
from .integrate import integrate
from .noise import BrownianPath, Increments, NoiseSource
from .sample import sample
from .schemes import SCHEMES, Scheme
from .solution import NonFiniteStateError, Solution

__all__ = [
    "ADAPTIVE",
    "SCHEMES",
    "SPACINGS",
    "AndersonEpsilon",
    "BrownianPath",
    "ChurnEpsilon",
    "ConstantEpsilon",
    "Dynamics",
    "EpsilonSchedule",
    "FieldDynamics",
    "FunctionDynamics",
    "Increments",
    "NoiseScaleEpsilon",
    "NoiseSource",
    "NoiseVarianceEpsilon",
    "NonFiniteStateError",
    "Scheme",
    "Solution",
    "integrate",
    "sample",
    "time_grid",
]
