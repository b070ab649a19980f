r"""Diffusion schedules ε(t), of ``dX = (b + ε s) dt + √(2ε) dW``.

Any ε ≥ 0 has the same marginals when the fields are exact: ε is chosen when sampling, not when
training. What differs is how errors travel. With a learned noise η̂ the relaxation is
``ε s = -(ε/σ̂) η̂``, so an error δ of η̂ becomes ``ε δ / σ̂``: a constant ε amplifies it without bound
where σ̂ vanishes. Schedules proportional to σ̂ or σ̂² keep it bounded; they give the ratio ``ε/σ̂`` in
closed form, so it is never 0/0. Prefer them for learned fields on data near a manifold, where the
relaxation (of rate ε/σ̂²) is stiff besides.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor

__all__ = [
    "ConstantEpsilon",
    "EpsilonSchedule",
    "NoiseScaleEpsilon",
    "NoiseVarianceEpsilon",
    "as_epsilon",
]


class EpsilonSchedule(ABC):
    """ε as a function of time and of the noise scale σ̂."""

    @abstractmethod
    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        """ε ≥ 0 at times ``t`` (float64), given σ̂ there."""

    def over_noise_scale(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        """``ε/σ̂``; override it where it is finite at σ̂ = 0."""
        return self.value(t, noise_scale) / noise_scale

    @property
    def is_zero(self) -> bool:
        """Whether ε is 0 at all times, so that the solve is an ODE."""
        return False


class ConstantEpsilon(EpsilonSchedule):
    """ε constant.

    Args:
        epsilon: its value, ≥ 0.
    """

    def __init__(self, epsilon: float) -> None:
        self.epsilon = float(epsilon)
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise ValueError(
                f"epsilon must be finite and >= 0, got {epsilon}; to run backward in time give"
                " t=(1.0, 0.0), not a negative epsilon"
            )

    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(t, self.epsilon)

    @property
    def is_zero(self) -> bool:  # noqa: D102
        return self.epsilon == 0

    def __repr__(self) -> str:
        return f"{self.epsilon:g}"


class NoiseScaleEpsilon(ConstantEpsilon):
    """``ε = c σ̂(t)``; ``ε/σ̂ = c``.

    Args:
        epsilon: the factor c, ≥ 0.
    """

    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:  # noqa: D102
        return self.epsilon * noise_scale

    def over_noise_scale(self, t: Tensor, noise_scale: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(t, self.epsilon)

    def __repr__(self) -> str:
        return f"{self.epsilon:g} σ̂"


class NoiseVarianceEpsilon(ConstantEpsilon):
    """``ε = c σ̂(t)²``; ``ε/σ̂ = c σ̂``, and a relaxation of constant rate c.

    Args:
        epsilon: the factor c, ≥ 0.
    """

    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:  # noqa: D102
        return self.epsilon * noise_scale.square()

    def over_noise_scale(self, t: Tensor, noise_scale: Tensor) -> Tensor:  # noqa: D102
        return self.epsilon * noise_scale

    def __repr__(self) -> str:
        return f"{self.epsilon:g} σ̂²"


class _CallableEpsilon(EpsilonSchedule):
    """A user's own function of time."""

    def __init__(self, function: Callable[[Tensor], Tensor | float]) -> None:
        self.function = function

    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        value = torch.as_tensor(self.function(t), dtype=t.dtype, device=t.device)
        if value.shape not in (t.shape, torch.Size()):
            raise ValueError(
                f"epsilon was called with times of shape {tuple(t.shape)} and gave"
                f" {tuple(value.shape)}; it must give one number for each time"
            )
        value = value.expand(t.shape)
        bad = ~(torch.isfinite(value) & (value >= 0))
        if bool(bad.any()):
            raise ValueError(
                f"epsilon must be finite and >= 0, and is {float(value[bad][0])} at"
                f" t = {float(t[bad][0]):g}"
            )
        return value

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


def as_epsilon(epsilon: float | Callable[[Tensor], Tensor] | EpsilonSchedule) -> EpsilonSchedule:
    """Return a number, a function of time or a schedule as a schedule.

    A function is called once with a float64 tensor of times and gives a tensor of its shape.
    """
    if isinstance(epsilon, EpsilonSchedule):
        return epsilon
    if isinstance(epsilon, Real) or getattr(epsilon, "ndim", None) == 0:
        return ConstantEpsilon(float(epsilon))  # type: ignore[arg-type]
    if callable(epsilon):
        return _CallableEpsilon(epsilon)
    raise TypeError(
        f"epsilon must be a number, a function of t or a schedule, got {type(epsilon).__name__}"
    )
