import itertools
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import blocks_of, compressor_of, network_of, random_policies

from evo_mpq.compress.compressor import Compressor
from evo_mpq.results.savings import KINDS, Coalition, partly_applied, savings, shapley_values, whole_parts
from evo_mpq.space.policy import LayerPolicy, Policy

NETWORKS = ("digits_resnet", "digits_vit", "convolutions", "encoder")

worths = st.integers(0, 4).flatmap(
    lambda n: st.lists(st.integers(-(10**6), 10**6), min_size=2**n, max_size=2**n).map(lambda table: (n, table))
)


def game(n: int, table: list[int]) -> tuple[list[str], Callable[[Coalition], int]]:
    """Players, and a worth that is looked up; nothing is worth nothing."""
    players = list("abcd"[:n])
    return players, lambda c: table[sum(2 ** players.index(p) for p in c)] - table[0]


def averaged_over_orders(players: list[str], worth: Callable[[Coalition], int]) -> dict[str, Fraction]:
    orders = list(itertools.permutations(players))
    totals = dict.fromkeys(players, 0)
    for order in orders:
        for place, player in enumerate(order):
            totals[player] += worth(Coalition(order[: place + 1])) - worth(Coalition(order[:place]))
    return {player: Fraction(total, len(orders)) for player, total in totals.items()}


# Values of a game


@given(worths)
def test_shapley_values_are_averages_over_all_orders(drawn):
    players, worth = game(*drawn)
    assert shapley_values(players, worth) == averaged_over_orders(players, worth)


@given(worths)
def test_shapley_values_sum_to_the_worth_of_all(drawn):
    players, worth = game(*drawn)
    assert sum(shapley_values(players, worth).values()) == worth(Coalition(players))


@given(worths)
def test_who_adds_nothing_to_any_coalition_gets_nothing_and_changes_nothing(drawn):
    players, worth = game(*drawn)
    values = shapley_values([*players, "idle"], lambda coalition: worth(coalition - {"idle"}))
    assert values == {**shapley_values(players, worth), "idle": 0}


@given(st.dictionaries(st.text(max_size=3), st.fractions(-1000, 1000, max_denominator=24), max_size=5))
def test_whole_parts_have_the_same_rounded_sum_and_are_less_than_one_away(parts):
    found = whole_parts(parts)
    assert list(found) == list(parts)
    assert sum(found.values()) == round(sum(parts.values(), start=Fraction()))
    for name, part in parts.items():
        assert abs(found[name] - part) <= 1
        assert part != 0 or found[name] == 0


# Bytes


def only(policy: Policy, kinds: Coalition) -> Policy:
    """A policy that is made of some kinds only, of layers that are all computed."""
    groups = [tuple(group.rows) for group in network_of("digits_resnet").prune_groups]
    return partly_applied(policy, kinds, policy.layers, groups)


def reference_bytes(compressor: Compressor) -> int:
    names = [site.name for site in compressor.network.sites()]
    return compressor.without_edges().packed_bytes(Policy.uniform(names, 32, 32))


def parts_of(policy: Policy, compressor: Compressor) -> dict[str, int]:
    return savings(policy, compressor, compressor.without_edges())


@pytest.mark.parametrize("edges", [8, None])
@pytest.mark.parametrize("name", NETWORKS)
def test_parts_sum_to_what_is_saved(name, edges):
    compressor = compressor_of(name, edges=edges)
    for policy in random_policies(compressor.network, 12, seed=3):
        parts = parts_of(policy, compressor)
        assert list(parts) == list(KINDS)
        assert sum(parts.values()) == reference_bytes(compressor) - compressor.packed_bytes(policy)


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_are_averages_over_all_orders_of_applying_the_kinds(name):
    compressor = compressor_of(name)
    floating = compressor.without_edges()
    groups = [tuple(group.rows) for group in compressor.network.prune_groups]
    for policy in random_policies(compressor.network, 5, seed=4):
        computed = {active.layer.name for active in compressor.active_layers(policy)}

        def saved(kinds, policy=policy, computed=computed):
            applied = compressor if "activation_bits" in kinds else floating
            return -applied.packed_bytes(partly_applied(policy, kinds, computed, groups))

        expected = averaged_over_orders(list(KINDS), saved)
        found = parts_of(policy, compressor)
        assert all(abs(found[kind] - expected[kind]) <= 1 for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_not_used_saves_nothing_and_one_alone_saves_everything(kind):
    compressor = compressor_of("digits_resnet", edges=None)
    whole = reference_bytes(compressor)
    for policy in random_policies(compressor.network, 9, seed=5)[1::3]:
        without = only(policy, Coalition(KINDS) - {kind})
        assert parts_of(without, compressor)[kind] == 0
        alone = only(policy, Coalition([kind]))
        saved = whole - compressor.packed_bytes(alone)
        assert parts_of(alone, compressor) == {**dict.fromkeys(KINDS, 0), kind: saved}


def test_the_uncompressed_network_saves_nothing():
    compressor = compressor_of("digits_resnet", edges=None)
    untouched = Policy.uniform([site.name for site in compressor.network.sites()])
    assert set(parts_of(untouched, compressor).values()) == {0}


def test_activation_bits_and_quantized_edges_add_the_bytes_of_their_grids():
    compressor = compressor_of("digits_resnet", edges=8)
    policy = Policy.uniform([site.name for site in compressor.network.sites()], 4, 8)
    parts = parts_of(policy, compressor)
    n_grids = len(compressor.network.layers) + len(compressor.layout.edges)
    floating = compressor.without_edges()
    assert floating.packed_bytes(policy) - compressor.packed_bytes(policy) == -5 * len(compressor.layout.edges)
    assert parts["activation_bits"] <= -5 * n_grids + 1
    assert parts["weight_bits"] > 0


@pytest.mark.parametrize("name", ["digits_resnet", "digits_vit"])
def test_what_is_said_of_layers_that_are_left_out_saves_nothing(name):
    compressor = compressor_of(name)
    network = compressor.network
    policy = random_policies(network, 2, seed=6)[1]
    inside = {site.name for site in network.sites(compressor.blocks[blocks_of(name)[0]])}
    dropped = {**policy.architecture, f"{blocks_of(name)[0]}.drop": True}
    found = []
    for bits in (2, 32):
        layers = {
            layer: LayerPolicy(bits, bits, said.prune_ratio) if layer in inside else said
            for layer, said in policy.layers.items()
        }
        found.append(parts_of(Policy(layers, dropped), compressor))
    assert found[0] == found[1]
    assert found[0]["drop"] > 0


def test_a_block_saves_its_layers_as_they_are_in_the_uncompressed_network():
    compressor = compressor_of("digits_resnet", edges=None)
    block = blocks_of("digits_resnet")[0]
    names = [site.name for site in compressor.network.sites()]
    quantized = Policy(dict.fromkeys(names, LayerPolicy(4, 32, 0.0)), {f"{block}.drop": True})
    alone = Policy(dict.fromkeys(names, LayerPolicy()), {f"{block}.drop": True})
    layers = [layer for layer in compressor.network.layers if layer.name in compressor.blocks[block].layers]
    weights = 4 * sum(layer.n_parameters for layer in layers)
    for policy in (quantized, alone):
        assert parts_of(policy, compressor)["drop"] == pytest.approx(weights, rel=0.1)


def test_channels_that_are_pruned_together_stay_together():
    groups = [("a", "b"), ("c",)]
    layers = {name: LayerPolicy(4, 8, 0.5) for name in "abc"}
    policy = Policy(layers, {"block.drop": True})
    found = partly_applied(policy, Coalition(KINDS), {"b"}, groups)
    assert found.architecture == {"block.drop": True}
    assert found.layers == {
        "a": LayerPolicy(32, 32, 0.5),  # goes with b's channels
        "b": LayerPolicy(4, 8, 0.5),
        "c": LayerPolicy(),
    }
    assert partly_applied(policy, Coalition(), {"b"}, groups) == Policy(dict.fromkeys("abc", LayerPolicy()))
