"""What was found of how to solve: a scheme, its steps and grid, an ε, and how they were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._core.signatures import checked
from ..solve.epsilon import EpsilonSchedule
from .schemes import SCHEMES

__all__ = ["SolvePlan", "Trial", "calls_of"]


@checked
@dataclass(frozen=True)
class Trial:
    """One way of solving, measured.

    Attributes:
        scheme: its name.
        steps: of it.
        spacing: of its grid: one of ``sample``'s, or ``"asinh"``, even in the noise level.
        calls: of the network, for each row.
        error: rms error of the end states, per number, in units of the data.
    """

    scheme: str
    steps: int
    spacing: str
    calls: int
    error: float


@checked
@dataclass(frozen=True)
class SolvePlan:
    """What :func:`plan` found; ``sample(field, n, **found.arguments)`` solves so.

    Attributes:
        scheme: its name.
        steps: of it.
        spacing: of the grid.
        times: of the grid, where the spacing is even in the noise level; None for ``spacing``.
        epsilon: ε; 0 for the ODE.
        tolerance: what was asked for.
        error: what was measured at ε = 0.
        reference: by how much the last two refined solves differ, which bounds what is known.
        trials: all that was tried at ε = 0, in order.
        distances: by c of ``NoiseScaleEpsilon(c)``, 0 for the ODE: the mean of the distance to the
            held-out data, and the standard error of its difference from that of the ODE (of the
            mean itself for 0). Empty without data.

    Example:
        >>> import transportflows as tpf
        >>> tried = Trial("heun", 8, "uniform", calls=16, error=5e-4)
        >>> none = tpf.solve.ConstantEpsilon(0.0)
        >>> found = SolvePlan("heun", 8, "uniform", None, none, 1e-3, 5e-4, 1e-6, (tried,), {})
        >>> found.calls, found.arguments["scheme"], found.arguments["steps"]
        (16, 'heun', 8)
    """

    scheme: str
    steps: int
    spacing: str
    times: tuple[float, ...] | None
    epsilon: EpsilonSchedule
    tolerance: float
    error: float
    reference: float
    trials: tuple[Trial, ...]
    distances: Mapping[float, tuple[float, float]]

    @property
    def calls(self) -> int:
        """Of the network, for each row."""
        return self.steps * calls_of(self.scheme)

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``sample`` takes beside the field and the number of rows."""
        told: dict[str, Any] = {"scheme": self.scheme, "epsilon": self.epsilon}
        if self.times is not None:
            return {**told, "t": list(self.times)}
        return {**told, "steps": self.steps, "spacing": self.spacing}

    def __str__(self) -> str:
        """The choice, and the table it was made by."""
        lines = [
            f"{self.scheme}, {self.steps} steps, {self.spacing} grid, {self.calls} calls, epsilon ="
            f" {self.epsilon!r}: rms {self.error:.2g} for {self.tolerance:.2g} at ε = 0"
        ]
        for calls in sorted({trial.calls for trial in self.trials}):
            own = sorted((t for t in self.trials if t.calls == calls), key=lambda t: t.error)
            told = ", ".join(f"{t.scheme} {t.spacing} {t.error:.2g}" for t in own[:4])
            lines.append(f"{calls:4d} calls: {told}")
        for c, (mean, apart) in self.distances.items():
            lines.append(f"ε = {c:g} σ̂: distance {mean:.4g} ± {apart:.2g}")
        return "\n".join(lines)


def calls_of(scheme: str) -> int:
    """Calls of the network in a step of a scheme, by its name."""
    return SCHEMES[scheme].nfe if scheme in SCHEMES else 1
