"""``sample(..., gradients=True)``: the numbers, the gradients, and what is kept for them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import transportflows as tpf
from transportflows.samplers import FieldDynamics
from transportflows.samplers.linear_stepper import LinearStepper
from transportflows.samplers.one_step import OneStep
from transportflows.solve.epsilon import as_epsilon

PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(dropout: float = 0.0) -> torch.nn.Module:
    """A small smooth network in float64."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tpf.networks.MLP(2, 16, 2, generator=seeded(0))
            self.drop = torch.nn.Dropout(dropout)

        def forward(self, t: Tensor, x: Tensor, push: Tensor | None = None) -> Tensor:
            out = self.drop(self.inner(t, x))
            return out if push is None else out + push

    return Net().double()


def start(n: int = 4) -> Tensor:
    return torch.randn(n, 2, generator=seeded(1), dtype=torch.float64)


CASES: dict[str, dict[str, Any]] = {
    "euler": {"scheme": "euler"},
    "heun": {"scheme": "heun"},
    "rk4": {"scheme": "rk4"},
    "noisy heun": {"scheme": "heun", "epsilon": 0.3},
    "noisy rk4": {"scheme": "rk4", "epsilon": 0.3},
    "two noises": {"scheme": "heun", "epsilon": [0.2, 0.4]},
    "dpm2m": {"scheme": "dpm2m"},
    "unipc3": {"scheme": "unipc3"},
    "backward": {"scheme": "heun", "t": (1.0, 0.0)},
    "chunks": {"scheme": "heun", "chunk": 3},
    "trajectory": {"scheme": "heun", "save_at": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_without_and_gradients_those_of_differences(case):
    told = {"steps": 5, **CASES[case]}
    field = tpf.Velocity(network(), PROCESS)
    way = torch.randn(4, 2, generator=seeded(2), dtype=torch.float64)

    def loss(x: Tensor, **more: Any) -> Tensor:
        solution = tpf.sample(field, start=x, generator=seeded(3), **told, **more)
        value = (solution.x * way).sum()
        return value if solution.trajectory is None else value + solution.trajectory.square().sum()

    x = start().requires_grad_()
    value = loss(x, gradients=True)
    plain = loss(x)
    assert not plain.requires_grad
    assert value.item() == pytest.approx(plain.item(), rel=1e-13)
    weight = field.net.inner.body[1].weight
    of_x, of_weight = torch.autograd.grad(value, (x, weight))
    h, e = 1e-5, torch.zeros_like(x.detach())
    e[1, 0] = h
    change = (loss(x.detach() + e) - loss(x.detach() - e)) / (2 * h)
    assert of_x[1, 0].item() == pytest.approx(change.item(), rel=1e-6, abs=1e-9)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 1] += sign * h
            ends.append(loss(x.detach()).item())
            weight[0, 1] -= sign * h
    assert of_weight[0, 1].item() == pytest.approx(
        (ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-9
    )


def test_gradients_are_those_of_a_loop_that_keeps_all():
    field, x = tpf.Velocity(network(), PROCESS), start().requires_grad_()
    grid = tpf.solve.time_grid(7)
    steppers = {
        "heun": OneStep(FieldDynamics(field, [0.0]), "heun"),
        "dpm2m": LinearStepper(field, [as_epsilon(0.0)], tpf.samplers.FEW_STEP["dpm2m"]),
    }
    for scheme, stepper in steppers.items():
        kept, _ = tpf.solve.march(stepper, x, grid)
        made = tpf.sample(field, start=x, scheme=scheme, steps=7, gradients=True)
        parameters = [x, *field.parameters()]
        for a, b in zip(
            torch.autograd.grad(kept.x.square().sum(), parameters, allow_unused=True),
            torch.autograd.grad(made.x.square().sum(), parameters, allow_unused=True),
            strict=True,
        ):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_what_is_kept_grows_by_states_alone():
    net = tpf.networks.MLP(2, 256, 4, generator=seeded(0))
    field, x = tpf.Velocity(net, PROCESS), torch.randn(100, 2, generator=seeded(1))

    def kept(steps: int) -> int:
        """Bytes that autograd keeps, each storage once."""
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            given = x.clone().requires_grad_()
            value = tpf.sample(field, start=given, scheme="heun", steps=steps, gradients=True).x
        assert value.requires_grad
        return sum(sizes.values())

    states = x.numel() * x.element_size()
    assert kept(40) - kept(10) <= 30 * 8 * states  # the activations of one call are 128 states


def test_networks_are_in_evaluation_mode_in_the_backward_pass_too():
    field, x = tpf.Velocity(network(dropout=0.5), PROCESS), start().requires_grad_()
    field.train()

    def gradient() -> Tensor:
        end = tpf.sample(field, start=x, steps=4, gradients=True).x
        assert all(module.training for module in field.net.modules())
        (found,) = torch.autograd.grad(end.sum(), x)
        return found

    first = gradient()
    assert all(module.training for module in field.net.modules())
    assert torch.equal(first, gradient())
    field.eval()
    assert torch.equal(first, gradient_of(field, x))


def gradient_of(field: tpf.Field, x: Tensor) -> Tensor:
    end = tpf.sample(field, start=x, steps=4, gradients=True).x
    return torch.autograd.grad(end.sum(), x)[0]


def test_conditions_and_units_are_differentiated():
    transform = tpf.Standardize(mean=torch.tensor([1.0, 2.0]), scale=torch.tensor([3.0, 0.5]))
    field = tpf.Velocity(network(), PROCESS, transform=transform.double())
    push = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    told = {"start": start(), "steps": 5}
    end = tpf.sample(field, cond={"push": push}, gradients=True, **told).x
    (found,) = torch.autograd.grad(end[:, 0].sum(), push)
    h = 1e-5
    more = tpf.sample(field, cond={"push": push.detach() + torch.tensor([h, 0])}, **told).x
    less = tpf.sample(field, cond={"push": push.detach() - torch.tensor([h, 0])}, **told).x
    change = (more - less)[:, 0] / (2 * h)
    torch.testing.assert_close(found[:, 0], change, rtol=1e-6, atol=1e-8)


def test_a_network_learns_through_its_samples():
    """A shift learned from the mean of the end states alone."""

    class Shift(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = torch.nn.Parameter(torch.zeros(2))

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return self.by.expand_as(x)

    field = tpf.Velocity(Shift(), PROCESS)
    optimizer = torch.optim.SGD(field.parameters(), lr=0.2)
    x, wanted = torch.randn(64, 2, generator=seeded(0)), torch.tensor([2.0, -1.0])
    for _ in range(40):
        optimizer.zero_grad()
        end = tpf.sample(field, start=x, steps=3, gradients=True).x
        (end - x - wanted).square().sum(1).mean().backward()
        optimizer.step()
    assert torch.allclose(field.net.by, wanted, atol=1e-3)


def test_under_no_grad_gradients_are_made_all_the_same():
    field, x = tpf.Velocity(network(), PROCESS), start().requires_grad_()
    with torch.no_grad():
        end = tpf.sample(field, start=x, steps=3, gradients=True).x
    assert end.requires_grad
    assert torch.equal(torch.autograd.grad(end.sum(), x)[0], gradient_with(field, x, 3))


def gradient_with(field: tpf.Field, x: Tensor, steps: int) -> Tensor:
    end = tpf.sample(field, start=x, steps=steps, gradients=True).x
    return torch.autograd.grad(end.sum(), x)[0]


def test_a_network_that_changed_before_the_backward_pass_is_refused():
    field, x = tpf.Velocity(network(), PROCESS), start().requires_grad_()
    end = tpf.sample(field, start=x, steps=3, gradients=True).x
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(1.1)
    with pytest.raises(RuntimeError, match=r"before optimizer\.step"):
        end.sum().backward()


def test_a_network_that_draws_draws_the_same_again():
    class Draws(torch.nn.Module):
        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return torch.randn_like(x) * x

    field, x = tpf.Velocity(Draws(), PROCESS), start().requires_grad_()
    end = tpf.sample(field, start=x, steps=3, scheme="euler", gradients=True).x
    (found,) = torch.autograd.grad(end.sum(), x)
    torch.testing.assert_close(found, end.detach() / x.detach())  # each number goes by its own


def test_the_backward_pass_is_a_reader_of_the_networks():
    """One that samples in another thread is in evaluation mode until both have left."""
    field, x = tpf.Velocity(network(dropout=0.5), PROCESS), start().requires_grad_()
    field.train()
    wanted = tpf.sample(field, start=x.detach(), steps=50).x
    ends, errors = [], []

    def others() -> None:
        try:
            for _ in range(20):
                ends.append(tpf.sample(field, start=x.detach(), steps=50).x)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=others)
    thread.start()
    while thread.is_alive():
        tpf.sample(field, start=x, steps=5, gradients=True).x.sum().backward()
    thread.join()
    assert not errors
    assert all(torch.equal(end, wanted) for end in ends)
    assert all(module.training for module in field.net.modules())


def test_fields_that_take_derivatives_themselves_are_differentiated():
    field = tpf.Velocity(network(), PROCESS)
    mask = tpf.inverse.Mask(torch.tensor([1, 0]))
    seen = tpf.inverse.LinearObservation(mask, start(1)[0] * torch.tensor([1, 0]), 0.5)
    guided = (
        tpf.guidance.Tilt(field, lambda t, x: t * x.pow(3).sum(1) / 9),
        tpf.inverse.MomentMatched(field, seen, iterations=1),
    )
    grid = [0.25, 0.5, 0.75]
    for one in guided:
        x = start().requires_grad_()
        found = tpf.sample(one, start=x, t=grid, scheme="euler", gradients=True).x
        y = x
        for t in grid[:-1]:
            y = y + 0.25 * one.velocity(torch.tensor(t, dtype=torch.float64), y)
        assert torch.allclose(found, y, atol=1e-12)
        own, want = (torch.autograd.grad(end.square().sum(), x)[0] for end in (found, y))
        assert torch.allclose(own, want, atol=1e-12)


def test_refusals():
    field = tpf.Velocity(network(), PROCESS)
    with pytest.raises(ValueError, match="fixed-step"):
        tpf.sample(field, start=start(), scheme="dopri5", gradients=True)
    corrector = tpf.langevin.LangevinCorrector(snr=0.1)
    with pytest.raises(ValueError, match="no corrector"):
        tpf.sample(field, start=start(), corrector=corrector, gradients=True)
    with torch.inference_mode(), pytest.raises(ValueError, match="no_grad"):
        tpf.sample(field, start=start(), gradients=True)
    with pytest.raises(TypeError, match="True or False"):
        tpf.sample(field, start=start(), gradients=1)
    with pytest.raises(ValueError, match="leave distributed out"):
        tpf.sample(field, start=start(), distributed=True, gradients=True)
