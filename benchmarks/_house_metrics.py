"""Entries of house.py: metrics on fixed draws, and diagnostics of fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from _house import entry, seeded, tpf
from _house_laws import FIELDS, exact, mixture, process

__all__: list[str] = []


def target() -> Tensor:
    """Rows of the mixture."""
    return mixture().sample(60, generator=seeded(42))


def told(found: Any, depth: int = 0) -> dict[str, Any]:
    """The numbers of a result: fields of a dataclass, and its methods that ``extra`` names."""
    if isinstance(found, (tuple, list)):
        return {f"{k}": v for k, part in enumerate(found) for k, v in _numbered(k, part, depth)}
    if isinstance(found, Mapping):
        return dict(found)
    if not dataclasses.is_dataclass(found):
        return {"value": found}
    parts = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    return {
        name: torch.as_tensor(part, dtype=torch.float64)
        for name, part in parts.items()
        if isinstance(part, (Tensor, float, int)) and not isinstance(part, bool)
    }


def _numbered(k: int, part: Any, depth: int) -> Iterator[tuple[str, Any]]:
    for name, value in told(part, depth + 1).items():
        yield f"{k} {name}", value


def pair() -> tuple[Tensor, Tensor]:
    """Two samples in three dimensions."""
    x = torch.randn(60, 3, generator=seeded(51))
    return x, 1.2 * torch.randn(80, 3, generator=seeded(52)) + 0.3


def metric(name: str, *args: Any, seed: bool = False, **kwargs: Any) -> dict[str, Any]:
    """A metric of the two samples."""
    options = {k: v() if callable(v) else v for k, v in kwargs.items()}
    if seed:
        options["generator"] = seeded(53)
    return told(getattr(tpf, name)(*pair(), *args, **options))


METRICS: dict[str, dict[str, Any]] = {
    "wasserstein1": {},
    "wasserstein2": {},
    "optimal_pairs": {},
    "corrected_wasserstein2": {"seed": True},
    "wasserstein2_error": {"seed": True, "blocks": 4},
    "entropic_wasserstein2": {"epsilon": 0.5},
    "sinkhorn_divergence": {"epsilon": 0.5},
    "sliced_wasserstein2": {"seed": True},
    "max_sliced_wasserstein2": {"seed": True, "starts": 3, "steps": 5},
    "gaussian_wasserstein2": {},
    "mmd2": {},
    "energy_distance": {},
    "energy_test": {"seed": True, "permutations": 49},
    "characteristic_distance": {"seed": True},
    "sliced_kolmogorov_test": {"seed": True},
    "kl_kernel_density": {},
    "jensen_shannon_kernel_density": {},
    "kl_nearest_neighbours": {},
    "nearest_neighbours": {},
    "coverage": {},
    "mean_error": {},
    "covariance_error": {},
    "moment_summary": {},
    "median_bandwidth": {},
    "frechet_distance": {},
    "kernel_distance": {},
}
for name, options in METRICS.items():
    entry(f"metric: {name}", metric, name, **options)
entry("metric: mmd2, multiscale", metric, "mmd2", kernel=lambda: tpf.GaussianKernel.multiscale(1.0))
entry(
    "metric: mmd2, rational quadratic",
    metric,
    "mmd2",
    kernel=lambda: tpf.RationalQuadraticKernel(),
    unbiased=False,
)
entry("metric: energy distance, unbiased", metric, "energy_distance", unbiased=True, block_size=16)


def classified() -> dict[str, Any]:
    """A classifier's test; its network is float32 by default, whatever the default dtype."""
    torch.set_default_dtype(torch.float32)
    x, y = (part.float() for part in pair())
    return told(tpf.classifier_test(x, y, generator=seeded(53)))


entry("metric: classifier_test", classified)


def standard_score(x: Tensor) -> Tensor:
    """Of a standard Gaussian."""
    return -x


entry("metric: stein", lambda: told(tpf.kernel_stein_discrepancy(pair()[1], standard_score)))
entry("metric: fisher", lambda: told(tpf.fisher_divergence(pair()[0], standard_score, torch.sin)))
entry(
    "metric: KL of log-densities",
    lambda: told(tpf.kl_log_densities(pair()[0][:, 0], pair()[0][:, 1])),
)
entry("metric: modes", lambda: told(tpf.mode_weights(target(), mixture())))
entry("metric: holm", lambda: told(tpf.holm([0.01, 0.04, 0.3, 0.02, 0.5, 0.6])))


def report() -> dict[str, Any]:
    """All metrics at once, with their floors."""
    found = tpf.evaluate(*pair(), generator=seeded(3))
    return {row.name: torch.tensor([row.value, row.floor]) for row in found.rows}


entry("metric: report", report)


def small(kind: str = "velocity", path: str = "linear, Brownian") -> Any:
    """A field of a small network."""
    return FIELDS[kind](process(path))


DIAGNOSTICS: dict[str, Callable[[], Any]] = {
    "loss by time": lambda: tpf.loss_by_time(
        small(), tpf.VelocityLoss(), target(), times=5, generator=seeded(3)
    ),
    "consistency": lambda: tpf.consistency(
        small("velocity and noise"), target(), times=4, generator=seeded(3)
    ),
    "path geometry": lambda: tpf.path_geometry(
        small(path="linear"), 20, steps=6, generator=seeded(3)
    ),
    "error by calls": lambda: tpf.error_by_nfe(
        exact("linear"), lambda x: float(x.square().mean()), n=20, steps=(3, 5), generator=seeded(3)
    ),
    "oracle errors": lambda: tpf.oracle_errors(
        small("velocity and noise"), exact("linear, Brownian"), n=64, times=6, generator=seeded(3)
    ),
    "KL identity": lambda: tpf.ode_kl_identity(
        small(path="linear"), exact("linear"), n=20, times=3, steps=6, generator=seeded(3)
    ),
    "prior bias": lambda: tpf.prior_bias(exact("VE"), 30, steps=10, generator=seeded(3)),
}
for name, make in DIAGNOSTICS.items():
    entry(f"diagnostic: {name}", lambda m=make: numbers(m()))


def numbers(found: Any) -> dict[str, Any]:
    """All numbers of a result, those of its parts too."""
    parts: dict[str, Any] = {}
    items = (
        found.items()
        if isinstance(found, Mapping)
        else ((f.name, getattr(found, f.name)) for f in dataclasses.fields(found))
        if dataclasses.is_dataclass(found)
        else enumerate(found)
    )
    for name, value in items:
        if isinstance(value, (Tensor, float, int)):
            parts[str(name)] = value
        elif value is not None and not isinstance(value, str):
            parts |= {f"{name}.{k}": v for k, v in numbers(value).items()}
    return parts
