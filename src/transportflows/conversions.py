r"""Conversions between velocity, score, noise and data: each formula once, in one place.

Everything here is linear. At a time t, with ``x' = x - α m`` and ``b' = b - α̇ m``, the Gaussian
part of the process gives

.. math:: x' = \beta d + \hat\sigma \hat\eta, \quad b' = \betȧ d + \dot{\hat\sigma} \hat\eta,
          \quad s = -\hat\eta / \hat\sigma,

two equations in the two unknowns (d, η̂), so that x and one network output give everything else,
by a 2 x 2 solve. Where σ̂̇ is infinite (``γ = sqrt(1 - t²)`` at t = 1) the unknowns are (d, s),
whose coefficients σ̂² and σ̂σ̂̇ are finite. So nothing is divided that need not be: from the velocity
of a linear path the noise is ``x - t b`` on the whole of [0, 1].

Without a Gaussian base, x tells nothing about d, and the only relations are
``b = v - γ γ̇ s = v + γ̇ η`` and ``s = -η / γ``: two outputs are needed for a velocity and a score.

A conversion that never exists is refused (:class:`ConversionError`); one that is singular at some
times has infinite weights there, which the caller refuses or steps around.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._core.autodiff import time_derivative
from .interpolants import AffineInterpolant
from .process import Process

__all__ = ["QUANTITIES", "ConversionError", "Weights", "conversion", "degenerate_times"]

QUANTITIES = ("velocity", "mean_velocity", "score", "noise", "data")

Row = tuple[Tensor, Tensor]


class ConversionError(ValueError):
    """A quantity was asked of a field that does not determine it."""


@dataclass(frozen=True)
class Weights:
    """``target = x · state + mean · m + Σ_k outputs[k] · f_k``, weights of the shape of t.

    An output whose weight is None is not needed, and its network is not called.
    """

    x: Tensor | None
    mean: Tensor | None
    outputs: tuple[Tensor | None, ...]

    def tensors(self) -> list[Tensor]:
        """The weights that are there."""
        return [w for w in (self.x, self.mean, *self.outputs) if w is not None]


def conversion(process: Process, outputs: tuple[str, ...], target: str, t: Tensor) -> Weights:
    """Return the weights that make ``target`` from x and ``outputs`` at times ``t``.

    Args:
        process: the law of x_t.
        outputs: what the networks predict, one or two of :data:`QUANTITIES`.
        target: what is wanted.
        t: times, of any shape; float64 for tables.

    Raises:
        ConversionError: if ``outputs`` do not determine ``target`` under this process.
    """
    if target not in QUANTITIES:
        raise ValueError(f"unknown quantity {target!r}; known: {', '.join(QUANTITIES)}")
    if target in outputs:
        return _only(outputs, target, torch.ones_like(t))
    for name in outputs:
        if {name, target} == {"score", "noise"}:
            scale = process.noise_scale(t)
            return _only(outputs, name, -scale if target == "noise" else -1 / scale)
    if not process.interpolant.has_latent and {target, *outputs} >= {"velocity", "mean_velocity"}:
        other = "velocity" if target == "mean_velocity" else "mean_velocity"
        return _only(outputs, other, torch.ones_like(t))
    if len(outputs) == 2 and target in ("velocity", "mean_velocity"):
        return _from_pair(process, outputs, target, t)
    if process.one_sided:
        source = next(o for o in ("velocity", *outputs) if o in outputs)
        return _from_one(process, outputs, source, target, t)
    raise ConversionError(_refusal(process, outputs, target))


def degenerate_times(process: Process) -> list[float]:
    """Times inside (0, 1) at which a velocity does not determine the score.

    They are the zeros of ``β σ̂σ̂̇ - β̇ σ̂²`` where σ̂ > 0, at which σ̂/β is stationary, found on a
    grid of 1,001 times. A stretch where β and β̇ both vanish is not among them: there x_t is all
    noise and x gives the score.
    """
    learned = any(True for _ in process.interpolant.parameters())
    if not learned and process.degenerate is not None:
        return process.degenerate
    times = process.degenerate = _find_degenerate(process)
    return times


def _find_degenerate(process: Process) -> list[float]:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64, device=process.device)[1:-1]
    interpolant = process.affine
    with torch.no_grad():
        beta, beta_dot = interpolant.beta(t), interpolant.beta_dot(t)
        square, half_dot = process.noise_scale_sq(t), 0.5 * process.noise_scale_sq_dot(t)
    size = torch.maximum(beta.abs(), beta_dot.abs()).clamp(min=1e-300)
    value = (beta * half_dot - beta_dot * square) / size
    scale = torch.maximum(square, half_dot.abs()).clamp(min=1e-300)
    pure_noise = (beta.abs() < 1e-12) & (beta_dot.abs() < 1e-12)
    zero = (value.abs() < 1e-9 * scale) & ~pure_noise
    crossing = torch.zeros_like(zero)
    crossing[1:] = (value[1:] * value[:-1] < 0) & ~pure_noise[1:] & ~pure_noise[:-1]
    return [float(time) for time in t[zero | crossing]]


def _only(outputs: tuple[str, ...], name: str, weight: Tensor) -> Weights:
    return Weights(None, None, tuple(weight if o == name else None for o in outputs))


def _from_pair(process: Process, outputs: tuple[str, ...], target: str, t: Tensor) -> Weights:
    """``b = v - γγ̇ s``, whichever of b, v and of s, η the outputs hold."""
    sign = -1.0 if target == "velocity" else 1.0
    weights: list[Tensor | None] = []
    half_dot = 0.5 * process.interpolant.gamma_sq_dot(t)
    for name in outputs:
        if name == "score":
            weights.append(sign * half_dot)
        elif name == "noise":
            weights.append(-sign * _ratio(half_dot, process, t))
        elif name in ("velocity", "mean_velocity"):
            weights.append(torch.ones_like(t))
        else:
            raise ConversionError(_refusal(process, outputs, target))
    return Weights(None, None, tuple(weights))


def _ratio(half_dot: Tensor, process: Process, t: Tensor) -> Tensor:
    """``γγ̇ / σ̂``, with its limit ``σ̂̇`` (or 0) where σ̂ vanishes."""
    scale = process.noise_scale(t)
    limit = process.noise_scale_dot(t) if process.gaussian_base is None else _limit(process, t)
    return torch.where(scale > 0, half_dot / torch.where(scale > 0, scale, 1.0), limit)


def _limit(process: Process, t: Tensor) -> Tensor:
    """The limit of γγ̇ / σ̂ at a common zero of γ and σ̂, by de l'Hôpital's rule."""
    if not process.interpolant.has_latent:
        return torch.zeros_like(t)
    scale_dot = process.noise_scale_dot(t)
    second = 0.5 * time_derivative(process.interpolant.gamma_sq_dot, t)
    finite = torch.isfinite(scale_dot) & (scale_dot != 0)
    return torch.where(
        finite,
        second / torch.where(finite, scale_dot, 1.0),
        torch.where(scale_dot == 0, 0.0, scale_dot),
    )


def _from_one(
    process: Process, outputs: tuple[str, ...], source: str, target: str, t: Tensor
) -> Weights:
    """Solve for ``target`` from x and one output, with a Gaussian part."""
    interpolant: AffineInterpolant = process.affine
    if source in ("velocity", "mean_velocity") and target != source:
        _refuse_degenerate(process, source, target, t)
    beta, beta_dot = interpolant.beta(t), interpolant.beta_dot(t)
    square, half_dot = process.noise_scale_sq(t), 0.5 * process.noise_scale_sq_dot(t)
    scale, scale_dot = process.noise_scale(t), process.noise_scale_dot(t)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    latent_half_dot = 0.5 * interpolant.gamma_sq_dot(t)

    # Unknowns (d, η̂): the score enters as σ̂ s.
    by_noise: dict[str, Row] = {
        "x": (beta, scale),
        "velocity": (beta_dot, scale_dot),
        "mean_velocity": (beta_dot, scale_dot - _ratio(latent_half_dot, process, t)),
        "noise": (zero, one),
        "score": (zero, -one),
        "data": (one, zero),
    }
    # Unknowns (d, s).
    by_score: dict[str, Row] = {
        "x": (beta, -square),
        "velocity": (beta_dot, -half_dot),
        "mean_velocity": (beta_dot, latent_half_dot - half_dot),
        "noise": (zero, -scale),
        "score": (zero, one),
        "data": (one, zero),
    }
    x_a, out_a = _solve(by_noise, source, target)
    if source == "score":
        out_a = out_a * scale
    if target == "score":
        x_a, out_a = x_a / scale, out_a / scale
    x_b, out_b = _solve(by_score, source, target)
    finite = torch.isfinite(scale_dot) & torch.isfinite(by_noise["mean_velocity"][1])
    x_weight, out_weight = torch.where(finite, x_a, x_b), torch.where(finite, out_a, out_b)

    mean_weight = None
    if process.base_mean is not None:
        alpha, alpha_dot = interpolant.alpha(t), interpolant.alpha_dot(t)
        mean_weight = -x_weight * alpha
        if source in ("velocity", "mean_velocity"):
            mean_weight = mean_weight - out_weight * alpha_dot
        if target in ("velocity", "mean_velocity"):
            mean_weight = mean_weight + alpha_dot
    weights = tuple(out_weight if o == source else None for o in outputs)
    return Weights(x_weight, mean_weight, weights)


def _solve(rows: dict[str, Row], source: str, target: str) -> tuple[Tensor, Tensor]:
    """Weights (w_x, w_o) with ``w_x · x_row + w_o · source_row = target_row``; inf if singular."""
    (xd, xn), (od, on), (td, tn) = rows["x"], rows[source], rows[target]
    det = xd * on - xn * od
    # x_t is all noise where d enters neither row: then x alone gives what does not depend on d.
    pure = (xd == 0) & (od == 0)
    regular = (det != 0) & ~pure
    safe = torch.where(regular, det, 1.0)
    infinite = torch.full_like(det, torch.inf)
    alone = torch.where(td == 0, tn / torch.where(xn == 0, 1.0, xn), infinite)
    alone = torch.where((xn == 0) & (tn != 0), infinite, alone)
    x_weight = torch.where(regular, (td * on - od * tn) / safe, torch.where(pure, alone, infinite))
    out_weight = torch.where(regular, (xd * tn - xn * td) / safe, torch.where(pure, 0.0, infinite))
    return x_weight, out_weight


def _refuse_degenerate(process: Process, source: str, target: str, t: Tensor) -> None:
    """Refuse times that come near, or reach across, one at which a velocity tells no score."""
    if source == "mean_velocity" and process.interpolant.has_latent:
        interpolant = process.affine
        ends = torch.linspace(0, 1, 9, dtype=torch.float64, device=process.device)[1:-1]
        if process.gaussian_base is None and bool((interpolant.beta_dot(ends) == 0).all()):
            raise ConversionError(
                f"the mean velocity of {type(interpolant).__name__} is zero and determines nothing;"
                " learn the noise instead: NoisePredictor(net, process)"
            )
        return
    times = degenerate_times(process)
    if times and t.numel() > 0:
        low, high = float(t.min()) - 0.01, float(t.max()) + 0.01
        times = [time for time in times if low <= time <= high]
    if times:
        shown = ", ".join(f"{time:.3g}" for time in times[:3])
        raise ConversionError(
            f"{target} from {source} is singular at t = {shown} for"
            f" {type(process.interpolant).__name__}: there the velocity tells nothing about the"
            " noise. Learn the noise itself: NoisePredictor(net, process), or beside the velocity"
            " FieldPair(velocity=..., noise=...)"
        )


def _refusal(process: Process, outputs: tuple[str, ...], target: str) -> str:
    have = " and ".join(o.replace("_", " ") for o in outputs)
    path, base = type(process.interpolant).__name__, type(process.base).__name__
    coupling = type(process.coupling).__name__
    why = (
        f"{target.replace('_', ' ')} cannot be had from {have} alone for this process"
        f" ({path}, base {base}, coupling {coupling}): that needs an affine path with an isotropic"
        " Gaussian base that is independent of the data."
    )
    if target == "data":
        return why + " Learn the data prediction itself: DataPredictor(net, process)"
    if not process.interpolant.has_latent:
        return (
            why + " This path has no latent, so it has no score to learn either: give it one,"
            " such as Linear(gamma=Brownian()), and learn FieldPair(velocity=..., noise=...);"
            " or sample with epsilon=0"
        )
    return why + " Learn two fields: FieldPair(velocity=..., noise=...)"
