"""The bound on waits between processes: one that dies, one that sleeps, and what the others say."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from test_distributed import SCRIPT, environment


def without_torchrun(folder, word, dead):
    """Two processes that nobody watches; what the one that is not ``dead`` said, and when."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {**environment(), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    common |= {"MASTER_PORT": str(port)}
    began, runs = time.monotonic(), []
    for rank in (0, 1):
        runs.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(folder), word],
                env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        text = runs[1 - dead].communicate(timeout=250)[1]
        return runs[1 - dead].returncode, text, time.monotonic() - began
    finally:
        for run in runs:
            run.kill()
            run.communicate()


@pytest.mark.parametrize("dead", [0, 1])
def test_one_that_dies(dead, tmp_path):
    """Also the one that holds the store by which the others would ask for it."""
    code, text, seconds = without_torchrun(tmp_path, f"killed {dead}", dead)
    assert code not in (0, -9)
    last = text.strip().splitlines()[-1]
    assert f"WorkerError: process {1 - dead} of 2 could not talk to the others in" in last
    assert "step 8 of fit" in last
    assert f"process {dead} ended without a word: killed, perhaps, or out of memory" in last
    assert seconds < 200


@pytest.mark.parametrize("dead", [0, 1])
@pytest.mark.parametrize("where", ["sleeps", "stops"])
def test_one_that_does_not_come(where, dead, tmp_path):
    """It sleeps in a step, or is stopped by the system, the holder of the store too."""
    code, text, seconds = without_torchrun(tmp_path, f"{where} {dead}", dead)
    assert code not in (0, -9)
    last = text.strip().splitlines()[-1]
    assert f"WorkerError: process {1 - dead} of 2 could not talk to the others in" in last
    assert f"step 8 of fit, and the run ends: it waited 4 s for process {dead}, which did" in last
    assert "torch.distributed.init_process_group(timeout=" in last
    assert seconds < 200


def test_the_bound_is_that_of_the_group(monkeypatch):
    import torch.distributed as dist

    from transportflows._core.patience import Patience

    assert Patience.limit.total_seconds() == 600
    monkeypatch.delenv("RANK", raising=False)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    import datetime

    dist.init_process_group(
        "gloo",
        init_method=f"tcp://localhost:{port}",
        rank=0,
        world_size=1,
        timeout=datetime.timedelta(seconds=77),
    )
    try:
        assert Patience.seconds() == 77
    finally:
        dist.destroy_process_group()
    assert os.environ.get("RANK") is None
