"""A U-Net for images: residual blocks on several scales, told of time by adaptive norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import check_state, event_shape, integer, number, positive_integer
from .._core.registry import register
from .._core.shared import kept_generators
from .._core.signatures import as_is, checked
from .conditioned import ConditionedNetwork
from .embedding import draw_weights
from .layers import ModulatedNorm, attention, heads_of, layer_count, zeroed

__all__ = ["UNet"]


class _Residual(nn.Module):
    """``x + conv(silu(norm(conv(silu(norm(x))), e)))``, x mapped where the channels change."""

    def __init__(self, channels: int, out: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = ModulatedNorm(channels)
        self.conv_in = nn.Conv2d(channels, out, 3, padding=1)
        self.norm_out = ModulatedNorm(out, width)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.conv_out = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else None

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv_in(nn.functional.silu(self.norm_in(x)))
        h = nn.functional.silu(self.norm_out(h, e))
        if self.dropout is not None:
            h = self.dropout(h)
        passed: Tensor = x if self.skip is None else self.skip(x)
        changed: Tensor = self.conv_out(h)
        return passed + changed


class _Attention(nn.Module):
    """``x + proj(attention(norm(x)))`` over all pixels."""

    def __init__(self, channels: int, head: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads_of(channels, head), fused
        self.norm = ModulatedNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(rows, 3, self.heads, -1, height * width)
        q, k, v = qkv.transpose(-2, -1).unbind(1)
        found = attention(q, k, v, fused=self.fused).transpose(-2, -1)
        changed: Tensor = self.proj(found.reshape(rows, channels, height, width))
        return x + changed


class _Stage(nn.Module):
    """A residual block, and attention where there is some."""

    def __init__(
        self, channels: int, out: int, width: int, dropout: float, head: int, fused: bool
    ) -> None:
        super().__init__()
        self.block = _Residual(channels, out, width, dropout)
        self.attention = _Attention(out, head, fused) if head else None

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        x = self.block(x, e)
        return x if self.attention is None else self.attention(x)


@checked
@register
class UNet(ConditionedNetwork):
    """A U-Net: from fine to coarse images and back, with a way across at each scale.

    Level k works on images of about ``H/2^k x W/2^k`` with ``width * multipliers[k]`` channels, by
    ``blocks`` residual blocks on the way down and one more on the way up. A convolution of stride 2
    halves an image (an odd size is rounded up), and nearest neighbours bring it back to the size
    that it had, so that H and W are any, and of any call: nothing depends on them. Time and
    conditions come in by adaptive group norm. The last layer is zero at first, so that the first
    output is. With ``patch=2`` each square of 2 x 2 pixels is one pixel of four times the channels,
    a rearrangement that loses nothing, and a level of one width costs a quarter.

    Some sizes, for 3 channels without conditions: ``width=16, multipliers=(1, 2, 2), blocks=1`` has
    0.3 M parameters, ``width=32, multipliers=(1, 2, 2)`` 1.8 M, ``width=64`` with the other
    defaults 10 M, and ``width=128, multipliers=(1, 2, 2, 3)`` 54 M.

    Args:
        shape: event shape ``(C, H, W)``, or C alone; H and W are not used.
        width: channels of level 0.
        multipliers: of the width, one a level.
        blocks: residual blocks of a level.
        attention: levels with attention over all pixels, counted from 0, or from the end by
            negative numbers; the middle of the coarsest level has it always. Its cost grows as
            ``(H W)²``.
        head_channels: channels of an attention head.
        labels: number of classes, for the condition ``label``; see :class:`ConditionedNetwork` for
            all conditions.
        vectors: sizes of vector conditions, by name.
        images: channels of image conditions, by name.
        heads: number of outputs of the shape of x; with 2 it gives a pair, for a FieldPair.
        patch: side of the squares that are made one pixel, which divides H and W; 1 for none.
        dropout: share of features that are dropped in training.
        fused: use torch's fused attention, which is faster and refuses forward mode.
        generator: source of the initial weights; torch's default one if None.

    Raises:
        ValueError: for sizes that are not positive, levels that are not there, or names of
            conditions that are taken; when called, for images that patches do not fill.

    Source: Ronneberger et al. (2015); Ho et al. (2020), appendix B; Dhariwal & Nichol (2021).

    Example:
        >>> net = UNet((1, 28, 28), width=16, multipliers=(1, 2), blocks=1, labels=10)
        >>> net(torch.tensor(0.5), torch.ones(4, 1, 28, 28), label=torch.arange(4)).abs().max()
        tensor(0., grad_fn=<MaxBackward1>)
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        *,
        attention: Sequence[int] = (-1,),
        head_channels: int = 32,
        labels: int | None = None,
        vectors: Mapping[str, int] | None = None,
        images: Mapping[str, int] | None = None,
        heads: int = 1,
        patch: int = 1,
        dropout: float = 0.0,
        fused: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(labels, vectors, images)
        self.shape = event_shape("shape", shape)
        if len(self.shape) not in (1, 3):
            raise ValueError(
                f"shape is (C, H, W), or C alone, got {tuple(self.shape)}; a UNet is for images,"
                f" SequenceDiT({self.shape[-1]}) for rows of features, MLP for vectors"
            )
        self.width = positive_integer("width", width)
        self.multipliers = [positive_integer("multipliers", m) for m in multipliers]
        if not self.multipliers:
            raise ValueError("multipliers is empty, and has one number a level; write (1, 2, 2)")
        levels = len(self.multipliers)
        what = f"levels of {levels}, {-levels} to {levels - 1}"
        self.attention = [
            integer("attention", k, what, least=-levels, most=levels - 1) for k in attention
        ]
        self.blocks = layer_count("blocks", blocks)
        self.head_channels = positive_integer("head_channels", head_channels)
        self.heads = positive_integer("heads", heads)
        self.patch = positive_integer("patch", patch)
        self.dropout = number("dropout", dropout, "a share in [0, 1)", least=0, below=1)
        self.fused = fused
        with nullcontext() if generator is None else kept_generators(everywhere=False):
            self._build()
        draw_weights(self, generator)
        self._start_at_zero()

    def _build(self) -> None:
        width, embedded = self.width, 4 * self.width
        widths = [width * m for m in self.multipliers]
        levels = len(widths)
        attended = {k % levels for k in self.attention}
        self._build_embeddings(embedded)

        def stage(channels: int, out: int, head: bool) -> _Stage:
            size = self.head_channels if head else 0
            return _Stage(channels, out, embedded, self.dropout, size, self.fused)

        square = self.patch**2
        entering = square * (self.shape[0] + self._image_channels)
        self.entry = nn.Conv2d(entering, width, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        channels, passed = width, [width]
        for k, out in enumerate(widths):
            for _ in range(self.blocks):
                self.down.append(stage(channels, out, k in attended))
                channels = out
                passed.append(channels)
            if k < levels - 1:
                self.shrink.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                passed.append(channels)
        self.middle = nn.ModuleList(
            [stage(channels, channels, True), stage(channels, channels, False)]
        )
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for k, out in reversed(list(enumerate(widths))):
            for _ in range(self.blocks + 1):
                self.up.append(stage(channels + passed.pop(), out, k in attended))
                channels = out
            if k > 0:
                self.grow.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.norm = ModulatedNorm(channels)
        self.exit = nn.Conv2d(channels, square * self.heads * self.shape[0], 3, padding=1)

    def _start_at_zero(self) -> None:
        """Each block adds nothing, and the output is zero, until they are trained."""
        for module in self.modules():
            if isinstance(module, _Residual):
                zeroed(module.conv_out)
            elif isinstance(module, _Attention):
                zeroed(module.proj)
        zeroed(self.exit)

    @as_is
    def forward(self, t: Tensor, x: Tensor, **cond: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        """Predictions of the shape of ``x`` ``(B, C, H, W)``; a tuple of them for several heads.

        Raises:
            ValueError: if x is of another shape than the network was made for, or patches do not
                fill it.
        """
        check_state(t, x)
        if x.ndim != 4 or x.shape[1] != self.shape[0]:
            raise ValueError(
                f"this UNet was made for images (B, {self.shape[0]}, H, W), got x of shape"
                f" {tuple(x.shape)}; write UNet({tuple(x.shape[1:])})"
            )
        if x.shape[-2] % self.patch or x.shape[-1] % self.patch:
            raise ValueError(
                f"patches of {self.patch} x {self.patch} do not fill images of"
                f" {x.shape[-2]} x {x.shape[-1]}; write UNet(..., patch=1), or pad x"
            )
        e = self._embedded(t, x, cond)
        h = self._with_images(x, cond)
        if self.patch > 1:
            h = nn.functional.pixel_unshuffle(h, self.patch)
        h = self.entry(h)
        passed, down = [h], iter(self.down)
        for level in range(len(self.multipliers)):
            for _ in range(self.blocks):
                h = next(down)(h, e)
                passed.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
                passed.append(h)
        for stage in self.middle:
            h = stage(h, e)
        up = iter(self.up)
        for level in range(len(self.multipliers)):
            for _ in range(self.blocks + 1):
                h = next(up)(torch.cat([h, passed.pop()], dim=1), e)
            if level < len(self.grow):
                size = passed[-1].shape[-2:]
                h = self.grow[level](nn.functional.interpolate(h, size=size, mode="nearest"))
        out: Tensor = self.exit(nn.functional.silu(self.norm(h)))
        if self.patch > 1:
            out = nn.functional.pixel_shuffle(out, self.patch)
        if self.heads == 1:
            return out
        return out.chunk(self.heads, dim=1)

    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this object."""
        return {
            "shape": list(self.shape),
            "width": self.width,
            "multipliers": list(self.multipliers),
            "blocks": self.blocks,
            "attention": list(self.attention),
            "head_channels": self.head_channels,
            **self._conditions(),
            "heads": self.heads,
            "patch": self.patch,
            "dropout": self.dropout,
            "fused": self.fused,
        }
