"""Pictures of fields and of densities in the plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._core.arrays import as_tensor
from .._core.checks import choice, positive_integer
from .._core.signatures import checked
from ..fields import Field
from ..fields.base import check_field
from ..likelihood import log_likelihood
from .canvas import INK, PALETTE, SHADE, canvas, cloud, limits_of, reference_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["density", "vector_field"]

_QUANTITIES = ("velocity", "mean_velocity", "score", "noise", "data")


@checked
@torch.no_grad()
def vector_field(
    field: Field,
    t: float | Sequence[float] = 0.5,
    *,
    quantity: str = "velocity",
    limits: Any = (-3.0, 3.0),
    size: int = 20,
    cond: Mapping[str, Any] | None = None,
    reference: Any = None,
    title: str = "",
) -> Figure:
    """Arrows of a field in the plane, a panel for each time.

    Args:
        field: of events ``(2,)``, in the units of the process.
        t: one time, or several.
        quantity: ``"velocity"``, ``"mean_velocity"``, ``"score"``, ``"noise"``, or ``"data"``,
            for which an arrow shows from x to the data predicted there.
        limits: where the plane begins and ends, ``(low, high)``.
        size: arrows in a row.
        cond: conditions without rows, one for all points: ``{"label": 3}``.
        reference: data to draw behind the arrows, ``(m, 2)``.
        title: above the picture.

    Raises:
        ImportError: if Matplotlib is not there.
        ValueError: if events are not of the plane, or the quantity is another.
    """
    check_field(field, "arrows are drawn of")
    choice("quantity", quantity, _QUANTITIES)
    low, high = limits_of(limits)
    times = [float(t)] if isinstance(t, (int, float)) else [float(one) for one in t]
    if not times:
        raise ValueError("t is one time or several, got none; write t=0.5")
    behind = reference_of(reference, torch.Size([2]))
    x = _grid(field, low, high, positive_integer("size", size))
    given = field.check_conditions(_spread(cond, len(x), x), len(x), device=x.device)
    figure, panels = canvas(columns=len(times), title=title, equal=True)
    for axes, time in zip(panels, times, strict=True):
        if behind is not None:
            cloud(axes, behind.numpy(), SHADE)
        arrows = getattr(field, quantity)(torch.as_tensor(time, dtype=x.dtype), x, given)
        arrows = (arrows - x if quantity == "data" else arrows).float().cpu()
        places = x.float().cpu()
        axes.quiver(*places.T.numpy(), *arrows.T.numpy(), color=PALETTE[0], angles="xy")
        axes.set(xlim=(low, high), ylim=(low, high))
        if len(times) > 1 or not title:
            axes.set_title(f"t = {time:g}")
    return figure


@checked
@torch.no_grad()
def density(
    of: Field | Callable[[Tensor], Tensor] | Any,
    *,
    limits: Any = (-3.0, 3.0),
    size: int = 80,
    cond: Mapping[str, Any] | None = None,
    samples: Any = None,
    title: str = "",
    **options: Any,
) -> Figure:
    """The density of a field's samples, or of any law, in the plane.

    Args:
        of: a field of events ``(2,)``, whose density is that of its probability flow; a law with
            ``log_prob(x)``; or a function that gives log-densities ``(B,)``, as a
            tensor or an array.
        limits: where the plane begins and ends, ``(low, high)``.
        size: points in a row.
        cond: conditions without rows, one for all points.
        samples: points to draw upon it, ``(n, 2)``.
        title: above the picture.
        options: of :func:`transportflows.log_likelihood`, for a field.

    Raises:
        ImportError: if Matplotlib is not there.
        TypeError: if it has no density.
        ValueError: if events are not of the plane, the log-densities of another shape, or what is
            of fields is given to another law.
    """
    low, high = limits_of(limits)
    points = reference_of(samples, torch.Size([2]), "samples")
    x = _grid(of, low, high, positive_integer("size", size))
    if isinstance(of, Field):
        found = log_likelihood(of, x, cond=_spread(cond, len(x), x), **options).log_prob
    elif cond is not None or options:
        told = ["cond"] * (cond is not None) + sorted(options)
        raise ValueError(f"{', '.join(told)}: of the density of a field, and this is none")
    elif callable(function := getattr(of, "log_prob", of)):
        found = as_tensor("the log-densities", function(x), torch.float64)
    else:
        raise TypeError(
            "a density is that of a field, of a law with log_prob(x), or a function of x (B, 2),"
            f" got {type(of).__name__}"
        )
    if tuple(found.shape) != (len(x),):
        raise ValueError(f"log-densities are ({len(x)},), got {tuple(found.shape)}")
    figure, (axes,) = canvas(size=(5.4, 4.5), title=title, equal=True)
    table = found.double().exp().view(size, size).mT.cpu().numpy()
    image = axes.imshow(table, extent=(low, high, low, high), origin="lower", cmap="viridis")
    bar = figure.colorbar(image, ax=axes)
    bar.set_label("density", color=INK)
    bar.ax.tick_params(which="both", colors=INK)
    if points is not None:
        cloud(axes, points.numpy(), "white", most=2.0)
    axes.set(xlim=(low, high), ylim=(low, high))
    return figure


def _grid(of: Any, low: float, high: float, size: int) -> Tensor:
    """Points of the plane in rows, of the dtype and device of a field."""
    like = of.reference() if isinstance(of, Field) else torch.zeros(())
    if isinstance(of, Field) and (shape := of.process.shape) not in (None, (2,)):
        raise ValueError(f"the plane has events of shape (2,), and this field {tuple(shape)}")
    line = torch.linspace(low, high, size, dtype=like.dtype, device=like.device)
    return torch.cartesian_prod(line, line)


def _spread(cond: Mapping[str, Any] | None, n: int, x: Tensor) -> Mapping[str, Any] | None:
    """One condition for all points."""
    if cond is None:
        return None
    ones = {name: torch.as_tensor(value, device=x.device) for name, value in cond.items()}
    return {name: one.expand(n, *one.shape) for name, one in ones.items()}
