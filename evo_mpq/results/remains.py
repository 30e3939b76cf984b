"""What a point leaves of the network, in numbers that can be told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from evo_mpq.space.genes import DROP_KIND, PRUNE_KIND
from evo_mpq.space.search_space import SearchSpace

if TYPE_CHECKING:
    from evo_mpq.measure.candidate import Candidate, CandidateLayer
    from evo_mpq.network.layers import Layer

Kept: TypeAlias = tuple[int, int]
"""Output channels of a layer that remain, and all that it has."""


@dataclass(frozen=True)
class Remains:
    """What is left of the network.

    Attributes:
        blocks: that are left out.
        parameters: of every layer that is computed, the weights that remain; products inside attention have none.
        channels: of every layer that is computed and may lose output channels, how many remain, and of how many.
        weight_bits: mean over the weights that remain; None if there is none.
        activation_bits: mean over the layers, and products inside attention, that are computed and read an
            activation, each counted once; None if there is none.
    """

    blocks: tuple[str, ...]
    parameters: Mapping[str, int] = field(hash=False)
    channels: Mapping[str, Kept] = field(hash=False)
    weight_bits: float | None
    activation_bits: float | None

    @property
    def removed_channels(self) -> float | None:
        """Removed fraction of the output channels of all layers in ``channels``; None if there are none."""
        n_channels = sum(n for _, n in self.channels.values())
        return 1 - sum(kept for kept, _ in self.channels.values()) / n_channels if n_channels else None


def remains(candidate: Candidate, layers: Sequence[Layer], prunable: Collection[str]) -> Remains:
    """What a candidate leaves of its network.

    Args:
        candidate: of the point.
        layers: of the network, before anything is removed.
        prunable: names of those whose output channels the space may remove.
    """
    before = {layer.name: layer for layer in layers}
    weighted = [layer for layer in candidate.layers if layer.n_parameters]
    reading = [layer.activation_bits for layer in candidate.layers if layer.kind != "embedding"]
    n_weights = sum(layer.n_parameters for layer in weighted)
    return Remains(
        tuple(
            name.removesuffix(f".{DROP_KIND}") for name, left_out in candidate.policy.architecture.items() if left_out
        ),
        {layer.name: layer.n_parameters for layer in candidate.layers},
        {layer.name: _kept(layer, before[layer.name]) for layer in candidate.layers if layer.name in prunable},
        sum(layer.n_parameters * layer.weight_bits for layer in weighted) / n_weights if n_weights else None,
        sum(reading) / len(reading) if reading else None,
    )


def prunable_layers(space: SearchSpace) -> frozenset[str]:
    """Names of the layers whose output channels a space may remove, or removes from all candidates."""
    chosen = {name for gene in space.genes if gene.kind == PRUNE_KIND for name in gene.layers}
    return frozenset(chosen | {name for name, policy in space.fixed.items() if policy.prune_ratio > 0})


def inactive_genes(space: SearchSpace, blocks: Collection[str]) -> tuple[str, ...]:
    """Names of the genes that decide nothing without some blocks, because all of their layers lie in these."""
    gone = {
        name
        for gene in space.genes
        if gene.kind == DROP_KIND and gene.name.removesuffix(f".{DROP_KIND}") in blocks
        for name in gene.layers
    }
    return tuple(gene.name for gene in space.genes if gene.kind != DROP_KIND and gone.issuperset(gene.layers))


def _kept(layer: CandidateLayer, before: Layer) -> Kept:
    return layer.shape[-1] if before.transposed else layer.shape[0], before.n_rows
