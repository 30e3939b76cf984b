"""What the plots draw: axes, members of the front, everything else that was measured, and the marks among it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from evo_mpq.optimize.pareto import LOG_FLOOR, non_dominated
from evo_mpq.results.report.formatting import (
    MISSING,
    format_cell,
    format_count,
    format_interval,
    format_tick,
    format_value,
    heading,
    prefixed,
)
from evo_mpq.results.report.ticks import decade_ticks, is_decade
from evo_mpq.typing import FloatMatrix

Split: TypeAlias = Literal["search", "test", "order"]
Direction: TypeAlias = Literal["minimize", "maximize", ""]
Column: TypeAlias = list[float | None]

WIDE = 10.0
"""From this ratio of largest to smallest on, a minimized axis starts out logarithmic: an uncompressed network
that is many times larger than the front would otherwise squeeze it into a corner."""

MOST_DRAWN = 5000
"""Candidates beside the front that are drawn; more make a browser slow and add nothing to see."""

NOT_SHOWN = "not shown yet"
"""What stands where a value on the test split is still to come."""

_GRID = (360, 240)
"""Cells of a plot that hold one drawn candidate each where there are too many; about two pixels wide."""


@dataclass(frozen=True)
class Axis:
    """Something that points can be placed by.

    Attributes:
        key: ``"search:<name>"``, ``"test:<name>"`` or ``"order"``.
        name: of the objective or metric.
        split: where its values come from.
        label: how it is called in the report; says *modelled* where it is.
        heading: the label, with the unit where texts leave that out.
        unit: of its values.
        divisor: what values are divided by where they are drawn, to have the unit in ``title``.
        title: of the axis.
        direction: what is better; empty where nothing is.
        log: starts out logarithmic.
        floor: on a logarithmic scale, values below are drawn here; None: it has no logarithmic scale.
        below: the value, to read, below which some values are drawn at the floor; empty if none are.
        ticks: of the logarithmic scale, 1, 2 and 5 times powers of ten: where they are drawn, what they read, and
            whether they are powers of ten, which stay where there is no room for all.
        known: some network has a value; there is none on the test split until a run has finished.
    """

    key: str
    name: str
    split: Split
    label: str
    heading: str
    unit: str
    divisor: float
    title: str
    direction: Direction
    log: bool
    floor: float | None
    below: str
    ticks: list[tuple[float, str, bool]]
    known: bool


@dataclass(frozen=True)
class Points:
    """Values of some networks on every axis.

    Attributes:
        values: per axis, one number a network; None where it has none.
        low: lower ends of the intervals, of axes on the test split only.
        high: upper ends.
        texts: per axis, the value to read; the unit is in the axis's heading unless the text has it.
        intervals: the interval to read, of axes on the test split only.
    """

    values: dict[str, Column]
    low: dict[str, Column]
    high: dict[str, Column]
    texts: dict[str, list[str]]
    intervals: dict[str, list[str]]


@dataclass(frozen=True)
class Cloud:
    """The measured candidates that are not on the front.

    Attributes:
        values: per axis of the search split and of the order, one number a candidate.
        texts: the same to read.
        feasible: whether each meets the constraints.
        member: position of the member that dominates each and is best in the leading objective, or None.
        measured: how many there are; only the ``values`` of some are kept where these are many.
    """

    values: dict[str, Column]
    texts: dict[str, list[str]]
    feasible: list[bool]
    member: list[int | None]
    measured: int


@dataclass(frozen=True)
class Marks:
    """Networks with a name: the uncompressed one, then the seeds.

    Attributes:
        names: of each.
        labels: the names as they stand beside the marks: ``W4A8`` for ``uniform W4A8``.
        reference: whether it is the uncompressed network.
        feasible: whether it meets the constraints.
        member: position of the member that it is, or that dominates it; None where there is none.
        points: their values.
    """

    names: list[str]
    labels: list[str]
    reference: list[bool]
    feasible: list[bool]
    member: list[int | None]
    points: Points


def number(value: object) -> float | None:
    """A finite number, or None: JSON has no NaN, and nothing can be drawn there."""
    if not isinstance(value, int | float | np.integer | np.floating):
        return None
    return float(value) if math.isfinite(value) else None


def leading_objective(front: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first measured objective, by which members are told apart; else the first."""
    objectives: Sequence[Mapping[str, Any]] = front["objectives"]
    return next((o for o in objectives if o["kind"] == "measured"), objectives[0])


def first_measured(candidates: Mapping[str, Any]) -> dict[tuple[int, ...], int]:
    """When each genome was measured: 1 is the first."""
    order: dict[tuple[int, ...], int] = {}
    for place, genome in enumerate(candidates["genomes"], start=1):
        order.setdefault(tuple(genome), place)
    return order


def plot_axes(front: Mapping[str, Any], candidates: Mapping[str, Any], log_scale: Iterable[str]) -> list[Axis]:
    """The axes that a reader can choose from.

    The objectives come first, then what else members have on the search split (the subjects of constraints),
    values on the test split, and the order of measuring.

    Args:
        front: the document of ``front.json``.
        candidates: everything that was measured.
        log_scale: names of objectives whose scale is logarithmic.
    """
    logarithmic = {*log_scale} | {o["name"] for o in front["objectives"] if o.get("scale") == "log10"}
    objectives = {o["name"]: o for o in front["objectives"]}
    networks = [front["reference"], *front["seeds"], *front["members"]]
    names = {"search": [*objectives], "test": list[str]()}
    for network in networks:
        names["search"] += [name for name in network["search"] if name not in names["search"]]
        names["test"] += [name for name in network["test"] if name not in names["test"]]
    axes = [
        _axis("search", name, objectives.get(name), name in logarithmic, _all_values(name, networks, candidates))
        for name in names["search"]
    ]
    axes += [
        _axis("test", name, objectives.get(name), name in logarithmic, _test_values(name, networks))
        for name in names["test"]
    ]
    order = "order of measuring"
    return [*axes, Axis("order", "order", "order", order, order, "", 1.0, order, "", False, None, "", [], True)]


def starting_axes(front: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """Keys of the axes that the front is first drawn on: across, up, and by color.

    Up is the leading objective; across, an exact one where there is one, as sizes usually are. With one
    objective it is drawn in the order of measuring. Color shows a third objective.
    """
    leading = leading_objective(front)
    others = [o for o in front["objectives"] if o is not leading]
    others.sort(key=lambda o: o["kind"] == "measured")  # stable: exact and modelled ones first
    keys = [f"search:{o['name']}" for o in others]
    across = keys[0] if keys else "order"
    return across, f"search:{leading['name']}", keys[1] if len(keys) > 1 else None


def points(
    networks: Sequence[Mapping[str, Any]],
    axes: Sequence[Axis],
    order: Mapping[tuple[int, ...], int],
    *,
    finished: bool,
) -> Points:
    """What the axes say of networks.

    Args:
        networks: each with ``search`` and ``test`` values and perhaps a ``genome``.
        axes: what is asked.
        order: when each genome was measured.
        finished: a missing value on the test split will never come.
    """
    values: dict[str, Column] = {}
    low: dict[str, Column] = {}
    high: dict[str, Column] = {}
    texts: dict[str, list[str]] = {}
    intervals: dict[str, list[str]] = {}
    for axis in axes:
        if axis.split == "order":
            places = [order.get(tuple(network.get("genome", ()))) for network in networks]
            values[axis.key] = [number(place) for place in places]
            texts[axis.key] = [MISSING if place is None else format_count(place) for place in places]
        elif axis.split == "search":
            values[axis.key] = [number(network["search"].get(axis.name)) for network in networks]
            texts[axis.key] = [format_cell(value, axis.unit) for value in values[axis.key]]
        else:
            ends = [_interval(network["test"].get(axis.name)) for network in networks]
            values[axis.key] = [value for value, _, _ in ends]
            low[axis.key] = [end for _, end, _ in ends]
            high[axis.key] = [end for _, _, end in ends]
            texts[axis.key] = [
                NOT_SHOWN if value is None and not finished else format_cell(value, axis.unit) for value, _, _ in ends
            ]
            intervals[axis.key] = [format_interval(lower, upper, axis.unit) for _, lower, upper in ends]
    return Points(values, low, high, texts, intervals)


def cloud(front: Mapping[str, Any], candidates: Mapping[str, Any], axes: Sequence[Axis]) -> Cloud:
    """The measured candidates beside the front, thinned to at most `MOST_DRAWN`.

    Candidates without any value (they failed) are not among them. Where there are too many, one stays in each
    small cell of each pair of objectives, which looks the same, and of those a random choice.
    """
    on_front = {tuple(member["genome"]) for member in front["members"]}
    shown = [axis for axis in axes if axis.split == "search" and axis.name in candidates["search"]]
    names = [axis.name for axis in shown]
    table = _matrix([candidates["search"][name] for name in names], len(candidates["genomes"]))
    beside = np.array([tuple(genome) not in on_front for genome in candidates["genomes"]], dtype=bool)
    rows = np.flatnonzero(beside & np.isfinite(table).any(axis=1))
    drawn = rows[_thinned(table[rows], shown)]
    values = {axis.key: [number(value) for value in table[drawn, column].tolist()] for column, axis in enumerate(shown)}
    texts = {axis.key: [format_cell(value, axis.unit) for value in values[axis.key]] for axis in shown}
    feasible = [bool(candidates["feasible"][row]) for row in drawn]
    objectives = [name for name in (o["name"] for o in front["objectives"]) if name in names]
    networks = [dict(zip(names, table[row].tolist(), strict=True)) for row in drawn]
    member = dominating_members(front, networks) if len(objectives) == len(front["objectives"]) else [None] * len(drawn)
    return Cloud(
        {**values, "order": [float(row + 1) for row in drawn]},
        {**texts, "order": [format_count(row + 1) for row in drawn]},
        feasible,
        [found if ok else None for found, ok in zip(member, feasible, strict=True)],
        len(rows),
    )


def marks(front: Mapping[str, Any], axes: Sequence[Axis], order: Mapping[tuple[int, ...], int]) -> Marks:
    """The uncompressed network and the seeds."""
    reference = front["reference"]
    seeds: Sequence[Mapping[str, Any]] = front["seeds"]
    names = ["uncompressed", *(str(seed["name"]) for seed in seeds)]
    return Marks(
        names,
        [name.removeprefix("uniform ") for name in names],
        [True, *(False for _ in seeds)],
        [True, *(bool(seed["feasible"]) for seed in seeds)],
        [
            None,
            *(
                found if seed["feasible"] else None
                for seed, found in zip(
                    seeds, dominating_members(front, [seed["search"] for seed in seeds]), strict=True
                )
            ),
        ],
        points([reference, *seeds], axes, order, finished=front["finished"]),
    )


def dominating_members(front: Mapping[str, Any], networks: Sequence[Mapping[str, float | None]]) -> list[int | None]:
    """For each network's search values, the member that weakly dominates it and leads in the leading objective.

    Returns:
        Positions in ``front["members"]``; None where no member dominates.
    """
    losses = _losses(front, networks)
    members = _losses(front, [member["search"] for member in front["members"]])
    lead = list(front["objectives"]).index(leading_objective(front))
    found = np.full(len(losses), -1)
    for place in np.argsort(members[:, lead], kind="stable"):  # the best in the leading objective claims first
        found[(found < 0) & np.all(members[place] <= losses, axis=1)] = place
    return [None if place < 0 else int(place) for place in found]


def projected_fronts(front: Mapping[str, Any]) -> dict[str, list[int]]:
    """For every ordered pair of objectives, the members that no other dominates in these two, left to right.

    Returns:
        ``"search:<across>|search:<up>"`` to positions in ``front["members"]``.
    """
    names = [o["name"] for o in front["objectives"]]
    losses = _losses(front, [member["search"] for member in front["members"]])
    values = {
        name: np.array([number(member["search"].get(name)) for member in front["members"]], dtype=np.float64)
        for name in names
    }
    lines: dict[str, list[int]] = {}
    for across, up in itertools.permutations(range(len(names)), 2):
        kept = np.flatnonzero(non_dominated(losses[:, [across, up]]))
        line = kept[np.argsort(values[names[across]][kept], kind="stable")]
        lines[f"search:{names[across]}|search:{names[up]}"] = line.tolist()
    return lines


def best_so_far(front: Mapping[str, Any], candidates: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """For every objective, how its best feasible value improved with measuring.

    Returns:
        Axis key to ``[places, values]``: where a new best was found, and it; the last value once more at the
        last measurement.
    """
    feasible = np.array(candidates["feasible"], dtype=bool)
    lines: dict[str, list[list[float]]] = {}
    for objective in front["objectives"]:
        if objective["name"] not in candidates["search"]:
            continue
        sign = 1.0 if objective["direction"] == "minimize" else -1.0
        losses = sign * _matrix([candidates["search"][objective["name"]]], len(feasible))[:, 0]
        losses = np.where(feasible & np.isfinite(losses), losses, np.inf)
        best = np.minimum.accumulate(losses) if len(losses) else losses
        places = np.flatnonzero(best < np.append(np.inf, best)[:-1])
        if len(places) and places[-1] != len(best) - 1:
            places = np.append(places, len(best) - 1)
        lines[f"search:{objective['name']}"] = [(places + 1.0).tolist(), (sign * best[places]).tolist()]
    return lines


def _axis(
    split: Split,
    name: str,
    objective: Mapping[str, Any] | None,
    logarithmic: bool,
    values: npt.NDArray[np.float64],
) -> Axis:
    kind = objective["kind"] if objective else ""
    label = f"{name} (modelled)" if kind == "modelled" else name
    positive = values[values > 0]
    unit = objective["unit"] if objective else ""
    floor, below = None, ""
    if len(positive) and (values >= 0).all():
        floor = max(float(positive.min()), LOG_FLOOR) if logarithmic else float(positive.min())
        if (values < floor).any():
            below = format_value(floor, unit)
            floor /= 2  # apart from everything that has its own place
    direction: Direction = objective["direction"] if objective else ""
    wide = direction == "minimize" and floor is not None and float(values.max()) >= WIDE * float(positive.min())
    label = f"{label}, test" if split == "test" else label
    divisor, drawn_unit = prefixed(float(np.abs(values).max()) if len(values) else 0.0, unit)
    return Axis(
        f"{split}:{name}",
        name,
        split,
        label,
        heading(label, unit),
        unit,
        divisor,
        f"{label} ({drawn_unit})" if drawn_unit else label,
        direction,
        floor is not None and (logarithmic or (wide and not below)),
        floor,
        below,
        [] if floor is None else log_ticks(floor / divisor, float(values.max()) / divisor),
        bool(len(values)),
    )


def log_ticks(low: float, high: float) -> list[tuple[float, str, bool]]:
    """Ticks of a logarithmic axis of points from ``low`` to ``high``, see `Axis`."""
    # plots reach a little farther than their points
    return [(tick, format_tick(tick), is_decade(tick)) for tick in decade_ticks(low / 2, high * 2)]


def _all_values(
    name: str, networks: Sequence[Mapping[str, Any]], candidates: Mapping[str, Any]
) -> npt.NDArray[np.float64]:
    """Everything finite that an axis of the search split has to hold."""
    values = [number(network["search"].get(name)) for network in networks]
    values += [number(value) for value in candidates["search"].get(name, ())]
    return np.array([value for value in values if value is not None], dtype=np.float64)


def _test_values(name: str, networks: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64]:
    values = [_interval(network["test"].get(name))[0] for network in networks]
    return np.array([value for value in values if value is not None], dtype=np.float64)


def _interval(entry: Mapping[str, Any] | None) -> tuple[float | None, float | None, float | None]:
    if entry is None:
        return None, None, None
    return number(entry["value"]), number(entry["low"]), number(entry["high"])


def _losses(front: Mapping[str, Any], networks: Sequence[Mapping[str, float | None]]) -> FloatMatrix:
    """``(n, n_objectives)``, all minimized, NaN where there is no value."""
    signs = [1.0 if o["direction"] == "minimize" else -1.0 for o in front["objectives"]]
    columns = [[network.get(o["name"]) for network in networks] for o in front["objectives"]]
    losses: FloatMatrix = _matrix(columns, len(networks)) * np.array(signs)
    return losses


def _matrix(columns: Sequence[Sequence[float | None]], n_rows: int) -> FloatMatrix:
    """``(n_rows, n_columns)``; None is NaN."""
    table = np.array([[np.nan if v is None else v for v in column] for column in columns], dtype=np.float64)
    return table.reshape(len(columns), n_rows).T


def _thinned(table: FloatMatrix, axes: Sequence[Axis]) -> npt.NDArray[np.int64]:
    """Rows of ``(n, n_axes)`` values that are drawn, ascending."""
    if len(table) <= MOST_DRAWN:
        return np.arange(len(table))
    cells = np.stack([_scaled(table[:, i], axis) for i, axis in enumerate(axes)], axis=1)
    kept: set[int] = set()
    for across, up in itertools.combinations(range(cells.shape[1]), 2):
        pair = np.floor(cells[:, [across, up]] * _GRID)
        kept.update(np.unique(pair, axis=0, return_index=True)[1].tolist())
    rows = np.array(sorted(kept) if kept else range(len(table)))
    if len(rows) > MOST_DRAWN:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_DRAWN, replace=False))
    return rows


def _scaled(values: npt.NDArray[np.float64], axis: Axis) -> npt.NDArray[np.float64]:
    """Values in [0, 1] as the axis first shows them; what is missing stands at 0."""
    if axis.log and axis.floor is not None:
        values = np.log10(np.maximum(values, axis.floor))
    if not np.isfinite(values).any():
        return np.zeros(len(values))
    span = np.nanmax(values) - np.nanmin(values)
    return np.nan_to_num((values - np.nanmin(values)) / (span if span > 0 else 1.0), nan=0.0)
