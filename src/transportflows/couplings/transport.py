"""Optimal transport within a batch, as a coupling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.checks import names
from .._core.conditions import NO_CONDITIONS
from .._core.random import local
from .._core.signatures import checked
from ..plans import best_permutation, exact_plan
from .base import Coupling

__all__ = ["MinibatchOT"]


@checked
class MinibatchOT(Coupling):
    r"""Optimal transport within each batch, for the cost ``|x0 - x1|²`` (Tong et al. 2023).

    The batch is always *permuted*: every x0 and every x1 is used once. Drawing pairs from the plan
    with replacement, as is sometimes done, repeats some rows and drops others, and so changes the
    marginals that the path must have.

    Args:
        method: ``"exact"`` (:func:`transportflows.plans.exact_plan`) or ``"sinkhorn"`` (entropic
            plan, POT; one permutation is then drawn by maximum-weight matching of ``log plan +
            Gumbel noise``, which approximates a draw from the plan and stays a permutation).
        regularisation: entropic scale relative to the mean cost of the batch; Sinkhorn only.

    The plan is computed on the CPU in float64, of ``B²`` costs; an exact one is certified, and a
    batch whose plan cannot be is refused by a ``RuntimeError``. At B = 256, two coordinates and one
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
        a = x0.detach().flatten(1).double()
        b = x1.detach().flatten(1).double()
        distances = torch.cdist(a, b).cpu()
        if not bool(torch.isfinite(distances).all()):
            raise ValueError("minibatch OT needs a finite batch; x0 or x1 holds NaN or infinities")
        if self.method == "exact":
            weights = distances.new_full((len(a),), 1 / len(a))
            order = exact_plan(distances, weights, weights).permutation()
        else:
            uniform = torch.rand(
                distances.shape, generator=local(generator, "cpu"), dtype=torch.float64
            ).clamp(min=1e-300)
            plan = self._entropic_plan(distances.square_())
            order = best_permutation(plan.clamp(min=1e-300).log() - uniform.log().neg().log())
        return x0[order.to(x0.device)], x1

    def _entropic_plan(self, cost: Tensor) -> Tensor:
        import ot  # it takes a second

        n = len(cost)
        weights = cost.new_full((n,), 1 / n).numpy()
        scale = self.regularisation * max(float(cost.mean()), 1e-300)
        plan = torch.from_numpy(
            ot.sinkhorn(
                weights,
                weights,
                cost.numpy(),
                scale,
                method="sinkhorn_log",
                numItermax=1000,
                warn=False,
            )
        )
        if not bool(torch.isfinite(plan).all()) or abs(float(plan.sum()) - 1) > 1e-3:
            raise ValueError(
                f"the sinkhorn plan of a batch of {n} is not finite or not normalised;"
                " raise regularisation, or use method='exact'"
            )
        return plan

    def __repr__(self) -> str:
        scale = f", regularisation={self.regularisation}" if self.method == "sinkhorn" else ""
        return f"{type(self).__name__}(method={self.method!r}{scale})"

    def config(self) -> dict[str, Any]:
        return {"method": self.method, "regularisation": self.regularisation}
