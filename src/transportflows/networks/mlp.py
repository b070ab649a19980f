"""The default network: a multilayer perceptron with Fourier time features."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .._core.checks import choice, event_shape, positive_integer
from .._core.registry import register
from .._core.shared import kept_generators
from .._core.signatures import as_is, checked
from .conditioned import sizes_by_name
from .embedding import (
    LabelTable,
    VectorEmbedding,
    draw_weights,
    per_cycle,
    time_features,
)
from .layers import check_states, layer_count, zeroed

__all__ = ["MLP"]


def _silu_slope(change: Tensor, h: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        fused: Tensor = torch.ops.aten.silu_backward(change, h)
        return fused
    gate = torch.sigmoid(h)
    return change * gate * (1 + h * (1 - gate))


_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": _silu_slope,
    "relu": lambda change, h: change * (h > 0),
    "gelu": torch.ops.aten.gelu_backward,
    "tanh": lambda change, h: change * (1 - h.tanh().square()),
}
"""A change times the slope of an activation at h."""

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


@checked
@register
class MLP(nn.Module):
    """A multilayer perceptron on flattened events, with Fourier features of time.

    The first layer adds a linear map of x, a linear map of ``(t, cos 2πkt, sin 2πkt)`` for k = 1
    .. ``frequencies``, and embeddings of the label and of vectors where there are any.

    Args:
        shape: event shape, or its one dimension as an integer.
        width: width of the hidden layers.
        depth: number of hidden layers, at least 1.
        frequencies: number of Fourier frequencies.
        labels: number of classes; the network then takes ``label=`` with integers ``(B,)``, and -1
            (or no label at all) means "no class".
        heads: number of outputs of the shape of x; with 2 it gives a pair, for a FieldPair.
        activation: ``"silu"``, ``"relu"``, ``"gelu"`` or ``"tanh"``.
        vectors: sizes of vector conditions, by name: ``{"angle": 2}`` for a keyword ``angle=`` with
            numbers ``(B, 2)``. A row of NaN, or none at all, means "no vector".
        residual: make the hidden layers residual blocks, ``h + W_2 a(W_1 norm(h))``, which go
            deeper. W_2 and the last layer are zero at first, so that the first output is.
        generator: source of the initial weights; torch's default one if None.

    Raises:
        ValueError: if a size is not positive, or too large to be built.

    Example:
        >>> net = MLP((1, 8, 8), width=32, labels=10)
        >>> net(torch.tensor(0.5), torch.zeros(4, 1, 8, 8), label=torch.arange(4)).shape
        torch.Size([4, 1, 8, 8])
    """

    takes_one_time = True  # its features of time are then computed once for all rows

    def __init__(
        self,
        shape: int | Sequence[int],
        width: int = 256,
        depth: int = 4,
        *,
        frequencies: int = 8,
        labels: int | None = None,
        heads: int = 1,
        activation: str = "silu",
        vectors: Mapping[str, int] | None = None,
        residual: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.shape = event_shape("shape", shape)
        if labels is not None:
            positive_integer("labels", labels)
        if min(width, depth, heads, self.shape.numel()) < 1 or frequencies < 0:
            raise ValueError(
                "shape, width, depth and heads must be positive, got"
                f" {tuple(self.shape)}, {width}, {depth}, {heads}"
            )
        layer_count("depth", depth)
        choice("activation", activation, _ACTIVATIONS, {"swish": "'silu'"})
        self.width, self.depth, self.heads = width, depth, heads
        self.frequencies, self.labels, self.activation = frequencies, labels, activation
        self.vectors, self.residual = sizes_by_name("vectors", vectors), residual
        self.nulls: dict[str, float] = dict.fromkeys(self.vectors, math.nan)
        if labels is not None:
            self.nulls["label"] = -1
        with nullcontext() if generator is None else kept_generators(everywhere=False):
            self._build()
        if generator is not None:
            self.reset_parameters(generator)

    def _build(self) -> None:
        width, frequencies, labels = self.width, self.frequencies, self.labels
        d = self.shape.numel()
        self.embed_x = nn.Linear(d, width)
        self.embed_t = nn.Linear(1 + 2 * frequencies, width, bias=False)
        self.embed_label = LabelTable(labels, width) if labels else None
        if self.vectors:
            self.embed_vector = nn.ModuleDict(
                {f"of_{name}": VectorEmbedding(size, width) for name, size in self.vectors.items()}
            )
        layers: list[nn.Module] = []
        activation = _ACTIVATIONS[self.activation]
        for _ in range(self.depth - 1):
            if self.residual:
                layers.append(_Residual(width, activation))
            else:
                layers += [activation(), nn.Linear(width, width)]
        layers += [activation(), nn.Linear(width, self.heads * d)]
        if self.residual:
            zeroed(layers[-1])
        self.body = nn.Sequential(*layers)
        omega = per_cycle(torch.arange(1, frequencies + 1, dtype=torch.float32))
        self.register_buffer("omega", omega, persistent=False)
        self.omega: Tensor

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the weights anew, by torch's default laws, from ``generator``."""
        draw_weights(self, generator)
        for module in self.modules() if self.residual else ():
            if isinstance(module, _Residual):
                zeroed(module.second)
        if self.residual:
            zeroed(self.body[-1])

    @as_is
    def forward(
        self, t: Tensor, x: Tensor, *, label: Tensor | None = None, **cond: Tensor | None
    ) -> Tensor | tuple[Tensor, ...]:
        """Predictions of the shape of ``x`` ``(B, *)``; a tuple of them for several heads."""
        out: Tensor = self.body(self._embedded(t, x, label, cond))
        if self.heads == 1:
            return out.view(x.shape)
        return out.view(x.shape[0], self.heads, *self.shape).unbind(1)

    @as_is
    def with_tangent(
        self,
        t: Tensor,
        x: Tensor,
        dt: Tensor,
        dx: Tensor,
        dcond: Mapping[str, Tensor],
        *,
        gradients: bool = False,
        label: Tensor | None = None,
        **cond: Tensor | None,
    ) -> tuple[Tensor, Tensor] | None:
        """The prediction and its change along a direction: what forward mode gives, at less cost.

        Args:
            t: times, ``(B,)``.
            x: states, ``(B, *)``.
            dt: change of the times, ``(B,)``.
            dx: change of the states, ``(B, *)``.
            dcond: changes of vectors, by name; those of others are 0.
            gradients: whether the change is to be differentiated too.
            label: see :meth:`forward`.
            cond: see :meth:`forward`.

        Returns:
            Both, of the shape of x; None of a network with residual blocks or several heads, which
            this is not written for.
        """
        if self.residual or self.heads > 1:
            return None
        h = self._embedded(t, x, label, cond)
        with nullcontext() if gradients else torch.no_grad():
            phase = t.to(x.dtype).unsqueeze(-1) * self.omega
            waves = torch.cat([-self.omega * phase.sin(), self.omega * phase.cos()], dim=-1)
            rate = torch.cat([torch.ones_like(waves[:, :1]), waves], dim=-1)
            change = linear(dx.flatten(1), self.embed_x.weight)
            change = change + linear(dt.to(x.dtype).unsqueeze(-1) * rate, self.embed_t.weight)
            for name, value in dcond.items():
                part = self.embed_vector[f"of_{name}"]
                assert isinstance(part, VectorEmbedding)
                change = change + linear(value.to(x.dtype), part.linear.weight)
        slope = _SLOPES[self.activation]
        for layer in self.body:
            if isinstance(layer, nn.Linear):
                with nullcontext() if gradients else torch.no_grad():
                    change = linear(change, layer.weight)
                h = layer(h)
                continue
            with nullcontext() if gradients else torch.no_grad():
                change = slope(change, h)
            h = layer(h)
        return h.view(x.shape), change.view(x.shape)

    def _embedded(
        self, t: Tensor, x: Tensor, label: Tensor | None, cond: Mapping[str, Tensor | None]
    ) -> Tensor:
        """What the first layer gives, ``(B, width)``."""
        check_states(x)
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"this MLP was made for events of shape {tuple(self.shape)}, got x of shape"
                f" {tuple(x.shape)}; write MLP({tuple(x.shape[1:])})"
            )
        t = t.to(x.dtype)
        told = torch.cat([t.unsqueeze(-1), time_features(t, self.omega)], dim=-1)
        h: Tensor = self.embed_x(x.flatten(1)) + self.embed_t(told)
        if self.embed_label is not None:
            h = h + self.embed_label.look_up(label, x, "MLP")
        elif label is not None:
            raise ValueError("this MLP takes no label; write MLP(..., labels=number_of_classes)")
        for name in cond:
            if name not in self.vectors:
                raise TypeError(
                    f"got an unexpected keyword argument {name!r}; this MLP takes"
                    f" {', '.join(map(repr, self.nulls)) or 'no conditions'}: write MLP(...,"
                    f" vectors={{{name!r}: size}})"
                )
        for name in self.vectors:
            part = self.embed_vector[f"of_{name}"]
            assert isinstance(part, VectorEmbedding)
            h = h + part.look_up(cond.get(name), x, "MLP", name)
        return h

    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this object."""
        return {
            "shape": list(self.shape),
            "width": self.width,
            "depth": self.depth,
            "frequencies": self.frequencies,
            "labels": self.labels,
            "heads": self.heads,
            "activation": self.activation,
            **({"vectors": self.vectors} if self.vectors else {}),
            **({"residual": True} if self.residual else {}),
        }


class _Residual(nn.Module):
    """``h + W_2 a(W_1 norm(h))``, with ``W_2 = 0`` at first."""

    def __init__(self, width: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.activation = nn.Linear(width, width), activation()
        self.second = nn.Linear(width, width)
        zeroed(self.second)

    def forward(self, h: Tensor) -> Tensor:
        """Of the shape of h."""
        changed: Tensor = self.second(self.activation(self.first(self.norm(h))))
        return h + changed
