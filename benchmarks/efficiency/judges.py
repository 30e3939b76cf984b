"""Share and held-out regret, as in `benchmarks.judging`, with one or more costs beside the loss."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from benchmarks.judging import LOWEST_FLOOR, N_BUDGETS
from evo_mpq.optimize.pareto import hypervolume, non_dominated
from evo_mpq.typing import FloatMatrix, FloatVector

N_GRID = 3
"""Bounds on each of two costs: nine budgets in all."""

N_MANY, N_FINE_GRID = 200, 14
"""Likewise, of many budgets."""


@dataclass(frozen=True, eq=False)
class Judge:
    """The front that searches are compared with; made by `judge_of`.

    Attributes:
        losses: ``(m,)`` of the front, on the search split.
        costs: ``(m, k)`` bytes first.
        rows: ``(m,)`` which of the genomes that it was made from.
        floor: losses below it are equal.
    """

    losses: FloatVector
    costs: FloatMatrix
    rows: np.ndarray
    floor: float

    @property
    def budgets(self) -> FloatMatrix:
        """``(9, k)`` bounds on costs: from 1.02 times the front's smallest to its largest."""
        return self._grid(N_BUDGETS if self.costs.shape[1] == 1 else N_GRID)

    @property
    def many_budgets(self) -> FloatMatrix:
        """``(n, k)`` more of them in the same range, so that no single network decides."""
        return self._grid(N_MANY if self.costs.shape[1] == 1 else N_FINE_GRID)

    def _grid(self, n: int) -> FloatMatrix:
        axes = [np.geomspace(1.02 * cost.min(), cost.max(), n) for cost in self.costs.T]
        return np.array(list(itertools.product(*axes)))

    def share(self, losses: FloatVector, costs: FloatMatrix) -> float:
        """The share of the front's hypervolume; losses on a logarithmic scale, see `benchmarks.judging`."""
        if max(self.losses.max(), 0.0) <= self.floor:
            return 1.0  # all losses of the front are equal
        return self._volume(losses, costs) / self._volume(self.losses, self.costs)

    def handed_over(self, losses: FloatVector, costs: FloatMatrix, budgets: FloatMatrix | None = None) -> np.ndarray:
        """``(n,)`` rows: per budget, of nine, the lowest searched loss within it, or the smallest if none is."""
        within = [np.all(costs <= budget, axis=1) for budget in (self.budgets if budgets is None else budgets)]
        return np.array([np.lexsort((costs[:, 0], np.where(fits, losses, np.inf)))[0] for fits in within])

    def regret(self, own: FloatVector, best: FloatVector) -> float:
        """Geometric mean of ``(9,)`` held-out losses over those of the front."""
        return float(np.exp(np.mean(np.log(np.maximum(own, self.floor) / np.maximum(best, self.floor)))))

    def from_size(self, size: float) -> Judge:
        """The same of the front's networks of at least so many bytes."""
        rows = self.costs[:, 0] >= size
        return Judge(self.losses[rows], self.costs[rows], self.rows[rows], self.floor)

    def _volume(self, losses: FloatVector, costs: FloatMatrix) -> float:
        """In the box from the front's best values to 1.1 times its worst loss, 1.05 times its largest size.

        Other costs go from 5 % of the front's range below its lowest to 5 % above its highest.
        """
        best, worst = (np.log10(max(loss, self.floor)) for loss in (self.losses.min(), 1.1 * self.losses.max()))
        columns = [(np.log10(np.maximum(losses, self.floor)) - best) / (worst - best)]
        for place, (cost, own) in enumerate(zip(self.costs.T, costs.T, strict=True)):
            margin = 0.05 * (cost.max() - cost.min())
            low, high = (cost.min(), 1.05 * cost.max()) if place == 0 else (cost.min() - margin, cost.max() + margin)
            columns.append((own - low) / (high - low))
        return hypervolume(np.stack(columns, axis=1), np.ones(len(columns)))


def judge_of(losses: FloatVector, costs: FloatMatrix, errors: FloatVector) -> Judge:
    """The judge of everything that was measured, or that there is.

    Args:
        losses: ``(n,)`` on the search split.
        costs: ``(n, k)`` bytes first.
        errors: ``(n,)`` standard errors of the losses; two of the smallest loss on the front are the floor.
    """
    rows = np.flatnonzero(non_dominated(np.column_stack([losses, costs])))
    front = losses[rows]
    positive = front > 0
    error = errors[rows][positive][np.argmin(front[positive])] if positive.any() else 0.0
    return Judge(front, costs[rows], rows, float(np.nanmax([LOWEST_FLOOR, 2 * error])))
