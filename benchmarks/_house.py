"""What house.py's entries stand on: names wherever they live, calls whose form changed, numbers.

The same entries run on the library before and after its names moved. ``find("Velocity")`` looks
at the top of ``transportflows``, then in each of its public namespaces; ``RENAMED`` has the names
that changed, as ``{"Old": "New"}`` or ``{"Old": "namespace.New"}`` where two have one name. Calls
whose form changes belong into the adapters below, and nowhere else.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import math
import pkgutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

__all__ = ["ENTRIES", "compare", "entry", "find", "load", "record", "seeded", "store", "tpf"]

RENAMED: dict[str, str] = {}
SPACES = {
    *("couplings", "datasets", "distributions", "fields", "gaussian_part", "interpolants"),
    *("langevin", "likelihood", "losses", "metrics", "networks", "noise_level", "oracles"),
    *("particles", "plans", "plots", "samplers", "sdes", "solve", "testing", "times", "training"),
}

# --------------------------------------------------------------------------------------- names


@functools.cache
def namespaces() -> list[ModuleType]:
    """The top, then the public modules and packages right below it."""
    top = importlib.import_module("transportflows")
    public = [m.name for m in pkgutil.iter_modules(top.__path__) if not m.name.startswith("_")]
    return [top, *(importlib.import_module(f"transportflows.{name}") for name in sorted(public))]


@functools.cache
def find(name: str) -> Any:
    """A public name of the library, by the one it had before; modules are passed over."""
    now = RENAMED.get(name, name)
    if "." in now:
        place, _, now = now.rpartition(".")
        return getattr(importlib.import_module(f"transportflows.{place}"), now)
    found: list[Any] = []
    for space in namespaces():
        value = getattr(space, now, None)
        if value is not None and not isinstance(value, ModuleType):
            if space is namespaces()[0]:
                return value
            if not any(value is other for other in found):
                found.append(value)
    if len(found) == 1:
        return found[0]
    what = "is nowhere" if not found else "means several things"
    raise AttributeError(f"{now} {what} in transportflows; tell RENAMED where {name} is")


class _Names:
    """``tpf.X`` is ``find("X")``, and ``tpf.samplers.X`` too where samplers has no X (yet)."""

    def __init__(self, space: str = "") -> None:
        self._space = space

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if not self._space:
            return _Names(name) if name in SPACES else find(name)
        space = getattr(importlib.import_module("transportflows"), self._space, None)
        own = isinstance(space, ModuleType) and hasattr(space, name)
        return getattr(space, name) if own else find(name)


tpf = _Names()

# ------------------------------------------------------------------------------------ adapters


def predicted(field: Any, quantity: str, t: Tensor, x: Tensor, **cond: Any) -> Tensor:
    """``field.velocity(t, x, **cond)``, or with ``cond=``."""
    method = getattr(field, quantity)
    mapping = inspect.signature(method).parameters.get("cond")
    if mapping is not None and mapping.kind is not inspect.Parameter.VAR_KEYWORD:
        return method(t, x, cond=cond)
    return method(t, x, **cond)


def loss_values(loss: Any, field: Any, rows: Tensor, seed: int) -> Tensor:
    """A loss of some rows, ``(B,)``."""
    return loss(field, rows, generator=seeded(seed))


def twice_excess(field: Any, exact: Any, sample: Any, quantity: str) -> Tensor:
    """``excess`` as it was: f̂² - 2 f·f̂ minus that of the exact field."""
    return tpf.losses.squared_error(field, exact, sample, quantity)


def time_of_sigma(process: Any, sigma: Tensor) -> Tensor:
    """The times at which a process has these noise levels; its Gaussian part knows them now."""
    if hasattr(process, "part"):
        return process.part.time_of_sigma(sigma)
    return tpf.time_of_sigma(process, sigma)


def few_step(name: str) -> Any:
    """A few-step scheme by name."""
    return tpf.samplers.FEW_STEP[name]


# --------------------------------------------------------------------------------- the entries

ENTRIES: dict[str, Callable[[], Any]] = {}


def entry(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Add an entry: a function that gives tensors, numbers or words, or a mapping of them."""
    if name in ENTRIES:
        raise ValueError(f"two entries are called {name}")
    ENTRIES[name] = functools.partial(function, *args, **kwargs)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of this seed."""
    return torch.Generator().manual_seed(seed)


@contextmanager
def plain_setting() -> Iterator[None]:
    """float64, one thread; and torch's own generator seeded and given back."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


def record(names: list[str] | None = None, tell: Callable[[str], None] | None = None) -> dict:
    """Run entries: their numbers, or the error that one raised, and its seconds."""
    numbers: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for name in ENTRIES if names is None else names:
        begun = time.perf_counter()
        try:
            with plain_setting():
                numbers[name] = reduced(ENTRIES[name]())
        except Exception as error:  # an entry that fails must not hide the others
            numbers[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        seconds[name] = time.perf_counter() - begun
        if tell is not None:
            failed = numbers[name].get("error", "")
            tell(f"{seconds[name]:6.2f} s  {name}  {failed}")
    return {"numbers": numbers, "seconds": seconds}


def reduced(value: Any) -> dict[str, Any]:
    """Each tensor as three float64 numbers of 14 digits; words as they are.

    Mean, standard deviation (about the mean, over N), and a projection on a fixed random vector
    whose scale is that of an element. Up to four elements are kept themselves.
    """
    parts = value if isinstance(value, Mapping) else {"": value}
    found: dict[str, Any] = {}
    for name, part in parts.items():
        if part is None or isinstance(part, (str, bool)):
            found[str(name)] = str(part)
            continue
        flat = torch.as_tensor(part).detach().double().reshape(-1)
        n = len(flat)
        if n <= 4:
            found[str(name)] = [_rounded(v) for v in flat.tolist()]
            continue
        weights = torch.randn(n, generator=seeded(7), dtype=torch.float64) / math.sqrt(n)
        digest = [flat.mean(), flat.std(unbiased=False), flat @ weights]
        found[str(name)] = [_rounded(float(v)) for v in digest]
    return found


def _rounded(value: float) -> float | int:
    value = float(f"{value:.14g}")
    return int(value) if value.is_integer() and abs(value) < 1e9 else value


# ------------------------------------------------------------------------------- files, compare


def store(path: str | Path, told: Mapping[str, Any]) -> None:
    """Write the record, one entry a line."""
    lines = []
    for key, value in told.items():
        if key == "numbers":
            rows = [f"  {json.dumps(name)}: {json.dumps(v)}" for name, v in value.items()]
            lines.append('"numbers": {\n' + ",\n".join(rows) + "\n }")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
    Path(path).write_text("{" + ",\n ".join(lines) + "}\n")


def load(path: str | Path) -> dict[str, Any]:
    """A record."""
    return json.loads(Path(path).read_text())


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, float]:
    """Largest relative difference of each entry of ``now``.

    A number is compared relative to the largest of the numbers of its tensor, so that a mean that
    cancels does not count as a change. Infinite where words, shapes or names of parts differ, or
    where an entry raises that did not.
    """
    return {name: _difference(before.get(name), value) for name, value in now.items()}


def _difference(before: Any, now: Any) -> float:
    if before is None or before.keys() != now.keys():
        return math.inf
    if "error" in before:  # the message may change, the kind may not
        return 0.0 if before["error"].split(":")[0] == now["error"].split(":")[0] else math.inf
    worst = 0.0
    for name, old in before.items():
        new = now[name]
        if old == new:
            continue
        if isinstance(old, str) or isinstance(new, str) or len(old) != len(new):
            return math.inf
        size = max((abs(v) for v in old if math.isfinite(v)), default=0.0)
        for a, b in zip(old, new, strict=True):
            if a == b or (math.isnan(a) and math.isnan(b)):
                continue
            change = abs(a - b) / size if size > 0 else math.inf
            worst = max(worst, change if math.isfinite(change) else math.inf)
    return worst
