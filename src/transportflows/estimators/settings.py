"""The parameters of both estimators, which are those of the training of a field."""

from __future__ import annotations

import numpy as np

from ..fields import Velocity
from .conventions import Conventions
from .tables import Columns

__all__ = ["Settings"]


class Settings(Conventions):
    """An estimator of a velocity; its subclasses say what each parameter is."""

    field_: Velocity
    _columns: Columns
    n_iter_: int

    def __init__(
        self,
        *,
        max_iter: int = 4_000,
        width: int = 64,
        depth: int = 3,
        learning_rate_init: float = 3e-3,
        batch_size: int = 256,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        solver_steps: int = 20,
        dequantise: bool = False,
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
    ) -> None:
        self.max_iter = max_iter
        self.width = width
        self.depth = depth
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.solver_steps = solver_steps
        self.dequantise = dequantise
        self.random_state = random_state
