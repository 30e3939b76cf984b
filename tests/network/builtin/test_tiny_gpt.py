"""Laws of the language model: causal, tied, traced, and measured with errors that are clustered by file."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from evo_mpq.compress.compressor import Compressor
from evo_mpq.config import validate
from evo_mpq.errors import ConfigError
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.objectives import as_quantity
from evo_mpq.measure.statistics import standard_error
from evo_mpq.network.builtin.tiny_gpt import Block, tiny_gpt
from evo_mpq.network.builtin.training import trained
from evo_mpq.network.data.splits import splits_from
from evo_mpq.network.data.text import stdlib_text
from evo_mpq.network.network import Network, trace_network
from evo_mpq.objectives.accuracy import Accuracy
from evo_mpq.objectives.cross_entropy import CrossEntropy
from evo_mpq.objectives.kl_divergence import KLDivergence
from evo_mpq.objectives.perplexity import Perplexity
from evo_mpq.objectives.size import Size
from evo_mpq.problem import build_problem
from evo_mpq.space.policy import Policy

SMALL: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2}


@pytest.fixture(scope="module")
def network() -> Network:
    data = stdlib_text(calibration=4, search=12, test=5)
    data["search"].groups = ["one", "two", "three"] * 4  # several windows a file
    return trace_network(trained("tiny_gpt", steps=15, **SMALL), splits_from(data, 5), name="tiny_gpt")


def tokens(n: int, length: int = 128) -> torch.Tensor:
    return torch.randint(0, 256, (n, length), generator=torch.Generator().manual_seed(n))


def test_bytes_become_logits_of_the_bytes_that_follow():
    model = tiny_gpt(**SMALL)
    assert model(tokens(3)).shape == (3, 128, 256)
    assert model(tokens(2, 7)).shape == (2, 7, 256)


def test_what_follows_a_byte_changes_nothing_of_what_is_said_about_it():
    model = tiny_gpt(**SMALL).eval()
    text = tokens(2)
    changed = text.clone()
    changed[:, 60:] = 255 - changed[:, 60:]
    before, after = model(text), model(changed)
    torch.testing.assert_close(before[:, :60], after[:, :60])
    assert (before[:, 60:] - after[:, 60:]).abs().amax(dim=2).min() > 0


def test_it_has_842_thousand_parameters_and_those_of_the_head_are_the_embeddings():
    model = tiny_gpt()
    assert sum(parameter.numel() for parameter in model.parameters()) == 842_496
    assert "842 thousand parameters" in (tiny_gpt.__doc__ or "")
    assert len([part for part in model.modules() if isinstance(part, nn.Linear | nn.Embedding)]) == 26
    assert {*dict(model.blocks.named_children())} == {"0", "1", "2", "3"}  # type: ignore[union-attr, arg-type]


def test_every_parameter_takes_part():
    model = tiny_gpt(**SMALL)
    text = tokens(4)
    nn.functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten()).backward()
    without = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert [key for key in without if not key.endswith("key.bias")] == []  # the softmax is blind to that one


def test_an_untrained_network_is_about_as_much_in_doubt_as_there_are_bytes():
    text = tokens(4)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(tiny_gpt(**SMALL)(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(256), abs=0.1)


def test_branches_are_modules_that_the_block_adds():
    block = Block(16, 2)
    features = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    added = features + block.attention(features)
    assert torch.equal(block(features), added + block.mlp(added))
    assert isinstance(block.attention.norm, nn.LayerNorm) and isinstance(block.mlp.norm, nn.LayerNorm)


def test_training_lowers_the_cross_entropy():
    inputs, targets = stdlib_text(search=8)["search"].tensors
    losses = []
    for steps in (1, 20):
        with torch.no_grad():
            outputs = trained("tiny_gpt", steps=steps, **SMALL)(inputs)
        losses.append(float(nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())))
    assert losses[1] < losses[0] - 0.3


def test_a_width_that_heads_do_not_divide_is_told():
    with pytest.raises(Exception, match="width 10 is no multiple of heads 4"):
        trained("tiny_gpt", width=10)


# Compressed


def test_embedding_and_head_are_one_layer_with_two_uses(network):
    names = [layer.name for layer in network.layers]
    assert names[:3] == ["embedding", "positions", "blocks.0.attention.query"]
    assert len(names) == 2 + 2 * 6 and "head" not in names
    tied = network.layers[0]
    kinds = [network.graph[use.node].target for use in tied.uses]
    assert kinds == ["aten.embedding.default", "aten.linear.default"]
    assert tied.shared and tied.quantizes_input and tied.shape == (256, 16)
    assert tied.macs == 128 * 16 * 256  # of the head: looking up multiplies nothing
    assert [layer.name for layer in network.layers if layer.shared] == ["embedding"]


def test_the_tied_weight_is_stored_once(network):
    compressor = Compressor(network)
    names = [layer.name for layer in network.layers]
    sizes = [compressor.packed_bytes(Policy.uniform(names, 8, 32))]
    for name in ("embedding", "positions"):
        fewer = Policy({**Policy.uniform(names, 8, 32).layers, name: Policy.uniform(names, 4, 32).layers[name]})
        sizes.append(sizes[0] - compressor.packed_bytes(fewer))
    assert sizes[1:] == [256 * 16 // 2, 128 * 16 // 2]


def test_every_prediction_counts_and_errors_are_those_of_files(network):
    quantities = [as_quantity(cls) for cls in (KLDivergence, CrossEntropy, Accuracy, Perplexity, Size)]
    names = [layer.name for layer in network.layers]
    policies = [Policy.uniform(names, bits, 8) for bits in (2, 8)] + [Policy.uniform(names, 32, 32)]
    compressor = Compressor(network)
    found = InProcess(compressor, quantities, 1 << 28).measure(policies, "search").values
    for row, policy in enumerate(policies):
        module = compressor.apply(policy)
        whole = network.splits.search.whole()
        with torch.no_grad():
            outputs = torch.cat([module(batch.inputs) for batch in network.splits.search.batches()]).double()
        entropies = nn.functional.cross_entropy(outputs.movedim(2, 1), whole.targets, reduction="none")
        per_window = entropies.mean(dim=1).numpy()
        expected = [
            per_window.mean(),
            (outputs.argmax(2) == whole.targets).double().mean(),
            math.exp(per_window.mean()),
        ]
        assert found.values[row, 1:4] == pytest.approx([float(value) for value in expected], rel=1e-9)
        by_file = standard_error(per_window, network.splits.search.groups)
        assert found.standard_errors[row, 1] == pytest.approx(by_file)
        assert found.standard_errors[row, 3] == pytest.approx(by_file * found.values[row, 3])
    assert found.values[0, 0] > found.values[1, 0] > 0 == found.values[2, 0]


def test_text_of_another_seed_than_the_networks_is_refused():
    settings = validate({"model": {"kind": "tiny_gpt", "seed": 1, "steps": 1}, "data": "stdlib_text"})
    with pytest.raises(ConfigError, match="trained on the stdlib_text of seed 1, among which are search and test"):
        build_problem(settings)
