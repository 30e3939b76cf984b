"""How the dominated hypervolume grew while the search measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evo_mpq.results.report.points import number


@dataclass(frozen=True)
class HypervolumeCurve:
    """A curve.

    Attributes:
        across: how far the search was.
        up: the hypervolume by then.
        across_label: what ``across`` counts.
    """

    across: list[float]
    up: list[float]
    across_label: str


def hypervolume_curve(front: Mapping[str, Any]) -> HypervolumeCurve:
    """The curve of a front's ``hypervolume``.

    ``per_generation`` holds values, with as many numbers of measured genomes in ``measurements``, or pairs of
    both; without numbers of measurements the curve is drawn over generations.
    """
    document = front["hypervolume"]
    entries = document["per_generation"]
    measured = document.get("measurements") or []
    if entries and not isinstance(entries[0], int | float):
        pairs, label = [(float(m), number(v)) for m, v in entries], "candidates measured"
    elif len(measured) == len(entries):
        pairs = [(float(m), number(v)) for m, v in zip(measured, entries, strict=True)]
        label = "candidates measured"
    else:
        pairs = [(float(place), number(v)) for place, v in enumerate(entries, start=1)]
        label = "generations"
    known = [(across, up) for across, up in pairs if up is not None]
    return HypervolumeCurve([across for across, _ in known], [up for _, up in known], label)
