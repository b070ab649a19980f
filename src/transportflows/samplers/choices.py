"""Which scheme a call of ``sample`` asks for, and whether it can do what is asked with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._core.checks import choice
from ..fields.base import Field
from ..solve.epsilon import EpsilonSchedule
from ..solve.hooks import Corrector, Hooks
from ..solve.stepper import Stepper
from .adaptive import ADAPTIVE
from .ancestral import FEW_STEP
from .dynamics import FieldDynamics
from .linear_stepper import LinearStepper
from .multistep import Multistep
from .one_step import OneStep
from .recomputed import Recomputed
from .schemes import ELSEWHERE, SCHEMES, Scheme, get_scheme
from .stepper_scheme import StepperScheme

__all__ = ["as_scheme", "as_solve", "as_stepper"]


def as_solve(
    field: Field,
    scheme: Any,
    steps: int | None,
    schedules: Sequence[EpsilonSchedule],
    corrector: Any,
    hooks: Hooks,
    gradients: bool = False,
) -> tuple[str | Scheme | Multistep | StepperScheme, int]:
    """The scheme and the number of steps of a call, those of the field where it gives none."""
    own = scheme is None
    count = (field if own else Field).default_steps if steps is None else steps
    scheme = field.default_scheme if own else scheme
    found = as_scheme(scheme, schedules, corrector, hooks)
    if gradients and (isinstance(found, str) or corrector is not None):
        what = f"the adaptive scheme {found!r}" if isinstance(found, str) else "a corrector"
        raise ValueError(
            f"gradients=True keeps the states of the steps of a fixed-step scheme, and {what} was"
            " given; write scheme='heun' or 'rk4', with steps= enough, and no corrector"
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
        plain = as_stepper(field, members, scheme, margin, saved, gradients=False)
        return Recomputed(plain, field)
    if isinstance(scheme, StepperScheme):
        return scheme.stepper(field, members, saved)
    if isinstance(scheme, Multistep):
        return LinearStepper(field, members, scheme, margin=margin, saved=saved)
    return OneStep(FieldDynamics(field, members, margin=margin), scheme)
