"""Samplers: grids, ε schedules, noise sources, schemes, the step loop, and ``sample``."""

from .adaptive import ADAPTIVE
from .ancestral import DDIM, FEW_STEP, Ancestral
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
from .exponential import Exponential
from .grid import SPACINGS, time_grid
from .integrate import integrate
from .langevin import LangevinSolution, langevin
from .langevin_steps import langevin_step
from .levels import geometric_levels
from .multistep import Multistep
from .noise import BrownianPath, Increments, NoiseSource
from .noise_grid import NOISE_SPACINGS, noise_grid
from .sample import sample
from .schemes import SCHEMES, Scheme
from .scores import LogProbScore, score_at, score_of
from .solution import NonFiniteStateError, Solution

__all__ = [
    "ADAPTIVE",
    "DDIM",
    "FEW_STEP",
    "NOISE_SPACINGS",
    "SCHEMES",
    "SPACINGS",
    "Ancestral",
    "AndersonEpsilon",
    "AscentSolution",
    "BrownianPath",
    "ChurnEpsilon",
    "ConstantEpsilon",
    "Correction",
    "Dynamics",
    "EpsilonSchedule",
    "Exponential",
    "FieldDynamics",
    "FunctionDynamics",
    "Increments",
    "LangevinCorrector",
    "LangevinSolution",
    "LogProbScore",
    "Multistep",
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
    "noise_grid",
    "sample",
    "score_at",
    "score_of",
    "time_grid",
]
