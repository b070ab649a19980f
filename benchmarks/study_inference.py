"""Simulation-based inference: posteriors of two moons and SLCP, by a conditional flow.

The tasks of Lueckmann et al. (2021), "Benchmarking simulation-based inference", with 10,000
simulations: θ of the prior, y of the simulator; a velocity on the linear path from N(0, Id) to θ,
given y, the same settings for both: a residual MLP of 4 x 256, θ and y standardised, 6,000 steps of
256, Adam at 1e-3 with a cosine, averages of .999. 10,000 samples by Heun in 50 steps, those outside
the prior's box drawn anew.

*C2ST*: accuracy of the classifier of the benchmark (an MLP of two layers of 10 d, five folds,
inputs standardised by the reference) between samples and the reference posterior of each of the ten
observations; .5 is the best. Published for flow matching: .57 and .68 (Wildberger et al. 2023).

Observations and reference posteriors are those that the package sbibm ships: ``--files`` names a
folder in which its wheel was unpacked. Run ``python benchmarks/study_inference.py --files FOLDER
[--seeds 5] [--tasks two_moons slcp]``, without files and with ``--quick`` only to see that it
trains. What was measured is kept in results/study_inference.csv, and a run goes on from there;
results/study_inference.md and .png are made of it (``--report`` alone).
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf
from _common import Kept, header, interval, table

FOLDER = Path(__file__).parent / "results"
ROWS = Kept(
    FOLDER / "study_inference.csv", ("task", "seed", "observation", "c2st", "steps", "seconds")
)
REACH = {"two_moons": 0.55, "slcp": 0.65}
PUBLISHED = {"two_moons": 0.57, "slcp": 0.68}
SIMULATIONS, POINTS, STEPS = 10_000, 10_000, 6_000


def two_moons(theta: Tensor, draws: torch.Generator) -> Tensor:
    """A crescent, shifted by θ."""
    angle = math.pi * (torch.rand(len(theta), generator=draws) - 0.5)
    radius = 0.1 + 0.01 * torch.randn(len(theta), generator=draws)
    crescent = torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], 1)
    a, b = theta.unbind(1)
    return crescent + torch.stack([-(a + b).abs(), b - a], 1) / math.sqrt(2)


def slcp(theta: Tensor, draws: torch.Generator) -> Tensor:
    """Four draws of a Gaussian in the plane, whose five numbers are functions of θ."""
    mean, s, rho = theta[:, :2], theta[:, 2:4].square(), theta[:, 4].tanh()
    z = torch.randn(len(theta), 4, 2, generator=draws)
    first = s[:, :1] * z[..., 0]
    second = s[:, 1:] * (
        rho[:, None] * z[..., 0] + (1 - rho.square()).clamp(min=0).sqrt()[:, None] * z[..., 1]
    )
    return (mean[:, None] + torch.stack([first, second], 2)).flatten(1)


TASKS: dict[str, tuple[int, float, Callable[[Tensor, torch.Generator], Tensor]]] = {
    "two_moons": (2, 1.0, two_moons),
    "slcp": (5, 3.0, slcp),
}
"""Number of parameters, half the side of the prior's box, and the simulator."""


def trained(task: str, seed: int, steps: int) -> tpf.Field:
    """The field of a task."""
    d, side, simulate = TASKS[task]
    draws = torch.Generator().manual_seed(seed)
    theta = side * (2 * torch.rand(SIMULATIONS, d, generator=draws) - 1)
    y = simulate(theta, draws)
    net = tpf.networks.MLP(d, 256, 4, vectors={"y": y.shape[1]}, residual=True, generator=draws)
    field = tpf.Velocity(
        net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((d,))),
        transform=tpf.Standardize.fit(theta), cond_transforms={"y": tpf.Standardize.fit(y)},
    )  # fmt: skip
    trainer = tpf.Trainer(field, lr=1e-3, scheduler="cosine", ema=0.999)
    trainer.fit(theta, cond={"y": y}, steps=steps, batch_size=256, progress=False, generator=draws)
    return trainer.averaged_field()


@torch.no_grad()
def posterior(field: tpf.Field, y: Tensor, side: float, seed: int, n: int = POINTS) -> Tensor:
    """Samples inside the box."""
    draws, kept, left = torch.Generator().manual_seed(1_000 + seed), [], n
    while left > 0:
        x = tpf.sample(
            field, left, cond={"y": y.expand(left, -1)}, scheme="heun", steps=50, generator=draws
        ).x
        kept.append(x[(x.abs() <= side).all(1)])
        left -= len(kept[-1])
    return torch.cat(kept)


def c2st(reference: Tensor, x: Tensor) -> float:
    """The accuracy of the benchmark's classifier."""
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    mean, scale, d = reference.mean(0), reference.std(0), x.shape[1]
    rows = torch.cat([(part - mean) / scale for part in (reference, x)]).numpy()
    of = torch.arange(2).repeat_interleave(len(x)).numpy()
    classifier = MLPClassifier((10 * d, 10 * d), max_iter=10_000, random_state=1)
    folds = KFold(n_splits=5, shuffle=True, random_state=1)
    return float(cross_val_score(classifier, rows, of, cv=folds).mean())


def numbers(path: Path) -> Tensor:
    """A table of numbers under a head, packed or not."""
    import bz2

    text = bz2.decompress(path.read_bytes()).decode() if path.suffix == ".bz2" else path.read_text()
    rows = list(csv.reader(io.StringIO(text)))[1:]
    return torch.tensor([[float(number) for number in row] for row in rows])


def by_seed(task: str) -> dict[str, list[float]]:
    """C2ST of the observations of each seed."""
    rows = ROWS.rows(task=task)
    seeds = dict.fromkeys(row["seed"] for row in rows)
    return {k: [float(row["c2st"]) for row in rows if row["seed"] == k] for k in seeds}


def report() -> str:
    """The tables of what is kept."""
    lines, means = [], []
    for task in TASKS:
        for seed, found in by_seed(task).items():
            own = ROWS.rows(task=task, seed=seed)[0]
            lines.append(
                [
                    task, seed, str(len(found)), f"{statistics.mean(found):.3f}",
                    f"{min(found):.3f} to {max(found):.3f}", own["steps"],
                    f"{float(own['seconds']):.0f}",
                ]
            )  # fmt: skip
        each = [statistics.mean(found) for found in by_seed(task).values()]
        if each:
            means.append(
                [task, str(len(each)), interval(each, 3), f"{PUBLISHED[task]}", f"{REACH[task]}"]
            )
    summary = table(["task", "seeds", "C2ST", "published", "reach"], means)
    head = ["task", "seed", "observations", "C2ST", "range", "steps", "seconds"]
    return (
        f"{header(__doc__)}\nMeans over the observations, and over seeds with a 95 % interval of"
        f" Student's t:\n\n{summary}\n{table(head, lines)}"
    )


def draw(path: Path) -> None:
    """C2ST of each observation, a mark for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for ax, task in zip(panels, TASKS, strict=True):
        for row in ROWS.rows(task=task):
            ax.plot(int(row["observation"]), float(row["c2st"]), ".", color="#0f9d8a")
        ax.axhline(0.5, color="0.5", lw=1, label="best")
        ax.axhline(PUBLISHED[task], color="#d6612c", ls="--", lw=1, label="published")
        found = [c2st for of in by_seed(task).values() for c2st in of]
        if found:
            ax.axhline(statistics.mean(found), color="#0f9d8a", lw=1, label="mean")
        ax.set(xlabel="observation", ylabel="C2ST", title=task, xticks=range(1, 11))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right", fontsize=8)
    figure.savefig(path, dpi=120)


def write() -> None:
    """Tables and figure of what is kept."""
    (FOLDER / "study_inference.md").write_text(report())
    draw(FOLDER / "study_inference.png")


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=Path, help="a folder with the wheel of sbibm, unpacked")
    parser.add_argument("--quick", action="store_true", help="only to see that it trains")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--report", action="store_true", help="tables and figure alone")
    options = parser.parse_args()
    if options.report:
        write()
        return
    if options.quick:
        for task, (_, side, simulate) in TASKS.items():
            field = trained(task, 0, 20)
            y = simulate(torch.zeros(1, TASKS[task][0]), torch.Generator().manual_seed(0))
            print(task, posterior(field, y, side, 0, 100).std(0).tolist())
        return
    if options.files is None:
        parser.error("--files names a folder in which the wheel of sbibm was unpacked")
    for seed in range(options.seeds):
        for task in options.tasks:
            left = [k for k in range(1, 11) if not ROWS.rows(task=task, seed=seed, observation=k)]
            if not left:
                continue
            began = time.perf_counter()
            field = trained(task, seed, STEPS)
            seconds = time.perf_counter() - began
            for k in left:
                folder = options.files / "sbibm" / "tasks" / task / "files" / f"num_observation_{k}"
                y = numbers(folder / "observation.csv")
                reference = numbers(folder / "reference_posterior_samples.csv.bz2")
                x = posterior(field, y, TASKS[task][1], seed)
                row = (task, seed, k, c2st(reference, x), STEPS, f"{seconds:.1f}")
                print(*row, flush=True)
                ROWS.add(row)
                write()


if __name__ == "__main__":
    main()
