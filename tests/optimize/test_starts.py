from __future__ import annotations

import numpy as np
import pytest

from evo_mpq.optimize.searcher import SeenGenomes
from evo_mpq.optimize.starts import cost_spread, uniform_ladder
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace


def chain(n: int, **defaults: object) -> SearchSpace:
    return build_space([SpaceLayer(f"layer{i}") for i in range(n)], defaults=defaults)


SPACES = {
    "weights": chain(5, weight_bits=[2, 3, 4, 8]),
    "activations": chain(5, activation_bits=[4, 8]),
    "both": chain(5, weight_bits=[2, 4, 8], activation_bits=[4, 8]),
    "many": chain(5, weight_bits=[2, 3, 4, 5, 6, 7, 8], activation_bits=[2, 3, 4, 5, 6, 7, 8, 32]),
    "mixed": build_space(
        [SpaceLayer("a"), SpaceLayer("b"), SpaceLayer("c", quantizes_input=False)],
        defaults={"weight_bits": [2, 3, 4], "activation_bits": [8, 32]},
        layer_rules={"a": {"weight_bits": [8, 32]}},
    ),
}


@pytest.mark.parametrize("name", SPACES)
def test_ladder_genomes_are_legal_and_different_and_so_are_their_names(name: str) -> None:
    space = SPACES[name]
    names, genomes = zip(*uniform_ladder(space), strict=True)
    assert space.legal(np.array(genomes)).all()
    assert len(set(names)) == len(names)
    assert len({genome.tobytes() for genome in genomes}) == len(genomes)


@pytest.mark.parametrize("name", ["weights", "activations", "both"])
def test_a_rung_does_what_its_name_says_to_every_layer(name: str) -> None:
    space = SPACES[name]
    for rung, genome in uniform_ladder(space):
        (policy,) = space.decode(genome[None])
        for layer in policy.layers.values():
            said = (f"W{layer.weight_bits}" if layer.weight_bits < 32 else "") + (
                f"A{layer.activation_bits}" if layer.activation_bits < 32 else ""
            )
            assert said == rung


def test_a_few_steps_are_crossed_and_many_give_two_rails() -> None:
    assert [name for name, _ in uniform_ladder(SPACES["both"])] == [*("W2A4", "W2A8", "W4A4", "W4A8", "W8A4", "W8A8")]
    assert {name for name, _ in uniform_ladder(SPACES["many"])} == {
        *(f"W{bits}A{bits}" for bits in range(2, 9)),
        *(f"W{bits}A32" for bits in range(2, 9)),
    }


def test_rungs_with_the_same_genome_are_named_by_the_first() -> None:
    space = build_space(
        [SpaceLayer("a"), SpaceLayer("b")],
        layer_rules={"a": {"weight_bits": [2, 4]}, "b": {"weight_bits": [2, 3, 4, 5]}},
    )
    ladder = uniform_ladder(space)
    assert [name for name, _ in ladder] == ["W2", "W3", "W4", "W5"]
    narrow = build_space([SpaceLayer("a")], layer_rules={"a": {"weight_bits": [2, 4], "activation_bits": 8}})
    assert [name for name, _ in uniform_ladder(narrow)] == ["W2", "W4"]


@pytest.mark.parametrize("seed", range(5))
def test_a_spread_population_is_distinct_and_covers_the_range_of_cost(seed: int) -> None:
    space = chain(40, weight_bits=[2, 3, 4, 6, 8])
    rng = np.random.default_rng(seed)
    genomes = cost_spread(space, 40, rng)
    assert space.legal(genomes).all()
    assert len(np.unique(genomes, axis=0)) == len(genomes) == 40
    cost, random_cost = genomes.mean(axis=1), space.sample(40, rng).mean(axis=1)
    assert np.ptp(cost) > 3.3
    assert np.ptp(cost) > 2 * np.ptp(random_cost)
    assert np.ptp(cost[:15]) > 2


@pytest.mark.parametrize("n", [1, 7, 8, 9, 100])
def test_a_small_space_is_spread_to_its_last_genome(n: int) -> None:
    space = chain(3, weight_bits=[2, 4])
    genomes = cost_spread(space, n, np.random.default_rng(0))
    assert len(genomes) == len(np.unique(genomes, axis=0)) == min(n, 8)


def test_a_spread_leaves_out_what_was_seen() -> None:
    space = chain(3, weight_bits=[2, 4])
    seen = SeenGenomes()
    seen.add(np.array([[0, 0, 0], [1, 1, 1]]))
    genomes = cost_spread(space, 100, np.random.default_rng(0), seen)
    assert len(genomes) == 6
    assert len(seen) == 2
    assert {0, 3}.isdisjoint(genomes.sum(axis=1))
