r"""Reflow: a flow is trained again on the pairs that it makes itself, and becomes straighter.

The ODE of a field carries each start X_0 to one end X_1. Trained anew on the path between these
pairs, ``x_t = I(t, X_0, X_1)``, the velocity ``b = E[ẋ_t | x_t]`` has the same laws at both ends,
and for every convex cost the pairs that it makes are no dearer than those it was given (Liu, Gong
and Liu 2022, "Flow straight and fast", theorems 3.3 and 3.5). Where paths of different pairs no
longer cross, ``b = X_1 - X_0`` along each, the *straightness*

.. math:: S = E \int_0^1 | b(t, X_t) - (X_1 - X_0) |^2 \, dt
            = E \int_0^1 |b|^2 \, dt - E |X_1 - X_0|^2

is 0, and one Euler step is exact. Straight is not optimal: of two flows without crossings both are
straight, and only the pairs of gradients are those of optimal transport.

The errors of a field stay in its pairs, and add up: what a first flow has learned badly, a second
learns well.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.arguments import positive_integer
from .._core.conditions import NO_CONDITIONS, map_rows
from .._core.random import draw_key, mix, stream
from .._core.reprs import summary
from .._core.signatures import checked
from ..couplings import Paired
from ..fields import Field
from ..gaussian_part import ConversionError
from ..interpolants import Interpolant
from ..process import Process
from ..samplers import sample
from ..samplers.geometry import PathGeometry, path_geometry
from ..training import Trainer
from .fit_arguments import fit_arguments

__all__ = ["Reflow", "flow_pairs", "reflow"]

_MEASURED = 2_000  # paths of which energy and straightness are means


@checked
@dataclass(frozen=True, eq=False)
class Reflow:
    """The fields of a reflow, from the one given to the last, and how straight each of them is.

    Attributes:
        fields: ``times + 1`` of them; the first is the one that was given.
        geometry: path energy ``E ∫ |b|² dt`` and straightness of each, on starts that no pair had.
    """

    fields: tuple[Field, ...]
    geometry: tuple[PathGeometry, ...]

    __repr__ = summary

    @property
    def field(self) -> Field:
        """The last of the fields."""
        return self.fields[-1]


@checked
@torch.no_grad()
def flow_pairs(
    field: Field,
    n: int | None = None,
    *,
    start: Any | None = None,
    steps: int = 100,
    scheme: str = "heun",
    cond: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Pairs (x0, x1) of the ODE of a field: where it starts, and where it carries that.

    Args:
        field: a field with a velocity.
        n: how many.
        start: a law or states to start from, as in :func:`transportflows.sample`.
        steps: of the solve.
        scheme: of the solve, a one-step scheme by name.
        cond: conditions; tensors have n rows.
        generator: source of the starts.

    Returns:
        Two tensors ``(n, *)`` in the units of the data.

    Raises:
        RuntimeError: if the solve kept no states, which is a fault of this library.
        ConversionError: if the field has no velocity.
        ValueError: if :func:`transportflows.sample` refuses.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> x0, x1 = flow_pairs(tpf.oracle(process, tpf.Gaussian((1,), 3.0)), 5)
        >>> torch.allclose(x1, x0 + 3, atol=1e-3)  # the flow from N(0, 1) to N(3, 1)
        True
    """
    solved = sample(
        field, n, start=start, steps=steps, scheme=scheme, save_at=[0.0, 1.0], cond=cond,
        generator=generator,
    )  # fmt: skip
    if solved.trajectory is None:
        raise RuntimeError("the solve kept no trajectory")
    return solved.trajectory[0], solved.trajectory[-1]


@checked
def reflow(
    field: Field,
    n: int,
    *,
    fit: Mapping[str, Any],
    times: int = 1,
    path: Interpolant | None = None,
    steps: int = 100,
    scheme: str = "heun",
    cond: Mapping[str, Any] | None = None,
    measured: int = _MEASURED,
    generator: torch.Generator | None = None,
) -> Reflow:
    """Train a field again on the pairs of its own ODE, some times over.

    Each time n pairs are drawn, and a copy of the field, which starts with its weights, is trained
    on them by a :class:`~transportflows.Trainer` as pairs (:class:`~transportflows.Paired`) of the
    same path. Kind, transform and conditions of the field are kept; the field given is left as it
    is.

    Args:
        field: what predicts a velocity whatever the coupling: a Velocity, a FieldPair, or a
            BridgeDrift of both directions.
        n: pairs, drawn anew each time.
        fit: arguments of the Trainer and of its ``fit``, by name, such as ``{"steps": 5_000,
            "batch_size": 512, "lr": 1e-3, "ema": 0.999}``; an optimizer or scheduler is given as
            a function that makes one. With ``ema`` the field returned holds the averages.
        times: k, how often.
        path: of the new processes; that of the field by default. A one-sided path has no x0 to
            pair, so give ``Linear()``, say.
        steps: of the solves that draw the pairs.
        scheme: of these, a one-step scheme by name.
        cond: conditions of the n pairs, by name; tensors have n rows. Each pair is drawn under its
            own, and trained with it.
        measured: fresh paths of which straightness and energy are means.
        generator: source of all that is drawn.

    Raises:
        TypeError: if the field has nothing to train, or ``fit`` has an optimizer of its own.
        ConversionError: if the field has no velocity once x0 depends on x1.
        ValueError: if ``fit`` lacks ``steps`` or holds what is set here, or the path has no x0.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> field = tpf.Velocity(tpf.networks.MLP(2, 16, 1), process)
        >>> found = reflow(field, 64, fit={"steps": 5, "progress": False}, steps=4, measured=8)
        >>> len(found.fields), found.field.process.coupling
        (2, Paired())
    """
    n, times = positive_integer("n", n), positive_integer("times", times)
    made, told = fit_arguments(fit)
    check_reflow(field, path)
    key = draw_key(generator)
    some = _rows(cond, n, measured, stream(mix(key, 0)))
    fields, geometry = [field], [_geometry(field, measured, steps, some, mix(key, 1))]
    for k in range(times):
        x0, x1 = flow_pairs(
            fields[-1], n, steps=steps, scheme=scheme, cond=cond, generator=stream(mix(key, 2, k))
        )
        trainer = Trainer(student(fields[-1], path), **made)
        trainer.fit((x0, x1), cond=cond, generator=stream(mix(key, 3, k)), **told)
        fields.append(trainer.field if trainer.ema is None else trainer.averaged_field())
        geometry.append(_geometry(fields[-1], measured, steps, some, mix(key, 1)))
    return Reflow(tuple(fields), tuple(geometry))


def student(field: Field, path: Interpolant | None = None) -> Field:
    """A copy of a field, with its weights, for pairs of its path or another.

    Raises:
        ConversionError: if the copy gives no velocity.
        ValueError: if the path has no x0.
    """
    process = field.process
    path = process.interpolant if path is None else path
    if not path.uses_base:
        raise ValueError(
            f"the pairs of a flow are (x0, x1), and {type(path).__name__} has no x0; give a path"
            " that has, such as reflow(..., path=Linear()), whose x_t has the same laws as"
            " OneSidedLinear() from N(0, 1)"
        )
    own = process.coupling.condition_on_start
    coupling = Paired(condition_on_start=own, is_map=own)
    made = copy.deepcopy(field)
    made.process = Process(copy.deepcopy(path), copy.deepcopy(field.own_start), coupling)
    half = torch.tensor([0.5], dtype=torch.float64)
    try:
        made.weights("velocity", half)
    except ConversionError as error:
        raise ConversionError(
            f"a {type(field).__name__} gives no velocity of pairs of a flow, in which x0 depends"
            " on x1; reflow a Velocity, or a FieldPair of velocity and noise: train one"
            f" first. ({error})"
        ) from error
    return made


def check_reflow(field: Field, path: Interpolant | None) -> None:
    """Refuse a field that cannot be trained again on its own pairs, before anything is drawn."""
    if not field.trainable or not any(p.requires_grad for p in field.parameters()):
        raise TypeError(
            f"this {type(field).__name__} has no parameters to train; draw its pairs,"
            " flow_pairs(field, n), and fit them: Trainer(Velocity(net, Process(Linear(),"
            " base=..., coupling=Paired()))).fit((x0, x1), ...)"
        )
    student(field, path)


def _rows(
    cond: Mapping[str, Any] | None, n: int, measured: int, generator: torch.Generator
) -> Mapping[str, Any]:
    """Conditions of as many rows as are measured, drawn from those of the pairs."""
    index = torch.randint(n, (measured,), generator=generator)
    return map_rows(cond or NO_CONDITIONS, lambda rows: rows[index.to(rows.device)])


def _geometry(field: Field, n: int, steps: int, cond: Mapping[str, Any], key: int) -> PathGeometry:
    even = max(steps + steps % 2, 20)
    return path_geometry(field, n, steps=even, cond=cond, generator=stream(key))
