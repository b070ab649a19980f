"""``sample_posterior``: the posterior itself, by weights along the reverse chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, if_array
from .._core.checks import number, positive_integer, positive_number, shown
from .._core.precision import wide
from .._core.random import draw_key, mix
from .._core.signatures import check_call
from ..distributions import Gaussian, GaussianMixture
from ..fields.base import Field, check_field
from ..guidance.closure import moments_of, standardized
from ..guidance.gathering import gathered, tell_collapse
from ..guidance.weighted import check_one_target
from ..guidance.weighted_solution import WeightedSolution
from ..observations import LinearObservation, Observation
from ..samplers.starts import evaluating, starting_states
from ..solve.grid import Spacing, time_grid
from ..solve.hooks import Hook, in_units_of
from ..solve.loop import march
from ..solve.rows import default_chunk
from ..solve.solution import check_finite
from .guided import GuidedField
from .posterior_stepper import PosteriorStepper

__all__ = ["sample_posterior"]

_CURES = (
    "more steps, the law of the data in law=, or the conjugate proposal (proposal=None); a y that"
    " the data hardly ever give needs many"
)


@torch.no_grad()
def sample_posterior(
    field: Field,
    observation: Observation,
    n: int,
    *,
    proposal: GuidedField | None = None,
    law: Gaussian | GaussianMixture | DataLike | float | None = None,
    steps: int = 100,
    spacing: str | Spacing = "uniform",
    threshold: float = 0.5,
    cond: Mapping[str, Any] | None = None,
    hooks: Sequence[Hook] = (),
    chunk: int | None = None,
    max_nfe: int | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> WeightedSolution:
    r"""Sample ``p(x | y)`` by weighted particles, ``p`` the law that a field samples.

    Each method of this namespace samples another law than the posterior. Here each particle carries
    the weight that makes up for it: as particles and steps grow the weighted law tends to the
    posterior, with any proposal, and ``log_evidence`` to ``log p(y)``, the log-density of what was
    seen (of the part of y that A reaches). For Gaussian data, whose covariance is given, both are
    exact with any steps, and all weights equal. Steps are of weak order 2. Without noise the
    particles fit y exactly. See :mod:`.posterior_stepper`.

    Args:
        field: of a process with a Gaussian part whose signal grows with t.
        observation: a linear one of one y, in the units of the data; for any other log-likelihood
            use ``guidance.sample_weighted`` with a :class:`Tilt`.
        n: number of particles.
        proposal: where particles are moved: a guided field of this field, whose prediction takes
            the place of the mean of x1; by default what the Gaussian model of x1 given x_t says of
            y, which is exact for Gaussian data. Weights make up for both.
        law: the law of the data, for its covariance: a Gaussian, a GaussianMixture or rows
            ``(N, *)``, or a number, a variance of all coordinates in the units of the field. By
            default that of an exact field, else the variance 1 of standardised data. The better it
            fits, the less the weights vary.
        steps: number of steps, of two evaluations of the field and one derivative back through it.
        spacing: of the grid.
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
        ConversionError: if the process has no Gaussian part.
        NonFiniteStateError: if a state, or all weights, stop being finite.
        TypeError: if the observation is not linear, or the law none of these.
        ValueError: if there are several y, or a y without noise that no x gives, if shapes or the
            proposal do not fit, or if conditions differ from row to row.

    Warns:
        CollapsedWeightsWarning: if the standard error is above 0.5, or few ancestors are left, or
            the effective size fell below ten.

    Source: Wu et al. (2023); the chain and its twist are this library's.

    Example:
        >>> import torch, transportflows as tpf
        >>> from transportflows.inverse import LinearObservation, Mask
        >>> law = tpf.distributions.GaussianMixture(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), 0.6)
        >>> field = tpf.oracle(tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))), law)
        >>> seen = LinearObservation(Mask(torch.tensor([1, 0])), torch.tensor([0.3, 0.0]), 0.1)
        >>> generator = torch.Generator().manual_seed(0)
        >>> run = sample_posterior(field, seen, 2_000, steps=30, generator=generator)
        >>> exact = law.posterior(seen)
        >>> mean = exact.weights @ exact.means
        >>> bool(((run.mean() - mean).abs() < 0.1).all())
        True
        >>> abs(run.log_evidence - law.log_evidence(seen)) < 0.1
        True
    """
    check_call(sample_posterior, locals())
    check_field(field, "sample_posterior moves along")
    positive_integer("n", n)
    number("threshold", threshold, "in [0, 1]", least=0.0, most=1.0)
    field.process.part.check_monotone()
    inside = _checked(field, observation, proposal)
    seen = inside.reached()
    key, law = draw_key(generator), if_array("law", law, like=field.reference())
    points = field.breakpoints
    grid = time_grid(steps, start=0.0, stop=1.0, spacing=spacing, breakpoints=points)
    with evaluating(field):
        x = starting_states(field, n, None, 0.0, dtype, key)
        given = field.check_conditions(cond, n, rows="particles", device=x.device)
        check_one_target(given)
        rows = default_chunk(field.networks, x) if chunk is None else chunk
        stepper = PosteriorStepper(
            field, seen, inside.noise, _covariance(field, law, x.shape[1:]), proposal=proposal,
            threshold=threshold, key=mix(key, 2),
        )  # fmt: skip
        solution, (memory,) = march(
            stepper, x, grid, hooks=in_units_of(field.transform, hooks), key=mix(key, 1),
            cond=given, chunk=rows, max_nfe=max_nfe, progress=progress,
        )  # fmt: skip
    check_finite(solution, x.ndim - 1)
    split = "conjugate" if proposal is None else type(proposal).__name__
    found = gathered(solution, memory.cloud, 0.0, split, field.transform)
    tell_collapse(found, _CURES)
    return found


def _checked(
    field: Field, observation: Observation, proposal: GuidedField | None
) -> LinearObservation:
    """The observation in the units of the field, if it and the proposal fit the field."""
    if not isinstance(observation, LinearObservation):
        raise TypeError(
            "sample_posterior is of a LinearObservation, whose likelihood is a Gaussian's; for any"
            " log-likelihood write guidance.sample_weighted(guidance.Tilt(field, lambda t, d:"
            " t * observation.log_likelihood(d), of='data'), n)"
        )
    shape = field.process.shape
    if shape not in (None, observation.shape):
        raise ValueError(
            f"the observation is of events of shape {tuple(observation.shape)}, and the process has"
            f" {tuple(shape or ())}"
        )
    if proposal is not None and proposal.field is not field:
        raise ValueError(
            "the proposal guides another field than the one that is sampled; make it of the same"
            " one: proposal=PseudoInverse(field, observation)"
        )
    return observation.in_units_of(field.transform)


def _covariance(field: Field, law: Any, shape: Sequence[int]) -> Tensor:
    """Cov of the data in the units of the field, ``(d, d)``, float64."""
    known = getattr(field, "rho1", None)
    if law is None and isinstance(known, (Gaussian, GaussianMixture)):
        return moments_of(known)[1]  # an exact field's units are its own
    d = torch.Size(shape).numel()
    if law is None or isinstance(law, (int, float)):
        variance = 1.0 if law is None else positive_number("law, a variance,", law)
        return variance * torch.eye(d, dtype=torch.float64)
    if not isinstance(law, (Gaussian, GaussianMixture, Tensor)):
        raise TypeError(
            "law is that of the data, for its covariance: a Gaussian, a GaussianMixture, rows"
            f" (N, *) or a variance, got {shown(law)}"
        )
    mean, covariance = moments_of(law)
    if not float(covariance.diagonal().amax()) > 0:
        raise ValueError("the rows of law are all equal, so there is no covariance; give the data")
    if len(mean) != d:
        raise ValueError(
            f"law is of states of {len(mean)} numbers, and those of the field have {d}"
        )
    return wide(standardized(mean, covariance, field.transform, shape)[1])
