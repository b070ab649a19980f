"""What other libraries have and have not, as their installed source says: a table for the docs.

Each cell is a claim: that some names are there, or that no name matches a pattern. The source is
read and not imported: classes, functions, methods and their arguments, by module. A claim that does
not hold ends the script with an error, so that the table is that of the versions it names. Cells
with a dagger are of the kind that names cannot tell, and were read by a person.

Set-up: pip install -c constraints.txt -e '.[bench]'. Run: python benchmarks/peers.py, which writes
benchmarks/results/peers.md; with names of packages only their cells are checked, and nothing is
written.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import importlib.metadata
import importlib.util
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import transportflows
from _peer_claims import CLAIMS, PEERS, Claim

RESULT = Path(__file__).parent / "results" / "peers.md"


@dataclass(frozen=True)
class Found:
    """What the source of a package has.

    Attributes:
        names: of classes, functions and methods, ``Class.method``, that do not begin with ``_``.
        arguments: of all of them, as ``name(argument)``.
        text: all of the source.
    """

    names: frozenset[str]
    arguments: frozenset[str]
    text: str


@cache
def read(package: str) -> Found:
    """The definitions of a package that is installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed; see the head of this file")
    names: set[str] = set()
    arguments: set[str] = set()
    texts = []
    for path in sorted(Path(spec.submodule_search_locations[0]).rglob("*.py")):
        texts.append(path.read_text(encoding="utf-8"))
        _collect(ast.parse(texts[-1]), "", names, arguments)
    return Found(frozenset(names), frozenset(arguments), "\n".join(texts))


def _collect(node: ast.AST, owner: str, names: set[str], arguments: set[str]) -> None:
    """Add the definitions in a module or a class."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if isinstance(child, ast.If | ast.Try):
                _collect(child, owner, names, arguments)
            continue
        if child.name.startswith("_") and child.name not in ("__init__", "__call__"):
            continue
        name = f"{owner}{child.name}"
        names.add(name)
        if isinstance(child, ast.ClassDef):
            _collect(child, f"{name}.", names, arguments)
            for field in child.body:  # of a dataclass
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    arguments.add(f"{name}({field.target.id})")
        else:
            every = (*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs)
            arguments.update(f"{name}({argument.arg})" for argument in every)


def problems(package: str, claim: Claim) -> list[str]:
    """What of a claim does not hold."""
    found = read(package)
    wrong = [f"has no {name}" for name in claim.has if name not in found.names]
    wrong += [f"no argument {name}" for name in claim.takes if name not in found.arguments]
    wrong += [f"its source has no {text!r}" for text in claim.says if text not in found.text]
    if claim.none:
        seen = {name for name in found.names | found.arguments if re.search(claim.none, name)}
        wrong += [f"has {', '.join(sorted(seen)[:5])}"] if seen else []
    if claim.licence and claim.licence not in licence(package):
        wrong.append(f"its licence is {licence(package)!r}")
    return wrong


def licence(package: str) -> str:
    """What the metadata of a package say of its licence."""
    told = importlib.metadata.metadata(package)
    fields = ("License-Expression", "License", "Classifier")
    return " ".join(line for field in fields for line in told.get_all(field) or [])


def main() -> None:
    """Check all cells, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="*", help="those to check; all of them if none")
    wanted = parser.parse_args().packages or PEERS
    wrong = []
    for row, claims in CLAIMS.items():
        for package, claim in zip(PEERS, claims, strict=True):
            if package in wanted:
                wrong += [f"{package}, {row}: {p}" for p in problems(package, claim)]
    if wrong:
        sys.exit("\n".join(wrong))
    checked = sum(c.checked for claims in CLAIMS.values() for c in claims)
    cells = sum(len(claims) for claims in CLAIMS.values())
    print(f"{checked} of {cells} cells are checked by names, and hold")
    if wanted is PEERS:
        RESULT.write_text(report(checked, cells))


def report(checked: int, cells: int) -> str:
    """The table in Markdown."""
    told = {p: importlib.metadata.version(p) for p in PEERS}
    told["transportflows"] = transportflows.__version__  # of this tree, whatever was installed
    versions = ", ".join(f"{p} {told[p]}" for p in PEERS)
    lines = [
        f"{datetime.date.today()}; {versions}. Checked by names: {checked} of {cells} cells; those"
        " with † were read by a person.",
        "",
        "| | " + " | ".join(PEERS) + " |",
        "|---" * (len(PEERS) + 1) + "|",
    ]
    for row, claims in CLAIMS.items():
        cells_of = [f"{c.answer}{'' if c.checked else ' †'}" for c in claims]
        lines.append(f"| {row} | " + " | ".join(cells_of) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
