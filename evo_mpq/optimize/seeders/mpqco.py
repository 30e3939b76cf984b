"""Second-order losses of layers with a Gauss-Newton Hessian, as a knapsack of multiple choices."""

from __future__ import annotations

import numpy as np

from evo_mpq.optimize.seeders.scores import allocated, table_of_forms
from evo_mpq.predict.factored import FactoredFunction
from evo_mpq.predict.statistics.output_fisher import output_fishers, output_losses
from evo_mpq.predict.statistics.perturbations import option_forms
from evo_mpq.predict.tables.options import OptionTable, additive
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import Genome, SearchSpace
from evo_mpq.typing import FloatVector, Genomes


def mpqco(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """Half of ΔWᵀHΔW per layer with a Gauss-Newton Hessian (MPQCO), exact program.

    Chen et al. 2021 (arXiv 2110.06554). The Hessian of a layer is ``E[x xᵀ ⊗ F]``, taken on its inputs ``x`` and with
    the diagonal of its output's Fisher ``F``, so that no matrix over weights is made. Measures nothing. Only weights
    are judged: activations keep their bits and blocks stay, unless weights alone cannot meet a budget.
    """
    return allocated(space, second_order_table(space, tables), tables, budgets)


def mpqco_greedy(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """The same losses, solved as in the paper: the step that loses least per unit of cost, again and again."""
    return greedy(space, additive(space, second_order_table(space, tables)), tables.cost, budgets)


def second_order_table(space: SearchSpace, tables: Tables) -> OptionTable:
    """Half of ΔWᵀHΔW of every option of genes of weights, normalized."""
    forms = option_forms(space, tables.compressor)
    fishers = output_fishers(tables.compressor.network, rank=0, seed=tables.seed)
    return table_of_forms(space, forms, output_losses(tables.compressor, fishers, forms.by_layer()))


def greedy(space: SearchSpace, loss: FactoredFunction, cost: FactoredFunction, budgets: FloatVector) -> Genomes:
    """``(n, n_genes)`` per budget the first genome on the way down from the most expensive one that meets it.

    Every step lowers one gene to the option that adds least to the loss per unit of cost, past options that are no
    better than mixtures of their neighbors.

    Args:
        space: of the genomes.
        loss: minimized.
        cost: what budgets bound.
        budgets: ``(n,)``.

    Raises:
        ValueError: a budget is below what the way down leads to.
    """
    way = [space.most_expensive()]
    while cost(way[-1][None])[0] > min(budgets, default=np.inf):
        below = _one_step_lower(space, way[-1])
        saved = cost(way[-1][None]) - cost(below)
        useful = saved > 0
        if not useful.any():
            raise ValueError(f"no step leads to a cost of {min(budgets):.10g}")
        added = loss(below) - loss(way[-1][None])
        # what is free comes first; among steps that even gain, the one that gains most
        rates = np.where(added > 0, added / np.where(useful, saved, 1.0), added)
        way.append(below[int(np.argmin(np.where(useful, rates, np.inf)))])
    costs = cost(np.array(way))
    return np.array([way[int(np.argmax(costs <= budget))] for budget in budgets]).reshape(len(budgets), space.n_genes)


def _one_step_lower(space: SearchSpace, genome: Genome) -> Genomes:
    """``(n, n_genes)`` the genomes in which one gene has any cheaper option."""
    rows = [_with(genome, gene, option) for gene in range(space.n_genes) for option in range(int(genome[gene]))]
    return space.canonical(np.array(rows).reshape(len(rows), space.n_genes))


def _with(genome: Genome, gene: int, option: int) -> Genome:
    changed = genome.copy()
    changed[gene] = option
    return changed
