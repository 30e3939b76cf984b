"""The weight-sharing supernet, and the two allocations that are learned from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import networks
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evo_mpq.compress.bank import as_matrix, from_matrix
from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.quantizers import ActivationQuantizer, UniformAffine
from evo_mpq.errors import ConfigError
from evo_mpq.network.calling import tensors_of
from evo_mpq.network.graph import run
from evo_mpq.optimize.seeders.differentiable import differentiable
from evo_mpq.optimize.seeders.seeder import Seeder
from evo_mpq.optimize.seeders.smpq import smpq
from evo_mpq.predict.factored import Factor, FactoredFunction
from evo_mpq.predict.supernet import training
from evo_mpq.predict.supernet.differentiable import expected_bits, trained_log_shares
from evo_mpq.predict.supernet.mixture import Supernet, trainable
from evo_mpq.predict.supernet.scores import table_of_scores
from evo_mpq.predict.supernet.smpq import contributions, removal_walk
from evo_mpq.predict.supernet.training import (
    Minibatch,
    accuracy_of,
    are_classes,
    loss_of,
    minibatches,
    trained_supernet,
)
from evo_mpq.predict.tables.options import Estimates
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.genes import Gene
from evo_mpq.space.policy import LayerPolicy
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import Genomes

QUANTIZER = UniformAffine(clip="minmax", rounding="nearest")


@cache
def compressor_of(name: str, edges: int | None = None) -> Compressor:
    return Compressor(
        networks.network_of(name),
        quantizer=QUANTIZER,
        activations=ActivationQuantizer("minmax"),
        correction="none",
        edges=edges,
    )


def space_of(
    name: str, weight_bits: Sequence[int] = (2, 4, 8), activation_bits: Sequence[int] | None = None
) -> SearchSpace:
    network = networks.network_of(name)
    layers = {layer.name: layer for layer in network.layers}
    names = [site.name for site in network.sites()]
    genes = []
    for site in names:
        if site in layers:
            genes.append(Gene(f"{site}.weight_bits", tuple(weight_bits), "weight_bits", (site,)))
        if activation_bits and (site not in layers or layers[site].quantizes_input):
            genes.append(Gene(f"{site}.activation_bits", tuple(activation_bits), "activation_bits", (site,)))
    return SearchSpace(names, genes)


def inputs_of(name: str) -> list[Tensor]:
    return tensors_of(next(networks.network_of(name).splits.search.batches()).inputs)


@cache
def small_supernet() -> Supernet:
    """A trained one; tests do not change it."""
    return trained_supernet(space_of("digits_mlp"), compressor_of("digits_mlp"), steps=10)


def close(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() <= 1e-5 * second.abs().max().clamp(min=1))


@pytest.mark.parametrize("name", ["digits_mlp", "digits_resnet", "called_twice", "tied_tokens", "products"])
def test_with_one_option_per_gene_it_is_the_network_with_rounded_weights(name: str) -> None:
    space, network = space_of(name), networks.network_of(name)
    supernet = Supernet(space, compressor_of(name))
    for genome in space.sample(3, np.random.default_rng(0)):
        policy = space.decode(genome[None])[0]
        rounded = dict(network.tensors)
        for layer in network.layers:
            matrix = as_matrix(network.tensors[layer.parameter], layer)
            grid = QUANTIZER.grid(matrix, policy.layers[layer.name].weight_bits)
            rounded[layer.parameter] = from_matrix(grid.dequantize(grid.round(matrix)), layer)
        with torch.no_grad():
            expected = run(network.graph, rounded, inputs_of(name))
        assert close(supernet(inputs_of(name), supernet.shares_of(genome)), expected)


@pytest.mark.parametrize("name", ["digits_vit", "oddities"])
def test_activations_and_edges_are_rounded_where_the_evaluator_rounds_them(name: str) -> None:
    space, compressor = space_of(name, activation_bits=(4, 8)), compressor_of(name, edges=8)
    supernet = Supernet(space, compressor)
    for genome in space.sample(3, np.random.default_rng(0)):
        choice = compressor.choice(space.decode(genome[None])[0])
        choice.affines.update(dict.fromkeys(choice.affines))  # biases as they are, not as files store them
        with torch.no_grad():
            expected = compressor.program.run(inputs_of(name), choice)
        assert close(supernet(inputs_of(name), supernet.shares_of(genome)), expected)


def test_what_no_gene_decides_has_its_only_option() -> None:
    network, compressor = networks.network_of("digits_mlp"), compressor_of("digits_mlp")
    first, *others = (layer.name for layer in network.layers)
    fixed = {name: LayerPolicy(3, 8) for name in others}
    space = SearchSpace([first, *others], [Gene(f"{first}.weight_bits", (2, 4), "weight_bits", (first,))], fixed)
    supernet = Supernet(space, compressor)
    choice = compressor.choice(space.decode(np.array([[1]]))[0])
    choice.affines.update(dict.fromkeys(choice.affines))
    expected = compressor.program.run(inputs_of("digits_mlp"), choice)
    assert close(supernet(inputs_of("digits_mlp"), supernet.shares_of(np.array([1]))), expected)


def test_a_mixture_of_weights_is_the_network_with_mixed_weights() -> None:
    space, network = space_of("digits_mlp", (2, 8)), networks.network_of("digits_mlp")
    supernet = Supernet(space, compressor_of("digits_mlp"))
    mixed = dict(network.tensors)
    for layer in network.layers:
        matrix = as_matrix(network.tensors[layer.parameter], layer)
        grids = [QUANTIZER.grid(matrix, bits) for bits in (2, 8)]
        low, high = (grid.dequantize(grid.round(matrix)) for grid in grids)
        mixed[layer.parameter] = from_matrix(0.25 * low + 0.5 * high, layer)
    shares = [torch.tensor([0.25, 0.5])] * space.n_genes  # they need not add up to one
    expected = run(network.graph, mixed, inputs_of("digits_mlp"))
    assert close(supernet(inputs_of("digits_mlp"), shares), expected)


def test_layers_that_share_a_gene_share_its_mixture() -> None:
    names = [layer.name for layer in networks.network_of("digits_mlp").layers]
    tied = SearchSpace(names, [Gene("all.weight_bits", (2, 4, 8), "weight_bits", tuple(names))])
    apart = space_of("digits_mlp")
    share = torch.tensor([0.1, 0.6, 0.3])
    outputs = [
        Supernet(space, compressor_of("digits_mlp"))(inputs_of("digits_mlp"), [share] * space.n_genes)
        for space in (tied, apart)
    ]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", ["digits_resnet", "digits_vit"])
def test_gradients_reach_every_share_and_every_weight(name: str) -> None:
    space = space_of(name, activation_bits=(4, 8))
    supernet = Supernet(space, compressor_of(name, edges=8))
    alphas = [alpha.requires_grad_() for alpha in supernet.even_logits()]
    outputs = supernet(inputs_of(name), [alpha.softmax(0) for alpha in alphas])
    outputs.logsumexp(1).sum().backward()  # type: ignore[no-untyped-call]
    for tensor in (*alphas, *supernet.parameters.values()):
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


def test_rounding_passes_the_gradient_of_the_sum_of_shares() -> None:
    supernet = Supernet(space_of("digits_mlp", (2, 8)), compressor_of("digits_mlp"))
    head = networks.network_of("digits_mlp").layers[-1].parameter
    gradients = []
    for scale in (1.0, 0.5):
        # the layers before are the same, so that the head's gradient is only scaled
        shares = [torch.tensor([0.0, 1.0])] * (supernet.space.n_genes - 1) + [torch.tensor([0.0, scale])]
        supernet(inputs_of("digits_mlp"), shares).sum().backward()  # type: ignore[no-untyped-call]
        gradient = supernet.parameters[head].grad
        assert gradient is not None
        gradients.append(gradient.clone())
        gradient.zero_()
    assert torch.allclose(gradients[1], 0.5 * gradients[0])


def test_weights_and_biases_of_layers_are_trained_and_nothing_else() -> None:
    network = networks.network_of("oddities")
    names = set(trainable(network))
    assert {layer.parameter for layer in network.layers} < names
    assert "first.bias" in names and not names & {"queries", "factor", "order", "turn"}


def test_training_improves_the_mixture_and_leaves_the_network_alone() -> None:
    network = networks.network_of("digits_mlp")
    before = {name: tensor.clone() for name, tensor in network.tensors.items()}
    space, compressor = space_of("digits_mlp", (2, 3)), compressor_of("digits_mlp")
    fresh = Supernet(space, compressor)
    supernet = trained_supernet(space, compressor, steps=20, learning_rate=1e-3)
    kept = {name: tensor.clone() for name, tensor in supernet.parameters.items()}
    contributions(supernet, rounds=2, walks=2, steps=2)
    trained_log_shares(supernet, steps=3)
    assert all(torch.equal(network.tensors[name], tensor) for name, tensor in before.items())
    assert all(torch.equal(supernet.parameters[name], tensor) for name, tensor in kept.items())
    batch = next(minibatches(network, 60, np.random.default_rng(0)))
    losses = [loss_of(net(batch.inputs, net.even_shares()), batch).item() for net in (fresh, supernet)]
    assert losses[1] < losses[0]


def test_everything_follows_from_the_seed() -> None:
    space, compressor = space_of("digits_mlp"), compressor_of("digits_mlp")

    def found(seed: int) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
        supernet = trained_supernet(space, compressor, steps=5, seed=seed)
        values = contributions(supernet, rounds=2, walks=3, steps=2, seed=seed).values
        shares = trained_log_shares(supernet, steps=5, seed=seed)
        return [np.concatenate([*values.values()]), np.concatenate([*shares.values()])]

    first, again, other = found(0), found(0), found(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_progress_is_told_about_every_step() -> None:
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))

    contributions(small_supernet(), rounds=2, walks=3, steps=1, progress=progress)
    assert told == [(k, 6) for k in range(1, 7)]


def test_an_option_that_no_walk_reached_is_worth_what_its_gene_is_worth_on_average() -> None:
    found = contributions(small_supernet(), rounds=1, walks=1)
    for gene, visits in found.visits.items():
        values = found.values[gene]
        expected = values[visits > 0].mean() if visits.any() else 0.0
        assert np.allclose(values[visits == 0], expected)
    assert any(visits.any() and not visits.all() for visits in found.visits.values())


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_an_untruncated_walk_sums_to_the_worth_of_all_minus_that_of_none(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 6))
    worths = data.draw(st.lists(st.floats(-5, 5), min_size=2**n, max_size=2**n))
    order = data.draw(st.permutations(range(n)))
    marginals = removal_walk(lambda active: worths[int(active @ 2 ** np.arange(n))], order, worths[-1], -math.inf)
    assert marginals.sum() == pytest.approx(worths[-1] - worths[0])


def test_a_walk_through_the_supernet_sums_to_the_worth_of_all_minus_that_of_none() -> None:
    supernet = small_supernet()
    batch = next(minibatches(supernet.compressor.network, 60, np.random.default_rng(0)))
    players = [(gene, option) for gene in supernet.genes for option in range(3)]

    def worth(active: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
        shares = supernet.even_shares()
        for gene, option in (players[k] for k in np.flatnonzero(~active)):
            shares[gene][option] = 0.0
        with torch.no_grad():
            return -float(loss_of(supernet(batch.inputs, shares), batch))

    everything, nothing = (worth(np.full(len(players), active)) for active in (True, False))
    order = np.random.default_rng(1).permutation(len(players)).tolist()
    marginals = removal_walk(worth, order, everything, -math.inf)
    assert marginals.sum() == pytest.approx(everything - nothing, rel=1e-6)


def test_a_truncated_walk_knows_nothing_of_those_it_did_not_reach() -> None:
    marginals = removal_walk(lambda active: float(active.sum()), [3, 1, 0, 2], 4.0, 2.5)
    assert np.array_equal(marginals, [np.nan, 1.0, np.nan, 1.0], equal_nan=True)


class _Dominated(Supernet):
    """A supernet whose outputs are right only as far as one option of the first gene is in the mixture."""

    dominant = 1

    def __call__(
        self, inputs: Sequence[Tensor], shares: Sequence[Tensor], options: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        right = super().__call__(inputs, [torch.full_like(share, 1 / len(share)) for share in shares], options)
        others = sum((share.sum() for share in shares[1:]), torch.zeros(()))
        return right * (3.0 * shares[0][self.dominant] + 0.1 * shares[0].sum() + 0.1 * others)


@pytest.mark.parametrize("dominant", [0, 1, 2])
def test_an_option_that_dominates_contributes_most(dominant: int) -> None:
    supernet = _Dominated(space_of("digits_mlp"), compressor_of("digits_mlp"))
    supernet.dominant = dominant
    for seed in range(5):
        values = contributions(supernet, rounds=1, walks=6, seed=seed).values
        best = max((value, (gene, option)) for gene, row in values.items() for option, value in enumerate(row))
        assert best[1] == (0, dominant)


def test_shares_trained_by_gradient_find_what_the_loss_wants() -> None:
    supernet = _Dominated(space_of("digits_mlp"), compressor_of("digits_mlp"))
    shares = trained_log_shares(supernet, steps=10, learning_rate=0.1, size_weight=0.0)
    assert shares[0].argmax() == supernet.dominant
    assert all(np.exp(row).sum() == pytest.approx(1) for row in shares.values())


def test_a_penalty_on_size_moves_shares_to_fewer_bits() -> None:
    shares = trained_log_shares(small_supernet(), steps=10, learning_rate=0.1, size_weight=100.0)
    assert all(np.all(np.diff(row) < 0) for row in shares.values())


def test_expected_bits_are_one_for_all_bits_and_the_fraction_of_bits_for_others() -> None:
    supernet = Supernet(space_of("digits_mlp", activation_bits=(4, 8)), compressor_of("digits_mlp"))
    expected = expected_bits(supernet)
    space = supernet.space
    assert float(expected(supernet.shares_of(space.most_expensive()))) == pytest.approx(1)
    # weights: 2 of 8 bits, activations: 4 of 8; half of the size each
    assert float(expected(supernet.shares_of(space.cheapest()))) == pytest.approx((2 / 8 + 4 / 8) / 2)


def test_a_missing_train_split_is_told_with_its_remedy() -> None:
    network = networks.network_of("digits_mlp")
    without = replace(network, splits=replace(network.splits, train=None))
    compressor = Compressor(without, quantizer=QUANTIZER, correction="none")
    with pytest.raises(ConfigError, match=r"no train split.*data: \{train: 2000\}.*entry `train`"):
        trained_supernet(space_of("digits_mlp"), compressor)


def test_labels_are_classes_only_where_they_index_the_outputs() -> None:
    outputs = torch.zeros(4, 10)
    assert are_classes(torch.tensor([0, 1, 9, 3]), outputs)
    assert not are_classes(torch.tensor([0, 1, 10, 3]), outputs)
    assert not are_classes(torch.tensor([0.0, 1.0, 2.0, 3.0]), outputs)
    assert not are_classes(None, outputs)
    assert are_classes(torch.zeros(4, 5, dtype=torch.long), torch.zeros(4, 5, 7))
    assert are_classes(torch.zeros(4, 5, 6, dtype=torch.long), torch.zeros(4, 9, 5, 6))


def test_without_labels_the_loss_is_the_divergence_from_the_float_network() -> None:
    outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    batch = Minibatch([], torch.tensor([[1.0, 1.0], [0.0, 3.0]]))
    wanted, found = batch.targets.softmax(1).double(), outputs.softmax(1).double()
    assert float(loss_of(outputs, batch)) == pytest.approx(float((wanted * (wanted / found).log()).sum(1).mean()))
    assert float(loss_of(batch.targets, batch)) == pytest.approx(0, abs=1e-7)
    assert accuracy_of(outputs, batch) == 1.0


def test_a_supernet_without_labels_learns_from_the_float_network() -> None:
    network = networks.network_of("signals")
    network = replace(network, splits=replace(network.splits, train=network.splits.calibration))
    unlabelled = [(inputs, 0.5) for inputs, _ in networks.samples("signals", 24, 5)]
    network = replace(network, splits=replace(network.splits, train=networks.same_splits(unlabelled).calibration))
    compressor = Compressor(network, quantizer=QUANTIZER, correction="none")
    space = space_of("signals", (2, 3))
    supernet = trained_supernet(space, compressor, steps=20, learning_rate=1e-3)
    batch = next(minibatches(network, 24, np.random.default_rng(0)))
    assert batch.targets.is_floating_point()
    losses = [
        loss_of(net(batch.inputs, net.even_shares()), batch).item() for net in (Supernet(space, compressor), supernet)
    ]
    assert losses[1] < losses[0]
    assert set(contributions(supernet, rounds=1, walks=1).values) == {0, 1, 2}


@pytest.mark.parametrize(("most", "expected"), [(10**6, 6), (0, 1), (20, 4)])
def test_samples_with_many_predictions_make_small_minibatches(
    most: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = networks.network_of("tied_tokens")
    network = replace(network, splits=replace(network.splits, train=network.splits.calibration))
    monkeypatch.setattr(training, "MOST_PREDICTIONS", most)
    batch = next(minibatches(network, 6, np.random.default_rng(0)))
    n_words = batch.inputs[0].shape[1]
    assert n_words == 5
    assert len(batch.inputs[0]) == expected
    assert len(batch.targets) == len(batch.inputs[0]) * n_words


def test_minibatches_hold_every_sample_once_per_pass() -> None:
    network = networks.network_of("digits_mlp")
    whole = network.splits.train
    assert whole is not None
    batches = minibatches(network, 3, np.random.default_rng(0))
    rows: list[Tensor] = []
    while sum(map(len, rows)) < len(whole):
        rows.append(next(batches).inputs[0])
    found, expected = torch.cat(rows).flatten(1), tensors_of(whole.whole().inputs)[0].flatten(1)
    assert len(found) == len(expected)
    assert sorted(found.tolist()) == sorted(expected.tolist())
    assert not torch.equal(found, expected)


def test_what_has_no_scores_is_given_up_last() -> None:
    genes = [
        Gene("block.drop", (True, False), "drop", ("inner",)),
        Gene("inner.weight_bits", (2, 4), "weight_bits", ("inner",)),
        Gene("head.weight_bits", (2, 4, 8), "weight_bits", ("head",)),
        Gene("head.prune_ratio", (0.5, 0.25, 0.0), "prune_ratio", ("head",)),
    ]
    table = table_of_scores(
        SearchSpace(["inner", "head"], genes), {1: np.array([-1.0, 3.0]), 2: np.array([0.0, 5.0, 1.0])}
    )
    assert [row[-1] for row in table.losses] == [0.0] * 4
    assert table.losses[2].tolist() == [1.0, -4.0, 0.0]
    everything_from_bits = 4.0 + 5.0
    assert table.losses[0][0] > everything_from_bits
    assert np.all(-np.diff(table.losses[3]) > everything_from_bits)


def tables_of(compressor: Compressor, space: SearchSpace) -> Tables:
    """Whose cost is the number of bits per parameter, summed over layers, and which cannot measure anything."""

    def measure(genomes: Genomes) -> Estimates:
        raise AssertionError("these methods measure nothing")

    sizes = [np.array(gene.values, dtype=float) for gene in space.genes]
    cost = FactoredFunction(tuple(Factor((gene,), size) for gene, size in enumerate(sizes)))
    return Tables(space, cost, measure, compressor, seed=3)


@pytest.mark.parametrize("seeder", [smpq, differentiable])
def test_every_budget_is_met_without_measuring(seeder: Seeder) -> None:
    space = space_of("digits_mlp")
    tables = tables_of(compressor_of("digits_mlp"), space)
    tables.__dict__["supernet"] = small_supernet()  # as if it had been asked for before
    budgets = np.linspace(tables.cost(space.cheapest()[None])[0], tables.cost(space.most_expensive()[None])[0], 5)
    genomes = seeder(space, tables, budgets)
    assert genomes.shape == (5, space.n_genes) and space.legal(genomes).all()
    assert np.all(tables.cost(genomes) <= budgets)
    assert np.array_equal(genomes[0], space.cheapest())


@pytest.mark.parametrize("seeder", [smpq, differentiable])
def test_methods_that_train_refuse_data_without_a_train_split(seeder: Seeder) -> None:
    network = networks.network_of("digits_mlp")
    without = replace(network, splits=replace(network.splits, train=None))
    space = space_of("digits_mlp")
    tables = tables_of(Compressor(without, quantizer=QUANTIZER, correction="none"), space)
    with pytest.raises(ConfigError, match="no train split"):
        seeder(space, tables, tables.cost(space.most_expensive()[None]))
