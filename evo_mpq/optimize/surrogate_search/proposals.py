"""Candidates among which a surrogate chooses: exact programs of the additive model, and relatives of the front."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.nsga2 import NSGA2
from evo_mpq.optimize.operators import reset, step, uniform_crossover
from evo_mpq.optimize.pareto import non_dominated
from evo_mpq.optimize.programs.elimination import TooWide, pareto_program
from evo_mpq.predict.factored import Factor, FactoredFunction
from evo_mpq.predict.tables.options import OptionTable, additive
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes, Losses

INNER_POPULATION = 50
"""Children per generation of NSGA-II on what is expected."""

PROGRAM_THINNING = 0.01
"""Of the programs of a round: a tenth of the labels, because the front they give is only a proposal."""

PROGRAM_LABELS = 256
"""Labels of one assignment that are kept in them without thinning."""

PROGRAM_CELLS = 2**21
"""Labels that one of their steps may hold; programs of wider networks are left out, after a moment."""


def program_genomes(space: SearchSpace, table: OptionTable, cost: FactoredFunction) -> Genomes:
    """Genomes of the whole front of the additive model against a cost; none where the program is too wide."""
    try:
        front = pareto_program(
            space,
            additive(space, table),
            cost,
            most_labels=PROGRAM_LABELS,
            most_cells=PROGRAM_CELLS,
            thinning=PROGRAM_THINNING,
        )
    except TooWide:
        return np.empty((0, space.n_genes), dtype=np.int64)
    return front.genomes


def weighted(costs: Sequence[FactoredFunction], weights: FloatVector) -> FactoredFunction:
    """The weighted sum of costs."""
    factors = [
        Factor(factor.genes, weight * factor.table)
        for cost, weight in zip(costs, weights.tolist(), strict=True)
        for factor in cost.factors
    ]
    return FactoredFunction(tuple(factors))


def relatives(space: SearchSpace, front: Genomes, n: int, rng: np.random.Generator) -> Genomes:
    """``(n, n_genes)`` near a front: half with one or two genes changed, a quarter traded, a quarter crossed.

    A trade moves one gene up and another one down, so that costs stay about the same (EvoPress, Sieberling et al.
    2025). Parents of a cross are neighbors in the order of ``front``.

    Args:
        space: of the genomes.
        front: ``(k, n_genes)``, k >= 1, ordered by cost.
        n: how many.
        rng: the source of chance.
    """
    n_mutants, n_trades = n // 2, n // 4
    parents = front[rng.integers(len(front), size=n_mutants)]
    mutants = _changed(space, _changed(space, parents, rng), rng, share=0.5)
    trades = _traded(space, front[rng.integers(len(front), size=n_trades)], rng)
    mothers = rng.integers(len(front), size=n - n_mutants - n_trades)
    fathers = np.clip(mothers + rng.choice([-2, -1, 1, 2], size=len(mothers)), 0, len(front) - 1)
    children = _changed(space, uniform_crossover(front[mothers], front[fathers], rng), rng, share=0.5)
    return space.canonical(np.concatenate([mutants, trades, children]))


def evolved(
    space: SearchSpace,
    candidates: Genomes,
    losses: Losses,
    expected: Callable[[Genomes], Losses],
    generations: int,
) -> Genomes:
    """Children of candidates, evolved by NSGA-II on what is expected of them.

    Args:
        space: of the genomes.
        candidates: ``(n, n_genes)``.
        losses: ``(n, m)`` that are expected of them, on the scale on which they are compared.
        expected: the same for others.
        generations: of 50 children each.
    """
    searcher = NSGA2(space, INNER_POPULATION)
    best = non_dominated(losses)
    searcher.remember(candidates[best], _expected_only(losses[best]))
    found = []
    for _ in range(generations):
        children = searcher.ask()
        if not len(children):
            break
        searcher.tell(_expected_only(expected(children)))
        found.append(children)
    return np.concatenate([candidates[:0], *found])


def _expected_only(losses: Losses) -> Measurements:
    return Measurements(losses, np.zeros((len(losses), 0)), np.full_like(losses, np.nan), (None,) * len(losses))


def _changed(space: SearchSpace, genomes: Genomes, rng: np.random.Generator, share: float = 1.0) -> Genomes:
    """One gene of each genome has another value, half of the time a neighboring one; of a share of them."""
    n = len(genomes)
    near = rng.random(genomes.shape) < 0.5
    values = np.where(near, step(genomes, space.cardinalities, rng), reset(genomes, space.cardinalities, rng))
    rows = np.flatnonzero(rng.random(n) < share)
    genes = rng.integers(space.n_genes, size=n)[rows]
    changed = genomes.copy()
    changed[rows, genes] = values[rows, genes]
    return changed


def _traded(space: SearchSpace, genomes: Genomes, rng: np.random.Generator) -> Genomes:
    rows = np.arange(len(genomes))
    down, up = (rng.integers(space.n_genes, size=len(genomes)) for _ in range(2))
    traded = genomes.copy()
    traded[rows, down] = np.maximum(traded[rows, down] - 1, 0)
    traded[rows, up] = np.minimum(traded[rows, up] + 1, space.cardinalities[up] - 1)
    return traded
