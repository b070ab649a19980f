"""The forward SDE with a linear drift, written by its coefficients or by its marginals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.autodiff import time_derivative
from .._core.checks import check_finite_rows
from .._core.precision import as_wide, table_device
from .._core.random import local
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..distributions.gaussian import Gaussian
from ..interpolants import OneSided
from ._coefficients import Marginals

__all__ = ["ForwardSDE"]

_ROUNDING = 1e-9


@checked
class ForwardSDE(OneSided):
    r"""``dX = f(τ) X dτ + g(τ) dW`` from data at τ = 0, and so a one-sided interpolant.

    A subclass writes one of two pairs, element by element on a tensor of times τ in [0, 1]:

    - ``a(tau)`` and ``sigma_sq(tau)`` (or ``sigma(tau)``), the marginals
      ``X_τ = a(τ) x1 + σ(τ) z``, with a(0) = 1; σ(0)² is an explicit initial variance;
    - ``drift_rate(tau)`` and ``diffusion_sq(tau)`` (or ``diffusion(tau)``), the coefficients f and
      g, and perhaps ``initial_variance``. The marginals then come from quadrature in float64, to
      about 1e-13 where f and g are smooth between ``tau_breakpoints``.

    What it does not write follows from what it does. Write ``sigma_sq`` without a root where you
    can: σ̇ is infinite where ``σ ~ sqrt(τ)``, and only ``σ σ̇`` is needed.

    Attributes:
        tau_breakpoints: times τ in (0, 1) at which f or g are not smooth; 1 - τ are the path's.
        initial_variance: σ(0)², for an SDE written by its coefficients.
        max_signal: the largest a(1)/σ(1) that is accepted. Sampling starts from the prior, which
            has forgotten the data; raise it in a subclass if your data are small, and look at
            ``metrics.prior_bias``.

    Example:
        >>> class Cubic(ForwardSDE):  # β(τ) = 30 τ²: variance preserving, as VP
        ...     def drift_rate(self, tau): return -15 * tau**2
        ...     def diffusion_sq(self, tau): return 30 * tau**2
        >>> Cubic().a(torch.tensor(1.0)).item() - math.exp(-5) < 1e-9
        True
    """

    _generic: ClassVar[bool] = True
    tau_breakpoints: tuple[float, ...] = ()
    initial_variance: float = 0.0
    max_signal: ClassVar[float] = 0.5

    @property
    def _home(self) -> torch.device:
        tensors = (*self.parameters(), *self.buffers())
        return table_device(tensors[0].device if tensors else "cpu")

    # ----------------------------------------------------------------- marginals and coefficients

    def _has(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(ForwardSDE, name)

    def _check_coefficients(self) -> None:
        """Refuse an SDE that writes neither pair; asked where it does not write its marginals."""
        if not self._has("drift_rate") or not (self._has("diffusion_sq") or self._has("diffusion")):
            raise NotImplementedError(
                f"{type(self).__name__} is not a forward SDE yet: write a(tau) and sigma_sq(tau),"
                " or drift_rate(tau) and diffusion_sq(tau)"
            )

    def _quadrature(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """A and σ² from f and g²."""
        if not self._has("a") and not self._has("sigma_sq") and not self._has("sigma"):
            self._check_coefficients()
        marginals = Marginals(
            self.drift_rate, self.diffusion_sq, self.initial_variance, self.tau_breakpoints
        )
        return marginals(tau)

    def a(self, tau: Tensor) -> Tensor:
        """Scale of the data in ``X_τ``, of the shape of ``tau``."""
        return self._quadrature(tau)[0]

    def sigma_sq(self, tau: Tensor) -> Tensor:
        """σ²(τ), the variance of the noise in ``X_τ``, of the shape of τ."""
        if self._has("sigma"):
            return self.sigma(tau).square()
        return self._quadrature(tau)[1]

    def sigma(self, tau: Tensor) -> Tensor:
        """σ(τ), the scale of the noise in ``X_τ``, of the shape of τ."""
        return self.sigma_sq(tau).clamp(min=0).sqrt()

    def a_dot(self, tau: Tensor) -> Tensor:
        """da/dτ, of the shape of τ; ``f a`` of an SDE written by f, else by autodiff."""
        if self._has("a"):
            return time_derivative(self.a, tau)
        return self.drift_rate(tau) * self.a(tau)

    def sigma_sq_dot(self, tau: Tensor) -> Tensor:
        """dσ²/dτ, of the shape of τ; ``2 f σ² + g²`` of an SDE by f and g, else by autodiff."""
        if self._has("sigma_sq"):
            return time_derivative(self.sigma_sq, tau)
        if self._has("sigma"):
            return 2 * self.sigma(tau) * time_derivative(self.sigma, tau)
        return 2 * self.drift_rate(tau) * self.sigma_sq(tau) + self.diffusion_sq(tau)

    def drift_rate(self, tau: Tensor) -> Tensor:
        """``f(τ) = ȧ / a``, of the shape of τ: the rate of the drift, < 0 where data shrink."""
        if not self._has("a"):
            self._check_coefficients()
        return self.a_dot(tau) / self.a(tau)

    def diffusion_sq(self, tau: Tensor) -> Tensor:
        """``g² = dσ²/dτ - 2 (ȧ/a) σ²``, of the shape of τ: the variance of noise per unit of it.

        It is ``2 Δ/β`` of :class:`GaussianPart` at t = 1 - τ, and is written here too, in τ:
        :meth:`sigma_sq_dot`, of which that is made, is made of it for an SDE written by f and g.
        """
        if self._has("diffusion"):
            return self.diffusion(tau).square()
        if not self._has("sigma_sq") and not self._has("sigma"):
            self._check_coefficients()
        return self.sigma_sq_dot(tau) - 2 * self.drift_rate(tau) * self.sigma_sq(tau)

    def diffusion(self, tau: Tensor) -> Tensor:
        """``g(τ) ≥ 0``, the diffusion coefficient, of the shape of τ."""
        return self.diffusion_sq(tau).clamp(min=0).sqrt()

    def drift(self, tau: Tensor, x: Tensor) -> Tensor:
        """``f(τ) x``, the drift at states ``(B, *)``, for τ of shape ``()`` or ``(B,)``.

        With it the SDE can be simulated by any scheme: ``tpf.integrate(sde.drift, x, grid,
        scheme="heun", epsilon=lambda tau: sde.diffusion_sq(tau) / 2)``.
        """
        return expand_time(self.drift_rate(tau), x) * x

    def marginal(self, tau: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``a(τ) x1``, ``(B, *)``, and scale σ(τ), of the shape of τ, of ``X_τ`` given x1."""
        return expand_time(self.a(tau), x1) * x1, self.sigma(tau)

    # ------------------------------------------------------------------------- prior and samples

    @property
    def prior_scale(self) -> float:
        """σ(1), the scale of the prior, unless a subclass knows better."""
        with torch.no_grad():
            return float(self.sigma(torch.ones((), dtype=torch.float64, device=self._home)))

    def prior(self, shape: Sequence[int]) -> Gaussian:
        """The law from which sampling starts, ``N(0, prior_scale² Id)``; it has ``log_prob``.

        It is the law of ``X_1`` up to the data's share, a(1) x1: ``metrics.prior_bias`` measures
        what that costs.
        """
        return Gaussian(tuple(shape), scale=self.prior_scale)

    def sample_path(
        self,
        x1: DataLike,
        taus: Sequence[float] | Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Draw paths ``X_τ`` of the SDE from data, exactly, at increasing times.

        Steps are drawn from the transition law
        ``X_τ | X_s ~ N(r X_s, (σ_τ² - r² σ_s²) Id)``, ``r = a_τ / a_s``, so the joint law at the
        times is exact whatever their spacing; at τ = 0 a path is ``x1 + σ(0) z``.

        Args:
            x1: data, ``(B, *)``.
            taus: times, increasing, in [0, 1].
            generator: source of randomness.

        Returns:
            States, ``(len(taus), B, *)``, of the dtype and device of x1.

        Raises:
            ValueError: if the times do not increase or leave [0, 1], or x1 is not finite rows.
        """
        x1 = as_rows("x1", x1)
        check_finite_rows(x1, "x1")
        self.check()
        times = as_wide(taus).detach().cpu()
        if times.ndim != 1 or times.numel() == 0 or not bool((times.diff() > 0).all()):
            raise ValueError(f"taus must be a list of increasing times, got {times.tolist()}")
        if float(times[0]) < 0 or float(times[-1]) > 1:
            raise ValueError(f"taus must lie in [0, 1], got {times.tolist()}")
        with torch.no_grad():
            a = self.a(times.to(self._home)).tolist()
            square = self.sigma_sq(times.to(self._home)).tolist()
        generator = local(generator, x1.device)
        path, x, a_now, square_now = [], x1, 1.0, 0.0
        for a_next, square_next in zip(a, square, strict=True):
            r = a_next / a_now
            z = torch.randn(x1.shape, generator=generator, dtype=x1.dtype, device=x1.device)
            x = r * x + math.sqrt(max(square_next - r * r * square_now, 0.0)) * z
            a_now, square_now = a_next, square_next
            path.append(x)
        return torch.stack(path)

    # --------------------------------------------------------------- as a one-sided interpolant

    @property
    def breakpoints(self) -> tuple[float, ...]:  # type: ignore[override]
        """Those of the path, in t, where ``tau_breakpoints`` are those of f and g in τ."""
        return tuple(sorted(1 - tau for tau in self.tau_breakpoints))

    def beta(self, t: Tensor) -> Tensor:
        return self.a(1 - t)

    def beta_dot(self, t: Tensor) -> Tensor:
        return -self.a_dot(1 - t)

    def gamma_sq(self, t: Tensor) -> Tensor:
        return self.sigma_sq(1 - t)

    def gamma(self, t: Tensor) -> Tensor:
        return self.sigma(1 - t)

    def gamma_sq_dot(self, t: Tensor) -> Tensor:
        return -self.sigma_sq_dot(1 - t)

    def gamma_dot(self, t: Tensor) -> Tensor:
        if self._has("sigma") and not self._has("sigma_sq"):
            return -time_derivative(self.sigma, 1 - t)
        return 0.5 * self.gamma_sq_dot(t) / self.gamma(t)

    def gamma_slope_sq(self, t: Tensor) -> Tensor:
        return 0.5 * time_derivative(self.gamma_sq_dot, t)

    # --------------------------------------------------------------------------------- refusals

    def check(self) -> None:
        """Refuse an SDE that cannot be.

        Raises:
            ValueError: if a or σ vanishes inside (0, 1) or is not finite, g² is negative, a(0) is
                not 1, or the data are still seen at τ = 1.
        """
        name = type(self).__name__
        tau = torch.linspace(0, 1, 257, dtype=torch.float64, device=self._home)
        with torch.no_grad():
            a, square = self.a(tau), self.sigma_sq(tau)
            g_sq = self.diffusion_sq(tau[1:-1])
        if not bool((torch.isfinite(a) & torch.isfinite(square)).all()):
            bad = tau[~(torch.isfinite(a) & torch.isfinite(square))]
            raise ValueError(f"a or σ² of {name} is not finite at τ = {float(bad[0]):g}")
        if abs(float(a[0]) - 1) > 1e-5:
            raise ValueError(
                f"a(0) of {name} is {float(a[0]):g}; it must be 1: X starts at the data, of which a"
                " is the scale. Divide a by a(0)"
            )
        for what, value in (("a", a[1:-1]), ("σ²", square[1:-1])):
            if bool((value <= 0).any()):
                where = float(tau[1:-1][value <= 0][0])
                raise ValueError(
                    f"{what} of {name} is {float(value[value <= 0][0]):g} at τ = {where:g}. The"
                    " marginal scale must not vanish inside (0, 1): where a = 0 the data are"
                    " forgotten for good, and where σ = 0 the noise is; let a fall to 0 and σ rise"
                    " from 0 at the ends only"
                )
        if bool((g_sq < -_ROUNDING * g_sq.abs().amax().clamp(min=1e-12)).any()):
            where = float(tau[1:-1][g_sq.argmin()])
            raise ValueError(
                f"g² of {name} is {float(g_sq.min()):g} at τ = {where:g}, and a variance cannot be"
                " negative: σ/a must grow with τ. A noise that shrinks is not that of a forward"
                " SDE; sample such a path with an ε of your own"
            )
        signal = float(a[-1] / square[-1].sqrt())
        if signal > self.max_signal:
            raise ValueError(
                f"at τ = 1 {name} still has a/σ = {signal:.3g} of its data, over"
                f" {self.max_signal:g}, so that sampling from its prior would start from the wrong"
                f" law. {self._more_noise()}"
            )

    def _more_noise(self) -> str:
        return "Let it run to more noise, or raise max_signal in a subclass if the data are small"

    def end_errors(self, x0: Tensor, x1: Tensor) -> dict[str, float]:
        self.check()
        ends = torch.tensor([0.0, 1.0], dtype=x1.dtype, device=x1.device)
        start, end = self.sigma_sq(ends).tolist()
        return {
            "a(0) - 1": abs(float(self.a(ends)[0]) - 1),
            "σ²(0) / σ²(1), over 1 %": max(start / end - 0.01, 0.0),
        }
