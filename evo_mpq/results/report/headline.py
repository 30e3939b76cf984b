"""The first thing a reader sees: what was gained, how sure that is, and what it cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from evo_mpq.results.report.formatting import (
    format_cell,
    format_count,
    format_interval,
    format_power,
    format_ratio,
    format_seconds,
    format_value,
)
from evo_mpq.results.report.points import leading_objective, number

Document: TypeAlias = Mapping[str, Any]

MOST_FAILURES = 20
"""Different messages of failed candidates that are listed."""


@dataclass(frozen=True)
class Figure:
    """One large number.

    Attributes:
        value: to read.
        unit: of the value, empty where it says everything.
        label: what it is.
        detail: what it is compared with.
    """

    value: str
    unit: str
    label: str
    detail: str


@dataclass(frozen=True)
class Status:
    """Something about the whole run that changes how its numbers are read.

    Attributes:
        kind: ``"good"`` or ``"warning"``.
        title: one or two words.
        text: a sentence, empty where the title says it all.
    """

    kind: Literal["good", "warning"]
    title: str
    text: str


def knee_position(front: Document, meta: Document) -> int | None:
    """Position of the knee among the members: ``front["knee"]``, else ``meta["knee"]``; None without one."""
    wanted = front.get("knee") or meta.get("knee")
    ids = [member["id"] for member in front["members"]]
    return ids.index(wanted) if wanted in ids else None


def figures(front: Document, meta: Document) -> list[Figure]:
    """The large numbers: the knee against the uncompressed network, the size of the front, the cost.

    A minimized objective with a positive value is a factor ("12.3× smaller"), everything else is the value.
    """
    knee = knee_position(front, meta)
    shown: list[Figure] = []
    if knee is not None:
        member = front["members"][knee]
        objectives = sorted(front["objectives"], key=lambda o: o is leading_objective(front))[:4]
        shown += [_objective_figure(front, member, objective) for objective in objectives]
        shown += _metric_figures(front, member)[:1]
    return [*shown, _count_figure(front, meta), _cost_figure(front)]


def subtitle(meta: Document) -> str:
    """What was compressed.

    >>> subtitle({"network": "mine", "layers": [{"kind": "linear", "n_parameters": 1500}]})
    'The measured front of mine: 1 layer, 1,500 parameters'
    """
    layers = [layer for layer in meta["layers"] if layer["kind"] != "product"]
    parameters = format_count(sum(layer["n_parameters"] for layer in layers))
    counted = "1 layer" if len(layers) == 1 else f"{format_count(len(layers))} layers"
    return f"The measured front of {meta['network']}: {counted}, {parameters} parameters"


def gain(objective: Document, value: float | None, reference: float | None) -> str | None:
    """By what factor a minimized value is below the uncompressed network's, in words; None where it is not.

    >>> gain({"name": "size", "direction": "minimize"}, 38_000, 472_000)
    '12.4× smaller'
    """
    if objective["direction"] != "minimize" or value is None or reference is None or not 0 < value < reference:
        return None
    word = "smaller" if objective["name"] == "size" else f"lower {_label(objective)}"
    return f"{format_ratio(reference / value)} {word}"


def gains(front: Document, member: Document) -> list[str]:
    """Every objective in which a member beats the uncompressed network, in words."""
    found = [
        gain(
            objective,
            number(member["search"].get(objective["name"])),
            number(front["reference"]["search"].get(objective["name"])),
        )
        for objective in front["objectives"]
    ]
    return [text for text in found if text is not None]


def statuses(front: Document) -> list[Status]:
    """Whether the run is finished, and whether its front follows from its settings alone."""
    if front["finished"]:
        shown = [Status("good", "Finished", "")]
    else:
        shown = [
            Status(
                "warning",
                "Unfinished",
                f"{_measured(front)} so far; the search goes on when the same command is run again. "
                "Until it ends, values on the test split are not shown.",
            )
        ]
    if not front["reproducible"]:
        shown.append(
            Status(
                "warning",
                "Not reproducible",
                "When this run was resumed, a library of another version asked for other candidates than "
                "before. Every number is measured, but the settings alone do not lead to this front.",
            )
        )
    return shown


def cost_sentence(front: Document, meta: Document) -> str:
    """What the search cost, in the three currencies that rank methods differently."""
    cost = front["cost"]
    text = (
        f"{_measured(front)}, in {format_seconds(cost['cpu_seconds'])} of CPU time and "
        f"{format_count(cost['sample_forwards'])} sample-forwards."
    )
    shown = meta.get("test_shown")
    if shown is None:
        return text
    if not shown:
        return f"{text} The test split has not been shown yet."
    networks = "1 network" if shown == 1 else f"{format_count(shown)} networks"
    return f"{text} The test split was shown to {networks}, once each, and decided nothing."


def failure_lines(candidates: Document) -> list[str]:
    """Messages of failed candidates with how often each occurred, the most frequent first."""
    messages = Counter(str(message) for _, message in candidates["failures"])
    lines = [
        f"{message} ({format_count(times)} candidates)" if times > 1 else message
        for message, times in messages.most_common(MOST_FAILURES)
    ]
    left = len(messages) - len(lines)
    return [*lines, f"and {format_count(left)} other messages"] if left > 0 else lines


def emptiness(front: Document, candidates: Document) -> str:
    """Why there is no front; empty if there is one."""
    if front["members"]:
        return ""
    measured, failed = len(candidates["genomes"]), len(candidates["failures"])
    if not measured:
        return "Nothing was measured yet, so there is no front. Run the same command again to go on."
    if failed >= measured:
        return (
            f"There is no front: all {format_count(measured)} candidates failed. "
            "The messages stand under “About this run”."
        )
    failures = f" ({format_count(failed)} of them failed)" if failed else ""
    return (
        f"There is no front: of {format_count(measured)} measured candidates{failures} none meets the "
        "constraints. Loosen a constraint, allow more bits, or measure more candidates."
    )


def verdict_sentence(front: Document) -> str:
    """What became of the seeds, counted."""
    seeds = front["seeds"]
    if not seeds:
        return "No recipe was measured beside the search."
    feasible = sum(bool(seed["feasible"]) for seed in seeds)
    text = f"{format_count(len(seeds))} recipes were measured beside the search"
    if feasible < len(seeds):
        text += f", {format_count(feasible) if feasible else 'none'} of them within the constraints"
    verdicts = [seed["verdict"] for seed in seeds if seed["verdict"] is not None]
    if front["finished"] and not verdicts:
        return f"{text}."
    if not verdicts:
        return f"{text}. Whether the front beats them on the test split is shown when the run has finished."
    parts = [
        f"{verdicts.count(key)} {words}"
        for key, words in (("dominated", "dominated"), ("tied", "tied"), ("not", "not beaten"))
        if key in verdicts
    ]
    return f"{text}. On the test split: {', '.join(parts)}."


def _label(objective: Document) -> str:
    return f"{objective['name']} (modelled)" if objective.get("kind") == "modelled" else str(objective["name"])


def _objective_figure(front: Document, member: Document, objective: Document) -> Figure:
    name, unit = objective["name"], objective["unit"]
    value = number(member["search"].get(name))
    reference = number(front["reference"]["search"].get(name))
    text = gain(objective, value, reference)
    if text is not None:
        factor, word = text.split(" ", 1)
        detail = f"{format_value(value, unit)} of {format_value(reference, unit)}"
        return Figure(factor, "", f"{word} at the knee", detail)
    test = member["test"].get(name, {})
    if number(test.get("value")) is not None:
        interval = format_interval(number(test["low"]), number(test["high"]), unit)
        detail = f"test {format_cell(test['value'], unit)} {interval}".rstrip()
    else:
        detail = f"uncompressed {format_value(reference, unit)}"
    text, _, unit = format_value(value, unit).partition(" ")
    return Figure(text, unit, f"{_label(objective)} at the knee", detail)


def _metric_figures(front: Document, member: Document) -> list[Figure]:
    """What is reported on the test split without being an objective."""
    objectives = {o["name"] for o in front["objectives"]}
    shown = []
    for name, entry in member["test"].items():
        if name in objectives or number(entry["value"]) is None:
            continue
        reference = front["reference"]["test"].get(name, {})
        shown.append(
            Figure(
                format_value(entry["value"], ""),
                "",
                f"{name} at the knee, test",
                f"uncompressed {format_value(number(reference.get('value')), '')}",
            )
        )
    return shown


def _count_figure(front: Document, meta: Document) -> Figure:
    members = len(front["members"])
    log10 = meta.get("log10_genomes")
    if log10 is None:
        log10 = sum(math.log10(len(gene["values"])) for gene in front["genes"])
    return Figure(
        format_count(members),
        "",
        "point on the front" if members == 1 else "points on the front",
        f"{format_count(front['measurements'])} measured of {format_power(log10)} possible",
    )


def _cost_figure(front: Document) -> Figure:
    cost = front["cost"]
    seconds, _, unit = format_seconds(cost["cpu_seconds"]).partition(" ")
    return Figure(
        seconds,
        unit,
        "of CPU time",
        f"{format_count(cost['sample_forwards'])} sample-forwards",
    )


def _measured(front: Document) -> str:
    n = front["measurements"]
    return "1 candidate was measured" if n == 1 else f"{format_count(n)} candidates were measured"
