"""The numbers of an exponential integrator on a grid.

Each step is made of integrals (:mod:`transportflows.samplers.quadrature`), a prediction that is
regular over it, and the polynomial through the last predictions; and it carries the correction of
the step before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..gaussian_part import GaussianPart
from ..solve.epsilon import EpsilonSchedule
from .multistep_table import Table
from .quadrature import Integrals, Variable, integrals, levels

__all__ = ["Tabulation"]

Schedules = Sequence[EpsilonSchedule]


class Tabulation:
    """The numbers of an exponential integrator on a grid.

    Step i goes from ``times[i]``, where the network is called, to ``times[i + 1]``.

    Args:
        part: of the process.
        schedules: one ε for each group of rows.
        times: of the grid, float64.
        order: p.
        prediction: the form asked for; another is taken where it is singular.
        corrector: whether each step is corrected.
        variable: what predictions are a polynomial of.
        midpoint: whether its value in the middle of a step stands for all of it.
        kinks: times at which predictions are not smooth.
    """

    def __init__(
        self,
        part: GaussianPart,
        schedules: Schedules,
        times: Tensor,
        *,
        order: int,
        prediction: str,
        corrector: bool,
        variable: Variable,
        midpoint: bool,
        kinks: Sequence[float] = (),
    ) -> None:
        self.part, self.times, self.variable = part, times, variable
        self.order, self.prediction = order, prediction
        self.corrector, self.midpoint = corrector, midpoint
        self.noisy = not all(s.is_zero for s in schedules)
        self.beta, self.sigma = part.path.beta(times), part.scale(times)
        empty = (self.beta == 0) | (self.sigma == 0)
        self.singular = (empty[:-1] | empty[1:]).tolist()
        self.lands = (self.sigma[1:] == 0).tolist()
        self.steps = len(times) - 1
        self.place = self._integrated(schedules)  # of each step: the integrals, and its row in them
        self.forms = self._forms()
        starts = times.tolist()[:-1]
        self.anew = [
            i == 0 or any(abs(t - b) < 1e-9 for b in kinks) for i, t in enumerate(starts)
        ]  # whether the predictions before it are of no use

    def _integrated(self, schedules: Schedules) -> list[tuple[Integrals, int]]:
        """Tabulate steps together: all of them with ε > 0, since a schedule may know the grid."""
        batches = [list(range(self.steps))]
        if not self.noisy:
            kinds = (False, True)
            batches = [[i for i in batches[0] if self.singular[i] is kind] for kind in kinds]
        found: dict[int, tuple[Integrals, int]] = {}
        for members in filter(None, batches):
            singular = any(self.singular[i] for i in members)
            index = torch.tensor(members, device=self.times.device)
            table = integrals(
                self.part,
                schedules,
                self.times[index],
                self.times[index + 1],
                halvings=levels(noisy=self.noisy, singular=singular),
                open_ends=singular,
            )
            found.update({i: (table, k) for k, i in enumerate(members)})
        return [found[i] for i in range(self.steps)]

    def _forms(self) -> list[str]:
        """The prediction of each step: the one asked for, unless it is singular there."""
        asked = self.prediction
        tables = {id(table): table for table, _ in self.place}
        calm = {key: table.calm.tolist() for key, table in tables.items()}
        wanted = [asked, *(form for form in ("velocity", "data", "noise") if form != asked)]
        found = {
            (form, key): table.usable(form).tolist()
            for key, table in tables.items()
            for form in wanted
        }
        forms: list[str] = []
        for i, (table, k) in enumerate(self.place):
            usable = [form for form in wanted if found[form, id(table)][k]]
            if usable[:1] == ["noise"] and not calm[id(table)][k]:
                usable.reverse()
            if not usable:
                raise ValueError(
                    f"epsilon is too large for the step from t = {float(self.times[i]):g} to"
                    f" {float(self.times[i + 1]):g}: neither the data nor the noise is a regular"
                    " prediction there. Use an epsilon that vanishes with the noise"
                    " (NoiseVarianceEpsilon), or scheme='heun'"
                )
            forms.append(usable[0])
        return forms

    def table(self) -> Table:
        """All steps, and what corrects each of them.

        Step i can be corrected once the prediction at its end is known, which is when step i + 1 is
        made. So step i + 1 carries it: its own weights, and what is left after it (``state``) of
        the corrected weights of step i less the ones that were used.
        """
        seen = self._seen()
        used = self._weights(dict(enumerate(seen)), ahead=0)
        better = self._weights({i: seen[i] + 1 for i in self._corrected()}, ahead=1)
        state = [table.transfer[form][k] for (table, k), form in self._each()]
        weights, fixes = [], {}
        for i in range(self.steps):
            total = used[i]
            if i - 1 in better:
                change = better[i - 1]
                change = torch.cat([change[:1], change[1:] - used[i - 1]])
                if self.forms[i] != self.forms[i - 1]:
                    fixes[i] = change
                else:
                    total = total.new_zeros(max(len(used[i]), len(change)), total.shape[1])
                    total[: len(used[i])] += used[i]
                    total[: len(change)] += state[i] * change
            weights.append(total)
        noise = [table.variance(form)[k].clamp(min=0).sqrt() for (table, k), form in self._each()]
        return Table(self.forms, state, weights, noise if self.noisy else None, fixes)

    def _each(self) -> Iterator[tuple[tuple[Integrals, int], str]]:
        return zip(self.place, self.forms, strict=True)

    def _seen(self) -> list[int]:
        """How many predictions each step is made from: fewer behind a start or a breakpoint."""
        seen, since = [], 0
        for i in range(self.steps):
            since = 1 if self.anew[i] else since + 1
            most = self.order + (self.corrector and self.lands[i])
            seen.append(min(most, since))
        return seen

    def _corrected(self) -> list[int]:
        """The steps to correct: all, if that is asked for, or first ones that would cost an order.

        The last step is not: the prediction at its end would be a call of its own.
        """
        order, most = self.order, range(self.steps - 1)
        if self.corrector:
            return list(most)
        return [i for i in most if self.anew[i] and order >= (2 if self.singular[i] else 3)]

    def _weights(self, counts: dict[int, int], *, ahead: int) -> dict[int, Tensor]:
        """``(J, G)`` of some steps, by the number J of predictions each is made from.

        They are made at J times up to ``times[i + ahead]``, the newest first.
        """
        groups: dict[tuple[int, str, int], list[int]] = {}
        for i, count in counts.items():
            key = id(self.place[i][0]), self.forms[i], count
            groups.setdefault(key, []).append(i)
        found: dict[int, Tensor] = {}
        for (_, form, count), members in groups.items():
            index = torch.tensor(members, device=self.times.device)[:, None]
            nodes = index + ahead - torch.arange(count, device=self.times.device)
            pick = torch.tensor([self.place[i][1] for i in members], device=self.times.device)
            values = self.place[members[0]][0].weights(
                form,
                self.variable,
                (self.times[nodes], self.beta[nodes], self.sigma[nodes]),
                pick,
                midpoint=self.midpoint and ahead == 0,
                ahead=ahead,
            )
            found.update(zip(members, values, strict=True))
        return found
