"""Bits of every layer on every member of the front: the heatmap, and the layers it stands over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evo_mpq.results.report.formatting import format_count, middle_out

LONGEST_LABEL = 28
"""Characters of a layer's name beside a plot; the whole name is shown on hovering."""

_DECISIONS = {"weight_bits": "Weight bits", "activation_bits": "Activation bits"}
UNTOUCHED_BITS = 32


@dataclass(frozen=True)
class LayerRow:
    """A layer as the tables show it.

    Attributes:
        name: in the user's network.
        label: the name, shortened.
        kind: such as ``conv2d``.
        shape: of the weight.
        parameters: how many it has.
        macs: operations per sample.
        share: of the network's parameters, in [0, 1].
    """

    name: str
    label: str
    kind: str
    shape: str
    parameters: str
    macs: str
    share: float


@dataclass(frozen=True)
class BitsTable:
    """One kind of decision for every member and layer.

    Attributes:
        key: of a layer's policy.
        label: to read.
        steps: the values that occur, ascending.
        rows: ``(n_members, n_layers)`` values, members as in the front, layers in the order of the network.
    """

    key: str
    label: str
    steps: list[int]
    rows: list[list[int]]


def layer_rows(layers: Sequence[Mapping[str, Any]]) -> list[LayerRow]:
    """The layers of the network, in its order.

    Args:
        layers: each with ``name, kind, shape, n_parameters, macs``.
    """
    total = sum(layer["n_parameters"] for layer in layers)
    return [
        LayerRow(
            str(layer["name"]),
            middle_out(str(layer["name"]), LONGEST_LABEL),
            str(layer["kind"]),
            "×".join(str(size) for size in layer["shape"]),
            format_count(layer["n_parameters"]),
            format_count(layer["macs"]),
            layer["n_parameters"] / total if total else 0.0,
        )
        for layer in layers
    ]


def bits_tables(front: Mapping[str, Any], layer_names: Sequence[str]) -> list[BitsTable]:
    """The bits of weights, and those of activations if any member quantizes some.

    A layer that a policy does not name is untouched.
    """
    tables = []
    for key, label in _DECISIONS.items():
        rows = [
            [int(member["policy"]["layers"].get(name, {}).get(key, UNTOUCHED_BITS)) for name in layer_names]
            for member in front["members"]
        ]
        steps = sorted({bits for row in rows for bits in row})
        if key == "weight_bits" or steps not in ([], [UNTOUCHED_BITS]):
            tables.append(BitsTable(key, label, steps, rows))
    return tables


def row_axis(front: Mapping[str, Any]) -> str:
    """Key of the axis whose values label the heatmap's rows: an exact objective, such as the size, else the first."""
    objectives = front["objectives"]
    chosen = next((o for o in objectives if o["kind"] == "exact"), objectives[0])
    return f"search:{chosen['name']}"
