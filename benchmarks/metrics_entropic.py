"""Entropic W2 at ε = 1e-3 on 10,000 + 10,000 points, Chang's mixtures.

``tpf.metrics.entropic_wasserstein2`` with its defaults (marginal violation ≤ 1e-3 in L1, over all
pairs), one solve a process, whose peak memory includes the interpreter and torch; seconds include
making the samples. *gap* is the certificate: upper less lower bound. Then at 1,000 points the same
call against a dense float64 Newton solve of its own (all pairs held, nothing shared with the
library), run to a violation of 1e-6.

Run ``python benchmarks/metrics_entropic.py``.
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table
from _metrics import alone, chang

EPSILON = 1e-3


def solve(d: int, n: int, seed: int) -> tuple[float, float, float, int]:
    """Value, violation, gap and steps of one solve."""
    x, y = chang(d, n, 2 * seed), chang(d, n, 2 * seed + 1)
    found = tpf.metrics.entropic_wasserstein2(x, y, epsilon=EPSILON)
    return found.value, found.violation, found.gap, found.steps


def dense(x: Tensor, y: Tensor, epsilon: float, tolerance: float) -> tuple[float, float, int]:
    """Damped Newton on the dual in g with dense matrices, along a path of halved ε."""
    n, m = len(x), len(y)
    cost = (x[:, None] - y).square().sum(-1)
    g, eps, steps = torch.zeros(m, dtype=x.dtype), float(cost.max()), 0

    def dual(g: Tensor, eps: float) -> tuple[float, Tensor]:
        z = (g - cost) / eps - math.log(m)
        f = -eps * torch.logsumexp(z, 1)
        plan = torch.softmax(z, 1) / n
        return float(f.mean() + g.mean()), plan

    while True:
        value, plan = dual(g, eps)
        damping = 1e-3
        for _ in range(200):
            columns = plan.sum(0)
            left = 1 / m - columns
            violation = float(left.abs().sum())
            if violation < (tolerance if eps == epsilon else 1e-4):
                break
            steps += 1
            sinkhorn = g + eps * (1 / (m * columns.clamp(min=1e-300))).log().clamp(-30, 30)
            value, plan = dual(sinkhorn, eps)
            g, columns = sinkhorn, plan.sum(0)
            left = 1 / m - columns
            matrix = torch.diag(columns + damping / m + 0.1 * left.abs()) - n * plan.mT @ plan
            move = eps * torch.linalg.solve(matrix, left)
            trial, trial_plan = dual(g + move, eps)
            if trial >= value:
                g, value, plan, damping = g + move, trial, trial_plan, max(damping / 4, 1e-12)
            else:
                damping *= 10
        if eps == epsilon:
            return value, violation, steps
        eps = max(epsilon, eps / 2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(header(__doc__, "numpy", "scipy"))
    rows = []
    asked = {2: "≤ 25 s, 3 GiB", 10: "≤ 60 s, 3 GiB"}
    for d in (2, 10):
        runs = [
            alone(solve, d, options.points, seed, threads=options.threads)
            for seed in range(options.seeds)
        ]
        for seed, ((value, violation, gap, steps), seconds, peak) in enumerate(runs):
            rows.append((d, seed, asked[d], seconds, peak, violation, value, gap, steps))
        middle = statistics.median(seconds for _, seconds, _ in runs)
        rows.append((d, "median", asked[d], middle, max(r[2] for r in runs), "", "", "", ""))
    head = ("d", "seed", "asked", "seconds", "peak GiB", "violation", "value", "gap", "steps")
    print(table(head, rows))
    print("At 1,000 + 1,000 points, against the dense solve (asked: relative 1e-4):\n")
    rows = []
    for d in (2, 10):
        x, y = chang(d, 1_000, 0), chang(d, 1_000, 1)
        found = tpf.metrics.entropic_wasserstein2(x, y, epsilon=EPSILON)
        value, violation, _ = dense(x, y, EPSILON, 1e-6)
        error = abs(found.value - value) / value
        rows.append((d, f"{found.value:.8f}", f"{value:.8f}", error, found.violation, violation))
    print(table(("d", "value", "dense", "relative", "violation", "dense violation"), rows))


if __name__ == "__main__":
    main()
