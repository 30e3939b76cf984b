"""The model of residuals that ranks best what it was not fitted to, chosen again as measurements grow."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from evo_mpq.predict.surrogates.folds import folds
from evo_mpq.predict.surrogates.surrogate import Features, Prediction, ResidualModel
from evo_mpq.typing import FloatVector

GROWTH = 1.25
"""Times as many measurements as last time after which the choice is made again."""

N_FOLDS = 3
"""Of the cross-validation."""

MOST_COMPARED = 240
"""Measurements that models are compared on, the latest ones: a choice then takes at most 0.3 s."""

LEAST_DEVIATIONS = 1.0
"""Of the rank correlation of what is unrelated, 1 / sqrt(n), above which a model is used.

A stricter bar (1.64, one time in twenty) kept the models out of the first rounds, when almost all that is known is the
table: share at 60 measurements of `digits_resnet` .971 instead of .986. A model that has learned nothing predicts about
nothing, and its deviations still guide the search.
"""

NONE = "none"
"""The name of the choice that residuals cannot be predicted."""


class NoResidual:
    """The additive model alone: residuals of zero, with the deviation of those that were measured."""

    def fit(self, features: Features, residuals: FloatVector, errors: FloatVector) -> None:
        """Take the root mean square of residuals; see `ResidualModel.fit`."""
        self._deviation = float(np.sqrt(np.mean(residuals**2)))

    def predict(self, features: Features) -> Prediction:
        """Zeros; see `ResidualModel.predict`."""
        return Prediction(np.zeros(len(features)), np.full(len(features), self._deviation))


class CrossValidated:
    """The one of several models whose predictions rank residuals best that it was not fitted to.

    Models are compared by the rank correlation (Spearman) of residuals with what three-fold cross-validation predicts
    of them. Where none is better than chance, none is used: predicting noise would only misguide the search.

    Args:
        candidates: by name, what makes a model; the first of equals is preferred.

    Attributes:
        name: of the present choice, ``"none"`` before the first fit.
        correlations: by name, what the last choice was made by.
    """

    def __init__(self, candidates: Mapping[str, Callable[[], ResidualModel]]) -> None:
        self._candidates = dict(candidates)
        self._model: ResidualModel = NoResidual()
        self._n_chosen = 0
        self.name = NONE
        self.correlations: dict[str, float] = {}

    def fit(self, features: Features, residuals: FloatVector, errors: FloatVector) -> None:
        """Choose again if there is much more to choose by, and fit the choice; see `ResidualModel.fit`."""
        if len(residuals) >= GROWTH * self._n_chosen:
            self._n_chosen = len(residuals)
            self._choose(features, residuals, errors)
        self._model.fit(features, residuals, errors)

    def predict(self, features: Features) -> Prediction:
        """What the choice predicts; see `ResidualModel.predict`."""
        return self._model.predict(features)

    def _choose(self, features: Features, residuals: FloatVector, errors: FloatVector) -> None:
        latest = np.arange(max(0, len(residuals) - MOST_COMPARED), len(residuals))
        some = features.rows(latest), residuals[latest], errors[latest]
        self.correlations = {name: rank_correlation(make, *some) for name, make in self._candidates.items()}
        name, correlation = max(self.correlations.items(), key=lambda item: item[1], default=(NONE, 0.0))
        if correlation < LEAST_DEVIATIONS / np.sqrt(len(latest)):
            name = NONE
        if name != self.name:
            self.name = name
            self._model = NoResidual() if name == NONE else self._candidates[name]()


def rank_correlation(
    make: Callable[[], ResidualModel], features: Features, residuals: FloatVector, errors: FloatVector
) -> float:
    """Spearman's, of residuals and what a model predicts of them when they are left out; 0 where there is none."""
    from scipy.stats import rankdata  # SciPy takes a moment to import

    if len(residuals) < 2 * N_FOLDS or np.ptp(residuals) == 0:
        return 0.0
    predicted = np.empty(len(residuals))
    for out in folds(features, N_FOLDS):
        model = make()
        model.fit(features.rows(~out), residuals[~out], errors[~out])
        predicted[out] = model.predict(features.rows(out)).means
    if np.ptp(predicted) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(predicted), rankdata(residuals))[0, 1])
