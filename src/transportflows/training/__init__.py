"""Training: the loop, its data, averages, schedules, checkpoints, callbacks and history."""

from .._core.distributed import WorkerError, World, local_device
from .callbacks import Callback, EarlyStop
from .checkpoints import Checkpoints, CheckpointWarning, ResumeError, read_checkpoint
from .data_rows import DataRows
from .ema import EMA
from .epochs import Epochs
from .history import Curve, History, NonFiniteLossError, Pace, Series, TimeProfile
from .logs import CSVLog, TensorBoardLog
from .run import Run
from .schedules import ConstantRate, CosineRate, RateSchedule, StepRate
from .source import Source
from .trainer import Trainer

__all__ = [
    "EMA",
    "CSVLog",
    "Callback",
    "CheckpointWarning",
    "Checkpoints",
    "ConstantRate",
    "CosineRate",
    "Curve",
    "DataRows",
    "EarlyStop",
    "Epochs",
    "History",
    "NonFiniteLossError",
    "Pace",
    "RateSchedule",
    "ResumeError",
    "Run",
    "Series",
    "Source",
    "StepRate",
    "TensorBoardLog",
    "TimeProfile",
    "Trainer",
    "WorkerError",
    "World",
    "local_device",
    "read_checkpoint",
]
