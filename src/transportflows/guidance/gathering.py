"""What comes of a weighted solve: the solution, and a warning where its weights have collapsed."""

from __future__ import annotations

import dataclasses
import warnings

import torch

from ..solve.solution import NonFiniteStateError, Solution
from ..transforms import Standardize
from .cloud import Cloud
from .resampling import log_mean, standard_error
from .weighted_solution import CollapsedWeightsWarning, WeightedSolution

__all__ = ["gathered", "tell_collapse"]


def gathered(
    solution: Solution, cloud: Cloud, log_start: float, split: str, transform: Standardize | None
) -> WeightedSolution:
    """The weighted solution, in the units of the data.

    Args:
        solution: of the loop, in the units of the field.
        cloud: the weights at the end.
        log_start: what the log-evidence began with.
        split: which transport or proposal was used.
        transform: of the field.

    Raises:
        NonFiniteStateError: if all weights are zero, or one is NaN or infinite.
    """
    logs, x = cloud.log_weights, solution.x
    total = torch.logsumexp(logs, 0)
    if not bool(torch.isfinite(total)):
        why = "one is NaN or infinite" if bool((logs > -torch.inf).any()) else "all are zero"
        raise NonFiniteStateError(
            f"the weights are of no use: {why}. A reward of -inf everywhere, or scores that are not"
            " finite, do that; the states are in error.solution",
            solution,
        )
    flags = torch.zeros(len(cloud.sizes) - 1, dtype=torch.bool, device=x.device)
    if cloud.drawn:
        flags[: len(cloud.drawn)] = torch.stack(list(cloud.drawn))
    told = {f.name: getattr(solution, f.name) for f in dataclasses.fields(Solution)}
    return WeightedSolution(
        **{**told, "x": x if transform is None else transform.invert(x)},
        log_weights=logs - total,
        ess=torch.stack(list(cloud.sizes)),
        resampled=flags,
        ancestors=cloud.ancestors,
        log_evidence=float(cloud.log_evidence + log_mean(logs)) + log_start,
        log_evidence_error=float(standard_error(logs, cloud.ancestors)),
        split=split,
    )


def tell_collapse(found: WeightedSolution, cures: str, stacklevel: int = 3) -> None:
    """Warn where the weights have collapsed.

    Args:
        found: what was sampled.
        cures: what to try beside more particles.
        stacklevel: of the warning, counted from here.
    """
    if found.collapsed:
        warnings.warn(
            f"the weights have collapsed: the effective sample size fell to {found.least_ess:.3g}"
            f" of {len(found.x)}, {found.ancestors_left} of the start rows are left, and the"
            f" standard error of the log-evidence is {found.log_evidence_error:.2g}; neither states"
            f" nor evidence can be trusted. Take more particles, {cures}",
            CollapsedWeightsWarning,
            stacklevel=stacklevel,
        )
