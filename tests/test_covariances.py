"""Covariances as they are given: rounded to the dtype in which they were estimated."""

import pytest
import torch

from transportflows.distributions import GaussianMixture
from transportflows.metrics import bures_wasserstein2


def estimated(dtype, d=40, seed=0):
    """A covariance as a product of rows in one dtype, each half rounded by itself."""
    gen = torch.Generator().manual_seed(seed)
    rows = torch.randn(3 * d, d, generator=gen, dtype=torch.float64)
    exact = rows.mT @ rows / len(rows)
    noise = torch.rand(d, d, generator=gen, dtype=torch.float64) - 0.5
    return exact.to(dtype) + (4 * torch.finfo(dtype).eps * exact * noise).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_covariance_that_is_symmetric_to_its_rounding_is_taken(dtype):
    """Those that scikit-learn fits to float32 data are no more than that."""
    given = estimated(dtype)
    assert not torch.equal(given, given.mT)
    law = GaussianMixture(torch.zeros(1, 40), covariances=given[None])
    kept = law.covariances[0]
    assert torch.equal(kept, kept.mT)
    assert torch.allclose(kept, given.double(), rtol=0, atol=8 * torch.finfo(dtype).eps * 10)
    zero = torch.zeros(40)
    assert bures_wasserstein2(zero, given, zero, given) < 1e-3


@pytest.mark.parametrize(("dtype", "by"), [(torch.float32, 1e-3), (torch.float64, 1e-6)])
def test_one_that_is_not_is_refused_with_its_cure(dtype, by):
    given = torch.eye(3, dtype=dtype)
    given[0, 1] += by
    with pytest.raises(ValueError, match=r"not symmetric.*\(covariances \+ covariances\.mT\) / 2"):
        GaussianMixture(torch.zeros(1, 3), covariances=given[None])
    with pytest.raises(ValueError, match="covariance1 must be symmetric"):
        bures_wasserstein2(torch.zeros(3), given, torch.zeros(3), torch.eye(3))
