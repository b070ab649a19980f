"""What score-difference flow is said to be equal to, as identities (Weber 2023)."""

import math

import pytest
import torch

import transportflows as tpf
from transportflows._core.random import draw_key, mix, stream

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=DOUBLE)


def whitened(n, d, seed=0):
    """Rows whose moments are exactly 0 and Id."""
    x = normal(n, d, seed=seed)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.mT @ x / n)).mT


def mixture():
    means = torch.tensor([[-2.0, 0.0], [1.0, 1.0], [2.0, -1.5]])
    return tpf.distributions.GaussianMixture(
        means, torch.tensor([0.3, 0.5, 0.8]), weights=[0.2, 0.5, 0.3]
    )


# ----------------------------------------------------------------- denoising diffusion (33)-(35)


def ancestral(z, data, sigma, draws):
    """(33), written out: the reverse process of a variance-exploding diffusion."""
    for i in range(len(sigma) - 1):
        ratio = (sigma[i + 1] / sigma[i]) ** 2
        deviation = sigma[i + 1] * math.sqrt(1 - ratio)
        z = ratio * z + (1 - ratio) * data(z, sigma[i]) + deviation * draws[i + 1]
    return z


def draws_of(generator, steps, shape):
    key = draw_key(generator)
    return [torch.randn(shape, generator=stream(key, 0, i), dtype=DOUBLE) for i in range(steps)]


@pytest.mark.parametrize("steps", [2, 3, 40])
def test_with_the_noise_carried_along_the_flow_is_the_ancestral_sampler(steps):
    """Path by path: y_s + σ_s ε_s is z_s; the last step ends on the data prediction."""
    law = mixture()
    data = tpf.particles.SmoothedLaw(law).data
    schedule = tpf.particles.ExponentialSigma(8.0, 0.05)
    y = normal(100, 2)
    draws = draws_of(seeded(4), steps, (100, 2))
    sigma = schedule.table(steps).tolist()
    z = ancestral(y + sigma[0] * draws[0], data, sigma, draws)
    expected = data(z, sigma[-1])
    flow = tpf.particle_flow(
        y,
        direction=tpf.particles.DataDifference(law),
        steps=steps,
        sigma=schedule,
        step=tpf.particles.DiffusionStep(),
        noise="carried",
        generator=seeded(4),
    )
    torch.testing.assert_close(flow.x, expected, rtol=1e-10, atol=1e-10)
    fresh = tpf.particle_flow(
        y,
        direction=tpf.particles.DataDifference(law),
        steps=steps,
        sigma=schedule,
        step=tpf.particles.DiffusionStep(),
        generator=seeded(4),
    )
    assert float((fresh.x - expected).abs().max()) > (1e-3 if steps > 2 else 0)


def test_the_ancestral_flow_samples_the_data():
    """From far too wide a start, and any field of the library for its data prediction."""
    law = mixture()
    field = tpf.oracle(tpf.Process(tpf.OneSidedLinear(), shape=(2,)), law)
    flow = tpf.particle_flow(
        torch.zeros(2_000, 2, dtype=DOUBLE),
        direction=tpf.particles.DataDifference(field),
        steps=200,
        sigma=tpf.particles.ExponentialSigma(50.0, 0.02),
        step=tpf.particles.DiffusionStep(),
        noise="carried",
        generator=seeded(),
    )
    drawn = law.sample(2_000, generator=seeded(1), dtype=DOUBLE)
    assert tpf.metrics.energy_test(flow.x, drawn, generator=seeded()).p_value > 0.01


def variance_after_a_step(noise, seed, n=200_000):
    """Var(z_s) after one step from z_t ~ N(0, v + σ_t²), p = N(0, s²), in one dimension."""
    s, v, before, after = 1.5, 0.8, 2.0, 1.2
    k = s**2 / (s**2 + before**2)  # D(z) = k z
    rho = 1 - (after / before) ** 2
    flow = tpf.particle_flow(
        math.sqrt(v) * whitened(n, 1, seed=seed),
        direction=tpf.particles.DataDifference(tpf.Gaussian((1,), 0.0, s)),
        steps=2,
        sigma=lambda u: before + (after - before) * u,
        step=tpf.particles.DiffusionStep(),
        noise=noise,
        save_at=[0.5],
        generator=seeded(seed + 1),
    )
    y = flow.trajectory[0]
    draws = draws_of(seeded(seed + 1), 2, (n, 1))
    epsilon = draws[1]
    if noise == "carried":
        epsilon = math.sqrt(1 - rho) * draws[0] + math.sqrt(rho) * draws[1]
    z = y + after * epsilon
    slope = 1 - rho + rho * k
    of_y = slope**2 * v + (rho * k * before) ** 2
    gap = 2 * rho * (1 - rho) * k * before**2
    return z, of_y + after**2, gap


@pytest.mark.parametrize("seed", [0, 10])
@pytest.mark.parametrize("noise", ["fresh", "carried"])
def test_fresh_noise_is_narrower_by_the_covariance_it_breaks(noise, seed):
    """Fresh: Var(y_s) + σ_s². Carried: more by 2 ρ (1 - ρ) k σ_t²."""
    z, fresh, gap = variance_after_a_step(noise, seed)
    expected = fresh + (gap if noise == "carried" else 0.0)
    error = expected * math.sqrt(2 / len(z))
    assert abs(float(z.var()) - expected) < 4 * error
    assert gap > 20 * error  # so that the wrong one is seen


@pytest.mark.parametrize("eta", [0.5, 0.1])
def test_with_y_itself_and_a_constant_sigma_particles_collapse(eta):
    """On N(0, s²), D(z) = k z: the variance settles at η k² σ² / (1 - k)(2 - η (1 - k))."""
    s, sigma, n = 1.5, 1.0, 20_000
    k = s**2 / (s**2 + sigma**2)
    flow = tpf.particle_flow(
        s * whitened(n, 1),
        direction=tpf.particles.DataDifference(tpf.Gaussian((1,), 0.0, s)),
        steps=300,
        sigma=sigma,
        step=eta,
        generator=seeded(2),
    )
    expected = eta * (k * sigma) ** 2 / ((1 - k) * (2 - eta * (1 - k)))
    assert abs(float(flow.x.var()) - expected) < 4 * expected * math.sqrt(2 / n)
    assert expected < s**2 / 3


# ------------------------------------------------------------------------ KL and Fisher (5)-(9)


def gaussian_kl(mean, covariance, p):
    """KL(N(m, S) || p)."""
    other = p.covariance()
    ratio = torch.linalg.solve(other, covariance)
    shift = mean - p.mean.flatten()
    d = len(mean)
    trace = float(ratio.trace() + shift @ torch.linalg.solve(other, shift))
    return 0.5 * (trace - d - float(torch.linalg.slogdet(ratio).logabsdet))


def fisher(mean, covariance, p):
    """E_q |∇log p - ∇log q|² for two Gaussians."""
    inverse, other = torch.linalg.inv(covariance), torch.linalg.inv(p.covariance())
    slope, at_mean = inverse - other, -other @ (mean - p.mean.flatten())
    return float((slope @ covariance @ slope).trace() + at_mean.square().sum())


@pytest.mark.parametrize("sigma", [None, 1.0])
def test_kl_falls_at_each_step_at_the_rate_of_the_fisher_divergence(sigma):
    """Of an oracle pair of Gaussians. Of their smoothed laws it falls too."""
    spread = torch.tensor([[1.0, 0.0], [0.8, 0.4]])
    p = tpf.Gaussian((2,), torch.tensor([2.0, -1.0]), scale_tril=spread)
    level = sigma or 0.0
    extra = level**2 * torch.eye(2, dtype=DOUBLE)
    wide = torch.linalg.cholesky(p.covariance() + extra)
    smooth = tpf.Gaussian((2,), p.mean, scale_tril=wide)
    y = 2.0 * whitened(400, 2)

    def divergences(x):
        mean, covariance = x.mean(0), x.mT.cov(correction=0) + extra
        return gaussian_kl(mean, covariance, smooth), fisher(mean, covariance, smooth)

    found = {}
    for eta in (0.02, 0.01):
        flow = tpf.particle_flow(
            y,
            direction=tpf.particles.ScoreDifference(p),
            steps=50,
            sigma=sigma,
            step=eta,
            noise="none",
            save_at=torch.linspace(0, 1, 51),
        )
        values = [divergences(x) for x in flow.trajectory]
        kl = torch.tensor([v[0] for v in values], dtype=DOUBLE)
        assert bool((kl.diff() < 0).all())
        rate = values[0][1]
        found[eta] = float((kl[0] - kl[1]) / eta) / rate - 1
    if sigma is None:
        assert abs(found[0.01]) < 0.1
        assert found[0.02] / found[0.01] == pytest.approx(2.0, abs=0.25)  # an error of O(η)


def test_the_score_difference_is_the_steepest_direction():
    """(6) to (9) for mixtures in one dimension, by quadrature: dKL = -E_q[f · Δ], -F for f = Δ."""
    p = tpf.distributions.GaussianMixture(torch.tensor([[-1.5], [1.0]]), torch.tensor([0.6, 0.9]))
    q = tpf.distributions.GaussianMixture(torch.tensor([[-0.5], [2.5]]), torch.tensor([0.8, 0.5]))
    x = torch.linspace(-8, 9, 6_001, dtype=DOUBLE)[:, None]
    delta = tpf.particles.ScoreDifference(p, q)

    def move(y):
        return delta(y, tpf.particles.Swarm(y, y, None, 0.0))

    weights = q.log_prob(x).exp()

    def kl(f, eps):
        slope = torch.func.jvp(f, (x,), (torch.ones_like(x),))[1][:, 0]
        moved = x + eps * f(x)
        value = q.log_prob(x) - (1 + eps * slope).log() - p.log_prob(moved)
        return float(torch.trapezoid(weights * value, x[:, 0]))

    def rate(f):
        return (kl(f, 1e-4) - kl(f, -1e-4)) / 2e-4

    def size(f):
        return float(torch.trapezoid(weights * f(x)[:, 0].square(), x[:, 0])) ** 0.5

    divergence = size(move) ** 2
    assert rate(move) == pytest.approx(-divergence, rel=1e-5)
    for other in (torch.sin, lambda y: torch.tanh(y - 1), lambda y: move(y) + 0.5 * torch.cos(y)):
        inner = float(torch.trapezoid(weights * (other(x) * move(x))[:, 0], x[:, 0]))
        assert rate(other) == pytest.approx(-inner, rel=1e-4, abs=1e-6)
        assert -rate(other) / size(other) < divergence**0.5


# ----------------------------------------------- the probability flow of Langevin dynamics (3)-(4)


class OfLangevin(tpf.particles.Direction):
    """∇log p - ∇log q_t with q_t the law of Langevin dynamics toward N(0, 1), at time h·step.

    From a mixture q_0 it is one: means e^-t m, variances e^-2t v + 1 - e^-2t.
    """

    needs_sigma = False

    def __init__(self, law, h):
        super().__init__()
        self.law, self.h = law, h

    def at(self, time):
        fade = math.exp(-time)
        covariances = fade**2 * self.law.covariances + (1 - fade**2) * torch.eye(1, dtype=DOUBLE)
        return tpf.distributions.GaussianMixture(
            fade * self.law.means, weights=self.law.weights, covariances=covariances
        )

    def forward(self, z, swarm):
        return -z - tpf.particles.SmoothedLaw(self.at(self.h * swarm.step)).score(z)


def mixture_cdf(law, x):
    scales = law.covariances[:, 0, 0].sqrt()
    parts = 0.5 * (1 + torch.erf((x - law.means[:, 0]) / (scales * math.sqrt(2))))
    return parts @ law.weights


def test_the_flow_is_the_probability_flow_of_langevin_dynamics():
    """In one dimension a probability flow keeps every quantile: F_t(y_t) = F_0(y_0), to O(h)."""
    start = tpf.distributions.GaussianMixture(
        torch.tensor([[-3.0], [2.0]]), torch.tensor([0.5, 0.8])
    )
    y = torch.linspace(-4.5, 4.5, 181, dtype=DOUBLE)[:, None]
    errors = []
    for steps in (100, 200):
        h = 1.0 / steps
        direction = OfLangevin(start, h)
        flow = tpf.particle_flow(y, direction=direction, steps=steps, step=h)
        there = mixture_cdf(direction.at(1.0), flow.x)
        errors.append(float((there - mixture_cdf(start, y)).abs().max()))
    assert errors[1] < 0.004
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.3)


def test_langevin_chains_have_the_law_of_the_flow():
    """The marginals of dX = -X dt + √2 dW, and of the flow, which has no noise."""
    start = tpf.distributions.GaussianMixture(
        torch.tensor([[-3.0], [2.0]]), torch.tensor([0.5, 0.8])
    )
    x0 = start.sample(20_000, generator=seeded(), dtype=DOUBLE)
    h, steps = 0.01, 60
    flow = tpf.particle_flow(x0, direction=OfLangevin(start, h), steps=steps, step=h).x
    chain = tpf.langevin.langevin(lambda x: -x, x0, step_size=h, steps=steps, generator=seeded(1)).x
    for power in (1, 2, 3):
        a, b = flow**power, chain**power
        error = math.sqrt(float(a.var() + b.var()) / len(x0))
        bias = 0.02 * float(b.abs().mean())  # of steps of 0.01 in either
        assert abs(float(a.mean() - b.mean())) < 4 * error + bias


# -------------------------------------------------------------------------------------- MMD (43)


@pytest.mark.parametrize("batch_size", [None, 16])
def test_the_flow_of_normalised_mmd_is_the_score_difference_flow(batch_size):
    y, x = normal(50, 2), normal(60, 2, seed=1) + 6
    options = {
        "steps": 50,
        "sigma": tpf.particles.ModifiedCosineSigma(2.0, 0.7),
        "batch_size": batch_size,
    }
    flows = [
        tpf.particle_flow(y, x, direction=direction, generator=seeded(2), **options).x
        for direction in (
            tpf.particles.MMDGradient(normalized=True),
            tpf.particles.KernelDifference(),
        )
    ]
    torch.testing.assert_close(flows[0], flows[1], rtol=1e-8, atol=1e-8)


# ---------------------------------------------------------------- log-densities carried (26)-(27)


@pytest.mark.parametrize("divergence", ["exact", "trace"])
def test_the_density_along_an_oracle_flow_is_known(divergence):
    """Gaussians stay Gaussian, so log q_t at the particles is that of their moments."""
    p = tpf.Gaussian((2,), torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.5]))
    y = whitened(300, 2)
    errors = []
    for steps in (50, 100):
        found = tpf.particles.flow_with_log_density(
            y,
            log_prob=tpf.Gaussian((2,)),
            direction=tpf.particles.ScoreDifference(p),
            steps=steps,
            step=1 / steps,
            divergence=divergence,
        )
        x = found.solution.x
        moments = torch.linalg.cholesky(x.mT.cov(correction=0))
        exact = tpf.Gaussian((2,), x.mean(0), scale_tril=moments).log_prob(x)
        errors.append(float((found.log_prob - exact).abs().max()))
    if divergence == "exact":
        assert errors[1] < 1e-10
    else:
        assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.3)


@pytest.mark.parametrize(
    "direction",
    [
        tpf.particles.KernelDifference(),
        tpf.particles.MMDGradient(),
        tpf.particles.DataDifference(mixture()),
    ],
    ids=lambda d: type(d).__name__,
)
def test_each_step_is_a_map_with_its_own_jacobian(direction):
    """Against the Jacobian of the step, made by reverse mode, row by row."""
    y, x = normal(12, 2), normal(40, 2, seed=1) + 1
    sigma, eta = 0.8, 0.3
    found = tpf.particles.flow_with_log_density(
        y, x, log_prob=torch.zeros(12, dtype=DOUBLE), direction=direction, steps=1, sigma=sigma,
        step=eta, generator=seeded(3),
    )  # fmt: skip
    moved = found.solution.x
    again = tpf.particles.flow_with_log_density(
        y, x, log_prob=tpf.Gaussian((2,)), direction=direction, steps=1, sigma=sigma, step=eta,
        generator=seeded(3),
    )  # fmt: skip
    base = tpf.Gaussian((2,)).log_prob(y)
    torch.testing.assert_close(again.log_prob - base, found.log_prob)
    flow_key = draw_key(stream(mix(draw_key(seeded(3)), 0)))
    epsilon = torch.randn(12, 2, generator=stream(flow_key, 0, 0), dtype=DOUBLE)

    def one(row, i):
        rows = row[None]
        z = rows + sigma * epsilon[i : i + 1]
        swarm = tpf.particles.Swarm(rows, y, x, sigma, fused=False)
        return (rows + eta * direction(z, swarm))[0]

    for i in range(12):
        torch.testing.assert_close(one(y[i], i), moved[i], rtol=1e-9, atol=1e-9)
        jacobian = torch.autograd.functional.jacobian(lambda r, i=i: one(r, i), y[i])
        change = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(found.log_prob[i], -change, rtol=1e-8, atol=1e-9)


def test_along_a_loss_the_density_changes_by_its_laplacian():
    """(27): one step of -∇L with L = Σ x⁴/4 adds η ∇²L = 3 η |x|²."""
    y = normal(20, 3)
    found = tpf.particles.flow_with_log_density(
        y,
        log_prob=torch.zeros(20, dtype=DOUBLE),
        direction=Quartic(),
        steps=1,
        step=0.01,
        divergence="trace",
    )
    torch.testing.assert_close(found.log_prob, 0.03 * y.square().sum(1))


class Quartic(tpf.particles.Direction):
    """-∇ Σ x⁴/4, differentiable in forward mode."""

    needs_sigma = False

    def forward(self, z, swarm):
        return -(z**3)


@pytest.mark.parametrize("seed", [0, 1])
def test_hutchinson_estimates_the_trace(seed):
    y, x = normal(30, 4), normal(80, 4, seed=1) + 1
    options = {
        "log_prob": torch.zeros(30, dtype=DOUBLE), "sigma": 1.0, "steps": 1, "step": 0.3,
    }  # fmt: skip
    exact = tpf.particles.flow_with_log_density(
        y, x, divergence="trace", generator=seeded(seed), **options
    ).log_prob
    runs = tpf.particles.flow_with_log_density(
        y, x, divergence="hutchinson", probes=2_000, generator=seeded(seed), **options
    ).log_prob
    few = tpf.particles.flow_with_log_density(
        y, x, divergence="hutchinson", probes=1, generator=seeded(seed), **options
    ).log_prob
    spread = float((few - exact).std())
    assert spread > 1e-4
    assert float((runs - exact).abs().max()) < 6 * spread / math.sqrt(2_000)


def test_directions_that_are_gradients_carry_densities():
    """A step ``x + ½ Δ`` of a linear Δ takes N(0, Id) to a Gaussian that is known."""
    to_three, law = (lambda x: (x - 3).square().sum(1) / 2), tpf.Gaussian((2,))
    start, told = normal(6, 2), {"log_prob": law, "steps": 1, "step": 0.5}
    for direction in (
        tpf.particles.LossGradient(to_three),
        tpf.particles.LossGradient(lambda x: to_three(x).mean()),
        tpf.particles.DiscriminatorDifference(lambda x: -to_three(x)),
    ):
        found = tpf.particles.flow_with_log_density(start, direction=direction, **told)
        torch.testing.assert_close(found.solution.x, (start + 3) / 2)
        torch.testing.assert_close(
            found.log_prob, tpf.Gaussian((2,), 1.5, 0.5).log_prob(found.solution.x)
        )
    own, exact = (
        tpf.particles.flow_with_log_density(
            start, direction=tpf.particles.SteinDirection(score), **told
        )
        for score in (tpf.langevin.score_of(law.log_prob), law)
    )
    torch.testing.assert_close(own.log_prob, exact.log_prob)
    held = tpf.particles.LossGradient(lambda x: to_three(x.detach()))
    with pytest.raises(ValueError, match="autograd follows"):
        tpf.particles.flow_with_log_density(start, direction=held, **told)


def test_density_refusals():
    y, x = normal(10, 2), normal(20, 2)
    with pytest.raises(ValueError, match="unknown divergence"):
        tpf.particles.flow_with_log_density(
            y, x, sigma=1.0, log_prob=tpf.Gaussian((2,)), divergence="none"
        )
    with pytest.raises(ValueError, match="one number for each"):
        tpf.particles.flow_with_log_density(y, x, sigma=1.0, log_prob=torch.zeros(3))
    with pytest.raises(ValueError, match="give log_prob="):
        tpf.particles.flow_with_log_density(y, x, sigma=1.0)


# ------------------------------------------------------------------------- Hamiltonian Monte Carlo


@pytest.mark.parametrize("seed", [0, 1])
def test_hamiltonian_chains_keep_their_law(seed):
    """With steps so large that a third are refused, the mixture is kept; without refusals not."""
    law = tpf.distributions.GaussianMixture(torch.tensor([[-1.0], [1.5]]), torch.tensor([0.4, 0.7]))
    x = law.sample(20_000, generator=seeded(seed), dtype=DOUBLE)
    run = tpf.particles.hamiltonian(
        law, x, step_size=0.75, leapfrog=4, steps=10, generator=seeded(seed + 9)
    )
    assert 0.3 < float(run.acceptance.mean()) < 0.95
    expected = law.sample(20_000, generator=seeded(seed + 5), dtype=DOUBLE)
    for power in (1, 2, 4):
        a, b = run.x**power, expected**power
        error = math.sqrt(float(a.var() + b.var()) / len(x))
        assert abs(float(a.mean() - b.mean())) < 4 * error
    assert run.nfe == 41


@pytest.mark.parametrize("seed", [0, 1])
def test_without_refusals_the_law_is_that_of_the_shadow_energy(seed):
    """Leapfrog on N(0, v) keeps x²(1 - h²/4v)/2v + r²/2: a stationary variance v/(1 - h²/4v)."""
    v, h, n = 0.5, 0.8, 40_000
    expected = v / (1 - h**2 / (4 * v))
    x = math.sqrt(expected) * normal(n, 1, seed=seed)
    law = tpf.Gaussian((1,), 0.0, math.sqrt(v))
    run = tpf.particles.hamiltonian(
        law, x, step_size=h, leapfrog=3, steps=20, metropolis=False, generator=seeded(seed + 3)
    )
    assert abs(float(run.x.var()) - expected) < 5 * expected * math.sqrt(2 / n)
    assert abs(v - expected) > 20 * expected * math.sqrt(2 / n)
    exact = tpf.particles.hamiltonian(
        law, x, step_size=h, leapfrog=3, steps=20, generator=seeded(seed)
    )
    assert abs(float(exact.x.var()) - v) < 5 * v * math.sqrt(2 / n)


def test_hamiltonian_refusals_and_trajectories():
    law, x = tpf.Gaussian((2,)), normal(10, 2)
    run = tpf.particles.hamiltonian(
        law, x, step_size=0.1, steps=5, save_at=[0, 5], generator=seeded()
    )
    assert torch.equal(run.trajectory[0], x)
    assert torch.equal(run.trajectory[1], run.x)
    with pytest.raises(ValueError, match="needs the log-density"):
        tpf.particles.hamiltonian(lambda y: -y, x, step_size=0.1, steps=5)
    with pytest.raises(ValueError, match="step_size must be positive"):
        tpf.particles.hamiltonian(law, x, step_size=-0.1, steps=5)
    with pytest.raises(ValueError, match=r"numbers of steps in 0 \.\. 5"):
        tpf.particles.hamiltonian(law, x, step_size=0.1, steps=5, save_at=[7])
    with pytest.raises(ValueError, match="density is positive"):
        tpf.particles.hamiltonian(tpf.distributions.Uniform((2,)), x + 50, step_size=0.1, steps=5)
    with pytest.raises(tpf.solve.NonFiniteStateError, match="twice the smallest scale"):
        tpf.particles.hamiltonian(
            law, x, step_size=50.0, steps=100, metropolis=False, generator=seeded()
        )
