r"""Weights of exponential integrators, for any process with a Gaussian part, any ε and any grid.

Write ``x' = x - α m``, ``u = σ̂/β`` for the noise level, ``λ = -log u``, and E for the integral of
``ε/σ̂²`` along the motion. The sampling equation ``dX = (b ± ε s) dt + √(2ε) dW`` is linear in x'
and in one prediction of a network, of the data d or of the noise η̂. So over a step from s to t
(either way in time) it is solved but for one integral, of the prediction against a known Q:

.. math::
    x'_t &= \frac{\sigma_t}{\sigma_s} e^{-\Delta E} x'_s + \int_s^t d \, dQ + \ldots,
        \qquad Q_r = \sigma_t \frac{\beta_r}{\sigma_r} e^{-(E_t - E_r)}
        && \text{(data, variance } \sigma_t^2 (1 - e^{-2 \Delta E})) \\
    x'_t &= \frac{\beta_t}{\beta_s} x'_s + \int_s^t \hat\eta \, dQ + \ldots,
        \qquad Q_r = \beta_t \Big(u_r + \int_r^t u \, dE\Big)
        && \text{(noise, variance } \beta_t^2 \textstyle\int 2 u^2 dE) \\
    x'_t &= \frac{\beta_t + \sigma_t}{\beta_s + \sigma_s} x'_s + \int_s^t (\hat\eta - d) \, dQ,
        \qquad Q_r = (\beta_t + \sigma_t) \frac{\sigma_r}{\beta_r + \sigma_r}
        && \text{(velocity, } \varepsilon = 0)

The dots are Gaussian noise of the variance at the right. The last form is the velocity of the
linear path ``(1 - s) d + s η̂`` in the clock ``s = σ̂/(β + σ̂)``.

The prediction is known at a few times only, where the network was called. It is taken for the
polynomial through these values in some *variable* τ of time; then its integral is the sum of the
values with the weights ``∫ L_j(τ_r) dQ_r``, L_j being the Lagrange basis.

With ε > 0 Q is the sum of two, ``dQ = dP + dR``: the transport P, and what the relaxation takes,
``dR = Q dE`` for the data and ``-β_t u dE`` for the noise. Successive predictions carry noise of
their own, which a polynomial would multiply. Where the data are wide beside the noise, a step
``x⁺ = r x + (1 - r)[(1 + a) d_n - a d_{n-1}] + σ̂ √(1 - r²) z``, ``r = e^{-ΔE}``, has the variance
``(1 + r)/(2 (1 - a (1 - r)))`` times the right one: for every r only ``a = ½`` is right. So R has
the weights 3/2 and -1/2 on the two newest predictions known at its start (1 where there is one),
and is no part of a correction; and P has them too for the share ``1 - e^{-2ΔE}`` of the noise that
the step, or the one before it, renews.

Those integrals are done from values of L and P alone (:mod:`transportflows.samplers.panels`). So
no derivative of the path is needed, and the sum of the weights is the increment of Q to rounding.
Where σ̂ = 0 at the end of a step, λ is infinite there and Q jumps: the jump is multiplied by L at
that end, and so the step lands on the extrapolated data prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..gaussian_part import GaussianPart
from ..solve.epsilon import EpsilonSchedule
from .panels import Panels, against, lagrange
from .relaxation import Relaxation, relaxation

__all__ = ["FORMS", "VARIABLES", "Integrals", "Variable", "integrals", "levels"]

FORMS = ("data", "noise", "velocity")
"""What an exponential integrator takes to vary slowly."""

Variable = Callable[[Tensor, Tensor, Tensor], Tensor]

VARIABLES: dict[str, Variable] = {
    "lambda": lambda t, beta, sigma: (beta / sigma).log(),
    "u": lambda t, beta, sigma: sigma / beta,
    "t": lambda t, beta, sigma: t,
    "linear": lambda t, beta, sigma: sigma / (beta + sigma),
    "asinh": lambda t, beta, sigma: torch.asinh(sigma / beta),
}
"""What predictions are interpolated in, from t, β and σ̂: ``λ = log(β/σ̂)``, ``u = σ̂/β``, t,
``σ̂/(β + σ̂)`` (which is 1 - t for a linear path), and ``asinh u``."""

_PANELS, _PANELS_NOISY, _PANELS_SINGULAR = 3, 8, 40  # halvings towards each end
_TINY = 1e-150
_HUGE = 1e4
_CALM = 0.1  # relaxation in a step, beyond which the noise form gives way to the data form


def levels(*, noisy: bool, singular: bool) -> int:
    """How often the panels of a step are halved towards each of its ends."""
    if singular:
        return _PANELS_SINGULAR
    return _PANELS_NOISY if noisy else _PANELS


@dataclass
class Integrals:
    """What the weights of S steps are made from: the path and ε at K points of each.

    Attributes:
        starts: times at which the steps start, ``(S,)``.
        stops: times at which they stop, ``(S,)``.
        r: times of the points, ``(S, K)``.
        beta: β there, likewise.
        sigma: σ̂ there, likewise.
        ends: β and σ̂ at the starts, β and σ̂ at the stops: four of ``(S,)``.
        groups: G, the number of schedules ε.
        relaxation: integrals of ε; None for an ODE.
    """

    starts: Tensor
    stops: Tensor
    r: Tensor
    beta: Tensor
    sigma: Tensor
    ends: tuple[Tensor, Tensor, Tensor, Tensor]
    groups: int
    relaxation: Relaxation | None

    @cached_property
    def transfer(self) -> dict[str, Tensor]:
        """The weight of x' by form, ``(S, G)``."""
        beta_s, sigma_s, beta_t, sigma_t = self.ends
        lost = torch.zeros(len(beta_s), self.groups, dtype=torch.float64, device=beta_s.device)
        lost = lost if self.relaxation is None else self.relaxation.whole
        log = (sigma_t.clamp(min=_TINY).log() - sigma_s.clamp(min=_TINY).log())[:, None] - lost
        return {
            "data": torch.where((sigma_t == 0)[:, None], 0.0, log.exp()),
            "noise": (beta_t / beta_s)[:, None].expand_as(lost),
            "velocity": ((beta_t + sigma_t) / (beta_s + sigma_s))[:, None].expand_as(lost),
        }

    def variance(self, form: str) -> Tensor:
        """The variance of the noise of each step, ``(S, G)``."""
        if self.relaxation is None:
            return torch.zeros_like(self.transfer[form])
        if form == "data":
            return -self.ends[3].square()[:, None] * torch.expm1(-2 * self.relaxation.whole)
        return self.ends[2].square()[:, None] * self.relaxation.variance

    @cached_property
    def renewed(self) -> Tensor:
        """The share of the noise that each step, or the one before it, renews, ``(S, G)``."""
        assert self.relaxation is not None
        whole = self.relaxation.whole
        return -torch.expm1(-2 * torch.maximum(whole, torch.cat([whole[:1], whole[:-1]])))

    @cached_property
    def calm(self) -> Tensor:
        """Whether a step relaxes little enough for the noise form, ``(S,)``."""
        if self.relaxation is None:
            return torch.ones_like(self.starts, dtype=torch.bool)
        return (self.relaxation.whole <= _CALM).all(-1)

    def usable(self, form: str) -> Tensor:
        """Whether a form is regular over each step, ``(S,)``."""
        fine = (self.transfer[form] <= _HUGE).all(-1)  # NaN is not <=
        if self.relaxation is None or form == "data":
            return fine
        return fine & ~self.relaxation.diverges & (form != "velocity")

    def _mass(self, form: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """P at the points ``(S, K, G)``, at the starts and at the stops, and R, ``(S, G)``."""
        beta_s, sigma_s, beta_t, sigma_t = (e[:, None] for e in self.ends)
        beta, sigma, relaxed = self.beta, self.sigma, self.relaxation
        whole = torch.zeros_like(self.transfer[form])
        if form == "data":
            inside = (sigma_t * (beta / sigma))[..., None]
            first = torch.where(sigma_s > 0, sigma_t * beta_s / sigma_s.clamp(min=_TINY), 0.0)
            last = beta_t
            if relaxed is not None:
                inside = inside * (-relaxed.rest).exp()
                rest, whole = relaxed.of(inside)
                inside = inside + rest
                first = first * (-relaxed.whole).exp() + whole
        elif form == "noise":
            inside = (beta_t * (sigma / beta))[..., None]
            first, last = beta_t * sigma_s / beta_s, sigma_t
            if relaxed is not None:
                whole = -beta_t * relaxed.whole_u
        else:
            total = beta_t + sigma_t
            inside = (total * (sigma / (beta + sigma)))[..., None]
            first, last = total * (sigma_s / (beta_s + sigma_s)), sigma_t
        inside = inside.expand(*beta.shape, self.groups)
        return inside, first.expand_as(whole), last.expand_as(whole), whole

    @torch.no_grad()
    def weights(
        self,
        form: str,
        variable: Variable,
        nodes: tuple[Tensor, Tensor, Tensor],
        pick: Tensor,
        *,
        midpoint: bool = False,
        ahead: int = 0,
    ) -> Tensor:
        """``∫ L_j dP``, and the shares of R, for some of the steps, ``(S', J, G)``.

        Args:
            form: one of :data:`FORMS`.
            variable: what is interpolated in; t where its values at nodes or ends are no good.
            nodes: times of the predictions and β, σ̂ there, each ``(S', J)``.
            pick: which steps, ``(S',)``.
            midpoint: take the basis at the middle of the step in the variable, times ``∫ dP``, in
                place of the integral, where the variable serves.
            ahead: how many of the nodes lie beyond the start of the step: 1 for a correction.
        """
        inside, first, last, relaxed = (q[pick] for q in self._mass(form))
        at_nodes, points, at_ends, good = self._in_variable(variable, nodes, pick)
        basis = lagrange(at_nodes, torch.cat([points, at_ends], 1))  # (S', J, K + 2)
        total = torch.einsum("sjk,skg->sjg", basis[..., :-2], against(inside))
        total = total + basis[:, :, -2, None] * (inside[:, 0] - first)[:, None]
        total = total + basis[:, :, -1, None] * (last - inside[:, -1])[:, None]
        if midpoint:
            middle = lagrange(at_nodes, at_ends.mean(1, keepdim=True))  # (S', J, 1)
            total = torch.where(good[..., None], middle * (last - first)[:, None], total)
        known = nodes[0].shape[1] - ahead
        lean = torch.zeros_like(total)  # for what the relaxation takes
        lean[:, ahead] = 1.5 if known > 1 else 1.0
        if known > 1:
            lean[:, ahead + 1] = -0.5
        if self.relaxation is not None and ahead == 0:
            total = torch.lerp(total, lean * (last - first)[:, None], self.renewed[pick, None])
        return total + lean * relaxed[:, None]

    def _in_variable(
        self, variable: Variable, nodes: tuple[Tensor, Tensor, Tensor], pick: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The variable at nodes, points and ends of the steps, and whether it is good, ``(S', 1)``.

        It must be finite and, in the order of time, strictly monotone; where it is not, t serves.
        """
        beta_s, sigma_s, beta_t, sigma_t = (e[pick, None] for e in self.ends)
        times = torch.cat([self.starts[pick, None], self.stops[pick, None]], 1)
        at_ends = variable(times, torch.cat([beta_s, beta_t], 1), torch.cat([sigma_s, sigma_t], 1))
        at_nodes = variable(*nodes)
        points = variable(self.r[pick], self.beta[pick], self.sigma[pick])
        gaps = at_nodes.gather(1, nodes[0].argsort(1)).diff(dim=1)
        good = torch.isfinite(at_nodes).all(1) & torch.isfinite(at_ends).all(1)
        good &= (gaps > 0).all(1) | (gaps < 0).all(1)
        good = (good & (at_nodes.abs().amax(1) < 1e8))[:, None]
        return (
            torch.where(good, at_nodes, nodes[0]),
            torch.where(good, points, self.r[pick]),
            torch.where(good, at_ends, times),
            good,
        )


@torch.no_grad()
def integrals(
    part: GaussianPart,
    schedules: Sequence[EpsilonSchedule],
    starts: Tensor,
    stops: Tensor,
    *,
    halvings: int,
    open_ends: bool,
) -> Integrals:
    """Tabulate some steps, ``(S,)`` each.

    Args:
        part: the Gaussian part of the process.
        schedules: one ε for each group.
        starts: times at which the steps start.
        stops: times at which they stop.
        halvings: of the panels towards each end.
        open_ends: leave out the ends themselves, where β or σ̂ vanishes.
    """
    panels, path = Panels(halvings, open_ends, starts), part.path
    r = panels.times(starts, stops)
    # Nothing is divided by 0 where r is the end itself, to rounding.
    beta = path.beta(r).clamp(min=_TINY)
    sigma = part.scale_sq(r).clamp(min=0).sqrt().clamp(min=_TINY)
    ends = path.beta(starts), part.scale(starts), path.beta(stops), part.scale(stops)
    relaxed = None
    if not all(schedule.is_zero for schedule in schedules):
        h = stops - starts
        relaxed = relaxation(part, schedules, panels, r, h, (beta, sigma), open_ends=open_ends)
    return Integrals(starts, stops, r, beta, sigma, ends, len(schedules), relaxed)
