"""Calls that went through and meant nothing. Each is refused, with the cure.

Ignored arguments, complex numbers taken for their real part, shapes that broadcast, numbers out of
their range.
"""

import math

import pytest
import torch
from torch import nn

import transportflows as tpf

M, PT, S = tpf.metrics, tpf.particles, tpf.solve
NAN = math.nan
X = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
Y = torch.randn(40, 2, generator=torch.Generator().manual_seed(2)) + 1
FLOW = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
BRIDGE = tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((2,)))
DIFFUSION = tpf.Process(tpf.VP(), shape=(2,))
NET = tpf.networks.MLP(2, 8, 1, generator=torch.Generator().manual_seed(0))
VELOCITY, NOISE = tpf.Velocity(NET, FLOW), tpf.NoisePredictor(NET, DIFFUSION)
EXACT = tpf.oracle(FLOW, tpf.Gaussian((2,)))


def fit(loss, field=VELOCITY, **more):
    return tpf.Trainer(field, loss).fit(X, steps=1, batch_size=4, progress=False, **more)


def generator():
    return PT.OneStepGenerator(nn.Linear(2, 2), 2)


def other_optimizer():
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)


class Made(M.Kernel):
    def __init__(self, function):
        self.function = function

    def __call__(self, x, y):
        return self.function(x, y)


class ComplexEpsilon(S.EpsilonSchedule):
    def value(self, t, noise_scale):
        return 1j * torch.ones_like(t)


NONSENSE = {
    # arguments that nobody reads
    "target= without references=": (
        lambda: PT.MovedTargetLoss(sigma=1.0, target=tpf.Gaussian((3,))),
        "references=512",
    ),
    "target= of another shape": (
        lambda: fit(
            PT.MovedTargetLoss(sigma=1.0, target=tpf.Gaussian((3,)), references=8), generator()
        ),
        "the generator gives",
    ),
    "target= beside a direction's own p": (
        lambda: PT.MovedTargetLoss(
            PT.ScoreDifference(tpf.Gaussian((2,))), target=tpf.Gaussian((2,)), references=8
        ),
        "a p of its own",
    ),
    "a grid for an adaptive scheme": (
        lambda: tpf.sample(VELOCITY, 3, scheme="dopri5", t=[0.0, 0.1, 0.2, 1.0]),
        "save_at=",
    ),
    "times of a second loss": (
        lambda: tpf.losses.SumLoss(
            tpf.VelocityLoss(), tpf.NoiseLoss(times=tpf.times.LogitNormalTimes())
        ),
        "times of the NoiseLoss would be ignored",
    ),
    "one loss twice": (
        lambda: tpf.losses.SumLoss(tpf.VelocityLoss(), tpf.VelocityLoss()),
        "different quantities",
    ),
    "an optimizer of other parameters": (
        lambda: PT.AdversarialLoss(nn.Linear(2, 1), optimizer=other_optimizer()),
        "discriminator.parameters",
    ),
    "conditions of an oracle": (
        lambda: tpf.sample(EXACT, 3, steps=2, cond={"label": torch.zeros(3)}),
        "takes no conditions, got 'label'",
    ),
    "a transform that does not invert": (
        lambda: tpf.Velocity(NET, FLOW, transform=lambda x: x / 10),
        "Standardize",
    ),
    # complex numbers, taken for their real part
    "a complex epsilon": (lambda: tpf.sample(NOISE, 3, epsilon=lambda t: t * 1j, steps=2), "real"),
    "a complex schedule": (lambda: tpf.sample(NOISE, 3, epsilon=ComplexEpsilon(), steps=2), "real"),
    "a complex weight": (lambda: fit(tpf.VelocityLoss(weight=lambda t: t * 1j)), "real"),
    "a complex weight of a score loss": (
        lambda: fit(
            tpf.losses.ImplicitScoreLoss(weight=lambda t: t * 1j),
            tpf.Score(NET, DIFFUSION),
        ),
        "real",
    ),
    "a complex sigma": (
        lambda: tpf.particle_flow(X, Y, sigma=lambda u: 1 + 1j * u, steps=2),
        "real",
    ),
    "a complex step": (
        lambda: tpf.particle_flow(X, Y, sigma=1.0, step=lambda u: 1j * u, steps=2),
        "real",
    ),
    "a complex spacing": (lambda: S.time_grid(4, spacing=lambda u: u + 0j), "real"),
    "a complex score": (
        lambda: tpf.langevin.langevin(lambda x: -x * 1j, X, step_size=0.1, steps=2),
        "floating",
    ),
    "complex scores compared": (
        lambda: M.fisher_divergence(X, lambda x: x * 1j, lambda x: x),
        "floating",
    ),
    "complex states of a hook": (
        lambda: tpf.sample(VELOCITY, 3, steps=2, hooks=[lambda m: m.x * 1j]),
        "floating",
    ),
    "complex data": (lambda: M.mmd2(X * 1j, Y), "view_as_real"),
    "a complex time": (lambda: VELOCITY.velocity(torch.tensor(0.5j), X), "t must be"),
    # shapes that broadcast
    "a kernel of another shape": (
        lambda: M.mmd2(X, Y, kernel=Made(lambda a, b: a[:1, :1])),
        r"\(40, 40\)",
    ),
    "a weight of a column": (
        lambda: fit(tpf.VelocityLoss(weight=lambda t: t[:, None])),
        "one number for each time",
    ),
    "a log-density of other events": (
        lambda: tpf.Gaussian((2,)).log_prob(torch.zeros(3, 1)),
        r"rows \(B, 2\)",
    ),
    "a mixture's log-density of other events": (
        lambda: tpf.distributions.GaussianMixture(torch.zeros(2, 2), 0.5).log_prob(X[:, :1]),
        r"rows \(B, 2\)",
    ),
    "a base of other events": (
        lambda: tpf.log_likelihood(VELOCITY, X[:2], base=tpf.Gaussian((1,)), scheme="rk4", steps=2),
        r"rows \(B, 1\)",
    ),
    "states of other events": (
        lambda: tpf.Velocity(lambda t, x: x, FLOW).velocity(torch.tensor(0.5), torch.zeros(3, 7)),
        r"rows \(B, 2\)",
    ),
    "standardised events of another shape": (
        lambda: tpf.Standardize(torch.zeros(3), torch.ones(3))(torch.zeros(3, 1)),
        "fit it to data",
    ),
    "a shape of no numbers": (
        lambda: tpf.likelihood.bits_per_dimension(X, (-1,), level_width=1),
        "shape",
    ),
    "an empty event": (lambda: tpf.Gaussian((0,)), "at least 1"),
    "a negative event": (lambda: tpf.Process(tpf.OneSidedLinear(), shape=(-2,)), "at least 1"),
    "a scalar event": (lambda: tpf.Process(tpf.OneSidedLinear(), shape=()), r"\(1,\) for scalars"),
    # numbers out of their range
    "no points": (lambda: M.median_bandwidth(X, Y, points=0), "at least 2"),
    "no probes": (lambda: M.consistency(NOISE, X, times=2, probes=0), "probes"),
    "-1 points": (lambda: M.kl_kernel_density(X, Y, points=-1), "points"),
    "-1 points, symmetric": (lambda: M.jensen_shannon_kernel_density(X, Y, points=-1), "points"),
    "a broken degree": (lambda: M.PolynomialKernel(1.5), "degree"),
    "a kernel of NaN": (
        lambda: M.mmd2(X, Y, kernel=Made(lambda a, b: NAN * (a @ b.mT))),
        "NaN",
    ),
    "a kernel without symmetry": (
        lambda: M.mmd2(X, Y, kernel=Made(lambda a, b: a[:, :1] - b[:, 0])),
        "symmetric",
    ),
    "a time of 2": (lambda: FLOW.sample(X, t=2.0), r"\[0, 1\]"),
    "times beyond the ends": (
        lambda: M.loss_by_time(VELOCITY, tpf.VelocityLoss(), X, times=[-0.5, 2.0]),
        r"\[0, 1\]",
    ),
    "an oracle's time of 2": (lambda: EXACT.sample(2.0, 3), r"\[0, 1\]"),
    "a negative bandwidth": (lambda: PT.kernel_mean(X[:1], Y, -1.0), "sigma"),
    "a radius of NaN": (lambda: PT.kernel_mean(X[:1], Y, 1.0, radius=NAN), "radius"),
    "a mean of NaN": (lambda: tpf.times.LogitNormalTimes(NAN), "mean"),
    "a deviation of NaN": (lambda: tpf.times.LogitNormalTimes(0.0, NAN), "std"),
    "an infinite clip": (lambda: tpf.Trainer(VELOCITY, clip=math.inf), "clip=None"),
    "an infinite gamma": (lambda: tpf.losses.MinSNRWeight(math.inf), "gamma"),
    "an infinite sigma_data": (lambda: tpf.losses.EDMWeight(math.inf), "sigma_data"),
    "infinite values": (lambda: tpf.datasets.digits(value_range=(0.0, math.inf)), "value_range"),
    "-1 labels": (lambda: tpf.networks.MLP(2, 8, 1, labels=-1), "labels"),
    "-1 draws": (lambda: tpf.Gaussian((2,)).sample(-1), "draws"),
    "label 99 of 3": (
        lambda: tpf.networks.MLP(2, 8, 1, labels=3)(
            torch.tensor(0.5), X, label=torch.full((40,), 99)
        ),
        "classes 0 to 2",
    ),
    # kinds of numbers
    "integer digits": (lambda: tpf.datasets.digits(dtype=torch.int64), "floating"),
    "integer draws": (
        lambda: tpf.distributions.Empirical(X).sample(2, dtype=torch.int64),
        "floating",
    ),
    "integer samples": (lambda: tpf.sample(VELOCITY, 3, dtype=torch.int64), "floating"),
    "a dtype in words": (lambda: tpf.sample(VELOCITY, 3, dtype="float32"), r"write torch.float32"),
    "a seed for a generator": (lambda: tpf.sample(VELOCITY, 3, generator=42), r"manual_seed\(42\)"),
    "numbers in words": (lambda: tpf.VP("0.1", "20"), "number"),
    "a rate in words": (lambda: tpf.Trainer(VELOCITY, lr="1e-3"), "without quotes"),
    "labels of floats": (
        lambda: tpf.networks.MLP(2, 8, 1, labels=3)(torch.tensor(0.5), X, label=torch.zeros(40)),
        r"label.long\(\)",
    ),
    # one thing for another
    "one network for two": (
        lambda: tpf.FieldPair(velocity=NET, noise=NET, process=BRIDGE),
        "heads=net",
    ),
    "a field for a network": (lambda: tpf.NoisePredictor(VELOCITY, FLOW), "predicts velocity"),
    "None for no conditions": (lambda: tpf.Batch(X, cond=None), "cond"),
    "a condition called t": (lambda: fit(None, cond={"t": torch.zeros(40)}), "'t'"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_refused(what):
    call, cure = NONSENSE[what]
    with pytest.raises((ValueError, TypeError), match=cure) as caught:
        call()
    assert type(caught.value) in (ValueError, TypeError)
    assert len(str(caught.value)) < 500


def test_levels_are_told_and_made_continuous():
    images = tpf.datasets.digits().images
    noisy = tpf.likelihood.dequantise(images, 1 / 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(((noisy + 1) * 8).floor(), ((images + 1) * 8).round())
    gap = noisy - images
    assert abs(float(gap.mean()) - 1 / 16) < 1e-3  # 115,008 draws of deviation 0.036
    for wrong in (1 / 256, 1 / 4, 1 / 17):
        with pytest.raises(ValueError, match=r"0\.125 apart|nearer than 0\.125"):
            tpf.likelihood.dequantise(images, wrong)
    with pytest.raises(TypeError, match="level_width"):
        tpf.likelihood.bits_per_dimension(torch.zeros(2), (1, 8, 8))
    # uniform on [-1, 1 + 1/8): 17 levels
    log_prob = torch.full((1,), -64 * math.log(17 / 8))
    bits = tpf.likelihood.bits_per_dimension(log_prob, (1, 8, 8), level_width=1 / 8)
    assert abs(float(bits) - math.log2(17)) < 1e-5


def test_times_of_a_loss_are_drawn_as_before():
    """The same numbers as before, off the ends where a target needs it."""
    g = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    times = tpf.times.UniformTimes(margin=0.1)
    drawn = tpf.VelocityLoss(times=times).draw(VELOCITY, X, generator=g())
    assert torch.equal(drawn.t, times.sample(40, generator=g()))
    bridge = tpf.Velocity(NET, BRIDGE)
    drawn = tpf.VelocityLoss().draw(bridge, X, generator=g())
    assert torch.equal(
        drawn.t, tpf.times.UniformTimes().sample(40, margin=(1e-4, 1e-4), generator=g())
    )
    weighed = tpf.VelocityLoss(times=tpf.times.LogitNormalTimes(), importance=True)
    drawn = weighed.draw(bridge, X, generator=g())
    expected = tpf.times.LogitNormalTimes().density(drawn.t, margin=(1e-4, 1e-4))
    assert torch.equal(drawn.density, expected)
    assert weighed.times.margin is None  # what the user gave is as it was
