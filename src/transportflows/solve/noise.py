r"""Noise sources: Brownian increments, and their space-time areas, step by step.

A source is asked for the increment ``ΔW`` of each step, for all rows at once, and, by schemes of
strong order 1.5, for its space-time Lévy area

.. math:: H = \tfrac1h \int_s^{s+h} \big(W_r - W_s - \tfrac{r-s}{h} \Delta W\big)\, dr
          \sim N(0, h/12), \quad \text{independent of } \Delta W.

:class:`Increments` draws them afresh for each step from ``(key, step)``. :class:`BrownianPath`
reads them off one path that does not depend on the grid, so that runs with different step counts
follow the same Brownian motion.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .._core.random import mix
from .._core.reprs import call
from .._core.signatures import checked

__all__ = ["BrownianPath", "Increments", "NoiseOfRows", "NoiseSource"]


@checked
class NoiseSource(ABC):
    """Where the increments of a solve come from.

    Example:
        >>> import transportflows as tpf
        >>> class Mirrored(Increments):  # the same paths of noise, with the other sign
        ...     def increment(self, step, t0, t1, *, area):
        ...         dw, levy = super().increment(step, t0, t1, area=area)
        ...         return -dw, None if levy is None else -levy
        >>> how = {"grid": [0.0, 0.5, 1.0], "scheme": "euler_maruyama", "epsilon": 0.5, "key": 7}
        >>> one, other = (
        ...     tpf.samplers.integrate(lambda t, x: 0 * x, torch.zeros(3, 1), noise=noise, **how).x
        ...     for noise in (Increments(), Mirrored())
        ... )
        >>> torch.equal(one, -other)
        True
    """

    def begin(self, key: int, like: Tensor, start: float) -> None:
        """Start a solve at time ``start``, of noise of the shape, dtype and device of ``like``."""
        self.key, self.start = key, start
        self.shape, self.dtype, self.device = like.shape, like.dtype, like.device
        self.generator = torch.Generator(like.device)

    @abstractmethod
    def increment(
        self, step: int, t0: float, t1: float, *, area: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return ``ΔW`` over the step from t0 to t1 and, if ``area``, its H."""

    def __repr__(self) -> str:
        return call(self)

    def _check_begun(self) -> None:
        if not hasattr(self, "generator"):
            raise RuntimeError(
                f"this {type(self).__name__} has not begun; write noise.begin(key, x, start=0.0)"
            )

    def normal(self, *path: int) -> Tensor:
        """Standard normals for all samples, which are a function of (key, path).

        A method that needs noise beside that of the increments (a corrector) names it by a path
        that begins with a number above 2 and goes on with the step, to meet none of the source's.
        """
        self._check_begun()
        self.generator.manual_seed(mix(self.key, *path))
        return torch.randn(
            self.shape, generator=self.generator, dtype=self.dtype, device=self.device
        )


@checked
class Increments(NoiseSource):
    """Independent increments, a function of (key, step).

    Example:
        >>> noise, x = Increments(), torch.zeros(10_000, 1)
        >>> noise.begin(7, x, 0.0)
        >>> dw, _ = noise.increment(0, 0.0, 0.25, area=False)
        >>> abs(float(dw.var()) - 0.25) < 0.02
        True
        >>> torch.equal(dw, noise.increment(0, 0.0, 0.25, area=False)[0])  # of (key, step) alone
        True
    """

    def increment(
        self, step: int, t0: float, t1: float, *, area: bool
    ) -> tuple[Tensor, Tensor | None]:
        h = abs(t1 - t0)
        dw = self.normal(step).mul_(math.sqrt(h))
        if not area:
            return dw, None
        levy = torch.randn(
            self.shape, generator=self.generator, dtype=self.dtype, device=self.device
        )
        return dw, levy.mul_(math.sqrt(h / 12))


@checked
class BrownianPath(NoiseSource):
    """One Brownian path for every grid: the noise refines consistently with the step count.

    The path over elapsed time [0, 1] is a binary tree: each interval carries its increment and
    area, and a split draws those of its parts conditionally, seeded by (key, place in the tree).
    Grids whose steps are longer than a leaf, ``2^-depth``, see the same path; the law is exact for
    any grid. A step costs about ``4 (depth - log2(steps) + 2)`` normal draws of the state's size.

    Args:
        depth: levels of the tree.

    Raises:
        ValueError: if ``depth`` is not in 1 .. 40.

    Example:
        >>> x = torch.zeros(3, 1, dtype=torch.float64)
        >>> whole, halves = BrownianPath(), BrownianPath()
        >>> for noise in (whole, halves):
        ...     noise.begin(7, x, 0.0)  # with one key
        >>> dw = whole.increment(0, 0.0, 1.0, area=False)[0]
        >>> first = halves.increment(0, 0.0, 0.5, area=False)[0]
        >>> torch.allclose(dw, first + halves.increment(1, 0.5, 1.0, area=False)[0])
        True
    """

    def __init__(self, depth: int = 12) -> None:
        if not 1 <= depth <= 40:
            raise ValueError(f"depth must be in 1 .. 40, got {depth}")
        self.depth = depth

    def begin(self, key: int, like: Tensor, start: float) -> None:
        super().begin(key, like, start)
        root = self.normal(0), self.normal(1).mul_(math.sqrt(1 / 12))
        # Intervals not yet passed, the next one last: (left, right, ΔW, H, level, place, cuts).
        self.ahead = [(0.0, 1.0, *root, 0, 0, 0)]

    def increment(
        self, step: int, t0: float, t1: float, *, area: bool
    ) -> tuple[Tensor, Tensor | None]:
        self._check_begun()
        stop, h = abs(t1 - self.start), abs(t1 - t0)
        total, integral = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        while self.ahead and self.ahead[-1][0] < stop - 1e-12:
            left, right, dw, levy, level, place, cuts = self.ahead.pop()
            if right <= stop + 1e-12:
                width = right - left
                integral = integral + width * (total + levy + 0.5 * dw)
                total = total + dw
                continue
            is_leaf = level == self.depth
            cut = stop if is_leaf else 0.5 * (left + right)
            seed = (2, level, place, cuts) if is_leaf else (2, level, place)
            first, second = self._split((cut - left) / (right - left), right - left, dw, levy, seed)
            if is_leaf:
                self.ahead.append((cut, right, *second, level, place, cuts + 1))
                self.ahead.append((left, cut, *first, level, place, cuts))
            else:
                self.ahead.append((cut, right, *second, level + 1, 2 * place + 1, 0))
                self.ahead.append((left, cut, *first, level + 1, 2 * place, 0))
        return total, (integral / h - 0.5 * total if area else None)

    def _split(
        self, part: float, h: float, dw: Tensor, levy: Tensor, seed: tuple[int, ...]
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Draw (ΔW, H) of both parts of an interval of length h given its own.

        The parts' four normals are drawn from their unconditional laws and moved by the gain of
        their two constraints, ``ΔW = ΔW1 + ΔW2`` and
        ``H = θ H1 + (1-θ) H2 + ½(1-θ) ΔW1 - ½θ ΔW2``, which are uncorrelated.
        """
        rest = 1 - part
        self.generator.manual_seed(mix(self.key, *seed))
        z = torch.randn(
            (4, *self.shape), generator=self.generator, dtype=self.dtype, device=self.device
        )
        w1, w2 = z[0] * math.sqrt(part * h), z[1] * math.sqrt(rest * h)
        h1, h2 = z[2] * math.sqrt(part * h / 12), z[3] * math.sqrt(rest * h / 12)
        miss_w = dw - w1 - w2
        miss_h = levy - part * h1 - rest * h2 - 0.5 * rest * w1 + 0.5 * part * w2
        w1 = w1 + part * miss_w + 6 * part * rest * miss_h
        w2 = w2 + rest * miss_w - 6 * part * rest * miss_h
        return (w1, h1 + part**2 * miss_h), (w2, h2 + rest**2 * miss_h)


class NoiseOfRows(NoiseSource):
    """The noise that some rows have among n: what a process of a shared solve needs.

    Args:
        source: the noise of all rows.
        start: the first of the rows.
        stop: the row after the last.
        n: rows in all.
    """

    def __init__(self, source: NoiseSource, start: int, stop: int, n: int) -> None:
        self.source, self.rows, self.n = source, slice(start, stop), n

    def begin(self, key: int, like: Tensor, start: float) -> None:
        self.source.begin(key, like[:1].expand(self.n, *like.shape[1:]), start)

    def increment(
        self, step: int, t0: float, t1: float, *, area: bool
    ) -> tuple[Tensor, Tensor | None]:
        dw, levy = self.source.increment(step, t0, t1, area=area)
        return dw[self.rows], None if levy is None else levy[self.rows]

    def normal(self, *path: int) -> Tensor:
        return self.source.normal(*path)[self.rows]
