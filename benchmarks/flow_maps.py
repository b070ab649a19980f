"""Flow maps against exact ones: the error of one jump, by loss.

Eight modes of deviation r/10 on a circle of radius r = √2 (d = 2; in d = 8 in a random plane, with
noise of the same deviation in all directions), the linear path from N(0, Id); the teacher is the
oracle. One network, an MLP of 4 x 128 told of both times by low frequencies; Adam at 2e-3 with a
cosine, averages of .999, batches of 512 drawn afresh; each loss for the same processor time on one
thread, from which its number of steps follows. Consistency training has levels that double from 10
to 1,280.

- *rms*, *median*: of |X_{0,1}(x) - exact| over 4,000 starts, per number, over the data's deviation;
  *2* to *16*: rms in as many equal jumps (consistency losses know one end, so none is given);
- *semigroup*: rms of X_{u,1}(X_{0,u}) - X_{0,1} for uniform u, over the same;
- *tangent*: rms of v_{t,t} - b over states of the process, over that of b.

Exact ends by 400 steps of RK4 in float64, whose error is below 1e-8. Means over the seeds, and the
range of the rms.

Run ``python benchmarks/flow_maps.py [--seconds 120] [--seeds 5] [--dimensions 2 8] [--losses NAME]
[--quick]``. What was measured is kept in results/flow_maps.csv, and a run goes on from there;
results/flow_maps.md is made of it (``--report`` alone).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf
from _common import Kept, header, table
from transportflows import maps

FOLDER = Path(__file__).parent / "results"
MORE = (2, 4, 8, 16)
ROWS = Kept(
    FOLDER / "flow_maps.csv",
    (
        *("d", "loss", "budget", "seed", "seconds", "steps", "rms", "median"),
        *(f"steps {k}" for k in MORE),
        *("semigroup", "tangent"),
    ),
)
BUDGET = 120.0
RADIUS = math.sqrt(2)
LOSSES: dict[str, Callable[[tpf.Field], maps.MapLoss]] = {
    "semigroup, teacher's first step": lambda b: maps.SemigroupLoss(b),
    "Lagrangian, teacher": lambda b: maps.LagrangianLoss(b),
    "Eulerian, teacher": lambda b: maps.EulerianLoss(b),
    "Eulerian, teacher, gradient through": lambda b: maps.EulerianLoss(b, detach=False),
    "consistency distillation": lambda b: maps.ConsistencyLoss(b),
    "Lagrangian, self": lambda b: maps.LagrangianLoss(),
    "semigroup, self": lambda b: maps.SemigroupLoss(),
    "Eulerian, self": lambda b: maps.EulerianLoss(),
    "MeanFlow": lambda b: maps.MeanFlowLoss(),
    "MeanFlow, weight p = 1": lambda b: maps.MeanFlowLoss(adaptive=1.0),
    "shortcut": lambda b: maps.ShortcutLoss(),
    "consistency training": lambda b: maps.ConsistencyLoss(),
}


def problem(d: int) -> tuple[tpf.Process, tpf.distributions.GaussianMixture, tpf.Field]:
    """Process, law and oracle."""
    angle = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
    means = torch.zeros(8, d, dtype=torch.float64)
    means[:, 0], means[:, 1] = RADIUS * angle.cos(), RADIUS * angle.sin()
    if d > 2:
        noise = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
        means = means @ torch.linalg.qr(noise).Q
    law = tpf.distributions.GaussianMixture(means, RADIUS / 10)
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((d,)))
    return process, law, tpf.oracle(process, law)


def network(d: int, seed: int) -> maps.TwoTimes:
    """The network of a student."""
    net = tpf.networks.MLP(
        d, 128, 4, frequencies=2, vectors={"stop": 9}, generator=torch.Generator().manual_seed(seed)
    )
    return maps.TwoTimes(net)


def trained(name: str, d: int, seed: int, seconds: float) -> tuple[maps.FlowMap, int, float]:
    """A map, its training steps and the seconds they took."""
    process, law, oracle = problem(d)
    consistency = name.startswith("consistency")

    def run(steps: int, seed: int) -> tuple[tpf.Trainer, float]:
        loss = LOSSES[name](oracle)
        flow_map = maps.FlowMap(network(d, seed), process, to_data=consistency)
        trainer = tpf.Trainer(flow_map, loss, lr=2e-3, scheduler="cosine", ema=0.999)
        draws = torch.Generator().manual_seed(seed)
        began = time.process_time()
        grows = [maps.DoublingLevels(steps)] if name == "consistency training" else []
        trainer.fit(
            law, steps=steps, batch_size=512, callbacks=grows, progress=False, generator=draws
        )
        return trainer, time.process_time() - began

    run(5, seed)
    each = run(40, seed)[1] / 40
    trainer, took = run(max(1, round(seconds / each)), seed)
    return trainer.averaged_field(), trainer.step, took  # type: ignore[return-value]


def rms(error: Tensor) -> float:
    """Per number."""
    return float(error.double().square().mean().sqrt())


@torch.no_grad()
def ends(d: int, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    """Starts, their exact ends, draws of the data and their deviation."""
    law, oracle = problem(d)[1:]
    x = torch.randn(4_000, d, generator=draws)
    end = tpf.sample(oracle, start=x.double(), steps=400, scheme="rk4").x
    data = law.sample(20_000, generator=draws)
    return x, end, data, float(data.var(0).mean().sqrt())


@torch.no_grad()
def measured(flow_map: maps.FlowMap, d: int) -> list[float]:
    """Errors in the order of the table."""
    process, _, oracle = problem(d)
    draws = torch.Generator().manual_seed(1_000)
    x, end, data, scale = ends(d, draws)
    one = flow_map.jump(0.0, 1.0, x)
    rows = (one - end).square().mean(1)
    found = [rms(one - end) / scale, float(rows.median().sqrt()) / scale]
    if flow_map.to_data:
        found += [math.nan] * (len(MORE) + 1)
    else:
        found += [rms(tpf.sample(flow_map, start=x, steps=k).x - end) / scale for k in MORE]
        u = torch.rand(len(x), generator=draws)
        middle = flow_map.jump(0.0, u, x)
        found.append(rms(flow_map.jump(u, 1.0, middle) - one) / scale)
    t = torch.rand(4_000, generator=draws)
    states = process.sample(data[:4_000].float(), t=t, generator=draws).x
    b = oracle.velocity(t, states)
    tangent = math.nan if flow_map.to_data else rms(flow_map.velocity(t, states) - b) / rms(b)
    found.append(tangent)
    return found


def report() -> str:
    """The tables of what is kept."""
    text, kept = [header(__doc__)], ROWS.rows()
    for d in sorted({int(row["d"]) for row in kept if row["d"]}):
        lines = []
        budgets = sorted({float(row["budget"]) for row in kept})
        for name, budget in [(name, budget) for name in LOSSES for budget in budgets]:
            own = ROWS.rows(d=d, loss=name, budget=budget)
            if not own:
                continue

            def mean(key: str, own: list[dict[str, str]] = own) -> str:
                value = statistics.mean(float(row[key]) for row in own)
                return "" if math.isnan(value) else f"{value:.3f}"

            ends = [float(row["rms"]) for row in own]
            lines.append(
                [
                    name, str(len(own)), f"{statistics.median(int(r['steps']) for r in own):,.0f}",
                    f"{statistics.median(float(r['seconds']) for r in own):.0f}",
                    f"{mean('rms')} ({min(ends):.3f} to {max(ends):.3f})", mean("median"),
                    *(mean(f"steps {k}") for k in MORE), mean("semigroup"), mean("tangent"),
                ]
            )  # fmt: skip
        head = ["loss", "seeds", "steps", "seconds", "rms", "median", *map(str, MORE)]
        head += ["semigroup", "tangent"]
        text.append(f"## d = {d}\n\n{table(head, lines)}\n")
    return "\n".join(text)


def main() -> None:
    """Measure what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--seconds", type=float, default=BUDGET)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument(
        "--report", action="store_true", help="make the tables anew, measure nothing"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(0 if options.report else 1 if options.quick else options.seeds):
        for d in options.dimensions:
            for name in options.losses:
                seconds = 1.0 if options.quick else options.seconds
                if ROWS.rows(d=d, loss=name, seed=seed, budget=seconds):
                    continue
                flow_map, steps, took = trained(name, d, seed, seconds)
                row = [d, name, seconds, seed, f"{took:.1f}", steps, *measured(flow_map, d)]
                print(*row, flush=True)
                if not options.quick:
                    ROWS.add(row)
    if not options.quick:
        (FOLDER / "flow_maps.md").write_text(report())


if __name__ == "__main__":
    main()
