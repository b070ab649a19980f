"""Snapshots in time, one left out: flows through the others beside transport of its neighbours.

*Differentiation*: the simulated differentiation of Krumsiek et al. (2011) that scanpy's wheel holds
(`krumsiek11.txt`: 11 genes, 4 realisations, one for each fate, of 160 times). Eight snapshots are
windows of 8 of its times, every 16 from 0, of 32 cells each. *Branching*: 2-D, dx = dt + .1 dW,
dy = (6 x - 6) y - 4 y³ dt + .25 dW from a small cloud, six snapshots of 300 at times 0, 0.5, 0.9,
1.3, 1.7 and 2.2, where the population splits in two between the second and the fourth.

Each inner snapshot is left out in turn. A velocity (MLP, 3 x 64 units, 1,500 steps of 256, Adam
with a falling rate of 3e-3) is trained on 20,000 trajectories through the others, joined by exact
plans, and carries the snapshot before to the time left out: *spline*, of `Multimarginal(times)`.
*Transport* is McCann's interpolation of the exact plan between both neighbours, 1,000 points each.
W1 to what was left out is a mean over the snapshots left out; the floor of the branching process is
W1 between the snapshot and 1,000 fresh draws of its time. Seeds change weights, batches and, for
the branching process, data.

Run ``python benchmarks/snapshots.py --wheel scanpy-1.11.5-py3-none-any.whl`` (pip download scanpy
--no-deps), or without ``--wheel`` for the branching process alone.
"""

from __future__ import annotations

import argparse
import io
import statistics
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table
from transportflows.bridges import Multimarginal, Trajectories, leave_one_out

POINTS = 1_000
Snapshots = tuple[list[Tensor], list[float]]


def differentiation(wheel: Path) -> Snapshots:
    """Windows of the simulated differentiation."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("scanpy/datasets/krumsiek11.txt").decode()
    rows = torch.from_numpy(np.loadtxt(io.StringIO(text))).float()
    starts = [16 * k for k in range(8)]
    inside = [rows[(rows[:, 0] >= s) & (rows[:, 0] < s + 8), 1:] for s in starts]
    return inside, [s + 3.5 for s in starts]


def branching(counts: list[int], generator: torch.Generator) -> Snapshots:
    """Snapshots of a process that splits in two, of different members each."""
    times, h = [0.0, 0.5, 0.9, 1.3, 1.7, 2.2], 0.01
    found = []
    for n, time in zip(counts, times, strict=True):
        x = 0.1 * torch.randn(n, 2, generator=generator)
        for _ in range(round(time / h)):
            push = (6 * x[:, 0] - 6).clamp(max=6) * x[:, 1] - 4 * x[:, 1] ** 3
            noise = torch.randn(n, 2, generator=generator) * torch.tensor([0.1, 0.25]) * h**0.5
            x = x + h * torch.stack([torch.ones(n), push], 1) + noise
        found.append(x)
    return found, times


def trained(seed: int, steps: int):
    """What makes and trains a field."""

    def train(process: Multimarginal, law: Trajectories) -> tpf.fields.Field:
        generator = torch.Generator().manual_seed(seed)
        d = law.shape[-1]
        transform = tpf.Standardize.fit(torch.cat(law.snapshots), shared="all")
        net = tpf.networks.MLP(d, 64, 3, frequencies=4, generator=generator)
        field = tpf.Velocity(net, process, transform=transform)
        trainer = tpf.Trainer(field, lr=3e-3, scheduler="cosine")
        rows = law.sample(20_000, generator=generator)
        trainer.fit(rows, steps=steps, batch_size=256, progress=False, generator=generator)
        return field

    return train


def run(snapshots: Snapshots, seed: int, steps: int) -> dict[str, list[float]]:
    """W1 of each way, by the snapshot left out."""
    generator = torch.Generator().manual_seed(seed)
    left = leave_one_out(*snapshots, trained(seed, steps), n=POINTS, steps=40, generator=generator)
    return {
        "spline": [tpf.metrics.wasserstein1(one.found, one.truth) for one in left],
        "transport": [tpf.metrics.wasserstein1(one.transported, one.truth) for one in left],
    }


def main() -> None:
    """Run some seeds and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text, names = header(__doc__, "POT"), ["spline", "transport"]
    for task in ("differentiation", "branching") if options.wheel else ("branching",):
        rows, all_of = [], {name: [] for name in names}
        for seed in range(options.seeds):
            generator = torch.Generator().manual_seed(1_000 + seed)
            floor: list[float] = []
            if task == "branching":
                snapshots = branching([300] * 6, generator)
                fresh = branching([POINTS] * 6, generator)[0]
                floor = [
                    tpf.metrics.wasserstein1(x, y)
                    for x, y in zip(snapshots[0][1:-1], fresh[1:-1], strict=True)
                ]
            else:
                snapshots = differentiation(options.wheel)
            found = run(snapshots, seed, options.steps)
            for name in names:
                all_of[name].append(statistics.mean(found[name]))
            means = [f"{all_of[name][-1]:.4f}" for name in names]
            means.append(f"{statistics.mean(floor):.4f}" if floor else "")
            each = "; ".join(
                " ".join(f"{found[name][k]:.3f}" for name in names)
                for k in range(len(found["spline"]))
            )
            rows.append([str(seed), *means, each])
            print(task, *rows[-1], flush=True)
        head = ["seed", *names, "floor", "of each snapshot left out: spline, transport"]
        text += f"\n## {task.capitalize()}\n\n{table(head, rows)}\n"
        mean = {name: statistics.mean(values) for name, values in all_of.items()}
        text += (
            f"Means over {options.seeds} seeds: spline {mean['spline']:.4f}, transport"
            f" {mean['transport']:.4f}; the ratio is {mean['spline'] / mean['transport']:.3f}.\n"
        )
    print(text)
    if options.out is not None:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
