"""The density of a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._core.checks import positive_integer
from .conventions import generator_from
from .learning import densities, drawn, learned
from .settings import Settings
from .tables import Columns, as_table, check_columns, column_names

__all__ = ["TransportDensity"]


class TransportDensity(Settings):
    r"""The density of the rows of a table of numbers, with the methods of scikit-learn.

    A velocity of the straight path from Gaussian noise to the rows, standardised and decorrelated,
    is learned by a residual :class:`~transportflows.networks.MLP`. A tenth of the rows is held out;
    the weights that are kept are the averages of the best validation. The log-density of a row is
    ``log N(z_0) - ∫ ∇ · v dt + log |dz/dx|``, with the exact trace and fixed steps in float64, and
    so does not depend on which rows are asked together.

    Rows of 4 to 20 columns, 500 to 20,000 of them, take about a minute on a core with the defaults.
    Integers and rounded numbers have no density but spikes: ``dequantise=True`` spreads each value
    over its gap, and the density of a value is then its probability over the gap.

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
        dequantise: spread the values of tied columns, and round samples back to them.
        random_state: a seed, a generator of NumPy, or None for NumPy's global one.

    Attributes:
        field_: the :class:`~transportflows.Velocity`, of rows of unit covariance.
        n_iter_: steps that the training took.

    Raises:
        ValueError: by ``fit``: for NaN, columns that are not numbers or constant, fewer than 2
            rows, and parameters out of their range.

    Source: Lipman et al., "Flow matching for generative modeling" (2023); Chen et al., "Neural
    ordinary differential equations" (2018) for the log-density.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(400, 2)) @ [[1.0, 0.9], [0.0, 0.3]]
        >>> model = TransportDensity(max_iter=50, width=16, random_state=0).fit(X)
        >>> model.score_samples(X[:3]).shape, model.sample(5).shape
        ((3,), (5, 2))
    """

    def fit(self, X: Any, y: Any = None) -> TransportDensity:
        """Learn the density of rows.

        Args:
            X: an array ``(N, D)`` or a data frame, of finite numbers.
            y: ignored; there because pipelines give it.
        """
        rows = as_table(X, least=2)
        columns = Columns.of(rows, column_names(X), self.dequantise, "X")
        check_columns(self, X, rows.shape[1], reset=True)
        gen = generator_from(self.random_state)
        noise = np.random.default_rng(gen.initial_seed())
        z = columns.to_unit(columns.spread(rows, noise))
        self.field_, self.n_iter_ = learned(z, None, self.get_params(), gen)
        self._columns = columns
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-densities of rows, ``(N,)``, in nats and in the units of the data.

        Args:
            X: an array ``(N, D)`` or a data frame, with the columns that it was fitted to.
        """
        self._fitted()
        rows = as_table(X)
        check_columns(self, X, rows.shape[1])
        steps = positive_integer("solver_steps", self.solver_steps)
        found = densities(self.field_, self._columns.to_unit(rows), None, steps)
        return found + self._columns.log_det

    def score(self, X: Any, y: Any = None) -> float:
        """The mean log-density of rows, in nats; higher is better.

        Args:
            X: as for :meth:`score_samples`.
            y: ignored.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw rows, ``(n_samples, D)``, in the order of the columns of ``fit``.

        Args:
            n_samples: how many.
            random_state: as in the class; None for that of the estimator, so that a seed given
                there gives the same rows at each call.
        """
        self._fitted()
        n = positive_integer("n_samples", n_samples)
        gen = generator_from(self.random_state if random_state is None else random_state)
        steps = positive_integer("solver_steps", self.solver_steps)
        return self._columns.from_unit(drawn(self.field_, n, None, steps, gen))
