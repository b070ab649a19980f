"""Particle flows: Weber's experiments E.1 to E.3.

The paper gives no geometry; ours: a question mark of 30 Gaussians in R³ of std 0.15, 6 high, with
sources N(mean of the target, Id), overlapping (E.1.1) or offset by (8, 8, 8) (E.1.2); a grid of 25
Gaussians of std 0.5 spaced by 5 about the origin with the source N((-20, 20), Id) (E.2); and a
Swiss roll in R³ to the question mark and back (E.3). 500 onto 1,024 points in 500 steps (E.1),
1,024 onto 1,024 in 1,000 (E.2) and in 500 (E.3). "batch": 128 rows of each at a step, and all
particles move ("batch, own rows": only those of the batch, the letter of algorithm 1).

*Paper*: σ² from 4 (E.2: 10) to 0.5 by the modified cosine, the first step of mean norm 0.5, for SD
flow and MMD flow alike, the noise at the level of the bandwidth. *Ours*: σ from the same start
exponentially to k median nearest-neighbour distances of the targets, η = 1; k = 4 for the question
mark, 5 for the grid, and 2 for the roll, a sheet thinner than its points are apart.
*MMD, best of 12*: the setting with the lowest distance at the end (which SD flow is not given)
among constant bandwidths 1, 2 and 4, with noise at that level and without, and first steps of norm
0.1 and 0.5; one seed, and SD flow with the same seed above it.

*CFD*: mean distance of characteristic functions at 256 frequencies from N(0, Id), one fixed draw,
to a held-out draw of 1,024 points; *floor*: that of the training targets. *Neighbours*: median
distance of particles to the nearest target over that of targets to each other (1: new points, 0:
copies). *Std*: within modes, over that of the targets. Medians over seeds, and the worst.

Run ``python benchmarks/particles.py``.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import transportflows as tpf
from _common import header, table
from _particles import (
    Case,
    Outcome,
    grid_of_gaussians,
    measured,
    own_schedule,
    paper_schedule,
    question_mark,
    swiss_roll,
)

RESULTS = Path(__file__).parent / "results"
GREEN, RED, GREY = "#2a7f3f", "#c0392b", "#888888"


def cases(seed: int) -> dict[str, tuple[Case, int, float, float]]:
    """Every experiment by name: the case, its steps, σ² at the start, and k for its end."""
    own = torch.Generator().manual_seed(seed)
    mark, grid = question_mark(), grid_of_gaussians()
    target, held_out = (mark.sample(1024, generator=own) for _ in range(2))
    source = torch.randn(500, 3, generator=own) + target.mean(0)
    roll, other_roll = swiss_roll(1024, own), swiss_roll(1024, own)
    planar, other = (grid.sample(1024, generator=own) for _ in range(2))
    corner = torch.randn(1024, 2, generator=own) + torch.tensor([-20.0, 20.0])
    return {
        "E.1.1 overlapping": (Case(source, target, held_out, mark), 500, 4.0, 4.0),
        "E.1.2 offset": (Case(source + 8, target, held_out, mark), 500, 4.0, 4.0),
        "E.2 grid": (Case(corner, planar, other, grid), 1000, 10.0, 5.0),
        "E.3 roll to mark": (Case(roll, target, held_out, mark), 500, 4.0, 4.0),
        "E.3 mark to roll": (Case(target, roll, other_roll), 500, 4.0, 2.0),
    }


def flows(
    case: Case, highest: float, multiple: float, *, batches: bool
) -> dict[str, dict[str, Any]]:
    """The flows that are compared, by name."""
    paper, own = paper_schedule(highest), own_schedule(highest, case.target, multiple)
    sd, mmd = tpf.particles.KernelDifference(), tpf.particles.MMDGradient()
    found = {
        "SD, paper": {"direction": sd, **paper},
        "SD, ours": {"direction": sd, **own},
        "MMD, paper": {"direction": mmd, **paper},
    }
    if batches:
        every = {"batch_size": 128, "move_all": True}
        found |= {
            "SD, paper, batch": {"direction": sd, **paper, **every},
            "SD, paper, batch, own rows": {"direction": sd, **paper, "batch_size": 128},
            "SD, ours, batch": {"direction": sd, **own, **every},
            "SD, ours, batch, own rows": {"direction": sd, **own, "batch_size": 128},
            "MMD, paper, batch": {"direction": mmd, **paper, **every},
        }
    return found


def best_mmd(case: Case, steps: int) -> Outcome:
    """MMD flow in the best of twelve settings, as seen on the held-out draw itself."""
    tried = []
    for width, injection, norm in itertools.product((1.0, 2.0, 4.0), (None, 0.0), (0.1, 0.5)):
        direction = tpf.particles.MMDGradient(injection=injection)
        step = tpf.particles.ConstantStep(norm=norm)
        try:
            tried.append(measured(case, steps, direction=direction, sigma=width, step=step))
        except (ValueError, tpf.solve.NonFiniteStateError):  # all weights underflow; or it diverged
            continue
    return min(tried, key=lambda one: one.distance)


def row(name: str, flow: str, found: list[Outcome]) -> list[object]:
    """Medians over seeds, and the worst."""

    def middle(values: list[float]) -> str:
        return f"{statistics.median(values):.2f}"

    over = [one.over_floor for one in found]
    weights = "-"
    if name.startswith("E.2"):
        low, high = min(one.lightest for one in found), max(one.heaviest for one in found)
        weights = f"{100 * low:.1f} to {100 * high:.1f} %"
    spread = middle([one.spread for one in found]) if "to roll" not in name else "-"
    distance = statistics.median([one.distance for one in found])
    return [
        name,
        flow,
        f"{distance:.4f}",
        f"{middle(over)} ({max(over):.2f})",
        f"{middle([one.neighbours for one in found])} ({min(one.neighbours for one in found):.2f})",
        spread,
        weights,
    ]


def draw_first(panels: Any, case: Case, names: tuple[str, str], shown: dict[str, Outcome]) -> None:
    """Final particles of two flows, curves and histogram, in four panels."""
    for axis, name in zip(panels[:2], names, strict=True):
        scatter(axis, case, shown[name].x, name)
    curves(panels[2], case, shown)
    histogram(panels[3], case, shown[names[1]])


def scatter(axis: Any, case: Case, x: torch.Tensor, title: str) -> None:
    """Particles over targets, seen from the front."""
    last = x.shape[1] - 1
    axis.scatter(case.target[:, 0], case.target[:, last], s=2, c=RED, alpha=0.3, linewidths=0)
    axis.scatter(x[:, 0], x[:, last], s=3, c=GREEN, alpha=0.7, linewidths=0)
    axis.set_title(title, fontsize=8)
    axis.set_aspect("equal", "datalim")
    axis.tick_params(labelsize=6)


def curves(axis: Any, case: Case, shown: dict[str, Outcome]) -> None:
    """Distances along the way."""
    for name, one in shown.items():
        colour = GREEN if name.startswith("SD, ours") else ("C0" if name.startswith("SD") else RED)
        style = "--" if "batch" in name else "-"
        steps, values = zip(*one.curve, strict=True)
        axis.plot(steps, values, style, c=colour, lw=1, label=name)
    axis.axhline(case.floor, c=GREY, lw=0.8, ls=":", label="floor")
    axis.set_yscale("log")
    axis.set_title("CFD to a held-out draw, by step", fontsize=8)
    axis.legend(fontsize=5)
    axis.tick_params(labelsize=6)


def histogram(axis: Any, case: Case, one: Outcome) -> None:
    """Nearest neighbours among the targets."""
    near = tpf.metrics.nearest_neighbours(one.x, case.target)
    top = float(near.within_data.quantile(0.99)) * 1.3
    for values, colour, label in (
        (near.within_data, RED, "targets"),
        (near.to_data, GREEN, "particles"),
    ):
        axis.hist(
            values.numpy(), bins=40, range=(0, top), density=True, color=colour, alpha=0.5,
            label=label,
        )  # fmt: skip
    axis.set_title("distance to the nearest (other) target", fontsize=8)
    axis.legend(fontsize=6)
    axis.tick_params(labelsize=6)


def finish(figure: Any, name: str) -> None:
    """Write a picture, small."""
    figure.tight_layout()
    figure.savefig(RESULTS / f"{name}.png", dpi=80)


def pictures() -> None:
    """One of each experiment, with the seed 0."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    every = cases(0)
    figure, panels = plt.subplots(2, 4, figsize=(11, 5.5))
    for line, name in zip(panels, ("E.1.1 overlapping", "E.1.2 offset"), strict=True):
        case, steps, highest, multiple = every[name]
        named = ("MMD, paper", "SD, paper", "SD, ours", "SD, ours, batch", "MMD, paper, batch")
        options = flows(case, highest, multiple, batches=True)
        shown = {key: measured(case, steps, curve=True, **options[key]) for key in named}
        draw_first(line, case, ("MMD, paper", "SD, ours"), shown)
    finish(figure, "particles_e1")

    case, steps, highest, multiple = every["E.2 grid"]
    options = flows(case, highest, multiple, batches=False)
    times = [0.02, 0.1, 0.3]
    shown = {
        key: measured(case, steps, curve=True, save_at=times, **value)
        for key, value in options.items()
    }
    figure, panels = plt.subplots(2, 4, figsize=(11, 5.5))
    saved = shown["SD, ours"].saved
    assert saved is not None
    for axis, t, x in zip(panels[0], times, saved, strict=False):
        scatter(axis, case, x, f"SD, ours, step {round(t * steps)}")
    scatter(panels[0][3], case, shown["SD, ours"].x, f"SD, ours, step {steps}")
    scatter(panels[1][0], case, shown["SD, paper"].x, f"SD, paper, step {steps}")
    scatter(panels[1][1], case, shown["MMD, paper"].x, f"MMD, paper, step {steps}")
    curves(panels[1][2], case, shown)
    histogram(panels[1][3], case, shown["SD, ours"])
    finish(figure, "particles_e2")

    figure, panels = plt.subplots(2, 5, figsize=(12.5, 5))
    for line, name in zip(panels, ("E.3 roll to mark", "E.3 mark to roll"), strict=True):
        case, steps, highest, multiple = every[name]
        options = flows(case, highest, multiple, batches=False)
        times = [0.0, 0.02, 1.0]
        found = measured(case, steps, save_at=times, **options["SD, ours"])
        assert found.saved is not None
        for axis, t, x in zip(line, times, found.saved, strict=False):
            scatter(axis, case, x, f"SD, ours, step {round(t * steps)}")
        shown = {key: measured(case, steps, curve=True, **value) for key, value in options.items()}
        curves(line[3], case, shown)
        histogram(line[4], case, shown["SD, ours"])
    finish(figure, "particles_e3")


def main() -> None:
    """Print the table; draw the pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=("tables", "pictures"))
    options = parser.parse_args()
    began = time.perf_counter()
    if options.only != "pictures":
        print(header(__doc__))
        print(f"{options.seeds} seeds; in brackets the worst of them.\n")
        found: dict[tuple[str, str], list[Outcome]] = {}
        for seed in range(options.seeds):
            for name, (case, steps, highest, multiple) in cases(seed).items():
                batches = name.startswith("E.1")
                for flow, settings in flows(case, highest, multiple, batches=batches).items():
                    one = measured(case, steps, seed=seed, **settings)
                    found.setdefault((name, flow), []).append(one)
        for name, (case, steps, *_) in cases(0).items():
            found[name, "SD, ours, seed 0"] = found[name, "SD, ours"][:1]
            found[name, "MMD, best of 12, seed 0"] = [best_mmd(case, steps)]
        order = list(cases(0))
        rows = [row(*key, found[key]) for key in sorted(found, key=lambda k: order.index(k[0]))]
        head = ["experiment", "flow", "CFD", "over the floor", "neighbours", "std", "mode weights"]
        print(table(head, rows))
        print(
            "Pictures (seed 0): [E.1](particles_e1.png), [E.2](particles_e2.png),"
            f" [E.3](particles_e3.png). {time.perf_counter() - began:.0f} s in all."
        )
    if options.only != "tables":
        pictures()


if __name__ == "__main__":
    main()
