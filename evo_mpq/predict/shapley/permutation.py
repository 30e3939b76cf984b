"""Permutation sampling: genes are taken from top to bottom, one after the other, in random orders."""

from __future__ import annotations

import numpy as np

from evo_mpq.predict.shapley.contributions import Contributions, of_totals
from evo_mpq.predict.shapley.games import Game, checked_allowance
from evo_mpq.predict.shapley.levels import level_shares
from evo_mpq.predict.shapley.walks import walked
from evo_mpq.predict.tables.options import Measure, OptionTable
from evo_mpq.space.search_space import SearchSpace


def permutation(
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
    """Random orders of whole genes (Castro et al. 2009), the family of Shapley-NAS and SMPQ.

    Every gene goes from its most expensive to its cheapest option at once: a game of as many players as genes, whose
    totals are near to those of the game of steps, not equal. They are divided over steps by the level profile. The
    game of steps itself is sampled by `lattice`.

    Args:
        space: of the genes.
        measure: measures genomes.
        n_measurements: most genomes that may be measured.
        rng: of the orders.
        levels: what options cost alone.
        antithetic: whether every order is followed by its reverse.
        truncation: a walk stops when it has added more than this share of the game's range, half of it in
            Shapley-NAS; what comes late is then seen only where it came early, so that contributions are biased, and
            averages are over the walks that came to a gene (Shapley-NAS counts the others as 0).
        momentum: factor of an exponential average over walks, None for the mean.
    """
    n_measurements = checked_allowance(n_measurements)
    game = Game(space, measure)
    walks = walked(game, space.cardinalities - 1, n_measurements, rng, antithetic=antithetic, truncation=truncation)
    found = walks.averages(walks.added, momentum)
    return of_totals(game, found.means, found.standard_errors, found.visits, level_shares(space, levels))
