"""What a user's function is given stays as it is, under inference mode too."""

import pytest
import torch

import transportflows as tpf

PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
X = torch.ones(1, 2)
GRID = torch.linspace(0, 1, 21)


def halves(t, x):
    x.mul_(0.5)
    return -x


def turns(x):
    return x.mul_(-1)


SOLVES = {
    "sample": lambda: tpf.sample(tpf.Velocity(halves, PROCESS), start=X.clone(), steps=20),
    "adaptive": lambda: tpf.sample(tpf.Velocity(halves, PROCESS), start=X.clone(), scheme="dopri5"),
    "integrate": lambda: tpf.integrate(halves, X.clone(), GRID),
    "ascend": lambda: tpf.langevin.ascend(turns, X.clone(), step_size=0.1, steps=5),
    "langevin": lambda: tpf.langevin.langevin(turns, X.clone(), step_size=0.1, steps=5),
    "epsilon": lambda: tpf.sample(
        tpf.oracle(PROCESS, tpf.Gaussian((2,), 0.0, 0.5)), start=X, epsilon=lambda t: t.mul_(0.5)
    ),
    "hook": lambda: tpf.sample(
        tpf.Velocity(
            lambda t, x: -x * 0.5,
            PROCESS,
            transform=tpf.Standardize(torch.zeros(2), torch.full((2,), 2.0)),
        ),
        start=X,
        hooks=[lambda moment: moment.x.mul_(0.9)],
    ),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("solve", SOLVES)
def test_what_writes_into_its_arguments_is_refused(solve, mode):
    with mode(), pytest.raises(ValueError, match="writes into"):
        SOLVES[solve]()


def test_under_inference_mode_samples_are_the_same():
    net = tpf.networks.MLP(2, 16, generator=torch.Generator().manual_seed(0))
    field = tpf.Velocity(net, PROCESS)
    for scheme in ("heun", "dopri5", "dpm2m"):
        with torch.inference_mode():
            inside = tpf.sample(field, start=torch.ones(3, 2), scheme=scheme).x
        outside = tpf.sample(field, start=torch.ones(3, 2), scheme=scheme).x
        assert torch.equal(inside, outside)
        inside.add_(1.0)  # an ordinary tensor


class Concatenates(torch.nn.Module):
    """A network as most are: times beside states."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, t, x):
        return self.linear(torch.cat([t[:, None], x], 1))


def test_a_network_is_given_times_of_the_dtype_of_its_states():
    field, x = tpf.Velocity(Concatenates(), PROCESS), torch.randn(64, 2)
    t = torch.full((64,), 0.5)
    assert torch.equal(field.score(t.double(), x), field.score(t, x))
    tpf.metrics.consistency(field, x)
    tpf.metrics.oracle_errors(field, tpf.oracle(PROCESS, tpf.Gaussian((2,))), n=64)


@pytest.mark.parametrize(
    ("call", "cure"),
    [
        (lambda f: tpf.sample(f, start=[[0.0, 0.0]]), r"torch\.as_tensor"),
        (lambda f: tpf.sample(f, 5, epsilon=tpf.solve.AndersonEpsilon), r"AndersonEpsilon\(\)"),
        (lambda f: tpf.langevin.score_of(tpf.Gaussian((2,))), r"score_of\(law\.log_prob\)"),
        (lambda f: tpf.sample(tpf.Velocity(torch.nn.Linear(2, 2), PROCESS), 5), r"forward\(t, x\)"),
    ],
)
def test_mistakes_are_told_their_cure(call, cure):
    with pytest.raises(TypeError, match=cure):
        call(tpf.Velocity(Concatenates(), PROCESS))


def test_the_loss_by_time_takes_and_asks_for_conditions():
    net = tpf.networks.MLP(2, 8, labels=3, generator=torch.Generator().manual_seed(0))
    field, x, label = tpf.Velocity(net, PROCESS), torch.randn(60, 2), torch.arange(60) % 3
    trainer = tpf.Trainer(field)
    trainer.fit(x, steps=2, cond={"label": label}, progress=False)
    with pytest.raises(ValueError, match="label"):
        tpf.metrics.loss_by_time(field, tpf.VelocityLoss(), x)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    found = [
        tpf.metrics.loss_by_time(
            field, tpf.VelocityLoss(), x, cond={"label": given}, generator=generator
        ).loss
        for given, generator in zip((label, (label + 1) % 3), generators, strict=True)
    ]
    assert not torch.equal(*found)
