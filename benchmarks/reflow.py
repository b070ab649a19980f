"""Reflow from two moons to eight Gaussians: one Euler step beside a hundred of the first flow.

The planar recipe: x0 of two moons (noise 0.2, three times their size, from -1), x1 of eight
Gaussians on a circle of radius 5 (variance 0.1), independent; a network of 3 x 64 SELU units of
(x, t), AdamW with a rate of 1e-3, 20,000 steps of 512; here with the rate falling as a cosine and
with averages of the weights (0.999), for the first flow and each reflow alike. Each reflow is
trained on pairs that the flow before makes by 50 Heun steps, from starts that no training saw, with
the weights of that flow to begin with, at times u³ with a uniform u: one Euler step looks at t = 0
alone, and half of these times lie before 1/8. k = 0 is the first flow itself.

W2 is between samples of 5,000 from fresh starts and as many fresh draws of the eight Gaussians; the
floor is W2 between two such draws. *Excess* is √(W2² − floor²). Energy and straightness are E∫|b|²
and E∫|b − (x1 − x0)|² over 2,000 paths.

Run ``python benchmarks/reflow.py``; with ``--first`` and ``--folder`` some seeds at a time, which
are then kept there, and put together.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

import transportflows as tpf
from _common import header, table
from transportflows.bridges import reflow

POINTS = 5_000


class Net(nn.Module):
    """3 x 64 SELU units of (x, t)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(3, 64), nn.SELU(), nn.Linear(64, 64), nn.SELU(),
            nn.Linear(64, 64), nn.SELU(), nn.Linear(64, 2),
        )  # fmt: skip

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.inner(torch.cat([x, t.view(-1, 1)], 1))


class Early(tpf.times.TimeSampler):
    """Times u³, u uniform: half of them before 1/8."""

    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        return torch.rand(n, generator=generator, device=device, dtype=dtype) ** 3


class Moons:
    """The law of x0 of the recipe."""

    shape = (2,)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        z = torch.rand(n, 2, generator=generator)
        upper, angle = z[:, 0] < 0.5, math.pi * z[:, 1]
        x = torch.where(upper, angle.cos(), 1 - angle.cos())
        y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
        moons = torch.stack([x, y], 1) + 0.2 * torch.randn(n, 2, generator=generator)
        return 3 * moons - 1


def eight(n: int, generator: torch.Generator) -> Tensor:
    """Draws of the eight Gaussians."""
    angle = torch.randint(8, (n,), generator=generator) * (math.pi / 4)
    centres = 5 * torch.stack([angle.cos(), angle.sin()], 1)
    return centres + math.sqrt(0.1) * torch.randn(n, 2, generator=generator)


def distance(field: tpf.fields.Field, steps: int, x1: Tensor, x0: Tensor) -> float:
    """W2 of samples by Euler steps."""
    x = tpf.sample(field, start=x0, scheme="euler", steps=steps).x
    return tpf.metrics.wasserstein2(x, x1)


def run(seed: int, steps: int, pairs: int, times: int) -> dict[str, list[float]]:
    """One seed: distances of the first flow and of each reflow, and their paths."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    process = tpf.Process(tpf.Linear(), base=Moons(), shape=(2,))
    fit = {
        "steps": steps, "batch_size": 512, "ema": 0.999, "scheduler": "cosine", "progress": False,
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, fused=True),
    }  # fmt: skip
    trainer = tpf.Trainer(
        tpf.Velocity(Net(), process), ema=0.999, scheduler="cosine", optimizer=fit["optimizer"]
    )
    data = eight(50_000, generator)
    trainer.fit(data, steps=steps, batch_size=512, progress=False, generator=generator)
    fit["loss"] = tpf.VelocityLoss(times=Early())
    found = reflow(
        trainer.averaged_field(), pairs, fit=fit, times=times, steps=50, generator=generator
    )
    x0, x1 = Moons().sample(POINTS, generator=generator), eight(POINTS, generator)
    other = eight(POINTS, generator)
    floor = tpf.metrics.wasserstein2(other, x1)
    first = distance(found.fields[0], 100, x1, x0)
    rows = {"floor": [floor], "first, 100": [first]}
    rows["one step"] = [distance(field, 1, x1, x0) for field in found.fields]
    rows["100 steps"] = [distance(field, 100, x1, x0) for field in found.fields]
    rows["energy"] = [g.energy for g in found.geometry]
    rows["straightness"] = [g.straightness for g in found.geometry]
    return rows


def excess(value: float, floor: float) -> float:
    """What is above the floor, in squares."""
    return math.sqrt(max(value**2 - floor**2, 0.0))


def main() -> None:
    """Run some seeds and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    all_of = {}
    if options.folder is not None:
        for file in options.folder.glob("*.json"):
            all_of[int(file.stem)] = json.loads(file.read_text())
    for seed in range(options.first, options.first + options.seeds):
        if seed not in all_of:
            all_of[seed] = run(seed, options.steps, options.pairs, options.times)
            print(seed, all_of[seed], flush=True)
        if options.folder is not None:
            (options.folder / f"{seed}.json").write_text(json.dumps(all_of[seed]))
    head, rows, ratios = header(__doc__, "POT"), [], []
    for seed, found in sorted(all_of.items()):
        floor, first = found["floor"][0], found["first, 100"][0]
        for k, one in enumerate(found["one step"]):
            ratios.append((k, one / first))
            rows.append([
                str(seed), str(k), f"{one:.3f}", f"{one / first:.3f}",
                f"{excess(one, floor):.3f}", f"{found['100 steps'][k]:.3f}",
                f"{excess(found['100 steps'][k], floor):.3f}", f"{floor:.3f}",
                f"{found['energy'][k]:.2f}", f"{found['straightness'][k]:.3f}",
            ])  # fmt: skip
    names = [
        "seed", "k", "W2, one step", "over 100 of the first", "excess", "W2, 100 steps", "excess",
        "floor", "energy", "straightness",
    ]  # fmt: skip
    text = head + "\n" + table(names, rows) + "\n\n"
    for k in range(options.times + 1):
        own = [ratio for j, ratio in ratios if j == k]
        text += (
            f"k = {k}: one Euler step over 100 of the first flow, mean {sum(own) / len(own):.3f},"
            f" from {min(own):.3f} to {max(own):.3f} over {len(own)} seeds.\n"
        )
    print(text)
    if options.out is not None:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
