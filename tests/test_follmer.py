"""The Föllmer process, from one point to any law, and forecasts from where a path is now."""

import math

import pytest
import torch
from torch import nn

import transportflows as tpf
from transportflows.bridges import BridgeDrift
from transportflows.distributions import GaussianMixture, Point
from transportflows.solve import UnlimitedEpsilon

F64 = torch.float64
A = 0.8
AT = torch.tensor([0.5, -1.0])


def seeded(k=0):
    return torch.Generator().manual_seed(k)


def process(a=A):
    return tpf.Process(tpf.Linear(tpf.Brownian(a)), base=Point((2,), AT))


def mixture():
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.0]])
    return GaussianMixture(means, torch.tensor([0.3, 0.6]), weights=torch.tensor([0.3, 0.7]))


def drift(field, t, x):
    """``b + (a/2) s``, in two ways that must be one."""
    found = field.velocity(t, x) + 0.5 * A * field.score(t, x)
    ahead = 1 - (t if t.ndim == 0 else t[:, None])
    torch.testing.assert_close((field.data(t, x) - x) / ahead, found, rtol=0, atol=1e-9)
    return found


def test_the_drift_of_a_mixture_is_follmers():
    """``a ∇ log E h(x + √(a(1-t)) Z)``, h the density ratio to N(x0, a), by quadrature."""
    exact, law, at = tpf.oracle(process(), mixture()), mixture(), AT.double()
    axis = torch.linspace(-6, 6, 241, dtype=F64)
    y = torch.cartesian_prod(axis, axis)
    wiener = tpf.Gaussian((2,), at, math.sqrt(A))
    log_h = law.log_prob(y) - wiener.log_prob(y)
    x = torch.tensor([[0.3, -0.5], [1.0, 0.4], [-1.2, 0.9]], dtype=F64)
    for time in (0.1, 0.5, 0.9):
        t, var = torch.tensor(time, dtype=F64), A * (1 - time)
        logs = log_h - (y - x[:, None]).square().sum(-1) / (2 * var)
        asked = A * (logs.softmax(1) @ y - x) / var
        torch.testing.assert_close(drift(exact, t, x), asked, rtol=0, atol=1e-8)
    start = drift(exact, torch.tensor(0.0, dtype=F64), at[None])
    mean = (law.weights[:, None] * law.means).sum(0)
    torch.testing.assert_close(start[0], mean.double() - at, rtol=0, atol=1e-6)


def test_the_drift_to_a_gaussian_is_linear():
    """``x_t`` is Gaussian, and so is x1 given it: by the rules of conditioning."""
    s, m = 0.6, torch.tensor([1.0, 2.0], dtype=F64)
    exact = tpf.oracle(process(), tpf.Gaussian((2,), m, s))
    x, at = torch.randn(5, 2, generator=seeded(), dtype=F64), AT.double()
    for time in (0.2, 0.7):
        var = time**2 * s**2 + A * time * (1 - time)
        d = m + time * s**2 / var * (x - (1 - time) * at - time * m)
        found = drift(exact, torch.tensor(time, dtype=F64), x)
        torch.testing.assert_close(found, (d - x) / (1 - time), rtol=0, atol=1e-9)


def test_its_energy_is_the_divergence_from_the_wiener_process():
    """``E ∫ |f|² dt / 2a = KL(ρ1 | N(x0, a))``: of all drifts that reach ρ1, the least."""
    s, m = 0.6, torch.tensor([1.0, 2.0])
    law = tpf.Gaussian((2,), m, s)
    exact = tpf.oracle(process(), law)
    n = 200_000
    x1 = law.sample(n, generator=seeded(1)).double()
    t = (torch.arange(n, dtype=F64) + torch.rand(n, generator=seeded(2), dtype=F64)) / n
    x = process().sample(x1, t=t * (1 - 1e-9), generator=seeded(3)).x
    energy = drift(exact, t * (1 - 1e-9), x).square().sum(1) / (2 * A)
    apart = float((m - AT).square().sum())
    asked = (2 * s * s + apart) / (2 * A) - 1 - math.log(s * s / A)
    assert float(energy.mean()) == pytest.approx(asked, abs=5 * float(energy.std()) / n**0.5)


@pytest.mark.parametrize("scheme", ["euler_maruyama", "heun", "rk4"])
@pytest.mark.parametrize("kind", ["oracle", "data", "velocity", "noise", "drift"])
def test_every_kind_of_field_reaches_the_law_from_the_point(kind, scheme):
    exact, law = tpf.oracle(process(), mixture()), mixture()
    field = {
        "oracle": lambda: exact,
        "data": lambda: tpf.DataPredictor(exact.data, process()),
        "velocity": lambda: tpf.Velocity(exact.velocity, process()),
        "noise": lambda: tpf.NoisePredictor(exact.noise, process()),
        "drift": lambda: BridgeDrift(
            forward=lambda t, x: exact.velocity(t, x) + 0.5 * A * exact.score(t, x),
            process=process(),
        ),
    }[kind]()
    n = 6_000
    x1 = law.sample(n, generator=seeded(1))
    steps = 100 if scheme == "euler_maruyama" else 40
    x = tpf.sample(field, n, epsilon=A / 2, scheme=scheme, steps=steps, generator=seeded(2)).x
    torch.testing.assert_close(x.mean(0), x1.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(torch.cov(x.mT), torch.cov(x1.mT), rtol=0, atol=0.14)


def test_the_law_of_its_paths_is_a_mixture_of_brownian_bridges():
    """``Cov(X_s, X_t) = s t Cov(x1) + a s (1 - t)`` for s < t, and from the point at once."""
    law = tpf.Gaussian((2,), 1.0, 0.6)
    field = tpf.oracle(process(), law)
    epsilon = UnlimitedEpsilon(A / 2)
    times = [0.0, 0.25, 0.5, 0.75, 1.0]
    n = 20_000
    path = tpf.sample(
        field, n, epsilon=epsilon, steps=80, save_at=times, generator=seeded()
    ).trajectory
    assert torch.equal(path[0], AT.expand(n, 2))
    for i, s in enumerate(times):
        for j, t in enumerate(times[i:], i):
            one, two = (path[k] - path[k].mean(0) for k in (i, j))
            asked = s * t * 0.36 + A * s * (1 - t)
            assert float((one * two).mean()) == pytest.approx(asked, abs=0.02)


class Net(nn.Module):
    def __init__(self, extra=0, out=2, width=48):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(out + 1 + extra, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, out),
        )  # fmt: skip

    def forward(self, t, x, **cond):
        return self.inner(torch.cat([x, t[:, None], *cond.values()], 1))


@pytest.mark.parametrize("kind", ["data", "drift"])
def test_one_network_learns_it(kind):
    torch.manual_seed(0)
    field = tpf.DataPredictor(Net(), process())
    if kind == "drift":
        field = BridgeDrift(forward=Net(), process=process())
    law = mixture()
    tpf.Trainer(field, lr=5e-3, scheduler="cosine").fit(
        law, steps=400, batch_size=256, progress=False, generator=seeded(1)
    )
    x = tpf.sample(field, 2_000, epsilon=A / 2, steps=40, generator=seeded(2)).x
    x1, x2 = (law.sample(2_000, generator=seeded(k)).float() for k in (3, 4))
    assert tpf.metrics.wasserstein2(x, x1) < 4 * tpf.metrics.wasserstein2(x1, x2)
    share = float((x[:, 0] > 0.9).float().mean())
    assert share == pytest.approx(0.3, abs=0.08)


def test_a_forecast_has_the_law_given_where_it_is_and_was():
    """x1 = ½ x0 + ½ past + 0.4 z, from each row's own x0, by one drift told of both."""
    torch.manual_seed(0)
    n, a = 20_000, 0.5
    x0, past = (torch.randn(n, 1, generator=seeded(k)) for k in (1, 2))
    x1 = 0.5 * x0 + 0.5 * past + 0.4 * torch.randn(n, 1, generator=seeded(3))
    law = tpf.Process(
        tpf.Linear(tpf.Brownian(a)), coupling=tpf.Paired(condition_on_start=True), shape=(1,)
    )
    field = BridgeDrift(forward=Net(2, 1), process=law)
    tpf.Trainer(field, lr=5e-3, scheduler="cosine").fit(
        (x0, x1), cond={"past": past}, steps=700, batch_size=256, progress=False,
        generator=seeded(4),
    )  # fmt: skip
    for now, before in ((1.0, -0.5), (-0.7, 1.5)):
        start, told = torch.full((3_000, 1), now), torch.full((3_000, 1), before)
        x = tpf.sample(
            field, start=start, epsilon=a / 2, cond={"past": told}, steps=40, generator=seeded(5)
        ).x
        assert float(x.mean()) == pytest.approx(0.5 * now + 0.5 * before, abs=0.12)
        assert float(x.std()) == pytest.approx(0.4, abs=0.08)


def test_a_point_is_saved_and_loaded(tmp_path):
    field = tpf.DataPredictor(tpf.networks.MLP(2, 8, 1), process())
    field.save(tmp_path / "field.pt")
    other = tpf.load_field(tmp_path / "field.pt")
    assert torch.equal(other.process.base.at, field.process.base.at)
    assert "Point((2,)" in repr(field.process)


def test_what_a_point_cannot_do_is_refused():
    exact = tpf.oracle(process(), mixture())
    latent = tpf.Linear(tpf.Brownian(1.0))
    told = tpf.Process(latent, coupling=tpf.Paired(condition_on_start=True), shape=(2,))
    pairs = BridgeDrift(forward=Net(2), process=told)
    rows = torch.zeros(3, 2)
    cases = [
        (ValueError, r"gamma=Brownian\(a\)", lambda: tpf.Process(tpf.Linear(), base=Point((2,)))),
        (ValueError, "epsilon=a / 2", lambda: tpf.sample(exact, 5)),
        (ValueError, "epsilon=a / 2", lambda: tpf.sample(exact, 5, epsilon=[0.4, 0.0])),
        (ValueError, "epsilon=a / 2", lambda: tpf.sample(exact, 5, scheme="dopri5")),
        (ValueError, "finite", lambda: Point((2,), math.nan)),
        (ValueError, "all copies of an x0", lambda: tpf.sample(pairs, start=rows)),
        (ValueError, "data have", lambda: process().sample(torch.zeros(3, 4))),
    ]  # fmt: skip
    for kind, words, call in cases:
        with pytest.raises(kind, match=words):
            call()
    there = mixture().sample(2_000, generator=seeded(1))
    for steps, most in ((50, 0.15), (800, 0.05)):  # back to the point it may go, in steps √h right
        back = tpf.sample(exact, start=there, t=(1.0, 0.0), steps=steps).x
        assert float((back - AT).abs().mean()) < most


@pytest.mark.parametrize("scheme", ["euler_maruyama", "heun", "rk4"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 2.0])
def test_a_small_epsilon_leaves_the_point_too(scheme, share):
    """To N(x0, a) x_t is a Brownian motion: whatever ε is, its variance is a t."""
    law = tpf.Gaussian((2,), AT, math.sqrt(A))
    exact = tpf.oracle(process(), law)
    solved = tpf.sample(
        exact, 20_000, epsilon=share * A, steps=50, scheme=scheme, save_at=[0.1, 0.5, 1.0],
        generator=seeded(),
    )  # fmt: skip
    for t, x in zip((0.1, 0.5, 1.0), solved.trajectory, strict=True):
        assert float(x.var(0).mean()) == pytest.approx(A * t, rel=0.06)
    if share < 0.5:
        assert solved.limited[0][0] < 0.02  # which tells that ε was another there


def test_a_small_epsilon_leaves_each_row_s_own_point():
    """Likewise where the network is told of x0: x1 is x0 + √a Z."""

    def mean_velocity(t, x, x0):  # E[x1 - x0 | x_t]
        return x - x0

    def noise(t, x, x0):  # (x_t - x0 - t E[x1 - x0])/γ
        return (x - x0) * ((1 - t) / (A * t.clamp(min=1e-12)))[:, None].sqrt()

    coupling = tpf.Paired(condition_on_start=True)
    told = tpf.Process(tpf.Linear(tpf.Brownian(A)), coupling=coupling, shape=(1,))
    field = tpf.FieldPair(mean_velocity=mean_velocity, noise=noise, process=told)
    start = torch.full((20_000, 1), 3.0)
    x = tpf.sample(field, start=start, epsilon=0.1 * A, steps=50, generator=seeded()).x
    assert float(x.var()) == pytest.approx(A, rel=0.06)
    assert float(x.mean()) == pytest.approx(3.0, abs=0.03)
