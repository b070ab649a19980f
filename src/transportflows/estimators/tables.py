"""Tables of numbers: what is taken, what is refused, and what its columns are."""

from __future__ import annotations

import datetime
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Columns", "as_table", "check_columns", "column_names"]

_OTHERS = (
    str, bytes, bool, np.bool_, datetime.date, datetime.timedelta, np.datetime64, np.timedelta64,
)  # fmt: skip
_FEW = 0.5  # columns of which fewer values differ are taken for tied ones


def as_table(X: Any, name: str = "X", least: int = 1) -> np.ndarray:
    """Rows of finite float64 numbers ``(N, D)`` from an array, a data frame or lists.

    Raises:
        TypeError: if it is sparse, or holds objects that are no numbers.
        ValueError: if it is not of two dimensions, empty, complex, holds NaN, masked entries, or
            columns that are not numbers.
    """
    if hasattr(X, "toarray") or type(X).__module__.startswith("scipy.sparse"):
        raise TypeError(f"{name} is sparse, and a dense array is needed: write {name}.toarray()")
    if isinstance(X, np.ma.MaskedArray) and (masked := np.ma.getmaskarray(X)).any():
        raise ValueError(
            f"{name} has {int(masked.sum())} masked entries, which are no numbers; drop their rows,"
            f" {name}[~{name}.mask.reshape(len({name}), -1).any(axis=1)], or fill them in with"
            " sklearn.impute.SimpleImputer"
        )
    names = column_names(X)
    table = X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else np.asarray(X)
    if table.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} is {table.dtype}; write {name}.real")
    if table.ndim != 2:
        raise ValueError(
            f"Expected 2D array, {name} has shape {table.shape}. Reshape your data: {name}.reshape"
            f"(-1, 1) of a single column, {name}.reshape(1, -1) of a single row"
        )
    if len(table) < least:
        raise ValueError(
            f"Found array with {len(table)} sample(s) (shape={table.shape}) while a minimum of"
            f" {least} is required."
        )
    if table.shape[1] < 1:
        raise ValueError(
            f"Found array with 0 feature(s) (shape={table.shape}) while a minimum of 1 is required."
        )
    numbers = _numbers(X, table, name, names)
    if not np.isfinite(numbers).all():
        bad = ~np.isfinite(numbers)
        what = "NaN" if np.isnan(numbers).any() else "inf (infinity)"
        raise ValueError(
            f"Input {name} contains {what} in {int(bad.any(1).sum())} of {len(bad)} rows; drop"
            f" them, {name} = {name}[numpy.isfinite({name}).all(axis=1)], or fill them in with"
            " sklearn.impute.SimpleImputer"
        )
    return numbers


def _numbers(X: Any, table: np.ndarray, name: str, names: list[Any] | None) -> np.ndarray:
    """The table as float64, if all columns are numbers; NaN is what is missing."""
    frame = hasattr(X, "iloc")
    if table.dtype.kind in "fiu" and not frame:
        return table.astype(np.float64)
    bad = []
    for k in range(table.shape[1]):
        dtype = getattr(X.iloc[:, k] if frame else table, "dtype", None)
        other = getattr(dtype, "kind", "O") in "bMm" or str(dtype) == "category"
        if other or any(isinstance(value, _OTHERS) for value in table[:, k]):
            bad.append(k)
    if bad or table.dtype.kind not in "fiuO":
        told = [repr(names[k]) if names else str(k) for k in bad] or ["all"]
        raise ValueError(
            f"columns of {name} that are not numbers: {', '.join(told[:6])}"
            f"{', ...' if len(told) > 6 else ''} (texts, categories, booleans, dates). A density"
            " is one of numbers: drop them, encode them (sklearn.preprocessing.OneHotEncoder, or"
            f" {name}[column].astype(float) of booleans) and give them as what is conditioned on,"
            " TransportSampler().fit(X, y), or fit an estimator to the rows of each class"
        )
    if frame:  # of which NumPy makes objects where a nullable column misses numbers
        numbers: np.ndarray = X.to_numpy(dtype=np.float64, na_value=np.nan)
        return numbers
    return table.astype(np.float64)  # objects that are no numbers: numpy's own TypeError


def column_names(X: Any) -> list[Any] | None:
    """The names of columns of a data frame, None of an array."""
    columns = getattr(X, "columns", None)
    return None if columns is None else list(columns)


def check_columns(estimator: Any, X: Any, width: int, *, reset: bool = False) -> None:
    """Keep number and names of the columns at ``fit``, and hold others against them after it.

    Raises:
        TypeError: if some names are texts and some are not.
        ValueError: if they are others than at ``fit``.
    """
    kind = type(estimator).__name__
    texts = [isinstance(name, str) for name in column_names(X) or ()]
    if any(texts) and not all(texts):
        raise TypeError(
            "Feature names are only supported if all input features have string names; write"
            " X.columns = X.columns.astype(str)"
        )
    names = np.asarray(column_names(X), dtype=object) if any(texts) else None
    if reset:
        estimator.n_features_in_ = width
        if names is not None:
            estimator.feature_names_in_ = names
        elif hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        return
    known = getattr(estimator, "feature_names_in_", None)
    if known is None and names is not None:
        warnings.warn(
            f"X has feature names, but {kind} was fitted without feature names", stacklevel=4
        )
    elif known is not None and names is None:
        warnings.warn(
            f"X does not have valid feature names, but {kind} was fitted with feature names",
            stacklevel=4,
        )
    elif known is not None and names is not None and list(known) != list(names):
        raise ValueError(_other_names(list(known), list(names)))
    if width != estimator.n_features_in_:
        raise ValueError(
            f"X has {width} features, but {kind} is expecting {estimator.n_features_in_} features"
            " as input"
        )


def _other_names(known: list[str], names: list[str]) -> str:
    told = "The feature names should match those that were passed during fit.\n"
    new, gone = sorted(set(names) - set(known)), sorted(set(known) - set(names))
    for found, what in ((new, "unseen at fit time"), (gone, "seen at fit time, yet now missing")):
        if found:
            lines = [f"- {name}" for name in found[:5]] + (["- ..."] if len(found) > 5 else [])
            told += f"Feature names {what}:\n" + "\n".join(lines) + "\n"
    if not new and not gone:
        told += "Feature names must be in the same order as they were in fit.\n"
    return told


@dataclass
class Columns:
    r"""The affine map of columns to unit covariance, and the grids of tied ones.

    Standardised, then turned by the root of their correlations, ``z = R^{-1/2} (x - m) / s``, so
    that near-collinear columns have no direction of a small scale.

    Attributes:
        mean: m, ``(D,)``.
        map: ``(D, D)``, z = (x - m) @ map.
        inverse: of the map.
        log_det: ``log |dz/dx|``.
        steps: the gap between values of each tied column; 0 of others.
        places: one value of the grid of each tied column.
    """

    mean: np.ndarray
    map: np.ndarray
    inverse: np.ndarray
    log_det: float
    steps: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray, names: list[Any] | None, dequantise: bool, what: str) -> Columns:
        """Of rows, with warnings of what has no density."""
        told = [repr(name) for name in names] if names else [str(k) for k in range(X.shape[1])]
        mean, scale = X.mean(0), X.std(0)
        if not np.isfinite(scale).all():
            raise ValueError(
                f"{what} holds numbers up to {np.abs(X).max():.3g}, whose squares float64 does not"
                f" hold; rescale them, {what} / {np.abs(X).max():.0e}"
            )
        constant = np.flatnonzero(scale <= 1e-12 * (1 + np.abs(mean)))
        if constant.size == X.shape[1]:
            raise ValueError(
                f"all columns of {what} are constant, {', '.join(told[:6])}, and have no density"
                + ("" if np.ptp(X) == 0 else "; are they too small? rescale them to numbers near 1")
            )
        if constant.size:
            which = ", ".join(told[k] for k in constant[:6])
            cure = (
                f"{what}.drop(columns=[{which}])" if names
                else f"numpy.delete({what}, {constant[:6].tolist()}, axis=1)"
            )  # fmt: skip
            raise ValueError(
                f"column {which} of {what} is constant, and has no density; drop it:"
                f" {what} = {cure}"
            )
        steps = np.zeros(X.shape[1])
        for k, column in enumerate(X.T):
            values = np.unique(column)
            if len(values) < _FEW * len(column):
                steps[k] = np.diff(values).min()
        if (tied := np.flatnonzero(steps)).size and not dequantise:
            shown = ", ".join(told[k] for k in tied[:6]) + (", ..." if tied.size > 6 else "")
            warnings.warn(
                f"columns {shown} of {what} hold few values, many times each (integers, rounded"
                " numbers): their density is one of spikes, as high as the network can make them,"
                " and compares with no other. Write dequantise=True, which spreads each value over"
                " its gap and rounds samples back",
                stacklevel=4,
            )
            steps[:] = 0.0
        turned = np.corrcoef(((X - mean) / scale).T).reshape(len(mean), len(mean))
        values, basis = np.linalg.eigh(turned)
        if values[0] < 1e-10 and len(X) > X.shape[1]:
            warnings.warn(
                f"columns of {what} depend on each other linearly (the smallest eigenvalue of their"
                f" correlations is {values[0]:.1e}), so their density is that of a plane, as high"
                " as the network can make it; drop those that others give",
                stacklevel=4,
            )
        root = np.sqrt(np.maximum(values, 1e-6))
        to = (basis / root) @ basis.T / scale[:, None]
        back = (basis * root) @ basis.T * scale
        # to is diag(1/s) R^{-1/2}: its log-determinant is that of both
        log_det = float(-np.log(root).sum() - np.log(scale).sum())
        return cls(mean, to, back, log_det, steps, X[0].copy())

    def spread(self, X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Rows with each tied value spread uniformly over its gap."""
        found: np.ndarray = X + self.steps * (rng.random(X.shape) - 0.5)
        return found

    def to_unit(self, X: np.ndarray) -> np.ndarray:
        """Rows in the units of the field."""
        z: np.ndarray = (X - self.mean) @ self.map
        return z

    def from_unit(self, z: np.ndarray) -> np.ndarray:
        """Rows in the units of the data, those of tied columns on their grid."""
        X: np.ndarray = z @ self.inverse + self.mean
        tied = self.steps > 0
        step, place = self.steps[tied], self.places[tied]
        X[:, tied] = place + step * np.round((X[:, tied] - place) / step)
        return X
