"""Kernel distances, Stein discrepancy and characteristic functions, and their error bars."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from transportflows.metrics import (
    GaussianKernel,
    PolynomialKernel,
    RationalQuadraticKernel,
    characteristic_distance,
    kernel_stein_discrepancy,
    median_bandwidth,
    mmd2,
)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense_kernel(kernel: object, x: Tensor, y: Tensor) -> Tensor:
    """The kernels by their definitions, from differences."""
    square = (x[:, None] - y).square().sum(-1)
    if isinstance(kernel, GaussianKernel):
        return torch.stack([(-square / (2 * h**2)).exp() for h in kernel.bandwidths]).mean(0)
    if isinstance(kernel, RationalQuadraticKernel):
        scaled = square / (2 * kernel.bandwidth**2)
        return torch.stack([(1 + scaled / a) ** -a for a in kernel.exponents]).mean(0)
    return ((x[:, None] * y).sum(-1) / x.shape[1] + 1) ** kernel.degree


def gaussian_mmd2(shift: float, d: int, h: float) -> float:
    """MMD² of N(0, Id) and N(shift e_1, Id): E k = (h²/(h²+2))^(d/2) exp(-shift²/2(h²+2))."""
    scale = (h**2 / (h**2 + 2)) ** (d / 2)
    return 2 * scale * (1 - math.exp(-(shift**2) / (2 * (h**2 + 2))))


KERNELS = [
    GaussianKernel(1.3),
    GaussianKernel.multiscale(0.9),
    GaussianKernel([0.5, 3.0]),
    RationalQuadraticKernel(1.2),
    PolynomialKernel(3),
]


class TestMMD:
    @pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
    @pytest.mark.parametrize("shape", [(2,), (3, 4)])
    @pytest.mark.parametrize("unbiased", [False, True])
    def test_tiles_equal_the_dense_definition(self, kernel, shape, unbiased, monkeypatch) -> None:
        monkeypatch.setattr("transportflows.metrics.mmd.block_rows", lambda *a: 400)
        x, y = normal(45, *shape, seed=0), 1.3 * normal(37, *shape, seed=1) + 0.2
        a, b = x.flatten(1), y.flatten(1)
        kxx, kyy, kxy = (dense_kernel(kernel, u, v) for u, v in ((a, a), (b, b), (a, b)))
        n, m = 45, 37
        if unbiased:
            within = (kxx.sum() - kxx.trace()) / (n * (n - 1))
            within = within + (kyy.sum() - kyy.trace()) / (m * (m - 1))
        else:
            within = kxx.mean() + kyy.mean()
        found = mmd2(x, y, kernel=kernel, unbiased=unbiased)
        assert found.value == pytest.approx(float(within - 2 * kxy.mean()), rel=1e-9, abs=1e-12)

    def test_standard_error_is_the_jackknife_less_the_second_order(self) -> None:
        x, y, kernel = normal(12, 2, seed=0), normal(9, 2, seed=1) + 1, GaussianKernel(1.0)
        variance = 0.0
        for sample, other, first in ((x, y, True), (y, x, False)):
            n = len(sample)
            values = []
            for i in range(n):
                left = torch.cat([sample[:i], sample[i + 1 :]])
                pair = (left, other) if first else (other, left)
                values.append(mmd2(*pair, kernel=kernel).value)
            variance += (n - 1) / n * np.square(np.array(values) - np.mean(values)).sum()
        second = 0.0
        for a, b, weight in ((x, x, 2 / (12 * 11)), (y, y, 2 / (9 * 8)), (x, y, 4 / (12 * 9))):
            k = dense_kernel(kernel, a, b)
            mask = 1 - torch.eye(len(a)).double() if a is b else torch.ones_like(k)
            rows, columns = (k * mask).sum(1) / mask.sum(1), (k * mask).sum(0) / mask.sum(0)
            mean = rows.mean()
            inner = (mask * k.square()).sum() / mask.sum()
            inner = inner - rows.square().mean() - columns.square().mean() + mean**2
            second += weight * float(inner)
        found = mmd2(x, y, kernel=kernel).standard_error
        assert found == pytest.approx(math.sqrt(max(variance - second, second)), rel=1e-9)

    def test_standard_error_is_the_deviation_where_the_second_order_counts(self) -> None:
        n, d = 60, 64
        found = []
        for k in range(300):
            x, y = normal(n, d, seed=2 * k), normal(n, d, seed=2 * k + 1)
            y[:, 0] += 1.0
            found.append(mmd2(x, y, kernel=GaussianKernel(8.0)))
        deviation = np.std([one.value for one in found])
        error = math.sqrt(np.mean([one.standard_error**2 for one in found]))
        assert error == pytest.approx(deviation, rel=0.15)  # the plain jackknife is 35 % above

    @pytest.mark.parametrize("d", [2, 10, 64])
    def test_intervals_cover_the_closed_form(self, d: int) -> None:
        """90 % intervals, 400 seeds: 340 to 378 hold the truth."""
        h, shift, n = math.sqrt(d), 1.0, 150
        truth, kernel = gaussian_mmd2(shift, d, h), GaussianKernel(h)
        inside, values = 0, []
        for k in range(400):
            x, y = normal(n, d, seed=2 * k), normal(n, d, seed=2 * k + 1)
            y[:, 0] += shift
            found = mmd2(x, y, kernel=kernel)
            low, high = found.interval(0.9)
            inside += low <= truth <= high
            values.append(found.value)
        assert 340 <= inside <= 378
        assert abs(np.mean(values) - truth) < 4 * np.std(values) / 20

    def test_unbiased_under_the_null_and_v_statistic_of_the_stated_bias(self) -> None:
        kernel, n = GaussianKernel(1.0), 30
        pairs = [(normal(n, 2, seed=2 * k), normal(n, 2, seed=2 * k + 1)) for k in range(400)]
        for unbiased, expected in ((True, 0.0), (False, 2 * (1 - 1 / 3) / n)):  # E k(X, X') = 1/3
            values = np.array(
                [mmd2(x, y, kernel=kernel, unbiased=unbiased).value for x, y in pairs]
            )
            assert abs(values.mean() - expected) < 4 * values.std() / 20

    def test_offset_dtype_and_median(self) -> None:
        x, y = normal(50, 5, seed=0), normal(60, 5, seed=1) + 0.5
        near = mmd2(x, y, kernel=GaussianKernel(2.0)).value
        far = mmd2(x + 1e5, y + 1e5, kernel=GaussianKernel(2.0)).value
        assert far == pytest.approx(near, abs=1e-8)
        assert mmd2(x.float(), y.float()).value == pytest.approx(mmd2(x, y).value, rel=1e-4)
        pooled = torch.cat([x, y])
        expected = float(torch.pdist(pooled).median()) / math.sqrt(2)
        assert median_bandwidth(x, y) == pytest.approx(expected, rel=1e-12)

    def test_refuses(self) -> None:
        x = normal(5, 2, seed=0)
        with pytest.raises(ValueError, match="no interval"):
            mmd2(x, x, unbiased=False).interval()
        few = mmd2(x[:3], x)
        assert math.isnan(few.standard_error)
        with pytest.raises(ValueError, match="fewer than four rows"):
            few.interval()
        with pytest.raises(ValueError, match="x has 1 row"):
            mmd2(x[:1], x)
        with pytest.raises(ValueError, match="bandwidth must be positive"):
            GaussianKernel(0.0)
        with pytest.raises(ValueError, match="coincide"):
            mmd2(torch.ones(4, 2), torch.ones(4, 2))
        bad = x.clone()
        bad[2, 1] = math.inf
        with pytest.raises(ValueError, match=r"y holds NaN or infinite values .*rows 2"):
            mmd2(x, bad)


class TestStein:
    def test_kernel_is_that_of_autodiff(self) -> None:
        from transportflows.metrics.stein import _stein_kernel

        x, y = normal(6, 3, seed=0), normal(5, 3, seed=1)
        s, r = normal(6, 3, seed=2), normal(5, 3, seed=3)
        found = _stein_kernel(x, s, y, r, 0.8)

        def k(a: Tensor, b: Tensor) -> Tensor:
            return (0.8**2 + (a - b).square().sum()).rsqrt()

        for i in range(6):
            for j in range(5):
                gx = torch.func.grad(k, 0)(x[i], y[j])
                gy = torch.func.grad(k, 1)(x[i], y[j])
                mixed = torch.func.jacfwd(torch.func.grad(k, 1), 0)(x[i], y[j]).trace()
                expected = s[i] @ r[j] * k(x[i], y[j]) + s[i] @ gy + r[j] @ gx + mixed
                torch.testing.assert_close(found[i, j], expected, rtol=1e-9, atol=1e-9)

    def test_tiles_equal_the_dense_definition(self, monkeypatch) -> None:
        from transportflows.metrics.stein import _stein_kernel

        monkeypatch.setattr("transportflows.metrics.stein.block_rows", lambda *a: 256)
        x = normal(50, 2, 2, seed=0)
        rows = x.flatten(1) - x.flatten(1).mean(0)
        u = _stein_kernel(rows, -x.flatten(1), rows, -x.flatten(1), 1.5)
        found = kernel_stein_discrepancy(x, lambda x: -x, scale=1.5)
        assert found.value == pytest.approx(float(u.sum() - u.trace()) / (50 * 49), rel=1e-9)
        whole = kernel_stein_discrepancy(x, lambda x: -x, scale=1.5, unbiased=False)
        assert whole.value == pytest.approx(float(u.mean()), rel=1e-9)

    def test_centred_for_exact_samples_and_sees_a_wrong_scale(self) -> None:
        values = np.array(
            [
                kernel_stein_discrepancy(normal(100, 3, seed=k), lambda x: -x, scale=1.0).value
                for k in range(200)
            ]
        )
        assert abs(values.mean()) < 4 * values.std() / math.sqrt(200)
        wrong = kernel_stein_discrepancy(1.3 * normal(500, 3, seed=0), lambda x: -x, scale=1.0)
        assert wrong.interval()[0] > 0

    def test_refuses(self) -> None:
        x = normal(5, 2, seed=0)
        with pytest.raises(ValueError, match="shape of x"):
            kernel_stein_discrepancy(x, lambda x: x.sum(1))
        with pytest.raises(ValueError, match="scale must be positive"):
            kernel_stein_discrepancy(x, lambda x: -x, scale=0.0)


class TestCharacteristic:
    def test_value_is_the_definition(self) -> None:
        from transportflows._core.random import draw_key, stream

        x, y = normal(40, 2, 3, seed=0), normal(60, 2, 3, seed=1) + 0.4
        found = characteristic_distance(
            x, y, frequencies=64, scale=0.7, generator=torch.Generator().manual_seed(5)
        )
        draws = stream(draw_key(torch.Generator().manual_seed(5)))
        omega = 0.7 * torch.randn(64, 6, generator=draws, dtype=torch.float64)
        phases = [torch.exp(1j * (s.flatten(1) @ omega.mT)).mean(0) for s in (x, y)]
        lengths = (phases[0] - phases[1]).abs()
        assert found.value == pytest.approx(float(lengths.mean()), rel=1e-10)
        assert found.standard_error == pytest.approx(float(lengths.std()) / 8, rel=1e-10)

    def test_gaussian_shift_closed_form(self) -> None:
        # |φ| |1 - e^{iωa}| = e^{-ω²/2} 2 |sin(ωa/2)|, ω ~ N(0, 1), in one dimension.
        a, n = 1.5, 50_000
        w = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
        density = torch.exp(-w.square() / 2) / math.sqrt(2 * math.pi)
        integrand = density * torch.exp(-w.square() / 2) * 2 * torch.sin(w * a / 2).abs()
        expected = float(torch.trapezoid(integrand, w))
        found = characteristic_distance(
            normal(n, 1, seed=0), normal(n, 1, seed=1) + a, frequencies=1_000,
            generator=torch.Generator().manual_seed(2),
        )  # fmt: skip
        assert abs(found.value - expected) < 4 * found.standard_error + found.floor

    def test_floor_is_the_mean_for_equal_laws(self) -> None:
        found = [
            characteristic_distance(
                normal(100, 2, seed=2 * k), normal(150, 2, seed=2 * k + 1), frequencies=64,
                generator=torch.Generator().manual_seed(k),
            )
            for k in range(200)
        ]  # fmt: skip
        values = np.array([one.value for one in found])
        floor = np.mean([one.floor for one in found])
        assert abs(values.mean() - floor) < 4 * values.std() / math.sqrt(200)
