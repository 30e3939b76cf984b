"""What options of two genes cost together beyond what each costs alone: pairwise interactions (CLADO).

After Deng et al. 2023, "Mixed-Precision Quantization with Cross-Layer Dependencies" (arXiv 2307.05657): for options a
of gene i and b of gene j, around the most expensive genome,

    Omega_ij(a, b) = L(i=a, j=b) + L(base) - L(i=a) - L(j=b).

Where the loss is quadratic in the errors of layers, the additive model plus all Omega is the loss. It takes
``B^2 n (n - 1) / 2`` measurements for ``n`` genes of ``B`` options, so that a part may be measured, chosen by the
sensitivities: for a convex quadratic loss ``|Omega_ij(a, b)| <= 2 sqrt(Omega_i(a) Omega_j(b))`` (Cauchy–Schwarz).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from evo_mpq.predict.factored import LARGEST_TABLE, Factor, FactoredFunction
from evo_mpq.predict.tables.options import Measure, OptionTable, additive
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import BoolVector, FloatMatrix, FloatVector, Genomes

GenePair: TypeAlias = tuple[int, int]
"""Positions of two genes, ascending."""

MOST_GENES = 60
"""Of which all pairs are taken: more are too much to measure, and for an integer program."""

UNKNOWN_ERRORS_SHRINKAGE = 0.5
"""Factor of interactions where standard errors are unknown: half, best or tied in the reference's probes."""


@dataclass(frozen=True, eq=False)
class InteractionTable:
    """What pairs of options cost beyond the sum of what they cost alone.

    Attributes:
        pairs: per pair of genes ``(cardinality_i, cardinality_j)`` interactions as measured or filled in; the last row
            and the last column are 0. Pairs that are not in it do not interact.
        standard_errors: likewise, by those of the sensitivities; NaN where unknown or not measured.
        shrinkage: factor of all interactions in `quadratic`, from 0, the additive model, to 1.
        n_measurements: genomes of two options that were measured.
    """

    pairs: Mapping[GenePair, FloatMatrix]
    standard_errors: Mapping[GenePair, FloatMatrix]
    shrinkage: float = 1.0
    n_measurements: int = 0

    def shrunk(self, shrinkage: float) -> InteractionTable:
        """The same measurements, trusted differently."""
        return replace(self, shrinkage=shrinkage)


def all_pairs(space: SearchSpace) -> list[GenePair]:
    """Every pair of genes that can be set apart from the base at the same time: no gene with its own block's."""
    return [
        (i, j)
        for i, j in itertools.combinations(range(space.n_genes), 2)
        if space.homes[i] != {j} and space.homes[j] != {i}
    ]


def pairs_within(space: SearchSpace, blocks: Iterable[Collection[int]]) -> list[GenePair]:
    """The pairs of genes that are in one of ``blocks`` together, sets of positions of genes."""
    members = [frozenset(block) for block in blocks]
    return [(i, j) for i, j in all_pairs(space) if any(i in block and j in block for block in members)]


def strongest_pairs(
    space: SearchSpace, sensitivities: OptionTable, n: int, pairs: Sequence[GenePair] | None = None
) -> list[GenePair]:
    """The ``n`` pairs, of ``pairs`` or of all, whose lowest options may interact most by their sensitivities."""
    candidates = all_pairs(space) if pairs is None else list(pairs)
    highest = [losses.max() for losses in sensitivities.losses]
    return sorted(sorted(candidates, key=lambda pair: -highest[pair[0]] * highest[pair[1]])[:n])


def worthwhile_pairs(space: SearchSpace, sensitivities: OptionTable) -> list[GenePair]:
    """All pairs; above 60 genes the strongest of those within the same module, or of all if there are none."""
    pairs = all_pairs(space)
    if space.n_genes <= MOST_GENES:
        return pairs
    within = pairs_within(space, module_blocks(space))
    return strongest_pairs(space, sensitivities, MOST_GENES * (MOST_GENES - 1) // 2, within or pairs)


def module_blocks(space: SearchSpace) -> list[frozenset[int]]:
    """Genes whose layers are in the same block or stage, by their names.

    That is the module up to the first number in a layer's path, such as "layers.3" of "layers.3.attention.query" or
    "layer1.0" of "layer1.0.conv1"; the layer's parent where there is none before the layer's own name.
    """
    blocks: dict[str, set[int]] = defaultdict(set)
    for gene, member in enumerate(space.genes):
        for layer in member.layers:
            blocks[_block_of(layer)].add(gene)
    return [frozenset(members) for members in blocks.values()]


def _block_of(layer: str) -> str:
    *parents, _ = layer.split(".")
    numbered = next((place for place, part in enumerate(parents) if part.isdigit()), len(parents) - 1)
    return ".".join(parents[: numbered + 1])


def measured_interactions(
    space: SearchSpace,
    measure: Measure,
    sensitivities: OptionTable,
    *,
    allowance: int | None = None,
    pairs: Iterable[GenePair] | None = None,
    shrinkage: float | None = None,
    fill: bool = False,
) -> InteractionTable:
    """Measures pairs of options in the most expensive genome.

    First the lowest options of every pair of genes, then all others; both by what their sensitivities allow them to
    interact, as many as ``allowance``.

    Args:
        space: of the genes.
        measure: measures genomes.
        sensitivities: what options cost alone. Interactions are relative to these, so that the model meets the
            measured pairs even where a sensitivity was raised to 0.
        allowance: most measurements; None for any number.
        pairs: of genes; None for all.
        shrinkage: factor of interactions; None for that of `chosen_shrinkage`.
        fill: whether what is not measured of a pair follows from what is, as if its two errors had one correlation
            whatever the options, or is 0. On digits_mlp the lowest options say nothing of the others: with 15 to 90 of
            135 pairs of options the first choice had a regret of 1.11 to 1.07 with filling and of 1.07 to 1.04
            without, and was as good either way with the default quantizer (`benchmarks/pairwise_regret.py`).
    """
    wanted = sorted({(min(pair), max(pair)) for pair in (all_pairs(space) if pairs is None else pairs)})
    wanted = sorted(set(wanted) & set(all_pairs(space)))
    options = _ranked(wanted, sensitivities)[: None if allowance is None else max(0, allowance)]
    values = {(i, j): np.full((len(sensitivities.losses[i]), len(sensitivities.losses[j])), np.nan) for i, j in wanted}
    errors = {pair: table.copy() for pair, table in values.items()}
    if options:
        found = measure(_genomes(space, options))
        for (pair, (a, b)), loss in zip(options, found.losses, strict=True):
            i, j = pair
            values[pair][a, b] = loss - sensitivities.base - sensitivities.losses[i][a] - sensitivities.losses[j][b]
            errors[pair][a, b] = _standard_error(
                sensitivities.standard_errors[i][a], sensitivities.standard_errors[j][b]
            )
    known = {pair: np.isfinite(table) for pair, table in values.items()}
    scales = _scales(sensitivities)
    filled = {
        (i, j): _filled_in(table, np.outer(scales[i], scales[j]) * fill)
        for (i, j), table in values.items()
        if known[i, j].any()
    }
    kept_errors = {pair: np.where(known[pair], errors[pair], np.nan) for pair in filled}
    if shrinkage is None:
        shrinkage = chosen_shrinkage(
            np.concatenate([np.zeros(0), *(filled[pair][known[pair]] for pair in filled)]),
            np.concatenate([np.zeros(0), *(errors[pair][known[pair]] for pair in filled)]),
        )
    return InteractionTable(filled, kept_errors, shrinkage, len(options))


def chosen_shrinkage(interactions: FloatVector, standard_errors: FloatVector) -> float:
    """The factor that minimizes the expected squared error of ``(n,)`` interactions that are measured with noise.

    Their mean square is that of the true ones plus that of the noise, so the factor is one minus the share of the noise
    (empirical Bayes with a prior around 0; Efron & Morris 1973, JASA 68).

    >>> chosen_shrinkage(np.array([0.2, -0.2]), np.array([0.1, 0.1])).__round__(2)
    0.75
    """
    known = np.isfinite(standard_errors)
    square = np.mean(interactions[known] ** 2) if known.any() else 0.0
    if square == 0:
        return UNKNOWN_ERRORS_SHRINKAGE
    return float(np.clip(1 - np.mean(standard_errors[known] ** 2) / square, 0.0, 1.0))


def limited(interactions: InteractionTable, most: int) -> InteractionTable:
    """The same without the weakest pairs, so that the tables of those that stay have at most ``most`` entries.

    A pair is as strong as its interactions differ; of equal ones the first stay.
    """
    ordered = sorted(interactions.pairs, key=lambda pair: -float(np.ptp(interactions.pairs[pair])))
    sizes = np.cumsum([interactions.pairs[pair].size for pair in ordered])
    kept = set(ordered[: int(np.searchsorted(sizes, most, side="right"))])
    return replace(interactions, pairs={pair: table for pair, table in interactions.pairs.items() if pair in kept})


def quadratic(
    space: SearchSpace, sensitivities: OptionTable, interactions: InteractionTable, *, psd: bool = False
) -> FactoredFunction:
    """The pairwise model: the additive one and the shrunk interactions of all pairs of active genes.

    A gene inside of blocks counts only where one of them is kept, see `additive`.

    Args:
        space: of the genes.
        sensitivities: what options cost alone.
        interactions: what pairs cost beyond that.
        psd: whether the negative eigenvalues of the matrix of all options are set to 0, as CLADO does for its solver.
    """
    if psd:
        sensitivities, interactions = projected(sensitivities, interactions)
    factors = [
        _factor(space, pair, interactions.shrinkage * table)
        for pair, table in interactions.pairs.items()
        if interactions.shrinkage > 0 and np.any(table)
    ]
    return FactoredFunction((*additive(space, sensitivities).factors, *factors))


def option_matrix(sensitivities: OptionTable, interactions: InteractionTable) -> FloatMatrix:
    """``(n_options, n_options)`` matrix M, for which ``x @ M @ x / 2`` is the loss of the options ``x`` over the base.

    The options of all genes one after another: twice the sensitivities on the diagonal, shrunk interactions beside it,
    0 between options of one gene.
    """
    ends = np.cumsum([len(row) for row in sensitivities.losses])
    starts = [0, *ends[:-1]]
    matrix = np.diag(2 * np.concatenate(sensitivities.losses))
    for (i, j), table in interactions.pairs.items():
        rows, columns = slice(starts[i], ends[i]), slice(starts[j], ends[j])
        matrix[rows, columns] = interactions.shrinkage * table
        matrix[columns, rows] = interactions.shrinkage * table.T
    return matrix


def projected(sensitivities: OptionTable, interactions: InteractionTable) -> tuple[OptionTable, InteractionTable]:
    """Both tables after the nearest positive semidefinite matrix of all options, with a shrinkage of 1.

    It moves the sensitivities, too, and lets pairs interact that did not. What it puts between options of one gene is
    left out, as only one of them is chosen.
    """
    values, vectors = np.linalg.eigh(option_matrix(sensitivities, interactions))
    matrix = (vectors * np.maximum(values, 0.0)) @ vectors.T
    ends = np.cumsum([len(row) for row in sensitivities.losses])
    losses = tuple(np.split(np.diag(matrix) / 2, ends[:-1]))
    blocks = [np.split(rows, ends[:-1], axis=1) for rows in np.split(matrix, ends[:-1])]
    pairs = {(i, j): blocks[i][j] for i, j in itertools.combinations(range(len(ends)), 2)}
    unknown = {pair: np.full(table.shape, np.nan) for pair, table in pairs.items()}
    return replace(sensitivities, losses=losses), InteractionTable(pairs, unknown, 1.0, interactions.n_measurements)


def _ranked(pairs: Sequence[GenePair], sensitivities: OptionTable) -> list[tuple[GenePair, tuple[int, int]]]:
    """Pairs of genes with pairs of their options, the most worth measuring first."""
    worth = [_worth(errors) for errors in sensitivities.standard_errors]
    scales = _scales(sensitivities)
    found = [
        (bool(a or b), -float(scales[i][a] * scales[j][b]), (i, j), (int(a), int(b)))
        for i, j in pairs
        for a in np.flatnonzero(worth[i])
        for b in np.flatnonzero(worth[j])
    ]
    return [(pair, options) for *_, pair, options in sorted(found)]


def _worth(errors: FloatVector) -> BoolVector:
    """``(cardinality,)`` which options are measured in pairs: not the last, and none that was filled in."""
    measured: BoolVector = np.isfinite(errors) if np.isfinite(errors[:-1]).any() else np.ones(len(errors), dtype=bool)
    measured[-1] = False
    return measured


def _standard_error(first: float, second: float) -> float:
    """Standard error of an interaction, by those of the two options alone.

    The four losses of an interaction are of the same samples and rise and fall together: their squared errors added up
    are 3 to 5 times too much. On each sample the interaction is an inner product of two errors, up to twice the root
    of both losses, of any sign, so that its variance goes with the product of these. On one digits_mlp, with two
    quantizers, the geometric mean of both errors was 0.92 and 1.11 times (medians) the error by values per sample, and
    the shrinkage 0.57 instead of 0.59, and 0.25 instead of 0.16.
    """
    return math.sqrt(first * second)


def _scales(sensitivities: OptionTable) -> list[FloatVector]:
    """Square roots of the sensitivities, as errors of a quadratic loss; 0 where an option is a gain."""
    return [np.sqrt(np.maximum(losses, 0.0)) for losses in sensitivities.losses]


def _genomes(space: SearchSpace, options: Sequence[tuple[GenePair, tuple[int, int]]]) -> Genomes:
    rows = np.tile(space.most_expensive(), (len(options), 1))
    for row, (pair, chosen) in zip(rows, options, strict=True):
        row[list(pair)] = chosen
    return space.canonical(rows)


def _filled_in(table: FloatMatrix, scale: FloatMatrix) -> FloatMatrix:
    """Interactions, those that are NaN by one correlation for the whole pair; least squares of the known ones.

    Args:
        table: interactions of a pair of genes.
        scale: half of what each could be at most, by the sensitivities.
    """
    known = np.isfinite(table)
    square = np.sum(scale[known] ** 2)
    correlation = np.clip(np.sum(scale[known] * table[known]) / square, -2.0, 2.0) if square > 0 else 0.0
    filled: FloatMatrix = np.where(known, table, correlation * scale)
    filled[-1], filled[:, -1] = 0.0, 0.0
    return filled


def _factor(space: SearchSpace, pair: GenePair, table: npt.NDArray[np.float64]) -> Factor:
    """A pair's interactions, as a function of its genes and of the blocks that they need."""
    needs = [space.homes[gene] - {gene} for gene in pair]
    scope = sorted({*pair, *needs[0], *needs[1]})
    shape = [space.genes[gene].cardinality for gene in scope]
    if math.prod(shape) > LARGEST_TABLE:
        return Factor((), np.array(0.0))  # shared by the layers of very many blocks
    values = np.broadcast_to(
        table.reshape([space.genes[gene].cardinality if gene in pair else 1 for gene in scope]), shape
    ).copy()
    for blocks in needs:
        if blocks:
            values[tuple(0 if gene in blocks else slice(None) for gene in scope)] = 0.0
    return Factor(tuple(scope), values)


__all__ = [
    "GenePair",
    "InteractionTable",
    "all_pairs",
    "chosen_shrinkage",
    "limited",
    "measured_interactions",
    "module_blocks",
    "option_matrix",
    "pairs_within",
    "projected",
    "quadratic",
    "strongest_pairs",
    "worthwhile_pairs",
]
