r"""Transformers of the DiT family: for images in patches, and for sets and sequences with masks.

A block has attention among tokens and a network on each of them; time and conditions, as one vector
e, scale and shift what goes into both, and gate what comes out,

.. math:: h \leftarrow h + g_1(e)\, \mathrm{attention}\bigl((1 + s_1(e))\, n(h) + b_1(e)\bigr),
          \qquad h \leftarrow h + g_2(e)\, \mathrm{mlp}\bigl((1 + s_2(e))\, n(h) + b_2(e)\bigr),

with n a layer norm without weights. All of s, b and g are zero at first, so that a block passes h
on, and the last layer is zero, so that the first output is (Peebles & Xie 2023, "adaLN-Zero").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import check_state, choice, event_shape, positive_integer
from .._core.registry import register
from .._core.shared import kept_generators
from .._core.signatures import as_is, checked
from .conditioned import ConditionedNetwork
from .embedding import draw_weights
from .layers import layer_count
from .tokens import Body, places, waves

__all__ = ["DiT", "SequenceDiT"]


class _Transformer(ConditionedNetwork):
    """What both have in common: sizes, and how the body is made."""

    def _sized(self, sizes: Mapping[str, int], fused: bool) -> None:
        for name, value in sizes.items():
            check = layer_count if name == "depth" else positive_integer
            setattr(self, name, check(name, value))
        self.fused = fused

    def _made(self, generator: torch.Generator | None, tokens: int, out: int) -> None:
        sizes: Any = self
        with nullcontext() if generator is None else kept_generators(everywhere=False):
            self._build_embeddings(sizes.width)
            self.entry = nn.Linear(tokens, sizes.width)
            self.body = Body(
                sizes.width, sizes.depth, sizes.attention_heads, sizes.ratio, out, self.fused
            )
        draw_weights(self, generator)
        self.body.start_at_zero()

    def _sizes(self) -> dict[str, Any]:
        names = ("width", "depth", "attention_heads", "ratio", "heads", "fused")
        return {name: getattr(self, name) for name in names}


@checked
@register
class DiT(_Transformer):
    """A transformer on the patches of images.

    An image of any size that patches of ``patch x patch`` pixels fill becomes a token a patch,
    which knows its place by sines and cosines of its row and column. DiT-S/2 of Peebles and Xie
    (33 M parameters) has ``width=384, depth=12, attention_heads=6``, DiT-B 768, 12 and 12; the
    default has 7 M.

    Args:
        shape: event shape ``(C, H, W)``; H and W are only checked against ``patch``.
        patch: pixels along the side of a patch.
        width: of a token, divisible by 4 and by ``attention_heads``.
        depth: number of blocks.
        attention_heads: heads of an attention.
        ratio: width of the inner layer of a block's network, in widths.
        labels: number of classes, for the condition ``label``; see :class:`ConditionedNetwork` for
            all conditions.
        vectors: sizes of vector conditions, by name.
        images: channels of image conditions, by name.
        heads: number of outputs of the shape of x; with 2 it gives a pair, for a FieldPair.
        fused: use torch's fused attention, which is faster and refuses forward mode.
        generator: source of the initial weights; torch's default one if None.

    Raises:
        ValueError: for sizes that are not positive, or do not divide what they must.

    Source: Peebles & Xie (2023), "Scalable diffusion models with transformers".

    Example:
        >>> net = DiT((1, 8, 8), width=32, depth=2, attention_heads=2, labels=10)
        >>> net(torch.tensor(0.5), torch.ones(4, 1, 8, 8), label=torch.arange(4)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        shape: Sequence[int],
        patch: int = 2,
        width: int = 256,
        depth: int = 6,
        *,
        attention_heads: int = 4,
        ratio: int = 4,
        labels: int | None = None,
        vectors: Mapping[str, int] | None = None,
        images: Mapping[str, int] | None = None,
        heads: int = 1,
        fused: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(labels, vectors, images)
        self.shape, self.patch = event_shape("shape", shape), positive_integer("patch", patch)
        if len(self.shape) != 3:
            raise ValueError(
                f"shape is (C, H, W), got {tuple(self.shape)}; for sets and sequences of features"
                " write SequenceDiT(features)"
            )
        self._check_patches(self.shape)
        sizes = {"width": width, "depth": depth, "attention_heads": attention_heads}
        self._sized({**sizes, "ratio": ratio, "heads": heads}, fused)
        if width % 4:
            raise ValueError(f"width must be divisible by 4, got {width}; its places need that")
        area = patch**2
        self._made(generator, area * (self.shape[0] + self._image_channels), area * self._out)

    @property
    def _out(self) -> int:
        return int(getattr(self, "heads")) * self.shape[0]  # noqa: B009

    def _check_patches(self, shape: Sequence[int]) -> None:
        if shape[-2] % self.patch or shape[-1] % self.patch:
            raise ValueError(
                f"patches of {self.patch} x {self.patch} do not fill images of {shape[-2]} x"
                f" {shape[-1]}; take a patch that divides both, or a UNet, which takes any size"
            )

    @as_is
    def forward(self, t: Tensor, x: Tensor, **cond: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        """Predictions of the shape of ``x`` ``(B, C, H, W)``; a tuple of them for several heads.

        Raises:
            ValueError: if x, a label or a vector is of another shape than the network was made for.
        """
        check_state(t, x)
        if x.ndim != 4 or x.shape[1] != self.shape[0]:
            raise ValueError(
                f"this DiT was made for images (B, {self.shape[0]}, H, W), got x of shape"
                f" {tuple(x.shape)}; write DiT({tuple(x.shape[1:])})"
            )
        self._check_patches(x.shape)
        e = self._embedded(t, x, cond)
        p, rows = self.patch, x.shape[0]
        down, across = x.shape[2] // p, x.shape[3] // p
        cut = self._with_images(x, cond).reshape(rows, -1, down, p, across, p)
        tokens = cut.permute(0, 2, 4, 1, 3, 5).reshape(rows, down * across, -1)
        h = self.entry(tokens) + places(down, across, self.entry.out_features, x)
        out = self.body(h, e).reshape(rows, down, across, -1, p, p)
        image: Tensor = out.permute(0, 3, 1, 4, 2, 5).reshape(rows, -1, *x.shape[2:])
        heads = image.shape[1] // self.shape[0]
        return image if heads == 1 else image.chunk(heads, dim=1)

    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this object."""
        given = {"shape": list(self.shape), "patch": self.patch}
        return {**given, **self._sizes(), **self._conditions()}


@checked
@register
class SequenceDiT(_Transformer):
    """A transformer on sets or sequences of features, of any length, with a mask.

    States are ``(B, N, features)``. The condition ``mask``, ``(B, N)``, is true (or 1) where there
    is an element: others are not seen by any, and their output is zero, so that rows of several
    lengths go in one batch. As a set the output moves with its elements when they are put in
    another order; as a sequence each knows its place. (A regression counts the targets in places
    of no elements too: a constant, which no weight changes.)

    Args:
        features: of an element, the last dimension of x.
        width: of a token, divisible by 2 and by ``attention_heads``.
        depth: number of blocks.
        order: ``"set"`` or ``"sequence"``.
        attention_heads: heads of an attention.
        ratio: width of the inner layer of a block's network, in widths.
        labels: number of classes, for the condition ``label``; see :class:`ConditionedNetwork`.
        vectors: sizes of vector conditions, by name.
        heads: number of outputs of the shape of x; with 2 it gives a pair, for a FieldPair.
        fused: use torch's fused attention, which is faster and refuses forward mode.
        generator: source of the initial weights; torch's default one if None.

    Raises:
        ValueError: for sizes that are not positive, or do not divide what they must.

    Source: Peebles & Xie (2023); Vaswani et al. (2017) for places.

    Example:
        >>> net = SequenceDiT(3, width=32, depth=2, attention_heads=2)
        >>> mask = torch.arange(5) < torch.tensor([[5], [2]])
        >>> net(torch.tensor(0.5), torch.ones(2, 5, 3), mask=mask).shape
        torch.Size([2, 5, 3])
    """

    def __init__(
        self,
        features: int,
        width: int = 256,
        depth: int = 6,
        *,
        order: str = "set",
        attention_heads: int = 4,
        ratio: int = 4,
        labels: int | None = None,
        vectors: Mapping[str, int] | None = None,
        heads: int = 1,
        fused: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(labels, vectors, None)
        if "mask" in self.nulls:
            raise ValueError(
                "the condition 'mask' says where there are elements; name it otherwise"
            )
        self.order = choice("order", order, ("set", "sequence"))
        self.features = positive_integer("features", features)
        sizes = {"width": width, "depth": depth, "attention_heads": attention_heads}
        self._sized({**sizes, "ratio": ratio, "heads": heads}, fused)
        if width % 2:
            raise ValueError(f"width must be divisible by 2, got {width}; its places need that")
        self._made(generator, features, heads * features)

    @as_is
    def forward(
        self, t: Tensor, x: Tensor, *, mask: Tensor | None = None, **cond: Tensor | None
    ) -> Tensor | tuple[Tensor, ...]:
        """Predictions of the shape of ``x`` ``(B, N, features)``; a tuple for several heads.

        Raises:
            ValueError: if x, the mask, a label or a vector is of another shape than the network was
                made for.
        """
        check_state(t, x)
        if x.ndim != 3 or x.shape[-1] != self.features:
            raise ValueError(
                f"this SequenceDiT was made for rows (B, N, {self.features}), got x of shape"
                f" {tuple(x.shape)}; write SequenceDiT({x.shape[-1]})"
            )
        if mask is not None:
            if mask.shape != x.shape[:2]:
                raise ValueError(
                    f"mask is {tuple(x.shape[:2])}, true where there is an element, got shape"
                    f" {tuple(mask.shape)}"
                )
            mask = _booleans(mask)
            # What is in the places of no elements may be anything, infinity too.
            x = torch.where(mask.unsqueeze(-1), x, torch.zeros_like(x))
        e = self._embedded(t, x, cond)
        h: Tensor = self.entry(x)
        if self.order == "sequence":
            order = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
            h = h + waves(order, self.entry.out_features)
        out: Tensor = self.body(h, e, None if mask is None else mask[:, None, None, :])
        if mask is not None:
            out = torch.where(mask.unsqueeze(-1), out, torch.zeros_like(out))
        heads = out.shape[-1] // self.features
        return out if heads == 1 else out.chunk(heads, dim=-1)

    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this object."""
        given = {"features": self.features, "order": self.order, **self._conditions()}
        given.pop("images")
        return {**given, **self._sizes()}


def _booleans(mask: Tensor) -> Tensor:
    """A mask of booleans, or of 0 and 1; where it is on the CPU, all else is refused."""
    if mask.dtype == torch.bool:
        return mask
    looked_at = mask.device.type == "cpu" and not torch.compiler.is_compiling()
    if looked_at and not torch._C._functorch.is_functorch_wrapped_tensor(mask):
        bad = (mask != 0) & (mask != 1)
        if bool(bad.any()):
            raise ValueError(
                f"a mask is 1 where there is an element and 0 elsewhere, and this one holds"
                f" {float(mask[bad][0]):g}; write mask > 0.5"
            )
    return mask > 0.5 if mask.is_floating_point() else mask.bool()
