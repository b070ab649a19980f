"""The exam of this library's methods and of peers' trained models, side by side.

Each method trains on 20,000 draws of each law of `transportflows.exam`, with the same number of
steps of 512, and is examined by `testing.exam`. Ours: networks of 4 x 128, Adam at 2e-3 with a
cosine, averages of .999. *torchcfm*: its MLP of width 128 in the loop of its examples, its plain
matcher and its exact minibatch one, σ = .1 (noise on every x_t, at the end too, which counts as an
error of the law: the modes deviate by .2), Adam at 1e-3. *flow_matching*: the linear path of its
examples, the same MLP with Swish as there, Adam at 1e-3. Theirs are trained by their own loops and
become fields by `networks.from_torchcfm` and `Velocity(from_xt(net), process)`.

Every number stands beside its floor, what an exact field shows (in brackets). *velocity*, *score*:
rms error over the size; *W2*, *energy*: of 4,000 samples (2,000 for W2) by the ODE, and by the SDE
with ε = .5; *nats*: mean absolute error of the log-density; *KL*; *ends*: where the ODE ends, over
the deviation. No closed form is known for the field of minibatch plans.

Run ``python benchmarks/exam.py [--steps 4000] [--seeds 1] [--peer FOLDER ...] [--quick]``, with
folders in which the wheels of the peers were unpacked. What was measured is kept in
results/exam.csv, and a run goes on from there.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import transportflows as tpf
from _common import Kept, header, table
from transportflows import exam as command
from transportflows.testing import exam

FOLDER = Path(__file__).parent / "results"
ROWS = Kept(FOLDER / "exam.csv", ("law", "method", "seed", "quantity", "value", "floor"))
SHOWN = {
    "velocity": "velocity",
    "score": "score",
    "W2, ODE": "W2, ODE",
    "W2, SDE": "W2, SDE",
    "energy distance, ODE": "energy, ODE",
    "log-density": "nats",
    "KL": "KL",
    "ends": "ends",
}


def process(d: int, **options: Any) -> tpf.Process:
    """The peers' path."""
    return tpf.Process(tpf.Linear(), base=tpf.Gaussian((d,)), **options)


def batches(data: Tensor, steps: int, draws: torch.Generator) -> Any:
    """Rows of data and of noise."""
    for _ in range(steps):
        rows = torch.randint(len(data), (512,), generator=draws)
        yield torch.randn(512, data.shape[1], generator=draws), data[rows]


def of_torchcfm(exact: bool, steps: int, data: Tensor, draws: torch.Generator) -> tpf.Field:
    """The loop of torchcfm's examples."""
    from torchcfm import conditional_flow_matching as cfm
    from torchcfm.models.models import MLP

    d = data.shape[1]
    net = MLP(d, w=128, time_varying=True)
    kind = "ExactOptimalTransportConditionalFlowMatcher" if exact else "ConditionalFlowMatcher"
    matcher = getattr(cfm, kind)(sigma=0.1)
    optimizer = torch.optim.Adam(net.parameters())
    for x0, x1 in batches(data, steps, draws):
        optimizer.zero_grad()
        t, x, target = matcher.sample_location_and_conditional_flow(x0, x1)
        (net(torch.cat([x, t[:, None]], 1)) - target).square().mean().backward()
        optimizer.step()
    pairs = {"coupling": tpf.MinibatchOT()} if exact else {}
    return tpf.networks.from_torchcfm(net, process(d, **pairs))


def of_flow_matching(steps: int, data: Tensor, draws: torch.Generator) -> tpf.Field:
    """The loop of flow_matching's example in two dimensions."""
    from flow_matching.path import AffineProbPath
    from flow_matching.path.scheduler import CondOTScheduler

    class Net(nn.Module):
        def __init__(self, d: int) -> None:
            super().__init__()
            widths = [d + 1, 128, 128, 128, 128]
            parts: list[nn.Module] = []
            for a, b in itertools.pairwise(widths):
                parts += [nn.Linear(a, b), nn.SiLU()]
            self.layers = nn.Sequential(*parts, nn.Linear(128, d))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            """The velocity."""
            return self.layers(torch.cat([x, t[:, None]], 1))

    path, net = AffineProbPath(scheduler=CondOTScheduler()), Net(data.shape[1])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for x0, x1 in batches(data, steps, draws):
        optimizer.zero_grad()
        t = torch.rand(len(x1), generator=draws)
        of = path.sample(t=t, x_0=x0, x_1=x1)
        (net(of.x_t, of.t) - of.dx_t).square().mean().backward()
        optimizer.step()
    return tpf.Velocity(tpf.networks.from_xt(net), process(data.shape[1]))


def methods(steps: int, peers: bool) -> dict[str, command.Method]:
    """All that are examined."""
    found = command.methods(steps)
    if peers:
        found["torchcfm"] = lambda data, draws: of_torchcfm(False, steps, data, draws)
        found["torchcfm, exact minibatches"] = lambda data, draws: of_torchcfm(
            True, steps, data, draws
        )
        found["flow_matching"] = lambda data, draws: of_flow_matching(steps, data, draws)
    return found


def measure(law: str, name: str, train: command.Method, seed: int, n: int) -> list[list[object]]:
    """Rows of the file."""
    draws, of = torch.Generator().manual_seed(seed), command.LAWS[law]()
    data = of.sample(20_000, generator=draws, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # peers draw from the global state
        field = train(data, draws)
    report = exam(field, of, n=n, generator=torch.Generator().manual_seed(1_000 + seed))
    return [[law, name, seed, row.quantity, row.value, row.floor] for row in report.rows]


def report() -> str:
    """The tables of what is kept."""
    text, kept = [header(__doc__)], ROWS.rows()
    for law in command.LAWS:
        lines = []
        for name in dict.fromkeys(row["method"] for row in kept if row["law"] == law):
            line = [name]
            for quantity in SHOWN:
                own = [
                    row
                    for row in kept
                    if (row["law"], row["method"], row["quantity"]) == (law, name, quantity)
                ]
                value, floor = (
                    statistics.mean(float(row[key]) for row in own) if own else math.nan
                    for key in ("value", "floor")
                )
                told = "" if math.isnan(value) else f"{value:.3g}"
                line.append(told if math.isnan(floor) or not floor else f"{told} ({floor:.2g})")
            lines.append(line)
        if lines:
            text.append(f"## {law}\n\n{table(['method', *SHOWN.values()], lines)}\n")
    return "\n".join(text)


def main() -> None:
    """Examine what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peer", type=Path, nargs="+", default=[])
    options = parser.parse_args()
    sys.path[1:1] = [str(folder) for folder in options.peer]
    torch.set_num_threads(1)
    steps, n = (5, 60) if options.quick else (options.steps, 4_000)
    for seed in range(options.seeds):
        for law in list(command.LAWS)[: 1 if options.quick else None]:
            for name, train in methods(steps, bool(options.peer)).items():
                if not options.quick and ROWS.rows(law=law, method=name, seed=seed):
                    continue
                rows = measure(law, name, train, seed, n)
                for row in rows:
                    print(*row, flush=True)
                if not options.quick:
                    ROWS.add(*rows)
                    (FOLDER / "exam.md").write_text(report())


if __name__ == "__main__":
    main()
