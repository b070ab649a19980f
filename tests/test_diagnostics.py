"""Diagnostics of fields whose errors are known, and the report."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import transportflows as tpf
from families import mixture, process
from transportflows._core.random import draw_key, stream
from transportflows.metrics import (
    METRICS,
    GaussianKernel,
    MetricRow,
    MetricsReport,
    OracleErrors,
    consistency,
    energy_distance,
    error_by_nfe,
    evaluate,
    loss_by_time,
    mean_error,
    median_bandwidth,
    mmd2,
    ode_kl_identity,
    oracle_errors,
    path_geometry,
    wasserstein2,
)

DATA = mixture([[1.0, 0.0], [-1.0, 0.5]], 0.5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def perturbed(oracle: tpf.oracles.GaussianMixtureOracle, db: float, ds: float) -> tpf.FieldPair:
    """The oracle with constant errors along the first coordinate of b and of s."""
    shift = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return tpf.FieldPair(
        velocity=lambda t, x: oracle.velocity(t, x) + db * shift,
        score=lambda t, x: oracle.score(t, x) + ds * shift,
        process=oracle.process,
    )


class TestOracleErrors:
    def test_constant_errors_are_read_off(self) -> None:
        oracle = tpf.oracle(process(tpf.Linear(tpf.Brownian())), DATA)
        found = oracle_errors(
            perturbed(oracle, 0.3, 0.2), oracle, n=64, margin=0.1, dtype=torch.float64
        )
        whole = torch.full_like(found.t, 1.0)
        tolerance = {"rtol": 1e-9, "atol": 1e-12}
        torch.testing.assert_close(found.velocity, 0.09 * whole, **tolerance)
        torch.testing.assert_close(found.score, 0.04 * whole, **tolerance)
        torch.testing.assert_close(found.cross, 0.06 * whole, **tolerance)
        assert float(found.weights.sum()) == pytest.approx(0.8)
        assert found.velocity_integral == pytest.approx(0.8 * 0.09, rel=1e-3)
        assert found.epsilon_star == pytest.approx(1.5, rel=1e-3)
        torch.testing.assert_close(found.epsilon_by_time, 1.5 * whole, rtol=1e-3, atol=0)
        epsilon = 0.7
        expected = 0.8 * (0.3 + epsilon * 0.2) ** 2 / (4 * epsilon)
        assert found.bound(epsilon) == pytest.approx(expected, rel=1e-3)
        best = found.bound(found.epsilon_star)
        assert best < min(found.bound(found.epsilon_star * r) for r in (0.7, 1.4))
        with pytest.raises(ValueError, match="epsilon must be positive"):
            found.bound(0.0)

    def test_excess_losses_give_the_same_epsilon(self) -> None:
        """ε* = √(ΔL_b / ΔL_s) with losses of the library's own."""
        oracle = tpf.oracle(process(tpf.Linear(tpf.Brownian())), DATA)
        field = perturbed(oracle, 0.3, 0.6)
        found = oracle_errors(field, oracle, n=64, margin=0.05, dtype=torch.float64)
        x1 = DATA.sample(2_000, generator=seeded(), dtype=torch.float64)
        times = tpf.times.UniformTimes(margin=0.05)
        drawn = field.process.sample(x1, t=times, generator=seeded(1))
        excess = [
            tpf.losses.squared_error(field, oracle, drawn, q).mean() for q in ("velocity", "score")
        ]
        assert found.epsilon_star == pytest.approx(math.sqrt(excess[0] / excess[1]), rel=1e-3)

    def test_bound_holds_for_the_sampled_law(self) -> None:
        """The true KL of the SDE's law is below the bound, and of its order.

        N(0, 1) to N(0, 1) under the linear path, b and s off by constants: the law sampled is a
        shifted Gaussian, so its KL follows from the mean.
        """
        data = tpf.Gaussian((1,))
        oracle = tpf.oracle(tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((1,))), data)
        field = tpf.FieldPair(
            velocity=lambda t, x: oracle.velocity(t, x) + 0.2,
            score=lambda t, x: oracle.score(t, x),
            process=oracle.process,
        )
        found = oracle_errors(field, oracle, n=32, margin=0.0)
        for epsilon in (0.3, 1.0):
            drawn = tpf.sample(
                field, 40_000, epsilon=epsilon, scheme="heun", steps=50, generator=seeded()
            )
            mean = float(drawn.x.mean())
            kl = mean**2 / 2
            assert 0.2 * found.bound(epsilon) < kl <= found.bound(epsilon)

    def test_epsilon_star_where_an_error_is_0(self) -> None:
        def errors(b: float, s: float) -> OracleErrors:
            parts = [torch.full((4,), v, dtype=torch.float64) for v in (0.5, 0.25, b, s, 0, 0, 0)]
            return OracleErrors(*parts, margin=0.0)

        assert errors(1.0, 0.0).epsilon_star == math.inf
        assert math.isnan(errors(0.0, 0.0).epsilon_star)
        assert errors(0.0, 1.0).epsilon_star == 0.0

    def test_refuses(self) -> None:
        oracle = tpf.oracle(process(tpf.Linear(tpf.Brownian())), DATA)
        for counts, match in (({"n": 1}, "n must be at least 2"), ({"times": 0}, "times must be")):
            with pytest.raises(ValueError, match=match):
                oracle_errors(oracle, oracle, **counts)
            with pytest.raises(ValueError, match=match):
                ode_kl_identity(oracle, oracle, **counts)
        base = mixture([[0.0, 0.0], [2.0, 0.0]], 0.5)
        oracle = tpf.oracles.GaussianMixtureOracle(
            tpf.Process(tpf.Linear(tpf.Brownian()), base), DATA
        )
        bare = tpf.Velocity(oracle.velocity, oracle.process)
        with pytest.raises(tpf.ConversionError):
            oracle_errors(bare, oracle, n=8, times=2)


def test_kl_identity_refuses_a_transform() -> None:
    oracle = tpf.oracle(process(tpf.Linear()), DATA)
    field = tpf.Velocity(oracle.velocity, oracle.process, transform=tpf.Standardize(1.0, 2.0))
    with pytest.raises(ValueError, match=r"has a transform.*Velocity\(field.net, field.process\)"):
        ode_kl_identity(field, oracle, n=8, times=2, steps=4)


def test_kl_identity_of_the_ode() -> None:
    oracle = tpf.oracle(process(tpf.Linear()), DATA)
    turn = torch.tensor([[0.0, 0.4], [-0.3, 0.1]], dtype=torch.float64)

    def net(t: Tensor, x: Tensor) -> Tensor:
        return oracle.velocity(t, x) + torch.sin(x @ turn.to(x)) * t[:, None]

    field = tpf.Velocity(net, oracle.process)
    found = ode_kl_identity(field, oracle, n=400, times=8, steps=16, generator=seeded())
    error = math.hypot(found.kl.standard_error, found.integral.standard_error)
    assert found.kl.value > 0.02
    assert abs(found.kl.value - found.integral.value) < 4 * error
    assert error < 0.25 * found.kl.value


def test_loss_by_time_finds_the_time_that_is_wrong() -> None:
    oracle = tpf.oracle(process(tpf.Linear()), DATA)

    def net(t: Tensor, x: Tensor) -> Tensor:
        late = (t > 0.75).to(x) * 2.0
        return oracle.velocity(t, x) + late[:, None]

    x1 = DATA.sample(4_000, generator=seeded(), dtype=torch.float64)
    exact = loss_by_time(oracle, tpf.VelocityLoss(), x1, times=8, generator=seeded(1))
    found = loss_by_time(
        tpf.Velocity(net, oracle.process), tpf.VelocityLoss(), x1, times=8, generator=seeded(1)
    )
    extra = found.loss - exact.loss
    torch.testing.assert_close(extra[:6], torch.zeros(6).double(), rtol=0, atol=1e-9)
    for k in (6, 7):  # ½ |(2, 2)|² = 4
        assert float(extra[k]) == pytest.approx(4.0, abs=0.3)
    with pytest.raises(TypeError, match="must be a Regression, got a LikelihoodLoss"):
        loss_by_time(oracle, tpf.likelihood.LikelihoodLoss(), x1)


def test_consistency() -> None:
    oracle = tpf.oracle(process(tpf.Linear(tpf.Brownian())), DATA)
    x1 = DATA.sample(4_000, generator=seeded(), dtype=torch.float64)
    right = consistency(perturbed(oracle, 0.0, 0.0), x1, times=4, generator=seeded(1))
    assert float(right.difference.max()) < 1e-12
    assert bool((right.stein.abs() < 4 * right.stein_error).all())
    wrong = tpf.FieldPair(
        velocity=oracle.velocity,
        score=lambda t, x: 1.3 * oracle.score(t, x),
        process=oracle.process,
    )
    found = consistency(wrong, x1, times=4, generator=seeded(1))
    expected = torch.full((4,), (0.3 / 1.3) ** 2).double()
    torch.testing.assert_close(found.difference, expected, rtol=1e-6, atol=0)
    assert float((found.stein.abs() / found.stein_error).max()) > 6
    base = mixture([[0.0, 0.0], [2.0, 0.0]], 0.5)
    two_sided = tpf.oracles.GaussianMixtureOracle(
        tpf.Process(tpf.Linear(tpf.Brownian()), base), DATA
    )
    found = consistency(two_sided, x1, times=2, generator=seeded(1))
    assert bool(found.difference.isnan().all())
    assert bool((found.stein.abs() < 4 * found.stein_error).all())


class TestPaths:
    def test_gaussian_closed_form(self) -> None:
        # From N(0, Id) to N(0, s² Id), x_t = (1-t) x0 + t x1: X_t = c(t) X_0, c² = (1-t)² + s² t².
        s, d = 2.0, 3
        oracle = tpf.oracle(tpf.Process(tpf.Linear(), tpf.Gaussian((d,))), tpf.Gaussian((d,), 0, s))
        t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
        c = ((1 - t).square() + (s * t).square()).sqrt()
        rate = ((t - 1) + s**2 * t) / c
        x0 = torch.randn(500, d, generator=seeded(), dtype=torch.float64)
        square = float(x0.square().sum(1).mean())
        energy = square * float(torch.trapezoid(rate.square(), t))
        found = path_geometry(oracle, start=x0, steps=100)
        assert found.energy == pytest.approx(energy, rel=1e-4)
        assert found.displacement == pytest.approx(square * (s - 1) ** 2, rel=1e-4)
        assert found.straightness == pytest.approx(found.energy - found.displacement)
        least = square * (s - 1) ** 2
        normalised = path_geometry(oracle, start=x0, steps=100, least_energy=least).normalised
        assert normalised == pytest.approx((energy - least) / least, rel=1e-3)
        assert math.isnan(found.normalised)

    def test_units_of_the_transform_and_odd_steps(self) -> None:
        law = process(tpf.Linear())
        transform = tpf.Standardize(0.0, 3.0)
        field = tpf.Velocity(lambda t, x: torch.ones_like(x), law, transform=transform)
        found = path_geometry(field, 5, steps=4, generator=seeded())
        assert found.energy == pytest.approx(2 * 9, rel=1e-5)
        assert found.straightness == pytest.approx(0.0, abs=1e-4)
        with pytest.raises(ValueError, match="even"):
            path_geometry(field, 5, steps=5)

    def test_too_few_steps_are_refused(self) -> None:
        oracle = tpf.oracle(process(tpf.EncoderDecoder()), DATA)
        with pytest.raises(
            ValueError, match="2 steps of 'rk4' do not resolve the paths; give more"
        ):
            path_geometry(oracle, 200, steps=2, generator=seeded())
        assert path_geometry(oracle, 200, steps=100, generator=seeded()).straightness > 0


def test_error_falls_with_the_evaluations() -> None:
    oracle = tpf.oracle(process(tpf.Linear()), DATA)
    same = stream(draw_key(seeded()))  # the starts that all rows share
    fine = tpf.sample(oracle, 500, scheme="rk4", steps=200, generator=same).x
    rows = error_by_nfe(
        oracle,
        lambda x: float((x - fine).square().mean().sqrt()),
        n=500,
        schemes=("euler", "heun"),
        steps=(10, 20),
        generator=seeded(),
    )
    assert [row["nfe"] for row in rows] == [10, 20, 20, 40]
    at = {(row["scheme"], row["steps"]): row["distance"] for row in rows}
    assert at["euler", 10] / at["euler", 20] == pytest.approx(2, rel=0.2)
    assert at["heun", 10] / at["heun", 20] > 3


class TestReport:
    def test_values_floors_and_forms(self) -> None:
        reference = torch.randn(400, 2, generator=seeded())
        samples = torch.randn(250, 2, generator=seeded(1)) + 1.0

        def own(x: Tensor, y: Tensor) -> float:
            assert x.shape == (200, 2)
            assert x.dtype == torch.float32
            return float((x.mean() - y.mean()).abs())

        report = evaluate(
            samples, reference, [*METRICS, ("own", own)], generator=seeded(2), level=0.8
        )
        assert {row.name for row in report.rows} == {*METRICS, "own"}
        for name in ("mean error", "energy distance", "MMD²", "W2", "sliced W2", "own"):
            assert report[name].value > 3 * abs(report[name].floor), name
        assert report["MMD²"].interval is not None
        assert report["mean error"].interval is None
        low, high = report["W2"].interval
        assert low < report["W2"].value < high
        table = report.to_dict()
        assert table["W2"]["value"] == report["W2"].value
        text = str(report)
        assert "80% interval" in text
        assert len(text.splitlines()) == len(report.rows) + 1
        import matplotlib

        matplotlib.use("Agg")
        ax = report.plot()
        assert [label.get_text() for label in ax.get_yticklabels()] == [r.name for r in report.rows]
        with pytest.raises(KeyError, match="it has 'mean error'"):
            report["nothing"]

    def test_rows_are_the_metrics_of_the_halves(self) -> None:
        reference = torch.randn(100, 2, generator=seeded(), dtype=torch.float64)
        samples = torch.randn(50, 2, generator=seeded(1), dtype=torch.float64) * 1.5
        seen: list[tuple[Tensor, Tensor]] = []

        def spy(x: Tensor, y: Tensor) -> float:
            seen.append((x, y))
            return 0.0

        report = evaluate(
            samples, reference, ["mean error", "W2", "energy distance", "MMD²", ("spy", spy)],
            generator=seeded(2),
        )  # fmt: skip
        (x, first), (second, again) = seen
        assert torch.equal(first, again)
        halves = torch.cat([first, second])
        assert torch.equal(halves.sort(0).values, reference.sort(0).values)
        assert torch.equal(x.sort(0).values, samples.sort(0).values)
        assert report["mean error"].value == mean_error(x, first).value
        assert report["mean error"].floor == mean_error(second, first).value
        assert report["W2"].floor == pytest.approx(wasserstein2(second, first))
        for name, a in (("value", x), ("floor", second)):
            row = report["energy distance"]
            assert getattr(row, name) == pytest.approx(energy_distance(a, first))
            kernel = GaussianKernel(median_bandwidth(first, first))
            expected = mmd2(a, first, kernel=kernel, unbiased=False).value
            assert getattr(report["MMD²"], name) == pytest.approx(expected)

    def test_the_interval_of_mmd2_shows_only_where_laws_plainly_differ(self) -> None:
        shown, hidden = 0, 0
        for k in range(20):
            y = torch.randn(100, 1, generator=seeded(2 * k))
            x = torch.randn(100, 1, generator=seeded(2 * k + 1)) + 0.2 * (k % 10)
            found = mmd2(x, y, kernel=GaussianKernel(median_bandwidth(y, y)))
            interval = METRICS["MMD²"].interval(x, y, 0, 0.9)
            if found.value > 4 * found.standard_error:
                assert interval == found.interval(0.9)
                shown += 1
            else:
                assert interval is None
                hidden += found.interval(0.9)[0] > 0
        assert shown > 2
        assert hidden > 2

    def test_floors_of_kernel_and_energy_distances_are_positive(self) -> None:
        ratios = []
        for k in range(20):
            reference = torch.randn(100, 2, generator=seeded(2 * k))
            samples = torch.randn(50, 2, generator=seeded(2 * k + 1))
            report = evaluate(samples, reference, ["MMD²", "energy distance"], generator=seeded(k))
            for row in report.rows:
                assert row.value > 0
                assert row.floor > 0
                ratios.append(math.log(row.value / row.floor))
        assert abs(sum(ratios) / len(ratios)) < 0.3
        assert "unbiased" in report["MMD²"].what

    def test_plot_of_floors_that_are_no_unit(self) -> None:
        import matplotlib

        matplotlib.use("Agg")
        rows = [
            MetricRow(name, 0.3, (0.2, 0.4), floor, 10, "")
            for name, floor in (("a", 0.1), ("b", 0.0), ("c", -0.2), ("d", math.nan))
        ]
        ax = MetricsReport(tuple(rows), 0.9).plot()
        assert [text.get_text().strip() for text in ax.texts] == [
            "0.3, floor 0", "0.3, floor -0.2", "0.3, floor nan",
        ]  # fmt: skip
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        assert len(dots) == 1
        assert float(dots[0].get_xdata()[0]) == pytest.approx(3.0)

    def test_equal_laws_are_at_their_floors(self) -> None:
        reference = torch.randn(1_000, 3, generator=seeded())
        samples = torch.randn(500, 3, generator=seeded(1))
        report = evaluate(samples, reference, ["W2", "sliced W2", "coverage"], generator=seeded(2))
        for row in report.rows:
            assert row.value == pytest.approx(row.floor, rel=0.5)

    def test_refuses(self) -> None:
        x = torch.randn(50, 2, generator=seeded())
        with pytest.raises(ValueError, match="unknown metric 'FID'; known: 'mean error'"):
            evaluate(x, x, ["FID"])
        with pytest.raises(ValueError, match="reference has 5 rows"):
            evaluate(x, x[:5])
        with pytest.raises(ValueError, match="same event shape"):
            evaluate(x, torch.randn(50, 3))
        bad = x.clone()
        bad[7] = math.nan
        with pytest.raises(ValueError, match=r"samples holds NaN .*rows 7"):
            evaluate(bad, x)


# ------------------------------------------------------------------------------------ conditions


class Shifted(torch.nn.Module):
    """The exact velocity and noise of N(label, ½²) for each label, as a network of two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        self.nothing = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def exact(self, label: float) -> tpf.Field:
        law = tpf.distributions.GaussianMixture(torch.tensor([[float(label)]]), scale=0.5)
        return tpf.oracle(self.process, law)

    def forward(self, t, x, label):
        value = torch.zeros(2, *x.shape, dtype=x.dtype)
        for k in label.unique():
            rows, exact = label == k, self.exact(float(k))
            value[0, rows] = exact.velocity(t[rows], x[rows])
            value[1, rows] = exact.noise(t[rows], x[rows])
        return value[0] + 0 * self.nothing, value[1]


def test_diagnostics_take_conditions():
    """Each figure of a conditioned field is that of the exact field of its condition."""
    net = Shifted()
    pair = tpf.FieldPair(
        velocity=lambda t, x, label: net(t, x, label)[0],
        noise=lambda t, x, label: net(t, x, label)[1],
        process=net.process,
    )
    kinds = {"label": tpf.fields.Condition("integer", (), 0, 3)}
    pair.conditions = kinds
    label, exact = torch.full((64,), 2), net.exact(2.0)
    data = torch.randn(64, 1, dtype=torch.float64, generator=seeded()) * 0.5 + 2
    seeds = {"generator": seeded()}
    with pytest.raises(ValueError, match="'label' is missing"):
        consistency(pair, data)
    ours = consistency(pair, data, cond={"label": label}, **seeds)
    theirs = consistency(exact, data, generator=seeded())
    assert torch.allclose(ours.stein, theirs.stein, atol=1e-9)
    assert torch.allclose(ours.difference, torch.zeros(9, dtype=torch.float64), atol=1e-12)
    start = torch.randn(64, 1, dtype=torch.float64, generator=seeded())
    ours = path_geometry(pair, start=start, steps=10, cond={"label": 2})
    assert ours.energy == pytest.approx(path_geometry(exact, start=start, steps=10).energy)
    far = path_geometry(pair, start=start, steps=10, cond={"label": 3}).energy
    assert far > 1.5 * ours.energy
    how = {"n": 64, "schemes": ("heun",), "steps": (5,)}
    how["generator"] = seeded()
    (row,) = error_by_nfe(pair, lambda x: float(x.mean()), cond={"label": 2}, **how)
    assert row["distance"] == pytest.approx(2, abs=0.3)
    how = {"n": 64, "times": 3, "dtype": torch.float64, "generator": seeded()}
    found = oracle_errors(pair, exact, cond={"label": label}, **how)
    assert float(found.velocity.max() + found.score.max()) < 1e-18
    wrong = oracle_errors(pair, exact, cond={"label": 3}, **how)
    assert float(wrong.score.max()) > 1
    how = {"n": 16, "times": 2, "steps": 8, "generator": seeded()}
    found = ode_kl_identity(pair, exact, cond={"label": 2}, **how)
    assert abs(found.kl.value) < 1e-3
    assert ode_kl_identity(pair, exact, cond={"label": 3}, **how).kl.value > 0.5
