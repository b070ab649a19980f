"""What scikit-learn asks of an estimator: parameters by name, its tags, whether it is fitted."""

from __future__ import annotations

import inspect
import sys
from typing import Any, ClassVar

import numpy as np
import torch

__all__ = ["Conventions", "generator_from"]


class Conventions:
    """Parameters of the constructor, kept as they are given and looked at by ``fit`` alone.

    Attributes:
        n_features_in_: number of columns that it was fitted to.
        feature_names_in_: their names, where it was a data frame's and all are texts.
    """

    needs_target: ClassVar[bool] = False
    n_features_in_: int
    feature_names_in_: np.ndarray

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name; ``deep`` is of no matter, as none of them is an estimator."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Any:
        """Set parameters by name and return the estimator; they are looked at by ``fit``.

        Raises:
            ValueError: if there is none of a name.
        """
        for name, value in params.items():
            if name not in self._names():
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {self}; its parameters are"
                    f" {', '.join(self._names())}"
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        known = inspect.signature(type(self).__init__).parameters
        given = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not known[name].default
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def __sklearn_tags__(self) -> Any:
        try:
            from sklearn.utils import InputTags, Tags, TargetTags
        except ImportError as error:
            raise ImportError(
                "tags of estimators need scikit-learn 1.6 or later:"
                " pip install 'transportflows[estimators]'"
            ) from error
        target = TargetTags(required=self.needs_target, multi_output=True)
        kind = None if self.needs_target else "density_estimator"
        return Tags(estimator_type=kind, target_tags=target, input_tags=InputTags())

    def _fitted(self) -> None:
        """Refuse to go on before ``fit``, with the error of scikit-learn where that is in use."""
        if hasattr(self, "n_features_in_"):
            return
        of_sklearn = sys.modules.get("sklearn.exceptions")
        kind = ValueError if of_sklearn is None else of_sklearn.NotFittedError
        raise kind(f"this {type(self).__name__} is not fitted yet; call fit(X) first")


def generator_from(random_state: Any) -> torch.Generator:
    """A generator from a seed, as scikit-learn takes it: None for numpy's global generator."""
    if random_state is None:
        seed = np.random.randint(2**31 - 1)  # noqa: NPY002  (as scikit-learn does)
    elif isinstance(random_state, np.random.RandomState):
        seed = random_state.randint(2**31 - 1)
    elif isinstance(random_state, np.random.Generator):
        seed = int(random_state.integers(2**31 - 1))
    elif isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        seed = int(random_state) % 2**63
    else:
        raise ValueError(
            f"random_state is None, an integer, or a generator of NumPy, got {random_state!r};"
            " write random_state=0"
        )
    return torch.Generator().manual_seed(seed)
