"""The time and memory of a step with each network.

A training step is the velocity's regression with Adam, by ``Trainer.fit``; an RK4 step is
``sample(..., scheme="rk4", steps=1)``, four calls of the network, without gradients. Each network
is timed in a process of its own, on one thread, in seconds of processor time (on a card, of the
clock): the median of three rounds, and the range. Memory is what the process came to hold at its
most beyond what it held before the network was made: weights, gradients, the two moments of Adam,
and activations; in sampling the weights and activations alone. That of diffusers has its modules in
it. On a processor bfloat16 is left out: without units for it a step takes minutes.

Run ``python benchmarks/networks.py``; ``--device cuda`` on a machine with a card.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import transportflows as tpf
from _common import header, table

N = tpf.networks
RESULTS = Path(__file__).parent / "results" / "networks.md"
SHAPE, ROWS, ROUNDS = (3, 64, 64), 4, 3


def diffusers_unet() -> nn.Module:
    """A U-Net of diffusers with the channels, blocks and attention of ours."""
    import diffusers

    net = diffusers.UNet2DModel(
        sample_size=64,
        in_channels=3,
        out_channels=3,
        block_out_channels=(64, 128, 128, 128),
        layers_per_block=2,
        attention_head_dim=32,
        down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
    )

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.net(x, 1000 * t, return_dict=False)[0]
            return out

    return Adapted()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "UNet, defaults": (lambda: N.UNet(SHAPE), ""),
    "UNet, channels-last": (lambda: N.UNet(SHAPE).to(memory_format=torch.channels_last), "last"),
    "UNet, bfloat16 autocast": (lambda: N.UNet(SHAPE), "bf16"),
    "UNet2DModel of diffusers": (diffusers_unet, ""),
    "DiT, patch 4, width 320": (lambda: N.DiT(SHAPE, patch=4, width=320, attention_heads=5), ""),
    "the same, fused attention": (
        lambda: N.DiT(SHAPE, patch=4, width=320, attention_heads=5, fused=True),
        "",
    ),
    "MLP, width 350": (lambda: N.MLP(SHAPE, width=350, depth=4), ""),
    "UNet, width 16, (1, 2, 2), 1 block": (lambda: N.UNet(SHAPE, 16, (1, 2, 2), 1), ""),
}


def peak(device: str) -> float:
    """Megabytes held at most until now."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def seconds(call: Callable[[], object], device: str) -> list[float]:
    """Of each round after a first one that is not counted."""
    times, clock = [], time.perf_counter if device == "cuda" else time.process_time
    for _ in range(ROUNDS + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return times[1:]


def measure(name: str, what: str, device: str, rows: int) -> dict[str, Any]:
    """One network, in training or in sampling."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, how = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, *SHAPE, generator=generator).to(device)
    if how == "last":
        x = x.contiguous(memory_format=torch.channels_last)
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian(SHAPE))
    warm = tpf.Velocity(lambda t, x: 0.5 * x, process)  # what libraries load is not the network's
    tpf.sample(warm, 2, scheme="rk4", steps=1, generator=generator)
    before = peak(device)
    field = tpf.Velocity(make(), process).to(device)
    if what == "training":
        trainer = tpf.Trainer(field, autocast=torch.bfloat16 if how == "bf16" else None)
        call: Callable[[], object] = lambda: trainer.fit(  # noqa: E731
            x, steps=1, batch_size=rows, progress=False, generator=None
        )
    else:

        def call() -> object:
            with torch.autocast(device, torch.bfloat16, enabled=how == "bf16"):
                return tpf.sample(field, start=x, scheme="rk4", steps=1, chunk=rows)

    times = seconds(call, device)
    count = sum(p.numel() for p in field.parameters())
    return {"seconds": times, "memory": peak(device) - before, "parameters": count}


def row(name: str, device: str, rows: int) -> list[str]:
    """A network's line of the table."""
    cells, parameters = [], 0
    for what in ("training", "sampling"):
        given = [sys.executable, __file__, "--one", name, what, "--device", device]
        done = subprocess.run([*given, "--rows", str(rows)], capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["?"])[-1]
            cells += [f"failed: {last[:60]}", ""]
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        times, parameters = found["seconds"], found["parameters"]
        cells.append(f"{statistics.median(times):.3g} ({min(times):.3g} to {max(times):.3g})")
        cells.append(f"{found['memory']:,.0f}")
        print(name, what, *cells[-2:], flush=True)
    return [name, f"{parameters / 1e6:.2f} M", *cells]


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "WHAT"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=ROWS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(*given.one, given.device, given.rows)))
        return
    # A processor without units for bfloat16 takes minutes for a step in it.
    names = [n for n, (_, how) in NETWORKS.items() if given.device == "cuda" or how != "bf16"]
    lines = [row(name, given.device, given.rows) for name in names]
    device = "one thread" if given.device == "cpu" else torch.cuda.get_device_name()
    heads = ["network", "parameters", "training step, s", "MB", "RK4 step, s", "MB"]
    text = f"{header(__doc__)}\n## {given.rows} images of 3 x 64 x 64, float32, {device}\n\n"
    text += table(heads, lines)
    print(text)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
