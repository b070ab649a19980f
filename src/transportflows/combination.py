r"""Linear combinations of the state, the base's mean and predictions: the one place that adds them.

All that a solve or a conversion does with what networks predict is linear,

.. math:: w_x\, x + w_m\, m + \sum_k w_k f_k ,

and only the numbers differ: the conversions between velocity, score, noise and data
(:mod:`transportflows.conversions`), the drift ``b ± ε s`` of a sampler, the steps of multistep
methods. Weights are formed for all times of a grid at once, as float64 tensors, with what cancels
cancelled, and then made into numbers, so that a step loop holds network calls and fused additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._core.reprs import summary
from ._core.signatures import as_is, checked
from ._core.tensor import expand_time

__all__ = ["Combination"]

Weight = float | Tensor


@checked
@dataclass(frozen=True, eq=False)
class Combination:
    """``x · x + mean · m + Σ_k outputs[k] · f_k``.

    Weights are tensors of one shape, usually that of the times, or numbers. One that is None is
    absent; the network of an output whose weight is None or 0 need not be called.

    Attributes:
        x: weight of the state.
        mean: weight of m, the mean of the Gaussian base.
        outputs: weights of the predictions.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(1,))
        >>> field = tpf.Velocity(lambda t, x: -2 * x, process)
        >>> weights = field.weights("score", torch.tensor(0.5))  # s = (t b - x)/(1 - t)
        >>> weights.x, weights.outputs
        (tensor(-2.), (tensor(1.),))
        >>> weights.of(torch.ones(1, 1), None, [torch.full((1, 1), -2.0)])
        tensor([[-4.]])
    """

    x: Any
    mean: Any
    outputs: tuple[Any, ...]

    # --------------------------------------------------------------------- forming the weights

    def tensors(self) -> list[Tensor]:
        """The weights that are there."""
        return [w for w in (self.x, self.mean, *self.outputs) if w is not None]

    def map(self, function: Any) -> Combination:
        """A function of each weight that is there."""
        x, mean, *outputs = (
            None if w is None else function(w) for w in (self.x, self.mean, *self.outputs)
        )
        return Combination(x, mean, tuple(outputs))

    def __add__(self, other: Combination) -> Combination:
        def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return (b if a is None else a) if a is None or b is None else a + b

        return Combination(
            plus(self.x, other.x),
            plus(self.mean, other.mean),
            tuple(plus(a, b) for a, b in zip(self.outputs, other.outputs, strict=True)),
        )

    def __mul__(self, factor: float | Tensor) -> Combination:
        return self.map(lambda w: w * factor)

    def __sub__(self, other: Combination) -> Combination:
        return self + other * -1.0

    def where(self, condition: Tensor, other: Combination) -> Combination:
        """These weights where a condition, of their shape, holds; elsewhere the other's, or 0."""

        def pick(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            if a is None and b is None:
                return None
            return torch.where(condition, 0.0 if a is None else a, 0.0 if b is None else b)

        return Combination(
            pick(self.x, other.x),
            pick(self.mean, other.mean),
            tuple(pick(a, b) for a, b in zip(self.outputs, other.outputs, strict=True)),
        )

    def within(self, bound: float) -> Tensor:
        """Whether all weights are at most ``bound`` in size, of their shape; NaN is not."""
        return torch.stack([w.abs() <= bound for w in self.tensors()]).all(0)

    def finite(self) -> Tensor:
        """Whether all weights are finite, of their shape."""
        return torch.stack([torch.isfinite(w) for w in self.tensors()]).all(0)

    def tabulated(self, count: int, groups: int, like: Tensor) -> list[Combination]:
        """One for each of ``count`` times, of weights ``(count, groups)`` or ``(count,)``.

        With one group the weights are numbers, else tensors ``(groups,)`` of the kind of ``like``.
        """

        def rows(w: Tensor | None) -> Sequence[Any]:
            if w is None:
                return [None] * count
            if groups == 1:
                numbers: list[float] = w.reshape(count).tolist()
                return numbers
            return w.reshape(count, groups).to(like).unbind(0)

        columns = [rows(w) for w in (self.x, self.mean, *self.outputs)]
        return [Combination(x, mean, tuple(rest)) for x, mean, *rest in zip(*columns, strict=True)]

    # ----------------------------------------------------------------------------- adding it up

    @property
    def needed(self) -> tuple[bool, ...]:
        """Which of the predictions have a weight."""
        return tuple(
            w is not None and not (isinstance(w, float) and w == 0.0) for w in self.outputs
        )

    @as_is
    def of(
        self,
        x: Tensor,
        mean: Tensor | None,
        predictions: Sequence[Tensor | None],
        rows: Any = None,
    ) -> Tensor:
        """Add it up: a tensor of the shape of x, differentiable; none of its parts is changed.

        Where one prediction with weight 1 is all there is, it is that prediction itself.

        Args:
            x: states, ``(B, *)``.
            mean: m, of the event shape, or None for zero.
            predictions: one for each output; None for those that are not needed.
            rows: which rows these are, for weights ``(groups,)``, one for each group of rows; None
                for numbers and weights ``()`` or ``(B,)``.
        """
        out: Tensor | None = None
        own = False  # whether out is a tensor of ours, which may be added to in place
        for weight, value in zip(
            (*self.outputs, self.x, self.mean), (*predictions, x, mean), strict=True
        ):
            if weight is None or value is None:
                continue
            if isinstance(weight, float):
                if weight == 0.0:
                    continue
                if out is None:
                    own = weight != 1.0
                    out = value * weight if own else value
                    continue
                if own and not torch.is_grad_enabled():
                    out.add_(value, alpha=weight)
                else:
                    out, own = torch.add(out, value, alpha=weight), True
                continue
            wide = expand_time(weight, x) if rows is None else rows.spread(weight)
            out = wide * value if out is None else torch.addcmul(out, wide, value)
            own = True
        if out is None:
            return torch.zeros_like(x)
        if out is x:  # which a loop may go on to write into
            return x.clone()
        return out if out.shape == x.shape else out.expand_as(x)

    __repr__ = summary
