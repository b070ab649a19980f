"""Ends of time and the limit of ε, one-step schemes: exact, wrong and singular fields, few steps.

All fields here are affine in x, so that a solve of few rows gives the mean and the variance of its
samples without a draw: one row for the start, one for each normal.
"""

import math

import pytest
import torch

import transportflows as tpf
from transportflows.samplers.ends import integration, kind_of_end, looks
from transportflows.samplers.schemes import SCHEMES
from transportflows.solve.limit import LimitedEpsilon, limited, limited_times

NOISY = ["euler_maruyama", "heun", "rk4"]
BOTH = [False, True]
C = (math.sqrt(5) - 1) / 2


class EachNormal(tpf.solve.NoiseSource):
    """Row 2 + 2k is moved by the increment of step k alone, the next one by its area."""

    def increment(self, step, t0, t1, *, area):
        h, (dw, levy) = abs(t1 - t0), torch.zeros(2, *self.shape, dtype=self.dtype)
        dw[2 + 2 * step], levy[3 + 2 * step] = math.sqrt(h), math.sqrt(h / 12)
        return dw, levy if area else None


def solved(field, scheme, epsilon, steps, backward, mean=0.0, scale=1.0, **kwargs):
    """Mean and variance of the samples of an affine field, and the solution."""
    x = torch.full((2 + 2 * steps, 1), mean, dtype=torch.float64)
    x[1] += scale
    t = (1.0, 0.0) if backward else (0.0, 1.0)
    solution = tpf.sample(
        field,
        start=x,
        epsilon=epsilon,
        scheme=scheme,
        steps=steps,
        t=t,
        noise=EachNormal(),
        **kwargs,
    )
    end = solution.x
    return float(end[0]), float((end[1:] - end[0]).square().sum()), solution


def gaussian(path, scale=1.3, kind="velocity", mean=0.3):
    """The exact field of N(mean, scale²) data, and the mean and scale of x_t at both ends."""
    process = (
        tpf.Process(path, base=tpf.Gaussian((1,)))
        if path.uses_base
        else tpf.Process(path, shape=(1,))
    )
    part = process.part

    def centred(t, x):
        t = t.double().reshape(-1, 1)
        beta, square = part.path.beta(t), part.scale_sq(t)
        return t, beta, x - beta * mean, square, square + beta.square() * scale**2

    def velocity(t, x):
        t, beta, y, _, v = centred(t, x)
        rate = part.path.beta_dot(t)
        return y * (beta * rate * scale**2 + 0.5 * part.scale_sq_dot(t)) / v + mean * rate

    def noise(t, x):
        _, _, y, square, v = centred(t, x)
        return y * square.sqrt() / v

    def data(t, x):
        _, beta, y, _, v = centred(t, x)
        return mean + y * beta * scale**2 / v

    def score(t, x):
        _, _, y, _, v = centred(t, x)
        return -y / v

    def pair(_, process):
        return tpf.FieldPair(velocity=velocity, score=score, process=process)

    kinds = {
        "velocity": (tpf.Velocity, velocity),
        "pair": (pair, None),
        "noise": (tpf.NoisePredictor, noise),
        "data": (tpf.DataPredictor, data),
    }
    ends = []
    for t in (0.0, 1.0):
        _, beta, _, _, v = centred(torch.tensor(t), torch.zeros(1, 1, dtype=torch.float64))
        ends.append((float(beta) * mean, math.sqrt(float(v))))
    make, net = kinds[kind]
    return make(net, process), ends


def bridge(error=lambda t: 0.0 * t, mean_velocity=True):
    """v (or b) and η of the Gaussian bridge with σ = 1, with an error of η by time."""

    def v(t):
        return math.sqrt(5) * t * (1 - t) + (1 - t) ** 2 + t**2

    def first(t, x):
        t = t.double().reshape(-1, 1)
        if mean_velocity:
            return (1 - C) * (2 * t - 1) / v(t) * x
        return ((1 - C) * (2 * t - 1) + 0.5 * (1 - 2 * t)) / v(t) * x

    def noise(t, x):
        t = t.double().reshape(-1, 1)
        return ((t * (1 - t)).clamp(min=0).sqrt() / v(t) + error(t)) * x

    process = tpf.Process(tpf.Linear(tpf.Brownian()), coupling=tpf.Paired(), shape=(1,))
    name = "mean_velocity" if mean_velocity else "velocity"
    return tpf.FieldPair(**{name: first}, noise=noise, process=process)


def own_variance(error, epsilon, backward, count=400):
    """Of the law of the wrong field itself, from 1: RK4 in u, with t = sin²(πu/2)."""
    u = torch.linspace(0, 1, 2 * count + 1, dtype=torch.float64)
    t, sign = torch.sin(0.5 * math.pi * u).square(), -1.0 if backward else 1.0
    v = math.sqrt(5) * t * (1 - t) + (1 - t) ** 2 + t**2
    rate = 0.5 * math.pi * torch.sin(math.pi * u)
    eta = 0.5 * torch.sin(math.pi * u) / v + error(t)
    slope = (1 - C) * (2 * t - 1) / v * rate
    slope = slope + eta * math.pi * (0.5 * torch.cos(math.pi * u) - sign * epsilon)
    if backward:
        slope, rate = -slope.flip(0), rate.flip(0)
    a, e, y, h = slope.tolist(), rate.tolist(), 1.0, 1 / count
    for i in range(0, 2 * count, 2):
        k1 = 2 * a[i] * y + 2 * epsilon * e[i]
        k2 = 2 * a[i + 1] * (y + 0.5 * h * k1) + 2 * epsilon * e[i + 1]
        k3 = 2 * a[i + 1] * (y + 0.5 * h * k2) + 2 * epsilon * e[i + 1]
        k4 = 2 * a[i + 2] * (y + h * k3) + 2 * epsilon * e[i + 2]
        y += h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y


# ------------------------------------------------------------------------------------------ roots


@pytest.mark.parametrize("scheme", ["heun", "rk4", "midpoint"])
@pytest.mark.parametrize(("first", "last"), [(True, False), (False, True), (True, True)])
def test_coefficients_are_integrated_at_a_root(scheme, first, last):
    """w_i c̃_i add up to ∫ c f dt for a c with roots and an f that is a polynomial in θ."""
    scheme = SCHEMES[scheme]
    places, weights = integration(scheme, first=first, last=last)
    c = sum(0.5 / root.sqrt() for root, at in ((places, first), (1 - places, last)) if at)
    found = (weights * c).sum(1) @ torch.tensor(scheme.quadrature, dtype=torch.float64)
    assert float(found) == pytest.approx(float(first) + float(last), rel=1e-6)
    if not (first and last) and scheme.name == "rk4":
        theta = torch.tensor(looks(scheme), dtype=torch.float64)
        t = theta.square() if first else 1 - (1 - theta).square()
        moved = (weights * c).sum(1) * torch.tensor(scheme.quadrature, dtype=torch.float64)
        distance = t.sqrt() if first else (1 - t).sqrt()
        assert float(moved @ distance) == pytest.approx(0.5, rel=1e-9)  # ∫ ½ t^-½ t^½ dt


def test_kinds_of_ends_do_not_depend_on_scale():
    def kind(function, end=0.0):
        weights = lambda t: tpf.Combination(None, None, (function(t),))  # noqa: E731
        return kind_of_end(weights, end)

    for size in (1e-3, 1.0, 1e3):
        assert kind(lambda t, size=size: size / t.sqrt()) == "root"
        assert kind(lambda t, size=size: size / t) == "pole"
        assert kind(lambda t, size=size: size / (1 - t), 1.0) == "pole"
        assert kind(lambda t, size=size: size * t.log()) == "root"
    assert kind(lambda t: 3 * t) == "regular"
    assert kind(lambda t: 1e6 * (1 + t)) == "regular"
    assert kind(lambda t: 1 / torch.cos(0.5 * math.pi * t), 1.0) == "pole"  # 1.6e16 there, finite


@pytest.mark.parametrize("backward", BOTH)
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
@pytest.mark.parametrize("scheme", ["heun", "rk4"])
def test_a_wrong_noise_prediction_gives_its_own_law(scheme, epsilon, backward):
    """20 steps against the law of the same wrong field, which a margin of 1e-4 missed by 76 %."""
    off = []
    for width in (0.002, 0.01, 0.05):
        for end in (0, 1):

            def error(t, width=width, end=end):
                return 0.3 * (-(t if end == 0 else 1 - t) / width).exp()

            own = own_variance(error, epsilon, backward)
            off.append(solved(bridge(error), scheme, epsilon, 20, backward)[1] / own - 1)
    assert max(map(abs, off)) < 0.015


@pytest.mark.parametrize("backward", BOTH)
@pytest.mark.parametrize(
    ("scheme", "epsilon", "order", "bound"),
    [
        ("heun", 0.0, 2, 1e-4),
        ("heun", 0.5, 2, 1e-4),
        ("rk4", 0.0, 3.8, 1e-7),
        ("rk4", 0.5, 2, 1e-3),
    ],
)
def test_exact_pairs_keep_their_orders_at_roots(scheme, epsilon, order, bound, backward):
    off = [abs(solved(bridge(), scheme, epsilon, n, backward)[1] - 1) for n in (10, 20)]
    assert off[1] < bound
    assert math.log2(off[0] / off[1]) > order - 0.25


@pytest.mark.parametrize("mean_velocity", BOTH)
@pytest.mark.parametrize("scheme", NOISY)
def test_no_step_is_without_its_noise_on_a_bridge(scheme, mean_velocity):
    """ε up to the bridge's own has no limit; the law of the pair of ends is that of the bridge."""
    field = bridge(mean_velocity=mean_velocity)
    _, variance, solution = solved(field, scheme, 0.5, 20, False)
    assert solution.limited is None
    assert variance == pytest.approx(1, abs=0.02)
    covariance = float(solution.x[1] - solution.x[0])  # with the start
    assert covariance == pytest.approx(C, abs=0.02)
    free = solved(field, scheme, tpf.solve.UnlimitedEpsilon(0.5), 20, False)[2]
    torch.testing.assert_close(free.x, solution.x, rtol=1e-12, atol=1e-12)


def test_euler_maruyama_survives_a_learned_pair():
    """η wrong by 0.3 near t = 0: the variance at ¼ was 3.3 times the truth."""
    field = bridge(lambda t: 0.3 * (-t / 0.02).exp())
    x = torch.zeros(202, 1, dtype=torch.float64)
    x[1] = 1
    found = tpf.sample(
        field,
        start=x,
        epsilon=0.5,
        steps=20,
        scheme="euler_maruyama",
        save_at=[0.25],
        noise=EachNormal(),
    ).trajectory[0]
    truth = math.sqrt(5) * 3 / 16 + 9 / 16 + 1 / 16
    assert float((found[1:] - found[0]).square().sum()) == pytest.approx(truth, rel=0.05)


# ------------------------------------------------------------------------------------------ poles


@pytest.mark.parametrize(("kind", "backward"), [("data", False), ("noise", True)])
def test_a_step_that_ends_at_a_pole_leaves_its_node_out(kind, backward):
    field, ends = gaussian(tpf.Linear(), kind=kind)
    (mean, scale), (_, true) = ends[::-1] if backward else ends
    for scheme, order in (("heun", 1.7), ("rk4", 2.7)):
        off = []
        for n in (10, 20, 40):
            _, variance, solution = solved(field, scheme, 0.0, n, backward, mean, scale)
            assert solution.margin == (0.0, 0.0)
            off.append(abs(math.sqrt(variance) / true - 1))
        assert math.log2(off[1] / off[2]) > order


def test_a_solve_that_starts_at_a_pole_looks_half_a_step_away():
    field, _ = gaussian(tpf.Linear(), kind="noise")
    x = torch.randn(4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert tpf.sample(field, start=x, steps=10).margin == (pytest.approx(0.05), 0.0)
    assert tpf.sample(field, start=x, steps=10, margin=0.01).margin == (0.01, 0.01)


# ----------------------------------------------------------------------------------- the limit


def test_the_limit_and_where_it_acts():
    part = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,))).part
    t = torch.tensor([[0.0, 0.1], [0.5, 0.6], [0.9, 1.0]], dtype=torch.float64)
    h = torch.full((3,), 0.1, dtype=torch.float64)
    one = tpf.solve.ConstantEpsilon(1.0)
    (forth,) = limited([one], 0.5)
    flat, scale = t.reshape(-1), part.scale(t.reshape(-1))
    wanted = torch.minimum(torch.ones(6, dtype=torch.float64), 5 * (1 - flat).square())
    torch.testing.assert_close(forth.bound(part, t, h).value(flat, scale), wanted)
    ratio = forth.bound(part, t, h).over_noise_scale(flat, scale)
    assert float(ratio[-1]) == 0
    torch.testing.assert_close(ratio[:-1], wanted[:-1] / scale[:-1])
    assert limited_times([forth], part, t, h) == ((0.5, 1.0),)  # two steps that touch at 0.6, 0.9
    back = LimitedEpsilon(one, 0.5, growth=True).bound(part, t, -h)
    torch.testing.assert_close(  # σ̂ grows backward in time, by (1 - t) of σ̂²/2
        back.value(flat, scale),
        torch.minimum(torch.ones(6, dtype=torch.float64), 5 * (1 - flat).square() + 1 - flat),
    )
    zero = tpf.solve.ConstantEpsilon(0.0)
    free = tpf.solve.UnlimitedEpsilon(2.0)
    assert limited([zero, free], 0.5) == [zero, free]
    with pytest.raises(ValueError, match="bind it first"):
        forth.value(flat, scale)


@pytest.mark.parametrize("factor", [1.0, 3.0])
@pytest.mark.parametrize("scheme", NOISY)
def test_anderson_backward_on_the_linear_path(scheme, factor):
    """The standard deviation at t = 0 was 1.41, 0.77 (and 4.5) for 1 at any number of steps."""
    field, ((_, true), (mean, scale)) = gaussian(tpf.Linear())
    epsilon = tpf.solve.AndersonEpsilon(factor)
    for steps in (25, 50):
        _, variance, solution = solved(field, scheme, epsilon, steps, True, mean, scale)
        assert math.sqrt(variance) == pytest.approx(true, rel=0.01)
    assert solution.limited is not None


@pytest.mark.parametrize("backward", BOTH)
@pytest.mark.parametrize(
    "epsilon",
    [1.0, tpf.solve.NoiseScaleEpsilon(1.0), tpf.solve.AndersonEpsilon(3.0)],
    ids=["constant", "scale", "anderson"],
)
@pytest.mark.parametrize("path", [tpf.Linear, tpf.VP, tpf.VE], ids=["linear", "VP", "VE"])
def test_euler_maruyama_has_the_law(path, epsilon, backward):
    """Within 1.5 % (three standard errors of 20,000 draws); VE was 8 % off, at any ε."""
    field, ends = gaussian(path())
    (mean, scale), (true_mean, true) = ends[::-1] if backward else ends
    found, variance, _ = solved(field, "euler_maruyama", epsilon, 200, backward, mean, scale)
    assert math.sqrt(variance) == pytest.approx(true, rel=0.015)
    assert found == pytest.approx(true_mean, abs=0.021 * true)


def test_the_noise_that_is_kept_is_that_of_the_step():
    """Without the known laws, Euler-Maruyama's OU step inflates the variance by 1/(1 - r/2)."""
    field, ((_, true), (mean, scale)) = gaussian(tpf.VE())
    _, variance, _ = solved(field, "euler_maruyama", 1.0, 50, True, mean, scale)
    ode = solved(field, "euler", 0.0, 50, True, mean, scale)[1]
    assert math.sqrt(ode) / true < 0.8  # Euler's own error, of the growth of σ̂
    assert math.sqrt(variance) == pytest.approx(true, rel=0.03)


@pytest.mark.parametrize("scheme", NOISY)
def test_a_limited_epsilon_leaves_data_near_points_sharp(scheme):
    """The last step towards σ̂ = 0 adds no noise that would stay."""
    field, _ = gaussian(tpf.Linear(), scale=1e-3, kind="data")
    _, variance, solution = solved(field, scheme, 1.0, 50, False, 0.0, 1.0)
    assert math.sqrt(variance) < 5e-3
    assert solution.limited is not None


@pytest.mark.parametrize(("scheme", "most"), [("euler_maruyama", 0.06), ("heun", 0.03)])
def test_a_score_of_narrow_data_is_limited_too(scheme, most):
    """Where the variance of data was taken for 1, these were +41 % and -17 % off."""
    field, ((mean, scale), (_, true)) = gaussian(tpf.Linear(), scale=0.2, kind="pair")
    _, variance, _ = solved(field, scheme, 1.0, 25, False, mean, scale)
    assert abs(math.sqrt(variance) / true - 1) < most


# ------------------------------------------------------------------------------- path geometry


def test_the_energy_of_a_pair_is_that_of_its_oracle():
    """|b|² at t = 0 was 25 times too large for v + γ̇ η at a margin."""
    oracle = tpf.testing.mixture_oracle()
    pair = tpf.FieldPair(
        mean_velocity=oracle.mean_velocity, noise=oracle.noise, process=oracle.process
    )
    wrong = tpf.FieldPair(
        mean_velocity=oracle.mean_velocity,
        noise=lambda t, x: oracle.noise(t, x) + 0.3 * torch.exp(-t / 0.02).reshape(-1, 1),
        process=oracle.process,
    )
    exact, found, near = (
        tpf.metrics.path_geometry(f, 300, steps=20, generator=torch.Generator().manual_seed(0))
        for f in (oracle, pair, wrong)
    )
    assert found.energy == pytest.approx(exact.energy, rel=1e-3)
    assert near.energy == pytest.approx(exact.energy, rel=0.1)
