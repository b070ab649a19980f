r"""Trajectories through snapshots: plans between neighbours, joined into a Markov chain.

With ``π_k`` the plan between the snapshots k and k + 1 the law of (y_1, ..., y_K) is

.. math:: \pi_1(y_1, y_2)\, \pi_2(y_3 \mid y_2) \cdots \pi_{K-1}(y_K \mid y_{K-1}) ,

whose k-th state has the law of the k-th snapshot. What a chain cannot know is where a member of the
third snapshot was in the first, beyond what the second says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.arguments import integer, positive_integer
from .._core.arrays import DataLike, as_tensor, is_array, together
from .._core.checks import check_finite_rows, check_same_kind
from .._core.random import draw_key, local, mix, stream
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import state_dtype
from ..couplings import TransportPlan
from ..couplings.plan_data import row_weights
from ..distributions import Distribution
from ..fields import Field
from ..samplers import sample
from .multimarginal import Multimarginal
from .snapshot_path import unit_knots

__all__ = ["LeftOut", "Trajectories", "leave_one_out"]


@checked
class Trajectories(Distribution):
    """The law of ``(y_1, ..., y_K)``, one point of each snapshot, joined by transport plans.

    Every draw is a row of each snapshot. Plans are those of
    :class:`~transportflows.couplings.TransportPlan`, made once, when the law is; the chain is drawn
    from its end, which has the same law.

    Args:
        snapshots: K tensors ``(N_k, *)`` of one event shape, in the order of their times.
        regularisation: of entropic plans, absolute, for the cost ``|x - y|²``: 2a for the motion of
            members that diffuse with variance a between two snapshots. None, or 0, for exact plans.
        weights: for each snapshot weights of its rows ``(N_k,)`` of sum 1, or None for equal ones;
            None for equal ones in all.
        tolerance: of the marginals of an entropic plan, an L1 norm; 1e-3 by default.
        max_steps: bound on the steps of the solver.

    Attributes:
        plans: K - 1 of them; the ``report`` of each says how good it is.

    Raises:
        ValueError: if there are fewer than two snapshots, their events have different shapes, rows
            are NaN or infinite, weights do not fit or do not sum to 1, or two are too large for an
            exact plan or too far apart for the regularisation.
        TypeError: if snapshots are no tensors, or of different dtypes.
        RuntimeError: if a plan did not converge.

    Example:
        >>> law = Trajectories([torch.zeros(3, 2), torch.ones(5, 2), torch.ones(4, 2)])
        >>> law.sample(2).shape
        torch.Size([2, 3, 2])
    """

    def __init__(
        self,
        snapshots: Sequence[DataLike],
        *,
        regularisation: float | None = None,
        weights: Sequence[DataLike | None] | None = None,
        tolerance: float | None = None,
        max_steps: int | None = None,
    ) -> None:
        rows = check_snapshots(snapshots)
        super().__init__((len(rows), *rows[0].shape[1:]))
        self.regularisation = regularisation
        given: list[DataLike | None] = [None] * len(rows) if weights is None else list(weights)
        if len(given) != len(rows):
            raise ValueError(
                f"there are {len(rows)} snapshots and {len(given)} weights; give one each, None for"
                " equal ones"
            )
        for k, points in enumerate(rows):
            given[k] = row_weights(given[k], points, f"weights[{k}]")
            self.register_buffer(f"snapshot_{k}", points.detach(), persistent=False)
        options = {"tolerance": tolerance, "max_steps": max_steps}
        self.plans = tuple(
            _plan(rows, given, k, regularisation=regularisation or 0.0, **options)
            for k in range(len(rows) - 1)
        )

    @property
    def snapshots(self) -> list[Tensor]:
        """The K snapshots, in their order."""
        return [getattr(self, f"snapshot_{k}") for k in range(self.shape[0])]

    def extra_repr(self) -> str:
        counts = [len(points) for points in self.snapshots]
        plans = f"plans of {self.regularisation:g}" if self.regularisation else "exact plans"
        return f"{tuple(self.shape)}, rows={counts}, {plans}"

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        draws, points = local(generator, "cpu"), self.snapshots
        ends = self.plans[-1].report.x1_mass.cpu().cumsum(0)
        u = torch.rand(integer("n", n, "a number of draws", least=0), generator=draws).double()
        now = torch.searchsorted(ends, u * ends[-1], right=True).clamp_(max=len(ends) - 1)
        drawn = [points[-1][now.to(points[-1].device)]]
        for plan, there in zip(reversed(self.plans), reversed(points[:-1]), strict=True):
            now = plan.partners(now, generator=draws)
            drawn.append(there[now.to(there.device)])
        drawn.reverse()
        made = torch.stack(drawn, 1)
        return made.to(device=device or made.device, dtype=state_dtype(dtype, made.dtype))


def _plan(
    rows: list[Tensor], weights: Sequence[DataLike | None], k: int, **options: Any
) -> TransportPlan:
    """The plan between the snapshots k and k + 1, solved."""
    try:
        plan = TransportPlan(
            rows[k], rows[k + 1], x0_weights=weights[k], x1_weights=weights[k + 1], **options
        )
        _ = plan.report
    except ValueError as error:
        raise ValueError(f"between the snapshots {k} and {k + 1}: {error}") from error
    except RuntimeError as error:
        raise RuntimeError(f"between the snapshots {k} and {k + 1}: {error}") from error
    return plan


def check_snapshots(snapshots: Sequence[DataLike]) -> list[Tensor]:
    """Snapshots as a list, if they are samples of one event shape.

    Raises:
        TypeError: if they are one tensor, no tensors, or of different dtypes.
        ValueError: if there are fewer than two, of different event shapes, or NaN.
    """
    if isinstance(snapshots, Tensor) or is_array(snapshots):
        whole = as_tensor("snapshots", snapshots)  # type: ignore[arg-type]
        raise TypeError(
            "snapshots are a list of tensors, one for each time, got one tensor"
            f" {tuple(whole.shape)}; write list(x) where its first dimension is the time"
        )
    given = list(snapshots)
    rows = together(tuple(f"snapshots[{k}]" for k in range(len(given))), *given)
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

    Example:
        >>> import torch
        >>> truth = torch.tensor([[1.0]])
        >>> one = LeftOut(1, 0.5, truth, found=truth + 0.5, transported=truth + 1)
        >>> [float((guess - one.truth).abs()) for guess in (one.found, one.transported)]
        [0.5, 1.0]
    """

    index: int
    time: float
    truth: Tensor
    found: Tensor
    transported: Tensor

    __repr__ = summary


@checked
def leave_one_out(
    snapshots: Sequence[DataLike],
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
        snapshots: K of them, ``(N_k, *)`` each, K at least 3.
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

    Example:
        >>> import torch, transportflows as tpf
        >>> first = torch.arange(5.0)[:, None]
        >>> moved = [first, first + 1, first + 3]  # at the times 0, 1 and 3: at the speed 1
        >>> train = lambda process, law: tpf.Velocity(lambda t, x: 3 + 0 * x, process)
        >>> (one,) = leave_one_out(moved, [0.0, 1.0, 3.0], train, n=50)
        >>> sorted(set(one.found.flatten().round(decimals=3).tolist()))
        [1.0, 2.0, 3.0, 4.0, 5.0]
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
