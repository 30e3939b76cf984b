from __future__ import annotations

import functools
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from evo_mpq.errors import ConfigError
from evo_mpq.measure.candidate import Candidate
from evo_mpq.measure.objectives import (
    Batch,
    Constraint,
    MetricObjective,
    Quantity,
    SampleMean,
    as_number,
    as_quantity,
    probe,
    sample_values,
    unique_names,
)
from evo_mpq.space.policy import LayerPolicy, Policy


def batch(outputs: Any, targets: Any = None) -> Batch:
    reference = torch.as_tensor(outputs, dtype=torch.float32)
    return Batch(None, targets, torch.arange(len(reference)), reference)


def build(policy: Policy) -> nn.Module:
    return nn.Identity()


def count_bits(policy: Policy) -> int:
    return sum(layer.weight_bits for layer in policy.layers.values())


def candidate(weight_bits: int = 4) -> Candidate:
    layer = SimpleNamespace(name="head", kind="linear", shape=(2, 3), n_parameters=6, macs=6)
    network = SimpleNamespace(layers=(layer,), other_macs=0, other_parameters=0)
    active = SimpleNamespace(layer=layer, shape=layer.shape, n_parameters=layer.n_parameters, macs=layer.macs)
    compressor: Any = SimpleNamespace(
        network=network, apply=build, packed_bytes=count_bits, active_layers=lambda policy: [active]
    )
    return Candidate(Policy({"head": LayerPolicy(weight_bits)}), compressor)


# Objectives as users write them. They stand at module level, because workers unpickle them.


class Spread:
    """Of outputs."""

    name, unit, direction = "spread", "V", "minimize"

    def start(self) -> SampleMean:
        return SampleMean(spread)


def spread(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
    return outputs.amax(1) - outputs.amin(1)


class Shifted(Spread):
    def inputs(self, split):
        return [(batch.inputs + len(split.name), None) for batch in split.batches()]


class CountSamples:
    """A metric that only resembles torchmetrics'."""

    higher_is_better = False

    def __init__(self) -> None:
        self.n = 0

    def update(self, outputs, targets):
        self.n += len(outputs)

    def compute(self):
        return self.n

    def reset(self):
        self.n = 0


class Everything(Spread, CountSamples):
    """Has all three forms at once."""

    def __call__(self, candidate):
        return 1.0


class MetricAndCall(CountSamples):
    def __call__(self, candidate):
        return 1.0


class Energy:
    name, unit, direction = "energy", "mJ", "minimize"

    def __init__(self, per_bit: float = 1.0) -> None:
        self.per_bit = per_bit

    def __call__(self, candidate: Candidate) -> float:
        return sum(self.per_bit * layer.weight_bits for layer in candidate.layers)


class Modelled(Energy):
    modelled = True
    log_scale = True


class ModelledByRunning(Modelled):
    def __call__(self, candidate: Candidate) -> float:
        return float(candidate.module().training)


def own_evaluation(candidate: Candidate, n: int = 3) -> float:
    return float(candidate.module()(torch.ones(n)).sum())


def scaled_bytes(candidate: Candidate, factor: float) -> float:
    return factor * candidate.packed_bytes


class TestBatch:
    @pytest.mark.parametrize("dim", [1, 2, -1, -2])
    def test_log_probabilities_are_the_log_softmax_in_float64(self, dim):
        reference = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
        found = Batch(None, None, torch.arange(3), reference).log_probabilities(dim)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, reference.double().log_softmax(dim))

    def test_log_probabilities_are_computed_once_per_dimension_however_it_is_counted(self):
        b = batch(torch.ones(3, 4, 5))
        assert b.log_probabilities() is b.log_probabilities(2)
        assert b.log_probabilities(1) is not b.log_probabilities(2)

    def test_what_is_remembered_belongs_to_one_batch_and_one_key(self):
        first, second = batch([[1.0]]), batch([[2.0]])
        assert [first.memo("a", lambda: 1), first.memo("a", lambda: 2), first.memo("b", lambda: 3)] == [
            1,
            1,
            3,
        ]
        assert second.memo("a", lambda: 4) == 4


class TestSampleMean:
    @given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5), min_size=1, max_size=5))
    def test_the_value_is_the_mean_of_the_values_in_the_order_of_the_batches(self, batches):
        accumulator = SampleMean(lambda outputs, batch: outputs[:, 0])
        for values in batches:
            b = batch([[value] for value in values])
            accumulator.update(b.reference, b)
        flat = np.array([value for values in batches for value in values])
        np.testing.assert_array_equal(accumulator.values(), flat)
        assert accumulator.values().dtype == np.float64
        assert accumulator.compute() == np.mean(accumulator.values())

    def test_values_that_are_not_one_per_sample_are_refused(self):
        with pytest.raises(ValueError, match=r"each of 2 samples, got the shape \(2, 3\)"):
            SampleMean(lambda outputs, batch: outputs).update(torch.ones(2, 3), batch(torch.ones(2, 3)))

    def test_the_mean_of_nothing_is_an_error(self):
        with pytest.raises(RuntimeError, match="no batch"):
            SampleMean(spread).compute()


class TestSampleValues:
    def test_an_accumulator_without_values_has_none(self):
        quantity = as_quantity(CountSamples)
        assert sample_values(quantity.start(), 3) is None

    @pytest.mark.parametrize("values", [[1.0, 2.0], [[1.0], [2.0], [3.0]], 1.0])
    def test_values_of_another_number_of_samples_are_refused(self, values):
        accumulator: Any = SimpleNamespace(values=lambda: values)
        with pytest.raises(ValueError, match="one value for each of 3 samples"):
            sample_values(accumulator, 3)

    def test_values_come_as_float64(self):
        accumulator: Any = SimpleNamespace(values=lambda: torch.tensor([1, 2, 3]))
        values = sample_values(accumulator, 3)
        assert values is not None
        assert values.dtype == np.float64
        assert values.tolist() == [1, 2, 3]


class TestForms:
    def test_the_first_form_that_an_objective_has_decides(self):
        assert as_quantity(Everything()).object.__class__ is Everything
        assert isinstance(as_quantity(MetricAndCall()).object, MetricObjective)
        assert as_quantity(Energy()).form == "called"

    def test_an_objective_of_outputs_is_measured_and_keeps_what_it_says(self):
        objective = Spread()
        assert as_quantity(objective) == Quantity(
            "spread", "V", "minimize", "measured", log_scale=False, object=objective, form="outputs"
        )

    def test_a_class_is_constructed_with_the_options_and_an_object_is_taken_as_it_is(self):
        assert as_quantity(Energy, options={"per_bit": 2.0}).value(candidate(4)) == 8
        assert as_quantity(Energy(3.0)).value(candidate(4)) == 12

    def test_a_name_in_the_settings_replaces_the_objectives_own(self):
        assert as_quantity(Spread(), name="width").name == "width"

    def test_a_function_gets_its_other_options_as_keyword_arguments(self):
        quantity = as_quantity(scaled_bytes, unit="B", direction="minimize", options={"factor": 10})
        assert (quantity.name, quantity.unit, quantity.value(candidate(4))) == ("scaled_bytes", "B", 40)

    def test_attributes_of_a_function_count_even_when_arguments_are_bound(self):
        def cost(candidate, factor):
            return factor

        cost.direction, cost.unit, cost.modelled = "maximize", "J", True  # type: ignore[attr-defined]
        for quantity in (
            as_quantity(cost, options={"factor": 1}),
            as_quantity(functools.partial(cost, factor=1)),
        ):
            assert (quantity.name, quantity.unit, quantity.direction) == ("cost", "J", "maximize")
            assert quantity.kind == "modelled"

    @pytest.mark.parametrize(
        "obj",
        [Spread, CountSamples, Energy, Modelled, ModelledByRunning, own_evaluation, torchmetrics.MeanMetric],
    )
    def test_every_quantity_pickles(self, obj):
        direction = "minimize" if obj in (own_evaluation, torchmetrics.MeanMetric) else None
        copy = pickle.loads(pickle.dumps(as_quantity(obj, direction=direction)))
        assert copy.name == as_quantity(obj, direction=direction).name
        if copy.form == "outputs":
            b = batch([[1.0, 5.0]], torch.ones(1, 2))
            accumulator = copy.start()
            accumulator.update(b.reference, b)
            assert np.isfinite(accumulator.compute())
        else:
            assert np.isfinite(copy.value(candidate()))

    def test_own_inputs_are_made_from_the_split_and_others_take_the_splits(self):
        raw = [SimpleNamespace(inputs=torch.tensor([value]), targets=None) for value in (1.0, 2.0)]
        split: Any = SimpleNamespace(name="test", batches=lambda: iter(raw))
        own = as_quantity(Shifted()).inputs(split)
        assert own is not None
        assert [inputs.item() for inputs, _ in own] == [5, 6]
        assert as_quantity(Spread()).inputs(split) is None
        assert as_quantity(Energy()).inputs(split) is None


class TestMistakes:
    def test_a_function_without_direction_is_refused_because_nothing_says_what_is_better(self):
        with pytest.raises(ConfigError, match="direction: required, because own_evaluation does not say"):
            as_quantity(own_evaluation)

    @pytest.mark.parametrize("direction", ["min", "Maximize", "", 1])
    def test_directions_are_two_words(self, direction):
        with pytest.raises(ConfigError) as caught:
            as_quantity(own_evaluation, direction=direction)
        assert {mistake.path for mistake in caught.value.mistakes} == {("direction",)}

    @pytest.mark.parametrize("said", [{"direction": "maximize"}, {"unit": "kJ"}])
    def test_settings_that_contradict_the_objective_are_refused(self, said):
        with pytest.raises(ConfigError, match=r"leave (unit|direction): out"):
            as_quantity(Energy(), **said)

    def test_settings_that_repeat_the_objective_are_fine(self):
        energy = Energy()
        assert as_quantity(energy, unit="mJ", direction="minimize") == as_quantity(energy)

    @pytest.mark.parametrize("name", ["", " size", "a<b", "a,b", "a=b", "two\nlines"])
    def test_names_must_fit_into_constraints(self, name):
        with pytest.raises(ConfigError) as caught:
            as_quantity(Energy(), name=name)
        assert [mistake.path for mistake in caught.value.mistakes] == [("name",)]

    def test_a_lambda_needs_a_name_because_its_own_fits_into_no_constraint(self):
        with pytest.raises(ConfigError, match=r"lambda.*give another with name:"):
            as_quantity(lambda candidate: 1.0, direction="minimize")
        assert as_quantity(lambda candidate: 1.0, name="one", direction="minimize").name == "one"

    def test_all_mistakes_are_told_at_once(self):
        with pytest.raises(ConfigError) as caught:
            as_quantity(own_evaluation, name="<", unit=3, direction="up")  # type: ignore[arg-type]
        assert [mistake.path for mistake in caught.value.mistakes] == [("name",), ("unit",), ("direction",)]

    @pytest.mark.parametrize(
        ("obj", "options", "message"),
        [
            (Energy, {"per_bits": 1}, r"class Energy: .*per_bits.*its parameters are \(per_bit"),
            (scaled_bytes, {}, r"scaled_bytes, called with a candidate: missing .*factor"),
            (scaled_bytes, {"faktor": 1}, "faktor|factor"),
            (nn.functional.cross_entropy, {}, "cross_entropy, called with a candidate: missing .*target"),
            (Energy(), {"per_bit": 1}, r"per_bit: energy is made already and takes no options \(per_bit\)"),
            (nn.CrossEntropyLoss(), {}, r"CrossEntropyLoss\(\) is not an objective"),
            (3, {}, "3 is not an objective"),
        ],
    )
    def test_what_cannot_be_an_objective_is_told_before_anything_is_measured(self, obj, options, message):
        with pytest.raises(ConfigError, match=message):
            as_quantity(obj, direction="minimize", options=options)

    def test_what_a_constructor_raises_is_left_as_it_is(self):
        class Broken:
            def __init__(self) -> None:
                raise FileNotFoundError("npu.csv")

        with pytest.raises(FileNotFoundError, match=r"npu\.csv"):
            as_quantity(Broken)

    def test_two_quantities_of_one_name_are_told_how_to_rename_one(self):
        energy, spread = as_quantity(Energy()), as_quantity(Spread())
        unique_names([energy, spread, as_quantity(Energy(), name="energy-2")])
        with pytest.raises(ConfigError, match=r'2 objectives are named "energy".*name: "energy-2"') as caught:
            unique_names([energy, spread, energy])
        assert [mistake.path for mistake in caught.value.mistakes] == [(2,)]


class TestTorchmetrics:
    def test_accuracy_works_without_a_wrapper(self):
        quantity = as_quantity(torchmetrics.classification.MulticlassAccuracy(num_classes=3, average="micro"))
        assert (quantity.name, quantity.unit, quantity.direction) == ("MulticlassAccuracy", "", "maximize")
        assert (quantity.kind, quantity.form) == ("measured", "outputs")
        accumulator = quantity.start()
        for outputs, targets in [([[5.0, 0, 0], [0, 5.0, 0]], [0, 1]), ([[0, 0, 5.0], [0, 0, 5.0]], [0, 1])]:
            b = batch(outputs, torch.tensor(targets))
            accumulator.update(b.reference, b)
        assert accumulator.compute() == 0.5
        assert sample_values(accumulator, 4) is None

    def test_a_class_gets_options_and_a_wrapper_class_names_what_it_makes(self):
        quantity = as_quantity(torchmetrics.Accuracy, options={"task": "multiclass", "num_classes": 3})
        assert quantity.name == "MulticlassAccuracy"

    @pytest.mark.parametrize(
        ("metric", "expected"), [(torchmetrics.MeanMetric(), (1.0, 7.0)), (CountSamples(), (2.0, 1.0))]
    )
    def test_candidates_do_not_share_a_metric_and_the_template_stays_as_it_is(self, metric, expected):
        b = batch([[1.0], [1.0]], torch.ones(2, 1))
        metric.update(torch.full((3, 1), 5.0), torch.ones(3, 1))  # tried by the user, before the search
        template = metric.compute()
        quantity = as_quantity(metric, direction="minimize")
        first, second = quantity.start(), quantity.start()
        larger = batch([[7.0]], torch.ones(1, 1))
        second.update(larger.reference, larger)
        first.update(b.reference, b)
        assert (first.compute(), second.compute()) == expected
        assert metric.compute() == template

    def test_direction_is_required_where_the_metric_does_not_say(self):
        with pytest.raises(ConfigError, match="MeanMetric does not say what is better"):
            as_quantity(torchmetrics.MeanMetric())
        assert as_quantity(torchmetrics.MeanMetric(), direction="maximize").direction == "maximize"

    @pytest.mark.parametrize(
        ("metric", "direction"),
        [(torchmetrics.R2Score(), "maximize"), (torchmetrics.MeanSquaredError(), "minimize")],
    )
    def test_higher_is_better_is_the_direction(self, metric, direction):
        assert as_quantity(metric).direction == direction
        with pytest.raises(ConfigError, match="leave direction: out"):
            as_quantity(metric, direction="minimize" if direction == "maximize" else "maximize")

    def test_a_metric_of_several_numbers_is_an_error_when_it_is_measured(self):
        metric = torchmetrics.classification.MulticlassAccuracy(num_classes=3, average=None)
        accumulator = as_quantity(metric).start()
        b = batch(torch.eye(3), torch.arange(3))
        accumulator.update(b.reference, b)
        with pytest.raises(ValueError, match=r"MulticlassAccuracy returned an array of shape \(3,\).*averaged"):
            accumulator.compute()


class TestNumbers:
    @pytest.mark.parametrize(
        "value", [2, 2.0, np.float32(2), np.int64(2), np.array([[2]]), torch.tensor(2), torch.tensor([2.0])]
    )
    def test_whatever_is_one_number_becomes_a_float(self, value):
        number = as_number(value, "it")
        assert type(number) is float
        assert number == 2

    @pytest.mark.parametrize("value", [None, "2", [2.0], {"a": 2}, 2j, torch.ones(2), np.ones((0,)), torch.tensor(2j)])
    def test_anything_else_is_an_error_that_names_the_objective(self, value):
        with pytest.raises(ValueError, match=r"^energy returned .* one number"):
            as_number(value, "energy")

    def test_an_objective_that_forgets_to_return_is_told(self):
        def forgetful(candidate):
            candidate.packed_bytes + 1

        with pytest.raises(ValueError, match="forgetful returned None"):
            as_quantity(forgetful, direction="minimize").value(candidate())


class TestProbe:
    def test_what_reads_the_policy_only_is_free_and_exact(self):
        quantity = probe(as_quantity(Energy()), candidate())
        assert (quantity.form, quantity.kind) == ("free", "exact")
        assert quantity.value(candidate(8)) == 8

    def test_what_asks_for_the_module_is_called_and_measured(self):
        quantity = probe(as_quantity(own_evaluation, direction="maximize"), candidate())
        assert (quantity.form, quantity.kind) == ("called", "measured")
        assert quantity.value(candidate()) == 3

    @pytest.mark.parametrize(("obj", "form"), [(Modelled, "free"), (ModelledByRunning, "called")])
    def test_a_modelled_cost_stays_modelled(self, obj, form):
        quantity = probe(as_quantity(obj), candidate())
        assert (quantity.form, quantity.kind, quantity.log_scale) == (form, "modelled", True)

    def test_of_outputs_there_is_nothing_to_find_out(self):
        quantity = as_quantity(Spread())
        assert probe(quantity, candidate()) is quantity

    def test_nothing_is_built_and_nothing_after_the_module_runs(self):
        built: list[Policy] = []
        continued: list[bool] = []
        watched = candidate()
        watched._compressor.apply = built.append  # type: ignore[method-assign, assignment]

        def evaluation(candidate):
            try:
                candidate.module()
                continued.append(True)
            except Exception:
                continued.append(False)  # a second try, perhaps on another device

        assert probe(as_quantity(evaluation, direction="minimize"), watched).form == "called"
        assert (built, continued) == ([], [])

    def test_handlers_in_the_objective_hide_nothing(self):
        def catches_exceptions(candidate):
            try:
                return candidate.module()
            except Exception:
                return 1.0

        def catches_everything(candidate):
            try:
                return candidate.module()
            except BaseException:
                return 1.0

        def raises_instead(candidate):
            try:
                return candidate.module()
            finally:
                raise OSError("no device")

        for objective in (catches_exceptions, catches_everything, raises_instead):
            assert probe(as_quantity(objective, direction="minimize"), candidate()).form == "called"

    def test_what_raises_first_counts_as_measured_and_does_not_end_the_run(self):
        def table(candidate):
            raise LookupError(candidate.layers[0].weight_bits)

        assert probe(as_quantity(table, direction="minimize"), candidate()).form == "called"

    def test_an_interrupt_is_not_swallowed(self):
        def interrupted(candidate):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            probe(as_quantity(interrupted, direction="minimize"), candidate())


VALUES = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=8).map(np.array)


class TestQuantityAndConstraint:
    @given(VALUES)
    def test_the_smallest_loss_is_the_best_value_in_either_direction(self, values):
        less = as_quantity(Energy())
        more = as_quantity(own_evaluation, direction="maximize")
        assert values[np.argmin(less.loss(values))] == values.min()
        assert values[np.argmin(more.loss(values))] == values.max()

    @given(VALUES, st.floats(-1e9, 1e9), st.sampled_from(["<=", ">="]))
    def test_a_violation_is_positive_exactly_where_the_bound_is_broken(self, values, bound, comparison):
        violations = Constraint(as_quantity(Energy()), comparison, bound).violation(values)
        kept = values <= bound if comparison == "<=" else values >= bound
        np.testing.assert_array_equal(violations <= 0, kept)

    def test_violations_are_relative_to_the_bound(self):
        quantity = as_quantity(Energy())
        assert Constraint(quantity, "<=", 40_000).violation(np.array([44_000.0, 36_000.0])).tolist() == [
            0.1,
            -0.1,
        ]
        assert Constraint(quantity, ">=", -2.0).violation(np.array([-3.0])).tolist() == [0.5]
        assert Constraint(quantity, "<=", 0.0).violation(np.array([1.0])) > 0

    def test_nothing_is_known_of_a_failed_value(self):
        violation = Constraint(as_quantity(Energy()), "<=", 1.0).violation(np.array([np.nan, np.inf]))
        assert np.isnan(violation[0])
        assert violation[1] == np.inf

    def test_a_constraint_reads_as_it_was_written(self):
        assert str(Constraint(as_quantity(Energy()), "<=", 40.5)) == "energy <= 40.5 mJ"
        assert str(Constraint(as_quantity(CountSamples()), ">=", 2.0)) == "CountSamples >= 2"
