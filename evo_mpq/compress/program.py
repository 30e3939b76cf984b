"""The compressed network as one list of steps, cut where another gene begins to matter.

Everything that runs a compressed network runs these steps: the population evaluator, the module that
``Compressor.apply`` gives and a packed file that was loaded. That is why they agree bit for bit. A layer is computed
as: quantized input → operation with the dequantized weight and without bias → one affine per output channel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from evo_mpq.compress.calibration import channel_statistics
from evo_mpq.compress.correction import Correction, corrected_affine
from evo_mpq.compress.quantizers import ActivationGrid, stored_vector
from evo_mpq.network.blocks import Block, active_nodes
from evo_mpq.network.graph import Graph, Node, Ref, constant, on_device, operator, substitute
from evo_mpq.network.layers import Layer, Use
from evo_mpq.network.products import FUSED, FusedArguments, Product, attention_weights, shared_heads

Affine = tuple[torch.Tensor, torch.Tensor]
"""Scale and shift of every output channel, each shaped to broadcast over the operation's output."""

Environment: TypeAlias = list[Any] | dict[int, Any]
"""The live value of every node, by slot."""


class Column(NamedTuple):
    """One decision that a candidate makes, in the order in which it begins to matter.

    Attributes:
        name: of a layer or a product, or of a block that may be dropped.
        kind: what is decided: the bits of what the layer or the product reads, the form of the layer's weight, or
            whether the block is dropped.
    """

    name: str
    kind: Literal["activation_bits", "weight", "drop"]


@dataclass(eq=False)
class Choice:
    """What a candidate's columns stand for: everything that steps read besides the values of other nodes.

    Attributes:
        weights: tensor of every layer.
        activations: grid of every use's input and of every operand of a product, None if it stays float.
        affines: of every use; None where the operation adds its own bias.
        channels: of every layer whose output channels are pruned ``(n_rows,)`` True for those that remain; None
            for other layers.
        dropped: names of the blocks that are left out.
    """

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    activations: dict[str, ActivationGrid | None] = field(default_factory=dict)
    affines: dict[str, Affine | None] = field(default_factory=dict)
    channels: dict[str, torch.Tensor | None] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)


Step = Callable[[Environment, Choice], None]


@dataclass(frozen=True, eq=False)
class Instruction:
    """What gives one slot its value; the steps of the segments are made of these.

    Attributes:
        kind: an operation or the rounding of an edge, which read no decision; a layer's weight; the rounding of what a
            use reads; the operation of a use; a product of activations.
        node: of the graph whose value this is, or whose edge is rounded; of a rounded input the use that reads it.
        slot: of the value.
        reads: slots that `step` reads.
        step: computes the value, as if no block were dropped; that of a use without its affine.
        columns: decisions that `step`, or the affine behind it, reads.
        block: name of the block inside which the value lies: it has none while the block is dropped.
        join: name of the block whose output this is, and the slot of what stands for it while the block is dropped.
    """

    kind: Literal["call", "weight", "round", "use", "product"]
    node: str
    slot: int
    reads: tuple[int, ...]
    step: Step
    columns: tuple[Column, ...] = ()
    block: str | None = None
    join: tuple[str, int] | None = None


@dataclass(frozen=True, eq=False)
class Segment:
    """Steps that run once a column is chosen, up to the next one.

    Attributes:
        column: what is chosen; None for the steps before the first choice.
        steps: in order.
        calibrating: the same, but each use computes its affine and puts it into the choice.
        uses: names of the uses among them.
        dead: slots whose values nobody needs after these steps.
    """

    column: Column | None
    steps: tuple[Step, ...]
    calibrating: tuple[Step, ...]
    uses: tuple[str, ...]
    dead: tuple[int, ...]


class Program:
    """The steps of one network under any policy.

    Args:
        graph: the traced network.
        tensors: its state; a layer's weight and bias are read from the choice instead.
        layers: its layers.
        products: its products of activations.
        edges: activations that no layer governs, by reader.
        edge_grids: grids for them; empty to leave them float.
        means: of every use, from the float network.
        deviations: likewise.
        correction: how affines are computed when calibrating.
        blocks: that may be dropped; no two have a node in common.
        device: where it runs; tensors are moved there.

    Attributes:
        instructions: all of them in order, whatever is chosen.
        segments: the steps that are made of them.
        columns: the decisions that a candidate makes.
        output: slot of the network's output.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, torch.Tensor],
        layers: Sequence[Layer],
        products: Sequence[Product],
        edges: Mapping[str, tuple[str, ...]],
        edge_grids: Mapping[str, ActivationGrid],
        means: Mapping[str, torch.Tensor],
        deviations: Mapping[str, torch.Tensor],
        correction: Correction,
        blocks: Sequence[Block] = (),
        device: str = "cpu",
    ) -> None:
        self._device = torch.device(device)
        self._graph = graph if device == "cpu" else on_device(graph, self._device)
        self._tensors = self.moved(tensors)
        self._edges = edges
        self._edge_grids = edge_grids
        self._means = self.moved(means)
        self._deviations = self.moved(deviations)
        self._correction = correction
        self._layers = {layer.parameter: layer for layer in layers}
        self._uses = {use.node: (layer, use) for layer in layers for use in layer.uses}
        self._products: dict[str, list[Product]] = {}
        for product in products:
            self._products.setdefault(product.node, []).append(product)
        self._block_of = {node: block for block in blocks for node in block.nodes}
        self._joins = {block.output: block for block in blocks}
        self._slots: dict[str, int] = {}
        self._constants: list[tuple[int, torch.Tensor]] = []
        self._inputs: list[tuple[int, int]] = []
        self.instructions: list[Instruction] = []
        self.segments = self._build()
        self.columns = tuple(segment.column for segment in self.segments[1:] if segment.column is not None)
        self.output = self._slots[graph.output]

    def moved(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors where the program runs."""
        return {name: tensor.to(self._device) for name, tensor in tensors.items()}

    @property
    def constants(self) -> Mapping[int, torch.Tensor]:
        """By slot, parameters and buffers that no decision changes."""
        return dict(self._constants)

    @property
    def inputs(self) -> Mapping[int, Node]:
        """By slot, the nodes that stand for a batch's inputs."""
        return {self._slots[node.name]: node for node in self._graph if node.op == "input"}

    @property
    def graph(self) -> Graph:
        """The network's, for tensors on the program's device."""
        return self._graph

    def corrected(self, node: str) -> bool:
        """Whether a use's affine depends on what the use computes on the calibration batch."""
        return self._correction != "none" and self._uses[node][1].correctable

    def use(self, node: str) -> tuple[Layer, Use]:
        """The layer whose weight an operation reads, and the use that it makes of it."""
        return self._uses[node]

    def affines(self, node: str, mean: torch.Tensor, deviation: torch.Tensor, remaining: torch.Tensor | None) -> Affine:
        """Scales and shifts of a use that gave channels such means and deviations; all ``(..., channels)``.

        Args:
            node: of the use.
            mean: of each channel on the calibration batch.
            deviation: likewise.
            remaining: False for channels that are pruned.
        """
        return corrected_affine(
            self._correction,
            mean,
            deviation,
            self._means[node].to(mean.device),
            self._deviations[node].to(mean.device),
            remaining,
        )

    def environment(self, inputs: Sequence[torch.Tensor]) -> Environment:
        """Values for one batch before any step has run."""
        values: Environment = [None] * len(self._slots)
        for slot, tensor in self._constants:
            values[slot] = tensor
        for slot, position in self._inputs:
            values[slot] = inputs[position]
        return values

    def run(self, inputs: Sequence[torch.Tensor], choice: Choice) -> torch.Tensor:
        """The output for one batch under one choice."""
        values = self.environment(inputs)
        for segment in self.segments:
            for step in segment.steps:
                step(values, choice)
            for slot in segment.dead:
                values[slot] = None
        output: torch.Tensor = values[self.output]
        return output

    def live_bytes(self, inputs: Sequence[torch.Tensor], choice: Choice) -> int:
        """The most bytes of values that are alive between two segments for one batch."""
        values = self.environment(inputs)
        most = 0
        for segment in self.segments:
            for step in segment.steps:
                step(values, choice)
            most = max(most, sum(value.nbytes for value in values if isinstance(value, torch.Tensor)))
            for slot in segment.dead:
                values[slot] = None
        return most

    def calibrate(self, inputs: Sequence[torch.Tensor], choice: Choice) -> None:
        """Puts the affine of every use into the choice, computed in one pass over the calibration batch."""
        values = self.environment(inputs)
        for segment in self.segments:
            for step in segment.calibrating:
                step(values, choice)
            for slot in segment.dead:
                values[slot] = None

    def plain_affine(self, use: Use, remaining: torch.Tensor | None = None) -> Affine:
        """The affine that only adds the operation's own bias, rounded to what a packed file stores.

        Args:
            use: of a layer.
            remaining: ``(n_channels,)`` False for channels that are pruned, and stay zero.
        """
        zero = torch.zeros(1, device=self._device)
        bias = zero if use.bias is None else constant(self._graph, self._tensors, use.bias)
        bias = bias.reshape(-1).expand(use.n_channels)
        scale = torch.ones(use.n_channels, device=self._device)
        if remaining is not None:
            bias, scale = (torch.where(remaining, vector, 0.0) for vector in (bias, scale))
        return broadcastable(self._graph, use, scale), broadcastable(self._graph, use, stored_vector(bias))

    def _slot(self, name: str) -> int:
        return self._slots.setdefault(name, len(self._slots))

    def _build(self) -> tuple[Segment, ...]:
        cuts: list[tuple[Column | None, list[tuple[Step, Step]], list[str]]] = [(None, [], [])]
        slot_segment: dict[int, list[int]] = {}  # first and last segment that touches a slot
        opened: set[Column] = set()

        def emit(
            instruction: Instruction,
            step: Step | None = None,
            calibrating: Step | None = None,
            also_reads: Sequence[int] = (),
        ) -> None:
            step = step or instruction.step
            cuts[-1][1].append((_guarded(instruction, step), _guarded(instruction, calibrating or step)))
            self.instructions.append(instruction)
            source = () if instruction.join is None else instruction.join[1:]
            for slot in [*instruction.reads, *also_reads, *source, instruction.slot]:
                slot_segment.setdefault(slot, [len(cuts) - 1, 0])[1] = len(cuts) - 1

        def cut(column: Column) -> None:
            if column not in opened:
                opened.add(column)
                cuts.append((column, [], []))

        def quantize_inputs(layer: Layer, use: Use, block: str | None) -> None:
            if use.input is None:
                return
            column = Column(layer.name, "activation_bits")
            cut(column)
            source, target = self._slot(use.input), self._slot(f"{use.node}@input")
            step = _quantize_input(use.node, source, target)
            emit(Instruction("round", use.node, target, (source,), step, (column,), block))

        for node in self._graph:
            slot = self._slot(node.name)
            around = self._block_around(node)
            block = None if around is None else around.name
            joined = self._joins.get(node.name)
            inside = None if joined is around else block  # the output of a block has a value even if it is dropped
            if block is not None:
                cut(Column(block, "drop"))
            if node.op == "input":
                self._inputs.append((slot, int(node.target)))
            elif node.op == "tensor" and node.target in self._layers:
                layer = self._layers[node.target]
                first = layer.uses[0]
                if first.input is None or first.input in self._slots:
                    quantize_inputs(layer, first, block)
                column = Column(layer.name, "weight")
                cut(column)
                emit(Instruction("weight", node.name, slot, (), _set_weight(layer.name, slot), (column,), block))
            elif node.op == "tensor":
                self._constants.append((slot, self._tensors[node.target]))
            else:
                join = None if joined is None else (joined.name, self._source_of(joined, node))
                if node.name in self._uses:
                    layer, use = self._uses[node.name]
                    if use.input is not None and f"{node.name}@input" not in self._slots:
                        quantize_inputs(layer, use, block)
                    bare, reads, step, calibrating, also_reads = self._use_steps(node, layer, use)
                    cuts[-1][2].append(node.name)
                    columns: tuple[Column, ...] = (Column(layer.name, "weight"),)
                    instruction = Instruction("use", node.name, slot, tuple(reads), bare, columns, inside, join)
                    emit(instruction, step, calibrating, also_reads)
                elif node.name in self._products:
                    columns = tuple(Column(product.name, "activation_bits") for product in self._products[node.name])
                    for column in columns:
                        cut(column)
                    step, reads = self._product_step(node)
                    emit(Instruction("product", node.name, slot, tuple(reads), step, columns, inside, join))
                else:
                    args, kwargs = _renamed(node, self._edge_sources(node))
                    step, reads = self._call_step(node.target, args, kwargs, slot)
                    emit(Instruction("call", node.name, slot, tuple(reads), step, (), inside, join))
            if node.name in self._edge_grids:
                target = self._slot(f"{node.name}@edge")
                step = _quantize_edge(self._edge_grids[node.name], slot, target)
                emit(Instruction("call", node.name, target, (slot,), step, (), inside))
        constants = {slot for slot, _ in self._constants} | {slot for slot, _ in self._inputs}
        output = self._slots[self._graph.output]
        dead: list[list[int]] = [[] for _ in cuts]
        for slot, (first_segment, last_segment) in slot_segment.items():
            if slot not in constants and slot != output and first_segment == last_segment:
                dead[first_segment].append(slot)
        return tuple(
            Segment(column, tuple(s for s, _ in steps), tuple(c for _, c in steps), tuple(uses), tuple(gone))
            for (column, steps, uses), gone in zip(cuts, dead, strict=True)
        )

    def _source_of(self, block: Block, output: Node) -> int:
        """The slot of what stands for a block's output while it is dropped."""
        return self._slot(self._edge_sources(output).get(block.source, block.source))

    def _block_around(self, node: Node) -> Block | None:
        """The block that a node lies in; a layer's weight lies where all of its uses do."""
        if node.op != "tensor" or node.target not in self._layers:
            return self._block_of.get(node.name)
        first, *others = (self._block_of.get(use.node) for use in self._layers[node.target].uses)
        return first if all(other is first for other in others) else None

    def _edge_sources(self, node: Node) -> dict[str, str]:
        return {name: f"{name}@edge" for name in self._edges.get(node.name, ()) if name in self._edge_grids}

    def _use_steps(self, node: Node, layer: Layer, use: Use) -> tuple[Step, Sequence[int], Step, Step, Sequence[int]]:
        """The bare operation and the slots it reads; under an affine, the same while calibrating, and what these read.

        Only the reference's operation, which has an affine of its own, reads more.
        """
        quantized = {use.input: f"{node.name}@input"} if use.input is not None else {}
        args, kwargs = _renamed(node, quantized)
        slot = self._slot(node.name)
        full, full_reads = self._call_step(node.target, args, kwargs, slot)
        target, bare_args = _without_bias(node.target, args)
        bare, reads = self._call_step(target, bare_args, {} if target != node.target else kwargs, slot)
        name = node.name

        def step(values: Environment, choice: Choice) -> None:
            affine = choice.affines[name]
            if affine is None:
                full(values, choice)
                return
            bare(values, choice)
            values[slot].mul_(affine[0]).add_(affine[1])

        weight = layer.name
        if self._correction == "none" or not use.correctable:
            plain = self.plain_affine(use)

            def calibrating(values: Environment, choice: Choice) -> None:
                bare(values, choice)
                remaining = choice.channels.get(weight)
                affine = plain if remaining is None else self.plain_affine(use, remaining)
                choice.affines[name] = affine
                values[slot].mul_(affine[0]).add_(affine[1])

        else:
            correction, axis = self._correction, use.channel_axis
            float_mean, float_deviation = self._means[name], self._deviations[name]
            shape = broadcastable(self._graph, use, float_mean).shape

            def calibrating(values: Environment, choice: Choice) -> None:
                bare(values, choice)
                mean, deviation = channel_statistics(values[slot], axis)
                scale, shift = corrected_affine(
                    correction, mean, deviation, float_mean, float_deviation, choice.channels.get(weight)
                )
                affine = scale.view(shape), shift.view(shape)
                choice.affines[name] = affine
                values[slot].mul_(affine[0]).add_(affine[1])

        return bare, reads, step, calibrating, full_reads

    def _product_step(self, node: Node) -> tuple[Step, list[int]]:
        """A product of activations, each operand rounded to its grid, and the slots that it reads.

        A fused attention is written out only where something is quantized inside.
        """
        slot = self._slot(node.name)
        plain, reads = self._call_step(node.target, node.args, dict(node.kwargs or {}), slot)
        keys = [key for product in self._products[node.name] for key in product.keys]
        if node.target == FUSED:
            given = FusedArguments.of(node)
            names = (given.query, given.key, given.value)
            query, key, value = (self._slot(name) for name in names)
            mask = None if given.mask is None else self._slot(given.mask)

            def written_out(values: Environment, grids: Sequence[ActivationGrid | None]) -> torch.Tensor:
                queries, others = values[query], [values[key], values[value]]
                if given.grouped:
                    others = [shared_heads(other, queries) for other in others]
                weights = attention_weights(
                    _on(grids[0], queries),
                    _on(grids[1], others[0]),
                    None if mask is None else values[mask],
                    given.is_causal,
                    given.scale,
                )
                return _on(grids[2], weights) @ _on(grids[3], others[1])

        else:
            (product,) = self._products[node.name]
            left, right = (self._slot(name) for name in product.operands)
            function, args, kwargs = operator(node.target), node.args, dict(node.kwargs or {})

            def written_out(values: Environment, grids: Sequence[ActivationGrid | None]) -> torch.Tensor:
                rounded = {left: _on(grids[0], values[left])}
                rounded.setdefault(right, _on(grids[1], values[right]))

                def value_of(ref: Ref) -> Any:
                    found = self._slots[ref.node]
                    return rounded.get(found, values[found])

                filled, named = substitute((args, kwargs), value_of)
                outputs: torch.Tensor = function(*filled, **named)
                return outputs

        def step(values: Environment, choice: Choice) -> None:
            grids = [choice.activations.get(key) for key in keys]
            if all(grid is None for grid in grids):
                plain(values, choice)
            else:
                values[slot] = written_out(values, grids)

        return step, reads

    def _call_step(self, target: str, args: Any, kwargs: Mapping[str, Any], slot: int) -> tuple[Step, list[int]]:
        """A step that calls an operator, and the slots that it reads."""
        function = operator(target)
        reads: list[int] = []

        def slot_of(ref: Ref) -> _Slot:
            reads.append(self._slot(ref.node))
            return _Slot(reads[-1])

        args, kwargs = substitute((tuple(args), dict(kwargs)), slot_of)
        if kwargs or any(isinstance(arg, list | tuple) and _holds_slots(arg) for arg in args):

            def nested(values: Environment, choice: Choice) -> None:
                filled, named = _fill((args, kwargs), values)
                values[slot] = function(*filled, **named)

            return nested, reads
        spec = tuple((isinstance(arg, _Slot), arg.index if isinstance(arg, _Slot) else arg) for arg in args)

        def flat(values: Environment, choice: Choice) -> None:
            values[slot] = function(*[values[arg] if is_slot else arg for is_slot, arg in spec])

        return flat, reads


def computed_nodes(graph: Graph, dropped: Collection[Block]) -> frozenset[str]:
    """Names of the nodes that are computed when some blocks are dropped, parameters included."""
    passed_on = {block.output for block in dropped if block.becomes == "identity"}
    return active_nodes(graph, dropped) - passed_on


def broadcastable(graph: Graph, use: Use, vector: torch.Tensor) -> torch.Tensor:
    """``(channels,)`` as a view that broadcasts over the use's output."""
    trailing = len(graph[use.node].shape) - 1 - use.channel_axis
    return vector.reshape(-1, *[1] * trailing)


def _on(grid: ActivationGrid | None, values: torch.Tensor) -> torch.Tensor:
    return values if grid is None else grid(values)


@dataclass(frozen=True)
class _Slot:
    index: int


def _holds_slots(value: Any) -> bool:
    if isinstance(value, _Slot):
        return True
    return isinstance(value, list | tuple) and any(map(_holds_slots, value))


def _fill(value: Any, values: Environment) -> Any:
    if isinstance(value, _Slot):
        return values[value.index]
    if isinstance(value, dict):
        return {key: _fill(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, values) for item in value]
    if isinstance(value, tuple):
        return tuple(_fill(item, values) for item in value)
    return value


def _renamed(node: Node, names: Mapping[str, str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A node's arguments, reading other nodes in the place of some."""
    args, kwargs = substitute((node.args, dict(node.kwargs or {})), lambda ref: Ref(names.get(ref.node, ref.node)))
    return args, kwargs


def _without_bias(target: str, args: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """The same operation without its bias: operator and arguments."""
    if target == "aten.addmm.default":
        return "aten.mm.default", args[1:3]
    if target in ("aten.mm.default", "aten.matmul.default", "aten.embedding.default"):
        return target, args
    return target, (*args[:2], None, *args[3:])


def _set_weight(layer: str, slot: int) -> Step:
    def step(values: Environment, choice: Choice) -> None:
        values[slot] = choice.weights[layer]

    return step


def _quantize_input(use: str, source: int, target: int) -> Step:
    def step(values: Environment, choice: Choice) -> None:
        grid = choice.activations[use]
        values[target] = values[source] if grid is None else grid(values[source])

    return step


def _quantize_edge(grid: ActivationGrid, source: int, target: int) -> Step:
    def step(values: Environment, choice: Choice) -> None:
        values[target] = grid(values[source])

    return step


def _guarded(instruction: Instruction, step: Step) -> Step:
    """A step of an instruction, which minds that blocks may be dropped."""
    if instruction.join is not None:
        step = _join(*instruction.join, step, instruction.slot)
    return step if instruction.block is None else _unless_dropped(instruction.block, step)


def _unless_dropped(block: str, step: Step) -> Step:
    """The step, which does nothing while its block is dropped."""

    def guarded(values: Environment, choice: Choice) -> None:
        if block not in choice.dropped:
            step(values, choice)

    return guarded


def _join(block: str, source: int, step: Step, target: int) -> Step:
    """The step that gives a block's output, or what stands for it while the block is dropped."""

    def joined(values: Environment, choice: Choice) -> None:
        if block in choice.dropped:
            values[target] = values[source]
        else:
            step(values, choice)

    return joined
