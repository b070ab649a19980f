"""Flow maps: what a training step of each loss costs over one of plain flow matching.

`Trainer.fit` of an MLP of 4 x 128 (a map's is told of a second time), eight modes in d = 2, one
thread, float32, in blocks of steps that take turns: medians over the rounds of the ratio of
processor times to the plain step of the same round, and their range. Half of the rows of a loss
without a teacher train the tangent, three quarters of a shortcut's. *by hand*: with the tangents of
`TwoTimes` and `MLP`; *jvp*: the same network behind a wrapper without them, so that forward mode of
torch goes through it.

Run ``python benchmarks/flow_maps_cost.py [--quick]``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import transportflows as tpf
from _common import header, table
from transportflows import maps

OUT = Path(__file__).parent / "results" / "flow_maps_cost.md"
PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
ASKED = {
    "semigroup": 1.6,
    "MeanFlow, by hand": 1.5,
    "MeanFlow, jvp": 2.0,
    "Lagrangian, by hand": 3.0,
}


class Plain(nn.Module):
    """A network without tangents of its own."""

    def __init__(self, net: maps.TwoTimes) -> None:
        super().__init__()
        self.net = net

    def forward(self, s: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The same."""
        return self.net(s, t, x)


def network(times: int) -> nn.Module:
    """Of one time, or of two."""
    draws = torch.Generator().manual_seed(0)
    vectors = {"stop": 9} if times == 2 else None
    net = tpf.networks.MLP(2, 128, 4, frequencies=2, vectors=vectors, generator=draws)
    return maps.TwoTimes(net) if times == 2 else net


def trainers() -> dict[str, tpf.Trainer]:
    """By what they are called in the table."""
    teacher = tpf.Velocity(network(1), PROCESS)
    losses: dict[str, tuple[maps.MapLoss, bool]] = {
        "semigroup": (maps.SemigroupLoss(), True),
        "semigroup, teacher": (maps.SemigroupLoss(teacher), True),
        "shortcut": (maps.ShortcutLoss(), True),
        "MeanFlow, by hand": (maps.MeanFlowLoss(), True),
        "MeanFlow, jvp": (maps.MeanFlowLoss(), False),
        "MeanFlow of all rows, by hand": (maps.MeanFlowLoss(diagonal=0.0), True),
        "Lagrangian, by hand": (maps.LagrangianLoss(), True),
        "Lagrangian, jvp": (maps.LagrangianLoss(), False),
        "Lagrangian, teacher, by hand": (maps.LagrangianLoss(teacher), True),
        "consistency training": (maps.ConsistencyLoss(), True),
    }
    found = {"flow matching": tpf.Trainer(tpf.Velocity(network(1), PROCESS))}
    for name, (loss, by_hand) in losses.items():
        net = network(2)
        net = net if by_hand else Plain(net)  # type: ignore[arg-type]
        flow_map = maps.FlowMap(net, PROCESS, to_data=loss.pairs.to_data)
        found[name] = tpf.Trainer(flow_map, loss)
    return found


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds, steps = (1, 5) if options.quick else (9, 100)
    data = tpf.datasets.eight_gaussians(10_000, generator=torch.Generator().manual_seed(1))
    text = [header(__doc__)]
    for size in (512, 2_048):
        made = trainers()
        took: dict[str, list[float]] = {name: [] for name in made}
        for turn in range(rounds + 1):
            for name, trainer in made.items():
                began = time.process_time()
                trainer.fit(data, steps=steps, batch_size=size, progress=False)
                if turn:
                    took[name].append(time.process_time() - began)
        lines = []
        for name, seconds in took.items():
            pairs = zip(seconds, took["flow matching"], strict=True)
            ratios = [a / b for a, b in pairs]
            micro = statistics.median(seconds) / steps * 1e6
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            lines.append([name, f"{micro:.0f}", spread, str(ASKED.get(name, ""))])
        head = ["step", "median, µs", "over flow matching", "asked, at most"]
        text.append(f"## Batches of {size:,}\n\n{table(head, lines)}\n")
        print(text[-1], flush=True)
    if not options.quick:
        OUT.write_text("\n".join(text))


if __name__ == "__main__":
    main()
