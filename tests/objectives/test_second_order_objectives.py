"""Modelled errors of weights as objectives: sums over layers, of the scores that allocation methods go by."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, cast
from weakref import ref

import networks
import numpy as np
import pytest
import small_runs
import torch

from evo_mpq.compress.channels import WeightForm
from evo_mpq.compress.compressor import Compressor
from evo_mpq.costs import layer_scopes
from evo_mpq.errors import ConfigError
from evo_mpq.measure.candidate import Candidate
from evo_mpq.measure.objectives import as_quantity, probe
from evo_mpq.objectives.fima_error import FIMAError
from evo_mpq.objectives.fisher_error import FisherError
from evo_mpq.objectives.hawq_error import HAWQError
from evo_mpq.objectives.second_order import SecondOrderObjective
from evo_mpq.optimize.programs.elimination import pareto_program
from evo_mpq.predict.factored import FactoredFunction, decomposed
from evo_mpq.predict.statistics.fisher import fisher_diagonal
from evo_mpq.predict.statistics.layer_losses import Forms, LayerLosses
from evo_mpq.predict.statistics.output_fisher import output_fishers, output_losses
from evo_mpq.predict.statistics.perturbations import REMOVED, option_forms, weighted_squares
from evo_mpq.predict.statistics.traces import average_traces
from evo_mpq.predict.tables.options import one_at_a_time_genomes
from evo_mpq.problem import Problem
from evo_mpq.space.building import SpaceGroup, SpaceLayer, build_space
from evo_mpq.space.policy import Policy
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

OBJECTIVES = {"fisher": FisherError(), "hawq": HAWQError(), "fima": FIMAError()}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)

Scores = Callable[[Compressor, Forms], Any]


def _fima(compressor: Compressor, forms: Forms) -> Any:
    return output_losses(compressor, output_fishers(compressor.network, rank=15), forms)


SCORES: dict[str, tuple[Scores, float]] = {
    "fisher": (lambda c, forms: weighted_squares(c, forms, fisher_diagonal(c.network)), 0.5),
    "hawq": (lambda c, forms: weighted_squares(c, forms, average_traces(c.network)), 0.5),
    "fima": (_fima, 1.0),
}
"""What the allocation methods of these names ask for, and the factor to nats, which their tables need not have."""


def compressor() -> Compressor:
    """Of a network with channels to prune and blocks to drop, hardly trained."""
    return networks.compressor_of("digits_resnet")


@cache
def joint_space() -> SearchSpace:
    network = compressor().network
    return build_space(
        [SpaceLayer(layer.name) for layer in network.layers],
        defaults={"weight_bits": [2, 4, 8], "activation_bits": [4, 8]},
        groups=[SpaceGroup(each.n_channels, tuple(each.rows), tuple(each.columns)) for each in network.prune_groups],
        prune={"ratios": [0.0, 0.5]},
        blocks={name: block.layers for name, block in compressor().blocks.items()},
        drop=[*compressor().blocks],
    )


def values(objective: SecondOrderObjective, genomes: Genomes) -> FloatVector:
    return np.array([objective(Candidate(policy, compressor())) for policy in joint_space().decode(genomes)])


@cache
def factored(name: str) -> FactoredFunction:
    problem = cast(Problem, SimpleNamespace(space=joint_space(), network=compressor().network))
    return decomposed(
        joint_space(), lambda rows: values(OBJECTIVES[name], rows), layer_scopes(problem), np.random.default_rng(0)
    )


def samples(n: int, seed: int = 1) -> Genomes:
    return joint_space().sample(n, np.random.default_rng(seed))


@every_objective
def test_what_options_add_alone_is_what_the_allocation_method_says(name: str) -> None:
    space, (scores, factor) = joint_space(), SCORES[name]
    forms = option_forms(space, compressor())
    said = forms.losses(scores(compressor(), forms.by_layer()))
    base, *alone = values(OBJECTIVES[name], one_at_a_time_genomes(space))
    place = 0
    for position, gene in enumerate(space.genes):
        found, place = alone[place : place + gene.cardinality - 1], place + gene.cardinality - 1
        if position in said:
            np.testing.assert_allclose(np.array(found) - base, factor * said[position][:-1], rtol=1e-6, atol=1e-12)
        elif gene.kind == "activation_bits":
            assert found == [base] * len(found)


@every_objective
def test_a_policy_costs_the_sum_of_what_its_layers_cost(name: str) -> None:
    scores, factor = SCORES[name]
    for policy in joint_space().decode(samples(3)):
        nodes = compressor().computed_nodes(policy)
        forms = {
            layer.name: compressor().channels.form(policy, layer) if layer.uses[0].node in nodes else REMOVED
            for layer in compressor().network.layers
        }
        expected = factor * sum(scores(compressor(), {layer: [form] for layer, form in forms.items()}).values())
        assert OBJECTIVES[name](Candidate(policy, compressor())) == pytest.approx(expected, rel=1e-9)


@every_objective
def test_the_uncompressed_network_has_no_error_and_nothing_is_computed_to_know_it(name: str) -> None:
    fresh = copy.copy(compressor())
    # has no weights, no data
    fresh.network = cast(Any, SimpleNamespace(layers=fresh.network.layers, graph=fresh.network.graph))
    policy = Policy.uniform(joint_space().layers, 32, 32)
    assert OBJECTIVES[name](Candidate(policy, fresh)) == 0
    activations = Policy.uniform(joint_space().layers, 32, 4)
    assert OBJECTIVES[name](Candidate(activations, fresh)) == 0


@every_objective
def test_more_bits_make_a_smaller_error_and_any_compression_some(name: str) -> None:
    uniform = [Policy.uniform(joint_space().layers, bits, 8) for bits in (8, 6, 4, 3, 2)]
    found = [OBJECTIVES[name](Candidate(policy, compressor())) for policy in uniform]
    assert found[0] > 0
    assert found == sorted(found) and found[-1] > 100 * found[0]


@pytest.mark.parametrize("name", ["fisher", "hawq"])
def test_a_dropped_block_is_an_error_as_large_as_its_weights(name: str) -> None:
    space = joint_space()
    curvature: Any = {"fisher": fisher_diagonal, "hawq": average_traces}[name](compressor().network)
    floats = Policy.uniform(space.layers, 32, 32)
    for block, inside in compressor().blocks.items():
        dropped = Policy(floats.layers, {f"{block}.drop": True})
        layers = [layer for layer in compressor().network.layers if layer.name in inside.layers]
        weights = {layer.name: compressor().network.tensors[layer.parameter].double() for layer in layers}
        expected = sum(float((curvature[n] * weight.square()).sum()) for n, weight in weights.items()) / 2
        assert expected > 0
        assert OBJECTIVES[name](Candidate(dropped, compressor())) == pytest.approx(expected)


@every_objective
def test_it_is_a_sum_over_layers(name: str) -> None:
    genomes = samples(100)
    np.testing.assert_allclose(factored(name)(genomes), values(OBJECTIVES[name], genomes), rtol=1e-9)


@every_objective
def test_exact_programs_find_its_trade_offs(name: str) -> None:
    def bytes_of(rows: Genomes) -> FloatVector:
        policies = joint_space().decode(rows)
        return np.array([float(compressor().packed_bytes(each, as_candidate=True)) for each in policies])

    problem = cast(Problem, SimpleNamespace(space=joint_space(), network=compressor().network))
    cost = decomposed(joint_space(), bytes_of, layer_scopes(problem), np.random.default_rng(0))
    front = pareto_program(joint_space(), factored(name), cost)
    np.testing.assert_allclose(values(OBJECTIVES[name], front.genomes), front.losses, rtol=1e-9)
    genomes = samples(200)
    sizes = cost(genomes) + 1e-3 * cost(joint_space().most_expensive()[None])  # what thinning may cost
    best = front.losses[np.searchsorted(front.costs, sizes, side="right") - 1]
    assert np.all(best <= factored(name)(genomes) * (1 + 1e-9))


@every_objective
def test_it_is_modelled_and_free(name: str) -> None:
    candidate = Candidate(joint_space().decode(samples(1))[0], compressor())
    found = probe(as_quantity(OBJECTIVES[name]), candidate)
    assert (found.form, found.kind, found.unit, found.log_scale) == ("free", "modelled", "nats", True)
    assert "_module" not in vars(candidate)


@every_objective
def test_objectives_that_are_told_of_candidates_and_others_and_pickled_ones_agree(name: str) -> None:
    objective = type(OBJECTIVES[name])()
    policies = joint_space().decode(samples(4))
    objective.prepare_all([Candidate(policy, compressor()) for policy in policies])
    assert pickle.loads(pickle.dumps(objective)) == objective
    for policy in policies:
        expected = OBJECTIVES[name](Candidate(policy, compressor()))
        for other in (objective, pickle.loads(pickle.dumps(objective))):
            assert other(Candidate(policy, compressor())) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("cls", [FisherError, HAWQError, FIMAError])
def test_the_same_seed_gives_the_same_and_another_one_another(cls: Any) -> None:
    policy = joint_space().decode(samples(1))[0]
    first, again, other = (cls(seed=seed)(Candidate(policy, compressor())) for seed in (0, 0, 1))
    assert first == again != other
    assert other == pytest.approx(first, rel=0.5)


def test_a_higher_rank_leaves_less_to_the_diagonal() -> None:
    policy = joint_space().decode(samples(1))[0]
    diagonal, low, full = (FIMAError(rank=rank)(Candidate(policy, compressor())) for rank in (0, 2, 1000))
    assert len({diagonal, low, full}) == 3
    assert low == pytest.approx(full, rel=1) and diagonal == pytest.approx(full, rel=1)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (FisherError, {"probes": 0}),
        (HAWQError, {"seed": -1}),
        (HAWQError, {"probes": 2.5}),
        (FIMAError, {"rank": -1}),
        (FIMAError, {"rank": True}),
    ],
)
def test_options_are_whole_numbers(cls: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected a whole number of at least") as caught:
        cls(**options)
    assert [mistake.path for mistake in caught.value.mistakes] == [(key,) for key in options]


def test_statistics_are_computed_once_and_forms_once_and_all_is_gone_with_the_compressor() -> None:
    asked: list[tuple[str, WeightForm]] = []
    n_statistics = []

    def losses(compressor: Compressor, forms: Forms, statistics: float) -> dict[tuple[str, WeightForm], float]:
        new = [(name, form) for name, rows in forms.items() for form in rows]
        asked.extend(new)
        return dict.fromkeys(new, statistics)

    def statistics(network: Any) -> float:
        n_statistics.append(network)
        return 1.0

    computed = LayerLosses(statistics, losses)
    own = copy.copy(compressor())
    policies = joint_space().decode(samples(20))
    for policy in [*policies, *policies]:
        assert computed(own, policy) == len(compressor().network.layers)
    assert len(n_statistics) == 1
    assert len(asked) == len(set(asked)) > len(compressor().network.layers)
    gone = ref(own)
    del own
    gc.collect()
    assert gone() is None
    assert len(computed._known) == len(computed._found) == 0


def test_an_objective_keeps_no_compressor_alive() -> None:
    objective, own = HAWQError(), copy.copy(compressor())
    assert objective(Candidate(joint_space().decode(samples(1))[0], own)) > 0
    gone = ref(own)
    del own
    gc.collect()
    assert gone() is None


def test_gradients_that_are_off_are_no_trouble() -> None:
    policy = joint_space().decode(samples(1))[0]
    with torch.no_grad():
        found = FisherError()(Candidate(policy, compressor()))
    assert found == FisherError()(Candidate(policy, compressor()))


class TestRuns:
    HAWQ = '{kind: "evo_mpq.objectives.hawq_error:HAWQError"}'
    FISHER = '{kind: "evo_mpq.objectives.fisher_error:FisherError"}'
    FIMA = '{kind: "evo_mpq.objectives.fima_error:FIMAError", rank: 2}'

    def test_it_is_an_objective_beside_measured_ones_and_a_metric(self, tmp_path):
        yaml = small_runs.YAML + f"objectives: [kl_divergence, size, {self.HAWQ}]\nmetrics: [accuracy, {self.FIMA}]\n"
        yaml += 'constraints: ["hawq_error <= 0.05"]\n'
        path = small_runs.write_project(tmp_path, yaml)
        small_runs.run(path, tmp_path / "run")
        front = small_runs.front(tmp_path / "run")
        kinds = {entry["name"]: entry["kind"] for entry in front["objectives"]}
        assert kinds == {"kl_divergence": "measured", "size": "exact", "hawq_error": "modelled"}
        assert all(0 < member["search"]["hawq_error"] <= 0.05 for member in front["members"])
        assert all(member["search"]["fima_error"] > 0 for member in front["members"])
        small_runs.run(path, tmp_path / "again")
        assert small_runs.findings(tmp_path / "again") == small_runs.findings(tmp_path / "run")

    def test_a_front_of_modelled_error_and_size_measures_nothing(self, tmp_path):
        yaml = small_runs.YAML + f"objectives: [{self.FISHER}, size]\nmetrics: []\n"
        small_runs.run(small_runs.write_project(tmp_path, yaml), tmp_path / "run")
        found = small_runs.front(tmp_path / "run")
        assert found["cost"]["sample_forwards"] == 0
        errors = [member["search"]["fisher_error"] for member in found["members"]]
        assert len(errors) > 3 and len(set(errors)) == len(errors)
