r"""Score matching from samples of the law alone: implicit and sliced.

Explicit score matching, ``½ E|ŝ - s|²``, asks for the score that is sought. Integration by parts
takes it out (Hyvärinen 2005):

.. math:: \tfrac12 E|\hat s - s|^2 = E[\tfrac12 |\hat s|^2 + \nabla \cdot \hat s]
          + \tfrac12 E|s|^2,

for a law whose density falls off fast enough that ``ρ ŝ`` vanishes far away. Nothing is asked of
how x_t was made, so any process serves, two-sided, with any coupling, and data as they are. It
costs D directional derivatives; with random directions z, ``E z zᵀ = Id``, one or a few (Song,
Garg, Shi & Ermon 2019):

.. math:: E[z^\top (\partial \hat s) z + \tfrac12 (z^\top \hat s)^2], \qquad
          E[z^\top (\partial \hat s) z + \tfrac12 |\hat s|^2],

the second (SSM-VR) with half of the estimate done exactly. On samples that are finitely many the
infimum is -∞ (a spike at each), so a network needs its smoothness, or noise (x_t at t < 1).
"""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.autodiff import PROBE_LAWS, Directional, draw_probes, ordinary, repeat_rows
from .._core.checks import names
from .._core.conditions import map_rows
from .._core.random import local
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..draws import Batch, PathSample
from ..fields.base import Field
from ..times.base import TimeSampler
from .base import BatchLike, Loss
from .paths import draw_path, weight_at
from .weights import LossWeight

__all__ = ["Directed", "FromSamples", "ImplicitScoreLoss", "SlicedScoreLoss"]


@checked
@dataclass(frozen=True)
class Directed:
    """A path sample, and directions along which a loss differentiates.

    Attributes:
        path: the sample, of B rows.
        directions: ``(k, B, *)``; None for all unit vectors.
    """

    path: PathSample
    directions: Tensor | None

    @property
    def t(self) -> Tensor:
        """Times of the path sample, ``(B,)``."""
        return self.path.t

    def __len__(self) -> int:
        return len(self.path)

    def rows(self, start: int, stop: int) -> Directed:
        """The rows from ``start`` up to ``stop``, with their directions."""
        some = None if self.directions is None else self.directions[:, start:stop]
        return Directed(self.path.rows(start, stop), some)

    def with_cond(self, function: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Directed:
        """The same with a function of its conditions."""
        return Directed(self.path.with_cond(function), self.directions)


@checked
class FromSamples(Loss, ABC):
    """What implicit and sliced score matching share: samples of x_t or of the data, a weight."""

    def __init__(
        self,
        times: TimeSampler | None,
        weight: LossWeight | Callable[[Tensor], Tensor] | None,
        at: float | None,
    ) -> None:
        if at is not None and times is not None:
            raise ValueError("times are for x_t, and at= takes the data as they are; give one")
        if at is not None and not 0 <= at <= 1:
            raise ValueError(f"at must be a time in [0, 1], got {at}")
        self.times, self.weight, self.at = times, weight, at

    def draw(
        self, field: Field, batch: BatchLike, *, generator: torch.Generator | None = None
    ) -> Directed:
        """Draw x_t, or take the data as they are; and the directions."""
        batch, process = Batch.of(batch), field.process
        if self.at is None:
            path = draw_path(
                process,
                batch,
                times=self.times,
                weight=self.weight,
                form="score",
                generator=generator,
            )
        else:
            t = batch.x1.new_full((len(batch),), self.at)
            path = PathSample(process.noise_part, t, batch.x1, None, batch.x1, None, batch.cond)
        return Directed(path, self._directions(path.x, generator))

    def evaluate(self, field: Field, sample: Directed | PathSample) -> Tensor:
        """The loss of each row, ``(B,)``; of a path sample, with directions drawn for it now."""
        if isinstance(sample, PathSample):
            sample = Directed(sample, self._directions(sample.x, None))
        path, directions = sample.path, sample.directions
        k = path.x[0].numel() if directions is None else len(directions)
        t = ordinary(repeat_rows(path.t, k))
        cond = map_rows(path.cond, lambda rows: ordinary(repeat_rows(rows, k)))

        def score(z: Tensor) -> Tensor:
            return field.quantity("score", t, z, cond, checked=False)

        graph = torch.is_grad_enabled()
        value, forms = Directional(graph=graph).forms(score, path.x, directions)
        loss = self._combine(value, forms, directions)
        if self.weight is None:
            return loss
        return loss * weight_at(self.weight, path.noise_part, path.t, "score")

    @abstractmethod
    def _directions(self, x: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Directions ``(k, B, *)``, or None for all unit vectors."""

    @abstractmethod
    def _combine(self, score: Tensor, forms: Tensor, directions: Tensor | None) -> Tensor:
        """The loss from scores ``(B, *)`` and quadratic forms ``(B, k)``."""


@checked
class ImplicitScoreLoss(FromSamples):
    """``λ (½|ŝ|² + ∇·ŝ)`` with the exact divergence: implicit score matching (Hyvärinen 2005).

    It costs D directional derivatives a row, on D times as many rows.

    Args:
        times: sampler of t; uniform by default, off an end where ẋ is infinite.
        weight: λ, a :class:`LossWeight` or a function of times; None for 1.
            ``UnitWeight("noise")``, λ = σ̂², keeps the loss of one size where σ̂ vanishes.
        at: take the data as they are, without noise, and give the field this time.

    Raises:
        ValueError: if ``at`` is outside [0, 1], or both ``at`` and ``times`` are given.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.SBDM(), shape=(2,))
        >>> field = tpf.Score(lambda t, x: -x, process)  # of N(0, Id)
        >>> ImplicitScoreLoss(at=1.0)(field, torch.zeros(1, 2))
        tensor([-2.])
    """

    def __init__(
        self,
        *,
        times: TimeSampler | None = None,
        weight: LossWeight | Callable[[Tensor], Tensor] | None = None,
        at: float | None = None,
    ) -> None:
        super().__init__(times, weight, at)

    def _directions(self, x: Tensor, generator: torch.Generator | None) -> None:
        return None

    def _combine(self, score: Tensor, forms: Tensor, directions: Tensor | None) -> Tensor:
        return 0.5 * sum_events(score.square()) + forms.sum(1)


@checked
class SlicedScoreLoss(FromSamples):
    """Sliced score matching: the divergence along random directions (Song et al. 2019).

    ``λ (zᵀ(∂ŝ)z + ½|ŝ|²)`` averaged over directions z, or with ``½(zᵀŝ)²``. Its mean over z is
    that of :class:`ImplicitScoreLoss`.

    Args:
        probes: directions a row.
        probe_law: ``"rademacher"``, ``"gaussian"`` or ``"sphere"`` (of radius √D).
        variance_reduced: take ``½|ŝ|²`` (SSM-VR) instead of ``½(zᵀŝ)²`` (SSM). The variance is
            lower where the score is long (at low noise), not everywhere: the two terms of SSM may
            cancel in part.
        times: see :class:`ImplicitScoreLoss`.
        weight: see :class:`ImplicitScoreLoss`.
        at: see :class:`ImplicitScoreLoss`.

    Raises:
        ValueError: as :class:`ImplicitScoreLoss`; for fewer than one direction, or an unknown law.

    Example:
        >>> import transportflows as tpf
        >>> field = tpf.Score(lambda t, x: -x, tpf.Process(tpf.SBDM(), shape=(2,)))  # of N(0, Id)
        >>> seed = torch.Generator().manual_seed(0)
        >>> SlicedScoreLoss(at=1.0)(field, torch.zeros(1, 2), generator=seed)  # -|z|², any signs z
        tensor([-2.])
    """

    def __init__(
        self,
        *,
        probes: int = 1,
        probe_law: str = "rademacher",
        variance_reduced: bool = True,
        times: TimeSampler | None = None,
        weight: LossWeight | Callable[[Tensor], Tensor] | None = None,
        at: float | None = None,
    ) -> None:
        super().__init__(times, weight, at)
        whole = isinstance(probes, numbers.Integral) and not isinstance(probes, bool)
        if not whole or probes < 1:
            raise ValueError(f"probes must be an integer of at least 1, got {probes!r}")
        if probe_law not in PROBE_LAWS:
            raise ValueError(f"unknown probe_law {probe_law!r}; known: {names(PROBE_LAWS)}")
        self.probes, self.probe_law = int(probes), probe_law
        self.variance_reduced = variance_reduced

    def _directions(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return draw_probes(
            self.probe_law,
            (self.probes, *x.shape),
            generator=local(generator, x.device),
            dtype=x.dtype,
            device=x.device,
        )

    def _combine(self, score: Tensor, forms: Tensor, directions: Tensor | None) -> Tensor:
        if self.variance_reduced or directions is None:
            return 0.5 * sum_events(score.square()) + forms.mean(1)
        along = (directions * score).flatten(2).sum(2)
        return 0.5 * along.square().mean(0) + forms.mean(1)
