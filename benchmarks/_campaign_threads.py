"""Four threads, each calling the same things again and again, one thread inside each operation.

Asked: the bits of one thread in every call, or a refusal. Calls on a network that another thread
trains are to be refused. The last two columns: seconds of all calls in one thread, and in four.
"""

from __future__ import annotations

import copy
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

import transportflows as tpf

_THREADS, _CALLS = 4, 100


def _gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class _Curved(tpf.Interpolant):
    """A path whose derivative comes from forward-mode autodiff."""

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        return (1 - t) * x0 + t * x1 + torch.sin(torch.pi * t) * torch.tanh(x0 - x1)


class _Dropping(nn.Module):
    """A network that draws from torch's own generator."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Linear(3, 16), nn.SiLU(), nn.Dropout(0.5), nn.Linear(16, 2))
        self.body = nn.Sequential(*layers)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        made: Tensor = self.body(torch.cat([x, t.expand(len(x))[:, None]], 1))
        return made


def _calls() -> dict[str, Callable[[], Any]]:
    metrics, plain = tpf.metrics, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    x, y = torch.randn(64, 2, generator=_gen(3)), torch.randn(64, 2, generator=_gen(4)) + 0.5
    net = tpf.networks.MLP(2, 16, 2, generator=_gen())
    velocity = tpf.Velocity(net, plain)
    noise = tpf.NoisePredictor(net, tpf.Process(tpf.VP(), shape=(2,)))
    curved = tpf.Process(_Curved(), base=tpf.Gaussian((2,)))
    dropping = _Dropping()
    shared = tpf.Velocity(dropping, plain)
    paired = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)), coupling=tpf.MinibatchOT())
    stepper = tpf.samplers.ExponentialIntegrator(2)

    def fit(network: nn.Module, process: tpf.Process = plain) -> Tensor:
        trainer = tpf.Trainer(tpf.Velocity(network, process), ema=0.9)
        trainer.fit(x, steps=5, batch_size=16, generator=_gen(5), progress=False)
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    shared_net = tpf.networks.MLP(2, 16, 2, generator=_gen())
    return {
        "sample, ODE": lambda: tpf.sample(velocity, 32, steps=8, generator=_gen()).x,
        "sample, SDE of VP": lambda: (
            tpf.sample(noise, 32, steps=2, epsilon=0.5, generator=_gen()).x
        ),
        "sample, one stepper for all": lambda: (
            tpf.sample(noise, 32, scheme=stepper, steps=4, generator=_gen()).x
        ),
        "sample, one network with dropout for all": lambda: (
            tpf.sample(shared, 32, steps=8, generator=_gen()).x
        ),
        "log_likelihood, exact": lambda: (
            tpf.log_likelihood(velocity, x[:8], scheme="rk4", steps=1).log_prob
        ),
        "log_likelihood, Hutchinson": lambda: (
            tpf.log_likelihood(
                velocity, x[:8], scheme="rk4", steps=1, divergence="hutchinson", generator=_gen()
            ).log_prob
        ),
        "draws of a path by autodiff": lambda: curved.sample(x, generator=_gen()).velocity,
        "draws of minibatch transport": lambda: paired.sample(x, generator=_gen()).velocity,
        "particles with densities": lambda: (
            tpf.particles.flow_with_log_density(
                tpf.Gaussian((2,)), y, n=16, steps=1, sigma=0.5, step=0.5, generator=_gen()
            ).log_prob
        ),
        "wasserstein2": lambda: metrics.wasserstein2(x, y),
        "mmd2": lambda: metrics.mmd2(x, y).value,
        "energy_test": lambda: metrics.energy_test(x, y, generator=_gen()).p_value,
        "consistency": lambda: metrics.consistency(velocity, x, times=1, generator=_gen()).stein,
        "fit": lambda: fit(tpf.networks.MLP(2, 16, 2, generator=_gen())),
        "fit with dropout": lambda: fit(copy.deepcopy(dropping)),
        "fit with minibatch transport": lambda: fit(
            tpf.networks.MLP(2, 16, 2, generator=_gen()), paired
        ),
        "fit, one network for all": lambda: fit(shared_net),
    }


def run(quick: bool) -> tuple[str, list[str], list[list[str]]]:
    """Every call in one thread, then in four."""
    inner, interval = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(1)
    sys.setswitchinterval(1e-4)
    rows = []
    try:
        for name, call in _calls().items():
            rows.append(_row(name, call, 10 if quick else _CALLS))
    finally:
        torch.set_num_threads(inner)
        sys.setswitchinterval(interval)
    columns = ["call", "calls", "same bits", "refused", "other", "s, one thread", "s, four"]
    return "Four threads", columns, rows


def _row(name: str, call: Callable[[], Any], count: int) -> list[str]:
    alone_only = name == "fit, one network for all"  # it goes on from where it is
    expected = None if alone_only else torch.as_tensor(call())

    def once(_: int) -> str:
        try:
            found = torch.as_tensor(call())
        except RuntimeError as error:
            return "refused" if "another thread" in str(error) else "other"
        return "same" if expected is None or torch.equal(found, expected) else "other"

    began = time.perf_counter()
    for k in range(_THREADS * count // 10):
        once(k)
    alone = 10 * (time.perf_counter() - began)
    began = time.perf_counter()
    with ThreadPoolExecutor(_THREADS) as pool:
        found = Counter(pool.map(once, range(_THREADS * count)))
    took = time.perf_counter() - began
    counts = [str(found[kind]) for kind in ("same", "refused", "other")]
    return [name, str(_THREADS * count), *counts, f"{alone:.2f}", f"{took:.2f}"]
