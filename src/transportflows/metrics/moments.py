r"""Errors of the first two moments, against known values or against samples.

.. math:: \hat\mu = \frac1N \sum_i x_i, \qquad
          \hat\Sigma = \frac{1}{N-1} \sum_i (x_i - \hat\mu)(x_i - \hat\mu)^\top

over the flattened event. They see a wrong mean or scale at once, at the cost of one pass, and
nothing else: two laws of equal moments are the same to them. Even for exact samples they are not
zero: with Σ the true covariance,

.. math:: E|\hat\mu - \mu|^2 = \frac{\mathrm{tr}\,\Sigma}{N}, \qquad
          E|\hat\Sigma - \Sigma|_F^2 = \frac{(\mathrm{tr}\,\Sigma)^2 + \mathrm{tr}\,\Sigma^2}{N - 1}

(the second for Gaussian samples), and the sum of both sides' where the reference is samples too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.precision import as_wide
from .._core.reprs import summary
from .._core.samples import check_at_least, event_rows, rows_of
from .._core.signatures import checked

__all__ = ["MomentError", "MomentSummary", "covariance_error", "mean_error", "moment_summary"]


@checked
@dataclass(frozen=True)
class MomentError:
    """An error of a moment, beside what exact samples of this size would show.

    Attributes:
        value: the error.
        floor: the root of the mean squared error of exact samples, estimated from the covariance
            of the reference (of the samples, where it is unknown).
    """

    value: float
    floor: float

    __repr__ = summary


@checked
@dataclass(frozen=True, eq=False)
class MomentSummary:
    """Mean, standard deviation, skewness and excess kurtosis of each coordinate of two samples.

    Attributes:
        mean: of x, of the event's shape; float64, as all.
        std: of x, with N - 1.
        skewness: of x, third standardised moment; NaN where a coordinate does not vary.
        kurtosis: of x, fourth standardised moment less 3.
        mean_z: difference of the means in standard errors; of size 1 for equal laws.
        std_ratio: standard deviation of x over that of the reference.
    """

    mean: Tensor
    std: Tensor
    skewness: Tensor
    kurtosis: Tensor
    mean_z: Tensor
    std_ratio: Tensor

    __repr__ = summary


@checked
def mean_error(
    x: DataLike, reference: DataLike | None = None, *, mean: DataLike | None = None
) -> MomentError:
    r"""Return :math:`|\hat\mu - \mu|_2`, in units of the data.

    Bias: for exact samples its square has mean ``tr Σ / N`` (``tr Σ (1/N + 1/M)`` against
    samples); ``floor`` is the root of that. An error below twice the floor says nothing.

    Args:
        x: samples, ``(N, *)``, at least two.
        reference: samples of the true law, ``(M, *)``; give these or ``mean``.
        mean: the true mean, of the event's shape.

    Raises:
        TypeError: if a sample is not a tensor or an array of a floating-point dtype.
        ValueError: if a sample is not finite, has fewer than two rows or another event, or both or
            neither of ``reference`` and ``mean`` are given.

    Source: Chang, "Comparing score-based diffusion models and stochastic interpolants", section 3.

    Example:
        >>> mean_error(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), mean=torch.zeros(2)).value
        2.0
    """
    if (reference is None) == (mean is None):
        raise ValueError("give the reference samples or the true mean, one of the two")
    x = as_rows("x", x, torch.float64, like=reference)
    if reference is not None:
        x, other = event_rows(x, reference, ("x", "reference"))
        check_at_least(2, "an error bar of the mean", x=x, reference=other)
        trace = float(other.var(0).sum())
        floor = math.sqrt(trace * (1 / len(x) + 1 / len(other)))
        return MomentError(float((x.mean(0) - other.mean(0)).norm()), floor)
    true = _known(mean, x.shape[1:], "mean")
    x = rows_of(x, "x")
    check_at_least(2, "an error bar of the mean", x=x)
    error = float((x.mean(0) - true.to(x)).norm())
    return MomentError(error, math.sqrt(float(x.var(0).sum()) / len(x)))


@checked
def covariance_error(
    x: DataLike, reference: DataLike | None = None, *, covariance: DataLike | None = None
) -> MomentError:
    r"""Return :math:`|\hat\Sigma - \Sigma|_F`, in squared units of the data.

    Bias: for exact Gaussian samples its square has mean ``((tr Σ)² + tr Σ²) / (N - 1)`` (that of
    both added, against samples); ``floor`` is the root of that, whatever the law: for tails heavier
    than a Gaussian's it is too low.

    Args:
        x: samples, ``(N, *)``, at least two; d numbers in an event, ``O(N d²)`` operations.
        reference: samples of the true law, ``(M, *)``; give these or ``covariance``.
        covariance: the true covariance ``(d, d)`` of the flattened event.

    Raises:
        TypeError: if a sample is not a tensor or an array of a floating-point dtype.
        ValueError: as :func:`mean_error`, or if the covariance is not ``(d, d)``.

    Source: Chang, section 3.

    Example:
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> covariance_error(x, covariance=torch.ones(1, 1)).value
        1.0
    """
    if (reference is None) == (covariance is None):
        raise ValueError("give the reference samples or the true covariance, one of the two")
    if reference is not None:
        x, other = event_rows(x, reference, ("x", "reference"))
        check_at_least(2, "a covariance", x=x, reference=other)
        true, scale = _covariance(other), 1 / (len(x) - 1) + 1 / (len(other) - 1)
    else:
        x = rows_of(x, "x")
        check_at_least(2, "a covariance", x=x)
        true = _known(covariance, torch.Size((x.shape[1], x.shape[1])), "covariance").to(x)
        scale = 1 / (len(x) - 1)
    spread = float(true.trace() ** 2 + true.square().sum())
    return MomentError(float((_covariance(x) - true).norm()), math.sqrt(spread * scale))


@checked
def moment_summary(x: DataLike, reference: DataLike) -> MomentSummary:
    r"""Return mean, spread, skewness and kurtosis of each coordinate, and how two samples differ.

    ``mean_z`` is Welch's statistic, ``(μ̂ - μ̂') / sqrt(s²/N + s'²/M)``: of d of them the largest
    is about :math:`\sqrt{2 \log d}` for equal laws. Skewness and kurtosis are plain moments, of
    bias O(1/N).

    Args:
        x: samples, ``(N, *)``.
        reference: samples to compare with, ``(M, *)``.

    Raises:
        TypeError: if a sample is not a tensor or an array of a floating-point dtype.
        ValueError: if a sample is not finite, has fewer than two rows or another event.

    Source: Welch (1947), for ``mean_z``.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
        >>> moment_summary(x, 2 * x).std_ratio.tolist()
        [0.5, nan]
    """
    x = as_rows("x", x, torch.float64, like=reference)
    shape = x.shape[1:]
    x, other = event_rows(x, reference, ("x", "reference"))
    check_at_least(2, "a standard deviation", x=x, reference=other)
    mean, std = x.mean(0), x.std(0)
    centred = x - mean
    variance = centred.square().mean(0)
    error = (x.var(0) / len(x) + other.var(0) / len(other)).sqrt()
    columns = {
        "mean": mean,
        "std": std,
        "skewness": centred.pow(3).mean(0) / variance.pow(1.5),
        "kurtosis": centred.pow(4).mean(0) / variance.square() - 3,
        "mean_z": (mean - other.mean(0)) / error,
        "std_ratio": std / other.std(0),
    }
    return MomentSummary(**{name: column.reshape(shape) for name, column in columns.items()})


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.mT @ centred / (len(x) - 1)


def _known(value: DataLike | None, shape: torch.Size, name: str) -> Tensor:
    """A true moment, as a flat float64 tensor of the right shape."""
    known = as_wide(value).detach()
    if known.shape != shape:
        raise ValueError(f"{name} is {tuple(known.shape)}; for these samples it is {tuple(shape)}")
    if not bool(torch.isfinite(known).all()):
        raise ValueError(f"{name} must be finite")
    return known if name == "covariance" else known.flatten()
