"""What the benchmarks share: the machine, timings in turns, tables in Markdown."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

import transportflows as tpf

__all__ = ["header", "in_turns", "over", "ratio", "table"]

Times = Mapping[str, Sequence[float]]


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


def in_turns(blocks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each block in each round; the blocks take turns, in an order that alternates.

    So whatever else the machine does falls on all alike. One round goes first to warm up.
    """
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for turn in range(-1, rounds):
        for name in list(blocks)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            blocks[name]()
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def over(times: Times, name: str, base: str) -> list[float]:
    """Ratios of two blocks, round by round."""
    return [a / b for a, b in zip(times[name], times[base], strict=True)]


def ratio(times: Times, name: str, base: str) -> float:
    """The median over rounds of the ratio of two blocks of the same round."""
    return statistics.median(over(times, name, base))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; floats with four significant digits."""
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
