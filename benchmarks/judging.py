"""How searches are judged against an exact (or best known) front: share of its hypervolume, and held-out regret.

Objectives are a loss, compared as ``log10(max(loss, floor))``, and a size in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evo_mpq.optimize.pareto import hypervolume, non_dominated
from evo_mpq.typing import BoolVector, FloatMatrix, FloatVector

LOWEST_FLOOR = 1e-4
"""Nats below which losses are equal, however many samples they are measured on."""

N_BUDGETS = 9
"""Budgets of size at which a method hands over a network."""


@dataclass(frozen=True, eq=False)
class Oracle:
    """The exact front that methods are compared with; made by `oracle`.

    Attributes:
        losses: ``(m,)`` of the front, on the search split.
        held_out: ``(m,)`` the same networks' losses on samples that were not searched.
        sizes: ``(m,)`` in bytes.
        floor: losses below it are equal.
    """

    losses: FloatVector
    held_out: FloatVector
    sizes: FloatVector
    floor: float

    @property
    def budgets(self) -> FloatVector:
        """``(9,)`` bytes, spaced geometrically from 1.02 times the smallest to the largest size of the front."""
        return np.geomspace(1.02 * self.sizes.min(), self.sizes.max(), N_BUDGETS)

    def share(self, losses: FloatVector, sizes: FloatVector) -> float:
        """The share of the front's hypervolume that ``(n,)`` measured losses and sizes reach; at most 1.

        The box runs from the front's best values (0) to 1.1 times its worst loss and 1.05 times its largest
        size (1), losses on their logarithmic scale.
        """
        return _volume(self._in_box(losses, sizes)) / _volume(self._in_box(self.losses, self.sizes))

    def held_out_regret(self, losses: FloatVector, held_out: FloatVector, sizes: FloatVector) -> float:
        """How much worse than the front are the networks that a method hands over, on samples nobody searched.

        For each budget that is the network with the lowest searched loss within it, or the smallest one if none
        is: the geometric mean of their held-out losses over that of the front. 1 is what the exact front is
        worth.

        Args:
            losses: ``(n,)`` what the method measured on the search split.
            held_out: ``(n,)`` losses of the same networks on other samples.
            sizes: ``(n,)`` in bytes.
        """
        own = self._handed_over(losses, held_out, sizes)
        best = self._handed_over(self.losses, self.held_out, self.sizes)
        return float(np.exp(np.mean(np.log(own / best))))

    def _handed_over(self, losses: FloatVector, held_out: FloatVector, sizes: FloatVector) -> FloatVector:
        """``(9,)`` held-out losses, at least the floor."""
        chosen = [
            np.lexsort((sizes, np.where(sizes <= budget, losses, np.inf)))[0] for budget in self.budgets
        ]  # where nothing fits all losses are infinite, and the smallest comes first
        return np.maximum(held_out[chosen], self.floor)

    def _in_box(self, losses: FloatVector, sizes: FloatVector) -> FloatMatrix:
        logarithms = np.log10(np.maximum(losses, self.floor))
        best = np.log10(max(self.losses.min(), self.floor))
        worst = np.log10(1.1 * max(self.losses.max(), self.floor))
        smallest, largest = self.sizes.min(), 1.05 * self.sizes.max()
        return np.stack([(logarithms - best) / (worst - best), (sizes - smallest) / (largest - smallest)], axis=1)


def oracle(losses: FloatVector, held_out: FloatVector, sizes: FloatVector, standard_errors: FloatVector) -> Oracle:
    """The oracle of a space of which everything (or the most that is known) was measured.

    The floor of its losses is the larger of 1e-4 nat and two standard errors of the smallest loss above zero on the
    front: what lies below cannot be told from it.

    Args:
        losses: ``(n,)`` on the search split.
        held_out: ``(n,)`` on samples that are not searched.
        sizes: ``(n,)`` in bytes.
        standard_errors: ``(n,)`` of the losses.
    """
    front: BoolVector = non_dominated(np.stack([losses, sizes], axis=1))
    losses, held_out, sizes, standard_errors = (
        np.asarray(values, dtype=np.float64)[front] for values in (losses, held_out, sizes, standard_errors)
    )
    positive = losses > 0
    error = standard_errors[positive][np.argmin(losses[positive])] if positive.any() else 0.0
    return Oracle(losses, held_out, sizes, float(max(LOWEST_FLOOR, 2 * error)))


def _volume(points: FloatMatrix) -> float:
    return hypervolume(points, np.ones(2))
