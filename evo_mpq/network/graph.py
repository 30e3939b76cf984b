"""The traced network as plain values: nodes that name operators, so that graphs hash, pickle and compare."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import networkx as nx
import torch


@dataclass(frozen=True)
class Ref:
    """An argument that is the value of another node."""

    node: str


@dataclass(frozen=True, eq=False)
class Node:
    """One value of a traced network.

    Attributes:
        name: unique in its graph.
        op: ``"input"`` (a tensor of the batch), ``"tensor"`` (a parameter, buffer or constant) or ``"call"``.
        target: for an input its position; for a tensor its name in the network's state; for a call the operator,
            e.g. ``"aten.conv2d.default"``.
        args: positional arguments; other nodes stand as ``Ref``.
        kwargs: keyword arguments.
        module: path of the module that was running, ``""`` for the network itself.
        shape: of the value, None where a size depends on the batch; empty tuple for numbers.
        floating: whether the value is a floating-point tensor.
    """

    name: str
    op: str
    target: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    module: str = ""
    shape: tuple[int | None, ...] = ()
    floating: bool = False

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the nodes that this one reads, in order of appearance."""
        return tuple(dict.fromkeys(ref.node for ref in references((self.args, self.kwargs or {}))))

    @property
    def signature(self) -> str:
        """Text that is equal for two nodes if they compute the same from the same inputs."""
        shape = self.shape if self.op == "tensor" else ""  # of other values it follows, or depends on the batch
        return f"{self.op} {self.name} {self.target} {shape} {self.args!r} {dict(self.kwargs or {})!r}"


def references(value: Any) -> Iterator[Ref]:
    """Every ``Ref`` inside nested lists, tuples and mappings, in order."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def substitute(value: Any, replace: Callable[[Ref], Any]) -> Any:
    """``value`` with ``replace(ref)`` in the place of every ``Ref``; nested lists, tuples and mappings are kept."""
    if isinstance(value, Ref):
        return replace(value)
    if isinstance(value, Mapping):
        return {key: substitute(item, replace) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, replace) for item in value]
    if isinstance(value, tuple):
        return tuple(substitute(item, replace) for item in value)
    return value


class Graph:
    """Nodes in an order in which they can be computed, and the one that is the output.

    Args:
        nodes: every node after those it reads.
        output: name of the node whose value counts.
    """

    def __init__(self, nodes: Sequence[Node], output: str) -> None:
        self.nodes = tuple(nodes)
        self.output = output
        self.by_name = {node.name: node for node in self.nodes}
        self.consumers: dict[str, tuple[str, ...]] = {node.name: () for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                self.consumers[name] += (node.name,)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, name: str) -> Node:
        return self.by_name[name]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @property
    def n_inputs(self) -> int:
        """Number of tensors that make up a batch's inputs."""
        return sum(node.op == "input" for node in self.nodes)

    def node_hashes(self) -> list[str]:
        """Four hexadecimal digits per node, of its signature: enough to name the first node that differs."""
        return [hashlib.sha256(node.signature.encode()).hexdigest()[:4] for node in self.nodes]

    def hash(self) -> str:
        """SHA-256 of all signatures, hexadecimal."""
        lines = "\n".join(node.signature for node in self.nodes)
        return hashlib.sha256(f"{lines}\n-> {self.output}".encode()).hexdigest()

    def to_networkx(self) -> nx.DiGraph:
        """The same graph for networkx: node attributes are the fields of ``Node``, edges point along the data."""
        graph = nx.DiGraph()
        for node in self.nodes:
            graph.add_node(node.name, op=node.op, target=node.target, module=node.module, shape=node.shape)
        graph.add_edges_from((source, node.name) for node in self.nodes for source in node.inputs)
        return graph

    @cached_property
    def of_samples(self) -> frozenset[str]:
        """Names of the nodes whose value depends on the batch; the others are computed from parameters alone."""
        return frozenset(self.downstream([node.name for node in self.nodes if node.op == "input"]))

    def downstream(self, names: Sequence[str]) -> set[str]:
        """Names of the nodes that depend on any of ``names``, these included."""
        found = set(names)
        for node in self.nodes:
            if not found.isdisjoint(node.inputs):
                found.add(node.name)
        return found


def on_device(graph: Graph, device: torch.device) -> Graph:
    """The same graph for tensors on a device: operations that make tensors make them there."""

    def moved(value: Any) -> Any:
        if isinstance(value, torch.device):
            return device
        if isinstance(value, Mapping):
            return {key: moved(item) for key, item in value.items()}
        return type(value)(map(moved, value)) if isinstance(value, list | tuple) else value

    nodes = [replace(node, args=moved(node.args), kwargs=moved(node.kwargs)) for node in graph]
    return Graph(nodes, graph.output)


# `view` demands strides that a caller's memory format may not have; `reshape` gives the same values for any.
_SUBSTITUTES = {"aten.view.default": "aten.reshape.default"}


def operator(target: str) -> Callable[..., Any]:
    """The function that an operator's name stands for.

    >>> operator("operator.mul")(3, 4)
    12
    """
    target = _SUBSTITUTES.get(target, target)
    namespace, _, rest = target.partition(".")
    if namespace in ("operator", "math", "torch"):
        return getattr(importlib.import_module(namespace), rest)  # type: ignore[no-any-return]
    name, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), name)
    return getattr(packet, overload or "default")  # type: ignore[no-any-return]


def constant(graph: Graph, tensors: Mapping[str, torch.Tensor], name: str) -> Any:
    """The value of a node that depends on no input of the network."""
    node = graph[name]
    if node.op == "tensor":
        return tensors[node.target]
    args, kwargs = substitute((node.args, node.kwargs or {}), lambda ref: constant(graph, tensors, ref.node))
    return operator(node.target)(*args, **kwargs)


def run(
    graph: Graph,
    tensors: Mapping[str, torch.Tensor],
    inputs: Sequence[torch.Tensor],
    visit: Callable[[Node, Any], Any] | None = None,
) -> torch.Tensor:
    """The network's output, computed node by node; values are dropped after their last use.

    Args:
        graph: the traced network.
        tensors: its parameters, buffers and constants by name.
        inputs: tensors of one batch, in the order of the graph's inputs.
        visit: called with every node and its value; what it returns (if not None) replaces the value.
    """
    remaining = {name: len(readers) for name, readers in graph.consumers.items()}
    remaining[graph.output] += 1
    values: dict[str, Any] = {}
    for node in graph:
        if node.op == "input":
            value: Any = inputs[int(node.target)]
        elif node.op == "tensor":
            value = tensors[node.target]
        else:
            args, kwargs = substitute((node.args, node.kwargs or {}), lambda ref: values[ref.node])
            value = operator(node.target)(*args, **kwargs)
        if visit is not None:
            replaced = visit(node, value)
            value = value if replaced is None else replaced
        values[node.name] = value
        for name in node.inputs:
            remaining[name] -= 1
            if remaining[name] == 0:
                del values[name]
    output: torch.Tensor = values[graph.output]
    return output
