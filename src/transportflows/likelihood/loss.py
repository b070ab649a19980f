"""Maximum likelihood: the loss that makes a velocity a continuous normalising flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._core.checks import check_finite_rows, positive_integer
from .._core.signatures import checked
from ..draws import Batch
from ..fields.base import Field
from ..fields.units import log_base_of
from ..losses import Loss, Undrawn
from .solver import Solver, check_field, check_options, recording

__all__ = ["LikelihoodLoss"]


@checked
class LikelihoodLoss(Loss):
    r"""``-log ρ1(x1)`` of each row: maximum likelihood, a continuous normalising flow.

    Unlike a regression it solves the ODE in every step, forward and back; the process serves for
    its base (and for what the network means) only.

    Args:
        divergence: ``"hutchinson"`` (one probe, fresh in each call) or ``"exact"``.
        scheme: as in :func:`log_likelihood`.
        steps: number of steps of a fixed-step scheme.
        rtol: relative tolerance of an adaptive one.
        atol: absolute tolerance.
        adjoint: adjoint method, for adaptive schemes, as in :func:`log_likelihood`.
        max_nfe: bound on the evaluations of a solve, as in :func:`log_likelihood`.

    Source: Grathwohl et al., "FFJORD" (2019).
    """

    def __init__(
        self,
        *,
        divergence: str = "hutchinson",
        scheme: str = "dopri5",
        steps: int = 20,
        rtol: float = 1e-4,
        atol: float = 1e-4,
        adjoint: bool = True,
        max_nfe: int | None = None,
    ) -> None:
        check_options(divergence, 1, "rademacher", scheme, rtol, atol)
        self.options: dict[str, Any] = {
            "divergence": divergence,
            "scheme": scheme,
            "steps": positive_integer("steps", steps),
            "rtol": rtol,
            "atol": atol,
            "adjoint": adjoint,
            "max_nfe": max_nfe,
        }

    def evaluate(self, field: Field, sample: Undrawn) -> Tensor:
        # A trainer's batches are in the field's units already.
        return self._losses(field, sample.batch, sample.generator)

    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this loss."""
        return self.options

    def _losses(self, field: Field, batch: Batch, generator: torch.Generator | None) -> Tensor:
        check_field(field)
        check_finite_rows(batch.x1, "x")
        given, gradients = self.options, torch.is_grad_enabled()
        solver = Solver(
            field, batch.x1, given["divergence"], 1, "rademacher", given["scheme"],
            given["steps"], given["rtol"], given["atol"], None, given["max_nfe"],
        )  # fmt: skip
        solver.configure(batch.cond, None, gradients, given["adjoint"], generator)
        solver.refuses = False  # a trainer stops at a loss that is not finite, and says more
        with recording(field, gradients):
            latent, integrals = solver.solve(batch.x1, 1.0, 0.0)
            log_prob: Tensor = log_base_of(field, None, latent) + integrals.mean(1)
            return -log_prob
