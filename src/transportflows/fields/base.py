"""Fields: a network with a meaning.

A network ``net(t, x, **cond)`` is only a function. A field says what it predicts and for which
process, and gives every quantity that this determines, or refuses and names the cure (formulas in
:mod:`transportflows.conversions`). Losses train fields, ``sample`` moves along them.

Here ``noise`` is η̂, the conditional mean of the standard normal of the *whole* Gaussian part of
x_t, so that ``score = -noise / process.noise_part.scale(t)`` for every process; where the base is
not an independent Gaussian it is the papers' ``η = E[z | x_t]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from .._core.checks import check_events, check_state, shown
from .._core.conditions import NO_CONDITIONS
from .._core.precision import wide, widest
from .._core.reprs import brief, call_lines
from .._core.signatures import as_is, check_call, checked
from ..combination import Combination
from ..conversions import conversion, singular
from ..distributions import Distribution
from ..gaussian_part import ConversionError
from ..process import Process
from ..transforms import Standardize
from .calls import Network, called, check_network, check_process, check_transform, sized
from .conditioned import Conditioned
from .null_conditions import as_cond_transforms, given_transforms
from .offers import Offers
from .saving import Saved
from .units import check_units, outer_start

__all__ = ["Field", "check_field"]


@checked
class Field(Saved, Offers, Conditioned):
    """A network whose prediction has a meaning under a process.

    Subclasses name what the network predicts in ``outputs``.

    Args:
        net: ``net(t, x, **cond)`` with t ``(B,)`` and x ``(B, *)``, giving the shape of x; any
            callable. ``tpf.networks.from_xt`` adapts a ``net(x, t)``. One with an attribute
            ``takes_one_time = True`` is given a time ``()`` where all rows have the same.
        process: the law of x_t.
        transform: standardising transform between the data's units and the network's; the trainer
            applies it to the data, ``sample`` undoes it. The process, its base and the methods here
            work in standardised units; all that ``sample`` and ``log_likelihood`` take and give
            is in the data's.
        cond_transforms: standardising transforms of conditions, by name, which are given in their
            own units in training and sampling alike: ``{"c": Standardize.fit(c)}``.

    Attributes:
        conditions: what a :class:`Trainer` trained it with, by name; ``{}`` for nothing, None where
            it was not trained by one. Whoever calls a trained field gives these, of the same kind,
            and no others: an embedding that was not trained gives numbers too. None forgets it.
        trainable: whether a :class:`Trainer` takes it; False for what is made of other fields.
        power: W, where velocity and score are of a product of W densities (guidance); or 1.
        default_scheme: how ``sample`` goes where it is not told, in ``default_steps`` steps.

    Raises:
        TypeError: if ``net`` cannot be called as ``net(t, x, **cond)``, or is a field already.
        ValueError: if the base of the process is in other units than the transform.

    Example:
        >>> import torch, transportflows as tpf
        >>> process, t, x = tpf.Process(tpf.SBDM(), shape=(1,)), torch.tensor(0.6), torch.ones(1, 1)
        >>> field = tpf.Velocity(lambda t, x: 0 * x, process)  # of N(0, 1), which SBDM keeps
        >>> [round(float(field.quantity(q, t, x)), 6) for q in ("score", "noise", "data")]
        [-1.0, 0.8, 0.6]
    """

    _sets: ClassVar[tuple[str, ...]] = ("process", "transform")
    outputs: tuple[str, ...] = ()
    trainable: ClassVar[bool] = True
    net: Network
    power: float = 1.0
    default_scheme: Any = "heun"
    default_steps: int = 100

    def __init__(
        self,
        net: Network,
        process: Process,
        *,
        transform: Standardize | None = None,
        cond_transforms: Mapping[str, Standardize] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(net, Field):
            raise TypeError(
                f"net is a {type(net).__name__} already, and the network in it predicts"
                f" {' and '.join(net.outputs)}; give that field itself, or another network"
            )
        check_network(net)
        check_process(process)
        check_transform(transform)
        check_units(process, transform)
        self.net = net
        self.process = process
        self.transform = transform
        self.cond_transforms = as_cond_transforms(cond_transforms)

    # --------------------------------------------------------------------------- predictions

    @as_is
    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Call the networks: one prediction for each of ``outputs``, None where not needed.

        Args:
            t: times, ``()`` or ``(B,)``.
            x: states, ``(B, *)``.
            cond: conditions by name, which the network gets as keywords.
            needed: which of the outputs are wanted; all of them if None.
        """
        if needed is not None and not isinstance(needed, (tuple, list)):
            check_call(Field.predict, locals())
        try:
            return (called(self, self.net, t, x, cond),)
        except (AttributeError, TypeError):
            check_call(Field.predict, locals())
            raise

    def forward(self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Any:
        """What the network predicts, of the shape of ``x`` ``(B, *)``; a tuple for a pair."""
        check_state(t, x)
        check_events(x, self.process.shape, "x", "the process")
        if cond or self.conditions:
            cond = self.check_conditions(cond, len(x), ranges=False, device=x.device)
        predictions = self.predict(t, x, cond)
        return predictions[0] if len(predictions) == 1 else predictions

    def velocity(self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor:
        """``b = E[ẋ_t | x_t = x]``, ``(B, *)``."""
        return self.quantity("velocity", t, x, cond)

    def mean_velocity(
        self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS
    ) -> Tensor:
        """``v = E[∂t I | x_t = x]``, ``(B, *)``."""
        return self.quantity("mean_velocity", t, x, cond)

    def score(self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor:
        """``s = ∇ log ρ_t(x)``, ``(B, *)``."""
        return self.quantity("score", t, x, cond)

    def noise(self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor:
        """``η̂ = E[ẑ | x_t = x]``, ``(B, *)``; ``s = -η̂ / σ̂``."""
        return self.quantity("noise", t, x, cond)

    def data(self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor:
        """``d = E[x1 | x_t = x]``, ``(B, *)``."""
        return self.quantity("data", t, x, cond)

    def weights(self, target: str, t: Tensor) -> Combination:
        """How ``target`` is made from x and ``outputs`` at times ``t`` (any shape).

        Raises:
            ConversionError: if it cannot be.
        """
        return conversion(self.process.noise_part, self.outputs, target, t)

    def drift_weights(self, t: Tensor, epsilon: Tensor, sign: Tensor) -> Combination | None:
        """How ``b ± ε s`` is made where outputs are drifts themselves, and there is no velocity.

        Args:
            t: times, ``(S,)``, float64.
            epsilon: ε there, ``(S, G)``, one column for each ε of a solve.
            sign: 1 forward in time and -1 backward, ``(S, 1)``.

        Returns:
            Weights ``(S, G)``; None for the sum of velocity and score.

        Raises:
            ConversionError: if its outputs do not give the drift of this ε.
        """
        return None

    def quantity(
        self,
        target: str,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        checked: bool = True,
    ) -> Tensor:
        """Any of the quantities by name, ``(B, *)``.

        Args:
            target: ``"velocity"``, ``"mean_velocity"``, ``"score"``, ``"noise"`` or ``"data"``.
            t: times, ``()`` or ``(B,)``.
            x: states, ``(B, *)``.
            cond: conditions for the network, by name.
            checked: refuse conditions that do not fit, and times at which a conversion is singular.
                That reads a value from the device; without it, a loop does not wait, and such a
                time gives NaN or infinity.

        Raises:
            ConversionError: if the predictions do not determine the target, or not at these times.
            ValueError: if conditions do not fit; see ``check_conditions``.
        """
        check_state(t, x)
        if checked:
            check_events(x, self.process.shape, "x", "the process")
        if checked and (cond or self.conditions):
            cond = self.check_conditions(cond, len(x), ranges=False, device=x.device)
        if target in self.outputs:
            needed = tuple(o == target for o in self.outputs)
            predictions = self.predict(t, x, cond, needed)
            return predictions[self.outputs.index(target)]  # type: ignore[return-value]
        weights = self.weights(target, wide(t) if checked else widest(t))
        part = self.process.noise_part
        if checked and not bool(weights.finite().all()):
            raise ConversionError(singular(part, self.outputs, target, t[~weights.finite()]))
        mean = None if part.base_mean is None else part.base_mean.to(x)
        predictions = self.predict(t, x, cond, weights.needed)
        return weights.map(lambda w: w.to(x)).of(x, mean, predictions)

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """Times inside (0, 1) at which it is not smooth in t, which every grid meets.

        Those of the path; a guided field has those of its intervals too.
        """
        return self.process.interpolant.breakpoints

    @property
    def start(self) -> Distribution:
        """The law at t = 0, where sampling starts by default, in the units of the data.

        Raises:
            ValueError: if the process does not know it.
        """
        return outer_start(self.own_start, self.transform)

    @property
    def own_start(self) -> Distribution:
        """The law at t = 0 in the units of the process."""
        return self.process.start

    # ---------------------------------------------------------------------------- the network

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks, without repetition."""
        return (self.net,)

    def config(self) -> dict[str, Any]:
        return {
            "net": self.net,
            "process": self.process,
            "transform": self.transform,
            **given_transforms(self),
        }

    def __repr__(self) -> str:
        nets, parts = self.networks, []
        for name, value in self._told().items():
            if any(value is net for net in nets):
                parts.append(f"{name}={sized(value)}")
            elif value is not None and value is not self.process:
                parts.append(f"{name}={brief(value)}")
        law = repr(self.process).replace("\n", "\n    ")
        return call_lines(type(self).__name__, [*parts, ""])[:-2] + f"\n    process={law})"

    def _told(self) -> dict[str, Any]:
        """What the repr tells beside the process: the arguments, where they are known."""
        try:
            return self.config()
        except NotImplementedError:
            return {}


def check_field(value: Any, what: str) -> None:
    """Refuse what is no field: a wrapped one, a class, a network without a meaning.

    Args:
        value: what was given.
        what: what asks for a field, in words: ``"sample moves along"``.
    """
    if isinstance(value, Field):
        return
    cure = "write Velocity(net, process), which says what a network predicts"
    if isinstance(getattr(value, "_orig_mod", getattr(value, "module", None)), Field):
        cure = "give the field in it, and wrap its network: Velocity(torch.compile(net), process)"
    elif isinstance(value, type) and issubclass(value, Field):
        cure = f"write {value.__name__}(net, process), one of its instances"
    raise TypeError(f"{what} a Field, got {shown(value)}; {cure}")
