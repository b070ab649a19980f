"""Kernels are differentiated, as in a loss of two samples, and have the same numbers then."""

from __future__ import annotations

import pytest
import torch

from transportflows.metrics import GaussianKernel, PolynomialKernel, RationalQuadraticKernel

KERNELS = [
    GaussianKernel(1.0),
    GaussianKernel([0.5, 1.0, 3.0]),
    RationalQuadraticKernel(),
    RationalQuadraticKernel(2.0, [0.3, 3.0, 5.0]),
    PolynomialKernel(),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_kernels_are_differentiated(kernel):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(kernel(x.clone().requires_grad_(), y).detach(), kernel(x, y))
    assert torch.autograd.gradcheck(lambda z: kernel(z, y), x.clone().requires_grad_())
