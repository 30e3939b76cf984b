"""Laws of the search spaces that come with the package: right, explained, and searchable."""

import importlib.resources
import json

import jsonschema
import pytest

from evo_mpq.config import describe_space, json_schema, load, packaged_spaces
from evo_mpq.config.settings import SCHEMA_NAME
from evo_mpq.network.builtin.recipes import BUILT_IN
from evo_mpq.problem import build_problem

SPACES = packaged_spaces()

QUICK = {"digits": ("model.steps=20",)}
"""By the kind of data; laws need neither well-trained networks nor many samples."""

FEW = ("model.steps=2", "data.calibration=8", "data.search=8", "data.test=8")
"""Where the data is not listed there."""

every_space = pytest.mark.parametrize("name", SPACES)


def test_every_built_in_network_has_its_bits_its_activations_and_everything_to_search():
    suffixes = ("", "_activations", "_joint")
    assert SPACES.keys() == {f"{network}{suffix}" for network in BUILT_IN for suffix in suffixes}


def test_the_schema_that_editors_find_beside_them_is_the_one_of_this_version():
    file = importlib.resources.files("evo_mpq.search_spaces") / SCHEMA_NAME
    remedy = f"write it anew: evo-mpq schema > search_spaces/{SCHEMA_NAME}"
    assert json.loads(file.read_text(encoding="utf-8")) == json_schema(), remedy


@every_space
def test_editors_and_evo_mpq_find_no_mistake(name):
    assert SPACES[name].read_text(encoding="utf-8").startswith(f"# yaml-language-server: $schema={SCHEMA_NAME}\n")
    config = load(SPACES[name])
    assert config.settings.name == name
    jsonschema.validate(config.document.values, json_schema())


def test_a_comment_says_what_each_one_shows():
    first_lines = [describe_space(path) for path in SPACES.values()]
    assert len({*first_lines}) == len(SPACES)
    for path, line in zip(SPACES.values(), first_lines, strict=True):
        assert line.endswith(".")
        comments = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        assert sum(len(comment.strip("# ")) > 0 for comment in comments) > 2


@every_space
def test_no_sample_of_the_search_or_test_split_was_trained_on(name):
    """The split follows from the data's seed, the samples that were trained on from the model's."""
    settings = load(SPACES[name]).settings
    assert BUILT_IN[settings.model.kind].data.__name__ == settings.data.kind
    assert settings.model.options["seed"] == settings.data.options["seed"]


@every_space
def test_it_builds_the_genes_that_its_name_promises(name):
    config = load(SPACES[name])
    quick = QUICK.get(config.settings.data.kind, FEW)
    problem = build_problem(load(SPACES[name], quick).settings, SPACES[name].parent)
    values: dict[str, set[tuple[int, ...]]] = {"weight_bits": {(2, 3, 4, 5, 6, 7, 8)}}
    if name.endswith("_joint"):
        values["weight_bits"] = {(2, 3, 4, 6, 8)}
    if name.endswith(("_activations", "_joint")):
        values["activation_bits"] = {(4, 8)}
    found = {kind: {gene.values for gene in problem.space.genes if gene.kind == kind} for kind in values}
    assert found == values
    network = problem.network
    readers = {layer.name for layer in network.layers if layer.quantizes_input}
    owners = {
        "weight_bits": {layer.name for layer in network.layers},
        "activation_bits": readers | {product.name for product in network.products},
    }
    for kind in values:
        names = [gene.name.removesuffix(f".{kind}") for gene in problem.space.genes if gene.kind == kind]
        assert sorted(names) == sorted(owners[kind])
    kinds = {gene.kind for gene in problem.space.genes}
    assert ("prune_ratio" in kinds) == name.endswith("_joint")
    assert ("drop" in kinds) == (name.endswith("_joint") and name != "digits_mlp_joint")
    metrics = {quantity.name for quantity in problem.quantities}
    assert {"kl_divergence", "size", "perplexity" if name.startswith("tiny_gpt") else "accuracy"} <= metrics
