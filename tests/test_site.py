"""The extensions of the documentation: formulas as MathML, notebooks as cards, claims of peers."""

import base64
import importlib.util
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PNG = b"\x89PNG\r\n\x1a\n made up"


def extension(name: str):
    """A module of docs/, where what it needs is installed."""
    pytest.importorskip("sphinx")
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mathml():
    return extension("mathml")


@pytest.fixture(scope="module")
def notebooks():
    return extension("notebooks")


def formulas() -> list[tuple[str, str]]:
    """Those of the pages and of the docstrings, each with its file."""
    found = []
    for path in [*DOCS.rglob("*.md"), *(ROOT / "src").rglob("*.py")]:
        text = path.read_text()
        if path.suffix == ".md":
            text = re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
            pattern = r"\$\$(.+?)\$\$|\$([^$\n]+?)\$"
        else:
            pattern = r":math:`([^`]+?)`"
        for match in re.finditer(pattern, text, re.DOTALL):
            found.append((path.name, next(group for group in match.groups() if group)))
    return found


def test_every_formula_that_stands_alone_is_one_too(mathml):
    """Those of docstrings, of several lines or one."""
    found = 0
    for path in (ROOT / "src").rglob("*.py"):
        pattern = r"\.\. math::[ ]*(.*?)\n[ ]*\n(?=[ ]*\S)"
        for block in re.findall(pattern, path.read_text(), re.DOTALL):
            for line in mathml.lines(block):
                for piece in mathml.pieces(line):
                    ElementTree.fromstring(piece)
                    found += 1
    assert found > 300


def test_a_formula_ends_lines_at_relations_and_sums(mathml):
    assert len(mathml.pieces(r"a = (b = c) + d, \qquad |x - y| = -z")) == 5
    assert mathml.lines(r"x &= a \\ y &= b && z") == ["x = a", r"y = b \qquad  z"]
    matrix = r"\begin{pmatrix} a & b \\ c & d \end{pmatrix} = 1"
    assert mathml.lines(matrix) == [matrix]
    assert "<mtable" in mathml.pieces(matrix)[0]


def test_every_formula_is_one_that_the_renderer_knows(mathml):
    found = formulas()
    assert len(found) > 400
    for name, latex in found:
        tree = ElementTree.fromstring(mathml.convert(latex))
        variants = {e.get("mathvariant") for e in tree.iter()} - {None}
        assert variants <= {"normal"}, (name, latex)  # all that MathML Core has
        widths = {e.get("width") for e in tree.iter()} - {None}
        assert all(re.fullmatch(r"-?[\d.]+(em|px)", width) for width in widths), (name, latex)
        for script in tree.iter("{http://www.w3.org/1998/Math/MathML}msup"):
            assert len(script) == 2, (name, latex)


@pytest.mark.parametrize(
    ("latex", "has"),
    [
        (r"\nabla \log p", '<mo form="prefix" lspace="0.167em" rspace="0.167em">log</mo>'),
        (r"\log(x)", 'rspace="0">log</mo>'),
        (r"= -a", '<mo form="prefix" lspace="0" rspace="0">−</mo>'),
        (r"b - a", "<mo>−</mo>"),
        (r"|x| - a", "<mo>−</mo>"),
        (r"N(0, \mathrm{Id})", '<mi mathvariant="normal">Id</mi>'),
        (r"\mathcal E", "<mi>ℰ</mi>"),
        (r"\hat\sigma", '<mover accent="true">'),
        (r"\Sigma", '<mi mathvariant="normal">Σ</mi>'),
        (r"a \mathrel{+}= b", "<mo>+</mo>"),
        (r"a < b", "&lt;"),
        (r"a \,\|\, b", "‖"),
    ],
)
def test_a_formula_is_set_as_tex_sets_it(mathml, latex, has):
    assert has in mathml.convert(latex)


def test_an_unknown_command_is_an_error(mathml):
    with pytest.raises(ValueError, match="does not know"):
        mathml.convert(r"\nosuchthing x")


def notebook(*, cells: list[dict]) -> dict:
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def cell(source: str, *, tags=(), outputs=(), kind="code") -> dict:
    made = {"cell_type": kind, "source": source.splitlines(keepends=True), "metadata": {}}
    made["metadata"]["tags"] = list(tags)
    return made | ({"outputs": list(outputs)} if kind == "code" else {})


def picture(content: bytes) -> dict:
    data = {"image/png": base64.b64encode(content).decode()}
    return {"output_type": "display_data", "data": data}


def test_a_card_has_title_sentence_and_the_tagged_picture(notebooks):
    head = "# A flow, `ε = 0`\n\nIt moves [points](https://a.b), e.g. these. And\nmore.\n\nLater."
    made = notebook(
        cells=[
            cell(head, kind="markdown"),
            cell("1", outputs=[picture(b"first")]),
            cell("2", tags=["thumbnail"], outputs=[picture(PNG)]),
        ]
    )
    assert notebooks.title(made) == "A flow, ε = 0"
    assert notebooks.first_sentence(made) == "It moves points, e.g. these."
    assert notebooks.thumbnail(made) == PNG
    assert notebooks.thumbnail(notebook(cells=[cell(head, kind="markdown")])) is None


def test_pages_come_and_go_with_their_notebooks(notebooks, tmp_path):
    source, pages = tmp_path / "examples", tmp_path / "gallery"
    source.mkdir()
    made = notebook(
        cells=[
            cell("# One\n\nText.", kind="markdown"),
            cell("1", tags=["thumbnail"], outputs=[picture(PNG)]),
        ]
    )
    (source / "01_one.ipynb").write_text(json.dumps(made))
    (source / "other.ipynb").write_text("{}")
    assert notebooks.bring(source, pages) == ["01_one.ipynb"]
    assert sorted(path.name for path in pages.iterdir()) == ["01_one.ipynb", "01_one.png"]
    assert (pages / "01_one.png").read_bytes() == PNG
    (source / "01_one.ipynb").unlink()
    assert notebooks.bring(source, pages) == []
    assert list(pages.iterdir()) == []


def test_what_is_said_of_this_library_beside_others_holds():
    """The cells of others are checked by the script, which needs them installed."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import peers
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    table = (ROOT / "benchmarks" / "results" / "peers.md").read_text()
    for row, claims in peers.CLAIMS.items():
        assert len(claims) == len(peers.PEERS)
        assert not peers.problems("transportflows", claims[0]), row
        assert f"| {row} | " in table, "run benchmarks/peers.py"
        assert all(claim.answer in table for claim in claims)


def test_every_block_of_the_how_to_pages_is_run():
    """By Sphinx's doctest, which runs all but plain blocks."""
    for path in (DOCS / "how_to").glob("*.md"):
        assert "```python" not in path.read_text(), path.name
        assert "{testcode}" in path.read_text() or path.stem == "index"
