"""Entries of house.py: Langevin methods, ascent, particles, Hamiltonian paths, likelihoods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from _house import entry, seeded, tpf
from _house_laws import FIELDS, N, exact, mixture, net, process, transformed

__all__: list[str] = []


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


def settled(tolerance: float, every: int, x: Tensor) -> Callable[[Any], None]:
    """A hook that stops when the mean displacement of a step is small, looked at now and then."""
    before = [x]

    def stop(moment: Any) -> None:
        displacement = (moment.x - before[0]).norm(dim=1).mean()
        before[0] = moment.x
        if moment.step % every == 0 and displacement <= tolerance:
            moment.stop()

    return stop


def particles(
    direction: Callable[[], Any] | None = None, goal: Any = target, **kwargs: Any
) -> dict:
    """``particle_flow`` onto the mixture."""
    options = {"steps": 8, "sigma": 0.8, "step": 0.4, **kwargs}
    options = {k: v() if isinstance(v, type(particles)) else v for k, v in options.items()}
    if "settled" in options:
        options["hooks"] = [settled(*options.pop("settled"), starts())]
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
    "tolerance": {"settled": (0.5, 2), "steps": 30},
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


# ----------------------------------------------------------------------------------- likelihoods


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
