"""A weight-sharing supernet: every layer computes with a mixture of its options."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor

from evo_mpq.compress.bank import as_matrix, from_matrix
from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.program import Choice, Column, Program
from evo_mpq.compress.quantizers import UNTOUCHED_BITS, ActivationGrid, WeightGrid
from evo_mpq.network.graph import Graph
from evo_mpq.network.layers import Layer
from evo_mpq.network.network import Network
from evo_mpq.network.products import Product
from evo_mpq.space.genes import BIT_KINDS
from evo_mpq.space.policy import UNTOUCHED
from evo_mpq.space.search_space import Genome, SearchSpace

Shares: TypeAlias = Sequence[Tensor]
"""Per gene ``(cardinality,)`` how much of each option is in the mixture; only those of bits are read."""

WeightOptions: TypeAlias = Mapping[str, Tensor]
"""Per layer ``(n_options, *shape)`` its weight at each of its options."""


@dataclass(frozen=True, eq=False)
class _MixedWeight:
    """A layer's weight; without a gene it has one option."""

    layer: Layer
    gene: int | None
    grids: tuple[WeightGrid | None, ...]


@dataclass(frozen=True, eq=False)
class _MixedActivation:
    """What one use of a layer, or one operand of a product, reads, by the name under which a choice holds its grid."""

    key: str
    gene: int | None
    grids: tuple[ActivationGrid | None, ...]


@dataclass(frozen=True, eq=False)
class _Mixture:
    """A mixture of activation grids, which stands where a program expects one grid."""

    grids: Sequence[ActivationGrid | None]
    shares: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        fixed = values.detach()
        mixed = (values - fixed) * self.shares.sum().detach()
        for grid, share in zip(self.grids, self.shares, strict=True):
            if share.requires_grad or share != 0:
                mixed = mixed + share * (fixed if grid is None else grid(fixed))
        return mixed


@dataclass(frozen=True, eq=False)
class _StraightThroughGrid(ActivationGrid):
    """A grid whose gradient is that of the identity."""

    def __call__(self, values: Tensor) -> Tensor:
        fixed = values.detach()
        return super().__call__(fixed) + (values - fixed)


class Supernet:
    """A network that computes with mixtures over bits (DNAS, Wu et al. 2018; EdMIPS, Cai & Vasconcelos 2020).

    A weight is ``sum_b p_b Q_b(W)``: one float weight that all options share and that can be trained, rounded to the
    grid of each of them; likewise what a layer, or a product inside attention, reads. Gradients pass rounding as if it
    were not there, also outside of a grid's range (straight-through, Bengio et al. 2013). Grids are those of the float
    network and stay; rounding is to nearest, and there is no statistics correction, because weights and biases adapt
    while they are trained. Layers that share a gene share its mixture.

    Only bits are mixed. Channels are not pruned and blocks are kept, whatever the space offers.

    Args:
        space: whose genes of bits are mixed.
        compressor: of the network, which is not modified.

    Attributes:
        space: as given.
        compressor: as given.
        parameters: weights and biases of layers, by name; leaves of the gradient.
    """

    def __init__(self, space: SearchSpace, compressor: Compressor) -> None:
        self.space = space
        self.compressor = compressor
        self._weights = _mixed_weights(space, compressor)
        self._activations = _mixed_activations(space, compressor)
        network = compressor.network
        self._open({name: network.tensors[name] for name in trainable(network)})

    def _open(self, parameters: Mapping[str, Tensor]) -> None:
        network, statistics = self.compressor.network, self.compressor.statistics
        self.parameters = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
        with torch.no_grad():  # building reads biases, too, for affines that are not used here
            self._program = Program(
                network.graph,
                {**network.tensors, **self.parameters},
                network.layers,
                network.products,
                network.edges,
                _edge_grids(self.compressor),
                statistics.means,
                statistics.deviations,
                "none",
            )

    def copy(self) -> Supernet:
        """One that is trained on its own from here."""
        other = copy.copy(self)
        other._open(self.parameters)
        return other

    @property
    def genes(self) -> tuple[int, ...]:
        """Positions of the genes that are mixed."""
        return tuple(position for position, gene in enumerate(self.space.genes) if gene.kind in BIT_KINDS)

    def shares_of(self, genome: Genome) -> list[Tensor]:
        """The shares that leave one option of every gene: the genome's."""
        shares = self.even_shares()
        for share, option in zip(shares, genome, strict=True):
            share.zero_()[int(option)] = 1.0
        return shares

    def even_shares(self) -> list[Tensor]:
        """The same share for all options of a gene."""
        return [torch.full((gene.cardinality,), 1 / gene.cardinality) for gene in self.space.genes]

    def even_logits(self) -> list[Tensor]:
        """Parameters whose softmax are the even shares."""
        return [torch.zeros(gene.cardinality) for gene in self.space.genes]

    def weight_options(self) -> dict[str, Tensor]:
        """Every layer's weight at each of its options."""
        with torch.no_grad():
            return {
                mixed.layer.name: torch.stack(
                    [_at(self.parameters[mixed.layer.parameter], mixed.layer, grid) for grid in mixed.grids]
                )
                for mixed in self._weights
            }

    def __call__(self, inputs: Sequence[Tensor], shares: Shares, options: WeightOptions | None = None) -> Tensor:
        """The output for one batch.

        Args:
            inputs: tensors of the batch, in the order of the graph's inputs.
            shares: of the options; they need not add up to one.
            options: what `weight_options` gave, if no weight has changed since.
        """
        options = self.weight_options() if options is None else options
        choice = Choice(affines={use.node: None for mixed in self._weights for use in mixed.layer.uses})
        for mixed in self._weights:
            name, own = mixed.layer.name, self.parameters[mixed.layer.parameter]
            share = torch.ones(1) if mixed.gene is None else shares[mixed.gene]
            choice.weights[name] = _straight_through(own, options[name], share)
        for read in self._activations:
            if read.grids == (None,):
                choice.activations[read.key] = None
                continue
            share = torch.ones(1) if read.gene is None else shares[read.gene]
            choice.activations[read.key] = cast(ActivationGrid, _Mixture(read.grids, share))
        return self._program.run(inputs, choice)


def trainable(network: Network) -> tuple[str, ...]:
    """Names of the tensors that are layers' weights and biases."""
    weights = [layer.parameter for layer in network.layers]
    biases = [
        name
        for layer in network.layers
        for use in layer.uses
        if use.bias is not None
        for name in _tensors_behind(network.graph, use.bias)
    ]
    return tuple(name for name in dict.fromkeys((*weights, *biases)) if network.tensors[name].is_floating_point())


def _tensors_behind(graph: Graph, name: str) -> list[str]:
    """Names of the tensors that a value without samples is made of."""
    node = graph[name]
    if node.op == "tensor":
        return [node.target]
    return [tensor for source in node.inputs for tensor in _tensors_behind(graph, source)]


def _gene_of(space: SearchSpace) -> dict[tuple[str, str], int]:
    return {(name, gene.kind): position for position, gene in enumerate(space.genes) for name in gene.layers}


def _bits(space: SearchSpace, gene: int | None, name: str, kind: str) -> tuple[int, ...]:
    """The options at one place: a gene's, or the only one that the space allows."""
    if gene is None:
        return (int(getattr(space.fixed.get(name, UNTOUCHED), kind)),)
    return tuple(int(value) for value in space.genes[gene].values)


def _mixed_weights(space: SearchSpace, compressor: Compressor) -> list[_MixedWeight]:
    genes, network = _gene_of(space), compressor.network
    mixed = []
    for layer in network.layers:
        gene = genes.get((layer.name, "weight_bits"))
        matrix = as_matrix(network.tensors[layer.parameter], layer)
        grids = tuple(
            None if bits == UNTOUCHED_BITS else compressor.quantizer.grid(matrix, bits)
            for bits in _bits(space, gene, layer.name, "weight_bits")
        )
        mixed.append(_MixedWeight(layer, gene, grids))
    return mixed


def _mixed_activations(space: SearchSpace, compressor: Compressor) -> list[_MixedActivation]:
    genes = _gene_of(space)
    mixed = []
    for site in compressor.network.sites():
        gene = genes.get((site.name, "activation_bits"))
        choices = []
        for bits in _bits(space, gene, site.name, "activation_bits"):
            choices.append(Choice())
            compressor.choose(choices[-1], Column(site.name, "activation_bits"), bits)
        keys = site.keys if isinstance(site, Product) else [use.node for use in site.uses if use.input is not None]
        for key in keys:
            mixed.append(_MixedActivation(key, gene, tuple(choice.activations[key] for choice in choices)))
    return mixed


def _edge_grids(compressor: Compressor) -> dict[str, ActivationGrid]:
    if compressor.edges is None:
        return {}
    sources = sorted({name for names in compressor.network.edges.values() for name in names})
    grids = {name: compressor.activation_grid(name, compressor.edges) for name in sources}
    return {name: _StraightThroughGrid(grid.bits, grid.scale, grid.zero_point) for name, grid in grids.items()}


def _at(weight: Tensor, layer: Layer, grid: WeightGrid | None) -> Tensor:
    """A weight rounded to a grid, in its own shape."""
    if grid is None:
        return weight.detach().clone()
    return from_matrix(grid.dequantize(grid.round(as_matrix(weight, layer))), layer)


def _straight_through(weight: Tensor, options: Tensor, shares: Tensor) -> Tensor:
    """``sum_b p_b Q_b(W)``, whose gradient is ``sum_b p_b`` in the weight and ``Q_b(W)`` in the shares."""
    mixed: Tensor = torch.tensordot(shares, options, 1)  # type: ignore[no-untyped-call]
    return mixed + (weight - weight.detach()) * shares.sum().detach()
