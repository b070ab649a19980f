"""Entries of house.py: laws of x_t, conversions, oracles, grids, SDEs, couplings, data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from _house import entry, loss_values, predicted, seeded, time_of_sigma, tpf, twice_excess

__all__ = ["FIELDS", "PATHS", "N", "exact", "mixture", "net", "normal", "process", "transformed"]

N = 48


def mixture() -> Any:
    """Three modes with covariances of their own, in the plane."""
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])
    roots = torch.tensor(
        [[[0.4, 0.0], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.5]], [[0.5, 0], [-0.2, 0.3]]]
    )
    return tpf.distributions.GaussianMixture(
        means, weights=[0.5, 0.3, 0.2], covariances=roots @ roots.mT
    )


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
    "linear, quadratic": lambda: (tpf.Linear(tpf.interpolants.Quadratic(0.8)), normal(0.3, 0.7)),
    "linear, sine squared": lambda: (tpf.Linear(tpf.interpolants.SineSquared(0.8)), normal()),
    "linear, sigmoid": lambda: (tpf.Linear(tpf.interpolants.Sigmoid(10.0)), normal()),
    "trigonometric": lambda: (tpf.Trigonometric(), normal()),
    "trigonometric, scaled": lambda: (
        tpf.Trigonometric(tpf.interpolants.Quadratic(0.8), scaled=True),
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
    "OU": lambda: (tpf.sdes.OrnsteinUhlenbeck(8.0), None),
    "DDPM chain": lambda: (tpf.sdes.DDPMChain(levels=50), None),
    "VE chain": lambda: (tpf.sdes.VEChain(0.05, 6.0, levels=30), None),
    "of a process": lambda: (
        tpf.sdes.InterpolantSDE(tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))),
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


def transformed() -> Any:
    """A field in other units than its data's."""
    change = tpf.Standardize.fit(3 * mixture().sample(200, generator=seeded(8)) + 1)
    return tpf.Velocity(net(), process(), transform=change)


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


def grids(path: str) -> dict[str, Any]:
    """Grids of times and noise levels."""
    own = process(path)
    sigmas = torch.tensor([0.2, 0.7, 1.5])
    return {
        "karras": tpf.solve.noise_grid(own, 9),
        **_tried(
            {
                s: lambda s=s: tpf.solve.noise_grid(own, 9, spacing=s)
                for s in ("uniform", "log_snr", "cosine", "quadratic")
            }
        ),
        "time of sigma": time_of_sigma(own, sigmas),
        "geometric levels": tpf.langevin.geometric_levels(own, 7),
        "time grid": tpf.solve.time_grid(9, breakpoints=[0.5]),
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


for path in PATHS:
    entry(f"law: {path}", law, path)
    for kind in FIELDS:
        if kind in ("velocity", "data", "two heads") or path in ("linear, Brownian", "VP", "SBDM"):
            entry(f"conversions: {path}: {kind}", conversions, path, kind)
    entry(f"oracle: {path}", oracle_values, path)


def twice(path: str) -> dict[str, Tensor]:
    """``excess`` of a small network over the exact field."""
    own = process(path)
    drawn = own.sample(mixture().sample(40, generator=seeded(21)), generator=seeded(3))
    return {
        quantity: twice_excess(FIELDS[quantity](own), tpf.oracle(own, mixture()), drawn, quantity)
        for quantity in ("velocity", "noise", "data")
    }


entry("excess: VP", twice, "VP")
entry("excess: linear", twice, "linear")


def values(kind: str, make: str, path: str) -> Tensor:
    """Losses of rows of an exact field."""
    return loss_values(
        getattr(tpf, make)(), exact(path), mixture().sample(40, generator=seeded(21)), 5
    )


for kind, make in (("velocity", "VelocityLoss"), ("noise", "NoiseLoss"), ("score", "ScoreLoss")):
    for path in ("linear, Brownian", "SBDM", "OU"):
        entry(f"loss of an exact field: {kind}, {path}", values, kind, make, path)


def couplings(method: str) -> dict[str, Tensor]:
    """Pairs of a minibatch."""
    x0, x1 = (mixture().sample(24, generator=seeded(k)) for k in (1, 2))
    a, b = tpf.MinibatchOT(method).pair(x0, x1, generator=seeded(4))
    return {"x0": a, "x1": b}


for method in ("exact", "sinkhorn"):
    entry(f"coupling: {method}", couplings, method)
for name in ("checkerboard", "two_moons", "eight_gaussians", "swiss_roll"):
    entry(f"dataset: {name}", lambda n=name: getattr(tpf, n)(50, generator=seeded(3)))
