"""Candidates for single points: the best within bounds that a user will pick by."""

from __future__ import annotations

import numpy as np

from evo_mpq.optimize.surrogate_search.models import Expectation
from evo_mpq.typing import FloatMatrix, FloatVector

LEAST_IMPROVEMENT = 2e-4
"""Of the range of what was measured: less is not worth a measurement."""

N_BEST = 5
"""Points within limits whose relatives are candidates."""


def for_picks(
    limits: FloatMatrix, known: FloatMatrix, expected: Expectation, lead: int, n: int, turn: int
) -> list[int]:
    """Rows of candidates with the largest expected improvement of the best point within limits, which take turns.

    Args:
        limits: ``(k, m)`` most losses of each pick, on the scale on which they are compared, or infinity.
        known: ``(r, m)`` losses that were measured.
        expected: of the candidates.
        lead: the objective whose best is picked.
        n: at most so many rows.
        turn: of the first of them; the next is that of the next pick.

    Returns:
        Each row once; fewer than ``n`` where hardly anything better is expected.
    """
    rows: list[int] = []
    least = LEAST_IMPROVEMENT * float(np.ptp(known[:, lead]))
    for place in range(turn, turn + n):
        limit = limits[place % len(limits)]
        inside = known[np.all(known <= limit, axis=1), lead]
        gains = chance_within(limit, expected) * expected.feasible
        if len(inside):
            gains *= expected_improvement(float(inside.min()), expected.losses[:, lead], expected.deviations[:, lead])
        else:  # anything within is welcome, the better the more so
            gains /= 1.0 + expected.losses[:, lead] - expected.losses[:, lead].min()
        gains[rows] = 0.0
        if len(gains) and gains.max() > least:
            rows.append(int(np.argmax(gains)))
    return rows


def best_within(limits: FloatMatrix, known: FloatMatrix, lead: int) -> list[np.ndarray]:
    """Per pick the rows of the best points that were measured within its limits, best first."""
    inside = [np.flatnonzero(np.all(known <= limit, axis=1)) for limit in limits]
    return [rows[np.argsort(known[rows, lead], kind="stable")][:N_BEST] for rows in inside]


def chance_within(limit: FloatVector, expected: Expectation) -> FloatVector:
    """``(n,)`` probability that no loss is above its limit; 0 or 1 where all are computed."""
    from scipy.special import ndtr  # SciPy takes a moment to import

    chance = np.ones(len(expected.losses))
    for column in np.flatnonzero(np.isfinite(limit)):
        room, spread = limit[column] - expected.losses[:, column], expected.deviations[:, column]
        chance *= np.where(spread > 0, ndtr(room / np.maximum(spread, 1e-12)), room >= 0)
    return chance


def expected_improvement(best: float, means: FloatVector, deviations: FloatVector) -> FloatVector:
    """``(n,)`` by how much normal losses are expected to be below the best, 0 where they are above (Mockus 1978).

    >>> expected_improvement(1.0, np.array([0.5, 1.0, 2.0]), np.array([0.0, 1.0, 0.0])).round(3)
    array([0.5  , 0.399, 0.   ])
    """
    from scipy.special import ndtr

    gaps, spreads = best - means, np.maximum(deviations, 1e-12)
    z = gaps / spreads
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    gains: FloatVector = np.maximum(gaps * ndtr(z) + spreads * density, 0.0)
    return gains
