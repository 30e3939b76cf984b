from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from networks import EXAMPLES, samples
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from evo_mpq.network.blocks import Block, active_nodes, find_blocks, matching_blocks, replacements
from evo_mpq.network.builtin.digits_models import digits_mlp, digits_mobilenet, digits_resnet, digits_vit
from evo_mpq.network.calling import default_forward, select_output, tensors_of
from evo_mpq.network.graph import Graph, Node, Ref, run
from evo_mpq.network.layers import Layer, count_macs, find_layers
from evo_mpq.network.network import without_fast_path
from evo_mpq.network.tracing import Traced, trace


class Function(nn.Module):
    """A function of parts and inputs."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


class Passing(nn.Module):
    """The identity, which operations in place behind it cannot see through."""

    def forward(self, first: Tensor, *others: Any, **more: Any) -> Tensor:
        return first.clone()


class Zeros(nn.Module):
    """What another module returns, as zeros."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **more: Any) -> Any:
        return pytree.tree_map_only(Tensor, torch.zeros_like, self.module(*inputs, **more))


def linear(inputs: int = 6, outputs: int = 6) -> nn.Module:
    return nn.Linear(inputs, outputs)


def traced_layers(module: nn.Module, inputs: Any, **options: Any) -> tuple[Traced, tuple[Layer, ...]]:
    traced = trace(module, inputs, **options)
    return traced, find_layers(traced.graph, count_macs(traced.graph, traced.tensors, tensors_of(inputs)))


def found(module: nn.Module, inputs: Any, **options: Any) -> dict[str, Block | str]:
    traced, layers = traced_layers(module, inputs, **options)
    return find_blocks(traced.graph, layers)


def offered(blocks: Mapping[str, Block | str]) -> dict[str, str]:
    return {name: block.becomes for name, block in blocks.items() if isinstance(block, Block)}


def net(block: nn.Module, middle: Callable[..., Tensor] | None = None, **parts: nn.Module) -> nn.Module:
    """A layer ``stem``, then what ``middle`` makes of its output with ``block``, then a layer ``head``."""

    def function(net: Any, x: Tensor) -> Tensor:
        y = net.stem(x)
        return net.head(net.block(y) if middle is None else middle(net, y))  # type: ignore[no-any-return]

    return Function(function, **{"stem": linear(), "block": block, "head": linear(6, 3), **parts})


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "digits_resnet": lambda: digits_resnet((8, 12, 16), blocks=2),
    "digits_mobilenet": lambda: digits_mobilenet((8, 12, 16), 2),
    "digits_mlp": lambda: digits_mlp((24, 24, 24, 16)),
    "digits_vit": lambda: digits_vit(12, 2, 2),
}


@cache
def example(name: str) -> tuple[nn.Module, Any, Traced, tuple[Layer, ...]]:
    """A network with statistics of batch normalization that are not the initial ones, its inputs, and its graph."""
    torch.manual_seed(0)
    options: dict[str, Any] = {}
    if name in BUILDERS:
        module, inputs = BUILDERS[name](), torch.randn(5, 1, 8, 8)
    else:
        module, pairs = EXAMPLES[name].build(), samples(name, 5, seed=0)
        inputs = pytree.tree_map(lambda *tensors: torch.stack(tensors), *(sample for sample, _ in pairs))
        options = {"forward": EXAMPLES[name].forward, "output": EXAMPLES[name].output}
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean, part.running_var = torch.randn(part.num_features), torch.rand(part.num_features) + 0.5
    return module, inputs, *traced_layers(module, inputs, **options)


def blocks_of(name: str) -> dict[str, Block | str]:
    _, _, traced, layers = example(name)
    return find_blocks(traced.graph, layers)


def folded(module: nn.Module, traced: Traced) -> nn.Module:
    """A copy with the traced network's weights, without batch normalization, which is in them."""
    result = copy.deepcopy(module).eval()
    for path, part in list(result.named_modules()):
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            result.set_submodule(path, nn.Identity())
        elif isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear) and f"{path}.weight" in traced.tensors:
            part.weight = nn.Parameter(traced.tensors[f"{path}.weight"])
            bias = traced.tensors.get(f"{path}.bias")
            part.bias = None if bias is None else nn.Parameter(bias)
    return result


def eager_output(name: str, dropped: Collection[Block]) -> Tensor:
    """Of a copy of the module in which modules were replaced."""
    module, inputs, traced, _ = example(name)
    result = folded(module, traced)
    for block in sorted(dropped, key=lambda block: -len(block.name)):  # inner ones first, for outer ones to take them
        old = result.get_submodule(block.name)
        result.set_submodule(block.name, Passing() if block.becomes == "identity" else Zeros(old))
    with torch.no_grad(), without_fast_path():
        outputs = default_forward(result, pytree.tree_map(torch.clone, inputs))
        return select_output(outputs, EXAMPLES[name].output if name in EXAMPLES else None)


def graph_output(traced: Traced, inputs: Any, dropped: Collection[Block], spoiled: Collection[str] = ()) -> Tensor:
    """Of the graph with outputs of blocks replaced by their sources, and NaN in the place of spoiled nodes."""
    sources = replacements(dropped)
    values: dict[str, Any] = {}

    def visit(node: Node, value: Any) -> Any:
        if node.name in spoiled and node.floating:
            value = torch.full_like(value, torch.nan)
        values[node.name] = values[sources[node.name]] if node.name in sources else value
        return values[node.name]

    with torch.no_grad():
        return run(traced.graph, traced.tensors, tensors_of(inputs), visit)


def assert_dropped_in_graph_and_module_alike(name: str, dropped: Sequence[Block]) -> None:
    _, inputs, traced, _ = example(name)
    needed = active_nodes(traced.graph, dropped)
    unneeded = {node.name for node in traced.graph} - needed
    output = graph_output(traced, inputs, dropped, unneeded)
    torch.testing.assert_close(output, eager_output(name, dropped), rtol=1e-4, atol=1e-5)


ALL = (*BUILDERS, *EXAMPLES)
OFFERED = [(name, path) for name in ALL for path in offered(blocks_of(name))]


@pytest.mark.parametrize(("name", "path"), OFFERED)
def test_dropping_a_block_of_the_graph_is_replacing_the_module(name: str, path: str) -> None:
    block = blocks_of(name)[path]
    assert isinstance(block, Block)
    assert_dropped_in_graph_and_module_alike(name, [block])


@pytest.mark.parametrize(("name", "path"), OFFERED)
def test_a_dropped_block_is_not_computed_and_all_else_is(name: str, path: str) -> None:
    block = blocks_of(name)[path]
    _, inputs, traced, _ = example(name)
    assert isinstance(block, Block)
    assert torch.isfinite(graph_output(traced, inputs, [block], block.nodes)).all()
    assert (block.output in block.nodes) == (block.becomes == "identity")
    needed = active_nodes(traced.graph, [block])
    for node in traced.graph:
        if node.op == "call" and node.name not in block.nodes:
            inside = node.module == path or node.module.startswith(f"{path}.")
            assert node.name in needed and not (inside and node.floating)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("seed", range(5))
def test_several_blocks_are_dropped_together_nested_ones_too(name: str, seed: int) -> None:
    blocks = [block for block in blocks_of(name).values() if isinstance(block, Block)]
    chosen = np.random.default_rng(seed).permutation(len(blocks))[: (len(blocks) + 1) // 2]
    assert_dropped_in_graph_and_module_alike(name, [blocks[i] for i in chosen])


@pytest.mark.parametrize("name", ALL)
def test_no_layer_outside_of_a_dropped_block_loses_its_reader(name: str) -> None:
    _, _, traced, layers = example(name)
    for block in blocks_of(name).values():
        if isinstance(block, Block):
            computed = active_nodes(traced.graph, [block]) - {*block.nodes}
            for layer in layers:
                uses = {use.node for use in layer.uses}
                assert uses.isdisjoint(computed) if layer.name in block.layers else uses <= computed


@pytest.mark.parametrize("name", ALL)
def test_every_module_with_a_layer_is_a_block_or_has_a_reason(name: str) -> None:
    module, _, traced, layers = example(name)
    blocks = blocks_of(name)
    assert all(module.get_submodule(path) is not None for path in blocks)
    nodes = [traced.graph[use.node].module for layer in layers for use in layer.uses]
    expected = {".".join(parts[: i + 1]) for parts in (path.split(".") for path in nodes if path) for i in range(9)}
    assert set(blocks) == expected
    for path, block in blocks.items():
        assert block.name == path if isinstance(block, Block) else block.endswith(".")


def test_nothing_is_dropped_when_no_block_is() -> None:
    _, _, traced, _ = example("digits_vit")
    assert active_nodes(traced.graph, []) == {node.name for node in traced.graph}


def test_residual_blocks_of_one_shape_become_the_identity() -> None:
    blocks = blocks_of("digits_resnet")
    first = blocks["stage1.0"]
    assert isinstance(first, Block)
    assert (first.becomes, first.layers) == ("identity", ("stage1.0.conv1", "stage1.0.conv2"))
    reason = blocks["stage2.0"]
    assert isinstance(reason, str) and "(n, 12, 4, 4)" in reason and "(n, 8, 8, 8)" in reason
    assert {"stage1", "stage1.0", "stage1.1", "stage2.1", "stage3.1"} == {
        name for name in offered(blocks) if not name.rpartition(".")[2].startswith(("conv", "shortcut"))
    }


def test_modules_with_their_shortcut_inside_become_the_identity() -> None:
    blocks = offered(blocks_of("digits_mobilenet"))
    assert {name: kind for name, kind in blocks.items() if name.count(".") == 1} == {
        "blocks.0": "identity",
        "blocks.2": "identity",
        "blocks.4": "identity",
    }


def test_attention_that_is_added_to_what_it_reads_becomes_zero() -> None:
    assert offered(blocks_of("digits_vit")) == {
        "blocks": "identity",
        "blocks.0": "identity",
        "blocks.0.attention": "zero",
        "blocks.1": "identity",
        "blocks.1.attention": "zero",
    }
    attention = blocks_of("digits_vit")["blocks.0.attention"]
    assert isinstance(attention, Block)
    assert attention.layers == ("blocks.0.attention.in_proj", "blocks.0.attention.out_proj")
    assert attention.output not in attention.nodes and attention.source not in attention.nodes


def test_square_layers_become_the_identity() -> None:
    assert offered(blocks_of("digits_mlp")) == {"layers.1": "identity", "layers.2": "identity"}


def branch() -> nn.Module:
    return nn.Sequential(linear(), nn.Tanh(), linear())


def two_inputs(combine: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> nn.Module:
    """A block that reads something else beside its first input."""
    return Function(lambda block, x, y: combine(block.layer(x), y), layer=linear())


def read_twice(net: Any, y: Tensor) -> Tensor:
    z = net.block(y)
    return torch.tanh(z) * (y + z)


X = torch.randn(4, 6)

BECOMES = {
    "the branch of an addition": (net(branch(), lambda net, y: y + net.block(y)), "zero"),
    "the first operand of an addition": (net(branch(), lambda net, y: net.block(y) + y), "zero"),
    "a branch whose normalization stands outside": (
        net(branch(), lambda net, y: y + net.block(net.norm(y)), norm=nn.LayerNorm(6)),
        "zero",
    ),
    "a branch that reads something else, too": (net(two_inputs(), lambda net, y: y + net.block(y, y[:, :1])), "zero"),
    "added with a factor": (net(branch(), lambda net, y: torch.add(y, net.block(y), alpha=2)), "identity"),
    "added to another branch": (net(branch(), lambda net, y: net.block(y) + net.other(y), other=linear()), "identity"),
    "added to itself": (net(branch(), lambda net, y: (lambda z: z + z)(net.block(y))), "identity"),
    "added to a parameter": (net(branch(), lambda net, y: net.block(y) + net.stem.bias), "identity"),
    "added to a number": (net(branch(), lambda net, y: net.block(y) + 2), "identity"),
    "added to something narrower": (net(branch(), lambda net, y: net.block(y) + y[:, :1]), "identity"),
    "added to what it reads, and read elsewhere": (net(branch(), read_twice), "identity"),
    "given a mask and a size": (
        net(
            two_inputs(lambda x, mask: x.masked_fill(mask, 0) / x.shape[0]),
            lambda net, y: net.block(y, y > 0) * y.shape[0],
        ),
        "identity",
    ),
    "first": (net(branch(), stem=nn.Identity()), "identity"),
    "last": (net(branch(), head=nn.Identity()), "identity"),
    "a block that calls one of its layers twice": (
        net(Function(lambda block, x: block.b(torch.tanh(block.a(block.a(x)))), a=linear(), b=linear())),
        "identity",
    ),
}


@pytest.mark.parametrize("case", BECOMES)
def test_a_block_may_be(case: str) -> None:
    module, becomes = BECOMES[case]
    traced, layers = traced_layers(module, X)
    block = find_blocks(traced.graph, layers)["block"]
    assert isinstance(block, Block), block
    assert block.becomes == becomes
    result = copy.deepcopy(module)
    old = result.get_submodule("block")
    result.set_submodule("block", Passing() if becomes == "identity" else Zeros(old))
    torch.testing.assert_close(graph_output(traced, X, [block], block.nodes), result(X))


def returns(*values: str) -> nn.Module:
    """A block that returns one or two of its values."""

    def function(block: Any, x: Tensor) -> Any:
        known = {"hidden": torch.tanh(block.first(x))}
        known["out"] = block.second(known["hidden"])
        known["choice"] = known["out"].argmax(1)
        return known[values[0]] if len(values) == 1 else tuple(known[value] for value in values)

    return Function(function, first=linear(), second=linear())


def borrowing() -> nn.Module:
    """A network whose block computes with the weight of ``stem``."""
    stem = linear()
    block = nn.Linear(6, 6)
    block.weight = stem.weight  # type: ignore[assignment]
    return net(nn.Sequential(block, linear()), stem=stem)


REFUSED = {
    "It is called more than once": net(branch(), lambda net, y: net.block(net.block(y))),
    "is called more than once, or all of its layers": net(branch(), lambda net, y: net.block(y) * net.block(y * y)),
    "2 values that it computes are read outside": net(
        returns("hidden", "out"), lambda net, y: torch.mul(*net.block(y))
    ),
    "Its output is no floating-point tensor": net(
        returns("choice"), lambda net, y: net.table(net.block(y)), table=nn.Embedding(6, 6)
    ),
    "Without it nothing would read the output of gate": net(
        two_inputs(), lambda net, y: net.block(y, net.gate(y)), gate=linear(6, 1)
    ),
    "Without it nothing would read the output of before": net(
        branch(), lambda net, y: y + net.block(net.before(y)), before=linear()
    ),
    "It reads several activations of its output's shape (n, 6)": net(
        two_inputs(), lambda net, y: net.block(y, torch.tanh(y))
    ),
    "It holds every layer of the network": net(branch(), stem=nn.Identity(), head=nn.Identity()),
    "Its output has the shape (n, 5); what it reads is linear (n, 6)": net(linear(6, 5), head=linear(5, 3)),
    "what it reads is no activation": net(
        nn.Sequential(nn.Embedding(9, 6)), lambda net, y: net.block((y[:, 0] > 0).long()) * y
    ),
    "It reads the weight of stem, which belongs to another module": borrowing(),
    "The weight of its layer block.0 is read outside of it": net(
        branch(), lambda net, y: functional.linear(net.block(y), net.block[0].weight)
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_block_is_refused_with_its_reason(reason: str) -> None:
    block = found(REFUSED[reason], X)["block"]
    assert isinstance(block, str) and reason in block


def test_a_block_is_refused_if_a_size_of_its_own_is_read_outside() -> None:
    nodes = [
        Node("x", "input", "0", shape=(None, 6), floating=True),
        Node("w", "tensor", "block.weight", shape=(6, 6), floating=True),
        Node("v", "tensor", "head.weight", shape=(6, 6), floating=True),
        Node("y", "call", "aten.linear.default", (Ref("x"), Ref("w")), None, "block", (None, 6), True),
        Node("n", "call", "aten.sym_size.int", (Ref("y"), 0), None, "block"),
        Node("z", "call", "aten.linear.default", (Ref("y"), Ref("v")), None, "head", (None, 6), True),
        Node("out", "call", "aten.div.Tensor", (Ref("z"), Ref("n")), None, "", (None, 6), True),
    ]
    graph = Graph(nodes, "out")
    block = find_blocks(graph, find_layers(graph, {}))["block"]
    assert block == "A size that it computes is read outside of it (n)."


def test_sizes_that_the_tracer_computes_once_for_all_blocks_stay_when_the_first_is_dropped() -> None:
    _, _, traced, _ = example("digits_vit")
    first, second = (blocks_of("digits_vit")[f"blocks.{i}"] for i in range(2))
    assert isinstance(first, Block) and isinstance(second, Block)
    sizes = [node for node in traced.graph if node.target == "operator.mul"]
    shared = {node.name for node in sizes if node.module.startswith("blocks.0.")}
    assert shared and shared <= active_nodes(traced.graph, [first])
    assert not shared & active_nodes(traced.graph, [first, second])


def test_lengths_that_vary_are_compared_on_a_batch() -> None:
    parts = {
        "shorter": nn.Sequential(nn.Conv1d(4, 4, 3, 2, padding=1)),
        "same": nn.Sequential(nn.Conv1d(4, 4, 3, padding=1)),
    }
    module = Function(
        lambda net, x: net.head(net.same(net.shorter(net.stem(x))).mean(2)),
        stem=nn.Conv1d(4, 4, 1),
        head=linear(4, 3),
        **parts,
    )
    inputs = torch.randn(2, 4, 12)
    traced, layers = traced_layers(module, inputs, dynamic=[(0, 2)])
    assert not offered(find_blocks(traced.graph, layers))
    shapes: dict[str, Sequence[int]] = {}
    run(
        traced.graph,
        traced.tensors,
        [inputs],
        lambda node, value: shapes.update({node.name: value.shape} if isinstance(value, Tensor) else {}),
    )
    blocks = find_blocks(traced.graph, layers, shapes)
    assert offered(blocks) == {"stem": "identity", "same": "identity", "same.0": "identity"}
    assert isinstance(blocks["shorter"], str) and "(?, 4, ?)" in blocks["shorter"]


def test_a_folded_normalization_goes_with_its_layer_and_stays_with_the_layer_in_front() -> None:
    block = nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(), linear())
    module = nn.Sequential(linear(), block, nn.BatchNorm1d(6), linear(6, 3)).eval()
    for norm in (block[0], module[2]):
        norm.running_mean, norm.running_var = torch.randn(6), torch.rand(6) + 0.5
    traced, layers = traced_layers(module, X)
    dropped = find_blocks(traced.graph, layers)["1"]
    assert isinstance(dropped, Block) and dropped.becomes == "identity"
    torch.testing.assert_close(graph_output(traced, X, [dropped]), module[3](block[0](module[0](X))))


def test_a_block_that_computes_without_gradients_is_whole() -> None:
    def forward(block: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = block.first(x * 0.5)
        return block.second(torch.tanh(x))

    block = Function(forward, first=linear(), second=linear())
    blocks = found(net(block), X)
    assert "block.first" not in blocks  # the tracer takes it for a part of what is around it
    whole = blocks["block"]
    assert isinstance(whole, Block) and whole.layers == ("block.first", "block.second")


def test_of_blocks_with_one_output_the_outermost_counts() -> None:
    outer = Block("a", "identity", ("x", "y"), "start", "y", ("a.0", "a.1"))
    inner = Block("a.1", "identity", ("y",), "x", "y", ("a.1",))
    assert replacements([outer, inner]) == replacements([inner, outer]) == {"y": "start"}


NAMES = ["stage1", "stage1.0", "stage1.0.conv1", "stage1.10", "stage2.0", "head"]


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("stage1", ["stage1"]),
        ("*", ["stage1", "head"]),
        ("stage1.*", ["stage1.0", "stage1.10"]),
        ("stage1.?", ["stage1.0"]),
        ("stage[12].0", ["stage1.0", "stage2.0"]),
        ("*.*", ["stage1.0", "stage1.10", "stage2.0"]),
        ("stage*conv1", []),
        ("STAGE1", []),
        ("stage1.*.*", ["stage1.0.conv1"]),
        (["stage1.0", "stage1.0.*", "stage2.*"], ["stage1.0", "stage2.0"]),
        (["stage1", "*.*", "*.*.*"], ["stage1", "stage2.0"]),
        ([], []),
    ],
)
def test_patterns_match_part_by_part_and_pick_the_outermost(pattern: Any, matching: list[str]) -> None:
    assert matching_blocks(pattern, NAMES) == matching
