"""Collects what a loop hands over without waiting for the device; reads it a block at a time."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._core.distributed import World
from .._core.precision import widest, widest_dtype
from .history import Curve, Floats, History, Pace, Series, TimeProfile

__all__ = ["COLUMNS", "TOGETHER", "Recorder"]

BINS = 10
WINDOW = 100
_MANY = 4096


class _Waiting(NamedTuple):
    step: int
    values: Tensor  # of this process's rows, (b,) or (terms, b), or a sum over them
    times: Tensor | None  # their times, (b,), or bins, (2, BINS): sums and counts
    rows: int  # of the whole batch
    rate: float | Tensor
    norm: Tensor | None


class Recorder:
    """What was read of a run so far, and what waits to be read.

    Args:
        names: names of the terms of the loss; with none, a step's loss is one number.
        world: the processes of the run, over whose rows losses are summed.
    """

    def __init__(self, names: Sequence[str] = (), world: World | None = None) -> None:
        self.names = tuple(names)
        self.world = World() if world is None else world
        self._waiting: list[_Waiting] = []
        self._validations: list[tuple[int, Tensor]] = []
        self._columns: dict[str, array[Any]] = {name: array(kind) for name, kind in COLUMNS.items()}
        self._terms = [array("d") for _ in self.names]
        self._profile_step = array("q")
        self._profile_sums: list[Floats] = []  # (2, BINS) a window: sums of losses, counts

    def __repr__(self) -> str:
        names = f", terms {list(self.names)}" if self.names else ""
        return f"Recorder({len(self._columns['step'])} steps read, {self.waiting} waiting{names})"

    # --------------------------------------------------------------------------------- writing

    def add(
        self,
        step: int,
        values: Tensor,
        rate: float | Tensor,
        *,
        times: Tensor | None = None,
        rows: int | None = None,
        norm: Tensor | None = None,
    ) -> None:
        """Hand over a step; nothing is read yet.

        Args:
            step: counted from 1.
            values: the loss of this process's rows, ``(b,)``, or its terms, ``(K, b)``.
            rate: the learning rate.
            times: of these rows, ``(b,)``.
            rows: of the whole batch, over all processes.
            norm: norm of the gradient, ``()``.
        """
        count = values.shape[-1] if rows is None else rows
        if values.shape[-1] > _MANY:  # too large to keep; below that, a sum each costs more
            if times is not None:
                times = _binned(_terms(values).unsqueeze(0), times.unsqueeze(0))[0]
            values = values.sum(-1, keepdim=True, dtype=widest_dtype(values.device))
        self._waiting.append(_Waiting(step, values, times, count, rate, norm))

    def add_validation(self, step: int, loss: Tensor) -> None:
        """Hand over a validation loss, ``()``; not read yet."""
        self._validations.append((step, loss))

    def add_pace(self, step: int, seconds: float, steps: int, rows: int) -> None:
        """Record how long some steps took."""
        for name, value in (
            ("pace_step", step),
            ("pace_seconds", seconds),
            ("pace_steps", steps),
            ("pace_rows", rows),
        ):
            self._columns[name].append(value)

    @property
    def waiting(self) -> int:
        """How many steps were handed over and not read."""
        return len(self._waiting)

    # --------------------------------------------------------------------------------- reading

    def read(self) -> Floats:
        """Read the steps that wait, in one transfer, and return their mean losses."""
        losses = np.empty(0)
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            losses = self._read(waiting)
        for step, loss in self._validations:
            self._columns["validation_step"].append(step)
            self._columns["validation_loss"].append(float(loss))
        self._validations = []
        return losses

    def _read(self, waiting: list[_Waiting]) -> Floats:
        sums, bins = _summed(waiting)
        if self.world.size > 1:
            self.world.sum_(sums, *([] if bins is None else [bins]))
        norms = [w.norm for w in waiting if w.norm is not None]
        parts = [sums.flatten(), *([widest(torch.stack(norms))] if norms else [])]
        parts += [] if bins is None else [bins.flatten()]
        numbers = torch.cat([part.to(sums.device) for part in parts]).cpu().numpy()
        rows = np.array([w.rows for w in waiting])
        means = numbers[: sums.numel()].reshape(sums.shape) / rows[:, None]
        losses: Floats = means.sum(1)
        columns = self._columns
        columns["step"].extend([w.step for w in waiting])
        columns["loss"].extend(losses.tolist())
        columns["rate"].extend([float(w.rate) for w in waiting])
        for term, column in zip(self._terms, means.T if self.names else (), strict=True):
            term.extend(column.tolist())
        place = sums.numel()
        columns["norm_step"].extend([w.step for w in waiting if w.norm is not None])
        columns["norm"].extend(numbers[place : place + len(norms)].tolist())
        if bins is not None:
            by_step = numbers[place + len(norms) :].reshape(len(waiting), 2, BINS)
            for w, one in zip(waiting, by_step, strict=True):
                self._add_profile(w.step, one)
        return losses

    def _add_profile(self, step: int, bins: Floats) -> None:
        """Add a step's bins to those of its window."""
        if not self._profile_step or (self._profile_step[-1] - 1) // WINDOW != (step - 1) // WINDOW:
            self._profile_step.append(step)
            self._profile_sums.append(np.zeros((2, BINS)))
        self._profile_step[-1] = step
        self._profile_sums[-1] += bins

    def first_bad(self, losses: Floats) -> int | None:
        """The step of the first loss that is not finite, of those that ``read`` gave last."""
        bad = np.flatnonzero(~np.isfinite(losses))
        step = self._columns["step"]
        return int(step[len(step) - len(losses) + bad[0]]) if len(bad) else None

    @property
    def last_validation(self) -> float | None:
        """The validation loss read last."""
        losses = self._columns["validation_loss"]
        return losses[-1] if losses else None

    def history(self, after: int = 0) -> History:
        """What was read so far, or of the steps after one, as arrays of its own.

        A window of the losses by time is in it whole where it ends after that step.
        """
        columns = self._columns
        from_ = {
            name: bisect_right(columns[name], after)
            for name in ("step", "validation_step", "norm_step", "pace_step")
        }

        def part(name: str, along: str) -> NDArray[Any]:
            return _copied(columns[name][from_[along] :])

        terms = zip(self.names, self._terms, strict=True)
        return History(
            step=part("step", "step"),
            loss=part("loss", "step"),
            learning_rate=part("rate", "step"),
            validation=Curve(
                part("validation_step", "validation_step"),
                part("validation_loss", "validation_step"),
            ),
            terms={name: _copied(term[from_["step"] :]) for name, term in terms},
            gradient_norm=Series(part("norm_step", "norm_step"), part("norm", "norm_step")),
            by_time=self._profile(bisect_right(self._profile_step, after)),
            pace=Pace(
                part("pace_step", "pace_step"),
                part("pace_seconds", "pace_step"),
                part("pace_steps", "pace_step"),
                part("pace_rows", "pace_step"),
            ),
        )

    def _profile(self, first: int) -> TimeProfile | None:
        if not self._profile_step:
            return None
        sums = np.stack([*self._profile_sums[first:], np.zeros((2, BINS))])[:-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            means = sums[:, 0] / sums[:, 1]
        edges = np.linspace(0, 1, BINS + 1)
        rows = sums[:, 1].astype(np.int64)
        return TimeProfile(_copied(self._profile_step[first:]), edges, means, rows)

    # ----------------------------------------------------------------------------------- files

    def state(self) -> dict[str, Any]:
        """All that was read, as arrays."""
        sums = self._profile_sums
        return {
            "columns": {name: _copied(column) for name, column in self._columns.items()},
            "terms": {n: _copied(t) for n, t in zip(self.names, self._terms, strict=True)},
            "profile_step": _copied(self._profile_step),
            "profile": np.stack(sums) if sums else np.zeros((0, 2, BINS)),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Have read what another recorder had, whose ``state()`` this is."""
        columns = {
            name: array(kind, state["columns"][name].tolist()) for name, kind in COLUMNS.items()
        }
        terms = [array("d", state["terms"][name].tolist()) for name in self.names]
        ends = array("q", state["profile_step"].tolist())
        self._waiting, self._validations = [], []
        self._columns, self._terms, self._profile_step = columns, terms, ends
        self._profile_sums = [one.copy() for one in state["profile"]]


COLUMNS = {
    "step": "q",
    "loss": "d",
    "rate": "d",
    "validation_step": "q",
    "validation_loss": "d",
    "norm_step": "q",
    "norm": "d",
    "pace_step": "q",
    "pace_seconds": "d",
    "pace_steps": "q",
    "pace_rows": "q",
}
TOGETHER = (
    ("step", "loss", "rate"),
    ("validation_step", "validation_loss"),
    ("norm_step", "norm"),
    ("pace_step", "pace_seconds", "pace_steps", "pace_rows"),
)
"""Which columns are of one length, the steps first."""


def _terms(values: Tensor) -> Tensor:
    """Losses ``(b,)`` as those of one term, ``(1, b)``."""
    return values.unsqueeze(-2) if values.ndim == 1 else values


def _summed(waiting: list[_Waiting]) -> tuple[Tensor, Tensor | None]:
    """Sums of the losses of each step, ``(S, K)``, and its bins by time, ``(S, 2, BINS)``."""
    values = [w.values for w in waiting]
    times = [w.times for w in waiting if w.times is not None]
    timed = len(times) == len(values)
    if len({(v.shape, v.dtype) for v in values}) == 1 and all(t.ndim == 1 for t in times):
        stacked = torch.stack(values)
        stacked = stacked.unsqueeze(1) if stacked.ndim == 2 else stacked
        sums = stacked.sum(-1, dtype=widest_dtype(stacked.device))
        return sums, _binned(stacked, torch.stack(times)) if timed else None
    # A loader whose batches differ in size.
    sums = torch.stack([_terms(v).sum(-1, dtype=widest_dtype(v.device)) for v in values])
    if not timed:
        return sums, None
    bins = [
        t if t.ndim == 2 else _binned(_terms(v).unsqueeze(0), t.unsqueeze(0))[0]
        for v, t in zip(values, times, strict=True)
    ]
    return sums, torch.stack(bins)


def _binned(values: Tensor, times: Tensor) -> Tensor:
    """Sums and counts, ``(S, 2, BINS)``, of losses ``(S, K, b)`` by bins of times ``(S, b)``."""
    index = (times * BINS).long().clamp_(0, BINS - 1)
    total = values.sum(1, dtype=widest_dtype(values.device))
    if times.device.type == "cpu":
        steps = len(times)
        flat = (index + BINS * torch.arange(steps).unsqueeze(1)).flatten()
        sums = torch.bincount(flat, total.flatten(), minlength=BINS * steps)
        counts = torch.bincount(flat, minlength=BINS * steps).double()
        return torch.stack([sums.view(steps, BINS), counts.view(steps, BINS)], dim=1)
    # On a card bincount adds up in no fixed order.
    member = index.unsqueeze(-1) == torch.arange(BINS, device=times.device)
    sums = torch.where(member, total.unsqueeze(-1), 0.0).sum(1)
    return torch.stack([sums, widest(member.sum(1))], dim=1)


def _copied(values: array[Any]) -> NDArray[Any]:
    return np.array(values, dtype=np.int64 if values.typecode == "q" else np.float64)
