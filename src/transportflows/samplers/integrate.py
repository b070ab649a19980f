"""``integrate``: any dynamics along any grid, the layer below ``sample``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.checks import check_finite_rows
from .._core.signatures import checked
from ..solve.epsilon import EpsilonSchedule
from ..solve.grid import check_grid, with_times
from ..solve.hooks import Hooks
from ..solve.loop import march
from ..solve.noise import NoiseSource
from ..solve.solution import Solution
from .dynamics import Dynamics, FunctionDynamics
from .one_step import OneStep
from .schemes import Scheme

__all__ = ["integrate"]


@checked
def integrate(
    dynamics: Dynamics | Callable[..., Tensor],
    x: DataLike,
    grid: Sequence[float] | Tensor,
    *,
    scheme: str | Scheme = "heun",
    epsilon: float | Callable[[Tensor], Tensor] | EpsilonSchedule = 0.0,
    noise: NoiseSource | None = None,
    hooks: Hooks = (),
    key: int | None = None,
    cond: Mapping[str, Any] | None = None,
    save_at: int | Sequence[float] | Tensor | None = None,
    chunk: int | None = None,
    max_nfe: int | None = None,
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
        hooks: called after each step; they look at the states, or change them.
        key: key of the noise; drawn from ``generator`` if not given.
        cond: conditions; tensors with n rows go with their rows.
        save_at: times to save states at, or how many equal ones; inserted into the grid where it
            lacks them (one within 1e-6 of a time of the grid is that one).
        chunk: rows in a call of the dynamics; all at once if None.
        max_nfe: most evaluations for a row; None for no bound.
        progress: show a progress bar over the steps, where there is a terminal.
        generator: source of the key.

    Raises:
        ValueError: for a grid that is not monotone within [0, 1], states that are no rows, and so
            on. A state that stops being finite is told by ``first_bad_step``.

    Example:
        >>> import math
        >>> x = integrate(lambda t, x: -x, torch.ones(1, 1), torch.linspace(0, 1, 101)).x
        >>> bool((x - math.exp(-1)).abs() < 1e-5)
        True
        >>> back = integrate(lambda t, x: -x, x, torch.linspace(1, 0, 101)).x
        >>> torch.allclose(back, torch.ones(1, 1), atol=1e-4)
        True
    """
    if not isinstance(dynamics, Dynamics):
        dynamics = FunctionDynamics(dynamics, epsilon)
    elif not (isinstance(epsilon, (int, float)) and epsilon == 0):
        raise ValueError("a Dynamics has its own epsilon; epsilon= is for a plain function")
    x = as_rows("x", x)
    check_finite_rows(x, "x")
    times, saved = with_times(check_grid(grid), save_at)
    return march(
        OneStep(dynamics, scheme),
        x,
        times,
        saved=saved,
        noise=noise,
        hooks=hooks,
        key=key,
        cond=cond,
        chunk=chunk,
        max_nfe=max_nfe,
        progress=progress,
        generator=generator,
    )[0]
