"""One unit at the surface, the data's: all ways of starting give one law, and latents go back."""

from __future__ import annotations

import pytest
import torch

import transportflows as tpf
from transportflows.distributions import Empirical, Transformed

MEAN, SCALE = torch.tensor([100.0, -3.0]), torch.tensor([10.0, 0.5])
TRANSFORM = tpf.Standardize(MEAN, SCALE)
INSIDE = tpf.Gaussian((2,), torch.tensor([0.4, -0.2]), 0.6)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def field_of(process: tpf.Process) -> tpf.Velocity:
    exact = tpf.oracle(process, INSIDE)
    return tpf.Velocity(lambda t, x: exact.velocity(t, x), process, transform=TRANSFORM)


PROCESSES = {
    "two-sided": lambda: tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))),
    "moved base": lambda: tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,), 1.0, 2.0)),
    "one-sided": lambda: tpf.Process(tpf.interpolants.OneSidedLinear(), shape=(2,)),
    "one-sided, its base": lambda: tpf.Process(
        tpf.interpolants.OneSidedLinear(), base=tpf.Gaussian((2,))
    ),
}


def ways(field: tpf.Field) -> dict:
    """Each way of starting, for 4,000 rows: arguments of ``sample``."""
    process, law = field.process, field.start
    found = {
        "default": {"n": 1500},
        "the process's start": {"n": 1500, "start": process.start},
        "the field's start": {"n": 1500, "start": law},
        "an equal law in the data's units": {
            "n": 1500,
            "start": tpf.Gaussian(
                (2,), MEAN + SCALE * process.start.mean, SCALE * process.start.scale
            ),
        },
        "a tensor": {"start": law.sample(1500, generator=seeded(3))},
        "rows": {"n": 1500, "start": Empirical(law.sample(1500, generator=seeded(3)))},
    }
    if process.base is not None:
        found["the base"] = {"n": 1500, "start": process.base}
    return found


@pytest.mark.parametrize("name", PROCESSES)
def test_all_ways_of_starting_give_one_law(name: str) -> None:
    field = field_of(PROCESSES[name]())
    for way, start in ways(field).items():
        x = tpf.sample(field, **start, steps=12, generator=seeded()).x
        white = (TRANSFORM(x) - INSIDE.mean.to(x)) / 0.6
        assert float(white.mean(0).abs().max()) < 0.12, way
        assert float((white.std(0) - 1).abs().max()) < 0.09, way
        if way in ("the process's start", "the field's start", "the base"):
            default = tpf.sample(field, 1500, steps=12, generator=seeded()).x
            torch.testing.assert_close(x, default, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_latent_goes_back_to_its_row(name: str) -> None:
    field = field_of(PROCESSES[name]())
    x = TRANSFORM.invert(INSIDE.sample(9, generator=seeded(), dtype=torch.float64))
    found = tpf.log_likelihood(field, x, scheme="rk4", steps=8)
    back = tpf.sample(field, start=found.latent, scheme="rk4", steps=8).x
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-3)
    expected = INSIDE.log_prob(TRANSFORM(x)) - SCALE.double().log().sum()
    torch.testing.assert_close(found.log_prob, expected, rtol=0, atol=1e-3)
    for base in (field.start, field.process.start, field.process.base):
        again = tpf.log_likelihood(field, x, base=base, scheme="rk4", steps=8)
        torch.testing.assert_close(again.log_prob, found.log_prob)
    drawn = tpf.likelihood.sample_with_log_likelihood(
        field, 9, base=field.start, scheme="rk4", steps=8, dtype=torch.float64, generator=seeded()
    )
    exact = INSIDE.log_prob(TRANSFORM(drawn.x)) - SCALE.double().log().sum()
    torch.testing.assert_close(drawn.log_prob, exact, rtol=0, atol=1e-3)


def test_saved_states_are_those_of_the_data() -> None:
    field = field_of(PROCESSES["two-sided"]())
    start = field.start.sample(10, generator=seeded())
    solution = tpf.sample(field, start=start, steps=10, save_at=[0.0, 0.5, 1.0])
    torch.testing.assert_close(solution.trajectory[0], start)
    torch.testing.assert_close(solution.trajectory[-1], solution.x)


def test_a_base_of_rows_says_its_units() -> None:
    x0 = TRANSFORM.invert(torch.randn(400, 2, generator=seeded()))

    def net(t, x):
        return x

    with pytest.raises(ValueError, match=r"Transformed\(Empirical\(x0\), transform\)"):
        tpf.Velocity(net, tpf.Process(tpf.Linear(), Empirical(x0)), transform=TRANSFORM)
    process = tpf.Process(tpf.Linear(tpf.Brownian()), Transformed(Empirical(x0), TRANSFORM))
    field = tpf.FieldPair(velocity=net, noise=net, process=process, transform=TRANSFORM)
    drawn = process.sample(torch.randn(2000, 2), generator=seeded()).x0
    assert float(drawn.mean(0).abs().max()) < 0.15
    assert field.start.data is not None  # the Empirical law, in the data's units
    for start in (process.base, process.base.law, field.start, None):
        x = tpf.sample(field, 5, start=start, t=(0.0, 0.01), steps=1, generator=seeded()).x
        assert float((TRANSFORM(x)).abs().max()) < 4
    with pytest.raises(ValueError, match="give both the same one"):
        tpf.Velocity(net, process)
    with pytest.raises(ValueError, match="give both the same one"):
        tpf.Velocity(net, process, transform=tpf.Standardize(0.0, 2.0))


def test_a_transformed_law_is_the_law_of_the_transformed() -> None:
    law = tpf.Gaussian((2,), MEAN, SCALE)
    inside = Transformed(law, TRANSFORM)
    x = torch.randn(20, 2, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(inside.log_prob(x), tpf.Gaussian((2,)).log_prob(x))
    outside = Transformed(tpf.Gaussian((2,)), TRANSFORM, inverse=True)
    torch.testing.assert_close(outside.log_prob(x), law.log_prob(x))
    a, b = (m.sample(9, generator=seeded(), dtype=torch.float64) for m in (outside, law))
    torch.testing.assert_close(a, b)
    assert inside.sample(3, dtype=torch.float64).dtype == torch.float64


def test_a_field_with_such_a_base_is_kept_in_a_file(tmp_path) -> None:
    x0 = TRANSFORM.invert(torch.randn(30, 2, generator=seeded()))
    base = Transformed(tpf.Gaussian((2,), x0.mean(0), x0.std(0)), TRANSFORM)
    process = tpf.Process(tpf.Linear(tpf.Brownian()), base)
    field = tpf.Velocity(tpf.networks.MLP(2), process, transform=TRANSFORM)
    field.save(tmp_path / "field")
    again = tpf.load_field(tmp_path / "field")
    a, b = (tpf.sample(f, 4, steps=2, generator=seeded()).x for f in (field.eval(), again))
    assert torch.equal(a, b)


def test_diagnostics_take_data_in_their_own_units() -> None:
    process = PROCESSES["two-sided"]()
    field, exact = field_of(process), tpf.oracle(process, INSIDE)
    x = TRANSFORM.invert(INSIDE.sample(200, generator=seeded()))
    loss, m = tpf.VelocityLoss(), tpf.metrics
    inside, outside = (
        m.loss_by_time(f, loss, data, times=3, generator=seeded()).loss
        for f, data in ((exact, TRANSFORM(x)), (field, x))
    )
    torch.testing.assert_close(inside, outside)
    first, second = (
        m.consistency(f, data, times=2, generator=seeded()).stein
        for f, data in ((exact, TRANSFORM(x)), (field, x))
    )
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
