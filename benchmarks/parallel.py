"""Data-parallel training: two processes against one, their numbers and their pace.

*Numbers*: 200 steps (MLP 3 x 32, batch 64, EMA, clipping, cosine schedule, float32) by one process
and by two (gloo), on the same sequence of batches; relative differences, of norms, of the losses,
the weights and 100 samples of an SDE (Heun, 20 steps) drawn with the averages.

*Pace*: rows a second of an MLP 4 x 256 at batch 4,096, for one process of one thread, one of two
threads, and two of one thread each, in turns; medians over rounds of ratios within a round.

*Messages*: milliseconds a step of the same two processes of one thread, with gradients added up
after the backward pass in one message of all of them, in it by DistributedDataParallel as ``fit``
does, and not at all (each process by itself: what messages and waits cost), in turns.

Run ``python benchmarks/parallel.py [--part messages]``; prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import transportflows as tpf
from _common import header, table
from transportflows._core import distributed
from transportflows._core.distributed import world
from transportflows.training import objective

HERE = Path(__file__)
STEPS, BATCH = 200, 4096


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of a seed."""
    return torch.Generator().manual_seed(seed)


def numbers(path: Path) -> None:
    """Train, sample, and leave what came out in a file."""
    law = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))
    field = tpf.Velocity(tpf.networks.MLP(2, 32, 3, generator=seeded(1)), law)
    trainer = tpf.Trainer(field, tpf.VelocityLoss(), ema=0.99, clip=1.0, scheduler="cosine")
    data = tpf.datasets.checkerboard(5_000, generator=seeded(2))
    trainer.fit(data, steps=STEPS, batch_size=64, generator=seeded(3), progress=False)
    with trainer.averaged():
        x = tpf.sample(field, 100, epsilon=0.5, steps=20, distributed=True, generator=seeded(4)).x
    if trainer.world.first:
        loss = torch.from_numpy(trainer.history.loss)
        weights = torch.cat([p.detach().reshape(-1) for p in trainer.parameters])
        torch.save({"losses": loss, "weights": weights, "samples": x}, path)


def pace(path: Path, steps: int) -> None:
    """Train, and leave the rows a second."""
    law = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))
    field = tpf.Velocity(tpf.networks.MLP(2, 256, 4, generator=seeded(1)), law)
    trainer = tpf.Trainer(field, tpf.VelocityLoss(), ema=0.999)
    data = tpf.datasets.checkerboard(50_000, generator=seeded(2))
    trainer.fit(data, steps=10, batch_size=BATCH, generator=seeded(3), progress=False)
    told = trainer.fit(data, steps=steps, batch_size=BATCH, progress=False).pace
    if world().first:
        rate = float(told.rows[1:].sum() / told.seconds[1:].sum())
        path.write_text(json.dumps(rate))


MESSAGES = {"4 x 256, batch 4,096": (256, 4096, 40), "4 x 1024, batch 256": (1024, 256, 20)}
"""Width, batch and steps of each network whose messages are timed."""


@contextmanager
def messages(how: str) -> Iterator[None]:
    """Have gradients added up in one way or another."""
    kept = objective.Replicas, distributed.World.sum_gradients
    try:
        if how != "in the backward pass":
            objective.Replicas = lambda *_: None
        if how == "not at all":
            distributed.World.sum_gradients = lambda *_: None
        yield
    finally:
        objective.Replicas, distributed.World.sum_gradients = kept


def message_times(path: Path, rounds: int) -> None:
    """Time the ways, and leave the milliseconds a step of each round."""
    told: dict[str, dict[str, list[float]]] = {}
    ways = ("after the backward pass", "in the backward pass", "not at all")
    data = tpf.datasets.checkerboard(50_000, generator=seeded(2))
    for name, (width, batch, steps) in MESSAGES.items():
        law = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))
        field = tpf.Velocity(tpf.networks.MLP(2, width, 4, generator=seeded(1)), law)
        trainer = tpf.Trainer(field, tpf.VelocityLoss(), ema=0.999)
        times = told[name] = {way: [] for way in ways}
        for turn in range(rounds + 1):
            for way in ways[:: 1 if turn % 2 else -1]:
                with messages(way):
                    world().all_values(0)
                    began = time.perf_counter()
                    trainer.fit(
                        data, steps=steps, batch_size=batch, generator=seeded(3), progress=False
                    )
                    world().all_values(0)
                    if turn:  # the first is for warmth
                        times[way].append((time.perf_counter() - began) / steps * 1e3)
    if world().first:
        path.write_text(json.dumps(told))


def print_messages(told: dict[str, dict[str, list[float]]]) -> None:
    """The table of the ways to send gradients."""
    rows = []
    for name, times in told.items():
        for way, own in times.items():
            base = times["after the backward pass"]
            ratios = [a / b for a, b in zip(own, base, strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            rows.append((name, way, f"{statistics.median(own):.1f}", spread))
    print("## Messages\n")
    print(table(("network", "gradients are added up", "ms a step", "over after"), rows))


def run(processes: int, threads: int, *words: str) -> None:
    """This script in so many processes, each of so many threads."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    subprocess.run(
        [*command, str(HERE), *words],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stderr=subprocess.DEVNULL,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--part", choices=("all", "pace", "messages"), default="all")
    parser.add_argument("--worker", nargs=2, metavar=("WHAT", "FILE"))
    options = parser.parse_args()
    if options.worker:
        what, file = options.worker
        if what == "messages":
            message_times(Path(file), options.rounds)
        else:
            numbers(Path(file)) if what == "numbers" else pace(Path(file), options.steps)
        return
    if options.part in ("all", "messages"):
        head = header(__doc__)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "messages"
            run(2, 1, "--worker", "messages", str(file), "--rounds", str(options.rounds))
            told = json.loads(file.read_text())
        if options.part == "messages":
            print(head)
            print_messages(told)
            return
    print(header(__doc__))
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / f"{k}.pt" for k in (1, 2)]
        for processes, file in enumerate(files, 1):
            run(processes, 1, "--worker", "numbers", str(file))
        one, two = (torch.load(file, weights_only=True) for file in files)
        print("## Numbers\n")
        rows = [(k, f"{float((one[k] - two[k]).norm() / one[k].norm()):.1e}") for k in one]
        print(table(("of two processes against one", "relative difference"), rows))
        ways = {"one of one thread": (1, 1), "one of two threads": (1, 2), "two of one": (2, 1)}
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(options.rounds):
            for name in list(ways)[:: 1 if turn % 2 else -1]:
                file = Path(scratch) / "rate"
                run(*ways[name], "--worker", "pace", str(file), "--steps", str(options.steps))
                rates[name].append(json.loads(file.read_text()))
    base = rates["one of two threads"]
    rows = []
    for name, own in rates.items():
        ratios = [a / b for a, b in zip(own, base, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append((name, round(statistics.median(own)), spread))
    print("## Pace\n")
    print(table(("processes", "rows a second", "over one of two threads"), rows))
    if options.part == "all":
        print_messages(told)


if __name__ == "__main__":
    main()
