"""The search loop: ask, measure, tell, until the budget is spent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from evo_mpq.errors import MeasurementError
from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.archive import Archive
from evo_mpq.optimize.budget import Budget, Stall
from evo_mpq.optimize.pareto import HypervolumeBox
from evo_mpq.optimize.recorded import Interrupted, Journal, Recorded, Row, Spending
from evo_mpq.optimize.searcher import Searcher
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import BoolVector, FloatMatrix, Genomes, Losses

__all__ = [
    "Interrupted",
    "Journal",
    "Progress",
    "Recorded",
    "Result",
    "Row",
    "Spending",
    "Spent",
    "run_search",
]

_START_PIECE = 16
"""Genomes that are measured before the search between two looks at the clock."""

_ROUNDING = 1e-9
"""Shares of samples add up to whole numbers only nearly."""


@dataclass(frozen=True)
class Start:
    """What a search offers to those who measure before it.

    Attributes:
        measure: measures genomes. Raises `Spent` where the budget does not reach; what it measured until then is kept.
        sketch: the same on a part of the samples, for tables: the searcher is not told, and the front does not see it.
        share: that part, which such a measurement counts; 1 where `sketch` is `measure`.
        left: how many whole measurements are left; None for any number.
    """

    measure: Callable[[Genomes], Measurements]
    sketch: Callable[[Genomes], Measurements]
    share: float
    left: Callable[[], int | None]


Begin = Callable[[Start], None]
"""Measures before a search, such as recipes."""

Screen = Callable[[Genomes], FloatMatrix]
"""``(n, n_genes)`` genomes to ``(n, n_constraints)`` violations of the constraints that need no measuring;
0 in the columns of the others."""


class Spent(Exception):  # noqa: N818 - no error: there is a budget
    """The budget ended before all that was to be measured before the search."""


@dataclass(frozen=True)
class Progress:
    """How far a search is.

    Attributes:
        generation: of the searcher; 0 while the starts are measured.
        measured: what was spent of the budget's evaluations, reference and seeds included.
        evaluations: the budget of evaluations, or None.
        hypervolume: of the front so far, in the run's box; None before there is a box.
        candidates_per_second: measured by this process; 0 in a replay.
        seconds_left: estimate, by the limit that will be reached first; None if nothing tells.
        front_size: number of members so far.
        tau: Kendall's rank correlation of what a surrogate expected of the last batch; None where nothing did.
    """

    generation: int
    measured: float
    evaluations: int | None
    hypervolume: float | None
    candidates_per_second: float
    seconds_left: float | None
    front_size: int
    tau: float | None = None


@dataclass(frozen=True)
class Result:
    """What a search found.

    Attributes:
        archive: everything that was measured.
        box: in which its hypervolume is measured; None if it was interrupted before it could be made.
        hypervolumes: after the starts and after each generation: number of candidates measured so far, and
            the hypervolume of their front.
        notes: what the user should know.
        reason: why it ended: ``"evaluations"``, ``"minutes"``, ``"stall"``, ``"exhausted"`` (no genome is
            left), ``"infeasible"`` (nothing meets the constraints that need no measuring) or
            ``"interrupted"``.
    """

    archive: Archive
    box: HypervolumeBox | None
    hypervolumes: tuple[tuple[int, float], ...]
    notes: tuple[str, ...]
    reason: str

    @property
    def finished(self) -> bool:
        """Whether the search came to its end."""
        return self.reason != "interrupted"


def run_search(
    space: SearchSpace,
    searcher: Searcher,
    evaluate: Recorded,
    *,
    journal: Journal,
    budgets: Sequence[Budget],
    box: Callable[[Losses], HypervolumeBox],
    begin: Begin | None = None,
    sketch: Recorded | None = None,
    screen: Screen | None = None,
    patience: int | None = 200,
    archive: Archive | None = None,
    clock: Callable[[], float] = time.monotonic,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Search until the last budget is spent or the space is exhausted.

    The result is a function of the arguments and the journal: what the journal knows is not measured again,
    and decisions by the clock are taken from it. So resuming is calling this again with the same journal, and
    going on is calling it with one more budget: the earlier ones are replayed to their ends first.

    Args:
        space: what is searched.
        searcher: fresh; it proposes the genomes.
        evaluate: measures them through ``journal``.
        journal: the memory of the run.
        budgets: all that the run was given, in order; each limits the totals of the run.
        box: makes the frame of the hypervolume from ``(n, n_objectives)`` losses of the starts that succeeded
            (of the first generation, where none did); the caller adds the reference's. It stays fixed.
        begin: measures what the search begins with, such as recipes.
        sketch: measures for ``begin`` on a part of the samples, counting in the same spending; default: ``evaluate``.
        screen: finds genomes that are not worth measuring; the searcher is told their violations only.
        patience: generations in a row that the screen may leave nothing of before the search gives up; None
            for any number (exhaustive search ends by itself).
        archive: an empty one to fill; default: a new one.
        clock: seconds since some moment.
        on_progress: called after every chunk that was measured, and after every generation.

    Returns:
        The result, also when measuring was interrupted.

    Raises:
        MeasurementError: every candidate of the first generation failed.
        ValueError: no budget.
    """
    if not budgets:
        raise ValueError("a search needs at least one budget")
    if archive is None:
        archive = Archive(space.n_genes, len(evaluate.objectives), len(evaluate.constraints))
    stopwatch = _Stopwatch(journal, clock)
    sketch = sketch or evaluate
    loop = _Loop(space, searcher, evaluate, sketch, journal, box, screen, patience, archive, stopwatch, on_progress)
    return loop.run(budgets, begin)


@dataclass
class _Loop:
    """The state of one search."""

    space: SearchSpace
    searcher: Searcher
    evaluate: Recorded
    sketch: Recorded
    journal: Journal
    make_box: Callable[[Losses], HypervolumeBox]
    screen: Screen | None
    patience: int | None
    archive: Archive
    stopwatch: _Stopwatch
    on_progress: Callable[[Progress], None]
    budget: Budget = field(default_factory=Budget)
    stall: Stall = field(default_factory=Stall)
    box: HypervolumeBox | None = None
    generation: int = 0
    rejected_in_a_row: int = 0
    adopted: bool = False
    starts_ended: list[int] = field(default_factory=list)
    hypervolumes: list[tuple[int, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, budgets: Sequence[Budget], begin: Begin | None) -> Result:
        reason = "exhausted"
        try:
            self.budget = budgets[0]
            if begin is not None:
                self.begin_with(begin)
            for budget in budgets:
                self.budget = budget
                reason = self.spend()
        except Interrupted:
            reason = "interrupted"
        else:
            self.check_that_something_succeeded()
        self.note_failures()
        return Result(self.archive, self.box, tuple(self.hypervolumes), tuple(dict.fromkeys(self.notes)), reason)

    def spend(self) -> str:
        """Run generations until the budget is spent; returns why it ended."""
        while (reason := self.over()) is None:
            genomes = self.searcher.ask(self.limit())
            if not len(genomes):
                return "exhausted"
            self.run_generation(genomes)
        return reason

    def over(self) -> str | None:
        """Which limit is reached, at the end of a generation."""
        seconds = self.stopwatch.read()
        if self.evaluations_left() == 0:
            return "evaluations"
        if self.budget.minutes is not None and seconds >= 60 * self.budget.minutes:
            return "minutes"
        stall = self.budget.stall
        if stall is not None and self.journal.decision("stalled", lambda: self.stall.generations >= stall):
            return "stall"
        if self.patience is not None and self.rejected_in_a_row >= self.patience:
            self.notes.append(
                f"the search gave up after {self.patience} generations without a candidate that meets the "
                "constraints; loosen them or offer cheaper options"
            )
            return "infeasible"
        return None

    def evaluations_left(self) -> int | None:
        """Whole measurements that the budget still allows, or None for any number."""
        left = self.budget_left()
        return None if left is None else max(0, int(left + _ROUNDING))

    def budget_left(self) -> float | None:
        """Measurements and parts of one that the budget still allows, or None for any number."""
        limit = self.budget.evaluations
        return None if limit is None else limit - self.evaluate.spending.evaluations

    def limit(self) -> int | None:
        """How many genomes the next generation may have."""
        limits = [self.evaluations_left()]
        seconds = self.stopwatch.last
        if self.budget.minutes is not None and len(self.archive) and seconds > 0:
            # At the pace so far; computed from what is journalled, so that a replay finds the same limit.
            fitting = len(self.archive) * (60 * self.budget.minutes - seconds) / seconds
            limits.append(max(1, int(fitting)))
        return min((limit for limit in limits if limit is not None), default=None)

    def begin_with(self, begin: Begin) -> None:
        with contextlib.suppress(Spent):
            sketch = self.measure_start if self.sketch is self.evaluate else self.measure_sketch
            begin(Start(self.measure_start, sketch, self.sketch.share, self.limit))
        if len(self.archive):
            self.fix_box()
            self.hypervolumes_so_far()
            self.end_generation()

    def measure_start(self, genomes: Genomes) -> Measurements:
        """Measures genomes before the search.

        Raises:
            Spent: the budget allows only some of them, which were measured.
        """
        for piece in self.affordable(genomes, self.evaluate):
            measurements = self.measure(piece)
            new = self.archive.new(piece)
            self.archive.add(piece, measurements)
            self.searcher.remember(piece[new], measurements.rows(new))
            self.starts_ended.append(len(self.archive))
            self.report()
        _, measurements = self.evaluate.known(genomes)
        return measurements

    def measure_sketch(self, genomes: Genomes) -> Measurements:
        """Measures genomes on a part of the samples before the search.

        Raises:
            Spent: see `measure_start`.
        """
        for piece in self.affordable(genomes, self.sketch):
            self.sketch(piece, on_chunk=self.report)
            self.report()
        _, measurements = self.sketch.known(genomes)
        return measurements

    def affordable(self, genomes: Genomes, evaluate: Recorded) -> Iterator[Genomes]:
        """Genomes that are about to be measured, a few at a time where the clock may end it.

        Raises:
            Spent: after the last one that the budget allows, if that is not the last one of all.
        """
        left = self.budget_left()
        n = len(genomes)
        if left is not None:
            n = int((np.cumsum(~evaluate.counted(genomes)) * evaluate.share <= left + _ROUNDING).sum())
        size = n if self.budget.minutes is None else _START_PIECE
        for start in range(0, n, max(1, size)):
            if self.budget.minutes is not None and self.stopwatch.read() >= 60 * self.budget.minutes:
                raise Spent
            piece = genomes[start : min(start + size, n)]
            self.journal.asked(0, piece)
            yield piece
        if n < len(genomes):
            raise Spent

    def hypervolumes_so_far(self) -> None:
        """Of the front after each step of the start but the last one, now that there is a box."""
        if self.box is not None:
            rows = self.archive.measurements
            for end in self.starts_ended[:-1]:
                feasible = rows.feasible[:end]
                self.hypervolumes.append((end, self.box.hypervolume(rows.losses[:end][feasible])))

    def run_generation(self, genomes: Genomes) -> None:
        self.generation += 1
        self.journal.asked(self.generation, genomes)
        violations = np.zeros((len(genomes), len(self.evaluate.constraints)))
        if self.screen is not None:
            violations = self.screen(genomes)
        worth = np.all(violations <= 0, axis=1)
        measurements = self.measure(genomes[worth])
        self.archive.add(genomes[worth], measurements)
        self.searcher.tell(_with_rejected(measurements, worth, violations))
        self.rejected_in_a_row = 0 if worth.any() else self.rejected_in_a_row + 1
        self.end_generation()

    def measure(self, genomes: Genomes) -> Measurements:
        try:
            return self.evaluate(genomes, on_chunk=self.report)
        except Interrupted:
            # The archive gets what was measured of the generation; resuming will tell the searcher all of it.
            rows, measurements = self.evaluate.known(genomes)
            self.archive.add(genomes[rows], measurements)
            self.fix_box()
            self.measure_hypervolume()
            raise

    def end_generation(self) -> None:
        self.fix_box()
        if self.journal.diverged and not self.adopted:
            self.adopt_journal()
        if self.generation == 1:
            self.check_that_something_succeeded()
            self.note_constants()
        self.measure_hypervolume()
        hypervolume = self.hypervolumes[-1][1] if self.hypervolumes else 0.0
        self.stall.update(hypervolume, self.archive.lowest_violation)
        self.report()

    def adopt_journal(self) -> None:
        """Take over everything that was measured before the search went another way than when it first ran.

        Then a new version of a library cannot make the run forget what it has paid for.
        """
        self.adopted = True
        genomes, measurements = self.evaluate.everything_known()
        if len(genomes):
            self.archive.add(genomes, measurements)
            self.searcher.remember(genomes, measurements)

    def fix_box(self) -> None:
        if self.box is None and self.archive.lowest_violation < np.inf:
            self.box = self.make_box(self.archive.losses[self.archive.succeeded])

    def measure_hypervolume(self) -> None:
        if self.box is not None:
            volume = self.box.hypervolume(self.archive.front_losses())
            self.hypervolumes.append((len(self.archive), volume))

    def check_that_something_succeeded(self) -> None:
        if len(self.archive) and self.archive.lowest_violation == np.inf:
            raise MeasurementError(
                f"every one of the {len(self.archive)} candidates measured so far failed; "
                f"the first with: {self.archive.failures[0]}"
            )

    def note_constants(self) -> None:
        losses = self.archive.losses[self.archive.succeeded]
        for quantity, column in zip(self.evaluate.objectives, losses.T, strict=True):
            if len(column) > 1 and np.all(column == column[0]):
                value = -column[0] if quantity.direction == "maximize" else column[0]
                self.notes.append(
                    f"{quantity.name} is {value:g} for all of the first {len(column)} candidates, "
                    "so it does not tell them apart"
                )

    def note_failures(self) -> None:
        failures = [failure for failure in self.archive.failures if failure is not None]
        if failures:
            self.notes.append(
                f"{len(failures)} of {len(self.archive)} candidates failed; the first with: {failures[0]}"
            )

    def report(self) -> None:
        rate = self.evaluate.measured / self.evaluate.seconds if self.evaluate.seconds > 0 else 0.0
        self.on_progress(
            Progress(
                generation=self.generation,
                measured=self.evaluate.spending.evaluations,
                evaluations=self.budget.evaluations,
                hypervolume=self.hypervolumes[-1][1] if self.hypervolumes else None,
                candidates_per_second=rate,
                seconds_left=self.seconds_left(rate),
                front_size=len(self.archive.front()),
            )
        )

    def seconds_left(self, rate: float) -> float | None:
        limits = []
        if rate > 0:
            genomes = min(self.space.n_genomes, 10**15)  # larger integers need not fit into a float
            limits.append((genomes - len(self.archive)) / rate)
        if rate > 0 and self.budget.evaluations is not None:
            limits.append(max(0.0, self.budget.evaluations - self.evaluate.spending.evaluations) / rate)
        if self.budget.minutes is not None:
            limits.append(max(0.0, 60 * self.budget.minutes - self.stopwatch.now()))
        return min(limits, default=None)


class _Stopwatch:
    """The time that a run has taken, over all its processes.

    The journal holds the time at the end of each generation. A resumed run starts from the last one, and what
    it spends on replaying does not count.
    """

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        self._journal = journal
        self._clock = clock
        self._mark = clock()
        self.last = 0.0
        """Seconds when `read` was called last."""

    def now(self) -> float:
        """Seconds at this moment."""
        return self.last + self._clock() - self._mark

    def read(self) -> float:
        """Seconds at this moment as the journal has them."""
        self.last = self._journal.decision("seconds", lambda: round(self.now(), 3))
        self._mark = self._clock()
        return self.last


def _with_rejected(measured: Measurements, worth: BoolVector, violations: FloatMatrix) -> Measurements:
    """Measurements of all rows, where those that were not worth measuring have only their violations."""
    if worth.all():
        return measured
    n, m = len(worth), measured.losses.shape[1]
    losses, standard_errors, all_violations = (
        np.full((n, m), np.nan),
        np.full((n, m), np.nan),
        violations.copy(),
    )
    losses[worth], standard_errors[worth] = measured.losses, measured.standard_errors
    all_violations[worth] = measured.violations
    failures = np.full(n, None, dtype=object)
    failures[worth] = measured.failures
    return Measurements(losses, all_violations, standard_errors, tuple(failures))
