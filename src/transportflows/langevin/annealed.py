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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core.conditions import check_conditions
from .._core.random import draw_key, mix
from ..distributions.base import Distribution
from ..fields.base import Field
from ..process import Process
from ..samplers.starts import evaluating, starting_states
from ..solve.noise import Increments
from ..solve.rows import Chunks, default_chunk
from ..solve.solution import NonFiniteStateError, Solution
from .curvature import stable_step
from .langevin import check_steps
from .levels import geometric_levels
from .scores import FieldTable
from .steps import langevin_step

__all__ = ["annealed_langevin"]


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
    start: Distribution | Tensor | Any | None = None,
    save_levels: bool = False,
    cond: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    dtype: torch.dtype | None = None,
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
        chunk: rows in one network call; chosen to fit the cache (or the card) if None.
        dtype: of the states; that of the network by default.
        progress: show a progress bar.
        generator: source of randomness; one key is drawn from it.

    Returns:
        The samples; ``t`` are the levels, ``nfe`` is levels x steps, plus one for ``denoise``.

    Raises:
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
    steps = check_steps(steps_per_level)
    times = _check_levels(field.process, levels)
    key = draw_key(generator)
    x = starting_states(field, n, start, 0.0, dtype, key)
    sizes = _step_sizes(field.process, times, step_size)
    table = FieldTable(field, "score", times)
    data = FieldTable(field, "data", times[-1:]) if denoise else None
    _check_finite(field, times, table, data)
    scales, shifts = _moves(field.process, times, x) if rescale else ([1.0] * len(times), None)
    rows = Chunks(
        x,
        default_chunk(field.networks, x) if chunk is None else chunk,
        check_conditions(cond, len(x)),
    )
    source = Increments()
    source.begin(mix(key, 1), x, 0.0)

    state, saved = x.clone(), list[Tensor]()
    whole, good = torch.ones((), dtype=torch.bool, device=x.device), state
    finite = torch.ones(len(times) * steps, dtype=torch.bool, device=x.device)
    with evaluating(field):
        bar = tqdm(range(len(finite)), disable=None if progress else True, desc="annealed")
        for k in bar:
            level = k // steps
            if k % steps == 0:
                state = state if scales[level] == 1.0 else state * scales[level]
                state = state if shifts is None else state + shifts[level]
                good = torch.where(whole, state, good)  # where the first bad level began
            z, _ = source.increment(k, 0.0, 1.0, area=False)
            state = langevin_step(state, rows.map(partial(table, level), state), sizes[level], z)
            finite[k] = torch.isfinite(state).all()
            whole = whole & finite[k]
            if save_levels and (k + 1) % steps == 0:
                saved.append(state)
        bad_step = None if bool(whole) else int((~finite).nonzero()[0])
        final = state if data is None else rows.map(partial(data, 0), state)
        path = torch.stack(saved) if saved else None
        if field.transform is not None:
            final = field.transform.invert(final)
            path = None if path is None else field.transform.invert(path)
        solution = Solution(
            x=final,
            t=times,
            nfe=len(finite) + denoise,
            scheme="annealed_langevin",
            trajectory=path,
            saved_at=times if saved else None,
            first_bad_step=bad_step,
        )
        if bad_step is not None:
            raise _diverged(solution, bad_step, steps, sizes, table, rows, good, state)
    return solution


def _check_levels(process: Process, levels: int | Sequence[float] | Tensor) -> Tensor:
    if isinstance(levels, int):
        return geometric_levels(process, levels)
    times = torch.as_tensor(levels, dtype=torch.float64).detach().cpu()
    if times.ndim != 1 or len(times) < 1 or bool((times.diff() <= 0).any()):
        raise ValueError(
            "levels are increasing times, from much noise to little (t = 0 is the base, t = 1 the"
            f" data), got {levels}"
        )
    if not (float(times[0]) >= 0 and float(times[-1]) <= 1):
        raise ValueError(f"levels must lie in [0, 1], got {float(times[0])} .. {float(times[-1])}")
    return times


def _step_sizes(
    process: Process, times: Tensor, rule: float | Callable[[Tensor], Tensor]
) -> list[float]:
    part = process.noise_part
    scale = part.scale(times.to(part.device)).cpu()
    if bool((scale <= 0).any()):
        bad = float(times[scale <= 0][0])
        raise ValueError(
            f"there is no noise at the level t = {bad:g}, where Langevin steps have no scale to go"
            " by; end the levels earlier, where σ̂ is small beside the data's scale, and let"
            " denoise=True do the rest"
        )
    if callable(rule):
        sizes = torch.as_tensor(rule(scale), dtype=torch.float64)
        if sizes.shape not in (scale.shape, torch.Size(())):
            raise ValueError(
                f"step_size was called with {len(scale)} noise scales and gave shape"
                f" {tuple(sizes.shape)}; it must give one step size for each"
            )
        sizes = sizes.expand(len(scale))
        if not bool((torch.isfinite(sizes) & (sizes > 0)).all()):
            raise ValueError(f"step sizes must be finite and > 0, got {sizes.tolist()}")
    else:
        if not 0 < float(rule) < 2:
            raise ValueError(
                f"step_size is r in h = r σ̂², and steps are stable for 0 < r < 2 only, got {rule};"
                " a function of the noise scales gives h itself"
            )
        sizes = float(rule) * scale.square()
    values: list[float] = sizes.tolist()
    return values


def _moves(process: Process, times: Tensor, x: Tensor) -> tuple[list[float], Tensor | None]:
    """Factor and shift of the state before each level, that keep ``(x - α m)/β``."""
    if len(times) < 2:
        return [1.0], None
    part = process.noise_part
    t = times.to(part.device)
    beta = part.signal(t)
    ratio = torch.where(beta[:-1] != 0, beta[1:] / beta[:-1], 1.0)
    scales: list[float] = [1.0, *ratio.tolist()]
    if part.base_mean is None:
        return scales, None
    alpha = part.whole.path.alpha(t)
    shift = torch.cat([torch.zeros_like(alpha[:1]), alpha[1:] - ratio * alpha[:-1]]).to(x)
    return scales, shift.view(-1, *(1,) * (x.ndim - 1)) * part.base_mean.to(x)


def _check_finite(field: Field, times: Tensor, table: FieldTable, data: FieldTable | None) -> None:
    for target, one, at in (("score", table, times), ("data prediction", data, times[-1:])):
        if one is not None and not all(one.finite):
            bad = float(at[one.finite.index(False)])
            raise ValueError(
                f"the {target} of this {type(field).__name__} is singular at the level t = {bad:g};"
                " move that level inwards"
            )


def _diverged(
    solution: Solution,
    step: int,
    steps: int,
    sizes: list[float],
    table: FieldTable,
    rows: Chunks,
    good: Tensor,
    state: Tensor,
) -> NonFiniteStateError:
    level, within = divmod(step, steps)
    bad = (~torch.isfinite(state)).flatten(1).any(1)
    index = bad.nonzero().flatten()[:64]
    try_, met = stable_step(
        partial(table, level), rows.take(index, good), good[index], sizes[level], 1.0
    )
    scale = float(table.field.process.noise_part.scale(table.times[level]))
    return NonFiniteStateError(
        f"Langevin steps diverged: states stopped being finite at step {within} of level {level}"
        f" (t = {float(solution.t[level]):.4g}, σ̂ = {scale:.3g}), and at the end"
        f" {int(bad.sum())} of {len(bad)} rows are not. There steps are stable below 2/L, with the"
        f" curvature L of log p up to {met:.3g} = {met * scale**2:.3g} / σ̂² (an exact score's is at"
        f" most 1 / σ̂²), and h was {sizes[level]:.3g} = {sizes[level] / scale**2:.3g} σ̂². Try"
        f" step_size={try_ / scale**2:.2g}, in h = step_size · σ̂²; the rest is in error.solution",
        replace(solution, first_bad_step=step),
    )
