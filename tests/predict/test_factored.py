"""Sums of functions of few genes: taken apart by evaluating, and put together again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_mpq.predict.factored import Factor, FactoredFunction, NotASum, decomposed
from evo_mpq.predict.tables.options import OptionTable, additive, one_at_a_time_genomes
from evo_mpq.space.genes import Gene
from evo_mpq.space.search_space import SearchSpace


def joint_space() -> SearchSpace:
    """Three layers, the last two in a block that may be left out, with a prune gene shared by the first two."""
    return SearchSpace(
        ["a", "b", "c"],
        [
            Gene("a.prune_ratio", (0.5, 0.25, 0.0), "prune_ratio", ("a",)),
            Gene("a.weight_bits", (2, 4, 8), "weight_bits", ("a",)),
            Gene("block.drop", (True, False), "drop", ("b", "c")),
            Gene("b.weight_bits", (2, 4), "weight_bits", ("b",)),
            Gene("c.weight_bits", (2, 3, 4, 8), "weight_bits", ("c",)),
        ],
    )


def everything(space: SearchSpace) -> np.ndarray:
    return np.concatenate(list(space.enumerate()))


def random_sum(space: SearchSpace, scopes: list[tuple[int, ...]], seed: int) -> FactoredFunction:
    rng = np.random.default_rng(seed)
    return FactoredFunction(
        tuple(Factor(scope, rng.normal(size=[space.genes[g].cardinality for g in scope])) for scope in scopes)
    )


SCOPES = st.lists(st.sets(st.integers(0, 4), max_size=3).map(lambda genes: tuple(sorted(genes))), max_size=6)


@settings(deadline=None, max_examples=60)
@given(SCOPES, st.integers(0, 2**32 - 1))
def test_a_sum_is_found_again_from_its_values_alone(scopes, seed):
    space = joint_space()
    hidden = random_sum(space, scopes, seed)
    with_homes = [set(scope).union(*(space.homes[gene] for gene in scope)) for scope in scopes]
    found = decomposed(space, lambda rows: hidden(space.canonical(rows)), with_homes, np.random.default_rng(0))
    rows = everything(space)
    assert np.allclose(found(rows), hidden(rows))


def test_what_is_no_sum_over_the_scopes_is_refused():
    space = joint_space()
    product = random_sum(space, [(0, 1, 4)], 0)
    with pytest.raises(NotASum, match="no sum over layers"):
        decomposed(space, product, [(0, 1), (2, 4)], np.random.default_rng(0))


@settings(deadline=None, max_examples=40)
@given(SCOPES, st.integers(0, 2**32 - 1))
def test_merging_factors_changes_no_value_and_leaves_no_scope_within_another(scopes, seed):
    space = joint_space()
    function = random_sum(space, scopes, seed)
    merged = function.merged()
    assert np.allclose(merged(everything(space)), function(everything(space)))
    for factor in merged.factors:
        assert not any(set(factor.genes) < set(other.genes) for other in merged.factors)


def test_the_additive_model_counts_what_is_left_of_the_network_only():
    space = joint_space()
    rng = np.random.default_rng(0)
    rows = [np.append(rng.uniform(size=gene.cardinality - 1), 0.0) for gene in space.genes]
    model = additive(space, OptionTable.of(rows, base=0.5))
    genomes = everything(space)
    kept = genomes[:, 2] == 1
    by_hand = 0.5 + sum(rows[gene][genomes[:, gene]] * (kept if gene in (3, 4) else 1) for gene in range(space.n_genes))
    assert np.allclose(model(genomes), by_hand)


def test_the_additive_model_is_exact_one_option_at_a_time():
    space = joint_space()
    rng = np.random.default_rng(1)
    rows = [np.append(rng.uniform(size=gene.cardinality - 1), 0.0) for gene in space.genes]
    genomes = one_at_a_time_genomes(space)
    assert len(genomes) == 1 + sum(gene.cardinality - 1 for gene in space.genes)
    expected = np.concatenate([[0.0], *(row[:-1] for row in rows)])
    assert np.allclose(additive(space, OptionTable.of(rows))(genomes), expected)
