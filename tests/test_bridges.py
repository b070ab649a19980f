"""Bridges: exact ones against theory, simulation and solvers; fields of drifts; what is refused."""

import math
import warnings
from functools import partial

import pytest
import torch

import transportflows as tpf
from transportflows.bridges import (
    BridgeDrift,
    ExactBridge,
    ForwardDriftLoss,
    GaussianPairs,
    LightLoss,
    LightPotential,
    gaussian_bridge,
    path_divergence,
    potential_bridge,
)
from transportflows.bridges.drifts import bridge_variance

Mixture = tpf.distributions.GaussianMixture
F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(d, seed, spread=0.6):
    root = torch.randn(d, d, generator=seeded(seed), dtype=F64) * spread / d**0.5
    cov = root @ root.mT + 0.2 * torch.eye(d, dtype=F64)
    mean = torch.randn(d, generator=seeded(seed + 100), dtype=F64)
    return tpf.Gaussian((d,), mean, scale_tril=torch.linalg.cholesky(cov))


def mixture(k, d, seed, spread=0.6):
    parts = [gaussian(d, seed + j, spread) for j in range(k)]
    return Mixture(
        torch.stack([p.mean for p in parts]),
        covariances=torch.stack([p.covariance() for p in parts]),
        weights=torch.rand(k, generator=seeded(seed), dtype=F64) + 0.2,
    )


PAIRS = {
    "Gaussian": gaussian_bridge(gaussian(3, 0), gaussian(3, 7), 0.7),
    "mixtures": potential_bridge(mixture(2, 2, 3, 1.0), mixture(3, 2, 11, 1.0), 0.5),
}


# ------------------------------------------------------------------------------------ the plans


@pytest.mark.parametrize("a", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("d", [1, 4])
def test_a_gaussian_plan_is_the_bridges(d, a):
    """Its marginals are given, and its density is f(x0) exp(-|x1 - x0|²/2a) g(x1)."""
    base, data = gaussian(d, 1), gaussian(d, 2)
    pairs = gaussian_bridge(base, data, a)
    first, second, _ = pairs.blocks()
    torch.testing.assert_close(first[0], base.covariance(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(second[0], data.covariance(), rtol=1e-10, atol=1e-12)
    precision = torch.linalg.inv(pairs.covariances[0])
    eye = torch.eye(d, dtype=F64)
    torch.testing.assert_close(precision[:d, d:], -eye / a, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("a", [1e5, 1e7, 1e9])
def test_a_gaussian_plan_of_much_noise_keeps_its_digits(a):
    """``a C`` comes to ``A B`` as a grows: √(λ + a²/4) - a/2 is no difference of large numbers."""
    base, data = gaussian(3, 1), gaussian(3, 2)
    cross = gaussian_bridge(base, data, a).blocks()[2][0]
    limit = base.covariance() @ data.covariance()
    assert float((a * cross - limit).abs().max()) < 1e-4 * float(limit.abs().max())


def test_a_plan_of_potentials_has_their_density():
    """Up to one constant, at pairs far and near."""
    f, g, a = mixture(2, 2, 3), mixture(3, 2, 11), 0.5
    pairs = potential_bridge(f, g, a)
    assert len(pairs.weights) == 6
    joint = Mixture(pairs.means, covariances=pairs.covariances, weights=pairs.weights)
    x = 1.5 * torch.randn(50, 4, generator=seeded(), dtype=F64)
    x0, x1 = x.split(2, 1)
    asked = f.log_prob(x0) + g.log_prob(x1) - (x1 - x0).square().sum(1) / (2 * a)
    constant = joint.log_prob(x) - asked
    torch.testing.assert_close(constant, constant[:1].expand(50), rtol=0, atol=1e-9)


def test_a_plan_of_potentials_is_what_the_solver_finds():
    """The library's certified solver between 2,000 draws of either end, regularisation 2a."""
    pairs = PAIRS["mixtures"]
    x0, x1 = pairs.sample(2000, generator=seeded(1), dtype=F64)
    y = x1[torch.randperm(2000, generator=seeded(2))]
    flat = torch.full((2000,), 1 / 2000, dtype=F64)
    plan = tpf.plans.entropic_plan(x0, y, flat, flat, epsilon=2 * pairs.variance)
    joint = plan.x_potential[:, None] + plan.y_potential - torch.cdist(x0, y).square()
    pi = (joint / plan.epsilon).exp() / 2000**2
    cross = (pi.sum(1) @ x0).outer(pi.sum(0) @ y)
    found = x0.mT @ pi @ y - cross
    exact = sum(
        w * (c + torch.outer(m[:2], m[2:]))
        for w, c, m in zip(pairs.weights, pairs.blocks()[2], pairs.means, strict=True)
    )
    mean = pairs.weights @ pairs.means
    exact = exact - torch.outer(mean[:2], mean[2:])
    torch.testing.assert_close(found, exact, rtol=0.0, atol=0.12 * float(exact.abs().max()))
    independent = gaussian_bridge(gaussian(3, 0), gaussian(3, 7), 1e6)
    assert float(independent.blocks()[2].abs().max()) < 1e-3


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_drawn_and_conditioned_as_their_law_says(name):
    pairs = PAIRS[name]
    x0, x1 = pairs.sample(200_000, generator=seeded(4), dtype=F64)
    both = torch.cat([x0, x1], 1)
    mean = pairs.weights @ pairs.means
    apart = pairs.means - mean
    cov = torch.einsum("k,kij->ij", pairs.weights, pairs.covariances)
    cov = cov + torch.einsum("k,ki,kj->ij", pairs.weights, apart, apart)
    torch.testing.assert_close(both.mean(0), mean, rtol=0, atol=0.02)
    torch.testing.assert_close(torch.cov(both.mT), cov, rtol=0, atol=0.03)
    weights, means, covs = pairs.given_start(x0[:20])
    joint = Mixture(pairs.means, covariances=pairs.covariances, weights=pairs.weights)
    for k in range(20):
        law = Mixture(means[k], covariances=covs, weights=weights[k])
        asked = joint.log_prob(both[k : k + 1]) - pairs.base.log_prob(x0[k : k + 1])
        torch.testing.assert_close(law.log_prob(x1[k : k + 1]), asked, rtol=0, atol=1e-9)


# ----------------------------------------------------------------------------------- the fields


@pytest.mark.parametrize("path", ["bridge", "trigonometric", "no latent"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_exact_field_obeys_the_continuity_equation(name, path):
    """``∂t log ρ + b·s + ∇·b = 0``, with ρ_t the mixture of its components, at inner times."""
    pairs = PAIRS[name]
    interpolant = {
        "bridge": tpf.Linear(tpf.Brownian(pairs.variance)),
        "trigonometric": tpf.Trigonometric(tpf.interpolants.SineSquared()),
        "no latent": tpf.Linear(),
    }[path]
    process = tpf.Process(interpolant, base=pairs.base, coupling=tpf.Paired())
    field = ExactBridge(pairs, process)
    a, b, c = pairs.blocks()
    d = pairs.d

    def log_density(t, x):
        al, be = interpolant.alpha(t), interpolant.beta(t)
        cov = al**2 * a + be**2 * b + al * be * (c + c.mT)
        cov = cov + interpolant.gamma_sq(t) * torch.eye(d, dtype=F64)
        mean = al * pairs.means[:, :d] + be * pairs.means[:, d:]
        logs = [
            torch.distributions.MultivariateNormal(m, s).log_prob(x)
            for m, s in zip(mean, cov, strict=True)
        ]
        return (torch.stack(logs, -1) + pairs.weights.log()).logsumexp(-1)

    x = torch.randn(4, d, generator=seeded(5), dtype=F64)
    for time in (0.15, 0.5, 0.9):
        t = torch.tensor(time, dtype=F64, requires_grad=True)
        now = t.detach()
        y = x.clone().requires_grad_()
        dt = [torch.autograd.grad(log_density(t, x[k]), t)[0] for k in range(4)]
        (score,) = torch.autograd.grad(log_density(t, y).sum(), y)
        torch.testing.assert_close(field.score(t.detach(), x), score, rtol=0, atol=1e-9)
        velocity = field.velocity(now, x)
        divergence = torch.zeros(4, dtype=F64)
        for k in range(pairs.d):
            way = torch.eye(pairs.d, dtype=F64)[k].expand_as(x)
            moved = torch.func.jvp(partial(field.velocity, now), (x,), (way,))[1]
            divergence += moved[:, k]
        total = torch.stack(dt) + (velocity * score).sum(1) + divergence
        torch.testing.assert_close(total, torch.zeros(4, dtype=F64), rtol=0, atol=1e-8)
        rows = field.velocity(torch.full((4,), time, dtype=F64), x)
        torch.testing.assert_close(rows, velocity, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", PAIRS)
def test_velocity_and_drifts_are_the_conditional_means(name):
    """By regression of draws: b on ẋ, and b ± (a/2) s on what is ahead and behind."""
    pairs = PAIRS[name]
    field = ExactBridge(pairs)
    x0, x1 = pairs.sample(400_000, generator=seeded(6), dtype=F64)
    a = pairs.variance
    for time in (0.2, 0.7):
        sample = field.process.sample(x1, x0=x0, t=time, generator=seeded(7))
        t = torch.tensor(time, dtype=F64)
        b, s = field.velocity(t, sample.x), field.score(t, sample.x)
        targets = {
            "velocity": (b, sample.velocity),
            "forward": (b + 0.5 * a * s, (x1 - sample.x) / (1 - time)),
            "backward": (b - 0.5 * a * s, (sample.x - x0) / time),
        }
        tests = torch.cat([torch.ones(len(x0), 1, dtype=F64), sample.x, sample.x.sin()], 1)
        for found, target in targets.values():
            moment = tests.mT @ (found - target) / len(x0)
            spread = (found - target).std() * tests.square().mean().sqrt() / len(x0) ** 0.5
            assert float(moment.abs().max()) < 6 * float(spread)


@pytest.mark.parametrize("epsilon", [0.0, 0.25, 1.0])
def test_every_epsilon_has_the_marginals_and_its_own_the_plan(epsilon):
    pairs = PAIRS["mixtures"]
    field = ExactBridge(pairs)
    x0, x1 = pairs.sample(10_000, generator=seeded(8))
    solution = tpf.sample(field, start=x0, epsilon=epsilon, steps=60, generator=seeded(9))
    torch.testing.assert_close(solution.x.mean(0), x1.mean(0), rtol=0, atol=0.04)
    torch.testing.assert_close(torch.cov(solution.x.mT), torch.cov(x1.mT), rtol=0, atol=0.06)
    cross = torch.cov(torch.cat([x0, solution.x], 1).mT)[:2, 2:]
    exact = torch.cov(torch.cat([x0, x1], 1).mT)[:2, 2:]
    off = float((cross - exact).abs().max())
    assert off < 0.04 if epsilon == pairs.variance / 2 else off > 0.05


def drifts(pairs, which="both"):
    exact = ExactBridge(pairs)
    half = 0.5 * pairs.variance

    def forward(t, x):
        return exact.velocity(t, x) + half * exact.score(t, x)

    def backward(t, x):
        return exact.velocity(t, x) - half * exact.score(t, x)

    nets = {"forward": forward, "backward": backward}
    nets = nets if which == "both" else {which: nets[which]}
    return BridgeDrift(**nets, process=exact.process), exact


def test_both_drifts_give_all_quantities():
    field, exact = drifts(PAIRS["mixtures"])
    x = torch.randn(6, 2, generator=seeded(1), dtype=F64)
    for time in (0.1, 0.6):
        t = torch.tensor(time, dtype=F64)
        for name in ("velocity", "score", "noise", "mean_velocity"):
            found, asked = field.quantity(name, t, x), exact.quantity(name, t, x)
            torch.testing.assert_close(found, asked, rtol=0, atol=1e-10)
        ahead = x + (1 - time) * field.predict(t, x)[0]
        torch.testing.assert_close(field.data(t, x), ahead)


@pytest.mark.filterwarnings("ignore::transportflows.bridges.PathLawWarning")
@pytest.mark.parametrize("scheme", ["euler_maruyama", "heun"])
@pytest.mark.parametrize("epsilon", [0.0, 0.25, 0.6])
@pytest.mark.parametrize("times", [(0.0, 1.0), (1.0, 0.0)])
def test_drifts_are_sampled_like_the_exact_field(epsilon, times, scheme):
    if epsilon == 0 and scheme == "euler_maruyama":
        scheme = "euler"
    field, _ = drifts(PAIRS["mixtures"])
    x0, x1 = PAIRS["mixtures"].sample(3000, generator=seeded(8))
    start, end = (x0, x1) if times[0] == 0 else (x1, x0)
    x = tpf.sample(
        field, start=start, epsilon=epsilon, steps=50, t=times, scheme=scheme, generator=seeded(2)
    ).x
    torch.testing.assert_close(x.mean(0), end.mean(0), rtol=0, atol=0.08)
    torch.testing.assert_close(torch.cov(x.mT), torch.cov(end.mT), rtol=0, atol=0.12)


def test_an_epsilon_of_zero_needs_no_gaussian_part():
    """A schedule that is zero is an ODE, and is never bound to the process."""
    exact = ExactBridge(PAIRS["mixtures"])
    x0 = torch.randn(5, 2, generator=seeded(1))
    zero = tpf.solve.AndersonEpsilon(0.0)
    for field in (exact, drifts(PAIRS["mixtures"])[0]):
        found = tpf.sample(field, start=x0, epsilon=zero, steps=5).x
        assert torch.equal(found, tpf.sample(field, start=x0, steps=5).x)


def test_another_epsilon_is_told():
    """Of learned and of exact bridges, at the line of the script that samples."""
    exact = ExactBridge(PAIRS["mixtures"])
    for field in (drifts(PAIRS["mixtures"])[0], exact):
        with warnings.catch_warnings():
            warnings.simplefilter("error", tpf.bridges.PathLawWarning)
            for epsilon in (0.0, 0.25):
                tpf.sample(field, 3, epsilon=epsilon, steps=2)
        with pytest.warns(tpf.bridges.PathLawWarning, match=r"epsilon=0\.25 for the") as told:
            tpf.sample(field, 3, epsilon=0.3, steps=2)
        assert told[0].filename == __file__
    other = tpf.Process(tpf.Linear(tpf.Brownian(0.1)), base=exact.pairs.base, coupling=tpf.Paired())
    with warnings.catch_warnings():
        warnings.simplefilter("error", tpf.bridges.PathLawWarning)
        tpf.sample(ExactBridge(PAIRS["mixtures"], other), 3, epsilon=0.3, steps=2)


def test_another_epsilon_is_told_of_a_plan_too():
    """Once a solve; not with pairs that are of no bridge, nor for the ODE."""
    draws = seeded()
    x0, x1 = torch.randn(20, 2, generator=draws), torch.randn(30, 2, generator=draws) + 3
    nets = [tpf.networks.MLP(2, width=8, depth=1, generator=draws) for _ in range(2)]

    def pair(**options):
        plan = tpf.couplings.TransportPlan(x0, x1, **options)
        process = tpf.Process(tpf.Linear(tpf.Brownian(0.5)), coupling=plan)
        return tpf.FieldPair(mean_velocity=nets[0], noise=nets[1], process=process)

    with pytest.warns(tpf.bridges.PathLawWarning, match=r"epsilon=0\.25 for") as told:
        tpf.sample(pair(), 3, epsilon=0.3, steps=4)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", tpf.bridges.PathLawWarning)
        for epsilon in (0.0, 0.25, tpf.solve.UnlimitedEpsilon(0.25)):
            tpf.sample(pair(), 3, epsilon=epsilon, steps=4)
        tpf.sample(pair(regularisation=0.1), 3, epsilon=0.3, steps=4)


def test_one_drift_goes_its_own_way_and_no_other():
    pairs = PAIRS["mixtures"]
    x0, x1 = pairs.sample(6_000, generator=seeded(8))
    forward, _ = drifts(pairs, "forward")
    backward, _ = drifts(pairs, "backward")
    there = tpf.sample(forward, start=x0, epsilon=0.25, steps=50, generator=seeded(1)).x
    back = tpf.sample(
        backward, start=x1, epsilon=0.25, t=(1.0, 0.0), steps=50, generator=seeded(1)
    ).x
    both = torch.cov(torch.cat([x0, x1], 1).mT)
    for one, other in ((x0, there), (back, x1)):
        found = torch.cov(torch.cat([one, other], 1).mT)
        torch.testing.assert_close(found, both, rtol=0, atol=0.08)
    for call in (
        lambda: tpf.sample(forward, start=x0, epsilon=0.3),
        lambda: tpf.sample(forward, start=x0),
        lambda: tpf.sample(forward, start=x1, epsilon=0.25, t=(1.0, 0.0)),
        lambda: forward.velocity(torch.tensor(0.5), x0),
    ):
        with pytest.raises(tpf.ConversionError, match=r"sample\(field, epsilon=0.25\)"):
            call()
    with pytest.raises(tpf.ConversionError, match=r"epsilon=0.25, t=\(1.0, 0.0\)"):
        tpf.sample(backward, start=x0, epsilon=0.25)


def test_the_other_network_is_not_called_at_the_bridges_own_epsilon():
    a = 0.3
    process = tpf.Process(
        tpf.Linear(tpf.Brownian(a)), base=tpf.Gaussian((2,)), coupling=tpf.Paired()
    )

    def never(t, x):
        raise AssertionError

    field = BridgeDrift(forward=lambda t, x: -x, backward=never, process=process)
    assert tpf.sample(field, 4, epsilon=a / 2, steps=7).x.shape == (4, 2)


def test_the_drifts_are_learned():
    """A linear network against the exact drift, which is linear, at inner times and at the ends."""
    pairs = gaussian_bridge(gaussian(2, 0), gaussian(2, 7), 0.7)
    exact = ExactBridge(pairs)

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(
                torch.nn.Linear(1, 32), torch.nn.SiLU(), torch.nn.Linear(32, 6)
            )

        def forward(self, t, x):
            made = self.inner(t[:, None]).view(-1, 2, 3)
            return (made[..., :2] @ x[..., None])[..., 0] + made[..., 2]

    torch.manual_seed(0)
    field = BridgeDrift(forward=Linear(), backward=Linear(), process=exact.process)
    x0, x1 = pairs.sample(50_000, generator=seeded(1))
    trainer = tpf.Trainer(field, lr=3e-3)
    trainer.fit((x0, x1), steps=1500, batch_size=1024, generator=seeded(2), progress=False)
    for time in (0.02, 0.5, 0.98):
        t = torch.full((500,), time)
        x = exact.process.sample(x1[:500], x0=x0[:500], t=time, generator=seeded(3)).x
        b, s = exact.velocity(t, x), exact.score(t, x)
        f, g = field.predict(t, x)
        for found, asked in ((f, b + 0.35 * s), (g, b - 0.35 * s)):
            error = float((found - asked).square().mean().sqrt())
            assert error < (0.15 if time == 0.5 else 0.4)  # of 1.5 to 1.8
    assert isinstance(trainer.loss, tpf.losses.SumLoss)


def test_the_loss_is_the_weighted_regression():
    process = PAIRS["mixtures"]
    field, _ = drifts(process, "forward")
    x0, x1 = process.sample(64, generator=seeded(1), dtype=F64)
    loss = ForwardDriftLoss()
    sample = loss.draw(field, (x0, x1), generator=seeded(3))
    wide = sample.t[:, None]
    target = (sample.x1 - sample.x) / (1 - wide)
    error = 0.5 * (1 - sample.t) * (field.predict(sample.t, sample.x)[0] - target).square().sum(1)
    torch.testing.assert_close(loss.evaluate(field, sample), error, rtol=1e-8, atol=1e-10)


def test_a_field_of_drifts_is_saved_and_loaded(tmp_path):
    process = tpf.Process(
        tpf.Linear(tpf.Brownian(0.5)), base=tpf.Gaussian((2,)), coupling=tpf.Paired()
    )
    net = [tpf.networks.MLP(2, 8, 1, generator=seeded(k)) for k in range(2)]
    field = BridgeDrift(forward=net[0], backward=net[1], process=process)
    field.save(tmp_path / "bridge.pt")
    other = tpf.load_field(tmp_path / "bridge.pt")
    x = torch.randn(3, 2, generator=seeded())
    for one, two in zip(
        field.predict(torch.tensor(0.3), x), other.predict(torch.tensor(0.3), x), strict=True
    ):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["drifts", "forward", "pair"])
def test_the_divergence_of_paths_is_girsanovs(kind):
    """A drift that is off by a constant c has |c|²/2a, whatever the field is made of."""
    pairs = PAIRS["mixtures"]
    a, c = pairs.variance, torch.tensor([0.3, -0.2])
    exact = ExactBridge(pairs)

    def forward(t, x):
        return exact.velocity(t, x) + 0.5 * a * exact.score(t, x) + c

    nets = {
        "drifts": lambda: BridgeDrift(
            forward=forward, backward=lambda t, x: 0 * x, process=exact.process
        ),
        "forward": lambda: BridgeDrift(forward=forward, process=exact.process),
        "pair": lambda: tpf.FieldPair(
            velocity=lambda t, x: exact.velocity(t, x) + c, score=exact.score,
            process=exact.process,
        ),
    }  # fmt: skip
    found = path_divergence(nets[kind](), pairs, 2000, generator=seeded(1))
    asked = float(c.square().sum()) / (2 * a)
    assert found.value == pytest.approx(asked, rel=1e-3)
    assert float(found.by_time.sum()) == pytest.approx(found.value, rel=1e-6)
    assert found.standard_error < 1e-3
    other = gaussian_bridge(tpf.Gaussian((2,)), tpf.Gaussian((2,)), 0.7)
    with pytest.raises(ValueError, match=r"variance 0\.5, and the pairs of 0\.7"):
        path_divergence(nets[kind](), other)


# ------------------------------------------------------------------------------ the light bridge


def light(d=2, a=0.7, k=3):
    net = LightPotential((d,), a, k, generator=seeded(0)).double()
    with torch.no_grad():
        net.log_spreads += 0.5 * torch.randn(k, d, generator=seeded(1), dtype=F64)
        net.logits += torch.randn(k, generator=seeded(2), dtype=F64)
    return net


def test_the_light_plan_and_drift_are_those_of_its_potential():
    """By quadrature on a grid of x1: c(x0), the law given x0, and the drift up to t = 1."""
    net, a = light(), 0.7
    axis = torch.linspace(-12, 12, 601, dtype=F64)
    x1, cell = torch.cartesian_prod(axis, axis), 0.04**2
    x = torch.tensor([[0.3, -1.2]], dtype=F64)
    with torch.no_grad():
        log_v = net.log_potential(x1)
        logs = log_v + x1 @ x[0] / a
        normaliser = logs.logsumexp(0) + math.log(cell)
        torch.testing.assert_close(net.log_normaliser(x)[0], normaliser, rtol=0, atol=1e-8)
        weights, means, variances = net.given_start(x)
        law = Mixture(means[0], covariances=torch.diag_embed(variances), weights=weights[0])
        some = x1[::7919]
        asked = (logs - normaliser)[::7919]
        torch.testing.assert_close(law.log_prob(some), asked, rtol=0, atol=1e-8)
        for time in (0.0, 0.4, 0.995):
            near = (x1 - x).square().sum(1) / (2 * a * (1 - time))
            w = (log_v + x1.square().sum(1) / (2 * a) - near).softmax(0)
            asked = (w @ x1 - x[0]) / (1 - time)
            found = net(torch.tensor(time, dtype=F64), x)[0]
            torch.testing.assert_close(found, asked, rtol=1e-6, atol=1e-6)
        ends = net.end(x.expand(40_000, 2), generator=seeded(1))
    mean = (weights[..., None] * means).sum(1)[0]
    torch.testing.assert_close(ends.mean(0), mean, rtol=0, atol=0.03)


def test_the_light_drift_reaches_what_its_plan_says():
    net = light()
    process = tpf.Process(tpf.Linear(tpf.Brownian(0.7)), base=tpf.Gaussian((2,)))
    field = BridgeDrift(forward=net, process=process)
    x0 = torch.randn(4000, 2, generator=seeded(3), dtype=F64)
    x = tpf.sample(field, start=x0, epsilon=0.35, steps=60, generator=seeded(1)).x
    once = net.end(x0, generator=seeded(2))
    for one, other in ((x.mean(0), once.mean(0)), (torch.cov(x.mT), torch.cov(once.mT))):
        torch.testing.assert_close(one, other, rtol=0, atol=0.12)
    cross = [torch.cov(torch.cat([x0, y], 1).mT)[:2, 2:] for y in (x, once)]
    torch.testing.assert_close(cross[0], cross[1], rtol=0, atol=0.12)


def test_the_light_loss_is_least_at_the_bridge_and_finds_it():
    base = Mixture(torch.zeros(1, 2), 1.0)
    ends = Mixture(torch.tensor([[2.0, 0.0], [-1.0, 2.0], [0.0, -2.0]]), 0.6)
    pairs = potential_bridge(base, ends, 1.0)
    x0, x1 = pairs.sample(10_000, generator=seeded(0))
    process = tpf.Process(tpf.Linear(tpf.Brownian(1.0)), base=pairs.base, coupling=tpf.Paired())
    net = LightPotential((2,), 1.0, 30, data=x1, generator=seeded(1))
    field = BridgeDrift(forward=net, process=process)
    apart = x1[torch.randperm(len(x1), generator=seeded(2))]  # the pairs are not needed
    tpf.Trainer(field, lr=1e-2).fit(
        (x0, apart), steps=1500, batch_size=512, generator=seeded(3), progress=False
    )
    with torch.no_grad():
        weights, means, _ = net.given_start(x0[:300])
        found = (weights[..., None] * means).sum(1)
    weights, means, _ = pairs.given_start(x0[:300])
    exact = (weights[..., None] * means).sum(1).float()
    share = (found - exact).square().sum(1).mean() / x1.var(0).sum()
    assert float(share) < 0.01


def test_what_is_no_light_bridge_is_refused():
    process = PAIRS["mixtures"].base
    process = tpf.Process(tpf.Linear(tpf.Brownian(0.7)), base=process, coupling=tpf.Paired())
    field = BridgeDrift(forward=tpf.networks.MLP(2), process=process)
    with pytest.raises(TypeError, match="LightPotential"):
        LightLoss()(field, tpf.Batch(torch.zeros(2, 2), torch.zeros(2, 2)))
    with pytest.raises(ValueError, match=r"variance 0\.3"):  # also of one that is never fitted
        BridgeDrift(forward=LightPotential((2,), 0.3, 4), process=process)
    with pytest.raises(ValueError, match="the potential have shape"):
        LightPotential((3,), 0.7, 4, data=torch.zeros(5, 2))
    with pytest.raises(ValueError, match="components"):
        LightPotential((3,), 0.7, 0)


# ------------------------------------------------------------------------------ what is refused


def test_bad_bridges_are_refused():
    net, pairs = tpf.networks.MLP(2), PAIRS["mixtures"]
    of = ExactBridge(pairs).process
    flat, solid = (tpf.Gaussian((d,)) for d in (2, 3))
    plain = tpf.Process(tpf.Linear(), base=flat)
    ones, zeros = torch.ones(1), torch.zeros(1, 1)
    unknown = GaussianPairs(ones, zeros, zeros, torch.eye(2)[None])
    two, three = mixture(2, 2, 0), mixture(2, 3, 0)
    cases = [
        (ValueError, "made of networks", lambda: BridgeDrift(process=of)),
        (ValueError, "one and the", lambda: BridgeDrift(forward=net, backward=net, process=of)),
        (ValueError, "Brownian motion", lambda: BridgeDrift(forward=net, process=plain)),
        (ValueError, "variance", lambda: gaussian_bridge(flat, flat, 0.0)),
        (ValueError, "event shapes", lambda: gaussian_bridge(flat, solid, 1.0)),
        (TypeError, "base", lambda: gaussian_bridge(two, flat, 1.0)),
        (ValueError, "event shapes", lambda: potential_bridge(two, three, 1.0)),
        (ValueError, "independent", lambda: ExactBridge(pairs, plain)),
        (
            ValueError, "positive definite",
            lambda: GaussianPairs(ones, zeros, zeros, torch.ones(1, 2, 2)),
        ),
        (ValueError, "no bridge of a known variance", lambda: ExactBridge(unknown)),
    ]  # fmt: skip
    for kind, words, call in cases:
        with pytest.raises(kind, match=words):
            call()
    assert math.isclose(float(bridge_variance(of)), 0.5)


def test_first_centres_of_a_light_potential_reach_a_small_part_far_away():
    """Drawn evenly, 20 of 2,000 rows meet one of ten in a tenth of the cases."""
    rows = torch.randn(2_000, 3, generator=torch.Generator().manual_seed(0))
    rows[:10] += 40.0
    for seed in range(5):
        draws = torch.Generator().manual_seed(seed)
        net = tpf.bridges.LightPotential((3,), 1.0, 20, data=rows, generator=draws)
        assert float(net.centres.detach().amax()) > 30
    same = tpf.bridges.LightPotential((3,), 1.0, 5, data=torch.ones(4, 3))
    assert bool((same.centres == 1).all())


def test_a_light_potential_of_many_dimensions_shares_no_mode():
    """Five modes 7 apart under noise whose draws are 22 apart: first centres that are as far from
    each other left two or three modes to one component, and the laws of x1 given x0 were 5 to 10 %
    of the variance off."""
    d, seeds = 128, (3, 4)
    for seed in seeds:
        draws = torch.Generator().manual_seed(seed)
        exact = LightPotential((d,), 1.0, 5, generator=draws)
        with torch.no_grad():
            exact.centres.mul_(5 / exact.centres.norm(dim=1, keepdim=True))
            exact.log_spreads.copy_((0.5 + torch.rand(5, d, generator=draws)).log())
        x0 = torch.randn(5_000, d, generator=draws)
        x1 = exact.end(x0, generator=draws)
        apart = x1[torch.randperm(len(x1), generator=draws)]
        net = LightPotential((d,), 1.0, 30, data=x1, generator=draws)
        process = tpf.Process(tpf.Linear(tpf.Brownian(1.0)), coupling=tpf.Paired(), shape=(d,))
        field = BridgeDrift(forward=net, process=process)
        trainer = tpf.Trainer(field, LightLoss(), lr=3e-2, scheduler="cosine")
        trainer.fit((x0, apart), steps=300, batch_size=256, progress=False, generator=draws)
        with torch.no_grad():
            means = [
                torch.einsum("bk,bkd->bd", *potential.given_start(x0[:500])[:2])
                for potential in (net, exact)
            ]
        off = float((means[0] - means[1]).square().sum(1).mean() / x1.var(0).sum())
        assert off < 0.01, off
