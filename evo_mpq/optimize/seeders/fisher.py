"""Squared errors of weights, each weighted by its squared gradient."""

from __future__ import annotations

from evo_mpq.optimize.seeders.scores import allocated, table_of_forms
from evo_mpq.predict.statistics.fisher import fisher_diagonal
from evo_mpq.predict.statistics.perturbations import option_forms, weighted_squares
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


def fisher(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """Squared errors of weights times their Fisher information (AutoQuantize's gradient score), exact program.

    The second-order Taylor term of the loss with a diagonal Hessian, as in NVIDIA ModelOpt's AutoQuantize; but the
    Fisher is that of the network's own predictions, so that no labels are needed. Measures nothing. Only weights are
    judged: activations keep their bits and blocks stay, unless weights alone cannot meet a budget.
    """
    forms = option_forms(space, tables.compressor)
    diagonals = fisher_diagonal(tables.compressor.network, seed=tables.seed)
    scores = weighted_squares(tables.compressor, forms.by_layer(), diagonals)
    return allocated(space, table_of_forms(space, forms, scores), tables, budgets)
