"""One decision variable of a search space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

GeneValue: TypeAlias = int | float | bool

BIT_KINDS = ("weight_bits", "activation_bits")
"""Kinds of genes whose values are numbers of bits, in the order in which a layer's genes stand."""

PRUNE_KIND = "prune_ratio"
"""Kind of genes whose values are fractions of a group's channels that are removed."""

DROP_KIND = "drop"
"""Kind of genes whose values say whether a block is left out."""

MOST_VALUES = 2**15
"""A gene has at most so many values, so that genomes can be stored in 16 bits a gene."""


@dataclass(frozen=True)
class Gene:
    """An ordered choice that one or several layers share.

    Attributes:
        name: ``"<layer>.<kind>"``; a gene that is shared is named after the first of its layers.
        values: what may be chosen, cheapest first; at least two, because one option is no choice.
        kind: the field of a ``LayerPolicy`` that the gene sets, e.g. ``"weight_bits"``; or ``"drop"``, for a block
            that may be left out, which is written into the policy's architecture.
        layers: the layers that get the value, or that lie in the block, in graph order.

    Raises:
        ValueError: fewer than two values or too many, repeated ones, values that are not ordered from cheap to
            expensive (bits ascend, ratios descend, left out before kept), or no layer.

    >>> Gene("stem.weight_bits", (2, 4, 8), "weight_bits", ("stem",)).cardinality
    3
    """

    name: str
    values: tuple[GeneValue, ...]
    kind: str
    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ValueError(f"gene {self.name!r} needs at least two values, got {self.values}")
        if len(self.values) > MOST_VALUES:
            raise ValueError(f"gene {self.name!r} has {len(self.values)} values, at most {MOST_VALUES} are possible")
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"gene {self.name!r} repeats a value: {self.values}")
        if self.kind in BIT_KINDS and list(self.values) != sorted(self.values):
            raise ValueError(f"the bits of gene {self.name!r} must ascend, got {self.values}")
        if self.kind == PRUNE_KIND and list(self.values) != sorted(self.values, reverse=True):
            raise ValueError(f"the ratios of gene {self.name!r} must descend, got {self.values}")
        if self.kind == DROP_KIND and self.values != (True, False):
            raise ValueError(f"gene {self.name!r} leaves a block out or keeps it, (True, False), got {self.values}")
        if not self.layers:
            raise ValueError(f"gene {self.name!r} belongs to no layer")

    @property
    def cardinality(self) -> int:
        """Number of values."""
        return len(self.values)


def n_kept(n_channels: int, ratio: float) -> int:
    """Channels that remain of ``n_channels`` when a fraction of them is removed: rounded, at least one.

    >>> n_kept(10, 0.25), n_kept(2, 0.99)
    (8, 1)
    """
    return max(1, n_channels - round(n_channels * ratio))
