from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from networks import (
    ALL,
    CALIBRATION,
    SEARCH,
    blocks_of,
    compressor_of,
    network_of,
    outputs_of,
    random_policies,
    samples,
)
from torch import Tensor
from troubled_objectives import BadStart, Distance, NotFinite, OwnInputs, SomeRaise

from evo_mpq.compress.channels import WeightForm
from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.program import Step
from evo_mpq.compress.quantizers import ActivationQuantizer, UniformAffine
from evo_mpq.measure.evaluator import (
    PopulationEvaluator,
    measure_outputs,
    workloads,
)
from evo_mpq.measure.objectives import as_quantity
from evo_mpq.measure.statistics import standard_error
from evo_mpq.network.calling import tensors_of
from evo_mpq.network.data.splits import Split
from evo_mpq.network.data.thinning import thinned_positions
from evo_mpq.space.policy import LayerPolicy, Policy

SETTINGS: list[dict[str, Any]] = [
    {"rounding": "descent", "correction": "scale_bias", "edges": 8},
    {"rounding": "gptq", "correction": "scale_bias", "edges": 8},
    {"rounding": "nearest", "correction": "none", "edges": None},
    {"rounding": "gptq", "correction": "bias", "edges": None},
    {"rounding": "nearest", "correction": "scale_bias", "edges": 4, "symmetric": False, "granularity": 4},
]


def evaluated(compressor: Compressor, policies: list[Policy], memory: int = 1 << 30) -> list[list[Tensor]]:
    """Outputs on the search split as the population evaluator computes them, by candidate and batch."""
    network = compressor.network
    batches = list(network.splits.search.batches())
    found: list[dict[int, Tensor]] = [{} for _ in policies]

    def consume(candidate: int, batch: int, outputs: Tensor) -> None:
        assert batch not in found[candidate]
        found[candidate][batch] = outputs.clone()

    PopulationEvaluator(compressor, memory)(
        policies,
        [tensors_of(batch.inputs) for batch in batches],
        [network.float_outputs(batch.inputs) for batch in batches],
        consume,
    )
    return [[outputs[k] for k in range(len(batches))] for outputs in found]


def assert_equal_bits(found: list[list[Tensor]], expected: list[list[Tensor]]) -> None:
    for candidate, (a, b) in enumerate(zip(found, expected, strict=True)):
        for batch, (x, y) in enumerate(zip(a, b, strict=True)):
            assert torch.equal(x, y), f"candidate {candidate} on batch {batch}"


@pytest.mark.parametrize("options", SETTINGS, ids=lambda o: f"{o['rounding']}-{o['correction']}-{o['edges']}")
@pytest.mark.parametrize("name", ALL)
def test_a_population_gets_the_outputs_of_its_standalone_networks_to_the_bit(
    name: str, options: dict[str, Any]
) -> None:
    compressor = compressor_of(name, **options)
    policies = random_policies(network_of(name), 5, seed=len(name))
    alone = [outputs_of(compressor.apply(policy), network_of(name).splits.search) for policy in policies]
    assert_equal_bits(evaluated(compressor, policies), alone)


@pytest.mark.parametrize("name", ["convolutions", "tied_tokens", "cross_attention"])
def test_memory_for_sixteen_candidates_and_one_weight_gives_the_same_bits(name: str) -> None:
    tiny = Compressor(
        network_of(name),
        quantizer=UniformAffine(clip="minmax"),
        activations=ActivationQuantizer("minmax"),
        edges=8,
        blocks=blocks_of(name),
        memory=1,
    )
    policies = random_policies(network_of(name), 19, seed=3)
    assert_equal_bits(evaluated(tiny, policies, memory=1), evaluated(compressor_of(name), policies))


def test_the_order_of_candidates_changes_nothing() -> None:
    compressor = compressor_of("convolutions")
    policies = random_policies(network_of("convolutions"), 12, seed=5)
    order = np.random.default_rng(0).permutation(len(policies)).tolist()
    shuffled = evaluated(compressor, [policies[i] for i in order])
    assert_equal_bits(shuffled, [evaluated(compressor, policies)[i] for i in order])


@pytest.mark.parametrize("name", ["convolutions", "called_twice", "tied_tokens", "cross_attention"])
def test_every_prefix_of_decisions_is_computed_once(name: str) -> None:
    quantizer = UniformAffine(clip="minmax", rounding="nearest")
    compressor = Compressor(network_of(name), quantizer=quantizer, edges=8, blocks=blocks_of(name))
    policies = random_policies(network_of(name), 15, seed=1, weight_bits=(3, 8), activation_bits=(4, 8))
    runs: dict[str, Counter[int]] = {"steps": Counter(), "calibrating": Counter()}

    def counting(kind: str, position: int, step: Step) -> Step:
        def counted(*arguments: Any) -> None:
            runs[kind][position] += 1
            step(*arguments)

        return counted

    program = compressor.program
    program.segments = tuple(
        replace(
            segment,
            steps=_first_counted(segment.steps, counting, "steps", i),
            calibrating=_first_counted(segment.calibrating, counting, "calibrating", i),
        )
        for i, segment in enumerate(program.segments)
    )
    evaluated(compressor, policies)
    decisions = compressor.decisions(policies).codes
    n_batches = network_of(name).splits.search.n_batches
    for i, segment in enumerate(program.segments):
        if segment.steps:
            prefixes = len({tuple(row[:i]) for row in decisions})
            assert runs["calibrating"][i] == prefixes
            assert runs["steps"][i] == prefixes * n_batches


def _first_counted(
    steps: tuple[Step, ...], counting: Callable[[str, int, Step], Step], kind: str, position: int
) -> tuple[Step, ...]:
    return (counting(kind, position, steps[0]), *steps[1:]) if steps else ()


def test_nothing_is_computed_for_the_reference_alone() -> None:
    compressor = compressor_of("signals", edges=None)
    policy = Policy.uniform([layer.name for layer in network_of("signals").layers])
    references = [network_of("signals").float_outputs(b.inputs) for b in network_of("signals").splits.search.batches()]
    assert_equal_bits(evaluated(compressor, [policy]), [references])


def test_a_population_leaves_the_batches_as_they_are() -> None:
    network = network_of("convolutions")
    before = [batch.inputs.clone() for batch in network.splits.search.batches()]
    evaluated(compressor_of("convolutions"), random_policies(network, 3, 0))
    for batch, kept in zip(network.splits.search.batches(), before, strict=True):
        assert torch.equal(batch.inputs, kept)


QUANTITIES = [as_quantity(objective()) for objective in (Distance, SomeRaise, NotFinite, OwnInputs)]


def measured(policies: list[Policy], quantities: Any = QUANTITIES, share: float = 1.0, **options: Any) -> Any:
    compressor = compressor_of("signals")
    loads = workloads(compressor.network, compressor.network.splits.search, quantities, share)
    return measure_outputs(PopulationEvaluator(compressor, 1 << 30), quantities, loads, policies, **options)


def by_hand(policy: Policy) -> list[np.ndarray]:
    """Per-sample distances of one candidate on the search split, and on the doubled one."""
    network = network_of("signals")
    module = compressor_of("signals").apply(policy)
    found: list[list[Tensor]] = [[], []]
    for batch in network.splits.search.batches():
        for i, parts in enumerate(([batch.inputs], [part * 2 for part in batch.inputs.split(3)])):
            found[i] += [(module(part) - network.float_outputs(part)).double().square().mean(1) for part in parts]
    return [torch.cat(parts).numpy() for parts in found]


def test_values_and_their_errors_are_those_of_the_standalone_network() -> None:
    policies = random_policies(network_of("signals"), 6, seed=2)
    quantities = [as_quantity(Distance()), as_quantity(OwnInputs())]
    result = measured(policies, quantities, keep_samples=True)
    assert result.values.failures == (None,) * len(policies)
    for row, policy in enumerate(policies):
        for column, expected in enumerate(by_hand(policy)):
            assert result.per_sample[row][column].tolist() == expected.tolist()
            assert result.values.values[row, column] == expected.mean()
            assert result.values.standard_errors[row, column] == standard_error(expected)
    assert result.samples == len(policies) * 2 * SEARCH
    assert result.cpu_seconds > 0


def test_samples_are_returned_only_where_they_are_asked_for() -> None:
    assert measured(random_policies(network_of("signals"), 1, 0)).per_sample == ({}, {}, {})


def test_what_goes_wrong_for_some_candidates_leaves_the_others_alone() -> None:
    policies = random_policies(network_of("signals"), 20, seed=8)
    result = measured(policies).values
    plain = measured(policies, QUANTITIES[:1]).values
    failures = Counter((failure or "none").split(" raised ")[0] for failure in result.failures)
    assert set(failures) == {"none", "picky", "not finite is nan", "not finite is inf"}
    for row, failure in enumerate(result.failures):
        if failure is None:
            assert result.values[row, 0] == plain.values[row, 0]
            assert np.isfinite(result.values[row]).all()
        else:
            assert np.isnan(result.values[row]).all()
            assert np.isnan(result.standard_errors[row]).all()
    picky = next(failure for failure in result.failures if failure and "raised" in failure)
    assert picky == "picky raised RuntimeError: such outputs are not for me"


def test_an_objective_that_cannot_start_fails_its_candidates_with_its_own_words() -> None:
    policies = random_policies(network_of("signals"), 2, seed=0)
    result = measured(policies, [as_quantity(Distance()), as_quantity(BadStart())])
    assert set(result.values.failures) == {"bad start raised ValueError: no accumulator today"}


@pytest.mark.parametrize("share", [0.01, 0.25, 0.6, 1.0])
def test_a_part_of_the_samples_is_evenly_spread(share: float) -> None:
    policies = random_policies(network_of("signals"), 3, seed=4)
    result = measured(policies, [as_quantity(Distance()), as_quantity(OwnInputs())], share, keep_samples=True)
    places = thinned_positions(SEARCH, share)
    assert len(places) == np.ceil(share * SEARCH)
    assert len(places) < 2 or np.ptp(np.diff(places)) <= 1
    for row, policy in enumerate(policies):
        for column, expected in enumerate(by_hand(policy)):
            # batches of other sizes may round differently
            assert result.per_sample[row][column] == pytest.approx(expected[places], rel=1e-3, abs=1e-8)
    assert result.samples == len(policies) * 2 * len(places)


def test_only_what_some_objective_needs_is_forwarded() -> None:
    network = network_of("signals")
    own, shared = as_quantity(OwnInputs()), as_quantity(Distance())
    assert [load.quantities for load in workloads(network, network.splits.search, [own])] == [(0,)]
    assert [load.quantities for load in workloads(network, network.splits.search, [shared, own, shared])] == [
        (0, 2),
        (1,),
    ]
    free = as_quantity(lambda candidate: 1.0, name="free", direction="minimize")
    assert workloads(network, network.splits.search, [free]) == []
    result = measured(random_policies(network, 1, 0), [free])
    assert result.samples == 0
    assert np.isnan(result.values.values).all()


class Grouped(list[Any]):
    groups = tuple(i // 5 for i in range(SEARCH))


def test_errors_are_clustered_by_the_groups_of_a_dataset() -> None:
    network = network_of("signals")
    split = Split("search", Grouped(samples("signals", SEARCH, 1)), 8)
    quantity = as_quantity(Distance())
    loads = workloads(network, split, [quantity])
    policies = random_policies(network, 1, 0)
    evaluator = PopulationEvaluator(compressor_of("signals"), 1 << 30)
    result = measure_outputs(evaluator, [quantity], loads, policies, keep_samples=True)
    values = result.per_sample[0][0]
    assert result.values.standard_errors[0, 0] == standard_error(values, np.array(Grouped.groups))
    assert result.values.standard_errors[0, 0] != standard_error(values)


def test_decisions_stand_in_the_order_of_the_graph() -> None:
    compressor = compressor_of("signals")
    policy = Policy({"head": LayerPolicy(2, 4), "first": LayerPolicy(3, 5), "second": LayerPolicy(32, 6)})
    assert [tuple(column) for column in compressor.program.columns] == [
        (layer, kind) for layer in ("first", "second", "head") for kind in ("activation_bits", "weight")
    ]
    decisions = compressor.decisions([policy])
    decided = [decisions.value(0, column) for column in range(6)]
    assert decided == [5, WeightForm(3), 6, WeightForm(32), 4, WeightForm(2)]
    assert compressor.decisions([]).codes.shape == (0, 6)


def test_calibration_is_not_the_search_split() -> None:
    # The same affines, whatever is searched on: calibration is its own batch.
    network, compressor = network_of("convolutions"), compressor_of("convolutions")
    assert len(network.calibration_inputs[0]) == CALIBRATION
    policy = random_policies(network, 1, 6)[0]
    one = next(iter(network.splits.search.batches())).inputs[:1]
    found: list[Tensor] = []
    PopulationEvaluator(compressor, 1 << 30)(
        [policy], [[one]], [network.float_outputs(one)], lambda _, __, outputs: found.append(outputs.clone())
    )
    assert torch.equal(found[0], compressor.apply(policy)(one))
