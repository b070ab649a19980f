r"""The latent scale γ(t) of a stochastic interpolant ``x_t = I(t, x0, x1) + γ(t) z``.

γ vanishes at both ends, so that the path starts in ρ0 and ends in ρ1, and smooths the law of
``x_t`` between them: it is what makes a score, and so an SDE, exist for arbitrary endpoints
(Albergo, Boffi & Vanden-Eijnden 2023, section 2).

The primitive is γ², not γ: for ``γ = sqrt(t (1 - t))`` the derivative γ̇ is infinite at the ends,
while ``γ γ̇ = ½ dγ²/dt``, the only combination that the dynamics need, is finite. So a subclass
writes ``gamma_sq`` without a root wherever it can.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._core.arguments import number
from .._core.autodiff import time_derivative
from .._core.registry import Storable
from .._core.reprs import call
from .._core.signatures import checked

__all__ = ["Brownian", "Gamma", "LatentScale", "Quadratic", "Sigmoid", "SineSquared"]


_BESIDE = 1e-6  # from a double zero of γ², where γ̇ is 0/0

_FOLLOWS = {
    "gamma_sq": ("gamma", "gamma_sq_dot", "gamma_dot"),
    "gamma": ("gamma_sq", "gamma_sq_dot", "gamma_dot"),
    "mean": ("mean_dot",),
    "alpha": ("mean", "mean_dot", "alpha_dot", "alpha_sq", "alpha_sq_dot"),
    "alpha_sq": ("alpha_sq_dot",),
    "beta": ("mean", "mean_dot", "beta_dot"),
    "a": ("a_dot", "drift_rate", "diffusion", "diffusion_sq"),
    "sigma_sq": ("sigma", "sigma_sq_dot", "diffusion", "diffusion_sq"),
    "sigma": ("sigma_sq", "sigma_sq_dot", "diffusion", "diffusion_sq"),
    "drift_rate": ("a", "a_dot", "sigma", "sigma_sq", "sigma_sq_dot"),
    "diffusion_sq": ("a", "a_dot", "sigma", "sigma_sq", "sigma_sq_dot", "diffusion"),
    "diffusion": ("a", "a_dot", "sigma", "sigma_sq", "sigma_sq_dot", "diffusion_sq"),
}
"""By method: the closed forms that are wrong once a subclass writes the method anew."""


def _owner(cls: type, name: str) -> type | None:
    """The class from which ``cls`` has a method."""
    return next((base for base in cls.__mro__ if name in base.__dict__), None)


def _closed_form(owner: type | None, name: str) -> bool:
    """Whether a class has the method for a path of its own, which some method of it defines."""
    if owner is None:
        return False
    sources = [written for written, derived in _FOLLOWS.items() if name in derived]
    if any(written in _FOLLOWS.get(name, ()) for written in sources):
        sources.append(name)  # each follows from the other: what it writes may be the path itself
    owners = [_owner(owner, source) for source in sources]
    return any(base is not None and not base.__dict__.get("_generic") for base in owners)


@checked
class LatentScale(Storable, nn.Module):
    """What γ and γ² owe each other; shared by :class:`Gamma` and the interpolants.

    A subclass writes ``gamma_sq`` (preferred) or ``gamma``; the rest follows.
    """

    _generic: ClassVar[bool] = True
    _sets: ClassVar[tuple[str, ...]] = ("_parameters",)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take back closed forms that a subclass has made stale.

        A subclass of ``Linear`` that writes ``beta`` must not keep ``Linear.beta_dot``: what
        follows from what it writes goes back to the generic form, unless it writes that too. What
        it has from a class without a path of its own (one whose ``mean_dot`` takes differences
        of whatever ``mean`` a subclass writes) is no closed form, and it keeps that.
        """
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("_generic"):
            return
        for written, derived in _FOLLOWS.items():
            if written not in cls.__dict__:
                continue
            for name in derived:
                if name in cls.__dict__ or not _closed_form(_owner(cls, name), name):
                    continue
                for base in cls.__mro__[1:]:
                    if name in base.__dict__ and not _closed_form(base, name):
                        setattr(cls, name, base.__dict__[name])
                        break

    def _writes(self, method: str) -> bool:
        """Whether a class below the library's bases defines ``method``."""
        return getattr(type(self), method) is not getattr(LatentScale, method)

    def gamma_sq(self, t: Tensor) -> Tensor:
        """γ²(t), of the shape of ``t``; finite and smooth where γ itself has a root."""
        if not self._writes("gamma"):
            raise NotImplementedError(f"{type(self).__name__} writes neither gamma_sq nor gamma")
        return self.gamma(t).square()

    def gamma(self, t: Tensor) -> Tensor:
        """γ(t), of the shape of ``t``: the root ≥ 0 of γ², unless a subclass writes a signed one.

        Where it is negative, so is the weight of z in the target ``ẑ = γ z / |γ|`` of a noise.
        """
        return self.gamma_sq(t).clamp(min=0).sqrt()

    def gamma_sq_dot(self, t: Tensor) -> Tensor:
        """The derivative of γ² at ``t``, which is ``2 γ γ̇``; by autodiff unless overridden."""
        if self._writes("gamma") and self._writes("gamma_dot"):
            return 2 * self.gamma(t) * self.gamma_dot(t)
        return time_derivative(self.gamma_sq, t)

    def gamma_dot(self, t: Tensor) -> Tensor:
        """γ̇(t); infinite where γ vanishes like a root (use ``gamma_sq_dot``).

        Of a γ² that vanishes with its derivative, its value 1e-6 from there.
        """
        if self._writes("gamma"):
            return time_derivative(self.gamma, t)
        double = (self.gamma_sq(t) == 0) & (self.gamma_sq_dot(t) == 0)
        t = torch.where(double, torch.where(t < 0.5, t + _BESIDE, t - _BESIDE), t)
        return 0.5 * self.gamma_sq_dot(t) / self.gamma(t)

    def gamma_slope_sq(self, t: Tensor) -> Tensor:
        """``γ̇²`` where γ² has a double zero, so that ``γ²˙/(2γ)`` is 0/0; elsewhere any number."""
        if self._writes("gamma") or self._writes("gamma_dot"):
            return self.gamma_dot(t).square()
        return 0.5 * time_derivative(self.gamma_sq_dot, t)

    def __repr__(self) -> str:
        return call(self)


@checked
class Gamma(LatentScale):
    """A latent scale γ(t) to compose with an interpolant: ``Linear(gamma=Brownian())``.

    A subclass writes ``gamma_sq(t)`` (or ``gamma(t)``), which must vanish at t = 0 and t = 1.

    Attributes:
        breakpoints: times inside (0, 1) where γ is not smooth; they become the interpolant's.

    Example:
        >>> class Flat(Gamma):
        ...     def gamma_sq(self, t): return (t * (1 - t)) ** 3
        >>> Flat().gamma(torch.tensor(0.5)), Flat().gamma_sq_dot(torch.tensor(0.5))  # at the top
        (tensor(0.1250), tensor(0.))
    """

    _generic: ClassVar[bool] = True
    breakpoints: tuple[float, ...] = ()


@checked
class Brownian(Gamma):
    r"""``γ² = a t (1 - t)``, the variance of a Brownian bridge. γ̇ is infinite at both ends.

    Args:
        a: variance factor, positive; a :class:`torch.nn.Parameter` ``()`` is kept, to be learned.

    Raises:
        ValueError: if ``a`` is not positive.

    Example:
        >>> gamma, ends = Brownian(4.0), torch.tensor([0.0, 0.5, 1.0])
        >>> gamma.gamma(ends), gamma.gamma_sq_dot(ends)  # 2 γ γ̇ is finite, and γ̇ is not
        (tensor([0., 1., 0.]), tensor([ 4.,  0., -4.]))
    """

    a: Tensor

    def __init__(self, a: float | Tensor = 1.0) -> None:
        super().__init__()
        if not 0 < number("a", a, "positive") < math.inf:
            raise ValueError(f"a must be positive, got {float(a)}; for no latent give gamma=None")
        if isinstance(a, nn.Parameter):
            self.a = a
        else:
            self.register_buffer("a", torch.tensor(float(a), dtype=torch.float64), persistent=False)

    def gamma_sq(self, t: Tensor) -> Tensor:
        return self.a.to(t) * t * (1 - t)

    def gamma_sq_dot(self, t: Tensor) -> Tensor:
        return self.a.to(t) * (1 - 2 * t)

    def gamma_dot(self, t: Tensor) -> Tensor:
        return 0.5 * self.gamma_sq_dot(t) / self.gamma(t)

    def config(self) -> dict[str, Any]:
        if isinstance(self.a, nn.Parameter):
            raise NotImplementedError("a learned variance is not rebuilt from a number")
        return {"a": float(self.a)}


@checked
class Quadratic(Gamma):
    """``γ = c t (1 - t)``: γ̇ is finite at the ends.

    Args:
        scale: the factor c, positive.

    Raises:
        ValueError: if ``scale`` is not positive.

    Example:
        >>> Quadratic(4.0).gamma(torch.tensor(0.5)), Quadratic(4.0).gamma_dot(torch.tensor(0.0))
        (tensor(1.), tensor(4.))
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = _positive(scale)

    def gamma(self, t: Tensor) -> Tensor:
        return self.scale * t * (1 - t)

    def gamma_dot(self, t: Tensor) -> Tensor:
        return self.scale * (1 - 2 * t)

    def config(self) -> dict[str, Any]:
        return {"scale": self.scale}


@checked
class SineSquared(Gamma):
    """``γ = c sin²(π t)``: both γ and γ̇ vanish at the ends.

    Args:
        scale: the factor c, positive.

    Raises:
        ValueError: if ``scale`` is not positive.

    Example:
        >>> SineSquared().gamma(torch.tensor(0.5)), SineSquared().gamma_dot(torch.tensor(0.0))
        (tensor(1.), tensor(0.))
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = _positive(scale)

    def gamma(self, t: Tensor) -> Tensor:
        return self.scale * torch.sin(math.pi * t).square()

    def gamma_dot(self, t: Tensor) -> Tensor:
        return self.scale * math.pi * torch.sin(2 * math.pi * t)

    def config(self) -> dict[str, Any]:
        return {"scale": self.scale}


@checked
class Sigmoid(Gamma):
    r"""A plateau with smooth shoulders, from the logistic function S.

    ``γ = S(f(t-½) + 1) - S(f(t-½) - 1) - S(1 - f/2) + S(-1 - f/2)``
    (Albergo, Boffi & Vanden-Eijnden 2023, table of γ's). γ̇ is finite at the ends.

    Args:
        f: sharpness, positive.

    Raises:
        ValueError: if ``f`` is not positive.

    Example:
        >>> [round(g, 3) for g in Sigmoid().gamma(torch.tensor([0.0, 0.25, 0.5, 1.0])).tolist()]
        [0.0, 0.138, 0.447, 0.0]
    """

    def __init__(self, f: float = 10.0) -> None:
        super().__init__()
        self.f = _positive(f, "f")

    def gamma(self, t: Tensor) -> Tensor:
        u = -self.f * (t - 0.5).abs()  # symmetric, so that both ends are 0 to the bit
        ends = torch.sigmoid(torch.tensor([1 - self.f / 2, -1 - self.f / 2], dtype=torch.float64))
        floor = float(ends[0] - ends[1])
        return torch.sigmoid(u + 1) - torch.sigmoid(u - 1) - floor

    def gamma_dot(self, t: Tensor) -> Tensor:
        u = self.f * (t - 0.5)
        above, below = torch.sigmoid(u + 1), torch.sigmoid(u - 1)
        return self.f * (above * (1 - above) - below * (1 - below))

    def config(self) -> dict[str, Any]:
        return {"f": self.f}


def _positive(value: float, name: str = "scale") -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive, got {value}; for no latent give gamma=None")
    return float(value)
