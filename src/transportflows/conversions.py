r"""Conversions between velocity, score, noise and data: each formula once, in one place.

Everything here is linear. At a time t, with ``x' = x - α m`` and ``b' = b - α̇ m``, the Gaussian
part of the process gives

.. math:: x' = \beta d + \hat\sigma \hat\eta, \quad b' = \dot\beta d + \dot{\hat\sigma} \hat\eta,
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

import torch
from torch import Tensor

from ._core.checks import choice
from .combination import Combination
from .gaussian_part import ConversionError, GaussianPart, NoisePart

__all__ = ["QUANTITIES", "conversion", "singular"]

QUANTITIES = ("velocity", "mean_velocity", "score", "noise", "data")

Row = tuple[Tensor, Tensor]

_REACH = 0.01  # how near a degenerate time weights are too large to use


_ELSEWHERE = {
    **dict.fromkeys(("eps", "epsilon", "noise_prediction"), "'noise'"),
    **dict.fromkeys(("x0", "x1", "denoiser", "denoised", "sample"), "'data'"),
    **dict.fromkeys(("b", "drift", "flow", "v_prediction"), "'velocity'"),
}
"""What quantities are called elsewhere, and here."""


def conversion(part: NoisePart, outputs: tuple[str, ...], target: str, t: Tensor) -> Combination:
    """Return the weights that make ``target`` from x and ``outputs`` at times ``t``.

    Args:
        part: what is Gaussian in x_t, :attr:`Process.noise_part`.
        outputs: what the networks predict, one or two of ``QUANTITIES``, which are velocity, mean
            velocity, score, noise and data.
        target: what is wanted.
        t: times, of any shape; float64 for tables.

    Raises:
        ConversionError: if ``outputs`` do not determine ``target`` under this process.
    """
    choice("quantity", target, QUANTITIES, _ELSEWHERE)
    if target in outputs:
        return _only(outputs, target, torch.ones_like(t))
    for name in outputs:
        if {name, target} == {"score", "noise"}:
            scale = part.scale(t)
            return _only(outputs, name, -scale if target == "noise" else -1 / scale)
    if not part.path.has_latent and {target, *outputs} >= {"velocity", "mean_velocity"}:
        other = "velocity" if target == "mean_velocity" else "mean_velocity"
        return _only(outputs, other, torch.ones_like(t))
    if len(outputs) == 2 and target in ("velocity", "mean_velocity"):
        return _from_pair(part, outputs, target, t)
    if isinstance(part, GaussianPart):
        source = next(o for o in ("velocity", *outputs) if o in outputs)
        other = next((o for o in outputs if o not in ("velocity", "mean_velocity")), source)
        if other != source and target == "data":
            return _from_either(part, outputs, (source, other), t)
        if source in ("velocity", "mean_velocity") and target != source:
            _refuse_degenerate(part, source, target, t)
        return _from_one(part, outputs, source, target, t)
    raise ConversionError(_refusal(part, outputs, target))


def _only(outputs: tuple[str, ...], name: str, weight: Tensor) -> Combination:
    return Combination(None, None, tuple(weight if o == name else None for o in outputs))


def _from_pair(part: NoisePart, outputs: tuple[str, ...], target: str, t: Tensor) -> Combination:
    """``b = v - γγ̇ s``, whichever of b, v and of s, η the outputs hold."""
    sign = -1.0 if target == "velocity" else 1.0
    weights: list[Tensor | None] = []
    half_dot = 0.5 * part.path.gamma_sq_dot(t)
    for name in outputs:
        if name == "score":
            weights.append(sign * half_dot)
        elif name == "noise":
            weights.append(-sign * part.latent_rate(t))
        elif name in ("velocity", "mean_velocity"):
            weights.append(torch.ones_like(t))
        else:
            raise ConversionError(_refusal(part, outputs, target))
    return Combination(None, None, tuple(weights))


def _from_either(
    part: GaussianPart, outputs: tuple[str, ...], sources: tuple[str, str], t: Tensor
) -> Combination:
    """The data from a velocity, and from the other output near times where it tells nothing."""
    if not part.degenerate_times:
        return _from_one(part, outputs, sources[0], "data", t)
    near = torch.zeros_like(t, dtype=torch.bool)
    for time in part.degenerate_times:
        near |= (t - time).abs() <= _REACH
    away = _from_one(part, outputs, sources[0], "data", torch.where(near, 1.0, t))
    return away.where(~near, _from_one(part, outputs, sources[1], "data", t))


def _from_one(
    part: GaussianPart, outputs: tuple[str, ...], source: str, target: str, t: Tensor
) -> Combination:
    """Solve for ``target`` from x and one output, with a Gaussian part."""
    interpolant = part.path
    beta, beta_dot = interpolant.beta(t), interpolant.beta_dot(t)
    square, half_dot = part.scale_sq(t), 0.5 * part.scale_sq_dot(t)
    scale, scale_dot = part.scale(t), part.scale_dot(t)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    latent_half_dot = 0.5 * interpolant.gamma_sq_dot(t)

    # Unknowns (d, η̂): the score enters as σ̂ s.
    by_noise: dict[str, Row] = {
        "x": (beta, scale),
        "velocity": (beta_dot, scale_dot),
        "mean_velocity": (beta_dot, scale_dot - part.latent_rate(t)),
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
    if part.base_mean is not None:
        alpha, alpha_dot = interpolant.alpha(t), interpolant.alpha_dot(t)
        mean_weight = -x_weight * alpha
        if source in ("velocity", "mean_velocity"):
            mean_weight = mean_weight - out_weight * alpha_dot
        if target in ("velocity", "mean_velocity"):
            mean_weight = mean_weight + alpha_dot
    weights = tuple(out_weight if o == source else None for o in outputs)
    return Combination(x_weight, mean_weight, weights)


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


def _refuse_degenerate(part: GaussianPart, source: str, target: str, t: Tensor) -> None:
    """Refuse times that come near, or reach across, one at which a velocity tells no score."""
    if source == "mean_velocity" and part.path.has_latent:
        interpolant = part.path
        ends = torch.linspace(0, 1, 9, dtype=torch.float64, device=part.device)[1:-1]
        if part.base_scale is None and bool((interpolant.beta_dot(ends) == 0).all()):
            raise ConversionError(
                f"the mean velocity of {type(interpolant).__name__} is zero and determines nothing;"
                " learn the noise instead: NoisePredictor(net, process)"
            )
        return
    times = part.degenerate_times
    if times and t.numel() > 0:
        low, high = float(t.min()) - _REACH, float(t.max()) + _REACH
        times = tuple(time for time in times if low <= time <= high)
    if times:
        shown = ", ".join(f"{time:.3g}" for time in times[:3])
        raise ConversionError(
            f"{target} from {source} is singular at t = {shown} for"
            f" {type(part.path).__name__}: there the velocity tells nothing about the"
            " noise. Learn the noise itself: NoisePredictor(net, process), or beside the velocity"
            " FieldPair(velocity=..., noise=...)"
        )


def _refusal(part: NoisePart, outputs: tuple[str, ...], target: str) -> str:
    have = " and ".join(o.replace("_", " ") for o in outputs)
    why = (
        f"{target.replace('_', ' ')} cannot be had from {have} alone for this process"
        f" ({part.owner}): that needs an affine path with an isotropic Gaussian base that is"
        " independent of the data."
    )
    if target == "data":
        return why + " Learn the data prediction itself: DataPredictor(net, process)"
    if not part.exists:
        return (
            why + " This path has no latent, so it has no score to learn either: give it one,"
            " such as Linear(gamma=Brownian()), and learn FieldPair(velocity=..., noise=...);"
            " or sample with epsilon=0"
        )
    return why + " Learn two fields: FieldPair(velocity=..., noise=...)"


def singular(part: NoisePart, outputs: tuple[str, ...], target: str, t: Tensor) -> str:
    """What is wrong with times at which a conversion has infinite weights, and the cure.

    Args:
        part: of the process.
        outputs: what the networks predict.
        target: what is wanted.
        t: these times.
    """
    times = sorted({round(float(time), 6) for time in t.reshape(-1)})
    have = " and ".join(output.replace("_", " ") for output in outputs)
    wanted, shown = target.replace("_", " "), ", ".join(f"{time:g}" for time in times[:3])
    return (
        f"{wanted} from {have} is singular at t = {shown} for"
        f" {type(part.path).__name__}; evaluate it elsewhere, or learn the {wanted} itself"
        " (sample() steps around such ends by itself)"
    )
