"""The pins: one for each package on each Python that is declared, and the oldest as declared."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
MINORS = ["3.10", "3.11", "3.12", "3.13", "3.14"]  # the Pythons on which all pins exist


def pins(file):
    lines = (ROOT / file).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def declared():
    """The requirements of pyproject.toml, read as text, since Python 3.10 has no tomllib."""
    return [
        Requirement(line)
        for line in re.findall(r'"([A-Za-z][\w.-]*(?:>=|==)[^"]+)"', _project_tables())
    ]


def _project_tables():
    text = (ROOT / "pyproject.toml").read_text()
    return text[text.index("dependencies = [") : text.index("[tool.")]


def version(requirement):
    (only,) = requirement.specifier
    assert only.operator == "==", requirement
    return Version(only.version)


@pytest.mark.parametrize("minor", MINORS)
def test_each_package_has_one_pin_on_each_python(minor):
    environment = {"python_version": minor, "python_full_version": minor + ".0"}
    counted = {}
    for pin in pins("constraints.txt"):
        holds = pin.marker is None or pin.marker.evaluate(environment)
        counted[pin.name] = counted.get(pin.name, 0) + holds
    assert {name: count for name, count in counted.items() if count != 1} == {}


def test_the_oldest_declared_python_is_among_them():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'requires-python = ">={MINORS[0]}"' in text


def test_the_minimum_environment_has_the_declared_minimum():
    """Of a release that is older than what is declared, or newer, nothing would be said."""
    minimum = {pin.name.lower(): version(pin) for pin in pins("constraints-minimum.txt")}
    lowest = {}
    for requirement in declared():
        for bound in requirement.specifier:
            if bound.operator == ">=":
                lowest[requirement.name.lower()] = Version(bound.version)
    assert {"torch", "numpy", "scipy", "pot", "torchdiffeq", "tqdm"} <= minimum.keys()
    for name, pinned in minimum.items():
        # The first release of a declared minor may not exist for a Python (scipy 1.11.0).
        assert pinned.release[:2] == lowest[name].release[:2], name
        assert pinned >= lowest[name], name
