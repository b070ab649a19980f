"""Adaptive solves and log-densities: ends of time without a bias, bounds with a reason."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import transportflows as tpf
from families import mixture, process
from transportflows.samplers import budget
from transportflows.samplers.clock import Clock
from transportflows.samplers.probability_flow import ProbabilityFlow
from transportflows.solve import TooManyEvaluationsError

F64 = torch.float64
LAW = mixture([[-1.5], [1.0]], 0.4)
X = torch.tensor([[-2.6], [-1.5], [0.0], [1.0]], dtype=F64)


def first_law(law: tpf.Process):
    """The law at t = 0 of a process that does not quite forget its data."""
    zero = torch.zeros((), dtype=F64)
    beta, square = float(law.part.path.beta(zero)), float(law.part.scale_sq(zero))
    covariances = LAW.covariances * beta**2 + square
    return tpf.distributions.GaussianMixture(LAW.means * beta, covariances=covariances)


def field(kind: str, law: tpf.Process, error=None) -> tpf.fields.Field:
    """An exact field, or one with a smooth error in what it predicts."""
    exact = tpf.oracle(law, LAW)

    def wrong(name: str):
        def net(t, x):
            value = getattr(exact, name)(t, x)
            return value if error is None else value + error(t, x)

        return net

    if kind == "noise":
        return tpf.NoisePredictor(wrong("noise"), law)
    if kind == "data":
        return tpf.DataPredictor(wrong("data"), law)
    return tpf.FieldPair(mean_velocity=exact.mean_velocity, noise=wrong("noise"), process=law)


CASES = {
    "a root": ("noise", tpf.sdes.OrnsteinUhlenbeck()),
    "a root at both ends": ("pair", tpf.Linear(tpf.Brownian(2.0))),
    "a pole at the base": ("noise", tpf.OneSidedLinear()),
    "a pole at the data": ("data", tpf.OneSidedLinear()),
    "a pole and a root": ("noise", tpf.SBDM()),
    "a pole where a root vanishes": ("data", tpf.SBDM()),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_ends_of_time_leave_no_bias_in_a_log_density(case: str) -> None:
    kind, path = CASES[case]
    law = process(path, (1,))
    exact, base = field(kind, law), first_law(law)
    found = tpf.log_likelihood(exact, X, base=base, rtol=1e-8, atol=1e-8)
    assert float((found.log_prob - LAW.log_prob(X)).abs().max()) < 1e-6
    assert found.nfe < 500


@pytest.mark.parametrize("case", ["a root at both ends", "a pole at the data"])
def test_fixed_steps_keep_their_order_at_the_ends(case: str) -> None:
    kind, path = CASES[case]
    law = process(path, (1,))
    exact, base = field(kind, law), first_law(law)
    errors = []
    for steps in (20, 40):
        found = tpf.log_likelihood(exact, X, base=base, scheme="rk4", steps=steps)
        errors.append(float((found.log_prob - LAW.log_prob(X)).abs().max()))
    assert errors[1] < 3e-3
    assert math.log2(errors[0] / errors[1]) > 3


@pytest.mark.parametrize("backward", [False, True])
def test_a_root_is_integrated_for_a_field_with_errors(backward: bool) -> None:
    """γ̇ δη is integrable; fixed steps integrate its weights in another way, to the same end."""
    law = process(tpf.Linear(tpf.Brownian()), (1,))

    def error(t, x):
        gap = (t * (1 - t)).clamp(min=0).reshape(-1, *(1,) * (x.ndim - 1))
        return 0.2 * torch.cos(3 * x) / (1 + gap / 0.01)

    wrong, t = field("pair", law, error), (1.0, 0.0) if backward else (0.0, 1.0)
    found = tpf.sample(wrong, start=X, t=t, scheme="dopri5", rtol=1e-8, atol=1e-8)
    steps = tpf.sample(wrong, start=X, t=t, scheme="rk4", steps=100)
    exact = tpf.sample(field("pair", law), start=X, t=t, scheme="rk4", steps=20)
    torch.testing.assert_close(found.x, steps.x, rtol=0, atol=1e-4)
    assert float((found.x - exact.x).abs().max()) > 1e-2
    assert found.margin == (0.0, 0.0)


def test_margins_at_poles_are_told_and_go_with_the_tolerance() -> None:
    law = process(tpf.OneSidedLinear(), (1,))
    noise, data = field("noise", law), field("data", law)

    def margin(f, **how):
        return tpf.sample(f, start=X, scheme="dopri5", rtol=1e-3, atol=1e-3, **how).margin

    assert margin(noise) == (1e-3, 0.0)
    assert margin(data) == (0.0, 1e-3)
    assert margin(data, t=(0.0, 0.9)) == (0.0, 0.0)
    flow = ProbabilityFlow(data, margin=None, tolerance=1e-10, dtype=F64)
    assert flow.margin == pytest.approx((0.0, 1e-5))
    assert margin(data, margin=0.01) == (0.01, 0.01)


def test_clocks_and_their_inverses() -> None:
    for first in (False, True):
        for last in (False, True):
            clock = Clock(first, last)
            u = torch.linspace(0, 1, 101, dtype=F64, requires_grad=True)
            t = clock.time(u)
            (slope,) = torch.autograd.grad(t.sum(), u)
            torch.testing.assert_close(clock.rate(u), slope)
            back = torch.tensor([clock.of(s) for s in t.tolist()], dtype=F64)
            torch.testing.assert_close(back, u.detach(), rtol=0, atol=1e-8)


def test_a_trajectory_passes_the_ends_and_the_times_asked_for() -> None:
    law = process(tpf.OneSidedLinear(), (1,))
    times = [1.0, 0.9995, 0.5, 0.0004, 0.0]
    how = {"start": X, "scheme": "dopri5", "save_at": times, "rtol": 1e-7, "atol": 1e-7}
    smooth = tpf.sample(tpf.oracle(law, LAW), **how)
    for kind in ("noise", "data"):
        found = tpf.sample(field(kind, law), **how)
        assert found.saved_at.tolist() == times
        torch.testing.assert_close(found.trajectory, smooth.trajectory, rtol=0, atol=5e-6)


# ------------------------------------------------------------------------------------ bounds


class Net(nn.Module):
    def __init__(self, activation: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = nn.Linear(3, 32, dtype=dtype), nn.Linear(32, 2, dtype=dtype)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
        self.activation = activation

    def forward(self, t, x):
        return self.last(self.activation(self.first(torch.cat([t[:, None], x], 1))))


class Dropout(nn.Module):
    """Dropout that does not know of evaluation."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.2, training=True)


def velocity(*args):
    return tpf.Velocity(Net(*args), process(tpf.Linear(), (2,)))


@pytest.mark.parametrize(
    ("args", "cause"),
    [
        ((nn.ReLU(),), r"kinks \(ReLU\).*SiLU"),
        ((nn.Sequential(nn.SiLU(), Dropout()),), "other numbers, by up to .*dropout"),
        ((nn.SiLU(), torch.bfloat16), "below the rounding of torch.bfloat16.*field.float()"),
        ((nn.SiLU(),), "needs so small steps"),
    ],
)
def test_a_bound_says_why_it_was_reached(args, cause: str) -> None:
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    for solve in (
        lambda f: tpf.sample(f, start=x, scheme="dopri5", max_nfe=30, rtol=1e-6, atol=1e-6),
        lambda f: tpf.log_likelihood(f, x, max_nfe=30),
    ):
        with pytest.raises(TooManyEvaluationsError, match=f"max_nfe = 30.*{cause}") as caught:
            solve(velocity(*args))
        assert caught.value.solution.x.shape == x.shape
        assert caught.value.solution.nfe == 30


def test_adaptive_solves_have_a_bound_by_default(monkeypatch) -> None:
    assert budget.MOST == 5_000
    monkeypatch.setattr(budget, "MOST", 200)
    calls = 0

    def noisy(t, x):
        nonlocal calls
        calls += 1
        generator = torch.Generator().manual_seed(calls)
        return torch.randn(x.shape, generator=generator)

    law = process(tpf.Linear(), (2,))
    with pytest.raises(TooManyEvaluationsError, match=r"max_nfe = 200.*other numbers"):
        tpf.sample(tpf.Velocity(noisy, law), 3, scheme="dopri5")
    assert calls <= 202


def test_the_adjoint_solve_has_as_many_again() -> None:
    f, x = velocity(nn.SiLU()), torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    found = tpf.log_likelihood(f, x, gradients=True, rtol=1e-4, atol=1e-4)
    most = found.nfe
    again = tpf.log_likelihood(f, x, gradients=True, rtol=1e-4, atol=1e-4, max_nfe=most)
    with pytest.raises(TooManyEvaluationsError):
        again.log_prob.sum().backward()


def test_fixed_steps_of_a_log_density_are_bounded_before_they_begin() -> None:
    f = velocity(nn.SiLU())
    with pytest.raises(ValueError, match="max_nfe is 20"):
        tpf.log_likelihood(f, torch.zeros(2, 2), scheme="rk4", steps=10, max_nfe=20)


def test_a_network_with_kinks_has_a_log_density_at_the_default_tolerance() -> None:
    f = velocity(nn.ReLU())
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.mul_(0.4)
    found = tpf.log_likelihood(f, x)
    fine = tpf.log_likelihood(f, x.double(), scheme="rk4", steps=80).log_prob
    assert found.nfe < 1000
    assert float((found.log_prob - fine).abs().max()) < 0.03


def test_all_solves_of_many_steps_take_a_bound() -> None:
    law = process(tpf.OneSidedLinear(), (2,))
    exact, x = tpf.oracle(law, tpf.Gaussian((2,))), torch.zeros(3, 2)
    score = tpf.langevin.score_of(lambda x: -0.5 * x.square().sum(1))
    solves = [
        lambda: tpf.integrate(lambda t, x: x, x, [0.0, 0.5, 1.0], scheme="euler", max_nfe=1),
        lambda: tpf.langevin.langevin(score, x, step_size=0.1, steps=2, max_nfe=1),
        lambda: tpf.langevin.ascend(score, x, step_size=0.1, steps=2, max_nfe=1),
        lambda: tpf.langevin.annealed_langevin(exact, 3, levels=2, steps_per_level=2, max_nfe=1),
        lambda: tpf.particle_flow(x + 1, x, sigma=1.0, steps=2, max_nfe=1),
    ]
    for solve in solves:
        with pytest.raises(ValueError, match="max_nfe is 1"):
            solve()
