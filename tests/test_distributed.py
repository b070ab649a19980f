"""Several processes: the numbers of one, and an end together when one fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from transportflows._core.distributed import World, world

SCRIPT = Path(__file__).parent / "shared_runs.py"
SAME = ["tensor", "uneven", "pair", "dataset", "stream", "loader", "law", "odd", "bent"]


def environment():
    plain = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    return {**plain, "OMP_NUM_THREADS": "1"}


def start(processes, folder, *words, limit=500, script=SCRIPT):
    folder.mkdir(exist_ok=True)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [str(script), str(folder), *words]
    began = time.monotonic()
    run = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment())
    return run.returncode, run.stdout + run.stderr, time.monotonic() - began


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the results of one process and of two."""
    folder = tmp_path_factory.mktemp("runs")
    for processes in (1, 2):
        code, text, _ = start(processes, folder / str(processes), *SAME, "own")
        assert code == 0, text
    return folder


def result(runs, processes, case, rank=0):
    return torch.load(runs / str(processes) / f"{case}-{rank}.pt", weights_only=False)


def flat(value):
    if isinstance(value, list):
        value = torch.cat([x.reshape(-1) for x in value])
    return torch.as_tensor(value, dtype=torch.float64)


def far(a, b):
    a, b = flat(a), flat(b)
    assert a.shape == b.shape
    assert torch.equal(a.isfinite(), b.isfinite())
    return float((a.nan_to_num() - b.nan_to_num()).norm() / a.nan_to_num().norm())


@pytest.mark.parametrize("case", SAME)
def test_two_processes_are_one(case, runs):
    """Losses, weights, averages, validations and samples of 200 steps, to 1e-6 (float32)."""
    one, two = result(runs, 1, case), result(runs, 2, case)
    assert one["key"] == two["key"]
    assert len(two["loss"]) == 200
    errors = {name: far(one[name], two[name]) for name in one if name != "key"}
    assert max(errors.values()) < 1e-6, errors


@pytest.mark.parametrize("case", [*SAME, "own"])
def test_processes_agree_to_the_bit(case, runs):
    first, second = result(runs, 2, case, 0), result(runs, 2, case, 1)
    for name in first:
        if first[name] is not None:
            assert torch.equal(flat(first[name]).nan_to_num(), flat(second[name]).nan_to_num()), (
                name
            )


def test_a_loss_that_does_not_split_is_another_draw_of_the_same(runs):
    """Each process draws for its own rows: other numbers, and as good a field."""
    one, two = result(runs, 1, "own"), result(runs, 2, "own")
    assert far(one["loss"], two["loss"]) > 1e-3
    assert abs(one["validation"][-1] - two["validation"][-1]) < 0.1 * one["validation"][-1]


def test_files_are_written_once(runs):
    with open(runs / "2" / "tensor.csv") as file:
        lines = file.read().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", *map(str, range(1, 201))]
    names = sorted(p.name for p in (runs / "2" / "tensor").iterdir())
    assert names == ["step-000000100.ckpt", "step-000000200.ckpt"]


def test_a_shared_run_resumes_exactly_and_with_its_own_number_only(runs):
    whole = (runs / "2" / "tensor" / "step-000000200.ckpt").read_bytes()
    (runs / "2" / "tensor" / "step-000000200.ckpt").unlink()
    code, text, _ = start(2, runs / "2", "resume")
    assert code == 0, text
    from transportflows.training import read_checkpoint

    again = read_checkpoint(runs / "2" / "tensor" / "step-000000200.ckpt")[1]
    (runs / "2" / "tensor" / "step-000000200.ckpt").write_bytes(whole)
    before = read_checkpoint(runs / "2" / "tensor" / "step-000000200.ckpt")[1]
    for name, value in before["field"].items():
        assert torch.equal(value, again["field"][name]), name
    for a, b in zip(before["averages"], again["averages"], strict=True):
        assert torch.equal(a, b)
    losses = [tree["history"]["columns"]["loss"] for tree in (before, again)]
    assert np.array_equal(*losses)
    code, text, _ = start(1, runs / "2", "resume")
    assert code != 0
    assert "world_size was 2 and is 1 now" in text


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "raises",
            "WorkerError: another process of this run failed, and the run ends: process 1:"
            " ArithmeticError: row 17 is odd",
        ),
        ("killed", "exitcode: -9"),
        ("nan", "the loss became NaN or infinite at step 8"),
        ("differ", "processes 1 and 0 differ in data.rows: 499 and 500"),
        ("validation of one", "processes 1 and 0 differ in validation: False and 500"),
        ("sharded", "slices each batch by rank, so let it give every process the whole"),
        ("branches", "other parameters have a gradient at this step than at the first one"),
        ("sample start", "ValueError: start holds NaN or infinite values in 1 of 20 rows"),
        ("sample n", "processes 1 and 0 differ in n: 19 and 20"),
        ("leaves with 0", "process 0 of 2 could not talk to the others in "),
        ("does not come", "it waited 4 s for process 1, which did not come"),
        ("never joins", "did not all come within 4 s"),
    ],
)
def test_a_process_that_fails_ends_all_with_its_message(how, message, tmp_path):
    code, text, seconds = start(2, tmp_path, how)
    assert code != 0
    assert message in text
    assert seconds < 60


def test_what_is_not_the_end_goes_on(tmp_path):
    code, text, _ = start(2, tmp_path, "peaceful")
    assert code == 0, text
    assert (tmp_path / "peace-0").exists()
    assert (tmp_path / "peace-1").exists()


# ------------------------------------------------------------------------------ the world itself


@pytest.mark.parametrize("n", [1, 2, 5, 64, 67])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_slices_cover_all_rows_once(n, size):
    slices = [World(rank, size).slice(n) for rank in range(size)]
    rows = [row for low, high in slices for row in range(low, high)]
    assert rows == list(range(n))
    lengths = [high - low for low, high in slices]
    assert max(lengths) - min(lengths) <= 1


def test_alone_nothing_is_shared(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    alone = world()
    assert alone == World(0, 1)
    x = torch.arange(6.0).view(3, 2)
    assert alone.gather(x, 3) is x
    before = x.clone()
    alone.sum_(x)
    alone.broadcast_([x])
    assert torch.equal(x, before)
    assert alone.agreed("a") == "a"
    with pytest.raises(ZeroDivisionError), alone.together():
        raise ZeroDivisionError
