"""What the benchmarks of metrics share: laws, and a process of its own for peak memory."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["alone", "chang"]


def chang(d: int, n: int, seed: int) -> Tensor:
    """Chang's mixture of four unit Gaussians, d = 2 (about a cross) or more (at e_1 .. e_4)."""
    generator = torch.Generator().manual_seed(seed)
    cross = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    means = cross if d == 2 else torch.eye(d, dtype=torch.float64)[:4]
    label = torch.randint(4, (n,), generator=generator)
    return means[label] + torch.randn(n, d, generator=generator, dtype=torch.float64)


def _work(
    send: Any, function: Callable[..., Any], arguments: tuple[Any, ...], threads: int
) -> None:
    torch.set_num_threads(threads)
    started = time.perf_counter()
    value = function(*arguments)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    send.send((value, seconds, peak))


def alone(
    function: Callable[..., Any], *arguments: Any, threads: int = 2
) -> tuple[Any, float, float]:
    """Value, seconds and peak resident GiB (the interpreter's 0.3 included) in a new process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(send, function, arguments, threads))
    worker.start()
    send.close()
    try:
        found = receive.recv()
    finally:
        worker.join()
    return found  # type: ignore[no-any-return]
