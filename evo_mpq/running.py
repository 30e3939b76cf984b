"""One run, from a problem to a front: reference, seeds, search, test values, files. Resuming is doing it again."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from evo_mpq import plugins
from evo_mpq.config import Settings, dump, resolved
from evo_mpq.errors import ConfigError, Mistake
from evo_mpq.measure.executors import Automatic, Executor, InProcess, Processes, picklable
from evo_mpq.measure.measurer import Measurer
from evo_mpq.measure.statistics import Interval
from evo_mpq.optimize.archive import Archive
from evo_mpq.optimize.budget import Budget
from evo_mpq.optimize.exhaustive import Exhaustive
from evo_mpq.optimize.loop import Interrupted, Progress, Recorded, Result, Spending, run_search
from evo_mpq.optimize.nsga2 import NSGA2
from evo_mpq.optimize.pareto import HypervolumeBox
from evo_mpq.optimize.random_search import RandomSearch
from evo_mpq.optimize.searcher import Searcher
from evo_mpq.optimize.starts import uniform_ladder
from evo_mpq.problem import Problem, fixed_threads
from evo_mpq.results.front import Front, GenomeKey, Hypervolume, build_front, front_rows
from evo_mpq.results.journal import HeldOut, Journal
from evo_mpq.results.report import write_report
from evo_mpq.results.run_directory import RunDirectory, changed_sources, environment, versions
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import Losses

_TEST_CHUNK = 16
"""Candidates that are shown the test split between two looks at whether to stop."""


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


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        front: what it found.
        finished: whether its budget was spent; otherwise it was interrupted.
        was_finished: whether nothing was left to do when it was called.
        reason: why the search ended, see `evo_mpq.optimize.loop.Result`.
        notes: what the user should know.
    """

    front: Front
    finished: bool
    was_finished: bool
    reason: str
    notes: tuple[str, ...]


def execute(
    problem: Problem,
    directory: RunDirectory,
    *,
    base: Path | None = None,
    workers: int | str | None = None,
    reporter: Reporter | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Runs a problem in a locked run directory to the end of its budget, or until it is interrupted.

    What the directory's journal knows is not measured again: a run that was killed goes on where it was, and one
    that is finished is only reported again, unless its budget grew.

    Args:
        problem: what to search.
        directory: locked.
        base: folder of the user's modules, for their git revision and their changes.
        workers: overrides the settings' number of processes.
        reporter: told how far the run is.
        interrupted: asked between chunks of measuring whether to stop.

    Raises:
        EvoMpqError: the directory holds another run, every candidate failed, the disk is full, …
    """
    reporter = reporter or Silent()
    settings = problem.settings
    journal = directory.open_journal(problem.identity(), versions())
    notes = [*problem.notes, *_remember_surroundings(problem, directory, base, journal.is_new)]
    budgets, budget_note = _budgets(settings, journal)
    notes += budget_note
    for note in notes:
        reporter.note(note)
    measured_before = journal.n_measured
    executor = _executor(problem, workers or settings.compute.workers, reporter)
    try:
        with fixed_threads(settings.compute.threads):
            run = _Run(problem, directory, journal, executor, reporter, interrupted)
            result = run.search(budgets)
            finished = result.finished and run.show_test(result.archive)
            front = run.front(result, finished)
    finally:
        executor.close()
    notes += [note for note in result.notes if note not in notes]
    if journal.divergence:
        notes.append(journal.divergence)
    directory.write_front(front)
    directory.write_report(report(problem, directory, journal, front, notes))
    reason = result.reason if finished else "interrupted"
    directory.log(f"{reason}: {journal.n_measured} genomes measured, front of {len(front.members)}")
    untouched = finished and not journal.is_new and journal.n_measured == measured_before
    return Outcome(front, finished, untouched, reason, tuple(notes))


def _remember_surroundings(
    problem: Problem, directory: RunDirectory, base: Path | None, is_new: bool
) -> list[str]:
    """Writes configuration and environment; notes on sources that changed since they were written first."""
    said = resolved(problem.settings)
    if base is not None:
        said["base"] = str(base)
    directory.write_config(dump(said))
    sources = [Path(path) for path in plugins.source_files(problem.objects)]
    before = directory.read_environment()
    now = environment("cpu", base, sources)
    if is_new or before is None:
        directory.write_environment(now)
        return []
    changed = changed_sources(before, now)
    directory.write_environment(now)
    return [
        f"{name} changed since this run was started; what was measured before was measured with the old code"
        for name in changed
    ]


def _budgets(settings: Settings, journal: Journal) -> tuple[list[Budget], list[str]]:
    """All budgets that the run was given, the present one last if it allows more."""
    limits = {key: getattr(settings.search, key) for key in ("evaluations", "minutes", "stall")}
    given = journal.budgets()
    notes = []
    if not given or _allows_more(limits, given[-1]):
        journal.add_budget(limits)
    elif limits not in given:
        notes.append("an earlier session of this run had a larger budget; this one changes nothing")
    return [Budget(**budget) for budget in journal.budgets()], notes


def _allows_more(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether any limit is higher, or gone."""
    return any(_limit(new[key]) > _limit(old[key]) for key in old)


def _limit(value: float | None) -> float:
    return math.inf if value is None else value


def _executor(problem: Problem, workers: int | str, reporter: Reporter) -> Executor:
    settings = problem.settings
    memory = settings.compute.memory_bytes
    alone = InProcess(problem.compressor, problem.quantities, memory)
    unpicklable = [quantity.name for quantity in problem.quantities if not picklable(quantity)]
    if workers == 1:
        return alone
    if unpicklable:
        if workers != "auto":
            reporter.note(f"{', '.join(unpicklable)} cannot be sent to other processes; measuring in this one")
        return alone
    arguments = (problem.compressor, problem.quantities, memory)
    if workers == "auto":
        expected = settings.search.evaluations or min(problem.space.n_genomes, 10**6)
        return Automatic(*arguments, workers=_cores(), threads=settings.compute.threads, expected=expected)
    return Processes(*arguments, workers=int(workers), threads=settings.compute.threads)


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
    """The parts of a run that share its journal and its measurer."""

    def __init__(
        self,
        problem: Problem,
        directory: RunDirectory,
        journal: Journal,
        executor: Executor,
        reporter: Reporter,
        interrupted: Callable[[], bool],
    ) -> None:
        self.problem = problem
        self.directory = directory
        self.journal = journal
        self.executor = executor
        self.reporter = reporter
        self.interrupted = interrupted
        self.measurer = Measurer(problem.space, problem.compressor, problem.quantities, executor)
        self.log_scale = tuple(quantity.log_scale for quantity in problem.objectives)
        self.ladder = uniform_ladder(problem.space)

    def search(self, budgets: Sequence[Budget]) -> Result:
        """The loop, from the reference on; what the journal knows is replayed."""
        problem, journal = self.problem, self.journal
        reference = self.reference_losses()
        spending = Spending()
        spending.count("reference")
        evaluate = Recorded(
            self.measurer,
            journal,
            problem.quantities,
            problem.objectives,
            problem.constraints,
            spending=spending,
            interrupted=self.interrupted,
            least_chunk=4,
        )
        free = [constraint.quantity.form == "free" for constraint in problem.constraints]
        exhaustive = problem.settings.search.algorithm == "exhaustive"
        return run_search(
            problem.space,
            make_searcher(problem.settings, problem.space, self.log_scale),
            evaluate,
            journal=journal,
            budgets=budgets,
            box=lambda losses: HypervolumeBox.around(np.concatenate([reference, losses]), self.log_scale),
            starts=np.array([genome for _, genome in self.ladder]),
            screen=(lambda genomes: self.measurer.free_violations(genomes, problem.constraints)) if any(free) else None,
            patience=None if exhaustive else 200,
            on_progress=self.reporter.search,
        )

    def reference_losses(self) -> Losses:
        """``(1, n_objectives)`` of the uncompressed network, measured once."""
        problem = self.problem
        if self.journal.reference() is None:
            self.reporter.stage(0, 0, "measuring the uncompressed network")
            values, seconds, samples = self._reference_measurer().policies([problem.reference])
            self.journal.add_reference(values, cpu_seconds=seconds, samples=samples)
        row = self.journal.reference()
        assert row is not None
        named = dict(zip((quantity.name for quantity in problem.quantities), row.values, strict=True))
        losses = [
            quantity.loss(np.array([np.nan if named[quantity.name] is None else named[quantity.name]], dtype=float))
            for quantity in problem.objectives
        ]
        return np.stack(losses, axis=1)

    def _reference_measurer(self) -> Measurer:
        problem = self.problem
        compressor = problem.compressor.without_edges()
        memory = problem.settings.compute.memory_bytes
        executor = InProcess(compressor, problem.quantities, memory)
        return Measurer(problem.space, compressor, problem.quantities, executor)

    def show_test(self, archive: Archive) -> bool:
        """Shows the test split to the front, the seeds and the reference, each once; False if interrupted."""
        keys = [tuple(int(gene) for gene in archive.genomes[row]) for row in self._front_rows(archive)]
        measured_seeds = [tuple(int(g) for g in genome) for _, genome in self.ladder if archive.contains(genome)]
        wanted: list[GenomeKey] = list(dict.fromkeys([*keys, *measured_seeds]))
        missing = [key for key in wanted if self.journal.held_out(key) is None]
        if self.journal.held_out(None) is None:
            self._add_held_out(self._reference_measurer(), [None])
        for start in range(0, len(missing), _TEST_CHUNK):
            if self.interrupted():
                return False
            self.reporter.stage(start, len(missing), "test values of the front")
            self._add_held_out(self.measurer, missing[start : start + _TEST_CHUNK])
        if missing:
            self.reporter.stage(len(missing), len(missing), "test values of the front")
        return True

    def _front_rows(self, archive: Archive) -> npt.NDArray[np.int64]:
        return front_rows(archive.losses, archive.measurements.feasible)

    def _add_held_out(self, measurer: Measurer, keys: Sequence[GenomeKey | None]) -> None:
        problem = self.problem
        policies = [
            problem.reference if key is None else problem.space.decode(np.array([key], dtype=np.int64))[0]
            for key in keys
        ]
        values, per_sample, seconds, samples = measurer.test(policies)
        names = [quantity.name for quantity in problem.quantities]
        lead = next((quantity.name for quantity in problem.objectives if quantity.kind == "measured"), None)
        for row, key in enumerate(keys):
            intervals = {
                name: Interval.around(
                    float(values.values[row, names.index(name)]), float(values.standard_errors[row, names.index(name)])
                )
                for name in problem.test_names
            }
            held_out = HeldOut(intervals, per_sample[row].get(lead) if lead is not None else None)
            self.journal.add_held_out(
                key, held_out, cpu_seconds=seconds / len(keys), samples=samples // len(keys)
            )

    def front(self, result: Result, finished: bool) -> Front:
        """What front.json says."""
        problem, journal = self.problem, self.journal
        genomes, values = journal.rows()
        archive = result.archive
        rows = [archive.index(genome) for genome in genomes if archive.contains(genome)]
        kept = np.array([archive.contains(genome) for genome in genomes], dtype=bool)
        feasible = archive.measurements.feasible[rows] if rows else np.zeros(0, dtype=bool)
        row = journal.reference()
        reference = {
            quantity.name: float("nan") if value is None else float(value)
            for quantity, value in zip(problem.quantities, row.values if row else (), strict=True)
        }
        box = result.box
        shown: list[GenomeKey | None] = [None, *(tuple(genome) for genome in genomes.tolist())]
        held_out = {key: found for key in shown if (found := journal.held_out(key)) is not None}
        return build_front(
            space=problem.space,
            quantities=problem.quantities,
            objectives=[quantity.name for quantity in problem.objectives],
            genomes=genomes[kept] if len(genomes) else genomes,
            values=values.values[kept] if len(genomes) else values.values,
            feasible=feasible,
            seeds=[(f"uniform {name}", tuple(int(gene) for gene in genome)) for name, genome in self.ladder],
            reference=reference,
            test_names=problem.test_names,
            held_out=held_out,
            hypervolume=Hypervolume(
                result.hypervolumes[-1][1] if result.hypervolumes else None,
                () if box is None else tuple(box.reference_point.tolist()),
                tuple(value for _, value in result.hypervolumes),
                tuple(count for count, _ in result.hypervolumes),
            ),
            measurements=journal.n_measured,
            cpu_seconds=journal.cpu_seconds,
            sample_forwards=journal.samples,
            finished=finished,
            reproducible=not journal.diverged,
            groups=problem.network.splits.test.groups,
        )


def report(
    problem: Problem, directory: RunDirectory, journal: Journal, front: Front, notes: Sequence[str]
) -> str:
    """The run's report as HTML."""
    genomes, values = journal.rows()
    names = [quantity.name for quantity in problem.quantities]
    objectives = [quantity.name for quantity in problem.objectives]
    bad = np.zeros(len(genomes), dtype=bool)
    for constraint in problem.constraints:
        if len(genomes):
            bad |= ~(constraint.violation(values.values[:, names.index(constraint.quantity.name)]) <= 0)
    failures = [
        [genome, failure]
        for genome, failure in zip(genomes.tolist(), values.failures, strict=True)
        if failure is not None
    ]
    candidates = {
        "genomes": genomes.tolist(),
        "search": {name: _plain(values.values[:, names.index(name)]) if len(genomes) else [] for name in objectives},
        "feasible": [bool(not b and failure is None) for b, failure in zip(bad, values.failures, strict=True)],
        "failures": failures,
    }
    splits = problem.network.splits
    meta = {
        "run": problem.settings.name,
        "network": problem.network.name,
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "shape": list(layer.shape),
                "n_parameters": layer.n_parameters,
                "macs": layer.macs,
            }
            for layer in problem.network.layers
        ],
        "space": {
            "genes": problem.space.n_genes,
            "layers": len(problem.space.layers),
            "edges": f"{problem.space.edges} bits" if problem.space.edges else "float",
        },
        "log10_genomes": problem.space.log10_genomes,
        "settings": dump(resolved(problem.settings)),
        "versions": versions(),
        "directory": str(directory.path),
        "test_shown": journal.n_test_showings,
        "notes": list(notes),
        "samples": {name: len(getattr(splits, name)) for name in ("calibration", "search", "test")},
        "log_scale": [quantity.name for quantity in problem.objectives if quantity.log_scale],
        "knee": front.knee.id if front.members else None,
    }
    return write_report(front.to_json(), candidates, meta)


def _plain(values: npt.NDArray[np.float64]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def refuse_large_enumeration(problem: Problem, seconds_each: float) -> None:
    """Refuses an exhaustive search that would take too long.

    Raises:
        ConfigError: with the number of genomes and the estimated time.
    """
    n = problem.space.n_genomes
    limited = problem.settings.search.evaluations or problem.settings.search.minutes
    seconds = n * seconds_each
    if limited or seconds <= 15 * 60:
        return
    raise ConfigError(
        [
            Mistake(
                ("search", "algorithm"),
                f"the space has {n:,} genomes, about {_duration(seconds)} at {seconds_each * 1000:.2g} ms each; give "
                "fewer options, a budget (evaluations or minutes), or --yes if you want to wait",
            )
        ]
    )


def _duration(seconds: float) -> str:
    for size, unit in ((86400 * 365, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} seconds"


__all__ = ["Interrupted", "Outcome", "Reporter", "Silent", "execute", "refuse_large_enumeration", "report"]
