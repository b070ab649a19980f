"""What a weighted solve returns: states with weights, and how far these can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.checks import positive_integer
from .._core.random import draw_key, stream
from .._core.reprs import brief, call_lines
from .._core.signatures import checked
from ..solve.solution import Solution
from .resampling import systematic

__all__ = ["CollapsedWeightsWarning", "WeightedSolution"]


class CollapsedWeightsWarning(UserWarning):
    """Few particles carry all the weight, so that neither states nor evidence can be trusted."""


@checked
@dataclass(frozen=True, repr=False, kw_only=True)
class WeightedSolution(Solution):
    """States whose weighted law is the one that was asked for.

    ``(weights[:, None] * f(x)).sum(0)`` is a mean under it; ``resample()`` gives states without
    weights.

    Attributes:
        log_weights: normalised, ``(n,)``: their exponentials add up to 1.
        ess: the effective sample size at the start and after each step, ``(steps + 1,)``.
        resampled: for each step, whether the rows were drawn again before it, ``(steps,)``.
        ancestors: the start row that each particle descends from, ``(n,)``.
        log_evidence: the logarithm of ``∫ q_1``, in the units of the data: of ``∫ p^β``, of
            ``∫ p1 p2``, of ``E_p[e^r]``, of ``p(y)``, as the target is.
        log_evidence_error: its standard error, estimated from this one run; no estimate, but a
            sign of collapse, where it is not small beside 1.
        split: ``"closure"`` or ``"plain"``, the transport that was used; of a posterior what its
            proposal was, ``"conjugate"`` or the name of a guided field.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> field = tpf.oracle(process, tpf.Gaussian((1,), scale=2.0))
        >>> sharp = tpf.guidance.Power(field, 4.0)
        >>> run = tpf.guidance.sample_weighted(sharp, 100, epsilon=1.0, steps=5)
        >>> round(float(run.weights.sum()), 4), run.resample(10).shape
        (1.0, torch.Size([10, 1]))
        >>> torch.allclose(run.mean().double(), (run.weights[:, None] * run.x).sum(0), atol=1e-5)
        True
    """

    log_weights: Tensor
    ess: Tensor
    resampled: Tensor
    ancestors: Tensor
    log_evidence: float
    log_evidence_error: float
    split: str = "plain"

    @property
    def weights(self) -> Tensor:
        """The weights, ``(n,)``, which add up to 1."""
        return self.log_weights.exp()

    @property
    def least_ess(self) -> float:
        """The least effective sample size over time."""
        return float(self.ess.min())

    @property
    def ancestors_left(self) -> int:
        """How many of the start rows have a descendant of any weight."""
        alive = self.ancestors[self.log_weights > -torch.inf]
        return len(set(alive.tolist()))

    @property
    def collapsed(self) -> bool:
        """Whether the standard error is above 0.5, or few rows ever carried the weight.

        Few are fewer than ten of those that are left of the start rows, and an effective size below
        ten, or below a fortieth of all, at any step.
        """
        few = min(10, len(self.x))
        return (
            not self.log_evidence_error <= 0.5
            or self.ancestors_left < few
            or self.least_ess < max(0.999 * few, len(self.x) / 40)
        )

    def mean(self, values: Tensor | None = None) -> Tensor:
        """The weighted mean of rows of values ``(n, *)``, of the states themselves by default.

        Raises:
            ValueError: if there is not one row of values for each particle.
        """
        rows = self.x if values is None else values
        if rows.shape[:1] != self.log_weights.shape:
            raise ValueError(
                f"values have shape {tuple(rows.shape)}, and there are {len(self.log_weights)}"
                " particles; give one row for each"
            )
        w = self.weights.to(rows.dtype if rows.is_floating_point() else self.x.dtype)
        found: Tensor = torch.tensordot(w, rows.to(w.dtype), 1)
        return found

    def resample(self, n: int | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """States without weights, ``(n, *)``: particles drawn by their weights, in order.

        A heavy particle is drawn several times: its copies are equal. For independent use shuffle
        the rows.

        Args:
            n: how many; as many as there are particles by default.
            generator: source of randomness.
        """
        count = len(self.x) if n is None else positive_integer("n", n)
        source = stream(draw_key(generator), device=self.x.device)
        u = torch.rand((), generator=source, device=self.x.device)
        return self.x[systematic(self.log_weights, u, count)]

    def told(self) -> dict[str, Any]:
        """What the repr tells, by name."""
        return {
            "x": self.x,
            "steps": self.t.numel() - 1,
            "nfe": self.nfe,
            "scheme": self.scheme,
            "split": self.split,
            "ess": float(self.ess[-1]),
            "least_ess": self.least_ess,
            "resampled": int(self.resampled.sum()),
            "ancestors_left": self.ancestors_left,
            "log_evidence": self.log_evidence,
            "log_evidence_error": self.log_evidence_error,
        }


def _repr(self: WeightedSolution) -> str:
    parts = (f"{name}={brief(value)}" for name, value in self.told().items())
    return call_lines(type(self).__name__, parts)


WeightedSolution.__repr__ = _repr  # type: ignore[method-assign, assignment]
