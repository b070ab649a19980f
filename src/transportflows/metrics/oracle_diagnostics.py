r"""Diagnostics of a field against an oracle: where in time it errs, and what that costs.

**With an oracle**, δb = b̂ - b and δs = ŝ - s are known on the law of x_t, and so is what they do to
the law that is sampled. With the ODE (Albergo, Boffi and Vanden-Eijnden 2023, lemma 2.19),

.. math:: KL(\rho_1 \| \hat\rho_1) = \int_0^1 E_{\rho_t}
          \bigl[(\nabla \log \hat\rho_t - \nabla \log \rho_t) \cdot \delta b\bigr] dt,

where the score of the model's own law enters, which a small δb does not bound. With the SDE,

.. math:: KL(\rho_1 \| \hat\rho_1) \le \frac{1}{4 \varepsilon} \int_0^1 E|\delta b
          + \varepsilon\, \delta s|^2 dt
          = \frac{B}{4 \varepsilon} + \frac{C}{2} + \frac{\varepsilon S}{4},

with B, S and C the integrals of E|δb|², E|δs|² and E[δb · δs]. It is least at
:math:`\varepsilon^* = \sqrt{B/S} = \sqrt{\Delta L_b / \Delta L_s}` (the score loss unweighted), and
for ε that may vary with time, at :math:`\varepsilon^*(t) = \sqrt{E|\delta b|^2 / E|\delta s|^2}`.
S diverges for a learned noise whose error does not vanish where σ̂ does, so the integrals run over
``[margin, 1 - margin]``, and the margin belongs to the number. **Without an oracle** the minima of
the losses are unknown and none of this can be estimated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.precision import wide, widest_dtype
from .._core.random import draw_key, stream
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..fields.base import Field
from ..likelihood import log_likelihood
from ..oracles import GaussianMixtureOracle
from .divergences import kl_log_densities
from .estimates import Estimate

__all__ = ["KLIdentity", "OracleErrors", "ode_kl_identity", "oracle_errors"]


@checked
@dataclass(frozen=True, eq=False)
class OracleErrors:
    """Mean squared errors of a field against its oracle, by time.

    Attributes:
        t: quadrature nodes on ``[margin, 1 - margin]``, ``(T,)``, float64, as all.
        weights: of the nodes, ``(T,)``, of sum ``1 - 2 margin``.
        velocity: ``E|δb|²``, ``(T,)``.
        score: ``E|δs|²``, ``(T,)``.
        cross: ``E[δb · δs]``, ``(T,)``.
        velocity_error: standard error of the first, ``(T,)``.
        score_error: of the second, ``(T,)``.
        margin: distance kept from both ends of time.
    """

    t: Tensor
    weights: Tensor
    velocity: Tensor
    score: Tensor
    cross: Tensor
    velocity_error: Tensor
    score_error: Tensor
    margin: float

    __repr__ = summary

    @property
    def velocity_integral(self) -> float:
        """B, twice the excess of the velocity loss for uniform times within the margin."""
        return float(self.weights @ self.velocity)

    @property
    def score_integral(self) -> float:
        """S, twice the excess of the unweighted score loss."""
        return float(self.weights @ self.score)

    @property
    def epsilon_star(self) -> float:
        """The constant ε at which the bound is least, ``√(B/S)``.

        Infinite for a score without error, for then the bound falls with ε for ever, and NaN where
        the velocity has none either, for then it is 0 at every ε.
        """
        b, s = self.velocity_integral, self.score_integral
        if s == 0:
            return math.inf if b > 0 else math.nan
        return math.sqrt(b / s)

    @property
    def epsilon_by_time(self) -> Tensor:
        """The ε(t) at which the bound is least, ``√(E|δb|² / E|δs|²)`` at each time."""
        return (self.velocity / self.score).sqrt()

    def bound(self, epsilon: float) -> float:
        """``(1/4ε) ∫ E|δb + ε δs|² dt`` in nats: KL of the SDE's law at t = 1 is at most this.

        Of the time inside the margins, with the same start.

        Raises:
            ValueError: if ε is not positive.
        """
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}; the ODE has no such bound")
        integrand = self.velocity + 2 * epsilon * self.cross + epsilon**2 * self.score
        return float(self.weights @ integrand) / (4 * epsilon)


@checked
@dataclass(frozen=True)
class KLIdentity:
    """Both sides of the KL identity of the ODE.

    Attributes:
        kl: ``KL(ρ1 || ρ̂1)`` from log-densities at draws of ρ1.
        integral: the time integral on the right, from draws of ρ_t at each node.
    """

    kl: Estimate
    integral: Estimate

    __repr__ = summary


@checked
@torch.no_grad()
def oracle_errors(
    field: Field,
    oracle: GaussianMixtureOracle,
    *,
    n: int = 4_096,
    times: int = 32,
    margin: float = 1e-3,
    cond: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> OracleErrors:
    r"""Return E|δb|², E|δs|² and E[δb · δs] by time, on exact draws of ρ_t.

    Gauss-Legendre nodes in time, n independent draws at each; unbiased.

    Args:
        field: the field; where it has a transform, everything is in the network's units, in which
            the oracle must be too.
        oracle: the exact field of the same process.
        n: draws at each time, at least 2.
        times: number of nodes.
        margin: distance from both ends of time: the score's error may diverge there, so it belongs
            to every number that rests on it.
        cond: the condition for the network under which the law is the oracle's; tensors have n
            rows.
        dtype: of the states; that of the networks by default.
        generator: source of the draws.

    Raises:
        ConversionError: if the field has no score.
        ValueError: if the margin does not lie in [0, 0.5), ``n`` is below 2 or ``times`` below 1.

    Source: Albergo, Boffi and Vanden-Eijnden (2023), section 2.4; their talk, "Bounding the KL".
    """
    if not 0 <= margin < 0.5:
        raise ValueError(f"margin must lie in [0, 0.5), got {margin}; 1e-3 is usual")
    _check_counts(n, times)
    nodes, weights = _gauss_legendre(times, margin, 1 - margin)
    like, key = field.reference(), draw_key(generator)
    like = like if dtype is None else like.to(dtype)
    known = field.check_conditions(cond, n, device=like.device)
    rows = []
    for k, t in enumerate(nodes.tolist()):
        time = torch.tensor(t, dtype=widest_dtype(like.device), device=like.device)
        draws = stream(key, k, device=like.device)
        x = oracle.sample(t, n, generator=draws, dtype=like.dtype, device=like.device)
        db = wide(field.velocity(time, x, known) - oracle.velocity(time, x))
        ds = wide(field.score(time, x, known) - oracle.score(time, x))
        b, s, c = (sum_events(u * v) for u, v in ((db, db), (ds, ds), (db, ds)))
        root = math.sqrt(n)
        means = (float(v.mean()) for v in (b, s, c))
        rows.append((*means, float(b.std()) / root, float(s.std()) / root))
    b, s, c, b_error, s_error = torch.tensor(rows, dtype=torch.float64).mT.unbind()
    return OracleErrors(nodes, weights, b, s, c, b_error, s_error, margin)


@torch.inference_mode(False)
@torch.enable_grad()
@checked
def ode_kl_identity(
    field: Field,
    oracle: GaussianMixtureOracle,
    *,
    n: int = 512,
    times: int = 12,
    steps: int = 40,
    cond: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float64,
    generator: torch.Generator | None = None,
) -> KLIdentity:
    r"""Return both sides of the KL identity of the ODE: is what is lost where it should be?

    The score of the model's law at time t is the gradient of its log-density there, through a
    solve back to t = 0 (RK4, exact divergence): ``O(times · n · steps · D)`` evaluations and their
    derivatives. Both starts are the same law, so no term is left at t = 0.

    Args:
        field: the field, without a transform; its networks are taken in the dtype given.
        oracle: the exact field of the same process.
        n: draws at each node of time, and of ρ1, at least 2.
        times: Gauss-Legendre nodes on [0, 1].
        steps: RK4 steps of a solve over [0, 1].
        cond: the condition for the network under which the law is the oracle's; tensors have n
            rows.
        dtype: of the states; float64 needs a field in float64.
        generator: source of the draws.

    Raises:
        ValueError: if the field has a transform, ``n`` is below 2 or ``times`` below 1.

    Source: Albergo, Boffi and Vanden-Eijnden (2023), lemma 2.19.
    """
    if field.transform is not None:
        raise ValueError(
            "the field has a transform, and its velocity and the oracle's are in the network's"
            " units while its log-densities are in the data's; give a field in units of its own,"
            " such as Velocity(field.net, field.process), with the oracle in them"
        )
    _check_counts(n, times)
    nodes, weights = _gauss_legendre(times, 0.0, 1.0)
    device, key = field.reference().device, draw_key(generator)
    known = field.check_conditions(cond, n, device=device)
    total, variance = 0.0, 0.0
    for k, (t, weight) in enumerate(zip(nodes.tolist(), weights.tolist(), strict=True)):
        draws = stream(key, k, device=device)
        x = oracle.sample(t, n, generator=draws, dtype=dtype, device=device).requires_grad_()
        count = max(2, math.ceil(steps * t))
        model = log_likelihood(field, x, t=t, cond=cond, scheme="rk4", steps=count, gradients=True)
        (model_score,) = torch.autograd.grad(model.log_prob.sum(), x)
        with torch.no_grad():
            y = x.detach()
            time = torch.tensor(t, dtype=widest_dtype(device), device=device)
            db = field.velocity(time, y, known) - oracle.velocity(time, y)
            terms = wide(sum_events((model_score - oracle.score(time, y)) * db))
        total += weight * float(terms.mean())
        variance += weight**2 * float(terms.var()) / n
    x = oracle.sample(1.0, n, generator=stream(key, times), dtype=dtype, device=device)
    one = torch.tensor(1.0, dtype=widest_dtype(device), device=device)
    log_q = log_likelihood(field, x, cond=cond, scheme="rk4", steps=steps).log_prob
    kl = kl_log_densities(oracle.log_prob(one, x), log_q)
    return KLIdentity(kl, Estimate(total, math.sqrt(variance), n * times))


def _check_counts(n: int, times: int) -> None:
    if n < 2:
        raise ValueError(f"n must be at least 2, for an error bar; got {n}")
    if times < 1:
        raise ValueError(f"times must be positive, got {times}; one node of time is the least")


def _gauss_legendre(count: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    from scipy import special

    nodes, weights = (torch.as_tensor(v) for v in special.roots_legendre(count))
    return low + (high - low) * 0.5 * (nodes + 1), 0.5 * (high - low) * weights
