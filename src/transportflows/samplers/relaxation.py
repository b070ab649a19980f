"""What ε adds to the steps of an exponential integrator: integrals of it from a time to the end.

With ε > 0 a sampling equation does two things at once: it carries the law along (the transport, as
with ε = 0), and it draws each state towards the law of its time while adding noise (the relaxation,
at the rate ``ε/σ̂²``). How far a step relaxes is the number ``ΔE = ∫ ε/σ̂² dt`` over it: of what a
state had beyond its prediction, the fraction ``e^{-ΔE}`` is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussian_part import GaussianPart
from ..solve.epsilon import EpsilonSchedule
from .panels import Panels

__all__ = ["Relaxation", "relaxation"]

_ZERO_SQ = 1e-24  # where a process takes its noise for none


@dataclass
class Relaxation:
    """Integrals of ε over S steps, for each of G schedules; ``dE = ε/σ̂² dt`` and ``u = σ̂/β``.

    Attributes:
        rest: ``E_t - E_r``, what is still to come at each point r, ``(S, K, G)``.
        rest_u: ``∫_r^t u dE``, likewise.
        whole: ``ΔE`` of each step, ``(S, G)``.
        whole_u: ``∫ u dE``, likewise.
        variance: ``∫ 2u² dE``, likewise.
        diverges: whether ``∫ u dE`` is infinite, ``(S,)``.
        rate: ``dE/dt`` at each point, ``(S, K, G)``.
        panels: of the steps.
        length: of the steps, ``(S,)``.
    """

    rest: Tensor
    rest_u: Tensor
    whole: Tensor
    whole_u: Tensor
    variance: Tensor
    diverges: Tensor
    rate: Tensor
    panels: Panels
    length: Tensor

    def of(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """``∫ q dE`` from each point to the end of its step, and over the step, of q at points."""
        return self.panels.to_the_end(q * self.rate, self.length)


def relaxation(
    part: GaussianPart,
    schedules: Sequence[EpsilonSchedule],
    panels: Panels,
    times: Tensor,
    widths: Tensor,
    scales: tuple[Tensor, Tensor],
    *,
    open_ends: bool,
) -> Relaxation:
    """Integrate ε over some steps.

    Args:
        part: the Gaussian part of the process.
        schedules: one ε for each group.
        panels: of the steps.
        times: their points r, ``(S, K)``.
        widths: of the steps, signed, ``(S,)``.
        scales: β and σ̂ at the points.
        open_ends: whether the ends are left out, so that an integral may diverge there.
    """
    beta, sigma = scales
    flat, h = times.reshape(-1), widths.abs()
    bound = [schedule.bound(part, times, widths) for schedule in schedules]
    ratio = torch.stack([s.over_noise_scale(flat, sigma.reshape(-1)) for s in bound], -1)
    noisy = part.scale_sq(times)[..., None] > _ZERO_SQ
    ratio = torch.where(noisy, ratio.view(*times.shape, -1), 0.0)  # ε/σ̂
    rate = ratio / sigma[..., None]
    rest, whole = panels.to_the_end(rate, h)
    rest_u, whole_u = panels.to_the_end(ratio / beta[..., None], h)
    _, variance = panels.to_the_end(2 * ratio * (sigma / beta.square())[..., None], h)
    diverges = torch.zeros_like(widths, dtype=torch.bool)
    if open_ends:
        # The integral has a logarithm where its rate is like one over the distance to an end.
        distance = torch.minimum(panels.fraction, 1 - panels.fraction)[:, None] * h[:, None, None]
        at_ends = (ratio / beta[..., None] * distance)[:, [0, -1]]
        diverges = (at_ends > 1e-3 * beta.amax()).any(-1).any(-1)
        diverges |= ~torch.isfinite(whole_u).all(-1)
    return Relaxation(rest, rest_u, whole, whole_u, variance, diverges, rate, panels, h)
