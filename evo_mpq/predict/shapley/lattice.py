"""Lattice paths: all steps of all genes in random orders, each gene's from the top."""

from __future__ import annotations

import itertools

import numpy as np

from evo_mpq.predict.shapley.contributions import Contributions
from evo_mpq.predict.shapley.games import Game, checked_allowance
from evo_mpq.predict.shapley.walks import walked
from evo_mpq.predict.tables.options import Measure, OptionTable
from evo_mpq.space.search_space import SearchSpace


def lattice(
    space: SearchSpace,
    measure: Measure,
    n_measurements: int,
    rng: np.random.Generator,
    *,
    levels: OptionTable | None = None,
    antithetic: bool = True,
    truncation: float | None = None,
    momentum: float | None = None,
) -> Contributions:
    """Random orders of single steps, which no profile of levels has to divide.

    Permutations of steps that respect precedence are monotone lattice paths, and all are as likely: this is
    permutation sampling of the game of steps, and its averages converge to the contributions that `exact` computes.
    A walk passes every step once and takes as many measurements.

    Args:
        space: of the genes.
        measure: measures genomes.
        n_measurements: most genomes that may be measured.
        rng: of the orders.
        levels: left aside, levels are measured.
        antithetic: whether every order of genes is followed by its reverse.
        truncation: see `permutation`.
        momentum: likewise.
    """
    n_measurements = checked_allowance(n_measurements)
    game = Game(space, measure)
    walks = walked(
        game, np.ones_like(space.cardinalities), n_measurements, rng, antithetic=antithetic, truncation=truncation
    )
    steps = walks.averages(walks.added, momentum)
    starts = np.append(0, np.cumsum(space.cardinalities - 1))
    totals = walks.averages(np.add.reduceat(walks.added, starts[:-1], axis=1), momentum)
    # moves of a gene stand from the top down, steps of contributions by their lower option
    genes = [slice(start, end) for start, end in itertools.pairwise(starts)]
    return Contributions(
        increments=tuple(steps.means[gene][::-1] for gene in genes),
        standard_errors=tuple(steps.standard_errors[gene][::-1] for gene in genes),
        visits=tuple(steps.visits[gene][::-1] for gene in genes),
        total_errors=totals.standard_errors,
        n_measurements=game.n_measured,
        top=game.top,
        bottom=game.bottom,
    )
