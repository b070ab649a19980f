"""Laws of training times, by the clock or by the noise level."""

from .base import GridTimes, LogitNormalTimes, StratifiedTimes, TimeSampler, UniformTimes
from .levels import EDMTimes, LevelTimes, LogSNRTimes, SigmaTimes

__all__ = [
    "EDMTimes",
    "GridTimes",
    "LevelTimes",
    "LogSNRTimes",
    "LogitNormalTimes",
    "SigmaTimes",
    "StratifiedTimes",
    "TimeSampler",
    "UniformTimes",
]
