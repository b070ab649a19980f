"""What valid arguments are replaced by: a pool of values, each with the kind that it is of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import transportflows as tpf
from _calls_valid import NET, P, V, X

INF, NAN = math.inf, math.nan
CLEAN = {"none", "flag", "int", "number", "text"}


def half_net() -> nn.Module:
    """A network in half precision."""
    return NET().half()


class NoCall:
    """An object that is nothing."""


def gives(value: Any) -> Callable[..., Any]:
    """A function of any arguments that returns a value."""
    return lambda *args, **kwargs: value


POOL: dict[str, tuple[str, Callable[[], Any]]] = {
    "None": ("none", lambda: None),
    "''": ("text", lambda: ""),
    "'abc'": ("text", lambda: "abc"),
    "'1e-3'": ("text", lambda: "1e-3"),
    "'float32'": ("text", lambda: "float32"),
    "'ddpm'": ("text", lambda: "ddpm"),
    "'euler'": ("text", lambda: "euler"),
    "'cuda:7'": ("text", lambda: "cuda:7"),
    "b'x'": ("object", lambda: b"x"),
    "-1": ("int", lambda: -1),
    "0": ("int", lambda: 0),
    "1": ("int", lambda: 1),
    "3": ("int", lambda: 3),
    "2**62": ("int", lambda: 2**62),
    "10**30": ("int", lambda: 10**30),
    "-0.5": ("number", lambda: -0.5),
    "0.0": ("number", lambda: 0.0),
    "0.3": ("number", lambda: 0.3),
    "2.5": ("number", lambda: 2.5),
    "1e300": ("number", lambda: 1e300),
    "1e-320": ("number", lambda: 1e-320),
    "nan": ("bad number", lambda: NAN),
    "inf": ("number", lambda: INF),
    "-inf": ("number", lambda: -INF),
    "True": ("flag", lambda: True),
    "False": ("flag", lambda: False),
    "1+2j": ("object", lambda: 1 + 2j),
    "np.float64(nan)": ("bad number", lambda: np.float64(NAN)),
    "np.int64(2)": ("int", lambda: np.int64(2)),
    "[]": ("list", list),
    "[1.0, 2.0]": ("list", lambda: [1.0, 2.0]),
    "[nan]": ("bad list", lambda: [NAN]),
    "['a']": ("bad list", lambda: ["a"]),
    "(1, -1)": ("list", lambda: (1, -1)),
    "(0.9, 0.1)": ("list", lambda: (0.9, 0.1)),
    "{}": ("dict", dict),
    "{'a': 1}": ("dict", lambda: {"a": 1}),
    "{'t': tensor}": ("dict", lambda: {"t": torch.zeros(3)}),
    "{'label': tensor (5,)}": ("dict", lambda: {"label": torch.zeros(5)}),
    "set()": ("object", set),
    "object()": ("object", NoCall),
    "a class": ("class", lambda: tpf.Linear),
    "a module": ("object", lambda: math),
    "range(3)": ("list", lambda: range(3)),
    "np (12, 2)": ("array", lambda: np.zeros((12, 2))),
    "np (3,)": ("array", lambda: np.array([0.1, 0.5, 0.9])),
    "np of text": ("array", lambda: np.array(["a", "b"])),
    "tensor ()": ("tensor number", lambda: torch.tensor(0.5)),
    "tensor () nan": ("bad tensor", lambda: torch.tensor(NAN)),
    "tensor () int": ("tensor number", lambda: torch.tensor(2)),
    "tensor (0,)": ("tensor", lambda: torch.zeros(0)),
    "tensor (0, 2)": ("tensor", lambda: torch.zeros(0, 2)),
    "tensor (3,)": ("tensor", lambda: torch.tensor([0.1, 0.5, 0.9])),
    "tensor (12, 3)": ("tensor", lambda: X(12, 3)),
    "tensor (4, 2)": ("tensor", lambda: X(4)),
    "tensor (12, 2) float64": ("tensor", lambda: X().double()),
    "tensor (12, 2) half": ("tensor", lambda: X().half()),
    "tensor (12, 2) int": ("tensor", lambda: torch.ones(12, 2, dtype=torch.int64)),
    "tensor (12, 2) bool": ("tensor", lambda: torch.ones(12, 2, dtype=torch.bool)),
    "tensor (12, 2) complex": ("bad tensor", lambda: X().to(torch.complex64)),
    "tensor (12, 2) nan": ("bad tensor", lambda: X().index_fill(0, torch.tensor([1]), NAN)),
    "tensor (12, 2) inf": ("bad tensor", lambda: X().index_fill(0, torch.tensor([1]), INF)),
    "tensor (12, 2) 1e30": ("tensor", lambda: X() * 1e30),
    "tensor (12, 2) requires_grad": ("tensor", lambda: X().requires_grad_()),
    "tensor (12, 2) sparse": ("bad tensor", lambda: X().to_sparse()),
    "tensor (12, 2) meta": ("bad tensor", lambda: X().to("meta")),
    "tensor (1, 1, 4, 4)": ("tensor", lambda: X(1, 1, 4, 4)),
    "constant tensor": ("tensor", lambda: torch.ones(12, 2)),
    "negative times": ("tensor", lambda: torch.linspace(-1, 0, 4)),
    "times over 1": ("tensor", lambda: torch.linspace(0, 3, 4)),
    "nn.Parameter": ("tensor number", lambda: nn.Parameter(torch.tensor(0.7))),
    "lambda: 0": ("function", lambda: lambda: 0),
    "lambda a, b, c, d: a": ("function", lambda: lambda a, b, c, d: a),
    "a function that returns None": ("function", lambda: gives(None)),
    "a function that returns 'a'": ("function", lambda: gives("a")),
    "a function that returns a number": ("function", lambda: gives(1.0)),
    "a function that returns (7, 3)": ("function", lambda: gives(torch.zeros(7, 3))),
    "a function that returns int": ("function", lambda: lambda *a, **k: _first(a).long()),
    "a function that returns complex": ("function", lambda: lambda *a, **k: _first(a) * 1j),
    "a function that returns nan": ("function", lambda: lambda *a, **k: _first(a) * NAN),
    "a function that returns its argument": ("function", lambda: lambda *a, **k: _first(a)),
    "a function that returns a tuple": ("function", lambda: gives((1, 2))),
    "nn.Linear(2, 2)": ("module", lambda: nn.Linear(2, 2)),
    "nn.Linear(5, 1)": ("module", lambda: nn.Linear(5, 1)),
    "an MLP": ("module", NET),
    "an MLP in half": ("module", half_net),
    "an MLP of 3": ("module", lambda: tpf.networks.MLP(3, 8, 1)),
    "torch.float16": ("dtype", lambda: torch.float16),
    "torch.float64": ("dtype", lambda: torch.float64),
    "torch.int64": ("dtype", lambda: torch.int64),
    "torch.complex64": ("dtype", lambda: torch.complex64),
    "np.float32": ("class", lambda: np.float32),
    "torch.device('meta')": ("device", lambda: torch.device("meta")),
    "a generator": ("generator", lambda: torch.Generator().manual_seed(3)),
    "np generator": ("object", lambda: np.random.default_rng(0)),
    "Gaussian((3,))": ("law", lambda: tpf.Gaussian((3,))),
    "Normal()": ("law", lambda: torch.distributions.Normal(0.0, 1.0)),
    "a process": ("process", P),
    "a VP process": ("process", lambda: P(tpf.VP())),
    "a path": ("path", tpf.Linear),
    "a field": ("field", V),
    "a loss": ("loss", tpf.VelocityLoss),
    "a schedule": ("schedule", lambda: tpf.solve.ConstantEpsilon(0.5)),
    "a scheme": ("scheme", lambda: tpf.samplers.SCHEMES["heun"]),
}


def _first(given: tuple[Any, ...]) -> Tensor:
    found = [one for one in given if isinstance(one, Tensor)]
    return found[-1] if found else torch.zeros(())
