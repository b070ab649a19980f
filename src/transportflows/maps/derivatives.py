"""How the prediction of a flow map changes with its times and its state: forward mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.autodiff import jvp
from .._core.tensor import expand_time
from .flow_map import FlowMap

__all__ = ["along"]


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
        raise _explained(error) from error


def _explained(error: Exception) -> Exception:
    """What to write where a network has no forward-mode derivative."""
    text = str(error)
    if "forward" in text.lower() and ("AD" in text or "derivative" in text):
        return RuntimeError(
            "the network has no forward-mode derivative, which this loss takes"
            f" ({text.splitlines()[0][:160]}). Attention: write torch.nn.attention.sdpa_kernel("
            "SDPBackend.MATH) around the training, or scaled products by hand instead of"
            " nn.MultiheadAttention; checkpointing: switch it off. Or take SemigroupLoss, which"
            " needs no derivative"
        )
    return error
