"""Files that were damaged or made to do harm, and what reading them does.

Saved fields and checkpoints are cut, have bits flipped, are replaced by pickles and by things that
are no files; and, with sums made right, have their descriptions and each part of what they hold
replaced by values of other kinds, ranges, shapes and dtypes, taken out, added to, nested and blown
up. Each is given to `load_field` or `Trainer.load` in a process of its own that watches: the error
(one type, or none where what is written is another valid field or run: then it must evaluate to
finite numbers, or go on training), what ran (pickles, shells, imports, files written), the peak of
memory above what there was before (asked: 10 times the file + 64 MiB), the seconds, and whether the
trainer, where its file was refused, is to the bit what it was.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import hashlib
import json
import math
import os
import pickle
import random
import resource
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import transportflows as tpf
from transportflows._core import container

Made = Callable[[Path], None]
SECONDS, TIMES, SPARE = 1.0, 10, 2**26
WATCHED = ("pickle.find_class", "os.system", "os.exec", "os.fork", "exec")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("it_ran",)


# ------------------------------------------------------------------------- files that are right


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net(**more: Any) -> tpf.networks.MLP:
    return tpf.networks.MLP(2, 4, 2, generator=seeded(), **more)


def fields() -> dict[str, tpf.Field]:
    """Fields that between them hold most of what a file may name."""
    normal = tpf.Gaussian((2,), 0.5, 2.0)
    mixture = tpf.distributions.GaussianMixture(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 0.5)
    units = tpf.Standardize(torch.tensor([1.0, 2.0]), 3.0)
    P = tpf.Process
    return {
        "velocity": tpf.Velocity(net(), P(tpf.Linear(tpf.Brownian(0.5)), normal), transform=units),
        "chain": tpf.NoisePredictor(net(labels=3), P(tpf.sdes.DDPMChain(levels=30), shape=(2,))),
        "pair": tpf.FieldPair(velocity=net(), noise=net(), process=P(tpf.Linear(), mixture)),
        "edm": tpf.EDM(net(), P(tpf.VE(), shape=(2,)), sigma_data=0.4),
        "transport": tpf.Velocity(
            net(activation="tanh"),
            P(tpf.Trigonometric(), tpf.distributions.Uniform((2,)), tpf.MinibatchOT("sinkhorn")),
        ),
    }


class Stop(tpf.training.EarlyStop):
    """The callback whose state is in a checkpoint."""


def trainers() -> dict[str, Callable[[], tpf.Trainer]]:
    """Makers of trainers, with optimizers, schedules and averages of several kinds."""

    def made(**options: Any) -> tpf.Trainer:
        law = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))
        return tpf.Trainer(tpf.Velocity(net(), law), tpf.VelocityLoss(), **options)

    schedulers = torch.optim.lr_scheduler
    sgd = {"optimizer": lambda ps: torch.optim.SGD(ps, 1e-2, momentum=0.9)}
    return {
        "adam": lambda: made(ema=0.9, scheduler="cosine"),
        "sgd": lambda: made(**sgd, scheduler=lambda o: schedulers.OneCycleLR(o, 0.1, 99)),
        "plateau": lambda: made(
            optimizer=torch.optim.AdamW, scheduler=lambda o: schedulers.ReduceLROnPlateau(o)
        ),
    }


def fit(trainer: tpf.Trainer, steps: int) -> None:
    rows = torch.randn(40, 2, generator=seeded(1))
    trainer.fit(rows, steps=steps, batch_size=16, validation=rows[:8], progress=False)


# --------------------------------------------------------------------------------- kinds of harm


def forged(whole: bytes, change: Callable[[Any], Any]) -> bytes:
    """A file whose description is changed, as text or as JSON, with right sums."""
    length = int.from_bytes(whole[:8], "little")
    text = json.loads(whole[8 : 8 + length])
    text["__metadata__"]["sha256"] = "0" * 64
    changed = change(text)
    raw = (
        changed if isinstance(changed, bytes) else json.dumps(text, separators=(",", ":")).encode()
    )
    size = len(raw).to_bytes(8, "little")
    digest = hashlib.sha256(size + raw).hexdigest().encode()
    return size + raw.replace(b"0" * 64, digest, 1) + whole[8 + length :]


def damaged(whole: bytes, flips: int) -> Iterator[tuple[str, bytes]]:
    """Kinds of damage, and what is no file of ours."""
    for k in range(100):
        yield "cut short", whole[: k * len(whole) // 100]
    draw = random.Random(0)
    for _ in range(flips):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole)) if draw.random() < 0.7 else draw.randrange(400)] ^= (
            1 << draw.randrange(8)
        )
        yield "a flipped bit", bytes(changed)
    bomb = pickle.dumps(Bomb())
    middle = len(whole) // 2
    for content in (bomb, whole + bomb, whole[:middle] + bomb + whole[middle:], bomb + whole):
        yield "a pickle that runs code", content
    for content in (b"", b"\0" * 99, b"PK\3\4" * 30, b"\x7fELF" * 30, b"{}" * 99, whole * 2):
        yield "another format", content
    for length in (0, 1, 2**31, 2**40, 2**63, 2**64 - 1, len(whole)):
        yield "a length that asks for memory", length.to_bytes(8, "little") + whole[8:]


def described(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Descriptions that cannot be, with right sums."""
    length = int.from_bytes(whole[:8], "little")
    names = [name for name in json.loads(whole[8 : 8 + length]) if name != "__metadata__"]
    dtypes = ["qint8", "quint4x2", "C64", "F4", "F128", "f32", "", None, 3, [], {}, "F64", "I64"]
    shapes: list[Any] = [[-1], [2**62, 2**62], [2**63], [2**31] * 64, [1] * 10**4, [2**62] * 99]
    shapes += [[1.0], ["1"], [None], [[1]], {}, None, 3, "12", [True], [0, 2**62], [math.nan]]
    places: list[Any] = [
        [0, 0],
        [-8, 0],
        [0, 2**63],
        [8, 0],
        None,
        [],
        [0],
        [0, 1, 2],
        "ab",
        [1, 5],
    ]
    places += [[0.0, 8.0], [True, 8], {}, [2**63, 2**63 + 8], [4, 12]]

    def put(name: str, key: str, value: Any) -> Callable[[Any], None]:
        return lambda text: text[name].__setitem__(key, value)

    for name in names[:6] + names[-2:]:
        for key, values in (("dtype", dtypes), ("shape", shapes), ("data_offsets", places)):
            for value in values:
                yield f"a tensor's {key}", forged(whole, put(name, key, value))
        for change in (
            lambda text, name=name: text.pop(name),
            lambda text, name=name: text.update({name + "/../../x": text[name]}),
            lambda text, name=name: text.update({name: 3}),
            lambda text, name=name: text[name].update(more=1),
            lambda text, name=name: text[name].pop("shape"),
        ):
            yield "tensors that are not there, twice, or none", forged(whole, change)
    texts: list[Any] = [None, 3, [], "", "{", "[]", "3", "null", '"x"', "{}", "[" * 10**5, "NaN"]
    texts += ["[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, "[" + "[]," * 10**6 + "[]]"]
    texts += ["[" + '{"":0},' * 10**6 + "{}]", '{"a":1,"a":2}', "9" * 10**5, "é", '"\\ud83d"']
    texts += ['{"$":"%s","of":[]}' % kind for kind in ("object", "reduce", "eval", "set", "path")]
    texts += [
        '{"$":"dict","of":[[[],1]]}',
        '{"$":"bytes","of":"%"}',
        '{"$":"tensor","name":"../x"}',
    ]
    texts += [
        '{"$":"tuple","of":3}',
        '{"$":"counter","of":[[1]]}',
        '{"$":[],"of":[]}',
        '{"$":null}',
    ]
    for key in ("tree", "header"):
        for value in texts:
            yield f"a {key} of no use", forged(whole, put("__metadata__", key, value))
    for key in ("transportflows", "data_sha256"):
        for value in (None, "", "0", "2", "999999999", "x", 1, [], "0" * 63, "é"):
            yield "another version or sum", forged(whole, put("__metadata__", key, value))

    def twice(text: Any) -> bytes:
        raw = json.dumps(text, separators=(",", ":")).encode()
        return raw[:-1] + b',"__metadata__":{"header":"{}","tree":"3","data_sha256":""}}'

    yield "a key that comes twice", forged(whole, twice)
    yield (
        "a key that comes twice",
        forged(
            whole,
            lambda text: json.dumps(text, separators=(",", ":")).encode()[:-1] + b',"a":1,"a":1}',
        ),
    )
    yield "bytes that are no ASCII", forged(whole, lambda text: json.dumps(text).encode() + b"\xff")


def values() -> list[Any]:
    """What is put in the place of each part of a tree."""
    numbers = [0, 1, -1, 3, 10**6, 10**9, 10**12, 2**63, -(2**63), 10**400]
    reals = [0.0, -0.5, 0.5, 1e308, 1e-320, math.nan, math.inf, -math.inf]
    words = ["", "x", "os.system", "../../x", "MLP", "Linear", "silu", "\0", "é" * 9]
    lists = [[], [1], [[]], [None], [0] * 999, [10**5] * 2, [10**9], ["x"], [-1], [2, 2], [0.5]]
    described = [
        {"class": name, "arguments": {}} for name in ("Linear", "Storable", "Field", "MLP")
    ]
    described += [{"class": "Gaussian", "arguments": {"shape": [n]}} for n in (2, 3, 10**11)]
    described += [{"class": "os.system", "arguments": {"command": "touch it_ran"}}]
    described += [
        {"class": "VE", "arguments": []},
        {"class": []},
        {"arguments": {}},
        {"class": "VE"},
    ]
    dicts = [{}, {"dict": {}}, {"dict": 3}, {"custom": "os.system"}, {"": 0}, {0: 0}, {"a": {}}]
    others = [None, True, False, b"raw", (), (1, 2), Counter({1: 1})]
    t = torch.tensor
    tensors = [t(0.0), t(1.0), t(-1.0), t(math.nan), t([]), t([1.0, math.nan]), t([0.5, 0.5])]
    tensors += [torch.zeros(3), torch.zeros(2, 2), torch.eye(2), -torch.eye(2), t([math.inf] * 2)]
    tensors += [t(3), t([1, 2]), t([True, False]), t(1j), t([1e300], dtype=torch.float64)]
    tensors += [torch.zeros(2, dtype=torch.bfloat16), torch.zeros(0, 10**6), torch.ones(1, 2_000)]
    arrays = [np.zeros(2), np.array(3), np.array([math.nan]), np.zeros((0, 2)), np.array([-1, 5])]
    return [*numbers, *reals, *words, *lists, *described, *dicts, *others, *tensors, *arrays]


def places(tree: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all parts of a tree."""
    if way:
        yield way
    if isinstance(tree, dict):
        for key, item in tree.items():
            yield from places(item, (*way, key))
    elif isinstance(tree, (list, tuple)):
        for k, item in enumerate(tree):
            yield from places(item, (*way, k))


def changed(tree: Any, way: tuple[Any, ...], change: Callable[[Any, Any], Any]) -> Any:
    """The tree with another thing at a place; shares what is the same."""
    if len(way) == 1:
        made = copy.copy(list(tree) if isinstance(tree, tuple) else tree)
        change(made, way[0])
    else:
        made = copy.copy(list(tree) if isinstance(tree, tuple) else tree)
        made[way[0]] = changed(tree[way[0]], way[1:], change)
    return type(tree)(made) if isinstance(tree, tuple) else made


def edited(path: Path, each: int) -> Iterator[tuple[str, Made]]:
    """Files whose trees or headers have something else at one place, with right sums.

    Args:
        path: the file.
        each: how many of the values to put at each place.
    """
    header, tree = container.read(path)
    both, draw = {"header": header, "tree": tree}, random.Random(7)
    told = {"torch", "python", "written", "device", "threads", "process", "parameters", "transform"}
    told |= {"transportflows", "loss", "validation", "class", "outputs", "networks", "settings"}

    def writer(changes: Callable[[], Any]) -> Made:
        def make(to: Path) -> None:
            found = changes()
            container.write(to, found["header"], found["tree"])

        return make

    for way in places(both):
        if way[0] == "header" and (len(way) == 1 or way[1] in told or "run" in way[:-1]):
            continue  # for people, or compared where a run is resumed
        if way == ("tree",):
            continue
        what = ".".join(str(k) if not isinstance(k, int) else "·" for k in way[:2])
        some = values()
        for value in draw.sample(some, min(each, len(some))):
            if way[0] == "header" and not _is_json(value):
                continue

            def replace(way: Any = way, value: Any = value) -> Any:
                return changed(both, way, lambda at, key: at.__setitem__(key, value))

            yield f"another {what}", writer(replace)
        yield (
            f"no {what}",
            writer(lambda way=way: changed(both, way, lambda at, key: at.__delitem__(key))),
        )
        held = both
        for key in way:
            held = held[key]
        for word, more in (("more", "more"), ("again", way[-1])):
            if type(held) is dict:
                add = lambda at, key, more=more: at.__setitem__(key, {**at[key], more: at[key]})  # noqa: E731
            elif type(held) is list:
                add = lambda at, key: at.__setitem__(key, [*at[key], at[key]])  # noqa: E731
            else:
                break
            yield f"{word} in {what}", writer(lambda way=way, add=add: changed(both, way, add))


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def no_files() -> Iterator[tuple[str, Made]]:
    """What may lie in the place of a file."""

    def listening(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))

    def sparse(size: int, start: bytes) -> Made:
        def make(path: Path) -> None:
            path.write_bytes(start)
            os.truncate(path, size)

        return make

    yield "a pipe", os.mkfifo
    yield "a folder", Path.mkdir
    yield "a socket", listening
    for target in ("/dev/zero", "/dev/random", "/dev/full", "/dev/null", "/proc/self/mem", "/"):
        yield "a link to a device", lambda path, target=target: path.symlink_to(target)
    start = (2**40).to_bytes(8, "little") + b'{"__metadata__":{"transportflows":"1","sha256":"'
    start += b"0" * 64 + b'","data_sha256":""}}'
    for size in (2**20, 2**30, 2**36, 2**41):
        yield "a sparse file", sparse(size, start)
        yield "a sparse file", sparse(size, (size - 8).to_bytes(8, "little") + start[8:])


# --------------------------------------------------------------------------------------- watching


def bytes_now(name: str) -> int:
    """A figure of this process's memory, ``VmRSS`` or its peak ``VmHWM``."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def forget_peak() -> None:
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


class Watch:
    """What a reader does with a file, seen from within its process."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.on = False
        sys.addaudithook(self._hear)
        signal.signal(signal.SIGALRM, self._late)

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if not self.on:
            return
        opened = event == "open" and isinstance(given[1], str) and set(given[1]) & set("wax+")
        named = event == "import" and given[0].split(".")[0] in ("os", "antigravity", "subprocess")
        if event.startswith(WATCHED) or event.startswith("subprocess") or opened or named:
            code = given[0] if event == "exec" else None
            if getattr(code, "co_filename", "")[:1] in ("/", "<"):
                return  # a module of an installed package, imported when it is first needed
            self.seen.append(event)

    @staticmethod
    def _late(*_: Any) -> None:
        raise TimeoutError

    def __call__(self, read: Callable[[], Any]) -> tuple[Any, BaseException | None, float, int]:
        """Result, error, seconds and peak of memory above what there was."""
        forget_peak()
        before, began, result, error = bytes_now("VmRSS"), time.perf_counter(), None, None
        signal.alarm(20)
        self.on = True
        try:
            result = read()
        except BaseException as problem:
            error = problem
        self.on = False
        signal.alarm(0)
        return result, error, time.perf_counter() - began, bytes_now("VmHWM") - before


# --------------------------------------------------------------------------------------- the run


def works(field: tpf.Field, scratch: Path) -> bool:
    """Whether a field that was read is one: finite numbers, and the same when saved and read."""
    labels = getattr(field.networks[0], "labels", None)
    cond = {"label": torch.zeros(3, dtype=torch.long)} if labels else {}
    x = torch.ones(3, *field.networks[0].shape, dtype=field.reference().dtype)
    t = torch.full((3,), 0.4, dtype=x.dtype)
    with torch.no_grad():
        given = field.predict(t, x, cond)
        field.save(scratch)
        again = tpf.load_field(scratch).predict(t, x, cond)
    return all(a.isfinite().all() and torch.equal(a, b) for a, b in zip(given, again, strict=True))


def bits(trainer: tpf.Trainer) -> bytes:
    """All that a trainer is, to the bit."""
    from transportflows.training.snapshots import snapshot

    run = (trainer.position, trainer.told, trainer.description, trainer.settings)
    return pickle.dumps((snapshot(trainer, None, ())[1], run, repr(trainer.recorder.history())))


def child(cases: list[tuple[str, str, Made, str]], results: Any) -> None:
    """Read some files, and write what happened, a line of JSON each."""
    watch, makers, kept = Watch(), trainers(), dict[str, tpf.Trainer]()
    repr(-torch.eye(2))  # imports what shows a tensor
    room = bytes_now("VmSize") + 2**33
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    path, other = Path("a.file"), Path("again.file")
    for k, (reader, kind, make, name) in enumerate(cases):
        results.write(json.dumps({"began": k}) + "\n")
        results.flush()
        make(path)
        found = os.stat(path)
        size = found.st_blocks * 512 if found.st_size > 2**24 else found.st_size
        told: dict[str, Any] = {"kind": f"{reader}: {kind}", "size": size}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if reader == "field":
                result, error, seconds, peak = watch(lambda: tpf.load_field(path))
                told["right"] = error is not None or bool(_tried(lambda: works(result, other)))
            else:
                if kept.get(name) is None:
                    kept[name] = makers[name]()
                    fit(kept[name], 2)
                trainer = kept[name]
                before = bits(trainer)
                result, error, seconds, peak = watch(lambda: trainer.load(path))
                if error is not None:
                    told["right"] = bits(trainer) == before
                else:
                    told["right"] = bool(_tried(lambda: _goes_on(trainer)))
                if error is None or not told["right"]:
                    del kept[name]
        one = isinstance(error, tpf.fields.DamagedFileError) and str(path) in str(error)
        told["how"] = "refused" if one else "read" if error is None else type(error).__name__
        told["error"] = repr(error)[:300]
        told.update(
            seconds=seconds, peak=peak, ran=watch.seen[:5] + ["mkdir"] * Path("it_ran").exists()
        )
        watch.seen.clear()
        results.write(json.dumps(told) + "\n")
        results.flush()
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _tried(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception as error:
        print("    ", repr(error)[:200], file=sys.stderr)
        return False


def _goes_on(trainer: tpf.Trainer) -> bool:
    """Whether a trainer that took up a file trains on."""
    at = trainer.step
    fit(trainer, 2)
    return trainer.step == at + 2 and all(bool(p.isfinite().all()) for p in trainer.parameters)


def all_cases(scratch: Path, quick: bool) -> list[tuple[str, str, Made, str]]:
    """Reader, kind, maker and what it is made of, of every file."""
    cases: list[tuple[str, str, Made, str]] = []

    def given(content: bytes) -> Made:
        return lambda path: path.write_bytes(content) and None

    for reader, sources in (("field", fields()), ("checkpoint", trainers())):
        for k, (name, source) in enumerate(sources.items()):
            path = scratch / f"{name}.right"
            if reader == "checkpoint":
                trainer = source()
                fit(trainer, 12)
                trainer.save(path)
            else:
                source.save(path)
            whole = path.read_bytes()
            if k == 0:
                flips = 40 if quick else 500
                cases += [(reader, kind, given(c), name) for kind, c in damaged(whole, flips)]
                cases += [(reader, kind, given(c), name) for kind, c in described(whole)]
                cases += [(reader, kind, make, name) for kind, make in no_files()]
            cases += [(reader, kind, make, name) for kind, make in edited(path, 1 if quick else 4)]
    return cases


def watched(cases: list[tuple[str, str, Made, str]], folder: Path) -> list[dict[str, Any]]:
    """What happened to each file; a process that dies is told, and another goes on after it."""
    found: list[dict[str, Any]] = []
    while len(found) < len(cases):
        log = folder / "results"
        sys.stdout.flush()
        number = os.fork()
        if number == 0:
            os.chdir(folder)
            with open(log, "w") as results:
                try:
                    child(cases[len(found) :], results)
                except BaseException:
                    import traceback

                    traceback.print_exc()
                    os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        begun = len(found) + sum("began" in line for line in lines)
        found += [line for line in lines if "began" not in line]
        if code and begun > len(found):
            reader, kind, _, _ = cases[len(found)]
            dead = {"kind": f"{reader}: {kind}", "size": 0, "how": f"ended with {code}"}
            found.append({**dead, "error": "", "seconds": 0, "peak": 0, "ran": [], "right": False})
    return found


def run(quick: bool = False) -> tuple[str, tuple[str, ...], list[tuple[Any, ...]]]:
    """Read them all; a row for each kind of file."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        cases = all_cases(Path(scratch), quick)
        found = watched(cases, Path(scratch))
    rows: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        rows.setdefault(one["kind"], []).append(one)
        if not good(one):
            print(json.dumps(one), file=sys.stderr)
    title = f"{len(found):,} hostile files"
    columns = ("kind", "files", "refused", "read, and right", "else", "ran", "MiB", "most s")
    table = [row(kind, some) for kind, some in sorted(rows.items())]
    return title, columns, [*table, row("all", found)]


def good(one: dict[str, Any]) -> bool:
    """Whether a file was met as it should be."""
    light = one["peak"] <= TIMES * one["size"] + SPARE
    fine = one["how"] in ("refused", "read") and one["right"]
    return fine and not one["ran"] and light and one["seconds"] <= SECONDS


def row(kind: str, some: list[dict[str, Any]]) -> tuple[Any, ...]:
    """What happened to the files of a kind."""
    refused = sum(one["how"] == "refused" and one["right"] for one in some)
    read = sum(one["how"] == "read" and one["right"] for one in some)
    ran = sum(bool(one["ran"]) for one in some)
    peak = max(one["peak"] for one in some) / 2**20
    slowest = max(one["seconds"] for one in some)
    others = len(some) - refused - read
    return kind, len(some), refused, read, others, ran, f"{peak:.0f}", f"{slowest:.2f}"


if __name__ == "__main__":
    from _common import table

    print(table(*run("--quick" in sys.argv)[1:]))
