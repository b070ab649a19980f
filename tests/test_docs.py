"""What the strict build of the documentation rests on, checked without Sphinx."""

import ast
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


def test_every_page_of_the_reference_is_reached():
    index = (DOCS / "api" / "index.rst").read_text().split()
    assert {path.stem for path in (DOCS / "api").glob("*.rst")} - {"index"} <= set(index)


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
