"""Entropic plans of many dimensions by parts of the points, closed forms, kernels in place."""

from __future__ import annotations

import math

import pytest
import torch

from transportflows.metrics import (
    RationalQuadraticKernel,
    entropic_wasserstein2,
    gaussian_wasserstein2,
)
from transportflows.metrics.gaussian import bures_wasserstein2
from transportflows.plans import path


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def test_entropic_value_of_gaussians_in_closed_form() -> None:
    """Of N(0, a) and N(0, b) a coordinate (Janati et al. 2020, with the entropy to p ⊗ q)."""
    n, a, b, epsilon = 1_500, 1.0, 0.25, 2.0
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    points = torch.special.ndtri(u)[:, None]
    found = entropic_wasserstein2(points * math.sqrt(a), points * math.sqrt(b), epsilon=epsilon)
    s = epsilon / 2  # for the cost |x - y|²/2 twice
    m = math.sqrt(1 + 16 * a * b / (2 * s) ** 2)
    exact = a + b - 0.5 * epsilon * (m - 1 - math.log((m + 1) / 2))
    assert found.value == pytest.approx(exact, rel=5e-3)


def test_parts_of_the_points_lead_to_the_same_value(monkeypatch) -> None:
    x, y = normal(2_100, 10, 0), normal(2_000, 10, 1) + 0.3
    found = entropic_wasserstein2(x, y, epsilon=0.02)
    monkeypatch.setattr(path, "_PARTS", 1)
    whole = entropic_wasserstein2(x, y, epsilon=0.02)
    assert found.converged
    assert whole.converged
    assert found.value == pytest.approx(whole.value, rel=1e-5)


def test_a_covariance_that_is_nearly_singular_keeps_its_digits() -> None:
    x, y = normal(500, 4, 0), normal(500, 4, 1) + 1
    for scale in (1.0, 1e-5, 1e-9, 0.0):
        for one in (x, y):
            one[:, 3] = one[:, 0] + scale * one[:, 3]
        found = gaussian_wasserstein2(x, y)
        exact = bures_wasserstein2(x.mean(0), x.mT.cov(), y.mean(0), y.mT.cov())
        assert found == pytest.approx(exact, rel=1e-6)


def test_inverse_powers() -> None:
    x, y = normal(20, 6, 0), normal(30, 6, 1)
    square = torch.cdist(x, y).square() / 2
    for a in (0.2, 0.5, *range(1, 11)):
        found = RationalQuadraticKernel(1.0, a)(x, y)
        torch.testing.assert_close(found, (1 + square / a) ** -a)
