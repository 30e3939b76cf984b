"""A Gaussian process on what the additive model leaves unexplained."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from evo_mpq.predict.surrogates.surrogate import Features, Prediction
from evo_mpq.typing import FloatMatrix, FloatVector

QUADRATIC_PARTS = (0.0, 0.3, 0.7)
"""Of the variance, for the part that is quadratic in shares; the other part is smooth in levels and shares."""

LENGTHS = (0.5, 1.0, 2.0)
"""Of the smooth part, in units of the root mean square distance between two measured genomes."""

NOISES = (1e-3, 1e-2, 1e-1, 0.5)
"""Of the variance, for what genomes do not explain."""

MOST_FITTED = 300
"""Measurements that hyperparameters are chosen by, the latest ones."""

MOST_CONDITIONED = 1000
"""Measurements that a fit conditions on, the latest ones: those near the front."""

GROWTH = 1.25
"""Times as many measurements as last time after which hyperparameters are chosen again."""

PIECE = 2048
"""Genomes that are predicted at once."""


@dataclass(frozen=True)
class _Kernel:
    """Covariance of two residuals, for a variance of 1.

    Attributes:
        quadratic: variance of the quadratic part.
        length: of the smooth part.
        noise: variance of what no genome explains.
    """

    quadratic: float
    length: float
    noise: float

    def __call__(self, products: FloatMatrix, distances: FloatMatrix) -> FloatMatrix:
        """Covariances without noise, of pairs with these products of root shares and squared distances."""
        smooth: FloatMatrix = np.exp(-0.5 * distances / self.length**2)
        return self.quadratic * products**2 + (1 - self.quadratic) * smooth


class GaussianProcess:
    """Residuals as a Gaussian process (Rasmussen and Williams 2006, Alg. 2.1).

    The covariance has two parts. The *quadratic* one is the square of the inner product of square roots of shares. For
    losses that are quadratic in the errors of genes, ``e'Ce``, the additive model predicts ``e'e`` and the residual is
    ``log(u'Cu)`` with ``u`` the square roots of shares: to first order a quadratic form in ``u``, which is what this
    covariance describes. The *smooth* one falls with the distance of levels and of square roots of shares. Their
    ratio, the length and the noise maximize the marginal likelihood on a small grid. Half of the noise is that of what
    genomes do not explain; the other half is shared out by the squared standard errors of the measurements.

    One fit is O(n^3) in measurements (50 ms for 1,000, which is the most), a prediction O(n^2).
    """

    def __init__(self) -> None:
        self._kernel: _Kernel | None = None
        self._n_chosen = 0

    def fit(self, features: Features, residuals: FloatVector, errors: FloatVector) -> None:
        """Condition on residuals; see `ResidualModel.fit`."""
        latest = np.arange(max(0, len(residuals) - MOST_CONDITIONED), len(residuals))
        features, residuals, errors = features.rows(latest), residuals[latest], errors[latest]
        self._coordinates, self._roots = _coordinates(features), np.sqrt(features.shares)
        self._mean = float(residuals.mean())
        centered = residuals - self._mean
        if self._kernel is None or len(residuals) >= GROWTH * self._n_chosen:
            self._choose(centered)
        assert self._kernel is not None
        covariance = self._kernel(*self._pairs(self._coordinates, self._roots))
        covariance[np.diag_indices_from(covariance)] += self._kernel.noise * _relative_variances(errors) + 1e-8
        self._factor = cho_factor(covariance, lower=True)
        self._weights = cho_solve(self._factor, centered)
        # the variance that explains the residuals best, in closed form
        self._variance = max(float(centered @ self._weights) / len(centered), 1e-12)

    def predict(self, features: Features) -> Prediction:
        """The conditional mean and deviation; see `ResidualModel.predict`."""
        assert self._kernel is not None, "predict() needs a fit() before"
        means, deviations = np.empty(len(features)), np.empty(len(features))
        coordinates, roots = _coordinates(features), np.sqrt(features.shares)
        for start in range(0, len(features), PIECE):
            rows = slice(start, start + PIECE)
            covariance = self._kernel(*self._pairs(coordinates[rows], roots[rows]))
            means[rows] = self._mean + covariance @ self._weights
            explained = solve_triangular(self._factor[0], covariance.T, lower=True, check_finite=False)
            own = self._kernel.quadratic * (roots[rows] ** 2).sum(axis=1) ** 2 + 1 - self._kernel.quadratic
            left = np.maximum(own - np.einsum("ij,ij->j", explained, explained), 0.0)
            deviations[rows] = np.sqrt(self._variance * (left + self._kernel.noise))
        return Prediction(means, deviations)

    def _pairs(self, coordinates: FloatMatrix, roots: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
        """Products of root shares and squared distances to the measured genomes, in units of their mean."""
        own = (self._coordinates**2).sum(axis=1)
        distances = (coordinates**2).sum(axis=1)[:, None] + own - 2 * coordinates @ self._coordinates.T
        return roots @ self._roots.T, np.maximum(distances, 0.0) / self._unit

    def _choose(self, residuals: FloatVector) -> None:
        """The kernel of the largest marginal likelihood on the latest residuals."""
        self._n_chosen = len(residuals)
        latest = slice(max(0, len(residuals) - MOST_FITTED), None)
        every = self._coordinates
        centered = every - every.mean(axis=0)
        self._unit = max(2 * float((centered**2).sum(axis=1).mean()), 1e-12)
        products, distances = self._pairs(self._coordinates[latest], self._roots[latest])
        products, distances, some = products[:, latest], distances[:, latest], residuals[latest]
        parts = QUADRATIC_PARTS if self._roots.any() else (0.0,)
        best = -np.inf
        for quadratic, length in product(parts, LENGTHS):
            values, vectors = np.linalg.eigh(_Kernel(quadratic, length, 0.0)(products, distances))
            rotated = (vectors.T @ some) ** 2
            for noise in NOISES:
                spectrum = np.maximum(values, 0.0) + noise
                variance = max(float(np.mean(rotated / spectrum)), 1e-12)
                likelihood = -0.5 * (len(some) * np.log(variance) + np.log(spectrum).sum())
                if likelihood > best:
                    best, self._kernel = likelihood, _Kernel(quadratic, length, noise)


def _relative_variances(errors: FloatVector) -> FloatVector:
    """``(n,)`` variances of the noise of measurements, 1 where the standard error is the median one or unknown.

    Only in part by the errors: measurements are made on the same samples, and most of their error is common to all.
    """
    known = errors > 0
    if not known.any():
        return np.ones(len(errors))
    relative = np.where(known, errors / np.median(errors[known]), 1.0) ** 2
    clipped: FloatVector = np.clip(0.5 + 0.5 * relative, 0.5, 25.0)
    return clipped


def _coordinates(features: Features) -> FloatMatrix:
    """``(n, 1 + 2 n_genes)`` where genomes lie for the smooth part."""
    return np.concatenate([features.levels, np.sqrt(features.shares)], axis=1)
