"""Batches of data, and draws from a process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._core.arrays import DataLike, if_array, is_array
from ._core.conditions import map_rows
from ._core.reprs import summary
from ._core.signatures import checked
from ._core.tensor import expand_time
from .gaussian_part import NoisePart

__all__ = ["Batch", "PathSample"]


@dataclass(frozen=True)
class Batch:
    """A batch of data: what a loss is given.

    Attributes:
        x1: data, ``(B, *)``.
        x0: base samples paired with them, for a process with a :class:`Paired` coupling.
        cond: conditions for the network; tensors have B rows.
        paired: whether x0 and x1 are pairs of the coupling already, whichever it is.
        places: numbers by which the coupling knows the rows of x1, ``(B,)``, or None.

    Raises:
        TypeError: if ``cond`` is no dict.

    Example:
        >>> batch = Batch(torch.zeros(2, 3), cond={"label": torch.tensor([4, 7])})
        >>> second = batch.rows(1, 2)  # conditions go with their rows
        >>> len(second), second.cond["label"]
        (1, tensor([7]))
    """

    x1: Tensor
    x0: Tensor | None = None
    cond: Mapping[str, Any] = field(default_factory=dict)
    paired: bool = False
    places: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.cond, Mapping):
            got = type(self.cond).__name__
            raise TypeError(f"cond must be a dict, cond={{'label': labels}}, got {got}")

    @classmethod
    def of(cls, batch: Batch | DataLike | tuple[DataLike, DataLike]) -> Batch:
        """Return ``batch`` as a Batch: data ``x1``, a pair ``(x0, x1)``, or a Batch itself.

        Raises:
            TypeError: if it is none of these.
        """
        if isinstance(batch, Batch):
            return batch
        if isinstance(batch, Tensor) or is_array(batch):
            return cls(if_array("x1", batch))
        if isinstance(batch, (tuple, list)) and len(batch) == 2:
            x0, x1 = batch
            return cls(x1=if_array("x1", x1, like=x0), x0=if_array("x0", x0, like=x1))
        raise TypeError(
            f"a batch is a tensor or an array x1, a pair (x0, x1) or a Batch, got"
            f" {type(batch).__name__}"
        )

    def __len__(self) -> int:
        return self.x1.shape[0]

    @checked
    def rows(self, start: int, stop: int) -> Batch:
        """The rows from ``start`` up to ``stop``."""
        if start == 0 and stop == len(self):
            return self
        x0 = None if self.x0 is None else self.x0[start:stop]
        cond = map_rows(self.cond, lambda value: value[start:stop])
        places = None if self.places is None else self.places[start:stop]
        return Batch(self.x1[start:stop], x0, cond, self.paired, places)

    @checked
    def with_cond(self, function: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Batch:
        """The same with a function of its conditions."""
        return replace(self, cond=function(self.cond))

    @checked
    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """A function of each tensor: ``batch.map(lambda x: x.to("cuda"))``."""
        x0 = None if self.x0 is None else function(self.x0)
        cond = {k: function(v) if isinstance(v, Tensor) else v for k, v in self.cond.items()}
        places = None if self.places is None else function(self.places)
        return Batch(function(self.x1), x0, cond, self.paired, places)

    __repr__ = summary


class _Kept(NamedTuple):
    made_of: object
    value: Tensor


@dataclass(frozen=True)
class PathSample:
    """Draws from a process: ``x`` at times ``t``, and what they were made of.

    Attributes:
        noise_part: the noise in x_t, of the process that drew them.
        t: times, ``(B,)``.
        x: states ``x_t``, ``(B, *)``.
        x0: base samples, or None where they do not enter the path.
        x1: data.
        z: latents, or None where the path has none.
        cond: conditions.
        antithetic: whether the second half of the rows repeats the first with ``-z``.
        density: density of the times, ``(B,)``, by which a loss is divided; None for no division.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> sample = process.sample(torch.full((1, 1), 4.0), x0=torch.zeros(1, 1), t=0.25)
        >>> sample.x, sample.velocity  # (1 - t) x0 + t x1, and what a velocity regresses: x1 - x0
        (tensor([[1.]]), tensor([[4.]]))
    """

    noise_part: NoisePart
    t: Tensor
    x: Tensor
    x0: Tensor | None
    x1: Tensor
    z: Tensor | None
    cond: Mapping[str, Any] = field(default_factory=dict)
    antithetic: bool = False
    density: Tensor | None = None

    def __len__(self) -> int:
        """Rows of the batch that was drawn from; ``x`` has twice as many where antithetic."""
        return self.x.shape[0] // (1 + self.antithetic)

    @checked
    def rows(self, start: int, stop: int) -> PathSample:
        """What was drawn for the rows of the batch from ``start`` up to ``stop``."""
        n = len(self)
        if start == 0 and stop == n:
            return self

        def part(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.ndim == 0:
                return value
            if not self.antithetic:
                return value[start:stop]
            return torch.cat([value[start:stop], value[n + start : n + stop]])

        return PathSample(
            self.noise_part,
            part(self.t),
            part(self.x),
            part(self.x0),
            part(self.x1),
            part(self.z),
            map_rows(self.cond, part),
            self.antithetic,
            part(self.density),
        )

    @checked
    def with_cond(self, function: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> PathSample:
        """The same with a function of its conditions."""
        same = copy.copy(self)  # with what was computed of it, in which no condition enters
        object.__setattr__(same, "cond", function(self.cond))
        return same

    @checked
    def split(self, size: int) -> list[PathSample]:
        """Its rows in parts of ``size`` rows, with the targets and weights that it has by now.

        Raises:
            ValueError: if it is antithetic, so that its rows are in two halves.
        """
        if self.antithetic:
            raise ValueError("the rows of an antithetic sample are in two halves; use rows()")
        count = -(-len(self) // size)

        def parts(value: Any) -> Sequence[Any]:
            if isinstance(value, Tensor) and value.ndim > 0:
                return torch.split(value, size)
            if isinstance(value, Mapping):
                each = {name: parts(one) for name, one in value.items()}
                return [{name: one[k] for name, one in each.items()} for k in range(count)]
            if type(value) is _Kept:
                return [_Kept(value.made_of, part) for part in parts(value.value)]
            return [value] * count

        split = {name: parts(value) for name, value in vars(self).items()}
        made = [object.__new__(PathSample) for _ in range(count)]
        for k, one in enumerate(made):
            vars(one).update({name: each[k] for name, each in split.items()})
        return made

    def keep(self, whose: object, made_of: object, value: Tensor) -> None:
        """Keep what somebody computed of the rows, ``(B,)``, while what it is made of is the same.

        Args:
            whose: who asks for it.
            made_of: the object that decides it.
            value: one a row.
        """
        vars(self)[f"kept by {id(whose)} of {id(made_of)}"] = _Kept(made_of, value)

    def kept(self, whose: object, made_of: object) -> Tensor | None:
        """What was kept, or None."""
        found = vars(self).get(f"kept by {id(whose)} of {id(made_of)}")
        return found.value if found is not None and found.made_of is made_of else None

    @cached_property
    def scale(self) -> Tensor:
        """``σ̂(t)``, the scale of the noise in each row, ``(B,)``."""
        return self.noise_part.scale(self.t)

    @cached_property
    def mean_velocity(self) -> Tensor:
        """``∂t I(t, x0, x1)``, whose conditional mean is v."""
        return self.noise_part.path.mean_dot(self.t, self.x0, self.x1)  # type: ignore[arg-type]

    @cached_property
    def velocity(self) -> Tensor:
        """``ẋ_t = ∂t I + γ̇ z``, whose conditional mean is the velocity b."""
        if self.z is None:
            return self.mean_velocity
        gamma_dot = expand_time(self.noise_part.path.gamma_dot(self.t), self.x)
        return torch.addcmul(self.mean_velocity, gamma_dot, self.z)

    @cached_property
    def noise(self) -> Tensor:
        """``ẑ``, the standard normal of the Gaussian part, whose conditional mean is the noise η̂.

        It is ``(α (x0 - m) + γ z) / σ̂``, of which there is only one of the two where the base is
        no part of the noise, or the path has no latent. Since ``σ̂ ≥ 0`` it jumps where a negative
        stretch of α or γ begins.

        Raises:
            ConversionError: if the process has no Gaussian part.
            ValueError: if the sample was made without its latent z.
        """
        part, x0, z = self.noise_part, self.x0, self.z
        if part.base_scale is None or x0 is None:
            if z is None:
                part.check("noise")
                raise ValueError("this sample was drawn without a latent z; give it to PathSample")
            if not part.signed:
                return z
            return expand_time(part.noise_weights(self.t)[1], z) * z  # type: ignore[arg-type]
        centred = x0 if part.base_mean is None else x0 - part.base_mean.to(x0)
        if z is None and not part.signed:
            return centred / part.base_scale.to(x0)
        alpha, gamma = part.noise_weights(self.t)
        value = expand_time(alpha, x0) * centred  # type: ignore[arg-type]
        return value if z is None else torch.addcmul(value, expand_time(gamma, z), z)  # type: ignore[arg-type]

    @property
    def data(self) -> Tensor:
        """``x1``, whose conditional mean is the data prediction d."""
        return self.x1

    __repr__ = summary
