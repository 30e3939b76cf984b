"""What a search expects of genomes: computed costs exactly, a surrogate for each measured loss and constraint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.archive import Archive
from evo_mpq.optimize.pareto import in_scale
from evo_mpq.predict.surrogates.additive import Additive
from evo_mpq.predict.surrogates.residual import OnResidual
from evo_mpq.predict.surrogates.surrogate import ResidualModel, Surrogate
from evo_mpq.predict.tables.options import Estimates, OptionTable
from evo_mpq.predict.tables.sensitivities import measured_sensitivities
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import BoolVector, FloatMatrix, FloatVector, Genomes

Cost = Callable[[Genomes], FloatVector]
"""``(n, n_genes)`` genomes to ``(n,)`` losses that need no measuring."""

LN10 = float(np.log(10.0))


@dataclass(frozen=True, eq=False)
class Expectation:
    """What is expected of ``n`` genomes.

    Attributes:
        losses: ``(n, m)`` means on the scale on which they are compared; exact where a cost is computed.
        deviations: ``(n, m)`` standard deviations; 0 where a cost is computed.
        feasible: ``(n,)`` probability that the measured constraints are met.
    """

    losses: FloatMatrix
    deviations: FloatMatrix
    feasible: FloatVector


class LossModels:
    """One surrogate for each measured objective and each measured constraint.

    Args:
        space: of the genomes.
        costs: per objective how it is computed, or None where it is measured.
        log_scale: per objective, whether it is compared on a logarithmic scale.
        n_constraints: columns of violations.
        measured_constraints: those of constraints that are measured.
        residual: makes a model of residuals; None for the additive model alone.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Sequence[Cost | None],
        log_scale: Sequence[bool],
        n_constraints: int,
        measured_constraints: Sequence[int],
        residual: Callable[[], ResidualModel] | None,
    ) -> None:
        self._space = space
        self._costs = tuple(costs)
        self._log_scale = tuple(log_scale)
        self._constraints = tuple(measured_constraints)
        self._residual = residual
        self._losses: dict[int, Surrogate] = {}
        self._violations: dict[int, Surrogate] = {}
        self._priors: dict[int, Additive] = {}
        self._believed: dict[int, OptionTable] = {}
        self._sketches = Archive(space.n_genes, len(self._costs), n_constraints)

    def believe(self, table: OptionTable, column: int) -> None:
        """Take a table as the prior of an objective; before the first `fit`."""
        self._believed[column] = table

    @property
    def has_sketch(self) -> bool:
        """Whether tables are made of what was measured on a part of the samples."""
        return len(self._sketches) > 0

    def sketched(self, genomes: Genomes, measurements: Measurements) -> None:
        """Make tables of these, measured on a part of the samples; before the first `fit`."""
        self._sketches.add(genomes, measurements)

    def fit(self, archive: Archive) -> None:
        """Learn from everything that was measured.

        Raises:
            MeasurementError: the most expensive genome was not measured, around which tables are.
        """
        source = self._sketches if self.has_sketch else archive
        measured = _known(archive)
        for column, cost in enumerate(self._costs):
            if cost is None:
                genomes = archive.genomes[measured]
                losses, errors = archive.losses[measured, column], archive.standard_errors[measured, column]
                if column not in self._losses:
                    rows = _known(source)
                    table = self._believed.get(column)
                    table = table or _table(self._space, source.genomes[rows], source.losses[rows, column])
                    self._losses[column] = self._surrogate(table, log_scale=self._log_scale[column], column=column)
                self._losses[column].fit(genomes, *self._scaled(losses, errors, column))
        for column in self._constraints:
            rows = measured & np.isfinite(archive.violations[:, column])
            genomes, violations = archive.genomes[rows], archive.violations[rows, column]
            if column not in self._violations:
                known = _known(source) & np.isfinite(source.violations[:, column])
                table = _table(self._space, source.genomes[known], source.violations[known, column])
                self._violations[column] = self._surrogate(table, log_scale=False)
            self._violations[column].fit(genomes, violations, np.full(len(genomes), np.nan))

    def additive(self, turn: int) -> OptionTable:
        """The fitted costs of options of a measured objective, by turns."""
        columns = sorted(self._priors)
        return self._priors[columns[turn % len(columns)]].table()

    def expected(self, genomes: Genomes) -> Expectation:
        """What to expect of genomes."""
        from scipy.special import ndtr  # SciPy takes a moment to import

        losses = np.empty((len(genomes), len(self._costs)))
        deviations = np.zeros_like(losses)
        for column, cost in enumerate(self._costs):
            if cost is None:
                losses[:, column], deviations[:, column] = self._losses[column].predict(genomes)
            else:
                losses[:, column] = cost(genomes)
        computed = [cost is not None and log for cost, log in zip(self._costs, self._log_scale, strict=True)]
        feasible = np.ones(len(genomes))
        for surrogate in self._violations.values():
            means, spreads = surrogate.predict(genomes)
            feasible *= ndtr(-means / np.maximum(spreads, 1e-12))
        return Expectation(in_scale(losses, computed), deviations, feasible)

    def _surrogate(self, table: OptionTable, *, log_scale: bool, column: int | None = None) -> Surrogate:
        prior = Additive(self._space, table, log_scale=log_scale)
        if column is not None:
            self._priors[column] = prior
        return prior if self._residual is None else OnResidual(prior, self._residual())

    def _scaled(self, losses: FloatVector, errors: FloatVector, column: int) -> tuple[FloatVector, FloatVector]:
        """Losses and errors on the scale on which they are compared."""
        scaled = in_scale(losses[:, None], [self._log_scale[column]])[:, 0]
        if self._log_scale[column]:
            errors = errors / (LN10 * 10.0**scaled)
        return scaled, errors


def _known(archive: Archive) -> BoolVector:
    """``(n,)`` rows that were measured, rather than rejected before, and succeeded."""
    known: BoolVector = archive.succeeded & np.all(np.isfinite(archive.losses), axis=1)
    return known


def _table(space: SearchSpace, genomes: Genomes, losses: FloatVector) -> OptionTable:
    """The one-at-a-time table of what was measured; options that were not are filled in."""
    known = dict(zip(map(tuple, genomes.tolist()), losses.tolist(), strict=True))

    def measured(wanted: Genomes) -> Estimates:
        found = np.array([known.get(tuple(row), np.nan) for row in wanted.tolist()])
        return Estimates(found, np.full(len(found), np.nan))

    return measured_sensitivities(space, measured)
