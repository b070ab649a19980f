"""Forward pass, loss and backward pass as one graph of ``torch.compile``, or eager with a reason.

Draws stay outside of the graph, since torch cannot trace a generator; they are made for several
steps at once (:mod:`transportflows.training.blocks`). So does the optimizer, whose fused kernel is
one call already, and takes any gradient: clipped, accumulated, summed over processes.

A graph is used only where its numbers are those of the eager step: the first time it is evaluated
beside one, on the same rows. What gives other numbers, as layers that draw do, or cannot be made
one graph is evaluated eagerly, and one warning says why; in the second case the networks by
themselves are compiled, in place.
"""

from __future__ import annotations

import re
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from ..draws import PathSample
from ..fields.base import Field
from ..losses import Loss, Regression, SumLoss, Undrawn

__all__ = ["CompiledStep", "reason_of"]

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_ROUGH = 5e-2  # of half precision
_Result = tuple[Tensor, tuple[Tensor, ...]]


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
    """Losses and gradients of a trainer by one compiled graph, for as long as torch can.

    Args:
        loss: the loss.
        field: what is trained.
        parameters: in which the gradient is taken.
        autocast: dtype of the networks' matrix products; None for their own.
        options: arguments of :func:`torch.compile`.

    Attributes:
        reason: why steps are eager; None where they are compiled, or not yet.
    """

    def __init__(
        self,
        loss: Loss,
        field: Field,
        parameters: Sequence[Tensor],
        autocast: torch.dtype | None,
        options: Mapping[str, Any],
    ) -> None:
        self.loss, self.parameters, self.autocast = loss, list(parameters), autocast
        self.given, self.options = dict(options), dict(options)
        if not {"mode", "options", "backend"} & set(self.options):
            self.options["options"] = {"fallback_random": True}  # what layers draw is torch's own
        self.options["fullgraph"] = True
        self.options.setdefault("dynamic", False)  # one graph for each number of rows
        self.reason: str | None = None
        self.module = _Values(loss, field, autocast)
        names = {id(p): name for name, p in self.module.named_parameters()}
        self.names = [names.get(id(p), "") for p in self.parameters]
        if "" in self.names:
            self.reason = "some of the trained parameters are in no network of the field"
        if {id(p) for p in field.process.parameters()} & {id(p) for p in self.parameters}:
            self.reason = "the path is learned, and drawn outside of the graph"
        self.used: list[bool] | None = None  # which parameters get a gradient; known when checked
        self._graph: Callable[..., _Result] | None = None

    def ready(self, sample: Any) -> bool:
        """Whether a sample may be given to the graph; it is made ready for it."""
        if self.reason is None and isinstance(sample, Undrawn):
            self.stop("the loss draws while it is evaluated, and torch traces no generator", True)
        if self.reason is not None:
            self.stop(self.reason, True)
            return False
        for part in self.loss.losses if isinstance(self.loss, SumLoss) else [self.loss]:
            if isinstance(part, Regression) and isinstance(sample, PathSample):
                part.prepare(sample)
        return True

    def __call__(self, sample: Any, share: Tensor) -> Tensor | None:
        """Add the gradient, and give the losses, detached; None where the step is to be eager."""
        found = self._try(sample, share)
        if found is None:
            return None
        values, gradients = found
        used = self.used or []
        for k, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            used[k] = used[k] or bool(gradient.any())  # an unused one is looked at: it may be later
            if not used[k]:
                continue
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad.add_(gradient)
        return values.clone() if values.is_cuda else values  # a captured graph writes over it

    def check(self, sample: Any, share: Tensor, eager: Callable[[], Tensor]) -> Tensor:
        """Take an eager step, and see whether the graph gives its numbers.

        Args:
            sample: what was drawn.
            share: of each row in the mean.
            eager: adds the gradient, and gives the losses.
        """
        generators = _states(share.device)
        found = self._try(sample, share)
        _restore(share.device, generators)
        before = [p.grad for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        values = eager()
        own = [p.grad for p in self.parameters]
        if found is not None:
            self.used = [gradient is not None for gradient in own]
            pairs = [(values, found[0]), *zip(own, found[1], strict=True)]
            if not all(self._near(a, b) for a, b in pairs if a is not None):
                self.stop(
                    "the compiled graph gives other numbers, as where layers draw or the network"
                    " changes from call to call"
                )
        for parameter, already in zip(self.parameters, before, strict=True):
            if already is not None:
                parameter.grad = already if parameter.grad is None else already + parameter.grad
        return values

    def _near(self, a: Tensor, b: Tensor) -> bool:
        tolerance = _ROUGH if self.autocast is not None else _TOLERANCE.get(a.dtype, _ROUGH)
        size = torch.linalg.vector_norm(a.double())
        return bool(torch.linalg.vector_norm(a.double() - b.double()) <= tolerance * size + 1e-30)

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

        def step(parameters: list[Tensor], sample: Any, share: Tensor) -> _Result:
            def mean(parameters: list[Tensor]) -> tuple[Tensor, Tensor]:
                values = functional_call(module, dict(zip(names, parameters)), (sample,))  # noqa: B905
                return (values * share).sum(), values

            gradients, (_, values) = grad_and_value(mean, has_aux=True)(parameters)
            return values, tuple(gradients)

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

    _told = False


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


def _states(device: torch.device) -> Any:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _restore(device: torch.device, state: Any) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
