r"""Time and conditions as vectors, from which a network's layers take scale and shift.

All embeddings of a network are added up to one vector :math:`e` of a row,

.. math:: e = W_2\, a\bigl(W_1 \varphi(t)\bigr) + E_{label} + \sum_c U_c\, c,
          \qquad \varphi(t) = (\cos 2\pi\omega_k t,\; \sin 2\pi\omega_k t)_k,

with K frequencies :math:`\omega_k` that are geometric from 1/8 to 64 cycles in a unit of time: the
slow ones tell times apart that are far from each other (also those of :class:`EDM`, whose clock is
¼ log σ), the fast ones those within a hundredth.

Each condition has a value that stands for "none": -1 for a label, a row of NaN for a vector. It is
looked up in a learned row, so that a network trained with some conditions dropped knows the law
without them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._core.tensor import integer_ends
from .labels import as_labels, bad_label

__all__ = [
    "LabelTable",
    "TimeEmbedding",
    "VectorEmbedding",
    "draw_weights",
    "per_cycle",
    "time_features",
]

_SLOWEST, _FASTEST = 1 / 8, 64.0  # cycles in a unit of time


def per_cycle(cycles: Tensor) -> Tensor:
    """``2π ω``: phases in a unit of time of frequencies ω in cycles."""
    return 2 * math.pi * cycles


def time_features(t: Tensor, omega: Tensor) -> Tensor:
    """``cos(ω t), sin(ω t)``, ``(B, 2 K)``.

    Args:
        t: times, ``(B,)`` or ``()``.
        omega: phases in a unit of time, ``(K,)``.
    """
    phase = t.unsqueeze(-1) * omega
    return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)


class TimeEmbedding(nn.Module):
    """``W_2 silu(W_1 φ(t))``: ``(B, width)`` of times ``(B,)``, ``(1, width)`` of a time ``()``.

    Args:
        width: of the result.
        frequencies: number K of frequencies.
    """

    def __init__(self, width: int, frequencies: int = 64) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.first = nn.Linear(2 * frequencies, width)
        self.second = nn.Linear(width, width)

    def forward(self, t: Tensor, kind: torch.dtype) -> Tensor:
        """The embedding of times, in the dtype of the states; the phases are float32 or wider."""
        wide = torch.promote_types(t.dtype, torch.float32)
        octaves = torch.linspace(
            math.log(_SLOWEST), math.log(_FASTEST), self.frequencies, dtype=wide, device=t.device
        )
        features = time_features(t.reshape(-1).to(wide), per_cycle(octaves.exp())).to(kind)
        embedded: Tensor = self.second(nn.functional.silu(self.first(features)))
        return embedded


class LabelTable(nn.Embedding):
    """Rows for the classes 0 .. ``labels`` - 1, and a last one for -1 or no label: no class."""

    def __init__(self, labels: int, width: int) -> None:
        super().__init__(labels + 1, width)
        self.labels = labels

    def look_up(self, label: Tensor | None, x: Tensor, whose: str) -> Tensor:
        """``(B, width)``, or ``(width,)`` without labels; bad labels are refused on the CPU.

        Args:
            label: integers ``(B,)`` or ``()``; None for no class.
            x: states, on whose device they are looked up.
            whose: class of the network, for messages.
        """
        if label is None:
            return self.weight[-1]
        given = label = as_labels(label, x).to(x.device)
        # Out of range stays out of range, and is refused: labels + 1 for the index of "none".
        label = torch.where(label == self.labels, self.labels + 1, label)
        index = torch.where(label == -1, self.labels, label)
        if torch.compiler.is_compiling():
            return nn.functional.embedding(index, self.weight)
        try:
            return nn.functional.embedding(index, self.weight)
        except (IndexError, RuntimeError) as error:
            low, high = integer_ends(given)
            cure = f"write {whose}(..., labels={high + 1})"
            raise bad_label(low, high, self.labels, True, whose, cure) from error


class VectorEmbedding(nn.Module):
    """A linear map of a vector, ``(B, width)``; a row of NaN, or none at all, is a learned one.

    Args:
        size: numbers in a vector.
        width: of the result.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.linear = nn.Linear(size, width)
        self.null = nn.Parameter(torch.zeros(width))

    def look_up(self, value: Tensor | None, x: Tensor, whose: str, name: str) -> Tensor:
        """``(B, width)``, or ``(width,)`` without a vector."""
        if value is None:
            return self.null
        value = torch.as_tensor(value, device=x.device).to(x.dtype)
        if value.ndim <= 1 and self.size == 1:  # one number a row, or one for all
            value = value.unsqueeze(-1)
        if value.ndim == 2 and value.shape[0] not in (1, x.shape[0]):
            raise ValueError(
                f"the condition {name!r} has {len(value)} rows for {len(x)} of x; give one a row,"
                f" ({len(x)}, {self.size}), or one for all, (1, {self.size})"
            )
        if value.ndim > 2 or value.ndim == 0 or value.shape[-1] != self.size:
            raise ValueError(
                f"the condition {name!r} of this {whose} is (B, {self.size}), got shape"
                f" {tuple(value.shape)}; write {whose}(..., vectors={{{name!r}:"
                f" {value.shape[-1] if value.ndim else 1}}}), or other conditions"
            )
        none = value.isnan().all(-1, keepdim=True)
        known: Tensor = self.linear(torch.where(none, torch.zeros_like(value), value))
        return torch.where(none, self.null, known)


@torch.no_grad()
def draw_weights(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw weights anew, by torch's default laws, from a generator; None leaves them.

    Linear maps and convolutions with n inputs have weights uniform on ``±1/√n``, embeddings
    standard normal ones.
    """
    for part in module.modules() if generator is not None else ():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            bound = 1 / math.sqrt(part.weight[0].numel())
            for parameter in (part.weight, part.bias):
                if parameter is not None:
                    nn.init.uniform_(parameter, -bound, bound, generator=generator)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, generator=generator)
