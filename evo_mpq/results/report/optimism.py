"""How optimistic the search values of the front's members are: a search prefers the lucky ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_mpq.results.report.formatting import format_value
from evo_mpq.results.report.points import Axis, Points
from evo_mpq.typing import FloatVector


@dataclass(frozen=True)
class Optimism:
    """Search values against test values in one objective.

    Attributes:
        name: of the objective.
        search_axis: key of the axis of search values.
        test_axis: key of the axis of test values.
        ratio: median of test / search over the members; None where it says nothing (values that are not all
            positive, or an objective on a linear scale).
        difference: median of test − search over the members.
        covered: how many members' intervals cover their search values.
        intervals: how many members have an interval.
        rank_agreement: Kendall's tau-b between search and test over the members; None with fewer than three.
        sentence: all of that in words.
    """

    name: str
    search_axis: str
    test_axis: str
    ratio: float | None
    difference: float
    covered: int
    intervals: int
    rank_agreement: float | None
    sentence: str


def optimism(objectives: Sequence[Mapping[str, Any]], axes: Sequence[Axis], members: Points) -> list[Optimism]:
    """One entry per objective that has values on both splits, in the order of the objectives."""
    by_key = {axis.key: axis for axis in axes}
    found = []
    for objective in objectives:
        search, test = f"search:{objective['name']}", f"test:{objective['name']}"
        if search in by_key and test in by_key:
            entry = _optimism(by_key[search], by_key[test], members)
            if entry is not None:
                found.append(entry)
    return found


def rank_agreement(first: FloatVector, second: FloatVector) -> float | None:
    """Kendall's tau-b: 1 where two lists order the same things alike, 0 where they are unrelated.

    O(n²) memory (Kendall 1945, with its correction for ties).

    Returns:
        None with fewer than three values, or where all of one list are equal.

    >>> rank_agreement(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0]))
    0.3333333333333333
    """
    if len(first) < 3:
        return None
    upper = np.triu_indices(len(first), 1)
    signs = [np.sign(x[:, None] - x[None, :])[upper] for x in (first, second)]
    untied = [float(np.count_nonzero(s)) for s in signs]
    if not all(untied):
        return None
    return float(signs[0] @ signs[1] / np.sqrt(untied[0] * untied[1]))


def _optimism(search: Axis, test: Axis, members: Points) -> Optimism | None:
    pairs = [
        (a, b, low, high)
        for a, b, low, high in zip(
            members.values[search.key],
            members.values[test.key],
            members.low[test.key],
            members.high[test.key],
            strict=True,
        )
        if a is not None and b is not None
    ]
    if not pairs:
        return None
    before = np.array([pair[0] for pair in pairs], dtype=np.float64)
    after = np.array([pair[1] for pair in pairs], dtype=np.float64)
    known = [(a, low, high) for a, _, low, high in pairs if low is not None and high is not None]
    covered = sum(low <= a <= high for a, low, high in known)
    ratio = float(np.median(after / before)) if search.log and (before > 0).all() and (after > 0).all() else None
    difference = float(np.median(after - before))
    agreement = rank_agreement(before, after)
    return Optimism(
        search.name,
        search.key,
        test.key,
        ratio,
        difference,
        covered,
        len(known),
        agreement,
        _sentence(search, ratio, difference, covered, len(known), agreement),
    )


def _sentence(
    axis: Axis, ratio: float | None, difference: float, covered: int, intervals: int, agreement: float | None
) -> str:
    if ratio is not None:
        text = f"In the median, {axis.label} of the members on test is {ratio:.2f} times that on search."
    elif difference == 0:
        text = f"In the median, {axis.label} of the members on test equals that on search."
    else:
        way = "above" if difference > 0 else "below"
        text = (
            f"In the median, {axis.label} of the members on test is "
            f"{format_value(abs(difference), axis.unit)} {way} that on search."
        )
    if intervals:
        text += f" {covered} of {intervals} intervals cover the search value."
    if agreement is not None:
        text += f" Both splits order the members alike with Kendall’s τ = {agreement:.2f}."
    return text
