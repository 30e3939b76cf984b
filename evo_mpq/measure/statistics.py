"""How sure a mean over samples is, when samples come in groups: standard errors, intervals, verdicts.

Samples that share a group (crops of one image, windows of one file) are not independent, so the errors are
those of the groups' sums (cluster-robust: Liang and Zeger 1986, with the G / (G - 1) factor for few groups).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from evo_mpq.typing import FloatVector

Z_95 = 1.96
"""Standard errors on each side of an estimate that hold 95 % of a normal distribution."""

Groups: TypeAlias = npt.NDArray[Any] | None
"""``(n,)`` a label per sample, equal within a group; None: every sample is a group of its own."""

Verdict: TypeAlias = Literal["dominated", "tied", "not"]
"""What held-out samples say of a seed that a member of the front dominates on the search samples."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval, None where it is unknown.
        high: upper end of the interval, None where it is unknown.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @staticmethod
    def around(value: float, standard_error: float) -> Interval:
        """``value`` ± 1.96 standard errors; without ends where the standard error is unknown (NaN)."""
        if not (math.isfinite(value) and math.isfinite(standard_error)):
            return Interval(value)
        return Interval(value, value - Z_95 * standard_error, value + Z_95 * standard_error)


def standard_error(values: FloatVector, groups: Groups = None) -> float:
    """Standard error of the mean of ``values``, clustered by ``groups``.

    With residuals ``r`` from the mean, ``G`` groups and ``n`` samples it is
    ``sqrt(G / (G - 1) * sum_g (sum_{i in g} r_i)^2) / n``; with groups of one sample this is the usual
    ``s / sqrt(n)``.

    Args:
        values: ``(n,)`` one value per sample.
        groups: ``(n,)`` labels, or None.

    Returns:
        The standard error; NaN for fewer than two groups or infinite values, where nothing can be said.

    Raises:
        ValueError: ``values`` is not a vector, or ``groups`` has another length.

    >>> standard_error(np.array([1.0, 3.0]))
    1.0
    """
    values = _vector(values)
    if not len(values) or not np.all(np.isfinite(values)):
        return math.nan
    sums = _group_sums(values - np.mean(values), groups)
    n_groups = len(sums)
    if n_groups < 2:
        return math.nan
    return float(np.sqrt(n_groups / (n_groups - 1) * np.sum(sums**2)) / len(values))


def interval(values: FloatVector, groups: Groups = None) -> Interval:
    """The mean of per-sample values ± 1.96 clustered standard errors.

    Args:
        values: ``(n,)`` one value per sample, n >= 1.
        groups: ``(n,)`` labels, or None.

    Raises:
        ValueError: no values, or lengths that differ.
    """
    values = _vector(values)
    if len(values) == 0:
        raise ValueError("the mean of no values has no interval")
    return Interval.around(float(np.mean(values)), standard_error(values, groups))


def paired_interval(first: FloatVector, second: FloatVector, groups: Groups = None) -> Interval:
    """The mean of ``first - second``, sample by sample, ± 1.96 clustered standard errors.

    Two candidates are measured on the same samples, and easy samples are easy for both: the difference is
    known far better than either mean.

    Raises:
        ValueError: no values, or lengths that differ.
    """
    first, second = _vector(first), _vector(second)
    if len(first) != len(second):
        raise ValueError(f"paired values must be of the same samples, got {len(first)} and {len(second)}")
    return interval(first - second, groups)


def verdict(
    seed: FloatVector,
    member: FloatVector,
    groups: Groups = None,
    *,
    direction: Literal["minimize", "maximize"] = "minimize",
) -> Verdict:
    """Whether held-out samples confirm that a member of the front is better than a seed.

    Args:
        seed: ``(n,)`` the seed's values per sample, in one objective.
        member: ``(n,)`` the values of the member that dominates it on the search samples.
        groups: ``(n,)`` labels, or None.
        direction: what is better in that objective.

    Returns:
        ``"dominated"``: the seed is worse, the paired 95 % interval excludes zero. ``"tied"``: the interval
        covers zero, or cannot be computed (fewer than two groups). ``"not"``: the seed is better.

    Raises:
        ValueError: lengths that differ, or a value that is NaN (what failed has no verdict).
    """
    if np.isnan(seed).any() or np.isnan(member).any():
        raise ValueError("a candidate that failed on held-out samples (NaN) has no verdict")
    # inf - inf is NaN: the interval is then unknown, which is a tie
    with np.errstate(invalid="ignore"):
        worse = (
            paired_interval(seed, member, groups) if direction == "minimize" else paired_interval(member, seed, groups)
        )
    if worse.low is None or worse.high is None or worse.low <= 0 <= worse.high:
        return "tied"
    return "dominated" if worse.low > 0 else "not"


def _vector(values: FloatVector) -> FloatVector:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"expected one value per sample, got an array of shape {values.shape}")
    return values


def _group_sums(values: FloatVector, groups: Groups) -> FloatVector:
    """``(n_groups,)`` sum of the values of each group."""
    if groups is None:
        return values
    groups = np.asarray(groups)
    if groups.shape != values.shape:
        raise ValueError(f"expected a group label for each of {len(values)} samples, got {groups.shape}")
    _, group = np.unique(groups, return_inverse=True)
    return np.bincount(group, weights=values).astype(np.float64, copy=False)
