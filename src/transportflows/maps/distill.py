"""A flow map of any field, by distillation, and how far it is from its teacher."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._core.arrays import DataLike
from .._core.checks import number, positive_integer
from .._core.random import draw_key, mix, stream
from .._core.reprs import summary
from .._core.signatures import checked
from ..draws import Batch
from ..fields import DataPredictor, Field, Velocity
from ..fields.base import check_field
from ..fields.null_conditions import given_transforms
from ..samplers import sample
from ..training import Trainer
from .distill_trial import Held, Trials, rows_to_start
from .equations import SemigroupLoss
from .flow_map import FlowMap
from .map_loss import MapLoss
from .two_times import student_network

__all__ = ["Distilled", "distill"]

_STEPS = (1, 2, 4)
_REFERENCE = 128  # steps of Heun of the solve that all are compared with
_TIMED = 20  # steps from which the time of a step is told
_FIRST = 0.4  # share of a run in which a network that knows nothing learns the tangent


@checked
@dataclass(frozen=True, eq=False)
class Distilled:
    """A flow map and what it is worth.

    Attributes:
        flow_map: the student; its averages where there were any.
        errors: rms distance of the ends from those of a refined solve of the teacher with the same
            starts, over the deviation of these, by what moved them: ``"teacher, 1 step"`` and so on
            by Heun, ``"map, 1 step"``; and ``"floor"``, of the solve of half the steps. Of a map to
            t = 1 only that of one step, since it makes others with noise.
        distances: of draws from the data, by the same names, where a distance was asked for; the
            floor is that of two halves of the data.
        steps: training steps done.
        loss: mean of the last tenth of the losses.
    """

    flow_map: FlowMap
    errors: Mapping[str, float]
    distances: Mapping[str, float]
    steps: int
    loss: float

    __repr__ = summary


@checked
def distill(
    field: Field,
    data: DataLike | Batch | Any,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    net: nn.Module | None = None,
    prediction: str | None = None,
    loss: MapLoss | None = None,
    fit: Mapping[str, Any] | None = None,
    cond: Mapping[str, Any] | Sequence[str] | None = None,
    measured: int = 2_000,
    distance: Callable[[Tensor, Tensor], Any] | None = None,
    generator: torch.Generator | None = None,
) -> Distilled:
    """Learn the flow map of a field: a network that takes its steps in one call.

    The student begins with the weights of the teacher's network where this is one of the library's
    (it then is an Euler step of the teacher, or of its data prediction one of DDIM); any other
    learns the teacher's velocity first, for two fifths of the time. Then it is trained by
    ``SemigroupLoss(field)``: of every way the first .05 by a step of the teacher, the rest by
    itself. The teacher is left as it is.

    Args:
        field: the teacher: any field with a velocity, a guided one too.
        data: what the teacher was trained on, ``(N, *)``, in the units of the data: what ``fit``
            takes, pairs too. Of a process without a base the errors are of starts x0 of pairs.
        minutes: of training, by the clock. For results that can be made again give ``steps``.
        steps: of training, in the place of minutes.
        net: of the student, ``net(s, t, x, **cond)``; that of the teacher by default.
        prediction: of the student; see :class:`FlowMap`. That of a student with the network of its
            teacher is the teacher's.
        loss: another one, such as ``LagrangianLoss(field)``; with one to t = 1 only, such as
            ``ConsistencyLoss(field)``, the student has ``to_data=True``.
        fit: arguments of the Trainer and of its ``fit``: ``batch_size``, ``lr``, ``ema``, ...
        cond: conditions of the rows of data, as for ``fit``.
        measured: starts on which the errors are measured, with conditions of rows of the data.
        distance: of samples from the data, such as ``tpf.metrics.wasserstein2``; None for none. The
            data then are tensors or a law.
        generator: source of all that is drawn.

    Raises:
        TypeError: if the student needs a network that was not given.
        ValueError: if neither minutes nor steps are given, or both.
        ConversionError: if the field has no velocity.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> teacher = tpf.Velocity(tpf.networks.MLP(2, 16, 1), process)
        >>> data = torch.randn(100, 2)
        >>> found = tpf.maps.distill(teacher, data, steps=5, fit={"progress": False}, measured=50)
        >>> sorted(found.errors)[:3]
        ['floor', 'map, 1 step', 'map, 2 steps']
    """
    check_field(field, "distill makes a map of")
    if (minutes is None) == (steps is None):
        raise ValueError(
            "say how long to train: minutes=5, by the clock, or steps=20_000; one of them"
        )
    if minutes is not None:
        minutes = number("minutes", minutes, "a positive number", above=0)
    key, told, measured = (
        draw_key(generator),
        _arguments(fit),
        positive_integer("measured", measured),
    )
    loss = SemigroupLoss(field) if loss is None else loss
    student, warm = _student(field, net, prediction, loss.pairs.to_data)
    trial = rows_to_start(student, data, cond, told.get("batch_size"), measured, mix(key, 1))
    known = _ends(field, student, trial, mix(key, 2))  # whatever is wrong is told before training
    held = None if distance is None else Held(distance, data, measured, mix(key, 3))
    run = _Run(student, data, cond, told, key)
    left = run.counted(loss, minutes) if steps is None else positive_integer("steps", steps)
    if not warm and (first := int(_FIRST * left)):
        run.train(SemigroupLoss(field, diagonal=1.0, pairs=loss.pairs), first)  # the tangent alone
        left -= first
    run.train(loss, left)
    ends = {**known, **_ends(None, run.flow_map, trial, mix(key, 2))}
    exact = ends.pop("teacher")
    scale = float(exact.double().var(0).mean().sqrt())
    errors = {name: _rms(x - exact) / scale for name, x in ends.items()}
    del ends["floor"]
    distances = {} if held is None else held.distances({"teacher": exact, **ends})
    return Distilled(run.flow_map, errors, distances, run.done, run.last)


class _Run:
    """The trainings of a student, one after another."""

    def __init__(
        self, student: FlowMap, data: Any, cond: Any, told: Mapping[str, Any], key: int
    ) -> None:
        self.flow_map, self.data, self.cond, self.key = student, data, cond, key
        names = [*inspect.signature(Trainer).parameters][2:]
        self.made = {name: value for name, value in told.items() if name in names}
        self.fit = {name: value for name, value in told.items() if name not in names}
        self.done, self.last, self.count = 0, math.nan, 0

    def counted(self, loss: MapLoss, minutes: float | None) -> int:
        """How many steps there are time for, after a few that count."""
        self.train(loss, 2)
        began = time.perf_counter()
        self.train(loss, _TIMED)
        each = (time.perf_counter() - began) / _TIMED
        return max(1, int(60 * (minutes or 0) / each) - _TIMED)

    def train(self, loss: MapLoss, steps: int) -> None:
        """Train the map, and go on with its averages."""
        trainer = Trainer(self.flow_map, loss, **self.made)
        self.count += 1
        history = trainer.fit(
            self.data, steps=steps, cond=self.cond, generator=stream(mix(self.key, 0, self.count)),
            **self.fit,
        )  # fmt: skip
        if trainer.ema is not None:
            with torch.no_grad():
                torch._foreach_copy_(trainer.ema.parameters, trainer.ema.averages)
        last = [float(value) for value in history.loss][-max(1, steps // 10) :]
        self.done, self.last = self.done + steps, sum(last) / len(last)


def _student(field: Field, net: Any, prediction: str | None, to_data: bool) -> tuple[FlowMap, bool]:
    """The student, and whether it begins as its teacher."""
    own = None
    if net is None and type(field) in (Velocity, DataPredictor):
        kind = field.outputs[0]
        own = student_network(field.net) if prediction in (None, kind) else None
        prediction = kind if own is not None else prediction
    if net is None and own is None:
        raise TypeError(
            f"a student of this {type(field).__name__} cannot begin as its network; give one,"
            " net=tpf.maps.TwoTimes(tpf.networks.MLP(shape, vectors={'stop': 9})), with the"
            " conditions that the field takes"
        )
    student = FlowMap(
        own if net is None else net,  # type: ignore[arg-type]
        field.process,
        prediction=prediction or "velocity",
        to_data=to_data,
        transform=field.transform,
        cond_transforms=given_transforms(field).get("cond_transforms"),
    )
    return student, own is not None


def _arguments(fit: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the Trainer and its fit are given."""
    told = {"ema": 0.999, "scheduler": "cosine", **(fit or {})}
    for name in ("steps", "cond", "generator", "loss", "field", "data"):
        if name in told:
            raise ValueError(f"fit holds {name!r}, which is distill's own; give {name}= to it")
    for name in ("resume", "checkpoints"):
        if name in told:
            raise ValueError(
                f"fit holds {name!r}, and distill trains in several short runs, which leave no"
                " checkpoints; to go on after a stop, train FlowMap(net, field.process) with a"
                " Trainer and SemigroupLoss(field)"
            )
    known = {*inspect.signature(Trainer).parameters, *inspect.signature(Trainer.fit).parameters}
    if unknown := told.keys() - known:
        raise ValueError(
            f"fit holds {sorted(unknown)[0]!r}, which neither a Trainer nor its fit takes"
        )
    return told


def _ends(field: Field | None, flow_map: FlowMap, trial: Trials, key: int) -> dict[str, Tensor]:
    """Where the trial starts are taken, by what took them: the field, or without one the map."""

    def ends(of: Field, steps: int, **how: Any) -> Tensor:
        return sample(of, steps=steps, generator=stream(key), **trial, **how).x

    counts = {k: f"{k} step{'s' if k > 1 else ''}" for k in _STEPS}
    if field is None:
        own = {k: name for k, name in counts.items() if k == 1 or not flow_map.to_data}
        return {f"map, {name}": ends(flow_map, k) for k, name in own.items()}
    ends(flow_map, 1)  # as after the training
    found = {"teacher": _REFERENCE, "floor": _REFERENCE // 2}
    found |= {f"teacher, {name}": k for k, name in counts.items()}
    return {name: ends(field, k, scheme="heun") for name, k in found.items()}


def _rms(error: Tensor) -> float:
    return float(error.double().square().mean().sqrt())
