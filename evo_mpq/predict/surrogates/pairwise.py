"""Pairs of genes whose errors add up to more or less than their sum, as products of a few factors per gene."""

from __future__ import annotations

import numpy as np

from evo_mpq.predict.surrogates.folds import folds
from evo_mpq.predict.surrogates.surrogate import Features, Prediction
from evo_mpq.typing import FloatMatrix, FloatVector

RANK = 4
"""Factors per gene: two of positive pairs, two of negative ones."""

N_MEMBERS = 4
"""Fits, each around other factors that are drawn beforehand; their spread is part of the deviation."""

ANCHOR = 0.3
"""Standard deviation of the factors that fits are drawn to."""

NOISES = (0.3, 2.0)
"""Variance of what pairs do not explain, in units of that of the residuals; the larger, the smaller the pairs."""

N_FOLDS = 3
"""Of the cross-validation that chooses the noise."""

GROWTH = 1.25
"""Times as many measurements as last time after which the noise is chosen again."""

N_STEPS = 100
"""Of one fit, at most; the next fit begins where it ended."""


class Pairwise:
    """Residuals as a quadratic form in root shares, with one weight per gene and factors for all pairs.

    For losses that are quadratic in the errors of genes, ``e'Ce``, the additive model predicts ``e'e``, and what it
    leaves is ``log(u'Cu)`` with ``u`` the square roots of shares. To first order that is a quadratic form in ``u``::

        sum_i w_i u_i^2  +  sum_k s_k sum_{i != j} g_ik u_i g_jk u_j,        s = +1, -1, +1, -1

    a factorization machine (Rendle 2010) whose factors have signs, so that errors that cancel are described as well as
    errors that reinforce each other. The ordinal structure of options comes in through the shares. Kept inside the
    logarithm, with ``C`` a correlation matrix, the same model predicted the joint space of ``digits_resnet`` worse and
    the others no better; the loss of networks saturates, which no positive semidefinite ``C`` describes.

    Fits minimize squared errors and squared distances of weights from 0 and of factors from an anchor of their own
    that is drawn beforehand (Pearce et al. 2020, "approximately Bayesian ensembling"), by L-BFGS, each from where the
    last one ended. How much pairs may explain is cross-validated, and so is the deviation of a fit, which is added to
    the spread over fits.

    Where shares are unknown, because losses are not on a logarithmic scale, distances from the most expensive levels
    take the place of root shares: the classical machine.

    A fit takes 20 ms for 100 measurements, 40 ms for 400 with 60 genes; choosing the noise about as much again.

    Args:
        seed: of the anchors.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._anchors: FloatMatrix | None = None
        self._n_chosen = 0

    def fit(self, features: Features, residuals: FloatVector, errors: FloatVector) -> None:
        """Fit weights and factors; see `ResidualModel.fit`."""
        coordinates = _coordinates(features)
        if self._anchors is None:
            self._anchors = _drawn(coordinates.shape[1], np.random.default_rng(self._seed))
            self._members = self._anchors.copy()
        order = features.order()  # rounding then does not depend on the order of measuring
        coordinates, sorted_residuals = coordinates[order], residuals[order]
        self._scale = max(float(sorted_residuals.std()), 1e-12)
        targets = sorted_residuals / self._scale
        if len(residuals) >= GROWTH * self._n_chosen:
            self._n_chosen = len(residuals)
            self._noise, self._left = self._chosen(features.rows(order), targets)
        pairs = zip(self._members, self._anchors, strict=True)
        self._members = np.array([_fitted(start, coordinates, targets, self._noise, anchor) for start, anchor in pairs])

    def predict(self, features: Features) -> Prediction:
        """The mean over fits, and their spread with what they leave; see `ResidualModel.predict`."""
        assert self._anchors is not None, "predict() needs a fit() before"
        coordinates = _coordinates(features)
        values = np.array([_values(member, coordinates)[0] for member in self._members])
        return Prediction(self._scale * values.mean(axis=0), self._scale * np.sqrt(values.var(axis=0) + self._left))

    def _chosen(self, features: Features, targets: FloatVector) -> tuple[float, float]:
        """The noise whose fits predict best what they were not fitted to, and their mean squared error there."""
        assert self._anchors is not None
        if len(targets) < 2 * N_FOLDS:
            return NOISES[-1], 1.0
        coordinates, anchor = _coordinates(features), self._anchors[0]
        errors = np.zeros(len(NOISES))
        for out in folds(features, N_FOLDS):
            start = anchor
            for place in reversed(range(len(NOISES))):  # from smooth to rough
                start = _fitted(start, coordinates[~out], targets[~out], NOISES[place], anchor)
                errors[place] += np.sum((_values(start, coordinates[out])[0] - targets[out]) ** 2)
        best = int(np.argmin(errors))
        return NOISES[best], float(errors[best]) / len(targets)


def _coordinates(features: Features) -> FloatMatrix:
    """``(n, 1 + n_genes)`` square roots of shares; where there are none, distances from the top, and 1."""
    if features.shares.any():
        return np.sqrt(features.shares)
    return np.concatenate([np.ones((len(features), 1)), 1.0 - features.levels], axis=1)


def _drawn(n_coordinates: int, rng: np.random.Generator) -> FloatMatrix:
    """``(N_MEMBERS, n_coordinates * (1 + RANK))`` parameters: weights 0, then factors at random."""
    factors = ANCHOR * rng.normal(size=(N_MEMBERS, n_coordinates * RANK))
    return np.concatenate([np.zeros((N_MEMBERS, n_coordinates)), factors], axis=1)


def _values(parameters: FloatVector, coordinates: FloatMatrix) -> tuple[FloatVector, FloatMatrix, FloatMatrix]:
    """``(n,)`` values of the quadratic form, ``(n, RANK)`` its projections, ``(n_coordinates, RANK)`` factors."""
    n_coordinates = coordinates.shape[1]
    weights, factors = parameters[:n_coordinates], parameters[n_coordinates:].reshape(n_coordinates, RANK)
    projections = coordinates @ factors
    own = weights - factors**2 @ _signs()  # pairs of a gene with itself do not count
    return coordinates**2 @ own + projections**2 @ _signs(), projections, factors


def _signs() -> FloatVector:
    return np.where(np.arange(RANK) % 2 == 0, 1.0, -1.0)


def _fitted(
    start: FloatVector, coordinates: FloatMatrix, targets: FloatVector, noise: float, anchor: FloatVector
) -> FloatVector:
    """Parameters that minimize squared errors over the noise, and squared distances from the anchor."""
    from scipy.optimize import minimize  # SciPy takes a moment to import

    squares = coordinates**2

    def error(parameters: FloatVector) -> tuple[float, FloatVector]:
        values, projections, factors = _values(parameters, coordinates)
        misses, moves = values - targets, parameters - anchor
        slopes = 2.0 / noise * misses
        of_weights = slopes @ squares
        of_factors = 2.0 * (coordinates.T @ (slopes[:, None] * projections) - of_weights[:, None] * factors) * _signs()
        gradient = np.concatenate([of_weights, of_factors.ravel()]) + 2.0 * moves
        return float(misses @ misses) / noise + float(moves @ moves), gradient

    found: FloatVector = minimize(error, start, jac=True, method="L-BFGS-B", options={"maxiter": N_STEPS}).x
    return found
