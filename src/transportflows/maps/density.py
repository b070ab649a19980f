r"""The log-density of a flow map's samples, by its own inverse: no ODE is solved.

What goes from t = 0 to 1 by a map that has an inverse has the density

.. math:: \log \rho_1(x) = \log \rho_0(X_{1,0}(x)) + \log |\det \nabla X_{1,0}(x)| ,

and by several jumps backward the logarithms of the determinants add up. It takes the map at its
word: that X_{1,0} is the inverse of X_{0,1}, which a learned one is nearly, and that it does not
*fold*. Where det ≤ 0 it has turned space over, as no flow does, and the number there is wrong. So
both are measured beside it: where ``X_{0,1}(X_{1,0}(x))`` leads, and in nats by how much the two
determinants do not cancel: where they do not, this may be near the density of the data and is not
that of the samples of its own X_{0,1}. :func:`transportflows.log_likelihood` of the same map is
the density of the ODE of its tangent, which needs neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.autodiff import draw_probes
from .._core.checks import check_events, check_finite_rows, choice, positive_integer
from .._core.conditions import map_rows
from .._core.random import draw_key, stream
from .._core.signatures import checked
from .._core.tensor import widened
from ..distributions import Distribution
from ..fields.units import log_base_of, log_scale
from ..samplers.starts import evaluating
from ..solve.grid import check_grid, time_grid
from ..solve.rows import default_chunk
from .bidiagonal import log_det_estimates
from .exact import SolvedMap
from .flow_map import FlowMap
from .jacobians import jump_and_log_det, jump_function, jump_rows
from .map_density import MapDensity, warn_of

__all__ = ["log_density"]

_COLUMNS = 1_024  # numbers in an event up to which all columns of a Jacobian are taken
_HELD = 1 << 24  # numbers of a bidiagonalisation that are held at once


@checked
def log_density(
    flow_map: FlowMap,
    x: DataLike,
    *,
    steps: int = 1,
    times: Sequence[float] | Tensor | None = None,
    base: Distribution | Any | None = None,
    method: str | None = None,
    probes: int = 16,
    most: int = 256,
    cond: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    generator: torch.Generator | None = None,
) -> MapDensity:
    r"""Return ``log ρ0(X_{1,0}(x)) + log |det ∇X_{1,0}(x)|`` of given states.

    Cost: of d derivatives of the network for each row and jump, back and forth; of the estimate, of
    two for each probe and step of its quadrature (a product with ∇X and one with its transpose),
    back only.

    Args:
        flow_map: a map that was trained backward too.
        x: states at t = 1, ``(n, *)``, in the units of the data.
        steps: jumps from 1 to 0, of equal widths.
        times: the grid of the jumps instead, from 1 to 0.
        base: the law at t = 0, with ``log_prob``, in the units of the data; the process's own by
            default.
        method: ``"exact"``, from all columns of the Jacobian, the default for events of up to
            1,024 numbers, since that costs less than an estimate of a few nats; or ``"lanczos"``,
            from random probes (:mod:`transportflows.maps.bidiagonal`), the default above. Of a
            :class:`SolvedMap` it is the integral of the divergence always.
        probes: number of probes, one or more; the standard error needs two.
        most: most steps of the quadrature, which ends before where its error is small beside the
            standard error.
        cond: conditions for the network; tensors of n rows go with their rows.
        chunk: rows in one network call, the repeated ones counted; chosen if None.
        generator: source of the probes.

    Raises:
        ValueError: if the map goes to the data only (``to_data=True``), the base has no
            log-density, x or what the map makes of it is not finite, or an option is unknown or
            out of its range.
        RuntimeError: if the estimate is asked for a network without forward-mode derivatives.

    Warns:
        FoldedMapWarning: if more than 2 % of the rows are folded.
        InverseMapWarning: if the median of the inverse residual is over a tenth of the scale.
        CoarseEstimateWarning: if the error of the quadrature is over the standard error.

    Source: Boffi, Albergo and Vanden-Eijnden (2024); Golub and Kahan (1965); Ubaru, Chen and Saad
    (2017).

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> exact = tpf.maps.oracle_map(process, tpf.Gaussian((2,), 1.0, 0.5))
        >>> x = torch.ones(1, 2, dtype=torch.float64)
        >>> round(float(tpf.maps.log_density(exact, x).log_prob), 4)  # -log(2π 0.5²)
        -0.4516
    """
    _check_map(flow_map)
    x = as_rows("x", x, like=flow_map.reference())
    check_finite_rows(x, "x")
    check_events(x, flow_map.process.shape, "x", "the process")
    grid = _grid(steps, times)
    probes, most = positive_integer("probes", probes), positive_integer("most", most)
    flow_map.check_leaving(grid[:-1], grid[1:])
    way = _method(flow_map, x, method)
    x = widened(x)
    given = flow_map.check_conditions(cond, len(x), device=x.device)
    with torch.inference_mode(False), torch.no_grad(), evaluating(flow_map):
        transform = flow_map.transform
        start, source = x if transform is None else transform(x), draw_key(generator)
        times_back = grid.to(start).unbind()
        if way == "exact":
            state, total, folded = _jumped(flow_map, times_back, start, given, chunk)
            error = fall = torch.zeros_like(total)
        else:
            state, total, error, fall = _estimated(
                flow_map, times_back, start, given, chunk, (probes, most), source
            )
        check_finite_rows(state, "X_{1,0}(x), what the map gives,")
        log_prob = log_base_of(flow_map, base, state) + total - log_scale(flow_map, x)
        if way == "exact":
            back, forth, _ = _jumped(flow_map, times_back[::-1], state, given, chunk)
        else:
            back, forth = state, total * math.nan
            for s, t in pairwise(times_back[::-1]):
                back = jump_rows(flow_map, s, t, back, given)
        if transform is not None:
            state, back = transform.invert(state), transform.invert(back)
    middle = x.mean(0) if len(x) > 1 else 0.0  # one row has no spread
    spread, moved = ((x - other).flatten(1).square().sum(1).mean() for other in (middle, state))
    made = MapDensity(
        log_prob=log_prob,
        standard_error=error,
        quadrature_error=fall,
        latent=state,
        inverse_residual=torch.linalg.vector_norm((back - x).flatten(1), dim=1),
        log_det_residual=total + forth,
        folded=folded if way == "exact" else None,
        scale=float(torch.maximum(spread, moved).sqrt()),
    )
    warn_of(made)
    return made


def _jumped(
    field: FlowMap,
    times: Sequence[Tensor],
    x: Tensor,
    cond: Mapping[str, Any],
    chunk: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Where jumps along a grid lead, the sum of their log-determinants, and which rows fold."""
    total = x.new_zeros(len(x))
    folded = torch.zeros_like(total, dtype=torch.bool)
    for s, t in pairwise(times):
        x, sign, log_det = jump_and_log_det(field, s, t, x, cond, chunk)
        total, folded = total + log_det, folded | ~(sign > 0)
    return x, total, folded


def _estimated(
    field: FlowMap,
    times: Sequence[Tensor],
    x: Tensor,
    cond: Mapping[str, Any],
    chunk: int | None,
    counts: tuple[int, int],
    key: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where jumps lead, the estimated sum, its standard error, and what the estimates fell by."""
    total, variance, fall = x.new_zeros(3, len(x)).unbind()
    for k, (s, t) in enumerate(pairwise(times)):
        source = stream(key, k, device=x.device)
        x, found, below = _estimates(field, s, t, x, cond, chunk, counts, source)
        total, fall = total + found.mean(0), fall + below
        variance = variance + found.var(0) / len(found) if len(found) > 1 else total * math.nan
    return x, total, variance.sqrt(), fall


def _estimates(
    field: FlowMap,
    s: Tensor,
    t: Tensor,
    x: Tensor,
    cond: Mapping[str, Any],
    chunk: int | None,
    counts: tuple[int, int],
    source: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """A jump, estimates of its log-determinant ``(probes, n)``, and their falls, in chunks."""
    probes, most = counts
    d = x.shape[1:].numel()
    held = _HELD // (2 * min(most, d) * d)
    size = max(1, min(chunk or default_chunk(field.networks, x), held) // probes)
    how: dict[str, Any] = {"generator": source, "dtype": x.dtype, "device": x.device}
    directions = draw_probes("rademacher", (probes, *x.shape), **how)
    parts = []
    for rows in torch.split(torch.arange(len(x), device=x.device), size):
        own = map_rows(cond, lambda value, rows=rows: value[rows])
        jump = jump_function(field, s, t, own, probes)
        parts.append(log_det_estimates(jump, x[rows], directions[:, rows], most))
    moved, found, below = zip(*parts, strict=True)
    return torch.cat(moved), torch.cat(found, 1), torch.cat(below)


def _check_map(flow_map: FlowMap) -> None:
    if flow_map.to_data:
        raise ValueError(
            "this FlowMap was trained for t = 1 only (to_data=True), and a log-density goes back to"
            " t = 0; train one with other times, FlowMap(net, process) with UniformPairs(), or take"
            " log_likelihood(teacher, x) of the field that it was distilled from"
        )


def _grid(steps: int, times: Sequence[float] | Tensor | None) -> Tensor:
    if times is None:
        return time_grid(positive_integer("steps", steps), start=1.0, stop=0.0)
    if steps != 1:
        raise ValueError(f"times= is the grid, so steps={steps} would be ignored; leave one out")
    grid = check_grid(times)
    if float(grid[0]) != 1 or float(grid[-1]) != 0:
        raise ValueError(
            "a log-density goes from the data back to the base, so that the grid begins at 1 and"
            f" ends at 0; got {float(grid[0]):g} to {float(grid[-1]):g}. Write times=[1, ..., 0]"
        )
    return grid


def _method(flow_map: FlowMap, x: Tensor, method: str | None) -> str:
    solved = isinstance(flow_map, SolvedMap)
    if method is None:
        return "exact" if solved or x.shape[1:].numel() <= _COLUMNS else "lanczos"
    choice("method", method, ("exact", "lanczos"), {"slq": "'lanczos'", "hutchinson": "'lanczos'"})
    if solved and method == "lanczos":
        raise ValueError(
            "the determinant of a SolvedMap is the integral of a divergence, which needs no"
            " estimate; leave method out, or, for an estimate of that integral, write"
            " log_likelihood(solved.field, x, divergence='hutchinson')"
        )
    return method
