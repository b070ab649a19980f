"""What a Trainer is given, made into what it works with, or refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .._checks import names
from ..fields import Field
from ..losses import Loss, Regression, SumLoss
from .adam import FusedAdam

__all__ = ["DEFAULT_LR", "as_loss", "as_optimizer", "as_scheduler", "trainable"]

DEFAULT_LR = 1e-3


def as_loss(given: Any, field: Field) -> Loss:
    """A loss, or a sequence of regressions as their sum, that covers what the field predicts."""
    loss: Loss = SumLoss(*given) if isinstance(given, (tuple, list)) else given
    if not isinstance(loss, Loss):
        name = getattr(given, "__name__", type(given).__name__)
        raise TypeError(
            f"loss must be a Loss such as VelocityLoss() or a list of regressions, got {name}"
        )
    if isinstance(loss, (Regression, SumLoss)) and len(field.outputs) > 1:
        parts = loss.losses if isinstance(loss, SumLoss) else [loss]
        covered = [part.quantity for part in parts]
        if set(covered) != set(field.outputs):
            raise ValueError(
                f"{type(field).__name__} predicts {names(field.outputs)} and the loss is for"
                f" {names(covered)}; give one for each: Trainer(field, [VelocityLoss(),"
                " NoiseLoss()]), or train a network alone: Velocity(net, process)"
            )
    return loss


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient."""
    return [p for p in module.parameters() if p.requires_grad]


def as_optimizer(given: Any, field: Field, lr: float) -> Optimizer:
    """An optimizer of the networks' parameters: the one given, one made, or the default."""
    in_process = {id(p) for p in field.process.parameters()}
    parameters = [p for p in trainable(field) if id(p) not in in_process]
    if isinstance(given, Optimizer):
        held = {id(p) for group in given.param_groups for p in group["params"]}
        if parameters and not any(id(p) in held for p in trainable(field)):
            raise ValueError(
                "the optimizer holds no parameter of the field; make it from"
                " field.parameters(), or give a function: optimizer=torch.optim.AdamW"
            )
        optimizer = given
    else:
        if not parameters:
            raise ValueError(
                "there is nothing to train: the networks of the field have no parameters that"
                " require a gradient. A network that is no nn.Module needs"
                " optimizer=torch.optim.Adam(its_parameters)"
            )
        optimizer = _adam(parameters, lr) if given is None else given(parameters)
    if given is not None and lr != DEFAULT_LR:
        raise ValueError(f"lr={lr} is for the default optimizer; set it in the one that you give")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a torch optimizer, or make one, got {type(optimizer).__name__}"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError("LBFGS evaluates the loss many times a step; write a loop of your own")
    return optimizer


def _adam(parameters: list[nn.Parameter], lr: float) -> Optimizer:
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    try:
        return FusedAdam(parameters, lr=lr)
    except RuntimeError:  # a dtype or device without fused kernels
        return torch.optim.Adam(parameters, lr=lr)


def as_scheduler(given: Any, optimizer: Optimizer) -> LRScheduler | None:
    """A scheduler of the optimizer: the one given, or one made."""
    if given is None:
        return None
    scheduler = given if isinstance(given, LRScheduler) else given(optimizer)
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(
            f"scheduler must be a torch scheduler, or make one, got {type(scheduler).__name__}"
        )
    if scheduler.optimizer is not optimizer:
        raise ValueError(
            "the scheduler is of another optimizer; give both, or a function:"
            " scheduler=lambda optimizer: CosineAnnealingLR(optimizer, steps)"
        )
    return scheduler
