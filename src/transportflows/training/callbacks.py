"""Callbacks: what else happens while a run goes on.

A callback is told of a run at its start and end, after every so many steps, when losses were read
from the device, after a validation, and after a checkpoint. All processes of a data-parallel run
call it, in step; those that write files do so where ``trainer.world.first``. What it must remember
for an exact resume it gives in :meth:`Callback.state`, which goes into the checkpoints.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .._core import files
from .._core.checks import names, number
from .._core.signatures import checked
from .history import History
from .recorder import WINDOW
from .run import Run

__all__ = ["CSVLog", "Callback", "EarlyStop", "TensorBoardLog"]


@checked
class Callback:
    """Something that is told of a run; subclasses write the methods that they need.

    Each is given the :class:`Trainer`, of which it needs what a :class:`Run` has: its step, field,
    history, averages, and ``stop``.

    Attributes:
        every: after how many steps (as counted by ``trainer.step``) to call :meth:`on_step`, which
            a class with that method must say; None for never.
    """

    every: int | None = None

    def check(self) -> None:
        """Refuse a callback whose methods would never be called.

        Raises:
            TypeError: if it has an ``on_...`` of another name, an ``on_step`` and says nowhere how
                ``every``, or only one of ``state`` and ``restore``.
        """
        kind = type(self)
        known = {name for name in vars(Callback) if name.startswith("on_")}
        if other := sorted({name for name in dir(kind) if name.startswith("on_")} - known):
            raise TypeError(
                f"{kind.__name__} has {other[0]}, which is never called; the moments of a run are"
                f" {', '.join(sorted(known))}"
            )

        def writes(name: str) -> bool:
            return getattr(kind, name) is not getattr(Callback, name)

        said = "every" in vars(self) or any(
            "every" in vars(k) for k in kind.__mro__[:-1] if k is not Callback
        )
        if writes("on_step") and not said:
            raise TypeError(
                f"{kind.__name__} has on_step, and nowhere says after how many steps to call it;"
                " write every = 1 in the class, or every = None for never"
            )
        if writes("state") != writes("restore"):
            raise TypeError(
                f"{kind.__name__} has only one of state and restore, so that what it remembers"
                " is lost where the run is resumed; write both"
            )

    def on_start(self, trainer: Run) -> None:
        """A fit begins; a resumed one with its ``trainer.step``."""

    def on_step(self, trainer: Run) -> None:
        """Another ``every`` steps are done. Reading a value from the device makes the loop wait."""

    def on_read(self, trainer: Run, new: History) -> None:
        """Losses were read, at least every 50 steps: ``new`` is the history since the last time."""

    def on_validation(self, trainer: Run, loss: float) -> None:
        """A validation was made, after step ``trainer.step``."""

    def on_checkpoint(self, trainer: Run, path: Path) -> None:
        """A checkpoint was written."""

    def on_end(self, trainer: Run) -> None:
        """The fit ends, also by an error; close what is open. The last to begin ends first."""

    def state(self) -> dict[str, Any]:
        """What an exact resume needs: tensors, arrays, numbers and strings."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""


@checked
class EarlyStop(Callback):
    """Stop when the validation loss has not improved for a while.

    Args:
        patience: validations in a row without an improvement after which the run stops.
        least: by how much a loss must be smaller than the best one to be an improvement.

    Attributes:
        best: the smallest validation loss so far.
    """

    def __init__(self, patience: int = 10, least: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience is a number of validations, at least 1, got {patience}")
        if not least >= 0:
            raise ValueError(f"least must not be negative, got {least}")
        number("least", least)
        self.patience, self.least = patience, least
        self.best, self.waited = float("inf"), 0

    def on_start(self, trainer: Run) -> None:
        if not trainer.validates:
            raise ValueError("EarlyStop follows the validation loss; give fit(validation=...)")
        if not trainer.resuming:
            self.best, self.waited = float("inf"), 0

    def on_validation(self, trainer: Run, loss: float) -> None:
        if loss < self.best - self.least:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.stop(
                f"{self.waited} validations in a row were not below {self.best - self.least:.6g}"
            )

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        if missing := {"best", "waited"} - state.keys():
            raise ValueError(
                f"the state of EarlyStop has {names(sorted(missing))}, and this has not"
            )
        self.best, self.waited = float(state["best"]), int(state["waited"])


def _rows(new: History) -> list[dict[str, float]]:
    """A history as one dict a step, with what is known of that step."""
    rows: dict[int, dict[str, float]] = {}
    for k, step in enumerate(new.step.tolist()):
        rows[step] = {"loss": float(new.loss[k]), "learning_rate": float(new.learning_rate[k])}
        rows[step] |= {f"loss_{name}": float(term[k]) for name, term in new.terms.items()}
    for name, series in (
        ("gradient_norm", new.gradient_norm),
        ("validation", new.validation),
        ("step_time", new.pace.step_time),
        ("rows_per_second", new.pace.rows_per_second),
    ):
        for step, value in zip(series[0].tolist(), series[1].tolist(), strict=True):
            rows.setdefault(step, {})[name] = value
    return [{"step": step, **rows[step]} for step in sorted(rows)]


@checked
class CSVLog(Callback):
    """A file with a row a step: loss, learning rate, and what else was measured at that step.

    Columns: ``step, loss, learning_rate, gradient_norm, validation, step_time, rows_per_second``,
    and ``loss_<name>`` for each term of a sum of losses; empty where a step has none. A resumed run
    goes on in the same file, from which the steps that will be made again are removed.

    Args:
        path: the file; folders are made.

    Raises:
        FileExistsError: at the start of a run from its beginning, if the file is there.
        BlockingIOError: if another run is writing it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None
        self._ends = ExitStack()

    def on_start(self, trainer: Run) -> None:
        if not trainer.world.first:
            return
        columns = ["step", "loss", *(f"loss_{name}" for name in trainer.loss.names)]
        columns += ["learning_rate", "gradient_norm", "validation", "step_time", "rows_per_second"]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(f".{self.path.name}.lock")
        self._ends.enter_context(files.held(lock, f"the log {self.path}"))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self._kept(trainer))
        with files.replacing(self.path) as whole:
            whole.write(text.getvalue().encode())
        self._file = open(self.path, "a", newline="", encoding="utf-8")  # noqa: SIM115
        self._writer = csv.DictWriter(self._file, columns)

    def _kept(self, trainer: Run) -> list[dict[str, str]]:
        """The rows that are there, of the steps that will not be made again."""
        if not self.path.exists():
            return []
        if other := files.no_file(self.path):
            raise FileExistsError(f"{self.path} is {other} and no file; give another name")
        if trainer.step == 0 and not trainer.resuming:
            raise FileExistsError(
                f"{self.path} is there already, perhaps from another run; give another name,"
                " or remove it"
            )
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                # The last line may be cut short where the run was killed.
                lines = [row for row in csv.DictReader(file) if None not in row.values()]
            return [row for row in lines if int(row["step"]) <= trainer.step]
        except (KeyError, ValueError, csv.Error) as error:
            raise ValueError(
                f"{self.path} has no column 'step' of integers; it is no log of a run"
            ) from error

    def on_read(self, trainer: Run, new: History) -> None:
        if self._file is not None:
            with self._told():
                self._writer.writerows(_rows(new))
                self._file.flush()

    def on_end(self, trainer: Run) -> None:
        file, self._file = self._file, None
        with self._ends, self._told():
            if file is not None:
                file.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Warn where rows cannot be written, as on a full disk."""
        try:
            yield
        except OSError as error:
            warnings.warn(
                f"rows of {self.path} were not written ({error}); the run goes on, and they are in"
                " trainer.history",
                stacklevel=4,
            )


@checked
class TensorBoardLog(Callback):
    """Scalars for TensorBoard, which must be installed (``pip install tensorboard``).

    They are ``loss``, ``loss/<name>`` for the terms of a sum, ``learning_rate``,
    ``gradient_norm``, ``validation``, ``step_time``, ``rows_per_second``, and ``loss_by_time/...``
    for each bin of time every 100 steps. A resumed run hides the steps that it makes again.

    Args:
        folder: where the event files go.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.fspath(folder)
        self._writer: Any = None

    def on_start(self, trainer: Run) -> None:
        if not trainer.world.first:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoardLog needs TensorBoard: pip install tensorboard; CSVLog needs nothing"
            ) from error
        self._writer = SummaryWriter(self.folder, purge_step=trainer.step + 1)

    def on_read(self, trainer: Run, new: History) -> None:
        if self._writer is None:
            return
        for row in _rows(new):
            step = int(row.pop("step"))
            for name, value in row.items():
                tag = name.replace("loss_", "loss/", 1) if name.startswith("loss_") else name
                self._writer.add_scalar(tag, value, step)
        profile = new.by_time
        edges = [] if profile is None else list(itertools.pairwise(profile.edges))
        bins = [f"{a:.1f}-{b:.1f}" for a, b in edges]
        windows = [] if profile is None else zip(profile.step.tolist(), profile.loss, strict=True)
        for step, losses in windows:
            if step % WINDOW:  # a window is told when it is whole
                continue
            for name, loss in zip(bins, losses, strict=True):
                if np.isfinite(loss):
                    self._writer.add_scalar(f"loss_by_time/{name}", loss, step)
        self._writer.flush()

    def on_end(self, trainer: Run) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
