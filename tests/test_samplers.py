"""Samplers: measured orders, exact invariances, marginals, ends of time."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import transportflows as tpf
from families import INTERPOLANTS, mixture, name, process
from transportflows.solve.noise import NoiseOfRows
from transportflows.testing import estimate_order, mixture_oracle, quadrature_moments

SCHEMES = list(tpf.samplers.SCHEMES)
NOISY = [label for label, scheme in tpf.samplers.SCHEMES.items() if scheme.noisy]


def network(width=16, shape=2, heads=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tpf.networks.MLP(shape, width, depth=2, heads=heads, generator=generator)


def velocity(gamma=None, **kwargs):
    return tpf.Velocity(network(), tpf.Process(tpf.Linear(gamma), tpf.Gaussian((2,))), **kwargs)


def pair():
    base = tpf.distributions.Uniform((2,), -1.0, 1.0)
    law = tpf.Process(tpf.Linear(tpf.Brownian()), base)
    return tpf.FieldPair(velocity=network(), noise=network(seed=1), process=law)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------- orders


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_ode_order(scheme, backward):
    measured = estimate_order(scheme, kind="ode", backward=backward, n=500).order
    assert abs(measured - tpf.samplers.SCHEMES[scheme].order) < 0.25


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("scheme", NOISY)
def test_weak_order(scheme, backward):
    measured = estimate_order(scheme, kind="weak", backward=backward).order
    assert abs(measured - tpf.samplers.SCHEMES[scheme].weak_order) < 0.25


@pytest.mark.parametrize("epsilon", [0.5, lambda t: 0.3 * (1 + t)], ids=["constant", "varying"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("scheme", NOISY)
def test_strong_order(scheme, backward, epsilon):
    measured = estimate_order(scheme, kind="strong", backward=backward, epsilon=epsilon).order
    assert abs(measured - tpf.samplers.SCHEMES[scheme].strong_order) < 0.25


def test_the_order_test_sees_a_wrong_heun():
    """Both stages at the end of the step, as in a peer: order 1."""

    def step(drift, x, h, n, area):
        first = drift(1, x)
        return x + 0.5 * h * (first + drift(1, x + h * first))

    wrong = tpf.samplers.Scheme("wrong_heun", step, (0.0, 1.0), (0.5, 0.5), 2, None, None, 2)
    assert estimate_order(wrong, kind="ode", n=200).order < 1.25


def test_the_order_test_sees_a_constant_forcing():
    """RK4 with the increment in every stage is only weak order 1."""
    rk4 = tpf.samplers.SCHEMES["rk4"]

    def step(drift, x, h, n, area):
        return rk4.step(lambda k, y: drift(k, y) + n / h, x, h, None, None)

    forced = tpf.samplers.Scheme("forced", step, rk4.nodes, rk4.quadrature, 4, 2, 1, 4)
    assert estimate_order(forced, kind="weak").order < 1.4


def test_breakpoints_keep_the_order_of_rk4():
    law = process(tpf.EncoderDecoder(), (1,), base=mixture([[-1.0], [1.0]], 0.4))
    oracle = tpf.oracles.GaussianMixtureOracle(law, mixture([[-0.7], [1.3]], 0.5))
    x = oracle.sample(0.0, 200, generator=seeded(), dtype=torch.float64)
    finals = [
        tpf.sample(oracle, start=x, scheme="rk4", steps=n).x for n in (25, 51, 101, 1601)
    ]  # odd counts: ½ is met because the grid says so
    errors = [float((f - finals[-1]).abs().median()) for f in finals[:-1]]
    assert math.log2(errors[0] / errors[1]) > 3.4
    assert math.log2(errors[1] / errors[2]) > 3.4


# --------------------------------------------------------------------------- exact invariances


@pytest.mark.parametrize("field", [velocity, pair], ids=["velocity", "pair"])
def test_zero_epsilon_is_the_ode_bit_for_bit(field):
    field = field()
    x = torch.randn(50, 2, generator=seeded())
    ode = tpf.sample(field, start=x, scheme="euler", steps=7).x
    sde = tpf.sample(field, start=x, scheme="euler_maruyama", epsilon=0.0, steps=7).x
    by_hand = x.clone()
    with torch.no_grad():
        for k in range(7):
            by_hand = by_hand + field.velocity(torch.tensor(k / 7), by_hand) * (1 / 7)
    assert torch.equal(ode, sde)
    torch.testing.assert_close(ode, by_hand, rtol=1e-6, atol=1e-6)


def test_zero_epsilon_never_calls_the_second_network():
    class Refusing(torch.nn.Module):
        def forward(self, t, x):
            raise AssertionError("the noise network was called")

    law = tpf.Process(tpf.Linear(tpf.Brownian()), tpf.distributions.Uniform((2,)))
    field = tpf.FieldPair(velocity=network(), noise=Refusing(), process=law)
    tpf.sample(field, 5, steps=3)
    with pytest.raises(AssertionError, match="was called"):
        tpf.sample(field, 5, steps=3, epsilon=0.1)


@pytest.mark.parametrize("scheme", NOISY)
@pytest.mark.parametrize("make", [velocity, pair], ids=["velocity", "pair"])
def test_a_sweep_equals_its_members(make, scheme):
    field, epsilons = make(), [0.5, 0.0, tpf.solve.NoiseScaleEpsilon(1.0), lambda t: t * (1 - t)]
    kwargs = {"scheme": scheme, "steps": 9, "save_at": [0.25, 1.0]}
    sweep = tpf.sample(field, 40, epsilon=epsilons, generator=seeded(3), **kwargs)
    assert sweep.x.shape == (4, 40, 2)
    assert sweep.trajectory.shape == (2, 4, 40, 2)
    for k, epsilon in enumerate(epsilons):
        alone = tpf.sample(field, 40, epsilon=epsilon, generator=seeded(3), **kwargs)
        torch.testing.assert_close(sweep.x[k], alone.x, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(sweep.trajectory[:, k], alone.trajectory, rtol=2e-5, atol=2e-5)
    ode = tpf.sample(field, 40, generator=seeded(3), **kwargs)
    assert torch.equal(sweep.x[1], ode.x)


@pytest.mark.parametrize("scheme", NOISY)
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_chunks_change_rounding_only(scheme, dtype, tol):
    field = pair()
    field.to(dtype)
    results = [
        tpf.sample(field, 1003, epsilon=e, scheme=scheme, steps=5, chunk=c, generator=seeded()).x
        for c in (64, 1003)
        for e in (0.7, [0.7, 0.2])
    ]
    torch.testing.assert_close(results[0], results[2], rtol=tol, atol=tol)
    torch.testing.assert_close(results[1], results[3], rtol=tol, atol=tol)
    torch.testing.assert_close(results[0], results[1][0], rtol=tol, atol=tol)


def test_same_seed_same_bits_and_the_global_state_is_left_alone():
    field = velocity()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a = tpf.sample(field, 30, epsilon=0.5, steps=4, generator=seeded(5)).x
    assert torch.equal(before, torch.random.get_rng_state())
    b = tpf.sample(field, 30, epsilon=0.5, steps=4, generator=seeded(5)).x
    c = tpf.sample(field, 30, epsilon=0.5, steps=4, generator=seeded(6)).x
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


class _Reads(TorchDispatchMode):
    """Counts operations that make the host wait for the device."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item", "masked_select")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.NAMES
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"scheme": "rk4"},
        {"epsilon": 0.5, "scheme": "rk4"},
        {"epsilon": [0.0, 0.5, 1.0]},
        {"epsilon": 0.5, "noise": tpf.solve.BrownianPath()},
        {"save_at": [0.5], "chunk": 7},
    ],
    ids=["ode", "sde", "sweep", "path", "chunks"],
)
@pytest.mark.parametrize("make", [velocity, pair], ids=["velocity", "pair"])
def test_no_host_synchronisation_in_the_step_loop(make, kwargs):
    counts = []
    for steps in (4, 24):
        with _Reads() as reads:
            tpf.sample(make(), 20, steps=steps, **kwargs)
        counts.append(reads.count)
    assert counts[0] == counts[1]


def test_the_counter_of_synchronisations_counts():
    with _Reads() as reads:
        float(torch.ones(3).sum())
    assert reads.count == 1


# ----------------------------------------------------------------------------- noise sources


def test_brownian_path_has_the_law_and_refines():
    like = torch.zeros(100_000, 1, dtype=torch.float64)
    coarse_times, fine_times = [0.0, 0.3, 1.0], [0.0, 0.11, 0.3, 0.5, 0.8, 1.0]

    def run(times):
        path = tpf.solve.BrownianPath()
        path.begin(11, like, 0.0)
        pairs = itertools.pairwise(times)
        return [path.increment(k, a, b, area=True) for k, (a, b) in enumerate(pairs)]

    coarse, fine = run(coarse_times), run(fine_times)
    # The same path: increments add up, and so do the integrals behind the areas.
    for (w, levy), parts, times in (
        (coarse[0], fine[:2], fine_times[:3]),
        (coarse[1], fine[2:], fine_times[2:]),
    ):
        torch.testing.assert_close(w, sum(p[0] for p in parts), rtol=0, atol=5e-3 * 3)
        total, integral = torch.zeros_like(w), torch.zeros_like(w)
        for (dw, area), a, b in zip(parts, times[:-1], times[1:], strict=True):
            integral = integral + (b - a) * (total + area + dw / 2)
            total = total + dw
        span = times[-1] - times[0]
        torch.testing.assert_close(levy, integral / span - w / 2, rtol=0, atol=5e-3 * 3)
    columns = []
    for (w, levy), a, b in zip(fine, fine_times[:-1], fine_times[1:], strict=True):
        columns += [w / math.sqrt(b - a), levy / math.sqrt((b - a) / 12)]
    z = torch.cat(columns, 1)
    covariance = z.mT @ z / len(z)
    assert float((covariance - torch.eye(10)).abs().max()) < 5 / math.sqrt(len(z)) * 1.5


def test_independent_increments_have_the_law_and_rows_of_it_are_its_rows():
    """``ΔW ~ N(0, h)`` and ``H ~ N(0, h/12)``, independent of each other and from step to step."""
    like, columns = torch.zeros(100_000, 1, dtype=torch.float64), []
    source, part = tpf.solve.Increments(), NoiseOfRows(tpf.solve.Increments(), 3, 9, len(like))
    source.begin(5, like, 1.0)
    part.begin(5, like[3:9], 1.0)
    for step, (t0, t1) in enumerate([(1.0, 0.7), (0.7, 0.65)]):  # backward in time
        dw, levy = source.increment(step, t0, t1, area=True)
        for whole, rows in zip((dw, levy), part.increment(step, t0, t1, area=True), strict=True):
            assert torch.equal(whole[3:9], rows)
        columns += [dw / (t0 - t1) ** 0.5, levy / ((t0 - t1) / 12) ** 0.5]
    z = torch.cat(columns, 1)
    assert float((z.mT @ z / len(z) - torch.eye(4)).abs().max()) < 5 * (2 / len(z)) ** 0.5


def test_brownian_path_is_exact_on_dyadic_grids():
    like = torch.zeros(10, 1, dtype=torch.float64)

    def run(count):
        path = tpf.solve.BrownianPath()
        path.begin(3, like, 1.0)  # backward in time: elapsed time counts
        times = [1 - k / count for k in range(count + 1)]
        pairs = itertools.pairwise(times)
        return torch.stack(
            [path.increment(k, a, b, area=False)[0] for k, (a, b) in enumerate(pairs)]
        )

    fine, coarse = run(16), run(4)
    torch.testing.assert_close(fine.view(4, 4, 10, 1).sum(1), coarse, rtol=0, atol=1e-14)


class _Given(tpf.solve.NoiseSource):
    """The same ΔW and H at every step."""

    def __init__(self, dw, area):
        self.given = dw, area

    def increment(self, step, t0, t1, *, area):
        dw, levy = (torch.full(self.shape, value, dtype=self.dtype) for value in self.given)
        return dw, levy if area else None


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_the_noise_of_rk4_is_exact_for_a_linear_amplitude(backward):
    """``∫ g dW = ḡ ΔW - (g_end - g_start) H`` for linear g, of variance ``∫ g²`` by Simpson."""
    start, stop = (1.0, 0.5) if backward else (0.5, 1.0)
    amplitude = lambda t: 0.3 + 2.0 * t  # noqa: E731

    def moved(dw, area):
        return float(
            tpf.integrate(
                lambda t, x: torch.zeros_like(x),
                torch.zeros(1, 1, dtype=torch.float64),
                torch.tensor([start, stop], dtype=torch.float64),
                scheme="rk4",
                epsilon=lambda t: amplitude(t) ** 2 / 2,
                noise=_Given(dw, area),
            ).x
        )

    of_dw, of_area = moved(1.0, 0.0), moved(0.0, 1.0)
    assert of_dw == pytest.approx(amplitude(0.75), rel=1e-12)
    assert of_area == pytest.approx(amplitude(start) - amplitude(stop), rel=1e-12)
    simpson = (amplitude(0.5) ** 2 + 4 * amplitude(0.75) ** 2 + amplitude(1.0) ** 2) / 6
    assert of_dw**2 + of_area**2 / 12 == pytest.approx(simpson, rel=1e-12)


# ------------------------------------------------------------------- marginals, ends, two ways


def test_sde_marginals_do_not_depend_on_epsilon():
    base = mixture([[-2.0, 0.0], [1.0, 1.0]], 0.6, weights=[0.3, 0.7])
    law = tpf.Process(tpf.Linear(tpf.Brownian()), base)
    oracle = tpf.oracles.GaussianMixtureOracle(
        law, mixture([[0.0, 2.0], [2.0, -1.0], [-2.0, -2.0]], 0.4)
    )
    generator = seeded(0)
    p_values = []
    for t in ((0.0, 1.0), (1.0, 0.0)):
        x = oracle.sample(t[0], 3000, generator=generator, dtype=torch.float64)
        runs = tpf.sample(
            oracle, start=x, epsilon=[0.0, 0.1, 1.0, 5.0], t=t, steps=200, generator=generator
        ).x
        for run in runs:
            exact = oracle.sample(t[1], 3000, generator=generator, dtype=torch.float64)
            p_values += [
                tpf.metrics.energy_test(run, exact, generator=generator).p_value,
                tpf.metrics.sliced_kolmogorov_test(run, exact, generator=generator).p_value,
            ]
    assert min(tpf.metrics.holm(p_values)) > 0.01


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("first_output", ["velocity", "mean_velocity"])
def test_pairs_cost_little_at_the_ends(backward, first_output):
    """η/γ is 0/0 there, and for (v, η) γ̇ η too; the oracle has neither.

    The two steps at the ends add an error of O(h²), once: some times the oracle's own.
    """
    oracle = mixture_oracle()
    outputs = {first_output: getattr(oracle, first_output), "noise": oracle.noise}
    pair = tpf.FieldPair(**outputs, process=oracle.process)
    assert tpf.sample(pair, 2, steps=2).margin == (0.0, 0.0)
    x = torch.linspace(-7, 7, 501, dtype=torch.float64)
    first, last = (1.0, 0.0) if backward else (0.0, 1.0)
    grid = tpf.solve.time_grid(64, start=first, stop=last)
    start, stop = (
        oracle.log_prob(torch.tensor(s, dtype=torch.float64), x[:, None]).exp()
        for s in (first, last)
    )
    exact = float((x[1] - x[0]) * (stop * x**2).sum())
    errors = []
    for field in (oracle, pair):
        dynamics = tpf.samplers.FieldDynamics(field, [tpf.solve.ConstantEpsilon(1.0)])
        moment = quadrature_moments(dynamics, "heun", grid, start, lambda y: y[:, None] ** 2, x)
        errors.append(abs(float(moment[0]) - exact))
    assert errors[0] < 2e-4
    assert errors[1] < 1e-3


def test_limit_and_margin_are_reported():
    field = velocity()
    solution = tpf.sample(field, 4, epsilon=1.0, steps=10)
    assert solution.limited == ((pytest.approx(0.3), 1.0),)  # ε > (1 - t)²/(4h) from t = ½ on
    assert solution.margin == (0.0, 0.0)
    slow = tpf.sample(field, 4, epsilon=tpf.solve.NoiseVarianceEpsilon(1.0), steps=10)
    assert slow.limited == ((pytest.approx(0.9), 1.0),)  # the step that ends at σ̂ = 0
    assert tpf.sample(field, 4, steps=10).limited is None
    noise = tpf.NoisePredictor(network(), field.process)
    solution = tpf.sample(noise, 4, steps=10)
    assert solution.margin == (pytest.approx(0.05), 0.0)
    assert solution.t[[0, -1]].tolist() == [0.0, 1.0]
    data = tpf.DataPredictor(network(), field.process)
    assert tpf.sample(data, 4, steps=10).margin == (0.0, 0.0)
    # Euler never looks at the end of the last step, which then lands on the data prediction.
    solution = tpf.sample(data, 4, steps=10, scheme="euler", save_at=[0.9, 1.0])
    assert solution.margin == (0.0, 0.0)
    with torch.no_grad():
        landing = data.data(torch.tensor(0.9), solution.trajectory[0])
    torch.testing.assert_close(solution.x, landing, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=name)
def test_ode_round_trip_and_both_ends(interpolant):
    law = process(interpolant)
    data = mixture([[1.0, 0.0], [-1.0, 0.5]], 0.5)
    oracle = tpf.oracles.GaussianMixtureOracle(law, data)
    x = oracle.sample(0.0, 2000, generator=seeded(), dtype=torch.float64)
    there = tpf.sample(oracle, start=x, scheme="rk4", steps=80)
    back = tpf.sample(oracle, start=there.x, scheme="rk4", steps=80, t=(1.0, 0.0)).x
    assert float((back - x).abs().max()) < 2e-3
    exact = data.sample(2000, generator=seeded(1), dtype=torch.float64)
    test = tpf.metrics.sliced_kolmogorov_test(there.x, exact, generator=seeded(2))
    assert test.p_value > 1e-3
    if not isinstance(interpolant, tpf.Mirror):
        assert float((there.x - x).abs().mean()) > 0.1


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=name)
@pytest.mark.parametrize("kind", ["velocity", "noise", "score", "data"])
def test_every_field_kind_samples_every_process(interpolant, kind):
    """One network of each kind, exact, gives the law of the data by ODE and by SDE, or refuses."""
    law = process(interpolant)
    data = mixture([[1.0, 0.0], [-1.0, 0.5]], 0.5)
    oracle = tpf.oracles.GaussianMixtureOracle(law, data)
    cls = {
        "velocity": tpf.Velocity,
        "noise": tpf.NoisePredictor,
        "score": tpf.Score,
        "data": tpf.DataPredictor,
    }[kind]
    field = cls(getattr(oracle, kind), law)
    x = oracle.sample(0.0, 4000, generator=seeded(), dtype=torch.float64)
    exact = data.sample(4000, generator=seeded(1), dtype=torch.float64)
    for epsilon in (0.0, 0.5):
        try:
            got = tpf.sample(
                field, start=x, epsilon=epsilon, steps=200, generator=seeded(), spacing="cosine"
            ).x
        except tpf.ConversionError:
            degenerate = isinstance(interpolant, tpf.Mirror) or getattr(interpolant, "scaled", 0)
            assert kind in ("velocity", "data"), (kind, epsilon)
            assert degenerate, (kind, epsilon)
            continue
        p = tpf.metrics.sliced_kolmogorov_test(got, exact, generator=seeded(2)).p_value
        assert p > 1e-4, (kind, epsilon, p)


def test_backward_sde_needs_a_start_and_runs():
    field = velocity()
    with pytest.raises(ValueError, match="needs start="):
        tpf.sample(field, 10, t=(1.0, 0.0))
    law = tpf.distributions.Empirical(torch.randn(100, 2, generator=seeded()))
    assert tpf.sample(field, 10, start=law, t=(1.0, 0.0), epsilon=0.2).x.shape == (10, 2)


# ----------------------------------------------------------------------- grids, saves, adaptive


def test_grids():
    grid = tpf.solve.time_grid(5, spacing="cosine")
    assert torch.equal(grid.flip(0), tpf.solve.time_grid(5, spacing="cosine", start=1.0, stop=0.0))
    assert len(tpf.solve.time_grid(7, breakpoints=(0.5,))) == 8
    assert 0.5 in tpf.solve.time_grid(7, breakpoints=(0.5,)).tolist()
    for bad in ({"steps": 0}, {"steps": 2.5}, {"steps": 3, "start": 1.0}):
        with pytest.raises(ValueError):  # noqa: PT011
            tpf.solve.time_grid(**bad)


def test_saved_states_and_own_grids():
    field = velocity()
    x = torch.randn(6, 2, generator=seeded())
    own = [0.0, 0.1, 0.4, 0.45, 1.0]
    solution = tpf.sample(field, start=x, t=own, save_at=[1.0, 0.0, 0.4])
    assert solution.t.tolist() == own
    assert solution.nfe == 8
    assert torch.equal(solution.trajectory[0], solution.x)
    assert torch.equal(solution.trajectory[1], x)
    inserted = tpf.sample(field, start=x, t=own, save_at=[0.2])
    assert inserted.t.tolist() == [0.0, 0.1, 0.2, 0.4, 0.45, 1.0]
    back = tpf.sample(field, start=x, t=(0.8, 0.3), steps=5, save_at=[0.5])
    assert float(back.t[0]) == 0.8
    assert bool((back.t.diff() < 0).all())
    with pytest.raises(ValueError, match="cannot save at"):
        tpf.sample(field, start=x, t=(0.8, 0.3), save_at=[0.1])


def test_adaptive_agrees_and_does_not_couple_the_batch():
    oracle = mixture_oracle()
    x = oracle.sample(0.0, 200, generator=seeded(), dtype=torch.float64)
    fine = tpf.sample(oracle, start=x, scheme="rk4", steps=400).x
    close = tpf.sample(oracle, start=x, scheme="dopri5", rtol=1e-8, atol=1e-8, save_at=[0.5, 1.0])
    assert float((close.x - fine).abs().max()) < 1e-6
    assert close.nfe > 10
    hard = x[:1]
    easy = torch.zeros(999, 1, dtype=torch.float64) + 100.0

    class Spiral(torch.nn.Module):  # moves rows near 0 fast, rows near 100 not at all
        def forward(self, t, y):
            return torch.where(y.abs() < 50, torch.sin(40 * t[:, None]) * 20 * torch.cos(y), 0.0)

    field = tpf.Velocity(Spiral(), tpf.Process(tpf.Linear(), tpf.Gaussian((1,))))
    exact = tpf.sample(field, start=hard, scheme="rk4", steps=2000).x
    mixed = tpf.sample(field, start=torch.cat([hard, easy]), scheme="dopri5", rtol=1e-6, atol=1e-6)
    assert float((mixed.x[0] - exact[0]).abs()) < 1e-4


def test_an_adaptive_solve_ends_its_steps_at_the_times_asked_for():
    """Interpolated at the end of the solve, the error is 6e-5."""
    law = tpf.distributions.GaussianMixture(
        torch.randn(3, 3, generator=seeded(), dtype=torch.float64), 0.4
    )
    oracle = tpf.oracle(tpf.Process(tpf.Linear(), tpf.Gaussian((3,))), law)
    x = torch.randn(200, 3, generator=seeded(1), dtype=torch.float64)
    tight = tpf.sample(oracle, start=x, scheme="dopri5", rtol=1e-11, atol=1e-11).x
    for save_at in (None, [0.25, 0.5, 1.0]):
        found = tpf.sample(oracle, start=x, scheme="dopri5", rtol=1e-6, atol=1e-6, save_at=save_at)
        assert float((found.x - tight).abs().max()) < 2e-5
    law = tpf.Process(tpf.EncoderDecoder(), tpf.Gaussian((3,)))  # with a breakpoint at 1/2
    field = tpf.Velocity(network(shape=3).double(), law)
    saved = tpf.sample(field, start=x, scheme="dopri5", save_at=[0.5, 0.7, 1.0])
    assert torch.equal(saved.trajectory[-1], saved.x)


@pytest.mark.parametrize("scheme", tpf.samplers.ADAPTIVE)
def test_each_adaptive_scheme_takes_the_ends_of_steps(scheme):
    seen = []

    class Net(torch.nn.Module):
        def forward(self, t, x):
            seen.append(float(t.reshape(-1)[0]))
            return torch.cos(x) + t[:, None]

    field = tpf.Velocity(Net(), tpf.Process(tpf.Linear(), tpf.Gaussian((2,))))
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    for times in ((0.0, 0.7), (1.0, 0.3)):
        seen.clear()
        tpf.sample(field, start=x, scheme=scheme, t=times, rtol=1e-4, atol=1e-4)
        assert min(seen) >= min(times) - 1e-12
        assert max(seen) <= max(times) + 1e-12


def test_tolerances_that_cannot_be_met_are_refused():
    for options, match in (
        ({"rtol": 0.0}, "rtol must be finite and above 0, got 0.0"),
        ({"atol": -1.0}, "atol must be finite and above 0, got -1.0"),
        ({"atol": math.nan}, "atol must be a number, got nan"),
    ):
        with pytest.raises(ValueError, match=match):
            tpf.sample(velocity(), 3, scheme="dopri5", **options)


def test_gradients_flow_through_integrate():
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = torch.ones(3, 1, dtype=torch.float64)
    solution = tpf.integrate(
        lambda t, y: weight * y, x, tpf.solve.time_grid(50), scheme="rk4", chunk=2
    )
    solution.x.sum().backward()
    assert float(weight.grad) == pytest.approx(3 * math.exp(0.7), rel=1e-6)
    assert torch.equal(x, torch.ones(3, 1, dtype=torch.float64))


def test_integrate_a_plain_sde_has_the_variance_of_ornstein_uhlenbeck():
    x = torch.zeros(40_000, 1, dtype=torch.float64)
    with torch.no_grad():
        solution = tpf.integrate(
            lambda t, y: -2 * y, x, tpf.solve.time_grid(40), epsilon=0.5, generator=seeded()
        )
    expected = 0.5 / 2 * (1 - math.exp(-4))  # ε/θ (1 - exp(-2θ))
    assert float(solution.x.var()) == pytest.approx(expected, rel=4 * math.sqrt(2 / 40_000))


# -------------------------------------------------------------- transform, conditions, shapes


def test_samples_come_back_in_the_units_of_the_data():
    transform = tpf.Standardize(mean=torch.tensor([10.0, -5.0]), scale=torch.tensor([3.0, 0.5]))
    law = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))

    class Still(torch.nn.Module):
        def forward(self, t, x):
            return torch.zeros_like(x)

    field = tpf.Velocity(Still(), law, transform=transform)
    x = tpf.sample(field, 5000, steps=2, generator=seeded()).x
    torch.testing.assert_close(x.mean(0), transform.mean.float(), rtol=0.02, atol=0.05)
    torch.testing.assert_close(x.std(0), transform.scale.float(), rtol=0.05, atol=0.0)
    y = torch.randn(4, 2, generator=seeded())
    kept = tpf.sample(field, start=y, steps=2, save_at=[0.0, 1.0])
    torch.testing.assert_close(kept.x, y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept.trajectory[0], y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", ["heun", "dopri5"])
def test_conditions_go_with_their_rows(scheme):
    class Shift(torch.nn.Module):
        def forward(self, t, x, *, shift, scale):
            assert shift.shape[0] == x.shape[0]
            return shift * scale + 0 * x

    field = tpf.Velocity(Shift(), tpf.Process(tpf.Linear(), tpf.Gaussian((1,))))
    shift = torch.arange(10.0).unsqueeze(1)
    x = torch.zeros(10, 1)
    got = tpf.sample(
        field, start=x, scheme=scheme, steps=4, chunk=3, cond={"shift": shift, "scale": 2.0}
    ).x
    torch.testing.assert_close(got, 2 * shift)
    if scheme == "heun":
        both = tpf.sample(
            field,
            start=x,
            epsilon=[0.0, 1e-12],
            chunk=4,
            steps=4,
            cond={"shift": shift, "scale": 2.0},
        ).x
        torch.testing.assert_close(both[1], 2 * shift, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(1,), (2, 3), (1, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_event_shape_and_dtype(shape, dtype):
    law = tpf.Process(tpf.Linear(), tpf.Gaussian(shape, mean=0.5, scale=2.0))
    field = tpf.Velocity(tpf.networks.MLP(shape, 8, 2).to(dtype), law)
    solution = tpf.sample(field, 7, epsilon=[0.0, 0.3], steps=3, chunk=4)
    assert solution.x.shape == (2, 7, *shape)
    assert solution.x.dtype == dtype


def test_dropout_is_off_while_sampling_and_modes_come_back():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    field = tpf.Velocity(lambda t, x: net(x), tpf.Process(tpf.Linear(), tpf.Gaussian((2,))))
    held = tpf.Velocity(tpf.networks.from_xt(_Held(net)), field.process)
    x = torch.ones(64, 2)
    a, b = (tpf.sample(held, start=x, steps=2).x for _ in range(2))
    assert torch.equal(a, b)
    assert net[1].training


class _Held(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        assert t.shape == (x.shape[0],)
        return self.net(x)


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"scheme": "rk5"}, "known: 'euler', 'euler_maruyama'"),
        ({"epsilon": -0.1}, "epsilon must be finite and >= 0"),
        ({"epsilon": float("nan")}, "epsilon must be a number, got nan"),
        ({"epsilon": lambda t: t - 0.5}, "epsilon must be finite and >= 0, and is"),
        ({"epsilon": lambda t: torch.ones(3)}, "one number for each time"),
        ({"epsilon": 0.1, "scheme": "euler"}, "deterministic scheme 'euler'"),
        ({"epsilon": 0.1, "scheme": "midpoint"}, "deterministic scheme 'midpoint'"),
        ({"epsilon": 0.1, "scheme": "dopri5"}, "adaptive scheme"),
        ({"epsilon": []}, "empty sequence"),
        ({"steps": 0}, "positive integer"),
        ({"t": (0.0, 0.5, 0.4)}, "strictly increasing"),
        ({"t": (0.0, 1.5)}, "in \\[0, 1\\]"),
        ({"spacing": "log"}, "known: 'uniform'"),
        ({"chunk": 0}, "chunk must be positive"),
        ({"margin": 0.6}, "margins"),
        ({"n": 0}, "number of samples"),
        ({"n": torch.zeros(3, 2)}, "write start=x"),
        ({"t": 0.5}, "t is \\(first, last\\)"),
        ({"cond": {"label": torch.zeros(3)}}, "'label' has 3 rows for 5 samples"),
        ({"start": torch.zeros(3, 3)}, "event shape \\(3,\\)"),
        ({"start": torch.tensor([[0.0, float("nan")]]), "n": None}, "1 of 1 rows"),
        ({"start": torch.zeros(3, 2)}, "n = 5, but start has 3 rows"),
    ],
)
def test_bad_input_is_refused_with_the_cure(kwargs, message):
    arguments = {"n": 5, **kwargs}
    if "start" in kwargs and kwargs["start"].shape[-1] == 3:
        arguments["n"] = None
    with pytest.raises(ValueError, match=message):
        tpf.sample(velocity(), arguments.pop("n"), **arguments)


def test_a_score_that_does_not_exist_is_refused_with_the_cure():
    law = tpf.Process(tpf.Linear(), tpf.distributions.Uniform((2,)))
    with pytest.raises(tpf.ConversionError, match="FieldPair"):
        tpf.sample(tpf.Velocity(network(), law), 5, epsilon=0.1)
    latent = tpf.Process(tpf.Linear(tpf.Brownian()), tpf.distributions.Uniform((2,)))
    with pytest.raises(tpf.ConversionError, match="FieldPair"):
        tpf.sample(tpf.Velocity(network(), latent), 5, epsilon=0.1)
    coupled = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)), tpf.MinibatchOT())
    with pytest.raises(tpf.ConversionError, match="coupling MinibatchOT"):
        tpf.sample(tpf.Velocity(network(), coupled), 5, epsilon=0.1)
    assert tpf.sample(tpf.Velocity(network(), coupled), 5, steps=2).x.shape == (5, 2)


@pytest.mark.parametrize("epsilon", [0.0, [0.0, 0.5]])
def test_a_state_that_stops_being_finite_is_reported(epsilon):
    class Exploding(torch.nn.Module):
        def forward(self, t, x):
            hot = (t[:, None] > 0.45) & (x[:, :1] > 0)
            return torch.where(hot, float("nan"), 0.0) * x

    field = tpf.Velocity(Exploding(), tpf.Process(tpf.Linear(), tpf.Gaussian((2,))))
    x = torch.tensor([[-9.0, 0.0], [9.0, 0.0], [-9.0, 1.0]])
    with pytest.raises(tpf.solve.NonFiniteStateError, match="at step 4 of 10") as caught:
        tpf.sample(field, start=x, epsilon=epsilon, steps=10, scheme="heun")
    assert caught.value.solution.first_bad_step == 4
    final = caught.value.solution.x.reshape(-1, 3, 2)
    assert bool(final[:, [0, 2]].isfinite().all())


def test_a_network_of_wrong_output_shape_is_named():
    field = tpf.Velocity(lambda t, x: x[:, :1], tpf.Process(tpf.Linear(), tpf.Gaussian((2,))))
    with pytest.raises(
        ValueError, match=r"must give the shape of x, \(5, 2\), and it gave \(5, 1\)"
    ):
        tpf.sample(field, 5)


# ---------------------------------------------------- learned predictions on data on a manifold


@pytest.mark.parametrize("kind", ["data", "noise"])
def test_a_learned_prediction_is_not_blown_up_at_its_pole(kind):
    """The weight of a data prediction in b is 1/σ̂: times a network's error, not an oracle's."""
    angle = 2 * math.pi * torch.rand(4096, generator=seeded())
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    law = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))
    cls, loss = {
        "data": (tpf.DataPredictor, tpf.DataLoss()),
        "noise": (tpf.NoisePredictor, tpf.NoiseLoss()),
    }[kind]
    field = cls(tpf.networks.MLP(2, 64, 3, generator=seeded()), law)
    trainer = tpf.Trainer(field, loss, lr=2e-3)
    trainer.fit(ring, steps=2000, batch_size=256, generator=seeded(), progress=False)
    for scheme, steps, epsilon in (
        ("heun", 100, 0.0),
        ("heun", 25, 0.0),
        ("rk4", 50, 0.0),
        ("euler", 25, 0.0),
        ("heun", 100, 0.5),
        ("heun", 100, tpf.solve.NoiseScaleEpsilon(0.5)),
        ("euler_maruyama", 100, 0.5),
    ):
        x = tpf.sample(
            field, 2000, scheme=scheme, steps=steps, epsilon=epsilon, generator=seeded()
        ).x
        off = float((x.norm(dim=1) - 1).square().mean().sqrt())
        assert off < 0.15, (scheme, steps, epsilon, off)


def test_integrate_refuses_what_would_broadcast():
    x, grid = torch.ones(5, 2), tpf.solve.time_grid(3)
    for drift in (lambda x, t: -x, lambda t, x: x[:, :1], lambda t, x: 0.0):
        with pytest.raises(ValueError, match="time first"):
            tpf.integrate(drift, x, grid)
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        tpf.integrate(lambda t, x: x, torch.ones(5), grid)
    dynamics = tpf.samplers.FieldDynamics(velocity(), [0.1, 0.2])
    with pytest.raises(ValueError, match="5 rows for 2 groups"):
        tpf.integrate(dynamics, x, grid)


def test_an_adaptive_solver_that_blows_up_says_where():
    field = tpf.Velocity(lambda t, x: 1e3 * x**3, velocity().process)
    with pytest.raises(tpf.solve.NonFiniteStateError, match="dopri5 cannot pass t ="):
        tpf.sample(field, 5, scheme="dopri5", generator=seeded())


def test_rows_of_a_sweep_are_counted():
    field = tpf.Velocity(lambda t, x: x / 0, velocity().process)
    with pytest.raises(tpf.solve.NonFiniteStateError, match="21 of 21 rows"):
        tpf.sample(field, 7, epsilon=[0.0, 0.1, 0.2], steps=3)


def test_numpy_numbers_and_arrays_serve_as_epsilon():
    import numpy as np

    assert tpf.sample(velocity(), 3, epsilon=np.linspace(0, 1, 4), steps=3).x.shape[0] == 4
    assert tpf.sample(velocity(), 3, epsilon=np.float32(0.5), steps=3).x.shape == (3, 2)


class OneByOne(tpf.solve.NoiseSource):
    """Row 1 has a unit increment, row 2 a unit area, row 0 none: a linear step shows its parts."""

    def increment(self, step, t0, t1, *, area):
        h, unit = abs(t1 - t0), torch.eye(3, dtype=torch.float64)
        levy = (h / 12) ** 0.5 * unit[2][:, None]
        return h**0.5 * unit[1][:, None], levy if area else None


@pytest.mark.parametrize("epsilon", [lambda t: 0.05 + 1.5 * t, lambda t: 1.5 - 1.5 * t])
@pytest.mark.parametrize("path", [tpf.OneSidedLinear(), tpf.VP()])
def test_a_step_of_rk4_with_its_area_has_the_variance_of_the_law(path, epsilon):
    """A unit Gaussian, one long step: x -> R x + A ΔW + B H, and R² V_0 + A² + B² is V_1."""
    process, times = tpf.Process(path, shape=(1,)), torch.tensor([0.3, 0.5], dtype=torch.float64)
    run = tpf.sample(
        tpf.oracle(process, tpf.Gaussian((1,))), t=(0.3, 0.5), steps=1, scheme="rk4",
        start=torch.eye(3, dtype=torch.float64)[:, :1], epsilon=epsilon, noise=OneByOne(),
    )  # fmt: skip
    assert run.limited is None
    r, a, b = run.x[:, 0].tolist()
    before, after = process.part.scale_sq(times) + process.part.path.beta(times).square()
    assert r**2 * before + a**2 + b**2 == pytest.approx(float(after), rel=1e-12)
    assert b**2 > 1e-6 * float(after)  # the area has a part in it
