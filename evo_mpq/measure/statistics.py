"""How sure a mean over samples is, when samples come in groups: standard errors, intervals, verdicts.

Samples that share a group (crops of one image, windows of one file) are not independent, so the errors are
those of the groups' sums (cluster-robust: Liang and Zeger 1986, with the G / (G - 1) factor for few groups).
Verdicts make no assumption about the distribution: their intervals come from resampling the groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from evo_mpq.typing import FloatMatrix, FloatVector

Z_95 = 1.96
"""Standard errors on each side of an estimate that hold 95 % of a normal distribution."""

WANTED_RELATIVE_ERROR = 0.05
"""Standard error of a KL divergence, relative to it, that tells candidates apart well enough."""

RESAMPLES = 2000
"""How often samples, or groups of them, are drawn anew for a bootstrap interval."""

FEWEST_GROUPS = 6
"""From so few groups on there are bootstrap intervals: all of ``G`` groups agree in sign, and so does whatever is drawn
from them, by chance alone with probability 2^(1 - G), which is above 5 % for fewer."""

_DRAWN_AT_ONCE = 4_000_000
"""Draws that are in memory together: 32 MB."""

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


def bootstrap_intervals(values: FloatMatrix, groups: Groups = None) -> list[Interval]:
    """Means of per-sample values with 95 % intervals from resampling the samples, or the groups where there are some.

    A percentile interval of `RESAMPLES` resamples, expanded for few groups: its lower level is
    ``Phi(sqrt(G / (G - 1)) * t)`` with the 2.5 % quantile ``t`` of Student's distribution instead of 2.5 %, because
    resampling shrinks spreads by ``sqrt((G - 1) / G)`` and is blind to its own uncertainty about them (Hesterberg 2015,
    Sec. 5.3). The draws have a fixed seed and are the same for all rows, so that they are made once. The time grows
    with the number of groups, hardly with that of rows; the memory with neither.

    Args:
        values: ``(k, n)`` one row of per-sample values for each of ``k`` means, n >= 1.
        groups: ``(n,)`` labels, or None.

    Returns:
        One interval per row, without ends for fewer than `FEWEST_GROUPS` groups and where a value is not finite.

    Raises:
        ValueError: ``values`` is no such matrix, or ``groups`` has another length.

    >>> bootstrap_intervals(np.array([[1.0, 3.0] * 50]))[0]
    Interval(value=2.0, low=1.8, high=2.2)
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"expected rows of one value per sample, got an array of shape {values.shape}")
    with np.errstate(invalid="ignore"):
        means = values.mean(axis=1).tolist()
    known = np.isfinite(values).all(axis=1)
    sizes = _group_sums(np.ones(values.shape[1]), groups)
    intervals = [Interval(mean) for mean in means]
    if len(sizes) < FEWEST_GROUPS or not known.any():
        return intervals
    sums = np.stack([_group_sums(row, groups) for row in values[known]])
    lows, highs = _percentiles(_resampled_means(sums, sizes), len(sizes))
    for row, low, high in zip(np.flatnonzero(known), lows.tolist(), highs.tolist(), strict=True):
        intervals[row] = Interval(means[row], low, high)
    return intervals


def verdict(
    seed: FloatVector,
    member: FloatVector,
    groups: Groups = None,
    *,
    direction: Literal["minimize", "maximize"] = "minimize",
) -> Verdict:
    """Whether held-out samples confirm that a member of the front is better than a seed; see `verdicts`.

    Args:
        seed: ``(n,)`` the seed's values per sample, in one objective.
        member: ``(n,)`` the values of the member that dominates it on the search samples.
        groups: ``(n,)`` labels, or None.
        direction: what is better in that objective.
    """
    return verdicts(_vector(seed)[None], _vector(member)[None], groups, direction=direction)[0]


def verdicts(
    seeds: FloatMatrix,
    members: FloatMatrix,
    groups: Groups = None,
    *,
    direction: Literal["minimize", "maximize"] = "minimize",
) -> list[Verdict]:
    """Whether held-out samples confirm that members of the front are better than seeds.

    By the paired bootstrap: the interval is that of the mean difference, sample by sample, because easy samples are
    easy for both.

    Args:
        seeds: ``(k, n)`` values of ``k`` seeds per sample, in one objective.
        members: ``(k, n)`` values of the members that dominate them on the search samples.
        groups: ``(n,)`` labels, or None.
        direction: what is better in that objective.

    Returns:
        ``"dominated"``: the seed is worse, the paired 95 % interval excludes zero. ``"tied"``: the interval
        covers zero, or cannot be computed (fewer than `FEWEST_GROUPS` groups). ``"not"``: the seed is better.

    Raises:
        ValueError: shapes that differ, or a value that is NaN (what failed has no verdict).
    """
    seeds, members = np.asarray(seeds, dtype=np.float64), np.asarray(members, dtype=np.float64)
    if seeds.shape != members.shape:
        raise ValueError(f"paired values must be of the same samples, got shapes {seeds.shape} and {members.shape}")
    if np.isnan(seeds).any() or np.isnan(members).any():
        raise ValueError("a candidate that failed on held-out samples (NaN) has no verdict")
    # inf - inf is NaN: the interval is then unknown, which is a tie
    with np.errstate(invalid="ignore"):
        excess = seeds - members if direction == "minimize" else members - seeds
    return [_judged(worse) for worse in bootstrap_intervals(excess, groups)]


def _judged(worse: Interval) -> Verdict:
    """The verdict on a seed that is worse by so much."""
    if worse.low is None or worse.high is None or worse.low <= 0 <= worse.high:
        return "tied"
    return "dominated" if worse.low > 0 else "not"


def _resampled_means(sums: FloatMatrix, sizes: FloatVector) -> FloatMatrix:
    """``(RESAMPLES, k)`` means of samples whose groups were drawn anew.

    Args:
        sums: ``(k, n_groups)`` sums of the values in each group.
        sizes: ``(n_groups,)`` samples in each group.
    """
    rng = np.random.default_rng(0)
    n_groups = len(sizes)
    at_once = max(1, _DRAWN_AT_ONCE // n_groups)
    parts = []
    for first in range(0, RESAMPLES, at_once):
        n = min(at_once, RESAMPLES - first)
        # (n, n_groups) how often each group was drawn; a resample has cells of its own
        cells = rng.integers(n_groups, size=(n, n_groups)) + n_groups * np.arange(n)[:, None]
        times = np.bincount(cells.ravel(), minlength=n * n_groups).reshape(n, n_groups).astype(np.float64)
        parts.append(times @ sums.T / (times @ sizes)[:, None])
    return np.concatenate(parts)


def _percentiles(means: FloatMatrix, n_groups: int) -> tuple[FloatVector, FloatVector]:
    """Both ends of the expanded percentile interval of each column; values that occur, so that it mirrors exactly."""
    from scipy.special import ndtr, stdtrit  # SciPy takes a moment to import

    level = ndtr(math.sqrt(n_groups / (n_groups - 1)) * stdtrit(n_groups - 1, 0.025))
    low = max(0, int(level * (len(means) + 1)) - 1)
    ordered = np.partition(means, [low, len(means) - 1 - low], axis=0)
    return ordered[low], ordered[len(means) - 1 - low]


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
