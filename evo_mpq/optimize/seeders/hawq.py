"""Traces of Hessians times squared errors of weights."""

from __future__ import annotations

from evo_mpq.optimize.seeders.scores import allocated, table_of_forms
from evo_mpq.predict.statistics.perturbations import option_forms, weighted_squares
from evo_mpq.predict.statistics.traces import average_traces
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


def hawq(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """Average trace of each layer's Hessian times its squared error (HAWQ-V2/V3), exact program.

    ``tr(H) / n * |ΔW|²`` per layer (Dong et al. 2020, arXiv 1911.03852); the exact program takes the place of the
    integer program of HAWQ-V3 (arXiv 2011.10680). Measures nothing. Only weights are judged: activations keep their
    bits and blocks stay, unless weights alone cannot meet a budget.
    """
    forms = option_forms(space, tables.compressor)
    traces = average_traces(tables.compressor.network, seed=tables.seed)
    scores = weighted_squares(tables.compressor, forms.by_layer(), traces)
    return allocated(space, table_of_forms(space, forms, scores), tables, budgets)
