"""States of checkpoints that cannot be, with right sums: refused, and nothing of them taken up."""

from __future__ import annotations

import copy
import math
import os
import pickle
import signal

import numpy as np
import pytest
import torch

import transportflows as tpf
from test_checkpoints import alike, fit, rows, trainer
from transportflows._core import container
from transportflows.training.snapshots import snapshot

VALUES = [
    *(None, True, -1, 2**70, math.nan, -math.inf, "x", [], [1], {}, {"a": 1}, b"x", (1,)),
    *(torch.tensor(math.nan), torch.zeros(3), torch.eye(2, dtype=torch.int64), np.zeros((1, 2))),
]
VALID = {  # what may be something else, of the right kind
    *(("stopped",), ("source",), ("averages",), ("updates",), ("scheduler",), ("callbacks",)),
}


def places(tree, way=()):
    if way:
        yield way
    if isinstance(tree, (dict, list)):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from places(tree[key], (*way, key))


def put(tree, way, value):
    tree = copy.copy(tree)
    tree[way[0]] = value if len(way) == 1 else put(tree[way[0]], way[1:], value)
    return tree


def bits(run):
    return pickle.dumps((snapshot(run, run.position, ())[1], run.told, run.begun))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "right.ckpt"
    fit(trainer(), rows(), steps=12).save(path)
    return path, *container.read(path)


def test_any_edit_of_a_state_is_refused_or_trains_on(saved, tmp_path):
    """Each part of it in turn, by one of the values in turn; a refusal changes nothing."""
    _, header, tree = saved
    mine, path = fit(trainer(), rows(), steps=2), tmp_path / "a.ckpt"
    before, refused = bits(mine), 0
    for k, way in enumerate(places(tree)):
        for value in (VALUES[k % len(VALUES)], VALUES[(7 * k + 3) % len(VALUES)]):
            container.write(path, header, put(tree, way, value))
            try:
                mine.load(path)
            except tpf.fields.DamagedFileError as error:
                told = str(error)
                assert str(path) in told
                assert bits(mine) == before, way
                refused += 1
            else:
                fit(mine, rows(), steps=1)
                assert all(p.isfinite().all() for p in mine.parameters)
                mine = fit(trainer(), rows(), steps=2)
                before = bits(mine)
    assert refused > 150


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (("step",), 13, "another step or key than its header"),
        (("begun",), 13, "a step before that at which its fit began"),
        (("history", "columns", "loss"), np.zeros(3), "not of one length"),
        (("updates",), None, "averages without the number"),
        (("optimizer", "param_groups", 0, "lr"), math.nan, "lr = nan"),
        (("optimizer", "param_groups", 0, "lr"), -1.0, "lr = -1.0"),
        (("optimizer", "state", 1, "exp_avg_sq"), -torch.ones(16), "exp_avg_sq of parameter 1"),
        (("optimizer", "state", 1, "exp_avg"), torch.ones(3), "exp_avg of parameter 1"),
        (("optimizer", "state", 1, "step"), torch.tensor(-3.0), "step of parameter 1"),
        (("optimizer", "state", 1), {}, "other things for one parameter"),
        (("field", "net.body.1.bias"), torch.full((16,), math.nan), "NaN among its field"),
        (("field", "net.body.1.bias"), torch.full((16,), math.inf), "infinite weights"),
    ],
)
def test_a_state_that_cannot_be_is_told(way, value, message, saved, tmp_path):
    _, header, tree = saved
    mine = trainer()
    before = bits(mine)
    container.write(tmp_path / "a.ckpt", header, put(tree, way, value))
    with pytest.raises(tpf.fields.DamagedFileError, match=message):
        mine.load(tmp_path / "a.ckpt")
    assert bits(mine) == before


def test_a_state_replaces_no_method_of_a_scheduler(tmp_path):
    def made():
        return trainer(scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 3))

    path = tmp_path / "a.ckpt"
    fit(made(), rows(), steps=5).save(path)
    header, tree = container.read(path)
    container.write(path, header, put(tree, ("scheduler", "step"), 3))
    mine = made()
    mine.load(path)
    assert callable(mine.scheduler.step)
    assert fit(mine, rows(), steps=1).step == 6


def test_a_callback_that_refuses_its_memory_leaves_the_run_as_it_was(tmp_path):
    class Forgetful(tpf.training.Callback):
        def state(self):
            return {"seen": 3}

        def restore(self, state):
            if "seen" in state:
                raise KeyError("not mine")

    fit(trainer(), rows(), tmp_path, steps=10, callbacks=[Forgetful()])
    mine = trainer()
    before = copy.deepcopy(snapshot(mine, None, ())[1])
    Forgetful.state = lambda self: {}
    with pytest.raises(tpf.training.ResumeError, match=r"memory of Forgetful.*not mine"):
        fit(mine, rows(), tmp_path, resume=True, callbacks=[Forgetful()])
    after = snapshot(mine, None, ())[1]
    for name in ("field", "step", "optimizer", "averages", "history"):
        assert alike(after[name], before[name], name) == []


def forged(path, tree):
    header = {"kind": "transportflows training checkpoint", "format": 1, "step": 40, "run": {}}
    container.write(path, {**header, "transportflows": "x", "key": "1"}, tree)


NEIGHBOURS = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a dangling link": lambda path: os.symlink("/nonexistent", path),
    "a link to a device": lambda path: os.symlink("/dev/zero", path),
    "a tree of no use": lambda path: forged(path, 1),
    "a state of no use": lambda path: forged(path, {"step": 40}),
    "no checkpoint": lambda path: container.write(path, {}, {}),
    "a sparse file": lambda path: (path.touch(), os.truncate(path, 2**40)),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_bad_neighbour_is_passed_over(name, tmp_path):
    fit(trainer(), rows(), tmp_path, steps=30)
    NEIGHBOURS[name](tmp_path / "step-000000040.ckpt")
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("hangs")))
    signal.alarm(60)
    with pytest.warns(tpf.training.CheckpointWarning, match="step-000000030.ckpt is taken"):
        again = fit(trainer(), rows(), tmp_path, resume=True)
    signal.alarm(0)
    assert again.step == 40
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.endswith("ckpt"))[-1][-7:-5] == "40"


def test_a_second_run_in_a_folder_is_refused(tmp_path):
    """While the first goes on; afterwards the folder is free."""
    told = []

    class Second(tpf.training.Callback):
        every = 4

        def on_step(self, run):
            with pytest.raises(BlockingIOError, match="another run of this process is writing"):
                fit(trainer(), rows(), tmp_path, resume=True)
            told.append(run.step)

    fit(trainer(), rows(), tmp_path, steps=8, callbacks=[Second()])
    assert told == [4, 8]
    assert fit(trainer(), rows(), tmp_path, steps=9, resume=True).step == 9
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_what_is_planted_where_the_probe_was_is_not_written_to(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / f".probe.{os.getpid()}.tmp").symlink_to(mine)
    fit(trainer(), rows(), tmp_path / "runs", steps=3)
    assert mine.read_text() == "mine"
