"""Runs that are killed at random moments, and end with the bits of a run that was not.

A short run (EMA, cosine schedule, validation, a checkpoint every 7 steps, of which 2 are kept) is
killed by SIGKILL at a random moment, every third time while a checkpoint is written: at a random
`fsync`, after which its file would take its name. Then every checkpoint in its folder is read, and
the run is started again with `resume=True` and goes to its end. Its last checkpoint (weights,
averages, optimizer, history, without the seconds that steps took) is compared with that of a run
that nobody killed, number by number. One thread; twelve kinds of runs: tensors, pairs, a Dataset
with augmentation, a law, a loader that knows its place, a stream, two networks with two losses and
minibatch transport, labels, an early stop, OneCycle with SGD, ReduceLROnPlateau with AdamW, parts
and clipping.

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: processes are forked from this one

import numpy as np
import torch
import torch._dynamo  # optimizers import it at their first step; here, once for all forks
from torch.utils.data import Dataset, IterableDataset

import transportflows as tpf
from _common import header, table

STEPS, EVERY = 150, 7
KINDS = (
    *("tensors", "pairs", "dataset", "law", "loader", "stream", "two networks", "labels"),
    *("early stop", "one cycle", "plateau", "parts and clip"),
)


class Jittered(Dataset[torch.Tensor]):
    """Rows with noise from torch's, numpy's and Python's generators, as an augmentation draws."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, k: int) -> torch.Tensor:
        noise = torch.rand(2) + np.random.rand() + random.random()  # noqa: NPY002
        return self.rows[k] + 0.1 * noise


class Stream(IterableDataset[torch.Tensor]):
    """A stream that shuffles and makes its items anew in each epoch."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[torch.Tensor]:
        for k in torch.randperm(len(self.rows)).tolist():
            yield self.rows[k] + 0.1 * torch.randn(2)


class Loader:
    """A loader that knows its place."""

    batch_size = 37

    def __init__(self, rows: torch.Tensor) -> None:
        self.dataset, self.place, self.order = rows, 0, list[int]()

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self.place in (0, len(self)):
            self.place, self.order = 0, torch.randperm(len(self.dataset)).tolist()
        while self.place < len(self):
            self.place += 1
            yield self.dataset[self.order[37 * (self.place - 1) : 37 * self.place]]

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place, self.order = state["place"], state["order"]


def made(kind: str, generator: torch.Generator) -> tpf.Trainer:
    """The trainer of a kind of run."""
    schedulers = torch.optim.lr_scheduler

    def net(**more: Any) -> tpf.networks.MLP:
        return tpf.networks.MLP(2, 32, 3, generator=generator, **more)

    normal = tpf.Gaussian((2,))
    if kind == "pairs":
        field: tpf.Field = tpf.Velocity(net(), tpf.Process(tpf.Linear(), None, tpf.Paired()))
    elif kind == "two networks":
        law = tpf.Process(tpf.Linear(tpf.Brownian()), normal, tpf.MinibatchOT())
        field = tpf.FieldPair(velocity=net(), noise=net(), process=law)
        losses = [tpf.VelocityLoss(antithetic=True), tpf.NoiseLoss()]
        return tpf.Trainer(field, losses, ema=0.99)
    else:
        labels = 3 if kind == "labels" else None
        field = tpf.Velocity(net(labels=labels), tpf.Process(tpf.Linear(), normal))
    options: dict[str, Any] = {"ema": 0.99, "scheduler": "cosine", "warmup": 20}
    if kind == "one cycle":
        sgd = lambda ps: torch.optim.SGD(ps, 1e-2, momentum=0.9)  # noqa: E731
        cycle = lambda o: schedulers.OneCycleLR(o, 0.01, total_steps=STEPS)  # noqa: E731
        options = {"optimizer": sgd, "scheduler": cycle}
    elif kind == "plateau":
        plateau = lambda o: schedulers.ReduceLROnPlateau(o, patience=0)  # noqa: E731
        options = {"optimizer": torch.optim.AdamW, "scheduler": plateau}
    elif kind == "parts and clip":
        options = {"ema": 0.99, "accumulate": 3, "clip": 0.5, "scheduler": "step"}
    return tpf.Trainer(field, tpf.VelocityLoss(), **options)


def train(kind: str, folder: Path) -> None:
    """The run: the same script whether it begins or goes on."""
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(500, 2, generator=generator)
    trainer = made(kind, generator)
    held_out: Any = (rows[:64], rows[:64] + 1) if kind == "pairs" else rows[:64]
    label = torch.arange(500) % 3
    if kind == "labels":
        held_out = tpf.Batch(rows[:64], cond={"label": label[:64]})
    data: Any = {
        "pairs": (rows, rows + 1),
        "dataset": Jittered(rows),
        "law": tpf.distributions.GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), 0.3),
        "loader": Loader(rows),
        "stream": Stream(rows),
        "labels": tpf.Batch(rows, cond={"label": label}),
    }.get(kind, rows)
    trainer.fit(
        data,
        steps=STEPS,
        batch_size=None if kind == "loader" else 37,
        validation=held_out,
        validation_every=15,
        checkpoints=tpf.training.Checkpoints(folder, every=EVERY, keep=2),
        callbacks=[tpf.training.EarlyStop(3)] if kind == "early stop" else [],
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


def train_until(kind: str, folder: Path, at: int | None) -> None:
    """The run, which kills itself when file number ``at`` is written, and has no name yet."""
    sync, left = os.fsync, at

    def fsync(file: int) -> None:
        nonlocal left
        if left is not None and list(folder.glob(".step-*.tmp")):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        sync(file)

    if at is not None:
        os.fsync = fsync
    train(kind, folder)


def killed(kind: str, folder: Path, seconds: float, in_write: bool, draw: random.Random) -> bool:
    """Start a run and kill it; whether it was still running."""
    at = draw.randrange(STEPS // EVERY) if in_write else None
    child = forked(lambda: train_until(kind, folder, at))
    if at is None:
        time.sleep(draw.uniform(0.0, 0.95 * seconds))
    else:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def run(
    kills: int = 204, seed: int = 0, kinds: Sequence[str] = KINDS
) -> tuple[str, tuple[str, ...], list[tuple[Any, ...]]]:
    """Kill, resume and compare; a row for each kind of run."""
    torch.set_num_threads(1)  # where torch was imported before this file
    draw = random.Random(seed)
    rows: list[tuple[Any, ...]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind in kinds:
            rows.append(_row(kind, kills // len(kinds), Path(scratch), draw))
            print(*rows[-1], file=sys.stderr, flush=True)
    head = ("run", "killed", "in a write", "resumed from step", "unreadable files", "same bits")
    return f"{kills // len(kinds) * len(kinds)} runs killed", head, rows


def _row(kind: str, wanted: int, scratch: Path, draw: random.Random) -> tuple[Any, ...]:
    """What became of the runs of a kind."""
    whole, steps, tries = scratch / f"{kind}-whole", list[int](), 0
    began = time.perf_counter()
    if not finished(forked(lambda: train(kind, whole))):
        raise RuntimeError(f"the run {kind} fails without being killed")
    seconds, goal = time.perf_counter() - began, end(whole)
    in_writes = same = bad = 0
    while len(steps) < wanted:
        folder = scratch / f"{kind}-{tries}"
        folder.mkdir()
        tries += 1
        if not killed(kind, folder, seconds, tries % 3 == 0, draw):
            continue
        in_writes += len(list(folder.glob(".step-*.tmp")))
        bad += unreadable(folder)
        files = tpf.training.Checkpoints(folder).files()
        steps.append(int(files[-1].stem[5:]) if files else 0)
        went_on = finished(forked(lambda f=folder: train(kind, f)))  # type: ignore[misc]
        left = list(folder.glob(".*"))
        same += went_on and not left and equal(end(folder), goal)
    span = f"{min(steps)} to {max(steps)}"
    return kind, wanted, in_writes, span, bad, f"{same} of {wanted}"


def main() -> None:
    """Kill, resume, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=204, help="in all, over the kinds of runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(header(__doc__))
    _, head, rows = run(options.kills, options.seed)
    print(table(head, rows))
    fine = all(row[4] == 0 and row[5] == f"{row[1]} of {row[1]}" for row in rows)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
