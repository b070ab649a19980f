r"""Flow maps: where the ODE of a field takes a state, learned as a function of both times.

The ODE ``dx/dt = b(t, x)`` takes what is x at time s to :math:`X_{s,t}(x)` at time t. This *flow
map* is what a solver computes step by step, and a network can learn it, so that one call takes a
step of any length, forward or backward in time:

.. math:: X_{s,t}(x) = x + (t - s)\, v_{s,t}(x), \qquad
          v_{s,t}(x) = \frac{1}{t - s} \int_s^t b(u, X_{s,u}(x)) \, du ,

with v the mean velocity of the way from s to t (Boffi, Albergo and Vanden-Eijnden 2024, "Flow map
matching"; Geng et al. 2025, "Mean flows"). By its form the map at s = t is the identity, and

.. math:: v_{t,t} = b(t, \cdot) ,

so a flow map is also a field, of its *tangent*: its ODE can be solved, its density integrated, its
score taken, as of any other. Three equations say that a map is the flow of b,

.. math:: \partial_t X_{s,t}(x) &= b(t, X_{s,t}(x)) && \text{(Lagrangian)} \\
          \partial_s X_{s,t}(x) + \nabla X_{s,t}(x)\, b(s, x) &= 0 && \text{(Eulerian)} \\
          X_{u,t}(X_{s,u}(x)) &= X_{s,t}(x) && \text{(semigroup)}

and each gives losses (:mod:`transportflows.maps.map_loss`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import check_events, check_state, choice
from .._core.conditions import NO_CONDITIONS
from .._core.precision import table_device, wide
from .._core.signatures import as_is, check_call, checked
from ..combination import Combination
from ..fields import Field
from ..fields.calls import Network, check_process, check_transform
from ..fields.null_conditions import as_cond_transforms, given_transforms
from ..fields.units import check_units
from ..process import Process
from ..transforms import Standardize
from .between import average_weights, moved
from .calls import called_between, check_network_between, rows_of
from .jumps import Jumps, Renoise

__all__ = ["FlowMap"]

_POLE = 1e6  # a weight of a prediction in v that is none: it is within 1e-6 of a pole


@checked
class FlowMap(Field):
    """A network of two times, whose prediction gives ``X_{s,t}(x)`` under a process.

    :func:`transportflows.sample` goes by its jumps, one from t = 0 to t = 1 unless ``steps`` says
    otherwise; with the name of a solver as ``scheme`` it solves the ODE of the tangent.

    Args:
        net: ``net(s, t, x, **cond)`` with times ``(B,)``, of x and to go to, giving the shape of x;
            for networks of this library :class:`transportflows.maps.TwoTimes`.
        process: the law of x_t, whose base it starts from.
        prediction: what the network gives: ``"velocity"``, the mean velocity v; or, for a process
            with a Gaussian part, ``"data"`` or ``"noise"``, which X is made of as if it stayed the
            same on the way: ``X = (σ̂_t/σ̂_s) x + (β_t - β_s σ̂_t/σ̂_s) d`` with m = 0. Data have a
            pole where σ̂_s = 0, so that such a map does not leave t = 1; noise where β_s = 0.
        to_data: say that it was trained for t = 1 only, as a consistency model is. Then no jump
            ends elsewhere, nor has it a tangent, which nothing trained, so that what needs one (a
            velocity, an ODE, its density, ε) is refused: several steps go to t = 1 and come back
            by noise, :class:`Renoise`.
        transform: see :class:`Field`.
        cond_transforms: see :class:`Field`.

    Raises:
        TypeError: if the network takes one time only.
        ConversionError: for data or noise of a process without a Gaussian part.

    Example:
        >>> import torch, transportflows as tpf
        >>> net = tpf.maps.TwoTimes(tpf.networks.MLP(2, width=16, vectors={"stop": 9}))
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> flow_map = tpf.maps.FlowMap(net, process)
        >>> tpf.sample(flow_map, 5).nfe
        1
        >>> x = torch.zeros(3, 2)
        >>> bool((flow_map.jump(0.5, 0.5, x) == x).all())
        True
    """

    default_steps = 1

    def __init__(
        self,
        net: Network,
        process: Process,
        *,
        prediction: str = "velocity",
        to_data: bool = False,
        transform: Standardize | None = None,
        cond_transforms: Mapping[str, Standardize] | None = None,
    ) -> None:
        nn.Module.__init__(self)
        if isinstance(net, Field):
            raise TypeError(
                f"net is a {type(net).__name__}, of one time; a map that does what it does is"
                " learned from it: maps.distill(field, data, ...)"
            )
        check_network_between(net)
        check_process(process)
        check_transform(transform)
        check_units(process, transform)
        choice("prediction", prediction, ("velocity", "data", "noise"), {"x": "'data'"})
        if prediction != "velocity":
            _ = process.part  # refused where there is none
        self.net, self.process, self.transform = net, process, transform
        self.cond_transforms = as_cond_transforms(cond_transforms)
        self.prediction, self.to_data = prediction, bool(to_data)
        self.outputs = (prediction,)
        self.default_scheme = Renoise() if self.to_data else Jumps()

    def config(self) -> dict[str, Any]:
        return {
            "net": self.net,
            "process": self.process,
            "prediction": self.prediction,
            "to_data": self.to_data,
            "transform": self.transform,
            **given_transforms(self),
        }

    # ----------------------------------------------------------------------------- as a map

    def average(
        self,
        s: float | Tensor,
        t: float | Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
    ) -> Tensor:
        """``v_{s,t}(x)``, the mean velocity on the way from s to t, ``(B, *)``.

        Args:
            s: time of x, a number, ``()`` or ``(B,)``.
            t: time to go to, before or after s.
            x: states at time s, ``(B, *)``, in the units of the process.
            cond: conditions for the network, by name.
        """
        start, stop = self._times(s, t, x)
        if not isinstance(s, Tensor):
            self.check_leaving(start, stop)
        return self.between(start, stop, x, self._conditions(cond, x))[0]

    def jump(
        self,
        s: float | Tensor,
        t: float | Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
    ) -> Tensor:
        """``X_{s,t}(x) = x + (t - s) v_{s,t}(x)``, ``(B, *)``; see :meth:`average`."""
        start, stop = self._times(s, t, x)
        if not isinstance(s, Tensor) and (isinstance(t, Tensor) or s != t):
            self.check_leaving(start, stop)
        v = self.between(start, stop, x, self._conditions(cond, x))[0]
        return moved(start, stop, x, v)

    @as_is
    def between(
        self, s: Tensor, t: Tensor, x: Tensor, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """``v_{s,t}(x)``, ``(B, *)``, and the weight in it of what the network gives; no checks.

        The weight is None for 1. A loss on v divided by it is one of the network's own prediction,
        which is of one size at all times.
        """
        out = called_between(self, self.net, s, t, x, cond)
        if self.prediction == "velocity":
            return out, None
        weights = self._weights(s, t).map(lambda w: w.to(x))
        mean = self.process.noise_part.base_mean
        v = weights.of(x, None if mean is None else mean.to(x), (out,))
        return v, weights.outputs[0]

    def weight(self, s: Tensor, t: Tensor) -> Tensor | None:
        """The weight of what the network gives in ``v_{s,t}``, of the shape of t; None for 1."""
        if self.prediction == "velocity":
            return None
        weight: Tensor = self._weights(s, t).outputs[0].to(t)
        return weight

    @torch.no_grad()
    def leaves(self, s: Tensor, t: Tensor) -> Tensor:
        """Whether a jump from s to t is finite: not from where the prediction has a pole.

        Args:
            s: times to leave, of any shape.
            t: times to go to, of the same.
        """
        if self.prediction == "velocity":
            return torch.ones_like(s, dtype=torch.bool)
        device = table_device(self.reference().device)
        return self._weights(s.to(device), t.to(device)).within(_POLE)

    def check_leaving(self, s: Tensor, t: Tensor) -> None:
        """Refuse jumps from times ``(B,)`` where the prediction of the map has a pole.

        Raises:
            ValueError: says from where, and where to start.
        """
        leaves = self.leaves(s, t)
        if not bool(leaves.all()):
            bad = float(s.to(leaves.device).expand(leaves.shape)[~leaves].flatten()[0])
            raise ValueError(
                f"a map that predicts {self.prediction} does not leave t = {bad:g}, where it"
                f" has a pole; start beside it, such as t=({abs(bad - 0.02):g}, {1 - bad:g}) with"
                " states of that time, or train FlowMap(..., prediction='velocity')"
            )

    def _weights(self, s: Tensor, t: Tensor) -> Combination:
        return average_weights(self.process.part, self.prediction, wide(s), wide(t))

    def _times(self, s: float | Tensor, t: float | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.to_data and not isinstance(t, Tensor) and t != 1:
            raise ValueError(
                f"this FlowMap was trained for t = 1 only (to_data=True), and has no end t = {t};"
                " write t=1.0, or train one with other times, FlowMap(net, process) with"
                " maps.UniformPairs()"
            )
        s, t = rows_of(s, x), rows_of(t, x)
        check_state(s, x)
        check_events(x, self.process.shape, "x", "the process")
        return s, t

    def _conditions(self, cond: Mapping[str, Any], x: Tensor) -> Mapping[str, Any]:
        if cond or self.conditions:
            return self.check_conditions(cond, len(x), ranges=False, device=x.device)
        return cond

    # --------------------------------------------------------------------------- as a field

    @as_is
    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """What the network predicts at s = t: the tangent of the map, ``(B, *)``.

        Raises:
            ValueError: if the map is for t = 1 only, and has none.
        """
        if self.to_data:
            raise ValueError(
                "this FlowMap was trained for t = 1 only (to_data=True), so that it has no tangent"
                " v_{t,t}: no velocity or score, no ODE, no density of one, and no epsilon. Sample"
                " it by its jumps, tpf.sample(flow_map, n, steps=2), or take the field that it was"
                " distilled from"
            )
        if needed is not None and not isinstance(needed, (tuple, list)):
            check_call(FlowMap.predict, locals())
        try:
            return (called_between(self, self.net, t, t, x, cond),)
        except (AttributeError, TypeError, RuntimeError):
            check_call(FlowMap.predict, locals())
            raise
