"""Mistakes that users of several libraries make, and the words that answer them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import transportflows as tpf

X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))


def field() -> tpf.Velocity:
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    return tpf.Velocity(tpf.networks.MLP(2, 8, 1), process)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tpf.Trainer(field(), nn.MSELoss()), r"function of \(field, batch, generator\)"),
        (lambda: tpf.sample(field(), 4, epsilon="anderson"), r"write AndersonEpsilon\(\.\.\.\)"),
        (
            lambda: tpf.sample(field(), 4, epsilon=torch.tensor([0.1, 0.2])),
            r"write epsilon\.tolist\(\)",
        ),
        (
            lambda: tpf.langevin.langevin(lambda t, x: -x, X, step_size=0.1, steps=1),
            r"function of \(x\), got the function <lambda>, which takes \(t, x\)",
        ),
        (
            lambda: tpf.langevin.ascend(field(), X, step_size=0.1, steps=1),
            r"write score_at\(field, t\)",
        ),
    ],
)  # fmt: skip
def test_the_cure_is_named(call, words) -> None:
    with pytest.raises(TypeError, match=words):
        call()


def test_a_law_of_torch_has_one_shape() -> None:
    law = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match=r"events of shape \(3,\), and shape=\(2,\)"):
        tpf.Process(tpf.Linear(), base=law, shape=(2,))


def test_whole_numbers_are_counts_everywhere() -> None:
    history = tpf.Trainer(field()).fit(X, steps=2.0, batch_size=4.0, progress=False)
    assert len(history.loss) == 2
    assert tpf.sample(field(), 3, steps=2.0, scheme="heun").nfe == 4
    with pytest.raises(ValueError, match=r"steps must be an integer, got 2\.5"):
        tpf.Trainer(field()).fit(X, steps=2.5)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
@pytest.mark.parametrize("metric", ["wasserstein2", "energy_distance", "sliced_wasserstein2"])
def test_samples_whose_squares_are_0_or_infinite_are_refused(metric, scale) -> None:
    x = X.double() * scale
    with pytest.raises(ValueError, match=r"whose square is (0|infinite) in float64"):
        getattr(tpf.metrics, metric)(x, x + scale)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_an_error_bar_goes_with_the_scale(scale) -> None:
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, scaled = (
        tpf.metrics.wasserstein2_error(
            s * x, s * (x + 1), generator=torch.Generator().manual_seed(1)
        )
        for s in (1.0, scale)
    )
    assert scaled.value == pytest.approx(scale * plain.value, rel=1e-9)
    assert scaled.standard_error == pytest.approx(scale * plain.standard_error, rel=1e-6)
    assert 0.01 < plain.standard_error < 1


@pytest.mark.parametrize("depth", [0, 10_001, 10**30])
def test_a_number_of_layers_is_one_that_can_be_built(depth) -> None:
    with pytest.raises(ValueError, match=r"depth|positive"):
        tpf.networks.MLP(2, 8, depth)
    with pytest.raises(ValueError, match=r"depth must be a number of layers, 1 to 10,000"):
        tpf.networks.DiT((1, 4, 4), width=8, depth=depth, attention_heads=2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integers_are_those_of_int64(dtype) -> None:
    net = tpf.networks.MLP(2, 8, 1, labels=3, generator=torch.Generator().manual_seed(0))
    label, t = torch.tensor([0, 1, 2, 1]), torch.full((4,), 0.5)
    assert torch.equal(net(t, X[:4], label=label.to(dtype)), net(t, X[:4], label=label))
    with pytest.raises(ValueError, match="label holds 3"):
        net(t, X[:4], label=(label + 1).to(dtype))
