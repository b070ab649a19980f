"""The regularisation of a plan that goes with a path: that of the Schrödinger bridge."""

from __future__ import annotations

from .._core.reprs import brief
from ..interpolants import Brownian, Interpolant, Linear

__all__ = ["path_regularisation"]


def path_regularisation(path: Interpolant, *, balanced: bool = True) -> float:
    """``2 a`` for ``Linear(Brownian(a))``, 0 for a path without a latent.

    Args:
        path: of the process.
        balanced: whether the plan keeps its marginals.

    Raises:
        ValueError: if the path has another latent than a Brownian one on a straight line, or the
            plan is unbalanced and so needs a positive one.
    """
    if path.has_latent:
        brownian = type(path) is Linear and type(path.latent) is Brownian
        if not brownian or path.latent.a.requires_grad:  # type: ignore[union-attr]
            raise ValueError(
                f"the regularisation of a TransportPlan follows Linear(Brownian(a)), 2 a, or a"
                f" path without a latent, 0; for {brief(path)} give it as a number:"
                " TransportPlan(x0, x1, regularisation=...), 0 for the exact plan"
            )
        return 2 * float(path.latent.a)  # type: ignore[union-attr, arg-type]
    if not balanced:
        raise ValueError(
            "an unbalanced plan is entropic, and a path without a latent asks for an exact one;"
            " give TransportPlan(x0, x1, unbalanced=..., regularisation=...)"
        )
    return 0.0
