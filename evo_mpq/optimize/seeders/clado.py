"""Pairwise interactions and an exact integer program."""

from __future__ import annotations

import numpy as np

from evo_mpq.optimize.programs.elimination import best_genomes
from evo_mpq.optimize.programs.exchange import exchanged
from evo_mpq.optimize.programs.integer import LimitReached, integer_program
from evo_mpq.predict.factored import FactoredFunction
from evo_mpq.predict.tables.interactions import limited, projected, quadratic
from evo_mpq.predict.tables.options import additive
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import Genome, SearchSpace
from evo_mpq.typing import FloatVector, Genomes

MOST_NODES = 20
"""Of the branch-and-bound tree for one budget, whose best genome until then is taken, on every machine the same.

Some 10 genes are solved to the end; 20 genes of 5 options are within a few percent, and take some 20 seconds.
"""

MOST_ENTRIES = 5000
"""Of the tables of pairs together that the program holds: all pairs of 20 genes of 5 options.

Of 60 genes the first relaxation alone would take more than a minute, and a limit of time would let the machine decide
what is chosen. The strongest pairs are held; the others count in the exchanges that follow, which make up for them.
"""


def clado(space: SearchSpace, tables: Tables, budgets: FloatVector, *, psd: bool = False) -> Genomes:
    """Measured pairwise interactions, exact integer program (CLADO).

    Unlike in the paper (Deng et al. 2023, arXiv 2307.05657) interactions are shrunk by what their standard errors say,
    and the program is solved exactly for any matrix, so that none needs to be made positive semidefinite. Above 60
    genes only pairs within blocks interact, or else the strongest. A program of very many pairs is solved for the
    strongest, and what it finds improved with all.

    Args:
        space: what may be chosen.
        tables: measures options alone and in pairs when first asked.
        budgets: ``(n,)`` bounds on the cost.
        psd: whether the matrix is made positive semidefinite as in the paper.

    Raises:
        MeasurementError: the most expensive genome cannot be measured.
    """
    sensitivities, interactions = tables.sensitivities, tables.interactions
    if psd:
        sensitivities, interactions = projected(sensitivities, interactions)
    held = quadratic(space, sensitivities, limited(interactions, MOST_ENTRIES))
    whole = quadratic(space, sensitivities, interactions)
    alone = additive(space, tables.sensitivities)
    rows = []
    for budget in budgets:
        genome = _programmed(space, held, alone, tables.cost, float(budget))
        rows.append(exchanged(space, whole, tables.cost, float(budget), genome))
    return np.array(rows, dtype=np.int64).reshape(len(rows), space.n_genes)


def _programmed(
    space: SearchSpace, pairwise: FactoredFunction, alone: FactoredFunction, cost: FactoredFunction, budget: float
) -> Genome:
    """The best genome by the pairwise model that the solver finds; by the additive one if it finds none."""
    try:
        return integer_program(space, pairwise, cost, budget, nodes=MOST_NODES)
    except LimitReached:
        genome: Genome = best_genomes(space, alone, cost, [budget])[0]
        return genome
