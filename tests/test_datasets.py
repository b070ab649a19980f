"""Data sets against the laws their docstrings state."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor

from transportflows import datasets
from transportflows.metrics import sliced_kolmogorov_test

PLANAR = [
    datasets.checkerboard,
    datasets.two_moons,
    datasets.eight_gaussians,
    datasets.swiss_roll,
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def within_four_errors(values: Tensor, expected: float) -> bool:
    return bool((values.mean() - expected).abs() < 4 * values.std() / math.sqrt(len(values)))


@pytest.mark.parametrize("draw", PLANAR)
class TestPlanar:
    def test_seed_fixes_the_points_in_any_dtype(self, draw) -> None:
        a = draw(100, generator=seeded(), dtype=torch.float64)
        b = draw(100, generator=seeded())
        assert a.shape == b.shape == (100, 2)
        assert (a.dtype, b.dtype) == (torch.float64, torch.get_default_dtype())
        torch.testing.assert_close(a.float(), b, rtol=0, atol=0)
        assert not torch.equal(b, draw(100, generator=seeded(1)))

    def test_a_generator_moves_on(self, draw) -> None:
        generator = seeded()
        first, second = draw(2_000, generator=generator), draw(2_000, generator=generator)
        assert not torch.equal(first, second)
        assert sliced_kolmogorov_test(first, second, generator=generator).p_value > 1e-3

    def test_default_generator_follows_manual_seed(self, draw) -> None:
        torch.manual_seed(5)
        first = draw(10)
        torch.manual_seed(5)
        assert torch.equal(first, draw(10))

    def test_lies_in_the_stated_square(self, draw) -> None:
        assert float(draw(10_000, generator=seeded()).abs().max()) < 4 + 5 * 0.4

    def test_refuses_no_points(self, draw) -> None:
        with pytest.raises(ValueError, match="n must be"):
            draw(0)


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (datasets.two_moons, "noise"),
        (datasets.swiss_roll, "noise"),
        (datasets.eight_gaussians, "std"),
        (datasets.eight_gaussians, "radius"),
    ],
)
def test_refuses_a_negative_scale(draw, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        draw(5, **{name: -0.1})


def test_checkerboard_is_uniform_on_its_eight_squares() -> None:
    x = datasets.checkerboard(80_000, generator=seeded(), dtype=torch.float64)
    cells = (x / 2).floor().long()
    assert bool(((cells >= -2) & (cells <= 1)).all())
    assert bool((cells.sum(1) % 2 == 0).all())
    counts = torch.bincount((cells[:, 0] + 2) * 4 + cells[:, 1] + 2, minlength=16)
    counts = counts[counts > 0]
    assert counts.shape == (8,)
    assert float((counts - 10_000).abs().max()) < 4 * math.sqrt(10_000)
    inside = x / 2 - cells
    assert within_four_errors(inside[:, 0], 0.5)
    assert within_four_errors((inside[:, 1] - 0.5) ** 2, 1 / 12)
    assert within_four_errors(x[:, 0] ** 2, 16 / 3)
    assert within_four_errors(x[:, 0] * x[:, 1], 1.0)


def test_two_moons_lie_on_their_half_circles() -> None:
    x = datasets.two_moons(20_000, noise=0.0, generator=seeded(), dtype=torch.float64)
    centre = torch.tensor([-1.0, -0.5], dtype=torch.float64)
    upper = ((x - centre).norm(dim=1) - 2).abs() < 1e-12
    lower = ((x + centre).norm(dim=1) - 2).abs() < 1e-12
    assert bool((upper | lower).all())
    assert bool((x[upper & ~lower, 1] >= -0.5).all())
    assert bool((x[lower & ~upper, 1] <= 0.5).all())
    assert within_four_errors(upper.double(), 0.5)
    assert within_four_errors(x[:, 0], 0.0)
    assert within_four_errors(x[:, 1], 0.0)


def test_two_moons_are_those_of_scikit_learn() -> None:
    make_moons = pytest.importorskip("sklearn.datasets").make_moons
    theirs = torch.as_tensor(make_moons(4_000, noise=0.05, random_state=0)[0])
    theirs = 2 * (theirs - torch.tensor([0.5, 0.25]))
    ours = datasets.two_moons(4_000, noise=0.1, generator=seeded(), dtype=torch.float64)
    assert sliced_kolmogorov_test(ours, theirs, generator=seeded(1)).p_value > 1e-3


def test_eight_gaussians_have_the_stated_moments() -> None:
    x = datasets.eight_gaussians(
        40_000, radius=3.0, std=0.2, generator=seeded(), dtype=torch.float64
    )
    for axis in (0, 1):
        assert within_four_errors(x[:, axis], 0.0)
        assert within_four_errors(x[:, axis] ** 2, 9 / 2 + 0.04)
    angle = torch.atan2(x[:, 1], x[:, 0]) / (math.pi / 4)
    mode = angle.round().long() % 8
    counts = torch.bincount(mode, minlength=8)
    assert float((counts - 5_000).abs().max()) < 4 * math.sqrt(5_000)
    theta = mode * math.pi / 4
    centre = 3 * torch.stack([theta.cos(), theta.sin()], 1)
    assert within_four_errors((x - centre).square().sum(1), 2 * 0.04)


@pytest.mark.parametrize("draw", [datasets.two_moons, datasets.swiss_roll])
def test_noise_has_the_stated_deviation(draw) -> None:
    clean, noisy = [
        draw(20_000, noise=noise, generator=seeded(), dtype=torch.float64) for noise in (0.0, 0.3)
    ]
    for noise in (noisy - clean).T:
        assert within_four_errors(noise, 0.0)
        assert within_four_errors(noise**2, 0.09)


def test_swiss_roll_lies_on_its_spiral() -> None:
    x = datasets.swiss_roll(40_000, noise=0.0, generator=seeded(), dtype=torch.float64)
    angle = x.norm(dim=1) * 4.5 * math.pi / 4
    assert float(angle.min()) >= 1.5 * math.pi - 1e-12
    assert float(angle.max()) <= 4.5 * math.pi + 1e-12
    unit = torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(x, x.norm(dim=1, keepdim=True) * unit, rtol=0, atol=1e-11)
    assert within_four_errors(angle, 3 * math.pi)
    assert within_four_errors(x[:, 0], 16 / (9 * math.pi))
    assert within_four_errors(x[:, 1], 16 / (27 * math.pi**2))


class TestDigits:
    @pytest.fixture(autouse=True)
    def _needs_sklearn(self) -> None:
        pytest.importorskip("sklearn")

    def test_are_those_of_scikit_learn(self) -> None:
        from sklearn.datasets import load_digits

        images, labels = datasets.digits(value_range=(0.0, 16.0), dtype=torch.float64)
        bunch = load_digits()
        assert images.shape == (1797, 1, 8, 8)
        assert torch.equal(images[:, 0], torch.as_tensor(bunch.images))
        assert torch.equal(labels, torch.as_tensor(bunch.target).long())
        flat = datasets.digits(flatten=True, value_range=(0.0, 16.0), dtype=torch.float64)
        assert torch.equal(flat.images, images.flatten(1))

    def test_value_range(self) -> None:
        signed = datasets.digits().images
        unit = datasets.digits(value_range=(0.0, 1.0)).images
        assert (signed.min(), signed.max()) == (-1, 1)
        assert (unit.min(), unit.max()) == (0, 1)
        torch.testing.assert_close(signed, 2 * unit - 1)
        assert signed.dtype == torch.get_default_dtype()
        with pytest.raises(ValueError, match="increase"):
            datasets.digits(value_range=(1.0, 0.0))

    def test_split_is_a_seeded_partition(self) -> None:
        data = datasets.Digits(torch.arange(1797.0).reshape(-1, 1, 1, 1), torch.arange(1797))
        train, test = data.split(0.2, generator=seeded())
        assert (len(train.images), len(test.images)) == (1438, 359)
        for part in (train, test):
            assert torch.equal(part.images.flatten().long(), part.labels)
        both = torch.cat([train.labels, test.labels])
        assert torch.equal(both.sort().values, data.labels)
        assert not torch.equal(both, data.labels)
        again = data.split(0.2, generator=seeded())
        assert torch.equal(again[1].labels, test.labels)
        for bad in (0.0, 1.0, 1.5, -0.1):
            with pytest.raises(ValueError, match="test_fraction"):
                data.split(bad)

    def test_missing_scikit_learn_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(ImportError, match=r"pip install 'transportflows\[examples\]'"):
            datasets.digits()
