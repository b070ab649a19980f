"""Oracles against the definitions, the continuity equation, and the conversions of fields."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from transportflows.couplings.transport import MinibatchOT
from transportflows.distributions.empirical import Empirical
from transportflows.distributions.gaussian import Gaussian
from transportflows.distributions.mixture import GaussianMixture
from transportflows.distributions.uniform import Uniform
from transportflows.fields.kinds import (
    DataPredictor,
    MeanVelocity,
    NoisePredictor,
    Score,
    Velocity,
)
from transportflows.fields.pair import FieldPair
from transportflows.gaussian_part import ConversionError
from transportflows.interpolants import (
    SBDM,
    AffineInterpolant,
    Brownian,
    EncoderDecoder,
    Interpolant,
    Linear,
    Mirror,
    OneSidedLinear,
    OneSidedTrigonometric,
    Quadratic,
    Sigmoid,
    SineSquared,
    Trigonometric,
)
from transportflows.oracles import EmpiricalOracle, GaussianMixtureOracle, oracle
from transportflows.oracles import mixture as mixture_module
from transportflows.process import Process

F64 = torch.float64
D = 2
TIMES = torch.tensor([0.04, 0.3, 0.47, 0.62, 0.93], dtype=F64)
QUANTITIES = ("velocity", "mean_velocity", "score", "noise", "data")


class Root(AffineInterpolant):
    """α = sqrt(1 - t), whose derivative is infinite at t = 1."""

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t).sqrt()

    def alpha_sq(self, t: Tensor) -> Tensor:
        return 1 - t

    def beta(self, t: Tensor) -> Tensor:
        return t


class Cubic(AffineInterpolant):
    """All by autodiff, with a γ² of its own."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**3

    def beta(self, t: Tensor) -> Tensor:
        return t**3

    def gamma_sq(self, t: Tensor) -> Tensor:
        return t * (1 - t)


def spd(d: int, seed: int) -> Tensor:
    a = torch.randn(d, d, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return a @ a.mT / d + 0.2 * torch.eye(d, dtype=F64)


def mixture(d: int, k: int, seed: int, spread: float = 1.5) -> GaussianMixture:
    gen = torch.Generator().manual_seed(seed)
    means = spread * torch.randn(k, d, dtype=F64, generator=gen)
    weights = torch.rand(k, dtype=F64, generator=gen) + 0.2
    covariances = torch.stack([0.5 * spd(d, 10 * seed + i) for i in range(k)])
    return GaussianMixture(means, weights=weights, covariances=covariances)


def laws(d: int) -> dict[str, Gaussian | GaussianMixture]:
    shift = torch.linspace(-0.7, 0.9, d, dtype=F64)
    return {
        "standard": Gaussian((d,)),
        "isotropic": Gaussian((d,), shift, 1.3),
        "diagonal": Gaussian((d,), -shift, torch.linspace(0.6, 1.4, d, dtype=F64)),
        "full": Gaussian((d,), 0.5, scale_tril=torch.linalg.cholesky(spd(d, 3))),
        "mixture": mixture(d, 2, 5),
    }


GAMMAS = {
    "none": None,
    "brownian": Brownian(0.7),
    "quadratic": Quadratic(2.0),
    "sine": SineSquared(0.8),
    "sigmoid": Sigmoid(5.0),
}
TWO_SIDED: dict[str, Interpolant] = {
    **{f"linear-{name}": Linear(gamma) for name, gamma in GAMMAS.items()},
    **{f"trig-{name}": Trigonometric(gamma) for name, gamma in GAMMAS.items()},
    "trig-scaled-brownian": Trigonometric(Brownian(), scaled=True),
    "trig-scaled-sine": Trigonometric(SineSquared(0.6), scaled=True),
    "encdec": EncoderDecoder(),
    "cubic": Cubic(),
}
ONE_SIDED: dict[str, Interpolant] = {
    "one-linear": OneSidedLinear(),
    "one-trig": OneSidedTrigonometric(),
    "sbdm": SBDM(),
    "mirror-brownian": Mirror(),
    "mirror-quadratic": Mirror(Quadratic()),
}
BASES = ("standard", "isotropic", "diagonal", "full", "mixture")


def build(path: str, base: str, d: int = D) -> Process:
    if path == "root":
        return Process(Root(), Gaussian((d,), scale=0.8))
    if path in ONE_SIDED:
        return Process(ONE_SIDED[path], shape=(d,))
    return Process(TWO_SIDED[path], laws(d)[base])


def target(data: str, d: int = D) -> Gaussian | GaussianMixture:
    return mixture(d, 3, 7) if data == "mixture" else laws(d)[data]


PATHS = [(p, b) for p in TWO_SIDED for b in BASES] + [(p, "-") for p in (*ONE_SIDED, "root")]
CASES = [(p, b, data) for p, b in PATHS for data in ("mixture", "full")]
CASES += [(p, b, "diagonal") for p in ("linear-none", "trig-sine") for b in BASES]
GAUSSIAN_PARTS = [
    *[(p, b) for p in TWO_SIDED for b in ("standard", "isotropic")],
    *[(p, "-") for p in (*ONE_SIDED, "root")],
]
all_cases = pytest.mark.parametrize(("path", "base", "data"), CASES)


def rows(exact: GaussianMixtureOracle, per_time: int = 3) -> tuple[Tensor, Tensor]:
    """Times (B,), and states from the law at each, with a few from far out."""
    t = TIMES.repeat_interleave(per_time)
    gen = torch.Generator().manual_seed(1)
    x = exact.sample(t, len(t), generator=gen, dtype=F64)
    return t, x + 0.5 * torch.randn(x.shape, dtype=F64, generator=gen)


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert torch.isfinite(a).all()
    assert torch.isfinite(b).all()
    error = ((a - b).abs() / (1 + b.abs())).max()
    assert error <= tolerance, f"{float(error):.3g} > {tolerance:.3g}"


# ------------------------------------------------------------------------------ the identities


def check_continuity(
    exact: GaussianMixtureOracle | EmpiricalOracle, t: Tensor, x: Tensor, tolerance: float
) -> None:
    """∂t log ρ + b·s + ∇·b = 0."""
    b, s = exact.velocity(t, x), exact.score(t, x)
    _, rate = torch.func.jvp(lambda u: exact.log_prob(u, x), (t,), (torch.ones_like(t),))
    divergence = torch.zeros_like(t)
    for i in range(D):
        e = torch.zeros_like(x)
        e[:, i] = 1
        divergence += torch.func.jvp(lambda y: exact.velocity(t, y), (x,), (e,))[1][:, i]
    transport = (b * s).sum(1)
    size = 1 + rate.abs() + transport.abs() + divergence.abs()
    assert ((rate + transport + divergence).abs() / size).max() < tolerance


@all_cases
def test_continuity_equation(path: str, base: str, data: str) -> None:
    exact = GaussianMixtureOracle(build(path, base), target(data))
    t, x = rows(exact)
    check_continuity(exact, t, x, 1e-9)


@all_cases
def test_score_is_the_gradient_of_the_log_density(path: str, base: str, data: str) -> None:
    exact = GaussianMixtureOracle(build(path, base), target(data))
    t, x = rows(exact)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(exact.log_prob(t, x).sum(), x)
    close(exact.score(t, x).detach(), gradient, 1e-10)
    close(exact.predict(t, x, needed=(False, True))[1].detach(), gradient, 1e-10)


@all_cases
def test_ends_are_the_ends(path: str, base: str, data: str) -> None:
    process, rho1 = build(path, base), target(data)
    exact = GaussianMixtureOracle(process, rho1)
    x = torch.randn(7, D, dtype=F64, generator=torch.Generator().manual_seed(2))
    rho0 = rho1 if path.startswith("mirror") else process.start
    for end, law in ((0.0, rho0), (1.0, rho1)):
        t = torch.tensor(end, dtype=F64)
        close(exact.log_prob(t, x), law.log_prob(x), 1e-10)
        for name in QUANTITIES:
            assert torch.isfinite(getattr(exact, name)(t, x)).all(), (name, end)
            wide = getattr(exact, name)(t.expand(7), x)
            close(getattr(exact, name)(t, x), wide, 1e-12)


# ------------------------------------------------------------------------------ the definitions


def moments(law: Gaussian | GaussianMixture) -> list[tuple[float, np.ndarray, np.ndarray]]:
    if isinstance(law, Gaussian):
        return [(1.0, law.mean.numpy(), law.covariance().numpy())]
    arrays = law.weights.numpy(), law.means.numpy(), law.covariances.numpy()
    return list(zip(*arrays, strict=True))


def conditioned(process: Process, rho1: Gaussian | GaussianMixture, t: Tensor, x: Tensor):
    """E[x0], E[x1], E[z] given x_t = x, by conditioning joint Gaussians as a textbook has it."""
    path, d = process.affine, x.shape[1]
    a, b, c = (float(f(t)) for f in (path.alpha, path.beta, path.gamma))
    first = moments(process.base) if path.uses_base else [(1.0, np.zeros(d), np.eye(d))]
    points, total = x.numpy(), 0.0
    sums = [np.zeros_like(points) for _ in range(3)]
    for (p, m, C), (q, mu, S) in itertools.product(first, moments(rho1)):
        centre = a * m + b * mu
        cov = a * a * C + b * b * S + c * c * np.eye(d)
        weight = p * q * multivariate_normal.pdf(points, centre, cov)[:, None]
        gain = np.linalg.solve(cov, (points - centre).T).T
        total = total + weight
        parts = (m + a * gain @ C, mu + b * gain @ S, c * gain)
        for k, part in enumerate(parts):
            sums[k] += weight * part
    return [torch.from_numpy(s / total) for s in sums]


@all_cases
def test_conditional_expectations(path: str, base: str, data: str) -> None:
    process, rho1 = build(path, base), target(data)
    exact = GaussianMixtureOracle(process, rho1)
    all_t, all_x = rows(exact)
    interpolant = process.affine
    for time in TIMES:
        t, x = time, all_x[all_t == time]
        x0, x1, z = conditioned(process, rho1, t, x)
        v = interpolant.alpha_dot(t) * x0 + interpolant.beta_dot(t) * x1
        close(exact.data(t, x), x1, 1e-9)
        close(exact.mean_velocity(t, x), v, 1e-9)
        has_latent = interpolant.has_latent
        b = v + interpolant.gamma_dot(t) * z if has_latent else v
        close(exact.velocity(t, x), b, 1e-9)
        if process.noise_part.base_scale is not None:
            scale = (
                interpolant.alpha(t) ** 2 * process.base.scale**2 + interpolant.gamma(t) ** 2
            ).sqrt()
            centred = interpolant.alpha(t) * (x0 - process.base.mean)
            close(exact.noise(t, x), (centred + interpolant.gamma(t) * z) / scale, 1e-9)
            close(exact.score(t, x), -exact.noise(t, x) / scale, 1e-9)
        elif has_latent:
            close(exact.noise(t, x), z, 1e-9)
            close(exact.score(t, x), -z / interpolant.gamma(t), 1e-9)


@pytest.mark.parametrize("path", [*TWO_SIDED, *ONE_SIDED])
@pytest.mark.parametrize("base", ["isotropic", "mixture"])
def test_quadrature_over_the_definition(path: str, base: str) -> None:
    """b = E[ẋ | x_t] and the rest, by trapezoid sums over (x0, x1, z) in one dimension."""
    process, rho1 = build(path, base, 1), target("mixture", 1)
    exact, interpolant = GaussianMixtureOracle(process, rho1), process.affine
    grid = torch.linspace(-12, 12, 1601, dtype=F64)

    def density(law) -> Tensor:
        return sum(
            w * torch.exp(-((grid - m[0]) ** 2) / (2 * v[0, 0])) / math.sqrt(2 * math.pi * v[0, 0])
            for w, m, v in moments(law)
        )

    x = torch.tensor([[-1.7], [0.3], [1.1]], dtype=F64)
    for time in (0.2, 0.55, 0.8):
        t = torch.tensor(time, dtype=F64)
        a, b, c = interpolant.alpha(t), interpolant.beta(t), interpolant.gamma(t)
        a_dot, b_dot, c_dot = (
            interpolant.alpha_dot(t),
            interpolant.beta_dot(t),
            interpolant.gamma_dot(t) if interpolant.has_latent else torch.zeros((), dtype=F64),
        )
        for row in x:
            if interpolant.has_latent:
                x0 = grid[:, None] if interpolant.uses_base else torch.zeros(1, 1, dtype=F64)
                first = density(process.base)[:, None] if interpolant.uses_base else 1.0
                x1 = grid[None]
                z = (row - a * x0 - b * x1) / c
                weight = first * density(rho1)[None] * torch.exp(-0.5 * z**2)
            else:  # x0 is what x and x1 leave of it
                x1, z = grid, torch.zeros(1, dtype=F64)
                x0 = (row - b * x1) / a
                weight = density(rho1) * sum(
                    w * torch.exp(-((x0 - m[0]) ** 2) / (2 * v[0, 0])) / math.sqrt(v[0, 0])
                    for w, m, v in moments(process.base)
                )

            def mean(values: Tensor, weight: Tensor = weight) -> Tensor:
                return ((weight * values).sum() / weight.sum()).reshape(1, 1)

            at = row[None]
            close(exact.velocity(t, at), mean(a_dot * x0 + b_dot * x1 + c_dot * z), 1e-8)
            close(exact.mean_velocity(t, at), mean(a_dot * x0 + b_dot * x1), 1e-8)
            close(exact.data(t, at), mean(x1 + 0 * x0), 1e-8)
            if process.noise_part.base_scale is not None:
                scale = torch.sqrt(a**2 * 1.3**2 + c**2)
                noise = mean((a * (x0 + 0.7) + c * z) / scale)  # the base is N(-0.7, 1.3²)
            elif interpolant.has_latent:
                scale, noise = c, mean(z)
            else:
                continue
            close(exact.noise(t, at), noise, 1e-8)
            close(exact.score(t, at), -noise / scale, 1e-8)


@pytest.mark.parametrize(
    ("path", "base"), [("linear-brownian", "mixture"), ("encdec", "full"), ("sbdm", "-")]
)
def test_samples_follow_the_law(path: str, base: str) -> None:
    """Moments of samples, of the process and of the oracle, and E s = 0, E[x·s] = -d."""
    process, rho1, n = build(path, base), target("mixture"), 40_000
    exact = GaussianMixtureOracle(process, rho1)
    t = torch.tensor(0.4, dtype=F64)
    gen = torch.Generator().manual_seed(0)
    x = exact.sample(t, n, generator=gen, dtype=F64)
    other = process.sample(rho1.sample(n, generator=gen, dtype=F64), t=t, generator=gen).x
    for draws in (x, other):
        s = exact.score(t, draws)
        products = torch.cat([s, draws[:, :, None].mul(s[:, None]).flatten(1)], 1)
        expected = torch.cat([torch.zeros(D), -torch.eye(D).flatten()]).to(F64)
        errors = (products.mean(0) - expected) / (products.std(0) / n**0.5)
        assert errors.abs().max() < 4.5
    again = exact.sample(t, n, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert torch.equal(x, again)
    assert exact.sample(0.3, 4).dtype == torch.get_default_dtype()
    with pytest.raises(ValueError, match="for 4 rows"):
        exact.sample(torch.rand(3), 4)


# ------------------------------------------------------------------------------ the conversions

FIELDS = {
    "velocity": Velocity,
    "mean_velocity": MeanVelocity,
    "score": Score,
    "noise": NoisePredictor,
    "data": DataPredictor,
}


@pytest.mark.parametrize(("path", "base"), GAUSSIAN_PARTS)
@pytest.mark.parametrize("source", ["velocity", "noise", "score", "data"])
def test_one_field_gives_the_others(path: str, base: str, source: str) -> None:
    process = build(path, base)
    exact = GaussianMixtureOracle(process, target("mixture"))
    field = FIELDS[source](getattr(exact, source), process)
    t, x = rows(exact)
    if source == "velocity" and path.startswith("mirror"):  # γ̇ = 0 at ½: see SINGULAR
        return
    for wanted in QUANTITIES:
        if path == "encdec" and wanted == "data":  # x says nothing of x1 before ½
            t, x = t[t > 0.5], x[t > 0.5]
        close(getattr(field, wanted)(t, x), getattr(exact, wanted)(t, x), 1e-10)
        close(getattr(field, wanted)(t[0], x), getattr(exact, wanted)(t[0], x), 1e-10)


REGULAR_ENDS = [
    # path, base, source, wanted, time
    *[
        ("linear-none", base, "velocity", wanted, end)
        for base in ("standard", "isotropic")
        for wanted in ("noise", "mean_velocity")
        for end in (0.0, 1.0)
    ],
    ("linear-none", "isotropic", "velocity", "data", 1.0),
    ("linear-none", "isotropic", "velocity", "data", 0.0),
    ("linear-none", "standard", "velocity", "data", 0.0),
    ("linear-none", "isotropic", "velocity", "score", 0.0),
    ("linear-none", "isotropic", "data", "velocity", 0.0),
    ("linear-none", "isotropic", "noise", "velocity", 1.0),
    ("linear-none", "isotropic", "noise", "data", 1.0),
    ("linear-quadratic", "isotropic", "velocity", "noise", 1.0),
    ("linear-quadratic", "isotropic", "velocity", "noise", 0.0),
    ("linear-brownian", "isotropic", "velocity", "score", 0.0),
    ("one-linear", "-", "velocity", "noise", 0.0),
    ("one-linear", "-", "velocity", "noise", 1.0),
    ("one-linear", "-", "velocity", "data", 1.0),
    ("one-trig", "-", "data", "velocity", 0.0),
    ("sbdm", "-", "score", "velocity", 1.0),
    ("sbdm", "-", "data", "velocity", 0.0),
    ("sbdm", "-", "velocity", "data", 1.0),
    ("sbdm", "-", "velocity", "score", 1.0),
    ("mirror-brownian", "-", "score", "velocity", 0.0),
    ("mirror-brownian", "-", "score", "velocity", 1.0),
    ("mirror-brownian", "-", "score", "data", 1.0),
    ("mirror-quadratic", "-", "noise", "velocity", 0.0),
    ("mirror-quadratic", "-", "noise", "data", 0.0),
    ("encdec", "isotropic", "velocity", "score", 0.0),
    ("encdec", "isotropic", "velocity", "score", 0.25),
    ("encdec", "isotropic", "velocity", "noise", 0.5),
    ("encdec", "isotropic", "noise", "velocity", 0.0),
    ("encdec", "isotropic", "noise", "data", 1.0),
]


@pytest.mark.parametrize(("path", "base", "source", "wanted", "time"), REGULAR_ENDS)
def test_conversions_that_are_regular_at_an_end(
    path: str, base: str, source: str, wanted: str, time: float
) -> None:
    process = build(path, base)
    exact = GaussianMixtureOracle(process, target("mixture"))
    field = FIELDS[source](getattr(exact, source), process)
    x = torch.randn(6, D, dtype=F64, generator=torch.Generator().manual_seed(4))
    t = torch.tensor(time, dtype=F64)
    close(getattr(field, wanted)(t, x), getattr(exact, wanted)(t, x), 1e-10)


SINGULAR = [
    ("linear-none", "mixture", "velocity", "score", 0.5),  # no Gaussian part
    ("linear-brownian", "mixture", "velocity", "score", 0.5),  # two fields needed
    ("linear-brownian", "diagonal", "velocity", "noise", 0.5),
    ("linear-brownian", "mixture", "velocity", "data", 0.5),
    ("linear-none", "standard", "noise", "velocity", 0.0),  # x = z says nothing of x1
    ("linear-none", "standard", "noise", "data", 0.0),
    ("linear-none", "standard", "data", "velocity", 1.0),
    ("linear-none", "standard", "velocity", "score", 1.0),
    ("one-linear", "-", "noise", "velocity", 0.0),
    ("one-linear", "-", "data", "score", 1.0),
    ("one-trig", "-", "data", "score", 1.0),  # cos(π/2) = 6e-17 is a zero
    ("one-trig", "-", "data", "noise", 1.0),
    ("one-trig", "-", "noise", "score", 1.0),
    ("trig-none", "isotropic", "noise", "score", 1.0),
    ("mirror-brownian", "-", "velocity", "noise", 0.5),  # γ̇ = 0
    ("encdec", "standard", "velocity", "data", 0.3),
]


@pytest.mark.parametrize(("path", "base", "source", "wanted", "time"), SINGULAR)
def test_conversions_that_must_be_refused(
    path: str, base: str, source: str, wanted: str, time: float
) -> None:
    process = build(path, base)
    exact = GaussianMixtureOracle(process, target("mixture"))
    field = FIELDS[source](getattr(exact, source), process)
    t, x = torch.tensor(time, dtype=F64), torch.randn(6, D, dtype=F64)
    with pytest.raises(ConversionError):
        getattr(field, wanted)(t, x)


@pytest.mark.parametrize(
    ("path", "base"),
    [(p, b) for p, b in PATHS if p != "root" and not p.endswith("none")],
)
@pytest.mark.parametrize(
    "outputs", [("velocity", "noise"), ("mean_velocity", "noise"), ("velocity", "score")]
)
def test_pairs(path: str, base: str, outputs: tuple[str, str]) -> None:
    process = build(path, base)
    exact = GaussianMixtureOracle(process, target("mixture"))
    parts = {name: getattr(exact, name) for name in outputs}
    field = FieldPair(**parts, process=process)
    t, x = rows(exact)
    for wanted in QUANTITIES[:4]:
        close(getattr(field, wanted)(t, x), getattr(exact, wanted)(t, x), 1e-10)
    if outputs == ("mean_velocity", "noise"):  # no γ̇ in it: b = v + γ̇ η, at finite γ̇, to the ends
        for end in (0.0, 1.0):
            s = torch.tensor(end, dtype=F64)
            if torch.isfinite(process.interpolant.gamma_dot(s)):
                close(field.velocity(s, x), exact.velocity(s, x), 1e-10)


@pytest.mark.parametrize("f", [2.0, 5.0, 6.0, 12.0])
def test_the_weight_of_a_learned_noise_at_the_ends(f: float) -> None:
    """b = v + γ̇ η: rounding in γ(1), of either sign, must not turn the sign of γ̇ there."""
    process, t = Process(Linear(Sigmoid(f)), mixture(D, 2, 5)), torch.tensor([0.0, 1.0], dtype=F64)
    pair = FieldPair(heads=lambda t, x: (x, x), outputs=("mean_velocity", "noise"), process=process)
    weight = pair.weights("velocity", t).outputs[1]
    assert weight is not None
    close(weight, process.interpolant.gamma_dot(t), 1e-10)


def test_a_stationary_noise_to_data_ratio_is_refused() -> None:
    """σ̂/β rises again where γ grows faster than α falls: there b tells nothing of the noise."""
    process = Process(Linear(SineSquared()), Gaussian((D,), scale=0.3))
    exact = GaussianMixtureOracle(process, target("mixture"))
    t, x = rows(exact)
    with pytest.raises(ConversionError, match="singular"):
        Velocity(exact.velocity, process).score(t, x)
    close(NoisePredictor(exact.noise, process).velocity(t, x), exact.velocity(t, x), 1e-10)


# ------------------------------------------------------------------------- shapes, dtypes, blocks

SHAPES = [("linear-brownian", "mixture"), ("linear-none", "full"), ("trig-sine", "standard")]


@pytest.mark.parametrize(("path", "base"), SHAPES)
def test_one_time_many_times_and_blocks_agree(
    path: str, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = GaussianMixtureOracle(build(path, base), target("mixture"))
    t, x = rows(exact, 20)
    t = t[torch.randperm(len(t), generator=torch.Generator().manual_seed(0))]
    grouped = {name: getattr(exact, name)(t, x) for name in (*QUANTITIES, "log_prob")}
    monkeypatch.setattr(mixture_module, "_FEW_TIMES", 0)
    for numbers in (mixture_module._NUMBERS, 64):
        monkeypatch.setattr(mixture_module, "_NUMBERS", numbers)
        for name, value in grouped.items():
            close(getattr(exact, name)(t, x), value, 1e-12)
            one = torch.cat([getattr(exact, name)(s, y[None]) for s, y in zip(t, x, strict=True)])
            close(one, value, 1e-12)
    both = exact.predict(t, x)
    assert torch.equal(both[0], exact.velocity(t, x))
    assert exact.predict(t, x, needed=(True, False))[1] is None
    assert exact.predict(t, x, needed=(False, False)) == (None, None)


@pytest.mark.parametrize(("path", "base"), SHAPES)
def test_derivatives_in_time_are_row_by_row(path: str, base: str) -> None:
    """Repeated times are not merged where their derivatives are wanted."""
    exact = GaussianMixtureOracle(build(path, base), target("mixture"))
    t, x = rows(exact)
    seeds = torch.randn(t.shape, dtype=F64, generator=torch.Generator().manual_seed(3))
    _, forward = torch.func.jvp(lambda u: exact.log_prob(u, x), (t,), (seeds,))
    u = t.clone().requires_grad_()
    (backward,) = torch.autograd.grad(exact.log_prob(u, x).sum(), u)
    step = 1e-6
    central = (exact.log_prob(t + step, x) - exact.log_prob(t - step, x)) / (2 * step)
    close(backward, central, 1e-7)
    close(forward, backward * seeds, 1e-10)
    hessian = torch.func.vmap(
        torch.func.hessian(lambda y, s: exact.log_prob(s, y[None])[0]), (0, 0)
    )(x, t)
    assert torch.allclose(hessian, hessian.mT, atol=1e-9)


@pytest.mark.parametrize(("path", "base"), [*SHAPES, ("encdec", "diagonal"), ("sbdm", "-")])
def test_single_precision_agrees(path: str, base: str) -> None:
    exact = GaussianMixtureOracle(build(path, base), target("mixture"))
    t, x = rows(exact)
    t32, x32 = t.float(), x.float()
    for name in (*QUANTITIES, "log_prob"):
        value = getattr(exact, name)(t32, x32)
        assert value.dtype == torch.float32
        close(value.double(), getattr(exact, name)(t32.double(), x32.double()), 2e-4)
    assert exact.velocity(t.bfloat16(), x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("path", "base"), [*SHAPES, ("one-trig", "-"), ("mirror-brownian", "-")])
def test_far_tails_are_finite(path: str, base: str, dtype: torch.dtype) -> None:
    exact = GaussianMixtureOracle(build(path, base), target("mixture"))
    x = torch.tensor([[1e3, 1e3], [-1e3, 1e3], [0.0, -1e3]], dtype=dtype)
    for time in (0.0, 1e-6, 0.3, 0.5, 1 - 1e-6, 1.0):
        for name in (*QUANTITIES, "log_prob"):
            t = torch.tensor(time, dtype=dtype)
            assert torch.isfinite(getattr(exact, name)(t, x)).all(), (name, time)


def test_event_shapes() -> None:
    shape, gen = (1, 4, 4), torch.Generator().manual_seed(0)
    means = torch.randn(2, *shape, dtype=F64, generator=gen)
    covariances = torch.stack([spd(16, 1), spd(16, 2)])
    base = Gaussian(shape, 0.3, 0.9)
    image = GaussianMixtureOracle(
        Process(Linear(Brownian()), base), GaussianMixture(means, covariances=covariances)
    )
    flat = GaussianMixtureOracle(
        Process(Linear(Brownian()), Gaussian((16,), 0.3, 0.9)),
        GaussianMixture(means.flatten(1), covariances=covariances),
    )
    t = torch.rand(5, dtype=F64, generator=gen)
    x = image.sample(t, 5, generator=gen, dtype=F64)
    assert x.shape == (5, 1, 4, 4)
    for name in QUANTITIES:
        value = getattr(image, name)(t, x)
        assert value.shape == x.shape
        close(value.flatten(1), getattr(flat, name)(t, x.flatten(1)), 1e-12)
    close(image.log_prob(t, x), flat.log_prob(t, x.flatten(1)), 1e-12)
    with pytest.raises(ValueError, match="states of shape"):
        image.velocity(t, x.flatten(1))
    with pytest.raises(ValueError, match="swapped"):
        image.velocity(x, t)


@pytest.mark.parametrize("path", ["linear-none", "linear-brownian", "one-linear"])
def test_high_dimension(path: str) -> None:
    d = 128
    process = Process(
        {**TWO_SIDED, **ONE_SIDED}[path], None if path == "one-linear" else mixture(d, 2, 1)
    )
    exact = GaussianMixtureOracle(process, mixture(d, 2, 2))
    t = torch.tensor(0.3, dtype=F64)
    x = exact.sample(t, 8, generator=torch.Generator().manual_seed(0), dtype=F64)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(exact.log_prob(t, x).sum(), x)
    close(exact.score(t, x).detach(), gradient, 1e-9)
    assert torch.isfinite(exact.velocity(t, x)).all()


def test_which_bases_are_shared() -> None:
    """Commuting pairs, and any pair without a latent, need no factorisation in a call."""
    full, plain = target("mixture"), Gaussian((D,), scale=torch.tensor([0.5, 2.0]))
    two, iso = mixture(D, 2, 3), GaussianMixture(torch.zeros(2, D), torch.tensor([0.5, 1.0]))
    latent = Linear(Brownian())
    assert GaussianMixtureOracle(Process(latent, Gaussian((D,))), full).diagonal
    assert GaussianMixtureOracle(Process(latent, iso), full).diagonal
    assert GaussianMixtureOracle(Process(Linear(), two), full).diagonal
    assert GaussianMixtureOracle(Process(SBDM()), full).diagonal
    assert not GaussianMixtureOracle(Process(latent, two), full).diagonal
    assert GaussianMixtureOracle(Process(latent, iso), plain).into is None


def test_weights_of_zero_are_left_out() -> None:
    rho1 = GaussianMixture(torch.randn(3, D), weights=[0.5, 0.0, 0.5])
    exact = GaussianMixtureOracle(Process(Linear(), Gaussian((D,))), rho1)
    x = torch.randn(4, D, dtype=F64, requires_grad=True)
    exact.log_prob(torch.tensor(1.0), x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_moves_as_a_module() -> None:
    exact = GaussianMixtureOracle(build("linear-brownian", "mixture"), target("mixture"))
    exact = copy.deepcopy(exact)
    assert all(buffer.dtype == F64 for name, buffer in exact.named_buffers() if name != "_like")
    assert exact.networks == ()
    assert exact.reference().shape == ()
    meta = exact.to("meta")
    assert {buffer.device.type for buffer in meta.buffers()} == {"meta"}
    x = torch.zeros(4, D, device="meta")
    for name in (*QUANTITIES, "log_prob"):  # nothing is left behind on another device
        assert getattr(meta, name)(torch.tensor(0.5), x).device.type == "meta"


class Bent(Interpolant):
    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return (1 - t) * x0 + t * x1 + t * (1 - t) * x0 * x1


def test_refusals() -> None:
    rho1 = target("mixture")
    with pytest.raises(ValueError, match="independent"):
        GaussianMixtureOracle(Process(Linear(), Gaussian((D,)), MinibatchOT()), rho1)
    with pytest.raises(ValueError, match="affine"):
        GaussianMixtureOracle(Process(Bent(), Gaussian((D,))), rho1)
    with pytest.raises(TypeError, match="the base must be a Gaussian"):
        GaussianMixtureOracle(Process(Linear(Brownian()), Uniform((D,))), rho1)
    with pytest.raises(TypeError, match="the data must be a Gaussian"):
        GaussianMixtureOracle(Process(Linear(), Gaussian((D,))), Uniform((D,)))
    with pytest.raises(ValueError, match="agree"):
        GaussianMixtureOracle(Process(Linear(), Gaussian((3,))), rho1)
    with pytest.raises(ValueError, match="of its own"):
        GaussianMixtureOracle(Process(Linear(), Gaussian((D,))), rho1, Gaussian((D,), 1.0))
    with pytest.raises(TypeError, match="no oracle"):
        oracle(Process(Linear(), Gaussian((D,))), Uniform((D,)))
    with pytest.raises(ValueError, match="no Gaussian part beside x1"):
        EmpiricalOracle(Process(Linear(Brownian()), mixture(D, 2, 1)), torch.randn(5, D))
    with pytest.raises(ValueError, match="NaN"):
        EmpiricalOracle(Process(SBDM()), torch.full((5, D), torch.nan))


def test_a_base_in_another_form() -> None:
    law = torch.distributions.MultivariateNormal(torch.zeros(D), torch.eye(D))
    given = GaussianMixtureOracle(
        Process(Linear(Brownian()), law), target("mixture"), base=Gaussian((D,))
    )
    own = GaussianMixtureOracle(Process(Linear(Brownian()), Gaussian((D,))), target("mixture"))
    t, x = rows(own)
    close(given.velocity(t, x), own.velocity(t, x), 1e-12)
    # The process does not know that its base is Gaussian, so its noise is that of the latent.
    gamma = Brownian().gamma(t)[:, None]
    close(given.noise(t, x), -gamma * own.score(t, x), 1e-12)


# ------------------------------------------------------------------------------- empirical data

EMPIRICAL = [
    *[(p, "-") for p in ONE_SIDED],
    ("linear-none", "standard"),
    ("linear-none", "isotropic"),
    ("linear-brownian", "isotropic"),
    ("trig-scaled-sine", "isotropic"),
    ("encdec", "isotropic"),
]


@pytest.mark.parametrize(("path", "base"), EMPIRICAL)
def test_empirical_oracle_is_the_softmax_and_a_mixture(path: str, base: str) -> None:
    process, gen = build(path, base), torch.Generator().manual_seed(0)
    points = torch.randn(37, D, dtype=F64, generator=gen)
    exact = oracle(process, points)
    assert isinstance(exact, EmpiricalOracle)
    t = TIMES.repeat_interleave(3)
    x = exact.sample(t, len(t), generator=gen) + 0.3
    m = 0.0 if process.noise_part.base_mean is None else process.noise_part.base_mean
    a, b = (f(t)[:, None] for f in (process.affine.alpha, process.affine.beta))
    gaps = (x - a * m)[:, None] - b[:, :, None] * points
    logits = -gaps.square().sum(-1) / (2 * process.noise_part.scale_sq(t)[:, None])
    close(exact.data(t, x), torch.softmax(logits, 1) @ points, 1e-10)
    scale_sq = process.noise_part.scale_sq(t)
    dense = logits.logsumexp(1) - math.log(37) - 0.5 * D * torch.log(2 * math.pi * scale_sq)
    close(exact.log_prob(t, x), dense, 1e-10)
    mixed = GaussianMixtureOracle(process, GaussianMixture(points, scale=1e-6))
    for name in QUANTITIES:
        close(getattr(exact, name)(t, x), getattr(mixed, name)(t, x), 1e-6)
    y = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(exact.log_prob(t, y).sum(), y)
    close(exact.score(t, x), gradient, 1e-9)
    check_continuity(exact, t, x, 1e-8)
    for block in (1, 5, 37):
        close(EmpiricalOracle(process, points, block=block).data(t, x), exact.data(t, x), 1e-12)


@pytest.mark.parametrize(
    ("path", "ends"),
    [("one-linear", (1.0,)), ("one-trig", (1.0,)), ("mirror-brownian", (0.0, 1.0))],
)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_empirical_oracle_without_noise_is_the_nearest_point(
    path: str, ends: tuple[float, ...], dtype: torch.dtype
) -> None:
    points = torch.randn(300, D, dtype=dtype, generator=torch.Generator().manual_seed(0))
    exact = EmpiricalOracle(build(path, "-"), points, block=64)
    x = torch.cat([points[:9], 1e3 * points[:9], points[:9] + 0.2])
    nearest = points[torch.cdist(x.double(), points.double()).argmin(1)]
    for end in ends:
        t = torch.tensor(end, dtype=dtype)
        torch.testing.assert_close(
            exact.data(t, x), nearest, rtol=0, atol=1e-14 if dtype == torch.float64 else 1e-6
        )
        with pytest.raises(ValueError, match="no density"):
            exact.log_prob(t, x)
        with pytest.raises(ConversionError):
            exact.noise(t, x)
    for time in (0.0, 1e-7, 0.5, 1 - 1e-7):
        assert torch.isfinite(exact.data(torch.tensor(time, dtype=dtype), x)).all()


def test_empirical_oracle_of_images_and_laws() -> None:
    points = torch.rand(20, 1, 3, 3)
    exact = oracle(Process(Linear(), Gaussian((1, 3, 3))), Empirical(points))
    x = exact.sample(torch.rand(2500), 2500)
    assert x.shape == (2500, 1, 3, 3)
    assert x.dtype == torch.float32
    d, v = exact.data(torch.tensor(0.5), x), exact.velocity(torch.tensor(0.5), x)
    assert d.shape == x.shape
    close(v, (d - x) / 0.5, 1e-5)
    assert isinstance(oracle(Process(SBDM()), target("full")), GaussianMixtureOracle)
    with pytest.raises(ValueError, match="agree"):
        oracle(Process(Linear(), Gaussian((2,))), points)


def test_empirical_oracle_of_rows_with_weights() -> None:
    """Weights of a law of rows are those of as many equal rows; rows of weight 0 are none."""
    points = torch.randn(6, D, dtype=F64, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([3, 1, 0, 2, 5, 1])
    process = Process(Linear(), Gaussian((D,)))
    weighted = oracle(process, Empirical(points, weights=counts.double()))
    repeated = EmpiricalOracle(process, points.repeat_interleave(counts, 0))
    assert isinstance(weighted, EmpiricalOracle)
    x = torch.randn(50, D, dtype=F64, generator=torch.Generator().manual_seed(1))
    for time in (0.0, 0.3, 0.9, 1.0):
        t = torch.tensor(time, dtype=F64)
        close(weighted.data(t, x), repeated.data(t, x), 1e-12)
        if time < 1:
            close(weighted.log_prob(t, x), repeated.log_prob(t, x), 1e-12)
            blocks = EmpiricalOracle(process, points, weights=0.1 * counts.double(), block=2)
            close(weighted.velocity(t, x), blocks.velocity(t, x), 1e-12)
    close(weighted.data(torch.tensor(1.0, dtype=F64), points)[[0, 1, 3]], points[[0, 1, 3]], 1e-12)
    drawn = weighted.sample(1.0, 12_000, generator=torch.Generator().manual_seed(2))
    shares = torch.bincount(torch.cdist(drawn, points).argmin(1), minlength=6) / 12_000
    assert float((shares - counts / 12).abs().max()) < 0.02
    assert float(shares[2]) == 0
    with pytest.raises(ValueError, match="weights must be"):
        EmpiricalOracle(process, points, weights=-counts.double())
