"""Run the notebooks of the gallery, and keep what they show.

A notebook is committed with its outputs, as one core made them. In it, by tags of its cells:

- ``parameters``: assignments of numbers that a test shortens, by the cell's metadata ``fast``,
  ``{"steps": 300}``; no cell is left out;
- ``checked``: the last cell of code. The last number that it prints lies within the cell's metadata
  ``within``, ``[low, high]``; of a shortened run, within ``fast_within``;
- ``thumbnail``: the cell whose first picture stands for the notebook.

Run ``python examples/gallery.py`` for all notebooks, or ``python examples/gallery.py 03`` for those
whose names begin so; ``--fast`` shortens and writes nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat

HERE = Path(__file__).parent
NUMBER = re.compile(r"[-−]?\d[\d_,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def notebooks(*starts: str) -> list[Path]:
    """The notebooks of the gallery, in order, whose names begin with one of ``starts``."""
    found = sorted(HERE.glob("[0-9][0-9]_*.ipynb"))
    return [path for path in found if path.name.startswith(starts)]


def tagged(notebook: Any, tag: str) -> Any:
    """The one cell with this tag."""
    cells = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{len(cells)} cells are tagged {tag!r}; a notebook here has one")
    return cells[0]


def shorten(notebook: Any) -> None:
    """Assign the numbers of a short run after those of the cell of parameters."""
    cell = tagged(notebook, "parameters")
    for name in cell.metadata["fast"]:
        if not re.search(rf"^{name} = ", cell.source, re.MULTILINE):
            raise ValueError(f"{name!r} is to be shortened, and the cell of parameters has none")
    lines = [f"{name} = {value!r}" for name, value in cell.metadata["fast"].items()]
    cell.source = "\n".join([cell.source, *lines])


def run(path: Path, *, fast: bool = False) -> Any:
    """Execute a notebook on one core, in a folder of its own.

    ``seconds`` in its metadata are those of the processor, so that they do not depend on what else
    the machine does.
    """
    notebook = nbformat.read(path, 4)
    if fast:
        shorten(notebook)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # the kernel inherits it
    begin = spent()
    try:
        with tempfile.TemporaryDirectory() as folder:
            resources = {"metadata": {"path": folder}}
            nbclient.NotebookClient(
                notebook, timeout=600, kernel_name="python3", resources=resources
            ).execute()
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        os.environ.update({} if before is None else {"OMP_NUM_THREADS": before})
    notebook.metadata["seconds"] = round(spent() - begin)
    return notebook


def spent() -> float:
    """Seconds of the processor that ended processes of this one have taken."""
    times = os.times()
    return times.children_user + times.children_system


def printed(cell: Any) -> str:
    """What a cell printed."""
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


def checked(notebook: Any, *, fast: bool = False) -> tuple[float, float, float]:
    """The number that a notebook ends in, and what it has to lie between."""
    cell = tagged(notebook, "checked")
    if cell is not [other for other in notebook.cells if other.cell_type == "code"][-1]:
        raise ValueError("the checked cell is the last one with code")
    found = NUMBER.findall(printed(cell))
    if not found:
        raise ValueError(f"the checked cell printed no number, but {printed(cell)!r}")
    low, high = cell.metadata["fast_within" if fast else "within"]
    return float(found[-1].replace(",", "").replace("−", "-")), low, high


def tidy(notebook: Any) -> None:
    """Leave out what differs from run to run and tells nothing: times, bars, names of memory."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]


def main() -> None:
    """Run and write the notebooks that were asked for, and print the number of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("starts", nargs="*", default=[""], help="beginnings of names, such as 03")
    parser.add_argument("--fast", action="store_true", help="shortened, and nothing is written")
    arguments = parser.parse_args()
    for path in notebooks(*arguments.starts):
        notebook = run(path, fast=arguments.fast)
        value, low, high = checked(notebook, fast=arguments.fast)
        seconds, fits = notebook.metadata["seconds"], low <= value <= high
        print(f"{path.name}: {seconds} s; {value:g}, {'' if fits else 'NOT '}in [{low}, {high}]")
        if not arguments.fast:
            tidy(notebook)
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
