"""Few-step schemes: exact weights, orders up to the ends of time, laws, refusals."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

import transportflows as tpf
from families import mixture
from test_samplers import _Reads
from transportflows.solve.epsilon import as_epsilon

F64 = torch.float64
PATHS = {
    "ve": tpf.VE(0.05, 20.0),
    "vp": tpf.VP(),
    "subvp": tpf.SubVP(),
    "linear": tpf.OneSidedLinear(),
    "trigonometric": tpf.OneSidedTrigonometric(),
    "sbdm": tpf.SBDM(),
}
PROCESSES = {
    **{label: tpf.Process(path, shape=(1,)) for label, path in PATHS.items()},
    "base": tpf.Process(tpf.Linear(), tpf.Gaussian((1,), mean=0.7, scale=1.3)),
    "latent": tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((1,))),
}
EPSILONS = {
    "ode": 0.0,
    "constant": 0.7,
    "scale": tpf.solve.NoiseScaleEpsilon(0.8),
    "variance": tpf.solve.NoiseVarianceEpsilon(1.5),
    "anderson": tpf.solve.AndersonEpsilon(),
    "half": tpf.solve.AndersonEpsilon(0.5),
    "own": lambda t: 0.3 * (1 + t),
}
DATA = mixture([[-1.3], [0.2], [1.5]], 0.5, weights=[0.3, 0.3, 0.4])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def oracle(law, data=DATA):
    return tpf.oracles.GaussianMixtureOracle(law, data)


def rates(law, epsilon, direction):
    """``x'`` and d in the drift and the variance's growth, per unit of elapsed time, by hand."""
    schedule = as_epsilon(epsilon)

    def at(t):
        t = torch.tensor([t], dtype=F64)
        path = law.affine
        beta, beta_dot = path.beta(t), path.beta_dot(t)
        square, half = law.noise_part.scale_sq(t), 0.5 * law.noise_part.scale_sq_dot(t)
        bound = schedule.bound(law.noise_part, t[:, None], torch.tensor([0.1], dtype=F64))
        eps = bound.value(t, square.sqrt())
        own = direction * half / square - eps / square
        given = direction * (beta_dot - beta * half / square) + eps * beta / square
        return float(own), float(given), float(2 * eps)

    return at


def numbers(scheme, law, epsilon, grid):
    grid = torch.as_tensor(grid, dtype=F64)
    return scheme.tabulate(oracle(law), [as_epsilon(epsilon)], grid)


# ------------------------------------------------------------------------- what is exact


@pytest.mark.parametrize("epsilon", EPSILONS.values(), ids=EPSILONS)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("law", PROCESSES.values(), ids=PROCESSES)
def test_a_step_is_exact_where_the_prediction_is_constant(law, backward, epsilon):
    """State, data and noise of a step against the moments' differential equations."""
    first, last = (0.6, 0.35) if backward else (0.35, 0.6)
    sign = -1 if backward else 1
    own = rates(law, epsilon, sign)

    def slope(elapsed, y):
        a, b, c = own(first + sign * elapsed)
        return [a * y[0], a * y[1] + b, 2 * a * y[2] + c]

    found = solve_ivp(slope, (0, 0.25), [1.0, 0.0, 0.0], method="DOP853", rtol=1e-11, atol=1e-12)
    state, data, variance = found.y[:, -1]
    table = numbers(tpf.samplers.ExponentialIntegrator(1), law, epsilon, [first, last])
    assert table.forms == ["data"]
    assert float(table.state[0]) == pytest.approx(state, rel=1e-8)
    assert float(table.weights[0]) == pytest.approx(data, rel=1e-8)
    got = 0.0 if table.noise is None else float(table.noise[0])
    assert got**2 == pytest.approx(variance, rel=1e-8, abs=1e-14)

    # The noise form: the same equation with d = (x' - σ̂ η̂) / β.
    def slope_noise(elapsed, y):
        t = first + sign * elapsed
        a, b, c = own(t)
        beta = float(law.affine.beta(torch.tensor(t, dtype=F64)))
        sigma = float(law.noise_part.scale(torch.tensor(t, dtype=F64)))
        a = a + b / beta
        return [a * y[0], a * y[1] - b * sigma / beta, 2 * a * y[2] + c]

    found = solve_ivp(
        slope_noise, (0, 0.25), [1.0, 0.0, 0.0], method="DOP853", rtol=1e-11, atol=1e-12
    )
    table = numbers(tpf.samplers.ExponentialIntegrator(1, "noise"), law, epsilon, [first, last])
    if table.forms == ["data"]:  # where the step relaxes by more than a tenth
        assert variance > (1 - math.exp(-0.2)) * float(law.noise_part.scale_sq(torch.tensor(last)))
        assert float(table.weights[0]) == pytest.approx(data, rel=1e-8)
        return
    got = 0.0 if table.noise is None else float(table.noise[0])
    assert [float(table.state[0]), float(table.weights[0]), got**2] == pytest.approx(
        found.y[:, -1].tolist(), rel=1e-8, abs=1e-11
    )


@pytest.mark.parametrize("variable", ["lambda", "u", "t", "linear", "asinh"])
@pytest.mark.parametrize("form", ["data", "noise", "velocity"])
def test_polynomials_in_the_variable_are_integrated_exactly(form, variable):
    law, grid = PROCESSES["vp"], torch.tensor([0.2, 0.3, 0.5, 0.6, 0.9], dtype=F64)
    path = law.affine

    def at(t):
        t = torch.as_tensor(t, dtype=F64)
        return t, path.beta(t), law.noise_part.scale(t)

    def clock(t):
        _, beta, sigma = at(t)
        u = float(sigma / beta)
        return {
            "lambda": -math.log(u),
            "u": u,
            "t": float(t),
            "linear": u / (1 + u),
            "asinh": math.asinh(u),
        }[variable]

    beta_t, sigma_t = (float(v) for v in at(0.9)[1:])

    def density(t):
        """dQ/dt by hand."""
        b, s = (float(v) for v in at(t)[1:])
        bd = float(path.beta_dot(torch.tensor(t, dtype=F64)))
        sd = 0.5 * float(law.noise_part.scale_sq_dot(torch.tensor(t, dtype=F64))) / s
        return {
            "data": sigma_t * (bd * s - b * sd) / s**2,
            "noise": beta_t * (sd * b - s * bd) / b**2,
            "velocity": (beta_t + sigma_t) * (sd * b - s * bd) / (b + s) ** 2,
        }[form]

    table = numbers(tpf.samplers.ExponentialIntegrator(4, form, variable=variable), law, 0.0, grid)
    nodes = [clock(t) for t in (0.6, 0.5, 0.3, 0.2)]
    for power in range(4):
        exact = quad(lambda t, k=power: density(t) * clock(t) ** k, 0.6, 0.9, epsabs=1e-13)[0]
        got = sum(float(w) * x**power for w, x in zip(table.weights[3], nodes, strict=True))
        assert got == pytest.approx(exact, rel=1e-8, abs=1e-10)


def test_the_last_step_lands_on_the_extrapolated_data():
    """Where σ̂ = 0 the state has no weight; with ε = 0 the weights extrapolate in t to order 3.

    With noise, for the share of it that is renewed, they are 3/2 and -1/2.
    """
    grid = torch.tensor([0.4, 0.7, 0.85, 1.0], dtype=F64)
    for label in ("vp", "linear", "trigonometric", "sbdm"):
        for epsilon in (0.0, 0.7, tpf.solve.AndersonEpsilon()):
            table = numbers(tpf.samplers.ExponentialIntegrator(3), PROCESSES[label], epsilon, grid)
            assert float(table.state[2]) == 0.0
            times = torch.tensor([0.85, 0.7, 0.4], dtype=F64)
            found = table.weights[2][:, 0]
            for power in range(3 if epsilon == 0.0 else 1):
                assert float(found @ times**power) == pytest.approx(1.0, rel=1e-9)
            if epsilon != 0.0:
                smooth = torch.linalg.solve(
                    times ** torch.arange(3)[:, None], torch.ones(3, dtype=F64)
                )
                share = (found - smooth)[2] / -smooth[2]
                lean = torch.tensor([1.5, -0.5, 0.0], dtype=F64)
                assert 0 < float(share) <= 1
                torch.testing.assert_close(found, torch.lerp(smooth, lean, share))
                assert float(table.noise[2]) == 0.0


def test_weights_add_up_where_a_step_starts_at_a_root():
    """From t = 1, where σ̂ is like a root, the first 2^-40 of a step hold 1e-6 of the weight."""
    grid = torch.tensor([1.0, 0.8], dtype=F64)
    law = PROCESSES["latent"]
    table = numbers(tpf.samplers.ExponentialIntegrator(1, "noise"), law, 0.0, grid)
    wanted = float(law.noise_part.scale(grid[1]))
    assert float(table.weights[0]) == pytest.approx(wanted, rel=1e-10)


def test_a_large_epsilon_has_the_law():
    """Exact data, one point: every step has the law of x_t, however stiff the relaxation."""
    law = PROCESSES["linear"]
    data = tpf.Gaussian((1,), mean=0.4, scale=1e-9)
    x = tpf.sample(
        oracle(law, data),
        20_000,
        scheme="dpm2m",
        steps=6,
        epsilon=50.0,
        save_at=[0.5],
        dtype=F64,
        generator=seeded(),
    )
    assert float((x.x - 0.4).abs().max()) < 1e-6
    z = (x.trajectory[0] - 0.2) / 0.5
    assert abs(float(z.mean())) < 4 / math.sqrt(20_000)
    assert abs(float(z.var()) - 1) < 4 * math.sqrt(2 / 20_000)


@pytest.mark.parametrize("epsilon", list(EPSILONS.values())[1:], ids=list(EPSILONS)[1:])
@pytest.mark.parametrize("law", PROCESSES.values(), ids=PROCESSES)
def test_every_epsilon_goes_from_end_to_end(law, epsilon):
    """Data at one point are met exactly by any number of steps, and x_t on the way has its law."""
    data = tpf.Gaussian((1,), mean=0.4, scale=1e-6)
    exact, n = oracle(law, data), 20_000
    x = tpf.sample(
        exact,
        start=exact.sample(0.0, n, generator=seeded(1), dtype=F64),
        scheme="dpm3m",
        steps=5,
        epsilon=epsilon,
        save_at=[0.55],
        generator=seeded(),
    )
    t = torch.tensor([0.55, 1.0], dtype=F64)
    path, sigma = law.affine, law.noise_part.scale(t)
    m = 0.0 if law.noise_part.base_mean is None else float(law.noise_part.base_mean)
    mean = path.alpha(t) * m + path.beta(t) * 0.4
    for state, centre, scale in zip((x.trajectory[0], x.x), mean, sigma, strict=True):
        if scale < 1e-3:
            assert float((state - centre).abs().max()) < 1e-4
            continue
        z = (state - centre) / scale
        assert abs(float(z.mean())) < 4.5 / math.sqrt(n)
        assert abs(float(z.var()) - 1) < 4.5 * math.sqrt(2 / n)


# ------------------------------------------------------------------------------------- orders


class Kinked(tpf.OneSided):
    """A linear path whose clock runs at another pace after ½."""

    breakpoints = (0.5,)

    def beta(self, t):
        return torch.where(t < 0.5, 0.6 * t, 0.3 + 1.4 * (t - 0.5))

    def gamma_sq(self, t):
        return (1 - self.beta(t)).square()


_TRUTH = {}


def distances(law, scheme, steps, grid=tpf.solve.time_grid, n=60):
    exact = oracle(law)
    x = exact.sample(float(grid(4)[0]), n, generator=seeded(), dtype=F64)
    ends = float(grid(4)[0]), float(grid(4)[-1])
    if (law, ends) not in _TRUTH:
        how = {"scheme": "dopri5", "rtol": 1e-10, "atol": 1e-10}
        if isinstance(law.interpolant, Kinked):  # as a function of the noise level it has no kink
            how = {
                "scheme": tpf.samplers.ExponentialIntegrator(4, "velocity", variable="linear"),
                "steps": 301,
            }
        _TRUTH[law, ends] = tpf.sample(exact, start=x, t=ends, **how).x
    truth = _TRUTH[law, ends]
    return [
        float((tpf.sample(exact, start=x, scheme=scheme, t=grid(k)).x - truth).abs().median())
        for k in steps
    ]


def slope(errors, steps):
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


GRIDS = {
    "uniform": lambda law: tpf.solve.time_grid,
    "cosine": lambda law: lambda n: tpf.solve.time_grid(n, spacing="cosine"),
    "levels": lambda law: lambda n: tpf.solve.noise_grid(law, n, spacing="asinh", scale=0.5),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("label", ["vp", "ve", "linear"])
@pytest.mark.parametrize(
    ("scheme", "order"),
    [
        (tpf.samplers.DDIM(), 1),
        (tpf.samplers.ExponentialIntegrator(2, "velocity", variable="linear"), 2),
        (tpf.samplers.ExponentialIntegrator(3, "velocity", variable="linear"), 3),
    ],
    ids=["ddim", "second", "third"],
)
def test_order_from_end_to_end(label, scheme, order, grid):
    """From t = 0, where β may vanish, into t = 1, where σ̂ may: no step loses the order."""
    law, steps = PROCESSES[label], (192, 384)
    if grid is GRIDS["levels"]:  # its first step from u = ∞ does not shrink: 1e-6 of error stays
        steps = (96, 192)
    found = slope(distances(law, scheme, steps, grid(law)), steps)
    assert found > order - 0.25
    assert found < order + (0.25 if grid is not GRIDS["levels"] else 1.0)
    assert scheme.order == order


@pytest.mark.parametrize("label", ["vp", "linear", "base"])
@pytest.mark.parametrize("order", [2, 3])
def test_the_step_into_the_data_keeps_the_order_of_the_data_form(label, order):
    """Interpolated in t: the step that lands makes an error of h^p, not of h."""
    steps = (32, 64, 128)
    errors = distances(
        PROCESSES[label], tpf.samplers.ExponentialIntegrator(order, variable="t"), steps
    )
    assert slope(errors, steps) > order - 0.25


def test_a_clamped_last_step_would_lose_it():
    """What others do at σ̂ = 0, a last step of order 1, shows in the same measurement."""
    law = PROCESSES["linear"]

    class Clamped(tpf.samplers.ExponentialIntegrator):
        def tabulate(self, field, schedules, times):
            table = super().tabulate(field, schedules, times)
            table.weights[-1] = torch.ones_like(table.weights[-1][:1])
            return table

    steps = (32, 64, 128)
    assert slope(distances(law, Clamped(3, variable="t"), steps), steps) < 2.3


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("form", ["data", "noise", "velocity"])
def test_order_of_every_form_between_the_ends(form, backward):
    """Where β and σ̂ stay away from 0, in λ: 3, and one more with the corrector."""
    law, steps = PROCESSES["vp"], (80, 160)

    def grid(n):
        return tpf.solve.time_grid(n, start=0.9 if backward else 0.3, stop=0.3 if backward else 0.9)

    plain = distances(law, tpf.samplers.ExponentialIntegrator(3, form), steps, grid)
    assert abs(slope(plain, steps) - 3) < 0.25
    corrected = distances(
        law, tpf.samplers.ExponentialIntegrator(2, form, corrector=True), steps, grid
    )
    assert abs(slope(corrected, steps) - 3) < 0.25
    better = distances(
        law, tpf.samplers.ExponentialIntegrator(3, form, corrector=True), steps, grid
    )
    assert slope(better, steps) > 2.6
    assert better[-1] < plain[-1]


def test_a_start_of_order_one_would_lose_the_third():
    law, steps = PROCESSES["linear"], (32, 64, 128)

    class Bare(tpf.samplers.ExponentialIntegrator):
        def tabulate(self, field, schedules, times):
            plan = self._tabulation(field, schedules, times)
            plan.anew[0] = False
            return plan.table()

    def grid(n):
        return tpf.solve.time_grid(n, start=0.4, stop=0.8)

    errors = distances(law, Bare(3, variable="t"), steps, grid)
    assert slope(errors, steps) < 2.5
    kept = distances(law, tpf.samplers.ExponentialIntegrator(3, variable="t"), steps, grid)
    assert slope(kept, steps) > 2.65
    assert kept[-1] < 0.3 * errors[-1]


def test_a_kink_of_the_path_starts_the_method_anew():
    law, steps = tpf.Process(Kinked(), shape=(1,)), (31, 61, 121)
    scheme = tpf.samplers.ExponentialIntegrator(3, "velocity", variable="t")
    errors = distances(law, scheme, steps)
    assert slope(errors, steps) > 2.65

    class Through(tpf.samplers.ExponentialIntegrator):
        def tabulate(self, field, schedules, times):
            plan = self._tabulation(field, schedules, times)
            plan.anew[1:] = [False] * (len(plan.anew) - 1)
            return plan.table()

    through = distances(law, Through(3, "velocity", variable="t"), steps)
    assert slope(through, steps) < 2.3


def test_there_and_back():
    exact = oracle(PROCESSES["vp"])
    x = exact.sample(0.0, 200, generator=seeded(), dtype=F64)
    scheme = tpf.samplers.ExponentialIntegrator(3, "velocity", variable="linear")
    there = tpf.sample(exact, start=x, scheme=scheme, steps=200)
    back = tpf.sample(exact, start=there.x, scheme=scheme, steps=200, t=(1.0, 0.0))
    assert there.nfe == back.nfe == 200
    assert float((back.x - x).abs().max()) < 1e-3


@pytest.mark.parametrize("label", PROCESSES)
@pytest.mark.parametrize("kind", ["velocity", "noise", "score", "data"])
def test_every_network_gives_the_same_samples(label, kind):
    """Away from its pole; at it the prediction is looked up half a step away."""
    law = PROCESSES[label]
    exact = oracle(law)
    cls = {
        "velocity": tpf.Velocity,
        "noise": tpf.NoisePredictor,
        "score": tpf.Score,
        "data": tpf.DataPredictor,
    }[kind]
    field = cls(getattr(exact, kind), law)
    x = exact.sample(0.3, 50, generator=seeded(), dtype=F64)
    for scheme in ("dpm3m", "deis2", "unipc2", "ab2"):
        a = tpf.sample(exact, start=x, scheme=scheme, steps=12, t=(0.3, 1.0))
        b = tpf.sample(field, start=x, scheme=scheme, steps=12, t=(0.3, 1.0))
        torch.testing.assert_close(a.x, b.x, rtol=1e-6, atol=1e-7)
        assert b.margin == (0.0, 0.0)
    x = exact.sample(0.0, 2000, generator=seeded(), dtype=F64)
    end = tpf.sample(field, start=x, scheme="dpm2m", steps=60)
    assert end.margin[1] == 0
    wanted = DATA.sample(2000, generator=seeded(1), dtype=F64)
    p = tpf.metrics.sliced_kolmogorov_test(end.x, wanted, generator=seeded(2)).p_value
    assert p > 1e-3


# --------------------------------------------------------------------------- chains and laws


def test_ddim_and_ancestral_steps_are_the_papers():
    law = PROCESSES["vp"]
    grid = torch.tensor([0.1, 0.4, 0.8, 1.0], dtype=F64)
    beta, sigma = law.affine.beta(grid), law.noise_part.scale(grid)
    bar = beta.square()  # Ho et al.'s ᾱ; their t grows towards the noise
    for k, (s, t) in enumerate(((0, 1), (1, 2), (2, 3))):
        alpha = bar[s] / bar[t]
        posterior = (1 - bar[t]) / (1 - bar[s]) * (1 - alpha)
        state = alpha.sqrt() * (1 - bar[t]) / (1 - bar[s])
        given = bar[t].sqrt() * (1 - alpha) / (1 - bar[s])
        small = numbers(tpf.samplers.Ancestral(), law, 0.0, grid)
        large = numbers(tpf.samplers.Ancestral("large"), law, 0.0, grid)
        for table in (small, large):
            assert float(table.state[k]) == pytest.approx(float(state), abs=1e-12)
            assert float(table.weights[k]) == pytest.approx(float(given), rel=1e-10)
        assert float(small.noise[k]) ** 2 == pytest.approx(float(posterior), abs=1e-14)
        wanted = 0.0 if k == 2 else float(1 - alpha)
        assert float(large.noise[k]) ** 2 == pytest.approx(wanted, rel=1e-10)
        half = numbers(tpf.samplers.DDIM(0.5), law, 0.0, grid)
        variance = 0.25 * posterior
        kept = (1 - bar[t] - variance).sqrt() / sigma[s]
        assert float(half.noise[k]) ** 2 == pytest.approx(float(variance), abs=1e-14)
        assert float(half.state[k]) == pytest.approx(float(kept), abs=1e-12)
        assert float(half.weights[k]) == pytest.approx(float(beta[t] - kept * beta[s]), rel=1e-9)
    law = PROCESSES["ve"]  # Song et al. (2021), SMLD
    grid = torch.tensor([0.1, 0.4], dtype=F64)
    first, last = law.noise_part.scale(grid).square().tolist()
    table = numbers(tpf.samplers.Ancestral(), law, 0.0, grid)
    assert float(table.state[0]) == pytest.approx(1 - (first - last) / first, rel=1e-10)
    assert float(table.noise[0]) ** 2 == pytest.approx(last * (first - last) / first, rel=1e-10)
    # It is the exponential integrator of Anderson's ε.
    again = numbers(tpf.samplers.ExponentialIntegrator(1), law, tpf.solve.AndersonEpsilon(), grid)
    for a, b in zip(
        (table.state, table.weights, table.noise),
        (again.state, again.weights, again.noise),
        strict=True,
    ):
        assert float(a[0]) == pytest.approx(float(b[0]), rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, tpf.solve.AndersonEpsilon()], ids=["ode", "sde"])
def test_the_midpoint_rule_is_dpm_solver_2m(epsilon):
    """Lu et al. (2022), algorithm 2; their SDE-DPM-Solver++(2M) where steps are even in λ."""
    law = PROCESSES["vp"]
    grid = torch.tensor([0.0, 0.2, 0.35, 0.6, 0.8], dtype=F64)
    if epsilon != 0.0:
        grid = tpf.solve.noise_grid(law, 12, spacing="logsnr")[:5]
    found = numbers(tpf.samplers.ExponentialIntegrator(2, rule="midpoint"), law, epsilon, grid)
    beta, sigma = law.affine.beta(grid), law.noise_part.scale(grid)
    steps = (beta / sigma).log().diff()
    kappa = 0.0 if epsilon == 0.0 else 1.0
    for i in range(1, 4):
        h, r = steps[i], steps[i - 1] / steps[i]
        mass = beta[i + 1] * -torch.expm1(-(1 + kappa) * h)
        expected = torch.stack([mass * (1 + 0.5 / r), -mass * 0.5 / r])
        torch.testing.assert_close(found.weights[i][:2, 0], expected, rtol=1e-9, atol=1e-12)
        state = sigma[i + 1] / sigma[i] * torch.exp(-kappa * h)
        torch.testing.assert_close(found.state[i][0], state, rtol=1e-9, atol=0)


@pytest.mark.parametrize("label", ["vp", "ve"])
def test_the_midpoint_rule_has_order_2(label):
    steps = (48, 96, 192)
    grid = GRIDS["cosine"](PROCESSES[label])
    errors = distances(
        PROCESSES[label], tpf.samplers.ExponentialIntegrator(2, rule="midpoint"), steps, grid
    )
    assert abs(slope(errors, steps) - 2) < 0.25


def test_dpm_solver_and_unipc_weights():
    """Closed forms on a grid that is even in λ: 2M's exact weights, and UniC-1."""
    law = PROCESSES["ve"]
    grid = tpf.solve.noise_grid(law, 4, spacing="logsnr")
    h = float((law.noise_part.scale(grid)[0] / law.noise_part.scale(grid)[1]).log())
    table = numbers(tpf.samplers.ExponentialIntegrator(2), law, 0.0, grid)
    one = 1 - math.exp(-h)
    extra = 1 - one / h  # ∫_0^h e^{-(h-s)} s/h ds, over h: of the slope
    weights = table.weights[2].flatten().tolist()
    assert weights == pytest.approx([one + extra, -extra], rel=1e-9)
    corrected = numbers(tpf.samplers.ExponentialIntegrator(1, corrector=True), law, 0.0, grid)
    # x_c = A x + (1 - e) d_0 - extra d_0 + extra d_1: a change by extra (d_1 - d_0).
    state = float(corrected.state[1])
    assert corrected.weights[1].flatten().tolist() == pytest.approx(
        [one + state * extra, -state * extra], rel=1e-9
    )


@pytest.mark.parametrize("scheme", ["ddim", "ancestral", "dpm2m", "deis2", "unipc2"])
@pytest.mark.parametrize("label", ["vp", "ve", "linear"])
def test_the_law_of_the_samples(scheme, label):
    law, n = PROCESSES[label], 4000
    exact = oracle(law)
    start = exact.sample(0.0, n, generator=seeded(1), dtype=F64)
    wanted = exact.sample(1.0, n, generator=seeded(2), dtype=F64)
    grid = tpf.solve.noise_grid(law, 150, spacing="asinh", scale=0.5)
    epsilons = [0.0]
    if scheme in ("dpm2m", "deis2", "unipc2"):
        epsilons = [0.0, tpf.solve.AndersonEpsilon(), tpf.solve.NoiseVarianceEpsilon(2.0)]
    runs = tpf.sample(
        exact, start=start, scheme=scheme, t=grid, epsilon=epsilons, generator=seeded()
    )
    for run in runs.x:
        p = tpf.metrics.sliced_kolmogorov_test(run, wanted, generator=seeded(3)).p_value
        assert p > 1e-3
    if len(runs.x) > 1:
        assert float((runs.x[0] - runs.x[1]).abs().mean()) > 0.1


def test_backward_with_noise_has_the_law_of_the_base():
    law, n = PROCESSES["linear"], 4000
    exact = oracle(law)
    start = exact.sample(1.0, n, generator=seeded(1), dtype=F64)
    runs = tpf.sample(
        exact,
        start=start,
        scheme="dpm2m",
        steps=100,
        t=(1.0, 0.0),
        epsilon=[0.5, tpf.solve.NoiseScaleEpsilon(0.5)],
        generator=seeded(),
    ).x
    for run in runs:
        wanted = torch.randn(n, 1, generator=seeded(4), dtype=F64)
        p = tpf.metrics.sliced_kolmogorov_test(run, wanted, generator=seeded(3)).p_value
        assert p > 1e-3
        correlation = float(torch.corrcoef(torch.cat([run, start], 1).mT)[0, 1])
        assert correlation < 0.8


# ------------------------------------------------------------------------- what the loop keeps

NAMES = list(tpf.samplers.FEW_STEP)
MULTI = ["dpm3m", "deis2", "unipc2"]


def network(width=16, seed=0, shape=2):
    return tpf.networks.MLP(shape, width, depth=2, generator=seeded(seed))


def field(kind=tpf.DataPredictor, path=None, dtype=torch.float32):
    law = tpf.Process(path or tpf.VP(), shape=(2,))
    return kind(network(), law).to(dtype)


@pytest.mark.parametrize("scheme", NAMES)
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 2e-5), (F64, 1e-12)])
def test_chunks_change_rounding_only(scheme, dtype, tol):
    found = [
        tpf.sample(field(dtype=dtype), 303, scheme=scheme, steps=6, chunk=c, generator=seeded()).x
        for c in (50, 303)
    ]
    torch.testing.assert_close(*found, rtol=tol, atol=tol)


@pytest.mark.parametrize("scheme", MULTI)
@pytest.mark.parametrize("kind", [tpf.DataPredictor, tpf.Velocity], ids=["data", "velocity"])
def test_a_sweep_equals_its_members(scheme, kind):
    epsilons = [0.5, 0.0, tpf.solve.AndersonEpsilon(), tpf.solve.NoiseScaleEpsilon(1.0)]
    if scheme == "deis2":
        epsilons[0] = tpf.solve.NoiseVarianceEpsilon(0.5)
    one = field(kind, tpf.OneSidedLinear())
    kwargs = {"scheme": scheme, "steps": 9, "save_at": [0.25, 1.0], "chunk": 13}
    sweep = tpf.sample(one, 40, epsilon=epsilons, generator=seeded(3), **kwargs)
    assert sweep.x.shape == (4, 40, 2)
    for k, epsilon in enumerate(epsilons):
        alone = tpf.sample(one, 40, epsilon=epsilon, generator=seeded(3), **kwargs)
        torch.testing.assert_close(sweep.x[k], alone.x, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(sweep.trajectory[:, k], alone.trajectory, rtol=2e-5, atol=2e-5)
    ode = tpf.sample(one, 40, generator=seeded(3), **kwargs)
    assert torch.equal(sweep.x[1], ode.x)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"scheme": "unipc3"},
        {"scheme": "deis3"},
        {"scheme": tpf.samplers.DDIM(0.5)},
        {"scheme": "dpm2m", "epsilon": 0.5},
        {"scheme": "dpm3m", "epsilon": [0.0, 0.5, 1.0], "chunk": 7},
    ],
    ids=["unipc", "deis", "ddim", "sde", "sweep"],
)
def test_no_host_synchronisation_in_the_step_loop(kwargs):
    counts = []
    for steps in (6, 26):
        one, grid = field(path=tpf.OneSidedLinear()), tpf.solve.time_grid(steps)
        stepper = tpf.samplers.linear_stepper.LinearStepper
        prepare = stepper.prepare
        before = []

        def timed(self, times, like, prepare=prepare, before=before):
            found = prepare(self, times, like)
            before.append(reads.count)
            reads.count = 0
            return found

        stepper.prepare = timed
        try:
            with _Reads() as reads:
                tpf.sample(one, 20, t=grid, **kwargs)
        finally:
            stepper.prepare = prepare
        counts.append(reads.count)
        assert before
    assert counts[0] == counts[1]


def test_the_calls_are_counted_and_made_once_a_step():
    calls = []

    def net(t, x):
        calls.append((float(t[0]), len(x)))
        return 0.1 * x

    one = tpf.DataPredictor(net, tpf.Process(tpf.VP(), shape=(2,)))
    for scheme in NAMES:
        calls.clear()
        solution = tpf.sample(one, 7, scheme=scheme, steps=5)
        assert solution.nfe == len(calls) == 5
        assert [t for t, _ in calls] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8], abs=1e-6)


def test_saved_states_are_those_of_the_grid_that_ends_there():
    one = field(path=tpf.OneSidedLinear(), dtype=F64)
    x = torch.randn(6, 2, generator=seeded(), dtype=F64)
    grid = [0.0, 0.3, 0.6, 1.0]
    bare = tpf.sample(one, start=x, scheme="dpm2m", t=grid)
    saved = tpf.sample(one, start=x, scheme="dpm2m", t=grid, save_at=[0.45, 1.0, 0.0])
    torch.testing.assert_close(saved.x, bare.x, rtol=0, atol=0)
    assert saved.t.tolist() == grid
    assert saved.nfe == bare.nfe == 3
    assert saved.saved_at.tolist() == [0.45, 1.0, 0.0]
    ends = tpf.sample(one, start=x, scheme="dpm2m", t=[0.0, 0.3, 0.45]).x
    torch.testing.assert_close(saved.trajectory, torch.stack([ends, bare.x, x]))


def test_conditions_go_with_their_rows_and_shapes_are_free():
    def net(t, x, *, label, gain):
        assert label.shape[0] == x.shape[0]
        return gain * label.view(-1, 1, 1, 1).expand_as(x)

    law = tpf.Process(tpf.OneSidedLinear(), shape=(1, 4, 4))
    label = torch.arange(10.0)
    got = tpf.sample(
        tpf.DataPredictor(net, law),
        10,
        scheme="dpm2m",
        steps=4,
        chunk=3,
        cond={"label": label, "gain": 2.0},
    ).x
    torch.testing.assert_close(got, (2 * label).view(-1, 1, 1, 1).expand(10, 1, 4, 4))


def test_same_seed_same_bits_and_zero_noise_is_the_ode():
    one = field()
    kwargs = {"scheme": "dpm2m", "steps": 6}
    a = tpf.sample(one, 30, epsilon=tpf.solve.AndersonEpsilon(), generator=seeded(5), **kwargs).x
    b = tpf.sample(one, 30, epsilon=tpf.solve.AndersonEpsilon(), generator=seeded(5), **kwargs).x
    c = tpf.sample(one, 30, epsilon=tpf.solve.AndersonEpsilon(), generator=seeded(6), **kwargs).x
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    ode = tpf.sample(one, 30, generator=seeded(5), **kwargs).x
    assert torch.equal(tpf.sample(one, 30, epsilon=0.0, generator=seeded(5), **kwargs).x, ode)
    small = tpf.sample(one, 30, epsilon=1e-9, generator=seeded(5), **kwargs).x
    torch.testing.assert_close(small, ode, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        tpf.sample(one, 30, scheme=tpf.samplers.DDIM(), steps=6, generator=seeded(5)).x,
        tpf.sample(
            one, 30, scheme=tpf.samplers.ExponentialIntegrator(1), steps=6, generator=seeded(5)
        ).x,
    )


def test_a_transform_is_undone():
    transform = tpf.Standardize(mean=torch.tensor([10.0, -5.0]), scale=torch.tensor([3.0, 0.5]))
    law = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
    one = tpf.DataPredictor(lambda t, x: torch.ones_like(x), law, transform=transform)
    got = tpf.sample(one, 5, scheme="dpm2m", steps=3).x
    torch.testing.assert_close(got, torch.tensor([[13.0, -4.5]]).expand(5, 2))


def test_a_move_between_the_steps_is_kept_by_the_corrector():
    """A Langevin step after a step must not be undone where the next one corrects."""
    from transportflows.samplers.linear_stepper import LinearStepper
    from transportflows.solve.loop import march

    shift = 0.25

    class Moved(LinearStepper):
        def step(self, prepared, step, *given):
            x, memory = super().step(prepared, step, *given)
            return (x + shift if step == 2 else x), memory

    law = tpf.Process(tpf.OneSidedLinear(), shape=(1,))
    one = tpf.DataPredictor(lambda t, x: 0.3 + 0.0 * x, law)
    x, grid = torch.zeros(1, 1, dtype=F64), tpf.solve.time_grid(6, stop=0.9)
    scheme = tpf.samplers.ExponentialIntegrator(2, corrector=True)
    with torch.no_grad():
        plain, moved = (
            march(cls(one, [as_epsilon(0.0)], scheme), x, grid)[0].x
            for cls in (LinearStepper, Moved)
        )
    # With d constant the shift is carried along by σ̂: from σ̂(0.45) to σ̂(0.9).
    assert float(moved - plain) == pytest.approx(shift * 0.1 / 0.55, rel=1e-9)


def test_float32_agrees_with_float64():
    law = tpf.Process(tpf.VP(), shape=(2,))
    exact = oracle(law, mixture([[1.0, 0.0], [-1.0, 0.5]], 0.4))
    x = exact.sample(0.0, 100, generator=seeded(), dtype=F64)
    for scheme in ("dpm3m", "deis3", "unipc2", "ab3"):
        a = tpf.sample(exact, start=x, scheme=scheme, steps=10).x
        b = tpf.sample(exact, start=x.float(), scheme=scheme, steps=10).x
        torch.testing.assert_close(a.float(), b, rtol=1e-3, atol=2e-4)


# ------------------------------------------------------------------------------- noise levels


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_noise_grids_have_their_levels(path):
    law = tpf.Process(path, shape=(1,))

    def level(grid):
        return law.noise_part.scale(grid) / law.affine.beta(grid)

    grid = tpf.solve.noise_grid(law, 8, sigma_min=0.06, sigma_max=15.0)
    u = level(grid)[1:-1]
    assert grid[[0, -1]].tolist() == [0.0, 1.0]
    extra = float(level(grid)[-1]) < 0.06
    root = u ** (1 / 7)
    steps = 7 if extra else 8
    even = torch.linspace(15.0 ** (1 / 7), 0.06 ** (1 / 7), steps + 1, dtype=F64)[1:]
    torch.testing.assert_close(root, even[: len(root)], rtol=1e-9, atol=0)
    even = level(tpf.solve.noise_grid(law, 9, spacing="logsnr", sigma_min=0.06))[1:-1].log().diff()
    torch.testing.assert_close(even, even[:1].expand_as(even), rtol=1e-8, atol=0)
    even = torch.asinh(
        level(tpf.solve.noise_grid(law, 9, spacing="asinh", scale=0.3))[1:] / 0.3
    ).diff()
    torch.testing.assert_close(even, even[:1].expand_as(even), rtol=1e-8, atol=0)
    own = level(tpf.solve.noise_grid(law, 9, spacing=lambda u: u**0.25))[1:] ** 0.25
    torch.testing.assert_close(own.diff(), own.diff()[:1].expand(8), rtol=1e-8, atol=0)
    back = tpf.solve.noise_grid(law, 8, sigma_min=0.06, sigma_max=15.0, start=1.0, stop=0.0)
    assert torch.equal(back, grid.flip(0))
    part = tpf.solve.noise_grid(law, 5, spacing="logsnr", start=0.2, stop=0.7)
    assert part[[0, -1]].tolist() == [0.2, 0.7]
    assert torch.allclose(level(part).log().diff(), level(part).log().diff()[0], rtol=1e-8)
    quadratic = tpf.solve.noise_grid(law, 5, spacing="quadratic")
    torch.testing.assert_close((1 - quadratic).sqrt(), torch.linspace(1, 0, 6, dtype=F64))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"spacing": "log"}, "unknown spacing 'log'; known: 'karras', 'logsnr'"),
        ({"rho": 0.0}, "rho and scale must be positive"),
        ({"spacing": "asinh", "scale": -1.0}, "rho and scale must be positive"),
        ({"sigma_min": 3.0, "sigma_max": 2.0}, "from sigma_max down to sigma_min"),
        ({"sigma_min": 0.01}, "within those of the process, 20 to 0.05"),
        ({"steps": 0}, "positive integer"),
        ({"spacing": lambda u: 0 * u}, "finite and monotone"),
    ],
)
def test_bad_noise_grids_are_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        tpf.solve.noise_grid(PROCESSES["ve"], **{"steps": 5, **kwargs})


def test_noise_grids_of_two_sided_processes_are_refused():
    law = tpf.Process(tpf.Linear(), tpf.distributions.Uniform((2,)))
    with pytest.raises(ValueError, match="no Gaussian part beside x1"):
        tpf.solve.noise_grid(law, 5)


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: tpf.samplers.ExponentialIntegrator(5), "order must be 1 to 4, got 5"),
        (lambda: tpf.samplers.ExponentialIntegrator(0), "order must be 1 to 4, got 0"),
        (
            lambda: tpf.samplers.ExponentialIntegrator(2, "score"),
            "unknown prediction 'score'; known: 'data'",
        ),
        (
            lambda: tpf.samplers.ExponentialIntegrator(2, variable="snr"),
            "unknown variable 'snr'; known: 'lambda'",
        ),
        (
            lambda: tpf.samplers.ExponentialIntegrator(2, rule="left"),
            "rule is 'exact' or 'midpoint', got 'left'",
        ),
        (
            lambda: tpf.samplers.ExponentialIntegrator(3, rule="midpoint"),
            "is for order 2, and order is 3",
        ),
        (lambda: tpf.samplers.DDIM(1.5), "eta must be from 0"),
        (lambda: tpf.samplers.DDIM(-0.1), "eta must be from 0"),
        (lambda: tpf.samplers.Ancestral("medium"), "unknown variance 'medium'; known: 'small'"),
    ],
)
def test_bad_schemes_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"scheme": "dpm9"}, "unknown scheme 'dpm9'; known: 'euler'.*'dpm2m'"),
        (
            {"scheme": tpf.samplers.DDIM(0.5), "epsilon": 0.1},
            "has a noise of its own, and epsilon > 0",
        ),
        ({"scheme": "ancestral", "epsilon": 0.1}, "ExponentialIntegrator\\(1\\)"),
        ({"scheme": "ab2", "epsilon": 0.1}, "prediction='velocity' solves the ODE"),
        ({"scheme": "ancestral", "t": (1.0, 0.0), "start": torch.zeros(5, 2)}, "towards the data"),
        ({"scheme": "deis2", "epsilon": 0.0, "margin": 0.7}, "margins"),
    ],
)
def test_bad_calls_are_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        tpf.sample(field(), 5, **kwargs)


def test_a_scheme_that_is_a_class_is_named():
    with pytest.raises(TypeError, match="the class ExponentialIntegrator; write Exponential"):
        tpf.sample(field(), 5, scheme=tpf.samplers.ExponentialIntegrator)


@pytest.mark.parametrize("scheme", ["ddim", "ancestral", "dpm2m"])
def test_two_sided_processes_are_refused_with_the_cure(scheme):
    law = tpf.Process(tpf.Linear(tpf.Brownian()), tpf.distributions.Uniform((2,)))
    pair = tpf.FieldPair(velocity=network(), noise=network(), process=law)
    with pytest.raises(tpf.ConversionError, match=r"no Gaussian part.*base Uniform.*'heun'"):
        tpf.sample(pair, 5, scheme=scheme)
    alone = tpf.Velocity(network(), law)
    with pytest.raises(tpf.ConversionError, match="FieldPair"):
        tpf.sample(alone, 5, scheme="euler_maruyama", epsilon=0.1)


def test_an_epsilon_that_no_form_can_carry_is_refused():
    """Backward from σ̂ = 0, where ε grows: neither form is regular in the first step."""
    law = tpf.Process(tpf.OneSidedLinear(), shape=(1,))
    x = torch.zeros(5, 1)
    one = tpf.DataPredictor(network(shape=1), law)
    got = tpf.sample(one, start=x, scheme="dpm2m", t=(1.0, 0.0), epsilon=0.3, steps=6).x
    assert bool(got.isfinite().all())
    scheme = tpf.samplers.ExponentialIntegrator(2, "noise")
    got = tpf.sample(one, 5, scheme=scheme, epsilon=0.3, steps=6)
    assert bool(got.x.isfinite().all())


def test_predictions_that_are_the_state_itself_are_kept_as_copies():
    """At t = 0 a mirror's data prediction is x, which the loop then writes over.

    The order shows it: the error at 40 steps was that of the old predictions, twice as large.
    """
    law = tpf.Process(tpf.Mirror(), base=tpf.Gaussian((2,)))
    exact = tpf.oracle(law, tpf.Gaussian((2,)))
    field = tpf.Score(lambda t, x: exact.score(t, x), law)
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    reference = tpf.sample(field, start=x, scheme="rk4", steps=2000).x
    with_chunks, plain = (
        tpf.sample(field, start=x, scheme="unipc3", steps=40, chunk=chunk).x for chunk in (30, None)
    )
    assert torch.equal(with_chunks, plain)
    assert float((plain - reference).abs().mean()) < 4e-3
