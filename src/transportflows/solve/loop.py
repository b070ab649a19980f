"""The step loop, the only one: everything that moves states in steps is a stepper of it.

Steps outside, rows inside: the noise of a step is drawn once for all rows, and the rows go through
the stepper in equal chunks that fit the cache or the card. Chunks change results by rounding only.
The loop reads no value from the device; the extent of each state is kept there, and looked at once,
at the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core.autodiff import ordinary
from .._core.conditions import check_conditions
from .._core.random import draw_key, mix
from .._core.signatures import check_call
from .._core.tensor import widened
from .._core.untouched import out_of_inference_mode
from .hooks import BegunHook, Hook, Hooks, Moment, SolveHook, check_hook, name_of
from .noise import Increments, NoiseSource
from .rows import Chunks, Rows
from .solution import Solution
from .stepper import Prepared, Stepper

__all__ = ["march"]

_HOOKS = 3  # the branch of the key that hooks have


@out_of_inference_mode()
def march(
    stepper: Stepper,
    x: Tensor,
    times: Tensor,
    *,
    saved: Sequence[int] | Sequence[float] = (),
    noise: NoiseSource | None = None,
    hooks: Hooks = (),
    normals: Callable[[], NoiseSource] = Increments,
    key: int | None = None,
    cond: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    max_nfe: int | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Solution, list[Any]]:
    """Move states along a grid by a :class:`Stepper`.

    Differentiable where gradients are enabled; memory then grows with the number of steps.

    Args:
        stepper: how rows get over a step.
        x: starting states, ``(n, *)``; for a stepper of K groups ``(K n, *)``. Not changed, and
            kept in float32 where they are of half precision.
        times: float64 ``(steps + 1,)``: of the grid, or numbers of steps.
        saved: when to save the states: places in ``times`` (int), or times (float), those of the
            grid and those inside steps at which the stepper gives states (``Prepared.inside``).
        noise: source of increments; :class:`Increments` by default.
        hooks: called after each step; see :mod:`transportflows.solve.hooks`.
        normals: makes the source of normals of each :class:`SolveHook`, those of these rows.
        key: key of the noise, and of hooks; drawn from ``generator`` if not given.
        cond: conditions; tensors with n rows go with their rows.
        chunk: rows in a call of the network; all at once if None.
        max_nfe: most evaluations of the field for a row; None for no bound.
        progress: show a progress bar over the steps, where there is a terminal.
        generator: source of the key.

    Returns:
        The solution, and what the stepper remembers of each chunk at the end.

    Raises:
        ValueError: if the states are no floating-point rows, do not divide into the groups, would
            take more than ``max_nfe`` evaluations, or if a hook may not change them.

    Example:
        >>> from transportflows.solve import Prepared
        >>> class Adding(Stepper):
        ...     name = "adding"
        ...     def prepare(self, times, like): return Prepared(calls=0)
        ...     def step(self, prepared, step, x, memory, rows, draws): return x + 1, memory
        >>> times = torch.arange(4, dtype=torch.float64)  # numbers of steps
        >>> march(Adding(), torch.zeros(1, 1), times, saved=[0, 2])[0].trajectory.flatten()
        tensor([0., 2.])
    """
    check_call(march, locals())
    groups, steps = stepper.groups, _steps_of(times)
    n, x = _check_rows(x, groups), widened(ordinary(x))
    prepared = stepper.prepare(times, x.detach()[:1])
    noise = Increments() if noise is None else noise
    key = _seeded(key, generator, prepared, hooks, noise, x.detach()[:n], float(times[0]))
    chunks = Chunks(x, chunk, check_conditions(cond, n), groups)
    looks = _begun(hooks, times, x.detach()[:n], chunks, normals, key)
    _check_bound(prepared, looks, len(steps), max_nfe)

    parts: list[Any] = [(slice(0, len(x)), chunks)] if stepper.whole else chunks.parts
    state = x.clone()
    memories = [stepper.memory(prepared, state[pick], rows) for pick, rows in parts]
    in_place = not torch.is_grad_enabled() and len(parts) > 1
    wanted = [float(times[k]) if isinstance(k, int) else k for k in saved]
    trajectory = {time: state.clone() for time in wanted if time == float(times[0])}
    done, stopped, spoilt, extents = 0, False, _Spoilt(), list[Sequence[Tensor]]()
    with tqdm(total=len(steps), disable=None if progress else True, desc=stepper.name) as bar:
        while done < len(steps) and not stopped:
            draws = stepper.draw(prepared, done, *steps[done], noise) if prepared.noisy else ()
            moved, between = [], []
            for k, (pick, rows) in enumerate(parts):
                own = draws if stepper.whole else tuple(_of(d, pick, rows, groups) for d in draws)
                x_k = state[pick] if len(parts) > 1 else state  # each operation counts
                new, memories[k] = stepper.step(prepared, done, x_k, memories[k], rows, own)
                if in_place:
                    state[rows.first : rows.first + rows.own] = new[: rows.own]
                else:
                    moved.append(new)
                if done in prepared.inside:
                    between.append([part[: rows.own] for part in stepper.inside(memories[k])])
            state = state if in_place else _joined(moved, len(x))
            if between:
                pieces = map(torch.cat, zip(*between, strict=True))
                trajectory.update(zip(prepared.inside[done], pieces, strict=True))
            done, time = done + 1, steps[done][1]
            if looks:
                moment = Moment(done, len(steps), time, state, chunks.cond)
                state, stopped = _hooked(stepper, looks, moment, spoilt)
            extents.append(_extent(state))
            if time in wanted:
                trajectory[time] = state.clone()
            bar.update()
    solved = _solution(stepper, prepared, looks, times[: done + 1], state, extents, spoilt)
    return _with_path(solved, trajectory, wanted), memories


def _with_path(
    solution: Solution, trajectory: Mapping[float, Tensor], wanted: Sequence[float]
) -> Solution:
    """A solution with those wanted states that it came to."""
    kept = [time for time in wanted if time in trajectory]
    if not kept:
        return solution
    path = torch.stack([trajectory[time] for time in kept])
    return replace(solution, trajectory=path, saved_at=solution.t.new_tensor(kept))


def _steps_of(times: Tensor) -> list[tuple[float, float]]:
    """The two ends of each step."""
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times are a grid (steps + 1,), got shape {tuple(times.shape)}")
    return list(itertools.pairwise(times.tolist()))


def _check_rows(x: Any, groups: int) -> int:
    """How many rows each group has."""
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
        got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a floating-point tensor (n, *) of at least 2 dims, got {got}")
    if x.shape[0] == 0 or x.shape[0] % groups:
        raise ValueError(f"got {x.shape[0]} rows for {groups} groups; give as many rows to each")
    return x.shape[0] // groups


def _seeded(
    key: int | None,
    generator: torch.Generator | None,
    prepared: Prepared,
    hooks: Hooks,
    noise: NoiseSource,
    x: Tensor,
    start: float,
) -> int:
    """The key of a solve, drawn where something is drawn by it, and its noise begun."""
    drawn = prepared.noisy or any(isinstance(hook, SolveHook) for hook in hooks)
    if key is None:
        key = draw_key(generator) if drawn else 0
    if prepared.noisy:
        noise.begin(key, x, start)
    return key


def _begun(
    hooks: Hooks,
    times: Tensor,
    x: Tensor,
    chunks: Chunks,
    normals: Callable[[], NoiseSource],
    key: int,
) -> list[Hook]:
    """What acts after each step of this solve; each SolveHook has a key of its own."""
    for hook in hooks:
        check_hook(hook)
    keys = (mix(key, _HOOKS, place) for place in itertools.count())
    return [
        hook.begin(times, x, chunks, normals(), next(keys)) if isinstance(hook, SolveHook) else hook
        for hook in hooks
    ]


def _check_bound(
    prepared: Prepared, hooks: Sequence[Hook], steps: int, max_nfe: int | None
) -> None:
    most = sum(hook.most for hook in hooks if isinstance(hook, BegunHook))
    nfe = prepared.before + prepared.calls * steps + most
    if max_nfe is not None and nfe > max_nfe:
        raise ValueError(
            f"{steps} steps take {nfe} evaluations of the field, and max_nfe is {max_nfe}; take"
            " fewer steps, or a larger max_nfe"
        )


def _of(draws: Tensor, pick: slice | Tensor, rows: Rows, groups: int) -> Tensor:
    """What was drawn for a chunk: a slice of it where that is possible."""
    return draws[pick] if groups == 1 and isinstance(pick, slice) else draws[rows.sample]


def _extent(x: Tensor) -> Sequence[Tensor]:
    """The least and the largest number in a tensor, NaN where one is NaN."""
    x = x.detach() if x.requires_grad else x
    if x.device.type in ("cpu", "cuda"):
        return torch.aminmax(x)
    return x.amin(), x.amax()


def _joined(parts: Sequence[Tensor], n: int) -> Tensor:
    """The rows of chunks in one, those that filled up the last one left out."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))[:n]


_Spoilt = dict[int, list[tuple[str, Tensor]]]
"""By step, the hooks that returned states, and whether those were the first not to be finite."""


def _hooked(
    stepper: Stepper, hooks: Sequence[Hook], moment: Moment, spoilt: _Spoilt
) -> tuple[Tensor, bool]:
    """The states after the hooks, and whether one has ended the solve."""
    state, groups = moment.x, stepper.groups
    for hook in hooks:
        view = state if groups == 1 else state.view(groups, -1, *state.shape[1:])
        moment = replace(moment, x=view)
        changed = moment.shown_to(hook)
        if changed is None:
            continue
        if stepper.remembers:
            raise ValueError(
                f"a hook returned states, and {stepper.name} remembers earlier ones (or carries a"
                " density along), which would not fit them; let the hook return None, or use what"
                " remembers nothing: a one-step scheme such as 'heun', an unadjusted chain"
            )
        if not isinstance(changed, Tensor) or changed.shape != moment.x.shape:
            got = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
            raise ValueError(
                f"a hook must return None, or states of shape {tuple(moment.x.shape)}, got {got}"
            )
        if not changed.is_floating_point():
            raise TypeError(f"a hook must return floating-point states, got {changed.dtype}")
        before = torch.isfinite(state).all()
        state = changed.to(state).reshape(state.shape).clone()  # the user's own stays as it is
        flag = before & ~torch.isfinite(state).all()
        spoilt.setdefault(moment.step - 1, []).append((name_of(hook), flag))
    return state, moment.stopped


def _solution(
    stepper: Stepper,
    prepared: Prepared,
    hooks: Sequence[Hook],
    times: Tensor,
    state: Tensor,
    extents: Sequence[Sequence[Tensor]],
    spoilt: _Spoilt,
) -> Solution:
    low, high = map(torch.stack, zip(*extents, strict=True))
    finite = (low > -stepper.bound) & (high < stepper.bound)  # NaN is not
    bad = None if bool(finite.all()) else int((~finite).nonzero()[0])
    names = [] if bad is None else [name for name, flag in spoilt.get(bad, ()) if bool(flag)]
    own = [hook for hook in hooks if isinstance(hook, BegunHook)]
    return Solution(
        x=state,
        t=times,
        nfe=prepared.before + prepared.calls * len(finite) + sum(hook.nfe for hook in own),
        scheme=" + ".join([stepper.name, *(hook.name for hook in own)]),
        limited=prepared.limited,
        margin=prepared.margin,
        first_bad_step=bad,
        bad_hook=names[0] if names else None,
    )
