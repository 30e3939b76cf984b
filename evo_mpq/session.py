"""Measuring for a run directory: what its journal knows is not measured again, and what is measured is kept there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evo_mpq import plugins
from evo_mpq.config import dump, resolved
from evo_mpq.measure.devices import CPU, full_name
from evo_mpq.measure.executors import Automatic, Executor, InProcess, Processes, picklable
from evo_mpq.measure.measurements import Measurements
from evo_mpq.measure.measurer import Measurer
from evo_mpq.measure.statistics import Interval
from evo_mpq.optimize.loop import Interrupted, Recorded, Spending
from evo_mpq.problem import Problem, fixed_threads
from evo_mpq.reporters import Reporter, Silent
from evo_mpq.results.front import GenomeKey
from evo_mpq.results.journal import HeldOut, Journal
from evo_mpq.results.run_directory import RunDirectory, changed_sources, environment, versions
from evo_mpq.typing import FloatMatrix, Genomes, Losses

ASIDE = "aside"
"""The fidelity under which commands besides the run keep what they measure: all of the search split, as the run's."""

_TEST_CHUNK = 16
"""Candidates that are shown the test split between two looks at whether to stop."""

_LEAST_CHUNK = 4
"""Candidates that are measured between two looks at whether to stop, however long they take."""


class Session:
    """A problem, a journal, and something to measure with.

    Args:
        problem: whose candidates are measured.
        journal: of the run directory.
        executor: see `executor_of`.
        reporter: told about long steps.
        interrupted: asked between chunks whether to stop.
    """

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
        self._interrupted = interrupted
        self._measurer = Measurer(problem.space, problem.compressor, problem.quantities, executor)

    def measure_aside(self, spending: Spending, message: str) -> Callable[[Genomes], Measurements]:
        """Measures genomes for a command that is not the run, and says so."""
        recorded = self.recorded(spending, aside=True)
        return lambda genomes: recorded(
            genomes, lambda: self.reporter.stage(int(spending.evaluations), 0, f"{message}: measuring")
        )

    def recorded(self, spending: Spending, *, aside: bool = False, share: float = 1.0) -> Recorded:
        """Measures genomes on the search split through the journal, and counts them.

        Args:
            spending: counts them.
            aside: for a command that is not the run: what it measures is kept apart, so that it changes nothing of the
                run, and neither of them measures again what the other one did.
            share: only on that part of the samples, which counts as that part of a measurement.
        """
        problem = self.problem
        fidelity, alike = (ASIDE, ["search"]) if aside else ("search", [ASIDE])
        if share < 1:
            fidelity, alike = f"search[{share:g}]", []
        return Recorded(
            self._measurer if share == 1 else self._measurer.on_part(share),
            self.journal,
            problem.quantities,
            problem.objectives,
            problem.constraints,
            spending=spending,
            fidelity=fidelity,
            share=share,
            alike=alike,
            interrupted=self._interrupted,
            least_chunk=_LEAST_CHUNK,
        )

    @property
    def screen(self) -> Callable[[Genomes], FloatMatrix] | None:
        """Violations of the constraints that need no measuring; None if there is no such constraint."""
        constraints = self.problem.constraints
        if all(constraint.quantity.form != "free" for constraint in constraints):
            return None
        return lambda genomes: self._measurer.free_violations(genomes, constraints)

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

    def show_test(self, genomes: Sequence[GenomeKey]) -> bool:
        """Shows the test split to the uncompressed network and to genomes, each once; False if interrupted."""
        left = [genome for genome in dict.fromkeys(genomes) if self.journal.held_out(genome) is None]
        if self.journal.held_out(None) is None:
            self._add_held_out(self._reference_measurer(), [None])
        for start in range(0, len(left), _TEST_CHUNK):
            if self._interrupted():
                return False
            self.reporter.stage(start, len(left), "measuring on the test split")
            self._add_held_out(self._measurer, left[start : start + _TEST_CHUNK])
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


def remember_surroundings(problem: Problem, directory: RunDirectory, base: Path | None) -> list[str]:
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


@contextlib.contextmanager
def session_aside(
    problem: Problem,
    directory: RunDirectory,
    *,
    base: Path | None = None,
    workers: int | str | None = None,
    reporter: Reporter | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Session]:
    """A session in a run's directory for a command that is not the run; the uncompressed network is measured.

    Args:
        problem: whose candidates are measured.
        directory: locked.
        base: folder of the user's modules.
        workers: overrides the settings' number of processes.
        reporter: told about long steps.
        interrupted: asked between chunks of measuring whether to stop.

    Raises:
        KeyboardInterrupt: interrupted; what was measured is kept.
        EvoMpqError: the directory holds another run, the disk is full, …
    """
    reporter = reporter or Silent()
    journal = directory.open_journal(problem.identity(), versions())
    remember_surroundings(problem, directory, base)
    compute = problem.settings.compute
    with fixed_threads(compute.threads), executor_of(problem, workers or compute.workers, reporter) as executor:
        session = Session(problem, journal, executor, reporter, interrupted)
        session.reference_losses()
        try:
            yield session
        except Interrupted:
            raise KeyboardInterrupt from None


@contextlib.contextmanager
def executor_of(problem: Problem, workers: int | str, reporter: Reporter) -> Iterator[Executor]:
    """Where candidates are measured; what it started ends with the block."""
    executor = start_executor(problem, workers, reporter)
    try:
        yield executor
    finally:
        executor.close()


@contextlib.contextmanager
def in_process(problem: Problem) -> Iterator[Executor]:
    """This process alone."""
    yield InProcess(problem.compressor, problem.quantities, problem.settings.compute.memory_bytes)


def start_executor(problem: Problem, workers: int | str, reporter: Reporter) -> Executor:
    """Where candidates are measured; the caller closes it."""
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
            reporter.note(f"{', '.join(unsendable)} cannot be sent to other processes; measuring in this one")
        return InProcess(*arguments)
    if workers == "auto":
        expected = problem.settings.search.evaluations or min(problem.space.n_genomes, 10**6)
        return Automatic(*arguments, workers=_cores(), threads=threads, expected=expected)
    return Processes(*arguments, workers=int(workers), threads=threads)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
