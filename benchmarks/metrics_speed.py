"""Metrics at 10,000 + 10,000 points in ten dimensions: time, memory, and peers.

Float64, Chang's mixture against itself shifted by 0.1. First our own, each in a process of its own
(peak memory includes the interpreter and torch, 0.3 GiB); 3 s on two cores is asked for, and no
N x N matrix, 0.75 GiB, held. Then peers on the same inputs at a size that they can hold: values,
seconds in turns (medians of the ratio over ours, in the same round). POT for exact and sliced
distances and Bures (its covariance divides by N, ours by N - 1; of 256 directions of its own),
geomloss for MMD, energy and Sinkhorn divergences, torchmetrics for the cubic MMD. geomloss's
"gaussian" loss is half of the MMD² (V-statistic) and its "energy" half of the energy distance; its
Sinkhorn cost is |x - y|²/2 with ε = blur², so half of ours at 2 blur².

Run ``python benchmarks/metrics_speed.py``.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, in_turns, table
from _metrics import alone, chang

metrics = tpf.metrics
OURS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mmd2, median bandwidth": lambda x, y: metrics.mmd2(x, y).value,
    "mmd2, five scales": lambda x, y: (
        metrics.mmd2(x, y, kernel=metrics.GaussianKernel.multiscale(3.0)).value
    ),
    "mmd2, rational quadratic": lambda x, y: (
        metrics.mmd2(x, y, kernel=metrics.RationalQuadraticKernel(3.0)).value
    ),
    "energy_distance": lambda x, y: metrics.energy_distance(x, y),
    "characteristic_distance": lambda x, y: metrics.characteristic_distance(x, y).value,
    "sliced_wasserstein2": lambda x, y: metrics.sliced_wasserstein2(x, y).value,
    "max_sliced_wasserstein2": lambda x, y: metrics.max_sliced_wasserstein2(x, y).value,
    "kernel_stein_discrepancy": lambda x, y: (
        metrics.kernel_stein_discrepancy(x, lambda z: -z).value
    ),
    "gaussian_wasserstein2": lambda x, y: metrics.gaussian_wasserstein2(x, y),
    "coverage": lambda x, y: metrics.coverage(x, y).coverage,
    "kl_nearest_neighbours": lambda x, y: metrics.kl_nearest_neighbours(x, y),
}


def inputs(n: int) -> tuple[Tensor, Tensor]:
    """Both samples."""
    return chang(10, n, 0), chang(10, n, 1) + 0.1


def run(name: str, n: int) -> float:
    """One of ours."""
    return float(OURS[name](*inputs(n)))


def peers(n: int) -> dict[str, tuple[Callable[[], float], dict[str, Callable[[], float]]]]:
    """Ours and theirs, on the same inputs."""
    import geomloss
    import ot
    from torchmetrics.image.kid import poly_mmd as cubic

    x, y = inputs(n)
    a, b = x.numpy(), y.numpy()
    thetas = torch.randn(10, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions = torch.nn.functional.normalize(thetas, dim=0)
    gaussian = geomloss.SamplesLoss("gaussian", blur=3.0, backend="tensorized")
    energy = geomloss.SamplesLoss("energy", backend="tensorized")
    sinkhorn = geomloss.SamplesLoss("sinkhorn", p=2, blur=1.0, scaling=0.9, backend="tensorized")

    return {
        "W2, exact": (
            lambda: metrics.wasserstein2(x, y) ** 2,
            {"POT emd2": lambda: float(ot.emd2([], [], ot.dist(a, b), numItermax=10**7))},
        ),
        "sliced W2, 256 directions": (
            lambda: metrics.sliced_wasserstein2(x, y).value,
            {
                "POT": lambda: float(
                    ot.sliced_wasserstein_distance(a, b, projections=directions.numpy())
                )
            },
        ),
        "Gaussian W2": (
            lambda: metrics.gaussian_wasserstein2(x, y),
            {"POT": lambda: float(ot.gaussian.empirical_bures_wasserstein_distance(a, b))},
        ),
        "MMD², V-statistic": (
            lambda: metrics.mmd2(x, y, kernel=metrics.GaussianKernel(3.0), unbiased=False).value,
            {"geomloss, doubled": lambda: 2 * float(gaussian(x, y))},
        ),
        "energy distance": (
            lambda: metrics.energy_distance(x, y),
            {"geomloss, doubled": lambda: 2 * float(energy(x, y))},
        ),
        "Sinkhorn divergence, ε = 2": (
            lambda: metrics.sinkhorn_divergence(x, y, epsilon=2.0).value,
            {"geomloss, doubled": lambda: 2 * float(sinkhorn(x, y))},
        ),
        "kernel distance, cubic": (
            lambda: metrics.kernel_distance(x, y).value,
            {
                "torchmetrics": lambda: float(cubic(x, y, degree=3, gamma=0.1, coef=1.0)),
            },
        ),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--peer-points", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patience", type=float, default=300.0, help="seconds to wait for quiet")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    print(header(__doc__, "POT", "geomloss", "torchmetrics"))
    rows: list[tuple[object, ...]] = []
    for name in OURS:
        _, seconds, peak = alone(run, name, options.points, threads=options.threads)
        rows.append((name, seconds, peak))
    print(table(("what", "seconds", "peak GiB"), rows))
    print(f"Against peers, {options.peer_points:,} + {options.peer_points:,} points:\n")
    rows = []
    for name, (ours, theirs) in peers(options.peer_points).items():
        blocks = {"ours": ours, **theirs}
        values = {key: block() for key, block in blocks.items()}
        found = in_turns(blocks, options.rounds, patience=options.patience, warm=False)
        for key in theirs:
            rows.append(
                (
                    name, key, f"{values['ours']:.8f}", f"{values[key]:.8f}", found.median("ours"),
                    found.spread(key, "ours"),
                )
            )  # fmt: skip
    head = ("what", "peer", "ours", "theirs", "seconds, ours", "theirs over ours")
    print(table(head, rows))


if __name__ == "__main__":
    main()
