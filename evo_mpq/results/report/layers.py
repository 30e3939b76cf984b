"""What every member of the front does to every layer: the heatmap, and the layers it stands over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evo_mpq.results.report.formatting import MISSING, format_count, format_percent, middle_out
from evo_mpq.results.report.points import number

LONGEST_LABEL = 28
"""Characters of a layer's name beside a plot; the whole name is shown on hovering."""

UNTOUCHED_BITS = 32
"""Float, in policies."""

_LABELS = {"weight_bits": "Weight bits", "activation_bits": "Activation bits", "prune_ratio": "Channels"}
_LACKING = {"weight_bits": "product", "activation_bits": "embedding"}
"""Kind of layers that have no such bits: products have no weight, and embeddings read indices."""


@dataclass(frozen=True)
class LayerRow:
    """A layer, or a product inside attention, as the tables show it.

    Attributes:
        name: in the user's network.
        label: the name, shortened.
        kind: such as ``conv2d``.
        shape: of the weight.
        parameters: how many it has.
        macs: operations per sample.
        share: of the network's parameters, in [0, 1].
        block: that can be left out and that it lies in; empty if there is none.
    """

    name: str
    label: str
    kind: str
    shape: str
    parameters: str
    macs: str
    share: float
    block: str


@dataclass(frozen=True)
class Step:
    """A value that a decision about a layer may have.

    Attributes:
        label: the value to read, short.
        legend: the value to read beside its color.
        level: of its color, from 0 for the cheapest to 1 for the most expensive, the same in every report; None for
            what is left as it is.
        height: of its bar.
    """

    label: str
    legend: str
    level: float | None
    height: float


@dataclass(frozen=True)
class LayerTable:
    """One kind of decision for every member and every layer that it is about.

    Attributes:
        key: of a layer's policy.
        label: to read.
        columns: positions of the layers, in the order of the network.
        steps: the values that occur, ascending from cheap to expensive bits, and from all channels to few.
        rows: ``(n_members, n_columns)`` positions in ``steps``, members as in the front; None where a layer is left
            out.
        texts: ``(n_members, n_columns)`` what each cell says, where that is more than the label of its step.
        top: upper end of the axis of the bars.
        ticks: on that axis.
        suffix: of the ticks.
    """

    key: str
    label: str
    columns: list[int]
    steps: list[Step]
    rows: list[list[int | None]]
    texts: list[list[str]]
    top: float
    ticks: list[float]
    suffix: str = ""


@dataclass(frozen=True)
class RowOrder:
    """How the members stand in the heatmap.

    Attributes:
        axis: key of the axis whose values label the rows.
        members: positions of the members, from top to bottom.
        caption: says so.
    """

    axis: str
    members: list[int]
    caption: str


def layer_rows(layers: Sequence[Mapping[str, Any]]) -> list[LayerRow]:
    """The layers of the network, in its order.

    Args:
        layers: each with ``name, kind, shape, n_parameters, macs``, and perhaps ``block``.
    """
    total = sum(layer["n_parameters"] for layer in layers)
    return [
        LayerRow(
            str(layer["name"]),
            middle_out(str(layer["name"]), LONGEST_LABEL),
            str(layer["kind"]),
            "×".join(str(size) for size in layer["shape"]),
            MISSING if layer["kind"] == "product" else format_count(layer["n_parameters"]),
            format_count(layer["macs"]),
            layer["n_parameters"] / total if total else 0.0,
            str(layer.get("block") or ""),
        )
        for layer in layers
    ]


def layer_tables(
    front: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]
) -> list[LayerTable]:
    """The bits of weights, those of activations if any member quantizes some, and channels if some may be removed.

    A layer that a policy does not name is untouched.

    Args:
        front: the document of ``front.json``.
        layers: as for `layer_rows`, perhaps with ``prunable``.
        points: of every member, see `evo_mpq.results.report.report_data`.
    """
    tables = [_bits_table(key, front, layers, points) for key in _LACKING]
    shown = [table for table in tables if table.key == "weight_bits" or any(s.level is not None for s in table.steps)]
    columns = [place for place, layer in enumerate(layers) if layer.get("prunable")]
    return [*shown, _channels_table(columns, front, layers, points)] if columns else shown


def parameter_rows(
    layers: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]
) -> list[list[tuple[str, float]]]:
    """``(n_members, n_layers)`` weights that remain, to read, and as a share of the uncompressed network's."""
    total = sum(layer["n_parameters"] for layer in layers) or 1
    return [[_parameters(layer, point["parameters"], total) for layer in layers] for point in points]


def step_of(kind: str, value: Any) -> Step | None:
    """A value of a gene of some kind, in the colors of the tables; None for a block that is left out.

    >>> step_of("weight_bits", 4), step_of("drop", True)
    (Step(label='4', legend='4 bits', level=0.3333333333333333, height=4.0), None)
    """
    if kind == "drop":
        return None if value else Step("kept", "block kept", 1.0, 1.0)
    return _channels_step(float(value)) if kind == "prune_ratio" else _bits_step(int(value))


def row_order(front: Mapping[str, Any]) -> RowOrder:
    """The members by an exact objective, such as the size, largest first; without one by the first, best first."""
    objectives = front["objectives"]
    exact = next((o for o in objectives if o["kind"] == "exact"), None)
    chosen = exact or objectives[0]
    values = [number(member["search"].get(chosen["name"])) for member in front["members"]]
    signed = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    largest_first = exact is not None or chosen["direction"] == "maximize"
    order = np.argsort(-signed if largest_first else signed, kind="stable")
    return RowOrder(
        f"search:{chosen['name']}",
        order.tolist(),
        f"Members from top to bottom by {chosen['name']}, {'largest' if exact else 'best'} first; "
        "layers from input to output. The bars are the selected member.",
    )


def _bits_table(
    key: str,
    front: Mapping[str, Any],
    layers: Sequence[Mapping[str, Any]],
    points: Sequence[Mapping[str, Any]],
) -> LayerTable:
    columns = [place for place, layer in enumerate(layers) if layer["kind"] != _LACKING[key]]
    values = _values(key, UNTOUCHED_BITS, columns, front, layers, points)
    bits = sorted({value for row in values for value in row if value is not None})
    steps = [_bits_step(int(value)) for value in bits]
    top = 10.5 if UNTOUCHED_BITS in bits else 8.6
    return LayerTable(key, _LABELS[key], columns, steps, _places(values, bits), [], top, [2.0, 4.0, 6.0, 8.0])


def _channels_table(
    columns: list[int],
    front: Mapping[str, Any],
    layers: Sequence[Mapping[str, Any]],
    points: Sequence[Mapping[str, Any]],
) -> LayerTable:
    key = "prune_ratio"
    values = _values(key, 0.0, columns, front, layers, points)
    ratios = sorted({value for row in values for value in row if value is not None})
    names = [layers[place]["name"] for place in columns]
    texts = [["/".join(map(str, point["channels"].get(name, ()))) for name in names] for point in points]
    steps = [_channels_step(ratio) for ratio in ratios]
    return LayerTable(key, _LABELS[key], columns, steps, _places(values, ratios), texts, 105.0, [50.0, 100.0], " %")


def _values(
    key: str,
    untouched: float,
    columns: Sequence[int],
    front: Mapping[str, Any],
    layers: Sequence[Mapping[str, Any]],
    points: Sequence[Mapping[str, Any]],
) -> list[list[float | None]]:
    """What the policies say about some layers; None where a member leaves the layer out."""
    names = [layers[place]["name"] for place in columns]
    return [
        [
            member["policy"]["layers"].get(name, {}).get(key, untouched) if name in point["parameters"] else None
            for name in names
        ]
        for member, point in zip(front["members"], points, strict=True)
    ]


def _places(values: Sequence[Sequence[float | None]], steps: Sequence[float]) -> list[list[int | None]]:
    return [[None if value is None else steps.index(value) for value in row] for row in values]


def _bits_step(bits: int) -> Step:
    if bits >= UNTOUCHED_BITS:
        return Step("float", "untouched (float)", None, 10.0)
    return Step(str(bits), f"{bits} bits", (bits - 2) / 6, float(bits))


def _channels_step(ratio: float) -> Step:
    removed = format_percent(ratio)
    return Step(removed, f"{removed} removed" if ratio else "all channels", 1 - ratio, 100 * (1 - ratio))


def _parameters(layer: Mapping[str, Any], left: Mapping[str, int], total: int) -> tuple[str, float]:
    if layer["kind"] == "product" or layer["name"] not in left:
        return MISSING, 0.0
    return format_count(left[layer["name"]]), left[layer["name"]] / total
