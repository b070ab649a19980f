"""What messages tell a user to write is there: every class, function and method that they name."""

from __future__ import annotations

import ast
import builtins
import copy
import re
from pathlib import Path

import numpy
import pytest
import torch
import torch.distributed.fsdp

import transportflows as tpf

SOURCE = Path(tpf.__file__).parent
TREES = {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
# Of other libraries, and words that are no names of anything in Python.
FOREIGN = {
    "CelebA", "DDIMScheduler", "DataLoader", "IterableDataset", "NaN", "NumPy", "OneHotEncoder",
    "SiT", "SimpleImputer", "TensorBoard",
    "TensorDataset", "UNet2DModel",
}  # fmt: skip


def messages() -> dict[str, list[str]]:
    """The texts of what is raised, by file; what is filled in is a gap."""
    found: dict[str, list[str]] = {}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                for part in ast.walk(node.exc):
                    if isinstance(part, ast.JoinedStr):
                        pieces = [
                            p.value if isinstance(p, ast.Constant) else "\0" for p in part.values
                        ]
                        found.setdefault(path.name, []).append("".join(map(str, pieces)))
                    elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                        found.setdefault(path.name, []).append(part.value)
    return found


def defined() -> set[str]:
    """All names of the library: modules, classes, functions, attributes and arguments."""
    found = {path.stem for path in TREES} | {path.parent.name for path in TREES}
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
    return found


OURS, MESSAGES = defined(), messages()
OTHERS = {
    name
    for owner in (
        torch,
        torch.nn,
        torch.optim,
        torch.optim.lr_scheduler,
        torch.Tensor,
        torch.nn.Module,
        numpy.ndarray,
        torch.distributed.fsdp,
        builtins,
        copy,
        dict,
        str,
    )
    for name in dir(owner)
}


@pytest.mark.parametrize("file", sorted(MESSAGES))
def test_every_name_in_a_message_is_there(file):
    for text in MESSAGES[file]:
        for word in re.findall(r"\b[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)+\b", text):
            assert word in OURS | OTHERS | FOREIGN, (word, text)
        for path in re.findall(r"\btpf((?:\.\w+)+)", text):
            found = tpf
            for name in path[1:].split("."):
                assert hasattr(found, name), (path, text)
                found = getattr(found, name)
        for path in re.findall(r"\btorch((?:\.\w+)+)", text):
            found = torch
            for name in path[1:].split("."):
                assert hasattr(found, name), (path, text)
                found = getattr(found, name)
        for name in re.findall(r"\w\.([a-z]\w+)\(", text):
            assert name in OURS | OTHERS, (name, text)


def test_a_name_that_is_not_there_is_found():
    assert "MomentMatching" not in OURS | OTHERS | FOREIGN
    assert "MomentMatched" in OURS
