r"""Trajectories through snapshots: plans between neighbours, joined into a Markov chain.

With ``π_k`` the plan between the snapshots k and k + 1 the law of (y_1, ..., y_K) is

.. math:: \pi_1(y_1, y_2)\, \pi_2(y_3 \mid y_2) \cdots \pi_{K-1}(y_K \mid y_{K-1}) ,

whose k-th state has the law of the k-th snapshot. What a chain cannot know is where a member of the
third snapshot was in the first, beyond what the second says.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .._core.arguments import positive_integer, positive_number
from .._core.checks import check_finite_rows, check_same_kind
from .._core.distances import square_distances
from .._core.precision import wide
from .._core.random import draw_key, local, mix, stream
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import state_dtype
from ..distributions import Distribution
from ..fields import Field
from ..plans import ConvergenceWarning, entropic_plan, exact_plan
from ..samplers import sample
from .multimarginal import Multimarginal
from .snapshot_path import unit_knots

__all__ = ["LeftOut", "Trajectories", "leave_one_out"]

_MOST = 50_000_000  # pairs of points of a plan: 2 GB


@checked
class Trajectories(Distribution):
    """The law of ``(y_1, ..., y_K)``, one point of each snapshot, joined by transport plans.

    Every draw is a row of each snapshot; each snapshot is uniform over its rows. Plans are made
    once, when the law is.

    Args:
        snapshots: K tensors ``(N_k, *)`` of one event shape, in the order of their times.
        regularisation: of entropic plans, absolute, for the cost ``|x - y|²``: 2a for the motion of
            members that diffuse with variance a between two snapshots. None for exact plans.

    Raises:
        ValueError: if there are fewer than two snapshots, their events have different shapes, rows
            are NaN or infinite, two are too large for a plan, or a plan did not converge.
        TypeError: if snapshots are no tensors, or of different dtypes.

    Example:
        >>> law = Trajectories([torch.zeros(3, 2), torch.ones(5, 2), torch.ones(4, 2)])
        >>> law.sample(2).shape
        torch.Size([2, 3, 2])
    """

    def __init__(self, snapshots: Sequence[Tensor], *, regularisation: float | None = None) -> None:
        rows = check_snapshots(snapshots)
        super().__init__((len(rows), *rows[0].shape[1:]))
        if regularisation is not None:
            regularisation = positive_number("regularisation", regularisation)
        self.regularisation = regularisation
        for k, points in enumerate(rows):
            self.register_buffer(f"snapshot_{k}", points.detach(), persistent=False)
        self._plans = [
            _Links(one, two, regularisation, k) for k, (one, two) in enumerate(pairwise(rows))
        ]

    @property
    def snapshots(self) -> list[Tensor]:
        """The K snapshots, in their order."""
        return [getattr(self, f"snapshot_{k}") for k in range(self.shape[0])]

    def extra_repr(self) -> str:
        counts = [len(points) for points in self.snapshots]
        plans = (
            "exact plans" if self.regularisation is None else f"plans of {self.regularisation:g}"
        )
        return f"{tuple(self.shape)}, rows={counts}, {plans}"

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        points = self.snapshots
        draws = local(generator, "cpu")
        now = torch.randint(len(points[0]), (n,), generator=draws)
        drawn = [points[0][now.to(points[0].device)]]
        for links, there in zip(self._plans, points[1:], strict=True):
            now = links.follow(now, torch.rand(n, generator=draws, dtype=torch.float64))
            drawn.append(there[now.to(there.device)])
        made = torch.stack(drawn, 1)
        return made.to(device=device or made.device, dtype=state_dtype(dtype, made.dtype))


class _Links:
    """A plan as the partners of each row, with sums of their masses over all rows before."""

    def __init__(self, x: Tensor, y: Tensor, regularisation: float | None, k: int) -> None:
        x, y = wide(x).cpu().flatten(1), wide(y).cpu().flatten(1)
        if len(x) * len(y) > _MOST:
            raise ValueError(
                f"a plan between {len(x):,} and {len(y):,} points is too large (up to {_MOST:,}"
                f" pairs); give a subset of the snapshots {k} and {k + 1}, such as"
                " x[torch.randperm(len(x))[:5_000]]"
            )
        if regularisation is None:
            p, q = (torch.full((len(rows),), 1 / len(rows), dtype=x.dtype) for rows in (x, y))
            plan = exact_plan(square_distances(x, y).sqrt_(), p, q)
            order = plan.rows.argsort(stable=True)
            rows, self.partners, mass = plan.rows[order], plan.columns[order], plan.mass[order]
            self.sums = mass.cumsum(0)
            counts = torch.bincount(rows, minlength=len(x)).cumsum(0)
        else:
            mass = _entropic(x, y, regularisation, k)
            self.partners = torch.arange(len(y)).repeat(len(x))
            self.sums = mass.flatten().cumsum(0)
            counts = len(y) * torch.arange(1, len(x) + 1)
        self.last = counts - 1  # the place of each row's last partner
        ends = torch.cat([self.sums.new_zeros(1), self.sums[self.last]])
        self.start, self.mass = ends[:-1], ends.diff()

    def follow(self, rows: Tensor, u: Tensor) -> Tensor:
        """A partner of each of some rows, by uniform numbers u."""
        place = torch.searchsorted(self.sums, self.start[rows] + u * self.mass[rows], right=True)
        first = torch.cat([self.last.new_full((1,), -1), self.last])[rows] + 1
        return self.partners[torch.minimum(torch.maximum(place, first), self.last[rows])]


def _entropic(x: Tensor, y: Tensor, epsilon: float, k: int) -> Tensor:
    """The entropic plan as a matrix."""
    centre = torch.cat([x, y]).mean(0)
    x, y = x - centre, y - centre
    p, q = (torch.full((len(rows),), 1 / len(rows), dtype=x.dtype) for rows in (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an error below instead
        plan = entropic_plan(x, y, p, q, epsilon=epsilon)
    if not plan.converged:
        raise ValueError(
            f"the plan between the snapshots {k} and {k + 1} did not converge at regularisation"
            f" {epsilon:g} (its marginals are off by {plan.violation:.2g}); give a larger one, or"
            " None for exact plans"
        )
    logs = plan.x_potential[:, None] + plan.y_potential - square_distances(x, y)
    return (logs / epsilon).softmax(1) / len(x)


def check_snapshots(snapshots: Sequence[Tensor]) -> list[Tensor]:
    """Snapshots as a list, if they are samples of one event shape.

    Raises:
        TypeError: if they are one tensor, no tensors, or of different dtypes.
        ValueError: if there are fewer than two, of different event shapes, or NaN.
    """
    if isinstance(snapshots, Tensor):
        raise TypeError(
            "snapshots are a list of tensors, one for each time, got one tensor"
            f" {tuple(snapshots.shape)}; write list(x) where its first dimension is the time"
        )
    rows = list(snapshots)
    if len(rows) < 2:
        raise ValueError(f"there must be two snapshots at least, got {len(rows)}")
    for k, points in enumerate(rows):
        check_finite_rows(points, f"snapshots[{k}]")
        if points.shape[1:] != rows[0].shape[1:]:
            raise ValueError(
                f"snapshots[{k}] has events of shape {tuple(points.shape[1:])} and snapshots[0] of"
                f" {tuple(rows[0].shape[1:])}; all are samples (N, *) of one event shape"
            )
        check_same_kind(points, rows[0], f"snapshots[{k}]", "snapshots[0]")
    return rows


@checked
@dataclass(frozen=True, eq=False)
class LeftOut:
    """A snapshot that was left out, and what others make of it.

    Attributes:
        index: which one, from 0.
        time: its time.
        truth: its rows, ``(N, *)``.
        found: the snapshot before, carried to its time by a field trained without it, ``(n, *)``.
        transported: McCann's interpolation between its neighbours at its time: points on the
            straight lines of their exact plan, ``(n, *)``.
    """

    index: int
    time: float
    truth: Tensor
    found: Tensor
    transported: Tensor

    __repr__ = summary


@checked
def leave_one_out(
    snapshots: Sequence[Tensor],
    times: Sequence[float],
    train: Callable[[Multimarginal, Trajectories], Field],
    *,
    n: int = 2_000,
    left: Sequence[int] | None = None,
    smooth: bool = True,
    regularisation: float | None = None,
    steps: int = 100,
    generator: torch.Generator | None = None,
) -> list[LeftOut]:
    """Leave each inner snapshot out in turn, and interpolate it from the others.

    Compare by ``metrics.wasserstein1(one.found, one.truth)`` beside
    ``metrics.wasserstein1(one.transported, one.truth)``: plain transport between the neighbours is
    what a model of more than two snapshots must better.

    Args:
        snapshots: K of them, K at least 3.
        times: theirs, increasing.
        train: makes and trains a field: ``train(process, law)``.
        n: rows to carry, drawn from the snapshot before with replacement.
        left: which to leave out; all but the first and the last by default.
        smooth: see :class:`Multimarginal`.
        regularisation: see :class:`Trajectories`.
        steps: of the solve.
        generator: source of the rows that are carried.

    Raises:
        ValueError: if there are fewer than three snapshots, one to be left out is first or last, or
            they do not fit; see :class:`Trajectories`.
    """
    rows, key, n = check_snapshots(snapshots), draw_key(generator), positive_integer("n", n)
    if len(rows) != len(times):
        raise ValueError(f"there are {len(rows)} snapshots and {len(times)} times")
    unit_knots(times)
    inner = list(range(1, len(rows) - 1))
    chosen = inner if left is None else list(left)
    if not chosen or not set(chosen) <= set(inner):
        raise ValueError(
            f"only inner snapshots can be left out, of {inner}, got {chosen}; what lies outside the"
            " first and the last is no interpolation"
        )
    found = []
    for k in chosen:
        others = [rows[j] for j in range(len(rows)) if j != k]
        process = Multimarginal([times[j] for j in range(len(rows)) if j != k], smooth=smooth)
        field = train(process, Trajectories(others, regularisation=regularisation))
        draws = stream(mix(key, k))
        start = rows[k - 1][torch.randint(len(rows[k - 1]), (n,), generator=draws)]
        span = process.at(times[k - 1]), process.at(times[k])
        moved = sample(field, start=start, t=span, steps=steps, generator=draws).x
        pair = Trajectories([rows[k - 1], rows[k + 1]]).sample(n, generator=draws)
        share = (times[k] - times[k - 1]) / (times[k + 1] - times[k - 1])
        line = torch.lerp(pair[:, 0], pair[:, 1], share)
        found.append(LeftOut(k, float(times[k]), rows[k], moved, line))
    return found
