"""Which candidates to measure: greedy gains of predicted hypervolume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from evo_mpq.optimize.pareto import hypervolume, non_dominated
from evo_mpq.typing import FloatMatrix, FloatVector, Genomes

LEAST_WORK = 0.05
"""Of a forward pass, for what no candidate shares: handing over its outputs, and judging them."""

MOST_SHORTLISTED = 300
"""Candidates whose gains are computed one by one, where there are three objectives or more."""


class Work(Protocol):
    """What measuring candidates takes, given those that are measured along with them."""

    def __call__(self, chosen: Sequence[int]) -> FloatVector:
        """``(c,)`` positive; it never grows as more are chosen."""


def greedy_batch(
    front: FloatMatrix,
    candidates: FloatMatrix,
    n: int,
    weights: FloatVector | None = None,
    *,
    work: Work | None = None,
    chosen: Sequence[int] = (),
) -> list[int]:
    """Rows of candidates that add most hypervolume, one after the other, each as if those before had been measured.

    Args:
        front: ``(k, m)`` losses that are known, in the unit box: 0 is best, and 1 is the reference point.
        candidates: ``(c, m)`` losses that are expected.
        n: at most so many rows.
        weights: ``(c,)`` by which gains are multiplied, such as probabilities of being feasible.
        work: what gains are divided by; default: the same for all.
        chosen: rows that are measured along with them, and not chosen again; the front holds them.

    Returns:
        Rows with a positive gain, best first.
    """
    weights = np.ones(len(candidates)) if weights is None else weights.copy()
    weights[list(chosen)] = 0.0
    if not len(candidates):
        return []
    greedy = _greedy_2 if front.shape[1] == 2 else _lazy_greedy
    return greedy(front, candidates, n, weights, work or _Equal(len(candidates)), chosen)


class SharedWork:
    """The part of a forward pass that the population evaluator computes anew for a candidate.

    What lies before the first decision in which it differs from another candidate of the batch is shared with it.

    Args:
        candidates: ``(c, n_genes)`` genomes.
        after: ``(n_genes,)`` part of a pass that depends on a gene: the layers from the first one that it decides on.
    """

    def __init__(self, candidates: Genomes, after: FloatVector) -> None:
        self._candidates = candidates
        self._after = after
        self._work = np.ones(len(candidates))
        self._taken = 0

    def __call__(self, chosen: Sequence[int]) -> FloatVector:
        """See `Work`; rows are only ever appended to what was chosen."""
        for row in chosen[self._taken :]:
            differs = self._candidates != self._candidates[row]
            anew = LEAST_WORK + (1 - LEAST_WORK) * (differs * self._after).max(axis=1)
            self._work = np.minimum(self._work, anew)
        self._taken = len(chosen)
        return self._work


class _Equal:
    def __init__(self, n: int) -> None:
        self._ones = np.ones(n)

    def __call__(self, chosen: Sequence[int]) -> FloatVector:
        return self._ones


def gains_2(front: FloatMatrix, candidates: FloatMatrix) -> FloatVector:
    """``(c,)`` areas that candidates add to what a front dominates, up to (1, 1).

    Args:
        front: ``(k, 2)`` non-dominated or not.
        candidates: ``(c, 2)``.

    >>> gains_2(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75], [0.0, 0.0], [0.5, 0.5]]))
    array([0.0625, 0.75  , 0.    ])
    """
    inside = front[np.all(front < 1.0, axis=1)]
    inside = inside[non_dominated(inside)] if len(inside) else inside
    inside = inside[np.argsort(inside[:, 0])]
    starts = np.concatenate([[-np.inf], inside[:, 0]])  # the staircase: a height from each start to the next one
    ends = np.concatenate([inside[:, 0], [1.0]])
    heights = np.concatenate([[1.0], inside[:, 1]])
    widths = np.maximum(ends - np.maximum(starts, candidates[:, :1]), 0.0)
    gains: FloatVector = (widths * np.maximum(heights - candidates[:, 1:], 0.0)).sum(axis=1)
    return gains


def _greedy_2(
    front: FloatMatrix, candidates: FloatMatrix, n: int, weights: FloatVector, work: Work, along: Sequence[int]
) -> list[int]:
    chosen: list[int] = []
    left = np.flatnonzero(gains_2(front, candidates) * weights > 0)
    while len(chosen) < n and len(left):
        gains = gains_2(front, candidates[left]) * weights[left]
        left, gains = left[gains > 0], gains[gains > 0]  # a gain never grows
        if len(left):
            best = int(left[np.argmax(gains / work([*along, *chosen])[left])])
            chosen.append(best)
            front = np.concatenate([front, candidates[[best]]])
            left = left[left != best]
    return chosen


def _lazy_greedy(
    front: FloatMatrix, candidates: FloatMatrix, n: int, weights: FloatVector, work: Work, along: Sequence[int]
) -> list[int]:
    """The same for any number of objectives; gains only shrink, so that most need not be computed again.

    Minoux (1978): the candidate whose gain, computed anew, is still the largest of all old ones is the best. Those that
    are worse than another in everything are passed over, even where they take less work.
    """
    one = np.ones(front.shape[1])
    # A candidate is never chosen before one that is better in everything, and in its weight as well.
    weighed = np.column_stack([candidates, -weights])
    bounds = np.column_stack([front, np.full(len(front), -weights.max())])
    rows = np.flatnonzero(non_dominated(np.concatenate([weighed, bounds]))[: len(candidates)])
    rows = rows[weights[rows] > 0]
    if len(rows) > MOST_SHORTLISTED:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_SHORTLISTED).round().astype(int)]
    known = hypervolume(front, one)
    gains, fresh = np.full(len(rows), np.inf), np.full(len(rows), -1)
    chosen: list[int] = []
    while len(chosen) < n and len(rows):
        place = int(np.argmax(gains / work([*along, *chosen])[rows]))
        if gains[place] <= 0:
            break
        row = int(rows[place])
        if fresh[place] == len(chosen):
            chosen.append(row)
            gains[place] = 0.0
            front = np.concatenate([front, candidates[[row]]])
            known = hypervolume(front, one)
        else:
            grown = hypervolume(np.concatenate([front, candidates[[row]]]), one) - known
            gains[place], fresh[place] = float(weights[row]) * grown, len(chosen)
    return chosen
