"""The cost of a training step, beside the cost of its forward and backward pass.

Median time of a step of an MLP (2 numbers, 4 x 64) at batch 256 on the CPU, in blocks that take
turns, so that whatever else the machine does falls on all alike:

- *floor*: network, mean squared error, backward, fused Adam, zero_grad on one batch made before;
- *transportflows*: ``Trainer.fit``, with fresh rows, times and noise, EMA and history;
- *plain loop*: what one writes by hand, with fresh rows, times and noise, and torch's Adam;
- *torchcfm*: the loop of its README, if it is installed, with its MLP and with ours.

Run ``python benchmarks/training_step.py``; prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from transportflows.distributions import Gaussian
from transportflows.fields import Velocity
from transportflows.interpolants import Linear
from transportflows.losses import VelocityLoss
from transportflows.networks import MLP
from transportflows.process import Process
from transportflows.training import Trainer

BATCH, WIDTH, DEPTH, ROWS, LR = 256, 64, 4, 50_000, 1e-3
Block = Callable[[int], None]


def network() -> MLP:
    """The network of the table, with the same weights each time."""
    return MLP(2, width=WIDTH, depth=DEPTH, generator=torch.Generator().manual_seed(0))


def floor() -> Block:
    """Forward, backward and fused Adam on one batch made before; nothing else."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), LR, fused=True)
    t, x, target = torch.rand(BATCH), torch.randn(BATCH, 2), torch.randn(BATCH, 2)

    def block(steps: int) -> None:
        for _ in range(steps):
            loss = nn.functional.mse_loss(net(t, x), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return block


def ours(data: Tensor, ema: float | None) -> Block:
    """``Trainer.fit``: each block goes on with the same run."""
    field = Velocity(network(), Process(Linear(), base=Gaussian((2,))))
    trainer = Trainer(field, VelocityLoss(), lr=LR, ema=ema)

    def block(steps: int) -> None:
        trainer.fit(data, steps=steps, batch_size=BATCH, progress=False)

    return block


def plain(data: Tensor, fused: bool) -> Block:
    """What one writes by hand."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), LR, fused=fused)

    def block(steps: int) -> None:
        for _ in range(steps):
            x1 = data[torch.randint(len(data), (BATCH,))]
            x0, t = torch.randn_like(x1), torch.rand(BATCH)
            x = (1 - t[:, None]) * x0 + t[:, None] * x1
            loss = (net(t, x) - (x1 - x0)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return block


def cfm(data: Tensor, own_network: bool) -> Block:
    """The loop of torchcfm's README: zero_grad, two samples, the matcher, the loss, Adam."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    from torchcfm.models import MLP as TheirMLP  # noqa: N811

    matcher = ConditionalFlowMatcher(sigma=0.0)
    net = TheirMLP(dim=2, time_varying=True, w=WIDTH) if own_network else network()
    optimizer = torch.optim.Adam(net.parameters(), LR)

    def block(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            x1 = data[torch.randint(len(data), (BATCH,))]
            x0 = torch.randn_like(x1)
            t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
            vt = net(torch.cat([xt, t[:, None]], dim=-1)) if own_network else net(t, xt)
            loss = torch.mean((vt - ut) ** 2)
            loss.backward()
            optimizer.step()

    return block


def measure(blocks: dict[str, Block], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds a step, a figure for each round, with the blocks taking turns."""
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for block in blocks.values():
        block(2 * steps)
    for turn in range(rounds):
        order = list(blocks) if turn % 2 == 0 else list(reversed(blocks))
        for name in order:
            start = time.perf_counter()
            blocks[name](steps)
            times[name].append((time.perf_counter() - start) / steps)
    return times


def machine() -> str:
    """The processor and the versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = f"{lines[0].split(':')[1].strip()}, {len(lines)} cores" if lines else cpu
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    if importlib.util.find_spec("torchcfm"):
        versions.append(f"torchcfm {importlib.metadata.version('torchcfm')}")
    return f"{cpu}; {', '.join(versions)}"


def table(times: dict[str, list[float]], threads: int) -> str:
    """Medians, and the median over rounds of the ratio to the floor of the same round."""
    base = times["floor: forward, backward, fused Adam"]
    lines = [
        f"Threads: {threads}.",
        "",
        "| step | median, µs | over the floor |",
        "|---|---|---|",
    ]
    for name, values in times.items():
        ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
        lines.append(f"| {name} | {1e6 * statistics.median(values):.0f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=200, help="steps in a block")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    options = parser.parse_args()
    torch.manual_seed(0)
    data = torch.randn(ROWS, 2)
    print(f"{machine()}. MLP {DEPTH} x {WIDTH}, batch {BATCH}, {ROWS:,} rows, float32;")
    print(f"{options.rounds} rounds of {options.steps} steps each, in turns.\n")
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        blocks = {
            "floor: forward, backward, fused Adam": floor(),
            "transportflows `Trainer.fit`, EMA and history": ours(data, ema=0.999),
            "transportflows `Trainer.fit`, history": ours(data, ema=None),
            "plain loop, Adam": plain(data, fused=False),
            "plain loop, fused Adam": plain(data, fused=True),
        }
        if importlib.util.find_spec("torchcfm"):
            blocks["torchcfm loop, our network"] = cfm(data, own_network=False)
            blocks["torchcfm loop, its own MLP (3 layers, SELU)"] = cfm(data, own_network=True)
        print(table(measure(blocks, options.rounds, options.steps), threads) + "\n")


if __name__ == "__main__":
    main()
