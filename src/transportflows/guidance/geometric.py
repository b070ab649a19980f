r"""Products of powers of densities, as fields.

Where fields have the densities :math:`p_{i,t}` of one process, the path

.. math:: q_t \propto \prod_i p_{i,t}^{w_i}, \qquad
          \nabla \log q_t = \sum_i w_i s_i, \qquad v = \sum_i w_i b_i

has the sum of their scores as its score, exactly. v is what guidance integrates. It carries q_t
itself only for one field of power 1: for all else the law at t = 1 is another than q_1, and
:func:`sample_weighted` has the weights that make up for it.

All conversions between predictions are affine, ``target = A x + C m + Σ B_k f_k`` with numbers that
do not depend on the field. So with ``W = Σ w_i``, and ``F_k = Σ w_i f_ik`` for the network's
output,

.. math:: \sum_i w_i\, target_i = W (A x + C m) + \sum_k B_k F_k ,

and for W = 1 it is all one which prediction is combined. For W ≠ 1 the field's velocity and score
are those sums, and it has no data prediction: no process has these as the velocity and the score of
its x_t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .._core.checks import names
from .._core.condition import Condition
from .._core.conditions import NO_CONDITIONS, check_conditions
from .._core.reprs import brief, call_lines
from .._core.signatures import checked
from ..combination import Combination
from ..distributions import Distribution, Gaussian
from ..fields.base import Field
from ..fields.calls import Network
from ..gaussian_part import ConversionError
from .parts import Part, common_outputs, shared_law
from .scales import Scale

__all__ = ["Geometric", "Guided"]


@checked
class Guided(Field):
    """A field made of others: what all of them share.

    Attributes:
        fields: those that it is made of.

    Raises:
        TypeError: if it is made itself, and not one of its kinds.
    """

    trainable = False
    _scales: tuple[Scale, ...] = ()
    _parts: tuple[Part, ...] = ()

    def __init__(self, *given: Any, **named: Any) -> None:
        raise TypeError(
            f"{type(self).__name__} is what guided fields share, and is not made itself; write"
            " Power(field, w), Product([first, second]), ClassifierFree(field, w) or another one"
        )

    def _build(self, parts: Sequence[Part], scales: Sequence[Scale]) -> None:
        nn.Module.__init__(self)
        fields = list(dict.fromkeys(part.field for part in parts))
        self.process, self.transform = shared_law(fields, type(self).__name__)
        self.fields = nn.ModuleList(fields)
        self._parts, self._scales = tuple(parts), tuple(scales)
        for part in parts:
            part.hidden |= self._own_names()

    @property
    def conditions(self) -> Mapping[str, Condition] | None:  # type: ignore[override]
        """What its fields were trained with, by name; None where that is not known of one."""
        found: dict[str, Condition] = {}
        for part in self._parts:
            known = part.field.conditions
            if known is None and not part.alone:
                return None
            found.update(known or {})
        return found

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """Those of its fields, and the ends of the intervals in which it guides."""
        found = {point for part in self._parts for point in part.field.breakpoints}
        ends = {end for scale in self._scales for end in scale.interval or ()}
        return tuple(sorted(found | {end for end in ends if 0 < end < 1}))

    @property
    def networks(self) -> tuple[Network, ...]:
        of_all = [net for field in self.fields for net in field.networks]  # type: ignore[union-attr]
        return tuple({id(net): net for net in of_all}.values())

    def reference(self) -> Tensor:
        found: Tensor = self.fields[0].reference()  # type: ignore[operator]
        return found

    def _own_names(self) -> set[str]:
        """The names of conditions that are its own: strengths."""
        return {scale.column for scale in self._scales if scale.column is not None}

    def takes(self, name: str) -> bool:
        """Whether a condition of this name is for it, or for a field in it.

        Args:
            name: of the condition.
        """
        return name in self._own_names() or any(part.takes(name) for part in self._parts)

    def check_conditions(
        self, cond: Mapping[str, Any] | None, n: int, **how: Any
    ) -> dict[str, Any]:
        where = {key: how[key] for key in ("rows", "device") if key in how}
        given = check_conditions(cond, n, **where)
        found: dict[str, Any] = {}
        for scale in self._scales:
            found.update(scale.taken(given, n))
        for part in self._parts:
            found.update(part.check(given, n, **how))
        if unknown := sorted(given.keys() - found.keys()):
            raise ValueError(
                f"no field of this {type(self).__name__} takes the condition {names(unknown)};"
                " leave it out"
            )
        return found

    def config(self) -> dict[str, Any]:
        raise NotImplementedError("a guided field is made of its fields; save those")

    def save(self, path: Any) -> NoReturn:
        """Refused: the fields in it are saved, and guidance is chosen when sampling.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"a {type(self).__name__} is not saved: save the fields that it is made of"
            f" (field.fields), and make it anew of what load_field gives"
        )

    def _settings(self) -> dict[str, Any]:
        """What the repr tells beside the fields."""
        return {}

    def __repr__(self) -> str:
        inner = [type(field).__name__ for field in self.fields]
        told = [f"{name}={brief(value)}" for name, value in self._settings().items()]
        law = repr(self.process).replace("\n", "\n    ")
        return call_lines(type(self).__name__, [*inner, *told, ""])[:-2] + f"\n    process={law})"


@checked
class Geometric(Guided):
    """The field of ``Π p_i^{w_i}``: the powers of the densities of several fields."""

    def _of(self, parts: Sequence[Part], scales: Sequence[Scale] = ()) -> None:
        self._build(parts, scales)
        self.outputs = common_outputs(list(self.fields), type(self).__name__)  # type: ignore[arg-type]

    def powers(self, t: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> list[float | Tensor]:
        """The w_i at times t, each a number or a tensor ``()`` or ``(B,)``.

        Args:
            t: times, ``()`` or ``(B,)``.
            cond: conditions by name.
        """
        raise NotImplementedError

    @property
    def constant_powers(self) -> list[float] | None:
        """The w_i where they are the same numbers at all times and for all rows; else None."""
        found = self.powers(torch.zeros(()), NO_CONDITIONS) if self._steady() else None
        return None if found is None else [float(w) for w in found]

    def _steady(self) -> bool:
        return all(scale.constant is not None for scale in self._scales)

    def _total(self, powers: Sequence[float]) -> float:
        """W, the sum of the powers of the densities of the process."""
        return sum(w * part.field.power for w, part in zip(powers, self._parts, strict=True))

    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """``Σ w_i f_i`` of each output, of the shape of ``x`` ``(B, *)``."""
        powers = [w if isinstance(w, float) else w.to(x) for w in self.powers(t, cond)]
        nothing = (None,) * len(self.outputs)
        found = [
            nothing
            if isinstance(w, float) and w == 0
            else part.predict(self.outputs, t, x, cond, needed)
            for part, w in zip(self._parts, powers, strict=True)
        ]
        total = Combination(None, None, tuple(powers))
        wanted = (True,) * len(self.outputs) if needed is None else needed
        return tuple(
            total.of(x, None, each) if want else None
            for each, want in zip(zip(*found, strict=True), wanted, strict=True)
        )

    def weights(self, target: str, t: Tensor) -> Combination:
        self._check_target(target)
        found = super().weights(target, t)
        if self.power == 1:
            return found
        return Combination(
            None if found.x is None else found.x * self.power,
            None if found.mean is None else found.mean * self.power,
            found.outputs,
        )

    def quantity(
        self,
        target: str,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        checked: bool = True,
    ) -> Tensor:
        self._check_target(target)
        return super().quantity(target, t, x, cond, checked=checked)

    def _check_target(self, target: str) -> None:
        if target == "data" and self.power != 1:
            raise ConversionError(
                f"a {type(self).__name__} whose powers add up to {self.power:g} has no data"
                " prediction: its velocity and its score are sums of those of its fields, and"
                " belong to no process whose x_t is that of the data. Ask for these, or for the"
                " data prediction of each field"
            )

    @property
    def own_start(self) -> Distribution:
        """``ρ0^W``, where ρ0 is Gaussian.

        Raises:
            ValueError: if the base is not Gaussian, or the powers add up to none that is positive.
        """
        law = self.process.start
        if self.power == 1:
            return law
        if self.power <= 0 or not isinstance(law, Gaussian):
            raise ValueError(
                f"the powers of this {type(self).__name__} add up to {self.power:g}, so that it"
                f" starts from the base's density to that power, which is known of a Gaussian base"
                f" and a positive power only (the base is a {type(law).__name__}); give start=, or"
                " weights that add up to 1"
            )
        told = law.config()
        key = "scale_tril" if "scale_tril" in told else "scale"
        return Gaussian(**{**told, key: law.scale * self.power**-0.5})
