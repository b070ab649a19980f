"""A compiled step: the numbers of an eager one, or an eager one and the reason in one warning."""

from __future__ import annotations

import copy
import re
import shutil
import warnings

import pytest
import torch
from torch import Tensor, nn

import transportflows as tpf
from transportflows.training import Callback
from transportflows.training.compiled import reason_of

F64 = torch.float64
QUICK = {"backend": "aot_eager"}
COMPILER = shutil.which("g++") or shutil.which("clang++")


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(n, *(shape or (2,)), generator=gen(seed), dtype=F64)


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def mlp(**given) -> nn.Module:
    return seeded(lambda: tpf.networks.MLP(2, width=8, **given)).double()


def straight(shape=(2,), **given) -> tpf.Process:
    return tpf.Process(tpf.Linear(**given), base=tpf.Gaussian(shape))


def vp() -> tpf.Process:
    return tpf.Process(tpf.VP(), shape=(2,))


def latent() -> tpf.Process:
    return straight(gamma=tpf.Brownian())


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, t, x):
        return self.layer(torch.cat([x, t[:, None, None, None].expand_as(x)], 1)).tanh()


class Branching(nn.Module):
    """A network whose path through it depends on a value of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, t, x):
        y = self.layer(torch.cat([t[:, None], x], 1))
        return y.tanh() if float(x.sum()) > 0 else y


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, t, x):
        y = self.layer(torch.cat([t[:, None], x], 1))
        return y * (torch.rand_like(y) > 0.5)


def pair() -> tpf.Field:
    return tpf.FieldPair(velocity=mlp(), noise=mlp(), process=latent())


LABELS = {"cond": {"label": torch.arange(96) % 3}}
OT = {"base": tpf.Gaussian((2,)), "coupling": tpf.MinibatchOT()}
CASES = {
    "velocity": (lambda: tpf.Velocity(mlp(), straight()), tpf.VelocityLoss(), {}, {}),
    "accumulated": (
        lambda: tpf.Velocity(mlp(), straight()),
        tpf.VelocityLoss(),
        {"accumulate": 3},
        {},
    ),
    "clipped, cosine": (
        lambda: tpf.Velocity(mlp(), straight()),
        tpf.VelocityLoss(),
        {"clip": 0.1, "scheduler": "cosine", "warmup": 3},
        {},
    ),
    "a torch scheduler, SGD": (
        lambda: tpf.Velocity(mlp(), straight()),
        tpf.VelocityLoss(),
        {
            "optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
            "scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, 5),
        },
        {},
    ),
    "min-SNR": (
        lambda: tpf.NoisePredictor(mlp(), vp()),
        tpf.NoiseLoss(weight=tpf.losses.MinSNRWeight()),
        {},
        {},
    ),
    "score, a function of times": (
        lambda: tpf.Score(mlp(), vp()),
        tpf.ScoreLoss(weight=lambda t: 1 + t),
        {},
        {},
    ),
    "data, without the constant": (
        lambda: tpf.DataPredictor(mlp(), vp()),
        tpf.DataLoss(constant=False),
        {},
        {},
    ),
    "pair, antithetic": (pair, [tpf.VelocityLoss(antithetic=True), tpf.NoiseLoss()], {}, {}),
    "labels": (lambda: tpf.Velocity(mlp(labels=3), straight()), None, {}, LABELS),
    "transport": (
        lambda: tpf.Velocity(mlp(), tpf.Process(tpf.Linear(), **OT)),
        tpf.VelocityLoss(),
        {},
        {},
    ),
    "pictures": (
        lambda: tpf.Velocity(seeded(Pictures).double(), straight((1, 4, 4))),
        tpf.VelocityLoss(importance=True, times=tpf.times.LogitNormalTimes()),
        {},
        {"data": rows(96, 1, 4, 4)},
    ),
}


def fitted(field, loss=None, *, steps=12, data=None, given=None, compile=QUICK, **fit):
    trainer = tpf.Trainer(field, loss, ema=0.9, compile=compile, **(given or {}))
    data = rows(96) if data is None else data
    options = {"batch_size": 16, "progress": False, "generator": gen(3), **fit}
    trainer.fit(data, steps=steps, **options)
    return trainer


def numbers(trainer) -> list[Tensor]:
    history = trainer.history
    read = [history.loss, history.gradient_norm.value]
    read += [] if history.by_time is None else [history.by_time.loss]
    return [*trainer.parameters, *trainer.ema.averages, *map(torch.tensor, read)]


def alike(one, other, tolerance=1e-9) -> bool:
    return all(
        torch.allclose(a.double(), b.double(), atol=tolerance, rtol=tolerance, equal_nan=True)
        for a, b in zip(numbers(one), numbers(other), strict=True)
    )


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_an_eager_fit(case):
    make, loss, given, fit = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        compiled = fitted(make(), loss, given=given, **fit)
    assert compiled.compiled.reason is None
    assert compiled.compiled.used is not None  # a graph was made, and its numbers were looked at
    assert alike(fitted(make(), loss, given=given, compile=False, **fit), compiled)


@pytest.mark.skipif(COMPILER is None, reason="torch compiles for a CPU by g++ or clang; none here")
def test_by_torch_s_own_compiler():
    def make():
        return tpf.Velocity(mlp().float(), straight())

    data = rows(96).float()
    compiled = fitted(make(), tpf.VelocityLoss(), data=data, compile=True)
    assert compiled.compiled.reason is None
    assert alike(fitted(make(), tpf.VelocityLoss(), data=data, compile=False), compiled, 1e-5)


def test_in_bfloat16_the_numbers_are_as_near_as_halves_are():
    made = [
        fitted(
            tpf.Velocity(mlp().float(), straight()),
            data=rows(96).float(),
            given={"autocast": torch.bfloat16},
            compile=how,
        )
        for how in (QUICK, False)
    ]
    assert made[0].compiled.reason is None
    assert alike(*made, 2e-2)


def test_the_field_is_the_user_s_and_files_know_nothing_of_graphs(tmp_path):
    field = tpf.Velocity(mlp(), straight())
    net, names = field.net, list(field.state_dict())
    compiled = fitted(field, steps=8, checkpoints=tmp_path / "a")
    assert compiled.field.net is net
    assert list(field.state_dict()) == names
    assert not any("_orig_mod" in name for name in names)
    compiled.save(tmp_path / "file")
    eager = tpf.Trainer(tpf.Velocity(mlp(), straight()), ema=0.9)
    eager.load(tmp_path / "file")
    assert all(map(torch.equal, eager.parameters, compiled.parameters))


@pytest.mark.parametrize("how", [(QUICK, False), (False, QUICK), (QUICK, QUICK)])
def test_a_run_is_resumed_compiled_and_eager_alike(how, tmp_path):
    whole = fitted(tpf.Velocity(mlp(), straight()), steps=20, compile=False)
    fitted(tpf.Velocity(mlp(), straight()), steps=9, compile=how[0], checkpoints=tmp_path)
    rest = fitted(
        tpf.Velocity(mlp(), straight()),
        steps=20,
        compile=how[1],
        checkpoints=tmp_path,
        resume=True,
    )
    assert rest.step == 20
    assert all(
        torch.allclose(a, b, atol=1e-9)
        for a, b in zip(whole.parameters, rest.parameters, strict=True)
    )


def test_callbacks_are_told_and_change_what_the_next_steps_draw():
    class Shifts(Callback):
        every = 5

        def on_step(self, trainer):
            trainer.loss.times = tpf.times.LogitNormalTimes(mean=0.5 * trainer.step)

    one, other = (
        fitted(
            tpf.Velocity(mlp(), straight()), tpf.VelocityLoss(), callbacks=[Shifts()], compile=how
        )
        for how in (QUICK, False)
    )
    assert alike(one, other)


def test_several_fits_use_one_graph():
    trainer = fitted(tpf.Velocity(mlp(), straight()), steps=5)
    graph = trainer.compiled._graph
    trainer.fit(rows(96), steps=5, batch_size=16, progress=False)
    assert trainer.compiled._graph is graph
    eager = fitted(tpf.Velocity(mlp(), straight()), steps=5, compile=False)
    eager.fit(rows(96), steps=5, batch_size=16, progress=False)
    assert alike(eager, trainer)


# ------------------------------------------------------------------------------------ refusals


def broken(graph, given):
    raise RuntimeError("this backend is out of order")


def without_compiler(graph, given):
    raise RuntimeError("No working C++ compiler found in (None, 'g++')")


def own(field, batch, generator):
    return tpf.VelocityLoss()(field, batch, generator=generator)


FALLBACKS = {
    "the backend": ({}, {"backend": broken}, "out of order"),
    "no compiler": ({}, {"backend": without_compiler}, r"install g\+\+ or clang"),
    "a branch": ({"net": Branching}, QUICK, r"in forward, line \d+ of test_compiled.py"),
    "layers that draw": ({"net": Dropping}, {"backend": "inductor"}, ""),
    "a loss that draws": ({"loss": own}, QUICK, "traces no generator"),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_what_cannot_be_compiled_is_eager_with_the_reason_once(case, monkeypatch):
    what, how, reason = FALLBACKS[case]
    if case == "layers that draw":  # whatever a compiler draws, a graph of other numbers is refused
        how = {"backend": "eager"}
        monkeypatch.setattr(
            "transportflows.training.compiled.TakenBack", lambda *_: lambda: torch.manual_seed(11)
        )
        reason = "gives other numbers"

    def make():
        net = seeded(what.get("net", lambda: tpf.networks.MLP(2, width=8))).double()
        return tpf.Velocity(net, straight())

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        found = fitted(make(), what.get("loss"), compile=how)
        found.fit(rows(96), steps=3, batch_size=16, progress=False)
    texts = [str(one.message) for one in told if "compile=" in str(one.message)]
    assert len(texts) == 1
    assert "eagerly" in texts[0]
    if case != "layers that draw":
        eager = fitted(make(), what.get("loss"), compile=False)
        eager.fit(rows(96), steps=3, batch_size=16, progress=False)
        assert alike(eager, found, 0 if "same numbers" in texts[0] else 1e-9)

    assert re.search(reason, texts[0])


def test_batches_of_other_sizes_are_compiled_too():
    class Loader:
        dataset, batch_size = range(40), 16

        def __iter__(self):
            return iter(torch.split(rows(40), 16))

    trainers = []
    for how in (QUICK, False):
        trainer = tpf.Trainer(tpf.Velocity(mlp(), straight()), ema=0.9, compile=how)
        trainer.fit(Loader(), steps=9, progress=False, generator=gen(3))
        trainers.append(trainer)
    assert trainers[0].compiled.reason is None
    assert alike(*trainers)


def test_a_reason_is_one_line():
    assert reason_of(ValueError("first\nsecond")) == "ValueError: first"
    assert reason_of(ValueError()) == "ValueError: ValueError"


class Late(nn.Module):
    """A part of it is used once somebody says so."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.later, self.whole = nn.Linear(3, 2), nn.Linear(3, 2), False

    def forward(self, t, x):
        told = torch.cat([t[:, None], x], 1)
        return self.first(told) + (self.later(told) if self.whole else 0)


class Says(Callback):
    every = 5

    def on_step(self, trainer):
        trainer.field.net.whole = True


def test_a_parameter_that_has_a_gradient_later_is_moved_too():
    one, other = (
        fitted(
            tpf.Velocity(seeded(Late).double(), straight()),
            steps=15,
            callbacks=[Says()],
            compile=how,
        )
        for how in (QUICK, False)
    )
    assert one.compiled.reason is None
    fresh = seeded(Late).double()
    assert not torch.equal(other.field.net.later.weight, fresh.later.weight)
    assert alike(one, other)


class Statistics(nn.Module):
    """A network with buffers that each call in training mode moves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, t, x):
        return self.last(self.norm(self.first(torch.cat([t[:, None], x], 1))).tanh())


class Evaluated(Statistics):
    """With statistics that stay, as those of a part that is trained no more."""

    def forward(self, t, x):
        self.norm.eval()
        return super().forward(t, x)


class Evaluates(Callback):
    every = 5

    def on_step(self, trainer):
        trainer.field.net.norm.train(trainer.step % 10 == 0)


@pytest.mark.parametrize("callbacks", [[], [Evaluates()]])
@pytest.mark.filterwarnings("ignore:compile= makes no graph")  # by this torch, of buffers that move
def test_buffers_move_as_in_an_eager_fit(callbacks):
    one, other = (
        fitted(
            tpf.Velocity(seeded(Statistics).double(), straight()),
            steps=17,
            callbacks=callbacks,
            compile=how,
        )
        for how in (QUICK, False)
    )
    assert alike(one, other)
    for a, b in zip(one.field.buffers(), other.field.buffers(), strict=True):
        torch.testing.assert_close(a, b)


class Turns(Callback):
    every = 3

    def on_step(self, trainer):
        trainer.field.net.whole = not trainer.field.net.whole


def test_a_parameter_that_has_a_gradient_at_times_rests_between():
    """Adam would go on with its momentum, were it given zeros."""
    one, other = (
        fitted(
            tpf.Velocity(seeded(Late).double(), straight()),
            steps=20,
            callbacks=[Turns()],
            compile=how,
        )
        for how in (QUICK, False)
    )
    assert one.compiled.reason is None
    assert alike(one, other)


class Transposed(nn.Module):
    """Parameters and gradients that lie in memory in other orders."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(0.3 * torch.randn(3, 8))
        self.last = nn.Parameter(0.3 * torch.randn(8, 2).t())
        self.three = nn.Parameter(0.1 * torch.randn(8, 5, 8).permute(2, 0, 1))

    def forward(self, t, x):
        h = (torch.cat([t[:, None], x], 1) @ self.first).tanh()
        h = h + torch.einsum("bi,ijk->bj", h, self.three.permute(1, 0, 2))
        return (self.last @ h.t()).t()


def test_gradients_lie_in_memory_as_parameters_do():
    one, other = (
        fitted(tpf.Velocity(seeded(Transposed).double(), straight()), compile=how)
        for how in (QUICK, False)
    )
    assert one.compiled.reason is None
    assert alike(one, other)


def test_a_copy_makes_its_own_graph():
    trainer, eager = (
        fitted(tpf.Velocity(seeded(Evaluated).double(), straight()), compile=how)
        for how in (QUICK, False)
    )
    assert trainer.compiled.reason is None
    twin = copy.deepcopy(trainer)
    trainer.field.net.norm.running_mean.add_(3.0)  # nothing to the copy
    for each in (twin, eager):
        each.fit(rows(96), steps=6, batch_size=16, progress=False)
    assert alike(eager, twin)
