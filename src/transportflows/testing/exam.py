r"""An exam: a field against the closed forms of a law that is known.

A trained field is held against the oracle of its own process, so that each number has an exact
answer, and beside it stands what an exact field shows under the same conditions, its *floor*:

- **fields**: rms error of the velocity and of the score over the size of each, on exact draws of
  x_t, by time; of all times in ``[margin, 1 - margin]`` that of the velocity is over the size of
  all, that of the score, whose size may have no bound near an end, the rms of those by time;
- **law**: distances of samples from four sets of draws of the law, by the ODE and by the SDE, and
  of further draws from these;
- **density**: error of ``log ρ̂1`` in nats at draws of the law, and ``KL(ρ1 ‖ ρ̂1)``;
- **ends**: rms distance of where the ODE takes a start from where the exact one does, over the
  deviation of the data;
- **cost**: calls of the field for a sample, and the time of them.

A peer's network is examined as any other: what it predicts makes it a field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from .._core.checks import positive_integer
from .._core.random import draw_key
from .._core.signatures import checked
from ..distributions import Gaussian, GaussianMixture
from ..fields.base import Field, check_field
from ..samplers.starts import evaluating
from ..solve import Solution
from .exam_parts import (
    by_time,
    cost,
    density,
    distances,
    draws_of,
    ends,
    exact_field,
    solved,
)
from .exam_report import ExamReport, ExamRow

__all__ = ["exam"]


@checked
@torch.no_grad()
def exam(
    field: Field,
    law: Gaussian | GaussianMixture,
    *,
    n: int = 4_000,
    steps: int = 100,
    epsilon: float = 0.5,
    densities: int = 500,
    margin: float = 0.01,
    cond: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> ExamReport:
    """Examine a field that was trained on draws of a law.

    What has no closed form for the process, or what the field does not have (a score, a density),
    is left out, and the report says why. Where the coupling pairs starts with data, the law of x_t
    is not known, and only the law at the end and the density are examined.

    Args:
        field: trained on draws of the law; in evaluation or training mode, it is called in the
            first.
        law: of the data, in their units.
        n: samples, and draws at each time; 40 at least.
        steps: of the ODE (Heun) and the SDE.
        epsilon: of the SDE, above 0.
        densities: draws at which the density is compared; 0 for none.
        margin: distance from both ends of time for the errors of the fields: those of a score may
            have no bound there.
        cond: the condition under which the data have that law; one value, for all rows.
        generator: source of all draws.

    Raises:
        TypeError: if the law is no Gaussian or mixture of them, or the field is none.
        ValueError: if the law is of another event shape, or a number out of its range.

    Example:
        >>> import transportflows as tpf
        >>> law = tpf.distributions.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.3)
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> draws = torch.Generator().manual_seed(0)
        >>> report = exam(tpf.oracle(process, law), law, n=400, densities=0, generator=draws)
        >>> report["velocity"].value, report["ends"].value < 1e-3
        (0.0, True)
    """
    check_field(field, "exam examines")
    process, count = field.process, positive_integer("steps", steps)
    if process.shape is not None and law.shape != process.shape:
        raise ValueError(
            f"the law has events of shape {tuple(law.shape)} and the field of"
            f" {tuple(process.shape)}; give the law of the data that it was trained on"
        )
    if n < 40:
        raise ValueError(f"n must be at least 40, for floors, got {n}; 4,000 serve well")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}; the ODE is examined anyway")
    if not 0 < margin < 0.5:
        raise ValueError(f"margin must lie in (0, 0.5), got {margin}; 0.01 is usual")
    if densities < 0:
        raise ValueError(f"densities must be a number of draws, or 0 for none, got {densities}")
    field.check_conditions(cond, n, rows="samples")  # before what the field lacks is told
    with evaluating(field):
        return _examined(field, law, n, count, epsilon, densities, margin, cond, generator)


def _examined(
    field: Field,
    law: Gaussian | GaussianMixture,
    n: int,
    steps: int,
    epsilon: float,
    densities: int,
    margin: float,
    cond: Mapping[str, Any] | None,
    generator: torch.Generator | None,
) -> ExamReport:
    """All parts, of a field in evaluation mode."""
    key, rows, exact = draw_key(generator), list[ExamRow](), exact_field(field, law)
    how: dict[str, Any] = {"steps": steps, "scheme": "heun", "dtype": field.reference().dtype}
    t, curves = torch.empty(0, dtype=torch.float64), []
    if isinstance(exact, str):
        rows.append(ExamRow("fields", "velocity", math.nan, note=exact))
    else:
        t, found = by_time(field, exact, n, margin, cond, key)
        for name, errors in found.items():
            if isinstance(errors, str):
                rows.append(ExamRow("fields", name, math.nan, note=f"has none: {errors}"))
                curves.append(t[:0])
                continue
            squares, sizes = errors
            whole = squares.sum() / sizes.sum() if name == "velocity" else (squares / sizes).mean()
            rows.append(ExamRow("fields", name, float(whole.sqrt()), 0.0))
            curves.append((squares / sizes).sqrt())
    truth = draws_of(field, law, n, key)
    solution, seconds = solved(field, n, 0.0, {**how, "cond": cond}, key)
    rows += distances("ODE", solution, truth, "", key)
    by_sde, _ = solved(field, n, epsilon, {**how, "cond": cond}, key)
    rows += distances("SDE", by_sde, truth, f"ε = {epsilon:g}", key)
    rows += density(field, exact, law, densities, cond, key)
    if isinstance(solution, Solution):
        if not isinstance(exact, str):
            rows.append(ends(field, exact, law, solution.x, how, key))
        rows += cost(solution, seconds)
    return ExamReport(tuple(rows), t, *(curves or (t, t)))
