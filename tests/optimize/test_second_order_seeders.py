"""Allocation methods that judge weights by gradients and similarities, without measuring anything."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import networks
import numpy as np
import pytest

from evo_mpq.costs import layer_scopes
from evo_mpq.optimize.programs.elimination import pareto_program
from evo_mpq.optimize.seeders import fima, fisher, hawq, mpqco, ompq, scores
from evo_mpq.optimize.seeders.scores import allocated, normalized_table
from evo_mpq.optimize.seeders.seeder import Seeder
from evo_mpq.predict.factored import Factor, FactoredFunction, decomposed
from evo_mpq.predict.statistics.perturbations import option_forms
from evo_mpq.predict.tables.options import Estimates, OptionTable, additive
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.problem import Problem
from evo_mpq.space.building import SpaceGroup, SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

SEEDERS: dict[str, Seeder] = {
    "hawq": hawq.hawq,
    "fisher": fisher.fisher,
    "mpqco": mpqco.mpqco,
    "mpqco_greedy": mpqco.mpqco_greedy,
    "ompq": ompq.ompq,
    "fima": fima.fima,
}
BITS = (2, 4, 8)


def refuse(genomes: Genomes) -> Estimates:
    raise AssertionError(f"{len(genomes)} genomes would be measured")


@cache
def tables() -> Tables:
    """Bits of weights and activations, channels and blocks of a network that was hardly trained."""
    network, compressor = networks.network_of("digits_resnet"), networks.compressor_of("digits_resnet")
    space = build_space(
        [SpaceLayer(layer.name) for layer in network.layers],
        defaults={"weight_bits": [*BITS], "activation_bits": [4, 8]},
        groups=[
            SpaceGroup(group.n_channels, tuple(group.rows), tuple(group.columns)) for group in network.prune_groups
        ],
        prune={"ratios": [0.0, 0.5]},
        blocks={name: block.layers for name, block in compressor.blocks.items()},
        drop=[*compressor.blocks],
    )

    def bytes_of(genomes: Genomes) -> FloatVector:
        return np.array([float(compressor.packed_bytes(policy, as_candidate=True)) for policy in space.decode(genomes)])

    scopes = layer_scopes(cast(Problem, SimpleNamespace(space=space, network=network)))
    cost = decomposed(space, bytes_of, scopes, np.random.default_rng(0))
    return Tables(space, cost, refuse, compressor)


def budgets(n: int = 12) -> FloatVector:
    space = tables().space
    lowest, highest = tables().cost(np.stack([space.cheapest(), space.most_expensive()]))
    found: FloatVector = np.linspace(lowest, highest, n)
    return found


@pytest.mark.parametrize("name", SEEDERS)
def test_every_budget_is_met_by_a_legal_genome_without_measuring(name: str) -> None:
    space = tables().space
    found = SEEDERS[name](space, tables(), budgets())
    assert found.shape == (12, space.n_genes)
    assert space.legal(found).all()
    assert np.all(tables().cost(found) <= budgets())
    assert len(np.unique(found, axis=0)) > 6
    assert tables().cost(found[:1])[0] == budgets()[0]
    assert np.array_equal(found[-1], space.most_expensive())


# the greedy way down may take a step too many
@pytest.mark.parametrize("name", [name for name in SEEDERS if name != "mpqco_greedy"])
def test_what_a_method_says_nothing_of_stays_until_weights_alone_cannot_meet_a_budget(name: str) -> None:
    space = tables().space
    kinds = np.array([gene.kind for gene in space.genes])
    unjudged = np.isin(
        kinds, ["drop", "activation_bits"] if name != "ompq" else ["drop", "activation_bits", "prune_ratio"]
    )
    lowest = space.most_expensive()
    lowest[~unjudged] = 0
    reachable = budgets()[budgets() >= tables().cost(lowest[None])[0]]
    assert 0 < len(reachable) < 12
    found = SEEDERS[name](space, tables(), reachable)
    assert np.all(found[:, unjudged] == space.most_expensive()[unjudged])


@pytest.mark.parametrize("name", SEEDERS)
def test_the_same_seed_gives_the_same_genomes(name: str) -> None:
    first, again = (SEEDERS[name](tables().space, tables(), budgets(4)) for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("name", ["hawq", "fisher", "mpqco", "fima"])
def test_tiny_scores_choose_what_large_ones_choose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = {"hawq": hawq, "fisher": fisher, "mpqco": mpqco, "fima": fima}[name]
    before = SEEDERS[name](tables().space, tables(), budgets())
    whole = scores.table_of_forms

    def shrunk(space: SearchSpace, forms: Any, values: dict[Any, float]) -> OptionTable:
        # a power of two, about 1e-9, so that nothing is rounded
        return whole(space, forms, {key: value * 2.0**-30 for key, value in values.items()})

    monkeypatch.setattr(module, "table_of_forms", shrunk)
    assert np.array_equal(SEEDERS[name](tables().space, tables(), budgets()), before)


def test_the_largest_entry_of_a_table_is_one_and_steps_without_scores_exceed_all_others() -> None:
    space = tables().space
    forms = option_forms(space, tables().compressor)
    rng = np.random.default_rng(0)
    values = {key: 1e-9 * rng.random() for key in ((n, f) for n, rows in forms.by_layer().items() for f in rows)}
    losses = forms.losses(values)
    table = normalized_table(space, losses)
    scored = [table.losses[gene] for gene in losses]
    assert max(np.abs(row).max() for row in scored) == pytest.approx(1)
    for gene, row in enumerate(table.losses):
        assert row[-1] == 0
        if gene not in losses:
            assert np.all(-np.diff(row) > sum(np.ptp(row) for row in scored))


def test_scores_of_zero_everywhere_are_a_table_too() -> None:
    space = bits_space()
    table = normalized_table(space, {gene: np.zeros(3) for gene in range(space.n_genes)})
    assert all(np.all(row == 0) for row in table.losses)


def bits_space(n_layers: int = 4) -> SearchSpace:
    return build_space([SpaceLayer(f"layers.{i}") for i in range(n_layers)], defaults={"weight_bits": [*BITS]})


def bits_cost(space: SearchSpace) -> FactoredFunction:
    return FactoredFunction(tuple(Factor((gene,), np.array(BITS, dtype=float)) for gene in range(space.n_genes)))


def tables_of_bits(space: SearchSpace) -> Tables:
    return Tables(space, bits_cost(space), refuse, cast(Any, None))


@pytest.mark.parametrize("seed", range(5))
def test_of_layers_that_cost_the_same_the_one_of_the_larger_score_gets_at_least_as_many_bits(seed: int) -> None:
    space = bits_space()
    importance = np.random.default_rng(seed).random(space.n_genes)
    losses = {gene: importance[gene] * np.array([0.1, 0.01, 0.0]) for gene in range(space.n_genes)}
    found = allocated(space, normalized_table(space, losses), tables_of_bits(space), np.arange(8.0, 33.0))
    ordered = found[:, np.argsort(importance)]
    assert np.all(np.diff(ordered, axis=1) >= 0)
    assert np.any(np.diff(ordered, axis=1) > 0)


Curve = Callable[[np.random.Generator], FloatVector]


def convex(rng: np.random.Generator) -> FloatVector:
    """Of 2, 4 and 8 bits: each further bit saves less."""
    return np.array([2.0 + rng.random(), 0.5 + rng.random() / 2, 0.0])


def hollow(rng: np.random.Generator) -> FloatVector:
    """The middle option is worse than a mixture of its neighbors."""
    return np.array([1.0 + rng.random(), 0.99, 0.0])


@pytest.mark.parametrize("losses", [convex, hollow])
@pytest.mark.parametrize("seed", range(5))
def test_the_greedy_way_down_passes_what_is_optimal_at_its_own_costs(seed: int, losses: Curve) -> None:
    space, rng = bits_space(), np.random.default_rng(seed)
    loss = additive(space, OptionTable.of([losses(rng) for _ in space.genes]))
    cost = bits_cost(space)
    wanted = np.arange(8.0, 33.0)
    found = mpqco.greedy(space, loss, cost, wanted)
    assert np.all(cost(found) <= wanted)
    front = pareto_program(space, loss, cost)
    best = dict(zip(front.costs, front.losses, strict=True))
    assert [best[spent] for spent in cost(found)] == pytest.approx(loss(found).tolist())


def test_a_budget_below_the_cheapest_genome_is_refused() -> None:
    space = bits_space()
    loss = additive(space, OptionTable.of([np.array([1.0, 0.5, 0.0])] * 4))
    with pytest.raises(ValueError, match="no step leads to a cost of 7"):
        mpqco.greedy(space, loss, bits_cost(space), np.array([7.0, 20.0]))


@pytest.mark.parametrize("name", SEEDERS)
def test_no_budgets_are_no_genomes(name: str) -> None:
    space = tables().space
    assert SEEDERS[name](space, tables(), np.array([])).shape == (0, space.n_genes)


def test_the_space_of_these_tests_holds_every_kind_of_gene() -> None:
    kinds = {gene.kind for gene in tables().space.genes}
    assert kinds == {"weight_bits", "activation_bits", "prune_ratio", "drop"}
