"""Whether a bridge is sampled with its own ε, so that its paths are the bridge's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor

from .._core.callers import user_level
from ..couplings import Paired, TransportPlan
from ..fields import Field
from ..gaussian_part import NoisePart
from ..interpolants import Brownian, Linear
from ..solve import EpsilonSchedule

__all__ = ["PathLawWarning", "tell_path_law"]

_SAME = 1e-6  # of ε and a/2, relative


class PathLawWarning(UserWarning):
    """A bridge is sampled with another ε than its own, so that its paths are not the bridge's."""


def tell_path_law(field: Field, epsilons: Sequence[EpsilonSchedule], stages: Tensor) -> None:
    """Warn where an ε > 0 is not that of the bridge that a field is of.

    Args:
        field: any field.
        epsilons: of a solve.
        stages: times of the nodes, ``(S, K)``.
    """
    own = _own_epsilon(field)
    if own is None:
        return
    path = field.process.noise_part.path
    part = NoisePart(path, "")  # the noise is that of the path between both ends
    middle = stages[len(stages) // 2, :1].reshape(1)
    for schedule in epsilons:
        if schedule.is_zero:
            continue
        found = float(schedule.bound(part, middle[None], middle).value(middle, part.scale(middle)))
        if abs(found - own) > _SAME * own:
            warnings.warn(
                f"this ε is not the bridge's own, a/2 = {own:g}: the law of each x_t is the same,"
                " the law of paths, and so of the pairs (x0, x1), is another; write"
                f" epsilon={own:g} for the bridge",
                PathLawWarning,
                stacklevel=user_level(),
            )
            return


def _own_epsilon(field: Field) -> float | None:
    """a/2 of a Schrödinger bridge; None for a field of another process."""
    path, coupling = field.process.interpolant, field.process.coupling
    told: float | None = getattr(field, "path_epsilon", None)  # of a field of a bridge
    if told is not None:
        return told
    if type(path) is not Linear or not isinstance(path.latent, Brownian):
        return None
    own = 0.0
    if isinstance(coupling, Paired):
        own = coupling.path_epsilon or 0.0
    elif isinstance(coupling, TransportPlan) and coupling.unbalanced is None:
        own = (coupling.regularisation or 0.0) / 4
    half = float(path.latent.a) / 2
    return half if abs(own - half) <= _SAME * half else None
