"""What is drawn for a loss of flow maps: states on paths at one time, and another time to go to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._core.random import local
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..draws import Batch, PathSample
from ..losses.paths import draw_path
from ..process import Process
from ..times.base import Margin, TimeSampler
from .pairs import Pairs

__all__ = ["MapSample", "draw_pairs"]


@dataclass(frozen=True, eq=False)
class MapSample:
    """States ``x_s``, and times t to go to.

    Attributes:
        path: draws from the process at times s.
        stop: times t, ``(B,)``; those of the first ``diagonal`` rows are s.
        diagonal: rows at the beginning that train the tangent, ``v_{s,s} = b``.
        part: numbers uniform on [0, 1], ``(B,)``, which say where a way is divided.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> flow_map = tpf.maps.FlowMap(lambda s, t, x: 0 * x, process)
        >>> sample = tpf.maps.SemigroupLoss(diagonal=0.5).draw(flow_map, torch.full((4, 1), 3.0))
        >>> sample.diagonal, bool((sample.stop == sample.t)[:2].all())
        (2, True)
        >>> sample.at(torch.ones(4)).flatten()  # the ends of the paths
        tensor([3., 3., 3., 3.])
    """

    path: PathSample
    stop: Tensor
    diagonal: int
    part: Tensor

    def __len__(self) -> int:
        return len(self.path)

    @property
    def t(self) -> Tensor:
        """The times s of the states, ``(B,)``."""
        return self.path.t

    @checked
    def rows(self, start: int, stop: int) -> MapSample:
        """The rows from ``start`` up to ``stop``."""
        if start == 0 and stop == len(self):
            return self
        diagonal = min(max(self.diagonal - start, 0), stop - start)
        return MapSample(
            self.path.rows(start, stop), self.stop[start:stop], diagonal, self.part[start:stop]
        )

    @checked
    def with_cond(self, function: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> MapSample:
        """The same with a function of its conditions."""
        return replace(self, path=self.path.with_cond(function))

    @checked
    def at(self, t: Tensor) -> Tensor:
        """The states at other times ``(B,)`` of the same paths: of the same x0, x1 and z."""
        path, interpolant = self.path, self.path.noise_part.path
        wide = expand_time(t, path.x)
        x = interpolant.mean(wide, path.x0, path.x1)  # type: ignore[arg-type]
        return x if path.z is None else torch.addcmul(x, interpolant.gamma(wide), path.z)

    __repr__ = summary


class _Given(TimeSampler):
    """Times that were drawn already."""

    def __init__(self, times: Tensor) -> None:
        super().__init__(margin=(0.0, 0.0))
        self.times = times

    def unit(
        self, n: int, *, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        return self.times.to(device=device, dtype=dtype)


def draw_pairs(
    process: Process,
    batch: Batch,
    pairs: Pairs,
    diagonal: float,
    margin: Margin,
    generator: torch.Generator | None,
) -> MapSample:
    """Draw times s and t, and x_s for a batch.

    Args:
        process: the law of x_t.
        batch: data, pairs, conditions.
        pairs: law of (s, t).
        diagonal: share of the rows, the first ones, in which t = s.
        margin: distances from both ends that all times keep.
        generator: source of randomness.
    """
    n, x1 = len(batch), batch.x1
    generator = local(generator, x1.device)
    dtype = torch.promote_types(x1.dtype, torch.float32)
    how: dict[str, Any] = {"generator": generator, "device": x1.device, "dtype": dtype}
    low, high = margin
    s, t = pairs.bind(process).sample(n, margin=margin, **how)
    part = torch.rand(n, **how)
    first = _tangents(n, diagonal, generator, x1.device)
    if first:
        own = torch.rand(first, **how)
        s = torch.cat([low + (1 - low - high) * own, s[first:]])
        t = torch.cat([s[:first], t[first:]])
    path = draw_path(
        process, batch, times=_Given(s), weight=None, form="velocity", generator=generator
    )
    return MapSample(path, t, first, part)


def _tangents(n: int, share: float, generator: torch.Generator | None, device: torch.device) -> int:
    """How many of n rows train the tangent: in small batches by chance, where else none would."""
    wanted = share * n
    first = round(wanted)
    if first == wanted or 0 < first < n:
        return first
    low = int(wanted)
    return low + int(torch.rand((), generator=generator, device=device) < wanted - low)
