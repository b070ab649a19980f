"""How straight the paths of a field's ODE are, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.checks import positive_number
from .._core.precision import table_device, wide
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..fields.base import Field
from ..solve.grid import time_grid
from .ends import BOUND
from .panels import lagrange
from .sample import sample

__all__ = ["PathGeometry", "path_geometry"]

_SOLVE_ERROR = 1e-3  # of the displacement: by how much the energy may be below it


@checked
@dataclass(frozen=True)
class PathGeometry:
    """How straight the paths of the ODE are.

    Attributes:
        energy: ``E ∫ |b|² dt`` along the paths.
        displacement: ``E |X_1 - X_0|²``, at most the energy.
        straightness: ``E ∫ |b - (X_1 - X_0)|² dt``, their difference: 0 for straight paths at
            constant speed (Liu et al. 2022), to within the error of the solve.
        normalised: ``(energy - W) / W``, with W the least energy, the squared W2 of both ends: 0
            for the dynamic optimal transport (Tong et al. 2023). NaN unless W was given.
        standard_error: of the energy.
    """

    energy: float
    displacement: float
    straightness: float
    normalised: float
    standard_error: float

    __repr__ = summary


@checked
@torch.no_grad()
def path_geometry(
    field: Field,
    n: int | None = None,
    *,
    start: Any | None = None,
    steps: int = 100,
    scheme: str = "rk4",
    least_energy: float | None = None,
    cond: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> PathGeometry:
    r"""Return path energy and straightness of the ODE of a field.

    Simpson's rule over the steps, with ``|b|²`` extrapolated to ends of time where the weights of
    the velocity are infinite (γ̇ η of a Brownian latent); the error of the solve is that of the
    scheme. In the units of the data, also where the field has a transform.

    Args:
        field: a field with a velocity.
        n: number of paths.
        start: as in :func:`transportflows.sample`.
        steps: an even number of steps.
        scheme: fixed-step scheme.
        least_energy: squared W2 between both ends, for ``normalised``: such as
            ``wasserstein2(x0, x1) ** 2``.
        cond: conditions for the network; tensors have n rows.
        generator: source of the starts.

    Raises:
        RuntimeError: if the solve kept no states, which is a fault of this library.
        ValueError: if the number of steps is odd or so small that the energy comes out below the
            displacement (by more than 0.1 %), or :func:`transportflows.sample` refuses.
    """
    if steps < 2 or steps % 2:
        raise ValueError(f"steps must be even and at least 2, for Simpson's rule; got {steps}")
    grid = time_grid(steps, breakpoints=field.breakpoints)
    how: dict[str, Any] = {
        "scheme": scheme,
        "t": grid,
        "save_at": grid,
        "cond": cond,
        "generator": generator,
    }
    solved = sample(field, n, start=start, **how)
    path = solved.trajectory
    if path is None:
        raise RuntimeError("the solve kept no trajectory")
    inside = path if field.transform is None else torch.stack([field.transform(x) for x in path])
    scale = 1.0 if field.transform is None else field.transform.scale.to(path)
    known = field.check_conditions(cond, solved.x.shape[0], device=solved.x.device)

    def speed(k: int) -> Tensor:
        """``|b|²`` of each row at the k-th time."""
        velocity = field.velocity(grid[k].to(inside), inside[k], known)
        return wide(sum_events((scale * velocity).square()))

    speeds = _at_all(grid, _regular(field, grid), speed)
    energy = _simpson(grid.to(speeds.device)) @ speeds
    displacement = float(sum_events(wide(path[-1] - path[0]).square()).mean())
    mean = float(energy.mean())
    if not mean >= (1 - _SOLVE_ERROR) * displacement:
        raise ValueError(
            f"the energy came out as {mean:.4g}, below the displacement {displacement:.4g}, which"
            f" it cannot be: {steps} steps of {scheme!r} do not resolve the paths; give more steps"
        )
    if least_energy is not None:
        positive_number("least_energy", least_energy)
    excess = math.nan if least_energy is None else (mean - least_energy) / least_energy
    error = float(energy.std()) / math.sqrt(energy.numel())
    return PathGeometry(mean, displacement, mean - displacement, excess, error)


def _regular(field: Field, grid: Tensor) -> list[int]:
    """The times of a grid at which the weights of a velocity are bounded."""
    fine = field.weights("velocity", grid.to(table_device(field.reference().device))).within(BOUND)
    return [int(k) for k in fine.nonzero()]


def _at_all(grid: Tensor, known: list[int], value: Callable[[int], Tensor]) -> Tensor:
    """Values at the times known, and at others by the parabola through the nearest three of them.

    A velocity ``v + γ̇ η`` cannot be evaluated where γ̇ is infinite, and has a limit there.
    """
    found = {k: value(k) for k in known}
    rows = []
    for k in range(len(grid)):
        if k not in found:
            near = sorted(found, key=lambda j: abs(j - k))[:3]
            weights = lagrange(grid[near][None], grid[k].view(1, 1)).flatten().tolist()
            rows.append(sum(found[j] * w for j, w in zip(near, weights, strict=True)).clamp(min=0))
        else:
            rows.append(found[k])
    return torch.stack(rows)


def _simpson(grid: Tensor) -> Tensor:
    """Weights of the composite Simpson rule on pairs of intervals, of any widths."""
    weights = torch.zeros_like(grid)
    a, b = grid.diff()[0::2], grid.diff()[1::2]
    weights[0:-2:2] += (a + b) / 6 * (2 - b / a)
    weights[1:-1:2] += (a + b) ** 3 / (6 * a * b)
    weights[2::2] += (a + b) / 6 * (2 - a / b)
    return weights
