"""The way from the uncompressed network to a point: in words, and in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evo_mpq.results.report.formatting import format_percent, format_value
from evo_mpq.results.report.layers import UNTOUCHED_BITS

MOST_BLOCKS = 4
"""Blocks that are named; the others are counted."""

_SAVED_BY = {
    "drop": "blocks left out",
    "prune_ratio": "channels removed",
    "weight_bits": "weight bits",
    "activation_bits": "activation bits",
}


@dataclass(frozen=True)
class SizePart:
    """A part of the uncompressed network's bytes.

    Attributes:
        key: the kind of choice that saves it, or ``"left"`` for what remains.
        label: to read.
        text: the bytes; with a sign, unless they remain.
        share: of the bar, in [0, 1]; 0 for a kind that adds bytes.
    """

    key: str
    label: str
    text: str
    share: float


def chosen_kinds(front: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The kinds of choices that the space has: those of its genes, and those that it makes for all members alike."""
    searched = {str(gene["name"]).rpartition(".")[2] for gene in front["genes"]} & _SAVED_BY.keys()
    fixed = {kind for kind in ("weight_bits", "activation_bits") if any(_quantized(p[kind]) for p in points)}
    fixed |= {"prune_ratio" for point in points if point["removed_channels"]}
    return frozenset(searched | fixed)


def path_sentence(point: Mapping[str, Any], kinds: frozenset[str]) -> str:
    """What is done to the uncompressed network, in the order from coarse to fine.

    Args:
        point: of a member, see `evo_mpq.results.report.report_data`.
        kinds: that the space has, see `chosen_kinds`; nothing is said of others.

    >>> point = {"blocks": ["stage1.1"], "removed_channels": 0.375, "weight_bits": 2.64, "activation_bits": 8.0}
    >>> path_sentence(point, frozenset(["drop", "prune_ratio", "weight_bits", "activation_bits"]))
    'Block stage1.1 left out, 37.5 % of prunable channels removed, 2.6 bits per weight on average, activations 8 bits.'
    """
    told = {
        "drop": _blocks(point["blocks"]),
        "prune_ratio": _channels(point["removed_channels"]),
        "weight_bits": _weights(point["weight_bits"]),
        "activation_bits": _activations(point["activation_bits"]),
    }
    text = ", ".join(words for kind, words in told.items() if kind in kinds and words)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def size_parts(point: Mapping[str, Any], kinds: frozenset[str]) -> list[SizePart]:
    """What became of the uncompressed network's bytes: those that each kind of choice saves, and those that remain.

    Args:
        point: of a member, with ``n_bytes`` and ``savings``.
        kinds: that the space has; others save nothing and are not listed.
    """
    saved = {kind: int(n) for kind, n in point["savings"].items() if kind in kinds or n}
    whole = point["n_bytes"] + sum(max(0, n) for n in saved.values())
    parts = [SizePart(kind, _SAVED_BY[kind], _signed(-n), max(0, n) / whole) for kind, n in saved.items()]
    return [*parts, SizePart("left", "remain", format_value(point["n_bytes"], "B"), point["n_bytes"] / whole)]


def _quantized(bits: float | None) -> bool:
    return bits is not None and bits < UNTOUCHED_BITS


def _blocks(names: Sequence[str]) -> str:
    if not names:
        return "all blocks kept"
    if len(names) == 1:
        return f"block {names[0]} left out"
    shown = [*names[:MOST_BLOCKS], f"{len(names) - MOST_BLOCKS} more"] if len(names) > MOST_BLOCKS + 1 else names
    return f"blocks {', '.join(shown[:-1])} and {shown[-1]} left out"


def _channels(removed: float | None) -> str:
    if removed is None:  # the layers that have some are left out
        return ""
    return f"{format_percent(removed)} of prunable channels removed" if removed > 0 else "no channel removed"


def _weights(bits: float | None) -> str:
    if bits is None:
        return ""
    return f"{_bits(bits)} per weight on average" if _quantized(bits) else "float weights"


def _activations(bits: float | None) -> str:
    if bits is None:
        return ""
    return f"activations {_bits(bits)}" if _quantized(bits) else "float activations"


def _bits(bits: float) -> str:
    return f"{bits:.0f} bits" if bits == round(bits) else f"{bits:.1f} bits"


def _signed(n_bytes: int) -> str:
    sign = "+" if n_bytes > 0 else "−" if n_bytes < 0 else ""
    return f"{sign}{format_value(abs(n_bytes), 'B')}"
