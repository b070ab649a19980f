"""What the strict build of the documentation rests on, checked without Sphinx."""

import ast
import inspect
import re
import runpy
from pathlib import Path

import transportflows as tpf

DOCS = Path(__file__).parent.parent / "docs"


def test_the_inventories_are_what_their_script_writes():
    make = runpy.run_path(str(DOCS / "inventories" / "make.py"))
    written = {
        path.stem: make["decode"](path.read_bytes())
        for path in (DOCS / "inventories").glob("*.inv")
    }
    assert written == {project: make["entries"](project) for project in make["TABLES"]}


def test_the_picture_is_what_its_script_writes():
    make = runpy.run_path(str(DOCS / "figures" / "make_flow.py"))
    assert (DOCS / "figures" / "flow.svg").read_text() == make["picture"]()


def test_the_picture_of_the_house_is_that_of_its_imports():
    make = runpy.run_path(str(DOCS / "figures" / "make_house.py"))
    assert make["imports"]().keys() == make["ROOMS"].keys()
    written = (DOCS / "figures" / "house.svg").read_text()
    assert written == make["picture"](), "run docs/figures/make_house.py"


def test_a_room_is_drawn_below_what_it_imports(tmp_path):
    make = runpy.run_path(str(DOCS / "figures" / "make_house.py"))
    for name, text in {
        "a.py": "",
        "b/__init__.py": "",
        "b/c.py": "from ..a import x\ndef f():\n    from .. import e\n",
        "d.py": "from .b.c import f",
        "e.py": "if TYPE_CHECKING:\n    from .b import c",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    make["imports"].__globals__["SOURCE"] = tmp_path
    assert make["layers"]() == [["a"], ["b", "e"], ["d"]]


def test_the_files_that_pages_name_are_there():
    source = Path(tpf.__file__).parent
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        for name in re.findall(r"`((?:\w+/)*\w+\.py)`", page.read_text()):
            places = (source / name, DOCS.parent / name)
            assert any(place.exists() for place in places), f"{page.name}: {name}"


def test_the_readme_names_every_namespace():
    named = re.findall(r"`(\w+)`", (DOCS.parent / "README.md").read_text())
    assert {name for name in tpf.__all__ if inspect.ismodule(getattr(tpf, name))} <= set(named)


def test_what_the_readme_links_is_there():
    for target in re.findall(r"\]\(([^)#]+)", (DOCS.parent / "README.md").read_text()):
        assert target.startswith("https://") or (DOCS.parent / target).exists(), target


def test_the_film_is_small():
    film = DOCS / "figures" / "film.gif"
    assert film.read_bytes()[:6] == b"GIF89a"
    assert film.stat().st_size <= 600_000


def test_every_namespace_has_a_page_and_every_page_is_reached():
    index = (DOCS / "api" / "index.rst").read_text().split()
    pages = {path.stem for path in (DOCS / "api").glob("*.rst")} - {"index"}
    assert {name for name in tpf.__all__ if inspect.ismodule(getattr(tpf, name))} <= pages
    assert pages <= set(index)


def test_no_property_is_read_as_a_type():
    """Napoleon reads the docstring "a: b" of a property as b, of type a."""
    for path in Path(tpf.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            decorators = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
            if any(name.endswith("property") for name in decorators):
                first = (ast.get_docstring(node) or "").split("\n")[0]
                plain = re.sub(r":\w+:`[^`]*`", "", first)
                assert ":" not in plain, (
                    f"{path.name}, {node.name}: write {first!r} without a colon"
                )


FORMULAS = {
    "Anderson": "solve/epsilon.py",
    "l'Hôpital": "gaussian_part.py",
    "Hutchinson": "_core/autodiff.py",
    "Tweedie": "gaussian_part.py",
    "time features": "networks/embedding.py",
    "MMD": "metrics/mmd.py",
    "energy distance": "metrics/energy.py",
    "Fréchet": "metrics/features.py",
    "characteristic functions": "metrics/characteristic.py",
    "resampling": "guidance/resampling.py",
    "EDM": "fields/edm.py",
    "DDIM": "samplers/ancestral.py",
    "replacement": "inverse/hooks.py",
}


def test_a_formula_is_found_by_its_name():
    """In the table of docs/design.md, whose files are there."""
    source = DOCS.parent / "src" / "transportflows"
    lines = (DOCS / "design.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|") and ".py`" in line]
    files = {file for row in rows for file in re.findall(r"`([\w/]+\.py)`", row)}
    assert not {file for file in files if not (source / file).exists()}
    for name, file in FORMULAS.items():
        assert any(name in row and f"`{file}`" in row for row in rows), name
    rooms = {"metrics", "fields", "inverse", "guidance", "networks"}
    assert rooms <= {file.partition("/")[0] for file in files}


def test_the_messages_that_the_page_explains_are_those_of_the_library():
    headings = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(headings) > 8
    told = []
    for path in Path(tpf.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [p.value for p in parts if isinstance(p, ast.Constant)]
            told.append("".join(text for text in texts if isinstance(text, str)))
    for heading in headings:
        assert any(heading in text for text in told), heading
