"""Nulls for a network that has none: a learned vector, or zero with a flag."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import check_callable, event_shape, shown
from .._core.registry import register
from .._core.signatures import checked
from .._core.tensor import expand_time

__all__ = ["Nullable"]

NullForm = int | Sequence[int] | str


@checked
@register
class Nullable(nn.Module):
    r"""A network ``net(t, x, **cond)`` that can do without some of its conditions.

    The trainer drops a condition by putting its null in the place of a row: NaN, where it is made
    of numbers or booleans, or the integer that is said here. This wrapper gives the network
    something that it can compute with instead, for each condition one of:

    - *an integer* k: the network itself takes k for none. An embedding of ten classes gets an
      eleventh row, ``nn.Embedding(11, width)``, and ``label=10``;
    - *a shape*: a learned tensor of the shape of a row, which begins at zero, ``c=(3,)``. The
      network stays as it is;
    - ``"flag"``: zero, and beside it one more number (a channel, of an image) that is 1 where the
      condition was given and 0 where not. It comes last along the first dimension of a row, so
      ``(n, 3)`` becomes ``(n, 4)``, ``(n,)`` becomes ``(n, 2)``, and ``(n, C, H, W)`` becomes
      ``(n, C + 1, H, W)``, which the network has to be made for. It tells an image of zeros, or an
      empty mask, from none.

    Booleans become numbers of the dtype of x.

    Args:
        net: the network; any callable.
        forms: by name of the condition.

    Raises:
        TypeError: if a form is none of the three, or the network no callable.
        ValueError: if there are none.

    Example:
        >>> net = Nullable(lambda t, x, c: x + c, c=(2,))
        >>> c = torch.tensor([[1.0, 2.0], [math.nan, math.nan]])
        >>> net(torch.zeros(2), torch.zeros(2, 2), c=c).tolist()
        [[1.0, 2.0], [0.0, 0.0]]
    """

    def __init__(self, net: Callable[..., Any], **forms: NullForm) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            check_callable("net", net)
        if not forms:
            raise ValueError(
                "Nullable is told of no condition; write Nullable(net, label=10, c=(3,),"
                " image='flag')"
            )
        self.net, self.forms = net, dict(forms)
        self.learned = nn.ParameterDict()
        for name, form in forms.items():
            if isinstance(form, int) and not isinstance(form, bool):
                continue
            if form != "flag" and (isinstance(form, (str, bool)) or not hasattr(form, "__len__")):
                raise TypeError(
                    f"the null of {name!r} is an integer that the network takes for none, the shape"
                    f" of a row for a learned one, or 'flag', got {shown(form)}"
                )
            if form != "flag":
                shape = list(event_shape(name, form) if form else ())
                self.forms[name] = shape
                self.learned["of_" + name] = nn.Parameter(torch.zeros(shape))

    @property
    def nulls(self) -> dict[str, int | float]:
        """The value of each condition that stands for none."""
        return {
            name: form if isinstance(form, int) else math.nan for name, form in self.forms.items()
        }

    @property
    def takes_one_time(self) -> bool:
        """Whether the network in it takes a time ``()``."""
        return bool(getattr(self.net, "takes_one_time", False))

    def forward(self, t: Tensor, x: Tensor, **cond: Any) -> Any:
        """What the network gives, of the shape of ``x`` ``(B, *)``."""
        for name, form in self.forms.items():
            value = cond.get(name)
            if isinstance(value, Tensor) and value.ndim > 0 and not isinstance(form, int):
                cond[name] = self._replaced(name, value, x)
        return self.net(t, x, **cond)

    def _replaced(self, name: str, value: Tensor, x: Tensor) -> Tensor:
        """A condition without NaN."""
        if value.dtype == torch.bool:
            value = value.to(x.dtype)
        elif not value.is_floating_point():
            raise TypeError(
                f"the condition {name!r} is {value.dtype}, which has no NaN to say none by; give"
                f" the integer that the network takes for none, Nullable(net, {name}=10), or"
                f" numbers, {name}.float()"
            )
        none = value.isnan()
        none = none.flatten(1).all(1) if value.ndim > 1 else none
        at = expand_time(none, value)
        if self.forms[name] != "flag":
            return torch.where(at, self.learned["of_" + name].to(value), value)
        value, given = value.masked_fill(at, 0.0), (~none).to(value)
        if value.ndim == 1:
            return torch.stack([value, given], 1)
        flag = expand_time(given, value).expand(-1, 1, *value.shape[2:])
        return torch.cat([value, flag], 1)

    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this object."""
        return {"net": self.net, **self.forms}
