"""Which candidates to measure: greedy gains of predicted hypervolume."""

from __future__ import annotations

import heapq

import numpy as np

from evo_mpq.optimize.pareto import hypervolume, non_dominated
from evo_mpq.typing import FloatMatrix, FloatVector

MOST_SHORTLISTED = 300
"""Candidates whose gains are computed one by one, where there are three objectives or more."""


def greedy_batch(front: FloatMatrix, candidates: FloatMatrix, n: int, weights: FloatVector | None = None) -> list[int]:
    """Rows of candidates that add most hypervolume, one after the other, each as if those before had been measured.

    Args:
        front: ``(k, m)`` losses that are known, in the unit box: 0 is best, and 1 is the reference point.
        candidates: ``(c, m)`` losses that are expected.
        n: at most so many rows.
        weights: ``(c,)`` by which gains are multiplied, such as probabilities of being feasible.

    Returns:
        Rows with a positive gain, best first.
    """
    weights = np.ones(len(candidates)) if weights is None else weights
    if not len(candidates):
        return []
    return (
        _greedy_2(front, candidates, n, weights) if front.shape[1] == 2 else _lazy_greedy(front, candidates, n, weights)
    )


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


def _greedy_2(front: FloatMatrix, candidates: FloatMatrix, n: int, weights: FloatVector) -> list[int]:
    chosen: list[int] = []
    left = np.flatnonzero(gains_2(front, candidates) * weights > 0)
    while len(chosen) < n and len(left):
        gains = gains_2(front, candidates[left]) * weights[left]
        left, gains = left[gains > 0], gains[gains > 0]  # a gain never grows
        if len(left):
            best = int(left[np.argmax(gains)])
            chosen.append(best)
            front = np.concatenate([front, candidates[[best]]])
            left = left[left != best]
    return chosen


def _lazy_greedy(front: FloatMatrix, candidates: FloatMatrix, n: int, weights: FloatVector) -> list[int]:
    """The same for any number of objectives; gains only shrink, so that most need not be computed again.

    Minoux (1978): the candidate whose gain, computed anew, is still the largest of all old ones is the best.
    """
    one = np.ones(front.shape[1])
    # A candidate is never chosen before one that is better in everything, and in its weight as well.
    weighed = np.column_stack([candidates, -weights])
    bounds = np.column_stack([front, np.full(len(front), -weights.max())])
    rows = np.flatnonzero(non_dominated(np.concatenate([weighed, bounds]))[: len(candidates)])
    if len(rows) > MOST_SHORTLISTED:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_SHORTLISTED).round().astype(int)]
    known = hypervolume(front, one)

    def gain(row: int) -> float:
        return float(weights[row]) * (hypervolume(np.concatenate([front, candidates[[row]]]), one) - known)

    queue = [(-gain(row), 0, row) for row in rows.tolist()]
    heapq.heapify(queue)
    chosen: list[int] = []
    while queue and len(chosen) < n:
        negative, size, row = heapq.heappop(queue)
        if negative >= 0:
            break
        if size == len(chosen):
            chosen.append(row)
            front = np.concatenate([front, candidates[[row]]])
            known = hypervolume(front, one)
        else:
            heapq.heappush(queue, (-gain(row), len(chosen), row))
    return chosen
