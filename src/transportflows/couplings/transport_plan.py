"""Optimal transport between whole data sets, as a coupling."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.checks import number, positive_integer
from .._core.conditions import NO_CONDITIONS
from .._core.precision import table_device
from .._core.reprs import call_lines
from .._core.signatures import as_is, checked
from ..distributions import Distribution, Empirical
from ..interpolants import Interpolant
from .base import Coupling, Paired
from .held_out import HeldOut
from .path_regularisation import path_regularisation
from .plan_data import PlanData
from .solved import PlanReport, Solved

__all__ = ["TransportPlan"]

_TOLERANCE, _OF_MASSES = 1e-3, 0.05
_SOLVING = threading.RLock()


@checked
class TransportPlan(Coupling):
    r"""Optimal transport between all of x0 and all of x1, for the cost ``|x0 - x1|²``.

    .. math:: \min_{\pi \in \Pi(p, q)} \sum_{ij} \pi_{ij} |x_{0,i} - x_{1,j}|^2
              + \varepsilon \sum_{ij} \pi_{ij} \log \frac{\pi_{ij}}{p_i q_j}

    Plans within batches are biased by their size (Fatras et al. 2020). This is solved once, when
    pairs are asked for, and costs a step nothing. One that did not converge is refused, never used.

    **A pool** ``x0`` of rows is paired with the rows of x1 by the exact plan, or by the entropic
    one, of which every row of x1 has K partners (4,000,000 over the rows, at least 16, and no more
    than 4,096 or 64 N/M): the quantiles of its conditional, drawn once, of which a batch draws one
    a row. The rows of x1 keep their order and their labels, so over an epoch x1 is as it is.

    **A law** ``x0`` that can be drawn from, such as a Gaussian, is paired by the semidiscrete plan:
    each x0 that the process draws goes to the x1 of its cell, so x0 is exactly of its law, and the
    rows of x1 that a batch gets are others, of the same labels, by their masses in the plan, which
    are right to ``tolerance``. Each batch is compared with all of x1, for which a thread runs ahead
    of the steps.

    **Which row of x1 a row of a batch is** is found by its bits. So ``fit(x1)`` is given the same
    numbers, in the same dtype, and rows that are none of x1 are refused. With weights of x1 (and
    unbalanced plans) ``fit`` draws the rows of a tensor by them. The plan is in the units of the
    process: where a field has a transform, of ``transform(x0)`` and ``transform(x1)``.

    **Held-out rows**, of ``fit(validation=...)``, go with the pool by the potential of the plan,
    ``π(x0 | x1) ∝ p(x0) exp((f(x0) - |x0 - x1|²)/ε)``, at ε = 0 with the x0 of least ``|x0 - x1|² -
    f(x0)`` (for a law among 10,000 draws of it): on rows of x1 the plan, at ε = 0 up to ties, which
    are of another law; on others an estimate of it. Unbalanced plans have none.

    **Conditions.** Sampling starts each class from the whole base. So with labels, in ``cond``, the
    plan of each label is from all of x0 to the rows of that label, and ``p(x0 | label)`` is the law
    of the pool. Conditions of numbers, of which no two rows need agree, are refused.

    **Unbalanced.** With ``unbalanced`` = ρ what the marginals are off costs ρ KL on either side,
    and mass that would travel further than some √(2ρ) is left; ``report.left`` tells how much. The
    base of the process is then what the plan takes of x0.

    Args:
        x0: a pool ``(N, *)``; or a law, whose draws are the x0 of the process.
        x1: data ``(M, *)``; N and M may differ.
        regularisation: ε, in squared units of the process, of this cost (not the ε of an SDE); 0
            for the exact plan. By default it is that of the path: ``2 a`` for
            ``Linear(Brownian(a))``, whose law is then the Schrödinger bridge of a Brownian motion
            of variance a at t = 1, and 0 for a path without a latent.
        cond: labels of x1, by name: tensors of integers or booleans with M rows.
        x0_weights: weights ``(N,)`` of sum 1; equal by default.
        x1_weights: weights ``(M,)`` of sum 1; equal by default.
        unbalanced: ρ > 0 in squared units; None to keep the marginals.
        tolerance: of the marginals, an L1 norm: 1e-3 by default, of the masses of cells 0.05.
        max_steps: bound on the steps of the solver; of a law, on the draws that are used.

    Raises:
        TypeError: if x0 or x1 is of the wrong kind.
        ValueError: for rows that are not finite, events that differ, weights that are negative or
            do not sum to 1, labels that are no integers, numbers out of their range. When it is
            solved: if ε is too small for double precision, or an exact plan too large.
        RuntimeError: when it is solved, if it did not converge.

    Example:
        >>> import transportflows as tpf
        >>> z = torch.randn(130, 2, generator=torch.Generator().manual_seed(0))
        >>> plan = TransportPlan(z[:50], z[50:] + 4)
        >>> process = tpf.Process(tpf.Linear(tpf.Brownian(0.5)), coupling=plan)
        >>> process.coupling.regularisation, process.coupling.report.kind
        (1.0, 'entropic')
    """

    def __init__(
        self,
        x0: DataLike | Distribution | Any,
        x1: DataLike,
        *,
        regularisation: float | None = None,
        cond: Mapping[str, Any] | None = None,
        x0_weights: DataLike | None = None,
        x1_weights: DataLike | None = None,
        unbalanced: float | None = None,
        tolerance: float | None = None,
        max_steps: int | None = None,
    ) -> None:
        self.data = data = PlanData(x0, x1, cond, x0_weights, x1_weights)
        self.brings_start = data.law is None
        self.ahead = 0 if data.law is None else 2
        self.weighted = data.law is None and (x1_weights is not None or unbalanced is not None)
        self.regularisation = regularisation
        if regularisation is not None:
            what = "0 (exact) or positive, in squared units of x"
            self.regularisation = number("regularisation", regularisation, what, least=0)
        self.unbalanced = unbalanced
        if unbalanced is not None:
            self.unbalanced = number("unbalanced", unbalanced, "a positive penalty", above=0)
            if data.law is not None:
                raise ValueError(
                    "an unbalanced plan is from a pool, and x0 is a law; give a pool,"
                    " TransportPlan(base.sample(10_000), x1, unbalanced=...)"
                )
            if self.regularisation == 0:
                raise ValueError(
                    "an unbalanced plan is entropic, and regularisation is 0; give a positive one"
                )
        self.tolerance = _TOLERANCE if data.law is None else _OF_MASSES
        if tolerance is not None:
            self.tolerance = number("tolerance", tolerance, "in (0, 2)", above=0, below=2)
        self.max_steps = None if max_steps is None else positive_integer("max_steps", max_steps)
        self._solved: Solved | None = None
        self._held_out: HeldOut | None = None
        self._base: Distribution | None = None

    def for_path(self, path: Interpolant) -> Coupling:
        """This plan; or, where its regularisation is left to the path, one with that of the path.

        Raises:
            ValueError: if the path has another latent than a Brownian one on a straight line.
        """
        if self.regularisation is not None:
            return self
        return self._with(path_regularisation(path, balanced=self.unbalanced is None))

    def _with(self, regularisation: float) -> TransportPlan:
        """The same plan, not solved, at another regularisation."""
        other: TransportPlan = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.regularisation = regularisation
        other._solved = other._base = other._held_out = None
        return other

    @property
    def base(self) -> Distribution:
        """The law of x0 under the plan, the law itself or that of the rows of the pool."""
        if self._base is None:
            self._base, x0 = self.data.law, self.data.x0
            if x0 is not None:
                balanced = self.unbalanced is None
                weights = self.data.x0_weights if balanced else self.report.x0_mass
                self._base = Empirical(x0, weights=weights)
        assert self._base is not None
        return self._base

    def check_base(self, base: Distribution) -> None:
        """Refuse a base of which x0 is no sample.

        Raises:
            ValueError: if it is none, or the plan is unbalanced and has a base of its own.
        """
        self.data.check_base(base)
        if self.unbalanced is not None:
            raise ValueError(
                "sampling starts from what an unbalanced plan takes of x0; leave base out"
            )

    @property
    def report(self) -> PlanReport:
        """How good the plan is, and what it leaves; solves it if need be."""
        return self._plan().report

    def pair(
        self,
        x0: Tensor,
        x1: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A batch of pairs for rows of the plan's x1, ``(B, *)``; see :meth:`Coupling.pair`.

        With a pool x0 is not used: the plan brings its own. Rows that are none of it are refused.
        """
        plan, data = self._plan(), self.data
        if plan.partners is None:
            rows = plan.goes_to(x0, data.find(x1, cond), generator)
            return x0, data.on(x1.device, data.x1)[data.rows.first.to(x1.device)[rows]]
        return self.pair_at(data.find(x1, cond, plan), x1, generator=generator)

    def row_places(self, x1: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor | None:
        return None if self.data.law is not None else self.data.find(x1, cond)

    @as_is
    def pair_at(
        self, places: Tensor, x1: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        partners = self._plan().partners_on(table_device(x1.device))
        pool = self.data.on(x1.device, self.data.x0)  # type: ignore[arg-type]
        taken = partners.draw(places, generator)  # type: ignore[union-attr]
        return pool.index_select(0, taken.to(x1.device)), x1

    def pair_held_out(
        self,
        x1: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pairs of rows that are none of the plan's x1, ``(B, *)``: see the class.

        Raises:
            ValueError: if the plan is unbalanced, or has not seen a label.
        """
        self._held_out = self._held_out or HeldOut(self.data, self._plan())
        return self._held_out.pair(x1, cond, generator), x1

    def partners(self, rows: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw which row of the pool goes with each of some rows of x1, all by their numbers.

        Args:
            rows: numbers of rows of x1, ``(B,)``.
            generator: source of randomness.

        Returns:
            Numbers of rows of x0, ``(B,)``.

        Raises:
            ValueError: if x0 is a law, there is no such row, or nothing goes to it.
        """
        place = self.data.places(rows, self._plan())
        return self._plan().partners.draw(place, generator).long().to(rows.device)  # type: ignore

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw n independent pairs ``(x0, x1)`` from the plan, all labels together."""
        n, plan, data = positive_integer("n", n), self._plan(), self.data
        rows = data.rows.first[plan.draw_rows(n, generator)]
        x1 = data.x1[rows]
        cond = {name: label[rows.to(label.device)] for name, label in data.labels.items()}
        x0, law = x1, data.law
        if law is not None:
            x0 = law.sample(n, generator=generator, dtype=x1.dtype, device=x1.device)
        return self.pair(x0, x1, cond, generator=generator)

    def row_weights(self, x1: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor | None:
        """As :meth:`Coupling.row_weights`, ``(N,)``; for a law None: it chooses the rows itself."""
        weights = self.data.weights_of(self._plan(), x1, cond)
        return None if self.data.law is not None else weights

    def _plan(self) -> Solved:
        """Solve the plan, if it is not yet."""
        if self._solved is None:
            with _SOLVING:
                if self._solved is None:
                    options = self.unbalanced, self.tolerance, self.max_steps
                    self._solved = self.data.solve(self.regularisation or 0.0, *options)
        return self._solved

    def __deepcopy__(self, memo: dict[int, Any]) -> TransportPlan:
        return self  # of which nothing changes but that it is solved

    def config(self) -> dict[str, Any]:
        return {
            **self.data.config(),
            "regularisation": self.regularisation,
            "unbalanced": self.unbalanced,
            "tolerance": self.tolerance,
            "max_steps": self.max_steps,
        }

    def stored(self) -> Paired:
        """Files do not hold the plan, which is training data, only the ε that its bridge has."""
        bridge = self.unbalanced is None and self.regularisation
        return Paired(path_epsilon=self.regularisation / 4 if bridge else None)  # type: ignore

    def __repr__(self) -> str:
        parts = self.data.told()
        if self.regularisation is not None:
            parts.append(f"regularisation={self.regularisation:g}")
        if self.unbalanced is not None:
            parts.append(f"unbalanced={self.unbalanced:g}")
        if self.data.labels:
            parts.append(f"cond={sorted(self.data.labels)}")
        return call_lines(type(self).__name__, parts)
