"""Fused Adam whose step is little more than its kernel.

For a small network, half of the time of ``torch.optim.Adam(fused=True).step()`` goes into
gathering the same lists of tensors anew at every step. Here they are gathered once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["FusedAdam"]


# Without the hooks that torch puts around it: they are around ours too.
_TORCHS_STEP: Callable[..., Any] = getattr(
    torch.optim.Adam.step, "__wrapped__", torch.optim.Adam.step
)


@dataclass(frozen=True)
class _Group:
    parameters: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    steps: list[Tensor]


class FusedAdam(torch.optim.Adam):
    """``torch.optim.Adam(..., fused=True)``: the same numbers, bit for bit, the same state.

    Where a step is not of the plainest kind (a parameter without a gradient, ``amsgrad``, decoupled
    weight decay, a gradient scaler, a learning rate in a tensor, parameters on several devices), it
    is torch's.

    Args:
        params: see :class:`torch.optim.Adam`.
        kwargs: likewise.

    Raises:
        RuntimeError: if torch has no fused Adam for the parameters.
    """

    _groups: list[_Group] | None = None
    _state: Any = None

    def __init__(self, params: Any, **kwargs: Any) -> None:
        super().__init__(params, **kwargs, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the parameters along their gradients."""
        groups = self._gathered()
        gradients: list[list[Any]]
        gradients = [] if groups is None else [[p.grad for p in g.parameters] for g in groups]
        if (
            groups is None
            or closure is not None
            or getattr(self, "found_inf", None) is not None
            or any(gradient is None for part in gradients for gradient in part)
        ):
            loss: float | None = _TORCHS_STEP(self, closure)
            self._gather()
            return loss
        for group, of, grads in zip(self.param_groups, groups, gradients, strict=True):
            beta1, beta2 = group["betas"]
            torch._foreach_add_(of.steps, 1)
            torch._fused_adam_(
                of.parameters,
                grads,
                of.first,
                of.second,
                [],
                of.steps,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=group["maximize"],
            )
        return None

    def _gathered(self) -> list[_Group] | None:
        """The lists, if they are still those of the state (which loading a checkpoint replaces)."""
        groups = self._groups
        if groups is None or len(groups) != len(self.param_groups):
            return None
        if self.state.get(groups[0].parameters[0]) is not self._state:
            return None
        plain = not any(
            isinstance(g["lr"], Tensor) or g.get("decoupled_weight_decay")
            for g in self.param_groups
        )
        return groups if plain else None

    def _gather(self) -> None:
        self._groups = None
        gathered = []
        for group in self.param_groups:
            parameters = group["params"]
            states = [self.state[p] for p in parameters if p in self.state]
            kinds = {(p.device, p.dtype) for p in parameters}
            plain = not (group["amsgrad"] or group["differentiable"] or group["capturable"])
            if len(states) < len(parameters) or not all(states) or len(kinds) != 1 or not plain:
                return
            gathered.append(
                _Group(
                    parameters,
                    [state["exp_avg"] for state in states],
                    [state["exp_avg_sq"] for state in states],
                    [state["step"] for state in states],
                )
            )
        self._groups, self._state = gathered, self.state[gathered[0].parameters[0]]
