"""What each option of each gene costs alone, around the most expensive genome: sensitivities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evo_mpq.predict.factored import Factor, FactoredFunction
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


@dataclass(frozen=True, eq=False)
class Estimates:
    """Losses of ``n`` genomes in one measured objective.

    Attributes:
        losses: ``(n,)``, minimized; NaN where measuring failed.
        standard_errors: ``(n,)``; NaN where unknown.
    """

    losses: FloatVector
    standard_errors: FloatVector


Measure = Callable[[Genomes], Estimates]
"""``(n, n_genes)`` canonical genomes to their losses, through the journal of a run."""


@dataclass(frozen=True, eq=False)
class OptionTable:
    """What each option of each gene adds to a loss, alone.

    Attributes:
        losses: per gene ``(cardinality,)`` increments over the most expensive genome; the last one is 0.
        standard_errors: likewise, NaN where unknown.
        base: loss of the most expensive genome; 0 for scores that only rank.
    """

    losses: tuple[FloatVector, ...]
    standard_errors: tuple[FloatVector, ...]
    base: float = 0.0

    @classmethod
    def of(cls, losses: Sequence[FloatVector], base: float = 0.0) -> OptionTable:
        """A table without standard errors, such as of scores that are computed."""
        rows = tuple(np.asarray(row, dtype=np.float64) for row in losses)
        return cls(rows, tuple(np.full(len(row), np.nan) for row in rows), base)


def additive(space: SearchSpace, table: OptionTable) -> FactoredFunction:
    """The additive model: the sum of what the options of active genes cost alone.

    A gene inside of blocks counts only where one of them is kept.
    """
    factors = [Factor((), np.array(table.base))]
    for gene, losses in enumerate(table.losses):
        blocks = sorted(space.homes[gene] - {gene})
        scope = sorted([*blocks, gene])
        shape = [space.genes[member].cardinality for member in scope]
        values = np.broadcast_to(losses.reshape([-1 if member == gene else 1 for member in scope]), shape).copy()
        if blocks:
            gone = tuple(slice(None) if member == gene else 0 for member in scope)
            values[gone] = 0.0
        factors.append(Factor(tuple(scope), values))
    return FactoredFunction(tuple(factors))


def one_at_a_time_genomes(space: SearchSpace) -> Genomes:
    """``(1 + options, n_genes)`` the most expensive genome, and every other option of every gene alone in it.

    Genes in their order, options from cheap to expensive.
    """
    base = space.most_expensive()
    rows = [base]
    for gene, member in enumerate(space.genes):
        for option in range(member.cardinality - 1):
            row = base.copy()
            row[gene] = option
            rows.append(row)
    return space.canonical(np.array(rows))
