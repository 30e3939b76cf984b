"""Blocks of a traced network that can be left out without training, and why the others cannot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evo_mpq.network.graph import Graph, Node, Ref
from evo_mpq.network.layers import Layer
from evo_mpq.space.building import matches_by_part


@dataclass(frozen=True)
class Block:
    """A module that can be dropped: one value of the graph is replaced by another one.

    A batch normalization that was folded into a layer belongs to that layer, wherever its module stands: it goes with
    a layer that is dropped, and stays with the layer in front of a block that began with it.

    Attributes:
        name: path of the module.
        becomes: ``"identity"``, the module passes its input on; or ``"zero"``, the module is the branch of a residual
            addition and adds nothing.
        nodes: what is not computed if the block is dropped, in the order of the graph: the block, and what is computed
            for it alone, such as the normalization in front of a branch; not the addition.
        source: node whose value is taken instead.
        output: node whose value is replaced: the block's output, or the residual addition, whose other operand is
            ``source``.
        layers: names of the layers inside, in the order of the graph.
    """

    name: str
    becomes: Literal["identity", "zero"]
    nodes: tuple[str, ...]
    source: str
    output: str
    layers: tuple[str, ...]


def find_blocks(
    graph: Graph, layers: Sequence[Layer], shapes: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Block | str]:
    """Every module that holds a layer: the block, or a sentence that says why it cannot be dropped.

    A module whose one output is read by nothing but the addition of a residual connection around it becomes zero. Any
    other module with one output and one activation of the same shape among its inputs becomes the identity; masks,
    sizes and activations of other shapes may come in, too. What is computed for a block alone must be part of it:
    without a block, no layer outside of it loses its reader.

    Args:
        graph: the traced network.
        layers: its layers.
        shapes: of the values on some batch, by node, to compare sizes that vary between batches. Without them such
            sizes count as equal if the first one is all that varies, and no identity is offered if others do.

    Returns:
        By path of the module, in the order of the graph, outer modules first.
    """
    uses = {use.node for layer in layers for use in layer.uses}
    paths = dict.fromkeys(path for node in graph if node.name in uses for path in _paths(node.module))
    found: dict[str, Block | str] = {}
    for path in paths:
        try:
            found[path] = _block(graph, layers, path, shapes)
        except _NotDroppableError as error:
            found[path] = str(error)
    return found


def replacements(dropped: Iterable[Block]) -> dict[str, str]:
    """The node to take instead of each dropped block's output; of blocks with one output the outermost counts.

    A source may be replaced itself.
    """
    return {block.output: block.source for block in sorted(dropped, key=lambda block: len(block.nodes))}


def active_nodes(graph: Graph, dropped: Collection[Block]) -> frozenset[str]:
    """Names of the nodes that the output still needs when these blocks are dropped, parameters included.

    The output of a dropped identity is among them, since its value is needed, though not computed.
    """
    sources = replacements(dropped)
    needed = {graph.output}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update([sources[node.name]] if node.name in sources else node.inputs)
    return frozenset(needed)


def matching_blocks(pattern: str | Sequence[str], found: Iterable[str]) -> list[str]:
    """The modules among ``found`` that a pattern, or any of several, matches; of nested ones the outermost.

    Patterns match part by part: ``*``, ``?`` and ``[…]`` stand for characters of one part and cross no dot.

    >>> matching_blocks("stage?.*", ["stage1", "stage1.0", "stage1.0.conv1", "stage2.0"])
    ['stage1.0', 'stage2.0']
    >>> matching_blocks(["stage1", "*.0"], ["stage1", "stage1.0", "stage2.0"])
    ['stage1', 'stage2.0']
    """
    patterns = [pattern] if isinstance(pattern, str) else pattern
    matching = [name for name in found if any(matches_by_part(name, each) for each in patterns)]
    return [name for name in matching if not any(_within(name, other) and name != other for other in matching)]


class _NotDroppableError(Exception):
    """A block is refused; the text is the reason."""


def _paths(module: str) -> list[str]:
    """A module's path and those of the modules around it, outermost first, without the network itself."""
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))] if module else []


def _within(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def _block(graph: Graph, layers: Sequence[Layer], path: str, shapes: Mapping[str, Sequence[int]] | None) -> Block:
    inside = _inside(graph, path)
    own = _layers_inside(layers, path, inside)
    output = _only_output(graph, inside)
    inputs = [
        graph[name]
        for name in dict.fromkeys(name for node in graph if node.name in inside for name in node.inputs)
        if name not in inside and name in graph.of_samples
    ]
    becomes: Literal["identity", "zero"] = "zero"
    replaced = _residual_addition(graph, output, inputs)
    if replaced is None:
        becomes, replaced = "identity", (output, _same_shape(output, inputs, shapes))
    names = tuple(layer.name for layer in own)
    bare = Block(path, becomes, (), replaced[1].name, replaced[0].name, names)
    active = active_nodes(graph, [bare])
    lost = [layer.name for layer in layers if not active.issuperset(use.node for use in layer.uses)]
    if outside := [layer for layer in lost if layer not in names]:
        raise _NotDroppableError(
            f"Without it nothing would read the output of {', '.join(outside)}; drop a module that holds them all."
        )
    computed = active - {output.name}  # the identity's output is needed, but not computed
    nodes = tuple(node.name for node in graph if node.op == "call" and node.name not in computed)
    return Block(path, becomes, nodes, bare.source, bare.output, names)


def _inside(graph: Graph, path: str) -> set[str]:
    """The nodes that a module computes.

    Sizes that follow from sizes outside do not count: the tracer computes each once for the whole network, in the
    module that happens to need it first.
    """
    inside: set[str] = set()
    for node in graph:
        if _within(node.module, path) and not (_is_size(node) and inside.isdisjoint(node.inputs)):
            inside.add(node.name)
    return inside


def _is_size(node: Node) -> bool:
    """Whether a node computes a number from sizes of tensors."""
    number = node.op == "call" and not node.shape and not node.floating
    return number and (node.target == "aten.sym_size.int" or not node.target.startswith("aten."))


def _layers_inside(layers: Sequence[Layer], path: str, inside: set[str]) -> list[Layer]:
    """The layers that are a block's own, and no one else's."""
    own = [layer for layer in layers if any(use.node in inside for use in layer.uses)]
    if all(_is_repeated(layer, inside) for layer in own):
        raise _NotDroppableError(
            "It is called more than once, or all of its layers are; a block takes the place of one call."
        )
    if len(own) == len(layers):
        raise _NotDroppableError("It holds every layer of the network; nothing would be left to compress.")
    for layer in layers:
        if layer not in own and not layer.parameter.startswith(f"{path}."):
            continue
        if not layer.parameter.startswith(f"{path}."):
            raise _NotDroppableError(f"It reads the weight of {layer.name}, which belongs to another module.")
        if not inside.issuperset(use.node for use in layer.uses):
            raise _NotDroppableError(f"The weight of its layer {layer.name} is read outside of it.")
    return own


def _is_repeated(layer: Layer, inside: set[str]) -> bool:
    return sum(use.node in inside and not use.correctable for use in layer.uses) > 1


def _only_output(graph: Graph, inside: set[str]) -> Node:
    """The one value that is read outside."""
    outputs = [
        node
        for node in graph
        if node.name in inside and (node.name == graph.output or not inside.issuperset(graph.consumers[node.name]))
    ]
    if sizes := [node.name for node in outputs if _is_size(node)]:
        raise _NotDroppableError(f"A size that it computes is read outside of it ({', '.join(sizes)}).")
    if len(outputs) > 1:
        values = ", ".join(_described(node) for node in outputs)
        raise _NotDroppableError(f"{len(outputs)} values that it computes are read outside of it: {values}.")
    (output,) = outputs
    if not output.floating:
        raise _NotDroppableError(f"Its output is no floating-point tensor ({_described(output)}).")
    return output


def _residual_addition(graph: Graph, output: Node, inputs: Sequence[Node]) -> tuple[Node, Node] | None:
    """The addition to which a block is the branch, and its other operand."""
    readers = graph.consumers[output.name]
    if output.name == graph.output or len(readers) != 1:
        return None
    addition = graph[readers[0]]
    operands = addition.args[:2]
    if addition.target != "aten.add.Tensor" or (addition.kwargs or {}).get("alpha", 1) != 1:
        return None
    others = [graph[operand.node] for operand in operands if isinstance(operand, Ref) and operand.node != output.name]
    if len(operands) != 2 or len(others) != 1:
        return None
    (other,) = others
    if not other.floating or other.name not in graph.of_samples or other.shape != output.shape:
        return None
    below = graph.downstream([other.name])
    return (addition, other) if any(node.floating and node.name in below for node in inputs) else None


def _same_shape(output: Node, inputs: Sequence[Node], shapes: Mapping[str, Sequence[int]] | None) -> Node:
    """The one input that can stand for the output."""
    tensors = [node for node in inputs if node.floating]
    alike = [node for node in tensors if node.shape == output.shape]
    if shapes is not None:
        alike = [node for node in alike if tuple(shapes[node.name]) == tuple(shapes[output.name])]
    if not alike:
        given = ", ".join(_described(node) for node in tensors) or "no activation"
        raise _NotDroppableError(f"Its output has the shape {_shape(output)}; what it reads is {given}.")
    if len(alike) > 1:
        given = ", ".join(node.name for node in alike)
        raise _NotDroppableError(f"It reads several activations of its output's shape {_shape(output)}: {given}.")
    if shapes is None and output.shape.count(None) > 1:
        raise _NotDroppableError(
            f"Its output has the shape {_shape(output)}, where more than the number of samples varies between "
            "batches; whether that of its input is the same is not known."
        )
    return alike[0]


def _shape(node: Node) -> str:
    unknown = "n" if node.shape.count(None) == 1 else "?"
    return f"({', '.join(unknown if size is None else str(size) for size in node.shape)})"


def _described(node: Node) -> str:
    return f"{node.name} {_shape(node)}"
