"""Training: the loop, its averages and its history, and the rows it draws from."""

from .adam import FusedAdam
from .data import Epochs, Rows
from .ema import EMA
from .history import Curve, History, NonFiniteLossError
from .trainer import Trainer

__all__ = [
    "EMA",
    "Curve",
    "Epochs",
    "FusedAdam",
    "History",
    "NonFiniteLossError",
    "Rows",
    "Trainer",
]
