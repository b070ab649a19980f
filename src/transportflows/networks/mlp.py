"""The default network: a multilayer perceptron with Fourier time features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import choice, event_shape, positive_integer
from .._core.registry import register
from .._core.shared import kept_generators
from .._core.signatures import checked

__all__ = ["MLP", "from_xt"]

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
    .. ``frequencies``, and an embedding of the label if there is one.

    Args:
        shape: event shape, or its one dimension as an integer.
        width: width of the hidden layers.
        depth: number of hidden layers, at least 1.
        frequencies: number of Fourier frequencies.
        labels: number of classes; the network then takes ``label=`` with integers ``(B,)``, and -1
            (or no label at all) means "no class".
        heads: number of outputs of the shape of x; with 2 it gives a pair, for a FieldPair.
        activation: ``"silu"``, ``"relu"``, ``"gelu"`` or ``"tanh"``.
        generator: source of the initial weights; torch's default one if None.

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
        choice("activation", activation, _ACTIVATIONS, {"swish": "'silu'"})
        self.width, self.depth, self.heads = width, depth, heads
        self.frequencies, self.labels, self.activation = frequencies, labels, activation
        with nullcontext() if generator is None else kept_generators(everywhere=False):
            self._build()
        if generator is not None:
            self.reset_parameters(generator)

    @property
    def nulls(self) -> dict[str, int]:
        """The value that stands for no label, -1, if it takes one."""
        return {} if self.embed_label is None else {"label": -1}

    def _build(self) -> None:
        width, frequencies, labels = self.width, self.frequencies, self.labels
        d = self.shape.numel()
        self.embed_x = nn.Linear(d, width)
        self.embed_t = nn.Linear(1 + 2 * frequencies, width, bias=False)
        self.embed_label = nn.Embedding(labels + 1, width) if labels else None
        layers: list[nn.Module] = []
        activation = _ACTIVATIONS[self.activation]
        for _ in range(self.depth - 1):
            layers += [activation(), nn.Linear(width, width)]
        layers += [activation(), nn.Linear(width, self.heads * d)]
        self.body = nn.Sequential(*layers)
        omega = 2 * math.pi * torch.arange(1, frequencies + 1, dtype=torch.float32)
        self.register_buffer("omega", omega, persistent=False)
        self.omega: Tensor

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the weights anew, by torch's default laws, from ``generator``."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                for parameter in (module.weight, module.bias):
                    if parameter is not None:
                        nn.init.uniform_(parameter, -bound, bound, generator=generator)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=generator)

    def forward(
        self, t: Tensor, x: Tensor, *, label: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Predictions of the shape of ``x`` ``(B, *)``; a tuple of them for several heads."""
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"this MLP was made for events of shape {tuple(self.shape)}, got x of shape"
                f" {tuple(x.shape)}; write MLP({tuple(x.shape[1:])})"
            )
        t = t.to(x.dtype).unsqueeze(-1)
        phase = t * self.omega
        h = self.embed_x(x.flatten(1)) + self.embed_t(
            torch.cat([t, torch.cos(phase), torch.sin(phase)], dim=-1)
        )
        if self.embed_label is not None:
            if label is None:
                h = h + self.embed_label.weight[-1]
            else:
                label = torch.as_tensor(label, device=x.device)
                no_class = self.embed_label.num_embeddings - 1
                # Out of range stays out of range, and is refused: max + 2 for the index of "none".
                label = torch.where(label == no_class, no_class + 1, label)
                try:
                    h = h + self.embed_label(torch.where(label == -1, no_class, label))
                except (IndexError, RuntimeError) as error:
                    raise self._refused(label) from error
        elif label is not None:
            raise ValueError("this MLP takes no label; write MLP(..., labels=number_of_classes)")
        out: Tensor = self.body(h)
        if self.heads == 1:
            return out.view(x.shape)
        return out.view(x.shape[0], self.heads, *self.shape).unbind(1)

    def _refused(self, label: Tensor) -> Exception:
        """What is wrong with labels that could not be looked up."""
        if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
            return TypeError(f"label holds integers, got {label.dtype}; write label.long()")
        if label.ndim > 1:
            return ValueError(f"label is (B,) or (), got shape {tuple(label.shape)}")
        low, high = (int(end) for end in torch.aminmax(label))
        return ValueError(
            f"label holds {low if low < -1 else high}, and this MLP has the classes 0 to"
            f" {(self.labels or 0) - 1} (and -1 for none); write MLP(..., labels={high + 1})"
        )

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
        }


@checked
class _FromXT(nn.Module):
    def __init__(self, net: Callable[..., Any]) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, x: Tensor, **cond: Any) -> Any:
        """The network, its arguments in the other order."""
        return self.net(x, t.expand(x.shape[0]), **cond)


@checked
def from_xt(net: Callable[..., Any]) -> nn.Module:
    """Adapt ``net(x, t, **cond)``, with t of shape ``(B,)``, to ``net(t, x, **cond)``.

    Raises:
        TypeError: if it cannot be called.
    """
    if not callable(net):
        raise TypeError(f"net must be a callable net(x, t, **cond), got {type(net).__name__}")
    return _FromXT(net)
