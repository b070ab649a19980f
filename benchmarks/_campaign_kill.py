"""Runs of twelve kinds, killed by SIGKILL at random moments and resumed: all end with the same bits.

See `survival.py`, whose runs these are.
"""

from __future__ import annotations

from typing import Any

import survival


def run(quick: bool = False) -> tuple[str, tuple[str, ...], list[tuple[Any, ...]]]:
    """Kill, resume and compare; a row for each kind of run."""
    return survival.run(kills=12 if quick else 204)
