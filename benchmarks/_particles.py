"""Weber's laws in our geometry, and what is measured of particles moved toward them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import transportflows as tpf

__all__ = [
    "Case",
    "Outcome",
    "grid_of_gaussians",
    "measured",
    "own_schedule",
    "paper_schedule",
    "question_mark",
    "swiss_roll",
]

FREQUENCIES = 7  # the seed of the one fixed draw of 256


def question_mark() -> tpf.distributions.GaussianMixture:
    """Thirty Gaussians of std 0.15 in R³, in the shape of a question mark 6 high."""
    angle = torch.linspace(math.pi, -math.pi / 2, 19, dtype=torch.float64)
    arc = torch.stack([1.5 * angle.cos(), 0 * angle, 4.5 + 1.5 * angle.sin()], 1)
    height = torch.linspace(2.65, 1.2, 8, dtype=torch.float64)
    stem = torch.stack([0 * height, 0 * height, height], 1)
    dot = torch.tensor([[0.0, 0.0, 0.1], [0.15, 0.0, 0.0], [-0.15, 0.0, 0.0]], dtype=torch.float64)
    return tpf.distributions.GaussianMixture(torch.cat([arc, stem, dot]), scale=0.15)


def grid_of_gaussians() -> tpf.distributions.GaussianMixture:
    """Twenty-five Gaussians of std 0.5 in the plane, spaced by 5, about the origin."""
    side = 5.0 * torch.arange(-2, 3)
    return tpf.distributions.GaussianMixture(torch.cartesian_prod(side, side), scale=0.5)


def swiss_roll(n: int, generator: torch.Generator) -> Tensor:
    """A roll of radius 4/3 to 4 about the height 3, and 4 deep, in R³."""
    flat = tpf.datasets.swiss_roll(n, generator=generator, dtype=torch.float64)
    depth = 4 * torch.rand(n, generator=generator, dtype=torch.float64) - 2
    return torch.stack([flat[:, 0], depth, flat[:, 1] + 3], 1).float()


def paper_schedule(highest: float) -> dict[str, Any]:
    """Weber's: variance from ``highest`` to 0.5 by the modified cosine, first step of norm 0.5."""
    return {
        "sigma": tpf.particles.ModifiedCosineSigma(math.sqrt(highest), math.sqrt(0.5)),
        "step": None,
    }


def own_schedule(highest: float, target: Tensor, multiple: float) -> dict[str, Any]:
    """From the same σ exponentially to some nearest-neighbour distances (median); η = 1."""
    near = tpf.metrics.nearest_distances(target, target, exclude_self=True)[0].median()
    return {
        "sigma": tpf.particles.ExponentialSigma(math.sqrt(highest), multiple * float(near)),
        "step": 1.0,
    }


@dataclass
class Case:
    """A source, a target, and a draw of the same law that no flow sees.

    Attributes:
        source: particles at the start.
        target: what they are moved toward.
        held_out: another draw of as many.
        law: the mixture, where it is one.
    """

    source: Tensor
    target: Tensor
    held_out: Tensor
    law: tpf.distributions.GaussianMixture | None = None

    def distance(self, x: Tensor) -> float:
        """The distance of characteristic functions to the held-out draw."""
        fixed = torch.Generator().manual_seed(FREQUENCIES)
        return tpf.metrics.characteristic_distance(x, self.held_out, generator=fixed).value

    @property
    def floor(self) -> float:
        """That of the training targets."""
        return self.distance(self.target)


@dataclass
class Outcome:
    """What a flow left.

    Attributes:
        x: particles at the end.
        distance: to the held-out draw.
        over_floor: that, over the training targets' own.
        neighbours: median distance to the targets over that within them.
        spread: mean std within a mode over that of the targets; NaN without modes.
        lightest: smallest weight of a mode.
        heaviest: largest.
        curve: (step, distance) along the way.
        saved: particles on the way.
    """

    x: Tensor
    distance: float
    over_floor: float
    neighbours: float
    spread: float
    lightest: float
    heaviest: float
    curve: list[tuple[int, float]]
    saved: Tensor | None


def measured(
    case: Case,
    steps: int,
    *,
    seed: int = 0,
    curve: bool = False,
    save_at: Sequence[float] | None = None,
    **options: Any,
) -> Outcome:
    """Run a flow and look at where it ends."""
    points: list[tuple[int, float]] = []
    if curve:
        points.append((0, case.distance(case.source)))

    def watch(moment: tpf.solve.Moment) -> None:
        if moment.step % 10 == 0 or moment.step == moment.steps:
            points.append((moment.step, case.distance(moment.x)))

    flow = tpf.particle_flow(
        case.source,
        case.target,
        steps=steps,
        hooks=[watch] if curve else [],
        save_at=save_at,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )
    return outcome(case, flow.x, points, flow.trajectory)


def outcome(
    case: Case,
    x: Tensor,
    curve: list[tuple[int, float]] | None = None,
    saved: Tensor | None = None,
) -> Outcome:
    """Look at particles."""
    spread = lightest = heaviest = math.nan
    if case.law is not None:
        weights = tpf.metrics.mode_weights(x, case.law).weights
        lightest, heaviest = float(weights.min()), float(weights.max())
        spread = within_modes(x, case.law) / within_modes(case.target, case.law)
    distance = case.distance(x)
    return Outcome(
        x,
        distance,
        distance / case.floor,
        tpf.metrics.nearest_neighbours(x, case.target).ratio,
        spread,
        lightest,
        heaviest,
        curve or [],
        saved,
    )


def within_modes(x: Tensor, law: tpf.distributions.GaussianMixture) -> float:
    """Root of the mean variance about the modes' own centres, each row with its nearest mode."""
    means = law.means.to(x)
    nearest = torch.cdist(x, means).argmin(1)
    total, count = 0.0, 0
    for k in range(len(means)):
        rows = x[nearest == k]
        if len(rows) > 4:
            total += float((rows - rows.mean(0)).square().sum() / (len(rows) - 1) / x.shape[1])
            count += 1
    return math.sqrt(total / max(count, 1))
