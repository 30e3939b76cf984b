"""From what a method thinks of weights to genomes: the table that such methods share, and the exact program on it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evo_mpq.compress.channels import WeightForm
from evo_mpq.optimize.programs.elimination import best_genomes
from evo_mpq.predict.statistics.perturbations import OptionForms
from evo_mpq.predict.supernet.scores import table_of_scores
from evo_mpq.predict.tables.options import OptionTable, additive
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


def normalized_table(space: SearchSpace, losses: Mapping[int, FloatVector]) -> OptionTable:
    """A table of what a method thinks options cost, the largest of which is 1.

    Scores of a network that fits its data are tiny (1e-7 to 1e-11): a solver with absolute tolerances takes them for
    zero and hands over half of the budget unused, as NVIDIA ModelOpt's AutoQuantize does.

    Genes that a method says nothing of (activations, dropped blocks, and whatever else a space holds) stay at their
    most expensive option unless the others cannot meet a budget: each of their steps costs more than everything else.

    Args:
        space: of the genes.
        losses: per gene, by position, ``(cardinality,)`` increments over its last option.
    """
    largest = max((float(np.abs(row).max()) for row in losses.values()), default=0.0)
    scale = largest if largest > 0 else 1.0
    return table_of_scores(space, {gene: -row / scale for gene, row in losses.items()})


def table_of_forms(
    space: SearchSpace, forms: OptionForms, scores: Mapping[tuple[str, WeightForm], float]
) -> OptionTable:
    """The normalized table of scores of layers' forms.

    A gene of several layers costs their sum. A ratio of a prune group costs what it changes in all members: rows that
    are removed from those that compute the channels, columns from those that read them, with the others compensated.

    Args:
        space: of the genes.
        forms: of its options.
        scores: of every layer in every form, larger is worse.
    """
    return normalized_table(space, forms.losses(scores))


def allocated(space: SearchSpace, table: OptionTable, tables: Tables, budgets: FloatVector) -> Genomes:
    """``(n, n_genes)`` per budget the genome of the lowest sum of a table's losses."""
    return best_genomes(space, additive(space, table), tables.cost, budgets)
