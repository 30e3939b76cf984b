from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import ACCURACY, KL, QUANTITIES, SIZE, MemoryJournal, Problem, chain

from evo_mpq.measure.measurements import Values
from evo_mpq.measure.objectives import Constraint
from evo_mpq.optimize.recorded import Interrupted, Recorded, Spending


def recorded(problem: Problem, journal: MemoryJournal | None = None, **settings: Any) -> Recorded:
    constraints = settings.pop("constraints", ())
    return Recorded(
        problem,
        MemoryJournal() if journal is None else journal,
        QUANTITIES,
        [KL, SIZE],
        constraints,
        clock=problem.clock,
        **settings,
    )


@given(st.lists(st.integers(0, 26), min_size=0, max_size=40), st.integers(0, 26))
@settings(deadline=None)
def test_every_genome_is_measured_once_in_its_life_and_rows_come_in_the_order_asked(
    ranks: list[int], more: int
) -> None:
    space = chain(3)
    everything = np.concatenate(list(space.enumerate()))
    problem, journal = Problem(space), MemoryJournal()
    genomes = everything[ranks].reshape(-1, 3)
    measurements = recorded(problem, journal)(genomes)
    assert np.array_equal(measurements.losses, problem.values(genomes)[:, [2, 0]])
    assert problem.n_measured == len(set(ranks))
    # another process that has the journal measures only what is new
    later = recorded(problem, journal)(everything[[*ranks, more]])
    assert np.array_equal(later.losses[:-1], measurements.losses)
    assert problem.n_measured == len({*ranks, more})


def test_genomes_are_measured_in_lexicographic_order_so_that_neighbors_share() -> None:
    space = chain(4)
    problem = Problem(space)
    recorded(problem)(space.sample(30, np.random.default_rng(0)))
    measured = np.concatenate(problem.measured).tolist()
    assert measured == sorted(measured)
    assert len(problem.measured) > 1


@pytest.mark.parametrize("seconds_per_genome", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("least_chunk", [1, 4])
def test_chunks_grow_to_a_few_seconds(seconds_per_genome: float, least_chunk: int) -> None:
    space = chain(6)
    problem = Problem(space, seconds_per_genome=seconds_per_genome)
    evaluate = recorded(problem, least_chunk=least_chunk, chunk_seconds=3.0)
    evaluate(np.concatenate(list(space.enumerate()))[:300])
    evaluate(np.concatenate(list(space.enumerate()))[300:])
    sizes = [len(genomes) for genomes in problem.measured]
    fitting = max(least_chunk, int(3.0 / seconds_per_genome + 1e-9))
    assert sizes[0] == least_chunk
    assert max(sizes) <= fitting
    assert all(after <= 4 * before for before, after in itertools.pairwise(sizes))
    assert fitting - 1 <= sizes[-2] or fitting > 100
    assert evaluate.measured == 729
    assert evaluate.seconds == pytest.approx(729 * seconds_per_genome)


def test_a_chunk_is_journalled_before_the_next_one_is_measured() -> None:
    space, journal = chain(4), MemoryJournal()
    known_before: list[int] = []

    def measure(genomes: np.ndarray) -> tuple[Values, float, int]:
        known_before.append(len(journal.rows()[0]))
        return problem(genomes)

    problem = Problem(space, seconds_per_genome=1.0)
    evaluate = Recorded(measure, journal, QUANTITIES, [KL], clock=problem.clock)
    chunks: list[int] = []
    evaluate(np.concatenate(list(space.enumerate())), on_chunk=lambda: chunks.append(problem.n_measured))
    assert known_before == [0, *np.cumsum([len(genomes) for genomes in problem.measured])[:-1]]
    assert chunks == np.cumsum([len(genomes) for genomes in problem.measured]).tolist()


def test_interrupting_stops_between_chunks_and_loses_nothing() -> None:
    space, journal = chain(4), MemoryJournal()
    problem = Problem(space, seconds_per_genome=1.0)
    genomes = np.concatenate(list(space.enumerate()))[::-1]
    evaluate = recorded(problem, journal, interrupted=lambda: problem.n_measured >= 10)
    with pytest.raises(Interrupted):
        evaluate(genomes)
    rows, measurements = evaluate.known(genomes)
    assert 10 <= problem.n_measured == rows.sum() < 20
    assert np.array_equal(measurements.losses, problem.values(genomes[rows])[:, [2, 0]])
    evaluate(genomes[rows])  # what is known needs no measuring and is not interrupted
    recorded(problem, journal)(genomes)
    assert problem.n_measured == len(genomes)


def test_losses_are_minimized_and_violations_positive_where_a_bound_is_broken() -> None:
    space = chain(3)
    problem = Problem(space)
    genomes = np.concatenate(list(space.enumerate()))
    constraints = [Constraint(SIZE, "<=", 10.0), Constraint(KL, "<=", 2.0)]
    evaluate = Recorded(problem, MemoryJournal(), QUANTITIES, [ACCURACY, SIZE], constraints)
    measurements = evaluate(genomes)
    size, accuracy, kl = problem.values(genomes).T
    assert np.array_equal(measurements.losses, np.stack([-accuracy, size], axis=1))
    assert np.array_equal(measurements.feasible, (size <= 10.0) & (kl <= 2.0))
    assert 0 < measurements.feasible.sum() < len(genomes)
    assert measurements.standard_errors == pytest.approx(0.1 * np.stack([accuracy, size], axis=1))


def test_failures_keep_their_messages_and_have_no_values() -> None:
    space = chain(3)
    measurements = recorded(Problem(space, failing=(2, 3)))(np.array([[0, 0, 1], [1, 1, 1], [2, 0, 0]]))
    assert measurements.failures == (None, "[1, 1, 1] is out of memory", "[2, 0, 0] is out of memory")
    assert np.isnan(measurements.losses).any(axis=1).tolist() == [False, True, True]
    assert not measurements.feasible[1:].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_a_failure_only_where_the_search_needs_it(value: float) -> None:
    def measure(genomes: np.ndarray) -> tuple[Values, float, int]:
        values = np.ones((len(genomes), 3))
        values[0, 2], values[1, 1] = value, value
        return Values(values, values, (None,) * len(genomes)), 0.0, 0

    genomes = np.array([[0, 0], [0, 1]])
    evaluate = Recorded(measure, MemoryJournal(), QUANTITIES, [KL, SIZE], least_chunk=2)
    assert evaluate(genomes).failures == (f"kl_divergence is {value}", None)


def test_what_is_spent_counts_each_genome_once_and_partial_measurements_by_their_share() -> None:
    space, journal, spending = chain(3), MemoryJournal(), Spending()
    problem = Problem(space)
    full = recorded(problem, journal, spending=spending)
    partial = recorded(problem, journal, spending=spending, fidelity="search[0.1]", share=0.25)
    genomes = np.concatenate(list(space.enumerate()))
    full(genomes[:10])
    full(genomes[5:12])
    assert spending.evaluations == 12
    partial(genomes[:4])
    partial(genomes[:4])
    assert spending.evaluations == 13
    assert problem.n_measured == 16
    # a process that is answered from the journal has spent the same
    again = Spending()
    recorded(problem, journal, spending=again)(genomes[:12])
    assert again.evaluations == 12
    assert problem.n_measured == 16
