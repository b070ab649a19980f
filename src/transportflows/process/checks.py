"""What a process refuses: other data, a path with wrong ends, a base that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.checks import check_same_kind, unit_times
from .._core.tensor import as_time
from ..couplings.base import Coupling
from ..distributions.base import Distribution
from ..distributions.gaussian import Gaussian
from ..distributions.point import Point
from ..gaussian_part import GaussianPart, NoisePart
from ..interpolants import AffineInterpolant, Interpolant

__all__ = [
    "check_data",
    "check_ends",
    "check_own_base",
    "check_point",
    "check_speed",
    "check_times",
    "check_told_start",
    "row_times",
]

_END_TOLERANCE = 1e-5
_STEP = 1e-5
_ELEMENTWISE = (
    "write it element by element on t: torch.cos(t) for math.cos(t), torch.where(t < 0.5, a, b) for"
    " an if"
)


def check_data(x1: Tensor, x0: Tensor | None, shape: torch.Size | None, whose: str) -> None:
    """Refuse data that are no rows of floats, of another shape, or unlike the x0 beside them.

    Args:
        x1: data.
        x0: base samples paired with them, or None.
        shape: the event shape, if it is known.
        whose: what told it, for the message.
    """
    if not isinstance(x1, Tensor) or not x1.is_floating_point() or x1.ndim < 2:
        given = f"{tuple(x1.shape)} {x1.dtype}" if isinstance(x1, Tensor) else type(x1).__name__
        raise ValueError(
            f"x1 must be a floating-point tensor (B, *) with at least 2 dimensions, got {given}"
        )
    if shape is not None and x1.shape[1:] != shape:
        raise ValueError(
            f"the data have event shape {tuple(x1.shape[1:])} and the {whose} has"
            f" {tuple(shape)}; write base=Gaussian({tuple(x1.shape[1:])}), or reshape x1"
        )
    if x0 is not None:
        if x0.shape != x1.shape:
            raise ValueError(
                f"x0 is {tuple(x0.shape)} and x1 is {tuple(x1.shape)}; pairs have one shape"
            )
        check_same_kind(x0, x1, "x0", "x1")


def row_times(t: float | Tensor, x1: Tensor) -> Tensor:
    """The time of each row, ``(B,)``, of one for all or one a row."""
    n, t = len(x1), unit_times("t", as_time(t, x1))
    if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != n):
        raise ValueError(f"got t of shape {tuple(t.shape)} for {n} rows; it must be () or ({n},)")
    return t.expand(n)


@torch.no_grad()
def check_ends(path: Interpolant, x0: Tensor, x1: Tensor) -> None:
    """Refuse a path that does not start at x0 and end at x1."""
    if not path.affine:
        t = torch.linspace(0.2, 0.8, len(x1)).to(x1).reshape(-1, *(1,) * (x1.ndim - 1))
        _of_times(path, "mean(t, x0, x1)", lambda: path.mean(t, x0, x1), x1.shape)
    errors = path.end_errors(x0, x1)
    wrong = {name: e for name, e in errors.items() if not e <= _END_TOLERANCE}
    if wrong:
        spelled = ", ".join(f"{name} = {error:.3g}" for name, error in wrong.items())
        raise ValueError(
            f"the ends of {type(path).__name__} are wrong: {spelled}, where 0 is"
            " needed. The path must start at x0 (t = 0), end at x1 (t = 1) and have γ = 0 at"
            " both; tpf.testing.check_interpolant says more"
        )


@torch.no_grad()
def check_times(path: Interpolant, device: torch.device) -> None:
    """Refuse coefficients that are no functions of a tensor of times, or hide their derivative."""
    t = torch.tensor([0.2718, 0.6931], dtype=torch.float64, device=device)
    names = ["alpha", "beta"] if path.affine else []
    for name in [*names, "gamma_sq"] if path.has_latent else names:
        function = getattr(path, name)
        value = _of_times(path, f"{name}(t)", partial(function, t), t.shape)
        rise = function(t + _STEP) - value
        derivative = getattr(path, f"{name}_dot")
        dot = _of_times(path, f"{name}_dot(t)", partial(derivative, t), t.shape)
        if not bool(dot.any()) and bool((rise.abs() > 1e-2 * _STEP).all()):
            raise TypeError(
                f"the derivative of {name}(t) of {type(path).__name__} is lost, so that velocities"
                f" would be wrong; {_ELEMENTWISE}, and no numpy, detach() or torch.tensor(...) on"
                f" the way, or write {name}_dot(t)"
            )


def _of_times(
    path: Interpolant, name: str, call: Callable[[], Any], shape: Sequence[int]
) -> Tensor:
    """What a function of times gives, if it is a tensor of this shape."""
    try:
        value = call()
    except NotImplementedError:  # which says itself what to write
        raise
    except (TypeError, RuntimeError, AttributeError, ValueError) as error:
        cure = (
            "write net(t.to(dtype)).to(t): times are float64 too" if "dtype" in str(error) else ""
        )
        raise TypeError(
            f"{name} of {type(path).__name__} fails for a tensor of times ({str(error)[:120]});"
            f" {cure or _ELEMENTWISE}"
        ) from error
    if not isinstance(value, Tensor) or value.shape != tuple(shape):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"{name} of {type(path).__name__} must give a tensor {tuple(shape)}, and it gave {got};"
            f" {_ELEMENTWISE}, and torch.ones_like(t) for 1"
        )
    return value


@torch.no_grad()
def check_speed(part: NoisePart, device: torch.device) -> None:
    """Refuse a base with which the velocity diverges, since α̇ is infinite at an end."""
    path = part.path
    if not (path.uses_base and isinstance(path, AffineInterpolant)):
        return
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    bounded = bool(torch.isfinite(path.alpha_dot(ends)).all())
    if not bounded and not (isinstance(part, GaussianPart) and part.base_mean is None):
        raise ValueError(
            f"α̇ of {type(path).__name__} is infinite at an end, so the velocity"
            " diverges unless the base is Gaussian with mean zero, isotropic and"
            " independent; use Gaussian(shape), or an α with a finite derivative"
        )


def check_own_base(path: Interpolant, base: Distribution, scale: float) -> None:
    """Refuse a base that is not the Gaussian N(0, scale² Id) which the path makes itself."""
    if not (
        isinstance(base, Gaussian)
        and base.isotropic
        and base.zero_mean
        and abs(float(base.scale) - scale) <= 0.01 * scale
    ):
        raise ValueError(
            f"{type(path).__name__} makes its own base, N(0, {scale:g}² Id); give"
            f" that (Gaussian(shape, scale={scale:g})) or none (shape=...). Another base"
            " needs a two-sided path such as Linear(gamma=Brownian()); another start for"
            " the sampler is sample(..., start=...)"
        )


def check_told_start(path: Interpolant, coupling: Coupling) -> None:
    """Refuse a path without a latent for networks that are told of its start."""
    if coupling.condition_on_start and not coupling.is_map and not path.has_latent:
        raise ValueError(
            f"given x0, the path of {type(path).__name__} without a latent has nothing random but"
            " x1, and only its mean could be learned; give it a latent, such as"
            " Linear(gamma=Brownian()), or say that each x0 has one x1:"
            " Paired(condition_on_start=True, is_map=True)"
        )


def check_point(path: Interpolant, base: Distribution | None) -> None:
    """Refuse a base in one point for a path without a latent."""
    if isinstance(base, Point) and path.uses_base and not path.has_latent:
        raise ValueError(
            f"all paths of {type(path).__name__} would leave one point without noise, and a"
            " velocity there has one value: it carries all draws to one end. Give the path a"
            " latent, Linear(gamma=Brownian(a)), and sample with ε = a/2 (the Föllmer process), or"
            " take a base that is no point, such as Gaussian(shape)"
        )
