"""Forward SDEs: published formulas, marginals of simulated paths, reversal, chains, refusals."""

import math

import pytest
import torch

import transportflows as tpf
from families import SDES, mixture, name
from transportflows._core.autodiff import time_derivative

TAU = torch.linspace(0, 1, 101, dtype=torch.float64)
INSIDE = TAU[1:-1]


def chang(d: int = 2) -> tpf.distributions.GaussianMixture:
    eye = torch.eye(d, dtype=torch.float64)
    means = torch.cat([eye[:2], -eye[:2]]) if d == 2 else eye[:4]
    return tpf.distributions.GaussianMixture(means, 1.0)


# ------------------------------------------------------------------------- formulas of Song et al.


def _song(kind, tau, low, high):
    """Drift rate, g², and the mean's and the noise's scale, as printed by Song et al. (2021)."""
    if kind == "VE":
        sigma = low * (high / low) ** tau
        return 0 * tau, sigma**2 * 2 * math.log(high / low), torch.ones_like(tau), sigma
    beta = low + tau * (high - low)
    exponent = -0.25 * tau**2 * (high - low) - 0.5 * tau * low  # their equation 29
    mean = torch.exp(exponent)
    if kind == "VP":
        return -0.5 * beta, beta, mean, (1 - torch.exp(2 * exponent)).sqrt()
    integral = low * tau + 0.5 * (high - low) * tau**2
    g_sq = beta * (1 - torch.exp(-2 * integral))
    return -0.5 * beta, g_sq, mean, 1 - torch.exp(2 * exponent)


@pytest.mark.parametrize(
    ("sde", "kind", "low", "high"),
    [
        (tpf.VE(0.01, 10.0), "VE", 0.01, 10.0),
        (tpf.VP(), "VP", 0.1, 20.0),
        (tpf.SubVP(), "subVP", 0.1, 20.0),
        (tpf.sdes.OrnsteinUhlenbeck(8.0), "VP", 8.0, 8.0),
    ],
    ids=lambda p: name(p) if isinstance(p, tpf.sdes.ForwardSDE) else "",
)
def test_drift_diffusion_and_marginal_are_those_of_song_et_al(sde, kind, low, high):
    f, g_sq, a, sigma = _song(kind, TAU, low, high)
    x = torch.linspace(-3, 3, 101, dtype=torch.float64).reshape(-1, 1)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(sde.drift(TAU, x), f[:, None] * x, **close)
    torch.testing.assert_close(sde.diffusion(TAU), g_sq.clamp(min=0).sqrt(), **close)
    mean, scale = sde.marginal(TAU, x)
    torch.testing.assert_close(mean, a[:, None] * x, **close)
    torch.testing.assert_close(scale, sigma, **close)


@pytest.mark.parametrize("sde", SDES, ids=name)
def test_marginals_solve_the_moment_equations(sde):
    """``ȧ = f a`` and ``dσ²/dτ = 2 f σ² + g²``, by autodiff of the marginals alone."""
    a_dot = time_derivative(sde.a, INSIDE)
    square_dot = time_derivative(sde.sigma_sq, INSIDE)
    f, g_sq = sde.drift_rate(INSIDE), sde.diffusion_sq(INSIDE)
    close = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(a_dot, f * sde.a(INSIDE), **close)
    torch.testing.assert_close(square_dot, 2 * f * sde.sigma_sq(INSIDE) + g_sq, **close)


class VPByCoefficients(tpf.sdes.ForwardSDE):
    def drift_rate(self, tau):
        return -0.5 * (0.1 + 19.9 * tau)

    def diffusion(self, tau):
        return (0.1 + 19.9 * tau).sqrt()


class VEByCoefficients(tpf.sdes.ForwardSDE):
    initial_variance = 0.01**2

    def drift_rate(self, tau):
        return 0 * tau

    def diffusion_sq(self, tau):
        return 0.01**2 * 1e6**tau * 2 * math.log(1e3)


class Stepped(tpf.sdes.ForwardSDE):
    """A rate that jumps inside a panel of the quadrature."""

    tau_breakpoints = (0.3,)

    def drift_rate(self, tau):
        return torch.where(tau < 0.3, -1.0, -8.0).to(tau)

    def diffusion_sq(self, tau):
        return -2 * self.drift_rate(tau)


@pytest.mark.parametrize(
    ("own", "closed"),
    [(VPByCoefficients(), tpf.VP()), (VEByCoefficients(), tpf.VE(0.01, 10.0))],
    ids=["VP", "VE"],
)
def test_an_sde_written_by_its_coefficients_has_the_marginals(own, closed):
    close = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(own.a(TAU), closed.a(TAU), **close)
    torch.testing.assert_close(own.sigma_sq(TAU), closed.sigma_sq(TAU), **close)
    assert tpf.testing.check_interpolant(own).problems == []
    assert own.a(TAU.float()).dtype == torch.float32


def test_a_jump_of_the_rate_is_met_by_a_breakpoint():
    sde = Stepped()
    log_a = torch.where(TAU < 0.3, -TAU, -0.3 - 8 * (TAU - 0.3))
    torch.testing.assert_close(sde.a(TAU), log_a.exp(), rtol=1e-12, atol=0)
    torch.testing.assert_close(sde.sigma_sq(TAU), 1 - (2 * log_a).exp(), rtol=1e-11, atol=1e-15)


def test_a_subclass_keeps_no_stale_coefficient():
    class Slower(tpf.VP):
        def drift_rate(self, tau):
            return 0.5 * super().drift_rate(tau)

    class Own(tpf.VE):
        def sigma(self, tau):
            return 0.1 + 4 * tau

    tau = TAU[1:]
    torch.testing.assert_close(Slower().a(tau), tpf.VP().a(tau).sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(Own().diffusion_sq(tau), 8 * (0.1 + 4 * tau), rtol=1e-12, atol=0)
    assert tpf.testing.check_interpolant(Own()).problems == []


@pytest.mark.parametrize("sde", SDES, ids=name)
def test_a_family_of_the_library_needs_no_quadrature(sde, monkeypatch):
    """Marginals and coefficients are in closed form, and a class below keeps those it shares."""
    monkeypatch.setattr(type(sde), "_quadrature", None)
    for value in (sde.a, sde.a_dot, sde.sigma_sq, sde.sigma_sq_dot, sde.drift_rate):
        assert bool(torch.isfinite(value(TAU[1:-1])).all())


# -------------------------------------------------------------------------------- forward paths


@pytest.mark.parametrize("sde", [tpf.VE(0.01, 10.0), tpf.VP(), tpf.SubVP()], ids=name)
def test_simulated_paths_have_the_marginals(sde, generator):
    """20,000 paths, exact steps and Heun's, against draws of the marginal."""
    n, at = 20_000, [0.0, 0.1, 1.0]
    data = chang()
    x1 = data.sample(n, generator=generator, dtype=torch.float64)
    exact = sde.sample_path(x1, at, generator=generator)
    start = exact[0]
    heun = tpf.integrate(
        sde.drift,
        start,
        torch.linspace(0, 1, 301, dtype=torch.float64),
        scheme="heun",
        epsilon=lambda tau: sde.diffusion_sq(tau) / 2,
        save_at=at,
        generator=generator,
    ).trajectory
    p_values = []
    for k, tau in enumerate(at):
        fresh = data.sample(n, generator=generator, dtype=torch.float64)
        mean, scale = sde.marginal(torch.tensor(tau, dtype=torch.float64), fresh)
        marginal = mean + scale * torch.randn(n, 2, generator=generator, dtype=torch.float64)
        for path in (exact, heun):
            test = tpf.metrics.sliced_kolmogorov_test(path[k], marginal, generator=generator)
            p_values.append(test.p_value)
    assert float(tpf.metrics.holm(p_values).min()) > 0.01
    wrong = sde.sample_path(x1, at, generator=generator)[2] * 1.1
    assert tpf.metrics.sliced_kolmogorov_test(wrong, exact[2], generator=generator).p_value < 0.01


@pytest.mark.parametrize("sde", SDES, ids=name)
def test_paths_have_the_two_time_covariance(sde, generator):
    """``Cov(X_s, X_τ) = (a_τ/a_s) Var X_s`` given x1, within 5 standard errors."""
    n, s, tau = 100_000, 0.3, 0.8
    x = sde.sample_path(torch.full((n, 1), 2.0, dtype=torch.float64), [s, tau], generator=generator)
    times = torch.tensor([s, tau], dtype=torch.float64)
    a, square = sde.a(times), sde.sigma_sq(times)
    noise = x[:, :, 0] - 2.0 * a[:, None]
    products = noise[0] * noise[1]
    expected = a[1] / a[0] * square[0]
    assert (products.mean() - expected).abs() < 5 * products.std() / n**0.5


@pytest.mark.parametrize("sde", SDES, ids=name)
def test_paths_keep_the_variance_over_jumps_of_any_ratio(sde, generator):
    """``Var X_τ = σ²(τ)`` given x1 after each of several jumps, within 5 standard errors."""
    n, taus = 100_000, [0.05, 0.1, 0.2, 0.3, 0.45, 0.9]
    x1 = torch.full((n, 1), 2.0, dtype=torch.float64)
    path = sde.sample_path(x1, taus, generator=generator)[:, :, 0]
    times = torch.tensor(taus, dtype=torch.float64)
    ratio = (path - 2.0 * sde.a(times)[:, None]).square().mean(1) / sde.sigma_sq(times)
    assert float((ratio - 1).abs().max()) < 5 * (2 / n) ** 0.5


def test_a_path_starts_at_the_data_plus_the_initial_variance(generator):
    x1 = torch.zeros(50_000, 1, dtype=torch.float64)
    start = tpf.VE(0.5, 10.0).sample_path(x1, [0.0], generator=generator)[0]
    assert abs(float(start.std()) - 0.5) < 5 * 0.5 / (2 * 50_000) ** 0.5
    assert torch.equal(tpf.VP().sample_path(x1, [0.0], generator=generator)[0], x1)


# ------------------------------------------------------------------------------------ reversal


@pytest.mark.parametrize("sde", SDES, ids=name)
def test_the_sde_of_an_sde_is_itself(sde):
    again = tpf.sdes.InterpolantSDE(sde)
    torch.testing.assert_close(again.drift_rate(INSIDE), sde.drift_rate(INSIDE))
    torch.testing.assert_close(again.diffusion_sq(INSIDE), sde.diffusion_sq(INSIDE))


def test_the_sde_of_the_linear_path():
    """``f = -1/(1-τ)``, ``g² = 2τ/(1-τ)``, with a base or with a latent alike."""
    for path in (
        tpf.OneSidedLinear(),
        tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))),
    ):
        sde = tpf.sdes.InterpolantSDE(path)
        torch.testing.assert_close(sde.drift_rate(INSIDE), -1 / (1 - INSIDE))
        torch.testing.assert_close(sde.diffusion_sq(INSIDE), 2 * INSIDE / (1 - INSIDE))


@pytest.mark.parametrize("sde", SDES, ids=name)
def test_anderson_is_half_the_squared_diffusion(sde):
    process = tpf.Process(sde, shape=(2,))
    t = 1 - INSIDE
    schedule = tpf.solve.AndersonEpsilon(3.0).bound(process.noise_part, t[:, None], t)
    scale = process.noise_part.scale(t)
    torch.testing.assert_close(schedule.value(t, scale), 1.5 * sde.diffusion_sq(INSIDE))
    torch.testing.assert_close(
        schedule.over_noise_scale(t, scale), 1.5 * sde.diffusion_sq(INSIDE) / scale
    )


def test_anderson_makes_the_drift_of_the_reverse_sde():
    """``b + ε s = -f x + g² s`` at τ = 1 - t: Song et al. (2021), equation 6, in our clock."""
    sde = tpf.VP()
    process = tpf.Process(sde, shape=(2,))
    exact = tpf.oracle(process, chang())
    x = torch.linspace(-2, 2, 20, dtype=torch.float64).reshape(10, 2)
    for t in (0.1, 0.5, 0.9):
        time, tau = torch.tensor([t, 1 - t], dtype=torch.float64)
        score = exact.score(time, x)
        drift = exact.velocity(time, x) + 0.5 * sde.diffusion_sq(tau) * score
        expected = -sde.drift(tau, x) + sde.diffusion_sq(tau) * score
        torch.testing.assert_close(drift, expected, rtol=1e-10, atol=1e-10)


def _two_time_products(factor: float, n: int, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Products X_s X_t of paths of the reverse SDE, and of the forward SDE, at t = 0.75 and 1."""
    sde, data = (
        tpf.sdes.OrnsteinUhlenbeck(6.0),
        mixture([[-2.0], [1.0]], scale=0.5, weights=[0.3, 0.7]),
    )
    process = tpf.Process(sde, shape=(1,))
    exact = tpf.oracle(process, data)
    x1 = data.sample(n, generator=generator, dtype=torch.float64)
    forward = sde.sample_path(x1, [0.0, 0.25], generator=generator)
    start = exact.sample(0.0, n, generator=generator).double()
    reverse = tpf.sample(
        exact,
        start=start,
        epsilon=tpf.solve.AndersonEpsilon(factor),
        steps=100,
        save_at=[0.75, 1.0],
        generator=generator,
    ).trajectory
    return (forward[0] * forward[1])[:, 0], (reverse[0] * reverse[1])[:, 0]


def test_the_reverse_sde_has_the_law_of_the_forward_path(generator):
    """Rakitin, section 2.3: two-time covariances agree at ε = g²/2 and at no other ε."""
    n, errors = 20_000, []
    for factor in (1.0, 0.0, 0.3, 3.0):
        forward, reverse = _two_time_products(factor, n, generator)
        standard_error = ((forward.var() + reverse.var()) / n).sqrt()
        errors.append(float((forward.mean() - reverse.mean()).abs() / standard_error))
    assert errors[0] < 3.5
    assert min(errors[1:]) > 5


def test_the_prior_of_a_process_is_that_of_its_sde():
    for sde in SDES:
        start = tpf.Process(sde, shape=(3,)).start
        assert float(start.scale) == pytest.approx(sde.prior_scale)
        x = torch.ones(1, 3, dtype=torch.float64)
        expected = torch.distributions.Normal(0.0, sde.prior_scale).log_prob(x).sum(1)
        torch.testing.assert_close(sde.prior((3,)).log_prob(x), expected)


# --------------------------------------------------------------------------------------- churn


def test_churn_on_a_uniform_grid_is_a_relaxation_of_constant_rate(generator):
    process = tpf.Process(tpf.VP(), shape=(2,))
    widths = torch.full((50,), 0.02, dtype=torch.float64)
    stages = torch.linspace(0, 0.98, 50, dtype=torch.float64)[:, None]
    schedule = tpf.solve.ChurnEpsilon(8.0).bound(process.noise_part, stages, widths)
    scale = process.noise_part.scale(stages.reshape(-1))
    torch.testing.assert_close(schedule.value(stages.reshape(-1), scale), 8.0 * scale**2)
    capped = tpf.solve.ChurnEpsilon(1e3).bound(process.noise_part, stages, widths)
    limit = (math.sqrt(2) - 1) / 0.02
    torch.testing.assert_close(capped.value(stages.reshape(-1), scale), limit * scale**2)


def test_churn_adds_the_noise_of_karras_et_al_where_it_acts():
    """Per step, ``2 ε h = σ² ((1 + κ)² - 1)`` up to κ², on any grid, and none out of range."""
    process = tpf.Process(tpf.VE(0.01, 10.0), shape=(2,))
    t = tpf.solve.time_grid(40, spacing="late")
    schedule = tpf.solve.ChurnEpsilon(4.0, sigma_range=(0.05, 5.0)).bound(
        process.noise_part, t[:-1, None], t.diff()
    )
    sigma = process.noise_part.scale(t[:-1])
    added = 2 * schedule.value(t[:-1], sigma) * t.diff()
    kappa = torch.where((sigma >= 0.05) & (sigma <= 5.0), 4.0 / 40, 0.0)
    theirs = sigma**2 * ((1 + kappa) ** 2 - 1)
    assert float((added - theirs).abs().max() / theirs.max()) < 0.06
    assert torch.equal(added == 0, kappa == 0)


def test_churn_acts_on_a_range_of_the_noise_in_units_of_the_data():
    process = tpf.Process(tpf.VP(), shape=(2,))
    t = torch.linspace(0.2, 0.99, 41, dtype=torch.float64)
    schedule = tpf.solve.ChurnEpsilon(4.0, sigma_range=(0.5, 5.0)).bound(
        process.noise_part, t[:-1, None], t.diff()
    )
    sde, tau = process.interpolant, 1 - t[:-1]
    ratio = sde.sigma(tau) / sde.a(tau)
    acts = schedule.value(t[:-1], process.noise_part.scale(t[:-1])) > 0
    assert torch.equal(acts, (ratio >= 0.5) & (ratio <= 5.0))
    assert bool(acts.any())
    assert not bool(acts.all())


def test_churn_acts_where_all_is_noise():
    """At t = 0 of a linear path β = 0 and σ̂/β is infinite: in the whole range, and in no finite."""
    part = tpf.Process(tpf.OneSidedLinear(), shape=(2,)).part
    t, widths = torch.tensor([0.0, 0.5], dtype=torch.float64), torch.full((2,), 0.5)
    for high, first in ((math.inf, 1.0), (50.0, 0.0)):
        schedule = tpf.solve.ChurnEpsilon(1.0 / 2, sigma_range=(0.1, high))
        value = schedule.bound(part, t[:, None], widths).value(t, part.scale(t))
        assert value.tolist() == [first * 0.5, 0.125]


@pytest.mark.parametrize(
    "epsilon",
    [
        tpf.solve.NoiseScaleEpsilon(0.7),
        tpf.solve.NoiseVarianceEpsilon(0.7),
        tpf.solve.AndersonEpsilon(0.7),
        tpf.solve.ChurnEpsilon(4.0, sigma_range=(0.05, 5.0)),
    ],
    ids=lambda e: type(e).__name__,
)
def test_an_epsilon_over_the_noise_scale_is_their_ratio(epsilon):
    process = tpf.Process(tpf.VP(), shape=(2,))
    t = torch.linspace(0.1, 0.9, 21, dtype=torch.float64)
    schedule = epsilon.bound(process.noise_part, t[:-1, None], t.diff())
    scale = process.noise_part.scale(t[:-1])
    expected = schedule.value(t[:-1], scale) / scale
    torch.testing.assert_close(schedule.over_noise_scale(t[:-1], scale), expected)
    assert float(expected.max()) > 0


# --------------------------------------------------------------------------------------- chains


def test_a_chain_has_its_products_at_its_levels():
    betas = torch.linspace(0.005, 0.2, 60, dtype=torch.float64)
    chain = tpf.sdes.DDPMChain(betas)
    levels = torch.arange(61, dtype=torch.float64) / 60
    bars = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
    torch.testing.assert_close(chain.a(levels).square(), bars, rtol=1e-12, atol=0)
    torch.testing.assert_close(chain.alpha_bars, bars, rtol=1e-12, atol=0)
    a, square = chain.a(levels), chain.sigma_sq(levels)
    step = a[1:] / a[:-1]
    torch.testing.assert_close(step.square(), 1 - betas, rtol=1e-10, atol=0)
    torch.testing.assert_close(square[1:] - step**2 * square[:-1], betas, rtol=1e-9, atol=1e-12)
    assert (chain.diffusion_sq(TAU) > 0).all()  # the cubic between levels is monotone


def test_the_ve_chain_has_its_scales_at_its_levels():
    chain = tpf.sdes.VEChain(0.01, 10.0, levels=20)
    expected = torch.cat(
        [
            torch.zeros(1, dtype=torch.float64),
            torch.logspace(-2, 1, 20, dtype=torch.float64),
        ]
    )
    torch.testing.assert_close(chain.sigmas, expected, rtol=1e-12, atol=0)


def test_named_tables_are_those_of_their_papers():
    linear = tpf.sdes.DDPMChain("linear")
    assert float(linear.betas[0]) == pytest.approx(1e-4)
    assert float(linear.betas[-1]) == pytest.approx(0.02)
    cosine = tpf.sdes.DDPMChain("cosine", levels=100)
    bar = math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) ** 2
    bar /= math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert float(cosine.alpha_bars[50]) == pytest.approx(bar, rel=1e-10)
    # Ho et al.'s table is Song et al.'s VP(0.1, 20) as its levels become dense.
    levels = torch.arange(1, 1001, dtype=torch.float64) / 1000
    gap = (linear.alpha_bars[1:].log() - 2 * tpf.VP().a(levels).log()).abs()
    assert float(gap.max()) < 0.2
    fine = tpf.sdes.DDPMChain("linear", levels=10_000)
    levels = torch.arange(1, 10_001, dtype=torch.float64) / 10_000
    gap = (fine.alpha_bars[1:].log() - 2 * tpf.VP().a(levels).log()).abs()
    assert float(gap.max()) < 0.02


def test_times_of_a_chain_are_levels():
    chain = tpf.sdes.DDPMChain(levels=100)
    for spacing in ("uniform", "quadratic"):
        for steps in (1, 7, 60, 100):
            t = chain.times(steps, spacing=spacing)
            k = (1 - t) * 100
            assert float((k - k.round()).abs().max()) < 1e-9
            assert len(t) == steps + 1
            assert t[0] == 0
            assert t[-1] == 1
            assert (t.diff() > 0).all()
    assert chain.training_times().max() == pytest.approx(0.99)


# ------------------------------------------------------------------------------ the prior's bias


def test_the_bias_of_a_prior_is_what_the_design_measured(generator):
    """VE up to σ = 10 on Chang's mixture: -0.021 in variance by the flow, gone by the SDE."""
    process = tpf.Process(tpf.VE(0.01, 10.0), shape=(2,))
    exact = tpf.oracle(process, chang())
    bias = tpf.metrics.prior_bias(exact, 10_000, steps=50, generator=generator)
    # The variance v of a Gaussian is scaled by 100 / (100 + v).
    left = bias.flow.variance
    assert left.value < -0.01
    assert abs(left.value + 1.5 * 1.5 / 101.5) < 4 * left.standard_error
    assert abs(bias.reverse_sde.variance.value) < 2e-3
    # The start is N(0, 101.5) but for higher moments; its divergence from N(0, 100), in two
    # dimensions, is known.
    ratio = 101.5 / 100
    assert abs(bias.kl.value - (ratio - 1 - math.log(ratio))) < 4 * bias.kl.standard_error + 1e-5


def test_a_process_that_ends_in_noise_has_no_bias(generator):
    process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
    bias = tpf.metrics.prior_bias(tpf.oracle(process, chang()), 100, steps=5, generator=generator)
    assert bias.kl.value == pytest.approx(0, abs=1e-12)
    assert bias.flow.square_distance.value == 0


# -------------------------------------------------------------------------------------- refusals


class Vanishing(tpf.sdes.ForwardSDE):
    def a(self, tau):
        return torch.cos(torch.pi * tau)

    def sigma_sq(self, tau):
        return tau


class NoNoise(tpf.sdes.ForwardSDE):
    def a(self, tau):
        return torch.exp(-5 * tau)

    def sigma_sq(self, tau):
        return (tau - 0.5).clamp(min=0) * 4


class Nothing(tpf.sdes.ForwardSDE):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tpf.VE(1.0, 0.5), "sigma_min must be positive and below sigma_max, got 1.0 and"),
        (lambda: tpf.VE(1.0, 1.0), "below sigma_max"),
        (lambda: tpf.VE(0.0, 1.0), "positive"),
        (lambda: tpf.VP(-0.1, 20.0), "beta_min = -0.1"),
        (lambda: tpf.VP(20.0, 0.1), "nor fall"),
        (lambda: tpf.sdes.OrnsteinUhlenbeck(-1.0), "must not be negative"),
        (lambda: tpf.Process(tpf.VP(0.0, 1.0)), "Raise beta_max"),
        (lambda: tpf.Process(tpf.VE(0.01, 1.0)), "Raise sigma_max"),
        (lambda: tpf.Process(Vanishing()), r"a of Vanishing is .* at τ = 0\.5"),
        (lambda: tpf.Process(NoNoise()), "σ² of NoNoise is 0 at τ"),
        (lambda: tpf.Process(Nothing()), "write a\\(tau\\) and sigma_sq\\(tau\\), or drift_rate"),
        (lambda: tpf.sdes.InterpolantSDE(tpf.Mirror()), "variance cannot be negative"),
        (lambda: tpf.sdes.InterpolantSDE(tpf.Process(tpf.Linear())), "no Gaussian part beside x1"),
        (lambda: tpf.sdes.DDPMChain(levels=1), "at least 2 levels"),
        (lambda: tpf.sdes.DDPMChain(levels=10), "too few for the linear table"),
        (lambda: tpf.sdes.DDPMChain(torch.linspace(1e-4, 0.02, 100)), "Take more levels than 100"),
        (lambda: tpf.sdes.DDPMChain(torch.tensor([0.5, 1.0])), "β_2 is 1"),
        (lambda: tpf.sdes.DDPMChain("square"), "'linear', 'cosine' or a table"),
        (lambda: tpf.sdes.VEChain(levels=1), "at least 2 levels"),
        (lambda: tpf.sdes.DDPMChain(levels=100).times(101), r"1 \.\. 100"),
        (lambda: tpf.VP().sample_path(torch.zeros(3, 1), [0.5, 0.2]), "increasing"),
        (lambda: tpf.VP().sample_path(torch.zeros(3, 1), [0.5, 1.2]), r"in \[0, 1\]"),
        (lambda: tpf.solve.ChurnEpsilon(1.0, sigma_range=(2.0, 1.0)), "low < high"),
        (lambda: tpf.solve.AndersonEpsilon(-1.0), ">= 0"),
    ],
)
def test_what_cannot_be_is_refused_with_the_cure(make, message):
    with pytest.raises((ValueError, NotImplementedError), match=message):
        make()


def test_quadratic_times_of_a_chain_are_squares():
    squares = torch.arange(11, dtype=torch.float64).square() / 100
    times = tpf.sdes.DDPMChain(levels=100).times(10, spacing="quadratic")
    torch.testing.assert_close(times, 1 - squares.flip(0))


def test_the_signal_left_at_the_end_is_measured_against_the_noise_itself():
    """a(1)/σ(1), not a(1)/σ²(1), must not exceed ½."""
    tpf.VE(0.01, 2.05).check()
    with pytest.raises(ValueError, match=r"a/σ = 0.513"):
        tpf.VE(0.01, 1.95).check()


def test_a_schedule_of_diffusion_needs_a_one_sided_process():
    process = tpf.Process(
        tpf.Linear(tpf.Brownian()), tpf.Gaussian((2,)), coupling=tpf.MinibatchOT()
    )
    pair = tpf.FieldPair(velocity=tpf.networks.MLP(2), noise=tpf.networks.MLP(2), process=process)
    for schedule in (tpf.solve.AndersonEpsilon(), tpf.solve.ChurnEpsilon(5.0)):
        with pytest.raises(tpf.ConversionError, match="Epsilon"):
            tpf.sample(pair, 4, epsilon=schedule, steps=4)


def test_anderson_refuses_a_path_that_is_no_reversal():
    process = tpf.Process(tpf.Mirror(), shape=(2,))
    field = tpf.NoisePredictor(tpf.networks.MLP(2), process)
    with pytest.raises(ValueError, match="not the reverse of a forward SDE"):
        tpf.sample(field, start=torch.zeros(4, 2), epsilon=tpf.solve.AndersonEpsilon(), steps=8)


@pytest.mark.parametrize("sde", SDES, ids=name)
def test_a_field_on_an_sde_is_saved_and_loaded(sde, tmp_path):
    field = tpf.NoisePredictor(tpf.networks.MLP(2), tpf.Process(sde, shape=(2,)))
    field.save(tmp_path / "field.pt")
    again = tpf.load_field(tmp_path / "field.pt")
    torch.testing.assert_close(again.process.interpolant.a(TAU), sde.a(TAU))
    x = torch.zeros(3, 2)
    assert torch.equal(again.noise(torch.tensor(0.5), x), field.noise(torch.tensor(0.5), x))
