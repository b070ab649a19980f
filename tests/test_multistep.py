"""Multistep schemes with noise: exact laws, saved times, ends of time, wrong fields."""

import math
from types import SimpleNamespace

import pytest
import torch

import transportflows as tpf
from families import mixture

F64 = torch.float64
LAWS = {
    "linear": tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,))),
    "vp": tpf.Process(tpf.VP(), shape=(1,)),
    "ve": tpf.Process(tpf.VE(0.01, 20.0), shape=(1,)),
}
EPSILONS = {
    "constant": 1.0,
    "scale": tpf.solve.NoiseScaleEpsilon(1.0),
    "variance": tpf.solve.NoiseVarianceEpsilon(1.0),
    "anderson": tpf.solve.AndersonEpsilon(),
    "thrice": tpf.solve.AndersonEpsilon(3.0),
}
NOISY = ("dpm2m", "dpm3m", "deis2", "unipc3")
MEAN, SCALE = 0.7, 0.6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class EachNormal(tpf.solve.NoiseSource):
    """Row k is moved by the k-th normal of a solve, row 0 and the last by none."""

    def increment(self, step, t0, t1, *, area):
        self.count = step + 1 if step == 0 else self.count + 1
        return self._row(self.count) * math.sqrt(abs(t1 - t0)), None

    def normal(self, *path):
        self.count += 1
        return self._row(self.count)

    def _row(self, k):
        z = torch.zeros(self.shape, dtype=self.dtype)
        z[k] = 1.0
        return z


def moments(law, t, scale=SCALE):
    t = torch.tensor(t, dtype=F64)
    beta, sigma = law.part.path.beta(t), law.part.scale(t)
    return float(beta * MEAN), math.hypot(float(beta) * scale, float(sigma))


def exact_law(field, law, scheme, epsilon, grid, scale=SCALE, save_at=None):
    """Mean and standard deviation of an affine solve, and of its saved states: no draws."""
    mean, spread = moments(law, float(grid[0]), scale)
    inside = 0 if save_at is None else len(save_at)
    x = torch.full((len(grid) + 1 + inside, 1), mean, dtype=F64)
    x[-1] += spread
    kwargs = {"scheme": scheme, "epsilon": epsilon, "t": grid, "noise": EachNormal()}
    end = tpf.sample(field, start=x, save_at=save_at, **kwargs)
    states = [end.x] if save_at is None else end.trajectory
    return [(float(s[0]), float((s[1:] - s[0]).square().sum().sqrt())) for s in states]


def oracle(law, scale=SCALE):
    return tpf.oracle(law, tpf.Gaussian((1,), mean=MEAN, scale=scale))


def grid_of(steps, backward=False):
    grid = tpf.solve.time_grid(steps)
    return grid.flip(0) if backward else grid


# --------------------------------------------------------------------------------- the law


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("epsilon", EPSILONS.values(), ids=EPSILONS)
@pytest.mark.parametrize("label", LAWS)
def test_noise_keeps_the_law(label, epsilon, backward):
    """Without draws: the weights 3, -3, 1 on states with noise of their own gave 7.3 times it."""
    law = LAWS[label]
    field = oracle(law)
    mean, scale = moments(law, 0.0 if backward else 1.0)
    for scheme in NOISY:
        found = []
        for steps in (25, 60):
            m, s = exact_law(field, law, scheme, epsilon, grid_of(steps, backward))[0]
            found.append(max(abs(s / scale - 1), abs(m - mean) / scale))
        assert found[0] < 0.075, scheme
        assert found[1] < 0.03, scheme  # three standard errors of 20,000 draws and ODE errors
        assert found[1] < found[0] + 3e-3, scheme


def test_narrow_data_are_not_widened():
    """The step that lands extrapolates by no more than 3/2, -1/2 what is noise: 0.45 before."""
    for label in ("linear", "vp"):
        law = LAWS[label]
        for epsilon in (1.0, tpf.solve.AndersonEpsilon(3.0)):
            for scheme in ("dpm3m", "unipc3"):
                field = oracle(law, 0.2)
                scale = exact_law(field, law, scheme, epsilon, grid_of(25), 0.2)[0][1]
                assert abs(scale / 0.2 - 1) < 0.1


def test_a_little_noise_keeps_the_order():
    """The transport of order p is what is left of the weights as ε falls: no jump at ε = 0."""
    law = LAWS["linear"]
    grid = tpf.solve.time_grid(40, spacing="cosine")
    for scheme in ("dpm3m", "unipc3"):
        scales = [exact_law(oracle(law), law, scheme, e, grid)[0][1] for e in (0.0, 1e-6, 1e-4)]
        assert abs(scales[1] - scales[0]) < 1e-5
        assert abs(scales[2] - scales[0]) < 1e-3


def test_the_relaxation_weighs_two_predictions():
    """Without transport (a level σ̂ that stays) a step is ``r x + (1 - r)(3/2 d - 1/2 d₋)``."""

    class Still(tpf.OneSided):
        def beta(self, t):
            return torch.ones_like(t)

        def gamma_sq(self, t):
            return 0.25 * torch.ones_like(t)

    part = tpf.gaussian_part.GaussianPart(Still(), "a level that stays")
    field = SimpleNamespace(process=SimpleNamespace(part=part), breakpoints=())
    grid = torch.tensor([0.2, 0.5, 0.6, 0.8], dtype=F64)
    schedule = tpf.solve.ConstantEpsilon(0.8)
    for scheme in (
        tpf.samplers.ExponentialIntegrator(3, variable="t"),
        tpf.samplers.ExponentialIntegrator(2, variable="t", corrector=True),
    ):
        table = type(scheme).tabulate.__wrapped__(scheme, field, [schedule], grid)
        r = math.exp(-0.8 * 0.2 / 0.25)
        assert float(table.state[2]) == pytest.approx(r)
        expected = [1.5 * (1 - r), -0.5 * (1 - r), 0.0][: len(table.weights[2])]
        assert table.weights[2][:, 0].tolist() == pytest.approx(expected, abs=1e-10)
        assert float(table.noise[2]) ** 2 == pytest.approx(0.25 * (1 - r * r))
    # A law that is wide beside the noise is kept for every r by 3/2, -1/2 alone.
    wide = 50.0
    kappa = wide**2 / (wide**2 + 0.25)
    for r in (0.9, 0.5, 0.1):
        a, b = r + (1 - r) * 1.5 * kappa, -(1 - r) * 0.5 * kappa
        variance = 0.25 * (1 - r * r) * (1 - b) / ((1 + b) * ((1 - b) ** 2 - a * a))
        assert variance == pytest.approx(wide**2 + 0.25, rel=2e-3)


def test_separate_modes_keep_their_law():
    data = mixture([[-1.5], [1.0]], 0.4, weights=[0.5, 0.5])
    n = 20_000
    for label in ("linear", "vp"):
        field = tpf.oracle(LAWS[label], data)
        for scheme in ("dpm3m",):
            runs = tpf.sample(
                field,
                n,
                scheme=scheme,
                steps=100,
                epsilon=list(EPSILONS.values()),
                generator=seeded(),
            )
            for x in runs.x:
                assert abs(float(x.std()) / 1.3125 - 1) < 0.02
                assert abs(float((x < -0.25).double().mean()) - 0.5) < 0.015


def test_an_order_of_one_is_limited_more():
    """A first-order step draws too far: the variance falls short by a share of ΔE."""
    law = LAWS["linear"]
    one = tpf.samplers.ExponentialIntegrator(1)
    _, s = exact_law(oracle(law), law, one, 1.0, grid_of(200))[0]
    assert abs(s / SCALE - 1) < 0.022
    field = oracle(law)
    told = tpf.sample(field, 5, scheme=one, steps=50, epsilon=1.0, generator=seeded())
    assert told.limited is not None
    assert tpf.sample(field, 5, scheme=one, steps=50, generator=seeded()).limited is None


# ----------------------------------------------------------------------------- saved times


@pytest.mark.parametrize("scheme", ["dpm3m", "deis3", "unipc3", "ab2", "ddim", "ancestral"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_saving_does_not_move_the_steps(scheme, dtype):
    field = oracle(LAWS["vp"])
    kwargs = {"scheme": scheme, "steps": 20, "dtype": dtype}
    bare = tpf.sample(field, 30, generator=seeded(), **kwargs)
    for save_at in (torch.linspace(0, 1, 21), 21, 41, [0.331, 0.33, 0.021, 1.0]):
        saved = tpf.sample(field, 30, save_at=save_at, generator=seeded(), **kwargs)
        assert torch.equal(saved.x, bare.x)
        assert saved.nfe == bare.nfe
        assert torch.equal(saved.t, bare.t)
        assert bool(saved.trajectory.isfinite().all())
        wanted = save_at if isinstance(save_at, int) else len(save_at)
        assert saved.trajectory.shape == (wanted, 30, 1)
    assert saved.saved_at.tolist() == [0.331, 0.33, 0.021, 1.0]


def test_float32_times_are_times_of_the_grid():
    field = oracle(LAWS["linear"])
    for scheme in ("heun", "dpm2m", "dopri5"):
        for grid in ((0.0, 0.3), (0.9, 0.1)):
            times, x = torch.linspace(*grid, 11), torch.randn(4, 1, generator=seeded())
            solution = tpf.sample(field, start=x, scheme=scheme, steps=10, t=grid, save_at=times)
            equal = tpf.sample(field, start=x, scheme=scheme, steps=10, t=grid, save_at=11)
            assert len(solution.saved_at) == 11
            torch.testing.assert_close(solution.trajectory, equal.trajectory, rtol=1e-4, atol=1e-4)
            if scheme != "dopri5":
                assert torch.equal(solution.t, tpf.solve.time_grid(10, start=grid[0], stop=grid[1]))
                assert torch.equal(solution.saved_at, solution.t)


def test_equal_times_and_refusals():
    field = oracle(LAWS["linear"])
    call = {"scheme": "dpm2m", "steps": 4, "generator": seeded()}
    found = tpf.sample(field, start=torch.ones(2, 1), save_at=3, t=(1.0, 0.0), **call)
    assert found.saved_at.tolist() == [1.0, 0.5, 0.0]
    for bad, error, word in (
        (0, ValueError, "save_at"),
        (-2, ValueError, "save_at"),
        (True, TypeError, "save_at"),
        ("all", TypeError, "save_at"),
        ([0.5, 1.2], ValueError, "1.2"),
        ([float("nan")], ValueError, "nan"),
    ):
        with pytest.raises(error, match=word):
            tpf.sample(field, 2, save_at=bad, **call)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, tpf.solve.AndersonEpsilon()], ids=["0", "1", "a"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("scheme", ["dpm3m", "deis2", "unipc2"])
def test_states_inside_steps_have_their_law(scheme, backward, epsilon):
    law = LAWS["linear"]
    times = [0.985, 0.77, 0.331, 0.33, 0.02]
    times = times if backward else times[::-1]
    grid = grid_of(40, backward)
    found = exact_law(oracle(law), law, scheme, epsilon, grid, save_at=times)
    for (mean, scale), t in zip(found, times, strict=True):
        true_mean, true_scale = moments(law, t)
        assert abs(scale / true_scale - 1) < 0.04
        assert abs(mean - true_mean) < 0.04 * true_scale


def test_states_inside_a_step_share_its_noise():
    """Of one path: increments of near times have the variance 2 ε dt, not that of two draws."""
    field, n = oracle(LAWS["linear"]), 4000
    times = [0.33, 0.331, 0.35]  # the last is a time of the grid
    for t, order in (((0.0, 1.0), times), ((1.0, 0.0), times[::-1])):
        x = field.sample(t[0], n, generator=seeded(1), dtype=F64)
        path = tpf.sample(
            field,
            start=x,
            t=t,
            scheme="dpm2m",
            steps=20,
            epsilon=1.0,
            save_at=order,
            generator=seeded(),
        ).trajectory
        for gap, move in zip(torch.tensor(order).diff().abs(), path.diff(dim=0), strict=True):
            assert float(move.var()) == pytest.approx(2 * float(gap), rel=0.15)


def test_saved_states_are_of_the_schemes_order():
    field = tpf.oracle(LAWS["vp"], mixture([[-1.3], [0.2], [1.5]], 0.5, weights=[0.3, 0.3, 0.4]))
    x = torch.randn(60, 1, generator=seeded(), dtype=F64)
    times = [0.333, 0.777]
    truth = tpf.sample(field, start=x, scheme="dopri5", rtol=1e-9, atol=1e-9, save_at=times)
    scheme = tpf.samplers.ExponentialIntegrator(3, "velocity", variable="linear")
    errors = [
        (
            tpf.sample(field, start=x, scheme=scheme, steps=n, save_at=times).trajectory
            - truth.trajectory
        )
        .abs()
        .median(1)
        .values.amax()
        for n in (80, 160)
    ]
    assert math.log2(errors[0] / errors[1]) > 2.7


# ------------------------------------------------------------------- chains, ends, wrong fields


def test_the_large_variance_is_dropped_only_where_the_noise_ends():
    law = LAWS["vp"]
    grid = torch.tensor([0.0, 0.1, 0.2], dtype=F64)
    scheme = tpf.samplers.Ancestral("large")
    zero = [tpf.solve.ConstantEpsilon(0.0)]
    table = scheme.tabulate(oracle(law), zero, grid)
    beta = law.part.path.beta(grid)
    wanted = (1 - (beta[:-1] / beta[1:]).square()).sqrt()  # the forward chain's own, β_t of Ho
    torch.testing.assert_close(torch.cat(table.noise), wanted, rtol=1e-9, atol=0)
    end = scheme.tabulate(oracle(law), zero, torch.tensor([0.5, 0.9, 1.0], dtype=F64))
    assert float(end.noise[0]) > 0
    assert float(end.noise[1]) == 0
    # White data stay white at every step; the noise of the last one was missing: 0.97 for 1.
    white = tpf.oracle(law, tpf.Gaussian((1,)))
    x = torch.randn(40_000, 1, generator=seeded(), dtype=F64)
    end = tpf.sample(white, start=x, t=(0.0, 0.2), steps=5, scheme=scheme, generator=seeded(1))
    assert float(end.x.std()) == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize("width", [0.002, 0.05])
def test_a_pair_is_of_its_velocity_alone(width):
    """An η that is wrong near the ends, under a Brownian latent, is not multiplied by 1/γ."""
    law = tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((1,)))
    exact = oracle(law)

    def wrong(t, x):
        near = torch.exp(-t / width) + torch.exp(-(1 - t) / width)
        return exact.noise(t, x) + 0.3 * near[:, None] * x

    pair = tpf.FieldPair(mean_velocity=exact.mean_velocity, noise=wrong, process=law)
    for scheme in ("dpm3m", "unipc2", "deis2", "ab2"):
        for backward in (False, True):
            for epsilon in (0.0, 0.5)[: 1 if scheme == "ab2" else 2]:
                grid = grid_of(20, backward)
                a, b = (exact_law(f, law, scheme, epsilon, grid)[0] for f in (pair, exact))
                if not backward:  # backward the pair starts at a pole, half a step away
                    assert a == pytest.approx(b, rel=1e-6, abs=1e-9)
                assert a[1] == pytest.approx(moments(law, float(grid[-1]))[1], rel=0.06)


@pytest.mark.parametrize("label", ["brownian", "vp", "linear"])
@pytest.mark.parametrize("kind", ["velocity", "data", "noise"])
def test_a_wrong_field_gives_its_own_law(label, kind):
    """Errors of 0.2 near the ends move few steps as they move many, within what is learnable.

    A noise prediction is right where β = 0, and data where σ̂ = 0: there they tell nothing.
    """
    law = tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((1,)))
    law = LAWS.get(label, law)
    exact, width = oracle(law), 0.03

    def wrong(t, x):
        early = 0.0 if kind == "noise" else torch.exp(-t / width)
        late = 0.0 if kind == "data" else torch.exp(-(1 - t) / width)
        return getattr(exact, kind)(t, x) + 0.2 * (early + late)[:, None] * x

    cls = {"velocity": tpf.Velocity, "data": tpf.DataPredictor, "noise": tpf.NoisePredictor}[kind]
    field = cls(wrong, law)
    for scheme in ("dpm3m", "unipc2", "deis2"):
        for epsilon in (0.0, 0.5):
            for backward in (False, True):
                few, many = (
                    exact_law(field, law, scheme, epsilon, grid_of(n, backward))[0][1]
                    for n in (20, 80)
                )
                assert abs(few / many - 1) < 0.1, (scheme, epsilon, backward, few, many)
