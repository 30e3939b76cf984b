"""The recipes by the allocation method that proposed them: what became of each, and what was not tried."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evo_mpq.results.report.formatting import format_count
from evo_mpq.results.report.points import Axis, Points, points

UNIFORM = "uniform"
"""The method whose recipes are known by what they are, and labelled in the plot."""

_WORDS = {"dominated": "dominated", "tied": "tied", "not": "not beaten"}


@dataclass(frozen=True)
class Method:
    """The measured recipes of one allocation method.

    Attributes:
        name: of the method.
        marks: positions of its recipes among the marks, in the order of measuring.
        labelled: their names stand beside their marks.
        counts: kind (of a verdict, ``"infeasible"`` or ``"open"``), how many, and both to read; those that occur.
    """

    name: str
    marks: list[int]
    labelled: bool
    counts: list[tuple[str, int, str]]


@dataclass(frozen=True)
class Unmeasured:
    """The methods that a run could have begun with, and did not.

    Attributes:
        methods: name, as the settings and the command take it, and what it does, of each.
        setting: by which a run begins with the measured methods and the first of these.
        command: that has the first of these choose one policy.
    """

    methods: list[tuple[str, str]]
    setting: str
    command: str


@dataclass(frozen=True)
class Allocations:
    """Single choices that were made beside the run.

    Attributes:
        names: method and budget of each.
        ids: by which each can be exported.
        member: position of the member that it is; None if it is none.
        points: their values.
    """

    names: list[str]
    ids: list[str]
    member: list[int | None]
    points: Points


def method_of(name: str) -> str:
    """The method that a recipe is of: its name up to the last space.

    >>> [method_of(name) for name in ("uniform W4A8", "my_nets:Sums 3", "mine")]
    ['uniform', 'my_nets:Sums', 'mine']
    """
    return name.rpartition(" ")[0] or name


def methods(front: Mapping[str, Any]) -> list[Method]:
    """The recipes of a front by their methods, in the order in which these were measured first."""
    grouped: dict[str, list[int]] = {}
    for place, seed in enumerate(front["seeds"]):
        grouped.setdefault(method_of(str(seed["name"])), []).append(place)
    return [
        Method(
            name,
            [1 + place for place in places],  # the uncompressed network is the first mark
            name == UNIFORM,
            _counts([front["seeds"][place] for place in places]),
        )
        for name, places in grouped.items()
    ]


def unmeasured(front: Mapping[str, Any], meta: Mapping[str, Any]) -> Unmeasured | None:
    """The methods of which nothing was measured, and how to have that; None if all were, or nobody asked which are.

    Args:
        front: the document of ``front.json``.
        meta: with ``directory``, and perhaps ``methods``: the name of each that there is to what it does.
    """
    measured = [method.name for method in methods(front)]
    missing = [(str(name), str(about)) for name, about in meta.get("methods", {}).items() if name not in measured]
    if not missing:
        return None
    first = missing[0][0]
    words = ["evo-mpq", "allocate", "SPACE", "--method", first, "--budget", "size<=…", "--out", str(meta["directory"])]
    return Unmeasured(
        missing,
        f"search: {{fitness: {{seeds: [{', '.join([*measured, first])}]}}}}",
        shlex.join(words),
    )


def allocations(
    front: Mapping[str, Any], documents: Sequence[Mapping[str, Any]], axes: Sequence[Axis]
) -> Allocations | None:
    """The choices in the run directory's ``allocations``; None without any.

    Args:
        front: the document of ``front.json``.
        documents: see `evo_mpq.allocating.allocate`.
        axes: whose values are told.
    """
    if not documents:
        return None
    ids = [member["id"] for member in front["members"]]
    return Allocations(
        [f"{document['method']} {document['budget']}" for document in documents],
        [str(document["id"]) for document in documents],
        [ids.index(document["id"]) if document["id"] in ids else None for document in documents],
        points(documents, axes, {}, finished=True),
    )


def _counts(seeds: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    kinds = [seed["verdict"] or ("open" if seed["feasible"] else "infeasible") for seed in seeds]
    words = {**_WORDS, "infeasible": "infeasible", "open": "without a verdict"}
    return [
        (kind, kinds.count(kind), f"{format_count(kinds.count(kind))} {text}")
        for kind, text in words.items()
        if kind in kinds
    ]
