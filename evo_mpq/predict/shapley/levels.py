"""Level profiles: how a gene's contribution is divided over its steps, where only the whole was estimated."""

from __future__ import annotations

import numpy as np

from evo_mpq.predict.tables.options import OptionTable
from evo_mpq.space.genes import BIT_KINDS, PRUNE_KIND, Gene
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector


def level_shares(space: SearchSpace, levels: OptionTable | None = None) -> tuple[FloatVector, ...]:
    """Per gene ``(cardinality - 1,)`` shares of its steps, each at least 0, that sum to 1.

    Args:
        space: of the genes.
        levels: what options cost alone; where it says nothing of a gene, and where there is none, the prior of
            `expected_losses` holds.
    """
    shares = []
    for gene, member in enumerate(space.genes):
        steps = None if levels is None else np.maximum(-np.diff(levels.losses[gene]), 0.0)
        if steps is None or not np.isfinite(steps).all() or steps.sum() <= 0:
            steps = -np.diff(expected_losses(member))
        shares.append(in_shares(steps))
    return tuple(shares)


def expected_steps(space: SearchSpace, levels: OptionTable | None = None) -> tuple[FloatVector, ...]:
    """Per gene ``(cardinality - 1,)`` what its steps are expected to contribute, up to a common factor.

    Args:
        space: of the genes.
        levels: what options cost alone; without it, or where it says nothing of some gene, all genes count alike.
    """
    totals = np.ones(space.n_genes)
    if levels is not None:
        alone = np.maximum([row[0] for row in levels.losses], 0.0)
        if np.isfinite(alone).all() and alone.sum() > 0:
            totals = alone
    return tuple(total * share for total, share in zip(totals, level_shares(space, levels), strict=True))


def in_shares(steps: FloatVector) -> FloatVector:
    """Steps in proportion, or all alike where they are 0; they sum to 1, unless there are none."""
    total = steps.sum()
    return steps / total if total > 0 else np.full(len(steps), 1.0 / max(len(steps), 1))


def expected_losses(gene: Gene) -> FloatVector:
    """``(cardinality,)`` losses of a gene's options up to a factor, before anything is measured; descending.

    4^-bits for bits: the squared step of rounding. The squared ratio for pruned channels: those that matter least go
    first. The squared number of options above for everything else, which for a dropped block is all or nothing.

    >>> expected_losses(Gene("a.weight_bits", (2, 3, 4), "weight_bits", ("a",))).tolist()
    [0.0625, 0.015625, 0.00390625]
    >>> expected_losses(Gene("a.prune_ratio", (0.5, 0.25, 0.0), "prune_ratio", ("a",))).tolist()
    [0.25, 0.0625, 0.0]
    """
    values = np.array(gene.values, dtype=np.float64)
    if gene.kind in BIT_KINDS:
        losses: FloatVector = 4.0**-values
    elif gene.kind == PRUNE_KIND:
        losses = values**2
    else:
        losses = np.arange(gene.cardinality)[::-1].astype(np.float64) ** 2
    return losses
