from __future__ import annotations

import itertools

import pytest
import torch
from networks import ALL, compressor_of, network_of

from evo_mpq.compress.bank import CompressedWeight, WeightBank, as_matrix, from_matrix
from evo_mpq.compress.channels import Channels, WeightForm
from evo_mpq.compress.gptq import gptq_codes, inverse_factor
from evo_mpq.compress.quantizers import UniformAffine, code_range
from evo_mpq.network.layers import Layer

BITS = (2, 3, 8)


def bank_of(name: str, memory: int, rounding: str = "gptq", clip: str = "minmax") -> WeightBank:
    quantizer = UniformAffine(clip=clip, rounding=rounding)
    network, grams = network_of(name), compressor_of(name).statistics.grams
    channels = Channels(network.layers, (), {})
    return WeightBank(network.tensors, quantizer, channels, grams, compensate=True, memory=memory)


def bits_of(entry: CompressedWeight) -> bytes:
    assert entry.grid is not None
    parts = (entry.matrix, entry.values.contiguous(), entry.grid.scale, entry.grid.zero_point)
    return b"".join(part.numpy().tobytes() for part in parts)


@pytest.mark.parametrize("name", ALL)
def test_a_matrix_has_one_row_per_output_channel_and_turns_back_into_the_weight(name: str) -> None:
    network = network_of(name)
    for layer in network.layers:
        weight = network.tensors[layer.parameter]
        matrix = as_matrix(weight, layer)
        assert matrix.shape == (layer.n_rows, layer.n_parameters // layer.n_rows)
        assert torch.equal(from_matrix(matrix, layer), weight)


@pytest.mark.parametrize("name", ["convolutions", "products", "tied_tokens", "cross_attention"])
def test_an_entry_that_was_evicted_returns_bit_for_bit(name: str) -> None:
    roomy, tiny = bank_of(name, 1 << 30), bank_of(name, 1)
    wanted = list(itertools.product(network_of(name).layers, BITS))
    expected = {(layer.name, bits): bits_of(roomy(layer, WeightForm(bits))) for layer, bits in wanted}
    for layer, bits in [*wanted, *reversed(wanted)]:
        assert bits_of(tiny(layer, WeightForm(bits))) == expected[layer.name, bits]


def test_a_bank_keeps_the_entries_that_were_used_last_as_far_as_memory_goes() -> None:
    layer = network_of("signals").layers[0]
    size = bank_of("signals", 1)(layer, WeightForm(2)).n_bytes
    bank = bank_of("signals", 2 * size)
    first, second = bank(layer, WeightForm(2)), bank(layer, WeightForm(3))
    assert bank(layer, WeightForm(2)) is first
    bank(layer, WeightForm(4))  # the entry of 3 bits was used least recently
    assert bank(layer, WeightForm(2)) is first
    assert bank(layer, WeightForm(3)) is not second


@pytest.mark.parametrize("name", ALL)
def test_values_are_what_the_codes_stand_for(name: str) -> None:
    bank = bank_of(name, 1 << 30)
    for layer, bits in itertools.product(network_of(name).layers, BITS):
        entry = bank(layer, WeightForm(bits))
        assert entry.grid is not None
        assert entry.values.shape == layer.shape
        assert torch.equal(as_matrix(entry.values, layer), entry.grid.dequantize(entry.matrix))
        assert set(entry.matrix.unique().tolist()) <= set(code_range(bits, symmetric=True))


def weighted_error(layer: Layer, entry: CompressedWeight, gram: torch.Tensor, weight: torch.Tensor) -> float:
    """What rounding changes in the layer's output on the calibration batch."""
    errors = as_matrix(weight - entry.values, layer).double().reshape(len(gram), -1, gram.shape[1])
    return float(torch.einsum("grc,gcd,grd->", errors, gram, errors))


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("name", ["digits_resnet", "digits_mlp", "convolutions", "signals", "products", "encoder"])
def test_gptq_loses_less_of_a_networks_outputs_than_rounding_to_nearest(name: str, bits: int) -> None:
    network, grams = network_of(name), compressor_of(name).statistics.grams
    banks = {rounding: bank_of(name, 1 << 30, rounding, "mse") for rounding in ("gptq", "nearest")}
    total = dict.fromkeys(banks, 0.0)
    for layer in (layer for layer in network.layers if layer.name in grams):
        weight = network.tensors[layer.parameter]
        errors = {
            key: weighted_error(layer, bank(layer, WeightForm(bits)), grams[layer.name], weight)
            for key, bank in banks.items()
        }
        for key, error in errors.items():
            total[key] += error / max(errors["nearest"], 1e-12)
    assert total["gptq"] < total["nearest"]


@pytest.mark.parametrize(("name", "layer_name"), [("tied_tokens", "embedding"), ("called_twice", "shared")])
def test_weights_that_several_operations_read_are_rounded_to_nearest(name: str, layer_name: str) -> None:
    network = network_of(name)
    layer = next(layer for layer in network.layers if layer.name == layer_name)
    entry = bank_of(name, 1 << 30)(layer, WeightForm(3))
    nearest = bank_of(name, 1 << 30, "nearest")(layer, WeightForm(3))
    assert torch.equal(entry.matrix, nearest.matrix)


def test_every_group_of_a_convolution_is_rounded_with_its_own_inputs() -> None:
    network, grams = network_of("convolutions"), compressor_of("convolutions").statistics.grams
    layer = next(layer for layer in network.layers if layer.name == "grouped")
    entry = bank_of("convolutions", 1 << 30)(layer, WeightForm(3))
    assert entry.grid is not None
    matrix = as_matrix(network.tensors[layer.parameter], layer)
    for group, gram in enumerate(grams["grouped"]):
        rows = slice(4 * group, 4 * group + 4)
        grid = entry.grid.of_rows(rows)
        codes = gptq_codes(matrix[rows], grid, inverse_factor(gram))
        assert torch.equal(entry.matrix[rows], codes.to(torch.int16))
