"""What networks with conditions share: their names, what stands for none, and where they go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import positive_integer
from .._core.conditions import check_names
from .._core.signatures import checked
from .embedding import LabelTable, TimeEmbedding, VectorEmbedding

__all__ = ["ConditionedNetwork", "sizes_by_name"]

_NONE: Mapping[str, int] = MappingProxyType({})


@checked
class ConditionedNetwork(nn.Module):
    """A network ``net(t, x, **cond)`` whose layers are told of time and conditions.

    There are three sorts of conditions, each under a name of its own:

    - ``label``, integers ``(B,)``: a learned row for each class;
    - vectors ``(B, size)``: a linear map; ``(B,)`` too where the size is 1;
    - images ``(B, channels, H, W)``, masks among them, of any dtype: channels beside those of x,
      and one more that is 1 where the image is given and 0 where it is not.

    What stands for "none" in a row is in :attr:`nulls`; a condition that is not given at all is
    none in all rows.

    Attributes:
        nulls: by the name of a condition the value that stands for none: -1 for a label, NaN, in
            all of a row, for a vector or an image.

    Raises:
        ValueError: if a number of classes or a size is not positive, or two conditions have one
            name; when called, for a condition that is not among these, or of another shape.

    Example:
        >>> import torch, transportflows as tpf
        >>> net = tpf.networks.MLP(2, width=8, labels=10, vectors={"c": 3})
        >>> net.nulls["label"]  # what stands for no class
        -1
        >>> t, x, none = torch.tensor(0.5), torch.ones(1, 2), torch.tensor([-1])
        >>> torch.equal(net(t, x, label=none), net(t, x))
        True
    """

    takes_one_time = True

    def __init__(
        self,
        labels: int | None,
        vectors: Mapping[str, int] | None,
        images: Mapping[str, int] | None,
    ) -> None:
        super().__init__()
        if labels is not None:
            labels = positive_integer("labels", labels)
        self.labels = labels
        self.vectors = sizes_by_name("vectors", vectors)
        self.images = sizes_by_name("images", images)
        given = [*(["label"] if labels else []), *self.vectors, *self.images]
        if len(given) != len(set(given)):
            twice = next(name for name in given if given.count(name) > 1)
            raise ValueError(f"the condition {twice!r} is there twice; give each its own name")
        self.nulls: Mapping[str, float] = {
            name: -1 if labels and name == "label" else math.nan for name in given
        }

    def _build_embeddings(self, width: int) -> None:
        """The parts that make the vector e, of this width, of time, label and vectors."""
        self.embed_t = TimeEmbedding(width)
        self.embed_label = LabelTable(self.labels, width) if self.labels else None
        self.embed_vector = nn.ModuleDict(
            {_key(name): VectorEmbedding(size, width) for name, size in self.vectors.items()}
        )

    def _embedded(self, t: Tensor, x: Tensor, cond: Mapping[str, Tensor | None]) -> Tensor:
        """``e``, ``(B, width)``, or ``(1, width)`` where it is one for all rows."""
        own = type(self).__name__
        unknown = [name for name in cond if name not in self.nulls]
        if unknown:
            known = ", ".join(map(repr, self.nulls)) or "no conditions"
            raise ValueError(
                f"this {own} takes {known}, and was given {unknown[0]!r}; write"
                f" {own}(..., labels=number_of_classes) for a label, vectors={{name: size}},"
                " images={name: channels}"
            )
        e: Tensor = self.embed_t(t, x.dtype)
        if self.embed_label is not None:
            e = e + self.embed_label.look_up(cond.get("label"), x, own)
        for name in self.vectors:
            part = self.embed_vector[_key(name)]
            assert isinstance(part, VectorEmbedding)
            e = e + part.look_up(cond.get(name), x, own, name)
        return e

    @property
    def _image_channels(self) -> int:
        """How many channels stand beside those of x."""
        return sum(self.images.values()) + len(self.images)

    def _with_images(self, x: Tensor, cond: Mapping[str, Tensor | None]) -> Tensor:
        """States and beside them the images, each with a channel that says it is there."""
        if not self.images:
            return x
        parts = [x]
        for name, channels in self.images.items():
            value = cond.get(name)
            if value is None:
                parts.append(x.new_zeros(x.shape[0], channels + 1, *x.shape[2:]))
                continue
            wanted = (x.shape[0], channels, *x.shape[2:])
            if value.shape != wanted:
                raise ValueError(
                    f"the condition {name!r} of this {type(self).__name__} has shape"
                    f" {tuple(value.shape)}, and beside x {tuple(x.shape)} it is {wanted}; resize"
                    f" it, or write images={{{name!r}: channels}} with its number of channels"
                )
            value = value.to(x.dtype)
            none = value.isnan().flatten(1).all(1).view(-1, 1, 1, 1)
            there = (~none).to(x.dtype).expand(-1, 1, *x.shape[2:])
            parts += [torch.where(none, torch.zeros_like(value), value), there]
        return torch.cat(parts, dim=1)

    def _conditions(self) -> dict[str, Any]:
        """The conditions as constructor arguments."""
        return {
            "labels": self.labels,
            "vectors": dict(self.vectors) or None,
            "images": dict(self.images) or None,
        }


def sizes_by_name(name: str, given: Mapping[str, int] | None) -> dict[str, int]:
    """Sizes of conditions, each under a name that can be a keyword."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{name} are sizes by the name of a condition, got {type(given).__name__}; write"
            f" {name}={{'name': 3}}"
        )
    try:
        check_names(given)
    except ValueError as error:
        raise ValueError(f"{name}={dict(given)} cannot be: {error}, {name}={{'c': 2}}") from None
    for key in given:
        if not key.isidentifier():
            raise ValueError(
                f"conditions are given by keyword, and {key!r} cannot be one; write a word of"
                " letters, digits and underscores"
            )
    return {key: positive_integer(f"{name}[{key!r}]", size) for key, size in given.items()}


def _key(name: str) -> str:
    """The name of a condition as a module may have it: torch refuses names of its own."""
    return f"of_{name}"
