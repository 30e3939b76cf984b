"""Allocation methods that need no network: what each promises, on synthetic tables."""

from __future__ import annotations

import numpy as np
import pytest
from allocation_problems import Allocation, Meter, bits_allocation, residual_allocation, spaced_budgets, tables_of

from evo_mpq.optimize.seeders.seeder import Seeder
from evo_mpq.optimize.seeders.sensitivity import sensitivity
from evo_mpq.optimize.seeders.spdy import spdy
from evo_mpq.optimize.seeders.uniform import uniform
from evo_mpq.optimize.seeders.waterfill import allocation_gain, waterfill
from evo_mpq.optimize.starts import uniform_ladder
from evo_mpq.predict.factored import Factor, FactoredFunction
from evo_mpq.predict.tables.options import Estimates, OptionTable, additive
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


def short_spdy(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """With fewer proposals, each of which solves a program."""
    return spdy(space, tables, budgets, n_random=3, n_local=4)


SEEDERS: list[Seeder] = [uniform, sensitivity, waterfill, short_spdy]

SEEDS = range(5)


def allocations(seed: int) -> list[Allocation]:
    return [
        bits_allocation(6, bits=(2, 3, 4, 8), seed=seed),
        residual_allocation((2,), bits=(2, 8), ratios=(0.0, 0.5), seed=seed),
    ]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("seeder", SEEDERS, ids=lambda seeder: seeder.__name__)
def test_every_choice_is_canonical_and_within_its_budget(seeder: Seeder, seed: int) -> None:
    for allocation in allocations(seed):
        budgets = spaced_budgets(allocation, 9)
        genomes = seeder(allocation.space, tables_of(allocation), budgets)
        assert genomes.shape == (9, allocation.space.n_genes)
        assert allocation.space.legal(genomes).all()
        assert np.all(allocation.cost(genomes) <= budgets)


@pytest.mark.parametrize("seeder", SEEDERS, ids=lambda seeder: seeder.__name__)
def test_the_same_tables_give_the_same_choices(seeder: Seeder) -> None:
    for allocation in allocations(0):
        budgets = spaced_budgets(allocation, 4)
        first, second = (seeder(allocation.space, tables_of(allocation, seed=3), budgets) for _ in range(2))
        assert np.array_equal(first, second)


@pytest.mark.parametrize("seeder", SEEDERS, ids=lambda seeder: seeder.__name__)
def test_the_whole_budget_buys_the_most_expensive_genome(seeder: Seeder) -> None:
    for allocation in allocations(1):
        budget = spaced_budgets(allocation, 2)[1:]
        assert seeder(allocation.space, tables_of(allocation), budget).tolist() == [
            allocation.space.most_expensive().tolist()
        ]


@pytest.mark.parametrize("seeder", SEEDERS, ids=lambda seeder: seeder.__name__)
def test_no_budgets_give_no_genomes(seeder: Seeder) -> None:
    allocation = bits_allocation(3)
    assert seeder(allocation.space, tables_of(allocation), np.array([])).shape == (0, 3)


# uniform


def test_uniform_is_the_most_expensive_recipe_that_fits() -> None:
    allocation = residual_allocation((2,), bits=(2, 4, 8), ratios=(0.0, 0.5))
    ladder = np.array([genome for _, genome in uniform_ladder(allocation.space)])
    costs = allocation.cost(ladder)
    budgets = spaced_budgets(allocation, 30)
    chosen = uniform(allocation.space, tables_of(allocation), budgets)
    for genome, budget in zip(chosen, budgets, strict=True):
        if np.any(costs <= budget):
            assert genome.tolist() in ladder.tolist()
            assert allocation.cost(genome[None])[0] == costs[costs <= budget].max()
        else:
            assert np.array_equal(genome, allocation.space.cheapest())


def test_uniform_takes_the_higher_bits_of_recipes_that_cost_the_same() -> None:
    space = build_space([SpaceLayer("a"), SpaceLayer("b")], defaults={"weight_bits": [2, 4], "activation_bits": [4, 8]})
    weights = [index for index, gene in enumerate(space.genes) if gene.kind == "weight_bits"]
    cost = FactoredFunction(tuple(Factor((gene,), np.array([2.0, 4.0])) for gene in weights))
    chosen = uniform(space, tables_of(Allocation(space, cost, cost)), np.array([4.0, 8.0]))
    policies = space.decode(chosen)
    assert [(policy.layers["a"].weight_bits, policy.layers["b"].activation_bits) for policy in policies] == [
        (2, 8),
        (4, 8),
    ]


def test_uniform_measures_nothing() -> None:
    allocation = bits_allocation(4)
    meter = Meter(allocation)
    uniform(allocation.space, tables_of(allocation, meter), spaced_budgets(allocation, 5))
    assert not meter.measured


# sensitivity


@pytest.mark.parametrize("seed", SEEDS)
def test_sensitivity_is_the_lowest_additive_loss_within_each_budget(seed: int) -> None:
    allocation = residual_allocation((1, 1), bits=(2, 4), ratios=(0.0, 0.5), seed=seed)
    space, tables = allocation.space, tables_of(allocation)
    genomes = np.concatenate(list(space.enumerate()))
    predicted, costs = additive(space, tables.sensitivities)(genomes), allocation.cost(genomes)
    budgets = spaced_budgets(allocation, 9)
    chosen = sensitivity(space, tables, budgets)
    lowest = [predicted[costs <= budget].min() for budget in budgets]
    assert np.allclose(additive(space, tables.sensitivities)(chosen), lowest)


# waterfill


def exact_curves(harms: FloatVector, sizes: FloatVector, bits: tuple[int, ...]) -> Allocation:
    """Losses of exactly c * 4**-bits."""
    space = build_space([SpaceLayer(f"l{i}") for i in range(len(harms))], defaults={"weight_bits": list(bits)})
    steps = np.array(bits, dtype=float)
    loss = [Factor((i,), harm * 4.0**-steps) for i, harm in enumerate(harms)]
    cost = [Factor((i,), size * steps) for i, size in enumerate(sizes)]
    return Allocation(space, FactoredFunction(tuple(loss)), FactoredFunction(tuple(cost)))


def metered(allocation: Allocation) -> Tables:
    return tables_of(allocation, Meter(allocation, interaction=0.0))


@pytest.mark.parametrize("seed", SEEDS)
def test_waterfill_gives_each_layer_the_bits_of_the_closed_form_where_those_are_options(seed: int) -> None:
    # Harms per byte that are powers of 4 make all bits of the formula integers: R_i = mean + log4 of the ratio.
    rng = np.random.default_rng(seed)
    wanted = rng.integers(3, 8, 10)
    sizes = rng.integers(1, 50, 10).astype(float)
    allocation = exact_curves(sizes * 4.0**wanted, sizes, (2, 3, 4, 5, 6, 7, 8))
    budget = float(sizes @ wanted)
    [genome] = waterfill(allocation.space, metered(allocation), np.array([budget]))
    assert (genome + 2).tolist() == wanted.tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_waterfill_equals_brute_force_where_all_layers_cost_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    allocation = exact_curves(np.exp(2 * rng.normal(size=5)), np.full(5, 3.0), (2, 3, 4, 5, 6))
    genomes = np.concatenate(list(allocation.space.enumerate()))
    losses, costs = allocation.loss(genomes), allocation.cost(genomes)
    budgets = spaced_budgets(allocation, 12)
    chosen = waterfill(allocation.space, metered(allocation), budgets)
    assert np.allclose(allocation.loss(chosen), [losses[costs <= budget].min() for budget in budgets])


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_more_fits_what_waterfill_chose(seed: int) -> None:
    allocation = bits_allocation(10, seed=seed)
    budgets = spaced_budgets(allocation, 7)
    chosen = waterfill(allocation.space, metered(allocation), budgets)
    for genome, budget in zip(chosen, budgets, strict=True):
        for gene in np.flatnonzero(genome < allocation.space.cardinalities - 1):
            more = genome.copy()
            more[gene] += 1
            assert allocation.cost(more[None])[0] > budget


def test_waterfill_touches_channels_and_blocks_only_below_the_lowest_bits() -> None:
    allocation = residual_allocation((2,), bits=(2, 4, 8), ratios=(0.0, 0.5))
    space, top = allocation.space, allocation.space.most_expensive()
    weights = np.array([gene.kind == "weight_bits" for gene in space.genes])
    lowest_bits = allocation.cost(np.where(weights, 0, top)[None])[0]
    budgets = spaced_budgets(allocation, 20)
    chosen = waterfill(space, tables_of(allocation), budgets)
    enough = budgets >= lowest_bits
    assert enough.any() and not enough.all()
    assert np.all(chosen[enough][:, ~weights] == top[~weights])
    assert np.all(np.any(chosen[~enough][:, ~weights] < top[~weights], axis=1))


def test_waterfill_leaves_layers_that_lose_nothing_at_the_fewest_bits() -> None:
    allocation = exact_curves(np.array([0.0, 1.0, 1.0]), np.ones(3), (2, 4, 8))
    assert waterfill(allocation.space, metered(allocation), np.array([10.0])).tolist() == [[0, 1, 1]]


def test_the_gain_of_mixed_bits_is_what_the_closed_form_gains() -> None:
    # At equal cost: real bits R + log4(c / s) - (mean of that by size) against R for all.
    rng = np.random.default_rng(0)
    harms, sizes = np.exp(rng.normal(size=8)), rng.integers(1, 20, 8).astype(float)
    logarithms = np.log2(harms / sizes) / 2
    bits = 5.0 + logarithms - np.average(logarithms, weights=sizes)
    assert sizes @ bits == pytest.approx(sizes.sum() * 5.0)
    expected = (harms * 4.0**-bits).sum() / (harms * 4.0**-5.0).sum()
    allocation = exact_curves(harms, sizes, (2, 3, 5, 8))
    assert allocation_gain(allocation.space, metered(allocation)) == pytest.approx(expected)
    assert 0 < expected < 1


def test_the_gain_is_one_where_all_layers_lose_the_same_per_byte() -> None:
    sizes = np.array([1.0, 5.0, 20.0])
    same = exact_curves(3.0 * sizes, sizes, (2, 4, 8))
    assert allocation_gain(same.space, metered(same)) == pytest.approx(1.0)
    nothing = exact_curves(0.0 * sizes, sizes, (2, 4, 8))
    assert allocation_gain(nothing.space, metered(nothing)) == 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gain_does_not_depend_on_units_or_on_the_order_of_layers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    harms, sizes = np.exp(rng.normal(size=6)), rng.integers(1, 20, 6).astype(float)
    gains = []
    for order, scale in ((np.arange(6), 1.0), (rng.permutation(6), 1000.0)):
        allocation = exact_curves(scale * harms[order], scale * sizes[order], (2, 4, 8))
        gains.append(allocation_gain(allocation.space, metered(allocation)))
    assert gains[0] == pytest.approx(gains[1])


# spdy


@pytest.mark.parametrize("seed", SEEDS)
def test_spdy_is_never_worse_than_sensitivity_at_its_middle_budget(seed: int) -> None:
    for allocation in allocations(seed):
        meter = Meter(allocation)
        budgets = spaced_budgets(allocation, 5)
        ours, plain = (
            seeder(allocation.space, tables_of(allocation, meter), budgets) for seeder in (short_spdy, sensitivity)
        )
        assert meter.losses(ours[2:3])[0] <= meter.losses(plain[2:3])[0]


def test_spdy_finds_better_choices_where_options_alone_mislead() -> None:
    ratios = []
    for seed in SEEDS:
        allocation = bits_allocation(8, bits=(2, 3, 4, 8), seed=seed)
        meter = Meter(allocation, interaction=10.0)
        budget = spaced_budgets(allocation, 5)[1:2]
        ours, plain = (seeder(allocation.space, tables_of(allocation, meter), budget) for seeder in (spdy, sensitivity))
        ratios.append(float(meter.losses(ours)[0] / meter.losses(plain)[0]))
    assert np.median(ratios) < 0.99, ratios


def test_spdy_measures_its_proposals_and_no_more_than_it_may() -> None:
    allocation = residual_allocation((2,), bits=(2, 4, 8), ratios=(0.0, 0.5))
    budgets = spaced_budgets(allocation, 3)
    for n_random, n_local in ((1, 0), (3, 2), (4, 9)):
        meter = Meter(allocation)
        tables = tables_of(allocation, meter)
        known = len(tables.sensitivities.losses) and meter.n_measured
        chosen = spdy(allocation.space, tables, budgets, n_random=n_random, n_local=n_local)
        assert sum(map(len, meter.measured[1:])) == n_random + n_local
        assert meter.n_measured <= known + n_random + n_local
        assert chosen[1].tolist() in np.concatenate(meter.measured[1:]).tolist()


@pytest.mark.parametrize("allowance", [0, 1, 5, 20])
def test_spdy_keeps_to_the_allowance_of_methods(allowance: int) -> None:
    allocation = bits_allocation(5)
    meter = Meter(allocation)
    tables = Tables(allocation.space, allocation.cost, meter, None, methods_allowance=allowance)  # type: ignore[arg-type]
    spdy(allocation.space, tables, spaced_budgets(allocation, 3))
    assert sum(map(len, meter.measured[1:])) == allowance


def test_spdy_survives_proposals_that_cannot_be_measured() -> None:
    allocation = bits_allocation(4)
    table = OptionTable.of([np.array([*range(5, -1, -1)], dtype=float)] * 4)

    def fails(genomes: Genomes) -> Estimates:
        return Estimates(np.full(len(genomes), np.nan), np.full(len(genomes), np.nan))

    tables = Tables(allocation.space, allocation.cost, fails, None)  # type: ignore[arg-type]
    tables.__dict__["sensitivities"] = table
    budgets = spaced_budgets(allocation, 3)
    assert np.all(allocation.cost(spdy(allocation.space, tables, budgets)) <= budgets)
