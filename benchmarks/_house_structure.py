"""The structure of the library in numbers: what house.py's table says of the source.

Read from the source by ``ast``, save for what has to run: frames, functions and the import.

- *frames*: of the package's files, between the user's call and the network's first ``forward``.
- *distinct functions*: code objects of the package's files that ``sys.setprofile`` sees;
  comprehensions, generator expressions and lambdas are not counted (``<...>`` names).
- *functions over 60 lines*: blank lines and docstrings not counted; inner functions are part of
  the outer one.
- *functions whose body only forwards*: one statement that calls a function of the library (a bare
  name of the package, or a method of self or cls) with exactly the parameters, at least one.
- *circles*: strongly connected components of all imports, under TYPE_CHECKING and in functions
  included. An import of a name from a package counts as one of that package.
- *step loops*: uses of ``tqdm(`` outside ``training``, a proxy.
- *places that weigh predictions*: functions that call ``.predict(`` outside losses, a proxy: each
  multiplies what it gets by weights of its own.
- *spellings of Δ*: modules with a difference of a product of β̇ (or of a growth β̇/β) and a noise
  scale, and of a term with that scale's rate, by names in ``_house_source.py``.
- *tests of one-sidedness*: reads of ``.one_sided`` outside the file that defines it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from _house import seeded, tpf
from _house_source import Source

__all__ = ["measure"]


class _Watching(nn.Module):
    """A network that notes, at its first call, how deep in the library it is."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.layer, self.root = nn.Linear(2, 2), str(root)
        self.frames: list[str] | None = None

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        if self.frames is None:
            self.frames = []
            frame: FrameType | None = sys._getframe()
            while frame is not None:
                if frame.f_code.co_filename.startswith(self.root):
                    self.frames.append(_qualified(frame.f_code))
                frame = frame.f_back
        return self.layer(x)


def _qualified(code: CodeType) -> str:
    return getattr(code, "co_qualname", code.co_name)  # Python 3.10 knows the plain name only


def _setting(root: Path) -> tuple[_Watching, Any]:
    net = _Watching(root)
    return net, tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))


def _profiled(call: Any, root: Path) -> set[CodeType]:
    """Code objects of the library that a call runs."""
    seen = set()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(root)):
            seen.add(frame.f_code)

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {code for code in seen if not code.co_name.startswith("<")}


def ways(root: Path) -> dict[str, Any]:
    """Frames up to the first network call, and functions run, of ``fit`` and ``sample``."""
    data = torch.randn(64, 2, generator=seeded(0))

    def fit(field: Any) -> Any:
        trainer = tpf.Trainer(field, tpf.VelocityLoss())
        return lambda: trainer.fit(
            data, steps=1, batch_size=16, progress=False, generator=seeded(0)
        )

    def sample(field: Any) -> Any:
        return lambda: tpf.sample(field, 8, epsilon=0.5, steps=3, generator=seeded(0))

    told: dict[str, Any] = {}
    for what, make in (("fit", fit), ("sample", sample)):
        net, field = _setting(root)
        make(field)()
        told[f"{what}: frames"] = (net.frames or [])[::-1]
        codes = _profiled(make(field), root)
        told[f"{what}: functions"] = sorted(map(_qualified, codes))
    return told


def import_seconds(root: Path, rounds: int = 7) -> float:
    """CPU seconds of the import above torch's own: the median over fresh processes.

    With bytecode in a cache, as an installed package has it: the first process fills it.
    """
    code = (
        "import time, torch; a = time.process_time(); import transportflows;"
        "print(time.process_time() - a)"
    )
    times = []
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as cache:
        own = {**kept, "PYTHONPATH": str(root.parent), "PYTHONPYCACHEPREFIX": cache}
        for _ in range(rounds + 1):
            run = subprocess.run(
                [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=own
            )
            times.append(float(run.stdout))
    return statistics.median(times[1:])


def top_names(package: ModuleType) -> list[str]:
    """Names of ``__all__`` that are no namespaces."""
    return [n for n in package.__all__ if not isinstance(getattr(package, n), ModuleType)]


def measure(imports: bool = True) -> dict[str, Any]:
    """Everything, each as a number or a list of places."""
    import transportflows

    root = Path(transportflows.__file__).parent
    source = Source(root)
    found: dict[str, Any] = {
        **ways(root),
        "forwarding": source.forwarding,
        "long functions": source.long_functions,
        "long files": source.long_files,
        "step loops": source.step_loops,
        "weighed": source.weighed,
        "deltas": source.deltas,
        "one-sided": source.one_sided,
        "circles": source.circles,
        "names": top_names(transportflows),
        "lines": source.lines,
        "code": source.code,
    }
    if imports:
        found["import seconds"] = import_seconds(root)
    return found
