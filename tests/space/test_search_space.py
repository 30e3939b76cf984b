from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.genes import Gene
from evo_mpq.space.policy import LayerPolicy, Policy
from evo_mpq.space.search_space import SearchSpace

BITS = (2, 3, 4, 5, 6, 7, 8, 32)


@st.composite
def spaces(draw: st.DrawFn, max_layers: int = 4) -> SearchSpace:
    """Small spaces with fixed layers, ties and embeddings; at least one gene."""
    options = st.lists(st.sampled_from(BITS), min_size=1, max_size=3, unique=True)
    n = draw(st.integers(1, max_layers))
    layers = [SpaceLayer(f"stage{i % 2}.{i}", draw(st.booleans())) for i in range(n)]
    rules = {
        layer.name: {"weight_bits": draw(options)}
        | ({"activation_bits": draw(options)} if layer.quantizes_input else {})
        for layer in layers
    }
    rules[layers[0].name]["weight_bits"] = [2, draw(st.sampled_from(BITS[1:]))]
    tie = []
    if draw(st.booleans()):
        tied = {"weight_bits": rules[layers[0].name]["weight_bits"], "activation_bits": draw(options)}
        for layer in layers:
            if layer.name.startswith("stage0"):
                rules[layer.name] = {
                    kind: tied[kind] for kind in tied if layer.quantizes_input or kind == "weight_bits"
                }
        tie = ["stage0.*"]
    return build_space(layers, layer_rules=rules, tie=tie)


def chain(n: int, bits: tuple[int, ...] = (2, 4, 8)) -> SearchSpace:
    return build_space([SpaceLayer(f"layer{i}") for i in range(n)], defaults={"weight_bits": list(bits)})


@given(spaces(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_encode_inverts_decode_and_decode_inverts_encode(space: SearchSpace, seed: int) -> None:
    genomes = space.sample(5, np.random.default_rng(seed))
    policies = space.decode(genomes)
    assert np.array_equal(space.encode(policies), genomes)
    assert space.decode(space.encode(policies)) == policies


@given(spaces(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_a_decoded_policy_has_the_value_of_each_gene_in_each_of_its_layers(space: SearchSpace, seed: int) -> None:
    (genome,) = space.sample(1, np.random.default_rng(seed))
    (policy,) = space.decode(genome[None])
    governed = set()
    for gene, index in zip(space.genes, genome, strict=True):
        for name in gene.layers:
            assert getattr(policy.layers[name], gene.kind) == gene.values[index]
            governed.add((name, gene.kind))
    assert tuple(policy.layers) == space.layers
    for name in space.layers:
        for kind in ("weight_bits", "activation_bits"):
            if (name, kind) not in governed:
                assert getattr(policy.layers[name], kind) == getattr(space.fixed[name], kind)


@given(spaces(), st.integers(1, 50))
@settings(deadline=None)
def test_enumeration_gives_every_genome_once_in_lexicographic_order(space: SearchSpace, chunk: int) -> None:
    chunks = list(space.enumerate(chunk))
    genomes = np.concatenate(chunks)
    oracle = list(itertools.product(*(range(gene.cardinality) for gene in space.genes)))
    assert [tuple(row) for row in genomes.tolist()] == oracle
    assert len(genomes) == space.n_genomes
    assert space.log10_genomes == pytest.approx(np.log10(space.n_genomes))
    assert all(len(rows) <= chunk for rows in chunks)
    assert len(set(space.decode(genomes))) == space.n_genomes


def test_spaces_beyond_64_bits_are_counted_and_enumerated_exactly() -> None:
    space = chain(60, (2, 3, 4, 5, 6, 7, 8))
    assert space.n_genomes == 7**60
    first = next(space.enumerate(8))
    assert first[-1].tolist() == [0] * 58 + [1, 0]
    last = space._vectors(7**60 - 1, 1)
    assert last[0].tolist() == [6] * 60


@given(spaces(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_samples_are_legal_and_canonical_form_is_idempotent(space: SearchSpace, seed: int) -> None:
    genomes = space.sample(7, np.random.default_rng(seed))
    once = space.canonical(genomes)
    assert space.legal(genomes).all()
    assert np.array_equal(space.canonical(once), once)
    assert space.decode(once) == space.decode(genomes)


def test_sampling_reaches_every_value_of_every_gene_equally_often() -> None:
    space = chain(3)
    genomes = space.sample(6000, np.random.default_rng(0))
    for column in genomes.T:
        assert np.bincount(column, minlength=3) == pytest.approx(2000, abs=150)


def test_what_is_outside_a_genes_values_is_neither_legal_nor_decoded() -> None:
    space = chain(2)
    assert space.legal(np.array([[0, 2], [0, 3], [-1, 0]])).tolist() == [True, False, False]
    with pytest.raises(ValueError, match=r"row 1 has index 3 for gene 'layer1.weight_bits'.*\(2, 4, 8\)"):
        space.decode(np.array([[0, 0], [0, 3]]))
    wrongs: list[Any] = [np.zeros((1, 3), dtype=int), np.zeros(2, dtype=int), np.zeros((1, 2))]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
            space.decode(wrong)


@given(spaces(), st.integers(2, 32), st.integers(2, 32))
@settings(deadline=None)
def test_no_legal_value_is_nearer_than_the_nearest_and_ties_go_to_more_bits(
    space: SearchSpace, weight_bits: int, activation_bits: int
) -> None:
    genome = space.nearest(weight_bits, activation_bits)
    for gene, index in zip(space.genes, genome, strict=True):
        target = weight_bits if gene.kind == "weight_bits" else activation_bits
        chosen = gene.values[index]
        for value in gene.values:
            assert abs(value - target) > abs(chosen - target) or value <= chosen


@given(spaces(), st.integers(2, 31))
@settings(deadline=None)
def test_asking_for_more_bits_never_gives_fewer(space: SearchSpace, bits: int) -> None:
    assert np.all(space.nearest(bits + 1, bits + 1) >= space.nearest(bits, bits))


@given(spaces())
@settings(deadline=None)
def test_the_cheapest_and_the_most_expensive_genome_enclose_all(space: SearchSpace) -> None:
    genomes = np.concatenate(list(space.enumerate()))
    assert np.array_equal(space.cheapest(), genomes.min(axis=0))
    assert np.array_equal(space.most_expensive(), genomes.max(axis=0))


def test_steps_are_the_values_that_occur_anywhere() -> None:
    space = build_space(
        [SpaceLayer("a"), SpaceLayer("b"), SpaceLayer("c")],
        layer_rules={"a": {"weight_bits": [8, 2]}, "b": {"weight_bits": [3, 2]}, "c": {"weight_bits": 6}},
    )
    assert space.steps("weight_bits") == (2, 3, 8)
    assert space.steps("activation_bits") == ()


def test_a_policy_that_is_not_in_the_space_is_refused_with_its_layer_and_legal_values() -> None:
    space = build_space(
        [SpaceLayer("a"), SpaceLayer("b"), SpaceLayer("c")],
        defaults={"weight_bits": [2, 4]},
        layer_rules={"c": {"weight_bits": 8}},
        tie=["[ab]"],
    )

    def policy(a: LayerPolicy, b: LayerPolicy, c: LayerPolicy) -> list[Policy]:
        return [Policy({"a": a, "b": b, "c": c})]

    two, three, four, eight = (LayerPolicy(bits) for bits in (2, 3, 4, 8))
    assert space.encode(policy(two, two, eight)).tolist() == [[0]]
    with pytest.raises(ValueError, match=r"'b' has weight_bits 3.*legal: 2, 4"):
        space.encode(policy(two, three, eight))
    with pytest.raises(ValueError, match=r"'c' has weight_bits 4.*legal: 8"):
        space.encode(policy(two, two, four))
    with pytest.raises(ValueError, match=r"'c' has activation_bits 4.*legal: 32"):
        space.encode(policy(two, two, LayerPolicy(8, 4)))
    with pytest.raises(ValueError, match=r"'a', 'b' share one choice.*weight_bits"):
        space.encode(policy(two, four, eight))
    with pytest.raises(ValueError, match="'c'"):
        space.encode([Policy({"a": two, "b": two})])


def test_a_genomes_name_depends_on_its_values_only() -> None:
    space = chain(3)
    names = {space.genome_id(genome) for genome in np.concatenate(list(space.enumerate()))}
    assert len(names) == 27
    assert all(len(name) == 8 and int(name, 16) >= 0 for name in names)
    assert space.genome_id(np.array([1, 2, 0], dtype=np.int32)) == space.genome_id([1, 2, 0])


def test_a_space_equals_by_content_and_travels_to_other_processes() -> None:
    space = chain(3)
    twin = pickle.loads(pickle.dumps(space))
    assert twin == space
    assert hash(twin) == hash(space)
    assert chain(4) != space


def test_nothing_alters_the_genomes_it_is_given() -> None:
    space = chain(3)
    genomes = np.array([[0, 1, 2]])
    genomes.flags.writeable = False
    space.canonical(genomes)[0, 0] = 2
    space.decode(genomes)
    space.legal(genomes)
    assert genomes.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("values", "message"),
    [((4,), "at least two"), ((4, 4), "repeats"), ((8, 4), "ascend"), (tuple(range(2**15 + 1)), "at most 32768")],
)
def test_a_gene_is_an_ordered_choice(values: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gene("a.weight_bits", values, "weight_bits", ("a",))


def test_a_space_refuses_genes_that_contradict_each_other() -> None:
    gene = Gene("a.weight_bits", (2, 4), "weight_bits", ("a",))
    with pytest.raises(ValueError, match="two genes set the weight_bits of layer 'a'"):
        SearchSpace(["a"], [gene, Gene("b.weight_bits", (2, 4), "weight_bits", ("a",))])
    with pytest.raises(ValueError, match="'a' is none of the layers"):
        SearchSpace(["b"], [gene])
    with pytest.raises(ValueError, match="different names"):
        SearchSpace(["a", "a"], [gene])
