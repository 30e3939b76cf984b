"""A network and everything that can be done to it: calibration, the weight bank, standalone compressed modules."""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from evo_mpq.compress.bank import CompressedWeight, WeightBank, as_matrix
from evo_mpq.compress.calibration import Statistics, calibrate, loss_gradients
from evo_mpq.compress.channels import CRITERIA, Channels, Criterion, WeightForm, magnitude_scores, taylor_scores
from evo_mpq.compress.correction import CORRECTIONS, Correction
from evo_mpq.compress.decisions import Decisions
from evo_mpq.compress.module import CompressedModule
from evo_mpq.compress.packing import Layout, header_bytes, pack
from evo_mpq.compress.program import Choice, Column, Program, computed_nodes
from evo_mpq.compress.quantizers import (
    UNTOUCHED_BITS,
    ActivationGrid,
    ActivationQuantizer,
    UniformAffine,
    WeightQuantizer,
)
from evo_mpq.compress.state import CompressedState
from evo_mpq.errors import NetworkError
from evo_mpq.network.blocks import Block
from evo_mpq.network.calling import tensors_of
from evo_mpq.network.graph import Node
from evo_mpq.network.layers import Layer
from evo_mpq.network.network import Network
from evo_mpq.network.products import Product
from evo_mpq.space.genes import DROP_KIND
from evo_mpq.space.policy import UNTOUCHED, Policy

_DEFAULT_MEMORY = 2 << 30
_DROP = f".{DROP_KIND}"


@dataclass(frozen=True)
class Pruning:
    """How channels are chosen and removed.

    Args:
        criterion: of importance: ``"l1"`` or ``"l2"`` norms of a channel's weights, or ``"taylor"``, the first-order
            change of the loss.
        compensate: whether the weights that read removed channels make up for them by least squares.

    Raises:
        ValueError: an unknown criterion.
    """

    criterion: Criterion = "l1"
    compensate: bool = True

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion is one of {', '.join(CRITERIA)}, not {self.criterion!r}.")


class Active(NamedTuple):
    """What is left of a layer under a policy.

    Attributes:
        layer: as it is in the network; a product of activations counts as one.
        shape: of its weight without removed channels; empty for products.
        n_parameters: weights that remain.
        macs: multiply-accumulate operations per sample that remain.
    """

    layer: Layer | Product
    shape: tuple[int, ...]
    n_parameters: int
    macs: int


class Compressor:
    """What can be done to one network, calibrated once on its calibration split.

    Args:
        network: the traced network with its data.
        quantizer: of weights.
        activations: of activations.
        correction: ``"none"``, ``"bias"`` or ``"scale_bias"``.
        edges: bits of activations that no layer governs; None leaves them float.
        pruning: how channels of the network's prune groups are removed.
        blocks: names of the blocks that a policy may drop.
        memory: bytes that quantized weights may take.

    Pickles without the bank's entries, which every process makes on first use.
    """

    def __init__(
        self,
        network: Network,
        *,
        quantizer: WeightQuantizer | None = None,
        activations: ActivationQuantizer | None = None,
        correction: Correction = "scale_bias",
        edges: int | None = None,
        pruning: Pruning | None = None,
        blocks: Sequence[str] = (),
        memory: int = _DEFAULT_MEMORY,
    ) -> None:
        if correction not in CORRECTIONS:
            raise ValueError(f"correction is one of {', '.join(CORRECTIONS)}, not {correction!r}.")
        self.network = network
        self.quantizer = quantizer or UniformAffine()
        self.activation_quantizer = activations or ActivationQuantizer()
        self.correction: Correction = correction
        self.edges = edges
        self.pruning = pruning or Pruning()
        self.blocks = {name: _droppable(network, name) for name in blocks}
        self.memory = memory
        self._sites = network.sites()
        self._inside = {name: network.sites(block) for name, block in self.blocks.items()}
        self._layers = {layer.name: layer for layer in network.layers}
        self._products = {product.name: product for product in network.products}
        self._grids: dict[tuple[str, int], ActivationGrid] = {}
        self._open()

    def _open(self) -> None:
        network = self.network
        self.channels = Channels(network.layers, network.prune_groups, self._channel_scores)
        self.bank = WeightBank(
            network.tensors,
            self.quantizer,
            self.channels,
            self.statistics.grams,
            compensate=self.pruning.compensate,
            memory=self.memory // 2,
        )
        edge_sources = {name for names in network.edges.values() for name in names}
        edge_grids = (
            {name: self.activation_grid(name, self.edges) for name in sorted(edge_sources)} if self.edges else {}
        )
        self._edge_grids = edge_grids
        self.program = self.program_on("cpu")
        self.layout = Layout(
            network.graph,
            network.tensors,
            network.layers,
            network.products,
            network.edges,
            self.quantizer,
            self.channels,
            quantized_edges=self.edges is not None,
        )
        self._header_bytes = header_bytes(network)
        self._computed: dict[frozenset[str], frozenset[str]] = {}

    def program_on(self, device: str) -> Program:
        """The steps of the network under any policy, with their tensors on a device."""
        network, statistics = self.network, self.statistics
        return Program(
            network.graph,
            network.tensors,
            network.layers,
            network.products,
            network.edges,
            self._edge_grids,
            statistics.means,
            statistics.deviations,
            self.correction,
            list(self.blocks.values()),
            device,
        )

    @cached_property
    def _channel_scores(self) -> dict[str, torch.Tensor]:
        """Importance of the channels of every prune group, from the float network."""
        network = self.network
        matrices = {layer.name: as_matrix(network.tensors[layer.parameter], layer) for layer in network.layers}
        if self.pruning.criterion == "taylor" and network.prune_groups:
            batches = (tensors_of(batch.inputs) for batch in network.splits.calibration.batches())
            parameters = [layer.parameter for layer in network.layers]
            found = loss_gradients(network.graph, network.tensors, batches, parameters)
            gradients = {layer.name: as_matrix(found[layer.parameter], layer) for layer in network.layers}
            return {group.name: taylor_scores(group, matrices, gradients) for group in network.prune_groups}
        power = 2 if self.pruning.criterion == "l2" else 1
        return {group.name: magnitude_scores(group, matrices, power) for group in network.prune_groups}

    @cached_property
    def statistics(self) -> Statistics:
        """Of the float network on the calibration split."""
        return calibrate(
            self.network.graph,
            self.network.tensors,
            self.network.layers,
            self.network.products,
            self.network.edges,
            self.network.calibration_inputs,
            centred=self.correction != "none",
            second_moments=self.quantizer.rounding != "nearest"
            or (self.pruning.compensate and bool(self.network.prune_groups)),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value
            for key, value in self.__dict__.items()
            if key not in ("bank", "channels", "program", "layout", "_edge_grids", "_header_bytes", "_computed")
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def activation_grid(self, source: str, bits: int) -> ActivationGrid:
        """The grid of an activation at ``bits``, from the float network's values on the calibration batch."""
        key = (source, bits)
        if key not in self._grids:
            sample = self.statistics.samples[source]
            if not torch.isfinite(sample).all():
                place = _where(self.network.graph[source.partition("@")[0]])
                raise NetworkError(
                    f"An activation{place} ({source}) holds NaN or infinity on the calibration split, so that it "
                    "cannot be quantized; leave activations at 32 bits and edges: none."
                )
            self._grids[key] = self.activation_quantizer.grid(sample, bits)
        return self._grids[key]

    def is_reference(self, policy: Policy) -> bool:
        """Whether the policy leaves the network as it is: nothing pruned, dropped or quantized, edges included."""
        untouched = all(layer == UNTOUCHED for layer in policy.layers.values())
        return untouched and self.edges is None and not any(policy.architecture.values())

    def dropped(self, policy: Policy) -> list[Block]:
        """The blocks that a policy drops.

        Raises:
            ValueError: a choice of architecture that this compressor does not know.
        """
        names = [name.removesuffix(_DROP) for name, dropped in policy.architecture.items() if dropped]
        if unknown := sorted(set(names) - self.blocks.keys()):
            known = ", ".join(self.blocks) or "none"
            raise ValueError(f"the policy drops {unknown[0]!r}; the blocks that may be dropped here: {known}")
        return [self.blocks[name] for name in names]

    def computed_nodes(self, policy: Policy) -> frozenset[str]:
        """Names of the graph's nodes that are computed under a policy."""
        dropped = self.dropped(policy)
        key = frozenset(block.name for block in dropped)
        if key not in self._computed:
            self._computed[key] = computed_nodes(self.network.graph, dropped)
        return self._computed[key]

    def active_layers(self, policy: Policy) -> list[Active]:
        """What is left of every layer and product that is computed under a policy, in the order of the graph."""
        nodes = self.computed_nodes(policy)
        left = []
        for site in self._sites:
            if isinstance(site, Product):
                if site.node in nodes:
                    left.append(Active(site, (), 0, site.macs))
            elif any(use.node in nodes for use in site.uses):
                left.append(self._left_of(site, self.channels.form(policy, site)))
        return left

    def _left_of(self, layer: Layer, form: WeightForm) -> Active:
        rows, columns = self.channels.rows(layer, form), self.channels.columns(layer, form)
        if rows is None and columns is None:
            return Active(layer, layer.shape, layer.n_parameters, layer.macs)
        n_columns = layer.n_parameters // layer.n_rows
        shape, macs = list(layer.shape), layer.macs
        row_axis, column_axis = (-1, 0) if layer.transposed else (0, 1)
        if rows is not None:
            shape[row_axis] = len(rows)
            macs = macs * len(rows) // layer.n_rows
        if columns is not None:
            shape[column_axis] = shape[column_axis] * len(columns) // n_columns
            macs = macs * len(columns) // n_columns
        return Active(layer, tuple(shape), math.prod(shape), macs)

    def other_macs(self, policy: Policy) -> int:
        """Multiply-accumulate operations per sample outside of layers and products that a policy leaves."""
        counted = {use.node for layer in self.network.layers for use in layer.uses}
        counted.update(product.node for product in self.network.products)
        nodes = self.computed_nodes(policy)
        return sum(macs for node, macs in self.network.macs.items() if node in nodes and node not in counted)

    def other_parameters(self, policy: Policy) -> int:
        """Numbers in the network's state that are no layer's weights and that a policy leaves."""
        graph, nodes = self.network.graph, self.computed_nodes(policy)
        weights = {layer.parameter for layer in self.network.layers}
        sizes = {
            node.target: self.network.tensors[node.target].numel()
            for node in graph
            if node.op == "tensor" and node.name in nodes and node.target not in weights
        }
        for layer in self.network.layers:
            rows = self.channels.rows(layer, self.channels.form(policy, layer))
            if rows is None:
                continue
            for use in layer.uses:
                if use.bias is not None and graph[use.bias].target in sizes:
                    sizes[graph[use.bias].target] = len(rows)
        return sum(sizes.values())

    def decisions(self, policies: Sequence[Policy]) -> Decisions:
        """What each policy decides, in the order in which it begins to matter."""
        return Decisions(self.program.columns, [self._decided(policy) for policy in policies])

    def _decided(self, policy: Policy) -> list[Hashable]:
        """One value per column of the program; None for layers that are not computed."""
        dropped = self.dropped(policy)
        gone = {site.name for block in dropped for site in self._inside[block.name]}
        names = {block.name for block in dropped}
        row: list[Hashable] = []
        for name, kind in self.program.columns:
            if kind == "drop":
                row.append(name in names)
            elif name in gone:
                row.append(None)
            elif kind == "weight":
                row.append(self.channels.form(policy, self._layers[name]))
            else:
                row.append(policy.bits_of(name))
        return row

    def choose(self, choice: Choice, column: Column, decided: Any) -> None:
        """Puts one decision into a choice: the tensor or the grids that it stands for."""
        name, kind = column
        if kind == "drop":
            (choice.dropped.add if decided else choice.dropped.discard)(name)
        elif decided is None:
            return
        elif kind == "weight":
            layer = self._layers[name]
            weight = self._weight(layer, decided)
            choice.weights[name] = self.network.tensors[layer.parameter] if weight is None else weight.values
            choice.channels[name] = _mask(layer.n_rows, self.channels.rows(layer, decided))
        else:
            sources = self._read_by(name)
            grids = [
                self.activation_grid(s, decided) if s and decided != UNTOUCHED_BITS else None for s in sources.values()
            ]
            choice.activations.update(zip(sources, grids, strict=True))

    def _read_by(self, name: str) -> dict[str, str | None]:
        """What a layer or a product reads, by the name under which a choice holds its grid."""
        if name in self._products:
            return dict(zip(self._products[name].keys, self._products[name].operands, strict=True))
        return {use.node: use.input for use in self._layers[name].uses}

    def _weight(self, layer: Layer, form: WeightForm) -> CompressedWeight | None:
        """The layer's weight in a form; None for the float weight as it is."""
        return None if form.bits == UNTOUCHED_BITS and not form.pruned else self.bank(layer, form)

    def choice(self, policy: Policy) -> Choice:
        """Everything that the program reads under ``policy``, affines computed on the calibration batch."""
        choice = Choice()
        for column, decided in zip(self.program.columns, self._decided(policy), strict=True):
            self.choose(choice, column, decided)
        if self.is_reference(policy):
            choice.affines.update(dict.fromkeys(use.node for layer in self.network.layers for use in layer.uses))
        else:
            with torch.no_grad():
                self.program.calibrate(self.network.calibration_inputs, choice)
        return choice

    def apply(self, policy: Policy) -> CompressedModule:
        """The standalone compressed network; its outputs are those that the search measures, bit for bit."""
        choice = self.choice(policy)
        return CompressedModule(self.network.structure, self.program, choice, self._state(policy, choice))

    def _state(self, policy: Policy, choice: Choice) -> CompressedState:
        nodes = self.computed_nodes(policy)
        layers = self.layout.layers_among(nodes)
        weights = {layer.name: self._weight(layer, self.channels.form(policy, layer)) for layer in layers}
        kept = self.layout.float_tensors(nodes, reference=self.is_reference(policy))
        float_weights = [layer.parameter for layer in layers if weights[layer.name] is None]
        return CompressedState(
            policy,
            {name: weight for name, weight in weights.items() if weight is not None},
            choice.activations,
            choice.affines,
            self._edge_grids,
            {name: self.network.tensors[name] for name in dict.fromkeys([*kept, *float_weights])},
            frozenset(layer.name for layer in layers),
        )

    def live_bytes(self, policy: Policy, inputs: Sequence[torch.Tensor]) -> int:
        """Bytes of the values that are alive at once while ``policy`` runs on a batch: a lower bound of memory."""
        with torch.no_grad():
            return self.program.live_bytes(inputs, self.choice(policy))

    def packed_bytes(self, policy: Policy, *, as_candidate: bool = False) -> int:
        """Length in bytes of the packed file of ``policy``, known before anything is measured.

        Args:
            policy: what to pack.
            as_candidate: count also the uncompressed network in the form of all others, which store an affine for
                every layer: then the length is a constant plus a sum over layers.
        """
        reference = self.is_reference(policy) and not as_candidate
        return self._header_bytes + self.layout.n_bytes(policy, self.computed_nodes(policy), reference=reference)

    def pack(self, module: CompressedModule) -> bytes:
        """The packed file of a module that this compressor made."""
        active = self.computed_nodes(module.state.policy)
        return pack(self.network, self.layout, active, module.state, self.settings)

    def without_edges(self) -> Compressor:
        """The same compressor with float edges: what the uncompressed network is measured with."""
        if self.edges is None:
            return self
        other = copy.copy(self)
        other.edges = None
        other._open()
        return other

    @property
    def settings(self) -> dict[str, Any]:
        """What the compressor was made with, as JSON values."""
        return {
            "weights": {
                "symmetric": self.quantizer.symmetric,
                "granularity": getattr(self.quantizer, "granularity", None),
                "clip": getattr(self.quantizer, "clip", None),
                "rounding": self.quantizer.rounding,
            },
            "activations": {"clip": self.activation_quantizer.clip, "edges": self.edges},
            "correction": self.correction,
        }


def _droppable(network: Network, name: str) -> Block:
    found = network.blocks.get(name, "it is no module with a layer")
    if isinstance(found, str):
        raise ValueError(f"block {name!r} cannot be dropped: {found}")
    return found


def _mask(n: int, positions: torch.Tensor | None) -> torch.Tensor | None:
    """``(n,)`` True at the positions; None for all."""
    return None if positions is None else torch.zeros(n, dtype=torch.bool).index_fill_(0, positions, True)


def _where(node: Node) -> str:
    return f" in {node.module}" if node.module else ""
