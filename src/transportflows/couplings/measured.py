"""How far a plan that sees a condition of numbers moves the base with it: measured, not assumed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows, as_tensor
from .._core.checks import check_finite_rows, number, plain_tensor, positive_integer
from .._core.precision import wide
from .._core.random import draw_key, stream
from .._core.reprs import summary
from .._core.signatures import checked
from ..distributions import as_distribution
from .transport import MinibatchOT

__all__ = ["ConditionWeight", "condition_weight"]

_CELLS = 32


@checked
@dataclass(frozen=True)
class ConditionWeight:
    """Weights that were tried, what they cost, and the one that keeps to the budget.

    Attributes:
        weight: the smallest weight whose bias is within the budget; ``math.inf``, which pairs
            independently of the condition, where none is.
        weights: that were tried, growing, with ``math.inf`` last.
        bias: root mean square of ``E[x0 | c] - E[x0]`` over the standard deviation of the base, one
            for each weight, up to the spread that ``math.inf``, which has none, shows.
        length: root mean square of ``|x1 - x0|``, over that of the independent coupling.

    Example:
        >>> import transportflows as tpf
        >>> seed = torch.Generator().manual_seed(0)
        >>> c = torch.rand(200, 1, generator=seed)
        >>> law, how = tpf.Gaussian((1,)), {"batch_size": 50, "batches": 4, "budget": 1e-9}
        >>> tried = condition_weight(4 * c, c, law, weights=(1.0,), generator=seed, **how)
        >>> tried.weight, tried.bias[0] > 0.3  # a plan that sees c little pairs x0 with c
        (inf, True)
    """

    weight: float
    weights: tuple[float, ...]
    bias: tuple[float, ...]
    length: tuple[float, ...]

    __repr__ = summary


@checked
def condition_weight(
    x1: DataLike,
    c: DataLike,
    base: Any,
    *,
    budget: float = 0.05,
    weights: Sequence[float] = (1.0, 10.0, 100.0, 1_000.0),
    batch_size: int = 256,
    batches: int = 40,
    method: str = "exact",
    generator: torch.Generator | None = None,
) -> ConditionWeight:
    r"""Measure what the ``condition_weight`` of :class:`MinibatchOT` does to ``E[x0 | c]``.

    Batches are paired as in training. The rows are put into cells of c, those nearest to some rows
    drawn at random, and the squares of the cells' means of x0 are averaged, each less the variance
    of a mean: ``Σ_j (n_j/N) (|μ_j - μ|² - v_j/n_j)``, of mean 0 where x0 does not depend on c.

    Args:
        x1: data, ``(N, *)``, in the units of the process.
        c: the condition, ``(N, *)``.
        base: the law of x0.
        budget: the largest bias, over the standard deviation of the base.
        weights: to try.
        batch_size: rows of a batch: that of the training, which the bias depends on.
        batches: how many.
        method: of :class:`MinibatchOT`.
        generator: source of randomness.

    Raises:
        ValueError: if x1 and c have other numbers of rows, or fewer than a batch.

    Example:
        >>> import transportflows as tpf
        >>> seed = torch.Generator().manual_seed(0)
        >>> c = torch.rand(500, 1, generator=seed)
        >>> x1, how = torch.cat([4 * c, torch.zeros(500, 1)], 1), {"batch_size": 50, "batches": 4}
        >>> tried = condition_weight(x1, c, tpf.Gaussian((2,)), generator=seed, **how)
        >>> tried.weights[-1], tried.length[-1]
        (inf, 1.0)
    """
    x1 = as_rows("x1", x1)
    c = as_tensor("c", c, like=x1)
    check_finite_rows(x1, "x1")
    plain_tensor("c", c)
    if c.is_floating_point() and not bool(c.isfinite().all()):
        raise ValueError("c holds NaN or infinities; drop these rows")
    positive_integer("batch_size", batch_size)
    positive_integer("batches", batches)
    number("budget", budget, "a bias, 0 or positive", least=0)
    if c.ndim == 0 or len(c) != len(x1) or len(x1) < batch_size:
        raise ValueError(
            f"there are {len(x1)} rows of x1 and {0 if c.ndim == 0 else len(c)} of c for batches of"
            f" {batch_size}; give as many of both, and at least one batch"
        )
    law, key = as_distribution(base, x1.shape[1:]), draw_key(generator)
    tried = (*sorted(float(weight) for weight in weights if weight < math.inf), math.inf)
    bias, length = [], []
    for weight in tried:
        coupling = MinibatchOT(method, condition_weight=weight)
        x0, seen, square = [], [], 0.0
        for k in range(batches):
            draws = stream(key, k, device=x1.device)
            rows = torch.randperm(len(x1), generator=draws, device=x1.device)[:batch_size]
            start = law.sample(batch_size, generator=draws, dtype=x1.dtype, device=x1.device)
            a, b = coupling.pair(start, x1[rows], {"c": c[rows]}, generator=draws)
            x0.append(wide(a.flatten(1)))
            seen.append(wide(c[rows].reshape(batch_size, -1)))
            square += float((a - b).double().square().sum())
        bias.append(_bias(torch.cat(x0), torch.cat(seen), key))
        length.append(math.sqrt(square / (batches * batch_size)))
    within = [weight for weight, off in zip(tried, bias, strict=True) if off <= budget]
    shares = tuple(one / length[-1] for one in length)
    return ConditionWeight(min(within, default=math.inf), tried, tuple(bias), shares)


def _bias(x0: Tensor, c: Tensor, key: int) -> float:
    """The root mean square of ``E[x0 | c] - E[x0]``, over the standard deviation of x0."""
    c = c / c.std(0).clamp(min=1e-300)
    some = torch.randperm(len(c), generator=stream(key, -1, device=c.device), device=c.device)
    cell = torch.cdist(c, c[some[:_CELLS]]).argmin(1)
    found, centre = 0.0, x0.mean(0)
    for j in range(_CELLS):
        rows = x0[cell == j]
        if len(rows) < 2:
            continue
        off = (rows.mean(0) - centre).square().sum() - rows.var(0).sum() / len(rows)
        found += float(off) * len(rows) / len(x0)
    return math.sqrt(max(found, 0.0) / float(x0.var(0).sum()))
