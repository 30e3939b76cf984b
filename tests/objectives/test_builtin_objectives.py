from __future__ import annotations

import importlib
import inspect
import math
import pickle
import pkgutil
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import evo_mpq.objectives
from evo_mpq.errors import ConfigError
from evo_mpq.measure.candidate import Candidate
from evo_mpq.measure.objectives import Batch, as_quantity, probe, sample_values
from evo_mpq.measure.statistics import standard_error
from evo_mpq.objectives.accuracy import Accuracy
from evo_mpq.objectives.average_bits import AverageBits
from evo_mpq.objectives.bops import BOPs
from evo_mpq.objectives.cross_entropy import CrossEntropy
from evo_mpq.objectives.error_rate import ErrorRate
from evo_mpq.objectives.fima_error import FIMAError
from evo_mpq.objectives.fisher_error import FisherError
from evo_mpq.objectives.flips import Flips
from evo_mpq.objectives.hawq_error import HAWQError
from evo_mpq.objectives.kl_divergence import KLDivergence
from evo_mpq.objectives.macs import MACs
from evo_mpq.objectives.mean_squared_error import MeanSquaredError
from evo_mpq.objectives.parameters import Parameters
from evo_mpq.objectives.perplexity import Perplexity
from evo_mpq.objectives.size import Size
from evo_mpq.objectives.soft_kl_divergence import SoftKLDivergence
from evo_mpq.space.policy import LayerPolicy, Policy

OF_CLASSES = [Accuracy, CrossEntropy, ErrorRate, Flips, KLDivergence, Perplexity, SoftKLDivergence]
OF_OUTPUTS = [*OF_CLASSES, MeanSquaredError]
SECOND_ORDER = [FIMAError, FisherError, HAWQError]
FREE = [AverageBits, BOPs, MACs, Parameters, Size]
SHARED = {"evo_mpq.objectives.classes", "evo_mpq.objectives.second_order"}
"""Modules that hold what several objectives have in common."""

SHAPES = {"classes": (6, 5), "tokens": (6, 4, 5), "pixels": (6, 5, 3, 2)}
"""Shapes of outputs of six samples and five classes."""


def class_dim(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) == 4 else len(shape) - 1


def problem(shape: tuple[int, ...], seed: int = 0, spread: float = 2.0) -> tuple[Tensor, Batch]:
    """Outputs of a compressed network, and the batch with those of the float one."""
    rng = torch.Generator().manual_seed(seed)
    reference = spread * torch.randn(shape, generator=rng)
    outputs = reference + torch.randn(shape, generator=rng)
    dim = class_dim(shape)
    targets = torch.randint(shape[dim], shape[:dim] + shape[dim + 1 :], generator=rng)
    return outputs, Batch(None, targets, torch.arange(shape[0]), reference)


def measured(objective: Any, outputs: Tensor, batch: Batch) -> float:
    accumulator = objective.start()
    accumulator.update(outputs, batch)
    return float(accumulator.compute())


def parts(outputs: Tensor, batch: Batch, sizes: list[int]) -> list[tuple[Tensor, Batch]]:
    return [
        (some, Batch(None, targets, indices, reference))
        for some, targets, indices, reference in zip(
            outputs.split(sizes),
            batch.targets.split(sizes),
            batch.indices.split(sizes),
            batch.reference.split(sizes),
            strict=True,
        )
    ]


every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
every_objective = pytest.mark.parametrize("objective", [cls() for cls in OF_OUTPUTS], ids=lambda o: o.name)
every_mean = pytest.mark.parametrize(
    "objective", [cls() for cls in OF_OUTPUTS if cls is not Perplexity], ids=lambda o: o.name
)
every_objective_of_classes = pytest.mark.parametrize("objective", [cls() for cls in OF_CLASSES], ids=lambda o: o.name)


def modules_of_objectives() -> list[ModuleType]:
    found = pkgutil.iter_modules(evo_mpq.objectives.__path__)
    modules = [importlib.import_module(f"evo_mpq.objectives.{module.name}") for module in found]
    return [module for module in modules if module.__name__ not in SHARED]


class TestAllObjectives:
    def test_every_file_holds_one_objective_named_after_it_and_is_tested_here(self):
        listed = set()
        for module in modules_of_objectives():
            own: list[Any] = [
                member
                for _, member in inspect.getmembers(module, inspect.isclass)
                if member.__module__ == module.__name__
            ]
            assert [cls.name for cls in own] == [module.__name__.rpartition(".")[2]]
            listed.update(own)
        assert listed == {*OF_OUTPUTS, *FREE, *SECOND_ORDER}

    @pytest.mark.parametrize("cls", [*OF_OUTPUTS, *FREE, *SECOND_ORDER])
    def test_every_objective_is_a_quantity_that_pickles(self, cls):
        quantity = as_quantity(cls)
        assert quantity.unit == cls.unit
        assert quantity.direction == cls.direction == ("maximize" if cls is Accuracy else "minimize")
        logarithmic = (CrossEntropy, KLDivergence, MeanSquaredError, Perplexity, SoftKLDivergence, *SECOND_ORDER)
        assert quantity.log_scale == (cls in logarithmic)
        assert (quantity.kind == "modelled") == (cls in SECOND_ORDER)
        assert quantity.form == ("outputs" if cls in OF_OUTPUTS else "called")
        assert pickle.loads(pickle.dumps(quantity)) == quantity


class TestLawsOfOutputs:
    @every_mean
    @every_shape
    def test_the_value_is_the_mean_of_one_value_per_sample(self, objective, shape):
        outputs, batch = problem(shape)
        accumulator = objective.start()
        accumulator.update(outputs, batch)
        values = sample_values(accumulator, shape[0])
        assert values is not None
        assert accumulator.compute() == np.mean(values)
        alone = [measured(objective, *part) for part in parts(outputs, batch, [1] * shape[0])]
        np.testing.assert_allclose(alone, values, rtol=1e-13, atol=1e-15)

    @every_objective
    @every_shape
    @given(seed=st.integers(0, 2**32), cuts=st.sets(st.integers(1, 5)), order=st.permutations(range(6)))
    @settings(max_examples=15, deadline=None)
    def test_neither_order_nor_batches_matter_beyond_rounding_in_float64(self, objective, shape, seed, cuts, order):
        outputs, batch = problem(shape, seed)
        shuffled = Batch(None, batch.targets[order], batch.indices[order], batch.reference[order])
        edges = [0, *sorted(cuts), 6]
        accumulator = objective.start()
        for some, part in parts(outputs[order], shuffled, list(np.diff(edges))):
            accumulator.update(some, part)
        whole = objective.start()
        whole.update(outputs, batch)
        # of a mean that was subtracted, rounding is as large as the value, not as what is left
        rounding = max(1e-15, 1e-13 * abs(whole.compute()))
        np.testing.assert_allclose(accumulator.values(), whole.values()[order], rtol=1e-13, atol=rounding)
        assert accumulator.compute() == pytest.approx(whole.compute(), rel=1e-13, abs=1e-15)

    @every_objective
    @every_shape
    def test_nothing_that_is_measured_is_changed_by_measuring(self, objective, shape):
        outputs, batch = problem(shape)
        before = [tensor.clone() for tensor in (outputs, batch.reference, batch.targets)]
        first = measured(objective, outputs, batch)
        assert measured(objective, outputs, batch) == first
        assert all(
            torch.equal(old, new) for old, new in zip(before, (outputs, batch.reference, batch.targets), strict=True)
        )

    @every_objective
    @pytest.mark.parametrize("where", [0, 4])
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @every_shape
    def test_outputs_that_are_not_finite_give_no_finite_value(self, objective, shape, bad, where):
        outputs, batch = problem(shape)
        outputs.movedim(class_dim(shape), -1)[(2, *[0] * (len(shape) - 2), where)] = bad
        assert not math.isfinite(measured(objective, outputs, batch))

    @every_objective
    def test_low_precision_outputs_are_averaged_in_float64(self, objective):
        outputs, batch = problem((600, 5))
        outputs, half = (
            outputs.bfloat16(),
            Batch(None, batch.targets, batch.indices, batch.reference.bfloat16()),
        )
        exact = Batch(None, batch.targets, batch.indices, half.reference.double())
        assert measured(objective, outputs, half) == pytest.approx(
            measured(objective, outputs.double(), exact), rel=1e-12
        )

    @every_objective_of_classes
    def test_classes_may_be_counted_by_another_dimension(self, objective):
        outputs, batch = problem(SHAPES["tokens"])
        turned = Batch(None, batch.targets, batch.indices, batch.reference.transpose(1, 2).contiguous())
        for dim in (1, -2):
            found = measured(type(objective)(dim=dim), outputs.transpose(1, 2).contiguous(), turned)
            assert found == pytest.approx(measured(objective, outputs, batch), rel=1e-13)

    @pytest.mark.parametrize("cls", [KLDivergence, SoftKLDivergence, Flips])
    def test_objectives_with_the_classes_in_different_dimensions_share_a_batch(self, cls):
        outputs, batch = problem((6, 5, 5))
        for dim in (1, 2):
            alone = Batch(None, None, batch.indices, batch.reference)
            assert measured(cls(dim=dim), outputs, batch) == measured(cls(dim=dim), outputs, alone)

    @every_objective_of_classes
    @given(seed=st.integers(0, 2**32), order=st.permutations(range(5)))
    @settings(max_examples=15, deadline=None)
    def test_the_numbering_of_the_classes_does_not_matter(self, objective, seed, order):
        outputs, batch = problem(SHAPES["classes"], seed)
        renamed = Batch(None, torch.tensor(order).argsort()[batch.targets], batch.indices, batch.reference[:, order])
        assert measured(objective, outputs[:, order], renamed) == pytest.approx(
            measured(objective, outputs, batch), rel=1e-12
        )


class TestMistakes:
    @every_objective_of_classes
    @pytest.mark.parametrize("dim", [0, True, "1", 1.0])
    def test_a_dimension_of_classes_is_an_integer_other_than_the_batchs(self, objective, dim):
        with pytest.raises(ConfigError) as caught:
            type(objective)(dim=dim)
        assert [mistake.path for mistake in caught.value.mistakes] == [("dim",)]

    @every_objective_of_classes
    @pytest.mark.parametrize(
        ("shape", "dim", "message"),
        [
            ((4,), None, "no dimension 0 that counts classes"),
            ((4, 3), 2, "no dimension 2 that counts classes"),
            ((4, 3), -2, "no dimension -2 that counts classes"),
            ((4, 1), None, "one class in dimension 1; .* mean_squared_error"),
        ],
    )
    def test_outputs_without_classes_are_refused(self, objective, shape, dim, message):
        outputs = torch.zeros(shape)
        batch = Batch(None, torch.zeros(4, dtype=torch.int64), torch.arange(4), outputs)
        with pytest.raises(ValueError, match=message):
            type(objective)(dim=dim).start().update(outputs, batch)

    @pytest.mark.parametrize("objective", [Accuracy(), CrossEntropy(), ErrorRate(), Perplexity()], ids=lambda o: o.name)
    @pytest.mark.parametrize(
        ("targets", "message"),
        [
            (None, "class indices as targets, got NoneType"),
            (torch.zeros(3), r"class indices as targets, got torch\.float32"),
            (torch.zeros(3, 1, dtype=torch.int64), r"targets of shape \(3,\) .* got \(3, 1\)"),
            (torch.tensor([0, 1, 5]), r"the target 5 is none of the 5 classes \(0 to 4\)"),
            (torch.tensor([0, -100, 1]), "the target -100 is none of the 5 classes"),
        ],
    )
    def test_targets_that_are_no_labels_are_refused(self, objective, targets, message):
        outputs = torch.zeros(3, 5)
        with pytest.raises(ValueError, match=message):
            objective.start().update(outputs, Batch(None, targets, torch.arange(3), outputs))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
    def test_labels_of_any_integer_type_are_taken(self, dtype):
        outputs, batch = problem(SHAPES["pixels"])
        other = Batch(None, batch.targets.to(dtype), batch.indices, batch.reference)
        for objective in (Accuracy(), CrossEntropy(), ErrorRate()):
            assert measured(objective, outputs, other) == measured(objective, outputs, batch)

    @pytest.mark.parametrize(
        "objective", [KLDivergence(), SoftKLDivergence(), Flips(), MeanSquaredError()], ids=lambda o: o.name
    )
    def test_what_compares_with_the_float_network_needs_no_targets(self, objective):
        outputs, batch = problem(SHAPES["classes"])
        without = Batch(None, None, batch.indices, batch.reference)
        assert measured(objective, outputs, without) == measured(objective, outputs, batch)


SEEDS = st.integers(0, 2**32)


class TestOracles:
    @every_shape
    @given(seed=SEEDS)
    @settings(max_examples=15, deadline=None)
    def test_cross_entropy_is_torchs(self, shape, seed):
        outputs, batch = problem(shape, seed)
        logits = outputs.double().movedim(class_dim(shape), 1)
        assert measured(CrossEntropy(), outputs, batch) == pytest.approx(
            F.cross_entropy(logits, batch.targets).item(), rel=1e-12
        )

    @every_shape
    @given(seed=SEEDS)
    @settings(max_examples=15, deadline=None)
    def test_kl_divergence_is_torchs(self, shape, seed):
        outputs, batch = problem(shape, seed)
        dim = class_dim(shape)
        log_p, log_q = batch.reference.double().log_softmax(dim), outputs.double().log_softmax(dim)
        n_predictions = outputs.numel() // outputs.shape[dim]
        oracle = F.kl_div(log_q, log_p, reduction="sum", log_target=True).item() / n_predictions
        assert measured(KLDivergence(), outputs, batch) == pytest.approx(oracle, rel=1e-12)

    @every_shape
    @given(seed=SEEDS, temperature=st.floats(0.5, 10.0))
    @settings(max_examples=15, deadline=None)
    def test_a_softened_divergence_is_the_plain_one_of_outputs_over_t_times_its_square(self, shape, seed, temperature):
        outputs, batch = problem(shape, seed)
        cooled = Batch(None, None, batch.indices, batch.reference.double() / temperature)
        plain = measured(KLDivergence(), outputs.double() / temperature, cooled)
        found = measured(SoftKLDivergence(temperature=temperature), outputs, batch)
        assert found == pytest.approx(temperature**2 * plain, rel=1e-12)

    @every_shape
    @given(seed=SEEDS)
    @settings(max_examples=15, deadline=None)
    def test_far_above_it_is_half_the_variance_of_the_errors_of_a_prediction(self, shape, seed):
        outputs, batch = problem(shape, seed)
        errors = (outputs.double() - batch.reference.double()).movedim(class_dim(shape), -1)
        variance = errors.var(-1, unbiased=False).mean().item()
        assert measured(SoftKLDivergence(temperature=1e4), outputs, batch) == pytest.approx(variance / 2, rel=1e-3)

    @pytest.mark.parametrize("temperature", [0, -1, True, "2", math.inf, math.nan])
    def test_a_temperature_is_a_positive_number(self, temperature):
        with pytest.raises(ConfigError, match="temperature: expected a positive number"):
            SoftKLDivergence(temperature=temperature)

    def test_plain_and_softened_divergences_share_a_batch(self):
        outputs, batch = problem(SHAPES["classes"])
        kinds = [KLDivergence(), SoftKLDivergence(), SoftKLDivergence(temperature=1.0), SoftKLDivergence(temperature=4)]
        together = [measured(kind, outputs, batch) for kind in kinds]
        apart = [measured(kind, outputs, problem(SHAPES["classes"])[1]) for kind in kinds]
        assert together == apart and together[0] == together[2] and len({*together}) == 3

    @every_shape
    @given(seed=SEEDS)
    @settings(max_examples=15, deadline=None)
    def test_predictions_are_counted_one_by_one(self, shape, seed):
        outputs, batch = problem(shape, seed)
        dim = class_dim(shape)
        rows = outputs.movedim(dim, -1).reshape(-1, 5).tolist()
        float_rows = batch.reference.movedim(dim, -1).reshape(-1, 5).tolist()
        predicted = [row.index(max(row)) for row in rows]
        float_predicted = [row.index(max(row)) for row in float_rows]
        labels = batch.targets.flatten().tolist()
        n = len(labels)
        right = sum(p == label for p, label in zip(predicted, labels, strict=True))
        flipped = sum(p != f for p, f in zip(predicted, float_predicted, strict=True))
        assert measured(Accuracy(), outputs, batch) == pytest.approx(right / n)
        assert measured(ErrorRate(), outputs, batch) == pytest.approx(1 - right / n)
        assert measured(Flips(), outputs, batch) == pytest.approx(flipped / n)

    @pytest.mark.parametrize("shape", [(6,), (6, 1), *SHAPES.values()])
    def test_mean_squared_error_is_torchs(self, shape):
        rng = torch.Generator().manual_seed(0)
        outputs, reference = torch.randn((2, *shape), generator=rng)
        batch = Batch(None, None, torch.arange(6), reference)
        assert measured(MeanSquaredError(), outputs, batch) == pytest.approx(
            F.mse_loss(outputs.double(), reference.double()).item(), rel=1e-12
        )


class TestPerplexity:
    @every_shape
    @given(seed=SEEDS)
    @settings(max_examples=15, deadline=None)
    def test_it_is_the_exponential_of_the_mean_cross_entropy(self, shape, seed):
        outputs, batch = problem(shape, seed)
        accumulator = Perplexity().start()
        for part in parts(outputs, batch, [4, 2]):
            accumulator.update(*part)
        expected = math.exp(measured(CrossEntropy(), outputs, batch))
        assert accumulator.compute() == pytest.approx(expected, rel=1e-12)
        assert np.mean(accumulator.values()) == pytest.approx(expected, rel=1e-12)

    def test_a_network_that_knows_nothing_is_in_doubt_of_all_classes(self):
        _, batch = problem(SHAPES["tokens"])
        assert measured(Perplexity(), torch.zeros(SHAPES["tokens"]), batch) == pytest.approx(5)

    def test_values_have_the_standard_errors_of_the_delta_method_clustered_or_not(self):
        """Alone ``P * se(cross-entropy)``, in a difference what resampling finds."""
        shape, groups = (400, 5), np.repeat(np.arange(100), 4)
        outputs, batch = problem(shape)
        others = outputs + 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))

        def both(objective: Any, scores: Tensor) -> Any:
            accumulator = objective.start()
            accumulator.update(scores, batch)
            return accumulator

        values = both(Perplexity(), outputs).values()
        entropies = [both(CrossEntropy(), scores).values() for scores in (outputs, others)]
        for labels in (None, groups):
            expected = both(Perplexity(), outputs).compute() * standard_error(entropies[0], labels)
            assert standard_error(values, labels) == pytest.approx(expected, rel=1e-12)
        chance = np.random.default_rng(0)
        drawn = [(groups[:, None] == chance.integers(100, size=100)).sum(1) for _ in range(2000)]  # a bootstrap
        first, second = (np.exp([np.average(e, weights=weights) for weights in drawn]) for e in entropies)
        difference = values - both(Perplexity(), others).values()
        assert standard_error(difference, groups) == pytest.approx(np.std(first - second), rel=0.1)

    def test_what_is_too_large_is_infinite_without_a_warning(self):
        _, batch = problem(SHAPES["classes"])
        outputs = 1e6 * (batch.targets[:, None] != torch.arange(5)).double()
        assert measured(Perplexity(), outputs, batch) == math.inf


class TestKLDivergence:
    @given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
    def test_two_classes_have_a_closed_form(self, p, q):
        def logits(probability: float) -> Tensor:
            return torch.tensor([[math.log(probability), math.log(1 - probability)]], dtype=torch.float64)

        batch = Batch(None, None, torch.arange(1), logits(p))
        closed = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        assert measured(KLDivergence(), logits(q), batch) == pytest.approx(closed, rel=1e-9, abs=1e-14)

    @every_shape
    @given(seed=SEEDS, spread=st.floats(0, 200))
    @settings(max_examples=15, deadline=None)
    def test_it_is_never_negative_and_exactly_zero_for_the_float_network_itself(self, shape, seed, spread):
        outputs, batch = problem(shape, seed, spread)
        accumulator = KLDivergence().start()
        accumulator.update(outputs, batch)
        assert (accumulator.values() >= 0).all()
        assert measured(KLDivergence(), batch.reference.clone(), batch) == 0

    def test_it_is_clamped_where_rounding_makes_it_negative(self):
        # a shift of all logits changes no probability, so what remains is rounding, of either sign
        reference = torch.randn(2000, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        accumulator = KLDivergence().start()
        accumulator.update(reference + 1e3, Batch(None, None, torch.arange(2000), reference))
        values = accumulator.values()
        assert (values >= 0).all()
        assert (values == 0).sum() > 200
        assert values.max() < 1e-12

    def test_tiny_differences_are_resolved(self):
        # second order: KL = Var_p(d) / 2 for a small change d of the logits; in float32 this would be noise
        rng = torch.Generator().manual_seed(0)
        reference = torch.randn(50, 10, generator=rng, dtype=torch.float64)
        change = 1e-4 * torch.randn(50, 10, generator=rng, dtype=torch.float64)
        p = reference.softmax(1)
        variance = (p * change**2).sum(1) - (p * change).sum(1) ** 2
        batch = Batch(None, None, torch.arange(50), reference)
        assert measured(KLDivergence(), reference + change, batch) == pytest.approx(
            variance.mean().item() / 2, rel=1e-3
        )

    def test_it_is_from_the_float_network_to_the_compressed_one(self):
        certain, even = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        forward = measured(KLDivergence(), even, Batch(None, None, torch.arange(1), certain))
        backward = measured(KLDivergence(), certain, Batch(None, None, torch.arange(1), even))
        assert forward < math.log(2) < backward


class TestPredictions:
    @every_shape
    @given(seed=SEEDS)
    @settings(max_examples=15, deadline=None)
    def test_accuracy_changes_by_at_most_the_share_of_flips(self, shape, seed):
        outputs, batch = problem(shape, seed)
        change = measured(Accuracy(), outputs, batch) - measured(Accuracy(), batch.reference, batch)
        flips = measured(Flips(), outputs, batch)
        assert abs(change) <= flips + 1e-12
        assert measured(Flips(), batch.reference.clone(), batch) == 0

    def test_of_equal_scores_the_first_class_is_predicted(self):
        outputs = torch.zeros(3, 4)
        batch = Batch(None, torch.tensor([0, 1, 3]), torch.arange(3), outputs)
        accumulator = Accuracy().start()
        accumulator.update(outputs, batch)
        assert accumulator.values().tolist() == [1, 0, 0]

    def test_classes_that_are_ruled_out_leave_accuracy_and_cross_entropy_defined(self):
        outputs = torch.tensor([[1.0, -math.inf, 0.0]])
        batch = Batch(None, torch.tensor([0]), torch.arange(1), outputs)
        assert measured(Accuracy(), outputs, batch) == 1
        assert measured(CrossEntropy(), outputs, batch) == pytest.approx(math.log(1 + math.exp(-1)))

    @pytest.mark.parametrize("objective", [Accuracy(), ErrorRate(), Flips()], ids=lambda o: o.name)
    def test_scores_that_rule_every_class_out_predict_nothing(self, objective):
        outputs = torch.full((2, 3), -math.inf)
        batch = Batch(None, torch.tensor([0, 0]), torch.arange(2), torch.zeros(2, 3))
        assert math.isnan(measured(objective, outputs, batch))


KINDS: list[tuple[str, str, tuple[int, ...], int]] = [
    ("stem", "conv2d", (4, 1, 3, 3), 2304),
    ("mid", "conv2d", (8, 4, 3, 3), 18432),
    ("table", "embedding", (30, 8), 0),
    ("head", "linear", (10, 8), 80),
]
"""Name, kind, shape and MACs of four layers."""

OTHER_MACS, OTHER_PARAMETERS = 1000, 26
BITS = st.sampled_from([2, 3, 4, 5, 6, 7, 8, 32])
LAYER = st.builds(LayerPolicy, BITS, BITS)
POLICIES = st.tuples(*[LAYER] * len(KINDS)).map(
    lambda layers: Policy(dict(zip([kind[0] for kind in KINDS], layers, strict=True)))
)


def refuse(policy: Policy) -> Any:
    raise AssertionError("a free objective must not build the network")


def packed_bytes(policy: Policy) -> int:
    return 100 + sum(layer.weight_bits for layer in policy.layers.values())


def candidate(policy: Policy) -> Candidate:
    layers = [
        SimpleNamespace(name=name, kind=kind, shape=shape, n_parameters=math.prod(shape), macs=macs)
        for name, kind, shape, macs in KINDS
    ]
    active = [
        SimpleNamespace(layer=layer, shape=layer.shape, n_parameters=layer.n_parameters, macs=layer.macs)
        for layer in layers
    ]
    compressor: Any = SimpleNamespace(
        network=SimpleNamespace(layers=layers),
        apply=refuse,
        packed_bytes=packed_bytes,
        active_layers=lambda policy: active,
        other_macs=lambda policy: OTHER_MACS,
        other_parameters=lambda policy: OTHER_PARAMETERS,
    )
    return Candidate(policy, compressor)


def uniform(weight_bits: int, activation_bits: int) -> Policy:
    return Policy.uniform([kind[0] for kind in KINDS], weight_bits, activation_bits)


class TestFreeObjectives:
    @pytest.mark.parametrize("cls", FREE)
    def test_all_are_found_to_be_free_and_exact(self, cls):
        quantity = probe(as_quantity(cls), candidate(uniform(4, 8)))
        assert (quantity.form, quantity.kind) == ("free", "exact")
        assert quantity.value(candidate(uniform(4, 8))) == cls()(candidate(uniform(4, 8)))

    @pytest.mark.parametrize("cls", FREE)
    @given(policy=POLICIES)
    @settings(max_examples=10, deadline=None)
    def test_values_are_positive_floats(self, cls, policy):
        value = cls()(candidate(policy))
        assert type(value) is float
        assert value > 0

    @pytest.mark.parametrize("cls", FREE)
    @given(first=POLICIES, second=POLICIES)
    @settings(max_examples=30, deadline=None)
    def test_more_bits_never_cost_less(self, cls, first, second):
        def larger(a: LayerPolicy, b: LayerPolicy) -> LayerPolicy:
            return LayerPolicy(max(a.weight_bits, b.weight_bits), max(a.activation_bits, b.activation_bits))

        both = Policy({name: larger(first.layers[name], second.layers[name]) for name in first.layers})
        cost = cls()
        assert cost(candidate(both)) >= max(cost(candidate(first)), cost(candidate(second)))

    @given(BITS, BITS)
    def test_uniform_bits_have_closed_forms(self, weight_bits, activation_bits):
        uniformly = candidate(uniform(weight_bits, activation_bits))
        layer_macs = 2304 + 18432 + 80
        assert AverageBits()(uniformly) == weight_bits
        assert BOPs()(uniformly) == layer_macs * weight_bits * activation_bits + OTHER_MACS * 1024
        assert MACs()(uniformly) == layer_macs + OTHER_MACS
        assert Parameters()(uniformly) == 36 + 288 + 240 + 80 + OTHER_PARAMETERS
        assert Size()(uniformly) == 100 + 4 * weight_bits

    def test_what_is_untouched_counts_32_by_32_bits(self):
        untouched = candidate(uniform(32, 32))
        assert BOPs()(untouched) == MACs()(untouched) * 32 * 32

    def test_average_bits_count_layers_by_their_weights(self):
        one_layer = Policy({**uniform(4, 8).layers, "stem": LayerPolicy(8, 8)})
        assert AverageBits()(candidate(one_layer)) == pytest.approx(4 + 4 * 36 / (36 + 288 + 240 + 80))

    @given(POLICIES)
    def test_bops_are_a_sum_over_layers(self, policy):
        """A program that allocates bits relies on it."""
        zero = BOPs()(candidate(uniform(2, 2)))
        names = [kind[0] for kind in KINDS]
        alone = [Policy({**uniform(2, 2).layers, name: policy.layers[name]}) for name in names]
        gains = [BOPs()(candidate(one)) - zero for one in alone]
        assert BOPs()(candidate(policy)) == zero + sum(gains)


class _Split:
    """A split of two batches, the second one smaller."""

    name = "search"

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def batches(self) -> Any:
        return (SimpleNamespace(inputs={"x": part}, targets=None) for part in self.inputs.split(4))


def test_mixed_pairs_are_convex_mixtures_of_two_inputs_and_the_same_every_time() -> None:
    inputs = torch.eye(6)
    objective = KLDivergence(mix=50)
    batches = [batch for batch, targets in objective.inputs(_Split(inputs)) or () if targets is None]
    assert [len(batch["x"]) for batch in batches] == [4] * 12 + [2]
    mixtures = torch.cat([batch["x"] for batch in batches])
    # of unit vectors, a mixture of two different ones has two entries, the weights
    assert torch.equal((mixtures > 0).sum(1), torch.full((50,), 2))
    assert torch.allclose(mixtures.sum(1), torch.ones(50))
    assert mixtures[mixtures > 0].min() >= 0.3 and mixtures.max() <= 0.7
    again = torch.cat([batch["x"] for batch, _ in objective.inputs(_Split(inputs)) or ()])
    assert torch.equal(mixtures, again)
    assert KLDivergence().inputs(_Split(inputs)) is None


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"floating-point numbers, but the search split has torch\.int64"):
        list(KLDivergence(mix=3).inputs(_Split(torch.ones(6, 2, dtype=torch.int64))) or ())
    with pytest.raises(ConfigError, match="number of mixtures"):
        KLDivergence(mix=0)
