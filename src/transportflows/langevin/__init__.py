"""Langevin dynamics along scores: plain, Metropolis-adjusted, annealed, as a corrector; modes."""

from .annealed import annealed_langevin
from .ascent import AscentSolution, ascend
from .corrector import LangevinCorrector
from .langevin import LangevinSolution, langevin
from .levels import geometric_levels
from .scores import LogProbScore, score_at, score_of
from .steps import langevin_step

__all__ = [
    "AscentSolution",
    "LangevinCorrector",
    "LangevinSolution",
    "LogProbScore",
    "annealed_langevin",
    "ascend",
    "geometric_levels",
    "langevin",
    "langevin_step",
    "score_at",
    "score_of",
]
