from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import (
    ALL,
    EXAMPLES,
    Signals,
    compressor_of,
    in_a_fresh_process,
    network_of,
    outputs_of,
    random_policies,
    same_splits,
    untrained,
)
from torch import nn

from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.module import load_packed
from evo_mpq.compress.packing import header_bytes, pack_bits, read_packed, unpack, unpack_bits
from evo_mpq.compress.state import CompressedState
from evo_mpq.errors import PackedFileError
from evo_mpq.network.network import trace_network
from evo_mpq.space.policy import LayerPolicy, Policy

SETTINGS: list[dict[str, Any]] = [
    {"rounding": "nearest", "symmetric": True, "granularity": "channel", "edges": 8},
    {"rounding": "nearest", "symmetric": True, "granularity": "tensor", "edges": None},
    {"rounding": "nearest", "symmetric": False, "granularity": "tensor", "edges": 4},
    {"rounding": "nearest", "symmetric": False, "granularity": 5, "edges": 8},
    {"rounding": "gptq", "symmetric": True, "granularity": 5, "edges": None},
]
"""Everything that changes what a file holds; the correction changes values only."""

PACKED = ("convolutions", "tied_tokens", "products", "cross_attention", "digits_vit", "digits_resnet")


@st.composite
def policies(draw: st.DrawFn, name: str) -> Policy:
    return random_policies(network_of(name), 2, draw(st.integers(0, 2**32 - 1)))[1]


def bits_only(policy: Policy) -> Policy:
    """The policy without pruned channels and dropped blocks."""
    return Policy({name: replace(layer, prune_ratio=0.0) for name, layer in policy.layers.items()})


@st.composite
def candidates(draw: st.DrawFn) -> tuple[Compressor, Policy]:
    name = draw(st.sampled_from(PACKED))
    return compressor_of(name, **draw(st.sampled_from(SETTINGS))), draw(policies(name))


def mixed(name: str) -> Policy:
    """A policy with float and quantized weights and activations."""
    layers = network_of(name).layers
    bits = [(3, 4), (32, 8), (8, 32), (2, 4), (5, 32)]
    return Policy({layer.name: LayerPolicy(*bits[i % len(bits)]) for i, layer in enumerate(layers)})


def content(state: CompressedState) -> dict[str, bytes]:
    """Everything that a state holds, as bytes."""
    found: dict[str, bytes] = {}

    def put(key: str, tensor: torch.Tensor) -> None:
        found[key] = f"{tuple(tensor.shape)}{tensor.dtype}".encode() + tensor.contiguous().numpy().tobytes()

    for name, weight in state.weights.items():
        put(f"{name} matrix", weight.matrix)
        put(f"{name} values", weight.values)
        for side, positions in (("rows", weight.rows), ("columns", weight.columns)):
            if positions is not None:
                put(f"{name} {side}", positions)
        if weight.grid is not None:
            put(f"{name} scale", weight.grid.scale)
            put(f"{name} zero point", weight.grid.zero_point)
            found[f"{name} grid"] = f"{weight.grid.bits} {weight.grid.group_size} {weight.grid.codes}".encode()
    for name, affine in state.affines.items():
        for i, vector in enumerate(affine or ()):
            put(f"{name} affine {i}", vector)
    for name, grid in {**state.activations, **state.edge_grids}.items():
        if grid is None:
            continue
        found[f"{name} activation"] = repr(grid).encode()
    for name, tensor in state.tensors.items():
        put(name, tensor)
    return found


@given(candidates())
@settings(max_examples=50, deadline=None)
def test_a_file_is_as_long_as_was_known_before_and_holds_everything(candidate: tuple[Compressor, Policy]) -> None:
    compressor, policy = candidate
    module = compressor.apply(policy)
    data = compressor.pack(module)
    assert len(data) == compressor.packed_bytes(policy)
    packed = read_packed(data, "file")
    assert packed.settings == compressor.settings
    assert packed.signature == compressor.network.signature
    state = unpack(packed, compressor.layout, compressor.computed_nodes(policy), [*policy.architecture])
    assert {name: (p.weight_bits, p.activation_bits) for name, p in state.policy.layers.items()} == {
        name: (p.weight_bits, p.activation_bits) for name, p in policy.layers.items()
    }
    assert state.policy.architecture == policy.architecture
    assert content(state) == content(module.state)


@given(candidates(), st.data())
@settings(max_examples=50, deadline=None)
def test_size_is_a_sum_over_layers(candidate: tuple[Compressor, Policy], data: st.DataObject) -> None:
    compressor, policy = candidate[0], bits_only(candidate[1])
    other = bits_only(data.draw(policies(compressor.network.name)))
    total = compressor.packed_bytes(policy)
    for name, layer in other.layers.items():  # one layer after the other turns into that of the other policy
        changed = Policy({**policy.layers, name: layer})
        alone = Policy({**other.layers, name: policy.layers[name]})
        sizes = [compressor.packed_bytes(p) for p in (changed, policy, other, alone)]
        if not any(map(compressor.is_reference, (changed, policy, other, alone))):
            assert sizes[0] - sizes[1] == sizes[2] - sizes[3]
        total += sizes[0] - sizes[1]
    if not any(map(compressor.is_reference, (policy, other))):
        assert total == compressor.packed_bytes(other)


@given(candidates(), st.data())
@settings(max_examples=40, deadline=None)
def test_fewer_bits_never_need_more_bytes(candidate: tuple[Compressor, Policy], data: st.DataObject) -> None:
    compressor, policy = candidate[0], bits_only(candidate[1])
    name = data.draw(st.sampled_from([layer.name for layer in compressor.network.layers]))
    layer = next(layer for layer in compressor.network.layers if layer.name == name)
    if layer.n_rows == 1 or layer.n_parameters < 40:
        return  # scales may cost more than such a layer's codes save
    sizes = [
        compressor.packed_bytes(Policy({**policy.layers, name: replace(policy.layers[name], weight_bits=bits)}))
        for bits in range(2, 9)
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)


def test_everything_in_a_file_is_counted() -> None:
    # By hand, for a network of two Linear layers (6 x 4 weights and 6 biases, 2 x 6 and 2) and no other tensor.
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    data = [(torch.randn(4), 0) for _ in range(8)]
    network = trace_network(module, same_splits(data))
    policy = Policy({"0": LayerPolicy(3, 4), "2": LayerPolicy(32, 32)})
    compressor = Compressor(network)
    first = 24 * 3 // 8 + (1 + 2 * 6) + 5 + 2 * (1 + 2 * 6)  # codes, scales, the input's grid, the affine
    second = 12 * 4 + 2 * (1 + 2 * 2)  # float32 weights, the affine
    assert compressor.packed_bytes(policy) == header_bytes(network) + first + second
    reference = Policy.uniform(policy.layers)
    assert compressor.packed_bytes(reference) == header_bytes(network) + 4 * (24 + 6 + 12 + 2)


def test_biases_that_affines_take_over_are_not_stored_again() -> None:
    for name in ALL:
        network, others = network_of(name), compressor_of(name).layout.others
        biases = [other for other in others if other.endswith("bias") and "norm" not in other]
        assert biases == (["first.bias"] if name == "oddities" else [])  # read by an addition too
        assert set(others).isdisjoint(layer.parameter for layer in network.layers)


@pytest.mark.parametrize("name", ["digits_resnet", "digits_mlp", "digits_vit", *EXAMPLES])
def test_a_loaded_file_gives_the_same_outputs_to_the_bit_whatever_weights_the_module_has(name: str) -> None:
    compressor = compressor_of(name)
    module = compressor.apply(mixed(name))
    loaded = load_packed(compressor.pack(module), "file", untrained(name))
    split = network_of(name).splits.search
    for a, b in zip(outputs_of(module, split), outputs_of(loaded, split), strict=True):
        assert torch.equal(a, b)
    assert content(loaded.state) == content(module.state)


@pytest.mark.parametrize(
    "how", [lambda module: module.to(memory_format=torch.channels_last), nn.Module.half], ids=["channels last", "half"]
)
def test_the_modules_type_and_layout_do_not_matter(how: Callable[[nn.Module], nn.Module]) -> None:
    compressor = compressor_of("convolutions", edges=None)
    split = network_of("convolutions").splits.search
    module = compressor.apply(mixed("convolutions"))
    loaded = load_packed(compressor.pack(module), "file", how(untrained("convolutions")))
    for a, b in zip(outputs_of(module, split), outputs_of(loaded, split), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["signals", "tied_tokens"])
def test_the_file_of_the_reference_gives_the_float_network_back(name: str) -> None:
    network, compressor = network_of(name), compressor_of(name, edges=None)
    reference = Policy.uniform(layer.name for layer in network.layers)
    data = compressor.pack(compressor.apply(reference))
    assert len(data) == compressor.packed_bytes(reference)
    loaded = load_packed(data, "file", untrained(name))
    for batch in network.splits.search.batches():
        assert torch.equal(loaded(batch.inputs), network.float_outputs(batch.inputs))


def test_a_fresh_process_traces_the_same_graph_and_computes_the_same(tmp_path: Path) -> None:
    name = "cross_attention"
    compressor = compressor_of(name)
    module = compressor.apply(mixed(name))
    file = tmp_path / "packed.safetensors"
    file.write_bytes(compressor.pack(module))
    outputs = outputs_of(module, network_of(name).splits.search)
    expected = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in outputs)).hexdigest()
    assert in_a_fresh_process(name, file) == (network_of(name).graph.hash(), expected)


@pytest.mark.parametrize("name", PACKED)
def test_the_headers_length_depends_on_the_network_only(name: str) -> None:
    lengths = set()
    for options in SETTINGS:
        compressor = compressor_of(name, **options)
        for policy in random_policies(network_of(name), 1, 3):
            data = compressor.pack(compressor.apply(policy))
            (length,) = struct.unpack_from("<Q", data)
            lengths.add(8 + length)
            json.loads(data[8 : 8 + length])
    assert lengths == {header_bytes(network_of(name))}
    assert lengths.pop() % 8 == 0


def test_a_file_is_a_safetensors_file(tmp_path: Path) -> None:
    compressor = compressor_of("signals")
    data = compressor.pack(compressor.apply(mixed("signals")))
    (tmp_path / "file.safetensors").write_bytes(data)
    with safetensors.safe_open(tmp_path / "file.safetensors", "pt") as opened:
        assert list(opened.keys()) == ["packed"]
        assert opened.get_tensor("packed").dtype == torch.uint8
        assert len(opened.get_tensor("packed")) == len(data) - header_bytes(network_of("signals"))
        assert json.loads(opened.metadata()["policy"])["weight_bits"] == [3, 32, 8]


def test_two_files_of_one_policy_are_the_same() -> None:
    compressor = compressor_of("signals")
    assert compressor.pack(compressor.apply(mixed("signals"))) == compressor.pack(compressor.apply(mixed("signals")))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_refused(data: st.DataObject) -> None:
    compressor = compressor_of("signals")
    file = bytearray(compressor.pack(compressor.apply(mixed("signals"))))
    whole = read_packed(bytes(file), "file")
    if data.draw(st.booleans(), label="cut off"):
        damaged = bytes(file[: data.draw(st.integers(0, len(file) - 1), label="length")])
    else:
        position = data.draw(st.integers(0, len(file) - 1), label="position")
        file[position] ^= data.draw(st.integers(1, 255), label="flipped bits")
        damaged = bytes(file)
    try:
        read = read_packed(damaged, "my_file")
    except PackedFileError as error:
        assert "my_file is no complete evo-mpq file" in str(error)
    else:  # white space behind the header means nothing, nor does the unused beginning of the section's range
        assert (read.section, read.weight_bits, read.nodes) == (whole.section, whole.weight_bits, whole.nodes)


def test_a_file_of_something_else_is_refused() -> None:
    for data in (
        b"",
        b"\x00" * 100,
        b"PK\x03\x04" + b"x" * 50,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
    ):
        with pytest.raises(PackedFileError, match="my_file"):
            read_packed(data, "my_file")


class WiderSignals(Signals):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv1d(6, 8, 3, stride=2, padding=1, groups=2)
        self.head = nn.Linear(8, 2)


class OtherSignals(Signals):
    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        features = torch.tanh(self.norm(self.first(signals)))
        return self.head(nn.functional.gelu(self.second(features)).amax(dim=2))  # type: ignore[no-any-return]


class LongerSignals(Signals):
    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        return super().forward(signals).sigmoid()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (WiderSignals, r"the first that differs is p_network_second_weight \(second.weight\)"),
        (OtherSignals, r"the first that differs is tanh \(aten.tanh.default\)"),
        (LongerSignals, r"it has \d+ operations and tensors, the file's network had \d+"),
        (EXAMPLES["products"].build, "rejects inputs of shape"),
    ],
    ids=["width", "operation", "length", "inputs"],
)
def test_another_network_is_refused_with_the_first_difference(module: Callable[[], nn.Module], message: str) -> None:
    compressor = compressor_of("signals")
    data = compressor.pack(compressor.apply(mixed("signals")))
    with pytest.raises(PackedFileError, match=message):
        load_packed(data, "my_file", module())


def first_of_pair(module: nn.Module, pair: Any) -> torch.Tensor:
    return module(pair["signals"])  # type: ignore[no-any-return]


def test_a_network_that_is_called_by_a_function_needs_it_again() -> None:
    data = [({"signals": torch.randn(3, 10), "other": torch.randn(1)}, 0) for _ in range(8)]
    network = trace_network(
        untrained("signals").eval(),
        same_splits(data),
        forward=first_of_pair,
        forward_name="my_nets:first_of_pair",
    )
    compressor = Compressor(network)
    module = compressor.apply(Policy.uniform((layer.name for layer in network.layers), 4, 8))
    packed = compressor.pack(module)
    with pytest.raises(PackedFileError, match="my_nets:first_of_pair"):
        load_packed(packed, "file", untrained("signals"))
    loaded = load_packed(packed, "file", untrained("signals", seed=3), first_of_pair)
    inputs = network.splits.search.whole().inputs
    assert torch.equal(loaded(inputs), module(inputs))


@given(bits=st.integers(1, 8), data=st.data())
@settings(max_examples=100, deadline=None)
def test_unpacking_codes_inverts_packing_them(bits: int, data: st.DataObject) -> None:
    codes = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40)), dtype=np.uint8)
    packed = pack_bits(codes, bits)
    assert len(packed) == -(-len(codes) * bits // 8)
    assert unpack_bits(packed, bits, len(codes)).tolist() == codes.tolist()
    # The layout itself: code i stands in the bits from i * bits on, counted from the lowest of the first byte.
    number = int.from_bytes(packed, "little")
    assert [(number >> (i * bits)) % 2**bits for i in range(len(codes))] == codes.tolist()
