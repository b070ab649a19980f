r"""Diffusion schedules: how much noise sampling adds, ε(t) in ``dX = (b + ε s) dt + √(2ε) dW``.

With exact fields the law of x_t is the same for every ε ≥ 0: the noise spreads it, and ``ε s`` (the
*relaxation*) draws it together again by as much. So ε is chosen when sampling, not when training;
with ε = 0 sampling is an ODE.

With learned fields the choice matters, since errors travel differently. An SDE forgets earlier
errors, at the rate ε/σ̂². But where the noise is learned, ``s = -η̂/σ̂``, and an error δ in η̂ becomes
an error ``ε δ/σ̂`` in the drift: with constant ε that grows without bound where σ̂ vanishes, as on
data near a manifold. Schedules proportional to σ̂ (:class:`NoiseScaleEpsilon`) or σ̂²
(:class:`NoiseVarianceEpsilon`) keep it bounded. A schedule is asked for ``ε/σ̂`` too, so that these
give it in closed form and never as 0/0.

Score-based diffusion is a part of this family. With ``λ = log(β/σ̂)``, ``ε = σ̂² λ̇ = g²/2`` is the
time reversal of a forward SDE (Anderson 1982; :class:`AndersonEpsilon`, times a factor), and the
"churn" of Karras et al. (2022) is ε in proportion to σ̂² (:class:`ChurnEpsilon`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor

from .._core.built import Built
from .._core.checks import per_time
from .._core.reprs import call
from .._core.signatures import checked
from .._core.untouched import untouched
from ..gaussian_part import GaussianPart, NoisePart

__all__ = [
    "AndersonEpsilon",
    "ChurnEpsilon",
    "ConstantEpsilon",
    "EpsilonSchedule",
    "NoiseScaleEpsilon",
    "NoiseVarianceEpsilon",
    "as_epsilon",
]


@checked
class EpsilonSchedule(Built, ABC):
    """ε as a function of time and of the noise scale σ̂; a subclass writes ``value``.

    Example:
        >>> class Early(EpsilonSchedule):  # noise up to the middle of time, and the ODE after it
        ...     def value(self, t, noise_scale): return torch.where(t < 0.5, 1.0, 0.0).to(t)
        >>> Early().value(torch.tensor([0.2, 0.8]), torch.ones(2))
        tensor([1., 0.])
    """

    @abstractmethod
    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        """ε ≥ 0 at times ``t`` (float64), of their shape, given σ̂ there."""

    def over_noise_scale(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        """``ε/σ̂``, of the shape of t; override it where this is finite at σ̂ = 0."""
        return self.value(t, noise_scale) / noise_scale

    @property
    def is_zero(self) -> bool:
        """Whether ε is 0 at all times, so that the solve is an ODE."""
        return False

    def bound(self, part: NoisePart, stages: Tensor, widths: Tensor) -> EpsilonSchedule:
        """The schedule for a process and a grid: itself, unless it depends on them.

        Args:
            part: the noise in x_t, of the process that is sampled.
            stages: the stage times of each step, ``(steps, nodes)``, float64.
            widths: the signed widths of the steps, ``(steps,)``, float64.
        """
        return self

    def __repr__(self) -> str:
        return call(self)


@checked
class ConstantEpsilon(EpsilonSchedule):
    """ε constant.

    Args:
        epsilon: its value, ≥ 0.

    Raises:
        ValueError: if it is negative or infinite.
    """

    _sets: ClassVar[tuple[str, ...]] = ("epsilon",)

    def __init__(self, epsilon: float) -> None:
        self.epsilon = float(epsilon)
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise ValueError(
                f"epsilon must be finite and >= 0, got {epsilon}; to run backward in time give"
                " t=(1.0, 0.0), not a negative epsilon"
            )

    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        return torch.full_like(t, self.epsilon)

    @property
    def is_zero(self) -> bool:
        return self.epsilon == 0


@checked
class NoiseScaleEpsilon(ConstantEpsilon):
    """``ε = c σ̂(t)``: an error in the noise prediction enters the drift with the weight c.

    Args:
        epsilon: the factor c, ≥ 0.

    Example:
        >>> schedule, t, scale = NoiseScaleEpsilon(2.0), torch.tensor([0.5]), torch.tensor([0.0])
        >>> schedule.value(t, scale), schedule.over_noise_scale(t, scale)  # ε/σ̂ = 2 at σ̂ = 0
        (tensor([0.]), tensor([2.]))
    """

    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        return self.epsilon * noise_scale

    def over_noise_scale(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        return torch.full_like(t, self.epsilon)


@checked
class NoiseVarianceEpsilon(ConstantEpsilon):
    """``ε = c σ̂(t)²``: a relaxation of constant rate ``ε/σ̂² = c``.

    Args:
        epsilon: the factor c, ≥ 0.

    Example:
        >>> NoiseVarianceEpsilon(2.0).value(torch.tensor([0.75]), torch.tensor([0.5]))
        tensor([0.5000])
    """

    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        return self.epsilon * noise_scale.square()

    def over_noise_scale(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        return self.epsilon * noise_scale


@checked
class AndersonEpsilon(ConstantEpsilon):
    r"""``ε = c g²/2``, where g is the diffusion of the forward SDE with the same marginals.

    With c = 1 sampling is the time reversal of that SDE (Anderson 1982): not only the law of each
    x_t but that of the whole path is its own. c = 0 is the probability-flow ODE. In the terms of a
    path, ``g²/2 = σ̂² β̇/β - σ̂ σ̂̇``. Where β = 0, as for a linear path at t = 0, that is infinite,
    and the steps near it have as much as they can follow (:mod:`transportflows.solve.limit`).

    Args:
        factor: c ≥ 0.

    Example:
        >>> import transportflows as tpf
        >>> part = tpf.Process(tpf.sdes.OrnsteinUhlenbeck(10.0), shape=(1,)).part
        >>> t = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
        >>> schedule = AndersonEpsilon().bound(part, t, torch.tensor([0.5]))  # as sample does
        >>> [round(e, 9) for e in schedule.value(t[0], part.scale(t[0])).tolist()]  # g²/2 = β/2
        [5.0, 5.0]
    """

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__(factor)
        self.factor = self.epsilon
        self._part: GaussianPart | None = None

    def bound(self, part: NoisePart, stages: Tensor, widths: Tensor) -> EpsilonSchedule:
        schedule = type(self)(self.epsilon)
        schedule._part = part.whole
        return schedule

    def _bound_part(self) -> GaussianPart:
        if self._part is None:
            cure = "sample(field, epsilon=AndersonEpsilon())"
            raise ValueError(f"AndersonEpsilon depends on a process: {cure}")
        return self._part

    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        return self._scaled(self._bound_part().half_diffusion_sq(t), t)

    def over_noise_scale(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        return self._scaled(self._bound_part().scaled_rate(t), t)

    def _scaled(self, value: Tensor, t: Tensor) -> Tensor:
        """``c`` times a value that must not be negative, rounding aside."""
        bad = value < -1e-9 * value.abs().nan_to_num().amax()
        if bool(bad.any()):
            raise ValueError(
                f"this process is not the reverse of a forward SDE at t = {float(t[bad][0]):g}:"
                " there σ̂/β grows with t, so that g² would be negative. Give another epsilon, such"
                " as NoiseScaleEpsilon(1.0)"
            )
        return self.epsilon * value.clamp(min=0)


@checked
class ChurnEpsilon(ConstantEpsilon):
    r"""The churn of Karras et al. (2022, algorithm 2) as an ε.

    Before each of its N steps, their sampler adds noise that raises the noise level ``σ = σ̂/β`` by
    the factor ``1 + κ``, ``κ = min(S/N, √2 - 1)``, where σ is in a range; the step then removes it
    again. To first order in κ that is what ``ε = κ σ̂²/h`` does over a step of width h. Written as a
    schedule it keeps the law of x_t and the order of the scheme. On a uniform grid ε is ``S σ̂²``.

    Args:
        churn: S ≥ 0, the expected number of times that the noise is renewed.
        sigma_range: where it acts, in units of ``σ̂/β``.

    Raises:
        ValueError: if the range of σ is none.

    Example:
        >>> import transportflows as tpf
        >>> part = tpf.Process(tpf.OneSidedLinear(), shape=(1,)).part
        >>> t = torch.tensor([0.0, 0.25, 0.5, 0.75], dtype=torch.float64)
        >>> schedule = ChurnEpsilon(1.0).bound(part, t[:, None], torch.full((4,), 0.25))
        >>> schedule.value(t, part.scale(t))  # S σ̂² = (1 - t)²
        tensor([1.0000, 0.5625, 0.2500, 0.0625], dtype=torch.float64)
    """

    def __init__(self, churn: float, *, sigma_range: tuple[float, float] = (0.0, math.inf)) -> None:
        super().__init__(churn)
        self.churn = self.epsilon
        low, high = sigma_range
        if not 0 <= low < high:
            raise ValueError(f"sigma_range must be 0 <= low < high, got {sigma_range}")
        self.sigma_range = (float(low), float(high))
        self._rate: Tensor | None = None

    def bound(self, part: NoisePart, stages: Tensor, widths: Tensor) -> EpsilonSchedule:
        flat, (low, high) = stages.reshape(-1), self.sigma_range
        scale, beta = part.scale(flat), part.whole.path.beta(flat).abs()
        above = scale > high * beta  # which is no number, and holds nowhere, for ∞ · 0
        acts = ((scale >= low * beta) & ~above).view(stages.shape)
        each = min(self.epsilon / len(widths), math.sqrt(2) - 1)
        schedule = type(self)(self.epsilon, sigma_range=self.sigma_range)
        schedule._rate = ((each / widths.abs().to(stages))[:, None] * acts).reshape(-1)
        return schedule

    def _per_step(self) -> Tensor:
        if self._rate is None:
            raise ValueError(
                "ChurnEpsilon depends on a process and a grid: sample(field,"
                " epsilon=ChurnEpsilon(40), scheme='heun')"
            )
        return self._rate

    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        return self._per_step() * noise_scale.square()

    def over_noise_scale(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        return self._per_step() * noise_scale


class _CallableEpsilon(EpsilonSchedule):
    """A user's own function of time."""

    def __init__(self, function: Callable[[Tensor], Tensor | float]) -> None:
        self.function = function

    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        value = per_time("epsilon(t)", untouched(self.function, t), t).to(t).expand(t.shape)
        bad = ~(torch.isfinite(value) & (value >= 0))
        if bool(bad.any()):
            raise ValueError(
                f"epsilon must be finite and >= 0, and is {float(value[bad][0])} at"
                f" t = {float(t[bad][0]):g}"
            )
        return value


def as_epsilon(epsilon: float | Callable[[Tensor], Tensor] | EpsilonSchedule) -> EpsilonSchedule:
    """Return a number, a function of time or a schedule as a schedule.

    A function is called with float64 tensors of times and gives tensors of their shapes.
    """
    if isinstance(epsilon, EpsilonSchedule):
        return epsilon
    if isinstance(epsilon, type):
        raise TypeError(f"epsilon is the class {epsilon.__name__}; write {epsilon.__name__}()")
    if isinstance(epsilon, Real) or getattr(epsilon, "ndim", None) == 0:
        return ConstantEpsilon(float(epsilon))  # type: ignore[arg-type]
    if callable(epsilon):
        return _CallableEpsilon(epsilon)
    raise TypeError(
        f"epsilon must be a number, a function of t or a schedule, got {type(epsilon).__name__}"
    )
