"""What an exam found: a table, and a picture of the errors by time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._core.checks import shown
from .._core.reprs import call_lines
from .._core.signatures import checked

__all__ = ["ExamReport", "ExamRow"]


@checked
@dataclass(frozen=True)
class ExamRow:
    """One number.

    Attributes:
        part: of the exam: ``"fields"``, ``"law, ODE"``, ``"law, SDE"``, ``"density"``, ``"ends"``
            or ``"cost"``.
        quantity: what it is.
        value: of the field; NaN where there is none.
        floor: what an exact field shows; NaN where that is not known.
        note: why there is no number, or a standard error.
    """

    part: str
    quantity: str
    value: float
    floor: float = math.nan
    note: str = ""


@checked
@dataclass(frozen=True, eq=False)
class ExamReport:
    """What an exam found; ``print`` it, ``plot`` it, or look a number up: ``report["W2, ODE"]``.

    Attributes:
        rows: all numbers.
        t: times of the errors of the fields, ``(T,)``, float64.
        velocity: rms error of the velocity over its size, ``(T,)``; empty where not known.
        score: the same of the score.

    Example:
        >>> import torch
        >>> none, row = torch.zeros(0), ExamRow("law, ODE", "W2, ODE", 0.12, floor=0.1)
        >>> report = ExamReport((row,), none, none, none)
        >>> report["W2, ODE"].value
        0.12
        >>> print(report)
                  quantity  value  floor
        law, ODE  W2, ODE   0.12   0.1
    """

    rows: tuple[ExamRow, ...]
    t: Tensor
    velocity: Tensor
    score: Tensor

    def __getitem__(self, quantity: str) -> ExamRow:
        for row in self.rows:
            if row.quantity == quantity:
                return row
        known = ", ".join(repr(row.quantity) for row in self.rows)
        raise KeyError(f"no number {quantity!r} in this report; it has {known}")

    def __repr__(self) -> str:
        told = [f"{row.quantity}={row.value:.3g}" for row in self.rows if row.value == row.value]
        return call_lines(type(self).__name__, told[:8])

    def __str__(self) -> str:
        lines = [("", "quantity", "value", "floor", "")]
        lines += [
            (row.part, row.quantity, _shown(row.value), _shown(row.floor), row.note)
            for row in self.rows
        ]
        widths = [max(len(line[k]) for line in lines) for k in range(5)]
        text, before = [], ""
        for line in lines:
            cells = ["" if line[0] == before else line[0], *line[1:]]
            before = line[0]
            text.append("  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip())
        return "\n".join(text)

    def plot(self, ax: Any | None = None) -> Any:
        """Draw the errors of velocity and score by time on matplotlib axes; return the axes.

        Raises:
            ImportError: without matplotlib.
            TypeError: if ``ax`` is none of its axes.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "plotting needs matplotlib; pip install matplotlib, or the extra"
                " transportflows[examples]"
            ) from error
        if ax is not None and not hasattr(ax, "plot"):
            raise TypeError(f"ax must be axes of matplotlib, got {shown(ax)}")
        if ax is None:
            ax = Figure(figsize=(5, 3.5), layout="constrained").add_subplot()
        for name, values, mark in (("velocity", self.velocity, "o"), ("score", self.score, "s")):
            if len(values):
                ax.plot(self.t.tolist(), values.tolist(), f"-{mark}", label=name)
                if bool((values > 0).all()):
                    ax.set_yscale("log")
        ax.set_xlabel("t")
        ax.set_ylabel("rms error over the size")
        if ax.lines:
            ax.legend()
        return ax


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"
