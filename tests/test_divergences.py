"""Divergences, neighbours, coverage, modes, classifier and features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import transportflows as tpf
from transportflows.metrics import (
    classifier_test,
    coverage,
    extract_features,
    fisher_divergence,
    frechet_distance,
    gaussian_wasserstein2,
    jensen_shannon_kernel_density,
    kernel_distance,
    kl_kernel_density,
    kl_log_densities,
    kl_nearest_neighbours,
    mode_weights,
    nearest_distances,
    nearest_neighbours,
    optimal_pairs,
)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestLogDensities:
    def test_gaussians_closed_form_and_the_control_variate(self) -> None:
        p, q = tpf.Gaussian((3,)), tpf.Gaussian((3,), 0.2, 1.05)
        truth = 3 * (math.log(1.05) + (1 + 0.2**2) / (2 * 1.05**2) - 0.5)
        x = p.sample(20_000, generator=seeded(), dtype=torch.float64)
        plain = kl_log_densities(p.log_prob(x), q.log_prob(x), control_variate=False)
        better = kl_log_densities(p.log_prob(x), q.log_prob(x))
        for found in (plain, better):
            assert abs(found.value - truth) < 4 * found.standard_error
        assert better.standard_error < 0.6 * plain.standard_error
        low, high = better.interval(0.99)
        half = stats.t.ppf(0.995, 19_999) * better.standard_error
        assert (high - low) / 2 == pytest.approx(half)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="two vectors"):
            kl_log_densities(torch.zeros(3), torch.zeros(4))
        with pytest.raises(ValueError, match="finite at draws"):
            kl_log_densities(torch.tensor([0.0, -math.inf]), torch.zeros(2))


def kde(x: Tensor, points: Tensor, covariance: np.ndarray) -> np.ndarray:
    return np.mean(
        [stats.multivariate_normal(p, covariance).pdf(x.numpy()) for p in points.numpy()], 0
    )


class TestKernelDensity:
    @pytest.mark.parametrize("coordinates", [(0,), (0, 1), (2, 0)])
    def test_value_is_the_definition(self, coordinates: tuple[int, ...]) -> None:
        x, y = normal(40, 3, seed=0), 1.2 * normal(50, 3, seed=1) + 0.4
        a, b = x[:, list(coordinates)], y[:, list(coordinates)]
        spread = 0.5 * (np.atleast_2d(np.cov(a.T)) + np.atleast_2d(np.cov(b.T)))
        k = len(coordinates)
        kernel = spread * (0.7 * 40 ** (-1 / (k + 4))) ** 2
        at = stats.multivariate_normal(np.zeros(k), kernel).pdf(np.zeros(k))
        p = (kde(a, a, kernel) * 40 - at) / 39  # without its own kernel
        q = kde(a, b, kernel)
        found = kl_kernel_density(x, y, coordinates=coordinates, bandwidth=0.7)
        assert found.value == pytest.approx(np.mean(np.log(p / q)), rel=1e-9)
        found = kl_kernel_density(
            x, y, coordinates=coordinates, bandwidth=0.7, control_variate=True
        )
        all_p = kde(a, a, kernel)
        assert found.value == pytest.approx(np.mean(np.log(all_p / q) + q / all_p - 1), rel=1e-9)
        p_y = kde(b, a, kernel)
        q_y = (kde(b, b, kernel) * 50 - at) / 49
        js = 0.5 * np.mean(np.log(2 * p / (p + q))) + 0.5 * np.mean(np.log(2 * q_y / (p_y + q_y)))
        found = jensen_shannon_kernel_density(x, y, coordinates=coordinates, bandwidth=0.7)
        assert found.value == pytest.approx(js, rel=1e-9)

    def test_gaussians_closed_form_of_the_blurred_laws(self) -> None:
        # Kernels of covariance h² C blur N(0, 1) and N(1, 1) to variance 1 + h² C.
        n, h = 8_000, 8_000 ** (-1 / 5)
        x, y = normal(n, 1, seed=0), normal(n, 1, seed=1) + 1
        found = kl_kernel_density(x, y, coordinates=(0,), points=4_000)
        assert found.value == pytest.approx(1 / (2 * (1 + h**2)), rel=0.1)

    def test_equal_laws_of_light_tails_are_near_0(self) -> None:
        for k in range(20):
            x, y = normal(2_000, 2, seed=2 * k), normal(2_000, 2, seed=2 * k + 1)
            assert abs(kl_kernel_density(x, y).value) < 0.05
            with_variate = kl_kernel_density(x, y, control_variate=True)
            assert 0 <= with_variate.value < 0.05

    def test_equal_laws_of_heavy_tails(self) -> None:
        def student(freedom: float, seed: int) -> Tensor:
            torch.manual_seed(seed)
            return torch.distributions.StudentT(freedom).sample((2, 1_000, 2)).double()

        for k in range(20):
            x, y = student(5.0, k)
            assert abs(kl_kernel_density(x, y).value) < 0.2
            x, y = student(2.0, k)
            assert abs(kl_kernel_density(x.asinh(), y.asinh()).value) < 0.1
            assert abs(kl_kernel_density(x, y).value) < 5.0  # no more can be had: see the docstring
            assert 0 <= kl_kernel_density(x, y, control_variate=True).value < 10.0

    def test_a_far_point_of_both_stays_finite(self) -> None:
        x, y = normal(1_000, 2, seed=0), normal(1_000, 2, seed=1)
        x[0] = y[0] = 1e4
        for control_variate in (False, True):
            found = kl_kernel_density(x, y, control_variate=control_variate)
            assert abs(found.value) < 10.0  # 1/N of the squared distance, in kernels' deviations
            assert math.isfinite(found.standard_error)

    def test_a_value_that_is_not_finite_is_refused(self, monkeypatch) -> None:
        def empty(at: Tensor, points: Tensor, *, own: bool) -> Tensor:
            return torch.zeros(len(at)) if own else torch.full((len(at),), -math.inf)

        monkeypatch.setattr("transportflows.metrics.divergences._log_density", empty)
        x = normal(10, 2, seed=0)
        with pytest.raises(ValueError, match="came out as inf"):
            kl_kernel_density(x, x)

    def test_refuses(self) -> None:
        x = normal(10, 3, seed=0)
        for coordinates in ((), (0, 0), (3,), (0, 1, 2, 0)):
            with pytest.raises(ValueError, match="coordinates"):
                kl_kernel_density(x, x, coordinates=coordinates)
        flat = torch.cat([x, x[:, :1]], 1)
        with pytest.raises(ValueError, match="do not vary independently"):
            kl_kernel_density(flat, flat, coordinates=(0, 3))


def test_fisher_divergence_of_gaussians() -> None:
    x = normal(50_000, 2, seed=0)
    found = fisher_divergence(x, lambda x: -x, lambda x: -(x - 1) / 4)
    truth = 2 * (9 / 16 + 1 / 16)  # E|-x + (x - 1)/4|²
    assert abs(found.value - truth) < 4 * found.standard_error


class TestNeighbours:
    @pytest.mark.parametrize("exclude_self", [False, True])
    def test_distances_are_those_of_all_pairs(self, exclude_self, monkeypatch) -> None:
        monkeypatch.setattr("transportflows.metrics.neighbours.block_rows", lambda *a: 7)
        x = normal(40, 2, 2, seed=0)
        y = x if exclude_self else normal(30, 2, 2, seed=1)
        all_pairs = (x.flatten(1)[:, None] - y.flatten(1)).square().sum(-1).sqrt()
        if exclude_self:
            all_pairs.fill_diagonal_(math.inf)
        expected = all_pairs.sort(1)
        distances, indices = nearest_distances(x, y, 3, exclude_self=exclude_self)
        torch.testing.assert_close(distances, expected.values[:, :3])
        assert torch.equal(indices, expected.indices[:, :3])

    def test_copies_are_at_0_in_many_dimensions(self) -> None:
        for k in range(10):
            data = normal(200, 64, seed=k, dtype=torch.float32) + 3.0
            distances, indices = nearest_distances(data[50:90], data, 3)
            assert float(distances[:, 0].max()) == 0.0
            assert torch.equal(indices[:, 0], torch.arange(50, 90))
            assert bool((distances.diff(dim=1) >= 0).all())
            pairs = (data[50:90, None].double() - data.double()).norm(dim=2).sort(1).values
            torch.testing.assert_close(distances, pairs[:, :3], rtol=1e-12, atol=0)
            repeated = torch.cat([data, data[:20]])
            fresh = normal(200, 64, seed=100 + k, dtype=torch.float32) + 3.0
            with pytest.raises(ValueError, match=r"40 rows of x .* points coincide"):
                kl_nearest_neighbours(repeated, fresh, neighbours=1)
            with pytest.raises(ValueError, match=r"20 rows of x .* points coincide"):
                kl_nearest_neighbours(data, torch.cat([fresh, data[:20]]), neighbours=1)

    def test_copies_show_and_new_samples_do_not(self) -> None:
        data = normal(1_000, 3, seed=0)
        fresh = nearest_neighbours(normal(2_000, 3, seed=1), data)
        assert fresh.copied == pytest.approx(0.05, abs=0.02)
        assert fresh.ratio == pytest.approx(1.0, abs=0.08)
        half = torch.cat([data[:500] + 1e-6, normal(500, 3, seed=2)])
        found = nearest_neighbours(half, data)
        assert found.copied == pytest.approx(0.525, abs=0.02)
        assert torch.equal(found.nearest[:500], torch.arange(500))

    def test_kl_of_gaussians(self) -> None:
        # KL(N(0, 1) || N(0, 2²)); the other way it is 0.807, estimated with a bias of -0.28.
        x, y = normal(4_000, 1, seed=0), 2 * normal(5_000, 1, seed=1)
        assert kl_nearest_neighbours(x, y) == pytest.approx(math.log(2) - 3 / 8, abs=0.06)
        assert 0.45 < kl_nearest_neighbours(y, x) < 0.81

    def test_kl_is_centred_for_equal_laws_of_different_sizes(self) -> None:
        values = np.array(
            [
                kl_nearest_neighbours(normal(100, 2, seed=2 * k), normal(300, 2, seed=2 * k + 1))
                for k in range(100)
            ]
        )
        assert abs(values.mean()) < 0.03

    def test_refuses(self) -> None:
        x = torch.ones(8, 2)
        with pytest.raises(ValueError, match="points coincide"):
            kl_nearest_neighbours(x, x)
        with pytest.raises(ValueError, match="x has 5 rows"):
            kl_nearest_neighbours(normal(5, 2, seed=0), normal(9, 2, seed=1))
        with pytest.raises(ValueError, match="samples has 3 rows"):
            coverage(normal(3, 2, seed=0), normal(9, 2, seed=1))


class TestCoverage:
    def test_values_are_the_definitions(self) -> None:
        x, y = normal(30, 2, seed=0), normal(40, 2, seed=1) + 0.5
        k = 3

        def radii(s: Tensor) -> Tensor:
            return torch.cdist(s, s).sort(1).values[:, k]

        pairs = torch.cdist(x, y)
        in_data, in_samples = pairs <= radii(y), pairs <= radii(x)[:, None]
        found = coverage(x, y, neighbours=k)
        assert found.precision == pytest.approx(float(in_data.any(1).double().mean()))
        assert found.recall == pytest.approx(float(in_samples.any(0).double().mean()))
        assert found.density == pytest.approx(float(in_data.double().sum()) / (k * 30))
        assert found.coverage == pytest.approx(float(in_data.any(0).double().mean()))

    def test_expectations_for_equal_laws(self) -> None:
        found = [
            coverage(normal(60, 3, seed=2 * k), normal(90, 3, seed=2 * k + 1)) for k in range(100)
        ]
        values = np.array([one.coverage for one in found])
        assert abs(values.mean() - found[0].expected_coverage) < 4 * values.std() / 10
        densities = np.array([one.density for one in found])
        assert abs(densities.mean() - 1) < 4 * densities.std() / 10

    def test_a_dropped_mode_lowers_recall_and_coverage_only(self) -> None:
        data = torch.cat([normal(200, 2, seed=0), normal(200, 2, seed=1) + 20])
        found = coverage(normal(200, 2, seed=2), data)
        assert found.precision > 0.9
        assert found.recall < 0.55
        assert found.coverage < 0.55


class TestModes:
    def test_weights_are_unbiased_where_modes_overlap(self) -> None:
        weights, scales = [0.2, 0.3, 0.5], [0.7, 0.4, 1.0]
        law = tpf.distributions.GaussianMixture(
            torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.5]]),
            torch.tensor(scales),
            weights=weights,
        )
        x = law.sample(20_000, generator=seeded(), dtype=torch.float64)
        found = mode_weights(x, law)
        z = (found.weights - found.expected) / found.standard_error
        assert float(z.abs().max()) < 4
        log_terms = torch.stack(
            [
                tpf.Gaussian((2,), mean, scale).log_prob(x) + math.log(weight)
                for mean, scale, weight in zip(law.means, scales, weights, strict=True)
            ],
            1,
        )
        expected = torch.softmax(log_terms, 1).mean(0)
        torch.testing.assert_close(found.weights, expected, rtol=1e-6, atol=0)
        counts = torch.bincount(log_terms.argmax(1), minlength=3)
        assert torch.equal(found.counts, counts)
        assert found.far < 1e-3

    def test_a_dropped_mode_and_strays(self) -> None:
        law = tpf.distributions.GaussianMixture(torch.tensor([[-3.0], [0.0], [3.0]]), 0.2)
        x = torch.cat([normal(100, 1, seed=0) * 0.2 + 3, normal(100, 1, seed=1) * 0.2 - 3])
        x = torch.cat([x, torch.full((50, 1), 1.5, dtype=torch.float64)])
        found = mode_weights(x, law)
        assert found.found == 3 or found.counts[1] <= 50
        assert mode_weights(x[:200], law).found == 2
        assert found.far == pytest.approx(0.2)
        with pytest.raises(TypeError, match="GaussianMixture"):
            mode_weights(x, tpf.Gaussian((1,)))


class TestClassifier:
    def test_comes_near_the_bayes_accuracy(self) -> None:
        x, y = normal(3_000, 2, seed=0), normal(3_000, 2, seed=1) + 1
        bayes = stats.norm.cdf(math.sqrt(2) / 2)
        found = classifier_test(x, y, generator=seeded())
        assert bayes - 0.04 < found.accuracy < bayes + 0.03
        low, high = found.interval(0.9)
        assert low < found.accuracy < high
        assert found.p_value < 1e-10

    def test_p_values_are_valid_under_the_null(self) -> None:
        def guess(points: Tensor, labels: Tensor, held_out: Tensor) -> Tensor:
            means = [points[labels == k].mean(0) for k in (0, 1)]
            return (held_out - 0.5 * (means[0] + means[1])) @ (means[1] - means[0])

        p_values = np.array(
            [
                classifier_test(
                    normal(60, 3, seed=2 * k), normal(80, 3, seed=2 * k + 1), classifier=guess,
                    generator=seeded(k),
                ).p_value
                for k in range(200)
            ]
        )  # fmt: skip
        for level in (0.05, 0.1, 0.3):
            assert (p_values <= level).mean() < level + 3 * math.sqrt(level * (1 - level) / 200)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_standardised_in_double(self, dtype: torch.dtype) -> None:
        x, y = normal(300, 2, seed=0).to(dtype), (normal(300, 2, seed=1) + 2).to(dtype)
        x[:, 1] = y[:, 1] = 1.0  # of no spread at all
        half = classifier_test(x, y, generator=seeded())
        assert half.accuracy > 0.75
        assert half == classifier_test(x.double(), y.double(), generator=seeded())

    def test_events_reach_a_classifier_of_ones_own_and_seeds_repeat(self) -> None:
        x, y = normal(40, 1, 3, 3, seed=0), normal(40, 1, 3, 3, seed=1) + 2

        def mean(points: Tensor, labels: Tensor, held_out: Tensor) -> Tensor:
            assert points.shape[1:] == (1, 3, 3)
            return held_out.flatten(1).mean(1) - 1

        assert classifier_test(x, y, classifier=mean).accuracy == 1.0
        runs = [classifier_test(x, y + 0.0, generator=seeded(s)) for s in (1, 1)]
        assert runs[0] == runs[1]

    def test_refuses(self) -> None:
        x = normal(20, 2, seed=0)
        with pytest.raises(ValueError, match="x has 5 rows"):
            classifier_test(x[:5], x)
        with pytest.raises(ValueError, match="one finite score"):
            classifier_test(x, x, classifier=lambda p, labels, h: h)
        with pytest.raises(ValueError, match="train_share"):
            classifier_test(x, x, train_share=1.0)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 7), (6, 2), (1, 3)])
def test_pairs_of_points_that_coincide_are_few(n: int, m: int) -> None:
    weights = normal(n, seed=0).exp()
    for p in (None, weights):
        plan = optimal_pairs(torch.ones(n, 2), torch.ones(m, 2), x_weights=p)
        assert plan.distance == 0.0
        assert len(plan.mass) <= (n if n == m and p is None else n + m - 1)
        target = torch.full((n,), 1 / n).double() if p is None else p / p.sum()
        rows = torch.zeros(n).double().index_add_(0, plan.rows, plan.mass)
        columns = torch.zeros(m).double().index_add_(0, plan.columns, plan.mass)
        torch.testing.assert_close(rows, target)
        torch.testing.assert_close(columns, torch.full((m,), 1 / m).double())


class TestFeatures:
    def test_distances_are_those_of_the_features(self) -> None:
        x, y = normal(60, 1, 4, 4, seed=0), 1.5 * normal(70, 1, 4, 4, seed=1)
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 5)).double().train()
        direct = [net.eval()(s).detach() for s in (x, y)]
        net.train()
        found = frechet_distance(x, y, net, batch_size=7)
        assert found == pytest.approx(gaussian_wasserstein2(*direct) ** 2, rel=1e-9)
        assert net.training
        assert net[1].training
        assert kernel_distance(x, y, net).value == pytest.approx(kernel_distance(*direct).value)

    def test_kernel_distance_is_unbiased_where_frechet_is_not(self) -> None:
        pairs = [(normal(50, 8, seed=2 * k), normal(50, 8, seed=2 * k + 1)) for k in range(100)]
        kernel = np.array([kernel_distance(x, y).value for x, y in pairs])
        assert abs(kernel.mean()) < 4 * kernel.std() / 10
        frechet = np.mean([frechet_distance(x, y) for x, y in pairs])
        assert frechet == pytest.approx(8 * 13 / 4 * 2 / 50, rel=0.15)  # as its docstring says

    def test_refuses(self) -> None:
        x = normal(10, 2, seed=0)
        with pytest.raises(ValueError, match=r"\(B, F\)"):
            extract_features(x, lambda x: x.sum(1))
        with pytest.raises(ValueError, match="the features holds NaN"):
            extract_features(x, lambda x: x / 0 * 0)
        with pytest.raises(ValueError, match="batch_size"):
            extract_features(x, lambda x: x, batch_size=0)
