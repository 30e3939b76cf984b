from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_mpq.optimize.operators import mutate, reset, step, uniform_crossover


def random_genomes(cardinalities: list[int], n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    limits = np.array(cardinalities)
    return rng.integers(limits, size=(n, len(limits))), limits, rng


CARDINALITIES = st.lists(st.integers(2, 8), min_size=1, max_size=12)
SEEDS = st.integers(0, 2**32 - 1)


@given(CARDINALITIES, st.floats(0, 1), SEEDS)
@settings(deadline=None)
def test_a_mutated_genome_is_legal_and_its_parent_unaltered(cardinalities: list[int], rate: float, seed: int) -> None:
    genomes, limits, rng = random_genomes(cardinalities, 50, seed)
    before = genomes.copy()
    mutated = mutate(genomes, limits, rng, rate)
    assert np.all((mutated >= 0) & (mutated < limits))
    assert np.array_equal(genomes, before)


@given(CARDINALITIES, SEEDS)
@settings(deadline=None)
def test_a_reset_never_keeps_the_value_and_a_step_goes_to_a_neighbor(cardinalities: list[int], seed: int) -> None:
    genomes, limits, rng = random_genomes(cardinalities, 50, seed)
    anew, stepped = reset(genomes, limits, rng), step(genomes, limits, rng)
    assert np.all(anew != genomes)
    assert np.all(np.abs(stepped - genomes) == 1)
    for changed in (anew, stepped):
        assert np.all((changed >= 0) & (changed < limits))


def test_a_reset_reaches_all_other_values_equally_often() -> None:
    genomes = np.full((12000, 1), 2)
    counts = np.bincount(reset(genomes, np.array([5]), np.random.default_rng(0))[:, 0], minlength=5)
    assert counts[2] == 0
    assert counts[[0, 1, 3, 4]] == pytest.approx(3000, abs=200)


@pytest.mark.parametrize("n_genes", [1, 2, 10, 60])
@pytest.mark.parametrize("seed", range(5))
def test_single_genes_change_at_the_stated_rate(n_genes: int, seed: int) -> None:
    rate = 0.5 / n_genes
    genomes, limits, rng = random_genomes([6] * n_genes, 200_000 // n_genes, seed)
    changed = mutate(genomes, limits, rng, rate) != genomes
    deviation = np.sqrt(rate * (1 - rate) / len(genomes))
    assert changed.mean(axis=0) == pytest.approx(rate, abs=5 * deviation)


def test_every_gene_or_none_changes_at_the_extreme_rates() -> None:
    genomes, limits, rng = random_genomes([2, 6] * 10, 1000, 0)
    assert np.all(mutate(genomes, limits, rng, rate=1.0) != genomes)
    assert np.array_equal(mutate(genomes, limits, rng, rate=0.0), genomes)


def test_half_of_the_changes_go_to_a_neighbor_and_half_anywhere_else() -> None:
    # From the middle of 7 values, a reset reaches each of 6 others, 2 of which are neighbors.
    genomes = np.full((60_000, 1), 3)
    distance = np.abs(mutate(genomes, np.array([7]), np.random.default_rng(1), rate=1.0) - genomes)
    assert np.mean(distance == 1) == pytest.approx(0.5 + 0.5 * 2 / 6, abs=0.01)


@given(CARDINALITIES, SEEDS)
@settings(deadline=None)
def test_a_child_has_every_gene_from_one_of_its_parents(cardinalities: list[int], seed: int) -> None:
    mothers, limits, rng = random_genomes(cardinalities, 20, seed)
    fathers = rng.integers(limits, size=mothers.shape)
    children = uniform_crossover(mothers, fathers, rng)
    assert np.all((children == mothers) | (children == fathers))


def test_a_child_takes_half_of_its_genes_from_each_parent_independently() -> None:
    children = uniform_crossover(
        np.zeros((20_000, 2), dtype=int), np.ones((20_000, 2), dtype=int), np.random.default_rng(0)
    )
    for pair in ([0, 0], [0, 1], [1, 0], [1, 1]):
        assert np.mean(np.all(children == pair, axis=1)) == pytest.approx(0.25, abs=0.02)
