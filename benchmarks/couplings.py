"""Couplings: what a step with pairs costs beside a plain one, and what a plan of whole data costs.

*Steps.* `Trainer.fit` of an MLP (2 numbers, 3 x 64, SELU), Gaussian to eight Gaussians, 10,000 rows
of float32, one thread of torch and one that draws ahead. In blocks that take turns: medians over
rounds of the ratio to the plain step of the same round, and their range; and the ratio of processor
times, which count both threads. Asked: with a fresh exact plan for each batch, drawn ahead, at most
1.1 times max(1, plan / plain step), both measured in the same round; with a pool whose pairs are
used again at most 2; with a plan of the whole data at most 1.05. torchcfm's loop of its README with
its exact plans stands beside its plain one.

*Plans.* A whole entropic plan between a Gaussian and eight Gaussians of radius 5, `entropic_plan`
to a marginal violation of 1e-3 and with it the 4 million partners that batches draw from
(`TransportPlan.report`), each in a process of its own, one thread: seconds, processor seconds, peak
memory. The regularisation is that of the cost |x0 - x1|².

Run ``python benchmarks/couplings.py [--quick] [--part steps|plans]``; prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

import transportflows as tpf
from _common import header, in_turns, table
from transportflows.couplings import Coupling, MinibatchOT, TransportPlan
from transportflows.plans import entropic_plan

ROWS, WIDTH, DEPTH = 10_000, 64, 3
PLAIN, PLAN = "plain (independent)", "the plan of a batch alone"
Block = Callable[[], None]
CASES = [(10_000, 2, 2.0), (10_000, 2, 0.1), (10_000, 10, 2.0), (10_000, 10, 0.1), (50_000, 2, 2.0)]
ASKED = {(10_000, 2): 5, (10_000, 10): 10, (50_000, 2): 90}
"""Seconds at regularisation 2; at 0.1 40."""


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    """Standard normal rows, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def eight(n: int, d: int, seed: int = 1) -> Tensor:
    """Eight Gaussians of deviation 0.3 on a circle of radius 5 in the first two numbers."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.randint(8, (n,), generator=generator) * (math.pi / 4)
    x = 0.3 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    x[:, 0] += 5 * angle.cos()
    x[:, 1] += 5 * angle.sin()
    return x


class Net(nn.Module):
    """The network of the published recipe: three hidden layers of 64 with SELU."""

    def __init__(self) -> None:
        super().__init__()
        sizes, layers = [3, *[WIDTH] * DEPTH], list[nn.Module]()
        for narrow, wide in itertools.pairwise(sizes):
            layers += [nn.Linear(narrow, wide), nn.SELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(WIDTH, 2))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Predict from ``t`` ``(B,)`` and ``x`` ``(B, 2)``."""
        return self.layers(torch.cat([x, t[:, None]], 1))


def network() -> Net:
    """The network of all, with the same weights."""
    torch.manual_seed(0)
    return Net()


def fits(x1: Tensor, coupling: Coupling | None, size: int, steps: int) -> Block:
    """Steps of ``Trainer.fit``: each block goes on with the same run."""
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)), coupling=coupling)
    if isinstance(process.coupling, TransportPlan):
        _ = process.coupling.report
    trainer = tpf.Trainer(tpf.Velocity(network(), process))
    return lambda: trainer.fit(x1, steps=steps, batch_size=size, progress=False) and None


def plans_alone(x1: Tensor, size: int, steps: int) -> Block:
    """Exact plans of batches, and nothing else."""
    coupling, generator = MinibatchOT(), torch.Generator().manual_seed(3)

    def block() -> None:
        for _ in range(steps):
            rows = torch.randint(len(x1), (size,), generator=generator)
            coupling.pair(torch.randn(size, 2, generator=generator), x1[rows])

    return block


def theirs(x1: Tensor, size: int, steps: int, optimal: bool) -> Block:
    """The loop of torchcfm's README."""
    from torchcfm import conditional_flow_matching as cfm

    kind = "ExactOptimalTransportConditionalFlowMatcher" if optimal else "ConditionalFlowMatcher"
    matcher, net = getattr(cfm, kind)(sigma=0.0), network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def block() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            rows = x1[torch.randint(len(x1), (size,))]
            t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(rows), rows)
            loss = torch.mean((net(t, xt) - ut) ** 2)
            loss.backward()
            optimizer.step()

    return block


class Clocks:
    """Blocks that also tell their processor time."""

    def __init__(self, blocks: Mapping[str, Block]) -> None:
        self.cpu: dict[str, list[float]] = {name: [] for name in blocks}
        self.blocks = {name: self._timed(name, block) for name, block in blocks.items()}

    def _timed(self, name: str, block: Block) -> Block:
        def timed() -> None:
            began = time.process_time()
            block()
            self.cpu[name].append(time.process_time() - began)

        return timed

    def ratio(self, name: str) -> float:
        """Median processor time over that of the plain step."""
        median = [sorted(times)[len(times) // 2] for times in (self.cpu[name], self.cpu[PLAIN])]
        return median[0] / median[1]


def steps(options: argparse.Namespace) -> None:
    """The table of steps."""
    torch.set_num_threads(1)
    n, count = (2_000, 20) if options.quick else (ROWS, options.steps)
    x0, x1 = gaussian(n, 2).float(), eight(n, 2).float()
    entropic = TransportPlan(x0, x1, regularisation=2.0)
    cells = TransportPlan(tpf.Gaussian((2,)), x1[:1_000], tolerance=0.15)
    for size in (256, 512):
        pool, reuse = 1_024, 32 if size == 256 else 64
        pooled = f"exact plans of a pool of {pool:,}, each pair used {reuse} times"
        blocks: dict[str, Block] = {
            PLAIN: fits(x1, None, size, count),
            "whole-data entropic plan": fits(x1, entropic, size, count),
            PLAN: plans_alone(x1, size, count // 4),
            "exact plan of each batch, in the step": fits(x1, MinibatchOT(ahead=0), size, count),
            "exact plan of each batch, ahead": fits(x1, MinibatchOT(), size, count),
            pooled: fits(x1, MinibatchOT(pool=pool, reuse=reuse), size, 2 * count),
            "cells of a Gaussian, 1,000 rows, ahead": fits(x1[:1_000], cells, size, count),
        }
        scale = {PLAN: 4.0, pooled: 0.5}
        if not options.quick:
            exact = TransportPlan(x0[:4_000], x1, regularisation=0)
            blocks["whole-data exact plan, 4,000 to 10,000"] = fits(x1, exact, size, count)
        if importlib.util.find_spec("torchcfm"):
            blocks["torchcfm, plain"] = theirs(x1, size, count, False)
            blocks["torchcfm, exact plan of each batch"] = theirs(x1, size, count, True)
        clocks = Clocks(blocks)
        rounds = 1 if options.quick else options.rounds
        timed = in_turns(clocks.blocks, rounds, 0 if options.quick else options.patience)
        rows = []
        for name in blocks:
            factor = scale.get(name, 1.0)
            ratios = [factor * r for r in timed.ratios(name, PLAIN)]
            middle = sorted(ratios)[len(ratios) // 2]
            micro = factor * timed.median(name) / count * 1e6
            spread = f"{middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            rows.append((name, f"{micro:.0f}", spread, f"{factor * clocks.ratio(name):.2f}"))
        plan = sorted(4 * r for r in timed.ratios(PLAN, PLAIN))[rounds // 2]
        print(f"\n## Steps of {size}\n")
        print(table(["step", "median, µs", "over the plain step", "processor time over it"], rows))
        print(
            f"Plan over plain step {plan:.2f}: asked of the plan ahead is at most"
            f" {1.1 * max(1, plan):.2f}. Other processes took {max(timed.others):.0%} of the cores"
            " in the worst round that was kept.\n"
        )


def one_plan(n: int, d: int, epsilon: float, whole: bool) -> None:
    """One plan, in this process; prints what it took."""
    torch.set_num_threads(1)
    x0, x1 = gaussian(n, d), eight(n, d)
    began, cpu = time.perf_counter(), time.process_time()
    if whole:
        report = TransportPlan(x0, x1, regularisation=epsilon).report
        told = {"violation": report.violation, "gap": report.gap, "value": report.value}
    else:
        centre = (x0.mean(0) + x1.mean(0)) / 2
        p = torch.full((n,), 1 / n, dtype=torch.float64)
        plan = entropic_plan(x0 - centre, x1 - centre, p, p, epsilon=epsilon)
        told = {"violation": plan.violation, "gap": plan.gap, "value": plan.value}
    told["seconds"], told["cpu"] = time.perf_counter() - began, time.process_time() - cpu
    told["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(told))


def plans(options: argparse.Namespace) -> None:
    """The table of plans."""
    rows = []
    for n, d, epsilon in [(1_000, 2, 2.0)] if options.quick else CASES:
        found = []
        for whole in (False, True):
            call = [
                sys.executable,
                __file__,
                "--one",
                str(n),
                str(d),
                str(epsilon),
                str(int(whole)),
            ]
            made = subprocess.run(call, capture_output=True, text=True, check=True)
            found.append(json.loads(made.stdout.splitlines()[-1]))
        plan, all_of_it = found
        asked = 40 if epsilon < 1 else ASKED.get((n, d), math.nan)
        rows.append(
            (
                f"{n:,}",
                d,
                epsilon,
                f"≤ {asked}",
                f"{plan['seconds']:.1f} ({plan['cpu']:.1f})",
                f"{all_of_it['seconds']:.1f} ({all_of_it['cpu']:.1f})",
                f"{all_of_it['memory']:.2f} GiB",
                f"{plan['violation']:.1e}",
                f"{plan['gap'] / plan['value']:.1e}",
            )
        )
    print("\n## Whole entropic plans\n")
    names = ["points", "d", "regularisation", "asked, s", "plan, s (processor)"]
    names += ["with partners, s (processor)", "peak memory", "violation", "gap over value"]
    print(table(names, rows))
    print(f"Load average at the end: {os.getloadavg()[0]:.1f}.\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["steps", "plans"])
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=400, help="steps of a block in a round")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds to wait for quiet")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        n, d, epsilon, whole = options.one
        one_plan(int(n), int(d), float(epsilon), whole == "1")
        return
    peers = [name for name in ("torchcfm",) if importlib.util.find_spec(name)]
    print(header(__doc__, "scipy", *peers))
    for name, part in (("plans", plans), ("steps", steps)):
        if options.part in (None, name):
            part(options)


if __name__ == "__main__":
    main()
