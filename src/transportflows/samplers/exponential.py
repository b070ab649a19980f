r"""Exponential integrators: few-step sampling of processes with a Gaussian part.

**The idea.** Where ``x_t = α m + β x1 + σ̂ ẑ``, the equation that is sampled is linear in x but for
one term, the network's prediction. The linear part is solved exactly, whatever the length of a
step. The prediction changes slowly with time; it is taken for a polynomial through the values that
the network gave at the last few times (:mod:`transportflows.samplers.quadrature` has the
formulas). Through one value that is DDIM; through p values it is a multistep method of order p, at
one network call a step.

The methods of the literature differ in *what* is taken to vary slowly (``prediction``), and in what
it is a polynomial *of* (``variable``):

=====================  ==========  ===========  ==================================================
name                   prediction  variable     source
=====================  ==========  ===========  ==================================================
``"dpm2m"``, ``3m``    data        λ            DPM-Solver++, Lu et al. (2022)
``"deis2"``, ``3``     noise       t            tAB-DEIS, Zhang & Chen (2023)
``"ab2"``, ``3``       velocity    linear       Adams-Bashforth on the linear path's velocity
``"unipc2"``, ``3``    data        λ            UniPC, Zhao et al. (2023), corrector of order p + 1
=====================  ==========  ===========  ==================================================

The sources approximate some weights; here all are exact. DPM-Solver++(2M) and UniPC-2 take the
polynomial's value at the middle of a step for all of it: ``rule="midpoint"``.

**With ε > 0** the relaxation and its noise are part of what is solved exactly. Predictions then
differ from step to step by their share of the noise, of size √h, so that paths have order 1
whatever p is. Laws gain from p = 2: the noise in ``f_n - f_{n-1}`` belongs to the step before, and
over two steps it evens out. Higher weights, such as 3, -3, 1, only multiply it: so what the
relaxation takes, and for the share of the noise that a step renews what the transport takes too, is
``3/2 f_n - 1/2 f_{n-1}`` (:mod:`transportflows.samplers.quadrature`), and ε is limited
(:mod:`transportflows.solve.limit`) to a relaxation of 1 in a step, of 0.05 where p = 1. The noise
prediction gives way to the data where a step relaxes by more than 0.1. What is left is largest
where data are narrow (width 0.2): 2 to 4 %, on VP 8 %, of the standard deviation at 25 and 50
uniform steps, where Euler-Maruyama may be nearer. With :class:`AndersonEpsilon` and steps even in λ
that is the SDE-DPM-Solver++(2M).

**At the ends of time** the order is kept in a variable that is regular there, on any smooth grid:
``"linear"`` and ``"t"``, and where σ̂ = 0 ``"u"`` and ``"asinh"``. λ is not: on a uniform grid the
last steps before σ̂ = 0 are the same in λ however many there are, and methods of order 3
(``"dpm3m"``, ``"unipc2"``, ``"unipc3"``; at β = 0 ``"deis3"``) are of order 2 on the linear and VP
processes. ``spacing="cosine"``, dense at both ends, keeps 3.

Where σ̂ = 0 at the last time, λ is infinite: that step is interpolated in t instead, and lands on
the data prediction, extrapolated from p values. A solve from β = 0 likewise. A prediction that is
singular over a step (the noise where β = 0, the data backward from σ̂ = 0) is replaced there by
another one, and the method starts anew behind it.

**The first step** knows one value only. Left at order 1 it would make an error of O(h²), and a
method of order 3 one of order 2. So once the second value is known the first step is corrected, at
no further call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.checks import names
from .._core.reprs import summary
from .._core.signatures import checked
from ..fields.base import Field
from ..solve.epsilon import EpsilonSchedule
from .exponential_table import Tabulation
from .multistep import Multistep, Table
from .quadrature import FORMS, VARIABLES, Variable

__all__ = ["ExponentialIntegrator"]

_MAX_ORDER = 4


@checked
@dataclass(frozen=True)
class ExponentialIntegrator(Multistep):
    """A multistep exponential integrator: ``sample(field, n, scheme=ExponentialIntegrator(2))``.

    It takes one network call a step, forward or backward in time, with any ε (``"velocity"``: with
    ε = 0).

    Args:
        order: p, how many predictions a step sees: 1 to 4.
        prediction: what is interpolated: ``"data"``, ``"noise"`` or ``"velocity"``, the difference
            noise - data (in the clock ``σ̂/(β + σ̂)`` the velocity of the linear path, regular at
            both ends). It need not be what the network predicts.
        corrector: correct each step once the prediction at its end is known, at no further call:
            one order more for ε = 0 (in λ on a grid dense at the ends, such as ``"cosine"``).
        variable: what the prediction is a polynomial of: a name in ``VARIABLES`` (``"lambda"``,
            ``"u"``, ``"t"``, ``"linear"``, ``"asinh"``) or a function of (t, β, σ̂), strictly
            monotone in t. Where it is not finite, t serves.
        rule: ``"exact"``, or, at order 2, ``"midpoint"``: the interpolant at the middle of a step
            in the variable stands for all of it (not in corrections). Of the same order, with
            another constant: smaller on data in separate modes.

    Raises:
        ValueError: for an order, prediction or variable that is not known.

    Example:
        >>> import transportflows as tpf
        >>> field = tpf.DataPredictor(tpf.networks.MLP(2), tpf.Process(tpf.VP(), shape=(2,)))
        >>> scheme = tpf.samplers.ExponentialIntegrator(3, corrector=True)
        >>> tpf.sample(field, 5, scheme=scheme, steps=8).nfe
        8
    """

    order: int = 2
    prediction: str = "data"
    corrector: bool = False
    variable: str | Variable = "lambda"
    rule: str = "exact"

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in range(1, _MAX_ORDER + 1):
            raise ValueError(
                f"order must be 1 to {_MAX_ORDER}, got {self.order}: polynomials through more"
                " values amplify the errors of a network. corrector=True gives one order more, at"
                " no further call"
            )
        if self.prediction not in FORMS:
            raise ValueError(f"unknown prediction {self.prediction!r}; known: {names(FORMS)}")
        if self.rule not in ("exact", "midpoint"):
            raise ValueError(f"rule is 'exact' or 'midpoint', got {self.rule!r}")
        if self.rule == "midpoint" and self.order != 2:
            raise ValueError(
                f"rule='midpoint' is for order 2, and order is {self.order}; use rule='exact'"
            )
        if not callable(self.variable) and self.variable not in VARIABLES:
            raise ValueError(
                f"unknown variable {self.variable!r}; known: {names(VARIABLES)}, or a function of"
                " (t, beta, sigma)"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the scheme, as a :class:`Solution` tells it."""
        shown = self.variable if isinstance(self.variable, str) else "own variable"
        end = ", corrector" if self.corrector else ""
        end += ", midpoint" if self.rule == "midpoint" else ""
        return f"exponential {self.order} ({self.prediction}, {shown}{end})"

    @property
    def remembers(self) -> bool:
        return self.order > 1 or self.corrector

    @property
    def apart(self) -> bool:
        return self.prediction == "noise"

    def check(self, schedules: Sequence[EpsilonSchedule]) -> None:
        if self.prediction == "velocity" and not all(s.is_zero for s in schedules):
            raise ValueError(
                "prediction='velocity' solves the ODE, and epsilon > 0 was given; use"
                " prediction='data' (or 'noise'), or epsilon=0"
            )

    @torch.no_grad()
    def tabulate(self, field: Field, schedules: Sequence[EpsilonSchedule], times: Tensor) -> Table:
        return self._tabulation(field, schedules, times).table()

    def _tabulation(
        self, field: Field, schedules: Sequence[EpsilonSchedule], times: Tensor
    ) -> Tabulation:
        own = self.variable
        return Tabulation(
            field.process.part,
            schedules,
            times,
            order=self.order,
            prediction=self.prediction,
            corrector=self.corrector,
            variable=VARIABLES[own] if isinstance(own, str) else own,
            midpoint=self.rule == "midpoint",
            kinks=field.breakpoints,
        )

    __repr__ = summary
