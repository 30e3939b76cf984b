"""Pareto tools: dominance, hypervolume, the frame in which a run measures it, and the knee of a front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np

from evo_mpq.typing import BoolVector, FloatMatrix, FloatVector, Losses

LOG_FLOOR = 1e-6
"""Losses below this are equal on a logarithmic scale."""

MARGIN = 0.1
"""How far the reference point lies behind the worst value, as a fraction of worst − best."""

TOLERANCE = 1e-9
"""Differences in a unit box that are rounding."""


def non_dominated(losses: Losses) -> BoolVector:
    """Which rows no other row weakly dominates; of equal rows the first stays.

    Args:
        losses: ``(n, m)`` losses, all minimized, ``m >= 1``. Rows with NaN or infinite values are never kept.

    Returns:
        ``(n,)`` truth values. Sorting based for two and three losses: O(n log n) (moocore).

    >>> non_dominated(np.array([[0.0, 2.0], [1.0, 1.0], [1.0, 1.0], [2.0, 1.0], [np.nan, 0.0]]))
    array([ True,  True, False, False, False])
    """
    losses = np.asarray(losses, dtype=np.float64)
    kept: BoolVector = np.all(np.isfinite(losses), axis=1)
    if kept.any():
        kept[kept] = moocore.is_nondominated(losses[kept], keep_weakly=False)
    return kept


def hypervolume(losses: Losses, reference_point: FloatVector) -> float:
    """Volume that at least one row dominates and that dominates the reference point.

    Args:
        losses: ``(n, m)`` losses, all minimized. Rows that are not better than the reference point in every
            loss contribute nothing, nor do rows with NaN.
        reference_point: ``(m,)``.

    >>> hypervolume(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([2.0, 2.0]))
    3.0
    """
    losses = np.asarray(losses, dtype=np.float64)
    inside = losses[np.all(losses < reference_point, axis=1)]  # comparisons with NaN are False
    return float(moocore.hypervolume(inside, ref=reference_point)) if len(inside) else 0.0


def in_scale(losses: Losses, log_scale: Sequence[bool]) -> Losses:
    """Losses on the scale on which they are compared: ``log10(max(x, 1e-6))`` where ``log_scale`` says so.

    Args:
        losses: ``(n, m)`` losses, all minimized.
        log_scale: ``m`` truth values: cross-entropy, KL and squared errors span decades.

    >>> in_scale(np.array([[0.01, 3.0], [0.0, 4.0]]), [True, False])
    array([[-2.,  3.],
           [-6.,  4.]])
    """
    scaled = np.array(losses, dtype=np.float64)
    columns = np.asarray(log_scale, dtype=bool)
    scaled[:, columns] = np.log10(np.maximum(scaled[:, columns], LOG_FLOOR))
    return scaled


@dataclass(frozen=True, eq=False)
class HypervolumeBox:
    """The fixed frame in which a run measures how far it has come.

    Attributes:
        log_scale: ``m`` truth values: which objectives are compared on a logarithmic scale.
        best: ``(m,)`` lowest values, on that scale, of the rows that the box was made of.
        reference_point: ``(m,)`` on that scale; what lies behind it in one objective counts nothing.
    """

    log_scale: tuple[bool, ...]
    best: FloatVector
    reference_point: FloatVector

    @classmethod
    def around(cls, losses: Losses, log_scale: Sequence[bool]) -> HypervolumeBox:
        """The box of the rows that are known before the search: reference, uniform ladder, tables.

        The reference point is the worst value plus 10 % of (worst − best), objective by objective, on the
        objective's scale. Where all rows agree there is no such distance; 10 % of the value itself, or 1 if
        that is zero, takes its place, so that the other objectives still span a volume.

        Args:
            losses: ``(n, m)`` losses, all minimized; rows that are not finite are left out.
            log_scale: ``m`` truth values.

        Raises:
            ValueError: no row is finite.

        >>> HypervolumeBox.around(np.array([[1.0, 100.0], [0.01, 200.0]]), [True, False]).reference_point
        array([2.0e-01, 2.1e+02])
        """
        finite = np.asarray(losses, dtype=np.float64)
        finite = in_scale(finite[np.all(np.isfinite(finite), axis=1)], log_scale)
        if not len(finite):
            raise ValueError("a hypervolume box needs at least one row of finite losses")
        best, worst = finite.min(axis=0), finite.max(axis=0)
        span = np.where(worst > best, worst - best, np.abs(worst))
        margin = MARGIN * np.where(span > 0, span, 1 / MARGIN)
        return cls(tuple(map(bool, log_scale)), best, worst + margin)

    def scaled(self, losses: Losses) -> Losses:
        """``(n, m)`` losses on the scale of the box."""
        return in_scale(losses, self.log_scale)

    def hypervolume(self, losses: Losses) -> float:
        """Hypervolume of ``(n, m)`` losses on the scale of the box, up to its reference point."""
        return hypervolume(self.scaled(losses), self.reference_point)

    def knee(self, losses: Losses) -> int:
        """Row of the knee of a front of ``(n, m)`` losses, n >= 1; see `knee`."""
        return knee(self.scaled(losses))


def knee(losses: Losses) -> int:
    """Row with the largest distance to the hyperplane through the extremes of a front (Das 1999).

    Distances count towards the ideal point; a row behind the hyperplane is a worse bargain than a mixture of
    the extremes. Which row is farthest does not depend on units, because they stretch the distances of all
    rows alike, so losses are first scaled to [0, 1]. With one objective the knee is the best row. An extreme
    of an objective is the row that is best in all the others (Deb and Jain 2014, Eq. 4); where the extremes
    span no hyperplane that faces the ideal point, the one through the unit vectors takes its place.

    Args:
        losses: ``(n, m)`` losses of a front on a linear scale, all minimized and finite, n >= 1.

    Raises:
        ValueError: no rows.

    >>> knee(np.array([[0.0, 10.0], [1.0, 2.0], [4.0, 1.0], [8.0, 0.0]]))
    1
    """
    losses = np.asarray(losses, dtype=np.float64)
    if not len(losses):
        raise ValueError("a front without rows has no knee")
    span = np.ptp(losses, axis=0)
    varying = span > 0  # an objective in which all rows agree says nothing
    unit = (losses[:, varying] - losses[:, varying].min(axis=0)) / span[varying]
    heights = unit @ _normal(unit)
    # Rows that are equally far up to rounding, such as the extremes of a concave front: the first.
    return int(np.flatnonzero(heights <= heights.min() + TOLERANCE)[0])


def _normal(unit: FloatMatrix) -> FloatVector:
    """``(m,)`` normal ``a`` of the hyperplane ``a·x = 1`` through the extremes of rows in the unit box."""
    m = unit.shape[1]
    ones = np.ones(m)
    if m < 3:
        return ones  # the extremes of two objectives are (0, 1) and (1, 0)
    others = np.stack([np.delete(unit, axis, axis=1).max(axis=1) for axis in range(m)])
    # Among rows that are equally good in the other objectives, the one that is best in this one, too.
    extremes = unit[[np.lexsort((unit[:, axis], others[axis]))[0] for axis in range(m)]]
    if np.linalg.matrix_rank(extremes, tol=TOLERANCE) < m:
        return ones
    normal = np.asarray(np.linalg.solve(extremes, ones), dtype=np.float64)
    return normal if np.all(normal > TOLERANCE) else ones
