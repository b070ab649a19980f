"""The path that transports best between Gaussians: its energy over W2², the straight path's beside.

Base N(0, Id), data N(0, C) in two dimensions, C of deviations 3 and 1/3 along axes turned by 30
degrees, independent. The squared W2 between them, (3 - 1)² + (1/3 - 1)², is the least energy of any
flow. *Straight* is the exact flow of `Linear()`. *Learned* is `LearnedPath(2)` (2 x 64 units) with
a velocity (MLP, 3 x 64), trained together by `path_trainer` for 3,000 steps of 512 (each second one
moves the path; rates 2e-3 and 1e-3 falling as a cosine; averages .995), then the velocity alone
for 1,500 more. E is `path_geometry(field, 40_000).energy`.

A learned flow ends near C and not at it, so E is given over W2² to the covariance that it reaches
too (40,000 draws), and W2 between that and C beside.

Run ``python benchmarks/learned_path.py``.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import torch

import transportflows as tpf
from _common import header, table
from transportflows.bridges import LearnedPath, path_trainer

SCALES, PATHS = (3.0, 1 / 3), 40_000


def law() -> tpf.Gaussian:
    """The data."""
    angle = math.pi / 6
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = turn @ torch.diag(torch.tensor(SCALES) ** 2) @ turn.mT
    return tpf.Gaussian((2,), scale_tril=torch.linalg.cholesky(covariance))


def run(seed: int, steps: int) -> list[float]:
    """Energy over both squared distances, its error, and W2 between the ends."""
    generator = torch.Generator().manual_seed(seed)
    base, data = tpf.Gaussian((2,)), law()
    path = LearnedPath(2, 64, 2, generator=generator)
    net = tpf.networks.MLP(2, 64, 3, frequencies=3, generator=generator)
    field = tpf.Velocity(net, tpf.Process(path, base=base))
    trainer = path_trainer(field, ema=0.995, scheduler="cosine")
    fit = {"batch_size": 512, "progress": False, "generator": generator}
    trainer.fit(data, steps=steps, **fit)
    follower = tpf.Trainer(trainer.averaged_field(), ema=0.995, scheduler="cosine")
    follower.fit(data, steps=steps // 2, **fit)
    found = follower.averaged_field()
    paths = tpf.metrics.path_geometry(found, PATHS, steps=30, generator=generator)
    x = tpf.sample(found, PATHS, steps=30, generator=generator).x
    reached = x.mean(0), torch.cov(x.mT)
    least = sum((scale - 1) ** 2 for scale in SCALES)
    ends = tpf.metrics.bures_wasserstein2(*reached, base.mean, base.covariance()) ** 2
    off = tpf.metrics.bures_wasserstein2(*reached, data.mean, data.covariance())
    return [paths.energy / least, paths.standard_error / least, paths.energy / ends, off]


def main() -> None:
    """Run some seeds and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = header(__doc__)
    least = sum((scale - 1) ** 2 for scale in SCALES)
    straight = tpf.oracle(tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))), law())
    generator = torch.Generator().manual_seed(0)
    paths = tpf.metrics.path_geometry(straight, PATHS, steps=60, generator=generator)
    ratio, error = paths.energy / least, paths.standard_error / least
    rows = [["straight, exact", f"{ratio:.4f}", f"{error:.4f}", f"{ratio:.4f}", "0"]]
    ratios = []
    for seed in range(options.seeds):
        found = run(seed, options.steps)
        ratios.append(found)
        rows.append([f"learned, seed {seed}", *(f"{value:.4f}" for value in found)])
        print(*rows[-1], flush=True)
    names = ["path", "E / W2²", "standard error", "E / W2² to what it reaches", "W2 of that to C"]
    first, own = (statistics.mean(found[k] for found in ratios) for k in (0, 2))
    text += (
        f"\n{table(names, rows)}\nMeans over {options.seeds} seeds: {first:.4f} and {own:.4f}.\n"
    )
    print(text)
    if options.out is not None:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
