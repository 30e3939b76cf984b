"""Searched coefficients of the sensitivities, each judged by the genome that the program makes of it."""

from __future__ import annotations

import math

import numpy as np

from evo_mpq.optimize.programs.elimination import best_genomes
from evo_mpq.predict.tables.options import OptionTable, additive
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

THINNING = 1e-2
"""Of the program, which is solved for every proposal: SPDY itself rounds costs to 10,000 steps."""


def spdy(space: SearchSpace, tables: Tables, budgets: FloatVector, *, n_random: int = 8, n_local: int = 24) -> Genomes:
    """Sensitivities times coefficients that are searched by measuring what a program makes of them (SPDY).

    SPDY (Frantar and Alistarh 2022, arXiv 2201.13096) tries random coefficients per layer, then draws some of those of
    the best again, 10 % of the layers at first and one at last, and starts from every improvement. Each proposal is
    judged by the measured loss of the genome that is best by the weighted sum.

    Unlike there, coefficients are searched at the middle one of the budgets only and serve all, so that measurements
    stay few: at most ``n_random + n_local``, or the methods' allowance, beside the sensitivities. The first
    proposal is all ones, so that at the middle budget the measured loss is no higher than that of the plain sum. Errors
    are the measured sensitivities; where one is 0, SPDY's quadratic in the steps below the highest option, on the scale
    of the smallest sensitivity of all, which only breaks ties.

    Args:
        space: what may be chosen.
        tables: what is known of its genes.
        budgets: ``(n,)``.
        n_random: proposals drawn anew, all ones among them; at least one.
        n_local: proposals near the best.

    Raises:
        MeasurementError: the most expensive genome cannot be measured.
    """
    rng = np.random.default_rng(tables.seed)
    errors = _errors(tables.sensitivities)
    allowance = math.inf if tables.methods_allowance is None else tables.methods_allowance
    n_random = int(max(1, min(n_random, allowance)))
    n_local = int(max(0, min(n_local, allowance - n_random)))
    bounds = np.asarray(budgets, dtype=np.float64)
    middle = bounds[len(bounds) // 2 :][:1]

    def genomes(coefficients: FloatVector, at: FloatVector) -> Genomes:
        """The best genomes by the weighted sum."""
        weighted = OptionTable.of([weight * row for weight, row in zip(coefficients, errors, strict=True)])
        return best_genomes(space, additive(space, weighted), tables.cost, at, thinning=THINNING)

    drawn = np.concatenate([np.ones((1, space.n_genes)), rng.random((n_random - 1, space.n_genes))])
    if allowance < 1 or not len(bounds):
        return genomes(drawn[0], bounds)
    losses = _losses(tables, np.concatenate([genomes(row, middle) for row in drawn]))
    best, lowest = drawn[np.argmin(losses)], losses.min()
    for redrawn in np.linspace(max(1, math.ceil(0.1 * space.n_genes)), 1, n_local).round().astype(int):
        proposal = best.copy()
        proposal[rng.choice(space.n_genes, redrawn, replace=False)] = rng.random(redrawn)
        loss = _losses(tables, genomes(proposal, middle))[0]
        if loss < lowest:
            best, lowest = proposal, loss
    return genomes(best, bounds)


def _errors(table: OptionTable) -> list[FloatVector]:
    """``(cardinality,)`` per gene, positive for all but the last option."""
    seen = np.concatenate(table.losses)
    smallest = float(seen[seen > 0].min(initial=np.inf))
    scale = smallest if np.isfinite(smallest) else 1.0
    return [np.where(losses > 0, losses, scale * _quadratic(len(losses))) for losses in table.losses]


def _quadratic(cardinality: int) -> FloatVector:
    """From 1 for the lowest option to 0 for the highest."""
    below = np.arange(cardinality - 1, -1, -1) / (cardinality - 1)
    squares: FloatVector = below**2
    return squares


def _losses(tables: Tables, genomes: Genomes) -> FloatVector:
    """Measured losses; those that failed are infinite."""
    losses = tables.measure(genomes).losses
    return np.where(np.isnan(losses), np.inf, losses)
