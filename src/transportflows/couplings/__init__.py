"""Couplings: the joint law of (x0, x1) from which paths are drawn."""

from .base import Coupling, Independent, Paired
from .transport import MinibatchOT

__all__ = [
    "Coupling",
    "Independent",
    "MinibatchOT",
    "Paired",
]
