"""The house: a module imports only from those above it, no two import each other, and few others.

Every import is read, also those in functions and for type checkers alone.
"""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import transportflows as tpf

ROOT = Path(tpf.__file__).parent
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HOUSE = """
    _core
    transforms observations
    plans interpolants distributions combination
    couplings gaussian_part
    noise_level conversions draws
    times
    process
    sdes fields
    oracles losses solve
    samplers
    training
    langevin likelihood particles guidance bridges maps
    inverse
    metrics networks datasets plots
    estimators
    testing
    exam
"""
"""A folder or file of the library imports from rows above its own, and from no other of its row."""
ROW = {name: k for k, row in enumerate(HOUSE.strip().splitlines()) for name in row.split()}
OUTSIDE = {"torch", "numpy", "scipy", "ot", "torchdiffeq", "tqdm"}
LAZY = {
    "sklearn",
    "matplotlib",
    "safetensors",
    "PIL",
    "mlxtend",
    "huggingface_hub",
}  # in a function, with a message naming the extra


@pytest.fixture(scope="module")
def read():
    """The reader of the source, by its root: ``read(root).imports``."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("_house_source").Source
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def source(read):
    return read(ROOT)


def room(module):
    """The folder or file of the library that a module is, or is in; the package itself is ""."""
    return module.partition(".")[2].partition(".")[0]


def upward(imports):
    """Imports of a room that is not above, and of the package itself, which is below them all."""
    return sorted(
        f"{module} imports {other}"
        for module, others in imports.items()
        for other in others
        if room(module) and room(module) != room(other)
        if not room(other) or ROW[room(other)] >= ROW[room(module)]
    )


def test_every_room_has_a_row(source):
    assert {room(module) for module in source.imports} - {""} == set(ROW)


def test_imports_go_one_way(source):
    assert not upward(source.imports)


def test_no_module_imports_itself_by_way_of_others(source):
    """Strongly connected components: within a folder too, and by way of a package's own names."""
    assert not source.circles


@pytest.mark.parametrize(
    "line",
    [
        "from ..samplers import sample",
        "from ..samplers.sample import sample",
        "from .. import samplers",
        "from transportflows.samplers import sample",
        "import transportflows.samplers",
        "import transportflows",
        "import transportflows as tpf",
        "from transportflows import sample",
        "from .. import sample",
    ],
)
@pytest.mark.parametrize(
    "place",
    [
        "{}",
        "def f():\n    {}",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {}",
        "class A:\n    def f(self):\n        if self:\n            {}",
    ],
)
def test_an_import_upward_is_seen(tmp_path, read, place, line):
    """A small house in which the process imports from the samplers."""
    root = tmp_path / "transportflows"
    files = {
        "__init__.py": "from .samplers import sample",
        "process/__init__.py": "from .law import Law",
        "process/law.py": place.format(line),
        "samplers/__init__.py": "from .sample import sample",
        "samplers/sample.py": "from ..process import Law",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    found = read(root)
    assert len(upward(found.imports)) == 1
    assert len(found.circles) == 1


def test_few_other_packages_are_imported():
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                top = name.partition(".")[0]
                allowed = OUTSIDE | LAZY | set(sys.stdlib_module_names) | {"transportflows"}
                assert top in allowed, f"{path}: {top}"
                assert top not in LAZY or node.col_offset > 0, f"{path}: {top} at import"


def test_importing_draws_nothing_and_needs_no_extra():
    code = (
        "import sys, torch; torch.manual_seed(0); s = torch.random.get_rng_state();"
        "import transportflows;"
        "assert torch.equal(s, torch.random.get_rng_state());"
        "bad = {'matplotlib', 'sklearn', 'pytest', 'sphinx', 'tensorboard'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
