r"""How to solve, for those who do not want to choose: by a few short solves that are measured.

At ε = 0 a solve has an answer, and how far its end states are off is a number: the root mean square
over rows and numbers of what they differ by from those of a refined solve from the same starts.
Schemes and grids go up a ladder of calls together, those far behind are left out, and the first to
stay within the tolerance twice in a row is taken. At ε > 0 there is no such answer; whether noise
helps is a matter of the field's own error, which held-out data tell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arguments import choice, integer, number
from .._core.arrays import DataLike, as_rows
from .._core.random import draw_key, mix, stream
from .._core.signatures import checked
from ..fields.base import Field, check_field
from ..gaussian_part import ConversionError, GaussianPart
from ..solve.epsilon import ConstantEpsilon, EpsilonSchedule, NoiseScaleEpsilon
from ..solve.noise_grid import noise_grid
from ..solve.solution import NonFiniteStateError
from .ancestral import FEW_STEP
from .sample import sample
from .schemes import SCHEMES
from .solve_plan import SolvePlan, Trial, calls_of

__all__ = ["plan"]

_CALLS = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_REFINED = (64, 128, 256, 512, 1024)  # steps of rk4, of which the last two that were made agree
_AGREE = 1 / 8  # of the tolerance
_BEHIND = 8.0  # an error that many times the least of its calls is left out
_ONE_STEP = ("midpoint", "heun", "rk4")
_FEW_STEP = ("dpm2m", "dpm3m", "deis3", "unipc3")
_SPACINGS = ("uniform", "cosine")
_NOISE = (0.25, 0.5, 1.0, 2.0)
_REPEATS = 8
_SURE = 3.0  # standard errors by which noise must be better
_NOISY_STEPS = 100

Distance = Callable[[Tensor, Tensor], Any]


@checked
@torch.no_grad()
def plan(
    field: Field,
    tolerance: float,
    *,
    data: DataLike | None = None,
    distance: Distance | None = None,
    start: DataLike | None = None,
    cond: Mapping[str, Any] | None = None,
    schemes: Sequence[str] | None = None,
    n: int = 2_000,
    most: int = 512,
    generator: torch.Generator | None = None,
) -> SolvePlan:
    r"""Choose scheme, steps and grid by a tolerance, and ε by held-out data.

    The promise is of ε = 0: :math:`\sqrt{E |X - X^*|^2 / d}` of the end states is within the
    tolerance, :math:`X^*` those of the exact ODE of this field, right or wrong as it is. Where some
    rows end elsewhere than they should (at another mode), the mean is over them too, so that with
    fewer rows it is known less well.

    Args:
        field: what is to be sampled.
        tolerance: rms error of the end states, per number, in units of the data.
        data: held-out data ``(N, *)``, by which ε is chosen among 0 and ``c σ̂`` for c of
            ¼, ½, 1 and 2; noise is chosen only where it is better by three standard errors. The
            noisy solve is then ``heun`` with 100 steps.
        distance: between samples and data, such as ``metrics.energy_distance``; given with data.
        start: states at t = 0 to start from, ``(n, *)``, in units of the data; drawn from
            ``field.start`` by default.
        cond: conditions; tensors have n rows.
        schemes: names of those to try; by default second and third order ones of one step and, for
            a process with a Gaussian part, of few.
        n: rows of each solve, at least 100; or those of ``start``.
        most: calls of the network beyond which no solve is tried.
        generator: source of the starts and the noise.

    Raises:
        ValueError: if the tolerance is not positive, a scheme is unknown, the refined solve does
            not settle to within the tolerance, or no scheme meets it with ``most`` calls.

    Source: this library.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> field = tpf.oracle(process, tpf.distributions.GaussianMixture(torch.eye(2), 0.5))
        >>> found = plan(field, 1e-2, n=500, generator=torch.Generator().manual_seed(0))
        >>> found.error < 1e-2
        True
        >>> tpf.sample(field, 5, **found.arguments).x.shape
        torch.Size([5, 2])
    """
    check_field(field, "plan is for")
    tolerance = number("tolerance", tolerance, "a positive rms error", above=0)
    n = integer("n", n, "a number of rows, at least 100", least=100)
    most = integer("most", most, f"a number of calls, at least {_CALLS[0]}", least=_CALLS[0])
    if (data is None) != (distance is None):
        raise ValueError(
            "data and distance go together: ε is chosen by the distance of samples to held-out"
            " data; write plan(field, tolerance, data=x, distance=tpf.metrics.energy_distance)"
        )
    key, like = draw_key(generator), field.reference()
    data = None if data is None else as_rows("data", data, like=like)
    start = None if start is None else as_rows("start", start, like=like)
    if data is not None and len(data) < 10 * _REPEATS:
        raise ValueError(
            f"{len(data)} rows of data do not tell whether noise helps; give {10 * _REPEATS} or"
            " more"
        )
    if start is None:
        draws = stream(mix(key, 0), device=like.device)
        start = field.start.sample(n, generator=draws, dtype=like.dtype, device=like.device)
    solver = _Solver(field, start, cond)
    reference, known = solver.refined(tolerance)
    best, trials = solver.climbed(_candidates(field, schemes), tolerance, reference, most)
    epsilon: EpsilonSchedule = ConstantEpsilon(0.0)
    distances: dict[float, tuple[float, float]] = {}
    if data is not None and distance is not None:
        c, distances = solver.noise(best, data, distance, key)
        if c > 0:
            epsilon = NoiseScaleEpsilon(c)
            best = Trial("heun", _NOISY_STEPS, "uniform", 2 * _NOISY_STEPS, best.error)
    times = solver.times(best)
    own = None if times is None else tuple(times.tolist())
    told = (best.scheme, best.steps, best.spacing, own, epsilon, tolerance, best.error, known)
    return SolvePlan(*told, tuple(trials), distances)


def _candidates(field: Field, schemes: Sequence[str] | None) -> list[tuple[str, str]]:
    """Schemes and spacings to try."""
    names = [*SCHEMES, *FEW_STEP]
    if schemes is not None and not schemes:
        raise ValueError("schemes is empty; leave it out, or write schemes=['heun', 'rk4']")
    for name in schemes or ():
        choice("schemes", name, names)
    part = field.process.noise_part
    whole = isinstance(part, GaussianPart) and field.power == 1
    few = _FEW_STEP if whole else ()
    even = isinstance(part, GaussianPart) and part.monotone and part.base_mean is None
    spacings = (*_SPACINGS, *(("asinh",) if even else ()))
    return [(s, grid) for s in schemes or (*_ONE_STEP, *few) for grid in spacings]


class _Solver:
    """The solves of a plan, all from the same starts."""

    def __init__(self, field: Field, start: Tensor, cond: Mapping[str, Any] | None) -> None:
        self.field, self.start, self.cond = field, start, cond

    def times(self, trial: Trial) -> Tensor | None:
        """The grid of a trial, where ``sample`` has no name for it."""
        if trial.spacing != "asinh":
            return None
        return noise_grid(self.field.process, trial.steps, spacing="asinh", scale=0.2)

    def told(self, trial: Trial) -> dict[str, Any]:
        """What ``sample`` is told of a trial."""
        times = self.times(trial)
        if times is not None:
            return {"scheme": trial.scheme, "t": times}
        return {"scheme": trial.scheme, "steps": trial.steps, "spacing": trial.spacing}

    def refined(self, tolerance: float) -> tuple[Tensor, float]:
        """Ends that another halving of the steps would not change, and how well they are known."""
        before, apart = None, math.inf
        for steps in _REFINED:
            told: dict[str, Any] = {"scheme": "rk4", "steps": steps}
            after = sample(self.field, start=self.start, cond=self.cond, **told).x.double()
            if before is not None:
                apart = _rms(after - before)[0]
            if apart <= _AGREE * tolerance:
                return after, apart
            before = after
        raise ValueError(
            f"the ends of {_REFINED[-2]} and {_REFINED[-1]} steps of rk4 still differ by"
            f" {apart:.2g} rms, more than an eighth of the tolerance {tolerance:g}: this field is"
            f" too rough for it. Ask for tolerance={10 * apart:.2g} or more, or give float64"
            " networks and states"
        )

    def climbed(
        self, ways: list[tuple[str, str]], tolerance: float, reference: Tensor, most: int
    ) -> tuple[Trial, list[Trial]]:
        """The trial of the fewest calls that meets the tolerance, as does that of more calls."""
        trials: list[Trial] = []
        met: dict[tuple[str, str], Trial] = {}
        for calls in (c for c in _CALLS if c <= most):
            level: list[tuple[Trial, bool]] = []
            for scheme, spacing in ways:
                steps = calls // calls_of(scheme)
                if steps > len(self.field.breakpoints) and (steps > 1 or spacing == "uniform"):
                    level.append(self.tried(scheme, steps, spacing, reference, tolerance))
            trials += [trial for trial, _ in level]
            again = [
                first
                for trial, within in level
                if within and (first := met.get((trial.scheme, trial.spacing))) is not None
            ]
            if again:
                return min(again, key=lambda trial: (trial.calls, trial.error)), trials
            met = {(t.scheme, t.spacing): t for t, within in level if within}
            least = min((t.error for t, _ in level), default=math.inf)
            behind = {(t.scheme, t.spacing) for t, _ in level if not t.error <= _BEHIND * least}
            ways = [way for way in ways if way not in behind or calls < _CALLS[3]]
        if met:
            return min(met.values(), key=lambda trial: (trial.calls, trial.error)), trials
        nearest = min(trials, key=lambda trial: trial.error)
        raise ValueError(
            f"no scheme is within {tolerance:g} with {most} calls; the nearest is {nearest.scheme}"
            f" on a grid spaced {nearest.spacing!r} with rms {nearest.error:.2g}. Ask for"
            f" tolerance={2 * nearest.error:.2g}, or more calls, most={2 * most}"
        )

    def tried(
        self, scheme: str, steps: int, spacing: str, reference: Tensor, tolerance: float
    ) -> tuple[Trial, bool]:
        """A solve, and whether its error, with its own uncertainty, is within the tolerance."""
        told = self.told(Trial(scheme, steps, spacing, 0, 0.0))
        calls, error, above = steps * calls_of(scheme), math.inf, math.inf
        try:
            solution = sample(self.field, start=self.start, cond=self.cond, **told)
        except (ConversionError, NonFiniteStateError):
            pass  # not for this field, or not in so few steps
        else:
            calls, (error, above) = solution.nfe, _rms(solution.x.double() - reference)
        return Trial(scheme, steps, spacing, calls, error), above <= tolerance

    def noise(
        self, best: Trial, data: Tensor, distance: Distance, key: int
    ) -> tuple[float, dict[float, tuple[float, float]]]:
        """The c of the best ``ε = c σ̂``, and the distances."""
        told: dict[float, dict[str, Any]] = {0.0: self.told(best)}
        if self.field.process.noise_part.exists:
            for c in _NOISE:
                epsilon = NoiseScaleEpsilon(c)
                told[c] = {"scheme": "heun", "steps": _NOISY_STEPS, "epsilon": epsilon}
        parts = data.chunk(_REPEATS)
        values: dict[float, list[float]] = {}
        for c, how in told.items():
            draws = stream(mix(key, 1), device=self.start.device)
            try:
                x = sample(self.field, start=self.start, cond=self.cond, generator=draws, **how).x
            except (ConversionError, NonFiniteStateError):
                continue  # a field without a score, or whose score is too steep
            pieces = zip(x.chunk(_REPEATS), parts, strict=False)
            values[c] = [float(distance(piece, part.to(piece))) for piece, part in pieces]
        chosen, found = 0.0, dict[float, tuple[float, float]]()
        for c, own in values.items():
            apart = own if c == 0 else [a - b for a, b in zip(own, values[0.0], strict=True)]
            error = statistics.stdev(apart) / math.sqrt(len(apart))
            found[c] = (statistics.mean(own), error)
            better = c > 0 and statistics.mean(apart) < -_SURE * error
            if better and found[c][0] < found[chosen][0]:
                chosen = c
        return chosen, found


def _rms(error: Tensor) -> tuple[float, float]:
    """The rms of rows, and what it is at most, by two standard errors of the mean square."""
    square = error.flatten(1).square().mean(1)
    mean = float(square.mean())
    apart = float(square.std()) / math.sqrt(len(square)) if len(square) > 1 else 0.0
    return math.sqrt(mean), math.sqrt(mean + 2 * apart)
