"""Labels and numbers of files: from the names of their folders, or from a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from .._core.checks import names as spelled

__all__ = ["labels_of_folders", "labels_of_table"]


def labels_of_folders(names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """The first folder on the way to each file, numbered in the order of their names."""
    for name in names:
        if "/" not in name:
            raise ValueError(
                f"{name} is in no folder of its own, so it has no label; put the files of each"
                " class into a folder, or write labels=None, or the path of a table"
            )
    return _numbered([name.split("/")[0] for name in names])


def labels_of_table(
    path: Path, column: str | None, names: Sequence[str], numbers: bool | None = None
) -> tuple[Tensor, tuple[str, ...]]:
    """The values of a column for each file: classes, numbered in their order, or float32 numbers.

    Args:
        path: a CSV, or a text file as CelebA has it: a number of rows, names of columns, rows of
            words. Its first column has names of files, with or without their folders.
        column: its name; the second column if None.
        names: of the files.
        numbers: whether they are numbers; None for those of a column in which all are, and not all
            are whole.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {path}; labels is 'folders' or a path of one")
    head, rows = _read(path)
    if len(head) < 2:
        raise ValueError(f"the table {path} has {len(head)} column; it needs files and labels")
    wanted = head[1] if column is None else column
    if wanted not in head[1:]:
        raise ValueError(
            f"the table {path} has no column {column!r}; its columns are {spelled(head[1:13])}"
        )
    place, values = head.index(wanted), dict[str, str]()
    for number, row in enumerate(rows, 1):
        if len(row) != len(head):
            raise ValueError(
                f"row {number} of the table {path} has {len(row)} entries for {len(head)} columns:"
                f" {', '.join(row)[:60]}"
            )
        value = row[place].strip()
        if values.setdefault(row[0], value) != value:
            raise ValueError(
                f"the table {path} has {row[0]} twice, as {values[row[0]]!r} and as {value!r}; take"
                " one of the two rows out"
            )
    found, missing, short = [], [], dict[str, str]()
    for name in names:
        base = PurePosixPath(name).name
        if name not in values and base in values and short.setdefault(base, name) != name:
            raise ValueError(
                f"{base} in the table {path} is {short[base]} and {name}; write their names with"
                " the folders, as here"
            )
        value = values.get(name, values.get(base, ""))
        if value == "":
            missing.append(name)
        found.append(value)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} files have no {wanted} in the table {path}:"
            f" {', '.join(missing[:5])}; add them, or take them out of the folder"
        )
    read = [_as_number(value) for value in found]
    if numbers is None:
        numbers = None not in read and any(v is not None and v % 1 != 0 for v in read)
    return (_finite(found, read, names, wanted), ()) if numbers else _numbered(found)


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _finite(
    values: Sequence[str], read: Sequence[float | None], names: Sequence[str], column: str
) -> Tensor:
    """Numbers as float32."""
    for text, number, name in zip(values, read, names, strict=True):
        if number is None or not math.isfinite(number):
            told = (
                f"{text!r}, which is no number"
                if number is None
                else f"{text}, which is not finite"
            )
            raise ValueError(
                f"the {column} of {name} is {told}; mend it, take the file out, or write"
                " numbers=False, for classes"
            )
    return torch.tensor(read, dtype=torch.float32)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Names of columns, and rows."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        if path.suffix.lower() == ".csv":
            rows = [row for row in csv.reader(file) if row]
        else:
            rows = [line.split() for line in file if line.strip()]
            if rows and len(rows[0]) == 1 and rows[0][0].isdigit():
                rows = rows[1:]  # the number of rows
            if len(rows) > 1 and len(rows[1]) == len(rows[0]) + 1:
                rows[0] = ["file", *rows[0]]  # CelebA does not name the first column
    if len(rows) < 2:
        raise ValueError(f"the table {path} has no rows under its first line, the names of columns")
    return rows[0], rows[1:]


def _numbered(values: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Values as numbers 0, 1, ... in their order: as numbers where all are, as words otherwise.

    Numbers are one class however they are written; 1.0, as tables with a gap have it, is called 1.
    """
    read = [_as_number(value) for value in values]
    if None in read or any(number != number for number in read):
        classes = tuple(sorted(set(values)))
        place: dict[object, int] = {value: k for k, value in enumerate(classes)}
        return torch.tensor([place[value] for value in values], dtype=torch.int64), classes
    spelled_as: dict[float | None, str] = {}
    for value, number in sorted(zip(values, read, strict=True), key=lambda pair: len(pair[0])):
        spelled_as.setdefault(number, value)
    numbers = sorted(number for number in spelled_as if number is not None)
    place = {number: k for k, number in enumerate(numbers)}
    classes = tuple(
        str(int(number)) if number % 1 == 0 and "." in spelled_as[number] else spelled_as[number]
        for number in numbers
    )
    return torch.tensor([place[number] for number in read], dtype=torch.int64), classes
