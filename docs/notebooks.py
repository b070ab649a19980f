"""The notebooks of examples/ as pages of the gallery, each with a card.

What examples/ has becomes pages when the documentation is built: copied to gallery/, which git
ignores, each with a picture, the first PNG of the cell that is tagged ``thumbnail``. In a page
``gallery`` is a directive that shows the cards, with ``:pages:`` the one that has the pages below
it in the navigation, and ``:notebook:`07_images``` a link.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

HERE = Path(__file__).parent
SOURCE, PAGES = HERE.parent / "examples", HERE / "gallery"

CARD = """```{{grid-item-card}} {title}
:link: /gallery/{name}
:link-type: doc
{picture}:class-item: gallery-card

{sentence}
```"""


def notebooks(source: Path = SOURCE) -> dict[str, dict[str, Any]]:
    """The notebooks of a folder, by the names of their files without the ending."""
    paths = sorted(source.glob("[0-9][0-9]_*.ipynb"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def _text(lines: str | list[str]) -> str:
    """Text that a file of a notebook holds in one piece or in lines."""
    return lines if isinstance(lines, str) else "".join(lines)


def title(notebook: dict[str, Any]) -> str:
    """The heading of the first cell, without what marks code and formulas."""
    heading = _text(notebook["cells"][0]["source"]).strip().split("\n")[0]
    return heading.removeprefix("# ").replace("`", "").strip()


def first_sentence(notebook: dict[str, Any]) -> str:
    """That of the paragraph below the heading, without links, which a card is itself."""
    paragraphs = re.split(r"\n\s*\n", _text(notebook["cells"][0]["source"]).strip())
    text = " ".join(paragraphs[1].split()) if len(paragraphs) > 1 else ""
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    found = re.match(r"(.+?[^.\s]{2}[.?!])(?=\s|$)", text)  # not after "e.g."
    return found[1] if found else text


def thumbnail(notebook: dict[str, Any]) -> bytes | None:
    """The first PNG of the tagged cell; of any cell where none is tagged or it has none."""
    cells = notebook["cells"]
    tagged = [c for c in cells if "thumbnail" in c.get("metadata", {}).get("tags", [])]
    for cell in [*tagged, *cells]:
        for output in cell.get("outputs", []):
            picture = output.get("data", {}).get("image/png")
            if picture:
                return base64.b64decode(_text(picture))
    return None


def bring(source: Path = SOURCE, pages: Path = PAGES) -> list[str]:
    """Copy notebooks and pictures to where Sphinx looks for pages; what has gone is removed."""
    pages.mkdir(exist_ok=True)
    wanted: dict[str, bytes] = {}
    for name, notebook in notebooks(source).items():
        wanted[f"{name}.ipynb"] = (source / f"{name}.ipynb").read_bytes()
        picture = thumbnail(notebook)
        if picture is not None:
            wanted[f"{name}.png"] = picture
    for path in pages.glob("[0-9][0-9]_*"):
        if path.name not in wanted:
            path.unlink()
    for name, content in wanted.items():
        path = pages / name
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    return [name for name in wanted if name.endswith(".ipynb")]


def _shown(name: str, notebook: dict[str, Any]) -> str:
    """The options of a card by which its picture is shown; of a wide one the right end."""
    content = thumbnail(notebook)
    if content is None:
        return ""
    width, height = struct.unpack(">II", content[16:24])  # of the PNG's first chunk
    lines = [f":img-top: /gallery/{name}.png", f":img-alt: {title(notebook)}"]
    lines += [":class-img-top: gallery-wide"] if width > 2.4 * height else []
    return "\n".join(lines) + "\n"


class Gallery(SphinxDirective):
    """A card for each notebook; with ``:pages:`` their place in the navigation too."""

    option_spec: ClassVar[dict[str, Any]] = {"pages": directives.flag}

    def run(self) -> list[nodes.Node]:
        cards = []
        self.env.note_dependency(str(SOURCE))
        for name, notebook in notebooks().items():
            self.env.note_dependency(str(SOURCE / f"{name}.ipynb"))
            told = {"title": title(notebook), "sentence": first_sentence(notebook)}
            cards.append(CARD.format(name=name, picture=_shown(name, notebook), **told))
        if not cards:
            return []
        text = "````{grid} 1 2 2 3\n:gutter: 3\n\n" + "\n\n".join(cards) + "\n````"
        found = self.parse_text_to_nodes(text)
        if "pages" in self.options:
            names = "\n".join(f"gallery/{name}" for name in notebooks())
            found += self.parse_text_to_nodes(f"```{{toctree}}\n:hidden:\n\n{names}\n```")
        return found


class Notebook(SphinxRole):
    """A link to a notebook by its name, or its name alone where there is none."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        self.env.note_dependency(str(SOURCE / f"{self.text}.ipynb"))
        notebook = notebooks().get(self.text)
        if notebook is None:
            return [nodes.literal(self.text, self.text)], []
        link = addnodes.pending_xref(
            "",
            refdoc=self.env.docname,
            refdomain="std",
            reftype="doc",
            reftarget=f"/gallery/{self.text}",
            refexplicit=True,
            refwarn=True,
        )
        link += nodes.inline("", title(notebook), classes=["doc"])
        return [link], []


def setup(app: Sphinx) -> dict[str, Any]:
    """Bring the notebooks before pages are looked for."""
    app.add_directive("gallery", Gallery)
    app.add_role("notebook", Notebook())
    app.connect("config-inited", lambda app, config: bring())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
