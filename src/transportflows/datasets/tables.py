"""Labels of files: from the names of their folders, or from a table."""

from __future__ import annotations

import csv
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
    path: Path, column: str | None, names: Sequence[str]
) -> tuple[Tensor, tuple[str, ...]]:
    """The values of a column for each file, numbered in their order.

    Args:
        path: a CSV, or a text file as CelebA has it: a number of rows, names of columns, rows of
            words. Its first column has names of files, with or without their folders.
        column: its name; the second column if None.
        names: of the files.
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
    place, values = head.index(wanted), {}
    for number, row in enumerate(rows, 1):
        if len(row) != len(head):
            raise ValueError(
                f"row {number} of the table {path} has {len(row)} entries for {len(head)} columns:"
                f" {', '.join(row)[:60]}"
            )
        values[row[0]] = row[place].strip()
    found, missing = [], []
    for name in names:
        value = values.get(name, values.get(PurePosixPath(name).name, ""))
        if value == "":
            missing.append(name)
        found.append(value)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} files have no {wanted} in the table {path}:"
            f" {', '.join(missing[:5])}; add them, or take them out of the folder"
        )
    return _numbered(found)


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
    """Values as numbers 0, 1, ... in their order: as numbers where all are, as words otherwise."""
    distinct = set(values)
    try:
        classes = tuple(sorted(distinct, key=float))
    except ValueError:
        classes = tuple(sorted(distinct))
    number = {value: k for k, value in enumerate(classes)}
    return torch.tensor([number[value] for value in values], dtype=torch.int64), classes
