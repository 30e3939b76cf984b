"""The evaluator for accelerators. It runs on any device, so the CPU's depth-first one is its oracle here."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from networks import ALL, blocks_of, compressor_of, network_of, random_policies, same_splits
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from troubled_objectives import Distance, OwnInputs

from evo_mpq.compress import correction, program, quantizers
from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.plan import Plan
from evo_mpq.compress.program import Step
from evo_mpq.compress.quantizers import ActivationQuantizer, UniformAffine
from evo_mpq.compress.sample_axes import SampleAxes, find_sample_axes
from evo_mpq.measure.breadth_first import BreadthFirstEvaluator, evaluator_on
from evo_mpq.measure.devices import devices
from evo_mpq.measure.evaluator import Evaluator, PopulationEvaluator
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.objectives import as_quantity
from evo_mpq.network.calling import tensors_of
from evo_mpq.network.network import trace_network
from evo_mpq.space.policy import Policy

ANOTHER = "cpu:0"
"""To torch the CPU, to evo-mpq a device that is not the CPU: all is moved, and nothing moves."""


def layouts_of(compressor: Compressor) -> SampleAxes:
    found = find_sample_axes(compressor.network, compressor.blocks.values())
    assert isinstance(found, SampleAxes), found
    return found


def breadth_first(compressor: Compressor, memory: int = 1 << 30, device: str = "cpu") -> BreadthFirstEvaluator:
    return BreadthFirstEvaluator(compressor, layouts_of(compressor), memory, device)


def depth_first(compressor: Compressor) -> PopulationEvaluator:
    return PopulationEvaluator(compressor, 1 << 30)


def evaluated(evaluator: Evaluator, compressor: Compressor, policies: list[Policy]) -> list[Tensor]:
    """Outputs of every candidate on the whole search split."""
    network = compressor.network
    batches = list(network.splits.search.batches())
    found: list[dict[int, Tensor]] = [{} for _ in policies]

    def consume(candidate: int, batch: int, outputs: Tensor) -> None:
        assert batch not in found[candidate]
        found[candidate][batch] = outputs.clone()

    evaluator(
        policies,
        [tensors_of(batch.inputs) for batch in batches],
        [network.float_outputs(batch.inputs) for batch in batches],
        consume,
    )
    return [torch.cat([outputs[k] for k in range(len(batches))]) for outputs in found]


def differences(found: list[Tensor], expected: list[Tensor]) -> np.ndarray:
    """Of each candidate the largest difference, relative to its largest output."""
    return np.array([float((x - y).abs().max() / y.abs().max()) for x, y in zip(found, expected, strict=True)])


NEAREST = {"rounding": "nearest", "correction": "none", "edges": None}


@pytest.mark.parametrize("options", [NEAREST, {"correction": "bias", "edges": None}], ids=["nearest", "gptq"])
@pytest.mark.parametrize("name", ALL)
def test_outputs_are_those_of_the_depth_first_evaluator(name: str, options: dict[str, Any]) -> None:
    compressor = compressor_of(name, **options)
    policies = random_policies(network_of(name), 6, seed=len(name), activation_bits=(32,))
    expected = evaluated(depth_first(compressor), compressor, policies)
    tolerance = 1e-5 if options is NEAREST else 1e-3  # the correction is rounded to float16
    assert differences(evaluated(breadth_first(compressor), compressor, policies), expected).max() < tolerance


@pytest.mark.parametrize("name", ALL)
def test_quantized_activations_rarely_move_to_another_code(name: str) -> None:
    compressor = compressor_of(name)
    policies = random_policies(network_of(name), 12, seed=len(name) + 1)
    expected = evaluated(depth_first(compressor), compressor, policies)
    found = differences(evaluated(breadth_first(compressor), compressor, policies), expected)
    assert np.mean(found < 1e-4) >= 0.5, found  # how many depends on the order in which a processor sums
    assert found.max() < 0.3, found


@pytest.mark.parametrize("make", [breadth_first, lambda c, device: PopulationEvaluator(c, 1 << 30, device)])
@pytest.mark.parametrize("name", ["convolutions", "cross_attention", "oddities"])
def test_what_is_moved_to_a_device_stays_the_same(name: str, make: Callable[..., Evaluator]) -> None:
    compressor = compressor_of(name)
    policies = random_policies(network_of(name), 6, seed=2)
    expected = evaluated(make(compressor, device="cpu"), compressor, policies)
    assert differences(evaluated(make(compressor, device=ANOTHER), compressor, policies), expected).max() == 0


@pytest.mark.parametrize("name", ["convolutions", "called_twice", "digits_vit", "cross_attention"])
def test_an_operation_runs_once_per_weight(name: str) -> None:
    quantizer = UniformAffine(clip="minmax", rounding="nearest")
    compressor = Compressor(
        network_of(name),
        quantizer=quantizer,
        activations=ActivationQuantizer("minmax"),
        edges=8,
        blocks=blocks_of(name),
    )
    policies = random_policies(network_of(name), 15, seed=1, weight_bits=(3, 8), activation_bits=(4, 8))
    runs: Counter[str] = Counter()

    def counting(node: str, step: Step) -> Step:
        def counted(*arguments: Any) -> None:
            runs[node] += 1
            step(*arguments)

        return counted

    own = compressor.program
    own.instructions = [
        replace(each, step=counting(each.node, each.step)) if each.kind == "use" else each for each in own.instructions
    ]
    evaluated(breadth_first(compressor), compressor, policies)
    passes = 1 + network_of(name).splits.search.n_batches
    searched = [policy for policy in policies if not compressor.is_reference(policy)]
    for layer in network_of(name).layers:
        forms = {
            compressor.channels.form(policy, layer)
            for policy in searched
            if compressor.computed_nodes(policy).issuperset(use.node for use in layer.uses)
        }
        for use in layer.uses:
            assert runs[use.node] == len(forms) * passes


@pytest.mark.parametrize("name", ALL)
def test_no_value_is_computed_more_often_than_prefixes_of_decisions_differ(name: str) -> None:
    compressor = compressor_of(name)
    decisions = compressor.decisions(random_policies(network_of(name), 15, seed=6)[:15])
    plan = Plan(compressor.program, layouts_of(compressor), decisions)
    places = {column: i for i, column in enumerate(decisions.columns)}
    opened = 0
    for stage in plan.stages:
        columns = [*stage.instruction.columns]
        opened = max([opened, *(places[column] + 1 for column in columns)])
        if stage.instruction.block is None and stage.instruction.join is None:
            assert stage.n <= len(np.unique(decisions.codes[:, :opened], axis=0)) or any(compressor.blocks)
    assert plan.n_outputs <= len(np.unique(decisions.codes, axis=0))


@pytest.mark.parametrize("name", ["digits_resnet", "tied_tokens", "cross_attention"])
@pytest.mark.parametrize("memory", [1, 1 << 19])
def test_parts_that_fit_into_memory_give_the_same(name: str, memory: int) -> None:
    compressor = compressor_of(name, **NEAREST)
    policies = random_policies(network_of(name), 9, seed=4, activation_bits=(32,))
    expected = evaluated(breadth_first(compressor), compressor, policies)
    assert differences(evaluated(breadth_first(compressor, memory), compressor, policies), expected).max() < 1e-5


def test_memory_is_what_lives_at_once() -> None:
    compressor = compressor_of("digits_resnet")
    policies = random_policies(network_of("digits_resnet"), 12, seed=4)[:12]
    axes, decisions = layouts_of(compressor), compressor.decisions(policies)
    peaks = [Plan(compressor.program, axes, decisions.of(decisions.order()[:n])).peak_bytes(8) for n in (1, 6, 12)]
    assert peaks == sorted(peaks) and peaks[-1] > 3 * peaks[0]
    batch = tensors_of(next(iter(network_of("digits_resnet").splits.search.batches())).inputs)
    parameters = sum(tensor.nbytes for tensor in network_of("digits_resnet").tensors.values())
    alone = compressor.live_bytes(policies[decisions.order()[0]], batch) - parameters
    assert 0.5 * alone < peaks[0] < 1.5 * alone  # it frees earlier, and counts what is gathered
    evaluator = breadth_first(compressor, int(1.5 * peaks[0]))
    plans = list(evaluator._plans(decisions, decisions.order(), 8))
    assert sorted(row for rows, _ in plans for row in rows) == list(range(12))
    assert all(len(rows) == 1 or plan.peak_bytes(8) <= 1.5 * peaks[0] for rows, plan in plans) and len(plans) > 2


def test_values_of_objectives_are_those_of_the_cpu() -> None:
    compressor, quantities = compressor_of("signals"), [as_quantity(Distance()), as_quantity(OwnInputs())]
    policies = random_policies(network_of("signals"), 8, seed=3)
    results = [
        InProcess(compressor, quantities, 1 << 30, device).measure(policies, "search") for device in ("cpu", ANOTHER)
    ]
    assert results[1].samples == results[0].samples
    assert results[1].values.values == pytest.approx(results[0].values.values, rel=1e-3)


def test_nothing_is_computed_for_the_reference_alone() -> None:
    compressor = compressor_of("signals", edges=None)
    policy = Policy.uniform([layer.name for layer in network_of("signals").layers])
    (outputs,) = evaluated(breadth_first(compressor), compressor, [policy])
    batches = network_of("signals").splits.search.batches()
    assert torch.equal(outputs, torch.cat([network_of("signals").float_outputs(batch.inputs) for batch in batches]))


class Centred(nn.Module):
    """Its outputs depend on who else is in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, features: Tensor) -> Tensor:
        """``(n, 4)`` to ``(n, 3)``."""
        outputs = self.layer(features)
        return outputs - outputs.mean(0)


def test_candidates_go_one_by_one_through_a_network_that_mixes_samples() -> None:
    data = [(torch.randn(4, generator=torch.Generator().manual_seed(i)), 0) for i in range(20)]
    compressor = Compressor(trace_network(Centred(), same_splits(data)))
    evaluator = evaluator_on(ANOTHER, compressor, 1 << 30)
    assert isinstance(evaluator, PopulationEvaluator)
    policies = [Policy.uniform(["layer"], bits, 8) for bits in (2, 4, 32)]
    expected = evaluated(depth_first(compressor), compressor, policies)
    assert differences(evaluated(evaluator, compressor, policies), expected).max() == 0


def test_the_cpu_goes_depth_first_and_others_breadth_first() -> None:
    compressor = compressor_of("signals")
    assert isinstance(evaluator_on("cpu", compressor, 1 << 30), PopulationEvaluator)
    assert isinstance(evaluator_on(ANOTHER, compressor, 1 << 30), BreadthFirstEvaluator)


@contextlib.contextmanager
def pretended_accelerator() -> Iterator[FakeTensorMode]:
    """Inside, tensors without values can be on a GPU that is not there, and operations across devices fail."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    real = Tensor.to

    def to(tensor: Tensor, *arguments: Any, **named: Any) -> Tensor:
        device = arguments[0] if arguments else None
        if str(device) != "cuda":
            return real(tensor, *arguments, **named)
        own = tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor)
        moved: Tensor = torch.ops.aten._to_copy.default(own, device=torch.device("cuda"))
        return moved

    def same(values: Tensor) -> Tensor:
        return values

    rounding = [(quantizers, "half_exponent", lambda _: 0), (program, "stored_vector", same)]
    rounding += [(correction, "stored_vector", same), (correction, "stored_rows", same)]
    with contextlib.ExitStack() as stack:
        for module, function, without_values in rounding:
            stack.enter_context(mock.patch.object(module, function, without_values))
        stack.enter_context(mock.patch.object(Tensor, "to", to))
        yield stack.enter_context(mode)


@pytest.mark.parametrize(
    ("name", "correction"), [("convolutions", "scale_bias"), ("cross_attention", "scale_bias"), ("oddities", "none")]
)
def test_no_operation_mixes_devices(name: str, correction: str) -> None:
    compressor = compressor_of(name, correction=correction)
    policies = random_policies(network_of(name), 8, seed=3)
    for policy in policies:
        compressor.choice(policy)  # weights are quantized on the CPU
    axes = layouts_of(compressor)
    batch = next(iter(network_of(name).splits.search.batches()))
    reference = network_of(name).float_outputs(batch.inputs)
    found = []
    with pretended_accelerator():
        with pytest.raises(RuntimeError, match="device"):
            torch.ones(2).to("cuda") + torch.ones(2)
        for evaluator in (
            BreadthFirstEvaluator(compressor, axes, 1 << 30, "cuda"),
            PopulationEvaluator(compressor, 1 << 30, "cuda"),
        ):
            evaluator(
                policies,
                [tensors_of(batch.inputs)],
                [reference],
                lambda _, __, outputs: found.append((outputs.device.type, outputs.shape)),
            )
    assert found == [("cpu", reference.shape)] * (2 * len(policies))


@pytest.mark.skipif(len(devices()) == 1, reason="there is no accelerator")
@pytest.mark.parametrize("name", ALL)
def test_an_accelerator_gives_the_outputs_of_the_cpu(name: str) -> None:
    compressor = compressor_of(name, **NEAREST)
    policies = random_policies(network_of(name), 9, seed=len(name), activation_bits=(32,))
    expected = evaluated(depth_first(compressor), compressor, policies)
    for evaluator in (
        breadth_first(compressor, device=devices()[1]),
        PopulationEvaluator(compressor, 1 << 30, devices()[1]),
    ):
        assert differences(evaluated(evaluator, compressor, policies), expected).max() < 1e-4
