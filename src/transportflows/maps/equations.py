"""The three equations of a flow map as losses: Lagrangian, Eulerian, semigroup."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._core.checks import choice, number
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..fields import Field
from .derivatives import value_and_change
from .draws import MapSample
from .flow_map import FlowMap
from .map_loss import MapLoss
from .pairs import Pairs, UniformPairs
from .teachers import heun_step

__all__ = ["EulerianLoss", "LagrangianLoss", "SemigroupLoss"]


@checked
class LagrangianLoss(MapLoss):
    """``∂_t X_{s,t}(x) = b(t, X_{s,t}(x))``, as ``v + (t - s) ∂_t v`` against a fixed ``b(t, X)``.

    The derivative is by forward mode, one jvp along t, and the gradient goes through it: with
    ``∂_t v`` in the target instead the losses of successive steps feed its errors back with a gain
    of ``|t - s|`` times their frequency, and a map that is its own teacher may diverge. A teacher
    is looked at where the map goes.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)), coupling=tpf.Paired())
        >>> by_two = tpf.maps.FlowMap(lambda s, t, x: 2 + 0 * (s + t)[:, None] * x, process)
        >>> pairs = tpf.Batch(x1=torch.full((4, 1), 3.0), x0=torch.zeros(4, 1))  # b = 3
        >>> LagrangianLoss()(by_two, pairs)  # half of the rows: v = b; the others: one flow
        tensor([0.5000, 0.5000, 0.0000, 0.0000])
    """

    differentiates = "t"

    def compared(self, field: FlowMap, sample: MapSample) -> tuple[Tensor, Tensor, Tensor | None]:
        s, t, x, cond = sample.t, sample.stop, sample.path.x, sample.path.cond
        one = torch.ones_like(t)
        v, change, weight = value_and_change(
            field, s, t, x, cond, (torch.zeros_like(t), one, None), True
        )
        width = expand_time(t - s, x)
        with self.fixed():
            b = self.b(field, t, x + width * v, cond)
        return v + width * change, b, weight


@checked
class EulerianLoss(MapLoss):
    """``∂_s X + ∇X b = 0``: ``v* = b(s, x) + (t - s)(∂_s v_{s,t} + ∇v_{s,t} b(s, x))``.

    One jvp along (1, b). By the path, ``source="path"``, it is MeanFlow. The target feeds errors of
    v back with a gain of ``|t - s|`` times their steepness, so that long ways are learned badly
    until short ones are known: its pairs are forward ones without the shares of whole ways that
    other losses draw, so it does not learn to go back unless other ``pairs`` say so. Where b is the
    map's own too, that gain has no bound, and long runs on data diverged: there the tangent is
    normalised by default.

    Args:
        teacher: see :class:`MapLoss`.
        normalise: a number c to divide the tangent ``r = v* - v``, which is ``∂_s X + ∇X b`` of the
            map, by ``|r|/√d + c`` of its row, which bounds it: ``v* = v + r/(|r|/√d + c)`` (Lu and
            Song 2024, section 4.1), in the units of what the network predicts; 0 for none. By
            default 1 where the map is its own teacher, and 0 elsewhere. The tangent of the exact
            map is 0; but by the path it is so on average only, and it changes what the loss is
            least for.
        source: see :class:`MapLoss`.
        pairs: see :class:`MapLoss`; here ``UniformPairs(both=False, at_start=0, at_end=0)``.
        diagonal: see :class:`MapLoss`.
        weight: see :class:`MapLoss`.
        adaptive: see :class:`MapLoss`.
        floor: see :class:`MapLoss`.
        detach: see :class:`MapLoss`.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)), coupling=tpf.Paired())
        >>> by_two = tpf.maps.FlowMap(lambda s, t, x: 2 + 0 * (s + t)[:, None] * x, process)
        >>> teacher = tpf.Velocity(lambda t, x: 3 + 0 * x, process)
        >>> pairs = tpf.Batch(x1=torch.full((2, 1), 3.0), x0=torch.zeros(2, 1))
        >>> EulerianLoss(teacher)(by_two, pairs)  # ½ (2 - 3)²
        tensor([0.5000, 0.5000])
    """

    _sources = ("own", "path")
    differentiates = "s"

    def __init__(
        self,
        teacher: Field | None = None,
        *,
        normalise: float | None = None,
        source: str | None = None,
        pairs: Pairs | None = None,
        diagonal: float | None = None,
        weight: Callable[[Tensor, Tensor], Tensor] | None = None,
        adaptive: float = 0.0,
        floor: float = 1e-3,
        detach: bool = True,
    ) -> None:
        super().__init__(
            teacher,
            source=source,
            pairs=UniformPairs(both=False, at_start=0.0, at_end=0.0) if pairs is None else pairs,
            diagonal=diagonal,
            weight=weight,
            adaptive=adaptive,
            floor=floor,
            detach=detach,
        )
        if normalise is None:
            normalise = 1.0 if teacher is None and self.source == "own" else 0.0
        self.normalise = number("normalise", normalise, "a number, 0 for none", least=0)

    def compared(self, field: FlowMap, sample: MapSample) -> tuple[Tensor, Tensor, Tensor | None]:
        s, t, x, cond = sample.t, sample.stop, sample.path.x, sample.path.cond
        own = self.teacher is None and self.source == "path"
        with self.fixed():
            b = sample.path.velocity if own else self.b(field, s, x, cond)
        direction = (torch.ones_like(s), torch.zeros_like(s), b)
        v, change, weight = value_and_change(field, s, t, x, cond, direction, not self.detach)
        target = b + expand_time(t - s, x) * change
        if self.normalise > 0:
            held = v.detach() if self.detach else v
            r = target - held
            scaled = r if weight is None else r / expand_time(weight, r)
            size = scaled.flatten(1).square().mean(1).sqrt()
            target = held + r / expand_time(size + self.normalise, r)
        return v, target, weight


@checked
class SemigroupLoss(MapLoss):
    """``X_{u,t} ∘ X_{s,u} = X_{s,t}``: ``v* = h v_{s,u}(x) + (1 - h) v_{u,t}(X_{s,u})``.

    No derivative is taken. The first part of the way is the teacher's, a step of Heun, or, if the
    teacher is a flow map, its jump, as the second part is then (progressive distillation); the
    map's own without one; or, by the path, ``(x_u - x_s)/(u - s)`` (consistency training, to
    t = 1).

    Args:
        teacher: see :class:`MapLoss`.
        split: where the way is divided: a number, the width ``|u - s|`` of the first part, or the
            whole way if that is shorter; ``"half"``, or ``"uniform"``. By default .05 with a
            field for a teacher, whose step must be short, and a half otherwise.
        source: see :class:`MapLoss`.
        pairs: see :class:`MapLoss`.
        diagonal: see :class:`MapLoss`.
        weight: see :class:`MapLoss`.
        adaptive: see :class:`MapLoss`.
        floor: see :class:`MapLoss`.
        detach: see :class:`MapLoss`.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)), coupling=tpf.Paired())
        >>> by_two = tpf.maps.FlowMap(lambda s, t, x: 2 + 0 * x, process)
        >>> pairs = tpf.Batch(x1=torch.full((4, 1), 3.0), x0=torch.zeros(4, 1))  # b = 3
        >>> SemigroupLoss()(by_two, pairs)  # half of the rows: v = b; the others: X ∘ X = X
        tensor([0.5000, 0.5000, 0.0000, 0.0000])
    """

    _sources = ("own", "path")

    def __init__(
        self,
        teacher: Field | None = None,
        *,
        split: float | str | None = None,
        source: str | None = None,
        pairs: Pairs | None = None,
        diagonal: float | None = None,
        weight: Callable[[Tensor, Tensor], Tensor] | None = None,
        adaptive: float = 0.0,
        floor: float = 1e-3,
        detach: bool = True,
    ) -> None:
        super().__init__(
            teacher,
            source=source,
            pairs=pairs,
            diagonal=diagonal,
            weight=weight,
            adaptive=adaptive,
            floor=floor,
            detach=detach,
        )
        short = teacher is not None and not isinstance(teacher, FlowMap)
        if split is None:
            split = 0.05 if short or self.source == "path" else "half"
        if isinstance(split, str):
            choice("split", split, ("half", "uniform"))
        else:
            split = number("split", split, "a width of time, or 'half'", above=0, most=1)
        self.split = split

    def evaluate(self, field: Field, sample: MapSample) -> Tensor:
        """As of any loss of maps, with one call of the network for both kinds of rows."""
        flow_map, k = self.as_map(field), sample.diagonal
        if k in (0, len(sample)):
            return super().evaluate(flow_map, sample)
        path = sample.path
        v, weight = flow_map.between(path.t, sample.stop, path.x, path.cond)
        with self.fixed():
            rest = self._target(flow_map, sample.rows(k, len(sample)))
        target = torch.cat([self.tangent_target(sample.rows(0, k)), rest])
        return self.value_of(v - target, weight, sample)

    def compared(self, field: FlowMap, sample: MapSample) -> tuple[Tensor, Tensor, Tensor | None]:
        v, weight = field.between(sample.t, sample.stop, sample.path.x, sample.path.cond)
        with self.fixed():
            return v, self._target(field, sample), weight

    def _target(self, field: FlowMap, sample: MapSample) -> Tensor:
        s, t, x, cond = sample.t, sample.stop, sample.path.x, sample.path.cond
        h = self._share(sample)
        u = torch.lerp(s, t, h)
        mover = self.teacher if isinstance(self.teacher, FlowMap) else field
        if self.teacher is not None and mover is field:
            first = heun_step(self.teacher, s, u, x, cond)
        elif self.source == "path" and self.teacher is None:
            gap = u - s
            far = gap.abs() > 1e-6
            quotient = (sample.at(u) - x) / expand_time(torch.where(far, gap, 1.0), x)
            first = torch.where(expand_time(far, x), quotient, sample.path.velocity)
        else:
            first = mover.between(s, self._asked(s, u), x, cond)[0]
        middle = x + expand_time(u - s, x) * first
        second = mover.between(u, self._asked(u, t), middle, cond)[0]
        return torch.lerp(second, first, expand_time(h, x))

    def _asked(self, s: Tensor, t: Tensor) -> Tensor:
        """The time that a map is asked for to get from s to t."""
        return t

    def _share(self, sample: MapSample) -> Tensor:
        """h, ``(B,)``."""
        if self.split == "half":
            return torch.full_like(sample.t, 0.5)
        if self.split == "uniform":
            return sample.part
        width = (sample.stop - sample.t).abs().clamp(min=1e-12)
        return (float(self.split) / width).clamp(max=1.0)
