"""What the strict build of the documentation rests on, checked without Sphinx."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_inventories_are_what_their_script_writes():
    make = runpy.run_path(str(DOCS / "inventories" / "make.py"))
    written = {path.stem: make["decode"](path.read_bytes()) for path in DOCS.rglob("*.inv")}
    assert written == {project: make["entries"](project) for project in make["TABLES"]}


def test_the_picture_is_what_its_script_writes():
    make = runpy.run_path(str(DOCS / "figures" / "make_flow.py"))
    assert (DOCS / "figures" / "flow.svg").read_text() == make["picture"]()


def test_every_page_of_the_reference_is_reached():
    index = (DOCS / "api" / "index.rst").read_text().split()
    assert {path.stem for path in (DOCS / "api").glob("*.rst")} - {"index"} <= set(index)
