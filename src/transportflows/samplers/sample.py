"""``sample``: from a field to samples, by ODE or SDE, forward or backward in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import check_finite_rows, names
from .._core.conditions import check_conditions, map_rows
from .._core.distributed import World, world
from .._core.random import draw_key, mix, stream
from ..distributions.adapters import as_distribution
from ..distributions.base import Distribution
from ..fields.base import Field
from ..langevin.corrector import LangevinCorrection, LangevinCorrector
from ..solve.epsilon import EpsilonSchedule, as_epsilon
from ..solve.grid import Spacing, check_grid, time_grid
from ..solve.loop import check_finite, march
from ..solve.noise import Increments, NoiseOfRows, NoiseSource
from ..solve.rows import Rows
from ..solve.solution import Solution
from ..solve.stepper import Stepper
from .adaptive import ADAPTIVE, integrate_adaptive
from .ancestral import FEW_STEP
from .dynamics import _MARGINS, Epsilon, FieldDynamics, singular_ends
from .multistep import LinearStepper, Multistep
from .one_step import OneStep
from .schemes import SCHEMES, Scheme, get_scheme

__all__ = ["sample"]


@torch.no_grad()
def sample(
    field: Field,
    n: int | None = None,
    *,
    start: Distribution | Tensor | Any | None = None,
    epsilon: Epsilon | Sequence[Epsilon] = 0.0,
    scheme: str | Scheme | Multistep = "heun",
    steps: int = 100,
    t: tuple[float, float] | Sequence[float] | Tensor = (0.0, 1.0),
    spacing: str | Spacing = "uniform",
    margin: float | tuple[float, float] | None = None,
    save_at: Sequence[float] | Tensor | None = None,
    cond: Mapping[str, Any] | None = None,
    noise: NoiseSource | None = None,
    corrector: LangevinCorrector | None = None,
    chunk: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    dtype: torch.dtype | None = None,
    progress: bool = False,
    distributed: bool = False,
    generator: torch.Generator | None = None,
) -> Solution:
    r"""Sample a field: solve ``dX = (b + ε s) dt + √(2ε) dW``.

    Forward in time the drift is ``b + ε s``, backward it is ``b - ε s``; for any ε the law of X at
    time t is that of x_t, if the field is exact. ε = 0 is the probability flow, an ODE, which
    never asks for the score.

    Args:
        field: a trained field, a pair, or an oracle.
        n: number of samples; may be left out where ``start`` is a tensor.
        start: where to start: a Distribution (or object with ``sample``), or a tensor ``(n, *)``;
            by default the process's law at t = 0. It is in the data's units, as is all that is
            returned, whenever the field carries a transform (the default start is the base, which
            is in the field's own).
        epsilon: ε ≥ 0: a number, a function of a float64 tensor of times, a schedule such as
            :class:`NoiseScaleEpsilon`; or a sequence of K of them, solved in one batched call with
            common starts and noise, giving ``(K, n, *)``, the members with ε = 0 as an ODE.
        scheme: ``"euler"``, ``"midpoint"`` (ODE only), ``"euler_maruyama"``, ``"heun"``,
            ``"rk4"``; for few steps of a one-sided process a :class:`Multistep` scheme such as
            ``ExponentialIntegrator(3)``, or its name, ``"ddim"``, ``"dpm2m"``, ``"unipc3"`` and others; or
            for ε = 0 an adaptive solver of torchdiffeq, ``"dopri5"`` and others.
        steps: number of steps (fixed-step schemes).
        t: first and last time; ``(1.0, 0.0)`` runs backward. More than two times are a grid of
            the caller's own, used as it is (with the breakpoints of the path inserted).
        spacing: of the grid; see :func:`time_grid`.
        margin: distances from t = 0 and t = 1 within which the field is evaluated at the margin
            instead (the solve itself reaches the end). None keeps what the field's velocity
            needs, and none where it is regular: 1e-4 at a root (γ̇ η), half a step where a solve
            starts at a pole (a noise prediction at t = 0), and a step that ends at a pole (a data
            prediction at t = 1) has one slope, that of its regular side. Where only the score is
            singular no margin is needed: ε is 0 in a window.
        save_at: times at which to save the states; inserted into the grid where it lacks them.
        cond: conditions for the network: tensors of n rows, which go with their rows, or of shape
            ``()``, or any other objects, passed as they are.
        noise: source of increments: independent ones by default, :class:`BrownianPath` for noise
            that refines consistently with ``steps``.
        corrector: Langevin corrections after each step, such as ``LangevinCorrector(snr=0.16)``:
            predictor-corrector sampling, with any one-step scheme and any ε.
        chunk: rows in one network call; chosen to fit the cache (or the card) if None.
        rtol: relative tolerance of adaptive schemes.
        atol: absolute tolerance of adaptive schemes.
        dtype: of the states; that of the network by default.
        progress: show a progress bar.
        distributed: share the rows among the processes that ``torchrun`` started, all of which
            must make the call; each gets all samples, those that one process would have made (to
            the tolerance, for adaptive schemes, which take other steps with other rows).
        generator: source of randomness; one key is drawn from it. The same seed gives the same
            starts and, on the same grid, the same noise, whatever ε and ``chunk``; on other grids
            (``save_at`` inserts times too) the same with ``noise=BrownianPath()``.

    Raises:
        ConversionError: if the field has no score for ε > 0, or no velocity; it names the cure.
        NonFiniteStateError: if a state stops being finite (which step, how many rows).
        ValueError: for an unknown scheme, a negative ε, an ε for a deterministic scheme, a start
            of the wrong shape, and so on.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> field = tpf.Velocity(tpf.networks.MLP(2), process)
        >>> tpf.sample(field, 5, epsilon=[0.0, 0.5], steps=10).x.shape
        torch.Size([2, 5, 2])
    """
    if not isinstance(field, Field):
        raise TypeError(
            f"sample moves along a Field such as Velocity(net, process), got {type(field).__name__}"
        )
    many = isinstance(epsilon, (list, tuple)) or getattr(epsilon, "ndim", 0) > 0
    schedules = [as_epsilon(e) for e in epsilon] if many else [as_epsilon(epsilon)]  # type: ignore[union-attr, arg-type]
    if not schedules:
        raise ValueError("epsilon is an empty sequence; give at least one")
    scheme = FEW_STEP.get(scheme, scheme) if isinstance(scheme, str) else scheme
    adaptive = isinstance(scheme, str) and scheme in ADAPTIVE
    _check_scheme(scheme, schedules)

    _check_corrector(corrector, scheme)

    team = world() if distributed else World()

    def shared() -> Solution:
        key = team.agreed(draw_key(generator))
        if not hasattr(t, "__len__") or len(t) < 2:
            raise ValueError(f"t is (first, last), or a grid of more times, got {t!r}")
        first, last = float(t[0]), float(t[-1])
        if not (0 <= first <= 1 and 0 <= last <= 1) or first == last:
            raise ValueError(
                f"t must go between two different times in [0, 1], got {first}, {last}"
            )
        x = _starting_states(field, n, start, first, dtype, key)
        margins = _as_margin(margin)
        total = x.shape[0]
        source = noise
        normals: NoiseSource = Increments()
        given = check_conditions(cond, total, rows="samples")
        team.check_same(
            "a shared solve",
            {
                "n": total,
                "scheme": scheme if isinstance(scheme, str) else scheme.name,
                "steps": steps,
                "t": [float(time) for time in t],
                "epsilons": len(schedules),
                "corrector": repr(corrector),
                "save_at": None if save_at is None else [float(time) for time in save_at],
            },
        )
        alone = total < team.size  # too few rows to share
        if team.size > 1 and not alone:
            low, high = team.slice(total)
            x = x[low:high]
            given = map_rows(given, lambda value: value[low:high])
            source = NoiseOfRows(Increments() if noise is None else noise, low, high, total)
            normals = NoiseOfRows(normals, low, high, total)
        breakpoints = field.process.interpolant.breakpoints
        if adaptive:
            grid = torch.tensor([first, last], dtype=torch.float64)
        elif len(t) == 2:
            grid = time_grid(
                steps, start=first, stop=last, spacing=spacing, breakpoints=breakpoints
            )
        else:
            grid = _own_grid(t, breakpoints)
        rows = _default_chunk(field, x) if chunk is None else chunk
        if rows < 1:
            raise ValueError(f"chunk must be positive, got {chunk}")

        def solve(members: list[EpsilonSchedule]) -> Solution:
            states = x if len(members) == 1 else x.repeat(len(members), *(1,) * (x.ndim - 1))
            if adaptive:
                return integrate_adaptive(
                    _chunked_velocity(field, given, x.shape[0], rows, margins),
                    states,
                    start=first,
                    stop=last,
                    scheme=str(scheme),
                    rtol=rtol,
                    atol=atol,
                    breakpoints=breakpoints,
                    save_at=save_at,
                )
            return march(
                _stepper(field, members, scheme, margins),
                states,
                grid,
                noise=source,
                correction=None
                if corrector is None
                else LangevinCorrection(
                    corrector, field, normals, mix(key, 2), World() if alone else team
                ),
                key=mix(key, 1),
                cond=given,
                save_at=save_at,
                chunk=rows,
                progress=progress and team.first,
            )

        with _evaluating(field):
            solution = _solve_sweep(solve, schedules, x.shape[0]) if many else solve(schedules)
        if not alone:
            solution = _gathered(solution, team, total, x.ndim)
        if field.transform is not None:
            path = solution.trajectory
            solution = replace(
                solution,
                x=field.transform.invert(solution.x),
                trajectory=None if path is None else field.transform.invert(path),
            )
        return check_finite(solution, x.ndim - 1)

    with team.together():
        return shared()


def _solve_sweep(
    solve: Callable[[list[EpsilonSchedule]], Solution], schedules: list[EpsilonSchedule], n: int
) -> Solution:
    """Solve the members with ε = 0 once, as an ODE, and the others in one batch; put together."""
    still = [k for k, e in enumerate(schedules) if e.is_zero]
    moving = [k for k, e in enumerate(schedules) if not e.is_zero]
    place: dict[int, tuple[Solution, int]] = {}
    if still:
        ode = solve([schedules[still[0]]])
        place.update(dict.fromkeys(still, (ode, 0)))
    if moving:
        sde = solve([schedules[k] for k in moving])
        place.update({k: (sde, j) for j, k in enumerate(moving)})
    parts = [place[k] for k in range(len(schedules))]
    solutions = list({id(s): s for s, _ in parts}.values())
    paths = None
    if solutions[0].trajectory is not None:
        paths = torch.stack(
            [s.trajectory[:, j * n : (j + 1) * n] for s, j in parts if s.trajectory is not None],
            dim=1,
        )
    bad = [s.first_bad_step for s in solutions if s.first_bad_step is not None]
    return replace(
        solutions[-1],
        x=torch.stack([s.x[j * n : (j + 1) * n] for s, j in parts]),
        trajectory=paths,
        first_bad_step=min(bad) if bad else None,
    )


def _gathered(solution: Solution, team: World, n: int, ndim: int) -> Solution:
    """The solution of all rows, from those of the processes."""
    if team.size == 1:
        return solution
    path = solution.trajectory
    bad = [step for step in team.all_values(solution.first_bad_step) if step is not None]
    return replace(
        solution,
        x=team.gather(solution.x, n, solution.x.ndim - ndim),
        trajectory=None if path is None else team.gather(path, n, path.ndim - ndim),
        nfe=max(team.all_values(solution.nfe)),
        first_bad_step=min(bad) if bad else None,
    )


def _stepper(
    field: Field,
    members: list[EpsilonSchedule],
    scheme: str | Scheme | Multistep,
    margin: tuple[float, float] | None,
) -> Stepper:
    if isinstance(scheme, Multistep):
        return LinearStepper(field, members, scheme, margin=margin)
    return OneStep(FieldDynamics(field, members, margin=margin), scheme)


def _check_scheme(scheme: str | Scheme | Multistep, schedules: Sequence[EpsilonSchedule]) -> None:
    noisy = any(not e.is_zero for e in schedules)
    if isinstance(scheme, str) and scheme in ADAPTIVE:
        if noisy:
            raise ValueError(
                f"the adaptive scheme {scheme!r} solves ODEs, and epsilon > 0 was given; use"
                " 'heun' or 'rk4', or epsilon=0"
            )
    elif isinstance(scheme, str) and scheme not in SCHEMES:
        raise ValueError(
            f"unknown scheme {scheme!r}; known: {names([*SCHEMES, *FEW_STEP])}, and for epsilon=0"
            f" {names(ADAPTIVE)}"
        )
    elif isinstance(scheme, Multistep):
        scheme.check(schedules)
    elif isinstance(scheme, (str, Scheme)):
        get_scheme(scheme, noisy=noisy)
    else:
        raise TypeError(
            f"scheme is a name, a Scheme, or a few-step scheme such as ExponentialIntegrator(2), got"
            f" {scheme if isinstance(scheme, type) else type(scheme).__name__}"
        )


def _check_corrector(corrector: Any, scheme: str | Scheme | Multistep) -> None:
    if corrector is not None and not isinstance(corrector, LangevinCorrector):
        raise TypeError(
            f"corrector must be a LangevinCorrector(snr=0.16), got {type(corrector).__name__}"
        )
    if corrector is None:
        return
    if isinstance(scheme, Multistep) and (scheme.order > 1 or getattr(scheme, "corrector", False)):
        raise ValueError(
            f"{scheme.name} remembers predictions at states that a Langevin correction then moves,"
            " and takes the jumps for a trend, so that the law is wrong; use a one-step scheme with"
            " the corrector: 'ddim', 'ancestral', 'heun' or 'euler_maruyama'"
        )
    if isinstance(scheme, str) and scheme in ADAPTIVE:
        raise ValueError(
            "an adaptive scheme has no steps of its own to correct after; use a fixed-step one,"
            " such as 'heun', with the corrector"
        )


def _starting_states(
    field: Field,
    n: int | None,
    start: Distribution | Tensor | Any | None,
    first: float,
    dtype: torch.dtype | None,
    key: int,
) -> Tensor:
    """The states to start from, in the field's units."""
    like = field.reference()
    like = like if dtype is None else like.to(dtype)
    process = field.process
    if isinstance(start, Tensor):
        check_finite_rows(start, "start")
        if n is not None and n != start.shape[0]:
            raise ValueError(f"n = {n}, but start has {start.shape[0]} rows; leave n out")
        x = start if dtype is None else start.to(dtype)
        _check_kind(field, x, "start")
        _check_shape(process.shape, x)
        return x if field.transform is None else field.transform(x)
    if isinstance(n, Tensor) and n.ndim > 0:
        raise ValueError("n is a number; to start from states of your own write start=x")
    if n is None:
        raise ValueError("give the number of samples: sample(field, n)")
    if isinstance(n, bool) or int(n) != n or n < 1:
        raise ValueError(f"the number of samples must be a positive integer, got {n}")
    if start is None and first != 0:
        raise ValueError(
            f"a solve that starts at t = {first:g} needs start=: data at t = 1 (a tensor, or a"
            " Distribution such as Empirical(data)), or states x_t of your own"
        )
    law = process.start if start is None else as_distribution(start)
    _check_shape(process.shape, torch.empty(1, *law.shape))
    generator = stream(mix(key, 0), device=like.device)
    x = law.sample(int(n), generator=generator, dtype=like.dtype, device=like.device)
    return x if field.transform is None or start is None else field.transform(x)


def _check_kind(field: Field, x: Tensor, name: str) -> None:
    """Refuse states whose dtype or device is not the networks'."""
    if not any(isinstance(net, nn.Module) and list(net.parameters()) for net in field.networks):
        return
    like = field.reference()
    if x.dtype != like.dtype or x.device != like.device:
        raise ValueError(
            f"{name} is {x.dtype} on {x.device} and the network is {like.dtype} on {like.device};"
            f" write {name}.to(dtype={like.dtype}, device={str(like.device)!r})"
        )


def _check_shape(shape: torch.Size | None, x: Tensor) -> None:
    if shape is not None and x.shape[1:] != shape:
        raise ValueError(
            f"start has event shape {tuple(x.shape[1:])}, and the process has {tuple(shape)}"
        )


def _as_margin(margin: Any) -> tuple[float, float] | None:
    """The caller's margins from both ends of time."""
    if margin is None:
        return None
    low, high = margin if isinstance(margin, (tuple, list)) else (margin, margin)
    if not (low >= 0 and high >= 0 and low + high < 1):
        raise ValueError(f"margins must be >= 0 and sum to less than 1, got ({low}, {high})")
    return float(low), float(high)


def _own_grid(t: Sequence[float] | Tensor, breakpoints: Sequence[float]) -> Tensor:
    """The caller's grid, with the breakpoints of the path inserted."""
    grid = check_grid(t)
    inside = [b for b in breakpoints if float(grid.min()) < b < float(grid.max())]
    merged = sorted({*grid.tolist(), *inside}, reverse=bool(grid[0] > grid[-1]))
    return check_grid(merged)


def _default_chunk(field: Field, x: Tensor) -> int:
    """Rows whose widest activations take about 2 MB on a CPU, or 1 GB on a card."""
    widths = [
        p.shape[0]
        for net in field.networks
        if isinstance(net, nn.Module)
        for p in net.parameters()
        if p.ndim > 1
    ]
    width = max([*widths, x[0].numel()])
    budget = 2**21 if x.device.type == "cpu" else 2**30
    return max(64, budget // (width * x.element_size()))


def _chunked_velocity(
    field: Field, cond: Mapping[str, Any], n: int, chunk: int, margin: tuple[float, float] | None
) -> Callable[[Tensor, Tensor], Tensor]:
    """The velocity in chunks of rows, for solvers that hold the whole state."""
    if margin is None:
        low, high = (_MARGINS[kind] for kind in singular_ends(field, field.reference()))
    else:
        low, high = margin

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        parts, t = [], t.clamp(low, 1 - high)
        for index in torch.split(torch.arange(n, device=x.device), chunk):
            rows = Rows(index, n, 1, x.ndim, cond)
            parts.append(field.velocity(t, x[index], rows.cond))
        return torch.cat(parts)

    return velocity


@contextmanager
def _evaluating(field: Field) -> Iterator[None]:
    """Put the networks into evaluation mode, and back into the modes they were in."""
    modes = [
        (module, module.training)
        for net in field.networks
        if isinstance(net, nn.Module)
        for module in net.modules()
    ]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
