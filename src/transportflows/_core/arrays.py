"""Data that are no tensors: arrays of NumPy, data frames, and all that NumPy takes for an array.

Wherever a tensor is taken as *data* an array is taken too, and becomes a tensor here, once, where
the call begins: a copy, so that no array is written to, and none that is written to later changes
what was made of it. NumPy's numbers are float64 unless somebody said otherwise, and networks are
float32, so that the dtype of an array says nothing:

- data of a field (``fit``, ``sample``, log-densities) get the dtype that the field works in;
- beside a tensor, an array gets the dtype and device of the tensor;
- metrics, and what is fitted by moments, compute in float64, and read all digits;
- all others get ``torch.get_default_dtype()``.

Integers and booleans stay what they are where such tensors are taken (labels, weights, masks), and
are refused where they are not. Objects, texts, dates, complex numbers and masked entries are never
numbers. A tensor is returned as it is: what it must be like is asked where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .arguments import shown
from .tensor import solving_dtype

__all__ = [
    "DataLike",
    "SupportsArray",
    "as_rows",
    "as_tensor",
    "if_array",
    "is_array",
    "together",
]


class SupportsArray(Protocol):
    """What NumPy takes for an array: arrays, data frames and series, arrays in files."""

    def __array__(self) -> np.ndarray[Any, Any]:
        """The numbers, as an array."""
        ...


DataLike: TypeAlias = Tensor | SupportsArray
"""Data: a tensor, or what NumPy takes for an array."""

_FLOATS = {torch.float16: np.float16, torch.float32: np.float32}


def is_array(value: object) -> bool:
    """Whether something is an array, and no tensor."""
    return hasattr(value, "__array__") and not isinstance(value, (Tensor, type))


def as_rows(
    name: str, value: DataLike, dtype: torch.dtype | None = None, *, like: object = None
) -> Tensor:
    """Rows of data ``(N, *)``: a tensor as it is, finite floating-point numbers of an array.

    Args:
        name: of the argument, for messages.
        value: the data.
        dtype: of what an array becomes; that of ``like`` by default, else torch's default.
        like: where an array goes beside it: a tensor; anything else says nothing.

    Raises:
        TypeError: if it is neither, or an array of other than floating-point numbers.
        ValueError: if an array has masked, NaN or infinite entries, fewer than two dimensions, or
            numbers that the dtype does not hold.
    """
    if isinstance(value, Tensor):
        return value
    rows = as_tensor(name, value, dtype, like=like)
    if not rows.is_floating_point():
        raise TypeError(
            f"{name} must hold floating-point numbers, got an array of"
            f" {str(rows.dtype).removeprefix('torch.')}; write {name}.astype(float)"
        )
    if rows.ndim < 2:
        raise ValueError(
            f"{name} must be (N, *) with at least 2 dimensions, got shape {tuple(rows.shape)};"
            f" write {name}.reshape(-1, 1) for scalar data"
        )
    if rows.numel() and not bool(torch.isfinite(rows.sum())):
        bad = (~torch.isfinite(rows)).flatten(1).any(1).nonzero().flatten()
        if len(bad):
            cure = f"{name}[numpy.isfinite({name}).reshape(len({name}), -1).all(axis=1)]"
            cure = f"{name}.dropna()" if hasattr(value, "dropna") else cure
            raise ValueError(
                f"{name} holds NaN or infinite values in {len(bad)} of {len(rows)} rows (the first"
                f" is row {int(bad[0])}); drop them: {cure}"
            )
    return rows


def as_tensor(
    name: str, value: DataLike, dtype: torch.dtype | None = None, *, like: object = None
) -> Tensor:
    """A tensor as it is; of an array a copy, whose floating-point numbers get a dtype.

    Args:
        name: of the argument, for messages.
        value: a tensor or an array, of any shape.
        dtype: of the floating-point numbers of an array; see :func:`as_rows`.
        like: likewise.

    Raises:
        TypeError: if it is neither, or an array of objects, texts, dates or complex numbers.
        ValueError: if an array has masked entries, or numbers that the dtype does not hold.
    """
    if isinstance(value, Tensor):
        return value
    array = _numbers(name, value)
    device = like.device if isinstance(like, Tensor) else None
    if array.dtype.kind != "f":
        return torch.from_numpy(_copy(array, array.dtype.newbyteorder("="))).to(device=device)
    if dtype is None and isinstance(like, Tensor) and like.is_floating_point():
        dtype = solving_dtype(None, like.dtype)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    made = torch.from_numpy(_copy(array, np.dtype(_FLOATS.get(dtype, np.float64)))).to(dtype)
    if made.numel() and bool(made.isinf().any()) and not np.isinf(array).any():
        raise ValueError(
            f"{name} holds numbers up to {np.nanmax(np.abs(array)):.3g}, more than {dtype} does;"
            f" rescale them, or give torch.as_tensor({name}), and work in float64 throughout"
        )
    return made.to(device=device)


def if_array(name: str, value: Any, *, like: object = None) -> Any:
    """Rows of an array, as :func:`as_rows`; anything else as it is: a tensor, a law, a batch."""
    return as_rows(name, value, like=like) if is_array(value) else value


def together(names: tuple[str, ...], *values: DataLike, like: object = None) -> list[Tensor]:
    """Rows of data that belong together, as :func:`as_rows`: arrays are as the first tensor is.

    Args:
        names: of the arguments, for messages.
        values: as many.
        like: what arrays are as where none is a tensor.
    """
    first = next((value for value in values if isinstance(value, Tensor)), like)
    return [as_rows(name, value, like=first) for name, value in zip(names, values, strict=True)]


def _copy(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Always a copy: writable, without gaps, in the byte order of this machine."""
    with np.errstate(over="ignore"):
        return np.array(array, dtype=dtype, order="C")


def _numbers(name: str, value: Any) -> np.ndarray[Any, Any]:
    """An array of real numbers or booleans, of what is one."""
    if not is_array(value):
        raise TypeError(
            f"{name} must be a tensor or an array, got {shown(value)}; write"
            f" torch.as_tensor({name})"
        )
    if isinstance(value, np.ma.MaskedArray) and bool(np.ma.getmaskarray(value).any()):
        count = int(np.ma.getmaskarray(value).sum())
        raise ValueError(
            f"{name} has {count} masked entries, which are no numbers; leave their rows out,"
            f" {name}[~{name}.mask.reshape(len({name}), -1).any(axis=1)], or fill them in"
        )
    array = np.asarray(value)
    if array.dtype.kind in "fiub":
        return array
    if array.dtype.kind == "O" and hasattr(value, "dtypes") and hasattr(value, "columns"):
        return _of_frame(name, value)
    kind = array.dtype.kind if array.dtype.kind != "V" or array.dtype.names else "O"
    raise TypeError(f"{name} is an array of {array.dtype}; {_CURES[kind](name)}")


def _of_frame(name: str, frame: Any) -> np.ndarray[Any, Any]:
    """The numbers of a data frame that NumPy takes for objects: with NaN for what is missing."""
    other = [c for c, kind in frame.dtypes.items() if getattr(kind, "kind", "O") not in "iuf"]
    if other:
        told = ", ".join(map(repr, other[:6])) + (", ..." if len(other) > 6 else "")
        raise TypeError(
            f"columns of {name} that are not numbers: {told}; drop them, or encode them:"
            f" {name}[column].astype(float) of booleans, sklearn.preprocessing.OneHotEncoder of"
            " categories"
        )
    made: np.ndarray[Any, Any] = frame.to_numpy(dtype=float, na_value=np.nan)
    return made


def _of_texts(name: str) -> str:
    return f"for labels that are texts write numpy.unique({name}, return_inverse=True)[1]"


def _of_dates(name: str) -> str:
    return f"write a time as a number: ({name} - {name}[0]) / numpy.timedelta64(1, 's')"


_CURES: dict[str, Callable[[str], str]] = {
    "O": lambda name: f"if all of them are numbers of one shape write {name}.astype(float)",
    "U": _of_texts,
    "S": _of_texts,
    "T": _of_texts,
    "M": _of_dates,
    "m": lambda name: f"write {name} / numpy.timedelta64(1, 's')",
    "c": lambda name: f"real numbers are needed: numpy.stack([{name}.real, {name}.imag], -1)",
    "V": lambda name: f"write numpy.lib.recfunctions.structured_to_unstructured({name})",
}
"""What to write instead, by NumPy's kinds of dtypes."""
