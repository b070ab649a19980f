r"""Algorithm 1: particles that move from a source to a target, with no network.

.. math:: z = y + \sigma(u)\, \epsilon, \qquad y \leftarrow y + \eta(u)\, \Delta(z)

for any :class:`~transportflows.particles.Direction` Δ. The particles are themselves the sample of
q_t. What moves is y, without the noise; the noise is there because the *smoothed* laws are aligned,
and these are equal if and only if the laws are (Weber 2023, section 3.1).

**The noise.** Algorithm 1 draws it afresh at each step. A diffusion's reverse process carries it
along: with ``ρ = 1 - σ_s²/σ_t²`` it is

.. math:: z_s = (1 - \rho) z_t + \rho D(z_t) + \sqrt\rho\, \sigma_s \xi
          = \underbrace{(1 - \rho) y_t + \rho D(z_t)}_{y_s} + \sigma_s \epsilon_s, \qquad
          \epsilon_s = \sqrt{1 - \rho}\, \epsilon_t + \sqrt\rho\, \xi,

path by path, so ``DataDifference(D)`` with ``step=DiffusionStep()`` and ``noise="carried"`` is the
ancestral sampler (equations 33 to 35). With fresh noise it is not: y_s depends on ε_t, and where
D(z) has the slope k the variance of z_s is lower by ``2 ρ (1 - ρ) k σ_t²``, the covariance of
``ρ D(z_t)`` with ``(1 - ρ) σ_t ε_t``, twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.checks import number
from .._core.precision import as_wide
from .._core.signatures import checked
from ..distributions.base import Distribution
from ..solve.hooks import Hooks, Moment
from ..solve.loop import march
from ..solve.solution import NonFiniteStateError, Solution, check_hooks_finite
from .directions import Direction
from .flow_plan import FAR, FlowPlan
from .flow_stepper import Carried, FlowStepper
from .schedules import SigmaSchedule
from .step_schedules import StepSchedule

__all__ = ["flow_along", "particle_flow"]

_EVERY = 50  # steps from one look at the particles to the next


@checked
@torch.no_grad()
def particle_flow(
    source: DataLike | Distribution | Any,
    target: DataLike | Distribution | Any | None = None,
    *,
    direction: Direction | None = None,
    steps: int = 500,
    sigma: float | Callable[[Tensor], Tensor] | SigmaSchedule | None = None,
    step: float | Callable[[Tensor], Tensor] | StepSchedule | None = None,
    noise: str = "fresh",
    n: int | None = None,
    batch_size: int | None = None,
    move_all: bool = False,
    moves: str = "source",
    save_at: Sequence[float] | Tensor | None = None,
    hooks: Hooks = (),
    tolerance: float | None = None,
    max_nfe: int | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> Solution:
    r"""Move particles from a source toward a target.

    ``O(steps (N + M) M d)`` for directions that are kernel sums, in memory ``O((N + M) d)``.

    Args:
        source: particles y ``(M, *)``, a tensor or an array, not changed; or a law, of which ``n``
            are drawn.
        target: a sample of p, ``(N, *)``; or a law, of which every step draws afresh as many rows
            as there are particles (or ``batch_size``); None for directions that need none.
        direction: Δ; :class:`KernelDifference` by default, which is SD flow.
        steps: number of steps.
        sigma: σ: a number, a function of the clock u in [0, 1], or a schedule. None for
            directions that smooth nothing.
        step: η, likewise. None for the one that makes the mean norm of the first displacement 0.5;
            ``ConstantStep(norm=...)`` for another norm.
        noise: ``"fresh"``: drawn at each step; ``"carried"``: ε of a diffusion's reverse process
            (see the module); ``"none"``: Δ is evaluated at y.
        n: number of particles, where the source is a law.
        batch_size: rows of source and target, drawn at each step without replacement, that
            stand for p and q; all of them if None.
        move_all: with a batch, move all particles and not only those of the batch.
        moves: ``"source"``; or ``"target"`` to move the rows of p toward q, ``dx = -dz``.
        save_at: values of the clock t in [0, 1] to save particles at; 0 is the start, 1 the end.
        hooks: called after each step, as for :func:`sample`: to look at the particles, to end the
            flow (``moment.stop()``), or to return others.
        tolerance: stop when the mean displacement of a step, looked at every 50 steps, is at most
            this, in units of the data.
        max_nfe: most evaluations of the direction for a row; more steps than that are refused.
        progress: show a progress bar, where there is a terminal.
        generator: source of all randomness; one key is drawn from it.

    Returns:
        A :class:`~transportflows.Solution` whose ``t`` is the share of the steps done, from 0 to 1
        (to less where the flow stopped early), and whose ``scheme`` names the direction.

    Raises:
        TypeError: if something is of the wrong kind.
        ValueError: for empty or non-finite samples, other event shapes, dtypes or devices in
            source and target, a batch larger than the data, σ that is not positive or so small
            that every weight underflows, and numbers out of their range.
        NonFiniteStateError: if the particles diverge; it carries the solution so far.

    Source: Weber (2023), algorithm 1.

    Example:
        >>> gen = torch.Generator().manual_seed(0)
        >>> source, target = torch.randn(200, 2, generator=gen), torch.randn(300, 2, generator=gen)
        >>> moved = particle_flow(source, target + 5, sigma=1.0, steps=100, generator=gen)
        >>> bool(((moved.x.mean(0) - (target + 5).mean(0)).abs() < 0.1).all())
        True
    """
    plan = FlowPlan(
        source, target, direction=direction, steps=steps, sigma=sigma, step=step, noise=noise, n=n,
        batch_size=batch_size, move_all=move_all, moves=moves, generator=generator,
    )  # fmt: skip
    return flow_along(
        FlowStepper(plan),
        saved=_saved(save_at, plan.steps),
        hooks=hooks,
        tolerance=tolerance,
        max_nfe=max_nfe,
        progress=progress,
    )[0]


def flow_along(
    stepper: FlowStepper,
    *,
    saved: Sequence[int] = (),
    hooks: Hooks = (),
    tolerance: float | None = None,
    max_nfe: int | None = None,
    progress: bool = False,
) -> tuple[Solution, Any]:
    """Make the steps of a flow: the solution, and what the stepper remembers at the end.

    Raises:
        NonFiniteStateError: if the particles diverge.
    """
    plan = stepper.plan
    solution, (carried,) = march(
        stepper,
        plan.start,
        torch.linspace(0, 1, plan.steps + 1, dtype=torch.float64),
        saved=saved,
        hooks=[*hooks, _Watch(plan, tolerance)],
        key=plan.key,
        max_nfe=max_nfe,
        progress=progress,
    )
    if solution.first_bad_step is not None:
        check_hooks_finite(solution)
        raise _diverged(plan, solution, carried)
    return solution, carried


class _Watch:
    """A hook that ends a flow that has diverged, or whose particles have settled.

    It looks every 50 steps, so that the loop waits for the device as rarely.
    """

    def __init__(self, plan: FlowPlan, tolerance: float | None) -> None:
        if tolerance is not None:
            number("tolerance", tolerance, "a distance ≥ 0, or None", least=0)
        self.tolerance, self.bound, self.before = tolerance, plan.bound, plan.start
        self.moving = len(plan.start)
        if plan.batch_size is not None and not plan.move_all:
            self.moving = plan.batch_size

    def __call__(self, moment: Moment) -> None:
        before, self.before = self.before, moment.x
        if moment.step % _EVERY:
            return
        if not bool((moment.x.abs() < self.bound).all()):
            moment.stop()
        elif self.tolerance is not None:
            distance = (moment.x - before).flatten(1).norm(dim=1).sum() / self.moving
            if float(distance) <= self.tolerance:
                moment.stop()


def _diverged(plan: FlowPlan, solution: Solution, carried: Carried) -> NonFiniteStateError:
    step, done = int(solution.first_bad_step or 0), len(solution.t) - 1
    bad = int((~(solution.x.abs() < plan.bound)).flatten(1).any(1).sum())
    eta = float(carried.size or 0.0) * plan.factors[step]
    return NonFiniteStateError(
        f"the particles diverged at step {step} of {plan.steps} (sigma ="
        f" {plan.sigmas[step]:.3g}, step = {eta:.3g}): {done} steps in, {bad} of"
        f" {len(solution.x)} rows are not finite or farther out than {plan.bound:.3g}, {FAR:g}"
        " times the size of source and target. Take a smaller step (for score differences it should"
        " be below 2, and 1 or less is usual), or let it fall (CosineStep); the rest is in"
        " error.solution",
        solution,
    )


def _saved(save_at: Any, steps: int) -> list[int]:
    """The numbers of steps done at which to save."""
    if save_at is None:
        return []
    times = as_wide(save_at).reshape(-1)
    if not bool(((times >= 0) & (times <= 1)).all()) or bool((times.diff() <= 0).any()):
        raise ValueError(f"save_at must increase within [0, 1], got {times.tolist()}")
    places = (times * steps).round().long().tolist()
    if len(set(places)) < len(places):
        raise ValueError(f"save_at asks for more states than the {steps} steps tell apart")
    return places
