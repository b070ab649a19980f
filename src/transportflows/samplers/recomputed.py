"""Steps whose inner values are computed again in the backward pass, so that none is kept.

A solve that is differentiated keeps all that its networks computed, in every step. With steps of
this kind it keeps what goes into them alone (the state, its noise, what a multistep scheme
remembers), and calls each network once more. The steps of a field that takes derivatives itself by
torch.func (a tilt, an observation's guidance) are kept whole: torch knows no other way.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .._core.shared import reading
from ..fields.base import Field
from ..solve.stepper import Stepper

__all__ = ["recomputed"]


def recomputed(stepper: Stepper, field: Field) -> Stepper:
    """A stepper whose steps are computed again where they are differentiated.

    Args:
        stepper: what makes the steps; they hang on nothing but what they are given.
        field: whose networks they call; they are in evaluation mode then too.
    """
    me, networks = threading.get_ident(), [n for n in field.networks if isinstance(n, nn.Module)]

    def versions() -> list[int]:
        held = [tensor for net in networks for tensor in (*net.parameters(), *net.buffers())]
        return [0 if tensor.is_inference() else tensor._version for tensor in held]

    before = versions()

    def step(*told: Any) -> tuple[Tensor, Any]:
        if versions() != before:
            raise RuntimeError(
                "a network was changed between a solve with gradients=True and its backward pass,"
                " which computes the steps again; call backward() before optimizer.step(), and let"
                " no network write to its buffers in evaluation mode"
            )
        with reading(field.networks, me):
            return stepper.step(*told)

    whole = False

    def kept_short(*told: Any) -> Any:
        nonlocal whole
        if not whole:
            try:
                return checkpoint(step, *told, use_reentrant=False)
            except RuntimeError as error:
                if "saved tensor hooks" not in str(error):
                    raise
                whole = True  # torch.func takes no derivatives inside of a checkpoint
        return stepper.step(*told)

    made = copy.copy(stepper)
    made.step = kept_short  # type: ignore[assignment, method-assign]
    return made
