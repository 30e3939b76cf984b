"""Everything that a run has measured, and its front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.searcher import first_of_new, genome_keys
from evo_mpq.typing import BoolVector, FloatMatrix, Genomes, Losses

Number = TypeVar("Number", bound=np.generic)


class Archive:
    """Genomes in the order of measuring, with what was measured of them.

    The front is kept up to date row by row: adding a candidate costs one comparison with the front,
    O(m·|front|), and no sorting of everything.

    Args:
        n_genes: length of a genome.
        n_objectives: number of losses.
        n_constraints: number of violations.

    >>> archive = Archive(n_genes=1, n_objectives=2)
    >>> losses = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> nothing = np.zeros((3, 0))
    >>> archive.add(np.array([[4], [5], [6]]), Measurements(losses, nothing, losses, (None, None, None)))
    >>> archive.front(), archive.index([6])
    (array([0, 2]), 2)
    """

    def __init__(self, n_genes: int, n_objectives: int, n_constraints: int = 0) -> None:
        self._genomes = np.empty((0, n_genes), dtype=np.int16)  # see `genome_keys`
        self._numbers: FloatMatrix = np.empty((0, 2 * n_objectives + n_constraints))
        self._splits = (n_objectives, n_objectives + n_constraints)
        self._failures: list[str | None] = []
        self._rows: dict[bytes, int] = {}
        self._front: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._front_losses: Losses = np.empty((0, n_objectives))
        self.lowest_violation = float("inf")
        """Lowest total violation of a candidate that succeeded; 0 once one is feasible."""

    def __len__(self) -> int:
        return len(self._failures)

    @property
    def genomes(self) -> Genomes:
        """``(n, n_genes)``, in the order of measuring; a copy."""
        return self._genomes[: len(self)].astype(np.int64)

    @property
    def losses(self) -> Losses:
        """``(n, n_objectives)``; NaN in failed rows; a read-only view."""
        return _read_only(self._numbers[: len(self), : self._splits[0]])

    @property
    def violations(self) -> FloatMatrix:
        """``(n, n_constraints)``; positive where a constraint is not met; a read-only view."""
        return _read_only(self._numbers[: len(self), self._splits[0] : self._splits[1]])

    @property
    def standard_errors(self) -> FloatMatrix:
        """``(n, n_objectives)``; NaN where unknown; a read-only view."""
        return _read_only(self._numbers[: len(self), self._splits[1] :])

    @property
    def failures(self) -> tuple[str | None, ...]:
        """Per row the message of what went wrong, or None."""
        return tuple(self._failures)

    @property
    def succeeded(self) -> BoolVector:
        """``(n,)`` rows that hold values."""
        return self.measurements.succeeded

    @property
    def measurements(self) -> Measurements:
        """All rows as they would be told to a searcher."""
        return Measurements(self.losses, self.violations, self.standard_errors, self.failures)

    def add(self, genomes: Genomes, measurements: Measurements) -> None:
        """Append rows; genomes that are in the archive already are passed over.

        Args:
            genomes: ``(n, n_genes)``.
            measurements: one row a genome.

        Raises:
            ValueError: shapes that do not fit the archive or each other.
        """
        numbers = np.concatenate([measurements.losses, measurements.violations, measurements.standard_errors], axis=1)
        if len(genomes) != len(measurements) or numbers.shape[1] != self._numbers.shape[1]:
            raise ValueError(
                f"the archive takes {self._numbers.shape[1]} numbers a genome, got {numbers.shape[1]}; "
                f"{len(genomes)} genomes with {len(measurements)} measurements"
            )
        self._reserve(len(self) + len(genomes))
        feasible = measurements.feasible & np.all(np.isfinite(measurements.losses), axis=1)
        totals = np.where(measurements.succeeded, np.maximum(measurements.violations, 0).sum(axis=1), np.inf)
        for row, key in enumerate(genome_keys(genomes)):
            if key in self._rows:
                continue
            place = len(self)
            self._rows[key] = place
            self._genomes[place] = genomes[row]
            self._numbers[place] = numbers[row]
            self._failures.append(measurements.failures[row])
            self.lowest_violation = min(self.lowest_violation, float(totals[row]))
            if feasible[row]:
                self._offer(place, measurements.losses[row])

    def new(self, genomes: Genomes) -> BoolVector:
        """``(n,)`` rows that were not measured and repeat no earlier row."""
        return first_of_new(genome_keys(genomes), self._rows)

    def index(self, genome: Sequence[int] | npt.NDArray[np.int64]) -> int:
        """The row of a genome.

        Raises:
            KeyError: it was not measured.
        """
        try:
            return self._rows[_key(genome)]
        except KeyError:
            raise KeyError(f"genome {tuple(map(int, genome))} was not measured") from None

    def front(self) -> npt.NDArray[np.int64]:
        """Rows of the feasible candidates that none weakly dominates, ascending; of equal ones the first."""
        return self._front.copy()

    def front_losses(self) -> Losses:
        """``(n, n_objectives)`` losses of the front, in the order of `front`."""
        return self._front_losses.copy()

    def _offer(self, place: int, losses: npt.NDArray[np.float64]) -> None:
        if np.any(np.all(self._front_losses <= losses, axis=1)):
            return
        stays = np.any(self._front_losses < losses, axis=1)
        self._front = np.append(self._front[stays], place)
        self._front_losses = np.concatenate([self._front_losses[stays], losses[None]])

    def _reserve(self, n: int) -> None:
        # Doubling keeps the cost of growing proportional to what is added.
        capacity = len(self._genomes)
        if n > capacity:
            more = max(n, 2 * capacity, 64) - capacity
            self._genomes = np.concatenate([self._genomes, np.empty((more, self._genomes.shape[1]), np.int16)])
            self._numbers = np.concatenate([self._numbers, np.empty((more, self._numbers.shape[1]))])


def _key(genome: Sequence[int] | npt.NDArray[np.int64]) -> bytes:
    return genome_keys(np.asarray(genome, dtype=np.int64)[None])[0]


def _read_only(array: npt.NDArray[Number]) -> npt.NDArray[Number]:
    view = array.view()
    view.flags.writeable = False
    return view
