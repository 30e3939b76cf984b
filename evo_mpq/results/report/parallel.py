"""The axes of the parallel coordinates that show a front of more than two objectives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evo_mpq.results.report.formatting import format_cell
from evo_mpq.results.report.points import Axis, Points
from evo_mpq.results.report.ticks import nice_ticks


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
