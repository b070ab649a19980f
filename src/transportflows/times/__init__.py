"""Time samplers: the law of the times t in [0, 1] at which a loss is evaluated.

A loss is an integral over time, and the sampler its quadrature rule. A *margin* keeps draws away
from an end: it is needed where a regression target is infinite there (``γ = sqrt(t(1-t))``, whose
derivative is), and by default it is then 1e-4, otherwise 0.

Some laws are of t itself (:class:`UniformTimes`), others of the *noise level* that a process has
at t (:class:`LogSNRTimes`); the latter are bound to a process when drawn from.
"""

from .base import (
    GridTimes,
    HasPart,
    LogitNormalTimes,
    StratifiedTimes,
    TimeSampler,
    UniformTimes,
)
from .levels import EDMTimes, LevelTimes, LogSNRTimes, SigmaTimes

__all__ = [
    "EDMTimes",
    "GridTimes",
    "HasPart",
    "LevelTimes",
    "LogSNRTimes",
    "LogitNormalTimes",
    "SigmaTimes",
    "StratifiedTimes",
    "TimeSampler",
    "UniformTimes",
]
