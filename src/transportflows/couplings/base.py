"""What a coupling is, and the two that leave the rows as they are given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.checks import positive_number
from .._core.conditions import NO_CONDITIONS
from .._core.registry import Storable
from .._core.reprs import call
from .._core.signatures import checked
from ..distributions.base import Distribution
from ..interpolants import Interpolant

__all__ = ["Coupling", "Independent", "Paired"]


@checked
class Coupling(Storable, ABC):
    """A rule that pairs a batch of x0 with a batch of x1.

    Attributes:
        independent: whether x0 stays independent of x1.
        condition_on_start: whether networks are given the x0 of a path, as the condition ``"x0"``.
        is_map: whether each x0 has one x1.
        brings_start: whether pairs bring their own x0, so that none is drawn for them, and
            :meth:`pair` is given x1 in its place.
        ahead: for how many batches the trainer may have a thread draw before they are needed; with
            any number the numbers are the same.
        weighted: whether the rows of data must be drawn by weights, as those of tensors can be.
        pool: rows that the trainer pairs at once, for several batches; None for each batch alone.
        reuse: how often it uses each pair of a pool.

    Example:
        >>> class Sorted(Coupling):  # the plan of least cost between numbers
        ...     def pair(self, x0, x1, cond=NO_CONDITIONS, *, generator=None):
        ...         return x0.sort(0).values[x1[:, 0].argsort().argsort()], x1
        >>> x0, x1 = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[9.0], [7.0], [8.0]])
        >>> Sorted().pair(x0, x1)[0].T
        tensor([[3., 1., 2.]])
    """

    independent: bool = False
    condition_on_start: bool = False
    is_map: bool = False
    brings_start: bool = False
    ahead: int = 0
    weighted: bool = False
    pool: int | None = None
    reuse: int = 1

    @abstractmethod
    def pair(
        self,
        x0: Tensor,
        x1: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the batch ``(x0, x1)``, each ``(B, *)``, paired row by row.

        The rows of x1 keep their order, so that labels and other conditions stay theirs; or others
        of the same conditions come in their place.

        Args:
            x0: base samples.
            x1: data.
            cond: conditions of the data, by name; tensors have B rows.
            generator: source of randomness.
        """

    def pair_held_out(
        self,
        x1: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor] | None:
        """Pairs of rows that are not trained on, for a validation; None where :meth:`pair` serves.

        Args:
            x1: held-out data, ``(B, *)``.
            cond: their conditions.
            generator: source of randomness.
        """
        return None

    def for_path(self, path: Interpolant) -> Coupling:
        """This coupling, or what becomes of it for a path; a process asks when it is made."""
        return self

    @property
    def base(self) -> Distribution | None:
        """The law of x0 under the coupling, the base of a process that is given none."""
        return None

    def check_base(self, base: Distribution) -> None:
        """Refuse a base that does not go with this coupling."""

    def row_weights(self, x1: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor | None:
        """With what weights the rows of a data set are to be drawn, ``(N,)``; None for equal ones.

        Args:
            x1: all rows, ``(N, *)``.
            cond: their conditions.

        Raises:
            ValueError: if they are not the data that the coupling is of.
        """
        return None

    def row_places(self, x1: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor | None:
        """Numbers by which the coupling knows the rows of a data set, ``(N,)``; None if by none.

        They spare it to find the rows of each batch: a trainer gives those of a batch to
        :meth:`pair_at`.
        """
        return None

    def pair_at(
        self, places: Tensor, x1: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pairs of rows of which :meth:`row_places` gave the numbers, ``(B,)``."""
        raise NotImplementedError(f"{type(self).__name__} knows no rows by numbers")

    def __repr__(self) -> str:
        return call(self)


@checked
class Independent(Coupling):
    """``ρ0 x ρ1``: each x0 is drawn from the base without regard to x1.

    Example:
        >>> import transportflows as tpf
        >>> path, base, half = tpf.Linear(), tpf.Gaussian((1,)), torch.tensor(0.5)
        >>> tpf.Process(path, base, Independent()).part.scale(half)  # x_t given x1 is Gaussian
        tensor(0.5000)
        >>> tpf.Process(path, base, tpf.MinibatchOT()).noise_part.exists  # and with pairs it is not
        False
    """

    independent = True

    def pair(
        self,
        x0: Tensor,
        x1: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        return x0, x1


@checked
class Paired(Coupling):
    """The user's own pairs ``(x0, x1)``, used as they are given (image to image, say).

    A velocity has one value at a point, whichever path goes through it. Where paths of different
    pairs cross, it is their mean, and what it moves keeps the laws at both ends but not the pairs:
    with ``x1 = -x0`` all paths meet at ½, and x0 is sent to x0. The cure is to tell the network
    where the path began: with ``condition_on_start`` it is called as ``net(t, x, x0=x0, **cond)``,
    in training and by ``sample(field, start=x0)``. Then each x0 has a law of x1 of its own, for
    which it takes noise: a path with a latent, and ε > 0. ``metrics.pair_error`` tells how far
    samples are from the pairs.

    Args:
        condition_on_start: give networks the x0 of each path, as the condition ``"x0"``, in the
            units of the process.
        is_map: each x0 has one x1, which needs no noise: neither a latent nor ε > 0.
        path_epsilon: the ε of which these are the pairs, a/2 where they are those of a Schrödinger
            bridge; sampling with another is then told. None for pairs of no such process.

    Raises:
        ValueError: if ``path_epsilon`` is not positive, or for ``is_map`` without
            ``condition_on_start``.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), coupling=Paired(), shape=(1,))
        >>> x0 = torch.tensor([[1.0], [2.0]])
        >>> process.sample(-x0, x0=x0, t=0.5).x.abs()  # all paths meet
        tensor([[0.],
                [0.]])
    """

    def __init__(
        self,
        *,
        condition_on_start: bool = False,
        is_map: bool = False,
        path_epsilon: float | None = None,
    ) -> None:
        if path_epsilon is not None:
            path_epsilon = positive_number("path_epsilon", path_epsilon)
        if is_map and not condition_on_start:
            raise ValueError(
                "is_map is of pairs that the network is told of; write"
                " Paired(condition_on_start=True, is_map=True)"
            )
        self.condition_on_start, self.is_map = condition_on_start, is_map
        self.path_epsilon = path_epsilon

    def pair(
        self,
        x0: Tensor,
        x1: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        return x0, x1

    def __repr__(self) -> str:
        flags = [f"{name}={value!r}" for name, value in self.config().items() if value]
        return f"{type(self).__name__}({', '.join(flags)})"

    def config(self) -> dict[str, Any]:
        told = {"condition_on_start": self.condition_on_start, "is_map": self.is_map}
        return told if self.path_epsilon is None else {**told, "path_epsilon": self.path_epsilon}
