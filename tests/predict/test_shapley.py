"""Shapley contributions: every estimator against the definition, on games whose answer is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy.stats import truncnorm

from evo_mpq.errors import MeasurementError
from evo_mpq.optimize.seeders.shapley import shapley
from evo_mpq.predict.shapley.contributions import Contributions, expected_if_positive
from evo_mpq.predict.shapley.estimators import ESTIMATORS
from evo_mpq.predict.shapley.kernel import drawn_pairs, kernel
from evo_mpq.predict.shapley.lattice import lattice
from evo_mpq.predict.shapley.levels import level_shares
from evo_mpq.predict.shapley.permutation import permutation
from evo_mpq.predict.shapley.walks import Walks
from evo_mpq.predict.tables.options import Estimates, OptionTable, additive
from evo_mpq.predict.tables.sensitivities import measured_sensitivities
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.genes import Gene
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

SEEDS = range(5)
PLENTY = 100_000


class Counted:
    """A measure that insists on new canonical genomes, and counts them."""

    def __init__(self, space: SearchSpace, loss: Callable[[Genomes], FloatVector]) -> None:
        self.space, self.loss = space, loss
        self.seen: set[bytes] = set()

    def __call__(self, genomes: Genomes) -> Estimates:
        assert self.space.legal(genomes).all()
        keys = [row.tobytes() for row in genomes]
        assert len(set(keys)) == len(keys) and not self.seen & set(keys), "a genome is measured twice"
        self.seen.update(keys)
        losses = np.asarray(self.loss(genomes), dtype=np.float64)
        return Estimates(losses, np.full(len(losses), np.nan))


def chain(n: int, bits: tuple[int, ...] = (2, 3, 4)) -> SearchSpace:
    return build_space([SpaceLayer(f"layer{i}") for i in range(n)], defaults={"weight_bits": list(bits)})


def with_blocks() -> SearchSpace:
    """Two blocks that may be left out, one with two layers, and a stem outside."""
    return SearchSpace(
        ["stem", "a.1", "a.2", "b.1"],
        [
            Gene("stem.weight_bits", (2, 4, 8), "weight_bits", ("stem",)),
            Gene("a.drop", (True, False), "drop", ("a.1", "a.2")),
            Gene("a.1.weight_bits", (2, 3, 4), "weight_bits", ("a.1",)),
            Gene("a.2.prune_ratio", (0.5, 0.25, 0.0), "prune_ratio", ("a.2",)),
            Gene("b.drop", (True, False), "drop", ("b.1",)),
            Gene("b.1.weight_bits", (2, 4), "weight_bits", ("b.1",)),
        ],
    )


def random_loss(space: SearchSpace, seed: int, order: int = 4) -> Callable[[Genomes], FloatVector]:
    """A smooth loss with interactions of all orders up to ``order``."""
    rng = np.random.default_rng(seed)
    directions = np.abs(rng.normal(size=(5, space.n_genes))) * rng.choice([1, 1, -0.5], size=(5, space.n_genes))

    def loss(genomes: Genomes) -> FloatVector:
        down = (space.cardinalities - 1 - genomes) / (space.cardinalities - 1)
        along = down**1.5 @ directions.T / math.sqrt(space.n_genes)
        return np.asarray(0.3 + sum(along[:, k] ** (1 + k % order) for k in range(5)), dtype=np.float64)

    return loss


def by_definition(space: SearchSpace, loss: Callable[[Genomes], FloatVector]) -> list[FloatVector]:
    """The average over all orders of all steps, each played out."""
    moves = np.repeat(np.arange(space.n_genes), space.cardinalities - 1).tolist()
    orders = sorted(set(itertools.permutations(moves)))
    increments = [np.zeros(c - 1) for c in space.cardinalities]
    for order in orders:
        state = space.cardinalities - 1
        before = loss(space.canonical(state[None]))[0]
        for gene in order:
            state = state.copy()
            state[gene] -= 1
            after = loss(space.canonical(state[None]))[0]
            increments[gene][state[gene]] += (after - before) / len(orders)
            before = after
    return increments


def relative(found: FloatVector, true: FloatVector) -> float:
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def estimated(
    name: str, space: SearchSpace, loss: Callable[[Genomes], FloatVector], n: int, seed: int = 0, **options: Any
) -> Contributions:
    return ESTIMATORS[name](space, Counted(space, loss), n, np.random.default_rng(seed), **options)


@pytest.mark.parametrize(
    "space",
    [
        chain(3),
        chain(4, (2, 4)),
        SearchSpace(
            ["stem", "a"],
            [
                Gene("stem.weight_bits", (2, 3, 4, 8), "weight_bits", ("stem",)),
                Gene("a.drop", (True, False), "drop", ("a",)),
                Gene("a.weight_bits", (2, 4, 8), "weight_bits", ("a",)),
            ],
        ),
    ],
    ids=["steps", "binary", "block"],
)
def test_exact_contributions_are_the_average_over_all_orders(space: SearchSpace) -> None:
    loss = random_loss(space, 1)
    found = estimated("exact", space, loss, PLENTY)
    for mine, oracle in zip(found.increments, by_definition(space, loss), strict=True):
        np.testing.assert_allclose(mine, oracle, rtol=1e-10, atol=1e-12)
    assert found.n_measurements == space.n_genomes


def test_exact_refuses_spaces_that_are_too_large_or_too_dear() -> None:
    with pytest.raises(ValueError, match="kernel or lattice"):
        estimated("exact", chain(9), random_loss(chain(9), 0), PLENTY)
    with pytest.raises(ValueError, match="27 measurements, only 26"):
        estimated("exact", chain(3), random_loss(chain(3), 0), 26)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "estimator",
    [
        kernel,
        permutation,
        partial(permutation, antithetic=False),
        partial(permutation, momentum=0.999),
        lattice,
        partial(lattice, antithetic=False),
    ],
)
def test_estimators_converge_to_exact_contributions_of_binary_games(estimator: Any, seed: int) -> None:
    space = chain(8, (2, 4))
    loss = random_loss(space, seed)
    truth = estimated("exact", space, loss, PLENTY)
    found = estimator(space, Counted(space, loss), 1000, np.random.default_rng(seed))
    assert relative(found.totals, truth.totals) < 0.05
    assert found.n_measurements <= space.n_genomes


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("space", [chain(5), with_blocks()], ids=["steps", "blocks"])
def test_lattice_paths_converge_to_exact_increments(space: SearchSpace, seed: int) -> None:
    loss = random_loss(space, seed)
    truth = estimated("exact", space, loss, PLENTY)
    found = estimated("lattice", space, loss, 1000, seed)
    assert relative(np.concatenate(found.increments), np.concatenate(truth.increments)) < 0.05


def test_kernel_is_exact_where_all_coalitions_are_measured() -> None:
    space = chain(7, (2, 4))
    loss = random_loss(space, 3)
    truth, found = (estimated(name, space, loss, PLENTY) for name in ("exact", "kernel"))
    np.testing.assert_allclose(found.totals, truth.totals, rtol=1e-9)
    assert np.all(found.total_errors < 1e-12)


@pytest.mark.parametrize("n", [11, 12])
def test_kernel_keeps_the_sum_over_thousands_of_rows(n: int) -> None:
    space, loss, values = pairwise_game(n, 0)
    found = estimated("kernel", space, loss, 2**n)
    assert found.n_measurements == 2**n and found.efficiency_gap < 1e-9
    np.testing.assert_allclose(found.totals, values, rtol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_options_cost_alone_steadies_totals_that_pairs_disagree_on(seed: int) -> None:
    space = chain(10, (2, 4))
    rng = np.random.default_rng(seed)
    main, noise = rng.lognormal(0, 0.7, 10), rng.normal(0, 2.0, 2**10)  # interactions of all orders

    def loss(genomes: Genomes) -> FloatVector:
        inner = (genomes.sum(axis=1) > 1) & (genomes.sum(axis=1) < 9)
        return np.asarray((1 - genomes) @ main + inner * noise[genomes @ 2 ** np.arange(10)], dtype=np.float64)

    table = OptionTable.of([np.array([loss_alone, 0.0]) for loss_alone in main])
    truth = estimated("exact", space, loss, PLENTY).totals
    alone, steadied = (estimated("kernel", space, loss, 40, seed, levels=levels) for levels in (None, table))
    assert relative(steadied.totals, truth) < 0.8 * relative(alone.totals, truth)
    assert steadied.efficiency_gap < 1e-9


@pytest.mark.parametrize("n", [2, 3, 7, 20, 45, 300])
@pytest.mark.parametrize("name", ["kernel", "permutation", "lattice"])
@pytest.mark.parametrize(
    "space", [chain(6), with_blocks(), chain(1), chain(1, (2, 4))], ids=["steps", "blocks", "one", "step"]
)
def test_contributions_sum_to_what_is_lost_and_the_allowance_is_kept(space: SearchSpace, name: str, n: int) -> None:
    loss = random_loss(space, 2)
    for seed in SEEDS:
        measure = Counted(space, loss)
        found = ESTIMATORS[name](space, measure, n, np.random.default_rng(seed))
        ends = loss(np.array([space.cheapest(), space.most_expensive()]))
        assert found.totals.sum() == pytest.approx(ends[0] - ends[1], abs=1e-9)
        assert found.efficiency_gap < 1e-9
        assert len(measure.seen) == found.n_measurements <= n


def test_fewer_measurements_than_the_two_ends_are_refused() -> None:
    for name in ("kernel", "permutation", "lattice"):
        with pytest.raises(ValueError, match="at least 2"):
            estimated(name, chain(3), random_loss(chain(3), 0), 1)


def pairwise_game(n: int, seed: int) -> tuple[SearchSpace, Callable[[Genomes], FloatVector], FloatVector]:
    """A binary game of main effects and pairwise interactions, and its Shapley values in closed form."""
    space = chain(n, (2, 4))
    rng = np.random.default_rng(seed)
    main, pairs = rng.uniform(0, 1, n), rng.normal(size=(n, n)) / math.sqrt(n)
    pairs = np.triu(pairs, 1)
    values = main + (pairs + pairs.T).sum(axis=1) / 2

    def loss(genomes: Genomes) -> FloatVector:
        down = 1.0 - genomes
        return np.asarray(down @ main + np.einsum("ni,ij,nj->n", down, pairs, down), dtype=np.float64)

    return space, loss, values


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [5, 12, 20, 40])
def test_pairing_cancels_pairwise_interactions_at_four_measurements_a_gene(n: int, seed: int) -> None:
    space, loss, values = pairwise_game(n, seed)
    assert relative(estimated("kernel", space, loss, 4 * n, seed).totals, values) < 1e-8


@pytest.mark.parametrize("seed", SEEDS)
def test_an_order_and_its_reverse_cancel_pairwise_interactions_too(seed: int) -> None:
    space, loss, values = pairwise_game(10, seed)
    assert relative(estimated("permutation", space, loss, 2 + 2 * 9, seed).totals, values) < 1e-9
    alone = estimated("permutation", space, loss, 2 + 2 * 9, seed, antithetic=False)
    assert relative(alone.totals, values) > 0.02


@pytest.mark.parametrize("name", ["exact", "permutation", "lattice"])
def test_a_gene_that_changes_nothing_contributes_nothing(name: str) -> None:
    space = chain(5)
    loss = random_loss(space, 4)
    found = estimated(name, space, lambda genomes: loss(np.where(np.arange(5) == 2, 1, genomes)), 300)
    np.testing.assert_allclose(found.increments[2], 0.0, atol=1e-12)
    assert np.abs(found.totals[[0, 1, 3, 4]]).min() > 1e-3


def test_a_gene_that_changes_nothing_contributes_nothing_to_the_whole_kernel() -> None:
    space = chain(7, (2, 4))
    loss = random_loss(space, 4)
    found = estimated("kernel", space, lambda genomes: loss(np.where(np.arange(7) == 2, 1, genomes)), PLENTY)
    assert abs(found.totals[2]) < 1e-9 < np.abs(np.delete(found.totals, 2)).min()


@pytest.mark.parametrize("name", ["exact", "kernel"])
def test_genes_that_do_the_same_contribute_the_same(name: str) -> None:
    space = chain(5)

    def loss(genomes: Genomes) -> FloatVector:
        alike = 2.0 - genomes[:, 1] + 2.0 - genomes[:, 3]
        return np.asarray(alike**3 + alike * genomes[:, 0] - genomes[:, 2] * genomes[:, 4], dtype=np.float64)

    found = estimated(name, space, loss, PLENTY)
    np.testing.assert_allclose(found.increments[1], found.increments[3], rtol=1e-9)
    assert relative(found.increments[0], found.increments[1]) > 0.1


@pytest.mark.parametrize("name", ["exact", "kernel"])
def test_renumbering_genes_renumbers_contributions(name: str) -> None:
    space = chain(5)
    loss, order = random_loss(space, 6), np.array([3, 0, 4, 1, 2])
    there = estimated(name, space, loss, PLENTY)
    here = estimated(name, space, lambda genomes: loss(genomes[:, np.argsort(order)]), PLENTY)
    for place, gene in enumerate(order):
        np.testing.assert_allclose(here.increments[place], there.increments[gene], rtol=1e-9)


@pytest.mark.parametrize("name", ["kernel", "permutation", "lattice"])
def test_the_same_seed_gives_the_same_and_another_one_another(name: str) -> None:
    space = chain(8)
    loss = random_loss(space, 0)
    first, again, other = (estimated(name, space, loss, 60, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.totals, again.totals) and not np.array_equal(first.totals, other.totals)
    assert np.array_equal(first.total_errors, again.total_errors, equal_nan=True)


@pytest.mark.parametrize("name", ["kernel", "permutation", "lattice"])
def test_standard_errors_are_as_large_as_errors(name: str) -> None:
    """Squared errors are on average as large as squared standard errors, over games and draws."""
    space, ratios = chain(10, (2, 4)), []
    for game in SEEDS:
        loss = random_loss(space, game)
        truth = estimated("exact", space, loss, PLENTY).totals
        for seed in range(6):
            found = estimated(name, space, loss, 120, seed)
            ratios.append(np.mean((found.totals - truth) ** 2) / np.mean(found.total_errors**2))
    assert 0.4 < np.mean(ratios) < 2.5


@pytest.mark.parametrize("name", ["permutation", "lattice"])
def test_truncated_walks_count_only_the_steps_that_they_came_to(name: str) -> None:
    space = chain(10)
    loss = random_loss(space, 1)
    whole, cut = (estimated(name, space, loss, 100, truncation=bound) for bound in (None, 0.5))
    n_whole, visits = np.unique(np.concatenate(whole.visits)), np.concatenate(cut.visits)
    assert len(n_whole) == 1, "walks that are not cut come to every step"
    assert len(np.unique(visits)) > 1 and cut.n_measurements <= 100
    assert visits.max() > n_whole[0], "walks that are cut leave measurements for more walks"
    assert cut.efficiency_gap > 1e-6


def test_a_walk_stops_after_the_step_that_passes_the_bound() -> None:
    space = chain(2)  # four steps of one unit each: a bound at half of the range is passed by the third

    def loss(genomes: Genomes) -> FloatVector:
        return np.asarray(4.0 - genomes.sum(axis=1), dtype=np.float64)

    measure = Counted(space, loss)
    found = lattice(space, measure, 9, np.random.default_rng(0), truncation=0.5)
    n_walks = np.concatenate(found.visits).sum() / 3
    assert n_walks == int(n_walks) > 1
    np.testing.assert_allclose(np.concatenate(found.increments), 1.0)


def test_a_step_that_no_walk_came_to_is_unknown_and_taken_for_the_costliest() -> None:
    steps = (np.array([np.nan, 1.0, 0.5]), np.array([3.0]))
    visits = (np.array([0, 2, 2]), np.array([2]))
    found = Contributions(steps, (np.full(3, 0.1), np.full(1, 0.1)), visits, np.full(2, 0.1), 9, 0.0, 5.0)
    assert np.isnan(found.totals[0]) and found.efficiency_gap == pytest.approx(0.5)
    assert found.table().losses[0].tolist() == pytest.approx([4.5, 1.5, 0.5, 0.0])


def test_a_step_is_taken_for_what_is_expected_of_a_positive_number() -> None:
    means, errors = np.array([-3.0, -0.5, 0.0, 0.5, 20.0]), np.array([1.0, 2.0, 0.1, 0.5, 1.0])
    oracle = truncnorm.mean(-means / errors, np.inf, loc=means, scale=errors)
    np.testing.assert_allclose(expected_if_positive(means, errors), oracle)
    assert expected_if_positive(means, np.full(5, np.nan)).tolist() == means.tolist()
    far = expected_if_positive(np.array([-1e6, 1e6]), np.ones(2))
    assert 0 < far[0] < 1e-5 and far[1] == 1e6


def test_momentum_weighs_late_walks_more() -> None:
    values = np.array([[0.0], [1.0], [4.0]])
    walks = Walks(values, np.arange(3))
    assert walks.averages(values, 0.5).means == pytest.approx([(0.25 * 0 + 0.5 * 1 + 4) / 1.75])
    assert walks.averages(values, None).means == pytest.approx([5 / 3])
    assert walks.averages(values, None).standard_errors == pytest.approx(values.std(ddof=1) / math.sqrt(3))


def test_an_order_and_its_reverse_are_one_draw() -> None:
    values = np.array([[0.0], [2.0], [1.0], [5.0], [4.0], [np.nan]])
    found = Walks(values, np.arange(6) // 2).averages(values, None)
    assert found.means == pytest.approx([12 / 5]) and found.visits.tolist() == [5]
    draws = np.array([(0 + 2 - 2 * 2.4) / 5, (1 + 5 - 2 * 2.4) / 5, (4 - 2.4) / 5])
    assert found.standard_errors == pytest.approx(math.sqrt(1.5 * (draws**2).sum()))


def test_failed_states_share_what_the_steps_around_them_add() -> None:
    space = chain(8, (2, 4))
    loss = random_loss(space, 5)

    def troubled(genomes: Genomes) -> FloatVector:
        bad = (genomes[:, 0] == 0) & (genomes[:, 1] == 1) & (genomes[:, 2] == 0)
        return np.where(bad, np.nan, loss(genomes))

    for name in ("permutation", "lattice", "kernel"):
        found = estimated(name, space, troubled, 100)
        assert np.isfinite(found.totals).all() and found.efficiency_gap < 1e-9
        assert relative(found.totals, estimated("exact", space, loss, PLENTY).totals) < 0.6
    with pytest.raises(MeasurementError, match="exact needs every one"):
        estimated("exact", space, troubled, PLENTY)


def test_without_its_ends_there_is_nothing_to_divide() -> None:
    space = chain(3)
    for name in ESTIMATORS:
        with pytest.raises(MeasurementError, match="the cheapest genome cannot be measured"):
            estimated(name, space, lambda genomes: np.where(genomes.sum(axis=1) == 0, np.nan, 1.0), PLENTY)


def test_levels_divide_totals_and_priors_stand_in_for_unknown_ones() -> None:
    space = with_blocks()
    table = OptionTable.of([np.array([3.0, 1.0, 0.0]), *(np.zeros(c) for c in space.cardinalities[1:])])
    shares = level_shares(space, table)
    assert shares[0].tolist() == [2 / 3, 1 / 3]
    np.testing.assert_allclose(shares[2], [0.8, 0.2])  # 4^-b
    np.testing.assert_allclose(shares[3], [0.75, 0.25])  # squared ratios
    assert shares[1].tolist() == [1.0]
    found = estimated("permutation", space, random_loss(space, 0), 40, levels=table)
    np.testing.assert_allclose(found.increments[0], found.totals[0] * shares[0])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bits", [(2, 4), (2, 3, 4), (2, 3, 4, 6, 8)])
def test_kernel_finds_every_step_of_an_additive_game_whose_table_is_known(bits: tuple[int, ...], seed: int) -> None:
    space = chain(6, bits)
    steps = np.random.default_rng(seed).uniform(0.1, 1.0, (6, len(bits) - 1))
    table = OptionTable.of([np.append(np.cumsum(row[::-1])[::-1], 0.0) for row in steps])
    found = estimated("kernel", space, additive(space, table), 4 * 6, seed, levels=table)
    np.testing.assert_allclose(np.array(found.increments), steps, rtol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_kernel_is_near_the_game_of_steps_where_errors_of_rounding_interfere(seed: int) -> None:
    space = chain(6)
    mix = np.random.default_rng(seed).normal(size=(6, 6)) + 2.0 * np.eye(6)

    def loss(genomes: Genomes) -> FloatVector:
        errors = (2.0 ** -np.array([2, 3, 4]))[genomes] @ mix
        return np.asarray((errors**2).sum(axis=1), dtype=np.float64)

    table = measured_sensitivities(space, Counted(space, loss))
    truth = estimated("exact", space, loss, PLENTY)
    found, whole = (estimated(name, space, loss, 24, seed, levels=table) for name in ("kernel", "permutation"))
    steps = np.concatenate(truth.increments)
    assert relative(found.totals, truth.totals) < 0.15
    assert relative(np.concatenate(found.increments), steps) < relative(np.concatenate(whole.increments), steps)


def test_no_step_is_free_because_its_contribution_came_out_below_zero() -> None:
    space = chain(8)
    lowest = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        steps, noise = rng.uniform(0.1, 1.0, (8, 2)), rng.normal(0.0, 3.0, 3**8)  # of ruined networks alone
        alone = OptionTable.of([np.append(np.cumsum(row[::-1])[::-1], 0.0) for row in steps])
        found = estimated("kernel", space, partial(_noisy, additive(space, alone), noise), 32, seed, levels=alone)
        lowest.append(min(part[0] for part in found.increments))
        assert all(np.all(np.diff(row) < 0) for row in found.table().losses)
    assert min(lowest) < 0, "some contribution must come out below zero for this to say something"


def _noisy(model: Callable[[Genomes], FloatVector], noise: FloatVector, genomes: Genomes) -> FloatVector:
    ruined = ((genomes < 2).sum(axis=1) > 1) & (genomes.sum(axis=1) > 0)
    return np.asarray(model(genomes) + ruined * noise[genomes @ 3 ** np.arange(8)], dtype=np.float64)


def test_steps_that_a_table_takes_for_free_share_what_is_lost_there() -> None:
    space = with_blocks()
    table = OptionTable.of([np.append(1.0, np.zeros(c - 1)) for c in space.cardinalities])
    found = estimated("kernel", space, random_loss(space, 0), 40, levels=table)
    assert found.efficiency_gap < 1e-9


def test_where_the_option_above_the_cheapest_fails_kernel_plays_whole_genes() -> None:
    space = chain(4)
    found = estimated(
        "kernel", space, lambda genomes: np.where((genomes == 1).any(1), np.nan, 8.0 - genomes.sum(1)), 20
    )
    np.testing.assert_allclose(found.totals, 2.0)
    assert found.efficiency_gap < 1e-9


def test_the_table_sums_steps_from_the_top_and_never_rewards_a_step_down() -> None:
    steps = (np.array([2.0, -0.5, 1.0]), np.array([-1.0, 0.5, -0.25]))
    none = tuple(np.zeros(3) for _ in steps)
    found = Contributions(steps, none, tuple(np.ones(3, np.int64) for _ in steps), np.zeros(2), 9, 0.7, 3.0)
    table = found.table()
    assert table.losses[0].tolist() == [2.5, 1.0, 1.0, 0.0]
    assert table.losses[1].tolist() == [0.25, 0.25, 0.0, 0.0]
    assert table.base == 0.7


def test_the_additive_model_of_exact_contributions_of_an_additive_loss_is_that_loss() -> None:
    space = chain(5)
    table = OptionTable.of([np.array([3.0, 1.0, 0.0]) * (gene + 1) for gene in range(5)], base=0.5)
    loss = additive(space, table)
    for name in ("exact", "lattice"):
        model = additive(space, estimated(name, space, loss, 400).table())
        genomes = space.sample(50, np.random.default_rng(0))
        np.testing.assert_allclose(model(genomes), loss(genomes))


@pytest.mark.parametrize("n_players", [2, 3, 4, 7, 8, 30, 1100])
def test_pairs_are_different_and_as_likely_as_they_say(n_players: int) -> None:
    n_all = 2 ** min(n_players - 1, 20) - 1
    for seed in SEEDS:
        n = min(2 * n_players, 60, n_all)
        pairs = drawn_pairs(n_players, n, np.random.default_rng(seed))
        both = np.concatenate([pairs.coalitions, ~pairs.coalitions])
        assert len(np.unique(both, axis=0)) == 2 * n
        assert np.all(both.any(axis=1)) and np.all(pairs.weights > 0) and np.all(pairs.probabilities <= 1)


def test_single_players_are_drawn_as_often_as_any_other_size() -> None:
    sizes = [drawn_pairs(20, 40, np.random.default_rng(seed)).coalitions.sum(axis=1) for seed in range(50)]
    counts = np.bincount(np.concatenate(sizes), minlength=11)[1:] / 50
    np.testing.assert_allclose(counts, [40 / 9.5] * 9 + [20 / 9.5], atol=0.25)


@pytest.mark.parametrize("estimator", ["exact", "kernel"])
@pytest.mark.parametrize("n", [5, 8])
def test_contributions_to_binary_games_whose_coalitions_are_all_measured_are_those_of_shapiq(
    n: int, estimator: str
) -> None:
    shapiq = pytest.importorskip("shapiq", reason="shapiq is not installed: pip install shapiq==1.4.1")
    space = chain(n, (2, 4))
    loss = random_loss(space, 1)
    base = loss(space.most_expensive()[None])[0]
    computer = shapiq.ExactComputer(n_players=n, game=lambda coalitions: loss(1 - coalitions.astype(np.int64)) - base)
    oracle = computer("SV").get_n_order_values(1)
    np.testing.assert_allclose(estimated(estimator, space, loss, PLENTY).totals, oracle, rtol=1e-8)


def test_the_shapley_seeder_finds_the_best_genomes_of_an_additive_loss() -> None:
    space = chain(5)
    loss = additive(space, OptionTable.of([np.array([3.0, 1.0, 0.0]) * (gene + 1) for gene in range(5)], base=0.5))
    cost = additive(space, OptionTable.of([np.array([-2.0, -1.0, 0.0])] * 5, base=20.0))
    compressor: Any = None  # is not asked for
    for allowance in (None, 20):
        # what the table of sensitivities measures, the contributions may ask for again: a journal knows it
        tables = Tables(space, cost, lambda rows: Estimates(loss(rows), loss(rows)), compressor, 0, None, allowance)
        budgets = np.arange(10.0, 21.0)
        found = shapley(space, tables, budgets)
        everything = np.concatenate(list(space.enumerate()))
        best = [loss(everything)[cost(everything) <= budget].min() for budget in budgets]
        assert np.all(cost(found) <= budgets)
        np.testing.assert_allclose(loss(found), best)
        assert tables.contributions.n_measurements <= 20
    few = Tables(space, cost, lambda rows: Estimates(loss(rows), loss(rows)), compressor, 0, None, 19)
    with pytest.raises(MeasurementError, match="contributions of 5 genes take 20 measurements, and of this budget 19"):
        shapley(space, few, budgets)
