"""Flow maps: the exact map meets every loss, wrong ones do not; jumps keep laws; refusals."""

import math

import pytest
import torch
from torch import nn

import transportflows as tpf
from transportflows import maps
from transportflows.draws import PathSample

MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
STD = 0.4
PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
LAW = tpf.Gaussian((2,), mean=MEAN, scale=STD)
ORACLE = tpf.oracle(PROCESS, LAW)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sizes(t):
    """Mean factor and deviation of x_t for Gaussian data."""
    return t, ((1 - t) ** 2 + t**2 * STD**2).sqrt()


def exact(s, t, x):
    """The mean velocity of the flow between Gaussians, ``X = m_t + (σ_t/σ_s)(x - m_s)``."""
    (a, p), (b, q) = sizes(s), sizes(t)
    p, q, a, b, gap = (v[..., None] for v in (p, q, a, b, t - s))
    centred = x - a * MEAN
    # (σ_t - σ_s)/(t - s) without the quotient 0/0
    slope = (-2 + (1 + STD**2) * (a + b)) / (p + q)
    return (MEAN + slope / p * centred + 0 * gap).to(x.dtype)


def wrong(s, t, x):
    return exact(s, t, x) * 1.1


EXACT = maps.FlowMap(exact, PROCESS)
LOSSES = {
    "lagrangian, teacher": maps.LagrangianLoss(ORACLE),
    "lagrangian": maps.LagrangianLoss(diagonal=0.25),
    "lagrangian, gradients": maps.LagrangianLoss(ORACLE, detach=False),
    "eulerian, teacher": maps.EulerianLoss(ORACLE),
    "eulerian": maps.EulerianLoss(),
    "semigroup, teacher": maps.SemigroupLoss(ORACLE, split=1e-3),
    "semigroup, halves": maps.SemigroupLoss(),
    "semigroup, uniform": maps.SemigroupLoss(split="uniform"),
    "semigroup, map": maps.SemigroupLoss(maps.FlowMap(exact, PROCESS)),
    "shortcut": maps.ShortcutLoss(20),  # of few levels the least width is off by a step of Euler
}


def data(n, seed=1):
    return LAW.sample(n, generator=seeded(seed), dtype=torch.float64)


def test_the_exact_map_is_one():
    x = torch.randn(50, 2, generator=seeded(), dtype=torch.float64)
    end = EXACT.jump(0.0, 1.0, x)
    assert torch.allclose(end, MEAN + STD * x, atol=1e-14)
    now = torch.tensor(0.3)
    assert torch.allclose(EXACT.velocity(now, x), ORACLE.velocity(now, x), atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_exact_map_meets_each_equation(loss):
    sample = loss.draw(EXACT, data(200), generator=seeded(3))
    value = loss.evaluate(EXACT, sample)[sample.diagonal :]
    assert float(value.max()) < 1e-12


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_another_map_does_not(loss):
    """A map of velocities a tenth too large; of a semigroup alone it is a flow, of other ends."""
    field = maps.FlowMap(wrong, PROCESS)
    sample = loss.draw(field, data(200), generator=seeded(3))
    value = loss.evaluate(field, sample)[sample.diagonal :]
    assert float(value.mean()) > 1e-4


@pytest.mark.parametrize(("loss", "order"), [(maps.MeanFlowLoss(), 0), ("training", 2)])
def test_losses_by_the_path_have_the_right_mean(loss, order):
    """Linear in ẋ, they are met by the exact map where ẋ is its mean, b(s, x_s).

    A step along b to a time 1/N later is off by its curvature, 1/N².
    """
    errors = []
    for levels in (200, 400):
        made = maps.ConsistencyLoss(levels=levels) if loss == "training" else loss
        field = EXACT if order == 0 else maps.FlowMap(exact, PROCESS, to_data=True)
        sample = made.draw(field, data(100), generator=seeded(4))
        s, x = sample.t.double(), sample.path.x
        b = ORACLE.velocity(s, x)
        x0, x1 = x - s[:, None] * b, x + (1 - s)[:, None] * b
        path = PathSample(sample.path.noise_part, s, x, x0, x1, None)
        sample = maps.MapSample(path, sample.stop.double(), 0, sample.part)
        errors.append(float(made.evaluate(field, sample).sqrt().mean()))
    if order == 0:
        assert max(errors) < 1e-10
    else:
        assert errors[0] < 1e-2
        assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_consistency_from_data_has_more_levels_than_with_a_teacher():
    """By the path, x_u is not where the flow leads: an error of 1/N, not 1/N²."""
    assert maps.ConsistencyLoss().levels >= 8 * maps.ConsistencyLoss(EXACT).levels
    for teacher in (None, EXACT):
        assert maps.ConsistencyLoss(teacher, levels=7).levels == 7


@pytest.mark.parametrize("prediction", ["data", "noise"])
@pytest.mark.parametrize(
    "process",
    [
        PROCESS,
        tpf.Process(
            tpf.Linear(), base=tpf.Gaussian((2,), mean=torch.tensor([0.5, 1.0]), scale=2.0)
        ),
        tpf.Process(tpf.OneSidedTrigonometric(), shape=(2,)),
        tpf.Process(tpf.EncoderDecoder(), base=tpf.Gaussian((2,))),
    ],
    ids=["linear", "moved base", "trigonometric", "latent"],
)
def test_predictions_of_data_and_noise_make_the_jump_of_a_constant_prediction(process, prediction):
    """If d, or η̂, stays c on the way, the ODE of b made of it is solved by the form of the map."""
    value = torch.tensor([0.7, -0.3], dtype=torch.float64)
    kind = tpf.DataPredictor if prediction == "data" else tpf.NoisePredictor
    field = kind(lambda t, x: value.expand_as(x), process)
    flow = maps.FlowMap(lambda s, t, x: value.expand_as(x), process, prediction=prediction)
    x = torch.randn(20, 2, generator=seeded(), dtype=torch.float64)
    for s, t in ((0.6, 0.9), (0.9, 0.7), (0.55, 0.56)):
        end = tpf.sample(field, start=x, t=(s, t), steps=400, scheme="rk4").x
        assert torch.allclose(flow.jump(s, t, x), end, atol=1e-9)
    near = flow.average(0.7, 0.7, x)
    assert torch.allclose(near, field.velocity(torch.tensor(0.7), x), atol=1e-9)
    assert torch.allclose(flow.average(0.7, 0.7 + 1e-5, x), near, atol=1e-3)


def test_x_tt_is_the_identity_of_any_network():
    net = tpf.maps.TwoTimes(tpf.networks.MLP(2, width=8, vectors={"stop": 5}))
    x = torch.randn(7, 2, generator=seeded())
    for prediction in ("velocity", "data"):
        flow = maps.FlowMap(net, PROCESS, prediction=prediction)
        assert torch.equal(flow.jump(0.4, 0.4, x), x)


def test_rows_of_a_sample_have_the_losses_of_the_whole():
    loss = maps.SemigroupLoss(split="uniform", diagonal=0.3)
    sample = loss.draw(EXACT, data(40), generator=seeded(5))
    field = maps.FlowMap(wrong, PROCESS)
    whole = loss.evaluate(field, sample)
    parts = [loss.evaluate(field, sample.rows(a, b)) for a, b in ((0, 5), (5, 17), (17, 40))]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-14)
    assert sample.diagonal == 12
    assert bool((sample.stop[:12] == sample.t[:12]).all())


# ------------------------------------------------------------------------------------- sampling


def test_one_jump_is_the_default_and_exact():
    found = tpf.sample(EXACT, 1_000, generator=seeded(), dtype=torch.float64)
    start = tpf.sample(ORACLE, 1_000, generator=seeded(), dtype=torch.float64, steps=200)
    assert (found.nfe, found.scheme) == (1, "jumps")
    assert torch.allclose(found.x, start.x, atol=1e-4)
    solved = tpf.sample(EXACT, 1_000, generator=seeded(), dtype=torch.float64, scheme="heun")
    assert solved.nfe == 200
    assert torch.allclose(found.x, solved.x, atol=1e-3)


def test_breakpoints_of_the_path_add_no_jumps():
    process = tpf.Process(tpf.EncoderDecoder(), base=tpf.Gaussian((2,)))
    assert tpf.sample(maps.FlowMap(lambda s, t, x: x, process), 5, generator=seeded()).nfe == 1


def test_the_default_loss_trains_the_map_and_not_its_tangent_alone():
    assert isinstance(tpf.losses.default_loss(EXACT), maps.SemigroupLoss)
    to_data = maps.FlowMap(exact, PROCESS, to_data=True)
    assert isinstance(tpf.losses.default_loss(to_data), maps.ConsistencyLoss)


def test_jumps_go_back():
    x = data(100)
    z = tpf.sample(EXACT, start=x, t=(1.0, 0.0), steps=3).x
    assert torch.allclose(z, (x - MEAN) / STD, atol=1e-12)


def test_states_between_are_single_jumps_and_change_no_other():
    how = {"steps": 2, "generator": None, "start": data(10)}
    plain = tpf.sample(maps.FlowMap(wrong, PROCESS), **how)
    saved = tpf.sample(maps.FlowMap(wrong, PROCESS), save_at=[0.0, 0.2, 0.5, 0.9, 1.0], **how)
    assert torch.equal(plain.x, saved.x)
    assert torch.equal(saved.trajectory[-1], plain.x)
    one = maps.FlowMap(wrong, PROCESS).jump(0.0, 0.2, data(10))
    assert torch.allclose(saved.trajectory[1], one, atol=1e-14)


@pytest.mark.parametrize("times", [(0.0, 1.0), (1.0, 0.0)])
def test_noise_on_the_way_leaves_the_law(times):
    """Of an exact Gaussian map; and the noise is there."""
    start = torch.randn(100_000, 2, generator=seeded(7), dtype=torch.float64)
    back = times[0] == 1
    start, wanted = (data(100_000), 1.0) if back else (start, STD**2)
    how = {"start": start, "t": times, "epsilon": 0.5, "generator": seeded(2)}
    few, many = (tpf.sample(EXACT, steps=steps, **how) for steps in (8, 64))
    errors = [abs(float(end.x.var(0).mean()) / wanted - 1) for end in (few, many)]
    assert errors[0] < 0.05
    assert errors[1] < 0.02
    moved = (many.x - tpf.sample(EXACT, start=start, t=times).x).std()
    assert float(moved) > 0.3 * wanted**0.5


def test_a_large_epsilon_is_limited_and_told():
    found = tpf.sample(EXACT, 50_000, steps=8, epsilon=50.0, generator=seeded())
    assert found.limited == ((0.0, 1.0),)
    assert float(found.x.var(0).mean()) == pytest.approx(STD**2, rel=0.1)
    assert tpf.sample(EXACT, 50, steps=8, epsilon=0.02, generator=seeded()).limited == (
        (0.875, 1.0),
    )


def test_a_sweep_of_epsilons_is_the_single_solves():
    both = tpf.sample(EXACT, 50, steps=4, epsilon=[0.0, 0.5], generator=seeded(), chunk=30).x
    alone = tpf.sample(EXACT, 50, steps=4, epsilon=0.5, generator=seeded()).x
    assert torch.allclose(both[1], alone, atol=1e-5)
    plain = tpf.sample(EXACT, 50, steps=4, generator=seeded()).x
    assert torch.allclose(both[0], plain, atol=1e-5)


def test_renoise_has_the_law_of_the_process():
    flow = maps.FlowMap(exact, PROCESS, to_data=True)
    found = tpf.sample(flow, 200_000, steps=3, generator=seeded(), dtype=torch.float64)
    assert (found.nfe, found.scheme) == (3, "renoise")
    assert torch.allclose(found.x.mean(0), MEAN, atol=4 * STD / math.sqrt(200_000))
    assert float(found.x.std(0).mean()) == pytest.approx(STD, rel=0.01)
    half = tpf.sample(
        EXACT, 200_000, t=(0.0, 0.5), steps=2, scheme=maps.Renoise(), generator=seeded(1)
    ).x
    wanted = sizes(torch.tensor(0.5))[1]
    assert float(half.std(0).mean()) == pytest.approx(float(wanted), rel=0.01)


# ------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "loss",
    [
        maps.SemigroupLoss(ORACLE),
        maps.LagrangianLoss(ORACLE),
        maps.MeanFlowLoss(),
        maps.LagrangianLoss(),
    ],
    ids=str,
)
def test_a_map_is_learned(loss):
    net = tpf.maps.TwoTimes(
        tpf.networks.MLP(2, 64, 2, frequencies=1, vectors={"stop": 5}, generator=seeded(1))
    )
    flow = maps.FlowMap(net, PROCESS)
    trainer = tpf.Trainer(flow, loss, lr=3e-3, scheduler="cosine")
    trainer.fit(LAW, steps=800, batch_size=256, progress=False, generator=seeded(2))
    x = torch.randn(500, 2, generator=seeded(3))
    with torch.no_grad():
        error = flow.jump(0.0, 1.0, x) - EXACT.jump(0.0, 1.0, x.double())
        back = flow.jump(1.0, 0.0, data(500).float()) - EXACT.jump(1.0, 0.0, data(500))
    assert float(error.square().mean().sqrt()) < 0.2  # the identity is off by 1.7
    if loss.pairs.both:
        assert float(back.square().mean().sqrt()) < 0.4


def test_levels_double():
    levels = maps.DoublingLevels(800, first=10, last=80)
    assert [levels.levels(k) for k in (0, 199, 200, 400, 600, 799, 900)] == [
        10, 10, 20, 40, 80, 80, 80
    ]  # fmt: skip
    net = tpf.maps.TwoTimes(tpf.networks.MLP(2, 8, 1, vectors={"stop": 3}))
    flow = maps.FlowMap(net, PROCESS, to_data=True)
    loss = maps.ConsistencyLoss()
    tpf.Trainer(flow, loss).fit(
        LAW, steps=8, batch_size=16, progress=False, generator=seeded(),
        callbacks=[maps.DoublingLevels(8, first=2, last=16)],
    )  # fmt: skip
    assert loss.levels == 16


def test_files_keep_a_map(tmp_path):
    net = tpf.maps.TwoTimes(tpf.networks.MLP(2, 8, 1, vectors={"stop": 3}))
    flow = maps.FlowMap(net, PROCESS, prediction="data", to_data=True)
    flow.save(tmp_path / "map.tpf")
    found = tpf.load_field(tmp_path / "map.tpf")
    x = torch.randn(5, 2, generator=seeded())
    assert torch.equal(found.jump(0.2, 1.0, x), flow.jump(0.2, 1.0, x))
    assert found.to_data
    assert found.default_scheme.name == "renoise"


def test_labels_go_to_the_network():
    net = tpf.maps.TwoTimes(tpf.networks.MLP(2, 8, 1, labels=3, vectors={"stop": 3}))
    flow = maps.FlowMap(net, PROCESS)
    labels = torch.arange(60) % 3
    trainer = tpf.Trainer(flow, maps.LagrangianLoss(), lr=1e-2)
    trainer.fit(
        data(60).float(), cond={"label": labels}, steps=4, batch_size=16, drop_cond=0.5,
        progress=False, generator=seeded(),
    )  # fmt: skip
    out = [
        tpf.sample(flow, 4, cond={"label": torch.full((4,), k)}, generator=seeded()).x
        for k in (0, 1)
    ]
    assert not torch.equal(*out)
    assert tpf.sample(flow, 4, cond={"label": torch.tensor([0, 1, 2, -1])}).x.shape == (4, 2)


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("activation", ["silu", "relu", "gelu", "tanh"])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_tangent_by_hand_is_that_of_forward_mode(activation, gradients):
    """Of the prediction, its change, and the gradients of both."""
    net = tpf.networks.MLP(
        (2, 3), 16, 3, activation=activation, labels=3, vectors={"stop": 5, "c": 2},
        generator=seeded(1),
    ).double()  # fmt: skip
    net = maps.TwoTimes(net)
    draws = seeded(2)
    s, t, ds, dt = torch.rand(4, 6, generator=draws, dtype=torch.float64)
    x, dx = torch.randn(2, 6, 2, 3, generator=draws, dtype=torch.float64)
    cond = {"label": torch.arange(6) % 3, "c": torch.randn(6, 2, generator=draws).double()}

    def moved(step):
        wide = step[:, None, None]
        return net(s + step * ds, t + step * dt, x + wide * dx, **cond)

    zero = torch.zeros(6, dtype=torch.float64)
    value, change = torch.func.jvp(moved, (zero,), (torch.ones_like(zero),))
    found = net.with_tangent(s, t, x, ds, dt, dx, gradients=gradients, **cond)
    assert torch.allclose(found[0], value, atol=1e-13)
    assert torch.allclose(found[1], change, atol=1e-12)
    assert found[1].requires_grad is gradients
    mine = sum(part.square().sum() for part in found)
    other = value.square().sum() + (change if gradients else change.detach()).square().sum()
    parameters = list(net.parameters())
    pairs = zip(
        torch.autograd.grad(mine, parameters, allow_unused=True),
        torch.autograd.grad(other, parameters, allow_unused=True), strict=True,
    )  # fmt: skip
    for a, b in pairs:
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-10)


class OneTime(nn.Module):
    def forward(self, t, x):
        return x


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: maps.FlowMap(OneTime(), PROCESS), "takes two times"),
        (lambda: maps.FlowMap(lambda t, s, x: x, PROCESS), "the time of x first"),
        (lambda: maps.FlowMap(ORACLE, PROCESS), "of one time"),
        (lambda: tpf.maps.TwoTimes(tpf.networks.MLP(2)), "vectors={'stop': 9}"),
        (lambda: tpf.maps.TwoTimes(tpf.networks.MLP(2, vectors={"stop": 4})), "1 \\+ 2K"),
        (lambda: maps.LagrangianLoss(diagonal=0.0), "untrained"),
        (lambda: maps.LagrangianLoss(source="path"), "source"),
        (lambda: maps.EulerianLoss(ORACLE, source="path"), "would be ignored"),
        (lambda: tpf.sample(ORACLE, 2, scheme=maps.Jumps()), "steps of a FlowMap"),
        (lambda: tpf.sample(EXACT, 2, epsilon=1.0, scheme=maps.Renoise()), "takes no epsilon"),
        (
            lambda: tpf.sample(EXACT, start=data(2), t=(1.0, 0.0), scheme=maps.Renoise()),
            "backward",
        ),
        (
            lambda: tpf.sample(
                maps.FlowMap(exact, PROCESS, to_data=True), 2, steps=2, scheme=maps.Jumps()
            ),
            "t = 1 only",
        ),
        (
            lambda: maps.SemigroupLoss()(maps.FlowMap(exact, PROCESS, to_data=True), data(4)),
            "pairs=tpf.maps.ToData",
        ),
        (lambda: maps.ConsistencyLoss()(EXACT, data(4)), "to_data=True"),
        (lambda: maps.MeanFlowLoss()(ORACLE, data(4)), "loss of a FlowMap"),
        (
            lambda: maps.LagrangianLoss(
                tpf.oracle(tpf.Process(tpf.Trigonometric(), base=tpf.Gaussian((2,))), LAW)
            )(EXACT, data(4)),
            "another process",
        ),
        (
            lambda: maps.LagrangianLoss(ORACLE)(
                maps.FlowMap(exact, PROCESS, transform=tpf.Standardize(0.0, 2.0)), data(4)
            ),
            "other units",
        ),
        (lambda: maps.LagrangianLoss(EXACT)(EXACT, data(4)), "its own teacher"),
        (
            lambda: tpf.sample(
                maps.FlowMap(lambda s, t, x: x, PROCESS, prediction="data"),
                start=data(4),
                t=(1.0, 0.0),
            ),
            "does not leave t = 1",
        ),
        (
            lambda: tpf.sample(maps.FlowMap(lambda s, t, x: x, PROCESS, prediction="noise"), 4),
            "does not leave t = 0",
        ),
        (lambda: EXACT.jump(0.0, 1.5, data(4)), r"\[0, 1\]"),
        (lambda: EXACT.jump(torch.zeros(3), 1.0, data(4)), "4 rows"),
        (lambda: maps.GridPairs([0.0, 0.5, 0.3]), "one way"),
    ],
)
def test_mistakes_are_told(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


class Attention(nn.Module):
    """Without weights it goes by a kernel that has no forward derivative."""

    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, s, t, x):
        h = x.unsqueeze(1) * (1 + s + t)[:, None, None]
        return self.inner(h, h, h, need_weights=False)[0].squeeze(1)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, s, t, x):
        return self.norm(x * (s + t)[:, None])


class Indexed(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(100, 2)

    def forward(self, s, t, x):
        return x + self.table((99 * s).long()) + self.table((99 * t).long())


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Attention(), r"SDPBackend\.MATH"),
        (Normed(), "BatchNorm"),
        (Indexed(), "derivative is zero"),
    ],
)
@pytest.mark.parametrize("loss", [maps.LagrangianLoss, maps.EulerianLoss])
def test_networks_without_a_derivative_are_named(net, words, loss):
    flow = maps.FlowMap(net, PROCESS)
    with pytest.raises((RuntimeError, ValueError), match=words):
        loss(ORACLE)(flow, data(64).float(), generator=seeded())
    maps.SemigroupLoss(ORACLE)(flow, data(64).float())


@pytest.mark.parametrize(
    "net",
    [
        tpf.networks.UNet((1, 8, 8), 16, vectors={"stop": 5}),
        tpf.networks.DiT((1, 8, 8), patch=2, width=16, vectors={"stop": 5}),
        tpf.networks.MLP((1, 8, 8), 16, vectors={"stop": 5}, residual=True),
    ],
    ids=lambda net: type(net).__name__,
)
def test_networks_of_the_library_take_every_loss(net):
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1, 8, 8)))
    flow = maps.FlowMap(tpf.maps.TwoTimes(net), process)
    images = torch.randn(6, 1, 8, 8, generator=seeded())
    for loss in (maps.LagrangianLoss(), maps.MeanFlowLoss(), maps.ShortcutLoss(3)):
        value = loss(flow, images, generator=seeded())
        value.sum().backward()
        assert value.shape == (6,)
        assert all(
            bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None
        )


@pytest.mark.parametrize(
    "loss", [maps.LagrangianLoss, maps.EulerianLoss, maps.SemigroupLoss, "tangent", "map"]
)
def test_a_teacher_in_train_mode_teaches_as_it_samples(loss):
    """Its dropout is off, as in ``sample``, and its mode is left as it was."""

    class Dropping(nn.Module):
        def forward(self, s, *rest):
            return nn.functional.dropout(torch.ones_like(rest[-1]), 0.5, self.training)

    teacher = tpf.Velocity(Dropping(), PROCESS)
    if loss == "map":
        teacher, loss = maps.FlowMap(lambda *given: net(*given), PROCESS), maps.SemigroupLoss
        net = Dropping()
        teacher.net = net
    made = maps.SemigroupLoss(teacher, diagonal=1.0) if loss == "tangent" else loss(teacher)
    flow = maps.FlowMap(lambda s, t, x: torch.ones_like(x) + 0 * (s + t)[:, None], PROCESS)
    assert float(made(flow, data(50).float(), generator=seeded()).abs().max()) < 1e-10
    assert teacher.net.training
