"""Files of tensors: what goes in comes out, and what is damaged or hostile does not come out."""

from __future__ import annotations

import os
import pickle
import random
import resource
import subprocess
import sys
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch

from transportflows._core import container

TREE = {
    "weights": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
    "halves": torch.arange(7, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "one": torch.ones(1).expand(1, 1),
    "empty": torch.zeros(0, 4),
    "strided": torch.arange(12).view(3, 4).T,
    "array": np.arange(4.0),
    "none": np.empty(0, np.int64),
    "numbers": [1, 0.1, 1e-320, float("inf"), True, None, "text €", 2**62],
    "betas": (0.9, 0.999),
    "by_number": {0: {"step": torch.tensor(3.0)}, 1: []},
    "milestones": Counter({30: 1, 80: 2}),
    "ordered": OrderedDict(a=1),
    "bytes": b"\x00\xff",
    "$": "a key of the format's own",
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        kind = Counter if isinstance(a, Counter) else dict
        return isinstance(b, kind) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        alike = type(a) is type(b) and len(a) == len(b)
        return alike and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.ckpt"
    container.write(path, {"title": "a test", "step": 3}, TREE)
    return path


def test_what_goes_in_comes_out(file):
    header, tree = container.read(file)
    assert header == container.read_header(file) == {"title": "a test", "step": 3}
    assert same(TREE, tree)
    tree["weights"].add_(1)  # tensors that can be written to
    assert file.read_bytes().split(b"\n", 2)[1] == b"{"  # a header that a person can read


def test_a_file_cut_short_anywhere_is_refused(file):
    whole = file.read_bytes()
    for k in range(100):
        file.write_bytes(whole[: k * len(whole) // 100])
        with pytest.raises(container.DamagedFileError):
            container.read(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(container.DamagedFileError, match="bytes of tensors"):
        container.read(file)


def test_any_flipped_bit_is_refused(file):
    whole = file.read_bytes()
    first_line = whole.index(b"\n") + 1
    places = [8 * byte + bit for byte in range(first_line) for bit in range(8)]
    places += [random.Random(k).randrange(8 * len(whole)) for k in range(1500)]
    for place in places:
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=r"damaged|not a file of|upgrade"):
            container.read(file)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("it_ran",)


@pytest.mark.parametrize("writer", ["pickle", "torch", "torch-legacy", "tail", "index"])
def test_a_pickle_is_refused_and_does_not_run(writer, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if writer == "pickle":
        file.write_bytes(pickle.dumps(Bomb()))
    elif writer.startswith("torch"):
        zipped = writer == "torch"
        torch.save({"state": Bomb()}, file, _use_new_zipfile_serialization=zipped)
    elif writer == "tail":
        file.write_bytes(file.read_bytes() + pickle.dumps(Bomb()))
    else:
        whole = file.read_bytes()
        file.write_bytes(whole.replace(b'"tree"', pickle.dumps(Bomb())[:6]))
    with pytest.raises(ValueError, match=r"is not a file of transportflows|damaged"):
        container.read(file)
    assert not (tmp_path / "it_ran").exists()
    # A reader that would run it does: the bomb is real.
    if writer in ("pickle", "torch"):
        torch.load(file, weights_only=False) if writer == "torch" else pickle.loads(
            file.read_bytes()
        )
        assert (tmp_path / "it_ran").exists()


def test_a_length_that_asks_for_all_memory_is_refused(file):
    whole = file.read_bytes()
    start = whole.index(b" data ") + 6
    end = whole.index(b" ", start)
    file.write_bytes(whole[:start] + b"9" * 17 + whole[end:])
    with pytest.raises(container.DamagedFileError):
        container.read(file)
    start = whole.index(b" header ") + 8
    end = whole.index(b" ", start)
    file.write_bytes(whole[:start] + b"9" * 17 + whole[end:])
    with pytest.raises(container.DamagedFileError):
        container.read_header(file)


def test_a_newer_format_is_named(file):
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"container 1 ", b"container 2 ", 1))
    with pytest.raises(ValueError, match=r"format 2 and this version.*up to 1; upgrade"):
        container.read(file)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"scheduler": {"lambda": [lambda n: n]}}, r"scheduler\.lambda\.0 is a builtins\.function"),
        ({"state": {3: object()}}, r"state\.3 is a builtins\.object"),
        ({"x": {1, 2}}, r"x is a builtins\.set"),
    ],
)
def test_what_cannot_be_held_is_named(value, place, tmp_path):
    with pytest.raises(TypeError, match=place):
        container.write(tmp_path / "a", {}, value)
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, sys, torch
from transportflows._core import container
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    container.write(sys.argv[1], {"title": "new"}, {"x": torch.zeros(100_000)})
except OSError as error:
    print("refused", error.errno)
"""


def test_a_write_that_fails_half_way_leaves_the_file_before(file):
    before = file.read_bytes()
    assert resource.RLIMIT_FSIZE is not None
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(file)], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("refused")
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]
