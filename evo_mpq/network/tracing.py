"""From a module to a graph: ``torch.export``, then plain nodes with batch normalization folded."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from evo_mpq.errors import EvoMpqError, NetworkError
from evo_mpq.network.calling import FlatCall, Forward, default_forward, tensors_of
from evo_mpq.network.graph import Graph, Node, Ref, substitute

# Identities in evaluation mode, and checks that the tracer leaves behind.
_IDENTITIES = {"aten.clone.default", "aten.detach.default", "aten.alias.default", "aten.dropout.default"}
_CHECKS = {
    "aten._assert_tensor_metadata.default",
    "aten._assert_scalar.default",
    "aten._assert_async.msg",
    "aten.sym_constrain_range.default",
    "aten.sym_constrain_range_for_size.default",
}
_BATCH_NORMS = {"aten._native_batch_norm_legit_no_training.default", "aten.batch_norm.default"}
_FOLDABLE = {
    "aten.conv1d.default": 1,
    "aten.conv1d.padding": 1,
    "aten.conv2d.default": 1,
    "aten.conv2d.padding": 1,
    "aten.linear.default": 1,
}
# Operators that only look at a tensor in another way; of a parameter, they are part of the layer that reads them.
WEIGHT_VIEWS = {
    "aten.t.default",
    "aten.transpose.int",
    "aten.permute.default",
    "aten.split.Tensor",
    "aten.split_with_sizes.default",
    "aten.chunk.default",
    "aten.slice.Tensor",
    "aten.narrow.default",
    "aten.select.int",
    "aten.unbind.int",
    "operator.getitem",
}


@dataclass(frozen=True, eq=False)
class Traced:
    """What tracing gives.

    Attributes:
        graph: the nodes; parameters and buffers are named as in the user's module.
        tensors: their values, float32, batch normalization folded; detached copies.
        structure: how the tensors of a batch's inputs are nested.
    """

    graph: Graph
    tensors: dict[str, torch.Tensor]
    structure: pytree.TreeSpec


def trace(
    module: nn.Module,
    inputs: Any,
    *,
    dynamic: Sequence[Sequence[int]] | None = None,
    forward: Forward | None = None,
    output: str | int | None = None,
) -> Traced:
    """The graph of ``module`` on batches like ``inputs``, whose first dimension may have any size.

    The module itself is neither modified nor kept: a copy in evaluation mode, in float32, is traced.

    Args:
        module: the user's network.
        inputs: inputs of one batch: a tensor, or tensors nested in mappings, tuples and lists.
        dynamic: per tensor of the inputs the dimensions that vary between batches; only the first by default.
        forward: how ``inputs`` become a call (default: ``default_forward``).
        output: which output counts (default: the only one).

    Raises:
        NetworkError: the network cannot be called or traced; with torch's reason and the usual remedy.
    """
    structure = pytree.tree_structure(inputs)
    leaves = tensors_of(inputs)
    network = evaluation_copy(module)
    flat = FlatCall(network, structure, forward or default_forward, output).eval()
    examples = [_at_least_two(leaf) for leaf in leaves]
    dimensions = dynamic if dynamic is not None else [(0,)] * len(examples)
    shapes = tuple(
        {dim: torch.export.Dim.DYNAMIC for dim in dims if dim < example.dim()}
        for dims, example in zip(dimensions, examples, strict=True)
    )
    try:
        with torch.no_grad():
            flat(*(example.clone() for example in examples))  # it may write into its inputs
    except EvoMpqError:
        raise
    except Exception as error:
        # A mismatch of network and data is told in the network's own terms, not the tracer's.
        shapes_given = ", ".join(str(tuple(example.shape)) for example in examples)
        raise NetworkError(
            f"The network rejects inputs of shape {shapes_given}: {type(error).__name__}: {error}."
        ) from error
    try:
        with torch.enable_grad(), _quiet():
            # Gradients keep attention modules off their fused inference path, whose operator cannot be quantized.
            program = torch.export.export(flat, tuple(examples), dynamic_shapes=(shapes,))
            program = program.run_decompositions({})
    except Exception as error:
        raise NetworkError(_why_not_traceable(error)) from error
    graph, tensors = _plain(program, network)
    graph, tensors = fold_batch_norms(graph, tensors)
    return Traced(_order_weight_views(graph), tensors, structure)


def evaluation_copy(module: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode with float32 parameters that ask for gradients.

    Raises:
        NetworkError: the module cannot be copied.
    """
    try:
        network = copy.deepcopy(module)
    except Exception as error:
        raise NetworkError(
            f"The network cannot be copied ({type(error).__name__}: {error}); evo-mpq works on a copy so that yours "
            "is never modified. Remove open files, locks and generators from its attributes."
        ) from error
    network.eval()
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            tensor.data = tensor.data.float()
    for parameter in network.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return network


def _at_least_two(tensor: torch.Tensor) -> torch.Tensor:
    """The first samples of a batch, two of them at least: a batch of one would be traced as a constant."""
    if tensor.dim() == 0:
        return tensor
    return torch.cat([tensor, tensor])[:2].contiguous() if len(tensor) < 2 else tensor[:2].contiguous()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the tracer's own warnings, log lines and printed graphs off the user's screen."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _why_not_traceable(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    reason = "\n  ".join(lines[:12]) or repr(error)
    return (
        f"The network cannot be traced by torch.export ({type(error).__name__}):\n  {reason}\n"
        "Usual remedies: replace Python `if`/`while` on values of tensors by torch.where or by a constant of the "
        "configuration, `.item()` and `int(tensor)` by tensor operations, sizes read from the batch by -1 in "
        "reshapes; or wrap the network in a module that computes only what deployment needs."
    )


def _plain(program: Any, network: nn.Module) -> tuple[Graph, dict[str, torch.Tensor]]:
    """The exported program's nodes as plain values, and the tensors that they name."""
    canonical = _canonical_names(network)
    lifted = {
        **program.state_dict,
        **{name: tensor for name, tensor in program.constants.items() if isinstance(tensor, torch.Tensor)},
    }
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    # A network that writes into its inputs (a first ReLU in place) is still a function of them.
    harmless = (OutputKind.USER_OUTPUT, OutputKind.USER_INPUT_MUTATION)
    mutated = [spec.target for spec in program.graph_signature.output_specs if spec.kind not in harmless]
    if mutated:
        raise NetworkError(
            f"The network changes its own state in evaluation mode ({', '.join(map(str, mutated))}); a compressed "
            "network is a pure function of its inputs. Keep such counters out of `forward` in evaluation mode."
        )
    nodes: list[Node] = []
    names: dict[str, Any] = {}  # by exported node: a Ref to our node or to the one it is identical to, or several
    tensor_nodes: dict[str, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    n_inputs = 0

    def add(node: Any, prefix: str = "") -> None:
        nonlocal n_inputs
        if node.op == "placeholder" and not prefix:
            kind = specs[node.name].kind
            if kind == InputKind.USER_INPUT:
                nodes.append(_node(node, "input", str(n_inputs)))
                n_inputs += 1
            else:
                target = specs[node.name].target
                name = canonical.get(target, target.removeprefix("network."))
                if name in tensor_nodes:
                    names[node.name] = Ref(tensor_nodes[name])
                    return
                # Other layouts in memory make kernels round differently than what a packed file gives back.
                tensors[name] = lifted[target].detach().clone(memory_format=torch.contiguous_format)
                tensor_nodes[name] = node.name
                nodes.append(_node(node, "tensor", name))
            names[node.name] = Ref(node.name)
        elif node.op == "call_function":
            target = _target_name(node.target)
            if target in _CHECKS:
                return
            args = _plain_arguments(node.args, names, prefix)
            kwargs = _plain_arguments(node.kwargs, names, prefix)
            if target in _IDENTITIES and kwargs.get("memory_format") is None:
                names[prefix + node.name] = args[0]
                return
            nodes.append(_node(node, "call", target, args, kwargs, prefix))
            names[prefix + node.name] = Ref(prefix + node.name)
        elif node.op not in ("placeholder", "get_attr", "output"):
            raise NetworkError(f"The traced network holds a {node.op} node ({node.name}), which evo-mpq cannot run.")

    def inline(node: Any, prefix: str, owner: Any) -> None:
        """Runs the body of a nested graph in place (a `with torch.no_grad()` block becomes one)."""
        body, operands = _nested(node, owner)
        inner = f"{prefix}{node.name}."
        for placeholder, operand in zip([n for n in body.graph.nodes if n.op == "placeholder"], operands, strict=True):
            names[inner + placeholder.name] = _plain_arguments(operand, names, prefix)
        walk(body, inner)
        (returned,) = next(n for n in body.graph.nodes if n.op == "output").args
        names[prefix + node.name] = _plain_arguments(returned, names, inner)

    def walk(owner: Any, prefix: str) -> None:
        for node in owner.graph.nodes:
            if node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator):
                inline(node, prefix, owner)
            elif (
                node.op == "call_function"
                and _target_name(node.target) == "operator.getitem"
                and isinstance(names.get(prefix + node.args[0].name), list | tuple)
            ):
                names[prefix + node.name] = names[prefix + node.args[0].name][node.args[1]]
            else:
                add(node, prefix)

    walk(program.graph_module, "")
    (output,) = [
        names[spec.arg.name] for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT
    ]
    return _without_dead_nodes(Graph(nodes, output.node)), tensors


def _nested(node: Any, owner: Any) -> tuple[Any, Sequence[Any]]:
    name = node.target.name() if callable(node.target.name) else str(node.target)
    bodies = [i for i, arg in enumerate(node.args) if getattr(arg, "op", None) == "get_attr"]
    if len(bodies) != 1 or not name.startswith("wrap_with"):
        raise NetworkError(
            f"The network's control flow depends on values of tensors ({name}); a traced network is one sequence of "
            "operations. Use torch.where, or wrap the branch that deployment takes in a module of its own."
        )
    body = getattr(owner, node.args[bodies[0]].target)
    return body, node.args[bodies[0] + 1 :]


def _node(
    node: Any,
    op: str,
    target: str,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> Node:
    value = node.meta.get("val")
    tensor = isinstance(value, torch.Tensor)
    shape = tuple(size if isinstance(size, int) else None for size in value.shape) if tensor else ()
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return Node(
        prefix + node.name,
        op,
        target,
        tuple(args),
        dict(kwargs or {}),
        path.removeprefix("network").removeprefix("."),
        shape,
        tensor and value.is_floating_point(),
    )


def _plain_arguments(value: Any, names: Mapping[str, Any], prefix: str) -> Any:
    if isinstance(value, torch.fx.Node):
        return names[prefix + value.name]
    if isinstance(value, Mapping):
        return {key: _plain_arguments(item, names, prefix) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return (
            type(value)(_plain_arguments(item, names, prefix) for item in value)
            if type(value)
            in (
                list,
                tuple,
            )
            else [_plain_arguments(item, names, prefix) for item in value]
        )
    return value


def _target_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    module = getattr(target, "__module__", "")
    return f"{ {'_operator': 'operator'}.get(module, module.split('.')[0]) }.{target.__name__}"


def _canonical_names(network: nn.Module) -> dict[str, str]:
    """``"network.<name>"`` of every parameter and buffer → the first name of the same tensor, without the prefix."""
    first: dict[int, str] = {}
    result: dict[str, str] = {}
    for name, tensor in [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]:
        result[f"network.{name}"] = first.setdefault(id(tensor), name)
    return result


def _without_dead_nodes(graph: Graph) -> Graph:
    needed = {graph.output}
    kept = []
    for node in reversed(graph.nodes):
        if node.name in needed or node.op == "input":
            needed.update(node.inputs)
            kept.append(node)
    return Graph(kept[::-1], graph.output)


def fold_batch_norms(graph: Graph, tensors: Mapping[str, torch.Tensor]) -> tuple[Graph, dict[str, torch.Tensor]]:
    """The graph without the batch normalizations that follow a layer directly, and the layers' new tensors.

    ``γ (w x + b − μ) / √(σ² + ε) + β`` becomes one weight and one bias per output channel, computed in float64.
    A normalization whose input is read elsewhere too, or whose layer's weight is used twice, stays.
    """
    tensors = dict(tensors)
    nodes = {node.name: node for node in graph}
    order = [node.name for node in graph]
    moved: dict[str, str] = {}
    for norm in graph:
        if norm.target not in _BATCH_NORMS:
            continue
        layer = nodes[norm.args[0].node]
        results = [graph[name] for name in graph.consumers[norm.name]]
        if not _can_fold(graph, layer, norm, results):
            continue
        weight_node = graph[layer.args[1].node]
        statistics = [
            tensors[graph[ref.node].target].double() if isinstance(ref, Ref) else None for ref in norm.args[1:5]
        ]
        epsilon = norm.args[6] if "no_training" in norm.target else norm.args[7]
        gamma, beta, mean, variance = statistics
        assert mean is not None and variance is not None
        ratio = (variance + epsilon).rsqrt() * (1.0 if gamma is None else gamma)
        weight = tensors[weight_node.target].double()
        bias_ref = layer.args[2] if len(layer.args) > 2 else None
        bias = tensors[graph[bias_ref.node].target].double() if bias_ref is not None else torch.zeros_like(mean)
        folded = (bias - mean) * ratio + (0.0 if beta is None else beta)
        tensors[weight_node.target] = (weight * ratio.view(-1, *[1] * (weight.dim() - 1))).float()
        if bias_ref is not None:
            bias_name = graph[bias_ref.node].target
        else:
            bias_name = f"{weight_node.target.removesuffix('weight')}bias"
            while bias_name in tensors:  # a parameter of that name may be added somewhere else
                bias_name += "_folded"
        tensors[bias_name] = folded.float()
        if bias_ref is None:
            bias_ref = Ref(f"{layer.name}_bias")
            nodes[bias_ref.node] = Node(bias_ref.node, "tensor", bias_name, shape=tuple(folded.shape), floating=True)
            order.insert(order.index(weight_node.name) + 1, bias_ref.node)
        nodes[layer.name] = replace(layer, args=(*layer.args[:2], bias_ref, *layer.args[3:]))
        for gone in [norm, *results] if norm.target.endswith("no_training.default") else [norm]:
            moved[gone.name] = layer.name
            order.remove(gone.name)

    def follow(ref: Ref) -> Ref:
        return Ref(moved.get(ref.node, ref.node))

    kept = [
        replace(
            nodes[name],
            args=substitute(nodes[name].args, follow),
            kwargs=substitute(nodes[name].kwargs or {}, follow),
        )
        for name in order
    ]
    folded_graph = _without_dead_nodes(Graph(kept, moved.get(graph.output, graph.output)))
    used = {node.target for node in folded_graph if node.op == "tensor"}
    return folded_graph, {name: tensor for name, tensor in tensors.items() if name in used}


def _can_fold(graph: Graph, layer: Node, norm: Node, results: Sequence[Node]) -> bool:
    only_values = norm.target == "aten.batch_norm.default" or all(
        node.target == "operator.getitem" and node.args[1] == 0 for node in results
    )
    if layer.target not in _FOLDABLE or not only_values or graph.consumers[layer.name] != (norm.name,):
        return False
    if layer.target == "aten.linear.default" and len(layer.shape) != 2:
        return False  # behind a linear layer of sequences, channels of the normalization are not the layer's outputs
    own = [graph[ref.node] for ref in layer.args[1:3] if isinstance(ref, Ref)]
    statistics = [graph[ref.node] for ref in norm.args[1:5] if isinstance(ref, Ref)]
    return all(node.op == "tensor" for node in [*own, *statistics]) and all(
        graph.consumers[node.name] == (layer.name,) for node in own
    )


def _order_weight_views(graph: Graph) -> Graph:
    """Views of parameters moved right before their first reader, so that a layer's nodes stand together."""
    fixed: set[str] = set()
    for node in graph:
        if node.op == "tensor" or (node.target in WEIGHT_VIEWS and node.inputs and fixed.issuperset(node.inputs)):
            fixed.add(node.name)
    placed: set[str] = set()
    order: list[Node] = []

    def place(node: Node) -> None:
        if node.name in placed:
            return
        placed.add(node.name)
        for name in node.inputs:
            place(graph[name])
        order.append(node)

    for node in graph:
        if node.name not in fixed:
            place(node)
    return Graph(order, graph.output)
