"""How the prediction of a flow map changes with its times and its state: forward mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.autodiff import jvp
from .._core.tensor import expand_time
from .flow_map import FlowMap

__all__ = ["along", "no_forward_mode"]


def along(
    field: FlowMap,
    s: Tensor,
    t: Tensor,
    x: Tensor,
    cond: Mapping[str, Any],
    ds: Tensor,
    dt: Tensor,
    dx: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``v_{s,t}(x)`` and its change along ``(ds, dt, dx)``."""

    def moved(step: Tensor) -> Tensor:
        y = x if dx is None else x + expand_time(step, x) * dx
        return field.between(s + step * ds, t + step * dt, y, cond)[0]

    try:
        return jvp(moved, torch.zeros_like(s), torch.ones_like(s))
    except (NotImplementedError, RuntimeError) as error:
        found = no_forward_mode(error, "this loss", "take SemigroupLoss, which needs no derivative")
        raise found from error


def no_forward_mode(error: Exception, who: str, otherwise: str) -> Exception:
    """What to raise where a network has no forward-mode derivative; the error itself elsewhere.

    Args:
        error: what torch raised.
        who: takes the derivative.
        otherwise: what to do without one.
    """
    text = str(error)
    if "forward" in text.lower() and ("AD" in text or "derivative" in text):
        return RuntimeError(
            f"the network has no forward-mode derivative, which {who} takes"
            f" ({text.splitlines()[0][:160]}). Attention: write torch.nn.attention.sdpa_kernel("
            "SDPBackend.MATH) around the training, or scaled products by hand instead of"
            f" nn.MultiheadAttention; checkpointing: switch it off. Or {otherwise}"
        )
    return error
