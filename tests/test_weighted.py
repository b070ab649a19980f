"""Weighted particles: rates against autodiff, Gaussians exactly, mixtures within their errors."""

import dataclasses
import itertools
import math
import warnings

import pytest
import torch

import transportflows as tpf
from transportflows.guidance.closure import closure_split
from transportflows.guidance.left_out import scalings
from transportflows.guidance.resampling import standard_error, systematic
from transportflows.guidance.target import Target
from transportflows.guidance.weighted_stepper import WeightedStepper
from transportflows.solve.epsilon import as_epsilon

G = tpf.guidance
Mixture = tpf.distributions.GaussianMixture
F64 = torch.float64
PROCESSES = {
    "linear": tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))),
    "off centre": tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,), 0.5, 1.5)),
    "VP": tpf.Process(tpf.VP(), shape=(2,)),
    "latent": tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((2,))),
}
FIRST = Mixture(torch.tensor([[-1.2, 0.0], [1.0, 0.6]]), 0.6, weights=torch.tensor([0.4, 0.6]))
SECOND = Mixture(torch.tensor([[0.8, 0.0], [-0.9, -0.5]]), 0.8)
BOTH = Mixture(
    torch.cat([FIRST.means, SECOND.means]),
    torch.tensor([0.6, 0.6, 0.8, 0.8]),
    weights=0.5 * torch.cat([FIRST.weights, SECOND.weights]),
)
X = torch.randn(5, 2, generator=torch.Generator().manual_seed(3), dtype=F64)
SLOPE = torch.tensor([0.6, -0.9], dtype=F64)


def reward(t, x):
    return t * (x @ SLOPE.to(x)) - 0.2 * t.square() * x.square().sum(1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def targets(process):
    """Guided fields, the powers of their exact fields, and whether there is a reward."""
    first, second, both = (tpf.oracle(process, law) for law in (FIRST, SECOND, BOTH))
    guided = G.ClassifierFree(first, 2.0, unconditional=both)
    return {
        "power": (G.Power(first, 2.0), [(first, 2.0)], 0.0),
        "product": (G.Product([first, second]), [(first, 1.0), (second, 1.0)], 0.0),
        "uneven": (G.Product([first, second], [0.5, 1.5]), [(first, 0.5), (second, 1.5)], 0.0),
        "classifier-free": (guided, [(both, -1.0), (first, 2.0)], 0.0),
        "tilt": (G.Tilt(first, reward, 1.5), [(first, 1.0)], 1.5),
        "nested": (
            G.Power(G.Tilt(guided, reward), 2.0), [(both, -2.0), (first, 4.0)], 2.0,
        ),
    }  # fmt: skip


LAWS = {id(law): law for law in (FIRST, SECOND, BOTH)}


# ----------------------------------------------------------------------------------- the rates


@pytest.mark.parametrize("split", ["plain", "closure"])
@pytest.mark.parametrize(
    "name", ["power", "product", "uneven", "classifier-free", "tilt", "nested"]
)
@pytest.mark.parametrize("process", PROCESSES)
def test_the_rate_is_that_of_the_path_of_densities(process, name, split):
    """``∂t log q + v·S + ∇·v`` by autodiff of exact log-densities, in t and in x."""
    field, powers, r = targets(PROCESSES[process])[name]
    laws = [one.rho1 for one, _ in powers] if split == "closure" else None
    stepper = WeightedStepper(
        field, Target.of(field), as_epsilon(0.0), torch.zeros(5, dtype=F64),
        threshold=0.5, closure=laws, most=math.inf, shift=None, key=0,
    )  # fmt: skip
    times = torch.tensor([0.1, 0.35, 0.6, 0.8], dtype=F64)
    kept = dict(vars(stepper))
    tables = stepper.prepare(times, X[:1])
    assert vars(stepper) == kept  # a stepper holds nothing of a solve
    if split == "closure" and name in ("power", "product", "uneven"):
        assert stepper.memory(tables, X, None).split == "closure"

    def log_q(t, x):
        total = sum(w * one.log_prob(t, x) for one, w in powers)
        return total + r * reward(t.expand(len(x)), x)

    for place in range(2 * 3):
        t = tables.times[place].clone()
        v, rate = stepper._slopes(tables, place, X)
        time, x = t.clone().requires_grad_(), X.clone().requires_grad_()
        per_row = torch.stack(
            [torch.autograd.grad(log_q(time, x[k : k + 1]).sum(), time)[0] for k in range(5)]
        )
        (score,) = torch.autograd.grad(log_q(t, x).sum(), x)
        jacobian = torch.autograd.functional.jacobian(
            lambda y, place=place: stepper._slopes(tables, place, y)[0], X
        )
        divergence = torch.einsum("kiki->k", jacobian)
        exact = per_row + (v * score).sum(1) + divergence
        torch.testing.assert_close(rate, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["power", "product", "uneven", "classifier-free", "tilt"])
@pytest.mark.parametrize("process", ["linear", "off centre", "VP"])
def test_what_amplified_predictions_are_left_out_of_is_small(process, name):
    """Late rates are exact but for ``v·S - Σ w b·s``, which vanishes at t = 1."""
    process = PROCESSES[process]
    field, powers, r = targets(process)[name]
    stepper = WeightedStepper(
        field, Target.of(field), as_epsilon(0.0), torch.zeros(5, dtype=F64),
        threshold=0.5, closure=None, most=0.01, shift=None, key=0,
    )  # fmt: skip
    tables = stepper.prepare(torch.tensor([0.7, 0.9, 0.97, 0.999], dtype=F64), X[:1])
    for place in range(2 * 3):
        assert tables.left_out[place]
        t = tables.times[place].clone()
        v, rate = stepper._slopes(tables, place, X)
        time = t.clone().requires_grad_()

        def log_q(time, x):
            total = sum(w * one.log_prob(time, x) for one, w in powers)
            return total + r * reward(time.expand(len(x)), x)

        per_row = torch.stack(
            [torch.autograd.grad(log_q(time, X[k : k + 1]).sum(), time)[0] for k in range(5)]
        )
        x = X.clone().requires_grad_()
        (score,) = torch.autograd.grad(log_q(t, x).sum(), x)
        jacobian = torch.autograd.functional.jacobian(
            lambda y, place=place: stepper._slopes(tables, place, y)[0], X
        )
        exact = per_row + (v * score).sum(1) + torch.einsum("kiki->k", jacobian)
        scores = [one.score(t, X) for one, _ in powers]
        inner = [w * one.velocity(t, X) * s for (one, w), s in zip(powers, scores, strict=True)]
        product = v * sum(w * s for (_, w), s in zip(powers, scores, strict=True))
        gone = (product - sum(inner)).sum(1)
        torch.testing.assert_close(rate + gone, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["linear", "off centre", "VP", "latent"])
def test_the_plain_split_moves_as_one_gaussian_does(name):
    """A is the velocity of x_t for data N(0, Id), whatever the base's mean."""
    process = PROCESSES[name]
    exact = tpf.oracle(process, tpf.Gaussian((2,)))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    mean = process.part.base_mean
    mean = 0.0 if mean is None else mean.double()
    for time, one in zip(t, scalings(process.part, t, -1.5), strict=True):
        found = one.rate * X + one.of_mean * mean
        torch.testing.assert_close(found, -1.5 * exact.velocity(time, X), rtol=0, atol=1e-10)


@pytest.mark.parametrize("process", [tpf.VE(0.01, 20.0), tpf.VP(), tpf.OneSidedLinear()])
def test_a_power_is_right_on_processes_of_much_noise(process):
    """Two velocities would draw VE's noise together twice as fast as that of p² shrinks."""
    law = Mixture(torch.tensor([[0.0, -1.2], [0.0, 1.2]]), 0.6)
    field = tpf.oracle(tpf.Process(process, shape=(2,)), law)
    run = G.sample_weighted(G.Power(field, 2.0), 4000, generator=seeded(3))
    pairs = tpf.distributions.GaussianMixture(law.means, 0.6 * 2**0.5)
    exact = float(torch.stack([pairs.log_prob(m[None]) for m in law.means]).exp().mean().log())
    assert abs(run.log_evidence - exact) < 4 * float(run.log_evidence_error) + 0.01
    assert float(run.log_evidence_error) < 0.1
    assert abs(float(run.mean(run.x[:, 1].square())) - 1.59) < 0.15


def wrong_at_the_end(exact, kind, seed, size):
    """A field whose output has a smooth error, of ``size`` in the root mean square near t = 1."""
    way = torch.randn(2, 3, generator=seeded(seed), dtype=F64)

    def net(t, x):
        ripple = torch.sin(1.5 * (x.to(F64) @ way) + way[0] + 2 * t[:, None].to(F64))
        error = size * 2**0.5 * t[:, None] * ripple[:, :2]
        return exact.quantity(kind, t, x) + error.to(x)

    made = {"velocity": tpf.Velocity, "data": tpf.DataPredictor, "noise": tpf.NoisePredictor}
    return made[kind](net, exact.process)


@pytest.mark.parametrize(("kind", "size"), [("velocity", 0.1), ("data", 0.04), ("noise", 0.1)])
def test_weights_do_not_reward_the_errors_of_a_network(kind, size):
    """An error e of a prediction is e/σ̂ of the score, and log Z once grew with the steps."""
    whole, one = (tpf.oracle(PROCESSES["linear"], law) for law in (BOTH, FIRST))
    first, second = (wrong_at_the_end(f, kind, k, size) for k, f in enumerate((one, whole)))
    guided = G.ClassifierFree(first, 2.0, unconditional=second)

    def evidence(field, steps, **options):
        return G.sample_weighted(
            field, 4000, steps=steps, generator=seeded(5), **options
        ).log_evidence

    truth = evidence(G.ClassifierFree(one, 2.0, unconditional=whole), 100)
    few, many = evidence(guided, 40), evidence(guided, 250)
    assert abs(few - many) < 0.06
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blind = evidence(guided, 250, most_amplified=math.inf)
    assert abs(many - truth) < 0.6 * abs(blind - truth)


def test_a_learned_power_of_a_gaussian_has_its_evidence_though_its_end_is_left_out():
    law, process = tpf.Gaussian((2,), 0.7, 0.8), PROCESSES["off centre"]
    exact = tpf.oracle(process, law)
    learned = tpf.Velocity(lambda t, x: exact.velocity(t, x), process)
    z = -math.log(2 * math.pi * 0.8**2) - math.log(2)  # ∫ N(0.7, 0.8²)²
    for closure in (None, [law]):
        run = G.sample_weighted(
            G.Power(learned, 2.0), 8000, steps=200, closure=closure, generator=seeded(1)
        )
        assert abs(run.log_evidence - z) < 3 * float(run.log_evidence_error) + 0.01


def test_heun_on_states_and_weights_is_of_order_two():
    field = targets(PROCESSES["linear"])["classifier-free"][0]
    runs = [
        G.sample_weighted(field, 50, epsilon=0.0, steps=s, dtype=F64, generator=seeded())
        for s in (10, 20, 40, 160)
    ]
    logs = [run.log_weights + run.log_evidence for run in runs]
    errors = [float((one - logs[-1]).abs().mean()) for one in logs[:3]]
    for coarse, fine in itertools.pairwise(errors):
        assert 1.6 < math.log2(coarse / fine) < 2.5


# --------------------------------------------------------------------------- Gaussians, exactly


def gaussian_answer(laws):
    """Log-integral, mean and covariance of ``Π N_i^{w_i}``."""
    precision, lean, log = 0.0, 0.0, 0.0
    for law, w in laws:
        cov, mean = law.covariance(), law.mean.flatten()
        inverse = torch.linalg.inv(cov)
        precision, lean = precision + w * inverse, lean + w * inverse @ mean
        log -= 0.5 * w * float(torch.linalg.slogdet(2 * math.pi * cov)[1] + mean @ inverse @ mean)
    cov = torch.linalg.inv(precision)
    log += 0.5 * float(torch.linalg.slogdet(2 * math.pi * cov)[1] + lean @ cov @ lean)
    return log, cov @ lean, cov


def full(seed, mean):
    root = torch.randn(3, 3, generator=seeded(seed), dtype=F64)
    cov = 0.3 * root @ root.mT + 0.5 * torch.eye(3, dtype=F64)
    return tpf.Gaussian((3,), mean, scale_tril=torch.linalg.cholesky(cov))


GAUSSIANS = (full(0, torch.tensor([1.0, 0.0, -0.5])), full(4, torch.tensor([0.2, 0.5, 0.0])))


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
@pytest.mark.parametrize("units", ["own", "standardised"])
@pytest.mark.parametrize("interpolant", [tpf.Linear(), tpf.Trigonometric(tpf.Brownian())])
def test_the_closure_split_is_exact_for_gaussians(interpolant, units, epsilon):
    """No variance in the weights, any ε, a base off the centre, in the units of the data."""
    base = tpf.Gaussian((3,), 0.0 if isinstance(interpolant, tpf.Trigonometric) else 0.4, 1.2)
    process = tpf.Process(interpolant, base=base)
    one, other = GAUSSIANS
    transform, inner = None, list(GAUSSIANS)
    if units == "standardised":
        scale = torch.tensor([2.0, 0.5, 1.5], dtype=F64)
        transform = tpf.Standardize(torch.tensor([0.3, -0.2, 0.0], dtype=F64), scale)
        inner = [
            tpf.Gaussian(
                (3,), (g.mean - transform.mean) / scale, scale_tril=g.scale / scale[:, None]
            )
            for g in GAUSSIANS
        ]
    exact = [tpf.oracle(process, g) for g in inner]
    f, g = (
        tpf.FieldPair(velocity=e.velocity, score=e.score, process=process, transform=transform)
        for e in exact
    )
    cases = [
        (G.Power(f, 2.5), [(one, 2.5)]),
        (G.Product([f, g]), [(one, 1.0), (other, 1.0)]),
        (G.ClassifierFree(f, 1.3, unconditional=g), [(other, -0.3), (one, 1.3)]),
    ]
    for field, laws in cases:
        log, mean, _ = gaussian_answer(laws)
        run = G.sample_weighted(
            field, 400, epsilon=epsilon, steps=60, dtype=F64, closure=[law for law, _ in laws],
            generator=seeded(),
        )  # fmt: skip
        assert run.split == "closure"
        assert run.log_evidence == pytest.approx(log, abs=2e-3)
        assert run.least_ess > 399
        assert not bool(run.resampled.any())
        sizes = gaussian_answer(laws)[2].diagonal().sqrt()
        assert bool(((run.mean() - mean).abs() < 5 * sizes / 20).all())


def test_there_is_no_closure_where_the_precision_is_not_positive():
    process = PROCESSES["linear"]
    wide, narrow = tpf.Gaussian((2,), scale=1.0), tpf.Gaussian((2,), 0.3, scale=0.7)
    part, t = process.part, torch.linspace(0, 1, 5, dtype=F64)
    assert closure_split(part, [narrow, wide], [-4.0, 5.0], t, None, (2,)) is None
    field = G.ClassifierFree(
        tpf.oracle(process, wide), 5.0, unconditional=tpf.oracle(process, narrow)
    )
    with pytest.warns(UserWarning, match="no closure split here"):
        run = G.sample_weighted(field, 50, steps=5, closure=[narrow, wide], generator=seeded())
    assert run.split == "plain"


# ---------------------------------------------------------------------------------- mixtures


def product_answer(one, other):
    """Log-integral and mean of a product of two mixtures."""
    logs, means = [], []
    for w, m, s in zip(one.weights, one.means, one.covariances[:, 0, 0], strict=True):
        for v, n, r in zip(other.weights, other.means, other.covariances[:, 0, 0], strict=True):
            apart = (m - n).square().sum()
            logs.append(torch.log(w * v) - torch.log(2 * math.pi * (s + r)) - apart / (2 * (s + r)))
            means.append((m * r + n * s) / (s + r))
    logs = torch.stack(logs)
    return float(torch.logsumexp(logs, 0)), torch.softmax(logs, 0) @ torch.stack(means)


def drawn_answer(log_weight):
    """By a million weighted exact draws of the first law."""
    x = FIRST.sample(1_000_000, generator=seeded(9), dtype=F64)
    logs = log_weight(x)
    w = torch.softmax(logs, 0)
    return float(torch.logsumexp(logs, 0)) - math.log(len(x)), w @ x


ANSWERS = {
    "power": lambda: product_answer(FIRST, FIRST),
    "product": lambda: product_answer(FIRST, SECOND),
    "classifier-free": lambda: drawn_answer(lambda x: FIRST.log_prob(x) - BOTH.log_prob(x)),
    "tilt": lambda: drawn_answer(lambda x: 1.5 * reward(torch.ones(len(x), dtype=F64), x)),
}
WAYS = {
    "plain": {},
    "closure": {"closure": True},
    "guided": {"proposal": "guided"},
    "any": {"proposal": lambda t, x: torch.stack([1 - x[:, 1], x[:, 0].sin()], 1)},
    "weights alone": {"threshold": 0.0},
    "more noise": {"epsilon": 4.0},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ANSWERS)
def test_weighted_particles_have_the_law_that_was_asked_for(name, way):
    """Within 4 standard errors, the evidence's its own, the mean's over 1,500 particles."""
    field, powers, r = targets(PROCESSES["linear"])[name]
    more = dict(WAYS[way])
    if way == "guided" and not r:
        pytest.skip("no reward")
    if "closure" in more:
        more["closure"] = [one.rho1 for one, _ in powers]
    log, mean = ANSWERS[name]()
    run = G.sample_weighted(field, 1_500, steps=40, dtype=F64, generator=seeded(1), **more)
    assert abs(run.log_evidence - log) < 4 * run.log_evidence_error + 0.01
    assert run.log_evidence_error < 0.2
    # The weight of a start row moves the mean by its share, about as it moves the evidence.
    spread = (run.x - run.mean()).square()
    error = run.log_evidence_error + len(run.x) ** -0.5
    assert bool(((run.mean() - mean).abs() < 4 * error * run.mean(spread).sqrt()).all())


def test_a_field_alone_has_weights_of_one_and_guidance_alone_another_law():
    first = tpf.oracle(PROCESSES["linear"], FIRST)
    run = G.sample_weighted(first, 200, steps=10, dtype=F64, generator=seeded())
    assert run.log_evidence == pytest.approx(0, abs=1e-12)
    assert run.least_ess == pytest.approx(200)
    # The product of FIRST with itself, without weights, is too wide by half.
    field = targets(PROCESSES["linear"])["power"][0]
    alone = tpf.sample(field, 2_000, epsilon=1.0, steps=40, dtype=F64, generator=seeded()).x
    weighted = G.sample_weighted(field, 2_000, steps=40, dtype=F64, generator=seeded())
    wide = alone.var(0)[1] / weighted.mean((weighted.x - weighted.mean()).square())[1]
    assert wide > 1.2


def test_a_learned_velocity_serves_though_its_score_is_infinite_at_the_end():
    """As the exact field does: the last node looks half a step aside."""
    process = PROCESSES["linear"]
    first = tpf.oracle(process, FIRST)
    field = tpf.Velocity(lambda t, x: first.velocity(t, x), process)
    log, _ = product_answer(FIRST, FIRST)
    run = G.sample_weighted(G.Power(field, 2.0), 1_500, steps=40, dtype=F64, generator=seeded(2))
    assert run.margin == pytest.approx((0.0, 0.0125))
    assert abs(run.log_evidence - log) < 4 * run.log_evidence_error + 0.02


def test_a_two_sided_process_with_another_base_carries_weights():
    """No Gaussian part: a tilt, from b and s alone; the base is no Gaussian, so W = 1."""
    base = Mixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), 0.7)
    process = tpf.Process(tpf.Linear(tpf.Brownian()), base=base)
    first = tpf.oracle(process, FIRST)
    log, _ = ANSWERS["tilt"]()
    run = G.sample_weighted(
        G.Tilt(first, reward, 1.5), 1_500, steps=40, dtype=F64, generator=seeded(3)
    )
    assert abs(run.log_evidence - log) < 4 * run.log_evidence_error + 0.01
    # And a power of it, whose weights begin with the base's density.
    log, _ = product_answer(FIRST, FIRST)
    run = G.sample_weighted(G.Power(first, 2.0), 1_500, steps=60, dtype=F64, generator=seeded(4))
    assert abs(run.log_evidence - log) < 4 * run.log_evidence_error + 0.02


@pytest.mark.parametrize("kind", ["velocity", "noise", "exact"])
def test_a_reward_of_the_data_prediction_has_weights_at_both_ends(kind):
    """There the conversion from another prediction has no value, or no derivative in t."""
    first = tpf.oracle(PROCESSES["linear"], FIRST)
    made = {
        "velocity": lambda: tpf.Velocity(lambda t, x: first.velocity(t, x), first.process),
        "noise": lambda: tpf.NoisePredictor(lambda t, x: first.noise(t, x), first.process),
        "exact": lambda: first,
    }
    tilt = G.Tilt(made[kind](), lambda t, d: t * (d @ SLOPE.to(d)), of="data")
    run = G.sample_weighted(tilt, 1_500, steps=40, dtype=F64, generator=seeded(6))
    log, mean = drawn_answer(lambda x: x @ SLOPE)
    assert abs(run.log_evidence - log) < 4 * run.log_evidence_error + 0.02
    spread = run.mean((run.x - run.mean()).square()).sqrt()
    assert bool(((run.mean() - mean).abs() < 4 * spread * (run.log_evidence_error + 0.03)).all())


@pytest.mark.parametrize("end", ["start", "end"])
def test_a_field_that_is_wrong_near_an_end_is_still_better_with_weights(end):
    """As a network is: an error of .3 within .1 of an end, 20 steps, float32; nothing collapses."""
    exact = tpf.oracle(PROCESSES["linear"], FIRST)

    def velocity(t, x):
        distance = t if end == "start" else 1 - t
        near = (1 - distance / 0.1).clamp(min=0)[:, None]
        return exact.velocity(t, x) + 0.3 * near * torch.sin(3 * x)

    power = G.Power(tpf.Velocity(velocity, PROCESSES["linear"]), 2.0)
    answer = product_answer(FIRST, FIRST)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", G.CollapsedWeightsWarning)
        run = G.sample_weighted(power, 2_000, steps=20, closure=[FIRST], generator=seeded())
    alone = tpf.sample(power, 2_000, epsilon=1.0, steps=20, generator=seeded()).x
    spread = run.mean((run.x - run.mean()).square())
    sizes = spread.sqrt()
    assert float(((run.mean() - answer).abs() / sizes).max()) < 0.15  # 5 standard errors and more
    # Without weights the law is too wide by a third and more.
    assert bool((alone.var(0) / spread > 1.2).any())
    assert run.least_ess > 1_000


@pytest.mark.parametrize("end", ["start", "end"])
def test_a_network_that_fails_is_told(end):
    """NaN at some times is no result, neither of weights nor of states."""
    exact = tpf.oracle(PROCESSES["linear"], FIRST)

    def velocity(t, x):
        bad = t < 0.1 if end == "start" else t > 0.9
        return torch.where(bad[:, None], torch.nan, exact.velocity(t, x))

    field = tpf.Velocity(velocity, PROCESSES["linear"])
    with pytest.raises(ArithmeticError):
        G.sample_weighted(G.Power(field, 2.0), 50, steps=20, generator=seeded())


# ----------------------------------------------------------------- resampling and the solution


def test_systematic_resampling_draws_each_particle_its_share():
    logs = torch.tensor([0.1, 0.55, 0.0, 0.35], dtype=F64).log()
    us = (torch.arange(1_000, dtype=F64) + 0.5) / 1_000
    counts = torch.stack([systematic(logs, u, 10).bincount(minlength=4) for u in us])
    shares = torch.tensor([1.0, 5.5, 0.0, 3.5], dtype=F64)
    assert bool((counts >= shares.floor()).all())
    assert bool((counts <= shares.ceil()).all())
    torch.testing.assert_close(counts.double().mean(0), shares, rtol=0, atol=1e-9)


def test_the_standard_error_is_that_of_start_rows():
    logs = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=F64).log()
    lost = standard_error(logs, torch.tensor([0, 0, 2, 2]))  # 3/4 and 1/4 of two rows
    assert float(lost) == pytest.approx(math.sqrt(0.5**2 + 0.25**2 + 0.0**2 + 0.25**2))


def test_the_standard_error_is_right_over_many_runs():
    field = targets(PROCESSES["linear"])["product"][0]
    runs = [
        G.sample_weighted(field, 200, steps=12, dtype=F64, generator=seeded(s)) for s in range(40)
    ]
    sd = torch.tensor([run.log_evidence for run in runs]).std()
    told = sum(run.log_evidence_error for run in runs) / len(runs)
    assert 0.6 < float(sd) / told < 1.6  # the deviation of 40 runs is known to 11 %


def test_the_solution_tells_what_can_be_trusted():
    field = G.Power(tpf.oracle(PROCESSES["linear"], FIRST), 8.0)
    run = G.sample_weighted(field, 500, steps=20, dtype=F64, generator=seeded())
    assert float(run.weights.sum()) == pytest.approx(1)
    assert run.ess.shape == (21,)
    assert run.resampled.shape == (20,)
    assert bool(run.resampled.any())
    assert run.ancestors_left < 500
    assert run.ancestors_left == len(set(run.ancestors.tolist()))
    torch.testing.assert_close(run.mean(), (run.weights[:, None] * run.x).sum(0))
    assert run.resample(generator=seeded()).shape == (500, 2)
    assert run.resample(3, generator=seeded()).shape == (3, 2)
    near = run.resample(20_000, generator=seeded()).mean(0)
    torch.testing.assert_close(near, run.mean(), rtol=0, atol=1e-2)
    with pytest.raises(ValueError, match="one row for each"):
        run.mean(torch.zeros(3, 2))
    text = repr(run)
    assert "log_evidence=" in text
    assert "ancestors_left=" in text
    assert len(text) < 400
    assert (run.nfe, run.scheme) == (40, "weighted heun")


def test_chunks_and_seeds_do_not_matter():
    field = targets(PROCESSES["linear"])["classifier-free"][0]
    one, other = (
        G.sample_weighted(field, 100, steps=10, dtype=F64, chunk=c, generator=seeded())
        for c in (None, 7)
    )
    torch.testing.assert_close(one.x, other.x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(one.log_weights, other.log_weights, rtol=1e-9, atol=1e-9)


def test_a_trained_field_is_asked_for_its_label():
    labels = torch.arange(60) % 3
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1, labels=3), PROCESSES["linear"])
    data = torch.randn(60, 2, generator=seeded())
    tpf.Trainer(field).fit(data, cond={"label": labels}, steps=2, batch_size=20, progress=False)
    guided = G.ClassifierFree(field, 1.5, null={"label": 2})
    run = G.sample_weighted(guided, 20, steps=4, cond={"label": 1}, generator=seeded())
    assert run.x.dtype == torch.float32
    assert run.x.shape == (20, 2)
    with pytest.raises(ValueError, match="'label' is missing"):
        G.sample_weighted(guided, 20, steps=4)
    with pytest.raises(ValueError, match="share one target"):
        G.sample_weighted(guided, 3, steps=4, cond={"label": torch.tensor([0, 1, 1])})


def test_hooks_look_and_may_not_change():
    field = targets(PROCESSES["linear"])["power"][0]
    seen = []
    G.sample_weighted(field, 10, steps=4, hooks=[lambda m: seen.append(m.t)], generator=seeded())
    assert seen == [0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ValueError, match="a hook returned states"):
        G.sample_weighted(field, 10, steps=4, hooks=[lambda m: m.x + 1])


# --------------------------------------------------------------------------- told and refused


def test_collapse_is_told():
    first = tpf.oracle(PROCESSES["linear"], FIRST)
    sharp = G.Tilt(first, lambda t, x: -200 * t * (x - 3).square().sum(1))
    with pytest.warns(G.CollapsedWeightsWarning, match="start rows are left"):
        run = G.sample_weighted(sharp, 100, steps=20, dtype=F64, generator=seeded())
    assert run.collapsed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        G.sample_weighted(first, 100, steps=5, generator=seeded())


def test_a_wild_proposal_collapses_and_is_told():
    """A proposal may look healthy at the end, when all descend from a few rows."""
    first = tpf.oracle(PROCESSES["linear"], FIRST)
    wild = {"proposal": lambda t, x: 40 * torch.sin(5 * x)}
    with pytest.warns(G.CollapsedWeightsWarning):
        G.sample_weighted(first, 100, steps=20, dtype=F64, generator=seeded(), **wild)


def test_what_has_no_weights_is_refused():
    power = targets(PROCESSES["linear"])["power"][0]
    base = Mixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.5)
    two_sided = tpf.oracle(tpf.Process(tpf.Linear(tpf.Brownian()), base=base), FIRST)
    with pytest.raises(ValueError, match="needs a Gaussian part"):
        G.sample_weighted(G.Power(two_sided, 2.0), 4, most_amplified=20.0)
    with pytest.raises(ValueError, match="most_amplified must be at least 1"):
        G.sample_weighted(power, 4, most_amplified=0.5)
    process = PROCESSES["linear"]
    first, second, both = (tpf.oracle(process, law) for law in (FIRST, SECOND, BOTH))
    sample = G.sample_weighted

    def guided(scale, **more):
        return G.ClassifierFree(first, scale, unconditional=both, **more)

    with pytest.raises(ValueError, match="changes with time"):
        sample(guided(lambda t: 1 + t), 10)
    with pytest.raises(ValueError, match="no interval"):
        sample(guided(2.0, interval=(0.2, 0.8)), 10)
    with pytest.raises(ValueError, match="take ClassifierFree"):
        sample(G.ProjectedClassifierFree(first, 2.0, unconditional=both), 10)
    with pytest.raises(ValueError, match="smooth"):
        sample(G.Tilt(first, reward, interval=(0.0, 0.5)), 10)
    with pytest.raises(ValueError, match="add up to -1"):
        sample(G.Product([first, second], [1.0, -2.0]), 10)
    with pytest.raises(ValueError, match="epsilon=0 has none"):
        sample(G.Tilt(first, reward), 10, epsilon=0.0, proposal="guided")
    with pytest.raises(ValueError, match="this field has none"):
        sample(G.Power(first, 2.0), 10, proposal="guided")
    with pytest.raises(ValueError, match="unknown proposal"):
        sample(G.Tilt(first, reward), 10, proposal="dps")
    with pytest.raises(ValueError, match="must give the shape of x"):
        sample(first, 10, steps=2, proposal=lambda t, x: x[:, 0])
    with pytest.raises(ValueError, match="1 laws for the closure of 2 fields"):
        sample(G.Product([first, second]), 10, closure=[FIRST])
    with pytest.raises(TypeError, match="closure must be a sequence"):
        sample(G.Power(first, 2.0), 10, closure=[first])
    with pytest.raises(ValueError, match="states of shape"):
        sample(G.Power(first, 2.0), 10, closure=[tpf.Gaussian((3,))])
    with pytest.raises(ValueError, match="threshold"):
        sample(first, 10, threshold=1.5)
    with pytest.raises(TypeError, match="must be a Field"):
        sample(lambda t, x: x, 10)
    with pytest.raises(ValueError, match="max_nfe"):
        sample(first, 10, steps=10, max_nfe=5)
    with pytest.raises(ValueError, match="the reward is -inf in 10 of 10 rows"):
        sample(G.Tilt(first, lambda t, x: x.sum(1) * 0 - torch.inf), 10, steps=2)
    with pytest.raises(ArithmeticError, match="weights are of no use"):
        sample(G.Tilt(first, lambda t, x: x.sum(1) * 0 - t * 1e38 * 1e38), 10, steps=2)
    mirror = tpf.Process(tpf.Mirror(), shape=(2,))
    mirrored = tpf.FieldPair(velocity=lambda t, x: x, noise=lambda t, x: x, process=mirror)
    with pytest.raises(ValueError, match="x_0 holds the data themselves"):
        sample(mirrored, 10)
    of_rows = tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.distributions.Empirical(X))
    pair = tpf.FieldPair(velocity=lambda t, x: x, noise=lambda t, x: x, process=of_rows)
    with pytest.raises(ValueError, match="base's log-density"):
        sample(G.Power(pair, 2.0), 10)


def test_a_small_effective_size_on_the_way_is_a_collapse():
    """Though the end looks healthy, and many start rows are left."""
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    run = G.sample_weighted(
        G.Power(tpf.oracle(process, FIRST), 2.0), 200, steps=5, generator=seeded()
    )
    assert not run.collapsed
    for least, collapsed in ((8.0, True), (12.0, False)):
        sizes = torch.tensor([200.0, least, 150.0], dtype=run.ess.dtype)
        assert dataclasses.replace(run, ess=sizes).collapsed is collapsed
