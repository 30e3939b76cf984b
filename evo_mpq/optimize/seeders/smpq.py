"""What each option contributes to a weight-sharing supernet: SMPQ-style."""

from __future__ import annotations

from evo_mpq.optimize.seeders.scores import allocated
from evo_mpq.predict.supernet.scores import table_of_scores
from evo_mpq.predict.supernet.smpq import contributions
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


def smpq(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """Shapley contributions of all bits to a supernet trained on the train split (SMPQ), exact program.

    Needs a train split and measures nothing. Only bits are chosen by it: channels are pruned and blocks dropped only
    where bits alone cannot meet a budget.

    Raises:
        ConfigError: there is no train split.
    """
    found = contributions(tables.supernet, seed=tables.seed)
    return allocated(space, table_of_scores(space, found.values), tables, budgets)
