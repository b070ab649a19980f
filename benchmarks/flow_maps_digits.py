"""Digits in one call and in four, beside flow matching in fifty: energy distance to held-out ones.

8 x 8: 1,438 for training and 359 held out, an MLP of 4 x 256. 28 x 28: 4,000 and 1,000, by class,
the U-Net of benchmarks/digits.py. Each method for the same processor time (of all threads): *flow
matching*; *two phases*, flow matching for two fifths of it and then `SemigroupLoss(field)` from its
weights; *self*, `SemigroupLoss()` from the beginning; *particles*, the generator of the SD flow in
2,000 steps (8 x 8 alone), of one call. The V-statistic of as many draws as are held out, over five
sets of draws: mean and deviation. *train*: of training digits, the floor.

Run ``python benchmarks/flow_maps_digits.py --size 8 --seconds 180`` (``--size 28 --seconds 1200``;
``--quick``). What was measured is kept in results/flow_maps_digits.csv.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import _digits as digits
import transportflows as tpf
from _common import Kept, header, table
from transportflows import maps

FOLDER = Path(__file__).parent / "results"
ROWS = Kept(
    FOLDER / "flow_maps_digits.csv",
    ("size", "method", "calls", "seed", "seconds", "steps", "mean", "deviation"),
)
SETS = 5


def data(size: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Digits to train on and held-out ones, and their labels."""
    if size == 8:
        whole = tpf.datasets.digits(flatten=True)
        small, left = whole.split(generator=digits.seeded(0))
        return small.images, left.images, None, None
    train, held = digits.halves()
    parts = [digits.fold(part.floats()) for part in (train, held)]
    return parts[0], parts[1], train.cond["label"], held.cond["label"]


def network(size: int, two: bool) -> nn.Module:
    """Of one time, or of two."""
    vectors = {"stop": 9} if two else None
    if size == 8:
        net: nn.Module = tpf.networks.MLP(
            64, 256, 4, frequencies=2, vectors=vectors, generator=digits.seeded(1)
        )
    else:
        net = tpf.networks.UNet(
            digits.EVENT, width=digits.CHANNELS, multipliers=(1, 2), blocks=1, labels=10,
            vectors=vectors, generator=digits.seeded(1),
        )  # fmt: skip
    return maps.TwoTimes(net) if two else net


def fitted(
    field: tpf.Field, loss: Any, x: Tensor, label: Tensor | None, seconds: float, seed: int
) -> tuple[tpf.Field, int]:
    """Train for so long; the averages, and the steps."""
    cond = None if label is None else {"label": label}
    size, lr = (256, 1e-3) if label is None else (32, 3e-3)

    def run(field: tpf.Field, steps: int) -> tpf.Trainer:
        trainer = tpf.Trainer(field, loss, lr=lr, scheduler="cosine", ema=0.998, clip=1.0)
        trainer.fit(
            x, cond=cond, steps=steps, batch_size=size, progress=False,
            generator=digits.seeded(seed),
        )  # fmt: skip
        return trainer

    run(copy.deepcopy(field), 3)
    began = time.process_time()
    run(copy.deepcopy(field), 10)
    each = (time.process_time() - began) / 10
    trainer = run(field, max(1, round(seconds / each)))
    return trainer.averaged_field(), trainer.step


def measure(size: int, method: str, seed: int, seconds: float) -> list[list[object]]:
    """Rows of the file."""
    x, held, label, held_label = data(size)
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian(tuple(x.shape[1:])))
    cond = None if held_label is None else {"label": held_label}
    made: Any = None
    calls: tuple[int, ...] = (1, 4)
    began, steps = time.process_time(), 0
    if method == "train":
        calls = (0,)
    elif method == "flow matching":
        made, steps = fitted(
            tpf.Velocity(network(size, False), process), None, x, label, seconds, seed
        )
        calls = (4, 50)
    elif method == "two phases":
        field, first = fitted(
            tpf.Velocity(network(size, False), process), None, x, label, 0.4 * seconds, seed
        )
        student = maps.two_times.student_network(field.net)
        assert student is not None
        made, steps = fitted(
            maps.FlowMap(student, process), maps.SemigroupLoss(field), x, label, 0.6 * seconds, seed
        )
        steps += first
    elif method == "self":
        flow_map = maps.FlowMap(network(size, True), process)
        made, steps = fitted(flow_map, maps.SemigroupLoss(), x, label, seconds, seed)
    else:
        from particles_generator import AtZero

        near = float(tpf.metrics.nearest_distances(x, x, exclude_self=True)[0].median())
        made = tpf.particles.OneStepGenerator(AtZero(), 64)
        loss = tpf.particles.MovedTargetLoss(
            sigma=[near / 3, 2 * near / 3, 4 * near / 3], references=1_024, target=x
        )
        trainer = tpf.Trainer(made, loss, scheduler="cosine", ema=0.999)
        steps = 20 if seconds < 10 else 2_000
        trainer.fit(x, steps=steps, batch_size=256, progress=False, generator=digits.seeded(seed))
        made, calls = trainer.averaged_field(), (1,)
    took, rows = time.process_time() - began, []
    for count in calls:
        values = []
        for k in range(SETS):
            draws = digits.seeded(2_000 + k)
            if method == "train":
                end = x[torch.randperm(len(x), generator=draws)[: len(held)]]
            elif method == "particles":
                end = made.sample(len(held), generator=draws)
            else:
                scheme = "euler" if method == "flow matching" else None
                end = tpf.sample(
                    made, len(held), steps=count, scheme=scheme, cond=cond, generator=draws
                ).x
            values.append(tpf.metrics.energy_distance(end, held))
        spread = statistics.stdev(values)
        rows.append(
            [size, method, count, seed, f"{took:.0f}", steps, statistics.mean(values), spread]
        )
    return rows


def report() -> str:
    """The tables of what is kept."""
    kept, text = ROWS.rows(), [header(__doc__)]
    for size in sorted({row["size"] for row in kept}, key=int):
        lines = [
            [
                row["method"], row["calls"], row["seed"], row["seconds"], f"{int(row['steps']):,}",
                f"{float(row['mean']):.4f} ± {float(row['deviation']):.4f}",
            ]
            for row in kept if row["size"] == size
        ]  # fmt: skip
        head = ["method", "calls", "seed", "seconds", "steps", "energy distance"]
        text.append(f"## {size} x {size}\n\n{table(head, lines)}\n")
    return "\n".join(text)


def main() -> None:
    """Measure what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--size", type=int, choices=[8, 28], default=8)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    methods = ["train", "flow matching", "two phases", "self"]
    methods += ["particles"] if options.size == 8 else []
    for seed in range(1 if options.quick else options.seeds):
        for method in methods:
            if not options.quick and ROWS.rows(size=options.size, method=method, seed=seed):
                continue
            seconds = 1.0 if options.quick else options.seconds
            rows = measure(options.size, method, seed, seconds)
            for row in rows:
                print(*row, flush=True)
            if options.quick:
                continue
            ROWS.add(*rows)
            (FOLDER / "flow_maps_digits.md").write_text(report())


if __name__ == "__main__":
    main()
