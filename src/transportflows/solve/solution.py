"""What a solve returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._core.reprs import brief, call_lines
from .._core.signatures import checked

__all__ = [
    "NonFiniteStateError",
    "Solution",
    "TooManyEvaluationsError",
    "check_finite",
    "check_hooks_finite",
]


@checked
@dataclass(frozen=True)
class Solution:
    """Where the states ended, and how they got there.

    Attributes:
        x: final states, ``(n, *)``; with a sequence of K epsilons ``(K, n, *)``.
        t: the time grid, float64, ``(steps + 1,)``; the accepted range for an adaptive scheme.
        trajectory: states at ``saved_at``, ``(T, n, *)`` or ``(T, K, n, *)``; None if not asked.
        saved_at: the times of the trajectory, float64, ``(T,)``.
        nfe: evaluations of the field for each sample (of each network that it needs).
        scheme: name of the scheme.
        limited: stretches of time, as (first, last), whose steps were made with an ε limited to
            what the scheme can follow; the law of each x_t is that of the ε asked for, that of
            paths is not. None if none was.
        margin: distances from t = 0 and t = 1 within which the field was evaluated at the margin,
            because its velocity is singular nearer to the end.
        first_bad_step: the first step after which a state was not finite; None if all were.
        bad_hook: the hook that returned the states that were not finite then, where one did.
        members: K, where a sequence of K epsilons was given; None for one.

    Example:
        >>> import torch, transportflows as tpf
        >>> grid = torch.linspace(0, 1, 101)
        >>> solution = tpf.samplers.integrate(lambda t, x: -x, torch.ones(1, 1), grid, scheme="rk4")
        >>> round(float(solution.x), 6), solution.nfe, solution.scheme  # exp(-1), 4 calls a step
        (0.367879, 400, 'rk4')
    """

    x: Tensor
    t: Tensor
    nfe: int
    scheme: str
    trajectory: Tensor | None = None
    saved_at: Tensor | None = None
    limited: tuple[tuple[float, float], ...] | None = None
    margin: tuple[float, float] = (0.0, 0.0)
    first_bad_step: int | None = None
    bad_hook: str | None = None
    members: int | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep the short repr in dataclasses below, which would get one with all numbers."""
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Solution.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        told = {
            "x": self.x,
            "steps": self.t.numel() - 1,
            "nfe": self.nfe,
            "scheme": self.scheme,
            "trajectory": self.trajectory,
            "limited": self.limited,
            "margin": self.margin if any(self.margin) else None,
            "first_bad_step": self.first_bad_step,
            "bad_hook": self.bad_hook,
        }
        parts = (f"{name}={brief(value)}" for name, value in told.items() if value is not None)
        return call_lines(type(self).__name__, parts)


@checked
class NonFiniteStateError(ArithmeticError):
    """A state stopped being finite while sampling.

    Attributes:
        solution: all that was computed, with the rows that stayed finite.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(1,))
        >>> field = tpf.Velocity(lambda t, x: 1 / (t[:, None] < 0.5) * x, process)
        >>> try:
        ...     tpf.sample(field, start=torch.ones(3, 1), scheme="euler", steps=4)
        ... except NonFiniteStateError as error:
        ...     error.solution.first_bad_step
        2
    """

    def __init__(self, message: str, solution: Solution) -> None:
        super().__init__(message)
        self.solution = solution


@checked
class TooManyEvaluationsError(ArithmeticError):
    """A solve took as many evaluations of the field as it was allowed, and was not done.

    Attributes:
        solution: the states that it had come to.

    Example:
        >>> import torch, transportflows as tpf
        >>> field = tpf.oracles.oracle(tpf.Process(tpf.SBDM(), shape=(1,)), tpf.Gaussian((1,), 3.0))
        >>> try:
        ...     tpf.sample(field, start=torch.ones(1, 1), scheme="dopri5", max_nfe=10)
        ... except TooManyEvaluationsError as error:
        ...     error.solution.nfe <= 10
        True
    """

    def __init__(self, message: str, solution: Solution) -> None:
        super().__init__(message)
        self.solution = solution


def check_hooks_finite(solution: Solution) -> None:
    """Refuse a solution in which a hook returned states that are not finite.

    Raises:
        NonFiniteStateError: if one did.
    """
    if solution.bad_hook is not None:
        raise NonFiniteStateError(
            f"the hook {solution.bad_hook} returned states that are not finite after step"
            f" {(solution.first_bad_step or 0) + 1}, where they were finite; look at what it"
            " computes there; the rest is in error.solution",
            solution,
        )


def check_finite(solution: Solution, event_dims: int) -> Solution:
    """Return the solution, or raise if a state stopped being finite."""
    step = solution.first_bad_step
    if step is None:
        return solution
    check_hooks_finite(solution)
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
