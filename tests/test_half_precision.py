"""Networks of half precision: the states of a solve are wider, and more steps are no worse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import transportflows as tpf
from families import process

HALF = torch.bfloat16
LAW = process(tpf.Linear(), (2,))


class Net(nn.Module):
    """A network that tells in which dtypes it was called."""

    def __init__(self, dtype: torch.dtype = HALF, heads: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(3, 2 * heads, dtype=dtype)
        for parameter in self.parameters():
            values = 0.5 * torch.randn(parameter.shape, generator=generator)
            parameter.data = values.to(HALF).to(dtype)
        self.heads, self.seen = heads, set()

    def forward(self, t, x, shift=None):
        self.seen |= {t.dtype, x.dtype, *(() if shift is None else (shift.dtype,))}
        x = x if shift is None else x + shift
        out = self.linear(torch.cat([t[:, None], x], 1))
        return out if self.heads == 1 else out.chunk(2, 1)


def rows(n: int = 6, dtype: torch.dtype = torch.float32):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_more_steps_of_a_half_precision_network_are_no_worse() -> None:
    half, whole = (tpf.Velocity(Net(dtype), LAW) for dtype in (HALF, torch.float32))
    x = rows(200)
    errors = [
        float((tpf.sample(half, start=x, steps=n).x - tpf.sample(whole, start=x, steps=n).x).std())
        for n in (20, 320)
    ]
    assert max(errors) < 5e-3  # 2^-9 of the slopes, and not of the states in each step
    assert errors[1] < 1.5 * errors[0]
    assert half.net.seen == {HALF}


@pytest.mark.parametrize("scheme", ["heun", "rk4", "dopri5", "ddim"])
@pytest.mark.parametrize(
    ("start", "state"),
    [(HALF, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_states_are_float32_or_the_starts_if_wider(scheme, start, state) -> None:
    field = tpf.Velocity(Net(), LAW)
    how = {"scheme": scheme, "steps": 3, "rtol": 1e-1, "atol": 1e-1}
    assert tpf.sample(field, start=rows(dtype=start), **how).x.dtype == state
    assert tpf.sample(field, 3, **how).x.dtype == torch.float32
    assert field.net.seen == {HALF}


def test_log_densities_chains_pairs_and_functions() -> None:
    field = tpf.Velocity(Net(), LAW)
    found = tpf.log_likelihood(field, rows(dtype=HALF), scheme="heun", steps=3)
    assert found.log_prob.dtype == torch.float32
    drawn = tpf.likelihood.sample_with_log_likelihood(field, 3, scheme="heun", steps=3)
    assert drawn.x.dtype == drawn.log_prob.dtype == torch.float32
    score = tpf.langevin.score_at(tpf.NoisePredictor(Net(), LAW), 0.5)
    assert tpf.langevin.langevin(score, rows(), step_size=0.1, steps=3).x.dtype == torch.float32
    noisy = tpf.Process(tpf.Linear(tpf.interpolants.Quadratic()), tpf.Gaussian((2,)))
    pair = tpf.FieldPair(heads=Net(heads=2), process=noisy)
    assert tpf.sample(pair, 3, steps=3, epsilon=0.1).x.dtype == torch.float32
    grid = torch.linspace(0, 1, 4)
    moved = tpf.integrate(lambda t, x: -x, rows(dtype=HALF), grid)
    assert moved.x.dtype == torch.float32
    run = tpf.langevin.annealed_langevin(
        tpf.NoisePredictor(Net(), LAW), 3, levels=2, steps_per_level=2, denoise=False
    )
    assert run.x.dtype == torch.float32


def test_integrated_modules_are_called_in_their_own_dtype() -> None:
    class Drift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2, dtype=HALF)

        def forward(self, t, x):
            return self.linear(x) * t

    moved = tpf.integrate(Drift(), rows(), torch.linspace(0, 1, 4))
    assert moved.x.dtype == torch.float32


def test_conditions_of_the_states_dtype_are_rounded_with_them() -> None:
    field = tpf.Velocity(Net(), LAW)
    tpf.sample(field, start=rows(), steps=2, cond={"shift": rows()})
    assert field.net.seen == {HALF}


def test_a_field_still_answers_in_the_dtype_that_it_is_asked_in() -> None:
    field, t = tpf.Velocity(Net(), LAW), torch.full((6,), 0.5)
    for dtype in (HALF, torch.float32, torch.float64):
        assert field.velocity(t.to(dtype), rows(dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [HALF, torch.float16])
def test_states_of_half_precision_are_refused(dtype: torch.dtype) -> None:
    field = tpf.Velocity(Net(), LAW)
    with pytest.raises(ValueError, match=r"write dtype=torch.float32: a network is called in its"):
        tpf.sample(field, 3, dtype=dtype)
    with pytest.raises(ValueError, match=r"write dtype=torch.float32"):
        tpf.likelihood.sample_with_log_likelihood(field, 3, dtype=dtype)


@pytest.mark.parametrize("data", [HALF, torch.float32])
def test_a_half_precision_network_learns_from_wider_data(data) -> None:
    """Times and states are drawn in float32; bfloat16 has 256 numbers in [½, 1)."""
    seen = []

    def loss(field, batch, generator):
        sample = tpf.losses.VelocityLoss().draw(field, batch, generator=generator)
        seen.append(sample)
        return tpf.losses.VelocityLoss().evaluate(field, sample)

    x1 = rows(4096)
    trainer = tpf.Trainer(tpf.Velocity(Net(), LAW), loss)
    trainer.fit(x1.to(data), steps=1, batch_size=4096, progress=False)
    (sample,) = seen
    assert sample.x.dtype == sample.t.dtype == torch.float32
    assert len(sample.t.unique()) > 4000
    expected = torch.lerp(sample.x0, sample.x1, sample.t[:, None])
    assert torch.allclose(sample.x, expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"data is torch.float64 and the field's network"):
        tpf.Trainer(tpf.Velocity(Net(torch.float32), LAW)).fit(x1.double(), steps=1)
