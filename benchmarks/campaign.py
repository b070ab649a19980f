"""Attacks: what the library makes of bad input, ends of time, few steps, files and threads.

Each part is a file beside this one, `_campaign_<part>.py`, whose `run(quick)` returns a title, the
names of the columns and the rows; its docstring says what is asked and how it is measured.

Run ``python benchmarks/campaign.py`` for all, ``--part pair`` for one, ``--quick`` for a minute of
each; the tables stand in `results/campaign_<part>.md`.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from _common import header, table

PARTS = sorted(
    p.stem.removeprefix("_campaign_") for p in Path(__file__).parent.glob("_campaign_*.py")
)


def main() -> None:
    """Run the parts that are asked for, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="all where none is given")
    parser.add_argument("--quick", action="store_true", help="fewer cases and seeds")
    options = parser.parse_args()
    print(header(__doc__))
    for name in options.part or PARTS:
        part = importlib.import_module(f"_campaign_{name}")
        title, columns, rows = part.run(options.quick)
        print(f"\n## {title}\n\n{part.__doc__}\n")
        print(table(columns, rows))


if __name__ == "__main__":
    main()
