"""Learning rates: closed forms at every step, over fits and groups, and refusals."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch

from transportflows.distributions.gaussian import Gaussian
from transportflows.fields.kinds import Velocity
from transportflows.interpolants import Linear
from transportflows.losses import VelocityLoss
from transportflows.networks import MLP
from transportflows.process import Process
from transportflows.training import (
    Checkpoints,
    ConstantRate,
    CosineRate,
    RateSchedule,
    StepRate,
    Trainer,
)

LR = 0.03
LambdaLR = torch.optim.lr_scheduler.LambdaLR


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def velocity():
    net = MLP(2, width=16, depth=2, generator=gen(7))
    return Velocity(net, Process(Linear(), Gaussian((2,))))


def rows(n=100, seed=1):
    return torch.randn(n, 2, generator=gen(seed))


def fit(trainer, steps, key=3, **kwargs):
    generator = None if key is None else gen(key)
    return trainer.fit(
        rows(), steps=steps, batch_size=16, generator=generator, progress=False, **kwargs
    )


def rates(steps=30, **kwargs):
    return fit(Trainer(velocity(), VelocityLoss(), lr=LR, **kwargs), steps).learning_rate


def weights(trainer):
    return [p.detach().clone() for p in trainer.parameters]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def annealed(done, floor=0.0):
    """From 1 down to the floor, along half a wave."""
    return floor + (1 - floor) * math.cos(math.pi * min(done, 1.0) / 2) ** 2


# ------------------------------------------------------------------------------------ closed forms


FORMS = [
    ({}, lambda n: 1.0),
    ({"warmup": 6}, lambda n: min(1.0, (n + 1) / 6)),
    ({"warmup": 1}, lambda n: 1.0),
    ({"warmup": 60}, lambda n: (n + 1) / 60),
    ({"scheduler": "constant", "warmup": 6}, lambda n: min(1.0, (n + 1) / 6)),
    ({"scheduler": ConstantRate()}, lambda n: 1.0),
    ({"scheduler": "cosine"}, lambda n: annealed(n / 30)),
    (
        {"scheduler": "cosine", "warmup": 5},
        lambda n: (n + 1) / 5 if n < 5 else annealed((n - 5) / 25),
    ),
    (
        {"scheduler": CosineRate(0.2, steps=12, warmup=4)},
        lambda n: (n + 1) / 4 if n < 4 else annealed((n - 4) / 8, 0.2),
    ),
    ({"scheduler": CosineRate(floor=1.0)}, lambda n: 1.0),
    ({"scheduler": "cosine", "warmup": 60}, lambda n: (n + 1) / 60),  # never done rising
    ({"scheduler": "step"}, lambda n: 1.0),  # falls at 1,500 for the first time
    ({"scheduler": StepRate(7, 0.1)}, lambda n: 0.1 ** (n // 7)),
    ({"scheduler": StepRate([21, 4], 0.5)}, lambda n: 0.5 ** ((n >= 4) + (n >= 21))),
    (
        {"scheduler": StepRate(10, 0.5, warmup=12)},
        lambda n: min(1.0, (n + 1) / 12) * 0.5 ** (n // 10),
    ),
]


@pytest.mark.parametrize(("given", "form"), FORMS)
def test_rates_are_their_closed_forms(given, form):
    assert np.allclose(rates(**given), [LR * form(n) for n in range(30)], rtol=1e-13, atol=1e-18)


def test_the_named_step_schedule_halves_every_1500_steps():
    named = Trainer(velocity(), VelocityLoss(), scheduler="step").scheduler
    expected = [1.0] * 1500 + [0.5] * 1500 + [0.25]
    assert [named.factor(n, 10**6) for n in range(3001)] == expected


def test_the_cosine_ends_at_the_floor_and_stays():
    """The last of N steps has n = N - 1, so the floor is reached by the step after them."""
    found = rates(30, scheduler=CosineRate(0.2, steps=12))
    assert found[11] > 0.2 * LR
    assert np.allclose(found[12:], 0.2 * LR, rtol=1e-15)
    assert (np.diff(found[:13]) < 0).all()


# ------------------------------------------------------------- what is recorded is what is used


@pytest.mark.parametrize("schedule", [CosineRate(0.1, warmup=5), StepRate(4, 0.5), None])
def test_the_steps_are_those_of_torchs_scheduler_with_these_factors(schedule):
    """Bit for bit: a rate one step late, or one that is not used, would move the weights."""
    ours = Trainer(velocity(), VelocityLoss(), lr=LR, scheduler=schedule)
    theirs = Trainer(
        velocity(),
        VelocityLoss(),
        lr=LR,
        scheduler=lambda o: LambdaLR(o, lambda n: schedule.factor(n, 20) if schedule else 1.0),
    )
    a, b = fit(ours, 20), fit(theirs, 20)
    assert np.array_equal(a.learning_rate, b.learning_rate)
    assert same(weights(ours), weights(theirs))


def test_groups_keep_the_ratio_of_their_rates():
    field = velocity()
    ps = list(field.parameters())
    groups = [{"params": ps[:3], "lr": 0.04}, {"params": ps[3:], "lr": 0.005}]
    optimizer = torch.optim.SGD(groups)
    seen = []

    class Watch(ConstantRate):
        def decay(self, step, last):
            seen.append([group["lr"] for group in optimizer.param_groups])
            return 0.5**step

    trainer = Trainer(field, VelocityLoss(), optimizer=optimizer, scheduler=Watch(warmup=2))
    history = fit(trainer, 6)
    expected = np.array([min(1.0, (n + 1) / 2) * 0.5**n for n in range(6)])
    assert np.allclose(history.learning_rate, 0.04 * expected)
    assert np.allclose(np.array(seen)[1:], expected[:5, None] * [0.04, 0.005])
    assert [group["lr"] for group in optimizer.param_groups] == [0.04 / 32, 0.005 / 32]


@pytest.mark.parametrize("kind", ["ours", "torchs"])
def test_a_rate_that_is_a_tensor_is_recorded_at_each_step(kind):
    """Torch changes such a rate in place, and the ones of before must not change with it."""
    scheduler = StepRate(2) if kind == "ours" else lambda o: LambdaLR(o, lambda n: 0.5 ** (n // 2))
    trainer = Trainer(
        velocity(),
        VelocityLoss(),
        optimizer=lambda ps: torch.optim.Adam(ps, torch.tensor(0.5), fused=True),
        scheduler=scheduler,
    )
    assert np.allclose(fit(trainer, 8).learning_rate, 0.5 ** (1 + np.arange(8) // 2))


def test_a_second_trainer_of_an_optimizer_begins_at_its_first_rate():
    field = velocity()
    optimizer = torch.optim.SGD(field.parameters(), LR)
    for _ in range(2):
        trainer = Trainer(field, VelocityLoss(), optimizer=optimizer, scheduler="cosine")
        assert fit(trainer, 10).learning_rate[0] == LR
    assert optimizer.param_groups[0]["lr"] < 0.05 * LR


def test_a_schedule_of_ones_own():
    class Sawtooth(RateSchedule):
        def decay(self, step, last):
            return 1 + step % 3 + last

    found = rates(7, scheduler=Sawtooth(warmup=2))
    assert np.allclose(found, LR * np.array([0.5, 1, 1, 1, 1, 1, 1]) * (8 + np.arange(7) % 3))


# ------------------------------------------------------------------------------------ several fits


@pytest.mark.parametrize(
    "given",
    [
        {"scheduler": CosineRate(steps=25, warmup=6)},
        {"scheduler": StepRate(8)},
        {"warmup": 15},
    ],
)
def test_two_fits_are_one_bit_for_bit(given):
    def make():
        return Trainer(velocity(), VelocityLoss(), lr=LR, ema=0.9, **given)

    one, two = make(), make()
    fit(one, 30)
    fit(two, 11)
    fit(two, 19, key=None)
    assert np.array_equal(one.history.learning_rate, two.history.learning_rate)
    assert same(weights(one), weights(two))


def test_a_cosine_without_an_end_ends_with_each_fit():
    trainer = Trainer(velocity(), VelocityLoss(), lr=LR, scheduler="cosine", warmup=2)
    fit(trainer, 12)
    found = fit(trainer, 10, key=None).learning_rate
    first = [0.5, 1] + [annealed(n / 10) for n in range(10)]
    second = [annealed(n / 20) for n in range(10, 20)]
    assert np.allclose(found, LR * np.array(first + second), rtol=1e-13)
    assert found[12] > 10 * found[11]


@pytest.mark.parametrize("scheduler", ["cosine", CosineRate(0.3, steps=10, warmup=3), StepRate(3)])
def test_a_resumed_run_has_the_rates_of_one_that_was_not(scheduler, tmp_path):
    """From a copy of the folder at step 9, with a checkpoint of step 8 in it."""
    folder, copy = tmp_path / "whole", tmp_path / "killed"

    def make():
        return Trainer(velocity(), VelocityLoss(), lr=LR, scheduler=scheduler)

    whole = make()
    fit(whole, 20, checkpoints=Checkpoints(folder, every=8, keep=9))
    copy.mkdir()
    shutil.copy(Checkpoints(folder).path(8), copy)
    resumed = make()
    fit(resumed, 20, key=99, checkpoints=copy, resume=True)
    assert np.array_equal(resumed.history.learning_rate, whole.history.learning_rate)
    assert same(weights(resumed), weights(whole))


# ---------------------------------------------------------------------------------------- refusals


def make(**kwargs):
    return Trainer(velocity(), VelocityLoss(), **kwargs)


@pytest.mark.parametrize(
    ("refused", "error", "message"),
    [
        (lambda: make(scheduler="linear"), ValueError, "'linear'.*'constant', 'cosine', 'step'"),
        (lambda: make(scheduler="CosineRate"), ValueError, "unknown scheduler 'CosineRate'"),
        (lambda: make(scheduler=""), ValueError, "unknown scheduler ''"),
        (lambda: make(scheduler=3), TypeError, "scheduler"),
        (lambda: make(warmup=-1), ValueError, "warmup is a number of steps, got -1"),
        (lambda: make(warmup=2.5), ValueError, "number of steps, got 2.5"),
        (lambda: make(warmup=True), ValueError, "number of steps, got True"),
        (lambda: make(scheduler="cosine", warmup="10"), ValueError, "got '10'"),
        (lambda: make(scheduler=CosineRate(), warmup=5), ValueError, r"CosineRate\(warmup=5\)"),
        (
            lambda: make(scheduler=lambda o: LambdaLR(o, lambda n: 1.0), warmup=5),
            ValueError,
            "warmup=5 goes with a scheduler's name.*LinearLR",
        ),
        (lambda: CosineRate(-0.1), ValueError, "floor.*got -0.1"),
        (lambda: CosineRate(1.1), ValueError, "floor.*got 1.1"),
        (lambda: CosineRate(math.nan), ValueError, "floor"),
        (lambda: CosineRate(warmup=-2), ValueError, "warmup.*got -2"),
        (lambda: CosineRate(steps=0), ValueError, "ends after 0 steps"),
        (lambda: CosineRate(steps=-4), ValueError, "ends after -4 steps"),
        (
            lambda: CosineRate(steps=5, warmup=5),
            ValueError,
            "after 5 steps, within its warmup of 5",
        ),
        (lambda: ConstantRate(warmup=-2), ValueError, "warmup.*got -2"),
        (lambda: StepRate(0), ValueError, "at least 1, got 0"),
        (lambda: StepRate(-5), ValueError, "at least 1, got -5"),
        (lambda: StepRate(5, 0.0), ValueError, "factor must be positive and finite, got 0"),
        (lambda: StepRate(5, -0.5), ValueError, "factor must be positive and finite, got -0.5"),
        (lambda: StepRate(5, math.nan), ValueError, "factor"),
    ],
)
def test_refuses(refused, error, message):
    with pytest.raises(error, match=message):
        refused()


@pytest.mark.parametrize("kind", [CosineRate, StepRate, ConstantRate])
def test_a_class_in_place_of_a_schedule_is_told_apart(kind):
    """It says what to write: the class with brackets."""
    with pytest.raises(TypeError, match=rf"{kind.__name__}\(\)"):
        make(scheduler=kind)


@pytest.mark.parametrize("every", [2.5, "100"])
def test_step_decay_refuses_what_is_no_number_of_steps_when_it_is_made(every):
    with pytest.raises((TypeError, ValueError), match="every"):
        StepRate(every)
