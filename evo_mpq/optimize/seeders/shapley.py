"""Shapley contributions of steps, and the exact program of their sums."""

from __future__ import annotations

from evo_mpq.errors import MeasurementError
from evo_mpq.optimize.seeders.scores import allocated
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


def shapley(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """Shapley contributions of every step of every gene, exact program.

    Each option costs what the steps above it contribute on average over networks in which other genes are low or
    high, where the one-at-a-time table looks at networks that are untouched but for one gene.

    Raises:
        MeasurementError: fewer measurements are allowed than that takes.
    """
    if tables.methods_allowance is not None and tables.methods_allowance < tables.contributions_take:
        raise MeasurementError(
            f"contributions of {space.n_genes} genes take {tables.contributions_take} measurements, and of this budget "
            f"{tables.methods_allowance} are for them"
        )
    return allocated(space, tables.contributions.table(), tables, budgets)
