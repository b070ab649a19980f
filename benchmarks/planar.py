"""Couplings on planar tasks, by the recipe of Tong et al. (2024), beside torchcfm.

A network of 3 x 64 SELU, AdamW at 1e-3, 20,000 steps of 512, Euler with 100 steps, for N → 8
Gaussians (8g), moons → 8g, N → moons and N → S-curve, with the data of torchcfm (8g: eight
Gaussians of variance √.1 on a circle of 5; moons of noise .2 times 3 less 1; the S-curve of
scikit-learn, noise .05, seen from the side, times 1.5).

- *W2 excess*: √(W2² - floor²), W2² of 4,000 samples from 4,000 draws, the mean of four such pairs
  (one is too noisy: of eight modes each set has other parts), floor² the mean over 28 pairs of sets
  of 4,000 draws (0 where W2² is below it); mean over the seeds and their deviation; beside it *W2*,
  *floor*, and *all*, the excess of the mean W2² of all seeds;
- *energy*: |E - W2²(ρ0, ρ1)| / W2²(ρ0, ρ1), with E the mean of Σ |v|² h along the paths and W2²
  the mean of that of the four pairs of 4,000 draws of either end.

Ours: *plan*, one exact plan of 10,000 draws of either end (`TransportPlan`), cosine, averages of
.999; *four plans*, the pairs of four such plans, of 40,000 draws; *bridge*, the entropic plan for
`Linear(Brownian(a))`, a = .5, and a pair (v, η), sampled by the ODE; *minibatches*, exact plans of
batches drawn afresh (`MinibatchOT`). *torchcfm*: its exact
minibatch matcher (OT-CFM), σ = .1, the same network, optimiser and steps, data made afresh; its
bridge's (*SF2M*, σ = .1 and exact plans as in its examples), of which the ODE needs the flow alone;
the first also with cosine and averages. Published (OT-CFM / SF2M, 10,000 points): W2 .303 .601 .130
.144 / .275 .726 .124 .128, energy .031 .015 .083 .027 / .016 .045 .053 .034.

Run ``python benchmarks/planar.py`` (``--quick`` for a minute; ``--methods torchcfm --peer FOLDER``
for the peer, with the folder in which its wheel was unpacked). What was measured is kept in
results/planar.csv, and a run goes on from there.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import make_moons, make_s_curve
from torch import Tensor, nn

import transportflows as tpf
from _common import Kept, header, table

OUT = Path(__file__).parent / "results" / "planar.md"
HEAD = ("task", "method", "seeds", "W2", "floor", "W2 excess", "all", "energy", "seconds")
ROWS = Kept(OUT.with_suffix(".csv"), ("method", "task", "seed", "square", "energy", "seconds"))
POOL, POINTS, SETS = 10_000, 4_000, 4


def normal(n: int, draws: torch.Generator) -> Tensor:
    """N(0, Id)."""
    return torch.randn(n, 2, generator=draws)


def eight(n: int, draws: torch.Generator) -> Tensor:
    """Eight Gaussians."""
    angle = torch.randint(8, (n,), generator=draws) * (torch.pi / 4)
    centre = 5 * torch.stack([angle.cos(), angle.sin()], 1)
    return centre + 0.1**0.25 * torch.randn(n, 2, generator=draws)


def number(draws: torch.Generator) -> int:
    """A seed for scikit-learn."""
    return int(torch.randint(2**31 - 1, (), generator=draws))


def moons(n: int, draws: torch.Generator) -> Tensor:
    """Two moons."""
    x = make_moons(n, noise=0.2, random_state=number(draws))[0]
    return torch.as_tensor(3 * x - 1, dtype=torch.float32)


def curve(n: int, draws: torch.Generator) -> Tensor:
    """The S-curve from the side."""
    x = make_s_curve(n, noise=0.05, random_state=number(draws))[0][:, [0, 2]]
    return torch.as_tensor(1.5 * x, dtype=torch.float32)


Draw = Callable[[int, torch.Generator], Tensor]
TASKS: dict[str, tuple[Draw, Draw]] = {
    "N → 8g": (normal, eight),
    "moons → 8g": (moons, eight),
    "N → moons": (normal, moons),
    "N → S-curve": (normal, curve),
}


class Net(nn.Module):
    """3 x 64 SELU, of (x, t)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            widths = [3, 64, 64, 64]
            parts: list[nn.Module] = []
            for a, b in itertools.pairwise(widths):
                parts += [nn.Linear(a, b), nn.SELU()]
            self.layers = nn.Sequential(*parts, nn.Linear(64, 2))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """The prediction."""
        return self.layers(torch.cat([x, t.expand(len(x))[:, None]], 1))


def fit(field: tpf.Field, x1: Any, steps: int, draws: torch.Generator) -> None:
    """Train, and leave the averages in the field."""
    trainer = tpf.Trainer(
        field, optimizer=torch.optim.AdamW(field.parameters(), lr=1e-3), scheduler="cosine",
        ema=0.999,
    )  # fmt: skip
    trainer.fit(x1, steps=steps, batch_size=512, progress=False, generator=draws)
    with torch.no_grad():
        torch._foreach_copy_(trainer.ema.parameters, trainer.ema.averages)


def by_plan(task: tuple[Draw, Draw], seed: int, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The velocity of an exact plan of pools."""
    draws = torch.Generator().manual_seed(seed)
    x0, x1 = task[0](POOL, draws), task[1](POOL, draws)
    plan = tpf.couplings.TransportPlan(x0, x1)
    field = tpf.Velocity(Net(seed), tpf.Process(tpf.Linear(), coupling=plan, shape=(2,)))
    fit(field, x1, steps, draws)
    return field.velocity


def by_four_plans(
    task: tuple[Draw, Draw], seed: int, steps: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """The velocity of the pairs of exact plans of four pools."""
    draws = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(4):
        plan = tpf.couplings.TransportPlan(task[0](POOL, draws), task[1](POOL, draws))
        parts.append(plan.sample(3 * POOL, generator=draws))
    pairs = tuple(torch.cat(ends) for ends in zip(*parts, strict=True))
    process = tpf.Process(tpf.Linear(), coupling=tpf.Paired(), shape=(2,))
    field = tpf.Velocity(Net(seed), process)
    fit(field, pairs, steps, draws)
    return field.velocity


def by_bridge(task: tuple[Draw, Draw], seed: int, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The velocity of the bridge of pools."""
    draws = torch.Generator().manual_seed(seed)
    x0, x1 = task[0](POOL, draws), task[1](POOL, draws)
    plan = tpf.couplings.TransportPlan(x0, x1)
    process = tpf.Process(tpf.Linear(tpf.Brownian(0.5)), coupling=plan, shape=(2,))
    field = tpf.FieldPair(mean_velocity=Net(seed), noise=Net(seed + 1_000), process=process)
    fit(field, x1, steps, draws)
    return lambda t, x: field.velocity(t.clamp(1e-3, 1 - 1e-3), x)


class Drawn(tpf.distributions.Distribution):
    """A law that is drawn from by a function."""

    def __init__(self, draw: Draw) -> None:
        super().__init__((2,))
        self.draw = draw

    def sample(self, n: int, *, generator: torch.Generator | None = None, **how: Any) -> Tensor:
        """Rows, float32."""
        return self.draw(n, torch.Generator() if generator is None else generator)


def by_minibatches(
    task: tuple[Draw, Draw], seed: int, steps: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """The velocity of exact plans of batches that are drawn afresh, as the peer's are."""
    draws = torch.Generator().manual_seed(seed)
    process = tpf.Process(tpf.Linear(), base=Drawn(task[0]), coupling=tpf.MinibatchOT())
    field = tpf.Velocity(Net(seed), process)
    fit(field, Drawn(task[1]), steps, draws)
    return field.velocity


def by_torchcfm(
    task: tuple[Draw, Draw], seed: int, steps: int, better: bool = False, bridge: bool = False
) -> Callable[[Tensor, Tensor], Tensor]:
    """Torchcfm's exact minibatch matcher or its bridge's, in the loop of its examples."""
    from torchcfm import conditional_flow_matching as cfm

    matcher: Any = cfm.ExactOptimalTransportConditionalFlowMatcher(sigma=0.1)
    if bridge:
        matcher = cfm.SchrodingerBridgeConditionalFlowMatcher(sigma=0.1, ot_method="exact")
    draws, net = torch.Generator().manual_seed(seed), Net(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    averages = [p.detach().clone() for p in net.parameters()]
    for _ in range(steps):
        optimizer.zero_grad()
        x0, x1 = task[0](512, draws), task[1](512, draws)
        t, x, target = matcher.sample_location_and_conditional_flow(x0, x1)
        (net(t, x) - target).square().mean().backward()
        optimizer.step()
        if better:
            schedule.step()
            torch._foreach_lerp_(averages, list(net.parameters()), 1e-3)
    if better:
        with torch.no_grad():
            torch._foreach_copy_(list(net.parameters()), averages)
    return net


@torch.no_grad()
def measured(
    velocity: Callable[[Tensor, Tensor], Tensor], task: tuple[Draw, Draw], seed: int
) -> tuple[float, float]:
    """W2², and the energy's error."""
    draws = torch.Generator().manual_seed(10_000 + seed)
    energy, moved, squares = 0.0, [], []
    for _ in range(SETS):
        start = x = task[0](POINTS, draws)
        for k in range(100):
            v = velocity(torch.tensor(k / 100), x)
            energy += float(v.square().sum(1).mean()) / (100 * SETS)
            x = x + v / 100
        moved.append(square(start, task[1](POINTS, draws)))
        squares.append(square(x, task[1](POINTS, draws)))
    whole = statistics.mean(moved)
    return statistics.mean(squares), abs(energy - whole) / whole


def square(a: Tensor, b: Tensor) -> float:
    """W2²."""
    return tpf.metrics.wasserstein2(a, b) ** 2


def floor(end: Draw) -> float:
    """The mean W2² of two sets of draws."""
    draws = torch.Generator().manual_seed(20_000)
    sets = [end(POINTS, draws) for _ in range(8)]
    return statistics.mean(square(a, b) for a, b in itertools.combinations(sets, 2))


def report() -> str:
    """The table of what is kept."""
    lines, mean = [], statistics.mean
    for method, task in itertools.product(METHODS, TASKS):
        own, base = ROWS.rows(method=method, task=task), ROWS.rows(method="floor", task=task)
        if not own or not base:
            continue
        floor_of = float(base[0]["square"])
        squares, energies = [[float(row[key]) for row in own] for key in ("square", "energy")]
        excess = [max(a - floor_of, 0.0) ** 0.5 for a in squares]
        spread = [
            f" ± {statistics.stdev(of):.3f}" if len(of) > 1 else "" for of in (excess, energies)
        ]
        lines.append(
            [
                task, method, str(len(own)), f"{mean(a**0.5 for a in squares):.3f}",
                f"{floor_of**0.5:.3f}", f"{mean(excess):.3f}{spread[0]}",
                f"{max(mean(squares) - floor_of, 0.0) ** 0.5:.3f}",
                f"{mean(energies):.3f}{spread[1]}",
                f"{statistics.median(float(row['seconds']) for row in own):.0f}",
            ]
        )  # fmt: skip
    return f"{header(__doc__)}\n{table(HEAD, lines)}\n"


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS)[:2])
    parser.add_argument("--peer", help="a folder in which torchcfm's wheel was unpacked")
    options = parser.parse_args()
    if options.peer:
        sys.path.insert(0, options.peer)
    torch.set_num_threads(1)
    steps, seeds = (200, 1) if options.quick else (20_000, options.seeds)
    for task, ends in TASKS.items():
        if not options.quick and not ROWS.rows(method="floor", task=task):
            ROWS.add(("floor", task, 0, floor(ends[1]), "", ""))
    for seed, method, task in itertools.product(range(seeds), options.methods, TASKS):
        if not options.quick and ROWS.rows(method=method, task=task, seed=seed):
            continue
        begin = time.process_time()
        velocity = METHODS[method](TASKS[task], seed, steps)
        seconds = time.process_time() - begin
        row = (method, task, seed, *measured(velocity, TASKS[task], seed), seconds)
        print(*row, flush=True)
        if not options.quick:
            ROWS.add(row)
            OUT.write_text(report())
    if not options.quick:
        OUT.write_text(report())  # of what is kept, where nothing was missing


METHODS: dict[str, Callable[..., Callable[[Tensor, Tensor], Tensor]]] = {
    "plan": by_plan,
    "four plans": by_four_plans,
    "bridge": by_bridge,
    "minibatches": by_minibatches,
    "torchcfm": by_torchcfm,
    "torchcfm, SF2M": lambda *of: by_torchcfm(*of, bridge=True),
    "torchcfm, cosine, averages": lambda *of: by_torchcfm(*of, better=True),
}


if __name__ == "__main__":
    main()
