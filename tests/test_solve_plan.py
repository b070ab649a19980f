"""``samplers.plan``: the promise on fresh starts, what it counts, ε by data, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import transportflows as tpf
from transportflows.samplers import plan


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ring(deviation: float) -> tpf.distributions.GaussianMixture:
    angle = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
    means = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1)
    return tpf.distributions.GaussianMixture(means, deviation)


LAWS = {
    "ring": ring(0.2),
    "wide ring": ring(0.4),
    "d = 8": tpf.distributions.GaussianMixture(
        torch.randn(3, 8, generator=seeded(5)).double(), 0.5
    ),
}
PATHS = {
    "linear": lambda d: tpf.Process(tpf.Linear(), base=tpf.Gaussian((d,))),
    "latent": lambda d: tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((d,))),
    "VP": lambda d: tpf.Process(tpf.VP(), shape=(d,)),
    "mixture base": lambda d: tpf.Process(
        tpf.Trigonometric(),
        base=tpf.distributions.GaussianMixture(
            torch.ones(2, d).double() * torch.eye(2)[:, :1], 0.5
        ),
    ),
}


def off(field: tpf.Field, found: tpf.samplers.SolvePlan, seed: int = 77) -> float:
    """The rms error on fresh starts, against an adaptive solve."""
    x = field.start.sample(2_000, generator=seeded(seed), dtype=torch.float64)
    exact = tpf.sample(field, start=x, scheme="dopri5", rtol=1e-7, atol=1e-7).x
    told = {**found.arguments, "epsilon": 0.0}
    return float((tpf.sample(field, start=x, **told).x - exact).square().mean().sqrt())


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("path", PATHS)
def test_the_promise_holds_for_twelve_oracles(law, path):
    process = PATHS[path](LAWS[law].shape[0])
    field = tpf.oracle(process, LAWS[law])
    found = plan(field, 2e-2, n=600, generator=seeded(1))
    assert found.error <= 2e-2
    assert off(field, found) <= 1.2 * 2e-2
    solution = tpf.sample(field, 10, generator=seeded(0), **found.arguments)
    assert solution.nfe == found.calls


class Rough(torch.nn.Module):
    """The exact velocity and what a network would add: waves of .2, stronger near the end."""

    def __init__(self, field: tpf.Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        rise = 0.2 * (1 + (10 * (t - 0.9)).sigmoid())
        return self.field.velocity(t, x) + rise[:, None] * torch.sin(6 * x.flip(1) + 9 * t[:, None])


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_the_promise_is_of_the_field_as_it_is(tolerance):
    process = PATHS["linear"](2)
    field = tpf.Velocity(Rough(tpf.oracle(process, ring(0.2))), process)
    found = plan(field, tolerance, n=1_000, generator=seeded(2))
    assert off(field, found) <= 1.2 * tolerance


def test_a_trained_network_in_float32_with_a_transform_and_conditions():
    process = PATHS["linear"](2)
    net = tpf.networks.MLP(2, 32, 3, labels=2, generator=seeded(0))
    x = 5 + 3 * tpf.datasets.two_moons(2_000, generator=seeded(1))
    label = (x[:, 0] > 5).long()
    field = tpf.Velocity(net, process, transform=tpf.Standardize.fit(x))
    trainer = tpf.Trainer(field, lr=2e-3)
    trainer.fit(x, cond={"label": label}, steps=300, progress=False, generator=seeded(2))
    field = trainer.field
    cond = {"label": torch.arange(500) % 2}
    found = plan(field, 1e-2, n=500, cond=cond, generator=seeded(3))
    start = field.start.sample(500, generator=seeded(4))
    told = {"start": start, "cond": cond}
    exact = tpf.sample(field, scheme="rk4", steps=400, **told).x
    error = float((tpf.sample(field, **told, **found.arguments).x - exact).square().mean().sqrt())
    assert error <= 1.2e-2  # in units of the data, whose deviation is about 3


def test_more_is_asked_of_less_tolerance_and_the_table_says_so():
    field = tpf.oracle(PATHS["VP"](2), ring(0.2))
    found = [plan(field, tol, n=300, generator=seeded(1)) for tol in (1e-1, 1e-2, 1e-3)]
    assert found[0].calls < found[1].calls < found[2].calls
    text = str(found[1])
    assert f"{found[1].calls} calls" in text
    assert found[1].scheme in text
    same = [
        t for t in found[1].trials if (t.scheme, t.spacing) == (found[1].scheme, found[1].spacing)
    ]
    assert any(t.calls == found[1].calls and t.error == found[1].error for t in same)
    assert all(t.error > 0 for t in found[1].trials)  # none was solved in another number of steps


def test_a_path_with_a_kink_is_planned():
    process = tpf.Process(tpf.EncoderDecoder(), base=tpf.Gaussian((2,)))
    field = tpf.oracle(process, ring(0.4))
    found = plan(field, 5e-2, n=500, generator=seeded(1))
    assert off(field, found) <= 1.2 * 5e-2


def test_schemes_can_be_given():
    field = tpf.oracle(PATHS["linear"](2), ring(0.4))
    found = plan(field, 1e-2, schemes=["heun"], n=500, generator=seeded(1))
    assert found.scheme == "heun"
    assert {trial.scheme for trial in found.trials} == {"heun"}


def test_noise_is_chosen_where_the_velocity_is_wrong_and_the_score_right():
    process = PATHS["latent"](2)
    law = ring(0.3)
    exact = tpf.oracle(process, law)

    class Slow(torch.nn.Module):
        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return exact.velocity(t, x) - t[:, None] * x

    class Eta(torch.nn.Module):
        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return exact.noise(t, x)

    data = law.sample(4_000, generator=seeded(9))
    told = {"data": data, "distance": tpf.metrics.energy_distance, "n": 4_000}
    wrong = tpf.FieldPair(velocity=Slow(), noise=Eta(), process=process)
    found = plan(wrong, 1e-2, generator=seeded(1), **told)
    assert not found.epsilon.is_zero
    chosen = found.epsilon.epsilon
    assert found.distances[chosen][0] == min(mean for mean, _ in found.distances.values())
    noisy = tpf.sample(wrong, 2_000, generator=seeded(3), **found.arguments).x
    plain = tpf.sample(wrong, 2_000, generator=seeded(3), steps=100).x
    fresh = law.sample(2_000, generator=seeded(10))
    distance = tpf.metrics.energy_distance
    assert float(distance(noisy, fresh)) < float(distance(plain, fresh))


def test_refusals():
    field = tpf.oracle(PATHS["linear"](2), ring(0.2))
    with pytest.raises(ValueError, match="positive rms"):
        plan(field, 0.0)
    with pytest.raises(ValueError, match=r"distance=tpf\.metrics"):
        plan(field, 1e-2, data=torch.randn(50, 2))
    with pytest.raises(ValueError, match="no scheme is within"):
        plan(field, 1e-3, most=8, n=200, generator=seeded(0))
    with pytest.raises(ValueError, match="heun"):
        plan(field, 1e-2, schemes=["hoin"], n=200)
    with pytest.raises(TypeError, match="Field"):
        plan(torch.nn.Linear(2, 2), 1e-2)
    with pytest.raises(ValueError, match="most"):
        plan(field, 1e-2, most=3)
    with pytest.raises(ValueError, match="at least 100"):
        plan(field, 1e-2, n=5)
    with pytest.raises(ValueError, match="schemes is empty"):
        plan(field, 1e-2, schemes=[])
    with pytest.raises(ValueError, match="dopri5"):
        plan(field, 1e-2, schemes=["dopri5"])
    with pytest.raises(ValueError, match="80 or more"):
        plan(field, 1e-2, data=torch.randn(20, 2), distance=tpf.metrics.energy_distance)
    single = tpf.Velocity(tpf.networks.MLP(2, 8, 2, generator=seeded(0)), PATHS["linear"](2))
    with pytest.raises(ValueError, match="too rough"):
        plan(single, 1e-9, n=200)
