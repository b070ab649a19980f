"""Particle flows: time and memory.

*One step* of SD flow (two kernel sums) and of MMD flow, N onto N points in three dimensions, in a
process of its own: seconds, and peak memory above what the interpreter, torch and the samples
themselves take. *E.3*: 1,024 points of the Swiss roll onto the question mark, 500 steps, three runs
(the paper: 8.8 s on a laptop of 2019). *Precision*: the largest error of a kernel mean against
float64, over the scale of the data, at R/σ = 10 to 10,000 (4,096 points), in float32.

Run ``python benchmarks/particles_scale.py``.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

import transportflows as tpf
from _common import header, table
from _metrics import alone
from _particles import paper_schedule, question_mark, swiss_roll


def one_step(direction: str, n: int) -> tuple[float, float]:
    """Seconds of a step, and the GiB that it took above what was there before it."""
    own = torch.Generator().manual_seed(0)
    y, x = torch.randn(n, 3, generator=own), torch.randn(n, 3, generator=own) + 1
    kind = {"SD": tpf.particles.KernelDifference, "MMD": tpf.particles.MMDGradient}[direction]
    tpf.particle_flow(y[:256], x[:256], direction=kind(), sigma=0.3, steps=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    began = time.perf_counter()
    tpf.particle_flow(y, x, direction=kind(), sigma=0.3, steps=1, step=1.0, generator=own)
    seconds = time.perf_counter() - began
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - before


def interpolation() -> list[float]:
    """Seconds of E.3, three times."""
    own = torch.Generator().manual_seed(0)
    roll, mark = swiss_roll(1024, own), question_mark().sample(1024, generator=own)
    tpf.particle_flow(roll, mark, steps=5, **paper_schedule(4.0))
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        tpf.particle_flow(roll, mark, steps=500, generator=own, **paper_schedule(4.0))
        seconds.append(time.perf_counter() - began)
    return seconds


def precision(ratio: float) -> float:
    """Error of a kernel mean in float32, over the size of the data."""
    own = torch.Generator().manual_seed(0)
    x = torch.rand(4096, 3, generator=own) * 2 - 1
    sigma = 1.0 / ratio
    z = x[:1024] + sigma * torch.randn(1024, 3, generator=own)
    exact = tpf.particles.kernel_mean(z.double(), x.double(), sigma)
    return float((tpf.particles.kernel_mean(z, x, sigma).double() - exact).abs().max())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 100_000])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(header(__doc__))
    rows = []
    for direction in ("SD", "MMD"):
        for n in options.sizes:
            (seconds, gib), *_ = alone(one_step, direction, n, threads=options.threads)
            rows.append([direction, f"{n:,}", f"{seconds:.2f}", f"{gib:.3f}"])
    print(table(["flow", "N", "seconds a step", "GiB above the data"], rows))
    times, *_ = alone(interpolation, threads=options.threads)
    shown = ", ".join(f"{one:.2f}" for one in sorted(times))
    print(f"E.3, 500 steps, {options.threads} threads: {shown} s.\n")
    ratios = (10.0, 100.0, 1_000.0, 10_000.0)
    print(table(["R/σ", "error"], [[f"{r:g}", f"{precision(r):.1e}"] for r in ratios]))


if __name__ == "__main__":
    main()
