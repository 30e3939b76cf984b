"""What measuring a set of genomes returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evo_mpq.typing import BoolVector, FloatMatrix, Losses


@dataclass(frozen=True, eq=False)
class Values:
    """Raw values of ``n`` candidates in every quantity of a run, in the units and directions of the quantities.

    Attributes:
        values: ``(n, n_quantities)``; NaN in a failed row.
        standard_errors: ``(n, n_quantities)``; NaN where a quantity has no per-sample values.
        failures: per row the message of what went wrong, or None.
    """

    values: FloatMatrix
    standard_errors: FloatMatrix
    failures: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.failures)

    @staticmethod
    def concatenate(parts: list[Values]) -> Values:
        """Rows of all parts, in order."""
        return Values(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.standard_errors for part in parts]),
            tuple(failure for part in parts for failure in part.failures),
        )


@dataclass(frozen=True, eq=False)
class Measurements:
    """What a searcher is told about ``n`` genomes.

    Attributes:
        losses: ``(n, n_objectives)`` objectives, all minimized; NaN in a failed row.
        violations: ``(n, n_constraints)``; positive where a constraint is not met.
        standard_errors: ``(n, n_objectives)``; NaN where unknown.
        failures: per row the message of what went wrong, or None. Failed rows never enter a population.
    """

    losses: Losses
    violations: FloatMatrix
    standard_errors: FloatMatrix
    failures: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.failures)

    @property
    def succeeded(self) -> BoolVector:
        """``(n,)`` rows that hold values."""
        return np.array([failure is None for failure in self.failures], dtype=bool)

    @property
    def feasible(self) -> BoolVector:
        """``(n,)`` rows that succeeded and meet every constraint."""
        met: BoolVector = np.all(self.violations <= 0, axis=1)
        return self.succeeded & met

    def rows(self, which: BoolVector) -> Measurements:
        """Some of the rows."""
        failures = tuple(failure for failure, wanted in zip(self.failures, which, strict=True) if wanted)
        return Measurements(self.losses[which], self.violations[which], self.standard_errors[which], failures)
