"""Processes, bases, couplings, times, transforms, networks, losses and files."""

import cmath
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency

import transportflows as tpf
from families import INTERPOLANTS, OWN, Learned, mixture, name, process
from transportflows.distributions import GaussianMixture
from transportflows.plans.exact import best_permutation


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------- process


@pytest.mark.parametrize("interpolant", INTERPOLANTS + OWN, ids=name)
@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_a_path_sample_is_made_of_what_it_says(interpolant, shape):
    law = process(interpolant, shape, base=tpf.Gaussian(shape, 0.5, 2.0))
    n = math.prod(shape)  # as many rows as numbers, so that a missed broadcast would run
    x1 = torch.randn(n, *shape, generator=seeded(), dtype=torch.float64)
    s = law.sample(x1, generator=seeded(1))
    rows = []
    for k in range(n):
        x0 = None if s.x0 is None else s.x0[k : k + 1]
        row = interpolant.mean(s.t[k], x0, x1[k : k + 1])
        rows.append(row if s.z is None else row + interpolant.gamma(s.t[k]) * s.z[k : k + 1])
    torch.testing.assert_close(s.x, torch.cat(rows))
    # ẋ is the derivative of the path with all its draws held fixed
    step = 1e-6
    moved = []
    for sign in (1, -1):
        t = s.t + sign * step
        wide = t.reshape(-1, *(1,) * len(shape))
        x = interpolant.mean(wide, s.x0, x1)
        moved.append(x if s.z is None else x + interpolant.gamma(wide) * s.z)
    torch.testing.assert_close(s.velocity, (moved[0] - moved[1]) / (2 * step), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=name)
def test_the_gaussian_part_has_the_noise_scale(interpolant):
    """x_t - α m - β x1 = σ̂ ẑ with ẑ standard normal, and σ̂̇ is the derivative of σ̂."""
    law = process(interpolant, (1,), base=tpf.Gaussian((1,), 1.5, 2.0))
    x1 = torch.full((200_000, 1), 0.7, dtype=torch.float64)
    s = law.sample(x1, t=0.4, generator=seeded())
    t = torch.tensor(0.4, dtype=torch.float64)
    mean = 1.5 if law.noise_part.base_scale is not None else 0.0
    part = s.x - interpolant.alpha(t) * mean - interpolant.beta(t) * 0.7
    torch.testing.assert_close(part, law.noise_part.scale(t) * s.noise, rtol=1e-9, atol=1e-12)
    assert abs(float(s.noise.mean())) < 5 / math.sqrt(200_000)
    assert float(s.noise.var()) == pytest.approx(1, rel=5 * math.sqrt(2 / 200_000))
    times = torch.tensor([0.13, 0.4, 0.77], dtype=torch.float64)
    step = 1e-6
    slope = (law.noise_part.scale(times + step) - law.noise_part.scale(times - step)) / (2 * step)
    torch.testing.assert_close(law.noise_part.scale_dot(times), slope, rtol=1e-6, atol=1e-8)


def test_noise_scale_dot_at_the_ends():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def at_ends(interpolant, **base):
        law = process(interpolant, (1,), base=tpf.Gaussian((1,), **base))
        return law.noise_part.scale_dot(ends).tolist()

    assert at_ends(tpf.Linear()) == [-1.0, -1.0]
    assert at_ends(tpf.Linear(), scale=3.0) == [-3.0, -3.0]
    assert at_ends(tpf.OneSidedLinear()) == [-1.0, -1.0]
    assert at_ends(tpf.Linear(tpf.Brownian())) == [-0.5, -math.inf]
    assert at_ends(tpf.SBDM()) == [0.0, -math.inf]
    assert at_ends(tpf.Mirror()) == [math.inf, -math.inf]
    # γ = t (1 - t) beside α = 1 - t: σ̂ = (1 - t) sqrt(1 + t²) near t = 1
    assert at_ends(tpf.Linear(tpf.interpolants.Quadratic()))[1] == pytest.approx(-math.sqrt(2))
    assert at_ends(tpf.OneSidedTrigonometric())[1] == pytest.approx(-math.pi / 2)


def test_antithetic_removes_the_variance_of_the_latent_velocity():
    law = tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((2,)))
    x1 = torch.randn(2000, 2, generator=seeded())
    s = law.sample(x1, antithetic=True, generator=seeded())
    assert s.x.shape == (4000, 2)
    assert torch.equal(s.z[:2000], -s.z[2000:])
    assert torch.equal(s.x0[:2000], s.x0[2000:])
    assert torch.equal(s.t[:2000], s.t[2000:])

    field = tpf.Velocity(lambda t, x: 0.1 * x, law)
    times = tpf.times.UniformTimes(margin=1e-4)
    plain = tpf.VelocityLoss(times=times, constant=False)(field, x1, generator=seeded())
    paired = tpf.VelocityLoss(times=times, constant=False, antithetic=True)(
        field, x1, generator=seeded()
    )
    assert paired.shape == (2000,)
    assert float(paired.var()) < 0.5 * float(plain.var())
    with pytest.raises(ValueError, match="has none"):
        tpf.Process(tpf.Linear(), tpf.Gaussian((2,))).sample(x1, antithetic=True)


def test_target_margins_are_kept_where_targets_are_infinite():
    assert process(tpf.Linear()).target_margin == (0.0, 0.0)
    assert process(tpf.Linear(tpf.Brownian())).target_margin == (1e-4, 1e-4)
    assert process(tpf.SBDM()).target_margin == (0.0, 1e-4)
    s = process(tpf.SBDM()).sample(torch.zeros(100_000, 2), generator=seeded())
    assert float(s.t.max()) <= 1 - 1e-4
    assert bool(s.velocity.isfinite().all())


@pytest.mark.parametrize(
    ("alpha", "beta", "margin"),
    [
        (lambda t: 1 - t, lambda t: t.sqrt(), (1e-4, 0.0)),
        (lambda t: 1 - t, lambda t: 1 - (1 - t).sqrt(), (0.0, 1e-4)),
        (lambda t: 1 - t.sqrt(), lambda t: t, (1e-4, 0.0)),
        (lambda t: (1 - t).sqrt(), lambda t: t, (0.0, 1e-4)),
    ],
    ids=["beta, 0", "beta, 1", "alpha, 0", "alpha, 1"],
)
def test_a_margin_is_kept_at_the_end_where_one_rate_is_infinite(alpha, beta, margin):
    class Rooted(tpf.AffineInterpolant):
        def alpha(self, t):
            return alpha(t)

        def beta(self, t):
            return beta(t)

        def gamma_sq(self, t):
            return 0.1 * (t * (1 - t)).square()

        def gamma_dot(self, t):
            return 0.1**0.5 * (1 - 2 * t)

    law = tpf.Process(Rooted(), tpf.Gaussian((2,)))
    assert law.target_margin == margin
    s = law.sample(torch.ones(100_000, 2, dtype=torch.float64), generator=seeded())
    for distance, kept in ((s.t, margin[0]), (1 - s.t, margin[1])):
        assert kept <= float(distance.min()) * (1 + 1e-9) < 1e-4 + kept
    assert bool(s.velocity.isfinite().all())


def test_learnable_interpolants_get_gradients_and_move_with_the_process():
    law = tpf.Process(Learned(), tpf.Gaussian((2,)))
    field = tpf.Velocity(lambda t, x: x, law)
    x1 = torch.randn(16, 2, generator=seeded(), dtype=torch.float64)
    tpf.VelocityLoss()(field, x1, generator=seeded()).mean().backward()
    assert float(law.interpolant.c.grad.abs()) > 0
    assert "process.interpolant.c" in dict(field.named_parameters())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tpf.Process(tpf.Linear, tpf.Gaussian((2,))), TypeError, "Interpolant"),
        (lambda: tpf.Process(tpf.Linear(), tpf.Gaussian((2,)), tpf.Paired), TypeError, "Coupling"),
        (lambda: tpf.Process(tpf.Linear(), torch.zeros(3, 2)), TypeError, "Empirical"),
        (lambda: tpf.Process(tpf.Linear(), object()), TypeError, "no sample method"),
        (lambda: tpf.Process(tpf.Linear(), tpf.Gaussian((2,)), shape=(3,)), ValueError, "shape"),
        (
            lambda: tpf.Process(tpf.SBDM(), tpf.distributions.Uniform((2,))),
            ValueError,
            "makes its own base",
        ),
        (lambda: tpf.Process(tpf.SBDM(), tpf.Gaussian((2,), 1.0)), ValueError, "its own base"),
        (lambda: tpf.Velocity(process(tpf.Linear()), lambda t, x: x), TypeError, "order is"),
        (lambda: tpf.Linear(gamma=1.0), TypeError, "Brownian"),
        (
            lambda: tpf.Process(tpf.SBDM(), shape=(2,), coupling=tpf.MinibatchOT()),
            ValueError,
            "no x0 to pair",
        ),
        (lambda: tpf.Gaussian((2,), mean=math.nan), ValueError, "finite"),
        (lambda: tpf.Gaussian((2,), scale=math.inf), ValueError, "finite"),
        (lambda: tpf.Gaussian((2,), scale_tril=torch.ones(2, 2)), ValueError, "lower triangular"),
        (
            lambda: tpf.Gaussian((2,), scale_tril=torch.tensor([[1.0, 0.0], [math.nan, 1.0]])),
            ValueError,
            "finite",
        ),
        (
            lambda: GaussianMixture(torch.zeros(2, 1), math.inf),
            ValueError,
            "scale must be positive and",
        ),
        (lambda: GaussianMixture(torch.zeros(2, 1), weights=[1.0, math.inf]), ValueError, "finite"),
        (
            lambda: GaussianMixture(torch.zeros(1, 1), covariances=torch.full((1, 1, 1), math.inf)),
            ValueError,
            "covariances must be finite",
        ),
        (lambda: tpf.distributions.Uniform((2,), 0.0, math.inf), ValueError, "finite"),
        (lambda: tpf.Standardize(math.nan), ValueError, "finite"),
        (lambda: tpf.Brownian(math.nan), ValueError, "positive"),
        (lambda: tpf.Brownian(-1.0), ValueError, "positive"),
    ],
)
def test_wrong_constructions_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("x1", "kwargs", "message"),
    [
        (torch.zeros(4, 3), {}, r"event shape \(3,\) and the base has \(2,\)"),
        (torch.zeros(4), {}, "at least 2 dimensions"),
        (torch.zeros(4, 2, dtype=torch.int64), {}, "floating-point"),
        (torch.zeros(4, 2), {"x0": torch.zeros(3, 2)}, "pairs have one shape"),
        (torch.zeros(4, 2), {"x0": torch.zeros(4, 2).double()}, "torch.float64"),
        (torch.zeros(4, 2), {"t": torch.zeros(3)}, r"it must be \(\) or \(4,\)"),
    ],
)
def test_wrong_data_are_refused(x1, kwargs, message):
    with pytest.raises(ValueError, match=message):
        process(tpf.Linear()).sample(x1, **kwargs)


def test_swapped_time_and_state_are_caught_everywhere():
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1), process(tpf.Linear()))
    t, x = torch.rand(5), torch.rand(5, 2)
    for call in (field, field.velocity, field.score, field.noise, field.data):
        with pytest.raises(ValueError, match="swapped"):
            call(x, t)
        with pytest.raises(ValueError, match="3 times for 5 states"):
            call(t[:3], x)
    with pytest.raises(TypeError, match="must be a tensor"):
        field(0.5, x)
    oracle = tpf.oracles.GaussianMixtureOracle(field.process, tpf.Gaussian((2,)))
    with pytest.raises(ValueError, match="swapped"):
        oracle.score(x, t)


# -------------------------------------------------------------------------- bases and couplings


def test_distributions_have_their_moments_and_densities():
    factor = torch.tensor([[1.0, 0.0], [0.7, 0.5]], dtype=torch.float64)
    laws = {
        "isotropic": tpf.Gaussian((2,), 1.0, 2.0),
        "diagonal": tpf.Gaussian((2,), torch.tensor([1.0, -1.0]), torch.tensor([0.5, 2.0])),
        "full": tpf.Gaussian((2,), 0.3, scale_tril=factor),
        "mixture": tpf.distributions.GaussianMixture(
            torch.tensor([[0.0, 1.0], [2.0, -1.0]]),
            weights=[0.2, 0.8],
            covariances=torch.stack([factor @ factor.mT, torch.eye(2, dtype=torch.float64)]),
        ),
        "uniform": tpf.distributions.Uniform((2,), -1.0, torch.tensor([1.0, 2.0])),
    }
    grid = torch.linspace(-9, 9, 721, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    cell = float(grid[1] - grid[0]) ** 2
    for label, law in laws.items():
        x = law.sample(200_000, generator=seeded(), dtype=torch.float64)
        density = law.log_prob(points).exp() * cell
        slack = 0.03 if label == "uniform" else 1e-3
        assert float(density.sum()) == pytest.approx(1, abs=slack), label
        mean = (density[:, None] * points).sum(0)
        torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.03)
        second = (density[:, None, None] * points[:, :, None] * points[:, None]).sum(0)
        torch.testing.assert_close(x.mT @ x / len(x), second, rtol=0.02, atol=0.05)


def test_gaussian_fit_recovers_mean_and_covariance():
    factor = torch.tensor([[1.0, 0.0], [0.7, 0.5]], dtype=torch.float64)
    law = tpf.Gaussian((2,), torch.tensor([3.0, -1.0]), scale_tril=factor)
    x = law.sample(100_000, generator=seeded(), dtype=torch.float64)
    full = tpf.Gaussian.fit(x, covariance="full")
    torch.testing.assert_close(full.covariance(), factor @ factor.mT, rtol=0.03, atol=0.01)
    diagonal = tpf.Gaussian.fit(x)
    torch.testing.assert_close(diagonal.covariance().diagonal(), x.var(0))
    assert tpf.Gaussian.fit(x, covariance="isotropic").isotropic
    with pytest.raises(ValueError, match="do not vary"):
        tpf.Gaussian.fit(torch.tensor([[0.0, 1.0], [0.0, 2.0]]))
    with pytest.raises(ValueError, match="'full'"):
        tpf.Gaussian.fit(x, covariance="sparse")


def test_any_object_with_sample_is_a_base_and_is_seeded():
    class Plain:
        def sample(self, n):
            return torch.rand(n, 2)

    class Seeded:
        def sample(self, n, *, generator=None):
            return torch.rand(n, 2, generator=generator)

    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    for law in (Plain(), Seeded(), torch.distributions.Normal(torch.zeros(2), torch.ones(2))):
        wrapped = tpf.distributions.as_distribution(law)
        a, b = (wrapped.sample(5, generator=seeded(3)) for _ in range(2))
        assert torch.equal(a, b)
        assert not torch.equal(a, wrapped.sample(5, generator=seeded(4)))
        law_of = tpf.Process(tpf.Linear(tpf.Brownian()), law)
        assert law_of.noise_part.base_scale is None
        assert law_of.sample(torch.zeros(4, 2), generator=seeded()).x.shape == (4, 2)
    assert torch.equal(state, torch.random.get_rng_state())
    normal = tpf.distributions.as_distribution(
        torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    )
    x = torch.randn(4, 2, generator=seeded())
    torch.testing.assert_close(normal.log_prob(x), tpf.Gaussian((2,)).log_prob(x))


@pytest.mark.parametrize(
    "use",
    [
        lambda own: tpf.Velocity(tpf.networks.MLP(2, 8, 1), own).score(
            torch.tensor(0.5), torch.ones(1, 2)
        ),
        lambda own: tpf.oracle(own, tpf.Gaussian((2,))),
        tpf.sdes.InterpolantSDE,
    ],
    ids=["field", "oracle", "sde"],
)
def test_messages_name_the_class_of_a_base_of_the_users_own(use):
    class Ring:
        def sample(self, n):
            return torch.randn(n, 2)

    own = tpf.Process(tpf.Linear(), base=Ring())
    with pytest.raises((ValueError, TypeError), match="Ring") as found:
        use(own)
    assert "_Wrapped" not in str(found.value)


@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
@pytest.mark.parametrize("shape", [(2,), (1, 3, 3)])
def test_minibatch_ot_permutes_and_lowers_the_cost(method, shape):
    coupling = tpf.MinibatchOT(method)
    x0, x1 = torch.randn(2, 64, *shape, generator=seeded())
    a, b = coupling.pair(x0, x1, generator=seeded())
    assert torch.equal(b, x1)
    order = a.flatten(1)[:, 0].sort().values
    assert torch.equal(order, x0.flatten(1)[:, 0].sort().values)  # a permutation: nothing twice
    cost = (a - b).square().sum()
    assert float(cost) < 0.8 * float((x0 - x1).square().sum())
    if method == "exact":
        from scipy.optimize import linear_sum_assignment

        matrix = torch.cdist(x0.flatten(1).double(), x1.flatten(1).double()).square().numpy()
        rows, columns = linear_sum_assignment(matrix)
        assert float(cost) == pytest.approx(matrix[rows, columns].sum(), rel=1e-5)
    else:
        c, _ = coupling.pair(x0, x1, generator=seeded(1))
        again, _ = coupling.pair(x0, x1, generator=seeded())
        assert torch.equal(a, again)
        assert not torch.equal(a, c)
        loose = tpf.MinibatchOT("sinkhorn", regularisation=100.0).pair(x0, x1, generator=seeded())
        assert float((loose[0] - loose[1]).square().sum()) > 1.2 * float(cost)


def test_sinkhorn_pairs_have_the_law_of_the_perturbed_plan(monkeypatch):
    """Permutations π maximise ``Σ log P_iπ(i) + G_iπ(i)``, G Gumbel: against a search in numpy.

    Four rows: with two, the law is the same for G and for -G.
    """
    plan = np.stack([np.roll([0.6, 0.2, 0.15, 0.05], k) for k in range(4)]) / 4
    log_plan = torch.from_numpy(plan).log()
    monkeypatch.setattr("transportflows.couplings.transport.log_plan", lambda *_: log_plan)
    orders = list(itertools.permutations(range(4)))
    x, draws = torch.arange(4.0)[:, None], seeded()
    pairs = (tpf.MinibatchOT("sinkhorn").pair(x, x, generator=draws)[0] for _ in range(2500))
    places = [orders.index(tuple(a.argsort(0).flatten().tolist())) for a in pairs]
    found = np.bincount(places, minlength=24)

    def p_value(sign):
        gumbel = sign * np.random.default_rng(0).gumbel(size=(100_000, 4, 4))
        score = gumbel + np.log(plan)
        best = np.stack([score[:, range(4), order].sum(1) for order in orders], 1).argmax(1)
        law = np.bincount(best, minlength=24)
        return chi2_contingency(np.stack([found, law])).pvalue

    assert p_value(1) > 1e-4
    assert p_value(-1) < 1e-6


def test_minibatch_ot_asks_for_the_plan_that_it_says(monkeypatch):
    """Squared distances, x0 down and x1 across; ε relative to their median without the zeros."""
    calls = []
    plan = np.array([[1.0, 5.0, 3.0], [4.0, 0.0, 5.0], [4.0, 4.0, 1.0]]) / 27

    def solve(cost, epsilon):
        calls.append((64 * cost.numpy(), 64 * epsilon))  # it works in units of 8
        return torch.from_numpy(plan + 1e-300).log()

    monkeypatch.setattr("transportflows.couplings.transport.log_plan", solve)
    x0, x1 = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [5.0]])
    cost = np.array([[0.0, 1.0, 25.0], [1.0, 0.0, 16.0], [4.0, 1.0, 9.0]])
    tpf.MinibatchOT("sinkhorn", regularisation=0.3).pair(x0, x1, generator=seeded())
    np.testing.assert_allclose(calls[0][0], cost, atol=1e-12)
    assert calls[0][1] == pytest.approx(0.3 * 4.0)
    tpf.MinibatchOT("sinkhorn", epsilon=0.3).pair(x0, x1, generator=seeded())
    assert calls[1][1] == pytest.approx(0.3)
    # A plan that is no permutation: its best one has 5 + 5 + 4, (0, 1), (1, 2), (2, 0).
    assert best_permutation(torch.from_numpy(plan)).tolist() == [2, 0, 1]


def test_minibatch_ot_refuses_what_is_not_finite():
    x0, x1 = torch.zeros(4, 2), torch.zeros(4, 2)
    x0[2] = float("nan")
    with pytest.raises(ValueError, match="finite batch"):
        tpf.MinibatchOT().pair(x0, x1)
    with pytest.raises(ValueError, match="'exact', 'sinkhorn'"):
        tpf.MinibatchOT("greedy")


def test_paired_data_need_both_and_keep_their_rows():
    law = tpf.Process(tpf.Linear(), coupling=tpf.Paired())
    x0, x1 = torch.randn(2, 6, 2, generator=seeded())
    s = law.sample(x1, x0=x0, t=0.5)
    torch.testing.assert_close(s.x, 0.5 * (x0 + x1))
    with pytest.raises(ValueError, match="x0 must be given"):
        law.sample(x1)
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1), law)
    with pytest.raises(ValueError, match="start="):
        tpf.sample(field, 5)
    assert tpf.sample(field, start=x0, steps=2).x.shape == (6, 2)


# -------------------------------------------------------------------------------- time samplers


def test_time_samplers_have_their_laws():
    n = 50_000
    samplers = {
        tpf.times.UniformTimes(): lambda u: u,
        tpf.times.StratifiedTimes(): lambda u: u,
        tpf.times.LogitNormalTimes(0.5, 0.8): lambda u: torch.sigmoid(
            0.5 + 0.8 * math.sqrt(2) * torch.erfinv(2 * u - 1)
        ),
    }
    levels = torch.linspace(0.05, 0.95, 19)
    for sampler, quantile in samplers.items():
        t = sampler.sample(n, generator=seeded())
        given = torch.quantile(t, levels)
        torch.testing.assert_close(given, quantile(levels), rtol=0, atol=0.015)
    t = tpf.times.StratifiedTimes().sample(100, generator=seeded()).sort().values
    assert bool(((t * 100).floor() == torch.arange(100.0)).all())
    t = tpf.times.GridTimes([0.1, 0.7]).sample(1000, generator=seeded())
    torch.testing.assert_close(t.unique(), torch.tensor([0.1, 0.7]))
    t = tpf.times.UniformTimes(margin=(0.2, 0.1)).sample(n, generator=seeded())
    assert 0.2 <= float(t.min()) < 0.201
    assert 0.899 < float(t.max()) <= 0.9
    for bad in (-0.1, 0.6, (0.5, 0.5)):
        with pytest.raises(ValueError, match="margins"):
            tpf.times.UniformTimes(margin=bad)


# ------------------------------------------------------------------------------------ transform


def test_standardize_fits_applies_and_inverts():
    x = torch.randn(500, 3, 4, 4, generator=seeded()) * 3 + 7
    x[:, 0, 0, 0] = 5.0  # a coordinate that does not vary
    for shared, shape in (((), (3, 4, 4)), ((1, 2), (3, 1, 1)), ("all", (1, 1, 1))):
        transform = tpf.Standardize.fit(x, shared=shared)
        assert transform.mean.shape == shape
        y = transform(x)
        torch.testing.assert_close(transform.invert(y), x, rtol=1e-5, atol=1e-5)
        dims = (0,) if shared == () else (0, 2, 3) if shared == (1, 2) else (0, 1, 2, 3)
        assert float(y.mean(dims).abs().max()) < 1e-5
    one = tpf.Standardize.fit(x).scale[0, 0, 0]
    assert float(one) == 1.0
    transform = tpf.Standardize(scale=torch.tensor([2.0, 4.0]))
    assert transform.log_abs_det((2,)) == pytest.approx(-math.log(8))
    assert tpf.Standardize(scale=2.0).log_abs_det((3,)) == pytest.approx(-3 * math.log(2))


# --------------------------------------------------------------------------------------- losses

PAIRS = [
    (tpf.VelocityLoss, tpf.Velocity, "velocity"),
    (tpf.MeanVelocityLoss, tpf.MeanVelocity, "mean_velocity"),
    (tpf.NoiseLoss, tpf.NoisePredictor, "noise"),
    (tpf.DataLoss, tpf.DataPredictor, "data"),
    (tpf.ScoreLoss, tpf.Score, "score"),
]
PATHS = [
    tpf.Linear(tpf.interpolants.Quadratic()),
    tpf.OneSidedLinear(),
    tpf.SBDM(),
    tpf.EncoderDecoder(),
    tpf.Trigonometric(tpf.interpolants.SineSquared()),
]


@pytest.mark.parametrize("interpolant", PATHS, ids=name)
@pytest.mark.parametrize(("loss", "cls", "quantity"), PAIRS, ids=[p[2] for p in PAIRS])
@pytest.mark.parametrize("two_sided", [False, True], ids=["gaussian", "mixture"])
def test_the_oracle_minimises_every_loss_and_the_excess_is_exact(
    interpolant, loss, cls, quantity, two_sided
):
    """L(f + δ) - L(f) = ½ E w|δ|² only if f is E[T | x_t]: factor, sign and time all matter."""
    if two_sided and not interpolant.uses_base:
        pytest.skip("a one-sided path has no base to exchange")
    base = mixture([[-1.0], [1.5]], 0.6) if two_sided else tpf.Gaussian((1,), 0.4, 1.5)
    law = process(interpolant, (1,), base=base)
    data = mixture([[-1.0], [0.8]], 0.5, weights=[0.3, 0.7])
    oracle = tpf.oracles.GaussianMixtureOracle(law, data)
    n = 200_000
    x1 = data.sample(n, generator=seeded(), dtype=torch.float64)
    t = torch.empty(n, dtype=torch.float64).uniform_(0.1, 0.9, generator=seeded(1))
    sample = law.sample(x1, t=t, generator=seeded(2))
    exact = getattr(oracle, quantity)
    bumps = (lambda t, x: 0.5 * torch.sin(x), lambda t, x: 0.3 + 0.2 * x)
    weight = law.noise_part.scale_sq(t) if quantity == "score" else torch.ones_like(t)
    size = float(exact(t, sample.x).abs().mean())
    for bump in bumps:
        both = []
        for constant in (True, False):
            measure = loss(constant=constant)
            moved = cls(lambda t, x, b=bump: exact(t, x) + b(t, x), law)
            right = cls(exact, law)
            rows = measure.evaluate(moved, sample) - measure.evaluate(right, sample)
            both.append(rows)
        torch.testing.assert_close(both[0], both[1], rtol=1e-6, atol=1e-6)
        excess = 0.5 * weight * bump(t, sample.x).square().squeeze(1)
        gap = both[0] - excess  # mean zero: w δ · (f - T)
        error = float(gap.std()) / math.sqrt(n)
        assert abs(float(gap.mean())) < 4.5 * error
        assert error < 0.02 * max(size, 1.0)
        given = tpf.losses.squared_error(moved, oracle, sample, quantity)
        torch.testing.assert_close(0.5 * weight * given, excess, rtol=1e-8, atol=1e-10)


def test_losses_split_into_drawing_and_evaluating():
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1), process(tpf.Linear(tpf.Brownian())))
    x1 = torch.randn(10, 2, generator=seeded())
    for loss in (tpf.VelocityLoss(), tpf.VelocityLoss(antithetic=True)):
        whole = loss(field, x1, generator=seeded(3))
        split = loss.evaluate(field, loss.draw(field, x1, generator=seeded(3)))
        assert torch.equal(whole, split)
        assert whole.shape == (10,)
    weighted = tpf.VelocityLoss(weight=lambda t: 2 * t)
    sample = weighted.draw(field, x1, generator=seeded(3))
    expected = 2 * sample.t * tpf.VelocityLoss().evaluate(field, sample)
    torch.testing.assert_close(weighted.evaluate(field, sample), expected)
    score = tpf.ScoreLoss(
        weight=lambda t: torch.ones_like(t), times=tpf.times.UniformTimes(margin=0.1)
    )
    sample = score.draw(field, x1, generator=seeded(3))
    target = -sample.noise / field.process.noise_part.scale(sample.t)[:, None]
    s_field = tpf.Score(tpf.networks.MLP(2, 8, 1), field.process)
    plain = 0.5 * (s_field(sample.t, sample.x) - target).square().sum(1)
    torch.testing.assert_close(score.evaluate(s_field, sample), plain, rtol=1e-5, atol=1e-5)


def test_sum_loss_calls_a_two_headed_network_once():
    calls = []

    class Heads(torch.nn.Module):
        def forward(self, t, x):
            calls.append(1)
            return torch.stack([x, 2 * x], 1)

    law = process(tpf.Linear(tpf.Brownian()), base=tpf.distributions.Uniform((2,)))
    field = tpf.FieldPair(heads=Heads(), outputs=("mean_velocity", "noise"), process=law)
    loss = tpf.losses.SumLoss(tpf.MeanVelocityLoss(), tpf.NoiseLoss())
    x1 = torch.randn(5, 2, generator=seeded())
    sample = loss.losses[0].draw(field, x1, generator=seeded())
    terms = loss.terms(field, sample)
    assert len(calls) == 1
    v = 0.5 * (sample.x - (sample.x1 - sample.x0)).square().sum(1)
    eta = 0.5 * (2 * sample.x - sample.z).square().sum(1)
    torch.testing.assert_close(terms, torch.stack([v, eta]))
    with pytest.raises(ValueError, match="not 'data'"):
        tpf.losses.SumLoss(tpf.DataLoss())(field, x1)


# -------------------------------------------------------------------------------- fields, files


def test_field_pairs_refuse_what_is_not_a_pair():
    law, net = process(tpf.Linear(tpf.Brownian())), tpf.networks.MLP(2, 8, 1)
    for kwargs in (
        {"velocity": net, "process": law},
        {"velocity": net, "mean_velocity": net, "process": law},
        {"velocity": tpf.Score(net, law), "noise": net},
        {"velocity": net, "noise": net},
        {"heads": net, "velocity": net, "process": law},
        {"heads": net, "outputs": ("noise", "velocity"), "process": law},
    ):
        with pytest.raises(ValueError, match=r"FieldPair|heads|was given"):
            tpf.FieldPair(**kwargs)
    units = [tpf.Standardize(scale=2.0), tpf.Standardize(scale=3.0)]
    with pytest.raises(ValueError, match="share one transform"):
        tpf.FieldPair(
            velocity=tpf.Velocity(net, law, transform=units[0]),
            noise=tpf.NoisePredictor(net, law, transform=units[1]),
        )
    other = tpf.networks.MLP(2, 8, 1)
    pair = tpf.FieldPair(velocity=tpf.Velocity(net, law), score=tpf.Score(other, law))
    assert pair.outputs == ("velocity", "score")
    with pytest.raises(ValueError, match="two heads"):
        tpf.FieldPair(heads=net, process=law)(torch.tensor(0.5), torch.zeros(3, 2))


def test_mlp_takes_labels_and_two_kinds_of_time():
    net = tpf.networks.MLP((1, 2, 2), 16, 2, labels=3, generator=seeded())
    x = torch.randn(4, 1, 2, 2, generator=seeded())
    label = torch.tensor([0, 1, 2, -1])
    one, many = net(torch.tensor(0.3), x, label=label), net(torch.full((4,), 0.3), x, label=label)
    torch.testing.assert_close(one, many)
    torch.testing.assert_close(one[3:], net(torch.tensor(0.3), x)[3:])
    assert not torch.allclose(one[:3], net(torch.tensor(0.3), x)[:3])
    assert not torch.allclose(one, net(torch.tensor(0.4), x, label=label))
    for label in (torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, -2])):
        with pytest.raises(ValueError, match="classes 0 to 2"):
            net(torch.tensor(0.3), x, label=label)
    with pytest.raises(ValueError, match="takes no label"):
        tpf.networks.MLP(2, 8, 1)(torch.tensor(0.3), torch.zeros(4, 2), label=label)
    with pytest.raises(ValueError, match=r"write MLP\(\(3,\)\)"):
        tpf.networks.MLP(2, 8, 1)(torch.tensor(0.3), torch.zeros(4, 3))


def test_the_time_features_of_an_mlp_are_the_first_harmonics_of_the_unit_interval():
    """Column by column ``t, cos 2πkt, sin 2πkt``, k = 1, 2, 3, as powers of ``exp(2πit)``."""
    net, seen = tpf.networks.MLP(2, 8, 1, frequencies=3, generator=seeded()).double(), []
    net.embed_t.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    t = torch.tensor([0.0, 0.125, 0.3, 1.0], dtype=torch.float64)
    net(t, torch.zeros(4, 2, dtype=torch.float64))
    turn = [cmath.exp(2j * cmath.pi * float(s)) for s in t]
    powers = [[w**k for k in (1, 2, 3)] for w in turn]
    expected = [
        [float(s), *(p.real for p in row), *(p.imag for p in row)]
        for s, row in zip(t, powers, strict=True)
    ]
    torch.testing.assert_close(seen[0], torch.tensor(expected, dtype=t.dtype), rtol=0, atol=1e-5)


def test_a_network_of_another_dtype_is_called_in_its_own():
    net = tpf.networks.MLP(2, 8, 1, generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    found = tpf.Velocity(net, process(tpf.Linear())).velocity(torch.tensor(0.5), x)
    assert found.dtype == torch.float32
    t = torch.full((3,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(found, net(t, x.double()).float())


@pytest.mark.parametrize("interpolant", [i for i in INTERPOLANTS if i.has_latent], ids=name)
@pytest.mark.parametrize("outputs", [("velocity", "noise"), ("mean_velocity", "noise"), ("noise",)])
def test_weights_at_the_ends_are_limits_from_inside(interpolant, outputs):
    """The weights of the noise, ``γγ̇/σ̂``, are 0/0 at a common zero of γ and σ̂."""
    law = process(interpolant, base=tpf.Gaussian((2,), 0.4, 1.5))
    nets = dict.fromkeys(outputs, torch.nn.Identity())
    field = (
        tpf.FieldPair(**nets, process=law)
        if len(nets) > 1
        else tpf.NoisePredictor(*nets.values(), law)
    )
    ends, inside = torch.tensor([[0.0, 1.0], [1e-8, 1 - 1e-8]], dtype=torch.float64)
    for target in {"velocity", "mean_velocity"} - set(outputs):
        at, near = (torch.stack(field.weights(target, t).tensors()) for t in (ends, inside))
        regular = at.isfinite().all(0)
        torch.testing.assert_close(at[:, regular], near[:, regular], rtol=1e-3, atol=1e-3)


def test_the_weight_of_the_noise_of_a_quadratic_latent_beside_a_base():
    """``v = b - (γγ̇/σ̂) η̂``; near t = 1 γγ̇ = -(1 - t), and σ̂ = √2 (1 - t)."""
    law = tpf.Process(tpf.Linear(tpf.interpolants.Quadratic()), tpf.Gaussian((1,)))
    pair = tpf.FieldPair(velocity=torch.nn.Identity(), noise=torch.nn.Identity(), process=law)
    one = torch.ones((), dtype=torch.float64)
    assert float(pair.weights("mean_velocity", one).outputs[1]) == pytest.approx(0.5**0.5)


# ------------------------------------------------------------------------------- public checks


def test_check_field_accepts_and_says_what_is_wrong():
    law = process(tpf.Linear(), (2,))
    oracle = tpf.oracles.GaussianMixtureOracle(law, mixture([[1.0, 0.0], [-1.0, 1.0]], 0.5))
    x = torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    right = tpf.Velocity(oracle.velocity, law)
    tpf.testing.check_field(right, x, oracle=oracle)
    tpf.testing.check_field(oracle, x, oracle=oracle)

    def one_time(t, x):
        return t * x if t.ndim == 0 else 2 * x

    one_time.takes_one_time = True  # so it is given one, and must treat it as it does many
    wrong = {
        "projection on the exact one is -1": tpf.Velocity(lambda t, x: -oracle.velocity(t, x), law),
        "differs from the oracle": tpf.Velocity(lambda t, x: oracle.velocity(1 - t, x), law),
        "projection on the exact one is 2": tpf.Velocity(
            lambda t, x: 2 * oracle.velocity(t, x), law
        ),
        "rows are not independent": tpf.Velocity(lambda t, x: x - x.mean(0), law),
        "must give the shape": tpf.Velocity(lambda t, x: x[:, :1], law),
        "broken broadcast": tpf.Velocity(one_time, law),
        "not finite": tpf.Velocity(lambda t, x: x / 0, law),
    }
    for message, field in wrong.items():
        with pytest.raises(tpf.testing.CheckError, match=message):
            tpf.testing.check_field(field, x, oracle=oracle)
    still = tpf.testing.check_field(tpf.Velocity(lambda t, x: x, law), x)
    assert still.notes == ["velocity does not depend on time"]


def test_what_a_process_knows_follows_its_interpolant():
    law = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    assert law.target_margin == (0.0, 0.0)
    before = law.part
    assert law.part is before
    law.interpolant = tpf.Linear(gamma=tpf.Brownian())
    assert law.target_margin == (1e-4, 1e-4)
    assert law.part is not before
    assert float(law.part.scale(torch.tensor(0.5))) > float(before.scale(torch.tensor(0.5)))


def test_a_coupling_sees_the_conditions():
    """Sorted within each label, as a plan that does not mix labels would be."""

    class Within(tpf.couplings.Coupling):
        def pair(self, x0, x1, cond=None, *, generator=None):
            x0 = x0.clone()
            for label in cond["label"].unique():
                own = cond["label"] == label
                ranks = x1[own, 0].argsort().argsort()
                x0[own] = x0[own].sort(0).values[ranks]
            return x0, x1

    law = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)), coupling=Within())
    x1, label = torch.randn(40, 1, generator=seeded()), torch.arange(40) % 2
    drawn = law.sample(x1, cond={"label": label}, generator=seeded(1))
    for k in (0, 1):
        own = label == k
        assert torch.equal(drawn.x0[own, 0].argsort(), x1[own, 0].argsort())
    assert torch.equal(drawn.cond["label"], label)
