"""EDM preconditioning: Karras's four functions on any one-sided process, at every time."""

from __future__ import annotations

import math

import pytest
import torch

import transportflows as tpf
from test_score_matching import LATENT, MIXTURE, PLAIN, Net, gen, mlp, one_sided
from transportflows.noise_level import NoiseLevel

F64 = torch.float64
PROCESSES = {**PLAIN, **LATENT}
SIGMA_DATA = 0.7


def edm(process: str, shape=(2,), net=None, **kwargs) -> tpf.EDM:
    law = PROCESSES[process](shape)
    given = {"sigma_data": SIGMA_DATA, **kwargs}
    return tpf.EDM(Net(math.prod(shape)) if net is None else net, law, **given)


@pytest.mark.parametrize("process", PROCESSES)
def test_it_is_table_1_of_karras(process):
    """D(σ, y) = c_skip y + c_out F(c_noise, c_in y), with y = x'/β and σ = σ̂/β."""
    seen = []

    def net(t, x):
        seen.append((t, x))
        return torch.sin(x) + t[:, None]

    field = edm(process, net=net)
    law = field.process
    t = torch.linspace(0.1, 0.95, 8, dtype=F64)
    x = torch.randn(8, 2, generator=gen(), dtype=F64)
    mean = (
        0.0
        if law.noise_part.base_mean is None
        else law.affine.alpha(t)[:, None] * law.noise_part.base_mean
    )
    beta = law.affine.beta(t)[:, None]
    y, sigma = (x - mean) / beta, NoiseLevel.at(law.part, t).sigma[:, None]
    total = sigma**2 + SIGMA_DATA**2
    c_skip, c_out = SIGMA_DATA**2 / total, sigma * SIGMA_DATA / total.sqrt()
    c_in, c_noise = 1 / total.sqrt(), sigma.log() / 4
    expected = c_skip * y + c_out * (torch.sin(c_in * y) + c_noise)
    torch.testing.assert_close(field.data(t, x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(seen[-1][0], c_noise[:, 0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(seen[-1][1], c_in * y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("process", PROCESSES)
def test_inputs_and_targets_have_unit_variance(process):
    """For data of mean 0 and standard deviation σ_d, at every time (Karras, appendix B.6)."""
    field, n = edm(process, (1,)), 200_000
    law = field.process
    x1 = SIGMA_DATA * torch.randn(n, 1, generator=gen(), dtype=F64)
    for time in (0.02, 0.3, 0.6, 0.97):
        sample = law.sample(x1, t=time, generator=gen(1))
        c = field.coefficients(torch.tensor(time, dtype=F64))
        centred = sample.x
        if law.noise_part.base_mean is not None:
            centred = centred - law.affine.alpha(torch.tensor(time)) * law.noise_part.base_mean
        given = c.scale * centred
        target = (x1 - c.skip * centred) / c.out
        for value in (given, target):
            assert abs(float(value.var()) - 1) < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_weight_makes_it_a_regression_of_the_target(process):
    """½ λ(σ) |D - x1|² = ½ |F - target|², row by row, with the weight of any form."""
    net = Net(2)
    field = edm(process, net=net)
    law = field.process
    t = torch.linspace(0.05, 0.95, 30, dtype=F64)
    sample = law.sample(torch.randn(30, 2, generator=gen(), dtype=F64), t=t, generator=gen(1))
    c = field.coefficients(t)
    centred = sample.x
    if law.noise_part.base_mean is not None:
        centred = centred - law.affine.alpha(t)[:, None] * law.noise_part.base_mean
    target = (sample.x1 - c.skip[:, None] * centred) / c.out[:, None]
    output = net(c.noise, c.scale[:, None] * centred)
    expected = 0.5 * (output - target).square().sum(1)
    weight = tpf.losses.EDMWeight(SIGMA_DATA)
    for loss in (tpf.DataLoss, tpf.NoiseLoss, tpf.ScoreLoss):
        given = loss(weight=weight).evaluate(field, sample)
        torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("process", PROCESSES)
def test_it_is_finite_on_the_closed_interval(process, dtype):
    """Where β = 0 it is σ_d F; where σ̂ = 0, x itself; and it is continuous there."""
    field = edm(process, net=lambda t, x: torch.tanh(x) + t.reshape(-1, 1))
    law = field.process
    x = torch.randn(5, 2, generator=gen(), dtype=dtype)
    for end, near in ((0.0, 1e-6), (1.0, 1 - 1e-6)):
        there = field.data(torch.full((5,), end, dtype=dtype), x)
        assert bool(torch.isfinite(there).all())
        beside = field.data(torch.full((5,), near, dtype=dtype), x)
        torch.testing.assert_close(there, beside, rtol=0.02, atol=0.02)
        c = field.coefficients(torch.tensor(end, dtype=F64))
        assert SIGMA_DATA / 1e3 * 0.999 <= math.exp(4 * float(c.noise)) <= 1.001e3 * SIGMA_DATA
        one = torch.tensor(end, dtype=F64)
        if float(law.affine.beta(one)) == 0:
            assert float(c.skip) == 0
            assert float(c.out) == pytest.approx(SIGMA_DATA)
        if float(law.noise_part.scale_sq(one)) < 1e-30:
            torch.testing.assert_close(there, x)


def exact(process: str, shape=(2,)):
    """An EDM whose network is what the exact data prediction makes of it, and that oracle."""
    law = PROCESSES[process](shape)
    oracle = tpf.oracle(law, MIXTURE)
    field = tpf.EDM(lambda t, x: x, law, sigma_data=SIGMA_DATA)
    grid = torch.linspace(1e-4, 1 - 1e-4, 20_001, dtype=F64)
    noises = field.coefficients(grid).noise

    def net(c_noise, scaled):
        c_noise = c_noise.double()
        place = torch.searchsorted(-noises, -c_noise.reshape(-1)).clamp(1, len(grid) - 1)
        before, after = noises[place - 1], noises[place]
        part = ((c_noise.reshape(-1) - before) / (after - before)).nan_to_num(0.5)
        t = (grid[place - 1] + part * (grid[place] - grid[place - 1])).expand(len(scaled))
        c = field.coefficients(t)
        centred = scaled.double() / c.scale[:, None]
        x = centred
        if law.noise_part.base_mean is not None:
            x = x + law.affine.alpha(t)[:, None] * law.noise_part.base_mean
        return ((oracle.data(t, x) - c.skip[:, None] * centred) / c.out[:, None]).to(scaled)

    field.net = net
    return field, oracle


@pytest.mark.parametrize("process", PROCESSES)
def test_check_field_passes_with_the_exact_network(process):
    """The network's time is its only way to know the noise level, and it is enough."""
    field, oracle = exact(process)
    x = torch.randn(6, 2, generator=gen(), dtype=F64)
    report = tpf.testing.check_field(field, x, oracle=oracle, tolerance=1e-4)
    assert not report.problems


def test_it_samples_what_it_predicts():
    field, oracle = exact("sbdm")
    start = torch.randn(200, 2, generator=gen(), dtype=F64)
    ends = [
        tpf.sample(f, 200, start=start, scheme="heun", steps=100, margin=2e-4).x
        for f in (field, oracle)
    ]
    assert float((ends[0] - ends[1]).abs().mean()) < 0.01


def test_a_saved_edm_is_the_same(tmp_path):
    law = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
    field = tpf.EDM(mlp(), law, sigma_data=1.3, transform=tpf.Standardize(2.0, 3.0)).eval()
    field.save(tmp_path / "field.pt")
    loaded = tpf.load_field(tmp_path / "field.pt")
    assert type(loaded) is tpf.EDM
    assert loaded.sigma_data == 1.3
    t, x = torch.tensor([0.0, 0.4, 1.0]), torch.randn(3, 2, generator=gen())
    assert torch.equal(loaded.data(t, x), field.data(t, x))
    assert float(loaded.transform.scale) == 3.0
    other = tpf.load_field(tmp_path / "field.pt", net=mlp())
    assert torch.equal(other.data(t, x), field.data(t, x))


@pytest.mark.parametrize("process", ["linear", "vp"])
def test_a_trainer_learns_it(process):
    """Karras's loss; E|σ̂ŝ - σ̂s|² at noise levels 0.3 to 1.2 below 5 % of E|ẑ|²."""
    law = PROCESSES[process]()
    oracle = tpf.oracle(law, MIXTURE)
    data = MIXTURE.sample(8_000, generator=gen(1), dtype=torch.float32)
    scale = float(data.std())
    field = tpf.EDM(mlp(), law, sigma_data=scale)
    loss = tpf.DataLoss(times=tpf.times.EDMTimes(mean=-0.4), weight=tpf.losses.EDMWeight(scale))
    trainer = tpf.Trainer(field, loss, lr=1e-2, scheduler="cosine")
    history = trainer.fit(data, steps=500, batch_size=512, generator=gen(2), progress=False)
    assert history.loss[0] == pytest.approx(1, rel=0.5)  # ½|F - target|² of D = 2 numbers: 1
    held = MIXTURE.sample(4_000, generator=gen(3), dtype=torch.float32)
    with torch.no_grad():
        for t in law.part.time_of_sigma([0.3, 0.6, 1.2]):
            sample = law.sample(held, t=float(t), generator=gen(4))
            error = float(tpf.losses.squared_error(field, oracle, sample, "noise").mean())
            assert error < 0.05 * 2, (float(t), error)


def test_images_scalars_and_conditions():
    law = one_sided(tpf.SBDM(), (3, 4, 4))
    seen = {}

    def net(t, x, label):
        seen.update(t=t, label=label)
        return 0.1 * x

    field = tpf.EDM(net, law)
    x, label = torch.randn(2, 3, 4, 4, generator=gen()), torch.tensor([1, 2])
    one = field.data(torch.tensor(0.3), x, {"label": label})
    assert seen["t"].shape == (2,)
    many = field.data(torch.full((2,), 0.3), x, {"label": label})
    assert seen["t"].shape == (2,)
    torch.testing.assert_close(one, many)
    assert torch.equal(seen["label"], label)
    assert field.data(torch.tensor(0.3), x.double(), {"label": label}).dtype == F64


def test_refuses():
    law = PROCESSES["linear"]()
    with pytest.raises(ValueError, match=r"sigma_data must be positive( and finite)?, got 0"):
        tpf.EDM(Net(2), law, sigma_data=0.0)
    uniform = tpf.Process(tpf.Linear(tpf.Brownian()), tpf.distributions.Uniform((2,)))
    with pytest.raises(ValueError, match=r"no Gaussian part beside x1 .Linear, base Uniform"):
        tpf.EDM(Net(2), uniform)
    field = tpf.EDM(lambda t, x: x[:, :1], law)
    with pytest.raises(ValueError, match=r"network of this EDM .* must give the shape of x"):
        field.data(torch.tensor(0.5, dtype=F64), torch.zeros(3, 2, dtype=F64))
