"""A generator: one network call from a latent to a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import event_shape, positive_integer
from .._core.conditions import NO_CONDITIONS
from .._core.random import draw_key, local, stream
from .._core.signatures import checked
from ..combination import Combination
from ..distributions.adapters import as_distribution
from ..distributions.base import Distribution
from ..distributions.gaussian import Gaussian
from ..fields.base import Field
from ..fields.calls import check_transform
from ..gaussian_part import ConversionError
from ..interpolants import OneSidedLinear
from ..process import Process
from ..samplers.starts import evaluating
from ..solve.rows import Chunks
from ..transforms import Standardize

__all__ = ["OneStepGenerator"]

_CHUNK = 4096


@checked
class OneStepGenerator(Field):
    r"""``x = g(ξ)``: samples of one network call each, ξ a latent of any law and any shape.

    To a :class:`Trainer` it is a field: it has networks, a transform and a data shape. It has no
    time, no velocity and no score. It is itself a law with ``sample``, so it also serves as the
    base or the start of another flow.

    Args:
        net: g, ``net(ξ, **cond)`` with ξ ``(B, *latent)``, giving ``(B, *shape)``; any callable.
            (There is no time to give it; wrap a ``net(t, x)`` in a lambda that fixes t.)
        latent: the law of ξ; a number or a shape is the standard normal of that shape.
        shape: event shape of the samples; that of the latent by default.
        transform: standardising transform of the data; the trainer applies it to the data, and
            :meth:`sample` undoes it.

    Raises:
        TypeError: if the network cannot be called.

    Example:
        >>> generator = OneStepGenerator(torch.nn.Linear(5, 2), latent=5, shape=(2,))
        >>> generator.sample(3).shape
        torch.Size([3, 2])
    """

    outputs = ("sample",)

    def __init__(
        self,
        net: Callable[..., Tensor],
        latent: Distribution | Sequence[int] | int | Any,
        *,
        shape: Sequence[int] | None = None,
        transform: Standardize | None = None,
    ) -> None:
        nn.Module.__init__(self)
        if not callable(net) or isinstance(net, Distribution):
            raise TypeError(
                f"net must be a callable net(xi), got {type(net).__name__}; the order is"
                " OneStepGenerator(net, latent)"
            )
        if isinstance(latent, int):
            latent = (latent,)
        if isinstance(latent, (tuple, list, torch.Size)):
            latent = Gaussian(latent)
        self.net = net
        self.latent = as_distribution(latent)
        self.shape = event_shape("shape", self.latent.shape if shape is None else shape)
        # What the trainer asks of data, namely their shape; nothing else of it is used.
        self.process = Process(OneSidedLinear(), shape=self.shape)
        check_transform(transform)
        self.transform = transform

    def latents(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ξ, ``(n, *latent)``, of the dtype and device of the network."""
        like = self.reference()
        return self.latent.sample(
            n, generator=local(generator, like.device), dtype=like.dtype, device=like.device
        )

    def forward(self, xi: Tensor, **cond: Any) -> Tensor:  # type: ignore[override]
        """``g(ξ)`` in the network's units, ``(B, *shape)``.

        Raises:
            ValueError: if the network gives another shape.
        """
        x = self.net(xi, **cond)
        if not isinstance(x, Tensor) or x.shape != (len(xi), *self.shape):
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"the network of this generator must give {(len(xi), *self.shape)} for latents"
                f" {tuple(xi.shape)}, and it gave {got}; say shape= of the samples, or reshape"
            )
        return x

    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        return (self(x, **cond),)

    def weights(self, target: str, t: Tensor) -> Combination:
        raise ConversionError(
            f"a generator has no {target.replace('_', ' ')}: it makes a sample of a latent in one"
            " call, without time; draw samples with generator.sample(n)"
        )

    def sample(
        self,
        n: int,
        *,
        cond: Mapping[str, Any] | None = None,
        chunk: int = _CHUNK,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw samples ``(n, *shape)`` in the units of the data, in evaluation mode.

        Args:
            n: number of samples.
            cond: conditions for the network; tensors of n rows go with their rows.
            chunk: rows in one network call.
            generator: source of the latents.
        """
        n = positive_integer("the number of samples", n)
        key = draw_key(generator)
        device = self.reference().device
        cond = self.check_conditions(cond, n, rows="samples", device=device)
        with evaluating(self), torch.no_grad():
            xi = self.latents(n, generator=stream(key, device=device))
            x = Chunks(xi, chunk, cond).map(self, xi)
            return x if self.transform is None else self.transform.invert(x)
