"""Training: the loop, its data, averages, schedules, checkpoints, callbacks and history."""

from .adam import FusedAdam
from .callbacks import Callback, CSVLog, EarlyStop, TensorBoardLog
from .checkpoints import Checkpoints, CheckpointWarning, ResumeError, read_checkpoint
from .data import Epochs, Rows
from .ema import EMA
from .history import Curve, History, NonFiniteLossError, Pace, Series, TimeProfile
from .schedules import Constant, Cosine, Schedule, StepDecay
from .source import Source
from .trainer import Trainer

__all__ = [
    "EMA",
    "CSVLog",
    "Callback",
    "CheckpointWarning",
    "Checkpoints",
    "Constant",
    "Cosine",
    "Curve",
    "EarlyStop",
    "Epochs",
    "FusedAdam",
    "History",
    "NonFiniteLossError",
    "Pace",
    "ResumeError",
    "Rows",
    "Schedule",
    "Series",
    "Source",
    "StepDecay",
    "TensorBoardLog",
    "TimeProfile",
    "Trainer",
    "read_checkpoint",
]
