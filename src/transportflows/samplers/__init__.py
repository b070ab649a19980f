"""Samplers: grids, ε schedules, noise sources, schemes, the step loop, and ``sample``."""

from .adaptive import ADAPTIVE
from .annealed import annealed_langevin
from .ascent import AscentSolution, ascend
from .corrector import Correction, LangevinCorrector
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
from .langevin import LangevinSolution, langevin, langevin_step
from .levels import geometric_levels
from .noise import BrownianPath, Increments, NoiseSource
from .sample import sample
from .schemes import SCHEMES, Scheme
from .scores import LogProbScore, score_at, score_of
from .solution import NonFiniteStateError, Solution

__all__ = [
    "ADAPTIVE",
    "SCHEMES",
    "SPACINGS",
    "AndersonEpsilon",
    "AscentSolution",
    "BrownianPath",
    "ChurnEpsilon",
    "ConstantEpsilon",
    "Correction",
    "Dynamics",
    "EpsilonSchedule",
    "FieldDynamics",
    "FunctionDynamics",
    "Increments",
    "LangevinCorrector",
    "LangevinSolution",
    "LogProbScore",
    "NoiseScaleEpsilon",
    "NoiseSource",
    "NoiseVarianceEpsilon",
    "NonFiniteStateError",
    "Scheme",
    "Solution",
    "annealed_langevin",
    "ascend",
    "geometric_levels",
    "integrate",
    "langevin",
    "langevin_step",
    "sample",
    "score_at",
    "score_of",
    "time_grid",
]
