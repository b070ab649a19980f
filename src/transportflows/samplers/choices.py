"""Which scheme a call of ``sample`` asks for, and whether it can do what is asked with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.checks import choice
from ..fields.base import Field
from ..solve.epsilon import EpsilonSchedule
from ..solve.grid import Spacing, own_grid, save_times, time_grid, with_times
from ..solve.hooks import Corrector, Hooks
from ..solve.stepper import Stepper
from .adaptive import ADAPTIVE
from .ancestral import FEW_STEP
from .dynamics import FieldDynamics
from .linear_stepper import LinearStepper
from .multistep import Multistep
from .one_step import OneStep
from .recomputed import recomputed
from .schemes import ELSEWHERE, SCHEMES, Scheme, get_scheme
from .stepper_scheme import StepperScheme

__all__ = ["as_grid", "as_scheme", "as_solve", "as_stepper"]


def as_solve(
    field: Field,
    scheme: Any,
    steps: int | None,
    schedules: Sequence[EpsilonSchedule],
    corrector: Any,
    hooks: Hooks,
    fixed: bool = False,
) -> tuple[str | Scheme | Multistep | StepperScheme, int]:
    """The scheme and the number of steps of a call, those of the field where it gives none.

    ``fixed`` is for what takes fixed steps alone.
    """
    own = scheme is None
    count = (field if own else Field).default_steps if steps is None else steps
    scheme = field.default_scheme if own else scheme
    found = as_scheme(scheme, schedules, corrector, hooks)
    if fixed and (isinstance(found, str) or corrector is not None):
        what = f"the adaptive scheme {found!r}" if isinstance(found, str) else "a corrector"
        raise ValueError(
            "gradients=True and FixedSolve take a fixed-step scheme without a corrector, and"
            f" {what} was given; write scheme='heun' or 'rk4', with steps= enough, and no corrector"
        )
    return found, count


def as_scheme(
    scheme: Any, schedules: Sequence[EpsilonSchedule], corrector: Any, hooks: Hooks
) -> str | Scheme | Multistep | StepperScheme:
    """A scheme that can do what is asked of it; adaptive ones stay names."""
    noisy = any(not e.is_zero for e in schedules)
    found: str | Scheme | Multistep | StepperScheme = scheme
    if isinstance(scheme, str):
        scheme = choice("scheme", scheme, [*SCHEMES, *FEW_STEP, *ADAPTIVE], ELSEWHERE)
        found = FEW_STEP.get(scheme, SCHEMES.get(scheme, scheme))
    if isinstance(found, str):
        if noisy:
            raise ValueError(
                f"the adaptive scheme {found!r} solves ODEs, and epsilon > 0 was given; use"
                " 'heun' or 'rk4', or epsilon=0"
            )
        if corrector is not None or hooks:
            raise ValueError(
                "an adaptive scheme has no steps of its own to act after; use a fixed-step one,"
                f" such as 'heun', with {'the corrector' if corrector is not None else 'hooks'}"
            )
    elif isinstance(found, (Multistep, StepperScheme)):
        found.check(schedules)
    elif isinstance(found, Scheme):
        get_scheme(found, noisy=noisy)
    else:
        raise TypeError(
            f"scheme is a name, a Scheme, or a few-step scheme such as ExponentialIntegrator(2),"
            f" got {scheme if isinstance(scheme, type) else type(scheme).__name__}"
        )
    if corrector is not None and not isinstance(corrector, Corrector):
        raise TypeError(
            f"corrector must be a LangevinCorrector(snr=0.16), got {type(corrector).__name__}"
        )
    if corrector is not None and isinstance(found, Multistep) and found.remembers:
        raise ValueError(
            f"{found.name} remembers predictions at states that a Langevin correction then moves,"
            " and takes the jumps for a trend, so that the law is wrong; use a one-step scheme with"
            " the corrector: 'ddim', 'ancestral', 'heun' or 'euler_maruyama'"
        )
    return found


def as_grid(
    field: Field,
    t: Sequence[float] | Tensor,
    steps: int,
    spacing: str | Spacing,
    save_at: int | Sequence[float] | Tensor | None,
    scheme: str | Scheme | Multistep | StepperScheme,
) -> tuple[Tensor, list[int] | list[float]]:
    """The grid of a solve, and at which of its places, or at which times, to save."""
    first, last = float(t[0]), float(t[-1])
    if not (0 <= first <= 1 and 0 <= last <= 1) or first == last:
        raise ValueError(f"t must go between two different times in [0, 1], got {first}, {last}")
    breakpoints = () if isinstance(scheme, StepperScheme) else field.breakpoints
    if isinstance(scheme, str):  # an adaptive one, which makes its own steps
        if len(t) > 2:
            raise ValueError(
                f"the adaptive scheme {scheme!r} makes its own steps, so that the grid of {len(t)}"
                f" times would be ignored; write t=({first:g}, {last:g}), and save_at= for states"
                " on the way, or take a fixed-step scheme"
            )
        grid = torch.tensor([first, last], dtype=torch.float64)
        return grid, save_times(grid, save_at)
    if len(t) == 2:
        grid = time_grid(steps, start=first, stop=last, spacing=spacing, breakpoints=breakpoints)
    else:
        grid = own_grid(t, breakpoints)
    if isinstance(scheme, (Multistep, StepperScheme)):
        return grid, save_times(grid, save_at)
    return with_times(grid, save_at)


def as_stepper(
    field: Field,
    members: list[EpsilonSchedule],
    scheme: Scheme | Multistep | StepperScheme,
    margin: tuple[float, float] | None,
    saved: Sequence[float],
    gradients: bool,
) -> Stepper:
    """What makes the steps of a solve of some ε."""
    if gradients:
        return recomputed(as_stepper(field, members, scheme, margin, saved, False), field)
    if isinstance(scheme, StepperScheme):
        return scheme.stepper(field, members, saved)
    if isinstance(scheme, Multistep):
        return LinearStepper(field, members, scheme, margin=margin, saved=saved)
    return OneStep(FieldDynamics(field, members, margin=margin), scheme)
