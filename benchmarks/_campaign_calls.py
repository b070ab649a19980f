"""Malformed and edge calls of all that is public: what the library makes of them.

Valid calls (`_calls_valid.py`: every function and class, and the methods of objects) have one or
two arguments replaced by values of a pool (`_calls_values.py`), an argument left out, one too many,
or a wrong keyword; from a fixed seed. What is returned is shown, by `repr`, as part of the call.

- *refused*: an error that a `raise` of the library made.
- *Python's own*: a wrong keyword or number of arguments of the call itself.
- *raw errors*: any other, that came out of torch, numpy, scipy or Python.
- *NaN*: a number that is not one in what was returned; save where one was given to a record of
  results, which holds it, or to a method that works element by element, which hands it on.
- *nonsense*: accepted, and of a kind that the annotation of the argument does not admit, or out of
  the range of its meaning (`judged`); candidates are printed and were looked at one by one.
- *hangs*: more than 10 seconds of the processor.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import linecache
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import _calls_valid as valid
import transportflows as tpf
from _calls_values import POOL

SEED = 0
CALLS, FEW = 12_000, 1_500
SECONDS = 10.0
ROOT = str(Path(tpf.__file__).parent)


@dataclasses.dataclass
class Target:
    """Something public that is called, with valid arguments."""

    name: str
    function: str  # an expression
    given: str  # arguments, an expression

    def make(self) -> tuple[Callable[..., Any], dict[str, Any], tuple[Any, ...]]:
        """What is called, its arguments by name, and those that have no name."""
        names = vars(valid) | {"_given": lambda *args, **kwargs: (args, kwargs)}
        function = eval(self.function, names)
        args, kwargs = eval(f"_given({self.given})", names)
        parameters = list(_parameters(function).values())
        named = [
            p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        return function, dict(zip(named, args, strict=False)) | kwargs, args[len(named) :]


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    is_module = isinstance(function, nn.Module)
    return inspect.signature(function.forward if is_module else function).parameters


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.strip().splitlines():
        name, _, given = line.partition("|")
        yield name.strip(), given.strip()


@functools.cache
def targets() -> tuple[Target, ...]:
    """All functions and classes, and each public method once for each class that writes it."""
    found = [Target(f"{n}({g})", f"tpf.{n}", g) for n, g in _lines(valid.CALLS)]
    special = dict(_lines(valid.METHODS))
    found += [Target(f"{name}({given})", name, given) for name, given in special.items()]
    made = [eval(name, vars(valid)) for name in special]
    methods = [one for one in made if inspect.ismethod(one)]
    written = {one.__qualname__ for one in methods}
    written |= {f"{type(one.__self__).__qualname__}.{one.__name__}" for one in methods}
    for maker, _ in _lines(valid.OBJECTS):
        value = eval(maker, vars(valid))
        for name in dir(type(value)):
            member = inspect.getattr_static(type(value), name)
            member = getattr(member, "__func__", member)
            hidden = name.startswith("_") and name != "__call__"
            ours = (getattr(member, "__module__", "") or "").startswith("transportflows")
            if hidden or not ours or not inspect.isfunction(inspect.unwrap(member)):
                continue
            key = f"{type(value).__qualname__}.{name}" if name in HOT else member.__qualname__
            if key in written or member.__qualname__ in NOT_CALLED:
                continue
            written.add(key)
            parameters = _parameters(getattr(value, name)).values()
            needed = [
                p
                for p in parameters
                if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
            ]
            missing = [p.name for p in needed if p.name not in valid.BY_NAME]
            if missing:
                raise LookupError(f"{member.__qualname__} takes {missing}: say so in BY_NAME")
            given = ", ".join(f"{p.name}={valid.BY_NAME[p.name]}" for p in needed)
            found.append(Target(f"{maker}.{name}", f"({maker}).{name}", given))
    return tuple(found)


HOT = {"velocity", "score", "noise", "data", "sample", "log_prob", "beta", "gamma_sq", "gamma"}
"""Methods tried on every class that has them."""
NOT_CALLED = {
    "SpecialMethods",
    "TransportPlan.pair_at",  # by the trainer alone, at each step
    "FlowMap.between",  # by losses and steppers alone, and what networks give them for it
    "SolvedMap.between",
    "SolvedMap.solved",
    "GuidedMap.between",
    "TwoTimes.with_tangent",
    "MLP.with_tangent",
}


# ------------------------------------------------------------------------------------- attacks


@dataclasses.dataclass(frozen=True)
class Attack:
    """A call with something wrong in it: values of the pool by parameter, or a change of shape."""

    target: Target
    replaced: tuple[tuple[str, str], ...] = ()
    change: str = ""

    def __str__(self) -> str:
        inner = ", ".join(f"{name} := {value}" for name, value in self.replaced)
        return f"{self.target.name}  [{inner or self.change}]"

    def call(self) -> Any:
        """Make the call."""
        function, kwargs, rest = self.target.make()
        for name, value in self.replaced:
            kwargs[name] = POOL[value][1]()
        if self.change == "one is missing":
            kwargs.pop(next(iter(kwargs), ""), None)
        elif self.change == "a wrong keyword":
            kwargs["wrong_keyword"] = 1
        elif self.change == "too many":
            rest = (*rest, *range(40))
        parameters = _parameters(function).values()
        first = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name in kwargs]
        return function(*(kwargs.pop(name) for name in first), *rest, **kwargs)


def attacks(seed: int, count: int) -> list[Attack]:
    """Distinct attacks: four in five of one argument, one in five of two, a few of shape."""
    draw = random.Random(seed)
    pool = list(POOL)
    open_ = []
    for target in targets():
        names = [
            p.name
            for p in _parameters(target.make()[0]).values()
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        open_.append((target, names))
    places = [(target, name) for target, names in open_ for name in names]
    changes = ("one is missing", "a wrong keyword", "too many")
    changed = [Attack(target, change=one) for target, names in open_ if names for one in changes]
    found = {str(one): one for one in draw.sample(changed, min(len(changed), count // 20))}
    names_of = {id(target): names for target, names in open_}
    while len(found) < count:
        target, name = draw.choice(places)
        replaced = {name: draw.choice(pool)}
        if draw.random() < 0.2 and len(names_of[id(target)]) > 1:
            replaced[draw.choice(names_of[id(target)])] = draw.choice(pool)
        attack = Attack(target, tuple(sorted(replaced.items())))
        found[str(attack)] = attack
    return list(found.values())


# ------------------------------------------------------------------------------------ outcomes


class HangError(BaseException):
    """The call took too long."""


@dataclasses.dataclass
class Outcome:
    """What a call came to, and the place and words that tell its kind."""

    kind: str
    place: str = ""
    words: str = ""


def outcome(attack: Attack) -> Outcome:
    """Make a call, and say what came of it."""

    def stop(*_: Any) -> None:
        raise HangError

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            result = attack.call()
            text = repr(result)
        signal.setitimer(signal.ITIMER_PROF, 0)
    except HangError:
        return Outcome("hang", "", "")
    except BaseException as error:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return _of_error(error, attack)
    if has_nan(result):
        given = any(
            POOL[value][0].startswith("bad") or "inf" in value or "nan" in value
            for _, value in attack.replaced
        )
        echoed = given and (is_record(attack.target.make()[0]) or is_elementwise(attack))
        return Outcome("accepted" if echoed else "nan", "", text[:100])
    return Outcome("accepted", "", text)


def _of_error(error: BaseException, attack: Attack) -> Outcome:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f.filename.startswith(ROOT)]
    words = f"{type(error).__name__}: {str(error)[:160]}".replace("\n", " ")
    last = frames[-1]
    if last.filename.startswith(ROOT) and last.lineno in raises(last.filename):
        if isinstance(error, KeyError) or type(error) is AssertionError:
            return Outcome("raw", f"{last.filename[len(ROOT) + 1 :]}:{last.lineno}", words)
        return Outcome("refused", f"{last.filename[len(ROOT) + 1 :]}:{last.lineno}", words)
    inner = [f for f in ours if not f.filename.endswith("signatures.py")]
    outside = [f for f in frames if not f.filename.endswith(("_contextlib.py", "signatures.py"))]
    own = re.search(
        r"missing \d+ required|unexpected keyword|positional argument|multiple values", words
    )
    if (
        isinstance(error, TypeError)
        and own
        and not inner
        and outside[-1].filename.endswith((__file__, "torch/nn/modules/module.py"))
    ):
        return Outcome("python", "", words)
    if isinstance(error, OSError) and error.filename is not None:
        return Outcome("python", "", words)  # the system's own, of a path
    if attack.change == "a wrong keyword" and "'wrong_keyword'" in words:
        return Outcome("python", "", words)  # handed on to a network, which says so
    place = ours[-1] if ours else last
    name = place.filename.removeprefix(ROOT + "/")
    return Outcome("raw", f"{name}:{place.lineno}", words)


@functools.cache
def raises(path: str) -> frozenset[int]:
    """The lines of a file that belong to statements that raise an error of their own."""
    tree = ast.parse("".join(linecache.getlines(path)))
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            found.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return frozenset(found)


def has_nan(value: Any, depth: int = 0) -> bool:
    """Whether a result holds a NaN."""
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, Tensor):
        numbers = value.is_floating_point() or value.is_complex()
        return (
            numbers
            and value.layout is torch.strided
            and not value.is_meta
            and bool(value.isnan().any())
        )
    if depth > 3:
        return False
    if isinstance(value, (tuple, list)):
        return any(has_nan(one, depth + 1) for one in value[:50])
    if isinstance(value, dict):
        return any(has_nan(one, depth + 1) for one in itertools.islice(value.values(), 50))
    if isinstance(value, nn.Module):
        return any(has_nan(one) for one in (*value.parameters(), *value.buffers()))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return any(has_nan(getattr(value, f.name), depth + 1) for f in dataclasses.fields(value))
    return False


# -------------------------------------------------------------------------------------- judging

_ADMITTED = {
    "bool": {"flag", "int"},
    "int": {"int", "number", "tensor number"},
    "float": {"int", "number", "tensor number"},
    "Weight": {"int", "number", "tensor"},
    "str": {"text"},
    "Tensor": {"tensor", "tensor number"},
    "Mapping": {"dict"},
    "dict": {"dict"},
    "Sequence": {"list", "array"},
    "Iterable": {"list", "array"},
    "list": {"list", "array"},
    "tuple": {"list", "array"},
    "Callable": {"function", "module", "class"},
    "Network": {"function", "module"},
    "Module": {"module"},
    "Generator": {"generator"},
    "dtype": {"dtype"},
    "device": {"device", "text"},
    "Distribution": {"law"},
    "Process": {"process"},
    "Interpolant": {"path"},
    "Field": {"field"},
    "Loss": {"loss"},
    "Regression": {"loss"},
    "EpsilonSchedule": {"schedule"},
    "Epsilon": {"schedule", "int", "number", "function", "tensor number"},
    "Scheme": {"scheme"},
    "Strength": {"int", "number", "text", "function", "tensor number"},
    "Spacing": {"function"},
    "Extractor": {"module", "function"},
    "None": {"none"},
    "PathLike": {"text"},
}
_ANYTHING = {"Any", "object", "_Class", "BatchLike", "Data", "T"}
_SIGNED = {
    *("mean", "low", "high", "start", "stop", "loss", "key", "dim", "step", "first", "t0", "t1"),
    *("limits", "value_range", "dtype", "x", "u", "log_ratio", "coordinates"),
    *("label", "scale"),
}
"""Numbers that may be negative, or infinite."""
_COUNTS = {
    *("steps", "n", "batch_size", "points", "probes", "frequencies", "neighbours", "blocks"),
    *("permutations", "times", "every", "levels", "projections", "starts", "draws", "width"),
    *("steps_per_level", "leapfrog", "patience", "keep", "accumulate", "chunk", "block"),
}
"""Counts of which 0 means nothing."""


def judged(attack: Attack) -> str:
    """Why an accepted call is a candidate of nonsense; empty if it is none.

    What a record of results holds is not judged, nor are tensors with NaN, or of another kind of
    number, in elementwise functions of time, which give back what torch makes of them.
    """
    function = attack.target.make()[0]
    parameters = _parameters(function)
    if is_record(function):
        return ""
    for name, value in attack.replaced:
        kind, given = POOL[value][0], POOL[value][1]()
        if kind == "bad tensor" and is_elementwise(attack):
            continue
        if kind.startswith("bad"):
            return f"{name}: {kind}"
        annotation = str(parameters[name].annotation)
        words = set(re.findall(r"[A-Za-z_]+", annotation))
        if words & _ANYTHING or "..." in words or parameters[name].annotation is inspect._empty:
            continue
        admitted = set().union(*(_ADMITTED.get(word, set()) for word in words))
        if kind not in admitted:
            return f"{name}: {kind} for {annotation}"
        of_range = type(given) in (int, float) and name not in _SIGNED
        if of_range and (given < 0 or math.isinf(given) or (given == 0 and name in _COUNTS)):
            return f"{name} = {value}"
    return ""


def is_record(function: Any) -> bool:
    """Whether a class is of results, which the library makes and a user reads; or an error."""
    if not isinstance(function, type):
        return False
    made = dataclasses.is_dataclass(function) or hasattr(function, "_fields")
    return made or issubclass(function, BaseException)


def is_elementwise(attack: Attack) -> bool:
    """Whether a method of an object was called, or a step of one's own loop."""
    return not attack.target.function[4:].replace("_", "a").replace(".", "a").isalnum() or (
        attack.target.function.endswith("langevin_step")
    )


# ------------------------------------------------------------------------------------------ run


def campaign(seed: int, count: int, tell: Callable[[str], None] | None = None) -> Counter[str]:
    """Make the calls of a seed; ``tell`` is given a line for each that is not clear."""
    torch.set_num_threads(1)
    state, folder = torch.random.get_rng_state(), tempfile.mkdtemp(prefix="campaign-")
    before, tempfile.tempdir = tempfile.tempdir, folder
    home = Path.cwd()
    os.chdir(folder)  # some calls write files
    counted: Counter[str] = Counter()
    try:
        for attack in attacks(seed, count):
            found = outcome(attack)
            why = judged(attack) if found.kind == "accepted" else ""
            kind = "candidate" if why else found.kind
            counted[kind] += 1
            counted["by shapes"] += "do not go together" in found.words
            if tell is not None and kind not in ("refused", "python", "accepted"):
                line = f"{kind}\t{found.place}\t{why}\t{attack}\t{found.words}"
                tell(line.replace("\n", " "))
    finally:
        os.chdir(home)
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
        torch.random.set_rng_state(state)
        torch.set_default_dtype(torch.float32)
    return counted


def run(quick: bool) -> tuple[str, tuple[str, ...], list[tuple[object, ...]]]:
    """The table."""
    count = FEW if quick else CALLS
    found = campaign(SEED, count, lambda line: print(line, file=sys.stderr))
    of_shapes = found.pop("by shapes")
    total = sum(found.values())

    def share(kind: str) -> str:
        return f"{found[kind]} ({100 * found[kind] / total:.2f} %)"

    rows: list[tuple[object, ...]] = [
        ("distinct calls", f"{total:,}", "≥ 10,000"),
        ("refused by the library", share("refused"), ""),
        ("of these, sizes or shapes that torch refused, told with the arguments", of_shapes, ""),
        ("refused by Python, or of a path by the system", share("python"), ""),
        ("accepted", share("accepted"), ""),
        ("raw errors", share("raw"), "≤ 1 %"),
        ("accepted nonsense, candidates", share("candidate"), "≤ 0.1 %"),
        ("NaN", share("nan"), "0"),
        ("hangs", share("hang"), "0"),
    ]
    return "Malformed and edge calls", ("what", "measured", "reach"), rows


if __name__ == "__main__":
    print(campaign(int(sys.argv[1]), int(sys.argv[2]), print))
