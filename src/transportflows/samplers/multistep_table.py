"""The numbers of a multistep solve: a row for each way from a time of its grid."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._core.signatures import checked

__all__ = ["Row", "Table", "bridge", "counts_of", "inside_steps"]


@checked
@dataclass
class Table:
    """The numbers of a solve, by step; of shape ``(G,)``, one for each ε.

    Attributes:
        forms: what is predicted.
        state: ``A_i``.
        weights: ``V_i``, ``(J, G)``, that of the newest prediction first.
        noise: ``n_i``; None if no step takes noise.
        fixes: at a step of another form than the one before it, what corrects that one, ``(J, G)``,
            in its form; otherwise corrections are in ``V_i``.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> field, zero = tpf.oracle(process, tpf.Gaussian((1,))), tpf.solve.ConstantEpsilon(0.0)
        >>> times = torch.tensor([0.0, 0.5], dtype=torch.float64)
        >>> one = tpf.samplers.DDIM().tabulate(field, [zero], times)  # from x0 to (x0 + d)/2
        >>> one.forms, one.state[0].item(), round(one.weights[0].item(), 4)
        (['data'], 0.5, 0.5)
    """

    forms: list[str]
    state: list[Tensor]
    weights: list[Tensor]
    noise: list[Tensor] | None = None
    fixes: dict[int, Tensor] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """The numbers of each step."""
        befores = [None, *self.forms[:-1]]
        noise = [None] * len(self.forms) if self.noise is None else self.noise
        columns = zip(self.forms, self.state, self.weights, noise, befores, strict=True)
        return [
            Row(form, state, weights, n, fix=self.fixes.get(i), before=before)
            for i, (form, state, weights, n, before) in enumerate(columns)
        ]


@checked
@dataclass
class Row:
    """The numbers of one way from a time of the grid: over its step, or to a time inside it.

    Attributes:
        form: what is predicted.
        state: as in :class:`Table`, ``(G,)``.
        weights: ``(J, G)``.
        noise: ``(G,)``, or None.
        fix: what corrects the step before, ``(J, G)``, or None.
        before: the form of that.
    """

    form: str
    state: Tensor
    weights: Tensor
    noise: Tensor | None
    fix: Tensor | None
    before: str | None

    def sees(self, form: str) -> int:
        """How many predictions of a form it is made from."""
        own = len(self.weights) if self.form == form else 0
        fixed = len(self.fix) if self.fix is not None and self.before == form else 0
        return max(own, fixed)


def counts_of(ways: list[list[Row]]) -> dict[str, list[int]]:
    """How many predictions of each form are needed at each step, the newest among them.

    They are needed for the ways from there or for later ones; a 0 more stands for the end.
    """
    found: dict[str, list[int]] = {}
    for form in dict.fromkeys(row.form for rows in ways for row in rows):
        counts = [0]
        for rows in reversed(ways):
            counts.append(max(counts[-1] - 1, *(row.sees(form) for row in rows)))
        found[form] = counts[::-1]
    return found


def inside_steps(times: list[float], saved: Sequence[float]) -> dict[int, list[float]]:
    """The saved times that are inside a step, by step, in the order in which they are met."""
    down, found = times[0] > times[-1], dict[int, list[float]]()
    ordered = sorted(times)
    for time in sorted(set(saved) - set(times), reverse=down):
        place = bisect(ordered, time) - 1
        found.setdefault(len(times) - 2 - place if down else place, []).append(time)
    return found


def bridge(step: Row, inside: Sequence[Row], h: float) -> list[tuple[Tensor, ...]]:
    """The weights of the noise of each way in the draws: the increment, and a normal for each time.

    With A the weight of the state and n the noise of a way, the noise of a later time is what is
    left of that of an earlier one, ``(A/A') n' z'``, and more. So of two neighbours the earlier one
    is ``z' = c z + √(1 - c²) ζ``, ``c = (A/A') n'/n`` (0 where nothing of a state is left).
    """
    if step.noise is None:
        return [()] * (1 + len(inside))
    later, normal = step, [torch.ones_like(step.noise)]
    found: list[tuple[Tensor, ...]] = []
    for k in reversed(range(len(inside))):
        row = inside[k]
        assert row.noise is not None
        assert later.noise is not None
        c = (later.state / row.state * (row.noise / later.noise)).nan_to_num(0.0).clamp(0, 1)
        fresh = (1 - c.square()).sqrt()
        normal = [c * weight for weight in normal]
        normal.append(fresh)
        later = row
        found.append(tuple(row.noise * weight for weight in normal))
    first = step.noise / math.sqrt(h)
    return [(first,), *((w[0] / math.sqrt(h), *w[1:]) for w in reversed(found))]
