"""What sampling does not depend on: the host, and the chunk size.

*Host synchronisations.* A dispatch mode counts the operators that read a value of the device on
the host (``_local_scalar_dense``, ``nonzero``, ``equal``, ``masked_select``, ...; indexing by a
mask; copies from the device to the host), a function mode the calls of Python that do
(``item``, ``tolist``, ``numpy``, ``bool()``, ...). A solve of 100 steps must count as many as one
of 10: then there is none in the step loop. A control with one ``.item()`` in each network call
must be caught. On CUDA (``--device cuda``) the driver counts as well, by its own sync debug mode.

*Chunk size.* 64 rows in a network call against 100,000 at once. Noise: a drift of zero leaves the
noise alone, and the states must agree bit for bit. States: those of an MLP 4 x 64 with random
weights, 20 steps, largest distance over all rows and coordinates, over the root mean square of the
states; beside it the largest over rows of the distance over the row's own norm.

Run ``python benchmarks/invariance.py``.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import transportflows as tpf
from _common import header, table

OPERATORS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::equal",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
}
CALLS = ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__")
SOLVES: dict[str, dict[str, Any]] = {
    "ODE, euler": {"scheme": "euler"},
    "ODE, euler_maruyama": {"scheme": "euler_maruyama"},
    "ODE, midpoint": {"scheme": "midpoint"},
    "ODE, heun": {"scheme": "heun"},
    "ODE, rk4": {"scheme": "rk4"},
    "SDE, euler_maruyama": {"scheme": "euler_maruyama", "epsilon": 0.5},
    "SDE, heun": {"scheme": "heun", "epsilon": 0.5},
    "SDE, rk4": {"scheme": "rk4", "epsilon": 0.5},
    "SDE, heun, ε(t)": {"scheme": "heun", "epsilon": lambda t: 0.3 * (1 + t)},
    "SDE, rk4, ε(t)": {"scheme": "rk4", "epsilon": lambda t: 0.3 * (1 + t)},
    "SDE, heun, ε ∝ σ̂": {"scheme": "heun", "epsilon": tpf.solve.NoiseScaleEpsilon(0.5)},
    "sweep of four ε, heun": {"scheme": "heun", "epsilon": [0.0, 0.25, 0.5, 1.0]},
    "sweep of four ε, rk4": {"scheme": "rk4", "epsilon": [0.0, 0.25, 0.5, 1.0]},
    "SDE, rk4, BrownianPath": {"scheme": "rk4", "epsilon": 0.5, "noise": tpf.solve.BrownianPath(7)},
    "SDE, heun, in chunks, saving": {
        "epsilon": 0.5,
        "chunk": 10,
        "save_at": [0.0, 0.3, 1.0],
    },
}


class HostReads(TorchDispatchMode):
    """Count the operators that make the host wait for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        reads = name in OPERATORS or str(func) == "aten.repeat_interleave.Tensor"
        if name in ("aten::index", "aten::index_put_", "aten::index_put"):
            reads |= any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        out = func(*args, **(kwargs or {}))
        if name in ("aten::_to_copy", "aten::copy_"):
            source = args[1] if name == "aten::copy_" else args[0]
            reads |= source.device.type != "cpu" and out.device.type == "cpu"
        self.count += int(reads)
        return out


class HostCalls(TorchFunctionMode):
    """Count the calls that give Python a value (``tolist`` on a CPU reaches no operator)."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += getattr(func, "__name__", "") in CALLS
        return func(*args, **(kwargs or {}))


def reads(solve: Callable[[], object], device: str) -> int:
    """Host reads of a solve: by operators and calls, or, if more, by the driver's own count."""
    with HostCalls() as calls, HostReads() as operators:
        solve()
    counted = max(calls.count, operators.count)
    if device == "cpu":
        return counted
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            solve()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return max(counted, sum("synchroniz" in str(w.message) for w in caught))


def fields(device: str, dtype: torch.dtype) -> dict[str, tpf.Field]:
    """One network, two networks on a two-sided path, and one with two heads."""

    def net(seed: int, **options: Any) -> tpf.networks.MLP:
        generator = torch.Generator().manual_seed(seed)
        return tpf.networks.MLP(2, 64, generator=generator, **options).to(device, dtype)

    one_sided = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))).to(device)
    two_sided = tpf.Process(
        tpf.Linear(tpf.Brownian()), base=tpf.distributions.Uniform((2,), low=-1.0, high=1.0)
    ).to(device)
    return {
        "Velocity": tpf.Velocity(net(0), one_sided),
        "FieldPair (b, η)": tpf.FieldPair(velocity=net(0), noise=net(1), process=two_sided),
        "FieldPair (v, η), two heads": tpf.FieldPair(
            heads=net(2, heads=2), outputs=("mean_velocity", "noise"), process=two_sided
        ),
    }


def in_10_and_100(field: tpf.Field, options: dict[str, Any], device: str) -> tuple[int, int, float]:
    """Host reads in 10 steps, in 100 steps, and for each step more."""
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0)).to(device)
    few, many = (
        reads(partial(tpf.sample, field, start=x, steps=steps, **options), device)
        for steps in (10, 100)
    )
    return few, many, (many - few) / 90


def synchronisations(device: str) -> str:
    """Host reads in 10 and in 100 steps."""
    rows = []
    for field_name, field in fields(device, torch.float32).items():
        for name, options in SOLVES.items():
            rows.append((field_name, name, *in_10_and_100(field, options, device)))

    def reading(t: Tensor, x: Tensor) -> Tensor:
        return x * float(t)

    field = tpf.Velocity(reading, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))).to(device))
    counts = in_10_and_100(field, SOLVES["ODE, euler"], device)
    rows.append(("control: a network that reads t", "ODE, euler", *counts))
    return table(("field", "solve", "10 steps", "100 steps", "in a step of the loop"), rows)


class Still(tpf.samplers.Dynamics):
    """No drift: the states are the start and the noise."""

    def __init__(self, *epsilons: float) -> None:
        self.epsilons, self.groups = torch.tensor(epsilons, dtype=torch.float64), len(epsilons)

    def tabulate(self, times: Tensor, widths: Tensor, like: Tensor) -> Tensor:
        """ε of each group, at all times."""
        return self.epsilons.expand(*times.shape, self.groups)

    def drift(self, step: int, node: int, x: Tensor, rows: Any) -> Tensor:
        """Zero."""
        return torch.zeros_like(x)


def noise_alone(n: int, chunk: int, device: str) -> str:
    """Whether the noise is the same, bit for bit."""
    rows = []
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(n, 2, dtype=dtype, device=device)
        for name, epsilons in {"one ε": (0.5,), "three ε": (0.1, 0.5, 2.0)}.items():
            start = x.repeat(len(epsilons), 1)
            for scheme in ("euler_maruyama", "heun", "rk4"):
                small, large = (
                    tpf.integrate(
                        Still(*epsilons),
                        start,
                        tpf.solve.time_grid(20),
                        scheme=scheme,
                        key=1,
                        chunk=size,
                    ).x
                    for size in (chunk, n)
                )
                same = bool((small == large).all())
                rows.append((str(dtype)[6:], name, scheme, "identical" if same else "DIFFERS"))
    return table(("dtype", "solve", "scheme", "noise"), rows)


def states(n: int, chunk: int, device: str, kinds: int) -> str:
    """How far the states are apart, for the first few kinds of fields."""
    rows = []
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=dtype).to(device)
        for field_name, field in list(fields(device, dtype).items())[:kinds]:
            for name in ("ODE, heun", "SDE, heun", "SDE, rk4", "sweep of four ε, heun"):
                small, large = (
                    tpf.sample(
                        field,
                        start=x,
                        steps=20,
                        chunk=size,
                        generator=torch.Generator().manual_seed(0),
                        **SOLVES[name],
                    ).x
                    for size in (chunk, n)
                )
                distance = (small - large).abs()
                overall = float(distance.max() / large.square().mean().sqrt())
                by_row = (small - large).norm(dim=-1) / large.norm(dim=-1)
                rows.append((str(dtype)[6:], field_name, name, overall, float(by_row.max())))
    return table(("dtype", "field", "solve", "over the r.m.s.", "over the row's norm"), rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--kinds", type=int, default=99, help="kinds of fields in the last table")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(header(__doc__))
    print("## Host reads of a whole solve\n")
    print(synchronisations(options.device))
    print(f"## Chunks of {options.chunk} rows against {options.rows:,}: the noise\n")
    print(noise_alone(options.rows, options.chunk, options.device))
    print(f"## Chunks of {options.chunk} rows against {options.rows:,}: the states\n")
    print(states(options.rows, options.chunk, options.device, options.kinds))


if __name__ == "__main__":
    main()
