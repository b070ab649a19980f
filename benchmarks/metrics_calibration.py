"""Calibration of intervals, and log-densities against an oracle.

400 seeds each, d = 2, 10, 64. *MMD²*: ``mmd2(...).interval(0.9)`` for N(0, Id) and N(e_1, Id) with
a Gaussian kernel of bandwidth √d, against its closed form. *Hutchinson*: Student's 90 % interval of
a log-density from 32 probes, at one point of a Gaussian with eigenvalues 0.3 to 1.5 in a turned
basis, against the exact divergence on the same grid (RK4, 16 steps). Between 340 and 378 of 400 is
asked for. *log-density*: the largest error of the exact trace against the oracle, at 200 points of
a mixture, dopri5 with tolerance 1e-8; 1e-4 is asked for.

Run ``python benchmarks/metrics_calibration.py``.
"""

from __future__ import annotations

import argparse
import math

import torch
from scipy import stats

import transportflows as tpf
from _common import header, table
from _metrics import chang


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    """Standard normal rows."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mmd_coverage(d: int, n: int) -> int:
    """How many of 400 intervals hold the closed form."""
    h = math.sqrt(d)
    scale = (h**2 / (h**2 + 2)) ** (d / 2)
    truth = 2 * scale * (1 - math.exp(-1 / (2 * (h**2 + 2))))
    inside = 0
    for k in range(400):
        x, y = normal(n, d, 2 * k), normal(n, d, 2 * k + 1)
        y[:, 0] += 1
        low, high = tpf.metrics.mmd2(x, y, kernel=tpf.metrics.GaussianKernel(h)).interval(0.9)
        inside += low <= truth <= high
    return inside


def hutchinson_coverage(d: int, law: str) -> int:
    """How many of 400 intervals hold the log-density by the exact divergence."""
    turn = torch.linalg.qr(normal(d, d, 0)).Q
    spread = torch.diag(torch.linspace(0.3, 1.5, d, dtype=torch.float64))
    data = tpf.Gaussian((d,), scale_tril=torch.linalg.cholesky(turn @ spread @ turn.mT))
    exact = tpf.oracle(tpf.Process(tpf.Linear(), tpf.Gaussian((d,))), data)
    x = data.sample(1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = tpf.log_likelihood(exact, x, scheme="rk4", steps=16).log_prob
    found = tpf.log_likelihood(
        exact, x.expand(400, d), divergence="hutchinson", probes=32, probe_law=law, scheme="rk4",
        steps=16, generator=torch.Generator().manual_seed(2), chunk=4_096,
    )  # fmt: skip
    half = float(stats.t.ppf(0.95, 31)) * found.standard_error
    return int(((found.log_prob - truth).abs() <= half + 1e-12).sum())


def density_error(d: int) -> float:
    """Largest error of the log-density by the exact trace."""
    means = torch.eye(max(4, d), dtype=torch.float64)[:4, :d]
    data = tpf.distributions.GaussianMixture(2 * means, 0.7)
    exact = tpf.oracle(tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((d,))), data)
    x = chang(d, 200, 5)
    found = tpf.log_likelihood(exact, x, rtol=1e-8, atol=1e-8)
    return float((found.log_prob - data.log_prob(x)).abs().max())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(header(__doc__, "scipy"))
    rows: list[tuple[object, ...]] = []
    for d in (2, 10, 64):
        rows += [(f"MMD², n = {n}", d, mmd_coverage(d, n), "340 to 378") for n in (150, 500)]
        for law in ("rademacher", "gaussian"):
            rows.append((f"Hutchinson, {law}", d, hutchinson_coverage(d, law), "340 to 378"))
    rows += [("log-density, largest error", d, density_error(d), "≤ 1e-4") for d in (2, 10, 64)]
    print(table(("what", "d", "measured", "asked"), rows))


if __name__ == "__main__":
    main()
