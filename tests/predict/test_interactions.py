"""The pairwise table and the model that is made of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from evo_mpq.predict.tables.interactions import (
    UNKNOWN_ERRORS_SHRINKAGE,
    InteractionTable,
    all_pairs,
    chosen_shrinkage,
    limited,
    measured_interactions,
    module_blocks,
    option_matrix,
    pairs_within,
    projected,
    quadratic,
    strongest_pairs,
    worthwhile_pairs,
)
from evo_mpq.predict.tables.options import Estimates, Measure, OptionTable, additive
from evo_mpq.predict.tables.sensitivities import measured_sensitivities
from evo_mpq.space.building import SpaceGroup, SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

SEEDS = range(5)
BITS = (2, 3, 4, 8)


def bits_space(n_layers: int = 5) -> SearchSpace:
    return build_space([SpaceLayer(f"layers.{i}") for i in range(n_layers)], defaults={"weight_bits": list(BITS)})


def joint_space() -> SearchSpace:
    layers = [SpaceLayer(name) for name in ("stem", "a.conv1", "a.conv2", "b.conv1", "b.conv2", "head")]
    return build_space(
        layers,
        groups=[SpaceGroup(6, ("a.conv1",)), SpaceGroup(6, ("b.conv1",))],
        blocks={"a": ("a.conv1", "a.conv2"), "b": ("b.conv1", "b.conv2")},
        defaults={"weight_bits": [2, 4]},
        prune={"ratios": [0.0, 0.5]},
        drop=["a", "b"],
        tie=["?.conv2"],
    )


def quadratic_loss(space: SearchSpace, seed: int) -> Callable[[Genomes], FloatVector]:
    """A convex quadratic function of errors, which are 0 at the base; inactive genes do not matter."""
    rng = np.random.default_rng(seed)
    # each option moves the network in a direction of its own, as errors of rounding do
    directions = [rng.normal(size=(n, 8)) * np.linspace(1, 0, n)[:, None] for n in space.cardinalities]

    def loss(genomes: Genomes) -> FloatVector:
        moved = np.zeros((len(genomes), 8))
        for gene, vectors in enumerate(directions):
            blocks = sorted(space.homes[gene] - {gene})
            active = np.any(genomes[:, blocks] > 0, axis=1) if blocks else np.ones(len(genomes), dtype=bool)
            moved += active[:, None] * vectors[genomes[:, gene]]
        return 0.5 * np.sum(moved**2, axis=1) + 0.25

    return loss


class Measuring:
    """Counts what is measured."""

    def __init__(self, loss: Callable[[Genomes], FloatVector], error: float = np.nan) -> None:
        self.loss = loss
        self.error = error
        self.asked: list[Genomes] = []

    def __call__(self, genomes: Genomes) -> Estimates:
        self.asked.append(genomes)
        return Estimates(self.loss(genomes), np.full(len(genomes), self.error))


def tables_of(
    space: SearchSpace, measure: Measure, shrinkage: float | None = 1.0
) -> tuple[OptionTable, InteractionTable]:
    sensitivities = measured_sensitivities(space, measure)
    return sensitivities, measured_interactions(space, measure, sensitivities, shrinkage=shrinkage)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_exactly_quadratic_loss_is_predicted_exactly(seed: int) -> None:
    space = bits_space()
    loss = quadratic_loss(space, seed)
    model = quadratic(space, *tables_of(space, Measuring(loss)))
    genomes = np.concatenate(list(space.enumerate()))
    assert model(genomes) == pytest.approx(loss(genomes), abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_left_out_blocks_are_predicted_exactly_too(seed: int) -> None:
    space = joint_space()
    loss = quadratic_loss(space, seed)
    model = quadratic(space, *tables_of(space, Measuring(loss)))
    genomes = np.concatenate(list(space.enumerate()))
    assert len(genomes) == space.n_genomes
    assert model(genomes) == pytest.approx(loss(genomes), abs=1e-9)


def test_what_is_inside_of_a_dropped_block_does_not_matter() -> None:
    space = joint_space()
    model = quadratic(space, *tables_of(space, Measuring(quadratic_loss(space, 0))))
    raw = np.array(list(itertools.product(*(range(n) for n in space.cardinalities))))
    assert model(raw) == pytest.approx(model(space.canonical(raw)), abs=1e-12)


def test_interactions_of_every_pair_are_known_and_zero_at_the_base_options() -> None:
    space = bits_space()
    _, interactions = tables_of(space, Measuring(quadratic_loss(space, 0)))
    for pair in itertools.combinations(range(space.n_genes), 2):
        table = interactions.pairs[pair]
        assert not table[-1].any()
        assert not table[:, -1].any()
        assert np.all(table[:-1, :-1] != 0)


def test_no_shrunk_interactions_are_the_additive_model() -> None:
    space = joint_space()
    sensitivities, interactions = tables_of(space, Measuring(quadratic_loss(space, 0)), shrinkage=0.0)
    genomes = np.concatenate(list(space.enumerate()))
    model = quadratic(space, sensitivities, interactions)
    assert np.array_equal(model(genomes), additive(space, sensitivities)(genomes))


def test_no_gene_is_paired_with_the_block_that_it_is_inactive_without() -> None:
    space = joint_space()
    names = [gene.name for gene in space.genes]
    pairs = {(names[i], names[j]) for i, j in all_pairs(space)}
    assert ("a.drop", "a.conv1.weight_bits") not in pairs
    assert ("a.drop", "a.conv1.prune_ratio") not in pairs
    assert ("a.drop", "a.conv2.weight_bits") in pairs  # tied to a layer of the other block
    assert ("a.drop", "b.drop") in pairs
    measuring = Measuring(quadratic_loss(space, 0))
    tables_of(space, measuring)
    assert space.legal(np.concatenate(measuring.asked)).all()


@pytest.mark.parametrize("allowance", [0, 1, 7, 10, 25, 90, 1000])
def test_the_allowance_is_kept_and_used(allowance: int) -> None:
    space = bits_space()
    measuring = Measuring(quadratic_loss(space, 0))
    sensitivities = measured_sensitivities(space, measuring)
    before = sum(map(len, measuring.asked))
    interactions = measured_interactions(space, measuring, sensitivities, allowance=allowance)
    assert sum(map(len, measuring.asked)) - before == interactions.n_measurements == min(allowance, 90)
    assert len(interactions.pairs) == min(allowance, 10)


def test_the_lowest_options_of_the_most_sensitive_genes_are_measured_first() -> None:
    space = bits_space()
    loss = quadratic_loss(space, 0)
    sensitivities = measured_sensitivities(space, Measuring(loss))
    measuring = Measuring(loss)
    measured_interactions(space, measuring, sensitivities, allowance=15)
    (genomes,) = measuring.asked
    away = genomes < space.cardinalities - 1
    assert np.all(away.sum(axis=1) == 2)
    bounds = [
        np.prod([sensitivities.losses[g][row[g]] for g in np.flatnonzero(some)])
        for row, some in zip(genomes, away, strict=True)
    ]
    assert np.all(genomes[:10][away[:10]] == 0)
    assert np.all(np.diff(bounds[:10]) <= 0)
    assert np.all(np.diff(bounds[10:]) <= 0)


def test_options_that_are_not_measured_can_follow_from_those_that_are() -> None:
    # Errors of one direction per gene: then one correlation per pair is all there is.
    space = bits_space()
    rng = np.random.default_rng(0)
    directions, lengths = rng.normal(size=(5, 3)), np.array([1.0, 0.4, 0.2, 0.0])

    def loss(genomes: Genomes) -> FloatVector:
        return np.sum((lengths[genomes] @ directions) ** 2, axis=1)

    sensitivities = measured_sensitivities(space, Measuring(loss))
    interactions = measured_interactions(space, Measuring(loss), sensitivities, allowance=10, shrinkage=1.0, fill=True)
    genomes = np.concatenate(list(space.enumerate()))
    assert quadratic(space, sensitivities, interactions)(genomes) == pytest.approx(loss(genomes), abs=1e-9)


def test_options_that_are_not_measured_do_not_interact_by_default() -> None:
    space = bits_space()
    loss = quadratic_loss(space, 0)
    sensitivities = measured_sensitivities(space, Measuring(loss))
    interactions = measured_interactions(space, Measuring(loss), sensitivities, allowance=10)
    for table in interactions.pairs.values():
        assert table[0, 0] != 0
        assert np.count_nonzero(table) == 1


def test_options_whose_sensitivity_was_filled_in_are_not_measured_in_pairs() -> None:
    space = bits_space()
    measuring = Measuring(quadratic_loss(space, 0), error=0.1)
    sensitivities = measured_sensitivities(space, measuring, left=37)  # the lowest and the middle option
    interactions = measured_interactions(space, measuring, sensitivities)
    assert interactions.n_measurements == 10 * 2 * 2
    assert all(np.all(np.isnan(errors[2])) for errors in interactions.standard_errors.values())


def test_pairs_that_cannot_be_measured_are_left_out() -> None:
    space = bits_space(3)
    loss = quadratic_loss(space, 0)

    def failing(genomes: Genomes) -> FloatVector:
        return np.where((genomes[:, 0] < 3) & (genomes[:, 1] < 3), np.nan, loss(genomes))

    sensitivities, interactions = tables_of(space, Measuring(failing))
    assert set(interactions.pairs) == {(0, 2), (1, 2)}
    assert np.isfinite(quadratic(space, sensitivities, interactions)(np.concatenate(list(space.enumerate())))).all()


def test_noise_shrinks_interactions_as_much_as_it_is_of_them() -> None:
    rng = np.random.default_rng(0)
    true, noise = rng.normal(0, 2, 4000), rng.normal(0, 1, 4000)
    assert chosen_shrinkage(true + noise, np.ones(4000)) == pytest.approx(0.8, abs=0.02)
    assert chosen_shrinkage(noise, np.full(4000, 2.0)) == 0.0
    assert chosen_shrinkage(true, np.zeros(4000)) == 1.0
    assert chosen_shrinkage(true, np.full(4000, np.nan)) == UNKNOWN_ERRORS_SHRINKAGE


@pytest.mark.parametrize("seed", SEEDS)
def test_standard_errors_are_about_those_of_values_per_sample(seed: int) -> None:
    # Outputs move in four dimensions by two errors of random directions; some samples mind both more than others.
    rng = np.random.default_rng(seed)
    moves = rng.lognormal(0, 0.5, (400, 1)) * rng.normal(size=(2, 400, 4))
    alone = np.sum(moves**2, axis=2)
    together = np.sum((moves[0] + moves[1]) ** 2, axis=1)
    samples = np.stack([np.zeros(400), alone[0], alone[1], together])
    space = build_space([SpaceLayer("a"), SpaceLayer("b")], defaults={"weight_bits": [2, 4]})

    def measure(genomes: Genomes) -> Estimates:
        rows = samples[2 * (genomes[:, 1] == 0) + (genomes[:, 0] == 0)]
        return Estimates(rows.mean(axis=1), rows.std(axis=1, ddof=1) / 20)

    interactions = measured_interactions(space, measure, measured_sensitivities(space, measure))
    per_sample = together - alone[0] - alone[1]
    assert interactions.pairs[0, 1][0, 0] == pytest.approx(per_sample.mean())
    ratio = interactions.standard_errors[0, 1][0, 0] / (per_sample.std(ddof=1) / 20)
    assert 0.5 < ratio < 2


def test_larger_standard_errors_shrink_more() -> None:
    space = bits_space()
    factors = [
        tables_of(space, Measuring(quadratic_loss(space, 0), error), None)[1].shrinkage
        for error in (0.0, 0.3, 0.6, 9.0)
    ]
    assert factors[0] == 1.0
    assert factors[-1] == 0.0
    assert np.all(np.diff(factors) < 0)


def test_the_projected_matrix_is_positive_semidefinite_and_the_model_of_its_tables() -> None:
    space = bits_space()
    # a loss that saturates has negative interactions beyond what Cauchy and Schwarz allow
    loss = quadratic_loss(space, 0)
    tables = tables_of(space, Measuring(lambda genomes: np.log1p(9 * loss(genomes))))
    assert np.linalg.eigvalsh(option_matrix(*tables)).min() < -0.1
    values, vectors = np.linalg.eigh(option_matrix(*tables))
    matrix = (vectors * np.maximum(values, 0)) @ vectors.T
    assert np.linalg.eigvalsh(matrix).min() > -1e-9
    genomes = space.sample(50, np.random.default_rng(0))
    chosen = np.concatenate([np.eye(4)[column] for column in genomes.T], axis=1)
    expected = tables[0].base + 0.5 * np.einsum("ni,ij,nj->n", chosen, matrix, chosen)
    assert quadratic(space, *tables, psd=True)(genomes) == pytest.approx(expected)


def test_a_positive_semidefinite_matrix_is_left_alone() -> None:
    sensitivities = OptionTable.of([np.array([1.0, 0.0]), np.array([2.0, 0.0])])
    table = np.array([[0.5, 0.0], [0.0, 0.0]])
    interactions = InteractionTable({(0, 1): table}, {(0, 1): np.full((2, 2), np.nan)})
    losses, pairs = projected(sensitivities, interactions)
    assert np.concatenate(losses.losses) == pytest.approx([1, 0, 2, 0])
    assert pairs.pairs[0, 1] == pytest.approx(table)


def test_option_matrix_halves_to_the_model() -> None:
    space = bits_space()
    sensitivities, interactions = tables_of(space, Measuring(quadratic_loss(space, 0)), shrinkage=0.7)
    matrix = option_matrix(sensitivities, interactions)
    assert np.array_equal(matrix, matrix.T)
    genomes = space.sample(50, np.random.default_rng(0))
    chosen = np.concatenate([np.eye(4)[column] for column in genomes.T], axis=1)
    expected = sensitivities.base + 0.5 * np.einsum("ni,ij,nj->n", chosen, matrix, chosen)
    assert quadratic(space, sensitivities, interactions)(genomes) == pytest.approx(expected)


def test_pairs_within_blocks_and_the_strongest_pairs_are_some_of_all() -> None:
    space = bits_space()
    sensitivities = OptionTable.of([np.array([loss, 0.0]) for loss in (1.0, 5.0, 2.0, 4.0, 3.0)])
    assert pairs_within(space, [{0, 1, 2}, {2, 3}]) == [(0, 1), (0, 2), (1, 2), (2, 3)]
    assert strongest_pairs(space, sensitivities, 3) == [(1, 3), (1, 4), (3, 4)]  # 20, 15 and 12
    assert strongest_pairs(space, sensitivities, 1, [(0, 1), (2, 3)]) == [(2, 3)]


def test_modules_are_found_by_the_names_of_layers() -> None:
    names = [
        "stem",
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer1.1.conv1",
        "blocks.0.attn.q",
        "blocks.0.mlp.fc1",
        "fc.0",
    ]
    space = build_space([SpaceLayer(name) for name in names], defaults={"weight_bits": [2, 4]})
    assert module_blocks(space) == [{0}, {1, 2}, {3}, {4, 5}, {6}]


def test_many_genes_are_paired_within_modules_only() -> None:
    names = [f"blocks.{i}.fc{j}" for i in range(31) for j in (1, 2)]
    space = build_space([SpaceLayer(name) for name in names], defaults={"weight_bits": [2, 4]})
    sensitivities = OptionTable.of([np.array([1.0, 0.0])] * space.n_genes)
    assert worthwhile_pairs(space, sensitivities) == [(2 * i, 2 * i + 1) for i in range(31)]
    few = bits_space()
    assert worthwhile_pairs(few, OptionTable.of([np.zeros(4)] * 5)) == all_pairs(few)


def test_the_strongest_pairs_stay_and_those_of_equal_strength_in_their_order() -> None:
    tables = {(0, 1): 1.0, (0, 2): 3.0, (1, 2): 0.0, (1, 3): 1.0}
    pairs = {pair: np.array([[height, 0.0], [0.0, 0.0]]) for pair, height in tables.items()}
    found = InteractionTable(pairs, {}, shrinkage=0.5, n_measurements=7)
    kept = [list(limited(found, most).pairs) for most in (3, 4, 11, 16)]
    assert kept == [[], [(0, 2)], [(0, 1), (0, 2)], [*pairs]]
    assert (limited(found, 4).shrinkage, limited(found, 4).n_measurements) == (0.5, 7)
