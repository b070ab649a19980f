"""Laws of others as :class:`Distribution`: those of ``torch.distributions``, or of the user."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core.random import draw_key
from .._core.reprs import brief
from .._core.shared import kept_generators
from .._core.signatures import checked
from .._core.tensor import state_dtype, sum_events
from .base import Distribution

__all__ = ["as_distribution", "class_of"]


@checked
class _Wrapped(Distribution):
    """An object of the user's own with a ``sample`` method, seen as a Distribution."""

    def __init__(self, law: Any, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.law = law  # registered as a submodule where it is one
        try:
            parameters = inspect.signature(law.sample).parameters
        except ValueError:
            parameters = {}  # type: ignore[assignment]
        self._takes_generator = "generator" in parameters
        self._takes_shape = isinstance(law, torch.distributions.Distribution)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        if self._takes_generator:
            x = self.law.sample(n, generator=generator)
        else:
            # Its draws come from torch's default generator: seed that from ours, then restore it.
            key = draw_key(generator)
            with kept_generators():
                torch.manual_seed(key)
                x = self.law.sample((n,) if self._takes_shape else n)
        if not isinstance(x, Tensor) or x.shape != (n, *self.shape):
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"{type(self.law).__name__}.sample({n}) gave {got} where a tensor of shape"
                f" {(n, *self.shape)} was expected"
            )
        return x.to(device=device, dtype=state_dtype(dtype, x.dtype))

    def __repr__(self) -> str:
        law = brief(self.law)
        return f"as_distribution({law}, shape={tuple(self.shape)})"

    def log_prob(self, x: Tensor) -> Tensor:
        if not hasattr(self.law, "log_prob"):
            raise NotImplementedError(f"{type(self.law).__name__} has no log_prob")
        values: Tensor = self.law.log_prob(x)
        return values if values.ndim == 1 else sum_events(values)


@checked
def as_distribution(law: Any, shape: Sequence[int] | None = None) -> Distribution:
    """Return ``law`` as a :class:`Distribution`.

    Args:
        law: a Distribution; or any object with ``sample(n)`` or ``sample(n, generator=...)`` that
            gives ``(n, *shape)``; or a :class:`torch.distributions.Distribution`. An object that
            takes no generator is run with torch's default generators seeded from the caller's and
            restored afterwards, so it too gives the same draws for the same seed.
        shape: event shape of such an object; read off one draw of it if not given.

    Raises:
        TypeError: if ``law`` has no ``sample`` method.
        ValueError: if it is one of torch's, of another shape.

    Example:
        >>> law = as_distribution(torch.distributions.Normal(torch.zeros(2), torch.ones(2)))
        >>> law.shape, round(float(law.log_prob(torch.zeros(1, 2))), 4)  # -log 2π
        (torch.Size([2]), -1.8379)
    """
    if isinstance(law, Distribution):
        return law
    if isinstance(law, (Tensor, np.ndarray, list, tuple)):
        raise TypeError(
            f"a {type(law).__name__} is not a law; write torch.as_tensor(x) for states, or"
            " Empirical(data) for the law of its rows"
        )
    if isinstance(law, type):
        name = law.__name__
        raise TypeError(f"a law is an object, got the class {name}; write {name}(...)")
    if not callable(getattr(law, "sample", None)):
        raise TypeError(
            f"{type(law).__name__} has no sample method; give a Distribution such as"
            " Gaussian((2,)), or an object with sample(n) -> (n, *shape)"
        )
    if isinstance(law, torch.distributions.Distribution):
        own = tuple(law.batch_shape) + tuple(law.event_shape)
        if shape is not None and tuple(shape) != own:
            raise ValueError(
                f"this {type(law).__name__} is of events of shape {own}, and shape={tuple(shape)}"
                " was asked for; make it of that shape"
            )
        shape = own
    if shape is None:
        with kept_generators():
            shape = tuple(law.sample(1).shape[1:])
    return _Wrapped(law, shape)


def class_of(law: Any) -> str:
    """The name of a law's class in a message; of an object of the user's own that of its own."""
    return type(law.law if isinstance(law, _Wrapped) else law).__name__
