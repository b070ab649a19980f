"""Directions that are gradients of a function of the samples: a discriminator's, any loss's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._core.autodiff import value_and_gradient
from .._core.signatures import checked
from .directions import Direction, Swarm

__all__ = ["DiscriminatorDifference", "LossGradient"]


@checked
class DiscriminatorDifference(Direction):
    r""":math:`\nabla_z h(z)`, with h the logit of a discriminator (times σ² where σ is given).

    The logit of an optimal one is ``log p - log q``, so its gradient is the score difference, of
    the smoothed laws where it was trained on smoothed samples.

    Args:
        logit: h, ``(B, *)`` to ``(B,)`` or ``(B, 1)``: the output before the sigmoid.
        loss: ``"alternative"`` for ``-h``, equation 32; ``"non_saturating"`` for ``-log f``,
            equation 28, whose gradient is ``(1 - f) ∇h``.

    Raises:
        ValueError: if the loss is unknown.

    Source: Weber (2023), equations 28 to 32.

    Example:
        >>> from transportflows.particles import Swarm
        >>> z = torch.tensor([[1.0]])
        >>> best = lambda z: 3 * z[:, 0] - 4.5  # log p - log q of N(3, 1) and N(0, 1)
        >>> DiscriminatorDifference(best)(z, Swarm(z, z, None, sigma=0.0))  # s_p - s_q
        tensor([[3.]])
    """

    needs_sigma = False

    def __init__(self, logit: Callable[[Tensor], Tensor], *, loss: str = "alternative") -> None:
        super().__init__()
        if loss not in ("alternative", "non_saturating"):
            raise ValueError(
                f"unknown loss {loss!r}; known: 'alternative' (-h) and 'non_saturating' (-log f)"
            )
        self.logit, self.loss = logit, loss

    def forward(self, z: Tensor, swarm: Swarm) -> Tensor:
        gradient = value_and_gradient(self._value, z)[1]
        return (swarm.sigma**2 if swarm.sigma > 0 else 1.0) * gradient

    def _value(self, z: Tensor) -> Tensor:
        """What the direction is the gradient of, a number a row."""
        h = self.logit(z)
        if h.shape not in ((len(z),), (len(z), 1)):
            raise ValueError(
                f"a discriminator must give one logit a row, ({len(z)},), and it gave"
                f" {tuple(h.shape)}"
            )
        return h if self.loss == "alternative" else torch.nn.functional.logsigmoid(h)


@checked
class LossGradient(Direction):
    r""":math:`-\partial L / \partial x` for any loss of the samples: the data step (19).

    Regressed on, it is the gradient step of a generator on L itself (17 to 25).

    Args:
        loss: samples ``(B, *)`` to values ``(B,)``, of which L is the mean, or to L, ``()``. As
            directions are a row's own, ``Δ_i = -B ∂L/∂x_i``.

    Source: Weber (2023), section 4.1.

    Example:
        >>> from transportflows.particles import Swarm
        >>> z = torch.tensor([[1.0], [4.0]])
        >>> to_three = LossGradient(lambda x: (x[:, 0] - 3).square() / 2)
        >>> to_three(z, Swarm(z, z, None, sigma=0.0)).flatten()  # 3 - x
        tensor([ 2., -1.])
    """

    needs_sigma = False
    perturbed = False

    def __init__(self, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, z: Tensor, swarm: Swarm) -> Tensor:
        return -value_and_gradient(self._total, z)[1]

    def _total(self, z: Tensor) -> Tensor:
        """``B L``."""
        value = self.loss(z)
        if value.shape not in ((), (len(z),)):
            raise ValueError(
                f"a loss of samples gives one value, (), or one a row, ({len(z)},), and this"
                f" one gave {tuple(value.shape)}"
            )
        return value.sum() if value.ndim else len(z) * value
