"""How a user's network is called: one time a row, always, and what is said where it fails."""

import pytest
import torch
from torch import nn

import transportflows as tpf

PROCESS = tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((2,)))
FLOW = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))


class Concatenating(nn.Module):
    """The commonest of networks: it needs a time for each row."""

    def __init__(self, heads=1):
        super().__init__()
        self.heads = heads
        self.layer = nn.Linear(3, 2 * heads)

    def forward(self, t, x):
        assert t.shape == x.shape[:1]
        out = self.layer(torch.cat([t[:, None], x], 1))
        return out if self.heads == 1 else out.view(len(x), 2, 2)


def fields():
    yield tpf.Velocity(Concatenating(), FLOW)
    yield tpf.NoisePredictor(Concatenating(), tpf.Process(tpf.VP(), shape=(2,)))
    yield tpf.EDM(Concatenating(), tpf.Process(tpf.OneSidedLinear(), shape=(2,)))
    yield tpf.FieldPair(velocity=Concatenating(), noise=Concatenating(), process=PROCESS)
    yield tpf.FieldPair(heads=Concatenating(2), process=PROCESS)


@pytest.mark.parametrize("field", list(fields()), ids=lambda f: type(f).__name__)
def test_a_network_that_trains_can_sample(field):
    tpf.Trainer(field).fit(torch.randn(8, 2), steps=2, batch_size=4, progress=False)
    for scheme in ("heun", "dopri5"):
        assert tpf.sample(field, 3, steps=2, scheme=scheme).x.shape == (3, 2)
    assert tpf.sample(field, 3, steps=4, epsilon=[0.0, 0.1, 0.2]).x.shape == (3, 3, 2)
    if field.outputs[0] != "velocity":
        assert tpf.sample(field, 3, steps=2, scheme="dpm2m").x.shape == (3, 2)
    assert tpf.log_likelihood(field, torch.randn(2, 2)).log_prob.shape == (2,)
    assert field.velocity(torch.tensor(0.5), torch.randn(3, 2)).shape == (3, 2)
    score = tpf.langevin.score_at(field, 0.5)
    assert tpf.langevin.langevin(score, torch.randn(3, 2), step_size=0.1, steps=2).x.shape == (3, 2)


def test_one_time_goes_to_a_network_that_says_it_takes_one():
    seen = []

    def net(t, x):
        seen.append(t.shape)
        return x

    field = tpf.Velocity(net, FLOW)
    one = field.velocity(torch.tensor(0.5), torch.ones(3, 2))
    net.takes_one_time = True
    assert torch.equal(field.velocity(torch.tensor(0.5), torch.ones(3, 2)), one)
    assert seen == [(3,), ()]
    mlp = tpf.networks.MLP(2, 8, 1)
    field, x, t = tpf.Velocity(mlp, FLOW), torch.randn(5, 2), torch.tensor(0.3)
    assert torch.allclose(field.velocity(t, x), mlp(t.expand(5), x), atol=1e-6)


def writes_x(t, x):
    x += 1
    return x.clone()


def writes_t(t, x):
    t *= 1000
    return x * t[:, None]


@pytest.mark.parametrize("net", [writes_x, writes_t])
def test_a_network_that_writes_into_its_arguments_is_refused(net):
    field = tpf.Velocity(net, FLOW)
    for t in (torch.tensor(0.5), torch.full((3,), 0.5)):
        with pytest.raises(ValueError, match="writes into its arguments"):
            field.velocity(t, torch.zeros(3, 2))
    with pytest.raises(ValueError, match="writes into its arguments"):
        tpf.sample(field, 3, steps=2)
    with torch.inference_mode():  # where nobody can see it in x; t is seen
        field = tpf.Velocity(lambda t, x: x + 1, FLOW)
        assert tpf.sample(field, 3, steps=2).x.shape == (3, 2)


class Swapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x, t):
        return self.layer(torch.cat([x, t[:, None]], 1))


class Hidden(Swapped):
    """Whose names do not tell."""

    def forward(self, a, b):
        return super().forward(a, b)


def test_a_network_of_x_and_t_is_told_of_the_adapter():
    with pytest.raises(TypeError, match="from_xt"):
        tpf.Velocity(Swapped(), FLOW)
    with pytest.raises(TypeError, match="from_xt"):
        tpf.FieldPair(heads=lambda sample, timestep: sample, process=PROCESS)
    field = tpf.Velocity(Hidden(), FLOW)
    for call in (
        lambda: tpf.sample(field, 3),
        lambda: tpf.Trainer(field).fit(torch.randn(5, 2), steps=1, progress=False),
    ):
        with pytest.raises(TypeError, match=r"takes net\(x, t\); write tpf.networks.from_xt"):
            call()
    field = tpf.Velocity(tpf.networks.from_xt(Swapped()), FLOW)
    assert tpf.sample(field, 3, steps=2).x.shape == (3, 2)


def test_a_class_is_no_network():
    with pytest.raises(TypeError, match=r"the class Swapped; write Swapped\(\.\.\.\)"):
        tpf.Velocity(Swapped, FLOW)
    with pytest.raises(TypeError, match="got the class Linear"):
        tpf.Velocity(Concatenating(), tpf.Linear)


def test_conditions_that_a_network_does_not_take():
    field = tpf.Velocity(lambda t, x, *, label: x, FLOW)
    with pytest.raises(TypeError, match=r"no conditions, and takes others.*'label'"):
        tpf.sample(field, 3, steps=2)
    with pytest.raises(TypeError, match="'colour'"):
        tpf.sample(field, 3, steps=2, cond={"colour": torch.zeros(3)})
    layer = nn.Linear(2, 2)
    field = tpf.Velocity(lambda t, x, *, c: layer(c), FLOW)
    with pytest.raises(ValueError, match=r"'c' is torch.float64.*write c.to\(x\)"):
        tpf.sample(field, 3, steps=2, cond={"c": torch.zeros(3, 2).double()})


def test_errors_of_the_network_itself_come_through():
    def net(t, x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        tpf.sample(tpf.Velocity(net, FLOW), 3, steps=2)


def test_a_condition_may_be_called_k():
    process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
    field = tpf.NoisePredictor(lambda t, x, *, k: x * k[:, None], process)
    cond = {"k": torch.ones(3)}
    run = tpf.langevin.annealed_langevin(field, 3, levels=2, steps_per_level=2, cond=cond)
    assert run.x.shape == (3, 2)


@pytest.mark.parametrize("scheme", ["euler", "midpoint", "heun", "rk4", "dpm2m"])
@pytest.mark.parametrize("kind", [tpf.Velocity, tpf.DataPredictor, tpf.NoisePredictor])
def test_a_network_may_give_one_buffer_at_each_call(scheme, kind):
    """As a replayed graph does: what a step holds of an earlier call must be its own."""

    class Plain(torch.nn.Module):
        def forward(self, t, x):
            return 0.5 * torch.tanh(x) + 0.1

    class Buffered(Plain):
        out = None

        def forward(self, t, x):
            self.out = torch.empty_like(x) if self.out is None else self.out
            return self.out.copy_(super().forward(t, x))

    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    x = torch.linspace(-1, 1, 12).view(6, 2)
    told = {"start": x, "scheme": scheme, "steps": 4}
    net = Buffered()
    found = tpf.sample(kind(net, process), **told).x
    assert torch.equal(found, tpf.sample(kind(Plain(), process), **told).x)
    kept = found.clone()
    net(torch.zeros(6), 9 * x)
    assert torch.equal(found, kept)
    if kind is tpf.Velocity and scheme != "dpm2m":
        grid = tpf.solve.time_grid(4)
        ends = [tpf.integrate(f, x, grid, scheme=scheme).x for f in (Buffered(), Plain())]
        assert torch.equal(*ends)
