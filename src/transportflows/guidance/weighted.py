"""``sample_weighted``: the law that was asked for, by weights along the SDE."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.checks import choice, number, positive_integer
from .._core.random import draw_key, mix
from .._core.signatures import check_call
from ..fields.base import Field, check_field
from ..gaussian_part import GaussianPart
from ..oracles.base import ExactField
from ..samplers.dynamics import Epsilon
from ..samplers.starts import evaluating, starting_states
from ..solve.epsilon import as_epsilon
from ..solve.grid import Spacing, time_grid
from ..solve.hooks import Hook, in_units_of
from ..solve.loop import march
from ..solve.rows import default_chunk
from ..solve.solution import check_finite
from .closure import Law
from .gathering import gathered, tell_collapse
from .left_out import MOST_AMPLIFIED
from .target import Target
from .tilts import Tilt
from .weighted_solution import WeightedSolution
from .weighted_start import check_start, starting, starting_weights
from .weighted_stepper import Shift, WeightedStepper

__all__ = ["check_one_target", "sample_weighted"]


@torch.no_grad()
def sample_weighted(
    field: Field,
    n: int,
    *,
    epsilon: Epsilon = 1.0,
    steps: int = 100,
    spacing: str | Spacing = "uniform",
    closure: Sequence[Law] | None = None,
    proposal: str | Callable[..., Tensor] | None = None,
    most_amplified: float | None = None,
    threshold: float = 0.5,
    cond: Mapping[str, Any] | None = None,
    hooks: Sequence[Hook] = (),
    chunk: int | None = None,
    max_nfe: int | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> WeightedSolution:
    r"""Sample the law that a guided field is of, by weighted particles.

    The target at t = 1 is ``p^β`` for :class:`Power`, ``Π p_i^{w_i}`` for :class:`Product`,
    ``p^{1-w} p(·|c)^w`` for :class:`ClassifierFree` and likewise for :class:`AutoGuidance`,
    ``p e^{r_1}`` for :class:`Tilt` and :class:`Classifier`, and for any of them of any others.
    Guidance alone samples another law; here each particle carries the weight that makes up for it,
    and rows are drawn again where few carry it all. As particles and steps grow the weighted law
    tends to the target, for any ε > 0 (and for ε = 0 too, by weights alone, of a variance that may
    be large).

    Args:
        field: a guided field; of any other the law is its own, and the weights are all one.
        n: number of particles.
        epsilon: ε ≥ 0, which draws the particles towards the target, as for :func:`sample`; the
            weights do not depend on it. 0 parts no copies, so nothing is resampled.
        steps: number of Heun steps, from t = 0 to 1, each of two evaluations of every field.
        spacing: of the grid.
        closure: the law of the data of each density, a Gaussian, a GaussianMixture or rows of data,
            for the *closure split*: a transport that is right for their Gaussians, with weights
            that vary less. In the order of the product; for classifier-free guidance the
            unconditional law comes first, for autoguidance the bad one. Where there is no such
            split the plain one serves, and a warning is told.
        proposal: a drift added to the motion, made up for by the weights exactly: ``"guided"`` for
            what guidance by a gradient adds, ``(Δ/β) ∇r``, or ``proposal(t, x, **cond)``, in the
            units of the data, which is lowered where ε is limited. It needs ε > 0.
        most_amplified: near the ends of time an error of a prediction is multiplied without bound
            in the score (``1/(1-t)`` times for the velocity of a linear path), and the weights
            would come to reward it. Where it is multiplied by more than this they no longer look at
            predictions. By default 20 for learned fields, at ``σ̂ = β/20`` for a velocity, and
            without bound (``math.inf``) for exact ones. What is left out of log w is of order σ̂²
            there, for densities that are smooth on the scale σ̂/β.
        threshold: rows are drawn again where the effective sample size is below this share of n; 0
            for never.
        cond: conditions: one value for all particles, which share one target.
        hooks: look on after each step, with the states before weights; they may not change them.
        chunk: rows in one network call.
        max_nfe: most evaluations of the field for a particle.
        dtype: of the states.
        progress: show a progress bar.
        generator: source of randomness; one key is drawn from it.

    Raises:
        ConversionError: if a field has no velocity or no score; both must be of one p.
        NonFiniteStateError: if a state stops being finite.
        ValueError: if the target is none (rescaled and projected guidance, a scale that changes
            with time), if it has no known law to start from, if conditions differ from row to row,
            or if all weights are zero or one is NaN.

    Warns:
        CollapsedWeightsWarning: if the standard error is above 0.5, or few ancestors are left, or
            the effective size fell below ten.

    Example:
        >>> import math, torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> field = tpf.oracle(process, tpf.Gaussian((2,), scale=2.0))
        >>> generator = torch.Generator().manual_seed(0)
        >>> run = sample_weighted(tpf.guidance.Power(field, 4.0), 1_000, steps=50,
        ...                       closure=[tpf.Gaussian((2,), scale=2.0)], generator=generator)
        >>> exact = -3 * math.log(2 * math.pi * 4.0) - math.log(4.0)  # ∫ N(0, 4)^4
        >>> abs(run.log_evidence - exact) < 1e-3, abs(float(run.mean()[0])) < 0.2
        (True, True)
    """
    check_call(sample_weighted, locals())
    check_field(field, "sample_weighted moves along")
    positive_integer("n", n)
    number("threshold", threshold, "in [0, 1]", least=0.0, most=1.0)
    schedule, target = as_epsilon(epsilon), Target.of(field)
    most = _most_amplified(field, target, most_amplified)
    if proposal is not None and schedule.is_zero:
        raise ValueError("a proposal shifts the noise, and epsilon=0 has none; give an epsilon")
    check_start(field, target)
    key = draw_key(generator)
    points = field.breakpoints
    grid = time_grid(steps, start=0.0, stop=1.0, spacing=spacing, breakpoints=points)
    with evaluating(field):
        x = starting_states(starting(field, target), n, None, 0.0, dtype, key)
        given = field.check_conditions(cond, n, rows="particles", device=x.device)
        check_one_target(given)
        rows = default_chunk(field.networks, x) if chunk is None else chunk
        logs, log_start = starting_weights(field, target, x, given, rows)
        stepper = WeightedStepper(
            field, target, schedule, logs, threshold=threshold, closure=closure,
            most=most, shift=_shift(field, target, proposal), key=mix(key, 2),
        )  # fmt: skip
        solution, (cloud,) = march(
            stepper, x, grid, hooks=in_units_of(field.transform, hooks), key=mix(key, 1),
            cond=given, chunk=rows, max_nfe=max_nfe, progress=progress,
        )  # fmt: skip
    check_finite(solution, x.ndim - 1)
    transform = field.transform
    if transform is not None:  # a density in the units of the data is divided by the scales
        log_start -= (1 - target.total) * float(transform.log_abs_det(x.shape[1:]))
    found = gathered(solution, cloud, log_start, cloud.split, transform)
    _tell_plain(closed=closure is not None and cloud.split == "plain")
    tell_collapse(found, "a larger epsilon with more steps, closure=, or a weaker target")
    return found


def _most_amplified(field: Field, target: Target, given: float | None) -> float:
    """The bound asked for, or that of the kind of fields."""
    if given is not None:
        if target.total != 1 and not isinstance(field.process.noise_part, GaussianPart):
            raise ValueError(
                f"most_amplified leaves predictions out, and for powers that add up to"
                f" {target.total:g} that needs a Gaussian part, which this process has not; leave"
                " it out, or take powers that add up to 1"
            )
        what = "at least 1; math.inf for no bound"
        return float(number("most_amplified", given, what, least=1.0, finite=False))
    exact = all(isinstance(factor.field, ExactField) for factor in target.factors)
    return math.inf if exact else MOST_AMPLIFIED


def _tell_plain(*, closed: bool) -> None:
    """Tell that there was no closure split, where one was asked for."""
    if closed:
        warnings.warn(
            "the moment-matched Gaussians have no product of these powers (its precision is not"
            " positive at all times), so there is no closure split here, and the plain transport"
            " was used; take a scale nearer to 1",
            stacklevel=3,
        )


# ------------------------------------------------------------------------------ what is asked


def check_one_target(cond: Mapping[str, Any]) -> None:
    """Refuse conditions that differ from row to row: particles are drawn across rows."""
    for name, value in cond.items():
        if isinstance(value, Tensor) and value.ndim > 0 and not bool((value == value[:1]).all()):
            raise ValueError(
                f"the condition {name!r} differs from row to row, and all particles of a weighted"
                " solve share one target; give one value for all, and make a call for each"
            )


def _shift(
    field: Field, target: Target, proposal: str | Callable[..., Tensor] | None
) -> Shift | None:
    """δ in the units of the field."""
    if proposal is None:
        return None
    if isinstance(proposal, str):
        choice("proposal", proposal, ("guided",))
        if not target.rewards:
            raise ValueError(
                "proposal='guided' adds the gradient of a reward, and this field has none; use Tilt"
                " or Classifier, or give a function"
            )

        def guided(t: Tensor, x: Tensor, cond: Mapping[str, Any], share: float) -> Tensor:
            parts = [
                _of_reward(one.tilt, t, x) * one.gradient(t, x, cond) for one in target.rewards
            ]
            return torch.stack(parts).sum(0)

        return guided
    function, transform = proposal, field.transform

    def own(t: Tensor, x: Tensor, cond: Mapping[str, Any], share: float) -> Tensor:
        seen = x if transform is None else transform.invert(x)
        given = function(t.expand(len(x)), seen, **cond)
        if not isinstance(given, Tensor) or given.shape != x.shape:
            got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(
                f"proposal(t, x) must give the shape of x, {tuple(x.shape)}, got {got}"
            )
        found: Tensor = given.to(x) * share**0.5
        return found if transform is None else found / transform.scale.to(x)

    return own


def _of_reward(tilt: Tilt, t: Tensor, x: Tensor) -> Tensor:
    """``Δ/β``, by which the velocity shifts with ∇r."""
    return tilt._shift("velocity", tilt._near(t), x)
