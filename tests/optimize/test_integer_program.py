"""The integer program against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evo_mpq.optimize.programs.exchange import exchanged
from evo_mpq.optimize.programs.integer import LimitReached, integer_program, integer_programs
from evo_mpq.predict.factored import Factor, FactoredFunction
from evo_mpq.space.building import SpaceGroup, SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace

SEEDS = range(5)


def bits_space(n_layers: int, bits: tuple[int, ...] = (2, 3, 4, 8)) -> SearchSpace:
    return build_space([SpaceLayer(f"layers.{i}") for i in range(n_layers)], defaults={"weight_bits": list(bits)})


def random_function(
    space: SearchSpace, scopes: list[tuple[int, ...]], rng: np.random.Generator, *, integers: bool = False
) -> FactoredFunction:
    shapes = [tuple(space.cardinalities[list(scope)]) for scope in scopes]
    tables = [rng.integers(0, 50, shape).astype(float) if integers else rng.normal(size=shape) for shape in shapes]
    return FactoredFunction(tuple(Factor(*each) for each in zip(scopes, tables, strict=True)))


def random_problem(seed: int, n_layers: int = 6) -> tuple[SearchSpace, FactoredFunction, FactoredFunction]:
    """4,096 genomes, all pairs in the loss, and a cost of up to three genes a factor."""
    rng = np.random.default_rng(seed)
    space = bits_space(n_layers)
    singles = [(gene,) for gene in range(n_layers)]
    pairs = list(itertools.combinations(range(n_layers), 2))
    loss = random_function(space, [(), *singles, *pairs], rng)
    cost = random_function(space, [(), *singles, (0, 1), (1, 2, 3), (2, 3), (2, 3)], rng, integers=True)
    return space, loss, cost


def everything(space: SearchSpace) -> np.ndarray:
    return np.concatenate(list(space.enumerate()))


@pytest.mark.parametrize("seed", SEEDS)
def test_program_equals_brute_force_at_every_budget(seed: int) -> None:
    space, loss, cost = random_problem(seed)
    genomes = everything(space)
    losses, costs = loss(genomes), cost(genomes)
    budgets = np.quantile(costs, [0, 0.001, 0.1, 1])
    found = integer_programs(space, loss, cost, budgets)
    assert np.all(cost(found) <= budgets)
    best = [losses[costs <= budget].min() for budget in budgets]
    assert loss(found) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_small_losses_count_beside_ones_that_are_a_million_times_larger(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = bits_space(6)
    tables = rng.uniform(0.5, 2, (6, 4)) * np.array([10, 1e-1, 1e-3, 1e-5])
    loss = FactoredFunction(tuple(Factor((gene,), table) for gene, table in enumerate(tables)))
    cost = random_function(space, [(gene,) for gene in range(6)], rng, integers=True)
    genomes = everything(space)
    losses, costs = loss(genomes), cost(genomes)
    budget = float(np.median(costs))
    found = integer_program(space, loss, cost, budget)
    assert loss(found[None])[0] == pytest.approx(losses[costs <= budget].min(), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_unit_of_losses_changes_nothing(scale: float) -> None:
    space, loss, cost = random_problem(0, 4)
    scaled = FactoredFunction(tuple(Factor(factor.genes, scale * factor.table) for factor in loss.factors))
    budgets = np.quantile(cost(everything(space)), [0.01, 0.1, 0.5])
    before = integer_programs(space, loss, cost, budgets)
    assert np.array_equal(integer_programs(space, scaled, cost, budgets), before)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_unit_of_costs_changes_nothing(scale: float) -> None:
    space, loss, cost = random_problem(1, 4)
    scaled = FactoredFunction(tuple(Factor(factor.genes, scale * factor.table) for factor in cost.factors))
    genomes = everything(space)
    budgets = np.quantile(cost(genomes), [0.01, 0.1, 0.5])
    before = integer_programs(space, loss, cost, budgets)
    assert np.array_equal(integer_programs(space, loss, scaled, scale * budgets * (1 + 1e-12)), before)


def test_a_cost_of_a_hair_above_the_budget_is_too_much() -> None:
    space = bits_space(3, (2, 4))
    loss = FactoredFunction(tuple(Factor((gene,), np.array([1.0 + gene, 0.0])) for gene in range(3)))
    cost = FactoredFunction(tuple(Factor((gene,), np.array([1.0, 2.0 + 1e-8 * gene])) for gene in range(3)))
    assert integer_program(space, loss, cost, 4.0).tolist() == [1, 0, 0]
    assert integer_program(space, loss, cost, 4.0 + 2e-8).tolist() == [0, 0, 1]


def test_joint_spaces_are_solved_exactly_in_canonical_genomes() -> None:
    layers = [SpaceLayer(name) for name in ("stem", "a.conv1", "a.conv2", "head")]
    groups = [SpaceGroup(8, ("stem", "a.conv2")), SpaceGroup(6, ("a.conv1",))]
    space = build_space(
        layers,
        groups=groups,
        blocks={"a": ("a.conv1", "a.conv2")},
        defaults={"weight_bits": [2, 3, 4]},
        prune={"ratios": [0.0, 0.5]},
        drop=["a"],
    )
    rng = np.random.default_rng(0)
    scopes = [tuple(sorted({gene, *space.homes[gene]})) for gene in range(space.n_genes)]
    loss, cost = (random_function(space, scopes, rng, integers=integers) for integers in (False, True))
    for function in (loss, cost):  # nothing depends on what a dropped block decides
        for gene, factor in enumerate(function.factors):
            if len(factor.genes) > 1:
                factor.table[tuple(slice(None) if member == gene else 0 for member in factor.genes)] = 0.0
    genomes = everything(space)
    losses, costs = loss(genomes), cost(genomes)
    for budget in np.quantile(costs, [0.0, 0.01, 0.2, 0.6]):
        found = integer_program(space, loss, cost, budget)
        assert space.legal(found[None]).all()
        assert cost(found[None])[0] <= budget
        assert loss(found[None])[0] == pytest.approx(losses[costs <= budget].min())


def test_an_infeasible_budget_is_told_with_the_lowest_cost() -> None:
    space, loss, cost = random_problem(2, 4)
    lowest = cost(everything(space)).min()
    with pytest.raises(ValueError, match=f"the cheapest costs {lowest:.10g}$"):
        integer_program(space, loss, cost, lowest - 1)
    assert cost(integer_program(space, loss, cost, lowest)[None])[0] == lowest


def test_no_node_is_an_error_of_its_own() -> None:
    space, loss, cost = random_problem(3, 4)
    budget = float(np.quantile(cost(everything(space)), 0.01))
    with pytest.raises(LimitReached, match="found no genome"):
        integer_program(space, loss, cost, budget, nodes=0)


def test_what_is_found_at_the_limit_is_returned() -> None:
    rng = np.random.default_rng(0)
    space = bits_space(8)
    loss = random_function(space, list(itertools.combinations(range(8), 2)), rng)
    cost = random_function(space, [(gene,) for gene in range(8)], rng, integers=True)
    found = integer_program(space, loss, cost, 150.0, nodes=1)
    assert cost(found[None])[0] <= 150.0


def test_the_program_alters_none_of_its_arguments() -> None:
    space, loss, cost = random_problem(4, 4)
    before = [factor.table.copy() for factor in (*loss.factors, *cost.factors)]
    integer_program(space, loss, cost, float(np.median(cost(everything(space)))))
    after = [factor.table for factor in (*loss.factors, *cost.factors)]
    assert all(np.array_equal(*each) for each in zip(before, after, strict=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_exchange_of_two_genes_is_better_than_what_exchanging_ends_at(seed: int) -> None:
    space, loss, cost = random_problem(seed, 4)
    genomes = everything(space)
    losses, costs = loss(genomes), cost(genomes)
    start = genomes[np.argmin(costs)]
    budget = float(np.median(costs))
    found = exchanged(space, loss, cost, budget, start)
    assert cost(found[None])[0] <= budget
    assert loss(found[None])[0] < loss(start[None])[0]
    near = (np.sum(genomes != found, axis=1) <= 2) & (costs <= budget)
    assert loss(found[None])[0] == losses[near].min()


def test_the_best_genome_is_left_as_it_is() -> None:
    space, loss, cost = random_problem(0, 4)
    budget = float(np.median(cost(everything(space))))
    best = integer_program(space, loss, cost, budget)
    assert np.array_equal(exchanged(space, loss, cost, budget, best), best)
