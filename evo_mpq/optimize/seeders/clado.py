"""Pairwise interactions and an exact integer program."""

from __future__ import annotations

import numpy as np

from evo_mpq.optimize.programs.exchange import exchanged
from evo_mpq.optimize.programs.integer import SolverTimeout, integer_program
from evo_mpq.predict.factored import FactoredFunction
from evo_mpq.predict.tables.interactions import quadratic
from evo_mpq.predict.tables.options import additive
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import Genome, SearchSpace
from evo_mpq.typing import FloatVector, Genomes

MOST_NODES = 20
"""Of the branch-and-bound tree for one budget, whose best genome until then is taken, on every machine the same.

Some 10 genes are solved to the end; 20 genes of 5 options are within a few percent, and take some 10 seconds.
"""

SECONDS = 600.0
"""For one budget, on a machine that is very slow: what is chosen then depends on it."""


def clado(space: SearchSpace, tables: Tables, budgets: FloatVector, *, psd: bool = False) -> Genomes:
    """Measured pairwise interactions, exact integer program (CLADO).

    Unlike in the paper (Deng et al. 2023, arXiv 2307.05657) interactions are shrunk by what their standard errors say,
    and the program is solved exactly for any matrix, so that none needs to be made positive semidefinite. Above 60
    genes only pairs within blocks interact, or else the strongest.

    Args:
        space: what may be chosen.
        tables: measures options alone and in pairs when first asked.
        budgets: ``(n,)`` bounds on the cost.
        psd: whether the matrix is made positive semidefinite as in the paper.

    Raises:
        MeasurementError: the most expensive genome cannot be measured.
    """
    alone = additive(space, tables.sensitivities)
    model = quadratic(space, tables.sensitivities, tables.interactions, psd=psd)
    rows = [_best(space, (model, alone), tables.cost, float(budget)) for budget in budgets]
    return np.array(rows, dtype=np.int64).reshape(len(rows), space.n_genes)


def _best(
    space: SearchSpace, models: tuple[FactoredFunction, FactoredFunction], cost: FactoredFunction, budget: float
) -> Genome:
    """The best genome by the pairwise model that is found within the limits."""
    pairwise, alone = models
    try:
        genome = integer_program(space, pairwise, cost, budget, nodes=MOST_NODES, seconds=SECONDS)
    except SolverTimeout:
        genome = integer_program(space, alone, cost, budget, seconds=SECONDS)
    return exchanged(space, pairwise, cost, budget, genome)
