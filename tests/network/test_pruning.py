from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning
from networks import EXAMPLES, samples
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from evo_mpq.network.builtin.digits_models import digits_mlp, digits_mobilenet, digits_resnet, digits_vit
from evo_mpq.network.calling import Forward, tensors_of
from evo_mpq.network.graph import run
from evo_mpq.network.layers import Layer, count_macs, find_layers
from evo_mpq.network.pruning import IntArray, PruneGroup, RefusedGroup, find_prune_groups
from evo_mpq.network.tracing import Traced, trace


class Function(nn.Module):
    """A function of parts and an input."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self, inputs)


def conv(inputs: int, outputs: int, groups: int = 1) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)


def pooled(features: Tensor) -> Tensor:
    return features.mean(dim=(2, 3))


def net(middle: Callable[..., Tensor] | None = None, /, width: int = 8, **parts: nn.Module | nn.Parameter) -> nn.Module:
    """A convolution ``first`` of 8 channels, then what ``middle`` makes of its output, then a layer ``head``."""

    def function(net: Any, images: Tensor) -> Tensor:
        features = torch.relu(net.first(images))
        features = features if middle is None else middle(net, features)
        return net.head(pooled(features) if features.dim() == 4 else features)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    return Function(function, **{"first": conv(3, 8), **parts, "head": nn.Linear(width, 5)})


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True, eq=False)
class Found:
    """A network and its groups of channels."""

    module: nn.Module
    inputs: Any
    traced: Traced
    layers: Mapping[str, Layer]
    offered: Mapping[str, PruneGroup]
    refused: tuple[RefusedGroup, ...]

    def reason(self, layer: str) -> str:
        (reason,) = (group.reason for group in self.refused if layer in group.layers)
        return reason

    def columns(self, group: str, layer: str) -> list[list[int]]:
        return self.offered[group].columns[layer].tolist()  # type: ignore[no-any-return]

    def members(self) -> dict[str, tuple[list[str], list[str]]]:
        """By offered group the layers that compute its channels, and those that read them."""
        return {name: ([*group.rows], [*group.columns]) for name, group in self.offered.items()}


def groups_of(
    module: nn.Module, inputs: Any = IMAGES, forward: Forward | None = None, output: str | int | None = None
) -> Found:
    traced = trace(module, inputs, forward=forward, output=output)
    layers = find_layers(traced.graph, count_macs(traced.graph, traced.tensors, tensors_of(inputs)))
    offered, refused = find_prune_groups(
        module, traced.graph, traced.tensors, layers, inputs, forward=forward, output=output
    )
    by_name = {layer.name: layer for layer in layers}
    return Found(module, inputs, traced, by_name, {group.name: group for group in offered}, refused)


def concatenation() -> nn.Module:
    """Three groups read by one layer, through a normalization that cannot be folded; one of them is not convolved."""
    return net(
        lambda net, x: net.join(torch.cat([torch.tanh(net.second(x)), x, torch.tanh(net.third(x))], 1)),
        width=6,
        second=conv(8, 4),
        third=conv(8, 3),
        join=conv(15, 6),
    )


def gated() -> nn.Module:
    """Squeeze and excitation (Hu et al. 2018)."""

    def middle(net: Any, features: Tensor) -> Tensor:
        gate = torch.sigmoid(net.excite(torch.relu(net.squeeze(pooled(features)))))
        return features * gate[:, :, None, None]

    return net(middle, squeeze=nn.Linear(8, 4), excite=nn.Linear(4, 8))


NETS: dict[str, Callable[[], nn.Module]] = {
    "chain": net,
    "concatenation": concatenation,
    "concatenated with itself": lambda: net(lambda net, x: torch.cat([x, x * x], 1), width=16),
    "flattened": lambda: net(lambda net, x: x.flatten(1), width=512),
    "flattened and added": lambda: net(
        lambda net, x: x.flatten(1) + net.other(pooled(x)), width=512, other=nn.Linear(8, 512)
    ),
    "gated": gated,
    "called twice": lambda: net(lambda net, x: torch.relu(net.middle(torch.relu(net.middle(x)))), middle=conv(8, 8)),
    "tokens mixed": lambda: net(
        lambda net, x: net.back(torch.tanh(net.mix(x.flatten(2)))).mean(1), mix=nn.Linear(64, 10), back=nn.Linear(10, 8)
    ),
}
"""Networks that take ``IMAGES`` and have channels that can be removed."""


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "digits_resnet": lambda: digits_resnet((8, 12, 16), blocks=2),
    "digits_mobilenet": lambda: digits_mobilenet((8, 12, 16), 2),
    "digits_mlp": lambda: digits_mlp((24, 24, 16)),
    "digits_vit": lambda: digits_vit(12, 2, 2),
}


OFFERING = (*BUILDERS, *NETS)


@cache
def example(name: str) -> Found:
    """The groups of a network whose normalizations have seen data."""
    torch.manual_seed(0)
    options: dict[str, Any] = {}
    if name in BUILDERS:
        module, inputs = BUILDERS[name](), torch.randn(6, 1, 8, 8)
    elif name in NETS:
        module, inputs = NETS[name](), IMAGES
    else:
        module, pairs = EXAMPLES[name].build(), samples(name, 6, seed=0)
        inputs = pytree.tree_map(lambda *tensors: torch.stack(tensors), *(sample for sample, _ in pairs))
        options = {"forward": EXAMPLES[name].forward, "output": EXAMPLES[name].output}
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean, part.running_var = torch.randn(part.num_features), torch.rand(part.num_features) + 0.5
    return groups_of(module, inputs, **options)


def masked_output(found: Found, removed: Mapping[str, IntArray], rows: bool) -> Tensor:
    """Of the traced network with zeros where removed channels are read, and where they are computed if ``rows``."""
    tensors = dict(found.traced.tensors)
    for name, channels in removed.items():
        group = found.offered[name]
        members = [(layer, index, 1) for layer, index in group.columns.items()]
        members += [(layer, index, 0) for layer, index in group.rows.items() if rows]
        for layer, index, axis in members:
            parameter = found.layers[layer].parameter
            matrix = tensors[parameter].flatten(1).clone()
            matrix.index_fill_(axis, torch.from_numpy(index[channels].reshape(-1)), 0)
            tensors[parameter] = matrix.view(tensors[parameter].shape)
    with torch.no_grad():
        return run(found.traced.graph, tensors, tensors_of(found.inputs))


def without(count: int, positions: list[int]) -> Tensor:
    return torch.tensor([position for position in range(count) if position not in {*positions}])


def cut(found: Found, removed: Mapping[str, IntArray]) -> nn.Module:
    """A copy of the module, normalizations folded, whose weights lack the removed channels: cut here, by hand."""
    module = copy.deepcopy(found.module).eval()
    for path, part in list(module.named_modules()):
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            module.set_submodule(path, nn.Identity())
    rows: dict[str, list[int]] = {name: [] for name in found.layers}
    columns: dict[str, list[int]] = {name: [] for name in found.layers}
    for group, channels in removed.items():
        for name, positions in found.offered[group].rows.items():
            rows[name] += positions[channels].reshape(-1).tolist()
        for name, positions in found.offered[group].columns.items():
            columns[name] += positions[channels].reshape(-1).tolist()
    parts = dict(module.named_modules())
    for name, layer in found.layers.items():
        part = parts.get(name)
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear):
            weight, bias = found.traced.tensors[layer.parameter], found.traced.tensors.get(f"{name}.bias")
            kept = without(len(weight), rows[name])
            matrix = weight.flatten(1)[kept][:, without(weight[0].numel(), columns[name])]
            part.weight = nn.Parameter(matrix.reshape(len(kept), -1, *weight.shape[2:]))
            part.bias = None if bias is None else nn.Parameter(bias[kept])
            if layer.groups > 1:
                part.groups = len(kept)  # type: ignore[assignment]
    return module


def some_channels(found: Found, seed: int) -> dict[str, IntArray]:
    """Of every group some channels, neither none nor all."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.permutation(group.n_channels)[: rng.integers(1, group.n_channels)]
        for name, group in found.offered.items()
    }


@pytest.mark.parametrize("name", OFFERING)
@pytest.mark.parametrize("seed", range(3))
def test_channels_that_are_masked_are_as_good_as_cut_out(name: str, seed: int) -> None:
    found = example(name)
    assert found.offered
    removed = some_channels(found, seed)
    with torch.no_grad():
        expected = cut(found, removed)(found.inputs)
    for rows in (False, True):
        torch.testing.assert_close(masked_output(found, removed, rows), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, masked_output(found, {}, False), atol=1e-4)


@pytest.mark.parametrize("name", [*BUILDERS, *EXAMPLES])
def test_every_layer_is_in_one_group_and_all_stand_in_the_order_of_the_graph(name: str) -> None:
    found = example(name)
    order = [*found.layers]
    computing = [layer for group in found.offered.values() for layer in group.rows]
    refused = [layer for group in found.refused for layer in group.layers]
    assert sorted([*computing, *refused]) == sorted(order)
    for lists in (
        [*found.offered],
        [group.layers[0] for group in found.refused],
        *(group.layers for group in found.refused),
        *(map for group in found.offered.values() for map in (group.rows, group.columns)),
    ):
        assert sorted(lists, key=order.index) == [*lists]


@pytest.mark.parametrize("name", OFFERING)
def test_a_group_has_all_rows_of_its_layers_and_columns_that_no_other_has(name: str) -> None:
    found = example(name)
    read: dict[str, list[int]] = {}
    for group in found.offered.values():
        assert group.name == next(iter(group.rows))
        for layer, rows in group.rows.items():
            assert rows.dtype == np.int64 and len(rows) == group.n_channels
            assert sorted(rows.reshape(-1).tolist()) == [*range(found.layers[layer].n_rows)]
        for layer, columns in group.columns.items():
            assert columns.dtype == np.int64 and len(columns) == group.n_channels
            read.setdefault(layer, []).extend(columns.reshape(-1).tolist())
    for layer, positions in read.items():
        assert len({*positions}) == len(positions)
        assert {*positions} <= {*range(found.layers[layer].n_parameters // found.layers[layer].n_rows)}


def test_stages_of_a_residual_network_are_groups_and_so_is_the_inside_of_each_block() -> None:
    found = example("digits_resnet")
    assert found.members() == {
        "stem": (
            ["stem", "stage1.0.conv2", "stage1.1.conv2"],
            ["stage1.0.conv1", "stage1.1.conv1", "stage2.0.conv1", "stage2.0.shortcut"],
        ),
        "stage1.0.conv1": (["stage1.0.conv1"], ["stage1.0.conv2"]),
        "stage1.1.conv1": (["stage1.1.conv1"], ["stage1.1.conv2"]),
        "stage2.0.conv1": (["stage2.0.conv1"], ["stage2.0.conv2"]),
        "stage2.0.conv2": (
            ["stage2.0.conv2", "stage2.0.shortcut", "stage2.1.conv2"],
            ["stage2.1.conv1", "stage3.0.conv1", "stage3.0.shortcut"],
        ),
        "stage2.1.conv1": (["stage2.1.conv1"], ["stage2.1.conv2"]),
        "stage3.0.conv1": (["stage3.0.conv1"], ["stage3.0.conv2"]),
        "stage3.0.conv2": (["stage3.0.conv2", "stage3.0.shortcut", "stage3.1.conv2"], ["stage3.1.conv1", "head"]),
        "stage3.1.conv1": (["stage3.1.conv1"], ["stage3.1.conv2"]),
    }
    assert [group.layers for group in found.refused] == [("head",)]
    assert "network's output" in found.reason("head")


def test_depthwise_convolutions_have_rows_but_no_columns() -> None:
    members = example("digits_mobilenet").members()
    assert members["blocks.0.expand"] == (["blocks.0.expand", "blocks.0.depthwise"], ["blocks.0.project"])
    assert members["stem"] == (["stem", "blocks.0.project"], ["blocks.0.expand", "blocks.1.expand"])
    assert len(members) == 8


def test_a_perceptron_can_lose_everything_but_its_outputs() -> None:
    found = example("digits_mlp")
    assert found.members() == {f"layers.{i}": ([f"layers.{i}"], [f"layers.{i + 1}"]) for i in range(3)}
    assert [group.layers for group in found.refused] == [("layers.3",)]


def test_a_transformer_can_lose_channels_inside_of_its_perceptrons_only() -> None:
    found = example("digits_vit")
    assert found.members() == {f"blocks.{i}.fc1": ([f"blocks.{i}.fc1"], [f"blocks.{i}.fc2"]) for i in range(2)}
    assert "layer or group normalization (blocks.0.norm1)" in found.reason("patches")
    assert found.reason("patches") == found.reason("blocks.1.fc2") == found.reason("blocks.0.attention.out_proj")
    assert "splits its channels into heads" in found.reason("blocks.0.attention.in_proj")


def test_columns_of_a_convolution_are_the_kernel_positions_of_its_input_channels() -> None:
    columns = example("digits_resnet").columns("stem", "stage1.0.conv1")
    assert columns == [[*range(9 * channel, 9 * channel + 9)] for channel in range(8)]


def test_behind_a_flattening_a_channel_has_a_column_for_every_pixel() -> None:
    found = example("flattened")
    assert found.columns("first", "head") == [[*range(64 * channel, 64 * channel + 64)] for channel in range(8)]


def test_behind_a_concatenation_a_layer_has_several_groups() -> None:
    found = example("concatenation")
    assert found.members() == {
        "first": (["first"], ["second", "third", "join"]),
        "second": (["second"], ["join"]),
        "third": (["third"], ["join"]),
        "join": (["join"], ["head"]),
    }
    starts = {name: found.columns(name, "join")[0][0] // 9 for name in ("second", "first", "third")}
    assert starts == {"second": 0, "first": 4, "third": 12}


def test_a_channel_that_is_concatenated_twice_has_two_columns() -> None:
    found = example("concatenated with itself")
    assert found.columns("first", "head") == [[channel, channel + 8] for channel in range(8)]


@pytest.mark.parametrize("part", [nn.PReLU(8), nn.PReLU(1), nn.InstanceNorm2d(8, affine=True), nn.BatchNorm2d(8)])
def test_channels_may_pass_parts_that_treat_each_alone(part: nn.Module) -> None:
    found = groups_of(net(lambda net, x: net.part(x - 1) * x, part=part))
    assert found.members() == {"first": (["first"], ["head"])}


def test_a_channel_of_several_rows_counts_as_the_layer_with_the_fewest() -> None:
    found = example("flattened and added")
    group = found.offered["first"]
    assert group.n_channels == 8 and group.rows["other"].shape == (8, 64)


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "pass a layer or group normalization (norm)": (net(lambda net, x: net.norm(x), norm=nn.GroupNorm(2, 8)), "first"),
    "pass a layer or group normalization (group_norm)": (net(lambda net, x: functional.group_norm(x, 8)), "first"),
    "middle is a grouped convolution": (net(lambda net, x: net.middle(x), middle=conv(8, 8, groups=2)), "middle"),
    "more is a grouped convolution": (net(lambda net, x: net.more(x), width=16, more=conv(8, 16, groups=8)), "first"),
    "less is a grouped convolution": (net(lambda net, x: net.less(x), width=4, less=conv(8, 4, groups=4)), "less"),
    "meet the parameter scale": (
        net(lambda net, x: pooled(x) * net.scale, scale=nn.Parameter(torch.randn(8))),
        "first",
    ),
    "the network's output, or reach it": (net(), "head"),
    "reach it without another layer": (
        Function(lambda net, x: net.head(pooled(net.first(x))).sum(1), first=conv(3, 8), head=nn.Linear(8, 5)),
        "head",
    ),
    "pass up, a ConvTranspose2d": (net(lambda net, x: net.up(x), up=nn.ConvTranspose2d(8, 8, 2)), "first"),
    "Removing half of them is not the same as masking them": (net(lambda net, x: x.softmax(1)), "first"),
    "masking them: outputs differ": (net(lambda net, x: x * torch.sigmoid(x.sum(1, keepdim=True))), "first"),
    "do not belong together one to one": (net(lambda net, x: x[:, :4], width=4), "first"),
    "nor one to equally many. They are split by": (
        net(lambda net, x: torch.mul(*x.chunk(2, 1)), width=4),
        "first",
    ),
    "head reads fewer channels than there are": (net(lambda net, x: functional.glu(x, 1), width=4), "first"),
    "cannot be removed without others. They are split by aten.view.default": (
        net(
            lambda net, x: net.middle(net.wide(pooled(x)).view(-1, 3, 4, 4)),
            width=6,
            wide=nn.Linear(8, 48),
            middle=conv(3, 6),
        ),
        "wide",
    ),
    "A size that is written as a number is the usual reason": (net(lambda net, x: x.view(-1, 512), width=512), "first"),
    "There is one channel only": (net(lambda net, x: net.one(x), width=1, one=conv(8, 1)), "one"),
    "Nothing depends on them": (net(lambda net, x: x * 0), "first"),
    "does not run without half of them": (
        Function(lambda net, x: net.head(pooled(net.first(x))), first=conv(3, 3, groups=3), head=nn.Linear(3, 5)),
        "first",
    ),
    "table is an embedding": (
        net(lambda net, x: pooled(x) + net.table((pooled(x) > 0.5).long()[:, 0]), table=nn.Embedding(2, 8)),
        "table",
    ),
    "Torch-Pruning does not know bare": (
        net(lambda net, x: pooled(x) @ net.bare, bare=nn.Parameter(torch.randn(8, 8))),
        "bare",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_channels_are_refused_with_their_reason(reason: str) -> None:
    module, layer = REFUSED[reason]
    found = groups_of(module)
    assert reason in found.reason(layer) and found.reason(layer).endswith(".")


def test_layers_that_share_a_weight_are_refused() -> None:
    module = net(lambda net, x: torch.tanh(net.again(torch.tanh(net.middle(x)))), middle=conv(8, 8), again=conv(8, 8))
    module.get_submodule("again").weight = module.get_submodule("middle").weight
    assert groups_of(module).reason("middle") == "Several modules share the weight of middle."


class Attention(nn.Module):
    """Attention with a perceptron, on branches that count little."""

    def __init__(self, fused: bool, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.enter = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.projections = nn.ModuleList([nn.Linear(8, 24)] if fused else [nn.Linear(8, 8) for _ in range(3)])
        self.out = nn.Linear(8, 8)
        self.fc1 = nn.Linear(8, 12)
        self.fc2 = nn.Linear(12, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(n, 5, 6)`` to ``(n, 5, 4)``."""
        features = self.enter(tokens)
        normed = self.norm(features)
        joint = torch.cat([project(normed) for project in self.projections], -1)
        query, key, value = joint.unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        features = features + self.factor * self.out(attended)
        return self.head(features + self.factor * self.fc2(torch.relu(self.fc1(features))))  # type: ignore[no-any-return]


TOKENS = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(2))


def test_a_fused_projection_of_attention_is_refused_and_the_perceptron_beside_it_offered() -> None:
    torch.manual_seed(0)
    found = groups_of(Attention(fused=True), TOKENS)
    assert found.members() == {"fc1": (["fc1"], ["fc2"])}
    assert "split by" in found.reason("projections.0")


@pytest.mark.parametrize("factor", [1.0, 1e-3, 1e-6])
def test_right_and_wrong_groups_are_told_apart_however_little_their_branch_counts(factor: float) -> None:
    torch.manual_seed(0)
    found = groups_of(Attention(fused=False, factor=factor), TOKENS)
    assert found.members() == {"fc1": (["fc1"], ["fc2"])}


def test_a_hugging_face_network_is_followed_through_an_adapter() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config: Any = {"vocab_size": 40, "max_position_embeddings": 8, "num_labels": 3, **sizes}
    torch.manual_seed(0)
    module = BertForSequenceClassification(BertConfig(**config))
    tokens = torch.randint(0, 40, (4, 6))
    mask = (torch.arange(6) < torch.tensor([[6], [3], [4], [5]])).long()

    def call(network: nn.Module, inputs: Any) -> Any:
        return network(input_ids=inputs["tokens"], attention_mask=inputs["mask"])

    found = groups_of(module, {"tokens": tokens, "mask": mask}, forward=call, output="logits")
    dense = "bert.encoder.layer.0.{}.dense"
    assert found.members() == {
        dense.format("intermediate"): ([dense.format("intermediate")], [dense.format("output")]),
        "bert.pooler.dense": (["bert.pooler.dense"], ["classifier"]),
    }
    assert "split by" in found.reason("bert.encoder.layer.0.attention.self.query")
    assert "normalization (bert.embeddings.LayerNorm)" in found.reason("bert.embeddings.word_embeddings")


def test_a_network_that_cannot_be_followed_is_one_refusal_with_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: Any, **__: Any) -> None:
        raise KeyError("unknown operation\nand more")

    monkeypatch.setattr(torch_pruning.DependencyGraph, "build_dependency", build)
    found = groups_of(net())
    reason = "Torch-Pruning cannot follow the network (KeyError: 'unknown operation\\nand more')."
    assert not found.offered and found.refused == (RefusedGroup(("first", "head"), reason),)


def test_a_layer_that_cannot_be_followed_hinders_no_other() -> None:
    def middle(net: Any, features: Tensor) -> Tensor:
        return net.lstm(torch.relu(net.second(features)).flatten(2))[0].flatten(1)  # type: ignore[no-any-return]

    found = groups_of(net(middle, width=40, second=conv(8, 8), lstm=nn.LSTM(64, 5, batch_first=True)))
    assert [*found.offered] == ["first"]
    assert "Torch-Pruning cannot follow second" in found.reason("second")


def test_layers_that_run_without_gradients_are_refused() -> None:
    def call(module: nn.Module, inputs: Any) -> Any:
        with torch.no_grad():
            return module(inputs)

    assert "without gradients" in groups_of(net(), forward=call).reason("first")


def test_a_graph_that_computes_something_else_is_one_refusal() -> None:
    found = groups_of(net())
    other = {name: tensor * 1.1 for name, tensor in found.traced.tensors.items()}
    offered, (refusal,) = find_prune_groups(
        found.module, found.traced.graph, other, [*found.layers.values()], found.inputs
    )
    assert offered == () and "cannot be checked" in refusal.reason


def test_networks_that_insist_on_single_precision_are_checked_in_it() -> None:
    found = groups_of(net(lambda net, x: net.middle(x.float()), middle=conv(8, 8)))
    assert [*found.offered] == ["first", "middle"]


def test_constants_of_single_precision_in_the_graph_are_no_hindrance() -> None:
    found = groups_of(net(lambda net, x: x @ (torch.eye(8) + torch.ones(8, 8, dtype=torch.float32).type_as(x))))
    assert [*found.offered] == ["first"]


@pytest.mark.parametrize("name", ["digits_resnet", "digits_vit", "convolutions"])
def test_the_module_its_inputs_and_modes_stay_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = example(name)
    module = copy.deepcopy(found.module).train()
    before = copy.deepcopy(module.state_dict())
    tensors = {key: tensor.clone() for key, tensor in found.traced.tensors.items()}
    inputs = tensors_of(found.inputs)
    given = [tensor.clone() for tensor in inputs]
    random = torch.random.get_rng_state()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("error")
        again = find_prune_groups(module, found.traced.graph, tensors, [*found.layers.values()], found.inputs)
        assert torch.is_inference_mode_enabled()
    assert [group.name for group in again[0]] == [*found.offered] and again[1] == found.refused
    assert module.training and all(part.training for part in module.modules())
    assert not any(part._forward_hooks for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert {key: value.tolist() for key, value in module.state_dict().items()} == {
        key: value.tolist() for key, value in before.items()
    }
    assert all(torch.equal(tensor, found.traced.tensors[key]) for key, tensor in tensors.items())
    assert all(torch.equal(first, second) for first, second in zip(inputs, given, strict=True))
    assert torch.equal(torch.random.get_rng_state(), random)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(5))
def test_what_is_offered_does_not_depend_on_the_channels_that_are_tried(seed: int) -> None:
    found = example("digits_mobilenet")
    offered, refused = find_prune_groups(
        found.module, found.traced.graph, found.traced.tensors, [*found.layers.values()], found.inputs, seed=seed
    )
    assert [group.name for group in offered] == [*found.offered] and refused == found.refused
