r"""Weights of a regression that know the process, and so mean the same for every target.

With x given, a prediction of one quantity is one of all (:mod:`transportflows.conversions`), and
their errors are one error on different scales. With ``SNR = β²/σ̂²``, ``λ = log(β/σ̂)`` and
``Δ = β̇σ̂² - βσ̂σ̂̇ = β σ̂² λ̇``,

.. math:: \delta\hat\eta = -\frac{\beta}{\hat\sigma}\,\delta d = -\hat\sigma\,\delta s, \qquad
          \delta b = \frac{\Delta}{\hat\sigma^2}\,\delta d = \beta\dot\lambda\,\delta d,

so that noise, data, score and velocity losses are one loss with different weights: a weight
:math:`w_\eta` in noise form is ``SNR w_η`` in data form, ``σ̂² w_η`` in score form and
``β²σ̂² w_η / Δ²`` in velocity form. A :class:`LossWeight` states one of them and gives the others;
``NoiseLoss(weight=w)``, ``DataLoss(weight=w)``, ``ScoreLoss(weight=w)`` are then the same loss row
by row. So is ``VelocityLoss(weight=w)`` where ẋ is made of x1 and ẑ, that is, without a latent
beside the base; with one, ẋ holds a part of z that x_t does not see, and the loss is larger by a
constant.

No gradient flows through a weight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core.checks import positive_number
from .._core.signatures import checked
from .._core.spelling import spelled_call
from ..conversions import QUANTITIES
from ..gaussian_part import GaussianPart
from ..noise_level import NoiseLevel
from ..times.base import Margin

__all__ = [
    "EDMWeight",
    "LikelihoodWeight",
    "LossWeight",
    "MinSNRWeight",
    "UnitWeight",
]

_INFINITE = 1e9

# (dq/dη)² = (β²)^i (σ̂²)^j D², with D = Δ for the velocity: the exponents i, j and whether D enters.
_SCALES = {
    "noise": (0, 0, False),
    "data": (-1, 1, False),
    "score": (0, -1, False),
    "velocity": (-1, -1, True),
    "mean_velocity": (-1, -1, True),
}


@checked
class LossWeight(ABC):
    """w of ``½ w |f̂ - T|²`` for a process, at a time, in the form of any quantity.

    A subclass says in which form it states the weight, and states it.

    Attributes:
        form: ``"noise"``, ``"data"``, ``"score"`` or ``"velocity"``.

    Example:
        >>> import transportflows as tpf
        >>> class Capped(LossWeight):  # ½ min(σ̂², 1) |ŝ - T|², whatever is regressed
        ...     form = "score"
        ...     def value(self, level): return level.scale_sq.clamp(max=1.0)
        >>> part, half = tpf.Process(tpf.OneSidedLinear(), shape=(2,)).part, torch.tensor([0.5])
        >>> Capped()(part, half, "score"), Capped()(part, half, "noise")  # σ̂², and σ̂²/σ̂²
        (tensor([0.2500]), tensor([1.]))
    """

    form: str = "noise"

    def __repr__(self) -> str:
        return spelled_call(self)

    @abstractmethod
    def value(self, level: NoiseLevel) -> Tensor:
        """The weight in the form of :attr:`form`, of the shape of ``level.t``, in float64.

        ``level`` has ``t``, ``beta``, ``signal`` (β²), ``scale_sq`` (σ̂²), ``snr``, ``sigma`` (σ̂/β),
        ``delta``, ``rate`` (λ̇) and ``diffusion_sq`` (g²), and the ``part``.
        """

    def __call__(self, part: GaussianPart, t: Tensor, quantity: str) -> Tensor:
        """The weight at times ``t`` in the form of ``quantity``, of the shape and dtype of t.

        Raises:
            ValueError: if the weight does not exist for this process.
        """
        if quantity not in _SCALES:
            raise ValueError(
                f"a weight has the form of one of {', '.join(QUANTITIES)}, not {quantity!r}"
            )
        if quantity == "mean_velocity":
            self.once(part, "mean velocity", lambda: _check_mean_velocity(part))
        with torch.no_grad():
            level = NoiseLevel.at(part, t)
            weight = self.value(level)
            if quantity != self.form:
                weight = weight * _conversion(level, self.form, quantity)
            return weight.expand(t.shape).to(t.dtype)

    def margin(self, part: GaussianPart, quantity: str) -> Margin:
        """Margins that times need: 1e-4 at an end where the weight is infinite, otherwise 0."""

        def make() -> Margin:
            ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=part.device)
            size = self(part, ends, quantity).abs()
            low, high = (~(size < _INFINITE)).tolist()
            return (1e-4 if low else 0.0, 1e-4 if high else 0.0)

        margin: Margin = self.once(part, f"margin, {quantity}", make)
        return margin

    _last: tuple[GaussianPart, dict[str, Any]] | None = None

    def once(self, part: GaussianPart, name: str, make: Callable[[], Any]) -> Any:
        """A constant of a process, made once; anew each time where the path is learned."""
        if self._last is None or self._last[0] is not part:  # as it always is where it is learned
            self._last = (part, {})
        known = self._last[1]
        if name not in known:
            known[name] = make()
        return known[name]


def _conversion(level: NoiseLevel, source: str, target: str) -> Tensor:
    """``(d source / d target)²``: powers are cancelled before anything is divided."""
    i, j, moving = _SCALES[source]
    k, m, wanted = _SCALES[target]
    factor = torch.ones_like(level.t)
    for base, power in (("signal", i - k), ("scale_sq", j - m)):
        if power:
            factor = factor * getattr(level, base) ** power
    if moving:
        factor = factor * _slope(level, source).square()
    if wanted:
        factor = factor / _slope(level, target).square()
    return factor


def _slope(level: NoiseLevel, quantity: str) -> Tensor:
    """Δ, or for the mean velocity ``Δ + β γγ̇``."""
    if quantity == "velocity":
        return level.delta
    half_dot = 0.5 * level.part.path.gamma_sq_dot(level.t)
    return level.delta + level.beta * half_dot


@torch.no_grad()
def _check_mean_velocity(part: GaussianPart) -> None:
    """Refuse a path whose mean velocity depends on no prediction: of VE it is 0."""
    t = torch.linspace(0, 1, 9, dtype=torch.float64, device=part.device)[1:-1]
    if bool((_slope(NoiseLevel.at(part, t), "mean_velocity") == 0).all()):
        raise ValueError(
            f"the mean velocity of {type(part.path).__name__} is the same whatever the data are, so"
            " no weight makes its loss one of the noise or of the data; use NoiseLoss or"
            " DataLoss, or MeanVelocityLoss() without a weight"
        )


@checked
class UnitWeight(LossWeight):
    """Weight 1 in the form of one quantity, whatever is regressed.

    ``UnitWeight("score")`` is λ = 1 of score matching, ``UnitWeight("noise")`` λ = σ̂²,
    ``UnitWeight("data")`` the loss of the data, ``UnitWeight("velocity")`` that of flow matching.

    Args:
        of: ``"noise"``, ``"data"``, ``"score"`` or ``"velocity"``.

    Raises:
        ValueError: if ``of`` is no quantity.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
        >>> UnitWeight("data")(process.part, torch.tensor([0.5, 0.75]), "velocity")  # (1 - t)²
        tensor([0.2500, 0.0625])
    """

    def __init__(self, of: str) -> None:
        if of not in _SCALES:
            raise ValueError(f"of must be one of {', '.join(_SCALES)}, got {of!r}")
        self.form = self.of = of

    def value(self, level: NoiseLevel) -> Tensor:
        return torch.ones_like(level.t)


@checked
class LikelihoodWeight(LossWeight):
    r"""Likelihood weighting, ``λ = g² = 2 σ̂² λ̇`` in score form, ``2 λ̇`` in noise form.

    With it, and time as the integration variable (``importance=True``, or uniform times),

    .. math:: -E \log p(x_1) \le \int_0^1 \tfrac12 g^2 E|\hat s - \nabla \log \rho(x_t | x_1)|^2 dt
              + \text{const},

    for the law p of the reverse SDE (Song, Durkan et al. 2021, theorem 1). g² is that of the
    forward SDE with the marginals of the process. It is infinite at an end where the SNR is 0
    or infinite: times keep 1e-4 from it unless they have margins of their own.

    Raises:
        ValueError: when used, if the SNR does not grow all the way with t.

    Example:
        >>> import transportflows as tpf
        >>> part, half = tpf.Process(tpf.OneSidedLinear(), shape=(2,)).part, torch.tensor([0.5])
        >>> weight = LikelihoodWeight()  # λ̇ = 1/(t (1 - t)) = 4
        >>> weight(part, half, "score"), weight(part, half, "noise")  # 2 σ̂² λ̇ and 2 λ̇
        (tensor([2.]), tensor([8.]))
    """

    form = "score"

    def value(self, level: NoiseLevel) -> Tensor:
        level.part.check_monotone()
        return level.diffusion_sq


@checked
class MinSNRWeight(LossWeight):
    r"""Min-SNR-γ, ``min(SNR, γ)`` in data form (Hang et al. 2023).

    In noise form it is ``min(SNR, γ)/SNR``. In velocity form it is ``min(SNR, γ)/(β λ̇)²``: our
    velocity is b = ẋ, on the clock of the path. The authors' v-prediction is
    ``v = β ẑ - σ̂ x1`` with β² + σ̂² = 1, whose weight is ``min(SNR, γ)/(SNR + 1)``; for a
    trigonometric path ``b = -(π/2) v``, and the two agree up to the constant (2/π)².

    Args:
        gamma: γ, positive; 5 in the paper.

    Raises:
        ValueError: if ``gamma`` is not positive.

    Example:
        >>> import transportflows as tpf
        >>> part = tpf.Process(tpf.OneSidedLinear(), shape=(2,)).part
        >>> MinSNRWeight()(part, torch.tensor([0.5, 0.9]), "data")  # SNR = (t/(1 - t))² is 1 and 81
        tensor([1., 5.])
    """

    form = "data"

    def __init__(self, gamma: float = 5.0) -> None:
        self.gamma = positive_number("gamma", gamma)

    def value(self, level: NoiseLevel) -> Tensor:
        return level.snr.clamp(max=self.gamma)


@checked
class EDMWeight(LossWeight):
    r"""Karras's ``λ(σ) = (σ² + σ_d²)/(σ σ_d)²`` in data form, with ``σ = σ̂/β`` (2022, table 1).

    It is ``1/c_out²``: with :class:`EDM` every noise level weighs the same at the start.

    Args:
        sigma_data: σ_d, standard deviation of the data in the field's units, positive.

    Raises:
        ValueError: if ``sigma_data`` is not positive.

    Example:
        >>> import transportflows as tpf
        >>> part = tpf.Process(tpf.OneSidedLinear(), shape=(2,)).part
        >>> EDMWeight(sigma_data=1.0)(part, torch.tensor([0.5]), "data")  # σ = 1
        tensor([2.])
    """

    form = "data"

    def __init__(self, sigma_data: float = 0.5) -> None:
        self.sigma_data = positive_number("sigma_data", sigma_data)

    def value(self, level: NoiseLevel) -> Tensor:
        square = self.sigma_data**2
        return (level.scale_sq + square * level.signal) / (square * level.scale_sq)
