from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import ACCURACY, KL, QUANTITIES, SIZE, MemoryJournal, Problem, chain

from evo_mpq.errors import MeasurementError
from evo_mpq.measure.measurements import Measurements, Values
from evo_mpq.measure.objectives import Constraint, Quantity
from evo_mpq.optimize.budget import Budget
from evo_mpq.optimize.exhaustive import Exhaustive
from evo_mpq.optimize.loop import Begin, Progress, Result, Start, run_search
from evo_mpq.optimize.nsga2 import NSGA2
from evo_mpq.optimize.pareto import HypervolumeBox, non_dominated
from evo_mpq.optimize.random_search import RandomSearch
from evo_mpq.optimize.recorded import Journal, Recorded, Spending
from evo_mpq.optimize.searcher import Searcher
from evo_mpq.optimize.starts import uniform_ladder
from evo_mpq.results.journal import Journal as DiskJournal
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import Genomes

SEARCHERS: dict[str, Callable[[SearchSpace], Searcher]] = {
    "nsga2": lambda space: NSGA2(space, population_size=8, seed=0),
    "random": lambda space: RandomSearch(space, chunk=8, seed=0),
    "exhaustive": lambda space: Exhaustive(space, chunk=8),
}


def search(
    problem: Problem,
    *budgets: Budget,
    journal: Journal | None = None,
    searcher: Searcher | str = "nsga2",
    objectives: Sequence[Quantity] = (KL, SIZE),
    constraints: Sequence[Constraint] = (),
    interrupted: Callable[[], bool] = lambda: False,
    measure: Any = None,
    starts: Genomes | None = None,
    begin: Begin | None = None,
    spending: Spending | None = None,
    **settings: Any,
) -> Result:
    space = problem.space
    journal = MemoryJournal() if journal is None else journal
    log_scale = [objective.log_scale for objective in objectives]
    return run_search(
        space,
        SEARCHERS[searcher](space) if isinstance(searcher, str) else searcher,
        Recorded(
            problem if measure is None else measure,
            journal,
            QUANTITIES,
            objectives,
            constraints,
            spending=spending,
            interrupted=interrupted,
            clock=problem.clock,
        ),
        journal=journal,
        budgets=budgets,
        box=lambda losses: HypervolumeBox.around(losses, log_scale),
        begin=begin or (lambda start: measure_them(start.measure, ladder(space) if starts is None else starts)),
        clock=problem.clock,
        **settings,
    )


def measure_them(measure: Callable[[Genomes], Measurements], genomes: Genomes) -> None:
    measure(genomes)


def ladder(space: SearchSpace) -> Genomes:
    return np.array([genome for _, genome in uniform_ladder(space)])


def summary(result: Result) -> tuple[Any, ...]:
    """All that a run is a function of its journal in."""
    archive = result.archive
    return (
        archive.genomes.tolist(),
        np.nan_to_num(archive.losses).tolist(),
        archive.failures,
        archive.front().tolist(),
        result.hypervolumes,
        result.notes,
        result.reason,
    )


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_budget_of_evaluations_is_met_exactly(searcher: str) -> None:
    for evaluations in (1, 2, 3, 10, 11, 29):
        problem = Problem(chain(5))
        result = search(problem, Budget(evaluations=evaluations), searcher=searcher)
        assert problem.n_measured == len(result.archive) == evaluations
        assert result.reason == "evaluations"
        assert result.finished


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_small_space_is_exhausted_and_its_front_is_exact(searcher: str) -> None:
    problem = Problem(chain(4))
    result = search(problem, Budget(evaluations=1000), searcher=searcher)
    everything = problem.values(np.concatenate(list(problem.space.enumerate())))[:, [2, 0]]
    assert result.reason == "exhausted"
    assert problem.n_measured == len(result.archive) == 81
    front = result.archive.front_losses()
    exact = everything[non_dominated(everything)]
    assert {tuple(row) for row in front} == {tuple(row) for row in exact}


def test_without_a_limit_a_search_ends_with_the_space() -> None:
    assert search(Problem(chain(3)), Budget()).reason == "exhausted"


def test_the_front_weakly_dominates_every_feasible_start_and_the_hypervolume_never_falls() -> None:
    problem = Problem(chain(6), failing=(6,))
    result = search(problem, Budget(evaluations=150), constraints=[Constraint(SIZE, "<=", 25.0)])
    archive = result.archive
    front = archive.front_losses()
    feasible = [row for row in range(3) if archive.measurements.feasible[row]]
    assert feasible
    for row in feasible:
        assert np.any(np.all(front <= archive.losses[row], axis=1))
    measured, volumes = np.array(result.hypervolumes).T
    assert np.all(np.diff(volumes) >= 0)
    assert np.all(np.diff(measured) > 0)
    assert measured[0] == 3 and measured[-1] == 150
    assert result.box is not None
    assert volumes[-1] == pytest.approx(result.box.hypervolume(front))


def test_starts_come_first_and_are_not_measured_again() -> None:
    problem = Problem(chain(6))
    result = search(problem, Budget(evaluations=60))
    starts = ladder(problem.space)
    assert np.array_equal(result.archive.genomes[: len(starts)], starts)
    assert len(np.unique(result.archive.genomes, axis=0)) == problem.n_measured == 60


@pytest.mark.parametrize("evaluations", [6, 9, 30])
def test_what_is_measured_on_a_part_of_the_samples_counts_as_that_part_and_is_of_no_front(evaluations: int) -> None:
    problem, journal = Problem(chain(5, 3)), MemoryJournal()
    seen: list[Any] = []
    few = problem.space.sample(16, np.random.default_rng(0))

    def begin(start: Start) -> None:
        start.measure(ladder(problem.space))
        seen.append(start.left())
        seen.append(len(start.sketch(few)))
        start.sketch(few)  # known by then
        seen.append(start.left())

    spending = Spending()
    sketch = Recorded(problem, journal, QUANTITIES, (KL, SIZE), spending=spending, fidelity="search[0.1]", share=0.25)
    result = search(
        problem, Budget(evaluations=evaluations), journal=journal, begin=begin, sketch=sketch, spending=spending
    )
    n_ladder = len(ladder(problem.space))
    affordable = min(16, 4 * (evaluations - n_ladder))
    assert seen == ([evaluations - n_ladder, 16, evaluations - n_ladder - 4] if affordable == 16 else seen[:1])
    part = {tuple(genome) for genome in few[:affordable].tolist()}
    assert all(journal.known(genome, "search[0.1]") is not None for genome in part)
    assert len(result.archive) == evaluations - affordable / 4
    assert spending.evaluations == evaluations


def test_the_box_is_made_of_the_starts_and_stays() -> None:
    problem = Problem(chain(6))
    result = search(problem, Budget(evaluations=60))
    expected = HypervolumeBox.around(problem.values(ladder(problem.space))[:, [2, 0]], [True, False])
    assert result.box is not None
    assert np.array_equal(result.box.reference_point, expected.reference_point)


@pytest.mark.parametrize("searcher", SEARCHERS)
@given(cut=st.floats(0, 1), failing=st.sampled_from([(), (4, 5), (7,)]), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_a_run_resumed_from_any_record_ends_like_the_uninterrupted_run(
    searcher: str, cut: float, failing: tuple[int, ...], seed: int
) -> None:
    space = chain(5)
    budget = Budget(evaluations=70, stall=6)
    whole = MemoryJournal()
    expected = search(Problem(space, failing=failing, seed=seed), budget, journal=whole, searcher=searcher)
    torn = MemoryJournal(whole.records[: int(cut * len(whole.records))])
    n_known = len(torn.rows()[0])
    problem = Problem(space, failing=failing, seed=seed)
    resumed = search(problem, budget, journal=torn, searcher=searcher)
    assert summary(resumed) == summary(expected)
    assert problem.n_measured == len(expected.archive) - n_known
    assert not torn.diverged


@given(n_chunks=st.integers(0, 12), seconds=st.sampled_from([0.5, 2.0]))
@settings(deadline=None, max_examples=15)
def test_an_interrupted_run_keeps_what_it_measured_and_goes_on(n_chunks: int, seconds: float) -> None:
    space, budget = chain(5), Budget(evaluations=60)
    expected = search(Problem(space, seconds_per_genome=seconds), budget)
    journal = MemoryJournal()
    problem = Problem(space, seconds_per_genome=seconds)
    partial = search(problem, budget, journal=journal, interrupted=lambda: len(problem.measured) >= n_chunks)
    assert (partial.reason, partial.finished) == ("interrupted", False)
    assert len(partial.archive) == problem.n_measured == len(journal.rows()[0]) < 60
    if partial.box is not None:
        volume = partial.box.hypervolume(partial.archive.front_losses())
        assert partial.hypervolumes[-1] == (len(partial.archive), volume)
    again = Problem(space, seconds_per_genome=seconds)
    assert summary(search(again, budget, journal=journal.reopened())) == summary(expected)
    assert again.n_measured + problem.n_measured == 60


@pytest.mark.parametrize("searcher", SEARCHERS)
@given(first=st.integers(1, 50), second=st.integers(1, 90), cut=st.floats(0, 1))
@settings(deadline=None, max_examples=15)
def test_going_on_with_a_larger_budget_is_the_run_that_declared_both(
    searcher: str, first: int, second: int, cut: float
) -> None:
    space = chain(5)
    budgets = [Budget(evaluations=first), Budget(evaluations=second)]
    declared = search(Problem(space), *budgets, searcher=searcher)
    journal = MemoryJournal()
    search(Problem(space), budgets[0], journal=journal, searcher=searcher)
    # also if the first run was killed before its end
    journal = MemoryJournal(journal.records[: int(cut * len(journal.records))])
    assert summary(search(Problem(space), *budgets, journal=journal, searcher=searcher)) == summary(declared)
    assert len(declared.archive) == max(first, second)


def test_minutes_end_a_search_at_the_pace_it_has() -> None:
    problem = Problem(chain(8), seconds_per_genome=1.0)
    result = search(problem, Budget(minutes=1.0))
    assert result.reason == "minutes"
    assert 60 <= problem.n_measured <= 61
    assert len(result.archive) == problem.n_measured


def test_a_replay_takes_decisions_by_the_clock_from_the_journal() -> None:
    journal = MemoryJournal()
    expected = search(Problem(chain(8), seconds_per_genome=1.0), Budget(minutes=1.0), journal=journal)
    slow = Problem(chain(8), seconds_per_genome=100.0)
    assert summary(search(slow, Budget(minutes=1.0), journal=journal.reopened())) == summary(expected)
    assert slow.n_measured == 0


def test_time_is_summed_over_interruptions_and_budgets() -> None:
    journal = MemoryJournal()
    problem = Problem(chain(8), seconds_per_genome=1.0)
    search(problem, Budget(minutes=1.0), journal=journal, interrupted=lambda: problem.n_measured >= 30)
    interrupted_after = problem.n_measured
    assert 30 <= interrupted_after < 60
    again, journal = Problem(chain(8), seconds_per_genome=1.0), journal.reopened()
    search(again, Budget(minutes=1.0), journal=journal)
    # what was measured since the last generation that was complete is not in the count
    assert 60 <= interrupted_after + again.n_measured <= 60 + 8
    further = Problem(chain(8), seconds_per_genome=1.0)
    search(further, Budget(minutes=1.0), Budget(minutes=1.5), journal=journal.reopened())
    assert further.n_measured == pytest.approx(30, abs=1)


def test_a_search_that_does_not_get_on_ends_by_its_stall() -> None:
    # One objective, whose best genome is among the starts: nothing is gained after them.
    result = search(Problem(chain(8)), Budget(stall=3), objectives=[SIZE])
    assert result.reason == "stall"
    assert len(result.hypervolumes) == 4
    assert len({volume for _, volume in result.hypervolumes}) == 1


@pytest.mark.parametrize("objectives", [[KL], [KL, SIZE, ACCURACY]], ids=["one", "three"])
def test_any_number_of_objectives_is_searched(objectives: list[Quantity]) -> None:
    problem = Problem(chain(6))
    result = search(problem, Budget(evaluations=120), objectives=objectives)
    losses = result.archive.losses
    assert losses.shape == (120, len(objectives))
    assert result.archive.front().tolist() == np.flatnonzero(non_dominated(losses)).tolist()
    assert result.hypervolumes[-1][1] > 0


def test_the_front_holds_only_what_meets_the_constraints() -> None:
    problem = Problem(chain(6))
    bound = 15.0
    result = search(problem, Budget(evaluations=100), constraints=[Constraint(SIZE, "<=", bound)])
    archive = result.archive
    assert np.all(archive.losses[archive.front(), 1] <= bound)
    assert np.sum(archive.losses[:, 1] <= bound) > 50  # and the search stays near them


def test_what_breaks_a_constraint_that_is_free_is_not_measured() -> None:
    problem = Problem(chain(6))
    bound = 15.0

    def screen(genomes: Genomes) -> np.ndarray:
        return problem.values(genomes)[:, :1] - bound

    result = search(
        problem,
        Budget(evaluations=100),
        constraints=[Constraint(SIZE, "<=", bound)],
        screen=screen,
        starts=problem.space.cheapest()[None],
    )
    assert len(result.archive) == problem.n_measured == 100
    assert result.archive.measurements.feasible.all()


def test_a_search_gives_up_when_nothing_can_meet_a_free_constraint() -> None:
    problem = Problem(chain(15))
    result = search(
        problem,
        Budget(evaluations=100),
        constraints=[Constraint(SIZE, "<=", 0.0)],
        screen=lambda genomes: problem.values(genomes)[:, :1],
    )
    assert result.reason == "infeasible"
    assert problem.n_measured == 3  # the starts
    assert any("gave up" in note for note in result.notes)
    assert len(result.archive.front()) == 0


def test_an_exhaustive_search_never_gives_up() -> None:
    problem = Problem(chain(5))
    result = search(
        problem,
        Budget(),
        searcher="exhaustive",
        constraints=[Constraint(SIZE, "<=", 0.0)],
        screen=lambda genomes: 5.0 - genomes.sum(axis=1, keepdims=True),
        patience=None,
        starts=problem.space.most_expensive()[None],
    )
    assert result.reason == "exhausted"
    assert problem.n_measured == sum(sum(genome) >= 5 for genome in itertools.product(range(3), repeat=5))


def test_failures_are_kept_apart_and_told() -> None:
    problem = Problem(chain(5), failing=(3, 4, 5))
    result = search(problem, Budget(evaluations=100))
    archive = result.archive
    failed = np.isin(archive.genomes.sum(axis=1), (3, 4, 5))
    assert [failure is not None for failure in archive.failures] == failed.tolist()
    assert not failed[archive.front()].any()
    assert any(note.startswith(f"{failed.sum()} of 100 candidates failed") for note in result.notes)


@pytest.mark.parametrize("evaluations", [2, 500])
def test_a_search_in_which_everything_fails_ends_with_the_first_message(evaluations: int) -> None:
    problem = Problem(chain(6), failing=tuple(range(20)))
    with pytest.raises(MeasurementError, match=r"candidates.*failed.*\[0, 0, 0, 0, 0, 0\] is out of memory"):
        search(problem, Budget(evaluations=evaluations))
    assert problem.n_measured < 20


def test_starts_that_all_fail_leave_the_box_to_the_first_generation() -> None:
    problem = Problem(chain(6), failing=(0, 6, 12))
    result = search(problem, Budget(evaluations=80))
    assert result.box is not None
    assert result.hypervolumes[0][0] > 3
    assert len(result.archive.front()) > 0


def test_an_objective_that_does_not_vary_is_said_so() -> None:
    def measure(genomes: Genomes) -> tuple[Values, float, int]:
        values, cpu_seconds, samples = problem(genomes)
        values.values[:, 1] = 0.5
        return values, cpu_seconds, samples

    problem = Problem(chain(5))
    result = search(problem, Budget(evaluations=60), objectives=[ACCURACY, SIZE], measure=measure)
    (note,) = result.notes
    assert note.startswith("accuracy is 0.5 for all of the first")
    assert search(Problem(chain(5)), Budget(evaluations=60)).notes == ()


def test_progress_is_told_at_least_every_generation() -> None:
    problem = Problem(chain(6), seconds_per_genome=1.0)
    seen: list[Progress] = []
    result = search(problem, Budget(evaluations=80), on_progress=seen.append)
    assert {progress.generation for progress in seen} == set(range(len(result.hypervolumes)))
    measured = [progress.measured for progress in seen]
    assert measured == sorted(measured) and measured[-1] == 80
    assert all(progress.evaluations == 80 for progress in seen)
    assert seen[-1].candidates_per_second == pytest.approx(1.0)
    assert seen[-1].seconds_left == 0
    assert seen[len(seen) // 2].seconds_left == pytest.approx(80 - measured[len(seen) // 2])
    assert seen[-1].front_size == len(result.archive.front())
    assert seen[-1].hypervolume == result.hypervolumes[-1][1]


def test_a_run_that_goes_another_way_on_replay_forgets_nothing_it_has_paid_for() -> None:
    space, budget, journal = chain(6), Budget(evaluations=100), MemoryJournal()
    search(Problem(space), budget, journal=journal)
    paid = {tuple(row) for row in journal.rows()[0].tolist()}
    # another seed stands for another version of a library
    problem, journal = Problem(space), journal.reopened()
    result = search(problem, budget, journal=journal, searcher=NSGA2(space, population_size=8, seed=7))
    assert journal.diverged
    assert paid <= {tuple(row) for row in result.archive.genomes.tolist()}
    assert problem.n_measured <= 8  # the generation in which it was noticed
    assert np.array_equal(result.archive.genomes[:3], ladder(space))
    original = HypervolumeBox.around(problem.values(ladder(space))[:, [2, 0]], [True, False])
    assert result.box is not None
    assert np.array_equal(result.box.reference_point, original.reference_point)
    # and it goes on searching from there
    more = search(
        problem,
        budget,
        Budget(evaluations=140),
        journal=journal.reopened(),
        searcher=NSGA2(space, population_size=8, seed=7),
    )
    assert len(more.archive) >= 140
    assert paid <= {tuple(row) for row in more.archive.genomes.tolist()}


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.93])
def test_the_journal_on_disk_replays_like_the_one_in_memory(tmp_path: Path, cut: float) -> None:
    space, path = chain(6), tmp_path / "journal"
    expected = search(Problem(space), Budget(evaluations=60, stall=20))
    with DiskJournal.open(path, {}, {}) as journal:
        assert summary(search(Problem(space), Budget(evaluations=60, stall=20), journal=journal)) == summary(expected)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with DiskJournal.open(path, {}, {}) as journal:
        known = journal.n_measured
        problem = Problem(space)
        resumed = search(problem, Budget(evaluations=60, stall=20), journal=journal)
        assert summary(resumed) == summary(expected)
        assert known + problem.n_measured == 60
        assert not journal.diverged


def test_a_search_needs_a_budget() -> None:
    with pytest.raises(ValueError, match="at least one budget"):
        search(Problem(chain(3)))


def test_spaces_too_large_for_a_float_can_be_searched() -> None:
    problem = Problem(chain(400, 7), seconds_per_genome=0.1)
    result = search(problem, Budget(evaluations=30))
    assert len(result.archive) == 30


def test_quantities_that_are_not_searched_need_not_succeed() -> None:
    def measure(genomes: Genomes) -> tuple[Values, float, int]:
        values, cpu_seconds, samples = problem(genomes)
        values.values[:, 1] = np.nan
        return values, cpu_seconds, samples

    problem = Problem(chain(4))
    assert search(problem, Budget(evaluations=20), measure=measure).archive.succeeded.all()
