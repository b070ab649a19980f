"""Runs that are killed at random moments, and end with the bits of a run that was not.

A short run (EMA, cosine schedule, validation, a checkpoint every 7 steps, of which 2 are kept) is
killed by SIGKILL at a random moment, every third time as soon as the file of a checkpoint that is
being written appears. Then every checkpoint in its folder is read, and the run is started again
with `resume=True` and goes to its end. Its last checkpoint (weights, averages, optimizer, history,
without the seconds that steps took) is compared with that of a run that nobody killed, number by
number. One thread; data of four kinds: tensors, pairs, a Dataset with augmentation, a law.

Run ``python benchmarks/survival.py``; prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: processes are forked from this one

import numpy as np
import torch
import torch._dynamo  # optimizers import it at their first step; here, once for all forks
from torch.utils.data import Dataset

import transportflows as tpf
from _common import header, table

STEPS, EVERY = 400, 7
KINDS = ("tensors", "pairs", "dataset", "law")


class Jittered(Dataset[torch.Tensor]):
    """Rows with noise from torch's, numpy's and Python's generators, as an augmentation draws."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, k: int) -> torch.Tensor:
        noise = torch.rand(2) + np.random.rand() + random.random()  # noqa: NPY002
        return self.rows[k] + 0.1 * noise


def train(kind: str, folder: Path) -> None:
    """The run: the same script whether it begins or goes on."""
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(500, 2, generator=generator)
    coupling = tpf.Paired() if kind == "pairs" else None
    process = tpf.Process(tpf.Linear(), None if coupling else tpf.Gaussian((2,)), coupling)
    field = tpf.Velocity(tpf.networks.MLP(2, 32, 3, generator=generator), process)
    trainer = tpf.Trainer(field, tpf.VelocityLoss(), ema=0.99, scheduler="cosine", warmup=20)
    held_out = (rows[:64], rows[:64] + 1) if kind == "pairs" else rows[:64]
    data: Any = {
        "tensors": rows,
        "pairs": (rows, rows + 1),
        "dataset": Jittered(rows),
        "law": tpf.distributions.GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), 0.3),
    }[kind]
    trainer.fit(
        data,
        steps=STEPS,
        batch_size=37,
        validation=held_out,
        validation_every=30,
        checkpoints=tpf.training.Checkpoints(folder, every=EVERY, keep=2),
        resume=True,
        generator=generator,
        progress=False,
    )


def forked(work: Callable[[], None]) -> int:
    """A process that does some work; its number."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def finished(child: int) -> bool:
    """Wait for a process; whether it ended well."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def end(folder: Path) -> tuple[int, dict[str, Any]]:
    """The last checkpoint of a run: its step, and what must be the same."""
    found = tpf.training.Checkpoints(folder).newest()
    assert found is not None
    state = found[2]
    columns = state["history"]["columns"]
    for name in [name for name in columns if name.startswith("pace")]:
        del columns[name]
    return state["step"], state


def equal(a: Any, b: Any) -> bool:
    """Whether two trees hold the same bits."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b, equal_nan=True)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def unreadable(folder: Path) -> int:
    """How many files that bear the name of a checkpoint cannot be read."""
    bad = 0
    for path in tpf.training.Checkpoints(folder).files():
        try:
            tpf.training.read_checkpoint(path)
        except ValueError:
            bad += 1
    return bad


def killed(kind: str, folder: Path, seconds: float, in_write: bool, draw: random.Random) -> bool:
    """Start a run and kill it; whether it was still running."""
    child = forked(lambda: train(kind, folder))
    time.sleep(draw.uniform(0.0, 0.95 * seconds))
    while in_write and not list(folder.glob(".step-*.tmp")):
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main() -> None:
    """Kill, resume, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=52, help="in all, over the kinds of data")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    print(header(__doc__))
    rows = []
    all_same = True
    with tempfile.TemporaryDirectory() as scratch:
        for kind in KINDS:
            whole = Path(scratch) / f"{kind}-whole"
            began = time.perf_counter()
            assert finished(forked(lambda k=kind, w=whole: train(k, w)))  # type: ignore[misc]
            seconds = time.perf_counter() - began
            goal = end(whole)
            kills = in_writes = same = bad = 0
            steps = []
            tries = 0
            while kills < options.kills // len(KINDS):
                folder = Path(scratch) / f"{kind}-{tries}"
                folder.mkdir()
                tries += 1
                if not killed(kind, folder, seconds, tries % 3 == 0, draw):
                    continue
                kills += 1
                in_writes += len(list(folder.glob(".step-*.tmp")))
                bad += unreadable(folder)
                files = tpf.training.Checkpoints(folder).files()
                steps.append(int(files[-1].stem[5:]) if files else 0)
                went_on = finished(forked(lambda k=kind, f=folder: train(k, f)))  # type: ignore[misc]
                left = list(folder.glob(".step-*.tmp"))
                same += went_on and not left and equal(end(folder), goal)
            all_same &= same == kills and bad == 0
            span = f"{min(steps)} to {max(steps)}"
            rows.append((kind, kills, in_writes, span, bad, f"{same} of {kills}"))
    head = ("data", "killed", "in a write", "resumed from step", "unreadable files", "same bits")
    print(table(head, rows))
    sys.exit(0 if all_same else 1)


if __name__ == "__main__":
    main()
