"""Entries of house.py: every loss and source of ``fit``, by short runs of a small network."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from _house import entry, seeded, tpf
from _house_laws import FIELDS, mixture, net, process

__all__: list[str] = []

LEVELS = [0.1, 0.3, 0.6, 0.8, 0.95]


def rows(n: int = 60, seed: int = 21) -> Tensor:
    """Data."""
    return mixture().sample(n, generator=seeded(seed))


class Stream(IterableDataset):
    """Rows one after another."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(rows())


def layers(*sizes: int) -> nn.Sequential:
    """A plain network, with weights from torch's generator, which each entry seeds."""
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        parts += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*parts[:-1])


def fitted(
    field: Callable[[], Any],
    loss: Callable[[], Any],
    data: Callable[[], Any] = rows,
    fit: dict[str, Any] | None = None,
    **trainer: Any,
) -> dict[str, Any]:
    """Seven steps: losses, rates, gradient norms, weights, averages."""
    own, options = field(), {"steps": 7, "batch_size": 16, **(fit or {})}
    options = {k: v for k, v in options.items() if v is not None}
    options = {k: v() if callable(v) else v for k, v in options.items()}
    settings = {k: v() if callable(v) else v for k, v in trainer.items()}
    made = tpf.Trainer(own, loss(), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = made.fit(data(), progress=False, generator=seeded(31), **options)
    told = {
        "loss": torch.as_tensor(history.loss),
        "norm": torch.as_tensor(history.gradient_norm.value),
        "weights": torch.cat([p.detach().reshape(-1) for p in made.parameters]),
    }
    if "scheduler" in settings:
        told["rate"] = torch.as_tensor(history.learning_rate)
    told |= {f"term {name}": torch.as_tensor(v) for name, v in history.terms.items()}
    if len(history.validation.loss):
        told["validation"] = torch.as_tensor(history.validation.loss)
    if made.ema is not None:
        with made.averaged():
            told["averages"] = torch.cat([p.detach().reshape(-1) for p in made.parameters])
    return told


def of(kind: str, path: str = "linear", **kwargs: Any) -> Callable[[], Any]:
    """A field of this kind on this path."""
    return lambda: FIELDS[kind](process(path, **{k: v() for k, v in kwargs.items()}))


def edm(path: str) -> Callable[[], Any]:
    """A preconditioned field."""
    return lambda: tpf.EDM(net(), process(path))


def velocity_loss() -> Any:
    """The plain loss."""
    return tpf.VelocityLoss()


# ------------------------------------------------------------------------------- losses, weights

LOSSES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "velocity": (of("velocity"), velocity_loss),
    "velocity, VP": (of("velocity", "VP"), velocity_loss),
    "velocity, Brownian, antithetic": (
        of("velocity", "linear, Brownian"),
        lambda: tpf.VelocityLoss(antithetic=True),
    ),
    "noise": (of("noise", "VP"), lambda: tpf.NoiseLoss()),
    "noise, two-sided": (of("noise", "linear, Brownian"), lambda: tpf.NoiseLoss()),
    "data": (of("data", "VE"), lambda: tpf.DataLoss()),
    "score": (of("score", "SubVP"), lambda: tpf.ScoreLoss()),
    "score without its constant": (of("score", "VP"), lambda: tpf.ScoreLoss(constant=False)),
    "pair, a sequence": (
        of("velocity and noise", "linear, Brownian"),
        lambda: [tpf.VelocityLoss(), tpf.NoiseLoss()],
    ),
    "pair, a sum": (
        of("two heads", "linear, Brownian"),
        lambda: tpf.SumLoss(tpf.MeanVelocityLoss(), tpf.NoiseLoss()),
    ),
    "pair, antithetic": (
        of("velocity and score", "linear, Brownian"),
        lambda: [tpf.VelocityLoss(antithetic=True), tpf.ScoreLoss(antithetic=True)],
    ),
    "EDM": (
        edm("VE"),
        lambda: tpf.DataLoss(weight=tpf.EDMWeight(), times=tpf.EDMTimes()),
    ),
    "autoencoder": (of("data", "linear"), lambda: tpf.DenoisingAutoencoderLoss([0.3, 1.0])),
    "implicit score": (of("score", "linear"), lambda: tpf.ImplicitScoreLoss()),
    "sliced score": (of("score", "linear"), lambda: tpf.SlicedScoreLoss(probes=2)),
    "sliced score, plain": (
        of("score", "linear"),
        lambda: tpf.SlicedScoreLoss(variance_reduced=False, probe_law="gaussian", at=0.9),
    ),
    "variational": (of("noise", "VP"), lambda: tpf.VariationalLoss(LEVELS)),
    "variational, data, antithetic": (
        of("data", "linear, Brownian"),
        lambda: tpf.VariationalLoss(LEVELS, antithetic=True),
    ),
    "likelihood": (of("velocity"), lambda: tpf.LikelihoodLoss(scheme="heun", steps=4)),
    "likelihood, exact": (
        of("velocity"),
        lambda: tpf.LikelihoodLoss(divergence="exact", scheme="rk4", steps=3),
    ),
}
for label, (field, loss) in LOSSES.items():
    entry(f"fit: {label}", fitted, field, loss)

for label, weight in {
    "unit, data": lambda: tpf.UnitWeight("data"),
    "unit, velocity": lambda: tpf.UnitWeight("velocity"),
    "likelihood": lambda: tpf.LikelihoodWeight(),
    "min-SNR": lambda: tpf.MinSNRWeight(),
    "EDM": lambda: tpf.EDMWeight(),
    "variational": lambda: tpf.VariationalWeight(LEVELS),
    "a function": lambda: lambda t: 1 + t,
}.items():
    for kind, make in (("noise", "NoiseLoss"), ("data", "DataLoss"), ("velocity", "VelocityLoss")):
        grid = (lambda: tpf.GridTimes(LEVELS)) if label == "variational" else (lambda: None)
        entry(
            f"fit: weight {label}, {kind}",
            fitted,
            of(kind, "VP"),
            lambda w=weight, m=make, g=grid: getattr(tpf, m)(weight=w(), times=g()),
        )

for label, times in {
    "uniform": lambda: tpf.UniformTimes(margin=0.02),
    "stratified": lambda: tpf.StratifiedTimes(),
    "logit-normal": lambda: tpf.LogitNormalTimes(0.3, 1.2),
    "grid": lambda: tpf.GridTimes(LEVELS),
    "log-SNR": lambda: tpf.LogSNRTimes(),
    "EDM": lambda: tpf.EDMTimes(),
    "σ": lambda: tpf.SigmaTimes([0.3, 1.0, 2.0]),
}.items():
    entry(
        f"fit: times {label}",
        fitted,
        of("noise", "VE"),
        lambda m=times: tpf.NoiseLoss(times=m()),
    )
    if label not in ("grid", "σ"):
        entry(
            f"fit: times {label}, importance",
            fitted,
            of("data", "VP"),
            lambda m=times: tpf.DataLoss(times=m(), importance=True, antithetic=True),
        )

# ---------------------------------------------------------------------------- settings, sources

SETTINGS: dict[str, dict[str, Any]] = {
    "EMA": {"ema": 0.9},
    "clip": {"clip": 0.05},
    "cosine": {"scheduler": "cosine", "warmup": 2},
    "step": {"scheduler": "step"},
    "cosine with a floor": {"scheduler": lambda: tpf.Cosine(floor=0.2, steps=9)},
    "step decay": {"scheduler": lambda: tpf.StepDecay(every=2, factor=0.5)},
    "accumulate": {"accumulate": 4},
    "all": {"ema": 0.99, "clip": 1.0, "scheduler": "cosine", "accumulate": 2, "lr": 3e-3},
}
for label, options in SETTINGS.items():
    entry(f"fit: {label}", fitted, of("velocity"), velocity_loss, **options)
entry("fit: SGD", fitted, of("velocity"), velocity_loss, optimizer=lambda: sgd)
entry(
    "fit: validation",
    fitted,
    of("velocity"),
    velocity_loss,
    fit={"validation": lambda: rows(30, 22), "validation_every": 3},
    ema=0.9,
)


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimizer of the caller's."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def labelled() -> Any:
    """A field with a condition."""
    return tpf.Velocity(net(labels=3), process())


def paired() -> tuple[Tensor, Tensor]:
    """Rows that belong together."""
    return rows(60, 23), rows(60, 24)


def standardized() -> Any:
    """A field with a transform."""
    return tpf.Velocity(net(), process(), transform=tpf.Standardize.fit(rows()))


def classes() -> Tensor:
    """A label for each row."""
    return torch.arange(60) % 3


entry("fit: pairs", fitted, of("velocity", coupling=lambda: tpf.Paired()), velocity_loss, paired)
entry(
    "fit: a batch of conditions",
    fitted,
    labelled,
    velocity_loss,
    lambda: tpf.Batch(rows(), cond={"label": classes()}),
)
entry(
    "fit: conditions", fitted, labelled, velocity_loss, fit={"cond": lambda: {"label": classes()}}
)
entry("fit: a dataset", fitted, of("velocity"), velocity_loss, lambda: TensorDataset(rows()))
entry(
    "fit: a dataset with labels",
    fitted,
    labelled,
    velocity_loss,
    lambda: TensorDataset(rows(), classes()),
    fit={"cond": ("label",)},
)
entry("fit: a stream", fitted, of("velocity"), velocity_loss, Stream)
entry(
    "fit: a loader",
    fitted,
    of("velocity"),
    velocity_loss,
    lambda: DataLoader(TensorDataset(rows()), batch_size=16, shuffle=True),
    fit={"batch_size": None},
)
entry("fit: a law", fitted, of("velocity"), velocity_loss, mixture)
entry("fit: transform", fitted, standardized, velocity_loss)
for method in ("exact", "sinkhorn"):
    entry(
        f"fit: minibatch OT, {method}",
        fitted,
        of("velocity", coupling=lambda m=method: tpf.MinibatchOT(m)),
        velocity_loss,
    )


def generator_of_particles() -> Any:
    """A network from latents to samples in one call."""
    return tpf.OneStepGenerator(layers(2, 8, 2), 2, shape=(2,))


entry(
    "fit: moved targets",
    fitted,
    generator_of_particles,
    lambda: tpf.MovedTargetLoss(sigma=0.7, step=0.5),
)
entry(
    "fit: moved targets, two scales, references",
    fitted,
    generator_of_particles,
    lambda: tpf.MovedTargetLoss(sigma=[0.4, 1.0], references=20, target=rows()),
)
entry(
    "fit: adversarial", fitted, generator_of_particles, lambda: tpf.AdversarialLoss(layers(2, 8, 1))
)
