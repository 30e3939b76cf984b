from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from torch import nn

from evo_mpq.measure.candidate import Candidate, CandidateLayer
from evo_mpq.space.policy import LayerPolicy, Policy


@dataclass
class FakeCompressor:
    """Counts how often it is asked to build or to pack."""

    network: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(
            layers=(
                SimpleNamespace(name="stem", kind="conv2d", shape=(4, 1, 3, 3), n_parameters=36, macs=900),
                SimpleNamespace(name="head", kind="linear", shape=(10, 4), n_parameters=40, macs=40),
            ),
            other_macs=7,
            other_parameters=3,
        )
    )
    applied: int = 0
    packed: int = 0

    def apply(self, policy: Policy) -> nn.Module:
        self.applied += 1
        return nn.Linear(len(policy.layers), 1)

    def active_layers(self, policy: Policy) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(layer=layer, shape=layer.shape, n_parameters=layer.n_parameters, macs=layer.macs)
            for layer in self.network.layers
        ]

    def other_macs(self, policy: Policy) -> int:
        return 7

    def other_parameters(self, policy: Policy) -> int:
        return 3

    def packed_bytes(self, policy: Policy) -> int:
        self.packed += 1
        return sum(layer.weight_bits for layer in policy.layers.values())


# layers out of order, because a policy is a mapping and the network says what the order is
POLICY = Policy({"head": LayerPolicy(2, 32), "stem": LayerPolicy(8, 4)})


def test_layers_stand_in_graph_order_and_carry_the_bits_of_the_policy():
    assert Candidate(POLICY, FakeCompressor()).layers == (
        CandidateLayer("stem", "conv2d", (4, 1, 3, 3), 36, 900, weight_bits=8, activation_bits=4),
        CandidateLayer("head", "linear", (10, 4), 40, 40, weight_bits=2, activation_bits=32),
    )


def test_a_policy_that_misses_a_layer_is_an_error_and_not_an_untouched_layer():
    with pytest.raises(KeyError, match="head"):
        _ = Candidate(Policy({"stem": LayerPolicy(8, 4)}), FakeCompressor()).layers


def test_reading_layers_network_and_bytes_builds_nothing():
    compressor = FakeCompressor()
    candidate = Candidate(POLICY, compressor)
    assert candidate.packed_bytes == 10
    assert candidate.network is compressor.network
    assert candidate.policy is POLICY
    assert candidate.layers
    assert compressor.applied == 0


def test_the_module_and_the_bytes_are_computed_once():
    compressor = FakeCompressor()
    candidate = Candidate(POLICY, compressor)
    assert compressor.packed == 0
    assert candidate.module() is candidate.module()
    assert candidate.packed_bytes == candidate.packed_bytes
    assert (compressor.applied, compressor.packed) == (1, 1)


def test_a_pickled_candidate_leaves_its_module_behind():
    candidate = Candidate(POLICY, FakeCompressor())
    candidate.module()
    copy = pickle.loads(pickle.dumps(candidate))
    assert copy.policy == POLICY
    assert copy.layers == candidate.layers
    assert "_module" not in vars(copy)
    assert isinstance(copy.module(), nn.Module)
