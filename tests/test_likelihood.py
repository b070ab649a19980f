"""Log-densities against oracles, error bars against truth, gradients against each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import transportflows as tpf
from families import mixture, process


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


DATA = mixture([[1.0, 0.0], [-1.0, 0.5]], 0.5)


@pytest.mark.parametrize(
    "interpolant",
    [
        tpf.Linear(),
        tpf.Linear(tpf.Brownian()),
        tpf.Trigonometric(),
        tpf.EncoderDecoder(),
        tpf.OneSidedLinear(),
    ],
    ids=lambda i: type(i).__name__,
)
@pytest.mark.parametrize("scheme", ["dopri5", "rk4"])
def test_exact_trace_gives_the_oracles_density(interpolant, scheme) -> None:
    exact = tpf.oracle(process(interpolant), DATA)
    x = DATA.sample(20, generator=seeded(), dtype=torch.float64)
    x = torch.cat([x, torch.tensor([[4.0, -3.0]])])  # and one in the tails
    found = tpf.log_likelihood(exact, x, scheme=scheme, steps=60, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.log_prob, DATA.log_prob(x), rtol=0, atol=1e-4)
    assert bool((found.standard_error == 0).all())
    if scheme == "dopri5":
        drawn = tpf.likelihood.sample_with_log_likelihood(
            exact, 20, rtol=1e-8, atol=1e-8, dtype=torch.float64, generator=seeded(1)
        )
        torch.testing.assert_close(drawn.log_prob, DATA.log_prob(drawn.x), rtol=0, atol=1e-4)


def test_the_default_tolerances_hold() -> None:
    """The last step ends at the end of the solve; interpolated there, the error is 1e-3."""
    law = tpf.distributions.GaussianMixture(
        torch.randn(3, 3, generator=seeded(), dtype=torch.float64), 0.4
    )
    exact = tpf.oracle(tpf.Process(tpf.Linear(), tpf.Gaussian((3,))), law)
    x = law.sample(200, generator=seeded(1), dtype=torch.float64)
    found = tpf.log_likelihood(exact, x)
    torch.testing.assert_close(found.log_prob, law.log_prob(x), rtol=0, atol=1e-4)
    drawn = tpf.likelihood.sample_with_log_likelihood(
        exact, 200, dtype=torch.float64, generator=seeded(2)
    )
    torch.testing.assert_close(drawn.log_prob, law.log_prob(drawn.x), rtol=0, atol=1e-4)


def test_density_inside_time_and_event_shapes() -> None:
    law = tpf.distributions.GaussianMixture(torch.randn(3, 2, 1, 2, generator=seeded()), 0.7)
    exact = tpf.oracle(tpf.Process(tpf.Linear(), tpf.Gaussian((2, 1, 2), 0.3, 1.5)), law)
    x = exact.sample(0.6, 10, generator=seeded(1), dtype=torch.float64)
    found = tpf.log_likelihood(exact, x, t=0.6, rtol=1e-8, atol=1e-8)
    expected = exact.log_prob(torch.tensor(0.6), x)
    torch.testing.assert_close(found.log_prob, expected, rtol=0, atol=1e-5)
    assert found.latent.shape == x.shape
    chunked = tpf.log_likelihood(exact, x, t=0.6, rtol=1e-8, atol=1e-8, chunk=5)
    torch.testing.assert_close(chunked.log_prob, found.log_prob, rtol=0, atol=1e-10)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
@pytest.mark.parametrize("d", [2, 10, 64])
def test_hutchinson_intervals_cover_the_exact_log_density(d: int, law: str) -> None:
    """90 % intervals of 400 seeds: 340 to 378 hold the truth; one solve holds all seeds."""
    turn = torch.linalg.qr(torch.randn(d, d, generator=seeded(), dtype=torch.float64)).Q
    spread = torch.linspace(0.3, 1.5, d, dtype=torch.float64)
    covariance = turn @ torch.diag(spread) @ turn.mT
    data = tpf.Gaussian((d,), scale_tril=torch.linalg.cholesky(covariance))
    exact = tpf.oracle(tpf.Process(tpf.Linear(), tpf.Gaussian((d,))), data)
    x = data.sample(1, generator=seeded(1), dtype=torch.float64).expand(400, d)
    probes = 32  # in d = 2 a Rademacher probe is a coin: the exact coverage is 89.0 %, here
    found = tpf.log_likelihood(
        exact, x, divergence="hutchinson", probes=probes, probe_law=law, scheme="rk4", steps=6,
        generator=seeded(2), chunk=4_096,
    )  # fmt: skip
    truth = tpf.log_likelihood(exact, x[:1], scheme="rk4", steps=6).log_prob
    error = (found.log_prob - truth).abs()
    from scipy import stats

    quantile = float(stats.t.ppf(0.95, probes - 1))
    inside = int((error <= quantile * found.standard_error + 1e-12).sum())
    assert 340 <= inside <= 378
    mean_error = float((found.log_prob - truth).mean())
    assert abs(mean_error) < 4 * float(found.log_prob.std()) / 20


def test_the_default_probes_give_a_fair_interval() -> None:
    exact = tpf.oracle(process(tpf.Linear()), DATA)
    x = DATA.sample(3, generator=seeded(), dtype=torch.float64)
    options = {"divergence": "hutchinson", "scheme": "rk4", "steps": 4}
    assert tpf.log_likelihood(exact, x, **options).probes == 16
    assert tpf.likelihood.sample_with_log_likelihood(exact, 3, **options).probes == 16
    assert "approximately" in tpf.log_likelihood.__doc__


def test_one_probe_has_no_error_bar_and_the_same_seed_the_same_bits() -> None:
    exact = tpf.oracle(process(tpf.Linear()), DATA)
    x = DATA.sample(5, generator=seeded(), dtype=torch.float64)
    runs = [
        tpf.log_likelihood(exact, x, divergence="hutchinson", probes=1, generator=seeded(s))
        for s in (3, 3, 4)
    ]
    assert torch.equal(runs[0].log_prob, runs[1].log_prob)
    assert not torch.equal(runs[0].log_prob, runs[2].log_prob)
    assert bool(runs[0].standard_error.isnan().all())


def test_units_of_the_transform() -> None:
    """A field in standardised units gives the density in the units of the data."""
    transform = tpf.Standardize(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5]))
    law = process(tpf.Linear())
    inner = tpf.oracle(law, DATA)
    field = tpf.Velocity(inner.velocity, law, transform=transform)
    x = transform.invert(DATA.sample(10, generator=seeded(), dtype=torch.float64))
    expected = DATA.log_prob(transform(x)) - math.log(3.0 * 0.5)
    found = tpf.log_likelihood(field, x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.log_prob, expected, rtol=0, atol=1e-5)
    base = tpf.Gaussian((2,), torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5]))
    again = tpf.log_likelihood(field, x, base=base, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(again.log_prob, expected, rtol=0, atol=1e-5)
    drawn = tpf.likelihood.sample_with_log_likelihood(
        field, 10, rtol=1e-8, atol=1e-8, dtype=torch.float64, generator=seeded(1)
    )
    expected = DATA.log_prob(transform(drawn.x)) - math.log(3.0 * 0.5)
    torch.testing.assert_close(drawn.log_prob, expected, rtol=0, atol=1e-5)


def field_of(activation: str = "silu") -> tpf.Velocity:
    net = tpf.networks.MLP(2, 16, 2, activation=activation, generator=seeded()).double()
    return tpf.Velocity(net, process(tpf.Linear()))


def gradients(field: tpf.Velocity, x: Tensor, **options: object) -> Tensor:
    field.zero_grad()
    x = x.clone().requires_grad_()
    found = tpf.log_likelihood(field, x, gradients=True, rtol=1e-9, atol=1e-10, **options)
    found.log_prob.sum().backward()
    return torch.cat([x.grad.flatten(), *[p.grad.flatten() for p in field.net.parameters()]])


def test_gradients_by_the_adjoint_the_solver_and_fixed_steps_agree() -> None:
    field, x = field_of(), torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    adjoint = gradients(field, x)
    assert float(adjoint.abs().max()) > 0.1
    torch.testing.assert_close(gradients(field, x, adjoint=False), adjoint, rtol=0, atol=1e-5)
    fixed = gradients(field, x, scheme="rk4", steps=40)
    torch.testing.assert_close(fixed, adjoint, rtol=0, atol=1e-5)
    parameter = next(field.net.parameters())
    index, step = (0, 0), 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter[index] += sign * step
            found = tpf.log_likelihood(field, x, rtol=1e-10, atol=1e-10)
            values.append(float(found.log_prob.sum()))
            parameter[index] -= sign * step
    numeric = (values[0] - values[1]) / (2 * step)
    assert float(adjoint[12]) == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("scheme", ["dopri5", "rk4"])
def test_gradients_in_conditions_are_not_lost(scheme: str) -> None:
    law = process(tpf.Linear())
    inner = tpf.networks.MLP(2, 8, 2, generator=seeded()).double()

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, t, x, *, rate):
            return rate[:, None] * x + self.inner(t, x)

    x = torch.randn(4, 2, generator=seeded(), dtype=torch.float64)
    rate = torch.tensor([0.5, -1.0, 0.2, 0.0], dtype=torch.float64, requires_grad=True)
    field = tpf.Velocity(Scaled(), law)

    def value(rate: Tensor, **options: object) -> Tensor:
        options = {"scheme": scheme, "steps": 40, "rtol": 1e-9, "atol": 1e-10, **options}
        return tpf.log_likelihood(field, x, cond={"rate": rate}, **options).log_prob.sum()

    value(rate, gradients=True).backward()
    assert rate.grad is not None
    for row in range(4):
        step = 1e-5 * torch.eye(4, dtype=torch.float64)[row]
        numeric = (value(rate.detach() + step) - value(rate.detach() - step)) / 2e-5
        assert float(rate.grad[row]) == pytest.approx(float(numeric), abs=1e-6)


class Watched(nn.Module):
    """A network that notes its times."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, t, x):
        self.seen.append(float(t.reshape(-1)[0]))
        return self.net(t, x)


def test_the_adjoint_too_ends_its_steps_at_breakpoints_and_ends() -> None:
    net = Watched(field_of().net)
    field = tpf.Velocity(net, process(tpf.EncoderDecoder()))  # a breakpoint at 1/2
    x = torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    found = tpf.log_likelihood(field, x, t=0.7, gradients=True, rtol=1e-4, atol=1e-4)
    solved = list(net.seen)
    net.seen.clear()
    found.log_prob.sum().backward()
    for times in (solved, net.seen):
        assert max(times) <= 0.7 + 1e-12
        assert min(abs(t - 0.5) for t in times) < 1e-12


class NoForward(torch.autograd.Function):
    """Twice the input, with no forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_networks_without_forward_derivatives(divergence: str) -> None:
    field = field_of()
    inner = field.net

    class Wrapped(nn.Module):
        def forward(self, t, x):
            return NoForward.apply(inner(t, x)) / 2

    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    options = {"divergence": divergence, "scheme": "rk4", "steps": 10}
    expected = tpf.log_likelihood(field, x, generator=seeded(1), **options)
    wrapped = tpf.Velocity(Wrapped(), field.process)
    found = tpf.log_likelihood(wrapped, x, generator=seeded(1), **options)
    torch.testing.assert_close(found.log_prob, expected.log_prob, rtol=0, atol=1e-10)


def test_conditions_go_with_their_rows() -> None:
    law = process(tpf.Linear())

    def net(t: Tensor, x: Tensor, *, rate: Tensor) -> Tensor:
        return rate[:, None] * x

    rate = torch.tensor([0.5, -1.0, 0.2, 0.0], dtype=torch.float64)
    x = torch.randn(4, 2, generator=seeded(), dtype=torch.float64)
    found = tpf.log_likelihood(
        tpf.Velocity(net, law), x, cond={"rate": rate}, chunk=2, rtol=1e-9, atol=1e-9
    )
    start = x * torch.exp(-rate)[:, None]
    expected = tpf.Gaussian((2,)).log_prob(start) - 2 * rate
    torch.testing.assert_close(found.log_prob, expected, rtol=0, atol=1e-7)


def test_a_row_alone_has_the_error_control_of_a_batch() -> None:
    """An adaptive solve answers to its worst row, not to a norm over the batch."""
    law = process(tpf.Linear())

    def net(t: Tensor, x: Tensor) -> Tensor:
        return torch.sin(20 * t)[:, None] * x * (1 + (x.square().sum(1, keepdim=True) > 4))

    x = 0.1 * torch.randn(200, 2, generator=seeded(), dtype=torch.float64)
    x[0] = 3.0
    field = tpf.Velocity(net, law)
    alone = tpf.log_likelihood(field, x[:1], rtol=1e-5, atol=1e-5)
    among = tpf.log_likelihood(field, x, rtol=1e-5, atol=1e-5)
    assert among.nfe >= alone.nfe


def test_maximum_likelihood_trains_a_flow() -> None:
    data = tpf.Gaussian((2,), torch.tensor([0.5, -0.5]), 0.6)
    x = data.sample(4_096, generator=seeded())
    net = tpf.networks.MLP(2, 32, 2, generator=seeded(1))
    field = tpf.Velocity(net, process(tpf.Linear()))
    before = float(tpf.log_likelihood(field, x[:500], scheme="rk4", steps=8).log_prob.mean())
    trainer = tpf.Trainer(field, tpf.likelihood.LikelihoodLoss(scheme="rk4", steps=6))
    trainer.fit(x, steps=150, batch_size=256, generator=seeded(2), progress=False)
    after = tpf.log_likelihood(field, x[:500], scheme="rk4", steps=16).log_prob
    best = float(data.log_prob(x[:500]).mean())
    assert float(after.mean()) > best - 0.05
    assert before < best - 0.3
    batch = tpf.likelihood.LikelihoodLoss()(field, x[:8], generator=seeded(3))  # the adjoint
    batch.mean().backward()
    assert batch.shape == (8,)


class Spoiled(nn.Module):
    """A linear network whose output is NaN past a time, in the first row."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t, x):
        first = torch.arange(len(x))[:, None] % 3 == 0
        return torch.where(first & (t[:, None] < 0.5), math.nan, self.weight * x)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("scheme", ["rk4", "dopri5"])
def test_a_solve_that_stops_being_finite_says_so(scheme: str, gradients: bool) -> None:
    field = tpf.Velocity(Spoiled(), process(tpf.Linear()))
    x = torch.randn(3, 2, generator=seeded(), dtype=torch.float64)
    match = "not finite|not. Take more steps"
    with pytest.raises(tpf.solve.NonFiniteStateError, match=match) as caught:
        tpf.log_likelihood(field, x, scheme=scheme, steps=10, gradients=gradients)
    solution = caught.value.solution
    assert solution.x.shape == x.shape
    assert solution.scheme == scheme
    assert solution.first_bad_step == (5 if scheme == "rk4" else 0)
    if scheme == "rk4":
        assert solution.x.isfinite().all(1).tolist() == [False, True, True]
    with pytest.raises(tpf.solve.NonFiniteStateError):
        tpf.likelihood.sample_with_log_likelihood(field, 3, scheme=scheme, dtype=torch.float64)
    if scheme == "rk4":  # a trainer looks at its losses itself
        losses = tpf.likelihood.LikelihoodLoss(scheme="rk4", steps=4)(field, x)
        assert losses.isnan().tolist() == [True, False, False]


def test_an_assertion_of_the_network_is_its_own() -> None:
    def net(t: Tensor, x: Tensor) -> Tensor:
        raise AssertionError("no such layer")

    field = tpf.Velocity(net, process(tpf.Linear()))
    for solve in (
        lambda: tpf.log_likelihood(field, torch.zeros(2, 2)),
        lambda: tpf.sample(field, 2, scheme="dopri5"),
    ):
        with pytest.raises(AssertionError, match="no such layer"):
            solve()


def test_bits_per_dimension_of_a_uniform_byte() -> None:
    log_prob = torch.tensor([0.0, math.log(2.0) * 12])
    bits = tpf.likelihood.bits_per_dimension(log_prob, (3, 2, 2), level_width=1 / 256)
    assert bits.tolist() == pytest.approx([8.0, 7.0])
    assert float(tpf.likelihood.bits_per_dimension(log_prob, 12, level_width=2 / 256)[0]) == 7.0


def test_refuses() -> None:
    field, x = field_of(), torch.zeros(3, 2, dtype=torch.float64)
    for options, match in (
        ({"divergence": "trace"}, "known: 'exact', 'hutchinson'"),
        ({"scheme": "leapfrog"}, "unknown scheme"),
        ({"probes": 0}, "probes must be an integer of at least 1, got 0"),
        ({"probes": 2.5}, "probes must be an integer, got 2.5"),
        ({"probes": True}, "probes must be an integer, got True"),
        ({"rtol": 0.0}, "rtol must be finite and above 0, got 0.0"),
        ({"atol": -1e-6}, "atol must be finite and above 0, got -1e-06"),
        ({"atol": math.nan}, "atol must be a number, got nan"),
        ({"rtol": math.inf}, "rtol must be finite and above 0, got inf"),
        ({"probe_law": "cauchy"}, "unknown probe_law"),
        ({"t": 0.0}, "t must lie in"),
        ({"base": tpf.distributions.Empirical(torch.zeros(3, 2))}, "no log-density"),
    ):
        with pytest.raises((ValueError, TypeError), match=match):
            tpf.log_likelihood(field, x, **options)
    with pytest.raises(ValueError, match="rtol must be finite and above 0"):
        tpf.likelihood.sample_with_log_likelihood(field, 3, rtol=0.0)
    with pytest.raises(ValueError, match="atol must be finite and above 0"):
        tpf.likelihood.LikelihoodLoss(atol=0.0)
    bad = x.clone()
    bad[1, 0] = math.nan
    with pytest.raises(ValueError, match=r"x holds NaN .*rows 1"):
        tpf.log_likelihood(field, bad)
    with pytest.raises(TypeError, match="must be a Field, got a Tensor"):
        tpf.log_likelihood(x, field)
    law = process(tpf.Linear(tpf.Brownian()), base=tpf.distributions.Uniform((2,)))
    with pytest.raises(tpf.ConversionError):
        tpf.log_likelihood(tpf.MeanVelocity(lambda t, x: x, law), x)
