"""The axes of the parallel coordinates that show a front of more than two objectives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evo_mpq.results.report.formatting import format_cell
from evo_mpq.results.report.points import Axis, Points

_MOST_TICKS = 6


@dataclass(frozen=True)
class ParallelAxis:
    """A vertical axis whose better end is up.

    Attributes:
        key: of the plot axis that it shows.
        label: to read.
        heights: of every member on the axis, 0 at its worse end and 1 at its better one; None without value.
        ticks: heights and texts of its marks.
    """

    key: str
    label: str
    heights: list[float | None]
    ticks: list[tuple[float, str]]


def parallel_axes(axes: Sequence[Axis], members: Points) -> list[ParallelAxis]:
    """One axis per objective; none with fewer than three objectives, where the front itself shows everything."""
    objectives = [axis for axis in axes if axis.split == "search" and axis.direction]
    if len(objectives) < 3:
        return []
    return [_parallel_axis(axis, members) for axis in objectives]


def nice_ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers between two ends: 1, 2 and 5 times powers of ten, at most six of them.

    On a logarithmic axis within one decade, the ticks of a linear one.

    >>> nice_ticks(0.0, 1.0, log=False)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> nice_ticks(3.0, 400.0, log=True)
    [5.0, 10.0, 20.0, 50.0, 100.0, 200.0]
    """
    if not high > low:
        return [low]
    if log:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1.0, 2.0, 5.0), (1.0,)):
            ticks = [float(f"{factor}e{e}") for e in exponents for factor in factors]
            ticks = [tick for tick in ticks if low <= tick <= high]
            if 1 < len(ticks) <= _MOST_TICKS:
                return ticks
        if len(ticks) > _MOST_TICKS:  # a span of very many decades: every second one, every third, ...
            return ticks[:: math.ceil(len(ticks) / _MOST_TICKS)]
        # within a decade a logarithm is nearly a line
    step = 10.0 ** math.floor(math.log10((high - low) / _MOST_TICKS))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if (high - low) / s < _MOST_TICKS)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def _parallel_axis(axis: Axis, members: Points) -> ParallelAxis:
    log = axis.log and axis.floor is not None

    def scaled(value: float) -> float:
        return math.log10(max(value, axis.floor)) if log and axis.floor is not None else value

    values = members.values[axis.key]
    known = [value for value in values if value is not None]
    if not known:
        return ParallelAxis(axis.key, axis.heading, [None] * len(values), [])
    low, high = min(map(scaled, known)), max(map(scaled, known))

    def height(value: float) -> float:
        place = (scaled(value) - low) / (high - low) if high > low else 0.5
        return 1.0 - place if axis.direction == "minimize" else place

    ends = (10**low, 10**high) if log else (low, high)
    return ParallelAxis(
        axis.key,
        axis.heading,
        [None if value is None else height(value) for value in values],
        [(height(tick), format_cell(tick, axis.unit)) for tick in nice_ticks(*ends, log=log)],
    )
