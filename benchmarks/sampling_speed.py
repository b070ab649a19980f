"""The cost of sampling, beside the cost of the network calls alone.

100 Euler steps of an MLP (2 numbers, 4 layers) on the CPU, in float32, all in one process:

- *floor*: bare ``net(t, chunk)`` calls under no_grad, as many evaluations, at the chunk size that
  was the fastest in a sweep (10 steps of each size, in turns);
- *transportflows*: ``tpf.sample(field, start=x, scheme="euler", steps=100)``, default chunk;
- *flow_matching*: ``ODESolver.sample(method="euler", step_size=0.01)``, and *torchdiffeq*:
  ``odeint(method="euler")`` on the same grid, with the same network.

Times are medians over rounds in which all take turns, and a ratio is the median of the ratios of a
round, with its range in brackets; rounds in which other processes worked do not count. Memory is
how far the peak of the resident set of a fresh process (VmHWM; ru_maxrss would carry over the
parent's) rises above what it held after a small warm-up.

Run ``python benchmarks/sampling_speed.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, in_turns, table

STEPS, DEPTH = 100, 4
CASES = ((64, 10_000), (64, 100_000), (256, 10_000), (256, 100_000))
CHUNKS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
PEERS = ("flow_matching", "torchdiffeq")


def network(width: int) -> tpf.networks.MLP:
    """The network of the table, with the same weights each time."""
    generator = torch.Generator().manual_seed(0)
    return tpf.networks.MLP(2, width, depth=DEPTH, generator=generator).eval()


def start(n: int) -> Tensor:
    """Starting states."""
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1))


def bare(net: tpf.networks.MLP, x: Tensor, chunk: int, steps: int) -> Callable[[], None]:
    """Network calls and nothing else."""
    pieces, t = torch.split(x, chunk), torch.tensor(0.5)

    @torch.no_grad()
    def block() -> None:
        for _ in range(steps):
            for piece in pieces:
                net(t, piece)

    return block


def ours(net: tpf.networks.MLP, x: Tensor, steps: int) -> Callable[[], Tensor]:
    """``tpf.sample`` with its default chunk."""
    field = tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
    return lambda: tpf.sample(field, start=x, scheme="euler", steps=steps).x


def torchdiffeq(net: tpf.networks.MLP, x: Tensor, steps: int) -> Callable[[], Tensor]:
    """``odeint``, as its documentation has it, without gradients."""
    from torchdiffeq import odeint

    grid = torch.linspace(0, 1, steps + 1)

    @torch.no_grad()
    def block() -> Tensor:
        return odeint(net, x, grid, method="euler")[-1]

    return block


def flow_matching(net: tpf.networks.MLP, x: Tensor, steps: int) -> Callable[[], Tensor]:
    """``ODESolver``, as its documentation has it."""
    from flow_matching.solver import ODESolver
    from flow_matching.utils import ModelWrapper

    class Wrapped(ModelWrapper):
        def forward(self, x: Tensor, t: Tensor, **extras: object) -> Tensor:
            return self.model(t, x)

    solver = ODESolver(velocity_model=Wrapped(net))
    return lambda: solver.sample(x_init=x, method="euler", step_size=1 / steps)


SAMPLERS = {"transportflows": ours, "flow_matching": flow_matching, "torchdiffeq": torchdiffeq}


def default_chunk(net: tpf.networks.MLP, x: Tensor) -> int:
    """Rows of the largest call that ``tpf.sample`` makes."""
    rows: list[int] = []
    hook = net.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[1].shape[0]))
    ours(net, x, 1)()
    hook.remove()
    return max(rows)


def sweep(net: tpf.networks.MLP, x: Tensor, rounds: int, patience: float) -> dict[int, float]:
    """Time of each chunk size over that of the fastest; the fastest comes first."""
    n = len(x)
    sizes = [size for size in CHUNKS if size < n] + [n]
    blocks = {str(size): bare(net, x, size, 10) for size in sizes}
    times = in_turns(blocks, rounds, patience)
    best = min(blocks, key=times.median)
    ratios = {size: times.ratio(str(size), best) for size in sizes}
    return {int(best): 1.0, **ratios}


def peak(name: str, width: int, n: int, steps: int) -> float:
    """Megabytes by which a sampler raises the peak of this process."""
    net = network(width)
    SAMPLERS[name](net, start(100), 2)()
    block = SAMPLERS[name](net, start(n), steps)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    block()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def memory(name: str, threads: int) -> float:
    """:func:`peak` in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def over_floor(rounds: int, patience: float) -> float:
    """Print sampling over bare calls, and the sweeps of chunk sizes; return the noise."""
    rows, sweeps, noise = [], [], 0.0
    for width, n in CASES:
        net, x = network(width), start(n)
        relative = sweep(net, x, rounds, patience)
        best, chunk = next(iter(relative)), default_chunk(net, x)
        blocks: dict[str, Callable[[], object]] = {
            "best": bare(net, x, best, STEPS),
            "same": bare(net, x, chunk, STEPS),
            "ours": ours(net, x, STEPS),
        }
        times = in_turns(blocks, rounds, patience)
        noise = max(noise, *times.others)
        case = f"4 x {width}", f"{n:,}", best, chunk, times.median("best"), times.median("ours")
        rows.append((*case, times.spread("ours", "best"), times.spread("ours", "same")))
        cells = [f"{relative[size]:.2f}" if size in relative else "" for size in CHUNKS]
        sweeps.append((f"4 x {width}, {n:,} rows", *cells, f"{relative[n]:.2f}"))
    print("## Over the network calls alone\n")
    head = ("MLP", "rows", "best chunk", "our chunk", "floor, s", "ours, s", "ours over floor")
    print(table((*head, "over calls of our chunk"), rows))
    print("Time of the calls by chunk size, over that of the best:\n")
    print(table(("", *map(str, CHUNKS), "all at once"), sweeps))
    return noise


def against_peers(peers: list[str], rounds: int, patience: float) -> float:
    """Print times, peaks and results beside those of the peers; return the noise."""
    print("## Against peers: 4 x 256, 100,000 rows\n")
    net, x = network(256), start(100_000)
    names = ["transportflows", *peers]
    samplers = {name: SAMPLERS[name](net, x, STEPS) for name in names}
    for name in names:
        SAMPLERS[name](net, x, 3)()
    times = in_turns(samplers, rounds, patience, warm=False)
    megabytes = {name: memory(name, torch.get_num_threads()) for name in names}
    states = {name: SAMPLERS[name](net, start(1000), STEPS)() for name in names}
    rows = []
    for name in names:
        difference = float((states[name] - states["transportflows"]).abs().max())
        share = megabytes["transportflows"] / megabytes[name]
        slower = times.spread(name, "transportflows")
        rows.append((name, times.median(name), slower, megabytes[name], share, difference))
    head = ("sampler", "s", "over ours", "peak, MB", "our peak over it", "largest difference of x")
    print(table(head, rows))
    return max(times.others)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for quiet rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=("floor", "peers"), help="only one of the two tables")
    parser.add_argument("--peak", choices=SAMPLERS, help="internal: print a peak and stop")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak(options.peak, 256, 100_000, 5))
        return
    peers = [name for name in PEERS if importlib.util.find_spec(name)]
    print(header(__doc__, *peers), flush=True)
    noise = 0.0
    if options.part != "peers":
        noise = max(noise, over_floor(options.rounds, options.patience))
    if options.part != "floor":
        noise = max(noise, against_peers(peers, max(3, options.rounds // 2), options.patience))
    print(
        f"Other processes took at most {100 * noise:.0f} % of the cores in the rounds that count."
    )


if __name__ == "__main__":
    main()
