"""Entries of house.py: ``sample`` in all its ways, ``integrate``, likelihoods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from _house import entry, few_step, seeded, tpf
from _house_laws import FIELDS, PATHS, N, exact, mixture, net, normal, process, transformed

__all__: list[str] = []


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
