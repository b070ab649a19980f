"""The README's code, the quickstart and its notebook, run as a reader would, only shorter."""

import ast
import contextlib
import io
import re
import runpy
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
SHORTER = {
    "50_000": "600",
    "10_000": "200",
    "5_000": "4",
    "2_000": "150",
    "1_024": "64",
    "1_000": "50",
    "steps=100": "steps=8",
    "steps=200": "steps=8",
}


def test_the_code_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 6
    code = "\n".join(blocks)
    for long, short in SHORTER.items():
        assert long in code, long
        code = code.replace(long, short)
    exec(compile(code, "README.md", "exec"), {})


def test_the_two_commands_open_the_readme():
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"```sh\n(.*?)\n```", text, re.DOTALL)
    assert commands == [
        "pip install -c constraints.txt -e '.[examples]' && python examples/quickstart.py",
        "pip install -c constraints.txt -e '.[test]' && pytest -n auto --dist loadfile",
    ]


SCRIPT = ROOT / "examples" / "quickstart.py"
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
STEPS = 500  # of the 6,000 of both


def rows(text: str) -> dict[str, float]:
    """W2 by the name of the row, of the table that both print."""
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


def test_notebook_and_script_are_twins():
    """The notebook's code is the script's, in its order, without what only a script needs."""
    tree = ast.parse(SCRIPT.read_text())
    main = next(node for node in tree.body if getattr(node, "name", "") == "main")
    top = [node for node in tree.body if node is not main]
    only_script = ("import time", "matplotlib.use(", "import matplotlib\n", "if __name__")
    script = [ast.unparse(node) for node in top[1:]]  # without the docstring
    script = [code for code in script if not f"{code}\n".startswith(only_script)]
    defaults = dict(zip([a.arg for a in main.args.args], main.args.defaults, strict=True))
    body = [ast.unparse(node) for node in main.body[1:]]
    body = [code for code in body if "perf_counter" not in code]  # how long it took
    body += [f"{name} = {ast.unparse(value)}" for name, value in defaults.items()]

    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    notebook = [ast.unparse(node) for cell in cells for node in ast.parse(cell.source).body]
    assert sorted(notebook) == sorted(script + body)
    steps = [code for code in notebook if code in body[:-1]]
    assert steps == body[:-1]


def test_the_notebook_is_committed_as_it_ran():
    notebook = nbformat.read(NOTEBOOK, 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    text = "".join(o.text for o in outputs if o.output_type == "stream")
    assert_better_than_shuffled(rows(text), most=0.7)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert NOTEBOOK.stat().st_size < 200_000


@pytest.mark.timeout(280)
def test_the_notebook_runs_and_agrees_with_the_script(of_the_script, tmp_path):
    notebook = nbformat.read(NOTEBOOK, 4)
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    assert parameters.source == "steps = 6_000"
    parameters.source = f"steps = {STEPS}"
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source += "\ntorch.set_num_threads(1)"  # as in conftest.py
    client = nbclient.NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    found = rows("".join(o.text for o in outputs if o.output_type == "stream"))
    assert found == pytest.approx(of_the_script, rel=0.01)
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000
