from __future__ import annotations

import pickle
import weakref
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import ALL, network_of, untrained

from evo_mpq.network.graph import Graph, Node, Ref, constant, on_device, operator, references, run, substitute
from evo_mpq.network.tracing import trace

NESTED: st.SearchStrategy[Any] = st.recursive(
    st.integers() | st.none() | st.text(max_size=2) | st.builds(Ref, st.sampled_from("abc")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2)
    ),
    max_leaves=8,
)


@given(NESTED)
def test_substituting_every_reference_by_itself_changes_nothing(value: Any) -> None:
    seen: list[Ref] = []

    def keep(ref: Ref) -> Ref:
        seen.append(ref)
        return ref

    assert substitute(value, keep) == value
    assert list(references(value)) == seen


@given(NESTED)
def test_nothing_is_left_after_substituting_all_references(value: Any) -> None:
    assert list(references(substitute(value, lambda ref: ref.node))) == []


@pytest.mark.parametrize("name", ALL)
def test_nodes_come_after_what_they_read(name: str) -> None:
    graph = network_of(name).graph
    seen: set[str] = set()
    for node in graph:
        assert seen.issuperset(node.inputs)
        seen.add(node.name)
    assert graph.output in seen
    assert len(seen) == len(graph) == len(graph.by_name)


@pytest.mark.parametrize("name", ALL)
def test_consumers_are_the_inverse_of_inputs(name: str) -> None:
    graph = network_of(name).graph
    forward = {(source, node.name) for node in graph for source in node.inputs}
    assert forward == {(source, reader) for source, readers in graph.consumers.items() for reader in readers}
    assert set(graph.to_networkx().edges) == forward


@pytest.mark.parametrize("name", ["digits_resnet", "cross_attention", "called_twice"])
def test_downstream_is_what_can_be_reached(name: str) -> None:
    graph = network_of(name).graph
    drawn = graph.to_networkx()
    for node in graph:
        assert graph.downstream([node.name]) == nx.descendants(drawn, node.name) | {node.name}


@pytest.mark.parametrize("name", ALL)
def test_a_graph_survives_a_trip_to_another_process(name: str) -> None:
    graph = network_of(name).graph
    other: Graph = pickle.loads(pickle.dumps(graph))
    assert other.hash() == graph.hash()
    assert other.node_hashes() == graph.node_hashes()
    assert [node.shape for node in other] == [node.shape for node in graph]


def test_a_graph_holds_nothing_but_plain_values() -> None:
    def check(value: Any) -> None:
        if isinstance(value, list | tuple):
            for item in value:
                check(item)
        else:
            plain = Ref | int | float | bool | str | None | torch.dtype | torch.device | torch.layout
            assert isinstance(value, plain | torch.memory_format), value

    for name in ALL:
        for node in network_of(name).graph:
            check([*node.args, *(node.kwargs or {}).values()])


def test_on_a_device_only_the_devices_of_arguments_change() -> None:
    x = Node("x", "input", "0", shape=(None, 3))
    y = Node("y", "call", "aten.arange.start", (0, 3), {"device": torch.device("cpu"), "dtype": torch.float32})
    z = Node("z", "call", "aten.add.Tensor", ([Ref("x"), torch.device("cpu")], Ref("y")), shape=(None, 3))
    moved = on_device(Graph([x, y, z], "z"), torch.device("cuda:1"))
    assert moved["y"].kwargs == {"device": torch.device("cuda:1"), "dtype": torch.float32}
    assert moved["z"].args == ([Ref("x"), torch.device("cuda:1")], Ref("y"))
    assert moved.output == "z" and [node.shape for node in moved] == [(None, 3), (), (None, 3)]


def test_the_hash_tells_operations_arguments_and_widths_apart() -> None:
    def hash_of(*nodes: Node) -> str:
        return Graph(nodes, nodes[-1].name).hash()

    x = Node("x", "input", "0", shape=(None, 3))
    w = Node("w", "tensor", "w", shape=(3, 3))
    y = Node("y", "call", "aten.mm.default", (Ref("x"), Ref("w")))
    plain = hash_of(x, w, y)
    assert plain == hash_of(
        x, w, Node("y", "call", "aten.mm.default", (Ref("x"), Ref("w")), {}, "elsewhere", (None, 3))
    )
    assert plain != hash_of(x, w, Node("y", "call", "aten.matmul.default", (Ref("x"), Ref("w"))))
    assert plain != hash_of(x, w, Node("y", "call", "aten.mm.default", (Ref("w"), Ref("x"))))
    assert plain != hash_of(x, Node("w", "tensor", "w", shape=(3, 4)), y)
    assert plain != hash_of(x, w, y, Node("z", "call", "aten.relu.default", (Ref("y"),)))


def test_the_hash_of_a_network_depends_on_its_structure_and_not_on_its_weights() -> None:
    inputs = torch.zeros(2, 3, 10)
    one, other = (trace(untrained("signals", seed), inputs).graph for seed in (1, 2))
    assert one.hash() == other.hash()


def test_running_calls_visit_and_takes_what_it_returns() -> None:
    network = network_of("signals")
    inputs = network.calibration_inputs
    order: list[str] = []

    def halve(node: Node, value: Any) -> Any:
        order.append(node.name)
        return value * 0.5 if node.name == network.graph.output else None

    with torch.no_grad():
        plain = run(network.graph, network.tensors, inputs)
        halved = run(network.graph, network.tensors, inputs, halve)
    assert order == [node.name for node in network.graph]
    assert torch.equal(halved, plain * 0.5)


def test_values_are_dropped_after_their_last_use() -> None:
    steps = [Node("x", "input", "0")]
    for i in range(5):
        steps.append(Node(f"y{i}", "call", "aten.neg.default", (Ref(steps[-1].name),)))
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def count(node: Node, value: torch.Tensor) -> None:
        nonlocal most
        if node.op == "call":
            alive.append(weakref.ref(value))
            most = max(most, sum(reference() is not None for reference in alive))

    run(Graph(steps, "y4"), {}, [torch.ones(2)], count)
    assert most <= 2


def test_operators_are_found_by_name() -> None:
    assert operator("math.floor")(2.5) == 2
    assert operator("torch.sym_max")(2, 3) == 3
    assert torch.equal(operator("aten.add.Tensor")(torch.ones(2), torch.ones(2)), torch.full((2,), 2.0))
    transposed = torch.arange(6).reshape(2, 3).T
    assert operator("aten.view.default")(transposed, [6]).tolist() == [0, 3, 1, 4, 2, 5]  # whatever its strides


def test_constants_are_computed_from_tensors_alone() -> None:
    network = network_of("cross_attention")
    bias = network.tensors["attention.in_proj_bias"]
    uses = next(layer for layer in network.layers if layer.name == "attention.in_proj").uses
    pieces = [constant(network.graph, network.tensors, use.bias or "") for use in uses]
    assert torch.equal(torch.cat(pieces), bias)
