"""Optimal transport within a batch, as a coupling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arguments import choice, integer, number, positive_integer, positive_number
from .._core.conditions import NO_CONDITIONS
from .._core.precision import wide
from .._core.random import local
from .._core.signatures import checked
from ..plans import best_permutation, log_plan
from .base import Coupling
from .labels import is_label, of_one_label

__all__ = ["MinibatchOT"]

_RELATIVE = 0.05
_FEW = 64  # numbers in an event up to which costs are made from differences


@checked
class MinibatchOT(Coupling):
    r"""Optimal transport within each batch, for the cost ``|x0 - x1|²`` (Tong et al. 2023).

    The batch is always *permuted*: every x0 and every x1 is used once. Drawing pairs from the plan
    with replacement, as is sometimes done, repeats some rows and drops others, and so changes the
    marginals that the path must have.

    **Conditions.** A plan that does not see the condition pairs some part of the base with each
    class, while sampling starts each class from the whole base: about half of the samples of two
    classes are then of the wrong one. So rows are planned with rows of the same labels only, which
    keeps ``p(x0 | label) = ρ0`` exactly; a label that a batch holds once keeps its x0. Labels are
    tensors of integers or booleans. Of a condition of numbers no two rows need agree, so it is
    refused, unless ``condition_weight`` says how to take it: each x0 is lent a condition c0, from a
    random permutation of those of its rows, and the cost becomes ``|x0 - x1|² + λ |c0 - c1|²``, λ
    the weight over the median squared distances of c and times those of x. With λ = ∞ every x0
    keeps the c0 that it drew by chance, which is the independent coupling. With a finite one
    ``E[x0 | c]`` is off: no λ is both unbiased and much straighter, so measure it, by
    :func:`condition_weight`.

    Args:
        method: ``"exact"`` (the cheapest permutation, by sorting or scipy), or ``"sinkhorn"`` (the
            entropic plan; one permutation is then drawn by maximum-weight matching of ``log plan +
            Gumbel noise``, which approximates a draw from the plan and stays a permutation).
        regularisation: ε of the entropic plan, relative to the median of the costs that are not 0;
            0.05 where ``epsilon`` is not given either. The plan then does not hang on the units of
            the data, nor on an outlier.
        condition_weight: λ for conditions of numbers; ``math.inf`` to pair independently of them;
            None to refuse them.
        pool: rows, a multiple of the batch, that a trainer pairs at once, by one plan: larger
            plans are straighter. A plan of P rows takes some P² time and more, so its pairs are
            used ``reuse`` times, in random orders. :meth:`pair` pairs what it is given.
        reuse: how often each pair of a pool is used.
        ahead: for how many steps a trainer draws in a thread before they need it, with the same
            numbers; 0 for none.
        epsilon: ε itself, in squared units of x0 and x1 (standardised ones where a field has a
            transform), instead. The Schrödinger bridge between ρ0 and ρ1 of a Brownian motion of
            variance a at t = 1 has the plan of ``epsilon=2 * a`` and the path
            ``Linear(Brownian(a))``, since it weighs a pair by ``exp(-|x0 - x1|² / 2a)``.

    The plan is computed on the CPU in float64, of ``B²`` costs.

    Raises:
        ValueError: if an option is unknown or out of range, x0 and x1 are not of one shape or not
            finite, or a condition is no label.

    Example:
        >>> x0, x1 = torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [4.0]])
        >>> MinibatchOT().pair(x0, x1)[0].tolist()
        [[1.0], [0.0]]
    """

    def __init__(
        self,
        method: str = "exact",
        *,
        regularisation: float | None = None,
        epsilon: float | None = None,
        condition_weight: float | None = None,
        pool: int | None = None,
        reuse: int = 1,
        ahead: int = 2,
    ) -> None:
        choice("method of MinibatchOT", method, ("exact", "sinkhorn"))
        given = {"regularisation": regularisation, "epsilon": epsilon}
        given = {name: value for name, value in given.items() if value is not None}
        if given and method == "exact":
            raise ValueError(
                f"an exact plan has no {' and no '.join(given)}; write"
                f" MinibatchOT('sinkhorn', {next(iter(given))}=...), or leave it out"
            )
        if len(given) == 2:
            raise ValueError(
                "regularisation is ε relative to the median cost and epsilon is ε itself; give one"
            )
        for name, value in given.items():
            positive_number(name, value)
        if condition_weight is not None:
            what = "a weight, 0 or positive; math.inf to pair independently"
            number("condition_weight", condition_weight, what, least=0, finite=False)
        self.pool = None if pool is None else positive_integer("pool", pool)
        self.reuse = positive_integer("reuse", reuse)
        self.ahead = integer("ahead", ahead, "a number of steps", least=0)
        if self.reuse > 1 and pool is None:
            raise ValueError(
                f"reuse={reuse} is of the pairs of a pool; write MinibatchOT(pool=1024,"
                f" reuse={reuse})"
            )
        self.method, self.epsilon, self.condition_weight = method, epsilon, condition_weight
        relative = method == "sinkhorn" and epsilon is None
        self.regularisation = _RELATIVE if relative and regularisation is None else regularisation

    def pair(
        self,
        x0: Tensor,
        x1: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        if x0.shape != x1.shape:
            raise ValueError(
                f"minibatch OT pairs batches of one shape, got x0 {tuple(x0.shape)} and x1"
                f" {tuple(x1.shape)}"
            )
        a = wide(x0.detach().flatten(1))
        b = wide(x1.detach().flatten(1))
        largest = float(torch.maximum(a.abs().amax(), b.abs().amax())) if len(a) else 1.0
        if not math.isfinite(largest):
            raise ValueError("minibatch OT needs a finite batch; x0 or x1 holds NaN or infinities")
        unit = 2.0 ** math.frexp(largest)[1]  # exact, and no square overflows or vanishes
        a, b = a / unit, b / unit
        order = torch.arange(len(a))
        labels, numbers = self._split(cond)
        if numbers and self.condition_weight == math.inf:
            return x0, x1
        for rows in of_one_label(labels, len(a)):
            if len(rows) > 1:
                at = rows.to(a.device)
                seen = [value[rows] for value in numbers]
                order[rows] = rows[self._order(a[at], b[at], seen, unit, generator)]
        return x0[order.to(x0.device)], x1

    def _split(self, cond: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
        """Conditions that are labels, and those that are numbers, on the CPU."""
        labels, numbers = [], []
        for name, value in cond.items():
            if not isinstance(value, Tensor) or value.ndim == 0:
                continue  # the same for all rows
            if is_label(value):
                labels.append(value.detach().reshape(len(value), -1).long().cpu())
            elif self.condition_weight is None or value.is_complex():
                raise ValueError(
                    f"minibatch OT plans within the rows of one label, and the condition {name!r}"
                    f" is {value.dtype}, of which no two rows need agree: a plan across them would"
                    " make the base depend on the condition, and sampling starts from the base."
                    f" Give labels as integers ({name}.long()), use the independent coupling,"
                    " coupling=None, or MinibatchOT(condition_weight=...), with a weight that"
                    " tpf.couplings.condition_weight measured"
                )
            else:
                flat = wide(value.detach().reshape(len(value), -1)).cpu()
                if not bool(flat.isfinite().all()):
                    raise ValueError(f"the condition {name!r} holds NaN or infinities")
                numbers.append(flat)
        return labels, numbers

    def _order(
        self,
        a: Tensor,
        b: Tensor,
        seen: Sequence[Tensor],
        unit: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Which x0 goes to each x1, on the CPU; a and b are in units of ``unit``."""
        if self.method == "exact" and a.shape[1] == 1 and not seen:
            # The plan on a line keeps the order.
            order = torch.empty(len(a), dtype=torch.int64, device=a.device)
            order[b[:, 0].argsort(stable=True)] = a[:, 0].argsort(stable=True)
            return order.cpu()
        cost = _squares(a, b).cpu()
        if seen:
            lent = torch.randperm(len(a), generator=local(generator, "cpu"))
            size = float(cost.median())
            for value in seen:
                apart = _squares(value[lent], value)
                middle = float(apart[apart > 0].median()) if bool((apart > 0).any()) else 1.0
                cost += (self.condition_weight or 0.0) * (size / middle) * apart
        if self.method == "exact":
            cost -= cost.amin(1, keepdim=True)  # which changes no plan, and is exact to rounding
            cost -= cost.amin(0)
            return best_permutation(-cost)
        uniform = torch.rand(
            cost.shape, generator=local(generator, "cpu"), dtype=torch.float64
        ).clamp(min=1e-300)
        if self.epsilon is not None:
            epsilon = max(self.epsilon / unit / unit, 1e-300)
        else:
            positive = cost[cost > 0]
            median = float(positive.median()) if len(positive) else 1.0
            epsilon = self.regularisation * median  # type: ignore[operator]
        return best_permutation(log_plan(cost, epsilon) - uniform.log().neg().log())

    def __repr__(self) -> str:
        options = {
            "regularisation": self.regularisation,
            "epsilon": self.epsilon,
            "condition_weight": self.condition_weight,
            "pool": self.pool,
            "reuse": self.reuse if self.pool else None,
        }
        told = "".join(f", {name}={value}" for name, value in options.items() if value is not None)
        return f"{type(self).__name__}(method={self.method!r}{told})"

    def config(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "regularisation": self.regularisation,
            "epsilon": self.epsilon,
            "condition_weight": self.condition_weight,
            "pool": self.pool,
            "reuse": self.reuse,
            "ahead": self.ahead,
        }


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """``|a_i - b_j|²``, to a relative 1e-9 whatever the offset and the outliers.

    Products are a tenth of the work of differences where events are large, and lose digits where
    rows are closer to each other than to their mean.
    """
    if a.shape[1] > _FEW:
        centre = b.mean(0)
        x, y = a - centre, b - centre
        x_sq, y_sq = x.square().sum(1, keepdim=True), y.square().sum(1)
        cost = torch.addmm(y_sq.unsqueeze(0), x, y.mT, alpha=-2).add_(x_sq)
        error = 1e-15 * (x_sq.amax() + y_sq.amax())
        if bool(error <= 1e-9 * cost.amin()):
            return cost
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square_()
