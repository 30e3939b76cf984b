"""A traced network as an ONNX graph, node by node, in the order in which it is computed.

Every value of the graph becomes one of three things: a constant that torch computes here, because it follows from
parameters alone; a size that depends on the batch; or a tensor in the ONNX graph. Layers, products of attention and
edges are written with what the policy makes of them (`layers`), everything else by its operator (`operators`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from evo_mpq.errors import ExportError
from evo_mpq.network.graph import Node, operator, substitute
from evo_mpq.network.network import Network
from evo_mpq.results.export.onnx import layers
from evo_mpq.results.export.onnx.channels import kept_after
from evo_mpq.results.export.onnx.operators import OPERATORS
from evo_mpq.results.export.onnx.writer import Size, Value, Writer


def translated(t: Writer) -> Any:
    """The whole model, see `OnnxModel.finish`.

    Raises:
        ExportError: an operation is not known, or cannot do without pruned channels.
    """
    graph, network = t.network.graph, t.network
    uses = {use.node: (layer, use) for layer in network.layers for use in layer.uses}
    products = {product.node for product in network.products}
    names = input_names(network)
    batch_sizes = [
        [
            "batch" if axis == 0 else f"{name}_{axis}" if axis in entry.dynamic else size
            for axis, size in enumerate(entry.shape)
        ]
        for name, entry in zip(names, network.signature, strict=True)
    ]
    for node in graph:
        t.node = node
        if node.op == "input":
            place = int(node.target)
            dtype = network.signature[place].dtype
            name = t.model.input(names[place], dtype, batch_sizes[place])
            t.values[node.name] = Value(name, getattr(torch, dtype))
        elif node.op == "tensor":
            t.values[node.name] = t.tensors[node.target]
        elif node.name in t.dropped:
            block = t.dropped[node.name]
            quantized = t.edge(block.source) if block.source in network.edges.get(node.name, ()) else None
            t.values[node.name] = t.values[block.source] if quantized is None else quantized
            t.keep(node.name, t.kept(block.source))
        elif node.name not in t.active:
            continue
        elif node.name in uses:
            t.values[node.name] = layers.use(t, node, *uses[node.name])
        else:
            t.values[node.name] = _call(t, node, quantizes=node.name in products)
    output = graph[graph.output]
    t.node = output
    sizes: list[int | str] = [
        "batch" if axis == 0 else f"output_{axis}" if size is None else size for axis, size in enumerate(output.shape)
    ]
    return t.model.finish(
        t.name_of(t.values[output.name]),
        str(t.dtype(output.name)).removeprefix("torch."),
        sizes,
        name=network.name,
        producer=("evo-mpq", importlib.metadata.version("evo-mpq")),
    )


def _call(t: Writer, node: Node, *, quantizes: bool) -> Any:
    read = {name: t.edge(name) for name in t.network.edges.get(node.name, ())}
    if t.options.apart and node.target in _MEETING_PLACES:
        read = {name: None if value is None else t.untouchable(value) for name, value in read.items()}
    args, kwargs = substitute(
        (node.args, dict(node.kwargs or {})), lambda ref: read.get(ref.node) or t.values[ref.node]
    )
    if not _depends(args) and not _depends(list(kwargs.values())):
        return operator(node.target)(*args, **kwargs)
    if quantizes and any(t.state.activations.get(key) is not None for key in layers.product_keys(t, node)):
        return layers.product(t, node)
    translate: Callable[..., Any] | None = OPERATORS.get(node.target)
    if translate is None:
        raise unknown_operation(node)
    t.keep(node.name, kept_after(node, t.kept, t.shape, lambda name: isinstance(t.values[name], Value)))
    if node.target in _MEETING_PLACES:
        args = _with_equal_channels(t, node, args)
    made = translate(t, node, *args, **kwargs)
    if isinstance(made, list):
        return [Value(name, args[0].dtype) for name in made]
    return Value(made, t.dtype(node.name)) if isinstance(made, str) else made


_MEETING_PLACES = ("aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor")


def _with_equal_channels(t: Writer, node: Node, args: Sequence[Any]) -> list[Any]:
    """Operands with the channels of the output."""
    rank = len(t.shape(node.name))
    aligned = list(args)
    for place, (given, arg) in enumerate(zip(node.args, args, strict=True)):
        if isinstance(arg, Value):
            shape = t.shape(given.node)
            for axis in t.kept(given.node):
                wanted = t.kept(node.name).get(axis + rank - len(shape))
                arg = t.with_channels(arg, t.kept(given.node)[axis], wanted, axis, shape[axis])
            aligned[place] = arg
    return aligned


def input_names(network: Network) -> list[str]:
    """Names of the ONNX inputs: keys of a mapping, else ``input``, with a number where there are several."""
    n = len(network.signature)
    keyed, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(n)), network.structure))
    named = ["_".join(str(getattr(part, "key", getattr(part, "idx", ""))) for part in path) for path, _ in keyed]
    return [
        name if name and not name[0].isdigit() else "input" if n == 1 else f"input_{i}" for i, name in enumerate(named)
    ]


def unknown_operation(node: Node) -> ExportError:
    """What is said of an operation that is not known."""
    inside = f" in {node.module}" if node.module else " of the network itself"
    return ExportError(
        f"the operation {node.target}{inside} ({node.name}) is none that the ONNX exporter knows; nothing was written. "
        "`--format torch` and `--format safetensors` know every operation."
    )


def _depends(values: Any) -> bool:
    """Whether a value, or one nested in it, is computed from the batch."""
    if isinstance(values, list | tuple):
        return any(map(_depends, values))
    return isinstance(values, Value | Size)
