from __future__ import annotations

import itertools
import pickle
from typing import Any

import pytest
import torch
from networks import (
    ALL,
    blocks_of,
    compressor_of,
    module_of,
    network_of,
    outputs_of,
    random_policies,
    same_splits,
    splits_of,
)
from torch import nn
from torch.nn import functional

from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.quantizers import ActivationQuantizer, UniformAffine
from evo_mpq.errors import NetworkError
from evo_mpq.network.calling import tensors_of
from evo_mpq.network.data.splits import splits_from
from evo_mpq.network.network import Network, trace_network
from evo_mpq.space.policy import Policy


def names_of(network: Network) -> list[str]:
    return [layer.name for layer in network.layers]


@pytest.mark.parametrize("name", ALL)
def test_the_reference_is_the_float_network_to_the_bit(name: str) -> None:
    network = network_of(name)
    module = compressor_of(name, edges=None).apply(Policy.uniform(names_of(network)))
    for batch in network.splits.search.batches():
        assert torch.equal(module(batch.inputs), network.float_outputs(batch.inputs))


@pytest.mark.parametrize("correction", ["none", "bias", "scale_bias"])
@pytest.mark.parametrize("name", ALL)
def test_eight_bits_stay_close_to_the_float_network(name: str, correction: str) -> None:
    network = network_of(name)
    module = compressor_of(name, "nearest", correction).apply(Policy.uniform(names_of(network), 8, 8))
    batch = network.splits.calibration.whole()
    expected = network.float_outputs(batch.inputs)
    assert (module(batch.inputs) - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("name", ALL)
def test_a_network_is_not_changed_by_compressing_it(name: str) -> None:
    network = network_of(name)
    before = network.weights_hash()
    batch = next(iter(network.splits.search.batches()))
    reference = network.float_outputs(batch.inputs)
    module = compressor_of(name).apply(random_policies(network, 1, 0)[0])
    first = module(batch.inputs)
    kept = first.clone()
    assert torch.equal(module(batch.inputs), kept)
    assert torch.equal(first, kept)
    assert network.weights_hash() == before
    assert torch.equal(network.float_outputs(batch.inputs), reference)


@pytest.mark.parametrize("name", ["digits_resnet", "digits_mlp", "digits_vit", "convolutions", "signals", "encoder"])
def test_the_last_layer_has_the_float_networks_mean_and_spread_on_the_calibration_batch(name: str) -> None:
    network = network_of(name)
    inputs = network.splits.calibration.whole().inputs
    floats = network.float_outputs(inputs).flatten(0, -2)
    for correction in ("bias", "scale_bias"):
        compressed = compressor_of(name, "nearest", correction).apply(Policy.uniform(names_of(network), 3, 4))
        outputs = compressed(inputs).flatten(0, -2)
        tolerance = 2e-3 * float(floats.abs().max())
        torch.testing.assert_close(outputs.mean(0), floats.mean(0), rtol=0, atol=tolerance)
        if correction == "scale_bias":
            torch.testing.assert_close(outputs.std(0), floats.std(0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_correction_brings_few_bits_closer_to_the_float_network(rounding: str) -> None:
    # Summed over networks: of a single one it is no law.
    totals = {}
    for correction in ("none", "scale_bias"):
        totals[correction] = 0.0
        for name in ("digits_resnet", "digits_mobilenet", "digits_mlp", "convolutions", "signals"):
            network = network_of(name)
            module = compressor_of(name, rounding, correction, None).apply(Policy.uniform(names_of(network), 2, 32))
            for batch, outputs in zip(
                network.splits.search.batches(), outputs_of(module, network.splits.search), strict=True
            ):
                expected = network.float_outputs(batch.inputs)
                totals[correction] += float((outputs - expected).norm() / expected.norm())
    assert totals["scale_bias"] < 0.8 * totals["none"], totals


def test_a_module_that_is_called_twice_is_not_corrected() -> None:
    network, compressor = network_of("called_twice"), compressor_of("called_twice")
    choice = compressor.choice(Policy.uniform(names_of(network), 3, 8))
    shared = next(layer for layer in network.layers if layer.name == "shared")
    bias = network.tensors["shared.bias"]
    for use in shared.uses:
        scale, shift = choice.affines[use.node] or (None, None)
        assert scale is not None
        assert shift is not None
        assert (scale == 1).all()
        torch.testing.assert_close(shift.flatten(), bias, rtol=1e-3, atol=1e-4)
    (first,) = network.layers[0].uses
    assert (choice.affines[first.node] or [torch.ones(1)])[0].flatten().unique().numel() > 1


@pytest.mark.parametrize("name", ["cross_attention", "products", "tied_tokens", "called_twice"])
def test_without_correction_every_use_adds_its_own_bias(name: str) -> None:
    # Biases may be pieces of a parameter (attention to another sequence), shared, or missing.
    network = network_of(name)
    compressor = compressor_of(name, "nearest", "none", None)
    choice = compressor.choice(Policy.uniform(names_of(network), 32, 32))
    inputs = network.splits.search.whole().inputs
    with torch.no_grad():
        compressor.program.calibrate(network.calibration_inputs, choice)  # as if it were not the reference
        outputs = compressor.program.run(tensors_of(inputs), choice)
    expected = network.float_outputs(inputs)
    torch.testing.assert_close(outputs, expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max()))


def test_bits_of_an_embeddings_input_mean_nothing() -> None:
    network, compressor = network_of("tied_tokens"), compressor_of("tied_tokens")
    assert [layer.quantizes_input for layer in network.layers] == [True, True]  # the head reads the same weight
    only = trace_network(
        nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)),
        same_splits([(torch.tensor([i % 5]), 0) for i in range(8)]),
    )
    compressor = Compressor(only, edges=None)
    plain, other = (
        Policy({"0": Policy.uniform(["0"], 3, bits).layers["0"], "1": Policy.uniform(["1"], 3, 4).layers["1"]})
        for bits in (32, 4)
    )
    inputs = only.splits.search.whole().inputs
    assert torch.equal(compressor.apply(plain)(inputs), compressor.apply(other)(inputs))
    assert compressor.packed_bytes(plain) == compressor.packed_bytes(other)
    assert compressor.program.columns == (("0", "weight"), ("1", "activation_bits"), ("1", "weight"))


@pytest.mark.parametrize("name", ALL)
def test_every_layer_decides_once_in_the_order_of_the_graph(name: str) -> None:
    network = network_of(name)
    columns = compressor_of(name).program.columns
    assert len(set(columns)) == len(columns)
    assert [name for name, kind in columns if kind == "weight"] == names_of(network)
    reading = [layer.name for layer in network.layers if layer.quantizes_input]
    products = [product.name for product in network.products]
    assert {name for name, kind in columns if kind == "activation_bits"} == {*reading, *products}
    assert {name for name, kind in columns if kind == "drop"} == {*blocks_of(name)}


def test_a_pickled_compressor_does_the_same() -> None:
    for name, edges in itertools.product(("convolutions", "cross_attention", "tied_tokens"), (8, None)):
        compressor = compressor_of(name, edges=edges)
        other: Compressor = pickle.loads(pickle.dumps(compressor))
        for policy in random_policies(network_of(name), 2, 1):
            assert other.packed_bytes(policy) == compressor.packed_bytes(policy)
            assert other.pack(other.apply(policy)) == compressor.pack(compressor.apply(policy))


def test_the_reference_of_quantized_edges_is_measured_apart() -> None:
    network = network_of("convolutions")
    compressor, reference = Compressor(network, edges=8), Policy.uniform(names_of(network))
    inputs = network.splits.search.whole().inputs
    apart = compressor.without_edges()
    assert compressor.edges == 8
    assert not compressor.is_reference(reference)
    assert apart.is_reference(reference)
    assert torch.equal(apart.apply(reference)(inputs), network.float_outputs(inputs))
    assert not torch.equal(compressor.apply(reference)(inputs), network.float_outputs(inputs))
    assert apart.without_edges() is apart


def test_edges_take_at_most_two_to_the_bits_values() -> None:
    network = network_of("convolutions")
    assert set(network.edges) == {"add_45", "max_pool2d", "avg_pool2d", "cat", "mean"} or len(network.edges) == 5
    compressor = compressor_of("convolutions", edges=2)
    found: list[torch.Tensor] = []
    grids = compressor.apply(Policy.uniform(names_of(network), 8, 8)).state.edge_grids
    assert set(grids) == {name for names in network.edges.values() for name in names}
    for name, grid in grids.items():
        found.append(grid(compressor.statistics.samples[name]).unique())
    assert all(len(values) <= 4 for values in found)


@pytest.mark.parametrize(
    "call",
    [
        lambda module, inputs: module(inputs),
        lambda module, inputs: module(**inputs),
        lambda module, inputs: module(dict(reversed(list(inputs.items())))),
        lambda module, inputs: module(
            {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
        ),
    ],
    ids=["mapping", "keywords", "other order", "double"],
)
def test_a_compressed_network_is_called_as_the_users_network_is(call: Any) -> None:
    network = network_of("cross_attention")
    module = compressor_of("cross_attention").apply(Policy.uniform(names_of(network), 4, 8))
    inputs = next(iter(network.splits.search.batches())).inputs
    assert torch.equal(call(module, inputs), module(inputs))


def test_a_compressed_network_says_how_it_is_called() -> None:
    module = compressor_of("cross_attention").apply(Policy.uniform(names_of(network_of("cross_attention")), 4, 8))
    with pytest.raises(TypeError, match="3 tensors"):
        module(torch.zeros(2, 4, 8))
    with pytest.raises(TypeError, match="not 0 arguments and the keywords"):
        module(queries=torch.zeros(2, 4, 8))


def test_packed_bytes_need_no_quantized_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    compressor = Compressor(network_of("signals"))

    def refuse(*_: object) -> None:
        raise AssertionError("built something")

    monkeypatch.setattr(compressor, "bank", refuse)
    monkeypatch.setattr(compressor.program, "calibrate", refuse)
    assert compressor.packed_bytes(Policy.uniform(names_of(network_of("signals")), 3, 4)) > 0


def test_an_unknown_correction_is_refused() -> None:
    with pytest.raises(ValueError, match="scale_bias"):
        Compressor(network_of("signals"), correction="mean")  # type: ignore[arg-type]


class Unbounded(nn.Module):
    """Adds minus infinity on the way and gets rid of it again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logarithm = functional.relu(self.first(features)).log()
        return self.head((logarithm + self.second(features)).clamp(-3, 3))  # type: ignore[no-any-return]


def test_an_edge_that_holds_infinity_is_told_with_what_to_do() -> None:
    data = [(torch.randn(4, generator=torch.Generator().manual_seed(i)), 0) for i in range(8)]
    network = trace_network(Unbounded(), same_splits(data))
    with pytest.raises(NetworkError, match="edges: none"):
        Compressor(network, edges=8)
    outputs = Compressor(network, edges=None).apply(Policy.uniform(names_of(network), 4, 8))(
        network.splits.search.whole().inputs
    )
    assert torch.isfinite(outputs).all()


def test_a_calibration_split_of_one_sample_is_enough() -> None:
    splits = splits_of("convolutions")
    one = splits_from({key: [getattr(splits, key).dataset[0]] for key in ("calibration", "search", "test")})
    network = trace_network(module_of("convolutions"), one)
    for correction in ("none", "bias", "scale_bias"):
        module = Compressor(network, correction=correction, edges=8).apply(Policy.uniform(names_of(network), 4, 8))  # type: ignore[arg-type]
        outputs = module(one.search.whole().inputs)
        assert outputs.shape == (1, 3)
        assert torch.isfinite(outputs).all()


def test_settings_say_what_a_compressor_was_made_with() -> None:
    compressor = Compressor(
        network_of("signals"),
        quantizer=UniformAffine(False, 4, 99.5, "nearest"),
        activations=ActivationQuantizer("minmax"),
        correction="bias",
        edges=8,
    )
    assert compressor.settings == {
        "weights": {"symmetric": False, "granularity": 4, "clip": 99.5, "rounding": "nearest"},
        "activations": {"clip": "minmax", "edges": 8},
        "correction": "bias",
    }
