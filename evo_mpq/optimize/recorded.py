"""Measuring through the journal: what it knows is not measured again, what is measured is written down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

import numpy as np

from evo_mpq.measure.measurements import Measurements, Values
from evo_mpq.optimize.searcher import first_of_new
from evo_mpq.typing import BoolVector, Genomes

if TYPE_CHECKING:  # it imports torch, which searching does not need
    from evo_mpq.measure.objectives import Constraint, Quantity

T = TypeVar("T")

Measure: TypeAlias = Callable[[Genomes], tuple[Values, float, int]]
"""Measures genomes; returns their values, the CPU seconds it took, and the samples that were forwarded."""


class Row(Protocol):
    """What a journal knows of one genome."""

    @property
    def values(self) -> Sequence[float | None]:
        """One per quantity of the run; None where there is none."""

    @property
    def standard_errors(self) -> Sequence[float | None]:
        """One per quantity of the run; None where unknown."""

    @property
    def failure(self) -> str | None:
        """What went wrong, or None."""


class Journal(Protocol):
    """The memory that a search is replayed from; see `evo_mpq.results.journal` for the one on disk."""

    def known(self, genome: tuple[int, ...], fidelity: str = "search") -> Row | None:
        """What was measured of a genome at a fidelity, or None."""

    def rows(self, fidelity: str = "search") -> tuple[Genomes, Values]:
        """All genomes measured at a fidelity, in the order of measuring, and their values."""

    def measured(
        self,
        genomes: Genomes,
        values: Values,
        *,
        cpu_seconds: float,
        samples: int,
        fidelity: str = "search",
    ) -> None:
        """Write down what was just measured; on return it is safe."""

    def asked(self, generation: int, genomes: Genomes) -> None:
        """Write down what is about to be measured; in a replay, compare it with what was asked then."""

    def decision(self, key: str, decide: Callable[[], T]) -> T:
        """The next recorded decision of that key, or what ``decide`` says now, which is written down."""

    @property
    def diverged(self) -> bool:
        """Whether an ask differed from what was asked at its place in an earlier session."""


class Interrupted(Exception):  # noqa: N818 - no error: the user asked for it
    """Measuring was stopped between two chunks; everything measured before is in the journal."""


class Spending:
    """What a run has spent of its evaluations; everything counts once, however often it is asked for.

    >>> spending = Spending()
    >>> spending.count("reference")
    >>> spending.count((0, 1), share=0.25)
    >>> spending.count((0, 1), share=0.25)
    >>> spending.evaluations
    1.25
    """

    def __init__(self) -> None:
        self._counted: set[object] = set()
        self.evaluations = 0.0

    def counted(self, what: object) -> bool:
        """Whether a measurement was counted."""
        return what in self._counted

    def count(self, what: object, share: float = 1.0) -> None:
        """Count a measurement.

        Args:
            what: names the measurement.
            share: fraction of all samples that it was made on.
        """
        if what not in self._counted:
            self._counted.add(what)
            self.evaluations += share


class Recorded:
    """Evaluates genomes: the journal answers for those it knows, the others are measured and appended.

    They are measured in lexicographic order, so that neighbors share computation, and in chunks of a few
    seconds, so that little is lost when the process ends and the user need not wait when interrupting.

    Args:
        measure: measures ``(n, n_genes)`` genomes.
        journal: what is known.
        quantities: the columns of the values that ``measure`` returns.
        objectives: the quantities that are searched on, in order.
        constraints: on some of the quantities.
        spending: counts what is measured; shared among all that draw on one budget.
        fidelity: under which the journal files the values, e.g. ``"search"`` or ``"search[0.25]"``.
        share: what a measurement counts: the part of the samples that it is made on.
        alike: other fidelities that mean the same; what the journal knows at one of them is taken over.
        interrupted: asked before each chunk whether to stop.
        clock: seconds since some moment.
        chunk_seconds: aim of a chunk's duration.
        least_chunk: rows of the smallest chunk: as many as can be measured at the same time.
    """

    def __init__(
        self,
        measure: Measure,
        journal: Journal,
        quantities: Sequence[Quantity],
        objectives: Sequence[Quantity],
        constraints: Sequence[Constraint] = (),
        *,
        spending: Spending | None = None,
        fidelity: str = "search",
        share: float = 1.0,
        alike: Sequence[str] = (),
        interrupted: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        chunk_seconds: float = 3.0,
        least_chunk: int = 1,
    ) -> None:
        self.objectives = tuple(objectives)
        self.constraints = tuple(constraints)
        self.share = share
        self.spending = Spending() if spending is None else spending
        self.measured = 0
        """Genomes measured by this object, not by an earlier process."""
        self.seconds = 0.0
        """Wall-clock time that measuring them took."""
        self._measure = measure
        self._journal = journal
        self._columns = {quantity.name: column for column, quantity in enumerate(quantities)}
        self._fidelity = fidelity
        self._alike = alike
        self._interrupted = interrupted
        self._clock = clock
        self._chunk_seconds = chunk_seconds
        self._least_chunk = least_chunk
        self._chunk = least_chunk

    def __call__(self, genomes: Genomes, on_chunk: Callable[[], None] = lambda: None) -> Measurements:
        """The measurements of ``(n, n_genes)`` genomes.

        Args:
            genomes: rows may repeat.
            on_chunk: called whenever a chunk has been measured.

        Raises:
            Interrupted: between two chunks; `known` has what was measured until then.
        """
        keys = _keys(genomes)
        self._take_over(keys)
        for key in keys:
            if self._journal.known(key, self._fidelity) is not None:
                self._count(key)
        unknown = {key for key in keys if self._journal.known(key, self._fidelity) is None}
        for chunk in self._chunks(sorted(unknown)):
            self._measure_chunk(chunk)
            on_chunk()
        return self.measurements(self._values(keys))

    def _take_over(self, keys: Sequence[tuple[int, ...]]) -> None:
        """Writes down anew what is known of genomes at a fidelity that means the same."""
        for fidelity in self._alike:
            new = [
                key
                for key in dict.fromkeys(keys)
                if self._journal.known(key, self._fidelity) is None and self._journal.known(key, fidelity) is not None
            ]
            if new:
                values = self._values(new, fidelity)
                genomes = np.array(new, dtype=np.int64)
                self._journal.measured(genomes, values, cpu_seconds=0.0, samples=0, fidelity=self._fidelity)

    def known(self, genomes: Genomes) -> tuple[BoolVector, Measurements]:
        """``(n,)`` which rows the journal knows, and the measurements of those."""
        keys = _keys(genomes)
        rows = np.array([self._journal.known(key, self._fidelity) is not None for key in keys], dtype=bool)
        return rows, self.measurements(self._values([key for key, row in zip(keys, rows, strict=True) if row]))

    def counted(self, genomes: Genomes) -> BoolVector:
        """``(n,)`` rows that cost the budget nothing more: counted already, or repeating an earlier row."""
        names = [self._name(key) for key in _keys(genomes)]
        return ~first_of_new(names, {name for name in names if self.spending.counted(name)})

    def everything_known(self) -> tuple[Genomes, Measurements]:
        """All genomes in the journal, in the order of measuring, and their measurements; all count."""
        genomes, _ = self._journal.rows(self._fidelity)
        keys = _keys(genomes)
        for key in keys:
            self._count(key)
        return genomes, self.measurements(self._values(keys))

    def measurements(self, values: Values) -> Measurements:
        """What raw values mean for the search: losses and violations.

        A row in which an objective or a constraint has no finite value is a failed row.
        """
        objectives = [self._columns[quantity.name] for quantity in self.objectives]
        constraints = [self._columns[constraint.quantity.name] for constraint in self.constraints]
        failures = tuple(
            failure if failure is not None else self._not_finite(row, [*objectives, *constraints])
            for failure, row in zip(values.failures, values.values, strict=True)
        )
        failed = np.array([failure is not None for failure in failures], dtype=bool)[:, None]
        n = len(values)
        losses = [
            quantity.loss(values.values[:, column])
            for quantity, column in zip(self.objectives, objectives, strict=True)
        ]
        violations = [
            constraint.violation(values.values[:, column])
            for constraint, column in zip(self.constraints, constraints, strict=True)
        ]
        return Measurements(
            np.where(failed, np.nan, _columns(losses, n)),
            np.where(failed, np.nan, _columns(violations, n)),
            np.where(failed, np.nan, values.standard_errors[:, objectives]),
            failures,
        )

    def _chunks(self, keys: Sequence[tuple[int, ...]]) -> Iterator[Sequence[tuple[int, ...]]]:
        start = 0
        while start < len(keys):
            if self._interrupted():
                raise Interrupted
            chunk = keys[start : start + self._chunk]
            start += len(chunk)
            yield chunk

    def _measure_chunk(self, keys: Sequence[tuple[int, ...]]) -> None:
        genomes = np.array(keys, dtype=np.int64)
        began = self._clock()
        values, cpu_seconds, samples = self._measure(genomes)
        seconds = self._clock() - began
        self._journal.measured(genomes, values, cpu_seconds=cpu_seconds, samples=samples, fidelity=self._fidelity)
        for key in keys:
            self._count(key)
        self.measured += len(keys)
        self.seconds += seconds
        # Growing at most fourfold keeps one fast chunk (everything failed, say) from making the next endless.
        fitting = int(self._chunk_seconds * len(keys) / max(seconds, 1e-9))
        self._chunk = max(self._least_chunk, min(fitting, 4 * self._chunk))

    def _values(self, keys: Sequence[tuple[int, ...]], fidelity: str | None = None) -> Values:
        rows = [self._journal.known(key, fidelity or self._fidelity) for key in keys]
        found = [row for row in rows if row is not None]
        shape = (len(found), len(self._columns))
        # None becomes NaN.
        return Values(
            np.array([row.values for row in found], dtype=np.float64).reshape(shape),
            np.array([row.standard_errors for row in found], dtype=np.float64).reshape(shape),
            tuple(row.failure for row in found),
        )

    def _count(self, key: tuple[int, ...]) -> None:
        self.spending.count(self._name(key), self.share)

    def _name(self, key: tuple[int, ...]) -> tuple[str, bytes]:
        """Names a measurement, in few bytes."""
        return self._fidelity, np.array(key, dtype=np.int16).tobytes()

    def _not_finite(self, row: np.ndarray, columns: Sequence[int]) -> str | None:
        for name, column in self._columns.items():
            if column in columns and not np.isfinite(row[column]):
                return f"{name} is {row[column]}"
        return None


def _keys(genomes: Genomes) -> list[tuple[int, ...]]:
    return [tuple(row) for row in np.asarray(genomes).tolist()]


def _columns(columns: Sequence[np.ndarray], n: int) -> np.ndarray:
    return np.stack(columns, axis=1) if columns else np.empty((n, 0))
