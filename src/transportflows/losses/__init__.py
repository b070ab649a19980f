r"""Losses: functions of a field and a batch whose minimisers are the fields.

**Regressions.** For a target ``T`` with ``E[T | x_t] = f(t, x_t)``, the minimiser of
``E ½|f̂(t, x_t) - T|²`` is f, and its excess over the minimum is ``½ E|f̂ - f|²``. So a velocity is
learned from ẋ, a noise from ẑ, data from x1, and a score from ``-ẑ / σ̂`` (denoising score matching,
Vincent 2011). Every loss splits into :meth:`~Loss.draw` (for a regression, of a
:class:`PathSample`) and :meth:`~Loss.evaluate`, which is deterministic.

**Weights and times.** ``weight`` says how much each time counts: a function of t, or a
:class:`LossWeight`, which knows the process and means the same for every target
(:mod:`transportflows.losses.weights`). ``times`` says where to look
(:mod:`transportflows.times`); with ``importance=True`` it changes the
variance only.

**Score matching** without a target (:mod:`transportflows.losses.score_matching`), a **denoising
autoencoder** (:class:`DenoisingAutoencoderLoss`) and the **variational bound**
(:class:`VariationalLoss`) are the same excess by other means: the losses differ by constants that
no field can change.

A loss maps ``(field, batch)`` to one value a row, ``(B,)``; the mean over rows is what a trainer
minimises. Each kind of field has a loss that is meant where none is given (:func:`default_loss`).
"""

from .autoencoder import DenoisingAutoencoderLoss
from .base import FunctionLoss, Loss, Undrawn
from .chain_weight import VariationalWeight
from .defaults import default_loss
from .excess import squared_error
from .regressions import (
    DataLoss,
    MeanVelocityLoss,
    NoiseLoss,
    Regression,
    ScoreLoss,
    VelocityLoss,
)
from .score_matching import Directed, ImplicitScoreLoss, SlicedScoreLoss
from .sums import SumLoss
from .variational import VariationalLoss
from .weights import EDMWeight, LikelihoodWeight, LossWeight, MinSNRWeight, UnitWeight

__all__ = [
    "DataLoss",
    "DenoisingAutoencoderLoss",
    "Directed",
    "EDMWeight",
    "FunctionLoss",
    "ImplicitScoreLoss",
    "LikelihoodWeight",
    "Loss",
    "LossWeight",
    "MeanVelocityLoss",
    "MinSNRWeight",
    "NoiseLoss",
    "Regression",
    "ScoreLoss",
    "SlicedScoreLoss",
    "SumLoss",
    "Undrawn",
    "UnitWeight",
    "VariationalLoss",
    "VariationalWeight",
    "VelocityLoss",
    "default_loss",
    "squared_error",
]
