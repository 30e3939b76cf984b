from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from networks import SEARCH, TEST, compressor_of, network_of, outputs_of
from troubled_objectives import Distance, SomeRaise

from evo_mpq.measure.candidate import Candidate
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.measurer import Measurer
from evo_mpq.measure.objectives import Constraint, Quantity, as_quantity, probe
from evo_mpq.objectives.size import Size
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.policy import Policy
from evo_mpq.space.search_space import SearchSpace

NAME = "signals"


def space() -> SearchSpace:
    layers = [SpaceLayer(layer.name, layer.quantizes_input) for layer in network_of(NAME).layers]
    return build_space(layers, defaults={"weight_bits": [2, 3, 8], "activation_bits": [4, 8]})


def largest_output(candidate: Candidate) -> float:
    module: Any = candidate.module()
    return max(float(outputs.abs().max()) for outputs in outputs_of(module, network_of(NAME).splits.search))


def no_two_bits(candidate: Candidate) -> float:
    if candidate.layers[0].weight_bits == 2:
        raise RuntimeError("two bits are not built")
    return 1.0 if candidate.layers[0].weight_bits == 3 else float("nan")


def quantity(source: Any, **options: Any) -> Quantity:
    candidate = Candidate(space().decode(np.zeros((1, space().n_genes), dtype=np.int64))[0], compressor_of(NAME))
    return probe(as_quantity(source, **options), candidate)


def measurer(*quantities: Quantity) -> Measurer:
    compressor = compressor_of(NAME)
    return Measurer(space(), compressor, quantities, InProcess(compressor, quantities, 1 << 28))


def genomes(n: int = 12) -> np.ndarray[Any, np.dtype[np.int64]]:
    return space().sample(n, np.random.default_rng(0))


def test_every_kind_of_quantity_has_its_column() -> None:
    distance, size = quantity(Distance()), quantity(Size())
    largest = quantity(largest_output, direction="minimize", name="largest")
    assert (distance.form, size.form, largest.form) == ("outputs", "free", "called")
    values, seconds, samples = measurer(largest, distance, size)(genomes())
    assert samples == 12 * SEARCH
    assert seconds > 0
    assert values.failures == (None,) * 12
    for row, policy in enumerate(space().decode(genomes())):
        candidate = Candidate(policy, compressor_of(NAME))
        assert values.values[row, 0] == largest_output(candidate)
        assert values.values[row, 2] == compressor_of(NAME).packed_bytes(policy)
        outputs = torch.cat(outputs_of(candidate.module(), network_of(NAME).splits.search))
        floats = network_of(NAME).float_outputs(network_of(NAME).splits.search.whole().inputs)
        assert values.values[row, 1] == pytest.approx(float((outputs - floats).square().mean()), rel=1e-4)
    assert np.isfinite(values.standard_errors[:, 1]).all()
    assert np.isnan(values.standard_errors[:, [0, 2]]).all()


def test_a_candidate_fails_as_a_whole_with_the_first_thing_that_went_wrong() -> None:
    picky = quantity(no_two_bits, direction="minimize", name="no two bits")
    values, _, _ = measurer(quantity(Distance()), quantity(Size()), picky)(genomes(40))
    policies = space().decode(genomes(40))
    expected = {2: "no two bits raised RuntimeError: two bits are not built", 3: None, 8: "no two bits is nan"}
    for row, policy in enumerate(policies):
        failure = expected[policy.layers["first"].weight_bits]
        assert values.failures[row] == failure
        assert np.isfinite(values.values[row]).all() == (failure is None)
        assert np.isfinite(values.standard_errors[row, 0]) == (failure is None)
    assert set(values.failures) == set(expected.values())


def test_a_candidate_whose_outputs_failed_is_not_called() -> None:
    called: list[Policy] = []

    def counted(candidate: Candidate) -> float:
        candidate.module()
        called.append(candidate.policy)
        return 0.0

    values, _, _ = measurer(quantity(SomeRaise()), quantity(counted, direction="minimize"))(genomes(40))
    assert 0 < len(called) == sum(failure is None for failure in values.failures) < 40


def test_violations_of_free_quantities_are_known_before_measuring() -> None:
    size, distance = quantity(Size()), quantity(Distance())
    bytes_of = [compressor_of(NAME).packed_bytes(policy) for policy in space().decode(genomes())]
    bound = float(np.median(bytes_of))
    constraints = [Constraint(distance, "<=", 0.0), Constraint(size, "<=", bound), Constraint(size, ">=", bound)]
    violations = measurer(distance, size).free_violations(genomes(), constraints)
    assert violations.shape == (12, 3)
    assert (violations[:, 0] == 0).all()
    assert ((violations[:, 1] > 0) == (np.array(bytes_of) > bound)).all()
    assert ((violations[:, 2] > 0) == (np.array(bytes_of) < bound)).all()


def test_a_free_quantity_that_cannot_be_computed_keeps_nobody_from_being_measured() -> None:
    picky = Quantity("picky", "", "minimize", "exact", False, no_two_bits, "free")
    violations = measurer(picky).free_violations(genomes(40), [Constraint(picky, "<=", 0.5)])[:, 0]
    bits = np.array([policy.layers["first"].weight_bits for policy in space().decode(genomes(40))])
    assert ((violations > 0) == (bits == 3)).all()


def test_test_values_are_those_of_the_test_split_with_their_samples() -> None:
    policies = space().decode(genomes(3))
    values, per_sample, _, samples = measurer(quantity(Size()), quantity(Distance())).test(policies)
    assert samples == 3 * TEST
    assert np.isnan(values.values[:, 0]).all()
    for row in range(3):
        assert set(per_sample[row]) == {"distance"}
        assert per_sample[row]["distance"].shape == (TEST,)
        assert values.values[row, 1] == per_sample[row]["distance"].mean()


def test_a_reference_can_be_measured_like_any_policy() -> None:
    compressor = compressor_of(NAME, edges=None)
    distance = quantity(Distance())
    reference = Policy.uniform([layer.name for layer in network_of(NAME).layers])
    values, _, _ = Measurer(space(), compressor, [distance], InProcess(compressor, [distance], 1 << 28)).policies(
        [reference]
    )
    assert values.values.tolist() == [[0.0]]
