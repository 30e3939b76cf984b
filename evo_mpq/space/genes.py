"""One decision variable of a search space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

GeneValue: TypeAlias = int | float | bool

BIT_KINDS = ("weight_bits", "activation_bits")
"""Kinds of genes whose values are numbers of bits, in the order in which a layer's genes stand."""

MOST_VALUES = 2**15
"""A gene has at most so many values, so that genomes can be stored in 16 bits a gene."""


@dataclass(frozen=True)
class Gene:
    """An ordered choice that one or several layers share.

    Attributes:
        name: ``"<layer>.<kind>"``; a gene that is shared is named after the first of its layers.
        values: what may be chosen, cheapest first; at least two, because one option is no choice.
        kind: the field of a ``LayerPolicy`` that the gene sets, e.g. ``"weight_bits"``.
        layers: the layers that get the value, in graph order.

    Raises:
        ValueError: fewer than two values or too many, repeated ones, bits that do not ascend, or no layer.

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
        if not self.layers:
            raise ValueError(f"gene {self.name!r} belongs to no layer")

    @property
    def cardinality(self) -> int:
        """Number of values."""
        return len(self.values)
