"""The notebooks: as they are committed, and each run anew, shortened."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("gallery", ROOT / "examples" / "gallery.py")
gallery = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gallery)
PATHS = gallery.notebooks("")
EACH = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
LONGEST = {"seconds": 60, "of the two largest": 180}


@EACH
def test_it_is_committed_as_it_ran(path):
    notebook = nbformat.read(path, 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    picture = gallery.tagged(notebook, "thumbnail")
    assert any("image/png" in output.get("data", {}) for output in picture.outputs)
    value, low, high = gallery.checked(notebook)
    assert low <= value <= high
    assert path.stat().st_size < 1_500_000


@EACH
def test_it_is_prose_and_code(path):
    notebook = nbformat.read(path, 4)
    title = notebook.cells[0].source
    assert re.match(r"# [^\n]+\n\n\S", title), "a title, and what it is about in a paragraph"
    text = "".join(c.source for c in notebook.cells)
    assert not re.search(r"/(tmp|work|home|root)/", text)
    assert not re.search(r"/(tmp|work|home|root)/", "".join(map(str, notebook.cells)))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert max(len(line) for line in cell.source.splitlines()) <= 88


def test_no_notebook_takes_long():
    seconds = sorted(nbformat.read(path, 4).metadata["seconds"] for path in PATHS)
    assert all(s <= LONGEST["seconds"] for s in seconds[:-2]), seconds
    assert all(s <= LONGEST["of the two largest"] for s in seconds), seconds


@pytest.mark.timeout(280)
@EACH
def test_it_runs_and_ends_in_its_number(path):
    notebook = gallery.run(path, fast=True)
    value, low, high = gallery.checked(notebook, fast=True)
    assert low <= value <= high
