"""Contributions by definition, from all states: the oracle of small games."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from evo_mpq.errors import MeasurementError
from evo_mpq.predict.shapley.contributions import Contributions
from evo_mpq.predict.shapley.games import Game
from evo_mpq.predict.tables.options import Measure, OptionTable
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

MOST_STATES = 4096
"""States of the largest game that is solved exactly."""


def exact(
    space: SearchSpace,
    measure: Measure,
    n_measurements: int,
    rng: np.random.Generator,
    *,
    levels: OptionTable | None = None,
) -> Contributions:
    """All genomes, for spaces of up to 4,096: the average over all orders of all steps.

    An order that respects precedence is a monotone lattice path; each counts the same (van den Nouweland et al. 1995;
    Faigle and Kern 1992). A step's contribution is the sum over the states it can start from of the share of paths
    that take it there, times what it adds there.

    Args:
        space: of the genes.
        measure: measures genomes.
        n_measurements: at least the number of genomes of the space.
        rng: nothing is drawn.
        levels: left aside, levels are measured.

    Raises:
        ValueError: the space is too large, or larger than the number of measurements.
        MeasurementError: a genome cannot be measured.
    """
    n_states = math.prod(map(int, space.cardinalities))
    if n_states > MOST_STATES:
        raise ValueError(
            f"exact contributions need all genomes, and {n_states} are more than {MOST_STATES}; "
            "kernel or lattice estimate them"
        )
    if space.n_genomes > n_measurements:
        raise ValueError(f"exact contributions take {space.n_genomes} measurements, only {n_measurements} are allowed")
    game = Game(space, measure)
    states: Genomes = np.array(list(np.ndindex(*space.cardinalities)), dtype=np.int64)
    losses = game.losses(states)
    if not np.isfinite(losses).all():
        raise MeasurementError(f"{(~np.isfinite(losses)).sum()} genomes cannot be measured; exact needs every one")
    above, below = _log_paths(space.cardinalities - 1 - states), _log_paths(states)
    strides = np.append(np.cumprod(space.cardinalities[::-1])[::-1][1:], 1)
    increments: list[FloatVector] = []
    visits: list[npt.NDArray[np.int64]] = []
    for gene, cardinality in enumerate(space.cardinalities):
        starts = np.flatnonzero(states[:, gene] > 0)
        ends = starts - strides[gene]
        paths = np.exp(above[starts] + below[ends] - below[-1])
        added = paths * (losses[ends] - losses[starts])
        increments.append(np.bincount(states[ends, gene], added, cardinality - 1).astype(np.float64))
        visits.append(np.bincount(states[ends, gene], minlength=cardinality - 1))
    none = tuple(np.zeros(len(steps)) for steps in increments)
    return Contributions(
        tuple(increments), none, tuple(visits), np.zeros(space.n_genes), game.n_measured, game.top, game.bottom
    )


def _log_paths(steps: Genomes) -> FloatVector:
    """``(n,)`` logarithms of the number of orders of ``(n, n_genes)`` steps of each gene: multinomial coefficients."""
    log_factorials = np.append(0.0, np.cumsum(np.log(np.arange(1, steps.sum(axis=1).max() + 1))))
    paths: FloatVector = log_factorials[steps.sum(axis=1)] - log_factorials[steps].sum(axis=1)
    return paths
