"""Is this field right?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.signatures import checked
from ..conversions import QUANTITIES
from ..fields.base import Field
from ..gaussian_part import ConversionError
from .report import Report

__all__ = ["check_field"]


@checked
def check_field(
    field: Field,
    x: Tensor,
    *,
    cond: Mapping[str, Any] | None = None,
    oracle: Field | None = None,
    tolerance: float = 1e-4,
) -> Report:
    """Check a field: shapes, times, rows that do not see each other, agreement with an oracle.

    Args:
        field: to check, in evaluation mode.
        x: some states, ``(B, *)`` with B ≥ 2.
        cond: conditions for the network, tensors of B rows.
        oracle: an exact field of the same process, to compare every quantity with.
        tolerance: relative to the size of the value, in the comparisons.

    Raises:
        ValueError: if there are fewer than two states to try it on.
        CheckError: with all that is wrong.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> exact = tpf.oracle(process, tpf.Gaussian((2,), 3.0))
        >>> print(check_field(exact, torch.eye(2), oracle=exact))
        GaussianMixtureOracle: 0 problems, 0 notes
        >>> mixed = tpf.Velocity(lambda t, x: x - x.mean(0), process)  # a row sees the others
        >>> try:
        ...     check_field(mixed, torch.eye(2))
        ... except AssertionError as error:
        ...     print("rows are not independent" in str(error))
        True
    """
    report, cond = Report(type(field).__name__), dict(cond or {})
    if x.ndim < 2 or x.shape[0] < 2:
        raise ValueError(f"give at least 2 states, (B, *); got shape {tuple(x.shape)}")
    t = torch.full((x.shape[0],), 0.4).to(x)

    def outputs(times: Tensor, states: Tensor) -> tuple[Tensor, ...]:
        value = field(times, states, cond)
        return value if isinstance(value, tuple) else (value,)

    try:
        with torch.no_grad():
            one, many = outputs(t[0], x), outputs(t, x)
            later = outputs(t + 0.3, x)
            moved = x.clone()
            moved[0] += 1
            other = outputs(t, moved)
    except Exception as error:  # whatever the network raises is a finding
        report.problems.append(f"calling the field raised {type(error).__name__}: {error}")
        return report.settle()
    for k, name in enumerate(field.outputs):
        size = many[k].abs().max().clamp(min=1e-30)
        if not bool(torch.isfinite(many[k]).all()):
            report.problems.append(f"{name} is not finite")
        elif float((one[k] - many[k]).abs().max() / size) > tolerance:
            report.problems.append(
                f"broken broadcast: {name} differs between t of shape () and the same time as (B,)"
            )
        if float((other[k][1:] - many[k][1:]).abs().max() / size) > tolerance:
            report.problems.append(
                f"rows are not independent: moving row 0 changes {name} of others (batch"
                " normalisation in training mode?)"
            )
        if torch.equal(later[k], many[k]):
            report.notes.append(f"{name} does not depend on time")
    if oracle is not None:
        _compare(report, field, oracle, x, cond, tolerance)
    return report.settle()


def _compare(
    report: Report, field: Field, oracle: Field, x: Tensor, cond: dict[str, Any], tolerance: float
) -> None:
    for time in (0.1, 0.35, 0.5, 0.8):
        t = torch.as_tensor(time).to(x)
        for name in QUANTITIES:
            try:
                with torch.no_grad():
                    given, exact = getattr(field, name)(t, x, cond), getattr(oracle, name)(t, x)
            except ConversionError:
                continue
            error = float((given - exact).abs().max() / exact.abs().max().clamp(min=1e-30))
            if not error <= tolerance:
                ratio = float((given * exact).sum() / exact.square().sum())
                report.problems.append(
                    f"{name} differs from the oracle at t = {time} by {error:.3g} of its size (its"
                    f" projection on the exact one is {ratio:.3g} times it)"
                )
