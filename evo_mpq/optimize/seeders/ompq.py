"""Bits by how little a layer's output resembles those of others."""

from __future__ import annotations

import numpy as np

from evo_mpq.optimize.seeders.scores import allocated, normalized_table
from evo_mpq.predict.statistics.similarity import importance, output_similarity
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


def ompq(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """Most weight bits where layers' outputs are orthogonal to others' (OMPQ), exact program.

    Maximizes the sum of importance times bits (Ma et al. 2023, arXiv 2109.07865), over the options themselves instead
    of a linear program that is rounded. Knows nothing of the weights' errors and measures nothing. Only bits of
    weights are judged: all else stays unless they alone cannot meet a budget.
    """
    network = tables.compressor.network
    found = importance(output_similarity(network))
    by_layer = {layer.name: float(value) for layer, value in zip(network.layers, found, strict=True)}
    losses = {}
    for position, gene in enumerate(space.genes):
        if gene.kind == "weight_bits":
            bits = np.array(gene.values, dtype=np.float64)
            losses[position] = sum(by_layer[name] for name in gene.layers) * (bits[-1] - bits)
    return allocated(space, normalized_table(space, losses), tables, budgets)
