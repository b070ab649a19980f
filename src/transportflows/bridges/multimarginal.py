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

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arguments import number
from .._core.checks import unit_times
from .._core.conditions import check_conditions, map_rows
from .._core.random import local
from .._core.signatures import checked
from .._core.tensor import as_time, expand_time, widened
from ..draws import PathSample
from ..interpolants import Gamma
from ..process import Process
from ..times import TimeSampler, UniformTimes
from .snapshot_path import SnapshotPath, unit_knots

__all__ = ["Multimarginal"]

_UNIFORM = UniformTimes()


@checked
class Multimarginal(Process):
    """The law of x_t on paths through K points, at the times of K snapshots.

    A :class:`~transportflows.Trainer` fits a field of it to trajectories, a tensor ``(N, K, *)`` or
    the law :class:`Trajectories`. ``sample`` takes it from any snapshot to any time, forward or
    backward: ``sample(field, start=snapshots[1], t=(process.at(2.0), process.at(5.0)))``. It has no
    base, so ``start`` is always given.

    Args:
        times: of the snapshots, increasing, in units of your own.
        smooth: paths are natural cubic splines; otherwise they are straight between snapshots, and
            what lies between is then transported as by the plans, with a kink at each.
        gamma: a latent scale for each interval, such as ``SineSquared(0.5)``: x_t then has a score,
            learned by ``FieldPair(velocity=..., noise=...)``. None for none.

    Raises:
        ValueError: if there are fewer than two times, or they do not increase.

    Example:
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

    def sample(
        self,
        x1: Tensor,
        *,
        x0: Tensor | None = None,
        t: float | Tensor | TimeSampler | None = None,
        antithetic: bool = False,
        cond: Mapping[str, Any] | None = None,
        paired: bool = False,
        generator: torch.Generator | None = None,
    ) -> PathSample:
        """Draw x_t on the paths through some points.

        Args:
            x1: the points, ``(B, K, *)``.
            x0: None; a path through points has no pairs.
            t: as in :meth:`Process.sample`.
            antithetic: draw each latent with both signs.
            cond: conditions to carry along; tensors have B rows.
            paired: False; likewise.
            generator: source of randomness.

        Raises:
            ValueError: if there are not K points in each row.
        """
        path, k = self.interpolant, len(self.times)
        if (
            x0 is not None
            or paired
            or x1.ndim < 3
            or x1.shape[1] != k
            or not x1.is_floating_point()
        ):
            raise ValueError(
                f"this process goes through {k} points at {k} times, (B, {k}, *), got"
                f" {tuple(x1.shape)}{'' if x0 is None else ' and an x0'}; fit trajectories,"
                " Trainer(field).fit(tpf.bridges.Trajectories(snapshots), ...)"
            )
        x1 = widened(x1)
        n, device, dtype = len(x1), x1.device, x1.dtype
        generator = local(generator, device)
        if t is None or isinstance(t, TimeSampler):
            sampler = _UNIFORM if t is None else t.bind(self)
            margin = self.target_margin if sampler.margin is None else sampler.margin
            t = sampler.sample(n, margin=margin, generator=generator, device=device, dtype=dtype)
        else:
            t = unit_times("t", as_time(t, x1)).expand(n)
        cond = check_conditions(cond, n, rows="rows of data")
        z = None
        if path.has_latent:
            z = torch.randn(x1[:, 0].shape, generator=generator, device=device, dtype=dtype)
        elif antithetic:
            raise ValueError(
                "antithetic=True mirrors the latent z, and these paths have none; leave it out, or"
                " write Multimarginal(times, gamma=tpf.interpolants.SineSquared(0.5))"
            )
        if antithetic and z is not None:
            t, x1, z = torch.cat([t, t]), torch.cat([x1, x1]), torch.cat([z, -z])
            cond = map_rows(cond, lambda rows: torch.cat([rows, rows]))
        x = path.mean(t, None, x1)  # type: ignore[arg-type]
        if z is not None:
            x = torch.addcmul(x, expand_time(path.gamma(t), x), z)
        return PathSample(self._part_of_rows, t, x, None, x1, z, cond, antithetic)

    def config(self) -> dict[str, Any]:
        return self.interpolant.config()

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.config().items())
        return f"{type(self).__name__}({told})"
