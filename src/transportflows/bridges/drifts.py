r"""Fields whose networks predict the drifts of a bridge themselves, forward and backward.

On the path ``x_t = (1 - t) x0 + t x1 + γ z``, ``γ² = a t (1 - t)``, of a Brownian motion of
variance ``a`` pinned at pairs (x0, x1), the Markov process with the laws of x_t has the drifts

.. math:: f(t, x) = \frac{E[x_1 \mid x_t = x] - x}{1 - t} = b + \tfrac{a}{2} s, \qquad
          g(t, x) = \frac{x - E[x_0 \mid x_t = x]}{t} = b - \tfrac{a}{2} s,

f forward in time with noise of ``ε = a/2``, g backward. (The *Markovian projection*; Shi, De
Bortoli, Campbell and Doucet 2023, "Diffusion Schrödinger bridge matching", propositions 1 and 2.)
Where the pairs are those of the entropic plan of regularisation 2a, it is the Schrödinger bridge.
Both together give every ε, and the ODE:

.. math:: b = \tfrac12 (f + g), \quad s = \frac{f - g}{a}, \quad
          b + \varepsilon s = \big(\tfrac12 + \tfrac{\varepsilon}{a}\big) f
          + \big(\tfrac12 - \tfrac{\varepsilon}{a}\big) g .

One alone gives its own direction, with the bridge's ε, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core.conditions import NO_CONDITIONS
from .._core.signatures import checked
from ..combination import Combination
from ..fields import Field
from ..fields.calls import Network, called, check_network, check_process, check_transform
from ..fields.null_conditions import as_cond_transforms, given_transforms
from ..fields.units import check_units
from ..gaussian_part import ConversionError
from ..interpolants import Brownian, Linear
from ..process import Process
from ..transforms import Standardize

__all__ = ["BridgeDrift", "bridge_variance"]

_SAME = 1e-9  # of ε and a/2


@checked
class BridgeDrift(Field):
    """Networks that predict the drift of a bridge, forward, backward or both.

    With both, :func:`transportflows.sample` takes every ε, forward and backward in time; with one
    alone, its own direction with ``ε = a/2``, the bridge's. All drifts are in the forward direction
    of time: f and g are equal where there is no noise.

    Args:
        forward: predicts f, ``net(t, x, **cond)``.
        backward: predicts g.
        process: of the path ``Linear(Brownian(a))``.
        transform: see :class:`Field`.
        cond_transforms: see :class:`Field`.

    Raises:
        ValueError: if there is no network, the path is another, or a light potential is of another
            variance.

    Warns:
        PathLawWarning: when it is sampled with an ε > 0 that is not a/2.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(
        ...     tpf.Linear(tpf.Brownian(2.0)), base=tpf.Gaussian((2,)), coupling=tpf.Paired()
        ... )
        >>> field = tpf.bridges.BridgeDrift(forward=tpf.networks.MLP(2), process=process)
        >>> tpf.sample(field, 3, epsilon=1.0, steps=5).x.shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        *,
        forward: Network | None = None,
        backward: Network | None = None,
        process: Process,
        transform: Standardize | None = None,
        cond_transforms: Mapping[str, Standardize] | None = None,
    ) -> None:
        nn.Module.__init__(self)
        given = {"forward": forward, "backward": backward}
        nets = {f"{name}_drift": net for name, net in given.items() if net is not None}
        if not nets:
            raise ValueError(
                "a BridgeDrift is made of networks; write BridgeDrift(forward=net, process=process)"
            )
        if len(nets) == 2 and forward is backward:
            raise ValueError(
                "forward= and backward= are one and the same network, which cannot predict both;"
                " give two"
            )
        check_process(process)
        bridge_variance(process)
        check_transform(transform)
        check_units(process, transform)
        for net in nets.values():
            check_network(net)
            own, a = getattr(net, "bridge_variance", None), float(bridge_variance(process))
            if own is not None and abs(own - a) > 1e-6 * a:
                raise ValueError(
                    f"the potential is of variance {own:g} and the process of a = {a:g}; both must"
                    f" be one: LightPotential(shape, {a:g})"
                )
        self.outputs = tuple(nets)
        self.process, self.transform = process, transform
        self.cond_transforms = as_cond_transforms(cond_transforms)
        self.forward_net, self.backward_net = forward, backward

    @property
    def networks(self) -> tuple[Network, ...]:
        both = (self.forward_net, self.backward_net)
        return tuple(net for net in both if net is not None)

    def config(self) -> dict[str, Any]:
        return {
            "forward": self.forward_net,
            "backward": self.backward_net,
            "process": self.process,
            "transform": self.transform,
            **given_transforms(self),
        }

    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        wanted = (True,) * len(self.outputs) if needed is None else needed
        return tuple(
            called(self, net, t, x, cond) if want else None
            for net, want in zip(self.networks, wanted, strict=True)
        )

    def weights(self, target: str, t: Tensor) -> Combination:
        """How a quantity is made of f and g: weights of the shape of t.

        ``b = ½(f + g)``, ``v = (1-t) f + t g``, ``s = (f - g)/a``, ``η = -γ s`` and, of f alone,
        ``d = x + (1-t) f``.

        Raises:
            ConversionError: if it takes both drifts, and there is one.
        """
        one, a = torch.ones_like(t), bridge_variance(self.process).to(t)
        if target == "data" and "forward_drift" in self.outputs:
            rest = (None,) * (len(self.outputs) - 1)
            return Combination(one, None, (1 - t, *rest))
        if target in self.outputs:
            return Combination(
                None, None, tuple(one if o == target else None for o in self.outputs)
            )
        if len(self.outputs) == 1:
            raise ConversionError(self._alone(target.replace("_", " ")))
        root = (a * t * (1 - t)).clamp(min=0).sqrt()
        pairs = {
            "velocity": (0.5 * one, 0.5 * one),
            "mean_velocity": (1 - t, t),
            "score": (one / a, -one / a),
            "noise": (-root / a, root / a),
        }
        if target not in pairs:
            return super().weights(target, t)  # which names what there is
        return Combination(None, None, pairs[target])

    @property
    def path_epsilon(self) -> float:
        """The bridge's own ε, a/2."""
        return float(bridge_variance(self.process)) / 2

    def drift_weights(self, t: Tensor, epsilon: Tensor, sign: Tensor) -> Combination:
        """``b ± ε s = (½ ± ε/a) f + (½ ∓ ε/a) g``, with weights of the shape of t.

        Raises:
            ConversionError: if it takes both drifts, and there is one.
        """
        a = bridge_variance(self.process).to(epsilon)
        share = sign * epsilon / a
        share = torch.where((share.abs() - 0.5).abs() < _SAME, 0.5 * share.sign(), share)
        both = {"forward_drift": 0.5 + share, "backward_drift": 0.5 - share}
        missing = [name for name in both if name not in self.outputs and bool(both[name].any())]
        if missing:
            raise ConversionError(self._alone("b + ε s for this ε and direction of time"))
        return Combination(None, None, tuple(both[name] for name in self.outputs))

    def _alone(self, wanted: str) -> str:
        half = float(bridge_variance(self.process)) / 2
        first = "forward_drift" in self.outputs
        way = "forward in time" if first else "backward in time"
        call = f"sample(field, epsilon={half:g}{'' if first else ', t=(1.0, 0.0)'})"
        return (
            f"{wanted} cannot be had from the {'forward' if first else 'backward'} drift alone: it"
            f" goes {way}, with the bridge's own ε = a/2: {call}. For any other ε, the other"
            " direction and the ODE learn both: BridgeDrift(forward=..., backward=...)"
        )


def bridge_variance(process: Process) -> Tensor:
    """a, the variance at t = 1 of the Brownian motion that a process pins at its pairs, ``()``.

    Raises:
        ValueError: if its path is not ``Linear(Brownian(a))``.
    """
    path = process.interpolant
    if type(path) is not Linear or not isinstance(path.latent, Brownian):
        raise ValueError(
            "a bridge is of the path Linear(Brownian(a)), a Brownian motion of variance a pinned"
            f" at both ends, and this process has {path!r}; write Process(Linear(Brownian(a)), ...)"
        )
    return path.latent.a
