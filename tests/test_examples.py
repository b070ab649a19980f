"""The README's code and the scripts of examples/, run as a reader would, only shorter."""

import contextlib
import io
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHORTER = {
    "50_000": "600",
    "10_000": "200",
    "4_000": "300",
    "5_000": "4",
    "1_024": "64",
    "[:500]": "[:20]",
    "steps=100": "steps=8",
}


def test_the_code_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    code = "\n".join(blocks)
    for long, short in SHORTER.items():
        assert long in code, long
        code = code.replace(long, short)
    exec(compile(code, "README.md", "exec"), {})


def test_the_two_commands_open_the_readme():
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"```sh\n(.*?)\n```", text, re.DOTALL)
    assert commands == [
        "pip install '.[examples]' && python examples/quickstart.py",
        "pip install -c constraints.txt -e '.[test]' && pytest -n auto --dist loadfile",
    ]


SCRIPT = ROOT / "examples" / "quickstart.py"
STEPS = 500  # of 6,000


def rows(text: str) -> dict[str, float]:
    """W2 by the name of the row, of the table that it prints."""
    table = re.finditer(r"^(\S.*?)\s{2,}([\d.]+)\s+-?[\d.]+$", text, re.MULTILINE)
    return {row[1].strip(): float(row[2]) for row in table}


def assert_better_than_shuffled(found: dict[str, float], floor: float = 0.7, most: float = 0.9):
    shuffled = found["pixels shuffled between digits"]
    samples = [value for name, value in found.items() if name.startswith("samples")]
    assert len(samples) == 4
    assert found["training digits (floor)"] < floor * shuffled
    assert max(samples) < most * shuffled


@pytest.fixture(scope="module")
def of_the_script(tmp_path_factory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("script")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.chdir(folder)
        runpy.run_path(str(SCRIPT))["main"](steps=STEPS)
    assert (folder / "quickstart.png").stat().st_size > 10_000
    return rows(printed.getvalue())


@pytest.mark.timeout(280)
def test_quickstart_beats_shuffled_pixels(of_the_script):
    assert_better_than_shuffled(of_the_script)
