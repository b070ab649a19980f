"""Under ``torch.inference_mode`` numbers are those of ``no_grad``, derivatives among them."""

import pytest
import torch
from torch import nn

import transportflows as tpf
from transportflows._core.autodiff import Directional, jvp, value_and_gradient

P = tpf.particles


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


class Power(tpf.AffineInterpolant):
    def alpha(self, t):
        return 1 - t**2

    def beta(self, t):
        return t**2


class Curved(tpf.Interpolant):
    def mean(self, t, x0, x1):
        return (1 - t) * x0 + t * x1 + torch.sin(torch.pi * t) * torch.tanh(x0 - x1)


class Cubic(tpf.sdes.ForwardSDE):
    def a(self, tau):
        return torch.exp(-5 * tau**3)

    def sigma_sq(self, tau):
        return 1 - torch.exp(-10 * tau**3)


class Cube(torch.autograd.Function):
    """Without a derivative in forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return 3 * g * ctx.saved_tensors[0] ** 2


class Gained(nn.Module):
    """A network of x, times a condition, by operations that have a forward derivative or not."""

    def __init__(self, cube):
        super().__init__()
        self.cube = cube
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, t, x, gain):
        return self.cube(self.scale * x) * gain


DATA = torch.randn(40, 2, generator=gen(3)) + 1
NET = tpf.networks.MLP(2, 16, 2, generator=gen())
LINEAR = tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((2,)))
VELOCITY, NOISE = tpf.Velocity(NET, LINEAR), tpf.NoisePredictor(NET, LINEAR)
EXACT = tpf.oracle(LINEAR, tpf.Gaussian((2,), 1.0, 0.5))


def velocity_loss(process):
    field = tpf.Velocity(NET, process)
    return lambda: tpf.VelocityLoss()(field, DATA, generator=gen())


def gained(cube):
    field = tpf.Velocity(Gained(cube), LINEAR)

    def call():
        cond = {"gain": torch.ones(len(DATA), 1) + DATA[:, :1].abs()}
        return tpf.log_likelihood(field, DATA, scheme="rk4", steps=4, cond=cond).log_prob

    return call


def gained_score(cube):
    field = tpf.Score(Gained(cube), LINEAR)

    def call():
        batch = tpf.Batch(DATA + 0, cond={"gain": torch.ones(len(DATA), 1)})
        return tpf.losses.ImplicitScoreLoss()(field, batch, generator=gen())

    return call


def flowed(direction):
    return lambda: (
        tpf.particle_flow(
            DATA + 2, DATA, direction=direction, steps=3, sigma=0.5, step=0.1, generator=gen()
        ).x
    )


CALLS = {
    "affine": velocity_loss(tpf.Process(Power(), base=tpf.Gaussian((2,)))),
    "curved": velocity_loss(tpf.Process(Curved(), base=tpf.Gaussian((2,)))),
    "SDE": velocity_loss(tpf.Process(Cubic(), shape=(2,))),
    "SDE of VP": velocity_loss(tpf.Process(tpf.VP(), shape=(2,))),
    "sample": lambda: tpf.sample(NOISE, 8, steps=4, epsilon=0.5, generator=gen()).x,
    "log-likelihood": lambda: tpf.log_likelihood(VELOCITY, DATA, scheme="rk4", steps=4).log_prob,
    "adaptive": lambda: tpf.log_likelihood(VELOCITY, DATA, rtol=1e-3, atol=1e-3).log_prob,
    "Hutchinson": lambda: tpf.log_likelihood(
        VELOCITY, DATA, divergence="hutchinson", scheme="rk4", steps=4, generator=gen()
    ).log_prob,
    "with a condition": gained(lambda x: x**3),
    "in reverse mode": gained(Cube.apply),
    "implicit score": gained_score(lambda x: x**3),
    "implicit score in reverse mode": gained_score(Cube.apply),
    "likelihood loss": lambda: tpf.likelihood.LikelihoodLoss(scheme="rk4", steps=3)(
        VELOCITY, DATA, generator=gen()
    ),
    "consistency": lambda: tpf.metrics.consistency(
        VELOCITY, DATA, times=3, generator=gen()
    ).stein,
    "KL identity": lambda: tpf.metrics.ode_kl_identity(
        tpf.Velocity(lambda t, x: 1 + 0.5 * x, LINEAR), EXACT, n=8, times=2, steps=4,
        generator=gen(),
    ).integral.value,
    "flow with density": lambda: P.flow_with_log_density(
        tpf.Gaussian((2,)), DATA, n=16, steps=2, sigma=0.5, step=0.5, generator=gen()
    ).log_prob,
    "discriminator": flowed(P.DiscriminatorDifference(lambda z: -z.square().sum(1))),
    "loss gradient": flowed(P.LossGradient(lambda z: z.square().sum(1))),
    "Langevin": lambda: tpf.langevin.langevin(
        tpf.langevin.score_of(lambda x: -x.square().sum(1)), DATA, step_size=0.1, steps=3,
        generator=gen(),
    ).x,
    "Stein": lambda: tpf.metrics.kernel_stein_discrepancy(
        DATA, tpf.langevin.score_of(tpf.Gaussian((2,)).log_prob)
    ).value,
    "classifier": lambda: tpf.metrics.classifier_test(DATA, DATA + 1, generator=gen()).accuracy,
    "orders": lambda: tpf.GaussianPart.scale_dot(LINEAR.part, torch.tensor([0.0, 0.3]).double()),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_numbers_are_those_of_no_grad(name):
    with torch.no_grad():
        expected = torch.as_tensor(CALLS[name]())
    assert bool(expected.isfinite().any())
    with torch.inference_mode():
        found = torch.as_tensor(CALLS[name]())
    assert torch.equal(found.clone(), expected)


def test_derivatives_of_what_was_made_under_it():
    with torch.inference_mode():
        x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
        made = jvp(lambda y: y**3, x, torch.ones_like(x))
    for value, change in (made, jvp(lambda y: y**3, x, torch.ones_like(x))):
        assert value.tolist() == [[1.0, 8.0]]
        assert change.tolist() == [[3.0, 12.0]]
    for cube in (Cube.apply, lambda y: y**3):
        assert value_and_gradient(lambda y, f=cube: f(y).sum(1), x)[1].tolist() == [[3.0, 12.0]]
        assert Directional().forms(cube, x, None)[1].tolist() == [[3.0, 12.0]]


def test_what_has_no_gradient_is_refused():
    with pytest.raises(ValueError, match="keep x a tensor throughout"):
        value_and_gradient(lambda y: y.detach().square(), DATA)
    with pytest.raises(ValueError, match="keep x a tensor throughout"):
        flowed(P.LossGradient(lambda z: z.detach().square().sum(1)))()
