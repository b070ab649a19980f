"""Logs: callbacks that write the losses of a run down, as text or for TensorBoard."""

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
from .._core.signatures import checked
from .callbacks import Callback
from .history import History
from .recorder import WINDOW
from .run import Run

__all__ = ["CSVLog", "TensorBoardLog"]


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
