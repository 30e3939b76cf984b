"""Compressed networks that run on their own: as they were made, or read from a packed file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from evo_mpq.compress.channels import Channels
from evo_mpq.compress.packing import Layout, read_packed, unpack
from evo_mpq.compress.program import Choice, Program, computed_nodes
from evo_mpq.compress.quantizers import UniformAffine
from evo_mpq.compress.state import CompressedState
from evo_mpq.errors import NetworkError, PackedFileError
from evo_mpq.network.blocks import Block, find_blocks
from evo_mpq.network.calling import Forward, tensors_of
from evo_mpq.network.graph import Graph
from evo_mpq.network.layers import find_edges, find_layers
from evo_mpq.network.products import find_products
from evo_mpq.network.tracing import trace
from evo_mpq.space.genes import DROP_KIND


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
    products = find_products(traced.graph, {})
    edges = find_edges(traced.graph, layers)
    quantizer = UniformAffine(
        **{key: packed.settings["weights"][key] for key in ("symmetric", "granularity", "clip", "rounding")}
    )
    with_edges = packed.settings["activations"]["edges"] is not None
    channels = Channels(layers, (), {})
    layout = Layout(
        traced.graph,
        traced.tensors,
        layers,
        products,
        edges,
        quantizer,
        channels,
        quantized_edges=with_edges,
    )
    blocks = [block for block in find_blocks(traced.graph, layers).values() if isinstance(block, Block)]
    dropped = [block for block, out in zip(blocks, packed.dropped, strict=True) if out]
    left_out = [f"{block.name}.{DROP_KIND}" for block in dropped]
    state = unpack(packed, layout, computed_nodes(traced.graph, dropped), left_out)
    tensors = {**traced.tensors, **state.tensors}
    program = Program(traced.graph, tensors, layers, products, edges, state.edge_grids, {}, {}, "none", dropped)
    choice = Choice(
        {
            layer.name: state.weights[layer.name].values if layer.name in state.weights else tensors[layer.parameter]
            for layer in layers
        },
        dict(state.activations),
        dict(state.affines),
        dropped={block.name for block in dropped},
    )
    return CompressedModule(traced.structure, program, choice, state)


def _check_same_graph(graph: Graph, nodes: Sequence[str], name: str) -> None:
    own = graph.node_hashes()
    if own == list(nodes):
        return
    different = next((i for i, pair in enumerate(zip(own, nodes, strict=False)) if pair[0] != pair[1]), None)
    if different is None:
        where = f"it has {len(own)} operations and tensors, the file's network had {len(nodes)}"
    else:
        node = graph.nodes[different]
        inside = f" in {node.module}" if node.module else ""
        where = f"the first that differs is {node.name} ({node.target}){inside}"
    raise PackedFileError(
        f"{name} was made of another network than the given one: {where}. Build the network exactly as for the run."
    )
