"""What most people do: the same for every layer."""

from __future__ import annotations

import numpy as np

from evo_mpq.optimize.starts import uniform_ladder
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


def uniform(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """The same bits and ratios for every layer, the most expensive such recipe.

    Measures nothing. Of recipes that cost the same the one of more expensive options is taken, which are more bits;
    where none fits, the cheapest genome.
    """
    recipes = np.array([genome for _, genome in uniform_ladder(space)], dtype=np.int64).reshape(-1, space.n_genes)
    genomes = np.concatenate([space.cheapest()[None], recipes])
    costs = tables.cost(genomes)
    ascending = np.lexsort((genomes.sum(axis=1), costs))
    # The cheapest genome is no recipe where channels are pruned or blocks left out: any recipe is preferred to it.
    ascending = np.append(0, ascending[ascending != 0])
    fitting = np.searchsorted(costs[ascending[1:]], np.asarray(budgets), side="right")
    chosen: Genomes = genomes[ascending[fitting]]
    return chosen
