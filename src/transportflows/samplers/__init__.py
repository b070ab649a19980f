"""Samplers: grids, ε schedules, noise sources, schemes, the step loop, and ``sample``."""

from .adaptive import ADAPTIVE
from .ancestral import DDIM, FEW_STEP, Ancestral
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
from .multistep import Multistep
from .noise import BrownianPath, Increments, NoiseSource
from .noise_grid import NOISE_SPACINGS, noise_grid
from .sample import sample
from .schemes import SCHEMES, Scheme
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
    "BrownianPath",
    "ChurnEpsilon",
    "ConstantEpsilon",
    "Dynamics",
    "EpsilonSchedule",
    "Exponential",
    "FieldDynamics",
    "FunctionDynamics",
    "Increments",
    "Multistep",
    "NoiseScaleEpsilon",
    "NoiseSource",
    "NoiseVarianceEpsilon",
    "NonFiniteStateError",
    "Scheme",
    "Solution",
    "integrate",
    "noise_grid",
    "sample",
    "time_grid",
]
