r"""Iterated Markovian fitting: a Schrödinger bridge by training on what the field itself pairs.

A law of pairs (x0, x1), joined by Brownian bridges of variance a, has a Markovian projection: the
process of :mod:`.drifts`, which has the same laws of x_t, and pairs its own ends otherwise. Where
it pairs them as they were paired it is the Schrödinger bridge; the divergence to that falls with
each projection (Shi, De Bortoli, Campbell and Doucet 2023, "Diffusion Schrödinger bridge matching",
theorem 8; Peluchetti 2023, "Diffusion bridge mixture transports"). So in each round

- pairs are simulated, in turn forward from draws of ρ0 and backward from draws of ρ1, so that one
  end of each round is given and not made;
- the field is trained on them from where it stands, a :class:`BridgeDrift` only in the other
  direction, of which the given end is the goal.

The first pairs are any: independent ones, or better those of an entropic plan of regularisation 2a.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._core import container
from .._core.arguments import shown
from .._core.arrays import DataLike, together
from .._core.checks import check_events, check_finite_rows, positive_integer
from .._core.digests import digest
from .._core.random import draw_key, stream
from .._core.registry import told
from .._core.signatures import checked
from ..couplings import Paired
from ..fields import Field
from ..samplers import sample
from ..training import Trainer
from ..training.differences import differences
from .drifts import BridgeDrift, bridge_variance
from .fit_arguments import check_fit

__all__ = ["Round", "iterate"]

_FILE = "rounds.tpf"
_SAMPLED = "euler_maruyama"
_QUIET = ("progress", "workers", "callbacks")  # of a fit, which change no numbers


@checked
@dataclass(frozen=True)
class Round:
    """One round of fitting.

    Attributes:
        pairs: which way the pairs were made: ``"given"``, ``"forward"`` or ``"backward"``.
        cost: ``E|x1 - x0|²`` of the pairs, in the units of the data. It falls to that of the
            bridge's plan from above where the first pairs were independent.
        loss: mean of the last tenth of the losses.
    """

    pairs: str
    cost: float
    loss: float


@checked
def iterate(
    field: Field,
    x0: DataLike,
    x1: DataLike,
    *,
    rounds: int,
    fit: Mapping[str, Any],
    steps: int = 50,
    pairs: tuple[DataLike, DataLike] | None = None,
    trainer: Callable[[Field], Trainer] | None = None,
    folder: str | os.PathLike[str] | None = None,
    generator: torch.Generator | None = None,
) -> list[Round]:
    """Fit a field to the Schrödinger bridge between two samples, in rounds; in place.

    Args:
        field: both drifts (:class:`BridgeDrift`), or a pair such as
            ``FieldPair(mean_velocity=..., noise=...)``, of a process with the path
            ``Linear(Brownian(a))`` and ``coupling=Paired()``.
        x0: draws of ρ0, ``(N, *)``, in the units of the data.
        x1: draws of ρ1, ``(M, *)``.
        rounds: how many, the first, on the given pairs, included; odd numbers end with the forward
            drift fitted last.
        fit: what ``Trainer.fit`` takes beside the data, in each round: ``{"steps": 2_000,
            "batch_size": 512}``.
        steps: Euler-Maruyama steps of a simulation.
        pairs: first pairs, as many rows each; x0 and x1 in random order if None, as many as the
            smaller has.
        trainer: makes the trainer of a round, of the field or of one of its drifts: ``lambda field:
            Trainer(field, lr=1e-3, ema=0.999)``. With averages the field goes on from these.
        folder: where the field and the rounds done are kept after each of them. Called again with
            the same folder, seed and arguments (but for more rounds) it goes on from there, with
            the bits of a run that was never stopped.
        generator: source of randomness; one key is drawn from it.

    Returns:
        What was done in each round, those of an earlier call included.

    Raises:
        ValueError: if the path is no Brownian bridge, the coupling is not Paired, one drift alone
            is given, or the folder holds rounds of other data, arguments or networks.
        ConversionError: if the field lacks what simulates its pairs.

    Example:
        >>> import transportflows as tpf
        >>> draws = torch.Generator().manual_seed(0)
        >>> x0, x1 = torch.randn(200, 1, generator=draws), 3 + torch.randn(300, 1, generator=draws)
        >>> process = tpf.Process(tpf.Linear(tpf.Brownian(1.0)), coupling=tpf.Paired())
        >>> nets = [tpf.networks.MLP(1, width=8, depth=1, generator=draws) for _ in range(2)]
        >>> field = tpf.bridges.BridgeDrift(forward=nets[0], backward=nets[1], process=process)
        >>> done = tpf.bridges.iterate(field, x0, x1, rounds=3, steps=5, generator=draws,
        ...                            fit={"steps": 5, "batch_size": 32, "progress": False})
        >>> [one.pairs for one in done]
        ['given', 'backward', 'forward']
    """
    epsilon = float(bridge_variance(field.process)) / 2
    if not isinstance(field.process.coupling, Paired) or field.process.coupling.condition_on_start:
        raise ValueError(
            "the pairs of each round are given to the field, so its process needs"
            f" coupling=Paired(), got {field.process.coupling!r}"
        )
    if isinstance(field, BridgeDrift) and len(field.outputs) == 1:
        raise ValueError(
            f"rounds go forward and backward, and this field has the {field.outputs[0][:-6]} drift"
            " alone; write BridgeDrift(forward=..., backward=..., process=...)"
        )
    like = field.reference()
    x0, x1 = together(("x0", "x1"), x0, x1, like=like)
    given: tuple[Tensor, Tensor] | None = None
    if pairs is not None:
        starts, ends = together(("pairs[0]", "pairs[1]"), *pairs, like=like)
        given = starts, ends
    for name, rows in (("x0", x0), ("x1", x1)):
        check_events(rows, field.process.shape, name, "the process")
        check_finite_rows(rows, name)
    check_fit(fit)
    positive_integer("rounds", rounds)
    positive_integer("steps", steps)
    if rounds > 1 and not isinstance(field, BridgeDrift):
        for needed in ("velocity", "score"):
            field.weights(needed, torch.tensor([0.5], dtype=torch.float64))
    field.process.coupling.path_epsilon = epsilon  # so that sampling with another is told
    key, file = draw_key(generator), None if folder is None else Path(folder) / _FILE
    of = {} if file is None else _described(field, x0, x1, given, steps, fit)
    done = _found(field, file, key, of)
    for k in range(len(done), rounds):
        way = "given" if k == 0 else "backward" if k % 2 else "forward"
        if way == "given":
            made = _first(x0, x1, key) if given is None else given
        else:
            made = _simulated(field, way, x0, x1, epsilon, steps, stream(key, k, 1))
        losses = _fitted(_part(field, way), made, trainer, fit, stream(key, k, 2))
        last = losses[-max(1, len(losses) // 10) :]
        cost = (made[1] - made[0]).flatten(1).square().sum(1).mean()
        done.append(Round(way, float(cost), sum(last) / len(last)))
        _keep(field, file, key, of, done)
    return done


def _first(x0: Tensor, x1: Tensor, key: int) -> tuple[Tensor, Tensor]:
    """Independent pairs."""
    n = min(len(x0), len(x1))
    first, second = (
        torch.randperm(len(rows), generator=stream(key, 0, end))[:n].to(rows.device)
        for end, rows in enumerate((x0, x1))
    )
    return x0[first], x1[second]


def _simulated(
    field: Field,
    way: str,
    x0: Tensor,
    x1: Tensor,
    epsilon: float,
    steps: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Pairs of the field's own, one end of which is given."""
    start, times = (x0, (0.0, 1.0)) if way == "forward" else (x1, (1.0, 0.0))
    end = sample(
        field, start=start, epsilon=epsilon, t=times, steps=steps, scheme=_SAMPLED,
        generator=generator,
    ).x  # fmt: skip
    return (start, end) if way == "forward" else (end, start)


def _part(field: Field, way: str) -> Field:
    """What is trained: of pairs made forward x0 is given, and the backward drift is to reach it."""
    if way == "given" or not isinstance(field, BridgeDrift):
        return field
    name = "backward" if way == "forward" else "forward"
    told = field.config()
    del told["forward" if name == "backward" else "backward"]
    return BridgeDrift(**told)


def _fitted(
    field: Field,
    pairs: tuple[Tensor, Tensor],
    trainer: Callable[[Field], Trainer] | None,
    fit: Mapping[str, Any],
    generator: torch.Generator,
) -> list[float]:
    """Train, keep the averages where there are any, and give the losses."""
    run = Trainer(field) if trainer is None else trainer(field)
    if not isinstance(run, Trainer):
        raise TypeError(
            f"trainer makes a Trainer of a field, and it gave {shown(run)}; write trainer=lambda"
            " field: Trainer(field, lr=1e-3)"
        )
    history = run.fit(pairs, generator=generator, **fit)
    if run.ema is not None:
        with torch.no_grad():
            torch._foreach_copy_(run.ema.parameters, run.ema.averages)
    return [float(value) for value in history.loss]


def _described(
    field: Field,
    x0: Tensor,
    x1: Tensor,
    pairs: tuple[Tensor, Tensor] | None,
    steps: int,
    fit: Mapping[str, Any],
) -> dict[str, Any]:
    """What rounds must have in common to go on from each other."""
    weights = {name: str(tuple(value.shape)) for name, value in field.state_dict().items()}
    return {
        "kind": type(field).__name__,
        "process": told(field.process, sums=True),
        "transform": told(field.transform, sums=True),
        "x0": f"{tuple(x0.shape)} {digest(x0)}",
        "x1": f"{tuple(x1.shape)} {digest(x1)}",
        "pairs": None if pairs is None else digest(*pairs),
        "steps": steps,
        "fit": {
            name: value
            for name, value in fit.items()
            if name not in _QUIET and isinstance(value, (bool, int, float, str))
        },
        "field": {name: at for name, at in weights.items() if not name.startswith("process.")},
    }


def _found(field: Field, file: Path | None, key: int, of: Mapping[str, Any]) -> list[Round]:
    """The rounds that a file has, whose weights are put in the place of the field's."""
    if file is None or not file.exists():
        return []
    header, tree = container.read(file)
    if header.get("key") != key:
        raise ValueError(
            f"{file} holds rounds of another seed; give generator= the seed of those, or another"
            " folder"
        )
    apart = differences(header.get("of", {}), of)
    if apart:
        order = [*of]
        name, was, now = min(apart, key=lambda one: order.index(one[0].split(".")[0]))
        raise ValueError(
            f"{file} holds rounds of another run: {name} was {was} and is {now}"
            f"{f', and {len(apart) - 1} more' if len(apart) > 1 else ''}; give what those were"
            " begun with, or another folder"
        )
    field.load_state_dict(tree["field"])
    return [Round(**one) for one in header["rounds"]]


def _keep(
    field: Field, file: Path | None, key: int, of: Mapping[str, Any], done: list[Round]
) -> None:
    """Write the weights and what was done, in one file, at once."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    rounds = [asdict(one) for one in done]
    header = {"kind": "rounds of a bridge", "key": key, "of": of, "rounds": rounds}
    container.write(file, header, {"field": dict(field.state_dict())})
