r"""Rescaled and projected classifier-free guidance, which are defined on the data prediction.

Both act on lengths and directions, so it does matter in which prediction they are written; both
are of ``d = E[x1 | x_t]``, whose field they are, for every kind of prediction of the network alike.
They follow no product of densities, and have no weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.checks import number
from .._core.conditions import NO_CONDITIONS
from .._core.precision import widest
from .._core.signatures import checked
from .._core.tensor import expand_time, sum_events
from ..combination import Combination
from ..fields.base import Field
from .combinations import Strength, conditional_parts
from .geometric import Guided
from .parts import Part, check_scale
from .scales import Scale

__all__ = ["ProjectedClassifierFree", "RescaledClassifierFree"]


class _OfData(Guided):
    """Guidance of data predictions: ``_guided(d_u, d_c, w)``."""

    outputs = ("data",)

    def _take(
        self,
        field: Field,
        scale: Strength,
        null: Mapping[str, Any] | None,
        unconditional: Field | None,
        interval: tuple[float, float] | None,
    ) -> None:
        parts = conditional_parts(field, null, unconditional, type(self).__name__)
        strength = Scale(scale, interval, neutral=1.0)
        check_scale(strength, parts)
        self._build(parts, (strength,))
        for part in parts:  # it refuses what has no data prediction
            part.field.weights("data", torch.full((1,), 0.5, dtype=torch.float64))

    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """The guided data prediction."""
        if needed is not None and not needed[0]:
            return (None,)
        w = self._scales[0].at(t, cond)
        alone = isinstance(w, float) and w == 1  # both forms are the conditional one then
        given, *rest = self._data(self._parts[:0:-1] if alone else self._parts[::-1], t, x, cond)
        if not rest:
            return (given,)
        (without,) = rest
        w = w if isinstance(w, float) else expand_time(w.to(x), x)
        return (self._guided(without, given, w),)

    def _data(
        self, parts: Sequence[Part], t: Tensor, x: Tensor, cond: Mapping[str, Any]
    ) -> list[Tensor]:
        """The data prediction of each, whose conversion is made once where it is the same."""
        fields = [part.field for part in parts]
        kinds = {(field.outputs, type(field).weights, field.power) for field in fields}
        if len(kinds) > 1 or "data" in fields[0].outputs:
            found = [part.predict(("data",), t, x, cond, (True,))[0] for part in parts]
            return [value for value in found if value is not None]
        weights = fields[0].weights("data", widest(t)).map(lambda w: w.to(x))
        mean = self.process.noise_part.base_mean
        mean = None if mean is None else mean.to(x)
        return [
            weights.of(x, mean, part.predict(part.field.outputs, t, x, cond, weights.needed))
            for part in parts
        ]

    def _guided(self, without: Tensor, given: Tensor, w: float | Tensor) -> Tensor:
        raise NotImplementedError

    def weights(self, target: str, t: Tensor) -> Combination:
        found = super().weights(target, t)
        there = torch.ones_like(t, dtype=torch.bool)
        for part in self._parts:
            there = there & part.field.weights("data", t).finite()
        # Where a field has no data prediction to guide, what is made of it is infinite too.
        return Combination(
            found.x, found.mean, tuple(torch.where(there, w, torch.inf) for w in found.outputs)
        )


@checked
class RescaledClassifierFree(_OfData):
    r"""Classifier-free guidance whose data prediction keeps the spread of the conditional one.

    With ``d_w = d_u + w (d_c - d_u)`` and std over the numbers of an event,

    .. math:: d = \phi\, d_w \frac{\mathrm{std}(d_c)}{\mathrm{std}(d_w)} + (1 - \phi)\, d_w .

    Lin et al. (2024), equations 15 and 16, against too much contrast at a large w. It is made for
    images; events of a few numbers have no spread to speak of.

    Args:
        field: see :class:`ClassifierFree`.
        scale: w, likewise.
        rescale: φ in [0, 1]; 0 is plain guidance.
        null: see :class:`ClassifierFree`.
        unconditional: likewise.
        interval: likewise.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> given = tpf.oracle(process, tpf.Gaussian((2,), torch.tensor([2.0, 0.0])))
        >>> free = tpf.oracle(process, tpf.Gaussian((2,)))
        >>> for rescale in (0.0, 1.0):  # w d_c, and that with the spread of d_c
        ...     guided = RescaledClassifierFree(given, 3.0, rescale=rescale, unconditional=free)
        ...     guided.data(torch.tensor(0.0), torch.zeros(1, 2)).round(decimals=4)
        tensor([[6., 0.]])
        tensor([[2., 0.]])
    """

    def __init__(
        self,
        field: Field,
        scale: Strength,
        *,
        rescale: float = 0.7,
        null: Mapping[str, Any] | None = None,
        unconditional: Field | None = None,
        interval: tuple[float, float] | None = None,
    ) -> None:
        phi = number("rescale", rescale, "in [0, 1]", least=0.0, most=1.0)
        self._take(field, scale, null, unconditional, interval)
        self.rescale = phi

    def _guided(self, without: Tensor, given: Tensor, w: float | Tensor) -> Tensor:
        plain = without + w * (given - without)
        tiny = torch.finfo(plain.dtype).tiny
        ratio = _spread(given) / _spread(plain).clamp(min=tiny)
        return plain * expand_time(self.rescale * ratio + (1 - self.rescale), plain)

    def _settings(self) -> dict[str, Any]:
        return {"scale": self._scales[0], "rescale": self.rescale}


@checked
class ProjectedClassifierFree(_OfData):
    r"""Classifier-free guidance without what only lengthens the data prediction.

    With ``Δ = d_c - d_u``, shortened to ``|Δ| ≤ r``, and its part Δ_∥ along d_c,

    .. math:: d = d_c + (w - 1)\, (\Delta - \Delta_\parallel + \eta\, \Delta_\parallel) .

    Sadat et al. (2025), "adaptive projected guidance", without their momentum over the steps, which
    depends on the grid and is of no field. η = 1 without r is plain guidance. Lengths and
    directions are those of the field's units, about their origin.

    Args:
        field: see :class:`ClassifierFree`.
        scale: w, likewise.
        parallel: η, how much of the part along d_c is kept.
        threshold: r, the longest Δ of an event; None for any.
        null: see :class:`ClassifierFree`.
        unconditional: likewise.
        interval: likewise.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> given = tpf.oracle(process, tpf.Gaussian((2,), torch.tensor([2.0, 0.0])))
        >>> free = tpf.oracle(process, tpf.Gaussian((2,), torch.tensor([1.0, 1.0])))
        >>> guided = ProjectedClassifierFree(given, 3.0, unconditional=free)
        >>> guided.data(torch.tensor(0.0), torch.zeros(1, 2))  # (2, 0) + (3 - 1) (0, -1)
        tensor([[ 2., -2.]])
    """

    def __init__(
        self,
        field: Field,
        scale: Strength,
        *,
        parallel: float = 0.0,
        threshold: float | None = None,
        null: Mapping[str, Any] | None = None,
        unconditional: Field | None = None,
        interval: tuple[float, float] | None = None,
    ) -> None:
        eta = number("parallel", parallel)
        most = math.inf if threshold is None else number("threshold", threshold, above=0.0)
        self._take(field, scale, null, unconditional, interval)
        self.parallel, self.threshold = eta, most

    def _guided(self, without: Tensor, given: Tensor, w: float | Tensor) -> Tensor:
        change = given - without
        tiny = torch.finfo(change.dtype).tiny
        if self.threshold < math.inf:
            length = sum_events(change.square()).sqrt().clamp(min=tiny)
            change = change * expand_time((self.threshold / length).clamp(max=1.0), change)
        along = sum_events(change * given) / sum_events(given.square()).clamp(min=tiny)
        parallel = expand_time(along, given) * given
        return given + (w - 1.0) * (change + (self.parallel - 1.0) * parallel)

    def _settings(self) -> dict[str, Any]:
        return {"scale": self._scales[0], "parallel": self.parallel, "threshold": self.threshold}


def _spread(x: Tensor) -> Tensor:
    """The standard deviation over the numbers of each event, ``(B,)``."""
    return x.flatten(1).std(1, correction=0)
