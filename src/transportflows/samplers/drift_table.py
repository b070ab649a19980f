"""The drift of a field over a grid, as numbers: weights of the state, the mean and the predictions.

What is added up is ``b ± ε s``, in float64 and before anything else is done with it, since large
parts of the two terms may cancel. At ends of time where the sum is infinite,
:mod:`transportflows.samplers.ends` says what a step does; there is no other margin.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.precision import wide
from ..combination import Combination
from ..fields.base import Field
from ..gaussian_part import ConversionError, GaussianPart, NoisePart
from ..solve.epsilon import EpsilonSchedule
from ..solve.limit import UnlimitedEpsilon, limited, limited_times
from .ends import BOUND, extrapolation, integration, kind_of_end, looks, rooted
from .schemes import Scheme
from .starts import from_point

__all__ = ["DriftTable"]

Stretches = tuple[tuple[float, float], ...]

_SAME = 1e-12


class DriftTable:
    """The drift of a field over the steps of a grid, in the making.

    Args:
        field: any field.
        epsilons: one ε for each group.
        stages: times of the nodes, ``(S, K)``, float64.
        widths: of the steps, signed, ``(S,)``.
        scheme: whose nodes they are.

    Attributes:
        times: where the field is evaluated, ``(S, K)``.
        margin: distances from both ends within which it is not evaluated.
        roots: steps that touch a root, and whether they do at their start and at their end.
        dropped: nodes of the last step that lie at a pole.
        still: steps that are made with ε = 0, ``(S,)``: the last one, where σ̂ vanishes at its end
            and noise that is added in it would stay.
    """

    def __init__(
        self,
        field: Field,
        epsilons: Sequence[EpsilonSchedule],
        stages: Tensor,
        widths: Tensor,
        scheme: Scheme,
    ) -> None:
        self.field, self.part, self.scheme = field, field.process.noise_part, scheme
        self.of_score = "score" in field.outputs
        self.own_drift = type(field).drift_weights is not Field.drift_weights
        if self.own_drift:  # the noise is that of the path between both ends
            self.part = NoisePart(self.part.path, self.part.owner)
        start = float(stages[0, 0] - scheme.nodes[0] * widths[0])
        leaves = from_point(field.process) and _same(start, 0.0) and bool(widths[0] > 0)
        self.schedules = limited(epsilons, scheme.limit, growth=True, from_point=leaves)
        self.may_close = not self.of_score and isinstance(self.part, GaussianPart)
        self.may_close &= not any(isinstance(e, UnlimitedEpsilon) for e in epsilons)
        self.times, self.widths = stages.clone(), widths
        self.starts = stages[:, 0] - scheme.nodes[0] * widths
        self.noisy = not all(schedule.is_zero for schedule in epsilons)
        self.margin = (0.0, 0.0)
        self.roots: dict[int, tuple[bool, bool]] = {}
        self.dropped: tuple[int, ...] = ()
        self.still = torch.zeros_like(widths, dtype=torch.bool)
        if self.noisy:
            self.part.check("score")

    def keep_off(self, low: float, high: float) -> None:
        """Evaluate the field no nearer to the ends of time than this."""
        self.times, self.margin = self.times.clamp(low, 1 - high), (low, high)

    def look_at_ends(self) -> None:
        """See what the drift has where the solve starts and where it stops, and act on it."""
        nodes, final = self.scheme.nodes, len(self.times) - 1
        start, stop = _end(self.starts[0]), _end(self.starts[-1] + self.widths[-1])
        if self.noisy and self.may_close and stop is not None:
            self.still[-1] = self.part.scale(self.times.new_tensor(stop)) == 0
        first = "regular" if start is None else self._kind(start, 0)
        last = "regular" if stop is None else self._kind(stop, final)
        if first == "root" and len(nodes) > 1:
            self.roots[0] = (True, False)
        elif first != "regular" and start is not None:
            half = 0.5 * float(self.widths[0].abs())
            low, high = (half, 0.0) if start == 0 else (0.0, half)
            kept = self.times[0].clamp(low, 1 - high)
            if bool((kept != self.times[0]).any()):
                self.times[0], self.margin = kept, (low, high)
        if last == "root" and len(nodes) > 1:
            self.roots[final] = (final in self.roots, True)
        elif last == "root" and stop is not None:
            self.times[-1] = stop - 0.5 * self.widths[-1]
        elif last == "pole":
            self.dropped = tuple(k for k, node in enumerate(nodes) if node == 1)
        theta = torch.tensor(looks(self.scheme), dtype=torch.float64, device=self.times.device)
        for step, (at_start, at_stop) in self.roots.items():
            place, _ = rooted(theta, first=at_start, last=at_stop)
            moved = self._inside(slice(step, step + 1), place)[0]
            inner = (place > 0) & (place < 1)  # the others may be moved off a breakpoint
            self.times[step] = torch.where(inner, moved, self.times[step])

    def _kind(self, end: float, step: int) -> str:
        """What the drift has at an end that a step touches, the same for every ε."""

        def weights_at(t: Tensor) -> Combination:
            return self._weights(t.to(self.times)[None], slice(step, step + 1))[0]

        kind, of_drift = kind_of_end(weights_at, end), self.of_score or self.own_drift
        if kind == "regular" and self.noisy and not (of_drift or bool(self.still[step])):
            t = self.times.new_tensor(end)
            if bool((self.part.scale(t) == 0) & (self.part.scale_sq_dot(t) != 0)):
                return "root"  # of ε/σ̂
        return kind

    def _inside(self, steps: slice, place: Tensor) -> Tensor:
        """Times at fractions of steps, ``(S, Q)``, reckoned from the nearer end of each."""
        start, width = self.starts[steps, None], self.widths[steps, None]
        place = place.to(start)
        near_start = start + width * place
        return torch.where(place < 0.5, near_start, start + width - width * (1 - place)).clamp(0, 1)

    # -------------------------------------------------------------------------------- the numbers

    def filled(self) -> tuple[Combination, Tensor | None, Stretches | None]:
        """Weights of the drift and ε, ``(S, K, G)``; and where ε is limited.

        Raises:
            ConversionError: if the velocity is infinite at a time that no rule is for.
            ValueError: likewise for ε.
        """
        total, epsilon = self._weights(self.times, slice(None))
        shape = (*self.times.shape, -1)
        table = total.map(lambda w: w.view(shape).clone())
        epsilon = None if epsilon is None else epsilon.view(shape).clone()
        for step in self.roots:
            integral, own, of_epsilon = self._integrated(step)
            for into, of in zip(table.tensors(), own.tensors(), strict=True):
                into[step] = _sum(integral * of)
            if epsilon is not None and of_epsilon is not None:
                epsilon[step] = _sum(integral * of_epsilon)
        for node in self.dropped:
            for weight in table.tensors():
                weight[-1, node] = 0.0
            if epsilon is not None:
                kept = extrapolation(self.scheme.nodes, self.dropped, node)
                parts = [w * epsilon[-1, k] for k, w in kept.items()]
                epsilon[-1, node] = torch.stack(parts).sum(0).clamp(min=0)
        self._check(table, epsilon)
        if epsilon is None:
            return table, None, None
        limits = limited_times(self.schedules, self.part, self.times, self.widths, self.still)
        return table, epsilon, limits

    def _weights(self, stages: Tensor, steps: slice) -> tuple[Combination, Tensor | None]:
        """``b ± ε s`` at times ``(S, Q)`` within some steps, and ε there: ``(S Q, G)``.

        ``ε s`` is formed twice, as ``ε · score`` and as ``-(ε/σ̂) · noise``: the score's weights may
        be infinite where the ratio ε/σ̂ is not. Of the two the one within bounds is taken.
        """
        t, widths = stages.reshape(-1), self.widths[steps]

        def each(of_step: Tensor) -> Tensor:
            return of_step[:, None].expand(stages.shape).reshape(-1, 1)

        sign, scale, bound = each(widths.sign()), self.part.scale(t), []
        epsilon = torch.zeros_like(t).unsqueeze(-1)
        if self.noisy:
            bound = [schedule.bound(self.part, stages, widths) for schedule in self.schedules]
            epsilon = torch.stack([schedule.value(t, scale) for schedule in bound], -1)
        own = self.field.drift_weights(t, epsilon, sign)
        if own is not None:
            return own, epsilon if self.noisy else None
        velocity = self.field.weights("velocity", t).map(lambda w: wide(w).unsqueeze(-1))
        if not self.noisy:
            return velocity, None
        ratio = torch.stack([schedule.over_noise_scale(t, scale) for schedule in bound], -1)
        by_score = self.field.weights("score", t).map(lambda w: wide(w).unsqueeze(-1) * epsilon)
        by_noise = self.field.weights("noise", t).map(lambda w: wide(w).unsqueeze(-1) * -ratio)
        still = each(self.still[steps])
        relaxation = by_score.where(by_score.within(BOUND), by_noise).map(
            lambda w: torch.where(still, 0.0, sign * w)
        )
        total = velocity.map(lambda w: w.expand_as(epsilon)) + relaxation
        return total, torch.where(still, 0.0, epsilon)

    def _integrated(self, step: int) -> tuple[Tensor, Combination, Tensor | None]:
        """For a step at a root: with which weights ``(K, Q, 1)`` values ``(K, Q, G)`` add up."""
        at_start, at_stop = self.roots[step]
        places, integral = integration(self.scheme, first=at_start, last=at_stop)
        # A schedule may know the grid: it is asked for all steps.
        points = self._inside(slice(None), places.reshape(-1))
        total, epsilon = self._weights(points, slice(None))

        def own(w: Tensor) -> Tensor:
            return w.view(len(points), *places.shape, -1)[step]

        return (
            integral.to(points).unsqueeze(-1),
            total.map(own),
            None if epsilon is None else own(epsilon),
        )

    def _check(self, table: Combination, epsilon: Tensor | None) -> None:
        bad = ~table.finite().all(-1)
        if bool(bad.any()):
            raise ConversionError(
                f"the drift of this {type(self.field).__name__} is singular at"
                f" t = {float(self.times[bad][0]):g} for"
                f" {type(self.field.process.interpolant).__name__}; keep the grid away from there"
                " (margin=1e-3), or learn the velocity itself"
            )
        if epsilon is not None and not bool(torch.isfinite(epsilon).all()):
            raise ValueError(
                "an UnlimitedEpsilon is infinite on this grid; give the schedule itself, which is"
                " limited, or keep the grid away from there"
            )

    def laws(self, epsilon: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Rates ``(S, K, G)`` and variances ``(S + 1, 1)`` of two laws whose scale a step knows.

        For data in one point x_t has the variance ``V = σ̂²``, for data of unit variance
        ``V = σ̂² + β²``; either way ``dX = (V̇/2 ∓ ε)/V X dt + √(2ε) dW`` about its mean.
        """
        part = self.part
        if not isinstance(part, GaussianPart):
            return []
        path, found = part.path, []
        ends = torch.cat([self.starts, self.starts[-1:] + self.widths[-1:]]).clamp(0, 1)
        for data in (0.0, 1.0):
            variance = part.scale_sq(self.times) + data * path.beta(self.times).square()
            half_dot = 0.5 * part.scale_sq_dot(self.times) + data * (
                path.beta(self.times) * path.beta_dot(self.times)
            )
            relaxed = self.widths.sign()[:, None, None] * epsilon
            rate = (half_dot.unsqueeze(-1) - relaxed) / variance.unsqueeze(-1)
            for step in (*self.roots, *([len(rate) - 1] if self.dropped else [])):
                rate[step] = torch.nan
            found.append((rate, part.scale_sq(ends) + data * path.beta(ends).square()))
        return found


def _sum(terms: Tensor) -> Tensor:
    """Sums over Q of terms ``(K, Q, G)``; exactly zero where only rounding is left of one."""
    total = terms.sum(1)
    return torch.where(total.abs() < 1e-13 * terms.abs().sum(1), 0.0, total)


def _end(t: Tensor) -> float | None:
    """The end of time that a time is, rounding aside."""
    return next((end for end in (0.0, 1.0) if _same(float(t), end)), None)


def _same(t: float, end: float) -> bool:
    return abs(t - end) < _SAME
