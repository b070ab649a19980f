"""Fields from files: rebuilt without running code from the file.

A file holds tensors, numbers and strings (``_core/container.py`` has the format). It
names classes and their constructor arguments, which are found among those that are known
(``_core/registry.py``), never imported. Whoever made the file chose the arguments,
so they are built with a limit on memory, and what came out is checked again with the tensors in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._core import container
from .._core.condition import from_storable, weights_of
from .._core.container import DamagedFileError, NewerFileError
from .._core.registry import Storable, UnknownClassError, decode, encode
from .._core.shared import kept_generators
from .._core.signatures import checked
from ..process import Process
from ..transforms import Standardize
from .base import Field
from .saving import FILE_FORMAT, FILE_KIND

__all__ = ["load_field"]

_SPARE = 2**24  # bytes that a description may ask for beyond the file's own size
_TENSORS = 8, 256  # that may be made from numbers: so many for each in the file, and so many
_FROM_NUMBERS = {
    *(torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.rand, torch.randn),
    *(torch.arange, torch.linspace, torch.logspace),
}


@checked
def load_field(
    path: str | os.PathLike[str],
    net: Any | tuple[Any, Any] | None = None,
    *,
    process: Process | None = None,
    classes: Iterable[type] = (),
    device: torch.device | str = "cpu",
) -> Field:
    """Read a field written by ``field.save(path)``, in evaluation mode.

    Args:
        path: the file.
        net: the network, of the architecture that was saved; a pair for a FieldPair of two. May
            be left out where it is an :class:`MLP` of the library, or of a class of your own that
            has a ``config()`` and is known by :func:`transportflows.fields.register`.
        process: the process, where it holds objects that are not stored.
        classes: classes of your own that the file names and that are not known here: not yet
            imported, or under another module's name.
        device: where to put the field.

    Raises:
        DamagedFileError: a ValueError; if the file is not a whole one, names classes that are not
            known, holds values that cannot be, or does not fit ``net`` (which entries differ).
            Nothing is imported and no code run from it.
        OSError: if it cannot be opened.

    Example:
        >>> import os, tempfile, transportflows as tpf
        >>> net = tpf.networks.MLP(2, width=8, depth=1)
        >>> field = tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     field.save(os.path.join(folder, "field"))
        ...     again = load_field(os.path.join(folder, "field"))
        >>> t, x = torch.tensor(0.5), torch.ones(1, 2)
        >>> torch.equal(again.velocity(t, x), field.velocity(t, x))
        True
    """
    header, tree = container.read(path)
    spec, names, outputs, state = _parts(path, header, tree)
    nets = [] if net is None else list(net) if isinstance(net, (tuple, list)) else [net]
    if nets and len(nets) != len(names):
        raise DamagedFileError(f"{os.fspath(path)} holds {len(names)} networks, got {len(nets)}")
    arguments, classes = (
        {**spec["arguments"], **dict(zip(names, nets, strict=False))},
        tuple(classes),
    )
    if process is not None:
        arguments["process"] = process
    with (
        kept_generators(everywhere=False),
        _Limit(4 * os.path.getsize(path) + _SPARE, _TENSORS[0] * len(state) + _TENSORS[1]),
    ):
        for name, given in arguments.items():
            if isinstance(given, dict) and "dict" in given:
                continue  # it is decoded with the field, where a dict of objects is known as such
            part, kind = ("network", nn.Module) if name in names else (name, Storable)
            cure = "net" if name in names else "process" if name == "process" else "classes"
            with _refusing(path, part, f"load_field(path, {cure}=...)"):
                arguments[name] = decode(arguments[name], kind, classes)
        with _refusing(path, "field", "load_field(path, classes=...)"):
            field = decode({**spec, "arguments": arguments}, Storable, classes)
            if not isinstance(field, Field) or list(field.outputs) != outputs:
                raise TypeError(f"{spec['class']} is no field that predicts {outputs}")
            if not isinstance(field.transform, (Standardize, type(None))):
                raise TypeError(f"a {type(field.transform).__name__} is no transform")
            _load_state(path, field, state, built=not nets)
            field.conditions = from_storable(tree.get("conditions"))
            for part in (field.transform, None if process is not None else field.process):
                decode(encode(part), Storable, classes)  # its own checks, of what it now holds
    return field.to(device).eval()


def _parts(
    path: str | os.PathLike[str], header: dict[str, Any], tree: Any
) -> tuple[dict[str, Any], list[str], list[str], dict[str, Tensor]]:
    """Description, names of the networks, outputs and tensors of a field, of the right types."""
    kind, version = header.get("kind"), header.get("format")
    if kind != FILE_KIND or type(version) is not int:
        cure = ""
        if kind == "transportflows training checkpoint":
            cure = "; give it to trainer.load(path), and trainer.field has the weights"
        raise DamagedFileError(f"{os.fspath(path)} is a {kind!r}, not a {FILE_KIND}{cure}")
    if version > FILE_FORMAT:
        raise NewerFileError(
            f"{os.fspath(path)} is a field of format {version} and this version of transportflows"
            f" reads up to {FILE_FORMAT}; upgrade transportflows"
        )
    try:
        spec, names, outputs, state = (tree[k] for k in ("field", "networks", "outputs", "state"))
        nan = [name for name, tensor in state.items() if bool(tensor.isnan().any())]
        right = (
            all(type(word) is str for word in (spec["class"], *names, *outputs, *state))
            and type(names) is type(outputs) is list
            and {"process", *names} <= spec["arguments"].keys()
            and 0 < len(names) == len(set(names))
        )
    except Exception as error:
        raise DamagedFileError(f"{os.fspath(path)} describes no field ({error!r})") from error
    if not right:
        raise DamagedFileError(f"{os.fspath(path)} describes no field: its entries are of no use")
    if nan:
        raise DamagedFileError(f"{os.fspath(path)} holds NaN in {', '.join(nan[:5])}")
    return spec, names, outputs, state


@contextmanager
def _refusing(path: str | os.PathLike[str], what: str, cure: str) -> Iterator[None]:
    """One kind of error for all that goes wrong while a description is built."""
    try:
        yield
    except DamagedFileError:
        raise
    except UnknownClassError as error:
        raise DamagedFileError(
            f"the {what} of {os.fspath(path)} holds a {error}; build it and give {cure}"
        ) from error
    except Exception as error:
        raise DamagedFileError(
            f"the {what} that {os.fspath(path)} describes cannot be built: {error}"
        ) from error


class _Limit(TorchFunctionMode):
    """Stops constructors that make more than so many tensors, or so many bytes of them.

    What makes a tensor from numbers alone is run on the meta device first, which takes no memory;
    all else is looked at when it is there, an expanded tensor before somebody copies it.
    """

    def __init__(self, size: int, tensors: int) -> None:
        super().__init__()
        self.size = self.left = size
        self.tensors = tensors

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FROM_NUMBERS:
            planned = {k: v for k, v in kwargs.items() if k not in ("generator", "out")}
            plan = func(*args, **{**planned, "device": "meta"})
            self.left -= plan.nbytes
            self.tensors -= 1
            self._check(plan)
        made = func(*args, **kwargs)
        if isinstance(made, Tensor):
            self._check(made)
        return made

    def _check(self, tensor: Tensor) -> None:
        if self.tensors < 0 or self.left < 0 or tensor.nbytes > self.size:
            raise MemoryError(
                f"it would take more than {self.size} bytes, or more tensors than a file of this"
                " size is for; where that is meant, build it and give it"
            )


def _load_state(
    path: str | os.PathLike[str], field: Field, state: dict[str, Tensor], built: bool
) -> None:
    own = weights_of(field)
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    others = [
        f"{k} {tuple(state[k].shape)} {state[k].dtype} in the file, {tuple(own[k].shape)}"
        f" {own[k].dtype} here"
        for k in own.keys() & state.keys()
        if own[k].shape != state[k].shape
        or own[k].is_floating_point() != state[k].is_floating_point()
        or not (own[k].is_floating_point() or own[k].dtype == state[k].dtype)
    ]
    if missing or extra or others:
        raise DamagedFileError(
            f"the network is not of the architecture that was saved in {os.fspath(path)}:"
            + (f" not in the file: {', '.join(missing[:5])};" if missing else "")
            + (f" only in the file: {', '.join(extra[:5])};" if extra else "")
            + (f" other shapes or dtypes: {'; '.join(sorted(others)[:5])};" if others else "")
            + " build it with the arguments it was trained with"
        )
    widths = {
        state[k].dtype
        for k, p in field.named_parameters()
        if k[:8] != "process." and p.is_floating_point()
    }
    if built and len(widths) > 1:
        raise DamagedFileError(
            f"{os.fspath(path)} holds weights of several dtypes, {sorted(map(str, widths))}; where"
            " the network is meant so, build it and give it: load_field(path, net=...)"
        )
    infinite = [k for k, _ in field.named_parameters() if not bool(state[k].isfinite().all())]
    if infinite:
        raise DamagedFileError(f"{os.fspath(path)} holds infinite weights in {infinite[0]}")
    for name, tensor in (*field.named_parameters(), *field.named_buffers()):
        if name in state:  # the file decides how wide its numbers are
            tensor.data = tensor.data.to(state[name].dtype)
    field.load_state_dict(state)
