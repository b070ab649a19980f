r"""The log-density of a flow map's samples, by its own inverse: no ODE is solved.

What goes from t = 0 to 1 by a map that has an inverse has the density

.. math:: \log \rho_1(x) = \log \rho_0(X_{1,0}(x)) + \log |\det \nabla X_{1,0}(x)| ,

and by several jumps backward the logarithms of the determinants add up. It takes the map at its
word: that X_{1,0} is the inverse of X_{0,1}, which a learned one is nearly, and that it does not
*fold*. Where det ≤ 0 it has turned space over, as no flow does, and the number there is wrong. So
both are measured beside it: where ``X_{0,1}(X_{1,0}(x))`` leads, and in nats by how much the two
determinants do not cancel. A map of eight sharp modes, distilled in a minute, missed the
log-density of the data by .17 nats, and that of the samples of its own X_{0,1} by .5, with points
that came back to within .05 of 4. :func:`transportflows.log_likelihood` of the same map is the
density of the ODE of its tangent, which needs neither.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .._core.autodiff import draw_probes
from .._core.checks import check_events, check_finite_rows, choice, positive_integer
from .._core.conditions import map_rows
from .._core.random import draw_key, stream
from .._core.reprs import summary
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

__all__ = ["FoldedMapWarning", "InverseMapWarning", "MapDensity", "log_density"]

_COLUMNS = 256  # numbers in an event up to which all columns of a Jacobian are taken
_FOLDS = 0.02  # share of rows that is told of
_RESIDUAL = 0.1  # of the scale of the data, likewise
_HELD = 1 << 24  # numbers of a bidiagonalisation that are held at once


class FoldedMapWarning(UserWarning):
    """A flow map turns space over in many rows, where its log-density is wrong."""


class InverseMapWarning(UserWarning):
    """Backward a flow map is not the inverse of what it is forward, so its density is another's."""


@checked
@dataclass(frozen=True, eq=False)
class MapDensity:
    """Log-densities by a flow map, and how far they can be trusted.

    Attributes:
        log_prob: in nats, in the units of the data, ``(n,)``.
        standard_error: of each, from the spread over the probes, ``(n,)``; 0 for all columns, NaN
            for a single probe. It knows of nothing that is below.
        quadrature_error: by how much the estimate fell in the last steps of its quadrature,
            ``(n,)``; 0 for all columns. The estimate is too high by about as much, or more.
        latent: ``X_{1,0}(x)``, in the units of the data, ``(n, *)``.
        inverse_residual: ``|X_{0,1}(X_{1,0}(x)) - x|``, in the units of the data, ``(n,)``.
        log_det_residual: ``log |det ∇X_{1,0}(x)| + log |det ∇X_{0,1}|`` there, ``(n,)``: 0 of a map
            and its inverse; otherwise by about so much the density of what X_{0,1} samples is
            another. NaN of estimates.
        folded: rows in which a determinant is 0 or less, ``(n,)``; None where signs are not known,
            as of estimates.
        scale: of the data, to hold the residual against: the larger of the root mean square
            distance of the rows from their mean, and of that which they were moved.
    """

    log_prob: Tensor
    standard_error: Tensor
    quadrature_error: Tensor
    latent: Tensor
    inverse_residual: Tensor
    log_det_residual: Tensor
    folded: Tensor | None
    scale: float

    @property
    def folds(self) -> float:
        """The share of rows in which a determinant is 0 or less; NaN where that is not known."""
        return math.nan if self.folded is None else float(self.folded.double().mean())

    __repr__ = summary


@checked
def log_density(
    flow_map: FlowMap,
    x: Tensor,
    *,
    steps: int = 1,
    times: Sequence[float] | Tensor | None = None,
    base: Distribution | Any | None = None,
    method: str | None = None,
    probes: int = 16,
    most: int = 96,
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
        method: ``"exact"``, from all columns of the Jacobian, the default for events of up to 256
            numbers; or ``"lanczos"``, from random probes (:mod:`transportflows.maps.bidiagonal`),
            the default above. Of a :class:`SolvedMap` it is the integral of the divergence always.
        probes: number of probes, one or more; the standard error needs two.
        most: most steps of the quadrature, which ends before where its error is small beside the
            standard error.
        cond: conditions for the network; tensors of n rows go with their rows.
        chunk: rows in one network call, the repeated ones counted; chosen if None.
        generator: source of the probes.

    Raises:
        ValueError: if the map goes to the data only (``to_data=True``), the base has no
            log-density, x or what the map makes of it is not finite, or an option is unknown or out of range.
        RuntimeError: if the estimate is asked for a network without forward-mode derivatives.

    Warns:
        FoldedMapWarning: if more than 2 % of the rows are folded.
        InverseMapWarning: if the median of the inverse residual is over a tenth of the scale.

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
    check_finite_rows(x, "x")
    check_events(x, flow_map.process.shape, "x", "the process")
    grid = _grid(steps, times)
    probes, most = positive_integer("probes", probes), positive_integer("most", most)
    way = _method(flow_map, x, method)
    x, key = widened(x), draw_key(generator)
    given = flow_map.check_conditions(cond, len(x), device=x.device)
    with torch.inference_mode(False), torch.no_grad(), evaluating(flow_map):
        transform = flow_map.transform
        start = x if transform is None else transform(x)
        state, total = start, x.new_zeros(len(x))
        variance, fall = torch.zeros_like(total), torch.zeros_like(total)
        folded = torch.zeros_like(total, dtype=torch.bool)
        for k, (s, t) in enumerate(pairwise(grid.to(start).unbind())):
            if way == "exact":
                state, sign, log_det = jump_and_log_det(flow_map, s, t, state, given, chunk)
                folded = folded | ~(sign > 0)
                total = total + log_det
                continue
            source = stream(key, k, device=x.device)
            state, found, below = _estimated(
                flow_map, s, t, state, given, chunk, (probes, most), source
            )
            total, fall = total + found.mean(0), fall + below
            variance = variance + found.var(0) / probes if probes > 1 else total * math.nan
        check_finite_rows(state, "X_{1,0}(x), what the map gives,")
        log_prob = log_base_of(flow_map, base, state) + total - log_scale(flow_map, x)
        back, forth = state, torch.zeros_like(total)
        for s, t in pairwise(grid.flip(0).to(start).unbind()):
            if way == "exact":
                back, _, log_det = jump_and_log_det(flow_map, s, t, back, given, chunk)
                forth = forth + log_det
            else:
                back, forth = jump_rows(flow_map, s, t, back, given), forth * math.nan
        if transform is not None:
            state, back = transform.invert(state), transform.invert(back)
    residual = torch.linalg.vector_norm((back - x).flatten(1), dim=1)
    spread, moved = ((x - other).flatten(1).square().sum(1).mean() for other in (x.mean(0), state))
    made = MapDensity(
        log_prob,
        variance.sqrt(),
        fall,
        state,
        residual,
        total + forth,
        folded if way == "exact" else None,
        float(torch.maximum(spread, moved).sqrt()),
    )
    _warn(made)
    return made


def _estimated(
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


def _warn(found: MapDensity) -> None:
    if found.folds > _FOLDS:
        warnings.warn(
            f"the map is folded (det ≤ 0) in {found.folds:.1%} of the rows, where the log-density"
            " is wrong, by more than its mean tells: train longer, take several jumps (steps=4), or"
            " take the ODE of its tangent, tpf.log_likelihood(flow_map, x), which cannot fold",
            FoldedMapWarning,
            stacklevel=4,
        )
    middle = float(found.inverse_residual.median())
    if not middle <= _RESIDUAL * found.scale:
        warnings.warn(
            f"going back to t = 0 and forth again misses x by {middle:.3g} (median), and the scale"
            f" of the data is {found.scale:.3g}: X_{{1,0}} is not the inverse of X_{{0,1}}, and"
            " this is not the density of its samples. Pairs of times in both orders train it,"
            " UniformPairs(both=True); without, take tpf.log_likelihood(flow_map, x), the ODE of"
            " its tangent",
            InverseMapWarning,
            stacklevel=4,
        )
