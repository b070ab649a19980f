"""The cost of a training step, beside the cost of its forward and backward pass.

Median time of a step of an MLP (2 numbers, 4 x 64) at batch 256 on the CPU, in blocks that take
turns, so that whatever else the machine does falls on all alike:

- *floor*: network, mean squared error, backward, fused Adam, zero_grad on one batch made before;
- *Trainer.fit*: ours, with fresh rows, times and noise, EMA and history (losses, rates, gradient
  norms, losses by time, pace), and with a checkpoint of all of it every 500 steps; compiled
  (``compile=True``, made before the clock starts);
- *noise, VP*: the same of a noise prediction, without a weight and with min-SNR;
- *plain loop*: what one writes by hand, with fresh rows, times and noise, and torch's Adam;
- *torchcfm*: the loop of its README with Adam, if it is installed, on our network and on its MLP.

Medians over rounds of the ratio within a round, and its range. Batch 256 of 50,000 rows, float32;
``fit`` is called anew for each round, so its checks and its permutation are counted.

Run ``python benchmarks/training_step.py``; prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import importlib.util
import shutil
import tempfile
from collections.abc import Callable

import torch
from torch import Tensor, nn

from _common import header, in_turns, table
from transportflows.distributions.gaussian import Gaussian
from transportflows.fields.kinds import NoisePredictor, Velocity
from transportflows.interpolants import Linear
from transportflows.losses import LossWeight, MinSNRWeight, NoiseLoss, VelocityLoss
from transportflows.networks import MLP
from transportflows.process import Process
from transportflows.sdes import VP
from transportflows.training import Checkpoints, Trainer

BATCH, WIDTH, DEPTH, ROWS, LR = 256, 64, 4, 50_000, 1e-3
UNWEIGHTED = "`Trainer.fit`, noise, VP"
FLOOR = "floor: forward, backward, fused Adam"
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


def ours(data: Tensor, ema: float | None, folder: str | None = None) -> Block:
    """``Trainer.fit``: each block goes on with the same run."""
    field = Velocity(network(), Process(Linear(), base=Gaussian((2,))))
    trainer = Trainer(field, VelocityLoss(), lr=LR, ema=ema)

    def block(steps: int) -> None:
        checkpoints = None if folder is None else Checkpoints(folder, every=500)
        trainer.fit(data, steps=steps, batch_size=BATCH, checkpoints=checkpoints, progress=False)

    return block


def compiled(data: Tensor) -> Block:
    """``Trainer.fit`` with its step as one graph."""
    field = Velocity(network(), Process(Linear(), base=Gaussian((2,))))
    trainer = Trainer(field, VelocityLoss(), lr=LR, ema=0.999, compile=True)
    return lambda steps: trainer.fit(data, steps=steps, batch_size=BATCH, progress=False) and None


def weighted(data: Tensor, weight: LossWeight | None) -> Block:
    """``Trainer.fit`` of a noise prediction on VP."""
    field = NoisePredictor(network(), Process(VP(), shape=(2,)))
    trainer = Trainer(field, NoiseLoss(weight=weight), lr=LR, ema=0.999)
    return lambda steps: trainer.fit(data, steps=steps, batch_size=BATCH, progress=False) and None


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


def new_folder() -> str:
    """An empty folder that goes with this process."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=500, help="steps of a block in a round")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for quiet rounds")
    options = parser.parse_args()
    peers = [name for name in ("torchcfm",) if importlib.util.find_spec(name)]
    print(header(__doc__, *peers))
    data = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(0))
    for threads in options.threads:
        torch.set_num_threads(threads)
        loops = {
            FLOOR: floor(),
            "`Trainer.fit`, EMA, history, checkpoints": ours(data, 0.999, new_folder()),
            "`Trainer.fit`, EMA and history": ours(data, ema=0.999),
            "`Trainer.fit`, history": ours(data, ema=None),
            "`Trainer.fit`, EMA, history, `compile=True`": compiled(data),
            UNWEIGHTED: weighted(data, None),
            "`Trainer.fit`, noise, VP, min-SNR": weighted(data, MinSNRWeight()),
            "plain loop, Adam": plain(data, fused=False),
            "plain loop, fused Adam": plain(data, fused=True),
        }
        if peers:
            loops["torchcfm's loop, our network"] = cfm(data, own_network=False)
            loops["torchcfm's loop, its own MLP (a layer less, no time features)"] = cfm(
                data, own_network=True
            )
        blocks = {name: functools.partial(loop, options.steps) for name, loop in loops.items()}
        times = in_turns(blocks, options.rounds, options.patience)
        rows = [
            (name, round(1e6 * times.median(name) / options.steps), times.spread(name, FLOOR))
            for name in loops
        ]
        print(f"## Threads: {threads}\n")
        print(table(("step", "median, µs", "over the floor"), rows))
        weight = times.spread("`Trainer.fit`, noise, VP, min-SNR", UNWEIGHTED)
        print(f"With min-SNR over without a weight: {weight}.\n")


if __name__ == "__main__":
    main()
