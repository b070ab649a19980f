r"""Paths through K points at K times, straight between them or a natural cubic spline.

.. math:: x_t = \sum_k w_k(t)\, y_k + \gamma(t)\, z , \qquad w_k(t_j) = \delta_{kj},

so that x_t is y_k at the k-th time, with weights that hang on the times alone. The spline has
``ẍ = 0`` at both ends and minimises ``∫ |ẍ|² dt`` among all curves through the points (Holladay
1957); its second derivatives M at the points solve ``h_{k-1} M_{k-1} + 2 (h_{k-1} + h_k) M_k + h_k
M_{k+1} = 6 (Δ_k - Δ_{k-1})``, h the lengths of the intervals and Δ the slopes of the chords.

γ is that of a latent scale in each interval, by its own time u in [0, 1], so that it vanishes at
every snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._core.arguments import number
from .._core.precision import wide
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..interpolants import Gamma, Interpolant

__all__ = ["PiecewiseGamma", "SnapshotPath"]


def unit_knots(times: Sequence[float]) -> list[float]:
    """Times of snapshots, from 0 to 1.

    Raises:
        ValueError: if there are fewer than two, or they do not increase.
    """
    found = [number(f"times[{k}]", time, "a finite time") for k, time in enumerate(times)]
    if len(found) < 2:
        raise ValueError(
            f"there are snapshots at {len(found)} time, and a path between them needs two at least"
        )
    for k, (one, two) in enumerate(pairwise(found)):
        if not one < two:
            raise ValueError(
                f"times of snapshots must increase, and times[{k}] = {one:g} is followed by"
                f" {two:g}; sort the snapshots by their times, and put those of one time together"
            )
    span = found[-1] - found[0]
    return [(time - found[0]) / span for time in found[:-1]] + [1.0]


@checked
class PiecewiseGamma(Gamma):
    """A latent scale that is another one in each interval between snapshots, at its own time.

    Args:
        gamma: of one interval, with a finite γ̇ at its ends, such as ``SineSquared(0.5)``.
        times: of the snapshots, increasing; they are mapped to [0, 1].

    Raises:
        ValueError: if γ̇ is infinite at an end of the interval.

    Example:
        >>> from transportflows.interpolants import SineSquared
        >>> gamma = PiecewiseGamma(SineSquared(0.5), [0.0, 1.0, 4.0])  # [0, 1/4] and [1/4, 1]
        >>> gamma.gamma(torch.tensor([0.0, 0.125, 0.25, 0.625])).round(decimals=4)
        tensor([0.0000, 0.5000, 0.0000, 0.5000])
    """

    knots: Tensor

    def __init__(self, gamma: Gamma, times: Sequence[float]) -> None:
        super().__init__()
        self.inner, self.times = gamma, [float(time) for time in times]
        knots = unit_knots(times)
        if not bool(
            gamma.gamma_dot(torch.tensor([0.0, 1.0], dtype=torch.float64)).isfinite().all()
        ):
            raise ValueError(
                f"γ̇ of {gamma!r} is infinite at its ends, and so it would be at each snapshot,"
                " where targets ẋ would have no variance; give one whose γ̇ is finite, such as"
                " tpf.interpolants.SineSquared(0.5)"
            )
        self.breakpoints = tuple(knots[1:-1])
        self.register_buffer("knots", torch.tensor(knots, dtype=torch.float64), persistent=False)

    def _own(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The time in its interval, and the length of that."""
        return _interval(self.knots, t)[1:]

    def gamma_sq(self, t: Tensor) -> Tensor:
        return self.inner.gamma_sq(self._own(t)[0])

    def gamma(self, t: Tensor) -> Tensor:
        return self.inner.gamma(self._own(t)[0])

    def gamma_sq_dot(self, t: Tensor) -> Tensor:
        u, length = self._own(t)
        return self.inner.gamma_sq_dot(u) / length

    def gamma_dot(self, t: Tensor) -> Tensor:
        u, length = self._own(t)
        return self.inner.gamma_dot(u) / length

    def gamma_slope_sq(self, t: Tensor) -> Tensor:
        u, length = self._own(t)
        return self.inner.gamma_slope_sq(u) / length.square()

    def config(self) -> dict[str, Any]:
        return {"gamma": self.inner, "times": self.times}


@checked
class SnapshotPath(Interpolant):
    """The path through K points, which its ``mean`` takes in the place of x1, ``(B, K, *)``.

    Args:
        times: of the snapshots, increasing; they are mapped to [0, 1].
        smooth: a natural cubic spline; otherwise straight between the points.
        gamma: a latent scale for each interval, or None.

    Raises:
        ValueError: if times do not increase, or γ̇ is infinite at its ends.

    Example:
        >>> points = torch.tensor([[[0.0], [1.0], [4.0]]])  # three points of one path
        >>> bent, straight = (SnapshotPath([0.0, 1.0, 2.0], smooth=s) for s in (True, False))
        >>> t = torch.tensor([0.75])
        >>> float(straight.mean(t, None, points)), round(float(bent.mean(t, None, points)), 4)
        (2.5, 2.3125)
    """

    uses_base: ClassVar[bool] = False
    knots: Tensor
    bends: Tensor

    def __init__(
        self, times: Sequence[float], *, smooth: bool = True, gamma: Gamma | None = None
    ) -> None:
        knots = unit_knots(times)
        self.breakpoints = tuple(knots[1:-1])
        super().__init__(None if gamma is None else PiecewiseGamma(gamma, times))
        self.times, self.smooth = [float(time) for time in times], smooth
        table = torch.tensor(knots, dtype=torch.float64)
        self.register_buffer("knots", table, persistent=False)
        self.register_buffer("bends", _bends(table, smooth), persistent=False)

    def weights(self, t: Tensor) -> Tensor:
        """``w_k(t)``, ``(B, K)``, at times ``(B,)``, in float64."""
        k, u, h = _interval(self.knots, wide(t))
        first, last, eye = (
            self.bends[k],
            self.bends[k + 1],
            torch.eye(len(self.knots)).to(self.bends),
        )
        a, b, h = (1 - u)[:, None], u[:, None], h[:, None]
        bent = (a**3 - a) * first + (b**3 - b) * last
        return a * eye[k] + b * eye[k + 1] + h * h / 6 * bent

    def weights_dot(self, t: Tensor) -> Tensor:
        """Their derivatives, ``(B, K)``; at a snapshot those of the interval that begins there."""
        k, u, h = _interval(self.knots, wide(t))
        first, last, eye = (
            self.bends[k],
            self.bends[k + 1],
            torch.eye(len(self.knots)).to(self.bends),
        )
        a, b, h = (1 - u)[:, None], u[:, None], h[:, None]
        bent = (3 * b * b - 1) * last - (3 * a * a - 1) * first
        return (eye[k + 1] - eye[k]) / h + h / 6 * bent

    def mean(self, t: Tensor, x0: Tensor | None, x1: Tensor) -> Tensor:
        """``Σ w_k y_k``, ``(B, *)``, for points ``(B, K, *)``."""
        return self._sum(self.weights(self._rows(t, x1)), x1)

    def mean_dot(self, t: Tensor, x0: Tensor | None, x1: Tensor) -> Tensor:
        return self._sum(self.weights_dot(self._rows(t, x1)), x1)

    def _rows(self, t: Tensor, x1: Tensor) -> Tensor:
        if x1.ndim < 3 or x1.shape[1] != len(self.knots):
            raise ValueError(
                f"the path goes through {len(self.knots)} points, (B, {len(self.knots)}, *), got"
                f" {tuple(x1.shape)}; fit a law of them,"
                " Trainer(field).fit(Trajectories(snapshots))"
            )
        return (t if t.ndim == 0 else t.flatten()).expand(len(x1))

    def _sum(self, weights: Tensor, x1: Tensor) -> Tensor:
        return (expand_time(weights.to(x1), x1) * x1).sum(1)

    def end_errors(self, x0: Tensor, x1: Tensor) -> dict[str, float]:
        zero, one = x1.new_zeros(()), x1.new_ones(())
        ends = {"x(0) - y_1": (zero, x1[:, 0]), "x(1) - y_K": (one, x1[:, -1])}
        return {
            **{
                name: float((self.mean(t, None, x1) - y).abs().max())
                for name, (t, y) in ends.items()
            },
            **self._latent_end_errors(x1),
        }

    def config(self) -> dict[str, Any]:
        gamma = None if self.latent is None else self.latent.inner
        return {"times": self.times, "smooth": self.smooth, "gamma": gamma}


def _interval(knots: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The number of the interval a time is in, its place there in [0, 1], and the length."""
    knots = knots.to(t)
    k = (torch.searchsorted(knots, t.detach().contiguous(), right=True) - 1).clamp(
        0, len(knots) - 2
    )
    length = knots[k + 1] - knots[k]
    return k, (t - knots[k]) / length, length


def _bends(knots: Tensor, smooth: bool) -> Tensor:
    """Second derivatives at the knots of the spline through each unit vector, ``(K, K)``."""
    n = len(knots)
    bends = torch.zeros(n, n, dtype=knots.dtype)
    if not smooth or n == 2:
        return bends
    h = knots.diff()
    left, right = torch.zeros(n - 2, n - 2, dtype=knots.dtype), torch.zeros_like(bends[1:-1])
    for k in range(n - 2):
        left[k, k] = 2 * (h[k] + h[k + 1])
        if k > 0:
            left[k, k - 1] = h[k]
        if k < n - 3:
            left[k, k + 1] = h[k + 1]
        right[k, k] = 6 / h[k]
        right[k, k + 1] = -6 / h[k] - 6 / h[k + 1]
        right[k, k + 2] = 6 / h[k + 1]
    bends[1:-1] = torch.linalg.solve(left, right)
    return bends
