"""What training and sampling cost, before and now: two workers that take turns.

Each worker is a process of its own with one thread, on the ``src`` of its own tree; this file is
its script. Asked for a case, it runs it and tells its seconds: CPU time of the process, which on
one thread is the time it would take on a free core, so that neighbours on the machine count less.
Every round has new workers, whose malloc keeps its pages (``_MEMORY``): otherwise where a process
happens to have its memory changes the time of 10,000 rows by 40 % for as long as it lives.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from _house import find, seeded, tpf

__all__ = ["CASES", "FLOOR", "Worker", "costs", "spread"]

FLOOR = "forward, backward, torch's fused Adam"
CASES = {
    FLOOR: 200,
    "training step, EMA and history": 200,
    "sample: Heun, 20 steps, ODE, 1,000 rows": 3,
    "sample: Heun, 20 steps, ODE, 10,000 rows": 1,
    "sample: Heun, 20 steps, ε = 0.5, 1,000 rows": 3,
    "sample: Heun, 20 steps, ε = 0.5, 10,000 rows": 1,
    "sample: dpm2m, 20 calls, 1,000 rows": 5,
}
"""Cases, and how often each is repeated in a round."""

_BATCH = 256
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31)}


def _network() -> nn.Module:
    return find("MLP")(2, width=64, depth=4, generator=seeded(0))


def _field() -> nn.Module:
    return tpf.Velocity(_network(), tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))


def _floor() -> Callable[[int], object]:
    net = _network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    x = torch.randn(_BATCH, 2, generator=seeded(0))
    target = torch.randn(_BATCH, 2, generator=seeded(1))
    t = torch.rand(_BATCH, generator=seeded(2))

    def block(steps: int) -> None:
        for _ in range(steps):
            nn.functional.mse_loss(net(t, x), target).backward()
            optimizer.step()
            optimizer.zero_grad()

    return block


def _training() -> Callable[[int], object]:
    data = torch.randn(50_000, 2, generator=seeded(0))
    trainer = tpf.Trainer(_field(), tpf.VelocityLoss(), lr=1e-3, ema=0.999)
    return lambda steps: trainer.fit(data, steps=steps, batch_size=_BATCH, progress=False)


def _sampling(case: str) -> Callable[[int], object]:
    field = _field()
    n = int(case.split(",", 1)[1].replace(",", "").split()[-2])
    x: Tensor = torch.randn(n, 2, generator=seeded(1))
    options = {"scheme": "dpm2m" if "dpm2m" in case else "heun", "steps": 20}
    epsilon = 0.5 if "ε = 0.5" in case else 0.0

    def block(times: int) -> None:
        for _ in range(times):
            tpf.sample(field, start=x, epsilon=epsilon, generator=seeded(2), **options)

    return block


def serve() -> None:
    """Answer on standard output, one line for each case asked for."""
    torch.set_num_threads(1)
    blocks: dict[str, Callable[[int], object]] = {}
    print(Path(str(sys.modules["transportflows"].__file__)).parents[2], flush=True)
    for line in sys.stdin:
        case = line.strip()
        if case not in blocks:
            make = {FLOOR: _floor, "training step, EMA and history": _training}.get(case)
            blocks[case] = make() if make is not None else _sampling(case)
            blocks[case](1 if CASES[case] < 10 else 20)
        begun = time.process_time()
        blocks[case](CASES[case])
        print((time.process_time() - begun) / CASES[case], flush=True)


class Worker:
    """A process that runs cases on the library of one tree.

    Args:
        tree: a checkout.
    """

    def __init__(self, tree: Path) -> None:
        source = (tree / "src").resolve()
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **_MEMORY, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        )
        found = Path(self._line())
        if found != source.parent:
            self.close()
            raise RuntimeError(f"the library of {tree} was asked for, and that of {found} came")

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError("a worker ended; its error stands above")
        return line

    def seconds(self, case: str) -> float:
        """Seconds of one repetition."""
        assert self.process.stdin is not None
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(timeout=60)


def costs(before: Path, now: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by case and tree, one of each round; who goes first alternates."""
    found: dict[str, dict[str, list[float]]] = {c: {"before": [], "now": []} for c in CASES}
    for k in range(rounds):
        workers = {"before": Worker(before), "now": Worker(now)}
        try:
            for case in CASES:
                for who in list(workers)[:: 1 if k % 2 else -1]:
                    found[case][who].append(workers[who].seconds(case))
        finally:
            for worker in workers.values():
                worker.close()
    return found


def spread(a: list[float], b: list[float]) -> str:
    """Median of the ratios of the rounds, and their range."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


if __name__ == "__main__":
    tpf.Velocity  # noqa: B018  (imports the library of this tree)
    serve()
