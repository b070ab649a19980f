"""Small numbers beside large ones: offsets, far clusters, times at which weights are 0/0."""

import math

import pytest
import torch

import transportflows as tpf
from transportflows._core.distances import square_distances

FAR = 2.0**27  # with data on a grid of 2^-20 sums with it are exact


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def on_grid(*shape, seed=0):
    z = torch.randn(*shape, dtype=torch.float64, generator=gen(seed))
    return torch.round(z * 2**20) / 2**20


@pytest.mark.parametrize("d", [2, 6, 40])
def test_square_distances_between_far_clusters(d):
    z, w = on_grid(30, d), on_grid(20, d, seed=1)
    near = (z[:, None] - w).square().sum(2)
    assert torch.allclose(square_distances(z, w), near, rtol=1e-13, atol=0)
    assert torch.allclose(square_distances(z + FAR, w + FAR), near, rtol=1e-13, atol=0)
    both = square_distances(torch.cat([z, z + FAR]), torch.cat([w, w + FAR]))
    assert torch.allclose(both[:30, :20], near, rtol=1e-7, atol=0)
    assert torch.allclose(both[30:, 20:], near, rtol=1e-7, atol=0)
    few = square_distances(torch.cat([z, z[:1] + FAR]), torch.cat([w, z[:1] + FAR, z[1:2] + FAR]))
    assert torch.allclose(few[-1, 20:], (z[0] - z[:2]).square().sum(1), rtol=1e-13, atol=0)
    own = square_distances(z + FAR, z + FAR)
    assert own.diagonal().abs().max() == 0
    assert square_distances(z[:0], w).shape == (0, 20)


@pytest.mark.parametrize(
    "kernel", [tpf.metrics.GaussianKernel(1.5), tpf.metrics.RationalQuadraticKernel()]
)
def test_mmd_between_far_samples(kernel):
    """Then only pairs within a sample count."""
    z = on_grid(60, 6)
    square = (z[:, None] - z).square().sum(2)
    k = torch.exp(-square / (2 * 1.5**2))
    cross = 0.0
    if isinstance(kernel, tpf.metrics.RationalQuadraticKernel):
        exponents = kernel.exponents
        k = sum((1 + square / (2 * a)) ** -a for a in exponents) / len(exponents)
        cross = sum((1 + 6 * FAR**2 / (2 * a)) ** -a for a in exponents) / len(exponents)
    expected = 2 * float(k.sum() - 60) / 60 / 59 - 2 * cross
    found = tpf.metrics.mmd2(z, z + FAR, kernel=kernel)
    assert found.value == pytest.approx(expected, rel=1e-8)


def test_kernel_stein_discrepancy_of_far_clusters():
    """The parts of two clusters that do not see each other add up."""
    z = on_grid(40, 6)

    def score(x):
        return -(x - FAR * (x > FAR / 2))

    def total(x):
        return tpf.metrics.kernel_stein_discrepancy(x, score, scale=1.0).value * len(x) ** 2

    one = total(z) * 39 / 40  # from means over pairs to sums
    two = total(torch.cat([z, z + FAR])) * 79 / 80
    assert two == pytest.approx(2 * one, rel=1e-6)


@pytest.mark.parametrize("offset", [2.0**17, -(2.0**22)])
@pytest.mark.parametrize("d", [2, 6])
def test_empirical_oracle_of_data_far_from_zero(offset, d):
    process = tpf.Process(tpf.VE(0.01, 20.0), shape=(d,))
    data = on_grid(40, d)
    x, t = data[:5] + 2.0**-6, torch.tensor(0.95, dtype=torch.float64)
    part = process.part
    beta, variance = part.path.beta(t), part.scale_sq(t)
    square = (x[:, None] - beta * data).square().sum(2)
    logs = -0.5 * square / variance - 0.5 * d * (2 * math.pi * variance).log() - math.log(40)
    near = tpf.oracles.EmpiricalOracle(process, data)
    far = tpf.oracles.EmpiricalOracle(process, data + offset, block=7)
    assert torch.allclose(near.log_prob(t, x), logs.logsumexp(1), rtol=1e-12)
    assert torch.allclose(far.log_prob(t, x + offset), logs.logsumexp(1), atol=1e-6)
    mean = logs.softmax(1) @ data
    assert torch.allclose(near.data(t, x), mean, atol=1e-12)
    assert torch.allclose(far.data(t, x + offset) - offset, mean, atol=1e-6)


class Negative(tpf.AffineInterpolant):
    """β < 0 until t = 0.5."""

    def alpha(self, t):
        return 1 - t

    def beta(self, t):
        return t * (2 * t - 1)


@pytest.mark.parametrize("quantity", ["data", "noise", "score", "velocity"])
def test_weights_where_beta_is_negative(quantity):
    part = tpf.Process(Negative(), base=tpf.Gaussian((1,))).part
    t = torch.tensor([0.1, 0.3, 0.45, 0.8], dtype=torch.float64)
    beta, beta_dot, sigma = t * (2 * t - 1), 4 * t - 1, 1 - t
    snr = beta**2 / sigma**2
    delta = beta_dot * sigma**2 + beta * sigma
    of_data = {  # (d data / d quantity)², from x = β d + σ̂ η, b = β̇ d + σ̂̇ η, s = -η/σ̂
        "data": 1.0,
        "noise": 1 / snr,
        "score": sigma**4 / beta**2,
        "velocity": sigma**4 / delta**2,
    }
    weight = tpf.losses.MinSNRWeight(5.0)(part, t, quantity)
    assert torch.allclose(weight, snr.clamp(max=5.0) * of_data[quantity], rtol=1e-10)
    weight = tpf.losses.EDMWeight(0.5)(part, t, quantity)
    expected = (1 / snr + 0.25) / (0.25 / snr) * of_data[quantity]
    assert torch.allclose(weight, expected, rtol=1e-10)
    level = tpf.noise_level.NoiseLevel.at(part, t)
    assert torch.allclose(level.sigma, snr**-0.5)
    assert torch.allclose(level.log_ratio, 0.5 * snr.log())
    assert torch.allclose(level.rate, delta / (beta * sigma**2))


class Swing(tpf.AffineInterpolant):
    """At t = 0.322 and another time the velocity tells nothing of the noise."""

    def alpha(self, t):
        return 1 - t - 0.8 * torch.sin(math.pi * t)

    def beta(self, t):
        return t


@pytest.mark.parametrize("second", ["noise", "score"])
@pytest.mark.parametrize("first", ["velocity", "mean_velocity"])
def test_the_data_of_a_pair_at_times_where_a_velocity_tells_nothing(first, second):
    process = tpf.Process(Swing(), base=tpf.Gaussian((1,), mean=0.5))
    exact = tpf.oracle(process, tpf.Gaussian((1,), 2.0, 0.7))
    outputs = {first: getattr(exact, first), second: getattr(exact, second)}
    pair = tpf.FieldPair(**outputs, process=process)
    (time,) = process.part.degenerate_times[:1]
    assert time == pytest.approx(0.322, abs=1e-3)
    t = torch.tensor([time, time + 0.009, time - 0.011, 0.6, 0.9], dtype=torch.float64)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    assert torch.allclose(pair.data(t, x), exact.data(t, x), rtol=1e-9)
    alone = tpf.Velocity(exact.velocity, process)
    with pytest.raises(tpf.ConversionError, match="tells nothing"):
        alone.data(t, x)


def test_a_weight_of_a_mean_velocity_that_is_always_zero():
    process = tpf.Process(tpf.VE(0.01, 5.0), shape=(2,))
    field = tpf.MeanVelocity(lambda t, x: 0 * x, process)
    with pytest.raises(ValueError, match="mean velocity of VE is the same whatever the data are"):
        tpf.MeanVelocityLoss(weight=tpf.losses.UnitWeight("noise"))(field, on_grid(4, 2))
    moving = tpf.MeanVelocity(lambda t, x: 0 * x, tpf.Process(tpf.VP(), shape=(2,)))
    loss = tpf.MeanVelocityLoss(weight=tpf.losses.UnitWeight("noise"))
    assert bool(loss(moving, on_grid(4, 2), generator=gen()).isfinite().all())


def test_classifier_test_under_another_default_dtype():
    x, y = on_grid(60, 2), on_grid(60, 2, seed=1) + 1
    expected = tpf.metrics.classifier_test(x, y, generator=gen())
    torch.set_default_dtype(torch.float64)
    try:
        assert tpf.metrics.classifier_test(x, y, generator=gen()) == expected
    finally:
        torch.set_default_dtype(torch.float32)
