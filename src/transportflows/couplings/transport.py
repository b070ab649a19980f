"""TODO docstring."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .._core.checks import names
from .._core.random import local
from .base import Coupling

__all__ = ["MinibatchOT"]


class MinibatchOT(Coupling):
    r"""Optimal transport within each batch, for the cost ``|x0 - x1|²`` (Tong et al. 2023).

    The batch is always *permuted*: every x0 and every x1 is used once. Drawing pairs from the plan
    with replacement, as is sometimes done, repeats some rows and drops others, and so changes the
    marginals that the path must have.

    Args:
        method: ``"exact"`` (network simplex, POT) or ``"sinkhorn"`` (entropic plan, POT; one
            permutation is then drawn by maximum-weight matching of ``log plan + Gumbel noise``,
            which approximates a draw from the plan and stays a permutation).
        regularisation: entropic scale relative to the mean cost of the batch; Sinkhorn only.

    The plan is computed on the CPU in float64, of ``B²`` costs. At B = 256, two coordinates and one
    core of an AMD EPYC that took 3 ms (exact) and 0.1 s (Sinkhorn).
    """

    def __init__(self, method: str = "exact", *, regularisation: float = 0.05) -> None:
        if method not in ("exact", "sinkhorn"):
            known = names(("exact", "sinkhorn"))
            raise ValueError(f"unknown method {method!r} for MinibatchOT; known: {known}")
        if regularisation <= 0:
            raise ValueError(f"regularisation must be positive, got {regularisation}")
        self.method = method
        self.regularisation = regularisation

    def pair(
        self, x0: Tensor, x1: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        if x0.shape != x1.shape:
            raise ValueError(
                f"minibatch OT pairs batches of one shape, got x0 {tuple(x0.shape)} and x1"
                f" {tuple(x1.shape)}"
            )
        a = x0.detach().flatten(1).double()
        b = x1.detach().flatten(1).double()
        cost = torch.cdist(a, b).square().cpu().numpy()
        if not np.isfinite(cost).all():
            raise ValueError("minibatch OT needs a finite batch; x0 or x1 holds NaN or infinities")
        plan = self._plan(cost)
        rows = plan.argmax(0)
        if self.method == "sinkhorn":
            uniform = torch.rand(
                plan.shape, generator=local(generator, "cpu"), dtype=torch.float64
            ).clamp(min=1e-300)
            gumbel = -torch.log(-torch.log(uniform)).numpy()
            log_plan = np.log(np.maximum(plan, 1e-300))
            row_of, column_of = linear_sum_assignment(-(log_plan + gumbel))
            rows = np.empty(len(row_of), dtype=np.int64)
            rows[column_of] = row_of
        elif len(np.unique(rows)) < len(rows):  # a degenerate vertex: take its best permutation
            row_of, column_of = linear_sum_assignment(-plan)
            rows = np.empty(len(row_of), dtype=np.int64)
            rows[column_of] = row_of
        return x0[torch.from_numpy(rows).to(x0.device)], x1

    def _plan(self, cost: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        import ot  # half a second, and scikit-learn where it is installed: only when needed

        n = cost.shape[0]
        weights = np.full(n, 1.0 / n)
        if self.method == "exact":
            plan = ot.emd(weights, weights, cost, numItermax=1_000_000)
        else:
            scale = self.regularisation * max(float(cost.mean()), 1e-300)
            plan = ot.sinkhorn(
                weights, weights, cost, scale, method="sinkhorn_log", numItermax=1000, warn=False
            )
        if not np.isfinite(plan).all() or abs(plan.sum() - 1) > 1e-3:
            raise ValueError(
                f"the {self.method} plan of a batch of {n} is not finite or not normalised;"
                " raise regularisation, or use method='exact'"
            )
        return np.asarray(plan)

    def config(self) -> dict[str, Any]:
        return {"method": self.method, "regularisation": self.regularisation}
