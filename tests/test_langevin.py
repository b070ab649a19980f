"""Langevin chains, gradient ascent, annealed Langevin, predictor-corrector."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from scipy import optimize, special
from torch.utils._python_dispatch import TorchDispatchMode

import transportflows as tpf
from families import mixture
from transportflows._core.distributed import World
from transportflows._core.random import draw_key
from transportflows._core.random import mix as mix_key
from transportflows.langevin.curvature import largest_curvature
from transportflows.solve import Chunks

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def key_of(seed):
    """The key that a sampler draws from ``seeded(seed)``."""
    return draw_key(seeded(seed))


def normals(key, step, like):
    """The standard normals of a step, as :class:`Increments` draws them."""
    source = tpf.solve.Increments()
    source.begin(key, like, 0.0)
    return source.increment(step, 0.0, 1.0, area=False)[0]


def gaussian(interpolant, scale=1.3, mean=0.0, d=1):
    """An exact field with Gaussian data."""
    law = tpf.Gaussian((d,), mean=torch.full((d,), mean), scale=scale)
    return tpf.oracle(tpf.Process(interpolant, shape=(d,)), law)


class _Reads(TorchDispatchMode):
    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item", "masked_select")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.NAMES
        return func(*args, **(kwargs or {}))


def close(measured, exact, standard_error, k=4.5):
    """Within k standard errors."""
    off = (torch.as_tensor(measured) - exact).abs() / standard_error
    assert bool((off < k).all()), (measured, exact, off)


def close_variance(x, exact):
    """The variance of normal draws is the exact one, within 4.5 standard errors."""
    n = x.numel()
    close(float(x.double().var()) / exact, 1.0, math.sqrt(2 / n))


# -------------------------------------------------------------------------------- the step


@pytest.mark.parametrize("shape", [(4, 2), (3, 2, 2, 2)])
def test_step_is_the_formula(shape):
    x, s, z = torch.randn(3, *shape, generator=seeded(), dtype=DOUBLE)
    rows = torch.linspace(0.1, 0.4, shape[0], dtype=DOUBLE)
    for temperature in (1.0, 0.3):
        for h in (0.2, torch.tensor(0.2, dtype=DOUBLE), rows):
            wide = h.view(-1, *(1,) * (len(shape) - 1)) if torch.is_tensor(h) else h
            exact = x + wide * s + (2 * temperature * wide) ** 0.5 * z
            got = tpf.langevin.langevin_step(x, s, h, z, temperature=temperature)
            torch.testing.assert_close(got, exact, atol=1e-14, rtol=0)


def test_step_is_differentiable_and_leaves_its_arguments():
    x = torch.randn(3, 2, dtype=DOUBLE, requires_grad=True)
    z, before = torch.randn(3, 2, dtype=DOUBLE), x.detach().clone()
    assert torch.autograd.gradcheck(lambda y: tpf.langevin.langevin_step(y, -y, 0.3, z), (x,))
    assert torch.equal(x.detach(), before)


# ---------------------------------------------------------------------------- the unadjusted chain


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("h", [0.4, 1.5])
def test_unadjusted_chain_has_its_own_variance(h, temperature):
    """On N(0, v): T v / (1 - h / (2v)), far from T v and from what a step of 2h or h/2 has."""
    v, n = 2.0, 60_000
    run = tpf.langevin.langevin(
        lambda x: -x / v,
        torch.zeros(n, 1),
        step_size=h,
        steps=80,
        temperature=temperature,
        generator=seeded(3),
    )
    close_variance(run.x, temperature * v / (1 - h / (2 * v)))
    assert run.nfe == 80
    assert bool((run.acceptance == 1).all())


def test_a_step_size_for_each_row():
    v, n = 2.0, 20_000
    h = torch.tensor([0.2, 1.0, 2.0]).repeat_interleave(n)
    run = tpf.langevin.langevin(
        lambda x: -x / v, torch.zeros(3 * n, 1), step_size=h, steps=120, generator=seeded(1)
    )
    for size, part in zip((0.2, 1.0, 2.0), run.x.split(n), strict=True):
        close_variance(part, v / (1 - size / (2 * v)))


def test_a_step_size_that_depends_on_the_state_spoils_the_law():
    """Why no corrector scales rows by their own score: p/h is left invariant, and not p."""
    x = torch.randn(30_000, 1, generator=seeded(), dtype=DOUBLE)

    def size(x):
        return 0.02 / (1 + x[:, 0].square())

    for k in range(1500):
        z = torch.randn(x.shape, generator=seeded(mix_key(5, k)), dtype=DOUBLE)
        x = tpf.langevin.langevin_step(x, -x, size(x), z)
    grid = torch.linspace(-9, 9, 20_001, dtype=DOUBLE)
    density = torch.exp(-0.5 * grid.square()) * (1 + grid.square())
    exact = float((density * grid.square()).sum() / density.sum())  # 2, for p itself 1
    assert exact == pytest.approx(2.0)
    assert abs(float(x.square().mean()) - exact) < 0.1


def test_events_of_any_shape_and_both_dtypes():
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(7, 3, 4, 4, dtype=dtype, generator=seeded())
        flat = tpf.langevin.langevin(
            lambda y: -y, x.flatten(1), step_size=0.1, steps=5, generator=seeded()
        )
        for metropolis in (False, True):
            score = tpf.langevin.score_of(lambda y: -0.5 * y.square().flatten(1).sum(1))
            run = tpf.langevin.langevin(
                score, x, step_size=0.1, steps=5, metropolis=metropolis, generator=seeded()
            )
            assert run.x.dtype == dtype
            if not metropolis:
                torch.testing.assert_close(run.x.flatten(1), flat.x)


@pytest.mark.parametrize("metropolis", [False, True])
def test_chunks_and_seeds(metropolis):
    x = torch.randn(50, 2, generator=seeded())
    centre = torch.arange(50.0)

    def log_prob(y, centre, power):
        return -(y - centre[:, None]).abs().pow(power).sum(1)

    def run(chunk=None, seed=0, **more):
        return tpf.langevin.langevin(
            tpf.langevin.score_of(log_prob),
            x + centre[:, None],
            step_size=0.1,
            steps=20,
            metropolis=metropolis,
            cond={"centre": centre, "power": 3},
            chunk=chunk,
            generator=seeded(seed),
            **more,
        )

    whole = run()
    for chunk in (1, 7, 49, 1000):
        torch.testing.assert_close(run(chunk).x, whole.x)
    assert torch.equal(run().x, whole.x)
    assert not torch.equal(run(seed=1).x, whole.x)
    saved = run(save_at=[0, 20, 3])
    torch.testing.assert_close(saved.trajectory[0], x + centre[:, None])
    torch.testing.assert_close(saved.trajectory[1], whole.x)
    assert saved.saved_at.tolist() == [0, 20, 3]


# --------------------------------------------------------------------------- Metropolis-adjusted


def tilted(x, power=3.0, slope=0.7):
    """A law that is not Gaussian, nor symmetric."""
    return (-x.abs().pow(power) + slope * x).sum(1)


def exact_draws(n, temperature, seed):
    """Draws of ``exp(tilted/T)`` in one dimension, by the inverse of its distribution function."""
    grid = torch.linspace(-6, 6, 200_001, dtype=DOUBLE)
    mass = torch.exp(tilted(grid[:, None]) / temperature)
    cdf = (mass.cumsum(0) - 0.5 * mass) / mass.sum()
    u = torch.rand(n, generator=seeded(seed), dtype=DOUBLE)
    return torch.from_numpy(np.interp(u.numpy(), cdf.numpy(), grid.numpy()))[:, None]


def moments(x):
    return torch.cat([x, x.square(), x.pow(3), (x.abs() < 0.3).to(x.dtype)], 1)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("h", [0.05, 0.4, 1.5])
def test_metropolis_leaves_a_law_invariant_at_any_step_size(h, temperature):
    x = exact_draws(40_000, temperature, seed=11)
    score = tpf.langevin.score_of(tilted)

    def drift_of(metropolis):
        run = tpf.langevin.langevin(
            score,
            x,
            step_size=h,
            steps=8,
            metropolis=metropolis,
            temperature=temperature,
            generator=seeded(12),
        )
        change = moments(run.x) - moments(x)
        return change.mean(0) / change.std(0) * math.sqrt(len(x))

    assert float(drift_of(True).abs().max()) < 4.5
    if h >= 0.4:  # and the test can tell: the unadjusted chain fails it
        off = drift_of(False)
        assert not bool(off.isfinite().all()) or float(off.abs().max()) > 4.5


def test_metropolis_is_reversible():
    """Detailed balance: E f(x) g(x') is symmetric."""
    x = exact_draws(100_000, 1.0, seed=21)
    for log_prob in (None, tilted):
        score = (
            tpf.langevin.score_of(tilted)
            if log_prob is None
            else lambda y: tpf.langevin.score_of(tilted)(y)
        )
        run = tpf.langevin.langevin(
            score,
            x,
            step_size=0.3,
            steps=1,
            metropolis=True,
            log_prob=log_prob,
            generator=seeded(22),
        )
        y = run.x
        pairs = [
            x * y.square() - y * x.square(),
            x.pow(3) * y - y.pow(3) * x,
            torch.tanh(4 * x) * y.square() - torch.tanh(4 * y) * x.square(),
        ]
        for difference in pairs:
            close(difference.mean(), 0.0, difference.std() / math.sqrt(len(x)))


def test_acceptance_is_of_each_row():
    x = torch.randn(200, 2, generator=seeded(), dtype=DOUBLE)
    h = torch.cat([torch.full((100,), 1e-3), torch.full((100,), 50.0)])
    run = tpf.langevin.langevin(
        tpf.langevin.score_of(lambda y: -0.5 * y.square().sum(1)),
        x,
        step_size=h,
        steps=60,
        metropolis=True,
        save_at=range(61),
        generator=seeded(),
    )
    moved = (run.trajectory.diff(dim=0) != 0).any(2).double().mean(0)
    torch.testing.assert_close(run.acceptance, moved)
    assert float(run.acceptance[:100].min()) > 0.95
    assert float(run.acceptance[100:].max()) < 0.2
    assert run.nfe == 61


@pytest.mark.parametrize("h", [1e-3, 20.0])
def test_warmup_finds_a_step_size(h):
    run = tpf.langevin.langevin(
        tpf.langevin.score_of(lambda y: -0.5 * y.square().sum(1)),
        torch.randn(300, 10, generator=seeded()),
        step_size=h,
        steps=300,
        warmup=200,
        metropolis=True,
        generator=seeded(),
    )
    assert abs(float(run.acceptance.mean()) - 0.574) < 0.05
    # Roberts & Rosenthal: h = ℓ² d^(-1/3) / 2, with ℓ of the order of 1.65 for a standard normal
    assert 0.2 < float(run.step_size) < 2.0


def test_proposals_that_are_not_finite_are_refused():
    def log_prob(x):  # a half-line: log of a negative number is NaN
        return (x.log() - x).sum(1)

    run = tpf.langevin.langevin(
        tpf.langevin.score_of(log_prob),
        torch.full((4000, 1), 2.0),
        step_size=0.5,
        steps=200,
        metropolis=True,
        generator=seeded(2),
    )
    assert bool((run.x > 0).all())
    close(run.x.mean(), 2.0, math.sqrt(2.0 / 4000))  # Gamma(2, 1)


# ------------------------------------------------------------------------------------ scores


def test_a_field_of_such_a_score_has_its_divergence_and_gradients():
    """A network that is the gradient of a log-density, beside the same one by hand."""

    def log_prob(y, t):
        return -y.square().sum(1) / (2 * ((1 - t) ** 2 + t**2)) - t * y.pow(3).sum(1) / 10

    def by_hand(t, x):
        t = t[:, None]
        return -x / ((1 - t) ** 2 + t**2) - 0.3 * t * x.square()

    def by_autograd(t, x):
        return tpf.langevin.score_of(lambda y: log_prob(y, t))(x)

    process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
    x = torch.randn(3, 2, generator=seeded(), dtype=DOUBLE)
    found = []
    for net in (by_hand, by_autograd):
        field, start = tpf.Score(net, process), x.clone().requires_grad_()
        density = tpf.log_likelihood(field, x, scheme="rk4", steps=10).log_prob
        end = tpf.sample(field, start=start, t=(0.1, 0.9), steps=3, gradients=True).x
        found.append((density, end, torch.autograd.grad(end.square().sum(), start)[0]))
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


def test_what_a_log_density_learns_has_the_gradient_of_its_score():
    """Score matching through an energy: of N(0, 1/k) the score is -k x, ∂_k |s|² = 2 k x²."""
    k = torch.tensor(1.5, dtype=DOUBLE, requires_grad=True)
    x = torch.randn(9, 1, generator=seeded(), dtype=DOUBLE)
    score = tpf.langevin.score_of(lambda y: -0.5 * k * y.square().sum(1))
    (slope,) = torch.autograd.grad(score(x).square().sum(), k)
    assert float(slope.detach()) == pytest.approx(float(2 * k * x.square().sum()), rel=1e-12)
    fixed = tpf.langevin.score_of(lambda y: -0.5 * y.square().sum(1))
    assert not fixed(x).requires_grad
    with torch.no_grad():
        assert not score(x).requires_grad


def test_score_of_a_log_density():
    exact = tpf.oracle(tpf.Process(tpf.OneSidedLinear()), mixture([[-1.0, 0.0], [2.0, 1.0]], 0.6))
    t, x = torch.tensor(0.6, dtype=DOUBLE), torch.randn(9, 2, dtype=DOUBLE, generator=seeded())
    score = tpf.langevin.score_of(lambda y: exact.log_prob(t, y))
    torch.testing.assert_close(score(x), exact.score(t, x), atol=1e-12, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(score(x), exact.score(t, x), atol=1e-12, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(score(x + 0), exact.score(t, x + 0), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["velocity", "noise", "data", "score"])
@pytest.mark.parametrize("interpolant", [tpf.OneSidedLinear(), tpf.VP(), tpf.Linear()])
def test_score_at_is_the_score_of_the_field(interpolant, kind):
    law = mixture([[-1.0, 0.0], [2.0, 1.0]], 0.6)
    base = tpf.Gaussian((2,), mean=torch.tensor([0.5, -1.0]), scale=1.5)
    process = tpf.Process(interpolant, base if interpolant.uses_base else None)
    exact = tpf.oracle(process, law)
    kinds = {
        "velocity": tpf.Velocity,
        "noise": tpf.NoisePredictor,
        "data": tpf.DataPredictor,
        "score": tpf.Score,
    }
    field = kinds[kind](getattr(exact, kind), process)
    x = torch.randn(9, 2, dtype=DOUBLE, generator=seeded())
    t = torch.tensor(0.4, dtype=DOUBLE)
    torch.testing.assert_close(tpf.langevin.score_at(field, 0.4)(x), exact.score(t, x))
    with _Reads() as reads:
        tpf.langevin.langevin(tpf.langevin.score_at(field, 0.4), x, step_size=0.01, steps=3)
        few = reads.count
        tpf.langevin.langevin(tpf.langevin.score_at(field, 0.4), x, step_size=0.01, steps=30)
    assert reads.count == 2 * few


def test_scores_that_cannot_be():
    field = tpf.NoisePredictor(lambda t, x: x, tpf.Process(tpf.OneSidedLinear(), shape=(1,)))
    with pytest.raises(tpf.ConversionError, match="singular at t = 1"):
        tpf.langevin.score_at(field, 1.0)
    two_sided = tpf.Velocity(
        lambda t, x: x, tpf.Process(tpf.Linear(), tpf.distributions.Uniform((2,)))
    )
    with pytest.raises(tpf.ConversionError, match="FieldPair"):
        tpf.langevin.score_at(two_sided, 0.5)
    with pytest.raises(TypeError, match="must be a Field"):
        tpf.langevin.score_at(lambda t, x: x, 0.5)
    with pytest.raises(ValueError, match="autograd follows"):
        tpf.langevin.score_of(lambda x: x.detach().sum(1))(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="one number a row"):
        tpf.langevin.score_of(lambda x: -x.square())(torch.zeros(2, 2))


# ------------------------------------------------------------------------------------- ascent


def test_ascent_finds_the_modes():
    """Three components of unequal weights, of which one is only a shoulder: two modes."""
    law = mixture([[-2.0, 0.0], [2.0, 1.0], [2.5, 1.5]], 0.7, weights=[0.5, 0.3, 0.2])
    exact = tpf.oracle(tpf.Process(tpf.OneSidedLinear()), law)
    one = torch.ones((), dtype=DOUBLE)

    def climb(start):
        found = optimize.minimize(
            lambda y: -float(exact.log_prob(one, torch.from_numpy(y)[None])),
            start,
            method="Nelder-Mead",
            options={"xatol": 1e-10, "fatol": 1e-14},
        )
        return torch.from_numpy(found.x)

    modes = torch.stack([climb([-2.0, 0.0]), climb([2.0, 1.0])])
    torch.testing.assert_close(climb([2.5, 1.5]), modes[1], atol=1e-6, rtol=0)
    start = 2 * torch.randn(60, 2, generator=seeded(), dtype=DOUBLE)
    run = tpf.langevin.ascend(
        tpf.langevin.score_at(exact, 1.0), start, step_size=0.4, steps=400, tolerance=1e-8
    )
    distances, nearest = torch.cdist(run.x, modes).min(1)
    assert bool(run.converged.all())
    assert float(distances.max()) < 1e-5
    assert set(nearest.tolist()) == {0, 1}
    assert run.nfe == 401
    rough = tpf.langevin.ascend(tpf.langevin.score_at(exact, 1.0), start, step_size=0.01, steps=3)
    assert not bool(rough.converged.any())
    torch.testing.assert_close(
        rough.residual, 0.01 * exact.score(one, rough.x).norm(dim=1), atol=1e-12, rtol=0
    )


# -------------------------------------------------------------------------------- divergence


def suggested(error):
    return float(re.search(r"Try step_size=([0-9.e+-]+)", str(error.value)).group(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_curvature_is_that_of_log_p(dtype):
    """The steepest downward curvature: 2, and not the upward 5."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=seeded(), dtype=dtype)).Q
    hessian = turn @ torch.diag(torch.tensor([5.0, -2.0, -0.5], dtype=dtype)) @ turn.T
    x = torch.randn(30, 3, generator=seeded(), dtype=dtype)
    found = largest_curvature(lambda y: y @ hessian, Chunks(x), x)
    assert found == pytest.approx(2.0, rel=0.02)


STEEP = {
    "stiff": (lambda x: -1e4 * x, 1e-3, 3.0),
    "narrow": (lambda x: -x * torch.tensor([1.0, 900.0]), 0.01, 3.0),
    "quartic": (lambda x: -x.pow(3), 0.5, 3.0),
    "flat": (lambda x: -x.pow(3), 30.0, 1e-3),  # at the start, and steep on the way
}


@pytest.mark.parametrize(
    ("what", "case"), [*(("langevin", case) for case in STEEP), ("ascend", "narrow")]
)
def test_divergence_names_a_step_size_that_works(what, case):
    score, used, scale = STEEP[case]
    x = scale * torch.randn(200, 2, generator=seeded())

    def run(h):
        if what == "ascend":
            return tpf.langevin.ascend(score, x, step_size=h, steps=600)
        return tpf.langevin.langevin(score, x, step_size=h, steps=600, generator=seeded())

    with pytest.raises(tpf.solve.NonFiniteStateError, match=r"diverged.*at step") as error:
        run(used)
    h = suggested(error)
    assert bool(torch.isfinite(run(h).x).all())
    # And it is not needlessly small: at least a tenth of the limit 2/L over the states met.
    steepest = {"stiff": 1e4, "narrow": 900.0, "quartic": 3 * float(x.square().max()), "flat": 15.0}
    assert 0.2 / steepest[case] < h < 2 / steepest[case]


def test_divergence_names_the_step():
    """|x| grows by the factor 10 a step from 1e30: 1e38 is a number, 1e39 is none."""
    x = torch.full((5, 2), 1e30)
    x[2:] = 1e-3
    with pytest.raises(tpf.solve.NonFiniteStateError, match="at step 8 of 12") as error:
        tpf.langevin.langevin(lambda y: -11 * y, x, step_size=1.0, steps=12, generator=seeded())
    assert error.value.solution.first_bad_step == 8
    assert "2 of 5 rows" in str(error.value)
    with pytest.raises(tpf.solve.NonFiniteStateError, match="at step 8 of 12"):
        tpf.langevin.ascend(lambda y: -11 * y, x, step_size=1.0, steps=12)


# ------------------------------------------------------------------- slow mixing, and its cure


def test_plain_langevin_keeps_wrong_weights_and_annealing_cures_it():
    """The poster's Figure 1. Both with the exact score, and as many evaluations of it."""
    n, weight = 2000, 0.7
    law = mixture([[-4.0, 0.0], [4.0, 0.0]], 0.5, weights=[1 - weight, weight])
    exact = tpf.oracle(tpf.Process(tpf.VE(0.05, 20.0), shape=(2,)), law)
    error = math.sqrt(weight * (1 - weight) / n)
    start = torch.randn(n, 2, generator=seeded(1)) - torch.tensor([4.0, 0.0])
    plain = tpf.langevin.langevin(
        tpf.langevin.score_at(exact, 1.0), start, step_size=0.05, steps=1500, generator=seeded(2)
    )
    share = float((plain.x[:, 0] > 0).double().mean())
    assert abs(share - weight) > 20 * error  # all are where they started
    close_variance(plain.x[:, 1], 0.5**2 / (1 - 0.05 / (2 * 0.5**2)))  # though each mode is right
    annealed = tpf.langevin.annealed_langevin(
        exact,
        start=start,
        levels=30,
        steps_per_level=50,
        step_size=0.2,
        generator=seeded(3),
    )
    share = float((annealed.x[:, 0] > 0).double().mean())
    assert abs(share - weight) < 4.5 * error
    assert abs(float(annealed.x[:, 1].std()) - 0.5) < 0.05


# ------------------------------------------------------------------------- annealed Langevin


def annealed_moments(exact, times, steps, r, mean, variance, rescale=True):
    """Mean and variance of annealed Langevin on Gaussian data, where every step is affine."""
    process, law = exact.process, exact.rho1
    v, m1 = float(law.scale) ** 2, float(law.mean)
    before = None
    for k, t in enumerate(times):
        alpha, beta = float(process.affine.alpha(t)), float(process.affine.beta(t))
        m0 = 0.0 if process.noise_part.base_mean is None else float(process.noise_part.base_mean)
        if rescale and k > 0:
            factor = beta / before[1] if before[1] != 0 else 1.0
            mean = alpha * m0 + factor * (mean - before[0] * m0)
            variance *= factor**2
        before = (alpha, beta)
        square = float(process.noise_part.scale_sq(t))
        total, centre, h = beta**2 * v + square, alpha * m0 + beta * m1, r * square
        for _ in range(steps):
            mean = centre + (1 - h / total) * (mean - centre)
            variance = (1 - h / total) ** 2 * variance + 2 * h
    gain = beta * v / total
    return m1 + gain * (mean - centre), gain**2 * variance


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize(
    "process",
    [
        tpf.Process(tpf.VE(0.01, 10.0), shape=(1,)),
        tpf.Process(tpf.VP(), shape=(1,)),
        tpf.Process(tpf.OneSidedLinear(), shape=(1,)),
        tpf.Process(tpf.Linear(), tpf.Gaussian((1,), mean=torch.tensor([-2.0]), scale=1.5)),
    ],
    ids=["VE", "VP", "linear", "mean"],
)
def test_annealed_langevin_on_a_gaussian_is_exactly_known(process, rescale):
    exact = tpf.oracle(process, tpf.Gaussian((1,), mean=torch.tensor([0.7]), scale=1.3))
    times = torch.tensor([0.0, 0.2, 0.5, 0.8], dtype=DOUBLE)
    steps, r, n = 4, 0.3, 50_000
    start = process.start
    law = (float(start.mean), float(start.scale) ** 2)
    mean, variance = annealed_moments(exact, times, steps, r, *law, rescale=rescale)
    run = tpf.langevin.annealed_langevin(
        exact,
        n,
        levels=times,
        steps_per_level=steps,
        step_size=r,
        rescale=rescale,
        generator=seeded(4),
    )
    close_variance(run.x, variance)
    close(float(run.x.double().mean()), mean, math.sqrt(variance / n))
    assert run.nfe == 17
    assert torch.equal(run.t, times)


def test_all_one_sided_processes_anneal_alike():
    """At levels of the same σ̂/β, from states of the same x/β, with the same noise."""
    law = mixture([[-2.0, 0.0], [2.0, 1.0]], 0.5)
    finals, levels = [], []
    start = torch.randn(40, 2, generator=seeded(), dtype=DOUBLE)
    for interpolant in (tpf.VE(0.01, 50.0), tpf.VP(), tpf.OneSidedLinear(), tpf.SubVP()):
        process = tpf.Process(interpolant, shape=(2,))
        times = tpf.langevin.geometric_levels(process, 6, high=20.0, low=0.05)
        beta = interpolant.beta(times)
        levels.append(process.noise_part.scale(times) / beta)
        run = tpf.langevin.annealed_langevin(
            tpf.oracle(process, law),
            start=20 * beta[0] * start,
            levels=times,
            steps_per_level=5,
            save_levels=True,
            generator=seeded(8),
        )
        finals.append(run.x)
        torch.testing.assert_close(run.saved_at, times)
    for level, final in zip(levels, finals, strict=True):
        torch.testing.assert_close(level, levels[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(final, finals[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(levels[0].log().diff(), levels[0].log().diff()[:1].expand(5))


def test_annealed_langevin_is_ncsn():
    """Song & Ermon's algorithm 1 written out, with the same normals."""
    exact = tpf.oracle(
        tpf.Process(tpf.VE(0.01, 5.0), shape=(2,)), mixture([[-0.3, 0.0], [0.3, 0.2]], 0.1)
    )
    rate, steps = 2e-5, 7
    times = tpf.langevin.geometric_levels(exact.process, 10, high=1.0, low=0.01)
    sigmas = torch.logspace(0, -2, 10, dtype=DOUBLE)
    start = torch.rand(30, 2, generator=seeded(), dtype=DOUBLE)
    x, key = start, mix_key(key_of(6), 1)
    for i, sigma in enumerate(sigmas.tolist()):
        alpha = rate * sigma**2 / 0.01**2
        for k in range(steps):
            z = normals(key, i * steps + k, x)
            x = x + alpha / 2 * exact.score(times[i], x) + alpha**0.5 * z
    x = x + 0.01**2 * exact.score(times[-1], x)
    for rule in (0.1, lambda scale: 0.5 * rate * (scale / scale[-1]) ** 2):
        run = tpf.langevin.annealed_langevin(
            exact,
            start=start,
            levels=times,
            steps_per_level=steps,
            step_size=rule,
            generator=seeded(6),
        )
        torch.testing.assert_close(run.x, x, rtol=0, atol=1e-6)


def test_annealed_langevin_in_the_units_of_the_data():
    """A field with a transform: as without, in the field's units."""
    exact = gaussian(tpf.VE(0.01, 10.0), 1.3)
    transform = tpf.Standardize.fit(5 + 3 * torch.randn(1000, 1, generator=seeded()))
    field = tpf.NoisePredictor(exact.noise, exact.process, transform=transform)
    options = {"levels": 5, "steps_per_level": 3, "save_levels": True}
    plain = tpf.langevin.annealed_langevin(exact, 50, generator=seeded(), **options)
    moved = tpf.langevin.annealed_langevin(field, 50, generator=seeded(), **options)
    torch.testing.assert_close(moved.x, transform.invert(plain.x))
    torch.testing.assert_close(moved.trajectory, transform.invert(plain.trajectory))


def test_annealed_langevin_reads_nothing_in_the_loop_and_chunks_do_not_matter():
    exact = gaussian(tpf.VE(0.01, 10.0), 1.3)

    def run(steps, chunk=None):
        return tpf.langevin.annealed_langevin(
            exact, 40, levels=5, steps_per_level=steps, chunk=chunk, generator=seeded()
        )

    run(2)  # what is known of a process from its first solve is read once
    counts = []
    for steps in (2, 20):
        with _Reads() as reads:
            run(steps)
        counts.append(reads.count)
    assert counts[0] == counts[1]
    torch.testing.assert_close(run(5, chunk=7).x, run(5).x)


def test_annealed_divergence_names_level_step_and_size():
    process = tpf.Process(tpf.VE(0.01, 10.0), shape=(2,))
    exact = tpf.oracle(process, tpf.Gaussian((2,)))
    late = float(tpf.langevin.geometric_levels(process, 10)[6])

    def wrong(t, x):  # from level 6 on 1,000 times too steep
        return exact.noise(t, x) * torch.where(t >= late - 1e-6, 1000.0, 1.0)[:, None]

    field = tpf.NoisePredictor(wrong, process)
    with pytest.raises(tpf.solve.NonFiniteStateError, match=r"of level 6 .*σ̂ = 0\.1") as error:
        tpf.langevin.annealed_langevin(field, 50, levels=10, step_size=0.5, generator=seeded())
    h = suggested(error)
    assert 0.02 < h < 0.2  # the limit is 2/L = 2e-3, which is 0.2 σ̂²
    run = tpf.langevin.annealed_langevin(field, 50, levels=10, step_size=h, generator=seeded())
    assert run.first_bad_step is None


def test_geometric_levels():
    ve = tpf.Process(tpf.VE(0.01, 10.0))
    times = tpf.langevin.geometric_levels(ve, 4)
    torch.testing.assert_close(times, torch.linspace(0, 1, 4, dtype=DOUBLE), atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match=r"within the process's own"):
        tpf.langevin.geometric_levels(ve, 4, low=1e-3)
    with pytest.raises(ValueError, match="no Gaussian part beside x1"):
        tpf.langevin.geometric_levels(tpf.Process(tpf.Linear(), tpf.distributions.Uniform((2,))), 4)
    with pytest.raises(ValueError, match="positive integer"):
        tpf.langevin.geometric_levels(ve, 0)


# ------------------------------------------------------------------------ predictor-corrector


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("interpolant", [tpf.VE(0.01, 10.0), tpf.VP(), tpf.OneSidedLinear()])
def test_corrections_on_a_gaussian_are_exactly_known(interpolant, steps):
    """Euler steps of the probability flow and nominal corrections: all affine."""
    exact = gaussian(interpolant, 1.3)
    process, grid, n, r = exact.process, torch.linspace(0, 1, 7, dtype=DOUBLE), 60_000, 0.4
    variance = float(process.start.scale) ** 2
    total = exact.process.affine.beta(grid).square() * 1.3**2 + process.noise_part.scale_sq(grid)
    rate = 0.5 * (
        2 * process.affine.beta(grid) * process.affine.beta_dot(grid) * 1.3**2
        + process.noise_part.scale_sq_dot(grid)
    )
    corrected = 0
    for k, h in enumerate(grid.diff().tolist()):
        variance *= (1 + h * float(rate[k] / total[k])) ** 2
        size = 2 * r**2 * float(process.noise_part.scale_sq(grid[k + 1]))
        corrected += size > 0
        for _ in range(steps):
            variance = (1 - size / float(total[k + 1])) ** 2 * variance + 2 * size
    rule = tpf.langevin.LangevinCorrector(r, steps, norm="nominal")
    run = tpf.sample(exact, n, t=grid, scheme="euler", corrector=rule, generator=seeded(5))
    close_variance(run.x, variance)
    assert run.nfe == 6 + steps * corrected
    assert corrected == (6 if isinstance(interpolant, tpf.VE) else 5)


@pytest.mark.parametrize("chunk", [None, 7, 1])
def test_a_correction_is_song_et_als(chunk):
    """Algorithms 4 and 5 written out, with |z| by its mean, and with the norms of all rows."""
    exact = tpf.oracle(
        tpf.Process(tpf.VE(0.01, 10.0), shape=(3,)), mixture([[-1.0, 0, 0], [1.0, 1, 0]], 0.5)
    )
    start, r = 3 * torch.randn(20, 3, generator=seeded(), dtype=DOUBLE), 0.3
    grid = [0.3, 0.5, 0.6]
    length = math.sqrt(2) * special.gamma(2) / special.gamma(1.5)
    x, key, step = start, mix_key(key_of(9), 2), 0
    for t0, t1 in itertools.pairwise(grid):
        at = torch.tensor([t0, t1], dtype=DOUBLE)
        x = x + (t1 - t0) * exact.velocity(at[0], x)
        for _ in range(2):
            z, g = normals(key, step, x), exact.score(at[1], x)
            epsilon = 2 * (r * length / g.norm(dim=1).mean()) ** 2
            x = x + epsilon * g + (2 * epsilon).sqrt() * z
            step += 1
    run = tpf.sample(
        exact,
        start=start,
        t=grid,
        scheme="euler",
        corrector=tpf.langevin.LangevinCorrector(r, 2),
        chunk=chunk,
        generator=seeded(9),
    )
    torch.testing.assert_close(run.x, x, rtol=0, atol=1e-9)
    assert run.scheme == "euler + langevin"


def test_the_bias_of_a_correction_is_its_snr_squared():
    """The batch rule on N(0, v): h = 2 r² v²/V, and so V = v (1 + r²)."""
    exact, n, r = gaussian(tpf.VE(0.01, 10.0), 1.3, d=3), 20_000, 0.4
    rule = tpf.langevin.LangevinCorrector(r)
    x = tpf.sample(exact, n, steps=60, corrector=rule, generator=seeded(2)).x
    off = abs(float(x.double().var()) / ((1.3**2 + 0.01**2) * (1 + r**2)) - 1)
    assert off < 4.5 * math.sqrt(2 / (3 * n)) + 0.003  # and what is not yet in equilibrium


@pytest.mark.parametrize("interpolant", [tpf.VE(0.01, 10.0), tpf.VP()])
@pytest.mark.parametrize(
    "scheme", [*tpf.samplers.SCHEMES, "ddim", "ancestral", tpf.samplers.ExponentialIntegrator(1)]
)
def test_any_one_step_scheme_takes_a_corrector(scheme, interpolant):
    exact, r, n = gaussian(interpolant, 1.3), 0.2, 20_000
    plain = tpf.sample(exact, 5, steps=60, scheme=scheme)
    rule = tpf.langevin.LangevinCorrector(r)
    run = tpf.sample(exact, n, steps=60, scheme=scheme, corrector=rule, generator=seeded(1))
    assert run.nfe - plain.nfe == (60 if isinstance(interpolant, tpf.VE) else 59)
    # v (1 + r²), within 4.5 standard errors and what a predictor of order 1 does after the last
    exact_variance = (1.3**2 + float(interpolant.sigma_sq(torch.zeros(())))) * (1 + r**2)
    assert abs(float(run.x.double().var()) / exact_variance - 1) < 4.5 * math.sqrt(2 / n) + 0.015


def test_multistep_schemes_refuse_a_corrector():
    """Their memory is of states that were moved since: the law would be wrong by up to a half."""
    exact = gaussian(tpf.VP())
    orders = [*(name for name, s in tpf.samplers.FEW_STEP.items() if s.order > 1)]
    assert len(orders) >= 8
    for scheme in (*orders, tpf.samplers.ExponentialIntegrator(1, corrector=True)):
        with pytest.raises(ValueError, match=r"takes the jumps for a trend.*'ddim'"):
            tpf.sample(exact, 5, scheme=scheme, corrector=tpf.langevin.LangevinCorrector())


@pytest.mark.parametrize("norm", ["batch", "nominal"])
def test_each_epsilon_has_its_own_corrections(norm):
    exact = tpf.oracle(tpf.Process(tpf.VP(), shape=(2,)), mixture([[-1.0, 0.0], [1.0, 1.0]], 0.5))
    options = {
        "steps": 8,
        "corrector": tpf.langevin.LangevinCorrector(0.3, norm=norm),
        "dtype": DOUBLE,
    }
    epsilons = [0.0, 0.3, 1.5]
    many = tpf.sample(exact, 30, epsilon=epsilons, chunk=11, generator=seeded(), **options)
    for k, epsilon in enumerate(epsilons):
        one = tpf.sample(exact, 30, epsilon=epsilon, generator=seeded(), **options)
        torch.testing.assert_close(many.x[k], one.x, rtol=0, atol=1e-10)
        assert one.nfe == many.nfe


def test_conditions_and_a_row_that_is_lost():
    """A row that stops being finite takes no other with it."""
    process = tpf.Process(tpf.VE(0.01, 10.0), shape=(2,))
    field = tpf.NoisePredictor(lambda t, x, scale: x * scale[:, None], process)
    scale = torch.full((9,), 0.05)
    start = torch.randn(9, 2, generator=seeded())
    options = {"start": start, "steps": 5, "corrector": tpf.langevin.LangevinCorrector()}
    whole = tpf.sample(field, cond={"scale": scale}, generator=seeded(), **options)
    chunked = tpf.sample(field, cond={"scale": scale}, chunk=4, generator=seeded(), **options)
    torch.testing.assert_close(whole.x, chunked.x)
    lost = scale.clone()
    lost[3] = float("inf")
    with pytest.raises(tpf.solve.NonFiniteStateError, match=r"1 of 9 rows.*half the snr"):
        tpf.sample(field, cond={"scale": lost}, generator=seeded(), **options)


def test_corrections_make_up_for_a_coarse_predictor():
    """Fifteen Euler steps of VE on a mixture, with and without, and as many evaluations."""
    law = mixture([[-2.0, 0.0], [2.0, 0.0]], 0.5, weights=[0.3, 0.7])
    exact = tpf.oracle(tpf.Process(tpf.VE(0.01, 10.0), shape=(2,)), law)
    second = 2.0**2 + 0.5**2, 0.5**2

    def off(**options):
        x = tpf.sample(exact, 8000, scheme="euler", generator=seeded(7), **options).x
        return max(abs(float(x[:, k].square().mean()) / second[k] - 1) for k in (0, 1))

    rule = tpf.langevin.LangevinCorrector(0.3, steps=3)
    assert off(steps=15) > 0.2
    assert off(steps=15, corrector=rule) < 0.25 * off(steps=15)
    assert off(steps=60) > 2 * off(steps=15, corrector=rule)  # at equal evaluations


def test_no_reads_in_the_loop_with_a_corrector():
    exact = gaussian(tpf.VE(0.01, 10.0), 1.3)
    for norm in ("batch", "nominal"):
        counts = []
        tpf.sample(exact, 2, steps=2, epsilon=[0.0, 0.5])  # what a process reads once
        for steps in (4, 24):
            with _Reads() as reads:
                tpf.sample(
                    exact,
                    20,
                    steps=steps,
                    epsilon=[0.0, 0.5],
                    corrector=tpf.langevin.LangevinCorrector(norm=norm),
                )
            counts.append(reads.count)
        assert counts[0] == counts[1]


def test_a_corrected_solve_is_differentiable():
    exact = gaussian(tpf.VE(0.01, 10.0), 1.3)
    x = torch.randn(6, 1, dtype=DOUBLE, generator=seeded(), requires_grad=True)

    def solve(y):
        rule = tpf.langevin.LangevinCorrector(0.3, norm="nominal")
        return tpf.integrate(
            tpf.samplers.FieldDynamics(exact, [0.0]),
            y,
            [0.2, 0.4, 0.6],
            hooks=[rule.bound(exact, tpf.solve.Increments(), 5, World())],
            key=1,
        ).x

    assert torch.autograd.gradcheck(solve, (x,))


# ---------------------------------------------------------------------------------- bad input

ZERO = torch.zeros(3, 2)
BAD = [
    ({"step_size": 0.0}, "finite and > 0, got 0"),
    ({"step_size": float("nan")}, "must be a number, got nan"),
    ({"step_size": torch.ones(2)}, "one a row"),
    ({"steps": 0}, "positive integer"),
    ({"steps": 2.5}, "must be an integer, got 2.5"),
    ({"temperature": 0.0}, "ascend"),
    ({"temperature": -1.0}, "temperature must be"),
    ({"metropolis": True}, "score_of"),
    ({"log_prob": lambda x: x.sum(1)}, "for metropolis=True"),
    ({"warmup": 2}, "unadjusted chain has not"),
    ({"warmup": 5, "metropolis": True}, "in 0 .. 4"),
    ({"save_at": [6]}, "in 0 .. 5"),
    ({"save_at": [0.5]}, "must be an integer, got 0.5"),
    ({"chunk": 0}, "chunk must be positive"),
    ({"score": lambda x, y: -x, "cond": {"y": torch.zeros(2)}}, "2 rows for 3 states"),
    ({"x": torch.zeros(3)}, "at least 2 dimensions"),
    ({"x": torch.full((3, 2), float("nan"))}, "NaN or infinite"),
    ({"score": lambda x: x.sum(1)}, "shape of x"),
    ({"metropolis": True, "log_prob": lambda x: x}, "one number a row"),
    ({"metropolis": True, "log_prob": lambda x: x.sum(1).log()}, "density is positive"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[words for _, words in BAD])
def test_langevin_refuses(change, words):
    given = {"score": lambda x: -x, "x": ZERO, "step_size": 0.1, "steps": 5, **change}
    with pytest.raises(ValueError, match=re.escape(words)):
        tpf.langevin.langevin(given.pop("score"), given.pop("x"), **given)


def test_ascend_refuses():
    with pytest.raises(ValueError, match="tolerance must be"):
        tpf.langevin.ascend(lambda x: -x, ZERO, step_size=0.1, steps=5, tolerance=0.0)
    with pytest.raises(ValueError, match="finite and > 0"):
        tpf.langevin.ascend(lambda x: -x, ZERO, step_size=-0.1, steps=5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": [0.5, 0.2]}, "increasing times"),
        ({"levels": [0.5, 1.5]}, "lie in [0, 1]"),
        ({"levels": [0.5, 1.0]}, "no noise at the level t = 1"),
        ({"step_size": 2.0}, "0 < r < 2"),
        ({"step_size": lambda scale: scale[:1]}, "one number for each"),
        ({"step_size": lambda scale: -scale}, "finite and > 0"),
        ({"steps_per_level": 0}, "positive integer"),
        ({"n": None}, "number of samples"),
        ({"cond": {"y": torch.zeros(2)}}, "2 rows for 3 states"),
    ],
)
def test_annealed_langevin_refuses(change, words):
    field = tpf.NoisePredictor(lambda t, x: x, tpf.Process(tpf.OneSidedLinear(), shape=(2,)))
    given = {"n": 3, "levels": [0.2, 0.5], **change}
    with pytest.raises(ValueError, match=re.escape(words)):
        tpf.langevin.annealed_langevin(field, given.pop("n"), **given)
    with pytest.raises(TypeError, match="must be a Field"):
        tpf.langevin.annealed_langevin(lambda t, x: x, 3)


def test_correctors_refuse():
    exact = gaussian(tpf.OneSidedLinear(), d=2)
    for options, words in (
        ({"snr": 0.0}, "in (0, 1)"),
        ({"snr": 1.0}, "in (0, 1)"),
        ({"steps": 0}, "positive integer"),
        ({"norm": "row"}, "known: 'batch', 'nominal'"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            tpf.langevin.LangevinCorrector(**options)
    rule = tpf.langevin.LangevinCorrector()
    with pytest.raises(ValueError, match="adaptive scheme has no steps"):
        tpf.sample(exact, 5, scheme="dopri5", corrector=rule)
    with pytest.raises(TypeError, match=r"must be a (Langevin)?Corrector"):
        tpf.sample(exact, 5, corrector=0.16)
    with pytest.raises(ValueError, match="norm='nominal'"):
        tpf.sample(exact, 1, corrector=rule)
    assert tpf.sample(
        exact, 1, corrector=tpf.langevin.LangevinCorrector(norm="nominal")
    ).x.shape == (1, 2)
    with pytest.raises(tpf.ConversionError, match="nothing to correct by"):
        tpf.sample(exact, 5, steps=1, corrector=rule)
    two_sided = tpf.Velocity(
        lambda t, x: x, tpf.Process(tpf.Linear(), tpf.distributions.Uniform((2,)))
    )
    with pytest.raises(tpf.ConversionError, match="no Gaussian part"):
        tpf.sample(two_sided, 5, corrector=rule)
