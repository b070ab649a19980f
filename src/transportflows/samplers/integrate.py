"""The step loop. It knows a dynamics, a grid, a scheme and a noise source, and no network.

Steps outside, rows inside: the noise of a step is drawn once for all rows, and the rows go through
the dynamics in equal chunks that fit the cache or the card. Chunks change results by rounding
only. The loop reads no value from the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._random import draw_key
from .corrector import Correction
from .dynamics import Dynamics, FunctionDynamics, Rows
from .epsilon import EpsilonSchedule
from .grid import check_grid, with_times
from .noise import Increments, NoiseSource
from .schemes import Scheme, get_scheme
from .solution import NonFiniteStateError, Solution

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
        correction: what is done to the states after each step; see :mod:`.corrector`.
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
    times = check_grid(grid)
    saved: list[int] = []
    if save_at is not None:
        times, saved = with_times(times, save_at)
    starts, widths = times[:-1], times.diff()
    groups = dynamics.groups
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
        got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a floating-point tensor (n, *) of at least 2 dims, got {got}")
    n = x.shape[0] // groups
    if x.shape[0] == 0 or x.shape[0] % groups:
        raise ValueError(f"got {x.shape[0]} rows for {groups} groups; give as many rows to each")
    reference = x.detach()[:1]

    noisy = _is_noisy(dynamics)
    scheme = get_scheme(scheme, noisy=noisy)
    nodes = torch.tensor(scheme.nodes, dtype=torch.float64)
    stages = starts[:, None] + widths[:, None] * nodes
    if scheme.nodes[-1] == 1.0:
        stages[:, -1] = times[1:]  # exactly: a stage must not fall past the end of time
    table = dynamics.tabulate(stages, widths, reference)
    strength: _Strength | None = None
    if table is not None:
        scheme = get_scheme(scheme, noisy=True)
        strength = _Strength(table, scheme, reference)
        noise = Increments() if noise is None else noise
        noise.begin(draw_key(generator) if key is None else key, x.detach()[:n], float(times[0]))

    total = x.shape[0]
    size = total if chunk is None else max(1, min(chunk, total))
    count = math.ceil(total / size)
    size = math.ceil(total / count)
    padding = count * size - total
    state = torch.cat([x, x[:padding]]) if padding else x.clone()
    index = torch.arange(count * size, device=x.device).remainder(total)
    chunks = [slice(k * size, (k + 1) * size) for k in range(count)]
    rows = [Rows(index[c], n, groups, x.ndim, cond or {}) for c in chunks]
    # Noise of a chunk: a slice of the step's where that is possible, else gathered by row.
    picks = [
        c if groups == 1 and c.stop <= n else r.sample for c, r in zip(chunks, rows, strict=True)
    ]
    if correction is not None:
        correction.begin(times, x.detach()[:n], chunks, rows, groups)
    in_place = not torch.is_grad_enabled()
    finite = torch.ones(len(widths), dtype=torch.bool, device=x.device)
    trajectory: dict[int, Tensor] = {0: state[:total].clone()} if 0 in saved else {}

    steps = list(zip(times.tolist()[:-1], times.tolist()[1:], widths.tolist(), strict=True))
    for i, (t0, t1, h) in enumerate(
        tqdm(steps, disable=None if progress else True, desc=scheme.name)
    ):
        dw = area = None
        if strength is not None and noise is not None:
            dw, area = noise.increment(i, t0, t1, area=scheme.area)
        moved = []
        for c, r, pick in zip(chunks, rows, picks, strict=True):
            n_c = area_c = None
            if dw is not None and strength is not None:
                n_c, area_c = strength.scale(i, dw[pick], None if area is None else area[pick], r)
            new = scheme.step(_bind(dynamics, i, r), state[c], h, n_c, area_c)
            if in_place:
                state[c] = new
            else:
                moved.append(new)
        if not in_place:
            state = torch.cat(moved)
        if correction is not None:
            state = correction.correct(i, state)
        finite[i] = torch.isfinite(state.detach()).all()
        if i + 1 in saved:
            trajectory[i + 1] = state[:total].clone()

    return Solution(
        x=state[:total],
        t=times,
        nfe=scheme.nfe * len(steps) + (correction.nfe if correction else 0),
        scheme=f"{scheme.name} + {correction.name}" if correction else scheme.name,
        trajectory=torch.stack([trajectory[k] for k in saved]) if saved else None,
        saved_at=times[saved] if saved else None,
        window=dynamics.window,
        margin=dynamics.margin,
        first_bad_step=None if bool(finite.all()) else int((~finite).nonzero()[0]),
    )


def check_finite(solution: Solution, event_dims: int) -> Solution:
    """Return the solution, or raise if a state stopped being finite."""
    step = solution.first_bad_step
    if step is None:
        return solution
    flat = solution.x.reshape(-1, *solution.x.shape[-event_dims:]).flatten(1)
    bad = int((~flat.isfinite()).any(1).sum())
    corrector = "a corrector of half the snr, " if " + " in solution.scheme else ""
    raise NonFiniteStateError(
        f"states stopped being finite at step {step} of {len(solution.t) - 1} (t ="
        f" {float(solution.t[step]):.4g} to {float(solution.t[step + 1]):.4g}); at the end {bad} of"
        f" {flat.shape[0]} rows are not. Take more steps, a smaller epsilon or one that vanishes"
        f" with the noise (NoiseScaleEpsilon), {corrector}or look at the field there; the rest is"
        " in error.solution",
        solution,
    )


def _is_noisy(dynamics: Dynamics) -> bool:
    return not getattr(dynamics, "ode", False) and not (
        isinstance(dynamics, FunctionDynamics) and dynamics.epsilon.is_zero
    )


class _Strength:
    """How strong the noise of each step is, for each group: ``g = √(2ε)`` over the grid.

    The variance of a step is that of the scheme's own quadrature, ``h Σ_k w_k g_k²``. A scheme that
    takes areas also gets what a g that varies over the step does to the path to first order:
    ``∫ g dW = ḡ ΔW - (g_end - g_start) H + ...``, with ḡ lowered so that the variance stays.
    Without this, its strong order is 1.5 for a constant ε only.
    """

    def __init__(self, epsilon: Tensor, scheme: Scheme, like: Tensor) -> None:
        quadrature = torch.tensor(scheme.quadrature, dtype=torch.float64)
        square = 2 * torch.einsum("skg,k->sg", epsilon, quadrature)
        self.tilt: list[Any] | None = None
        if scheme.area:
            g = (2 * epsilon).sqrt()
            tilt = g[:, 0] - g[:, -1]
            varies = bool((tilt.abs() > 1e-12 * g.amax()).any())
            self.area = self._ready(square.sqrt(), like)
            if varies:
                square = (square - tilt.square() / 12).clamp(min=0)
                self.tilt = self._ready(tilt, like)
        self.amplitude = self._ready(square.sqrt(), like)

    @staticmethod
    def _ready(table: Tensor, like: Tensor) -> list[Any]:
        """A number a step where there is one group, else a tensor on the device."""
        return table[:, 0].tolist() if table.shape[1] == 1 else list(table.to(like).unbind(0))

    def scale(
        self, step: int, dw: Tensor, area: Tensor | None, rows: Rows
    ) -> tuple[Tensor, Tensor | None]:
        """The noise of a chunk and its area, both scaled."""
        n = dw * _spread(self.amplitude[step], rows)
        if area is None:
            return n, None
        if self.tilt is not None:
            n = n + area * _spread(self.tilt[step], rows)
        return n, area * _spread(self.area[step], rows)


def _spread(value: float | Tensor, rows: Rows) -> float | Tensor:
    return rows.spread(value) if isinstance(value, Tensor) else value


def _bind(dynamics: Dynamics, step: int, rows: Rows) -> Callable[[int, Tensor], Tensor]:
    return lambda node, x: dynamics.drift(step, node, x, rows)
