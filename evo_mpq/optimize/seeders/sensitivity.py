"""Each option's measured harm alone, added up: the baseline of every comparison."""

from __future__ import annotations

from evo_mpq.optimize.seeders.scores import allocated
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


def sensitivity(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """The lowest sum of the sensitivities of all options, measured one at a time; exact program.

    Pruned channels and dropped blocks are options like bits. One sweep of the program serves all budgets.

    Raises:
        MeasurementError: the most expensive genome cannot be measured.
    """
    return allocated(space, tables.sensitivities, tables, budgets)
