from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_searchers import chain, failing, measured

from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.nsga2 import NSGA2
from evo_mpq.optimize.pareto import HypervolumeBox, hypervolume, non_dominated
from evo_mpq.optimize.searcher import Searcher, SeenGenomes
from evo_mpq.optimize.surrogate_search.acquisition import LEAST_WORK, SharedWork, gains_2, greedy_batch
from evo_mpq.optimize.surrogate_search.models import Cost
from evo_mpq.optimize.surrogate_search.proposals import relatives
from evo_mpq.optimize.surrogate_search.search import SurrogateSearch
from evo_mpq.predict.factored import Factor, FactoredFunction
from evo_mpq.predict.surrogates.gaussian_process import GaussianProcess
from evo_mpq.predict.tables.options import one_at_a_time_genomes
from evo_mpq.predict.tables.sensitivities import least_table, table_genomes
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatMatrix, FloatVector, Genomes, Losses

BITS = (2, 3, 4, 8)
seeds = st.integers(0, 2**32 - 1)


class Planted:
    """Losses that are sums and pairs, and sizes; lower is better in both.

    Args:
        space: a chain of layers with bits.
        seed: of everything that is drawn.
    """

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        n = space.n_genes
        self.space = space
        bits = [np.array(gene.values, dtype=float) for gene in space.genes]
        self.errors = [np.exp(rng.normal(0, 0.7)) * 2.0**-values for values in bits]
        directions = rng.normal(size=(n, 2))
        directions *= 0.8 / np.linalg.norm(directions, axis=1, keepdims=True)
        self.coupling = directions @ directions.T
        np.fill_diagonal(self.coupling, 1.0)
        parameters = np.exp(rng.normal(0, 1, size=n))
        self.size = FactoredFunction(
            tuple(Factor((gene,), parameters[gene] * values) for gene, values in enumerate(bits))
        )

    def loss(self, genomes: Genomes) -> FloatVector:
        errors = np.stack([values[genomes[:, gene]] for gene, values in enumerate(self.errors)], axis=1)
        losses: FloatVector = np.einsum("ni,ij,nj->n", errors, self.coupling, errors) / len(self.errors)
        return losses

    def both(self, genomes: Genomes) -> Losses:
        return np.stack([self.loss(genomes), self.size(genomes)], axis=1)

    def measure(self, genomes: Genomes) -> Measurements:
        return measured(self.both(genomes))

    def searcher(self, seed: int = 0, batch_size: int = 10) -> SurrogateSearch:
        return SurrogateSearch(
            self.space,
            [None, self.size],
            GaussianProcess,
            batch_size=batch_size,
            seed=seed,
            log_scale=[True, False],
        )


def planted(n_genes: int = 8, seed: int = 0) -> Planted:
    return Planted(chain(n_genes, BITS), seed)


def run(searcher: Searcher, measure: Callable[[Genomes], Measurements], n: int) -> Genomes:
    """Genomes in the order asked, at most ``n``, after checking that none repeats."""
    asked: list[Genomes] = []
    seen = SeenGenomes()
    while (left := n - sum(map(len, asked))) > 0 and len(genomes := searcher.ask(left)):
        assert len(genomes) <= left and seen.new(genomes).all()
        seen.add(genomes)
        asked.append(genomes)
        searcher.tell(measure(genomes))
    return np.concatenate(asked)


def proposers(searcher: SurrogateSearch) -> list[str]:
    return [each.proposer for each in searcher.rounds]


# Which candidates are measured


@given(seeds, st.integers(0, 12), st.integers(1, 12))
@settings(max_examples=50)
def test_gains_are_differences_of_hypervolumes(seed: int, n_front: int, n_candidates: int) -> None:
    rng = np.random.default_rng(seed)
    front, candidates = rng.uniform(0, 1.2, size=(n_front, 2)), rng.uniform(-0.2, 1.2, size=(n_candidates, 2))
    one = np.ones(2)
    differences = [hypervolume(np.concatenate([front, row[None]]), one) - hypervolume(front, one) for row in candidates]
    assert gains_2(front, candidates) == pytest.approx(differences, abs=1e-12)


def brute_force_greedy(
    front: FloatMatrix,
    candidates: FloatMatrix,
    n: int,
    weights: FloatVector,
    work: Callable[[list[int]], FloatVector] = lambda chosen: np.ones(1),
) -> list[int]:
    chosen: list[int] = []
    one = np.ones(front.shape[1])
    for _ in range(n):
        known = hypervolume(np.concatenate([front, candidates[chosen]]), one)
        gains = np.array(
            [
                weight * (hypervolume(np.concatenate([front, candidates[chosen], row[None]]), one) - known)
                for row, weight in zip(candidates, weights, strict=True)
            ]
        )
        best = int(np.argmax(np.where(gains > 1e-12, gains, 0.0) / work(chosen)))
        if gains[best] <= 1e-12:
            break
        chosen.append(best)
    return chosen


@given(seeds, st.integers(2, 3), st.integers(0, 6), st.integers(0, 25), st.integers(0, 8), st.booleans())
@settings(max_examples=150)
def test_a_batch_is_that_of_brute_force(
    seed: int, m: int, n_front: int, n_candidates: int, n: int, weighted: bool
) -> None:
    rng = np.random.default_rng(seed)
    front, candidates = rng.uniform(0, 1.1, size=(n_front, m)), rng.uniform(0, 1.1, size=(n_candidates, m))
    weights = rng.random(n_candidates) if weighted else np.ones(n_candidates)
    expected = brute_force_greedy(front, candidates, n, weights) if n_candidates else []
    assert greedy_batch(front, candidates, n, weights if weighted else None) == expected


def computed_anew(space: SearchSpace, row: Genomes, others: Genomes, after: FloatVector) -> float:
    """Of a forward pass, what the longest prefix that a genome has in common with another one leaves."""
    firsts = [np.flatnonzero(row != other) for other in others]
    rest = min((after[first[0]] if len(first) else 0.0 for first in firsts), default=1.0)
    return float(LEAST_WORK + (1 - LEAST_WORK) * rest)


@given(seeds, st.integers(1, 25), st.integers(0, 8))
@settings(max_examples=60)
def test_where_computing_counts_a_batch_gains_most_per_layer_that_is_computed_anew(
    seed: int, n_candidates: int, n: int
) -> None:
    space, rng = chain(5), np.random.default_rng(seed)
    genomes = np.unique(space.sample(n_candidates, rng), axis=0)
    after = np.cumsum(rng.uniform(0.1, 1, size=5)[::-1])[::-1]
    after /= after[0]
    front, candidates = rng.uniform(0, 1.1, size=(4, 2)), rng.uniform(0, 1.1, size=(len(genomes), 2))

    def work(chosen: list[int]) -> FloatVector:
        return np.array([computed_anew(space, row, genomes[chosen], after) for row in genomes])

    expected = brute_force_greedy(front, candidates, n, np.ones(len(genomes)), work)
    assert greedy_batch(front, candidates, n, work=SharedWork(genomes, after)) == expected
    half = expected[: n // 2]
    known = np.concatenate([front, candidates[half]])
    more = greedy_batch(known, candidates, n - len(half), work=SharedWork(genomes, after), chosen=half)
    assert [*half, *more] == expected


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_a_batch_ends_when_nothing_is_gained(m: int) -> None:
    candidates = np.array([[0.5] * m, [0.5] * m, [0.7] * m, [1.5] * m])
    assert greedy_batch(np.empty((0, m)), candidates, 4) == [0]
    assert greedy_batch(np.array([[0.4] * m]), candidates, 4) == []
    assert greedy_batch(np.empty((0, m)), candidates[:0], 4) == []


@given(seeds, st.integers(1, 40))
@settings(max_examples=30)
def test_relatives_are_legal_and_near_their_parents(seed: int, n: int) -> None:
    space, rng = chain(8, BITS), np.random.default_rng(seed)
    front = space.sample(5, rng)
    before = front.copy()
    found = relatives(space, front, n, rng)
    assert found.shape == (n, 8) and space.legal(found).all()
    assert np.array_equal(front, before)
    distances = (found[:, None] != front).sum(axis=2).min(axis=1)
    assert np.all(distances[: n // 2 + n // 4] <= 2)


# What is asked first


def test_the_table_is_asked_first_where_nothing_is_remembered() -> None:
    problem = planted()
    table = one_at_a_time_genomes(problem.space)
    searcher = problem.searcher()
    asked = run(searcher, problem.measure, len(table) + 80)
    assert np.array_equal(asked[: len(table)], table)
    assert proposers(searcher) == ["surrogate"] * 8


def test_the_smaller_the_budget_the_less_of_the_table_is_asked() -> None:
    problem = planted()
    two, one = table_genomes(problem.space, 50), table_genomes(problem.space, 30)
    assert (len(table_genomes(problem.space)), len(two), len(one)) == (25, 17, 9)
    small, smaller, tiny = (run(problem.searcher(), problem.measure, n) for n in (50, 30, 9))
    assert np.array_equal(small[:17], two) and np.array_equal(smaller[:9], one)
    assert not np.array_equal(tiny[:9], one)
    assert (len(small), len(smaller), len(tiny)) == (50, 30, 9)


def test_no_table_is_asked_where_one_was_remembered() -> None:
    problem = planted()
    known = least_table(problem.space)
    searcher = problem.searcher()
    searcher.remember(known, measured(problem.both(known)))
    asked = run(searcher, problem.measure, 30)
    assert proposers(searcher) == ["surrogate"] * 3
    seen = SeenGenomes()
    seen.add(known)
    assert seen.new(asked).all()


def test_what_is_remembered_while_a_table_is_out_is_not_asked() -> None:
    problem = planted()
    searcher, table = problem.searcher(), one_at_a_time_genomes(problem.space)
    first = searcher.ask()
    searcher.tell(measured(problem.both(first)))
    searcher.remember(table[10:20], measured(problem.both(table[10:20])))
    assert np.array_equal(searcher.ask(), table[20:])


# What it lives through


def test_failed_rows_are_survived_and_recorded() -> None:
    problem = planted()

    def measure(genomes: Genomes) -> Measurements:
        failed = genomes.sum(axis=1) % 5 == 3  # not the most expensive genome, but parts of the table
        return failing(measured(problem.both(genomes)), failed)

    searcher = problem.searcher()
    run(searcher, measure, 90)
    assert set(proposers(searcher)) == {"surrogate"}
    told = np.concatenate([each.measured[:, 0] for each in searcher.rounds])
    assert np.isnan(told).any() and np.isfinite(told).any()
    assert all(np.isfinite(each.predicted).all() for each in searcher.rounds)


def test_without_the_center_of_the_table_batches_are_those_of_nsga2() -> None:
    problem = planted()
    most = problem.space.most_expensive()
    searcher = problem.searcher()
    asked = run(
        searcher,
        lambda genomes: failing(measured(problem.both(genomes)), np.all(genomes == most, axis=1)),
        70,
    )
    assert len(asked) == 70 and searcher.rounds == []


def test_what_violates_a_computed_constraint_is_not_proposed() -> None:
    problem = planted()
    limit = float(np.median(problem.size(problem.space.sample(200, np.random.default_rng(0)))))

    def screen(genomes: Genomes) -> FloatMatrix:
        return (problem.size(genomes) - limit)[:, None]

    def measure(genomes: Genomes) -> Measurements:
        violations = screen(genomes)
        # as `loop.py` tells what it did not measure
        losses = np.where(violations > 0, np.nan, problem.both(genomes))
        return measured(losses, violations)

    table = one_at_a_time_genomes(problem.space)
    searcher = SurrogateSearch(
        problem.space, [None, problem.size], GaussianProcess, log_scale=[True, False], screen=screen, n_constraints=1
    )
    searcher.remember(table, measured(problem.both(table), screen(table)))
    cheap = np.zeros((1, 8), dtype=np.int64)
    searcher.remember(cheap, measure(cheap))
    asked = run(searcher, measure, 60)
    sizes = [len(each.measured) for each in searcher.rounds]
    by_surrogate = np.repeat([name == "surrogate" for name in proposers(searcher)], sizes)
    assert by_surrogate.mean() > 0.7
    assert np.all(screen(asked[by_surrogate]) <= 0)


def test_rows_that_were_rejected_unmeasured_teach_nothing_and_harm_nothing() -> None:
    problem = planted()
    most = problem.size(problem.space.most_expensive()[None])[0]

    def measure(genomes: Genomes) -> Measurements:
        violations = (problem.size(genomes) - 0.9 * most)[:, None]
        unmeasured = (violations[:, 0] > 0) & np.any(genomes < problem.space.cardinalities - 1, axis=1)
        return measured(np.where(unmeasured[:, None], np.nan, problem.both(genomes)), violations)

    searcher = SurrogateSearch(
        problem.space, [None, problem.size], GaussianProcess, log_scale=[True, False], n_constraints=1
    )
    told = measure(one_at_a_time_genomes(problem.space))
    assert np.isnan(told.losses).any()
    run(searcher, measure, 60)
    assert all(np.isfinite(each.predicted).all() for each in searcher.rounds)


def test_a_measured_constraint_is_learned() -> None:
    problem = planted()
    others = Planted(problem.space, seed=7)
    limit = float(np.median(others.loss(problem.space.sample(200, np.random.default_rng(0)))))

    def measure(genomes: Genomes) -> Measurements:
        return measured(problem.both(genomes), (others.loss(genomes) - limit)[:, None])

    searcher = SurrogateSearch(
        problem.space,
        [None, problem.size],
        GaussianProcess,
        log_scale=[True, False],
        n_constraints=1,
        measured_constraints=[0],
    )
    asked = run(searcher, measure, 105)
    chosen = asked[len(one_at_a_time_genomes(problem.space)) :]
    assert set(proposers(searcher)) == {"surrogate"}
    # half of all genomes meet it, and fewer of those that are small enough to be of interest
    assert np.mean(others.loss(chosen) <= limit) > 0.6


@pytest.mark.parametrize("kind", ["one", "three", "two measured", "accuracy", "plain cost"])
def test_any_objectives_will_do(kind: str) -> None:
    problem = planted()

    def accuracy(genomes: Genomes) -> FloatVector:
        return -np.exp(-problem.loss(genomes))  # maximized

    def depth(genomes: Genomes) -> FloatVector:
        return genomes.max(axis=1) + 0.1 * np.abs(np.diff(genomes, axis=1)).sum(axis=1)

    objectives: dict[str, tuple[list[Callable[[Genomes], FloatVector]], list[Cost | None], list[bool]]] = {
        "one": ([problem.loss], [None], [True]),
        "three": ([problem.loss, problem.size, depth], [None, problem.size, depth], [True, False, False]),
        "two measured": ([problem.loss, accuracy, problem.size], [None, None, problem.size], [True, False, False]),
        "accuracy": ([accuracy, problem.size], [None, problem.size], [False, False]),
        "plain cost": ([problem.loss, depth], [None, depth], [True, False]),
    }
    functions, costs, log_scale = objectives[kind]

    def losses(genomes: Genomes) -> Losses:
        return np.stack([function(genomes) for function in functions], axis=1)

    searcher = SurrogateSearch(problem.space, costs, GaussianProcess, log_scale=log_scale)
    table = one_at_a_time_genomes(problem.space)
    asked = run(searcher, lambda genomes: measured(losses(genomes)), len(table) + 60)
    if kind == "one":
        assert losses(asked).min() <= losses(problem.space.sample(1000, np.random.default_rng(0))).min()
        return
    assert "surrogate" in proposers(searcher)
    box = HypervolumeBox.around(losses(problem.space.sample(500, np.random.default_rng(1))), log_scale)
    random = problem.space.sample(len(asked), np.random.default_rng(2))
    assert box.hypervolume(losses(asked)) > box.hypervolume(losses(random))


def test_if_every_objective_is_computed_the_remedy_is_named() -> None:
    problem = planted()
    with pytest.raises(ValueError, match="NSGA2 searches them exactly"):
        SurrogateSearch(problem.space, [problem.size], None)


def test_genomes_may_be_asked_one_by_one() -> None:
    problem = planted(4)
    searcher = problem.searcher(batch_size=1)
    asked = run(searcher, problem.measure, 30)
    assert len(asked) == 30 and len(searcher.rounds) == 30 - len(table_genomes(problem.space, 30))


def test_blocks_that_may_be_dropped_stay_canonical() -> None:
    names = ["stem", "block.first", "block.second", "head"]
    space = build_space(
        [SpaceLayer(name) for name in names],
        defaults={"weight_bits": list(BITS)},
        blocks={"block": ("block.first", "block.second")},
        drop=["block"],
    )

    def losses(genomes: Genomes) -> Losses:
        return np.stack([np.exp(-genomes.sum(axis=1)), genomes.sum(axis=1)], axis=1)

    asked = run(SurrogateSearch(space, [None, None], GaussianProcess), lambda rows: measured(losses(rows)), 200)
    assert len(asked) == 200 and np.array_equal(space.canonical(asked), asked)


# How good it is


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_more_than_nsga2_at_equal_measurements(seed: int) -> None:
    problem = planted(12, seed)
    n = len(one_at_a_time_genomes(problem.space)) + 60
    searchers: dict[str, Searcher] = {
        "surrogate": problem.searcher(seed),
        "nsga2": NSGA2(problem.space, 10, seed, log_scale=[True, False]),
    }
    found = {}
    for name, searcher in searchers.items():
        found[name] = problem.both(run(searcher, problem.measure, n))
    box = HypervolumeBox.around(np.concatenate(list(found.values())), [True, False])
    assert box.hypervolume(found["surrogate"]) > box.hypervolume(found["nsga2"])


def test_a_space_small_enough_to_list_is_solved_with_few_measurements() -> None:
    shares = []
    for seed in range(5):
        problem = planted(6, seed)
        everything = problem.both(np.concatenate(list(problem.space.enumerate())))
        box = HypervolumeBox.around(everything, [True, False])
        found = problem.both(run(problem.searcher(seed), problem.measure, 80))
        shares.append(box.hypervolume(found) / box.hypervolume(everything[non_dominated(everything)]))
    assert np.median(shares) > 0.995


def test_worthless_predictions_leave_the_search_to_nsga2() -> None:
    problem = planted()

    def measure(genomes: Genomes) -> Measurements:
        losses = problem.both(genomes)
        losses[:, 0] = [np.random.default_rng(row.astype(np.uint32)).lognormal() for row in genomes]
        return measured(losses)

    searcher = problem.searcher()
    run(searcher, measure, 25 + 200)
    assert proposers(searcher)[0] == "surrogate"
    assert proposers(searcher).count("nsga2") >= len(searcher.rounds) // 2


def test_rounds_say_how_well_was_predicted() -> None:
    problem = planted()
    searcher = problem.searcher()
    asked = run(searcher, problem.measure, 25 + 80)
    assert [each.n_measured for each in searcher.rounds] == list(range(25, 105, 10))
    for each, genomes in zip(searcher.rounds, np.split(asked[25:], 8), strict=True):
        assert each.measured[:, 0] == pytest.approx(np.log10(problem.loss(genomes)))
        assert each.predicted.shape == (10, 1)
    assert np.mean([each.tau for each in searcher.rounds]) > 0.8
