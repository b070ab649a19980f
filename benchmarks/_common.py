"""What the benchmarks share: the machine, timings in turns, tables in Markdown."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import transportflows as tpf

__all__ = ["Kept", "Timings", "header", "in_turns", "interval", "seeded", "spread", "table"]


class Kept:
    """What a long benchmark has measured, row by row in a file, so that it can go on from there.

    Args:
        path: of the file, of comma-separated values.
        fields: names of the columns.
    """

    def __init__(self, path: Path, fields: Sequence[str]) -> None:
        self.path, self.fields = path, fields
        self._read: tuple[int, list[dict[str, str]]] = (0, [])

    def rows(self, **wanted: object) -> list[dict[str, str]]:
        """All rows, or those with certain values in some columns."""
        if not self.path.exists():
            return []
        size = self.path.stat().st_size
        if size != self._read[0]:
            with self.path.open() as file:
                self._read = size, list(csv.DictReader(file))
        return [r for r in self._read[1] if all(r[k] == str(value) for k, value in wanted.items())]

    def add(self, *rows: Sequence[object]) -> None:
        """Add rows."""
        fresh = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(self.fields)
            writer.writerows(rows)


def seeded(*parts: int) -> torch.Generator:
    """A generator of its own for each purpose."""
    return torch.Generator().manual_seed(sum(p * 10_007**k for k, p in enumerate(parts)) + 1)


def spread(values: Sequence[float], digits: int) -> str:
    """The mean of some values, and their deviation where there are several."""
    if not values:
        return ""
    apart = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{apart}"


def interval(values: Sequence[float], digits: int) -> str:
    """The mean of some values, and half its 95 % interval of Student's t if there are several."""
    from scipy.stats import t

    if len(values) < 2:
        return spread(values, digits)
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.{digits}f} ± {half:.{digits}f}"


def header(doc: str | None, *packages: str) -> str:
    """What was measured, when, and on what: the head of a table of results.

    Args:
        doc: docstring of the script.
        packages: distributions whose versions matter beside torch's.
    """
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in packages]
    machine = (
        f"{datetime.date.today().isoformat()}. {_processor()}, {os.cpu_count()} cores,"
        f" {torch.get_num_threads()} threads; transportflows {tpf.__version__},"
        f" {', '.join(versions)}. Load average of the machine at the start: {_load()}."
    )
    title, _, text = (doc or "").strip().partition("\n")
    text = text.split("\nRun ``")[0].replace("``", "`").strip()
    return f"# {title.rstrip('.')}\n\n{machine}\n\n{text}\n"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


@dataclass
class Timings:
    """Seconds of each block in each round that was kept.

    Attributes:
        seconds: by block.
        others: what else ran on the machine in each round: the share of all cores, at its worst.
    """

    seconds: dict[str, list[float]]
    others: list[float]

    def median(self, name: str) -> float:
        """Median seconds of a block."""
        return statistics.median(self.seconds[name])

    def ratios(self, name: str, base: str) -> list[float]:
        """Ratios of two blocks, round by round."""
        return [a / b for a, b in zip(self.seconds[name], self.seconds[base], strict=True)]

    def ratio(self, name: str, base: str) -> float:
        """The median over rounds of the ratio of two blocks of the same round."""
        return statistics.median(self.ratios(name, base))

    def spread(self, name: str, base: str) -> str:
        """That median, and the range over the rounds."""
        ratios = self.ratios(name, base)
        return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def in_turns(
    blocks: Mapping[str, Callable[[], object]],
    rounds: int,
    patience: float = 300.0,
    warm: bool = True,
) -> Timings:
    """Time blocks that take turns, in an order that alternates, so that drifts fall on all alike.

    A block waits for a quiet half second, and a round counts where other processes took less than
    5 % of the cores while any of its blocks ran. Where ``patience`` seconds do not bring enough
    such rounds, the quietest ones are kept: the choice looks at what others do, never at the times.

    Args:
        blocks: what to time.
        rounds: how many rounds to keep.
        patience: seconds after which rounds that are not quiet are taken as well.
        warm: run each block once before.
    """
    for block in blocks.values() if warm else ():
        block()
    found: list[tuple[float, dict[str, float]]] = []
    deadline = time.monotonic() + patience
    while sum(noise < 0.05 for noise, _ in found) < rounds:
        if len(found) >= rounds and time.monotonic() > deadline:
            break
        worst, seconds = 0.0, {}
        for name in list(blocks)[:: 1 if len(found) % 2 else -1]:
            _wait_for_quiet(deadline)
            meter = _OtherLoad()
            blocks[name]()
            seconds[name], share = meter.read()
            worst = max(worst, share)
        found.append((worst, seconds))
    kept = sorted(found, key=lambda one: one[0])[:rounds]
    return Timings(
        {name: [seconds[name] for _, seconds in kept] for name in blocks},
        [noise for noise, _ in kept],
    )


class _OtherLoad:
    """What other processes use of the cores from now on."""

    def __init__(self) -> None:
        self.wall, self.own, self.busy = time.perf_counter(), time.process_time(), _busy()

    def read(self) -> tuple[float, float]:
        """Seconds since then, and the share of all cores that others used."""
        wall, own = time.perf_counter() - self.wall, time.process_time() - self.own
        others = _busy() - self.busy - own
        return wall, max(0.0, others / (wall * (os.cpu_count() or 1)))


def _busy() -> float:
    """Seconds that all cores together have worked since the start; 0 where it is not known."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return time.process_time()
    user, nice, system, _, _, irq, soft, steal = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _wait_for_quiet(deadline: float) -> None:
    while time.monotonic() < deadline:
        meter = _OtherLoad()
        time.sleep(0.5)
        if meter.read()[1] < 0.05:
            return


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; floats with four significant digits."""
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
