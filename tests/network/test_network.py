from __future__ import annotations

import pickle
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import ALL, compressor_of, module_of, network_of, same_splits, samples, splits_of, untrained
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.module import load_packed
from evo_mpq.errors import NetworkError
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.objectives import as_quantity
from evo_mpq.network.data.splits import Splits, splits_from
from evo_mpq.network.network import Network, TensorSignature, input_signature, trace_network
from evo_mpq.objectives.kl_divergence import KLDivergence
from evo_mpq.space.policy import Policy


def rows(*shape: int, n: int = 6) -> Splits:
    generator = torch.Generator().manual_seed(0)
    return same_splits([(torch.randn(shape, generator=generator), i % 2) for i in range(n)])


@pytest.mark.parametrize("name", ALL)
def test_a_network_survives_a_trip_to_another_process_without_the_module(name: str) -> None:
    network = network_of(name)
    other: Network = pickle.loads(pickle.dumps(network))
    assert other.graph.hash() == network.graph.hash()
    assert other.weights_hash() == network.weights_hash()
    assert (other.layers, other.edges, other.macs) == (network.layers, network.edges, network.macs)
    for batch in network.splits.search.batches():
        assert torch.equal(other.float_outputs(batch.inputs), network.float_outputs(batch.inputs))


@pytest.mark.parametrize("name", ALL)
def test_parameters_and_operations_are_those_of_layers_and_others(name: str) -> None:
    network = network_of(name)
    assert network.n_parameters == sum(layer.n_parameters for layer in network.layers) + network.other_parameters
    assert sum(network.macs.values()) == sum(site.macs for site in network.sites()) + network.other_macs
    assert network.other_parameters >= 0
    assert network.other_macs >= 0


def test_the_hash_of_weights_changes_with_every_weight() -> None:
    network = network_of("signals")
    hashes = {network.weights_hash()}
    for name, tensor in network.tensors.items():
        changed = tensor.clone()
        changed.view(-1)[-1] += 1e-3
        hashes.add(replace(network, tensors={**network.tensors, name: changed}).weights_hash())
    assert len(hashes) == 1 + len(network.tensors)


def test_data_of_one_sample_in_every_split_is_enough() -> None:
    splits = splits_from(
        {key: samples("signals", 1, seed) for seed, key in enumerate(("calibration", "search", "test"))}
    )
    network = trace_network(module_of("signals"), splits)
    compressor = Compressor(network, edges=8)
    quantities = [as_quantity(KLDivergence())]
    policies = [Policy.uniform([layer.name for layer in network.layers], bits, bits) for bits in (2, 8, 32)]
    result = InProcess(compressor, quantities, 1 << 26).measure(policies, "search")
    assert result.values.failures == (None, None, None)
    assert torch.isfinite(torch.tensor(result.values.values)).all()


def test_signatures_say_which_sizes_vary() -> None:
    batches = [
        {"tokens": torch.zeros(8, 5, dtype=torch.long), "images": torch.zeros(8, 3, 4, 4).half()},
        {"tokens": torch.zeros(8, 9, dtype=torch.long), "images": torch.zeros(3, 3, 4, 4).half()},
    ]
    tokens, images = input_signature(batches)
    assert tokens == TensorSignature((2, 5), "int64", (0, 1))
    assert images == TensorSignature((2, 3, 4, 4), "float32", (0,))
    assert tokens.zeros().shape == (2, 5)
    assert images.zeros().dtype == torch.float32


def test_splits_may_hold_sequences_of_different_lengths() -> None:
    def sequences(n: int, length: int) -> list[tuple[Tensor, int]]:
        return [(torch.randn(3, length), i % 2) for i in range(n)]

    module = nn.Sequential(nn.Conv1d(3, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
    splits = splits_from({"calibration": sequences(6, 9), "search": sequences(5, 12), "test": sequences(4, 7)}, 4)
    network = trace_network(module, splits)
    assert network.signature == (TensorSignature((2, 3, 9), "float32", (0, 2)),)
    assert network.layers[0].macs == (9 - 4) * 3 * 5 * 4
    compressor = Compressor(network)
    policy = Policy.uniform([layer.name for layer in network.layers], 4, 8)
    compressed = compressor.apply(policy)
    loaded = load_packed(compressor.pack(compressed), "file", module)
    for split in (splits.search, splits.test):
        inputs = split.whole().inputs
        torch.testing.assert_close(network.float_outputs(inputs), module(inputs), rtol=1e-5, atol=1e-5)
        assert torch.equal(loaded(inputs), compressed(inputs))


def classify(module: nn.Module, inputs: Any) -> Any:
    """The user's way to call a Hugging Face model on a batch of tokens."""
    return module(input_ids=inputs["tokens"], attention_mask=inputs["mask"])


@pytest.fixture(scope="module")
def bert() -> tuple[nn.Module, Network]:
    options: dict[str, Any] = {"num_labels": 3}
    config = BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=10,
        **options,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = BertForSequenceClassification(config)
    data = [
        ({"tokens": torch.randint(0, 30, (6,)), "mask": (torch.arange(6) < 3 + i % 4).long()}, i % 3) for i in range(12)
    ]
    network = trace_network(
        module, same_splits(data), forward=classify, forward_name="my_nets:classify", output="logits"
    )
    return module, network


def test_a_hugging_face_model_comes_through_forward_and_output(bert: tuple[nn.Module, Network]) -> None:
    module, network = bert
    inputs = network.splits.search.whole().inputs
    with torch.no_grad():
        expected = classify(module.eval(), inputs).logits
    torch.testing.assert_close(network.float_outputs(inputs), expected, rtol=1e-5, atol=1e-5)
    names = [layer.name for layer in network.layers]
    assert "bert.embeddings.word_embeddings" in names
    assert "bert.encoder.layer.0.attention.self.query" in names
    assert names[-1] == "classifier"


def test_a_hugging_face_model_can_be_compressed_stored_and_loaded(bert: tuple[nn.Module, Network]) -> None:
    module, network = bert
    compressor = Compressor(network, edges=8)
    policy = Policy.uniform([layer.name for layer in network.layers], 4, 8)
    compressed = compressor.apply(policy)
    data = compressor.pack(compressed)
    assert len(data) == compressor.packed_bytes(policy)
    config: Any = module.config
    loaded = load_packed(data, "file", BertForSequenceClassification(config), classify)
    for batch in network.splits.search.batches():
        assert torch.equal(loaded(batch.inputs), compressed(batch.inputs))


class Adds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.linear(left + right)  # type: ignore[no-any-return]


@pytest.mark.parametrize("nest", [lambda a, b: (a, b), lambda a, b: [a, b], lambda a, b: {"right": b, "left": a}])
def test_inputs_of_several_tensors_go_all_the_way_to_a_loaded_file(nest: Callable[[Tensor, Tensor], Any]) -> None:
    data = [(nest(torch.randn(3), torch.randn(3)), 0) for _ in range(8)]
    network = trace_network(Adds(), same_splits(data))
    compressor = Compressor(network)
    compressed = compressor.apply(Policy.uniform(["linear"], 4, 8))
    loaded = load_packed(compressor.pack(compressed), "file", Adds())
    inputs = network.splits.search.whole().inputs
    assert torch.equal(loaded(inputs), compressed(inputs))


Pair = namedtuple("Pair", ["left", "right"])


def test_inputs_that_no_file_could_describe_are_refused() -> None:
    for nest in (Pair, lambda a, b: {("left",): a, ("right",): b}):
        data = [(nest(torch.randn(3), torch.randn(3)), 0) for _ in range(3)]
        with pytest.raises(NetworkError, match="no file can describe"):
            trace_network(Adds(), same_splits(data))


class Trouble(nn.Module):
    """A linear layer with something wrong around it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.linear = nn.Linear(3, 2)

    def forward(self, features: Tensor) -> Any:
        outputs = self.linear(features)
        if self.how == "dropout":
            return functional.dropout(outputs, 0.5)
        if self.how == "random numbers":
            return outputs + torch.rand_like(outputs)
        if self.how == "frozen":
            return outputs * (1.0 if torch.compiler.is_exporting() else 2.0)
        if self.how == "another shape":
            return outputs if torch.compiler.is_exporting() else outputs[:, :1]
        return {"mean": outputs.mean(), "sum": outputs.sum(0), "nan": outputs / 0 * 0, "tuple": (outputs,)}[self.how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("dropout", "does not compute what the network computes.*differs by"),
        ("random numbers", "does not compute.*random numbers"),
        ("frozen", "does not compute.*frozen while tracing"),
        ("another shape", r"shape \(6, 2\) instead of \(6, 1\)"),
        ("mean", r"shape \(\) for a batch of 6"),
        ("sum", r"shape \(2,\) for a batch of 6"),
        ("nan", "NaN or infinity on the first calibration batch"),
        ("tuple", "a tuple of 1.*one of 0"),
    ],
)
def test_a_network_whose_outputs_make_no_sense_is_refused(how: str, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        trace_network(Trouble(how), rows(3))


def test_data_that_the_network_rejects_are_told_in_its_terms() -> None:
    with pytest.raises(NetworkError, match=r"shape \(6, 5\) gives RuntimeError: mat1.*`data:`"):
        trace_network(nn.Linear(3, 2), rows(5))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"torch.nn.Module, not a function"):
        trace_network(classify, rows(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [nn.LSTM(3, 2, batch_first=True), nn.Sequential(nn.ReLU())], ids=["LSTM", "ReLU"])
def test_a_network_without_layers_is_refused(module: nn.Module) -> None:
    output = 0 if isinstance(module, nn.LSTM) else None
    with pytest.raises(NetworkError, match=r"no layer that can be quantized.*Conv1d, Conv2d, Linear or Embedding"):
        trace_network(module, rows(4, 3), output=output)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.memory(features)[0][:, -1])  # type: ignore[no-any-return]


def test_recurrent_parts_stay_float_beside_layers() -> None:
    network = trace_network(Recurrent(), rows(4, 3))
    assert [layer.name for layer in network.layers] == ["head"]
    compressor = Compressor(network)
    policy = Policy.uniform(["head"], 2, 4)
    module = compressor.apply(policy)
    data = compressor.pack(module)
    assert len(data) == compressor.packed_bytes(policy)
    inputs = network.splits.search.whole().inputs
    assert torch.equal(load_packed(data, "file", Recurrent())(inputs), module(inputs))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_even_where_the_first_batch_does_not_show_them(value: float) -> None:
    tokens = [(torch.tensor([1, 2, 3, 1, 2]), 0) for _ in range(4)]
    embedding = nn.Embedding(9, 8)
    with torch.no_grad():
        embedding.weight[7, 2] = value
    with pytest.raises(NetworkError, match="weights of 0 hold NaN or infinity"):
        trace_network(nn.Sequential(embedding, nn.Linear(8, 3)), same_splits(tokens))


def test_infinite_buffers_are_no_weights() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.mask: Tensor
            self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

        def forward(self, features: Tensor) -> Tensor:
            weights = torch.softmax(features @ features.transpose(1, 2) + self.mask, dim=-1)
            return self.linear(weights @ features)  # type: ignore[no-any-return]

    network = trace_network(Masked(), rows(3, 3))
    outputs = Compressor(network, edges=8).apply(Policy.uniform(["linear"], 4, 4))(network.splits.search.whole().inputs)
    assert torch.isfinite(outputs).all()


def test_operations_whose_size_depends_on_values_are_refused() -> None:
    class Selects(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, features: Tensor) -> Tensor:
            chosen = features[features[:, 0] > 0]
            return self.linear(features + chosen.sum(0))  # type: ignore[no-any-return]

    with pytest.raises(NetworkError, match=r"boolean indexing|cannot be traced"):
        trace_network(Selects(), rows(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_and_data_of_other_types_are_measured_in_float32(dtype: torch.dtype) -> None:
    data = [(torch.randn(3, 10, generator=torch.Generator().manual_seed(i)).to(dtype), 0) for i in range(6)]
    module = untrained("signals").to(dtype)
    network = trace_network(module, same_splits(data))
    inputs = network.splits.search.whole().inputs
    assert inputs.dtype == dtype
    assert network.float_outputs(inputs).dtype == torch.float32
    assert next(module.parameters()).dtype == dtype
    compressed = Compressor(network).apply(Policy.uniform([layer.name for layer in network.layers], 8, 32))
    assert torch.equal(compressed(inputs), compressed(inputs.float()))


def test_padded_positions_of_attention_are_not_set_to_zero() -> None:
    # Without gradients torch takes a fused path that zeroes them; the traced network never does.
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1)
            self.head = nn.Linear(8, 2)

        def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
            return self.head(self.encoder(tokens, src_key_padding_mask=padding))  # type: ignore[no-any-return]

    before = torch.backends.mha.get_fastpath_enabled()
    data = [((torch.randn(4, 8), torch.arange(4) >= 2 + i % 2), 0) for i in range(6)]
    network = trace_network(Padded(), same_splits(data))
    assert len(network.layers) == 5
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_writing_into_its_inputs_does_not_reach_the_data() -> None:
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))
    splits = rows(3)
    kept = splits.calibration.whole().inputs.clone()
    network = trace_network(module, splits)
    Compressor(network).apply(Policy.uniform(["1"], 4, 8))(splits.search.whole().inputs)
    assert torch.equal(splits.calibration.whole().inputs, kept)
    assert torch.equal(splits.search.whole().inputs, kept)


def test_a_networks_name_and_adapters_are_kept() -> None:
    network = network_of("cross_attention")
    assert (network.name, network.forward, network.output) == ("cross_attention", None, "logits")
    assert network.splits is splits_of("cross_attention")
    assert compressor_of("cross_attention").network is network
