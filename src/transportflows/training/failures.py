"""What a run says when its loss or its weights are no numbers any more."""

from __future__ import annotations

import torch

from .checkpoints import Checkpoints
from .history import NonFiniteLossError
from .run import Run

__all__ = ["non_finite"]


def non_finite(
    run: Run, checkpoints: Checkpoints | None, what: str, step: int
) -> NonFiniteLossError:
    """The error that says what became NaN at a step, what the weights are, and how to go on."""
    parameters = run.parameters
    count = sum(not bool(torch.isfinite(p).all()) for p in parameters)
    weights = (
        f"{count} of the {len(parameters)} parameter tensors now hold NaN or infinite values"
        if count
        else "the parameters are finite, but were moved by that loss"
    )
    files = [] if checkpoints is None else checkpoints.files()
    if files:
        cure = f"so go on from {files[-1]}, the last good checkpoint (trainer.load)"
    elif checkpoints is not None:
        cure = "and no checkpoint was written before, so train a new network"
    else:
        cure = "so train a new network"
    return NonFiniteLossError(
        f"{what}, and the run stopped after step {run.step}; {weights}, {cure}: with a"
        " smaller lr, with clip=1.0, or, if the loss has a weight or a target that is infinite"
        " at an end of time, with margins in its time sampler. The history is in this error"
        " and in trainer.history",
        step,
        run.history,
    )
