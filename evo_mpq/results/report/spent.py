"""What the measurements of a search were made for, and how far those of each purpose alone would have come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evo_mpq.results.report.formatting import format_count
from evo_mpq.results.report.points import number

MOST_LEVELS = 6
"""Lines that can be told apart in a plot."""

_SAME = 1e-3
"""Of the final hypervolume: levels as near as that are one line."""

_LABELS = {
    "surrogate": "chosen by the surrogate",
    "nsga2": "chosen by NSGA-II",
    "random": "drawn at random",
    "exhaustive": "enumerated",
}
_SEARCHED = frozenset(_LABELS)


@dataclass(frozen=True)
class Part:
    """The measurements for one purpose.

    Attributes:
        key: the purpose, as ``predictions.json`` has it.
        label: to read.
        measurements: how many; those on a part of the samples count as that part.
        text: the same to read, with their share.
        share: of all of them.
    """

    key: str
    label: str
    measurements: float
    text: str
    share: float


@dataclass(frozen=True)
class Spent:
    """Where all measurements went.

    Attributes:
        parts: in the order of measuring, first the recipes and tables.
        sentence: the same in words.
    """

    parts: list[Part]
    sentence: str


@dataclass(frozen=True)
class Level:
    """A hypervolume that some purposes reach alone.

    Attributes:
        keys: the purposes.
        label: to read, with the share of the final hypervolume.
        up: the hypervolume.
    """

    keys: list[str]
    label: str
    up: float


@dataclass(frozen=True)
class Levels:
    """What each purpose would give alone, highest first.

    Attributes:
        drawn: those with a line.
        sentence: all of them in words.
    """

    drawn: list[Level]
    sentence: str


def spent(document: Mapping[str, Any] | None) -> Spent | None:
    """Where the measurements went; None where that is not known, or they had one purpose."""
    counts: dict[str, float] = {}
    for each in document["spent"] if document else ():
        counts[each["purpose"]] = counts.get(each["purpose"], 0) + each["measurements"]
    counts = {purpose: n for purpose, n in counts.items() if n > 0}
    if len(counts) < 2:
        return None
    # a table that the search asked for itself comes before the search
    ordered = sorted(counts, key=lambda purpose: purpose in _SEARCHED)
    total = sum(counts.values())
    parts = [
        Part(
            purpose,
            _LABELS.get(purpose, purpose),
            counts[purpose],
            f"{_count(counts[purpose])} ({_percent(counts[purpose] / total)})",
            counts[purpose] / total,
        )
        for purpose in ordered
    ]
    sketched = sum(each.get("sketched", 0) for each in document["spent"]) if document else 0
    share = document.get("table_share", 1.0) if document else 1.0
    return Spent(parts, _where(parts, total) + _sketched(sketched, share))


def levels(front: Mapping[str, Any], document: Mapping[str, Any] | None) -> Levels:
    """What the measurements of each purpose alone would give; none where the hypervolume is not known."""
    final = number(front["hypervolume"]["value"])
    found = {
        str(each["purpose"]): value
        for each in (document["spent"] if document else ())
        if (value := number(each["hypervolume"])) is not None
    }
    if not final or final <= 0 or not found:
        return Levels([], "")
    merged: list[tuple[list[str], float]] = []
    for purpose, value in sorted(found.items(), key=lambda item: -item[1]):
        if merged and merged[-1][1] - value <= _SAME * final:
            merged[-1][0].append(purpose)
        else:
            merged.append(([purpose], value))
    drawn = [Level(keys, f"{', '.join(keys)} {_percent(up / final, 1)}", up) for keys, up in merged]
    told = [f"{_listed(keys)} {_percent(up / final, 1)}" for keys, up in merged]
    return Levels(
        drawn[:MOST_LEVELS],
        f"What was measured for one purpose alone would give, of the final hypervolume: {', '.join(told)}.",
    )


def _where(parts: Sequence[Part], total: float) -> str:
    before = [part for part in parts if part.key not in _SEARCHED]
    searched = [part for part in parts if part.key in _SEARCHED]
    n = sum(part.measurements for part in before)
    begun = (
        f"{_count(n)} of {_count(total)} measurements ({_percent(n / total)}) were made before the search, "
        "for recipes and tables"
    )
    chose = _listed([f"{_count(part.measurements)} were {part.label}" for part in searched])
    if not before:
        return f"Of {_count(total)} measurements, {chose}."
    return f"{begun}; {chose}." if searched else f"{begun}."


def _sketched(n: int, share: float) -> str:
    """What of it was measured on a part of the samples."""
    if not n:
        return ""
    return (
        f" For tables, {format_count(n)} candidates were measured on {_percent(share)} of the search split, and count "
        "as that part of a measurement each."
    )


def _count(n: float) -> str:
    return format_count(round(n))


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else ""


def _percent(share: float, digits: int = 0) -> str:
    """Per cents; never all of it where something lacks.

    >>> [_percent(0.4362), _percent(0.002), _percent(0.9471, 1), _percent(0.99996, 1), _percent(1.0)]
    ['44 %', 'under 1 %', '94.7 %', '99.9 %', '100 %']
    """
    step = 10.0**-digits
    if 0 < 100 * share < step:
        return f"under {step:g} %"
    return f"{100 if share >= 1 else min(100 * share, 100 - step):.{digits}f} %"
