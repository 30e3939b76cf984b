"""A random forest on what the additive model leaves unexplained. The only file that grows trees."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evo_mpq.predict.surrogates.surrogate import Features, Prediction
from evo_mpq.typing import FloatVector

N_TREES = 50
"""Twice as many predict hardly better and take twice the time."""

TRIED = 0.5
"""Of the coordinates, among which each split is chosen."""


class Forest:
    """Residuals as the mean of regression trees on levels and root shares (Breiman 2001).

    The deviation is the spread over trees, each of which was grown on a sample of the measurements (Hutter et al.
    2011, SMAC). It assumes nothing of the loss, and needs more measurements than the other models for that.

    A fit takes 30 ms for 100 measurements, 70 ms for 400 with 26 genes. Importing scikit-learn takes a second, once.

    Args:
        seed: of the samples and of the coordinates tried.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._forest: Any = None

    def fit(self, features: Features, residuals: FloatVector, errors: FloatVector) -> None:
        """Grow all trees anew; see `ResidualModel.fit`."""
        from sklearn.ensemble import RandomForestRegressor  # takes a second to import

        order = features.order()  # samples then do not depend on the order of measuring
        self._forest = RandomForestRegressor(N_TREES, max_features=TRIED, random_state=self._seed, n_jobs=1)
        self._forest.fit(_coordinates(features.rows(order)), residuals[order])

    def predict(self, features: Features) -> Prediction:
        """Mean and spread over the trees; see `ResidualModel.predict`."""
        assert self._forest is not None, "predict() needs a fit() before"
        coordinates = _coordinates(features)
        # Tree by tree without the forest's checks and threads, which take longer than the trees.
        values = np.array([tree.predict(coordinates, check_input=False) for tree in self._forest.estimators_])
        return Prediction(values.mean(axis=0), values.std(axis=0))


def _coordinates(features: Features) -> npt.NDArray[np.float32]:
    """``(n, 1 + 2 n_genes)`` where genomes lie, in the precision of trees."""
    return np.concatenate([features.levels, np.sqrt(features.shares)], axis=1).astype(np.float32)
