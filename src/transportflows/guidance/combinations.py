r"""Guidance by combining fields: classifier-free, by a bad model, products, annealed powers.

* *Classifier-free guidance* (Ho & Salimans 2022) with strength w combines the conditional and the
  unconditional prediction, ``f = f_u + w (f_c - f_u)``: the path ``p_t^{1-w} p_t(·|c)^w``. w = 1 is
  the conditional field, w = 0 the unconditional. (Theirs is ``(1 + w') f_c - w' f_u``, w = 1 + w'.)
* *Autoguidance* (Karras et al. 2024) puts a worse model in the place of the unconditional one.
* *Products* of densities (Du et al. 2023) and *annealed* powers ``p^β``.

Each of them, integrated as it stands, samples another law than the one its score is of at t = 1:
with w = 2 on two classes that overlap, the mean is off by a good part of the standard deviation.
:func:`sample_weighted` carries the weights that mend it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .._core.checks import number
from .._core.conditions import NO_CONDITIONS, check_names
from .._core.signatures import checked
from ..fields.base import Field
from ..fields.null_conditions import nulls_by_name
from .geometric import Geometric
from .parts import Part, check_nulls, check_scale
from .scales import Scale

__all__ = ["AutoGuidance", "ClassifierFree", "Power", "Product", "conditional_parts"]

Strength = float | str | Callable[[Tensor], Tensor]


def conditional_parts(
    field: Field, null: Mapping[str, Any] | None, unconditional: Field | None, what: str
) -> tuple[Part, Part]:
    """The unconditional and the conditional part of guidance.

    Raises:
        ValueError: if it is not said what the field without its condition is, or twice.
    """
    if null is not None and unconditional is not None:
        raise ValueError(
            f"{what} compares a field with itself without its condition, and both ways to say what"
            " that is were given; give null={'label': 10} or unconditional=, a field of its own"
        )
    if null is None and unconditional is None:
        null = nulls_by_name(field.networks, field.conditions)
        if not null:
            raise ValueError(
                f"{what} compares a field with itself without its condition, and this field was"
                " never trained without: train it with fit(..., drop_cond=0.1), or give"
                " null={'label': 10}, the values that stood for none in a training of your own, or"
                " unconditional=, a field of its own"
            )
    if unconditional is not None:
        return Part(unconditional, alone=True), Part(field)
    assert null is not None
    if not isinstance(null, Mapping) or not null:
        raise TypeError(
            f"null is a mapping of names of conditions to their nulls, such as {{'label': 10}}, got"
            f" {null!r}"
        )
    check_names(null)
    known = getattr(field, "conditions", None)
    if known is not None and (unknown := [name for name in null if name not in known]):
        raise ValueError(
            f"null has {unknown[0]!r}, and the field was trained with"
            f" {', '.join(map(repr, known)) or 'no conditions'}"
        )
    check_nulls(null, field)
    return Part(field, null), Part(field)


@checked
class _Average(Geometric):
    """``f_0 + w (f_1 - f_0)``: powers 1 - w and w."""

    def _averaged(self, parts: Sequence[Part], scale: Scale) -> None:
        first, second = (part.field.power for part in parts)
        if first != second:
            raise ValueError(
                f"the fields of a {type(self).__name__} are of densities of a power of {first:g}"
                f" and of {second:g}, and are compared only where these are equal"
            )
        check_scale(scale, parts)
        self._of(parts, (scale,))
        self.power = first

    def powers(self, t: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> list[float | Tensor]:
        w = self._scales[0].at(t, cond)
        return [1.0 - w, w]


@checked
class ClassifierFree(_Average):
    r"""Classifier-free guidance: ``f_u + w (f_c - f_u)`` for every prediction f.

    Its score is that of ``p_t^{1-w} p_t(·|c)^w``, whatever its field predicts. The law that it
    samples is *not* ``p(x) p(c|x)^w`` at t = 1, unless w is 0 or 1.

    Args:
        field: takes the condition.
        scale: w: a number, a function of times, or the name of a condition that holds one number a
            row: ``scale="guidance"``, ``sample(..., cond={"label": labels, "guidance": w})``.
        null: the values that stood for no condition in training, by name: ``{"label": 10}``; one
            value for all rows. By default those of ``fit(..., drop_cond=)``, or of the network.
        unconditional: a field of its own in the place of the null; it is given no conditions.
        interval: times (low, high) within which to guide; w = 1 outside (Kynkäänniemi et al. 2024).
            The two times are breakpoints of the field, which every grid meets.

    Raises:
        ValueError: if no null is known and no unconditional field given, the null is of another
            kind than its condition, or nothing that the field was trained with, or a scale is not
            finite, or named as a condition of the field; at sampling if the condition is missing.
        TypeError: if a null is a list, or a scale of rows no number.

    A call costs two calls of the network; where w is the number 1 or 0 it costs one, and so it does
    outside of the interval where the time is one number on a CPU, as it is in a solve there.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> law = tpf.distributions.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.5)
        >>> one, both = tpf.oracle(process, tpf.Gaussian((2,), -1.0)), tpf.oracle(process, law)
        >>> guided = ClassifierFree(one, 2.0, unconditional=both)
        >>> tpf.sample(guided, 5, epsilon=0.5, steps=10).x.shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        field: Field,
        scale: Strength,
        *,
        null: Mapping[str, Any] | None = None,
        unconditional: Field | None = None,
        interval: tuple[float, float] | None = None,
    ) -> None:
        parts = conditional_parts(field, null, unconditional, "ClassifierFree")
        self._averaged(parts, Scale(scale, interval, neutral=1.0))

    def _settings(self) -> dict[str, Any]:
        return {"scale": self._scales[0], "null": self._parts[0].null or None}


@checked
class AutoGuidance(_Average):
    """Guidance by a bad version of a model: ``f_bad + w (f_good - f_bad)``.

    Karras et al. (2024): what a smaller or less trained network gets wrong, the good one is led
    away from. Both take the same conditions.

    Args:
        good: the field.
        bad: a worse one of the same law and process.
        scale: w, as in :class:`ClassifierFree`; 1 is the good field alone.
        interval: times within which to guide.

    Raises:
        ValueError: if the two are of different processes, events or units, or the scale is not
            finite.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> good, bad = (tpf.oracle(process, tpf.Gaussian((1,), mean)) for mean in (2.0, 1.0))
        >>> guided = AutoGuidance(good, bad, 2.0)  # at t = 1 the score of N(1 + 2 (2 - 1), 1)
        >>> guided.score(torch.tensor(1.0), torch.zeros(1, 1))
        tensor([[3.]])
    """

    def __init__(
        self,
        good: Field,
        bad: Field,
        scale: Strength,
        *,
        interval: tuple[float, float] | None = None,
    ) -> None:
        self._averaged((Part(bad), Part(good)), Scale(scale, interval, neutral=1.0))

    def _settings(self) -> dict[str, Any]:
        return {"scale": self._scales[0]}


@checked
class Product(Geometric):
    """The field of ``Π p_i^{w_i}``: what all of several fields agree on.

    Args:
        fields: two or more of one process.
        weights: the powers w_i; 1 each by default. Where they do not add up to 1 sampling starts
            from the base's density to the power of their sum, which is known of a Gaussian base.

    Raises:
        ValueError: if there is no field, or the weights are not as many finite numbers.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> two = [tpf.oracle(process, tpf.Gaussian((1,), mean)) for mean in (0.0, 2.0)]
        >>> both = Product(two)  # at t = 1 the score of N(1, 1/2), 2 (1 - x)
        >>> both.score(torch.tensor(1.0), torch.tensor([[0.0], [1.0]]))
        tensor([[2.],
                [0.]])
    """

    def __init__(self, fields: Sequence[Field], weights: Sequence[float] | None = None) -> None:
        if not fields:
            raise ValueError("a Product needs fields: Product([one, other])")
        given = [1.0] * len(fields) if weights is None else list(weights)
        if len(given) != len(fields):
            raise ValueError(
                f"got {len(given)} weights for {len(fields)} fields; give one for each"
            )
        self._of([Part(field) for field in fields])
        self.exponents = tuple(number("weights", w) for w in given)
        self.power = self._total(self.exponents)

    def powers(self, t: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> list[float | Tensor]:
        return list(self.exponents)

    def _settings(self) -> dict[str, Any]:
        return {"weights": list(self.exponents)}


@checked
class Power(Geometric):
    """The field of the annealed density ``p^β``: β > 1 sharpens it, β < 1 flattens it.

    Args:
        field: any field.
        power: β, above 0.

    Raises:
        ValueError: if β is not above 0: ``p^β`` then has no finite integral.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> field = tpf.oracle(process, tpf.Gaussian((1,), scale=2.0))  # N(0, 4)
        >>> Power(field, 4.0).score(torch.tensor(1.0), torch.ones(1, 1))  # N(0, 1): -x
        tensor([[-1.]])
    """

    def __init__(self, field: Field, power: float) -> None:
        beta = number("power", power)
        if beta <= 0:
            raise ValueError(f"power must be above 0, got {power}: p^β cannot be normalised else")
        self._of([Part(field)])
        self.exponents = (beta,)
        self.power = self._total([beta])

    def powers(self, t: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> list[float | Tensor]:
        return list(self.exponents)

    def _settings(self) -> dict[str, Any]:
        return {"power": self.exponents[0]}
