"""``sample``: from a field to samples, by ODE or SDE, forward or backward in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arguments import shown
from .._core.arrays import DataLike
from .._core.conditions import with_start
from .._core.distributed import World, world
from .._core.random import draw_key, mix
from .._core.shards import check_shares
from .._core.signatures import check_call
from ..distributions import Distribution
from ..fields.base import Field, check_field
from ..solve.epsilon import EpsilonSchedule, as_epsilon
from ..solve.grid import Spacing, as_margin
from ..solve.hooks import Corrector, Hook, Hooks, SolveHook, in_units_of
from ..solve.loop import march
from ..solve.noise import NoiseSource
from ..solve.rows import default_chunk
from ..solve.solution import Solution, check_finite
from .adaptive import check_tolerances, solve_adaptively
from .choices import as_grid, as_solve, as_stepper
from .dynamics import Epsilon
from .multistep import Multistep
from .schemes import Scheme
from .starts import (
    check_from_point,
    check_from_start,
    evaluating,
    in_data_units,
    starting_states,
)
from .stepper_scheme import StepperScheme
from .sweep import gathered, shared_rows, stops_together, sweep, together

__all__ = ["sample"]


def sample(
    field: Field,
    n: int | None = None,
    *,
    start: Distribution | DataLike | Any | None = None,
    epsilon: Epsilon | Sequence[Epsilon] = 0.0,
    scheme: str | Scheme | Multistep | StepperScheme | None = None,
    steps: int | None = None,
    t: tuple[float, float] | Sequence[float] | Tensor = (0.0, 1.0),
    spacing: str | Spacing = "uniform",
    margin: float | tuple[float, float] | None = None,
    save_at: int | Sequence[float] | Tensor | None = None,
    cond: Mapping[str, Any] | None = None,
    noise: NoiseSource | None = None,
    corrector: Corrector | None = None,
    hooks: Hooks = (),
    chunk: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_nfe: int | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
    distributed: bool = False,
    gradients: bool = False,
    generator: torch.Generator | None = None,
) -> Solution:
    r"""Sample a field: solve ``dX = (b + ε s) dt + √(2ε) dW``.

    Forward in time the drift is ``b + ε s``, backward it is ``b - ε s``; for any ε the law of X at
    time t is that of x_t, if the field is exact. ε = 0 is the probability flow, an ODE, which
    never asks for the score.

    Args:
        field: a trained field, a pair, or an oracle.
        n: number of samples; may be left out where ``start`` is a tensor.
        start: where to start: a Distribution (or object with ``sample``), or a tensor or an array
            ``(n, *)``; by default the process's law at t = 0, ``field.start``. It is in the data's
            units, as is all that is returned, whenever the field carries a transform;
            ``field.process.base`` itself is known to be in the field's.
        epsilon: ε ≥ 0: a number, a function of a float64 tensor of times, a schedule such as
            :class:`NoiseScaleEpsilon`; or a sequence of K of them, solved in one batched call with
            common starts and noise, giving ``(K, n, *)``, the members with ε = 0 as an ODE.
        scheme: ``"euler"``, ``"midpoint"`` (ODE only), ``"euler_maruyama"``, ``"heun"``,
            ``"rk4"``; for few steps of a process with a Gaussian part a :class:`Multistep` scheme
            such as ``ExponentialIntegrator(3)``, or its name, ``"ddim"``, ``"dpm2m"``,
            ``"unipc3"`` and others; or for ε = 0 an adaptive solver of torchdiffeq, ``"dopri5"``
            and others.
        steps: number of steps (fixed-step schemes).
        t: first and last time; ``(1.0, 0.0)`` runs backward. More than two times are a grid of
            the caller's own, used as it is (with the breakpoints of the path inserted).
        spacing: of the grid; see :func:`time_grid`.
        margin: distances from t = 0 and t = 1 within which the field is evaluated at the margin
            instead (the solve itself reaches the end). None needs none: coefficients with a root
            (γ̇ η) are integrated over the step that touches it, a step that ends at a pole (a data
            prediction at t = 1) leaves its node out, and only a solve that starts at a pole (a
            noise prediction at t = 0) looks half a step away. Where ε is more than a step can
            follow it is limited: ``Solution.limited``.
        save_at: times at which to save the states, or how many: 41 are 41 equal times from first
            to last. A time within 1e-6 of one of the grid is that one. Others are inserted into
            the grid of a one-step scheme. The steps of a multistep scheme do not depend on them:
            it makes the state inside a step of the predictions that it has, at no call, and with
            noise that fits that of the step.
        cond: conditions for the network: tensors of n rows, which go with their rows, or of shape
            ``()``, or any other objects, passed as they are. Those that the field was
            trained with, if a :class:`Trainer` did; one number then stands for all rows.
        noise: source of increments: independent ones by default, :class:`BrownianPath` for noise
            that refines consistently with ``steps``.
        corrector: Langevin corrections after each step, such as ``LangevinCorrector(snr=0.16)``:
            predictor-corrector sampling, with any one-step scheme and any ε.
        hooks: called after each step with a :class:`Moment`: to look at the states, to end the
            solve, or to return other states (inpainting, clipping); in the data's units. A scheme
            that remembers earlier states refuses the last.
        chunk: rows in one network call; chosen to fit the cache (or the card) if None.
        rtol: relative tolerance of adaptive schemes.
        atol: absolute tolerance of adaptive schemes.
        max_nfe: most evaluations of the field for a sample; None for 5,000 of an adaptive scheme,
            and for as many as its steps take of another.
        dtype: of the states: that of the start, or of the network, by default, and float32 where
            that is of half precision. A network is called in its own dtype.
        progress: show a progress bar.
        distributed: share the rows among the processes that ``torchrun`` started, all of which
            must make the call; each gets all samples, those that one process would have made (to
            the tolerance, for adaptive schemes, which take other steps with other rows).
        gradients: let the result be differentiated: in ``start``, ``cond`` and the parameters of
            the networks, not in those of a learned path. Of a step what goes into it is kept, and
            the rest is computed again, so that memory grows by states alone (not of fields that
            take derivatives themselves, as Tilt does); fixed-step schemes only. Networks must not
            change before the backward pass.
        generator: source of randomness; one key is drawn from it. The same seed gives the same
            starts and, on the same grid, the same noise, whatever ε and ``chunk``; on other grids
            (``save_at`` inserts times for one-step schemes) the same with ``noise=BrownianPath()``.

    Raises:
        ConversionError: if the field has no score for ε > 0, or no velocity; it names the cure.
        NonFiniteStateError: if a state stops being finite (which step, how many rows).
        TooManyEvaluationsError: if an adaptive scheme is not done after ``max_nfe`` evaluations.
        ValueError: for an unknown scheme, a negative ε, an ε for a deterministic scheme, a start
            of the wrong shape, steps that take more than ``max_nfe`` evaluations, and so on.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> field = tpf.Velocity(tpf.networks.MLP(2), process)
        >>> tpf.sample(field, 5, epsilon=[0.0, 0.5], steps=10).x.shape
        torch.Size([2, 5, 2])
    """
    _check_first(n, t, start, gradients, distributed)
    check_call(sample, locals())
    check_tolerances(rtol, atol)
    schedules, many = _as_schedules(field, epsilon, float(t[0]))
    scheme, steps = as_solve(field, scheme, steps, schedules, corrector, hooks, gradients)
    grid, saved = as_grid(field, t, steps, spacing, save_at, scheme)
    margins, team = as_margin(margin), world() if distributed else World()
    with torch.set_grad_enabled(gradients), team.together(), evaluating(field):
        key = team.agreed(draw_key(generator))
        x = starting_states(field, n, start, float(grid[0]), dtype, key)
        total, event_dims = len(x), x.ndim - 1
        cond = _told_start(field, cond, x, grid, schedules)
        given = field.check_conditions(cond, total, rows="samples", device=x.device)
        _check_shared(team, field, total, scheme, grid, saved, schedules, corrector, len(hooks))
        mates = World() if total < team.size else team  # too few rows to share: each solves all
        x, given, source, normals = shared_rows(mates, x, given, noise)
        looks = _looks(field, hooks, corrector, normals(), mix(key, 2), mates)
        rows = default_chunk(field.networks, x) if chunk is None else chunk
        limits: dict[str, Any] = {"cond": given, "chunk": rows, "max_nfe": max_nfe}
        solutions, bar = [], progress and team.first
        for members in sweep(schedules, apart=isinstance(scheme, Multistep) and scheme.apart):
            if isinstance(scheme, str):
                told = (margins, saved, rtol, atol)
                solution = solve_adaptively(field, x, grid, scheme, *told, **limits)
            else:
                own = [schedules[k] for k in members]
                stepper = as_stepper(field, own, scheme, margins, saved, gradients)
                states = x if len(members) == 1 else x.repeat(len(members), *(1,) * event_dims)
                limits.update(saved=saved, key=mix(key, 1), hooks=looks, normals=normals)
                solution, _ = march(stepper, states, grid, noise=source, progress=bar, **limits)
            solutions.append(solution)
        solution = together(solutions, schedules, len(x)) if many else solutions[0]
        solution = in_data_units(gathered(solution, mates, total, event_dims + 1), field)
    return check_finite(solution, event_dims)


def _check_first(n: Any, t: Any, start: Any, gradients: Any, distributed: Any) -> None:
    """Refuse what others call by these names, with a cure of its own."""
    if not isinstance(gradients, bool):
        raise TypeError(f"gradients must be True or False, got {shown(gradients)}")
    if gradients and torch.is_inference_mode_enabled():
        raise ValueError(
            "nothing can be differentiated under torch.inference_mode(); write torch.no_grad()"
            " there, which gradients=True overrides, or leave gradients out"
        )
    if gradients and distributed is True:
        raise ValueError(
            "gradients do not cross processes: with gradients=True leave distributed out; each"
            " process solves for its own rows"
        )
    if isinstance(n, Tensor) and n.ndim > 0:
        raise ValueError("n is a number; to start from states of your own write start=x")
    if isinstance(start, (list, tuple)):
        raise TypeError(f"start is a {type(start).__name__}; write start=torch.as_tensor(x)")
    if (isinstance(t, Tensor) and t.ndim != 1) or not hasattr(t, "__len__") or len(t) < 2:
        raise ValueError(f"t is (first, last), or a grid of more times, got {shown(t)}")


def _told_start(
    field: Field,
    cond: Mapping[str, Any] | None,
    x: Tensor,
    grid: Tensor,
    schedules: Sequence[EpsilonSchedule],
) -> Mapping[str, Any] | None:
    """The conditions, with the start of each path where the field is told of it."""
    if not field.process.coupling.condition_on_start:
        return cond
    check_from_start(field.process.coupling, grid, schedules)
    return with_start(cond or {}, x.clone())


def _as_schedules(
    field: Field, epsilon: Epsilon | Sequence[Epsilon], first: float
) -> tuple[list[EpsilonSchedule], bool]:
    """The ε as schedules, and whether there are several."""
    check_field(field, "sample moves along")
    many = isinstance(epsilon, (list, tuple)) or getattr(epsilon, "ndim", 0) > 0
    schedules = [as_epsilon(e) for e in epsilon] if many else [as_epsilon(epsilon)]  # type: ignore[union-attr, arg-type]
    if not schedules:
        raise ValueError("epsilon is an empty sequence; give at least one")
    check_from_point(field.process.base, first, schedules)
    return schedules, many


def _looks(
    field: Field,
    hooks: Hooks,
    corrector: Corrector | None,
    normals: NoiseSource,
    key: int,
    mates: World,
) -> list[Hook | SolveHook]:
    """What is called after each step: the corrections, then the hooks, in the data's units."""
    looks = in_units_of(field.transform, hooks)
    if looks and mates.size > 1:
        looks.append(stops_together(mates))
    if corrector is not None:
        looks.insert(0, corrector.bound(field, normals, key, mates))
    return looks


def _check_shared(
    team: World,
    field: Field,
    n: int,
    scheme: str | Scheme | Multistep | StepperScheme,
    grid: Tensor,
    saved: Sequence[int] | Sequence[float],
    schedules: Sequence[EpsilonSchedule],
    corrector: Any,
    hooks: int,
) -> None:
    """See that all processes of a shared solve make the same call."""
    if n >= team.size > 1:
        check_shares(field, n, team.size, isinstance(scheme, str))
    team.check_same(
        "a shared solve",
        {
            "n": n,
            "scheme": scheme if isinstance(scheme, str) else scheme.name,
            "t": grid.tolist(),
            "epsilons": len(schedules),
            "corrector": repr(corrector),
            "hooks": hooks,
            "save_at": list(saved),
        },
    )
