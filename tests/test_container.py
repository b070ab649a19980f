"""Files of tensors: what goes in comes out, and what is damaged or hostile does not come out."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import resource
import subprocess
import sys
from collections import Counter, OrderedDict

import numpy as np
import pytest
import safetensors
import torch

from transportflows._core import container, files
from transportflows._core.values import NAMES

WEIGHTS = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
TREE = {
    "weights": WEIGHTS,
    "shared": [WEIGHTS, WEIGHTS[1:], WEIGHTS.T],
    **{str(dtype): torch.arange(5).to(dtype) for dtype in NAMES},
    "complex": torch.complex(WEIGHTS, -WEIGHTS).conj(),
    "complex array": np.array([1 + 2j, -0.0j]),
    "backward": np.arange(4)[::-1],
    "point": np.array(3, np.uint16),
    "a": {"b": torch.ones(2), 0: torch.zeros(1), "0": torch.ones(1)},
    "a.b": torch.zeros(2),
    "__metadata__": torch.zeros(1),
    "halves": torch.arange(7, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "one": torch.ones(1).expand(1, 1),
    "empty": torch.zeros(0, 4),
    "strided": torch.arange(12).view(3, 4).T,
    "array": np.arange(4.0),
    "none": np.empty(0, np.int64),
    "numbers": [1, 0.1, 1e-320, -0.0, float("inf"), True, None, "text € \ud800", 2**62 + 1, 3**300],
    "betas": (0.9, 0.999),
    "by_number": {0: {"step": torch.tensor(3.0)}, 1: []},
    "milestones": Counter({30: 1, 80: 2}),
    "ordered": OrderedDict(a=1),
    "bytes": b"\x00\xff",
    "$": "a key of the format's own",
}


def forge(path, change):
    """Rewrite the description of a file, with right sums."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    text = json.loads(whole[8 : 8 + length])
    text["__metadata__"]["sha256"] = "0" * 64
    change(text)
    raw = json.dumps(text, separators=(",", ":")).encode()
    size = len(raw).to_bytes(8, "little")
    digest = hashlib.sha256(size + raw).hexdigest().encode()
    path.write_bytes(size + raw.replace(b"0" * 64, digest, 1) + whole[8 + length :])


def same(a, b):
    if isinstance(a, torch.Tensor):
        if not isinstance(b, torch.Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        # Bytes, since not every torch compares every dtype.
        a, b = (x.resolve_conj().contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
        return torch.equal(a, b)
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
    tree["weights"].add_(1)  # tensors that can be written to, and share no memory
    assert not same(TREE, tree)
    assert same(tree["shared"], TREE["shared"])
    assert b'"header":"{\\n \\"title\\": \\"a test\\"' in file.read_bytes()[:300]


def test_numbers_lie_where_their_width_asks(file):
    tree = container.read(file)[1]
    tensors = [value for value in tree.values() if isinstance(value, torch.Tensor)]
    assert len({tensor.element_size() for tensor in tensors}) == 4
    assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in tensors)


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
    places = [8 * byte + bit for byte in range(300) for bit in range(8)]
    places += [random.Random(k).randrange(8 * len(whole)) for k in range(1500)]
    for place in places:
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(container.DamagedFileError, match=r"damaged|not a file of"):
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
        file.write_bytes(whole.replace(b'\\"$\\"', pickle.dumps(Bomb())[:5], 1))
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
    for length in (2**60, 2**64 - 1, len(whole), 0):
        file.write_bytes(length.to_bytes(8, "little") + whole[8:])
        for reader in (container.read, container.read_header):
            with pytest.raises(container.DamagedFileError, match="description"):
                reader(file)


def test_a_newer_format_is_named_and_an_older_one_too(file):
    forge(file, lambda text: text["__metadata__"].update(transportflows="2"))
    for reader in (container.read, container.read_header):
        with pytest.raises(container.NewerFileError, match=r"format 2 .*up to 1; upgrade"):
            reader(file)
    file.write_bytes(b"transportflows container 1 header 10 ")
    with pytest.raises(container.DamagedFileError, match="development version"):
        container.read(file)


def at(name, **changes):
    return lambda text: text[name].update(changes)


def meta(**changes):
    return at("__metadata__", **changes)


@pytest.mark.parametrize(
    "change",
    [
        *(at("weights", dtype=d) for d in ("qint8", "quint4x2", "C64", "F4", None, [])),
        at("weights", shape=[-3, -5]),
        at("weights", shape=[3.0, 5.0]),
        at("weights", shape=[True, 15]),
        at("weights", shape=[2**62, 2**62]),
        at("weights", shape=[]),
        at("weights", shape=None),
        at("empty", shape=[2**64, 0, 2**64]),
        at("weights", data_offsets=[0, 60]),
        at("weights", data_offsets=[-60, 0]),
        at("weights", data_offsets=None),
        lambda text: text.update(weights=[]),
        lambda text: text.update(another={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
        lambda text: text.pop("weights"),
        lambda text: text.update(dict.fromkeys(map(str, range(9)), text["weights"])),
        meta(header="[]"),
        meta(header=3),
        meta(tree=None),
        meta(tree="{"),
        meta(tree="[" * 100_000 + "]" * 100_000),
        meta(tree='{"$":"tensor","name":"weights"}'),
        meta(tree='[{"$":"tensor","name":"weights"},{"$":"tensor","name":"weights"}]'),
        meta(tree='{"$":"object","of":[]}'),
        meta(tree='{"$":"dict","of":[[[],1]]}'),
        meta(tree='{"$":"bytes","of":7}'),
        meta(data_sha256=None),
        meta(transportflows="0"),
        meta(tree='{"a":1,"a":2}'),
        meta(header='{"step":1,"step":2}'),
        meta(tree='{"$":"dict","of":[[1,2],[1,3]]}'),
        meta(tree='{"$":"bytes","of":"%%"}'),
        meta(tree="\u00e9"),
        meta(tree="[" + "[]," * 10**6 + "[]]"),  # 3 bytes each here, 64 where they are read
        meta(tree="[" + '{"":0},' * 10**6 + "{}]"),
        at("weights", shape=[2**62] * 10**5),
        at("weights", shape=[1] * 1000 + [3, 5]),
        at("weights", more=1),
        at("weights", data_offsets=[0.0, 60.0]),
    ],
)
def test_a_hostile_description_with_right_sums_is_refused(change, file):
    forge(file, change)
    with pytest.raises(container.DamagedFileError, match="Nothing of it was used"):
        container.read(file)


def test_a_key_that_comes_twice_is_refused(file):
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    digest = whole[8 : 8 + length].split(b'"sha256":"')[1][:64]
    text = whole[8 : 8 + length].rstrip().replace(digest, b"0" * 64)
    text = text[:-1] + b',"weights":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    size = len(text).to_bytes(8, "little")
    text = text.replace(b"0" * 64, hashlib.sha256(size + text).hexdigest().encode(), 1)
    file.write_bytes(size + text + whole[8 + length :])
    with pytest.raises(container.DamagedFileError, match="makes no sense"):
        container.read(file)


def test_what_is_no_file_or_mostly_holes_is_refused_at_once(file, tmp_path):
    start = file.read_bytes()
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "sparse").write_bytes((2**39).to_bytes(8, "little") + start[8:])
    os.truncate(tmp_path / "sparse", 2**40)
    for name in ("device", "folder", "pipe", "sparse"):
        for reader in (container.read, container.read_header):
            with pytest.raises(container.DamagedFileError, match="Nothing of it was used"):
                reader(tmp_path / name)
    holes = tmp_path / "holes"  # as some tools leave them where there are zeros
    container.write(holes, {}, {"x": torch.zeros(10**6)})
    with open(holes, "rb+") as opened:
        end = opened.seek(0, 2)
        os.truncate(holes, 2**16)
        os.truncate(holes, end)
    assert torch.equal(container.read(holes)[1]["x"], torch.zeros(10**6))


def test_what_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(TypeError, match="too many small lists and dicts"):
        container.write(tmp_path / "a", {}, [[] for _ in range(10**6)])
    assert list(tmp_path.iterdir()) == []


def test_a_flag_that_is_neither_true_nor_false_is_refused(file):
    container.write(file, {}, {"flags": torch.tensor([1, 2], dtype=torch.uint8)})
    forge(file, at("flags", dtype="BOOL"))
    with pytest.raises(container.DamagedFileError, match="no sense"):
        container.read(file)


def test_the_file_opens_without_this_library(file):
    with safetensors.safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["header"]) == {"title": "a test", "step": 3}
        names = set(opened.keys())
        assert {"weights", "by_number.0.step", "array", "complex"} <= names
        assert same(TREE["weights"], opened.get_tensor("weights"))
        assert same(TREE["halves"], opened.get_tensor("halves"))
        assert same(
            torch.view_as_real(TREE["complex"].resolve_conj()), opened.get_tensor("complex")
        )


def test_a_link_planted_beside_the_place_is_not_followed(tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "planted").symlink_to(outside)
    monkeypatch.setattr(files, "temporary_name", lambda name: "planted")
    with pytest.raises(FileExistsError):
        container.write(tmp_path / "a.ckpt", {}, TREE)
    assert outside.read_text() == "mine"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"scheduler": {"lambda": [lambda n: n]}}, r"scheduler\.lambda\.0 is a builtins\.function"),
        ({"state": {3: object()}}, r"state\.3 is a builtins\.object"),
        ({"x": {1, 2}}, r"x is a builtins\.set"),
        ({"x": np.array(["a"])}, r"x is a numpy\.ndarray of <U1"),
        ({"x": np.arange(2, dtype=">i4")}, r"x is a numpy\.ndarray of >i4"),
        ({"x": torch.eye(2).to_sparse()}, r"x is a torch\.Tensor of torch.float32, sparse"),
        ({"x": torch.empty(2, device="meta")}, r"x is a torch\.Tensor"),
        ({"x": [torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)]}, r"x\.0 .*qint8"),
    ],
)
def test_what_cannot_be_held_is_named(value, place, tmp_path):
    with pytest.raises(TypeError, match=place):
        container.check(value)
    with pytest.raises(TypeError, match=place):
        container.write(tmp_path / "a", {}, value)
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, sys, torch
from transportflows._core import container, files
from transportflows._core.values import NAMES
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
