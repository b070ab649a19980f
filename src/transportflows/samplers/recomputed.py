"""Steps whose inner values are computed again in the backward pass, so that none is kept.

A solve that is differentiated keeps all that its networks computed, in every step. With steps of
this kind it keeps the states between them alone, and calls each network once more.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .._core.shared import evaluated
from ..fields.base import Field
from ..solve.stepper import Stepper

__all__ = ["recomputed"]


def recomputed(stepper: Stepper, field: Field) -> Stepper:
    """A stepper whose steps are computed again where they are differentiated.

    Args:
        stepper: what makes the steps; they hang on nothing but what they are given.
        field: whose networks they call; they are in evaluation mode then too.
    """

    def step(*told: Any) -> tuple[Tensor, Any]:
        with evaluated(field.networks):
            return stepper.step(*told)

    def kept_short(*told: Any) -> Any:
        return checkpoint(step, *told, use_reentrant=False, preserve_rng_state=False)

    made = copy.copy(stepper)
    made.step = kept_short  # type: ignore[assignment, method-assign]
    return made
