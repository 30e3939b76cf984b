from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import ALL, EXAMPLES, module_of, network_of, splits_of
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from evo_mpq.network.calling import default_forward, tensors_of
from evo_mpq.network.layers import Layer, count_macs, find_edges, find_layers
from evo_mpq.network.network import without_fast_path
from evo_mpq.network.tracing import Traced, trace


class Function(nn.Module):
    """A function of parameters and an input."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self, inputs)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def layers_of(traced: Traced, inputs: Any) -> dict[str, Layer]:
    macs = count_macs(traced.graph, traced.tensors, tensors_of(inputs))
    return {layer.name: layer for layer in find_layers(traced.graph, macs)}


def found(function: Callable[..., Tensor], inputs: Tensor, **parts: Any) -> dict[str, Layer]:
    return layers_of(trace(Function(function, **parts), inputs), inputs)


@pytest.mark.parametrize("name", EXAMPLES)
def test_layers_are_named_by_the_paths_of_their_weights_in_the_order_of_the_graph(name: str) -> None:
    assert tuple(layer.name for layer in network_of(name).layers) == EXAMPLES[name].layers


@pytest.mark.parametrize("name", ALL)
def test_every_weight_of_the_modules_layers_is_found(name: str) -> None:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.Embedding)
    expected = {
        part.weight.data_ptr(): tuple(part.weight.shape)
        for part in module_of(name).modules()
        if isinstance(part, kinds)
    }
    expected |= {
        part.in_proj_weight.data_ptr(): tuple(part.in_proj_weight.shape)
        for part in module_of(name).modules()
        if isinstance(part, nn.MultiheadAttention)
    }
    expected |= {
        parameter.data_ptr(): tuple(parameter.shape)
        for parameter in module_of(name).parameters(recurse=False)
        if parameter.dim() == 2
    }
    layers = network_of(name).layers
    assert sorted(expected.values()) == sorted(layer.shape for layer in layers)
    for layer in layers:
        assert layer.shape == tuple(network_of(name).tensors[layer.parameter].shape)
        assert layer.n_parameters == network_of(name).tensors[layer.parameter].numel()


# Multiply-accumulate operations counted by hand: output positions x inputs of each x output channels.
MACS = {
    "convolutions": {
        "stem": 64 * (2 * 16) * 8,
        "depthwise": 64 * 9 * 8,
        "grouped": 64 * (4 * 9) * 8,
        "shrink": 16 * (8 * 9) * 6,
        "head": 12 * 3,
    },
    "signals": {"first": 10 * (3 * 4) * 6, "second": 5 * (3 * 3) * 4, "head": 4 * 2},
    "called_twice": {"first": 6 * 8, "shared": 2 * 8 * 8, "head": 8 * 3},
    "tied_tokens": {"embedding": 5 * 8 * 11, "mixer": 5 * 8 * 8},  # the head's product; looking up multiplies nothing
    "products": {"into": 3 * 6 * 9, "bare": 3 * 9 * 7, "out": 7 * 4},
    "encoder": {
        "0.self_attn.in_proj": 4 * 8 * 24,
        "0.self_attn.out_proj": 4 * 8 * 8,
        "0.linear1": 4 * 8 * 12,
        "0.linear2": 4 * 12 * 8,
        "1": 4 * 8 * 3,
    },
    "oddities": {"project": 3 * 8 * 8, "places": 0, "first": 6 * 8, "second": 8 * 8, "head": 3 * 8 * 5},
    "cross_attention": {
        "attention.in_proj": 4 * 8 * 8 + 2 * 5 * 8 * 8,
        "attention.out_proj": 4 * 8 * 8,
        "head": 4 * 8 * 3,
    },
}
OTHER_MACS = {"encoder": 2 * 4 * 4 * 8, "cross_attention": 2 * 4 * 5 * 8}  # query x key, then weights x value


@pytest.mark.parametrize("name", MACS)
def test_operations_are_those_counted_by_hand(name: str) -> None:
    network = network_of(name)
    assert {layer.name: layer.macs for layer in network.layers} == MACS[name]
    assert sum(product.macs for product in network.products) == OTHER_MACS.get(name, 0)
    assert network.other_macs == 0


@pytest.mark.parametrize("name", ALL)
def test_operations_are_half_of_torchs_floating_point_operations(name: str) -> None:
    inputs = pytree.tree_map(lambda tensor: tensor[:3], splits_of(name).search.whole().inputs)
    module = copy.deepcopy(module_of(name)).eval()
    with torch.no_grad(), without_fast_path(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        default_forward(module, inputs)
    network = network_of(name)
    total = sum(macs * (3 if node in network.graph.of_samples else 1) for node, macs in network.macs.items())
    assert 2 * total == counter.get_total_flops()


def test_one_layer_has_all_operations_that_read_its_weight() -> None:
    layers = {layer.name: layer for layer in network_of("tied_tokens").layers}
    tied = layers["embedding"]
    assert (tied.kind, tied.shared, tied.quantizes_input, tied.n_rows) == ("linear", True, True, 11)
    lookup, head = tied.uses
    assert (lookup.input, lookup.n_channels, lookup.channel_axis) == (None, 8, 2)
    assert (head.n_channels, head.channel_axis) == (11, 2)
    assert head.input is not None
    assert lookup.correctable
    assert head.correctable  # two modules, each called once
    twice = {layer.name: layer for layer in network_of("called_twice").layers}["shared"]
    assert [use.correctable for use in twice.uses] == [False, False]
    pieces = {layer.name: layer for layer in network_of("cross_attention").layers}["attention.in_proj"]
    assert [use.n_channels for use in pieces.uses] == [8, 16]  # queries; keys and values of the other sequence
    assert all(use.correctable for use in pieces.uses)
    assert pieces.n_rows == 24


def test_attention_that_is_called_twice_is_one_layer_without_correction() -> None:
    attention = nn.MultiheadAttention(4, 1, batch_first=True)

    def function(module: Any, inputs: Tensor) -> Tensor:
        first = module.attention(inputs, inputs + 1, inputs)[0]
        return module.attention(inputs, first, inputs)[0]  # type: ignore[no-any-return]

    layers = found(function, torch.randn(2, 3, 4), attention=attention)
    assert len(layers["attention.in_proj"].uses) == 6
    assert not any(use.correctable for layer in layers.values() for use in layer.uses)


def test_projections_of_different_widths_are_layers_of_their_own() -> None:
    attention = nn.MultiheadAttention(4, 1, batch_first=True, kdim=3, vdim=3)
    layers = found(
        lambda module, x: module.attention(x, x[..., :3], x[..., :3])[0], torch.randn(2, 3, 4), attention=attention
    )
    assert list(layers) == [f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")]


def test_products_count_channels_on_the_other_axis() -> None:
    layers = {layer.name: layer for layer in network_of("products").layers}
    assert {name: (layer.kind, layer.transposed, layer.n_rows) for name, layer in layers.items()} == {
        "into": ("linear", True, 9),
        "bare": ("linear", True, 7),
        "out": ("linear", False, 4),
    }
    assert layers["into"].uses[0].bias is not None
    assert layers["bare"].uses[0].bias is None


def test_a_network_that_is_a_single_layer_has_a_name_for_it() -> None:
    features = torch.randn(2, 3)
    assert list(layers_of(trace(nn.Linear(3, 2), features), features)) == ["weight"]


def test_names_of_layers_are_unique() -> None:
    layers = found(
        lambda module, x: module.proj(x @ module.proj_weight),
        torch.randn(2, 3),
        proj=nn.Linear(3, 2),
        proj_weight=weight(3, 3),
    )
    assert len(layers) == 2
    assert {layer.parameter for layer in layers.values()} == {"proj.weight", "proj_weight"}


NO_LAYERS: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "an activation is added by the product": (lambda m, x: torch.addmm(x, x, m.w), {"w": weight(4, 4)}),
    "the product is scaled": (lambda m, x: torch.addmm(m.b, x, m.w, alpha=2), {"w": weight(4, 4), "b": weight(4)}),
    "the bias depends on the input": (lambda m, x: functional.linear(x, m.w, x.mean(0)), {"w": weight(4, 4)}),
    "a matrix of a larger tensor": (lambda m, x: x @ m.w[0] + x @ m.w[1], {"w": weight(2, 4, 4)}),
    "rows in one product are columns in another": (lambda m, x: (x @ m.w) @ m.w.T, {"w": weight(4, 3)}),
    "exchanged axes of a convolution": (
        lambda m, x: functional.conv1d(x[:, :, None], m.w.transpose(0, 1)),
        {"w": weight(4, 4, 1)},
    ),
    "a product of activations": (lambda m, x: (x @ x.T)[:, :1] * m.w, {"w": weight(1)}),
    "a computed weight": (lambda m, x: x @ (m.w * 2), {"w": weight(4, 4)}),
}


@pytest.mark.parametrize("why", NO_LAYERS)
def test_a_weight_that_could_not_be_treated_rightly_is_no_layer(why: str) -> None:
    function, parts = NO_LAYERS[why]
    assert found(function, torch.randn(3, 4), **parts) == {}


def test_a_bias_computed_from_parameters_belongs_to_the_layer() -> None:
    layers = found(
        lambda module, x: functional.linear(x, module.w, module.b * 2), torch.randn(3, 4), w=weight(2, 4), b=weight(2)
    )
    assert layers["w"].uses[0].bias is not None


def edges_of(function: Callable[..., Tensor], inputs: Tensor, **parts: Any) -> list[tuple[str, int]]:
    """Operation that reads, and how many of its inputs are quantized."""
    traced = trace(Function(function, **parts), inputs)
    edges = find_edges(traced.graph, find_layers(traced.graph, {}))
    return [(traced.graph[reader].target.split(".")[1], len(sources)) for reader, sources in edges.items()]


EDGES: dict[str, tuple[Callable[..., Tensor], list[tuple[str, int]]]] = {
    "two branches": (lambda m, x: m.a(x) + torch.relu(m.b(x)), [("add", 2)]),
    "a difference": (lambda m, x: m.a(x) - m.b(x), [("sub", 2)]),
    "a concatenation": (lambda m, x: torch.cat([m.a(x), m.b(x)], 1), [("cat", 2)]),
    "a constant, or something computed from parameters": (lambda m, x: m.a(x) + 1 + m.p + m.p[:1] * 2, []),
    "the network's own input": (lambda m, x: m.a(x) + x, []),
    "before the first layer": (lambda m, x: m.a((x * 2) + (x * 3)), []),
    "pooling": (
        lambda m, x: functional.adaptive_max_pool2d(functional.max_pool2d(m.a(x), 2), 1),
        [("max_pool2d", 1), ("adaptive_max_pool2d", 1)],
    ),
    "average": (
        lambda m, x: functional.adaptive_avg_pool2d(functional.avg_pool2d(m.a(x), 2), 1),
        [("avg_pool2d", 1), ("adaptive_avg_pool2d", 1)],
    ),
    "scores and mask of an attention": (
        lambda m, x: torch.softmax(m.a(x) + torch.where(x > 0, 0.0, -1e9), dim=-1) * m.b(x),
        [],
    ),
}


@pytest.mark.parametrize("where", EDGES)
def test_edges_are_what_additions_concatenations_and_pooling_read(where: str) -> None:
    function, expected = EDGES[where]
    parts = {"a": nn.Conv2d(2, 2, 3, padding=1), "b": nn.Conv2d(2, 2, 1), "p": weight(2, 1, 1)}
    assert edges_of(function, torch.randn(3, 2, 6, 6), **parts) == expected


@pytest.mark.parametrize("name", ALL)
def test_edges_stand_behind_a_layer_and_are_activations(name: str) -> None:
    network = network_of(name)
    lookups = "aten.embedding.default"
    uses = [use.node for layer in network.layers for use in layer.uses if network.graph[use.node].target != lookups]
    behind = network.graph.downstream(uses)
    for reader, sources in network.edges.items():
        assert set(sources) <= set(network.graph[reader].inputs)
        assert set(sources) <= behind
        assert all(network.graph[source].floating for source in sources)
