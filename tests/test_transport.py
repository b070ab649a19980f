"""Optimal transport and moments against closed forms, other solvers and their definitions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import linalg, optimize
from torch import Tensor

from transportflows.metrics import (
    bures_wasserstein2,
    corrected_wasserstein2,
    covariance_error,
    entropic_wasserstein2,
    gaussian_wasserstein2,
    max_sliced_wasserstein2,
    mean_error,
    moment_summary,
    optimal_pairs,
    sinkhorn_divergence,
    sliced_wasserstein2,
    wasserstein1,
    wasserstein2,
    wasserstein2_error,
)
from transportflows.plans import ConvergenceWarning


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense_entropic(
    x: Tensor, y: Tensor, epsilon: float, p: Tensor, q: Tensor, tolerance: float = 1e-8
) -> tuple[float, float]:
    """Value and violation of a plain dense log-domain Sinkhorn, ε-scaled, by the definition."""
    x, y = x.flatten(1), y.flatten(1)
    cost = (x[:, None] - y[None]).square().sum(-1)
    log_p, log_q = p.log(), q.log()
    g, eps = torch.zeros_like(q), float(cost.max())
    while True:
        for _ in range(50_000):
            f = -eps * torch.logsumexp((g - cost) / eps + log_q, 1)
            new = -eps * torch.logsumexp(((f - cost.mT) / eps + log_p), 1)
            violation = float((q * ((g - new) / eps).expm1()).abs().sum())
            g = new
            if violation < (tolerance if eps == epsilon else 1e-2):
                break
        if eps == epsilon:
            break
        eps = max(epsilon, eps / 2)
    f = -eps * torch.logsumexp((g - cost) / eps + log_q, 1)
    log_ratio = (f[:, None] + g - cost) / eps
    plan = p[:, None] * q * log_ratio.exp()
    violation = float((plan.sum(0) - q).abs().sum())
    primal = float((plan * cost).sum() + eps * (plan * log_ratio).sum())
    dual = float(p @ f + q @ g)
    assert primal == pytest.approx(dual, rel=1e-6)  # the two sides of the definition
    return dual, violation


def uniform(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64)


class TestEntropic:
    @pytest.mark.parametrize(
        ("dimension", "epsilon"), [(1, 0.05), (2, 1.0), (2, 0.1), (2, 0.02), (10, 0.3)]
    )
    def test_agrees_with_a_dense_solve(self, dimension: int, epsilon: float) -> None:
        x, y = normal(150, dimension, seed=0), 0.8 * normal(210, dimension, seed=1) + 0.5
        expected, left = dense_entropic(x, y, epsilon, uniform(150), uniform(210))
        assert left < 1e-7
        result = entropic_wasserstein2(x, y, epsilon=epsilon)
        assert result.converged
        assert result.violation <= 1e-3
        assert result.value == pytest.approx(expected, rel=1e-5)
        assert result.value <= expected * (1 + 1e-9) <= result.upper * (1 + 2e-9)
        tight = entropic_wasserstein2(x, y, epsilon=epsilon, tolerance=1e-9)
        assert tight.value == pytest.approx(expected, rel=1e-9)
        assert 0 <= tight.gap < 1e-6

    @pytest.mark.parametrize("dimension", [2, 10])
    def test_small_epsilon(self, dimension: int) -> None:
        # At ε = 1e-3 a dense Sinkhorn takes minutes (benchmarks/metrics_entropic.py does it), so
        # this rests on the certificate of a far tighter solve, and on the exact distance.
        means = torch.eye(max(4, dimension), dtype=torch.float64)[:4, :dimension]
        x, y = (means[torch.arange(400) % 4] + normal(400, dimension, seed=s) for s in (0, 1))
        result = entropic_wasserstein2(x, y, epsilon=1e-3)
        tight = entropic_wasserstein2(x, y, epsilon=1e-3, tolerance=2e-6)
        assert tight.gap < 1e-4 * tight.value
        assert result.value == pytest.approx(tight.value, rel=1e-4)
        assert result.value <= tight.value <= result.upper
        exact = wasserstein2(x, y) ** 2
        # 0 <= W_ε - W <= ε log N: the optimal pairs are a plan of entropy log N.
        assert exact <= tight.value + 1e-9 <= exact + 1e-3 * math.log(400) + 2e-9

    def test_potentials_give_the_plan(self) -> None:
        x, y = normal(40, 3, seed=0), normal(50, 3, seed=1)
        result = entropic_wasserstein2(x, y, epsilon=0.5, tolerance=1e-8)
        cost = (x[:, None] - y).square().sum(-1)
        f, g = result.x_potential, result.y_potential
        plan = ((f[:, None] + g - cost) / 0.5).exp() / (40 * 50)
        torch.testing.assert_close(plan.sum(1), uniform(40), rtol=1e-10, atol=0)
        assert float((plan.sum(0) - uniform(50)).abs().sum()) == pytest.approx(
            result.violation, abs=1e-12
        )

    def test_two_points_closed_form(self) -> None:
        # x = y = {0, a}: mass s on the diagonal with s/(1-s) = exp(a²/ε).
        a, epsilon = 1.3, 0.7
        s = 1 / (1 + math.exp(-(a**2) / epsilon))
        expected = (1 - s) * a**2 + epsilon * (s * math.log(2 * s) + (1 - s) * math.log(2 - 2 * s))
        x = torch.tensor([[0.0], [a]], dtype=torch.float64)
        result = entropic_wasserstein2(x, x, epsilon=epsilon, tolerance=1e-10)
        assert result.value == pytest.approx(expected, rel=1e-9)

    def test_weights_count_as_repeated_points(self) -> None:
        x, y = normal(30, 2, seed=0), normal(45, 2, seed=1)
        times = torch.arange(30) % 4
        repeated = entropic_wasserstein2(
            x.repeat_interleave(times, 0), y, epsilon=0.2, tolerance=1e-8
        )
        weighted = entropic_wasserstein2(
            x, y, epsilon=0.2, x_weights=times.double(), tolerance=1e-8
        )
        assert weighted.value == pytest.approx(repeated.value, rel=1e-8)
        assert len(weighted.x_potential) == int((times > 0).sum())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_any_event_shape_dtype_and_offset(self, dtype: torch.dtype) -> None:
        x, y = normal(60, 2, 2, seed=0), normal(60, 2, 2, seed=1)
        plain = entropic_wasserstein2(x.flatten(1), y.flatten(1), epsilon=0.1, tolerance=1e-6)
        far = entropic_wasserstein2(
            (x + 8).to(dtype), (y + 8).to(dtype), epsilon=0.1, tolerance=1e-6
        )
        assert far.value == pytest.approx(plain.value, rel=1e-6)

    def test_budget_of_memory_changes_the_route_and_not_the_value(self) -> None:
        x, y = normal(700, 2, seed=0), normal(700, 2, seed=1)
        with pytest.raises(ValueError, match=r"memory = 1e\+04 bytes .* would do"):
            entropic_wasserstein2(x, y, epsilon=0.05, memory=1e4)
        wide = entropic_wasserstein2(x, y, epsilon=0.05, tolerance=1e-5)
        least = entropic_wasserstein2(
            x, y, epsilon=0.05, tolerance=1e-5, memory=12.3e6, max_steps=5_000
        )
        assert least.steps > 3 * wide.steps  # only sweeps over blocks
        assert least.value == pytest.approx(wide.value, rel=1e-6)

    def test_far_clusters_of_unequal_mass(self) -> None:
        # Support and mass must find each other across a gap of 300 deviations.
        x = torch.cat([normal(60, 2, seed=0), normal(40, 2, seed=1) + 300])
        y = torch.cat([normal(50, 2, seed=2), normal(50, 2, seed=3) + 300])
        result = entropic_wasserstein2(x, y, epsilon=0.05, tolerance=1e-4)
        assert result.converged
        exact = wasserstein2(x, y) ** 2
        assert exact - 1e-6 * exact <= result.value <= exact + 0.05 * math.log(100)

    def test_stopping_early_warns_and_says_so(self) -> None:
        x, y = normal(300, 2, seed=0), normal(300, 2, seed=1)
        with pytest.warns(ConvergenceWarning, match="converged=False"):
            result = entropic_wasserstein2(x, y, epsilon=1e-3, max_steps=1)
        assert not result.converged
        assert result.violation > 1e-3
        tight = entropic_wasserstein2(x, y, epsilon=1e-3, tolerance=1e-7)
        assert result.value < tight.value < result.upper

    @pytest.mark.parametrize("epsilon", [0.05, 2.0])
    def test_upper_bound_is_above_the_plan_that_it_stands_for(self, epsilon: float) -> None:
        # Far from convergence: the rounded plan, written out, has the given marginals.
        from transportflows.plans.blocks import rows_and_columns
        from transportflows.plans.entropic import _feasible_cost
        from transportflows.plans.path import Potentials

        x, y, p, q = normal(12, 2, seed=0), normal(15, 2, seed=1), uniform(12), uniform(15)
        g = 0.5 * epsilon * normal(15, seed=2)
        f, columns = rows_and_columns(x, y, g, p, q, epsilon)
        cost = (x[:, None] - y).square().sum(-1)
        plan = p[:, None] * q * ((f[:, None] + g - cost) / epsilon).exp()
        torch.testing.assert_close(plan.sum(0), columns)
        plan = plan * (q / columns.clamp(min=1e-300)).clamp(max=1)
        u, v = (p - plan.sum(1)).clamp(min=0), (q - plan.sum(0)).clamp(min=0)
        part, moved = plan, u[:, None] * v / u.sum()
        plan = part + moved
        torch.testing.assert_close(plan.sum(0), q)
        entropy = torch.special.xlogy(plan, plan / (p[:, None] * q)).sum()
        primal = float((plan * cost).sum() + epsilon * entropy)
        upper = _feasible_cost(x, y, p, q, Potentials(f, g, columns, 0), epsilon)
        entropies = [
            torch.special.xlogy(one, one / one.sum() / (p[:, None] * q)).sum()
            for one in (part, moved)
        ]
        expected = float((plan * cost).sum() + epsilon * sum(entropies))
        assert upper == pytest.approx(expected, rel=1e-12)
        mass = float(u.sum())
        mixing = -mass * math.log(mass) - (1 - mass) * math.log(1 - mass)
        # Convexity of KL loses at most the entropy of the mixture of the two parts.
        assert primal - 1e-12 <= upper <= primal + epsilon * mixing + 1e-12

    def test_refuses(self) -> None:
        x = normal(20, 2, seed=0)
        for epsilon in (0.0, -1.0, math.nan):
            with pytest.raises(ValueError, match=r"epsilon must be (positive|a number, got nan)"):
                entropic_wasserstein2(x, x, epsilon=epsilon)
        with pytest.raises(ValueError, match=r"too small for torch.float32"):
            entropic_wasserstein2(x.float() + 1e3, x.float() + 1e3, epsilon=1e-3)
        with pytest.raises(ValueError, match="tolerance"):
            entropic_wasserstein2(x, x, epsilon=1.0, tolerance=0)
        with pytest.raises(ValueError, match="y_weights must be finite, not negative"):
            entropic_wasserstein2(x, x, epsilon=1.0, y_weights=torch.zeros(20))


class TestSinkhornDivergence:
    def test_is_zero_for_equal_samples_and_a_shift_is_its_square(self) -> None:
        x = normal(100, 3, seed=0)
        same = sinkhorn_divergence(x, x[torch.randperm(100)], epsilon=0.3, tolerance=1e-7)
        assert abs(same.value) < 1e-6
        assert same.between > 0.1  # what the debiasing removes
        shift = normal(3, seed=1)
        moved = sinkhorn_divergence(x, x + shift, epsilon=0.3, tolerance=1e-7)
        assert moved.value == pytest.approx(float(shift @ shift), rel=1e-6)

    @pytest.mark.parametrize("epsilon", [0.01, 2.0])
    def test_self_terms_are_those_of_the_general_solver(self, epsilon: float) -> None:
        x = normal(80, 4, seed=0)
        found = sinkhorn_divergence(x, x + 1, epsilon=epsilon, tolerance=1e-6)
        general = entropic_wasserstein2(x, x, epsilon=epsilon, tolerance=1e-6)
        assert found.within_x == pytest.approx(general.value, rel=1e-6)
        assert found.converged

    def test_limits(self) -> None:
        x, y = normal(60, 2, seed=0), normal(80, 2, seed=1) + 1
        far = sinkhorn_divergence(x, y, epsilon=1e5, tolerance=1e-10).value
        assert far == pytest.approx(float((x.mean(0) - y.mean(0)).square().sum()), rel=1e-3)
        near = sinkhorn_divergence(x, y, epsilon=1e-4, tolerance=1e-6).value
        assert near == pytest.approx(wasserstein2(x, y) ** 2, abs=3e-3)


class TestExact:
    @pytest.mark.parametrize("dimension", [1, 3])
    def test_w1_agrees_with_the_assignment_solver(self, dimension: int) -> None:
        x, y = normal(80, dimension, seed=0), 2 * normal(80, dimension, seed=1)
        cost = (x[:, None] - y).square().sum(-1).sqrt().numpy()
        rows, columns = optimize.linear_sum_assignment(cost)
        assert wasserstein1(x, y) == pytest.approx(cost[rows, columns].mean(), rel=1e-12)

    @pytest.mark.parametrize("power", [1, 2])
    @pytest.mark.parametrize("dimension", [1, 3])
    def test_pairs_are_a_plan_of_the_stated_cost(self, power: int, dimension: int) -> None:
        x, y = normal(25, dimension, seed=0), normal(40, dimension, seed=1)
        q = normal(40, seed=2).exp()
        plan = optimal_pairs(x, y, power=power, y_weights=q)
        rows = torch.zeros(25).double().index_add_(0, plan.rows, plan.mass)
        columns = torch.zeros(40).double().index_add_(0, plan.columns, plan.mass)
        torch.testing.assert_close(rows, uniform(25))
        torch.testing.assert_close(columns, q / q.sum())
        moved = (x[plan.rows] - y[plan.columns]).square().sum(1) ** (power / 2)
        assert float(plan.mass @ moved) ** (1 / power) == pytest.approx(plan.distance, rel=1e-10)
        metric = wasserstein2 if power == 2 else wasserstein1
        assert plan.distance == pytest.approx(metric(x, y, y_weights=q), rel=1e-10)

    def test_correction_is_centred_for_equal_laws(self) -> None:
        found = [
            corrected_wasserstein2(
                normal(60, 4, seed=2 * k),
                normal(60, 4, seed=2 * k + 1),
                generator=torch.Generator().manual_seed(k),
            )
            for k in range(60)
        ]
        squares = np.array([one.squared for one in found])
        assert abs(squares.mean()) < 4 * squares.std() / math.sqrt(60)
        raw = np.array([one.raw**2 for one in found])
        assert raw.mean() > 20 * squares.std() / math.sqrt(60)  # which the raw distance is not
        assert all(one.squared == pytest.approx(one.raw**2 - one.floor**2) for one in found)

    def test_error_bar_is_the_deviation_over_repetitions(self) -> None:
        values, errors = [], []
        for k in range(60):
            x, y = normal(200, 2, seed=2 * k), normal(200, 2, seed=2 * k + 1) + 1
            found = wasserstein2_error(x, y, generator=torch.Generator().manual_seed(k))
            values.append(found.value)
            errors.append(found.standard_error)
        ratio = np.std(values) / np.sqrt(np.mean(np.square(errors)))
        assert 0.75 < ratio < 1.3


class TestSliced:
    @pytest.mark.parametrize(("n", "m"), [(60, 60), (45, 80), (1, 7)])
    def test_each_direction_agrees_with_the_exact_distance(self, n: int, m: int) -> None:
        x, y = normal(n, 3, seed=0), 2 * normal(m, 3, seed=1) + 1
        found = max_sliced_wasserstein2(x, y, generator=torch.Generator().manual_seed(2))
        along = wasserstein2((x @ found.direction)[:, None], (y @ found.direction)[:, None])
        assert found.value == pytest.approx(along, rel=1e-10)
        from transportflows.metrics.sliced import _squared_along

        thetas = torch.nn.functional.normalize(normal(5, 3, seed=3), dim=1)
        squares = _squared_along(x, y, thetas)
        for theta, square in zip(thetas, squares, strict=True):
            expected = wasserstein2((x @ theta)[:, None], (y @ theta)[:, None]) ** 2
            assert float(square) == pytest.approx(expected, rel=1e-10)

    def test_shift_closed_form_and_error(self) -> None:
        # <θ, a>² has mean |a|²/d and, for d = 3, variance |a|⁴ 4/45.
        x, a = normal(500, 3, seed=0), torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64)
        found = sliced_wasserstein2(
            x, x + a, projections=4_000, generator=torch.Generator().manual_seed(1)
        )
        expected = math.sqrt(5 / 3)
        assert abs(found.value - expected) < 4 * found.standard_error
        error = 5 * math.sqrt(4 / 45) / math.sqrt(4_000) / (2 * expected)
        assert found.standard_error == pytest.approx(error, rel=0.1)

    def test_worst_direction_is_found(self) -> None:
        # Scale 3 along one hidden direction in ten dimensions: max-sliced W2 is that of it.
        theta = torch.nn.functional.normalize(normal(10, seed=0), dim=0)
        x, y = normal(3_000, 10, seed=1), normal(3_000, 10, seed=2)
        y = y + 2 * (y @ theta)[:, None] * theta
        found = max_sliced_wasserstein2(x, y, generator=torch.Generator().manual_seed(3))
        assert abs(float(found.direction @ theta)) > 0.98
        sliced = sliced_wasserstein2(x, y, generator=torch.Generator().manual_seed(3))
        assert found.value == pytest.approx(2.0, abs=0.15)
        assert found.value > 2 * sliced.value


class TestGaussian:
    @pytest.mark.parametrize("dimension", [1, 2, 7])
    def test_agrees_with_roots_of_matrices(self, dimension: int) -> None:
        a, b = normal(dimension, dimension, seed=0), normal(dimension, dimension, seed=1)
        c1, c2 = a @ a.mT, b @ b.mT
        m1, m2 = normal(dimension, seed=2), normal(dimension, seed=3)
        root = linalg.sqrtm(c1.numpy() @ c2.numpy()).real
        expected = float((m1 - m2).square().sum() + c1.trace() + c2.trace()) - 2 * np.trace(root)
        found = bures_wasserstein2(m1, c1, m2, c2)
        assert found == pytest.approx(math.sqrt(expected), rel=1e-7)

    def test_commuting_and_singular_covariances(self) -> None:
        zero = torch.zeros(3)
        c1, c2 = torch.diag(torch.tensor([4.0, 1.0, 0.0])), torch.diag(torch.tensor([1.0, 0, 9]))
        assert bures_wasserstein2(zero, c1, zero, c2) == pytest.approx(math.sqrt(1 + 1 + 9))

    @pytest.mark.parametrize(("n", "d"), [(200, 3), (4, 12)])
    def test_samples_use_their_moments(self, n: int, d: int) -> None:
        x, y = normal(n, d, seed=0), 1.5 * normal(n + 1, d, seed=1) + 0.3
        expected = bures_wasserstein2(x.mean(0), torch.cov(x.mT), y.mean(0), torch.cov(y.mT))
        assert gaussian_wasserstein2(x, y) == pytest.approx(expected, rel=1e-6)

    def test_bias_for_equal_laws_is_the_stated_one(self) -> None:
        d, n, m = 4, 400, 700
        squares = np.array(
            [
                gaussian_wasserstein2(normal(n, d, seed=2 * k), normal(m, d, seed=2 * k + 1)) ** 2
                for k in range(300)
            ]
        )
        expected = (d + d * (d + 1) / 4) * (1 / n + 1 / m)
        assert squares.mean() == pytest.approx(expected, rel=0.08)

    def test_refuses(self) -> None:
        eye, zero = torch.eye(2), torch.zeros(2)
        with pytest.raises(ValueError, match="positive semidefinite"):
            bures_wasserstein2(zero, -eye, zero, eye)
        with pytest.raises(ValueError, match=r"covariance2 is \(3, 3\)"):
            bures_wasserstein2(zero, eye, zero, torch.eye(3))


class TestMoments:
    def test_values_are_the_definitions(self) -> None:
        x, y = normal(50, 2, 2, seed=0), normal(70, 2, 2, seed=1) + 1
        a, b = x.flatten(1).numpy(), y.flatten(1).numpy()
        expected = np.linalg.norm(a.mean(0) - b.mean(0))
        assert mean_error(x, y).value == pytest.approx(expected)
        expected = np.linalg.norm(np.cov(a.T) - np.cov(b.T))
        assert covariance_error(x, y).value == pytest.approx(expected)
        known = mean_error(x, mean=torch.ones(2, 2))
        assert known.value == pytest.approx(np.linalg.norm(a.mean(0) - 1))
        known = covariance_error(x, covariance=torch.eye(4))
        assert known.value == pytest.approx(np.linalg.norm(np.cov(a.T) - np.eye(4)))

    @pytest.mark.parametrize("against_samples", [False, True])
    def test_floors_are_root_mean_square_errors_of_exact_samples(
        self, against_samples: bool
    ) -> None:
        scale = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
        means, covariances, floors = [], [], []
        for k in range(300):
            x, y = scale * normal(100, 3, seed=2 * k), scale * normal(150, 3, seed=2 * k + 1)
            if against_samples:
                found = mean_error(x, y), covariance_error(x, y)
            else:
                zero, true = torch.zeros(3), torch.diag(scale.square())
                found = mean_error(x, mean=zero), covariance_error(x, covariance=true)
            means.append(found[0].value)
            covariances.append(found[1].value)
            floors.append([one.floor for one in found])
        floor = np.sqrt(np.square(floors).mean(0))
        assert np.sqrt(np.square(means).mean()) == pytest.approx(floor[0], rel=0.1)
        assert np.sqrt(np.square(covariances).mean()) == pytest.approx(floor[1], rel=0.12)

    def test_summary_agrees_with_scipy(self) -> None:
        from scipy import stats

        x, y = normal(400, 3, seed=0).exp(), 2 * normal(300, 3, seed=1)
        found = moment_summary(x, y)
        a, b = x.numpy(), y.numpy()
        np.testing.assert_allclose(found.skewness, stats.skew(a), rtol=1e-10)
        np.testing.assert_allclose(found.kurtosis, stats.kurtosis(a), rtol=1e-10)
        welch = stats.ttest_ind(a, b, equal_var=False).statistic
        np.testing.assert_allclose(found.mean_z, welch, rtol=1e-10)
        np.testing.assert_allclose(found.std_ratio, a.std(0, ddof=1) / b.std(0, ddof=1))

    def test_refuses(self) -> None:
        x = normal(5, 2, seed=0)
        with pytest.raises(ValueError, match="one of the two"):
            mean_error(x)
        with pytest.raises(ValueError, match="one of the two"):
            covariance_error(x, x, covariance=torch.eye(2))
        with pytest.raises(ValueError, match=r"mean is \(3,\)"):
            mean_error(x, mean=torch.zeros(3))
        with pytest.raises(ValueError, match="x has 1 row"):
            covariance_error(x[:1], x)


SAMPLES = {
    "entropic": lambda x, y: entropic_wasserstein2(x, y, epsilon=1.0),
    "w1": wasserstein1,
    "pairs": optimal_pairs,
    "sliced": sliced_wasserstein2,
    "max_sliced": max_sliced_wasserstein2,
    "gaussian": gaussian_wasserstein2,
    "mean": mean_error,
    "covariance": covariance_error,
    "summary": moment_summary,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_bad_samples_are_refused_by_name(name: str) -> None:
    metric, x = SAMPLES[name], normal(6, 2, seed=0)
    bad = x.clone()
    bad[4, 0] = math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"NaN or infinite values in 1 of 6 rows \(rows 4\)"):
            metric(x, bad)
        with pytest.raises(ValueError, match="same event shape"):
            metric(x, normal(6, 3, seed=0))
        with pytest.raises(ValueError, match="empty"):
            metric(x, x[:0])
        with pytest.raises(TypeError, match="floating-point"):
            metric(x, x.long())


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("offset", "spread", "epsilon", "tolerance"),
    [(1e4, 1e-2, 1e-3, 1e-3), (1e3, 1e-3, 1e-5, 1e-3), (0.0, 1.0, 1.0, 1e-12)],
)
def test_a_solve_ends_where_rounding_is_what_is_left(offset, spread, epsilon, tolerance):
    """Two far clusters, or a tolerance near the last digit: all steps are counted."""
    x = spread * normal(300, 2, seed=0)
    y = spread * normal(300, 2, seed=1)
    x[150:] += offset
    y[150:] += offset
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = entropic_wasserstein2(x, y, epsilon=epsilon, tolerance=tolerance, max_steps=60)
    assert found.steps <= 60 + 20
    if found.converged:
        assert found.violation <= tolerance
        assert found.gap >= -1e-9 * (abs(found.value) + epsilon)


def test_an_epsilon_below_what_rounding_allows_is_refused():
    x = normal(300, 2, seed=0)
    y = normal(300, 2, seed=1)
    x[150:] += 1e4
    y[150:] += 1e4
    with pytest.raises(ValueError, match=r"too small for points .* from their mean"):
        entropic_wasserstein2(x, y, epsilon=1e-5)
