"""How well a search predicted what it measured, batch by batch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_mpq.optimize.pareto import LOG_FLOOR
from evo_mpq.optimize.surrogate_search.rounds import kendall_tau
from evo_mpq.results.report.formatting import format_count, format_value, prefixed
from evo_mpq.results.report.points import log_ticks, number
from evo_mpq.typing import FloatVector

LEAST_TAU = 0.3
"""Rank correlation below which NSGA-II chooses the next batch; that of `evo_mpq.optimize.surrogate_search.search`."""

LATEST = 20
"""Predictions that this rank correlation is taken over; likewise."""

_NEVER_REPLACED = ("shapley",)
"""What predicts one front, which is measured as it is."""


@dataclass(frozen=True)
class Batch:
    """Candidates that were chosen together.

    Attributes:
        before: genomes that were known when it was chosen.
        after: genomes that were known when it was measured.
        size: how many candidates.
        proposer: ``"surrogate"`` or ``"nsga2"``.
    """

    before: int
    after: int
    size: int
    proposer: str


@dataclass(frozen=True)
class Agreement:
    """Predicted against measured in one objective; candidates that lack one of them, as failed ones do, are left out.

    Attributes:
        name: of the objective.
        title: of its axes, without the word that tells them apart.
        log: on a logarithmic scale.
        ticks: of that scale, as in `evo_mpq.results.report.points.Axis`.
        predicted: of each candidate, in the unit of the title.
        measured: likewise.
        texts: both, to read.
        batch: position of each candidate's batch.
        member: position of each among the members of the front; None where it is none, or cannot be told.
        taus: Kendall's tau of each batch; None for fewer than two candidates, or where all are equal.
        latest: over the latest predictions, that batch included; None where these are too few. Empty where a surrogate
            is not judged by this objective.
        sentence: over all batches, in words.
        batches: batch by batch, in words.
    """

    name: str
    title: str
    log: bool
    ticks: list[tuple[float, str, bool]]
    predicted: list[float]
    measured: list[float]
    texts: list[tuple[str, str]]
    batch: list[int]
    member: list[int | None]
    taus: list[float | None]
    latest: list[float | None]
    sentence: str
    batches: str


@dataclass(frozen=True)
class Predictions:
    """What the section shows.

    Attributes:
        least: rank correlation below which NSGA-II chooses the next batch; None where it never does.
        latest: predictions that it is taken over.
        batches: in the order of measuring.
        objectives: the measured ones.
        chosen: who chose the batches, and why, in words.
    """

    least: float | None
    latest: int
    batches: list[Batch]
    objectives: list[Agreement]
    chosen: str


def predictions(
    document: Mapping[str, Any] | None, front: Mapping[str, Any], candidates: Mapping[str, Any]
) -> Predictions | None:
    """How well the search predicted, to draw; None where it predicted nothing.

    Args:
        document: of ``predictions.json``, see `evo_mpq.searching.explained`.
        front: the document of ``front.json``.
        candidates: everything that was measured, see `evo_mpq.results.report.page.report_data`.
    """
    rounds = [each for each in document["rounds"] if each["predicted"]] if document else []
    if document is None or not rounds:
        return None
    batches = [
        Batch(
            each["measured_before"],
            each["measured_before"] + len(each["predicted"]),
            len(each["predicted"]),
            each["proposer"],
        )
        for each in rounds
    ]
    replaced = document["surrogate"] not in _NEVER_REPLACED
    members = _members(document["objectives"], rounds, front, candidates)
    agreements = [
        _agreement(objective, column, rounds, batches, members, judged=replaced and not column)
        for column, objective in enumerate(document["objectives"])
    ]
    known = [agreement for agreement in agreements if agreement.predicted]
    if not known:
        return None
    chosen = _chosen(batches, agreements[0].latest) if replaced else ""
    return Predictions(LEAST_TAU if replaced else None, LATEST, batches, known, chosen)


def mistake_in(document: object) -> str | None:
    """What keeps the content of a ``predictions.json`` from being read; None if nothing does.

    >>> mistake_in({"objectives": [], "rounds": {}, "spent": []})
    'rounds is no list'
    """
    if not isinstance(document, dict):
        return "it is no object"
    for name in ("objectives", "rounds", "spent"):
        if not isinstance(document.get(name), list):
            return f"{name} is no list"
    width = len(document["objectives"])
    try:
        for objective in document["objectives"]:
            _ = str(objective["name"]), str(objective["unit"]), str(objective["scale"])
        for place, each in enumerate(document["rounds"]):
            _ = int(each["measured_before"]), str(each["proposer"])
            rows = [*each["predicted"], *each["measured"]]
            if len(each["predicted"]) != len(each["measured"]) or any(len(row) != width for row in rows):
                return f"rounds[{place}] does not have as many predicted as measured values of every objective"
        for each in document["spent"]:
            _ = str(each["purpose"]), float(each["measurements"]), each["hypervolume"]
        _ = document["surrogate"]
    except KeyError as error:
        return f"{error} is missing"
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def _members(
    objectives: Sequence[Mapping[str, Any]],
    rounds: Sequence[Mapping[str, Any]],
    front: Mapping[str, Any],
    candidates: Mapping[str, Any],
) -> list[list[int | None]]:
    """Positions among the front's members, per batch and candidate, told by values that only one genome has."""
    names = [str(objective["name"]) for objective in objectives]
    if not all(name in candidates["search"] for name in names):
        return [[None] * len(each["measured"]) for each in rounds]
    places = {tuple(member["genome"]): place for place, member in enumerate(front["members"])}
    keys = [_key(row) for row in zip(*(candidates["search"][name] for name in names), strict=True)]
    counts = Counter(keys)
    known = {
        key: places.get(tuple(genome))
        for key, genome in zip(keys, candidates["genomes"], strict=True)
        if counts[key] == 1
    }
    return [[known.get(_key(row)) for row in each["measured"]] for each in rounds]


def _key(values: Sequence[Any]) -> tuple[str, ...]:
    """Values without the digits that going to a logarithm and back may change."""
    return tuple("" if number(value) is None else f"{value:.10g}" for value in values)


def _agreement(
    objective: Mapping[str, Any],
    column: int,
    rounds: Sequence[Mapping[str, Any]],
    batches: Sequence[Batch],
    members: Sequence[Sequence[int | None]],
    *,
    judged: bool,
) -> Agreement:
    name, unit, log = str(objective["name"]), str(objective["unit"]), objective["scale"] == "log10"
    floor = LOG_FLOOR if log else -math.inf
    predicted, measured = (
        [np.array([number(row[column]) for row in each[key]], dtype=np.float64) for each in rounds]
        for key in ("predicted", "measured")
    )
    pairs = [
        (max(float(expected), floor), max(float(found), floor), place, members[place][row])
        for place, (some, others) in enumerate(zip(predicted, measured, strict=True))
        for row, (expected, found) in enumerate(zip(some, others, strict=True))
        if math.isfinite(expected) and math.isfinite(found)
    ]
    values = [value for pair in pairs for value in pair[:2]]
    divisor, drawn_unit = prefixed(max(map(abs, values), default=0.0), unit)
    taus = [_tau(some, others) for some, others in zip(predicted, measured, strict=True)]
    return Agreement(
        name,
        f"{name} ({drawn_unit})" if drawn_unit else name,
        log,
        log_ticks(min(values) / divisor, max(values) / divisor) if log and values else [],
        [pair[0] / divisor for pair in pairs],
        [pair[1] / divisor for pair in pairs],
        [(format_value(pair[0], unit), format_value(pair[1], unit)) for pair in pairs],
        [pair[2] for pair in pairs],
        [pair[3] for pair in pairs],
        taus,
        [_latest(predicted[: n + 1], measured[: n + 1]) for n in range(len(rounds))] if judged else [],
        _sentence(name, unit, np.array([pair[:2] for pair in pairs]).reshape(-1, 2), log=log),
        _batch_by_batch(batches, taus),
    )


def _tau(predicted: FloatVector, measured: FloatVector) -> float | None:
    tau = kendall_tau(predicted, measured)
    return round(tau, 6) if math.isfinite(tau) else None


def _latest(predicted: Sequence[FloatVector], measured: Sequence[FloatVector]) -> float | None:
    """What the search goes by; see `evo_mpq.optimize.surrogate_search.rounds.recent_tau`."""
    some, others = np.concatenate(predicted), np.concatenate(measured)
    return None if len(some) < LATEST // 2 else _tau(some[-LATEST:], others[-LATEST:])


def _sentence(name: str, unit: str, pairs: FloatVector, *, log: bool) -> str:
    """How alike predictions order what was measured, and how far off they are."""
    tau = _tau(pairs[:, 0], pairs[:, 1])
    if tau is None:
        return ""
    if log:
        off = f"a factor of {10 ** np.median(np.abs(np.log10(pairs[:, 1] / pairs[:, 0]))):.2f}"
    else:
        off = format_value(float(np.median(np.abs(pairs[:, 1] - pairs[:, 0]))), unit)
    return (
        f"Before it measured a candidate, the search had predicted its {name}. Over {format_count(len(pairs))} "
        f"predictions, predicted and measured order the candidates alike with Kendall’s τ = {_written(tau)}; half of "
        f"the measured values lie within {off} of the prediction."
    )


def _batch_by_batch(batches: Sequence[Batch], taus: Sequence[float | None]) -> str:
    """The median over batches."""
    known = [tau for tau in taus if tau is not None]
    if not known:
        return "No batch has two candidates to be ordered."
    low, high = min(batch.size for batch in batches), max(batch.size for batch in batches)
    sizes = f"{low}" if low == high else f"{low} to {high}"
    return (
        f"Median over {format_count(len(batches))} {'batch' if len(batches) == 1 else 'batches'} of {sizes}: "
        f"τ = {_written(float(np.median(known)))}."
    )


def _chosen(batches: Sequence[Batch], latest: Sequence[float | None]) -> str:
    """Who chose the batches, and how far that was because of the rank correlation."""
    replaced = [place for place, batch in enumerate(batches) if batch.proposer == "nsga2"]
    rule = f"Below {LEAST_TAU:g} over the latest {LATEST} predictions, NSGA-II would choose the next batch"
    if not replaced:
        lowest = min((tau for tau in latest if tau is not None), default=None)
        seen = "" if lowest is None else f"; the lowest was {_written(lowest)}"
        return f"{rule}{seen}. The surrogate chose all of them."
    first = replaced[0]
    reason = latest[first - 1] if first else None
    why = (
        f"τ over the latest {LATEST} predictions had fallen to {_written(reason)}"
        if reason is not None and reason < LEAST_TAU
        else "the surrogate had nothing to propose"
    )
    before = [latest[place - 1] for place in replaced if place]
    distrusted = sum(tau is not None and tau < LEAST_TAU for tau in before)
    return (
        f"NSGA-II chose {len(replaced)} of {len(batches)} batches, the first after "
        f"{format_count(batches[first].before)} measurements, when {why}; below {LEAST_TAU:g} it takes over"
        f"{_of_them(distrusted, len(replaced))}."
    )


def _of_them(distrusted: int, replaced: int) -> str:
    return "" if distrusted in (0, replaced) else f", as it did for {distrusted} of them"


def _written(tau: float) -> str:
    return f"{tau:.2f}".replace("-0.00", "0.00").replace("-", "−")
