"""The step loop. It knows a stepper, a grid and a noise source, and no network.

Steps outside, rows inside: the noise of a step is drawn once for all rows, and the rows go through
the stepper in equal chunks that fit the cache or the card. Chunks change results by rounding
only. The loop reads no value from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..solve.epsilon import EpsilonSchedule
from ..solve.hooks import Correction
from ..solve.loop import march
from ..solve.noise import NoiseSource
from ..solve.solution import Solution
from .dynamics import Dynamics, FunctionDynamics
from .one_step import OneStep
from .schemes import Scheme

__all__ = ["integrate"]


def integrate(
    dynamics: Dynamics | Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    grid: Sequence[float] | Tensor,
    *,
    scheme: str | Scheme = "heun",
    epsilon: float | Callable[[Tensor], Tensor] | EpsilonSchedule = 0.0,
    noise: NoiseSource | None = None,
    correction: Correction | None = None,
    key: int | None = None,
    cond: Mapping[str, Any] | None = None,
    save_at: Sequence[float] | Tensor | None = None,
    chunk: int | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> Solution:
    """Integrate ``dX = f dt + √(2ε) dW`` along a grid, forward or backward in time.

    Differentiable where gradients are enabled; memory then grows with the number of steps.

    Args:
        dynamics: a :class:`Dynamics`, or a plain ``f(t, x)``, the drift of the SDE.
        x: starting states, ``(n, *)``; for a dynamics of K groups ``(K n, *)``. Not changed.
        grid: strictly monotone times in [0, 1].
        scheme: name or :class:`Scheme`.
        epsilon: diffusion of a plain function; a Dynamics has its own.
        noise: source of increments; :class:`Increments` by default.
        correction: what is done to the states after each step; see :class:`Correction`.
        key: key of the noise; drawn from ``generator`` if not given.
        cond: conditions; tensors with n rows go with their rows.
        save_at: times to save states at; inserted into the grid where it lacks them.
        chunk: rows in a call of the dynamics; all at once if None.
        progress: show a progress bar over the steps, where there is a terminal.
        generator: source of the key.

    Raises:
        NonFiniteStateError: if a state stops being finite; it carries the solution so far.
    """
    if not isinstance(dynamics, Dynamics):
        dynamics = FunctionDynamics(dynamics, epsilon)
    elif not (isinstance(epsilon, (int, float)) and epsilon == 0):
        raise ValueError("a Dynamics has its own epsilon; epsilon= is for a plain function")
    return march(
        OneStep(dynamics, scheme),
        x,
        grid,
        noise=noise,
        correction=correction,
        key=key,
        cond=cond,
        save_at=save_at,
        chunk=chunk,
        progress=progress,
        generator=generator,
    )
