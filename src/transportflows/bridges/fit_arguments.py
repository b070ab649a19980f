"""Arguments of a training that is done inside another: those of a Trainer and of its ``fit``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .._core.arguments import shown
from ..training import Trainer

__all__ = ["check_fit", "fit_arguments"]

_TRAINER = [*inspect.signature(Trainer).parameters][1:]
_FIT = [
    name for name in inspect.signature(Trainer.fit).parameters
    if name not in ("self", "data", "cond", "generator", "resume", "checkpoints")
]  # fmt: skip


def check_fit(fit: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    """Refuse what ``Trainer.fit`` does not take, or what is set by who calls it.

    Args:
        fit: arguments by name.
        more: other names that it may hold.

    Raises:
        ValueError: if it holds another, or lacks the number of steps.
    """
    for name in fit:
        if name not in _FIT and name not in more:
            of_trainer = f"{', '.join(more)} of a Trainer and " if more else ""
            raise ValueError(
                f"fit holds {name!r}; it may hold {of_trainer}{', '.join(_FIT)} of"
                f" {'its fit' if more else 'Trainer.fit'}. Data, conditions and the generator are"
                " given beside it"
            )
    if "steps" not in fit:
        raise ValueError('fit lacks the number of training steps: fit={"steps": 5_000}')


def fit_arguments(fit: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of the Trainer, and those of its ``fit``.

    Raises:
        ValueError: as :func:`check_fit`.
        TypeError: for an optimizer or scheduler that is of other parameters.
    """
    check_fit(fit, _TRAINER)
    for name in ("optimizer", "scheduler"):
        given = fit.get(name)
        if isinstance(given, (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)):
            raise TypeError(
                f"the {name} in fit is of other parameters than those of the copies that are"
                f" trained; give a function that makes one, such as torch.optim.AdamW, got"
                f" {shown(given)}"
            )
    made = {name: value for name, value in fit.items() if name in _TRAINER}
    return made, {name: value for name, value in fit.items() if name in _FIT}
