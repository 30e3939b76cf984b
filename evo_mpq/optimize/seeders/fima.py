"""Errors of layers' outputs in a low-rank Fisher metric."""

from __future__ import annotations

from evo_mpq.optimize.seeders.scores import allocated, table_of_forms
from evo_mpq.predict.statistics.output_fisher import output_fishers, output_losses
from evo_mpq.predict.statistics.perturbations import option_forms
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

RANK = 15
"""Of the Fisher beyond its diagonal; the larger of the two in the paper's released checkpoints."""


def fima(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """Errors of layers' outputs by a Fisher of diagonal plus low rank (FIMA-Q's objective), exact program.

    Wu et al. 2025 (arXiv 2506.11543) reconstruct blocks by this loss; here it says what options cost. Measures
    nothing. Only weights are judged: activations keep their bits and blocks stay, unless weights alone cannot meet a
    budget.
    """
    forms = option_forms(space, tables.compressor)
    fishers = output_fishers(tables.compressor.network, rank=RANK, seed=tables.seed)
    scores = output_losses(tables.compressor, fishers, forms.by_layer())
    return allocated(space, table_of_forms(space, forms, scores), tables, budgets)
