"""Tables of a solve are kept for the same numbers, and never for others."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import transportflows as tpf
from transportflows.samplers import drift_table, kept, linear_stepper

SCHEMES = {"heun": drift_table.DriftTable, "dpm2m": linear_stepper.LinearStepper}


def slope(t: Tensor, x: Tensor) -> Tensor:
    """A prediction that depends on time and state."""
    return 0.3 * torch.sin(x + t.view(-1, *[1] * (x.ndim - 1)))


def process(path: tpf.Interpolant | None = None) -> tpf.Process:
    path = tpf.Linear(tpf.Brownian(0.5)) if path is None else path
    if path.uses_base:
        return tpf.Process(path, base=tpf.Gaussian((2,), scale=1.5))
    return tpf.Process(path, shape=(2,))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many tables were made since it was last asked."""
    count = [0]

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            count[0] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(drift_table.DriftTable, "filled", counted(drift_table.DriftTable.filled))
    monkeypatch.setattr(
        linear_stepper.LinearStepper,
        "_tabulated",
        counted(linear_stepper.LinearStepper._tabulated),
    )

    def since() -> int:
        found, count[0] = count[0], 0
        return found

    return since


def solve(field: tpf.Field, **told: object) -> Tensor:
    told = {"steps": 6, "scheme": "heun", **told}
    start = torch.linspace(-1, 1, 10).view(5, 2)
    generator = torch.Generator().manual_seed(0)
    return tpf.sample(field, start=start, generator=generator, **told).x  # type: ignore[arg-type]


@pytest.mark.parametrize("told", [{}, {"epsilon": 0.4}, {"epsilon": [0.0, 0.3, 0.6]}])
@pytest.mark.parametrize("scheme", ["euler_maruyama", "heun", "rk4", "dpm2m", "unipc3"])
def test_a_second_solve_makes_no_table_and_is_the_same(told, scheme, made):
    field = tpf.NoisePredictor(slope, process())
    first = solve(field, scheme=scheme, **told)
    assert made() > 0
    assert torch.equal(solve(field, scheme=scheme, **told), first)
    assert made() == 0
    again = tpf.NoisePredictor(slope, field.process)  # another field of the same process
    assert torch.equal(solve(again, scheme=scheme, **told), first)
    assert made() == 0


@pytest.mark.parametrize("scheme", ["heun", "dpm2m"])
@pytest.mark.parametrize(
    "other",
    [
        {"steps": 7},
        {"t": (0.0, 0.9)},
        {"epsilon": 0.2},
        {"epsilon": tpf.solve.NoiseScaleEpsilon(0.4)},
        {"epsilon": tpf.solve.NoiseVarianceEpsilon(0.4)},
        {"margin": 1e-3},
        {"dtype": torch.float64},
        {"spacing": "late"},
    ],
)
def test_other_numbers_have_a_table_of_their_own(scheme, other, made):
    field = tpf.NoisePredictor(slope, process())
    solve(field, scheme=scheme, epsilon=0.4)
    assert made() == 1
    told = {"scheme": scheme, "epsilon": 0.4, **other}
    found = solve(field, **told)
    assert made() == 1
    kept._TABLES.clear()
    assert torch.equal(solve(field, **told), found)


def test_fields_of_one_process_with_other_outputs_have_their_own(made):
    law = process()
    found = [solve(kind(slope, law)) for kind in (tpf.Velocity, tpf.NoisePredictor, tpf.Score)]
    assert made() == 3
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def change_buffer(law: tpf.Process) -> None:
    law.interpolant.latent.a.fill_(0.9)


def change_base(law: tpf.Process) -> None:
    law.base.scale.mul_(2)


def change_gamma(law: tpf.Process) -> None:
    law.interpolant.latent = tpf.interpolants.Quadratic(2.0)


def change_path(law: tpf.Process) -> None:
    law.interpolant = tpf.Trigonometric(tpf.Brownian(0.5))


@pytest.mark.parametrize("change", [change_buffer, change_base, change_gamma, change_path])
def test_a_process_that_was_changed_is_tabulated_anew(change, made):
    law = process()
    field = tpf.Velocity(slope, law)
    told = {"epsilon": 0.4, "scheme": "heun"}
    before = solve(field, **told)
    made()
    change(law)
    after = solve(field, **told)
    assert made() == 1
    kept._TABLES.clear()
    assert torch.equal(solve(field, **told), after)
    assert not torch.equal(before, after)


def test_a_number_of_a_path_that_was_changed_is_seen(made):
    law = process(tpf.VE(0.1, 5.0))
    field = tpf.NoisePredictor(slope, law)
    before = solve(field)
    law.interpolant.sigma_min = 0.5
    assert not torch.equal(solve(field), before)
    assert made() == 2


class Own(tpf.AffineInterpolant):
    """A path that depends on something outside of it."""

    power = 2.0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t ** type(self).power

    def beta(self, t: Tensor) -> Tensor:
        return t ** type(self).power


class OwnEpsilon(tpf.solve.EpsilonSchedule):
    def value(self, t: Tensor, noise_scale: Tensor) -> Tensor:
        return torch.full_like(t, 0.3)


def test_what_may_depend_on_anything_is_not_kept(made, monkeypatch):
    field = tpf.NoisePredictor(slope, process(Own()))
    before = solve(field)
    monkeypatch.setattr(Own, "power", 3.0)
    assert not torch.equal(solve(field), before)
    learned = tpf.Velocity(
        slope, process(tpf.Linear(tpf.Brownian(torch.nn.Parameter(torch.tensor(0.5)))))
    )
    plain = tpf.Velocity(slope, process())
    made()
    for told in (
        (learned, {}),
        (plain, {"epsilon": lambda t: 0.2 + 0 * t}),
        (plain, {"epsilon": OwnEpsilon()}),
    ):
        for _ in range(2):
            solve(told[0], **told[1])
        assert made() == 2


def test_a_network_that_writes_into_its_time_spoils_nothing():
    class Writes(torch.nn.Module):
        takes_one_time = True

        def __init__(self) -> None:
            super().__init__()
            self.bad = False

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            if self.bad:
                t.mul_(1000)
            return x * t

    net = Writes()
    for scheme in SCHEMES:
        field = tpf.DataPredictor(net, process(tpf.VP()))
        first = solve(field, scheme=scheme)
        net.bad = True
        with pytest.raises(ValueError, match="writes into"):
            solve(field, scheme=scheme)
        net.bad = False
        assert torch.equal(solve(field, scheme=scheme), first)


def test_no_more_than_some_are_kept_and_none_outlives_its_process():
    field = tpf.Velocity(slope, process())
    for steps in range(3, 40):
        solve(field, steps=steps)
    assert len(kept._TABLES[field.process]) == kept._MOST
    held = len(kept._TABLES)
    del field
    gc.collect()
    assert len(kept._TABLES) == held - 1


def test_the_bridge_is_told_of_at_each_solve():
    law = tpf.Process(
        tpf.Linear(tpf.Brownian(0.5)),
        base=tpf.Gaussian((2,)),
        coupling=tpf.Paired(path_epsilon=0.25),
    )
    field = tpf.FieldPair(velocity=slope, noise=slope, process=law)
    for _ in range(2):
        with pytest.warns(tpf.bridges.PathLawWarning):
            solve(field, epsilon=0.1)


@pytest.mark.parametrize(
    "path",
    [
        tpf.OneSidedLinear(),
        tpf.OneSidedTrigonometric(),
        tpf.SubVP(),
        tpf.Linear(tpf.interpolants.Quadratic(0.7)),
        tpf.Linear(tpf.interpolants.SineSquared()),
        tpf.Linear(tpf.interpolants.Sigmoid()),
        tpf.Linear(),
    ],
    ids=repr,
)
def test_the_limit_of_the_noise_rate_is_that_of_nearby_times(path):
    """At a double zero of σ̂² by first derivatives; ``σ̂(t ± h) / h`` to second order."""
    part = process(path).noise_part
    if not path.uses_base or path.has_latent:
        part = tpf.gaussian_part.NoisePart(path, "")
    else:
        part = tpf.gaussian_part.NoisePart(path, "", base_scale=torch.tensor(1.5).double())
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found, h = part.scale_dot(ends), 1e-4
    for end, rate in zip(ends.tolist(), found.tolist(), strict=True):
        if float(part.scale(torch.tensor(end).double())) > 0 or not math.isfinite(rate):
            continue
        sign = 1 if end == 0 else -1
        near = part.scale(torch.tensor([end + sign * h, end + 2 * sign * h]).double())
        slope_near = (4 * near[0] - near[1]) / (2 * h)
        torch.testing.assert_close(rate, sign * float(slope_near), rtol=1e-4, atol=2e-3)


def test_other_breakpoints_of_a_field_have_tables_of_their_own():
    law = process(tpf.Linear())
    one = tpf.oracle(law, tpf.Gaussian((2,), -1.0))
    two = tpf.oracle(law, tpf.Gaussian((2,), 1.0))
    observation = tpf.inverse.LinearObservation(
        tpf.inverse.Mask(torch.tensor([True, False])), torch.tensor([0.5, 0.0]), noise=0.3
    )

    def field(interval: tuple[float, float]) -> tpf.Field:
        guided = tpf.guidance.ClassifierFree(one, 3.0, unconditional=two, interval=interval)
        return tpf.inverse.PseudoInverse(guided, observation)

    told = {"scheme": "dpm2m", "steps": 10}
    solve(field((0.2, 0.6)), **told)
    found = solve(field((0.4, 0.8)), **told)
    kept._TABLES.clear()
    assert torch.equal(solve(field((0.4, 0.8)), **told), found)


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6),
    reason="older versions of torch have no numbers of tensors that torch.func has wrapped",
)
def test_a_solve_inside_a_transform_of_torch():
    field = tpf.Velocity(slope, process())
    w = torch.ones(2)

    def value(w: Tensor) -> Tensor:
        return (
            tpf.sample(field, 8, steps=3, generator=torch.Generator().manual_seed(0)).x * w
        ).sum()

    assert torch.func.grad(value)(w).shape == (2,)
