"""The shared checks: what is refused, and what the message says to write instead."""

from __future__ import annotations

import inspect
import math
import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import transportflows as tpf
from transportflows._core import checks
from transportflows._core.signatures import checked

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: checks.number("lr", "1e-3"), TypeError, "lr must be a number, got '1e-3'; write"),
        (lambda: checks.number("lr", True), TypeError, "got True"),
        (lambda: checks.number("lr", 1j), TypeError, "got 1j"),
        (lambda: checks.number("lr", NAN), ValueError, "got nan"),
        (lambda: checks.number("lr", torch.tensor(NAN)), ValueError, "got nan"),
        (lambda: checks.number("lr", torch.zeros(2)), TypeError, r"Tensor \(2,\) of torch.float32"),
        (lambda: checks.number("lr", INF), ValueError, "got inf"),
        (lambda: checks.number("p", 2, "in [0, 1]", least=0, most=1), ValueError, r"in \[0, 1\]"),
        (lambda: checks.positive_number("a", 0), ValueError, "positive and finite, got 0"),
        (lambda: checks.positive_integer("n", 2.5), ValueError, "positive integer, got 2.5"),
        (lambda: checks.positive_integer("n", 0), ValueError, "positive integer, got 0"),
        (lambda: checks.positive_integer("n", 10**12), ValueError, "memory"),
        (lambda: checks.integer("k", 10**40), ValueError, "k must be an integer"),
        (lambda: checks.dtype_of("dtype", "float32"), TypeError, "write torch.float32"),
        (lambda: checks.dtype_of("dtype", np.float64), TypeError, "write torch.float64"),
        (lambda: checks.dtype_of("dtype", "half"), TypeError, "write torch.float16"),
        (lambda: checks.floating_dtype("dtype", torch.int64), ValueError, "floating-point"),
        (lambda: checks.generator_of("generator", 7), TypeError, r"manual_seed\(7\)"),
        (lambda: checks.device_of("device", "gpu"), ValueError, "write 'cuda'"),
        (lambda: checks.device_of("device", "meta"), ValueError, "holds no numbers"),
        (lambda: checks.device_of("device", "cuda:99"), ValueError, "there are"),
        (lambda: checks.choice("kind", "exat", ["exact"]), ValueError, "write 'exact'"),
        (lambda: checks.choice("kind", 3, ["exact"]), TypeError, "one of 'exact', got 3"),
        (lambda: checks.check_callable("f", len, ["x", "y"]), TypeError, r"function of \(x, y\)"),
        (lambda: checks.check_callable("f", tpf.Linear()), TypeError, "has no forward"),
        (lambda: checks.plain_tensor("x", [1.0]), TypeError, r"write torch.as_tensor\(x\)"),
        (lambda: checks.plain_tensor("x", torch.zeros(2) + 1j), TypeError, "must be real"),
        (lambda: checks.plain_tensor("x", torch.eye(2).to_sparse()), TypeError, "to_dense"),
        (lambda: checks.plain_tensor("x", torch.zeros(2, device="meta")), TypeError, "meta"),
        (lambda: checks.returned("f(x)", None, None), TypeError, "must return a tensor, got None"),
        (lambda: checks.returned("f(x)", torch.zeros(2), (3,)), ValueError, r"shape \(3,\)"),
        (lambda: checks.unit_times("t", torch.tensor([2.0])), ValueError, "from 2 to 2"),
    ],
)
def test_refused_with_the_cure(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_what_is_admitted() -> None:
    assert checks.number("a", np.float32(0.5)) == checks.number("a", torch.tensor(0.5)) == 0.5
    assert checks.positive_integer("n", np.int64(3)) == checks.positive_integer("n", 3.0) == 3
    assert checks.generator_of("generator", None) is None
    checks.check_callable("f", lambda x, *more: x, ["x", "y"])
    checks.check_callable("f", nn.Linear(2, 2), ["x"])


def test_a_message_is_short() -> None:
    for value in (torch.randn(999), list(range(9_999)), "a" * 9_999, np.zeros(9_999), 10**5_000):
        assert len(checks.shown(value)) < 80


@checked
def taking(x: Tensor, *, n: int = 1, process: tpf.Process | None = None, flag: bool = False) -> int:
    """A function of a user of the decorator."""
    return n


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": [1]}, "x must be a tensor, got"),
        ({"n": "3"}, "n must be an integer, got '3'; write it without quotes"),
        ({"n": 2.5}, "n must be an integer"),
        ({"process": tpf.Linear()}, "process must be a Process or None, got a Linear"),
        ({"process": tpf.Process}, r"write Process\(\.\.\.\)"),
        ({"flag": "no"}, "flag is True or False"),
    ],
)
def test_a_signature_is_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        taking(**{"x": torch.zeros(2), **given})


def test_a_checked_function_is_the_function_that_it_was() -> None:
    assert taking(torch.zeros(2), n=np.int64(4)) == 4
    assert str(inspect.signature(taking)).startswith("(x: 'Tensor', *, n: 'int' = 1")
    assert pickle.loads(pickle.dumps(taking)) is taking
    with pytest.raises(TypeError, match="unexpected keyword argument 'm'"):
        taking(torch.zeros(2), m=1)  # type: ignore[call-arg]


def test_shapes_that_torch_refuses_are_told_with_their_arguments() -> None:
    with pytest.raises(ValueError, match=r"x0 \(3, 2\) float32, x1 \(4, 5\) float32"):
        tpf.Linear().mean(torch.tensor(0.5), torch.zeros(3, 2), torch.zeros(4, 5))


def test_an_error_of_a_users_function_stays_what_it_is() -> None:
    def broken(t: Tensor, x: Tensor) -> Tensor:
        return x @ torch.zeros(7, 7)

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        tpf.integrate(broken, torch.zeros(3, 2), [0.0, 1.0])


UNCHECKED = {
    "TransportDensity",  # by fit: a constructor of scikit-learn keeps whatever it is given
    "TransportSampler",
    "register",  # of any class
    "default_loss",  # by the class of its argument, which it checks itself
    "Condition",  # in files and fields only
    "local_device",  # of nothing
    "sample",  # at its head, to add no frame to a call
    "sample_weighted",
    "sample_posterior",
    "march",
    "Batch",  # made in every step of a fit, of rows that were checked
    "PathSample",
    "MapSample",
}


def test_everything_public_is_checked() -> None:
    spaces = [
        tpf,
        *(v for v in (getattr(tpf, n) for n in tpf.__all__) if isinstance(v, ModuleType)),
    ]
    for space in spaces:
        for name in space.__all__:
            value = getattr(space, name)
            if isinstance(value, type) and not getattr(value, "_is_protocol", False):
                value = vars(value).get("__init__")
            ours = (getattr(value, "__module__", None) or "").startswith("transportflows")
            if inspect.isfunction(value) and ours and name not in UNCHECKED:
                assert hasattr(value, "_as_is"), f"{space.__name__}.{name} is not @checked"
