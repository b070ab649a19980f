"""The law of targets given a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._core.checks import positive_integer
from .conventions import generator_from
from .learning import densities, drawn, learned
from .settings import Settings
from .tables import Columns, as_table, check_columns, column_names

__all__ = ["TransportSampler"]


class TransportSampler(Settings):
    """The law of y given X: draws and densities of a target of one or several numbers.

    A regression tells one y for a row; this draws from all that are likely. The velocity of
    :class:`TransportDensity`, of y, is told the row of X.

    Args:
        max_iter: most steps of the training.
        width: width of the network.
        depth: number of its hidden layers.
        learning_rate_init: the largest rate of Adam, which then falls by a cosine.
        batch_size: rows of a step.
        validation_fraction: share of the rows that is held out for the early end.
        n_iter_no_change: validations in a row (one each 100 steps) without an improvement after
            which the training ends.
        solver_steps: steps of RK4 of densities and samples.
        dequantise: spread the values of a target that has ties, and round samples back to them.
        random_state: a seed, a generator of NumPy, or None for NumPy's global one.

    Attributes:
        field_: the :class:`~transportflows.Velocity` of y, with the condition ``given``.
        n_iter_: steps that the training took.

    Raises:
        ValueError: by ``fit``: for NaN, columns that are not numbers, a constant target, fewer than
            2 rows, and parameters out of their range.

    Source: Lipman et al., "Flow matching for generative modeling" (2023).

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(400, 3))
        >>> y = X[:, 0] * rng.choice([-1.0, 1.0], size=400)  # two answers for each row
        >>> model = TransportSampler(max_iter=50, width=16, random_state=0).fit(X, y)
        >>> model.sample(X[:4]).shape, model.sample(X[:4], n_draws=10).shape
        ((4,), (10, 4))
    """

    needs_target = True

    def fit(self, X: Any, y: Any) -> TransportSampler:
        """Learn the law of y given X.

        Args:
            X: an array ``(N, C)`` or a data frame, of finite numbers.
            y: the targets, ``(N,)`` or ``(N, D)``.
        """
        rows, (targets, names) = as_table(X, least=2), self._targets(y, X)
        columns = Columns.of(targets, names, self.dequantise, "y")
        check_columns(self, X, rows.shape[1], reset=True)
        self._one_number = np.ndim(y) == 1
        gen = generator_from(self.random_state)
        noise = np.random.default_rng(gen.initial_seed())
        mean, scale = rows.mean(0), rows.std(0)
        self._given = mean, np.where(scale > 1e-12 * (1 + np.abs(mean)), scale, 1.0)
        z = columns.to_unit(columns.spread(targets, noise))
        self.field_, self.n_iter_ = learned(z, self._told(rows), self.get_params(), gen)
        self._columns = columns
        return self

    def _told(self, rows: np.ndarray) -> np.ndarray:
        mean, scale = self._given
        told: np.ndarray = (rows - mean) / scale
        return told

    def _targets(self, y: Any, X: Any) -> tuple[np.ndarray, list[Any] | None]:
        """Targets as a table ``(N, D)``, and their names where they have some."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None; for the"
                " density of X alone write TransportDensity().fit(X)"
            )
        if np.ndim(y) == 1:
            y = y if hasattr(y, "ndim") else np.asarray(y)
            y = y.to_frame() if hasattr(y, "to_frame") else y[:, None]
        targets = as_table(y, "y")
        if len(targets) != len(X):
            raise ValueError(
                "Found input variables with inconsistent numbers of samples:"
                f" {len(X)} rows of X and {len(targets)} of y"
            )
        return targets, column_names(y)

    def _asked(self, X: Any) -> np.ndarray:
        self._fitted()
        rows = as_table(X)
        check_columns(self, X, rows.shape[1])
        return self._told(rows)

    def sample(self, X: Any, n_draws: int | None = None, random_state: Any = None) -> np.ndarray:
        """Draw targets for each row of X.

        Args:
            X: an array ``(N, C)`` or a data frame, with the columns that it was fitted to.
            n_draws: draws for each row; None for one.
            random_state: as in the class; None for that of the estimator, so that a seed given
                there gives the same draws at each call.

        Returns:
            Of the shape of y with N rows; with ``n_draws`` there is a first dimension of it.
        """
        told = self._asked(X)
        m = 1 if n_draws is None else positive_integer("n_draws", n_draws)
        gen = generator_from(self.random_state if random_state is None else random_state)
        steps = positive_integer("solver_steps", self.solver_steps)
        z = drawn(self.field_, m * len(told), np.tile(told, (m, 1)), steps, gen)
        y = self._columns.from_unit(z).reshape(m, len(told), -1)
        y = y[..., 0] if self._one_number else y
        return y[0] if n_draws is None else y

    def log_density(self, X: Any, y: Any) -> np.ndarray:
        """Log-densities of the targets, each given its row of X, ``(N,)``, in nats.

        (``score_samples`` is of X alone in scikit-learn, so this has a name of its own.)

        Args:
            X: as for :meth:`sample`.
            y: targets, of the shape that they had in ``fit``.

        Raises:
            ValueError: if y has other columns than when it was fitted, or X does not fit.
        """
        told, (targets, _) = self._asked(X), self._targets(y, X)
        if targets.shape[1] != len(self._columns.mean):
            raise ValueError(
                f"y has {targets.shape[1]} columns, and {len(self._columns.mean)} when fitted"
            )
        steps = positive_integer("solver_steps", self.solver_steps)
        found = densities(self.field_, self._columns.to_unit(targets), told, steps)
        return found + self._columns.log_det

    def score(self, X: Any, y: Any) -> float:
        """The mean log-density of the targets, in nats; higher is better.

        Args:
            X: as for :meth:`sample`.
            y: as for :meth:`log_density`.
        """
        return float(self.log_density(X, y).mean())
