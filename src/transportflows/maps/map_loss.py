r"""Losses of flow maps: one regression of v, with targets from three equations.

All of them are ``½ w |f - f*|²``, with f made of the map and a target f* that is held fixed
(*detached*), the two sides of one of the equations that say that a map is the flow of b
(:mod:`.flow_map`) as it reads for v:

.. math:: v_{s,t} + (t - s)\, \partial_t v_{s,t} &= b(t, X_{s,t})
          && \text{(Lagrangian)} \\
          v_{s,t} &= b(s, x) + (t - s) (\partial_s v_{s,t} + \nabla v_{s,t}\, b(s, x))
          && \text{(Eulerian)} \\
          v_{s,t} &= h\, v_{s,u}(x) + (1 - h)\, v_{u,t}(X_{s,u}), \quad h = \frac{u - s}{t - s}
          && \text{(semigroup)}

each of which is met by the flow of b and, together with v_{s,s} = b, by no other map. None divides
by t - s. They differ in where b comes from:

- *a teacher*, any field: distillation;
- *the map itself*, ``b = v_{t,t}``, which a share of the rows trains beside it by the velocity
  loss: self-distillation (Boffi, Albergo and Vanden-Eijnden 2025, "How to build a consistency
  model");
- *the path*, ``ẋ_s`` of the draw itself in the place of b, where the target is linear in it, so
  that its mean is right: MeanFlow (Geng et al. 2025, equation 6, on the clock of this library) and
  consistency training (Song et al. 2023).

The names of the papers, by equation: Lagrangian and Eulerian map distillation, progressive flow-map
matching (Boffi, Albergo and Vanden-Eijnden 2024, equations 3.7, 3.8 and 3.11); shortcut models
(Frans et al. 2024, equation 5) and consistency models are semigroup losses, continuous consistency
(Lu and Song 2024, equation 8) an Eulerian one to t = 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar
from weakref import ref

import torch
from torch import Tensor

from .._core.checks import choice, number, per_time
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..draws import Batch
from ..fields import Field
from ..losses import Loss
from ..losses.base import BatchLike
from ..samplers.starts import evaluating
from .derivatives import check_time_derivative
from .draws import MapSample, draw_pairs
from .flow_map import FlowMap
from .pairs import Pairs, UniformPairs
from .teachers import check_teacher, margin_of, velocity_of

__all__ = ["MapLoss"]

Cond = Mapping[str, Any]


@checked
class MapLoss(Loss):
    """``½ w(s, t) |f - f*|²``, summed over the event; what the three equations share.

    For a map that predicts data or noise the distance is one of these predictions: v divided by
    their weight in it, which is large near an end.

    Args:
        teacher: a field of the same process, with a velocity; None to learn without one.
        source: where b comes from without a teacher: ``"own"``, the tangent of the map, or
            ``"path"``, ẋ of the draw, where the loss takes that.
        pairs: law of (s, t); :class:`UniformPairs` if None.
        diagonal: share of the rows that train the tangent, ``v_{s,s} = b``, on ẋ of the draw, or on
            the teacher's velocity, at uniform times whatever the pairs are. By default a half
            without a teacher, and none with one.
        weight: w, a function of s and t, each ``(B,)``, finite at t = s too; None for 1.
        adaptive: p of a further weight of each row, ``(|f - f*|² + c)^-p``, as MeanFlow has it (p =
            1). It changes what the loss is least for, which then is no conditional mean: with p = 1
            the tangent of eight sharp modes was off by .82 of its size, for .14. 0 for none.
        floor: c.
        detach: hold the target fixed. Otherwise the gradient goes through it, a residual of the
            equation itself, at several times the cost and with second derivatives. Not by the
            path, where that has another minimiser.

    Attributes:
        differentiates: ``"s"`` or ``"t"``, by which time the network is differentiated; None where
            it is not.

    Raises:
        ValueError: if options contradict each other, or leave the tangent of the map untrained.
    """

    _sources: ClassVar[tuple[str, ...]] = ("own",)
    differentiates: ClassVar[str | None] = None

    def __init__(
        self,
        teacher: Field | None = None,
        *,
        source: str | None = None,
        pairs: Pairs | None = None,
        diagonal: float | None = None,
        weight: Callable[[Tensor, Tensor], Tensor] | None = None,
        adaptive: float = 0.0,
        floor: float = 1e-3,
        detach: bool = True,
    ) -> None:
        if teacher is not None and source is not None:
            raise ValueError(
                f"b comes from the teacher, so source={source!r} would be ignored; leave one out"
            )
        if source is not None:
            choice("source", source, self._sources)
        self.teacher = teacher
        self.source = source or self._sources[0]
        self.pairs = UniformPairs() if pairs is None else pairs
        share = (0.5 if teacher is None else 0.0) if diagonal is None else diagonal
        self.diagonal = number(
            "diagonal", share, "a share of the rows, from 0 to 1", least=0, most=1
        )
        if teacher is None and self.diagonal == 0 and self.source == "own":
            raise ValueError(
                "diagonal=0 without a teacher leaves the tangent v_{s,s} = b untrained, and any"
                " map would do; give a share such as 0.5, or a teacher"
            )
        self.weight, self.detach = weight, bool(detach)
        if self.source == "path" and not self.detach:
            raise ValueError(
                "a target by the path is held fixed: with the gradient through it (detach=False)"
                " the scatter of ẋ about its mean would be made small too, and what the loss is"
                " least for would be no flow map. Leave detach out, or write source='own'"
            )
        self.adaptive = number("adaptive", adaptive, "an exponent p >= 0", least=0)
        self.floor = number("floor", floor, "a positive number", above=0)
        self._known: tuple[ref[FlowMap], Field | None] | None = None
        self._margin = (0.0, 0.0)
        self._calls, self._weighed = 0, False

    def draw(
        self, field: Field, batch: BatchLike, *, generator: torch.Generator | None = None
    ) -> MapSample:
        own = self.as_map(field)
        sample = draw_pairs(
            own.process, Batch.of(batch), self.pairs, self.diagonal, self._margin, generator
        )
        if self.weight is not None and not self._weighed:
            self._weighed = True
            self._check_weight(sample)
        return sample

    def _check_weight(self, sample: MapSample) -> None:
        """Refuse a weight that is infinite where t = s, as in all rows of the tangent."""
        s, t = sample.t, sample.stop
        found = per_time("weight(s, t)", self.weight(s, t), s)  # type: ignore[misc]
        if not bool(torch.isfinite(found).all()):
            bad = (~torch.isfinite(found.expand(s.shape))).nonzero()[0, 0]
            raise ValueError(
                f"weight(s, t) is infinite or NaN at s = {float(s[bad]):g}, t = {float(t[bad]):g};"
                " rows of the tangent have t = s, so that a weight does not divide by t - s: write"
                " such as 1 / (t - s).square().clamp(min=0.01)"
            )

    def evaluate(self, field: Field, sample: MapSample) -> Tensor:
        field, k = self.as_map(field), sample.diagonal
        self._look(field, sample)
        if k == 0:
            return self._of_equation(field, sample)
        if k == len(sample):
            return self._of_tangent(field, sample)
        parts = (sample.rows(0, k), sample.rows(k, len(sample)))
        return torch.cat([self._of_tangent(field, parts[0]), self._of_equation(field, parts[1])])

    @abstractmethod
    def compared(self, field: FlowMap, sample: MapSample) -> tuple[Tensor, Tensor, Tensor | None]:
        """The two members of the equation, ``(B, *)``, and what their difference is divided by.

        What a subclass writes. The gradient goes through the first alone where ``detach`` is set.

        Args:
            field: the map.
            sample: rows to which the equation applies.

        Returns:
            Both, and the weight of the network's prediction in them, ``(B,)``, or None for 1.
        """

    def _look(self, field: FlowMap, sample: MapSample) -> None:
        """Once at the start, and once when a network that begins at zero has moved."""
        self._calls += 1
        if self.differentiates and self._calls in (1, 100) and not torch.compiler.is_compiling():
            path = sample.path
            at = (path.t, sample.stop, path.x, path.cond)
            check_time_derivative(field, *at, self.differentiates)

    def _of_equation(self, field: FlowMap, sample: MapSample) -> Tensor:
        """The loss of rows to which the equation applies."""
        prediction, target, weight = self.compared(field, sample)
        return self.value_of(prediction - target, weight, sample)

    def _of_tangent(self, field: FlowMap, sample: MapSample) -> Tensor:
        """The velocity loss of rows with t = s."""
        path = sample.path
        v, weight = field.between(path.t, path.t, path.x, path.cond)
        return self.value_of(v - self.tangent_target(sample), weight, sample)

    def tangent_target(self, sample: MapSample) -> Tensor:
        """What ``v_{s,s}`` is compared with: ẋ of the draw, or the velocity of the teacher."""
        path = sample.path
        if self.teacher is None:
            return path.velocity
        with self.fixed():
            return velocity_of(self.teacher, path.t, path.x, path.cond)

    def value_of(self, error: Tensor, weight: Tensor | None, sample: MapSample) -> Tensor:
        """The loss of rows, ``(B,)``, from the difference of both sides and a weight."""
        if weight is not None:
            error = error / expand_time(weight, error)
        value = self.distance(error, sample)
        if self.adaptive:
            value = value * (2 * value.detach() + self.floor).pow(-self.adaptive)
        if self.weight is not None:
            found = self.weight(sample.t, sample.stop)
            value = value * per_time("weight(s, t)", found, sample.t)
        return value

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """A context for targets: the teacher in eval mode, and no gradient if it is detached."""
        known = nullcontext() if self.teacher is None else evaluating(self.teacher)
        with known, torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach):
            yield

    def distance(self, error: Tensor, sample: MapSample) -> Tensor:
        """How far the two sides are from each other, ``½|f - f*|²``, ``(B,)``.

        Args:
            error: ``f - f*``, or the difference of predictions of data or noise.
            sample: of which rows.
        """
        return 0.5 * error.flatten(1).square().sum(1)

    def b(self, field: FlowMap, t: Tensor, x: Tensor, cond: Cond) -> Tensor:
        """The velocity of the teacher, or of the map itself, ``(B, *)``."""
        if self.teacher is not None:
            return velocity_of(self.teacher, t, x, cond)
        return field.between(t, t, x, cond)[0]

    def as_map(self, field: Field) -> FlowMap:
        """The field as a flow map that the loss can train; looked at once.

        Raises:
            TypeError: if it is none.
            ValueError: if the loss draws times that the map is not for, or only some of those that
                it is.
        """
        if not isinstance(field, FlowMap):
            raise TypeError(
                f"{self.title} is a loss of a FlowMap, got a {type(field).__name__}; write"
                " Trainer(tpf.maps.FlowMap(net, process), loss)"
            )
        known = self._known
        if known is None or known[0]() is not field or known[1] is not self.teacher:
            if field.to_data and not self.pairs.to_data:
                raise ValueError(
                    "this FlowMap is for t = 1 only (to_data=True), and the loss draws other times"
                    " t; write pairs=tpf.maps.ToData(), or to_data=False"
                )
            if self.pairs.to_data and not field.to_data:
                raise ValueError(
                    "the loss draws t = 1 only, and this FlowMap would be composed of jumps that it"
                    " never trained; write FlowMap(..., to_data=True), or other pairs"
                )
            if self.teacher is not None:
                check_teacher(field, self.teacher)
            teachers = () if self.teacher is None else (self.teacher,)
            self._margin = margin_of(field, *teachers)
            self._known = (ref(field), self.teacher)
        return field

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": None}
