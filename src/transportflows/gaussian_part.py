r"""The Gaussian part of ``x_t``: everything that is known of a process before a network is.

Where x0 is N(m, σ0² Id) and independent of x1, or does not enter the path, all of ``x_t`` but x1 is
Gaussian:

.. math:: x_t = \alpha m + \beta x_1 + \hat\sigma \hat z, \qquad
          \hat\sigma^2 = \alpha^2 \sigma_0^2 + \gamma^2, \qquad \hat z \sim N(0, \mathrm{Id}).

Up to the factor β, ``x_t`` is then data seen through noise of standard deviation
:math:`\sigma = \hat\sigma / \beta`, the *noise level*; any two such processes differ by a change of
clock and of scale (Kingma et al. 2021, "Variational Diffusion Models"). With

.. math:: \lambda = \log(\beta / \hat\sigma), \quad \mathrm{SNR} = e^{2 \lambda}, \quad
          \Delta = \dot\beta \hat\sigma^2 - \beta \hat\sigma \dot{\hat\sigma}
                 = \beta \hat\sigma^2 \dot\lambda, \quad g^2 = 2 \Delta / \beta ,

g is the diffusion of the forward SDE with the same marginals, which exists where λ grows with t.
Δ is finite wherever σ̂σ̂̇ is.

:class:`GaussianPart` has each of these formulas once. With any other base or coupling only the
latent ``γ z`` is Gaussian given the rest (:class:`NoisePart`): then ``σ̂ = |γ|``. α and γ may be
negative between the ends, σ̂ never is: ``ẑ = (α (x0 - m) + γ z) / σ̂``.

(A little longer than other files: one noun, with all of its formulas.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ._core.autodiff import none_of
from ._core.precision import table_device, widest
from ._core.reprs import summary
from ._core.signatures import checked
from .interpolants import AffineInterpolant, Interpolant

__all__ = ["ConversionError", "GaussianPart", "NoisePart", "tweedie"]

_ZERO_SQ = 1e-24  # σ̂² below this is zero: cos(π/2)² is 4e-33
_TINY = 1e-60
_NEAR = 1e-12  # distance from an end of time at which ratios are taken for their limits
_BESIDE = 1e-6  # the same, large enough for float32


class ConversionError(ValueError):
    """A quantity was asked of a process or a field that does not determine it.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.distributions.Uniform((2,)))
        >>> field = tpf.Velocity(lambda t, x: x, process)
        >>> field.score(torch.tensor(0.5), torch.ones(1, 2))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        transportflows.gaussian_part.ConversionError: ...Linear(gamma=Brownian())...
    """


@checked
@dataclass(frozen=True, eq=False)
class NoisePart:
    """The latent ``γ z`` of a path: what is Gaussian in ``x_t`` whatever the base and coupling.

    Attributes:
        path: the interpolant.
        owner: the process it is of, in words, for messages.
        base_scale: σ0, ``()``; None where x0 is no part of the noise.
        base_mean: m, of the event shape, or ``(B, *)`` where each row has its own; None for zero.

    Example:
        >>> import transportflows as tpf
        >>> base = tpf.distributions.Uniform((2,))  # not Gaussian, so the noise is γ z alone
        >>> process = tpf.Process(tpf.Linear(gamma=tpf.Brownian()), base=base)
        >>> process.noise_part.scale(torch.tensor(0.5))  # sqrt(t (1 - t))
        tensor(0.5000)
    """

    path: Interpolant
    owner: str = field(repr=False)
    base_scale: Tensor | None = None
    base_mean: Tensor | None = None

    @property
    def exists(self) -> bool:
        """Whether there is any noise at all, so that ``x_t`` has a score."""
        return self.base_scale is not None or self.path.has_latent

    @property
    def whole(self) -> GaussianPart:
        """All of x_t but x1, where that is Gaussian.

        Raises:
            ConversionError: if it is not: the one refusal of what needs it, with the cure.
        """
        raise ConversionError(
            f"this process has no Gaussian part beside x1 ({self.owner}): it has no noise level σ̂/β"
            " and is no diffusion read backward, and one prediction does not give the others. Use a"
            " one-sided path, or an independent isotropic Gaussian base; with this process learn"
            " FieldPair(velocity=..., noise=...), and sample it by scheme='heun' or 'rk4' with an"
            " epsilon such as NoiseScaleEpsilon(1.0)"
        )

    def check(self, wanted: str) -> None:
        """Refuse a process whose x_t has no noise at all.

        Raises:
            ConversionError: if it has none; it says that ``wanted`` does not exist, and the cure.
        """
        if not self.exists:
            raise ConversionError(
                f"{wanted} does not exist for this process: x_t has no Gaussian part"
                f" ({self.owner}). Give the interpolant a latent, such as Linear(gamma=Brownian()),"
                " and learn FieldPair(velocity=..., noise=...), or use a Gaussian base with the"
                " independent coupling"
            )

    @property
    def device(self) -> torch.device:
        """Where its tables are, with the numbers of base and path if there is float64 there."""
        tensors = (*self.path.parameters(), *self.path.buffers())
        tensors = tensors if self.base_scale is None else (self.base_scale,)
        return table_device(tensors[0].device if tensors else "cpu")

    @cached_property
    def learned(self) -> bool:
        """Whether the path has parameters, so that what is true of it now may change."""
        return any(True for _ in self.path.parameters())

    def scale_sq(self, t: Tensor) -> Tensor:
        """``σ̂²(t) = γ² + α² σ0²``, of the shape of t."""
        square = self.path.gamma_sq(t)
        if self.base_scale is None or not isinstance(self.path, AffineInterpolant):
            return square
        return square + self.path.alpha_sq(t) * self.base_scale.to(square).square()

    def scale_sq_dot(self, t: Tensor) -> Tensor:
        """The derivative of σ̂², ``2 σ̂ σ̂̇``, of the shape of t: finite where σ̂̇ is not."""
        dot = self.path.gamma_sq_dot(t)
        if self.base_scale is None or not isinstance(self.path, AffineInterpolant):
            return dot
        return dot + self.path.alpha_sq_dot(t) * self.base_scale.to(dot).square()

    def signal(self, t: Tensor) -> Tensor:
        """What x1 is multiplied by, of the shape of t: β of a Gaussian part, 1 where x0 matters."""
        return self.path.beta(t) if isinstance(self, GaussianPart) else torch.ones_like(t)

    def scale(self, t: Tensor) -> Tensor:
        """``σ̂(t) ≥ 0``, of the shape of t; ``s = -η̂ / σ̂``."""
        square = self.scale_sq(t)
        return torch.where(square > _ZERO_SQ, square, 0.0).sqrt()

    def scale_dot(self, t: Tensor) -> Tensor:
        """``σ̂̇(t)``, of the shape of t, with its limit (perhaps infinite) where σ̂ vanishes."""
        square, half_dot = self.scale_sq(t), 0.5 * self.scale_sq_dot(t)
        zero = square <= _ZERO_SQ
        double = zero & (half_dot.abs() <= _ZERO_SQ**0.5)
        slope = half_dot / torch.where(zero, 1.0, square).sqrt()
        slope = torch.where(zero, torch.copysign(torch.full_like(t, torch.inf), half_dot), slope)
        if none_of(double):
            return slope
        square_dot = self.path.gamma_slope_sq(torch.where(double, t, 0.5))
        if self.base_scale is not None and isinstance(self.path, AffineInterpolant):
            alpha_dot = self.path.alpha_dot(torch.where(double, t, 0.5))
            square_dot = square_dot + (alpha_dot * self.base_scale.to(t)).square()
        limit = torch.where(double, square_dot, 1.0).clamp(min=0).sqrt()
        return torch.where(double, torch.where(t > 0.5, -limit, limit), slope)

    @cached_property
    @torch.no_grad()
    def signed(self) -> bool:
        """Whether α or γ is negative anywhere in (0, 1) (at 999 times), or may become so."""
        if self.learned:
            return True
        t = self._inside()
        return any(w is not None and bool((w < 0).any()) for w in self.noise_weights(t))

    def noise_weights(self, t: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """``α/σ̂`` and ``γ/σ̂``, of ``ẑ = (α (x0 - m) + γ z) / σ̂``, of the shape of t.

        One is None where x0, or a latent, is no part of the noise. At an end where σ̂ vanishes they
        are their limits, so that the sign of cos(π/2) does not matter.
        """
        beside = self.scale_sq(t) <= max(_ZERO_SQ, 16 * torch.finfo(t.dtype).eps ** 2)
        t = torch.where(beside, t.clamp(_BESIDE, 1 - _BESIDE), t)
        scale = self.scale(t).clamp(min=_TINY**0.5)
        path, enters = self.path, self.base_scale is not None
        alpha = path.alpha(t) / scale if enters and isinstance(path, AffineInterpolant) else None
        return alpha, path.gamma(t) / scale if path.has_latent else None

    def _inside(self) -> Tensor:
        return torch.linspace(0, 1, 1001, dtype=torch.float64, device=self.device)[1:-1]

    def latent_rate(self, t: Tensor) -> Tensor:
        """``γγ̇/σ̂``, the weight of the noise in ``b - v``, of the shape of t; a limit at σ̂ = 0."""
        half_dot, scale = 0.5 * self.path.gamma_sq_dot(t), self.scale(t)
        ratio = half_dot / torch.where(scale > 0, scale, 1.0)
        return torch.where(scale > 0, ratio, self._latent_rate_limit(t))

    def _latent_rate_limit(self, t: Tensor) -> Tensor:
        """``γγ̇/σ̂`` at a common zero of γ and σ̂, by de l'Hôpital's rule."""
        if self.base_scale is None:
            return self.scale_dot(t)
        if not self.path.has_latent:
            return torch.zeros_like(t)
        scale_dot = self.scale_dot(t)
        finite = torch.isfinite(scale_dot) & (scale_dot != 0) & (self.scale(t) == 0)
        if none_of(finite):
            ratio = torch.zeros_like(t)
        else:
            slope_sq = self.path.gamma_slope_sq(torch.where(finite, t, 0.5))
            ratio = slope_sq / torch.where(finite, scale_dot, 1.0)
        return torch.where(finite, ratio, torch.where(scale_dot == 0, 0.0, scale_dot))

    __repr__ = summary


@checked
def tweedie(beta: Tensor, scale_sq: Tensor) -> Tensor:
    """``σ̂²/β``, by β and σ̂² at some times, of their shape; infinite where β = 0.

    By Tweedie's formulas ``d = (x' + σ̂² s) / β`` and ``Cov(x1 | x_t) = (σ̂²/β) ∂d/∂x``: what is
    added to the score is added to the data prediction times this, and to the velocity times
    ``g²/2`` (:meth:`GaussianPart.half_diffusion_sq`).

    Example:
        >>> beta, scale_sq = torch.tensor(0.6), torch.tensor(0.64)  # of SBDM at t = 0.6
        >>> tweedie(beta, scale_sq) * 0.6  # Var(x1 | x_t) = 1 - 0.6² of data N(0, 1)
        tensor(0.6400)
    """
    return scale_sq / beta


@checked
@dataclass(frozen=True, eq=False)
class GaussianPart(NoisePart):
    """``x_t = α m + β x1 + σ̂ ẑ``: a path of whose ``x_t`` all but x1 is Gaussian.

    :attr:`Process.part` makes it. It follows its tensors: after ``process.to(device)``, or a step
    of an optimizer on the path, ask the process again.

    Attributes:
        path: an affine interpolant.

    Example:
        >>> import transportflows as tpf
        >>> path, base = tpf.Linear(gamma=tpf.Brownian()), tpf.Gaussian((2,))
        >>> part, half = tpf.Process(path, base=base).part, torch.tensor(0.5)
        >>> part.scale_sq(half)  # α² σ0² + γ² = 1/4 + 1/4
        tensor(0.5000)
        >>> round(float(part.log_ratio(half)), 4)  # log(β/σ̂) = log(0.5/√0.5) = -½ log 2
        -0.3466
    """

    path: AffineInterpolant

    @property
    def whole(self) -> GaussianPart:
        return self

    # ------------------------------------------------------------------------------ the formulas

    def delta(
        self, t: Tensor, beta: Tensor | None = None, scale_sq: Tensor | None = None
    ) -> Tensor:
        """``Δ = β̇ σ̂² - β σ̂σ̂̇ = β σ̂² λ̇``, of the shape of t; β and σ̂² may be given."""
        beta = self.path.beta(t) if beta is None else beta
        scale_sq = self.scale_sq(t) if scale_sq is None else scale_sq
        return self.path.beta_dot(t) * scale_sq - beta * (0.5 * self.scale_sq_dot(t))

    def half_diffusion_sq(self, t: Tensor) -> Tensor:
        """``g²/2 = Δ/β = σ̂² λ̇``, of the shape of t; infinite where β = 0."""
        return self.delta(t) / self.path.beta(t)

    def scaled_rate(self, t: Tensor) -> Tensor:
        """``σ̂ λ̇ = σ̂ β̇/β - σ̂̇ = g²/(2σ̂)``, of the shape of t, with its limit where σ̂ = 0."""
        growth = self.path.beta_dot(t) / self.path.beta(t)
        return self.scale(t) * growth - self.scale_dot(t)

    def log_ratio(self, t: Tensor) -> Tensor:
        """``λ = log(|β|/σ̂)``, of the shape of t, float64; at an end its value 1e-12 from there."""
        t = widest(t).clamp(_NEAR, 1 - _NEAR)
        beta, square = self.path.beta(t).abs(), self.scale_sq(t)
        beta, square = beta.clamp(min=_TINY**0.5), square.clamp(min=_TINY)
        return beta.log() - 0.5 * square.log()

    def shift(self, t: Tensor, like: Tensor) -> Tensor | None:
        """``α m`` at times t that broadcast against ``like``; None for a mean of zero."""
        if self.base_mean is None:
            return None
        return self.path.alpha(t).to(like) * self.base_mean.to(like)

    # ------------------------------------------------------------------- what is true of all times

    @cached_property
    @torch.no_grad()
    def monotone(self) -> bool:
        """Whether the signal-to-noise ratio grows all the way with t (at 999 times)."""
        return bool((self.delta(self._inside()) > 0).all())

    def check_monotone(self) -> None:
        """Refuse a part whose signal-to-noise ratio does not grow all the way with t.

        Raises:
            ValueError: if it does not (an encoder-decoder, a mirror).
        """
        if not self.monotone:
            raise ValueError(
                "the signal-to-noise ratio of this process"
                f" ({type(self.path).__name__}) does not grow all the way from t = 0 to 1, so"
                " it is no diffusion read backward: it has no time for each noise level, and no g²."
                " Use a path such as Linear() or SBDM(), or UniformTimes and a weight of your own"
            )

    @cached_property
    @torch.no_grad()
    def degenerate_times(self) -> tuple[float, ...]:
        """Times inside (0, 1) at which a velocity does not determine the score.

        They are the zeros of Δ where σ̂ > 0, at which σ̂/β is stationary, found on a grid of 1,001
        times. A stretch where β and β̇ both vanish is not among them: there x_t is all noise and x
        gives the score.
        """
        t = self._inside()
        beta, beta_dot = self.path.beta(t).abs(), self.path.beta_dot(t).abs()
        square, half_dot = self.scale_sq(t), 0.5 * self.scale_sq_dot(t)
        value = self.delta(t) / torch.maximum(beta, beta_dot).clamp(min=1e-300)
        scale = torch.maximum(square, half_dot.abs()).clamp(min=1e-300)
        pure_noise = (beta < 1e-12) & (beta_dot < 1e-12)
        zero = (value.abs() < 1e-9 * scale) & ~pure_noise
        crossing = torch.zeros_like(zero)
        crossing[1:] = (value[1:] * value[:-1] < 0) & ~pure_noise[1:] & ~pure_noise[:-1]
        return tuple(float(time) for time in t[zero | crossing])

    # ------------------------------------------------------------------------------- the inverse

    def time_of(self, log_ratio: Tensor, start: float = 0.0, stop: float = 1.0) -> Tensor:
        """Times in [start, stop] at which λ(t) has given values, of their shape, by bisection.

        Values beyond those of the ends give the ends.
        """
        low, high = torch.full_like(log_ratio, start), torch.full_like(log_ratio, stop)
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = self.log_ratio(middle) < log_ratio
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)

    @torch.no_grad()
    def time_of_sigma(self, sigma: float | Sequence[float] | Tensor) -> Tensor:
        r"""Return the times at which the noise level ``σ̂/β`` is ``sigma``, float64.

        There :math:`x_t / \beta = x_1 + \sigma z` in law: data with noise of standard deviation σ.

        Args:
            sigma: noise levels in units of the data, of any shape.

        Raises:
            ValueError: if there is no such level, it is not positive, or λ does not grow with t.

        Example:
            >>> import transportflows as tpf
            >>> tpf.Process(tpf.OneSidedLinear(), shape=(2,)).part.time_of_sigma(1.0)
            tensor(0.5000, dtype=torch.float64)
        """
        self.check_monotone()
        levels = torch.as_tensor(sigma, dtype=torch.float64, device=self.device)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.device)
        highest, lowest = (-self.log_ratio(ends)).exp().tolist()
        outside = (levels < lowest * (1 - 1e-9)) | (levels > highest * (1 + 1e-9)) | (levels <= 0)
        if bool((outside | ~torch.isfinite(levels)).any()):
            raise ValueError(
                f"noise levels of {type(self.path).__name__} lie in"
                f" [{lowest:.3g}, {highest:.3g}] in float64, got {levels.tolist()}"
            )
        return self.time_of(-levels.log())

    __repr__ = summary
