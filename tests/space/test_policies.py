from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable

import pytest

from evo_mpq.space.policy import UNTOUCHED, LayerPolicy, Policy

POLICY = Policy({"stem": LayerPolicy(8, 4), "head": LayerPolicy(3, 32, 0.25)}, {"stage1.drop": True})


def test_a_policy_equals_by_content_in_any_order_of_layers() -> None:
    turned = Policy(dict(reversed(list(POLICY.layers.items()))), {"stage1.drop": True})
    assert turned == POLICY
    assert hash(turned) == hash(POLICY)
    assert Policy(POLICY.layers) != POLICY


def test_json_gives_the_policy_back() -> None:
    assert Policy.from_json(json.loads(json.dumps(POLICY.to_json()))) == POLICY


@pytest.mark.parametrize("travel", [lambda policy: pickle.loads(pickle.dumps(policy)), copy.deepcopy])
def test_a_policy_survives_a_trip_to_another_process(travel: Callable[[Policy], Policy]) -> None:
    assert travel(POLICY) == POLICY
    assert hash(travel(POLICY)) == hash(POLICY)


def test_a_policy_does_not_change_with_the_mapping_it_was_made_of() -> None:
    layers = {"stem": UNTOUCHED}
    policy = Policy(layers)
    layers["stem"] = LayerPolicy(2, 2)
    assert policy.layers["stem"] == UNTOUCHED
    with pytest.raises(TypeError):
        policy.layers["stem"] = LayerPolicy(2, 2)  # type: ignore[index]


def test_uniform_does_the_same_to_every_layer() -> None:
    assert Policy.uniform(["a", "b"], 4, 8) == Policy({"a": LayerPolicy(4, 8), "b": LayerPolicy(4, 8)})
    assert Policy.uniform(["a"]).layers["a"] == UNTOUCHED


def test_a_document_of_another_form_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'stem'.*'bits'.*weight_bits"):
        Policy.from_json({"layers": {"stem": {"bits": 4}}})
    with pytest.raises(ValueError, match="layers"):
        Policy.from_json({"stem": {"weight_bits": 4}})
