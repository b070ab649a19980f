r"""Dynamics: what a solve needs of a field, tabulated before the loop.

The sampling dynamics of a field, for a step of sign ± in time, has the drift ``b ± ε s``, which is
linear in x and in the network's outputs:

.. math:: b \pm \varepsilon s = A(t)\, x + C(t)\, m + \sum_k B_k(t) f_k(t, x).

The coefficients are formed in float64 for all times of the grid at once, after cancellation, so
that the loop holds network calls and fused updates only. A step that touches a time at which the
score's weights exceed a bound (an end where σ̂ vanishes) is made with ε = 0: a *window*. The
marginals do not depend on ε, so this leaves them exact. It is the whole step that goes as an ODE:
with ε = 0 at the singular stage alone, ε would fall by O(1) within a step, and a scheme of order 2
make an error of O(h²) there instead of O(h³).

A step is in the window too where h ε/σ̂² exceeds 4 and the score is not itself an output: on data
near a manifold that is the relaxation's rate, and no explicit scheme is stable there.

Where the velocity's own weights are singular, the field is evaluated a *margin* away from the end.
The grid still reaches the end: starting or stopping at the margin would leave the law of another
time. At a root (γ̇ η of a Brownian γ) the margin is 1e-4. At a pole (a noise prediction where
β = 0, a data prediction where σ̂ = 0) what a weight multiplies is the error of a learned field, so
a solve that starts there looks half a step away, and a step that ends there has one slope, that of
its regular side: it lands on the data prediction. That costs an error of O(h²) once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._core.tensor import as_time
from ..combination import Combination
from ..fields.base import Field
from ..gaussian_part import ConversionError
from ..solve.epsilon import EpsilonSchedule, as_epsilon
from ..solve.rows import Rows

__all__ = ["Drift", "Dynamics", "FieldDynamics", "FunctionDynamics", "regular_margin"]

BOUND = 1e4
"""Weights above this are singular: float32 carries seven digits, and 1/σ̂ at 1e-4 takes four."""


_STIFF = 4.0


_MARGINS = {"regular": 0.0, "root": 1e-4, "pole": 1e-3}


Epsilon = float | Callable[[Tensor], Tensor] | EpsilonSchedule


class Drift(ABC):
    """The drift of a dynamics, tabulated over the stage times of a grid.

    Attributes:
        epsilon: ε there, float64 ``(steps, nodes, groups)`` on the CPU, or None for an ODE.
        window: stretches of time whose steps are made with ε = 0.
        margin: distances from both ends within which the field is evaluated at the margin.
        landing: a step that has one slope, that of its first node; None for none.
    """

    epsilon: Tensor | None = None
    window: tuple[tuple[float, float], ...] | None = None
    margin: tuple[float, float] = (0.0, 0.0)
    landing: int | None = None

    @abstractmethod
    def at(self, step: int, rows: Rows, node: int, x: Tensor) -> Tensor:
        """The drift at a stage time for some rows of the state."""


class Dynamics(ABC):
    """A drift with its noise.

    Attributes:
        groups: number of epsilons; rows come in as many equal groups.
        ode: whether there is no noise.
    """

    groups: int = 1
    ode: bool = False

    @abstractmethod
    def prepare(self, times: Tensor, widths: Tensor, like: Tensor) -> Drift:
        """Tabulate for stage times ``(steps, nodes)`` of steps of signed widths ``(steps,)``."""


class FunctionDynamics(Dynamics):
    """``dX = f(t, X) dt + √(2ε) dW`` for a plain function: the drift of the SDE as it stands.

    Args:
        function: ``f(t, x)``, t of shape ``()``.
        epsilon: a number, function of time or schedule.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        epsilon: float | Callable[[Tensor], Tensor] | EpsilonSchedule = 0.0,
    ) -> None:
        self.function = function
        self.epsilon = as_epsilon(epsilon)
        self.ode = self.epsilon.is_zero

    def prepare(self, times: Tensor, widths: Tensor, like: Tensor) -> Drift:
        drift = _FunctionDrift(self.function, times.to(like))
        if not self.ode:
            drift.epsilon = self.epsilon.value(times, torch.ones_like(times)).unsqueeze(-1)
        return drift


class _FunctionDrift(Drift):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], times: Tensor) -> None:
        self.function, self.times = function, times

    def at(self, step: int, rows: Rows, node: int, x: Tensor) -> Tensor:
        slope = self.function(self.times[step, node], x)
        if not isinstance(slope, Tensor) or slope.shape != x.shape or slope.dtype != x.dtype:
            got = tuple(slope.shape) if isinstance(slope, Tensor) else type(slope).__name__
            raise ValueError(
                f"the drift must give the shape and dtype of x, {tuple(x.shape)} {x.dtype}, and it"
                f" gave {got}; it is called as f(t, x), time first"
            )
        return slope


class FieldDynamics(Dynamics):
    """The ODE or SDE of a field.

    Args:
        field: any field.
        epsilons: one ε (number, function or schedule), or one for each group of rows; all of them
            zero, or none.
        margin: the field is evaluated no nearer than this to t = 0 and to t = 1; None for what
            the weights of its velocity need.
    """

    def __init__(
        self,
        field: Field,
        epsilons: Sequence[Epsilon],
        *,
        margin: tuple[float, float] | None = None,
    ) -> None:
        self.field = field
        self.epsilons = [as_epsilon(epsilon) for epsilon in epsilons]
        self.given_margin = margin
        self.groups = len(self.epsilons)
        self.ode = all(epsilon.is_zero for epsilon in self.epsilons)

    @torch.no_grad()
    def prepare(self, times: Tensor, widths: Tensor, like: Tensor) -> Drift:
        field = self.field
        times, margin, landing = self._keep_off(times, widths, like)
        flat = times.reshape(-1).to(like.device)
        weights = field.weights("velocity", flat)
        _refuse_singular(field, weights, flat)
        epsilon = window = None
        if not self.ode:
            weights, epsilon, window = self._relaxed(
                weights, flat.view(times.shape), widths.to(flat), landing
            )
        drift = _FieldDrift(field, weights, times, self.groups, like)
        drift.epsilon, drift.window, drift.margin, drift.landing = epsilon, window, margin, landing
        return drift

    def _keep_off(
        self, times: Tensor, widths: Tensor, like: Tensor
    ) -> tuple[Tensor, tuple[float, float], int | None]:
        """Stage times off singular ends, how far, and the step that lands on a pole, if any."""
        if self.given_margin is not None:
            low, high = self.given_margin
            return times.clamp(low, 1 - high), (low, high), None
        kinds = singular_ends(self.field, like)
        margins = [_MARGINS[kind] for kind in kinds]
        first, last = (0, 1) if float(widths[0]) > 0 else (1, 0)  # ends of time, as they are met
        gaps = [times, 1 - times]
        landing = None
        touched = [bool((gap < m).any()) for gap, m in zip(gaps, margins, strict=True)]
        if kinds[last] == "pole" and bool((gaps[last][-1, 1:] < margins[last]).any()):
            landing = len(times) - 1
        if kinds[first] == "pole" and touched[first]:
            margins[first] = max(margins[first], 0.5 * float(widths[0].abs()))
        low, high = (m if t else 0.0 for m, t in zip(margins, touched, strict=True))
        return times.clamp(low, 1 - high), (low, high), landing

    def _relaxed(
        self, velocity: Combination, stages: Tensor, widths: Tensor, landing: int | None
    ) -> tuple[Combination, Tensor, tuple[tuple[float, float], ...] | None]:
        """``b ± ε s``, from the score or the noise, whichever is regular; ε; and the window."""
        field, part, t = self.field, self.field.process.noise_part, stages.reshape(-1)
        scale = part.scale(t)
        by_score, by_noise = field.weights("score", t), field.weights("noise", t)
        part.check("score")
        schedules = [e.bound(part, stages, widths) for e in self.epsilons]
        epsilon = torch.stack([e.value(t, scale) for e in schedules], -1)
        ratio = torch.stack([e.over_noise_scale(t, scale) for e in schedules], -1)
        by_score = by_score.map(lambda w: w.double().unsqueeze(-1) * epsilon)
        by_noise = by_noise.map(lambda w: w.double().unsqueeze(-1) * -ratio)
        shape = (*stages.shape, self.groups)
        sign = 1 if float(widths[0]) > 0 else -1
        use_score = by_score.within(BOUND)
        singular = (~use_score & ~by_noise.within(BOUND)).view(shape).any(1, keepdim=True)
        if "score" not in field.outputs:
            rate = (epsilon / scale.square().unsqueeze(-1)).view(shape)  # NaN where both vanish
            stiff = widths.abs()[:, None, None] * rate > _STIFF
            singular |= stiff.any(1, keepdim=True)
        if landing is not None:
            singular[landing] = True
        steps = singular[:, 0].any(-1)
        if len(steps) > 2 and bool(steps.all()):
            raise ConversionError(
                "the score, or epsilon times it, is too large for every step of this grid, so"
                " epsilon > 0 has no effect; use a smaller epsilon, more steps, or a grid that"
                " leaves the end"
            )
        singular = singular.expand(shape).reshape(-1, self.groups)
        relaxation = by_score.where(use_score, by_noise).map(
            lambda w: torch.where(singular, 0.0, sign * w)
        )
        total = velocity.map(lambda w: w.double().unsqueeze(-1).expand_as(epsilon)) + relaxation
        epsilon = torch.where(singular, 0.0, epsilon).view(shape).cpu()
        return total, epsilon, _intervals(stages, steps)


class _FieldDrift(Drift):
    def __init__(
        self, field: Field, weights: Combination, times: Tensor, groups: int, like: Tensor
    ) -> None:
        mean, nodes = field.process.noise_part.base_mean, times.shape[1]
        table = weights.map(lambda w: w.double()).tabulated(times.numel(), groups, like)
        self.field, self.groups, self.times = field, groups, times.to(like)
        self.combinations = [table[k : k + nodes] for k in range(0, len(table), nodes)]
        self.mean = None if mean is None else mean.to(like)

    def at(self, step: int, rows: Rows, node: int, x: Tensor) -> Tensor:
        combination = self.combinations[step][node]
        predictions = self.field.predict(self.times[step, node], x, rows.cond, combination.needed)
        return combination.of(x, self.mean, predictions, None if self.groups == 1 else rows)


def _intervals(stages: Tensor, steps: Tensor) -> tuple[tuple[float, float], ...] | None:
    """The extent of the steps in the window, near each end of time."""
    times = stages[steps]
    if times.numel() == 0:
        return None
    late = times.mean(1) >= 0.5
    halves = (times[~late], times[late])
    return tuple((float(h.min()), float(h.max())) for h in halves if h.numel() > 0)


def _refuse_singular(field: Field, weights: Combination, t: Tensor) -> None:
    bad = ~weights.finite()
    if bool(bad.any()):
        raise ConversionError(
            f"the velocity of this {type(field).__name__} is singular at t = {float(t[bad][0]):g}"
            f" for {type(field.process.interpolant).__name__}; keep the grid away from there"
            " (margin=1e-3), or learn the velocity itself"
        )


@torch.no_grad()
def singular_ends(field: Field, like: Tensor) -> tuple[str, str]:
    """What the velocity's weights have at t = 0 and t = 1: ``"regular"``, ``"root"``, ``"pole"``.

    A root is that of a latent scale, such as ``sqrt(t)``: 1e-4 from it the weights are at most 100.
    """

    def too_large(margin: float, bound: float) -> list[bool]:
        ends = as_time(torch.tensor([margin, 1 - margin], dtype=torch.float64), like.double())
        flags: list[bool] = (~field.weights("velocity", ends).within(bound)).tolist()
        return flags

    singular, pole = too_large(0.0, BOUND), too_large(1e-4, 100.0)
    kinds = [
        "regular" if not s else "pole" if p else "root" for s, p in zip(singular, pole, strict=True)
    ]
    return kinds[0], kinds[1]


def regular_margin(field: Field, given: tuple[float, float] | None) -> tuple[float, float]:
    """The margins given, or those within which the velocity's weights are singular."""
    if given is not None:
        return given
    first, last = singular_ends(field, field.reference())
    return _MARGINS[first], _MARGINS[last]
