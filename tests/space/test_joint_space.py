"""Spaces with pruned channels and dropped blocks beside the bits."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_mpq.errors import ConfigError
from evo_mpq.space.building import SpaceGroup, SpaceLayer, build_space
from evo_mpq.space.genes import n_kept
from evo_mpq.space.policy import Policy
from evo_mpq.space.search_space import SearchSpace

LAYERS = [SpaceLayer(name) for name in ("stem", "a.conv1", "a.conv2", "b.conv1", "b.conv2", "head")]
BLOCKS: dict[str, tuple[str, ...] | str] = {
    "a": ("a.conv1", "a.conv2"),
    "b": ("b.conv1", "b.conv2"),
    "head": "its input and its output differ in shape.",
}
GROUPS = [
    SpaceGroup(8, ("stem", "a.conv2", "b.conv2")),
    SpaceGroup(6, ("a.conv1",)),
    SpaceGroup(6, ("b.conv1",)),
]
SIZES = {group.name: group.n_channels for group in GROUPS}


def joint(**said: Any) -> SearchSpace:
    return build_space(LAYERS, groups=GROUPS, blocks=BLOCKS, **said)


@st.composite
def joint_spaces(draw: st.DrawFn) -> SearchSpace:
    options = st.sampled_from([[2], [2, 4], [3, 4, 8]])
    tie = draw(st.sampled_from([[], ["*.conv1"], ["a.*"], ["*.conv?"], ["*.conv1", "*.conv2"]]))
    prune = {"ratios": draw(st.sampled_from([[0.0], [0.0, 0.5], [0.01, 0.25, 0.5]]))}
    drop = draw(st.sampled_from([["a"], ["a", "b"], ["?"]]))
    bits = {"weight_bits": draw(options), "activation_bits": draw(options)}
    if tie in (["a.*"], ["*.conv?"]):
        prune = {"ratios": [0.0]}  # those ties would join channels that are not pruned together
    return joint(defaults=bits, prune=prune, drop=drop, tie=tie)


def network_of(space: SearchSpace, policy: Policy) -> Hashable:
    """All that a policy does to a network, and nothing else."""
    dropped = {name for gene in space.genes if policy.architecture.get(gene.name) for name in gene.layers}
    ratios = {group.name: policy.layers[group.name].prune_ratio for group in GROUPS}
    return frozenset(
        (
            name,
            policy.layers[name].weight_bits,
            policy.layers[name].activation_bits,
            tuple(n_kept(SIZES[g.name], ratios[g.name]) for g in GROUPS if name in g.producers),
        )
        for name in space.layers
        if name not in dropped
    )


@settings(deadline=None, max_examples=60)
@given(joint_spaces())
def test_no_network_has_two_genomes_and_every_genome_is_counted(space: SearchSpace) -> None:
    if space.n_genomes > 60_000:
        return
    genomes = np.concatenate(list(space.enumerate()))
    assert len(genomes) == space.n_genomes
    networks = {network_of(space, policy) for policy in space.decode(genomes)}
    assert len(networks) == len(genomes)


@settings(deadline=None, max_examples=60)
@given(joint_spaces(), st.integers(0, 2**32 - 1))
def test_the_canonical_form_means_the_same_network(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(space.cardinalities, size=(20, space.n_genes))
    canonical = space.canonical(raw)
    assert np.array_equal(space.canonical(canonical), canonical)
    assert space.legal(canonical).all()
    for before, after in zip(space.decode(raw), space.decode(canonical), strict=True):
        assert network_of(space, before) == network_of(space, after)


@settings(deadline=None, max_examples=60)
@given(joint_spaces(), st.integers(0, 2**32 - 1))
def test_encode_inverts_decode(space: SearchSpace, seed: int) -> None:
    genomes = space.sample(20, np.random.default_rng(seed))
    policies = space.decode(genomes)
    assert np.array_equal(space.encode(policies), genomes)
    assert [Policy.from_json(policy.to_json()) for policy in policies] == policies


def test_large_spaces_with_ties_across_many_blocks_are_counted_exactly() -> None:
    # 24 blocks of two layers, whose second layers share one gene: sum over how many blocks remain.
    names = [f"blocks.{i}.fc{j}" for i in range(24) for j in (1, 2)]
    blocks: dict[str, tuple[str, ...] | str] = {
        f"blocks.{i}": (f"blocks.{i}.fc1", f"blocks.{i}.fc2") for i in range(24)
    }
    space = build_space(
        [SpaceLayer(name) for name in names],
        defaults={"weight_bits": [2, 3, 4]},
        blocks=blocks,
        drop=["blocks.*"],
        tie=["blocks.*.fc2"],
    )
    assert space.n_genomes == 1 + 3 * sum(_choose(24, kept) * 3**kept for kept in range(1, 25))


def _choose(n: int, k: int) -> int:
    return len(list(itertools.combinations(range(n), k))) if min(k, n - k) < 5 else _pascal(n, k)


def _pascal(n: int, k: int) -> int:
    row = [1]
    for _ in range(n):
        row = [1, *(left + right for left, right in itertools.pairwise(row)), 1]
    return row[k]


def test_genes_of_a_joint_space_are_named_and_ordered_by_the_network() -> None:
    space = joint(defaults={"weight_bits": [2, 4]}, prune={"ratios": [0.5, 0.0]}, drop=["?"])
    assert [gene.name for gene in space.genes] == [
        "stem.prune_ratio",
        "stem.weight_bits",
        "a.drop",
        "a.conv1.prune_ratio",
        "a.conv1.weight_bits",
        "a.conv2.weight_bits",
        "b.drop",
        "b.conv1.prune_ratio",
        "b.conv1.weight_bits",
        "b.conv2.weight_bits",
        "head.weight_bits",
    ]
    top, bottom = space.decode(np.stack([space.most_expensive(), space.cheapest()]))
    assert top == Policy.uniform(space.layers, 4, 32)
    assert dict(bottom.architecture) == {"a.drop": True, "b.drop": True}
    assert bottom.layers["b.conv2"].prune_ratio == 0.5  # pruned with the stem, though it is left out


def test_ratios_that_keep_the_same_number_of_channels_are_one_option() -> None:
    space = joint(prune={"ratios": [0.0, 0.02, 0.25, 0.3, 0.5]})
    assert {gene.name: gene.values for gene in space.genes} == {
        "stem.prune_ratio": (0.5, 0.25, 0.0),  # 8, 8, 6, 6 and 4 channels
        "a.conv1.prune_ratio": (0.5, 0.25, 0.0),  # 6, 6, 4, 4 and 3
        "b.conv1.prune_ratio": (0.5, 0.25, 0.0),
    }


def test_a_group_takes_the_ratios_of_the_last_pattern_that_matches_any_of_its_producers() -> None:
    space = joint(prune={"ratios": [0.0, 0.5], "layers": {"*.conv2": [0.0], "b.*": [0.25]}})
    assert [gene.name for gene in space.genes] == ["a.conv1.prune_ratio"]
    assert {name: space.fixed[name].prune_ratio for name in space.layers} == {
        "stem": 0.25,
        "a.conv1": 0.0,
        "a.conv2": 0.25,
        "b.conv1": 0.25,
        "b.conv2": 0.25,
        "head": 0.0,
    }


def test_tied_groups_share_one_gene() -> None:
    space = joint(prune={"ratios": [0.0, 0.5]}, tie=["?.conv1"])
    genes = {gene.name: gene.layers for gene in space.genes}
    assert genes == {"stem.prune_ratio": ("stem", "a.conv2", "b.conv2"), "a.conv1.prune_ratio": ("a.conv1", "b.conv1")}


def mistakes(**said: Any) -> dict[tuple[str | int, ...], str]:
    with pytest.raises(ConfigError) as caught:
        joint(**said)
    return {mistake.path: mistake.message for mistake in caught.value.mistakes}


def test_every_mistake_is_told_with_its_path() -> None:
    found = mistakes(
        prune={"ratios": [0.0, 1.0, -0.1, 0.0], "layers": {"layer*": [0.5]}}, drop=["c*", "head"], tie=["stem", "a.*"]
    )
    assert "1.0 is no fraction" in found["space", "prune", "ratios", 1]
    assert "-0.1 is no fraction" in found["space", "prune", "ratios", 2]
    assert "repeated" in found["space", "prune", "ratios", 3]
    assert "matches no layer whose channels" in found["space", "prune", "layers", "layer*"]
    assert 'named like "a", "b", "head"' in found["space", "architecture", "drop", 0]
    assert "differ in shape" in found["space", "architecture", "drop", 1]
    assert "tie them apart" in found["space", "tie", 1]


def test_tied_groups_with_different_ratios_are_refused() -> None:
    found = mistakes(prune={"ratios": [0.0, 0.5], "layers": {"b.*": [0.0, 0.25]}}, tie=["?.conv1"])
    assert 'ratios of "a.conv1" are [0.0, 0.5], of "b.conv1" [0.0, 0.25]' in found["space", "tie", 0]


def test_pruning_a_network_without_groups_is_refused() -> None:
    with pytest.raises(ConfigError, match="no channels that can be pruned"):
        build_space(LAYERS, defaults={"weight_bits": [2, 4]}, prune={"ratios": [0.0, 0.5]})


def test_of_the_modules_that_match_the_outermost_that_can_be_left_out_are_taken() -> None:
    blocks: dict[str, tuple[str, ...] | str] = {**BLOCKS, "a.inner": ("a.conv1",), "a.other": "no"}
    space = build_space(LAYERS, defaults={"weight_bits": [2, 4]}, blocks=blocks, drop=["a.*", "a", "?"])
    assert space.blocks == ("a", "b")
