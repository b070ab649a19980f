"""A small campaign of malformed calls: refused by the library, never by torch, and no NaN."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def calls() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("_campaign_calls")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_malformed_calls_are_refused(calls: Any) -> None:
    lines: list[str] = []
    found = calls.campaign(2, 700, lines.append)
    total = sum(found.values()) - found["by shapes"]
    assert found["hang"] == 0, lines
    assert found["nan"] == 0, lines
    assert found["raw"] <= 0.01 * total, lines
    assert found["candidate"] <= 0.01 * total, lines
    assert found["refused"] > 0.4 * total


@pytest.mark.parametrize(
    ("function", "replaced", "kind"),
    [
        ("tpf.VP", {"beta_min": "'1e-3'"}, "refused"),
        ("tpf.sample", {"generator": "0"}, "refused"),
        ("tpf.metrics.mmd2", {"x": "tensor (12, 3)"}, "refused"),
        ("tpf.metrics.mmd2", {"x": "tensor (12, 2) 1e30"}, "accepted"),
    ],
)
def test_outcomes(calls: Any, function: str, replaced: dict[str, str], kind: str) -> None:
    target = next(t for t in calls.targets() if t.function == function)
    attack = calls.Attack(target, tuple(replaced.items()))
    assert calls.outcome(attack).kind == kind
    assert calls.outcome(calls.Attack(target, change="a wrong keyword")).kind == "python"
