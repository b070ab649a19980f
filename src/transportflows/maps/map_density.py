"""Log-densities by a flow map, with what says how far they can be trusted."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.reprs import summary
from .._core.signatures import checked

__all__ = [
    "CoarseEstimateWarning",
    "FoldedMapWarning",
    "InverseMapWarning",
    "MapDensity",
    "warn_of",
]

_FOLDS = 0.02  # share of rows that is told of
_RESIDUAL = 0.1  # of the scale of the data, likewise


class CoarseEstimateWarning(UserWarning):
    """The estimate of a determinant has not come to rest: it is too high by more than its error."""


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
        quadrature_error: by how much the estimate fell in the second half of the steps of its
            quadrature, ``(n,)``; 0 for all columns. It is too high by about as much; by less where
            this is small, and by more after few steps.
        latent: ``X_{1,0}(x)``, in the units of the data, ``(n, *)``.
        inverse_residual: ``|X_{0,1}(X_{1,0}(x)) - x|``, in the units of the data, ``(n,)``.
        log_det_residual: ``log |det ∇X_{1,0}(x)| + log |det ∇X_{0,1}|`` there, ``(n,)``: 0 of a map
            and its inverse; otherwise by about so much the density of what X_{0,1} samples is
            another. NaN of estimates.
        folded: rows in which a determinant is 0 or less, ``(n,)``; None where signs are not known,
            as of estimates.
        scale: of the data, to hold the residual against: the larger of the root mean square
            distance of the rows from their mean (of one row from 0), and of that which they were
            moved.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)), coupling=tpf.Paired())
        >>> shift = tpf.maps.FlowMap(lambda s, t, x: 3 + 0 * x, process)  # from N(0, 1) to N(3, 1)
        >>> found = tpf.maps.log_density(shift, torch.tensor([[3.0], [4.0]]))
        >>> found.latent.flatten(), found.folds, [round(v, 4) for v in found.log_prob.tolist()]
        (tensor([0., 1.]), 0.0, [-0.9189, -1.4189])
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


def warn_of(found: MapDensity) -> None:
    """Tell of folds, and of a map that is not its own inverse, where the caller called."""
    if found.folds > _FOLDS:
        warnings.warn(
            f"the map is folded (det ≤ 0) in {found.folds:.1%} of the rows, where its density"
            " is wrong: train longer, take several jumps (steps=4), or take the ODE of its tangent,"
            " tpf.log_likelihood(flow_map, x), which cannot fold",
            FoldedMapWarning,
            stacklevel=4,
        )
    coarse = found.quadrature_error - found.standard_error
    if bool((coarse > 0).double().mean() > 0.5):
        warnings.warn(
            "the estimate of the determinant is too high by up to"
            f" {float(found.quadrature_error.median()):.3g} nats (median), and its standard error"
            f" is {float(found.standard_error.median()):.3g}: write more steps, most=1024, or"
            ' method="exact", which costs a derivative for each number of an event',
            CoarseEstimateWarning,
            stacklevel=4,
        )
    middle = float(found.inverse_residual.median())
    rounding = torch.finfo(found.latent.dtype).eps ** 0.5  # of rows that lie in one point
    if not middle <= max(_RESIDUAL * found.scale, rounding):
        warnings.warn(
            f"going back to t = 0 and forth again misses x by {middle:.3g} (median), and the scale"
            f" of the data is {found.scale:.3g}: X_{{1,0}} is not the inverse of X_{{0,1}}, and"
            " this is not the density of its samples. Pairs of times in both orders train it,"
            " UniformPairs(both=True); without, take tpf.log_likelihood(flow_map, x), the ODE of"
            " its tangent",
            InverseMapWarning,
            stacklevel=4,
        )
