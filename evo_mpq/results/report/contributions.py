"""Which choices matter: what each step of each gene contributes to the loss, and which of them a point has taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evo_mpq.measure.statistics import Z_95
from evo_mpq.results.report.formatting import (
    MISSING,
    format_cell,
    format_count,
    format_seconds,
    format_value,
    has_prefix,
    middle_out,
    prefixed,
)
from evo_mpq.results.report.layers import LONGEST_LABEL, Step, step_of
from evo_mpq.results.report.points import number

_ABOUT = {"weight_bits": "weights", "activation_bits": "activations", "prune_ratio": "channels", "drop": "block"}


@dataclass(frozen=True)
class Segment:
    """The part of a gene's bar that is one of its steps.

    Attributes:
        option: position of the value that the step leads to; members that stand there or below have taken it.
        label: from which value to which, to read.
        start: where its part begins.
        end: where it ends; left of the start for a step that lowers the loss.
        text: its contribution with interval, to read.
    """

    option: int
    label: str
    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Bar:
    """What one gene contributes.

    Attributes:
        gene: its position in the genome.
        name: of the gene.
        label: the layer, shortened, and what of it is decided where genes are of several kinds.
        shared: the layers that it decides about, where these are several.
        values: its values, cheapest first, with the colors of the heatmap; None for a block that is left out.
        segments: from the most expensive value down; steps that raise the loss lie one after the other right of zero,
            those that lower it left of it.
        total: of all its steps.
        low: lower end of the total's 95 % interval; None where it is unknown.
        high: upper end.
        text: the total with its interval, to read.
    """

    gene: int
    name: str
    label: str
    shared: list[str]
    values: list[Step | None]
    segments: list[Segment]
    total: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class Matters:
    """What the section shows.

    Attributes:
        bars: of all genes, largest total first.
        title: of the axis, with the unit of the values as they are drawn.
        unit: of the texts, where these leave it out.
        divisor: what values are divided by where they are drawn.
        caption: what is shown and how it was found.
        options: ``(n_members, n_genes)`` positions of the members' values; None for a gene that decides nothing,
            because its layers are left out.
        sentences: of each member, what it has taken on by the contributions, beside what was measured.
    """

    bars: list[Bar]
    title: str
    unit: str
    divisor: float
    caption: str
    options: list[list[int | None]]
    sentences: list[str]


def contributions(
    front: Mapping[str, Any], document: Mapping[str, Any] | None, inactive: Sequence[Sequence[str]]
) -> Matters | None:
    """What matters, to draw; None where it was not asked, or of other genes than the front's.

    Args:
        front: the document of ``front.json``.
        document: of ``contributions.json``, see `evo_mpq.contributing.contribute`.
        inactive: of each member, the names of the genes that decide nothing.
    """
    if document is None or [gene["name"] for gene in document["genes"]] != [gene["name"] for gene in front["genes"]]:
        return None
    name, unit = str(document["objective"]["name"]), str(document["objective"]["unit"])
    objective = next((o for o in front["objectives"] if o["name"] == name), {"direction": "minimize"})
    falls = objective["direction"] == "maximize"
    several = len({gene["kind"] for gene in document["genes"]}) > 1
    bars = [
        _bar(place, gene, values["values"], unit, several=several)
        for place, (gene, values) in enumerate(zip(document["genes"], front["genes"], strict=True))
    ]
    divisor, drawn_unit = prefixed(max((abs(bar.total) for bar in bars), default=0.0), unit)
    options = [
        [None if gene["name"] in idle else int(place) for gene, place in zip(front["genes"], genome, strict=True)]
        for genome, idle in ((m["genome"], set(names)) for m, names in zip(front["members"], inactive, strict=True))
    ]
    return Matters(
        sorted(bars, key=lambda bar: -bar.total),
        f"{'fall' if falls else 'rise'} of {name}{f' ({drawn_unit})' if drawn_unit else ''}",
        "" if has_prefix(unit) else unit,
        divisor,
        _caption(document, name, unit, falls=falls),
        options,
        [
            _sentence(_taken(bars, row), number(member["search"].get(name)), document, name, unit, falls=falls)
            for member, row in zip(front["members"], options, strict=True)
        ],
    )


def _bar(place: int, gene: Mapping[str, Any], values: Sequence[Any], unit: str, *, several: bool) -> Bar:
    """A gene's steps, laid one after the other."""
    steps = [step_of(gene["kind"], value) for value in values]
    names = ["out" if step is None else step.label for step in steps]
    segments: list[Segment] = []
    right = left = 0.0
    for position, step in enumerate(gene["steps"]):
        option = len(values) - 2 - position
        loss = number(step["loss"])
        start = left if loss is not None and loss < 0 else right
        end = start + (loss or 0.0)
        right, left = max(right, end), min(left, end)
        told = _with_interval(loss, number(step["error"]), unit)
        segments.append(Segment(option, f"{names[option + 1]} → {names[option]}", start, end, told))
    total, error = right + left, number(gene["total_error"])
    layer = str(gene["name"]).removesuffix(f".{gene['kind']}")
    about = f" {_ABOUT.get(gene['kind'], gene['kind'])}" if several else ""
    return Bar(
        place,
        str(gene["name"]),
        middle_out(layer, LONGEST_LABEL) + about,
        [str(name) for name in gene["layers"]] if len(gene["layers"]) > 1 else [],
        steps,
        segments,
        total,
        None if error is None else total - Z_95 * error,
        None if error is None else total + Z_95 * error,
        _with_interval(total, error, unit),
    )


def _taken(bars: Sequence[Bar], options: Sequence[int | None]) -> float:
    """What a genome's steps contribute together; inactive genes contribute nothing."""
    return sum(
        segment.end - segment.start
        for bar, option in zip(bars, options, strict=True)
        for segment in bar.segments
        if option is not None and segment.option >= option
    )


def _caption(document: Mapping[str, Any], name: str, unit: str, *, falls: bool) -> str:
    sign = -1.0 if falls else 1.0
    top, bottom = number(document["top"]), number(document["bottom"])
    ends = [MISSING if end is None else format_value(sign * end, unit) for end in (top, bottom)]
    text = (
        f"How much each choice {'lowers' if falls else 'raises'} {name} on its way from the most expensive option to "
        "the cheapest, averaged over the orders in which all steps can be taken (Shapley contributions). Together they "
        f"lead from {ends[0]} to {ends[1]}. Estimated by {document['estimator']} from "
        f"{format_count(document['measurements'])} measurements in {format_seconds(document['cpu_seconds'])} of CPU "
        "time; whiskers are 95 % intervals of the totals."
    )
    gap = number(document["efficiency_gap"])
    if gap and top is not None and bottom is not None and gap > 0.01 * abs(bottom - top):
        text += f" The bars miss {format_value(gap, unit)} of that way, because walks were cut short."
    return text


def _sentence(
    taken: float, measured: float | None, document: Mapping[str, Any], name: str, unit: str, *, falls: bool
) -> str:
    """What a member has taken on by the sum of its steps, and what its measured value says of it."""
    top, bottom = number(document["top"]), number(document["bottom"])
    if top is None or bottom is None:
        return ""
    sign, way = -1.0 if falls else 1.0, bottom - top
    share = f", {_share(taken / way)} of the whole way" if way > 0 else ""
    text = (
        f"By these contributions it has taken on {format_value(taken, unit)}{share}: "
        f"{name} would be {format_value(sign * (top + taken), unit)}."
    )
    if measured is None:
        return text
    real = sign * measured - top
    share = f" ({_share(real / way)})" if way > 0 else ""
    return f"{text} Measured: {format_value(measured, unit)}{share}."


def _with_interval(value: float | None, error: float | None, unit: str) -> str:
    if value is None:
        return "not known"
    text = format_cell(value, unit)
    return text if error is None else f"{text} ± {format_cell(Z_95 * error, unit)}"


def _share(part: float) -> str:
    """A part of the way; noise may make it negative, and no more of it is known than per cents."""
    if 0 < part < 0.01:
        return "under 1 %"
    return f"{100 * part:.0f} %".replace("-0 %", "0 %").replace("-", "−")
