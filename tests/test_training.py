"""The trainer: closed forms, exact streams, exact averages, and refusals."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from transportflows._core.random import mix
from transportflows.couplings.base import Paired
from transportflows.couplings.transport import MinibatchOT
from transportflows.distributions.gaussian import Gaussian
from transportflows.draws import Batch
from transportflows.fields.kinds import Velocity
from transportflows.fields.pair import FieldPair
from transportflows.interpolants import AffineInterpolant, Brownian, Linear
from transportflows.losses import Loss, NoiseLoss, SumLoss, VelocityLoss
from transportflows.networks import MLP
from transportflows.process import Process
from transportflows.times.base import GridTimes
from transportflows.training import EMA, DataRows, Epochs, NonFiniteLossError, Trainer
from transportflows.training import loop as loop_module
from transportflows.training.recorder import Recorder
from transportflows.transforms import Standardize


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp(**kwargs):
    return MLP(2, width=16, depth=2, generator=gen(7), **kwargs)


def velocity(net=None, gamma=None, coupling=None, **kwargs):
    base = None if isinstance(coupling, Paired) else Gaussian((2,))
    return Velocity(net or mlp(), Process(Linear(gamma), base, coupling), **kwargs)


def rows(n=300, seed=1, **kwargs):
    return torch.randn(n, 2, generator=gen(seed), **kwargs)


def run(field=None, data=None, *, steps=20, batch_size=32, loss=None, key=3, fit=None, **kwargs):
    """A trainer after a fit."""
    trainer = Trainer(field or velocity(), loss or VelocityLoss(), **kwargs)
    data = rows() if data is None else data
    trainer.fit(
        data, steps=steps, batch_size=batch_size, generator=gen(key), progress=False, **(fit or {})
    )
    return trainer


def weights(trainer):
    return [p.detach().clone() for p in trainer.parameters]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Linearly(nn.Module):
    """An affine function of x for each of a few times on a grid: it holds the exact field."""

    def __init__(self, d, times):
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(len(times), d, d, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(len(times), d, dtype=torch.float64))
        self.register_buffer("times", torch.tensor(times, dtype=torch.float64))

    def forward(self, t, x):
        at = (t.unsqueeze(-1) - self.times).abs().argmin(-1).expand(x.shape[0])
        return torch.einsum("bij,bj->bi", self.matrix[at], x) + self.bias[at]


class Untaught(Loss):
    """A loss of one's own, with a hook."""

    def __init__(self, hook):
        self.hook, self.calls = hook, 0

    def __call__(self, field, batch, *, generator=None):
        values = VelocityLoss()(field, batch, generator=generator)
        self.calls += 1
        return self.hook(self.calls, values, batch, generator)


# ------------------------------------------------------------------------------ it finds the field


def test_reaches_the_closed_form_field():
    """x0 ~ N(0, I), x1 ~ N(m, C): b = m + (t C - (1 - t) I) ((1 - t)² I + t² C)⁻¹ (x - t m)."""
    factor = torch.tensor([[1.0, 0.0], [0.6, 0.5]], dtype=torch.float64)
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    z = torch.randn(20_000, 2, generator=gen(), dtype=torch.float64)
    z = torch.linalg.solve_triangular(
        torch.linalg.cholesky(torch.cov(z.T)), (z - z.mean(0)).T, upper=False
    ).T  # moments that are exact
    x1 = mean + z @ factor.T
    times = [0.2, 0.5, 0.9]
    field = velocity(Linearly(2, times))
    trainer = Trainer(
        field,
        VelocityLoss(times=GridTimes(times)),
        lr=0.05,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 1500),
        ema=0.99,
    )
    trainer.fit(x1, steps=1500, batch_size=2000, generator=gen(4), progress=False)
    covariance, eye = factor @ factor.T, torch.eye(2, dtype=torch.float64)
    with trainer.averaged():
        for k, t in enumerate(times):
            marginal = (1 - t) ** 2 * eye + t**2 * covariance
            exact = (t * covariance - (1 - t) * eye) @ torch.linalg.inv(marginal)
            assert (field.net.matrix[k] - exact).abs().max() < 0.03
            assert (field.net.bias[k] - (mean - t * exact @ mean)).abs().max() < 0.03


def test_standardises_the_data_once_and_both_members_of_a_pair():
    data = 5 + 3 * rows()
    transform = Standardize.fit(data)
    plain = run(velocity(), transform(data))
    carried = run(velocity(transform=transform), data)
    assert same(weights(plain), weights(carried))
    x0 = rows(seed=5) * 7 - 2
    plain = run(velocity(coupling=Paired()), (transform(x0), transform(data)))
    carried = run(velocity(coupling=Paired(), transform=transform), (x0, data))
    assert same(weights(plain), weights(carried))
    assert np.array_equal(plain.history.loss, carried.history.loss)


def test_pairs_stay_paired():
    """On pairs x1 = x0 + c the target is c in every row, so the loss is ½|net - c|² exactly."""
    x0, c = rows(64), torch.tensor([1.0, 2.0])
    seen = []

    class Watch(Loss):
        def __call__(self, field, batch, *, generator=None):
            seen.append((batch.x1 - batch.x0 - c).abs().max())
            return VelocityLoss()(field, batch, generator=generator)

    run(velocity(coupling=Paired()), (x0, x0 + c), loss=Watch(), steps=5, batch_size=50)
    assert max(seen) < 1e-6


def test_a_pair_of_fields_trains_both_and_keeps_each_loss():
    process = Process(Linear(Brownian()), Gaussian((2,)))
    field = FieldPair(velocity=mlp(), noise=mlp(), process=process)
    before = [p.detach().clone() for p in field.parameters()]
    losses = [VelocityLoss(antithetic=True), NoiseLoss()]
    trainer = run(field, loss=losses, steps=30, batch_size=64)
    moved = [not torch.equal(a, b) for a, b in zip(before, field.parameters(), strict=True)]
    assert all(moved)
    terms = trainer.history.terms
    assert list(terms) == ["velocity", "noise"]
    assert np.allclose(terms["velocity"] + terms["noise"], trainer.history.loss)
    # The same as minimising the sum: a loss that adds the terms itself takes the same steps.
    twin = FieldPair(velocity=mlp(), noise=mlp(), process=process)

    class Whole(Loss):
        def __call__(self, field, batch, *, generator=None):
            return SumLoss(*losses)(field, batch, generator=generator)

    other = run(twin, loss=Whole(), steps=30, batch_size=64)
    for a, b in zip(weights(trainer), weights(other), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_conditions_reach_their_rows():
    """Data that are their label: conditions must travel with their rows, in order."""
    label = torch.arange(100)
    data = label[:, None].float().expand(100, 2) + 0.5
    seen = []

    class Watch(Loss):
        def __call__(self, field, batch, *, generator=None):
            seen.append((batch.x1[:, 0] - 0.5 - batch.cond["label"]).abs().max())
            return VelocityLoss()(field, batch, generator=generator)

    held_out = Batch(data[:50], cond={"label": label[:50]})
    field = velocity(mlp(labels=100))
    trainer = run(field, data, loss=Watch(), fit={"cond": {"label": label}, "validation": held_out})
    assert max(seen) == 0
    assert field.net.embed_label.weight.grad is None
    assert len(trainer.history.validation.step) == 1
    twin = run(velocity(mlp(labels=100)), data, fit={"cond": {"label": label}})
    as_batch = run(velocity(mlp(labels=100)), Batch(data, cond={"label": label}))
    assert same(weights(twin), weights(as_batch))
    assert same(weights(twin), weights(trainer))


# ------------------------------------------------------------------------------ streams and resume


def test_same_seed_same_bits_and_another_seed_others():
    dropout = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    state = {k: v.clone() for k, v in dropout.state_dict().items()}

    def trained(key, noise):
        dropout.load_state_dict(state)
        torch.manual_seed(noise)  # the ambient stream must not matter, for dropout either
        return run(Velocity(lambda t, x: dropout(x), velocity().process), key=key, **options())

    def options():
        return {"optimizer": torch.optim.Adam(dropout.parameters(), 1e-2)}

    a, b, c = weights(trained(3, 0)), weights(trained(3, 1)), weights(trained(4, 0))
    assert same(a, b)
    assert not same(a, c)


@pytest.mark.parametrize("coupling", [None, MinibatchOT()])
def test_two_runs_are_one_run_of_both_lengths(coupling):
    def make():
        return Trainer(velocity(coupling=coupling), VelocityLoss(), ema=0.9)

    one, two = make(), make()
    one.fit(rows(), steps=23, batch_size=32, generator=gen(3), progress=False)
    two.fit(rows(), steps=9, batch_size=32, generator=gen(3), progress=False)
    torch.rand(5)
    history = two.fit(rows(), steps=14, batch_size=32, progress=False)
    assert same(weights(one), weights(two))
    assert same(one.ema.averages, two.ema.averages)
    assert np.array_equal(history.loss, one.history.loss)
    assert history.step.tolist() == list(range(1, 24))
    assert two.step == 23
    key = two.key
    two.fit(rows(), steps=1, generator=gen(8), progress=False)
    assert two.key != key


def test_leaves_torchs_own_generator_as_it_was():
    trainer = Trainer(velocity(), VelocityLoss())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    trainer.fit(rows(), steps=3, generator=gen(3), progress=False)
    assert torch.equal(state, torch.get_rng_state())


def test_a_step_is_a_function_of_key_and_step():
    """Any step can be redone by hand from (key, step)."""
    batches, keep = {}, {}

    def hook(call, values, batch, generator):
        batches[call], keep[call] = batch.x1, values.detach()
        return values

    field, data = velocity(), rows()
    start = {k: v.clone() for k, v in field.state_dict().items()}
    trainer = run(field, data, loss=Untaught(hook), steps=12)
    first = velocity()
    first.load_state_dict(start)
    order = Epochs(DataRows(data), 32, trainer.key)
    assert torch.equal(order.batch(11).x1, batches[12])  # with no batch before it
    assert torch.equal(order.batch(4).x1, batches[5])
    stream = torch.Generator().manual_seed(mix(trainer.key, 0, 0))
    values = VelocityLoss()(first, order.batch(0), generator=stream)
    assert torch.equal(values, keep[1])


@pytest.mark.parametrize("batch_size", [3, 5, 10, 11, 27])
def test_every_row_once_an_epoch(batch_size):
    n, steps = 10, 40
    order = Epochs(DataRows(torch.arange(float(n))[:, None]), batch_size, key=5)
    drawn = torch.cat([order.order.index(step) for step in range(steps)])
    gathered = torch.cat([order.batch(step, steps).x1 for step in range(steps)])
    assert torch.equal(gathered[:, 0].long(), drawn)
    epochs = drawn[: len(drawn) // n * n].view(-1, n)
    assert (epochs.sort(1).values == torch.arange(n)).all()
    assert len(torch.unique(epochs, dim=0)) > len(epochs) // 2
    assert torch.equal(order.order.index(7, 3), drawn[7 * batch_size : 10 * batch_size])


# --------------------------------------------------------------------- optimizer, averages, clip


def test_default_optimizer_is_adam():
    ours = run()
    theirs = run(optimizer=lambda ps: torch.optim.Adam(ps, 1e-3, fused=True))
    assert same(weights(ours), weights(theirs))
    half = Velocity(mlp().to(torch.float64), velocity().process)
    run(half, rows(dtype=torch.float64), steps=2)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_averages_are_their_recursion(decay):
    trainer = Trainer(velocity(), VelocityLoss(), lr=0.01, ema=decay)
    expected = [p.detach().double() for p in trainer.parameters]
    for n in range(1, 25):
        trainer.fit(rows(), steps=1, batch_size=32, generator=gen(n), progress=False)
        d = min(decay, (1 + n) / (10 + n))
        expected = [
            d * e + (1 - d) * p.detach().double()
            for e, p in zip(expected, trainer.parameters, strict=True)
        ]
    for average, e in zip(trainer.ema.averages, expected, strict=True):
        assert torch.allclose(average.double(), e, atol=1e-6)
    assert trainer.ema.updates == 24


def test_averaged_swaps_and_restores_bits():
    trainer = run(ema=0.9, lr=0.01)
    own, t, x = weights(trainer), torch.tensor(0.3), rows(5)
    raw = trainer.field(t, x)
    with trainer.averaged():
        assert same(weights(trainer), trainer.ema.averages)
        with trainer.averaged():
            averaged = trainer.field(t, x)
        assert same(weights(trainer), trainer.ema.averages)
        with pytest.raises(ValueError, match="leave averaged"):
            trainer.fit(rows(), steps=1, progress=False)
    assert same(weights(trainer), own)
    assert torch.equal(trainer.field(t, x), raw)
    assert not torch.equal(averaged, raw)
    twin = trainer.averaged_field()
    assert torch.equal(twin(t, x), averaged)
    with pytest.raises(RuntimeError, match="inside"), trainer.averaged():
        raise RuntimeError("inside")
    assert same(weights(trainer), own)
    trainer.fit(rows(), steps=3, progress=False)
    assert torch.equal(twin(t, x), averaged)  # a copy of its own


def test_averages_begin_with_the_weights_at_the_first_fit():
    trainer = Trainer(velocity(), VelocityLoss(), ema=0.9)
    with torch.no_grad():
        for p in trainer.parameters:
            p.mul_(3)
    start = weights(trainer)
    trainer.fit(rows(), steps=1, generator=gen(), progress=False)
    d = 2 / 11
    for a, s, p in zip(trainer.ema.averages, start, weights(trainer), strict=True):
        assert torch.allclose(a, d * s + (1 - d) * p, atol=1e-6)


def test_clip_is_torchs():
    clip = 0.05
    trainer = run(optimizer=lambda ps: torch.optim.SGD(ps, 1.0), clip=clip, steps=1)
    field = velocity()
    order = Epochs(DataRows(rows()), 32, trainer.key)
    stream = torch.Generator().manual_seed(mix(trainer.key, 0, 0))
    VelocityLoss()(field, order.batch(0), generator=stream).mean().backward()
    ps = list(field.net.parameters())
    norm = torch.nn.utils.clip_grad_norm_(ps, clip)
    assert norm > 2 * clip
    for p, moved in zip(ps, weights(trainer), strict=True):
        assert torch.allclose(p - p.grad, moved, atol=1e-7)
    free = run(optimizer=lambda ps: torch.optim.SGD(ps, 1.0), steps=1)
    assert not same(weights(free), weights(trainer))


def test_scheduler_steps_once_a_step():
    scheduler = torch.optim.lr_scheduler.LambdaLR
    trainer = run(scheduler=lambda o: scheduler(o, lambda n: 0.5**n), steps=6, lr=0.25)
    assert np.allclose(trainer.history.learning_rate, 0.25 * 0.5 ** np.arange(6))
    field = velocity()
    optimizer = torch.optim.SGD(field.parameters(), 1.0)
    trainer = run(field, optimizer=optimizer, scheduler=scheduler(optimizer, lambda n: 1 / (1 + n)))
    assert np.allclose(trainer.history.learning_rate, 1 / np.arange(1, 21))


def test_plateau_follows_the_validation():
    trainer = run(
        steps=30,
        optimizer=lambda ps: torch.optim.SGD(ps, 1e-12),
        scheduler=lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, eps=0),
        fit={"validation": rows(40), "validation_every": 10},
    )
    rates = trainer.history.learning_rate
    assert rates[:20].tolist() == [1e-12] * 20
    assert math.isclose(rates[25], 1e-13)
    with pytest.raises(ValueError, match="give validation="):
        trainer.fit(rows(), steps=1, progress=False)


class Bend(AffineInterpolant):
    def __init__(self):
        super().__init__()
        self.power = nn.Parameter(torch.tensor(2.0))

    def alpha(self, t):
        return 1 - t**self.power

    def beta(self, t):
        return t**self.power


def test_an_interpolant_is_trained_only_on_request():
    field = Velocity(mlp(), Process(Bend(), Gaussian((2,))))
    power = field.process.interpolant.power
    power.grad = torch.tensor(3.0)
    trainer = run(field)
    assert power == 2.0
    assert power.grad == 3.0  # nor is a gradient of one's own
    assert power.requires_grad
    assert all(p is not power for p in trainer.parameters)
    run(field, optimizer=torch.optim.Adam(field.parameters(), 1e-2))
    assert power != 2.0


def test_frozen_parameters_stay_and_flags_too():
    field = velocity()
    field.net.embed_x.requires_grad_(False)
    frozen = field.net.embed_x.weight.clone()
    trainer = run(field)
    assert torch.equal(field.net.embed_x.weight, frozen)
    assert not field.net.embed_x.weight.requires_grad
    assert len(trainer.parameters) == len(list(field.parameters())) - 2
    for p in field.parameters():
        assert p.grad is None


# ---------------------------------------------------------------------------- modes and validation


def test_modes_come_back_as_they_were():
    net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    seen = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net

        def forward(self, t, x):
            seen.append((self.training, net[1].training))
            return self.body(x)

    field = velocity(Net())
    fit = {"validation": rows(20)}
    for prepare, during in [
        (field.eval, (True, True)),
        (field.train, (True, True)),
        (lambda: (field.train(), net[1].eval()), (True, False)),
    ]:
        prepare()
        flags = [m.training for m in field.modules()]
        seen.clear()
        run(field, steps=2, fit=fit)
        assert seen == [during, during, (False, False)]
        assert [m.training for m in field.modules()] == flags
    field.eval()
    with pytest.raises(NonFiniteLossError):
        run(field, loss=Untaught(lambda call, values, *_: values * math.inf))
    assert not any(m.training for m in field.modules())


def test_validation_is_fixed_and_disturbs_nothing():
    quiet = run(steps=24, ema=0.9)
    fit = {"validation": rows(70, seed=9), "validation_every": 5}
    watched = run(steps=24, ema=0.9, fit=fit)
    assert same(weights(quiet), weights(watched))
    assert same(quiet.ema.averages, watched.ema.averages)
    assert watched.history.validation.step.tolist() == [5, 10, 15, 20, 24]
    # Without motion, every validation, of any run, gives one number: that of the averages.
    still = {"optimizer": lambda ps: torch.optim.SGD(ps, 0.0), "fit": fit}
    a = run(key=3, **still).history.validation.loss
    b = run(key=4, **still).history.validation.loss
    assert len(set(a) | set(b)) == 1
    with watched.averaged():
        twin = run(watched.averaged_field(), **still)
    assert math.isclose(twin.history.validation.loss[0], watched.history.validation.loss[-1])


def test_validation_is_a_mean_over_all_rows():
    """On pairs x1 - x0 = c a zero network has the loss ½|c|², in each row its own."""
    net = Linearly(2, [0.5])
    c = rows(70, dtype=torch.float64)
    x0 = rows(70, seed=4, dtype=torch.float64)
    field = velocity(net, coupling=Paired())
    fit = {"validation": (x0, x0 + c)}
    still = {"optimizer": lambda ps: torch.optim.SGD(ps, 0.0)}
    history = run(field, (x0, x0 + c), steps=1, fit=fit, **still).history
    exact = float(0.5 * c.square().sum(1).mean())
    assert math.isclose(history.validation.loss[0], exact, rel_tol=1e-12)


# --------------------------------------------------------------- history, failures, interruptions


def test_history_holds_the_batch_means():
    kept = []

    def hook(call, values, batch, generator):
        kept.append(float(values.detach().double().mean()))
        return values

    history = run(loss=Untaught(hook), steps=130).history
    assert len(history) == 130
    assert np.allclose(history.loss, kept, rtol=1e-12)
    assert history.terms == {}
    assert "130 steps" in repr(history)


@pytest.mark.parametrize("bad", [1, 60, 100, 120])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_names_the_first_step_that_is_not_finite(bad, value):
    loss = Untaught(lambda call, values, *_: values * value if call == bad else values)
    trainer = Trainer(velocity(), loss)
    with pytest.raises(NonFiniteLossError, match=rf"at step {bad},") as raised:
        trainer.fit(rows(), steps=120, batch_size=32, generator=gen(), progress=False)
    assert raised.value.step == bad
    assert bad <= trainer.step < bad + 50
    assert np.isfinite(raised.value.history.loss[: bad - 1]).all()
    assert not np.isfinite(raised.value.history.loss[bad - 1])
    assert len(trainer.history) == trainer.step
    assert "hold NaN" in str(raised.value)


def test_an_interruption_loses_nothing():
    def hook(call, values, batch, generator):
        if call == 18:
            raise KeyboardInterrupt
        return values

    trainer = Trainer(velocity(), Untaught(hook), ema=0.9)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(rows(), steps=30, batch_size=32, generator=gen(3), progress=False)
    assert trainer.step == len(trainer.history) == 17
    trainer.fit(rows(), steps=13, batch_size=32, progress=False)
    whole = run(loss=Untaught(lambda call, values, *_: values), steps=30, ema=0.9)
    assert same(weights(trainer), weights(whole))
    assert np.array_equal(trainer.history.loss, whole.history.loss)


SYNCS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "item"}


class CountSyncs(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in SYNCS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_the_loop_never_waits_for_the_device(clip, monkeypatch):
    monkeypatch.setattr(loop_module, "_READ_SECONDS", math.inf)

    def syncs(steps, hook=lambda call, values, *_: values):
        with CountSyncs() as mode:
            run(loss=Untaught(hook), steps=steps, ema=0.9, clip=clip)
        return mode.count

    assert syncs(145) == syncs(5)

    def reads(call, values, *_):
        float(values.detach().sum())
        return values

    assert syncs(145, reads) - syncs(5, reads) == 140  # the count is not blind


def test_reads_every_fifty_steps_at_most(monkeypatch):
    monkeypatch.setattr(loop_module, "_READ_SECONDS", math.inf)
    sizes, read = [], Recorder.read

    def watched(self):
        sizes.append(self.waiting)
        return read(self)

    monkeypatch.setattr(Recorder, "read", watched)
    run(steps=120)
    assert [size for size in sizes if size] == [50, 50, 20]


def test_progress_and_silence(capsys, monkeypatch):
    run(steps=3)
    assert capsys.readouterr() == ("", "")
    Trainer(velocity(), VelocityLoss()).fit(rows(), steps=3)  # no terminal, no bar
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    Trainer(velocity(), VelocityLoss()).fit(rows(), steps=3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "loss=" in err
    assert "3/3" in err


# ------------------------------------------------------------------------------------- bad input


def with_nan():
    data = rows(30)
    data[[4, 17], 1] = torch.tensor([math.nan, math.inf])
    return data


@pytest.mark.parametrize(
    ("data", "coupling", "error", "message"),
    [
        (with_nan(), None, ValueError, r"NaN or infinite values in 2 of 30 rows \(rows 4, 17\)"),
        (torch.empty(0, 2), None, ValueError, "empty"),
        (rows(dtype=torch.float64), None, ValueError, r"float64.*write x\.to\(torch\.float32\)"),
        (rows().long(), None, TypeError, "floating-point"),
        (rows()[:, 0], None, ValueError, r"x\.unsqueeze\(-1\)"),
        (torch.randn(30, 3), None, ValueError, r"shape \(3,\).*base has \(2,\)"),
        (rows().to("meta"), None, ValueError, "is on meta"),
        ("rows", None, TypeError, "torch.as_tensor"),
        ((rows(), rows()), None, ValueError, r"coupling=Paired\(\)"),
        ((rows(), rows()), MinibatchOT(), ValueError, r"MinibatchOT.*coupling=Paired\(\)"),
        (rows(), Paired(), ValueError, r"give pairs \(x0, x1\)"),
        ((rows(30), rows(40)), Paired(), ValueError, r"\(30, 2\).*\(40, 2\)"),
        ((with_nan(), rows(30)), Paired(), ValueError, "x0 of data"),
        ((rows(30), with_nan()), Paired(), ValueError, "x1 of data"),
        ((rows(30, dtype=torch.float64), rows(30)), Paired(), ValueError, "x0 is torch.float64"),
        ((rows(), rows(), rows()), Paired(), TypeError, "3 things"),
    ],
)
def test_refuses_bad_data_before_the_first_step(data, coupling, error, message):
    trainer = Trainer(velocity(coupling=coupling), VelocityLoss())
    generator = gen()
    state = generator.get_state()
    with pytest.raises(error, match=message):
        trainer.fit(data, steps=1, generator=generator, progress=False)
    assert torch.equal(generator.get_state(), state)
    assert trainer.step == 0
    good = (rows(), rows()) if isinstance(coupling, Paired) else rows()
    with pytest.raises(error, match=message.replace("of data", "of validation")):
        trainer.fit(good, steps=1, validation=data, generator=generator, progress=False)


@pytest.mark.parametrize(
    ("cond", "error", "message"),
    [
        ({"label": torch.arange(5)}, ValueError, "5 rows for 30 rows of data"),
        ({"label": [0] * 30}, TypeError, "'label'"),
        ({"c": torch.full((30, 1), math.nan)}, ValueError, "30 of 30 rows"),
    ],
)
def test_refuses_bad_conditions(cond, error, message):
    trainer = Trainer(velocity(mlp(labels=3)), VelocityLoss())
    with pytest.raises(error, match=message):
        trainer.fit(rows(30), steps=1, cond=cond, progress=False)


def test_refuses_validation_without_the_conditions():
    trainer = Trainer(velocity(mlp(labels=3)), VelocityLoss())
    label = torch.zeros(300, dtype=torch.long)
    with pytest.raises(ValueError, match=r"validation=Batch\(x1, cond="):
        trainer.fit(rows(), steps=1, cond={"label": label}, validation=rows(), progress=False)
    both = Batch(rows(), cond={"label": label})
    with pytest.raises(ValueError, match="give one"):
        trainer.fit(both, steps=1, cond={"label": label}, progress=False)


@pytest.mark.parametrize("name", ["steps", "batch_size", "validation_every"])
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_refuses_bad_counts(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be an? (positive )?integer, got {value}"):
        Trainer(velocity(), VelocityLoss()).fit(rows(), **{"steps": 1, name: value})


class Frozen(nn.Module):
    def forward(self, t, x):
        return x


def adam_of_another():
    return torch.optim.Adam(mlp().parameters())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Trainer(VelocityLoss(), velocity()),
            TypeError,
            "field must be a Field, got a VelocityLoss",
        ),
        (lambda: Trainer(velocity(), VelocityLoss), TypeError, "got the class VelocityLoss"),
        (lambda: Trainer(velocity(), [MLP(2)]), TypeError, "SumLoss"),
        (lambda: Trainer(velocity(), VelocityLoss(), ema=1.0), ValueError, r"in \(0, 1\)"),
        (lambda: Trainer(velocity(), VelocityLoss(), clip=0.0), ValueError, "positive norm"),
        (lambda: Trainer(velocity(), VelocityLoss(), lr=-1.0), ValueError, "lr must be positive"),
        (lambda: Trainer(velocity(Frozen()), VelocityLoss()), ValueError, "nothing to train"),
        (
            lambda: Trainer(velocity(), VelocityLoss(), optimizer=adam_of_another()),
            ValueError,
            "no parameter of the field",
        ),
        (
            lambda: Trainer(velocity(), VelocityLoss(), optimizer=torch.optim.AdamW, lr=0.5),
            ValueError,
            "lr=0.5 is for the default",
        ),
        (lambda: Trainer(velocity(), VelocityLoss(), optimizer=len), TypeError, "got int"),
        (
            lambda: Trainer(velocity(), VelocityLoss(), optimizer=torch.optim.LBFGS),
            TypeError,
            "LBFGS",
        ),
        (
            lambda: Trainer(
                velocity(),
                VelocityLoss(),
                scheduler=torch.optim.lr_scheduler.StepLR(adam_of_another(), 3),
            ),
            ValueError,
            "of another optimizer",
        ),
        (
            lambda: Trainer(velocity(), VelocityLoss(), scheduler=lambda o: o),
            TypeError,
            "torch scheduler",
        ),
        (
            lambda: Trainer(
                FieldPair(velocity=mlp(), noise=mlp(), process=velocity().process), VelocityLoss()
            ),
            ValueError,
            "one for each",
        ),
        (lambda: Trainer(velocity(), VelocityLoss()).averaged().__enter__(), ValueError, "ema=0.9"),
        (lambda: Trainer(velocity(), VelocityLoss()).averaged_field(), ValueError, "ema=0.9"),
    ],
)
def test_refuses_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (lambda call, values, *_: values.mean(), r"\(32,\), and it gave \(\)"),
        (lambda call, values, *_: values[:-1], r"gave \(31,\)"),
        (lambda call, values, *_: float(values.detach().mean()), "gave float"),
        (lambda call, values, *_: values.detach(), "no trained parameter"),
    ],
)
def test_refuses_what_is_no_loss(hook, message):
    with pytest.raises(ValueError, match=message):
        run(loss=Untaught(hook))


def test_refuses_a_copy_that_would_share_its_weights():
    net = mlp()
    field = Velocity(lambda t, x: net(t, x), velocity().process)
    with pytest.raises(ValueError, match="nothing to train"):
        Trainer(field, VelocityLoss())
    trainer = run(field, optimizer=torch.optim.Adam(net.parameters()), ema=0.9)
    with pytest.raises(ValueError, match="not in the field"):
        trainer.averaged_field()
    with trainer.averaged():
        assert same(list(net.parameters()), trainer.ema.averages)


def test_ema_alone_is_checked():
    with pytest.raises(ValueError, match="for no averages"):
        EMA([torch.zeros(1)], 0.0)
