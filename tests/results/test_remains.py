import numpy as np
import pytest
from networks import compressor_of, random_policies

from evo_mpq.measure.candidate import Candidate
from evo_mpq.network.products import Product
from evo_mpq.objectives.average_bits import AverageBits
from evo_mpq.results.remains import Remains, inactive_genes, prunable_layers, remains
from evo_mpq.space.genes import Gene, n_kept
from evo_mpq.space.policy import LayerPolicy, Policy
from evo_mpq.space.search_space import SearchSpace

NETWORKS = ("digits_resnet", "digits_vit", "digits_mobilenet", "convolutions", "tied_tokens")


def left_of(name, policy):
    compressor = compressor_of(name)
    network = compressor.network
    prunable = {layer for group in network.prune_groups for layer in group.rows}
    return remains(Candidate(policy, compressor), network.layers, prunable)


def policies(name, n=10):
    return random_policies(compressor_of(name).network, n, seed=8)


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_are_those_that_the_ratios_of_the_groups_leave(name):
    compressor = compressor_of(name)
    for policy in policies(name):
        left = left_of(name, policy)
        expected = {
            layer.name: (
                n_kept(group.n_channels, policy.layers[group.name].prune_ratio) * group.rows[layer.name].shape[1],
                layer.n_rows,
            )
            for group in compressor.network.prune_groups
            for layer in compressor.network.layers
            if layer.name in group.rows and layer.name in left.parameters
        }
        assert left.channels == expected
        n_channels = sum(n for _, n in expected.values())
        if n_channels:
            kept = sum(kept for kept, _ in expected.values())
            assert left.removed_channels == pytest.approx((n_channels - kept) / n_channels)
        else:
            assert left.removed_channels is None


@pytest.mark.parametrize("name", ["digits_resnet", "convolutions"])
def test_channels_and_weights_that_remain_are_those_that_the_compressed_network_has(name):
    compressor = compressor_of(name)
    for policy in policies(name, 5):
        left = left_of(name, policy)
        choice = compressor.choice(policy)
        for layer, (kept, n) in left.channels.items():
            mask = choice.channels[layer]
            assert kept == (n if mask is None else int(mask.sum()))


@pytest.mark.parametrize("name", NETWORKS)
def test_mean_bits_are_over_what_remains(name):
    compressor = compressor_of(name)
    for policy in policies(name):
        left = left_of(name, policy)
        assert left.weight_bits == pytest.approx(AverageBits()(Candidate(policy, compressor)))
        active = [a.layer for a in compressor.active_layers(policy)]
        assert list(left.parameters) == [layer.name for layer in active]
        reading = [
            policy.bits_of(layer.name) for layer in active if isinstance(layer, Product) or layer.quantizes_input
        ]
        assert left.activation_bits == pytest.approx(np.mean(reading))


def test_blocks_that_are_left_out_have_no_layers_left():
    compressor = compressor_of("digits_resnet")
    seen = False
    for policy in policies("digits_resnet"):
        left = left_of("digits_resnet", policy)
        gone = {layer for block in left.blocks for layer in compressor.blocks[block].layers}
        assert gone.isdisjoint(left.parameters) and gone.isdisjoint(left.channels)
        assert set(left.blocks) == {name.removesuffix(".drop") for name in policy.architecture}
        seen |= bool(gone)
    assert seen


def test_of_the_uncompressed_network_everything_is_left():
    compressor = compressor_of("digits_resnet")
    policy = Policy.uniform([site.name for site in compressor.network.sites()])
    left = left_of("digits_resnet", policy)
    assert (left.blocks, left.weight_bits, left.activation_bits, left.removed_channels) == ((), 32, 32, 0)
    assert left.parameters == {layer.name: layer.n_parameters for layer in compressor.network.layers}


def test_without_channels_nothing_can_be_removed():
    assert Remains((), {}, {}, None, None).removed_channels is None


SPACE = SearchSpace(
    ["stem", "a.conv1", "a.conv2", "b.conv1", "b.conv2", "head"],
    [
        Gene("stem.prune_ratio", (0.5, 0.0), "prune_ratio", ("stem",)),
        Gene("a.drop", (True, False), "drop", ("a.conv1", "a.conv2")),
        Gene("a.conv1.prune_ratio", (0.5, 0.0), "prune_ratio", ("a.conv1", "b.conv1")),
        Gene("a.conv1.weight_bits", (2, 4), "weight_bits", ("a.conv1",)),
        Gene("b.drop", (True, False), "drop", ("b.conv1", "b.conv2")),
        Gene("b.conv2.weight_bits", (2, 4), "weight_bits", ("b.conv2", "head")),
    ],
    {"a.conv2": LayerPolicy(prune_ratio=0.25)},
)


def test_prunable_layers_are_those_of_genes_and_those_that_every_candidate_prunes():
    assert prunable_layers(SPACE) == {"stem", "a.conv1", "b.conv1", "a.conv2"}


def test_inactive_genes_are_those_that_canonical_genomes_cannot_vary():
    for genomes in SPACE.enumerate():
        for genome, policy in zip(genomes, SPACE.decode(genomes), strict=True):
            blocks = [name.removesuffix(".drop") for name in policy.architecture]
            changed = np.tile(genome, (SPACE.n_genes, 1))
            np.fill_diagonal(changed, 1 - genome)
            same = np.all(SPACE.canonical(changed) == genome, axis=1)
            assert inactive_genes(SPACE, blocks) == tuple(np.array([g.name for g in SPACE.genes])[same])
