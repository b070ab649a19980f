"""Blocks of a transformer whose tokens are told of time, and the places of tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .layers import attention, zeroed

__all__ = ["Body", "places", "waves"]


def _modulated(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    normal = nn.functional.layer_norm(h, h.shape[-1:], eps=1e-6)
    return normal * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class _Block(nn.Module):
    """Attention and a network on each token, gated by e."""

    def __init__(self, width: int, heads: int, ratio: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)

    def forward(self, h: Tensor, e: Tensor, mask: Tensor | None) -> Tensor:
        s1, b1, g1, s2, b2, g2 = self.modulation(nn.functional.silu(e)).chunk(6, dim=-1)
        rows, tokens, width = h.shape
        split = (rows, tokens, 3, self.heads, width // self.heads)
        q, k, v = self.qkv(_modulated(h, s1, b1)).reshape(split).permute(2, 0, 3, 1, 4).unbind(0)
        seen = attention(q, k, v, mask, fused=self.fused).transpose(1, 2).reshape(h.shape)
        h = h + g1.unsqueeze(1) * self.proj(seen)
        inner = nn.functional.gelu(self.first(_modulated(h, s2, b2)), approximate="tanh")
        changed: Tensor = g2.unsqueeze(1) * self.second(inner)
        found: Tensor = h + changed
        return found


class Body(nn.Module):
    """Blocks, and the last layer, from tokens ``(B, N, width)`` to ``(B, N, out)``."""

    def __init__(
        self, width: int, depth: int, heads: int, ratio: int, out: int, fused: bool
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"width must be divisible by attention_heads, got {width} and {heads}; write"
                f" width={math.ceil(width / heads) * heads}"
            )
        self.blocks = nn.ModuleList([_Block(width, heads, ratio, fused) for _ in range(depth)])
        self.modulation, self.exit = nn.Linear(width, 2 * width), nn.Linear(width, out)

    def start_at_zero(self) -> None:
        """Each block passes on what it is given, and the output is zero."""
        for part in (*self.blocks, self):
            zeroed(part.modulation)
        zeroed(self.exit)

    def forward(self, h: Tensor, e: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            h = block(h, e, mask)
        scale, shift = self.modulation(nn.functional.silu(e)).chunk(2, dim=-1)
        out: Tensor = self.exit(_modulated(h, scale, shift))
        return out


def waves(place: Tensor, width: int) -> Tensor:
    """Cosines and sines of places at wavelengths from 2π to 2π 10⁴, ``(N, width)``."""
    k = torch.arange(width // 2, device=place.device, dtype=place.dtype)
    phase = place.unsqueeze(-1) * torch.exp(-math.log(1e4) / (width // 2) * k)
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def places(down: int, across: int, width: int, like: Tensor) -> Tensor:
    """Of the row in one half and of the column in the other, ``(down * across, width)``."""
    rows = waves(torch.arange(down, device=like.device, dtype=like.dtype), width // 2)
    columns = waves(torch.arange(across, device=like.device, dtype=like.dtype), width // 2)
    both = [
        rows.unsqueeze(1).expand(-1, across, -1),
        columns.unsqueeze(0).expand(down, -1, -1),
    ]
    return torch.cat(both, dim=-1).reshape(down * across, width)
