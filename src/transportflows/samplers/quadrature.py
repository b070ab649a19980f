r"""Weights of exponential integrators, for any one-sided process, ε and grid.

With ``x' = x - α m``, ``u = σ̂/β``, ``λ = -log u`` and ``E = ∫ ε/σ̂²`` along the motion, the
sampling equation ``dX = (b ± ε s) dt + √(2ε) dW`` is linear in x' once a prediction is given, and
over a step from s to t (either way in time) it is

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

where the last is the linear path ``(1 - s) d + s η̂`` in the clock ``s = σ̂/(β + σ̂)``. With the
prediction interpolated by polynomials in a variable τ through its values at some times, the weights
are ``∫ L_j(τ_r) dQ_r``.

The integrals are of Stieltjes type, and are done as such: Q and L are interpolated on panels by
polynomials through Chebyshev-Lobatto points, where ``∫ ℓ_a dℓ_b`` are constants. No derivative of
the path is needed, the sum of the weights is the increment of Q to rounding, and where Q jumps at
the end of a step (``σ̂ = 0``, where λ is infinite: the step lands on the extrapolated data
prediction) the jump falls on the value of L there. Panels are halved towards both ends of a step,
so that roots and logarithms there do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.polynomial import chebyshev, legendre
from torch import Tensor

from ..gaussian_part import GaussianPart
from ..solve.epsilon import EpsilonSchedule

__all__ = ["FORMS", "VARIABLES", "Integrals", "Variable", "integrals", "lagrange", "levels"]

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

_POINTS = 12
_PANELS, _PANELS_NOISY, _PANELS_SINGULAR = 3, 8, 40  # halvings towards each end
_TINY = 1e-150
_ZERO_SQ = 1e-24  # where a process takes its noise for none
_HUGE = 1e4


def levels(*, noisy: bool, singular: bool) -> int:
    """How often the panels of a step are halved towards each of its ends."""
    if singular:
        return _PANELS_SINGULAR
    return _PANELS_NOISY if noisy else _PANELS


@lru_cache(maxsize=1)
def _rules() -> tuple[Tensor, Tensor, Tensor]:
    """Points on [0, 1]; ``∫ ℓ_a dℓ_b``, ``(n, n)``; ``∫_0^{c_a} ℓ_b dc``, ``(n, n)``."""
    n = _POINTS
    points = -np.cos(np.pi * np.arange(n) / (n - 1))
    to_series = np.linalg.inv(chebyshev.chebvander(points, n - 1))  # column b: series of ℓ_b
    nodes, weights = legendre.leggauss(n)
    values = chebyshev.chebval(nodes, to_series).T  # (node, a)
    slopes = chebyshev.chebval(nodes, chebyshev.chebder(to_series)).T
    both = np.einsum("q,qa,qb->ab", weights, values, slopes)
    antiderivative = chebyshev.chebint(to_series, lbnd=-1)
    partial = 0.5 * chebyshev.chebval(points, antiderivative).T
    return torch.from_numpy(0.5 * (points + 1)), torch.from_numpy(both), torch.from_numpy(partial)


@lru_cache(maxsize=8)
def _edges(halvings: int, open_ends: bool) -> Tensor:
    """Edges of the panels of [0, 1], halved towards both ends; short of the ends if they are open.

    Open ends leave out ``2^-halvings``, where a function may be infinite.
    """
    near = [0.5**k for k in range(halvings, 0, -1)]
    edges = near + [1 - e for e in reversed(near[:-1])]
    if not open_ends:
        edges = [0.0, *edges, 1.0]
    return torch.tensor(edges, dtype=torch.float64)


def lagrange(nodes: Tensor, points: Tensor) -> Tensor:
    """The Lagrange basis through ``nodes`` ``(S, J)`` at ``points`` ``(S, K)``: ``(S, J, K)``."""
    count = nodes.shape[1]
    columns = []
    for j in range(count):
        column = torch.ones_like(points)
        for m in range(count):
            if m != j:
                column = column * (
                    (points - nodes[:, m : m + 1]) / (nodes[:, j : j + 1] - nodes[:, m : m + 1])
                )
        columns.append(column)
    return torch.stack(columns, 1)


@dataclass
class Integrals:
    """The geometry of some steps: what is needed for their weights.

    Attributes:
        starts: ``(S,)``.
        stops: ``(S,)``.
        r: times inside, ``(S, K)``, and ``beta``, ``sigma`` there.
        relaxed: ``E_t - E_r`` there, ``(S, K, G)``; None for an ODE.
        spread: ``∫_r^t u dE`` there, likewise.
        ends: β and σ̂ at the starts and at the stops, four of ``(S,)``.
        total: of ``ΔE``, ``∫ u dE`` and ``∫ 2u² dE``, each ``(S, G)``; None for an ODE.
        diverges: whether ``∫ u dE`` does, ``(S,)``.
    """

    starts: Tensor
    stops: Tensor
    r: Tensor
    beta: Tensor
    sigma: Tensor
    relaxed: Tensor | None
    spread: Tensor | None
    ends: tuple[Tensor, Tensor, Tensor, Tensor]
    total: tuple[Tensor, Tensor, Tensor] | None
    diverges: Tensor
    groups: int

    @cached_property
    def transfer(self) -> dict[str, Tensor]:
        """The weight of x' by form, ``(S, G)``."""
        beta_s, sigma_s, beta_t, sigma_t = self.ends
        lost = torch.zeros(len(beta_s), self.groups, dtype=torch.float64, device=beta_s.device)
        lost = lost if self.total is None else self.total[0]
        log = (sigma_t.clamp(min=_TINY).log() - sigma_s.clamp(min=_TINY).log())[:, None] - lost
        return {
            "data": torch.where((sigma_t == 0)[:, None], 0.0, log.exp()),
            "noise": (beta_t / beta_s)[:, None].expand_as(lost),
            "velocity": ((beta_t + sigma_t) / (beta_s + sigma_s))[:, None].expand_as(lost),
        }

    def variance(self, form: str) -> Tensor | None:
        """The variance of the noise of each step, ``(S, G)``; None for an ODE."""
        if self.total is None:
            return None
        if form == "data":
            return -self.ends[3].square()[:, None] * torch.expm1(-2 * self.total[0])
        return self.ends[2].square()[:, None] * self.total[2]

    def usable(self, form: str) -> Tensor:
        """Whether a form is regular over each step, ``(S,)``."""
        if form == "velocity" and self.total is not None:
            return torch.zeros_like(self.diverges)
        fine = (self.transfer[form] <= _HUGE).all(-1)  # NaN is not <=
        return fine & ~self.diverges if form == "noise" else fine

    def _mass(self, form: str) -> tuple[Tensor, Tensor, Tensor]:
        """Q inside, at the starts and at the stops: ``(S, K, G)``, ``(S, G)``, ``(S, G)``."""
        beta_s, sigma_s, beta_t, sigma_t = (e[:, None] for e in self.ends)
        beta, sigma = self.beta, self.sigma
        shape = (*beta.shape, self.groups)
        wide = beta_s.expand(-1, self.groups)
        if form == "data":
            inside = (sigma_t * (beta / sigma))[..., None].expand(shape)
            first = torch.where(sigma_s > 0, sigma_t * beta_s / sigma_s.clamp(min=_TINY), 0.0)
            first = first.expand_as(wide)
            if self.relaxed is not None and self.total is not None:
                inside = inside * (-self.relaxed).exp()
                first = first * (-self.total[0]).exp()
            return inside, first, beta_t.expand_as(wide)
        if form == "noise":
            inside = (beta_t * (sigma / beta))[..., None].expand(shape)
            first = (beta_t * sigma_s / beta_s).expand_as(wide)
            if self.spread is not None and self.total is not None:
                inside = inside + beta_t[..., None] * self.spread
                first = first + beta_t * self.total[1]
            return inside, first, sigma_t.expand_as(wide)
        last = beta_t + sigma_t
        inside = (last * (sigma / (beta + sigma)))[..., None].expand(shape)
        first = (last * (sigma_s / (beta_s + sigma_s))).expand_as(wide)
        return inside, first, sigma_t.expand_as(wide)

    @torch.no_grad()
    def weights(
        self,
        form: str,
        variable: Variable,
        nodes: tuple[Tensor, Tensor, Tensor],
        pick: Tensor,
        *,
        midpoint: bool = False,
    ) -> Tensor:
        """``∫ L_j dQ`` for some of the steps, ``(S', J, G)``.

        Args:
            form: one of :data:`FORMS`.
            variable: what is interpolated in; t where its values at nodes or ends are no good.
            nodes: times of the predictions and β, σ̂ there, each ``(S', J)``.
            pick: which steps, ``(S',)``.
            midpoint: take the basis at the middle of the step in the variable, times ``∫ dQ``, in
                place of the integral, where the variable serves.
        """
        inside, first, last = (q[pick] for q in self._mass(form))
        beta_s, sigma_s, beta_t, sigma_t = (e[pick, None] for e in self.ends)
        times = torch.cat([self.starts[pick, None], self.stops[pick, None]], 1)
        at_ends = variable(times, torch.cat([beta_s, beta_t], 1), torch.cat([sigma_s, sigma_t], 1))
        at_nodes = variable(*nodes)
        points = variable(self.r[pick], self.beta[pick], self.sigma[pick])
        # In the order of time the values must be finite and strictly monotone.
        order = nodes[0].argsort(1)
        gaps = at_nodes.gather(1, order).diff(dim=1)
        good = torch.isfinite(at_nodes).all(1) & torch.isfinite(at_ends).all(1)
        good &= (gaps > 0).all(1) | (gaps < 0).all(1)
        good &= at_nodes.abs().amax(1) < 1e8
        good = good[:, None]
        at_nodes = torch.where(good, at_nodes, nodes[0])
        points = torch.where(good, points, self.r[pick])
        at_ends = torch.where(good, at_ends, times)

        basis = lagrange(at_nodes, torch.cat([points, at_ends], 1))  # (S', J, K + 2)
        _, both, _ = _rules()
        panels = inside.view(len(inside), -1, _POINTS, self.groups)
        pushed = torch.einsum("ab,spbg->spag", both.to(panels), panels).flatten(1, 2)
        total = torch.einsum("sjk,skg->sjg", basis[..., :-2], pushed)
        total = total + basis[:, :, -2, None] * (inside[:, 0] - first)[:, None]
        total = total + basis[:, :, -1, None] * (last - inside[:, -1])[:, None]
        if midpoint:
            middle = lagrange(at_nodes, at_ends.mean(1, keepdim=True))  # (S', J, 1)
            total = torch.where(good[..., None], middle * (last - first)[:, None], total)
        return total


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
    c, _, partial = (rule.to(starts) for rule in _rules())
    edges = _edges(halvings, open_ends).to(starts)
    widths = edges.diff()
    fraction = (edges[:-1, None] + widths[:, None] * c).reshape(-1)
    h = stops - starts
    # From the nearer end, so that distances to it keep their digits.
    near = torch.where(fraction < 0.5, fraction, 0.0)
    r = torch.where(
        fraction < 0.5,
        starts[:, None] + h[:, None] * near,
        stops[:, None] - h[:, None] * (1 - fraction),
    )
    path = part.path
    # Nothing is divided by 0 where r is the end itself, to rounding.
    beta, square = path.beta(r).clamp(min=_TINY), part.scale_sq(r)
    sigma = square.clamp(min=0).sqrt().clamp(min=_TINY)
    ends = (
        path.beta(starts),
        part.scale(starts),
        path.beta(stops),
        part.scale(stops),
    )
    diverges = torch.zeros_like(starts, dtype=torch.bool)
    if all(schedule.is_zero for schedule in schedules):
        return Integrals(
            starts, stops, r, beta, sigma, None, None, ends, None, diverges, len(schedules)
        )

    flat, scale = r.reshape(-1), sigma.reshape(-1)
    bound = [schedule.bound(part, r, h) for schedule in schedules]
    over = torch.stack([s.over_noise_scale(flat, scale) for s in bound], -1)
    over = torch.where(square[..., None] > _ZERO_SQ, over.view(*r.shape, -1), 0.0)
    length = (h.abs()[:, None] * widths)[..., None, None]  # of the panels

    def panelled(values: Tensor) -> Tensor:
        return values.view(len(h), len(widths), _POINTS, -1)

    def to_the_end(rate: Tensor) -> tuple[Tensor, Tensor]:
        """``∫_r^t`` of a rate, and over the whole step."""
        inner = torch.einsum("ab,spbg->spag", partial, panelled(rate)) * length
        each = inner[:, :, -1:]
        after = each.flip(1).cumsum(1).flip(1) - each  # of the panels behind
        rest = (after + each - inner).clamp(min=0)
        return rest.flatten(1, 2), rest[:, 0, 0]

    relaxed, whole = to_the_end(over / sigma[..., None])
    spread, spread_whole = to_the_end(over / beta[..., None])
    _, variance = to_the_end(2 * over * (sigma / beta.square())[..., None])
    if open_ends:
        # ∫ u dE has a logarithm where its rate is like one over the distance to the end.
        distance = torch.minimum(fraction, 1 - fraction)[None, :, None] * h.abs()[:, None, None]
        at = (over / beta[..., None] * distance)[:, [0, -1]]
        diverges = (at > 1e-3 * beta.amax()).any(-1).any(-1) | ~torch.isfinite(spread_whole).all(-1)
    return Integrals(
        starts,
        stops,
        r,
        beta,
        sigma,
        relaxed,
        spread,
        ends,
        (whole, spread_whole, variance),
        diverges,
        len(schedules),
    )
