"""Log-densities of states and of samples, in the units of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.checks import check_events, check_finite_rows, positive_integer
from .._core.random import draw_key, mix, stream
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import solving_dtype, widened
from ..distributions.base import Distribution
from ..fields.base import Field
from ..fields.units import log_base_of, log_scale, starting_law
from ..solve.hooks import Hook
from .solver import Solver, check_field, over_probes, recording

__all__ = [
    "LogLikelihood",
    "SampledLikelihood",
    "log_likelihood",
    "sample_with_log_likelihood",
]


@checked
@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """Log-densities of given states.

    Attributes:
        log_prob: ``log ρ1(x)`` in nats, in the units of the data, ``(n,)``.
        standard_error: of each, from the spread over the probes; 0 for the exact divergence, NaN
            for a single probe. It does not know of the solver's error.
        latent: where the rows came from at t = 0, in the units of the data, ``(n, *)``: given as
            ``sample(field, start=latent)`` they go back.
        nfe: evaluations of the field for each row and direction.
        probes: number of probes, 0 for the exact divergence.
    """

    log_prob: Tensor
    standard_error: Tensor
    latent: Tensor
    nfe: int
    probes: int

    __repr__ = summary


@checked
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

    __repr__ = summary


@checked
def log_likelihood(
    field: Field,
    x: DataLike,
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
    hooks: Sequence[Hook] = (),
    chunk: int | None = None,
    max_nfe: int | None = None,
    gradients: bool = False,
    adjoint: bool = True,
    generator: torch.Generator | None = None,
) -> LogLikelihood:
    r"""Return the log-density of states under the probability-flow ODE of a field.

    Bias: none from the probes (each is unbiased for the exact divergence along the path); the
    solver's error is of the order of its tolerance (``10 atol`` nats a step at most, root mean
    square over the rows), or of its order in ``1/steps``. With n probes the error
    of a row is approximately ``standard_error`` times Student's t with n - 1 degrees of freedom:
    exactly so for normal integrals, and with few probes they are skewed, which makes the intervals
    too short. With 8 probes 82 to 84 % of the 90 % intervals hold the truth on a mixture
    of two modes; take more probes where the interval matters.
    Cost: of one evaluation of the field for each stage, and at those that the scheme's quadrature
    weighs (all but the first of ``"midpoint"``) of one more for each direction: D for the exact
    divergence, the number of probes otherwise; with ``gradients``, of two for each. In
    float32 a log-density carries about 1e-6 of the size
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
        scheme: an adaptive solver of torchdiffeq (``"dopri5"``, ...), which holds the states of
            each row and the log-densities of all; or a fixed-step scheme, such as ``"rk4"``.
        steps: number of steps of a fixed-step scheme.
        rtol: relative tolerance of an adaptive one, above 0.
        atol: absolute tolerance, above 0; a step's error in the log-density may be 10 times as
            large in nats, root mean square over the rows (the divergence of ReLU networks jumps).
        margin: as in :func:`sample`.
        cond: conditions for the network; tensors of n rows go with their rows.
        hooks: called after each step of a fixed-step scheme, as for :func:`sample`, to look at the
            states; neither other states nor an early end would have a density.
        chunk: rows in one network call, the repeated ones counted; chosen if None.
        max_nfe: most evaluations of the field for a row and direction; None for 5,000 of an
            adaptive scheme (its adjoint solve has as many), for what the steps take of another.
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
    check_field(field)
    x = as_rows("x", x, like=field.reference())
    check_finite_rows(x, "x")
    check_events(x, field.process.shape, "x", "the process")
    if not 0 < t <= 1:
        raise ValueError(f"t must lie in (0, 1], got {t}; at t = 0 the law is the base")
    x = widened(x)
    solver = Solver(
        field, x, divergence, probes, probe_law, scheme, steps, rtol, atol, margin,
        max_nfe,
    )  # fmt: skip
    solver.configure(cond, chunk, gradients, adjoint, generator, hooks)
    with recording(field, gradients):
        state = x if field.transform is None else field.transform(x)
        latent, integrals = solver.solve(state, float(t), 0.0)
        log_base = log_base_of(field, base, latent)
        mean, error = over_probes(integrals, exact=solver.exact)
        log_prob = log_base + mean - log_scale(field, x)
        if field.transform is not None:
            latent = field.transform.invert(latent)
    return LogLikelihood(log_prob, error, latent, solver.nfe, solver.count)


@checked
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
    hooks: Sequence[Hook] = (),
    chunk: int | None = None,
    max_nfe: int | None = None,
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
        hooks: as in :func:`log_likelihood`.
        chunk: rows in one network call.
        max_nfe: most evaluations of the field for a row and direction, as in log_likelihood.
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
        >>> drawn = tpf.likelihood.sample_with_log_likelihood(exact, 3, dtype=torch.float64)
        >>> error = drawn.log_prob - tpf.Gaussian((2,), 1.0, 0.5).log_prob(drawn.x)
        >>> bool(error.abs().max() < 1e-3)
        True
    """
    check_field(field)
    n = positive_integer("the number of samples", n)
    like = field.reference()
    like = like.to(solving_dtype(dtype, like.dtype))
    law = starting_law(field, base)
    key = draw_key(generator)
    start = law.sample(
        n, generator=stream(mix(key, 0), device=like.device), dtype=like.dtype,
        device=like.device,
    )  # fmt: skip
    solver = Solver(
        field, start, divergence, probes, probe_law, scheme, steps, rtol, atol, margin,
        max_nfe,
    )  # fmt: skip
    solver.configure(cond, chunk, False, False, stream(mix(key, 1)), hooks)
    with recording(field, False):
        log_base = log_base_of(field, base, start)
        end, integrals = solver.solve(start, 0.0, 1.0)
        mean, error = over_probes(integrals, exact=solver.exact)
        x = end if field.transform is None else field.transform.invert(end)
        log_prob = log_base - mean - log_scale(field, x)
    return SampledLikelihood(x, log_prob, error, solver.nfe, solver.count)
