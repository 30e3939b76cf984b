"""The additive model, fitted to all that was measured and held near a table: prior and fallback of the others."""

from __future__ import annotations

import numpy as np

from evo_mpq.predict.surrogates.surrogate import Features, Prediction, active_genes
from evo_mpq.predict.tables.options import OptionTable
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatMatrix, FloatVector, Genomes

PRIOR_WEIGHT = 0.1
"""Of a parameter's squared distance from the table, in units of squared residuals."""

SMALLEST = 1e-3
"""Of the median increment of a table: what it holds to be free is taken for so much, or it could never grow."""

N_STEPS = 8
"""Gauss-Newton steps of one fit; the next fit begins where it ended."""

LN10 = float(np.log(10.0))


class Additive:
    """A loss as the sum of what the options of active genes cost, each near what a table says.

    On a logarithmic scale the sum is of positive costs and the fit is of its logarithm: relative errors count alike
    from the best to the worst genome. Costs are exponentials of parameters that a quadratic penalty holds near
    the table, so that an option that was not measured costs what the table says, or all of them near the same multiple
    of it: a table may be of fewer samples than the losses. Elsewhere the fit is a ridge regression around the table. A
    fit takes milliseconds, and the model is what exact programs optimize.

    Args:
        space: of the genomes.
        table: what each option costs alone, in the units of the loss (not of its logarithm).
        log_scale: whether losses come as ``log10``.
    """

    def __init__(self, space: SearchSpace, table: OptionTable, *, log_scale: bool) -> None:
        self._space = space
        self._log_scale = log_scale
        self._ends = np.cumsum([gene.cardinality - 1 for gene in space.genes])
        self._starts = self._ends - (space.cardinalities - 1)
        costs = np.concatenate([row[:-1] for row in table.losses])
        positive = np.abs(costs[costs != 0])
        typical = float(np.median(positive)) if len(positive) else 1.0
        if log_scale:
            least = SMALLEST * typical
            prior = np.append(np.log(np.maximum(costs, least)), np.log(max(table.base, least)))
            spans = np.ones(len(prior))
        else:
            prior = np.append(costs, table.base)
            spans = np.append(np.abs(costs) + typical, max(abs(table.base), typical))
        self._prior, self._spans = prior, spans
        self._parameters = prior.copy()
        self._deviation = 0.0

    def fit(self, genomes: Genomes, losses: FloatVector, errors: FloatVector) -> None:
        """Refit all costs; see `Surrogate.fit`."""
        order = np.lexsort(genomes.T[::-1])  # rounding then does not depend on the order of measuring
        design, losses = self._design(genomes[order]), losses[order]
        if self._log_scale:
            self._parameters = self._fitted_logarithms(design, LN10 * losses)
        else:
            self._parameters = self._fitted(design, losses)
        residuals = losses - self._values(design)
        self._deviation = float(np.sqrt(np.mean(residuals**2))) if len(residuals) else 0.0

    def predict(self, genomes: Genomes) -> Prediction:
        """The sum, and the spread of the residuals of the fit; see `Surrogate.predict`."""
        means = self._values(self._design(genomes))
        return Prediction(means, np.full(len(means), self._deviation))

    def table(self) -> OptionTable:
        """The fitted costs, for exact programs."""
        costs = self._costs()
        rows = [np.append(costs[start:end], 0.0) for start, end in zip(self._starts, self._ends, strict=True)]
        return OptionTable.of(rows, float(costs[-1]))

    def features(self, genomes: Genomes) -> Features:
        """What models of the residuals see of genomes."""
        levels = genomes / (self._space.cardinalities - 1)
        shares = np.zeros((len(genomes), 1 + self._space.n_genes))
        if self._log_scale:
            contributions = self._design(genomes) * self._costs()
            shares[:, 0] = contributions[:, -1]
            shares[:, 1:] = np.add.reduceat(contributions[:, :-1], self._starts, axis=1)
            shares /= shares.sum(axis=1, keepdims=True)
        return Features(levels, shares)

    def _design(self, genomes: Genomes) -> FloatMatrix:
        """``(n, n_options + 1)`` 1 for what is added up: chosen options of active genes, and the base."""
        design = np.zeros((len(genomes), int(self._ends[-1]) + 1))
        design[:, -1] = 1.0
        chosen = active_genes(self._space, genomes) & (genomes < self._space.cardinalities - 1)
        rows, genes = np.nonzero(chosen)
        design[rows, self._starts[genes] + genomes[rows, genes]] = 1.0
        return design

    def _costs(self) -> FloatVector:
        return np.exp(self._parameters) if self._log_scale else self._parameters

    def _values(self, design: FloatMatrix) -> FloatVector:
        sums: FloatVector = design @ self._costs()
        return np.log10(sums) if self._log_scale else sums

    def _fitted(self, design: FloatMatrix, losses: FloatVector) -> FloatVector:
        noise = (float(np.var(losses - design @ self._prior)) if len(losses) else 0.0) or 1.0
        penalty = PRIOR_WEIGHT * noise / self._spans**2
        moves = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ (losses - design @ self._prior))
        fitted: FloatVector = self._prior + moves
        return fitted

    def _fitted_logarithms(self, design: FloatMatrix, logarithms: FloatVector) -> FloatVector:
        """Levenberg-Marquardt on the sum of squares of ``log(sum) - log(loss)`` and of the distances from the prior."""
        parameters, damping = self._parameters, 1e-3
        residuals, error = self._error(design, logarithms, parameters)
        for _ in range(N_STEPS):
            jacobian = design * np.exp(parameters)
            jacobian /= jacobian.sum(axis=1, keepdims=True)
            gradient = jacobian.T @ residuals + PRIOR_WEIGHT * self._moves(parameters)
            curvature = jacobian.T @ jacobian - PRIOR_WEIGHT / len(parameters)
            curvature[np.diag_indices_from(curvature)] += PRIOR_WEIGHT + damping
            step = np.linalg.solve(curvature, gradient)
            tried = parameters - step
            new_residuals, new_error = self._error(design, logarithms, tried)
            if new_error < error:
                converged = error - new_error < 1e-6 * error
                parameters, residuals, error, damping = tried, new_residuals, new_error, damping / 10
                if converged:
                    break
            else:
                damping *= 100
        return parameters

    def _error(
        self, design: FloatMatrix, logarithms: FloatVector, parameters: FloatVector
    ) -> tuple[FloatVector, float]:
        """Residuals, and what is minimized."""
        residuals: FloatVector = np.log(design @ np.exp(parameters)) - logarithms
        return residuals, float(residuals @ residuals + PRIOR_WEIGHT * np.sum(self._moves(parameters) ** 2))

    def _moves(self, parameters: FloatVector) -> FloatVector:
        """Distances from the prior on the logarithmic scale, but for a factor that all have in common."""
        moves: FloatVector = parameters - self._prior
        return moves - float(moves.mean())
