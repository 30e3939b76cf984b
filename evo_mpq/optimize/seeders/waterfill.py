"""Bits by a closed form: every layer loses the same per byte (BAQ, at the level of layers)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evo_mpq.predict.factored import FactoredFunction
from evo_mpq.predict.tables.options import OptionTable, additive
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.search_space import Genome, SearchSpace
from evo_mpq.typing import FloatVector, Genomes

BISECTIONS = 100
"""Halvings of the interval of the multiplier's logarithm, down to rounding."""


def waterfill(space: SearchSpace, tables: Tables, budgets: FloatVector) -> Genomes:
    """Bits of weights by a closed form, equal loss per byte (BAQ, at the level of layers), then greedy.

    BAQ (arXiv 2506.05664) takes the loss of a part for ``c * 4**-bits`` and allots ``bits = log2(c / (s λ)) / 2`` to
    it, whose bit costs ``s``; ``λ`` is found by bisection, bits are clipped to what a layer may have. There it is done
    for columns, here for genes, with ``c`` fitted to the measured sensitivities. Then bits are rounded down to options,
    and single steps of the highest gain per cost are added until nothing fits.

    All else (activations, channels, blocks) stays at its most expensive option. Where the lowest bits of all weights
    exceed a budget, it is lowered, too: in steps of the smallest measured increase of the loss per cost saved.

    Raises:
        MeasurementError: the most expensive genome cannot be measured.
    """
    curves = _curves(space, tables)
    losses = list(tables.sensitivities.losses)
    for curve in curves:
        losses[curve.gene] = curve.harm * (4.0**-curve.bits - 4.0 ** -curve.bits[-1])
    loss = additive(space, OptionTable.of(losses))
    genomes = [_closed_form(space, tables.cost, curves, float(budget)) for budget in budgets]
    lowered = [_lowered(space, loss, tables.cost, *each) for each in zip(genomes, budgets, strict=True)]
    raised = [_raised(space, loss, tables.cost, *each) for each in zip(lowered, budgets, strict=True)]
    return np.array(raised, dtype=np.int64).reshape(len(raised), space.n_genes)


def allocation_gain(space: SearchSpace, tables: Tables) -> float:
    """How much mixed precision can help here: lowest loss of mixed bits over that of equal bits, at the same cost.

    The geometric over the arithmetic mean of the layers' losses per byte, weighted by their bytes per bit (BAQ, GM/AM),
    for bits that may be any real numbers: 1 where all layers need the same bits and a search has nothing to gain, .1
    where a tenth of the loss would remain. Genes without loss or without cost tell nothing and are left out.

    Raises:
        MeasurementError: the most expensive genome cannot be measured.
    """
    telling = [curve for curve in _curves(space, tables) if curve.harm > 0 and curve.size > 0]
    if not telling:
        return 1.0
    sizes = np.array([curve.size for curve in telling])
    per_cost = np.array([curve.harm for curve in telling]) / sizes
    geometric = np.exp(np.average(np.log(per_cost), weights=sizes))
    return float(geometric / np.average(per_cost, weights=sizes))


@dataclass(frozen=True, eq=False)
class _Curve:
    """What the bits of one gene are taken to do: a loss of ``harm * 4**-bits``, a cost of ``size * bits``.

    Attributes:
        gene: which.
        bits: ``(cardinality,)`` its values.
        harm: at least 0.
        size: at least 0.
    """

    gene: int
    bits: FloatVector
    harm: float
    size: float


def _curves(space: SearchSpace, tables: Tables) -> list[_Curve]:
    """One for each gene of weight bits, all else at its most expensive."""
    top = space.most_expensive()
    curves = []
    for gene, member in enumerate(space.genes):
        if member.kind != "weight_bits":
            continue
        bits = np.array(member.values, dtype=np.float64)
        rows = np.tile(top, (len(bits), 1))
        rows[:, gene] = np.arange(len(bits))
        slope = float(np.polyfit(bits, tables.cost(space.canonical(rows)), 1)[0])
        # The table holds increments over the last option, which has a loss of its own in the formula.
        losses = tables.sensitivities.losses[gene][:-1]
        falls = 4.0 ** -bits[:-1] - 4.0 ** -bits[-1]
        seen = losses > 0
        harm = float(np.exp(np.log(losses[seen] / falls[seen]).mean())) if seen.any() else 0.0
        curves.append(_Curve(gene, bits, harm, max(slope, 0.0)))
    return curves


def _closed_form(space: SearchSpace, cost: FactoredFunction, curves: Sequence[_Curve], budget: float) -> Genome:
    """Bits by the formula, rounded down to options; all else at its most expensive."""
    genome = space.most_expensive()
    if not curves:
        return genome
    sizes, harms = np.array([curve.size for curve in curves]), np.array([curve.harm for curve in curves])
    least, most = (np.array([curve.bits[end] for curve in curves]) for end in (0, -1))
    genome[[curve.gene for curve in curves]] = 0
    left = budget - float(cost(space.canonical(genome[None]))[0])
    with np.errstate(divide="ignore"):
        # No loss takes the fewest bits; no cost the most, whatever the loss.
        wanted = np.where(sizes > 0, 0.5 * np.log2(harms / np.where(sizes > 0, sizes, 1.0)), np.inf)

    def bits(level: float) -> FloatVector:
        """Bits of all genes where half the logarithm of the multiplier is ``-level``."""
        clipped: FloatVector = np.clip(wanted + level, least, most)
        return clipped

    finite = wanted[np.isfinite(wanted)]
    # From everything at its fewest to everything at its most bits.
    low, high = (least.min() - finite.max(initial=0.0) - 1, most.max() - finite.min(initial=0.0) + 1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if sizes @ (bits(middle) - least) <= left else (low, middle)
    for curve, number in zip(curves, bits(low), strict=True):
        genome[curve.gene] = max(0, int(np.searchsorted(curve.bits, number, side="right")) - 1)
    row: Genome = space.canonical(genome[None])[0]
    return row


def _lowered(
    space: SearchSpace, loss: FactoredFunction, cost: FactoredFunction, genome: Genome, budget: float
) -> Genome:
    """Single genes lowered, the smallest increase of the loss per cost saved first, until the budget is met.

    Weights are lowered as far as that goes before anything else is.
    """
    weights = [gene for gene, member in enumerate(space.genes) if member.kind == "weight_bits"]
    for genes in (weights, range(space.n_genes)):
        while cost(genome[None])[0] > budget:
            rows = [_with(genome, gene, option) for gene in genes for option in range(genome[gene])]
            candidates = space.canonical(np.array(rows, dtype=np.int64).reshape(len(rows), space.n_genes))
            saved = cost(genome[None]) - cost(candidates)
            more = loss(candidates) - loss(genome[None])
            if not np.any(saved > 0):
                break
            genome = candidates[np.argmin(np.divide(more, saved, out=np.full(len(saved), np.inf), where=saved > 0))]
    return genome if cost(genome[None])[0] <= budget else space.cheapest()


def _raised(
    space: SearchSpace, loss: FactoredFunction, cost: FactoredFunction, genome: Genome, budget: float
) -> Genome:
    """Single genes raised by one option, the highest gain per cost first, until no more fits."""
    while True:
        rows = [_with(genome, gene, genome[gene] + 1) for gene in np.flatnonzero(genome < space.cardinalities - 1)]
        candidates = space.canonical(np.array(rows, dtype=np.int64).reshape(len(rows), space.n_genes))
        added = cost(candidates) - cost(genome[None])
        gained = loss(genome[None]) - loss(candidates)
        fits = (cost(candidates) <= budget) & (candidates.sum(axis=1) > genome.sum()) & (gained >= 0)
        if not fits.any():
            return genome
        # What costs nothing comes first.
        worth = np.where(added > 0, gained / np.where(added > 0, added, 1.0), np.inf)
        genome = candidates[np.argmax(np.where(fits, worth, -np.inf))]


def _with(genome: Genome, gene: int | np.int64, option: int | np.int64) -> Genome:
    row = genome.copy()
    row[gene] = option
    return row
