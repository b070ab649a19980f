"""Sweeps over conditions: one start and one noise, several conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._core.random import draw_key, stream
from .._core.signatures import checked
from ..fields.base import Field
from ..solve.solution import Solution
from .sample import sample

__all__ = ["sample_each"]


@checked
def sample_each(
    field: Field,
    conds: Sequence[Mapping[str, Any]],
    n: int | None = None,
    *,
    generator: torch.Generator | None = None,
    **how: Any,
) -> Solution:
    """Sample a field under each of K conditions, with common random numbers.

    Row i has the same start and the same noise under all of them, so what differs between
    ``x[0, i]`` and ``x[1, i]`` is what the condition makes.

    Args:
        field: see :func:`sample`.
        conds: K mappings, each as ``cond=`` of :func:`sample`: one condition for all rows, or one a
            row. Of a field that was trained with ``drop_cond``, ``{}`` is none.
        n: number of samples under each; may be left out where ``start=`` is a tensor.
        generator: source of randomness; one key is drawn from it.
        **how: of :func:`sample`: ``epsilon`` (one), ``scheme``, ``steps``, ``start`` and others.

    Returns:
        A solution with x ``(K, n, *)``, and a trajectory ``(S, K, n, *)`` if one was asked for.

    Raises:
        TypeError: if ``conds`` is no sequence of mappings.
        ValueError: if there are none, or several epsilons.

    Example:
        >>> import transportflows as tpf
        >>> net = tpf.networks.MLP(2, width=8, labels=3)
        >>> field = tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
        >>> classes = [{"label": torch.full((5,), k)} for k in range(3)]
        >>> sample_each(field, classes, 5, steps=4).x.shape
        torch.Size([3, 5, 2])
    """
    if not conds:
        raise ValueError("conds is empty; give at least one mapping")
    epsilon = how.get("epsilon", 0.0)
    if isinstance(epsilon, (list, tuple)) or getattr(epsilon, "ndim", 0) > 0:
        raise ValueError(
            "a sweep over conditions takes one epsilon, got a sequence; call it once for each"
        )
    if "cond" in how:
        raise ValueError("give the conditions of each solve in conds, and no cond=")
    key = draw_key(generator)
    solutions = [sample(field, n, cond=cond, generator=stream(key), **how) for cond in conds]
    if len({len(solution.t) for solution in solutions}) > 1:
        raise ValueError(
            "the solves have other times, since a hook ended them at different steps (or an"
            " adaptive scheme was saved on its own steps); sample them one by one"
        )
    paths: list[Tensor] = [s.trajectory for s in solutions if s.trajectory is not None]
    return replace(
        solutions[0],
        x=torch.stack([solution.x for solution in solutions]),
        trajectory=torch.stack(paths, 1) if paths else None,
        nfe=max(solution.nfe for solution in solutions),
        limited=next((s.limited for s in solutions if s.limited), None),
    )
