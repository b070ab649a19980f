"""Small solves, beside those of peers: 1,000 rows of an MLP of 4 x 64, 20 calls of it.

What a call of the network costs is the same for all, so that a ratio tells what is done around it.
Each block is one whole solve, as each package's documentation has it, in float32 under no_grad;
schedules and schedulers are made once, outside of it, and ours are told by name. One thread, one
process; medians over rounds in which all take turns, rounds in which others worked do not count.

*bare* is 20 calls of the network and nothing else. *Ours over it* below 1 means that ours is
faster than the peer in that row.

Run ``python benchmarks/small_solves.py [--rounds 60] [--patience 300]``; flow_matching, azula and
diffusers are asked for where they are installed, or unpacked in folders given by ``--peer``.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, in_turns, table

ROWS, CALLS = 1000, 20
LEVELS = (0.01, 50.0)
Block = Callable[[], Tensor]


def network() -> tpf.networks.MLP:
    """The network of all of them."""
    return tpf.networks.MLP(2, 64, depth=4, generator=torch.Generator().manual_seed(0)).eval()


def one_step(net: tpf.networks.MLP, x: Tensor) -> dict[str, dict[str, Block]]:
    """By scheme: our solve of an ODE, and those of flow_matching and torchdiffeq."""
    from torchdiffeq import odeint

    field = tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
    found: dict[str, dict[str, Block]] = {}
    for scheme, calls in (("euler", 1), ("midpoint", 2), ("rk4", 4)):
        steps = CALLS // calls
        grid = torch.linspace(0, 1, steps + 1)
        found[scheme] = {
            "ours": lambda s=scheme, k=steps: tpf.sample(field, start=x, scheme=s, steps=k).x,
            "torchdiffeq": lambda s=scheme, g=grid: odeint(net, x, g, method=s)[-1],
        }
        if scheme == "rk4":
            continue  # torchdiffeq's "rk4" is the 3/8 rule: of the same four calls
        if importlib.util.find_spec("flow_matching"):
            from flow_matching.solver import ODESolver
            from flow_matching.utils import ModelWrapper

            class Wrapped(ModelWrapper):  # type: ignore[misc]
                def forward(self, x: Tensor, t: Tensor, **extras: object) -> Tensor:
                    return self.model(t, x)  # type: ignore[no-any-return]

            solver = ODESolver(velocity_model=Wrapped(net))
            found[scheme]["flow_matching"] = lambda s=scheme, k=steps, v=solver: v.sample(
                x_init=x, method=s, step_size=1 / k
            )
    return found


def few_steps(net: tpf.networks.MLP, x: Tensor) -> dict[str, dict[str, Block]]:
    """By scheme: our solve of a VE process, and those of azula and diffusers on its levels."""
    from _few_step_peers import AZULA, DIFFUSERS

    field = tpf.DataPredictor(net, tpf.Process(tpf.VE(*LEVELS), shape=(2,)))
    peers = {}
    if importlib.util.find_spec("azula"):
        peers |= AZULA
    if importlib.util.find_spec("diffusers"):
        peers |= DIFFUSERS
    same = {
        "ddim": ("azula DDIM", "azula Euler", "diffusers Euler"),
        "heun": ("azula Heun", "diffusers Heun"),
        "dpm2m": ("azula xEAB 2", "diffusers DPM++ 2M"),
        "dpm3m": ("azula xEAB 3", "diffusers DPM++ 3M"),
        "deis2": ("azula zEAB 2", "diffusers DEIS 2"),
        "deis3": ("azula zEAB 3", "diffusers DEIS 3"),
        "ab2": ("azula zAB 2",),
        "ab3": ("azula zAB 3",),
        "unipc2": ("diffusers UniPC 2",),
        "unipc3": ("diffusers UniPC 3",),
    }
    part, time = field.process.part, torch.tensor(0.5)

    def denoise(y: Tensor, level: Tensor) -> Tensor:
        return net(time, y)  # type: ignore[return-value]

    found: dict[str, dict[str, Block]] = {}
    for scheme, names in same.items():
        steps = CALLS // 2 if scheme == "heun" else CALLS
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        levels = (part.scale(t) / part.path.beta(t)).float()
        found[scheme] = {
            "ours": lambda s=scheme, k=steps: tpf.sample(field, start=x, scheme=s, steps=k).x
        }
        for name in names:
            if name in peers:
                run = peers[name][0]
                found[scheme][name] = lambda r=run, u=levels: r(denoise, x, u)
    return found


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--patience", type=float, default=300.0, help="seconds to wait for quiet")
    parser.add_argument("--peer", nargs="*", default=())
    given = parser.parse_args()
    sys.path += given.peer
    torch.set_num_threads(1)
    net, x = network(), torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1))
    time = torch.tensor(0.5)

    def bare() -> Tensor:
        for _ in range(CALLS):
            out = net(time, x)
        return out  # type: ignore[return-value]

    rows = []
    with torch.no_grad():
        for scheme, blocks in {**one_step(net, x), **few_steps(net, x)}.items():
            found = in_turns({"bare": bare, **blocks}, given.rounds, given.patience)
            for name in blocks:
                over = "" if name == "ours" else f"{found.ratio('ours', name):.2f}"
                own = f"{found.ratio('ours', 'bare'):.2f}" if name == "ours" else ""
                rows.append([scheme, name, f"{1e3 * found.median(name):.2f}", over, own])
                print(*rows[-1], flush=True)
    packages = ("torchdiffeq", "flow_matching", "azula", "diffusers")
    text = header(__doc__, *packages) + table(
        ["scheme", "whose", "ms", "ours over it", "over the bare calls"], rows
    )
    (Path(__file__).parent / "results" / "small_solves.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
