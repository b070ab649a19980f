"""Entries of house.py: Langevin methods, ascent, particles, Hamiltonian paths, metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from _house import entry, seeded, tpf
from _house_sampling import FIELDS, N, exact, mixture, net, process

__all__: list[str] = []


def told(found: Any, depth: int = 0) -> dict[str, Any]:
    """The numbers of a result: fields of a dataclass, and its methods that ``extra`` names."""
    if isinstance(found, (tuple, list)):
        return {f"{k}": v for k, part in enumerate(found) for k, v in _numbered(k, part, depth)}
    if isinstance(found, Mapping):
        return dict(found)
    if not dataclasses.is_dataclass(found):
        return {"value": found}
    parts = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    return {
        name: torch.as_tensor(part, dtype=torch.float64)
        for name, part in parts.items()
        if isinstance(part, (Tensor, float, int)) and not isinstance(part, bool)
    }


def _numbered(k: int, part: Any, depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in told(part, depth + 1).items():
        yield f"{k} {name}", value


def moved(found: Any, *parts: str) -> dict[str, Any]:
    """Where states are, and some parts of the solution."""
    values = {part: getattr(found, part) for part in ("x", "nfe", "trajectory", *parts)}
    return {name: value for name, value in values.items() if value is not None}


def starts() -> Tensor:
    """States to begin with."""
    return 2 * torch.randn(N, 2, generator=seeded(41))


# -------------------------------------------------------------------------- Langevin and the like


def langevin(score: Callable[[], Any], **kwargs: Any) -> dict[str, Any]:
    """``langevin`` along a score."""
    options = {"steps": 15, "step_size": 0.05, **kwargs}
    found = tpf.langevin(score(), starts(), generator=seeded(3), **options)
    return moved(found, "step_size", "acceptance")


def density() -> Any:
    """The score of a log-density."""
    return tpf.score_of(mixture().log_prob)


def at_end() -> Any:
    """That of a field near the data."""
    return tpf.score_at(exact("linear"), 0.9)


entry("langevin: ULA", langevin, at_end)
entry("langevin: ULA, network", langevin, lambda: tpf.score_at(tpf.Score(net(), process()), 1.0))
entry(
    "langevin: temperature, saved, chunks",
    langevin,
    density,
    temperature=0.5,
    save_at=[0, 7, 15],
    chunk=9,
)
entry("langevin: MALA", langevin, density, metropolis=True)
entry(
    "langevin: MALA, warm-up",
    langevin,
    density,
    metropolis=True,
    warmup=30,
    steps=40,
    step_size=0.5,
)
entry(
    "langevin: MALA, another score",
    langevin,
    at_end,
    metropolis=True,
    log_prob=lambda x: -x.square().sum(1),
)


def annealed(path: str, **kwargs: Any) -> dict[str, Any]:
    """``annealed_langevin`` of an exact field."""
    field = exact(path) if path != "network" else FIELDS["score"](process("VE"))
    options = {"levels": 4, "steps_per_level": 3, **kwargs}
    return moved(tpf.annealed_langevin(field, N, generator=seeded(3), **options))


for path in ("VE", "VP", "linear", "network"):
    entry(f"annealed Langevin: {path}", annealed, path)
entry(
    "annealed Langevin: levels saved, plain",
    annealed,
    "VE",
    save_levels=True,
    denoise=False,
    rescale=False,
    chunk=11,
)
entry("annealed Langevin: own levels", annealed, "VP", levels=[0.1, 0.4, 0.8, 0.95], step_size=0.3)
entry(
    "ascent",
    lambda: moved(
        tpf.ascend(at_end(), starts(), step_size=0.05, steps=20), "residual", "converged"
    ),
)
entry(
    "ascent, saved, chunks",
    lambda: moved(
        tpf.ascend(density(), starts(), step_size=0.02, steps=9, save_at=[0, 4], chunk=7)
    ),
)


def hamiltonian(**kwargs: Any) -> dict[str, Any]:
    """``hamiltonian`` paths of the mixture."""
    options = {"step_size": 0.2, "steps": 6, "leapfrog": 4, **kwargs}
    found = tpf.hamiltonian(mixture(), starts(), generator=seeded(3), **options)
    return moved(found, "acceptance")


entry("hamiltonian", hamiltonian)
entry("hamiltonian, no test, saved", hamiltonian, metropolis=False, save_at=[0, 3, 6])


# ------------------------------------------------------------------------------------- particles


def target() -> Tensor:
    """Rows of the law that particles go to."""
    return mixture().sample(60, generator=seeded(42))


def particles(
    direction: Callable[[], Any] | None = None, goal: Any = target, **kwargs: Any
) -> dict:
    """``particle_flow`` onto the mixture."""
    options = {"steps": 8, "sigma": 0.8, "step": 0.4, **kwargs}
    options = {k: v() if isinstance(v, type(particles)) else v for k, v in options.items()}
    found = tpf.particle_flow(
        starts(),
        None if goal is None else goal(),
        direction=None if direction is None else direction(),
        generator=seeded(3),
        **options,
    )
    return moved(found)


def logit(x: Tensor) -> Tensor:
    """A discriminator."""
    return x.sin().sum(1)


def law() -> Any:
    """The target's law, smoothed."""
    return tpf.SmoothedLaw(mixture())


DIRECTIONS: dict[str, tuple[Callable[[], Any], Any]] = {
    "kernels": (lambda: tpf.KernelDifference(), target),
    "data of a sample": (lambda: tpf.DataDifference(tpf.SampleData(target())), None),
    "data of a field": (lambda: tpf.DataDifference(tpf.FieldData(exact("VE"))), None),
    "data of a law and a sample": (
        lambda: tpf.DataDifference(mixture(), tpf.SampleData(starts())),
        None,
    ),
    "scores": (lambda: tpf.ScoreDifference(mixture()), None),
    "scores of two laws": (lambda: tpf.ScoreDifference(mixture(), tpf.Gaussian((2,))), None),
    "MMD": (lambda: tpf.MMDGradient(), target),
    "MMD, normalised, injected": (lambda: tpf.MMDGradient(normalized=True, injection=0.3), target),
    "Stein": (lambda: tpf.SteinDirection(mixture()), None),
    "discriminator": (lambda: tpf.DiscriminatorDifference(logit), None),
    "discriminator, non-saturating": (
        lambda: tpf.DiscriminatorDifference(logit, loss="non_saturating"),
        None,
    ),
    "loss": (lambda: tpf.LossGradient(lambda x: x.square().sum(1)), None),
}
for label, (make, goal) in DIRECTIONS.items():
    for noise in ("fresh", "carried"):
        entry(f"particles: {label}, {noise}", particles, make, goal, noise=noise)
FLOWS: dict[str, dict[str, Any]] = {
    "batches": {"batch_size": 12},
    "batches, all move": {"batch_size": 12, "move_all": True},
    "the target moves": {"moves": "target"},
    "saved": {"save_at": [0.0, 0.5, 1.0]},
    "automatic step": {"step": None},
    "cosine": {
        "sigma": lambda: tpf.CosineSigma(2.0, 0.4),
        "step": lambda: tpf.CosineStep(0.5, floor=0.2),
    },
    "modified cosine": {
        "sigma": lambda: tpf.ModifiedCosineSigma(2.0, 0.4),
        "step": lambda: tpf.ExponentialStep(0.5),
    },
    "exponential": {
        "sigma": lambda: tpf.ExponentialSigma(2.0, 0.4),
        "step": lambda: tpf.ConstantStep(0.5),
    },
    "diffusion step": {
        "sigma": lambda: tpf.ExponentialSigma(2.0, 0.4),
        "step": lambda: tpf.DiffusionStep(),
    },
    "tolerance": {"tolerance": 0.5, "every": 2, "steps": 30},
}
for label, options in FLOWS.items():
    entry(f"particles: {label}", particles, None, **options)
entry("particles: a law", particles, None, mixture)


def with_density(**kwargs: Any) -> dict[str, Any]:
    """``flow_with_log_density`` of a few rows."""
    found = tpf.flow_with_log_density(
        0.5 * starts()[:12],
        kwargs.pop("goal", target)(),
        log_prob=tpf.Gaussian((2,)),
        generator=seeded(3),
        **{"steps": 4, "sigma": 0.9, "step": 0.2, **kwargs},
    )
    return {"x": found.solution.x, "log_prob": found.log_prob}


entry("flow with density: exact", with_density)
entry("flow with density: hutchinson", with_density, divergence="hutchinson", probes=3)
entry("flow with density: carried", with_density, noise="carried")
entry("kernel mean", lambda: tpf.kernel_mean(starts(), target(), 0.7))


def smoothed() -> dict[str, Tensor]:
    """A law with noise, its score and its data prediction."""
    own, z = law(), starts()
    return {"log_prob": own.log_prob(z, 0.6), "score": own.score(z, 0.6), "data": own.data(z, 0.6)}


entry("smoothed law", smoothed)

# --------------------------------------------------------------------------------------- metrics


def pair() -> tuple[Tensor, Tensor]:
    """Two samples in three dimensions."""
    x = torch.randn(60, 3, generator=seeded(51))
    return x, 1.2 * torch.randn(80, 3, generator=seeded(52)) + 0.3


def metric(name: str, *args: Any, seed: bool = False, **kwargs: Any) -> dict[str, Any]:
    """A metric of the two samples."""
    options = {k: v() if callable(v) else v for k, v in kwargs.items()}
    if seed:
        options["generator"] = seeded(53)
    return told(getattr(tpf, name)(*pair(), *args, **options))


METRICS: dict[str, dict[str, Any]] = {
    "wasserstein1": {},
    "wasserstein2": {},
    "optimal_pairs": {},
    "corrected_wasserstein2": {"seed": True},
    "wasserstein2_error": {"seed": True, "blocks": 4},
    "entropic_wasserstein2": {"epsilon": 0.5},
    "sinkhorn_divergence": {"epsilon": 0.5},
    "sliced_wasserstein2": {"seed": True},
    "max_sliced_wasserstein2": {"seed": True, "starts": 3, "steps": 5},
    "gaussian_wasserstein2": {},
    "mmd2": {},
    "energy_distance": {},
    "energy_test": {"seed": True, "permutations": 49},
    "characteristic_distance": {"seed": True},
    "sliced_kolmogorov_test": {"seed": True},
    "kl_kernel_density": {},
    "jensen_shannon_kernel_density": {},
    "kl_nearest_neighbours": {},
    "nearest_neighbours": {},
    "coverage": {},
    "mean_error": {},
    "covariance_error": {},
    "moment_summary": {},
    "median_bandwidth": {},
    "frechet_distance": {},
    "kernel_distance": {},
}
for name, options in METRICS.items():
    entry(f"metric: {name}", metric, name, **options)
entry("metric: mmd2, multiscale", metric, "mmd2", kernel=lambda: tpf.GaussianKernel.multiscale(1.0))
entry(
    "metric: mmd2, rational quadratic",
    metric,
    "mmd2",
    kernel=lambda: tpf.RationalQuadraticKernel(),
    unbiased=False,
)
entry("metric: energy distance, unbiased", metric, "energy_distance", unbiased=True, block_size=16)


def classified() -> dict[str, Any]:
    """A classifier's test; its network is float32 by default, whatever the default dtype."""
    torch.set_default_dtype(torch.float32)
    x, y = (part.float() for part in pair())
    return told(tpf.classifier_test(x, y, generator=seeded(53)))


entry("metric: classifier_test", classified)


def standard_score(x: Tensor) -> Tensor:
    """Of a standard Gaussian."""
    return -x


entry("metric: stein", lambda: told(tpf.kernel_stein_discrepancy(pair()[1], standard_score)))
entry("metric: fisher", lambda: told(tpf.fisher_divergence(pair()[0], standard_score, torch.sin)))
entry(
    "metric: KL of log-densities",
    lambda: told(tpf.kl_log_densities(pair()[0][:, 0], pair()[0][:, 1])),
)
entry("metric: modes", lambda: told(tpf.mode_weights(target(), mixture())))
entry("metric: holm", lambda: told(tpf.holm([0.01, 0.04, 0.3, 0.02, 0.5, 0.6])))


def report() -> dict[str, Any]:
    """All metrics at once, with their floors."""
    found = tpf.evaluate(*pair(), generator=seeded(3))
    return {row.name: torch.tensor([row.value, row.floor]) for row in found.rows}


entry("metric: report", report)


def small(kind: str = "velocity", path: str = "linear, Brownian") -> Any:
    """A field of a small network."""
    return FIELDS[kind](process(path))


DIAGNOSTICS: dict[str, Callable[[], Any]] = {
    "loss by time": lambda: tpf.loss_by_time(
        small(), tpf.VelocityLoss(), target(), times=5, generator=seeded(3)
    ),
    "consistency": lambda: tpf.consistency(
        small("velocity and noise"), target(), times=4, generator=seeded(3)
    ),
    "path geometry": lambda: tpf.path_geometry(
        small(path="linear"), 20, steps=6, generator=seeded(3)
    ),
    "error by calls": lambda: tpf.error_by_nfe(
        exact("linear"), lambda x: float(x.square().mean()), n=20, steps=(3, 5), generator=seeded(3)
    ),
    "oracle errors": lambda: tpf.oracle_errors(
        small("velocity and noise"), exact("linear, Brownian"), n=64, times=6, generator=seeded(3)
    ),
    "KL identity": lambda: tpf.ode_kl_identity(
        small(path="linear"), exact("linear"), n=20, times=3, steps=6, generator=seeded(3)
    ),
    "prior bias": lambda: tpf.prior_bias(exact("VE"), 30, steps=10, generator=seeded(3)),
}
for name, make in DIAGNOSTICS.items():
    entry(f"diagnostic: {name}", lambda m=make: numbers(m()))


def numbers(found: Any) -> dict[str, Any]:
    """All numbers of a result, those of its parts too."""
    parts: dict[str, Any] = {}
    items = (
        found.items()
        if isinstance(found, Mapping)
        else ((f.name, getattr(found, f.name)) for f in dataclasses.fields(found))
        if dataclasses.is_dataclass(found)
        else enumerate(found)
    )
    for name, value in items:
        if isinstance(value, (Tensor, float, int)):
            parts[str(name)] = value
        elif value is not None and not isinstance(value, str):
            parts |= {f"{name}.{k}": v for k, v in numbers(value).items()}
    return parts
