"""The house: results equal to those before its restructuring, and the limits of its structure."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def house():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("house")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def before(house):
    return house.load(house.BEFORE)


@pytest.fixture(scope="module")
def structure(house):
    return house.measure()


def test_results_are_those_before(house, before):
    """The quick entries of the record, in float64 on the same seeds."""
    if torch.__version__.split("+")[0] != before["torch"].split("+")[0]:
        pytest.skip(f"recorded with torch {before['torch']}: another one may draw differently")
    names = [name for name in house.ENTRIES if name not in before["slow"]]
    now = house.record(names)["numbers"]
    found = house.compare(before["numbers"], now)
    changed = {n: (d, now[n].get("error")) for n, d in found.items() if not d <= house.TOLERANCE}
    assert changed.keys() <= house.REASONS.keys(), changed
    assert all(error is None for _, error in changed.values())


def test_no_entry_of_the_record_is_gone(house, before):
    assert before["numbers"].keys() == house.ENTRIES.keys()


def test_a_change_shows(house):
    """A relative change of 1e-11 in one element, a NaN, another shape, an error."""
    x = torch.linspace(-2, 2, 80, dtype=torch.float64).view(40, 2)
    record = {"a": house.reduced({"x": x, "word": "w"})}
    for other in (
        house.reduced({"x": torch.where(x == x[3, 1], x * (1 + 1e-10), x), "word": "w"}),
        house.reduced({"x": torch.where(x == x[3, 1], torch.nan, x), "word": "w"}),
        house.reduced({"x": x[:2, 0], "word": "w"}),
        house.reduced({"x": x, "word": "v"}),
        {"error": "ValueError: no"},
    ):
        assert house.compare(record, {"a": other})["a"] > house.TOLERANCE
    assert house.compare(record, {"a": house.reduced({"x": x.clone(), "word": "w"})}) == {"a": 0.0}


LIMITED = [
    "fit: frames",
    "sample: frames",
    "forwarding",
    "long functions",
    "long files",
    "step loops",
    "weighed",
    "deltas",
    "circles",
    "names",
    "import seconds",
]


@pytest.mark.parametrize("what", LIMITED)
def test_the_structure_is_within_its_limits(house, structure, what):
    description, limit = house.LIMITS[what]
    found = structure[what]
    assert house.count(found) <= limit, f"{description}: {found}"


def test_what_is_limited_is_tested(house):
    limited = {name for name, (_, limit) in house.LIMITS.items() if limit < float("inf")}
    assert limited - house.FALLS_SHORT.keys() == set(LIMITED)
