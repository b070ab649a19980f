"""Schrödinger bridges between Gaussians, by iterated Markovian fitting, in d = 5, 20 and 50.

From N(-.1, Id) to N(.1, Id), a = 1, 20,000 draws of either end. `bridges.iterate` from independent
pairs, two MLPs of 2 x 128 (forward and backward drift), 7 rounds of 2,500 steps of 256 (17,500 in
all), Adam at 1e-3, averages of .995; sampled forward from 10,000 new draws of ρ0 by 20 steps of
Euler-Maruyama with ε = a/2. As in De Bortoli et al. (2021) and Tong et al. (2024) the error is the
divergence of the exact Gaussian law of x_t from the Gaussian of the draws, the mean over 21 times,
times 1,000; *floor* is that of as many draws of the exact laws, *exact field* that of the exact
drift by the same steps. *cost* is E|x1 - x0|² of the last pairs, and of the exact plan.

Published (Tong et al.): SF2M 4, 28, -; DSBM-IPF 5, -, 221 (d = 5, 20, 50).

Run ``python benchmarks/bridge_gaussian.py`` (``--quick`` for d = 5 and one short run).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table
from transportflows.bridges import BridgeDrift, ExactBridge, gaussian_bridge, iterate

OUT = Path(__file__).parent / "results" / "bridge_gaussian.md"
REACH = {5: 3, 20: 25, 50: 100}
HEAD = ("d", "iterated: mean, range", "exact field", "floor", "reach", "cost", "exact cost")


def divergence(x: Tensor, mean: Tensor, cov: Tensor) -> float:
    """KL of the Gaussian of draws from N(mean, cov), times 1,000."""
    own, spread = x.double().mean(0), torch.cov(x.double().mT)
    inverse, apart = torch.linalg.inv(cov), mean - own
    size = torch.linalg.slogdet(cov)[1] - torch.linalg.slogdet(spread)[1]
    return 500 * float((inverse @ spread).trace() + apart @ inverse @ apart - len(mean) + size)


def laws(pairs: tpf.bridges.GaussianPairs) -> list[tuple[Tensor, Tensor]]:
    """Means and covariances at the 21 times."""
    d, (a, b, c) = pairs.d, (block[0] for block in pairs.blocks())
    eye, found = torch.eye(d, dtype=torch.float64), []
    for t in torch.linspace(0, 1, 21, dtype=torch.float64):
        cov = (1 - t) ** 2 * a + t**2 * b + t * (1 - t) * (c + c.mT + pairs.variance * eye)
        found.append(((1 - t) * pairs.means[0, :d] + t * pairs.means[0, d:], cov))
    return found


def along(field: tpf.Field, pairs: tpf.bridges.GaussianPairs, seed: int) -> float:
    """The mean divergence of a field over the times."""
    draws = torch.Generator().manual_seed(5_000 + seed)
    start = pairs.base.sample(10_000, generator=draws, dtype=torch.float32)
    path = tpf.sample(
        field, start=start, epsilon=0.5, steps=20, scheme="euler_maruyama", save_at=21,
        generator=draws,
    ).trajectory  # fmt: skip
    return statistics.mean(divergence(x, *law) for x, law in zip(path, laws(pairs), strict=True))


def floor(pairs: tpf.bridges.GaussianPairs, seed: int) -> float:
    """That of as many draws of the exact laws."""
    draws = torch.Generator().manual_seed(6_000 + seed)
    found = []
    for mean, cov in laws(pairs):
        z = torch.randn(10_000, pairs.d, generator=draws, dtype=torch.float64)
        found.append(divergence(mean + z @ torch.linalg.cholesky(cov).mT, mean, cov))
    return statistics.mean(found)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, top = [], header(__doc__)
    seeds, rounds, steps = (1, 3, 300) if options.quick else (options.seeds, 7, 2_500)
    for d in [5] if options.quick else REACH:
        base, data = tpf.Gaussian((d,), -0.1), tpf.Gaussian((d,), 0.1)
        pairs = gaussian_bridge(base, data, 1.0)
        exact, found = ExactBridge(pairs), []
        cross = pairs.blocks()[2][0]
        cost = float(2 * d - 2 * cross.trace()) + d * 0.2**2
        for seed in range(seeds):
            draws = torch.Generator().manual_seed(seed)
            x0, x1 = base.sample(20_000, generator=draws), data.sample(20_000, generator=draws)
            nets = [tpf.networks.MLP(d, width=128, depth=2, generator=draws) for _ in range(2)]
            process = tpf.Process(tpf.Linear(tpf.Brownian(1.0)), base=base, coupling=tpf.Paired())
            field = BridgeDrift(forward=nets[0], backward=nets[1], process=process)
            done = iterate(
                field, x0, x1, rounds=rounds, steps=20, generator=draws,
                fit={"steps": steps, "batch_size": 256, "progress": False},
                trainer=lambda field: tpf.Trainer(field, lr=1e-3, ema=0.995),
            )  # fmt: skip
            found.append((along(field, pairs, seed), along(exact, pairs, seed),
                          floor(pairs, seed), done[-1].cost))  # fmt: skip
            print(d, seed, found[-1], flush=True)
        own, by_exact, least, costs = zip(*found, strict=True)
        rows.append(
            [
                str(d), f"{statistics.mean(own):.2f}, {min(own):.2f} to {max(own):.2f}",
                f"{statistics.mean(by_exact):.2f}", f"{statistics.mean(least):.2f}",
                str(REACH[d]), f"{statistics.mean(costs):.2f}", f"{cost:.2f}",
            ]
        )  # fmt: skip
        if not options.quick:
            OUT.write_text(top + "\n" + table(HEAD, rows) + "\n")
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
