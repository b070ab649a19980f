"""The kinds of fields that predict one quantity."""

from __future__ import annotations

from .._core.signatures import checked
from .base import Field

__all__ = ["DataPredictor", "MeanVelocity", "NoisePredictor", "Score", "Velocity"]


@checked
class Velocity(Field):
    """The network predicts the velocity ``b = E[ẋ_t | x_t]``."""

    outputs = ("velocity",)


@checked
class MeanVelocity(Field):
    """The network predicts the mean velocity ``v = E[∂t I | x_t]``.

    Unlike ẋ, its target has no γ̇, so it is finite at the ends. A velocity needs the noise beside
    it: :class:`FieldPair` with ``mean_velocity`` and ``noise``.
    """

    outputs = ("mean_velocity",)


@checked
class Score(Field):
    """The network predicts the score ``s = ∇ log ρ_t``."""

    outputs = ("score",)


@checked
class NoisePredictor(Field):
    """The network predicts the noise ``η̂ = E[ẑ | x_t]``, positive sign: ``s = -η̂ / σ̂``."""

    outputs = ("noise",)


@checked
class DataPredictor(Field):
    """The network predicts the data ``d = E[x1 | x_t]``."""

    outputs = ("data",)
