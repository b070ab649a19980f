"""Callbacks: when they are called, what they write, and that a resumed run writes the same."""

from __future__ import annotations

import csv
import math
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from transportflows.distributions.gaussian import Gaussian
from transportflows.fields.kinds import Velocity
from transportflows.fields.pair import FieldPair
from transportflows.interpolants import Brownian, Linear
from transportflows.losses import Loss, NoiseLoss, VelocityLoss
from transportflows.networks import MLP
from transportflows.process import Process
from transportflows.training import (
    Callback,
    Checkpoints,
    CSVLog,
    EarlyStop,
    NonFiniteLossError,
    TensorBoardLog,
    Trainer,
)
from transportflows.training import loop as loop_module


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch):
    """Losses are read every 50 steps, on a slow machine too."""
    monkeypatch.setattr(loop_module, "_READ_SECONDS", math.inf)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp():
    return MLP(2, width=16, depth=2, generator=gen(7))


def velocity():
    return Velocity(mlp(), Process(Linear(), Gaussian((2,))))


def rows(n=100, seed=1):
    return torch.randn(n, 2, generator=gen(seed))


def fit(trainer, steps=20, key=3, **kwargs):
    generator = None if key is None else gen(key)
    kwargs = {"batch_size": 16, "generator": generator, "progress": False} | kwargs
    return trainer.fit(rows(), steps=steps, **kwargs)


def run(*callbacks, loss=None, steps=20, **kwargs):
    trainer = Trainer(velocity(), loss or VelocityLoss())
    fit(trainer, steps, callbacks=callbacks, **kwargs)
    return trainer


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters, b.parameters, strict=True))


class Scripted(Loss):
    """A loss whose validations are written beforehand."""

    def __init__(self, script):
        self.script, self.calls, self.weigh = iter(script), 0, lambda call: 1.0

    def __call__(self, field, batch, *, generator=None):
        values = VelocityLoss()(field, batch, generator=generator)
        self.calls += 1
        return values * self.weigh(self.calls) if field.training else values * 0 + next(self.script)


class Hooked(VelocityLoss):
    """Calls a function at the start of each training step, with its number from 1."""

    def __init__(self, hook):
        super().__init__()
        self.hook, self.step = hook, 0

    def evaluate(self, field, sample):
        if field.training:
            self.step += 1
            self.hook(self.step)
        return super().evaluate(field, sample)


class Spy(Callback):
    """Keeps its calls; fails in one of them, once."""

    every = 2

    def __init__(self, calls=None, name="", fail=None):
        self.calls, self.name, self.fail = [] if calls is None else calls, name, fail

    def called(self, hook, trainer):
        self.calls.append(f"{self.name}{hook} {trainer.step}")
        if hook == self.fail:
            self.fail = None
            raise RuntimeError(f"failed in {hook}")

    def on_start(self, trainer):
        self.called("start", trainer)

    def on_step(self, trainer):
        self.called("step", trainer)

    def on_read(self, trainer, new):
        self.new = [*getattr(self, "new", []), *new.step.tolist()]
        self.called("read", trainer)

    def on_validation(self, trainer, loss):
        assert loss == trainer.history.validation.loss[-1]
        self.called("validation", trainer)

    def on_checkpoint(self, trainer, path):
        assert path.name == f"step-{trainer.step:09d}.ckpt"
        assert path.exists()
        self.called("checkpoint", trainer)

    def on_end(self, trainer):
        self.called("end", trainer)


# ------------------------------------------------------------------------------- order and failure


def test_order_and_number_of_calls(tmp_path):
    spy = Spy()
    watched = {"validation": rows(20), "validation_every": 3}
    trainer = run(spy, steps=6, checkpoints=Checkpoints(tmp_path, every=4), **watched)
    assert spy.calls == [
        *("start 0", "step 2", "read 3", "validation 3", "step 4", "read 4", "checkpoint 4"),
        *("read 6", "validation 6", "step 6", "checkpoint 6", "end 6"),
    ]
    spy.calls.clear()
    fit(trainer, 3, key=None, callbacks=[spy])
    assert spy.calls == ["start 6", "step 8", "read 9", "end 9"]
    spy.calls.clear()
    fit(trainer, 120, key=None, callbacks=[spy])
    assert [call for call in spy.calls if "read" in call] == ["read 59", "read 109", "read 129"]
    assert spy.new == list(range(1, 130))


def test_callbacks_change_no_weight(tmp_path):
    watched = {"validation": rows(20), "validation_every": 7}
    written = [CSVLog(tmp_path / "a.csv"), TensorBoardLog(tmp_path)]
    loud = run(Spy(), *written, EarlyStop(), checkpoints=tmp_path / "c", **watched)
    assert same(loud, run())


@pytest.mark.parametrize("hook", ["start", "step", "read", "validation", "checkpoint"])
def test_a_callback_that_raises_ends_the_fit_and_all_are_told(hook, tmp_path):
    """The trainer is whole afterwards: it goes on to where it would have come."""
    calls = []
    spies = [Spy(calls, "a "), Spy(calls, "b ", fail=hook), Spy(calls, "c ")]
    trainer = Trainer(velocity(), VelocityLoss(), ema=0.9)
    watched = {"validation": rows(20), "validation_every": 3}
    folder = Checkpoints(tmp_path, every=4)
    with pytest.raises(RuntimeError, match=f"failed in {hook}"):
        fit(trainer, 12, callbacks=spies, checkpoints=folder, **watched)
    at = trainer.step
    assert at == {"start": 0, "step": 2, "read": 3, "validation": 3, "checkpoint": 4}[hook]
    begun = "ab" if hook == "start" else "abc"
    assert calls[-len(begun) :] == [f"{name} end {at}" for name in reversed(begun)]
    assert trainer.history.step.tolist() == list(range(1, at + 1))
    fit(trainer, 12 - at, key=None, callbacks=spies, checkpoints=folder, **watched)
    whole = Trainer(velocity(), VelocityLoss(), ema=0.9)
    fit(whole, 12)
    assert same(trainer, whole)
    assert all(
        torch.equal(a, b) for a, b in zip(trainer.ema.averages, whole.ema.averages, strict=True)
    )


def test_one_that_fails_at_the_end_keeps_no_other_from_ending():
    calls = []
    with pytest.raises(RuntimeError, match="failed in end"):
        run(Spy(calls, "a "), Spy(calls, "b ", fail="end"))
    assert calls[-2:] == ["b end 20", "a end 20"]


def test_one_that_fails_at_the_end_hides_no_error():
    class Second(Spy):
        def on_end(self, trainer):
            raise OSError("of the end")

    spy = Spy()
    with (
        pytest.warns(UserWarning, match=r"on_end of Second failed too \(OSError: of the end\)"),
        pytest.raises(RuntimeError, match="failed in step"),
    ):
        run(spy, Second(), Spy(fail="step"))
    assert spy.calls[-1].startswith("end")

    class Reads(Spy):
        def on_read(self, trainer, new):
            raise OSError("of a reader")

    with (
        pytest.warns(UserWarning, match="on_read of a callback failed too"),
        pytest.raises(RuntimeError, match="failed in step"),
    ):
        run(Spy(fail="step"), Reads())


def test_methods_that_would_never_be_called_are_refused():
    class NoEvery(Callback):
        def on_step(self, trainer):
            raise AssertionError

    with pytest.raises(TypeError, match=r"NoEvery has on_step, and nowhere says.*every = 1"):
        run(NoEvery())
    silent = NoEvery()
    silent.every = None
    run(silent)
    silent.every = 20
    with pytest.raises(AssertionError):
        run(silent)

    class Never(NoEvery):
        every = None

    run(Never())

    class Other(Callback):
        def on_epoch_end(self, trainer):
            pass

    with pytest.raises(
        TypeError, match=r"on_epoch_end, which is never called; the moments .*on_step"
    ):
        run(Other())

    class Half(Callback):
        def state(self):
            return {"a": 1}

    with pytest.raises(TypeError, match="Half has only one of state and restore"):
        run(Half())


def test_a_callback_can_stop():
    class Stop(Callback):
        every = 7

        def on_step(self, trainer):
            trainer.stop("seven is enough")

    trainer = run(Stop())
    assert (trainer.step, trainer.stopped, len(trainer.history)) == (7, "seven is enough", 7)
    fit(trainer, 3, key=None)
    assert (trainer.step, trainer.stopped) == (10, None)


@pytest.mark.parametrize("given", [CSVLog, print, "a.csv"])
def test_refuses_what_is_no_callback(given):
    name = getattr(given, "__name__", "'a.csv'")
    with pytest.raises(TypeError, match=rf"must be a Callback, got .*{name}"):
        run(given)


# ------------------------------------------------------------------------------------------- files


def two_fields(steps, **given):
    """A trainer with two losses, after a fit and a short one that goes on."""
    process = Process(Linear(Brownian()), Gaussian((2,)))
    field = FieldPair(velocity=mlp(), noise=mlp(), process=process)
    trainer = Trainer(field, [VelocityLoss(), NoiseLoss()], scheduler="cosine")
    given |= {"validation": rows(20), "validation_every": 25}
    fit(trainer, steps, **given)
    fit(trainer, 7, key=None, **given)
    return trainer


def columns(history):
    """Steps and values of all that is logged."""
    every = {"loss": history.loss, "learning_rate": history.learning_rate}
    every |= {f"loss_{name}": term for name, term in history.terms.items()}
    return {name: (history.step, values) for name, values in every.items()} | {
        "gradient_norm": history.gradient_norm,
        "validation": history.validation,
        "step_time": history.pace.step_time,
        "rows_per_second": history.pace.rows_per_second,
    }


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def steps_in(path):
    return [int(row["step"]) for row in table(path)]


def check_table(path, history):
    """Each number is that of the history, digit for digit."""
    found = table(path)
    assert steps_in(path) == history.step.tolist()
    assert found[0].keys() == {"step", *columns(history)}
    for name, (steps, values) in columns(history).items():
        told = {int(row["step"]): float(row[name]) for row in found if row[name]}
        assert told == dict(zip(steps.tolist(), values.tolist(), strict=True)), name


def test_csv_holds_the_history(tmp_path):
    path = tmp_path / "new" / "folder" / "log.csv"
    check_table(path, two_fields(130, callbacks=[CSVLog(path)]).history)
    assert [p.name for p in path.parent.iterdir()] == ["log.csv"]


def test_csv_refuses_the_file_of_another_run(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("step,loss\n1,2.0\n")
    with pytest.raises(FileExistsError, match=r"a\.csv is there already.*another name"):
        run(CSVLog(path))
    assert path.read_text() == "step,loss\n1,2.0\n"
    run(CSVLog(path), checkpoints=tmp_path / "empty", resume=True)  # a run killed before its first
    assert steps_in(path) == list(range(1, 21))


FULL = """
import resource, sys, warnings, torch, transportflows as tpf
sys.path.insert(0, sys.argv[2])
from test_callbacks import CSVLog, run

class Fill(tpf.training.Callback):
    every = 30
    def on_step(self, trainer):  # from here on no file can grow
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))

with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    mine = run(CSVLog(sys.argv[1]), Fill(), steps=70)
print(mine.step, len([one for one in told if "were not written" in str(one.message)]))
"""


def test_a_full_disk_ends_no_run_at_its_log(tmp_path):
    """Neither while rows are written nor where the file is closed with rows in its buffer."""
    path = tmp_path / "a.csv"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), os.path.dirname(__file__)],
        capture_output=True,
        text=True,
    )
    step, told = map(int, done.stdout.split())
    assert step == 70, done.stderr
    assert told >= 2, done.stderr  # one for each time that rows were to be written, by the clock


def test_csv_writes_through_no_planted_link_and_into_no_device(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / ".a.csv.tmp").symlink_to(mine)
    run(CSVLog(tmp_path / "a.csv"))
    assert mine.read_text() == "mine"
    assert steps_in(tmp_path / "a.csv") == list(range(1, 21))
    os.mkfifo(tmp_path / "b.csv")
    with pytest.raises(FileExistsError, match="is a pipe and no file"):
        run(CSVLog(tmp_path / "b.csv"))


def test_a_log_has_one_writer(tmp_path):
    class Second(Callback):
        every = 5

        def on_step(self, trainer):
            run(CSVLog(tmp_path / "a.csv"), checkpoints=tmp_path / "other", resume=True)

    with pytest.raises(BlockingIOError, match="another run of this process is writing the log"):
        run(CSVLog(tmp_path / "a.csv"), Second())
    assert steps_in(tmp_path / "a.csv") == list(range(1, 6))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_csv_has_every_step_after_an_interruption(error, tmp_path):
    """Steps that were done but not read yet are told too, and the file is closed."""

    def hook(step):
        if step == 18:
            raise error("of the loss")

    trainer, log, spy = Trainer(velocity(), Hooked(hook)), CSVLog(tmp_path / "a.csv"), Spy()
    with pytest.raises(error, match="of the loss"):
        fit(trainer, 30, callbacks=[log, spy])
    assert spy.calls[-1] == "end 17"
    assert log._file is None
    fit(trainer, 13, key=None, callbacks=[log])
    assert steps_in(log.path) == list(range(1, 31))


def test_csv_tells_of_the_step_that_was_not_finite(tmp_path):
    loss = Scripted([])
    loss.weigh = lambda call: math.nan if call == 58 else 1.0
    with pytest.raises(NonFiniteLossError) as raised:
        run(CSVLog(tmp_path / "a.csv"), loss=loss, steps=70)
    assert math.isnan(float(table(tmp_path / "a.csv")[57]["loss"]))
    assert len(table(tmp_path / "a.csv")) == len(raised.value.history)


def killed_and_resumed(tmp_path, make, at=130, every=60, ending=b"", options=None, **kwargs):
    """A run, and one resumed from what the disk held in the midst of a step of the first.

    That is what a kill leaves there, but for what the first had not given to the system yet.
    """

    def copy(step):
        if step == at:
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    def trained(name, hook, **more):
        trainer = Trainer(velocity(), Hooked(hook), **(options or {}))
        given = {"callbacks": [make(tmp_path / name)], **more, **kwargs}
        fit(trainer, 150, checkpoints=Checkpoints(tmp_path / name / "files", every=every), **given)
        return trainer

    whole = trained("whole", copy)
    if ending:
        with open(tmp_path / "killed" / "a.csv", "ab") as file:
            file.write(ending)
    resumed = trained("killed", lambda step: None, key=9, resume=True)
    assert same(whole, resumed)
    return whole, resumed


@pytest.mark.parametrize("ending", [b"", b"12", b"120,0.3", b"121,0.5,0.001,,"])
def test_csv_of_a_resumed_run_holds_each_step_once(ending, tmp_path):
    """Killed at 130 with a checkpoint of 100 and rows up to 120; a last line may be torn."""
    made = {"every": 100, "validation": rows(20), "validation_every": 40, "ending": ending}
    _, resumed = killed_and_resumed(tmp_path, lambda p: CSVLog(p / "a.csv"), **made)
    found, expected = table(tmp_path / "killed" / "a.csv"), table(tmp_path / "whole" / "a.csv")
    for row in [*found, *expected]:
        del row["step_time"], row["rows_per_second"]
    assert found == expected
    check_table(tmp_path / "killed" / "a.csv", resumed.history)


def check_scalars(folder, history):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    expected = {tag.replace("loss_", "loss/", 1): pair for tag, pair in columns(history).items()}
    profile = history.by_time
    whole = profile.step % 100 == 0
    for k in range(10):
        tag = f"loss_by_time/{k / 10:.1f}-{(k + 1) / 10:.1f}"
        expected[tag] = profile.step[whole], profile.loss[whole, k]
    assert set(events.Tags()["scalars"]) == expected.keys()
    for tag, (steps, values) in expected.items():
        found = events.Scalars(tag)
        assert [event.step for event in found] == steps.tolist(), tag
        assert np.allclose([event.value for event in found], values, rtol=1e-6), tag


def test_tensorboard_reads_the_history(tmp_path):
    check_scalars(tmp_path, two_fields(200, callbacks=[TensorBoardLog(tmp_path)]).history)


@pytest.mark.parametrize(("at", "every"), [(121, 60), (140, 100)])
def test_tensorboard_of_a_resumed_run_holds_each_step_once(at, every, tmp_path, monkeypatch):
    """Killed right after a checkpoint, whose steps are on the disk then, be it a slow one.

    Or 40 steps after it, of which the first 20 were written and are made again.
    """
    write = RecordWriter.write
    monkeypatch.setattr(RecordWriter, "write", lambda *a: (time.sleep(0.001), write(*a)))
    made = {"validation": rows(20), "validation_every": 40}
    _, resumed = killed_and_resumed(tmp_path, TensorBoardLog, at=at, every=every, **made)
    check_scalars(tmp_path / "killed", resumed.history)


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        run(TensorBoardLog(tmp_path))


# -------------------------------------------------------------------------------------- early stop


SCRIPT = [5, 4, 4.5, 3.75, 3.8, 3.9, 3.74, 3.76, 3.9, 3.74, 3.7, math.nan, 3.9, 4, 5, 6]


@pytest.mark.parametrize(
    ("patience", "least", "stop", "best"),
    [(1, 0.0, 3, 4), (2, 0.0, 6, 3.75), (3, 0.0, 10, 3.74), (4, 0.0, 15, 3.7), (3, 0.5, 5, 4)],
)
def test_early_stop_by_its_script(patience, least, stop, best):
    """By hand: with 3 and 0.0, 3.74 is the best, and 3.76, 3.9, 3.74 are not below it."""
    stopper = EarlyStop(patience, least)
    script = {"validation": rows(10), "validation_every": 2}
    trainer = run(stopper, loss=Scripted(SCRIPT), steps=32, **script)
    assert trainer.step == 2 * stop
    assert stopper.best == pytest.approx(best)
    assert trainer.stopped == f"{patience} validations in a row were not below {best - least:.6g}"
    assert len(trainer.history) == trainer.step


def test_a_run_that_improves_is_not_stopped():
    trainer = run(
        EarlyStop(1), loss=Scripted(range(20, 0, -1)), validation=rows(10), validation_every=2
    )
    assert (trainer.step, trainer.stopped) == (20, None)


def test_a_resumed_run_stops_at_the_same_step(tmp_path):
    """At a rate of 0 no validation is below the first, so the fifth ends it, at step 50."""
    still = {"optimizer": lambda ps: torch.optim.SGD(ps, 0.0)}
    given = {"validation": rows(20), "validation_every": 10}
    stoppers = []

    def make(folder):
        stoppers.append(EarlyStop(4))
        return stoppers[-1]

    whole, resumed = killed_and_resumed(tmp_path, make, at=37, every=15, options=still, **given)
    assert whole.step == resumed.step == 50
    assert whole.stopped == resumed.stopped is not None
    assert stoppers[1].state() == {"best": whole.history.validation.loss[0], "waited": 4}
    again, spy = Trainer(velocity(), Hooked(print), **still), Spy()  # what has stopped stays so
    fit(again, 150, checkpoints=tmp_path / "killed" / "files", resume=True, callbacks=[spy])
    assert (again.step, again.stopped, spy.calls) == (50, whole.stopped, [])


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: EarlyStop(0), "patience.*at least 1, got 0"),
        (lambda: EarlyStop(2, -0.1), "least must not be negative, got -0.1"),
        (lambda: EarlyStop(2, math.nan), "least"),
        (lambda: run(EarlyStop()), r"give fit\(validation="),
    ],
)
def test_early_stop_refuses(refused, message):
    with pytest.raises(ValueError, match=message):
        refused()
