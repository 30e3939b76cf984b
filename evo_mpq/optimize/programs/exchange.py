"""Better genomes by exchanging the options of one or two genes, where a program was not solved to its end."""

from __future__ import annotations

import numpy as np

from evo_mpq.predict.factored import FactoredFunction
from evo_mpq.space.search_space import Genome, SearchSpace
from evo_mpq.typing import Genomes


def exchanged(
    space: SearchSpace, loss: FactoredFunction, cost: FactoredFunction, budget: float, genome: Genome
) -> Genome:
    """A genome of which no other option of one gene, nor of two at once, is better within the budget.

    The best of all such neighbors is taken until none is better: ``B^2 n^2 / 2`` of them for ``n`` genes of ``B``
    options. Two at once are what a budget asks for: one gene gets what another gives.

    Args:
        space: of the genomes.
        loss: what is minimized.
        cost: what ``budget`` bounds; neither may depend on inactive genes.
        budget: the bound.
        genome: ``(n_genes,)`` that costs no more.

    Returns:
        ``(n_genes,)`` canonical.
    """
    lowest = loss(genome[None])[0]
    while True:
        best = genome
        for gene in range(space.n_genes):  # not all at once, which is gigabytes for hundreds of genes
            changes = _changes(space, gene)
            neighbors = np.where(changes < 0, genome, changes)
            neighbors = neighbors[cost(neighbors) <= budget]
            losses = loss(neighbors)
            if len(losses) and losses.min() < lowest:
                best, lowest = neighbors[np.argmin(losses)], losses.min()
        if best is genome:
            canonical: Genome = space.canonical(genome[None])[0]
            return canonical
        genome = best


def _changes(space: SearchSpace, gene: int) -> Genomes:
    """Every option of a gene, alone and with every option of every later gene, in rows of -1."""
    rows = []
    for genes in [[gene], *([gene, other] for other in range(gene + 1, space.n_genes))]:
        options = np.array(list(np.ndindex(*(int(n) for n in space.cardinalities[genes]))))
        block = np.full((len(options), space.n_genes), -1, dtype=np.int64)
        block[:, genes] = options
        rows.append(block)
    return np.concatenate(rows)
