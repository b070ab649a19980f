r"""Losses: functions of a field and a batch whose minimisers are the fields.

**Regressions.** For a target ``T`` with ``E[T | x_t] = f(t, x_t)``, the minimiser of
``E ½|f̂(t, x_t) - T|²`` is f, and its excess over the minimum is ``½ E|f̂ - f|²``. So a velocity is
learned from ẋ, a noise from ẑ, data from x1, and a score from ``-ẑ / σ̂`` (denoising score matching,
Vincent 2011). A regression splits into drawing a :class:`PathSample` and
:meth:`~Regression.evaluate`, which is deterministic.

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
minimises.
"""

from .autoencoder import DenoisingAutoencoderLoss
from .base import Loss
from .regressions import (
    DataLoss,
    MeanVelocityLoss,
    NoiseLoss,
    Regression,
    ScoreLoss,
    SumLoss,
    VelocityLoss,
    squared_error,
)
from .score_matching import ImplicitScoreLoss, SlicedScoreLoss
from .variational import VariationalLoss
from .weights import (
    EDMWeight,
    LikelihoodWeight,
    LossWeight,
    MinSNRWeight,
    UnitWeight,
    VariationalWeight,
)

__all__ = [
    "DataLoss",
    "DenoisingAutoencoderLoss",
    "EDMWeight",
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
    "UnitWeight",
    "VariationalLoss",
    "VariationalWeight",
    "VelocityLoss",
    "squared_error",
]
