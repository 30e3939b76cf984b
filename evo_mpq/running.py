"""One run, from a problem to a front: reference, seeds, search, test values, files. Resuming is doing it again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evo_mpq.config import Settings
from evo_mpq.enumeration import refuse_large_enumeration
from evo_mpq.errors import EvoMpqError, RunError
from evo_mpq.feasibility import refuse_infeasible
from evo_mpq.optimize.archive import Archive
from evo_mpq.optimize.budget import Budget
from evo_mpq.optimize.loop import Result, Spending, run_search
from evo_mpq.optimize.pareto import HypervolumeBox
from evo_mpq.problem import BUDGET_KEYS, Problem, fixed_threads
from evo_mpq.reporters import Logged, Reporter, Silent
from evo_mpq.reporting import front_genomes, front_of, report_of, split_note, why_empty
from evo_mpq.results.front import Front, GenomeKey
from evo_mpq.results.journal import Journal
from evo_mpq.results.run_directory import RunDirectory, versions
from evo_mpq.searching import explained, last_tau, make_searcher, prepare, table_share
from evo_mpq.seeding import Seeding
from evo_mpq.session import Session, executor_of, in_process, remember_surroundings

_PATIENCE = 200
"""Generations in a row without a candidate worth measuring, after which a search gives up."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        front: what it found.
        finished: whether its budget was spent; otherwise it was interrupted.
        was_finished: whether nothing was left to do when it was called.
        notes: what the user was told.
    """

    front: Front
    finished: bool
    was_finished: bool
    notes: tuple[str, ...]


def execute(
    problem: Problem,
    directory: RunDirectory,
    *,
    base: Path | None = None,
    workers: int | str | None = None,
    enumerate_anyway: bool = False,
    reporter: Reporter | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Runs a problem in a locked run directory to the end of its budget, or until it is interrupted.

    What the directory's journal knows is not measured again: a run that was killed goes on where it was, and one
    that is finished is only reported again, unless its budget grew.

    Args:
        problem: what to search.
        directory: locked.
        base: folder of the user's modules, for their git revision and so that they are found again.
        workers: overrides the settings' number of processes.
        enumerate_anyway: do not refuse an exhaustive search that takes long.
        reporter: told how far the run is.
        interrupted: asked between chunks of measuring whether to stop.

    Raises:
        EvoMpqError: the directory holds another run, every candidate failed, the disk is full, …
    """
    journal = directory.open_journal(problem.identity(), versions())
    said = Logged(reporter or Silent(), directory)
    try:
        said.log(_beginning(problem, journal))
        outcome = _execute(problem, directory, journal, said, base, workers, enumerate_anyway, interrupted)
    except EvoMpqError as error:
        with contextlib.suppress(RunError):  # where the disk is full
            said.log(f"failed: {error}")
        raise
    said.log(_ending(outcome, journal))
    return outcome


def _execute(
    problem: Problem,
    directory: RunDirectory,
    journal: Journal,
    said: Logged,
    base: Path | None,
    workers: int | str | None,
    enumerate_anyway: bool,
    interrupted: Callable[[], bool],
) -> Outcome:
    for note in [*problem.notes, *remember_surroundings(problem, directory, base)]:
        said.note(note)
    before = _measured(journal)
    budgets = _budgets(problem.settings, journal, said)
    if not journal.n_measured:
        refuse_infeasible(problem)
    if not enumerate_anyway:
        refuse_large_enumeration(problem, journal.n_measured)
    compute = problem.settings.compute
    with fixed_threads(compute.threads), executor_of(problem, workers or compute.workers, said) as executor:
        run = _Run(Session(problem, journal, executor, said, interrupted), budgets[0])
        result = run.search(budgets)
        finished = result.finished and run.show_test()
    front = front_of(problem, journal, result, run.recipes, finished=finished)
    for note in [*run.notes, *_closing_notes(problem, journal, result, front)]:
        said.note(note)
    directory.write_front(front)
    directory.write_predictions(run.explained(result))
    directory.write_report(report_of(problem, journal, front, directory, said.notes))
    return Outcome(front, finished, finished and before == _measured(journal), tuple(said.notes))


def front_so_far(problem: Problem, journal: Journal) -> Front:
    """The front of an unfinished run, found by replaying its journal; nothing is measured.

    Args:
        problem: of the run.
        journal: a rehearsal, see `Journal.rehearse`.

    Raises:
        RunError: the run was stopped before it measured anything.
    """
    if journal.reference() is None:
        raise RunError("the run was stopped before it measured anything; give the command that started it again")
    if not journal.budgets():  # allocated in, not yet searched
        nothing = Archive(problem.space.n_genes, len(problem.objectives), len(problem.constraints))
        return front_of(problem, journal, Result(nothing, None, (), (), "interrupted"), [], finished=False)
    with in_process(problem) as executor:
        budgets = [Budget(**budget) for budget in journal.budgets()]
        run = _Run(Session(problem, journal, executor, Silent(), interrupted=lambda: True), budgets[0])
        result = run.search(budgets)
        finished = result.finished and not run.genomes_to_test() and journal.held_out(None) is not None
    return front_of(problem, journal, result, run.recipes, finished=finished)


def _measured(journal: Journal) -> tuple[int, int]:
    return journal.n_measured, journal.n_held_out


def _beginning(problem: Problem, journal: Journal) -> str:
    if journal.is_new:
        space = problem.space
        names = ", ".join(quantity.name for quantity in problem.objectives)
        return f"started: {names}; {space.n_genes} genes, 10^{space.log10_genomes:.1f} genomes"
    return f"resumed: the journal holds {journal.n_measured} genomes"


def _ending(outcome: Outcome, journal: Journal) -> str:
    state = "finished" if outcome.finished else "interrupted"
    return (
        f"{state}: {journal.n_measured} genomes measured in {journal.cpu_seconds:.1f} CPU seconds, "
        f"front of {len(outcome.front.members)}"
    )


def _budgets(settings: Settings, journal: Journal, said: Logged) -> list[Budget]:
    """All budgets that the run was given, the present one last if it allows more."""
    limits = {key: getattr(settings.search, key) for key in BUDGET_KEYS}
    given = journal.budgets()
    if not given or _allows_more(limits, given[-1]):
        journal.add_budget(limits)
    elif limits != given[-1]:
        said.note(f"this run was given {_budget_text(given[-1])} before; a smaller budget changes nothing")
    return [Budget(**budget) for budget in journal.budgets()]


def _allows_more(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether any limit is higher, or gone."""
    return any(_limit(new[key]) > _limit(old[key]) for key in old)


def _limit(value: float | None) -> float:
    return math.inf if value is None else value


def _budget_text(budget: Mapping[str, Any]) -> str:
    said = [f"{key} {value:g}" for key, value in budget.items() if value is not None]
    return ", ".join(said) or "no limit"


def _closing_notes(problem: Problem, journal: Journal, result: Result, front: Front) -> Iterator[str]:
    yield from result.notes
    reference = journal.reference()
    if reference is not None and reference.failure is not None:
        yield f"the uncompressed network could not be measured: {reference.failure}"
    if journal.divergence:
        yield journal.divergence
    if journal.n_test_showings > 1:
        yield f"the test split was shown after each of {journal.n_test_showings} budgets"
    if front.finished and not front.members:
        yield why_empty(problem, journal)
    if front.finished and (note := split_note(problem, journal, front)) is not None:
        yield note


class _Run:
    """The steps of a run, which share its session."""

    def __init__(self, session: Session, first_budget: Budget) -> None:
        self._session = session
        self._problem = session.problem
        self._journal = session.journal
        self._searcher = make_searcher(session.problem, first_budget)
        self._seeding = Seeding(
            session.problem,
            session.screen,
            session.reporter.note,
            lambda tables, sketches: prepare(self._searcher, session.problem, tables, sketches),
        )

    @property
    def recipes(self) -> list[tuple[str, GenomeKey]]:
        """Name and genome of the recipes that the front is compared with: those that were measured."""
        return [(name, genome) for name, genome in self._seeding.recipes if self._journal.known(genome) is not None]

    @property
    def notes(self) -> list[str]:
        """What the user should know about the recipes."""
        return self._seeding.notes

    def search(self, budgets: Sequence[Budget]) -> Result:
        """The loop, from the reference on; what the journal knows is replayed."""
        problem = self._problem
        reference = self._session.reference_losses()
        spending = Spending()
        spending.count("reference")
        share = table_share(problem)
        return run_search(
            problem.space,
            self._searcher,
            self._session.recorded(spending),
            journal=self._journal,
            budgets=budgets,
            box=lambda losses: HypervolumeBox.around(np.concatenate([reference, losses]), problem.log_scale),
            begin=self._seeding,
            sketch=None if share == 1 else self._session.recorded(spending, share=share),
            screen=self._session.screen,
            # enumerating, a long stretch of the space may be infeasible
            patience=None if problem.settings.search.algorithm == "exhaustive" else _PATIENCE,
            on_progress=lambda progress: self._session.reporter.search(replace(progress, tau=last_tau(self._searcher))),
        )

    def explained(self, result: Result) -> dict[str, Any]:
        """What was expected of what was measured, and what was measured for what."""
        return explained(self._problem, self._searcher, self._seeding.asked, self._seeding.share, result)

    def genomes_to_test(self) -> list[GenomeKey]:
        """What the test split must still be shown to: the front, and the recipes that it is compared with."""
        compared = [genome for _, genome in self.recipes]
        wanted = dict.fromkeys([*front_genomes(self._problem, self._journal), *compared])
        return [genome for genome in wanted if self._journal.held_out(genome) is None]

    def show_test(self) -> bool:
        """Shows the test split to them and to the reference, each once; False if interrupted."""
        return self._session.show_test(self.genomes_to_test())


__all__ = ["Outcome", "execute", "front_so_far"]
