"""What a notebook shows of couplings, distributions and results, and that they can be copied."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import transportflows as tpf
from families import mixture, process

M, D = tpf.metrics, tpf.distributions
N = 1_000


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, *shape, generator=generator, dtype=torch.float64)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


X, Y = rows(3), rows(3, seed=1) + 1
LAW = mixture([[1.0, 0.0], [-1.0, 0.5]], 0.5)
LABELS = torch.arange(N) % 10


def oracle() -> tpf.oracles.GaussianMixtureOracle:
    return tpf.oracle(process(tpf.Linear(tpf.Brownian())), LAW)


LAWS: dict[str, Callable[[], Any]] = {
    "Gaussian": lambda: tpf.Gaussian((N,), mean=torch.randn(N, generator=seeded())),
    "Gaussian diagonal": lambda: tpf.Gaussian((3, 28, 28), scale=torch.rand(3, 28, 28) + 0.1),
    "Gaussian full": lambda: tpf.Gaussian((100,), scale_tril=torch.eye(100)),
    "GaussianMixture": lambda: D.GaussianMixture(X),
    "Uniform": lambda: D.Uniform((N,), low=-1 - rows().float().abs()),
    "Empirical": lambda: D.Empirical(X),
    "adapted": lambda: D.as_distribution(torch.distributions.Normal(torch.zeros(N), torch.ones(N))),
    "MinibatchOT": tpf.MinibatchOT,
    "Independent": tpf.couplings.Independent,
    "Paired": tpf.Paired,
    "GaussianKernel": lambda: M.GaussianKernel.multiscale(1.0),
    "RationalQuadraticKernel": M.RationalQuadraticKernel,
    "PolynomialKernel": M.PolynomialKernel,
}
RESULTS: dict[str, Callable[[], Any]] = {
    "CharacteristicDistance": lambda: M.characteristic_distance(X, Y, generator=seeded()),
    "ClassifierTest": lambda: M.classifier_test(X, Y, generator=seeded()),
    "Consistency": lambda: M.consistency(oracle(), LAW.sample(N), times=[0.3] * 3),
    "CorrectedDistance": lambda: M.corrected_wasserstein2(X, Y, generator=seeded()),
    "Coverage": lambda: M.coverage(X, Y),
    "EndBias": lambda: diffusion_bias().flow,
    "EntropicPlan": lambda: M.entropic_wasserstein2(X, Y, epsilon=0.5),
    "Estimate": lambda: M.wasserstein2_error(X, Y, generator=seeded()),
    "KLIdentity": lambda: M.ode_kl_identity(oracle(), oracle(), n=8, times=2, steps=4),
    "KernelDistance": lambda: M.mmd2(X, Y),
    "LossByTime": lambda: M.loss_by_time(oracle(), tpf.VelocityLoss(), LAW.sample(N)),
    "MaxSlicedDistance": lambda: M.max_sliced_wasserstein2(rows(N), rows(N), generator=seeded()),
    "MetricRow": lambda: M.evaluate(X, Y, ["mean error"]).rows[0],
    "MetricsReport": lambda: M.evaluate(X[:200], Y, generator=seeded()),
    "ModeWeights": lambda: M.mode_weights(X, D.GaussianMixture(X[:100])),
    "MomentError": lambda: M.mean_error(X, Y),
    "MomentSummary": lambda: M.moment_summary(rows(200), rows(200)),
    "NeighbourDistances": lambda: M.nearest_neighbours(X, Y),
    "OracleErrors": lambda: M.oracle_errors(oracle(), oracle(), n=8),
    "PathGeometry": lambda: M.path_geometry(oracle(), 8, steps=20),
    "PermutationTest": lambda: M.energy_test(X, Y, permutations=19, generator=seeded()),
    "PriorBias": lambda: diffusion_bias(),
    "ProjectionTest": lambda: M.sliced_kolmogorov_test(X, Y, generator=seeded()),
    "SinkhornDivergence": lambda: M.sinkhorn_divergence(X, Y, epsilon=0.5),
    "SlicedDistance": lambda: M.sliced_wasserstein2(X, Y, generator=seeded()),
    "TransportPlan": lambda: M.optimal_pairs(X, Y),
    "TwoSampleTest": lambda: M.energy.TwoSampleTest(1.0, 0.5),
    "Digits": lambda: tpf.datasets.Digits(rows(1, 8, 8), LABELS),
}


def diffusion_bias() -> Any:
    law = D.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), scale=0.5)
    return M.prior_bias(tpf.oracle(tpf.Process(tpf.VP(), shape=(2,)), law), 16, steps=4)


def test_every_result_is_shown() -> None:
    public = {
        name
        for space in (M, tpf.plans)
        for name in space.__all__
        if isinstance(getattr(space, name), type) and dataclasses.is_dataclass(getattr(space, name))
    }
    assert public <= set(RESULTS)


def content(value: Any) -> Any:
    """All that an object holds, as something that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, torch.nn.Module):
        return {name: tensor.tolist() for name, tensor in value.named_buffers()}
    if isinstance(value, (tuple, list)):
        return [content(one) for one in value]
    if isinstance(value, (float, int, str, type(None))):
        return repr(value)
    return {name: content(part) for name, part in vars(value).items()}


@pytest.mark.parametrize("name", [*LAWS, *RESULTS])
def test_is_short_and_can_be_copied(name: str) -> None:
    value = (LAWS | RESULTS)[name]()
    text = repr(value)
    assert text.count("\n") <= 2, text
    assert len(text) <= 300, text
    assert " object at 0x" not in text
    if name in RESULTS:
        assert text.startswith(f"{name}(")
    for again in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert type(again) is type(value)
        assert content(again) == content(value)
        assert repr(again) == text


def test_the_event_shape_comes_first() -> None:
    assert repr(tpf.Gaussian((2,))) == "Gaussian((2,), mean=0, scale=1)"
    scale = torch.tensor([1.0, 2.0])
    assert repr(tpf.Gaussian((2,), 1.5, scale)) == "Gaussian((2,), mean=1.5, scale=[1, 2])"
    assert repr(D.Uniform((3,), -1.0)) == "Uniform((3,), low=-1, high=1)"
    assert repr(tpf.MinibatchOT()) == "MinibatchOT(method='exact')"
    sinkhorn = tpf.MinibatchOT("sinkhorn", regularisation=0.1)
    assert repr(sinkhorn) == "MinibatchOT(method='sinkhorn', regularisation=0.1)"


def test_a_result_shows_its_numbers() -> None:
    assert repr(M.Estimate(1.23456, 0.01, 10)) == (
        "Estimate(value=1.235, standard_error=0.01, terms=10)"
    )
    plan = M.optimal_pairs(torch.zeros(1, 2), torch.ones(1, 2) * 3)
    assert repr(plan) == "TransportPlan(distance=4.243, rows=0, columns=0, mass=1)"
