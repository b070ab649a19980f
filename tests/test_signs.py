"""Coefficients may be negative between the ends: a target and its oracle are one regression.

``σ̂ ≥ 0`` always and ``ẑ = (α (x0 - m) + γ z) / σ̂``, so the exact field is the conditional mean of
the target: ``E[(T - f(x)) g(x)] = 0`` for every g, tried with g = f and g = x.
"""

from __future__ import annotations

import math

import pytest
import torch

import transportflows as tpf

LAW = tpf.distributions.GaussianMixture(torch.tensor([[0.0], [2.0]]), scale=0.7)


class Swing(tpf.AffineInterpolant):
    """α < 0 from 0.32 on."""

    def alpha(self, t):
        return 1 - t - 0.8 * torch.sin(math.pi * t)

    def beta(self, t):
        return t


class SignedGamma(tpf.AffineInterpolant):
    """γ < 0 on (½, 1)."""

    def alpha(self, t):
        return 1 - t

    def beta(self, t):
        return t

    def gamma(self, t):
        return torch.sin(2 * math.pi * t)


class SwingWithGamma(Swing):
    """Both, at different times."""

    def gamma(self, t):
        return 0.7 * torch.sin(2 * math.pi * t)


class Downward(tpf.OneSided):
    """γ < 0 everywhere, at t = 0 too."""

    def beta(self, t):
        return t

    def gamma(self, t):
        return -2 * (1 - t)


class Composed(tpf.interpolants.Gamma):
    def gamma(self, t):
        return -t * (1 - t)


STANDARD, MOVED = tpf.Gaussian((1,)), tpf.Gaussian((1,), 0.7, 1.6)
PROCESSES = {
    "alpha": tpf.Process(Swing(), STANDARD),
    "alpha, base with a mean": tpf.Process(Swing(), MOVED),
    "gamma, base of two modes": tpf.Process(SignedGamma(), LAW),
    "gamma, Gaussian base": tpf.Process(SignedGamma(), MOVED),
    "alpha and gamma": tpf.Process(SwingWithGamma(), MOVED),
    "one-sided": tpf.Process(Downward(), shape=(1,)),
    "composed": tpf.Process(tpf.Linear(Composed()), LAW),
    "mirror": tpf.Process(tpf.interpolants.Mirror(Composed()), LAW),
    "positive": tpf.Process(tpf.Linear(tpf.Brownian()), MOVED),
}
QUANTITIES = ("velocity", "mean_velocity", "noise", "data")


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("time", [0.2, 0.7, 0.93])
def test_the_oracle_is_the_regression_of_the_target(name: str, time: float) -> None:
    process = PROCESSES[name]
    generator = torch.Generator().manual_seed(5)
    x1 = LAW.sample(40_000, generator=generator, dtype=torch.float64)
    s = process.sample(x1, t=time, generator=generator)
    exact = tpf.oracle(process, LAW)
    for quantity in QUANTITIES:
        f, target = getattr(exact, quantity)(s.t, s.x), getattr(s, quantity)
        for g in (f, s.x):
            moments = (target - f) * g
            error = moments.std() / len(moments) ** 0.5
            assert abs(float(moments.mean())) <= 5 * float(error) + 1e-12, (quantity, time)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_noise_is_standard_normal_on_the_closed_interval(name: str, dtype: torch.dtype) -> None:
    """Its limit where σ̂ vanishes, too."""
    process = PROCESSES[name]
    generator = torch.Generator().manual_seed(1)
    x1 = LAW.sample(20_000, generator=generator, dtype=dtype)
    for time in (0.0, 0.3, 0.8, 1.0):
        s = process.sample(x1, t=time, generator=generator)
        assert s.noise.dtype == dtype
        if process.base is LAW and time in (0.0, 1.0) and not s.noise_part.path.has_latent:
            continue
        assert abs(float(s.noise.mean())) < 0.05, time
        assert abs(float(s.noise.std()) - 1) < 0.05, time
        made = s.noise_part.scale(s.t)[:, None] * s.noise
        rest = s.x - s.noise_part.path.beta(s.t)[:, None] * s.x1
        if isinstance(s.noise_part, tpf.gaussian_part.GaussianPart):
            shift = s.noise_part.shift(s.t[:, None], s.x)
            rest = rest if shift is None else rest - shift
            torch.testing.assert_close(made, rest, atol=2e-6, rtol=1e-5)


def test_signs_at_an_end_are_those_beside_it() -> None:
    """cos(π/2) in float32 is -4e-8, and no sign of α."""
    one_sided, x1 = tpf.interpolants.Trigonometric(), torch.zeros(4, 1)
    s = tpf.Process(one_sided, STANDARD).sample(x1, t=1.0)
    torch.testing.assert_close(s.noise, s.x0)
    swing = tpf.Process(Swing(), STANDARD).sample(x1, t=1.0)
    torch.testing.assert_close(swing.noise, -swing.x0)


def test_a_one_sided_path_of_negative_gamma_starts_where_it_says() -> None:
    process = PROCESSES["one-sided"]
    assert float(process.start.scale) == 2.0
    exact = tpf.oracle(process, LAW)
    x = tpf.sample(exact, 4000, epsilon=0.3, generator=torch.Generator().manual_seed(0)).x
    assert abs(float(x.mean()) - 1) < 0.1
    assert abs(float(x.var()) - 1.49) < 0.15


def test_a_pair_learned_on_a_signed_latent_gives_the_velocity() -> None:
    process = PROCESSES["gamma, base of two modes"]
    exact = tpf.oracle(process, LAW)
    pair = tpf.FieldPair(mean_velocity=exact.mean_velocity, noise=exact.noise, process=process)
    x = LAW.sample(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for time in (0.1, 0.3, 0.7, 0.95):
        t = torch.tensor(time, dtype=torch.float64)
        torch.testing.assert_close(pair.velocity(t, x), exact.velocity(t, x))


def test_check_interpolant_names_times_at_which_the_noise_jumps() -> None:
    for path, time in ((Swing(), "0.32"), (SignedGamma(), None), (Downward(), None)):
        notes = " ".join(tpf.testing.check_interpolant(path).notes)
        assert ("the noise jumps" in notes) == (time is not None), path
        assert time is None or f"t = {time}" in notes
    alone = tpf.testing.check_interpolant(SignedGamma(), base=LAW).notes
    assert any("the noise jumps" in note and "t = 0.5" in note for note in alone)


class OnlySquare(tpf.Linear):
    """γ = 0.3 t (1 - t), given by its square alone: γ̇ is finite at the ends."""

    def gamma_sq(self, t):
        return (0.3 * t * (1 - t)).square()


class Steep(tpf.Linear):
    """γ² = t^1.5 (1 - t)²: γ̇ is infinite at t = 0 alone."""

    def gamma_sq(self, t):
        return t**1.5 * (1 - t) ** 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_margin_is_kept_where_only_the_square_is_written(dtype: torch.dtype) -> None:
    process = tpf.Process(OnlySquare(), STANDARD)
    assert process.target_margin == (0.0, 0.0)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=dtype)
    torch.testing.assert_close(
        process.interpolant.gamma_dot(t), 0.3 * (1 - 2 * t), rtol=1e-4, atol=1e-6
    )
    assert tpf.Process(Steep(), STANDARD).target_margin == (1e-4, 0.0)
    assert tpf.Process(tpf.Linear(tpf.Brownian()), STANDARD).target_margin == (1e-4, 1e-4)
    ends = tpf.Brownian(2.0).gamma_dot(torch.tensor([0.0, 0.5, 1.0], dtype=dtype))
    assert ends.tolist() == [math.inf, 0.0, -math.inf]
