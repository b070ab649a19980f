r"""Losses of flow maps by the names of their papers: the three equations with their choices.

============================  =====================================================================
paper                         here
============================  =====================================================================
Lagrangian map distillation   ``LagrangianLoss(teacher)``
Eulerian map distillation     ``EulerianLoss(teacher)``
progressive distillation      ``SemigroupLoss(teacher=earlier_map)``
Lagrangian, Eulerian,         ``LagrangianLoss()``, ``EulerianLoss()``, ``SemigroupLoss()``
semigroup self-distillation
MeanFlow                      ``MeanFlowLoss()``: Eulerian, by the path
shortcut models               ``ShortcutLoss()``: semigroup, in halves, on dyadic times
consistency training          ``ConsistencyLoss()``: semigroup, by the path, to t = 1
consistency distillation      ``ConsistencyLoss(teacher)``
continuous consistency        ``EulerianLoss(teacher, pairs=ToData(), normalise=0.1)``, or with
                              ``source="path"`` for one trained from data
============================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._core.checks import number, positive_integer
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..fields import Field
from ..losses import Loss
from ..losses.defaults import default_loss
from ..training.callbacks import Callback
from ..training.run import Run
from .draws import MapSample
from .equations import EulerianLoss, SemigroupLoss
from .flow_map import FlowMap
from .pairs import DyadicPairs, Pairs, ToData

__all__ = ["ConsistencyLoss", "DoublingLevels", "MeanFlowLoss", "ShortcutLoss"]


@checked
class MeanFlowLoss(EulerianLoss):
    """``v* = ẋ_s + (t - s)(∂_s v_{s,t} + ∇v_{s,t} ẋ_s)``: MeanFlow (Geng et al. 2025, equation 10).

    The paper's clock runs the other way and its x is at the later of its times, whence its minus.

    Args:
        pairs: see :class:`EulerianLoss`.
        diagonal: share of the rows with t = s; the paper has three quarters.
        weight: see :class:`MapLoss`.
        adaptive: see :class:`MapLoss`; the paper has 1, here 0.
        floor: see :class:`MapLoss`.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)), coupling=tpf.Paired())
        >>> by_two = FlowMap(lambda s, t, x: 2 + 0 * (s + t)[:, None] * x, process)
        >>> pairs = tpf.Batch(x1=torch.full((2, 1), 3.0), x0=torch.zeros(2, 1))  # ẋ = 3
        >>> MeanFlowLoss()(by_two, pairs)  # ½ (2 - 3)²
        tensor([0.5000, 0.5000])
    """

    def __init__(
        self,
        *,
        pairs: Pairs | None = None,
        diagonal: float = 0.5,
        weight: Callable[[Tensor, Tensor], Tensor] | None = None,
        adaptive: float = 0.0,
        floor: float = 1e-3,
    ) -> None:
        super().__init__(
            source="path", pairs=pairs, diagonal=diagonal, weight=weight, adaptive=adaptive,
            floor=floor,
        )  # fmt: skip


@checked
class ShortcutLoss(SemigroupLoss):
    """``v* = ½ v_{s,u}(x) + ½ v_{u,t}(X_{s,u})``, u midway: shortcut models (Frans et al. 2024).

    Halves of the smallest width are no pair: there v* is by two steps of the tangent, and so off by
    the order of ``2^-levels``.

    Args:
        levels: the smallest width of a pair is ``2^-levels``.
        diagonal: share of the rows with t = s; the paper has three quarters.
        weight: see :class:`MapLoss`.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)), coupling=tpf.Paired())
        >>> by_two = FlowMap(lambda s, t, x: 2 + 0 * x, process)
        >>> pairs = tpf.Batch(x1=torch.full((4, 1), 3.0), x0=torch.zeros(4, 1))
        >>> ShortcutLoss()(by_two, pairs)  # three rows of the tangent, one of two halves of a way
        tensor([0.5000, 0.5000, 0.5000, 0.0000])
    """

    def __init__(
        self,
        levels: int = 7,
        *,
        diagonal: float = 0.75,
        weight: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(split="half", pairs=DyadicPairs(levels), diagonal=diagonal, weight=weight)
        self.levels = levels

    def _asked(self, s: Tensor, t: Tensor) -> Tensor:
        return torch.where((t - s).abs() < 0.75 * 2.0**-self.levels, s, t)


@checked
class ConsistencyLoss(SemigroupLoss):
    r"""``X_{s,1}(x_s) = X_{u,1}(x_u)`` for a time u a little after s: consistency models.

    x_u is of the same path (*training*; Song et al. 2023, equation 10), or a step of Heun by a
    teacher (*distillation*, equation 7). In terms of v the two differ by ``(1 - s)(v - v*)``.

    Args:
        teacher: a field; None to train from data.
        levels: N, so that ``u = s + 1/N``; by default 20 with a teacher, and 160 without: by the
            path, x_u is not where the flow leads, so that what is learned is off by the order of
            1/N. :class:`DoublingLevels` lets N grow, and is the best there.
        pairs: :class:`ToData`, with a law of s.
        ends: compare ends, ``|X_{s,1} - X*|``, as the papers do; False for ``|v - v*|``, which
            weighs late times more, or, of a map that predicts data or noise, for these.
        huber: c of the pseudo-Huber distance ``√(|e|² + c²) - c`` (Song and Dhariwal 2023, equation
            8); None for ``½|e|²``. It changes what the loss is least for.
        weight: see :class:`MapLoss`.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> to_three = FlowMap(lambda s, t, x: 3 + 0 * x, process, prediction="data", to_data=True)
        >>> loss = ConsistencyLoss(levels=10)(to_three, torch.full((8, 1), 3.0))
        >>> torch.allclose(loss, torch.zeros(8), atol=1e-6)  # all of a path has one end
        True
    """

    def __init__(
        self,
        teacher: Field | None = None,
        *,
        levels: int | None = None,
        pairs: ToData | None = None,
        ends: bool = False,
        huber: float | None = None,
        weight: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            teacher, source=None if teacher is not None else "path", diagonal=0.0,
            pairs=ToData() if pairs is None else pairs, weight=weight,
        )  # fmt: skip
        if levels is None:
            levels = 160 if teacher is None else 20
        self.levels, self.ends = positive_integer("levels", levels), bool(ends)
        self.huber = None if huber is None else number("huber", huber, "positive", above=0)

    def value_of(self, error: Tensor, weight: Tensor | None, sample: MapSample) -> Tensor:
        if self.ends:
            error, weight = expand_time(sample.stop - sample.t, error) * error, None
        return super().value_of(error, weight, sample)

    def distance(self, error: Tensor, sample: MapSample) -> Tensor:
        square = error.flatten(1).square().sum(1)
        if self.huber is None:
            return 0.5 * square
        return (square + self.huber**2).sqrt() - self.huber

    def _share(self, sample: MapSample) -> Tensor:
        width = (sample.stop - sample.t).abs().clamp(min=1e-12)
        return (1 / (self.levels * width)).clamp(max=1.0)


@default_loss.register
def _(field: FlowMap) -> Loss:
    """A map without a teacher: the semigroup, which needs no derivative."""
    return ConsistencyLoss() if field.to_data else SemigroupLoss()


@checked
class DoublingLevels(Callback):
    """Lets the levels of a :class:`ConsistencyLoss` double at equal intervals of a run.

    ``N(k) = min(first 2^⌊k/K⌋, last)`` at step k, with K so that the last is reached by the end
    (Song and Dhariwal 2023, equation 9).

    Args:
        steps: of the run.
        first: levels at its beginning.
        last: levels at its end.

    Raises:
        ValueError: if ``last`` is below ``first``.

    Example:
        >>> doubling = DoublingLevels(80, first=10, last=1280)
        >>> [doubling.levels(step) for step in (0, 10, 20, 79)]
        [10, 20, 40, 1280]
    """

    every = 1

    def __init__(self, steps: int, *, first: int = 10, last: int = 1280) -> None:
        self.steps = positive_integer("steps", steps)
        self.first, self.last = positive_integer("first", first), positive_integer("last", last)
        if last < first:
            raise ValueError(f"levels grow, and last={last} is below first={first}")

    def levels(self, step: int) -> int:
        """N at a step."""
        count = 1
        while self.first * 2**count <= self.last:
            count += 1
        interval = max(1, self.steps // count)
        return int(min(self.first * 2 ** min(step // interval, 60), self.last))

    def on_start(self, trainer: Run) -> None:
        if not isinstance(trainer.loss, ConsistencyLoss):
            raise TypeError(
                f"DoublingLevels goes with a ConsistencyLoss, and this run has {trainer.loss!r}"
            )
        self.on_step(trainer)

    def on_step(self, trainer: Run) -> None:
        loss = trainer.loss
        if isinstance(loss, ConsistencyLoss):
            loss.levels = self.levels(trainer.step)
