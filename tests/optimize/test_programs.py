"""The exact program against brute force, and what thinning may cost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from allocation_problems import Allocation, bits_allocation, residual_allocation
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_mpq.optimize.pareto import non_dominated
from evo_mpq.optimize.programs import elimination
from evo_mpq.optimize.programs.elimination import ProgramFront, TooWide, best_genomes, best_within, pareto_program
from evo_mpq.predict.factored import Factor, FactoredFunction
from evo_mpq.space.building import SpaceGroup, SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatMatrix


def joint_space(tied: bool = False) -> SearchSpace:
    """3,600 genomes: two blocks that may be left out on one stream of channels; the tie spans them."""
    layers = [SpaceLayer(name) for name in ("stem", "a.conv1", "a.conv2", "b.conv1", "b.conv2")]
    return build_space(
        layers,
        defaults={"weight_bits": [2, 4]},
        layer_rules={"stem": {"weight_bits": [2, 3, 4, 8]}},
        groups=[SpaceGroup(8, ("stem", "a.conv2", "b.conv2")), SpaceGroup(8, ("a.conv1",))],
        prune={"ratios": [0.0, 0.25, 0.5]},
        blocks={"a": ("a.conv1", "a.conv2"), "b": ("b.conv1", "b.conv2")},
        drop=["a", "b"],
        tie=["*.conv2"] if tied else [],
    )


def random_function(
    space: SearchSpace, scopes: Sequence[tuple[int, ...]], rng: np.random.Generator, *, integers: bool = False
) -> FactoredFunction:
    shapes = [tuple(space.cardinalities[list(scope)]) for scope in scopes]
    tables = [rng.integers(-9, 50, shape).astype(float) if integers else rng.normal(size=shape) for shape in shapes]
    return FactoredFunction(tuple(Factor(*each) for each in zip(scopes, tables, strict=True)))


def enumerated(allocation: Allocation) -> FloatMatrix:
    """``(n, 2)`` all non-dominated pairs of loss and cost, ascending in cost."""
    genomes = np.concatenate(list(allocation.space.enumerate()))
    points = np.stack([allocation.loss(genomes), allocation.cost(genomes)], axis=1)
    points = points[non_dominated(points)]
    return points[np.argsort(points[:, 1])]


def points_of(front: ProgramFront) -> FloatMatrix:
    return np.stack([front.losses, front.costs], axis=1)


def assert_front(allocation: Allocation, front: ProgramFront) -> None:
    """What holds of every front, exact or not."""
    assert allocation.space.legal(front.genomes).all()
    assert np.array_equal(front.losses, allocation.loss(front.genomes))
    assert np.array_equal(front.costs, allocation.cost(front.genomes))
    assert np.all(np.diff(front.costs) > 0)
    assert np.all(np.diff(front.losses) < 0)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_the_program_finds_all_trade_offs_of_random_factor_graphs(data: st.DataObject) -> None:
    bits = st.lists(st.sampled_from([2, 3, 4, 8]), min_size=2, max_size=4, unique=True)
    n = data.draw(st.integers(1, 6), "genes")
    rules = {f"l{i}": {"weight_bits": data.draw(bits)} for i in range(n)}
    space = build_space([SpaceLayer(name) for name in rules], layer_rules=rules)
    scope = st.lists(st.integers(0, n - 1), max_size=3, unique=True).map(lambda genes: tuple(sorted(genes)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
    loss = random_function(space, data.draw(st.lists(scope, max_size=8)), rng)
    cost = random_function(space, data.draw(st.lists(scope, max_size=8)), rng, integers=data.draw(st.booleans()))
    allocation = Allocation(space, loss, cost)
    front = pareto_program(*allocation)
    assert_front(allocation, front)
    # Pairs that differ by rounding may be one pair or two.
    expected = enumerated(allocation)
    for one, other in ((points_of(front), expected), (expected, points_of(front))):
        assert all(np.any(np.all(other <= point + 1e-9, axis=1)) for point in one)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tied", [False, True])
def test_the_program_finds_all_trade_offs_of_pruned_channels_and_dropped_blocks(tied: bool, seed: int) -> None:
    # Factors of random genes, homes or not: what inactive genes say there must not count.
    rng = np.random.default_rng(seed)
    space = joint_space(tied)
    assert space.n_genomes <= 4096
    scopes = [tuple(sorted(rng.choice(space.n_genes, rng.integers(1, 4), replace=False).tolist())) for _ in range(8)]
    scopes += [(gene,) for gene in range(space.n_genes)]
    allocation = Allocation(
        space, random_function(space, scopes, rng), random_function(space, scopes, rng, integers=True)
    )
    front = pareto_program(*allocation)
    assert_front(allocation, front)
    assert np.allclose(points_of(front), enumerated(allocation))


@pytest.mark.parametrize("seed", range(5))
def test_the_program_finds_all_trade_offs_of_residual_blocks(seed: int) -> None:
    allocation = residual_allocation((2,), bits=(2, 4), ratios=(0.0, 0.5), seed=seed)
    assert allocation.space.blocks
    front = pareto_program(*allocation)
    assert_front(allocation, front)
    assert np.allclose(points_of(front), enumerated(allocation))


def test_sums_that_pass_in_pieces_and_are_sifted_make_the_same_front(monkeypatch: pytest.MonkeyPatch) -> None:
    allocation = residual_allocation((2, 1))
    whole = pareto_program(*allocation)
    monkeypatch.setattr(elimination, "PIECE", 300)
    monkeypatch.setattr(elimination, "N_INTERVALS", 7)
    pieces = pareto_program(*allocation)
    assert np.array_equal(whole.costs, pieces.costs)
    assert np.allclose(whole.losses, pieces.losses)


@pytest.mark.parametrize("most_labels", [1, 20, 200])
@pytest.mark.parametrize("seed", range(5))
def test_thinning_costs_at_most_its_allowance(seed: int, most_labels: int) -> None:
    for allocation in (bits_allocation(12, seed=seed), residual_allocation((2, 1), seed=seed)):
        exact = pareto_program(*allocation)
        for thinning in (elimination.THINNING, 0.05):
            front = pareto_program(*allocation, most_labels=most_labels, thinning=thinning)
            assert_front(allocation, front)
            allowed = thinning * allocation.cost(allocation.space.most_expensive()[None])[0]
            as_good = np.searchsorted(-front.losses, -exact.losses - 1e-12)
            assert np.all(front.costs[as_good] <= exact.costs + allowed)
            assert front.costs[0] == exact.costs[0]
            assert front.losses[-1] == pytest.approx(exact.losses[-1], abs=1e-12)


def test_thinning_makes_sets_smaller() -> None:
    allocation = bits_allocation(20)
    exact = pareto_program(*allocation)
    thinned = pareto_program(*allocation, most_labels=100, thinning=0.05)
    assert len(thinned.costs) < len(exact.costs) / 2


def test_options_of_infinite_loss_are_never_chosen() -> None:
    space, loss, cost = bits_allocation(3, bits=(2, 4, 8))
    excluded = FactoredFunction((*loss.factors, Factor((1,), np.array([np.inf, 0.0, 0.0]))))
    front = pareto_program(space, excluded, cost)
    assert_front(Allocation(space, excluded, cost), front)
    assert np.all(front.genomes[:, 1] > 0)
    assert np.allclose(points_of(front), enumerated(Allocation(space, excluded, cost)))


def test_of_options_that_are_equal_the_most_expensive_one_is_taken() -> None:
    space, _, cost = bits_allocation(3, bits=(2, 4, 8))
    nothing = FactoredFunction(tuple(Factor(each.genes, 0.0 * each.table) for each in cost.factors))
    assert pareto_program(space, nothing, nothing).genomes.tolist() == [[2, 2, 2]]
    assert pareto_program(space, FactoredFunction(()), FactoredFunction(())).genomes.tolist() == [[2, 2, 2]]


def test_functions_and_their_tables_are_not_altered() -> None:
    allocation = residual_allocation((2,))
    before = [factor.table.copy() for function in allocation[1:] for factor in function.factors]
    pareto_program(*allocation)
    after = [factor.table for function in allocation[1:] for factor in function.factors]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def all_pairs(n: int) -> Allocation:
    space = bits_allocation(n).space
    pairs = list(itertools.combinations(range(n), 2))
    rng = np.random.default_rng(0)
    singles = [(gene,) for gene in range(n)]
    return Allocation(space, random_function(space, pairs, rng), random_function(space, singles, rng, integers=True))


def test_a_program_that_is_too_wide_is_refused_before_any_large_array_is_made() -> None:
    with pytest.raises(TooWide, match="depend on each other"):
        pareto_program(*all_pairs(30))
    with pytest.raises(TooWide, match="times"):
        pareto_program(*bits_allocation(8), most_cells=60)
    with pytest.raises(TooWide, match="one term"):
        pareto_program(*residual_allocation((2,)), most_cells=10)
    assert issubclass(TooWide, ValueError)


def test_where_the_program_is_too_wide_an_integer_program_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    allocation = all_pairs(4)
    costs = pareto_program(*allocation).costs
    budgets = np.linspace(costs[0], costs[-1], 4)
    expected = best_genomes(*allocation, budgets)
    assert np.array_equal(expected, best_within(pareto_program(*allocation), budgets))

    def refuses(*arguments: object, **keywords: object) -> ProgramFront:
        raise TooWide("for a test")

    monkeypatch.setattr(elimination, "pareto_program", refuses)
    assert np.allclose(allocation.loss(best_genomes(*allocation, budgets)), allocation.loss(expected))


def test_the_best_within_a_budget_is_the_best_genome_that_costs_no_more() -> None:
    allocation = residual_allocation((1, 1), bits=(2, 4), ratios=(0.0, 0.5))
    genomes = np.concatenate(list(allocation.space.enumerate()))
    losses, costs = allocation.loss(genomes), allocation.cost(genomes)
    front = pareto_program(*allocation)
    budgets = [*np.linspace(costs.min(), costs.max() + 5, 20), *front.costs[:3], np.inf]
    best = best_within(front, budgets)
    assert np.all(allocation.cost(best) <= budgets)
    assert np.allclose(allocation.loss(best), [losses[costs <= budget].min() for budget in budgets])


def test_a_budget_below_the_lowest_cost_is_refused_with_that_cost() -> None:
    allocation = bits_allocation(3)
    front = pareto_program(*allocation)
    with pytest.raises(ValueError, match=f"no genome costs 17 or less; the cheapest costs {front.costs[0]:.10g}"):
        best_within(front, [front.costs[0], 17.0])
    assert best_within(front, []).shape == (0, 3)


def test_sixty_layers_and_channels_shared_by_eight_are_no_matter() -> None:
    for allocation in (bits_allocation(60), residual_allocation((4, 2))):
        assert_front(allocation, pareto_program(*allocation))
