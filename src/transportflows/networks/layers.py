r"""Layers that are right in forward mode, under vmap, compiled and channels-last alike.

Two of torch's are not, and are written out here where they fail. The fused kernels of
``scaled_dot_product_attention`` refuse forward-mode derivatives; and the derivative of
``group_norm`` fails for images whose memory is channels-last.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import integer

__all__ = [
    "ModulatedNorm",
    "attention",
    "check_states",
    "group_norm",
    "groups_of",
    "heads_of",
    "layer_count",
    "zeroed",
]


def check_states(x: Tensor) -> None:
    """Refuse states that are no tensor, in a way that torch.compile follows."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor of states (B, *), got {type(x).__name__}")


def layer_count(name: str, value: Any) -> int:
    """A number of layers, 1 to 10,000: each is an object of its own, which takes its time."""
    return integer(name, value, "a number of layers, 1 to 10,000", least=1, most=10_000)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, fused: bool = False
) -> Tensor:
    r"""``softmax(q kᵀ/√d) v`` over the last two axes, ``(B, heads, N, d)``.

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: booleans that broadcast to ``(B, heads, N, N)``: which keys a query sees. A row that
            sees none gives zeros.
        fused: use torch's kernels, which never hold the N x N weights, and refuse forward mode.
    """
    if fused:
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    weights = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
    if mask is not None:
        weights = weights.masked_fill(~mask, torch.finfo(weights.dtype).min)
    weights = weights.softmax(-1)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    return weights @ v


def heads_of(channels: int, size: int) -> int:
    """Number of attention heads: the largest that divides the channels into heads of ``size``."""
    return next(n for n in range(max(1, channels // size), 0, -1) if channels % n == 0)


def groups_of(channels: int) -> int:
    """Groups of at least 4 channels, 32 of them at most, of one size."""
    return math.gcd(channels, max(1, min(32, channels // 4)))


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5
) -> Tensor:
    r""":math:`(x - m_g)/\sqrt{v_g + \epsilon}` by groups of channels, times weight plus bias."""
    if x.is_contiguous():
        return nn.functional.group_norm(x, groups, weight, bias, eps)
    grouped: Tensor = x.unflatten(1, (groups, -1))  # type: ignore[no-untyped-call]
    axes = tuple(range(2, grouped.ndim))
    centred = grouped - grouped.mean(axes, keepdim=True)
    scale = (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    normal: Tensor = (centred * scale).flatten(1, 2)
    if weight is None or bias is None:
        return normal
    shape = (1, -1, *[1] * (x.ndim - 2))
    return normal * weight.view(shape) + bias.view(shape)


class ModulatedNorm(nn.Module):
    r"""Adaptive group norm: ``(1 + s(e)) norm(x) + b(e)``, with s and b linear in ``silu(e)``.

    Args:
        channels: of x.
        width: of the embedding e; 0 for a plain group norm.

    Source: Dhariwal & Nichol (2021), section 3.3.
    """

    def __init__(self, channels: int, width: int = 0) -> None:
        super().__init__()
        self.groups = groups_of(channels)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.modulation = nn.Linear(width, 2 * channels) if width else None

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        """Normalise x ``(B, C, *)``; scale and shift it by e, ``(B, width)`` or ``(1, width)``."""
        x = group_norm(x, self.groups, self.weight, self.bias)
        if self.modulation is None or e is None:
            return x
        both: Tensor = self.modulation(nn.functional.silu(e))
        scale, shift = both.view(*both.shape, *[1] * (x.ndim - 2)).chunk(2, dim=1)
        return x * (1 + scale) + shift


def zeroed(module: nn.Module) -> None:
    """Set the weights of a layer to zero: what it adds is then nothing, until it is trained."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
