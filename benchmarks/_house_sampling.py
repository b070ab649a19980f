"""Entries of house.py: laws, conversions, ``sample``, ``integrate``, SDEs, likelihoods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from _house import entry, few_step, predicted, seeded, tpf

__all__ = ["FIELDS", "PATHS", "law", "mixture", "net", "process"]

N = 48


def mixture() -> Any:
    """Three modes with covariances of their own, in the plane."""
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])
    roots = torch.tensor(
        [[[0.4, 0.0], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.5]], [[0.5, 0], [-0.2, 0.3]]]
    )
    return tpf.GaussianMixture(means, weights=[0.5, 0.3, 0.2], covariances=roots @ roots.mT)


def net(seed: int = 1, **kwargs: Any) -> Any:
    """A small network."""
    return tpf.MLP(2, width=16, depth=2, frequencies=2, generator=seeded(seed), **kwargs)


def normal(mean: Any = 0.0, scale: Any = 1.0) -> Any:
    """A Gaussian base of the plane."""
    return tpf.Gaussian((2,), mean, scale)


PATHS = {
    "linear": lambda: (tpf.Linear(), normal()),
    "linear, mean and scale": lambda: (tpf.Linear(), normal(torch.tensor([1.0, -0.5]), 1.5)),
    "linear, Brownian": lambda: (tpf.Linear(tpf.Brownian(1.0)), normal()),
    "linear, quadratic": lambda: (tpf.Linear(tpf.Quadratic(0.8)), normal(0.3, 0.7)),
    "linear, sine squared": lambda: (tpf.Linear(tpf.SineSquared(0.8)), normal()),
    "linear, sigmoid": lambda: (tpf.Linear(tpf.Sigmoid(10.0)), normal()),
    "trigonometric": lambda: (tpf.Trigonometric(), normal()),
    "trigonometric, scaled": lambda: (
        tpf.Trigonometric(tpf.Quadratic(0.8), scaled=True),
        normal(0.5),
    ),
    "encoder-decoder": lambda: (tpf.EncoderDecoder(), normal()),
    "mirror": lambda: (tpf.Mirror(tpf.Brownian(1.0)), None),
    "one-sided linear": lambda: (tpf.OneSidedLinear(), None),
    "one-sided trigonometric": lambda: (tpf.OneSidedTrigonometric(), None),
    "SBDM": lambda: (tpf.SBDM(), None),
    "VE": lambda: (tpf.VE(0.02, 8.0), None),
    "VP": lambda: (tpf.VP(), None),
    "SubVP": lambda: (tpf.SubVP(), None),
    "OU": lambda: (tpf.OrnsteinUhlenbeck(8.0), None),
    "DDPM chain": lambda: (tpf.DDPMChain(levels=50), None),
    "VE chain": lambda: (tpf.VEChain(0.05, 6.0, levels=30), None),
    "of a process": lambda: (
        tpf.InterpolantSDE(tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))),
        None,
    ),
}
"""Interpolants and bases by name; a base of None where the path brings its own."""


def process(name: str = "linear", **kwargs: Any) -> Any:
    """The law of one of ``PATHS``."""
    path, base = PATHS[name]()
    return (
        tpf.Process(path, shape=(2,), **kwargs)
        if base is None
        else tpf.Process(path, base, **kwargs)
    )


def exact(name: str) -> Any:
    """Its exact field."""
    return tpf.oracle(process(name), mixture())


FIELDS = {
    "velocity": lambda law: tpf.Velocity(net(), law),
    "score": lambda law: tpf.Score(net(), law),
    "noise": lambda law: tpf.NoisePredictor(net(), law),
    "data": lambda law: tpf.DataPredictor(net(), law),
    "velocity and noise": lambda law: tpf.FieldPair(velocity=net(), noise=net(2), process=law),
    "mean velocity and noise": lambda law: tpf.FieldPair(
        mean_velocity=net(), noise=net(2), process=law
    ),
    "velocity and score": lambda law: tpf.FieldPair(velocity=net(), score=net(2), process=law),
    "two heads": lambda law: tpf.FieldPair(
        heads=net(heads=2), outputs=("mean_velocity", "noise"), process=law
    ),
}
TARGETS = ("velocity", "mean_velocity", "score", "noise", "data")


COEFFICIENTS = ("alpha", "beta", "alpha_dot", "beta_dot", "gamma_sq", "gamma_sq_dot")


def law(name: str) -> dict[str, Any]:
    """What is drawn of x_t, and its targets."""
    drawn = process(name).sample(
        mixture().sample(N, generator=seeded(3)), antithetic=False, generator=seeded(4)
    )
    t = torch.linspace(0.05, 0.95, 7)
    own = process(name)
    return {
        "t": drawn.t,
        "x": drawn.x,
        "z": drawn.z,
        "velocity": drawn.velocity,
        "mean velocity": drawn.mean_velocity,
        **_tried({"noise": lambda: drawn.noise, "data": lambda: drawn.data}),
        "coefficients": torch.stack([getattr(own.interpolant, c)(t) for c in COEFFICIENTS]),
    }


def _tried(parts: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, part in parts.items():
        try:
            found[name] = part()
        except (ValueError, TypeError) as error:
            found[name] = type(error).__name__
    return found


def conversions(path: str, kind: str) -> dict[str, Any]:
    """All that a field gives inside and at the ends, and what it refuses.

    What is over 1e6 is a rounding error divided by another, and only said to be.
    """
    field = FIELDS[kind](process(path))
    x = torch.randn(16, 2, generator=seeded(5))
    given, refused = [], []
    for where, t in (
        ("", torch.linspace(0.03, 0.97, 16)),
        (" at 0", torch.zeros(16)),
        (" at 1", torch.ones(16)),
    ):
        found = _tried({q: lambda q=q, t=t: predicted(field, q, t, x) for q in TARGETS})
        for quantity, value in found.items():
            if isinstance(value, str):
                refused.append(f"{quantity}{where}".replace("_velocity", ""))
            elif float(value.detach().abs().max()) > 1e6:
                refused.append(f"huge {quantity}{where}")
            else:
                given.append(value)
    return {"values": torch.stack(given), "refused": ", ".join(refused)}


def oracle_values(path: str) -> dict[str, Any]:
    """Exact quantities and log-densities."""
    field = exact(path)
    t = torch.linspace(0.05, 0.95, 16)
    x = torch.randn(16, 2, generator=seeded(5))
    values = _tried({q: lambda q=q: predicted(field, q, t, x) for q in TARGETS})
    return {
        "values": torch.stack([v for v in values.values() if torch.is_tensor(v)]),
        "refused": "; ".join(q for q, v in values.items() if isinstance(v, str)),
        "log_prob": field.log_prob(torch.tensor(0.6), x),
    }


def solution(field: Any, n: int | None = N, parts: tuple[str, ...] = (), **kwargs: Any) -> dict:
    """``sample``: where it ends and how many calls it took."""
    found = tpf.sample(field, n, generator=seeded(kwargs.pop("seed", 11)), **kwargs)
    told = {"x": found.x, "nfe": found.nfe}
    if found.trajectory is not None:
        told["trajectory"] = found.trajectory
    return told | {part: torch.as_tensor(getattr(found, part)) for part in parts}


def of(field: Any, **kwargs: Any) -> Any:
    """An entry of ``sample``; the field and its options are made when it runs."""

    def run() -> dict:
        options = {k: v() if callable(v) else v for k, v in kwargs.items()}
        return solution(field(), **options)

    return run


def backward() -> dict[str, Any]:
    """Options of a solve from the data to the base."""
    return {"t": (1.0, 0.0), "n": None, "start": lambda: mixture().sample(N, generator=seeded(6))}


# ---------------------------------------------------------------------------------- the entries

for path in PATHS:
    entry(f"law: {path}", law, path)
    for kind in FIELDS:
        if kind in ("velocity", "data", "two heads") or path in ("linear, Brownian", "VP", "SBDM"):
            entry(f"conversions: {path}: {kind}", conversions, path, kind)
    entry(f"oracle: {path}", oracle_values, path)
    for noisy in (0.0, 0.5) if path != "mirror" else ():
        entry(
            f"sample: oracle, {path}, ε = {noisy}",
            of(lambda p=path: exact(p), epsilon=noisy, steps=12),
        )
    if path not in ("linear, quadratic", "linear, sigmoid", "OU", "one-sided trigonometric"):
        entry(
            f"sample: oracle backward, {path}, ε = 0.2",
            of(lambda p=path: exact(p), epsilon=0.2, steps=12, **backward()),
        )

EPSILONS = {
    "a function": lambda: lambda t: 0.3 + 0.2 * t,
    "noise scale": lambda: tpf.NoiseScaleEpsilon(0.7),
    "noise variance": lambda: tpf.NoiseVarianceEpsilon(0.7),
    "Anderson": lambda: tpf.AndersonEpsilon(),
    "twice Anderson": lambda: tpf.AndersonEpsilon(2.0),
    "churn": lambda: tpf.ChurnEpsilon(5.0),
}
for label, schedule in EPSILONS.items():
    for path in ("linear", "VE", "linear, Brownian"):
        entry(
            f"sample: ε {label}, {path}",
            of(lambda p=path: exact(p), epsilon=lambda s=schedule: s(), steps=16),
        )
    entry(
        f"sample: ε {label}, exponential 2, VP",
        of(
            lambda: exact("VP"),
            epsilon=lambda s=schedule: s(),
            steps=10,
            scheme=lambda: tpf.Exponential(2),
        ),
    )

for scheme in ("euler", "midpoint", "heun", "rk4", "euler_maruyama"):
    for path in ("linear", "VP", "encoder-decoder", "linear, Brownian"):
        entry(f"sample: {scheme}, ODE, {path}", of(lambda p=path: exact(p), scheme=scheme, steps=9))
        if scheme not in ("euler", "midpoint"):
            for direction in ("forward", "backward"):
                way = backward() if direction == "backward" else {}
                entry(
                    f"sample: {scheme}, ε = 0.5, {direction}, {path}",
                    of(lambda p=path: exact(p), scheme=scheme, epsilon=0.5, steps=9, **way),
                )
for scheme in ("dopri5", "bosh3"):
    entry(f"sample: {scheme}", of(lambda: exact("linear"), scheme=scheme, rtol=1e-4, atol=1e-4))
    entry(
        f"sample: {scheme}, saved",
        of(lambda: exact("encoder-decoder"), scheme=scheme, save_at=[0.25, 0.7, 1.0]),
    )

FEW = ("ddim", "ancestral", "dpm2m", "dpm3m", "deis2", "deis3", "ab2", "ab3", "unipc2", "unipc3")
for name in FEW:
    for path in ("linear", "VP", "VE"):
        entry(f"sample: {name}, {path}", of(lambda p=path: exact(p), scheme=name, steps=8))
    entry(
        f"sample: {name}, network",
        of(
            lambda: tpf.NoisePredictor(net(), process("VP")),
            scheme=lambda n=name: few_step(n),
            steps=8,
            t=(0.0, 0.99),
        ),
    )
MORE = {
    "Exponential(1)": lambda: tpf.Exponential(1),
    "Exponential(3, noise)": lambda: tpf.Exponential(3, "noise"),
    "Exponential(2, corrector)": lambda: tpf.Exponential(2, corrector=True),
    "DDIM(0.5)": lambda: tpf.DDIM(0.5),
    "Ancestral(large)": lambda: tpf.Ancestral("large"),
}
for name, make in MORE.items():
    for noisy in (0.0, 0.4):
        if noisy == 0 or name.startswith("Exponential"):
            entry(
                f"sample: {name}, ε = {noisy}",
                of(lambda: exact("VP"), scheme=make, epsilon=noisy, steps=10),
            )

for kind in FIELDS:
    for path in ("linear", "VP", "linear, Brownian", "SBDM"):
        entry(
            f"sample: {kind}, {path}, ε = 0 and 0.3",
            of(lambda k=kind, p=path: FIELDS[k](process(p)), epsilon=[0.0, 0.3], steps=8),
        )
for path in ("linear", "VP", "VE", "one-sided linear"):
    entry(
        f"sample: EDM, {path}", of(lambda p=path: tpf.EDM(net(), process(p)), epsilon=0.3, steps=8)
    )
    entry(
        f"sample: EDM, few steps, {path}",
        of(lambda p=path: tpf.EDM(net(), process(p)), scheme="dpm2m", steps=8),
    )


def transformed() -> Any:
    """A field in other units than its data's."""
    change = tpf.Standardize.fit(3 * mixture().sample(200, generator=seeded(8)) + 1)
    return tpf.Velocity(net(), process(), transform=change)


def of_labels() -> Any:
    """A field with a condition."""
    return tpf.Velocity(net(labels=3), process())


def labels() -> dict[str, Tensor]:
    """A label for each row."""
    return {"label": torch.arange(N) % 3}


def uniform_pair() -> Any:
    """A base that is not Gaussian."""
    own = tpf.Process(tpf.Linear(tpf.Brownian(0.5)), tpf.Uniform((2,), -1.0, 2.0))
    return tpf.FieldPair(velocity=net(), noise=net(2), process=own)


def full_base() -> Any:
    """A base with a full covariance."""
    root = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    own = tpf.Process(tpf.Linear(tpf.Brownian(0.5)), tpf.Gaussian((2,), scale_tril=root))
    return tpf.oracle(own, mixture())


SAVED = {"save_at": [0.0, 0.3, 0.77, 1.0]}
SINGLE: dict[str, tuple[Any, dict[str, Any]]] = {
    "sweep": (
        lambda: exact("linear"),
        {"epsilon": lambda: [0.0, 0.5, tpf.NoiseScaleEpsilon(0.3), 0.0]},
    ),
    "sweep, saved, chunks": (lambda: exact("VP"), {"epsilon": [0.2, 0.0], "chunk": 7, **SAVED}),
    "saved, ODE": (lambda: exact("linear"), SAVED),
    "saved, SDE": (lambda: exact("linear, Brownian"), {"epsilon": 0.3, **SAVED}),
    "saved, few steps": (lambda: exact("VP"), {"scheme": "dpm2m", **SAVED}),
    "chunks": (lambda: exact("linear"), {"epsilon": 0.3, "chunk": 5}),
    "own grid": (lambda: exact("linear"), {"t": [0.0, 0.1, 0.4, 0.8, 1.0], "epsilon": 0.2}),
    "part of the time": (
        lambda: exact("linear"),
        {"t": (0.2, 0.7), "epsilon": 0.2, "start": lambda: normal()},
    ),
    "margin": (lambda: exact("SBDM"), {"margin": 0.01, "epsilon": 0.2}),
    "window and margin": (lambda: exact("VP"), {"epsilon": 0.2, "parts": ("margin",)}),
    "Brownian path": (
        lambda: exact("linear"),
        {"noise": lambda: tpf.BrownianPath(), "epsilon": 0.4},
    ),
    "Brownian path, rk4": (
        lambda: exact("linear"),
        {"noise": lambda: tpf.BrownianPath(), "epsilon": 0.4, "scheme": "rk4"},
    ),
    "corrector": (
        lambda: exact("VP"),
        {
            "corrector": lambda: tpf.LangevinCorrector(snr=0.16),
            "epsilon": lambda: tpf.AndersonEpsilon(),
        },
    ),
    "corrector, ODE, two steps": (
        lambda: exact("linear"),
        {"corrector": lambda: tpf.LangevinCorrector(snr=0.1, steps=2)},
    ),
    "corrector, ddim": (
        lambda: exact("VE"),
        {"corrector": lambda: tpf.LangevinCorrector(snr=0.1), "scheme": "ddim"},
    ),
    "conditions": (of_labels, {"cond": labels, "chunk": 10}),
    "conditions, sweep": (of_labels, {"cond": labels, "epsilon": [0.0, 0.4]}),
    "transform": (transformed, {"epsilon": 0.2}),
    "transform, saved, tensor": (
        transformed,
        {"n": None, "start": lambda: mixture().sample(N, generator=seeded(6)), **SAVED},
    ),
    "uniform base": (uniform_pair, {"epsilon": 0.2}),
    "full covariance": (full_base, {"epsilon": 0.2}),
    "start from a law": (lambda: exact("VE"), {"start": lambda: tpf.Gaussian((2,), 0.1, 8.0)}),
    "Karras grid": (
        lambda: exact("VE"),
        {"t": lambda: tpf.noise_grid(process("VE"), 10), "steps": 10, "epsilon": 0.1},
    ),
    "exponential spacing": (lambda: exact("linear"), {"spacing": "cosine"}),
}
for label, (make, options) in SINGLE.items():
    entry(f"sample: {label}", of(make, **{"steps": 8, **options}))


def integrated(**kwargs: Any) -> dict[str, Any]:
    """``integrate`` along functions."""
    x = torch.randn(N, 2, generator=seeded(5))
    grid = tpf.time_grid(10)
    found = tpf.integrate(
        lambda t, y: torch.sin(3 * t) * y.flip(1) - y, x, grid, generator=seeded(9), **kwargs
    )
    told = {"x": found.x, "nfe": found.nfe}
    return told if found.trajectory is None else told | {"trajectory": found.trajectory}


for scheme in ("euler", "midpoint", "heun", "rk4"):
    entry(f"integrate: {scheme}", integrated, scheme=scheme)
for scheme in ("euler_maruyama", "heun", "rk4"):
    entry(f"integrate: {scheme}, ε", integrated, scheme=scheme, epsilon=0.4, save_at=[0.5, 1.0])
entry("integrate: chunks, ε(t)", integrated, epsilon=lambda t: 0.1 + t, chunk=6)


def grids(path: str) -> dict[str, Any]:
    """Grids of times and noise levels."""
    own = process(path)
    sigmas = torch.tensor([0.2, 0.7, 1.5])
    return {
        "karras": tpf.noise_grid(own, 9),
        **_tried(
            {
                s: lambda s=s: tpf.noise_grid(own, 9, spacing=s)
                for s in ("uniform", "log_snr", "cosine", "quadratic")
            }
        ),
        "time of sigma": tpf.time_of_sigma(own, sigmas),
        "geometric levels": tpf.geometric_levels(own, 7),
        "time grid": tpf.time_grid(9, breakpoints=[0.5]),
    }


for path in ("linear", "VP", "VE", "SubVP", "one-sided trigonometric"):
    entry(f"grids: {path}", grids, path)


def sde(path: str) -> dict[str, Any]:
    """Coefficients, marginals and simulated paths."""
    own = PATHS[path]()[0]
    tau = torch.linspace(0.02, 0.98, 9)
    x1 = mixture().sample(N, generator=seeded(6))
    taus = torch.tensor([0.0, 0.2, 0.5, 0.9])
    mean, scale = own.marginal(torch.tensor(0.4), x1)
    rates = ("a", "sigma_sq", "a_dot", "sigma_sq_dot", "drift_rate", "diffusion_sq")
    return {
        "coefficients": torch.stack([getattr(own, name)(tau) for name in rates]),
        "mean": mean,
        "scale": scale,
        "prior": own.prior_scale if isinstance(own.prior_scale, float) else own.prior_scale(),
        "path": own.sample_path(x1, taus, generator=seeded(3)),
        "drift": own.drift(torch.tensor(0.4), x1),
        "steps": own.times(5) if hasattr(own, "times") else None,
    }


for path in ("VE", "VP", "SubVP", "OU", "DDPM chain", "VE chain", "of a process"):
    entry(f"SDE: {path}", sde, path)


def likelihood(field: Any, **kwargs: Any) -> dict[str, Any]:
    """``log_likelihood`` of some data."""
    x = mixture().sample(12, generator=seeded(6))
    found = tpf.log_likelihood(field(), x, generator=seeded(2), **kwargs)
    return {
        "log_prob": found.log_prob,
        "standard error": found.standard_error,
        "latent": found.latent,
        "nfe": found.nfe,
    }


for path in ("linear", "VP", "VE", "linear, mean and scale"):
    for how in ("exact", "hutchinson"):
        entry(
            f"log-likelihood: {how}, {path}",
            likelihood,
            lambda p=path: FIELDS["noise" if p in ("VP", "VE") else "velocity"](process(p)),
            divergence=how,
            scheme="heun",
            steps=8,
            probes=3,
        )
entry("log-likelihood: dopri5", likelihood, lambda: exact("linear"), rtol=1e-4, atol=1e-4)
entry("log-likelihood: transform, rk4", likelihood, transformed, scheme="rk4", steps=5, chunk=5)
entry(
    "log-likelihood: normal probes",
    likelihood,
    lambda: exact("VP"),
    divergence="hutchinson",
    probe_law="gaussian",
    scheme="euler",
    steps=6,
)


def sampled_likelihood(field: Any, **kwargs: Any) -> dict[str, Any]:
    """``sample_with_log_likelihood``."""
    found = tpf.sample_with_log_likelihood(field(), 12, generator=seeded(2), **kwargs)
    return {"x": found.x, "log_prob": found.log_prob, "standard error": found.standard_error}


for how in ("exact", "hutchinson"):
    entry(
        f"sample with log-likelihood: {how}",
        sampled_likelihood,
        transformed,
        divergence=how,
        scheme="heun",
        steps=8,
    )
entry(
    "sample with log-likelihood: VP",
    sampled_likelihood,
    lambda: exact("VP"),
    scheme="heun",
    steps=8,
)


def bound(path: str, kind: str) -> dict[str, Any]:
    """``variational_bound``."""
    field = FIELDS[kind](process(path)) if kind in FIELDS else tpf.EDM(net(), process(path))
    x = mixture().sample(12, generator=seeded(6))
    levels = torch.linspace(0.02, 0.98, 9)
    found = tpf.variational_bound(field, x, levels, draws=2, generator=seeded(2))
    return {
        "reconstruction": found.reconstruction,
        "denoising": found.denoising,
        "prior": found.prior,
        "nats": found.nats,
    }


for path in ("VP", "linear", "VE"):
    for kind in ("noise", "data", "EDM"):
        entry(f"variational bound: {kind}, {path}", bound, path, kind)
