"""Forward pass, loss and backward pass as one graph of ``torch.compile``, or eager with a reason.

Draws stay outside of the graph, since torch cannot trace a generator; they are made for several
steps at once (:mod:`transportflows.training.blocks`). So does the optimizer, whose fused kernel is
one call already, and takes any gradient: clipped, accumulated, summed over processes.

A graph is used only where its numbers are those of the eager step: the first time that one is used
(torch makes another for another number of rows, another mode of a layer, another way through a
network) an eager step is taken beside it, on the same rows, which also tells what gets a gradient.
What gives other numbers, as layers that draw do, or cannot be made one graph is evaluated eagerly,
and one warning says why; in the second case the networks by themselves are compiled, in place.
"""

from __future__ import annotations

import itertools
import re
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from operator import is_
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from .._core.precision import widest
from ..draws import PathSample
from ..fields.base import Field
from ..losses import Loss, Regression, SumLoss, Undrawn
from .taken_back import TakenBack

__all__ = ["CompiledStep", "reason_of"]

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_ROUGH = 5e-2  # of half precision
_Result = tuple[Tensor, tuple[Tensor, ...], int]
_NUMBERS = itertools.count(1)


def _number() -> int:
    return next(_NUMBERS)


class _Values(nn.Module):
    """The losses of a sample, as a module that holds all parameters which enter."""

    def __init__(self, loss: Loss, field: Field, autocast: torch.dtype | None) -> None:
        super().__init__()
        self.field, self.autocast = field, autocast
        self.evaluate = loss.terms if loss.names else loss.evaluate
        if isinstance(loss, nn.Module):
            self.loss = loss

    def forward(self, sample: Any) -> Tensor:
        dtype, device = self.autocast, self.field.reference().device.type
        with nullcontext() if dtype is None else torch.autocast(device, dtype):
            return self.evaluate(self.field, sample)


class CompiledStep:
    """Losses and gradients of a trainer by compiled graphs, for as long as torch can.

    Args:
        loss: the loss.
        field: what is trained.
        parameters: in which the gradient is taken.
        autocast: dtype of the networks' matrix products; None for their own.
        options: arguments of :func:`torch.compile`.

    Attributes:
        reason: why steps are eager; None where they are compiled, or not yet.
        used: which parameters get a gradient in the graph that was used last; None before that.
    """

    def __init__(
        self,
        loss: Loss,
        field: Field,
        parameters: Sequence[Tensor],
        autocast: torch.dtype | None,
        options: Mapping[str, Any],
    ) -> None:
        self.given, self.options = dict(options), dict(options)
        if not {"mode", "options", "backend"} & set(self.options):
            self.options["options"] = {"fallback_random": True}  # what layers draw is torch's own
        self.options["fullgraph"] = True
        self.options.setdefault("dynamic", False)  # one graph for each number of rows
        self.reason: str | None = None
        self._told = False
        self._made_of: list[Any] = []
        self.follow(loss, field, parameters, autocast)

    def follow(
        self,
        loss: Loss,
        field: Field,
        parameters: Sequence[Tensor],
        autocast: torch.dtype | None,
    ) -> None:
        """Go on with these; with new graphs, where something is another than it was.

        Torch's graphs do not look whether a module has other hooks or other parts than before.
        """
        modules = [(m, *m._forward_hooks.values(), *m._forward_pre_hooks.values(), *_backward(m))
                   for m in field.modules()]  # fmt: skip
        now = [loss, field, autocast, len(parameters), *parameters, *itertools.chain(*modules)]
        if len(now) == len(self._made_of) and all(map(is_, now, self._made_of)):
            return
        self._made_of, self.loss, self.autocast = now, loss, autocast
        self.parameters = list(parameters)
        self.module = _Values(loss, field, autocast)
        names = {id(p): name for name, p in self.module.named_parameters()}
        self.names = [names.get(id(p), "") for p in self.parameters]
        self.used: list[bool] | None = None
        self._used: dict[int, list[bool]] = {}  # by the numbers of graphs
        self._graph: Callable[..., _Result] | None = None
        if self._told:
            return
        if "" in self.names:
            self.reason = "some of the trained parameters are in no network of the field"
        if {id(p) for p in field.process.parameters()} & {id(p) for p in self.parameters}:
            self.reason = "the path is learned, and drawn outside of the graph"

    def ready(self, sample: Any) -> bool:
        """Whether a sample may be given to a graph; it is made ready for it."""
        if self.reason is None and isinstance(sample, Undrawn):
            self.stop("the loss draws while it is evaluated, and torch traces no generator", True)
        if self.reason is None and (hooked := self._hooked()) is not None:
            self.stop(f"{hooked} has a hook on its gradient, which no graph calls", True)
        if self.reason is not None:
            self.stop(self.reason, True)
            return False
        for part in self.loss.losses if isinstance(self.loss, SumLoss) else [self.loss]:
            if isinstance(part, Regression) and isinstance(sample, PathSample):
                part.prepare(sample)
        return True

    def __call__(self, sample: Any, share: Tensor, eager: Callable[[], Tensor]) -> Tensor | None:
        """Add the gradient, and give the losses, detached; None where the step is to be eager.

        Args:
            sample: what was drawn.
            share: of each row in the mean.
            eager: adds the gradient without a graph, and gives the losses.
        """
        take_back = TakenBack(share.device, self.module.field.networks)
        found = self._try(sample, share)
        if found is None:
            take_back()
            return None
        values, gradients, number = found
        if number not in self._used:
            take_back()
            return self._checked(values, gradients, number, eager)
        self.used = self._used[number]
        for parameter, gradient, used in zip(self.parameters, gradients, self.used, strict=True):
            if not used:
                continue
            if parameter.grad is None:
                parameter.grad = _laid(gradient, parameter)
            else:
                parameter.grad.add_(gradient)
        return values.clone() if values.is_cuda else values  # a captured graph writes over it

    def _checked(
        self,
        values: Tensor,
        gradients: Sequence[Tensor],
        number: int,
        eager: Callable[[], Tensor],
    ) -> Tensor:
        """Take an eager step, and see whether the graph gave its numbers."""
        before = [p.grad for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        found = eager()
        own = [p.grad for p in self.parameters]
        self.used = self._used[number] = [gradient is not None for gradient in own]
        pairs = [(found, values), *zip(own, gradients, strict=True)]
        if not all(self._near(a, b) for a, b in pairs if a is not None):
            self.stop(
                "the compiled graph gives other numbers, as where layers draw or the network"
                " changes from call to call"
            )
        for parameter, already in zip(self.parameters, before, strict=True):
            if already is not None:
                parameter.grad = already if parameter.grad is None else already + parameter.grad
        return found

    def _hooked(self) -> str | None:
        """The name of a parameter whose gradient is looked at, or changed, on its way."""
        for name, p in zip(self.names, self.parameters, strict=True):
            if p._backward_hooks or p._post_accumulate_grad_hooks:
                return name
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Graphs are of the tensors that they were made with, so a copy makes its own."""
        return {**vars(self), "_graph": None, "_used": {}, "used": None}

    def _near(self, a: Tensor, b: Tensor) -> bool:
        tolerance = _ROUGH if self.autocast is not None else _TOLERANCE.get(a.dtype, _ROUGH)
        a, b = widest(a), widest(b)
        return bool(
            torch.linalg.vector_norm(a - b) <= tolerance * torch.linalg.vector_norm(a) + 1e-30
        )

    def _try(self, sample: Any, share: Tensor) -> _Result | None:
        try:
            if self._graph is None:
                self._graph = torch.compile(_fresh(self._made_step()), **self.options)
            with torch.no_grad():
                return self._graph([p.detach() for p in self.parameters], sample, share)
        except Exception as error:
            backend = type(error).__name__ == "BackendCompilerFailed"  # its module loads slowly
            self.stop(reason_of(error), networks=not backend)
            return None

    def _made_step(self) -> Callable[..., _Result]:
        """What is compiled: parameters, a sample and shares to losses and gradients."""
        module, names = self.module, tuple(self.names)
        # Asked when a graph is made, which then tells its number at each call.
        number = torch.compiler.assume_constant_result(_number)  # type: ignore[no-untyped-call]

        def step(parameters: list[Tensor], sample: Any, share: Tensor) -> _Result:
            def mean(parameters: list[Tensor]) -> tuple[Tensor, Tensor]:
                values = functional_call(module, dict(zip(names, parameters)), (sample,))  # noqa: B905
                return (values * share).sum(), values

            gradients, (_, values) = grad_and_value(mean, has_aux=True)(parameters)
            return values, tuple(gradients), number()

        return step

    def stop(self, reason: str, networks: bool = False) -> None:
        """Go on without a graph, perhaps with compiled networks, and say why, once."""
        if self._told:
            return
        self.reason, self._graph, self._told = reason, None, True
        for net in self.module.field.networks if networks else ():
            if isinstance(net, nn.Module):
                net.compile(**self.given)
        more = "and the networks alone are compiled" if networks else "to the same numbers"
        warnings.warn(
            f"compile= makes no graph of the steps of {self.loss.title}: {reason}. They are"
            f" evaluated eagerly, {more}; leave compile= out to be told no more",
            stacklevel=2,
        )


def reason_of(error: BaseException) -> str:
    """Why torch could not compile, in a line: what broke, and where."""
    inner = getattr(error, "inner_exception", None)
    text = str(error if inner is None else inner).strip() or type(error).__name__
    if "cxx" in type(inner or error).__name__.lower() or "C++ compiler" in text:
        return "no C++ compiler was found, by which torch compiles for a CPU; install g++ or clang"
    what = text.splitlines()[0][:200].strip()
    where = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text.partition("from user code")[2])
    if where:
        path, line, name = where[-1]
        what += f" (in {name}, line {line} of {Path(path).name})"
    return f"{type(error).__name__}: {what}"


def _fresh(function: Any) -> Any:
    """The function with a code of its own: torch keeps at most eight graphs of a code."""
    made = types.FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _backward(module: nn.Module) -> list[Any]:
    return [*module._backward_hooks.values(), *module._backward_pre_hooks.values()]


def _laid(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient that lies in memory as its parameter does, which fused kernels take for granted.

    Autograd sees to that for itself.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, requires_grad=False).copy_(gradient)
