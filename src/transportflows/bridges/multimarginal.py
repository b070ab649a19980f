r"""A process with K given marginals, at K times, and the trajectories that join them.

Of a population only snapshots are known: samples of its law at K times, of different members each
time (cells are destroyed by being measured, voters are asked but once). :class:`Trajectories` joins
them by transport plans between neighbours, a Markov chain whose k-th state has the law of the k-th
snapshot; :class:`Multimarginal` is the law of x_t on a path through such trajectories. Its velocity
is learned as any other, and since ``x_{t_k}`` is the k-th state, the flow goes through all K laws
(Albergo, Boffi, Lindsey and Vanden-Eijnden 2023, "Multimarginal generative modeling with stochastic
interpolants", for the path of barycentres; Rohbeck et al. 2025, "Modeling complex system dynamics
with flow matching across time and conditions", for the spline).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .._core.arguments import number
from .._core.signatures import checked
from ..interpolants import Gamma
from ..process import Process
from .snapshot_path import SnapshotPath, unit_knots

__all__ = ["Multimarginal"]


@checked
class Multimarginal(Process):
    """The law of x_t on paths through K points, at the times of K snapshots.

    A :class:`~transportflows.Trainer` fits a field of it to trajectories, a tensor ``(N, K, *)`` or
    the law :class:`Trajectories`; the method ``sample`` takes them, ``(B, K, *)``, in the place of
    x1. The function ``sample`` carries states from any snapshot to any time, forward or backward:
    ``sample(field, start=snapshots[1], t=(process.at(2.0), process.at(5.0)))``. There is no base,
    so ``start`` is always given.

    Args:
        times: of the snapshots, increasing, in units of your own.
        smooth: paths are natural cubic splines; otherwise they are straight between snapshots, and
            what lies between is then transported as by the plans, with a kink at each.
        gamma: a latent scale for each interval, such as ``SineSquared(0.5)``: x_t then has a score,
            learned by ``FieldPair(velocity=..., noise=...)``. None for none.

    Raises:
        ValueError: if there are fewer than two times, or they do not increase.

    Example:
        >>> import torch
        >>> import transportflows as tpf
        >>> process = Multimarginal([0.0, 1.0, 4.0])
        >>> process.at(1.0), process.interpolant.breakpoints
        (0.25, (0.25,))
        >>> field = tpf.Velocity(tpf.networks.MLP(2, 8, 1), process)
        >>> law = tpf.bridges.Trajectories([torch.randn(n, 2) for n in (20, 30, 25)])
        >>> history = tpf.Trainer(field).fit(law, steps=2, batch_size=8, progress=False)
        >>> tpf.sample(field, start=torch.randn(5, 2), t=(process.at(1.0), 1.0), steps=4).x.shape
        torch.Size([5, 2])
    """

    def __init__(
        self, times: Sequence[float], *, smooth: bool = True, gamma: Gamma | None = None
    ) -> None:
        path = SnapshotPath(times, smooth=smooth, gamma=gamma)
        super().__init__(path)
        self._ends_checked = True  # the path takes points, not pairs
        self.times, self.knots = list(path.times), unit_knots(times)

    def at(self, time: float) -> float:
        """The t in [0, 1] of a time in the units of the snapshots.

        Raises:
            ValueError: if it lies before the first or after the last.
        """
        first, last = self.times[0], self.times[-1]
        time = number("time", time, f"from {first:g} to {last:g}", least=first, most=last)
        if time in self.times:
            return self.knots[self.times.index(time)]
        return (time - first) / (last - first)

    def _check_rows(self, x1: Tensor, x0: Tensor | None, paired: bool) -> None:
        k = len(self.times)
        points = x1.ndim > 2 and x1.shape[1] == k and x1.is_floating_point()
        if x0 is not None or paired or not points:
            raise ValueError(
                f"this process goes through {k} points at {k} times, (B, {k}, *), got"
                f" {tuple(x1.shape)}{'' if x0 is None else ' and an x0'}; fit trajectories,"
                " Trainer(field).fit(tpf.bridges.Trajectories(snapshots), ...)"
            )

    def _states(self, x1: Tensor) -> Tensor:
        return x1[:, 0]

    def config(self) -> dict[str, Any]:
        return self.interpolant.config()

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.config().items())
        return f"{type(self).__name__}({told})"
