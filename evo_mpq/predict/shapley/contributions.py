"""What every step of every gene contributes to the loss, with errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evo_mpq.predict.shapley.games import Game
from evo_mpq.predict.tables.options import OptionTable
from evo_mpq.typing import FloatVector

_FAR = -20.0
"""Standard errors below zero from where the expectation of a positive number is the error over their number."""


@dataclass(frozen=True, eq=False)
class Contributions:
    """Shapley contributions of the steps of genes: by how much each raises the loss, on average over orders.

    Attributes:
        increments: per gene ``(cardinality - 1,)``; entry k is of the step from option k + 1 down to option k. NaN for
            a step that no walk came to.
        standard_errors: likewise, of the sampling of orders or coalitions; NaN where unknown. What a division of gene
            totals over levels gets wrong is not in them.
        visits: likewise, how many walks (or pairs of coalitions) each increment is made from.
        total_errors: ``(n_genes,)`` standard errors of ``totals``; the steps of a gene are correlated, so that they
            do not follow from ``standard_errors``.
        n_measurements: that were made.
        top: loss of the most expensive genome.
        bottom: loss of the cheapest one.
    """

    increments: tuple[FloatVector, ...]
    standard_errors: tuple[FloatVector, ...]
    visits: tuple[npt.NDArray[np.int64], ...]
    total_errors: FloatVector
    n_measurements: int
    top: float
    bottom: float

    @property
    def totals(self) -> FloatVector:
        """``(n_genes,)`` contributions of whole genes, all their steps together."""
        return np.array([steps.sum() for steps in self.increments], dtype=np.float64)

    @property
    def efficiency_gap(self) -> float:
        """How far the sum of all contributions is from what they divide, loss(cheapest) - loss(most expensive).

        Zero but for rounding, unless walks were truncated.
        """
        return abs(float(np.nansum(np.concatenate(self.increments))) - (self.bottom - self.top))

    def table(self) -> OptionTable:
        """What options cost by their contributions: the sum of the steps above each of them.

        A step that seems to lower the loss, mostly by the noise of sampling, would be taken for nothing by a program,
        and its option chosen everywhere. No step is taken to cost less than nothing, so that it counts by what is
        expected of a positive number, given its estimate and standard error; where the error is unknown, no option
        costs less than the one above it. (A cut of negative steps would leave their noise in all options below.)
        Steps that nothing is known of cost as much as the costliest one of all. A standard error is that of
        independent steps.
        """
        known = np.concatenate(self.increments)
        worst = float(np.nanmax(known, initial=0.0))
        losses, errors = [], []
        for steps, spreads in zip(self.increments, self.standard_errors, strict=True):
            costs = np.where(np.isnan(steps), worst, expected_if_positive(steps, spreads))
            from_top = np.cumsum(costs[::-1])
            losses.append(np.append(np.maximum.accumulate(np.maximum(from_top, 0.0))[::-1], 0.0))
            errors.append(np.append(np.sqrt(np.cumsum(spreads[::-1] ** 2))[::-1], 0.0))
        return OptionTable(tuple(losses), tuple(errors), self.top)


def expected_if_positive(means: FloatVector, errors: FloatVector) -> FloatVector:
    """``(n,)`` expectations of normal numbers that are known to be positive; the mean where the error is unknown or 0.

    >>> expected_if_positive(np.array([5.0, 0.0, -1.0]), np.array([1.0, 1.0, np.nan])).round(3).tolist()
    [5.0, 0.798, -1.0]
    """
    from scipy.special import log_ndtr  # SciPy takes a moment to import

    usable = errors > 0
    scale = np.where(usable, errors, 1.0)
    ratios = means / scale
    near = np.maximum(ratios, _FAR)  # beyond, the two terms below would cancel
    positive = scale * (near + np.exp(-0.5 * near**2 - 0.5 * np.log(2 * np.pi) - log_ndtr(near)))
    expected: FloatVector = np.where(
        usable, np.where(ratios < _FAR, scale / -np.minimum(ratios, _FAR), positive), means
    )
    return expected


def of_totals(
    game: Game,
    totals: FloatVector,
    total_errors: FloatVector,
    visits: npt.NDArray[np.int64],
    shares: Sequence[FloatVector],
) -> Contributions:
    """Totals of genes divided over their steps.

    Args:
        game: that was played.
        totals: ``(n_genes,)`` contributions of whole genes.
        total_errors: ``(n_genes,)``.
        visits: ``(n_genes,)``.
        shares: per gene ``(cardinality - 1,)`` of the steps in its total, see `levels`.
    """
    return Contributions(
        increments=tuple(total * share for total, share in zip(totals, shares, strict=True)),
        standard_errors=tuple(error * np.abs(share) for error, share in zip(total_errors, shares, strict=True)),
        visits=tuple(np.full(len(share), n, dtype=np.int64) for n, share in zip(visits, shares, strict=True)),
        total_errors=total_errors,
        n_measurements=game.n_measured,
        top=game.top,
        bottom=game.bottom,
    )
