"""Formulas as MathML, made when the pages are built: no script and no network.

The package latex2mathml turns LaTeX into elements. It writes for MathML 3, and browsers show
MathML Core, so what Core has not is put into what it has: letters of a style become characters of
their own, and widths become numbers. Spaces are those of TeX: around the names of functions, none
at bars and slashes, none behind the sign of a number. A formula that stands alone is written in
pieces, between which a line may end on a narrow screen. Of a command that latex2mathml does not
know the strict build is warned.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from docutils import nodes
from latex2mathml.commands import FUNCTIONS, LIMIT
from latex2mathml.converter import convert_to_element
from sphinx.application import Sphinx
from sphinx.util import logging

NAMES = {command[1:] for command in (*FUNCTIONS, *LIMIT)} | {"det", "Pr"}
SPACES = {"thin": "0.167em", "medium": "0.222em", "thick": "0.278em"}
STYLES = {"script": "SCRIPT", "double-struck": "DOUBLE-STRUCK", "fraktur": "FRAKTUR"}
OPENING, CLOSING = set("([{⟨⌊⌈"), set(")]}⟩⌋⌉!")
PLAIN = set("|‖∣/.")  # as TeX has them, no operators
LETTERS = set("∇∂∞∅")
ACCENTS = set("^~˙¨¯´`ˇ˘→_")
BREAKS = set("=≤≥<>≈∝∼→←⟺≠∈+−")  # before which a line may end
BARE = {"lspace": "0", "rspace": "0"}


def convert(latex: str, display: str = "inline") -> str:
    r"""MathML of a formula, ``"inline"`` or ``"block"``.

    >>> convert(r"\hat x").startswith("<math")
    True
    """
    return _written(_made(latex, display))


def pieces(latex: str) -> list[str]:
    r"""MathML of a formula that stands alone, in pieces between which a line may end.

    A piece begins before each relation and each sum that is in no brackets, and after a ``\quad``.

    >>> len(pieces(r"a = (b = c) + d"))
    3
    """
    whole = _made(latex, "block")
    made, depth, bar = [_empty(whole)], 0, False
    for child in whole[0]:
        core = _core(child)
        text = core.text or "" if core.tag == "mo" else ""
        gap = child.tag == "mspace" and float(child.get("width", "0").removesuffix("em")) >= 1
        sign = text in BREAKS and core.get("form") != "prefix"
        if depth == 0 and not bar and sign and len(made[-1][0]):
            core.set("form", "infix")
            made.append(_empty(whole))
        depth += (text in OPENING) - (text in CLOSING - {"!"})
        bar ^= depth == 0 and text in ("|", "‖")
        made[-1][0].append(child)
        if depth == 0 and not bar and gap:
            made.append(_empty(whole))
    return [_written(piece) for piece in made if len(piece[0])]


def lines(latex: str) -> list[str]:
    r"""The lines of a formula that stands alone, without what aligns them.

    >>> lines(r"x &= a \\ y &= b")
    ['x = a', 'y = b']
    """
    if r"\begin" in latex:  # of a matrix
        return [latex]
    parts = re.split(r"\\\\|\n\s*\n", latex)
    parts = [part.replace("&&", r"\qquad ").replace("&", "").strip() for part in parts]
    return [part for part in parts if part]


def _made(latex: str, display: str) -> Element:
    """The elements of a formula, put right."""
    tree = convert_to_element(latex, display=display)
    for element in tree.iter():
        element.text = html.unescape(element.text) if element.text else element.text
    _tidy(tree)
    if any("\\" in (element.text or "") for element in tree.iter()):
        raise ValueError(f"a command that latex2mathml does not know, in {latex!r}")
    tree.set("alttext", " ".join(latex.split()))
    return tree


def _empty(whole: Element) -> Element:
    """A piece of a formula, with nothing in it."""
    piece = Element("math", {"xmlns": whole.get("xmlns", ""), "displaystyle": "true"})
    SubElement(piece, "mrow")
    return piece


def _written(tree: Element) -> str:
    """The text of elements."""
    return tostring(tree, encoding="unicode", short_empty_elements=False)


def _tidy(element: Element) -> None:
    """Put the children of an element right, and then their spaces."""
    for child in element:
        _tidy(child)
    _merge(element)
    for child in element:
        _style(child)
    if element.tag in ("math", "mrow", "mtd", "mstyle", "msqrt", "mpadded"):
        _space(element)


def _merge(element: Element) -> None:
    """Make one name of upright letters side by side, as of an operator Id."""
    before = None
    for child in list(element):
        upright = child.tag == "mi" and child.get("mathvariant") == "normal"
        if upright and before is not None and element.tag != "mfrac":
            before.text = f"{before.text}{child.text}"
            element.remove(child)
        else:
            before = child if upright else None


def _style(element: Element) -> None:
    """What MathML Core has in the place of an element's tag, letters and attributes."""
    text = element.text or ""
    variant = element.get("mathvariant")
    if variant in STYLES:
        element.text = "".join(_letter(STYLES[variant], character) for character in text)
        del element.attrib["mathvariant"]
    if element.tag == "mo" and text in LETTERS:
        element.tag = "mi"
        element.set("mathvariant", "normal")
    elif element.tag == "mi" and len(text) == 1 and "Α" <= text <= "Ω":
        element.set("mathvariant", "normal")
    elif element.tag == "mi" and text in OPENING | CLOSING | {":", ";"}:
        element.tag = "mo"
    elif element.tag == "mo" and len(element):  # a relation that is made of others
        element.text = "".join(element.itertext())
        del element[:]
    elif element.tag in ("mi", "mo") and text in NAMES:
        element.tag = "mo"
        element.set("form", "prefix")
    elif element.tag == "mo" and text in PLAIN:
        element.attrib.update(BARE if text != "∣" else {})
    elif element.tag == "mover" and len(element) == 2 and (element[1].text or "") in ACCENTS:
        element.set("accent", "true")
        if element[1].text in "^~":
            element[1].set("stretchy", "false")
    elif element.tag == "mspace" and element.get("width", "").endswith("mathspace"):
        width = element.get("width", "").removesuffix("mathspace")
        sign = "-" if width.startswith("negative") else ""
        element.set("width", sign + SPACES[width.removeprefix("negative")])
    elif element.tag == "mi" and text == "~":
        element.tag, element.text = "mo", "∼"


def _letter(style: str, character: str) -> str:
    """A letter of a style: most are in one block, some were there before it."""
    case = "CAPITAL" if character.isupper() else "SMALL"
    for block in ("MATHEMATICAL ", ""):
        try:
            return unicodedata.lookup(f"{block}{style} {case} {character.upper()}")
        except KeyError:
            pass
    return character


def _core(element: Element) -> Element:
    """The operator that an element is, with whatever hangs on it, or the element."""
    while element.tag in ("msub", "msup", "msubsup", "munder", "mover", "munderover", "mrow"):
        if len(element) == 0 or (element.tag == "mrow" and len(element) != 1):
            break
        element = element[0]
    return element


def _space(row: Element) -> None:
    """Spaces of names and signs, by what stands before and after them."""
    cores = [_core(child) for child in row]
    for k, core in enumerate(cores):
        if core.tag != "mo":
            continue
        before = cores[k - 1] if k else None
        after = cores[k + 1] if k + 1 < len(cores) else None
        if core.text in NAMES:
            open_next = after is None or after.text in OPENING or after.tag == "mspace"
            core.set("lspace", "0.167em" if before is not None and _is_word(before) else "0")
            core.set("rspace", "0" if open_next else "0.167em")
        elif core.text in ("−", "+") and (before is None or not _is_word(before)):
            core.attrib.update({"form": "prefix", **BARE})


def _is_word(element: Element) -> bool:
    """Whether what follows is not the beginning of a term."""
    if element.tag == "mspace":
        return False
    return element.tag != "mo" or (element.text or "") in CLOSING | PLAIN - {"∣"}


def visit_inline(self: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(_checked(convert, node.astext(), node) + "</span>")
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """Write a formula that stands by itself; of several lines each is one."""
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    for line in lines(node.astext()):
        self.body.append(f"<div>{_checked(pieces, line, node)}</div>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def _checked(made: Callable[[str], Any], latex: str, node: nodes.Node) -> str:
    """MathML, or a warning and the source."""
    try:
        return made(latex) if made is convert else "<wbr>".join(made(latex))
    except Exception as error:  # of any kind: a formula is text of a page
        logging.getLogger(__name__).warning(
            "a formula: %s", error, location=node, type="math", subtype="mathml"
        )
        return html.escape(latex)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer; ``html_math_renderer = "mathml"`` takes it."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
