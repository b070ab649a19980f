r"""Dynamics: what a solve needs of a field, tabulated before its loop.

A field is sampled by the ODE or SDE ``dX = (b ± ε s) dt + √(2ε) dW``, with + forward in time and −
backward. Velocity b and score s are conversions of what the networks predict, and all conversions
are linear, so the drift is a linear combination of the state, the base's mean and the predictions:

.. math:: b \pm \varepsilon s = A(t)\, x + C(t)\, m + \sum_k B_k(t) f_k(t, x).

A, B and C depend on time alone. They are formed for all times of the grid at once
(:mod:`transportflows.samplers.drift_table`), so the loop itself holds network calls and fused
additions only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.precision import table_device
from .._core.reprs import call
from .._core.signatures import checked
from .._core.untouched import untouched
from ..combination import Combination
from ..fields.base import Field
from ..fields.calls import restored, rounded
from ..solve.epsilon import EpsilonSchedule, as_epsilon
from ..solve.rows import Rows
from .drift_table import DriftTable
from .kept import kept
from .path_law import tell_path_law
from .schemes import Scheme

__all__ = ["Drift", "Dynamics", "FieldDynamics", "FunctionDynamics"]


Epsilon = float | Callable[[Tensor], Tensor] | EpsilonSchedule


@checked
class Drift(ABC):
    """The drift of a dynamics, tabulated over the stage times of a grid.

    Attributes:
        epsilon: ε there, float64 ``(steps, nodes, groups)`` on the CPU, or None for an ODE.
        limited: stretches of time whose steps have a limited ε.
        margin: distances from both ends within which the field is evaluated at the margin.
        dropped: nodes of the last step at which it has no value; it is extrapolated from the rest.
        laws: Gaussian laws that the noise of a step is to keep: rates κ at the nodes, float64
            ``(steps, nodes, groups)``, of ``dX = κ X dt + √(2ε) dW``, and variances at the times of
            the grid, ``(steps + 1,)``. NaN where a step is none of theirs.
        made: what a stepper makes of the tables, kept with them.
    """

    epsilon: Tensor | None = None
    limited: tuple[tuple[float, float], ...] | None = None
    margin: tuple[float, float] = (0.0, 0.0)
    dropped: tuple[int, ...] = ()
    laws: Sequence[tuple[Tensor, Tensor]] = ()
    made: list[Any]

    @abstractmethod
    def at(self, step: int, rows: Rows, node: int, x: Tensor) -> Tensor:
        """The drift at a stage time for some rows of the state, ``(B, *)``."""


@checked
class Dynamics(ABC):
    """A drift with its noise.

    Attributes:
        groups: number of epsilons; rows come in as many equal groups.
        ode: whether there is no noise.
        breakpoints: times at which it is not smooth; a stage time there moves into its own step.
    """

    groups: int = 1
    ode: bool = False
    breakpoints: Sequence[float] = ()

    @abstractmethod
    def prepare(self, times: Tensor, widths: Tensor, like: Tensor, scheme: Scheme) -> Drift:
        """Tabulate for a grid.

        Args:
            times: stage times ``(steps, nodes)``.
            widths: of the steps, signed, ``(steps,)``.
            like: states of the dtype and device.
            scheme: whose nodes they are.
        """


@checked
class FunctionDynamics(Dynamics):
    """``dX = f(t, X) dt + √(2ε) dW`` for a plain function: the drift of the SDE as it stands.

    Args:
        function: ``f(t, x, **cond)``, t of shape ``()``.
        epsilon: a number, function of time or schedule.
        breakpoints: times at which the function is not smooth; the grid should hold them.

    Example:
        >>> import math, transportflows as tpf
        >>> to_zero = FunctionDynamics(lambda t, x: -x, epsilon=1.0)  # dX = -X dt + √2 dW
        >>> generator = torch.Generator().manual_seed(0)
        >>> run = tpf.integrate(to_zero, torch.zeros(10_000, 1), torch.linspace(0, 1, 21),
        ...                     generator=generator)
        >>> abs(float(run.x.var()) - (1 - math.exp(-2))) < 0.05
        True
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        epsilon: float | Callable[[Tensor], Tensor] | EpsilonSchedule = 0.0,
        *,
        breakpoints: Sequence[float] = (),
    ) -> None:
        self.function, self.breakpoints = function, breakpoints
        self.epsilon = as_epsilon(epsilon)
        self.ode = self.epsilon.is_zero

    __repr__ = call

    def prepare(self, times: Tensor, widths: Tensor, like: Tensor, scheme: Scheme) -> Drift:
        drift = _FunctionDrift(self.function, times.to(like))
        if not self.ode:
            drift.epsilon = self.epsilon.value(times, torch.ones_like(times)).unsqueeze(-1)
        return drift


class _FunctionDrift(Drift):
    def __init__(self, function: Callable[..., Tensor], times: Tensor) -> None:
        self.function, self.times, self.made = function, times, []

    def at(self, step: int, rows: Rows, node: int, x: Tensor) -> Tensor:
        t, given, cond = rounded(self.function, self.times[step, node], x, rows.cond)
        slope = restored(untouched(self.function, t, given, **cond), x.dtype)
        if not isinstance(slope, Tensor) or slope.shape != x.shape or slope.dtype != x.dtype:
            got = tuple(slope.shape) if isinstance(slope, Tensor) else type(slope).__name__
            raise ValueError(
                f"the drift must give the shape and dtype of x, {tuple(x.shape)} {x.dtype}, and it"
                f" gave {got}; it is called as f(t, x), time first"
            )
        return _own(slope, (slope,)) if self.times.shape[1] > 1 else slope


@checked
class FieldDynamics(Dynamics):
    """The ODE or SDE of a field.

    Args:
        field: any field.
        epsilons: one ε (number, function or schedule), or one for each group of rows; all of them
            zero, or none.
        margin: the field is evaluated no nearer than this to t = 0 and to t = 1, and nothing else
            is done about the ends; None for what :mod:`transportflows.samplers.ends` says.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> ode = FieldDynamics(tpf.oracle(process, tpf.Gaussian((1,), 3.0)), [0.0])
        >>> x = tpf.integrate(ode, torch.tensor([[-1.0], [1.0]]), torch.linspace(0, 1, 101)).x
        >>> torch.allclose(x, torch.tensor([[2.0], [4.0]]), atol=1e-3)  # from N(0, 1) to N(3, 1)
        True
    """

    def __init__(
        self,
        field: Field,
        epsilons: Sequence[Epsilon],
        *,
        margin: tuple[float, float] | None = None,
    ) -> None:
        self.field = field
        self.epsilons = [as_epsilon(epsilon) for epsilon in epsilons]
        self.given_margin = margin
        self.breakpoints = field.breakpoints
        self.groups = len(self.epsilons)
        self.ode = all(epsilon.is_zero for epsilon in self.epsilons)

    @torch.no_grad()
    def prepare(self, times: Tensor, widths: Tensor, like: Tensor, scheme: Scheme) -> Drift:
        tell_path_law(self.field, self.epsilons, times)
        told = (torch.cat([times, widths[:, None]], 1), like, self.given_margin)
        table = kept(
            self.field,
            self.epsilons,
            scheme,
            *told,
            make=lambda: self._tabulated(times, widths, like, scheme),
        )
        return _FieldDrift(self.field, table, self.groups)

    def _tabulated(self, times: Tensor, widths: Tensor, like: Tensor, scheme: Scheme) -> _Table:
        device = table_device(like.device)
        table = DriftTable(self.field, self.epsilons, times.to(device), widths.to(device), scheme)
        if self.given_margin is None:
            table.look_at_ends()
        else:
            table.keep_off(*self.given_margin)
        weights, epsilon, stretches = table.filled()
        mean, nodes = self.field.process.noise_part.base_mean, times.shape[1]
        combinations = weights.tabulated(times.numel(), self.groups, like)
        return _Table(
            [combinations[k : k + nodes] for k in range(0, len(combinations), nodes)],
            table.times.to(like),
            None if mean is None else mean.to(like),
            stretches,
            table.margin,
            table.dropped,
            None if epsilon is None else epsilon.cpu(),
            [] if epsilon is None else [(r.cpu(), law.cpu()) for r, law in table.laws(epsilon)],
            [],
        )


class _Table(NamedTuple):
    """A :class:`Drift` without its field: of each step and node, what is added up."""

    combinations: list[list[Combination]]
    times: Tensor
    mean: Tensor | None
    limited: tuple[tuple[float, float], ...] | None
    margin: tuple[float, float]
    dropped: tuple[int, ...]
    epsilon: Tensor | None
    laws: list[tuple[Tensor, Tensor]]
    made: list[Any]


class _FieldDrift(Drift):
    def __init__(self, field: Field, table: _Table, groups: int) -> None:
        self.field, self.table, self.groups = field, table, groups
        self.limited, self.margin, self.dropped = table.limited, table.margin, table.dropped
        self.epsilon, self.laws, self.made = table.epsilon, table.laws, table.made
        self.nodes = table.times.shape[1]
        self.times = table.times.flatten().clone().unbind()  # a network may write into them

    def at(self, step: int, rows: Rows, node: int, x: Tensor) -> Tensor:
        combination = self.table.combinations[step][node]
        t = self.times[step * self.nodes + node]
        predictions = self.field.predict(t, x, rows.cond, combination.needed)
        drift = combination.of(x, self.table.mean, predictions, None if self.groups == 1 else rows)
        return _own(drift, predictions) if self.nodes > 1 else drift


def _own(drift: Tensor, made: Sequence[Tensor | None]) -> Tensor:
    """A drift that later calls do not overwrite: a network may give a buffer of its own again."""
    return drift.clone() if any(drift is f for f in made) else drift
