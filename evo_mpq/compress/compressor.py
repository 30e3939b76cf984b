"""A network and everything that can be done to it: calibration, the weight bank, standalone compressed modules."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from evo_mpq.compress.bank import WeightBank
from evo_mpq.compress.calibration import Statistics, calibrate
from evo_mpq.compress.correction import CORRECTIONS, Correction
from evo_mpq.compress.packing import Layout, header_bytes, pack, read_packed, unpack
from evo_mpq.compress.program import Choice, Program
from evo_mpq.compress.quantizers import (
    UNTOUCHED_BITS,
    ActivationGrid,
    ActivationQuantizer,
    UniformAffine,
    WeightQuantizer,
)
from evo_mpq.compress.state import CompressedState
from evo_mpq.errors import NetworkError, PackedFileError
from evo_mpq.network.calling import Forward, tensors_of
from evo_mpq.network.graph import Graph, Node
from evo_mpq.network.layers import Layer, find_edges, find_layers
from evo_mpq.network.network import Network
from evo_mpq.network.tracing import trace
from evo_mpq.space.policy import Policy

_DEFAULT_MEMORY = 2 << 30


class Compressor:
    """What can be done to one network, calibrated once on its calibration split.

    Args:
        network: the traced network with its data.
        quantizer: of weights.
        activations: of activations.
        correction: ``"none"``, ``"bias"`` or ``"scale_bias"``.
        edges: bits of activations that no layer governs; None leaves them float.
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
        memory: int = _DEFAULT_MEMORY,
    ) -> None:
        if correction not in CORRECTIONS:
            raise ValueError(f"correction is one of {', '.join(CORRECTIONS)}, not {correction!r}.")
        self.network = network
        self.quantizer = quantizer or UniformAffine()
        self.activation_quantizer = activations or ActivationQuantizer()
        self.correction: Correction = correction
        self.edges = edges
        self.memory = memory
        self._layers = {layer.name: layer for layer in network.layers}
        self._grids: dict[tuple[str, int], ActivationGrid] = {}
        self._open()

    def _open(self) -> None:
        self.bank = WeightBank(self.network.tensors, self.quantizer, self.statistics.grams, memory=self.memory // 2)
        edge_sources = {name for names in self.network.edges.values() for name in names}
        edge_grids = (
            {name: self.activation_grid(name, self.edges) for name in sorted(edge_sources)} if self.edges else {}
        )
        self.program = Program(
            self.network.graph,
            self.network.tensors,
            self.network.layers,
            self.network.edges,
            edge_grids,
            self.statistics.means,
            self.statistics.deviations,
            self.correction,
        )
        self._edge_grids = edge_grids
        self.layout = Layout(
            self.network.graph,
            self.network.tensors,
            self.network.layers,
            self.network.edges,
            self.quantizer,
            quantized_edges=self.edges is not None,
        )
        self._header_bytes = header_bytes(self.network)

    @cached_property
    def statistics(self) -> Statistics:
        """Of the float network on the calibration split."""
        return calibrate(
            self.network.graph,
            self.network.tensors,
            self.network.layers,
            self.network.edges,
            self.network.calibration_inputs,
            centred=self.correction != "none",
            second_moments=self.quantizer.rounding == "gptq",
        )

    def __getstate__(self) -> dict[str, Any]:
        return {
            key: value
            for key, value in self.__dict__.items()
            if key not in ("bank", "program", "layout", "_edge_grids", "_header_bytes")
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
                raise NetworkError(
                    f"An activation{_inside(self.network.graph[source])} ({source}) holds NaN or infinity on the "
                    "calibration split, so that it cannot be quantized; leave activations at 32 bits and edges: none."
                )
            self._grids[key] = self.activation_quantizer.grid(sample, bits)
        return self._grids[key]

    def is_reference(self, policy: Policy) -> bool:
        """Whether the policy leaves the network as it is: all layers at 32 bits and no quantized edges."""
        untouched = all(
            layer.weight_bits == UNTOUCHED_BITS and layer.activation_bits == UNTOUCHED_BITS
            for layer in policy.layers.values()
        )
        return untouched and self.edges is None and not policy.architecture

    def weight(self, layer: Layer, bits: int) -> torch.Tensor:
        """The layer's dequantized weight at ``bits``."""
        if bits == UNTOUCHED_BITS:
            return self.network.tensors[layer.parameter]
        return self.bank(layer, bits).values

    def choose(self, choice: Choice, layer: str, kind: str, bits: int) -> None:
        """Puts one decision into a choice: the tensor or the grids that ``bits`` stand for."""
        found = self._layers[layer]
        if kind == "weight_bits":
            choice.weights[layer] = self.weight(found, bits)
        else:
            for use in found.uses:
                choice.activations[use.node] = (
                    self.activation_grid(use.input, bits) if bits != UNTOUCHED_BITS and use.input is not None else None
                )

    def choice(self, policy: Policy) -> Choice:
        """Everything that the program reads under ``policy``, affines computed on the calibration batch."""
        choice = Choice()
        for layer in self.network.layers:
            decision = policy.layers[layer.name]
            self.choose(choice, layer.name, "weight_bits", decision.weight_bits)
            self.choose(choice, layer.name, "activation_bits", decision.activation_bits)
            for use in layer.uses:
                choice.affines[use.node] = None
        if not self.is_reference(policy):
            with torch.no_grad():
                self.program.calibrate(self.network.calibration_inputs, choice)
        return choice

    def apply(self, policy: Policy) -> CompressedModule:
        """The standalone compressed network; its outputs are those that the search measures, bit for bit."""
        choice = self.choice(policy)
        return CompressedModule(self.network.structure, self.program, choice, self._state(policy, choice))

    def _state(self, policy: Policy, choice: Choice) -> CompressedState:
        weights = {
            layer.name: self.bank(layer, policy.layers[layer.name].weight_bits)
            for layer in self.network.layers
            if policy.layers[layer.name].weight_bits != UNTOUCHED_BITS
        }
        kept = self.layout.float_tensors(policy, reference=self.is_reference(policy))
        tensors = {name: self.network.tensors[name] for name in kept}
        return CompressedState(policy, weights, choice.activations, choice.affines, self._edge_grids, tensors)

    def live_bytes(self, policy: Policy, inputs: Sequence[torch.Tensor]) -> int:
        """Bytes of the values that are alive at once while ``policy`` runs on a batch: a lower bound of memory."""
        with torch.no_grad():
            return self.program.live_bytes(inputs, self.choice(policy))

    def packed_bytes(self, policy: Policy) -> int:
        """Length in bytes of the packed file of ``policy``, known before anything is measured."""
        return self._header_bytes + self.layout.n_bytes(policy, reference=self.is_reference(policy))

    def pack(self, module: CompressedModule) -> bytes:
        """The packed file of a module that this compressor made."""
        return pack(self.network, self.layout, module.state, self.settings)

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


class CompressedModule(nn.Module):
    """A compressed network that runs on its own.

    It is called as the user's network is: with the inputs of a batch, either as one argument or spread over
    arguments and keywords, and returns the one output that counts.

    Args:
        structure: how the tensors of a batch's inputs are nested.
        program: the steps.
        choice: what the steps read.
        state: what a packed file stores of it.
    """

    def __init__(self, structure: pytree.TreeSpec, program: Program, choice: Choice, state: CompressedState) -> None:
        super().__init__()
        self.state = state
        self._structure = structure
        self._program = program
        self._choice = choice

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The output for one batch."""
        with torch.no_grad():
            return self._program.run(self._tensors(args, kwargs), self._choice)

    def _tensors(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        candidates: list[Any] = [
            args[0] if len(args) == 1 and not kwargs else None,
            dict(kwargs),
            tuple(args),
            list(args),
        ]
        for inputs in candidates:
            if pytree.tree_structure(inputs) == self._structure:
                return tensors_of(inputs)
        for inputs in (args[0] if args else None, kwargs):
            if isinstance(inputs, Mapping) and self._structure.type is not None:
                keys = list(self._structure.context) if issubclass(self._structure.type, dict) else []
                if set(keys) == set(inputs):
                    return tensors_of({key: inputs[key] for key in keys})
        raise TypeError(
            "The compressed network takes the inputs that it was traced with "
            f"({self._structure.num_leaves} tensors, {self._structure}), not {len(args)} arguments and the keywords "
            f"{sorted(kwargs)}."
        )


def load_packed(data: bytes, name: str, module: nn.Module, forward: Forward | None = None) -> CompressedModule:
    """The compressed network that a packed file holds, bit for bit.

    Args:
        data: the file's bytes.
        name: of the file, for messages.
        module: the user's network, for its structure; whatever weights it has are not used.
        forward: how a batch's inputs become a call, where the network needed one.

    Raises:
        PackedFileError: the file is damaged, or was made of another network.
    """
    packed = read_packed(data, name)
    if packed.forward is not None and forward is None:
        raise PackedFileError(
            f"{name} was made of a network that is called through {packed.forward}; pass that function: "
            "load(file, module, forward=…)."
        )
    leaves = [entry.zeros() for entry in packed.signature]
    try:
        traced = trace(
            module,
            pytree.tree_unflatten(leaves, packed.structure),
            dynamic=[entry.dynamic for entry in packed.signature],
            forward=forward,
            output=packed.output,
        )
    except NetworkError as error:
        raise PackedFileError(f"{name} was made of another network than the given one: {error}") from error
    _check_same_graph(traced.graph, packed.nodes, name)
    layers = find_layers(traced.graph, {})
    edges = find_edges(traced.graph, layers)
    quantizer = UniformAffine(
        **{key: packed.settings["weights"][key] for key in ("symmetric", "granularity", "clip", "rounding")}
    )
    edge_bits = packed.settings["activations"]["edges"]
    layout = Layout(traced.graph, traced.tensors, layers, edges, quantizer, quantized_edges=edge_bits is not None)
    state = unpack(packed, layout)
    tensors = {**traced.tensors, **state.tensors}
    program = Program(traced.graph, tensors, layers, edges, state.edge_grids, {}, {}, "none")
    choice = Choice(
        {
            layer.name: state.weights[layer.name].values if layer.name in state.weights else tensors[layer.parameter]
            for layer in layers
        },
        dict(state.activations),
        dict(state.affines),
    )
    return CompressedModule(traced.structure, program, choice, state)


def _inside(node: Node) -> str:
    return f" in {node.module}" if node.module else ""


def _check_same_graph(graph: Graph, nodes: Sequence[str], name: str) -> None:
    own = graph.node_hashes()
    if own == list(nodes):
        return
    different = next((i for i, pair in enumerate(zip(own, nodes, strict=False)) if pair[0] != pair[1]), None)
    if different is None:
        where = f"it has {len(own)} operations and tensors, the file's network had {len(nodes)}"
    else:
        node = graph.nodes[different]
        where = f"the first that differs is {node.name} ({node.target}){_inside(node)}"
    raise PackedFileError(
        f"{name} was made of another network than the given one: {where}. Build the network exactly as for the run."
    )
