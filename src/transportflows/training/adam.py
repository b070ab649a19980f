"""Fused Adam whose step is little more than its kernel.

``torch.optim.Adam(fused=True).step()`` gathers the lists of its parameters, moments and step counts
anew at every step. For a small network that takes a quarter of its time. Here they are gathered
once and handed to the kernel, which torch has under a private name only; that is worth it while it
shows in a whole training step (``benchmarks/training_step.py`` measures it with and without).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.checks import shown
from .._core.signatures import as_is, checked

__all__ = ["FusedAdam"]

# Without the hooks that torch puts around every optimizer's step: they are around ours already.
_STEP: Callable[..., Any] = getattr(torch.optim.Adam.step, "__wrapped__", torch.optim.Adam.step)


class _Group(NamedTuple):
    """What the state holds for the parameters of a group, in their order."""

    options: dict[str, Any]
    parameters: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    steps: list[Tensor]


@checked
class FusedAdam(torch.optim.Adam):
    """``torch.optim.Adam(..., fused=True)``: the same numbers, bit for bit, the same state.

    Where a step is not of the plainest kind (a parameter without a gradient, ``amsgrad``, decoupled
    weight decay, a gradient scaler, a learning rate in a tensor), it is torch's.

    Args:
        params: see :class:`torch.optim.Adam`.
        kwargs: likewise.

    Raises:
        RuntimeError: if torch has no fused Adam for the parameters.
    """

    _groups: list[_Group] | None = None

    def __init__(self, params: Any, **kwargs: Any) -> None:
        if isinstance(params, Tensor) or not hasattr(params, "__iter__"):
            raise TypeError(f"params are the parameters of a network, got {shown(params)}")
        super().__init__(params, **kwargs, fused=True)

    @torch.no_grad()
    @as_is
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the parameters along their gradients."""
        groups = self._groups
        if groups is None or closure is not None or not self._plain(groups):
            loss: float | None = _STEP(self, closure)
            self._groups = self._gathered()
            return loss
        gradients = [[p.grad for p in group.parameters] for group in groups]
        if any(gradient is None for some in gradients for gradient in some):
            return _STEP(self)  # type: ignore[no-any-return]
        for (options, parameters, first, second, steps), grads in zip(
            groups, gradients, strict=True
        ):
            beta1, beta2 = options["betas"]
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(
                parameters,
                grads,  # type: ignore[arg-type]
                first,
                second,
                [],
                steps,
                lr=options["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=options["weight_decay"],
                eps=options["eps"],
                amsgrad=False,
                maximize=options["maximize"],
            )
        return None

    def _plain(self, groups: list[_Group]) -> bool:
        """Whether the lists are those of the state, which loading replaces, and suffice."""
        known = self.state.get(groups[0].parameters[0], {}).get("step")
        return (
            known is groups[0].steps[0]
            and len(groups) == len(self.param_groups)
            and getattr(self, "found_inf", None) is None
            and not any(
                isinstance(options["lr"], Tensor) or options.get("decoupled_weight_decay")
                for options in self.param_groups
            )
        )

    def _gathered(self) -> list[_Group] | None:
        """The lists of the state, if each parameter has one of the plainest kind."""
        groups = []
        for options in self.param_groups:
            parameters = options["params"]
            states = [self.state.get(p) for p in parameters]
            kinds = len({(p.device, p.dtype) for p in parameters})
            special = options["amsgrad"] or options["differentiable"] or options["capturable"]
            if special or kinds != 1 or not all(states):
                return None
            moments = ("exp_avg", "exp_avg_sq", "step")
            groups.append(_Group(options, parameters, *([s[k] for s in states] for k in moments)))  # type: ignore[index]
        return groups
