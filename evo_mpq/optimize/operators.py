"""Variation of integer genomes: uniform crossover and ±1/reset mutation, a whole generation at once."""

from __future__ import annotations

import numpy as np

from evo_mpq.typing import Genomes


def uniform_crossover(mothers: Genomes, fathers: Genomes, rng: np.random.Generator) -> Genomes:
    """Children that take each gene from either parent with equal probability (Syswerda 1989).

    Args:
        mothers: ``(n, n_genes)``.
        fathers: ``(n, n_genes)``.
        rng: the source of chance.

    Returns:
        ``(n, n_genes)`` one child per pair.
    """
    return np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)


def mutate(genomes: Genomes, cardinalities: Genomes, rng: np.random.Generator, rate: float) -> Genomes:
    """Genomes in which each gene has another value with a certain probability.

    Values of a gene are ordered, so half of the changes go to a neighbor and half to any other value: the
    first refine a front, the second leave local optima. (Rounding a continuous polynomial mutation, the usual
    recipe for integers, leaves most children unchanged.)

    Args:
        genomes: ``(n, n_genes)``; not altered.
        cardinalities: ``(n_genes,)`` number of values of each gene, each at least 2.
        rng: the source of chance.
        rate: probability of each gene to change.

    Returns:
        ``(n, n_genes)``.
    """
    chosen = rng.random(genomes.shape) < rate
    near = rng.random(genomes.shape) < 0.5
    changed = np.where(near, step(genomes, cardinalities, rng), reset(genomes, cardinalities, rng))
    return np.where(chosen, changed, genomes)


def step(genomes: Genomes, cardinalities: Genomes, rng: np.random.Generator) -> Genomes:
    """``(n, n_genes)`` a neighboring value for every gene; inwards at the ends."""
    up = rng.random(genomes.shape) < 0.5
    up = (up | (genomes == 0)) & (genomes < cardinalities - 1)
    return genomes + np.where(up, 1, -1)


def reset(genomes: Genomes, cardinalities: Genomes, rng: np.random.Generator) -> Genomes:
    """``(n, n_genes)`` for every gene any of its other values, with equal probability."""
    # A draw among cardinality − 1 values, shifted past the present one, never keeps it.
    drawn = rng.integers(np.broadcast_to(cardinalities - 1, genomes.shape))
    return drawn + (drawn >= genomes)
