"""Genomes to begin with: the uniform ladder, and a population spread over cost."""

from __future__ import annotations

import numpy as np

from evo_mpq.optimize.searcher import SeenGenomes, UnseenGenomes
from evo_mpq.space.search_space import Genome, SearchSpace
from evo_mpq.typing import FloatVector, Genomes

MOST_PAIRS = 16
"""With more pairs of weight and activation bits than this, the ladder has two rails instead of a grid."""

PRUNED_STEPS = 3
"""Channels are pruned at so many of the lowest weight bits: above, fewer bits cost less than fewer channels."""


def uniform_ladder(space: SearchSpace) -> list[tuple[str, Genome]]:
    """The recipes that do the same to every layer: name and genome, each genome once.

    Every pair of a number of weight bits and one of activation bits that the space offers somewhere gives the
    genome of the nearest legal values. Where that is more than 16 pairs: every number of weight bits at the
    highest activation bits, and at the activation bits nearest to it. Where channels may be pruned, every ratio is
    added at the lowest weight bits and the highest activation bits. Of recipes with the same genome the first stays.

    Returns:
        ``(name, genome)`` in ascending weight bits, then ascending ratios; names are such as ``"W4A8"`` or, with a
        quarter of the channels removed, ``"W4A8P25"``; what a space does not choose is not named.
    """
    weight_steps = [int(bits) for bits in space.steps("weight_bits")]
    activation_steps = [int(bits) for bits in space.steps("activation_bits")]
    ratios = [ratio for ratio in space.steps("prune_ratio") if ratio > 0]
    recipes = [(*pair, 0.0) for pair in _pairs(weight_steps, activation_steps)]
    highest = activation_steps[-1] if activation_steps else None
    lowest: list[int | None] = [*weight_steps[:PRUNED_STEPS]] or [None]
    recipes += [(weight, highest, ratio) for ratio in ratios for weight in lowest]
    ladder: dict[bytes, tuple[str, Genome]] = {}
    for weight, activation, ratio in recipes:
        genome = space.nearest(weight or 32, activation or 32, ratio)
        ladder.setdefault(genome.tobytes(), (_recipe_name(weight, activation, ratio), genome))
    return list(ladder.values())


def _recipe_name(weight: int | None, activation: int | None, ratio: float) -> str:
    bits = (f"W{weight}" if weight else "") + (f"A{activation}" if activation else "")
    return bits + (f"P{100 * ratio:.3g}" if ratio else "")


def _pairs(weight_steps: list[int], activation_steps: list[int]) -> list[tuple[int | None, int | None]]:
    weights: list[int | None] = [*weight_steps] or [None]
    activations: list[int | None] = [*activation_steps] or [None]
    if not (weight_steps or activation_steps):
        return []
    if len(weights) * len(activations) <= MOST_PAIRS:
        return [(weight, activation) for weight in weights for activation in activations]
    highest = activation_steps[-1]
    diagonal = [
        (weight, min(activation_steps, key=lambda bits: (abs(bits - weight), -bits))) for weight in weight_steps
    ]
    return sorted({*diagonal, *((weight, highest) for weight in weight_steps)})


def cost_spread(space: SearchSpace, n: int, rng: np.random.Generator, seen: SeenGenomes | None = None) -> Genomes:
    """Different genomes from the cheapest to the most expensive, the start of a population.

    Genomes drawn gene by gene all cost about the same, because costs are sums over many genes. Here genome
    ``i`` has its own level ``t``, evenly spaced in [0, 1], and each gene is drawn binomially around
    ``t * (cardinality - 1)``.

    Args:
        space: what is drawn from.
        n: number of genomes.
        rng: the source of chance.
        seen: genomes that are left out; not altered.

    Returns:
        ``(min(n, unseen genomes), n_genes)``, in random order, so that the first few are spread, too.
    """
    taken = SeenGenomes() if seen is None else seen.copy()
    spread = np.empty((0, space.n_genes), dtype=np.int64)
    levels = np.linspace(0.0, 1.0, n)
    for _ in range(10):  # near the ends of the range many draws collide, and are repeated at other levels
        drawn = _around(space, levels, rng)
        drawn = drawn[taken.new(drawn)]
        taken.add(drawn)
        spread = np.concatenate([spread, drawn])
        levels = rng.random(n - len(spread))
    if len(levels):
        spread = np.concatenate([spread, UnseenGenomes(space, taken, rng).draw(len(levels))])
    return rng.permutation(spread)


def _around(space: SearchSpace, levels: FloatVector, rng: np.random.Generator) -> Genomes:
    """One genome per level in [0, 1]."""
    return space.canonical(rng.binomial(space.cardinalities - 1, levels[:, None], (len(levels), space.n_genes)))
