"""The exact map: where the ODE of a field takes a state, by an adaptive solver in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core.arrays import DataLike
from .._core.checks import choice, positive_integer
from .._core.conditions import NO_CONDITIONS
from .._core.precision import table_device
from .._core.signatures import as_is, checked
from .._core.tensor import own_dtype
from ..combination import Combination
from ..distributions import Distribution, Point
from ..fields import Field
from ..fields.base import check_field
from ..fields.calls import Network
from ..oracles import oracle
from ..process import Process
from ..samplers.adaptive import ADAPTIVE, check_tolerances
from ..samplers.ends import kind_of_end
from ..solve.grid import as_margin
from ..solve.rows import default_chunk
from .flow_map import FlowMap
from .jumps import Jumps
from .mean_velocity import Beside, SolveOptions, mean_velocity

__all__ = ["SolvedMap", "oracle_map"]

_NEAR = 1e-4  # of an end of time at which the velocity is infinite
_QUANTITIES = ("velocity", "mean_velocity", "score", "noise", "data")


@checked
class SolvedMap(FlowMap):
    """The flow map of a field's own ODE, solved to a tolerance: what a learned map is held against.

    It stands wherever a :class:`FlowMap` does: as a teacher, a reference, in ``sample``, whose
    every jump is then exact. Velocity, score and all else are the field's own. States are solved in
    float64, whatever their dtype; a network is called in its own. Gradients in x go through the
    steps of the solver; forward mode does not: see :meth:`jacobian`.

    Args:
        field: any field with a velocity; of a :class:`FlowMap` it is the ODE of the tangent.
        rtol: relative tolerance of each row; by default 1e-10, or 1e-6 where a network computes in
            float32 or less, whose rounding no tolerance can be below.
        atol: absolute tolerance, likewise, in units of the velocity.
        scheme: an adaptive solver: ``"dopri8"``, ``"dopri5"`` and others.
        margin: distances from t = 0 and t = 1 that are kept by times: those nearer to an end stand
            for the time at that distance. By default 1e-4 at an end where the field's velocity is
            infinite, as that of a noise prediction may be, and none where it is finite: an oracle
            has none, on any path, SBDM and VP at t = 1 included, if the data have a density.
        chunk: rows of a solve; chosen to fit the cache, or the card, if None.
        max_nfe: most evaluations of the velocity in a solve; 5,000 if None.

    Raises:
        TypeError: if it is no field.
        ConversionError: if it has no velocity.
        ValueError: if it starts in one point, which no ODE leaves by more than one path, or an
            option is out of its range. A call raises TooManyEvaluationsError where the tolerance
            cannot be met, with the cause.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> exact = tpf.maps.SolvedMap(tpf.oracle(process, tpf.Gaussian((2,), 1.0, 0.5)))
        >>> exact.jump(0.0, 1.0, torch.ones(1, 2, dtype=torch.float64))  # 1 + 0.5 x
        tensor([[1.5000, 1.5000]], dtype=torch.float64)
        >>> back = exact.jacobian(1.0, 0.0, torch.zeros(1, 2, dtype=torch.float64))
        >>> torch.allclose(back, 2 * torch.eye(2, dtype=torch.float64))
        True
    """

    trainable = False

    def __init__(
        self,
        field: Field,
        *,
        rtol: float | None = None,
        atol: float | None = None,
        scheme: str = "dopri8",
        margin: float | tuple[float, float] | None = None,
        chunk: int | None = None,
        max_nfe: int | None = None,
    ) -> None:
        nn.Module.__init__(self)
        check_field(field, "a SolvedMap is that of the ODE of")
        if getattr(field, "to_data", False):
            raise ValueError(
                "this FlowMap was trained for t = 1 only (to_data=True), so that it has no tangent"
                " to solve; give the field that it was distilled from"
            )
        if isinstance(field.process.base, Point):
            raise ValueError(
                "the base is one point, which the ODE leaves by one path: there is no map from it;"
                " sample with an epsilon, sample(field, n, epsilon=a / 2)"
            )
        choice("scheme", scheme, ADAPTIVE)
        own = [d for d in map(own_dtype, field.networks) if d is not None]
        finest = 1e-6 if any(d.itemsize < 8 for d in own) else 1e-10
        rtol, atol = (finest if given is None else float(given) for given in (rtol, atol))
        check_tolerances(rtol, atol)
        self.field, self.process, self.transform = field, field.process, field.transform
        self.outputs, self.power = field.outputs, field.power
        self.prediction, self.to_data = "velocity", False
        self.margin = as_margin(margin) or self._margin_of_velocity()
        self.chunk = None if chunk is None else positive_integer("chunk", chunk)
        most = None if max_nfe is None else positive_integer("max_nfe", max_nfe)
        self.options = SolveOptions(rtol, atol, scheme, self.margin, most)
        self.default_scheme = Jumps()

    @torch.no_grad()
    def _margin_of_velocity(self) -> tuple[float, float]:
        device = table_device(self.field.reference().device)
        low, high = (
            kind_of_end(lambda t: self.field.weights("velocity", t.to(device)), end)
            for end in (0, 1)
        )
        return (0.0 if low == "regular" else _NEAR, 0.0 if high == "regular" else _NEAR)

    # ------------------------------------------------------------------------------ as a map

    @as_is
    def between(
        self, s: Tensor, t: Tensor, x: Tensor, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """``v_{s,t}(x)``, ``(B, *)``, solved, and None for a weight, as :meth:`FlowMap.between`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            return self.solved(s, t, x, cond)[0], None

    def jacobian(
        self,
        s: float | Tensor,
        t: float | Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
    ) -> Tensor:
        """``∇X_{s,t}(x)``, ``(B, d, d)`` with d numbers in an event, by the variational equation.

        A column costs a derivative of the velocity in each evaluation, and a state in memory. It is
        solved without gradients, and needs a network that has forward-mode derivatives.

        Args:
            s: time of x, a number, ``()`` or ``(B,)``.
            t: time to go to, before or after s.
            x: states at time s, ``(B, *)``, in the units of the process.
            cond: conditions for the network, by name.
        """
        s, t = self._times(s, t, x)
        with torch.no_grad():
            return self.solved(s, t, x, self._conditions(cond, x), "columns")[1]

    def log_det(
        self,
        s: float | Tensor,
        t: float | Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
    ) -> Tensor:
        """``log det ∇X_{s,t}(x)``, ``(B,)``, by the integral of the divergence; as for `jacobian`.

        The determinant of a flow is positive, so no absolute value is taken.
        """
        s, t = self._times(s, t, x)
        with torch.no_grad():
            return self.solved(s, t, x, self._conditions(cond, x), "divergence")[1]

    @as_is
    def solved(
        self, s: Tensor, t: Tensor, x: Tensor, cond: Mapping[str, Any], beside: Beside = ""
    ) -> tuple[Tensor, Tensor]:
        """``v_{s,t}(x)``, and beside it in the same solve what is asked for; nothing is checked.

        Args:
            s: as in :meth:`jacobian`, as are t and x.
            t: time to go to.
            x: states, ``(B, *)``.
            cond: checked.
            beside: ``"columns"`` for the Jacobian, ``"divergence"`` for its log-determinant.
        """
        size = self.chunk or (default_chunk(self.field.networks, x) if len(x) else 1)
        return mean_velocity(self.field, self.options, s, t, x, cond, beside, chunk=size)

    # --------------------------------------------------------------- as a field: the one it is of

    @as_is
    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """What the field predicts, ``(B, *)``, its margin kept."""
        return self.field.predict(self._kept(t), x, cond, needed)

    def quantity(
        self,
        target: str,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        *,
        checked: bool = True,
    ) -> Tensor:
        """Any of the field's quantities, ``(B, *)``, its margin kept, as :meth:`Field.quantity`."""
        t = self._kept(t)
        if checked and target in _QUANTITIES:  # an oracle knows more than conversions do
            found: Tensor = getattr(self.field, target)(t, x, cond)
            return found
        return self.field.quantity(target, t, x, cond, checked=checked)

    def weights(self, target: str, t: Tensor) -> Combination:
        """How the field makes a target, of the shape of t; see :meth:`Field.weights`."""
        return self.field.weights(target, self._kept(t))

    def drift_weights(self, t: Tensor, epsilon: Tensor, sign: Tensor) -> Combination | None:
        """How the field makes a drift, of the shape of t; see :meth:`Field.drift_weights`."""
        return self.field.drift_weights(self._kept(t), epsilon, sign)

    def check_conditions(
        self, cond: Mapping[str, Any] | None, n: int, **how: Any
    ) -> dict[str, Any]:
        """What the field takes, as it checks it itself."""
        return self.field.check_conditions({} if cond is None else cond, n, **how)

    def _conditions(self, cond: Mapping[str, Any], x: Tensor) -> Mapping[str, Any]:
        return self.check_conditions(cond, len(x), ranges=False, device=x.device)

    def _kept(self, t: Tensor) -> Tensor:
        return t.clamp(self.margin[0], 1 - self.margin[1]) if any(self.margin) else t

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """Those of the field."""
        return self.field.breakpoints

    @property
    def own_start(self) -> Distribution:
        """The law at t = 0 of the field."""
        return self.field.own_start

    @property
    def networks(self) -> tuple[Network, ...]:
        """Those of the field; none for an oracle."""
        return self.field.networks

    def reference(self) -> Tensor:
        """A scalar of the dtype and device that the field expects."""
        return self.field.reference()

    def config(self) -> dict[str, Any]:
        raise NotImplementedError("a SolvedMap is made from its field: save that")

    def _told(self) -> dict[str, Any]:
        told = {name: getattr(self.options, name) for name in ("rtol", "atol", "scheme")}
        return {"field": self.field, **told, "margin": self.margin if any(self.margin) else None}


@checked
def oracle_map(
    process: Process,
    law: Distribution | DataLike,
    *,
    rtol: float = 1e-10,
    atol: float = 1e-10,
    scheme: str = "dopri8",
    margin: float | tuple[float, float] | None = None,
) -> SolvedMap:
    """Return the exact flow map of a process between known laws: its oracle's ODE, solved.

    Args:
        process: an affine process with an independent coupling; see :func:`transportflows.oracle`.
        law: ρ1, a Gaussian, a mixture of them, or rows of data ``(N, *)``, on which the exact map
            ends: give that a ``margin``, such as ``(0.0, 1e-3)``, for a map with a density.
        rtol: relative tolerance of each row.
        atol: absolute tolerance.
        scheme: an adaptive solver.
        margin: see :class:`SolvedMap`.

    Raises:
        TypeError: if no oracle is known for such data.
        ValueError: if an option is out of its range.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> exact = tpf.maps.oracle_map(process, tpf.Gaussian((2,), 1.0, 0.5))
        >>> tpf.sample(exact, 5).nfe
        1
        >>> x = torch.zeros(1, 2, dtype=torch.float64)
        >>> bool((exact.log_det(0.0, 1.0, x).exp() - 0.25).abs() < 1e-9)
        True
    """
    return SolvedMap(oracle(process, law), rtol=rtol, atol=atol, scheme=scheme, margin=margin)
