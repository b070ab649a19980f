r"""The probability flow of a field, in pieces and in a clock in which it is regular.

The ODE ``dX/dt = b(t, X)`` is given to solvers, adaptive ones and those of log-densities, so that
they need to know nothing of what is not smooth in it:

- *Breakpoints* of the path end a piece, and within a piece times keep to its own side of them.
- At a *root* of a latent scale (γ̇ η of a Brownian γ) time goes by a clock
  (:mod:`transportflows.samplers.clock`), in which the weights are finite up to the end.
- At a *pole* (a noise prediction where β = 0, a data prediction where σ̂ = 0) the weights are not
  integrable, and multiply the error of a learned field without bound: there is no information at
  the end itself. The last stretch, as short as twice the *margin*, is one step of the midpoint
  rule, which looks at the field a margin away and no nearer. For exact fields that leaves an error
  of the margin's third power; the margin is the square root of the tolerance (1e-3 at most), and
  so the error goes away faster than the tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.conditions import NO_CONDITIONS
from .._core.precision import table_device
from ..combination import Combination
from ..fields.base import Field
from .clock import Clock
from .ends import kind_of_end

__all__ = ["Piece", "ProbabilityFlow", "Stage"]

_FARTHEST = 1e-3  # the largest margin at a pole


@dataclass(frozen=True)
class Piece:
    """A stretch of a solve over which the flow is smooth.

    Attributes:
        start: where it begins, in u.
        stop: where it ends, in u.
        low: the field is evaluated at no earlier time t.
        high: nor at a later one.
        short: whether it is the stretch at a pole, for one step of the midpoint rule.
    """

    start: float
    stop: float
    low: float
    high: float
    short: bool = False


class Stage(NamedTuple):
    """A time at which the flow is evaluated, and how ``b φ'`` is made of the predictions there."""

    time: Tensor
    weights: Combination
    mean: Tensor | None


class ProbabilityFlow:
    """``dX/du = b(φ(u), X) φ'(u)``.

    Args:
        field: any field with a velocity.
        margin: the field is evaluated no nearer than this to t = 0 and t = 1; None for what its
            velocity needs: nothing, or at a pole what the tolerance allows.
        tolerance: of the solve; None for one of fixed steps.
        dtype: of the states.

    Attributes:
        clock: φ.
        margin: what is kept at t = 0 and t = 1 by a solve that goes there.
    """

    def __init__(
        self,
        field: Field,
        *,
        margin: tuple[float, float] | None,
        tolerance: float | None,
        dtype: torch.dtype,
    ) -> None:
        self.field, self.given, self.dtype = field, margin, dtype
        kinds = ("regular", "regular") if margin is not None else self._kinds()
        self.clock = Clock(*(kind == "root" for kind in kinds))
        near = _FARTHEST if tolerance is None else min(_FARTHEST, tolerance**0.5)
        poles = (near if kinds[0] == "pole" else 0.0, near if kinds[1] == "pole" else 0.0)
        self.margin = poles if margin is None else margin

    @torch.no_grad()
    def _kinds(self) -> tuple[str, str]:
        """What the velocity's weights have at t = 0 and t = 1."""
        device = table_device(self.field.reference().device)
        first, last = (
            kind_of_end(lambda t: self.field.weights("velocity", t.to(device)), end)
            for end in (0, 1)
        )
        return first, last

    def pieces(self, start: float, stop: float) -> list[Piece]:
        """The pieces of a solve from one time to another, in its order."""
        low, high = min(start, stop), max(start, stop)
        eps = torch.finfo(self.dtype).eps
        aside = {float(b): 2 * eps * b for b in self.field.breakpoints}
        edges = {low, high, *(b for b, d in aside.items() if low + d < b < high - d)}
        short = {}
        for end, near in enumerate(self.margin if self.given is None else ()):
            at, gap = (low, low) if end == 0 else (high, 1 - high)
            if gap < near:
                length = min(2 * near - gap, 0.5 * (high - low))
                to = low + length if end == 0 else high - length
                edges = {e for e in edges if not min(at, to) < e < max(at, to)} | {to}
                short[min(at, to)] = (near, 1.0) if end == 0 else (0.0, 1 - near)
        found, of = [], self.clock.of
        for a, b in pairwise(sorted(edges)):
            first, last = (a, b) if start < stop else (b, a)
            bounds = short.get(a) or self._bounds(a, b, aside)
            found.append(Piece(of(first), of(last), bounds[0], bounds[1], a in short))
        return found if start < stop else found[::-1]

    def _bounds(self, a: float, b: float, aside: Mapping[float, float]) -> tuple[float, float]:
        """The times between which a piece from a to b evaluates the field."""
        low = max([a, *(k + d for k, d in aside.items() if abs(a - k) <= d)])
        high = min([b, *(k - d for k, d in aside.items() if abs(b - k) <= d)])
        if self.given is not None:
            first, last = self.given[0], 1 - self.given[1]
            low, high = min(max(low, first), last), max(min(high, last), first)
        return low, high

    def kept(self, start: float, stop: float) -> tuple[float, float]:
        """The margins that a solve between two times keeps: 0 at an end that it does not near."""
        gaps = min(start, stop), 1 - max(start, stop)
        first, last = (m if gap < m else 0.0 for gap, m in zip(gaps, self.margin, strict=True))
        return first, last

    def weights(self, piece: Piece, u: Tensor) -> Combination:
        """The weights of ``b φ'`` at u ``()`` or ``(S,)``, in float64.

        They are ``2 w(p) - w(2p - u)`` with p = u but near a root, where p stays off it: linear in
        u within the last bit of it.
        """
        p = self.clock.inside(u)
        points = torch.stack([p, 2 * p - u])
        times = self.clock.time(points).clamp(piece.low, piece.high)
        rate = self.clock.rate(points)
        found = self.field.weights("velocity", times)
        return found.map(lambda w: 2 * w[0] * rate[0] - w[1] * rate[1])

    def stages(self, piece: Piece, u: Tensor, like: Tensor) -> list[Stage]:
        """What is to be evaluated at each u ``(S,)``, formed at once.

        Weights are numbers where none of them is to be differentiated.

        Args:
            piece: where they are.
            u: at which.
            like: states of the dtype and device.

        Raises:
            ConversionError: if the velocity is singular at one of these times.
        """
        u = u.detach().to(device=table_device(like.device), dtype=torch.float64)
        times = self.clock.time(u).clamp(piece.low, piece.high)
        weights = self.weights(piece, u)
        finite = weights.finite()
        if not bool(finite.all()):
            t = times[~finite][0].to(like)
            self.field.velocity(t, like)  # it says at which time, and what to do
        mean = self.field.process.noise_part.base_mean
        mean = None if mean is None else mean.to(like)
        if any(w.requires_grad for w in weights.tensors()):
            found = [weights.map(lambda w, k=k: w[k].to(like)) for k in range(len(u))]
        else:
            found = weights.tabulated(len(u), 1, like)
        at = times.to(like).unbind()
        return [Stage(t, w, mean) for t, w in zip(at, found, strict=True)]

    def at(self, stage: Stage, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor:
        """``dX/du`` at a stage and states ``(B, *)``; it may be what the network gave itself."""
        predictions = self.field.predict(stage.time, x, cond, stage.weights.needed)
        return stage.weights.of(x, stage.mean, predictions)

    def velocity(
        self, piece: Piece, u: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS
    ) -> Tensor:
        """``dX/du`` at u ``()`` and states ``(B, *)``.

        Raises:
            ConversionError: if the velocity is singular at this time.
        """
        return self.at(self.stages(piece, u[None], x)[0], x, cond)
