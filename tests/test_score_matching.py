"""Losses of diffusion: weights, times by noise level, score matching, the variational bound.

Expectations are by quadrature wherever they can be: data of a few points, Gauss-Hermite noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

import transportflows as tpf
from transportflows._core.autodiff import draw_probes
from transportflows.losses.variational import prior_matching, reconstruction_constant
from transportflows.noise_level import NoiseLevel

F64 = torch.float64


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_sided(path: tpf.Interpolant, shape=(2,)) -> tpf.Process:
    return tpf.Process(path, shape=shape)


# Without a latent beside the base: x1 and ẑ are all there is, and ẋ is made of them.
PLAIN = {
    "linear": lambda shape=(2,): one_sided(tpf.OneSidedLinear(), shape),
    "trigonometric": lambda shape=(2,): one_sided(tpf.OneSidedTrigonometric(), shape),
    "sbdm": lambda shape=(2,): one_sided(tpf.SBDM(), shape),
    "two-sided": lambda shape=(2,): tpf.Process(tpf.Linear(), tpf.Gaussian(shape, 0.3, 2.0)),
    "ve": lambda shape=(2,): one_sided(tpf.VE(0.02, 5.0), shape),
    "vp": lambda shape=(2,): one_sided(tpf.VP(), shape),
    "sub-vp": lambda shape=(2,): one_sided(tpf.SubVP(), shape),
    "ddpm": lambda shape=(2,): one_sided(tpf.sdes.DDPMChain(levels=200), shape),
}
LATENT = {
    "linear, latent": lambda shape=(2,): tpf.Process(
        tpf.Linear(tpf.Brownian()), tpf.Gaussian(shape, 0.3, 1.5)
    ),
    "trigonometric, latent": lambda shape=(2,): tpf.Process(
        tpf.Trigonometric(tpf.interpolants.Quadratic()), tpf.Gaussian(shape)
    ),
}
PROCESSES = {**PLAIN, **LATENT}
WEIGHTS = {
    "noise": tpf.losses.UnitWeight("noise"),
    "score": tpf.losses.UnitWeight("score"),
    "data": tpf.losses.UnitWeight("data"),
    "velocity": tpf.losses.UnitWeight("velocity"),
    "likelihood": tpf.losses.LikelihoodWeight(),
    "min-snr": tpf.losses.MinSNRWeight(2.0),
    "edm": tpf.losses.EDMWeight(0.7),
    "variational": tpf.losses.VariationalWeight([0.9, 0.6, 0.35, 0.1]),
}
LOSSES = {
    "noise": tpf.NoiseLoss,
    "data": tpf.DataLoss,
    "score": tpf.ScoreLoss,
    "velocity": tpf.VelocityLoss,
}


class Net(torch.nn.Module):
    """A function of time and state in float64, so smooth (slopes up to ½) that quadrature is."""

    def __init__(self, d: int, seed: int = 0, width: int = 5) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.rand(width, d, generator=gen(seed), dtype=F64) - 0.5)
        self.b = torch.nn.Parameter(torch.randn(width, generator=gen(seed + 1), dtype=F64))
        self.c = torch.nn.Parameter(torch.randn(d, width, generator=gen(seed + 2), dtype=F64))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        h = torch.tanh(x @ self.a.mT + (self.b * t[..., None]))
        return h @ self.c.mT - 0.3 * x


def hermite(n: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


POINTS = torch.tensor([-1.0, 0.3, 1.4], dtype=F64)
SHARES = torch.tensor([0.2, 0.5, 0.3], dtype=F64)


def quadrature(law: tpf.Process, time: float, n: int = 60, points=POINTS, shares=SHARES):
    """A sample in one dimension and weights, whose sum is the expectation over x1, x0 and z."""
    nodes, weights = hermite(n)
    uses = law.interpolant.uses_base
    latent = law.interpolant.has_latent
    grids = [points, *([nodes] * uses), *([nodes] * latent)]
    masses = [shares, *([weights] * uses), *([weights] * latent)]
    grid = torch.cartesian_prod(*grids)
    mass = torch.cartesian_prod(*masses).prod(1)
    x1 = grid[:, :1]
    x0 = z = None
    if uses:
        base = law.base
        x0 = base.mean + base.scale * grid[:, 1:2]
    if latent:
        z = grid[:, -1:]
    t = torch.full((len(grid),), time, dtype=F64)
    x = law.interpolant.mean(t[:, None], x0, x1)
    if latent:
        x = x + law.interpolant.gamma(t)[:, None] * z
    return tpf.PathSample(law.noise_part, t, x, x0, x1, z), mass


def empirical_score(law: tpf.Process, t: Tensor, x: Tensor) -> Tensor:
    """∇ log Σ p_i N(x; αm + βx_i, σ̂²), by hand."""
    alpha, beta = law.affine.alpha(t), law.affine.beta(t)
    mean = 0.0 if law.noise_part.base_mean is None else alpha[:, None] * law.noise_part.base_mean
    square = law.noise_part.scale_sq(t)[:, None]
    centred = x - mean - beta[:, None] * POINTS
    post = torch.softmax(SHARES.log() - 0.5 * centred.square() / square, 1)
    return -(post * centred / square).sum(1, keepdim=True)


def gradient(value: Tensor, net: torch.nn.Module) -> Tensor:
    grads = torch.autograd.grad(value, list(net.parameters()), retain_graph=True)
    return torch.cat([g.reshape(-1) for g in grads])


# --------------------------------------------------------- one loss in the form of every target


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("process", PROCESSES)
def test_targets_give_one_loss_row_by_row(process, weight):
    law = PROCESSES[process]((2, 3))
    x1 = torch.randn(40, 2, 3, generator=gen(1), dtype=F64)
    sample = law.sample(x1, t=torch.linspace(0.05, 0.95, 40, dtype=F64), generator=gen(2))
    net = Net(6)
    field = tpf.DataPredictor(lambda t, x: net(t, x.flatten(1)).view(x.shape), law)
    expected = tpf.DataLoss(weight=WEIGHTS[weight]).evaluate(field, sample)
    assert float(expected.detach().min()) > 0
    names = ["noise", "score", "velocity"] if process in PLAIN else ["noise", "score"]
    for name in names:
        given = LOSSES[name](weight=WEIGHTS[weight]).evaluate(field, sample)
        torch.testing.assert_close(given, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("process", PROCESSES)
def test_velocities_give_the_same_gradient_with_a_latent_too(process):
    """There the losses differ by the part of z that x_t does not see: a constant."""
    law, net = PROCESSES[process]((1,)), Net(1)
    sample, mass = quadrature(law, 0.6, 40)
    weight = tpf.losses.MinSNRWeight(2.0)
    values, grads = [], []
    kinds = list(LOSSES.values())
    if process != "ve":  # whose mean velocity is zero, whatever the data
        kinds.insert(1, tpf.MeanVelocityLoss)
    for kind in kinds:
        field = tpf.DataPredictor(net, law)
        value = (mass * kind(weight=weight).evaluate(field, sample)).sum()
        values.append(float(value.detach()))
        grads.append(gradient(value, net))
    for grad in grads[1:]:
        torch.testing.assert_close(grad, grads[0], rtol=1e-9, atol=1e-12)
    extra = values[-1] - values[0]
    assert (extra > 1e-3) if process in LATENT else abs(extra) < 1e-12


def test_weights_have_the_closed_forms_of_their_papers():
    t = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    linear, sbdm = PLAIN["linear"](), PLAIN["sbdm"]()
    likelihood = tpf.losses.LikelihoodWeight()
    torch.testing.assert_close(likelihood(linear.part, t, "score"), 2 * (1 - t) / t)
    torch.testing.assert_close(likelihood(sbdm.part, t, "score"), 2 / t)  # OU: g² dτ with t = e^-τ
    torch.testing.assert_close(likelihood(sbdm.part, t, "noise"), 2 / t / (1 - t**2))
    snr = (t / (1 - t)) ** 2
    for gamma in (0.5, 5.0):
        weight = tpf.losses.MinSNRWeight(gamma)
        torch.testing.assert_close(weight(linear.part, t, "data"), snr.clamp(max=gamma))
        torch.testing.assert_close(weight(linear.part, t, "noise"), snr.clamp(max=gamma) / snr)
        arc = PLAIN["trigonometric"]()
        at = torch.tan(math.pi / 2 * t) ** 2
        v_form = weight(arc.part, t, "velocity") * (math.pi / 2) ** 2
        torch.testing.assert_close(v_form, at.clamp(max=gamma) / (at + 1))
    sigma = (1 - t) / t
    edm = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    torch.testing.assert_close(tpf.losses.EDMWeight()(linear.part, t, "data"), edm)
    torch.testing.assert_close(
        tpf.losses.UnitWeight("score")(sbdm.part, t, "noise"), 1 / (1 - t**2)
    )
    for name in ("ve", "vp", "sub-vp"):  # g² of the SDE itself
        law = PLAIN[name]()
        g_sq = law.interpolant.diffusion_sq(1 - t)
        torch.testing.assert_close(likelihood(law.part, t, "score"), g_sq, rtol=1e-10, atol=0)


@pytest.mark.parametrize("process", PLAIN)
def test_weights_have_their_limits_at_the_ends(process):
    law = PLAIN[process]()
    ends = torch.tensor([0.0, 1.0], dtype=F64)
    near = torch.tensor([1e-7, 1 - 1e-7], dtype=F64)
    for name, weight in WEIGHTS.items():
        if name == "variational":
            continue
        for form in LOSSES:
            given, limit = weight(law.part, ends, form), weight(law.part, near, form)
            assert not given.isnan().any()
            margins = weight.margin(law.part, form)
            for k in (0, 1):
                if float(given[k]) > 1e9:  # infinite
                    assert float(limit[k]) > 1e5
                    assert margins[k] == 1e-4
                else:
                    assert float(given[k]) == pytest.approx(float(limit[k]), rel=1e-2, abs=1e-5)
                    assert margins[k] == 0


def test_times_keep_off_an_end_where_the_weight_is_infinite():
    law = PLAIN["linear"]()
    loss = tpf.NoiseLoss(weight=tpf.losses.LikelihoodWeight())
    field = tpf.NoisePredictor(Net(2), law)
    t = loss.draw(field, torch.zeros(20_000, 2, dtype=F64), generator=gen()).t
    assert 1e-4 <= float(t.min()) < 2e-3
    assert 1e-4 <= float((1 - t).min()) < 2e-3
    own = tpf.NoiseLoss(
        weight=tpf.losses.LikelihoodWeight(), times=tpf.times.UniformTimes(margin=0.2)
    )
    assert float(own.draw(field, torch.zeros(999, 2, dtype=F64), generator=gen()).t.min()) >= 0.2


def test_likelihood_weighting_is_the_likelihood():
    """KL(ρ1|π1) - KL(ρ0|π0) = ½ ∫ g² E|s - ŝ|² dt for two Gaussians under one process.

    Exact where ŝ is the score of the model's own marginals (Song, Durkan et al. 2021, theorem 2).
    """
    law = PLAIN["sbdm"]((1,))
    truth, model = tpf.Gaussian((1,), 0.4, 0.8), tpf.Gaussian((1,), -0.1, 1.3)
    fields = tpf.oracle(law, model), tpf.oracle(law, truth)
    points, shares = hermite(12)
    loss = tpf.ScoreLoss(weight=tpf.losses.LikelihoodWeight())
    nodes, weights = np.polynomial.legendre.leggauss(40)
    low = 0.05
    total = 0.0
    for node, weight in zip(nodes, weights, strict=True):
        t = low + (1 - low) * (node + 1) / 2
        sample, mass = quadrature(law, t, 12, 0.4 + 0.8 * points, shares)
        wrong, right = ((mass * loss.evaluate(f, sample)).sum() for f in fields)
        total += weight * (1 - low) / 2 * float(wrong - right)

    def kl(t: float) -> float:
        a = torch.distributions.Normal(0.4 * t, math.sqrt((0.8 * t) ** 2 + 1 - t * t))
        b = torch.distributions.Normal(-0.1 * t, math.sqrt((1.3 * t) ** 2 + 1 - t * t))
        return float(torch.distributions.kl_divergence(a, b))

    assert total == pytest.approx(kl(1.0) - kl(low), rel=1e-6)


def test_refuses_weights():
    law = PLAIN["linear"]()
    t = torch.tensor([0.5], dtype=F64)
    uniform = tpf.Process(tpf.Linear(tpf.Brownian()), tpf.distributions.Uniform((2,)))
    decoder = tpf.Process(tpf.EncoderDecoder(), tpf.Gaussian((2,)))
    with pytest.raises(ValueError, match=r"no Gaussian part beside x1 .Linear, base Uniform"):
        tpf.losses.MinSNRWeight()(uniform.part, t, "noise")
    with pytest.raises(ValueError, match=r"EncoderDecoder.*does not grow all the way"):
        tpf.losses.LikelihoodWeight()(decoder.part, t, "noise")
    with pytest.raises(ValueError, match=r"form of one of velocity.*not 'drift'"):
        tpf.losses.MinSNRWeight()(law.part, t, "drift")
    with pytest.raises(ValueError, match=r"of must be one of noise.*'eta'"):
        tpf.losses.UnitWeight("eta")
    with pytest.raises(ValueError, match=r"gamma must be positive( and finite)?, got 0"):
        tpf.losses.MinSNRWeight(0.0)
    with pytest.raises(ValueError, match=r"sigma_data must be positive( and finite)?, got -1"):
        tpf.losses.EDMWeight(-1.0)
    with pytest.raises(TypeError, match=r"a LossWeight such as.*got float"):
        tpf.NoiseLoss(weight=2.0)


# ------------------------------------------------------------------------ times by noise level


@pytest.mark.parametrize("process", PROCESSES)
def test_the_table_inverts_the_noise_level(process):
    law = PROCESSES[process]()
    bound = tpf.times.LogSNRTimes().bind(law)
    low, high = bound.inverse.low, bound.inverse.high
    wanted = torch.linspace(max(low, -9.0), min(high, 9.0), 1237, dtype=F64)
    found = NoiseLevel.at(law.part, bound.inverse(wanted)).log_ratio
    assert float((found - wanted).abs().max()) < 1e-6


def test_times_have_the_law_of_noise_level_that_they_say():
    law, n = PLAIN["sbdm"](), 50_000
    t = tpf.times.LogSNRTimes(margin=0.01).bind(law).sample(n, generator=gen(), dtype=F64)
    ratio = NoiseLevel.at(law.part, t).log_ratio
    ends = NoiseLevel.at(law.part, torch.tensor([0.01, 0.99], dtype=F64)).log_ratio
    u = (ratio - ends[0]) / (ends[1] - ends[0])
    steps = torch.arange(1, n + 1) / n
    assert float((u.sort().values - steps).abs().max()) < 1.95 / math.sqrt(n)  # KS, 0.1 %
    t = tpf.times.EDMTimes().bind(law).sample(n, generator=gen(1), dtype=F64)
    z = (NoiseLevel.at(law.part, t).sigma.log() + 1.2) / 1.2
    normal = torch.special.ndtr(z).sort().values
    assert float((normal - steps).abs().max()) < 1.95 / math.sqrt(n)


@pytest.mark.parametrize(
    "times", [tpf.times.LogSNRTimes(margin=0.02), tpf.times.EDMTimes(margin=0.02)]
)
@pytest.mark.parametrize("process", PROCESSES)
def test_densities_are_those_of_the_draws(times, process):
    """Quantiles back to probabilities: ∫ p dt up to the time of a quantile is that quantile."""
    law = PROCESSES[process]()
    bound = times.bind(law)
    low, high = bound._range((0.02, 0.02))
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(60))
    stops = bound.inverse(times.quantile(torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=F64), low, high))
    for share, stop in zip((0.1, 0.5, 0.9, 1.0), stops, strict=True):
        ratios = NoiseLevel.at(
            law.part, torch.stack([torch.tensor(0.02, dtype=F64), stop])
        ).log_ratio
        inside = torch.linspace(float(ratios[0]), float(ratios[1]), 5, dtype=F64)
        total = 0.0
        for a, b in zip(bound.inverse(inside)[:-1], bound.inverse(inside)[1:], strict=True):
            t = a + (b - a) * (nodes + 1) / 2
            total += float((weights * bound.density(t)).sum() * (b - a) / 2)
        assert total == pytest.approx(share, abs=1e-4 if process == "ddpm" else 1e-6)  # kinks


@pytest.mark.parametrize(
    "times",
    [tpf.times.UniformTimes(), tpf.times.StratifiedTimes(), tpf.times.LogitNormalTimes(0.4, 0.8)],
)
def test_densities_of_the_clock(times):
    t = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    margin = (0.1, 0.2)
    inside = (t > 0.1) & (t < 0.8)
    assert float(times.density(t[inside], margin=margin).sum() / 20_000) == pytest.approx(1, 1e-3)
    drawn = times.sample(200_000, margin=margin, generator=gen(), dtype=F64)
    share = float((drawn < 0.35).double().mean())
    below = float(times.density(t[inside & (t < 0.35)], margin=margin).sum() / 20_000)
    assert abs(share - below) < 4 * 0.5 / math.sqrt(200_000) + 1e-4


@pytest.mark.parametrize("process", ["sbdm", "two-sided"])
def test_importance_changes_the_variance_only(process):
    law = PROCESSES[process]()
    exact = tpf.oracle(law, tpf.Gaussian((2,), 0.5, 0.7))
    x1 = exact.rho1.sample(200_000, generator=gen(3))
    margin = 1e-3
    kinds = {
        "uniform": tpf.times.UniformTimes(margin=margin),
        "snr": tpf.times.LogSNRTimes(margin=margin),
    }
    found = {}
    for name, times in kinds.items():
        loss = tpf.ScoreLoss(weight=tpf.losses.LikelihoodWeight(), times=times, importance=True)
        values = loss(exact, x1, generator=gen(4))
        found[name] = float(values.mean()), float(values.var())
    (a, va), (b, vb) = found.values()
    assert abs(a - b) < 4 * math.sqrt((va + vb) / len(x1))
    assert vb < 0.25 * va
    # Plain uniform times are the same integral over their interval, not divided by its density.
    plain = tpf.ScoreLoss(weight=tpf.losses.LikelihoodWeight(), times=kinds["uniform"])
    given = float(plain(exact, x1, generator=gen(4)).mean())
    assert given * (1 - 2 * margin) == pytest.approx(a, rel=1e-5)


def test_importance_goes_with_the_sample():
    """Through antithetic pairs, parts of a batch, and sums of losses."""
    law = tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((2,)))
    field = tpf.FieldPair(velocity=Net(2), noise=Net(2, 7), process=law)
    times = tpf.times.LogSNRTimes(margin=0.05)
    first = tpf.VelocityLoss(times=times, importance=True, antithetic=True)
    plain = tpf.VelocityLoss(times=times, antithetic=True)
    total = tpf.losses.SumLoss(first, tpf.NoiseLoss())
    x1 = torch.randn(8, 2, generator=gen(), dtype=F64)
    sample = first.draw(field, x1, generator=gen(1))
    density = times.bind(law).density(sample.t[:8])
    assert float(density.std()) > 0.01
    terms = total.terms(field, sample)
    other = plain.draw(field, x1, generator=gen(1))
    expected = tpf.losses.SumLoss(plain, tpf.NoiseLoss()).terms(field, other) / density
    torch.testing.assert_close(terms, expected)
    parts = [total.evaluate(field, sample.rows(*rows)) for rows in ((0, 3), (3, 8))]
    torch.testing.assert_close(torch.cat(parts), terms.sum(0))


def test_refuses_times():
    mirror = one_sided(tpf.Mirror())
    law = PLAIN["linear"]()
    field = tpf.NoisePredictor(Net(2), law)
    x1 = torch.zeros(4, 2, dtype=F64)
    with pytest.raises(ValueError, match=r"Mirror.*does not grow all the way.*time for each"):
        mirror.sample(x1, t=tpf.times.LogSNRTimes())
    with pytest.raises(ValueError, match=r"finite noise levels.*positive margin"):
        law.sample(x1, t=tpf.times.LogSNRTimes(margin=0.0))
    with pytest.raises(ValueError, match=r"has no mass on the noise levels"):
        law.sample(x1, t=tpf.times.EDMTimes(mean=60.0, std=0.1))
    with pytest.raises(ValueError, match=r"std positive, got -1.2 and 0.0"):
        tpf.times.EDMTimes(std=0.0)
    with pytest.raises(ValueError, match=r"noise levels must be positive and finite, got \[0.0\]"):
        tpf.times.SigmaTimes(0.0)
    with pytest.raises(ValueError, match=r"positive and finite, got \[1.0, inf\]"):
        tpf.times.SigmaTimes([1.0, math.inf])
    linear = tpf.Process(tpf.Linear(), tpf.Gaussian((2,), scale=2.0))
    with pytest.raises(ValueError, match=r"noise levels of Linear lie in \[2e-12, 2e\+12\]"):
        linear.part.time_of_sigma([1.0, math.inf])
    for times in (tpf.times.LogSNRTimes(), tpf.times.EDMTimes(), tpf.times.SigmaTimes(1.0)):
        with pytest.raises(ValueError, match="needs a process to draw times"):
            times.sample(3)
    with pytest.raises(ValueError, match="GridTimes has no density to divide a loss by"):
        tpf.NoiseLoss(times=tpf.times.GridTimes([0.5]), importance=True)(field, x1)


# ------------------------------------------------ the equivalences: losses differ by constants


def equivalent(law: tpf.Process, time: float) -> dict[str, Callable[[tpf.Field], Tensor]]:
    """Each loss at one time, in units of explicit score matching with λ = 1, exact in x1 and z."""
    two = law.interpolant.uses_base and law.interpolant.has_latent
    sample, mass = quadrature(law, time, 60 if two else 100)
    t = sample.t[:1]
    beta, square = law.affine.beta(t), law.noise_part.scale_sq(t)
    score = empirical_score(law, sample.t, sample.x)
    (sigma,) = (square.sqrt() / beta).tolist()
    levels = [time + 0.1, time, time - 0.2]
    level = NoiseLevel.at(law.part, torch.tensor([levels[0], time], dtype=F64)).snr
    drop = level[0] - level[1]
    autoencoder = tpf.losses.DenoisingAutoencoderLoss(sigma)
    elbo = tpf.DataLoss(weight=tpf.losses.VariationalWeight(levels))
    unit = tpf.losses.UnitWeight("score")

    def mean(rows: Tensor) -> Tensor:
        return (mass * rows).sum()

    def explicit(field: tpf.Field) -> Tensor:
        return mean(0.5 * (field.score(sample.t, sample.x) - score).square().sum(1))

    return {
        "explicit": explicit,
        "denoising": lambda f: mean(tpf.ScoreLoss(weight=unit).evaluate(f, sample)),
        "implicit": lambda f: mean(tpf.losses.ImplicitScoreLoss().evaluate(f, sample)),
        "autoencoder": lambda f: mean(autoencoder.evaluate(f, sample)) * (beta / square) ** 2,
        "elbo": lambda f: mean(elbo.evaluate(f, sample)) / drop * (beta / square) ** 2,
    }


@pytest.mark.parametrize("kind", [tpf.Score, tpf.DataPredictor, tpf.NoisePredictor])
@pytest.mark.parametrize("process", [p for p in PROCESSES if p != "trigonometric, latent"])
def test_score_matching_losses_differ_by_constants(process, kind):
    """DAE, DSM, implicit and explicit score matching and the ELBO's terms: one gradient."""
    law = PROCESSES[process]((1,))
    losses = equivalent(law, 0.45)
    nets = Net(1), Net(1, seed=11)
    fields = [kind(net, law) for net in nets]
    values = {name: [loss(field) for field in fields] for name, loss in losses.items()}
    reference = gradient(values["explicit"][0], nets[0])
    assert float(reference.norm()) > 0.01
    for name, (first, second) in values.items():
        given = gradient(first, nets[0])
        assert float((given - reference).norm() / reference.norm()) < 1e-8, name
        change = float(first.detach() - second.detach())
        expected = float((values["explicit"][0] - values["explicit"][1]).detach())
        size = max(
            abs(float(v.detach())) for v in values["explicit"]
        )  # the change is a small difference
        assert change == pytest.approx(expected, abs=1e-8 * size), name
    # And the constants are not all zero: they are not one loss.
    zero = float(values["explicit"][0].detach())
    assert len({round(float(v[0].detach()) - zero, 6) for v in values.values()}) >= 3


def test_implicit_is_explicit_for_any_process():
    """Two points to three, paired, uniform nowhere Gaussian but in z: only x_t is asked for."""
    law = tpf.Process(tpf.Linear(tpf.Brownian()), None, tpf.Paired(), shape=(1,))
    x0 = torch.tensor([0.5, -2.0, 1.0], dtype=F64)[:, None]
    nodes, weights = hermite(90)
    time = torch.tensor(0.4, dtype=F64)
    centres = 0.6 * x0 + 0.4 * POINTS[:, None]
    square = law.interpolant.gamma_sq(time)
    x = (centres + square.sqrt() * nodes).reshape(-1, 1)
    mass = (SHARES[:, None] * weights).reshape(-1)
    away = x - centres.mT
    post = torch.softmax(SHARES.log() - 0.5 * away.square() / square, 1)
    score = -(post * away / square).sum(1, keepdim=True)
    t = time.expand(len(x))
    sample = tpf.PathSample(law.noise_part, t, x, None, x, None)
    nets = Net(1), Net(1, seed=11)
    found, exact = [], []
    for net in nets:
        field = tpf.Score(net, law)
        found.append((mass * tpf.losses.ImplicitScoreLoss().evaluate(field, sample)).sum())
        exact.append((mass * 0.5 * (net(t, x) - score).square().sum(1)).sum())
    constant = (mass * 0.5 * score.square().sum(1)).sum()
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b - constant, rtol=1e-9, atol=1e-9)
    a, b = gradient(found[0], nets[0]), gradient(exact[0], nets[0])
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------ implicit and sliced, as code


def test_sliced_over_all_signs_is_implicit():
    """In two dimensions four sign vectors are the whole Rademacher law."""
    law, net = PLAIN["sbdm"](), Net(2)
    field = tpf.Score(net, law)
    x = torch.randn(30, 2, generator=gen(), dtype=F64)
    sample = tpf.PathSample(law.noise_part, torch.full((30,), 0.4, dtype=F64), x, None, x, None)
    exact = tpf.losses.ImplicitScoreLoss().evaluate(field, sample)
    signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=F64)] * 2)
    for reduced in (True, False):
        loss = tpf.losses.SlicedScoreLoss(probes=4, variance_reduced=reduced)
        loss._directions = lambda x, generator: signs[:, None].expand(4, len(x), 2)  # type: ignore
        torch.testing.assert_close(loss.evaluate(field, sample), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduced", [True, False])
@pytest.mark.parametrize("probe_law", ["rademacher", "gaussian", "sphere"])
def test_sliced_is_implicit_in_the_mean(probe_law, reduced):
    law, net, n = PLAIN["sbdm"]((3, 2)), Net(6), 40_000
    field = tpf.Score(lambda t, x: net(t, x.flatten(1)).view(x.shape), law)
    x = torch.randn(1, 3, 2, generator=gen(), dtype=F64).expand(n, 3, 2)
    loss = tpf.losses.SlicedScoreLoss(probe_law=probe_law, variance_reduced=reduced, at=0.6)
    values = loss(field, x, generator=gen(1)).detach()
    exact = float(tpf.losses.ImplicitScoreLoss(at=0.6)(field, x[:1])[0].detach())
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(n)
    assert torch.equal(values, loss(field, x, generator=gen(1)).detach())
    half = tpf.losses.SlicedScoreLoss(
        probe_law=probe_law, variance_reduced=reduced, at=0.6, probes=8
    )
    ratio = float(half(field, x[:8_000], generator=gen(2)).var() / values.var())
    assert ratio == pytest.approx(1 / 8, rel=0.15)  # 8,000 rows: 1.6 % a standard error, or so


@pytest.mark.parametrize("length", [1.0, 3.0])
def test_variance_reduction_is_one_where_the_score_is_long(length):
    """ŝ = -x, Gaussian z: variances 2D, and 2D + ½|x|⁴ - 2|x|², which is less for |x| < 2."""
    law, n, d = PLAIN["sbdm"]((6,)), 60_000, 6
    field = tpf.Score(lambda t, x: -x, law)
    x = torch.full((n, d), length / math.sqrt(d), dtype=F64)
    expected = {True: 2 * d, False: 2 * d + 0.5 * length**4 - 2 * length**2}
    for reduced, variance in expected.items():
        loss = tpf.losses.SlicedScoreLoss(probe_law="gaussian", variance_reduced=reduced, at=0.6)
        centred = loss(field, x, generator=gen()) - (0.5 * length**2 - d)
        error = float(centred.square().std()) / math.sqrt(n)
        assert abs(float(centred.square().mean()) - variance) < 4 * error
    signs = tpf.losses.SlicedScoreLoss(at=0.6)(field, x, generator=gen())  # zᵀ(∂ŝ)z is exact too
    torch.testing.assert_close(signs, torch.full_like(signs, 0.5 * length**2 - d))


@pytest.mark.parametrize("probe_law", ["rademacher", "gaussian", "sphere"])
def test_probes_are_white(probe_law):
    n = 100_000
    z = draw_probes(probe_law, (2, n, 3), generator=gen(), dtype=F64, device=torch.device("cpu"))
    z = z.reshape(-1, 3)
    second = z.mT @ z / len(z)
    assert float((second - torch.eye(3)).abs().max()) < 5 * math.sqrt(2 / len(z))
    if probe_law != "gaussian":
        torch.testing.assert_close(z.square().sum(1), torch.full((len(z),), 3.0, dtype=F64))


class _NoForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sin(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * torch.cos(x)


@pytest.mark.parametrize(
    "loss", [tpf.losses.ImplicitScoreLoss(at=0.5), tpf.losses.SlicedScoreLoss(at=0.5)]
)
def test_graphs_reach_the_parameters_in_both_modes(loss):
    law = PLAIN["sbdm"]()
    c = torch.nn.Parameter(torch.tensor([[0.3, -1.0], [0.5, 0.2]], dtype=F64))
    x = torch.randn(7, 2, generator=gen(), dtype=F64)
    found = []
    for sine in (torch.sin, _NoForward.apply):
        field = tpf.Score(lambda t, x, sine=sine: sine(x @ c.mT) @ c, law)
        value = loss(field, x, generator=gen(1)).sum()
        found.append((value.detach(), torch.autograd.grad(value, c)[0]))
        with torch.no_grad():
            torch.testing.assert_close(loss(field, x, generator=gen(1)).sum(), found[0][0])
    torch.testing.assert_close(found[0], found[1])
    step = 1e-6
    shifted = []
    for sign in (1, -1):
        moved = c.detach().clone()
        moved[0, 1] += sign * step
        field = tpf.Score(lambda t, x, m=moved: torch.sin(x @ m.mT) @ m, law)
        shifted.append(loss(field, x, generator=gen(1)).sum())
    slope = (shifted[0] - shifted[1]) / (2 * step)
    torch.testing.assert_close(found[0][1][0, 1], slope, rtol=1e-6, atol=1e-8)


def test_conditions_and_weights_go_with_their_rows():
    law = PLAIN["sbdm"]()
    field = tpf.Score(lambda t, x, label: -x * (1 + label[:, None]) * t[:, None], law)
    x = torch.randn(5, 2, generator=gen(), dtype=F64)
    label = torch.arange(5, dtype=F64)
    batch = tpf.Batch(x, cond={"label": label})
    for loss in (
        tpf.losses.ImplicitScoreLoss(at=0.5),
        tpf.losses.SlicedScoreLoss(at=0.5, probes=3),
    ):
        rate = 0.5 * (1 + label)
        expected = 0.5 * rate**2 * x.square().sum(1) - 2 * rate
        torch.testing.assert_close(loss(field, batch, generator=gen()), expected)
    weighted = tpf.losses.ImplicitScoreLoss(at=0.5, weight=tpf.losses.UnitWeight("noise"))
    torch.testing.assert_close(
        weighted(field, batch), 0.75 * tpf.losses.ImplicitScoreLoss(at=0.5)(field, batch)
    )
    function = tpf.losses.ImplicitScoreLoss(at=0.5, weight=lambda t: 3 * t)
    torch.testing.assert_close(
        function(field, batch), 1.5 * tpf.losses.ImplicitScoreLoss(at=0.5)(field, batch)
    )


def test_refuses_score_matching():
    with pytest.raises(ValueError, match=r"times are for x_t.*give one"):
        tpf.losses.ImplicitScoreLoss(times=tpf.times.UniformTimes(), at=1.0)
    with pytest.raises(ValueError, match="at must be a time in"):
        tpf.losses.SlicedScoreLoss(at=1.5)
    with pytest.raises(ValueError, match="probes must be an integer of at least 1, got 0"):
        tpf.losses.SlicedScoreLoss(probes=0)
    with pytest.raises(ValueError, match="unknown probe_law 'cauchy'"):
        tpf.losses.SlicedScoreLoss(probe_law="cauchy")


# --------------------------------------------------------------------- denoising autoencoder


@pytest.mark.parametrize("process", PLAIN)
def test_the_autoencoder_gives_the_score_of_blurred_data(process):
    """s(x̃) = (r(x̃) - x̃)/σ² on x̃ = x'/β, and the loss is σ⁴ times DSM on x̃, row by row."""
    law = PLAIN[process]((3,))
    net, sigma = Net(3), 0.7
    field = tpf.DataPredictor(net, law)
    loss = tpf.losses.DenoisingAutoencoderLoss(sigma)
    x1 = torch.randn(12, 3, generator=gen(), dtype=F64)
    sample = loss.draw(field, x1, generator=gen(1))
    t = sample.t
    beta = law.affine.beta(t)[:, None]
    mean = (
        0.0
        if law.noise_part.base_mean is None
        else law.affine.alpha(t)[:, None] * law.noise_part.base_mean
    )
    noisy = (sample.x - mean) / beta
    torch.testing.assert_close(noisy, x1 + sigma * sample.noise)
    reconstruction = net(t, sample.x)
    torch.testing.assert_close(
        loss.evaluate(field, sample), 0.5 * (reconstruction - x1).square().sum(1)
    )
    blurred = (reconstruction - noisy) / sigma**2
    torch.testing.assert_close(field.score(t, sample.x) * beta, blurred)
    conditional = (x1 - noisy) / sigma**2
    torch.testing.assert_close(
        loss.evaluate(field, sample), 0.5 * sigma**4 * (blurred - conditional).square().sum(1)
    )


def test_the_autoencoder_draws_each_of_its_levels():
    law = PLAIN["sbdm"]()
    field = tpf.DataPredictor(Net(2), law)
    levels = [0.1, 0.5, 2.0]
    loss = tpf.losses.DenoisingAutoencoderLoss(levels)
    t = loss.draw(field, torch.zeros(3_000, 2, dtype=F64), generator=gen()).t
    sigma, counts = NoiseLevel.at(law.part, t).sigma.mul(1e6).round().unique(return_counts=True)
    assert (sigma / 1e6).tolist() == pytest.approx(levels)
    assert float((counts / 3_000 - 1 / 3).abs().max()) < 4 * math.sqrt(2 / 9 / 3_000)
    with pytest.raises(ValueError, match=r"noise levels of Linear lie in .*got \[-1"):
        PLAIN["two-sided"]().part.time_of_sigma([-1.0])


# ------------------------------------------------------------------------- variational bound

LEVELS = torch.tensor([0.95, 0.8, 0.5, 0.3, 0.1], dtype=F64)


def chain(law: tpf.Process, x0: float, k: int, levels: Tensor = LEVELS):
    """Means of (x_{k-1}, x_k) given x_0; gain and variance of x_{k-1} given x_k too."""
    t = levels[[k - 1, k]]
    beta, square = law.affine.beta(t), law.noise_part.scale_sq(t)
    shift = (
        0.0 if law.noise_part.base_mean is None else law.affine.alpha(t) * law.noise_part.base_mean
    )
    a = beta[1] / beta[0]
    mean = shift + beta * x0
    cov = torch.stack(
        [torch.stack([square[0], a * square[0]]), torch.stack([a * square[0], square[1]])]
    )
    gain = cov[0, 1] / cov[1, 1]
    return mean, gain, cov[0, 0] - gain * cov[0, 1]


@pytest.mark.parametrize("process", PROCESSES)
def test_terms_are_the_divergences_of_the_gaussians(process):
    """½ w |d̂ - x_0|² against KL(q(x_{k-1}|x_k,x_0) | p(x_{k-1}|x_k)) of torch.distributions."""
    law, net = PROCESSES[process]((1,)), Net(1)
    field = tpf.DataPredictor(net, law)
    weight = tpf.losses.VariationalWeight(LEVELS)
    x0, normal = 0.7, torch.distributions.Normal
    for k in range(1, len(LEVELS)):
        t = LEVELS[k].expand(6)
        x1 = torch.full((6, 1), x0, dtype=F64)
        sample = law.sample(x1, t=t, generator=gen(k))
        given = tpf.DataLoss(weight=weight).evaluate(field, sample)
        prediction = net(t, sample.x)[:, 0]
        mean, gain, variance = chain(law, x0, k)
        q = normal(mean[0] + gain * (sample.x[:, 0] - mean[1]), variance.sqrt())
        posterior = []
        for x, d in zip(sample.x[:, 0], prediction, strict=True):
            m, g, v = chain(law, d, k)
            posterior.append(m[0] + g * (x - m[1]))
            torch.testing.assert_close(v, variance)
        p = normal(torch.stack(posterior), variance.sqrt())
        torch.testing.assert_close(
            given, torch.distributions.kl_divergence(q, p), rtol=1e-9, atol=1e-12
        )
    # Reconstruction: -log N(x_0; d̂, std²), std by default the noise in x_1.
    t = LEVELS[0].expand(6)
    sample = law.sample(torch.full((6, 1), x0, dtype=F64), t=t, generator=gen())
    for given in (None, 0.2):
        weight = tpf.losses.VariationalWeight(LEVELS, reconstruction_std=given)
        value = tpf.DataLoss(weight=weight).evaluate(field, sample)
        value = value + reconstruction_constant(weight, law.part, sample.x1)
        std = NoiseLevel.at(law.part, LEVELS[0]).sigma if given is None else given
        expected = -normal(net(t, sample.x)[:, 0], std).log_prob(torch.tensor(x0, dtype=F64))
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    # Prior matching.
    prior = law.start
    last = LEVELS[-1]
    mean = law.affine.beta(last) * x0
    if law.noise_part.base_mean is not None:
        mean = mean + law.affine.alpha(last) * law.noise_part.base_mean
    q = normal(mean, law.noise_part.scale(last))
    p = normal(prior.mean, prior.scale)
    kl = torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(prior_matching(weight, law, sample.x1), kl.expand(6))


@pytest.mark.parametrize("path", ["sbdm", "ddpm"])
def test_weights_of_ddpm_are_those_of_chang(path):
    """(2.10) in data form and (2.15) in score form, on the levels of a DDPM; Tweedie links them."""
    betas = torch.linspace(1e-3, 0.2, 60, dtype=F64)
    bars = torch.cumprod(1 - betas, 0)
    if path == "sbdm":  # β = t
        law, times = PLAIN["sbdm"](), bars.sqrt()
    else:
        steps = tpf.sdes.DDPMChain(betas)
        law, times = one_sided(steps), steps.training_times()
        torch.testing.assert_close(steps.alpha_bars[1:], bars)
        times = times.flip(0)
    weight = tpf.losses.VariationalWeight(times)
    a, before, after = 1 - betas[1:], bars[:-1], bars[1:]
    variance = (1 - a) * (1 - before) / (1 - after)
    data = before * (1 - a) ** 2 / (variance * (1 - after) ** 2)
    score = (1 - a) ** 2 / (variance * a)
    t = times[1:]
    torch.testing.assert_close(weight(law.part, t, "data"), data, rtol=1e-10, atol=0)
    torch.testing.assert_close(weight(law.part, t, "score"), score, rtol=1e-10, atol=0)
    # Tweedie: √ᾱ x̂_0 = x + (1 - ᾱ) ŝ, so that the two are one number.
    field = tpf.Score(Net(2), law)
    x1 = torch.randn(len(t), 2, generator=gen(), dtype=F64)
    sample = law.sample(x1, t=t, generator=gen(1))
    conditional = -sample.noise / (1 - after).sqrt()[:, None]
    error = field.score(t, sample.x) - conditional
    d = (sample.x + (1 - after)[:, None] * field.score(t, sample.x)) / after.sqrt()[:, None]
    by_score = 0.5 * score * error.square().sum(1)
    by_data = 0.5 * data * (d - x1).square().sum(1)
    torch.testing.assert_close(by_score, by_data, rtol=1e-9, atol=0)
    torch.testing.assert_close(tpf.ScoreLoss(weight=weight).evaluate(field, sample), by_score)
    torch.testing.assert_close(tpf.DataLoss(weight=weight).evaluate(field, sample), by_data)
    back = tpf.losses.VariationalWeight(times.flip(0))
    assert torch.equal(back.levels, weight.levels)


def expected_terms(law: tpf.Process, mu: float, s: float, levels: Tensor):
    """The terms in closed form, averaged over x_0 ~ N(mu, s²) in one dimension, exact field."""
    level = NoiseLevel.at(law.part, levels)
    posterior = s**2 / (1 + s**2 * level.snr)  # the variance of x_0 given x_k
    table = tpf.losses.VariationalWeight(levels).table(law.part)
    terms = 0.5 * table * posterior
    first = terms[0] + 0.5 * math.log(2 * math.pi) - 0.5 * table[0].log()
    return first, terms[1:]


def test_the_bound_has_its_closed_form_on_a_gaussian():
    law, mu, s, n = PLAIN["two-sided"]((1,)), 0.4, 0.8, 60_000
    data = tpf.Gaussian((1,), mu, s)
    exact = tpf.oracle(law, data)
    x = data.sample(n, generator=gen(), dtype=F64)
    found = tpf.likelihood.variational_bound(exact, x, LEVELS, generator=gen(1))
    first, terms = expected_terms(law, mu, s, LEVELS)
    for given, expected in [
        (found.reconstruction, first),
        *zip(found.denoising, terms, strict=True),
    ]:
        assert abs(float(given.mean() - expected)) < 4 * float(given.std()) / math.sqrt(n)
    assert torch.equal(found.nats, found.reconstruction + found.denoising.sum(0) + found.prior)
    assert torch.equal(found.log_prob, -found.nats)
    # Two data points of width 1/4: bits are nats over log 2, less log2 of the width.
    torch.testing.assert_close(found.bits(level_width=0.25), found.nats / math.log(2) + 2)
    again = tpf.likelihood.variational_bound(exact, x[:50], LEVELS, generator=gen(1), draws=400)
    single = tpf.likelihood.variational_bound(exact, x[:50], LEVELS, generator=gen(2))
    assert float((again.nats - single.nats).std()) > 0.01
    spread = (again.denoising - found.denoising[:, :50]).std()
    assert float(spread) > 0


@pytest.mark.parametrize("process", ["sbdm", "linear", "two-sided"])
def test_the_bound_tends_to_the_log_density(process):
    """The gap is positive and falls as 1/T, and to zero, as levels refine."""
    law, mu, s = PROCESSES[process]((1,)), 0.4, 0.8
    entropy = 0.5 * math.log(2 * math.pi * math.e * s**2)
    gaps = []
    for steps in (64, 128, 256, 512):
        sigmas = torch.logspace(-3, 3, steps + 1, dtype=F64)
        times = law.part.time_of_sigma(sigmas)
        first, terms = expected_terms(law, mu, s, times)
        x = torch.tensor([[mu + s], [mu - s]], dtype=F64)  # mean mu, second moment that of N
        prior = prior_matching(tpf.losses.VariationalWeight(times), law, x).mean()
        gaps.append(float(first + terms.sum() + prior) - entropy)
    assert all(gap > 0 for gap in gaps)
    rates = [math.log2(a / b) for a, b in pairwise(gaps)]
    assert all(abs(rate - 1) < 0.15 for rate in rates), rates
    assert abs(rates[-1] - 1) < 0.05
    assert abs(2 * gaps[-1] - gaps[-2]) < 0.05 * gaps[-2]  # extrapolated in 1/T: zero


@pytest.mark.parametrize("process", PROCESSES)
def test_the_loss_is_the_bound_in_the_mean(process):
    """One random level a row: over all levels, on the same draws, it is the bound itself."""
    law, net = PROCESSES[process]((2,)), Net(2)
    field = tpf.DataPredictor(net, law)
    loss = tpf.losses.VariationalLoss(LEVELS, reconstruction_std=0.2)
    x1 = torch.randn(9, 2, generator=gen(), dtype=F64)
    rows = [
        loss.evaluate(field, law.sample(x1, t=t, generator=gen(k))) for k, t in enumerate(LEVELS)
    ]
    weight = tpf.losses.VariationalWeight(LEVELS, reconstruction_std=0.2)
    total = prior_matching(weight, law, x1) + reconstruction_constant(weight, law.part, x1)
    for k, t in enumerate(LEVELS):
        sample = law.sample(x1, t=t, generator=gen(k))
        total = total + tpf.DataLoss(weight=weight).evaluate(field, sample)
    torch.testing.assert_close(torch.stack(rows).mean(0), total)
    # As drawn: the mean over many rows is that of the bound, within four standard errors.
    n = 20_000
    wide = x1[:1].expand(n, 2)
    drawn = loss(field, wide, generator=gen(5)).detach()
    bound = tpf.likelihood.variational_bound(
        field, wide, LEVELS, reconstruction_std=0.2, generator=gen(6)
    ).nats
    error = math.sqrt(float(drawn.var() + bound.var()) / n)
    assert abs(float(drawn.mean() - bound.mean())) < 4 * error


def test_a_transform_moves_the_bound_by_its_log_scale():
    law = PLAIN["sbdm"]()
    transform = tpf.Standardize(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5]))
    net = Net(2)
    plain = tpf.DataPredictor(net, law)
    carried = tpf.DataPredictor(net, law, transform=transform)
    y = torch.randn(11, 2, generator=gen(), dtype=F64)
    a = tpf.likelihood.variational_bound(plain, y, LEVELS, generator=gen(1))
    b = tpf.likelihood.variational_bound(carried, transform.invert(y), LEVELS, generator=gen(1))
    torch.testing.assert_close(b.nats, a.nats + math.log(1.5))


def test_half_precision_times_do_not_part_from_their_weights():
    """Levels are what float32 times are, or a bound at high SNR is off by the rounding of t."""
    law = PLAIN["sbdm"]((1,))
    data = tpf.Gaussian((1,), 0.0, 1.0)
    exact = tpf.oracle(law, data)
    times = law.part.time_of_sigma(torch.logspace(-3.3, 2, 40, dtype=F64))
    x = data.sample(20_000, generator=gen())
    found = tpf.likelihood.variational_bound(exact, x, times, generator=gen(1))
    assert found.nats.dtype == torch.float32
    first, terms = expected_terms(law, 0.0, 1.0, times.float().double())
    error = float(found.reconstruction.std()) / math.sqrt(len(x))
    assert abs(float(found.reconstruction.mean() - first)) < 4 * error
    for given, expected in zip(found.denoising[:8], terms[:8], strict=True):
        assert abs(float(given.mean() - expected)) < 4 * float(given.std()) / math.sqrt(len(x))


def test_refuses_bounds():
    law = PLAIN["sbdm"]()
    field = tpf.DataPredictor(Net(2), law)
    x = torch.zeros(3, 2, dtype=F64)
    with pytest.raises(ValueError, match=r"at least 2 times, got shape \(1,\)"):
        tpf.losses.VariationalLoss([0.5])
    with pytest.raises(ValueError, match="distinct times in"):
        tpf.losses.VariationalLoss([0.5, 0.7, 0.6])
    with pytest.raises(ValueError, match="distinct times in"):
        tpf.losses.VariationalLoss([0.5, 1.2])
    with pytest.raises(ValueError, match="reconstruction_std must be positive, got 0"):
        tpf.losses.VariationalLoss([0.5, 0.2], reconstruction_std=0.0)
    with pytest.raises(ValueError, match=r"finite at the first level.*leave out t = 1"):
        tpf.likelihood.variational_bound(field, x, [1.0, 0.5])
    decoder = tpf.DataPredictor(Net(2), tpf.Process(tpf.EncoderDecoder(), tpf.Gaussian((2,))))
    with pytest.raises(ValueError, match="fall from level to level"):
        tpf.likelihood.variational_bound(decoder, x, [0.9, 0.4, 0.3])
    noise = tpf.NoisePredictor(Net(2), law)
    with pytest.raises(tpf.ConversionError, match="data from noise is singular at t = 0"):
        tpf.likelihood.variational_bound(noise, x, [0.9, 0.5, 0.0])
    with pytest.raises(ValueError, match="draws must be a positive integer, got 0"):
        tpf.likelihood.variational_bound(field, x, [0.9, 0.5], draws=0)
    uniform = tpf.Velocity(
        Net(2), tpf.Process(tpf.Linear(tpf.Brownian()), tpf.distributions.Uniform((2,)))
    )
    with pytest.raises(ValueError, match="no Gaussian part beside x1"):
        tpf.likelihood.variational_bound(uniform, x, [0.9, 0.5])


# --------------------------------------------------------------------------------- training

MIXTURE = tpf.distributions.GaussianMixture(
    torch.tensor([[1.5, 0.0], [-1.0, 1.0], [-0.5, -1.5]]), 0.6
)


def mlp() -> tpf.networks.MLP:
    return tpf.networks.MLP(2, 64, 2, generator=gen(9))


TRAINED = {
    "likelihood": (
        tpf.NoisePredictor,
        tpf.NoiseLoss(
            weight=tpf.losses.LikelihoodWeight(),
            times=tpf.times.LogSNRTimes(margin=0.05),
            importance=True,
        ),
    ),
    "min-snr velocity": (tpf.Velocity, tpf.VelocityLoss(weight=tpf.losses.MinSNRWeight())),
    "autoencoder": (tpf.DataPredictor, tpf.losses.DenoisingAutoencoderLoss([0.3, 0.6, 1.2])),
    "variational": (
        tpf.DataPredictor,
        tpf.losses.VariationalLoss(1 / (1 + torch.logspace(-0.7, 0.5, 20)), reconstruction_std=0.5),
    ),
    "implicit": (
        tpf.Score,
        tpf.losses.ImplicitScoreLoss(
            weight=tpf.losses.UnitWeight("noise"), times=tpf.times.UniformTimes(margin=(0.0, 0.2))
        ),
    ),
    "sliced": (
        tpf.Score,
        tpf.losses.SlicedScoreLoss(
            weight=tpf.losses.UnitWeight("noise"), times=tpf.times.UniformTimes(margin=(0.0, 0.2))
        ),
    ),
}


@pytest.mark.parametrize("case", TRAINED)
def test_a_trainer_learns_the_score(case):
    """E|σ̂ŝ - σ̂s|² at noise levels 0.3 to 1.2 is below 5 % of E|ẑ|²."""
    kind, loss = TRAINED[case]
    law = PLAIN["linear"]()
    exact = tpf.oracle(law, MIXTURE)
    field = kind(mlp(), law)
    data = MIXTURE.sample(8_000, generator=gen(1), dtype=torch.float32)
    trainer = tpf.Trainer(field, loss, lr=1e-2, scheduler="cosine")
    trainer.fit(data, steps=600, batch_size=512, generator=gen(2), progress=False)
    held = MIXTURE.sample(4_000, generator=gen(3), dtype=torch.float32)
    with torch.no_grad():
        for t in law.part.time_of_sigma([0.3, 0.6, 1.2]):
            sample = law.sample(held, t=float(t), generator=gen(4))
            error = float(tpf.losses.squared_error(field, exact, sample, "noise").mean())
            assert error < 0.05 * 2, (float(t), error)


def test_a_weight_is_finite_where_there_is_no_signal_yet():
    """On an encoder-decoder β = 0 up to t = ½, and a regression must go on there."""
    law = tpf.Process(tpf.EncoderDecoder(), tpf.Gaussian((2,)))
    t = torch.tensor([0.1, 0.3, 0.49], dtype=F64)
    for form in ("velocity", "noise", "data"):
        assert bool(torch.isfinite(tpf.losses.MinSNRWeight()(law.part, t, form)).all())
