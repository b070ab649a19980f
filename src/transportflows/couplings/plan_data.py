"""What a plan of whole data is between: a pool or a law, the rows of x1, weights and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows, as_tensor, if_array
from .._core.checks import check_finite_rows, check_same_kind, plain_tensor
from .._core.conditions import check_conditions
from .._core.precision import table_device, wide
from .._core.random import stream
from .._core.registry import alike
from .._core.reprs import brief
from .._core.samples import rows_of
from .._core.tensor import widened
from ..distributions import Distribution, Empirical, as_distribution
from ..plans.entropic import least_epsilon
from .from_law import solve_law
from .from_pool import solve_pool
from .known_rows import KnownRows
from .labels import labels_of, of_one_label
from .sampled_from import check_sampled_from
from .solved import Pool, Solved

__all__ = ["PlanData", "row_weights"]

_SEED = 0x7472616E7370


class PlanData:
    """The data of a plan, checked; for the arguments see :class:`TransportPlan`.

    Attributes:
        x0: the pool, ``(N, *)``; None for a law.
        law: the law; None for a pool.
        x1: data ``(M, *)``, in float32 at least.
        labels: of x1, by name.
        x0_weights: in float64, of sum 1; None for equal ones.
        x1_weights: likewise.
    """

    def __init__(
        self,
        x0: DataLike | Distribution | Any,
        x1: DataLike,
        cond: Mapping[str, Any] | None,
        x0_weights: DataLike | None,
        x1_weights: DataLike | None,
    ) -> None:
        x1 = as_rows("x1", x1, like=x0)
        x0 = if_array("x0", x0, like=x1)
        check_finite_rows(x1, "x1")
        self.x1 = widened(x1.detach())
        self.labels = labels_of(check_conditions(cond, len(x1), rows="rows of x1"))
        self.x0: Tensor | None = None
        self.law: Distribution | None = None
        self.x0_weights: Tensor | None = None
        if isinstance(x0, Tensor):
            check_finite_rows(x0, "x0")
            if x0.shape[1:] != x1.shape[1:]:
                raise ValueError(
                    f"x0 has events of shape {tuple(x0.shape[1:])} and x1 of"
                    f" {tuple(x1.shape[1:])}; a plan is between rows of one shape"
                )
            self.x0 = widened(x0.detach())
            check_same_kind(self.x0, self.x1, "x0", "x1")
            self.x0_weights = row_weights(x0_weights, self.x0, "x0_weights")
        else:
            self.law = as_distribution(x0, x1.shape[1:])
            if self.law.shape != x1.shape[1:]:
                raise ValueError(
                    f"x0 is a law of events of shape {tuple(self.law.shape)} and x1 has"
                    f" {tuple(x1.shape[1:])}; give a law of the shape of the data"
                )
            if x0_weights is not None:
                raise ValueError(
                    "x0_weights are of a pool, and x0 is a law; give a pool,"
                    " TransportPlan(base.sample(10_000), x1, ...), or leave them out"
                )
        self.x1_weights = weights = row_weights(x1_weights, self.x1, "x1_weights")
        if weights is None:
            count = len(self.x1)
            home = table_device(x1.device)
            weights = torch.full((count,), 1 / count, dtype=torch.float64, device=home)
        self.rows = KnownRows(self.x1, list(self.labels.values()), weights)
        self._moved: dict[tuple[torch.device, int], Tensor] = {}

    def on(self, device: torch.device, kept: Tensor) -> Tensor:
        """The pool, x1 or other rows on a device, moved there once."""
        if kept.device == device:
            return kept
        key = device, id(kept)
        if key not in self._moved:
            self._moved[key] = kept.to(device)
        return self._moved[key]

    def labels_like(self, x1: Tensor, cond: Mapping[str, Any]) -> list[Tensor]:
        """The labels of some rows, in the order of their names.

        Raises:
            ValueError: if these are not the labels, or the rows not of the kind, of the plan's.
        """
        plain_tensor("x1", x1)
        labels = labels_of(cond)
        if labels.keys() != self.labels.keys():
            raise ValueError(
                f"the plan was made with the labels {sorted(self.labels)} and is asked for pairs"
                f" with {sorted(labels)}: a plan that does not see a label makes the base depend on"
                " it, and one that does needs it. Write TransportPlan(x0, x1, cond={...}) with the"
                " conditions of x1 that fit is given"
            )
        if x1.shape[1:] != self.x1.shape[1:] or x1.dtype != self.x1.dtype:
            raise ValueError(
                f"the plan is of rows {tuple(self.x1.shape[1:])} {self.x1.dtype} and is asked for"
                f" pairs of rows {tuple(x1.shape[1:])} {x1.dtype}; make it of x1 as it is fitted"
            )
        return list(labels.values())

    def find(self, x1: Tensor, cond: Mapping[str, Any], plan: Solved | None = None) -> Tensor:
        """Which of the different rows these are, ``(B,)``; with a plan, rows to which mass goes.

        Raises:
            ValueError: for rows, or labels, that are none of the plan's.
        """
        rows, known = self.rows.find(x1, self.labels_like(x1, cond))
        if known is None and plan is not None and not plan.all_have_mass:
            known = (plan.row_mass > 0).to(rows.device)[rows]
        if known is not None and not bool(known.all()):
            raise ValueError(
                f"{int((~known).sum())} of {len(x1)} rows are none of the plan's x1"
                f"{' with their labels' if self.labels else ''}, which it knows by their bits. Fit"
                " the x1 that the plan was made of, of the same dtype; where the field has a"
                " transform, make it of transform(x0) and transform(x1). Held-out rows are paired"
                " by pair_held_out, for a loss that is a regression; for another leave validation"
                " out"
            )
        return rows

    def places(self, rows: Tensor, plan: Solved) -> Tensor:
        """Which of the different rows these are, by their numbers in x1, ``(B,)``.

        Raises:
            ValueError: if x0 has no rows, there is no such row of x1, or nothing goes to it.
        """
        if self.law is not None:
            raise ValueError(
                f"the plan is from {brief(self.law)}, which has no rows; pair(x0, x1) takes its"
                " draws, or give a pool, TransportPlan(base.sample(10_000), x1)"
            )
        count = len(self.x1)
        which: Tensor = self.rows.which
        whole = rows.ndim == 1 and not (rows.is_floating_point() or rows.is_complex())
        if not whole or rows.dtype == torch.bool or bool(((rows < 0) | (rows >= count)).any()):
            raise ValueError(
                f"rows are numbers of rows of x1, integers (B,) from 0 to {count - 1}, got"
                f" {rows.dtype} {tuple(rows.shape)}"
            )
        place = which[rows.to(which.device)]
        if not plan.all_have_mass and not bool((plan.row_mass > 0).to(place.device)[place].all()):
            raise ValueError("the plan brings nothing to some of these rows; leave them out")
        return place

    def weights_of(self, plan: Solved, x1: Tensor, cond: Mapping[str, Any]) -> Tensor | None:
        """With what weights the rows of a data set are drawn, ``(N,)``; None for equal ones.

        Raises:
            ValueError: if they are not those of the plan, or not all of them.
        """
        rows = self.find(x1, cond)
        copies = torch.bincount(rows, minlength=len(self.rows))
        missing = int(((copies == 0) & (plan.row_mass.to(copies.device) > 0)).sum())
        if missing:
            raise ValueError(
                f"the data lack {missing} of the {len(self.rows)} different rows of the"
                " plan's x1, and the x0 that go with them would never come; fit the same x1, or"
                " make the plan of the rows that are fitted"
            )
        weights = (plan.row_mass.to(copies.device) / copies.clamp(min=1))[rows]
        equal = float((weights * len(x1) - 1).abs().max()) < 1e-6
        return None if equal else weights

    def told(self) -> list[str]:
        """What x0 and x1 are, for a person to read."""
        x0, x1 = self.x0, self.x1
        first = brief(self.law) if x0 is None else f"<{len(x0):,} rows>"
        return [first, f"<{len(x1):,} rows of {tuple(x1.shape[1:])}>"]

    def config(self) -> dict[str, Any]:
        """The arguments that it was made of."""
        return {
            "x0": self.law if self.x0 is None else self.x0,
            "x1": self.x1,
            "cond": self.labels or None,
            "x0_weights": self.x0_weights,
            "x1_weights": self.x1_weights,
        }

    def check_base(self, base: Distribution) -> None:
        """Refuse a base of other events, or another than x0 is, or is a sample of."""
        law, x1 = self.law, self.x1
        if base.shape != x1.shape[1:]:
            raise ValueError(
                f"the base has events of shape {tuple(base.shape)} and the plan"
                f" {tuple(x1.shape[1:])}"
            )
        if self.x0 is not None and not isinstance(base, Empirical):
            check_sampled_from(base, self.x0, self.x0_weights)
        same = (
            law is None or alike(law, base) or getattr(base, "law", base) is law.__dict__.get("law")
        )
        if not same:
            raise ValueError(
                f"the plan is from {brief(law)} and the base is {brief(base)}; leave base out, or"
                " give the same object to both"
            )

    def solve(
        self, epsilon: float, penalty: float | None, tolerance: float, max_steps: int | None
    ) -> Solved:
        """The plan at ε; see :func:`solve_pool` and :func:`solve_law`."""
        rows = self.rows
        y = rows_of(self.x1[rows.first], "x1")
        first = rows.first.to(y.device)
        labels = [label.to(y.device)[first] for label in self.labels.values()]
        groups = of_one_label(labels, len(rows))
        groups = [group.to(y.device) for group in groups]
        if self.law is not None:
            law, random = self.law, stream(_SEED, device=y.device)
            return solve_law(
                lambda n: law.sample(n, generator=random, dtype=y.dtype, device=y.device),
                y,
                rows,
                groups,
                epsilon=epsilon,
                tolerance=tolerance,
                max_draws=max_steps or max(4_000_000, int(16 * len(y) / tolerance**2)),
            )
        assert self.x0 is not None
        x, p = rows_of(self.x0, "x0"), self.x0_weights
        if p is None:
            p = x.new_full((len(x),), 1 / len(x))
        at = p.nonzero()[:, 0]
        centre = 0.5 * (p @ x + rows.weights @ y)
        pool, y = Pool(at, x[at] - centre, p[at], len(x)), y - centre
        if epsilon > 0:
            least, _ = least_epsilon(pool.points, y, tolerance)
            if epsilon < least:
                raise ValueError(
                    f"regularisation={epsilon:g} is too small for these points: in double precision"
                    f" marginals are known to {tolerance:g} from {least:.2g} on; give at least"
                    " that, a larger tolerance, or 0 for the exact plan"
                )
        solved = solve_pool(
            pool,
            y,
            rows,
            groups,
            epsilon=epsilon,
            penalty=penalty,
            tolerance=tolerance,
            max_steps=max_steps or (500 if penalty is None else 5_000),
        )
        return replace(solved, centre=centre)


def row_weights(given: DataLike | None, points: Tensor, name: str) -> Tensor | None:
    """Weights of rows in float64, of sum 1; None for equal ones.

    Raises:
        ValueError: if they are not one a row, negative, or do not sum to 1.
    """
    if given is None:
        return None
    count = len(points)
    given = as_tensor(name, given, torch.float64)
    if given.shape != (count,):
        raise ValueError(f"{name} must be ({count},), one a row, got {tuple(given.shape)}")
    weights = wide(given.detach()).to(table_device(points.device))
    total = float(weights.sum())
    if bool((weights < 0).any()) or not abs(total - 1) <= 1e-4:
        raise ValueError(
            f"{name} must not be negative and must sum to 1, got a sum of {total:g} and a"
            f" least weight of {float(weights.min()):g}; write weights / weights.sum()"
        )
    return weights / total
