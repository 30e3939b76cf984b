"""Statistics of the float network against what is written out in full on a tiny one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import networks
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evo_mpq.compress.channels import WeightForm
from evo_mpq.network.graph import Node, run
from evo_mpq.network.network import Network, trace_network
from evo_mpq.predict.statistics.curvature import calibration_chunks, class_dim, pulled_back, root_product, watched
from evo_mpq.predict.statistics.fisher import fisher_diagonal
from evo_mpq.predict.statistics.output_fisher import OutputFisher, nystroem, output_fishers, output_losses
from evo_mpq.predict.statistics.perturbations import (
    REMOVED,
    is_float,
    option_forms,
    perturbation,
    weighted_squares,
)
from evo_mpq.predict.statistics.similarity import centred_gram, importance, linear_cka, output_similarity
from evo_mpq.predict.statistics.traces import average_traces
from evo_mpq.space.building import SpaceGroup, SpaceLayer, build_space
from evo_mpq.space.genes import Gene
from evo_mpq.space.search_space import SearchSpace

SEEDS = range(5)
SHAPES = [(2, 5), (2, 3, 5), (2, 5, 3, 2), (3, 1)]


def built(seed: int, n_outputs: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, n_outputs))


@cache
def tiny(seed: int = 0, n_outputs: int = 3) -> Network:
    generator = torch.Generator().manual_seed(seed)
    data = [(2 * torch.randn(4, generator=generator), 0) for _ in range(10)]
    return trace_network(built(seed, n_outputs), networks.same_splits(data))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_hot(outputs: Tensor) -> list[Tensor]:
    return [*torch.eye(outputs.numel(), dtype=torch.float64).reshape(-1, *outputs.shape)]


def divergence(network: Network, weights: dict[str, Tensor]) -> Tensor:
    """The mean divergence of the float network from one with other weights, written out."""
    inputs = network.calibration_inputs
    outputs = run(network.graph, {**network.tensors, **weights}, inputs).double()
    reference = network.float_outputs(network.splits.calibration.whole().inputs).double()
    if outputs.shape[1] == 1:
        return (outputs - reference).square().mean() / 2
    logs = torch.log_softmax(reference, 1)
    return (logs.exp() * (logs - torch.log_softmax(outputs, 1))).sum(1).mean()


@cache
def hessian(seed: int, layer: str, n_outputs: int = 3) -> Tensor:
    """``(n, n)`` of the divergence in one layer's weights, by differentiating twice."""
    network = tiny(seed, n_outputs)
    parameter = next(each.parameter for each in network.layers if each.name == layer)
    weight = network.tensors[parameter]
    found: Any = torch.autograd.functional.hessian(lambda own: divergence(network, {parameter: own}), weight)  # type: ignore[no-untyped-call]
    return found.reshape(weight.numel(), weight.numel()).double()


@pytest.mark.parametrize("shape", SHAPES)
def test_random_gradients_at_the_output_have_the_hessian_of_the_divergence_as_their_second_moment(
    shape: tuple[int, ...],
) -> None:
    outputs = normal(*shape)
    dim = class_dim(outputs)

    def loss(changed: Tensor) -> Tensor:
        if dim is None:
            return (changed - outputs).square().flatten(1).mean(1).sum() / 2
        logs = torch.log_softmax(outputs, dim)
        divergences = (logs.exp() * (logs - torch.log_softmax(changed, dim))).sum(dim)
        return divergences.reshape(len(outputs), -1).mean(1).sum()

    expected: Any = torch.autograd.functional.hessian(loss, outputs)  # type: ignore[no-untyped-call]
    columns = torch.stack([root_product(outputs, vector).flatten() for vector in one_hot(outputs)])
    # signs that are independent average to the identity, whose columns these are
    assert torch.allclose(columns.T @ columns, expected.reshape(outputs.numel(), -1), atol=1e-12)


@pytest.mark.parametrize(("seed", "n_outputs"), [(0, 1), *((seed, 3) for seed in SEEDS)])
def test_squared_gradients_of_one_hot_vectors_sum_to_the_trace_of_the_hessian(seed: int, n_outputs: int) -> None:
    network = tiny(seed, n_outputs)
    forward = watched(network, network.calibration_inputs)
    sums = dict.fromkeys(forward.weights, 0.0)
    for gradients in pulled_back(forward.outputs, one_hot(forward.outputs), forward.weights):
        for name, gradient in gradients.items():
            sums[name] += float(gradient.square().sum()) / len(forward.outputs)
    for name, total in sums.items():
        assert total == pytest.approx(float(hessian(seed, name, n_outputs).trace()), rel=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_average_traces_approach_those_of_the_hessians_written_out(seed: int) -> None:
    network = tiny(seed)
    found = average_traces(network, probes=500, seed=seed)
    for layer in network.layers:
        expected = float(hessian(seed, layer.name).trace()) / layer.n_parameters
        assert found[layer.name] == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_fisher_diagonal_approaches_that_of_the_hessian(seed: int) -> None:
    network = tiny(seed)
    found = fisher_diagonal(network, probes=100, seed=seed)
    for name, diagonal in found.items():
        expected = hessian(seed, name).diag()
        assert torch.allclose(diagonal.flatten(), expected, atol=0.15 * float(expected.max()))


def test_the_fisher_diagonal_is_the_mean_square_of_gradients_sample_by_sample() -> None:
    network = tiny()
    generator = torch.Generator().manual_seed(3)
    weights = {layer.name: network.tensors[layer.parameter].clone().requires_grad_() for layer in network.layers}
    own = {layer.parameter: weights[layer.name] for layer in network.layers}
    expected = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    (inputs,) = network.calibration_inputs
    for row in inputs:
        signs = 2.0 * torch.randint(0, 2, (1, 3), generator=generator) - 1
        logs = torch.log_softmax(run(network.graph, {**network.tensors, **own}, [row[None]]), 1)
        # every label's log-probability, weighed by the root of its probability
        (signs * logs.exp().detach().sqrt() * logs).sum().backward()  # type: ignore[no-untyped-call]
        for name, weight in weights.items():
            assert weight.grad is not None
            expected[name] += weight.grad.square() / len(inputs)
            weight.grad = None
    found = fisher_diagonal(network, probes=1, seed=3)
    assert all(torch.allclose(found[name].float(), expected[name], rtol=1e-3, atol=1e-8) for name in weights)


def test_sure_predictions_keep_their_curvature() -> None:
    outputs = torch.tensor([[30.0, 0.0, -5.0]])
    gradient = root_product(outputs, torch.ones(1, 3, dtype=torch.float64))
    rest = np.exp(-30.0 / 2)  # the root of the probability that is left for the second label
    assert float(gradient[0, 1]) == pytest.approx(rest, rel=1e-3)


@pytest.mark.parametrize("n", [5, 8])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_nystroem_is_exact_up_to_its_rank_and_never_too_much(n: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(n + rank)
    roots, directions = (torch.randn(n, k, generator=generator, dtype=torch.float64) for k in (rank, 3))
    fisher = roots @ roots.T
    factors = nystroem(fisher @ directions, directions)
    left = fisher - factors @ factors.T
    assert bool(torch.linalg.eigvalsh(left).min() > -1e-9 * n)
    if rank <= 3:
        assert torch.allclose(left, torch.zeros_like(left), atol=1e-9 * n)
    else:
        assert float(left.diag().sum()) > 1e-3


def test_the_quadratic_form_is_that_of_diagonal_and_low_rank() -> None:
    factors, errors = normal(4, 2), normal(6, 4, seed=1)
    fisher = OutputFisher(factors.square().sum(1) + torch.arange(4), factors)
    written_out = torch.diag(torch.arange(4).double()) + factors @ factors.T
    assert torch.allclose(fisher.quadratic(errors), torch.einsum("ni,ij,nj->n", errors, written_out, errors))
    assert torch.allclose(written_out.diag(), fisher.diagonal)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_output_fisher_of_full_rank_approaches_the_one_written_out(seed: int) -> None:
    network = tiny(seed)
    fishers = output_fishers(network, rank=5, probes=500, seed=seed)
    forward = watched(network, network.calibration_inputs)
    expected = {name: torch.zeros(5, 5, dtype=torch.float64) for name in fishers}
    for gradients in pulled_back(forward.outputs, one_hot(forward.outputs), forward.uses):
        for name, gradient in gradients.items():
            n = gradient.shape[1]
            expected[name][:n, :n] += gradient.double().T @ gradient.double() / len(gradient)
    for name, fisher in fishers.items():
        n = len(fisher.diagonal)
        assert bool(fisher.remainder.max() <= 1e-6 * fisher.diagonal.max())
        found, wanted = fisher.factors @ fisher.factors.T, expected[name][:n, :n]
        assert torch.allclose(found, wanted, atol=0.15 * float(wanted.abs().max()))


def by_channel(values: Tensor, axis: int) -> Tensor:
    return values.movedim(axis, -1).flatten(0, -2)


@pytest.mark.parametrize("name", ["convolutions", "products", "encoder", "tied_tokens"])
def test_output_losses_are_quadratic_forms_of_what_changed_weights_do_to_outputs(name: str) -> None:
    compressor = networks.compressor_of(name)
    network = compressor.network
    fishers = output_fishers(network, rank=3)
    forms = {layer.name: [WeightForm(2), WeightForm(6), REMOVED, WeightForm(32)] for layer in network.layers}
    found = output_losses(compressor, fishers, forms)

    def outputs_with(weights: dict[str, Tensor], node: str) -> Tensor:
        kept: list[Tensor] = []

        def visit(each: Node, value: Any) -> None:
            if each.name == node:
                kept.append(value)

        with torch.no_grad():
            run(network.graph, {**network.tensors, **weights}, network.calibration_inputs, visit)
        return kept[0]

    for layer in network.layers:
        if layer.shared:
            continue  # what its first use changes reaches the second one
        (use,) = layer.uses
        for form in forms[layer.name][:3]:
            weight = network.tensors[layer.parameter]
            changed = {layer.parameter: 0 * weight if form == REMOVED else compressor.bank(layer, form).values}
            errors = outputs_with(changed, use.node) - outputs_with({}, use.node)
            expected = fishers[use.node].quadratic(by_channel(errors, use.channel_axis)).mean() / 2
            assert found[layer.name, form] == pytest.approx(float(expected), rel=1e-5)
        assert found[layer.name, WeightForm(32)] == 0
        assert found[layer.name, WeightForm(2)] > found[layer.name, WeightForm(6)] > 0


def test_a_layer_of_two_uses_costs_their_sum() -> None:
    compressor = networks.compressor_of("called_twice")
    fishers = output_fishers(compressor.network, rank=3)
    (shared,) = (layer for layer in compressor.network.layers if layer.shared)
    forms = {shared.name: [WeightForm(3)]}
    alone = []
    for use in shared.uses:
        deaf = {
            other.node: OutputFisher(0 * fishers[other.node].diagonal, 0 * fishers[other.node].factors)
            for other in shared.uses
            if other is not use
        }
        alone.append(output_losses(compressor, {**fishers, **deaf}, forms)[shared.name, WeightForm(3)])
    together = output_losses(compressor, fishers, forms)[shared.name, WeightForm(3)]
    assert len(alone) == 2 and min(alone) > 0
    assert together == pytest.approx(sum(alone))


def test_similarity_of_a_representation_with_itself_turned_and_scaled_is_one() -> None:
    first, second = normal(9, 4), normal(9, 6, seed=1)
    turn = torch.linalg.qr(normal(4, 4, seed=2)).Q
    same, other = centred_gram(first), centred_gram(second)
    turned = centred_gram(-2.5 * first @ turn + 3.0)
    found = linear_cka([same, other, turned])
    assert found[0, 2] == pytest.approx(1)
    assert found[0, 1] == pytest.approx(found[2, 1])
    assert np.allclose(found, found.T) and np.all(np.diag(found) == 1)
    assert 0 < found[0, 1] < 1


def test_similarity_is_the_normalized_cross_covariance() -> None:
    first, second = (features - features.mean(0) for features in (normal(9, 4), normal(9, 6, seed=1)))
    expected = (first.T @ second).square().sum() / ((first.T @ first).norm() * (second.T @ second).norm())
    assert linear_cka([centred_gram(first), centred_gram(second)])[0, 1] == pytest.approx(float(expected))


def test_layers_that_resemble_no_other_are_more_important_the_more_beta() -> None:
    similarity = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    theta = np.exp(-2.0 * np.array([0.5, 0.5, 0.0]))
    expected = [theta.mean(), theta[1:].mean(), theta[2]]
    assert importance(similarity, beta=2.0) == pytest.approx(np.array(expected))


def joint_space(name: str) -> SearchSpace:
    """Bits of weights and activations, prune groups and blocks of a network."""
    network = networks.network_of(name)
    layers = [SpaceLayer(layer.name, quantizes_input=layer.quantizes_input) for layer in network.layers]
    groups = [SpaceGroup(group.n_channels, tuple(group.rows), tuple(group.columns)) for group in network.prune_groups]
    return build_space(
        layers,
        defaults={"weight_bits": [2, 4, 8], "activation_bits": [4, 8]},
        prune={"ratios": [0.0, 0.5]},
        groups=groups,
    )


def test_a_ratio_changes_rows_of_producers_and_columns_of_readers() -> None:
    space, compressor = joint_space("digits_resnet"), networks.compressor_of("digits_resnet")
    forms = option_forms(space, compressor)
    groups = {group.name: group for group in compressor.network.prune_groups}
    n_groups = 0
    for position, gene in enumerate(space.genes):
        if gene.kind == "prune_ratio":
            n_groups += 1
            group = groups[gene.layers[0]]
            assert set(forms.changed[position][0]) == {*group.rows, *group.columns}
            assert forms.changed[position][-1] == {}
        elif gene.kind == "weight_bits":
            assert [[*option] for option in forms.changed[position]] == [[*gene.layers], [*gene.layers], []]
        else:
            assert position not in forms.changed
    assert n_groups > 0


def test_losses_of_options_are_differences_of_sums_over_layers() -> None:
    network = networks.network_of("digits_mlp")
    first, second, *others = (layer.name for layer in network.layers)
    genes = [Gene("tied", (2, 4), "weight_bits", (first, second))]
    genes += [Gene(name, (2, 4), "weight_bits", (name,)) for name in others]
    tied = SearchSpace([first, second, *others], genes)
    forms = option_forms(tied, networks.compressor_of("digits_mlp"))
    values = {WeightForm(2): 7.0, WeightForm(4): 2.0}
    scores = {(name, form): values[form] for name, rows in forms.by_layer().items() for form in rows}
    losses = forms.losses(scores)
    assert losses[0].tolist() == [10.0, 0.0]
    assert losses[1].tolist() == [5.0, 0.0]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_perturbation_and_the_float_weight_are_the_weight_of_the_bank(bits: int) -> None:
    compressor = networks.compressor_of("products")
    for layer in compressor.network.layers:
        weight, form = compressor.network.tensors[layer.parameter], WeightForm(bits)
        change = perturbation(compressor, layer, form)
        assert torch.allclose(weight + change, compressor.bank(layer, form).values, atol=1e-6)
        assert torch.equal(perturbation(compressor, layer, REMOVED), -weight)
        alone = weighted_squares(compressor, {layer.name: [form]}, {layer.name: 3.0})
        assert alone[layer.name, form] == pytest.approx(3 * float(change.square().sum()), rel=1e-5)
    assert is_float(WeightForm(32)) and not is_float(WeightForm(32, 0.5))


STATISTICS: dict[str, Callable[[Network, int], Sequence[Tensor]]] = {
    "fisher": lambda network, seed: [*fisher_diagonal(network, probes=1, seed=seed).values()],
    "traces": lambda network, seed: [torch.tensor([*average_traces(network, probes=2, seed=seed).values()])],
    "output_fisher": lambda network, seed: [
        tensor
        for fisher in output_fishers(network, rank=2, probes=1, seed=seed).values()
        for tensor in (fisher.diagonal, fisher.factors)
    ],
    "similarity": lambda network, seed: [torch.from_numpy(output_similarity(network))],
}


@pytest.mark.parametrize("name", networks.ALL)
@pytest.mark.parametrize("statistic", STATISTICS)
def test_statistics_follow_from_the_seed_and_leave_the_network_alone(statistic: str, name: str) -> None:
    network, compute = networks.network_of(name), STATISTICS[statistic]
    before = copy.deepcopy(dict(network.tensors))
    first, again, other = compute(network, 0), compute(network, 0), compute(network, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert statistic == "similarity" or not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert all(torch.isfinite(tensor).all() for tensor in first)
    if statistic in ("fisher", "traces"):
        assert all(tensor.min() >= 0 and tensor.max() > 0 for tensor in first)
    for key, tensor in network.tensors.items():
        assert tensor.requires_grad is before[key].requires_grad and tensor.grad is None
        assert torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(before[key]))


def test_chunks_are_the_calibration_split() -> None:
    network = networks.network_of("cross_attention")
    chunks = [*calibration_chunks(network, 10)]
    assert [len(chunk[0]) for chunk in chunks] == [10, 10, 4]
    for column, whole in zip(zip(*chunks, strict=True), network.calibration_inputs, strict=True):
        assert torch.equal(torch.cat(column), whole)
