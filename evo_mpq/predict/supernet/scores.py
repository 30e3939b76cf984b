"""From scores of options to a table that exact programs allocate by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evo_mpq.predict.tables.options import OptionTable
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector


def table_of_scores(space: SearchSpace, scores: Mapping[int, FloatVector]) -> OptionTable:
    """The table in which an option costs what it is worse than the most expensive one; it may be better.

    Options of genes without scores, such as pruning ratios and dropped blocks, cost more the cheaper they are, and
    each step more than all bits together: they are chosen only where bits alone cannot meet a budget.

    Args:
        space: of the genes.
        scores: per gene ``(cardinality,)``, larger is better.

    >>> from evo_mpq.space.genes import Gene
    >>> space = SearchSpace(["stem"], [Gene("stem.weight_bits", (2, 4, 8), "weight_bits", ("stem",))])
    >>> table_of_scores(space, {0: np.array([1.0, 4.0, 3.0])}).losses
    (array([ 2., -1.,  0.]),)
    """
    by_gene = {gene: row[-1] - row for gene, row in scores.items()}
    step = 1.0 + float(sum(np.ptp(row) for row in by_gene.values()))
    losses: list[FloatVector] = []
    for gene, member in enumerate(space.genes):
        steps_down = np.arange(member.cardinality - 1, -1, -1, dtype=np.float64)
        losses.append(by_gene[gene] if gene in by_gene else step * steps_down)
    return OptionTable.of(losses)
