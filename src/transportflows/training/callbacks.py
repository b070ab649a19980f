"""Callbacks: what else happens while a run goes on.

A callback is told of a run at its start and end, after every so many steps, when losses were read
from the device, after a validation, and after a checkpoint. All processes of a data-parallel run
call it, in step; those that write files do so where ``trainer.world.first``. What it must remember
for an exact resume it gives in :meth:`Callback.state`, which goes into the checkpoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._core.checks import names, number
from .._core.reprs import call
from .._core.signatures import as_is, checked
from .history import History
from .run import Run

__all__ = ["Callback", "EarlyStop", "writes"]


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

    def __repr__(self) -> str:
        return call(self)

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

    Raises:
        ValueError: if the patience is below 1, or the least improvement negative.
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

    @as_is
    def on_validation(self, trainer: Run, loss: float) -> None:
        if loss < self.best - self.least:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.stop(
                f"{self.waited} validations in a row were not below {self.best - self.least:.6g}"
            )

    def __repr__(self) -> str:
        return f"{call(self)}: best {self.best:.4g}, waited {self.waited}"

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        if missing := {"best", "waited"} - state.keys():
            raise ValueError(
                f"the state of EarlyStop has {names(sorted(missing))}, and this has not"
            )
        self.best, self.waited = float(state["best"]), int(state["waited"])


def writes(callback: Callback, method: str) -> bool:
    """Whether a callback has a method of its own."""
    return getattr(type(callback), method) is not getattr(Callback, method)
