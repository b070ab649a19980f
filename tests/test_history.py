"""The history: losses by time, gradients and pace against computations of their own."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from transportflows._core.random import mix
from transportflows.distributions.gaussian import Gaussian
from transportflows.fields.kinds import Velocity
from transportflows.fields.pair import FieldPair
from transportflows.interpolants import Brownian, Linear
from transportflows.losses import Loss, NoiseLoss, VelocityLoss
from transportflows.networks import MLP
from transportflows.process import Process
from transportflows.times.base import GridTimes
from transportflows.training import Callback, Checkpoints, DataRows, Epochs, Trainer
from transportflows.training import loop as loop_module
from transportflows.training.recorder import Recorder


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp():
    return MLP(2, width=16, depth=2, generator=gen(7))


def velocity(gamma=None, dtype=torch.float32):
    return Velocity(mlp().to(dtype), Process(Linear(gamma), Gaussian((2,))))


def rows(n=300, seed=1, **kwargs):
    return torch.randn(n, 2, generator=gen(seed), **kwargs)


def run(field=None, data=None, *, steps=20, batch_size=32, loss=None, fit=None, **kwargs):
    trainer = Trainer(field or velocity(), loss or VelocityLoss(), **kwargs)
    data = rows() if data is None else data
    trainer.fit(
        data, steps=steps, batch_size=batch_size, generator=gen(3), progress=False, **(fit or {})
    )
    return trainer


class Watching:
    """Keeps the times and the losses of the rows of every training step."""

    def __init__(self, parts=1, **kwargs):
        super().__init__(**kwargs)
        self.parts, self.drawn, self.values = parts, [], []

    def weighed(self, prediction, sample):
        values = super().weighed(prediction, sample)
        times = sample.t.double().numpy()
        if sample.antithetic:
            times, again = np.split(times, 2)
            assert np.array_equal(times, again)
        self.drawn.append(times)
        self.values.append(values.detach().double().numpy())
        return values

    def profile(self, window=100):
        """Mean loss and number of rows by tenth of time, of each window of steps."""
        window *= self.parts
        means, counts = [], []
        for k in range(0, len(self.drawn), window):
            t = np.concatenate(self.drawn[k : k + window])
            value = np.concatenate(self.values[k : k + window])
            tenth = np.minimum(np.floor(np.round(10 * t, 6)), 9)
            members = [value[tenth == b] for b in range(10)]
            means.append([m.mean() if len(m) else math.nan for m in members])
            counts.append([len(m) for m in members])
        return np.array(means), np.array(counts)


class Watched(Watching, VelocityLoss):
    pass


class WatchedNoise(Watching, NoiseLoss):
    pass


# ------------------------------------------------------------------------------------ loss by time


def check_profile(trainer, loss, ends, rtol=1e-12):
    profile = trainer.history.by_time
    means, counts = loss.profile()
    assert profile.step.tolist() == ends
    assert np.allclose(profile.edges, np.arange(11) / 10)
    assert np.array_equal(profile.rows, counts)
    assert np.allclose(profile.loss, means, rtol=rtol, equal_nan=True)


@pytest.mark.parametrize(
    ("given", "gamma", "accumulate"),
    [
        ({}, None, 1),
        ({}, None, 3),
        ({"weight": lambda t: 1 + 5 * t}, None, 1),
        ({"antithetic": True}, Brownian(), 1),
        ({"antithetic": True}, Brownian(), 3),
        ({"times": GridTimes([0.0, 0.1, 0.3, 0.7, 0.95, 1.0])}, None, 1),
    ],
)
def test_loss_by_time_in_windows_of_100_steps(given, gamma, accumulate):
    loss = Watched(accumulate, **given)
    trainer = run(velocity(gamma), loss=loss, steps=215, accumulate=accumulate)
    check_profile(trainer, loss, [100, 200, 215])
    assert trainer.history.by_time.rows.sum(1).tolist() == [3200, 3200, 480]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_loss_by_time_of_batches_too_large_to_keep(dtype, accumulate):
    loss = Watched(accumulate)
    data = rows(dtype=dtype)
    trainer = run(
        velocity(dtype=dtype), data, loss=loss, steps=12, batch_size=4500, accumulate=accumulate
    )
    check_profile(trainer, loss, [12])
    parts = np.array([v.mean() for v in loss.values]).reshape(12, accumulate)
    assert np.allclose(trainer.history.loss, parts.mean(1), rtol=1e-12)


def test_losses_of_a_loader_of_uneven_batches():
    loss = Watched()
    loader = DataLoader(rows(70), batch_size=32, shuffle=True)
    trainer = run(data=loader, batch_size=None, loss=loss, steps=120)
    sizes = [len(v) for v in loss.values]
    assert sizes == [32, 32, 6] * 40
    check_profile(trainer, loss, [100, 120])
    # A mean over the rows of each batch, not over the largest one's.
    assert np.allclose(trainer.history.loss, [v.mean() for v in loss.values], rtol=1e-12)
    assert trainer.history.pace.rows.sum() == sum(sizes) == trainer.history.by_time.rows.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(1, 5000), (5000, 1), (7, 5000, 1)])
def test_a_block_of_batches_large_and_small(dtype, sizes):
    """The remainder of a loader's epoch may be one row, first in the block that is read."""
    recorder = Recorder()
    made = [(torch.rand(n, dtype=dtype, generator=gen(n)), torch.rand(n)) for n in sizes]
    for step, (values, times) in enumerate(made, 1):
        recorder.add(step, values, 0.1, times=times)
    recorder.read()
    history = recorder.history()
    assert np.allclose(history.loss, [float(v.double().mean()) for v, _ in made], rtol=1e-12)
    assert history.by_time.rows.sum() == sum(sizes)


def test_terms_of_a_sum_by_step_and_their_sum_by_time():
    first, second = Watched(), WatchedNoise()
    process = Process(Linear(Brownian()), Gaussian((2,)))
    field = FieldPair(velocity=mlp(), noise=mlp(), process=process)
    trainer = run(field, loss=[first, second], steps=110)
    terms = trainer.history.terms
    assert list(terms) == ["velocity", "noise"]
    assert np.allclose(terms["velocity"], np.mean(first.values, axis=1), rtol=1e-12)
    assert np.allclose(terms["noise"], np.mean(second.values, axis=1), rtol=1e-12)
    first.values = [a + b for a, b in zip(first.values, second.values, strict=True)]
    check_profile(trainer, first, [100, 110], rtol=1e-6)  # float32, summed in another order


def test_a_loss_that_tells_no_times_has_no_profile():
    class Own(Loss):
        def __call__(self, field, batch, *, generator=None):
            return VelocityLoss()(field, batch, generator=generator)

    assert run(loss=Own(), steps=2).history.by_time is None
    assert run(steps=2).history.by_time is not None


# ---------------------------------------------------------------------------------- gradient norms


@pytest.mark.parametrize("clip", [None, 1e-3, 1e3])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_gradient_norms_are_those_computed_by_hand(clip, accumulate):
    """With a rate of 0 the weights stay, and each step's gradient can be taken again."""
    field = velocity(dtype=torch.float64)
    data = rows(dtype=torch.float64)
    trainer = run(
        field,
        data,
        steps=25,
        clip=clip,
        accumulate=accumulate,
        optimizer=lambda ps: torch.optim.SGD(ps, 0.0),
    )
    order = Epochs(DataRows(data), 32, trainer.key)
    expected = []
    for step in range(25):
        stream = gen(mix(trainer.key, 0, step))
        loss = VelocityLoss()(field, order.batch(step), generator=stream).mean()
        gradient = torch.autograd.grad(loss, list(field.parameters()))
        expected.append(math.sqrt(sum(float(g.square().sum()) for g in gradient)))
    steps = [10, 20] if clip is None else list(range(1, 26))
    found = trainer.history.gradient_norm
    assert found.step.tolist() == steps
    assert np.allclose(found.value, [expected[step - 1] for step in steps], rtol=1e-10)
    assert max(expected) > 1e-3


def test_the_norm_is_of_what_is_trained():
    field = velocity(dtype=torch.float64)
    ps = list(field.parameters())[:2]
    start = [p.detach().clone() for p in ps]
    trainer = Trainer(field, VelocityLoss(), optimizer=torch.optim.SGD(ps, 1.0))
    trainer.fit(rows(dtype=torch.float64), steps=9, batch_size=32, generator=gen(3), progress=False)
    start = [p.detach().clone() for p in ps]
    history = trainer.fit(rows(dtype=torch.float64), steps=1, batch_size=32, progress=False)
    moved = torch.cat([(p.detach() - q).flatten() for p, q in zip(ps, start, strict=True)])
    assert math.isclose(history.gradient_norm.value[0], float(moved.norm()), rel_tol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e25])
def test_to_measure_the_norm_moves_no_weight(scale, monkeypatch):
    """Not by a bit, also where the square of a gradient is too large for its dtype."""
    given = {
        "loss": VelocityLoss(weight=lambda t: torch.full_like(t, scale)),
        "optimizer": lambda ps: torch.optim.SGD(ps, 0.1 / scale),
    }
    measured = run(**given)
    monkeypatch.setattr(loop_module, "_NORM_EVERY", 10**9)
    unseen = run(**given)
    assert measured.history.gradient_norm.step.tolist() == [10, 20]
    assert len(unseen.history.gradient_norm.step) == 0
    for a, b in zip(measured.parameters, unseen.parameters, strict=True):
        assert torch.equal(a, b)


# -------------------------------------------------------------------------------------------- pace


def test_pace_tells_all_steps_and_rows_once(monkeypatch):
    monkeypatch.setattr(loop_module, "_READ_SECONDS", math.inf)
    began = time.perf_counter()
    trainer = run(steps=70, fit={"validation": rows(50), "validation_every": 20})
    whole = time.perf_counter() - began
    trainer.fit(rows(), steps=60, batch_size=16, progress=False)
    pace = trainer.history.pace
    assert pace.step.tolist() == [50, 70, 120, 130]
    assert pace.steps.tolist() == [50, 20, 50, 10]
    assert pace.rows.tolist() == [1600, 640, 800, 160]
    assert (pace.seconds > 0).all()
    assert pace.seconds[:2].sum() < whole
    assert np.allclose(pace.step_time.value * [50, 20, 50, 10], pace.seconds)
    assert np.allclose(pace.rows_per_second.value * pace.seconds, pace.rows)
    assert np.array_equal(pace.step_time.step, pace.step)


class SlowToJudge(nn.Module):
    """A network that takes its time in eval mode, and sees to the time of the rest."""

    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, t, x):
        if not self.training:
            time.sleep(0.4)
        return self.body(t, x)


class Slow(Callback):
    """Sleeps in one of its calls."""

    every = 5


for _name in ("on_step", "on_read", "on_validation", "on_checkpoint"):
    setattr(Slow, _name, lambda self, *_, name=_name: time.sleep(0.4 * (name == self.when)))


@pytest.mark.parametrize(
    "when", ["validation", "on_step", "on_read", "on_validation", "on_checkpoint"]
)
def test_pace_leaves_out_what_is_no_step(when, tmp_path):
    """20 steps take some 20 ms; anything of 0.4 s that is counted shows."""
    slow = Slow()
    slow.when = when
    field = Velocity(SlowToJudge() if when == "validation" else mlp(), velocity().process)
    fit = {
        "validation": rows(20),
        "validation_every": 5,
        "callbacks": [slow],
        "checkpoints": Checkpoints(tmp_path, every=5) if when == "on_checkpoint" else None,
    }
    pace = run(field, fit=fit).history.pace
    assert pace.steps.sum() == 20
    assert pace.seconds.sum() < 0.4


# --------------------------------------------------------------------------- the object, the files


def test_repr_tells_length_and_losses():
    assert repr(Trainer(velocity(), VelocityLoss()).history) == "History(no steps)"
    plain = run(steps=60).history
    assert repr(plain) == f"History(60 steps, last loss {plain.loss[-1]:.4g})"
    seen = run(steps=4, fit={"validation": rows(20)}).history
    told = f"History(4 steps, last loss {seen.loss[-1]:.4g}, validation"
    assert repr(seen) == f"{told} {seen.validation.loss[-1]:.4g})"


def recorded(recorder, first, last):
    """Steps with everything, read in blocks of 7."""
    for step in range(first, last + 1):
        g = gen(step)
        recorder.add(
            step,
            torch.rand(len(recorder.names), 6, generator=g),
            0.1 * step,
            times=torch.rand(6, generator=g),
            norm=torch.rand((), generator=g) if step % 10 == 0 else None,
        )
        if step % 15 == 0:
            recorder.add_validation(step, torch.rand((), generator=g))
        if step % 7 == 0 or step == last:
            recorder.read()
            recorder.add_pace(step, 0.5, 7, 42)
    return recorder


def numbers(history):
    profile = history.by_time
    return [
        history.step,
        history.loss,
        history.learning_rate,
        *history.validation,
        *history.terms.values(),
        *history.gradient_norm,
        *(getattr(history.pace, name) for name in ("step", "seconds", "steps", "rows")),
        *([] if profile is None else [profile.step, profile.loss, profile.rows]),
    ]


def equal(a, b):
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("cut", [1, 28, 100, 130])
def test_a_recorder_goes_on_from_its_state(cut):
    whole = recorded(Recorder(["a", "b"]), 1, 230)
    half = recorded(Recorder(["a", "b"]), 1, cut)
    state = half.state()
    kept = {name: column.copy() for name, column in state["columns"].items()}
    recorded(half, cut + 1, cut + 30)  # what is made after a checkpoint is not in it
    assert all(np.array_equal(kept[name], column) for name, column in state["columns"].items())
    for _ in range(2):  # nor what was made by another that was restored from it
        other = recorded(Recorder(["a", "b"]), 1, 9)
        other.add(10, torch.rand(2, 6), 0.1)
        other.restore(state)
        assert other.waiting == 0
        recorded(other, cut + 1, 230)
        skip = slice(0, -7) if cut % 7 else slice(None)  # the stretches of pace differ
        assert equal(numbers(other.history())[:9][skip], numbers(whole.history())[:9][skip])
        a, b = other.history().by_time, whole.history().by_time
        assert a.step.tolist() == [100, 200, 230]
        assert np.array_equal(a.rows, b.rows)
        assert np.allclose(a.loss, b.loss, rtol=1e-14)


@pytest.mark.parametrize("after", [0, 1, 14, 99, 100, 229, 230, 500])
def test_the_history_after_a_step(after):
    recorder = recorded(Recorder(["a", "b"]), 1, 230)
    whole, part = recorder.history(), recorder.history(after=after)
    later = whole.step > after
    assert np.array_equal(part.step, whole.step[later])
    assert np.array_equal(part.loss, whole.loss[later])
    assert np.array_equal(part.learning_rate, whole.learning_rate[later])
    for name in ("a", "b"):
        assert np.array_equal(part.terms[name], whole.terms[name][later])
    for name in ("validation", "gradient_norm"):
        steps, values = getattr(whole, name)
        assert np.array_equal(getattr(part, name)[0], steps[steps > after])
        assert np.array_equal(getattr(part, name)[1], values[steps > after])
    stretches = whole.pace.step > after
    assert np.array_equal(part.pace.rows, whole.pace.rows[stretches])
    windows = whole.by_time.step > after
    assert np.array_equal(part.by_time.step, whole.by_time.step[windows])
    assert np.array_equal(part.by_time.loss, whole.by_time.loss[windows])


def test_a_history_is_ones_own():
    trainer = run(steps=12)
    history, before = trainer.history, numbers(trainer.history)
    for column in numbers(history):
        column *= 0
    assert equal(numbers(trainer.history), before)
