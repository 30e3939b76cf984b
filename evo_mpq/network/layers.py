"""The layers of a traced network: whose weights can be quantized, and where their inputs come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evo_mpq.network.graph import Graph, Node, Ref, operator, substitute
from evo_mpq.network.tracing import WEIGHT_VIEWS

_KINDS = {
    "aten.conv1d.default": "conv1d",
    "aten.conv1d.padding": "conv1d",
    "aten.conv2d.default": "conv2d",
    "aten.conv2d.padding": "conv2d",
    "aten.linear.default": "linear",
    "aten.addmm.default": "linear",
    "aten.mm.default": "linear",
    "aten.matmul.default": "linear",
    "aten.embedding.default": "embedding",
}
_RANKS = {"conv1d": 3, "conv2d": 4, "linear": 2, "embedding": 2}
# `x @ weight`: unlike a linear layer's, the weight's last axis counts output channels.
_PRODUCTS = ("aten.addmm.default", "aten.mm.default", "aten.matmul.default")
_TRANSPOSITIONS = {"aten.t.default", "aten.transpose.int", "aten.permute.default"}
_SOFTMAX = ("aten.softmax", "aten._softmax")
_EDGE_READERS = (
    "aten.add.Tensor",
    "aten.sub.Tensor",
    "aten.cat.default",
    "aten.max_pool",
    "aten.avg_pool",
    "aten.adaptive_avg_pool",
    "aten.adaptive_max_pool",
    "aten.mean.dim",
)


@dataclass(frozen=True)
class Use:
    """One operation that reads a layer's weight.

    Attributes:
        node: the operation's name.
        input: name of the activation that it multiplies with the weight; None for an embedding.
        bias: name of the node that is added and depends on no input, or None.
        channel_axis: axis of the output that counts the weight's rows.
        n_channels: size of that axis.
        correctable: whether statistics correction applies; not where one module is called more than once.
    """

    node: str
    input: str | None
    bias: str | None
    channel_axis: int
    n_channels: int
    correctable: bool


@dataclass(frozen=True)
class Layer:
    """A weight that can be quantized, with every operation that reads it.

    Attributes:
        name: path of the weight in the user's network, without ``.weight``.
        kind: ``"conv1d"``, ``"conv2d"``, ``"linear"`` or ``"embedding"``.
        parameter: name of the weight in the network's state.
        shape: of the weight.
        transposed: the weight's last axis counts output channels (``x @ W``), not its first.
        groups: of a convolution; 1 elsewhere.
        macs: multiply-accumulate operations per sample, all uses together.
        uses: in the order of the graph.
    """

    name: str
    kind: str
    parameter: str
    shape: tuple[int, ...]
    transposed: bool
    groups: int
    macs: int
    uses: tuple[Use, ...]

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        n = 1
        for size in self.shape:
            n *= size
        return n

    @property
    def n_rows(self) -> int:
        """Number of output channels of the weight (embeddings: entries)."""
        return self.shape[-1] if self.transposed else self.shape[0]

    @property
    def quantizes_input(self) -> bool:
        """Whether the layer reads an activation; embeddings read indices."""
        return self.kind != "embedding"

    @property
    def shared(self) -> bool:
        """Whether several operations read the weight."""
        return len(self.uses) > 1


def find_layers(graph: Graph, macs: Mapping[str, int]) -> tuple[Layer, ...]:
    """Convolutions, linear layers, embeddings and attention projections, in the order of their first operation.

    A parameter is a layer if operations read it as a weight, directly or through views; linear layers may be
    written as ``linear``, ``addmm``, ``mm`` or ``matmul``. Operations on two activations are no layers.
    """
    roots = _weight_roots(graph)
    found: dict[str, list[tuple[Node, str, bool]]] = {}
    for node in graph:
        kind = _KINDS.get(node.target)
        weight = _weight_argument(node)
        if kind is None or weight is None or weight not in roots:
            continue
        parameter, flipped = roots[weight]
        ranks = {len(graph[parameter].shape), len(graph[weight].shape)}  # matrices cut from a larger tensor are none
        if not graph[parameter].floating or ranks != {_RANKS[kind]} or (flipped and kind.startswith("conv")):
            continue
        if _bias_argument(node) in graph.of_samples:
            continue  # adds an activation, which no affine could take over
        # `linear` multiplies with the transposed weight, `mm` and its kin with the weight as it is.
        transposed = not flipped if node.target in _PRODUCTS else flipped
        found.setdefault(parameter, []).append((node, kind, transposed))
    taken = {node.target for node in graph if node.op == "tensor"}
    layers = []
    for parameter, uses in found.items():
        if len({transposed for _, _, transposed in uses}) > 1:
            continue  # rows in one operation are columns in another: no single scale per output channel exists
        target = graph[parameter].target
        name = _layer_name(target)
        name = target if name in taken else name  # `proj.weight` and `proj_weight` may both exist
        taken.add(name)
        layers.append(_layer(graph, name, graph[parameter], uses, macs))
    return tuple(layers)


def _layer(
    graph: Graph, name: str, parameter: Node, uses: list[tuple[Node, str, bool]], macs: Mapping[str, int]
) -> Layer:
    nodes = [node for node, _, _ in uses]
    kinds = [kind for _, kind, _ in uses]
    # By what they read, not by their modules: the tracer forgets these inside of `no_grad` blocks.
    calls = [
        (node.target, *(_origin(graph, name) for name in (_weight_argument(node), _bias_argument(node))))
        for node in nodes
    ]
    return Layer(
        name,
        next((kind for kind in kinds if kind != "embedding"), "embedding"),
        parameter.target,
        tuple(size or 0 for size in parameter.shape),
        uses[0][2],
        _groups(nodes[0]),
        sum(macs.get(node.name, 0) for node in nodes),
        tuple(
            _use(graph, node, kind, transposed, calls.count(call) == 1)
            for (node, kind, transposed), call in zip(uses, calls, strict=True)
        ),
    )


def _origin(graph: Graph, name: str | None) -> str | None:
    """What a parameter, or something computed from parameters alone, is: equal however often it is computed."""
    if name is None:
        return None
    node = graph[name]
    if node.op == "tensor":
        return node.target
    return f"{node.target}{substitute((node.args, node.kwargs or {}), lambda ref: _origin(graph, ref.node))}"


def _use(graph: Graph, node: Node, kind: str, transposed: bool, correctable: bool) -> Use:
    weight = graph[_weight_argument(node) or ""]
    if kind == "embedding":
        columns = weight.shape[0] if transposed else weight.shape[-1]
        return Use(node.name, None, None, len(node.shape) - 1, int(columns or 0), correctable)
    rows = int((weight.shape[-1] if node.target in _PRODUCTS else weight.shape[0]) or 0)
    source = node.args[1 if node.target == "aten.addmm.default" else 0]
    axis = 1 if kind.startswith("conv") else len(node.shape) - 1
    return Use(node.name, source.node, _bias_argument(node), axis, rows, correctable)


def _weight_argument(node: Node) -> str | None:
    """Name of the node that stands where an operation expects its weight."""
    position = {"aten.embedding.default": 0, "aten.addmm.default": 2}.get(node.target, 1)
    if node.target not in _KINDS or len(node.args) <= position or not isinstance(node.args[position], Ref):
        return None
    if node.target == "aten.addmm.default" and any((node.kwargs or {}).get(key, 1) != 1 for key in ("alpha", "beta")):
        return None
    return str(node.args[position].node)


def _bias_argument(node: Node) -> str | None:
    """Name of the node that an operation adds to its product, if any."""
    position = {"aten.embedding.default": None, "aten.addmm.default": 0}.get(node.target, 2)
    if position is None or len(node.args) <= position or not isinstance(node.args[position], Ref):
        return None
    return str(node.args[position].node)


def _weight_roots(graph: Graph) -> dict[str, tuple[str, bool]]:
    """For every parameter and view of one: the parameter's node, and whether rows and columns are exchanged."""
    roots: dict[str, tuple[str, bool]] = {}
    for node in graph:
        if node.op == "tensor":
            roots[node.name] = (node.name, False)
        elif node.target in WEIGHT_VIEWS and len(node.inputs) == 1 and node.inputs[0] in roots:
            root, flipped = roots[node.inputs[0]]
            roots[node.name] = (root, flipped ^ (node.target in _TRANSPOSITIONS))
    return roots


def _layer_name(parameter: str) -> str:
    head, _, last = parameter.rpartition(".")
    if last == "weight" and head:
        return head
    return parameter.removesuffix("_weight")  # attention's in_proj_weight, q_proj_weight, …


def _groups(node: Node) -> int:
    if not node.target.startswith("aten.conv"):
        return 1
    return int(node.args[6]) if len(node.args) > 6 else 1


def find_edges(graph: Graph, layers: tuple[Layer, ...]) -> dict[str, tuple[str, ...]]:
    """Activations between layers that no layer's own bits govern, by the operation that reads them.

    These are what additions, concatenations and pooling behind the first layer read. An integer runtime needs them
    quantized too, or it runs the layers around them in float.
    """
    uses = [use.node for layer in layers for use in layer.uses]
    after = graph.downstream([name for name in uses if graph[name].target != "aten.embedding.default"])
    edges: dict[str, tuple[str, ...]] = {}
    for node in graph:
        if not node.target.startswith(_EDGE_READERS) or node.name not in after:
            continue
        readers = [graph[name].target for name in graph.consumers[node.name]]
        if readers and all(target.startswith(_SOFTMAX) for target in readers):
            continue  # scores and mask of an attention: its products stay float
        values = [name for name in node.inputs if graph[name].floating and graph[name].op == "call"]
        activations = [name for name in values if name in graph.of_samples]
        combines = node.target in ("aten.add.Tensor", "aten.sub.Tensor")
        if combines and len(activations) < 2:
            continue  # adding a constant or a parameter is no meeting of two branches
        if sources := tuple(name for name in activations if name in after):
            edges[node.name] = sources
    return edges


def count_macs(graph: Graph, tensors: Mapping[str, torch.Tensor], inputs: list[torch.Tensor]) -> dict[str, int]:
    """Multiply-accumulate operations per sample of every node that has any.

    Counted by ``torch.utils.flop_counter`` on the meta device, with attention written out as matrix products
    (fused attention is silently not counted elsewhere). Two samples are counted and halved; operations on parameters
    alone count in full.
    """
    pair = [(torch.cat([x, x])[:2] if x.dim() else x).to("meta") for x in inputs]
    meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    values: dict[str, object] = {}
    result: dict[str, int] = {}
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        for node in graph:
            if node.op == "input":
                values[node.name] = pair[int(node.target)]
            elif node.op == "tensor":
                values[node.name] = meta[node.target]
            else:
                args, kwargs = substitute((node.args, node.kwargs or {}), lambda ref: values[ref.node])
                if kwargs.get("device") is not None:
                    kwargs["device"] = torch.device("meta")
                counter = FlopCounterMode(display=False)
                with counter:
                    values[node.name] = operator(node.target)(*args, **kwargs)
                if counter.get_total_flops():
                    result[node.name] = counter.get_total_flops() // (4 if node.name in graph.of_samples else 2)
    return result


def module_layer_names(module: nn.Module) -> list[str]:
    """Names that the layers of a module will have, by its modules alone: a guess before it is traced on data."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.Embedding)
    return [name for name, child in module.named_modules() if isinstance(child, kinds)]
