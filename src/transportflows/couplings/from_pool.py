"""A plan from a pool of x0 to whole data: exact, entropic or unbalanced, within each label."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plans import (
    ConvergenceWarning,
    EntropicPlan,
    UnbalancedPlan,
    entropic_plan,
    exact_plan,
    unbalanced_plan,
)
from .known_rows import KnownRows
from .partners import SparsePartners, TablePartners, partner_count, quantiles
from .solved import PlanReport, Pool, Solved, spread

__all__ = ["solve_pool"]

_PAIRS = 200_000_000  # of an exact plan, at 40 bytes each
_PIVOTS = 1_000_000_000


@dataclass(frozen=True, eq=False)
class _Part:
    """The plan of one label."""

    value: float
    gap: float
    violation: float
    x0_mass: Tensor
    x1_mass: Tensor
    f: Tensor
    pairs: tuple[Tensor, Tensor, Tensor] | None = None


def solve_pool(
    pool: Pool,
    y: Tensor,
    rows: KnownRows,
    groups: list[Tensor],
    *,
    epsilon: float,
    penalty: float | None,
    tolerance: float,
    max_steps: int,
) -> Solved:
    """Solve from a pool to the different rows of x1, within each label.

    Args:
        pool: of x0, its points about the origin.
        y: points of the different rows, ``(U, D)``, about the same.
        rows: these rows, with their weights.
        groups: the places of each label among them.
        epsilon: ε; 0 for the exact plan.
        penalty: ρ of unbalanced transport, or None.
        tolerance: of marginals.
        max_steps: of the solvers.

    Raises:
        RuntimeError: if the plan did not converge.
        ValueError: if the points are too many for an exact plan, or ε is too small for them.
    """
    q = rows.weights
    kind = "exact" if epsilon == 0 else "entropic" if penalty is None else "unbalanced"
    x0_mass = torch.zeros(pool.count, dtype=torch.float64, device=y.device)
    row_mass = torch.zeros_like(q)
    count = partner_count(len(rows), len(pool.at))
    table = torch.empty(0) if kind == "exact" else torch.empty(
        len(rows), count, dtype=torch.int32, device=y.device
    )  # fmt: skip
    sums, violation, sparse = [0.0, 0.0], 0.0, []
    potentials: list[Tensor | None] = [None] * len(groups)
    label_of = torch.zeros(len(rows), dtype=torch.int64, device=y.device)
    for k, group in enumerate(groups):
        label_of[group] = k
        share = q[group].sum()
        some = group[q[group] > 0]
        if float(share) == 0:
            continue
        part = _of_label(
            pool, y[some], q[some] / share, kind, epsilon, penalty, tolerance, max_steps
        )
        x0_mass[pool.at] += share * part.x0_mass
        row_mass[some] = share * part.x1_mass
        sums = [sums[0] + float(share) * part.value, sums[1] + float(share) * part.gap]
        violation, potentials[k] = max(violation, part.violation), part.f
        if part.pairs is not None:
            at0, at1, mass = part.pairs
            sparse.append((some[at1], pool.at[at0], share * mass))
        else:
            found = quantiles(y[group], pool.points, part.f, pool.p, epsilon, count, k)
            table[group] = pool.at[found.long()].to(torch.int32)
    partners: TablePartners | SparsePartners
    if kind == "exact":
        columns, taken, mass = (torch.cat(each) for each in zip(*sparse, strict=True))
        partners = SparsePartners(len(rows), columns, taken, mass)
    else:
        partners = TablePartners(table)
    report = PlanReport(
        kind, epsilon, sums[0], sums[1], violation, 0.0, x0_mass, spread(row_mass, rows)
    )
    centre = y.new_zeros(y.shape[1])
    share = row_mass / row_mass.sum()
    return Solved(report, share, partners, label_of, (), centre, pool, tuple(potentials))


def _of_label(
    pool: Pool,
    y: Tensor,
    q: Tensor,
    kind: str,
    epsilon: float,
    penalty: float | None,
    tolerance: float,
    max_steps: int,
) -> _Part:
    x, p = pool.points, pool.p
    if kind == "exact":
        if len(x) * len(y) > _PAIRS:
            raise ValueError(
                f"an exact plan of {len(x):,} and {len(y):,} rows takes"
                f" {len(x) * len(y) * 40e-9:.0f} GB; give a regularisation, with which pairs are"
                " not held, such as 0.05 of the mean of |x0 - x1|²; or fewer rows"
            )
        distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").cpu()
        plan = exact_plan(distances, p.cpu(), q.cpu(), max_iterations=_PIVOTS)
        pairs = plan.rows.to(y.device), plan.columns.to(y.device), plan.mass.to(y)
        cost = plan.distance**2
        brought = torch.zeros_like(q).index_add_(0, pairs[1], pairs[2])
        taken = torch.zeros_like(p).index_add_(0, pairs[0], pairs[2])
        off = float((brought - q).abs().sum())
        assert plan.x_potential is not None
        f = plan.x_potential.to(y)
        return _Part(cost * (1 - plan.gap), cost * plan.gap, off, taken, q, f, pairs)
    found: EntropicPlan | UnbalancedPlan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # refused below instead
        if penalty is None:
            taken, brought = p, q
            found = entropic_plan(
                x, y, p, q, epsilon=epsilon, tolerance=tolerance, max_steps=max_steps
            )
        else:
            found = unbalanced_plan(
                x,
                y,
                p,
                q,
                epsilon=epsilon,
                penalty=penalty,
                tolerance=tolerance,
                max_steps=max_steps,
            )
            taken, brought = found.x_mass, found.y_mass
    if not found.converged:
        raise RuntimeError(
            f"the plan at regularisation = {epsilon:g} did not converge: after {found.steps} steps"
            f" its marginals are {found.violation:.2g} off, beyond tolerance={tolerance:g}, and a"
            " plan that has not converged is not used; give a larger regularisation, max_steps or"
            " tolerance"
        )
    return _Part(found.value, found.gap, found.violation, taken, brought, found.x_potential)
