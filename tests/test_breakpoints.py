"""Times at which a path is not smooth: met by every grid, and seen from the step's own side."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch

import transportflows as tpf
from families import mixture, process

F64 = torch.float64
LAW = mixture([[-1.5], [1.0]], 0.4)
X = torch.linspace(-2, 2, 9, dtype=F64)[:, None]


class Clock(tpf.AffineInterpolant):
    """The linear path by a clock that runs at another pace after a kink, so with the same maps."""

    def __init__(self, kink: float) -> None:
        super().__init__()
        self.kink, self.breakpoints = kink, (kink,)

    def beta(self, t):
        early, late = 0.4 * t, 0.4 * self.kink
        slope = (1 - late) / (1 - self.kink)
        return torch.where(t < self.kink, early, late + slope * (t - self.kink))

    def alpha(self, t):
        return 1 - self.beta(t)

    def beta_dot(self, t):  # by autodiff too, and a test of orders would take ten times as long
        early = torch.full_like(t, 0.4)
        return torch.where(t < self.kink, early, (1 - 0.4 * self.kink) / (1 - self.kink))

    def alpha_dot(self, t):
        return -self.beta_dot(t)


class OneSidedClock(tpf.OneSided):
    """The same, one-sided."""

    def __init__(self, kink: float) -> None:
        super().__init__()
        self.clock, self.breakpoints = Clock(kink), (kink,)

    def beta(self, t):
        return self.clock.beta(t)

    def beta_dot(self, t):
        return self.clock.beta_dot(t)

    def gamma_sq(self, t):
        return self.clock.alpha(t).square()

    def gamma_sq_dot(self, t):
        return 2 * self.clock.alpha(t) * self.clock.alpha_dot(t)


def oracle(path) -> tpf.fields.Field:
    return tpf.oracle(process(path, (1,)), LAW)


@lru_cache(maxsize=2)
def true_ends(backward: bool):
    t = (1.0, 0.0) if backward else (0.0, 1.0)
    return tpf.sample(oracle(tpf.Linear()), start=X, t=t, scheme="rk4", steps=400).x


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kink", [0.5, 0.7])
@pytest.mark.parametrize(("scheme", "order"), [("heun", 2), ("rk4", 4)])
def test_a_kink_costs_no_order(scheme: str, order: int, kink: float, backward: bool) -> None:
    field, times = oracle(Clock(kink)), (1.0, 0.0) if backward else (0.0, 1.0)
    truth = true_ends(backward)
    errors = [
        float((tpf.sample(field, start=X, t=times, steps=n, scheme=scheme).x - truth).abs().max())
        for n in (40, 80)
    ]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.25, errors


@pytest.mark.parametrize("kink", [0.3, 0.6, 0.7, 0.9])
def test_a_kink_is_seen_from_both_sides_in_float32(kink: float) -> None:
    """Its time is rounded, up or down: half of the breakpoints would be seen from one side."""
    field = oracle(Clock(kink))
    for scheme in ("heun", "rk4"):
        for t in ((0.0, 1.0), (1.0, 0.0)):
            wide, narrow = (
                tpf.sample(field, start=x, t=t, steps=10, scheme=scheme).x for x in (X, X.float())
            )
            torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=5e-6)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kink", [0.3, 0.7, 0.9])
def test_multistep_schemes_see_the_side_of_their_step(kink: float, backward: bool) -> None:
    """With velocities, whose weights jump at the kink: those and the network's time agree."""
    field, t = oracle(OneSidedClock(kink)), (0.95, 0.05) if backward else (0.05, 0.95)
    found = [
        tpf.sample(field, start=x, t=t, steps=20, scheme="dpm2m").x.double() for x in (X, X.float())
    ]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5)


def test_a_solve_that_starts_or_ends_on_a_kink_sees_its_own_side() -> None:
    field, linear = oracle(Clock(0.3)), oracle(tpf.Linear())
    how = {"scheme": "rk4", "steps": 60}
    halves = tpf.sample(field, start=X, t=(0.0, 0.3), **how).x
    truth = tpf.sample(linear, start=X, t=(0.0, 0.12), **how).x
    torch.testing.assert_close(halves, truth, rtol=0, atol=1e-8)
    ends = tpf.sample(field, start=halves, t=(0.3, 1.0), **how).x
    torch.testing.assert_close(ends, true_ends(False), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_adaptive_solves_and_log_densities_see_both_sides(dtype: torch.dtype) -> None:
    tolerance, close = (1e-7, 1e-6) if dtype == F64 else (1e-5, 1e-3)
    how = {"rtol": tolerance, "atol": tolerance}
    smooth = tpf.sample(oracle(tpf.Linear()), start=X.to(dtype), scheme="dopri5", **how)
    field = oracle(Clock(0.7))
    found = tpf.sample(field, start=X.to(dtype), scheme="dopri5", **how)
    torch.testing.assert_close(found.x, smooth.x, rtol=0, atol=close)
    assert found.nfe < smooth.nfe + 60
    density = tpf.log_likelihood(field, X.to(dtype), **how).log_prob
    torch.testing.assert_close(density, LAW.log_prob(X).to(dtype), rtol=0, atol=10 * close)


def test_log_densities_by_fixed_steps_keep_their_order() -> None:
    value = [tpf.log_likelihood(oracle(Clock(0.7)), X, scheme="rk4", steps=n) for n in (20, 40)]
    errors = [float((v.log_prob - LAW.log_prob(X)).abs().max()) for v in value]
    assert errors[0] / errors[1] > 11


# ------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize("spacing", sorted(tpf.solve.SPACINGS))
@pytest.mark.parametrize("points", [(0.31, 0.33), (0.311, 0.312, 0.313), (0.01, 0.5, 0.99)])
def test_all_breakpoints_are_met_in_as_many_steps(spacing: str, points) -> None:
    for steps in (4, 10, 33):
        grid = tpf.solve.time_grid(steps, spacing=spacing, breakpoints=points)
        times = grid.tolist()
        assert len(times) == steps + 1
        assert set(points) <= set(times)
        assert times[0] == 0
        assert times[-1] == 1
        assert bool((grid.diff() > 0).all())
        back = tpf.solve.time_grid(steps, start=1, stop=0, spacing=spacing, breakpoints=points)
        assert torch.equal(back.flip(0), grid)
        plain = tpf.solve.time_grid(steps, spacing=spacing).tolist()
        assert len(set(plain) - set(times)) <= len(points)  # the others stay where they are
    with pytest.raises(ValueError, match="at least 4"):
        tpf.solve.time_grid(3, breakpoints=(0.2, 0.21, 0.8))


def test_the_time_that_leaves_the_shortest_step_is_dropped() -> None:
    """Nearest to the breakpoint, in steps of the spacing: not where the grid is finest."""
    times = tpf.solve.time_grid(100, spacing="late", breakpoints=(0.13,)).tolist()
    plain = tpf.solve.time_grid(100, spacing="late").tolist()
    (gone,) = set(plain) - set(times)
    assert abs(gone - 0.13) == min(abs(t - 0.13) for t in plain)


def test_breakpoints_take_the_place_of_rounded_times_of_ones_own_grid() -> None:
    grid = torch.linspace(0, 1, 11)  # float32: 0.3 and 0.7 are off by 1e-8
    field = oracle(Clock(0.7))
    found = tpf.sample(field, start=X, t=grid, scheme="rk4")
    assert len(found.t) == 11
    assert 0.7 in found.t.tolist()


class TwoRates(tpf.sdes.ForwardSDE):
    """An SDE whose coefficients jump."""

    tau_breakpoints = (0.37,)

    def drift_rate(self, tau):
        return torch.where(tau < 0.37, -1.0, -12.0)

    def diffusion_sq(self, tau):
        return torch.where(tau < 0.37, 0.5 + tau, 6.0)


class KinkedGamma(tpf.interpolants.Gamma):
    breakpoints = (0.25,)

    def gamma_sq(self, t):
        return torch.where(t < 0.25, 3 * t, 1 - t)


def test_breakpoints_of_an_sde_and_of_a_latent_are_the_paths() -> None:
    assert TwoRates().breakpoints == (0.63,)
    there_and_back = tpf.sdes.InterpolantSDE(OneSidedClock(0.3)).breakpoints
    assert there_and_back == pytest.approx((0.3,), abs=1e-16)
    assert tpf.Linear(KinkedGamma()).breakpoints == (0.25,)
    assert tpf.VP().breakpoints == ()
    law = process(TwoRates(), (1,))
    assert 0.63 in tpf.sample(tpf.oracle(law, LAW), start=X, steps=7).t.tolist()
