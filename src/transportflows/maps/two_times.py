r"""A network of two times, made of one that takes a time and a vector.

A flow map needs the time s of x and the time t to go to. The network in it gets s as its time, and
of t the vector ``(t - s, cos πk t, sin πk t)``, k = 1 .. K: slow waves, since a map is a smooth
function of t, and fast ones let it ripple between the times of the training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._core.registry import register
from .._core.signatures import as_is, check_call, checked

__all__ = ["TwoTimes"]


@checked
@register
class TwoTimes(nn.Module):
    """``net(s, t, x, **cond)`` of a network ``net(s, x, stop=..., **cond)``.

    Args:
        net: a network that takes a vector ``stop`` of odd size 2K + 1, such as
            ``MLP(2, vectors={"stop": 9})``, a U-Net or a transformer.

    Raises:
        TypeError: if it takes no such vector.
        ValueError: if its size is even.

    Example:
        >>> import transportflows as tpf
        >>> net = TwoTimes(tpf.networks.MLP(2, width=16, vectors={"stop": 9}))
        >>> net(torch.zeros(3), torch.ones(3), torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        vectors = getattr(net, "vectors", None)
        kind = type(net).__name__
        if not isinstance(vectors, Mapping) or "stop" not in vectors:
            raise TypeError(
                f"the {kind} takes no vector of the name 'stop', by which it would be told of the"
                f" second time; write TwoTimes({kind}(..., vectors={{'stop': 9}}))"
            )
        if vectors["stop"] % 2 == 0:
            raise ValueError(
                f"the vector 'stop' has {vectors['stop']} numbers, and the features of a time are"
                " 1 + 2K, a difference and K waves; write vectors={'stop': 9}"
            )
        self.net = net
        waves = math.pi * torch.arange(1, vectors["stop"] // 2 + 1, dtype=torch.float32)
        self.register_buffer("waves", waves, persistent=False)
        self.waves: Tensor

    @property
    def takes_one_time(self) -> bool:
        """Whether the network in it takes a time ``()``."""
        return bool(getattr(self.net, "takes_one_time", False))

    @property
    def nulls(self) -> Mapping[str, float]:
        """What stands for none, by the name of a condition."""
        known: Mapping[str, float] = getattr(self.net, "nulls", {})
        return {name: value for name, value in known.items() if name != "stop"}

    @as_is
    def forward(self, s: Tensor, t: Tensor, x: Tensor, **cond: Any) -> Any:
        """What the network gives for x ``(B, *)`` at time s on the way to t."""
        try:
            phase = t.unsqueeze(-1) * self.waves.to(t)
            stop = torch.cat([(t - s).unsqueeze(-1), phase.cos(), phase.sin()], dim=-1)
        except (AttributeError, TypeError):
            check_call(TwoTimes.forward, locals())
            raise
        return self.net(s, x, stop=stop if stop.ndim > 1 else stop.unsqueeze(0), **cond)

    @as_is
    def with_tangent(
        self,
        s: Tensor,
        t: Tensor,
        x: Tensor,
        ds: Tensor,
        dt: Tensor,
        dx: Tensor,
        *,
        gradients: bool = False,
        **cond: Any,
    ) -> tuple[Tensor, Tensor] | None:
        """The prediction and its change along ``(ds, dt, dx)``, by hand, where the network can.

        Args:
            s: times of x, ``(B,)``.
            t: times to go to, ``(B,)``.
            x: states, ``(B, *)``.
            ds: change of s, ``(B,)``.
            dt: change of t, ``(B,)``.
            dx: change of x, ``(B, *)``.
            gradients: whether the change is to be differentiated too.
            cond: conditions.

        Returns:
            Both, of the shape of x; None where the network in it has no ``with_tangent``.
        """
        hook = getattr(self.net, "with_tangent", None)
        if hook is None:
            return None
        waves = self.waves.to(t)
        phase = t.unsqueeze(-1) * waves
        stop = torch.cat([(t - s).unsqueeze(-1), phase.cos(), phase.sin()], dim=-1)
        turning = torch.cat([-waves * phase.sin(), waves * phase.cos()], dim=-1)
        change = torch.cat([(dt - ds).unsqueeze(-1), dt.unsqueeze(-1) * turning], dim=-1)
        found: tuple[Tensor, Tensor] | None = hook(
            s, x, ds, dx, {"stop": change}, gradients=gradients, stop=stop, **cond
        )
        return found

    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this object."""
        return {"net": self.net}


def student_network(net: Any, size: int = 9) -> TwoTimes | None:
    """The network of a teacher, told of a second time, with its weights; None if that cannot be.

    It begins as ``net(s, x)`` whatever t is.

    Args:
        net: a network whose class takes ``vectors``, and whose ``config()`` gives its arguments.
        size: numbers that tell of t.
    """
    config, vectors = getattr(net, "config", None), getattr(net, "vectors", None)
    if not isinstance(net, nn.Module) or config is None or not isinstance(vectors, Mapping):
        return None
    made = type(net)(**{**config(), "vectors": {**vectors, "stop": size}})
    known, fresh = net.state_dict(), made.state_dict()
    shapes = {name: tensor.shape for name, tensor in fresh.items() if name in known}
    if shapes != {name: tensor.shape for name, tensor in known.items()}:
        return None
    added = {name: torch.zeros_like(x) for name, x in fresh.items() if name not in known}
    made.load_state_dict({**known, **added})
    return TwoTimes(made.to(next(net.parameters())))
