"""What a flow is made of, checked before its first step: samples, direction, tables of σ and η."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import if_array
from .._core.checks import check_finite_rows, check_same_kind, positive_integer
from .._core.random import draw_key, mix
from ..distributions.adapters import as_distribution
from ..distributions.base import Distribution
from .directions import Direction, KernelDifference
from .kernels import radius_of
from .schedules import as_sigma
from .step_schedules import as_step

__all__ = ["FAR", "FlowPlan"]

FAR = 1e4  # times the size of what was given: a particle there has diverged
SOURCE, TARGET, NOISE = 1, 2, 0  # branches of the key
_START = 3
_ENDS = ("source", "target")
_NOISES = ("fresh", "carried", "none")


class FlowPlan:
    """What a flow is made of; the arguments are those of :func:`particle_flow`.

    Attributes:
        direction: Δ.
        name: of its class.
        steps: number of steps.
        key: of all randomness.
        source: particles y, or the sample of q that stays, ``(M, *)``.
        target: the sample of p, ``(N, *)``, or a law; None where there is none.
        start: the particles that move.
        moves_target: whether they are the target's.
        noise: ``"fresh"``, ``"carried"`` or ``"none"``.
        batch_size: rows that are drawn at each step; None for all.
        move_all: whether all particles move where there is a batch.
        sigmas: σ of each step.
        levels: standard deviation of the noise of each step.
        schedule: of η; its factors are tabulated.
        factors: η of each step over the size.
        clock: u of each step.
        radius: of the samples, for the precision of kernel sums.
        bound: a particle farther out has diverged.
    """

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
        self.steps = positive_integer("steps", steps)
        if noise not in _NOISES or moves not in _ENDS:
            raise ValueError(
                f"noise is 'fresh', 'carried' or 'none' and moves is 'source' or 'target', got"
                f" {noise!r} and {moves!r}"
            )
        self.noise, self.batch_size, self.move_all = noise, batch_size, move_all
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
        size = size + float(self.sigma_table.max()) + float(self.source.abs().max())
        self.bound = FAR * size if size > 0 else math.inf  # particles at the origin have no size
        self.start = self.target if self.moves_target else self.source

    def _take_samples(self, source: Any, target: Any, n: int | None) -> None:
        source = if_array("source", source, like=target)
        target = self._as_target(if_array("target", target, like=source))
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
            n = positive_integer("n", n)
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
        positive_integer("batch_size", self.batch_size)
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
