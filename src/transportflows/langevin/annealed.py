r"""Annealed Langevin dynamics over the noise levels of a process (NCSN).

Langevin chains do not cross between separated modes; under much noise there are no separate modes.
So chains run at the law of ``x_t`` at one time after another, from much noise to little, each
level starting where the last one ended (Song & Ermon 2019, algorithm 1; Rakitin, algorithm 2): the
early levels share the rows out among the modes in the right proportions, the late ones only have
to sharpen. The levels are times of the process: those of a variance-exploding process are NCSN's
σ_1 > ... > σ_L, those of a variance-preserving one Rakitin's.

*Between levels.* Where β grows from one level to the next (variance-preserving), all of ``β x1``
grows, and a state left where it is has its data too near the origin: late levels move slowly, and
the modes of data at distance 8 end at 7. So the state is rescaled, which keeps
``y = (x - α m)/β = x1 + (σ̂/β) ẑ``. Then a step of size ``r σ̂²`` in x is one of ``r (σ̂/β)²`` in y,
and all one-sided processes do, at levels of the same σ̂/β, what the variance-exploding one does.
``rescale=False`` is algorithm 2 as it is printed.

*Step sizes.* At a level of noise scale σ̂ the score's Jacobian is
``-1/σ̂² + (β²/σ̂⁴) Cov(x1 | x_t)``, never below ``-1/σ̂²``, so that steps of the exact score are
stable for ``h < 2 σ̂²`` whatever the data. The rule is ``h = r σ̂²`` with one r < 2 for all levels.
Song & Ermon's is this rule: their ``α_i = ε σ_i²/σ_L²`` in ``x + (α/2) s + √α z`` is
``r = ε / (2 σ_L²)``, and their ``ε = 2e-5``, ``σ_L = 0.01`` are ``r = 0.1``, the default.

*Bias.* On directions with little data (a manifold's normals) the variance σ̂² is
``1 / (1 - r/2)`` times too large at every level, and gone with the last one. In a direction of
data variance v a level of T steps forgets its start at the rate ``2 r T σ̂²/(v + σ̂²)``; where that
is small, ``σ̂² << v / (2 r T)``, a level no longer acts, and what the last one that does left stays:
with levels in the ratio ρ, between ``1/(2 r T)`` and ``ρ²/(2 r T)`` of v too much. So r T counts,
and r up to 1 serves a law that is smooth. The last step, ``denoise``, replaces x by the data
prediction ``E[x1 | x_t]``, and so takes the last level's noise off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.checks import positive_integer
from .._core.random import draw_key, mix
from .._core.signatures import checked
from ..distributions.base import Distribution
from ..fields.base import Field
from ..samplers.starts import evaluating, starting_states
from ..solve.hooks import Hooks, in_units_of
from ..solve.loop import march
from ..solve.rows import Chunks, default_chunk
from ..solve.solution import Solution, check_hooks_finite
from .annealed_steps import AnnealedSteps
from .levels import as_levels
from .scores import FieldTable

__all__ = ["annealed_langevin"]


@checked
@torch.no_grad()
def annealed_langevin(
    field: Field,
    n: int | None = None,
    *,
    levels: int | Sequence[float] | Tensor = 10,
    steps_per_level: int = 100,
    step_size: float | Callable[[Tensor], Tensor] = 0.1,
    denoise: bool = True,
    rescale: bool = True,
    start: Distribution | DataLike | Any | None = None,
    save_levels: bool = False,
    cond: Mapping[str, Any] | None = None,
    hooks: Hooks = (),
    chunk: int | None = None,
    dtype: torch.dtype | None = None,
    max_nfe: int | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> Solution:
    r"""Sample a field by Langevin steps at one noise level after another (NCSN).

    At each level ``x + h s(t, x) + √(2h) z``, ``steps_per_level`` times; then one data prediction.

    Args:
        field: a field with a score, or an oracle. ``denoise`` needs its data prediction.
        n: number of samples; may be left out where ``start`` is a tensor.
        levels: increasing times at which σ̂ > 0, or a number of :func:`geometric_levels`.
        steps_per_level: T, Langevin steps at each level.
        step_size: r in ``h = r σ̂²``, with 0 < r < 2; or a function that gives h for a float64
            tensor of the levels' noise scales σ̂. Song & Ermon's (2019) ε is ``2 r σ_L²``.
        denoise: end with the data prediction ``E[x1 | x_t]`` at the last level, one more
            evaluation, instead of the state there, ``x_t`` itself.
        rescale: keep ``(x - α m)/β`` from one level to the next, instead of x (in one-sided
            processes; ``x - α m`` from a first level at which β = 0).
        start: where to start, as for :func:`sample`: a Distribution or a tensor in the data's
            units; by default the process's law at t = 0.
        save_levels: save the states at the end of each level, before ``denoise``.
        cond: conditions for the network, as for :func:`sample`.
        hooks: called after each step, as for :func:`sample`, with the states in the units of the
            data and the level as the time: to look at them, to end the solve (``denoise`` then
            acts at the level reached), or to return others.
        chunk: rows in one network call; chosen to fit the cache (or the card) if None.
        dtype: of the states: that of the start, or of the network, by default, and float32 where
            that is of half precision. A network is called in its own dtype.
        max_nfe: most evaluations of the field for a row; more steps than that are refused.
        progress: show a progress bar.
        generator: source of randomness; one key is drawn from it.

    Returns:
        The samples; ``t`` are the levels reached, ``nfe`` is the number of steps, plus one for
        ``denoise``.

    Raises:
        TypeError: if it is no field.
        ConversionError: if the field has no score, or no data prediction for ``denoise``.
        NonFiniteStateError: if a state stops being finite: at which level and step, and which
            step size to try.
        ValueError: for levels that do not increase or have no noise, r outside (0, 2), and so on.

    Example:
        >>> import transportflows as tpf
        >>> two = tpf.distributions.GaussianMixture(torch.tensor([[-4.0], [4.0]]), 0.5)
        >>> exact = tpf.oracle(tpf.Process(tpf.SBDM(), shape=(1,)), two)
        >>> generator = torch.Generator().manual_seed(0)
        >>> run = annealed_langevin(exact, 200, levels=10, steps_per_level=20, step_size=0.5,
        ...                         generator=generator)
        >>> run.nfe, bool((run.x.abs() - 4).abs().mean() < 0.6)
        (201, True)
    """
    if not isinstance(field, Field):
        raise TypeError(f"annealed_langevin moves along a Field, got {type(field).__name__}")
    steps = positive_integer("steps_per_level", steps_per_level)
    levels = as_levels(field.process, levels)
    key = draw_key(generator)
    x = starting_states(field, n, start, 0.0, dtype, key)
    cond = field.check_conditions(cond, len(x), device=x.device)
    stepper = AnnealedSteps(field, levels, steps, step_size, x, rescale=rescale)
    data = FieldTable(field, "data", levels[-1:]) if denoise else None
    _check_finite(field, levels, stepper.table, data)
    chunk = default_chunk(field.networks, x) if chunk is None else chunk
    ends = torch.cat([levels[:1], levels.repeat_interleave(steps)])
    with evaluating(field):
        solution, (good,) = march(
            stepper,
            x,
            ends,
            saved=range(steps, len(ends), steps) if save_levels else (),
            hooks=in_units_of(field.transform, hooks),
            key=mix(key, 1),
            cond=cond,
            chunk=chunk,
            max_nfe=max_nfe,
            progress=progress,
        )
        rows = Chunks(x, chunk, cond)
        reached = math.ceil((len(solution.t) - 1) / steps)
        states, path, nfe = solution.x, solution.trajectory, solution.nfe
        if reached < len(levels) and data is not None:  # a hook ended the solve
            data = FieldTable(field, "data", levels[reached - 1 : reached])
        if data is not None and data.finite[0]:
            states, nfe = rows.map(partial(data, 0), states), nfe + 1
        if field.transform is not None:
            states = field.transform.invert(states)
            path = None if path is None else field.transform.invert(path)
        told = replace(solution, x=states, t=levels[:reached], nfe=nfe, trajectory=path)
        if solution.first_bad_step is not None:
            check_hooks_finite(told)
            raise stepper.diverged(solution, good, rows, told)
    return told


def _check_finite(field: Field, times: Tensor, table: FieldTable, data: FieldTable | None) -> None:
    for target, one, at in (("score", table, times), ("data prediction", data, times[-1:])):
        if one is not None and not all(one.finite):
            bad = float(at[one.finite.index(False)])
            raise ValueError(
                f"the {target} of this {type(field).__name__} is singular at the level t = {bad:g};"
                " move that level inwards"
            )
