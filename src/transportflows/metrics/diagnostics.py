r"""Diagnostics of a trained field: where in time it errs, and what that costs.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transportflows._checks import check_finite_rows
from transportflows._random import draw_key, stream
from transportflows._tensor import sum_events
from transportflows.conversions import ConversionError, conversion
from transportflows.fields import Field
from transportflows.likelihood import log_likelihood
from transportflows.losses import Regression
from transportflows.metrics.divergences import kl_log_densities
from transportflows.metrics.estimates import Estimate
from transportflows.oracles import GaussianMixtureOracle
from transportflows.samplers import sample
from transportflows.samplers.grid import time_grid

__all__ = [
    "Consistency",
    "KLIdentity",
    "LossByTime",
    "OracleErrors",
    "PathGeometry",
    "consistency",
    "error_by_nfe",
    "loss_by_time",
    "ode_kl_identity",
    "oracle_errors",
    "path_geometry",
]

_SOLVE_ERROR = 1e-3  # of the displacement: by how much the energy may be below it


@dataclass(frozen=True, eq=False)
class LossByTime:
    """A loss as a function of time.

    Attributes:
        t: times, ``(T,)``, float64, as all.
        loss: mean loss at each, ``(T,)``.
        standard_error: of each, ``(T,)``.
    """

    t: Tensor
    loss: Tensor
    standard_error: Tensor


@dataclass(frozen=True, eq=False)
class Consistency:
    r"""Whether a velocity and a score belong to one law.

    Attributes:
        t: times, ``(T,)``, float64, as all.
        difference: ``E|η̂_b - η̂|² / E|η̂|²``, η̂_b the noise that the velocity implies, ``(T,)``; NaN
            where a velocity implies none.
        stein: ``E[b · s + ∇ · b]``, which is 0 for the score of the law of x_t, ``(T,)``.
        stein_error: its standard error, ``(T,)``.
    """

    t: Tensor
    difference: Tensor
    stein: Tensor
    stein_error: Tensor


@dataclass(frozen=True)
class PathGeometry:
    """How straight the paths of the ODE are.

    Attributes:
        energy: ``E ∫ |b|² dt`` along the paths.
        displacement: ``E |X_1 - X_0|²``, at most the energy.
        straightness: ``E ∫ |b - (X_1 - X_0)|² dt``, their difference: 0 for straight paths at
            constant speed (Liu et al. 2022), to within the error of the solve.
        normalised: ``(energy - W) / W``, with W the least energy, the squared W2 of both ends: 0
            for the dynamic optimal transport (Tong et al. 2023). NaN unless W was given.
        standard_error: of the energy.
    """

    energy: float
    displacement: float
    straightness: float
    normalised: float
    standard_error: float


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
        """
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}; the ODE has no such bound")
        integrand = self.velocity + 2 * epsilon * self.cross + epsilon**2 * self.score
        return float(self.weights @ integrand) / (4 * epsilon)


@dataclass(frozen=True)
class KLIdentity:
    """Both sides of the KL identity of the ODE.

    Attributes:
        kl: ``KL(ρ1 || ρ̂1)`` from log-densities at draws of ρ1.
        integral: the time integral on the right, from draws of ρ_t at each node.
    """

    kl: Estimate
    integral: Estimate


@torch.no_grad()
def loss_by_time(
    field: Field,
    loss: Regression,
    data: Tensor,
    *,
    times: int | Sequence[float] = 20,
    generator: torch.Generator | None = None,
) -> LossByTime:
    """Return a regression loss at given times, on all data at each.

    Unbiased; the same data and base draws serve all times, so that the curve is smooth.

    Args:
        field: the field.
        loss: such as ``VelocityLoss()``; its own sampler of times is not used.
        data: ``(N, *)``, in the network's units: ``field.transform(data)`` where it has one.
        times: a number of midpoints of equal parts of [0, 1], or the times themselves.
        generator: source of the path samples.

    Raises:
        TypeError: if the loss is not a regression.
        ValueError: if the data are not finite.
    """
    if not isinstance(loss, Regression):
        raise TypeError(f"loss must be a regression, got {type(loss).__name__}")
    check_finite_rows(data, "data")
    nodes, key = _midpoints(times), draw_key(generator)
    means, errors = [], []
    for t in nodes.tolist():
        drawn = field.process.sample(
            data, t=t, antithetic=loss.antithetic, generator=stream(key, device=data.device)
        )
        value = loss.evaluate(field, drawn).double()
        means.append(value.mean())
        errors.append(value.std() / math.sqrt(value.numel()))
    return LossByTime(nodes, torch.stack(means).cpu(), torch.stack(errors).cpu())


def consistency(
    field: Field,
    data: Tensor,
    *,
    times: int | Sequence[float] = 9,
    probes: int = 1,
    generator: torch.Generator | None = None,
) -> Consistency:
    r"""Return how well a velocity and a score, learned apart, agree.

    Where x_t has a Gaussian part whose base is independent, a velocity implies the noise, which is
    compared with the learned one. Everywhere, by parts, :math:`E[b \cdot s + \nabla \cdot b] =
    \int \nabla \cdot (b \rho_t) = 0`, whose residual (with Hutchinson probes) tests the score
    against the law of the data along one direction, the velocity's.

    Args:
        field: a :class:`FieldPair`, or any field that has both a velocity and a score.
        data: ``(N, *)``, in the network's units: ``field.transform(data)`` where it has one.
        times: a number of midpoints of equal parts of [0, 1], or the times themselves.
        probes: Hutchinson probes of the divergence.
        generator: source of the path samples and probes.

    Raises:
        ConversionError: if the field has no score.
        ValueError: if the data are not finite.
    """
    check_finite_rows(data, "data")
    nodes, key = _midpoints(times), draw_key(generator)
    table: list[tuple[float, float, float]] = []
    for k, t in enumerate(nodes.tolist()):
        with torch.no_grad():
            drawn = field.process.sample(data, t=t, generator=stream(key, k, device=data.device))
            x, time = drawn.x, torch.tensor(t, dtype=torch.float64, device=data.device)
            noise, score = field.noise(time, x), field.score(time, x)
            velocity = field.velocity(time, x)
            difference = math.nan
            try:
                implied = _implied_noise(field, time, x, velocity)
                difference = float((implied - noise).square().sum() / noise.square().sum())
            except ConversionError:
                pass
            terms = sum_events(velocity * score)
            draws = stream(key, k, 1, device=x.device)
            for _ in range(probes):
                z = torch.randint(0, 2, x.shape, generator=draws, device=x.device).to(x) * 2 - 1
                change = torch.func.jvp(lambda y, s=time: field.velocity(s, y), (x,), (z,))[1]
                terms = terms + sum_events(z * change) / probes
        terms = terms.double()
        table.append((difference, float(terms.mean()), float(terms.std()) / math.sqrt(len(terms))))
    columns = torch.tensor(table, dtype=torch.float64)
    return Consistency(nodes, columns[:, 0], columns[:, 1], columns[:, 2])


@torch.no_grad()
def path_geometry(
    field: Field,
    n: int | None = None,
    *,
    start: Any | None = None,
    steps: int = 100,
    scheme: str = "rk4",
    least_energy: float | None = None,
    generator: torch.Generator | None = None,
) -> PathGeometry:
    r"""Return path energy and straightness of the ODE of a field.

    Simpson's rule over the steps; the error of the solve is that of the scheme. In the units of the
    data, also where the field has a transform.

    Args:
        field: a field with a velocity.
        n: number of paths.
        start: as in :func:`transportflows.sample`.
        steps: an even number of steps.
        scheme: fixed-step scheme.
        least_energy: squared W2 between both ends, for ``normalised``: such as
            ``wasserstein2(x0, x1) ** 2``.
        generator: source of the starts.

    Raises:
        ValueError: if the number of steps is odd or so small that the energy comes out below the
            displacement (by more than 0.1 %), or :func:`transportflows.sample` refuses.
    """
    if steps < 2 or steps % 2:
        raise ValueError(f"steps must be even and at least 2, for Simpson's rule; got {steps}")
    grid = time_grid(steps, breakpoints=field.process.interpolant.breakpoints)
    solved = sample(field, n, start=start, scheme=scheme, t=grid, save_at=grid, generator=generator)
    path = solved.trajectory
    if path is None:
        raise RuntimeError("the solve kept no trajectory")
    inside = path if field.transform is None else torch.stack([field.transform(x) for x in path])
    scale = 1.0 if field.transform is None else field.transform.scale.to(path)
    low, high = solved.margin
    speeds = torch.stack(
        [
            sum_events((scale * field.velocity(t.clamp(low, 1 - high), x)).square())
            for t, x in zip(grid.to(path.device), inside, strict=True)
        ]
    ).double()
    energy = _simpson(grid.to(speeds.device)) @ speeds
    displacement = float(sum_events((path[-1] - path[0]).double().square()).mean())
    mean = float(energy.mean())
    if not mean >= (1 - _SOLVE_ERROR) * displacement:
        raise ValueError(
            f"the energy came out as {mean:.4g}, below the displacement {displacement:.4g}, which"
            f" it cannot be: {steps} steps of {scheme!r} do not resolve the paths; give more steps"
        )
    excess = math.nan if least_energy is None else (mean - least_energy) / least_energy
    error = float(energy.std()) / math.sqrt(energy.numel())
    return PathGeometry(mean, displacement, mean - displacement, excess, error)


def error_by_nfe(
    field: Field,
    distance: Callable[[Tensor], float],
    *,
    n: int,
    schemes: Sequence[str] = ("euler", "heun", "rk4"),
    steps: Sequence[int] = (5, 10, 20, 40),
    epsilon: Any = 0.0,
    generator: torch.Generator | None = None,
) -> list[Mapping[str, Any]]:
    """Return a distance of the samples for each scheme and number of steps.

    All share their starts, so differences between rows are those of the solves.

    Args:
        field: the field.
        distance: of samples ``(n, *)`` in the units of the data, such as
            ``lambda x: wasserstein2(x, data)``.
        n: number of samples.
        schemes: fixed-step schemes.
        steps: numbers of steps.
        epsilon: as in :func:`transportflows.sample`.
        generator: source of the starts and of the noise.

    Returns:
        One row ``{"scheme", "steps", "nfe", "distance"}`` for each, by ascending NFE.
    """
    key = draw_key(generator)
    rows = []
    for scheme in schemes:
        for count in steps:
            solved = sample(
                field, n, epsilon=epsilon, scheme=scheme, steps=count, generator=stream(key)
            )
            value = float(distance(solved.x))
            rows.append({"scheme": scheme, "steps": count, "nfe": solved.nfe, "distance": value})
    return sorted(rows, key=lambda row: row["nfe"])


@torch.no_grad()
def oracle_errors(
    field: Field,
    oracle: GaussianMixtureOracle,
    *,
    n: int = 4_096,
    times: int = 32,
    margin: float = 1e-3,
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
    rows = []
    for k, t in enumerate(nodes.tolist()):
        time = torch.tensor(t, dtype=torch.float64, device=like.device)
        draws = stream(key, k, device=like.device)
        x = oracle.sample(t, n, generator=draws, dtype=like.dtype, device=like.device)
        db = (field.velocity(time, x) - oracle.velocity(time, x)).double()
        ds = (field.score(time, x) - oracle.score(time, x)).double()
        b, s, c = (sum_events(u * v) for u, v in ((db, db), (ds, ds), (db, ds)))
        root = math.sqrt(n)
        means = (float(v.mean()) for v in (b, s, c))
        rows.append((*means, float(b.std()) / root, float(s.std()) / root))
    b, s, c, b_error, s_error = torch.tensor(rows, dtype=torch.float64).mT.unbind()
    return OracleErrors(nodes, weights, b, s, c, b_error, s_error, margin)


def ode_kl_identity(
    field: Field,
    oracle: GaussianMixtureOracle,
    *,
    n: int = 512,
    times: int = 12,
    steps: int = 40,
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
    total, variance = 0.0, 0.0
    for k, (t, weight) in enumerate(zip(nodes.tolist(), weights.tolist(), strict=True)):
        draws = stream(key, k, device=device)
        x = oracle.sample(t, n, generator=draws, dtype=dtype, device=device).requires_grad_()
        count = max(2, math.ceil(steps * t))
        model = log_likelihood(field, x, t=t, scheme="rk4", steps=count, gradients=True)
        (model_score,) = torch.autograd.grad(model.log_prob.sum(), x)
        with torch.no_grad():
            time, y = torch.tensor(t, dtype=torch.float64, device=device), x.detach()
            db = field.velocity(time, y) - oracle.velocity(time, y)
            terms = sum_events((model_score - oracle.score(time, y)) * db).double()
        total += weight * float(terms.mean())
        variance += weight**2 * float(terms.var()) / n
    x = oracle.sample(1.0, n, generator=stream(key, times), dtype=dtype, device=device)
    one = torch.tensor(1.0, dtype=torch.float64, device=device)
    log_q = log_likelihood(field, x, scheme="rk4", steps=steps).log_prob
    kl = kl_log_densities(oracle.log_prob(one, x), log_q)
    return KLIdentity(kl, Estimate(total, math.sqrt(variance), n * times))


def _implied_noise(field: Field, t: Tensor, x: Tensor, velocity: Tensor) -> Tensor:
    """The noise that the velocity alone implies."""
    weights = conversion(field.process, ("velocity",), "noise", t)
    if any(not bool(torch.isfinite(w).all()) for w in weights.tensors()):
        raise ConversionError("singular here")
    total = torch.zeros_like(x)
    if weights.x is not None:
        total = total + weights.x.to(x) * x
    if weights.mean is not None and field.process.base_mean is not None:
        total = total + weights.mean.to(x) * field.process.base_mean.to(x)
    own = weights.outputs[0]
    return total if own is None else total + own.to(x) * velocity


def _midpoints(times: int | Sequence[float]) -> Tensor:
    if isinstance(times, int):
        if times < 1:
            raise ValueError(f"times must be positive, got {times}")
        return (torch.arange(times, dtype=torch.float64) + 0.5) / times
    return torch.as_tensor(times, dtype=torch.float64)


def _check_counts(n: int, times: int) -> None:
    if n < 2:
        raise ValueError(f"n must be at least 2, for an error bar; got {n}")
    if times < 1:
        raise ValueError(f"times must be positive, got {times}; one node of time is the least")


def _gauss_legendre(count: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    from scipy import special

    nodes, weights = (torch.as_tensor(v) for v in special.roots_legendre(count))
    return low + (high - low) * 0.5 * (nodes + 1), 0.5 * (high - low) * weights


def _simpson(grid: Tensor) -> Tensor:
    """Weights of the composite Simpson rule on pairs of intervals, of any widths."""
    weights = torch.zeros_like(grid)
    a, b = grid.diff()[0::2], grid.diff()[1::2]
    weights[0:-2:2] += (a + b) / 6 * (2 - b / a)
    weights[1:-1:2] += (a + b) ** 3 / (6 * a * b)
    weights[2::2] += (a + b) / 6 * (2 - a / b)
    return weights
