"""Paired data: paths that cross, networks that are told where a path began, and the diagnostic."""

from __future__ import annotations

import math

import pytest
import torch

import transportflows as tpf
from transportflows.metrics import pair_error

SPREAD = 0.1  # of x1 = -x0 + 0.1 w


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs(n: int, seed: int = 0, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    x0 = torch.randn(n, 1, generator=seeded(seed), dtype=dtype)
    return x0, -x0 + SPREAD * torch.randn(n, 1, generator=seeded(seed + 1), dtype=dtype)


def plain_velocity(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """E[x1 - x0 | x_t] of the Gaussian pairs, linear path: ½ x d/dt log var(x_t)."""
    t = t.reshape(-1, *[1] * (x.ndim - 1)) if t.ndim else t
    return x * ((4 * t - 2) + SPREAD**2 * t) / ((1 - 2 * t) ** 2 + SPREAD**2 * t**2)


class Exact(torch.nn.Module):
    """Of the path with γ² = a t (1 - t), given x0: x_t is N((1 - 2t) x0, t² 0.01 + γ²)."""

    def __init__(self, a: float, what: str) -> None:
        super().__init__()
        self.a, self.what, self.calls = a, what, 0

    def forward(self, t, x, *, x0):
        self.calls += 1
        t = t.reshape(-1, 1) if t.ndim else t
        gamma_sq = self.a * t * (1 - t)
        rest = (x - (1 - 2 * t) * x0) / (SPREAD**2 * t**2 + gamma_sq).clamp(min=1e-300)
        if self.what == "noise":  # E[z | x_t, x0]
            return gamma_sq.sqrt() * rest
        return -2 * x0 + SPREAD**2 * t * rest  # E[x1 - x0 | x_t, x0]


def told_pair(a: float = 0.5, **options) -> tpf.FieldPair:
    coupling = tpf.Paired(condition_on_start=True, **options)
    process = tpf.Process(tpf.Linear(tpf.Brownian(a)), coupling=coupling)
    return tpf.FieldPair(
        mean_velocity=Exact(a, "mean_velocity"), noise=Exact(a, "noise"), process=process
    )


def test_an_exact_plain_velocity_keeps_the_laws_and_turns_the_pairs_round() -> None:
    """In closed form: it sends x0 to x0 times the ratio of the scales."""
    process = tpf.Process(tpf.Linear(), coupling=tpf.Paired())
    x0, x1 = pairs(2000, seed=5)
    y = tpf.sample(tpf.Velocity(plain_velocity, process), start=x0, scheme="rk4", steps=400).x
    torch.testing.assert_close(y, x0 * math.sqrt(1 + SPREAD**2), rtol=1e-3, atol=1e-3)
    found = pair_error(x0, x1, y)
    assert found.correlation == pytest.approx(1, abs=1e-3)
    assert found.true_correlation == pytest.approx(-1, abs=0.01)
    assert found.lost > 1


@pytest.mark.parametrize("scheme", ["euler_maruyama", "heun"])
def test_fields_told_of_the_start_keep_the_pairs(scheme: str) -> None:
    x0, x1 = pairs(2000, seed=5)
    field = told_pair()
    start = x0.clone()
    epsilon = tpf.solve.NoiseScaleEpsilon(0.5)
    y = tpf.sample(
        field, start=start, epsilon=epsilon, scheme=scheme, steps=200, generator=seeded(3)
    ).x
    assert torch.equal(start, x0)
    assert float((y + x0).std()) == pytest.approx(SPREAD, rel=0.15)
    assert abs(float((y + x0).mean())) < 0.02
    found = pair_error(x0, x1, y)
    assert found.correlation == pytest.approx(found.true_correlation, abs=0.005)
    assert abs(found.lost) < 0.02


def test_training_gives_the_network_the_start_of_each_path() -> None:
    """The exact field is the regression of its targets given (x_t, x0)."""
    field = told_pair()
    x0, x1 = pairs(50_000)
    s = field.process.sample(x1, x0=x0, antithetic=True, generator=seeded(2))
    assert torch.equal(s.cond["x0"], torch.cat([x0, x0]))
    for name in ("mean_velocity", "noise"):
        f = field.quantity(name, s.t, s.x, s.cond)
        for g in (s.x, s.cond["x0"]):
            moments = (getattr(s, name) - f) * g
            assert abs(float(moments.mean())) < 5 * float(moments.std()) / len(moments) ** 0.5


def test_a_trained_field_with_other_conditions_and_a_transform() -> None:
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)
            self.seen = []

        def forward(self, t, x, *, x0, label):
            self.seen.append((x0.detach(), float(t.min()), x.detach().clone(), label))
            return self.layer(torch.cat([x, x0, label[:, None].to(x)], 1))

    x0, x1 = pairs(64, dtype=torch.float32)
    x0, x1 = 10 * x0 + 50, 10 * x1 + 50
    transform = tpf.Standardize(50.0, 10.0)
    coupling = tpf.Paired(condition_on_start=True)
    process = tpf.Process(tpf.Linear(tpf.Brownian()), coupling=coupling)
    field = tpf.FieldPair(velocity=Net(), noise=Net(), process=process, transform=transform)
    trainer = tpf.Trainer(field, [tpf.VelocityLoss(), tpf.NoiseLoss()])
    label = torch.arange(64) % 2
    trainer.fit((x0, x1), cond={"label": label}, steps=3, batch_size=16, progress=False)
    assert all(float(seen.abs().max()) < 5 for seen, *_ in field.first.seen)
    field.first.seen.clear()
    tpf.sample(field, start=x0[:8], cond={"label": label[:8]}, epsilon=[0.1, 0.2], steps=4, chunk=4)
    first = min(time for _, time, *_ in field.first.seen)
    early = [(seen, x, label) for seen, time, x, label in field.first.seen if time == first]
    assert len(early) == 4  # two members in two chunks, where each row still is at its start
    for seen, x, labels in early:
        torch.testing.assert_close(x, seen)
        row = int((transform(x0[:8]) - seen[0]).abs().argmin())
        torch.testing.assert_close(seen, transform(x0[row : row + 4]))
        assert torch.equal(labels, label[row : row + 4])
    with pytest.raises(ValueError, match="'x0'"):
        tpf.sample(field, start=x0[:8], cond={"label": label[:8], "x0": x0[:8]}, epsilon=0.1)


def test_what_cannot_be_is_refused() -> None:
    field, (x0, x1) = told_pair(), pairs(8)
    with pytest.raises(ValueError, match=r"all copies of an x0 go to one x1.*is_map=True"):
        tpf.sample(field, start=x0)
    with pytest.raises(ValueError, match="all copies"):
        tpf.sample(field, start=x0, epsilon=[0.0, 0.5])
    with pytest.raises(ValueError, match="starts there, at t = 0"):
        tpf.sample(field, start=x0, epsilon=0.5, t=(1.0, 0.0))
    with pytest.raises(ValueError, match="'x0' is missing"):
        tpf.log_likelihood(field, x1)
    with pytest.raises(ValueError, match="start of each path, given by the library"):
        field.process.sample(x1, x0=x0, cond={"x0": x0})
    with pytest.raises(ValueError, match="is_map=True"):
        tpf.Process(tpf.Linear(), coupling=tpf.Paired(condition_on_start=True))
    with pytest.raises(ValueError, match="condition_on_start=True, is_map=True"):
        tpf.Paired(is_map=True)
    x = tpf.sample(told_pair(is_map=True), start=x0, steps=50, scheme="rk4").x
    assert float((x + x0).abs().max()) < 0.05


def test_the_coupling_is_told_and_kept() -> None:
    coupling = tpf.Paired(condition_on_start=True, is_map=True)
    assert repr(coupling) == "Paired(condition_on_start=True, is_map=True)"
    assert repr(tpf.Paired()) == "Paired()"
    assert tpf.Paired(**coupling.config()).config() == coupling.config()


def test_a_pair_error_is_zero_for_the_pairs_and_one_for_rows_in_another_order() -> None:
    x0, x1 = pairs(1500)
    _, again = x0, -x0 + SPREAD * torch.randn(1500, 1, generator=seeded(9), dtype=torch.float64)
    assert abs(pair_error(x0, x1, again).lost) < 0.02
    other = x1[torch.randperm(1500, generator=seeded(4))]
    assert pair_error(x0, x1, other).lost == pytest.approx(1, abs=0.1)
    scaled = pair_error(1e3 * x0, 1e-3 * x1 + 5, 1e-3 * other + 5)
    assert scaled.lost == pytest.approx(pair_error(x0, x1, other).lost, rel=1e-6)
    with pytest.raises(ValueError, match="as many rows each"):
        pair_error(x0, x1, other[:-1])
