"""The move of the parameters by the optimizer, without what torch looks up anew at each step.

``torch.optim.Adam(fused=True)`` moves all parameters by one kernel, and takes longer to gather what
the kernel is given than the kernel takes, where a network is small. Here it is gathered once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim import optimizer as hooks

__all__ = ["Move"]

_TAKES = ["self", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "state_steps", "lr",
          "beta1", "beta2", "weight_decay", "eps", "amsgrad", "maximize"]  # fmt: skip


def _kernel() -> Any:
    """Torch's fused kernel, which has no public name; None where it takes other arguments."""
    try:
        schema = torch.ops.aten._fused_adam_.default._schema
        names = [argument.name for argument in schema.arguments if not argument.has_default_value()]
        return torch._fused_adam_ if names == _TAKES else None
    except AttributeError:
        return None


_FUSED = _kernel()
_FILE = Optimizer.profile_hook_step.__code__.co_filename  # torch wraps the step of each class
_KNOWN = {"lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "foreach", "capturable",
          "differentiable", "fused", "decoupled_weight_decay"}  # fmt: skip
_STATE = {"step", "exp_avg", "exp_avg_sq"}
_Gathered = tuple[dict[str, Any], list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


class Move:
    """Moves parameters as ``optimizer.step()`` does, to the last bit.

    Args:
        optimizer: any; all but Adam, fused and without hooks, moves them itself.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._gathered: list[_Gathered] | None = None
        self._others: list[Tensor] = []  # without a gradient when the rest was gathered
        self._able = True

    def forget(self) -> None:
        """Gather anew what the kernel is given: somebody may have changed it."""
        self._gathered, self._able = None, True

    def __call__(self) -> None:
        """Move the parameters along their gradients."""
        if self._gathered is None:
            self.optimizer.step()
            if self._able:
                self._gathered = self._gather()
                self._able = self._gathered is not None
            return
        given = [[p.grad for p in parameters] for _, parameters, *_ in self._gathered]
        missing = any(gradient is None for gradients in given for gradient in gradients)
        if missing or any(p.grad is not None for p in self._others):
            self.forget()  # others are to be moved than were gathered
            self.optimizer.step()
            return
        for (group, parameters, means, squares, steps), gradients in zip(
            self._gathered, given, strict=True
        ):
            beta1, beta2 = group["betas"]
            with torch.no_grad():
                torch._foreach_add_(steps, 1)
                _FUSED(
                    parameters,
                    gradients,
                    means,
                    squares,
                    [],
                    steps,
                    lr=group["lr"],
                    beta1=beta1,
                    beta2=beta2,
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    amsgrad=False,
                    maximize=group["maximize"],
                )

    def _gather(self) -> list[_Gathered] | None:
        """What the kernel takes, group by group, after a step; None where torch must move."""
        if not _is_plain(self.optimizer):
            return None
        gathered: list[_Gathered] = []
        groups = self.optimizer.param_groups
        self._others = [p for group in groups for p in group["params"] if p.grad is None]
        for group in groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            states = [self.optimizer.state[p] for p in parameters]
            if not parameters or not all(set(state) == _STATE for state in states):
                return None
            if len({(p.dtype, p.device) for p in parameters}) > 1 or not _is_simple(group):
                return None
            each = [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")]
            gathered.append((group, parameters, each[0], each[1], each[2]))
        return gathered


def _is_plain(optimizer: Optimizer) -> bool:
    """Whether an optimizer is torch's Adam, and nothing else happens where it steps."""
    global_hooks = (hooks._global_optimizer_pre_hooks, hooks._global_optimizer_post_hooks)
    own_hooks = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    return (
        _FUSED is not None
        and type(optimizer) is Adam
        and Adam.step.__code__.co_filename == _FILE
        and optimizer.defaults.keys() <= _KNOWN
        and not any(bool(each) for each in (*global_hooks, *own_hooks))
        and not {"step", "grad_scale", "found_inf"} & set(vars(optimizer))
    )


def _is_simple(group: dict[str, Any]) -> bool:
    """Whether a group asks for the fused kernel, with numbers and not tensors."""
    wanted = ("amsgrad", "differentiable", "capturable", "decoupled_weight_decay")
    numbers = (group["lr"], *group["betas"], group["weight_decay"], group["eps"])
    return (
        bool(group["fused"])
        and not any(group.get(name, False) for name in wanted)
        and not any(isinstance(number, Tensor) for number in numbers)
    )
