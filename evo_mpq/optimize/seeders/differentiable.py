"""The mixture of a weight-sharing supernet, trained by gradient."""

from __future__ import annotations

from evo_mpq.optimize.seeders.scores import allocated
from evo_mpq.predict.supernet.differentiable import trained_log_shares
from evo_mpq.predict.supernet.scores import table_of_scores
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


def differentiable(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """Softmax mixture of bits trained by gradient with weights (DNAS, EdMIPS), exact program.

    Among the policies within a budget the one of the largest product of shares is chosen. Needs a train split and
    measures nothing. Only bits are chosen by it: channels are pruned and blocks dropped only where bits alone cannot
    meet a budget.

    Raises:
        ConfigError: there is no train split.
    """
    shares = trained_log_shares(tables.supernet, seed=tables.seed)
    return allocated(space, table_of_scores(space, shares), tables, budgets)
