r"""Modes of a known mixture: which were found, and with what weights.

With responsibilities :math:`r_k(x) = w_k N(x; m_k, S_k) / \rho(x)`, the estimate
:math:`\hat w_k = \frac1N \sum_i r_k(x_i)` has mean :math:`w_k` under the mixture itself, however
much its modes overlap, which a count of nearest centres has not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.reprs import summary
from .._core.samples import block_rows, check_at_least, rows_of
from .._core.signatures import checked
from ..distributions.mixture import GaussianMixture

__all__ = ["ModeWeights", "mode_weights"]


@checked
@dataclass(frozen=True, eq=False)
class ModeWeights:
    """Modes of a mixture as samples show them.

    Attributes:
        counts: samples whose likeliest mode is k, ``(K,)``.
        weights: mean responsibilities, ``(K,)``, float64.
        standard_error: of the weights, ``(K,)``, for independent samples.
        expected: the mixture's own weights, ``(K,)``.
        found: modes with at least a tenth of their weight.
        far: share of samples further from every mode than 4 standard deviations in the sense of a
            normal law (a chi-square tail of 6.3e-5); nearly 0 for exact samples.
    """

    counts: Tensor
    weights: Tensor
    standard_error: Tensor
    expected: Tensor
    found: int
    far: float

    __repr__ = summary


@checked
def mode_weights(x: DataLike, mixture: GaussianMixture) -> ModeWeights:
    r"""Return counts and weights of the modes of a Gaussian mixture in samples.

    Unbiased for samples of the mixture; for other laws a projection on it. ``O(N K d²)``.

    Args:
        x: samples, ``(N, *)``, at least two.
        mixture: the known law, of the same event shape.

    Raises:
        TypeError: if x is not a tensor or an array of a floating-point dtype, or the law no
            mixture.
        ValueError: if x is not finite, has fewer than two rows or another event shape.

    Example:
        >>> from transportflows.distributions import GaussianMixture
        >>> two = GaussianMixture(torch.tensor([[-3.0], [3.0]]), 0.5)
        >>> mode_weights(torch.tensor([[-3.0], [-2.9], [3.1], [-3.2]]), two).counts.tolist()
        [3, 1]
    """
    if not isinstance(mixture, GaussianMixture):
        raise TypeError(f"mixture must be a GaussianMixture, got {type(mixture).__name__}")
    x = as_rows("x", x, torch.float64)
    if x.shape[1:] != mixture.shape:
        raise ValueError(
            f"x has events of shape {tuple(x.shape[1:])} and the mixture {tuple(mixture.shape)}"
        )
    rows = rows_of(x, "x")
    check_at_least(2, "an error bar", x=rows)
    means = mixture.means.flatten(1).to(rows)
    factors = torch.linalg.cholesky(mixture.covariances.to(rows))
    log_weight = mixture.weights.to(rows).log()
    log_det = factors.diagonal(dim1=1, dim2=2).log().sum(1)
    d, parts, nearest = rows.shape[1], [], []
    for block in torch.split(rows, block_rows(means.numel(), rows.device)):
        centred = (block[:, None] - means).permute(1, 2, 0)
        square = torch.linalg.solve_triangular(factors, centred, upper=False).square().sum(1).mT
        parts.append(torch.softmax(log_weight - log_det - 0.5 * square, 1))
        nearest.append(square.amin(1))
    responsibility = torch.cat(parts)
    limit = _chi_square_quantile(d)
    weights = responsibility.mean(0)
    return ModeWeights(
        counts=torch.bincount(responsibility.argmax(1), minlength=len(means)),
        weights=weights,
        standard_error=responsibility.std(0) / math.sqrt(len(rows)),
        expected=mixture.weights,
        found=int((weights >= 0.1 * mixture.weights.to(rows)).sum()),
        far=float((torch.cat(nearest) > limit).double().mean()),
    )


def _chi_square_quantile(d: int) -> float:
    from scipy import stats

    return float(stats.chi2.isf(2 * stats.norm.sf(4), d))
