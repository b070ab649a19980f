"""A solve as a module: its numbers, exported, as an ONNX file, with conditions and units."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import transportflows as tpf
from transportflows.samplers import FixedSolve


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def field(path: tpf.Interpolant, kind: type[tpf.Field] = tpf.Velocity, **net: object) -> tpf.Field:
    network = tpf.networks.MLP(2, 16, 2, generator=seeded(0), **net)  # type: ignore[arg-type]
    base = tpf.Gaussian((2,)) if path.uses_base else None
    return kind(network, tpf.Process(path, base=base, shape=(2,)))


def start(n: int = 7, seed: int = 1) -> Tensor:
    return torch.randn(n, 2, generator=seeded(seed))


CASES = {
    "heun": (tpf.Linear(), tpf.Velocity, {"scheme": "heun"}),
    "rk4 with a latent": (tpf.Linear(tpf.Brownian()), tpf.Velocity, {"scheme": "rk4"}),
    "kink": (tpf.EncoderDecoder(), tpf.NoisePredictor, {"scheme": "midpoint", "steps": 6}),
    "dpm2m": (tpf.VP(), tpf.NoisePredictor, {"scheme": "dpm2m"}),
    "unipc3": (tpf.VE(0.1, 5.0), tpf.DataPredictor, {"scheme": "unipc3", "spacing": "late"}),
    "backward": (tpf.Linear(), tpf.Velocity, {"t": (1.0, 0.2), "scheme": "euler"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_program_for_any_number_of_rows_has_the_numbers_of_sample(case):
    path, kind, told = CASES[case]
    found, told = field(path, kind), {"steps": 5, **told}
    solve = FixedSolve(found, **told).eval()
    rows = ({0: torch.export.Dim("n", min=2)},)
    with torch.no_grad():
        export = torch.export.export(solve, (start(),), dynamic_shapes=rows, strict=False)
        program = export.module()
        for n in (2, 11):
            x = start(n, seed=n)
            wanted = tpf.sample(found, start=x, **told).x
            torch.testing.assert_close(program(x), wanted, rtol=0, atol=1e-6)
            torch.testing.assert_close(solve(x), wanted, rtol=0, atol=1e-6)


def test_onnx():
    """To 1e-5 of the numbers here; the packages are not among those of the test extra."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(
            package, reason=f"{package} is not installed; it makes or runs the file"
        )
    import onnxruntime

    found = field(tpf.Linear())
    solve = FixedSolve(found, scheme="heun", steps=5).eval()
    rows = ({0: torch.export.Dim("n", min=2)},)
    with torch.no_grad():
        program = torch.onnx.export(solve, (start(),), dynamo=True, dynamic_shapes=rows)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    x = start(11)
    (made,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    wanted = tpf.sample(found, start=x, scheme="heun", steps=5).x
    torch.testing.assert_close(torch.from_numpy(made), wanted, rtol=0, atol=1e-5)


def test_conditions_and_units():
    found = field(tpf.Linear(), labels=3)
    found.transform = tpf.Standardize(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5]))
    solve = FixedSolve(found, steps=4).eval()
    label = torch.arange(7) % 3
    wanted = tpf.sample(found, start=start(), cond={"label": label}, steps=4).x
    torch.testing.assert_close(solve(start(), label=label), wanted, rtol=0, atol=1e-6)
    with torch.no_grad():
        program = torch.export.export(solve, (start(),), {"label": label}, strict=False)
        torch.testing.assert_close(
            program.module()(start(), label=label), wanted, rtol=0, atol=1e-6
        )


class Named(torch.nn.Module):
    """Names the conditions of a solve, so that their rows can be dynamic."""

    def __init__(self, solve: FixedSolve) -> None:
        super().__init__()
        self.solve = solve

    def forward(self, start: Tensor, label: Tensor, angle: Tensor) -> Tensor:
        return self.solve(start, label=label, angle=angle)  # type: ignore[no-any-return]


def test_any_number_of_rows_with_conditions():
    found = field(tpf.Linear(), labels=3, vectors={"angle": 1})
    rows = {0: torch.export.Dim("n", min=2)}
    given = (start(), torch.arange(7) % 3, start()[:, :1])
    with torch.no_grad():
        program = torch.export.export(
            Named(FixedSolve(found, steps=4).eval()),
            given,
            dynamic_shapes={"start": rows, "label": rows, "angle": rows},
            strict=False,
        ).module()
    x, label, angle = (part[:5] for part in given)
    wanted = tpf.sample(found, start=x, cond={"label": label, "angle": angle}, steps=4).x
    torch.testing.assert_close(program(x, label, angle), wanted, rtol=0, atol=1e-6)


def test_conditions_are_those_of_the_training():
    found = field(tpf.Linear(), labels=3)
    label = torch.arange(7) % 3
    tpf.Trainer(found).fit(start(), cond={"label": label}, steps=1, progress=False)
    solve = FixedSolve(found, steps=4).eval()
    with pytest.raises(ValueError, match="label"):
        solve(start())
    with pytest.raises(ValueError, match="5 rows"):
        solve(start(), label=label[:5])
    one = tpf.sample(found, start=start(), cond={"label": 1}, steps=4).x
    torch.testing.assert_close(solve(start(), label=1), one, rtol=0, atol=1e-6)
    with torch.no_grad(), pytest.raises(ValueError, match="label"):
        torch.export.export(solve, (start(),), strict=False)


def test_it_is_differentiable_and_its_parameters_are_those_of_the_field():
    found = field(tpf.Linear())
    solve = FixedSolve(found, steps=4).eval()
    assert {id(p) for p in solve.parameters()} == {id(p) for p in found.parameters()}
    assert len(list(solve.parameters())) == len(list(found.parameters()))
    x = start().requires_grad_()
    (made,) = torch.autograd.grad(solve(x).square().sum(), x)
    end = tpf.sample(found, start=x, steps=4, gradients=True).x
    torch.testing.assert_close(made, torch.autograd.grad(end.square().sum(), x)[0])
    other = copy.deepcopy(solve)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.zero_()
    assert not torch.equal(other(start()), solve(start()))


def test_tables_follow_what_was_loaded():
    def made(mean: float, scale: float) -> FixedSolve:
        base = tpf.Gaussian((2,), mean=torch.full((2,), mean), scale=scale)
        net = tpf.networks.MLP(2, 16, 2, generator=seeded(0))
        process = tpf.Process(tpf.Linear(), base=base)
        return FixedSolve(tpf.NoisePredictor(net, process), steps=5).eval()

    one, other = made(0.3, 1.2), made(5.0, 3.0)
    assert not torch.allclose(one(start()), other(start()))
    one.load_state_dict(other.state_dict())
    torch.testing.assert_close(one(start()), other(start()))


def test_a_field_that_is_told_of_its_start():
    class Told(torch.nn.Module):
        def forward(self, t: Tensor, x: Tensor, x0: Tensor) -> Tensor:
            return x0 - x

    coupling = tpf.Paired(condition_on_start=True, is_map=True)
    found = tpf.Velocity(Told(), tpf.Process(tpf.Linear(), coupling=coupling, shape=(2,)))
    wanted = tpf.sample(found, start=start(), steps=4).x
    torch.testing.assert_close(FixedSolve(found, steps=4).eval()(start()), wanted)
    some = tpf.Paired(condition_on_start=True)
    path = tpf.Linear(tpf.Brownian())
    found = tpf.Velocity(Told(), tpf.Process(path, coupling=some, shape=(2,)))
    with pytest.raises(ValueError, match="one x1"):
        FixedSolve(found, steps=4)
    point = tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.distributions.Point((2,)))
    with pytest.raises(ValueError, match="one point"):
        FixedSolve(tpf.Velocity(tpf.networks.MLP(2, 8, 2), point), steps=4)


def test_refusals():
    found = field(tpf.Linear())
    with pytest.raises(ValueError, match="noise of its own"):
        FixedSolve(field(tpf.VP(), tpf.NoisePredictor), scheme="ancestral")
    with pytest.raises(ValueError, match="fixed-step"):
        FixedSolve(found, scheme="dopri5")
    with pytest.raises(ValueError, match=r"solve\.eval\(\)"):
        FixedSolve(found, steps=3)(start())
    solve = FixedSolve(found, steps=3).eval()
    with pytest.raises(ValueError, match=r"float32.*float64"):
        solve(start().double())
    with pytest.raises(TypeError, match="Field"):
        FixedSolve(torch.nn.Linear(2, 2))
