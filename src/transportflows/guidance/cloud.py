"""The weights of a cloud of particles, as they change from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .resampling import effective_size, log_mean, systematic

__all__ = ["Cloud"]


@dataclass(frozen=True, eq=False)
class Cloud:
    """What is known of the particles beside their states.

    Attributes:
        log_weights: since they were last drawn again, ``(n,)``.
        ancestors: the start row of each, ``(n,)``.
        log_evidence: what the weights were worth that are spent, ``()``.
        sizes: the effective size at the start and after each step, each ``()``.
        drawn: for each step, whether the rows were drawn again before it, each ``()``.
        split: the transport that moves them, ``"plain"`` or ``"closure"``.
    """

    log_weights: Tensor
    ancestors: Tensor
    log_evidence: Tensor
    sizes: Sequence[Tensor]
    drawn: Sequence[Tensor] = ()
    split: str = "plain"

    @classmethod
    def new(cls, log_weights: Tensor) -> Cloud:
        """Of starting weights, ``(n,)``."""
        return cls(
            log_weights,
            torch.arange(len(log_weights), device=log_weights.device),
            torch.zeros((), dtype=log_weights.dtype, device=log_weights.device),
            [effective_size(log_weights)],
        )

    def weighed(self, change: Tensor) -> Cloud:
        """The cloud with this added to its log-weights, ``(n,)``, and the effective size then."""
        logs = self.log_weights + change.to(self.log_weights)
        return replace(self, log_weights=logs, sizes=[*self.sizes, effective_size(logs)])

    def resampled(self, x: Tensor, threshold: float, u: Tensor) -> tuple[Tensor, Cloud]:
        """States and cloud, drawn again where the effective size is below ``threshold · n``."""
        logs, n = self.log_weights, len(self.log_weights)
        again = self.sizes[-1] < threshold * n
        stay = torch.arange(n, device=logs.device)
        index = torch.where(again, systematic(logs, u), stay)
        return x[index], replace(
            self,
            log_weights=torch.where(again, 0.0, logs),
            ancestors=self.ancestors[index],
            log_evidence=self.log_evidence + torch.where(again, log_mean(logs), 0.0),
            drawn=[*self.drawn, again],
        )
