r"""Exponential integrators: few-step sampling of one-sided processes.

Along a one-sided process the sampling equation is linear in x but for the prediction, so its linear
part is solved exactly, and only the prediction, which changes slowly, is interpolated over a step
(:mod:`transportflows.samplers.quadrature` has the formulas). Through the newest value alone that is
DDIM; through the newest p values it is a multistep method of order p, at one network call a step.
Its kinds differ in what they take to vary slowly (*prediction*) and in what it is a polynomial of
(*variable*):

=====================  ==========  ===========  ==================================================
name                   prediction  variable     source
=====================  ==========  ===========  ==================================================
``"dpm2m"``, ``3m``    data        λ            DPM-Solver++, Lu et al. (2022)
``"deis2"``, ``3``     noise       t            tAB-DEIS, Zhang & Chen (2023)
``"ab2"``, ``3``       velocity    linear       Adams-Bashforth on the linear path's velocity
``"unipc2"``, ``3``    data        λ            UniPC, Zhao et al. (2023), corrector of order p + 1
=====================  ==========  ===========  ==================================================

All weights are exact, where the sources approximate some, and hold for any ε ≥ 0: with ε > 0 the
relaxation, however stiff, and its noise are part of what is solved exactly, so that a constant ε
needs no window. ε = κ σ̂² λ̇ (:class:`AndersonEpsilon`) gives the SDE-DPM-Solvers at κ = 1.
DPM-Solver++(2M) and UniPC-2 take the interpolant at the middle of a step for all of it:
``rule="midpoint"``.

**The order is kept at the ends of time.** Where σ̂ = 0 at the last time, λ is infinite there; the
step is interpolated in t instead, and lands on the data prediction extrapolated from p values. A
solve from β = 0 likewise. A form that is singular over a step (the noise where β = 0, the data
backward from σ̂ = 0) is replaced there by one that is not, and the method starts anew behind it.

**The start** has one value only. A first step of order 1 would make an error of O(h²) and leave a
method of order 3 at order 2; it is corrected by the second value, at no call.

**With ε > 0** predictions differ from step to step by their share of the noise, O(√h), so paths
have order 1 whatever p is. Laws gain from p = 2: the noise of ``f_n - f_{n-1}`` is that of the step
before instead of that of this step, and over two steps this evens out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.checks import names
from ..fields.base import Field
from ..solve.epsilon import EpsilonSchedule
from .multistep import Multistep, Table
from .quadrature import FORMS, VARIABLES, Integrals, Variable, integrals, levels

__all__ = ["ExponentialIntegrator"]

_MAX_ORDER = 4


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
            one order more for ε = 0.
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
        """As in :class:`Solution`."""
        shown = self.variable if isinstance(self.variable, str) else "own variable"
        end = ", corrector" if self.corrector else ""
        end += ", midpoint" if self.rule == "midpoint" else ""
        return f"exponential {self.order} ({self.prediction}, {shown}{end})"

    def check(self, schedules: Sequence[EpsilonSchedule]) -> None:
        if self.prediction == "velocity" and not all(s.is_zero for s in schedules):
            raise ValueError(
                "prediction='velocity' solves the ODE, and epsilon > 0 was given; use"
                " prediction='data' (or 'noise'), or epsilon=0"
            )

    @torch.no_grad()
    def tabulate(self, field: Field, schedules: Sequence[EpsilonSchedule], times: Tensor) -> Table:
        return _Tabulation(self, field, schedules, times).table()


class _Tabulation:
    """The numbers of an exponential integrator on a grid."""

    def __init__(
        self,
        scheme: ExponentialIntegrator,
        field: Field,
        schedules: Sequence[EpsilonSchedule],
        times: Tensor,
    ) -> None:
        self.scheme, self.part, self.times = scheme, field.process.part, times
        own = scheme.variable
        self.variable = VARIABLES[own] if isinstance(own, str) else own
        self.noisy = not all(s.is_zero for s in schedules)
        self.beta = self.part.path.beta(times)
        self.sigma = self.part.scale(times)
        empty = (self.beta == 0) | (self.sigma == 0)
        self.singular = (empty[:-1] | empty[1:]).tolist()
        self.lands = (self.sigma[1:] == 0).tolist()
        self.steps = len(times) - 1
        self.place: list[tuple[Integrals, int]] = [None] * self.steps  # type: ignore[list-item]
        for members in self._batches():
            singular = any(self.singular[i] for i in members)
            index = torch.tensor(members, device=times.device)
            part = integrals(
                self.part,
                schedules,
                times[index],
                times[index + 1],
                halvings=levels(noisy=self.noisy, singular=singular),
                open_ends=singular,
            )
            for k, i in enumerate(members):
                self.place[i] = (part, k)
        self.forms = self._forms(field)
        kinks = self.part.path.breakpoints
        self.anew = [
            i == 0 or any(abs(t - b) < 1e-9 for b in kinks)
            for i, t in enumerate(times.tolist()[:-1])
        ]

    def _batches(self) -> list[list[int]]:
        """Steps that are tabulated together: all of them with ε > 0, which may know the grid."""
        if self.noisy:
            return [list(range(self.steps))]
        kinds = (
            [i for i in range(self.steps) if self.singular[i] is kind] for kind in (False, True)
        )
        return [members for members in kinds if members]

    def _forms(self, field: Field) -> list[str]:
        """The prediction of each step: the one asked for, unless it is singular there."""
        asked = self.scheme.prediction
        parts = {id(part): part for part, _ in self.place}
        if all(bool(part.usable(asked).all()) for part in parts.values()):
            return [asked] * self.steps
        wanted = [asked, *(form for form in ("velocity", "data", "noise") if form != asked)]
        usable = {}
        for form in wanted:
            found = {key: part.usable(form).tolist() for key, part in parts.items()}
            usable[form] = [found[id(part)][k] for part, k in self.place]
        forms: list[str] = []
        for i in range(self.steps):
            fit = next((form for form in wanted if usable[form][i]), None)
            if fit is None:
                raise ValueError(
                    f"epsilon is too large for the step from t = {float(self.times[i]):g} to"
                    f" {float(self.times[i + 1]):g}: neither the data nor the noise is a regular"
                    " prediction there. Use an epsilon that vanishes with the noise"
                    " (NoiseVarianceEpsilon), or scheme='heun', which has a window"
                )
            forms.append(fit)
        return forms

    def table(self) -> Table:
        """All steps: weights, corrections, and the two put together."""
        scheme, last = self.scheme, self.steps - 1
        seen, since = [], 0
        for i in range(self.steps):
            since = 1 if self.anew[i] else since + 1
            most = scheme.order + (scheme.corrector and self.lands[i])
            seen.append(min(most, since))
        corrected = [
            i < last
            and (
                scheme.corrector
                or (self.anew[i] and (scheme.order > 2 or (scheme.order == 2 and self.singular[i])))
            )
            for i in range(self.steps)
        ]
        predicted = self._weights(seen, [True] * self.steps, ahead=0)
        with_next = self._weights([p + 1 for p in seen], corrected, ahead=1)

        state = [part.transfer[self.forms[i]][k] for i, (part, k) in enumerate(self.place)]
        weights: list[Tensor] = []
        fixes: dict[int, Tensor] = {}
        for i, own in enumerate(predicted):
            assert own is not None
            total = own
            change = with_next[i - 1] if i > 0 else None
            if change is not None:
                before = predicted[i - 1]
                assert before is not None
                change = torch.cat([change[:1], change[1:] - before])
                if self.forms[i] != self.forms[i - 1]:
                    fixes[i] = change
                else:
                    total = torch.zeros(
                        max(len(own), len(change)), own.shape[1], dtype=own.dtype, device=own.device
                    )
                    total[: len(own)] += own
                    total[: len(change)] += state[i] * change
            weights.append(total)
        noise = None
        if self.noisy:
            noise = []
            for i, (part, k) in enumerate(self.place):
                variance = part.variance(self.forms[i])
                assert variance is not None
                noise.append(variance[k].clamp(min=0).sqrt())
        return Table(self.forms, state, weights, noise, fixes)

    def _weights(
        self, counts: Sequence[int], wanted: Sequence[bool], *, ahead: int
    ) -> list[Tensor | None]:
        """``(J, G)`` of each wanted step, through as many nodes up to the one that is ahead."""
        found: list[Tensor | None] = [None] * self.steps
        groups: dict[tuple[int, str, int], list[int]] = {}
        for i, count in enumerate(counts):
            if wanted[i]:
                key = (id(self.place[i][0]), self.forms[i], count)
                groups.setdefault(key, []).append(i)
        for (_, form, count), members in groups.items():
            part = self.place[members[0]][0]
            index = torch.tensor(members, device=self.times.device)[:, None]
            nodes = index + ahead - torch.arange(count, device=self.times.device)
            pick = torch.tensor([self.place[i][1] for i in members], device=self.times.device)
            values = part.weights(
                form,
                self.variable,
                (self.times[nodes], self.beta[nodes], self.sigma[nodes]),
                pick,
                midpoint=self.scheme.rule == "midpoint" and ahead == 0,
            )
            for k, i in enumerate(members):
                found[i] = values[k]
        return found
