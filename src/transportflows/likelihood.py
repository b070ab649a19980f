r"""Log-densities along the probability-flow ODE of a field.

Where :math:`\dot X_t = b(t, X_t)`, the density along a path obeys
:math:`\frac{d}{dt} \log \rho_t(X_t) = -\nabla \cdot b(t, X_t)`, so that

.. math:: \log \rho_1(x) = \log \rho_0(X_0) - \int_0^1 \nabla \cdot b(t, X_t)\, dt,
          \qquad X_1 = x,

and state and integral are solved together (Chen et al. 2018; Albergo, slides, "transport
equation"). The divergence is exact, from D directional derivatives, or Hutchinson's estimate
:math:`z^\top (\partial_x b) z` with :math:`E z z^\top = \mathrm{Id}`, for which a few suffice.
Probes are drawn once a solve, so that the integrand is a smooth function of time and an adaptive
solver sees no noise; each has its own integral, and from their spread comes the standard error.

Derivatives are forward-mode: rows are repeated once for each direction, so any network of
independent rows serves, no graph is kept, and with gradients enabled the result is differentiable.
A network with an operation that has no forward derivative is served in reverse mode.

Trained by its own likelihood a velocity is a continuous normalising flow: the classical baseline
(:class:`LikelihoodLoss`, with the adjoint method of torchdiffeq).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ._checks import check_finite_rows, names
from ._random import draw_key, mix, stream
from ._tensor import sum_events
from .batches import Batch
from .distributions import Distribution, as_distribution
from .fields import Field
from .losses import Loss
from .samplers.adaptive import ADAPTIVE, check_tolerances, step_ends, stuck
from .samplers.dynamics import _MARGINS, singular_ends
from .samplers.grid import time_grid
from .samplers.integrate import integrate
from .samplers.sample import _as_margin, _check_cond, _default_chunk, _evaluating
from .samplers.schemes import SCHEMES
from .samplers.solution import NonFiniteStateError, Solution

__all__ = [
    "LikelihoodLoss",
    "LogLikelihood",
    "SampledLikelihood",
    "bits_per_dimension",
    "log_likelihood",
    "sample_with_log_likelihood",
]

DIVERGENCES = ("exact", "hutchinson")


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """Log-densities of given states.

    Attributes:
        log_prob: ``log ρ1(x)`` in nats, in the units of the data, ``(n,)``.
        standard_error: of each, from the spread over the probes; 0 for the exact divergence, NaN
            for a single probe. It does not know of the solver's error.
        latent: where the rows came from at t = 0, in the field's units, ``(n, *)``.
        nfe: evaluations of the field for each row and direction.
        probes: number of probes, 0 for the exact divergence.
    """

    log_prob: Tensor
    standard_error: Tensor
    latent: Tensor
    nfe: int
    probes: int


@dataclass(frozen=True, eq=False)
class SampledLikelihood:
    """Samples with their log-densities.

    Attributes:
        x: samples, ``(n, *)``, in the units of the data.
        log_prob: ``log ρ1(x)`` in nats, ``(n,)``.
        standard_error: as in :class:`LogLikelihood`.
        nfe: evaluations of the field for each row and direction.
        probes: number of probes, 0 for the exact divergence.
    """

    x: Tensor
    log_prob: Tensor
    standard_error: Tensor
    nfe: int
    probes: int


def log_likelihood(
    field: Field,
    x: Tensor,
    *,
    t: float = 1.0,
    base: Distribution | Any | None = None,
    divergence: str = "exact",
    probes: int = 16,
    probe_law: str = "rademacher",
    scheme: str = "dopri5",
    steps: int = 100,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    margin: float | tuple[float, float] | None = None,
    cond: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    gradients: bool = False,
    adjoint: bool = True,
    generator: torch.Generator | None = None,
) -> LogLikelihood:
    r"""Return the log-density of states under the probability-flow ODE of a field.

    Bias: none from the probes (each is unbiased for the exact divergence along the path); the
    solver's error is of the order of its tolerance, or of its order in ``1/steps``. With n probes
    the error of a row is approximately ``standard_error`` times Student's t with n - 1 degrees of
    freedom: exactly so for normal integrals, and with few probes they are skewed, which makes the
    intervals too short. With 8 probes 82 to 84 % of the 90 % intervals hold the truth on a mixture
    of two modes; take more probes where the interval matters.
    Cost: of two evaluations of the field for each direction (D for the exact divergence, the
    number of probes otherwise) and stage. In float32 a log-density carries about 1e-6 of the size
    of the integral; use float64 where that matters.

    Args:
        field: a field with a velocity, or an oracle.
        x: states, ``(n, *)``, in the units of the data.
        t: their time, in (0, 1]; for t < 1 the density is that of the solution at t.
        base: the law at t = 0, with ``log_prob``, in the units of the data; the process's own by
            default.
        divergence: ``"exact"`` or ``"hutchinson"``.
        probes: number of Hutchinson probes, one or more; the standard error needs two, and a
            fair interval more.
        probe_law: ``"rademacher"`` (of lower variance) or ``"gaussian"``. In two dimensions a
            Rademacher estimate takes two values only, and intervals from few probes are coarse.
        scheme: an adaptive solver of torchdiffeq (``"dopri5"``, ...), whose error is controlled row
            by row, state and log-density alike; or a fixed-step scheme, such as ``"rk4"``.
        steps: number of steps of a fixed-step scheme.
        rtol: relative tolerance of an adaptive one, above 0.
        atol: absolute tolerance, above 0; for the log-density, in nats.
        margin: as in :func:`sample`.
        cond: conditions for the network; tensors of n rows go with their rows.
        chunk: rows in one network call, the repeated ones counted; chosen if None.
        gradients: keep the graph, so that the result can be differentiated in x, the parameters
            and the conditions. Networks are then left in the mode that they are in.
        adjoint: with ``gradients`` and an adaptive scheme, the adjoint method (memory of one step;
            gradients in x and the parameters); False differentiates the solver's own steps. So
            does a condition that requires grad: the adjoint method has no gradients in conditions.
        generator: source of the probes.

    Raises:
        ConversionError: if the field has no velocity.
        TypeError: if x or the field are of another type.
        ValueError: if x is not finite, the base has no log-density, or an option is unknown or
            out of range.
        NonFiniteStateError: if a state or an integral stops being finite.

    Source: Grathwohl et al., "FFJORD" (2019); Song et al. (2021), appendix D.2; Hutchinson (1989).

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> exact = tpf.oracle(process, tpf.Gaussian((2,), 1.0, 0.5))
        >>> x = torch.ones(1, 2, dtype=torch.float64)
        >>> round(float(tpf.log_likelihood(exact, x).log_prob), 4)  # -log(2π 0.5²)
        -0.4516
    """
    _check_field(field)
    check_finite_rows(x, "x")
    if not 0 < t <= 1:
        raise ValueError(f"t must lie in (0, 1], got {t}; at t = 0 the law is the base")
    solver = _Solver(field, x, divergence, probes, probe_law, scheme, steps, rtol, atol, margin)
    solver.configure(cond, chunk, gradients, adjoint, generator)
    with _recording(field, gradients):
        state = x if field.transform is None else field.transform(x)
        latent, integrals = solver.solve(state, float(t), 0.0)
        log_base = _log_base(field, base, latent)
        mean, error = _over_probes(integrals, exact=solver.exact)
        log_prob = log_base + mean - _log_scale(field, x)
    return LogLikelihood(log_prob, error, latent, solver.nfe, solver.count)


def sample_with_log_likelihood(
    field: Field,
    n: int,
    *,
    base: Distribution | Any | None = None,
    divergence: str = "exact",
    probes: int = 16,
    probe_law: str = "rademacher",
    scheme: str = "dopri5",
    steps: int = 100,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    margin: float | tuple[float, float] | None = None,
    cond: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    dtype: torch.dtype | None = None,
    generator: torch.Generator | None = None,
) -> SampledLikelihood:
    r"""Sample the probability-flow ODE and return each sample's log-density, in one solve.

    Args:
        field: a field with a velocity, or an oracle.
        n: number of samples.
        base: law to start from, with ``sample`` and ``log_prob``, in the units of the data; the
            process's own by default.
        divergence: as in :func:`log_likelihood`, as all that follow.
        probes: number of Hutchinson probes.
        probe_law: ``"rademacher"`` or ``"gaussian"``.
        scheme: adaptive or fixed-step.
        steps: number of steps of a fixed-step scheme.
        rtol: relative tolerance of an adaptive one.
        atol: absolute tolerance.
        margin: as in :func:`sample`.
        cond: conditions for the network.
        chunk: rows in one network call.
        dtype: of the states; that of the network by default.
        generator: source of the starts and of the probes.

    Raises:
        ConversionError: if the field has no velocity.
        ValueError: as :func:`log_likelihood`.
        NonFiniteStateError: as :func:`log_likelihood`.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> exact = tpf.oracle(process, tpf.Gaussian((2,), 1.0, 0.5))
        >>> drawn = tpf.sample_with_log_likelihood(exact, 3, dtype=torch.float64)
        >>> error = drawn.log_prob - tpf.Gaussian((2,), 1.0, 0.5).log_prob(drawn.x)
        >>> bool(error.abs().max() < 1e-3)
        True
    """
    _check_field(field)
    if isinstance(n, bool) or int(n) != n or n < 1:
        raise ValueError(f"the number of samples must be a positive integer, got {n}")
    like = field.reference()
    like = like if dtype is None else like.to(dtype)
    law = field.process.start if base is None else as_distribution(base)
    key = draw_key(generator)
    start = law.sample(
        int(n), generator=stream(mix(key, 0), device=like.device), dtype=like.dtype,
        device=like.device,
    )  # fmt: skip
    solver = _Solver(field, start, divergence, probes, probe_law, scheme, steps, rtol, atol, margin)
    solver.configure(cond, chunk, False, False, stream(mix(key, 1)))
    with _recording(field, False):
        state = start if field.transform is None or base is None else field.transform(start)
        log_base = _log_base(field, base, state)
        end, integrals = solver.solve(state, 0.0, 1.0)
        mean, error = _over_probes(integrals, exact=solver.exact)
        x = end if field.transform is None else field.transform.invert(end)
        log_prob = log_base - mean - _log_scale(field, x)
    return SampledLikelihood(x, log_prob, error, solver.nfe, solver.count)


def bits_per_dimension(
    log_prob: Tensor, shape: Sequence[int], *, level_width: float = 1 / 256
) -> Tensor:
    r"""Return ``-log2 p`` for each number of a quantised event, ``(n,)``.

    .. math:: -\frac{\log \rho(x)}{D \log 2} - \log_2 h

    for data that were made continuous by uniform noise over their levels of width h: it bounds the
    code length of the levels from above (Theis, van den Oord and Bethge 2016).

    Args:
        log_prob: log-densities in nats, ``(n,)``, of the data *with* that noise.
        shape: event shape, of D numbers.
        level_width: h in the units of the data: 1/256 for bytes scaled to [0, 1], 2/256 to [-1, 1].

    Raises:
        ValueError: if ``level_width`` is not positive.

    Example:
        >>> bits_per_dimension(torch.zeros(1), (3, 8, 8))  # uniform on [0, 1]
        tensor([8.])
    """
    if not level_width > 0:
        raise ValueError(f"level_width must be positive, got {level_width}; 1/256 is usual")
    d = torch.Size([shape] if isinstance(shape, int) else shape).numel()
    return -log_prob / (d * math.log(2)) - math.log2(level_width)


class LikelihoodLoss(Loss):
    r"""``-log ρ1(x1)`` of each row: maximum likelihood, a continuous normalising flow.

    Unlike a regression it solves the ODE in every step, forward and back; the process serves for
    its base (and for what the network means) only.

    Args:
        divergence: ``"hutchinson"`` (one probe, fresh in each call) or ``"exact"``.
        scheme: as in :func:`log_likelihood`.
        steps: number of steps of a fixed-step scheme.
        rtol: relative tolerance of an adaptive one.
        atol: absolute tolerance.
        adjoint: adjoint method, for adaptive schemes, as in :func:`log_likelihood`.

    Source: Grathwohl et al., "FFJORD" (2019).
    """

    def __init__(
        self,
        *,
        divergence: str = "hutchinson",
        scheme: str = "dopri5",
        steps: int = 20,
        rtol: float = 1e-4,
        atol: float = 1e-4,
        adjoint: bool = True,
    ) -> None:
        _check_options(divergence, 1, "rademacher", scheme, rtol, atol)
        self.options: dict[str, Any] = {
            "divergence": divergence,
            "scheme": scheme,
            "steps": steps,
            "rtol": rtol,
            "atol": atol,
            "adjoint": adjoint,
        }

    def __call__(  # noqa: D102
        self,
        field: Field,
        batch: Batch | Tensor | tuple[Tensor, Tensor],
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        batch = Batch.of(batch)
        transform, field.transform = field.transform, None  # a trainer's batches are transformed
        try:
            return self._losses(field, batch, generator)
        finally:
            field.transform = transform

    def _losses(self, field: Field, batch: Batch, generator: torch.Generator | None) -> Tensor:
        _check_field(field)
        check_finite_rows(batch.x1, "x")
        given, gradients = self.options, torch.is_grad_enabled()
        solver = _Solver(
            field, batch.x1, given["divergence"], 1, "rademacher", given["scheme"],
            given["steps"], given["rtol"], given["atol"], None,
        )  # fmt: skip
        solver.configure(batch.cond, None, gradients, given["adjoint"], generator)
        solver.refuses = False  # a trainer stops at a loss that is not finite, and says more
        with _recording(field, gradients):
            latent, integrals = solver.solve(batch.x1, 1.0, 0.0)
            return -(_log_base(field, None, latent) + integrals.mean(1))


# --------------------------------------------------------------------------------- the solve


class _Solver(nn.Module):
    """State and integrals of the divergence, ``(n, D + K)``, along the ODE.

    A module, since torchdiffeq's adjoint looks for parameters in one.
    """

    def __init__(
        self,
        field: Field,
        like: Tensor,
        divergence: str,
        probes: int,
        probe_law: str,
        scheme: str,
        steps: int,
        rtol: float,
        atol: float,
        margin: float | tuple[float, float] | None,
    ) -> None:
        super().__init__()
        _check_options(divergence, probes, probe_law, scheme, rtol, atol)
        self.field = field
        self.shape = like.shape[1:]
        self.exact = divergence == "exact"
        self.count = 0 if self.exact else int(probes)
        self.probe_law, self.scheme, self.steps = probe_law, scheme, steps
        self.rtol, self.atol = rtol, atol
        given = _as_margin(margin)
        kinds = singular_ends(field, field.reference())
        self.low, self.high = given or (_MARGINS[kinds[0]], _MARGINS[kinds[1]])
        self.forward_mode = True
        self.refuses = True
        self.nfe = 0

    def configure(
        self,
        cond: Mapping[str, Any] | None,
        chunk: int | None,
        gradients: bool,
        adjoint: bool,
        generator: torch.Generator | None,
    ) -> None:
        self.cond, self.chunk = dict(cond or {}), chunk
        # The adjoint method differentiates in the state and in a module's parameters only.
        differentiable = any(isinstance(c, Tensor) and c.requires_grad for c in self.cond.values())
        self.gradients, self.adjoint = gradients, adjoint and not differentiable
        self.generator = generator

    def solve(self, x: Tensor, start: float, stop: float) -> tuple[Tensor, Tensor]:
        """States at ``stop`` and integrals of the divergence from ``start``, ``(n, K)``."""
        n, d = len(x), self.shape.numel()
        _check_cond(self.cond, n)
        if self.chunk is None:
            self.chunk = _default_chunk(self.field, x)
        if self.chunk < 1:
            raise ValueError(f"chunk must be positive, got {self.chunk}")
        self.probes = None if self.exact else self._draw(x)
        columns = 1 if self.exact else self.count
        state = torch.cat([x.flatten(1), x.new_zeros(n, columns)], 1)
        breakpoints = self.field.process.interpolant.breakpoints
        if self.scheme in ADAPTIVE:
            end = self._adaptive(state, start, stop, breakpoints)
        else:
            grid = time_grid(self.steps, start=start, stop=stop, breakpoints=breakpoints)
            solution = integrate(self, state, grid, scheme=self.scheme)
            self._check_finite(solution)
            end = solution.x
        return end[:, :d].reshape(x.shape), end[:, d:]

    def _adaptive(
        self, state: Tensor, start: float, stop: float, breakpoints: Sequence[float]
    ) -> Tensor:
        from torchdiffeq import odeint, odeint_adjoint

        d = self.shape.numel()

        def worst_row(error: Tensor) -> Tensor:
            rows = error.reshape(-1, state.shape[1])
            size = rows[:, :d].square().mean(1).sqrt()
            return torch.maximum(size, rows[:, d:].abs().amax(1)).max()

        times = torch.tensor([start, stop], dtype=torch.float64, device=state.device)
        options = {"norm": worst_row, **step_ends(times, breakpoints)}
        how: dict[str, Any] = {"method": self.scheme, "rtol": self.rtol, "atol": self.atol}
        method = odeint
        if self.gradients and self.adjoint:
            method = odeint_adjoint
            # torchdiffeq solves the adjoint of a solve backward in time in -t, but leaves its
            # options in t.
            sign = 1.0 if start < stop else -1.0
            signed = [sign * b for b in breakpoints]
            how["adjoint_options"] = dict(step_ends(sign * times, signed))
        try:
            states: Tensor = method(self, state, times, options=options, **how)
        except AssertionError as error:
            t, y = self.latest
            solution = Solution(y, times.cpu(), self.nfe, self.scheme, first_bad_step=0)
            raise stuck(error, self.scheme, t, y, self._of_states(solution)) from error
        bad = None if bool(states[-1].isfinite().all()) else 0
        self._check_finite(
            Solution(states[-1], times.cpu(), self.nfe, self.scheme, first_bad_step=bad)
        )
        return states[-1]

    def _check_finite(self, solution: Solution) -> None:
        step = solution.first_bad_step
        if step is None or not self.refuses:
            return
        bad = int((~solution.x.isfinite()).any(1).sum())
        raise NonFiniteStateError(
            f"states or integrals of the divergence stopped being finite at step {step} of"
            f" {len(solution.t) - 1} (t = {float(solution.t[step]):.4g} to"
            f" {float(solution.t[step + 1]):.4g}); at the end {bad} of {len(solution.x)} rows are"
            " not. Take more steps, or look at the field there: a network with NaN weights or"
            " without a finite derivative; the states are in error.solution",
            self._of_states(solution),
        )

    def _of_states(self, solution: Solution) -> Solution:
        """The solution without the integrals, in the shape of the states."""
        states = solution.x[:, : self.shape.numel()]
        return replace(solution, x=states.detach().reshape(-1, *self.shape))

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        """Time derivatives of the states and of the integrals."""
        self.nfe += 1
        self.latest = t.detach(), state.detach()
        d, n = self.shape.numel(), len(state)
        t = t.to(state).clamp(self.low, 1 - self.high)
        directions = d if self.exact else self.count
        size = max(1, (self.chunk or n) // directions)
        parts = []
        for rows in torch.split(torch.arange(n, device=state.device), size):
            x = state[rows, :d].reshape(-1, *self.shape)
            cond = {
                name: value[rows] if isinstance(value, Tensor) and value.ndim > 0 else value
                for name, value in self.cond.items()
            }
            velocity, divergences = self._derivatives(t, x, rows, cond)
            parts.append(torch.cat([velocity.flatten(1), divergences], 1))
        return torch.cat(parts)

    def _derivatives(
        self, t: Tensor, x: Tensor, rows: Tensor, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Velocity ``(b, *)`` and divergence ``(b, 1)``, or its estimates ``(b, probes)``."""
        b, d = len(x), self.shape.numel()
        if self.probes is None:
            eye = torch.eye(d, dtype=x.dtype, device=x.device)
            directions = eye.unsqueeze(1).expand(d, b, d).reshape(d * b, *self.shape)
        else:
            directions = self.probes[:, rows].flatten(0, 1)
        k = len(directions) // b
        repeated = x.repeat(k, *(1,) * (x.ndim - 1))
        wide = {
            name: value.repeat(k, *(1,) * (value.ndim - 1))
            if isinstance(value, Tensor) and value.ndim > 0
            else value
            for name, value in cond.items()
        }

        def velocity(z: Tensor) -> Tensor:
            return self.field.velocity(t, z, **wide)

        value, change = self._along(velocity, repeated, directions)
        quadratic = sum_events(change * directions).view(k, b).mT
        return value[:b], quadratic.sum(1, keepdim=True) if self.exact else quadratic

    def _along(
        self, f: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``f(x)`` and a vector w with ``w · z = z · (∂f) z`` for each direction z."""
        if self.forward_mode:
            try:
                value, change = torch.func.jvp(f, (x,), (directions,))  # type: ignore[misc]
                return value, change
            except (NotImplementedError, RuntimeError):
                # An operation without a forward derivative; another error comes again below.
                self.forward_mode = False
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            value = f(x)
            keep = self.gradients
            (pulled,) = torch.autograd.grad(value, x, directions, create_graph=keep)
        return (value, pulled) if keep else (value.detach(), pulled)

    def _draw(self, x: Tensor) -> Tensor:
        generator = stream(draw_key(self.generator), device=x.device)
        shape = (self.count, *x.shape)
        if self.probe_law == "gaussian":
            return torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
        signs = torch.randint(0, 2, shape, generator=generator, device=x.device)
        return signs.to(x.dtype).mul_(2).sub_(1)


def _recording(field: Field, gradients: bool) -> Any:
    return nullcontext() if gradients else _Quiet(field)


class _Quiet:
    """No graph, and the networks in evaluation mode."""

    def __init__(self, field: Field) -> None:
        self.contexts = (torch.no_grad(), _evaluating(field))

    def __enter__(self) -> None:
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self.contexts):
            context.__exit__(*error)


def _over_probes(integrals: Tensor, *, exact: bool) -> tuple[Tensor, Tensor]:
    """The mean over the probes, and its standard error."""
    n, k = integrals.shape
    mean = integrals.mean(1)
    if exact:
        return mean, integrals.new_zeros(n)
    if k == 1:
        return mean, integrals.new_full((n,), math.nan)
    return mean, integrals.detach().std(1) / math.sqrt(k)


def _log_base(field: Field, base: Any | None, state: Tensor) -> Tensor:
    """Log-density of states at t = 0, in the field's units."""
    law = field.process.start if base is None else as_distribution(base)
    try:
        if base is None or field.transform is None:
            return law.log_prob(state)
        value = law.log_prob(field.transform.invert(state))
        return value + _log_scale(field, state)
    except NotImplementedError as error:
        raise ValueError(
            f"the law at t = 0 ({type(law).__name__}) has no log-density, so none is known at"
            " t = 1; give base= a law with log_prob, such as Gaussian.fit(x0)"
        ) from error


def _log_scale(field: Field, x: Tensor) -> float | Tensor:
    """``Σ log s`` over the event: what the transform takes from a log-density."""
    if field.transform is None:
        return 0.0
    scale = field.transform.scale.to(x)
    return scale.log().expand(x.shape[1:]).sum()


def _check_field(field: Any) -> None:
    if not isinstance(field, Field):
        raise TypeError(
            "a likelihood is that of a Field such as Velocity(net, process), got"
            f" {type(field).__name__}; the order is (field, x)"
        )


def _check_options(
    divergence: str, probes: int, probe_law: str, scheme: str, rtol: float, atol: float
) -> None:
    if divergence not in DIVERGENCES:
        raise ValueError(f"unknown divergence {divergence!r}; known: {names(DIVERGENCES)}")
    whole = isinstance(probes, numbers.Integral) and not isinstance(probes, bool)
    if not whole or probes < 1:
        raise ValueError(
            f"probes must be an integer of at least 1, got {probes!r}; two give a standard error"
        )
    if probe_law not in ("rademacher", "gaussian"):
        raise ValueError(f"unknown probe_law {probe_law!r}; known: 'rademacher', 'gaussian'")
    if scheme not in SCHEMES and scheme not in ADAPTIVE:
        raise ValueError(f"unknown scheme {scheme!r}; known: {names([*SCHEMES, *ADAPTIVE])}")
    check_tolerances(rtol, atol)
