from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import ALL, module_of, network_of, same_splits, samples
from torch import nn

from evo_mpq.compress import calibration
from evo_mpq.compress.bank import as_matrix
from evo_mpq.compress.calibration import Statistics, calibrate, channel_statistics, sorted_sample
from evo_mpq.compress.channels import WeightForm
from evo_mpq.compress.compressor import Compressor
from evo_mpq.errors import NetworkError
from evo_mpq.network.data.splits import splits_from
from evo_mpq.network.graph import Node, operator, run
from evo_mpq.network.layers import Use
from evo_mpq.network.network import Network, trace_network


def statistics_of(network: Network, *, centred: bool) -> Statistics:
    return calibrate(
        network.graph,
        network.tensors,
        network.layers,
        network.products,
        network.edges,
        network.calibration_inputs,
        centred=centred,
        second_moments=True,
    )


def values_of(network: Network) -> dict[str, Any]:
    """Every value of the float network on the calibration batch."""
    found: dict[str, Any] = {}

    def visit(node: Node, value: Any) -> None:
        found[node.name] = value

    with torch.no_grad():
        run(network.graph, network.tensors, network.calibration_inputs, visit)
    return found


def rows_of(values: torch.Tensor, use: Use) -> torch.Tensor:
    """``(everything else, channels)`` of a use's output, float64."""
    return values.double().movedim(use.channel_axis, -1).reshape(-1, use.n_channels)


@pytest.mark.parametrize("name", ALL)
def test_statistics_are_those_of_the_float_network(name: str) -> None:
    network, values = network_of(name), values_of(network_of(name))
    statistics = statistics_of(network, centred=True)
    for use in (use for layer in network.layers for use in layer.uses):
        rows = rows_of(values[use.node], use)
        torch.testing.assert_close(statistics.means[use.node].double(), rows.mean(0), rtol=1e-4, atol=1e-5)
        spread = rows.std(0, correction=0)
        torch.testing.assert_close(statistics.deviations[use.node].double(), spread, rtol=1e-4, atol=1e-6)
        if use.input is not None:
            assert torch.equal(statistics.samples[use.input], sorted_sample(values[use.input]))
    assert {name for names in network.edges.values() for name in names} <= set(statistics.samples)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_second_moments_predict_the_output_of_any_weight(name: str, centred: bool) -> None:
    # wᵀ G w is the mean square of the output for a weight w: the operation itself is the oracle, with all that its
    # strides, paddings by name, dilations and groups mean.
    network, values = network_of(name), values_of(network_of(name))
    grams = statistics_of(network, centred=centred).grams
    assert set(grams) == {layer.name for layer in network.layers if not layer.shared and layer.quantizes_input}
    for layer in network.layers:
        if layer.name not in grams:
            continue
        (use,) = layer.uses
        node = network.graph[use.node]
        weight = torch.randn(layer.shape, generator=torch.Generator().manual_seed(0))
        inputs = values[use.input or ""]
        if layer.kind == "linear":
            outputs = inputs @ (weight if layer.transposed else weight.T)
        else:
            outputs = operator(node.target)(inputs, weight, None, *node.args[3:])
        rows = rows_of(outputs, use)
        expected = rows.var(0, correction=0) if centred else rows.square().mean(0)
        matrix = as_matrix(weight, layer).double().reshape(len(grams[layer.name]), -1, grams[layer.name].shape[1])
        found = torch.einsum("grc,gcd,grd->gr", matrix, grams[layer.name], matrix).flatten()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


def test_second_moments_do_not_depend_on_the_memory_for_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of("convolutions")
    whole = statistics_of(network, centred=True).grams
    monkeypatch.setattr(calibration, "_MOST_PATCHES", 1)
    for name, gram in statistics_of(network, centred=True).grams.items():
        torch.testing.assert_close(gram, whole[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "axis"), [((7, 5), 1), ((7, 3, 5), 2), ((7, 5, 4), 1), ((7, 5, 4, 3), 1)])
def test_channel_statistics_are_mean_and_population_deviation(shape: tuple[int, ...], axis: int) -> None:
    values = torch.randn(shape) * 3 + 100
    before = values.clone()
    mean, deviation = channel_statistics(values, axis)
    others = [i for i in range(len(shape)) if i != axis]
    variance, expected = torch.var_mean(values.double(), others, correction=0)
    torch.testing.assert_close(mean.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(deviation.double(), variance.sqrt(), rtol=1e-4, atol=0)
    assert torch.equal(values, before)


@pytest.mark.parametrize("n", [1, 5, 8192, 8193, 50_000, (1 << 20) + 77])
def test_a_sample_is_sorted_and_keeps_both_ends(n: int) -> None:
    values = torch.randn(n, generator=torch.Generator().manual_seed(n))
    sample = sorted_sample(values)
    assert len(sample) <= 8192
    assert torch.equal(sample, sample.sort().values)
    assert sample[0] == values.min()
    assert sample[-1] == values.max()
    assert abs(float(sample.median() - values.median())) < 0.02 or n < 8192


def test_a_sample_that_the_float_network_cannot_process_is_told_with_the_layer() -> None:
    # Only the first batch is looked at before tracing; this one stands in the second.
    rows = samples("signals", 10, 0)
    rows[9][0][0, 0] = torch.nan
    splits = splits_from({"calibration": rows, "search": samples("signals", 2, 1), "test": samples("signals", 2, 2)}, 8)
    network = trace_network(module_of("signals"), splits)
    with pytest.raises(NetworkError, match="layer first gives NaN"):
        Compressor(network)


class Sliced(nn.Module):
    """Reads only some columns, or only some rows, of a weight."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.rows, self.columns = rows, columns
        self.head = nn.Linear(rows, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        weight = self.weight[: self.rows, : self.columns]
        return self.head(nn.functional.linear(features[..., : self.columns], weight))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("rows", "columns", "has_gram"), [(6, 5, False), (4, 8, True)])
def test_a_weight_that_is_read_in_part_is_quantized_all_the_same(rows: int, columns: int, has_gram: bool) -> None:
    data = [(torch.randn(8), 0) for _ in range(6)]
    network = trace_network(Sliced(rows, columns), same_splits(data))
    compressor = Compressor(network, edges=None)
    assert ("weight" in compressor.statistics.grams) is has_gram
    (layer, _) = network.layers
    assert compressor.bank(layer, WeightForm(3)).values.shape == (6, 8)
