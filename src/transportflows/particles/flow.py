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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core.checks import check_finite_rows, check_same_kind
from .._core.random import draw_key, mix
from ..distributions.adapters import as_distribution
from ..distributions.base import Distribution
from ..solve.solution import NonFiniteStateError, Solution
from .directions import Direction, KernelDifference, Swarm
from .kernels import radius_of
from .schedules import SigmaSchedule, StepSchedule, as_sigma, as_step

__all__ = ["Flow", "particle_flow"]

_FAR = 1e4  # times the size of what was given: a particle there has diverged
_NOISE, _SOURCE, _TARGET, _START = 0, 1, 2, 3  # branches of the key
_ENDS = ("source", "target")
_NOISES = ("fresh", "carried", "none")


def particle_flow(
    source: Tensor | Distribution | Any,
    target: Tensor | Distribution | Any | None = None,
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
    callback: Callable[[int, Tensor], Any] | None = None,
    every: int = 50,
    tolerance: float | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> Solution:
    r"""Move particles from a source toward a target.

    ``O(steps (N + M) M d)`` for directions that are kernel sums, in memory ``O((N + M) d)``.

    Args:
        source: particles y ``(M, *)``, not changed; or a law, of which ``n`` are drawn.
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
        callback: called with the number of steps done and the particles, before the first step and
            after every ``every`` steps; if it returns True, the flow stops.
        every: see ``callback`` and ``tolerance``.
        tolerance: stop when the mean displacement of a step, as seen every ``every`` steps, is
            at most this, in units of the data.
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
    flow = Flow(
        source, target, direction=direction, steps=steps, sigma=sigma, step=step, noise=noise, n=n,
        batch_size=batch_size, move_all=move_all, moves=moves, generator=generator,
    )  # fmt: skip
    _positive_integer("every", every)
    saved = _saved(save_at, steps)
    x = flow.start
    trajectory = {0: x.clone()} if 0 in saved else {}
    stopped = callback is not None and callback(0, x) is True
    done = 0
    bar = tqdm(total=steps, disable=None if progress else True, desc=flow.name, unit="step")
    with bar, torch.no_grad():
        while done < steps and not stopped:
            x = flow.advance(done, x).x
            done += 1
            bar.update()
            if done in saved:
                trajectory[done] = x.clone()
            if done % every == 0 or done == steps:
                flow.check_health(x, done)
                if callback is not None and callback(done, x) is True:
                    stopped = True
                if tolerance is not None and float(flow.displacement) <= tolerance:
                    stopped = True
    kept = [k for k in saved if k in trajectory]
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return Solution(
        x=x,
        t=times[: done + 1],
        nfe=done,
        scheme=flow.name,
        trajectory=torch.stack([trajectory[k] for k in kept]) if kept else None,
        saved_at=times[kept] if kept else None,
    )


@dataclass(frozen=True)
class Moved:
    """One step.

    Attributes:
        x: particles after it.
        z: where Δ was evaluated, ``(B, *)``.
        swarm: what the direction saw.
        eta: η.
        rows: which particles moved; None for all.
    """

    x: Tensor
    z: Tensor
    swarm: Swarm
    eta: Tensor
    rows: Tensor | None


class Flow:
    """What a flow is made of, checked; it knows how to make one step. See :func:`particle_flow`."""

    def __init__(
        self,
        source: Any,
        target: Any,
        *,
        direction: Direction | None,
        steps: int,
        sigma: Any,
        step: Any,
        noise: str,
        n: int | None,
        batch_size: int | None,
        move_all: bool,
        moves: str,
        generator: torch.Generator | None,
    ) -> None:
        self.direction = KernelDifference() if direction is None else direction
        if not isinstance(self.direction, Direction):
            given = getattr(direction, "__name__", type(direction).__name__)
            raise TypeError(
                f"direction must be a Direction such as KernelDifference(), got {given}"
            )
        self.name = type(self.direction).__name__
        _positive_integer("steps", steps)
        if noise not in _NOISES or moves not in _ENDS:
            raise ValueError(
                f"noise is 'fresh', 'carried' or 'none' and moves is 'source' or 'target', got"
                f" {noise!r} and {moves!r}"
            )
        self.noise, self.steps, self.batch_size, self.move_all = noise, steps, batch_size, move_all
        self.moves_target = moves == "target"
        self.key = draw_key(generator)
        self._take_samples(source, target, n)
        self._take_schedules(sigma, step)
        self._check_batch()
        held = self.target if isinstance(self.target, Tensor) else None
        self.direction.check(self.source, held, self.sigma_table)
        size = radius_of(self.source, held)
        # Rows of a law may be farther out than any that were seen.
        self.radius = size if held is not None or self.target is None else 4 * size
        self.bound = _FAR * (size + float(self.sigma_table.max()) + float(self.source.abs().max()))
        self.start = self.target if self.moves_target else self.source
        self.generator = torch.Generator(self.source.device)
        self.carried: Tensor | None = None
        self.size = (
            None if self.schedule.size is None else self.start.new_tensor(self.schedule.size)
        )
        self.displacement = self.start.new_tensor(math.inf)
        self.fine = torch.ones(steps, dtype=torch.bool, device=self.source.device)

    # --------------------------------------------------------------------------------- one step

    def advance(self, i: int, x: Tensor) -> Moved:
        """Step i from particles ``(M, *)``; no value is read from the device."""
        source = self.source if self.moves_target else x
        target = x if self.moves_target else self._targets(i)
        rows: Tensor | None = None
        if self.batch_size is not None:
            picked = self._pick(_SOURCE, i, len(source))
            other = source[picked]
            if self.moves_target:
                rows = self._pick(_TARGET, i, len(x))
                source, target = other, x[rows]
            else:
                rows, source = picked, other
            if self.move_all:
                rows = None
        clean = x if rows is None else x[rows]
        z = clean
        level = self.levels[i]
        if level > 0:
            z = torch.add(clean, self._epsilon(i, clean), alpha=level)
        swarm = Swarm(clean, source, target, self.sigmas[i], self.clock[i], i, self.radius)
        delta = self.displace(z, swarm)
        if self.size is None:
            first = delta.flatten(1).norm(dim=1).mean() * self.factors[0]
            self.size = self.schedule.norm / first
        eta = self.size * self.factors[i]
        x = x + eta * delta if rows is None else x.index_copy(0, rows, clean + eta * delta)
        self.displacement = delta.flatten(1).norm(dim=1).mean() * eta
        self.fine[i] = (x.abs() < self.bound).all()
        return Moved(x, z, swarm, eta, rows)

    def displace(self, z: Tensor, swarm: Swarm) -> Tensor:
        """Δ, with the sign of the end that moves."""
        delta: Tensor = self.direction(z, swarm)
        return -delta if self.moves_target else delta

    def _epsilon(self, i: int, clean: Tensor) -> Tensor:
        """The standard normal of step i."""
        self.generator.manual_seed(mix(self.key, _NOISE, i))
        fresh = torch.randn(
            clean.shape, generator=self.generator, dtype=clean.dtype, device=clean.device
        )
        if self.noise != "carried":
            return fresh
        if self.carried is None:
            self.carried = fresh
        else:
            rho = 1 - (self.levels[i] / self.levels[i - 1]) ** 2
            self.carried = math.sqrt(1 - rho) * self.carried + math.sqrt(rho) * fresh
        return self.carried

    def _pick(self, branch: int, i: int, total: int) -> Tensor:
        self.generator.manual_seed(mix(self.key, branch, i))
        device = self.generator.device
        return torch.randperm(total, generator=self.generator, device=device)[: self.batch_size]

    def _targets(self, i: int) -> Tensor | None:
        """The sample of p that step i sees."""
        if isinstance(self.target, Tensor):
            if self.batch_size is None:
                return self.target
            return self.target[self._pick(_TARGET, i, len(self.target))]
        if self.target is None:
            return None
        self.generator.manual_seed(mix(self.key, _TARGET, i))
        like = self.source
        count = len(like) if self.batch_size is None else self.batch_size
        drawn: Tensor = self.target.sample(
            count, generator=self.generator, dtype=like.dtype, device=like.device
        )
        return drawn

    def check_health(self, x: Tensor, done: int) -> None:
        """Raise where the particles have diverged in the steps done so far; reads the device."""
        fine = self.fine[:done]
        if bool(fine.all()):
            return
        step = int((~fine).nonzero()[0])
        bad = int((~(x.abs() < self.bound)).flatten(1).any(1).sum())
        times = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)[: done + 1]
        eta = float(self.size or 0.0) * self.factors[step]
        raise NonFiniteStateError(
            f"the particles diverged at step {step} of {self.steps} (sigma ="
            f" {self.sigmas[step]:.3g}, step = {eta:.3g}): {done} steps in, {bad} of {len(x)} rows"
            f" are not finite or farther out than {self.bound:.3g}, {_FAR:g} times the size of"
            " source and target. Take a smaller step (for score differences it should be below 2,"
            " and 1 or less is usual), or let it fall (CosineStep); the rest is in error.solution",
            Solution(x=x, t=times, nfe=done, scheme=self.name, first_bad_step=step),
        )

    # -------------------------------------------------------------------------------- what is given

    def _take_samples(self, source: Any, target: Any, n: int | None) -> None:
        target = self._as_target(target)
        if isinstance(source, Tensor):
            if n is not None:
                raise ValueError("n is for a source that is a law; a tensor has its own rows")
            check_finite_rows(source, "source")
            self.source = source.detach()
        else:
            law = as_distribution(source)
            if n is None:
                raise ValueError(
                    f"the source is a {type(source).__name__}; say how many particles to draw: n="
                )
            _positive_integer("n", n)
            like = target if isinstance(target, Tensor) else torch.zeros(())
            own = torch.Generator(like.device).manual_seed(mix(self.key, _START))
            self.source = law.sample(n, generator=own, dtype=like.dtype, device=like.device)
        shape = self.source.shape[1:]
        given = None if target is None else target.shape[isinstance(target, Tensor) :]
        if given is not None and tuple(given) != tuple(shape):
            raise ValueError(
                f"source has events of shape {tuple(shape)} and target {tuple(given)}; particles"
                " move in the space of the data, so they must be the same"
            )
        if isinstance(target, Tensor):
            check_same_kind(target, self.source, "target", "source")
        elif target is None and self.direction.needs_target:
            raise ValueError(f"{self.name} looks at a sample of p; give a target")
        if self.moves_target and not isinstance(target, Tensor):
            raise ValueError("moves='target' moves the rows of a tensor; give one as the target")
        if self.moves_target and getattr(self.direction, "of_source", self) is None:
            raise ValueError(
                f"{self.name} uses the particles themselves for q, and with moves='target' they"
                " are those of p; give it of_source= (or source=)"
            )
        self.target = target

    def _as_target(self, target: Any) -> Tensor | Distribution | None:
        if target is None:
            return None
        if isinstance(target, Tensor):
            check_finite_rows(target, "target")
            return target.detach()
        return as_distribution(target)

    def _take_schedules(self, sigma: Any, step: Any) -> None:
        if sigma is None and self.direction.needs_sigma:
            raise ValueError(
                f"{self.name} smooths the samples; give sigma=, such as ModifiedCosineSigma(2.0,"
                " 0.5): from the size of the data down to near the distance of nearest neighbours"
            )
        if sigma is None:
            self.sigma_table = torch.zeros(self.steps, dtype=torch.float64)
        else:
            self.sigma_table = as_sigma(sigma).table(self.steps)
        levels = self.direction.levels(self.sigma_table)
        if self.noise == "none":
            levels = torch.zeros_like(self.sigma_table)
        if self.noise == "carried" and bool((levels.diff() > 0).any()):
            raise ValueError("noise='carried' needs a sigma that does not rise")
        if self.noise == "carried" and self.batch_size is not None and not self.move_all:
            raise ValueError(
                "noise='carried' keeps the noise of every particle, and in a batch others move at"
                " each step; use move_all=True"
            )
        self.schedule = as_step(step)
        factors = self.schedule.table(self.sigma_table)
        if bool(((factors < 0) | ~factors.isfinite()).any()) or float(factors[0]) == 0:
            raise ValueError(
                "steps must be finite, not negative, and the first above 0, got"
                f" {factors[:3].tolist()}, ..."
            )
        self.sigmas, self.levels = self.sigma_table.tolist(), levels.tolist()
        self.factors = factors.tolist()
        self.clock = torch.linspace(0, 1, self.steps, dtype=torch.float64).tolist()

    def _check_batch(self) -> None:
        if self.batch_size is None:
            return
        _positive_integer("batch_size", self.batch_size)
        fewest = len(self.source)
        if isinstance(self.target, Tensor):
            fewest = min(fewest, len(self.target))
        if self.batch_size > fewest:
            of = f"source has {len(self.source)} rows"
            if isinstance(self.target, Tensor):
                of += f" and target {len(self.target)}"
            raise ValueError(
                f"batch_size = {self.batch_size} is more than there is: {of}; use at most {fewest},"
                " or None for all"
            )


def _saved(save_at: Any, steps: int) -> list[int]:
    """The numbers of steps done at which to save."""
    if save_at is None:
        return []
    times = torch.as_tensor(save_at, dtype=torch.float64).reshape(-1)
    if not bool(((times >= 0) & (times <= 1)).all()) or bool((times.diff() <= 0).any()):
        raise ValueError(f"save_at must increase within [0, 1], got {times.tolist()}")
    places = (times * steps).round().long().tolist()
    if len(set(places)) < len(places):
        raise ValueError(f"save_at asks for more states than the {steps} steps tell apart")
    return places


def _positive_integer(name: str, number: Any) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{name} must be a positive integer, got {number!r}")
