"""Light bridges against exact ones whose end potential is a mixture, by dimension and variance.

As in the entropic benchmark of Gushchin et al. (2023): ρ0 = N(0, Id), and the law of x1 given x0 is
the mixture of a known potential of K = 5 components, with centres on a sphere of radius 5 and
diagonal S, entries uniform on (.5, 1.5) over max(a, 1). The Brownian motion has the variance a
(their ε). Fitted: a `LightPotential` of 30 components by `LightLoss`, 4,000 steps of 512 of 50,000
pairs of either end in random order, Adam at 1e-2 with a cosine; the same in all cells.

The error is the conditional unexplained variance, the mean over 1,000 x0 (200 above d = 16) of
BW²(found, exact) of the laws of x1 given x0 (by their means and covariances, which both have in
closed form) over the total variance of x1, in per cent; mean and range over the seeds.
*independent* is that of the product of the ends, and *seconds* the median time of a fit.

*Networks* (``--networks``): two MLPs of 3 x 128, forward and backward drift, by `bridges.iterate`:
5 rounds of 7,500 steps of 512, first on 20,000 pairs drawn from the entropic plan of as many of
either end (regularisation 2a), then on pairs of all 50,000, made in each round in 50 steps; Adam at
1e-3, averages of .995; measured by 2,000 draws (200 steps) at each of 100 x0, whose own sampling
error is in the figure.

Run ``python benchmarks/bridge_potential.py`` (``--quick`` for d = 2 and one seed).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table
from transportflows.bridges import BridgeDrift, LightPotential, iterate

OUT = Path(__file__).parent / "results" / "bridge_potential.md"
ROWS, COMPONENTS = 50_000, 30
HEAD = ("d", "a", "error, %", "range", "independent", "reach", "seconds")


def teacher(d: int, a: float, seed: int) -> LightPotential:
    """The exact potential of a cell."""
    draws = torch.Generator().manual_seed(seed)
    net = LightPotential((d,), a, 5, generator=draws)
    with torch.no_grad():
        centres = torch.randn(5, d, generator=draws)
        net.centres.copy_(5 * centres / centres.norm(dim=1, keepdim=True))
        net.log_spreads.copy_(((0.5 + torch.rand(5, d, generator=draws)) / max(a, 1.0)).log())
    return net


def fitted(d: int, a: float, x0: Tensor, x1: Tensor, seed: int, steps: int) -> LightPotential:
    """The light bridge of the draws."""
    draws = torch.Generator().manual_seed(seed)
    net = LightPotential((d,), a, COMPONENTS, data=x1, generator=draws)
    base = tpf.Gaussian((d,))
    process = tpf.Process(tpf.Linear(tpf.Brownian(a)), base=base, coupling=tpf.Paired())
    apart = x1[torch.randperm(len(x1), generator=draws)]
    field = BridgeDrift(forward=net, process=process)
    tpf.Trainer(field, lr=1e-2, scheduler="cosine").fit(
        (x0, apart), steps=steps, batch_size=512, progress=False, generator=draws
    )
    return net


def learned(d: int, a: float, x0: Tensor, x1: Tensor, seed: int, steps: int) -> BridgeDrift:
    """The bridge of networks."""
    draws = torch.Generator().manual_seed(seed)
    nets = [tpf.networks.MLP(d, width=128, depth=3, generator=draws) for _ in range(2)]
    base = tpf.Gaussian((d,))
    process = tpf.Process(tpf.Linear(tpf.Brownian(a)), base=base, coupling=tpf.Paired())
    field = BridgeDrift(forward=nets[0], backward=nets[1], process=process)
    few = slice(20_000), slice(20_000, 40_000)
    plan = tpf.couplings.TransportPlan(x0[few[0]], x1[few[1]], regularisation=2 * a)
    pairs = plan.sample(20_000, generator=draws)
    iterate(
        field, x0, x1, pairs=pairs, rounds=5, steps=50, generator=draws,
        fit={"steps": steps, "batch_size": 512, "progress": False},
        trainer=lambda field: tpf.Trainer(field, lr=1e-3, ema=0.995),
    )  # fmt: skip
    return field


@torch.no_grad()
def error_of_draws(
    exact: LightPotential, field: BridgeDrift, a: float, x0: Tensor, x1: Tensor
) -> float:
    """Of a field's draws at each x0, per cent."""
    total = x1.double().var(0).sum()
    found = []
    for k, row in enumerate(x0):
        draws = torch.Generator().manual_seed(k)
        end = tpf.sample(
            field, start=row.expand(2_000, -1), epsilon=a / 2, steps=200,
            scheme="euler_maruyama", generator=draws,
        ).x.double()  # fmt: skip
        own = end.mean(0)[None], torch.cov(end.mT)[None]
        found.append(float(distance(own, moments(exact, row[None]))[0]))
    return 100 * statistics.mean(found) / float(total)


def moments(net: LightPotential, x0: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x1 given each x0, float64."""
    weights, means, variances = (part.double() for part in net.given_start(x0))
    mean = torch.einsum("bk,bkd->bd", weights, means)
    apart = means - mean[:, None]
    cov = torch.einsum("bk,bki,bkj->bij", weights, apart, apart)
    return mean, cov + torch.diag_embed(weights @ variances)


def distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """BW² of Gaussians with these moments, ``(B,)``."""
    (m, a), (n, b) = first, second
    values, basis = torch.linalg.eigh(a)
    root = basis * values.clamp(min=0).sqrt()[:, None] @ basis.mT
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum(1)
    traces = (a + b).diagonal(dim1=1, dim2=2).sum(1)
    return (m - n).square().sum(1) + traces - 2 * cross


@torch.no_grad()
def error(exact: LightPotential, found: LightPotential, x0: Tensor, x1: Tensor) -> list[float]:
    """Of the found plan, and of the independent one, per cent."""
    total = x1.double().var(0).sum()
    sums, whole = [0.0, 0.0], (x1.double().mean(0), torch.cov(x1.double().mT))
    for rows in x0.split(50):
        truth = moments(exact, rows)
        alone = tuple(part.expand(len(rows), *part.shape) for part in whole)
        sums[0] += float(distance(moments(found, rows), truth).sum())
        sums[1] += float(distance(alone, truth).sum())
    return [100 * s / len(x0) / float(total) for s in sums]


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 16, 64, 128])
    parser.add_argument("--variances", type=float, nargs="+", default=[0.1, 1.0, 10.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--networks", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    top = header(__doc__)
    dimensions, seeds = ([2], 1) if options.quick else (options.dimensions, options.seeds)
    steps, rows = (1_000 if options.quick else 7_500 if options.networks else 4_000), []
    for d in dimensions:
        for a in options.variances:
            found, seconds = [], []
            for seed in range(seeds):
                draws = torch.Generator().manual_seed(1_000 + seed)
                exact = teacher(d, a, seed)
                x0 = torch.randn(ROWS, d, generator=draws)
                x1 = exact.end(x0, generator=draws)
                test = torch.randn(1_000 if d <= 16 else 200, d, generator=draws)
                begin = time.perf_counter()
                if options.networks:
                    field = learned(d, a, x0, x1, seed, steps)
                    seconds.append(time.perf_counter() - begin)
                    alone = error(exact, exact, test, x1)[1]
                    found.append([error_of_draws(exact, field, a, test[:100], x1), alone])
                    continue
                net = fitted(d, a, x0, x1, seed, steps)
                seconds.append(time.perf_counter() - begin)
                found.append(error(exact, net, test, x1))
            own = [one[0] for one in found]
            rows.append(
                [
                    str(d), f"{a:g}", f"{statistics.mean(own):.3f}",
                    f"{min(own):.3f} to {max(own):.3f}",
                    f"{statistics.mean(one[1] for one in found):.1f}",
                    "5" if options.networks else "1.5" if a < 1 else "1",
                    f"{statistics.median(seconds):.0f}",
                ]
            )  # fmt: skip
            print(" | ".join(rows[-1]), flush=True)
            if not options.quick:
                options.out.write_text(top + "\n" + table(HEAD, rows) + "\n")


if __name__ == "__main__":
    main()
