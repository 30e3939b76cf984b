from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evo_mpq.errors import ConfigError
from evo_mpq.space.building import SpaceLayer, build_space, space_table

RNG = np.random.default_rng(0)

LAYERS = [
    SpaceLayer("embedding", quantizes_input=False),
    SpaceLayer("stage1.0.conv1"),
    SpaceLayer("stage1.0.conv2"),
    SpaceLayer("stage1.1.conv1"),
    SpaceLayer("stage2.0.conv1"),
    SpaceLayer("head"),
]


def values(**settings: Any) -> dict[str, tuple[Any, ...]]:
    return {gene.name: gene.values for gene in build_space(LAYERS, **settings).genes}


def mistakes(**settings: Any) -> dict[tuple[str | int, ...], str]:
    with pytest.raises(ConfigError) as caught:
        build_space(LAYERS, **settings)
    return {mistake.path: mistake.message for mistake in caught.value.mistakes}


def test_defaults_hold_for_every_layer_and_embeddings_get_no_activation_gene() -> None:
    space = build_space(LAYERS, defaults={"weight_bits": [4, 2], "activation_bits": [8, 4]})
    names = [gene.name for gene in space.genes]
    assert [name for name in names if name.endswith("weight_bits")] == [f"{layer.name}.weight_bits" for layer in LAYERS]
    assert "embedding.activation_bits" not in names
    assert len(names) == 2 * len(LAYERS) - 1
    assert {gene.values for gene in space.genes} == {(2, 4), (4, 8)}
    assert all(policy.layers["embedding"].activation_bits == 32 for policy in space.decode(space.sample(9, RNG)))


def test_genes_stand_in_graph_order() -> None:
    space = build_space(LAYERS, defaults={"weight_bits": [2, 4], "activation_bits": [4, 8]}, tie=["*.conv1"])
    order = [layer.name for layer in LAYERS]
    firsts = [order.index(gene.layers[0]) for gene in space.genes]
    assert firsts == sorted(firsts)


def test_patterns_cross_dots_and_the_last_rule_that_names_a_kind_wins() -> None:
    genes = values(
        defaults={"weight_bits": [2, 4], "activation_bits": [4, 8]},
        layer_rules={
            "stage1*conv1": {"weight_bits": [3, 8]},
            "stage1.0.*": {"weight_bits": [5, 6]},
            "head": {"weight_bits": 8, "activation_bits": None},
        },
    )
    assert genes["stage1.0.conv1.weight_bits"] == (5, 6)
    assert genes["stage1.1.conv1.weight_bits"] == (3, 8)
    assert genes["stage2.0.conv1.weight_bits"] == (2, 4)
    assert genes["stage1.0.conv1.activation_bits"] == (4, 8)
    assert "head.weight_bits" not in genes
    assert genes["head.activation_bits"] == (4, 8)


def test_what_nothing_is_said_about_stays_untouched_and_one_option_is_no_gene() -> None:
    space = build_space(LAYERS, layer_rules={"head": {"weight_bits": [2, 4], "activation_bits": [8]}})
    for policy in space.decode(space.sample(5, RNG)):
        assert policy.layers["stage1.0.conv1"].weight_bits == 32
        assert policy.layers["head"].activation_bits == 8
    assert [gene.name for gene in space.genes] == ["head.weight_bits"]


def test_tied_layers_share_one_gene_per_kind_named_after_the_first() -> None:
    space = build_space(LAYERS, defaults={"weight_bits": [2, 4], "activation_bits": [4, 8]}, tie=["stage1.*", "[eh]*"])
    layers = {gene.name: gene.layers for gene in space.genes}
    assert layers["stage1.0.conv1.weight_bits"] == ("stage1.0.conv1", "stage1.0.conv2", "stage1.1.conv1")
    assert layers["stage1.0.conv1.activation_bits"] == layers["stage1.0.conv1.weight_bits"]
    assert layers["embedding.weight_bits"] == ("embedding", "head")
    assert layers["head.activation_bits"] == ("head",)  # the embedding has none to share
    assert len(layers) == 6


def test_edges_are_quantized_wherever_activations_are() -> None:
    both = {"weight_bits": [2, 4], "activation_bits": [4, 8]}
    assert build_space(LAYERS, defaults=both).edges == 8
    assert build_space(LAYERS, defaults=both, edges="8").edges == 8
    assert build_space(LAYERS, defaults=both, edges="none").edges is None
    assert build_space(LAYERS, defaults=both, edges=None).edges is None
    assert build_space(LAYERS, defaults={"weight_bits": [2, 4]}).edges is None
    assert build_space(LAYERS, defaults={"weight_bits": [2, 4], "activation_bits": 8}).edges == 8


def test_every_mistake_is_reported_at_once_with_its_path() -> None:
    found = mistakes(
        defaults={"weight_bits": [2, 2, 9], "activation_bit": [4]},
        layer_rules={
            "stage1.*": {"weight_bits": [True, 4.0, 4]},
            "stage2.*": {"activation_bits": []},
            "stag3.*": {"weight_bits": 1},
            "embedding": {"activation_bits": [4, 8]},
            "head": [2, 4],
        },
        tie=["stage9*", "stage1.*", "*conv2"],
        edges=7,
    )
    assert set(found) == {
        ("space", "defaults", "weight_bits", 1),
        ("space", "defaults", "weight_bits", 2),
        ("space", "defaults", "activation_bit"),
        ("space", "layers", "stage1.*", "weight_bits", 0),
        ("space", "layers", "stage1.*", "weight_bits", 1),
        ("space", "layers", "stage2.*", "activation_bits"),
        ("space", "layers", "stag3.*", "weight_bits"),
        ("space", "layers", "stag3.*"),
        ("space", "layers", "embedding", "activation_bits"),
        ("space", "layers", "head"),
        ("space", "tie", 0),
        ("space", "tie", 2),
        ("quantizer", "activations", "edges"),
    }
    assert "repeated" in found["space", "defaults", "weight_bits", 1]
    assert "2 to 8" in found["space", "defaults", "weight_bits", 2]
    assert "Did you mean activation_bits?" in found["space", "defaults", "activation_bit"]
    assert '"stage1.0.conv2" is already tied by "stage1.*"' in found["space", "tie", 2]


def test_a_pattern_that_matches_nothing_is_told_how_layers_are_named_and_what_is_near() -> None:
    message = mistakes(layer_rules={"stage3.*": {"weight_bits": [2, 4]}})["space", "layers", "stage3.*"]
    assert 'Layers are named like "embedding", "stage1.0.conv1", …, "head".' in message
    assert '"stage2.*"' in message


def test_tied_layers_with_different_options_are_refused() -> None:
    found = mistakes(
        defaults={"weight_bits": [2, 4]},
        layer_rules={"stage1.1.conv1": {"weight_bits": [2, 8]}},
        tie=["stage1.*"],
    )
    assert set(found) == {("space", "tie", 0)}
    assert "[2, 4]" in found["space", "tie", 0] and "[2, 8]" in found["space", "tie", 0]


def test_activation_bits_for_embeddings_are_a_mistake_only_if_asked_for_them_alone() -> None:
    assert "head.activation_bits" in values(layer_rules={"[eh]*": {"activation_bits": [4, 8]}})
    values(defaults={"weight_bits": [2, 4]}, layer_rules={"embedding": {"activation_bits": 32}})
    found = mistakes(defaults={"weight_bits": [2, 4]}, layer_rules={"emb*": {"activation_bits": 8}})
    assert set(found) == {("space", "layers", "emb*", "activation_bits")}


@pytest.mark.parametrize("defaults", [{}, {"weight_bits": 8}, {"weight_bits": [4], "activation_bits": [8]}])
def test_a_space_without_a_choice_is_refused(defaults: dict[str, Any]) -> None:
    assert "nothing to search" in mistakes(defaults=defaults)["space",]


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="no layer that can be compressed"):
        build_space([], defaults={"weight_bits": [2, 4]})


def test_the_table_lists_every_gene() -> None:
    space = build_space(LAYERS, defaults={"weight_bits": [2, 4]}, tie=["stage1.0.*"])
    assert space_table(space)[1] == {
        "gene": "stage1.0.conv1.weight_bits",
        "values": [2, 4],
        "layers": ["stage1.0.conv1", "stage1.0.conv2"],
    }
    assert len(space_table(space)) == space.n_genes
