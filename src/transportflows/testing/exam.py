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
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.checks import positive_integer
from .._core.random import draw_key, stream
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..distributions import Gaussian, GaussianMixture
from ..fields.base import Field, check_field
from ..gaussian_part import ConversionError
from ..likelihood import log_likelihood
from ..metrics import evaluate
from ..oracles import GaussianMixtureOracle
from ..oracles.components import components_of
from ..samplers import sample
from ..transforms import Standardize
from .exam_report import ExamReport, ExamRow

__all__ = ["exam"]

_METRICS = ("mean error", "covariance error", "energy distance", "W2")
_FINE = 400  # RK4 steps of the exact ends
_NODES = 12  # times
_SETS = 4  # of draws of the law, whose mean distance is told
_NONE = math.nan


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
    key, rows = draw_key(generator), list[ExamRow]()
    exact = _oracle(field, law)
    how: dict[str, Any] = {"steps": count, "scheme": "heun", "cond": cond}
    t = torch.empty(0, dtype=torch.float64)
    errors: dict[str, tuple[Tensor, Tensor]] = {}
    if isinstance(exact, str):
        rows.append(ExamRow("fields", "velocity", _NONE, note=exact))
    else:
        t, errors = _by_time(field, exact, n, margin, cond, key)
        for name, (squares, sizes) in errors.items():
            whole = squares.sum() / sizes.sum() if name == "velocity" else (squares / sizes).mean()
            rows.append(ExamRow("fields", name, float(whole.sqrt()), 0.0))
    rows += _law(field, law, n, epsilon, how, key)
    rows += _density(field, exact, law, densities, cond, key)
    if not isinstance(exact, str):
        rows.append(_ends(field, exact, law, n, how, key))
    rows += _cost(field, n, how, key)
    curves = [
        (squares / sizes).sqrt() if len(squares) else squares
        for squares, sizes in (errors.get(k, (t[:0], t[:0])) for k in ("velocity", "score"))
    ]
    return ExamReport(tuple(rows), t, *curves)


def _oracle(field: Field, law: Gaussian | GaussianMixture) -> GaussianMixtureOracle | str:
    """The exact field in the units of the network, or why there is none."""
    weights, means, covariances = components_of(law, "law")
    means = means.view(-1, *law.shape)
    if isinstance(field.transform, Standardize):
        scale = field.transform.scale.to(means).expand(law.shape).flatten()
        means = field.transform(means)
        covariances = covariances / (scale[:, None] * scale)
    inner = GaussianMixture(means, weights=weights, covariances=covariances, singular=True)
    try:
        exact = GaussianMixtureOracle(field.process, inner)
    except (TypeError, ValueError) as reason:
        return f"no closed form: {reason}"
    return exact.to(field.reference().device)


def _by_time(
    field: Field,
    exact: GaussianMixtureOracle,
    n: int,
    margin: float,
    cond: Mapping[str, Any] | None,
    key: int,
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Times, and for velocity and score the mean squares of errors and of the exact values."""
    like = field.reference()
    known = field.check_conditions(cond, n, device=like.device)
    grid = torch.linspace(margin, 1 - margin, _NODES, dtype=torch.float64)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("velocity", "score")}
    for k, t in enumerate(grid.to(like)):
        x = exact.sample(t, n, generator=stream(key, k, device=like.device), dtype=like.dtype)
        for name, pairs in found.items():
            try:
                given = getattr(field, name)(t, x, known)
            except ConversionError:
                continue
            truth = getattr(exact, name)(t, x)
            parts = (sum_events(part.double().square()).mean() for part in (given - truth, truth))
            pairs.append((float(next(parts)), float(next(parts))))
    return grid, {
        name: tuple(torch.tensor(pairs, dtype=torch.float64).mT.unbind())  # type: ignore[misc]
        for name, pairs in found.items()
        if len(pairs) == _NODES
    }


def _law(
    field: Field, law: Gaussian | GaussianMixture, n: int, epsilon: float, how: dict[str, Any],
    key: int,
) -> list[ExamRow]:  # fmt: skip
    """Distances at the end, by the ODE and by the SDE, each beside its floor."""
    like, rows = field.reference(), list[ExamRow]()
    draws = stream(key, 100)
    truth = [law.sample(2 * n, generator=draws, dtype=like.dtype) for _ in range(_SETS)]
    for name, eps in (("ODE", 0.0), ("SDE", epsilon)):
        part = f"law, {name}"
        try:
            x = sample(field, n, epsilon=eps, generator=stream(key, 101), **how).x
        except ConversionError as reason:
            rows.append(ExamRow(part, name, _NONE, note=f"not sampled: {reason}"))
            continue
        tables = [
            evaluate(x, of.to(x.device), list(_METRICS), generator=stream(key, 102 + k)).rows
            for k, of in enumerate(truth)
        ]
        note = "" if eps == 0 else f"ε = {eps:g}"
        for same in zip(*tables, strict=True):
            value, floor = (
                statistics.mean(getattr(row, kind) for row in same) for kind in ("value", "floor")
            )
            rows.append(ExamRow(part, f"{same[0].name}, {name}", value, floor, note))
    return rows


def _density(
    field: Field,
    exact: GaussianMixtureOracle | str,
    law: Gaussian | GaussianMixture,
    count: int,
    cond: Mapping[str, Any] | None,
    key: int,
) -> list[ExamRow]:
    """Errors of log-densities in nats."""
    if count == 0:
        return []
    like = field.reference()
    x = law.sample(count, generator=stream(key, 110), dtype=like.dtype).to(like.device)
    truth, floors = law.log_prob(x.double()), (_NONE, _NONE)
    try:
        found = log_likelihood(field, x, cond=cond).log_prob
    except (ConversionError, TypeError, ValueError) as reason:
        return [ExamRow("density", "log-density", _NONE, note=f"has none: {reason}")]
    if not isinstance(exact, str):
        inside = x if field.transform is None else field.transform(x)
        gained = 0.0 if field.transform is None else field.transform.log_abs_det(law.shape)
        best = truth - gained - log_likelihood(exact, inside).log_prob
        floors = float(best.abs().mean()), abs(float(best.mean()))
    off = truth - found
    error = float(off.std()) / math.sqrt(count)
    return [
        ExamRow("density", "log-density", float(off.abs().mean()), floors[0], "nats"),
        ExamRow("density", "KL", float(off.mean()), floors[1], f"nats, standard error {error:.2g}"),
    ]


def _ends(
    field: Field,
    exact: GaussianMixtureOracle,
    law: Gaussian | GaussianMixture,
    n: int,
    how: dict[str, Any],
    key: int,
) -> ExamRow:
    """Where the ODE takes starts, beside where it should."""

    def end(of: Field, **how: Any) -> Tensor:
        x = sample(of, n, dtype=field.reference().dtype, generator=stream(key, 120), **how).x
        return x if of is field or field.transform is None else field.transform.invert(x)

    truth = end(exact, steps=_FINE, scheme="rk4")
    best = end(exact, steps=how["steps"], scheme=how["scheme"])
    weights, means, covariances = components_of(law, "law")
    apart = (means - weights @ means).square() + covariances.diagonal(dim1=1, dim2=2)
    scale = float((weights @ apart).mean().sqrt())
    value, floor = (
        float((x.double() - truth.double()).square().mean().sqrt()) / scale
        for x in (end(field, **how), best)
    )
    return ExamRow("ends", "ends", value, floor, "over the deviation of the data")


def _cost(field: Field, n: int, how: dict[str, Any], key: int) -> list[ExamRow]:
    """Calls, and the time of one, by the clock."""
    began = time.perf_counter()
    solution = sample(field, n, generator=stream(key, 130), **how)
    float(solution.x.sum())  # wait for a device
    each = (time.perf_counter() - began) / (solution.nfe * n)
    return [
        ExamRow("cost", "calls", float(solution.nfe), note="of the field, for a sample by the ODE"),
        ExamRow("cost", "time of a call", each * 1e6, note="µs a row, the solver included"),
    ]
