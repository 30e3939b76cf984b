"""One run, from a problem to a front: reference, seeds, search, test values, files. Resuming is doing it again."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evo_mpq import plugins
from evo_mpq.config import Settings, dump, resolved
from evo_mpq.enumeration import refuse_large_enumeration
from evo_mpq.errors import EvoMpqError, RunError
from evo_mpq.feasibility import refuse_infeasible
from evo_mpq.measure.devices import CPU, full_name
from evo_mpq.measure.executors import Automatic, Executor, InProcess, Processes, picklable
from evo_mpq.measure.measurer import Measurer
from evo_mpq.measure.statistics import Interval
from evo_mpq.optimize.budget import Budget
from evo_mpq.optimize.exhaustive import Exhaustive
from evo_mpq.optimize.loop import Progress, Recorded, Result, Spending, run_search
from evo_mpq.optimize.nsga2 import NSGA2
from evo_mpq.optimize.pareto import HypervolumeBox
from evo_mpq.optimize.random_search import RandomSearch
from evo_mpq.optimize.searcher import Searcher
from evo_mpq.problem import BUDGET_KEYS, Problem, fixed_threads
from evo_mpq.reporting import front_genomes, front_of, report_of, seeds, why_empty
from evo_mpq.results.front import Front, GenomeKey
from evo_mpq.results.journal import HeldOut, Journal
from evo_mpq.results.run_directory import RunDirectory, changed_sources, environment, versions
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import Losses

_TEST_CHUNK = 16
"""Candidates that are shown the test split between two looks at whether to stop."""

_LEAST_CHUNK = 4
"""Candidates that are measured between two looks at whether to stop, however long they take."""

_PATIENCE = 200
"""Generations in a row without a candidate worth measuring, after which a search gives up."""


class Reporter(Protocol):
    """Where a run says how far it is."""

    def stage(self, done: int, total: int, message: str) -> None:
        """A step before or after the search; ``total`` 0 where the length is not known."""

    def search(self, progress: Progress) -> None:
        """The search itself."""

    def note(self, message: str) -> None:
        """Something the user should know."""


class Silent:
    """Says nothing."""

    def stage(self, done: int, total: int, message: str) -> None:
        """Nothing."""

    def search(self, progress: Progress) -> None:
        """Nothing."""

    def note(self, message: str) -> None:
        """Nothing."""


class Logged:
    """Tells a reporter, and writes to the run's ``log.txt`` what is worth reading there later.

    Args:
        reporter: who is told everything.
        directory: of the run.
    """

    def __init__(self, reporter: Reporter, directory: RunDirectory) -> None:
        self._reporter = reporter
        self._directory = directory
        self._stage = ""
        self._progress: Progress | None = None
        self.notes: list[str] = []
        """What was noted, each once, in order."""

    def stage(self, done: int, total: int, message: str) -> None:
        """A step before or after the search; its beginning is logged."""
        if message != self._stage:
            self._stage = message
            self.log(message)
        self._reporter.stage(done, total, message)

    def search(self, progress: Progress) -> None:
        """The search itself; the end of each generation is logged, but none while the journal is replayed."""
        if self._progress is not None and self._progress.generation != progress.generation:
            self._log_generation()
        if progress.candidates_per_second:
            self._progress = progress
        self._reporter.search(progress)

    def note(self, message: str) -> None:
        """Something the user should know; said once."""
        if message not in self.notes:
            self.notes.append(message)
            self.log(f"note: {message}")
            self._reporter.note(message)

    def log(self, message: str) -> None:
        """A line for the log alone."""
        self._log_generation()
        self._directory.log(message)

    def _log_generation(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            volume = "" if progress.hypervolume is None else f"hypervolume {progress.hypervolume:.6g}, "
            self._directory.log(
                f"generation {progress.generation}: measured {progress.measured:g}, {volume}front of "
                f"{progress.front_size}, {progress.candidates_per_second:.3g} candidates/s"
            )


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
    for note in [*problem.notes, *_remember_surroundings(problem, directory, base)]:
        said.note(note)
    before = _measured(journal)
    budgets = _budgets(problem.settings, journal, said)
    if not journal.n_measured:
        refuse_infeasible(problem)
    if not enumerate_anyway:
        refuse_large_enumeration(problem, journal.n_measured)
    compute = problem.settings.compute
    with fixed_threads(compute.threads), _executor(problem, workers or compute.workers, said) as executor:
        run = _Run(problem, journal, executor, said, interrupted)
        result = run.search(budgets)
        finished = result.finished and run.show_test()
    front = front_of(problem, journal, result, finished=finished)
    for note in _closing_notes(problem, journal, result, front):
        said.note(note)
    directory.write_front(front)
    directory.write_report(report_of(problem, journal, front, directory.path, said.notes))
    return Outcome(front, finished, finished and before == _measured(journal), tuple(said.notes))


def front_so_far(problem: Problem, journal: Journal) -> Front:
    """The front of an unfinished run, found by replaying its journal; nothing is measured.

    Args:
        problem: of the run.
        journal: a rehearsal, see `Journal.rehearse`.

    Raises:
        RunError: the run was stopped before it measured anything.
    """
    if journal.reference() is None or not journal.budgets():
        raise RunError("the run was stopped before it measured anything; give the command that started it again")
    with _in_process(problem) as executor:
        run = _Run(problem, journal, executor, Silent(), interrupted=lambda: True)
        result = run.search([Budget(**budget) for budget in journal.budgets()])
        finished = result.finished and not run.genomes_to_test() and journal.held_out(None) is not None
    return front_of(problem, journal, result, finished=finished)


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


def _remember_surroundings(problem: Problem, directory: RunDirectory, base: Path | None) -> list[str]:
    """Writes configuration and environment; notes on the user's sources that changed since the run was started."""
    said = resolved(problem.settings)
    if base is not None:
        said["base"] = str(base)
    directory.write_config(dump(said))
    now = environment(full_name(problem.device), base, [Path(path) for path in plugins.source_files(problem.objects)])
    first = directory.read_environment()
    if first is None:
        directory.write_environment(now)
        return []
    # The first environment stays: what was measured with the old code is still on the front.
    return [
        f"{name} changed since this run was started; what was measured before was measured with the old code"
        for name in changed_sources(first, now)
    ]


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


@contextlib.contextmanager
def _executor(problem: Problem, workers: int | str, said: Logged) -> Iterator[Executor]:
    """Where candidates are measured; what it started ends with the block."""
    executor = _start_executor(problem, workers, said)
    try:
        yield executor
    finally:
        executor.close()


@contextlib.contextmanager
def _in_process(problem: Problem) -> Iterator[Executor]:
    yield InProcess(problem.compressor, problem.quantities, problem.settings.compute.memory_bytes)


def _start_executor(problem: Problem, workers: int | str, said: Logged) -> Executor:
    memory, threads = problem.settings.compute.memory_bytes, problem.settings.compute.threads
    # What is called is called by this process, and need not be sent to others.
    quantities = [q if q.form == "outputs" else replace(q, object=None) for q in problem.quantities]
    arguments = (problem.compressor, quantities, memory)
    if problem.device != CPU:
        return InProcess(*arguments, problem.device)
    if workers == 1 or (workers == "auto" and _cores() < 2):
        return InProcess(*arguments)
    unsendable = [quantity.name for quantity in quantities if not picklable(quantity)]
    if not picklable(problem.network.splits):
        unsendable.append("the data")
    if unsendable:
        if workers != "auto":
            said.note(f"{', '.join(unsendable)} cannot be sent to other processes; measuring in this one")
        return InProcess(*arguments)
    if workers == "auto":
        expected = problem.settings.search.evaluations or min(problem.space.n_genomes, 10**6)
        return Automatic(*arguments, workers=_cores(), threads=threads, expected=expected)
    return Processes(*arguments, workers=int(workers), threads=threads)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_searcher(settings: Settings, space: SearchSpace, log_scale: Sequence[bool]) -> Searcher:
    """The searcher that the settings name."""
    if settings.search.algorithm == "exhaustive":
        return Exhaustive(space)
    if settings.search.algorithm == "random":
        return RandomSearch(space, settings.search.population, settings.seed)
    return NSGA2(space, settings.search.population, settings.seed, log_scale=log_scale)


class _Run:
    """The steps of a run, which share its journal and its measurer."""

    def __init__(
        self,
        problem: Problem,
        journal: Journal,
        executor: Executor,
        reporter: Reporter,
        interrupted: Callable[[], bool],
    ) -> None:
        self.problem = problem
        self.journal = journal
        self.reporter = reporter
        self.interrupted = interrupted
        self.measurer = Measurer(problem.space, problem.compressor, problem.quantities, executor)

    def search(self, budgets: Sequence[Budget]) -> Result:
        """The loop, from the reference on; what the journal knows is replayed."""
        problem = self.problem
        reference = self.reference_losses()
        spending = Spending()
        spending.count("reference")
        evaluate = Recorded(
            self.measurer,
            self.journal,
            problem.quantities,
            problem.objectives,
            problem.constraints,
            spending=spending,
            interrupted=self.interrupted,
            least_chunk=_LEAST_CHUNK,
        )
        screened = any(constraint.quantity.form == "free" for constraint in problem.constraints)
        return run_search(
            problem.space,
            make_searcher(problem.settings, problem.space, problem.log_scale),
            evaluate,
            journal=self.journal,
            budgets=budgets,
            box=lambda losses: HypervolumeBox.around(np.concatenate([reference, losses]), problem.log_scale),
            starts=np.array([genome for _, genome in seeds(problem.space)], dtype=np.int64),
            screen=(lambda genomes: self.measurer.free_violations(genomes, problem.constraints)) if screened else None,
            # enumerating, a long stretch of the space may be infeasible
            patience=None if problem.settings.search.algorithm == "exhaustive" else _PATIENCE,
            on_progress=self.reporter.search,
        )

    def reference_losses(self) -> Losses:
        """``(1, n_objectives)`` of the uncompressed network, measured once; NaN where it has none."""
        problem = self.problem
        if self.journal.reference() is None:
            self.reporter.stage(0, 0, "measuring the uncompressed network")
            values, seconds, samples = self._reference_measurer().policies([problem.reference])
            self.journal.add_reference(values, cpu_seconds=seconds, samples=samples)
        row = self.journal.reference()
        assert row is not None
        named = dict(zip((quantity.name for quantity in problem.quantities), row.values, strict=True))
        losses = [quantity.loss(np.array([named[quantity.name]], dtype=np.float64)) for quantity in problem.objectives]
        return np.stack(losses, axis=1)

    def genomes_to_test(self) -> list[GenomeKey]:
        """What the test split must still be shown to: the front, and the recipes that it is compared with."""
        known = [genome for _, genome in seeds(self.problem.space) if self.journal.known(genome) is not None]
        wanted = dict.fromkeys([*front_genomes(self.problem, self.journal), *known])
        return [genome for genome in wanted if self.journal.held_out(genome) is None]

    def show_test(self) -> bool:
        """Shows the test split to the front, the seeds and the reference, each once; False if interrupted."""
        left = self.genomes_to_test()
        if self.journal.held_out(None) is None:
            self._add_held_out(self._reference_measurer(), [None])
        for start in range(0, len(left), _TEST_CHUNK):
            if self.interrupted():
                return False
            self.reporter.stage(start, len(left), "test values of the front")
            self._add_held_out(self.measurer, left[start : start + _TEST_CHUNK])
        return True

    def _reference_measurer(self) -> Measurer:
        """Measures with float edges, which the uncompressed network has."""
        problem = self.problem
        compressor = problem.compressor.without_edges()
        executor = InProcess(compressor, problem.quantities, problem.settings.compute.memory_bytes, problem.device)
        return Measurer(problem.space, compressor, problem.quantities, executor)

    def _add_held_out(self, measurer: Measurer, genomes: Sequence[GenomeKey | None]) -> None:
        """Measures genomes on the test split; None is the uncompressed network."""
        problem = self.problem
        policies = [
            problem.reference if genome is None else problem.space.decode(np.array([genome], dtype=np.int64))[0]
            for genome in genomes
        ]
        values, per_sample, seconds, samples = measurer.test(policies)
        columns = {quantity.name: column for column, quantity in enumerate(problem.quantities)}
        lead = next((quantity.name for quantity in problem.objectives if quantity.kind == "measured"), None)
        for row, genome in enumerate(genomes):
            failure = values.failures[row]
            if failure is not None:
                self.reporter.note(f"a network has no test values: {failure}")
            intervals = {
                name: Interval.around(
                    float(values.values[row, columns[name]]), float(values.standard_errors[row, columns[name]])
                )
                for name in problem.measured.tested
            }
            held_out = HeldOut(intervals, None if lead is None else per_sample[row].get(lead))
            n = len(genomes)
            self.journal.add_held_out(genome, held_out, cpu_seconds=seconds / n, samples=samples // n)


__all__ = ["Logged", "Outcome", "Reporter", "Silent", "execute", "front_so_far", "make_searcher"]
