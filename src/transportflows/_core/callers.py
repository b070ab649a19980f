"""Where in the user's script a call comes from, so that warnings name that line.

Decorators that open a context are in between, of torch and of the standard library.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import FrameType

import torch

__all__ = ["user_level"]

_PLACES = Path(__file__).parents[1], Path(torch.__file__).parent
_OWN = (*(f"{place}{os.sep}" for place in _PLACES), contextlib.__file__)


def user_level() -> int:
    """The ``stacklevel`` of a warning that names the first line outside the library and torch."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(_OWN):
        frame, level = frame.f_back, level + 1
    return level
